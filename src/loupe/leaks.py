"""Leaks: rows that were not held out, copies that cross folds, labels of who saw too much.

Each is refused, or turned into a stamp that stands beside every score. It must not
gather rows or look for copies itself (that is `splitting`).

Shapes: N rows that count, T rows of a table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from loupe.errors import LeakageError, shorten
from loupe.folds import check_leaks
from loupe.predictions import Predictions
from loupe.progress import Reporter
from loupe.splitting import CROSSING_STAMP, check_folds
from loupe.table import ALWAYS_TRAINED, Table
from loupe.teachers import TEACHER_STAMP, check_teachers

Int16 = NDArray[np.int16]

_IMAGES_TRIED = 1000
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """The groups of a table, and what was found about them.

    Attributes:
        groups: (T,) rows of equal text share a fold; None where each row stands alone.
        stamps: What must be said beside every score.
        notes: What was looked for, for the screen.
    """

    groups: tuple[str, ...] | None
    stamps: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def check_held_out(
    sheet: Predictions, place: Path, *, folds: Int16 | None, allow_leak: bool
) -> tuple[str, ...]:
    """Refuse rows that were not held out.

    Args:
        sheet: Predictions of the rows that count.
        place: Where they are from, for messages.
        folds: (N,) fold of each row, if it is known.
        allow_leak: Go on, with a stamp.

    Returns:
        Stamps.

    Raises:
        LeakageError: some rows were not held out, or have fold -1.
    """
    seen = ~sheet.held_out
    if folds is not None:
        seen |= folds == ALWAYS_TRAINED
    rows = np.flatnonzero(seen)
    if not len(rows):
        return ()
    found = f"{place}: {len(rows)} of {len(sheet)} row(s) were not held out"
    if allow_leak:
        return (f"LEAK: {found} (--allow-leak); scores are optimistic",)
    told = shorten([repr(sheet.ids[row]) for row in rows])
    if len(rows) == len(sheet) and (folds is None or (folds != ALWAYS_TRAINED).any()):
        raise LeakageError(
            f"{found}, as far as the file tells: {told}. Decisions rest on rows that their model "
            "never saw. If that is so for all rows and the file has no column 'held_out', say "
            "--held-out; else correct that column (true, false). Say --allow-leak to go on with "
            "others, and every score is stamped."
        )
    raise LeakageError(
        f"{found}: {told}. They are marked so in a column 'held_out', or have fold -1 (always "
        "trained on). Take them out of the file or the table, or say --allow-leak to go on; every "
        "score is then stamped."
    )


def find_copies(
    table: Table, mode: str, *, place: Path, allow_leak: bool, reporter: Reporter | None
) -> Copies:
    """Group copies, and refuse groups that cross folds.

    Args:
        table: With folds; all 0 where there are none.
        mode: "auto", "given" or "none" as `splitting.check_folds` takes them; "" looks
            for copies where the images are there, and else takes the table's groups.
        place: Where the folds are from, for messages.
        allow_leak: Go on with groups that cross folds, with a stamp.
        reporter: Told of the progress.

    Raises:
        LeakageError: a group crosses folds, or nothing is to be grouped.
        TableError: the table has no groups to be given.
    """
    notes: tuple[str, ...] = ()
    if mode == "":
        mode = "auto" if _has_images(table) else "given"
        if mode == "given":
            notes = ("the images are not here: copies in different folds were not looked for",)
            if table.groups is None:
                return Copies(groups=None, notes=notes)
    checked = _name_place(
        place, lambda: check_folds(table, group=mode, allow_leak=allow_leak, reporter=reporter)
    )
    told = checked.notes[len(table.notes) :]
    return Copies(
        groups=None if mode == "none" else checked.groups,
        stamps=tuple(note for note in told if note.startswith("LEAK")),
        notes=(*notes, *(note for note in told if not note.startswith("LEAK"))),
    )


def check_other_folds(
    ids: Sequence[str],
    folds: Int16 | None,
    groups: Sequence[str] | None,
    place: Path,
    *,
    allow_leak: bool,
) -> tuple[str, ...]:
    """Refuse groups that cross the folds of a further source.

    Args:
        ids: (N,) of the rows that count.
        folds: (N,) fold of each row in that source, if it is known.
        groups: (N,) group of each row.
        place: Where they are from, for messages.
        allow_leak: Go on, with a stamp.

    Returns:
        Stamps.

    Raises:
        LeakageError: a group stands in two folds.
    """
    if groups is None or folds is None:
        return ()
    try:
        _name_place(place, lambda: check_leaks(folds, groups, ids))
    except LeakageError:
        if not allow_leak:
            raise
        return (CROSSING_STAMP,)
    return ()


def check_labels(table: Table, place: Path, *, allow_leak: bool) -> tuple[str, ...]:
    """Refuse labels of teachers that saw what a fold holds out.

    Args:
        table: With folds.
        place: Where it is from, for messages.
        allow_leak: Go on, with a stamp.

    Returns:
        Stamps.

    Raises:
        LeakageError: some labels leak.
        RunError: the run of a teacher cannot be opened.
    """
    try:
        _name_place(place, lambda: check_teachers(table))
    except LeakageError:
        if not allow_leak:
            raise
        return (TEACHER_STAMP,)
    return ()


def part_rows(
    table: Table, rows: NDArray[np.intp], folds: Int16 | None
) -> tuple[Table, NDArray[np.intp]]:
    """Return the rows of a table that matter for leaks, with the folds that predictions have.

    Args:
        table: With the targets.
        rows: (N,) rows that count, rising.
        folds: (N,) fold of each; None where they are not known, and become 0.

    Returns:
        The rows that count and those always trained on; and their numbers.
    """
    found = np.full(len(table), ALWAYS_TRAINED, np.int16)
    found[rows] = 0 if folds is None else folds
    matter = np.zeros(len(table), np.bool_)
    matter[rows] = True
    if table.folds is not None:
        matter |= table.folds == ALWAYS_TRAINED
    kept = np.flatnonzero(matter).astype(np.intp)
    chosen = table if len(kept) == len(table) else table.select(kept)
    return replace(chosen, folds=found[kept]), kept


def _has_images(table: Table) -> bool:
    step = max(1, len(table) // _IMAGES_TRIED)
    return any(path.is_file() for path in table.images[::step])


def _name_place(place: Path, check: Callable[[], Found]) -> Found:
    """Say in a leak's message which source it is in."""
    try:
        return check()
    except LeakageError as error:
        raise LeakageError(f"{place}: {error}") from None
