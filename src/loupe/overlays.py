"""Overlays: predicted and true masks drawn on their images, alone and as a sheet.

Owns the colours of classes and the layout of the sheet. It must not read files, make
masks or choose what is shown.

Shapes: H, W height and width, C channels (1 or 3), K classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from loupe.errors import InputError
from loupe.files import replacing

Bool = NDArray[np.bool_]
UInt8 = NDArray[np.uint8]
Colour = tuple[int, int, int]
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

COLOURS: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (204, 121, 167),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
)
"""Orange, sky blue, green, purple, yellow, blue, vermilion: told apart by colour-blind
people too. One for each class; from the eighth class on they come again.

Source: Okabe & Ito (2008), "Color Universal Design"; their black is left out.
"""
WIDTH = 320
"""Width of a drawn image in pixels."""
_SIDE = 256
"""Side of a square with as many pixels as an image on a sheet has."""
_LINE = 2
"""Thickness of the line around true masks, in pixels of the drawn image."""
_GAP = 8
_FONT_SIZE, _LEADING, _SWATCH = 12, 15, 12
_PAPER, _INK, _GREY = (255, 255, 255), (0, 0, 0), 128
_LEGEND = "filled: predicted; line: true"


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One image of a sheet.

    Attributes:
        image: (H, W, C) uint8.
        predicted: (H, W, K) masks to fill, or None.
        truth: (H, W, K) masks to draw a line around, or None.
        caption: What stands below.
    """

    image: UInt8
    predicted: Bool | None = None
    truth: Bool | None = None
    caption: str = ""


class _Cell(NamedTuple):
    """A panel as it is drawn.

    Attributes:
        pixels: (height, width, 3).
        lines: Of the caption.
    """

    pixels: UInt8
    lines: list[str]


def draw_overlay(
    image: UInt8, predicted: Bool | None, truth: Bool | None, *, width: int = WIDTH
) -> UInt8:
    """Draw masks on an image: the predicted ones filled, the true ones as a line around.

    Each class has its colour of `COLOURS`; where several are predicted their colours are
    mixed, half of what is seen being the image. The line lies outside of the true mask,
    and inside where the mask meets the border of the image, so that it hides little.
    A mask that is shrunk covers every pixel that it touches: thin cracks stay visible, and
    look wider than they are.

    Args:
        image: Pixels as they are shown, grey or RGB.
        predicted: Masks to fill; None for none.
        truth: Masks to draw a line around; None for none.
        width: Of the drawing in pixels; its height follows from the image.

    Shape:
        image: (H, W, C). predicted, truth: (H, W, K). Returns (height, width, 3).

    Raises:
        InputError: the image is not uint8 with 1 or 3 channels, a mask is not bool or of
            another size, both masks differ in classes, or the width is below 1.

    Examples:
        >>> image = np.zeros((1, 3, 1), np.uint8)
        >>> filled = np.array([[[True], [False], [False]]])
        >>> draw_overlay(image, filled, None, width=3).tolist()
        [[[115, 80, 0], [0, 0, 0], [0, 0, 0]]]
    """
    _check(image, predicted, truth, width)
    size = (max(1, round(image.shape[0] * width / image.shape[1])), width)
    drawn = _resize(image, size).astype(np.float32)
    if predicted is not None and predicted.any():
        cover = _pool(predicted, size).astype(np.float32)
        number = cover.sum(axis=2, keepdims=True)
        mixed = cover @ _list_colours(cover.shape[2]) / np.maximum(number, 1)
        drawn = np.where(number > 0, (drawn + mixed) / 2, drawn)
    if truth is not None and truth.any():
        pooled = _pool(truth, size)
        for k, colour in enumerate(_list_colours(truth.shape[2])):
            drawn[_outline(pooled[..., k])] = colour
    # Halves go up, so that one value has one result on every machine.
    return np.asarray(np.floor(drawn + 0.5), np.uint8)


