"""Judged: what the rule of a run makes of its held-out rows, and what is known of that rule.

Owns whether a stored rule fits the rows, and reads its stored worth. It must not draw, or
compute anything that `deciding` does.

Shapes: N rows, C classes, K parts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loupe.calibrating import Choice
from loupe.conformal import Coverage
from loupe.deciding import Decision, apply_part_rules, decide_evidence, pool_evidence
from loupe.errors import InputError
from loupe.evidence import Evidence, digest_rows
from loupe.intervals import Score
from loupe.rules import Decided, Rule, load_rule_file, read_part_rules, rule_from_dict
from loupe.runs import Run
from loupe.wagers import Estimate, Threshold

_PARTS = frozenset({"calibration", "thresholds", "scores", "coverage"})
"""What a report of a rule must hold to be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Held-out rows, each decided by the rule that was fitted without its part.

    Attributes:
        evidence: The rows; one a group where the rule decides groups.
        rule: For new images.
        part_rules: (K,) fitted without each part.
        held: What they make of the rows.
        scores: Cross-fitted, with intervals.
        thresholds: What each threshold buys; () for argmax.
        choice: Which calibration, and why.
        coverage: Of the prediction sets; () if the rule makes none.
        note: What the reader must know of the rule; "" as a rule.
    """

    evidence: Evidence
    rule: Rule
    part_rules: tuple[Rule, ...]
    held: Decided
    scores: tuple[Score, ...]
    thresholds: tuple[Threshold, ...]
    choice: Choice
    coverage: tuple[Coverage, ...]
    note: str = ""


def judge_run(run: Run, evidence: Evidence) -> Judged:
    """Decide the held-out rows of a run by its stored rule.

    Where that rule is missing, of an older Loupe or of other rows, one is fitted in memory
    as `loupe decide` would by default, and `note` says so; nothing is written.

    Args:
        run: Finished, and not one that draws masks.
        evidence: From `heldout.gather_evidence` of the run.

    Raises:
        InputError: there is one part only, so nothing can be cross-fitted.
    """
    try:
        stored = _read_stored(run, evidence)
    except (InputError, KeyError, TypeError, ValueError):
        stored = None
    return stored or _keep(evidence, decide_evidence(evidence))


def _read_stored(run: Run, evidence: Evidence) -> Judged | None:
    """Return what the stored rule makes of the rows; None if it was fitted on others."""
    path = run.rule_file
    values = load_rule_file(path)
    rule, parts = rule_from_dict(values, str(path)), read_part_rules(path)
    report = values["report"]
    labels = digest_rows(evidence.ids, evidence.classes, evidence.targets)
    same = set(parts) == set(evidence.part_names) and values.get("labels") == labels
    if not same or rule.classes != evidence.classes or not set(report) >= _PARTS:
        return None
    pooled = pool_evidence(evidence, rule.pool) if rule.pool else evidence
    part_rules = tuple(parts[name] for name in evidence.part_names)
    return Judged(
        evidence=pooled,
        rule=rule,
        part_rules=part_rules,
        held=apply_part_rules(pooled, part_rules),
        scores=tuple(Score(**_with_nan(each)) for each in report["scores"]),
        thresholds=tuple(_read_threshold(each) for each in report["thresholds"]),
        choice=_read_choice(report["calibration"], rule),
        coverage=tuple(Coverage(**_with_nan(each)) for each in report["coverage"]),
    )


def _keep(evidence: Evidence, decision: Decision) -> Judged:
    rule = decision.rule
    return Judged(
        evidence=evidence,
        rule=rule,
        part_rules=decision.part_rules,
        held=apply_part_rules(evidence, decision.part_rules),
        scores=decision.scores,
        thresholds=decision.thresholds,
        choice=decision.calibration,
        coverage=decision.coverage,
        note=(
            "The run has no stored rule for these rows, so one was fitted for this report. To "
            "store it, run loupe decide."
        ),
    )


def _read_threshold(values: Mapping[str, Any]) -> Threshold:
    estimates = {
        name: Estimate(**_with_nan(values[name])) for name in ("precision", "recall", "f1")
    }
    found = _with_nan({**values, "in_sample": _with_nan(values["in_sample"])})
    return Threshold(**{**found, **estimates, "warnings": tuple(values["warnings"])})


def _read_choice(values: Mapping[str, Any], rule: Rule) -> Choice:
    found = {name: values[name] for name in ("kind", "losses", "reason")}
    ends = {name: values[name] for name in ("gain", "low", "high")}
    return Choice(calibration=rule.calibration, **found, **_with_nan(ends))


def _with_nan(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: math.nan if value is None else value for key, value in values.items()}
