"""Teachers: runs that made labels, and whether they saw what a fold holds out.

A label that a network made carries what the network was trained on. A fold that trains
on such a label is told about its held-out rows by a network that saw them. It must not
make labels or train.

Shapes: N rows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loupe.errors import LeakageError, RunError, shorten
from loupe.runs import REFIT, Member, Run, open_run
from loupe.starts import row_keys, seen_keys, spread_keys
from loupe.table import HOLDOUT, Table

TEACHER_STAMP = (
    "LEAK: labels were made by networks that had seen held-out rows (--allow-leak); scores are "
    "optimistic"
)

_FOLD_MARK = re.compile(r"(?P<place>.+)#fold-(?P<fold>\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What networks saw: keys of `starts.row_keys`, and names of groups."""

    keys: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()

    def __or__(self, other: _Known) -> _Known:
        return _Known(keys=self.keys | other.keys, groups=self.groups | other.groups)


def check_teachers(table: Table) -> None:
    """Make sure that no fold trains on labels of networks that saw what it holds out.

    Rows of fold -1 count: every fold trains on them. What a teacher was taught by its
    own teachers counts as seen; so do copies, and rows of groups of the same name.

    Args:
        table: With folds; without `teachers` there is nothing to check.

    Raises:
        LeakageError: some labels leak; all teachers and folds are listed.
        RunError: the folder of a teacher is gone or no run, or has no such fold.
    """
    if table.teachers is None or table.folds is None:
        return
    names = np.array(table.teachers, dtype=object)
    found = []
    rows = 0
    for teacher in dict.fromkeys(name for name in table.teachers if name):
        saw = _find_seen(table, _find_known(teacher, ()))
        told, taught = _find_leaks(table, np.asarray(names == teacher, np.bool_), saw)
        if told:
            found.append(f"{teacher}: {'; '.join(told)}")
            rows += taught
    if found:
        raise LeakageError(
            f"labels of {rows} row(s) (column 'teacher') were made by networks that trained on "
            f"rows which are held out from those that learn these labels. {shorten(found)}. Label "
            "each row by networks that never saw what is held out: RUN#fold-k for rows of which "
            "only fold k learns, or a run on other images; or leave these rows out; or say "
            "--allow-leak to go on, and every score is stamped."
        )


def _find_leaks(
    table: Table, taught: NDArray[np.bool_], saw: NDArray[np.bool_]
) -> tuple[list[str], int]:
    """Say, for each part held out, what of it a teacher saw; and how many labels leak."""
    told = []
    leaking = np.zeros(len(table), np.bool_)
    folds = np.zeros(len(table), np.int16) if table.folds is None else table.folds
    for number in (int(k) for k in np.unique(folds) if k >= 0 or k == HOLDOUT):
        learns = taught & (folds != number) & (folds != HOLDOUT)
        held = np.flatnonzero((folds == number) & saw)
        if not learns.any() or not len(held):
            continue
        leaking |= learns
        ids = shorten([repr(table.ids[row]) for row in held], 3)
        part = "the hold-out" if number == HOLDOUT else f"fold {number}"
        size = int((folds == number).sum())
        told.append(
            f"it saw {len(held)} of the {size} row(s) of {part} ({ids}), and "
            f"{int(learns.sum())} of its labels are trained on without them"
        )
    return told, int(leaking.sum())


def _find_seen(table: Table, known: _Known) -> NDArray[np.bool_]:
    """(N,) True for rows of the table that are known by key or by group."""
    groups = table.groups or ("",) * len(table)
    return np.array(
        [
            groups[row] in known.groups or not known.keys.isdisjoint(row_keys(table, row))
            for row in range(len(table))
        ],
        np.bool_,
    )


def _find_known(teacher: str, above: tuple[str, ...]) -> _Known:
    """Collect what the networks of a teacher saw, their own teachers included.

    Args:
        teacher: As `Table.teachers` has it.
        above: Teachers that are being looked at, so that a circle ends.
    """
    run, wanted = _open_teacher(teacher)
    known = _Known()
    for member, _ in run.networks():
        if wanted is not None and wanted not in member.folds:
            raise RunError(
                f"column 'teacher': {teacher} names a fold that is not in {member.folder}, whose "
                f"folds are {shorten(member.folds)}."
            )
        trained = open_run(member.folder.parent)
        for fold in member.folds if wanted is None else (wanted,):
            known |= _find_known_fold(trained, member, fold, (*above, teacher))
    return known


def _find_known_fold(run: Run, member: Member, fold: int, above: tuple[str, ...]) -> _Known:
    table = run.table()
    left = {HOLDOUT} if fold == REFIT else {HOLDOUT, fold}
    folds = np.zeros(len(table), np.int16) if table.folds is None else table.folds
    used = np.flatnonzero(~np.isin(folds, list(left)))
    known = _Known(
        keys=spread_keys(seen_keys(run, member, fold), table),
        groups=frozenset(() if table.groups is None else (table.groups[row] for row in used)),
    )
    names = () if table.teachers is None else (table.teachers[row] for row in used)
    for teacher in dict.fromkeys(name for name in names if name and name not in above):
        known |= _find_known(teacher, above)
    return known


def _open_teacher(teacher: str) -> tuple[Run, int | None]:
    """Open the run of a teacher; None stands for all its folds."""
    match = _FOLD_MARK.fullmatch(teacher)
    place, fold = (teacher, None) if match is None else (match["place"], int(match["fold"]))
    try:
        return open_run(place), fold
    except RunError as error:
        raise RunError(
            f"column 'teacher' says that {teacher} made labels, but it cannot be opened, so what "
            f"its networks saw is unknown: {error} Put the run back, correct the column, or rename "
            "it if it is no run that made labels."
        ) from None
