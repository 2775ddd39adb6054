"""Threshold tables: what a wanted recall, precision or cost would take, for a report.

Each threshold is chosen on all rows, and once without each part; what it buys is cross-fitted.
Choosing is `thresholds`', the worth `wagers`'. It must not resample or decide by itself.

Shapes: N rows, C classes, K parts.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from loupe.calibration import calibrate
from loupe.chartparts import spell, spell_share, spell_share_interval
from loupe.evidence import Evidence, final_probs, held_out_probs, probs_without
from loupe.goalcharts import (
    HARD,
    MOST_CLASSES,
    Row,
    chart_recall,
    falls_short,
    spell_aim,
    spell_flagged,
)
from loupe.judged import Judged, judge_run
from loupe.metrics import to_decisions
from loupe.reportparts import Block, Commands, Grid, Section, Text
from loupe.rules import Rule
from loupe.runs import Run
from loupe.thresholds import Cut, Float32, Goal, find_cuts
from loupe.wagers import Estimate, Threshold
from loupe.wagers import describe_thresholds as weigh_thresholds
from loupe.weighting import Bool, Float64
from loupe.worth import as_accepted, rescale

SHARES = (0.9, 0.95, 0.99)
"""Recalls and precisions that are asked for."""
COSTS = (1.0, 5.0, 10.0, 20.0, 50.0)
"""How many false alarms a miss costs."""
RESAMPLES = 200
"""Of the intervals: enough for two digits of 20 classes by 11 goals."""
_FOLDED = 12
"""A table of more rows is folded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What thresholds are chosen and judged on.

    Attributes:
        judged: The rows, and the calibrations of the rule.
        names: (C,) of the columns.
        truth: (N, C) given labels.
        own: (N, C) probabilities that final thresholds are chosen on.
        shown: (N, C) those on which they are judged: `own`, but for exclusive classes, whose
            calibrations keep no order within a column.
        held: (N, C) the same, by what was fitted without the part of the row.
        parts: (K,) labels of the rows outside each part, and their probabilities by its fit.
        ranked: True if part thresholds can be told on the scale of `own`.
    """

    judged: Judged
    names: tuple[str, ...]
    truth: Bool
    own: Float32
    shown: Float32
    held: Float32
    parts: tuple[tuple[Bool, Float32], ...]
    ranked: bool


def make_case(judged: Judged) -> Case:
    """Take each class by itself; exclusive ones against all others.

    Args:
        judged: From `judged.judge_run`.
    """
    evidence = judged.evidence
    truth = to_decisions(evidence.targets, exclusive=evidence.exclusive)
    own = _calibrate(judged, judged.rule, final_probs(evidence))
    if evidence.exclusive:
        shown = held = judged.held.probs
    else:
        shown, held = own, _calibrate(judged, judged.rule, held_out_probs(evidence))
    return Case(
        judged=judged,
        names=evidence.classes,
        truth=truth,
        own=own,
        shown=shown,
        held=held,
        parts=_fit_parts(judged, truth),
        ranked=not evidence.exclusive,
    )


def make_accepted_case(judged: Judged) -> Case:
    """Take the largest probability of rows of exclusive classes, and whether it is right.

    Args:
        judged: From `judged.judge_run`.
    """
    case = make_case(judged)
    right, top = as_accepted(case.truth, case.held)
    return replace(
        case,
        names=("accepted",),
        truth=right,
        own=as_accepted(case.truth, case.own)[1],
        shown=top,
        held=top,
        parts=tuple(as_accepted(truth, probs) for truth, probs in case.parts),
    )


def take_goal(
    case: Case, goal: Goal, *, columns: Sequence[int] | None = None, resamples: int = RESAMPLES
) -> list[Row]:
    """Choose a threshold for every class by one goal, cross-fitted.

    Args:
        case: What it is chosen on.
        goal: The same for all classes.
        columns: Classes that get intervals; all if None.
        resamples: Of the intervals.

    Returns:
        One for each class, in their order.
    """
    goals = [goal] * len(case.names)
    cuts = find_cuts(case.truth, case.own, goals)
    part_cuts = [find_cuts(truth, probs, goals) for truth, probs in case.parts]
    by_part = np.array([[cut.threshold for cut in found] for found in part_cuts])
    if case.ranked:
        rules = [
            replace(rule, thresholds=tuple(found))
            for rule, found in zip(case.judged.part_rules, by_part.tolist(), strict=True)
        ]
        by_part = np.array(rescale(case.judged.rule, rules, final_probs(case.judged.evidence)))
    sure = range(len(case.names)) if columns is None else columns
    rest = sorted(set(range(len(case.names))) - set(sure))
    found: dict[int, Row] = {}
    for chosen, draws in ((list(sure), resamples), (rest, 0)):
        if chosen:
            rows = _weigh(case, chosen, by_part, cuts, goal, draws)
            found |= dict(zip(chosen, rows, strict=True))
    return [found[column] for column in range(len(case.names))]


def _weigh(
    case: Case,
    columns: list[int],
    by_part: Float64,
    cuts: Sequence[Cut],
    goal: Goal,
    resamples: int,
) -> list[Row]:
    """Say what the thresholds of some classes buy."""
    evidence = case.judged.evidence
    held = case.held[:, columns]
    described = weigh_thresholds(
        case.truth[:, columns],
        case.shown[:, columns],
        held,
        evidence.parts,
        by_part[:, columns].tolist(),
        [cuts[column] for column in columns],
        [goal] * len(columns),
        evidence.groups,
        classes=[case.names[column] for column in columns],
        resamples=resamples,
    )
    flagged = (held >= by_part[:, columns].astype(np.float32)[evidence.parts]).mean(axis=0)
    return [
        _add_flagged(found, goal, float(flagged[place]), case.shown[:, columns[place]])
        for place, found in enumerate(described)
    ]


def _add_flagged(found: Threshold, goal: Goal, flagged: float, probs: Float32) -> Row:
    """Say how many rows are flagged, and how many at the ends of the threshold's interval."""
    ends = [
        math.nan if math.isnan(end) else float((probs >= np.float32(end)).mean())
        for end in (found.high, found.low)
    ]
    note = _explain(found, goal, flagged)
    return Row(goal=goal, found=found, flagged=flagged, least=ends[0], most=ends[1], note=note)


