"""Sheet files: predictions of any origin, as CSV or Parquet.

Owns what such a file may look like, and what is refused. Nothing is repaired: numbers
that are no probabilities are an error that says what they look like. It must not know
targets or runs.

Shapes: R rows of a file, N rows of a sheet (R, or one for each id where the file holds
several members), C classes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
from numpy.typing import NDArray

from loupe.aligning import ABSENT, guess_difference, match_ids
from loupe.errors import AlignmentError, InputError, shorten
from loupe.files import replacing
from loupe.predictions import Predictions, write_predictions
from loupe.sheetcells import (
    PARQUET_ENDINGS,
    TEXT_ENDINGS,
    RawSheet,
    load_raw,
    read_folds,
    read_ids,
    read_marks,
    read_numbers,
    read_texts,
)
from loupe.sheetchecks import check_missing, check_range, check_sums, check_unique, find_off
from loupe.sheetroles import PREFIX, ROLES, TARGET, Roles, find_roles

Float32 = NDArray[np.float32]
Rows = NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class SheetFile:
    """A file of predictions that was read.

    Attributes:
        sheet: Its rows; the plain mean where the file holds several members.
        notes: What was taken for what, for the screen.
    """

    sheet: Predictions
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Flat:
    """All R rows of a file, members one below the other."""

    ids: pa.ChunkedArray
    classes: tuple[str, ...]
    probs: Float32
    exclusive: bool
    held_out: NDArray[np.bool_]
    folds: NDArray[np.int16] | None
    errors: pa.ChunkedArray | None


def read_sheet_file(
    path: str | Path,
    *,
    classes: Sequence[str] | None = None,
    exclusive: bool | None = None,
    held_out: bool = False,
) -> Predictions:
    """Read predictions from a CSV or Parquet file.

    As `open_sheet_file`, without the notes.

    Args:
        path: The file.
        classes: Names of the classes; None takes every column of numbers.
        exclusive: The classes of a row sum to 1; None finds out.
        held_out: All rows were held out, though the file does not say so.

    Raises:
        InputError: as `open_sheet_file`.
        AlignmentError: as `open_sheet_file`.
    """
    return open_sheet_file(path, classes=classes, exclusive=exclusive, held_out=held_out).sheet


def open_sheet_file(
    path: str | Path,
    *,
    classes: Sequence[str] | None = None,
    exclusive: bool | None = None,
    held_out: bool = False,
) -> SheetFile:
    """Read predictions from a CSV or Parquet file, and say what was taken for what.

    Columns: `id` (or `image`, `file`, `path` and their like), a column for each class,
    named as the class or `prob:<class>`; maybe `fold`, `held_out` (true or false),
    `member` (each member has a row for each id; their plain mean is taken) and `error`
    (why a row has no probabilities). The out-of-fold sheet of a run has this form, too.

    Args:
        path: The file.
        classes: Names of the classes, in the order wanted; None takes every column of
            numbers.
        exclusive: The classes of a row sum to 1; None finds out.
        held_out: All rows were held out, though the file does not say so. Where the
            file says that a row was not, it was not.

    Raises:
        InputError: the file cannot be read, ids are missing or stand twice, or numbers
            are no probabilities: text, NaN without an error, outside [0, 1], or not
            summing to 1 where classes are exclusive.
        AlignmentError: a class has no column, or members predicted different rows.
    """
    raw = load_raw(Path(path))
    named = raw.meta.get("classes") if classes is None else classes
    roles = find_roles(raw, named)
    ids = read_ids(raw, roles.id)
    errors = read_texts(raw, roles.error) if roles.error else None
    probs = _read_probs(raw, roles)
    check_missing(raw, ids, probs, errors)
    check_range(raw, ids, probs)
    kind, notes = _choose_kind(raw, probs, wanted=exclusive)
    if kind:
        check_sums(raw, ids, probs)
    members = _part_members(raw, roles.member)
    marks = read_marks(raw, roles.held_out) if roles.held_out else np.full(len(raw), held_out)
    flat = _Flat(
        ids=ids,
        classes=roles.classes,
        probs=probs,
        exclusive=kind,
        held_out=marks,
        folds=read_folds(raw, roles.fold) if roles.fold else None,
        errors=errors,
    )
    if len(members) > 1:
        notes = (*notes, f"the plain mean of {len(members)} members is taken")
    sheet = _average(raw, flat, members)
    return SheetFile(
        sheet=sheet, notes=tuple(f"{raw.where}: {note}" for note in (*roles.notes, *notes))
    )


def write_sheet_file(path: str | Path, predictions: Predictions) -> None:
    """Write predictions so that `read_sheet_file` reads them back unchanged.

    CSV has the shortest text that reads back as the same float32, and empty cells where
    a row has no probabilities.

    Args:
        path: Ends in .csv, .tsv or .parquet; its folder is made.
        predictions: What to write.

    Raises:
        InputError: the path ends otherwise.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending in PARQUET_ENDINGS:
        with replacing(path) as temporary:
            write_predictions(temporary, {"all": predictions})
        return
    if ending not in TEXT_ENDINGS:
        raise InputError(
            f"{path}: predictions are written to {', '.join(TEXT_ENDINGS + PARQUET_ENDINGS)} files."
        )
    sheet = _compose(predictions)
    separator = "\t" if ending == ".tsv" else ","
    with replacing(path) as temporary, temporary.open("wb") as out:
        head = io.StringIO()
        csv.writer(head, delimiter=separator, lineterminator="\n").writerow(sheet.column_names)
        out.write(head.getvalue().encode())
        out.write(_spell_body(sheet, separator))


