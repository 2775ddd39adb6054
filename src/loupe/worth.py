"""Worth: what the thresholds and prediction sets of a rule buy, by the rules of its parts.

It must not fit anything.

Shapes: N rows, C classes, K parts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from loupe.calibration import calibrate
from loupe.conformal import Coverage, measure_coverage, predict_sets
from loupe.evidence import Evidence, Float32, final_probs, held_out_probs
from loupe.metrics import to_decisions
from loupe.rules import Decided, Rule
from loupe.thresholds import NEVER, Cut, read_goal
from loupe.wagers import Threshold, describe_thresholds
from loupe.weighting import Bool


def as_accepted(truth: Bool, probs: Float32) -> tuple[Bool, Float32]:
    """Turn exclusive classes into one column: is the largest probability right?

    Args:
        truth: (N, C) given labels.
        probs: (N, C) probabilities.

    Returns:
        (N, 1) True where it is, and (N, 1) how large it is.
    """
    top = probs.argmax(axis=1)[:, None]
    return np.take_along_axis(truth, top, axis=1), np.take_along_axis(probs, top, axis=1)


def describe_rule(
    evidence: Evidence,
    rule: Rule,
    cuts: Sequence[Cut],
    part_rules: Sequence[Rule],
    held: Decided,
    *,
    resamples: int,
    seed: int,
) -> tuple[Threshold, ...]:
    """Say what each threshold of a rule buys; () for plain argmax.

    All is measured on the scale of the final calibration, for thresholds that belong to
    other maps do not compare.

    Args:
        evidence: The rows that it was fitted on.
        rule: For new rows.
        cuts: Its thresholds as they were found; one if classes are exclusive.
        part_rules: (K,) fitted without each part.
        held: The rows, each decided by the rule of its part.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.
    """
    if not cuts:
        return ()
    truth = to_decisions(evidence.targets, exclusive=evidence.exclusive)
    classes: tuple[str, ...] = evidence.classes
    if evidence.exclusive:
        truth, top = as_accepted(truth, held.probs)
        sheets, classes = (top, top), ("accepted",)
        part_cuts = [[part.reject] for part in part_rules]
    else:
        raw, ours = final_probs(evidence), held_out_probs(evidence)
        own = calibrate(rule.calibration, raw, exclusive=False)
        sheets = (own, calibrate(rule.calibration, ours, exclusive=False))
        part_cuts = rescale(rule, part_rules, raw)
    return describe_thresholds(
        truth,
        *sheets,
        evidence.parts,
        part_cuts,
        cuts,
        [read_goal(goal) for goal in rule.goals],
        evidence.groups,
        classes=classes,
        resamples=resamples,
        seed=seed,
    )


def rescale(rule: Rule, part_rules: Sequence[Rule], raw: Float32) -> list[list[float]]:
    """Return the thresholds of part rules as probabilities after the final calibration.

    Calibrations are monotone, so a threshold is the smallest raw probability that
    reaches it, whatever the scale it was fitted on.

    Args:
        rule: With the final calibration; its classes stand alone.
        part_rules: (K,) with calibrations of their own.
        raw: (N, C) probabilities before any calibration.

    Returns:
        (K, C); above 1 where no row reaches a threshold.
    """
    ordered = np.sort(raw, axis=0)
    target = calibrate(rule.calibration, ordered, exclusive=False)
    found = []
    for part in part_rules:
        scale = calibrate(part.calibration, ordered, exclusive=False)
        cuts = []
        for column, threshold in enumerate(part.thresholds):
            place = int(np.searchsorted(scale[:, column], np.float32(threshold)))
            cuts.append(NEVER if place == len(ordered) else float(target[place, column]))
        found.append(cuts)
    return found


def measure_sets(
    evidence: Evidence, part_rules: Sequence[Rule], held: Decided
) -> tuple[Coverage, ...]:
    """Measure how often the true answer is in the prediction set of its part's rule.

    Args:
        evidence: The rows that the rules were fitted on.
        part_rules: (K,) fitted without each part.
        held: The rows, calibrated by the rule of their part.

    Returns:
        By class and answer; () if no coverage was asked for.
    """
    exclusive = evidence.exclusive
    sets = np.zeros(held.probs.shape if exclusive else (*held.probs.shape, 2), np.bool_)
    for part, rule in enumerate(part_rules):
        if rule.conformal is None:
            return ()
        rows = np.flatnonzero(evidence.parts == part)
        sets[rows] = predict_sets(rule.conformal, held.probs[rows], exclusive=exclusive)
    return measure_coverage(
        sets, evidence.targets, evidence.groups, exclusive=exclusive, classes=evidence.classes
    )