def _fit_parts(judged: Judged, truth: Bool) -> tuple[tuple[Bool, Float32], ...]:
    found = []
    for part, rule in enumerate(judged.part_rules):
        rows, probs = probs_without(judged.evidence, part)
        found.append((truth[rows], _calibrate(judged, rule, probs)))
    return tuple(found)


def _calibrate(judged: Judged, rule: Rule, probs: Float32) -> Float32:
    return calibrate(rule.calibration, probs, exclusive=judged.evidence.exclusive)


def _explain(found: Threshold, goal: Goal, flagged: float) -> str:
    """Say in words where a goal cannot be had, is met by an empty rule, or is missed."""
    if not found.positives:
        return "no row has this class"
    if not found.attained:
        return "cannot be reached: the best precision is shown"
    if found.threshold > 1:
        return "cheapest is to flag nothing"
    if flagged == 0 and goal.kind == "precision":
        return "no held-out row is flagged"
    reached = {"recall": found.recall, "precision": found.precision}.get(goal.kind)
    note = "met only by flagging every row" if found.threshold == 0 or flagged == 1 else ""
    if reached is not None and falls_short(reached, goal):
        note = f"aimed at {spell_aim(goal)}, {spell_share(reached.value)} on held-out rows"
    return note


# The section --------------------------------------------------------------------------------------


def describe_thresholds(run: Run, evidence: Evidence, judged: Judged | None = None) -> Section:
    """Show the thresholds that wanted recalls, precisions and costs would take.

    Args:
        run: Finished.
        evidence: Its held-out rows.
        judged: From `judged.judge_run`, if it was made before.
    """
    judged = judged or judge_run(run, evidence)
    shown = judged.evidence
    case = make_case(judged)
    order = _sort_classes(take_goal(case, HARD, resamples=0))
    names = order[:MOST_CLASSES]
    sure = [shown.classes.index(name) for name in names]
    found = {goal: take_goal(case, goal, columns=sure) for goal in _list_goals()}
    text = (
        "What a goal would take, if the rule were changed to it. Thresholds are chosen on all "
        "rows, with the interval of the choice; recall, precision and the share flagged are of "
        "rows held out from the choice. Recall and precision have the interval to expect on as "
        "many new rows; the share flagged has what it would be at both ends of the interval of "
        "the threshold."
    )
    blocks: list[Block] = [Text(text=text)]
    if shown.exclusive:
        blocks += [Text(text=_ONE_AGAINST_ALL), _list_accepted(judged)]
    blocks.append(chart_recall(found, order))
    for kind, title in _TITLES.items():
        rows = [row for goal, each in found.items() if goal.kind == kind for row in each]
        mine = [row for row in rows if row.found.class_name in names]
        place = {name: number for number, name in enumerate(shown.classes)}
        mine.sort(key=lambda row: place[row.found.class_name])
        blocks.append(_list_rows(mine, title, left=len(shown.classes) - len(names)))
    goal = "--precision 0.95" if shown.exclusive else "--recall 0.95"
    blocks.append(Text(text="To switch one on, for example:"))
    blocks.append(Commands(lines=(f"loupe decide {shlex.quote(str(run.folder))} {goal}",)))
    return Section(key="thresholds", title="Thresholds for a goal", blocks=tuple(blocks))


