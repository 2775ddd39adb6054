"""History charts: how the loss, the watched metric and the rate went, by member and fold.

Owns the section "Learning curves". It must not train or measure: the histories of a run hold
all that is drawn.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from loupe.errors import shorten
from loupe.figures import BLUE, LINE, ORANGE, add_axes, drawing, finish_figure
from loupe.reportparts import Block, Chart, Section, Text
from loupe.runs import REFIT, Run
from loupe.watching import LOSS, lower_is_better

PANELS = 12
"""More members than this are in the CSV alone: their panels would be stamps."""
RISE = 0.1
"""A watched loss that ends this much above its lowest is told as overfitting; less is the usual
wobble of a small watched part."""
_RATE = "lr"
_WATCHED, _TRAINED = "val/", "train/"
_WORDS = {LOSS: "training", f"{_WATCHED}{LOSS}": "watched"}
_HEADER = ("member", "fold", "stage", "epoch", "rows", "value")
_TICKS = 5


class Point(NamedTuple):
    """One value of one epoch.

    Attributes:
        stage: Number of the stage, from 0.
        epoch: Of that stage, from 1.
        value: Of one column of the history.
    """

    stage: int
    epoch: int
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """One column of the histories of a member.

    Attributes:
        member: Its name.
        column: "loss", "lr", "val/f1_macro", "train/f1_macro".
        folds: What each fold went through, by its number.
    """

    member: str
    column: str
    folds: dict[int, tuple[Point, ...]]


def describe_history(run: Run) -> Section:
    """Draw the learning curves of a run.

    Folds are thin lines, their mean is thick. The metric is the one that the recipe watches;
    where nothing was watched, the training loss and the rate are all there is.

    Args:
        run: Finished.

    Returns:
        With a sentence in place of charts where nothing was trained by epochs.
    """
    title = "Learning curves"
    if run.blend is not None:
        sources = shorten([source.place for source in run.blend.sources])
        told = f"A blend trains nothing; the learning curves are those of its sources: {sources}."
        return Section(key="history", title=title, blocks=(Text(text=told),))
    courses = read_courses(run)
    losses = [each for each in courses if each.column == LOSS]
    trained = [each for each in losses if each.folds]
    solved = [each.member for each in losses if not each.folds]
    blocks: list[Block] = [Text(text=_tell_solved(run, solved))] if solved else []
    if trained:
        blocks += [Text(text=_tell_losses(trained)), *_warn_rising(run, courses)]
        blocks += _draw_all(run, courses)
    return Section(key="history", title=title, blocks=tuple(blocks))


def read_courses(run: Run) -> tuple[Course, ...]:
    """Read what the histories of a trained run hold of each epoch.

    Args:
        run: Trained, no blend.

    Returns:
        For each member its loss, the rate, then all that was measured. A head that was solved
        in one step has no epochs, hence a course without folds.
    """
    return tuple(course for name in run.members for course in _read_member(run, name))


def _read_member(run: Run, name: str) -> Iterator[Course]:
    lines = {fold: _read_lines(run, name, fold) for fold in run.folds}
    seen = dict.fromkeys(key for found in lines.values() for line in found for key in line)
    columns = dict.fromkeys([LOSS, _RATE, *seen])
    for column in columns:
        if column in {"stage", "epoch"}:
            continue
        folds = {fold: tuple(_list_points(found, column)) for fold, found in lines.items()}
        kept = {fold: points for fold, points in folds.items() if points}
        yield Course(member=name, column=column, folds=kept)


def _read_lines(run: Run, name: str, fold: int) -> list[dict[str, str]]:
    path = run.member(name).fold(fold).history
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as stream:
        # Epoch 0 is a head that was solved: one value, no course.
        return [line for line in csv.DictReader(stream) if line["epoch"] != "0"]


def _list_points(lines: Sequence[dict[str, str]], column: str) -> Iterator[Point]:
    for line in lines:
        value = float(line.get(column) or "nan")
        if not math.isnan(value):
            yield Point(int(line["stage"]), int(line["epoch"]), value)


def _tell_solved(run: Run, names: Sequence[str]) -> str:
    """Say what a solved head went through: nothing, but its penalty is known."""
    solved = [e for e in _read_epochs(run) if "l2" in e and e["member"] in names]
    penalties = dict.fromkeys(f"{event['l2']:g}" for event in solved)
    told = f" (ridge penalty {', '.join(penalties)}, chosen on inner rows)" if penalties else ""
    return (
        f"{shorten(names)}: the last layer was solved in one step on frozen features{told}, so "
        "there is no course of training to look at."
    )


def _read_epochs(run: Run) -> list[dict[str, object]]:
    if not run.log.is_file():
        return []
    lines = run.log.read_text(encoding="utf-8").splitlines()
    return [event for line in lines if (event := json.loads(line))["event"] == "epoch"]


def _tell_losses(courses: Sequence[Course]) -> str:
    parts = []
    for course in courses:
        mean = _average(course)
        ends = f"{mean[0].value:.3g} to {mean[-1].value:.3g}" if mean else "?"
        parts.append(f"{course.member}: {ends} over {len(mean)} epochs")
    return f"Mean training loss, first to last epoch that all folds reached: {shorten(parts)}."


def _warn_rising(run: Run, courses: Sequence[Course]) -> Iterator[Text]:
    """Warn of a watched loss that went up again, where nothing chose the best epoch."""
    for course in courses:
        mean = _average(course) if course.column == f"{_WATCHED}{LOSS}" else ()
        if not mean or run.member(course.member).recipe().checkpoint is not None:
            continue
        best = min(mean, key=lambda point: point.value)
        if mean[-1].value > (1 + RISE) * best.value:
            yield Text(
                text=f"{course.member}: the loss of the watched rows was lowest in epoch "
                f"{best.epoch} ({best.value:.3g}) and ended at {mean[-1].value:.3g}: it "
                "overfits. Train for fewer epochs, or keep the best one ('checkpoint').",
                tone="warn",
            )


def _draw_all(run: Run, courses: Sequence[Course]) -> Iterator[Chart]:
    by_column: dict[str, list[Course]] = {}
    for course in courses:
        if course.folds:
            by_column.setdefault(course.column, []).append(course)
    losses = [*by_column[LOSS], *by_column.get(f"{_WATCHED}{LOSS}", [])]
    yield _draw("learning-loss", "Loss by epoch", losses)
    for metric in _list_watched(run, by_column):
        both = (f"{_TRAINED}{metric}", f"{_WATCHED}{metric}")
        chosen = [course for column in both for course in by_column.get(column, [])]
        name = f"learning-{metric.replace('/', '-of-')}"
        yield _draw(_spell_name(name), f"{metric} by epoch", chosen)
    if _RATE in by_column:
        yield _draw("learning-rate", "Learning rate by epoch", _drop_equal(by_column[_RATE]))


def _drop_equal(courses: Sequence[Course]) -> list[Course]:
    """Keep the first of the courses if all look alike: most members share a schedule."""
    shapes = set()
    for course in courses:
        mean = _average(course)
        peak = max((point.value for point in mean), default=0.0)
        shapes.add((f"{peak:.2g}", *(round(p.value / peak, 1) if peak else 0 for p in mean)))
    return list(courses[:1]) if len(shapes) == 1 else list(courses)


def _list_watched(run: Run, by_column: dict[str, list[Course]]) -> list[str]:
    """Name the metrics that controlled something; the first one measured where none did."""
    there = [key.removeprefix(_WATCHED) for key in by_column if key.startswith(_WATCHED)]
    there += [key.removeprefix(_TRAINED) for key in by_column if key.startswith(_TRAINED)]
    watched = dict.fromkeys(
        metric for name in run.members for metric in run.member(name).recipe().watched_metrics
    )
    metrics = [metric for metric in watched if metric in there and metric != LOSS]
    return metrics or [metric for metric in there if metric != LOSS][:1]


def _spell_name(text: str) -> str:
    """Make a file name of ASCII letters: a class may be called anything."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in text)
    return kept[:60]


