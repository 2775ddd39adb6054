"""Condensing: a large table as at most a thousand blocks of rows, for fast resampling.

A bootstrap of single groups adds up all rows again for each resample. Here whole groups
are dealt at random to J blocks, the sums of each block are taken once, and the blocks are
drawn in place of the groups: a resample is then a row of a small product of matrices.

Why the spread is right. A score is a function of sums over independent groups. Dealing
them at random changes neither the sums nor their independence, so the sums of J blocks
are J independent draws from one law, and their spread estimates the same variance, with
J - 1 degrees of freedom in place of the number of groups: at J = 1000 an interval's width
has a relative error of 1 / sqrt(2 J), 2 %, which is that of 1000 resamples. Blocks need
not be of equal size, because scores are ratios of sums: a large block adds to both parts.
A class with few positives stays right too. They are spread over the blocks, nearly all in
one of their own, so each is drawn 0, 1, 2 ... times as in the plain bootstrap. Where there
are no more than J groups, each is a block, and nothing but time changes.

Rankings need more than sums. Each column is cut into bins whose edges stand at positives,
at most `BINS` bins with positives and one between each two of them; the rows in a bin
count as tied. With `BINS` positives or fewer every tie is a real one and the draws are
exact. Else they are moved by what the bins change of the score on all rows, which is
known exactly.

It must not make intervals or know files.

Shapes: N rows, C classes, B resamples, J blocks, T bins that hold positives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from loupe.errors import InputError
from loupe.metrics import add_gaps, find_gaps
from loupe.ranking import Ranking
from loupe.scorecard import (
    FAMILIES,
    Family,
    Sheet,
    Values,
    flag_rows,
    gather_values,
    make_tally,
    score_areas,
    score_calibration,
    score_losses,
    score_tally,
    take_areas,
)
from loupe.weighting import BLOCK, Bool, Float64, Floats, Integers, divide

BLOCKS = 1000
"""Most blocks: the width of an interval is then known to 2 %."""
BINS = 512
"""Most bins of a column that hold positives; one holds 0.2 % of them."""
LARGE = 10_000
"""Rows above which a table is condensed."""
_EXACT_IN_FLOAT32 = 1 << 23  # whole numbers below twice this are exact


def deal_blocks(
    groups: Sequence[str] | Sequence[int] | Integers, most: int = BLOCKS, seed: int = 0
) -> Integers:
    """Deal whole groups at random to blocks of as many groups each.

    The order is drawn from the raw stream of Philox, which is fixed by its definition. It
    depends on the sorted names of the groups, not on the order of the rows.

    Args:
        groups: Group of each row; `range(N)` where rows stand alone.
        most: How many blocks at most. Up to so many groups are a block each.
        seed: 0 or more; another one deals otherwise.

    Shape:
        groups: (N,).

    Returns:
        (N,) number of the block of each row, from 0. Blocks differ by one group at most.

    Raises:
        InputError: `most` is below 2 or `seed` below 0.

    Examples:
        >>> deal_blocks(["b", "a", "b"]).tolist()
        [1, 0, 1]
        >>> np.bincount(deal_blocks(range(10), most=4)).tolist()
        [3, 3, 2, 2]
    """
    if most < 2 or seed < 0:
        raise InputError(f"most is {most} and seed {seed}; expected 2 or more, and 0 or more.")
    keys = number_groups(groups)
    count = int(keys.max()) + 1 if len(keys) else 0
    if count <= most:
        return keys
    order = np.argsort(np.random.Philox(key=seed).random_raw(count), kind="stable")
    blocks = np.empty(count, np.intp)
    blocks[order] = np.arange(count) % most
    return np.asarray(blocks[keys])


def number_groups(groups: Sequence[str] | Sequence[int] | Integers) -> Integers:
    """Number equal names alike, from 0, in sorted order."""
    if isinstance(groups, range) and groups == range(len(groups)):
        return np.arange(len(groups))
    return np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1)


def measure_blocks(
    sheet: Sheet,
    blocks: Integers,
    draws: NDArray[np.integer],
    exact: Mapping[tuple[str, int], Float64],
    families: Sequence[Family] = FAMILIES,
) -> dict[tuple[str, int], Float64]:
    """Take every score under resamples of blocks.

    Args:
        sheet: From `read_sheet`.
        blocks: Number of the block of each row, from `deal_blocks`.
        draws: How often each block was drawn.
        exact: The scores on all rows, from `measure`: where the draws of rankings belong.
        families: Which scores; from `find_family`, or all.

    Shape:
        blocks: (N,). draws: (B, J). exact: (1,) or more each, the first on all rows.

    Returns:
        (B,) values by (metric, column), as `measure` of the weights ``draws[:, blocks]``.
    """
    ones = np.ones((1, draws.shape[1]), draws.dtype)
    drawn = np.concatenate([ones, draws])
    found = {family: _MEASURES[family](sheet, blocks, drawn) for family in families}
    values = gather_values(sheet, [list(found.values())])
    binned = found.get("rankings", ({}, {}))
    names = {*binned[0], *binned[1]}
    for key, drawn_values in values.items():
        value = drawn_values[1:]
        if key[0] in names:
            shift = exact[key][0] - drawn_values[0]
            value = np.clip(value + shift, 0, 1)
        values[key] = value
    return values


def sum_blocks(values_NC: Bool | Floats, blocks: Integers, count: int) -> Float64:
    """Add up the rows of each block, column by column.

    Shape:
        values_NC: (N, C). blocks: (N,), from 0 to count - 1. Returns (count, C).
    """
    sums = [
        np.bincount(blocks[column], minlength=count)
        if column.dtype == np.bool_
        else np.bincount(blocks, column, minlength=count)
        for column in values_NC.T
    ]
    return np.stack(sums, axis=-1).astype(np.float64)


def _measure_decisions(sheet: Sheet, blocks: Integers, draws: NDArray[np.integer]) -> Values:
    count, weights = draws.shape[1], draws.astype(np.float64)
    sums = {
        name: weights @ sum_blocks(flags, blocks, count) for name, flags in flag_rows(sheet).items()
    }
    return score_tally(sheet, make_tally(sums, weights @ np.bincount(blocks, minlength=count)))


def _measure_losses(sheet: Sheet, blocks: Integers, draws: NDArray[np.integer]) -> Values:
    count, weights = draws.shape[1], draws.astype(np.float64)
    total = weights @ np.bincount(blocks, minlength=count)

    def average(values_N: Float64) -> Float64:
        return divide(weights @ np.bincount(blocks, values_N, minlength=count), total)

    columns = zip(sheet.targets.T, sheet.probs.T, strict=True)
    squares = [average((p.astype(np.float64) - t) ** 2) for t, p in columns]
    return score_losses(average(sheet.log_loss), average(sheet.brier), np.stack(squares, axis=-1))


def _measure_calibration(sheet: Sheet, blocks: Integers, draws: NDArray[np.integer]) -> Values:
    count, weights = draws.shape[1], draws.astype(np.float64)
    total = weights @ np.bincount(blocks, minlength=count)
    parts = []
    for slot, gap in find_gaps(sheet.truth, sheet.probs, exclusive=sheet.exclusive):
        bins = int(slot.max()) + 1
        cells = np.bincount(blocks * bins + slot, gap, minlength=count * bins)
        parts.append(weights @ cells.reshape(count, bins))
    return score_calibration(add_gaps(parts, total))


def _measure_rankings(sheet: Sheet, blocks: Integers, draws: NDArray[np.integer]) -> Values:
    # Half the time and memory; the counts are whole numbers and stay exact.
    small = len(blocks) < _EXACT_IN_FLOAT32
    weights: Floats = draws.astype(np.float32 if small else np.float64)
    step = max(1, BLOCK // (2 * BINS))
    parts = [weights[start : start + step] for start in range(0, len(draws), step)]
    areas = []
    for truth, probs in zip(sheet.truth.T, sheet.ranked.T, strict=True):
        counts = _count_bins(truth, probs, blocks, draws.shape[1])
        hits, rows = (count.astype(weights.dtype) for count in counts)
        areas.append(take_areas(_rank_bins(part @ hits, part @ rows) for part in parts))
    return score_areas(sheet, areas)


def _count_bins(
    truth_N: Bool, probs_N: Floats, blocks: Integers, count: int
) -> tuple[Integers, Integers]:
    """Count positives (J, T) and rows (J, 2 T + 1) by block and bin, best bin first."""
    edges = _cut_bins(np.sort(probs_N[truth_N]))
    width = len(edges) + 1
    # From the best bin down, as a ranking goes. Odd bins hold positives, even ones none.
    cells = width - 1 - np.searchsorted(edges, probs_N, side="right")
    cells += blocks * width
    rows = np.bincount(cells, minlength=count * width).reshape(count, width)
    hits = np.bincount(cells[truth_N], minlength=count * width).reshape(count, width)
    return hits[:, 1::2], rows


def _cut_bins(positives: Floats) -> Floats:
    """Return where bins with positives begin and end, in turn, from sorted positives."""
    if not len(positives):
        return positives
    begins = np.linspace(0, len(positives), min(len(positives), BINS), endpoint=False)
    lows = np.unique(positives[begins.astype(np.intp)])
    highs = positives[np.append(np.searchsorted(positives, lows[1:]), len(positives)) - 1]
    ends = np.nextafter(highs, np.inf, dtype=positives.dtype)
    return np.stack([lows, ends], axis=1).reshape(-1)


def _rank_bins(hits: Floats, rows: Floats) -> Ranking:
    """Go down the bins of one column: hits (B, T) and rows (B, 2 T + 1)."""
    gained = hits.astype(np.float64)
    seen = np.cumsum(rows, axis=1, dtype=np.float64)
    return Ranking(
        gained=gained,
        found=np.cumsum(gained, axis=1),
        before=seen[:, 0:-1:2],
        seen=seen[:, 1::2],
        total=seen[:, -1],
    )


_MEASURES: dict[Family, Callable[[Sheet, Integers, NDArray[np.integer]], Values]] = {
    "decisions": _measure_decisions,
    "losses": _measure_losses,
    "calibration": _measure_calibration,
    "rankings": _measure_rankings,
}
