"""Copies: which pictures show the same thing, so that no split parts them.

Owns the descriptor of a picture, the search for near copies and the groups that
follow. It must not read files, know labels or choose folds.

A picture is reduced to a 32 x 32 map of local contrast: illumination, gain and
gamma mostly cancel, and so do re-encoding and rescaling. What most pictures of a
set share (the fixture around a part, a printed frame) is taken off first: it makes
pictures alike without making them copies. Candidates come from an exact search on
the maps at 16 x 16; each is then compared at 32 x 32 under all small shifts, since
two crops of one thing are seldom cut alike.

Thresholds were chosen by eye on contact sheets of surfaces re-shot under other
light, photographs, paintings and aerial views. Not found: mirrored and turned
copies, crops that lose more than a few hundredths of fine texture, and pictures that
overlap in part.

Shapes: N rows, D = 1024 values of a descriptor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from loupe.decoding import UInt8
from loupe.errors import InputError

Float16 = NDArray[np.float16]
Float32 = NDArray[np.float32]
Int = NDArray[np.intp]

NEAR = 0.65
"""Similarity from which two pictures count as copies of each other."""
DESCRIPTOR_SIZE = 1024

_SIDE = 32
_COARSE = _SIDE // 2
_CANDIDATE = 0.6  # coarse similarity from which a pair is looked at closely
_SHIFT = 3  # pixels of the map, so a tenth of the picture, in all directions
_BLUR = 1.5  # pixels of the map; what is larger counts as illumination
_NOISE = 2.0  # grey levels; weaker contrast is damped
_FLAT = 0.2  # root mean square of the map; below, there is nothing to compare
_NEIGHBOURS = 64  # candidates kept for one row; ties of a crowd reach it by steps
_BLOCK = 256
_ENOUGH_FOR_COMMON = 32
_COMMON_SAMPLE = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyPair:
    """Two rows that show the same thing.

    Attributes:
        first: Position of the earlier row.
        second: Position of the later row.
        kind: "equal" if their decoded pixels are the same, else "near".
        similarity: In [-1, 1]; 1 for equal pixels.
    """

    first: int
    second: int
    kind: Literal["equal", "near"]
    similarity: float


def describe(image: UInt8) -> Float16:
    """Reduce a picture to its map of local contrast.

    The map is (x - blur(x)) / sqrt(blur((x - blur(x))^2) + noise^2) of the grey
    picture stretched to 32 x 32; a picture without texture gives values near 0.

    Args:
        image: As `loupe.images.read_image` gives it.

    Shape:
        image: (H, W, 3) uint8.
        Returns: (1024,) float16.

    References:
        Jarrett et al. (2009), "What is the best multi-stage architecture for
        object recognition?", local contrast normalisation.
    """
    small = cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    grey = np.asarray(cv2.cvtColor(small.astype(np.float32), cv2.COLOR_RGB2GRAY), dtype=np.float32)
    detail = grey - _blur(grey, _BLUR)
    energy = _blur(detail * detail, 2 * _BLUR)
    contrast: Float32 = detail / np.sqrt(energy + _NOISE**2)
    return contrast.ravel().astype(np.float16)


def find_copies(
    descriptors: Float16, pixel_digests: Sequence[str], *, threshold: float = NEAR
) -> tuple[CopyPair, ...]:
    """Find the rows that are copies of one another.

    Of rows with equal pixels each is paired with the first of them, and only the
    first is compared with others; of a crowd of near copies each row is paired with
    its nearest ones. So pairs stand for groups (see `group_copies`), and are not
    the list of all pairs. In a table of 32 rows or more, what more than half of
    the rows share is not held for a likeness. The time grows with the square of
    the rows, in matrix products: a minute or two for 100,000 on two cores.

    Args:
        descriptors: From `describe`; zeros for a row that has no picture.
        pixel_digests: `ImageFacts.pixels`; "" for a row that has no picture.
        threshold: Least similarity of a near copy, in (0, 1]. Lowering it gains
            little: pairs below 0.6 at first sight are not compared closely.

    Shape:
        descriptors: (N, 1024). pixel_digests: (N,).

    Returns:
        Pairs in the order of their first, then second row; first < second.

    Raises:
        InputError: shapes do not fit, or the threshold is out of range.
    """
    _check_search(descriptors, pixel_digests, threshold)
    firsts, pairs = _match_equal(pixel_digests)
    maps = descriptors[firsts]
    common = _find_common(maps)
    textured, coarse = _reduce(maps, common)
    for i, j in _search(coarse):
        one, other = (maps[textured[k]].astype(np.float32) - common for k in (i, j))
        similarity = _compare(one, other)
        if similarity >= threshold:
            rows = int(firsts[textured[i]]), int(firsts[textured[j]])
            pairs.append(
                CopyPair(first=rows[0], second=rows[1], kind="near", similarity=similarity)
            )
    return tuple(sorted(pairs, key=lambda pair: (pair.first, pair.second)))


def group_copies(
    ids: Sequence[str], pairs: Sequence[CopyPair], also: Sequence[str] | None = None
) -> tuple[str, ...]:
    """Put rows that are linked by copies, directly or in steps, into one group.

    Every pair is honoured, so no copy that was found can cross folds.

    Args:
        ids: Keys of the rows; a group is named by the id of its first row.
        pairs: From `find_copies`.
        also: Groups of the user; rows with equal text are linked as well.

    Shape:
        ids, also, and the names returned: (N,).

    Returns:
        The name of each row's group; its own id where it stands alone.

    Raises:
        InputError: ids and user groups differ in length.

    Examples:
        >>> pair = CopyPair(first=0, second=2, kind="equal", similarity=1.0)
        >>> group_copies(["a", "b", "c", "d"], [pair], also=["x", "y", "z", "y"])
        ('a', 'b', 'a', 'b')
    """
    if also is not None and len(also) != len(ids):
        raise InputError(f"there are {len(ids)} ids, but {len(also)} groups; expected as many.")
    roots = list(range(len(ids)))
    for pair in pairs:
        _join(roots, pair.first, pair.second)
    seen: dict[str, int] = {}
    for row, name in enumerate(also or ()):
        _join(roots, seen.setdefault(name, row), row)
    return tuple(ids[_find(roots, row)] for row in range(len(ids)))


def _check_search(descriptors: Float16, digests: Sequence[str], threshold: float) -> None:
    if descriptors.shape != (len(digests), DESCRIPTOR_SIZE):
        raise InputError(
            f"descriptors have shape {descriptors.shape}; expected "
            f"({len(digests)}, {DESCRIPTOR_SIZE}): a row for each pixel digest."
        )
    if not 0 < threshold <= 1:
        raise InputError(f"the threshold is {threshold}; expected a number in (0, 1].")


def _blur(grey: Float32, sigma: float) -> Float32:
    blurred = cv2.GaussianBlur(grey, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    return np.asarray(blurred, dtype=np.float32)


def _match_equal(digests: Sequence[str]) -> tuple[Int, list[CopyPair]]:
    """Return the first row of each picture, and a pair for each repetition."""
    first: dict[str, int] = {}
    pairs = []
    for row, digest in enumerate(digests):
        start = first.setdefault(digest, row) if digest else row
        if start != row:
            pairs.append(CopyPair(first=start, second=row, kind="equal", similarity=1.0))
    return np.array(list(first.values()), dtype=np.intp), pairs


def _find_common(maps: Float16) -> Float32:
    """Return what most pictures share: the median of each point of the map."""
    if len(maps) < _ENOUGH_FOR_COMMON:
        return np.zeros(DESCRIPTOR_SIZE, np.float32)
    step = -(-len(maps) // _COMMON_SAMPLE)
    common: Float32 = np.median(maps[::step].astype(np.float32), axis=0)
    return common


def _reduce(maps: Float16, common: Float32) -> tuple[Int, Float32]:
    """Return the rows with texture, and their unit vectors at half the side."""
    textured, vectors = [], []
    for start in range(0, len(maps), _BLOCK):
        own = (maps[start : start + _BLOCK].astype(np.float32) - common).reshape(-1, _SIDE, _SIDE)
        inner = own[:, _SHIFT:-_SHIFT, _SHIFT:-_SHIFT]
        rows = np.flatnonzero(inner.std(axis=(1, 2)) >= _FLAT)
        halves = own[rows].reshape(-1, _COARSE, 2, _COARSE, 2).mean(axis=(2, 4))
        flat = halves.reshape(-1, _COARSE**2)
        flat -= flat.mean(axis=1, keepdims=True)
        textured.append(rows + start)
        vectors.append(flat / np.linalg.norm(flat, axis=1, keepdims=True).clip(1e-6))
    if not textured:
        return np.zeros(0, np.intp), np.zeros((0, _COARSE**2), np.float32)
    return np.concatenate(textured), np.concatenate(vectors)


def _search(coarse: Float32) -> Iterator[tuple[int, int]]:
    """Yield the pairs of rows, earlier first, that are alike at first sight."""
    for start in range(0, len(coarse), _BLOCK):
        block = coarse[start : start + _BLOCK]
        alike = block @ coarse[start:].T
        # Clear the lower triangle, so that each pair is met once.
        alike[:, : len(block)][np.tril_indices(len(block))] = -1
        for row in np.flatnonzero(alike.max(axis=1) >= _CANDIDATE):
            others = np.flatnonzero(alike[row] >= _CANDIDATE)
            if len(others) > _NEIGHBOURS:
                best = np.argpartition(-alike[row][others], _NEIGHBOURS)[:_NEIGHBOURS]
                others = others[np.sort(best)]
            for other in others:
                yield start + int(row), start + int(other)


def _compare(one: Float32, other: Float32) -> float:
    """Correlate the middle of each map with all places of the other."""
    maps = one.reshape(_SIDE, _SIDE), other.reshape(_SIDE, _SIDE)
    return max(
        float(cv2.matchTemplate(wide, _middle(narrow), cv2.TM_CCOEFF_NORMED).max())
        for wide, narrow in (maps, maps[::-1])
    )


def _middle(map_: Float32) -> Float32:
    return np.ascontiguousarray(map_[_SHIFT:-_SHIFT, _SHIFT:-_SHIFT])


def _find(roots: list[int], row: int) -> int:
    while roots[row] != row:
        roots[row] = roots[roots[row]]  # path halving keeps later walks short
        row = roots[row]
    return row


def _join(roots: list[int], one: int, other: int) -> None:
    """Link two rows; the earliest row of a group stays its root."""
    first, second = sorted((_find(roots, one), _find(roots, other)))
    roots[second] = first
