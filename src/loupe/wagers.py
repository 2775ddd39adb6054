"""Wagers: what a threshold is likely to bring on other rows than those it was chosen on.

Owns the description of thresholds: how sure they are, and what precision and recall they
will have on another table of the same size and make. It must not choose the thresholds
of a rule, or know runs and files.

Shapes: N rows, C classes, K parts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loupe.condensing import deal_blocks, number_groups
from loupe.errors import InputError
from loupe.resamples import (
    Column,
    Draws,
    Outcome,
    count_outcome,
    draw_thresholds,
    draw_weights,
)
from loupe.thresholds import Cut, Float32, Goal, Places
from loupe.weighting import Bool, Float64, Integers

TRUST = 1.0
"""How many wrong groups weigh as much as the belief that all rows of a group fare alike."""
SCARCE = 10
"""Fewer positive rows or groups than these call for a warning."""
STEADY = 2 / 3
"""A lower stability calls for a warning."""
METRICS = ("precision", "recall", "f1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a score is, and what it will be.

    Attributes:
        value: Cross-fitted: each part decided by the threshold chosen without it, all rows
            counted together; NaN if undefined.
        low: Lower end of the prediction interval: the score that the threshold will have on
            another table of the same size and make; NaN if nothing can be said.
        high: Upper end.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """A threshold, how sure it is, and what it buys.

    Attributes:
        class_name: The class it decides.
        goal: What it was chosen for, as `thresholds.read_goal` reads it.
        threshold: Decide positive where the probability is equal or above; above 1 is never.
        low: Lower end of the bootstrap interval of the threshold itself.
        high: Upper end.
        attained: False if the goal is out of reach on these rows; `thresholds.find_cut`
            says what the threshold is then.
        positives: Rows that have the class.
        stability: In [0, 1]. Of the rows that the lowest of the K part thresholds decides,
            the share that the highest decides too; 1 if all parts agree on every row.
        precision: Share of decided rows that are positive.
        recall: Share of positive rows that are decided.
        f1: Harmonic mean of both.
        in_sample: The same three on the rows that the threshold was chosen on: what is
            usually printed, and flatters.
        warnings: What the user must know, in words.
    """

    class_name: str
    goal: str
    threshold: float
    low: float
    high: float
    attained: bool
    positives: int
    stability: float
    precision: Estimate
    recall: Estimate
    f1: Estimate
    in_sample: dict[str, float]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """One class: its rows, what was chosen on them, and what that decides."""

    name: str
    goal: Goal
    cut: Cut
    by_part: Float64  # (K,)
    column: Column
    groups: Places
    decided: Bool
    own: Outcome
    cross: Outcome
    draws: Draws

    def count_groups(self, rows: Bool) -> int:
        return int(np.count_nonzero(np.bincount(self.groups[rows], minlength=1)))


def describe_thresholds(  # noqa: PLR0917 - sheets, and what was chosen on them
    truth_NC: Bool,
    final_probs_NC: Float32,
    held_out_probs_NC: Float32,
    parts: Integers,
    part_cuts: Sequence[Sequence[float]],
    cuts: Sequence[Cut],
    goals: Sequence[Goal],
    groups: Integers,
    *,
    classes: Sequence[str],
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[Threshold, ...]:
    """Say of each threshold how sure it is and what it will bring on other rows.

    The interval of a score is a *prediction* interval: it is meant to hold the score of the
    printed threshold on another table of the same size and make. So it has the noise of
    both tables, and is wider than the usual interval by about the square root of 2. It is
    found in three steps.

    1. Groups are resampled. Each resample chooses its own threshold, which is then scored on
       it and on an independent resample. The mean difference is what choosing flatters (as
       in Efron's optimism bootstrap) and is added to the score on all rows; the variance of
       the difference is that of the prediction.
    2. All three scores are shares of successes: precision of the decided rows, recall of the
       positive rows, and F1 = 2 J / (1 + J) of J = TP / (TP + FP + FN). The number of
       trials is divided by the variance of step 1 over that of independent trials (the
       design effect; at least 1). Where few groups failed or succeeded that ratio is
       unsure, and is drawn to trials by groups, as if all rows of a group fared alike.
    3. The ends are quantiles of the beta-binomial distribution, which is what n new trials
       give after n trials (with Jeffreys' half success and half failure). It holds near 0
       and 1 as well; without groups and for recall it is close to the exact distribution,
       which does not depend on that of the probabilities.

    The interval is extended to the cross-fitted value where that lies outside.

    Args:
        truth_NC: Given labels.
        final_probs_NC: What the final rule's probabilities are; its thresholds were chosen
            on these.
        held_out_probs_NC: The same, but each part by what was fitted without it.
        parts: Number of the part of each row, 0 to K - 1.
        part_cuts: (K, C) the thresholds chosen without each part.
        cuts: (C,) the final thresholds.
        goals: (C,) what they are for.
        groups: Rows that are drawn together.
        classes: (C,) names.
        resamples: Number of bootstrap resamples; below 2 the intervals are NaN.
        seed: Of the bootstrap.
        confidence: Of the intervals, in (0, 1).

    Shape:
        truth_NC, final_probs_NC, held_out_probs_NC: (N, C). parts, groups: (N,).

    Returns:
        (C,) one for each class.

    Raises:
        InputError: shapes disagree.

    References:
        Efron (1983), "Estimating the error rate of a prediction rule", section 2
        (optimism); Wilks (1941), "Determination of sample sizes for setting tolerance
        limits" (the exact law for recall); Kish (1965), "Survey sampling", section 8.2
        (design effect); Korn & Graubard (1998), "Confidence intervals for proportions with
        small expected number of positive counts" (effective trials).
    """
    shapes = [truth_NC.shape, final_probs_NC.shape, held_out_probs_NC.shape]
    lengths = [len(classes), len(cuts), len(goals), *(len(row) for row in part_cuts)]
    _check_shapes(shapes, lengths, parts, part_cuts, groups)
    keys = number_groups(groups).astype(np.intp)
    blocks = deal_blocks(keys, seed=seed).astype(np.intp)
    weights = draw_weights(blocks, resamples, seed)
    result = []
    for number, name in enumerate(classes):
        truth = np.ascontiguousarray(truth_NC[:, number], dtype=np.bool_)
        final, held = (
            np.ascontiguousarray(sheet[:, number], dtype=np.float32)
            for sheet in (final_probs_NC, held_out_probs_NC)
        )
        held = final if np.array_equal(final, held) else held
        column = Column(truth, final, held, blocks)
        by_part = np.array([row[number] for row in part_cuts])
        decided = final >= np.float32(cuts[number].threshold)
        case = _Case(
            name=name,
            goal=goals[number],
            cut=cuts[number],
            by_part=by_part,
            column=column,
            groups=keys,
            decided=decided,
            own=count_outcome(truth, decided),
            cross=count_outcome(truth, held >= by_part.astype(np.float32)[parts]),
            draws=draw_thresholds(column, goals[number], weights),
        )
        result.append(_describe(case, confidence))
    return tuple(result)


def _describe(case: _Case, confidence: float) -> Threshold:
    tail = (1 - confidence) / 2
    precision, recall, f1 = (_estimate(case, metric, tail) for metric in METRICS)
    low, high = _spread(case.draws.thresholds, case.cut.threshold, tail)
    stability = _measure_stability(case)
    return Threshold(
        class_name=case.name,
        goal=str(case.goal),
        threshold=case.cut.threshold,
        low=low,
        high=high,
        attained=case.cut.attained,
        positives=int(case.own.positives),
        stability=stability,
        precision=precision,
        recall=recall,
        f1=f1,
        in_sample={metric: _unfold(metric, float(case.own.share(metric))) for metric in METRICS},
        warnings=_warn(case, stability, {"precision": precision, "recall": recall}),
    )


def _measure_stability(case: _Case) -> float:
    ends = (case.by_part.min(), case.by_part.max())
    most, least = (int((case.column.final >= np.float32(end)).sum()) for end in ends)
    return least / most if most else 1.0


# Intervals ----------------------------------------------------------------------------------------


def _estimate(case: _Case, metric: str, tail: float) -> Estimate:
    value, share = float(case.cross.share(metric)), float(case.own.share(metric))
    flattery = case.draws.other.share(metric) - case.draws.own.share(metric)
    flattery = flattery[~np.isnan(flattery)]
    if math.isnan(share) or len(flattery) < 2:
        return Estimate(value=_unfold(metric, value), low=math.nan, high=math.nan)
    trials = int(case.own.trials(metric))
    # Half a success and half a failure keep the variance of independent trials above 0.
    plain = (share * trials + 0.5) / (trials + 1)
    effect = float(flattery.var()) * trials / (2 * plain * (1 - plain))
    size = max(1, round(trials / _settle(case, metric, effect)))
    mean = min(max(share + float(flattery.mean()), 0.0), 1.0)
    low, high = _predict(size, mean, (tail, 1 - tail))
    if not math.isnan(value):
        low, high = min(low, value), max(high, value)
    value, low, high = (_unfold(metric, end) for end in (value, low, high))
    return Estimate(value=value, low=low, high=high)


def _settle(case: _Case, metric: str, effect: float) -> float:
    """Draw a design effect towards rows by group, the more the fewer groups speak for it."""
    truth, decided = case.column.truth, case.decided
    rows = {"precision": decided, "recall": truth, "f1": decided | truth}[metric]
    right = truth & decided
    told = min(case.count_groups(rows & ~right), case.count_groups(right))
    by_group = np.count_nonzero(rows) / case.count_groups(rows)
    return max(1.0, (told * effect + TRUST * by_group) / (told + TRUST))


def _predict(size: int, mean: float, levels: tuple[float, float]) -> tuple[float, float]:
    """Return quantiles of the share that `size` new trials give after `size` trials.

    Args:
        size: Number of trials, before and after.
        mean: Share of successes before.
        levels: Of the quantiles.
    """
    a, b = mean * size + 0.5, (1 - mean) * size + 0.5
    deviation = math.sqrt(2 * size * (a / (a + b)) * (b / (a + b)))
    # Ten deviations, and some for the long tails of rare failures, hold all but nothing.
    least = max(0, math.floor(mean * size - 10 * deviation - 20))
    most = min(size, math.ceil(mean * size + 10 * deviation + 20))
    k = np.arange(least, most, dtype=np.float64)
    # Each chance over the one before, which needs no gamma function.
    steps = np.log((size - k) * (k + a)) - np.log((k + 1) * (size - k - 1 + b))
    logs = np.append(0.0, np.cumsum(steps))
    chances = np.cumsum(np.exp(logs - logs.max()))
    low, high = np.searchsorted(chances / chances[-1], np.array(levels) - 1e-12)
    return (least + int(low)) / size, min(least + int(high), size) / size


def _unfold(metric: str, share: float) -> float:
    """Return F1 from its share of TP + FP + FN; other scores as they are."""
    return 2 * share / (1 + share) if metric == "f1" else share


def _spread(draws: Float64, threshold: float, tail: float) -> tuple[float, float]:
    if len(draws) < 2:
        return math.nan, math.nan
    low, high = np.quantile(draws, [tail, 1 - tail])
    return min(float(low), threshold), max(float(high), threshold)


# Words --------------------------------------------------------------------------------------------


def _warn(case: _Case, stability: float, found: dict[str, Estimate]) -> tuple[str, ...]:
    name, goal, cut, by_part = case.name, case.goal, case.cut, case.by_part
    positives = int(case.own.positives)
    if not positives:
        text = "no row has this class, so nothing speaks for a threshold"
        return (f"{name}: {text}; {cut.threshold:.3g} is a default.",)
    texts = []
    groups = case.count_groups(case.column.truth)
    if groups < SCARCE:
        told = f"{positives} positive row{'s' * (positives > 1)}"
        told += f" in {groups} group{'s' * (groups > 1)}" if groups < positives else ""
        texts.append(f"{name}: only {told}; whatever is said of this class is a guess.")
    if not cut.attained:
        texts.append(
            f"{name}: no threshold has a precision of {goal.value:g}; {cut.threshold:.3g} has "
            "the best one."
        )
    elif cut.threshold == 0 and goal.kind != "fixed":
        texts.append(f"{name}: {goal} is served best by deciding every row positive.")
    elif goal.kind == "fixed" and not int(case.own.called):
        texts.append(
            f"{name}: no row reaches {cut.threshold:.3g}, so the class is never decided; a goal "
            "(recall, f1) chooses a lower threshold."
        )
    elif cut.threshold > 1:
        texts.append(f"{name}: {goal} is served best by deciding no row positive.")
    # One that was given, or kept at 0.5, moves only with the calibration.
    if stability < STEADY and goal.kind != "fixed":
        texts.append(
            f"{name}: the threshold is unstable, from {by_part.min():.3g} to "
            f"{by_part.max():.3g} over the folds; {1 - stability:.0%} of the rows that the lowest "
            "would decide positive are not decided by the highest."
        )
    reached = found.get(goal.kind)
    if cut.attained and reached is not None and reached.high < goal.value:
        texts.append(
            f"{name}: {goal} is missed on rows that were held out: {goal.kind} "
            f"{reached.value:.3f}, expected {reached.low:.3f} to {reached.high:.3f} on new rows."
        )
    return tuple(texts)


# Checks -------------------------------------------------------------------------------------------


def _check_shapes(
    shapes: Sequence[tuple[int, ...]],
    lengths: Sequence[int],
    parts: Integers,
    part_cuts: Sequence[Sequence[float]],
    groups: Integers,
) -> None:
    first = shapes[0]
    if len(first) != 2 or 0 in first or set(shapes) != {first} or set(lengths) != {first[1]}:
        raise InputError(
            f"labels and probabilities have the shapes {list(shapes)}, and there are {lengths} "
            "classes, thresholds, goals and thresholds of each part; expected (N, C) for each "
            "sheet, with a row at least, and C of each other."
        )
    rows = first[0]
    if np.shape(parts) != (rows,) or np.shape(groups) != (rows,):
        raise InputError(
            f"parts have shape {np.shape(parts)} and groups {np.shape(groups)}; expected ({rows},)."
        )
    if int(parts.min()) < 0 or int(parts.max()) >= len(part_cuts):
        raise InputError(
            f"parts run from {int(parts.min())} to {int(parts.max())}, and there are thresholds of "
            f"{len(part_cuts)} parts; expected parts 0 to {len(part_cuts) - 1}."
        )
