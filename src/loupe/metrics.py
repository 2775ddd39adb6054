"""Statistics and scores of plain arrays.

Every score is computed on a whole data set, never averaged over batches, and
takes row weights: one set, or a batch of B sets at once. So a bootstrap is one
call with a matrix of counts, and a fold is a row of zeros and ones. Areas under
curves stand in `ranking`, intervals in `intervals`.

It must not choose thresholds, plot, or know runs and files.

Shapes: N rows, C classes, B sets of weights (resamples). `...` stands for no
axis where weights are (N,) or absent, and for B where they are (B, N).
Where a score is undefined it is NaN, never a convenient 0 or 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loupe.errors import InputError
from loupe.weighting import (
    Bool,
    Float64,
    Floats,
    Integers,
    Weights,
    average,
    cut_rows,
    divide,
    read_weights,
    sum_cells,
    sum_rows,
    total_weight,
)

BINS = 15
"""Bins of the calibration error, as in Guo et al. (2017)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """Weighted counts per class; each array is (..., C).

    Attributes:
        tp: Positive, and decided positive.
        fp: Negative, but decided positive.
        fn: Positive, but decided negative.
        tn: Negative, and decided negative.
    """

    tp: Float64
    fp: Float64
    fn: Float64
    tn: Float64


def to_decisions(
    values_NC: Floats, *, exclusive: bool, thresholds: float | Sequence[float] | Floats = 0.5
) -> Bool:
    """Turn targets or probabilities into yes or no, per class.

    Exclusive: the largest column of a row, the first one on a tie. Otherwise
    `value >= threshold`, compared at the precision of the values, so that a
    float32 probability of 0.7 reaches a threshold of 0.7.

    Args:
        values_NC: Targets or probabilities in [0, 1].
        exclusive: True if the columns of a row sum to 1.
        thresholds: One for all classes or one per class; not used if exclusive.

    Shape:
        values_NC: (N, C). thresholds: () or (C,).

    Returns:
        (N, C); if exclusive, one True in each row.

    Examples:
        >>> to_decisions(np.array([[0.2, 0.8]]), exclusive=True).tolist()
        [[False, True]]
        >>> to_decisions(np.array([[0.5, 0.4]]), exclusive=False).tolist()
        [[True, False]]
    """
    values = _as_floats(values_NC)
    if exclusive:
        return np.asarray(np.arange(values.shape[1]) == values.argmax(axis=1)[:, None])
    return np.asarray(values >= np.asarray(thresholds, dtype=values.dtype))


def count_outcomes(truth_NC: Bool, decided_NC: Bool, weights: Weights | None = None) -> Outcomes:
    """Count right and wrong decisions per class.

    Args:
        truth_NC: Given labels.
        decided_NC: Decisions, columns in the same order.
        weights: Weight of each row; 1 if absent.

    Shape:
        truth_NC, decided_NC: (N, C). weights: (N,) or (B, N).

    Raises:
        InputError: shapes disagree.
    """
    weights = read_weights(truth_NC, decided_NC, weights)
    return complete_outcomes(
        tp=sum_rows(truth_NC & decided_NC, weights),
        positives=sum_rows(truth_NC, weights),
        decided=sum_rows(decided_NC, weights),
        total=total_weight(len(truth_NC), weights),
    )


def complete_outcomes(
    *, tp: Float64, positives: Float64, decided: Float64, total: Float64
) -> Outcomes:
    """Make the four counts of three sums and the weight of all rows.

    Shape:
        tp, positives, decided: (..., C). total: (...).
    """
    fn, fp = positives - tp, decided - tp
    return Outcomes(tp=tp, fp=fp, fn=fn, tn=total[..., None] - tp - fp - fn)


def pool(outcomes: Outcomes) -> Outcomes:
    """Add up the classes into one column: `f1(pool(outcomes))` is micro F1."""
    parts = {name: getattr(outcomes, name) for name in Outcomes.__slots__}
    return Outcomes(**{name: a.sum(axis=-1, keepdims=True) for name, a in parts.items()})


