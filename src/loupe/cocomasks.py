"""COCO's forms of a mask: counts, the string they are packed into, and polygons.

Owns the way from those to pixels and to our run-length text, and back. Both number
pixels down each column first, so no pixel need be touched on the way. It must not
read COCO files (that is `maskimages`).

Counts are lengths of stretches outside and inside the mask in turn; the first is
outside and may be 0. Ours are "start length" pairs that count pixels from 1.

Shapes: H height, W width, P points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loupe.errors import MaskError
from loupe.maskruns import Bool, Runs, fill_runs, find_runs, join_runs
from loupe.masks import MOST_PIXELS, read_runs, spell_runs

Int64 = NDArray[np.int64]

_LOWEST = 48
"""The letter of value 0 in a packed string."""
_MORE = 32
_SIGN = 16
_PAYLOAD = 31
_PAYLOAD_BITS = 5
_MOST_LETTERS = 8
_SCALE = 5
"""Polygons are drawn on a grid so many times finer, as COCO's own tool does."""


def encode_coco(mask: Bool) -> dict[str, Any]:
    """Encode one mask as COCO's compressed run lengths.

    Args:
        mask: True where the class is.

    Shape:
        mask: (H, W) bool.

    Returns:
        ``{"size": [H, W], "counts": string}``, as JSON files hold it.

    Raises:
        MaskError: mask is not 2-D, or its dtype is not bool.

    References:
        COCO API, maskApi.c, ``rleEncode`` and ``rleToString``.

    Examples:
        >>> encode_coco(np.array([[0, 1, 1], [1, 1, 0]], dtype=bool))
        {'size': [2, 3], 'counts': '141'}
    """
    counts = _count_runs(find_runs(mask), mask.size)
    return {"size": list(mask.shape), "counts": pack_counts(counts)}


def decode_coco(segmentation: Mapping[str, Any]) -> Bool:
    """Decode COCO's run lengths, compressed or not, to one mask.

    Args:
        segmentation: ``size`` of height and width, and ``counts``: a string, bytes or
            a list of numbers.

    Shape:
        Returns: (H, W) bool, laid out by columns.

    Raises:
        MaskError: parts are missing, or the counts do not add up to the pixels of
            the image.

    Examples:
        >>> decode_coco({"size": [2, 3], "counts": [1, 4, 1]}).astype(int).tolist()
        [[0, 1, 1], [1, 1, 0]]
    """
    height, width, runs = _read_segmentation(segmentation)
    return fill_runs(runs, height, width)


def encode_counts(mask: Bool) -> list[int]:
    """Encode one mask as COCO's uncompressed counts.

    Args:
        mask: See `encode_coco`.

    Returns:
        Lengths of stretches outside and inside in turn; their sum is H * W.

    Raises:
        MaskError: mask is not 2-D, or its dtype is not bool.

    Examples:
        >>> encode_counts(np.array([[0, 1, 1], [1, 1, 0]], dtype=bool))
        [1, 4, 1]
        >>> encode_counts(np.ones((2, 2), dtype=bool))
        [0, 4]
    """
    return list(map(int, _count_runs(find_runs(mask), mask.size).tolist()))


def decode_counts(counts: Sequence[int], height: int, width: int) -> Bool:
    """Decode COCO's uncompressed counts to one mask.

    Args:
        counts: See `encode_counts`.
        height: Of the image, in pixels.
        width: Of the image, in pixels.

    Raises:
        MaskError: see `decode_coco`.

    Examples:
        >>> decode_counts([0, 1, 3], 2, 2).astype(int).tolist()
        [[1, 0], [0, 0]]
    """
    return decode_coco({"size": [height, width], "counts": list(counts)})


def spell_coco(text: str, height: int, width: int) -> dict[str, Any]:
    """Turn our run-length text into COCO's compressed run lengths.

    Args:
        text: See `masks.encode_rle`.
        height: Of the image, in pixels.
        width: Of the image, in pixels.

    Raises:
        MaskError: the text is not valid, or reaches beyond the image.

    Examples:
        >>> spell_coco("2 4", 2, 3)
        {'size': [2, 3], 'counts': '141'}
    """
    runs = join_runs(read_runs(text))
    if len(runs) and runs[-1, 1] > height * width:
        raise MaskError(
            f"run-length text reaches pixel {runs[-1, 1]}, but an image of {height} x {width} "
            f"pixels (height x width) has {height * width}."
        )
    return {"size": [height, width], "counts": pack_counts(_count_runs(runs, height * width))}


