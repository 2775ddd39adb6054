"""Reliability: how often something is so, beside how often it was said to be.

Owns shares of rows, with intervals that know which rows belong together. It must not
fit or choose anything.

Shapes: N rows, C classes, G groups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from loupe.errors import InputError
from loupe.intervals import find_interval
from loupe.metrics import to_decisions

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Rows = NDArray[np.intp]

MOST_BINS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A share of rows with its interval.

    Attributes:
        value: In [0, 1]; NaN of nothing.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityBin:
    """The rows whose probability lies in one range.

    Attributes:
        class_name: The class; "" for exclusive classes, where it is the largest
            probability of a row and whether that class is right.
        low: Lower edge, inside.
        high: Upper edge, outside but for 1.
        count: How many rows.
        predicted: Their mean probability.
        observed: Share of them that is positive, or right.
        observed_low: Lower end of its interval.
        observed_high: Upper end of its interval.
    """

    class_name: str
    low: float
    high: float
    count: int
    predicted: float
    observed: float
    observed_low: float
    observed_high: float


def measure_reliability(
    targets: Float32,
    probs: Float32,
    groups: Rows,
    *,
    exclusive: bool,
    classes: Sequence[str],
    bins: int = 15,
    confidence: float = 0.95,
) -> tuple[ReliabilityBin, ...]:
    """Compare probabilities with what was observed, in bins of equal width.

    They are the bins of `metrics.expected_calibration_error`, so the picture adds up to
    that number, and the high probabilities of a rare class, where its threshold lies,
    have bins of their own: of equal counts nearly all would crowd at 0. Few rows show
    as a wide interval. Empty bins are left out.

    Args:
        targets: Given labels; 0.5 and above is positive, the largest if exclusive.
        probs: Held-out probabilities in [0, 1].
        groups: Rows that belong together.
        exclusive: True if the columns of a row sum to 1.
        classes: Names of the columns.
        bins: How many, 1 to `MOST_BINS`.
        confidence: Of the intervals (see `measure_share`).

    Shape:
        targets, probs: (N, C). groups: (N,). classes: (C,).

    Returns:
        By class, rising.

    Raises:
        InputError: shapes disagree.

    References:
        Guo et al. (2017), "On calibration of modern neural networks", section 2.

    Examples:
        >>> targets, probs = np.float32([[0], [1], [1]]), np.float32([[0.2], [0.25], [0.75]])
        >>> found = measure_reliability(
        ...     targets, probs, np.arange(3), exclusive=False, classes=["a"], bins=2
        ... )
        >>> [(bin.count, round(bin.predicted, 3), bin.observed) for bin in found]
        [(2, 0.225, 0.5), (1, 0.75, 1.0)]
    """
    expected = (len(groups), len(classes))
    if (
        not targets.shape == probs.shape == expected
        or not 1 <= bins <= MOST_BINS
        or not len(groups)
    ):
        raise InputError(
            f"targets have shape {targets.shape} and probabilities {probs.shape}, with "
            f"{len(groups)} groups, {len(classes)} classes and {bins} bins; expected {expected} "
            f"twice, a row or more, and 1 to {MOST_BINS} bins."
        )
    truth, sheet = to_decisions(targets, exclusive=exclusive), probs
    if exclusive:
        top = probs.argmax(axis=1)[:, None]
        truth, sheet = np.take_along_axis(truth, top, 1), np.take_along_axis(probs, top, 1)
    _, keys = np.unique(groups, return_inverse=True)
    order = np.argsort(keys, kind="stable")
    truth, sheet, keys = truth[order], sheet[order], keys[order]
    return tuple(
        found
        for column, name in enumerate(("",) if exclusive else classes)
        for found in _fill_bins(
            truth[:, column], sheet[:, column], keys, bins, name, confidence=confidence
        )
    )


def measure_share(hits: Float64, weights: Float64, *, confidence: float = 0.95) -> Share:
    """Measure a share from what each group adds to it.

    The interval is Wilson's, of as many trials as a share of that variance has:
    n = v (1 - v) / variance, where the variance is the one between groups (a ratio of
    sums, linearised). Rows of a group that agree so count once; rows that each are a
    group count one each. There are never more trials than the weights sum to, and no
    more than groups where all of them agree.

    Args:
        hits: Weight of the rows of each group that count.
        weights: Weight of all its rows.
        confidence: Of the interval, in (0, 1).

    Shape:
        hits, weights: (G,).

    References:
        Wilson (1927), "Probable inference, the law of succession, and statistical
        inference"; Korn & Graubard (1998), "Confidence intervals for proportions with
        small expected number of positive counts estimated from survey data".

    Examples:
        >>> alone = measure_share(np.array([1.0, 1, 1, 0]), np.ones(4))
        >>> pairs = measure_share(np.array([4.0, 4, 4, 0]), np.full(4, 4.0))
        >>> f"{alone.value:.2f} {alone.low:.3f} {alone.high:.3f}"
        '0.75 0.301 0.954'
        >>> alone == pairs
        True
    """
    total = float(weights.sum())
    if not total > 0:
        return Share(value=math.nan, low=math.nan, high=math.nan)
    groups = int(np.count_nonzero(weights))
    value = float(hits.sum()) / total
    # Without G / (G - 1): with it, rows alone would count as G - 1 trials.
    variance = float(((hits - value * weights) ** 2).sum()) / total**2
    size = value * (1 - value) / variance if variance > 0 else groups
    trials = max(1, round(min(size, total)))
    # One draw has no width, and is widened to Wilson's interval.
    low, high = find_interval(
        value, np.array([value]), trials=trials, bounded=True, confidence=confidence
    )
    return Share(value=value, low=low, high=high)


def _fill_bins(
    truth_N: NDArray[np.bool_],
    probs_N: Float32,
    keys_N: Rows,
    bins: int,
    name: str,
    *,
    confidence: float,
) -> list[ReliabilityBin]:
    slot = np.minimum((probs_N.astype(np.float64) * bins).astype(np.intp), bins - 1)
    counts = np.bincount(slot, minlength=bins)
    sums = np.bincount(slot, probs_N, minlength=bins)
    # A cell is what one group has in one bin: rows come by group, and the sort is stable.
    order = np.argsort(slot.astype(np.uint16), kind="stable")
    bin_of, key_of = slot[order], keys_N[order]
    new = (np.diff(key_of, prepend=-1) != 0) | (np.diff(bin_of, prepend=-1) != 0)
    first = np.flatnonzero(new)
    weights = np.diff(first, append=len(order)).astype(np.float64)
    hits = np.add.reduceat(truth_N[order].astype(np.float64), first)
    edges = np.searchsorted(bin_of[first], np.arange(bins + 1))
    found = []
    for bin_, (start, stop) in enumerate(pairwise(edges)):
        if not counts[bin_]:
            continue
        share = measure_share(hits[start:stop], weights[start:stop], confidence=confidence)
        found.append(
            ReliabilityBin(
                class_name=name,
                low=bin_ / bins,
                high=(bin_ + 1) / bins,
                count=int(counts[bin_]),
                predicted=float(sums[bin_] / counts[bin_]),
                observed=share.value,
                observed_low=share.low,
                observed_high=share.high,
            )
        )
    return found
