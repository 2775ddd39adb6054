"""Curve charts: precision-recall and ROC curves of each class, for a report.

It must not compute a score or choose a threshold: those shown are the rule's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from loupe.calibration import calibrate
from loupe.chartparts import (
    MOST_PANELS,
    lay_panels,
    name_metric,
    shorten_label,
    spell,
    spell_interval,
    style_panel,
    write_number,
)
from loupe.curves import Curve, thin_curve, trace_curve
from loupe.evidence import Evidence, held_out_probs
from loupe.figures import BLUE, FAINT, ORANGE, add_axes, drawing, finish_figure
from loupe.intervals import Score
from loupe.judged import Judged, judge_run
from loupe.metrics import count_outcomes, to_decisions
from loupe.reportparts import Block, Chart, Grid, Section, Text
from loupe.runs import Run
from loupe.weighting import divide

_HEADER = ("class", "threshold", "recall", "precision", "false_alarm_rate", "share_flagged")
_PANEL = 2.45
"""Height of a row of panels, in inches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Traced:
    """A class: its curve, its areas, and where the rule decides."""

    name: str
    curve: Curve
    areas: dict[str, Score]
    recall: Score
    precision: Score
    alarms: float
    cut: str

    @property
    def rank(self) -> float:
        value = self.areas["average_precision"].value
        return math.inf if math.isnan(value) else value


def describe_curves(run: Run, evidence: Evidence, judged: Judged | None = None) -> Section:
    """Show what every threshold of a class would find, and where the rule decides.

    Args:
        run: Finished.
        evidence: Its held-out rows.
        judged: From `judged.judge_run`, if it was made before.
    """
    judged = judged or judge_run(run, evidence)
    traced = sorted(_trace(judged), key=lambda each: each.rank)
    blocks: list[Block] = [Text(text=_introduce(judged))]
    known = [each for each in traced if each.curve.positives]
    if len(known) < len(traced):
        lost = len(traced) - len(known)
        blocks.append(Text(text=f"{lost} class(es) have no row and no curve.", tone="warn"))
    if len(known) == 1:
        blocks.append(_chart_one(known[0]))
    elif known:
        blocks += [_chart_panels(known, *_PR), _chart_panels(known, *_ROC)]
    blocks.append(_list_areas(judged, known))
    return Section(key="curves", title="Precision-recall and ROC curves", blocks=tuple(blocks))


def _introduce(judged: Judged) -> str:
    if judged.evidence.exclusive:
        return (
            "Each class against all others, from held-out probabilities. The largest probability "
            "of a row decides, so there is no threshold for a class: the orange dot is what these "
            "decisions reach. Lines through it are 95 % intervals; the dashed line is chance."
        )
    return (
        "From held-out probabilities. The orange dot is what the rule's threshold reaches on rows "
        "that it was not fitted on, so it may lie beside the curve. Lines through it are 95 % "
        "intervals; the dashed line is chance."
    )


def _trace(judged: Judged) -> list[_Traced]:
    evidence = judged.evidence
    truth = to_decisions(evidence.targets, exclusive=evidence.exclusive)
    probs = held_out_probs(evidence)
    if not evidence.exclusive:
        # Thresholds are on the scale of the final calibration, which keeps the order of rows.
        probs = calibrate(judged.rule.calibration, probs, exclusive=False)
    outcomes = count_outcomes(truth, judged.held.decisions)
    alarms = divide(outcomes.fp, outcomes.fp + outcomes.tn)
    scores = {(s.metric, s.class_name): s for s in judged.scores}
    bounds = {each.class_name: each for each in judged.thresholds}
    traced = []
    for column, name in enumerate(evidence.classes):
        cut = "" if evidence.exclusive else spell(judged.rule.thresholds[column])
        if name in bounds and not evidence.exclusive:
            found = bounds[name]
            fixed = found.low == found.high
            cut = cut if fixed else spell_interval(found.threshold, found.low, found.high)
        traced.append(
            _Traced(
                name=name,
                curve=trace_curve(truth[:, column], probs[:, column]),
                areas={m: scores[m, name] for m in ("average_precision", "roc_auc")},
                recall=scores["recall", name],
                precision=scores["precision", name],
                alarms=float(alarms[column]),
                cut=cut,
            )
        )
    return traced


# Drawing ------------------------------------------------------------------------------------------


def _draw_pr(axes: Axes, each: _Traced) -> None:
    curve = thin_curve(each.curve)
    # Where nothing is decided there is no precision: the curve starts at its first row.
    axes.step(curve.recall[1:], curve.precision[1:], where="pre", color=BLUE)
    axes.axhline(curve.prevalence, color=FAINT, linestyle="--", linewidth=1)
    recall, precision = each.recall, each.precision
    axes.plot([recall.low, recall.high], [precision.value] * 2, color=ORANGE, linewidth=1.3)
    axes.plot([recall.value] * 2, [precision.low, precision.high], color=ORANGE, linewidth=1.3)
    axes.plot([recall.value], [precision.value], "o", color=ORANGE, markersize=5)


