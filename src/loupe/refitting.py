"""A refit: the recipes of a cross-validated run, trained once more on all its rows.

Nothing is held out and nothing is watched, so what the folds found out (how many
epochs, at which rates) is written into the recipe. It must not train.
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from loupe.choices import Constant, Listed, Plateau
from loupe.control import checkpoint_of
from loupe.errors import RecipeError, RunError, shorten
from loupe.recipe import Recipe
from loupe.runs import Member, Run, open_run
from loupe.settings import Stage, Start
from loupe.starts import row_keys
from loupe.table import ALWAYS_TRAINED, HOLDOUT, Table
from loupe.watching import improves

History = list[dict[str, str]]

_OF_SOURCE = tuple(
    f"masks.{name}" for name in ("size", "cut", "thresholds", "min_components", "fill_holes")
)


def open_source(refit: str | Path) -> Run:
    """Open the cross-validated run that a refit follows.

    Args:
        refit: Its folder.

    Raises:
        RunError: it is not finished, or a refit itself.
    """
    source = open_run(refit)
    if source.refit or not source.finished:
        why = "is itself a refit" if source.refit else "is not finished"
        raise RunError(f"--refit: {refit} {why}; expected a finished cross-validated run.")
    return source


def take_recipes(source: Run) -> dict[str, Recipe]:
    """Return the recipes of all members, with what their folds found out filled in.

    Args:
        source: The cross-validated run.
    """
    return {name: _settle(source, source.member(name)) for name in source.members}


def join_rows(table: Table, source: Run) -> Table:
    """Give all rows to training, but the hold-out of the cross-validated run.

    Args:
        table: Of the refit; rows it marks as hold-out are left out as well.
        source: The cross-validated run.

    Raises:
        RunError: the classes differ.
    """
    before = source.table()
    if before.classes != table.classes or before.exclusive != table.exclusive:
        raise RunError(
            f"--refit: {source.folder} has the classes {shorten(before.classes)}; the table has "
            f"{shorten(table.classes)}. Expected the same, in the same order."
        )
    rows = {key: row for row in range(len(before)) for key in row_keys(before, row)}
    known = [
        next((rows[key] for key in row_keys(table, row) if key in rows), None)
        for row in range(len(table))
    ]
    folds = np.zeros(len(before), np.int16) if before.folds is None else before.folds
    mine = np.zeros(len(table), np.int16) if table.folds is None else table.folds
    joined = [
        HOLDOUT
        if fold == HOLDOUT or (row is not None and folds[row] == HOLDOUT)
        else ALWAYS_TRAINED
        for row, fold in zip(known, mine, strict=True)
    ]
    groups = table.groups
    if groups is None and before.groups is not None:
        groups = tuple(
            name if row is None else before.groups[row]
            for name, row in zip(table.ids, known, strict=True)
        )
    return replace(table, folds=np.array(joined, np.int16), groups=groups)


def check_kept(source: Run, overrides: Sequence[str]) -> None:
    """Refuse changes that a refit run could not act on: its cuts and scores are its source's.

    Args:
        source: The cross-validated run.
        overrides: `key=value` changes of its recipes.

    Raises:
        RecipeError: some say how maps are cut or scored.
    """
    idle = [text for text in overrides if text.partition("=")[0].strip() in _OF_SOURCE]
    if source.segments and idle:
        raise RecipeError(
            f"--refit takes cuts and scores from {source.folder}, so {' and '.join(idle)} would "
            "have no effect; leave it out, or train that run anew with it."
        )


def stamp_refit(source: Run, overrides: Sequence[str]) -> tuple[str, ...]:
    """Say wherever scores are shown that they are not this network's.

    Args:
        source: The cross-validated run; its own stamps are passed on.
        overrides: What was changed of its recipes.
    """
    inherited: list[str] = source.manifest()["stamps"]
    changed = f", before {' and '.join(overrides)}" if overrides else ""
    said = (
        f"REFIT: trained on all rows, nothing held out; scores are those of {source.folder.name}, "
        f"measured by cross-validation{changed}"
    )
    return (*inherited, said)


def _settle(source: Run, member: Member) -> Recipe:
    """Write the epochs and rates that the folds arrived at into a recipe."""
    recipe = member.recipe()
    # How the folds shared the cores does not matter here.
    engine = recipe.engine.model_copy(update={"threads": "auto"})
    recipe = recipe.model_copy(update={"engine": engine, "start": Start()})
    if not recipe.watched_metrics:
        return recipe
    histories = [_read_history(member.fold(number).history) for number in source.folds]
    stages = tuple(
        stage if stage.epochs is None else _settle_stage(recipe, number, stage, histories)
        for number, stage in enumerate(recipe.stages)
    )
    schedule = Constant() if isinstance(recipe.schedule, Plateau) else recipe.schedule
    nothing = {"early_stop": None, "checkpoint": None, "control_on": "inner"}
    settled = {"stages": stages, "schedule": schedule, **nothing}
    return recipe.model_copy(update=settled)


def _settle_stage(recipe: Recipe, number: int, stage: Stage, histories: Sequence[History]) -> Stage:
    """Stop a stage at the median of the best epochs; a plateau is replaced by its rates."""
    lines = [[line for line in lines if line["stage"] == str(number)] for lines in histories]
    if not all(lines):
        raise RecipeError(f"the history of stage {number} is missing; train the run again.")
    stop = statistics.median_low([_best_epoch(recipe, found) for found in lines])
    if not isinstance(stage.schedule or recipe.schedule, Plateau):
        return stage.model_copy(update={"stop_after": stop})
    # One rate an epoch, so the last step's is the epoch's.
    rates = [
        statistics.median([float(found[epoch]["lr"]) for found in lines if epoch < len(found)])
        for epoch in range(stop)
    ]
    return stage.model_copy(update={"stop_after": stop, "schedule": Listed(rates=tuple(rates))})


def _best_epoch(recipe: Recipe, lines: History) -> int:
    """Return the epoch, from 1, whose weights a fold kept; its last without a choice."""
    checkpoint = checkpoint_of(recipe)
    if checkpoint is None:
        return len(lines)
    best, place = None, len(lines)
    for epoch, line in enumerate(lines, start=1):
        value = float(line[f"val/{checkpoint.metric}"] or "nan")
        if improves(checkpoint.metric, value, best):
            best, place = value, epoch
    return place


def _read_history(path: Path) -> History:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def check_unwatched(recipes: Mapping[str, Recipe]) -> None:
    """Refuse changes that would set rows of a refit aside again.

    Args:
        recipes: Of the refit, changes applied.

    Raises:
        RecipeError: something is to be watched.
    """
    if any(recipe.watched_metrics for recipe in recipes.values()):
        raise RecipeError(
            "--refit trains on all rows, so nothing can be watched; leave out --set of early_stop, "
            "checkpoint and a plateau."
        )


def check_alone(recipes: Mapping[str, Recipe] | Sequence[object]) -> None:
    """Refuse recipes beside a refit: its scores would be those of others.

    Args:
        recipes: As given to `train`.

    Raises:
        RecipeError: there are any.
    """
    if recipes:
        raise RecipeError(
            "--refit takes the recipes of the run it follows; leave out the recipe files (--set "
            "changes single fields, and the scores then say so)."
        )
