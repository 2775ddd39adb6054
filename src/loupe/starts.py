"""Which trained weights a run goes on from, fold by fold (`init_from`), and what they saw.

A fold starts only from weights that never saw the rows it holds out. It must not
load weights or build networks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

import numpy as np

from loupe.errors import LeakageError, RecipeError, RunError, shorten
from loupe.runs import REFIT, Fold, Member, Run, open_run
from loupe.table import HOLDOUT, Table


def row_keys(table: Table, row: int) -> tuple[str, str]:
    """Return what an image is known by: its id, and its place, as tables may name it otherwise.

    Args:
        table: That names it.
        row: Its number.
    """
    return table.ids[row], str(table.images[row].resolve())


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
        LeakageError: rows that a fold holds out, or that are kept apart, or copies of
            them, went into every network of that run, or of those it went on from.
        RecipeError: the classes differ, or a refit run goes on from folds.
    """
    run, other = open_start(recipe_start, member)
    before = run.table()
    if before.classes != table.classes or before.exclusive != table.exclusive:
        raise RecipeError(
            f"init_from: {recipe_start} was trained on the classes {shorten(before.classes)}; "
            f"this table has {shorten(table.classes)}. Expected the same, in the same order."
        )
    if folds == (REFIT,) and not run.refit:
        raise RecipeError(
            f"--refit: the recipe goes on from {recipe_start}, which has a network for each fold. "
            "Refit that run first, then add --set init_from=ITS_REFIT."
        )
    return {number: _match(number, table, run, other, recipe_start) for number in folds}


def _match(number: int, table: Table, run: Run, other: Member, recipe_start: str) -> Fold:
    """Choose the weights of a fold: those of its own number, if they saw no row of it."""
    held = held_out_keys(table, number)
    spread = spread_keys(held, run.table())
    order = sorted(run.folds, key=lambda fold: (fold != number, fold))
    usable = [fold for fold in order if not seen_keys(run, other, fold) & spread]
    if usable:
        return other.fold(usable[0])
    if number == REFIT:
        raise LeakageError(
            f"--refit: every network of {recipe_start}, which the recipe goes on from, was trained "
            "on rows that are kept apart (hold-out). Refit that run on the same table first."
        )
    raise LeakageError(
        f"init_from: the rows that fold {number} holds out were trained on in every network of "
        f"{recipe_start}, or copies of them were. Train with the same folds: a table that 'loupe "
        "split' wrote, for both runs."
    )


def held_out_keys(table: Table, number: int) -> frozenset[str]:
    """Return the keys of the rows that a fold must not have seen: its own, and those kept apart.

    Args:
        table: With folds.
        number: Of the fold; `REFIT` holds out nothing.
    """
    folds = np.zeros(len(table), np.int16) if table.folds is None else table.folds
    apart = {HOLDOUT} if number == REFIT else {HOLDOUT, number}
    return _keys(table, np.flatnonzero(np.isin(folds, list(apart))))


def _keys(table: Table, rows: Iterable[int]) -> frozenset[str]:
    return frozenset(key for row in rows for key in row_keys(table, row))


def spread_keys(held: frozenset[str], before: Table) -> frozenset[str]:
    """Add the rows that an earlier table holds for copies of these.

    Args:
        held: From `held_out_keys`.
        before: The table of an earlier run.
    """
    if before.groups is None:
        return held
    rows = range(len(before))
    mine = {before.groups[row] for row in rows if _keys(before, [row]) & held}
    return held | _keys(before, [row for row in rows if before.groups[row] in mine])


def seen_keys(run: Run, member: Member, fold: int) -> frozenset[str]:
    """Return the keys of all rows that went into the weights of a fold, its start included.

    Args:
        run: Trained, no blend.
        member: Of the run.
        fold: Number of the fold.

    Raises:
        RunError: the run that it went on from is gone.
    """
    table = run.table()
    folds = np.zeros(len(table), np.int16) if table.folds is None else table.folds
    left = {HOLDOUT} if fold == REFIT else {HOLDOUT, fold}
    seen = _keys(table, np.flatnonzero(~np.isin(folds, list(left))))
    start = member.recipe().init_from
    if start is None:
        return seen
    earlier, theirs = open_start(start, member.name)
    files = match_folds(table, (fold,), start, member.name)[fold]
    number = next(k for k in earlier.folds if theirs.fold(k).folder == files.folder)
    return seen | seen_keys(earlier, theirs, number)
