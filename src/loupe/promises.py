"""Promises: what cross-validation said of a rule, beside what new rows show.

It must not score rows (that is `intervals`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from loupe.intervals import Score
from loupe.scorecard import main_metric

STEADY = {"accuracy": "balanced_accuracy", "average_precision": "roc_auc"}
"""For each main metric one that does not change with how often each class occurs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """One score of new rows beside the cross-fitted one of the rows that were learned from.

    Attributes:
        metric: Name of the score.
        value: On the new rows.
        promised: Cross-fitted, on the rows that were learned from.
        low: Lower end of the interval of `value - promised`.
        high: Upper end of it.
        kept: True if it is as expected; None if it could not be compared.
        verdict: In words.
    """

    metric: str
    value: float
    promised: float
    low: float
    high: float
    kept: bool | None
    verdict: str


def compare_promise(new: Score, promised: Score) -> Promise:
    """Compare a score of new rows with what cross-validation promised.

    The two rest on different rows, so their errors are independent, and the interval
    of the difference d = new - promised joins the sides of both intervals:

        low  = d - sqrt((new - new.low)^2  + (promised.high - promised)^2)
        high = d + sqrt((new.high - new)^2 + (promised - promised.low)^2)

    The score is as expected if 0 lies inside: neither interval alone would do, for the
    promise is uncertain as well.

    Args:
        new: Of rows never trained on.
        promised: The same metric, cross-fitted.

    References:
        Newcombe (1998), "Interval estimation for the difference between independent
        proportions: comparison of eleven methods", method 10; Zou & Donner (2008),
        "Construction of confidence limits about effect measures: a general approach".

    Examples:
        >>> def make(value, low, high):
        ...     return Score(metric="accuracy", class_name="", value=value, low=low, high=high,
        ...                  fold_mean=value, fold_std=0.0, n=100)
        >>> compare_promise(make(0.80, 0.77, 0.83), make(0.90, 0.86, 0.93)).verdict
        'accuracy is lower than cross-validation promised: 0.8000, not 0.9000 (-0.1424 to -0.0500)'
    """
    d = new.value - promised.value
    low = d - math.hypot(new.value - new.low, promised.high - promised.value)
    high = d + math.hypot(new.high - new.value, promised.value - promised.low)
    kept: bool | None = None
    if new.note != promised.note:
        verdict = (
            f"{new.metric} was not compared with cross-validation, for it is a mean of other "
            f"classes ({new.note or 'all'} here, {promised.note or 'all'} there)"
        )
    elif math.isnan(low) or math.isnan(high):
        verdict = f"{new.metric} was not compared with cross-validation: there is no interval"
    elif kept := low <= 0 <= high:
        verdict = (
            f"{new.metric} is as expected: {new.value:.4f}, {promised.value:.4f} in "
            f"cross-validation (difference {low:+.4f} to {high:+.4f})"
        )
    else:
        side = "lower" if high < 0 else "higher"
        verdict = (
            f"{new.metric} is {side} than cross-validation promised: {new.value:.4f}, not "
            f"{promised.value:.4f} ({low:+.4f} to {high:+.4f})"
        )
    return Promise(
        metric=new.metric,
        value=new.value,
        promised=promised.value,
        low=low,
        high=high,
        kept=kept,
        verdict=verdict,
    )


def compare_main(
    scores: Sequence[Score], promised: Callable[[str], Score | None], *, exclusive: bool
) -> Promise | None:
    """Compare the main metric of new rows with what cross-validation promised.

    New rows may be better or worse only because classes are rarer or more common there;
    where the promise is not kept, a metric that does not hang on that is set beside it.

    Args:
        scores: Of rows never trained on.
        promised: Name of an overall score to its cross-fitted value; None if unknown.
        exclusive: One class a row.

    Returns:
        None if nothing was promised.
    """
    metric = main_metric(exclusive=exclusive)
    new, old = find_main_score(scores, metric), promised(metric)
    if new is None or old is None:
        return None
    promise = compare_promise(new, old)
    new, old = find_main_score(scores, STEADY[metric]), promised(STEADY[metric])
    if promise.kept is not False or new is None or old is None:
        return promise
    steady = compare_promise(new, old)
    return replace(
        promise,
        verdict=f"{promise.verdict}; {steady.verdict}, whichever share of the rows each class has",
    )


def read_main_score(report: Mapping[str, Any], metric: str) -> Score | None:
    """Read one overall score from the report of a rule file.

    Args:
        report: As `deciding.write_decision` wrote it; nothing in it is trusted.
        metric: Name of the score.

    Returns:
        None if it is not there.
    """
    try:
        entries = [e for e in report["scores"] if e["metric"] == metric and not e["class_name"]]
        found = entries[0]
        value, low, high, mean, deviation = (
            math.nan if found[key] is None else float(found[key])
            for key in ("value", "low", "high", "fold_mean", "fold_std")
        )
        return Score(
            metric=metric,
            class_name="",
            value=value,
            low=low,
            high=high,
            fold_mean=mean,
            fold_std=deviation,
            n=int(found["n"]),
            note=str(found["note"]),
        )
    except (KeyError, IndexError, TypeError, ValueError):
        return None


def find_main_score(scores: Sequence[Score], metric: str) -> Score | None:
    """Return one overall score.

    Args:
        scores: As `intervals.score` gives them.
        metric: Name of the score.
    """
    return next((s for s in scores if s.metric == metric and not s.class_name), None)
