"""What the watched metrics of an epoch lead to: a lower rate, the best weights, an end.

The state is plain values, so that it can be saved with the weights and continued.
It must not compute a metric or know where watched rows come from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from loupe.averaging import average_states
from loupe.choices import Plateau, Schedule
from loupe.recipe import Recipe
from loupe.schedules import Standing, follow
from loupe.settings import Checkpoint
from loupe.watching import improves, lower_is_better

Weights = dict[str, Tensor]


@dataclass(slots=True)
class Control:
    """Where one stage stands.

    Attributes:
        best: Best value of the metric of early stopping so far.
        stale: Epochs since then.
        standing: What a plateau schedule has seen.
        kept: Value and weights of the best epochs, best first.
    """

    best: float | None = None
    stale: int = 0
    standing: Standing = field(default_factory=lambda: Standing(None, 0, 0, 1.0))
    kept: list[tuple[float, Weights]] = field(default_factory=list)

    def state(self) -> dict[str, Any]:
        """Return plain values and tensors, for saving."""
        standing = self.standing
        plain = (standing.best, standing.stale, standing.cooldown, standing.factor)
        return {"best": self.best, "stale": self.stale, "standing": plain, "kept": self.kept}

    @classmethod
    def restore(cls, state: Mapping[str, Any]) -> Control:
        """Return what `state` was taken from."""
        kept = [(float(value), weights) for value, weights in state["kept"]]
        return cls(state["best"], state["stale"], Standing(*state["standing"]), kept)


def checkpoint_of(recipe: Recipe) -> Checkpoint | None:
    """Return which weights a stage ends with; early stopping implies its best epoch."""
    if recipe.checkpoint is None and recipe.early_stop is not None:
        return Checkpoint(metric=recipe.early_stop.metric)
    return recipe.checkpoint


def react(
    control: Control,
    recipe: Recipe,
    schedule: Schedule,
    values: Mapping[str, float],
    weights: Mapping[str, Tensor],
) -> None:
    """Take in the watched metrics of one epoch.

    Args:
        control: Changed in place.
        recipe: Early stop and checkpoint.
        schedule: Of the stage.
        values: Watched metrics by name.
        weights: Of this epoch; copied if they are among the best.
    """
    stop = recipe.early_stop
    if stop is not None:
        better = improves(stop.metric, values[stop.metric], control.best, min_delta=stop.min_delta)
        control.best = values[stop.metric] if better else control.best
        control.stale = 0 if better else control.stale + 1
    if isinstance(schedule, Plateau):
        lower = lower_is_better(schedule.metric)
        control.standing = follow(
            schedule, control.standing, values[schedule.metric], lower_is_better=lower
        )
    keep = checkpoint_of(recipe)
    if keep is not None:
        _keep(control, keep, values[keep.metric], weights)


def gave_up(control: Control, recipe: Recipe) -> bool:
    """Return True if the stage has gone without improvement for too long."""
    return recipe.early_stop is not None and control.stale >= recipe.early_stop.patience


def best_weights(control: Control) -> Weights | None:
    """Return the mean of the weights kept; None if the last ones are to be used."""
    return average_states([weights for _, weights in control.kept]) if control.kept else None


def _keep(
    control: Control, checkpoint: Checkpoint, value: float, weights: Mapping[str, Tensor]
) -> None:
    """Insert an epoch before the first that it beats; of equal ones the earlier is better."""
    worse = (
        place
        for place, (kept, _) in enumerate(control.kept)
        if improves(checkpoint.metric, value, kept)
    )
    place = next(worse, len(control.kept))
    undefined = not improves(checkpoint.metric, value, None)
    if place < checkpoint.average and not undefined:
        copied = {name: tensor.detach().clone() for name, tensor in weights.items()}
        control.kept.insert(place, (value, copied))
        del control.kept[checkpoint.average :]
