"""Predictions: probabilities of some rows, and whether they were held out.

Owns the sheet and its Parquet form. It must not compute metrics or know torch.

Shapes: N rows, C classes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from loupe.errors import AlignmentError, shorten
from loupe.table import ALWAYS_TRAINED, Float32, Int16, Table

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """A sheet of N sample ids by C class names of probabilities.

    Attributes:
        ids: (N,) ids, each once for each member.
        classes: (C,) names.
        probs: (N, C) float32 in [0, 1]; NaN where the image could not be read.
        exclusive: Rows sum to 1.
        held_out: (N,) True where the probability comes only from members that
            saw neither the row nor its group.
        folds: (N,) fold whose member predicted the row; None for new images.
        errors: (N,) why a row has no probability; None where it has.
    """

    ids: tuple[str, ...]
    classes: tuple[str, ...]
    probs: Float32
    exclusive: bool
    held_out: Bools
    folds: Int16 | None = None
    errors: tuple[str | None, ...] | None = None

    def __post_init__(self) -> None:
        n = len(self.ids)
        if self.probs.shape != (n, len(self.classes)) or self.held_out.shape != (n,):
            raise AlignmentError(
                f"predictions of {n} ids and {len(self.classes)} classes have probabilities of "
                f"shape {self.probs.shape} and held-out marks of shape {self.held_out.shape}."
            )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def readable(self) -> Bools:
        """(N,) True where the row has probabilities."""
        return np.asarray(~np.isnan(self.probs).any(axis=1), dtype=np.bool_)


def average_sheets(
    sheets: Sequence[Predictions], weights: Sequence[float] | None = None
) -> Predictions:
    """Return the mean of equal sheets; a row is held out if it is in all.

    Args:
        sheets: One or more sheets with the same ids and classes, in one order.
        weights: One for each sheet, summing to 1; equal if None.

    Raises:
        AlignmentError: ids or classes differ; the first differing ids are named.
    """
    first = sheets[0]
    for other in sheets[1:]:
        _check_aligned(first, other)
    shares = [1 / len(sheets)] * len(sheets) if weights is None else weights
    total = np.zeros(first.probs.shape)
    for sheet, share in zip(sheets, shares, strict=True):
        total += sheet.probs.astype(np.float64) * share
    return Predictions(
        ids=first.ids,
        classes=first.classes,
        probs=total.astype(np.float32),
        exclusive=first.exclusive,
        held_out=np.logical_and.reduce([sheet.held_out for sheet in sheets]),
        folds=first.folds,
        errors=first.errors,
    )


def append_quarantined(sheet: Predictions, table: Table) -> Predictions:
    """Return a sheet with the rows a table set aside, marked with their reason.

    Args:
        sheet: Predictions of the table's rows.
        table: Its `quarantined` rows are added at the end, without probabilities.
    """
    extra = len(table.quarantined)
    if not extra:
        return sheet
    nothing = np.full((extra, len(sheet.classes)), np.nan, np.float32)
    folds = None
    if sheet.folds is not None:
        folds = np.concatenate([sheet.folds, np.full(extra, ALWAYS_TRAINED, np.int16)])
    return Predictions(
        ids=sheet.ids + tuple(row.id for row in table.quarantined),
        classes=sheet.classes,
        probs=np.concatenate([sheet.probs, nothing]),
        exclusive=sheet.exclusive,
        held_out=np.concatenate([sheet.held_out, np.zeros(extra, np.bool_)]),
        folds=folds,
        errors=(sheet.errors or (None,) * len(sheet))
        + tuple(row.reason for row in table.quarantined),
    )


def decide_plainly(predictions: Predictions) -> Bools:
    """Decide without a fitted rule: argmax if exclusive, else p >= 0.5.

    Rows that could not be read are False in every column.

    Returns:
        (N, C) bool.
    """
    if not predictions.exclusive:
        # NaN >= 0.5 is False, so unreadable rows stay empty.
        return np.asarray(predictions.probs >= 0.5, dtype=np.bool_)
    decisions = np.zeros(predictions.probs.shape, dtype=np.bool_)
    rows = np.flatnonzero(predictions.readable)
    decisions[rows, predictions.probs[rows].argmax(axis=1)] = True
    return decisions


def write_predictions(
    path: Path, members: dict[str, Predictions], targets: Float32 | None = None
) -> None:
    """Write the sheets of all members, one below the other, to Parquet.

    Columns: id, fold, member, held_out, error, `prob:<class>`, `target:<class>`.

    Args:
        path: The file; the caller makes the write atomic.
        members: Sheet of each member, with equal classes.
        targets: (N, C) targets of the ids, repeated for each member.
    """
    parts = [_to_arrow(name, sheet, targets) for name, sheet in members.items()]
    first = next(iter(members.values()))
    meta = json.dumps({"classes": first.classes, "exclusive": first.exclusive})
    pq.write_table(pa.concat_tables(parts).replace_schema_metadata({"loupe": meta}), path)


def read_predictions(path: Path) -> dict[str, Predictions]:
    """Read what `write_predictions` wrote.

    Args:
        path: The Parquet file.

    Returns:
        Member name to its sheet, in the order written.
    """
    sheet = pq.read_table(path)
    meta = json.loads(sheet.schema.metadata[b"loupe"])
    names = np.array(sheet["member"].to_pylist())
    members = dict.fromkeys(names.tolist())
    return {name: _from_arrow(sheet.filter(pa.array(names == name)), meta) for name in members}


def _to_arrow(member: str, sheet: Predictions, targets: Float32 | None) -> pa.Table:
    n = len(sheet)
    folds = [None] * n if sheet.folds is None else sheet.folds
    columns = {
        "id": pa.array(sheet.ids, pa.string()),
        "fold": pa.array(folds, pa.int16()),
        "member": pa.array([member] * n, pa.string()),
        "held_out": pa.array(sheet.held_out),
        "error": pa.array(sheet.errors or [None] * n, pa.string()),
    }
    for number, name in enumerate(sheet.classes):
        columns[f"prob:{name}"] = pa.array(sheet.probs[:, number], pa.float32())
    if targets is not None:
        for number, name in enumerate(sheet.classes):
            columns[f"target:{name}"] = pa.array(targets[:, number], pa.float32())
    return pa.table(columns)


def _from_arrow(sheet: pa.Table, meta: dict[str, object]) -> Predictions:
    classes = tuple(str(name) for name in meta["classes"])  # type: ignore[attr-defined]
    probs = [sheet[f"prob:{name}"].to_numpy() for name in classes]
    return Predictions(
        ids=tuple(sheet["id"].to_pylist()),
        classes=classes,
        probs=np.stack(probs, axis=1).astype(np.float32),
        exclusive=bool(meta["exclusive"]),
        held_out=sheet["held_out"].to_numpy(),
        folds=None if sheet["fold"].null_count else sheet["fold"].to_numpy().astype(np.int16),
        errors=tuple(sheet["error"].to_pylist()),
    )


def _check_aligned(first: Predictions, other: Predictions) -> None:
    if first.classes != other.classes or first.exclusive != other.exclusive:
        raise AlignmentError(f"classes differ: {first.classes} and {other.classes}.")
    if first.ids != other.ids:
        pairs = zip(first.ids, other.ids, strict=False)
        differing = [f"{a!r} / {b!r}" for a, b in pairs if a != b]
        detail = shorten(differing, 3) or f"{len(first.ids)} and {len(other.ids)} rows"
        raise AlignmentError(f"ids differ or stand in another order: {detail}.")
