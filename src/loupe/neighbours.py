"""Neighbours: the rows that look most alike, by the angle between their features.

It must not know tables, files or labels.

Shapes: N rows, D features, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Bool = NDArray[np.bool_]

_BLOCK = 4096  # rows at a time, so that features on disk need not fit into memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """Rows as points, and how long each is.

    Attributes:
        values: (N, D) features; may be mapped from a file.
        lengths: (N,) their norms; NaN where a row has no features.
    """

    values: Float32
    lengths: Float32


def open_space(values: Float32) -> Space:
    """Measure features once, so that neighbours are found quickly.

    Args:
        values: A row of NaN, or of zeros, has no direction and is nobody's neighbour.

    Shape:
        values: (N, D).
    """
    lengths = np.full(len(values), np.nan, np.float32)
    for start in range(0, len(values), _BLOCK):
        block = np.asarray(values[start : start + _BLOCK], np.float32)
        lengths[start : start + _BLOCK] = np.sqrt(np.einsum("nd,nd->n", block, block))
    lengths[~(lengths > 0)] = np.nan
    return Space(values=values, lengths=lengths)


def find_nearest(space: Space, row: int, candidates: Bool, count: int) -> tuple[int, ...]:
    """Find the rows nearest to one row by cosine distance, the nearest first.

    Args:
        space: See `open_space`.
        row: Its own number is never among them.
        candidates: Which rows may be named.
        count: How many, at most.

    Shape:
        candidates: (N,).

    Returns:
        Numbers of rows; equal distances in the order of the rows. Empty if the row
        itself has no features.

    Examples:
        >>> space = open_space(np.array([[1, 0], [2, 1], [0, 3], [5, 0]], np.float32))
        >>> find_nearest(space, 0, np.ones(4, bool), 2)
        (3, 1)
    """
    asked = candidates & ~np.isnan(space.lengths)
    asked[row] = False
    rows = np.flatnonzero(asked)
    if np.isnan(space.lengths[row]) or not len(rows):
        return ()
    own = np.asarray(space.values[row], np.float32) / space.lengths[row]
    near = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _BLOCK):
        part = rows[start : start + _BLOCK]
        near[start : start + _BLOCK] = space.values[part] @ own / space.lengths[part]
    best = np.argsort(-near, kind="stable")[:count]
    return tuple(int(rows[place]) for place in best)


def place_probabilities(probs_NC: Float32, *, exclusive: bool) -> Float32:
    """Return probabilities as points whose angle says how far two rows are apart.

    Square roots of probabilities have length 1, and the cosine of two rows is their
    Bhattacharyya coefficient. Of classes that stand alone each has two of them, one
    for present and one for absent; without the second, rows of one class would all
    have the same direction.

    Args:
        probs_NC: Probabilities; NaN where a row has none.
        exclusive: True if they sum to 1.

    Shape:
        Returns: (N, C), or (N, 2 C) where classes stand alone.

    References:
        Bhattacharyya (1943), "On a measure of divergence between two statistical
        populations defined by their probability distributions".

    Examples:
        >>> place_probabilities(np.array([[0.64]], np.float32), exclusive=False).round(2).tolist()
        [[0.800000011920929, 0.6000000238418579]]
    """
    parts = [probs_NC] if exclusive else [probs_NC, 1 - probs_NC]
    # Rounding may have left -1e-9.
    return np.sqrt(np.clip(np.concatenate(parts, axis=1), 0, 1), dtype=np.float32)