def macro(scores_C: Float64) -> Float64:
    """Average the classes whose score is defined; NaN if none is.

    Args:
        scores_C: (..., C) scores, NaN where undefined.
    """
    defined = ~np.isnan(scores_C)
    return divide(np.where(defined, scores_C, 0.0).sum(axis=-1), defined.sum(axis=-1))


def precision(outcomes: Outcomes) -> Float64:
    """Return the share of decided positives that are right; NaN if none is decided."""
    return divide(outcomes.tp, outcomes.tp + outcomes.fp)


def recall(outcomes: Outcomes) -> Float64:
    """Return the share of positives that were found; NaN for a class without any."""
    return divide(outcomes.tp, outcomes.tp + outcomes.fn)


def f1(outcomes: Outcomes) -> Float64:
    """Return 2 TP / (2 TP + FP + FN) per class.

    0 where there are positives but none was found; NaN for a class without
    positives, whatever was decided (scikit-learn says 0 there, which drags a
    macro mean down for a class that could not score).
    """
    score = divide(2 * outcomes.tp, 2 * outcomes.tp + outcomes.fp + outcomes.fn)
    return np.where(outcomes.tp + outcomes.fn > 0, score, np.nan)


def balanced_accuracy(outcomes: Outcomes) -> Float64:
    """Return the mean recall over the classes that have positives.

    Args:
        outcomes: Of exclusive classes; one column stands for two classes,
            absent and present.
    """
    return macro(recall(_both_sides(outcomes)))


def mcc(outcomes: Outcomes) -> Float64:
    """Return Matthews' correlation of truth and decision, for any number of classes.

    NaN where all rows have one class or all decisions are one class
    (scikit-learn says 0). Rows without a decision count as decided for a class of
    their own, which is never right.

    Args:
        outcomes: Of exclusive classes, or one column.

    References:
        Gorodkin (2004), "Comparing two K-category assignments by a K-category
        correlation coefficient".
    """
    right, real, called, total = _margins(outcomes)
    undecided = total - called.sum(axis=-1)
    spread_real = _drop_rounding(total**2 - (real**2).sum(axis=-1), total)
    spread_called = total**2 - (called**2).sum(axis=-1) - undecided**2
    spread = spread_real * _drop_rounding(spread_called, total)
    return divide(right * total - (real * called).sum(axis=-1), np.sqrt(spread))


def cohen_kappa(outcomes: Outcomes) -> Float64:
    """Return the agreement beyond chance, (p_o - p_e) / (1 - p_e); NaN if p_e is 1.

    Args:
        outcomes: Of exclusive classes, or one column.
    """
    right, real, called, total = _margins(outcomes)
    chance = (real * called).sum(axis=-1)
    return divide(right * total - chance, _drop_rounding(total**2 - chance, total))


def accuracy(truth_NC: Bool, decided_NC: Bool, weights: Weights | None = None) -> Float64:
    """Return the share of rows that are right in every column.

    For exclusive classes and for one column this is plain accuracy; for classes
    that stand alone it is the exact match (subset accuracy).

    Shape:
        truth_NC, decided_NC: (N, C). weights: (N,) or (B, N). Returns (...).

    Raises:
        InputError: shapes disagree.
    """
    weights = read_weights(truth_NC, decided_NC, weights)
    return average((truth_NC == decided_NC).all(axis=1), weights)


