"""Large images in overlapping tiles: where each is cut, and how predictions are joined.

Owns the places of the tiles and the weights with which their predictions meet. It
must not predict, open images or know networks: whatever maps a tile to planes of
numbers can be used with it.

Shapes: H, W the image's height and width; h, w those of a tile; C planes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loupe.errors import InputError, shorten
from loupe.tta import place_crops

Float32 = NDArray[np.float32]
_Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A rectangle of an image, in pixels.

    Attributes:
        top: First row.
        left: First column.
        height: Rows.
        width: Columns.
    """

    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns: `image[window.slices]`, or `planes[..., *window.slices]`."""
        rows = slice(self.top, self.top + self.height)
        return rows, slice(self.left, self.left + self.width)


def cut_tiles(
    size: tuple[int, int], tile: tuple[int, int], overlap: int | tuple[int, int] = 0
) -> tuple[Window, ...]:
    """Place the smallest grid of equally spaced tiles that covers an image.

    All tiles have one size; the first and the last of a row or column lie at the
    edges, so that nothing is padded. Neighbours share at least `overlap` pixels. Along
    an axis where the image is smaller than a tile, the tile is as large as the image.

    Args:
        size: Height and width of the image.
        tile: Height and width of a tile.
        overlap: Pixels that neighbours share at least, along both axes or each; below
            the tile's size along an axis with more than one tile.

    Returns:
        The tiles, row by row.

    Raises:
        InputError: the image or the tile is empty, or the overlap is negative or not
            below the tile's size.

    Examples:
        >>> [(tile.top, tile.left) for tile in cut_tiles((256, 1600), (256, 512), 64)]
        [(0, 0), (0, 363), (0, 725), (0, 1088)]
    """
    shared = (overlap, overlap) if isinstance(overlap, int) else overlap
    axes = tuple(zip(size, tile, shared, strict=True))
    if any(
        min(full, side, both + 1) < 1 or side <= min(both, full - 1) for full, side, both in axes
    ):
        raise InputError(
            f"tiles of {_spell(tile)} pixels (height x width) with an overlap of {_spell(shared)} "
            f"in an image of {_spell(size)}: expected sizes of 1 and more, and an overlap from 0 "
            "to below the tile's size."
        )
    height, width = (min(full, side) for full, side, _ in axes)
    # Less the pixels that neighbours share, tiles lie side by side at the same places.
    down, right = (both if side < full else 0 for full, side, both in axes)
    places = place_crops(size[0] - down, size[1] - right, (height - down, width - right))
    return tuple(Window(top=top, left=left, height=height, width=width) for top, left in places)


def blend_tiles(
    parts: Iterable[Float32], tiles: Iterable[Window], size: tuple[int, int]
) -> Float32:
    """Join the predictions of overlapping tiles into planes of the whole image.

    Each pixel is the weighted mean of the tiles that cover it. A tile's weight falls
    linearly from its middle towards its edges, where a network sees little around a
    pixel, but is never 0; the weights of a pixel are divided by their sum. So two tiles
    that share up to half of their width pass linearly into each other, a pixel that
    one tile alone covers is as that tile has it, and where all tiles agree their value
    comes back to the last bit.

    Args:
        parts: Predictions of the tiles in the same order: probabilities, or logits;
            one at a time is held in memory.
        tiles: From `cut_tiles`, or any that cover the image.
        size: Height and width of the image.

    Shape:
        parts: (..., h, w) each, with the same leading axes. Returns: (..., H, W).

    Raises:
        InputError: a prediction does not have the size of its tile, or there are not
            as many as tiles; tiles leave the image or do not cover it.

    Examples:
        >>> left, right = np.zeros((1, 5), np.float32), np.ones((1, 5), np.float32)
        >>> blend_tiles([left, right], cut_tiles((1, 7), (1, 5), 3), (1, 7)).round(2).tolist()
        [[0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0]]
    """
    held, given = tuple(tiles), iter(parts)
    _check_cover(held, size)
    weights = {window: _weigh(window) for window in held}
    total: _Float64 | None = None
    for place, window in enumerate(held):
        part = next(given, None)
        if part is None:
            raise InputError(f"{place} predictions for {len(held)} tiles; expected one for each.")
        if total is None:
            total = np.zeros((*part.shape[:-2], *size))
        _check_part(part, window, total.shape[:-2], place)
        total[..., *window.slices] += part * weights[window]
    if total is None or next(given, None) is not None:
        raise InputError(f"more predictions than the {len(held)} tiles; expected one for each.")
    sums = np.zeros(size)
    for window in held:
        sums[window.slices] += weights[window]
    total /= sums
    return total.astype(np.float32)


def _weigh(window: Window) -> _Float64:
    """Return a pyramid of whole numbers: their sums are exact."""
    rows, columns = (
        np.minimum(np.arange(1, side + 1), np.arange(side, 0, -1))
        for side in (window.height, window.width)
    )
    return np.multiply.outer(rows, columns).astype(np.float64)


def _check_cover(tiles: tuple[Window, ...], size: tuple[int, int]) -> None:
    count = np.zeros(size, np.int32)
    for window in tiles:
        low, high = min(window.top, window.left), min(window.height, window.width)
        bottom, right = window.top + window.height, window.left + window.width
        if low < 0 or high < 1 or bottom > size[0] or right > size[1]:
            raise InputError(
                f"tile {window} does not lie inside the image of {_spell(size)} (height x width)."
            )
        count[window.slices] += 1
    bare = np.argwhere(count == 0)
    if len(bare):
        found = shorten([tuple(pixel) for pixel in bare[:4].tolist()])
        raise InputError(
            f"{len(bare)} pixels of the image of {_spell(size)} lie in none of the {len(tiles)} "
            f"tiles, first (row, column) {found}. Expected tiles that cover it, as `cut_tiles` "
            "gives them."
        )


def _check_part(part: Float32, window: Window, leading: tuple[int, ...], place: int) -> None:
    expected = (*leading, window.height, window.width)
    if part.shape != expected:
        raise InputError(
            f"the prediction of tile {place} has the shape {part.shape}; expected {expected}."
        )


def _spell(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
