"""Gate trials: what each cut and each gate is worth on rows it was not fitted on.

Owns the cross-fitted table of competitors, side by side for each class, and which of them
the evidence carries. It must not fit by itself (`maskcuts` and `gatefits` do), nor read.

Shapes: N rows, C classes, K parts, M competitors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loupe.dices import MAIN, Pairs, decompose, measure_dice
from loupe.errors import InputError
from loupe.gatefits import (
    FittedGate,
    GateKind,
    Opened,
    apply_gate,
    fit_gate,
    list_gates,
    name_gates,
    open_pairs,
)
from loupe.intervals import Difference
from loupe.margins import compare_means, score_pairs
from loupe.maskcuts import (
    CutKind,
    CutMasks,
    MaskCut,
    PairCounts,
    check_parts,
    choose_mask_cuts,
    cross_fit_cuts,
    cut_masks,
    join_masks,
    take_masks,
)
from loupe.weighting import Bool, Float64, Integers

Float32 = NDArray[np.float32]
SIMPLE = ("none", "empty")
"""What needs no fit; whatever is fitted must beat both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateTrial:
    """What one gate is worth for one class, cross-fitted.

    Attributes:
        name: The gate.
        class_name: The class; "" for all together.
        dice: Mean Dice over pairs, 1 where both masks are empty.
        low: Lower end of its interval.
        high: Upper end.
        difference: The gate minus no gate on the same rows, with its paired interval and
            p-value (swaps of whole groups).
        p_value: Of the claim that the gate is better than no gate and than empty masks: the
            larger of both p-values (1 where it is not better), by Holm's method for choosing
            the best of all gates, and of all classes too where one is named; NaN for no gate.
        specificity: Share of the empty given masks that stay empty.
        recall: Share of the other ones that get a mask.
        dice_given_found: Mean Dice of those.
        emptied: Masks that the gate removes.
        refilled: Empty pairs that take a mask of the second submission.
        best: True for one at most of each class: the highest Dice among those that
            the evidence carries, whose intervals leave out 0 and whose p-value is small enough.
    """

    name: str
    class_name: str
    dice: float
    low: float
    high: float
    difference: Difference
    p_value: float
    specificity: float
    recall: float
    dice_given_found: float
    emptied: int
    refilled: int
    best: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GateTrials:
    """All gates side by side.

    Attributes:
        trials: Overall first, then class by class; gates in the same order, "none" first.
        best: The gate that the evidence carries for all classes together; "none" otherwise.
        best_by_class: (C,) the same for each class by itself.
        gates: By name, fitted on all rows: for new ones.
        cuts: (C,) cuts chosen on all rows; () where finished masks were tried.
        pairs: By name, areas as the gate leaves them, cross-fitted.
    """

    trials: tuple[GateTrial, ...]
    best: str
    best_by_class: tuple[str, ...]
    gates: dict[str, FittedGate]
    cuts: tuple[MaskCut, ...]
    pairs: dict[str, Pairs]


