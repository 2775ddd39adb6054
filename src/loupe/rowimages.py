"""Row images: the image of a row as a web page shows it, with its masks drawn on it.

Owns the sizes and forms in which images are sent, and keeps some of them. It must not know
issues, or write files.

Shapes: H, W height and width.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from loupe.decoding import UInt8, read_image
from loupe.errors import LoupeError
from loupe.masks import decode_rle
from loupe.overlays import draw_overlay
from loupe.table import Table

Size = Literal["thumb", "page", "full"]
SIDES: dict[Size, int] = {"thumb": 256, "page": 1600, "full": 8192}
"""Longest side of what is sent, in pixels; `full` is for looking closely."""
CRISP_SIDE = 96
"""Images up to this many pixels are enlarged without smoothing: each pixel counts."""
_LOSSLESS_SIDE = 512  # up to here a PNG is small, and its pixels are those of the file
_QUALITY = 92
_DRAWN_SIDE = 800  # smaller images are enlarged before a line is drawn, or it hides the mask
_KEPT_BYTES = 96 << 20
_DECODERS = 2  # large images at a time: each may take half a gigabyte


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An image ready to be sent.

    Attributes:
        data: The bytes of a PNG or JPEG.
        media: Its type, as HTTP names it.
        height: Of the whole image, in pixels of its file.
        width: The same.
        note: What could not be drawn; "" if nothing.
    """

    data: bytes
    media: str
    height: int
    width: int
    note: str = ""


class RowImages:
    """Images of the rows of a table; the latest are kept in memory.

    Args:
        table: Its images and masks.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._kept: OrderedDict[tuple[int, Size, str | None], Picture] = OrderedDict()
        self._lock = threading.Lock()
        self._room = threading.BoundedSemaphore(_DECODERS)

    def draw(self, row: int, size: Size, mask: str | None = None) -> Picture:
        """Return the image of a row.

        Args:
            row: Its place in the table.
            size: The longest side, see `SIDES`; smaller images are sent as they are.
            mask: Draw a line around the given mask of this class, or of all classes if "".

        Raises:
            ImageError: the file is missing or damaged.
        """
        key = (row, size, mask)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        with self._room:
            picture = self._make(row, SIDES[size], mask)
        with self._lock:
            self._kept[key] = picture
            while len(self._kept) > 1 and self._measure() > _KEPT_BYTES:
                self._kept.popitem(last=False)
        return picture

    def has_mask(self, row: int, mask: str) -> bool:
        """Return True if a row has a mask of a class, or of any class if "".

        Args:
            row: Its place in the table.
            mask: A class, or "".
        """
        return any(self._texts(row, mask))

    def _texts(self, row: int, mask: str) -> tuple[str, ...]:
        """Return the run-length texts to draw."""
        masks, classes = self._table.masks, self._table.classes
        if masks is None:
            return ()
        return (masks[row][classes.index(mask)],) if mask in classes else masks[row]

    def _measure(self) -> int:
        return sum(len(picture.data) for picture in self._kept.values())

    def _make(self, row: int, side: int, mask: str | None) -> Picture:
        pixels = read_image(self._table.images[row])
        height, width = pixels.shape[:2]
        scale = min(1.0, side / max(height, width))
        wide, high = max(1, round(width * scale)), max(1, round(height * scale))
        note = ""
        if mask is not None and self.has_mask(row, mask):
            try:
                grown = 1 if side < _DRAWN_SIDE else max(1, _DRAWN_SIDE // max(height, width))
                pixels = _outline(pixels, self._texts(row, mask), wide * grown, grown)
                high, wide = pixels.shape[:2]
            except LoupeError as error:
                note = f"Its mask cannot be drawn: {error}"
        image = Image.fromarray(pixels)
        if image.size != (wide, high):
            image = image.resize((wide, high), Image.Resampling.LANCZOS, reducing_gap=2.0)
        out = io.BytesIO()
        if max(image.size) <= _LOSSLESS_SIDE:
            image.save(out, "PNG")
            media = "image/png"
        else:
            image.save(out, "JPEG", quality=_QUALITY, subsampling=0)
            media = "image/jpeg"
        return Picture(data=out.getvalue(), media=media, height=height, width=width, note=note)


def _outline(pixels: UInt8, texts: tuple[str, ...], width: int, grown: int) -> UInt8:
    """Draw a line around masks; what they cover stays visible."""
    size = pixels.shape[:2]
    masks = np.stack([decode_rle(text, *size) for text in texts], axis=2)
    if grown > 1:
        way = Image.Resampling.NEAREST if max(size) <= CRISP_SIDE else Image.Resampling.BICUBIC
        image = Image.fromarray(pixels)
        pixels = np.asarray(image.resize((size[1] * grown, size[0] * grown), way))
        masks = masks.repeat(grown, axis=0).repeat(grown, axis=1)
    return draw_overlay(pixels, None, masks, width=width)
