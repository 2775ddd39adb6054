"""Sample pictures: images of rows made small for a page, with their masks drawn on them.

Owns their sizes, how a small image grows, and the layout of a grid of predictions. It
must not choose which rows are shown, know tables or runs, or stand in for a picture that
cannot be read.

Shapes: H, W height and width, K classes.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from loupe.decoding import DamagedImageError, UInt8, read_image
from loupe.errors import InputError
from loupe.masks import decode_rle
from loupe.overlays import draw_overlay

SIZE = 160
"""Longest side of a picture in pixels, where the caller has no wish."""
COLUMNS = 6
"""Pictures beside each other in a grid of predictions."""
_STRIP = 2.0
"""An image longer than this is a strip: it gets up to twice the side, or it is a line."""
_QUALITY = 80
_GAP, _FONT_SIZE, _LEADING = 8, 13, 17
_PAPER, _INK, _FAINT, _WRONG = (254, 254, 254), (27, 28, 30), (95, 99, 104), (178, 24, 43)
_NO_IMAGE = (232, 233, 235)
_UNKNOWN = "\U0010fffd"
"""A sign that no font has: it is drawn as what stands for a missing one."""
_FONTS = (
    "NotoSansCJK-Regular.ttc", "NotoSansKR-Regular.otf", "NotoSerifCJK-Regular.ttc",
    "malgun.ttf", "msyh.ttc", "AppleSDGothicNeo.ttc", "PingFang.ttc", "Arial Unicode.ttf",
    "NanumGothic.ttf", "wqy-zenhei.ttc", "DejaVuSans.ttf", "NotoSans-Regular.ttf", "arial.ttf",
)  # fmt: skip
"""Font files with other scripts than Latin, on Linux, Windows and macOS; which one of them
is there and has all signs of a line is asked for each line."""

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """One image of a grid of predictions.

    Attributes:
        path: Its file.
        name: Its id.
        decided: What was predicted, with its probability, as text.
        given: Its given label as text; "" if it has none, or the prediction is the same.
    """

    path: Path
    name: str
    decided: str
    given: str = ""


def fit_picture(
    path: Path, *, size: int = SIZE, masks: Sequence[str] | None = None
) -> bytes | None:
    """Make an image small enough for a page, upright and in 8-bit RGB.

    Decoded as in training, see `loupe.decoding`. An image of less than half the size is
    enlarged by a whole factor, each pixel a square. A strip of more than 2 to 1 gets up to
    twice the size, so that something is seen of it. Masks are lines around their outside in
    the colours of `loupe.overlays.COLOURS`, drawn after the change of size: thin cracks stay.

    Args:
        path: The file.
        size: Longest side in pixels.
        masks: Run-length texts of the image, one for each class and in the order of the
            classes, which decides on the colour; "" for none.

    Returns:
        A JPEG file; None if the image is missing or damaged.

    Raises:
        InputError: the size is below 1.
        MaskError: a text is no mask of an image of this size.
    """
    if size < 1:
        raise InputError(f"a picture of {size} pixels; expected 1 or more.")
    try:
        pixels = read_image(path)
    except DamagedImageError:
        return None
    height, width = pixels.shape[:2]
    wide, high = _choose_size(height, width, size)
    grown = wide > width
    drawn = _draw_masks(pixels, masks, wide) if masks and any(masks) else None
    if drawn is None:
        how = Image.Resampling.NEAREST if grown else Image.Resampling.LANCZOS
        image = Image.fromarray(pixels).resize((wide, high), how, reducing_gap=2.0)
    else:
        image = Image.fromarray(drawn)
    out = io.BytesIO()
    # Colours at half resolution would smear squares of pixels and thin lines.
    crisp = grown or drawn is not None
    image.save(out, "JPEG", quality=_QUALITY, subsampling=0 if crisp else 2)
    return out.getvalue()


def draw_prediction_grid(
    shown: Sequence[Predicted], *, columns: int = COLUMNS, size: int = SIZE
) -> bytes:
    """Draw images with their names and what was predicted of them, row by row.

    Below each image stand its name, the prediction, and the given label where that is
    another. Long texts are cut in their middle. Letters that no font of this machine has
    show as boxes; a page should say the same in text.

    Args:
        shown: At least one; an image that cannot be read is an empty field that says so.
        columns: Images in a row, at least 1; fewer images make fewer columns.
        size: Side of the square that an image is fitted into, in pixels.

    Returns:
        A PNG file.

    Raises:
        InputError: nothing is shown, or `columns` or `size` is below 1.
    """
    if not shown or columns < 1:
        raise InputError(
            f"{len(shown)} images in {columns} columns; expected at least one of each."
        )
    columns = min(columns, len(shown))
    lines = 3 if any(each.given for each in shown) else 2
    step = (size + _GAP, size + lines * _LEADING + _GAP)
    rows = -(-len(shown) // columns)
    grid = Image.new("RGB", (columns * step[0] + _GAP, rows * step[1] + _GAP), _PAPER)
    for place, each in enumerate(shown):
        left, top = _GAP + place % columns * step[0], _GAP + place // columns * step[1]
        _draw_cell(grid, each, (left, top), size)
    out = io.BytesIO()
    grid.save(out, "PNG", optimize=True)
    return out.getvalue()


def _choose_size(height: int, width: int, size: int) -> tuple[int, int]:
    """Return width and height of the picture."""
    longest, shortest = max(height, width), min(height, width)
    if 2 * longest <= size:
        factor = size // longest
        return width * factor, height * factor
    side = size * min(2.0, max(1.0, longest / shortest / _STRIP))
    scale = min(1.0, side / longest)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _draw_masks(pixels: UInt8, texts: Sequence[str], wide: int) -> UInt8:
    height, width = pixels.shape[:2]
    masks = np.stack([decode_rle(text, height, width) for text in texts], axis=2)
    return draw_overlay(pixels, None, masks, width=wide)


def _draw_cell(grid: Image.Image, each: Predicted, corner: tuple[int, int], size: int) -> None:
    """Draw one image in the middle of its square, and the lines below it."""
    left, top = corner
    pen = ImageDraw.Draw(grid)
    data = fit_picture(each.path, size=size)
    if data is None:
        pen.rectangle((left, top, left + size - 1, top + size - 1), fill=_NO_IMAGE)
        _write_line(pen, "not readable", (left + _GAP, top + size // 2), size, _FAINT)
    else:
        image = Image.open(io.BytesIO(data))
        image.thumbnail((size, size))
        grid.paste(image, (left + (size - image.width) // 2, top + (size - image.height) // 2))
    lines = [(each.name, _FAINT), (each.decided, _INK)]
    if each.given:
        lines.append((f"given: {each.given}", _WRONG))
    for number, (text, colour) in enumerate(lines):
        _write_line(pen, text, (left, top + size + number * _LEADING), size, colour)


def _write_line(
    pen: ImageDraw.ImageDraw,
    text: str,
    corner: tuple[int, int],
    width: int,
    colour: tuple[int, int, int],
) -> None:
    """Write a line; its middle is left out where it is too long."""
    text = " ".join(text.split())
    font = _find_font(text)
    cut, kept = text, len(text)
    while kept > 2 and font.getlength(cut) > width:
        kept -= 1
        ahead = -(-kept // 2)
        cut = f"{text[:ahead]}…{text[len(text) - (kept - ahead) :]}"
    # On one base line: fonts of several scripts differ in what lies above their letters.
    pen.text((corner[0], corner[1] + _LEADING - 3), cut, fill=colour, font=font, anchor="ls")


def _find_font(text: str) -> _Font:
    """Return the first font with all signs of a text, or Pillow's own if none has them."""
    fonts = _load_fonts()
    return next((font for font in fonts if _has_signs(font, text)), fonts[0])


@functools.cache
def _load_fonts() -> tuple[_Font, ...]:
    found: list[_Font] = [ImageFont.load_default(_FONT_SIZE)]
    for name in _FONTS:
        try:
            found.append(ImageFont.truetype(name, _FONT_SIZE))
        except OSError:
            continue
    return tuple(found)


def _has_signs(font: _Font, text: str) -> bool:
    """Return True if no sign of a text is drawn as a missing one."""
    missing = bytes(font.getmask(_UNKNOWN))
    return all(sign.isspace() or bytes(font.getmask(sign)) != missing for sign in set(text))
