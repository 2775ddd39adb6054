"""Statistics and scores of plain arrays, with intervals.

Every score is computed on a whole data set, never averaged over batches, and
takes row weights: one set, or a batch of B sets at once. So a bootstrap is one
call with a matrix of counts, and a fold is a row of zeros and ones.

It must not choose thresholds, plot, or know runs and files.

Shapes: N rows, C classes, B sets of weights (resamples). `...` stands for no
axis where weights are (N,) or absent, and for B where they are (B, N).
Where a score is undefined it is NaN, never a convenient 0 or 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loupe.errors import InputError, shorten, suggest

Bool = NDArray[np.bool_]
Float64 = NDArray[np.float64]
Floats = NDArray[np.floating]
Integers = NDArray[np.integer]
Weights = Floats | Integers | Bool

BLOCK = 1 << 19
"""Most weights held at once (4 MB as float64): a block then stays in cache."""
UNBOUNDED = ("log_loss",)
"""Overall scores that are no share of anything, and have no upper end at 1."""


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
    weights = _read_weights(truth_NC, decided_NC, weights)
    tp = _sum_rows(truth_NC & decided_NC, weights)
    fn = _sum_rows(truth_NC, weights) - tp
    fp = _sum_rows(decided_NC, weights) - tp
    total = len(truth_NC) if weights is None else weights.sum(axis=-1)[..., None]
    return Outcomes(tp=tp, fp=fp, fn=fn, tn=total - tp - fp - fn)


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
    return _divide(np.where(defined, scores_C, 0.0).sum(axis=-1), defined.sum(axis=-1))


def precision(outcomes: Outcomes) -> Float64:
    """Return the share of decided positives that are right; NaN if none is decided."""
    return _divide(outcomes.tp, outcomes.tp + outcomes.fp)


def recall(outcomes: Outcomes) -> Float64:
    """Return the share of positives that were found; NaN for a class without any."""
    return _divide(outcomes.tp, outcomes.tp + outcomes.fn)


def f1(outcomes: Outcomes) -> Float64:
    """Return 2 TP / (2 TP + FP + FN) per class.

    0 where there are positives but none was found; NaN for a class without
    positives, whatever was decided (scikit-learn says 0 there, which drags a
    macro mean down for a class that could not score).
    """
    score = _divide(2 * outcomes.tp, 2 * outcomes.tp + outcomes.fp + outcomes.fn)
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
    (scikit-learn says 0).

    Args:
        outcomes: Of exclusive classes, or one column.

    References:
        Gorodkin (2004), "Comparing two K-category assignments by a K-category
        correlation coefficient".
    """
    right, real, called, total = _margins(outcomes)
    spread = (total**2 - (real**2).sum(axis=-1)) * (total**2 - (called**2).sum(axis=-1))
    return _divide(right * total - (real * called).sum(axis=-1), np.sqrt(spread))


def cohen_kappa(outcomes: Outcomes) -> Float64:
    """Return the agreement beyond chance, (p_o - p_e) / (1 - p_e); NaN if p_e is 1.

    Args:
        outcomes: Of exclusive classes, or one column.
    """
    right, real, called, total = _margins(outcomes)
    chance = (real * called).sum(axis=-1)
    return _divide(right * total - chance, total**2 - chance)


def accuracy(truth_NC: Bool, decided_NC: Bool, weights: Weights | None = None) -> Float64:
    """Return the share of rows that are right in every column.

    For exclusive classes and for one column this is plain accuracy; for classes
    that stand alone it is the exact match (subset accuracy).

    Shape:
        truth_NC, decided_NC: (N, C). weights: (N,) or (B, N). Returns (...).

    Raises:
        InputError: shapes disagree.
    """
    weights = _read_weights(truth_NC, decided_NC, weights)
    return _average((truth_NC == decided_NC).all(axis=1), weights)


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
    weights = _read_weights(truth_NC, decided_NC, weights)
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
    counts = _sum_cells(cell, np.ones(len(cell)), size * size, weights)
    return counts.reshape(*counts.shape[:-1], size, size)


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
    return _each_column(_average_precision, truth_NC, probs_NC, weights)


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
    return _each_column(_pr_auc, truth_NC, probs_NC, weights)


