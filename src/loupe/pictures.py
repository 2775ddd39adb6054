"""Pictures: a batch of training images as one PNG, to be looked at.

Owns the layout of the grid and its captions. It must not prepare or augment images:
it shows what the network is given.

Shapes: B batch, H height, W width, C channels (1 or 3), K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from loupe.errors import InputError
from loupe.files import replacing

_SMALLEST, _LARGEST = 128, 256
"""Bounds of the longer side of a shown image, in pixels."""
_GAP = 8
_FONT_SIZE, _LINE, _LINES = 12, 15, 3
_PAPER, _INK = (255, 255, 255), (0, 0, 0)
_ELLIPSIS = "…"
_SHOWN = 0.005
"""Targets up to this would be written as 0.00."""

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def caption(targets: NDArray[np.floating], classes: Sequence[str]) -> str:
    """Write the targets of one row, the largest first; what rounds to 0.00 is left out.

    Args:
        targets: In [0, 1].
        classes: Names of the targets.

    Shape:
        targets: (K,).

    Raises:
        InputError: targets and names are not as many.

    Examples:
        >>> caption(np.array([0.37, 0.0, 0.63]), ["sound", "blur", "crack"])
        'crack 0.63 sound 0.37'
        >>> caption(np.zeros(2), ["crack", "spall"])
        'none'
    """
    if targets.shape != (len(classes),):
        raise InputError(
            f"targets have shape {targets.shape}; expected ({len(classes)},), one for each class."
        )
    order = np.argsort(-targets, kind="stable")
    shown = [f"{classes[k]} {targets[k]:.2f}" for k in order if targets[k] > _SHOWN]
    return " ".join(shown) or "none"


def save_batch(
    path: Path, images: NDArray[Any], captions: Sequence[str], *, most: int = 16
) -> None:
    """Save the first images of a batch as a grid, with a caption under each.

    Images keep their shape. Those whose longer side has fewer than 128 pixels are
    enlarged by a whole factor, pixels staying square; those above 256 are shrunk.
    Captions are wrapped at the image's width, to at most three lines; an ellipsis
    marks what was cut. The font has Latin letters only; others show as boxes.

    Args:
        path: A PNG file; written whole or not at all.
        images: As the network is given them, 0 to 255, before normalisation.
        captions: A text for each image, see `caption`.
        most: How many images are shown at most; at least 1.

    Shape:
        images: (B, H, W, C) uint8 or floating, C is 1 or 3.

    Raises:
        InputError: there are no images, their shape or dtype is another, captions are
            not as many, or `most` is below 1.
    """
    _check(images, captions, most)
    font = ImageFont.load_default(_FONT_SIZE)
    shown = [_picture(image) for image in images[:most]]
    width = max(shown[0].width, _SMALLEST)
    texts = [_wrap(text, width, font) for text in captions[:most]]
    height = shown[0].height + _LINE * max(len(lines) for lines in texts)
    columns = math.ceil(math.sqrt(len(shown)))
    rows = math.ceil(len(shown) / columns)
    size = (columns * (width + _GAP) + _GAP, rows * (height + _GAP) + _GAP)
    sheet = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(sheet)
    for place, (picture, lines) in enumerate(zip(shown, texts, strict=True)):
        left = _GAP + place % columns * (width + _GAP)
        top = _GAP + place // columns * (height + _GAP)
        sheet.paste(picture, (left, top))
        for number, line in enumerate(lines):
            pen.text((left, top + picture.height + number * _LINE), line, fill=_INK, font=font)
    with replacing(path) as temporary:
        sheet.save(temporary, format="PNG")


def _check(images: NDArray[Any], captions: Sequence[str], most: int) -> None:
    number = images.dtype == np.uint8 or np.issubdtype(images.dtype, np.floating)
    shape = images.ndim == 4 and images.shape[3] in {1, 3} and 0 not in images.shape
    if not number or not shape:
        raise InputError(
            f"images of shape {images.shape} and dtype {images.dtype}; expected (B, H, W, 1) or "
            "(B, H, W, 3) of uint8 or floats from 0 to 255, at least one image."
        )
    if len(captions) != len(images):
        raise InputError(f"{len(captions)} captions for {len(images)} images; expected one each.")
    if most < 1:
        raise InputError(f"most is {most}; expected at least 1 image to show.")


def _picture(image: NDArray[Any]) -> Image.Image:
    """Turn one image into RGB of a size that can be looked at."""
    if image.dtype != np.uint8:
        # A diverged or wrong input is shown, too: NaN black, the rest clipped.
        image = np.nan_to_num(image, nan=0, posinf=255, neginf=0).clip(0, 255).round()
    pixels = np.broadcast_to(image.astype(np.uint8), (*image.shape[:2], 3))
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    longer = max(picture.size)
    if longer < _SMALLEST:
        factor = math.ceil(_SMALLEST / longer)
        size = (picture.width * factor, picture.height * factor)
        return picture.resize(size, Image.Resampling.NEAREST)
    if longer > _LARGEST:
        width, height = (max(1, round(side * _LARGEST / longer)) for side in picture.size)
        return picture.resize((width, height), Image.Resampling.BOX)
    return picture


def _wrap(text: str, width: int, font: _Font) -> list[str]:
    """Break a text into at most three lines; what does not fit ends in an ellipsis."""
    lines: list[str] = []
    words = text.split()
    while words and len(lines) < _LINES:
        fitting = _count_fitting(words, width, font)
        last = len(lines) == _LINES - 1 and fitting < len(words)
        line = " ".join(words if last else words[: max(1, fitting)])
        lines.append(_shorten(line, width, font, cut=last))
        words = words[max(1, fitting) :]
    return lines


def _count_fitting(words: Sequence[str], width: int, font: _Font) -> int:
    """Count the words that fit on one line."""
    count = 0
    while count < len(words) and font.getlength(" ".join(words[: count + 1])) <= width:
        count += 1
    return count


def _shorten(line: str, width: int, font: _Font, *, cut: bool) -> str:
    """Cut a line to the width, if it has to be."""
    if not cut and font.getlength(line) <= width:
        return line
    line = line[:width]  # no letter is narrower than a pixel
    while line and font.getlength(line + _ELLIPSIS) > width:
        line = line[:-1]
    return line.rstrip() + _ELLIPSIS
