"""Votes: how the images nearest to each one are labelled.

A second opinion beside a network's: a wrong label is found where the pictures around say so. It
must not know ids or files, or judge a label.

Shapes: N rows, D features, C classes, K neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loupe.errors import InputError
from loupe.weighting import Bool, Float64, Floats, Integers

NEIGHBOURS = (10, 20, 40)
"""How many may vote."""
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
"""How much their votes may weigh beside the network."""
_NEARER = 5.0  # a vote counts exp(5 x cosine)
_UNDECIDED = 0.5  # of a vote, spread over all classes
_LEAST = 1e-3  # added before logarithms
_TEMPERATURES = (0.25, 0.35, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5)  # powers of the probabilities
_GAIN = 1e-4  # least gain in mean log likelihood
_MOST_REFERENCE = 20_000  # neighbours are looked for among so many
_BLOCK = 1024

Int64 = NDArray[np.int64]
Nearest = tuple[Int64, Float64]
"""(N, K) numbers of the nearest rows, -1 for none, and (N, K) cosines, nearest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixed:
    """A network and the neighbours, agreed.

    Attributes:
        probs: (N, C) float64, rows summing to 1.
        neighbours: How many voted.
        share: What their votes weigh, in [0, 1); 0 leaves the network alone.
    """

    probs: Float64
    neighbours: int
    share: float


def mix_votes(given: Integers, probs: Floats, nearest: Nearest) -> Mixed:
    """Mix held-out probabilities with the votes of the nearest rows.

    The mean of the logarithms; how many vote, and what that weighs, is what makes the given
    labels most likely. Neither has seen the label of its own row, so that this is an honest
    judge, and it needs no true labels.

    Args:
        given: Numbers of the given classes.
        probs: Held-out probabilities, rows summing to 1.
        nearest: From `find_nearest`.

    Shape:
        given: (N,). probs: (N, C).
    """
    at = np.arange(len(given))
    own = np.log(probs.astype(np.float64) + _LEAST)
    found = Mixed(probs=_normalise(own), neighbours=0, share=0.0)
    # Votes that say nothing would still help a network that is too sure: let it cool down first.
    tempered = [temperature * own for temperature in _TEMPERATURES]
    likelihoods = [float(np.log(_normalise(each)[at, given]).mean()) for each in tempered]
    best = max(likelihoods)
    own = tempered[likelihoods.index(best)]
    for most in NEIGHBOURS:
        votes = np.log(count_votes(given, nearest, probs.shape[1], most) + _LEAST)
        for share in SHARES[1:]:
            mixed = _normalise((1 - share) * own + share * votes)
            likelihood = float(np.log(mixed[at, given]).mean())
            # A larger share must pay for itself, not win by rounding.
            if likelihood > best + _GAIN:
                best, found = likelihood, Mixed(probs=mixed, neighbours=most, share=share)
    return found


def count_votes(given: Integers, nearest: Nearest, classes: int, most: int) -> Float64:
    """Count how the nearest rows are labelled; the nearer, the more a vote counts.

    Args:
        given: Numbers of the given classes.
        nearest: From `find_nearest`.
        classes: C.
        most: How many vote.

    Shape:
        given: (N,). Returns: (N, C), rows summing to 1.
    """
    rows, likeness = nearest[0][:, :most], nearest[1][:, :most]
    weights = np.where(rows >= 0, np.exp(_NEARER * likeness), 0.0)
    counted = np.zeros((len(rows), classes))
    at = np.arange(len(rows))
    for column in range(rows.shape[1]):
        # A row has one neighbour in each column, so that nothing is counted into twice at once.
        counted[at, given[rows[:, column]]] += weights[:, column]
    whole = counted.sum(axis=1, keepdims=True) + _UNDECIDED
    return np.asarray((counted + _UNDECIDED / classes) / whole)


def find_nearest(features: Floats, apart: Integers | None = None) -> Nearest:
    """Find the rows whose features point the same way, each row's own left out.

    Features are centred and scaled by their deviation first. Beyond 20,000 rows, evenly spaced
    ones are the neighbours of all. A row with a feature that is no number has none.

    Args:
        features: Of the frozen network.
        apart: Rows of equal number are not each other's neighbours; None parts nobody.

    Shape:
        features: (N, D). apart: (N,).

    Raises:
        InputError: there are no rows, or shapes disagree.
    """
    if features.ndim != 2 or not len(features):
        raise InputError(f"features have shape {features.shape}; expected (N, D) with N above 0.")
    known: Bool = np.asarray(np.isfinite(features).all(axis=1))
    kin = np.flatnonzero(known)
    if len(kin) > _MOST_REFERENCE:
        kin = kin[np.linspace(0, len(kin) - 1, _MOST_REFERENCE).astype(np.intp)]
    units = _point(features, known)
    most = max(NEIGHBOURS)
    count = min(most, max(len(kin) - 1, 0))
    rows = np.full((len(features), most), -1, np.int64)
    likeness = np.full((len(features), most), -1.0)
    own = np.arange(len(features)) if apart is None else apart
    for start in range(0, len(features) if count else 0, _BLOCK):
        block = slice(start, start + _BLOCK)
        cosines = units[block] @ units[kin].T
        cosines[own[block][:, None] == own[kin]] = -np.inf
        best = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
        values = np.take_along_axis(cosines, best, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        values = np.take_along_axis(values, order, axis=1)
        found = kin[np.take_along_axis(best, order, axis=1)]
        there = np.isfinite(values) & known[block][:, None]
        rows[block, :count] = np.where(there, found, -1)
        likeness[block, :count] = np.where(there, values, -1.0)
    return rows, likeness


def mates_disagree(given: Integers, groups: Integers, rate: float) -> bool:
    """Tell whether the rows of a group were labelled one by one.

    Then a mate's label is a second opinion. Where people label a plate and all its photographs
    get the label, mates agree whatever is true, and asking them would hide what is wrong.

    Args:
        given: Numbers of the given classes.
        groups: Number of the group of each row.
        rate: Estimated share of wrong labels, in [0, 1].

    Returns:
        True if mates have other labels at least half as often as independent errors at this rate
        would give, 2 x rate.
    """
    order = np.argsort(groups, kind="stable")
    same: Bool = groups[order][1:] == groups[order][:-1]
    if not same.any():
        return False
    differ = given[order][1:] != given[order][:-1]
    return bool(differ[same].mean() >= rate > 0)


def _normalise(logs: Float64) -> Float64:
    values = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(values / values.sum(axis=1, keepdims=True))


def _point(features: Floats, known: Bool) -> NDArray[np.float32]:
    """Centre, scale, and bring to length 1; unknown rows are zero."""
    values = np.where(known[:, None], features, 0).astype(np.float32)
    own = values[known]
    if not len(own):
        return values
    deviation = own.std(axis=0)
    values = (values - own.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
    values[~known] = 0
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.where(length > 0, length, 1), np.float32)
