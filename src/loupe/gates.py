"""Gates: which masks of which rows are let through, as functions of arrays.

Owns the arithmetic of every gate and the map from the confidence of a mask to the Dice
that is to be expected of it. A gate only removes; a row without a probability (NaN)
passes. It must not read files, nor fit a threshold (that is `thresholds`).

Shapes: N rows, C classes, M pairs of a row and a class, K knots.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from loupe.errors import InputError
from loupe.monotone import pool_violators

Bool = NDArray[np.bool_]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Fit = Literal["linear", "monotone"]

FEWEST_PAIRS = 10
"""Fewest pairs from which a slope is fitted, and fewest pairs of a block of a monotone map."""
_BLOCKS = 20
"""Most blocks of a monotone map."""


class TwoSided(NamedTuple):
    """What the two-sided gate says of each pair.

    Attributes:
        keep: (N, C) False where a mask is removed.
        refill: (N, C) True where an empty pair takes the mask of a second submission.
    """

    keep: Bool
    refill: Bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedDice:
    """A map from the confidence of a mask to its Dice if the class is there.

    Attributes:
        knots: (K,) rising confidences.
        values: (K,) Dice expected there, never falling; linear between, constant outside.
    """

    knots: tuple[float, ...]
    values: tuple[float, ...]


def gate_hard(probs: Float32, thresholds: ArrayLike) -> Bool:
    """Keep a mask where the probability of its class reaches the threshold.

    Args:
        probs: Of presence; calibrated if the thresholds are.
        thresholds: One for each class, or one for all; 0 changes nothing.

    Shape:
        probs: (N, C). thresholds: (C,) or a number. Returns (N, C).

    Raises:
        InputError: shapes differ, or a threshold is no number from 0 on.

    References:
        Understanding Clouds from Satellite Images (2019), places 1 and 48; Severstal: Steel
        Defect Detection (2019), place 1: a classifier's veto over masks.

    Examples:
        >>> gate_hard(np.float32([[0.5, 0.2], [0.4, np.nan]]), [0.5, 0.3]).tolist()
        [[True, False], [False, True]]
    """
    sheet = _read_sheet(probs)
    # Negated, since NaN is below nothing: a row without a probability passes.
    return np.asarray(~(sheet < _read_levels(thresholds, sheet, "threshold")), np.bool_)


def gate_two_sided(
    probs: Float32, filled: Bool, recall: ArrayLike, precision: ArrayLike
) -> TwoSided:
    """Remove masks below one threshold, and refill empty pairs above another.

    Args:
        probs: Of presence.
        filled: True where the submission has a mask.
        recall: Below it a mask is removed; chosen so that few true masks are.
        precision: From it on an empty pair takes the mask of a second submission, as one
            made without a smallest area; chosen so that few of those are false.

    Shape:
        probs, filled: (N, C). recall, precision: (C,) or a number.

    Returns:
        `keep` and `refill`; see `find_refills`.

    Raises:
        InputError: as `gate_hard`.

    References:
        Understanding Clouds from Satellite Images (2019), public write-up "classifier with
        PR-AUC callback": recall 0.94 to remove, precision 0.90 to refill.

    Examples:
        >>> probs = np.float32([[0.1], [0.5], [0.5], [0.9]])
        >>> filled = np.array([[True], [True], [False], [False]])
        >>> keep, refill = gate_two_sided(probs, filled, 0.3, 0.8)
        >>> keep.ravel().tolist(), refill.ravel().tolist()
        ([False, True, True, True], [False, False, False, True])
    """
    sheet = _read_sheet(probs)
    keep = gate_hard(sheet, recall)
    sure = np.asarray(sheet >= _read_levels(precision, sheet, "precision threshold"), np.bool_)
    return TwoSided(keep, find_refills(keep, sure, filled))


def find_refills(keep: Bool, sure: Bool, filled: Bool) -> Bool:
    """Return which empty pairs take the mask of a second submission.

    A pair that the gate would empty is never refilled, even where the precision threshold
    of a class lies below its recall threshold.

    Args:
        keep: What the gate lets through.
        sure: Where the probability reaches the precision threshold; False where it is not
            known.
        filled: True where the submission has a mask; such a pair is never refilled.

    Shape:
        All: (N, C).

    Raises:
        InputError: shapes differ.
    """
    _check_shapes(keep, sure=sure, filled=filled)
    return np.asarray(keep & sure & ~filled, np.bool_)


def scale_areas(probs: Float32, areas: ArrayLike, factor: float) -> Float64:
    """Return the smallest area that a mask must have, which shrinks with the probability.

    `area * factor - area * (factor - 1) * p`: the stated area where p is 1, `factor` times
    as much where it is 0. Given to a tenth of a pixel, so that float32 does not decide.

    Args:
        probs: Of presence.
        areas: Smallest area at p = 1, in pixels of the submission.
        factor: 1 or above; 1 ignores the probability.

    Shape:
        probs: (N, C). areas: (C,) or a number. Returns (N, C), NaN where p is.

    Raises:
        InputError: shapes differ, an area is below 0 or the factor below 1.

    References:
        Severstal: Steel Defect Detection (2019), place 55 (khornlund), `c_factor`: best with
        5, where it was the highest private score seen.

    Examples:
        >>> scale_areas(np.float32([[0], [0.5], [1]]), 600, 5).ravel().tolist()
        [3000.0, 1800.0, 600.0]
    """
    if not (np.isfinite(factor) and factor >= 1):
        raise InputError(f"a factor of {factor}; expected 1 or more (1 ignores the probability).")
    sheet = _read_sheet(probs)
    base = _read_levels(areas, sheet, "smallest area").astype(np.float64)
    # So written, p = 1 and factor = 1 give exactly the stated area.
    return np.round(base * (1 + (factor - 1) * (1 - sheet.astype(np.float64))), 1)


def gate_areas(probs: Float32, sizes: ArrayLike, areas: ArrayLike, factor: float) -> Bool:
    """Keep a mask whose area reaches what its probability asks for: the soft gate.

    A confident "absent" needs a large mask to be overruled, and does not veto.

    Args:
        probs: Of presence.
        sizes: Area of each mask in pixels.
        areas: As for `scale_areas`.
        factor: As for `scale_areas`.

    Shape:
        probs, sizes: (N, C). areas: (C,) or a number. Returns (N, C).

    Raises:
        InputError: as `scale_areas`.

    References:
        As `scale_areas`.

    Examples:
        >>> probs = np.float32([[0.0, 1.0]])
        >>> gate_areas(probs, [[2999, 600]], 600, 5).tolist()
        [[False, True]]
    """
    found = np.asarray(sizes)
    smallest = scale_areas(probs, areas, factor)
    _check_shapes(smallest, sizes=found)
    return np.asarray(~(found < smallest), np.bool_)


def gate_product(probs: Float32, confidences: Float32, thresholds: ArrayLike) -> Bool:
    """Keep a mask where presence times the confidence of the mask reaches the threshold.

    Args:
        probs: Of presence.
        confidences: Mean pixel probability of each mask; NaN where there is none.
        thresholds: One for each class, or one for all.

    Shape:
        probs, confidences: (N, C). thresholds: (C,) or a number. Returns (N, C).

    Raises:
        InputError: as `gate_hard`.

    References:
        Severstal: Steel Defect Detection (2019), place 4: sigmoid(mask) * sigmoid(class).

    Examples:
        >>> gate_product(np.float32([[0.8, 0.8]]), np.float32([[0.9, 0.5]]), 0.6).tolist()
        [[True, False]]
    """
    sheet, mask = _read_sheet(probs), np.asarray(confidences, np.float32)
    _check_shapes(sheet, confidences=mask)
    return gate_hard(sheet * mask, thresholds)


def gate_top(probs: Float32, tops: Float32, thresholds: ArrayLike) -> Bool:
    """Keep a mask where the mean of two opinions of its presence reaches the threshold.

    Args:
        probs: Of presence, by the classifier.
        tops: Mean of the K largest pixel probabilities of the segmenter, K a fixed share of
            the image (a tenth of it in the reference).
        thresholds: One for each class, or one for all.

    Shape:
        probs, tops: (N, C). thresholds: (C,) or a number. Returns (N, C).

    Raises:
        InputError: as `gate_hard`.

    References:
        Understanding Clouds from Satellite Images (2019), place 1: K = 17,500 of 183,750
        pixels, +0.0030 mean Dice.

    Examples:
        >>> gate_top(np.float32([[0.8, 0.3]]), np.float32([[0.5, 0.75]]), 0.6).tolist()
        [[True, False]]
    """
    sheet, peaks = _read_sheet(probs), np.asarray(tops, np.float32)
    _check_shapes(sheet, tops=peaks)
    return gate_hard((sheet + peaks) / np.float32(2), thresholds)


def keep_likeliest(keep: Bool, probs: Float32) -> Bool:
    """Keep the likeliest class of the rows of which a gate keeps none.

    For data whose every image shows a class, and only for those.

    Args:
        keep: What a gate lets through.
        probs: Of presence; the first of equal ones is taken.

    Shape:
        keep, probs: (N, C). Returns (N, C).

    Raises:
        InputError: shapes differ.

    References:
        Understanding Clouds from Satellite Images (2019), place 1: +0.0005 mean Dice.

    Examples:
        >>> keep_likeliest(np.array([[False, False]]), np.float32([[0.1, 0.4]])).tolist()
        [[False, True]]
    """
    sheet = _read_sheet(probs)
    _check_shapes(sheet, keep=keep)
    known = np.where(np.isnan(sheet), np.float32(-1), sheet)
    rows = np.flatnonzero(~keep.any(axis=1) & (known.max(axis=1) >= 0))
    result = keep.copy()
    result[rows, known[rows].argmax(axis=1)] = True
    return result


def gate_expected(probs: Float32, dices: ArrayLike) -> Bool:
    """Keep a mask where it is expected to score more than an empty one.

    With presence p and Dice D if the class is there, a mask scores p * D on average and an
    empty pair 1 - p; so a mask is kept where p > 1 / (1 + D), for each row by its own D.
    The probabilities must be calibrated.

    Args:
        probs: Of presence, calibrated.
        dices: Expected of each mask; see `expect_dice`.

    Shape:
        probs, dices: (N, C). Returns (N, C).

    Raises:
        InputError: shapes differ, or a Dice lies outside [0, 1].

    References:
        Mean Dice with 1 for two empty masks (Severstal and Clouds, 2019); the rule follows
        from it. For pixels: Lipton, Elkan & Narayanaswamy (2014), arXiv:1402.1892.

    Examples:
        >>> gate_expected(np.float32([[0.6, 0.6]]), [[0.8, 0.5]]).tolist()
        [[True, False]]
    """
    sheet, gains = _read_sheet(probs), np.asarray(dices, np.float64)
    _check_shapes(sheet, dices=gains)
    _check_shares(gains, "Dice")
    return np.asarray(~(sheet <= (1 / (1 + gains)).astype(np.float32)), np.bool_)


def fit_expected_dice(
    confidences: ArrayLike, dices: ArrayLike, *, kind: Fit = "linear"
) -> ExpectedDice:
    """Fit what Dice to expect of a mask from its confidence; the map never falls.

    Args:
        confidences: Of held-out masks that are not empty, of pairs where the class is there.
        dices: Of the same.
        kind: "linear" (least squares), or "monotone" (means of blocks of neighbours that
            are joined until they rise, at least `FEWEST_PAIRS` each). Of fewer than
            `FEWEST_PAIRS` pairs both give their mean.

    Shape:
        confidences, dices: (M,).

    Raises:
        InputError: there is no pair, lengths differ, or a value lies outside [0, 1].

    References:
        Barlow, Bartholomew, Bremner & Brunk (1972), "Statistical inference under order
        restrictions".

    Examples:
        >>> places = np.linspace(0.5, 0.9, 11)
        >>> fitted = fit_expected_dice(places, 1.5 * places - 0.5)
        >>> expect_dice(fitted, [0.4, 0.7, 1.0]).round(3).tolist()
        [0.25, 0.55, 0.85]
    """
    x, y = (np.asarray(values, np.float64) for values in (confidences, dices))
    if x.ndim != 1 or x.shape != y.shape or not len(x):
        raise InputError(
            f"{x.shape} confidences and {y.shape} Dice; expected one of each for one pair or more."
        )
    for values, name in ((x, "confidence"), (y, "Dice")):
        _check_shares(values, name)
        if np.isnan(values).any():
            raise InputError(
                f"{int(np.isnan(values).sum())} of {len(values)} pairs have no {name}; leave out "
                "pairs without a mask or without the class."
            )
    if len(x) < FEWEST_PAIRS or np.ptp(x) <= 0:
        return ExpectedDice(knots=(float(x.mean()),), values=(float(y.mean()),))
    return _fit_line(x, y) if kind == "linear" else _fit_blocks(x, y)


def expect_dice(expected: ExpectedDice, confidences: ArrayLike) -> Float64:
    """Return the Dice expected of masks, by their confidence.

    Args:
        expected: From `fit_expected_dice`.
        confidences: Any shape; NaN gives NaN.

    Returns:
        In [0, 1], of the same shape.
    """
    places = np.asarray(confidences, np.float64)
    found = np.clip(np.interp(places, expected.knots, expected.values), 0.0, 1.0)
    # Of a single knot, NaN would be taken for a place like any other.
    return np.where(np.isnan(places), np.nan, found)


def _fit_line(x: Float64, y: Float64) -> ExpectedDice:
    """Fit a line that does not fall, over the range of x."""
    away = x - x.mean()
    slope = max(0.0, float(away @ (y - y.mean())) / float(away @ away))
    knots = (float(x.min()), float(x.max()))
    return ExpectedDice(
        knots=knots, values=tuple(float(y.mean() + slope * (at - x.mean())) for at in knots)
    )


def _fit_blocks(x: Float64, y: Float64) -> ExpectedDice:
    """Fit the means of blocks of neighbours, joined where they fall; equal x share a block."""
    places, cell = np.unique(x, return_inverse=True)
    rows, sums = np.bincount(cell), np.bincount(cell, y)
    size = max(FEWEST_PAIRS, -(-len(x) // _BLOCKS))
    block = (np.cumsum(rows) - rows) // size
    first = np.flatnonzero(np.diff(block, prepend=-1))
    if len(first) > 1 and rows[first[-1] :].sum() < FEWEST_PAIRS:
        first = first[:-1]
    counts = np.add.reduceat(rows, first).astype(np.float64)
    means, starts = pool_violators(np.add.reduceat(sums, first) / counts, counts)
    # A block is flat from its first place to its last: its middle alone would blur a step.
    begins = first[starts]
    ends = np.append(begins[1:], len(places)) - 1
    at, unique = np.unique(np.stack([begins, ends], axis=1).ravel(), return_index=True)
    return ExpectedDice(
        knots=tuple(places[at].tolist()), values=tuple(np.repeat(means, 2)[unique].tolist())
    )


def _read_sheet(probs: Float32) -> Float32:
    sheet = np.asarray(probs, np.float32)
    if sheet.ndim != 2:
        raise InputError(f"probabilities of shape {sheet.shape}; expected (rows, classes).")
    return sheet


def _read_levels(values: ArrayLike, sheet: Float32, name: str) -> Float32:
    """Return one number for each class, as float32 like the probabilities."""
    levels = np.asarray(values, np.float32)
    if levels.shape not in ((), (sheet.shape[1],)):
        raise InputError(
            f"{name}: values of shape {levels.shape}; expected one, or one for each of "
            f"{sheet.shape[1]} classes."
        )
    # NaN is not >= 0 either.
    if not (levels >= 0).all():
        raise InputError(f"{name}: {levels.ravel().tolist()}; expected numbers from 0 on.")
    return np.asarray(np.broadcast_to(levels, sheet.shape[1:]), np.float32)


def _check_shapes(sheet: NDArray[np.generic], **others: NDArray[np.generic]) -> None:
    wrong = [f"{name} {each.shape}" for name, each in others.items() if each.shape != sheet.shape]
    if wrong:
        raise InputError(f"{', '.join(wrong)}; expected {sheet.shape} (rows, classes) like others.")


def _check_shares(values: Float64, name: str) -> None:
    """Refuse values outside [0, 1]; NaN passes."""
    wrong = values[(values < 0) | (values > 1)]
    if wrong.size:
        raise InputError(
            f"{wrong.size} {name} value(s) outside [0, 1], the first {wrong.flat[0]:.4g}; "
            "expected shares."
        )
