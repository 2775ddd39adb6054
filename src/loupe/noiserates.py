"""Noise rates: how many labels of each class are estimated wrong, and how right an audit was.

It must not read files or rank labels.

Shapes: N rows, C classes, B resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loupe.auditrules import Question
from loupe.ends import find_interval
from loupe.intervals import bootstrap_weights
from loupe.issues import Issue, Key
from loupe.noise import count_confident
from loupe.reliability import Share, measure_share
from loupe.reviews import Review
from loupe.weighting import Float64, Integers, Weights

RESAMPLES = 200
FEWER_RESAMPLES = 50
_MANY = 2_000_000  # probabilities; beyond, fewer resamples
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseRate:
    """The share of wrong labels among the rows with one given label.

    Attributes:
        class_name: The class in question where classes stand alone; "" where they are exclusive.
        given: The given label; "" for all of the question together.
        rows: How many rows have it.
        rate: Estimated share of them that is wrong, by confident counts.
        low: Lower end of the 95 % interval, groups drawn with replacement.
        high: Upper end.
    """

    class_name: str
    given: str
    rows: int
    rate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """How many of the flagged labels that people looked at were wrong.

    Attributes:
        rule: The rule that flagged them; "" for all.
        flagged: How many labels it flags.
        reviewed: Of these, how many were decided; skipped ones are open.
        wrong: Of these, how many a person relabelled or dropped.
        share: wrong / reviewed with its 95 % interval; the labels of a row count as one draw.
    """

    rule: str
    flagged: int
    reviewed: int
    wrong: int
    share: Share


def draw_resamples(groups: Integers, size: int, seed: int = 0) -> NDArray[np.int32]:
    """Draw how often each row counts in each resample; groups are drawn whole.

    Args:
        groups: Number of the group of each row.
        size: How many probabilities each resample will look at; beyond two million there are
            fewer resamples.
        seed: Of the draws.

    Shape:
        groups: (N,). Returns: (B, N).
    """
    return bootstrap_weights(groups, RESAMPLES if size < _MANY else FEWER_RESAMPLES, seed)


def estimate_rates(
    question: Question, groups: Integers, weights: NDArray[np.int32] | None = None
) -> tuple[NoiseRate, ...]:
    """Estimate what share of the labels is wrong, for each given label and for all.

    The interval holds the chance of which rows were drawn, not the errors of the method: see the
    estimates beside the truth in the results of `benchmarks/label_noise.py`. It is a little too
    high as a rule, since hard rows look like wrong ones.

    Args:
        question: Of one audit.
        groups: Number of the group of each row; they are drawn whole.
        weights: From `draw_resamples`, the same for all questions; drawn here if None.

    Shape:
        groups: (N,). weights: (B, N).

    Returns:
        All labels together first, then each given label that some row has.
    """
    given, probs = question.given, question.probs
    rows = np.bincount(given, minlength=probs.shape[1])
    found = _estimate(given, question.probs, None)
    weights = draw_resamples(groups, probs.size) if weights is None else weights
    draws = np.stack([_estimate(given, probs, drawn) for drawn in weights])
    rates = []
    for number in (-1, *np.flatnonzero(rows)):
        own = groups if number < 0 else groups[given == number]
        low, high = find_interval(
            float(found[number]),
            draws[:, number],
            trials=len(np.unique(own)),
            bounded=True,
            confidence=CONFIDENCE,
        )
        rates.append(
            NoiseRate(
                class_name=question.class_name,
                given="" if number < 0 else question.options[number],
                rows=len(own) if number >= 0 else len(given),
                rate=float(found[number]),
                low=low,
                high=high,
            )
        )
    return tuple(rates)


def estimate_precision(
    issues: Sequence[Issue], reviews: Mapping[Key, Review]
) -> tuple[Precision, ...]:
    """Count how many flagged labels people found wrong, for all rules and for each.

    Args:
        issues: What was flagged.
        reviews: The decisions that stand.

    Returns:
        All rules together, then each; () if nothing flagged was decided.
    """
    names = dict.fromkeys(name for issue in issues for name in issue.rules)
    found = []
    for rule in ("", *names):
        flagged = [issue for issue in issues if (rule in issue.rules if rule else issue.rules)]
        decided: dict[str, list[bool]] = {}
        for issue in flagged:
            review = reviews.get(issue.key)
            if review is not None and review.decision in ("keep", "relabel", "drop"):
                # An issue about a whole row has no given label, and a dropped one no new one.
                changed = review.decision == "relabel" and review.label != issue.given
                wrong = changed or review.decision == "drop"
                decided.setdefault(issue.id, []).append(wrong)
        if decided:
            hits = np.array([sum(each) for each in decided.values()], np.float64)
            sizes = np.array([len(each) for each in decided.values()], np.float64)
            found.append(
                Precision(
                    rule=rule,
                    flagged=len(flagged),
                    reviewed=int(sizes.sum()),
                    wrong=int(hits.sum()),
                    share=measure_share(hits, sizes),
                )
            )
    return tuple(found)


def _estimate(given: Integers, probs: Float64, weights: Weights | None) -> Float64:
    """Return the share that is wrong of each given label, and of all of them last."""
    counted = count_confident(given, probs, weights)
    shares = 1 - counted.diagonal() / counted.sum(axis=1)
    rows = np.bincount(given, weights, minlength=len(shares))
    whole = float((shares * rows).sum() / rows.sum())
    return np.append(shares, whole)
