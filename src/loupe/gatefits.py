"""Gate fits: the numbers of each gate, chosen on held-out rows for the mean Dice.

Owns the fit of every gate of `gates`, and how a fitted one is applied. It must not score:
what a gate is worth on rows that it was not fitted on is told by `gatetrials`.

Shapes: N rows, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from loupe.calibration import squash, take_logits
from loupe.dices import Pairs
from loupe.errors import InputError
from loupe.gates import (
    ExpectedDice,
    TwoSided,
    expect_dice,
    fit_expected_dice,
    gate_areas,
    gate_expected,
    gate_hard,
    gate_product,
    gate_top,
    gate_two_sided,
    keep_likeliest,
)
from loupe.maskcuts import NEVER_AREA, CutMasks, Split, measure_gains, split_best
from loupe.monotone import fit_line
from loupe.thresholds import NEVER, Goal, find_cuts
from loupe.weighting import Bool, Float64

Float32 = NDArray[np.float32]
GateKind = Literal[
    "none", "empty", "hard", "hard_one", "soft_area", "product", "top", "two_sided", "per_image"
]
GATE_KINDS: tuple[GateKind, ...] = get_args(GateKind)

FACTORS = (2.0, 3.0, 5.0, 10.0, 20.0)
"""Factors that the soft gate chooses from; the best of Severstal was 5."""
RECALL = Goal(kind="recall", value=0.94)
PRECISION = Goal(kind="precision", value=0.90)
"""What the two-sided gate aims at, as in the Clouds write-up."""
_UNKNOWN_DICE = 0.5  # of masks where no row tells
_LACKING = {"product": "confidences", "top": "top pixels", "hard_one": "a second class"}
"""What each gate needs beside areas."""


class Opened(NamedTuple):
    """What a gate says of each pair.

    Attributes:
        keep: (N, C) False where the mask is removed.
        refill: (N, C) True where the mask of the second submission is taken.
    """

    keep: Bool
    refill: Bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedGate:
    """A gate with its numbers; what a kind does not need is empty.

    Attributes:
        kind: Which gate.
        levels: (C,) threshold on what the gate looks at: the probability (hard, hard_one and
            the recall side of two_sided), its product with the confidence of the mask (product),
            its mean with the top pixels (top), the least area at p = 1 (soft_area).
        refills: (C,) precision side of two_sided.
        factors: (C,) of soft_area.
        lines: (C,) slope and intercept on the logit, of per_image: Platt's calibration to the
            presence of the class where there is a mask.
        expected: (C,) maps from the confidence of a mask to its Dice, of per_image.
    """

    kind: GateKind
    levels: tuple[float, ...] = ()
    refills: tuple[float, ...] = ()
    factors: tuple[float, ...] = ()
    lines: tuple[tuple[float, float], ...] = ()
    expected: tuple[ExpectedDice, ...] = ()


def list_gates(masks: CutMasks, *, second: bool = False) -> tuple[GateKind, ...]:
    """Return the gates that can be fitted to masks, "none" and "empty" first.

    Args:
        masks: Without confidences there is no "product", without top pixels no "top". With
            one class there is no "hard_one": it would keep every mask.
        second: True if there is a second submission to refill from.
    """
    missing = {
        *(() if masks.pairs.truth.shape[1] > 1 else ("hard_one",)),
        *(() if masks.confidences is not None else ("product",)),
        *(() if masks.tops is not None else ("top",)),
        *(() if second else ("two_sided",)),
    }
    return tuple(kind for kind in GATE_KINDS if kind not in missing)


def fit_gate(kind: GateKind, probs: Float32, masks: CutMasks) -> FittedGate:
    """Choose the numbers of a gate for the highest mean Dice over pairs (empty = 1).

    Only pairs with a mask and a probability say anything. Thresholds are found exactly, each
    class by itself, and ties keep the most masks. "two_sided" is fitted to its goals
    instead. "hard_one" has the thresholds of "hard", and lets the likeliest class of a row
    pass of which none does; for data whose every image shows a class. "per_image" has no
    threshold: on pairs with a mask, presence is calibrated
    (Platt), the Dice of masks that hit is fitted to their confidence (a line that does
    not fall; their mean where confidences are unknown), and the rule follows.

    Args:
        kind: Which gate.
        probs: Held-out probabilities of presence; NaN where not known.
        masks: Of the same rows.

    Shape:
        probs: (N, C).

    Raises:
        InputError: shapes differ, a probability lies outside [0, 1], the kind has another
            name, or the masks lack what it looks at.

    References:
        See `gates`; Platt (1999), "Probabilistic outputs for support vector machines".
    """
    _check(kind, probs, masks)
    if kind in {"none", "empty"}:
        return FittedGate(kind=kind)
    if kind == "two_sided":
        return _fit_two_sided(probs, masks.pairs)
    if kind == "per_image":
        return _fit_per_image(probs, masks)
    if kind == "soft_area":
        return _fit_soft_area(probs, masks.pairs)
    gains = measure_gains(masks.pairs)
    looks = np.where(masks.pairs.predicted > 0, _look(kind, probs, masks), np.nan)
    levels = tuple(
        _place(split_best(values, gain)) for values, gain in zip(looks.T, gains.T, strict=True)
    )
    return FittedGate(kind=kind, levels=levels)


def apply_gate(gate: FittedGate, probs: Float32, masks: CutMasks) -> Opened:
    """Return which masks a gate keeps, and which empty pairs it refills.

    A row without a probability (NaN) passes every gate but "empty".

    Args:
        gate: From `fit_gate`.
        probs: Of presence.
        masks: Of the same rows; given masks are not looked at.

    Shape:
        probs: (N, C).

    Raises:
        InputError: as `fit_gate`.
    """
    _check(gate.kind, probs, masks)
    filled = np.asarray(masks.pairs.predicted > 0, np.bool_)
    nothing = np.zeros(filled.shape, np.bool_)
    if gate.kind == "two_sided":
        sides: TwoSided = gate_two_sided(probs, filled, gate.levels, gate.refills)
        return Opened(sides.keep, sides.refill)
    if gate.kind in {"none", "empty"}:
        return Opened(~nothing if gate.kind == "none" else nothing, nothing)
    return Opened(_keep(gate, probs, masks), nothing)


def open_pairs(opened: Opened, pairs: Pairs, second: Pairs | None = None) -> Pairs:
    """Return the pairs as a gate leaves them.

    Args:
        opened: What the gate says.
        pairs: Before the gate.
        second: The same given masks with those predicted masks that pairs are refilled from.

    Raises:
        InputError: pairs are to be refilled and there is nothing to take.
    """
    if second is None:
        if opened.refill.any():
            raise InputError(
                f"{int(opened.refill.sum())} pairs are to be refilled, but there is no second "
                "submission; expected one."
            )
        second = pairs
    return Pairs(
        truth=pairs.truth,
        predicted=_open(opened, pairs.predicted, second.predicted),
        intersection=_open(opened, pairs.intersection, second.intersection),
    )


def _open(
    opened: Opened, first: NDArray[np.integer], second: NDArray[np.integer]
) -> NDArray[np.integer]:
    return np.where(opened.refill, second, np.where(opened.keep, first, 0))


def _keep(gate: FittedGate, probs: Float32, masks: CutMasks) -> Bool:
    """Return which masks are kept by a gate that looks at each probability once."""
    if gate.kind == "per_image":
        return _apply_per_image(gate, probs, masks)
    if gate.kind == "soft_area":
        areas = masks.pairs.predicted
        columns = [
            gate_areas(probs[:, [c]], areas[:, [c]], level, factor)
            for c, (level, factor) in enumerate(zip(gate.levels, gate.factors, strict=True))
        ]
        return np.concatenate(columns, axis=1)
    if gate.kind == "product" and masks.confidences is not None:
        return gate_product(probs, masks.confidences, gate.levels)
    if gate.kind == "top" and masks.tops is not None:
        return gate_top(probs, masks.tops, gate.levels)
    keep = gate_hard(probs, gate.levels)
    return keep_likeliest(keep, probs) if gate.kind == "hard_one" else keep


def _look(kind: GateKind, probs: Float32, masks: CutMasks) -> Float32:
    """Return what a threshold is compared with, computed as `gates` does."""
    if kind == "product" and masks.confidences is not None:
        return np.asarray(probs * masks.confidences, np.float32)
    if kind == "top" and masks.tops is not None:
        return np.asarray((probs + masks.tops) / np.float32(2), np.float32)
    return probs


def _place(split: Split) -> float:
    """Return the float32 midway in a split: 0 where all is kept, `NEVER` where nothing is."""
    if np.isinf(split.below):
        return 0.0
    if np.isinf(split.from_here):
        return NEVER
    middle = float(np.float32((split.below + split.from_here) / 2))
    return middle if middle > split.below else split.from_here


def _fit_soft_area(probs: Float32, pairs: Pairs) -> FittedGate:
    """Fit by size / (1 + (factor - 1) (1 - p)), of which the least area is the threshold."""
    gains = measure_gains(pairs)
    levels, factors = [], []
    for p, sizes, gain in zip(probs.T, pairs.predicted.T, gains.T, strict=True):
        filled = sizes > 0
        best, chosen = Split(-np.inf, -np.inf, -np.inf), FACTORS[0]
        for factor in FACTORS:
            scale = 1 + (factor - 1) * (1 - p[filled].astype(np.float64))
            split = split_best(sizes[filled] / scale, gain[filled])
            if split.gain > best.gain:
                best, chosen = split, factor
        if np.isinf(best.below):
            level = 0.0
        elif np.isinf(best.from_here):
            level = float(NEVER_AREA)
        else:
            level = (best.below + best.from_here) / 2
        levels.append(level)
        factors.append(chosen)
    return FittedGate(kind="soft_area", levels=tuple(levels), factors=tuple(factors))


def _fit_two_sided(probs: Float32, pairs: Pairs) -> FittedGate:
    """Fit to goals of recall and precision of presence, on rows with probabilities."""
    levels, refills = [], []
    for p, truth in zip(probs.T, pairs.truth.T, strict=True):
        known = ~np.isnan(p)
        present, column = truth[known][:, None] > 0, p[known][:, None]
        (low,), (high,) = (find_cuts(present, column, [goal]) for goal in (RECALL, PRECISION))
        levels.append(low.threshold if present.any() else 0.0)
        refills.append(high.threshold if high.attained else NEVER)
    return FittedGate(kind="two_sided", levels=tuple(levels), refills=tuple(refills))


def _fit_per_image(probs: Float32, masks: CutMasks) -> FittedGate:
    """Fit presence and Dice of pairs with masks; classes without hits share those of all."""
    pairs = masks.pairs
    filled = (pairs.predicted > 0) & ~np.isnan(probs)
    hit = filled & (pairs.truth > 0)
    sure = _read_confidences(masks)
    dices = measure_gains(pairs)
    pooled = _fit_dice(sure[hit], dices[hit])
    lines, expected = [], []
    for c in range(probs.shape[1]):
        rows, hits = filled[:, c], hit[:, c]
        lines.append(_fit_presence(pairs.truth[rows, c] > 0, probs[rows, c]))
        expected.append(_fit_dice(sure[hits, c], dices[hits, c]) if hits.any() else pooled)
    return FittedGate(kind="per_image", lines=tuple(lines), expected=tuple(expected))


def _fit_presence(present: Bool, probs: Float32) -> tuple[float, float]:
    """Fit Platt's line; a constant, with a row of each kind added, where rows are all alike."""
    count, hits = len(present), int(np.count_nonzero(present))
    if 0 < hits < count:
        return fit_line(present.astype(np.float32), probs)
    return (0.0, math.log((hits + 1) / (count - hits + 1))) if count else (1.0, 0.0)


