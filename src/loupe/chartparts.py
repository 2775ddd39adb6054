"""Chart parts: what several charts of a report draw alike, and how numbers and names are spelled.

Owns rows of dots with intervals, small panels, and short labels. It must not compute a score
or know runs.

Shapes: R rows of a chart, C classes.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from loupe.figures import BLUE, FAINT, INK, LINE

DASH = "\N{EN DASH}"
MOST_ROWS = 60
"""Rows that a chart shows; the worst come first, and its CSV holds all."""
MOST_PANELS = 12
"""Small panels in a chart; likewise."""
MOST_COLUMNS = 3
"""Panels side by side: more could not be read on a phone."""
_BELOW = 0.24
"""Folds lie below the line of the interval, which would hide them."""
LABEL = 30
"""Letters of a name in a chart; a wide letter, as in Korean, counts twice."""

_UNSEEN = {"Cc", "Cs"}
"""Letters that are none, and that an SVG may not hold."""

METRIC_WORDS = {
    "accuracy": "accuracy",
    "accuracy_accepted": "accuracy of the accepted",
    "accepted": "accepted share",
    "average_precision": "average precision",
    "average_precision_macro": "average precision (mean)",
    "balanced_accuracy": "balanced accuracy",
    "brier": "Brier score",
    "cohen_kappa": "Cohen's kappa",
    "exact_match": "all classes right",
    "expected_calibration_error": "calibration error",
    "f1": "F1",
    "f1_macro": "F1, class mean",
    "f1_micro": "F1 (all decisions)",
    "log_loss": "log loss",
    "mcc": "Matthews correlation",
    "pr_auc": "PR-AUC (trapezoids)",
    "precision": "precision",
    "precision_macro": "precision, class mean",
    "precision_micro": "precision (all decisions)",
    "prevalence": "prevalence",
    "recall": "recall",
    "recall_macro": "recall, class mean",
    "recall_micro": "recall (all decisions)",
    "roc_auc": "ROC-AUC",
    "roc_auc_macro": "ROC-AUC, class mean",
}  # fmt: skip
"""Names of scores for readers who do not know ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A row of a chart: a value with its interval.

    Attributes:
        label: At its left.
        value: The dot; NaN draws none.
        low: Lower end; NaN draws no line.
        high: Upper end.
        small: More values of the same kind, as small dots: those of the folds.
        tick: What chance would reach, as a short line; NaN draws none.
    """

    label: str
    value: float
    low: float = math.nan
    high: float = math.nan
    small: tuple[float, ...] = ()
    tick: float = math.nan


def name_metric(metric: str) -> str:
    """Return the words for a score; its own name if there are none.

    Examples:
        >>> name_metric("mcc"), name_metric("speed")
        ('Matthews correlation', 'speed')
    """
    return METRIC_WORDS.get(metric, metric)


def shorten_label(name: str, most: int = LABEL) -> str:
    """Return a name that fits beside a chart, on one line.

    Args:
        name: Any text.
        most: Letters that fit; a wide one counts twice.

    Examples:
        >>> shorten_label("scratch on the left edge", 12)
        'scratch on …'
    """
    plain = "".join(
        " " if unicodedata.category(letter) in {"Cc", "Cs"} else letter for letter in name
    )
    if sum(map(_measure, plain)) <= most:
        return plain
    kept, used = "", 1
    for letter in plain:
        used += _measure(letter)
        if used > most:
            break
        kept += letter
    return f"{kept}…"


def spell(value: float, digits: int = 3) -> str:
    """Spell a number for a reader; a dash where it is not defined.

    Examples:
        >>> spell(0.51239), spell(float("nan")) == DASH
        ('0.512', True)
    """
    return DASH if math.isnan(value) else f"{value:.{digits}f}"


def spell_interval(value: float, low: float, high: float, digits: int = 3) -> str:
    """Spell a number and its interval.

    Examples:
        >>> spell_interval(0.9176, 0.9049, 0.9316)
        '0.918 (0.905 to 0.932)'
    """
    if math.isnan(value) or math.isnan(low):
        return spell(value, digits)
    return f"{spell(value, digits)} ({spell(low, digits)} to {spell(high, digits)})"


def spell_share(value: float) -> str:
    """Spell a share in per cent, with a digit more where it is near 0 or 1.

    Examples:
        >>> spell_share(0.9176), spell_share(0.0042), spell_share(1.0)
        ('92 %', '0.4 %', '100 %')
    """
    if math.isnan(value):
        return DASH
    near = 0 < value < 0.095 or 0.985 < value < 1
    return f"{100 * value:.{1 if near else 0}f} %"


def spell_share_interval(value: float, low: float, high: float) -> str:
    """Spell a share and its interval in per cent.

    Examples:
        >>> spell_share_interval(0.9176, 0.88, 0.95)
        '92 % (88 to 95)'
    """
    if math.isnan(value) or math.isnan(low):
        return spell_share(value)
    ends = (spell_share(end).removesuffix(" %") for end in (low, high))
    return f"{spell_share(value)} ({' to '.join(ends)})"


def write_number(value: float) -> str:
    """Write a number for a CSV; "" where it is not defined.

    Examples:
        >>> write_number(0.123456789), write_number(float("nan"))
        ('0.123457', '')
    """
    return "" if math.isnan(value) else f"{value:.6g}"


def measure_height(rows: int, *, least: float = 1.4, each: float = 0.25) -> float:
    """Return how high a chart of some rows is, in inches.

    Examples:
        >>> measure_height(20)
        5.85
    """
    return max(least, 0.85 + each * rows)


def draw_marks(
    axes: Axes, marks: Sequence[Mark], *, colour: str = BLUE, spelled: bool = True
) -> None:
    """Draw rows of dots with their intervals, the first at the top.

    Args:
        axes: Empty.
        marks: (R,) rows.
        colour: Of dots and lines.
        spelled: Write each value at the right.
    """
    for place, mark in enumerate(marks):
        axes.plot(
            mark.small, [place + _BELOW] * len(mark.small), "o", color=FAINT, markersize=3.4,
            markeredgewidth=0,
        )  # fmt: skip
        if not math.isnan(mark.low):
            axes.plot([mark.low, mark.high], [place, place], "-", color=colour, linewidth=1.8)
        if not math.isnan(mark.tick):
            axes.plot([mark.tick], [place], "|", color=INK, markersize=9, markeredgewidth=1.4)
        axes.plot([mark.value], [place], "o", color=colour, markersize=6.5)
        if spelled:
            axes.annotate(
                spell(mark.value), (1.0, place), xycoords=("axes fraction", "data"),
                xytext=(6, 0), textcoords="offset points", va="center", color=INK, fontsize=8.5,
            )  # fmt: skip
    label_rows(axes, [mark.label for mark in marks])
    axes.grid(axis="x")


def label_rows(axes: Axes, names: Sequence[str]) -> None:
    """Write names at the left of rows, the first at the top.

    Args:
        axes: With rows at 0, 1, 2 and so on.
        names: (R,) any text.
    """
    axes.set_yticks(range(len(names)), [shorten_label(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.spines["left"].set_visible(False)


def fit_shares(axes: Axes, marks: Sequence[Mark]) -> None:
    """Let the axis of shares begin below the lowest end that is shown, and end at 1.

    Args:
        axes: Of `draw_marks`.
        marks: What was drawn.
    """
    ends = [
        end
        for mark in marks
        for end in (mark.value, mark.low, mark.tick, *mark.small)
        if not math.isnan(end)
    ]
    lowest = min(ends, default=0.0)
    step = 0.1
    start = math.floor((lowest - 0.02) / step) * step
    axes.set_xlim(max(-1.0, min(start, 0.9)) if lowest < 0 else max(0.0, min(start, 0.9)), 1.004)


def style_panel(axes: Axes, title: str, *, left: bool = True, bottom: bool = True) -> None:
    """Make a square panel of shares from 0 to 1.

    Args:
        axes: A small panel.
        title: Above it.
        left: It is the first of its row, and has numbers at its left.
        bottom: It is the last of its column, and has numbers below.
    """
    axes.set_title(title, fontsize=9)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.04)
    axes.set_box_aspect(1)
    ticks = [0, 0.5, 1]
    axes.set_xticks(ticks, ["0", "0.5", "1"] if bottom else [""] * 3)
    axes.set_yticks(ticks, ["0", "0.5", "1"] if left else [""] * 3)
    axes.tick_params(length=0, labelsize=8)
    axes.grid(color=LINE)


def lay_panels(count: int) -> tuple[int, int]:
    """Return rows and columns of small panels.

    Examples:
        >>> lay_panels(2), lay_panels(12)
        ((1, 2), (4, 3))
    """
    columns = min(count, MOST_COLUMNS)
    return math.ceil(count / columns), columns


def _measure(letter: str) -> int:
    return 2 if unicodedata.east_asian_width(letter) in {"W", "F"} else 1
