"""Calibrating: fit maps of probabilities, and choose one of them or none.

Owns the fits and the choice; what a map is and how it is applied stands in
`calibration`, and how reliable probabilities are in `reliability`. It must not read
files or choose thresholds.

Shapes: N rows, C classes, G groups.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from loupe.calibration import (
    EPS,
    Calibration,
    Float32,
    Float64,
    Kind,
    calibrate,
    squash,
    take_logits,
)
from loupe.errors import InputError, suggest
from loupe.intervals import bootstrap_weights, find_interval
from loupe.metrics import log_loss_by_row
from loupe.monotone import condense, find_zero, fit_line, fit_stairs
from loupe.simplex import spread_rows

Rows = NDArray[np.intp]

KINDS: tuple[Kind, ...] = ("temperature", "platt", "isotonic")
"""From few parameters to many, which is who wins a tie."""
FIT_ROWS = 50_000
"""Most rows that are read, spread evenly, but for all positives of rarer classes. The error
of a slope is then about 0.01."""
COLDEST, HOTTEST = 0.05, 20.0
"""Range of the temperature."""
RESAMPLES = 1000
BUNDLES = 1000
"""Most units of the bootstrap: more groups are drawn in bundles. Its variance is then off
by a root of 2 / 1000, and a million groups cost no more than a thousand."""
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which calibration was chosen, and why.

    Attributes:
        calibration: Fitted on all rows.
        kind: Its kind.
        losses: Kind to cross-fitted log loss, "none" among them; empty where the kind was
            not up for choice.
        gain: Loss of the chosen kind minus that of none: below 0 is better.
        low: Lower end of its interval.
        high: Upper end of its interval.
        reason: In words.
    """

    calibration: Calibration
    kind: Kind
    losses: Mapping[Kind, float] = field(default_factory=dict)
    gain: float = 0.0
    low: float = 0.0
    high: float = 0.0
    reason: str = ""


def fit_calibration(
    kind: Kind, targets: Float32, probs: Float32, *, exclusive: bool
) -> Calibration:
    """Fit one kind of map by its log loss; about `FIT_ROWS` rows are read.

    No map ever answers 0 or 1, however well the rows are told apart, for a single wrong
    row would then cost without limit:

    - temperature: the minimum of a convex function, within `COLDEST` and `HOTTEST`, of the
      rows and one more that may be anything;
    - platt: targets are moved to (n + 1) / (n + 2) and 1 / (n + 2), n being the positives
      and the negatives. A slope below 0 becomes 0: the class then carries no signal;
    - isotonic: pooled adjacent violators, in blocks of `monotone.BLOCK_ROWS` rows or more,
      none nearer to 0 or 1 than one more row would leave it. A block has one knot, at its
      mean probability, and the map is linear between knots: so it has fewer ties than steps.

    A class without positives, or without anything else, keeps its probabilities.

    Args:
        kind: Which.
        targets: Given labels in [0, 1]; may be soft.
        probs: Held-out probabilities in [0, 1].
        exclusive: True if the columns of a row sum to 1.

    Shape:
        targets, probs: (N, C).

    Raises:
        InputError: no such kind, shapes disagree, or a number is NaN or outside [0, 1].

    References:
        Guo et al. (2017), "On calibration of modern neural networks", section 4.2; Platt
        (1999), "Probabilistic outputs for support vector machines"; Lin, Lin & Weng
        (2007), "A note on Platt's probabilistic outputs for support vector machines";
        Zadrozny & Elkan (2002), "Transforming classifier scores into accurate multiclass
        probability estimates"; Oron & Flournoy (2017), "Centered isotonic regression".

    Examples:
        >>> targets = np.float32([[0], [0], [1], [1], [1], [0]])
        >>> probs = np.float32([[0.1], [0.2], [0.3], [0.6], [0.7], [0.8]])
        >>> fitted = fit_calibration("temperature", targets, probs, exclusive=False)
        >>> round(fitted.temperature, 2)
        2.19
    """
    _check_kinds([kind], ("none", *KINDS))
    _check_sheets(targets, probs)
    rows = spread_rows(len(targets), FIT_ROWS)
    _check_values(targets[rows], probs[rows])
    if kind == "temperature":
        fitted = _fit_temperature(targets[rows], probs[rows], exclusive=exclusive)
        return Calibration(kind=kind, temperature=fitted)
    if kind == "none":
        return Calibration()
    columns = [
        (targets[near, column], probs[near, column], weights)
        for column in range(targets.shape[1])
        for near, weights in [_add_positives(targets[:, column], rows)]
    ]
    if kind == "platt":
        slopes, intercepts = zip(*(fit_line(*column) for column in columns), strict=True)
        return Calibration(kind=kind, slopes=slopes, intercepts=intercepts)
    knots, values = zip(*(fit_stairs(*column) for column in columns), strict=True)
    return Calibration(kind=kind, knots=knots, values=values)


