"""Held out: runs and predictions files gathered into the evidence that decisions rest on.

Owns which rows count, and that all sources mean the same rows and classes. It must not
fit or score anything.

Shapes: M members, T rows of the table with the targets, N rows that count, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from loupe.aligning import ABSENT, match_ids
from loupe.blended import Blended
from loupe.errors import AlignmentError, InputError, RunError, shorten, suggest
from loupe.evidence import Evidence, make_evidence, mix
from loupe.leaks import (
    Copies,
    check_held_out,
    check_labels,
    check_other_folds,
    find_copies,
    part_rows,
)
from loupe.matching import Source, choose_rows
from loupe.predictions import Predictions, average_sheets
from loupe.progress import Reporter
from loupe.runs import Run, open_run
from loupe.sheetfiles import open_sheet_file, take_rows
from loupe.table import Table

Int16 = NDArray[np.int16]
Rows = NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Leaks:
    """Groups of the rows that count, and what was found."""

    groups: tuple[str, ...] | None
    stamps: tuple[str, ...]
    notes: tuple[str, ...]


def gather_evidence(
    sources: Sequence[str | Path],
    table: Table | None = None,
    *,
    held_out: bool = False,
    allow_leak: bool = False,
    group: str = "",
    split: bool = False,
    reporter: Reporter | None = None,
) -> Evidence:
    """Put held-out predictions beside their targets, row by row of the same id.

    Rows without a label and rows whose image could not be read are left out, with a
    note. The parts are the folds of the first source, else of the table, else dealt.

    Args:
        sources: Runs, blends and predictions files. Several become a member each.
        table: The targets; those of the first run if None.
        held_out: All rows of predictions files were held out, though they do not say so.
        allow_leak: Go on where rows, copies or labels leak; each is stamped.
        group: "auto" looks for copies and joins them with the groups of the table;
            "given" takes these alone; "none" (with `allow_leak`) neither. "" takes the
            groups of a run, and for files is "auto" where the images are there.
        split: Every member of a single run is a member. A blend has its members anyway.
        reporter: Told of the progress of looking for copies.

    Returns:
        The rows that count, in the order of the table.

    Raises:
        LeakageError: rows were not held out, a group crosses folds, or a label was made
            by a network that saw what a fold holds out.
        AlignmentError: sources differ in rows or classes, or rows of the table are not
            predicted.
        InputError: there are no targets, or a file is not valid.
        RunError: a folder is no finished run.
    """
    places = [Path(source) for source in sources]
    runs = [open_source(place) for place in places]
    truth = _choose_truth(table, places, runs)
    found = [
        _read_source(place, run, truth, held_out=held_out, split=split and len(places) == 1)
        for place, run in zip(places, runs, strict=True)
    ]
    rows, notes = choose_rows(found, truth, own=table is None)
    _take(found, rows, truth)
    folds = _choose_folds(found[0], truth, rows)
    stamps = _check_marks(found, truth, rows, allow_leak=allow_leak)
    leaks = _check_leaks(
        found, truth, rows, folds, own=table is None, allow_leak=allow_leak, mode=group,
        reporter=reporter,
    )  # fmt: skip
    evidence = make_evidence(
        truth.targets if len(rows) == len(truth) else truth.targets[rows],
        [sheet.probs for source in found for sheet in source.sheets],
        exclusive=truth.exclusive,
        classes=truth.classes,
        ids=found[0].sheets[0].ids,
        folds=folds,
        groups=None if leaks.groups is None else _number(leaks.groups),
    )
    told = (*(note for source in found for note in source.notes), *notes, *leaks.notes)
    evidence = replace(
        evidence,
        stamps=tuple(dict.fromkeys((*_inherit(runs), *stamps, *leaks.stamps))),
        notes=tuple(dict.fromkeys((*told, *evidence.notes))),
    )
    blend = runs[0].blend if len(runs) == 1 and runs[0] is not None else None
    return evidence if blend is None else _weigh(evidence, blend)


def open_source(place: Path) -> Run | None:
    """Open a run folder; None stands for a predictions file.

    Args:
        place: What the user named.

    Raises:
        InputError: there is nothing.
        RunError: the folder is no run.
    """
    if not place.exists():
        raise InputError(f"{place} does not exist; name a run folder or a predictions file.")
    return open_run(place) if place.is_dir() else None


def _choose_truth(table: Table | None, places: Sequence[Path], runs: Sequence[Run | None]) -> Table:
    if not places:
        raise InputError("there are no predictions; name a run or a predictions file.")
    first = next((run for run in runs if run is not None), None)
    if table is None:
        if first is None:
            raise InputError(
                f"{shorten(places)}: a predictions file has no targets; name the table that has "
                "them (--table TABLE)."
            )
        table = first.table()
    elif table.groups is None and first is not None:
        # Other labels of the same images: what was grouped for training still is.
        table = _borrow_groups(table, first.table())
    if not table.classes:
        raise InputError("the table has no labels; expected one that says what each image shows.")
    return table


def _borrow_groups(table: Table, trained: Table) -> Table:
    groups = trained.groups
    if groups is None:
        return table
    at = match_ids(trained.ids, table.ids)
    # No group of a user holds a zero byte.
    names = [
        groups[row] if row != ABSENT else f"\0{key}" for row, key in zip(at, table.ids, strict=True)
    ]
    return replace(table, groups=tuple(names))


def _read_source(
    place: Path, run: Run | None, truth: Table, *, held_out: bool, split: bool
) -> Source:
    notes: tuple[str, ...] = ()
    if run is None:
        read = open_sheet_file(
            place, classes=truth.classes, exclusive=truth.exclusive, held_out=held_out
        )
        sheets, notes = [read.sheet], read.notes
    else:
        sheets = [_order_classes(sheet, truth, place) for sheet in run.oof().values()]
        if len(sheets) > 1 and not split:
            sheets = [average_sheets(sheets)] if run.blend is None else sheets
    at = match_ids(sheets[0].ids, truth.ids)
    if sheets[0].ids == truth.ids:
        # A million texts of each source would take more memory than its numbers.
        sheets = [replace(sheet, ids=truth.ids) for sheet in sheets]
    return Source(place=place, sheets=sheets, run=run, at=at, notes=notes)


def _order_classes(sheet: Predictions, truth: Table, place: Path) -> Predictions:
    """Put the columns of a run in the order of the table."""
    if sheet.classes == truth.classes and sheet.exclusive == truth.exclusive:
        return sheet
    if set(sheet.classes) != set(truth.classes) or sheet.exclusive != truth.exclusive:
        kinds = ["exclusive" if kind else "alone" for kind in (sheet.exclusive, truth.exclusive)]
        lost = [n for n in truth.classes if n not in sheet.classes]
        hints = [f"{name!r}{suggest(name, sheet.classes)}" for name in lost]
        raise AlignmentError(
            f"{place}: its classes are {shorten(sheet.classes)} ({kinds[0]}), those of the table "
            f"{shorten(truth.classes)} ({kinds[1]})"
            + (f"; it lacks {shorten(hints)}" if hints else "")
            + ". Expected the same classes, in any order."
        )
    columns = [sheet.classes.index(name) for name in truth.classes]
    return replace(sheet, classes=truth.classes, probs=sheet.probs[:, columns])


def _take(found: Sequence[Source], rows: Rows, truth: Table) -> None:
    """Bring all sheets to the rows that count; whole blends become one sheet among others."""
    whole = len(rows) == len(truth)
    ids = truth.ids if whole else tuple(truth.ids[row] for row in rows)
    for source in found:
        at = source.at if whole else source.at[rows]
        for number in range(len(source.sheets)):
            source.sheets[number] = take_rows(source.sheets[number], at, ids)
        if len(found) > 1 and source.run is not None and source.run.blend is not None:
            source.sheets = [_mix_held_out(source.sheets, source.run.blend)]


def _mix_held_out(sheets: Sequence[Predictions], blend: Blended) -> Predictions:
    """Return what a blend says of each row by the weights that were fitted without its fold."""
    first = sheets[0]
    probs = mix([sheet.probs for sheet in sheets], np.array(blend.weights))
    held = np.logical_and.reduce([sheet.held_out for sheet in sheets])
    if blend.by_fold is not None and first.folds is not None:
        fitted = np.zeros(len(first), np.bool_)
        for name, weights in blend.by_fold.items():
            rows = np.flatnonzero(first.folds == int(name)).astype(np.intp)
            probs[rows] = mix([sheet.probs for sheet in sheets], np.array(weights), rows)
            fitted[rows] = True
        held &= fitted
    return replace(first, probs=probs, held_out=held)


def _choose_folds(source: Source, truth: Table, rows: Rows) -> Int16 | None:
    folds = source.sheets[0].folds
    if folds is None and truth.folds is not None:
        folds = truth.folds[rows]
    return folds


def _check_marks(
    found: Sequence[Source], truth: Table, rows: Rows, *, allow_leak: bool
) -> tuple[str, ...]:
    stamps: list[str] = []
    for source in found:
        folds = _choose_folds(source, truth, rows)
        for sheet in source.sheets:
            stamps += check_held_out(sheet, source.place, folds=folds, allow_leak=allow_leak)
    return tuple(stamps)


def _check_leaks(
    found: Sequence[Source],
    truth: Table,
    rows: Rows,
    folds: Int16 | None,
    *,
    own: bool,
    mode: str,
    allow_leak: bool,
    reporter: Reporter | None,
) -> _Leaks:
    """Look at copies and labels of all sources."""
    first = found[0]
    # All rows of the table matter, also those that are always trained on.
    full = first.sheets[0].folds is None or (own and first.run is not None)
    checked, kept = truth, np.arange(len(truth))
    if truth.folds is None or not full:
        checked, kept = part_rows(truth, rows, folds)
    if mode == "" and (own or first.run is not None):
        mode = "given" if checked.groups is not None else "alone"
    copies = Copies(groups=None)
    if mode != "alone":
        leave = allow_leak or _is_stamped(first.run)
        copies = find_copies(checked, mode, place=first.place, allow_leak=leave, reporter=reporter)
    groups = copies.groups
    if groups is not None and len(kept) > len(rows):
        groups = tuple(groups[row] for row in np.searchsorted(kept, rows))
    stamps, notes = list(copies.stamps), list(copies.notes)
    if truth.teachers is not None and folds is None:
        notes.append("there are no folds: what teachers saw of held-out rows cannot be told")
    for source in found:
        leave = allow_leak or _is_stamped(source.run)
        sheet = source.sheets[0]
        other = sheet.folds is not None and folds is not None and (sheet.folds != folds).any()
        if source is not first and other:
            stamps += check_other_folds(
                sheet.ids, sheet.folds, groups, source.place, allow_leak=leave
            )
            notes.append(f"{source.place}: has other folds; the parts are those of {first.place}")
        if source.run is None:
            stamps += check_labels(checked, source.place, allow_leak=leave)
            continue
        try:
            stamps += check_labels(source.run.table(), source.place, allow_leak=leave)
        except RunError:
            # Training looked at the teachers while they were there.
            notes.append(f"{source.place}: a run that made labels is gone; not looked at again")
    return _Leaks(groups=groups, stamps=tuple(stamps), notes=tuple(notes))


def _weigh(evidence: Evidence, blend: Blended) -> Evidence:
    """Give the members of a blend their weights."""
    evidence = replace(evidence, weights=np.array(blend.weights))
    if blend.by_fold is None:
        return evidence
    lost = [name for name in evidence.part_names if name not in blend.by_fold]
    if lost:
        said = (
            f"OPTIMISTIC: the weights of the blend were fitted on folds {shorten(lost)} as well; "
            "blend again with the table as it is now"
        )
        return replace(evidence, stamps=(*evidence.stamps, said))
    weights = [blend.by_fold[name] for name in evidence.part_names]
    return replace(evidence, part_weights=np.array(weights))


def _inherit(runs: Sequence[Run | None]) -> tuple[str, ...]:
    return tuple(str(s) for run in runs if run is not None for s in run.manifest()["stamps"])


def _is_stamped(run: Run | None) -> bool:
    """True if a leak was allowed when the run was made."""
    return any(stamp.startswith("LEAK") for stamp in _inherit([run]))


def _number(groups: Sequence[str]) -> Rows:
    """Number equal names alike; sorting a million texts would take seconds."""
    return np.asarray(pa.array(groups).dictionary_encode().indices.to_numpy(), np.intp)
