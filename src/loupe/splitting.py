"""The verb `split`: copies into groups, groups into folds.

It must not decode images itself (that is `checking`) or decide which fold a
group gets (that is `folds`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loupe.checking import find_groups
from loupe.errors import InputError, LeakageError, TableError
from loupe.folds import Assignment, assign_folds, assign_holdout, assign_validation, check_leaks
from loupe.layouts import read_table
from loupe.progress import Reporter, Silent
from loupe.table import HOLDOUT, Float32, Int16, Table

LEAK_STAMP = (
    "LEAK: folds were made without grouping copies (--group none --allow-leak); "
    "scores of this split are optimistic wherever images repeat"
)


CROSSING_STAMP = (
    "LEAK: copies of images cross the folds that the table brought (--allow-leak); "
    "scores are optimistic"
)


def split(
    table: Table | str | Path,
    *,
    images: str | Path | None = None,
    folds: int = 5,
    validation: float | None = None,
    holdout: float | None = None,
    group: str = "auto",
    stratify: bool = True,
    shuffle: bool = True,
    seed: int = 0,
    allow_leak: bool = False,
    reporter: Reporter | None = None,
) -> Table:
    """Give every row a fold; copies of an image never cross folds.

    Args:
        table: What to split, or a file or folder that `read_table` reads.
        images: Folder of the images, if `table` is a file.
        folds: Number of folds.
        validation: Share of rows for a single validation part (fold 0; the
            rest is trained on) in place of `folds`.
        holdout: Share of rows kept apart from all training, for a last score.
        group: `auto` joins equal and near-equal images with the table's own
            groups; `given` takes the table's groups only; `none` ignores both
            and needs `allow_leak`.
        stratify: Spread the classes evenly.
        shuffle: False cuts the rows into contiguous blocks as they stand.
        seed: Of the order; the same input gives the same folds for ever.
        allow_leak: Allow `group="none"` and stamp every score made from it.
        reporter: Told of the progress and of what was found.

    Returns:
        The table with folds, groups and notes.

    Raises:
        LeakageError: `group="none"` without `allow_leak`.
        TableError: too few groups, or a class that cannot be in two folds.
    """
    reporter = reporter or Silent()
    if not isinstance(table, Table):
        table = read_table(table, images=images)
    _refuse_leak(group, allow_leak=allow_leak)
    groups, notes = _group(table, group, reporter)
    deal = _Deal(table, groups, stratify, shuffle, seed)
    numbers = np.zeros(len(table), np.int16)
    rows = np.arange(len(table))
    if holdout is not None:
        numbers[deal.hold_out(holdout)] = HOLDOUT
        rows = np.flatnonzero(numbers != HOLDOUT)
        notes += (f"{len(table) - len(rows):,} rows are held apart for a last score",)
    found = deal.fold(rows, folds) if validation is None else deal.validate(rows, validation)
    numbers[rows] = found.folds
    notes += (*found.notes, _describe(numbers))
    for note in notes:
        reporter.note(note)
    stored = None if groups is None else tuple(groups)
    return replace(table, folds=numbers, groups=stored, notes=table.notes + notes)


def check_folds(
    table: Table, *, group: str = "auto", allow_leak: bool = False, reporter: Reporter | None = None
) -> Table:
    """Make sure that no copy of an image crosses the folds a table brings.

    Args:
        table: With folds.
        group: As in `split`; `none` checks nothing and needs `allow_leak`.
        allow_leak: Go on with crossing copies, and stamp every score.
        reporter: Told of the progress and of what was found.

    Returns:
        The table with its groups; with a stamp where copies cross.

    Raises:
        LeakageError: copies cross folds and `allow_leak` is not given.
    """
    reporter = reporter or Silent()
    if table.folds is None:
        raise TableError("the table has no folds; run 'loupe split' first.")
    _refuse_leak(group, allow_leak=allow_leak)
    groups, notes = _group(table, group, reporter)
    stamps: tuple[str, ...] = ()
    if groups is not None:
        try:
            check_leaks(table.folds, groups, table.ids)
        except LeakageError as error:
            if not allow_leak:
                raise LeakageError(
                    f"{error} Make folds with 'loupe split', or say --allow-leak to go on; every "
                    "score is then stamped."
                ) from None
            stamps = (CROSSING_STAMP,)
    for note in (*notes, *stamps):
        reporter.note(note)
    return replace(table, groups=groups or table.groups, notes=(*table.notes, *notes, *stamps))


def _refuse_leak(group: str, *, allow_leak: bool) -> None:
    if group == "none" and not allow_leak:
        raise LeakageError(
            "--group none puts copies of one image into different folds, so scores come out too "
            "high. Leave it at 'auto', or say --allow-leak to go on; every score is then stamped."
        )


def added_columns(table: Table) -> dict[str, Sequence[object]]:
    """Return the columns that a split adds to the user's table.

    Args:
        table: From `split`.
    """
    if table.folds is None:
        raise TableError("the table has no folds; run 'loupe split' first.")
    groups: dict[str, Sequence[object]] = {} if table.groups is None else {"group": table.groups}
    return {"fold": table.folds.tolist(), **groups}


@dataclass(frozen=True, slots=True)
class _Deal:
    """What all ways of dealing rows share."""

    table: Table
    groups: tuple[str, ...] | None
    stratify: bool
    shuffle: bool
    seed: int

    def hold_out(self, share: float) -> NDArray[np.bool_]:
        rows = np.arange(len(self.table))
        return assign_holdout(*self._labels(rows), **self._options(rows), share=share)

    def fold(self, rows: NDArray[np.intp], folds: int) -> Assignment:
        return assign_folds(*self._labels(rows), **self._options(rows), folds=folds)

    def validate(self, rows: NDArray[np.intp], share: float) -> Assignment:
        return assign_validation(*self._labels(rows), **self._options(rows), share=share)

    def _labels(self, rows: NDArray[np.intp]) -> tuple[Float32, list[str] | None]:
        groups = None if self.groups is None else [self.groups[row] for row in rows]
        return self.table.targets[rows], groups

    def _options(self, rows: NDArray[np.intp]) -> dict[str, Any]:
        return {
            "ids": [self.table.ids[row] for row in rows],
            "classes": self.table.classes,
            "stratify": self.stratify,
            "shuffle": self.shuffle,
            "seed": self.seed,
        }


def _group(
    table: Table, group: str, reporter: Reporter
) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    if group == "none":
        return None, (LEAK_STAMP,)
    if group == "given":
        if table.groups is None:
            raise TableError("--group given: the table has no group column.")
        return table.groups, (f"{len(set(table.groups)):,} groups as the table gives them",)
    if group != "auto":
        raise InputError(f"--group {group!r}: expected auto, given or none.")
    reporter.begin("look for copies", len(table))
    groups = find_groups(table, progress=reporter.advance)
    reporter.end()
    sizes = np.unique(np.array(groups), return_counts=True)[1]
    shared = int(sizes[sizes > 1].sum())
    note = (
        f"{shared:,} of {len(table):,} rows stand in {int((sizes > 1).sum()):,} groups of copies "
        f"or given groups (largest {int(sizes.max())}); a group never crosses folds"
        if shared
        else f"no copies among {len(table):,} images"
    )
    return groups, (note,)


def _describe(folds: Int16) -> str:
    names = {-1: "always trained on", HOLDOUT: "held apart"}
    counts = [
        f"{names.get(int(k), f'fold {k}')}: {int(n):,}"
        for k, n in zip(*np.unique(folds, return_counts=True), strict=True)
    ]
    return ", ".join(counts)
