"""Weighting: sums and means over rows under one or many sets of row weights.

A fold is a row of zeros and ones, a bootstrap resample a row of counts, and B
resamples are one matrix; all scores are sums of this kind. It must not know any
score.

Shapes: N rows, C classes, B sets of weights (resamples). `...` stands for no
axis where weights are (N,) or absent, and for B where they are (B, N).
"""

from __future__ import annotations

import math
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


def read_weights(
    first: NDArray[Any], second: NDArray[Any], weights: Weights | None
) -> Float64 | None:
    """Check the shapes of one call and return the weights as float64.

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
    return np.asarray(weights, dtype=np.float64)


def sum_rows(flags_NC: Bool, weights: Float64 | None) -> Float64:
    """Add up the weights of flagged rows per column, some columns at a time.

    Shape:
        flags_NC: (N, C). weights: (N,) or (B, N). Returns (..., C).
    """
    if weights is None:
        return np.asarray(flags_NC.sum(axis=0, dtype=np.float64))
    sums = np.empty((*weights.shape[:-1], flags_NC.shape[1]))
    step = max(1, 16 * BLOCK // max(1, len(flags_NC)))
    for start in range(0, flags_NC.shape[1], step):
        part = slice(start, start + step)
        sums[..., part] = weights @ flags_NC[:, part].astype(np.float64)
    return sums


def sum_cells(cell_N: Integers, values_N: Float64, size: int, weights: Float64 | None) -> Float64:
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
    sums = [np.bincount(cell_N, w * values_N, minlength=size) for w in flat]
    return np.reshape(sums, (*weights.shape[:-1], size))


def average(values_N: Float64 | Bool, weights: Float64 | None) -> Float64:
    """Return the weighted mean over rows; NaN where all weights are 0.

    Shape:
        values_N: (N,). weights: (N,) or (B, N). Returns (...).
    """
    if weights is None:
        return np.asarray(values_N.mean())
    return divide(weights @ values_N, weights.sum(axis=-1))


def divide(above: object, below: object, *, empty: float = math.nan) -> Float64:
    """Divide, without a warning; `empty` where the divisor is 0.

    Examples:
        >>> divide([1.0, 1.0], [2.0, 0.0]).tolist()
        [0.5, nan]
    """
    a, b = np.broadcast_arrays(np.asarray(above, float), np.asarray(below, float))
    return np.asarray(np.divide(a, b, out=np.full(a.shape, float(empty)), where=b != 0))