def save_sheet(
    path: Path,
    panels: Iterable[Panel],
    classes: Sequence[str],
    *,
    columns: int,
    width: int | None = None,
) -> None:
    """Save images with their masks as one PNG: a legend, then the images row by row.

    Captions are wrapped at the width of the image, and never cut. The font has Latin
    letters only; others show as boxes.

    Args:
        path: A PNG file; written whole or not at all.
        panels: At least one; each is drawn as it comes, and not kept.
        classes: (K,) names.
        columns: Images in a row, at least 1; fewer panels make fewer columns.
        width: Of each image in pixels; None makes wide images wider, as the first one is: a
            strip of 256 x 1600 gets 640 pixels, a square 256.

    Raises:
        InputError: there are no panels, masks have another number of classes, `columns` is
            below 1, or `draw_overlay` refuses.
    """
    font = ImageFont.load_default(_FONT_SIZE)
    cells = _draw_cells(panels, len(classes), width, font)
    if not cells or columns < 1:
        raise InputError(
            f"{len(cells)} images in {columns} columns; expected at least one of each."
        )
    columns, wide = min(columns, len(cells)), cells[0].pixels.shape[1]
    heights = [len(cell.pixels) + _LEADING * len(cell.lines) for cell in cells]
    rows = [max(heights[at : at + columns]) for at in range(0, len(cells), columns)]
    across = columns * (wide + _GAP) + _GAP
    legend = _draw_legend(classes, across - 2 * _GAP, font)
    high = legend.height + 2 * _GAP + sum(row + _GAP for row in rows)
    sheet = Image.new("RGB", (across, high), _PAPER)
    sheet.paste(legend, (_GAP, _GAP))
    pen = ImageDraw.Draw(sheet)
    for place, (pixels, lines) in enumerate(cells):
        left = _GAP + place % columns * (wide + _GAP)
        top = legend.height + 2 * _GAP + sum(row + _GAP for row in rows[: place // columns])
        sheet.paste(Image.fromarray(pixels), (left, top))
        for number, line in enumerate(lines):
            pen.text((left, top + len(pixels) + number * _LEADING), line, fill=_INK, font=font)
    with replacing(path) as temporary:
        sheet.save(temporary, format="PNG")


def _check(image: UInt8, predicted: Bool | None, truth: Bool | None, width: int) -> None:
    wrong = []
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in {1, 3} or not image.size:
        wrong.append(
            f"an image of shape {image.shape} and dtype {image.dtype}, expected (H, W, 1) or "
            "(H, W, 3) of uint8"
        )
    masks = {"predicted": predicted, "true": truth}
    known = {name: mask for name, mask in masks.items() if mask is not None}
    for name, mask in known.items():
        if mask.dtype != np.bool_ or mask.ndim != 3 or mask.shape[:2] != image.shape[:2]:
            wrong.append(
                f"{name} masks of shape {mask.shape} and dtype {mask.dtype}, expected "
                f"({', '.join(map(str, image.shape[:2]))}, classes) of bool"
            )
    if len({mask.shape[-1] for mask in known.values()}) > 1:
        wrong.append("predicted and true masks of another number of classes")
    if width < 1:
        wrong.append(f"a width of {width}, expected 1 or more")
    if wrong:
        raise InputError(f"nothing can be drawn: {'; '.join(wrong)}.")


def _draw_cells(
    panels: Iterable[Panel], classes: int, width: int | None, font: _Font
) -> list[_Cell]:
    """Draw all images at one width, and break their captions at it."""
    cells, wrong = [], []
    for number, panel in enumerate(panels):
        if width is None:
            height, wide = panel.image.shape[:2]
            width = max(1, round(_SIDE * math.sqrt(wide / height)))
        masks = (mask for mask in (panel.predicted, panel.truth) if mask is not None)
        if any(mask.shape[-1] != classes for mask in masks):
            wrong.append(number)
            continue
        drawn = draw_overlay(panel.image, panel.predicted, panel.truth, width=width)
        cells.append(_Cell(drawn, _wrap(panel.caption, width, font)))
    if wrong:
        raise InputError(
            f"the masks of {len(wrong)} image(s), the first number {wrong[0]}, have another "
            f"number of classes; expected {classes}, one for each class of the sheet."
        )
    return cells


def _list_colours(count: int) -> NDArray[np.float32]:
    """Return the colours of the classes, (K, 3)."""
    return np.array([COLOURS[k % len(COLOURS)] for k in range(count)], np.float32)


def _resize(image: UInt8, size: tuple[int, int]) -> UInt8:
    """Return RGB of another size: by area if it shrinks, in squares of pixels if it grows."""
    pixels = np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))
    if size[1] > image.shape[1]:
        rows, columns = (_find_middles(*pair) for pair in zip(image.shape, size, strict=False))
        return pixels[rows][:, columns]
    return np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BOX), np.uint8)