def align_sheet(predictions: Predictions, ids: Sequence[str]) -> Predictions:
    """Return the rows of given ids, in their order; other rows are left out.

    Args:
        predictions: In any order.
        ids: (N,) ids that are wanted.

    Raises:
        AlignmentError: ids are missing; all are counted, and a reason is guessed.
    """
    at = match_ids(predictions.ids, ids)
    lost = np.flatnonzero(at == ABSENT)
    if len(lost):
        missing = [ids[int(row)] for row in lost]
        wanted = set(ids)
        others = [key for key in predictions.ids if key not in wanted]
        raise AlignmentError(
            f"{len(lost)} of {len(ids)} ids have no prediction: "
            f"{shorten([repr(key) for key in missing])}.{guess_difference(missing, others)} "
            f"Expected a row for each id; there are {len(predictions)} rows, {len(others)} of them "
            "of other ids."
        )
    return take_rows(predictions, at, tuple(ids))


def take_rows(predictions: Predictions, rows: Rows, ids: tuple[str, ...]) -> Predictions:
    """Return some rows of a sheet; the sheet itself if these are all rows in their order.

    Args:
        predictions: The sheet.
        rows: (N,) positions.
        ids: (N,) ids that stand there.
    """
    if len(rows) == len(predictions) and np.array_equal(rows, np.arange(len(rows))):
        return predictions
    folds, errors = predictions.folds, predictions.errors
    return Predictions(
        ids=ids,
        classes=predictions.classes,
        probs=predictions.probs[rows],
        exclusive=predictions.exclusive,
        held_out=predictions.held_out[rows],
        folds=None if folds is None else folds[rows],
        errors=None if errors is None else tuple(errors[row] for row in rows),
    )


def _read_probs(raw: RawSheet, roles: Roles) -> Float32:
    """Read the columns of the classes."""
    probs = np.empty((len(raw), len(roles.columns)), np.float32)
    for at, name in enumerate(roles.columns):
        probs[:, at] = read_numbers(raw, name)
        # Its text is not needed any more, and is larger than the numbers.
        raw.columns.pop(name)
    return probs


def _choose_kind(
    raw: RawSheet, probs: Float32, *, wanted: bool | None
) -> tuple[bool, tuple[str, ...]]:
    """Tell whether classes are exclusive: by the table, the file, or their sums."""
    known = raw.meta.get("exclusive")
    if wanted is not None and known is not None and wanted != known:
        kinds = {True: "exclusive", False: "not exclusive"}
        raise AlignmentError(
            f"{raw.where}: its classes are {kinds[known]}, those of the table are "
            f"{kinds[wanted]}; expected predictions for the same kind of table."
        )
    if wanted is not None or known is not None:
        return bool(known if wanted is None else wanted), ()
    kind = probs.shape[1] > 1 and not len(find_off(probs))
    sums = "rows sum to 1" if kind else "rows do not sum to 1"
    said = f"classes are taken for {'' if kind else 'not '}exclusive: {sums}"
    return kind, (said,) if probs.shape[1] > 1 else ()


