"""Report pages: the sections of a report as one HTML text that needs nothing else.

Owns the look of the page and what it may load, which is nothing. It must not compute a
number, draw, read a run or write a file.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from loupe.reportparts import Block, Grid, Picture, Section, Tone

MOST_ROWS = 60
"""Rows of numbers shown below a chart, and of a table; the rest is in its CSV alone."""
MANY_LINES = 12
"""Commands of more lines than this are shown folded."""
LARGE_SIDE = 480
"""Pictures wider than this many pixels get a line of their own."""
TONES: dict[Tone, tuple[str, str]] = {
    "plain": ("", ""),
    "good": ("✓", "Good"),
    "warn": ("!", "Caution"),
    "bad": ("✕", "Problem"),
}
"""A sign and a word for each tone, so that nothing is told by colour alone."""
_NUMBER = re.compile(r"[-+−±<>≤≥≈~]?\s?\d[\d.,]*\s?(%|s|ms|MB|GB|px)?(\s.*\d.*)?|[-–—]|")  # noqa: RUF001


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    """What stands above all sections.

    Attributes:
        title: Of the page.
        lines: Below it: what it is about, when and by what it was made.
        figures: Folder with the files of the charts, as seen from the page; "" if none.
    """

    title: str
    lines: tuple[str, ...] = ()
    figures: str = ""


def write_page(heading: Heading, sections: Sequence[Section]) -> str:
    """Return the whole page; style, script and pictures are in it.

    Texts of sections are taken for text, whatever they hold; the SVG of a chart is taken as
    it is.

    Args:
        heading: Of the page.
        sections: In order, each key once; one without blocks is left out.

    Examples:
        >>> from loupe.reportparts import Text
        >>> found = Section(key="a", title="Data", blocks=(Text(text="<b> is a class"),))
        >>> page = write_page(Heading(title="Run"), [found])
        >>> page[:15], "&lt;b&gt; is a class" in page
        ('<!doctype html>', True)
    """
    style, script = _read("report.css"), _read("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _pages()
        .get_template("report.html")
        .render(
            heading=heading,
            sections=[section for section in sections if section.blocks],
            style=Markup(style),  # noqa: S704 - files of ours
            script=Markup(script),  # noqa: S704
            policy="default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
            f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        )
    )


@functools.cache
def _pages() -> Environment:
    pages = Environment(
        loader=PackageLoader("loupe", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {
        "kind": _name_kind,
        "tone": TONES.__getitem__,
        "address": _spell_address,
        "size": _measure,
        "numeric": _find_numeric,
        "breakable": _allow_breaks,
    }
    pages.globals |= {
        "most_rows": MOST_ROWS,
        "many_lines": MANY_LINES,
        "large_side": LARGE_SIDE,
        "svg": Markup,
    }
    return pages


def _read(name: str) -> str:
    return files("loupe").joinpath("pages", name).read_text(encoding="utf-8")


def _name_kind(block: Block) -> str:
    return type(block).__name__.lower()


def _spell_address(data: bytes) -> str:
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _measure(picture: Picture) -> tuple[int, int]:
    """Return width and height in pixels, so that the page does not jump while it loads."""
    with Image.open(io.BytesIO(picture.data)) as image:
        return image.size


def _find_numeric(grid: Grid) -> list[bool]:
    """Tell for each column whether its cells are numbers, which are set flush right."""
    return [
        bool(number) and all(_NUMBER.fullmatch(row[number].strip()) for row in grid.rows)
        for number in range(len(grid.header))
    ]


def _allow_breaks(text: str) -> Markup:
    """Let a long file name break after a slash or a sign, rather than anywhere."""
    return Markup("<wbr>").join(re.findall(r"[^/_.-]*[/_.-]+|[^/_.-]+", text))
