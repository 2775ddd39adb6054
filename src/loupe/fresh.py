"""Fresh rows: never trained on, with their targets, and what a source says of them.

The source is a run, whose networks are asked, or a predictions file, for which no
torch is needed. It must not decide or score.

Shapes: N rows, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from loupe.checking import find_groups
from loupe.errors import (
    AlignmentError,
    InputError,
    LeakageError,
    MissingExtraError,
    TableError,
    shorten,
    suggest,
)
from loupe.evidence import SUM_SLACK, number
from loupe.exposure import GroupBy, refuse_known
from loupe.predictions import Predictions
from loupe.progress import Reporter
from loupe.rules import Pool, Rule, pool_rows
from loupe.runs import Run
from loupe.sheetfiles import align_sheet, open_sheet_file
from loupe.table import HOLDOUT, Float32, Table

LISTED = ("label-list", "coco", "rle-joined", "rle-rows")
"""Layouts whose classes are those that occur, though they stand alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which rows, and how strictly.

    Attributes:
        where: The source, for messages.
        table: The rows, all labelled.
        rule: What will decide them; None decides plainly.
        group: As for `exposure.find_related`.
        allow_leak: Stamp what would be refused.
        reporter: Told of the progress.
    """

    where: str
    table: Table
    rule: Rule | None
    group: GroupBy
    allow_leak: bool
    reporter: Reporter


@dataclass(frozen=True, slots=True, kw_only=True)
class Fresh:
    """Rows, or groups, in the order of the table.

    Attributes:
        sheet: What was predicted, as the source gives it.
        targets: (N, C) in the columns of the sheet.
        groups: (N,) rows that are drawn together for intervals; None for each alone.
        notes: What was read and done.
        stamps: What must be said beside every score.
    """

    sheet: Predictions
    targets: Float32
    groups: Sequence[str] | None
    notes: tuple[str, ...] = ()
    stamps: tuple[str, ...] = ()


def choose_rows(table: Table) -> tuple[Table, str]:
    """Return the rows to score, the hold-out if there is one, and a note.

    Args:
        table: With targets.

    Raises:
        TableError: there are no rows, or rows without a label.
    """
    if not len(table) or not table.classes:
        what = "has no labels" if len(table) else "has 0 rows"
        raise TableError(
            f"the table {what}, so nothing can be scored. Expected images with targets; "
            "'loupe predict' answers for images without."
        )
    apart = np.zeros(0, np.intp) if table.folds is None else np.flatnonzero(table.folds == HOLDOUT)
    note = f"{len(table):,} rows are scored"
    if len(apart):
        note = f"{len(apart):,} of {len(table):,} rows, those kept apart, are scored"
        # Rows set aside before the split were not held out.
        table = replace(table.select(apart), quarantined=())
    blank = np.flatnonzero(np.isnan(table.targets).any(axis=1))
    if len(blank):
        told = shorten([repr(table.ids[row]) for row in blank])
        raise TableError(
            f"{len(blank):,} of {len(table):,} rows have no label: {told}. Expected the targets of "
            "all rows that are to be scored; leave out the others."
        )
    return table, note


def ask_run(wanted: Wanted, run: Run, device: str) -> Fresh:
    """Predict rows with a run, after making sure that it never saw them.

    Args:
        wanted: The rows.
        run: Trained or blended.
        device: `auto` or a torch device.

    Raises:
        LeakageError: the run knows some of the rows.
        AlignmentError: rule, table and run disagree on classes.
    """
    learned, table = run.table(), wanted.table
    _check_rule(wanted.rule, learned.classes, wanted.where, exclusive=learned.exclusive)
    targets, notes = match_targets(
        table, learned.classes, exclusive=learned.exclusive, where=wanted.where
    )
    exposure = refuse_known(
        run, table, by=wanted.group, allow_leak=wanted.allow_leak, reporter=wanted.reporter
    )
    # Rows that were set aside are appended at the end.
    sheet = _predict(run, replace(table, quarantined=()), device, wanted.reporter)
    return Fresh(
        sheet=replace(sheet, held_out=~exposure.known),
        targets=targets,
        groups=exposure.groups,
        notes=(*notes, *exposure.notes),
        stamps=exposure.stamps,
    )


def read_fresh(wanted: Wanted, *, held_out: bool) -> Fresh:
    """Read what a predictions file says of rows, and make sure that it held them out.

    Args:
        wanted: The rows; others in the file are left alone.
        held_out: All rows were held out, though the file does not say so.

    Raises:
        LeakageError: rows are not said to be held out.
        AlignmentError: rule, table and file disagree on classes or rows.
    """
    table, rule = wanted.table, wanted.rule
    file = open_sheet_file(
        wanted.where,
        classes=_name_columns(table) if rule is None else rule.classes,
        exclusive=table.exclusive if rule is None else rule.exclusive,
        held_out=held_out,
    )
    sheet = file.sheet
    _check_rule(rule, sheet.classes, wanted.where, exclusive=sheet.exclusive)
    targets, notes = match_targets(
        table, sheet.classes, exclusive=sheet.exclusive, where=wanted.where
    )
    sheet = align_sheet(sheet, table.ids)
    stamps: tuple[str, ...] = ()
    seen = np.flatnonzero(~sheet.held_out & sheet.readable)
    if len(seen):
        count = f"{len(seen):,} of {len(table):,} rows"
        text = f"{wanted.where} does not say that {count} were held out"
        if held_out:
            text = f"{wanted.where} says that {count} were not held out"
        if not wanted.allow_leak:
            told = shorten([repr(table.ids[row]) for row in seen])
            raise LeakageError(
                f"{text}: {told}. Expected rows that the model never saw, nor copies of them; "
                "where the file has no column 'held_out', --held-out says so of all rows. Or say "
                "--allow-leak to go on; all is stamped."
            )
        stamps = (f"LEAK: {text} (--allow-leak); scores are optimistic",)
    groups = None if wanted.group == "none" else table.groups
    if groups is None and wanted.group == "auto" and any(path.is_file() for path in table.images):
        wanted.reporter.begin("look for copies", len(table))
        groups = find_groups(table, progress=wanted.reporter.advance)
        wanted.reporter.end()
    return Fresh(
        sheet=sheet, targets=targets, groups=groups, notes=(*file.notes, *notes), stamps=stamps
    )


def match_targets(
    table: Table, classes: Sequence[str], *, exclusive: bool, where: str
) -> tuple[Float32, tuple[str, ...]]:
    """Put the targets of a table into the columns of a model, matched by name.

    A small batch seldom shows every class. Where the classes of a table are those that
    occur in it, one that does not occur is absent from every row.

    Args:
        table: With targets.
        classes: (C,) names that the model knows.
        exclusive: One class a row.
        where: The model, for messages.

    Returns:
        (N, C) targets, and notes.

    Raises:
        AlignmentError: the table has a class that the model has not, lacks a column that
            it would have to state, or its rows have not one class though they must.
    """
    unknown = [name for name in table.classes if name not in classes]
    if unknown:
        told = shorten([f"{name!r}{suggest(name, classes)}" for name in unknown])
        raise AlignmentError(
            f"the table has {len(unknown)} class(es) that {where} does not know: {told}. Expected "
            f"{shorten(classes, 20)}; --names maps what the table writes to these."
        )
    missing = [name for name in classes if name not in table.classes]
    if missing and _name_columns(table) is not None:
        raise AlignmentError(
            f"the table has no column for {shorten(missing)}, which {where} decides. Expected the "
            f"targets of all of {shorten(classes, 20)}."
        )
    targets = np.zeros((len(table), len(classes)), np.float32)
    targets[:, [classes.index(name) for name in table.classes]] = table.targets
    odd = np.flatnonzero(np.abs(targets.sum(axis=1) - 1) > SUM_SLACK)
    if exclusive and len(odd):
        told = shorten([repr(table.ids[row]) for row in odd])
        raise AlignmentError(
            f"{where} gives each row one class, but {len(odd):,} of {len(table):,} rows have none "
            f"or several: {told}. Expected one class for each row."
        )
    return targets, (f"no row of the table is of class {shorten(missing, 20)}",) if missing else ()


def pool_fresh(fresh: Fresh, names: Sequence[str], way: Pool) -> Fresh:
    """Make one row of each group; it is drawn alone for the intervals.

    Args:
        fresh: Rows.
        names: (N,) group of each row.
        way: "mean" or "max" of the probabilities. The target of a group is that of its
            rows if exclusive, else present where any row has it.

    Raises:
        InputError: classes are exclusive, and rows of a group have different ones.
    """
    sheet, groups = fresh.sheet, number(names)
    unique = np.unique(np.asarray(names))
    probs = pool_rows(sheet.probs, groups, way)
    targets = pool_rows(fresh.targets, groups, "max")
    lowest = -pool_rows(-fresh.targets, groups, "max")
    odd = np.flatnonzero((lowest != targets).any(axis=1))
    if sheet.exclusive and len(odd):
        told = shorten([repr(str(name)) for name in unique[odd]])
        raise InputError(
            f"{len(odd):,} of {len(unique):,} groups hold rows of different classes: {told}. "
            "Classes are exclusive, so a group that is decided once needs one class; check the "
            "labels or the group column, or leave out --by-group."
        )
    lost = np.asarray(np.isnan(probs).any(axis=1), np.bool_)
    held_out = np.ones(len(unique), np.bool_)
    np.logical_and.at(held_out, groups, sheet.held_out)
    pooled = Predictions(
        ids=tuple(str(name) for name in unique),
        classes=sheet.classes,
        probs=probs,
        exclusive=sheet.exclusive,
        held_out=held_out,
        errors=tuple(
            "none of its rows has a prediction" if each else None for each in lost.tolist()
        ),
    )
    note = f"{len(sheet):,} rows are decided as {len(unique):,} groups, by the {way} of each"
    if lost.any():
        note += f"; {int(lost.sum()):,} of them have no prediction"
    return replace(fresh, sheet=pooled, targets=targets, groups=None, notes=(*fresh.notes, note))


def list_unread(sheet: Predictions, table: Table) -> tuple[tuple[str, str], ...]:
    """List the rows without a prediction, and why, those set aside last.

    Args:
        sheet: Predictions of the table's rows.
        table: The rows, and those that were set aside.

    Returns:
        Pairs of id and reason.
    """
    reasons = sheet.errors or (None,) * len(sheet)
    found = [
        (sheet.ids[row], reasons[row] or "not predicted") for row in np.flatnonzero(~sheet.readable)
    ]
    return (*found, *((each.id, each.reason) for each in table.quarantined))


def _predict(run: Run, table: Table, device: str, reporter: Reporter) -> Predictions:
    try:
        # Here, not above: predictions files are graded without torch.
        from loupe.ensembles import predict  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"a run predicts with {error.name}; install it with: pip install 'loupe-vision[train]'"
        ) from None
    return predict(run, table, device=device, reporter=reporter)


def _name_columns(table: Table) -> tuple[str, ...] | None:
    """Return the classes of a table that names all; None where it has those that occur."""
    return None if table.exclusive or table.layout.name in LISTED else table.classes


def _check_rule(rule: Rule | None, classes: Sequence[str], where: str, *, exclusive: bool) -> None:
    """Refuse a rule for other classes before anything is predicted."""
    if rule is None:
        return
    if sorted(rule.classes) != sorted(classes) or rule.exclusive != exclusive:
        kinds = {True: "exclusive", False: "each alone"}
        raise AlignmentError(
            f"the rule is for {shorten(rule.classes)} ({kinds[rule.exclusive]}); {where} has "
            f"{shorten(classes)} ({kinds[exclusive]}). Expected the same; run 'loupe decide' on it."
        )
