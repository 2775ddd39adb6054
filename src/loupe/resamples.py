"""Resamples: thresholds chosen again on resampled groups, and scored on others.

Owns the resampled counts. Rows are summed by blocks (`condensing`) and by candidates: all
distinct probabilities if they are few, else about a thousand, finely where thresholds lie.
A resample is then a row of a small product of matrices. It must not make intervals or words.

Shapes: N rows, B resamples, J blocks of rows drawn together, T candidates (thresholds
that a resample may choose).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from loupe.intervals import bootstrap_weights
from loupe.thresholds import (
    NEVER,
    Counts,
    Float32,
    Goal,
    Ladder,
    Places,
    build_ladder,
    choose,
)
from loupe.weighting import Bool, Float64, divide

CANDIDATES = 1000
"""About how many thresholds a resample chooses from."""
PILOT = 200
"""Resamples that find out where the thresholds of all others will lie."""


class Outcome(NamedTuple):
    """Counts of decisions: numbers for one table, (B,) for resamples.

    Attributes:
        found: Positive rows that were decided.
        called: Rows that were decided.
        positives: Positive rows.
    """

    found: Counts
    called: Counts
    positives: Counts

    def trials(self, metric: str) -> Counts:
        """Return of how many trials `found` are the successes.

        Args:
            metric: "precision": of the decided rows. "recall": of the positive rows. "f1":
                of TP + FP + FN, whose share J is F1 / (2 - F1).
        """
        if metric == "precision":
            return self.called
        return self.positives if metric == "recall" else self.called + self.positives - self.found

    def share(self, metric: str) -> Float64:
        """Return the share of successes; NaN without trials or without positives."""
        share = divide(self.found, self.trials(metric))
        return np.where(np.asarray(self.positives) > 0, share, np.nan)


class Column(NamedTuple):
    """One class, each array (N,) and contiguous.

    Attributes:
        truth: Given labels.
        final: Probabilities that thresholds are chosen on.
        held: Probabilities as they would be of new rows; may be the same array.
        blocks: Number of the block of each row.
    """

    truth: Bool
    final: Float32
    held: Float32
    blocks: Places


class Draws(NamedTuple):
    """Thresholds chosen on resamples that hold positives, each (B,).

    Attributes:
        thresholds: As chosen.
        own: What each decides on the rows it was chosen on.
        other: What each decides on an independent resample.
    """

    thresholds: Float64
    own: Outcome
    other: Outcome


def count_outcome(truth_N: Bool, decided_N: Bool) -> Outcome:
    """Count what was decided of all rows.

    Shape:
        truth_N, decided_N: (N,).
    """
    counts = (truth_N & decided_N, decided_N, truth_N)
    found, called, positives = (np.asarray(np.count_nonzero(flags)) for flags in counts)
    return Outcome(found, called, positives)


def draw_weights(blocks: Places, resamples: int, seed: int) -> Float32:
    """Draw blocks with replacement: how often each is taken, (B, J).

    Args:
        blocks: (N,) from `condensing.deal_blocks`.
        resamples: B.
        seed: Of the draws.
    """
    return bootstrap_weights(np.arange(int(blocks.max()) + 1), resamples, seed).astype(np.float32)


def draw_thresholds(column: Column, goal: Goal, weights: Float32) -> Draws:
    """Choose a threshold on each resample, and score it there and on another resample.

    Args:
        column: The rows.
        goal: What the threshold is for; a fixed one is not chosen, only scored.
        weights: (B, J) how often each block is taken.
    """
    if goal.kind == "fixed":
        values = np.array([goal.value, 0.0], np.float32)
        thresholds = np.array([NEVER, goal.value, 0.0])
    else:
        ladder = build_ladder(column.truth, column.final)
        places = _pick_candidates(ladder, column, goal, weights)
        values = ladder.values[places]
        thresholds = np.append(NEVER, (values + np.append(ladder.values, 0.0)[places + 1]) / 2)
        thresholds[-1] = 0.0
    found, called = _resample(column.truth, column.final, values, column.blocks, weights)
    positives = found[:, -1]
    chosen = np.ones(len(weights), np.intp)
    if goal.kind != "fixed":
        chosen = choose(found, called, goal)
    own = Outcome(_take(found, chosen), _take(called, chosen), positives)
    if column.held is not column.final:
        cuts = thresholds[1:].astype(np.float32)
        found, called = _resample(column.truth, column.held, cuts, column.blocks, weights)
    # Any two resamples are independent, so the next one serves as the other table.
    found, called = (np.roll(counts, -1, axis=0) for counts in (found, called))
    other = Outcome(_take(found, chosen), _take(called, chosen), np.roll(positives, -1))
    useful = positives > 0
    return Draws(thresholds[chosen][useful], _keep(own, useful), _keep(other, useful))


def _pick_candidates(ladder: Ladder, column: Column, goal: Goal, weights: Float32) -> Places:
    """Return places of probabilities in a ladder, the lowest always among them.

    All if they are not too many. Else some resamples choose among probabilities spread
    evenly over rows and over positive rows, and the final ones lie where they chose.
    """
    last = len(ladder.values) - 1
    if last < CANDIDATES:
        return np.arange(last + 1)
    coarse = _space(ladder, 0, last)
    values = ladder.values[coarse]
    found, called = _resample(column.truth, column.final, values, column.blocks, weights[:PILOT])
    chosen = choose(found, called, goal)[found[:, -1] > 0]
    if not len(chosen):
        return coarse
    first, final = int(chosen.min()), int(chosen.max())
    margin = 1 + (final - first) // 2
    start = coarse[max(first - 1 - margin, 0)]
    end = coarse[min(final - 1 + margin, len(coarse) - 1)]
    return np.union1d(_space(ladder, int(start), int(end)), [last])


def _space(ladder: Ladder, start: int, end: int) -> Places:
    """Return about `CANDIDATES` places from start to end, both included, evenly over the rows."""
    if end - start < CANDIDATES:
        return np.arange(start, end + 1)
    picked = [np.array([start, end])]
    for counts in (ladder.found[1:], ladder.called[1:]):
        marks = np.linspace(counts[start], counts[end], CANDIDATES // 2)
        picked.append(np.searchsorted(counts[start : end + 1], marks) + start)
    return np.unique(np.concatenate(picked))


def _resample(
    truth: Bool, probs: Float32, values: Float32, blocks: Places, weights: Float32
) -> tuple[Float32, Float32]:
    """Count what each candidate decides in each resample: positive rows, and all rows.

    Args:
        truth: Given labels.
        probs: Probabilities.
        values: The lowest probability that each candidate but the first decides, falling.
        blocks: Number of the block of each row.
        weights: How often each block is taken.

    Shape:
        truth, probs, blocks: (N,). values: (T - 1,). weights: (B, J). Returns (B, T) twice.
    """
    size, count = len(values) + 1, weights.shape[1]
    place = size - np.searchsorted(values[::-1], probs, side="right")
    # The last candidate decides all rows, whatever another sheet of probabilities holds.
    cell = blocks * size + np.minimum(place, size - 1)
    # Whole numbers are added up faster than floats.
    called, found = (
        np.cumsum(np.bincount(cells, minlength=count * size).reshape(count, size), axis=1)
        for cells in (cell, cell[truth])
    )
    return weights @ found.astype(np.float32), weights @ called.astype(np.float32)


def _keep(outcome: Outcome, rows: Bool) -> Outcome:
    return Outcome(outcome.found[rows], outcome.called[rows], outcome.positives[rows])


def _take(counts: Float32, places: Places) -> Float32:
    return np.take_along_axis(counts, places[:, None], axis=1)[:, 0]