def try_gates(
    probs: Float32,
    counts: PairCounts,
    parts: Integers,
    groups: Integers | Sequence[str] | None = None,
    *,
    classes: Sequence[str],
    cut: CutKind = "fixed",
    kinds: Sequence[GateKind] = (),
    second: Pairs | None = None,
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> GateTrials:
    """Fit every gate without each part, apply it to the part, and compare all.

    Cuts and gates of a part are both chosen on the other parts alone. "none" and "empty"
    are always tried. A gate is marked only if it is better than no gate *and* than empty
    masks alone: both paired intervals leave out 0, and the larger of the two p-values, which
    are tests of swaps of whole groups, is small enough by Holm's method over all gates
    (for the marks of single classes: over all gates and classes). Empty masks are marked if
    they beat no gate so, and no fitted gate beats them.

    Args:
        probs: Held-out probabilities of presence; NaN where not known.
        counts: Of the same rows. A finished submission has one candidate.
        parts: Number of the part of each row, as in `evidence.Evidence`.
        groups: Rows that belong together; each row alone if None.
        classes: Names of the columns.
        cut: How masks are cut; see `maskcuts.choose_mask_cuts`.
        kinds: Which gates; all that can be fitted if empty.
        second: Areas of the masks that empty pairs are refilled from.
        resamples: Of each bootstrap and test; without any, intervals are NaN and nothing
            is marked.
        seed: Of both.
        confidence: Of the intervals; 1 minus it is the level of the marks.

    Shape:
        probs: (N, C). parts, groups: (N,). classes: (C,).

    Raises:
        InputError: shapes disagree, there are fewer than two parts, or `fit_gate` refuses.

    References:
        Holm (1979), "A simple sequentially rejective multiple test procedure"; Berger
        (1982), "Multiparameter hypothesis testing and acceptance sampling" (the larger p).
    """
    if probs.shape != counts.counts.shape[:2]:
        raise InputError(
            f"probabilities have the shape {probs.shape}, counts {counts.counts.shape}; expected "
            "the same rows and classes: align them by id first."
        )
    check_parts(parts, len(counts))
    part_masks = {
        int(part): cut_masks(counts, choose_mask_cuts(counts, cut, np.flatnonzero(parts != part)))
        for part in np.unique(parts)
    }
    able = list_gates(next(iter(part_masks.values())), second=second is not None)
    tried = name_gates((*SIMPLE, *(kinds or able)))
    places = {part: np.flatnonzero(parts == part) for part in part_masks}
    base = join_masks(
        [(places[part], take_masks(part_masks[part], places[part])) for part in places]
    )
    opened = {kind: _cross_fit(kind, probs, part_masks, places) for kind in tried}
    pairs = {kind: open_pairs(opened[kind], base.pairs, second) for kind in tried}
    trials = rate_trials(
        pairs, groups, classes=classes, resamples=resamples, seed=seed, confidence=confidence
    )
    cuts = choose_mask_cuts(counts, cut)
    final = cut_masks(counts, cuts)
    return GateTrials(
        trials=trials,
        best=_find_best(trials, ""),
        best_by_class=tuple(_find_best(trials, name) for name in classes),
        gates={kind: fit_gate(kind, probs, final) for kind in tried},
        cuts=cuts,
        pairs={str(kind): gated for kind, gated in pairs.items()},
    )


def try_cuts(
    counts: PairCounts,
    parts: Integers,
    groups: Integers | Sequence[str] | None = None,
    *,
    classes: Sequence[str],
    kinds: Sequence[CutKind] = ("pixel", "area", "doublet", "triplet"),
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[GateTrial, ...]:
    """Compare ways to cut masks as `try_gates` compares gates; "none" is the unfitted cut.

    Args:
        counts: Of held-out rows.
        parts: Number of the part of each row.
        groups: Rows that belong together; each row alone if None.
        classes: Names of the columns.
        kinds: Which cuts.
        resamples: Of each bootstrap and test.
        seed: Of both.
        confidence: Of the intervals.

    Raises:
        InputError: as `cross_fit_cuts`.
    """
    base = cross_fit_cuts(counts, parts, "fixed").masks.pairs
    nothing = np.zeros(base.truth.shape, np.bool_)
    pairs = {"none": base, "empty": open_pairs(Opened(nothing, nothing), base)}
    for kind in kinds:
        pairs[kind] = cross_fit_cuts(counts, parts, kind).masks.pairs
    return rate_trials(
        pairs, groups, classes=classes, resamples=resamples, seed=seed, confidence=confidence
    )


def rate_trials(
    pairs: dict[GateKind, Pairs] | dict[str, Pairs],
    groups: Integers | Sequence[str] | None = None,
    *,
    classes: Sequence[str],
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[GateTrial, ...]:
    """Put competitors side by side and mark what the evidence carries; see `try_gates`.

    Args:
        pairs: By name, the areas that each leaves on the same held-out rows; "none" and
            "empty" must be among them.
        groups: Rows that belong together; each row alone if None.
        classes: Names of the columns.
        resamples: Of each bootstrap and test; without any, intervals are NaN and nothing
            is marked.
        seed: Of both.
        confidence: Of the intervals.

    Returns:
        All competitors of all classes together, then of each class.

    Raises:
        InputError: "none" or "empty" is missing, or lengths disagree.
    """
    named: dict[str, Pairs] = {str(name): value for name, value in pairs.items()}
    if not set(SIMPLE) <= set(named):
        raise InputError(f"competitors are {list(named)}; expected 'none' and 'empty' among them.")
    names, columns = list(named), 1 + len(classes)
    dices = {name: _spread_rows(measure_dice(value)) for name, value in named.items()}
    gaps = [dices[name] - dices[simple] for simple in SIMPLE for name in names]
    found = compare_means(
        np.concatenate(gaps, axis=1),
        groups,
        resamples=resamples,
        seed=seed,
        confidence=confidence,
    )
    margins = np.array(found, dtype=object).reshape(len(SIMPLE), len(names), columns)
    p_values, carried = _weigh(margins, names, 1 - confidence)
    means = np.array([dices[name].mean(axis=0) for name in names])
    best = np.where(carried, means, -np.inf).argmax(axis=0)
    trials: dict[tuple[int, int], GateTrial] = {}
    for number, name in enumerate(names):
        scores = score_pairs(
            named[name],
            classes=classes,
            groups=groups,
            metrics=(MAIN,),
            resamples=resamples,
            seed=seed,
            confidence=confidence,
        )
        emptied, refilled = _count_changes(named["none"], named[name])
        for column, (score, factors) in enumerate(zip(scores, decompose(named[name]), strict=True)):
            trials[column, number] = GateTrial(
                name=name,
                class_name=score.class_name,
                dice=score.value,
                low=score.low,
                high=score.high,
                difference=margins[0, number, column],
                p_value=float(p_values[number, column]),
                specificity=factors.specificity,
                recall=factors.recall,
                dice_given_found=factors.dice_given_found,
                emptied=emptied[column],
                refilled=refilled[column],
                best=bool(carried[number, column] and best[column] == number),
            )
    return tuple(trials[key] for key in sorted(trials))


def correct_holm(p_values: Float64) -> Float64:
    """Correct p-values of one family by Holm's method: the chance of any false claim.

    Args:
        p_values: Any shape; all are one family.

    Returns:
        The same shape; each is the level at which its claim would just be made.

    References:
        Holm (1979), "A simple sequentially rejective multiple test procedure".

    Examples:
        >>> correct_holm(np.array([0.04, 0.01, 0.03])).tolist()
        [0.06, 0.03, 0.06]
    """
    flat = p_values.ravel()
    order = np.argsort(flat, kind="stable")
    raised = np.maximum.accumulate(flat[order] * np.arange(len(flat), 0, -1))
    result = np.empty(len(flat))
    result[order] = np.minimum(raised, 1.0)
    return result.reshape(p_values.shape)


def _weigh(
    margins: NDArray[np.object_], names: Sequence[str], level: float
) -> tuple[Float64, Bool]:
    """Return corrected p-values, and which claims of being better are carried.

    Args:
        margins: Differences to no gate and to empty masks.
        names: Of the competitors.
        level: Largest p-value of a claim.

    Shape:
        margins: (2, M, 1 + C). names: (M,). Returns (M, 1 + C) twice.
    """
    p_values = np.vectorize(lambda each: each.p_value, otypes=[float])(margins)
    better = np.vectorize(lambda each: each.value > 0, otypes=[bool])(margins)
    p_values = np.where(better, p_values, 1.0)
    # NaN without resamples, which is above nothing.
    above = np.vectorize(lambda each: each.low, otypes=[float])(margins) > 0
    # Empty masks must beat no gate alone; nobody claims anything for no gate.
    plain = names.index("empty")
    p_values[1, plain], above[1, plain] = 0.0, True
    raw, both = p_values.max(axis=0), above.all(axis=0)
    result = np.full(raw.shape, np.nan)
    claims = [number for number, name in enumerate(names) if name != "none"]
    result[claims, 0] = correct_holm(raw[claims, 0])
    result[claims, 1:] = correct_holm(raw[claims, 1:])
    return result, both & (result <= level)


def _cross_fit(
    kind: GateKind,
    probs: Float32,
    part_masks: dict[int, CutMasks],
    places: dict[int, NDArray[np.intp]],
) -> Opened:
    """Apply to each part the gate that was fitted without it."""
    opened = Opened(*(np.zeros(probs.shape, np.bool_) for _ in range(2)))
    every = np.arange(len(probs))
    for part, masks in part_masks.items():
        here = places[part]
        others = np.setdiff1d(every, here, assume_unique=True)
        gate = fit_gate(kind, probs[others], take_masks(masks, others))
        found = apply_gate(gate, probs[here], take_masks(masks, here))
        opened.keep[here], opened.refill[here] = found
    return opened


def _find_best(trials: Sequence[GateTrial], class_name: str) -> str:
    marked = [each.name for each in trials if each.best and each.class_name == class_name]
    return marked[0] if marked else "none"


def _spread_rows(values_NC: Float64 | Bool) -> Float64:
    """Put the mean over classes before the classes: (N, C) to (N, 1 + C)."""
    return np.concatenate([values_NC.mean(axis=1, keepdims=True), values_NC], axis=1)


def _count_changes(before: Pairs, after: Pairs) -> tuple[list[int], list[int]]:
    """Count masks that went and masks that came, of all pairs and then of each class."""
    was, is_now = before.predicted > 0, after.predicted > 0
    counts = [flags.sum(axis=0) for flags in (was & ~is_now, is_now & ~was)]
    emptied, refilled = ([int(each.sum()), *each.tolist()] for each in counts)
    return emptied, refilled
