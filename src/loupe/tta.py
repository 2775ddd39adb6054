"""Views: the fixed transforms averaged at prediction, as data.

A view is a name, and the axes it reverses; numpy and torch both flip by axes.
It must not call a network or average anything: the mean over views is taken
where probabilities are made.

Shapes: B batch, H height, W width, C channels.
"""

from __future__ import annotations

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
