"""Margins: scores of masks with their intervals, and differences between masks of a row.

Owns the bootstrap over groups of what `dices` measures, and the test by swaps. It must not
know how masks are made, gated or read.

Shapes: N rows, C classes, M comparisons, B resamples, J blocks of groups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from loupe.condensing import deal_blocks, sum_blocks
from loupe.dices import (
    DIVISORS,
    MAIN,
    METRICS,
    Pairs,
    Tally,
    list_sums,
    spread_sums,
    take_score,
    tally_rows,
)
from loupe.ends import find_interval
from loupe.errors import InputError
from loupe.intervals import Difference, Score, bootstrap_weights
from loupe.weighting import Float64, Integers, divide

_SWAP_SEED = 1  # added to the seed: swaps must not follow the resamples
_TIE = 1e-12


def score_pairs(
    pairs: Pairs,
    *,
    classes: Sequence[str],
    groups: Sequence[str] | Integers | None = None,
    metrics: Sequence[str] = METRICS,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[Score, ...]:
    """Compute scores of masks, each with the interval of a bootstrap over groups.

    Up to `condensing.BLOCKS` groups are drawn as they are, more in blocks; values are exact
    at any size. Intervals are percentiles, widened as `intervals.score` explains.

    Args:
        pairs: Areas of the masks.
        classes: Names of the columns.
        groups: Rows that are drawn together; each row alone if None.
        metrics: Names from `METRICS`.
        resamples: Of the bootstrap; 0 makes the intervals NaN.
        seed: Of the bootstrap.
        confidence: Of the intervals, in (0, 1).

    Shape:
        classes: (C,). groups: (N,).

    Returns:
        The overall scores in the order of `metrics`, then those of each class. `n` is the
        number of pairs that a score rests on.

    Raises:
        InputError: lengths disagree, or a metric has another name.
    """
    keys = _read_groups(pairs, groups, classes)
    unknown = [name for name in metrics if name not in METRICS]
    if unknown:
        raise InputError(f"metrics {unknown} are not known; expected some of {list(METRICS)}.")
    sums = list_sums(pairs)
    exact = tally_rows(sums, None)
    blocks = deal_blocks(keys)
    weights = bootstrap_weights(np.arange(int(blocks.max()) + 1), resamples, seed)
    drawn = tally_rows(_sum_blocks(sums, blocks), weights)
    scores: dict[tuple[int, str], Score] = {}
    for name in metrics:
        values, draws = take_score(name, exact), take_score(name, drawn)
        rests = _count_rests(name, sums, keys)
        for column, (value, (count, trials)) in enumerate(zip(values, rests, strict=True)):
            low, high = find_interval(
                float(value), draws[:, column], trials=trials, bounded=True, confidence=confidence
            )
            scores[column, name] = Score(
                metric=name,
                class_name=classes[column - 1] if column else "",
                value=float(value),
                low=low,
                high=high,
                fold_mean=math.nan,
                fold_std=math.nan,
                n=count,
            )
    return tuple(scores[key] for key in sorted(scores, key=lambda key: key[0]))


def compare_pairs(
    a: Pairs,
    b: Pairs,
    groups: Sequence[str] | Integers | None = None,
    *,
    metric: str = MAIN,
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[Difference, ...]:
    """Compare predicted masks of the same rows: score of A minus score of B.

    The interval holds the central percentiles of a paired bootstrap over groups. The
    p-value is the share of random swaps of A and B, whole groups at a time, that part the
    two as far: unlike percentiles it stays honest where few groups differ.

    Args:
        a: Areas with the masks of A.
        b: Areas with the masks of B; the given masks must be the same.
        groups: Rows that are drawn and swapped together; each row alone if None.
        metric: A name of `METRICS`.
        resamples: Number of resamples, and of swaps.
        seed: Of both.
        confidence: Of the intervals, in (0, 1).

    Returns:
        1 + C differences: of all pairs, then of each class.

    Raises:
        InputError: the given masks differ, or lengths do.

    References:
        Field & Welsh (2007), "Bootstrapping clustered data"; Fisher (1935), "The design of
        experiments", section 21 (swaps).
    """
    if a.truth.shape != b.truth.shape or (a.truth != b.truth).any():
        raise InputError(
            "the given masks of A and B differ; expected predictions of the same rows in the same "
            "order and at the same size: align them by id first."
        )
    if metric not in METRICS:
        raise InputError(f"metric {metric!r} is not known; expected one of {list(METRICS)}.")
    blocks = deal_blocks(_read_groups(a, groups))
    sums_a, sums_b = list_sums(a), list_sums(b)
    value = take_score(metric, tally_rows(sums_a, None)) - take_score(
        metric, tally_rows(sums_b, None)
    )
    blocks_a, blocks_b = _sum_blocks(sums_a, blocks), _sum_blocks(sums_b, blocks)
    weights = bootstrap_weights(np.arange(len(blocks_a.pairs)), resamples, seed)
    drawn_a, drawn_b = tally_rows(blocks_a, weights), tally_rows(blocks_b, weights)
    draws = take_score(metric, drawn_a) - take_score(metric, drawn_b)
    signs = draw_signs(len(blocks_a.pairs), resamples, seed)
    total = [(x + y).sum(axis=0) for x, y in zip(blocks_a, blocks_b, strict=True)]
    moved = [signs @ (x - y) for x, y in zip(blocks_a, blocks_b, strict=True)]
    one = Tally(*((t + m) / 2 for t, m in zip(total, moved, strict=True)))
    other = Tally(*((t - m) / 2 for t, m in zip(total, moved, strict=True)))
    swaps = take_score(metric, one) - take_score(metric, other)
    return _make_differences(metric, value, draws, swaps, confidence)


def compare_means(
    gaps_NM: Float64,
    groups: Sequence[str] | Integers | None = None,
    *,
    metric: str = MAIN,
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[Difference, ...]:
    """Compare many pairs of competitors at once, by the gap in each row.

    As `compare_pairs`, for scores that are plain means over rows, and much faster. Where
    the sum of gaps is far off, the p-value is a bound on the share of swaps, which gets
    smaller than 1 / swaps: 2 exp(-s^2 / 2 q), s and q the sums of the gaps of groups and
    of their squares.

    Args:
        gaps_NM: Score of A minus score of B in each row; a column for each comparison.
        groups: Rows that are drawn and swapped together; each row alone if None.
        metric: What the score is called.
        resamples: Number of resamples, and of swaps.
        seed: Of both.
        confidence: Of the intervals, in (0, 1).

    Shape:
        gaps_NM: (N, M). groups: (N,).

    Returns:
        (M,) differences of the means.

    References:
        Hoeffding (1963), "Probability inequalities for sums of bounded random variables",
        theorem 2 (the bound).
    """
    blocks = deal_blocks(range(len(gaps_NM)) if groups is None else groups)
    count = int(blocks.max()) + 1
    sums = sum_blocks(gaps_NM, blocks, count)
    sizes = np.bincount(blocks, minlength=count).astype(np.float64)
    weights = bootstrap_weights(np.arange(count), resamples, seed).astype(np.float64)
    draws = (weights @ sums) / (weights @ sizes)[:, None]
    swaps = draw_signs(count, resamples, seed) @ sums / len(gaps_NM)
    value = sums.sum(axis=0) / len(gaps_NM)
    # No p-value of swaps can be larger than this; thousands of claims need small ones.
    spread = (sums**2).sum(axis=0)
    bounds = 2 * np.exp(-divide(sums.sum(axis=0) ** 2, 2 * spread, empty=0.0))
    return _make_differences(metric, value, draws, swaps, confidence, bounds)


def draw_signs(count: int, draws: int, seed: int) -> Float64:
    """Draw fair signs, (draws, count) of 1 and -1, from the raw stream of Philox."""
    raw = np.asarray(np.random.Philox(key=seed + _SWAP_SEED).random_raw(draws * count))
    return np.where(raw.reshape(draws, count) >> np.uint64(63), 1.0, -1.0)


def _make_differences(
    metric: str,
    value: Float64,
    draws: Float64,
    swaps: Float64,
    confidence: float,
    bounds: Float64 | None = None,
) -> tuple[Difference, ...]:
    """Put differences together, a column each; rounding is not taken for a difference."""
    tail = (1 - confidence) / 2
    result = []
    for column, exact in enumerate(np.atleast_1d(value).tolist()):
        drawn = np.round(draws[:, column], 12)
        drawn = drawn[~np.isnan(drawn)]
        low, high = np.quantile(drawn, [tail, 1 - tail]) if len(drawn) else (math.nan, math.nan)
        swapped = np.abs(swaps[:, column])
        swapped = swapped[~np.isnan(swapped)]
        beyond = np.count_nonzero(swapped >= abs(exact) - _TIE)
        p_value = math.nan if math.isnan(exact) else (1 + beyond) / (1 + len(swapped))
        if bounds is not None:
            p_value = min(p_value, float(bounds[column]))
        result.append(
            Difference(
                metric=metric, value=exact, low=float(low), high=float(high), p_value=p_value
            )
        )
    return tuple(result)


def _sum_blocks(sums: Tally, blocks: Integers) -> Tally:
    count = int(blocks.max()) + 1
    return Tally(*(sum_blocks(values, blocks, count) for values in sums))


def _count_rests(metric: str, sums: Tally, keys: Integers) -> list[tuple[int, int]]:
    """Count the pairs and the groups that a score rests on, overall and by class."""
    used = DIVISORS[metric](sums) > 0
    columns = [used.any(axis=1), *used.T]
    pairs = spread_sums(used.sum(axis=0)[None])[0]
    return [
        (int(count), int(np.count_nonzero(np.bincount(keys[rows]))))
        for count, rows in zip(pairs, columns, strict=True)
    ]


def _read_groups(
    pairs: Pairs,
    groups: Sequence[str] | Integers | None,
    classes: Sequence[str] | None = None,
) -> Integers:
    rows, columns = pairs.truth.shape
    wrong = []
    if groups is not None and len(groups) != rows:
        wrong.append(f"{len(groups)} groups for {rows} rows")
    if classes is not None and len(classes) != columns:
        wrong.append(f"{len(classes)} names for {columns} classes")
    if wrong:
        raise InputError(f"lengths disagree with the pairs: {', '.join(wrong)}.")
    if groups is None:
        return np.arange(rows)
    return np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1)
