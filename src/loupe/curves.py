"""Curves: what every threshold of a class would find, from "never" down to "always".

Owns the points of precision-recall and ROC curves. Areas under them are those of `ranking`,
thresholds are chosen by `thresholds`. It must not draw.

Shapes: N rows, T thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loupe.thresholds import NEVER, Float32, build_ladder
from loupe.weighting import Bool, Float64, divide

MOST_POINTS = 250
"""Points that a drawn curve needs; the eye sees no more in a panel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """What each threshold finds, the highest first.

    Attributes:
        thresholds: (T,) decide positive where the probability is equal or above; the first
            is above 1 and decides no row.
        precision: (T,) share of decided rows that are positive; NaN where none is decided.
        recall: (T,) share of positive rows that are decided; NaN if there are none.
        false_alarms: (T,) share of negative rows that are decided; NaN if there are none.
        flagged: (T,) share of all rows that are decided.
        positives: Positive rows.
        rows: All rows.
    """

    thresholds: Float64
    precision: Float64
    recall: Float64
    false_alarms: Float64
    flagged: Float64
    positives: int
    rows: int

    @property
    def prevalence(self) -> float:
        """Share of positive rows: the precision of deciding every row."""
        return self.positives / self.rows


def trace_curve(truth_N: Bool, probs_N: Float32) -> Curve:
    """Follow one class through all thresholds.

    Args:
        truth_N: Given labels.
        probs_N: Held-out probabilities in [0, 1].

    Shape:
        truth_N, probs_N: (N,), with a row at least.

    Examples:
        >>> truth, probs = np.array([0, 0, 1, 1], bool), np.float32([0.1, 0.4, 0.35, 0.8])
        >>> found = trace_curve(truth, probs)
        >>> found.recall.tolist()
        [0.0, 0.5, 0.5, 1.0, 1.0]
        >>> found.precision.round(2).tolist()
        [nan, 1.0, 0.5, 0.67, 0.5]
    """
    ladder = build_ladder(np.asarray(truth_N, np.bool_), np.asarray(probs_N, np.float32))
    found, called = ladder.found.astype(np.float64), ladder.called.astype(np.float64)
    rows, positives = len(truth_N), int(found[-1])
    return Curve(
        thresholds=np.append(NEVER, ladder.values.astype(np.float64)),
        precision=divide(found, called),
        recall=divide(found, np.full(len(found), float(positives))),
        false_alarms=divide(called - found, np.full(len(found), float(rows - positives))),
        flagged=called / rows,
        positives=positives,
        rows=rows,
    )


def thin_curve(curve: Curve, most: int = MOST_POINTS) -> Curve:
    """Keep the points that a drawing needs, evenly along both curves; the ends stay.

    Args:
        curve: From `trace_curve`.
        most: How many points to keep at most, 2 or more.

    Examples:
        >>> truth, probs = np.array([0, 1] * 50), np.linspace(0, 1, 100, dtype=np.float32)
        >>> thin = thin_curve(trace_curve(truth, probs), 20)
        >>> len(thin.recall) <= 20, float(thin.recall[-1])
        (True, 1.0)
    """
    count = len(curve.thresholds)
    if count <= most:
        return curve
    columns = np.stack([curve.precision, curve.recall, curve.false_alarms])
    steps = np.abs(np.diff(np.nan_to_num(columns, nan=1.0), axis=1)).sum(axis=0)
    way = np.append(0.0, np.cumsum(steps))
    places = np.searchsorted(way, np.linspace(0, way[-1], most))
    # Equal steps may fall on one point; a curve that stands still keeps its ends.
    kept = np.unique(np.concatenate([[0], places[1:-1], [count - 1]]))
    return Curve(
        thresholds=curve.thresholds[kept],
        precision=curve.precision[kept],
        recall=curve.recall[kept],
        false_alarms=curve.false_alarms[kept],
        flagged=curve.flagged[kept],
        positives=curve.positives,
        rows=curve.rows,
    )
