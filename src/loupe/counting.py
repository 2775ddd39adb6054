"""Counting: what each candidate cut hits and misses in the maps of held-out rows.

Owns the pass over rows that keeps counts and drops maps, and a quick way to count many
thresholds at once. It must not choose among candidates, score, or train.

Shapes: n rows, C classes, T candidates, M mappers; H and W height and width of a map.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from loupe.caching import Pixels, read_pixels
from loupe.components import MaskPixels, clean_mask, count_map, take_pixels
from loupe.countfiles import CountSheet, write_counts
from loupe.decoding import read_size
from loupe.errors import MaskError, RunError, TableError
from loupe.mapping import MOST_PIXELS, Mapper, draw_maps, list_drawn, load_mappers
from loupe.maskchoices import MaskWork
from loupe.maskcuts import Candidate, PairCounts
from loupe.masks import decode_rle, resize_mask
from loupe.runs import Run
from loupe.table import Table

Bool = NDArray[np.bool_]
Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
Rows = NDArray[np.intp]
UInt8 = NDArray[np.uint8]

_MOST_ROWS = 64  # opened together, while those before are counted


class CandidateCounts(NamedTuple):
    """What is kept of one map; see `components.MapCounts`.

    Attributes:
        counts: (T, 3) true positives, false positives, false negatives.
        confidences: (T,) mean probability of the pixels of the mask; NaN if it is empty.
        top: Mean of the largest probabilities.
    """

    counts: Int64
    confidences: Float32
    top: float


def count_fold(run: Run, fold: int, *, threads: int, device: str, cache_bytes: int) -> None:
    """Count what the candidates hit and miss in the rows that a fold holds out.

    The maps are those of all members' networks of that fold, with the views of their
    recipes. Classes that no member learns are left out of the sheet.

    Args:
        run: Its jobs of this fold are done. If its counts are there, nothing is done.
        fold: Number of the fold.
        threads: Of the networks on a CPU, and of what opens and counts.
        device: torch device.
        cache_bytes: Limit of the cache of pixels; 0 for none.

    Raises:
        RunError: a job of the fold is not done, or the run does not hold this fold out.
        TableError: the table of the run has no masks.
        MaskError: a mask does not fit its image.
    """
    if run.fold_counts(fold).is_file():
        return
    table = run.table()
    rows = _find_held(run, table, fold)
    if device == "cpu":
        torch.set_num_threads(threads)
    held = _open_held(run, table, fold, device, cache_bytes)
    parts = [_count_chunk(held, chunk, threads) for chunk in _cut_rows(rows, held.mappers)]
    sheet = CountSheet(
        ids=tuple(table.ids[row] for row in rows),
        classes=held.classes,
        folds=np.full(len(rows), fold, np.int16),
        counts=_join(parts),
    )
    write_counts(run.fold_counts(fold), sheet)


def count_rows(
    mappers: Sequence[Mapper],
    classes: Sequence[str],
    images: Sequence[UInt8],
    sizes: Int64,
    truths: Callable[[int], Bool],
    candidates: Sequence[Candidate],
    *,
    shown: Int64,
    threads: int = 1,
) -> PairCounts:
    """Draw the maps of rows and count what candidates hit and miss; maps are dropped.

    Args:
        mappers: Which networks.
        classes: What is counted; each is drawn by a mapper.
        images: Prepared for each mapper, in their order.
        sizes: Height and width at which masks are compared.
        truths: Gives the masks of row 0 to n - 1, at that size; called once for each, in
            any thread.
        candidates: Ways to make a mask of a map.
        shown: Height and width of the image files as shown.
        threads: Count while the next maps are drawn; 1 counts in between.

    Shape:
        images: M arrays (n, h, w, c). sizes, shown: (n, 2). truths: returns (C, H, W).

    Returns:
        Counts of n rows; presence is judged by the whole area of a mask.

    Raises:
        RunError, InputError: see `mapping.draw_maps`; or there are no rows or candidates.
        MaskError: masks have another size than asked for.
    """

    def count(row: int, maps: Float32) -> list[CandidateCounts]:
        pairs = zip(maps, truths(row), strict=True)
        return [count_candidates(probs, truth, candidates) for probs, truth in pairs]

    wanted = np.ones((len(sizes), len(classes)), np.bool_)
    drawn = draw_maps(mappers, classes, images, sizes, wanted, shown=shown)
    found = [each for pairs in _count_ahead(count, drawn, threads) for each in pairs]
    shape = (len(sizes), len(classes), len(candidates))
    return PairCounts(
        candidates=tuple(candidates),
        counts=_narrow(np.array([each.counts for each in found], np.int64).reshape(*shape, 3)),
        confidences=np.array([each.confidences for each in found], np.float32).reshape(shape),
        tops=np.array([each.top for each in found], np.float32).reshape(shape[:2]),
    )


def count_candidates(
    probs: Float32, truth: Bool, candidates: Sequence[Candidate]
) -> CandidateCounts:
    """Count as `components.count_map` does, to the last bit, and faster.

    A mask lies within that of a lower threshold. So plain candidates are counted on the
    pixels that the threshold before has left, the others in the box around them.

    Args:
        probs: Probability of one class at each pixel.
        truth: The given mask, at the same size.
        candidates: Ways to make a mask of the map.

    Shape:
        probs, truth: (H, W).

    Raises:
        MaskError: shapes differ.

    Examples:
        >>> probs = np.float32([[0.9, 0.6], [0.2, 0.0]])
        >>> truth = np.array([[True, False], [True, False]])
        >>> found = count_candidates(probs, truth, [Candidate(threshold=0.5)])
        >>> found.counts.tolist(), found.confidences.tolist()
        ([[1, 1, 1]], [0.75])
    """
    top = count_map(probs, truth, ()).top  # and shapes are checked
    area = int(np.count_nonzero(truth))
    counts = np.zeros((len(candidates), 3), np.int64)
    sure = np.full(len(candidates), np.nan, np.float32)
    order = sorted(range(len(candidates)), key=lambda place: _rank(candidates[place]))
    plain = [place for place in order if not _changes(candidates[place])]
    changed = [place for place in order if _changes(candidates[place])]
    levels = _keep_pixels(probs, truth, [candidates[place] for place in plain])
    cleaned = _clean_boxes(probs, truth, [candidates[place] for place in changed])
    for places, kept in ((plain, levels), (changed, cleaned)):
        for place, pixels in zip(places, kept, strict=True):
            size, hit = len(pixels.probs), int(np.count_nonzero(pixels.truth))
            counts[place] = hit, size - hit, area - hit
            if size:
                sure[place] = pixels.probs.mean(dtype=np.float64)
    return CandidateCounts(counts, sure, top)


def _changes(each: Candidate) -> bool:
    """Return if a candidate does more than to compare with its threshold."""
    return each.fill_holes or each.min_component > 1


def _rank(each: Candidate) -> tuple[float, bool, int]:
    """Return what sorts masks so that each but the first of its kind lies in one before."""
    return each.threshold, each.fill_holes, each.min_component


def _keep_pixels(
    probs: Float32, truth: Bool, candidates: Sequence[Candidate]
) -> Iterator[MaskPixels]:
    """Yield the pixels of each mask, thresholds ascending."""
    left = MaskPixels(probs.ravel(), truth.ravel())
    for each in candidates:
        kept = left.probs >= np.float32(each.threshold)
        left = MaskPixels(left.probs[kept], left.truth[kept])
        yield left


def _clean_boxes(
    probs: Float32, truth: Bool, candidates: Sequence[Candidate]
) -> Iterator[MaskPixels]:
    """Do the same for masks that are cleaned: nothing outside of a mask's box can change."""
    values, inside = probs, truth
    for (threshold, fill), alike in groupby(candidates, key=lambda each: _rank(each)[:2]):
        mask = values >= np.float32(threshold)
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        box = tuple(slice(at[0], at[-1] + 1) if len(at) else slice(0) for at in (rows, columns))
        values, inside = values[box], inside[box]
        cleaned = clean_mask(mask[box], 0, fill)
        yield from take_pixels(cleaned, values, inside, [each.min_component for each in alike])


