"""Confusion charts: which class is taken for which, by cross-fitted decisions, for a report.

It must not decide or compute a score: counts are `metrics`'.

Shapes: C classes given, D decided: the same, and "no decision" where a rule leaves rows open.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from loupe.chartparts import (
    MOST_ROWS,
    label_rows,
    measure_height,
    shorten_label,
    spell_interval,
    spell_share,
    write_number,
)
from loupe.evidence import Evidence
from loupe.figures import BLUE, INK, LINE, ORANGE, SKY, add_axes, drawing, finish_figure
from loupe.judged import Judged, judge_run
from loupe.metrics import confusion_matrix, count_outcomes, to_decisions
from loupe.reportparts import Block, Chart, Grid, Section, Text
from loupe.runs import Run
from loupe.weighting import Float64, divide

_NUMBERED = 15
"""Most classes whose cells hold numbers; more would not be read."""
_BESIDE = 4
"""Most classes whose two matrices stand side by side."""
_PAIRS = 15
"""Pairs of classes that are listed."""
_WHITE = "#ffffff"
_DARK = 0.55
"""Strength of a cell from which its number is white."""
_UNDECIDED = "no decision"


def describe_confusion(run: Run, evidence: Evidence, judged: Judged | None = None) -> Section:
    """Show which decisions were right, and what was taken for what.

    Args:
        run: Finished.
        evidence: Its held-out rows.
        judged: From `judged.judge_run`, if it was made before.
    """
    judged = judged or judge_run(run, evidence)
    shown = judged.evidence
    blocks: tuple[Block, ...]
    if shown.exclusive or len(shown.classes) == 1:
        blocks = _show_matrix(judged)
    else:
        blocks = _show_outcomes(judged)
    return Section(key="confusion", title="Confusion", blocks=blocks)


# Exclusive classes, or one ------------------------------------------------------------------------


def _show_matrix(judged: Judged) -> tuple[Block, ...]:
    counts, given, decided = _count(judged)
    shares = divide(counts, np.broadcast_to(counts.sum(axis=1, keepdims=True), counts.shape))
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    places = np.argsort(-wrong, axis=None, kind="stable")[:_PAIRS]
    pairs = [divmod(int(place), len(decided)) for place in places if wrong.flat[place] > 0]
    text = (
        "Rows of the matrix are the given class, columns what was decided by the rule that was "
        "fitted without the fold of the row. "
        + ("Blue is right, orange is wrong; " if wrong.any() else "Every row is right; ")
        + "strength is the share of the given class."
    )
    blocks: list[Block] = [Text(text=text), *_chart_matrix(counts, shares, given, decided, pairs)]
    if len(given) > 2 and pairs:
        rows = [
            (given[row], decided[column], f"{counts[row, column]:,.0f}",
             spell_share(float(shares[row, column])))
            for row, column in pairs
        ]  # fmt: skip
        blocks.append(
            Grid(
                title="Classes that are taken for others most often",
                header=("given", "decided", "rows", "share of the given class"),
                rows=tuple(rows),
                name="confusion-pairs",
            )
        )
    return tuple(blocks)


def _count(judged: Judged) -> tuple[Float64, tuple[str, ...], tuple[str, ...]]:
    """Return counts (C, D), and the names of both sides."""
    evidence, decisions = judged.evidence, judged.held.decisions
    truth = to_decisions(evidence.targets, exclusive=evidence.exclusive)
    classes = evidence.classes
    if len(classes) == 1:
        names = (f"no {classes[0]}", classes[0])
        return confusion_matrix(truth, decisions), names, names
    open_N1 = ~decisions.any(axis=1, keepdims=True)
    if not open_N1.any():
        return confusion_matrix(truth, decisions), classes, classes
    # Rows that the rule leaves open are decided for a class of their own, which nobody has.
    wide = confusion_matrix(
        np.hstack([truth, np.zeros_like(open_N1)]), np.hstack([decisions, open_N1])
    )
    return wide[:-1], classes, (*classes, _UNDECIDED)


def _chart_matrix(
    counts: Float64,
    shares: Float64,
    given: tuple[str, ...],
    decided: tuple[str, ...],
    pairs: list[tuple[int, int]],
) -> list[Chart]:
    """Draw counts and shares, side by side if there are few classes, else one if numbers fail."""
    size = len(given)
    right = float(divide(np.trace(counts), counts.sum()))
    told = [
        f"{given[row]} was taken for {decided[column]} in {counts[row, column]:,.0f} rows"
        for row, column in pairs[:3]
    ]
    alt = f"{spell_share(right)} of {counts.sum():,.0f} rows are right. " + "; ".join(told)
    header = ("given", "decided", "rows", "share_of_given")
    rows = [
        (a, b, f"{counts[i, j]:.0f}", write_number(float(shares[i, j])))
        for i, a in enumerate(given)
        for j, b in enumerate(decided)
    ]
    if size <= _BESIDE:
        with drawing(1.6 + 0.55 * size) as figure:
            left, beside = add_axes(figure, 1, 2)
            _fill(left, counts, shares, given, decided, numbers="counts")
            _fill(beside, counts, shares, ("",) * size, decided, numbers="shares")
            left.set_title("rows")
            beside.set_title("share of the given class, %")
            title = "Confusion: given class by row, decided by column"
            return [finish_figure(figure, name="confusion", title=title, alt=alt, header=header,
                                  rows=rows)]  # fmt: skip
    kinds = ("counts", "shares") if size <= _NUMBERED else ("",)
    words = {
        "counts": "Confusion in rows: given class by row, decided by column",
        "shares": "Confusion in per cent of the given class",
        "": "Confusion: given class by row, decided by column; numbers are in the CSV",
    }
    names = {"counts": "confusion", "shares": "confusion-shares", "": "confusion"}
    charts = []
    for kind in kinds:
        with drawing(1.2 + (0.42 if size <= _NUMBERED else 0.135) * size) as figure:
            (axes,) = add_axes(figure)
            _fill(axes, counts, shares, given, decided, numbers=kind)
            charts.append(finish_figure(figure, name=names[kind], title=words[kind], alt=alt,
                                        header=header, rows=rows))  # fmt: skip
    return charts


def _fill(
    axes: Axes,
    counts: Float64,
    shares: Float64,
    given: tuple[str, ...],
    decided: tuple[str, ...],
    *,
    numbers: str,
) -> None:
    """Draw cells as vectors: a picture in an SVG would be blurred."""
    for row, column in zip(*np.nonzero(counts), strict=True):
        share = float(shares[row, column])
        # A single row of a large class must still be seen.
        strength = 0.12 + 0.88 * share
        colour = BLUE if row == column else ORANGE
        box = Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=colour, alpha=strength)
        box.set_linewidth(0)
        axes.add_patch(box)
        if numbers:
            told = f"{counts[row, column]:,.0f}" if numbers == "counts" else _spell_cell(share)
            axes.text(
                column, row, told, ha="center", va="center", fontsize=8.5,
                color=_WHITE if strength > _DARK else INK,
            )  # fmt: skip
    small = 8.5 if len(given) <= _NUMBERED else 6.5
    label_rows(axes, given)
    axes.set_ylim(len(given) - 0.5, -0.5)
    axes.set_xlim(-0.5, len(decided) - 0.5)
    names = [shorten_label(name, 18) for name in decided]
    slanted = len(decided) > _BESIDE or max(map(len, names)) > 10
    axes.set_xticks(
        range(len(decided)), names, rotation=90 if len(decided) > _NUMBERED else 35 * slanted,
        ha="right" if slanted and len(decided) <= _NUMBERED else "center",
        rotation_mode="anchor" if slanted and len(decided) <= _NUMBERED else "default",
    )  # fmt: skip
    axes.tick_params(length=0, labelsize=small, labelcolor=INK)
    axes.spines[["left", "bottom"]].set_visible(False)
    for edge in range(len(given) + 1):
        axes.axhline(edge - 0.5, color=LINE, linewidth=0.5)
    for edge in range(len(decided) + 1):
        axes.axvline(edge - 0.5, color=LINE, linewidth=0.5)


def _spell_cell(share: float) -> str:
    return "<1" if 0 < share < 0.005 else f"{100 * share:.0f}"


# Classes that stand alone -------------------------------------------------------------------------


def _show_outcomes(judged: Judged) -> tuple[Block, ...]:
    evidence = judged.evidence
    truth = to_decisions(evidence.targets, exclusive=False)
    outcomes = count_outcomes(truth, judged.held.decisions)
    counts = np.stack([outcomes.tp, outcomes.fn, outcomes.fp, outcomes.tn])
    text = (
        "Classes stand alone, so each is a question of its own: is it there? Decided by the rule "
        "that was fitted without the fold of the row."
    )
    scores = {
        (s.metric, s.class_name): spell_interval(s.value, s.low, s.high)
        for s in judged.scores
        if s.class_name
    }
    rows = [
        (
            name, *(f"{count:,.0f}" for count in counts[:, column]),
            scores.get(("recall", name), ""), scores.get(("precision", name), ""),
        )
        for column, name in enumerate(evidence.classes)
    ]  # fmt: skip
    header = (
        "class", "found", "missed", "false alarms", "rightly left out",
        "recall (95 % interval)", "precision (95 % interval)",
    )  # fmt: skip
    grid = Grid(
        title="Decisions of each class",
        header=header,
        rows=tuple(rows),
        name="decisions-by-class",
        wide=len(rows) > _NUMBERED,
    )
    return Text(text=text), _chart_outcomes(evidence.classes, counts), grid


def _chart_outcomes(classes: tuple[str, ...], counts: Float64) -> Chart:
    """Draw found and missed to the right, false alarms to the left."""
    errors = counts[1] + counts[2]
    present = np.maximum(counts[0] + counts[1], 1)
    order = np.argsort(-errors / present, kind="stable")
    shown = order[:MOST_ROWS]
    found, missed, alarms = counts[:3, shown]
    places = np.arange(len(shown))
    with drawing(measure_height(len(shown)) + 0.25) as figure:
        (axes,) = add_axes(figure)
        axes.barh(places, found, color=BLUE, height=0.65, label="found")
        axes.barh(places, missed, left=found, color=ORANGE, height=0.65, label="missed")
        axes.barh(places, -alarms, color=SKY, height=0.65, label="false alarms")
        axes.axvline(0, color=INK, linewidth=0.8)
        label_rows(axes, [classes[place] for place in shown])
        least, most = -float(alarms.max()), float((found + missed).max())
        axes.set_xlim(least * 1.08 - 0.02 * most, most * 1.04)
        axes.xaxis.set_major_formatter(lambda value, _: f"{abs(value):,.0f}")
        axes.set_xlabel("rows; false alarms to the left of 0")
        axes.grid(axis="x")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
        worst = int(order[0])
        left = len(order) - len(shown)
        return finish_figure(
            figure,
            name="decisions",
            title="Found, missed and false alarms of each class, the most errors for its size first"
            + (f"; {left} more in the CSV" if left else ""),
            alt=f"{counts[0].sum():,.0f} found, {counts[1].sum():,.0f} missed and "
            f"{counts[2].sum():,.0f} false alarms in all classes; most errors for its size: "
            f"{classes[worst]}, {counts[1, worst]:,.0f} missed and {counts[2, worst]:,.0f} false "
            "alarms.",
            header=("class", "found", "missed", "false_alarms", "rightly_left_out"),
            rows=[(classes[k], *(f"{c:.0f}" for c in counts[:, k])) for k in order],
        )
