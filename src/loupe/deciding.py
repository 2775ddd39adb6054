"""Deciding: from held-out rows to a rule, and what it is worth on rows it never saw.

Everything is fitted twice: on all rows, for new images, and once without each part,
for the rows of that part; the scores come from the latter. It must not read runs or
tables.

Shapes: N rows, C classes, K parts, G groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loupe.calibrating import Choice, choose_calibration, fit_calibration
from loupe.calibration import Calibration, Kind, calibrate
from loupe.conformal import Coverage, fit_conformal
from loupe.doubts import HALF, LARGEST_F1, beat_half
from loupe.errors import InputError, shorten
from loupe.evidence import (
    Evidence,
    Float32,
    Rows,
    digest_evidence,
    digest_rows,
    final_probs,
    held_out_probs,
    number,
    probs_without,
)
from loupe.files import write_json
from loupe.goals import ARGMAX, Request, choose_pool, read_goals
from loupe.intervals import Score, score
from loupe.metrics import to_decisions
from loupe.reliability import ReliabilityBin, measure_reliability
from loupe.rules import SCHEMA, Decided, Pool, Rule, apply_rule, pool_rows, rule_to_dict
from loupe.thresholds import Cut, Goal, find_cuts
from loupe.wagers import Threshold
from loupe.worth import as_accepted, describe_rule, measure_sets

Bool = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A rule, and what it is worth.

    Attributes:
        rule: Fitted on all rows; for new images.
        part_rules: (K,) fitted without each part.
        parts: (K,) name of each part, its fold as a rule.
        calibration: Which kind was chosen, and why.
        thresholds: What each threshold buys; of the accepted rows if exclusive, () for argmax.
        scores: Cross-fitted, with intervals.
        in_sample: The same by the final rule on the rows it was fitted on: what flatters.
        coverage: Cross-fitted, of the prediction sets; () if not asked for.
        reliability: How far cross-fitted probabilities are kept, by class and bin.
        reviewed: Share of rows that would go to a person, cross-fitted.
        rows: How many were used.
        evidence: Digest of the rows that it was fitted on.
        labels: Digest of their ids and labels alone.
        stamps: What must be said beside every score.
        warnings: What the user must know.
        notes: What was read and done, for the screen.
    """

    rule: Rule
    part_rules: tuple[Rule, ...]
    parts: tuple[str, ...]
    calibration: Choice
    thresholds: tuple[Threshold, ...]
    scores: tuple[Score, ...]
    in_sample: tuple[Score, ...]
    coverage: tuple[Coverage, ...]
    reliability: tuple[ReliabilityBin, ...]
    reviewed: float
    rows: int
    evidence: str
    labels: str
    stamps: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Fitted:
    rule: Rule
    choice: Choice
    cuts: tuple[Cut, ...]
    goals: tuple[Goal, ...]


