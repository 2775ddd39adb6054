"""Views: the fixed transforms and crops averaged at prediction, as data.

A view is a name, and the axes it reverses; numpy and torch both flip by axes. A
scan is a grid of crops that covers the image. It must not call a network or average
anything: the mean over views is taken where probabilities are made.

Shapes: B batch, H height, W width, C channels.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

from loupe.errors import InputError

ViewName = Literal["identity", "hflip", "vflip", "rot180"]
VIEWS: tuple[ViewName, ...] = get_args(ViewName)
"""All views, in the order in which `--tta N` takes them."""

_AXES: dict[ViewName, tuple[int, ...]] = {
    "identity": (),
    "hflip": (2,),
    "vflip": (1,),
    "rot180": (1, 2),
}


def first_views(count: int) -> tuple[ViewName, ...]:
    """Return the first `count` views: the image itself, then its mirror image.

    Args:
        count: How many views, 1 to 4.

    Raises:
        InputError: there are not so many views.

    Examples:
        >>> first_views(2)
        ('identity', 'hflip')
    """
    if not 1 <= count <= len(VIEWS):
        raise InputError(f"--tta {count}: expected 1 to {len(VIEWS)} views ({', '.join(VIEWS)}).")
    return VIEWS[:count]


def flipped_axes(view: ViewName) -> tuple[int, ...]:
    """Return the axes of a (B, H, W, C) batch that a view reverses.

    Every view is its own inverse, so the same axes bring masks back.

    Args:
        view: One of `VIEWS`.

    Examples:
        >>> flipped_axes("rot180")
        (1, 2)
    """
    return _AXES[view]


def place_crops(height: int, width: int, crop: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """Place the smallest grid of equally spaced crops that covers an image.

    Along each axis there are ceil(size / crop) crops; crop i of n starts at
    i (size - crop) / (n - 1), rounded, so the first and the last lie at the edges.

    Args:
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        crop: Height and width of a crop, in pixels.

    Returns:
        (top, left) of each crop, row by row.

    Raises:
        InputError: the crop is empty or larger than the image.

    Examples:
        >>> place_crops(600, 800, (512, 512))
        ((0, 0), (0, 288), (88, 0), (88, 288))
    """
    if not (1 <= crop[0] <= height and 1 <= crop[1] <= width):
        raise InputError(
            f"a crop of {crop[0]} x {crop[1]} pixels (height x width) does not fit into an image "
            f"of {height} x {width}; expected 1 x 1 up to its size."
        )
    tops, lefts = _place_along(height, crop[0]), _place_along(width, crop[1])
    return tuple((top, left) for top in tops for left in lefts)


def _place_along(size: int, crop: int) -> list[int]:
    count = math.ceil(size / crop)
    return [round(i * (size - crop) / max(1, count - 1)) for i in range(count)]
