"""Components: connected parts and holes of masks, and the counts of every candidate cut.

Owns what is done to the pixels of one mask after the threshold, with OpenCV. It must not
choose anything, nor read files.

Shapes: H and W height and width, T candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
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
        largest: (T,) area of the largest component.
    """

    counts: Int64
    confidences: Float32
    top: float
    largest: Int64


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
        labels, areas = _label(found)
        found &= (areas >= min_component)[labels]
    return found


def measure_components(mask: Bool) -> Int64:
    """Return the areas of the components of a mask in pixels, the largest first.

    Examples:
        >>> mask = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 0, 0]], bool)
        >>> measure_components(mask).tolist()
        [3, 1]
    """
    return np.sort(_label(mask)[1][1:])[::-1]


def count_map(
    probs: Float32,
    truth: Bool,
    candidates: Sequence[Candidate],
    *,
    top_share: float = TOP_SHARE,
) -> MapCounts:
    """Count what each candidate hits and misses in one map; the map can then be dropped.

    Args:
        probs: Probability of one class at each pixel.
        truth: The given mask, at the same size.
        candidates: Ways to make a mask of the map.
        top_share: Share of the pixels that `top` is the mean of.

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
    counts, sure, largest = [], [], []
    for each in candidates:
        mask = probs >= np.float32(each.threshold)
        if each.fill_holes or each.min_component > 1:
            mask = clean_mask(mask, each.min_component, each.fill_holes)
        size, hit = int(np.count_nonzero(mask)), int(np.count_nonzero(mask & truth))
        counts.append((hit, size - hit, area - hit))
        sure.append(float(probs[mask].mean(dtype=np.float64)) if size else np.nan)
        largest.append(int(_label(mask)[1][1:].max()) if size else 0)
    taken = max(1, round(probs.size * top_share))
    peaks = np.partition(probs.ravel(), probs.size - taken)[probs.size - taken :]
    return MapCounts(
        np.array(counts, np.int64).reshape(-1, 3),
        np.array(sure, np.float32),
        float(peaks.mean(dtype=np.float64)),
        np.array(largest, np.int64),
    )


def _label(mask: Bool) -> tuple[NDArray[np.int32], Int64]:
    """Number the components from 1, the background being 0, and measure each number."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(
        mask.astype(np.uint8), connectivity=_TOUCHING, ltype=cv2.CV_32S
    )
    areas = stats[:, cv2.CC_STAT_AREA].astype(np.int64)
    areas[0] = 0
    return np.asarray(labels, np.int32), areas


def _find_holes(mask: Bool) -> Bool:
    """Return the background that does not reach the border."""
    outside = np.pad(~mask, 1, constant_values=True).astype(np.uint8)
    _, labels = cv2.connectedComponents(outside, connectivity=_SHARING_A_SIDE, ltype=cv2.CV_32S)
    around = labels[0, 0]
    inner = labels[1:-1, 1:-1]
    return np.asarray(~mask & (inner != around), np.bool_)