def decide_evidence(
    evidence: Evidence,
    request: Request | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Decision:
    """Fit a rule, and score it on rows it was not fitted on.

    Args:
        evidence: Held-out rows.
        request: What the rule is for.
        resamples: Bootstrap resamples of every interval.
        seed: Of the bootstrap.

    Raises:
        InputError: a goal is not known, names no class or does not suit the classes; rows
            of a group disagree where it is to be decided once; there is one part only.
    """
    request = request or Request()
    goals = read_goals(request, evidence.classes, exclusive=evidence.exclusive)
    given = evidence
    pool = choose_pool(request.pool, exclusive=evidence.exclusive)
    if pool:
        evidence = pool_evidence(evidence, pool)
    probs = final_probs(evidence)
    final = _fit(evidence, np.arange(len(evidence)), probs, goals, request)
    part_rules = [
        _fit_without(evidence, part, goals, request).rule for part in range(evidence.part_count)
    ]
    held = _apply_parts(evidence, part_rules)
    thresholds = describe_rule(
        evidence, final.rule, final.cuts, part_rules, held, resamples=resamples, seed=seed
    )
    conformal = final.rule.conformal
    own = apply_rule(final.rule, probs, classes=evidence.classes)
    return Decision(
        rule=final.rule,
        part_rules=tuple(part_rules),
        parts=evidence.part_names,
        calibration=final.choice,
        thresholds=thresholds,
        scores=_score(evidence, held, held_out_probs(evidence), resamples=resamples, seed=seed),
        in_sample=_score(evidence, own, probs, resamples=0, seed=seed),
        coverage=measure_sets(evidence, part_rules, held),
        reliability=measure_reliability(
            evidence.targets,
            held.probs,
            evidence.groups,
            exclusive=evidence.exclusive,
            classes=evidence.classes,
        ),
        reviewed=float(held.review.mean()),
        rows=len(evidence),
        evidence=digest_evidence(given),
        labels=digest_rows(given.ids, given.classes, given.targets),
        stamps=evidence.stamps,
        warnings=(
            *(text for each in thresholds for text in each.warnings),
            *(() if conformal is None else conformal.notes),
        ),
        notes=evidence.notes,
    )


def _score(
    evidence: Evidence, decided: Decided, ranked: Float32, *, resamples: int, seed: int
) -> tuple[Score, ...]:
    return score(
        evidence.targets,
        decided.probs,
        exclusive=evidence.exclusive,
        classes=evidence.classes,
        folds=None if evidence.dealt else evidence.parts,
        groups=evidence.groups,
        decisions=decided.decisions,
        ranked=ranked,
        resamples=resamples,
        seed=seed,
    )


def apply_part_rules(evidence: Evidence, part_rules: Sequence[Rule]) -> Decided:
    """Decide every row by the rule that was fitted without its part.

    Args:
        evidence: The rows that the rules were fitted on.
        part_rules: (K,) one for each part, in order.

    Raises:
        InputError: there are not as many rules as parts.
    """
    if len(part_rules) != evidence.part_count:
        raise InputError(
            f"{len(part_rules)} rules were fitted without a part each, but the rows have "
            f"{evidence.part_count} parts; run 'loupe decide' again."
        )
    return _apply_parts(evidence, part_rules)


def pool_evidence(evidence: Evidence, pool: Pool) -> Evidence:
    """Return evidence with one row a group.

    The members of the result are what the weights of each part, and the final ones, say
    of the groups: pooled as they will be on new images, after members were mixed.

    Args:
        evidence: With rows of one group in one part.
        pool: "mean" or "max" of the probabilities. The target of a group is that of its
            rows if exclusive, else present where any row has it.

    Raises:
        InputError: rows of a group have different classes, though classes are exclusive,
            or no group has two rows.
    """
    groups = evidence.groups
    if int(groups.max()) + 1 == len(evidence):
        raise InputError(
            "each row is a group of its own, so there is nothing to decide by group. Name the "
            "column of what belongs together (--group-column), or decide rows."
        )
    lowest = -pool_rows(-evidence.targets, groups, "max")
    targets = pool_rows(evidence.targets, groups, "max")
    first = np.unique(groups, return_index=True)[1]
    odd = np.flatnonzero((lowest != targets).any(axis=1))
    if evidence.exclusive and len(odd):
        told = shorten([repr(evidence.ids[first[group]]) for group in odd])
        raise InputError(
            f"{len(odd)} group(s) hold rows of different classes: those of {told}. Classes are "
            "exclusive, so a group that is decided once needs one class; decide rows instead."
        )
    known = evidence.part_weights
    choices = [*([] if known is None else known), evidence.weights]
    sheets = tuple(
        pool_rows(final_probs(replace(evidence, weights=w)), groups, pool) for w in choices
    )
    places = np.eye(len(sheets))
    return replace(
        evidence,
        ids=tuple(evidence.ids[row] for row in first),
        targets=targets,
        members=sheets,
        weights=places[-1],
        part_weights=None if known is None else places[:-1],
        parts=evidence.parts[first],
        groups=np.arange(len(first)),
    )


def write_decision(decision: Decision, path: Path, **origin: object) -> None:
    """Write a rule with its part rules and its worth, as JSON, whole or not at all.

    Args:
        decision: From `decide_evidence`.
        path: `rule.json` as a rule.
        **origin: What it was fitted on, kept for the reader.

    Raises:
        InputError: there is a folder in the way.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; name the file to write, as {path / 'rule.json'}.")
    report = {
        "rows": decision.rows,
        "calibration": asdict(decision.calibration),
        "thresholds": [asdict(each) for each in decision.thresholds],
        "scores": [asdict(each) for each in decision.scores],
        "in_sample": [asdict(each) for each in decision.in_sample],
        "coverage": [asdict(each) for each in decision.coverage],
        "reliability": [asdict(each) for each in decision.reliability],
        "reviewed": decision.reviewed,
        "warnings": decision.warnings,
    }
    parts = zip(decision.parts, decision.part_rules, strict=True)
    values = {
        "kind": "rule",
        "schema": SCHEMA,
        **rule_to_dict(decision.rule),
        "stamps": decision.stamps,
        "evidence": decision.evidence,
        "labels": decision.labels,
        "origin": origin,
        "report": report,
        "parts": {name: rule_to_dict(rule) for name, rule in parts},
    }
    write_json(path, values)


def _fit_without(
    evidence: Evidence, part: int, goals: tuple[Goal | None, ...], request: Request
) -> _Fitted:
    rows, probs = probs_without(evidence, part)
    return _fit(evidence, rows, probs, goals, request)


def _fit(
    evidence: Evidence,
    rows: Rows,
    probs: Float32,
    goals: tuple[Goal | None, ...],
    request: Request,
) -> _Fitted:
    """Fit everything on some rows; `probs` are those of these rows."""
    exclusive = evidence.exclusive
    targets, groups, parts = evidence.targets[rows], evidence.groups[rows], evidence.parts[rows]
    if len(np.unique(parts)) == 1:
        # What is left of two folds: halved, so that it is fitted as the final rule is.
        parts = number(groups) % 2
    choice = _calibrate(targets, probs, parts, groups, request, exclusive=exclusive)
    calibrated = calibrate(choice.calibration, probs, exclusive=exclusive)
    truth = to_decisions(targets, exclusive=exclusive)
    settled = _settle(goals, truth, calibrated, parts, groups, exclusive=exclusive)
    cuts: tuple[Cut, ...] = ()
    if exclusive and settled:
        cuts = find_cuts(*as_accepted(truth, calibrated), settled)
    elif not exclusive:
        cuts = find_cuts(truth, calibrated, settled)
    conformal = None
    if request.coverage is not None:
        conformal = fit_conformal(
            targets,
            calibrated,
            groups,
            exclusive=exclusive,
            coverage=request.coverage,
            classes=evidence.classes,
        )
    rule = Rule(
        classes=evidence.classes,
        exclusive=exclusive,
        calibration=choice.calibration,
        thresholds=() if exclusive else tuple(cut.threshold for cut in cuts),
        reject=cuts[0].threshold if exclusive and cuts else 0.0,
        conformal=conformal,
        goals=tuple(map(str, settled)) or (ARGMAX,),
        pool=choose_pool(request.pool, exclusive=exclusive),
    )
    return _Fitted(rule, choice, cuts, settled)


def _settle(
    goals: tuple[Goal | None, ...],
    truth: Bool,
    probs: Float32,
    parts: Rows,
    groups: Rows,
    *,
    exclusive: bool,
) -> tuple[Goal, ...]:
    """Decide what is aimed at where the user left it open; () for plain argmax."""
    if exclusive or None not in goals:
        return tuple(goal for goal in goals if goal is not None)
    half = Goal(kind="fixed", value=HALF)
    chosen = [LARGEST_F1 if beats else half for beats in beat_half(truth, probs, parts, groups)]
    return tuple(goal or mine for goal, mine in zip(goals, chosen, strict=True))


def _calibrate(
    targets: Float32,
    probs: Float32,
    parts: Rows,
    groups: Rows,
    request: Request,
    *,
    exclusive: bool,
) -> Choice:
    if request.calibration == "auto":
        return choose_calibration(targets, probs, parts, groups, exclusive=exclusive)
    kinds: dict[str, Kind] = {
        "none": "none", "temperature": "temperature", "platt": "platt", "isotonic": "isotonic",
    }  # fmt: skip
    kind = kinds[request.calibration]
    fitted = (
        Calibration()
        if kind == "none"
        else fit_calibration(kind, targets, probs, exclusive=exclusive)
    )
    return Choice(calibration=fitted, kind=kind, reason=f"{kind}: as asked for")


def _apply_parts(evidence: Evidence, rules: Sequence[Rule]) -> Decided:
    held = held_out_probs(evidence)
    decisions = np.zeros(held.shape, np.bool_)
    review = np.zeros(len(held), np.bool_)
    probs = np.empty_like(held)
    for part, rule in enumerate(rules):
        rows = np.flatnonzero(evidence.parts == part)
        made = apply_rule(rule, held[rows], classes=evidence.classes)
        probs[rows], decisions[rows], review[rows] = made.probs, made.decisions, made.review
    return Decided(probs=probs, decisions=decisions, review=review)
