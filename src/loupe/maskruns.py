"""Runs of pixels: where a mask starts and stops, and its pixels again.

Owns the two ways from pixels to runs and back that are fast on full-size masks. It
must not know how runs are spelled (that is `masks` and `cocomasks`).

Shapes: H height, W width, R runs.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from loupe.errors import MaskError

Bool = NDArray[np.bool_]
Runs = NDArray[np.int64]
"""(R, 2): the first pixel of each run, counted from 0, and the pixel after its last."""
Order = Literal["columns", "rows"]
"""How pixels are numbered: down each column first, or along each row."""

_MANY_EDGES = 40
"""With an edge in fewer pixels than this, edges are looked up one by one."""
_BITS = 64


def find_runs(mask: Bool, order: Order = "columns") -> Runs:
    """Find the runs of True pixels.

    Args:
        mask: True where the class is.
        order: How pixels are numbered.

    Shape:
        mask: (H, W) bool, laid out by rows or by columns; both are fast.

    Returns:
        The runs in order; none touches the next.

    Raises:
        MaskError: mask is not 2-D, or its dtype is not bool.
    """
    check_mask(mask)
    across = mask.T if order == "columns" else mask
    if not across.size:
        return np.zeros((0, 2), np.int64)
    if across.flags.c_contiguous:
        return _find_flat(across.reshape(-1))
    # Where the image lies across the order, it is compared as it lies: no copy turns it.
    lying = across.T
    high, wide = lying.shape
    steps = np.empty((high, wide), np.bool_)
    np.not_equal(lying[1:], lying[:-1], out=steps[1:])
    # Behind the end of a column follows the next one's start.
    before = np.append(np.zeros(1, np.bool_), lying[-1, :-1])
    np.not_equal(lying[0], before, out=steps[0])
    if np.count_nonzero(steps) * _MANY_EDGES > steps.size:
        return _find_flat(np.ascontiguousarray(across).reshape(-1))
    places = _find_true(steps.reshape(-1))
    row = places // wide
    places = (places - row * wide) * high + row
    # Half as wide numbers are sorted twice as fast.
    small = mask.size < 2**32
    return _pair(np.sort(places.astype(np.uint32) if small else places).astype(np.int64), mask.size)


def fill_runs(runs: Runs, height: int, width: int, order: Order = "columns") -> Bool:
    """Paint runs into a mask.

    Args:
        runs: In order, without overlap, within the image.
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        order: How pixels are numbered.

    Shape:
        Returns: (H, W) bool, laid out in that order.
    """
    pixels = height * width
    if runs.size * _MANY_EDGES > pixels:
        flat = _fill_dense(runs, pixels)
    else:
        # Lengths of the stretches outside and inside, in turn.
        edges = np.concatenate([[0], runs.ravel(), [pixels]])
        inside = np.arange(len(edges) - 1) % 2 == 1
        flat = np.repeat(inside, np.diff(edges))
    return flat.reshape(width, height).T if order == "columns" else flat.reshape(height, width)


def join_runs(runs: Runs) -> Runs:
    """Join runs that overlap or touch.

    Args:
        runs: In any order, none empty.

    Returns:
        What any of them covers, in order; none touches the next.
    """
    if not len(runs):
        return runs
    runs = runs[np.argsort(runs[:, 0], kind="stable")]
    reach = np.maximum.accumulate(runs[:, 1])
    first = np.flatnonzero(np.concatenate([[True], runs[1:, 0] > reach[:-1]]))
    last = np.concatenate([first[1:] - 1, [len(runs) - 1]])
    return np.stack([runs[first, 0], reach[last]], axis=1)


def check_mask(mask: Bool) -> None:
    """Refuse what is no mask.

    Args:
        mask: What ought to be one.

    Raises:
        MaskError: mask is not 2-D, or its dtype is not bool.
    """
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise MaskError(
            f"mask of shape {mask.shape} and dtype {mask.dtype}; expected (height, width) of bool, "
            "True where the class is."
        )


def _find_flat(flat: Bool) -> Runs:
    steps = np.empty(len(flat), np.bool_)
    steps[0] = flat[0]
    np.not_equal(flat[1:], flat[:-1], out=steps[1:])
    return _pair(_find_true(steps), len(flat))


def _find_true(steps: Bool) -> NDArray[np.int64]:
    """Return the places of the True values; fast where there are few."""
    whole = len(steps) // 8 * 8
    words = steps[:whole].view(np.uint64)
    filled = np.flatnonzero(words != 0)
    if len(filled) * 8 > len(words):
        return np.flatnonzero(steps)
    word, letter = np.divmod(np.flatnonzero(words[filled].view(np.bool_)), 8)
    places = filled[word] * 8 + letter
    return np.concatenate([places, np.flatnonzero(steps[whole:]) + whole])


def _pair(edges: NDArray[np.int64], pixels: int) -> Runs:
    """Pair the pixels where something starts and stops; the last may run to the end."""
    if len(edges) % 2:
        edges = np.append(edges, pixels)
    return edges.reshape(-1, 2)


def _fill_dense(runs: Runs, pixels: int) -> Bool:
    """Paint many short runs: a pixel is inside if an odd count of edges lies before it."""
    edges = np.zeros((pixels // _BITS + 1) * _BITS, np.bool_)
    edges[runs.ravel()] = True
    # Touching runs share an edge, which is none.
    touching = runs[1:, 0][runs[1:, 0] == runs[:-1, 1]]
    edges[touching] = False
    words = np.packbits(edges, bitorder="little").view("<u8")
    for bits in (1, 2, 4, 8, 16, 32):
        words ^= words << np.uint64(bits)
    odd = np.bitwise_xor.accumulate(words >> np.uint64(_BITS - 1))
    words[1:] ^= np.uint64(0) - odd[:-1]
    return np.unpackbits(words.view(np.uint8), count=pixels, bitorder="little").view(np.bool_)
