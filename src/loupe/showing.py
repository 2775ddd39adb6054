"""How rules, comparisons and scores of new rows look on a terminal.

It must not compute anything; it shows what others made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from loupe.comparing import Comparison, Proof
from loupe.conformal import Coverage
from loupe.deciding import Decision
from loupe.errors import shorten
from loupe.gating import Gated
from loupe.grading import Graded
from loupe.intervals import Difference, Score
from loupe.proving import WORDS
from loupe.rules import Rule
from loupe.terminal import show_scores, spell_number
from loupe.wagers import Estimate, Threshold

_NO_SHARES = {"log_loss", "brier", "mcc", "cohen_kappa"}
"""Scores that are not shown in per cent."""


def show_decision(console: Console, decision: Decision) -> None:
    """Print a rule, what its thresholds buy, and its scores beside the flattering ones.

    Args:
        console: Where to.
        decision: From `deciding.decide_evidence`.
    """
    _show_stamps(console, decision.stamps)
    for note in decision.notes:
        console.print(escape(f"· {note}"))
    what = "groups" if decision.rule.pool else "held-out rows"
    console.print(f"rule from {decision.rows:,} {what} in {len(decision.parts)} folds")
    console.print(escape(f"calibration: {decision.calibration.reason}"))
    if decision.thresholds:
        console.print(_threshold_grid(decision.thresholds))
    flatters = "" if decision.rule.reject else " (flatters)"
    console.print(_score_grid(decision.scores, decision.in_sample, f"in-sample{flatters}"))
    if decision.coverage:
        console.print(_coverage_grid(decision.coverage))
    if decision.reviewed:
        console.print(f"{decision.reviewed:.1%} of the rows would go to a person")
    for warning in decision.warnings:
        console.print(escape(f"! {warning}"), style="yellow")


def show_rule(console: Console, rule: Rule, warnings: Sequence[str] = ()) -> None:
    """Print in a line by what `predict` will decide, and what is doubtful about it.

    Args:
        console: Where to.
        rule: Of a run.
        warnings: From its report.
    """
    kind = rule.calibration.kind
    after = "" if kind == "none" else f" after {kind} calibration"
    told = "the largest probability"
    if not rule.exclusive:
        pairs = zip(rule.classes, rule.thresholds, strict=True)
        told = shorten([f"{name} from {cut:.2f} on" for name, cut in pairs])
    elif rule.reject:
        told += f" from {rule.reject:.2f} on"
    console.print(escape(f"decides by: {told}{after}"))
    for warning in warnings:
        console.print(escape(f"! {warning}"), style="yellow")


def show_comparison(console: Console, comparison: Comparison) -> None:
    """Print paired differences, exact tests of the decisions or masks by class, the verdict.

    Of a proof its sections alone: the rest is A minus B, which is before minus after.

    Args:
        console: Where to.
        comparison: From `decisions.compare`.
    """
    _show_stamps(console, comparison.stamps)
    for note in comparison.notes:
        console.print(escape(f"· {note}"))
    a, b = comparison.names
    if comparison.proof is not None:
        rows = f"{comparison.rows:,} rows that both held out"
        console.print(escape(f"{b}, after cleaning, against {a}, before, on {rows}"))
        _show_proof(console, comparison.proof)
        return
    console.print(escape(f"{a} against {b} on {comparison.rows:,} rows that both held out"))
    named = [(each.metric, each) for each in comparison.differences]
    console.print(_difference_grid("A minus B", "metric", named))
    if comparison.mcnemar:
        console.print(_mcnemar_grid(comparison))
    if len(comparison.by_class) > 1:
        title = f"A minus B by {comparison.differences[0].metric}"
        console.print(_difference_grid(title, "class", comparison.by_class))
    if comparison.by_class:
        won, lost = comparison.only_a, comparison.only_b
        counts = f"{a} {won:,}, {b} {lost:,}, equal {comparison.rows - won - lost:,}"
        console.print(escape(f"rows by the higher Dice: {counts}"))
    console.print(escape(comparison.verdict), style="bold")


def show_graded(console: Console, graded: Graded) -> None:
    """Print what a rule is worth on rows that were never trained on.

    Args:
        console: Where to.
        graded: From `grading.score`.
    """
    for note in graded.notes:
        broken = note.startswith("! ")
        console.print(escape(note if broken else f"· {note}"), style="yellow" if broken else "")
    show_scores(console, graded.scores, graded.stamps, title="scores on new rows")
    if graded.confusion is not None:
        console.print(_confusion_grid(graded))
    if graded.coverage:
        console.print(_coverage_grid(graded.coverage))
    if graded.reviewed:
        console.print(f"{graded.reviewed:.1%} of the rows would go to a person")
    if graded.unread:
        first, reason = graded.unread[0]
        told = f"! {len(graded.unread)} row(s) have no prediction; {first}: {reason}"
        console.print(escape(told), style="yellow")


def show_gated(console: Console, gated: Gated) -> None:
    """Print what a gate did to the masks of each class.

    Args:
        console: Where to.
        gated: From `gating.gate`.
    """
    _show_stamps(console, gated.stamps)
    for note in gated.notes:
        console.print(escape(f"· {note}"))
    grid = _grid("masks", ("class", "before", "emptied", "kept", "not gated", "refilled", "after"))
    for each in gated.classes:
        counts = (each.before, each.emptied, each.kept, each.ungated, each.refilled, each.after)
        grid.add_row(escape(each.class_name), *(f"{count:,}" for count in counts))
    console.print(grid)
    if gated.ungated:
        told = f"! {len(gated.ungated):,} image(s) have no probability; their masks stay"
        console.print(escape(told), style="yellow")


def _show_stamps(console: Console, stamps: Sequence[str]) -> None:
    for stamp in stamps:
        console.print(escape(f"! {stamp}"), style="bold red")


def _show_proof(console: Console, proof: Proof) -> None:
    metric = proof.sections[0].difference.metric
    columns = ("", "rows", "groups", "before", "after", "difference", "95 % interval", "p")
    grid = _grid(f"after minus before by {metric}", columns)
    for each in proof.sections:
        scores = (_spell(metric, score, sign=False) for score in (each.before, each.after))
        counts = (f"{each.rows:,}", f"{each.groups:,}")
        grid.add_row(WORDS[each.kind], *counts, *scores, *_list_cells(each.difference))
    console.print(grid)
    console.print(escape(proof.verdict), style="bold")
    for remark in proof.remarks:
        console.print(escape(f"· {remark}"))


def _grid(title: str, columns: Sequence[str]) -> Grid:
    grid = Grid(title=title, title_justify="left", box=None, pad_edge=False)
    for number, name in enumerate(columns):
        grid.add_column(name, justify="right" if number else "left")
    return grid


def _difference_grid(title: str, what: str, named: Sequence[tuple[str, Difference]]) -> Grid:
    grid = _grid(title, (what, "difference", "95 % interval", "p"))
    for name, each in named:
        grid.add_row(escape(name), *_list_cells(each))
    return grid


def _list_cells(each: Difference) -> tuple[str, str, str]:
    """Return a difference, its interval and its p-value."""
    low, high = (_spell(each.metric, end, sign=True) for end in (each.low, each.high))
    span = "-" if math.isnan(each.low) else f"{low} to {high}"
    return _spell(each.metric, each.value, sign=True), span, _spell_p(each)


def _mcnemar_grid(comparison: Comparison) -> Grid:
    grid = _grid("rows that one alone has right (McNemar)", ("class", "A", "B", "p"))
    for test in comparison.mcnemar:
        name = escape(test.class_name) or "all columns"
        grid.add_row(name, f"{test.only_a:,}", f"{test.only_b:,}", f"{test.p_value:.3g}")
    return grid


def _threshold_grid(thresholds: Sequence[Threshold]) -> Grid:
    title = "thresholds; precision, recall and F1 cross-fitted, intervals for as many new rows"
    names = ("class", "goal", "threshold", "stability", "recall", "precision", "F1", "positives")
    grid = _grid(title, names)
    for each in thresholds:
        grid.add_row(
            escape(each.class_name),
            each.goal,
            _spell_threshold(each),
            f"{each.stability:.0%}",
            _spell_estimate(each.recall),
            _spell_estimate(each.precision),
            _spell_estimate(each.f1),
            f"{each.positives:,}",
        )
    return grid


def _score_grid(scores: Sequence[Score], in_sample: Sequence[Score], told: str) -> Grid:
    flattering = {s.metric: s.value for s in in_sample if not s.class_name}
    columns = ("metric", "cross-fitted", "95 % interval", told)
    grid = _grid("scores of the rule", columns)
    for each in scores:
        if not each.class_name:
            span = "-" if math.isnan(each.low) else f"{each.low:.4f} - {each.high:.4f}"
            other = spell_number(flattering.get(each.metric, math.nan), 4)
            grid.add_row(each.metric, spell_number(each.value, 4), span, other)
    return grid


def _coverage_grid(coverage: Sequence[Coverage]) -> Grid:
    grid = _grid("prediction sets", ("class", "answer", "rows", "covered", "95 % interval"))
    for each in coverage:
        grid.add_row(
            escape(each.class_name),
            each.side,
            f"{each.n:,}",
            f"{each.covered:.1%}",
            f"{each.low:.1%} - {each.high:.1%}",
        )
    return grid


def _confusion_grid(graded: Graded) -> Grid:
    names = (
        graded.classes if len(graded.classes) > 1 else (f"no {graded.classes[0]}", *graded.classes)
    )
    grid = _grid("confusion: given class in rows, decided in columns", ("", *map(escape, names)))
    counts = [] if graded.confusion is None else graded.confusion.astype(int).tolist()
    for name, row in zip(names, counts, strict=True):
        grid.add_row(escape(name), *(f"{count:,}" if count else "·" for count in row))
    return grid


def _spell_threshold(each: Threshold) -> str:
    if math.isnan(each.low):
        return f"{each.threshold:.3f}"
    return f"{each.threshold:.3f} ({each.low:.2f}-{each.high:.2f})"


def _spell_estimate(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "-"
    if math.isnan(estimate.low):
        return f"{estimate.value:.1%}"
    return f"{estimate.value:.1%} ({100 * estimate.low:.0f}-{100 * estimate.high:.0f})"


def _spell(metric: str, value: float, *, sign: bool) -> str:
    if math.isnan(value):
        return "-"
    plus = "+" if sign else ""
    if metric in _NO_SHARES:
        return f"{value:{plus}.4f}"
    return f"{100 * value:{plus}.2f}"


def _spell_p(each: Difference) -> str:
    return "-" if math.isnan(each.p_value) else f"{each.p_value:.3g}"
