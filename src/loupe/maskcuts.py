"""Mask cuts: from a map of pixel probabilities to a mask, chosen on held-out counts.

Owns the counts of hits and misses that each candidate threshold gives for each row and
class, so that no map is kept, and the choice among them: pixel threshold, least area, and
two thresholds of which one tells presence and the other draws the mask. It must not open
images, nor know of class probabilities (that is `gatefits`).

Shapes: N rows, C classes, T candidates, K parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from loupe.dices import Pairs
from loupe.errors import InputError
from loupe.weighting import Float64, Floats, Integers, divide

Float32 = NDArray[np.float32]
Rows = NDArray[np.intp]
CutKind = Literal["fixed", "pixel", "area", "doublet", "triplet"]
CUT_KINDS: tuple[CutKind, ...] = get_args(CutKind)

NEVER_AREA = 2**40
"""The least area that no mask has: the class stays empty."""
DEFAULT = 0.5
"""The pixel threshold that is taken unfitted, and nearest to which ties are broken."""
_GAIN = 1e-9  # a smaller gain is rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One way to make a mask of a map of pixel probabilities.

    Attributes:
        threshold: Pixels with p >= threshold.
        min_component: Connected components of fewer pixels are removed; 0 or 1 keeps all.
        fill_holes: True if enclosed holes are filled, before components are measured.
    """

    threshold: float
    min_component: int = 0
    fill_holes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PairCounts:
    """What each candidate hits and misses, for each row and class.

    A finished submission has one candidate. Areas are in pixels of the size at which the
    counts were taken, and so is every least area that is chosen from them.

    Attributes:
        candidates: (T,) what the counts are of.
        counts: (N, C, T, 3) pixels: true positives, false positives, false negatives.
        confidences: (N, C, T) mean probability of the pixels of each mask; NaN if empty.
        tops: (N, C) mean of the largest pixel probabilities of each map.
        presences: (N, C, T) the area that presence is judged by, such as that of the largest
            component; the whole area of the mask if None.
    """

    candidates: tuple[Candidate, ...]
    counts: Integers
    confidences: Float32 | None = None
    tops: Float32 | None = None
    presences: Integers | None = None

    def __post_init__(self) -> None:
        shape = self.counts.shape
        if len(shape) != 4 or 0 in shape or shape[2:] != (len(self.candidates), 3):
            raise InputError(
                f"counts have the shape {shape} for {len(self.candidates)} candidate(s); expected "
                "(rows, classes, candidates, 3): true positives, false positives, false negatives."
            )
        wrong = [
            f"{name} have the shape {values.shape}, expected {expected}"
            for name, values, expected in (
                ("confidences", self.confidences, shape[:3]),
                ("tops", self.tops, shape[:2]),
                ("presences", self.presences, shape[:3]),
            )
            if values is not None and values.shape != expected
        ]
        if (self.counts < 0).any():
            wrong.append(f"{int((self.counts < 0).sum())} counts lie below 0")
        truth = self.counts[..., 0] + self.counts[..., 2]
        uneven = (truth != truth[..., :1]).any(axis=2)
        if uneven.any():
            row, column = (int(place) for place in np.argwhere(uneven)[0])
            wrong.append(
                f"{int(uneven.sum())} pairs, the first in row {row}, column {column}, have given "
                f"masks of other areas by other candidates ({truth[row, column].tolist()})"
            )
        if wrong:
            raise InputError(f"counts of masks: {'; '.join(wrong)}.")

    def __len__(self) -> int:
        return len(self.counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskCut:
    """How the mask of a class is made.

    Attributes:
        top: Tells presence: its area must reach `min_area`, or the mask is empty.
        bottom: Draws the mask; the same as `top`, or of a lower threshold.
        min_area: In pixels; 1 asks for no more than a pixel.
    """

    top: Candidate
    bottom: Candidate
    min_area: int = 1


class CutMasks(NamedTuple):
    """Masks as they were cut, and what the segmenter says of them.

    Attributes:
        pairs: (N, C) areas.
        confidences: (N, C) mean probability of the pixels of a mask, NaN if it is empty;
            None where it is not known.
        tops: (N, C) mean of the largest pixel probabilities; None where it is not known.
    """

    pairs: Pairs
    confidences: Float32 | None = None
    tops: Float32 | None = None


class CutFit(NamedTuple):
    """Cuts, and the masks that they make of rows on which they were not chosen.

    Attributes:
        kind: What was chosen.
        cuts: (C,) chosen on all rows, for new ones.
        part_cuts: (K, C) chosen without each part.
        masks: Of each row by the cuts chosen without its part.
    """

    kind: CutKind
    cuts: tuple[MaskCut, ...]
    part_cuts: tuple[tuple[MaskCut, ...], ...]
    masks: CutMasks


class Split(NamedTuple):
    """Where sorted values are parted; a cut in (below, from_here] keeps the same rows.

    Attributes:
        below: Largest value that is dropped; -inf if none is.
        from_here: Smallest value that is kept; inf if none is.
        gain: Sum of the gains of what is kept.
    """

    below: float
    from_here: float
    gain: float


def choose_mask_cuts(
    counts: PairCounts, kind: CutKind = "triplet", rows: Rows | None = None
) -> tuple[MaskCut, ...]:
    """Choose, for each class, the cut with the highest mean Dice over pairs (empty = 1).

    The search is exact: all thresholds, and every least area that tells rows apart. Ties go
    to the threshold nearest to `DEFAULT`, then to the smallest area. What is reached on
    these rows is optimistic; see `cross_fit_cuts`.

    Args:
        counts: Of held-out rows.
        kind: "fixed": the candidate nearest to `DEFAULT`, unfitted. "pixel": the pixel
            threshold (and what else candidates differ in). "area": that and a least area
            (called doublet in the SIIM solutions). "doublet": a pixel above the top
            threshold tells presence, the bottom one draws the mask. "triplet": top
            threshold, least area above it, and bottom threshold.
        rows: Numbers of the rows to choose on; all if None.

    Returns:
        (C,) cuts.

    Raises:
        InputError: there are no rows, or the kind has another name.

    References:
        SIIM-ACR Pneumothorax Segmentation (2019), place 1 (triplet of top score, area and
        bottom score); Severstal: Steel Defect Detection (2019), place 8.
    """
    if kind not in CUT_KINDS:
        raise InputError(f"kind {kind!r} is not known; expected one of {list(CUT_KINDS)}.")
    chosen = np.arange(len(counts)) if rows is None else rows
    if not len(chosen):
        raise InputError("no rows to choose on; expected one or more.")
    order = _order(counts.candidates)
    if kind == "fixed":
        first = counts.candidates[order[0]]
        return tuple(MaskCut(top=first, bottom=first) for _ in range(counts.counts.shape[1]))
    return tuple(
        _choose_cut(counts, column, chosen, kind, order) for column in range(counts.counts.shape[1])
    )


def cut_masks(counts: PairCounts, cuts: Sequence[MaskCut], rows: Rows | None = None) -> CutMasks:
    """Return the masks that cuts make of rows.

    Args:
        counts: Must have the candidates of the cuts.
        cuts: (C,) one for each class.
        rows: Numbers of rows; all if None.

    Raises:
        InputError: there are more or fewer cuts than classes, or a candidate is missing.
    """
    _check_cuts(counts, cuts)
    chosen = np.arange(len(counts)) if rows is None else rows
    places = [counts.candidates.index(cut.bottom) for cut in cuts]
    columns = np.arange(len(cuts))
    picked = counts.counts[chosen][:, columns, places].astype(np.int64)
    tops = [counts.candidates.index(cut.top) for cut in cuts]
    seen = _read_presences(counts)[chosen][:, columns, tops]
    keep = seen >= np.array([cut.min_area for cut in cuts])
    hit, extra, missed = picked[..., 0], picked[..., 1], picked[..., 2]
    pairs = Pairs(
        truth=hit + missed,
        predicted=np.where(keep, hit + extra, 0),
        intersection=np.where(keep, hit, 0),
    )
    sure = None
    if counts.confidences is not None:
        found = counts.confidences[chosen][:, columns, places]
        sure = np.where(pairs.predicted > 0, found, np.float32(np.nan)).astype(np.float32)
    return CutMasks(pairs, sure, None if counts.tops is None else counts.tops[chosen])


def cross_fit_cuts(counts: PairCounts, parts: Integers, kind: CutKind = "triplet") -> CutFit:
    """Choose cuts without each part, and make the masks of the part by them.

    Args:
        counts: Of held-out rows.
        parts: (N,) number of the part of each row, 0 to K - 1, two or more of them.
        kind: As for `choose_mask_cuts`.

    Raises:
        InputError: as `choose_mask_cuts`, or there are fewer than two parts.
    """
    check_parts(parts, len(counts))
    count = int(parts.max()) + 1
    part_cuts = tuple(
        choose_mask_cuts(counts, kind, np.flatnonzero(parts != part)) for part in range(count)
    )
    pieces = [
        (rows, cut_masks(counts, cuts, rows))
        for part, cuts in enumerate(part_cuts)
        if len(rows := np.flatnonzero(parts == part))
    ]
    return CutFit(kind, choose_mask_cuts(counts, kind), part_cuts, join_masks(pieces))


def take_counts(counts: PairCounts, rows: Rows) -> PairCounts:
    """Return the counts of some rows, in the order given.

    Args:
        counts: Of all rows.
        rows: Numbers of the rows to keep.
    """

    def take(values: Any) -> Any:
        return None if values is None else values[rows]

    return PairCounts(
        candidates=counts.candidates,
        counts=counts.counts[rows],
        confidences=take(counts.confidences),
        tops=take(counts.tops),
        presences=take(counts.presences),
    )


def join_masks(pieces: Sequence[tuple[Rows, CutMasks]]) -> CutMasks:
    """Put the masks of parts together, each row back in its place.

    Args:
        pieces: Row numbers and masks; together all rows, each once.
    """
    order = np.argsort(np.concatenate([rows for rows, _ in pieces]), kind="stable")

    def join(values: Sequence[NDArray[np.generic] | None]) -> NDArray[np.generic] | None:
        known = [value for value in values if value is not None]
        return np.concatenate(known)[order] if known else None

    masks = [piece for _, piece in pieces]
    pairs = Pairs(
        truth=np.concatenate([each.pairs.truth for each in masks])[order],
        predicted=np.concatenate([each.pairs.predicted for each in masks])[order],
        intersection=np.concatenate([each.pairs.intersection for each in masks])[order],
    )
    sure, tops = join([each.confidences for each in masks]), join([each.tops for each in masks])
    return CutMasks(
        pairs,
        None if sure is None else sure.astype(np.float32),
        None if tops is None else tops.astype(np.float32),
    )


def take_masks(masks: CutMasks, rows: Rows) -> CutMasks:
    """Return the masks of some rows."""
    pairs = masks.pairs
    return CutMasks(
        Pairs(
            truth=pairs.truth[rows],
            predicted=pairs.predicted[rows],
            intersection=pairs.intersection[rows],
        ),
        None if masks.confidences is None else masks.confidences[rows],
        None if masks.tops is None else masks.tops[rows],
    )


def measure_gains(pairs: Pairs) -> Float64:
    """Return what the mask of each pair scores more than an empty one would, (N, C).

    Its Dice where the class is there, -1 where it is not, and 0 where the mask is empty.
    """
    gains = divide(2.0 * pairs.intersection, pairs.truth + pairs.predicted, empty=0.0)
    return np.where((pairs.truth == 0) & (pairs.predicted > 0), -1.0, gains)


def split_best(values_N: Floats | Integers, gains_N: Float64) -> Split:
    """Part values so that what lies above gains most; exact, ties keep the most rows.

    Args:
        values_N: What is compared with a cut; a row with NaN is left out.
        gains_N: What keeping each row brings.

    Shape:
        values_N, gains_N: (N,).

    Examples:
        >>> split_best(np.array([1.0, 2, 3]), np.array([-1.0, -0.5, 0.8]))
        Split(below=2.0, from_here=3.0, gain=0.8)
    """
    useful = ~np.isnan(values_N)
    values, gains = np.asarray(values_N)[useful], gains_N[useful]
    order = np.argsort(values, kind="stable")[::-1]
    values, sums = values[order], np.cumsum(gains[order])
    if not len(values):
        return Split(-np.inf, np.inf, 0.0)
    ends = np.append(np.flatnonzero(values[1:] != values[:-1]), len(values) - 1)
    totals = np.append(0.0, sums[ends])
    place = int(np.flatnonzero(totals >= totals.max() - _GAIN)[-1])
    steps = values[ends]
    return Split(
        below=float(steps[place]) if place < len(steps) else -np.inf,
        from_here=float(steps[place - 1]) if place else np.inf,
        gain=float(totals[place]),
    )


def check_parts(parts: Integers, rows: int) -> None:
    """Refuse parts that are not one number a row, or fewer than two.

    Raises:
        InputError: as told.
    """
    if parts.shape != (rows,) or len(np.unique(parts)) < 2 or parts.min() < 0:
        raise InputError(
            f"parts have the shape {parts.shape} and {len(np.unique(parts))} distinct number(s) for"
            f" {rows} rows; expected one number from 0 on for each row, and two parts at least."
        )


def _choose_cut(
    counts: PairCounts, column: int, rows: Rows, kind: CutKind, order: Sequence[int]
) -> MaskCut:
    """Choose the cut of one class."""
    candidates, picked = counts.candidates, counts.counts[rows, column]
    gains = measure_gains(
        Pairs(
            truth=picked[..., 0] + picked[..., 2],
            predicted=picked[..., 0] + picked[..., 1],
            intersection=picked[..., 0],
        )
    )
    areas = _read_presences(counts)[rows, column]
    best, most = MaskCut(top=candidates[order[0]], bottom=candidates[order[0]]), -np.inf
    for bottom in order:
        for top in [bottom, *(place for place in order if place != bottom)]:
            if not _may_tell(candidates[top], candidates[bottom], kind):
                continue
            seen = areas[:, top] >= 1
            least, gain = 1, float(gains[seen, bottom].sum())
            if kind in {"area", "triplet"}:
                split = split_best(areas[seen, top], gains[seen, bottom])
                least, gain = _place_area(split), split.gain
            if gain > most + _GAIN:
                most = gain
                best = MaskCut(top=candidates[top], bottom=candidates[bottom], min_area=least)
    return best


def _may_tell(top: Candidate, bottom: Candidate, kind: CutKind) -> bool:
    """Return if one candidate may tell the presence of what the other draws."""
    if top == bottom:
        return True
    alike = (top.min_component, top.fill_holes) == (bottom.min_component, bottom.fill_holes)
    return kind in {"doublet", "triplet"} and alike and top.threshold > bottom.threshold


def _place_area(split: Split) -> int:
    """Return the whole number midway in a split; 1 where all is kept."""
    if np.isinf(split.from_here):
        return NEVER_AREA if split.below > 0 else 1
    return 1 if np.isinf(split.below) else int(np.ceil((split.below + split.from_here) / 2))


def _read_presences(counts: PairCounts) -> Integers:
    if counts.presences is not None:
        return counts.presences
    return np.asarray(counts.counts[..., 0] + counts.counts[..., 1])


def _order(candidates: Sequence[Candidate]) -> list[int]:
    """Return the numbers of the candidates, the plainest first."""

    def plainness(number: int) -> tuple[float, int, bool]:
        each = candidates[number]
        return (abs(each.threshold - DEFAULT), each.min_component, each.fill_holes)

    return sorted(range(len(candidates)), key=plainness)


def _check_cuts(counts: PairCounts, cuts: Sequence[MaskCut]) -> None:
    if len(cuts) != counts.counts.shape[1]:
        raise InputError(
            f"{len(cuts)} cuts for {counts.counts.shape[1]} classes; expected as many."
        )
    known = set(counts.candidates)
    missing = {each for cut in cuts for each in (cut.top, cut.bottom)} - known
    if missing:
        raise InputError(
            f"counts lack {len(missing)} candidate(s) of the cuts: "
            f"{', '.join(str(each) for each in sorted(missing, key=str))}; expected counts of the "
            "same candidates."
        )