def _pool(masks: Bool, size: tuple[int, int]) -> Bool:
    """Return masks of another size, (height, width, K): the maximum over what is joined."""
    for axis, (old, new) in enumerate(zip(masks.shape[:2], size, strict=True)):
        if new < old:
            masks = np.logical_or.reduceat(masks, np.arange(new) * old // new, axis=axis)
        else:
            masks = masks.take(_find_middles(old, new), axis=axis)
    return masks


def _find_middles(old: int, new: int) -> NDArray[np.intp]:
    """Return which old pixel lies under the middle of each new one, (new,)."""
    return (2 * np.arange(new) + 1) * old // (2 * new)


def _outline(mask: Bool) -> Bool:
    """Return the line around a mask, inside of it where it meets the border of the image."""
    grown = Image.fromarray(mask.astype(np.uint8)).filter(ImageFilter.MaxFilter(2 * _LINE + 1))
    border = np.ones(mask.shape, np.bool_)
    border[_LINE:-_LINE, _LINE:-_LINE] = False
    return np.asarray((np.asarray(grown) > 0) & (border | ~mask), np.bool_)


def _draw_legend(classes: Sequence[str], width: int, font: _Font) -> Image.Image:
    """Return the colours of the classes, and what fill and line mean, wrapped at a width."""
    spots, left, top = [], 0, 0
    for number, text in enumerate((*classes, _LEGEND)):
        swatch = _SWATCH + _GAP // 2 if number < len(classes) else 0
        wide = swatch + math.ceil(font.getlength(text))
        if left and left + wide > width:
            left, top = 0, top + _LEADING
        spots.append((left, top, swatch, text))
        left += wide + 2 * _GAP
    legend = Image.new("RGB", (width, top + _LEADING), _PAPER)
    pen = ImageDraw.Draw(legend)
    for number, (x, y, swatch, text) in enumerate(spots):
        if swatch:
            legend.paste(Image.fromarray(_draw_swatch(number)), (x, y + 1))
        pen.text((x + swatch, y), text, fill=_INK, font=font)
    return legend


def _draw_swatch(number: int) -> UInt8:
    """Return a square of grey with the fill and the line of a class."""
    here = np.zeros((_SWATCH, _SWATCH, number + 1), np.bool_)
    here[..., number] = True
    grey = np.full((_SWATCH, _SWATCH, 1), _GREY, np.uint8)
    return draw_overlay(grey, here, here, width=_SWATCH)


def _wrap(text: str, width: int, font: _Font) -> list[str]:
    """Break a text into lines that fit; a word that does not is broken as well."""
    lines: list[str] = []
    for word in text.split():
        rest = word
        if lines and font.getlength(f"{lines[-1]} {rest}") <= width:
            lines[-1] += f" {rest}"
            continue
        while rest:
            fitting = len(rest)
            while fitting > 1 and font.getlength(rest[:fitting]) > width:
                fitting -= 1
            lines.append(rest[:fitting])
            rest = rest[fitting:]
    return lines