def _part_members(raw: RawSheet, column: str) -> list[Rows | None]:
    """Return the rows of each member, in order of appearance; [None] if there is one."""
    if not column:
        return [None]
    names = pc.fill_null(pc.cast(raw.columns[column], pa.string()), "").combine_chunks()
    coded = names.dictionary_encode()
    codes = coded.indices.to_numpy()
    count = len(coded.dictionary)
    if count == 1:
        return [None]
    return [np.flatnonzero(codes == number).astype(np.intp) for number in range(count)]


def _average(raw: RawSheet, flat: _Flat, members: Sequence[Rows | None]) -> Predictions:
    """Return the plain mean of members, in the order of the first."""
    first = _sheet_of(raw, flat, members[0])
    if len(members) == 1:
        return first
    total, held = first.probs.astype(np.float64), first.held_out.copy()
    for rows in members[1:]:
        other = _sheet_of(raw, flat, rows)
        at = match_ids(other.ids, first.ids)
        lost = int((at == ABSENT).sum())
        if lost or len(other) != len(first):
            raise AlignmentError(
                f"{raw.where}: members predicted different rows: one has {len(other)}, the first "
                f"has {len(first)}, of which it lacks {lost}. Expected the same ids for each."
            )
        other = take_rows(other, at, first.ids)
        if other.folds is not None and (other.folds != first.folds).any():
            odd = int((other.folds != first.folds).sum())
            raise AlignmentError(
                f"{raw.where}: {odd} row(s) have another fold for another member; expected "
                "members with the same folds. Give each a file of its own to blend them."
            )
        total += other.probs
        held &= other.held_out
    return replace(first, probs=(total / len(members)).astype(np.float32), held_out=held)


def _sheet_of(raw: RawSheet, flat: _Flat, rows: Rows | None) -> Predictions:
    """Return the rows of one member; all if None."""
    chosen: slice | Rows = slice(None) if rows is None else rows
    errors = flat.errors if flat.errors is None or rows is None else flat.errors.take(rows)
    ids = tuple((flat.ids if rows is None else flat.ids.take(rows)).to_pylist())
    check_unique(raw, ids, rows)
    return Predictions(
        ids=ids,
        classes=flat.classes,
        probs=flat.probs[chosen],
        exclusive=flat.exclusive,
        held_out=flat.held_out[chosen],
        folds=None if flat.folds is None else flat.folds[chosen],
        errors=None if errors is None else tuple(errors.to_pylist()),
    )


def _compose(predictions: Predictions) -> pa.Table:
    """Return the columns of a CSV; those that say nothing are left out."""
    columns: dict[str, object] = {"id": pa.array(predictions.ids, pa.string())}
    if predictions.folds is not None:
        columns["fold"] = pa.array(predictions.folds)
    if predictions.held_out.any():
        columns["held_out"] = pa.array(predictions.held_out)
    reserved = {"id", *ROLES}
    for at, name in enumerate(predictions.classes):
        values = np.ascontiguousarray(predictions.probs[:, at], np.float32)
        marked = name.casefold() in reserved or name != name.strip()
        marked = marked or name.startswith((PREFIX, TARGET))
        columns[f"{PREFIX}{name}" if marked else name] = pa.array(values, mask=np.isnan(values))
    if predictions.errors is not None and any(predictions.errors):
        columns["error"] = pa.array([error or "" for error in predictions.errors], pa.string())
    return pa.table(columns)


def _spell_body(sheet: pa.Table, separator: str) -> bytes:
    for style in ("none", "needed"):
        out = io.BytesIO()
        options = pcsv.WriteOptions(include_header=False, delimiter=separator, quoting_style=style)
        try:
            pcsv.write_csv(sheet, out, options)
        except pa.ArrowInvalid:
            # Some text holds a separator or a quote: then all text is quoted.
            continue
        return out.getvalue()
    raise InputError("ids or errors cannot be written as CSV; write a .parquet file.")