def _draw(name: str, title: str, courses: Sequence[Course]) -> Chart:
    """Draw one panel a member; two lines in it where both kinds of rows were measured."""
    members = list(dict.fromkeys(course.member for course in courses))
    shown = members[:PANELS]
    columns = 1 if len(shown) == 1 else 2
    rows = math.ceil(len(shown) / columns)
    with drawing(0.3 + (2.3 if columns == 1 else 1.9) * rows) as figure:
        panels = add_axes(figure, rows, columns)
        for place, (panel, member) in enumerate(zip(panels, shown, strict=False)):
            mine = [course for course in courses if course.member == member]
            _draw_panel(panel, mine, member if len(members) > 1 else "")
            panel.set_xlabel("epoch" if place >= len(shown) - columns else "")
        for panel in panels[len(shown) :]:
            panel.set_visible(False)
        return finish_figure(
            figure,
            name=name,
            title=title if len(shown) == len(members) else f"{title} (first {PANELS} members)",
            alt=_tell(title, courses),
            header=_HEADER,
            rows=[row for course in courses for row in _list_rows(course)],
        )


def _draw_panel(axes: Axes, courses: Sequence[Course], title: str) -> None:
    starts = _place_stages(courses)
    ends: dict[str, tuple[list[int], list[float], str]] = {}
    for course in courses:
        watched = course.column.startswith(_WATCHED)
        colour, dash = (ORANGE, "--") if watched else (BLUE, "-")
        for points in course.folds.values():
            places = [starts[point.stage] + point.epoch for point in points]
            values = [point.value for point in points]
            axes.plot(places, values, dash, color=colour, linewidth=0.7, alpha=0.45)
        mean = _average(course)
        places = [starts[point.stage] + point.epoch for point in mean]
        values = [point.value for point in mean]
        marker = "o" if len(mean) < 2 else ""
        axes.plot(places, values, dash, color=colour, linewidth=2.2, marker=marker)
        ends |= {("watched" if watched else "training"): (places, values, colour)} if mean else {}
    if len(ends) > 1:
        _name_lines(axes, ends)
    for start in list(starts.values())[1:]:
        axes.axvline(start + 0.5, color=LINE, linewidth=1)
    if len(starts) > 1:
        for stage, start in starts.items():
            axes.text(
                start + 0.6, 1, f"stage {stage + 1}", fontsize=8, va="bottom",
                transform=axes.get_xaxis_transform(),
            )  # fmt: skip
    if courses[0].column in {LOSS, _RATE}:
        axes.set_ylim(bottom=0)
    axes.set_title(title, pad=14 if len(starts) > 1 else 6)
    axes.xaxis.set_major_locator(MaxNLocator(_TICKS, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(_TICKS))
    axes.grid(axis="y")


def _name_lines(axes: Axes, ends: dict[str, tuple[list[int], list[float], str]]) -> None:
    """Write beside each line what it is; the higher one's name above, so that none overlap."""
    for place, name in enumerate(sorted(ends, key=lambda key: ends[key][1][-1])):
        places, values, colour = ends[name]
        axes.annotate(
            name, (places[-1], values[-1]), (4, 6 if place else -6), textcoords="offset points",
            color=colour, va="center", fontsize=8.5, annotation_clip=False,
        )  # fmt: skip


def _place_stages(courses: Sequence[Course]) -> dict[int, int]:
    """Return how many epochs come before each stage, in the fold that takes the longest."""
    points = [point for course in courses for found in course.folds.values() for point in found]
    stages = sorted({point.stage for point in points})
    lengths = [max(point.epoch for point in points if point.stage == stage) for stage in stages]
    starts = dict.fromkeys(stages[:1], 0)
    for (before, stage), length in zip(pairwise(stages), lengths, strict=False):
        starts[stage] = starts[before] + length
    return starts


def _average(course: Course) -> tuple[Point, ...]:
    """Average the folds, as far as all of them got: a mean of other folds would jump."""
    sheets = [{(p.stage, p.epoch): p.value for p in points} for points in course.folds.values()]
    if not sheets:
        return ()
    shared = sorted(set(sheets[0]).intersection(*sheets))
    return tuple(Point(*key, math.fsum(s[key] for s in sheets) / len(sheets)) for key in shared)


def _list_rows(course: Course) -> Iterator[tuple[str, ...]]:
    column = course.column
    rows = _WORDS.get(column, "watched" if column.startswith(_WATCHED) else "training")
    for fold, points in course.folds.items():
        for point in points:
            name = "all" if fold == REFIT else str(fold)
            place = (str(point.stage + 1), str(point.epoch))
            yield (course.member, name, *place, rows, f"{point.value:.6g}")


def _tell(title: str, courses: Sequence[Course]) -> str:
    parts = []
    for course in courses:
        mean = _average(course)
        if not mean:
            continue
        text = f"{course.member}, {_spell_column(course.column)}: {mean[0].value:.3g} at first"
        if course.column != _RATE:
            metric = course.column.rpartition("val/")[2].removeprefix(_TRAINED)
            choose = min if lower_is_better(metric) else max
            best = choose(mean, key=lambda point: point.value)
            text += f", best {best.value:.3g} in epoch {best.epoch} of stage {best.stage + 1}"
        parts.append(f"{text}, {mean[-1].value:.3g} at last")
    folds = max(len(course.folds) for course in courses)
    return f"{title}, mean of {folds} fold(s). {shorten(parts, 6)}."


def _spell_column(column: str) -> str:
    if column == _RATE:
        return "rate"
    return "watched rows" if column.startswith(_WATCHED) else "training rows"
