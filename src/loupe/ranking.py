"""Rankings: the areas under the curves of a column sorted by probability.

Sorting is the dear part and does not depend on the weights, so it is done once
for a column (`sort_column`) and reused for every resample (`rank`).

It must not choose thresholds, plot, or know runs and files.

Shapes: N rows, C classes, B sets of weights (resamples), T ties that hold
positive rows. `...` stands for no axis where weights are (N,) or absent, and for B
where they are (B, N). Where a score is undefined it is NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from loupe.weighting import Bool, Float64, Floats, Integers, Weights, divide, read_weights

_TINY = float(np.finfo(np.float64).tiny)  # below it nothing was seen, and nothing found


def average_precision(truth_NC: Bool, probs_NC: Floats, weights: Weights | None = None) -> Float64:
    """Return the step-wise area under the precision-recall curve, per class.

    The sum over distinct probabilities, from the highest down, of precision
    times the recall gained. Equal probabilities enter together. NaN for a class
    without positives.

    Shape:
        truth_NC, probs_NC: (N, C). weights: (N,) or (B, N). Returns (..., C).

    Raises:
        InputError: shapes disagree.

    Examples:
        >>> truth = np.array([[0], [0], [1], [1]], dtype=bool)
        >>> average_precision(truth, np.array([[0.1], [0.4], [0.35], [0.8]])).round(3).tolist()
        [0.833]
    """
    return _each_column(Ranking.average_precision, truth_NC, probs_NC, weights)


def pr_auc(truth_NC: Bool, probs_NC: Floats, weights: Weights | None = None) -> Float64:
    """Return the trapezoidal area under the precision-recall curve, per class.

    As `sklearn.metrics.auc(recall, precision)`. It joins points by lines that no
    threshold reaches, and so flatters; `average_precision` is the score to
    select by, this one is here to compare with numbers of others.

    Shape:
        truth_NC, probs_NC: (N, C). weights: (N,) or (B, N). Returns (..., C).

    References:
        Davis & Goadrich (2006), "The relationship between precision-recall and
        ROC curves"; Boyd, Eng & Page (2013), "Area under the precision-recall
        curve: point estimates and confidence intervals".
    """
    return _each_column(Ranking.pr_auc, truth_NC, probs_NC, weights)


def roc_auc(truth_NC: Bool, probs_NC: Floats, weights: Weights | None = None) -> Float64:
    """Return the chance that a positive row ranks above a negative one, per class.

    Equal probabilities count half. NaN for a class without positives or without
    negatives.

    Shape:
        truth_NC, probs_NC: (N, C). weights: (N,) or (B, N). Returns (..., C).
    """
    return _each_column(Ranking.roc_auc, truth_NC, probs_NC, weights)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One column sorted by falling probability; T groups of ties hold positives."""

    rows: Integers  # (N,) rows, best first
    hits: Integers  # positive rows, best first
    first: Integers  # (T,) where the hits of each tie begin in `hits`
    start: Integers  # (T,) where the tie begins in `rows`
    end: Integers  # (T,) where it ends


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Weights met while going down one sorted column, at each tie with positives."""

    gained: Float64  # (..., T) positive weight in the tie
    found: Float64  # (..., T) positive weight down to its end
    before: Float64  # (..., T) all weight above it
    seen: Float64  # (..., T) all weight down to its end
    total: Float64  # (...) all weight

    @property
    def positives(self) -> Float64:
        """All positive weight, (...)."""
        return np.asarray(self.gained.sum(axis=-1))

    def average_precision(self) -> Float64:
        """Return the step-wise area under precision and recall, (...)."""
        reached = self.found / np.maximum(self.seen, _TINY)
        reached *= self.gained
        return divide(reached.sum(axis=-1), self.positives)

    def pr_auc(self) -> Float64:
        """Return the trapezoidal area under precision and recall, (...)."""
        # Each trapezoid starts at the precision just above the tie; the curve starts at 1.
        ends = self.found - self.gained
        ends /= np.maximum(self.before, _TINY)
        ends[self.before == 0] = 1
        ends += self.found / np.maximum(self.seen, _TINY)
        ends *= self.gained
        return divide(ends.sum(axis=-1) / 2, self.positives)

    def roc_auc(self) -> Float64:
        """Return the chance that a positive row ranks above a negative one, (...)."""
        # Negative weight above each tie plus half of that inside it, doubled.
        above = self.found - self.gained
        np.subtract(self.before, above, out=above)
        above += self.seen - self.found
        above *= self.gained
        pairs = self.positives * (self.total - self.positives)
        return divide(pairs - above.sum(axis=-1) / 2, pairs)


def sort_column(truth_N: Bool, probs_N: Floats) -> Order:
    """Sort one column once, for any number of `rank`.

    Args:
        truth_N: Given labels.
        probs_N: Probabilities.

    Shape:
        truth_N, probs_N: (N,).
    """
    rows = np.argsort(-probs_N)
    ranked = probs_N[rows]
    edges = np.flatnonzero(ranked[1:] != ranked[:-1]) + 1
    starts, ends = np.append(0, edges), np.append(edges, len(rows))
    hits = np.flatnonzero(truth_N[rows])
    ties, first = np.unique(np.searchsorted(starts, hits, side="right") - 1, return_index=True)
    return Order(rows=rows, hits=rows[hits], first=first, start=starts[ties], end=ends[ties])


def rank(order: Order, weights: Weights) -> Ranking:
    """Add up the weights down a sorted column.

    Args:
        order: From `sort_column`.
        weights: Weight of each row, in the order of the table.

    Shape:
        weights: (N,) or (B, N).
    """
    # Flags would be joined, not added, by what follows.
    weights = np.asarray(weights, dtype=np.float64)
    cumulated = np.zeros((*weights.shape[:-1], len(order.rows) + 1))
    np.cumsum(weights[..., order.rows], axis=-1, out=cumulated[..., 1:])
    gained = weights[..., order.hits]
    if len(order.first) < len(order.hits):
        gained = np.add.reduceat(gained, order.first, axis=-1)
    return Ranking(
        gained=gained,
        found=np.cumsum(gained, axis=-1),
        before=cumulated[..., order.start],
        seen=cumulated[..., order.end],
        total=cumulated[..., -1],
    )


def _each_column(
    formula: Callable[[Ranking], Float64],
    truth_NC: Bool,
    probs_NC: Floats,
    weights: Weights | None,
) -> Float64:
    read: Weights | None = read_weights(truth_NC, probs_NC, weights)
    read = np.ones(len(truth_NC)) if read is None else read
    columns = zip(truth_NC.T, probs_NC.T, strict=True)
    return np.stack([formula(rank(sort_column(t, p), read)) for t, p in columns], axis=-1)
