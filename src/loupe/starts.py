"""Which trained weights a run goes on from, fold by fold (`init_from`).

A fold starts only from weights that never saw the rows it holds out. It must not
load weights or build networks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import numpy as np

from loupe.errors import LeakageError, RecipeError, RunError, shorten
from loupe.runs import REFIT, Fold, Member, Run, open_run
from loupe.table import HOLDOUT, Table


def open_start(recipe_start: str, member: str) -> tuple[Run, Member]:
    """Open the run that `init_from` names, and its member to go on from.

    Args:
        recipe_start: Folder of a finished run.
        member: Of the run that is made; the same name is taken, or the only one.

    Raises:
        RunError: it is no finished run.
        RecipeError: it has several members and none of that name.
    """
    run = open_run(recipe_start)
    if not run.finished:
        raise RunError(
            f"init_from: {recipe_start} is not finished; run its 'loupe train' command again first."
        )
    if member not in run.members and len(run.members) > 1:
        raise RecipeError(
            f"init_from: {recipe_start} has the members {', '.join(run.members)}, none of them "
            f"{member!r}; name the recipe file like the member it goes on from."
        )
    return run, run.member(member if member in run.members else run.members[0])


def digest_start(recipe_start: str, member: str) -> str:
    """Return 16 hex digits over the weights that `init_from` names.

    Args:
        recipe_start: Folder of a finished run.
        member: Of the run that is made.
    """
    run, other = open_start(recipe_start, member)
    hasher = hashlib.blake2b(json.dumps(run.manifest(), sort_keys=True).encode(), digest_size=8)
    for number in run.folds:
        with other.fold(number).weights.open("rb") as stream:
            hasher.update(hashlib.file_digest(stream, "sha256").digest())
    return hasher.hexdigest()


def match_folds(
    table: Table, folds: tuple[int, ...], recipe_start: str, member: str
) -> Mapping[int, Fold]:
    """Find, for each fold, weights that never saw what it holds out.

    Args:
        table: With folds.
        folds: Numbers of the folds of the run that is made; `REFIT` holds out nothing.
        recipe_start: Folder of a finished run.
        member: Of the run that is made.

    Returns:
        Fold number to the files of the fold to start from.

    Raises:
        LeakageError: rows that a fold holds out were trained on in every fold.
        RecipeError: the classes differ, or a refit run goes on from folds.
    """
    run, other = open_start(recipe_start, member)
    before = run.table()
    if before.classes != table.classes or before.exclusive != table.exclusive:
        raise RecipeError(
            f"init_from: {recipe_start} was trained on the classes {shorten(before.classes)}; "
            f"this table has {shorten(table.classes)}. Expected the same, in the same order."
        )
    if folds == (REFIT,):
        return _match_refit(run, other, recipe_start)
    seen = _folds_by_id(before)
    return {number: _match(number, table, seen, run, other, recipe_start) for number in folds}


def _match_refit(run: Run, other: Member, recipe_start: str) -> Mapping[int, Fold]:
    if run.folds != (REFIT,):
        raise RecipeError(
            f"--refit: the recipe goes on from {recipe_start}, which has a network for each fold. "
            f"Refit that run first, then add --set init_from=ITS_REFIT."
        )
    return {REFIT: other.fold(REFIT)}


def _folds_by_id(table: Table) -> dict[str, int]:
    folds = np.zeros(len(table), np.int16) if table.folds is None else table.folds
    return {name: int(fold) for name, fold in zip(table.ids, folds, strict=True)}


def _match(
    number: int,
    table: Table,
    seen: Mapping[str, int],
    run: Run,
    other: Member,
    recipe_start: str,
) -> Fold:
    if table.folds is None:
        raise LeakageError("the table has no folds.")
    held = [name for name, fold in zip(table.ids, table.folds, strict=True) if fold == number]
    there = {seen[name] for name in held if name in seen} - {HOLDOUT}
    if not there and number in run.folds:
        return other.fold(number)
    usable = [fold for fold in run.folds if fold >= 0 and there <= {fold}]
    if not usable:
        raise LeakageError(
            f"init_from: the rows that fold {number} holds out were trained on in every network "
            f"of {recipe_start} (there they lie in folds {sorted(there)}). Train with the same "
            f"folds: a table that 'loupe split' wrote, for both runs."
        )
    return other.fold(usable[0])
