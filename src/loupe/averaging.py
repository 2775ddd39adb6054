"""Averages of weights: moving along the steps, and over the best epochs.

Works on any network. It must not know recipes, or how networks are built.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Net = TypeVar("Net", bound=nn.Module)


class MovingAverage(Generic[Net]):
    """The exponential moving average of a network's weights (EMA).

    The decay is warmed up as min(decay, (1 + step) / (10 + step)), so that the
    start weights are soon forgotten.

    Args:
        network: Followed from its present weights.
        decay: Per step, in [0, 1); 0 follows the network itself.

    References:
        TensorFlow's ExponentialMovingAverage (num_updates) for the warm-up.
    """

    def __init__(self, network: Net, decay: float) -> None:
        # What is frozen does not move; an average of it would cost as much as the rest.
        still = {n for n, p in network.named_parameters() if not p.requires_grad}
        self.moving = [n for n in network.state_dict() if n not in still]
        self.decay = decay
        self.step = 0
        self.network: Net = copy.deepcopy(network).eval()
        self.network.requires_grad_(requires_grad=False)

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move the average towards the network's present weights."""
        self.step += 1
        keep = min(self.decay, (1 + self.step) / (10 + self.step)) if self.decay else 0.0
        mine, theirs = self.network.state_dict(), network.state_dict()
        floats = [k for k in self.moving if mine[k].dtype.is_floating_point]
        torch._foreach_lerp_([mine[k] for k in floats], [theirs[k] for k in floats], 1 - keep)
        for key in set(self.moving) - set(floats):
            mine[key].copy_(theirs[key])


def average_states(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of several states of one network, weight by weight.

    Args:
        states: Of the epochs to be averaged, the best one first; with the same keys
            and shapes.

    Returns:
        A new state: the mean of floating-point tensors, summed in float64; anything
        else (counters of batches) is the first state's.

    Raises:
        ValueError: there are no states, or their keys differ.

    Examples:
        >>> found = average_states([{"w": torch.tensor([1.0])}, {"w": torch.tensor([4.0])}])
        >>> found["w"]
        tensor([2.5000])
    """
    if not states:
        raise ValueError("no states to average")
    if any(state.keys() != states[0].keys() for state in states):
        raise ValueError("states of different networks cannot be averaged")
    return {key: _average([state[key] for state in states]) for key in states[0]}


def _average(values: Sequence[Tensor]) -> Tensor:
    if not values[0].dtype.is_floating_point:
        return values[0].clone()
    total = torch.zeros_like(values[0], dtype=torch.float64)
    for value in values:
        total += value
    return (total / len(values)).to(values[0].dtype)
