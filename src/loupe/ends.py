"""Ends: where an interval begins and ends, from the values that resamples gave.

It must not draw resamples or know what a score measures.

Shapes: B resamples.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from loupe.weighting import Float64


def find_interval(
    value: float,
    draws: Float64,
    *,
    trials: int,
    bounded: bool,
    confidence: float,
    span: tuple[float, float] = (0.0, 1.0),
) -> tuple[float, float]:
    """Return the ends of an interval: percentiles, widened as `intervals.score` explains.

    Args:
        value: The score on all rows.
        draws: (B,) the score on each resample; NaN where undefined.
        trials: Number of groups that the score rests on.
        bounded: True if the score has a lowest and a highest value.
        confidence: Of the interval, in (0, 1).
        span: These two values.

    Returns:
        Lower and upper end; both NaN where nothing can be said.
    """
    draws = np.round(draws[~np.isnan(draws)], 12)
    if math.isnan(value) or not len(draws) or (trials < 2 and not bounded):
        return math.nan, math.nan
    tail = (1 - confidence) / 2
    low, high = (float(end) for end in np.quantile(draws, [tail, 1 - tail]))
    lowest, highest = span
    if not bounded or (low < high and low > lowest and high < highest):
        return low, high
    width = highest - lowest
    # Equal draws may have a variance of rounding alone, which would pass for certainty.
    spread = float(draws.var()) / width**2 if np.ptp(draws) > 0 else 0.0
    share = round((value - lowest) / width, 12)
    size = share * (1 - share) / spread if spread > 0 and 0 < share < 1 else trials
    wide = _find_wilson(share, size, NormalDist().inv_cdf(1 - tail))
    wide_low, wide_high = (lowest + width * end for end in wide)
    return min(low, wide_low), max(high, wide_high)


def find_biased_interval(
    value: float, draws: Float64, *, trials: int, confidence: float
) -> tuple[float, float]:
    """Return the ends for a score that chance alone makes larger, such as a calibration error.

    The percentiles of the draws, moved back to where they belong.
    Resampling adds as much noise as the rows have, so where all of the score is noise the
    draws are sqrt(2) times as large. The mean of the draws minus the score is the bias:
    the upper end is moved down by it once, and so stands around the score; the lower end
    by bias / (sqrt(2) - 1) more, so that it stands around 0 where all is noise. It is 0
    as long as the score is not above what noise alone would reach, high / sqrt(2). Where
    all draws are equal, the share of groups that could differ unseen is added.

    Args:
        value: The score on all rows, in [0, 1].
        draws: (B,) the score on each resample; NaN where undefined.
        trials: Number of groups that the score rests on.
        confidence: Of the interval, in (0, 1).

    Returns:
        Lower and upper end, with the value between them; both NaN where nothing can be
        said, as of fewer than two groups.
    """
    draws = draws[~np.isnan(draws)]
    # One group drawn again and again is always the same.
    if math.isnan(value) or not len(draws) or trials < 2:
        return math.nan, math.nan
    tail = (1 - confidence) / 2
    low, high = (float(end) for end in np.quantile(draws, [tail, 1 - tail]))
    if low == high:
        return max(value, 0.0), min(value + 1 - tail ** (1 / trials), 1.0)
    bias = max(float(draws.mean()) - value, 0.0)
    low -= bias * (1 + 1 / (math.sqrt(2) - 1))
    if value <= high / math.sqrt(2):
        low = 0.0
    return min(max(low, 0.0), value), max(high - bias, value)


def _find_wilson(share: float, size: float, z: float) -> tuple[float, float]:
    centre = share + z * z / (2 * size)
    half = z * math.sqrt(share * (1 - share) / size + (z / (2 * size)) ** 2)
    scale = 1 + z * z / size
    return max((centre - half) / scale, 0.0), min((centre + half) / scale, 1.0)
