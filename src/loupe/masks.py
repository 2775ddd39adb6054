"""Run-length text of masks, to pixels and back.

Owns the one form that tables and submissions write: pairs "start length", pixels
numbered from 1, down each column and then across columns. It must not read tables,
nor know of classes or image files.

Shapes: H height, W width of the image file.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from loupe.errors import MaskError

Bool = NDArray[np.bool_]
Runs = NDArray[np.int64]
"""(R, 2): the first pixel of each run, counted from 0, and the pixel after its last."""

_BLANKS = b" \t\r\n\f\v"
_MOST_PIXELS = 2**40
"""More than any image has; sums of two still fit into 64 bits."""


def encode_rle(mask: Bool) -> str:
    """Encode one binary mask as run-length text.

    Pixels are numbered from 1, down each column and then across columns, so
    "2 4" covers pixels 2, 3, 4 and 5. This is the layout of competition
    submissions; COCO's counts start at 0 and alternate, and differ.

    Args:
        mask: True where the class is present, at the original image's size.

    Shape:
        mask: (H, W) bool, rows first, in pixels.

    Returns:
        Pairs "start length" parted by single spaces; "" for an empty mask.

    Raises:
        MaskError: mask is not 2-D, or its dtype is not bool (a probability map
            must be thresholded first).

    References:
        Severstal: Steel Defect Detection (2019), submission format.

    Examples:
        >>> encode_rle(np.array([[0, 1, 1], [1, 1, 0]], dtype=bool))
        '2 4'
        >>> encode_rle(np.zeros((2, 3), dtype=bool))
        ''
    """
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise MaskError(
            f"mask of shape {mask.shape} and dtype {mask.dtype}; expected (height, width) of bool, "
            "True where the class is."
        )
    flat = np.zeros(mask.size + 2, np.bool_)
    flat[1:-1] = mask.T.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]).reshape(-1, 2)
    return _spell_runs(changes)


def decode_rle(text: str, height: int, width: int) -> Bool:
    """Decode run-length text to one binary mask.

    Args:
        text: See `encode_rle`; "" or blanks alone are an empty mask.
        height: Of the image file, in pixels.
        width: Of the image file, in pixels.

    Shape:
        Returns: (H, W) bool, laid out by columns.

    Raises:
        MaskError: the text is not an even count of whole numbers from 1 on, its
            runs do not increase or overlap, or one ends behind the last pixel,
            as text made for an image of another size does.

    Examples:
        >>> decode_rle("3 3 7 2", 3, 4).astype(int).tolist()
        [[0, 1, 1, 0], [0, 1, 1, 0], [1, 0, 0, 0]]
    """
    if height < 1 or width < 1:
        raise MaskError(f"an image of {height} x {width} pixels; expected at least 1 x 1.")
    runs = _read_runs(text)
    if len(runs) and runs[-1, 1] > height * width:
        raise MaskError(
            f"run-length text {_cite(text)} reaches pixel {runs[-1, 1]}, but an image of "
            f"{height} x {width} pixels (height x width) has {height * width}. Is it made for "
            "images of another size?"
        )
    # Lengths of the stretches outside and inside, in turn.
    edges = np.concatenate([[0], runs.ravel(), [height * width]])
    inside = np.arange(len(edges) - 1) % 2 == 1
    return np.repeat(inside, np.diff(edges)).reshape(width, height).T


def join_rle(texts: Sequence[str]) -> str:
    """Join masks of one image: what any of them covers. No size is needed.

    Args:
        texts: See `encode_rle`; each is valid by itself, and may overlap others.

    Returns:
        Run-length text; a text that is alone is given back as it is written.

    Raises:
        MaskError: a text is not an even count of whole numbers from 1 on, or its
            runs do not increase or overlap.

    Examples:
        >>> join_rle(["1 3 9 2", "", "3 2 12 1"])
        '1 4 9 2 12 1'
    """
    filled = [text for text in texts if text and not text.isspace()]
    if len(filled) < 2:
        return filled[0].strip() if filled else ""
    runs = np.concatenate([_read_runs(text) for text in filled])
    runs = runs[np.argsort(runs[:, 0], kind="stable")]
    reach = np.maximum.accumulate(runs[:, 1])
    first = np.flatnonzero(np.concatenate([[True], runs[1:, 0] > reach[:-1]]))
    last = np.concatenate([first[1:] - 1, [len(runs) - 1]])
    return _spell_runs(np.stack([runs[first, 0], reach[last]], axis=1))


def _read_runs(text: str) -> Runs:
    """Read the runs of a text; the size of its image is not known here."""
    digits = text.encode("ascii", "replace").translate(None, _BLANKS)
    if not digits:
        return np.zeros((0, 2), np.int64)
    # Of anything but digits and blanks, `fromstring` would read no more than the head.
    numbers = np.fromstring(text if digits.isdigit() else "1", np.int64, sep=" ")
    if len(numbers) % 2:
        raise MaskError(
            f"run-length text {_cite(text)} has {len(text.split())} part(s); expected an even "
            "count of whole numbers, pairs 'start length'."
        )
    if numbers.min() < 1 or numbers.max() > _MOST_PIXELS:
        raise MaskError(
            f"run-length text {_cite(text)} has numbers from {numbers.min()} to {numbers.max()}; "
            "expected pixels and lengths of an image, both counted from 1."
        )
    runs = numbers.reshape(-1, 2)
    runs[:, 0] -= 1
    runs[:, 1] += runs[:, 0]
    wrong = np.flatnonzero(runs[1:, 0] < runs[:-1, 1])
    if len(wrong):
        at = wrong[0]
        raise MaskError(
            f"run-length text {_cite(text)}: the run from pixel {runs[at + 1, 0] + 1} follows one "
            f"that ends at {runs[at, 1]}; expected runs in order that do not overlap."
        )
    return runs


def _spell_runs(runs: Runs) -> str:
    pairs = runs.copy()
    pairs[:, 1] -= pairs[:, 0]
    pairs[:, 0] += 1
    # One format is twice as fast as joining the text of each number.
    return ("%d " * pairs.size % tuple(pairs.ravel().tolist()))[:-1]


def _cite(text: str) -> str:
    return repr(text if len(text) <= 30 else text[:30] + "...")
