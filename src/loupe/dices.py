"""Dices: how masks are scored, pair by pair of a row and a class.

Owns the three means that all go by the name of Dice, the same of IoU, and the factors of
the first. Each is a ratio of sums over rows, so that a resample is a product of matrices.
It must not resample (that is `margins`), threshold, gate or read.

Shapes: N rows, C classes, B sets of weights (resamples). `...` stands for no axis where
weights are (N,) or absent, and for B where they are (B, N).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from loupe.errors import InputError
from loupe.weighting import Bool, Float64, Integers, Weights, divide, sum_rows

MAIN = "dice_per_pair_empty1"
"""The score of the Severstal and Clouds competitions, and the one that gates are chosen by."""
METRICS = (
    MAIN,
    "dice_micro",
    "dice_nonempty",
    "iou_per_pair_empty1",
    "iou_micro",
    "iou_nonempty",
    "specificity",
    "recall",
    "dice_given_found",
    "all_empty",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Areas in pixels of the masks of each row and class.

    Attributes:
        truth: (N, C) area of the given mask; 0 where the class is absent.
        predicted: (N, C) area of the predicted mask.
        intersection: (N, C) area of what both cover.
    """

    truth: Integers
    predicted: Integers
    intersection: Integers

    def __post_init__(self) -> None:
        shapes = [self.truth.shape, self.predicted.shape, self.intersection.shape]
        if len(set(shapes)) > 1 or len(shapes[0]) != 2 or 0 in shapes[0]:
            raise InputError(
                f"truth, predicted and intersection have the shapes {shapes}; expected the same "
                "(rows, classes) three times, with a row and a class at least."
            )
        smaller = np.minimum(self.truth, self.predicted)
        wrong = (self.intersection < 0) | (self.intersection > smaller)
        if wrong.any():
            row, column = (int(place) for place in np.argwhere(wrong)[0])
            raise InputError(
                f"{int(wrong.sum())} pairs have an intersection below 0 or above one of its "
                f"masks, the first in row {row}, column {column}: truth {self.truth[row, column]},"
                f" predicted {self.predicted[row, column]}, intersection "
                f"{self.intersection[row, column]}."
            )

    def __len__(self) -> int:
        return len(self.truth)


class ByClass(NamedTuple):
    """A score of all pairs together, and of each class.

    Attributes:
        overall: (...).
        classes: (..., C).
    """

    overall: Float64
    classes: Float64


class Tally(NamedTuple):
    """Sums over rows, each (..., C); summed over C they are those of all pairs.

    Attributes:
        pairs: How many pairs.
        nonempty: Pairs whose given mask is not empty.
        kept_empty: Pairs whose given and predicted masks are both empty.
        found: Pairs whose given and predicted masks are both not empty.
        dice: Dice, over the pairs of `nonempty`.
        iou: IoU, over the pairs of `nonempty`.
        truth: Pixels of given masks.
        predicted: Pixels of predicted masks.
        intersection: Pixels of both.
    """

    pairs: Float64
    nonempty: Float64
    kept_empty: Float64
    found: Float64
    dice: Float64
    iou: Float64
    truth: Float64
    predicted: Float64
    intersection: Float64


