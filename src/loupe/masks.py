"""Run-length text of masks, to pixels and back.

Owns the form that tables and submissions write: pairs "start length", pixels
numbered from 1, down each column and then across columns; beside it the same by
rows, under names of its own. It must not read tables, nor know of classes or image
files; COCO's forms are in `cocomasks`, faults of a whole column in `maskfaults`.

Shapes: H height, W width of the image file.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from loupe.digits import read_numbers, spell_numbers
from loupe.errors import MaskError
from loupe.maskruns import Bool, Runs, check_mask, fill_runs, find_runs, join_runs

Size = tuple[int, int]
"""(height, width) in pixels."""

MOST_PIXELS = 2**40
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
    return spell_runs(find_runs(mask))


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
    return fill_runs(_read_within(text, height, width), height, width)


def encode_rle_rows(mask: Bool) -> str:
    """Encode one binary mask as run-length text along its rows.

    Pixels are numbered from 1 along each row and then down, as some tools write
    them. Nothing in the text tells it from `encode_rle`; its reader must know.

    Args:
        mask: See `encode_rle`.

    Returns:
        Pairs "start length"; "" for an empty mask.

    Raises:
        MaskError: see `encode_rle`.

    Examples:
        >>> encode_rle_rows(np.array([[0, 1, 1], [1, 1, 0]], dtype=bool))
        '2 4'
        >>> encode_rle_rows(np.array([[0, 1], [0, 1], [0, 1]], dtype=bool))
        '2 1 4 1 6 1'
    """
    return spell_runs(find_runs(mask, "rows"))


def decode_rle_rows(text: str, height: int, width: int) -> Bool:
    """Decode run-length text along rows to one binary mask.

    Args:
        text: See `encode_rle_rows`.
        height: Of the image file, in pixels.
        width: Of the image file, in pixels.

    Shape:
        Returns: (H, W) bool, laid out by rows.

    Raises:
        MaskError: see `decode_rle`.

    Examples:
        >>> decode_rle_rows("2 1 4 1 6 1", 3, 2).astype(int).tolist()
        [[0, 1], [0, 1], [0, 1]]
    """
    return fill_runs(_read_within(text, height, width), height, width, "rows")


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
    runs = np.concatenate([read_runs(text) for text in filled])
    return spell_runs(join_runs(runs))


def measure_rle(text: str) -> int:
    """Count the pixels that run-length text covers. No size is needed.

    Args:
        text: See `encode_rle`.

    Raises:
        MaskError: see `join_rle`.

    Examples:
        >>> measure_rle("1 3 10 5"), measure_rle("")
        (8, 0)
    """
    runs = read_runs(text)
    return int((runs[:, 1] - runs[:, 0]).sum())


def resize_rle(text: str, size: Size, to: Size) -> str:
    """Resize run-length text from one image size to another, as `resize_mask` does.

    To a smaller size no pixel is decoded, which takes microseconds.

    Args:
        text: See `encode_rle`.
        size: Of the image that the text is made for.
        to: Of the image that it shall be made for.

    Returns:
        Run-length text; "" also where a thin mask lies between the pixels that are
        kept, so compare the count of masks before and after.

    Raises:
        MaskError: the text is not valid for its size, or a size is below 1 x 1.

    Examples:
        >>> resize_rle("1 24", (4, 6), (2, 3))
        '1 6'
        >>> resize_rle("5 8", (4, 6), (2, 3))
        '1 2'
    """
    runs = _read_within(text, *size)
    _check_size(*to)
    if size == to or not len(runs):
        return spell_runs(runs)
    if to[0] > size[0] or to[1] > size[1]:
        return encode_rle(resize_mask(fill_runs(runs, *size), to))
    # How many kept pixels come before each pixel; so far they are in the same order.
    rows = _count_kept(size[0], to[0])
    columns = _count_kept(size[1], to[1])
    column, row = np.divmod(runs, size[0])
    kept = columns[np.minimum(column + 1, size[1])] > columns[column]
    placed = columns[column] * to[0] + kept * rows[row]
    return spell_runs(join_runs(placed[placed[:, 1] > placed[:, 0]]))


def resize_mask(mask: Bool, to: Size) -> Bool:
    """Resize one mask to the nearest pixel, so that it keeps its share of the image.

    A pixel of the result is the pixel of the mask at its centre. Other ways (linear,
    then cut above 0) make every mask grow by a margin on all sides.

    Args:
        mask: True where the class is.
        to: Height and width of the result, in pixels.

    Shape:
        mask: (H, W) bool.

    Returns:
        (height, width) bool.

    Raises:
        MaskError: the mask is not 2-D and bool, or a size is below 1 x 1.

    Examples:
        >>> resize_mask(np.array([[0, 0, 1, 1]], dtype=bool), (1, 2)).astype(int).tolist()
        [[0, 1]]
    """
    check_mask(mask)
    return resize_masks(mask, to)


def resize_masks(masks: Bool, to: Size) -> Bool:
    """Resize a stack of masks, each as `resize_mask` does.

    Args:
        masks: True where the class is.
        to: Height and width of the result, in pixels.

    Shape:
        masks: (..., H, W) bool; the axes before the last two stay.

    Returns:
        (..., height, width) bool.

    Raises:
        MaskError: the stack has no two axes or is not bool, or a size is below 1 x 1.
    """
    if masks.ndim < 2 or masks.dtype != np.bool_:
        raise MaskError(
            f"masks of shape {masks.shape} and dtype {masks.dtype}; expected (..., height, width) "
            "of bool."
        )
    _check_size(*masks.shape[-2:])
    _check_size(*to)
    rows, columns = (_choose_kept(n, m) for n, m in zip(masks.shape[-2:], to, strict=True))
    return masks[..., rows, :][..., columns]


def read_runs(text: str) -> Runs:
    """Read the runs of a text; the size of its image is not known here.

    Args:
        text: See `encode_rle`; "" or blanks alone are no runs.

    Raises:
        MaskError: see `join_rle`.
    """
    numbers = read_numbers(text)
    if numbers is None or len(numbers) % 2:
        raise MaskError(
            f"run-length text {_cite(text)} has {len(text.split())} part(s); expected an even "
            "count of whole numbers, pairs 'start length'."
        )
    if len(numbers) and (numbers.min() < 1 or numbers.max() > MOST_PIXELS):
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


def spell_runs(runs: Runs) -> str:
    """Spell runs as pairs "start length", pixels counted from 1.

    Args:
        runs: In order.
    """
    pairs = runs.copy()
    pairs[:, 1] -= pairs[:, 0]
    pairs[:, 0] += 1
    return spell_numbers(pairs)


def _read_within(text: str, height: int, width: int) -> Runs:
    _check_size(height, width)
    runs = read_runs(text)
    if len(runs) and runs[-1, 1] > height * width:
        raise MaskError(
            f"run-length text {_cite(text)} reaches pixel {runs[-1, 1]}, but an image of "
            f"{height} x {width} pixels (height x width) has {height * width}. Is it made for "
            "images of another size?"
        )
    return runs


def _choose_kept(before: int, after: int) -> NDArray[np.int64]:
    """Return the pixel at the centre of each pixel of another size."""
    return (2 * np.arange(after) + 1) * before // (2 * after)


def _count_kept(before: int, after: int) -> NDArray[np.int64]:
    """Return how many pixels are kept before each, for a size that is not larger."""
    return np.searchsorted(_choose_kept(before, after), np.arange(before + 1))


def _check_size(height: int, width: int) -> None:
    if height < 1 or width < 1:
        raise MaskError(f"an image of {height} x {width} pixels; expected at least 1 x 1.")


def _cite(text: str) -> str:
    return repr(text if len(text) <= 30 else text[:30] + "...")
