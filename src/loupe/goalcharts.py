"""Goal charts: a wanted recall beside the recall, precision and flagged rows it brings.

Owns the row that says what a goal takes, the words for it, and the chart with its CSV. It must
not choose a threshold or compute a score.

Shapes: R rows of a chart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes

from loupe.chartparts import (
    MOST_ROWS,
    Mark,
    draw_marks,
    measure_height,
    shorten_label,
    spell,
    spell_share,
    write_number,
)
from loupe.figures import BLUE, INK, ORANGE, add_axes, drawing, finish_figure
from loupe.reportparts import Chart
from loupe.thresholds import Goal
from loupe.wagers import Estimate, Threshold

HARD = Goal(kind="recall", value=0.95)
"""What the chart shows, and what classes are sorted by."""
MOST_CLASSES = 20
"""Classes in the tables of the page; the CSV of the chart holds all."""
SLACK = 0.02
"""A goal that is missed by more calls for a remark."""
_ROUNDING = 1e-9
_HEADER = (
    "class", "goal", "threshold", "threshold_low", "threshold_high", "attained_on_all_rows",
    "recall", "recall_low", "recall_high", "precision", "precision_low", "precision_high",
    "share_flagged", "flagged_at_threshold_high", "flagged_at_threshold_low", "note",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A goal of one class, and what it takes.

    Attributes:
        goal: What was asked for.
        found: The threshold and its worth.
        flagged: Share of rows that would be decided positive, cross-fitted.
        least: The same share at the upper end of the interval of the threshold; NaN if that
            has none.
        most: At its lower end.
        note: Why the goal cannot be had, or by how much it is missed; "" if neither.
    """

    goal: Goal
    found: Threshold
    flagged: float
    least: float
    most: float
    note: str


def falls_short(reached: Estimate, goal: Goal) -> bool:
    """Return whether held-out rows are noticeably below a goal, or sure to be below it.

    Args:
        reached: Recall or precision, as the goal wants.
        goal: What was asked for.

    Examples:
        >>> falls_short(Estimate(value=0.69, low=0.2, high=0.99), HARD)
        True
        >>> falls_short(Estimate(value=0.94, low=0.9, high=0.97), HARD)
        False
    """
    return goal.value - reached.value > SLACK + _ROUNDING or reached.high < goal.value


def spell_aim(goal: Goal) -> str:
    """Spell a wanted share.

    Examples:
        >>> spell_aim(HARD)
        '95 %'
    """
    return f"{100 * goal.value:g} %"


def spell_flagged(row: Row) -> str:
    """Spell the share flagged, and what it is over the interval of the threshold.

    It is no interval of the share, so it is not spelled like one.

    Args:
        row: What a goal takes.
    """
    value = spell_share(row.flagged)
    if math.isnan(row.least) or row.least == row.most:
        return value
    return f"{value}; {spell_share(row.least)} to {spell_share(row.most)}"


def chart_recall(found: dict[Goal, list[Row]], order: Sequence[str]) -> Chart:
    """Draw which recall an aim reaches, what precision is left, and how many rows it flags.

    Args:
        found: What each goal takes, for all classes.
        order: All classes, the hardest first.

    Returns:
        The chart; its CSV holds all goals.
    """
    few = len(order) <= 2
    goals = [goal for goal in found if goal.kind == "recall"]
    goals = goals if few else [HARD]
    at = {(goal, row.found.class_name): row for goal, rows in found.items() for row in rows}
    rows = [at[goal, name] for name in order for goal in goals]
    known = [row for row in rows if row.found.positives] or rows[:1]
    shown = known[:MOST_ROWS]
    with drawing(measure_height(len(shown), each=0.28) + 0.45) as figure:
        (axes,) = add_axes(figure)
        _draw_rows(axes, shown, few=few)
        aim = "each wanted recall" if few else f"a recall of {spell_aim(HARD)}"
        more = len(known) - len(shown)
        told = f"; intervals for the first {MOST_CLASSES}" if len(order) > MOST_CLASSES else ""
        return finish_figure(
            figure,
            name="thresholds",
            title=f"What aiming at {aim} brings on held-out rows, hardest class first{told}"
            + (f"; {more} more in the CSV" if more else ""),
            alt=_describe(known, aim),
            header=_HEADER,
            rows=[_write_row(row) for rows in found.values() for row in rows],
        )


def _draw_rows(axes: Axes, shown: Sequence[Row], *, few: bool) -> None:
    marks = [
        Mark(
            label=f"{shorten_label(row.found.class_name, 18)}"
            + (f", recall {row.goal.value:g}" if few else ""),
            value=row.found.precision.value,
            low=row.found.precision.low,
            high=row.found.precision.high,
            tick=row.goal.value,
        )
        for row in shown
    ]
    draw_marks(axes, marks, spelled=False)
    hollow: dict[str, Any] = {
        "color": INK,
        "markerfacecolor": "none",
        "linestyle": "",
        "markersize": 7,
    }
    for place, row in enumerate(shown):
        axes.plot([row.flagged], [place], "D", color=ORANGE, markersize=5)
        axes.plot([row.found.recall.value], [place], "s", **hollow)
    axes.plot([], [], "o-", color=BLUE, label="precision with its interval")
    axes.plot([], [], "D", color=ORANGE, linestyle="", label="share of all rows flagged")
    axes.plot([], [], "s", **hollow, label="recall reached")
    axes.plot([], [], "|", color=INK, markersize=9, linestyle="", label="recall aimed at")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    axes.set_xlim(-0.01, 1.02)


def _describe(rows: Sequence[Row], aim: str) -> str:
    """Say where the aim is missed most, and what it takes for the first and last row."""
    missed = [row for row in rows if falls_short(row.found.recall, row.goal)]
    missed.sort(key=lambda row: row.found.recall.value - row.goal.value)
    told = list(dict.fromkeys(_tell(row) for row in (rows[0], *missed[:1], rows[-1])))
    count = f"{len(missed)} of {len(rows)} fall short of it on held-out rows"
    return f"Aiming at {aim}, {count}: {'; '.join(told)}"


def _tell(row: Row) -> str:
    found = row.found
    return (
        f"{found.class_name}, aimed at {spell_aim(row.goal)}, reaches a recall of "
        f"{spell_share(found.recall.value)}, has a precision of {spell(found.precision.value)} "
        f"and flags {spell_share(row.flagged)} of the rows"
    )


def _write_row(row: Row) -> tuple[str, ...]:
    found = row.found
    worth = [
        end for each in (found.recall, found.precision) for end in (each.value, each.low, each.high)
    ]
    return (
        found.class_name,
        found.goal,
        *map(write_number, (found.threshold, found.low, found.high)),
        "yes" if found.attained else "no",
        *map(write_number, (*worth, row.flagged, row.least, row.most)),
        row.note,
    )
