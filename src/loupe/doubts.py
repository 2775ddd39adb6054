"""Doubts: is a threshold that was fitted better than 0.5, beyond what chance would give?

Where a class is rare or hardly told from the others, the largest F1 lies at thresholds
that decide all rows, or a few lucky ones. It must not fit anything that is kept.

Shapes: N rows, C classes, J blocks of groups, B resamples.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from loupe.condensing import deal_blocks, sum_blocks
from loupe.evidence import Float32, Rows
from loupe.intervals import bootstrap_weights
from loupe.simplex import spread_rows
from loupe.thresholds import Goal, find_cuts
from loupe.weighting import Bool, Float64, Integers, divide

FIT_ROWS = 50_000
"""At most so many rows are read: of more, hardly any threshold is in doubt."""
RESAMPLES = 500
HALF = 0.5
LARGEST_F1 = Goal(kind="fbeta", value=1.0)


def beat_half(
    truth_NC: Bool, probs_NC: Float32, parts: Rows, groups: Rows, *, seed: int = 0
) -> NDArray[np.bool_]:
    """Tell for which classes the threshold of the largest F1 beats 0.5.

    Thresholds are chosen without each part in turn and decide it; the F1 of these
    decisions is compared, on resampled groups, with that of 0.5 and with that of
    deciding every row, which has the larger F1 where a class cannot be told at all. A
    class counts only where the lower ends of both 95 % intervals lie above 0.

    Args:
        truth_NC: Given labels.
        probs_NC: Held-out probabilities, calibrated if they will be.
        parts: Part of each row; with one part nothing beats anything.
        groups: Rows that are drawn together.
        seed: Of the bootstrap.

    Shape:
        truth_NC, probs_NC: (N, C). parts, groups: (N,). Returns (C,).
    """
    rows = spread_rows(len(truth_NC), FIT_ROWS)
    truth, probs, parts = truth_NC[rows], probs_NC[rows], parts[rows]
    names = np.unique(parts)
    if len(names) < 2:
        return np.zeros(truth.shape[1], np.bool_)
    fitted = np.zeros(truth.shape, np.bool_)
    for part in names:
        others, mine = parts != part, parts == part
        cuts = find_cuts(truth[others], probs[others], [LARGEST_F1] * truth.shape[1])
        fitted[mine] = probs[mine] >= np.array([cut.threshold for cut in cuts], np.float32)
    blocks = deal_blocks(groups[rows], seed=seed)
    weights = bootstrap_weights(np.arange(blocks.max() + 1), RESAMPLES, seed)
    reached = _draw_f1(truth, fitted, blocks, weights)
    beats = np.ones(truth.shape[1], np.bool_)
    for rival in (np.asarray(probs >= np.float32(HALF)), np.ones_like(truth)):
        gains = reached - _draw_f1(truth, rival, blocks, weights)
        beats &= np.quantile(gains, 0.025, axis=0) > 0
    return beats


def _draw_f1(truth: Bool, decided: Bool, blocks: Integers, weights: NDArray[np.int32]) -> Float64:
    """(B, C) F1 on resampled blocks; 0 where there is neither a row nor a decision."""
    count = weights.shape[1]
    right = weights @ sum_blocks(truth & decided, blocks, count)
    both = weights @ (sum_blocks(truth, blocks, count) + sum_blocks(decided, blocks, count))
    return np.asarray(divide(2 * right, both, empty=0.0))
