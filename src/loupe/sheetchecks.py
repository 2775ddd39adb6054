"""Sheet checks: numbers of a file that are no probabilities, and what they look like.

It must not repair anything: a percentage is refused, not divided.

Shapes: R rows of the file, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from loupe.errors import InputError, shorten
from loupe.evidence import SUM_SLACK
from loupe.sheetcells import RawSheet

Float32 = NDArray[np.float32]
Rows = NDArray[np.intp]

_PERCENT = 100
_SHARE = 0.9
"""Of the rows of one kind, for a guess what all of them are."""


def check_missing(
    raw: RawSheet, ids: pa.ChunkedArray, probs: Float32, errors: pa.ChunkedArray | None
) -> None:
    """Refuse rows without a number, unless an error says why.

    Args:
        raw: The file, for the place of a row.
        ids: Of the rows.
        probs: NaN where a cell has no number.
        errors: Why a row has no probabilities; null where it has.

    Shape:
        ids, errors: (R,). probs: (R, C).

    Raises:
        InputError: a row has no number in some column; all are counted.
    """
    lost = np.isnan(probs[:, 0])
    for column in probs.T[1:]:
        lost |= np.isnan(column)
    if not lost.any():
        return
    if errors is not None:
        explained = pc.is_valid(errors).to_numpy()
        whole = np.isnan(probs[lost]).all(axis=1)
        lost[np.flatnonzero(lost)[whole & explained[lost]]] = False
    rows = np.flatnonzero(lost)
    if len(rows):
        told = raw.spell_cells(rows, lambda row: _spell(ids, row, probs[row]))
        raise InputError(
            f"{raw.where}: {len(rows)} of {len(raw)} row(s) lack probabilities (empty or NaN): on "
            f"{told}. Expected a number for each class. Predict these rows, take them out, or say "
            "in a column 'error' why they have none."
        )


def check_range(raw: RawSheet, ids: pa.ChunkedArray, probs: Float32) -> None:
    """Refuse numbers outside [0, 1].

    Args:
        raw: The file, for the place of a row.
        ids: Of the rows.
        probs: NaN passes.

    Shape:
        ids: (R,). probs: (R, C).

    Raises:
        InputError: a number is outside; all such rows are counted.
    """
    out = np.zeros(len(probs), np.bool_)
    for column in probs.T:
        out |= (column < 0) | (column > 1)
    rows = np.flatnonzero(out)
    if len(rows):
        told = raw.spell_cells(rows, lambda row: _spell(ids, row, probs[row]))
        raise InputError(
            f"{raw.where}: {len(rows)} of {len(raw)} row(s) have numbers outside [0, 1]: on {told}."
            f"{_guess_scale(probs)} Expected probabilities."
        )


def find_off(probs: Float32) -> Rows:
    """Return the rows that do not sum to 1; rows with NaN are left out.

    Args:
        probs: (R, C).
    """
    sums = np.zeros(len(probs))
    for column in probs.T:
        sums += column
    # NaN compares False.
    return np.flatnonzero(np.abs(sums - 1) > SUM_SLACK).astype(np.intp)


def check_sums(raw: RawSheet, ids: pa.ChunkedArray, probs: Float32) -> None:
    """Refuse rows of exclusive classes that do not sum to 1.

    Args:
        raw: The file, for the place of a row.
        ids: Of the rows.
        probs: NaN passes.

    Shape:
        ids: (R,). probs: (R, C).

    Raises:
        InputError: a row does not sum to 1; all such rows are counted.
    """
    rows = find_off(probs)
    if not len(rows):
        return
    told = raw.spell_cells(rows, lambda row: _spell(ids, row, probs[row], total=True))
    sums = probs[rows].sum(axis=1, dtype=np.float64)
    hint = " Divide each row by its sum if the numbers are votes."
    if len(rows) > _SHARE * len(probs) and (sums < 1).mean() > _SHARE:
        hint = " Most sums are below 1: is the column of a class missing?"
    elif len(rows) > _SHARE * len(probs):
        hint = (
            " Nearly all rows are off, as sigmoids are: if several classes can be present at once, "
            "the table must say so (a column for each class); else apply softmax to the logits."
        )
    raise InputError(
        f"{raw.where}: classes are exclusive, but {len(rows)} of {len(raw)} row(s) do not sum to "
        f"1: on {told}.{hint}"
    )


def check_unique(raw: RawSheet, ids: Sequence[str], rows: Rows | None) -> None:
    """Refuse ids that stand twice.

    Args:
        raw: The file, for the place of a row.
        ids: Of one member.
        rows: Where they stand in the file; None if these are all its rows.

    Raises:
        InputError: an id stands twice; all such ids are counted.
    """
    if len(set(ids)) == len(ids):
        return
    at: dict[str, list[int]] = {}
    places = range(len(ids)) if rows is None else rows.tolist()
    for row, key in zip(places, ids, strict=True):
        at.setdefault(key, []).append(row)
    twice = [
        f"{key!r} on {shorten([raw.spell_row(row) for row in found], 3)}"
        for key, found in at.items()
        if len(found) > 1
    ]
    raise InputError(
        f"{raw.where}: {len(twice)} id(s) stand in more than one row: {shorten(twice, 4)}. "
        "Expected one row for each; average several predictions of an image, or name the model "
        "of each row in a column 'member'."
    )


def _spell(ids: pa.ChunkedArray, row: int, values: Float32, *, total: bool = False) -> str:
    told = f"sum {values.sum():.4g}" if total else shorten([f"{v:.4g}" for v in values], 3)
    return f"{ids[row].as_py()!r}: {told}"


def _guess_scale(probs: Float32) -> str:
    low, high = float(np.nanmin(probs)), float(np.nanmax(probs))
    if low < 0:
        return (
            " They look like logits: apply the sigmoid, or softmax where classes are exclusive."
            if np.isfinite(low)
            else " They look like log probabilities: apply exp."
        )
    if high <= _PERCENT and (probs > 1).mean() > 1 - _SHARE:
        return " They look like percentages: divide by 100."
    return ""