def choose_calibration(
    targets: Float32,
    probs: Float32,
    parts: Rows,
    groups: Rows,
    *,
    exclusive: bool,
    kinds: Sequence[Kind] = KINDS,
) -> Choice:
    """Choose a kind of map by its log loss on rows it was not fitted on, or none.

    Each kind is fitted without each part, and its loss taken on that part. It counts
    only where its paired interval against no map lies wholly below 0; among those that
    count the smallest loss wins, on a tie the kind with fewer parameters. Probabilities
    that are calibrated are so left alone. At most `FIT_ROWS` rows are read.

    Args:
        targets: Given labels in [0, 1].
        probs: Held-out probabilities in [0, 1].
        parts: Part of each row, any numbers; with a single one nothing can be chosen.
        groups: Rows that belong together.
        exclusive: True if the columns of a row sum to 1.
        kinds: Which ones to try.

    Shape:
        targets, probs: (N, C). parts, groups: (N,).

    Raises:
        InputError: as `fit_calibration`, or there are other numbers of parts or groups.
    """
    _check_kinds(kinds, KINDS)
    _check_sheets(targets, probs)
    if not len(parts) == len(groups) == len(targets):
        raise InputError(
            f"there are {len(parts)} parts and {len(groups)} groups for {len(targets)} rows; "
            "expected one of each for a row."
        )
    rows = spread_rows(len(targets), FIT_ROWS)
    t, p, folds = targets[rows], probs[rows], parts[rows]
    tried = [kind for kind in KINDS if kind in kinds]
    if len(np.unique(folds)) < 2:
        return Choice(
            calibration=Calibration(),
            kind="none",
            reason="none: rows of a single part cannot say what a calibration is worth",
        )
    plain = log_loss_by_row(t, p, exclusive=exclusive)
    by_kind = {kind: _cross_fit(kind, t, p, folds, exclusive=exclusive) for kind in tried}
    losses: dict[Kind, float] = {"none": float(plain.mean())}
    losses |= {kind: float(each.mean()) for kind, each in by_kind.items()}
    ends = _bound_gains([by_kind[kind] - plain for kind in tried], groups[rows])
    better = {kind: end for kind, end in zip(tried, ends, strict=True) if end[1] < 0}
    if not better:
        return Choice(
            calibration=Calibration(), kind="none", losses=losses, reason=_explain_none(losses)
        )
    # Rounded, so that a difference in the last bits is a tie; the first of equals wins.
    best = min(better, key=lambda kind: round(losses[kind], 6))
    gain, (low, high) = losses[best] - losses["none"], better[best]
    return Choice(
        calibration=fit_calibration(best, targets, probs, exclusive=exclusive),
        kind=best,
        losses=losses,
        gain=gain,
        low=low,
        high=high,
        reason=f"{best}: log loss {losses[best]:.3f} against {losses['none']:.3f} uncalibrated "
        f"({gain:+.3f}, {low:+.3f} to {high:+.3f})",
    )