# Rows of a run ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """What the rows of a fold are counted with; frames by the digest of their spec."""

    table: Table
    mappers: tuple[Mapper, ...]
    classes: tuple[str, ...]
    frames: Mapping[str, Pixels]
    work: MaskWork


def _find_held(run: Run, table: Table, fold: int) -> Rows:
    """Find the rows that a fold holds out."""
    if table.masks is None:
        raise TableError(
            f"the table of {run.folder} has no masks to count against; train on a table with "
            "run-length text, mask images or COCO polygons."
        )
    if fold not in run.folds or run.refit or table.folds is None:
        raise RunError(
            f"{run.folder} holds out no fold {fold}, so there is nothing to count on; it has the "
            f"folds {list(run.folds)} (-1: all rows are trained on)."
        )
    return np.flatnonzero(table.folds == fold)


def _open_held(run: Run, table: Table, fold: int, device: str, cache_bytes: int) -> _Held:
    """Load the networks of a fold, and open the pixels of each; like frames are shared."""
    mappers = load_mappers(run, folds=(fold,), device=device)
    specs = {mapper.spec.digest(): mapper.spec for mapper in mappers}
    opened = {
        digest: read_pixels(table.images, spec, limit_bytes=cache_bytes)
        for digest, spec in specs.items()
    }
    return _Held(
        table=table,
        mappers=mappers,
        classes=list_drawn(mappers, table.classes),
        frames=opened,
        work=mappers[0].recipe.masks,
    )


