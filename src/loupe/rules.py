"""Rules: from probabilities to decisions, the same wherever a decision is made.

A rule is a calibration and a threshold for each class; for exclusive classes the
largest probability decides, and a row may be rejected. It can also say which rows a
person should look at. Owns the rule, its text form and how it is applied. It must not
fit anything (that is `deciding`).

Shapes: N rows, C classes, G groups.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from loupe.calibration import Calibration, calibrate, calibration_to_dict, read_calibration
from loupe.conformal import (
    Conformal,
    conformal_to_dict,
    needs_review,
    predict_sets,
    read_conformal,
)
from loupe.errors import AlignmentError, InputError, shorten

Bool = NDArray[np.bool_]
Float32 = NDArray[np.float32]
Rows = NDArray[np.intp]
Pool = Literal["", "mean", "max"]

SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How probabilities become decisions.

    Attributes:
        classes: (C,) names, in the order of the columns.
        exclusive: One class a row, by the largest probability.
        calibration: Applied first.
        thresholds: (C,) a class is decided where its calibrated probability reaches its
            threshold; () if exclusive.
        reject: Exclusive only: a row whose largest calibrated probability is below it gets no
            class.
        conformal: Which rows are sure enough to need no person; None if not asked for.
        goals: (C,) what each threshold was chosen for, as `thresholds.read_goal` reads it;
            one text, "argmax" or a goal of the accepted rows, if exclusive.
        pool: "" decides each row; "mean" or "max" of a group's rows decides the group once.
    """

    classes: tuple[str, ...]
    exclusive: bool
    calibration: Calibration = field(default_factory=Calibration)
    thresholds: tuple[float, ...] = ()
    reject: float = 0.0
    conformal: Conformal | None = None
    goals: tuple[str, ...] = ()
    pool: Pool = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What a rule makes of some rows.

    Attributes:
        probs: (N, C) float32, calibrated; NaN where the row has none.
        decisions: (N, C); all False where a row was rejected or could not be read.
        review: (N,) True where a person should look: rejected, unreadable, or not sure
            enough for the rule's stated coverage.
    """

    probs: Float32
    decisions: Bool
    review: Bool


def plain_rule(classes: Sequence[str], *, exclusive: bool) -> Rule:
    """Return the rule that was not fitted: argmax if exclusive, else p >= 0.5.

    Examples:
        >>> plain_rule(["crack"], exclusive=False).thresholds
        (0.5,)
    """
    return Rule(
        classes=tuple(classes),
        exclusive=exclusive,
        thresholds=() if exclusive else (0.5,) * len(classes),
        goals=("argmax",) if exclusive else ("fixed:0.5",) * len(classes),
    )


def apply_rule(
    rule: Rule, probs: Float32, *, classes: Sequence[str], groups: Rows | None = None
) -> Decided:
    """Decide rows, or the groups that they form.

    Args:
        rule: Its `pool` says whether groups are decided as one.
        probs: Probabilities as a run gives them; NaN where a row could not be read.
        classes: Names of the columns of `probs`; any order.
        groups: Number of the group of each row, from 0; needed if the rule pools. Every
            row gets the decision of its group; rows that could not be read are left
            out of it.

    Shape:
        probs: (N, C). groups: (N,).

    Returns:
        Columns in the order of `classes`.

    Raises:
        AlignmentError: the rule is for other classes.
    """
    order, back = _match_classes(rule, classes)
    sheet = np.asarray(probs, np.float32)
    sheet = sheet if order is None else sheet[:, order]
    if rule.pool and groups is not None:
        pooled = pool_rows(sheet, groups, rule.pool)
        decided = _decide(rule, pooled)
        lost = find_lost(sheet)
        decided = Decided(
            probs=decided.probs[groups],
            decisions=decided.decisions[groups] & ~lost[:, None],
            review=decided.review[groups] | lost,
        )
    else:
        decided = _decide(rule, sheet)
    if back is None:
        return decided
    return Decided(
        probs=decided.probs[:, back], decisions=decided.decisions[:, back], review=decided.review
    )


def pool_rows(values: Float32, groups: Rows, pool: Pool) -> Float32:
    """Return one row a group: the mean or the largest value of its rows, NaN left out.

    Args:
        values: Probabilities or targets.
        groups: Number of the group of each row, from 0.
        pool: "mean" or "max".

    Shape:
        values: (N, C). groups: (N,). Returns (G, C).

    Examples:
        >>> pool_rows(np.float32([[0.1], [0.7], [0.4]]), np.array([0, 0, 1]), "max").tolist()
        [[0.699999988079071], [0.4000000059604645]]
    """
    count = int(groups.max()) + 1
    known = ~find_lost(values)
    result = np.full((count, values.shape[1]), np.nan, np.float32)
    for column in range(values.shape[1]):
        here, which = values[known, column], groups[known]
        if pool == "mean":
            sums = np.bincount(which, here, minlength=count)
            rows = np.bincount(which, minlength=count)
            found = rows > 0
            result[found, column] = sums[found] / rows[found]
        else:
            np.fmax.at(result[:, column], which, here)
    return result


def find_lost(probs: Float32) -> Bool:
    """Return (N,) True for the rows that have no probabilities."""
    return np.asarray(np.isnan(probs).any(axis=1), np.bool_)


def rule_to_dict(rule: Rule) -> dict[str, Any]:
    """Return a rule as plain values, for JSON."""
    return {
        "classes": list(rule.classes),
        "exclusive": rule.exclusive,
        "goals": list(rule.goals),
        "calibration": calibration_to_dict(rule.calibration),
        "thresholds": list(rule.thresholds),
        "reject": rule.reject,
        "conformal": None if rule.conformal is None else conformal_to_dict(rule.conformal),
        "pool": rule.pool,
    }


def rule_from_dict(values: Mapping[str, Any], where: str) -> Rule:
    """Read a rule from plain values; nothing in them is trusted.

    Args:
        values: As `rule_to_dict` wrote it.
        where: The file, for messages.

    Raises:
        InputError: something is missing or out of its range.
    """
    try:
        classes = tuple(str(name) for name in values["classes"])
        conformal = values["conformal"]
        rule = Rule(
            classes=classes,
            exclusive=bool(values["exclusive"]),
            calibration=read_calibration(values["calibration"], classes=len(classes)),
            thresholds=tuple(float(value) for value in values["thresholds"]),
            reject=float(values["reject"]),
            conformal=None if conformal is None else read_conformal(conformal, len(classes)),
            goals=tuple(str(goal) for goal in values["goals"]),
            pool=values["pool"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{where} is no rule: {type(error).__name__} {error}. Expected what 'loupe decide' "
            "writes; run it again."
        ) from None
    _check_rule(rule, where)
    return rule


def read_rule(path: Path) -> Rule:
    """Read the rule that `deciding.write_decision` wrote.

    Args:
        path: `rule.json` of a run, or a copy of it.

    Raises:
        InputError: it is not there, no rule, or of a newer Loupe.
    """
    return rule_from_dict(load_rule_file(path), str(path))


def read_part_rules(path: Path) -> dict[str, Rule]:
    """Read the rules that were fitted without each part, for cross-fitted decisions.

    Args:
        path: `rule.json`.

    Returns:
        Fold, as text, to the rule for its rows.

    Raises:
        InputError: as `read_rule`.
    """
    found = load_rule_file(path).get("parts", {})
    return {name: rule_from_dict(part, f"{path}, part {name}") for name, part in found.items()}


def load_rule_file(path: Path) -> dict[str, Any]:
    """Read a rule file as plain values.

    Args:
        path: `rule.json`.

    Raises:
        InputError: it is not there, no rule, or of a newer Loupe.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; 'loupe decide' writes it.")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        kind, schema = values["kind"], values["schema"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} is no rule; expected what 'loupe decide' writes.") from None
    if kind != "rule" or schema != SCHEMA:
        raise InputError(
            f"{path} is a {kind!r} of schema {schema!r}; this version of Loupe reads a 'rule' of "
            f"schema {SCHEMA}. Run 'loupe decide' again."
        )
    return dict(values)


