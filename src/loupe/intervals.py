"""Intervals: every score of a sheet with its bootstrap interval, and paired tests.

Groups are drawn with replacement, so rows that are alike count once. It must not
choose thresholds, plot, or know runs and files.

Shapes: N rows, C classes, B sets of weights (resamples).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from loupe.condensing import LARGE, deal_blocks, measure_blocks, number_groups
from loupe.ends import find_biased_interval, find_interval
from loupe.errors import InputError
from loupe.scorecard import (
    FAMILIES,
    Family,
    Sheet,
    find_family,
    main_metric,
    measure,
    read_sheet,
)
from loupe.trials import BIASED, Trials, find_span, note_left_out
from loupe.weighting import BLOCK, Bool, Float64, Floats, Integers

__all__ = [
    "Difference",
    "Score",
    "bootstrap_weights",
    "compare_paired",
    "find_interval",
    "score",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One number with its interval.

    Attributes:
        metric: Name of the score.
        class_name: The class it belongs to; "" for all classes together.
        value: On all rows pooled; NaN if undefined.
        low: Lower end of the interval; NaN if there is none.
        high: Upper end of the interval.
        fold_mean: Mean over the folds on which the score is defined.
        fold_std: Sample deviation (n - 1) over those folds.
        n: Rows it rests on: all rows, or the positive rows of its class.
        note: What the reader must know; "" as a rule.
    """

    metric: str
    class_name: str
    value: float
    low: float
    high: float
    fold_mean: float
    fold_std: float
    n: int
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Score of A minus score of B on the same rows.

    Attributes:
        metric: Name of the score.
        value: A minus B; above 0 means that A has the higher score.
        low: Lower end of the interval.
        high: Upper end of the interval.
        p_value: Two-sided, of the hypothesis that the difference is 0.
    """

    metric: str
    value: float
    low: float
    high: float
    p_value: float


def score(
    targets_NC: Floats,
    probs_NC: Floats,
    *,
    exclusive: bool,
    classes: Sequence[str],
    folds: Integers | None = None,
    groups: Sequence[str] | Integers | None = None,
    thresholds: float | Sequence[float] | Floats | None = None,
    decisions: Bool | None = None,
    ranked: Floats | None = None,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[Score, ...]:
    """Compute every score of a sheet of probabilities, each with its interval.

    Soft targets count as positive from 0.5 on (exclusive: the largest column);
    log loss and Brier use them as they are. Macro means leave out the classes
    whose score is undefined and name them in `note`.

    The interval holds the central percentiles of a bootstrap over groups. Near
    0 and 1 that interval is too narrow, and at a perfect score it is a point:
    where it touches 0 or 1 or has no width it is widened to Wilson's interval
    of n trials. There n = v (1 - v) / variance of the resampled values, the
    effective size that a share v of such variance has; and where the variance
    is 0, the number of groups that the score rests on (with positives for
    recall; the scarcer side for ROC; classes times the scarcest for a macro mean).
    A score with other ends, such as Matthews' correlation from -1 to 1, is treated
    as the share of the way between them. The calibration error is larger than the
    truth by chance alone, and larger still on resamples: its interval is moved back.

    A table of more than `condensing.LARGE` rows is resampled in blocks of groups;
    values are exact at any size, only the resamples are condensed.

    Args:
        targets_NC: Given labels in [0, 1].
        probs_NC: Held-out probabilities in [0, 1], columns in the same order.
        exclusive: True if the columns of a row sum to 1.
        classes: Names of the columns.
        folds: Fold of each row; without it `fold_mean` and `fold_std` are NaN.
        groups: Rows that are drawn together; without it each row alone.
        thresholds: One or one per class, 0.5 without it; only if not exclusive.
        decisions: Taken in place of thresholds or argmax. A row of exclusive classes
            may have none, where the rule leaves it undecided: it then counts as wrong,
            and `accepted` and `accuracy_accepted` are scored as well.
        ranked: What rankings (average precision, areas) sort by, in place of `probs_NC`.
            Folds that were calibrated each by itself do not share a scale.
        resamples: Number of bootstrap resamples; 0 makes the intervals NaN.
        seed: Of the bootstrap.
        confidence: Of the intervals, in (0, 1).

    Shape:
        targets_NC, probs_NC, decisions: (N, C). classes: (C,). folds, groups: (N,).

    Returns:
        The overall scores, `main_metric` first, then those of each class.

    Raises:
        InputError: shapes disagree, values are NaN or outside [0, 1], thresholds
            were given for exclusive classes or beside decisions, or a row of
            exclusive classes has several decisions.

    References:
        Wilson (1927), "Probable inference, the law of succession, and
        statistical inference"; Korn & Graubard (1998), "Confidence intervals
        for proportions with small expected number of positive counts
        estimated from survey data" (the effective size).
    """
    sheet = read_sheet(
        targets_NC,
        probs_NC,
        exclusive=exclusive,
        thresholds=thresholds,
        decisions=decisions,
        ranked=ranked,
    )
    _check_lengths(sheet.truth, classes=classes, folds=folds, groups=groups)
    keys = number_groups(range(len(sheet.truth)) if groups is None else groups)
    values = measure(sheet, [_split_folds(folds, len(keys))])
    draws = _resample(sheet, keys, resamples, seed, values)
    trials, none = Trials(sheet, keys), np.zeros(0)
    positives = sheet.truth.sum(axis=0)
    result = []
    for (metric, column), (value, *by_fold) in values.items():
        low, high = _find_ends(
            float(value),
            draws.get((metric, column), none),
            trials=trials.count(metric, column),
            metric=metric,
            span=find_span(metric, exclusive=exclusive, overall=column < 0),
            confidence=confidence,
        )
        fold_mean, fold_std = _summarise(np.array(by_fold))
        result.append(
            Score(
                metric=metric,
                class_name="" if column < 0 else classes[column],
                value=float(value),
                low=low,
                high=high,
                fold_mean=fold_mean,
                fold_std=fold_std,
                n=len(keys) if column < 0 else int(positives[column]),
                note=note_left_out(sheet, classes, metric) if column < 0 else "",
            )
        )
    return tuple(result)


def compare_paired(
    targets_NC: Floats,
    probs_a_NC: Floats,
    probs_b_NC: Floats,
    *,
    exclusive: bool,
    metric: str = "",
    groups: Sequence[str] | Integers | None = None,
    thresholds: float | Sequence[float] | Floats | None = None,
    decisions_a: Bool | None = None,
    decisions_b: Bool | None = None,
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Difference:
    """Compare two sheets of probabilities on the same rows.

    Both are scored on the same resampled groups, so what makes a row hard for
    both cancels. The p-value is twice the smaller share of resamples on one
    side of 0, with 1 added above and below; it is at least 2 / (resamples + 1).
    Where no resample differs from another, the interval is widened on both
    sides by the largest share of groups that could differ unseen,
    1 - (alpha / 2)^(1 / groups).

    Args:
        targets_NC: Given labels in [0, 1].
        probs_a_NC: Held-out probabilities of A.
        probs_b_NC: Held-out probabilities of B.
        exclusive: True if the columns of a row sum to 1.
        metric: An overall score as `score` names it; "" for `main_metric`.
        groups: Rows that are drawn together; without it each row alone.
        thresholds: As for `score`, the same for A and B.
        decisions_a: As for `score`, of A.
        decisions_b: Of B. Where only one of the two is given, the other sheet is
            decided by argmax or at 0.5.
        resamples: Number of bootstrap resamples, 1 or more.
        seed: Of the bootstrap.
        confidence: Of the interval, in (0, 1).

    Shape:
        targets_NC, probs_a_NC, probs_b_NC, decisions_a, decisions_b: (N, C). groups: (N,).

    Raises:
        InputError: as `score`, or the metric has no such name.

    References:
        Davison & Hinkley (1997), "Bootstrap methods and their application",
        section 4.4 (the 1 that is added); Clopper & Pearson (1934), "The use of
        confidence or fiducial limits" (the bound where nothing was seen).
    """
    given = ((probs_a_NC, decisions_a), (probs_b_NC, decisions_b))
    sheets = [
        read_sheet(targets_NC, p, exclusive=exclusive, thresholds=thresholds, decisions=decided)
        for p, decided in given
    ]
    # Both have the same scores, also where only one of them leaves rows undecided.
    abstains = any(sheet.abstains for sheet in sheets)
    sheets = [replace(sheet, abstains=abstains) for sheet in sheets]
    metric = metric or main_metric(exclusive=exclusive)
    _check_lengths(sheets[0].truth, groups=groups)
    keys = number_groups(range(len(sheets[0].truth)) if groups is None else groups)
    family = find_family(sheets[0], metric)
    at, ones = (metric, -1), np.ones((1, len(keys)), dtype=bool)
    exact_a, exact_b = (measure(sheet, [ones], family) for sheet in sheets)
    (a,), (b,) = exact_a[at], exact_b[at]
    drawn_a, drawn_b = (
        _resample(sheet, keys, resamples, seed, exact, family)[at]
        for sheet, exact in zip(sheets, (exact_a, exact_b), strict=True)
    )
    draws = np.round(drawn_a - drawn_b, 12)
    draws = draws[~np.isnan(draws)]
    value, tail = float(a - b), (1 - confidence) / 2
    if math.isnan(value) or not len(draws):
        return Difference(metric=metric, value=value, low=math.nan, high=math.nan, p_value=math.nan)
    low, high = np.quantile(draws, [tail, 1 - tail])
    lowest, highest = find_span(metric, exclusive=exclusive, overall=True)
    if low == high and math.isfinite(highest):
        width = highest - lowest
        slack = width * (1 - tail ** (1 / Trials(sheets[0], keys).count(metric, -1)))
        low, high = max(low - slack, -width), min(high + slack, width)
    side = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    p_value = min(1.0, 2 * (1 + side) / (len(draws) + 1))
    return Difference(metric=metric, value=value, low=float(low), high=float(high), p_value=p_value)


def bootstrap_weights(
    groups: Sequence[str] | Integers, resamples: int, seed: int
) -> NDArray[np.int32]:
    """Draw groups with replacement; rows of one group move together.

    The draws come from the raw stream of Philox, which is fixed by its
    definition, so they do not change with the version of NumPy. The first k
    resamples are the same however many are drawn.

    Args:
        groups: (N,) group of each row; `range(N)` where rows stand alone.
        resamples: How many sets to draw.
        seed: 0 or more.

    Returns:
        (resamples, N) how often each row was drawn.

    References:
        Field & Welsh (2007), "Bootstrapping clustered data" (whole groups);
        Salmon et al. (2011), "Parallel random numbers: as easy as 1, 2, 3" (Philox).
    """
    blocks = list(_draw(number_groups(groups), resamples, seed, at_once=resamples))
    return blocks[0] if blocks else np.zeros((0, len(groups)), np.int32)


def _find_ends(
    value: float,
    draws: Float64,
    *,
    trials: int,
    metric: str,
    span: tuple[float, float],
    confidence: float,
) -> tuple[float, float]:
    if metric in BIASED:
        return find_biased_interval(value, draws, trials=trials, confidence=confidence)
    bounded = math.isfinite(span[1])
    return find_interval(
        value, draws, trials=trials, bounded=bounded, confidence=confidence, span=span
    )


def _resample(
    sheet: Sheet,
    keys: Integers,
    resamples: int,
    seed: int,
    exact: Mapping[tuple[str, int], Float64],
    families: Sequence[Family] = FAMILIES,
) -> dict[tuple[str, int], Float64]:
    """Take the scores on resampled groups, or on resampled blocks of a large table."""
    if len(keys) <= LARGE or not resamples:
        return measure(sheet, _draw(keys, resamples, seed), families)
    blocks = deal_blocks(keys)
    count = int(blocks.max()) + 1
    (draws,) = _draw(np.arange(count), resamples, seed, at_once=resamples)
    return measure_blocks(sheet, blocks, draws, exact, families)


def _draw(
    keys: Integers, resamples: int, seed: int, at_once: int = 0
) -> Iterator[NDArray[np.int32]]:
    """Draw in blocks; the numbers do not depend on the size of a block."""
    if seed < 0 or resamples < 0:
        raise InputError(f"seed is {seed} and resamples {resamples}; expected 0 or more.")
    size = int(keys.max()) + 1
    step = at_once or max(1, BLOCK // len(keys))
    stream = np.random.Philox(key=seed)
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        raw = np.asarray(stream.random_raw(count * size)).reshape(count, size)
        # Multiply and shift maps 32 random bits to [0, size), biased by size / 2^32 at most.
        drawn = (((raw >> np.uint64(32)) * np.uint64(size)) >> np.uint64(32)).astype(np.int64)
        drawn += np.arange(count)[:, None] * size
        times = np.bincount(drawn.ravel(), minlength=count * size).reshape(count, size)
        yield times[:, keys].astype(np.int32)


def _split_folds(folds: Integers | None, rows: int) -> Bool:
    """Return weights that pick out all rows, and then each fold in turn, (1 + K, N)."""
    sets = [np.ones(rows, dtype=bool)]
    if folds is not None:
        sets += [np.asarray(folds) == fold for fold in np.unique(folds)]
    return np.stack(sets)


def _summarise(by_fold: Float64) -> tuple[float, float]:
    """Mean and sample deviation of the folds on which a score is defined."""
    defined = by_fold[~np.isnan(by_fold)]
    mean = float(defined.mean()) if len(defined) else math.nan
    return mean, float(defined.std(ddof=1)) if len(defined) > 1 else math.nan


def _check_lengths(
    truth: Bool,
    *,
    classes: Sequence[str] | None = None,
    folds: Integers | None = None,
    groups: Sequence[str] | Integers | None = None,
) -> None:
    rows, columns = truth.shape
    expected = (("classes", classes, columns), ("folds", folds, rows), ("groups", groups, rows))
    wrong = [
        f"{len(values)} {name} for {size}"
        for name, values, size in expected
        if values is not None and len(values) != size
    ]
    if wrong:
        raise InputError(f"lengths disagree with the targets: {', '.join(wrong)}.")
