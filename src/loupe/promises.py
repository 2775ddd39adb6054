"""Promises: what cross-validation said of a rule, beside what new rows show.

It must not score rows (that is `intervals`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from loupe.errors import shorten
from loupe.intervals import Score
from loupe.scorecard import main_metric

STEADY = {"accuracy": "balanced_accuracy", "average_precision": "roc_auc"}
"""For each main metric one that does not change with how often each class occurs."""
HELD_TO = ("precision", "recall")
"""Goals that name the score they ask for."""
SHOWN = 8
"""So many broken thresholds are told one by one."""
ACCEPTED = "accepted"
"""What the report calls the one threshold of exclusive classes, below which a row is rejected."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What the threshold of one class was to bring, beside what it brings on new rows.

    Attributes:
        class_name: The class it decides; "accepted" for that of exclusive classes.
        goal: What it was chosen for.
        metric: What it is held to: that of the goal, or f1.
        promised: Cross-fitted, on the rows that were learned from.
        promised_low: Lower end of its prediction interval for another table of that size.
        promised_high: Upper end.
        value: On the new rows.
        low: Lower end of the interval of that.
        high: Upper end.
        kept: As `check_thresholds` tells it; None if it could not be compared.
        below_goal: The whole interval lies below the share that the goal asks for, which the
            threshold was to reach.
        words: All of it as one line.
    """

    class_name: str
    goal: str
    metric: str
    promised: float
    promised_low: float
    promised_high: float
    value: float
    low: float
    high: float
    kept: bool | None
    below_goal: bool
    words: str


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


def check_thresholds(
    scores: Sequence[Score], report: Mapping[str, Any], *, exclusive: bool
) -> tuple[Kept, ...]:
    """Hold each threshold of a rule to what its report said that it would bring.

    Average precision and areas under curves cannot do that: they do not know thresholds.
    A threshold for recall:r or precision:p is held to that score of its class, any other to
    the F1, and so is one for precision where no row is decided though some are positive.
    With the prediction interval as it was printed, which is meant for another table of the
    same size, the promise is kept if

    - the new value is not below that interval. A better score breaks no promise.
    - or, where it is below, which it may well be on a smaller table, if its own interval
      reaches that interval, and the r or p of the goal as well.

    A goal counts only if it was promised: it was attained, and the prediction interval does
    not lie below it. On a large table a value may be inside the prediction interval and yet
    surely below the goal: the promise is kept, and `Kept.below_goal` tells the rest.

    Args:
        scores: Of the decisions of the rule, on rows never trained on.
        report: As `deciding.write_decision` wrote it; nothing in it is trusted.
        exclusive: One class a row. Only a goal of the precision of accepted rows is compared.

    Returns:
        One for each threshold that the report describes, in its order.
    """
    known = {(each.metric, each.class_name): each for each in scores}
    if exclusive:
        # The only score of accepted rows alone.
        whole = find_main_score(scores, "accuracy_accepted")
        known = {} if whole is None else {("precision", ACCEPTED): whole}
    entries = report.get("thresholds")
    found = []
    for entry in entries if isinstance(entries, Sequence) else ():
        try:
            name, goal = str(entry["class_name"]), str(entry["goal"])
            kind, _, number = goal.partition(":")
            metric = _choose_metric(kind, name, known)
            promised = _Span(*(_read_number(entry[metric][key]) for key in _Span._fields))
            reached = metric == kind in HELD_TO and entry["attained"] is True
            asked = float(number) if reached else math.nan
        except (KeyError, TypeError, ValueError):
            continue
        new = known.get((metric, name))
        if new is not None:
            found.append(_hold(name, goal, promised, new, metric=metric, asked=asked))
    return tuple(found)


def tell_thresholds(checked: Sequence[Kept]) -> tuple[str, ...]:
    """Say in a few lines which thresholds keep their promise, the broken ones first.

    Args:
        checked: As `check_thresholds` gives them.

    Returns:
        () if there are none.
    """
    if not checked:
        return ()
    broken = [f"! {each.words}" for each in checked if each.kept is False]
    if len(broken) > SHOWN:
        broken = [*broken[:SHOWN], f"! and {len(broken) - SHOWN} more"]
    kept = [each for each in checked if each.kept]
    blind = sum(each.kept is None for each in checked)
    if blind == len(checked):
        return (f"none of {blind} threshold(s) could be held to its promise: {checked[0].words}",)
    count = len(checked) - blind
    text = f"{len(kept)} of {count} thresholds keep their promise"
    if count == 1:
        text = f"the threshold {'keeps' if kept else 'does not keep'} its promise"
    if blind:
        text += f"; {blind} could not be compared"
    short = [each.class_name for each in kept if each.below_goal]
    if short:
        text += f"; inside the interval that was promised, but below the goal: {shorten(short)}"
    return (*broken, text)


class _Span(NamedTuple):
    """A value between its ends."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        # Narrow intervals need a decimal, or both ends read the same.
        digits = 0 if self.high - self.low >= 0.05 else 1
        ends = f"{100 * self.low:.{digits}f}-{100 * self.high:.{digits}f}"
        return f"{100 * self.value:.1f} % ({ends})"


def _choose_metric(kind: str, name: str, known: Mapping[tuple[str, str], Score]) -> str:
    """Return the score that a goal is held to."""
    values = [known[metric, name].value for metric in HELD_TO if (metric, name) in known]
    # Of no decided row there is no precision, but that is no excuse: F1 is 0 then.
    silent = len(values) == len(HELD_TO) and math.isnan(values[0]) and not math.isnan(values[1])
    return "f1" if kind not in HELD_TO or (kind == "precision" and silent) else kind


def _read_number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _hold(name: str, goal: str, promised: _Span, new: Score, *, metric: str, asked: float) -> Kept:
    """Compare one score with its promise; `asked` is NaN if the goal asks for no share."""
    now = _Span(new.value, new.low, new.high)
    kept: bool | None = None
    below_goal = promised.high >= asked > now.high
    if any(map(math.isnan, (*promised, *now))):
        side = "on the new rows" if any(map(math.isnan, now)) else "in the rule"
        words = f"{name}: {metric} was not compared, for {side} it has no value or no interval"
    else:
        kept = now.value >= promised.low or (now.high >= promised.low and not below_goal)
        verdict = "broken"
        if kept:
            verdict = "kept, but below the goal" if below_goal else "kept"
        words = f"{name}: {metric} {now}, promised {promised} for the goal {goal}: {verdict}"
    return Kept(
        class_name=name,
        goal=goal,
        metric=metric,
        promised=promised.value,
        promised_low=promised.low,
        promised_high=promised.high,
        value=now.value,
        low=now.low,
        high=now.high,
        kept=kept,
        below_goal=below_goal,
        words=words,
    )