def _fit_dice(confidences: Float64, dices: Float64) -> ExpectedDice:
    if not len(dices):
        return ExpectedDice(knots=(0.0,), values=(_UNKNOWN_DICE,))
    return fit_expected_dice(confidences, dices)


def _apply_per_image(gate: FittedGate, probs: Float32, masks: CutMasks) -> Bool:
    sure = _read_confidences(masks)
    presence, dices = np.empty(probs.shape, np.float32), np.zeros(probs.shape)
    for c, ((slope, intercept), expected) in enumerate(zip(gate.lines, gate.expected, strict=True)):
        logits = take_logits(probs[:, c].astype(np.float64))
        presence[:, c] = squash(slope * logits + intercept)
        dices[:, c] = expect_dice(expected, sure[:, c])
    # Where there is no mask there is no Dice, and nothing to keep.
    return gate_expected(presence, np.nan_to_num(dices))


def _read_confidences(masks: CutMasks) -> Float64:
    """Return confidences, or 0 for all where they are unknown: the Dice is then a constant."""
    if masks.confidences is None:
        return np.zeros(masks.pairs.truth.shape)
    return masks.confidences.astype(np.float64)


def _check(kind: GateKind, probs: Float32, masks: CutMasks) -> None:
    shape = masks.pairs.truth.shape
    if probs.shape != shape:
        raise InputError(
            f"probabilities have the shape {probs.shape}, masks {shape}; expected the same "
            "(rows, classes)."
        )
    wrong = np.flatnonzero(((probs < 0) | (probs > 1)).any(axis=1))
    if len(wrong):
        raise InputError(
            f"probabilities lie outside [0, 1] in {len(wrong)} of {len(probs)} rows, the first "
            f"{int(wrong[0])}."
        )
    if kind not in GATE_KINDS:
        raise InputError(f"gate {kind!r} is not known; expected one of {list(GATE_KINDS)}.")
    if kind not in list_gates(masks, second=True):
        raise InputError(f"gate {kind!r} looks at what these masks lack: {_LACKING[kind]}.")


def name_gates(kinds: Sequence[str]) -> tuple[GateKind, ...]:
    """Return kinds of gates in their usual order, each once.

    Raises:
        InputError: one has another name.
    """
    unknown = [kind for kind in kinds if kind not in GATE_KINDS]
    if unknown:
        raise InputError(f"gates {unknown} are not known; expected some of {list(GATE_KINDS)}.")
    return tuple(kind for kind in GATE_KINDS if kind in set(kinds))