def roc_auc(truth_NC: Bool, probs_NC: Floats, weights: Weights | None = None) -> Float64:
    """Return the chance that a positive row ranks above a negative one, per class.

    Equal probabilities count half. NaN for a class without positives or without
    negatives.

    Shape:
        truth_NC, probs_NC: (N, C). weights: (N,) or (B, N). Returns (..., C).
    """
    return _each_column(_roc_auc, truth_NC, probs_NC, weights)


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
    weights = _read_weights(targets_NC, probs_NC, weights)
    return _average(_row_log_loss(targets_NC, probs_NC, exclusive=exclusive), weights)


def brier(
    targets_NC: Floats, probs_NC: Floats, *, exclusive: bool, weights: Weights | None = None
) -> Float64:
    """Return the mean squared error of the probabilities; targets may be soft.

    Exclusive: summed over the columns, in [0, 2], as Brier (1950) wrote it.
    Otherwise the mean over columns, in [0, 1].

    Shape:
        targets_NC, probs_NC: (N, C). weights: (N,) or (B, N). Returns (...).
    """
    weights = _read_weights(targets_NC, probs_NC, weights)
    return _average(_row_brier(targets_NC, probs_NC, exclusive=exclusive), weights)


def expected_calibration_error(
    truth_NC: Bool,
    probs_NC: Floats,
    *,
    exclusive: bool,
    bins: int = 15,
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
    weights = _read_weights(truth_NC, probs_NC, weights)
    truth, probs = truth_NC, probs_NC.astype(np.float64)
    if exclusive:
        top = probs.argmax(axis=1)[:, None]
        truth = np.take_along_axis(truth, top, axis=1)
        probs = np.take_along_axis(probs, top, axis=1)
    slot = np.minimum((probs * bins).astype(np.intp), bins - 1)
    gap = truth - probs
    sums = [_sum_cells(slot[:, c], gap[:, c], bins, weights) for c in range(gap.shape[1])]
    total = len(truth) if weights is None else weights.sum(axis=-1)
    return _divide(np.mean([np.abs(part).sum(axis=-1) for part in sums], axis=0), total)


def main_metric(*, exclusive: bool) -> str:
    """Name the score that runs are selected and compared by."""
    return "accuracy" if exclusive else "average_precision"


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
    blocks = list(_draw(_number_groups(groups), resamples, seed, at_once=resamples))
    return blocks[0] if blocks else np.zeros((0, len(groups)), np.int32)


def score(
    targets_NC: Floats,
    probs_NC: Floats,
    *,
    exclusive: bool,
    classes: Sequence[str],
    folds: Integers | None = None,
    groups: Sequence[str] | Integers | None = None,
    thresholds: float | Sequence[float] | Floats | None = None,
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

    Args:
        targets_NC: Given labels in [0, 1].
        probs_NC: Held-out probabilities in [0, 1], columns in the same order.
        exclusive: True if the columns of a row sum to 1.
        classes: Names of the columns.
        folds: Fold of each row; without it `fold_mean` and `fold_std` are NaN.
        groups: Rows that are drawn together; without it each row alone.
        thresholds: One or one per class, 0.5 without it; only if not exclusive.
        resamples: Number of bootstrap resamples; 0 makes the intervals NaN.
        seed: Of the bootstrap.
        confidence: Of the intervals, in (0, 1).

    Shape:
        targets_NC, probs_NC: (N, C). classes: (C,). folds, groups: (N,).

    Returns:
        The overall scores, `main_metric` first, then those of each class.

    Raises:
        InputError: shapes disagree, values are NaN or outside [0, 1], or
            thresholds were given for exclusive classes.

    References:
        Wilson (1927), "Probable inference, the law of succession, and
        statistical inference"; Korn & Graubard (1998), "Confidence intervals
        for proportions with small expected number of positive counts
        estimated from survey data" (the effective size).
    """
    sheet = _read_sheet(targets_NC, probs_NC, exclusive=exclusive, thresholds=thresholds)
    _check_lengths(sheet.truth, classes=classes, folds=folds, groups=groups)
    keys = _number_groups(range(len(sheet.truth)) if groups is None else groups)
    values = _measure(sheet, [np.ones((1, len(keys)))])
    by_fold = _measure(sheet, [] if folds is None else [_split_folds(folds)])
    draws = _measure(sheet, _draw(keys, resamples, seed))
    none = np.zeros(0)
    result = []
    for (metric, column), (value,) in values.items():
        low, high = _find_interval(
            value,
            draws.get((metric, column), none),
            trials=_count_trials(sheet, keys, metric, column),
            bounded=metric not in UNBOUNDED,
            confidence=confidence,
        )
        fold_mean, fold_std = _summarise(by_fold.get((metric, column), none))
        result.append(
            Score(
                metric=metric,
                class_name="" if column < 0 else classes[column],
                value=float(value),
                low=low,
                high=high,
                fold_mean=fold_mean,
                fold_std=fold_std,
                n=len(keys) if column < 0 else int(sheet.truth[:, column].sum()),
                note=_note_left_out(sheet, classes, metric) if column < 0 else "",
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
        resamples: Number of bootstrap resamples, 1 or more.
        seed: Of the bootstrap.
        confidence: Of the interval, in (0, 1).

    Shape:
        targets_NC, probs_a_NC, probs_b_NC: (N, C). groups: (N,).

    Raises:
        InputError: as `score`, or the metric has no such name.

    References:
        Davison & Hinkley (1997), "Bootstrap methods and their application",
        section 4.4 (the 1 that is added); Clopper & Pearson (1934), "The use of
        confidence or fiducial limits" (the bound where nothing was seen).
    """
    sheets = [
        _read_sheet(targets_NC, probs, exclusive=exclusive, thresholds=thresholds)
        for probs in (probs_a_NC, probs_b_NC)
    ]
    metric = metric or main_metric(exclusive=exclusive)
    _check_lengths(sheets[0].truth, groups=groups)
    keys = _number_groups(range(len(sheets[0].truth)) if groups is None else groups)
    family = _find_family(sheets[0], metric)
    at, ones = (metric, -1), np.ones((1, len(keys)))
    a, b = (_measure(sheet, [ones], family)[at][0] for sheet in sheets)
    drawn_a, drawn_b = (_measure(s, _draw(keys, resamples, seed), family)[at] for s in sheets)
    draws = np.round(drawn_a - drawn_b, 12)
    draws = draws[~np.isnan(draws)]
    value, tail = float(a - b), (1 - confidence) / 2
    if math.isnan(value) or not len(draws):
        return Difference(metric=metric, value=value, low=math.nan, high=math.nan, p_value=math.nan)
    low, high = np.quantile(draws, [tail, 1 - tail])
    if low == high and metric not in UNBOUNDED:
        slack = 1 - tail ** (1 / _count_trials(sheets[0], keys, metric, -1))
        low, high = max(low - slack, -1.0), min(high + slack, 1.0)
    side = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    p_value = min(1.0, 2 * (1 + side) / (len(draws) + 1))
    return Difference(metric=metric, value=value, low=float(low), high=float(high), p_value=p_value)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """One column sorted by falling probability; T groups of ties hold positives."""

    rows: Integers  # (N,) rows, best first
    hits: Integers  # positive rows, best first
    first: Integers  # (T,) where the hits of each tie begin in `hits`
    start: Integers  # (T,) where the tie begins in `rows`
    end: Integers  # (T,) where it ends


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ranking:
    """Weights met while going down one sorted column, at each tie with positives."""

    gained: Float64  # (..., T) positive weight in the tie
    found: Float64  # (..., T) positive weight down to its end
    before: Float64  # (..., T) all weight above it
    seen: Float64  # (..., T) all weight down to its end
    total: Float64  # (...) all weight

    @property
    def positives(self) -> Float64:
        return np.asarray(self.gained.sum(axis=-1))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sheet:
    """What every resample needs, computed once."""

    exclusive: bool
    truth: Bool
    decided: Bool
    orders: tuple[_Order, ...]
    log_loss: Float64
    brier: Float64


_Scores = tuple[dict[str, Float64], dict[str, Float64]]
_Family = Callable[[_Sheet, Float64], _Scores]


def _measure_decisions(sheet: _Sheet, weights: Float64) -> _Scores:
    outcomes = count_outcomes(sheet.truth, sheet.decided, weights)
    exact = accuracy(sheet.truth, sheet.decided, weights)
    f1_C, recall_C = f1(outcomes), recall(outcomes)
    by_class = {"precision": precision(outcomes), "recall": recall_C, "f1": f1_C}
    if sheet.exclusive:
        overall = {"accuracy": exact, "balanced_accuracy": macro(recall_C), "f1_macro": macro(f1_C)}
        return overall, by_class
    overall = {"f1_macro": macro(f1_C), "f1_micro": f1(pool(outcomes))[..., 0]}
    total = weights.sum(axis=-1)[..., None]
    by_class["prevalence"] = _divide(outcomes.tp + outcomes.fn, total)
    return overall | {"exact_match": exact}, by_class


def _measure_losses(sheet: _Sheet, weights: Float64) -> _Scores:
    overall = {"log_loss": _average(sheet.log_loss, weights)}
    if not sheet.exclusive:
        overall["brier"] = _average(sheet.brier, weights)
    return overall, {}


def _measure_rankings(sheet: _Sheet, weights: Float64) -> _Scores:
    rankings = (_rank(order, weights) for order in sheet.orders)
    pairs = [(_average_precision(r), _roc_auc(r)) for r in rankings]
    ap, roc = np.moveaxis(np.asarray(pairs), 0, -1)
    if sheet.exclusive:
        overall = {"roc_auc_macro": macro(roc), "average_precision_macro": macro(ap)}
        return overall, {"average_precision": ap}
    overall = {"average_precision": macro(ap), "roc_auc": macro(roc)}
    return overall, {"average_precision": ap, "roc_auc": roc}


_FAMILIES: tuple[_Family, ...] = (_measure_decisions, _measure_losses, _measure_rankings)


def _measure(
    sheet: _Sheet, blocks: Iterable[Weights], families: Sequence[_Family] = _FAMILIES
) -> dict[tuple[str, int], Float64]:
    """Return (B,) values by (metric, column); column -1 is all classes together."""
    parts: dict[tuple[str, int], list[Float64]] = {}
    for block in blocks:
        for family in families:
            overall, by_class = family(sheet, np.asarray(block, dtype=np.float64))
            for name, values in overall.items():
                parts.setdefault((name, -1), []).append(values)
            for name, values in by_class.items():
                for column in range(values.shape[-1]):
                    parts.setdefault((name, column), []).append(values[..., column])
    first = (main_metric(exclusive=sheet.exclusive), -1)
    keys = sorted(parts, key=lambda key: (key != first, key[1]))
    return {key: np.concatenate(parts[key]) for key in keys}


def _find_family(sheet: _Sheet, metric: str) -> tuple[_Family]:
    known: list[str] = []
    for family in _FAMILIES:
        overall, _ = family(sheet, np.ones((1, len(sheet.truth))))
        if metric in overall:
            return (family,)
        known += overall
    raise InputError(
        f"metric {metric!r} is not an overall score; expected one of {', '.join(sorted(known))}"
        f"{suggest(metric, known)}."
    )


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


def _number_groups(groups: Sequence[str] | Sequence[int] | Integers) -> Integers:
    return np.unique(np.asarray(groups), return_inverse=True)[1]


def _split_folds(folds: Integers) -> Bool:
    """Return (K, N) weights that pick out each fold in turn."""
    return np.asarray(folds == np.unique(folds)[:, None])


def _find_interval(
    value: float, draws: Float64, *, trials: int, bounded: bool, confidence: float
) -> tuple[float, float]:
    """Percentiles of the resampled values, widened as `score` explains."""
    draws = np.round(draws[~np.isnan(draws)], 12)
    if math.isnan(value) or not len(draws) or (trials < 2 and not bounded):
        return math.nan, math.nan
    tail = (1 - confidence) / 2
    low, high = (float(end) for end in np.quantile(draws, [tail, 1 - tail]))
    if not bounded or (low < high and low > 0 and high < 1):
        return low, high
    spread, share = float(draws.var()), round(value, 12)
    size = share * (1 - share) / spread if spread > 0 and 0 < share < 1 else trials
    wide_low, wide_high = _find_wilson(share, size, NormalDist().inv_cdf(1 - tail))
    return min(low, wide_low), max(high, wide_high)


def _find_wilson(share: float, size: float, z: float) -> tuple[float, float]:
    centre = share + z * z / (2 * size)
    half = z * math.sqrt(share * (1 - share) / size + (z / (2 * size)) ** 2)
    scale = 1 + z * z / size
    return max((centre - half) / scale, 0.0), min((centre + half) / scale, 1.0)


def _count_trials(sheet: _Sheet, keys: Integers, metric: str, column: int) -> int:
    """Count the groups that a score rests on."""
    if metric in {"accuracy", "exact_match", "prevalence", "brier", "log_loss"}:
        return int(keys.max()) + 1
    columns = range(sheet.truth.shape[1]) if column < 0 else (column,)
    counts = [_count_class_trials(sheet, keys, metric, c) for c in columns]
    counts = [n for n in counts if n]
    if metric == "f1_micro":
        return sum(counts)
    return len(counts) * min(counts, default=0)


def _count_class_trials(sheet: _Sheet, keys: Integers, metric: str, column: int) -> int:
    truth, decided = sheet.truth[:, column], sheet.decided[:, column]
    if metric.startswith("roc_auc"):
        sides = [truth, ~truth]
    else:
        sides = [decided if metric == "precision" else truth]
    return min(int(np.count_nonzero(np.bincount(keys[side]))) for side in sides)


def _summarise(by_fold: Float64) -> tuple[float, float]:
    """Mean and sample deviation of the folds on which a score is defined."""
    defined = by_fold[~np.isnan(by_fold)]
    mean = float(defined.mean()) if len(defined) else math.nan
    return mean, float(defined.std(ddof=1)) if len(defined) > 1 else math.nan


def _note_left_out(sheet: _Sheet, classes: Sequence[str], metric: str) -> str:
    if metric in {"accuracy", "exact_match", "f1_micro", "brier", "log_loss"}:
        return ""
    positives = sheet.truth.sum(axis=0)
    left_out = positives == 0
    if metric.startswith("roc_auc"):
        left_out |= positives == len(sheet.truth)
    names = [name for name, out in zip(classes, left_out, strict=True) if out]
    if not names:
        return ""
    used = len(classes) - len(names)
    return f"mean of {used} of {len(classes)} classes; undefined for {shorten(names)}"


def _sort_column(truth_N: Bool, probs_N: Floats) -> _Order:
    rows = np.argsort(-probs_N)
    ranked = probs_N[rows]
    edges = np.flatnonzero(ranked[1:] != ranked[:-1]) + 1
    starts, ends = np.append(0, edges), np.append(edges, len(rows))
    hits = np.flatnonzero(truth_N[rows])
    ties, first = np.unique(np.searchsorted(starts, hits, side="right") - 1, return_index=True)
    return _Order(rows=rows, hits=rows[hits], first=first, start=starts[ties], end=ends[ties])


def _rank(order: _Order, weights: Float64) -> _Ranking:
    cumulated = np.zeros((*weights.shape[:-1], len(order.rows) + 1))
    np.cumsum(weights[..., order.rows], axis=-1, out=cumulated[..., 1:])
    gained = weights[..., order.hits]
    if len(order.first) < len(order.hits):
        gained = np.add.reduceat(gained, order.first, axis=-1)
    return _Ranking(
        gained=gained,
        found=np.cumsum(gained, axis=-1),
        before=cumulated[..., order.start],
        seen=cumulated[..., order.end],
        total=cumulated[..., -1],
    )


def _average_precision(r: _Ranking) -> Float64:
    return _divide((r.gained * _divide(r.found, r.seen, empty=0)).sum(axis=-1), r.positives)


def _pr_auc(r: _Ranking) -> Float64:
    # Each trapezoid starts at the precision just above the tie; the curve starts at 1.
    ends = _divide(r.found, r.seen, empty=0) + _divide(r.found - r.gained, r.before, empty=1)
    return _divide((r.gained * ends).sum(axis=-1) / 2, r.positives)


def _roc_auc(r: _Ranking) -> Float64:
    # Negative weight above each tie plus half of that inside it, doubled.
    above = (r.before - (r.found - r.gained)) + (r.seen - r.found)
    pairs = r.positives * (r.total - r.positives)
    return _divide(pairs - (r.gained * above).sum(axis=-1) / 2, pairs)


def _each_column(
    formula: Callable[[_Ranking], Float64],
    truth_NC: Bool,
    probs_NC: Floats,
    weights: Weights | None,
) -> Float64:
    read = _read_weights(truth_NC, probs_NC, weights)
    read = np.ones(len(truth_NC)) if read is None else read
    columns = zip(truth_NC.T, probs_NC.T, strict=True)
    return np.stack([formula(_rank(_sort_column(t, p), read)) for t, p in columns], axis=-1)


def _row_log_loss(targets_NC: Floats, probs_NC: Floats, *, exclusive: bool) -> Float64:
    eps = float(np.finfo(_as_floats(probs_NC).dtype).eps)
    p, t = np.clip(probs_NC.astype(np.float64), eps, 1 - eps), targets_NC.astype(np.float64)
    if exclusive:
        return np.asarray(-(t * np.log(p)).sum(axis=1))
    return np.asarray(-(t * np.log(p) + (1 - t) * np.log1p(-p)).mean(axis=1))


def _row_brier(targets_NC: Floats, probs_NC: Floats, *, exclusive: bool) -> Float64:
    squares = (probs_NC.astype(np.float64) - targets_NC) ** 2
    return np.asarray(squares.sum(axis=1) if exclusive else squares.mean(axis=1))


def _as_floats(values: NDArray[Any]) -> Floats:
    """Leave floats at their precision; whole numbers and booleans become float64."""
    return values if np.issubdtype(values.dtype, np.floating) else values.astype(np.float64)


def _both_sides(o: Outcomes) -> Outcomes:
    """Spell a single column out as two classes: absent, present."""
    if o.tp.shape[-1] != 1:
        return o
    pairs = {"tp": (o.tn, o.tp), "fp": (o.fn, o.fp), "fn": (o.fp, o.fn), "tn": (o.tp, o.tn)}
    return Outcomes(**{name: np.concatenate(pair, axis=-1) for name, pair in pairs.items()})


def _margins(outcomes: Outcomes) -> tuple[Float64, Float64, Float64, Float64]:
    """Return right (...), given (..., C), decided (..., C) and all (...) weight."""
    o = _both_sides(outcomes)
    return o.tp.sum(axis=-1), o.tp + o.fn, o.tp + o.fp, (o.tp + o.fn).sum(axis=-1)


def _sum_rows(flags_NC: Bool, weights: Float64 | None) -> Float64:
    """Add up the weights of flagged rows per column, some columns at a time."""
    if weights is None:
        return np.asarray(flags_NC.sum(axis=0, dtype=np.float64))
    sums = np.empty((*weights.shape[:-1], flags_NC.shape[1]))
    step = max(1, 16 * BLOCK // max(1, len(flags_NC)))
    for start in range(0, flags_NC.shape[1], step):
        part = slice(start, start + step)
        sums[..., part] = weights @ flags_NC[:, part].astype(np.float64)
    return sums


def _sum_cells(cell_N: Integers, values_N: Float64, size: int, weights: Float64 | None) -> Float64:
    """Add up weight times value per cell: (..., size)."""
    if weights is None:
        return np.bincount(cell_N, values_N, minlength=size).astype(np.float64)
    flat = weights.reshape(-1, len(cell_N))
    sums = [np.bincount(cell_N, w * values_N, minlength=size) for w in flat]
    return np.reshape(sums, (*weights.shape[:-1], size))


def _average(values_N: Float64 | Bool, weights: Float64 | None) -> Float64:
    if weights is None:
        return np.asarray(values_N.mean())
    return _divide(weights @ values_N, weights.sum(axis=-1))


def _divide(above: object, below: object, *, empty: float = math.nan) -> Float64:
    """Divide; `empty` where the divisor is 0."""
    a, b = np.broadcast_arrays(np.asarray(above, float), np.asarray(below, float))
    return np.asarray(np.divide(a, b, out=np.full(a.shape, float(empty)), where=b != 0))


def _read_weights(
    first: NDArray[Any], second: NDArray[Any], weights: Weights | None
) -> Float64 | None:
    """Check the shapes of one call and return the weights as float64."""
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


def _read_sheet(
    targets: Floats,
    probs: Floats,
    *,
    exclusive: bool,
    thresholds: float | Sequence[float] | Floats | None,
) -> _Sheet:
    _read_weights(targets, probs, None)
    if not targets.size:
        raise InputError(
            f"targets have shape {targets.shape}; expected a row and a class at least."
        )
    for name, values in (("targets", targets), ("probabilities", probs)):
        wrong = int((~((values >= 0) & (values <= 1))).any(axis=1).sum())
        if wrong:
            raise InputError(
                f"{name} are NaN or outside [0, 1] in {wrong} of {len(values)} rows; expected "
                "numbers in [0, 1]. Leave out the rows that are not labelled or not predicted."
            )
    if exclusive and thresholds is not None:
        raise InputError("thresholds were given, but exclusive classes are decided by argmax.")
    truth = to_decisions(targets, exclusive=exclusive)
    cut = 0.5 if thresholds is None else thresholds
    columns = zip(truth.T, probs.T, strict=True)
    return _Sheet(
        exclusive=exclusive,
        truth=truth,
        decided=to_decisions(probs, exclusive=exclusive, thresholds=cut),
        orders=tuple(_sort_column(t, p) for t, p in columns),
        log_loss=_row_log_loss(targets, probs, exclusive=exclusive),
        brier=_row_brier(targets, probs, exclusive=exclusive),
    )


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
