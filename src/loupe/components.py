"""Components: connected parts and holes of masks, and the counts of every candidate cut.

Owns what is done to the pixels of one mask after the threshold, with OpenCV. It must not
choose anything, nor read files.

Shapes: H and W height and width, T candidates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from loupe.errors import MaskError
from loupe.maskcuts import Candidate

Bool = NDArray[np.bool_]
Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

TOP_SHARE = 0.1
"""Share of the pixels whose mean tells presence (a tenth in the reference of `gates.gate_top`)."""
_TOUCHING = 8  # pixels that meet at a corner belong together
_SHARING_A_SIDE = 4  # so a line of pixels that touch parts what lies on its sides


class MapCounts(NamedTuple):
    """What `maskcuts.PairCounts` keeps of one map.

    Attributes:
        counts: (T, 3) true positives, false positives, false negatives.
        confidences: (T,) mean probability of the pixels of the mask; NaN if it is empty.
        top: Mean of the largest probabilities.
        largest: (T,) area of the largest component; None if it was not asked for.
    """

    counts: Int64
    confidences: Float32
    top: float
    largest: Int64 | None = None


class MaskPixels(NamedTuple):
    """The P pixels of a mask, row by row.

    Attributes:
        probs: (P,) their probabilities.
        truth: (P,) True where the given mask is.
    """

    probs: Float32
    truth: Bool


def clean_mask(mask: Bool, min_component: int = 0, fill_holes: bool = False) -> Bool:  # noqa: FBT001, FBT002
    """Fill the holes of a mask, and remove its small components.

    Pixels that touch at a corner belong to one component. A hole is background that no path
    of pixels with common sides joins to the border of the image.

    Args:
        mask: True where the class is.
        min_component: Components of fewer pixels are removed, holes being filled first.
        fill_holes: True to fill holes.

    Shape:
        mask: (H, W). Returns (H, W), another array.

    Raises:
        MaskError: the mask is not 2-D or not bool, or `min_component` is below 0.

    Examples:
        >>> mask = np.array([[1, 1, 1, 0, 0], [1, 0, 1, 0, 1], [1, 1, 1, 0, 0]], bool)
        >>> clean_mask(mask, 2, True).astype(int).tolist()
        [[1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0]]
    """
    if mask.ndim != 2 or mask.dtype != np.bool_ or min_component < 0:
        raise MaskError(
            f"mask of shape {mask.shape} and dtype {mask.dtype}, min_component {min_component}; "
            "expected (height, width) of bool, and a number of pixels from 0 on."
        )
    found = mask.copy()
    if not found.any():
        return found
    if fill_holes:
        found |= _find_holes(found)
    if min_component > 1:
        found[found] = _measure_own(found) >= min_component
    return found


def take_pixels(
    mask: Bool, probs: Float32, truth: Bool, least_areas: Sequence[int]
) -> Iterator[MaskPixels]:
    """Yield the pixels of a mask without its small components, for each least area in turn.

    The components are numbered once for all least areas, and not at all if each is 0 or 1.

    Args:
        mask: True where the class is; holes are left as they are.
        probs: Probability at each pixel.
        truth: The given mask.
        least_areas: Components of fewer pixels are left out.

    Shape:
        mask, probs, truth: (H, W).

    Examples:
        >>> mask = np.array([[True, True, False, True]])
        >>> probs = np.float32([[0.5, 0.75, 0.0, 1.0]])
        >>> [found.probs.tolist() for found in take_pixels(mask, probs, mask, (0, 2))]
        [[0.5, 0.75, 1.0], [0.5, 0.75]]
    """
    every = MaskPixels(probs[mask], truth[mask])
    own = _measure_own(mask) if max(least_areas, default=0) > 1 else None
    for least in least_areas:
        if own is None or least <= 1:
            yield every
        else:
            kept = own >= least
            yield MaskPixels(every.probs[kept], every.truth[kept])


def measure_components(mask: Bool) -> Int64:
    """Return the areas of the components of a mask in pixels, the largest first.

    Examples:
        >>> mask = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 0, 0]], bool)
        >>> measure_components(mask).tolist()
        [3, 1]
    """
    return np.sort(np.bincount(_label(mask))[1:])[::-1]


def count_map(
    probs: Float32,
    truth: Bool,
    candidates: Sequence[Candidate],
    *,
    top_share: float = TOP_SHARE,
    largest: bool = False,
) -> MapCounts:
    """Count what each candidate hits and misses in one map; the map can then be dropped.

    Args:
        probs: Probability of one class at each pixel.
        truth: The given mask, at the same size.
        candidates: Ways to make a mask of the map.
        top_share: Share of the pixels that `top` is the mean of.
        largest: True to measure the largest component of each mask, which takes time.

    Shape:
        probs, truth: (H, W).

    Raises:
        MaskError: shapes differ, or `top_share` lies outside (0, 1].

    Examples:
        >>> probs = np.float32([[0.9, 0.6], [0.2, 0.0]])
        >>> truth = np.array([[True, False], [True, False]])
        >>> count_map(probs, truth, [Candidate(threshold=0.5)]).counts.tolist()
        [[1, 1, 1]]
    """
    if probs.shape != truth.shape or probs.ndim != 2 or not 0 < top_share <= 1:
        raise MaskError(
            f"probabilities of shape {probs.shape}, a mask of shape {truth.shape}, top share "
            f"{top_share}; expected (height, width) twice, and a share above 0 and up to 1."
        )
    area = int(np.count_nonzero(truth))
    counts = np.zeros((len(candidates), 3), np.int64)
    sure = np.full(len(candidates), np.nan, np.float32)
    sizes = np.zeros(len(candidates), np.int64)
    order = sorted(range(len(candidates)), key=lambda place: _base(candidates[place]))
    for (threshold, fill), alike in groupby(order, key=lambda place: _base(candidates[place])):
        mask = probs >= np.float32(threshold)
        if fill:
            mask = clean_mask(mask, 0, fill)
        places = list(alike)
        least = [candidates[place].min_component for place in places]
        biggest = int(_measure_own(mask).max(initial=0)) if largest else 0
        for place, pixels in zip(places, take_pixels(mask, probs, truth, least), strict=True):
            size, hit = len(pixels.probs), int(np.count_nonzero(pixels.truth))
            counts[place] = hit, size - hit, area - hit
            if size:
                sure[place] = pixels.probs.mean(dtype=np.float64)
                # Small components go first, so that the largest stays if anything does.
                sizes[place] = biggest
    return MapCounts(counts, sure, _measure_top(probs, top_share), sizes if largest else None)


def _base(each: Candidate) -> tuple[float, bool]:
    """Return what candidates have in common whose masks differ by small components alone."""
    return each.threshold, each.fill_holes


def _measure_top(probs: Float32, share: float) -> float:
    """Return the mean of the largest probabilities."""
    taken = max(1, round(probs.size * share))
    peaks = np.partition(probs.ravel(), probs.size - taken)[probs.size - taken :]
    return float(peaks.mean(dtype=np.float64))


def _measure_own(mask: Bool) -> Int64:
    """Return the area of the component of each pixel of a mask, row by row."""
    own = _label(mask)
    return np.bincount(own)[own]


def _label(mask: Bool) -> NDArray[np.int32]:
    """Number the components from 1, and return the number of each pixel of a mask."""
    if not mask.size:
        return np.zeros(0, np.int32)  # what OpenCV does not take
    _, labels = cv2.connectedComponents(
        mask.astype(np.uint8), connectivity=_TOUCHING, ltype=cv2.CV_32S
    )
    return np.asarray(labels[mask], np.int32)


def _find_holes(mask: Bool) -> Bool:
    """Return the background that does not reach the border."""
    outside = np.pad(~mask, 1, constant_values=True).astype(np.uint8)
    _, labels = cv2.connectedComponents(outside, connectivity=_SHARING_A_SIDE, ltype=cv2.CV_32S)
    around = labels[0, 0]
    inner = labels[1:-1, 1:-1]
    return np.asarray(~mask & (inner != around), np.bool_)
