"""Matching: which rows of a table all sources predict, and what is a mistake.

A row that silently lacks its prediction would be a choice of rows, so it is refused. It
must not read files, or look at who was held out (that is `leaks`).

Shapes: T rows of the table with the targets, N rows that count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loupe.aligning import ABSENT, guess_difference, match_ids
from loupe.errors import AlignmentError, shorten
from loupe.evidence import Evidence
from loupe.predictions import Predictions
from loupe.runs import Run
from loupe.table import HOLDOUT, Table

Bool = NDArray[np.bool_]
Rows = NDArray[np.intp]


@dataclass(slots=True, kw_only=True)
class Source:
    """One source: its sheets, of equal ids, and where each row of the truth stands in them.

    Not frozen: sheets are let go of one by one as their rows are taken.

    Attributes:
        place: A folder or file, for messages.
        sheets: Equal ids in equal order; one, or one for each member.
        run: The run, if it is none of a file.
        at: (T,) position of each row of the table in the sheets, or `ABSENT`.
        notes: What was read, for the screen.
    """

    place: Path
    sheets: list[Predictions]
    run: Run | None
    at: Rows
    notes: tuple[str, ...]


def choose_rows(
    found: Sequence[Source], truth: Table, *, own: bool
) -> tuple[Rows, tuple[str, ...]]:
    """Choose the rows that all sources predict; refuse what looks like a mistake.

    Args:
        found: The sources.
        truth: The table with the targets.
        own: True if the table is that of the first run.

    Returns:
        (N,) rows of the table, and what was left out.

    Raises:
        AlignmentError: a file lacks rows of the table, sources predict different rows,
            or nothing is left.
    """
    labelled = ~_find_nan(truth.targets)
    for source in found:
        _check_predicted(source, truth, labelled, own=own)
    there = [source.at != ABSENT for source in found]
    everywhere, anywhere = np.logical_and.reduce(there), np.logical_or.reduce(there)
    _check_shared(found, there, truth, labelled & anywhere & ~everywhere)
    apart = _find_apart(found[0], truth)
    rows = everywhere & labelled & ~apart
    readable = rows.copy()
    for source in found:
        for sheet in source.sheets:
            lost = _find_nan(sheet.probs)
            if lost.any():
                readable &= ~lost[source.at]
    chosen = np.flatnonzero(readable).astype(np.intp)
    if not len(chosen):
        raise AlignmentError(
            f"{shorten([source.place for source in found])}: no row of the table has both a label "
            f"and probabilities; {int(rows.sum())} of its {len(truth)} rows are predicted."
        )
    notes = list(_note_left(found, truth, labelled, rows & ~readable))
    kept = int((apart & everywhere).sum())
    if kept:
        notes.append(f"{kept:,} row(s) of the hold-out do not count: 'loupe score' is for them")
    return chosen, tuple(notes)


def share_ids(
    ids: tuple[Sequence[str], Sequence[str]], places: tuple[Path, Path]
) -> tuple[Rows, Rows]:
    """Find the rows that two sources have in common.

    Args:
        ids: Of each source.
        places: Where they are from, for messages.

    Returns:
        Numbers of the shared rows in each, in the order of the first.

    Raises:
        AlignmentError: no row is shared.
    """
    at = match_ids(ids[1], ids[0])
    mine = np.flatnonzero(at != ABSENT).astype(np.intp)
    if not len(mine):
        raise AlignmentError(
            f"{places[0]} and {places[1]} share no row: ids are {shorten(ids[0], 3)} and "
            f"{shorten(ids[1], 3)}. Expected two predictions of the same images."
        )
    return mine, at[mine]


def share_rows(first: Evidence, second: Evidence, places: tuple[Path, Path]) -> tuple[Rows, Rows]:
    """Find the rows that the evidence of two sources has in common.

    Args:
        first: Of one source.
        second: Of the other.
        places: Where they are from, for messages.

    Returns:
        Numbers of the shared rows in each, in the order of the first.

    Raises:
        AlignmentError: no row is shared, or the classes differ.
    """
    if first.classes != second.classes or first.exclusive != second.exclusive:
        raise AlignmentError(
            f"{places[0]} has the classes {shorten(first.classes)}, {places[1]} has "
            f"{shorten(second.classes)}; expected the same classes in the same order."
        )
    return share_ids((first.ids, second.ids), places)


def refuse_other_targets(
    first: Evidence, second: Evidence, rows: tuple[Rows, Rows], places: tuple[Path, Path]
) -> None:
    """Refuse shared rows with other targets here than there.

    Args:
        first: Of one source.
        second: Of the other.
        rows: From `share_rows`.
        places: Where they are from, for messages.

    Raises:
        AlignmentError: targets of shared rows differ.
    """
    mine, theirs = rows
    odd = np.flatnonzero((first.targets[mine] != second.targets[theirs]).any(axis=1))
    if len(odd):
        told = shorten([repr(first.ids[mine[row]]) for row in odd])
        raise AlignmentError(
            f"{len(odd)} shared row(s) have other targets in {places[1]} than in {places[0]}: "
            f"{told}. Give the labels that count with a table (--table). Of a run on a cleaned "
            "table and the run before, name the run before first."
        )


def refuse_other_folds(
    first: Evidence, second: Evidence, rows: tuple[Rows, Rows], places: tuple[Path, Path]
) -> None:
    """Refuse shared rows that were held out with others there than here.

    Args:
        first: Of a run before cleaning.
        second: Of the run after it.
        rows: From `share_rows`.
        places: Where they are from, for messages.

    Raises:
        AlignmentError: rows changed their fold.
    """
    names = [
        np.asarray(each.part_names)[each.parts[mine]] if not each.dealt else np.full(len(mine), "")
        for each, mine in zip((first, second), rows, strict=True)
    ]
    refuse_moved_rows([first.ids[row] for row in rows[0]], names[0], names[1], places)


def refuse_moved_rows(
    ids: Sequence[str],
    before: NDArray[np.generic],
    after: NDArray[np.generic],
    places: tuple[Path, Path],
) -> None:
    """Refuse rows whose fold is another after cleaning than before.

    Args:
        ids: (N,) of rows that both runs held out.
        before: (N,) fold of each, before cleaning.
        after: (N,) the same, after it.
        places: Where the runs are, for messages.

    Raises:
        AlignmentError: rows changed their fold.
    """
    odd = np.flatnonzero(before != after)
    if len(odd):
        told = shorten([f"{ids[row]!r} ({before[row]} and {after[row]})" for row in odd.tolist()])
        raise AlignmentError(
            f"{len(odd):,} shared row(s) are in another fold of {places[1]} than of {places[0]}: "
            f"{told}. What a cleaned table changes is seen only with the same folds; train on the "
            "table that 'loupe relabel' wrote, which keeps them."
        )


def note_unshared(
    places: tuple[Path, Path], sizes: tuple[int, int], shared: int
) -> tuple[str, ...]:
    """Say which of two sources has rows that the other lacks.

    Args:
        places: Where they are from.
        sizes: How many rows each has.
        shared: How many rows both have.
    """
    return tuple(
        f"{size - shared:,} rows are in {place} alone and play no part"
        for place, size in zip(places, sizes, strict=True)
        if size > shared
    )


def _find_apart(source: Source, truth: Table) -> Bool:
    """(T,) True for rows that are kept for a last score: nothing may be chosen on them."""
    apart = np.zeros(len(truth), np.bool_) if truth.folds is None else truth.folds == HOLDOUT
    folds = source.sheets[0].folds
    if folds is not None:
        apart |= (source.at != ABSENT) & (folds[source.at] == HOLDOUT)
    return apart


def _note_left(
    found: Sequence[Source], truth: Table, labelled: Bool, unread: Bool
) -> tuple[str, ...]:
    """Say which rows do not count, and why."""
    notes = []
    for source in found:
        extra = _list_extra(source, truth)
        aside = {row.id for row in truth.quarantined}
        others = [key for key in extra if key not in aside]
        if len(extra) > len(others):
            notes.append(f"{len(extra) - len(others)} row(s) in quarantine do not count")
        if others:
            ids = shorten([repr(key) for key in others], 3)
            said = f"{len(others)} row(s) that are not in the table do not count: {ids}"
            notes.append(f"{source.place}: {said}")
        gone = int((labelled & (source.at == ABSENT)).sum())
        if gone and source.run is None:
            notes.append(
                f"{source.place}: predicts {len(truth) - gone:,} of the {len(truth):,} rows of the "
                "table"
            )
    bare = int((~labelled & (found[0].at != ABSENT)).sum())
    if bare:
        notes.append(f"{bare} row(s) without a label do not count")
    if unread.any():
        ids = shorten([repr(truth.ids[row]) for row in np.flatnonzero(unread)], 3)
        notes.append(f"{int(unread.sum())} row(s) that could not be read do not count: {ids}")
    return tuple(notes)


def _check_predicted(source: Source, truth: Table, labelled: Bool, *, own: bool) -> None:
    """Refuse a source that lacks rows: a file all but whole folds, a run what is misspelled."""
    if own and source.run is not None and (source.at != ABSENT).any():
        return
    due = labelled.copy()
    if truth.folds is not None:
        mine = np.unique(truth.folds[(source.at != ABSENT) & labelled])
        due &= (truth.folds >= 0) & (np.isin(truth.folds, mine) if len(mine) else True)
    missing = [truth.ids[row] for row in np.flatnonzero(due & (source.at == ABSENT))]
    if not missing:
        return
    extra = _list_extra(source, truth)
    hint = guess_difference(missing, extra)
    if source.run is not None and not hint and len(missing) < due.sum():
        return
    raise AlignmentError(
        f"{source.place}: {len(missing)} of {int(due.sum())} labelled rows have no prediction: "
        f"{shorten([repr(key) for key in missing])}.{hint} Expected a row for each id of the "
        f"table; {len(extra)} row(s) are of ids that it does not have"
        + (f" ({shorten([repr(key) for key in extra], 3)})" if extra else "")
        + ". Predict the missing rows, or name a table of the predicted ones alone."
    )


def _list_extra(source: Source, truth: Table) -> list[str]:
    """Ids that a source has and the table has not."""
    ids = source.sheets[0].ids
    if int((source.at != ABSENT).sum()) == len(ids):
        return []
    known = set(truth.ids)
    return [key for key in ids if key not in known]


def _check_shared(
    found: Sequence[Source], there: Sequence[Bool], truth: Table, partly: Bool
) -> None:
    """Refuse sources that predicted different rows; rows outside all folds do not matter."""
    if truth.folds is not None:
        partly = partly & (truth.folds >= 0)
    if not partly.any():
        return
    told = []
    for source, mine in zip(found, there, strict=True):
        lost = np.flatnonzero(partly & ~mine)
        if len(lost):
            ids = shorten([repr(truth.ids[row]) for row in lost], 3)
            told.append(f"{source.place} lacks {len(lost)} ({ids})")
    raise AlignmentError(
        f"{int(partly.sum())} row(s) are predicted by some sources only: {'; '.join(told)}. "
        "Expected the same rows from each; predict them, or leave them out of the table."
    )


def _find_nan(values: NDArray[np.float32]) -> Bool:
    found = np.zeros(len(values), np.bool_)
    for column in values.T:
        found |= np.isnan(column)
    return found
