"""The learning rate of every step, and what a plateau schedule has seen.

Owns the formulas of the schedules in `choices`: plain numbers in, a number out, so
that a run continued in the middle has the same rates. It must not import torch or
hold state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from loupe.choices import Constant, Cosine, Listed, OneCycle, Plateau, Ramp, Schedule


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a plateau schedule stands after an epoch.

    Attributes:
        best: Best value of the metric so far; None before the first.
        stale: Epochs counted since then, or since the last change of rate.
        cooldown: Epochs left in which none is counted.
        factor: The rate as a share of the stage's.
    """

    best: float | None
    stale: int
    cooldown: int
    factor: float


def rate_at(
    schedule: Schedule,
    lr: float,
    *,
    step: int,
    steps_per_epoch: int,
    epochs: int,
    standing: Standing | None = None,
) -> float:
    """Return the learning rate of a step.

    * `cosine`: linear warm-up over the first `warmup` of the steps (the first step
      already moves), then half a cosine from `lr` to `floor x lr`. Without warm-up
      it is Keras' `CosineDecay` with alpha = floor.
    * `constant`: the same warm-up, then `lr`.
    * `ramp`: one rate for each epoch; from `start_lr` in a straight line to the peak
      `factor x lr`, then `min_lr` plus what is above it times `decay` per epoch.
    * `one_cycle`: torch's `OneCycleLR` with cosine annealing, the rate alone (the
      momentum stays as it is).
    * `plateau`: `lr` times the factor of `standing`, down to `min_lr`; a peak below
      that stays as it is.

    Args:
        schedule: Which curve.
        lr: Peak rate of the stage.
        step: From 0 within the stage.
        steps_per_epoch: Steps of one epoch, at least 1.
        epochs: Epochs of the stage, at least 1.
        standing: What a plateau schedule has seen, from `follow`; None before the
            first epoch ends. The other schedules pass over it.

    References:
        Loshchilov & Hutter (2017), SGDR, arXiv:1608.03983, eq. 5 (no restarts).
        Smith & Topin (2018), Super-Convergence, arXiv:1708.07120.

    Examples:
        >>> half = Cosine(warmup=0.5)
        >>> [round(rate_at(half, 1.0, step=s, steps_per_epoch=2, epochs=2), 3) for s in range(4)]
        [0.5, 1.0, 1.0, 0.5]
        >>> rate_at(Ramp(factor=8), 5e-5, step=5, steps_per_epoch=1, epochs=50)
        0.0004
    """
    steps = steps_per_epoch * epochs
    match schedule:
        case Cosine():
            return lr * _cosine(schedule, step, steps)
        case Constant():
            return lr * _warm_up(step, int(schedule.warmup * steps))
        case Ramp():
            return _ramp(schedule, lr, step // steps_per_epoch)
        case OneCycle():
            return _one_cycle(schedule, lr, step, steps)
        case Plateau():
            factor = standing.factor if standing else 1.0
            return min(lr, max(lr * factor, schedule.min_lr))
        case Listed():
            return schedule.rates[min(step // steps_per_epoch, len(schedule.rates) - 1)]


def follow(
    schedule: Plateau, standing: Standing, value: float, *, lower_is_better: bool
) -> Standing:
    """Take in the metric of one more epoch.

    An epoch improves if it beats the best one by more than `min_delta`; NaN never
    does. After `patience` epochs without improvement the next one lowers the rate;
    then `cooldown` epochs are not counted. This is torch's `ReduceLROnPlateau` with
    an absolute threshold. Keras' callback of that name counts one less of both: its
    patience p lowers the rate at the p-th epoch without improvement, and of its
    cooldown c the last epoch is counted. What is p and c there is p - 1 and c - 1
    here (0 stays 0).

    Args:
        schedule: Patience, cooldown, factor and least change.
        standing: After the epoch before; ``Standing(None, 0, 0, 1.0)`` at the start.
        value: The watched metric of this epoch.
        lower_is_better: True for a loss.

    Examples:
        >>> standing = Standing(None, 0, 0, 1.0)
        >>> for loss in (0.9, 0.8, 0.8, 0.8):
        ...     standing = follow(Plateau(patience=1), standing, loss, lower_is_better=True)
        >>> standing
        Standing(best=0.8, stale=0, cooldown=0, factor=0.5)
    """
    better = _improves(value, standing.best, schedule.min_delta, lower_is_better=lower_is_better)
    best = value if better else standing.best
    if standing.cooldown:
        return Standing(best, 0, standing.cooldown - 1, standing.factor)
    stale = 0 if better else standing.stale + 1
    if stale > schedule.patience:
        return Standing(best, 0, schedule.cooldown, standing.factor * schedule.factor)
    return Standing(best, stale, 0, standing.factor)


def _improves(value: float, best: float | None, min_delta: float, *, lower_is_better: bool) -> bool:
    if lower_is_better:
        return value < (math.inf if best is None else best) - min_delta
    return value > (-math.inf if best is None else best) + min_delta


def _warm_up(step: int, warm: int) -> float:
    return (step + 1) / warm if step < warm else 1.0


def _cosine(schedule: Cosine, step: int, steps: int) -> float:
    warm = int(schedule.warmup * steps)
    if step < warm:
        return _warm_up(step, warm)
    progress = (step - warm) / max(1, steps - warm)
    return schedule.floor + (1 - schedule.floor) * 0.5 * (1 + math.cos(math.pi * progress))


def _ramp(schedule: Ramp, lr: float, epoch: int) -> float:
    peak = lr * schedule.factor
    if epoch < schedule.ramp_epochs:
        return (peak - schedule.start_lr) / schedule.ramp_epochs * epoch + schedule.start_lr
    decaying = epoch - schedule.ramp_epochs - schedule.sustain_epochs
    if decaying < 0:
        return peak
    return (peak - schedule.min_lr) * schedule.decay**decaying + schedule.min_lr


def _one_cycle(schedule: OneCycle, lr: float, step: int, steps: int) -> float:
    start = lr / schedule.start_divisor
    final = start / schedule.final_divisor
    # Where the peak lies as torch counts: between two steps, or before the first one.
    top = schedule.warmup * steps - 1
    if step <= top:
        return _anneal(start, lr, step / top if top else 1.0)
    return _anneal(lr, final, (step - top) / (steps - 1 - top))


def _anneal(start: float, end: float, share: float) -> float:
    """Half a cosine from `start` to `end`."""
    return end + (start - end) / 2 * (math.cos(math.pi * share) + 1)