def confusion_matrix(truth_NC: Bool, decided_NC: Bool, weights: Weights | None = None) -> Float64:
    """Count rows by given class (rows of the matrix) and decided class (columns).

    Args:
        truth_NC: One True in each row, or a single column, which stands for two
            classes: absent, present.
        decided_NC: Likewise.
        weights: Weight of each row; 1 if absent.

    Shape:
        truth_NC, decided_NC: (N, C). weights: (N,) or (B, N).

    Returns:
        (..., C, C), or (..., 2, 2) for a single column.

    Raises:
        InputError: shapes disagree, or a row has not exactly one class.
    """
    weights = read_weights(truth_NC, decided_NC, weights)
    if truth_NC.shape[1] == 1:
        truth_NC, decided_NC = (np.hstack([~flags, flags]) for flags in (truth_NC, decided_NC))
    odd = int((truth_NC.sum(axis=1) != 1).sum() + (decided_NC.sum(axis=1) != 1).sum())
    if odd:
        raise InputError(
            f"{odd} row(s) have no class or several; a confusion matrix needs exclusive classes. "
            "For classes that stand alone use count_outcomes, class by class."
        )
    size = truth_NC.shape[1]
    cell = truth_NC.argmax(axis=1) * size + decided_NC.argmax(axis=1)
    counts = sum_cells(cell, np.ones(len(cell)), size * size, weights)
    return counts.reshape(*counts.shape[:-1], size, size)


def log_loss(
    targets_NC: Floats, probs_NC: Floats, *, exclusive: bool, weights: Weights | None = None
) -> Float64:
    """Return the mean negative log-likelihood in nats; targets may be soft.

    Exclusive: `-sum_c t log p`. Otherwise the mean over columns of the two-sided
    `-t log p - (1 - t) log(1 - p)`. Probabilities are kept away from 0 and 1 by
    the machine epsilon of their type, as scikit-learn does.

    Shape:
        targets_NC, probs_NC: (N, C). weights: (N,) or (B, N). Returns (...).
    """
    weights = read_weights(targets_NC, probs_NC, weights)
    return average(log_loss_by_row(targets_NC, probs_NC, exclusive=exclusive), weights)


def brier(
    targets_NC: Floats, probs_NC: Floats, *, exclusive: bool, weights: Weights | None = None
) -> Float64:
    """Return the mean squared error of the probabilities; targets may be soft.

    Exclusive: summed over the columns, in [0, 2], as Brier (1950) wrote it.
    Otherwise the mean over columns, in [0, 1].

    Shape:
        targets_NC, probs_NC: (N, C). weights: (N,) or (B, N). Returns (...).
    """
    weights = read_weights(targets_NC, probs_NC, weights)
    return average(brier_by_row(targets_NC, probs_NC, exclusive=exclusive), weights)


def expected_calibration_error(
    truth_NC: Bool,
    probs_NC: Floats,
    *,
    exclusive: bool,
    bins: int = BINS,
    weights: Weights | None = None,
) -> Float64:
    """Return the mean gap between probability and observed frequency.

    Bins of equal width, the lower edge inside. Exclusive: the largest
    probability of a row against whether that class is right. Otherwise each
    column by itself, then the mean over columns.

    Args:
        truth_NC: Given labels.
        probs_NC: Probabilities in [0, 1].
        exclusive: True if the columns of a row sum to 1.
        bins: Number of bins.
        weights: Weight of each row; 1 if absent.

    Shape:
        truth_NC, probs_NC: (N, C). weights: (N,) or (B, N). Returns (...).

    References:
        Guo et al. (2017), "On calibration of modern neural networks", section 2.
    """
    weights = read_weights(truth_NC, probs_NC, weights)
    parts = [
        sum_cells(slot, gap, bins, weights)
        for slot, gap in find_gaps(truth_NC, probs_NC, exclusive=exclusive, bins=bins)
    ]
    return add_gaps(parts, total_weight(len(truth_NC), weights))


def find_gaps(
    truth_NC: Bool, probs_NC: Floats, *, exclusive: bool, bins: int = BINS
) -> Iterator[tuple[Integers, Float64]]:
    """Find where each row falls in a calibration diagram, and how far off it is.

    Args:
        truth_NC: Given labels.
        probs_NC: Probabilities in [0, 1].
        exclusive: True if the columns of a row sum to 1: then only the largest counts.
        bins: Number of bins.

    Yields:
        Bin of each row (N,), and truth minus probability (N,): once if exclusive, else
        for each column.
    """
    if exclusive:
        top = probs_NC.argmax(axis=1)[:, None]
        truth_NC = np.take_along_axis(truth_NC, top, axis=1)
        probs_NC = np.take_along_axis(probs_NC, top, axis=1)
    for truth, column in zip(truth_NC.T, probs_NC.T, strict=True):
        probs = column.astype(np.float64)
        yield np.minimum((probs * bins).astype(np.intp), bins - 1), truth - probs


