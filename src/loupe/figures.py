"""Figures: how charts look, and how they become SVG, PNG and CSV.

Owns colours, fonts and sizes. What a chart shows is decided elsewhere. In a page the neutral
colours follow the reader's light or dark mode; the colours of the data stay, and are told
apart by anyone (Okabe & Ito 2008, "Color universal design").

Importing it loads matplotlib, by its object interface alone: nothing global is changed.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names

from loupe.cells import write_cells
from loupe.files import replacing, write_text
from loupe.reportparts import Chart

INK, FAINT, LINE, PAPER = "#1b1c1e", "#5f6368", "#d4d6d9", "#fefefe"
"""Text, quiet text, axes and grid, background."""
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW = (
    "#0072b2", "#d55e00", "#009e73", "#b2182b", "#aa4499", "#56b4e9", "#e69f00",
)  # fmt: skip
CYCLE = (BLUE, ORANGE, GREEN, PURPLE, SKY, YELLOW, RED)
"""Colours of data, in the order in which to use them; more than seven lines are too many."""
DASHES = ("-", "--", "-.", ":")
"""Line styles, so that no difference is told by colour alone."""
WIDTH = 7.2
"""Inches of a chart as wide as the page."""
_DPI = 144
_VARIABLES = {INK: "--ink", FAINT: "--faint", LINE: "--line", PAPER: "--paper"}
_SCRIPTS = (
    "Noto Sans CJK JP", "Noto Sans CJK KR", "Noto Sans CJK SC", "Noto Sans KR", "Malgun Gothic",
    "Apple SD Gothic Neo", "PingFang SC", "Hiragino Sans", "Microsoft YaHei", "WenQuanYi Zen Hei",
)  # fmt: skip
"""Fonts with Korean, Chinese and Japanese, for the PNG; those that are not there are left out."""
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: any script the reader's machine can show
    "font.family": ["DejaVu Sans", *sorted(set(_SCRIPTS) & set(get_font_names()))],
    "font.size": 9.5,
    "axes.edgecolor": LINE,
    "axes.labelcolor": FAINT,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "text.parse_math": False,  # a class named "$x$" is a name
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": FAINT,
    "ytick.labelcolor": FAINT,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "lines.linewidth": 1.6,
}


@contextlib.contextmanager
def drawing(height: float, width: float = WIDTH) -> Iterator[Figure]:
    """Open an empty figure; what is drawn inside has the style of all.

    Args:
        height: In inches.
        width: In inches.

    Examples:
        >>> with drawing(2.0) as figure:
        ...     (axes,) = add_axes(figure)
        ...     _ = axes.bar(["dog", "cat"], [3, 5], color=BLUE)
    """
    with mpl.rc_context(_STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def add_axes(
    figure: Figure, rows: int = 1, columns: int = 1, *, shared: bool = False
) -> list[Axes]:
    """Add panels, row by row.

    Args:
        figure: From `drawing`.
        rows: How many rows of panels.
        columns: How many in a row.
        shared: All panels have the same scales.
    """
    panels = figure.subplots(rows, columns, squeeze=False, sharex=shared, sharey=shared)
    return [panel for line in panels for panel in line]


def finish_figure(
    figure: Figure,
    *,
    name: str,
    title: str,
    alt: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
) -> Chart:
    """Turn a figure into a chart of a report.

    Args:
        figure: Drawn.
        name: File name without an end, unique in the report.
        title: What it shows.
        alt: The same in words, with its main numbers.
        header: Names of the columns of its numbers.
        rows: Its numbers, as text.
    """
    text, pixels = io.StringIO(), io.BytesIO()
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        # A script without a font here: the reader's machine may have one for the page.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        FigureCanvasAgg(figure)
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
        # Laid out once: the picture has the same places, in less time.
        figure.set_layout_engine("none")
        figure.savefig(pixels, format="png", dpi=_DPI, facecolor=PAPER)
    return Chart(
        name=name,
        title=title,
        alt=alt,
        svg=_clean(text.getvalue(), name),
        header=tuple(header),
        rows=tuple(tuple(row) for row in rows),
        png=pixels.getvalue(),
    )


def save_charts(charts: Sequence[Chart], folder: Path) -> None:
    """Write each chart as SVG, PNG and CSV.

    Args:
        charts: Of one report.
        folder: Made if need be; files of the same names are replaced.
    """
    for chart in charts:
        write_text(folder / f"{chart.name}.svg", _stand_alone(chart.svg))
        with replacing(folder / f"{chart.name}.png") as temporary:
            temporary.write_bytes(chart.png)
        write_cells(folder / f"{chart.name}.csv", chart.header, chart.rows)


def _clean(svg: str, name: str) -> str:
    """Leave one element that can stand in a page beside others."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # Ids of several figures must not meet in one page.
    # Tags alone: the text between them is names of classes, whatever they hold.
    return re.sub(r"<[^!?][^>]*>", lambda found: _clean_tag(found[0], name), svg)


def _clean_tag(svg: str, name: str) -> str:
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(xlink:href|href)="#([^"]+)"', rf'\1="#{name}-\2"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    # The page decides on the font, and on the size: the viewBox keeps the form.
    svg = re.sub(r"font-family: [^;\"]*", "font-family: var(--font, sans-serif)", svg)
    svg = re.sub(r'<svg ([^>]*?)width="[^"]*" height="[^"]*"', r"<svg \1", svg, count=1)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg


def _stand_alone(svg: str) -> str:
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(f"var({variable})", colour)
    svg = svg.replace("var(--font, sans-serif)", "sans-serif")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{svg}\n'
