"""Comparing charts: several runs in one figure, each in its own colour and with its own sign.

Owns the drawing alone. It must not read runs, or measure anything.

Shapes: R runs, L lines of a chart: scores or classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes

from loupe.chartparts import label_rows, name_metric, shorten_label, spell_interval, write_number
from loupe.comparing import describe
from loupe.figures import CYCLE, INK, LINE, add_axes, drawing, finish_figure
from loupe.intervals import Difference, Score
from loupe.reportparts import Chart

MOST_RUNS = len(CYCLE)
"""How many runs a chart can tell apart."""
MOST_LINES = 60
"""Lines that a chart shows; its CSV holds all."""
_SIGNS = "osD^vPX"
_LINE, _RUN, _REST = 0.16, 0.13, 1.0  # inches: of a line, of each run in it, of all around
_NAME = 40  # letters of the name of a run beside its sign
_ALONE = 18  # names longer than this stand on lines of their own
_SPREAD = 0.66  # share of a line in which the dots of all runs stand

Ends = tuple[float, float, float]
"""A value with the ends of its interval."""


def draw_scores(
    lines: Sequence[str],
    scores: Sequence[Sequence[Score | None]],
    names: Sequence[str],
    *,
    name: str,
    title: str,
    what: str,
) -> Chart:
    """Draw a dot with its interval for each run, in a line for each score or class.

    Args:
        lines: (L,) what each line is, the first at the top.
        scores: (R, L) shares in [0, 1]; None where a run has no such score.
        names: (R,) of the runs; `MOST_RUNS` at most.
        name: File name of the chart without an end.
        title: What it shows.
        what: What its axis measures.
    """
    shown = lines[:MOST_LINES]
    with drawing(_measure_height(len(shown), len(names))) as figure:
        (axes,) = add_axes(figure)
        for place, (run, mine) in enumerate(zip(names, scores, strict=True)):
            ends = [_find_ends(score) for score in mine[: len(shown)]]
            _draw_whiskers(axes, ends, place, len(names), run)
        axes.set_xlim(*_find_span([_find_ends(score) for mine in scores for score in mine]))
        _finish(axes, shown, what)
        first = "; ".join(
            f"{run} {spell_interval(*_find_ends(mine[0]))}"
            for run, mine in zip(names, scores, strict=True)
        )
        return finish_figure(
            figure,
            name=name,
            title=title,
            alt=f"{title}. {lines[0]}: {first}.",
            header=("line", "run", "value", "low", "high"),
            rows=[
                (line, run, *map(write_number, _find_ends(score)))
                for run, mine in zip(names, scores, strict=True)
                for line, score in zip(lines, mine, strict=True)
            ],
        )


def draw_differences(
    found: Sequence[tuple[str, Sequence[Difference]]], first: str, *, name: str, title: str
) -> Chart:
    """Draw each run minus the first in points, beside the line of no difference.

    Args:
        found: (R - 1,) each run's name, and its differences by the same scores.
        first: Name of the first run.
        name: File name of the chart without an end.
        title: What it shows.
    """
    lines = [name_metric(each.metric) for each in found[0][1]]
    with drawing(_measure_height(len(lines), len(found))) as figure:
        (axes,) = add_axes(figure)
        axes.axvline(0, color=INK, linewidth=1)
        for place, (run, mine) in enumerate(found):
            ends = [(100 * d.value, 100 * d.low, 100 * d.high) for d in mine]
            _draw_whiskers(axes, ends, place, len(found), run, skip=1)
        _finish(axes, lines, f"points above {shorten_label(first, _NAME)}, on the same rows")
        told = "; ".join(f"{run}: {describe(mine[0])}" for run, mine in found)
        return finish_figure(
            figure,
            name=name,
            title=title,
            alt=f"{title}. {told}.",
            header=("run", "score", "difference", "low", "high"),
            rows=[
                (run, line, *map(write_number, (d.value, d.low, d.high)))
                for run, mine in found
                for line, d in zip(lines, mine, strict=True)
            ],
        )


def _measure_height(lines: int, runs: int) -> float:
    return lines * (_LINE + _RUN * runs) + _REST


def _draw_whiskers(
    axes: Axes, ends: Sequence[Ends], place: int, runs: int, label: str, *, skip: int = 0
) -> None:
    """Draw the dots of one run; `skip` keeps colours that other runs have elsewhere."""
    shift = (place - (runs - 1) / 2) * _SPREAD / max(runs, 3)
    colour, sign = CYCLE[place + skip], _SIGNS[place + skip]
    for line, (_, low, high) in enumerate(ends):
        if not math.isnan(low):
            axes.plot([low, high], [line + shift] * 2, "-", color=colour, linewidth=1.6)
    y = [line + shift for line in range(len(ends))]
    axes.plot(
        [value for value, _, _ in ends], y, sign, color=colour, markersize=5.5,
        label=shorten_label(label, _NAME),
    )  # fmt: skip


def _finish(axes: Axes, lines: Sequence[str], what: str) -> None:
    label_rows(axes, lines)
    axes.grid(axis="x")
    for edge in range(len(lines) - 1):
        axes.axhline(edge + 0.5, color=LINE, linewidth=0.6)
    axes.set_xlabel(what)
    handles, labels = axes.get_legend_handles_labels()
    columns = 1 if max(map(len, labels)) > _ALONE else 4
    axes.figure.legend(handles, labels, loc="outside upper left", ncols=columns)


def _find_ends(score: Score | None) -> Ends:
    nan = math.nan
    return (nan, nan, nan) if score is None else (score.value, score.low, score.high)


def _find_span(found: Sequence[Ends]) -> tuple[float, float]:
    """Show all intervals with a little room, within 0 to 1."""
    ends = [end for each in found for end in each if not math.isnan(end)] or [0.0, 1.0]
    low, high = min(ends), max(ends)
    room = max(0.02, 0.06 * (high - low))
    return max(-0.01, low - room), min(1.01, high + room)
