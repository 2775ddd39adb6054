"""Noise: which given labels held-out probabilities contradict, by the rules in use.

Owns the arithmetic of confident learning and of plain disagreement, for exclusive classes;
a class that stands alone is two exclusive ones, absent and present. It must not know ids,
files or how a label is written.

Shapes: N rows, C classes.

References:
    Northcutt, Jiang & Chuang (2021), "Confident learning: estimating uncertainty in dataset
    labels", JAIR 70: thresholds eq. 2, joint eq. 1 and 3, pruning rules section 3.2. Agreement
    with cleanlab, row by row, is tested.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from loupe.errors import InputError
from loupe.weighting import Bool, Float64, Floats, Integers, Weights

Int64 = NDArray[np.int64]

NOBODY = -1
"""In place of a class: the row is confidently of none."""
CONFIDENT = 0.8
"""Probability from which disagreement counts as confident: 1.6 for the sum of two views."""
_SLACK = 1e-6  # a probability equal to a threshold, but for rounding, reaches it
_LOWEST = 1e-6 * 2  # a threshold of 0 would make every row confident


def find_class_thresholds(
    given: Integers, probs: Floats, weights: Weights | None = None
) -> Float64:
    """Return the mean probability of each class over the rows labelled so.

    Args:
        given: Numbers of the given classes.
        probs: Held-out probabilities.
        weights: How often each row counts, as in a resample; once if None.

    Shape:
        given, weights: (N,). probs: (N, C). Returns: (C,); 2, which no row reaches, for a class
        that no row has.

    Raises:
        InputError: shapes disagree, or a number is no class.
    """
    _check(given, probs)
    count = probs.shape[1]
    own = probs[np.arange(len(given)), given].astype(np.float64)
    rows = np.bincount(given, weights, minlength=count)
    sums = np.bincount(given, own if weights is None else own * weights, minlength=count)
    means = np.divide(sums, rows, out=np.full(count, 2.0), where=rows > 0)
    return np.asarray(np.maximum(means, _LOWEST))


def guess_classes(given: Integers, probs: Floats, weights: Weights | None = None) -> Int64:
    """Return the class that each row is confidently of, or `NOBODY`.

    A class counts if its probability reaches the mean over the rows labelled so. Where several
    do, it is the most probable class of all that counts, as in cleanlab, even if that one has
    a higher mean to reach.

    Args:
        given: Numbers of the given classes.
        probs: Held-out probabilities.
        weights: How often each row counts in these means; once if None.

    Shape:
        given, weights: (N,). probs: (N, C). Returns: (N,).

    Examples:
        >>> given = np.array([0, 0, 1])
        >>> guess_classes(given, np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]]))
        array([0, 1, 1])
    """
    reached = probs >= find_class_thresholds(given, probs, weights) - _SLACK
    several = reached.sum(axis=1) > 1
    guessed = np.where(several, probs.argmax(axis=1), reached.argmax(axis=1))
    return np.where(reached.any(axis=1), guessed, NOBODY).astype(np.int64)


def count_confident(given: Integers, probs: Floats, weights: Weights | None = None) -> Float64:
    """Count the rows of each given class that are confidently of each class.

    Args:
        given: Numbers of the given classes.
        probs: Held-out probabilities.
        weights: How often each row counts; once if None.

    Shape:
        given, weights: (N,). probs: (N, C). Returns: (C, C), given class by true class; every
        class has at least one sound row.
    """
    count = probs.shape[1]
    guessed = guess_classes(given, probs, weights)
    known = guessed != NOBODY
    cells = np.bincount(
        given[known] * count + guessed[known],
        None if weights is None else weights[known],
        minlength=count * count,
    )
    counted = cells.reshape(count, count).astype(np.float64)
    np.fill_diagonal(counted, counted.diagonal().clip(min=1))
    return counted


def count_joint(given: Integers, probs: Floats) -> Int64:
    """Estimate how many rows of each given class are truly of each class.

    The counts of `count_confident`, scaled up to all rows of their given class.

    Args:
        given: Numbers of the given classes.
        probs: Held-out probabilities.

    Shape:
        given: (N,). probs: (N, C). Returns: (C, C), given class by true class; the sum of a
        row is the number of rows labelled so.
    """
    joint = count_confident(given, probs)
    rows = np.bincount(given, minlength=probs.shape[1])
    # In this order, as cleanlab does: shares of one half then round alike.
    scaled = joint / joint.sum(axis=1, keepdims=True) * rows[:, None]
    joint = scaled / max(scaled.sum(), 1) * len(given)
    return np.stack([_round_whole(line) for line in joint])


def flag_disagreeing(given: Integers, probs: Floats) -> Bool:
    """Flag rows whose most probable class is another one.

    Args:
        given: Numbers of the given classes.
        probs: Held-out probabilities.
    """
    _check(given, probs)
    # Of equal probabilities the given class has the benefit of the doubt.
    return np.asarray(probs[np.arange(len(given)), given] < probs.max(axis=1))


def flag_confident(given: Integers, probs: Floats, confidence: float = CONFIDENT) -> Bool:
    """Flag rows whose most probable class is another one, with high probability.

    Args:
        given: Numbers of the given classes.
        probs: Held-out probabilities, the mean over views and members: 0.8 is a sum of 1.6
            over two views.
        confidence: Least probability, in [0, 1].
    """
    # Means of float32 views: 0.8 spelled in float32 reaches 0.8.
    sure = probs.max(axis=1) >= confidence - _SLACK
    return np.asarray(flag_disagreeing(given, probs) & sure)


def flag_confident_joint(given: Integers, probs: Floats) -> Bool:
    """Flag rows that are confidently of another class, see `guess_classes`.

    Args:
        given: Numbers of the given classes.
        probs: Held-out probabilities.
    """
    guessed = guess_classes(given, probs)
    off = (guessed != NOBODY) & (guessed != given)
    return np.asarray(off & flag_disagreeing(given, probs))


def flag_by_class(given: Integers, probs: Floats) -> Bool:
    """Flag, of each given class, as many rows as are estimated wrong, the least probable ones.

    Args:
        given: Numbers of the given classes.
        probs: Held-out probabilities.
    """
    joint = _spare_classes(count_joint(given, probs))
    flagged = np.zeros(len(given), np.bool_)
    for number in range(probs.shape[1]):
        rows = np.flatnonzero(given == number)
        wrong = len(rows) - joint[number, number]
        if len(rows) > 1 and wrong > 0:
            flagged[rows[_find_largest(-probs[rows, number], wrong)]] = True
    return np.asarray(flagged & flag_disagreeing(given, probs))


def flag_by_noise_rate(given: Integers, probs: Floats) -> Bool:
    """Flag, of each pair of given and true class, as many rows as are estimated to be so.

    Those with the largest difference between the probabilities of the two.

    Args:
        given: Numbers of the given classes.
        probs: Held-out probabilities.
    """
    joint = _spare_classes(count_joint(given, probs))
    flagged = np.zeros(len(given), np.bool_)
    for number in range(probs.shape[1]):
        rows = np.flatnonzero(given == number)
        if len(rows) <= 1:
            continue
        for other in np.flatnonzero(joint[number]):
            if other != number:
                margin = probs[rows, other] - probs[rows, number]
                flagged[rows[_find_largest(margin, joint[number, other])]] = True
    return np.asarray(flagged & flag_disagreeing(given, probs))


def flag_both(given: Integers, probs: Floats) -> Bool:
    """Flag rows that both pruning rules flag.

    Args:
        given: Numbers of the given classes.
        probs: Held-out probabilities.
    """
    return np.asarray(flag_by_class(given, probs) & flag_by_noise_rate(given, probs))


def _check(given: Integers, probs: Floats) -> None:
    if probs.ndim != 2 or given.shape != probs.shape[:1]:
        raise InputError(
            f"given classes have shape {given.shape}, probabilities {probs.shape}; expected (N,) "
            "and (N, C)."
        )
    if len(given) and not 0 <= given.min() <= given.max() < probs.shape[1]:
        raise InputError(
            f"given classes go from {given.min()} to {given.max()}; expected numbers from 0 to "
            f"{probs.shape[1] - 1}."
        )


def _find_largest(values: Floats, most: int) -> Int64:
    """Return where the largest values are; a full sort would take most of the time."""
    if most >= len(values):
        return np.arange(len(values))
    return np.argpartition(-values, most - 1)[:most]


def _round_whole(line: Float64) -> Int64:
    """Round to whole numbers and keep the sum: the largest remainders give way."""
    whole = np.round(line)
    lacking = round(line.sum() - whole.sum())
    order = np.argsort(line - whole, kind="stable")
    if lacking > 0:
        whole[order[::-1][:lacking]] += 1
    elif lacking < 0:
        whole[order[:-lacking]] -= 1
    return np.asarray(whole, np.int64)


def _spare_classes(joint: Int64) -> Int64:
    """Leave each given class one row that is not estimated wrong."""
    spared = joint.astype(np.float64)
    short = np.maximum(joint.diagonal(), 1) - joint.diagonal()
    spread = np.maximum((joint != 0).sum(axis=1) - 1, 1)
    spared = np.maximum(spared - (short / spread)[:, None], 0)
    np.fill_diagonal(spared, np.maximum(joint.diagonal(), 1))
    return np.stack([_round_whole(line) for line in spared])
