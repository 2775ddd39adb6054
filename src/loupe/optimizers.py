"""What moves the weights: the optimizer of a stage, its rates, clipped gradients.

Owns which parameters are decayed, and how each one's rate relates to the stage's. It
must not know schedules, or loop over steps.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from timm.models._manipulate import group_with_matcher
from torch import nn

from loupe.choices import Adam, AdamW, Optimizer, RAdam, Sgd
from loupe.errors import RecipeError
from loupe.networks import Net

_BACKBONE = "backbone."


def build_optimizer(
    settings: Optimizer,
    network: Net,
    *,
    lr: float,
    head_lr_factor: float = 1.0,
    layer_decay: float = 1.0,
) -> torch.optim.Optimizer:
    """Return the optimizer of one stage.

    Each parameter group carries `factor`, its rate as a multiple of the stage's, for
    `set_rate`. Biases, norms and what timm names so (position embeddings) are not
    decayed. Where write-ups made with other libraries differ:

    * Epsilon of `adam` and `adamw` is the epsilon of the paper's Algorithm 1, added
      to the bias-corrected root. Keras adds its own ("epsilon hat") to the raw root,
      which is larger by 1 / sqrt(1 - beta2^t) in our terms: 32 times at the first
      step, 1.26 times at step 1000, the same in the end. Keras' first steps are
      smaller where epsilon is large, such as 1e-3. `radam` adds it as Keras does, and
      so does `adam` with `epsilon_hat`, through `set_rate`.
    * `radam` starts to rectify when the approximated length of the average exceeds
      5, as its authors' code does; the paper says 4. With beta2 = 0.999 that is step
      6 in place of step 5.

    Args:
        settings: Kind and settings; `lr` is not read here.
        network: Its parameters that ask for gradients are moved.
        lr: Peak rate of the stage.
        head_lr_factor: Factor of all that comes after the backbone.
        layer_decay: Factor of a layer group of the backbone as a multiple of that of
            the next group towards the head, with the groups that timm makes.

    Raises:
        RecipeError: `layer_decay` is below 1, and timm has no layer groups for this
            network.

    References:
        Kingma & Ba (2015), Adam, arXiv:1412.6980, Algorithm 1, and the end of
        section 2 for epsilon hat.
        Liu et al. (2020), On the Variance of the Adaptive Learning Rate and Beyond,
        arXiv:1908.03265, Algorithm 2.
        Bao et al. (2022), BEiT, arXiv:2106.08254, appendix, for layer-wise decay.
    """
    spared = _undecayed(network)
    distances = _layer_distances(network) if layer_decay < 1 else {}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        inside = name.startswith(_BACKBONE)
        factor = layer_decay ** distances.get(name, 0) if inside else head_lr_factor
        decay = 0.0 if name in spared else settings.weight_decay
        groups.setdefault((factor, decay), []).append(parameter)
    return _create(
        settings,
        lr,
        [
            {"params": held, "lr": lr * factor, "weight_decay": decay, "factor": factor}
            for (factor, decay), held in groups.items()
        ],
    )


def set_rate(
    optimizer: torch.optim.Optimizer, settings: Optimizer, rate: float, *, step: int
) -> None:
    """Give every parameter group its rate, and Adam its epsilon hat, for the next step.

    Args:
        optimizer: From `build_optimizer`.
        settings: Its `lr_decay` divides the rate by 1 + lr_decay x step, as Keras'
            `decay` does. With `epsilon_hat` the epsilon of a step is
            epsilon / sqrt(1 - beta2^t), t being step + 1.
        rate: Of the stage, from its schedule.
        step: Steps done in the stage; also those the optimizer has done.

    References:
        Kingma & Ba (2015), Adam, arXiv:1412.6980, end of section 2, for `epsilon_hat`.
    """
    shrunk = rate / (1 + settings.lr_decay * step)
    for group in optimizer.param_groups:
        group["lr"] = shrunk * group["factor"]
        if isinstance(settings, Adam) and settings.epsilon_hat:
            # sqrt(v / (1 - b^t)) + e / sqrt(1 - b^t) = (sqrt(v) + e) / sqrt(1 - b^t)
            corrected = 1 - settings.betas[1] ** (step + 1)
            group["eps"] = settings.epsilon / math.sqrt(corrected)


@torch.no_grad()
def clip_gradients(settings: Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """Limit the gradients in place: each value, then each tensor, then all of them.

    Gradients of a loss scaled for half precision must be unscaled first.

    Args:
        settings: `clip_value`, `clip_norm_each` and `clip_norm`, each only if set.
        parameters: Those without a gradient are passed over.
    """
    moved = [parameter for parameter in parameters if parameter.grad is not None]
    if not moved:
        return
    if settings.clip_value is not None:
        nn.utils.clip_grad_value_(moved, settings.clip_value)
    if settings.clip_norm_each is not None:
        _clip_each([p.grad for p in moved if p.grad is not None], settings.clip_norm_each)
    if settings.clip_norm is not None:
        nn.utils.clip_grad_norm_(moved, settings.clip_norm)


def _clip_each(gradients: list[torch.Tensor], limit: float) -> None:
    """Multiply each by limit / max(norm, limit), as TensorFlow's `clip_by_norm` does."""
    norms = torch.stack(torch._foreach_norm(gradients))  # noqa: SLF001 (no public name)
    torch._foreach_mul_(gradients, list((limit / norms.clamp_min(limit)).unbind()))


def _create(settings: Optimizer, lr: float, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    # Fused steps take a fifth of the time of torch's default on a CPU; RAdam has none.
    match settings:
        case AdamW():
            return torch.optim.AdamW(
                groups, lr, betas=settings.betas, eps=settings.epsilon, fused=True
            )
        case Adam():
            return torch.optim.Adam(
                groups, lr, betas=settings.betas, eps=settings.epsilon, fused=True
            )
        case RAdam():
            return torch.optim.RAdam(groups, lr, betas=settings.betas, eps=settings.epsilon)
        case Sgd():
            return torch.optim.SGD(
                groups, lr, momentum=settings.momentum, nesterov=settings.nesterov, fused=True
            )


def _undecayed(network: Net) -> set[str]:
    patterns: Iterable[str] = getattr(network.backbone, "no_weight_decay", tuple)()
    names = [name for name, _ in network.backbone.named_parameters()]
    named = {name for pattern in patterns for name in fnmatch.filter(names, pattern)}
    vectors = {name for name, value in network.named_parameters() if value.ndim <= 1}
    return vectors | {_BACKBONE + name for name in named}


def _layer_distances(network: Net) -> dict[str, int]:
    """Count, for each parameter of the backbone, the layer groups up to the head."""
    backbone: Any = network.backbone
    matcher = getattr(backbone, "group_matcher", None)
    if matcher is None:
        raise RecipeError(
            f"layer_decay is below 1, but timm has no layer groups for this network "
            f"({type(backbone).__name__}); leave layer_decay out, or choose another network."
        )
    # timm puts a last norm into the group of its classifier, which is not there any
    # more: its name takes part, so that the groups are those of the whole network.
    classifier = backbone.pretrained_cfg.get("classifier") or "head"
    head = classifier if isinstance(classifier, str) else classifier[0]
    named = chain(backbone.named_parameters(), [(f"{head}.weight", None)])
    groups = group_with_matcher(named, matcher(coarse=False), reverse=True)
    last = max(groups.values())
    return {_BACKBONE + name: last - group for name, group in groups.items()}