Part = Callable[[Tally], Float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """What the mean Dice over pairs is made of.

    Attributes:
        empty_share: Share of pairs whose given mask is empty; also the score of a
            submission of empty masks alone.
        specificity: Share of those whose predicted mask is empty too.
        nonempty_share: Share of the other pairs.
        recall: Share of those whose predicted mask is not empty, wherever it lies.
        dice_given_found: Mean Dice of the pairs whose masks are both not empty.
    """

    empty_share: float
    specificity: float
    nonempty_share: float
    recall: float
    dice_given_found: float

    @property
    def score(self) -> float:
        """`dice_per_pair_empty1`, put together again; an undefined factor has no share."""
        found = 0.0 if math.isnan(self.dice_given_found) else self.recall * self.dice_given_found
        kept = self.empty_share * self.specificity if self.empty_share else 0.0
        return kept + (self.nonempty_share * found if self.nonempty_share else 0.0)


def measure_dice(pairs: Pairs) -> Float64:
    """Return the Dice of each pair, (N, C): 2 |X and Y| / (|X| + |Y|), 1 if both are empty."""
    return divide(2.0 * pairs.intersection, pairs.truth + pairs.predicted, empty=1.0)


def measure_iou(pairs: Pairs) -> Float64:
    """Return the IoU of each pair, (N, C): |X and Y| / |X or Y|, 1 if both are empty."""
    union = pairs.truth + pairs.predicted - pairs.intersection
    return divide(pairs.intersection, union, empty=1.0)


def dice_per_pair_empty1(pairs: Pairs, weights: Weights | None = None) -> ByClass:
    """Take the mean over all pairs of the Dice of a pair, which is 1 if both masks are empty.

    Args:
        pairs: Areas of the masks.
        weights: Weight of each row; 1 if None.

    Shape:
        weights: (N,) or (B, N).

    References:
        Severstal: Steel Defect Detection (2019) and Understanding Clouds from Satellite
        Images (2019), evaluation.

    Examples:
        >>> areas = np.array([[6, 8, 6], [0, 0, 0], [0, 5, 0], [10, 0, 0], [4, 4, 2]])
        >>> pairs = make_pairs(*areas.T[:, :, None])
        >>> dice_per_pair_empty1(pairs).overall.round(4).item()
        0.4714
    """
    return _take(MAIN, pairs, weights)


def dice_micro(pairs: Pairs, weights: Weights | None = None) -> ByClass:
    """Take the Dice of all pixels pooled; NaN where there is no mask at all.

    Args:
        pairs: Areas of the masks.
        weights: Weight of each row; 1 if None.

    Shape:
        weights: (N,) or (B, N).
    """
    return _take("dice_micro", pairs, weights)


def dice_nonempty(pairs: Pairs, weights: Weights | None = None) -> ByClass:
    """Take the mean Dice over the pairs whose given mask is not empty; NaN without any.

    Args:
        pairs: Areas of the masks.
        weights: Weight of each row; 1 if None.

    Shape:
        weights: (N,) or (B, N).
    """
    return _take("dice_nonempty", pairs, weights)


def iou_per_pair_empty1(pairs: Pairs, weights: Weights | None = None) -> ByClass:
    """Take the mean IoU over all pairs, 1 if both masks are empty; see `dice_per_pair_empty1`."""
    return _take("iou_per_pair_empty1", pairs, weights)


def iou_micro(pairs: Pairs, weights: Weights | None = None) -> ByClass:
    """Take the IoU of all pixels pooled; see `dice_micro`."""
    return _take("iou_micro", pairs, weights)


def iou_nonempty(pairs: Pairs, weights: Weights | None = None) -> ByClass:
    """Take the mean IoU over the pairs whose given mask is not empty; see `dice_nonempty`."""
    return _take("iou_nonempty", pairs, weights)


def all_empty_baseline(pairs: Pairs, weights: Weights | None = None) -> ByClass:
    """Return what a submission of empty masks alone scores: the share of empty given masks."""
    return _take("all_empty", pairs, weights)


def make_pairs(truth: Integers, predicted: Integers, intersection: Integers) -> Pairs:
    """Put areas together; each (N, C).

    Raises:
        InputError: shapes differ, or an intersection is larger than one of its masks.
    """
    return Pairs(truth=truth, predicted=predicted, intersection=intersection)


def keep_pairs(pairs: Pairs, keep: Bool) -> Pairs:
    """Return the pairs with the predicted masks of some of them emptied.

    Args:
        pairs: Areas of the masks.
        keep: (N, C) False where the mask becomes empty, as a gate says.
    """
    return Pairs(
        truth=pairs.truth,
        predicted=np.where(keep, pairs.predicted, 0),
        intersection=np.where(keep, pairs.intersection, 0),
    )


def decompose(pairs: Pairs) -> tuple[Factors, ...]:
    """Take the mean Dice over pairs apart: overall first, then each class.

    score = empty_share x specificity + nonempty_share x recall x dice_given_found. A factor
    without pairs is NaN.

    Examples:
        >>> areas = np.array([[6, 8, 6], [0, 0, 0], [0, 5, 0], [10, 0, 0], [4, 4, 2]])
        >>> factors = decompose(make_pairs(*areas.T[:, :, None]))[0]
        >>> factors.empty_share, factors.specificity, round(factors.recall, 3)
        (0.4, 0.5, 0.667)
    """
    tally = tally_rows(list_sums(pairs), None)
    columns = zip(
        *(take_score(name, tally) for name in ("all_empty", "specificity", "recall")),
        take_score("dice_given_found", tally),
        strict=True,
    )
    return tuple(
        Factors(
            empty_share=float(empty),
            specificity=float(specificity),
            nonempty_share=1 - float(empty),
            recall=float(recall),
            dice_given_found=float(dice),
        )
        for empty, specificity, recall, dice in columns
    )


def list_sums(pairs: Pairs) -> Tally:
    """Return what is summed over rows, each (N, C)."""
    nonempty, emitted = pairs.truth > 0, pairs.predicted > 0
    return Tally(
        pairs=np.ones(nonempty.shape),
        nonempty=nonempty.astype(np.float64),
        kept_empty=(~nonempty & ~emitted).astype(np.float64),
        found=(nonempty & emitted).astype(np.float64),
        dice=np.where(nonempty, measure_dice(pairs), 0.0),
        iou=np.where(nonempty, measure_iou(pairs), 0.0),
        truth=pairs.truth.astype(np.float64),
        predicted=pairs.predicted.astype(np.float64),
        intersection=pairs.intersection.astype(np.float64),
    )


def tally_rows(sums: Tally, weights: Weights | None) -> Tally:
    """Add up rows, or blocks of rows, under weights; see `list_sums`."""
    return Tally(*(sum_rows(values, weights) for values in sums))


def _take(metric: str, pairs: Pairs, weights: Weights | None) -> ByClass:
    if weights is not None and (weights.ndim not in {1, 2} or weights.shape[-1] != len(pairs)):
        raise InputError(
            f"weights have shape {weights.shape}; expected ({len(pairs)},) or (B, {len(pairs)})."
        )
    values = take_score(metric, tally_rows(list_sums(pairs), weights))
    return ByClass(values[..., 0], values[..., 1:])


def spread_sums(sums: Float64) -> Float64:
    """Put the sum over classes before the classes: (..., C) to (..., 1 + C)."""
    return np.concatenate([sums.sum(axis=-1, keepdims=True), sums], axis=-1)


def take_score(metric: str, tally: Tally) -> Float64:
    """Take a score overall and of each class, (..., 1 + C)."""
    return divide(*(spread_sums(part(tally)) for part in (_DIVIDENDS[metric], DIVISORS[metric])))


_DIVIDENDS: dict[str, Part] = {
    MAIN: lambda t: t.kept_empty + t.dice,
    "dice_micro": lambda t: 2 * t.intersection,
    "dice_nonempty": lambda t: t.dice,
    "iou_per_pair_empty1": lambda t: t.kept_empty + t.iou,
    "iou_micro": lambda t: t.intersection,
    "iou_nonempty": lambda t: t.iou,
    "specificity": lambda t: t.kept_empty,
    "recall": lambda t: t.found,
    "dice_given_found": lambda t: t.dice,
    "all_empty": lambda t: t.pairs - t.nonempty,
}
DIVISORS: dict[str, Part] = {
    MAIN: lambda t: t.pairs,
    "dice_micro": lambda t: t.truth + t.predicted,
    "dice_nonempty": lambda t: t.nonempty,
    "iou_per_pair_empty1": lambda t: t.pairs,
    "iou_micro": lambda t: t.truth + t.predicted - t.intersection,
    "iou_nonempty": lambda t: t.nonempty,
    "specificity": lambda t: t.pairs - t.nonempty,
    "recall": lambda t: t.nonempty,
    "dice_given_found": lambda t: t.found,
    "all_empty": lambda t: t.pairs,
}