def _cut_rows(rows: Rows, mappers: Sequence[Mapper]) -> list[Rows]:
    """Part rows so that the images of a part stay small in memory."""
    largest = max(each.spec.height * each.spec.width for each in mappers)
    step = max(1, min(_MOST_ROWS, 4 * MOST_PIXELS // largest))
    return [rows[start : start + step] for start in range(0, len(rows), step)]


def _count_chunk(held: _Held, rows: Rows, threads: int) -> PairCounts:
    """Count some rows of the table."""
    with ThreadPoolExecutor(threads) as pool:
        measured = pool.map(lambda row: read_size(held.table.images[row]), rows)
        shown = np.array(list(measured), np.int64)
        stacks = {
            digest: np.stack(list(pool.map(frames.__getitem__, rows)))
            for digest, frames in held.frames.items()
        }
    size = held.work.size
    return count_rows(
        held.mappers,
        held.classes,
        [stacks[mapper.spec.digest()] for mapper in held.mappers],
        shown if size is None else np.tile(np.array(size, np.int64), (len(rows), 1)),
        lambda at: _decode_truth(held, int(rows[at]), shown[at]),
        held.work.candidates,
        shown=shown,
        threads=threads,
    )


def _decode_truth(held: _Held, row: int, shown: Int64) -> Bool:
    """Return the given masks of a row, (C, H, W)."""
    texts = held.table.masks[row] if held.table.masks is not None else ()
    height, width = (int(side) for side in shown)
    found = []
    for name in held.classes:
        try:
            mask = decode_rle(texts[held.table.classes.index(name)], height, width)
        except MaskError as error:
            raise MaskError(f"{held.table.ids[row]}, class {name!r}: {error}") from None
        found.append(mask if held.work.size is None else resize_mask(mask, held.work.size))
    return np.stack(found)


def _count_ahead(
    count: Callable[[int, Float32], list[CandidateCounts]],
    drawn: Iterator[tuple[int, Float32]],
    threads: int,
) -> Iterator[list[CandidateCounts]]:
    """Count in threads while the next maps are drawn; few maps wait, and the order stays."""
    if threads == 1:
        yield from (count(row, maps) for row, maps in drawn)
        return
    waiting: deque[Future[list[CandidateCounts]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for row, maps in drawn:
            waiting.append(pool.submit(count, row, maps))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        yield from (each.result() for each in waiting)


def _narrow(counts: Int64) -> NDArray[np.int32] | Int64:
    """Halve the file where no count is too large for it."""
    small = counts.max(initial=0) <= np.iinfo(np.int32).max
    return counts.astype(np.int32) if small else counts


def _join(parts: Sequence[PairCounts]) -> PairCounts:
    """Put chunks of rows together."""
    sure = [each.confidences for each in parts if each.confidences is not None]
    tops = [each.tops for each in parts if each.tops is not None]
    return PairCounts(
        candidates=parts[0].candidates,
        counts=np.concatenate([each.counts for each in parts]),
        confidences=np.concatenate(sure),
        tops=np.concatenate(tops),
    )
