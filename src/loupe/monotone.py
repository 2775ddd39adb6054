"""Monotone: maps of a probability that never fall, fitted to one column by log loss.

Owns the numbers: Platt's line on the logit, the isotonic stairs, and the search for a
zero. It must not know classes, parts or which map is better.

Shapes: N rows, B blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from loupe.calibration import EPS, Float32, Float64, squash, take_logits

Line = tuple[float, ...]
Slope = Callable[[float], tuple[float, float]]

BLOCK_ROWS = 10
"""Fewest rows that a value of an isotonic map is the mean of."""
CELLS = 4096
"""More rows than that are put into cells of the logit, 0.008 wide or less, to fit a line."""

_STEPS = 60
_CLOSE = 1e-5
"""A last step of Newton this small leaves an error of its square."""
_FLAT = 1e-6
_RIDGE = 1e-9
"""Added to the curvature, so that a column of one value can be fitted."""


def fit_line(
    targets_N: Float32, probs_N: Float32, weights_N: Float64 | None = None
) -> tuple[float, float]:
    """Fit slope a and intercept b of squash(a * logit(p) + b), a 0 or above.

    Targets are moved to (n + 1) / (n + 2) and 1 / (n + 2), n being the positives and the
    negatives: so the fit stays finite where the rows are told apart without a fault.

    Args:
        targets_N: In [0, 1].
        probs_N: In [0, 1].
        weights_N: How many rows each stands for; 1 without it.

    Returns:
        Slope and intercept; 1 and 0 where all rows are positive, or none.

    References:
        Platt (1999), "Probabilistic outputs for support vector machines", section 2.2;
        Lin, Lin & Weng (2007), "A note on Platt's probabilistic outputs for support
        vector machines".
    """
    t = targets_N.astype(np.float64)
    rows = np.ones(len(t)) if weights_N is None else weights_N
    positives = float(rows @ t)
    negatives = float(rows @ (1 - t))
    if positives <= 0 or negatives <= 0:
        return 1.0, 0.0
    x, t, weights = condense(take_logits(probs_N.astype(np.float64)), t, rows)
    t = t * (positives + 1) / (positives + 2) + (1 - t) / (negatives + 2)
    middle = float(np.average(x, weights=weights))
    spread = math.sqrt(np.average((x - middle) ** 2, weights=weights))
    if spread < _FLAT:
        spread = 1.0  # Equal but for rounding: there is nothing to scale.
    # Scaled, the two parameters are nearly independent, and steps are as large as can be.
    a, b = _fit_logistic((x - middle) / spread, t, weights)
    if a < 0:
        share = float(np.average(t, weights=weights))
        return 0.0, math.log(share / (1 - share))
    return a / spread, b - a * middle / spread


def fit_stairs(
    targets_N: Float32, probs_N: Float32, weights_N: Float64 | None = None
) -> tuple[Line, Line]:
    """Fit the knots and values of an isotonic map.

    Adjacent violators are pooled into blocks, of `BLOCK_ROWS` rows or more; each block has
    a knot at its mean probability. A value is kept as far from 0 and 1 as one more row, of
    the overall share of positives, would take it from there.

    Args:
        targets_N: In [0, 1].
        probs_N: In [0, 1].
        weights_N: How many rows each stands for; 1 without it.

    Returns:
        Rising knots, and their values; 0 and 1 mapped to themselves where all rows are
        positive, or none.

    References:
        Zadrozny & Elkan (2002), "Transforming classifier scores into accurate multiclass
        probability estimates"; Oron & Flournoy (2017), "Centered isotonic regression"
        (one knot a block).
    """
    rows = np.ones(len(targets_N)) if weights_N is None else weights_N
    share = float(np.average(targets_N, weights=rows))
    if not 0 < share < 1:
        return (0.0, 1.0), (0.0, 1.0)
    places, cell = np.unique(probs_N, return_inverse=True)
    sizes, hits = np.bincount(cell, rows).astype(float), np.bincount(cell, rows * targets_N)
    _, first = pool_violators(hits / sizes, sizes)
    first = first[_merge_small(np.add.reduceat(np.bincount(cell), first))]
    centres = np.add.reduceat(sizes * places, first)
    sizes, hits = np.add.reduceat(sizes, first), np.add.reduceat(hits, first)
    values = np.clip(hits / sizes, share / (sizes + 1), 1 - (1 - share) / (sizes + 1))
    # A small block of no positives may now lie above the next one: hence once more.
    values, first = pool_violators(values, sizes)
    knots = np.add.reduceat(centres, first) / np.add.reduceat(sizes, first)
    knots = np.clip(knots, places[0], places[-1])
    return tuple(knots.tolist()), tuple(values.tolist())


def pool_violators(values_N: Float64, weights_N: Float64) -> tuple[Float64, NDArray[np.intp]]:
    """Return the nearest sequence that never falls, as blocks of equal values.

    Args:
        values_N: In order.
        weights_N: Above 0.

    Returns:
        Value of each block, rising, and the row at which each begins.

    References:
        Barlow, Bartholomew, Bremner & Brunk (1972), "Statistical inference under order
        restrictions" (pool adjacent violators).

    Examples:
        >>> pool_violators(np.array([1.0, 3, 2, 4]), np.ones(4))
        (array([1. , 2.5, 4. ]), array([0, 1, 3]))
    """
    starts = np.arange(len(values_N))
    means, sizes = values_N.astype(np.float64), weights_N.astype(np.float64)
    while len(means) > 1:
        # A run that falls ends up in one block whatever else is pooled, so runs go at once.
        first = np.flatnonzero(np.concatenate([[True], means[1:] > means[:-1]]))
        if len(first) == len(means):
            break
        sums = np.add.reduceat(means * sizes, first)
        sizes, starts = np.add.reduceat(sizes, first), starts[first]
        means = sums / sizes
    return means, starts


def condense(x_N: Float64, t_N: Float64, weights_N: Float64) -> tuple[Float64, Float64, Float64]:
    """Put many rows into `CELLS` narrow cells of x; few are left as they are.

    Args:
        x_N: Any finite numbers.
        t_N: Targets.
        weights_N: How many rows each stands for.

    Returns:
        Mean of x, mean of t and weight of each cell that is not empty.
    """
    if len(x_N) <= CELLS:
        return x_N, t_N, weights_N
    low, high = float(x_N.min()), float(x_N.max())
    cell = ((x_N - low) * (CELLS / max(high - low, EPS))).astype(np.intp)
    counts = np.bincount(cell, weights_N).astype(float)
    used = counts > 0
    sums_x, sums_t = (np.bincount(cell, weights_N * values)[used] for values in (x_N, t_N))
    return sums_x / counts[used], sums_t / counts[used], counts[used]


def find_zero(slope: Slope, low: float, high: float) -> float:
    """Find where a rising function is 0, by Newton's steps within a shrinking range.

    Args:
        slope: Gives the function, and its derivative, at a place.
        low: Lower end of the range, above 0.
        high: Upper end of the range, which holds 1.

    Returns:
        The place, an end where the function is 0 beyond it, or 1 where it is flat.

    Examples:
        >>> round(find_zero(lambda u: (u * u - 4, 2 * u), 0.05, 20), 6)
        2.0
    """
    at = 1.0
    for _ in range(_STEPS):
        value, steepness = slope(at)
        low, high = (at, high) if value < 0 else (low, at)
        if value == 0 or steepness <= 0:
            return at
        step = at - value / steepness
        if not low < step < high:
            step = math.sqrt(low * high)
        if abs(step - at) < _CLOSE * at:
            return step
        at = step
    return at


def _fit_logistic(x: Float64, t: Float64, weights: Float64) -> tuple[float, float]:
    """Minimise the log loss of squash(a x + b) by Newton's steps, halved where they overshoot."""

    def loss(a: float, b: float) -> float:
        z = a * x + b
        return float(weights @ (np.logaddexp(0, z) - t * z))

    share = float(np.average(t, weights=weights))
    a, b = 0.0, math.log(share / (1 - share))
    now = loss(a, b)
    for _ in range(_STEPS):
        s = squash(a * x + b)
        rest, bend = weights * (s - t), weights * s * (1 - s)
        down_a, down_b, moved = float(rest @ x), float(rest.sum()), bend * x
        aa, ab, bb = float(moved @ x) + _RIDGE, float(moved.sum()), float(bend.sum()) + _RIDGE
        area = aa * bb - ab * ab
        step_a, step_b = (bb * down_a - ab * down_b) / area, (aa * down_b - ab * down_a) / area
        if max(abs(step_a), abs(step_b)) < _CLOSE:
            return a - step_a, b - step_b
        scale = 1.0
        while (then := loss(a - scale * step_a, b - scale * step_b)) > now and scale > EPS:
            scale /= 2
        a, b, now = a - scale * step_a, b - scale * step_b, then
    return a, b


def _merge_small(rows: NDArray[np.intp]) -> list[int]:
    """Return which blocks begin a merged one, so that each holds `BLOCK_ROWS` or more."""
    first, held = [0], 0
    for block, size in enumerate(rows.tolist()):
        if held >= BLOCK_ROWS:
            first.append(block)
            held = 0
        held += size
    if held < BLOCK_ROWS and len(first) > 1:
        first.pop()
    return first