def read_coco_rle(segmentation: Mapping[str, Any]) -> str:
    """Turn COCO's run lengths, compressed or not, into our run-length text.

    Args:
        segmentation: See `decode_coco`.

    Raises:
        MaskError: see `decode_coco`.

    Examples:
        >>> read_coco_rle({"size": [2, 3], "counts": "141"})
        '2 4'
    """
    return spell_runs(_read_segmentation(segmentation)[2])


def pack_counts(counts: Sequence[int] | Int64) -> str:
    """Pack counts into the letters of COCO's compressed form.

    From the fourth count on the difference to the one two before is kept, five
    bits a letter, the lowest first.

    Args:
        counts: See `encode_counts`.

    References:
        COCO API, maskApi.c, ``rleToString``.

    Examples:
        >>> pack_counts([6, 1, 40, 4, 5, 4, 5, 4, 21])
        '61X13mN000`0'
    """
    rest = np.array(counts, np.int64)
    rest[3:] -= np.asarray(counts, np.int64)[1:-2]
    letters = np.zeros((len(rest), _MOST_LETTERS), np.uint8)
    at = np.arange(len(rest))
    for place in range(_MOST_LETTERS):
        low = rest & _PAYLOAD
        rest = rest >> _PAYLOAD_BITS
        more = rest != -(low >= _SIGN).astype(np.int64)
        letters[at, place] = low + _MORE * more + _LOWEST
        at, rest = at[more], rest[more]
        if not len(at):
            break
    else:
        raise MaskError(f"counts up to {max(counts)}; no image has as many pixels.")
    return letters.tobytes().translate(None, b"\0").decode("ascii")


def unpack_counts(text: str | bytes) -> Int64:
    """Unpack the letters of COCO's compressed form into counts.

    Args:
        text: See `pack_counts`.

    Returns:
        (n,) counts; whether they make a mask is not looked at.

    Raises:
        MaskError: there are other letters than "0" to "o", the last number is not
            whole, or one is too long.

    References:
        COCO API, maskApi.c, ``rleFrString``.

    Examples:
        >>> unpack_counts("61X13mN000`0").tolist()
        [6, 1, 40, 4, 5, 4, 5, 4, 21]
    """
    raw = text.encode("ascii", "replace") if isinstance(text, str) else text
    values = np.frombuffer(raw, np.uint8).astype(np.int64) - _LOWEST
    ends = np.flatnonzero((values & _MORE) == 0)
    lengths = np.diff(ends, prepend=-1)
    odd = len(values) and (values.min() < 0 or values.max() > _MORE + _PAYLOAD)
    if odd or (len(values) and (not len(ends) or ends[-1] != len(values) - 1)):
        raise MaskError(
            f"compressed counts {_cite(raw)} are not COCO's: expected letters from '0' to 'o', "
            "the last of them below 'P'."
        )
    if lengths.max(initial=0) > _MOST_LETTERS:
        raise MaskError(f"compressed counts {_cite(raw)} have a number of {lengths.max()} letters.")
    last = values[ends]
    counts = np.where(last & _SIGN, last - _MORE, last)
    for place in range(1, int(lengths.max(initial=0))):
        at = np.flatnonzero(lengths > place)
        counts[at] = (counts[at] << _PAYLOAD_BITS) + (values[ends[at] - place] & _PAYLOAD)
    # Differences to the one two before; the first of all stands alone.
    counts[1::2] = np.cumsum(counts[1::2])
    counts[2::2] = np.cumsum(counts[2::2])
    return counts


