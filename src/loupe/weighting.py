"""Weighting: sums and means over rows under one or many sets of row weights.

A fold is a row of zeros and ones, a bootstrap resample a row of counts, and B
resamples are one matrix; all scores are sums of this kind. It must not know any
score.

Shapes: N rows, C classes, B sets of weights (resamples). `...` stands for no
axis where weights are (N,) or absent, and for B where they are (B, N).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loupe.errors import InputError

Bool = NDArray[np.bool_]
Float64 = NDArray[np.float64]
Floats = NDArray[np.floating]
Integers = NDArray[np.integer]
Weights = Floats | Integers | Bool

BLOCK = 1 << 19
"""Most weights held at once (4 MB as float64): a block then stays in cache."""
_FEW_SETS = 8  # up to so many, a pass over the rows for each beats a product of matrices
_FEW_CELLS = 64  # beyond, a row of zeros with a single value in it is a waste


def read_weights(
    first: NDArray[Any], second: NDArray[Any], weights: Weights | None
) -> Weights | None:
    """Check the shapes of one call and return the weights, at the type they have.

    Args:
        first: Targets.
        second: Predictions.
        weights: Weight of each row; None stays None.

    Shape:
        first, second: (N, C). weights: (N,) or (B, N).

    Raises:
        InputError: shapes disagree.
    """
    if first.ndim != 2 or first.shape != second.shape:
        raise InputError(
            f"targets have shape {first.shape} and predictions {second.shape}; expected "
            "the same (N, C) twice: a row a sample, a column a class."
        )
    if weights is None:
        return None
    if weights.ndim not in {1, 2} or weights.shape[-1] != len(first):
        raise InputError(
            f"weights have shape {weights.shape}; expected ({len(first)},) or (B, {len(first)})."
        )
    return weights


def cut_rows(rows: int, width: int) -> Iterator[slice]:
    """Cut rows so that a float64 copy of a part stays small.

    Args:
        rows: How many there are.
        width: Numbers in a row.

    Yields:
        Slices, together all rows; one slice where the table is small.
    """
    step = max(1, 4 * BLOCK // max(1, width))
    for start in range(0, rows, step):
        yield slice(start, start + step)


def total_weight(rows: int, weights: Weights | None) -> Float64:
    """Return the sum of the weights, (...); the number of rows if there are none."""
    return np.asarray(rows if weights is None else weights.sum(axis=-1), dtype=np.float64)


def sum_rows(values_NC: Bool | Floats, weights: Weights | None) -> Float64:
    """Add up weight times value per column, some rows at a time.

    Shape:
        values_NC: (N, C). weights: (N,) or (B, N). Returns (..., C).
    """
    if weights is None:
        return np.asarray(values_NC.sum(axis=0, dtype=np.float64))
    rows, columns = values_NC.shape
    sums = np.zeros((*weights.shape[:-1], columns))
    for part in cut_rows(rows, max(columns, weights.size // max(1, rows))):
        sums += _as_float64(weights[..., part]) @ _as_float64(values_NC[part])
    return sums


def sum_cells(cell_N: Integers, values_N: Float64, size: int, weights: Weights | None) -> Float64:
    """Add up weight times value per cell.

    Args:
        cell_N: Number of the cell of each row, 0 to size - 1.
        values_N: Value of each row.
        size: Number of cells.
        weights: Weight of each row; 1 if absent.

    Shape:
        cell_N, values_N: (N,). weights: (N,) or (B, N). Returns (..., size).
    """
    if weights is None:
        return np.bincount(cell_N, values_N, minlength=size).astype(np.float64)
    flat = weights.reshape(-1, len(cell_N))
    if len(flat) <= _FEW_SETS or size > _FEW_CELLS:
        sums = [np.bincount(cell_N, w * values_N, minlength=size) for w in flat]
        return np.reshape(np.asarray(sums, np.float64), (*weights.shape[:-1], size))
    total = np.zeros((len(flat), size))
    for part in cut_rows(len(cell_N), max(size, len(flat))):
        spread = np.zeros((len(cell_N[part]), size))
        spread[np.arange(len(spread)), cell_N[part]] = values_N[part]
        total += _as_float64(flat[:, part]) @ spread
    return total.reshape(*weights.shape[:-1], size)


def average(values_N: Float64 | Bool, weights: Weights | None) -> Float64:
    """Return the weighted mean over rows; NaN where all weights are 0.

    Shape:
        values_N: (N,). weights: (N,) or (B, N). Returns (...).
    """
    if weights is None:
        return np.asarray(values_N.mean())
    return divide(sum_rows(values_N[:, None], weights)[..., 0], total_weight(0, weights))


def divide(above: object, below: object, *, empty: float = math.nan) -> Float64:
    """Divide, without a warning; `empty` where the divisor is 0.

    Examples:
        >>> divide([1.0, 1.0], [2.0, 0.0]).tolist()
        [0.5, nan]
    """
    a, b = np.broadcast_arrays(np.asarray(above, float), np.asarray(below, float))
    return np.asarray(np.divide(a, b, out=np.full(a.shape, float(empty)), where=b != 0))


def _as_float64(values: NDArray[Any]) -> Float64:
    return np.asarray(values, dtype=np.float64)