def _fit_temperature(targets: Float32, probs: Float32, *, exclusive: bool) -> float:
    """Minimise log loss over u = 1 / T, in which it is convex."""
    t = targets.astype(np.float64)
    doubt = 1 / (len(t) + 1)
    if exclusive:
        logs = np.log(np.maximum(probs, EPS)).astype(np.float64)
        logs -= logs.max(axis=1, keepdims=True)
        wanted = (1 - doubt) * (t * logs).sum() + doubt * logs.mean(axis=1).sum()

        def slope(u: float) -> tuple[float, float]:
            powers = np.exp(u * logs)
            powers /= powers.sum(axis=1, keepdims=True)
            weighed = powers * logs
            means = weighed.sum(axis=1)
            return float(means.sum() - wanted), float((weighed * logs).sum() - means @ means)

    else:
        x = take_logits(probs.astype(np.float64)).ravel()
        x, t, weights = condense(x, t.ravel(), np.ones(len(x)))
        wanted = float((weights * x) @ ((1 - doubt) * t + doubt / 2))

        def slope(u: float) -> tuple[float, float]:
            s = squash(u * x)
            moved = weights * s * x
            return float(moved.sum() - wanted), float(moved @ ((1 - s) * x))

    return 1 / find_zero(slope, 1 / HOTTEST, 1 / COLDEST)


def _add_positives(targets_N: Float32, rows: Rows) -> tuple[Rows, Float64 | None]:
    """Add all positives of a rare class to the rows that are read, and weigh the others up."""
    positive = np.flatnonzero(targets_N >= 0.5) if len(rows) < len(targets_N) else rows
    if len(positive) >= FIT_ROWS or len(rows) == len(targets_N):
        return rows, None
    others = rows[targets_N[rows] < 0.5]
    if not len(others):
        return rows, None
    weights = np.ones(len(positive) + len(others))
    weights[len(positive) :] = (len(targets_N) - len(positive)) / len(others)
    return np.concatenate([positive, others]), weights


def _cross_fit(
    kind: Kind, targets: Float32, probs: Float32, parts: Rows, *, exclusive: bool
) -> Float64:
    """Return the loss of each row under the map that was fitted without its part."""
    losses = np.empty(len(targets))
    for part in np.unique(parts):
        held = parts == part
        fitted = fit_calibration(kind, targets[~held], probs[~held], exclusive=exclusive)
        mapped = calibrate(fitted, probs[held], exclusive=exclusive)
        losses[held] = log_loss_by_row(targets[held], mapped, exclusive=exclusive)
    return losses


def _bound_gains(gains: Sequence[Float64], groups: Rows) -> list[tuple[float, float]]:
    """Return a bootstrap interval for each mean gain; the same draws for all."""
    names, keys = np.unique(groups, return_inverse=True)
    units = min(len(names), BUNDLES)
    # The golden ratio spreads neighbours, which may be alike, over the bundles.
    order = np.argsort((np.arange(len(names)) * ((math.sqrt(5) - 1) / 2)) % 1)
    place = np.empty(len(names), np.intp)
    place[order] = np.arange(len(names)) * units // len(names)
    unit = place[keys]
    draws = bootstrap_weights(np.arange(units), RESAMPLES, seed=0).astype(np.float64)
    counts = draws @ np.bincount(unit, minlength=units)
    return [
        find_interval(
            float(gain.mean()),
            draws @ np.bincount(unit, gain, minlength=units) / counts,
            trials=len(names),
            bounded=False,
            confidence=CONFIDENCE,
        )
        for gain in gains
    ]


def _explain_none(losses: Mapping[Kind, float]) -> str:
    told = ", ".join(f"{kind} {loss:.3f}" for kind, loss in losses.items() if kind != "none")
    if not told:
        return "none: no other kind was asked for"
    return (
        "none: no kind is better than the probabilities as they are beyond doubt "
        f"(log loss {losses['none']:.3f}; {told})"
    )


def _check_kinds(kinds: Sequence[str], known: Sequence[str]) -> None:
    unknown = [kind for kind in kinds if kind not in known]
    if unknown:
        raise InputError(
            f"calibration {unknown[0]!r} is not known; expected one of {', '.join(known)}"
            f"{suggest(unknown[0], known)}."
        )


def _check_values(targets: Float32, probs: Float32) -> None:
    if not ((targets >= 0) & (targets <= 1) & (probs >= 0) & (probs <= 1)).all():
        raise InputError(
            "targets or probabilities are NaN or outside [0, 1]; expected numbers in [0, 1]: "
            "leave out rows that are not labelled or predicted."
        )


def _check_sheets(targets: Float32, probs: Float32) -> None:
    if targets.ndim != 2 or targets.shape != probs.shape or 0 in targets.shape:
        raise InputError(
            f"targets have shape {targets.shape} and probabilities {probs.shape}; expected the "
            "same (N, C) twice, with a row and a class at least."
        )
