"""Sampling: which training rows an epoch takes, so that classes are balanced.

Owns the draw of rows. It must not order them into batches, nor know images.

Shapes: N rows of the whole table, C classes.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from loupe.augment import sample_rng
from loupe.errors import InputError, suggest

Float32 = NDArray[np.float32]
Rows = NDArray[np.intp]

Sampling = Literal["none", "under", "over", "weighted"]
"""How rows are drawn; see `draw_rows`."""


def draw_rows(
    rows: Rows,
    targets: Float32,
    *,
    sampling: Sampling,
    exclusive: bool,
    seed: int,
    epoch: int,
) -> Rows:
    """Draw the training rows of one epoch.

    A row's class is its largest target if classes are exclusive; else it is its
    label set, the combination of targets of 0.5 and above (none is a set, too), which
    for one column is 0 or 1. Classes without training rows play no part.

    * none: all rows.
    * under: of each class as many rows as the rarest has, without replacement; the
      same rows in every epoch (imbalanced-learn's `RandomUnderSampler`).
    * over: all rows, and of each class rows drawn with replacement until it has as
      many as the commonest (imbalanced-learn's `RandomOverSampler`).
    * weighted: as many rows as there are, drawn with replacement, a row of a class of
      n rows with a chance proportional to 1 / n (torch's `WeightedRandomSampler`).

    `over` and `weighted` draw anew in every epoch. What is drawn hangs on the set of
    rows and not on their order.

    Args:
        rows: Row numbers of the training part, each once.
        targets: Of the whole table.
        sampling: Which of the four.
        exclusive: Whether each row has one class, or columns stand alone.
        seed: The recipe's.
        epoch: Counted over all stages.

    Shape:
        rows: (R,). targets: (N, C).

    Returns:
        Row numbers in ascending order, as often as they are to be seen.

    Raises:
        InputError: there is no such way to sample.

    Examples:
        >>> rows, targets = np.arange(4), np.eye(2, dtype=np.float32)[[0, 0, 0, 1]]
        >>> draw_rows(rows, targets, sampling="under", exclusive=True, seed=1, epoch=0)
        array([1, 3])
        >>> draw_rows(rows, targets, sampling="over", exclusive=True, seed=1, epoch=0)
        array([0, 1, 2, 3, 3, 3])
    """
    if sampling not in get_args(Sampling):
        known = get_args(Sampling)
        hint = suggest(sampling, known) or f"; expected one of {', '.join(known)}"
        raise InputError(f"sampling {sampling!r} is not known{hint}.")
    ordered = np.sort(rows)
    if sampling == "none" or len(ordered) == 0:
        return ordered
    class_R = _number_classes(targets[ordered], exclusive=exclusive)
    rng = sample_rng(seed, 0 if sampling == "under" else epoch, f"{sampling} sampling of rows")
    if sampling == "weighted":
        chance_R = 1 / np.bincount(class_R)[class_R]
        drawn = rng.choice(ordered, size=len(ordered), p=chance_R / chance_R.sum())
    else:
        members = [ordered[class_R == number] for number in range(class_R.max() + 1)]
        draw = _thin_out if sampling == "under" else _fill_up
        drawn = np.concatenate(draw(members, rng))
    return np.sort(drawn)


def _number_classes(targets: Float32, *, exclusive: bool) -> Rows:
    """Number the classes that occur, from 0 without gaps; return each row's number."""
    if exclusive:
        found = np.unique(targets.argmax(axis=1), return_inverse=True)
    else:
        found = np.unique(targets >= 0.5, axis=0, return_inverse=True)
    # numpy 2.0 alone gives the inverse of an axis a second axis.
    return found[1].reshape(-1).astype(np.intp)


def _thin_out(members: list[Rows], rng: np.random.Generator) -> list[Rows]:
    fewest = min(len(rows) for rows in members)
    return [rng.choice(rows, size=fewest, replace=False) for rows in members]


def _fill_up(members: list[Rows], rng: np.random.Generator) -> list[Rows]:
    most = max(len(rows) for rows in members)
    more = [rng.choice(rows, size=most - len(rows)) for rows in members]
    return [*members, *more]
