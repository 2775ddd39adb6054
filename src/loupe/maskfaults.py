"""Faults of run-length text: every one of a text in words, and of many texts at once.

Owns what is wrong with a text, and what is odd about the texts of a whole sheet, as
rows numbered along instead of down. It must not read tables or decode pixels.

A text along rows for an image of H x W pixels is as valid as one down columns, so it
can only be suspected, from how far apart its runs are: neighbouring columns of a mask
start about H pixels apart, neighbouring rows about W.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from loupe.digits import read_numbers
from loupe.masks import MOST_PIXELS, Size

Int64 = NDArray[np.int64]

_MOST_TOLD = 3
_FEW_STEPS = 20
"""With fewer distances between runs nothing is suspected."""
_SAMPLE = 500
"""Texts that are looked at, the first ones."""
_NEAR = 0.06
_CLEAR = 0.5
_UNCLEAR = 0.15


def list_faults(text: str, height: int | None = None, width: int | None = None) -> tuple[str, ...]:
    """List everything that is wrong with one run-length text.

    Args:
        text: See `masks.encode_rle`; "" or blanks alone are an empty mask.
        height: Of the image, in pixels; None leaves out what needs its size.
        width: Of the image, in pixels.

    Returns:
        A sentence for each kind of fault; none for a valid text.

    Examples:
        >>> list_faults("3 3 7 2", 3, 4)
        ()
        >>> list_faults("0 3 2 1 x", 3, 4)[0]
        "'x' is not a whole number"
        >>> list_faults("4 3 2 1", 3, 4)
        ('the run from pixel 2 follows one that ends at pixel 6',)
    """
    words = text.split()
    odd = [repr(_cut(word)) for word in words if not (word.isascii() and word.isdigit())]
    faults = []
    if odd:
        verb = "is not a whole number" if len(odd) == 1 else "are not whole numbers"
        faults.append(f"{_tell(odd)} {verb}")
    if len(words) % 2:
        faults.append(f"{len(words)} number(s) do not make pairs of start and length")
    if odd:
        return tuple(faults)
    # Python's own numbers have no end; those behind the largest are all too large.
    numbers = [min(int(word[:25]), MOST_PIXELS) for word in words]
    starts, lengths = numbers[: len(numbers) // 2 * 2 : 2], numbers[1::2]
    low = [str(n) for n in starts if n < 1]
    empty = [str(s) for s, n in zip(starts, lengths, strict=True) if n < 1]
    if low:
        faults.append(f"{len(low)} run(s) start at pixel 0; the first pixel is 1")
    if empty:
        faults.append(f"run(s) of no pixel, at pixel {_tell(empty)}")
    ends = [s + n - 1 for s, n in zip(starts, lengths, strict=True)]
    back = [
        f"the run from pixel {starts[at]} follows one that ends at pixel {ends[at - 1]}"
        for at in range(1, len(starts))
        if starts[at] <= ends[at - 1] and lengths[at - 1]
    ]
    if back:
        more = f", and {len(back) - 1} more such" if len(back) > 1 else ""
        faults.append(back[0] + more)
    if height is not None and width is not None and ends and max(ends) > height * width:
        faults.append(
            f"pixel {max(ends)} lies behind the last, {height * width}, of an image of "
            f"{height} x {width} (height x width)"
        )
    return tuple(faults)


def find_faults(
    texts: Sequence[str], sizes: Sequence[Size] | NDArray[np.int64] | None = None
) -> dict[int, tuple[str, ...]]:
    """Find the faulty ones of many run-length texts.

    Valid texts are read together, so that thousands take no longer than their letters.

    Args:
        texts: See `masks.encode_rle`.
        sizes: Height and width of the image of each; None leaves out what needs them.

    Returns:
        Position of a text to what is wrong with it, see `list_faults`.

    Examples:
        >>> find_faults(["1 3", "1", "", "2 1 1 1"])[1]
        ('1 number(s) do not make pairs of start and length',)
    """
    suspects: Sequence[int] = range(len(texts))
    counted = _count_numbers(texts)
    if counted is not None:
        numbers, counts = counted
        wide = None if sizes is None else np.asarray(sizes, np.int64).reshape(-1, 2)
        suspects = _suspect(numbers, counts, wide)
    found = {}
    for at in suspects:
        size = (None, None) if sizes is None else (int(sizes[at][0]), int(sizes[at][1]))
        faults = list_faults(texts[at], *size)
        if faults:
            found[at] = faults
    return found


def suspect_layout(texts: Sequence[str], height: int, width: int) -> str:
    """Say in words if valid texts look made for rows, or for images of another size.

    Args:
        texts: Of images of one size, each valid.
        height: Of the images, in pixels.
        width: Of the images, in pixels.

    Returns:
        A note; "" if nothing is odd, or too little is there to tell.

    Examples:
        >>> rows = " ".join(f"{1 + 50 * row} 9" for row in range(40))
        >>> suspect_layout([rows], 40, 50)[:63]
        'runs start about 50 pixels apart, as rows of 40 x 50 images do,'
        >>> suspect_layout([rows], 50, 40)
        ''
    """
    counted = _count_numbers([text for text in texts if text][:_SAMPLE])
    if counted is None or len(counted[0]) % 2:
        return ""
    numbers, counts = counted
    starts = numbers[::2]
    steps = np.diff(starts)
    # Not from one text to the next.
    inner = np.ones(len(steps), bool)
    borders = np.cumsum(counts // 2)[:-1] - 1
    inner[borders[(borders >= 0) & (borders < len(steps))]] = False
    steps = steps[inner]
    if len(steps) < _FEW_STEPS:
        return ""
    usual = int(np.median(steps))
    if _share(steps, usual) < _CLEAR or _share(steps, height) > _UNCLEAR:
        return ""
    if abs(usual - width) <= _NEAR * width:
        return (
            f"runs start about {usual} pixels apart, as rows of {height} x {width} images do, not "
            f"columns ({height}): was the text written along rows, or the mask turned?"
        )
    # Patches above each other start closer than a column too, but reach over the whole image.
    reach = int((starts + numbers[1::2]).max())
    if usual < height and reach > 1.1 * usual * usual * width / height:
        return ""
    return (
        f"runs start about {usual} pixels apart, but columns of {height} x {width} images are "
        f"{height} long: was the text made for images {usual} pixels high?"
    )


def _share(steps: Int64, wanted: int) -> float:
    return float(np.mean(np.abs(steps - wanted) <= max(1.0, _NEAR * wanted)))


def _count_numbers(texts: Sequence[str]) -> tuple[Int64, Int64] | None:
    """Return all numbers, and how many of them belong to each text; None if one is odd."""
    numbers = read_numbers(" ".join(texts))
    if numbers is None:
        return None
    counts = np.array([text.count(" ") + 1 if text else 0 for text in texts], np.int64)
    if counts.sum() != len(numbers):
        # Blanks that are doubled, or others than " ".
        counts = np.array([len(text.split()) for text in texts], np.int64)
    return numbers, counts


def _suspect(numbers: Int64, counts: Int64, sizes: Int64 | None) -> list[int]:
    """Return texts that cannot be valid."""
    wrong = counts % 2 == 1
    if wrong.any():
        # Behind an odd text all pairs are parted wrongly.
        kept = np.repeat(~wrong, counts)
        numbers, counts = numbers[kept], np.where(wrong, 0, counts)
    owner = np.repeat(np.arange(len(counts)), counts // 2)
    starts, lengths = numbers[::2], numbers[1::2]
    huge = (starts > MOST_PIXELS) | (lengths > MOST_PIXELS)
    ends = np.minimum(starts, MOST_PIXELS) + np.minimum(lengths, MOST_PIXELS)
    bad = (starts < 1) | (lengths < 1) | huge
    bad[1:] |= (starts[1:] < ends[:-1]) & (owner[1:] == owner[:-1])
    if sizes is not None:
        bad |= ends - 1 > sizes.prod(axis=1)[owner]
    wrong[owner[bad]] = True
    return [int(at) for at in np.flatnonzero(wrong)]


def _tell(items: Sequence[str]) -> str:
    more = f" and {len(items) - _MOST_TOLD} more" if len(items) > _MOST_TOLD else ""
    return ", ".join(items[:_MOST_TOLD]) + more


def _cut(word: str) -> str:
    return word if len(word) <= 20 else word[:20] + "..."