def _decide(rule: Rule, sheet: Float32) -> Decided:
    probs = calibrate(rule.calibration, sheet, exclusive=rule.exclusive)
    lost = find_lost(probs)
    if rule.exclusive:
        known = np.where(lost[:, None], np.float32(-1), probs)
        top = known.argmax(axis=1)
        taken = ~lost & (known.max(axis=1) >= np.float32(rule.reject))
        decisions = (np.arange(sheet.shape[1]) == top[:, None]) & taken[:, None]
        review = ~taken
    else:
        # NaN reaches no threshold, so unreadable rows stay empty.
        decisions = np.asarray(probs >= np.asarray(rule.thresholds, np.float32))
        review = lost
    if rule.conformal is not None:
        review = review | _find_doubtful(rule.conformal, probs, decisions, exclusive=rule.exclusive)
    return Decided(probs=probs, decisions=np.asarray(decisions, np.bool_), review=review)


def _find_doubtful(
    conformal: Conformal, probs: Float32, decisions: Bool, *, exclusive: bool
) -> Bool:
    """(N,) True where the prediction set is not one answer, or not the one decided."""
    sets = predict_sets(conformal, probs, exclusive=exclusive)
    agrees = sets if exclusive else np.where(decisions, sets[..., 1], sets[..., 0])
    outside = (decisions & ~agrees).any(axis=1) if exclusive else ~agrees.all(axis=1)
    unsure = needs_review(conformal, probs, exclusive=exclusive)
    return np.asarray(unsure | outside, np.bool_)


def _match_classes(rule: Rule, classes: Sequence[str]) -> tuple[list[int] | None, list[int] | None]:
    """Return where the rule's columns stand in the sheet, and back; None if in one order."""
    names = tuple(classes)
    if names == rule.classes:
        return None, None
    if sorted(names) != sorted(rule.classes):
        raise AlignmentError(
            f"the rule is for the classes {shorten(rule.classes)}; the predictions have "
            f"{shorten(names)}. Expected the same; run 'loupe decide' on these predictions."
        )
    return [names.index(name) for name in rule.classes], [rule.classes.index(n) for n in names]


def _check_rule(rule: Rule, where: str) -> None:
    expected = 0 if rule.exclusive else len(rule.classes)
    wrong = []
    if len(rule.thresholds) != expected:
        wrong.append(f"{len(rule.thresholds)} thresholds, expected {expected}")
    if not all(0 <= value <= 2 for value in (*rule.thresholds, rule.reject)):
        wrong.append("a threshold outside [0, 2]; above 1 stands for never")
    if rule.pool not in ("", "mean", "max"):
        wrong.append(f"pool {rule.pool!r}, expected mean, max or nothing")
    if len(set(rule.classes)) != len(rule.classes) or not rule.classes:
        wrong.append("classes that are missing or repeat")
    if wrong:
        raise InputError(f"{where}: {'; '.join(wrong)}. Run 'loupe decide' again.")