def _draw_roc(axes: Axes, each: _Traced) -> None:
    curve = thin_curve(each.curve)
    axes.plot(curve.false_alarms, curve.recall, color=BLUE)
    axes.plot([0, 1], [0, 1], color=FAINT, linestyle="--", linewidth=1)
    recall = each.recall
    axes.plot([each.alarms] * 2, [recall.low, recall.high], color=ORANGE, linewidth=1.3)
    axes.plot([each.alarms], [recall.value], "o", color=ORANGE, markersize=5)


_Draw = Callable[[Axes, _Traced], None]
_PR: tuple[str, str, _Draw, tuple[str, str]] = (
    "pr-curves", "average_precision", _draw_pr, ("recall", "precision"),
)  # fmt: skip
_ROC: tuple[str, str, _Draw, tuple[str, str]] = (
    "roc-curves", "roc_auc", _draw_roc,
    ("false alarms (share of rows without the class)", "recall"),
)  # fmt: skip


def _chart_one(each: _Traced) -> Chart:
    with drawing(3.7) as figure:
        left, right = add_axes(figure, 1, 2)
        for axes, (_, metric, draw, (across, up)) in ((left, _PR), (right, _ROC)):
            area = each.areas[metric]
            draw(axes, each)
            style_panel(axes, f"{name_metric(metric)} {spell(area.value)}")
            axes.set_xlabel(across.split(" (", maxsplit=1)[0])
            axes.set_ylabel(up)
        return finish_figure(
            figure,
            name="curves",
            title=f"Precision-recall and ROC curve of {each.name}"
            + (f", threshold {each.cut}" if each.cut else ""),
            alt=_tell(each, "average_precision") + " " + _tell(each, "roc_auc"),
            header=_HEADER,
            rows=_write_points([each]),
        )


def _chart_panels(
    traced: Sequence[_Traced], name: str, metric: str, draw: _Draw, words: tuple[str, str]
) -> Chart:
    shown = traced[:MOST_PANELS]
    lines, columns = lay_panels(len(shown))
    left = len(traced) - len(shown)
    with drawing(0.35 + _PANEL * lines) as figure:
        panels = add_axes(figure, lines, columns)
        for place, axes in enumerate(panels):
            if place >= len(shown):
                axes.set_axis_off()
                continue
            each = shown[place]
            draw(axes, each)
            short = "AP" if metric == "average_precision" else "AUC"
            area = spell(each.areas[metric].value, 2)
            told = f"{shorten_label(each.name, 20)}: {short} {area}"
            below = place + columns >= len(shown)
            style_panel(axes, told, left=place % columns == 0, bottom=below)
        figure.supxlabel(words[0], color=FAINT, fontsize=9)
        figure.supylabel(words[1], color=FAINT, fontsize=9)
        kind = "Precision-recall" if metric == "average_precision" else "ROC"
        return finish_figure(
            figure,
            name=name,
            title=f"{kind} curves with {name_metric(metric)}, weakest class first"
            + (f"; {left} more in the CSV" if left else ""),
            alt=f"{kind} curves. " + " ".join(_tell(each, metric) for each in shown[:3]),
            header=_HEADER,
            rows=_write_points(traced),
        )


def _tell(each: _Traced, metric: str) -> str:
    area = each.areas[metric]
    told = f"{each.name}: {name_metric(metric)} {spell_interval(area.value, area.low, area.high)}"
    at = f" at threshold {each.cut}" if each.cut else ""
    if metric == "roc_auc":
        return (
            f"{told}; recall {spell(each.recall.value)} with {spell(each.alarms)} false alarms{at}."
        )
    return (
        f"{told}; recall {spell(each.recall.value)}, precision {spell(each.precision.value)}{at}."
    )


def _write_points(traced: Sequence[_Traced]) -> list[tuple[str, ...]]:
    rows = []
    for each in traced:
        curve = thin_curve(each.curve)
        columns = np.stack(
            [curve.thresholds, curve.recall, curve.precision, curve.false_alarms, curve.flagged]
        )
        rows += [(each.name, *map(write_number, point)) for point in columns.T.tolist()]
    return rows


def _list_areas(judged: Judged, traced: Sequence[_Traced]) -> Grid:
    alone = not judged.evidence.exclusive
    rows = []
    for each in traced:
        areas = [spell_interval(area.value, area.low, area.high) for area in each.areas.values()]
        reached = [spell(each.recall.value), spell(each.precision.value), spell(each.alarms)]
        cut = (each.cut,) if alone else ()
        rows.append((each.name, spell(each.curve.prevalence), *areas, *cut, *reached))
    cut = ("threshold (95 % interval)",) if alone else ()
    header = (
        "class", "prevalence", "average precision", "ROC-AUC", *cut, "recall", "precision",
        "false alarm rate",
    )  # fmt: skip
    return Grid(
        title="Areas under the curves, and what the rule reaches",
        header=header,
        rows=tuple(rows),
        name="areas",
        wide=True,
    )
