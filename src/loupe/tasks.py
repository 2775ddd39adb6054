"""What a training is given, where it stands, and what an epoch told: plain shapes.

It must not train.

Shapes: N rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from loupe.choices import Loss
from loupe.data import Rows, Samples
from loupe.features import Features
from loupe.networks import Net
from loupe.recipe import Recipe

TaskLoss = Callable[[Any, Tensor, Tensor | None], Tensor]
"""Of what a network gives, targets and row weights or None; gives the mean loss."""
Measure = Callable[[Net, Samples, Rows, TaskLoss, Tensor | None], dict[str, float]]
"""Of a network, samples, rows, the loss and features or None; gives every metric."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """What a network is to learn: labels, or masks.

    Attributes:
        metrics: Names of what `measure` gives.
        build_loss: Of the loss of a stage, or None for the recipe's.
        measure: Every metric of some rows, as they are; empty for no rows.
    """

    metrics: tuple[str, ...]
    build_loss: Callable[[Loss | None], TaskLoss]
    measure: Measure


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What one member is to learn from.

    Attributes:
        recipe: How.
        samples: All rows of the table; only `rows` and `watched` are read.
        rows: Row numbers to train on.
        watched: Row numbers that early stopping, checkpoint and plateau watch; empty
            if nothing is watched.
        inner: Row numbers, a part of `rows`, on which `l2: auto` is judged.
        classes: Names of the columns.
        exclusive: Softmax or sigmoids.
        features: Features of the frozen backbone for a head stage.
        sizes: Samples of each stage that has an input size of its own, by its number.
        aim: Loss and metrics.
        device: torch device name.
        loaders: Threads that make batches.
    """

    recipe: Recipe
    samples: Samples
    rows: Rows
    watched: Rows
    inner: Rows
    classes: tuple[str, ...]
    exclusive: bool
    features: Features | None
    sizes: Mapping[int, Samples] = field(default_factory=dict)
    aim: Aim
    device: str
    loaders: int = 1


@dataclass(slots=True)
class Progress:
    """Where training stands; with the weights, all that continuing needs.

    Attributes:
        stage: Number of the stage under way.
        epoch: Finished epochs of that stage.
        total_epochs: Finished epochs of all stages; seeds order and transforms.
        optimizer: State of the optimizer; None at the start of a stage.
        average: State of the moving average; None without one.
        scaler: State of the loss scaler of half precision; None without one.
        control: State of `Control`; None at the start of a stage.
    """

    stage: int = 0
    epoch: int = 0
    total_epochs: int = 0
    optimizer: dict[str, Any] | None = None
    average: dict[str, Any] | None = None
    scaler: dict[str, Any] | None = None
    control: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Epoch:
    """One line of the history.

    Attributes:
        stage: Number of the stage.
        epoch: Of that stage, from 1; 0 for a head that was solved.
        loss: Mean over the steps.
        lr: Rate of the last step.
        watched: Metrics of the watched rows; empty if nothing is watched.
        trained: Metrics of the training rows without augmentation; empty if not asked.
        notes: What else is to be told.
    """

    stage: int
    epoch: int
    loss: float
    lr: float
    watched: dict[str, float] = field(default_factory=dict)
    trained: dict[str, float] = field(default_factory=dict)
    notes: dict[str, float] = field(default_factory=dict)