def add_gaps(gaps: Sequence[Float64], total: Float64) -> Float64:
    """Make the calibration error of the summed gaps of each column.

    Shape:
        gaps: (..., bins) each. total: (...). Returns (...).
    """
    sizes = [np.abs(part).sum(axis=-1) for part in gaps]
    return divide(np.mean(sizes, axis=0), total)


def log_loss_by_row(targets_NC: Floats, probs_NC: Floats, *, exclusive: bool) -> Float64:
    """Return the loss of each row, (N,), whose mean is `log_loss`."""
    eps = float(np.finfo(_as_floats(probs_NC).dtype).eps)
    losses = np.empty(len(probs_NC))
    for rows in cut_rows(*probs_NC.shape):
        p = np.clip(probs_NC[rows].astype(np.float64), eps, 1 - eps)
        t = targets_NC[rows].astype(np.float64)
        if exclusive:
            losses[rows] = -(t * np.log(p)).sum(axis=1)
        else:
            losses[rows] = -(t * np.log(p) + (1 - t) * np.log1p(-p)).mean(axis=1)
    return losses


def brier_by_row(targets_NC: Floats, probs_NC: Floats, *, exclusive: bool) -> Float64:
    """Return the squared error of each row, (N,), whose mean is `brier`."""
    errors = np.empty(len(probs_NC))
    for rows in cut_rows(*probs_NC.shape):
        squares = (probs_NC[rows].astype(np.float64) - targets_NC[rows]) ** 2
        errors[rows] = squares.sum(axis=1) if exclusive else squares.mean(axis=1)
    return errors


def brier_by_class(targets_NC: Floats, probs_NC: Floats, weights: Weights | None = None) -> Float64:
    """Return the mean squared error of each column by itself, in [0, 1].

    Shape:
        targets_NC, probs_NC: (N, C). weights: (N,) or (B, N). Returns (..., C).
    """
    weights = read_weights(targets_NC, probs_NC, weights)
    shape = () if weights is None else weights.shape[:-1]
    errors = np.zeros((*shape, probs_NC.shape[1]))
    for rows in cut_rows(*probs_NC.shape):
        squares = (probs_NC[rows].astype(np.float64) - targets_NC[rows]) ** 2
        errors += sum_rows(squares, None if weights is None else weights[..., rows])
    return divide(errors, total_weight(len(probs_NC), weights)[..., None])


def _as_floats(values: NDArray[Any]) -> Floats:
    """Leave floats at their precision; whole numbers and booleans become float64."""
    return values if np.issubdtype(values.dtype, np.floating) else values.astype(np.float64)


def _both_sides(o: Outcomes) -> Outcomes:
    """Spell a single column out as two classes: absent, present."""
    if o.tp.shape[-1] != 1:
        return o
    pairs = {"tp": (o.tn, o.tp), "fp": (o.fn, o.fp), "fn": (o.fp, o.fn), "tn": (o.tp, o.tn)}
    return Outcomes(**{name: np.concatenate(pair, axis=-1) for name, pair in pairs.items()})


def _drop_rounding(squares: Float64, total: Float64) -> Float64:
    """Set to 0 what only the rounding of fractional weights left of a difference."""
    return np.where(squares > 1e-12 * total**2, squares, 0.0)


def _margins(outcomes: Outcomes) -> tuple[Float64, Float64, Float64, Float64]:
    """Return right (...), given (..., C), decided (..., C) and all (...) weight."""
    o = _both_sides(outcomes)
    return o.tp.sum(axis=-1), o.tp + o.fn, o.tp + o.fp, (o.tp + o.fn).sum(axis=-1)
