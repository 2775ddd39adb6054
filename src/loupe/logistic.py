"""Logistic regression with a ridge, in plain numpy: small, exact, the same everywhere.

Made to tell two kinds of rows apart by some dozens of numbers, not to be a model of
anything. Both kinds count alike, however many rows each has. It must not know images,
tables or folds.

Shapes: N rows, D numbers of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loupe.errors import InputError
from loupe.weighting import Bool, Float64, Floats

_MOST_STEPS = 50
_ENOUGH = 1e-8  # largest change of a coefficient that still counts
_LARGEST_LOGIT = 30.0  # beyond, a probability is 0 or 1 in float32 anyway


@dataclass(frozen=True, slots=True, kw_only=True)
class Logistic:
    """A fitted regression: logit = intercept + rows @ weights.

    Attributes:
        intercept: Logit of a row of zeros.
        weights: (D,) change of the logit by one unit of each number.
    """

    intercept: float
    weights: Float64

    def predict(self, rows_ND: Floats) -> Float64:
        """Return the probability of True of each row, (N,), in (0, 1)."""
        logits = self.intercept + rows_ND @ self.weights
        return _sigmoid(np.clip(logits, -_LARGEST_LOGIT, _LARGEST_LOGIT))


def fit_logistic(rows_ND: Floats, truth_N: Bool, *, penalty: float = 1.0) -> Logistic:
    """Fit by Newton's method with halved steps; the optimum is unique.

    Minimised is sum_i c_i log(1 + exp(-y_i logit_i)) + penalty / 2 * |weights|^2 with
    y = +-1. The c_i give both kinds the same total, so that without any difference the
    probability is 0.5 whatever the sizes, and a fold that happens to hold more rows of
    one kind does not shift the others. All c_i sum to 4 n+ n- / N: N for kinds of one
    size, and little where one kind has few rows, so that the ridge then weighs more.

    Args:
        rows_ND: Numbers of each row, each of unit scale.
        truth_N: The kind of each row.
        penalty: Of the ridge, above 0; the intercept is free.

    Shape:
        rows_ND: (N, D). truth_N: (N,).

    Raises:
        InputError: shapes disagree, values are not finite, only one kind is there,
            or the penalty is not above 0.

    References:
        Hastie, Tibshirani & Friedman (2009), "The elements of statistical
        learning", sections 4.4.1 and 4.4.4.

    Examples:
        >>> rows = np.array([[-1.0], [-0.5], [0.5], [1.0]])
        >>> fit = fit_logistic(rows, np.array([False, False, True, True]))
        >>> fit.predict(rows).round(2).tolist()
        [0.28, 0.38, 0.62, 0.72]
    """
    rows = np.asarray(rows_ND, np.float64)
    _check(rows, truth_N, penalty)
    design = np.column_stack([np.ones(len(rows)), rows])
    ridge = np.full(design.shape[1], penalty)
    ridge[0] = 0
    counts = _count_alike(truth_N)
    sign = np.where(truth_N, 1.0, -1.0)

    def loss(coefficients: Float64) -> float:
        margins = sign * (design @ coefficients)
        return float(counts @ np.logaddexp(0, -margins) + ridge @ coefficients**2 / 2)

    found, reached = np.zeros(design.shape[1]), np.inf
    for _ in range(_MOST_STEPS):
        step = _find_step(design, truth_N, counts, ridge, found)
        size, tried = 1.0, loss(found - step)
        while tried > reached and size > _ENOUGH:
            size /= 2
            tried = loss(found - size * step)
        found, reached = found - size * step, tried
        if np.abs(size * step).max() < _ENOUGH:
            break
    return Logistic(intercept=float(found[0]), weights=found[1:])


def _find_step(
    design: Float64, truth: Bool, counts: Float64, ridge: Float64, at: Float64
) -> Float64:
    probs = _sigmoid(np.clip(design @ at, -_LARGEST_LOGIT, _LARGEST_LOGIT))
    slope = design.T @ (counts * (probs - truth)) + ridge * at
    bend = (design * (counts * probs * (1 - probs))[:, None]).T @ design + np.diag(ridge)
    # The intercept alone has no ridge; where all rows are certain its bend vanishes.
    bend[0, 0] += _ENOUGH
    return np.asarray(np.linalg.solve(bend, slope))


def _count_alike(truth: Bool) -> Float64:
    n, positive = len(truth), int(truth.sum())
    half = 2 * positive * (n - positive) / n
    return np.where(truth, half / positive, half / (n - positive))


def _sigmoid(logits: Float64) -> Float64:
    return np.asarray(1 / (1 + np.exp(-logits)))


def _check(rows: Float64, truth: Bool, penalty: float) -> None:
    if rows.ndim != 2 or truth.shape != rows.shape[:1]:
        raise InputError(
            f"rows have shape {rows.shape} and truth {truth.shape}; expected (N, D) and (N,)."
        )
    if not np.isfinite(rows).all():
        raise InputError("some numbers are NaN or infinite; expected finite ones.")
    if truth.all() or not truth.any():
        raise InputError(f"all {len(truth)} rows are of one kind; expected rows of both.")
    if not penalty > 0:
        raise InputError(f"the penalty is {penalty}; expected a number above 0.")
