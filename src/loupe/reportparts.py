"""Report parts: what a page of a report is made of, whatever it will look like.

Owns the kinds of blocks. It must not compute a number, draw, or know HTML.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Tone = Literal["plain", "good", "warn", "bad"]
"""How a sentence is meant; the page says it by a word and a sign, not by colour alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A drawn figure, and the numbers in it.

    Attributes:
        name: Its file name without an end, unique in a report: ``pr-curves``.
        title: What it shows, in a line.
        alt: The same for who cannot see it, with its main numbers.
        svg: A whole ``<svg>`` element; colours are those of `loupe.figures`.
        header: Names of the columns of its numbers.
        rows: Its numbers, as text.
        png: The same picture, for a slide or a mail.
    """

    name: str
    title: str
    alt: str
    svg: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    png: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A sentence or a few.

    Attributes:
        text: Plain text; the page escapes it.
        tone: How it is meant.
    """

    text: str
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Names and values.

    Attributes:
        pairs: Name and value of each, as text.
    """

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A table.

    Attributes:
        title: What it shows.
        header: Names of the columns.
        rows: Cells, as text.
        name: Name of its CSV in the folder of figures; "" writes none.
        wide: It has many rows or columns: the page shows it folded.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    name: str = ""
    wide: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An image of the user, or one drawn over it.

    Attributes:
        data: JPEG or PNG bytes, small: the page holds all of them.
        alt: What it is, for who cannot see it.
        lines: Lines below it: the id, labels, probabilities.
        beside: A second image of the same size beside it, such as a map; None if there is none.
    """

    data: bytes
    alt: str
    lines: tuple[str, ...] = ()
    beside: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """Pictures with one title.

    Attributes:
        title: What they have in common.
        pictures: In order.
    """

    title: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Commands:
    """Lines to type.

    Attributes:
        lines: One command each.
    """

    lines: tuple[str, ...]


Block = Chart | Text | Facts | Grid | Gallery | Commands


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of a report under one heading.

    Attributes:
        key: Its anchor in the page: ``scores``.
        title: Its heading.
        blocks: In order. A section without blocks is left out.
    """

    key: str
    title: str
    blocks: tuple[Block, ...]


def list_charts(sections: Sequence[Section]) -> tuple[Chart, ...]:
    """Return all charts in order.

    Args:
        sections: Of a report.
    """
    return tuple(
        block for section in sections for block in section.blocks if isinstance(block, Chart)
    )
