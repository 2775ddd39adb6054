"""Score charts: the scores of a run and the weights of a blend, for a report.

It must not compute a score: those of the rule are stored, those of a fold are `intervals`'.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loupe.chartparts import (
    LABEL,
    METRIC_WORDS,
    MOST_ROWS,
    Mark,
    draw_marks,
    fit_shares,
    label_rows,
    measure_height,
    name_metric,
    shorten_label,
    spell,
    spell_interval,
    write_number,
)
from loupe.evidence import Evidence, held_out_probs
from loupe.figures import BLUE, ORANGE, add_axes, drawing, finish_figure
from loupe.intervals import Score, score
from loupe.judged import Judged, judge_run
from loupe.reportparts import Block, Chart, Grid, Section, Text
from loupe.runs import Run
from loupe.scorecard import LOWER_IS_BETTER, main_metric
from loupe.scoring import read_scores

_SHOWN = {
    True: (
        "accuracy", "accepted", "accuracy_accepted", "balanced_accuracy", "f1_macro",
        "precision_macro", "mcc", "average_precision_macro", "roc_auc_macro",
    ),
    False: (
        "average_precision", "roc_auc", "f1_macro", "precision_macro", "recall_macro",
        "exact_match", "accuracy", "balanced_accuracy", "mcc",
    ),
}  # fmt: skip
"""Scores in the chart, the first ones first; errors, which have another scale, are in the grid."""
_MAIN_BY_CLASS = {True: "f1", False: "average_precision"}
"""What classes are sorted and compared by."""
_COLUMNS = ("precision", "recall", "f1", "average_precision", "roc_auc")

Folds = Mapping[str, tuple[Score, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scored:
    """All scores of a run: pooled, and of each fold without intervals."""

    scores: tuple[Score, ...]
    folds: Folds
    exclusive: bool
    classes: tuple[str, ...]

    def overall(self, metric: str) -> Score | None:
        return next((s for s in self.listed() if s.metric == metric), None)

    def listed(self) -> tuple[Score, ...]:
        """Return the scores of all classes together, without those that say the same."""
        return tuple(s for s in self.scores if not s.class_name and not self._repeats(s.metric))

    def name(self, metric: str) -> str:
        """Return the words for a score; of one class there is no mean."""
        words = name_metric(metric)
        return words if len(self.classes) > 1 else words.split(" (", maxsplit=1)[0]

    def _repeats(self, metric: str) -> bool:
        return len(self.classes) == 1 and (metric.endswith("_micro") or metric == "exact_match")

    def by_class(self, metric: str) -> dict[str, Score]:
        return {s.class_name: s for s in self.scores if s.class_name and s.metric == metric}

    def by_fold(self, metric: str, class_name: str = "") -> tuple[float, ...]:
        found = [
            s.value
            for scores in self.folds.values()
            for s in scores
            if s.metric == metric and s.class_name == class_name
        ]
        return tuple(value for value in found if not math.isnan(value))


def describe_scores(
    run: Run, evidence: Evidence | None, judged: Judged | None = None
) -> Section | None:
    """Show the scores of a run: pooled and of each fold, of all classes and of each.

    Args:
        run: Finished.
        evidence: Its held-out rows; None of a run that was trained on all rows, whose scores
            are those of the run it was made from.
        judged: From `judged.judge_run`, if it was made before.

    Returns:
        None for a run that draws masks.
    """
    if run.segments:
        return None
    blocks: list[Block]
    if evidence is None:
        table = run.table()
        found = _Scored(
            scores=read_scores(run), folds={}, exclusive=table.exclusive, classes=table.classes
        )
        blocks = [Text(text=_REFIT, tone="warn")]
    else:
        judged = judged or judge_run(run, evidence)
        shown = judged.evidence
        found = _Scored(
            scores=judged.scores,
            folds=_score_parts(judged),
            exclusive=shown.exclusive,
            classes=shown.classes,
        )
        blocks = [Text(text=stamp, tone="bad") for stamp in shown.stamps]
        blocks += [Text(text=judged.note, tone="warn")] if judged.note else []
        blocks.append(Text(text=_introduce(judged)))
    blocks.append(_chart_overall(found))
    blocks += [_chart_classes(found)] if len(found.classes) > 1 else []
    blocks += [_list_overall(found), *_list_folds(found), _list_classes(found)]
    return Section(key="scores", title="Scores", blocks=tuple(blocks))


_REFIT = (
    "These networks were trained on all rows, so nothing was held out to score them on. The "
    "scores are those of the run they were made from, which are a fair guess."
)


def _introduce(judged: Judged) -> str:
    evidence = judged.evidence
    rows, groups = len(evidence), int(evidence.groups.max()) + 1
    what = f"{rows:,} rows" + (f" in {groups:,} groups" if groups < rows else "")
    what = f"{rows:,} groups" if judged.rule.pool else what
    parts = evidence.part_count
    how = (
        f"There were no folds, so the rule was cross-fitted on {parts} parts."
        if evidence.dealt
        else "Each was scored by networks and a rule that were fitted without its fold "
        f"({parts} folds)."
    )
    return (
        f"From {what}. {how} Lines are 95 % intervals"
        f"{'' if evidence.dealt else '; small grey dots are the folds'}."
    )


def _score_parts(judged: Judged) -> Folds:
    """Score each fold by itself, as `scoring` does, but for the rule as it is now."""
    evidence = judged.evidence
    if evidence.dealt:
        return {}
    ranked = held_out_probs(evidence)
    found = {}
    for part, name in enumerate(evidence.part_names):
        mine = evidence.parts == part
        found[name] = score(
            evidence.targets[mine],
            judged.held.probs[mine],
            exclusive=evidence.exclusive,
            classes=evidence.classes,
            decisions=judged.held.decisions[mine],
            ranked=ranked[mine],
            resamples=0,
        )
    return found


# Scores -------------------------------------------------------------------------------------------


def _chart_overall(found: _Scored) -> Chart:
    pairs = [(name, found.overall(name)) for name in _SHOWN[found.exclusive]]
    scores = [each for _, each in pairs if each is not None]
    marks = [_mark(each, found.name(each.metric), found.by_fold(each.metric)) for each in scores]
    main = next(s for s in scores if s.metric == main_metric(exclusive=found.exclusive))
    with drawing(measure_height(len(marks), each=0.29)) as figure:
        (axes,) = add_axes(figure)
        draw_marks(axes, marks)
        fit_shares(axes, marks)
        return finish_figure(
            figure,
            name="scores",
            title="Scores of all classes together",
            alt=f"{found.name(main.metric)} {spell_interval(main.value, main.low, main.high)}; "
            + "; ".join(f"{found.name(s.metric)} {spell(s.value)}" for s in scores if s != main),
            header=("metric", "value", "low", "high", *(f"fold {name}" for name in found.folds)),
            rows=[(s.metric, *_numbers(s), *_fold_cells(found, s.metric)) for s in scores],
        )


def _chart_classes(found: _Scored) -> Chart:
    metric = _MAIN_BY_CLASS[found.exclusive]
    scores = sorted(found.by_class(metric).values(), key=_rank)
    prevalence = found.by_class("prevalence")
    marks = []
    for each in scores[:MOST_ROWS]:
        # A column in any order has the prevalence as its average precision.
        chance = prevalence[each.class_name].value if metric == "average_precision" else math.nan
        folds = found.by_fold(metric, each.class_name)
        marks.append(
            _mark(each, f"{shorten_label(each.class_name, LABEL - 9)} ({each.n:,})", folds, chance)
        )
    words = name_metric(metric)
    left = len(scores) - len(marks)
    title = f"{words[:1].upper()}{words[1:]} by class (rows of the class), weakest first"
    with drawing(measure_height(len(marks))) as figure:
        (axes,) = add_axes(figure)
        draw_marks(axes, marks)
        fit_shares(axes, marks)
        return finish_figure(
            figure,
            name="scores-by-class",
            title=title
            + ("; a short line is what chance reaches" if metric == "average_precision" else "")
            + (f"; {left} more in the CSV" if left else ""),
            alt=_tell_range(scores, words),
            header=("class", "rows", "metric", "value", "low", "high", "prevalence"),
            rows=[
                (
                    s.class_name, str(s.n), metric, *_numbers(s),
                    write_number(prevalence[s.class_name].value),
                )
                for s in scores
            ],
        )  # fmt: skip


def _tell_range(scores: Sequence[Score], words: str) -> str:
    known = [each for each in scores if not math.isnan(each.value)]
    if not known:
        return f"{words} is not defined for any class."
    low, high = known[0], known[-1]
    return (
        f"{words} runs from {spell_interval(low.value, low.low, low.high)} for {low.class_name} to "
        f"{spell_interval(high.value, high.low, high.high)} for {high.class_name}."
    )


def _list_overall(found: _Scored) -> Grid:
    rows = [
        (
            found.name(s.metric) + (" (lower is better)" if s.metric in LOWER_IS_BETTER else ""),
            spell_interval(s.value, s.low, s.high),
            spell(s.fold_mean),
            spell(s.fold_std),
            s.note,
        )
        for s in found.listed()
    ]
    noted = any(row[-1] for row in rows)
    header = ("score", "value (95 % interval)", "mean of folds", "deviation of folds", "note")
    return Grid(
        title="All scores",
        header=header if noted else header[:-1],
        rows=tuple(row if noted else row[:-1] for row in rows),
        name="scores-all",
        wide=True,
    )


def _list_folds(found: _Scored) -> list[Grid]:
    if not found.folds:
        return []
    metrics = [s.metric for s in found.listed()]
    rows = tuple(
        (found.name(metric), *(spell(_find(scores, metric)) for scores in found.folds.values()))
        for metric in metrics
    )
    header = ("score", *(f"fold {name}" for name in found.folds))
    return [Grid(title="Scores of each fold", header=header, rows=rows, name="scores-by-fold",
                 wide=True)]  # fmt: skip


def _list_classes(found: _Scored) -> Grid:
    columns = {metric: found.by_class(metric) for metric in _COLUMNS}
    rows = []
    for name in found.classes:
        cells = [columns[metric].get(name) for metric in _COLUMNS]
        first = next((each.n for each in cells if each is not None), 0)
        told = ["" if s is None else spell_interval(s.value, s.low, s.high) for s in cells]
        rows.append((name, f"{first:,}", *told))
    return Grid(
        title="Scores of each class",
        header=("class", "rows", *(METRIC_WORDS[metric] for metric in _COLUMNS)),
        rows=tuple(rows),
        name="scores-per-class",
        wide=True,
    )


def _mark(each: Score, label: str, folds: tuple[float, ...] = (), chance: float = math.nan) -> Mark:
    return Mark(
        label=label, value=each.value, low=each.low, high=each.high, small=folds, tick=chance
    )


def _numbers(each: Score) -> tuple[str, str, str]:
    return write_number(each.value), write_number(each.low), write_number(each.high)


def _fold_cells(found: _Scored, metric: str) -> tuple[str, ...]:
    return tuple(write_number(_find(scores, metric)) for scores in found.folds.values())


def _find(scores: Sequence[Score], metric: str) -> float:
    found = (s.value for s in scores if s.metric == metric and not s.class_name)
    return next(found, math.nan)


def _rank(each: Score) -> tuple[bool, float]:
    """Sort by value, undefined last."""
    return math.isnan(each.value), each.value if not math.isnan(each.value) else 0.0


# Blend --------------------------------------------------------------------------------------------


def describe_blend(run: Run, evidence: Evidence | None) -> Section | None:
    """Show the weights of a blend, and whether they beat the plain mean.

    Args:
        run: Finished.
        evidence: Its held-out rows; not needed, for the weights are stored.

    Returns:
        None for a run that is no blend.
    """
    del evidence
    blend = run.blend
    if blend is None:
        return None
    folds = blend.by_fold or {}
    marks = [
        Mark(label=name, value=weight, small=tuple(fold[place] for fold in folds.values()))
        for place, (name, weight) in enumerate(zip(run.members, blend.weights, strict=True))
    ]
    with drawing(measure_height(len(marks), each=0.3)) as figure:
        (axes,) = add_axes(figure)
        weights = [mark.value for mark in marks]
        axes.barh(range(len(marks)), weights, height=0.6, color=BLUE)
        for place, mark in enumerate(marks):
            axes.plot(mark.small, [place] * len(mark.small), "o", color=ORANGE, markersize=3.5)
            axes.annotate(
                spell(mark.value, 2), (max((mark.value, *mark.small)), place), xytext=(6, 0),
                textcoords="offset points", va="center", fontsize=8.5,
            )  # fmt: skip
        label_rows(axes, [mark.label for mark in marks])
        axes.set_xlim(0, max(0.05, *(max((m.value, *m.small)) for m in marks)) * 1.12)
        axes.grid(axis="x")
        chart = finish_figure(
            figure,
            name="blend-weights",
            title="Weight of each member"
            + ("; small dots: fitted without one fold" if folds else ""),
            alt="; ".join(f"{mark.label} {spell(mark.value, 2)}" for mark in marks),
            header=("member", "source", "weight", *(f"without fold {name}" for name in folds)),
            rows=[
                (mark.label, source.place, *map(write_number, (mark.value, *mark.small)))
                for mark, source in zip(marks, blend.sources, strict=True)
            ],
        )
    words = f"{blend.method} for {name_metric(blend.metric)}" if blend.metric else blend.method
    text = f"How the weights came to be: {words}." if blend.method else ""
    told = f"{text} Verdict: {blend.verdict}." if blend.verdict else text
    blocks: tuple[Block, ...] = (Text(text=told), chart, *_list_members(run))
    return Section(key="blend", title="Blend weights", blocks=blocks)


def _list_members(run: Run) -> list[Grid]:
    """List the main score of each member by itself, decided plainly."""
    metric = main_metric(exclusive=run.table().exclusive)
    rows = []
    names = run.members if len(run.members) > 1 else ()
    for name in (*names, "all"):
        each = next(
            (s for s in read_scores(run, name) if s.metric == metric and not s.class_name), None
        )
        if each is not None:
            label = "the blend" if name == "all" else name
            rows.append((label, spell_interval(each.value, each.low, each.high)))
    header = ("member", f"{name_metric(metric)} (95 % interval)")
    return [Grid(title="Each member by itself", header=header, rows=tuple(rows),
                 name="blend-members")]  # fmt: skip
