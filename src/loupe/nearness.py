"""Nearness: how far rows lie from the rows of a reference, measured by its own spread.

Needs no second kind of rows to learn from, so it also finds the one odd row among a
thousand usual ones, to which a classifier is blind. It must not know images or tables.

Shapes: N rows, R reference rows, D numbers of a row.
"""

from __future__ import annotations

import numpy as np

from loupe.errors import InputError
from loupe.weighting import Bool, Float64, Floats, Integers

_NEIGHBOURS = 5
_MOST_REFERENCE = 20_000  # neighbours are looked for among so many
_MOST_JUDGES = 2_000  # and what is usual is learnt from so many
_FARTHEST = 8.0  # robust deviations; one wild number must not be all
_TO_SIGMA = 1.4826  # median absolute deviation to the sigma of a normal law
_BLOCK = 512


def rank_remoteness(rows_ND: Floats, reference_N: Bool, groups_N: Integers) -> Float64:
    """Return the share of the reference that lies nearer to its kin than each row does.

    Each number is centred at the reference's median and divided by its robust deviation.
    A row's distance is the mean of those to its 5 nearest reference rows of other
    groups. A value of 1 says: further out than every row of the reference; a row like
    those of the reference has a value drawn from (0, 1) at random.

    Args:
        rows_ND: Numbers of all rows.
        reference_N: Which rows are the reference; beyond 20,000 of them, evenly
            spaced ones are taken.
        groups_N: Rows of a group are not each other's neighbours.

    Shape:
        rows_ND: (N, D). reference_N, groups_N: (N,). Returns: (N,).

    Raises:
        InputError: the reference has fewer than 2 groups, or shapes disagree.

    References:
        Ramaswamy, Rastogi & Shim (2000), "Efficient algorithms for mining outliers
        from large data sets" (distance to the k nearest); Vovk, Gammerman & Shafer
        (2005), "Algorithmic learning in a random world" (the rank among one's own).
    """
    if rows_ND.ndim != 2 or not reference_N.shape == groups_N.shape == rows_ND.shape[:1]:
        raise InputError(
            f"rows have shape {rows_ND.shape}, reference {reference_N.shape} and groups "
            f"{groups_N.shape}; expected (N, D), (N,) and (N,)."
        )
    if len(np.unique(groups_N[reference_N])) < 2:
        raise InputError("the reference has fewer than 2 groups; expected 2 or more.")
    scaled = _scale(rows_ND, reference_N)
    kin = _spread_out(np.flatnonzero(reference_N), _MOST_REFERENCE)
    distances = _find_distances(scaled, np.arange(len(scaled)), kin, groups_N)
    judges = np.sort(distances[_spread_out(kin, _MOST_JUDGES)])
    return np.asarray(np.searchsorted(judges, distances, side="left") / len(judges))


def _scale(rows: Floats, reference: Bool) -> Float64:
    own = rows[reference].astype(np.float64)
    middle = np.median(own, axis=0)
    spread = np.median(np.abs(own - middle), axis=0) * _TO_SIGMA
    # A number that most of the reference share: its plain deviation, then that of all rows.
    for fallback in (own.std(axis=0), rows.std(axis=0), np.ones(rows.shape[1])):
        spread = np.where(spread > 0, spread, fallback)
    return np.clip((rows - middle) / spread, -_FARTHEST, _FARTHEST)


def _find_distances(scaled: Float64, asked: Integers, kin: Integers, groups: Integers) -> Float64:
    near, found = scaled[kin], np.empty(len(asked))
    lengths = (near**2).sum(axis=1)
    for start in range(0, len(asked), _BLOCK):
        rows = asked[start : start + _BLOCK]
        block = scaled[rows]
        squares = lengths - 2 * (block @ near.T) + (block**2).sum(axis=1)[:, None]
        squares[groups[rows][:, None] == groups[kin]] = np.inf
        count = min(_NEIGHBOURS, len(kin))
        nearest = np.partition(squares, count - 1, axis=1)[:, :count]
        reached = np.isfinite(nearest)
        roots = np.sqrt(np.where(reached, nearest, 0).clip(0))
        found[start : start + _BLOCK] = roots.sum(axis=1) / reached.sum(axis=1).clip(1)
    return found


def _spread_out(rows: Integers, most: int) -> Integers:
    """Take at most so many, evenly spaced."""
    if len(rows) <= most:
        return rows
    return np.asarray(rows[np.linspace(0, len(rows) - 1, most).astype(np.intp)])
