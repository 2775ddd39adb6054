"""Calibration charts: whether probabilities are kept, and sets of answers, for a report.

It must not compute a score: reliability, coverage and prediction sets are those of their
modules.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes

from loupe.calibration import calibrate
from loupe.chartparts import (
    MOST_PANELS,
    MOST_ROWS,
    Mark,
    draw_marks,
    fit_shares,
    lay_panels,
    measure_height,
    shorten_label,
    spell,
    spell_interval,
    spell_share,
    spell_share_interval,
    style_panel,
    write_number,
)
from loupe.conformal import Coverage, Side, fit_conformal, predict_sets
from loupe.deciding import apply_part_rules
from loupe.evidence import Evidence, probs_without
from loupe.figures import BLUE, FAINT, INK, SKY, add_axes, drawing, finish_figure
from loupe.judged import Judged, judge_run
from loupe.metrics import expected_calibration_error, to_decisions
from loupe.reliability import ReliabilityBin, measure_reliability, measure_share
from loupe.reportparts import Block, Chart, Commands, Grid, Section, Text
from loupe.rules import Decided, Rule
from loupe.runs import Run
from loupe.weighting import Integers
from loupe.worth import measure_sets

COVERAGE = 0.9
"""What prediction sets are shown for where the rule makes none."""
_HEADER = ("class", "from", "to", "rows", "mean_probability", "observed", "low", "high")
_PANEL = 2.45
_KINDS = {
    "none": "as they are",
    "temperature": "temperature",
    "platt": "Platt",
    "isotonic": "isotonic",
}


def describe_calibration(run: Run, evidence: Evidence, judged: Judged | None = None) -> Section:
    """Show how far probabilities can be taken at their word.

    Args:
        run: Finished.
        evidence: Its held-out rows.
        judged: From `judged.judge_run`, if it was made before.
    """
    judged = judged or judge_run(run, evidence)
    shown = judged.evidence
    bins = measure_reliability(
        shown.targets,
        judged.held.probs,
        shown.groups,
        exclusive=shown.exclusive,
        classes=shown.classes,
    )
    blocks: list[Block] = [
        Text(text=_introduce(judged)),
        _chart_one(judged, bins)
        if shown.exclusive or len(shown.classes) == 1
        else _chart_panels(judged, bins),
    ]
    if judged.choice.losses:
        rows = tuple(
            (_KINDS.get(kind, kind), spell(loss, 4), "chosen" if kind == judged.choice.kind else "")
            for kind, loss in judged.choice.losses.items()
        )
        blocks.append(
            Grid(
                title="Calibrations that were tried, by cross-fitted log loss (lower is better)",
                header=("calibration", "log loss", ""),
                rows=rows,
                name="calibrations",
            )
        )
    return Section(key="calibration", title="Calibration", blocks=tuple(blocks))


def _introduce(judged: Judged) -> str:
    found = {s.metric: s for s in judged.scores if not s.class_name}
    error, loss = found["expected_calibration_error"], found["log_loss"]
    what = (
        "the largest probability of a row, and how often that class is right"
        if judged.evidence.exclusive
        else "the probability of a class, and how often it is there"
    )
    return (
        f"Shown is {what}; on the diagonal, probabilities can be taken at their word. Calibration "
        f"error {spell_interval(error.value, error.low, error.high)}, log loss "
        f"{spell_interval(loss.value, loss.low, loss.high)}, both cross-fitted. Chosen: "
        f"{judged.choice.reason or judged.choice.kind}."
    )


def _chart_one(judged: Judged, bins: Sequence[ReliabilityBin]) -> Chart:
    """Draw one diagram, with the number of rows of each bin below."""
    exclusive = judged.evidence.exclusive
    across = "largest probability" if exclusive else "probability"
    with drawing(5.0) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
        _draw_bins(upper, bins)
        upper.set_xlim(-0.01, 1.01)
        upper.set_ylim(-0.02, 1.02)
        upper.set_ylabel("share that is right" if exclusive else "share that has it")
        upper.grid()
        for each in bins:
            width = each.high - each.low
            lower.bar(each.low + width / 2, each.count, width=width * 0.9, color=SKY)
        lower.set_ylabel("rows")
        lower.set_xlabel(across)
        lower.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        lower.grid(axis="y")
        name = "" if exclusive else f" of {judged.evidence.classes[0]}"
        return finish_figure(
            figure,
            name="reliability",
            title=f"Reliability: what was observed{name}, by predicted probability",
            alt=_tell(bins),
            header=_HEADER,
            rows=_write_bins(bins),
        )


def _chart_panels(judged: Judged, bins: Sequence[ReliabilityBin]) -> Chart:
    """Draw a panel for each class, the largest calibration error first."""
    evidence = judged.evidence
    truth = to_decisions(evidence.targets, exclusive=False)
    errors = {
        name: float(
            expected_calibration_error(
                truth[:, [column]], judged.held.probs[:, [column]], exclusive=False
            )
        )
        for column, name in enumerate(evidence.classes)
    }
    order = sorted(errors, key=lambda name: -errors[name])
    shown = order[:MOST_PANELS]
    lines, columns = lay_panels(len(shown))
    left = len(order) - len(shown)
    with drawing(0.35 + _PANEL * lines) as figure:
        for place, axes in enumerate(add_axes(figure, lines, columns)):
            if place >= len(shown):
                axes.set_axis_off()
                continue
            name = shown[place]
            _draw_bins(axes, [each for each in bins if each.class_name == name])
            told = f"{shorten_label(name, 20)}: error {spell(errors[name])}"
            below = place + columns >= len(shown)
            style_panel(axes, told, left=place % columns == 0, bottom=below)
        figure.supxlabel("probability", color=FAINT, fontsize=9)
        figure.supylabel("share that has the class", color=FAINT, fontsize=9)
        return finish_figure(
            figure,
            name="reliability",
            title="Reliability of each class with its calibration error, the largest first; larger "
            "dots are more rows" + (f"; {left} more in the CSV" if left else ""),
            alt=f"Calibration error from {spell(errors[order[0]])} for {order[0]} to "
            f"{spell(errors[order[-1]])} for {order[-1]}.",
            header=_HEADER,
            rows=_write_bins(bins),
        )


def _draw_bins(axes: Axes, bins: Sequence[ReliabilityBin]) -> None:
    axes.plot([0, 1], [0, 1], color=FAINT, linestyle="--", linewidth=1)
    most = max((each.count for each in bins), default=1)
    for each in bins:
        ends = [each.observed_low, each.observed_high]
        axes.plot([each.predicted] * 2, ends, color=BLUE, linewidth=1.2)
        size = 2.5 + 5 * math.sqrt(each.count / most)
        axes.plot([each.predicted], [each.observed], "o", color=BLUE, markersize=size)


def _tell(bins: Sequence[ReliabilityBin]) -> str:
    large = max(bins, key=lambda each: each.count)
    off = max(bins, key=lambda each: each.count * abs(each.observed - each.predicted))
    return (
        f"Most rows ({large.count:,}) have a mean probability of {spell(large.predicted)}, and "
        f"{spell_share(large.observed)} of them are so. The most rows are astray at a probability "
        f"of {spell(off.predicted)}: {spell_share(off.observed)} of {off.count:,} are so."
    )


def _write_bins(bins: Sequence[ReliabilityBin]) -> list[tuple[str, ...]]:
    rows = []
    for each in bins:
        ends = write_number(each.low), write_number(each.high)
        found = (each.predicted, each.observed, each.observed_low, each.observed_high)
        rows.append((each.class_name, *ends, str(each.count), *map(write_number, found)))
    return rows


# Prediction sets ----------------------------------------------------------------------------------


def describe_conformal(run: Run, evidence: Evidence, judged: Judged | None = None) -> Section:
    """Show what sets of answers would hold, and how many rows would go to a person.

    Where the rule makes no sets, they are made for `COVERAGE`, cross-fitted, and the text
    says that they are not switched on.

    Args:
        run: Finished.
        evidence: Its held-out rows.
        judged: From `judged.judge_run`, if it was made before.
    """
    judged = judged or judge_run(run, evidence)
    shown = judged.evidence
    on = judged.rule.conformal is not None
    rules = judged.part_rules if on else fit_part_sets(judged, COVERAGE)
    goal = judged.rule.conformal.coverage if judged.rule.conformal is not None else COVERAGE
    held = judged.held if on else apply_part_rules(shown, rules)
    found = measure_sets(shown, rules, held)
    notes = dict.fromkeys(
        note for rule in rules if rule.conformal is not None for note in rule.conformal.notes
    )
    blocks: list[Block] = [
        Text(text=_introduce_sets(judged, held, goal)),
        *([] if on else [Commands(lines=(_write_command(run, goal),))]),
        *(Text(text=note, tone="warn") for note in list(notes)[:1]),
        _chart_coverage(found, goal),
        _list_sizes(shown, rules, held),
        _list_coverage(found),
    ]
    return Section(key="conformal", title="Prediction sets (conformal)", blocks=tuple(blocks))


def fit_part_sets(judged: Judged, coverage: float) -> tuple[Rule, ...]:
    """Return the rule of each part with prediction sets, fitted without the part.

    Args:
        judged: The rows and their rules.
        coverage: In (0, 1).
    """
    evidence = judged.evidence
    rules = []
    for part, rule in enumerate(judged.part_rules):
        rows, probs = probs_without(evidence, part)
        conformal = fit_conformal(
            evidence.targets[rows],
            calibrate(rule.calibration, probs, exclusive=evidence.exclusive),
            evidence.groups[rows],
            exclusive=evidence.exclusive,
            coverage=coverage,
            classes=evidence.classes,
        )
        rules.append(replace(rule, conformal=conformal))
    return tuple(rules)


def _introduce_sets(judged: Judged, held: Decided, goal: float) -> str:
    groups = judged.evidence.groups
    hits = np.bincount(groups, held.review).astype(np.float64)
    share = measure_share(hits, np.bincount(groups).astype(np.float64))
    told = spell_share_interval(share.value, share.low, share.high)
    what = (
        "Instead of one answer, a row can get the set of answers that holds the right one for at "
        f"least {spell_share(goal)} of the rows of every class. Rows whose set is not one answer, "
        f"or not the one decided, go to a person: {told} of the held-out rows."
    )
    if judged.rule.conformal is not None:
        return f"{what} The rule of this run does so."
    return f"{what} This is not switched on; to do so:"


def _write_command(run: Run, goal: float) -> str:
    return f"loupe decide {shlex.quote(str(run.folder))} --coverage {goal:g}"


def _chart_coverage(found: Sequence[Coverage], goal: float) -> Chart:
    ordered = sorted(found, key=lambda each: each.covered)
    sides = {each.side for each in found}
    marks = [
        Mark(label=_name(each, sides), value=each.covered, low=each.low, high=each.high)
        for each in ordered[:MOST_ROWS]
    ]
    left = len(ordered) - len(marks)
    below = [each for each in found if each.high < goal]
    with drawing(measure_height(len(marks))) as figure:
        (axes,) = add_axes(figure)
        axes.axvline(goal, color=INK, linestyle="--", linewidth=1)
        draw_marks(axes, marks)
        fit_shares(axes, marks)
        axes.set_xlabel(f"share whose set holds the right answer; dashed: {goal:g} asked for")
        return finish_figure(
            figure,
            name="coverage",
            title="Coverage of each class" + (f"; {left} more in the CSV" if left else ""),
            alt=f"Coverage from {spell_share(ordered[0].covered)} for "
            f"{_name(ordered[0], sides)} to {spell_share(ordered[-1].covered)}; {len(below)} of "
            f"{len(found)} are below {goal:g} beyond doubt.",
            header=("class", "side", "rows", "groups", "covered", "low", "high", "size", "unsure"),
            rows=[
                (
                    each.class_name, each.side, str(each.n), str(each.groups),
                    *map(write_number, (
                        each.covered, each.low, each.high, each.size, each.reviewed
                    )),
                )
                for each in found
            ],
        )  # fmt: skip


def _name(each: Coverage, sides: set[Side]) -> str:
    absent = len(sides) > 1 and each.side == "absent"
    return f"no {each.class_name}" if absent else each.class_name


def _list_sizes(evidence: Evidence, rules: Sequence[Rule], held: Decided) -> Grid:
    """Count rows by the answers in their sets; of classes that stand alone by class."""
    sizes, most = _measure_sizes(evidence, rules, held), len(evidence.classes)
    rows: list[tuple[str, ...]]
    if evidence.exclusive:
        counts = np.bincount(sizes[:, 0], minlength=most + 1)
        last = int(np.flatnonzero(counts)[-1])
        rows = [
            (_spell_size(size), f"{count:,}", spell_share(count / len(sizes)))
            for size, count in enumerate(counts[: last + 1].tolist())
        ]
        header: tuple[str, ...] = ("answers in the set", "rows", "share")
        return Grid(title="Sizes of the sets", header=header, rows=tuple(rows), name="set-sizes")
    rows = []
    for column, name in enumerate(evidence.classes):
        counts = np.bincount(sizes[:, column], minlength=3)
        rows.append((name, *(spell_share(count / len(sizes)) for count in counts[[1, 2, 0]])))
    header = ("class", "one answer", "both answers", "neither")
    title = "Is the class there? Share of rows by the answers in their set"
    return Grid(title=title, header=header, rows=tuple(rows), name="set-sizes", wide=most > 12)


def _measure_sizes(evidence: Evidence, rules: Sequence[Rule], held: Decided) -> Integers:
    """Return answers in the sets of each row: (N, 1) if exclusive, else (N, C)."""
    width = 1 if evidence.exclusive else len(evidence.classes)
    sizes = np.zeros((len(evidence), width), np.intp)
    for part, rule in enumerate(rules):
        if rule.conformal is not None:
            rows = np.flatnonzero(evidence.parts == part)
            sets = predict_sets(rule.conformal, held.probs[rows], exclusive=evidence.exclusive)
            sizes[rows] = sets.sum(axis=-1).reshape(len(rows), width)
    return sizes


def _spell_size(size: int) -> str:
    return {0: "none", 1: "one"}.get(size, str(size))


def _list_coverage(found: Sequence[Coverage]) -> Grid:
    sides = {each.side for each in found}
    rows = tuple(
        (
            _name(each, sides),
            f"{each.n:,}",
            spell_share_interval(each.covered, each.low, each.high),
            spell(each.size, 2),
            spell_share(each.reviewed),
        )
        for each in found
    )
    header = ("rows that are", "rows", "covered (95 % interval)", "answers in the set",
              "set is not one answer")  # fmt: skip
    return Grid(title="Coverage of each class", header=header, rows=rows, wide=True,
                name="coverage-by-class")  # fmt: skip