_TITLES = {
    "recall": "To find a share of the rows that have the class",
    "precision": "To have a share of the flagged rows right",
    "cost": "For the least cost, where a miss costs so many false alarms",
}
_ONE_AGAINST_ALL = (
    "Classes are exclusive, so the largest probability decides, and a rule can only leave "
    "doubtful rows open: the first table. The others take each class against all others, as if "
    "it were trained alone (--any-class)."
)


_OVER = "over the interval of the threshold"


def _list_goals() -> list[Goal]:
    return [
        *(Goal(kind="recall", value=share) for share in SHARES),
        *(Goal(kind="precision", value=share) for share in SHARES),
        *(Goal(kind="cost", value=cost) for cost in COSTS),
    ]


def _sort_classes(rows: Sequence[Row]) -> list[str]:
    """Sort classes by the precision that is left, worst first; those without rows come last."""
    known = [row for row in rows if row.found.positives]
    ordered = sorted(known, key=lambda row: _or_zero(row.found.precision.value))
    rest = [row.found.class_name for row in rows if not row.found.positives]
    return [*(row.found.class_name for row in ordered), *rest]


def _list_rows(rows: Sequence[Row], title: str, left: int) -> Grid:
    noted = any(row.note for row in rows)
    header = (
        "class", "wanted", "threshold", "recall", "precision",
        f"share flagged; {_OVER}", "remark",
    )  # fmt: skip
    cells = [
        (
            row.found.class_name,
            _spell_goal(row.goal),
            _spell_threshold(row.found),
            spell_share_interval(*_ends(row.found.recall)),
            spell_share_interval(*_ends(row.found.precision)),
            spell_flagged(row),
            row.note,
        )
        for row in rows
    ]
    more = f"; the {MOST_CLASSES} hardest classes, all are in the CSV of the chart" if left else ""
    return Grid(
        title=f"{title}{more}",
        header=header if noted else header[:-1],
        rows=tuple(cell if noted else cell[:-1] for cell in cells),
        wide=len(rows) > _FOLDED,
    )


def _list_accepted(judged: Judged) -> Grid:
    rows = []
    case = make_accepted_case(judged)
    for share in SHARES:
        (row,) = take_goal(case, Goal(kind="precision", value=share))
        rows.append(
            (
                _spell_goal(row.goal),
                _spell_threshold(row.found),
                spell_share_interval(*_ends(row.found.precision)),
                spell_flagged(row),
                row.note.replace("flagging", "accepting").replace("flagged", "accepted"),
            )
        )
    header = (
        "wanted",
        "threshold",
        "accuracy of the accepted",
        f"share accepted; {_OVER}",
        "remark",
    )
    return Grid(
        title="To accept only rows that are sure enough",
        header=header,
        rows=tuple(rows),
        name="thresholds-accepted",
    )


def _ends(each: Estimate) -> tuple[float, float, float]:
    return each.value, each.low, each.high


def _or_zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def _spell_goal(goal: Goal) -> str:
    return f"1:{goal.value:g}" if goal.kind == "cost" else f"{goal.kind} {spell_aim(goal)}"


def _spell_threshold(found: Threshold) -> str:
    if found.threshold > 1:
        return "never"
    if math.isnan(found.low) or found.low == found.high:
        return _spell_cut(found.threshold)
    high = "never" if found.high > 1 else _spell_cut(found.high)
    return f"{_spell_cut(found.threshold)} ({_spell_cut(found.low)} to {high})"


def _spell_cut(threshold: float) -> str:
    """Spell a threshold; a small one would be 0 with three digits."""
    return f"{threshold:.2g}" if 0 < threshold < 0.01 else spell(threshold)
