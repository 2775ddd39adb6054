"""How the command line shows things: bars on a terminal, plain lines elsewhere.

It must not compute anything; it shows what others made.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table as Grid

from loupe.checking import CheckReport
from loupe.intervals import Score

_LINE_EVERY_S = 30.0  # plain output: one line in so many seconds
_CLASS_METRICS = ("average_precision", "f1", "precision", "recall")  # scores.json has all


class BarReporter:
    """Shows each piece of work as a bar; used on a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: Progress | None = None
        self._task = TaskID(0)
        self._label = ""
        self._begun = 0.0

    def begin(self, label: str, total: int) -> None:
        """Open a bar."""
        self._label, self._begun = label, time.perf_counter()
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._bars.start()
        self._task = self._bars.add_task(escape(label), total=total)

    def advance(self, done: int, total: int | None = None) -> None:
        """Move the bar."""
        if self._bars is not None:
            self._bars.update(self._task, completed=done, total=total)

    def end(self, summary: str = "") -> None:
        """Replace the bar by one line."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
            self._console.print(_finished(self._label, self._begun, summary))

    def note(self, text: str) -> None:
        """Print a line."""
        self._console.print(escape(f"· {text}"))


class LineReporter:
    """Writes a plain line now and then; used where there is no terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._label = ""
        self._total = 0
        self._begun = 0.0
        self._shown = 0.0

    def begin(self, label: str, total: int) -> None:
        """Remember what is going on."""
        self._label, self._total = label, total
        self._begun = self._shown = time.perf_counter()

    def advance(self, done: int, total: int | None = None) -> None:
        """Write a line if the last one is old enough."""
        self._total = total or self._total
        now = time.perf_counter()
        if now - self._shown >= _LINE_EVERY_S:
            self._shown = now
            self._console.print(escape(f"  {self._label}: {done}/{self._total}"))

    def end(self, summary: str = "") -> None:
        """Write that it is finished."""
        self._console.print(_finished(self._label, self._begun, summary))

    def note(self, text: str) -> None:
        """Write a line."""
        self._console.print(escape(f"· {text}"))


def make_console(*, errors: bool = False) -> Console:
    """Return a console; where there is no terminal its lines are not wrapped."""
    stream = sys.stderr if errors else sys.stdout
    width = None if stream.isatty() else 10_000
    return Console(file=stream, width=width, highlight=False, soft_wrap=width is not None)


def make_reporter(console: Console) -> BarReporter | LineReporter:
    """Return the reporter that suits where the output goes."""
    return BarReporter(console) if console.is_terminal else LineReporter(console)


def show_scores(
    console: Console,
    scores: Sequence[Score],
    stamps: Sequence[str],
    *,
    title: str = "out-of-fold scores",
) -> None:
    """Print the overall scores and then those of each class, with intervals.

    Args:
        console: Where to.
        scores: From `scoring.read_scores`.
        stamps: Printed first: what must be said beside every score.
        title: Which rows were scored.
    """
    for stamp in stamps:
        console.print(escape(f"! {stamp}"), style="bold red")
    console.print(_overall_grid([s for s in scores if not s.class_name], title))
    console.print(_class_grid([s for s in scores if s.class_name]))


def show_check(console: Console, report: CheckReport) -> None:
    """Print what `check` found: counts, then findings by kind, then the verdict.

    Args:
        console: Where to.
        report: From `check`.
    """
    sizes = report.sizes
    console.print(
        f"{report.rows:,} rows; {sizes.distinct:,} image size(s), "
        f"median {sizes.median[0]}x{sizes.median[1]} (height x width)"
    )
    if report.class_counts:
        counts = ", ".join(f"{name} {n:,}" for name, n in report.class_counts.items())
        console.print(escape(f"classes: {counts}"))
    per_image = ", ".join(f"{k}: {n:,}" for k, n in report.classes_per_image.items())
    if per_image:
        console.print(f"classes per image: {per_image}")
    for name, held in (
        ("groups given", report.group_sizes),
        ("groups of copies", report.copy_sizes),
    ):
        if held:
            rows = sum(held.values())
            console.print(f"{name}: {len(held):,} ({rows:,} rows, largest {max(held.values())})")
    console.print(_findings_grid(report))
    fix = {f.id for f in report.findings if f.severity == "fix"}
    verdict = f"{len(fix):,} row(s) must be fixed" if fix else "nothing must be fixed"
    console.print(verdict, style="bold red" if fix else "bold green")


def _findings_grid(report: CheckReport) -> Grid:
    grid = Grid(box=None, pad_edge=False)
    for name in ("finding", "", "rows", "for example"):
        grid.add_column(name, justify="right" if name == "rows" else "left")
    kinds = dict.fromkeys((f.severity, f.finding) for f in report.findings)
    for severity, kind in kinds:
        mine = [f for f in report.findings if (f.severity, f.finding) == (severity, kind)]
        example = f"{mine[0].id}: {mine[0].detail}" if mine[0].id else mine[0].detail
        grid.add_row(kind, severity, f"{len(mine):,}", escape(example))
    return grid


def _overall_grid(scores: Sequence[Score], title: str) -> Grid:
    folded = any(not math.isnan(s.fold_mean) for s in scores)
    grid = Grid(title=title, title_justify="left", box=None, pad_edge=False)
    grid.add_column("metric")
    for name in ("pooled", "95 % interval", *(("mean of folds", "±") if folded else ())):
        grid.add_column(name, justify="right")
    for s in scores:
        by_fold = (spell_number(s.fold_mean, 4), spell_number(s.fold_std, 4)) if folded else ()
        span = "-" if math.isnan(s.low) else f"{s.low:.4f} - {s.high:.4f}"
        grid.add_row(s.metric, spell_number(s.value, 4), span, *by_fold)
    return grid


def _class_grid(scores: Sequence[Score]) -> Grid:
    held = {s.metric for s in scores}
    metrics = [name for name in _CLASS_METRICS if name in held]
    grid = Grid(title="by class", title_justify="left", box=None, pad_edge=False)
    grid.add_column("class")
    grid.add_column("rows", justify="right")
    for name in metrics:
        grid.add_column(name, justify="right")
    for class_name in dict.fromkeys(s.class_name for s in scores):
        mine = {s.metric: s for s in scores if s.class_name == class_name}
        rows = str(next(iter(mine.values())).n)
        cells = [_spell_score(mine[m]) for m in metrics]
        grid.add_row(escape(class_name), rows, *cells)
    return grid


def spell_number(value: float, digits: int) -> str:
    """Spell a number; "-" where it is not defined.

    Examples:
        >>> spell_number(0.51239, 3), spell_number(float("nan"), 3)
        ('0.512', '-')
    """
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _spell_score(score: Score) -> str:
    if math.isnan(score.low):
        return spell_number(score.value, 3)
    return f"{score.value:.3f} ({score.low:.2f}-{score.high:.2f})"


def _finished(label: str, begun: float, summary: str) -> str:
    seconds = time.perf_counter() - begun
    return escape(f"✓ {label} ({seconds:.1f} s){': ' + summary if summary else ''}")