def find_polygon(points: Sequence[float], height: int, width: int) -> Runs:
    """Find the runs of a polygon, pixel by pixel as COCO's own tool draws it.

    Args:
        points: x and y in turn, in pixels from the left and upper edge.
        height: Of the image, in pixels.
        width: Of the image, in pixels.

    Returns:
        Runs down the columns, see `maskruns.find_runs`; what lies outside the image
        is cut off.

    Raises:
        MaskError: there are fewer than three points, or one is no number.

    References:
        COCO API, maskApi.c, ``rleFrPoly``.

    Examples:
        >>> spell_runs(find_polygon([1, 1, 3, 1, 3, 3, 1, 3], 4, 4))
        '6 2 10 2'
    """
    # As a cast in C cuts off, towards 0.
    corners = np.trunc(_SCALE * _read_corners(points) + 0.5).astype(np.int64)
    across, down = _walk_outline(corners)
    # Crossings of the middle of a pixel's column.
    step = np.flatnonzero(across[1:] != across[:-1])
    left = np.minimum(across[step], across[step + 1])
    left = np.where(across[step + 1] < across[step], left, across[step + 1] - 1)
    x = (left + 0.5) / _SCALE - 0.5
    y = (np.minimum(down[step], down[step + 1]) + 0.5) / _SCALE - 0.5
    inside = (np.floor(x) == x) & (x >= 0) & (x <= width - 1)
    x, y = x[inside], np.ceil(np.clip(y[inside], 0, height))
    places, times = np.unique((x * height + y).astype(np.int64), return_counts=True)
    edges = places[times % 2 == 1]
    if len(edges) % 2:
        edges = np.append(edges, height * width)
    runs: Runs = edges.reshape(-1, 2)
    return runs


def _walk_outline(corners: Int64) -> tuple[Int64, Int64]:
    """Return the points of a closed outline on the fine grid, edge after edge."""
    across: list[Int64] = []
    down: list[Int64] = []
    for (x0, y0), (x1, y1) in zip(
        corners.tolist(), np.roll(corners, -1, axis=0).tolist(), strict=True
    ):
        dx, dy = abs(x1 - x0), abs(y1 - y0)
        if not dx and not dy:
            continue
        flat = dx >= dy
        turned = x0 > x1 if flat else y0 > y1
        start, stop = ((x1, y1), (x0, y0)) if turned else ((x0, y0), (x1, y1))
        steps = np.arange((dx if flat else dy) + 1)
        if turned:
            steps = steps[::-1]
        slope = (stop[1] - start[1]) / dx if flat else (stop[0] - start[0]) / dy
        other = np.trunc((start[1] if flat else start[0]) + slope * steps + 0.5).astype(np.int64)
        across.append(steps + start[0] if flat else other)
        down.append(other if flat else steps + start[1])
    if not across:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.concatenate(across), np.concatenate(down)


def _read_corners(points: Sequence[float]) -> NDArray[np.float64]:
    try:
        corners = np.array(points, np.float64)
    except (TypeError, ValueError):
        corners = np.zeros(0)
    if corners.ndim != 1 or len(corners) % 2 or len(corners) < 6 or not np.isfinite(corners).all():
        raise MaskError(
            f"a polygon of {len(points)} value(s); expected x and y of three points or more, all "
            "of them numbers."
        )
    return corners.reshape(-1, 2)


def _count_runs(runs: Runs, pixels: int) -> Int64:
    counts = np.diff(np.concatenate([[0], runs.ravel(), [pixels]]))
    # A mask that reaches the last pixel has no stretch behind it.
    return counts[:-1] if len(runs) and not counts[-1] else counts


def _read_segmentation(segmentation: Mapping[str, Any]) -> tuple[int, int, Runs]:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not (isinstance(size, list | tuple) and len(size) == 2 and min(map(int, size)) > 0):
        raise MaskError(f"run lengths of size {size!r}; expected [height, width] in pixels.")
    height, width = int(size[0]), int(size[1])
    if isinstance(counts, str | bytes):
        numbers = unpack_counts(counts)
    elif isinstance(counts, list | tuple) and all(isinstance(n, int) for n in counts):
        numbers = np.array(counts, np.float64).clip(-1, MOST_PIXELS).astype(np.int64)
    else:
        raise MaskError("run lengths without counts; expected a string or a list of whole numbers.")
    if len(numbers) and (numbers.min() < 0 or numbers.sum() != height * width):
        found = f"of {numbers.min()}" if numbers.min() < 0 else f"that add up to {numbers.sum()}"
        raise MaskError(
            f"counts {found}; expected counts from 0 on that add up to the {height * width} pixels "
            f"of an image of {height} x {width} (height x width)."
        )
    ends = np.cumsum(numbers)
    runs = np.stack([ends[: len(ends) // 2 * 2 : 2], ends[1::2]], axis=1)
    return height, width, join_runs(runs[runs[:, 1] > runs[:, 0]])


def _cite(raw: bytes) -> str:
    text = raw.decode("ascii", "replace")
    return repr(text if len(text) <= 30 else text[:30] + "...")
