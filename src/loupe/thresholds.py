"""Thresholds: from a goal to the probability from which a class is decided.

Owns the goals that a threshold can be chosen for, and the choice on given rows. What
the choice is worth on other rows is told by `wagers`. It must not resample, or know
runs and files.

Shapes: N rows, C classes, T candidates; `...` stands for resamples or nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from loupe.errors import InputError, shorten, suggest
from loupe.weighting import Bool, Floats, divide

Float32 = NDArray[np.float32]
Counts = NDArray[np.floating] | NDArray[np.integer]
Keys = NDArray[np.uint32]
Places = NDArray[np.intp]

NEVER = float(np.nextafter(np.float32(1), np.float32(2)))
"""The threshold that no probability reaches, as float32 or float64: the next above 1."""
DEFAULT = 0.5
"""The threshold of a class about which the rows say nothing."""
FEW = 5
"""Positives that must be found before the best precision is one to go by."""
SLACK = 1e-12
"""Rounding that a share may have: 47 of 50 is a recall of 0.94."""

Kind = Literal["fbeta", "recall", "precision", "cost", "fixed"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SPELLINGS = "f1, f2, f0.5, recall:0.94, precision:0.9, cost:10, fixed:0.3"


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What a threshold is chosen for.

    Attributes:
        kind: "fbeta": the largest F-beta. "recall": the largest threshold that finds a
            share `value` of the positives. "precision": the lowest threshold from which
            on a share `value` of the decided rows is positive. "cost": the least cost,
            where a missed positive costs `value` times a false alarm. "fixed": `value`.
        value: Beta, recall, precision, cost or threshold.
    """

    kind: Kind
    value: float

    def __post_init__(self) -> None:
        inside, wanted = {
            "fbeta": (0 < self.value < math.inf, "beta above 0, as in f1 or f0.5"),
            "recall": (0 < self.value <= 1, "a share above 0 and up to 1, as in recall:0.94"),
            "precision": (0 < self.value <= 1, "a share above 0 and up to 1, as in precision:0.9"),
            "cost": (0 < self.value < math.inf, "a number above 0, as in cost:10"),
            "fixed": (0 <= self.value <= 1, "a probability in [0, 1], as in fixed:0.3"),
        }[self.kind]
        if not inside:
            raise InputError(f"goal {self.kind} has the value {self.value:g}; expected {wanted}.")

    def __str__(self) -> str:
        number = f"{self.value:.12g}"
        return f"f{number}" if self.kind == "fbeta" else f"{self.kind}:{number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A threshold as it was chosen.

    Attributes:
        threshold: Decide positive where the probability is equal or above.
        attained: False if the goal is out of reach on these rows, or if they hold no
            positive; `find_cut` says what the threshold is then.
    """

    threshold: float
    attained: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """All thresholds that decide some rows differently, from "never" down to "always".

    Attributes:
        values: (T - 1,) the distinct probabilities, falling; candidate i decides those
            before place i, so candidate 0 decides no row.
        found: (T,) positive rows that each candidate decides.
        called: (T,) rows that each candidate decides.
    """

    values: Float32
    found: Places
    called: Places


def read_goal(text: str) -> Goal:
    """Read a goal as users write it.

    Args:
        text: "f1" or another F-beta, "recall:0.94", "precision:0.9", "cost:10" (a missed
            positive costs ten times a false alarm) or "fixed:0.3".

    Raises:
        InputError: it is none of these, or its value is out of range.

    Examples:
        >>> read_goal("recall:0.94")
        Goal(kind='recall', value=0.94)
        >>> str(read_goal("F0.5"))
        'f0.5'
    """
    plain = text.strip().lower()
    name, colon, number = (part.strip() for part in plain.partition(":"))
    if not colon and name[:1] == "f" and _is_number(name[1:]):
        name, number = "fbeta", name[1:]
    kinds = {kind: kind for kind in KINDS}
    if name not in kinds:
        known = [kind for kind in KINDS if kind != "fbeta"]
        hint = suggest(name, known) or suggest(plain, ["f1", "f2"])
        raise InputError(f"goal {text!r} is not known; expected one of {SPELLINGS}{hint}.")
    if not _is_number(number):
        raise InputError(
            f"goal {text!r} has no number that can be read; expected one of {SPELLINGS}."
        )
    return Goal(kind=kinds[name], value=float(number))


def find_cut(truth_N: Bool, probs_N: Floats, goal: Goal) -> Cut:
    """Choose the threshold that serves a goal best on the given rows.

    Candidates lie halfway between neighbouring distinct probabilities, so no row sits on
    one; the one below all rows is 0, the one above all is `NEVER`, a hair above 1. Of
    equally good ones the highest is taken, except for "precision", whose lowest finds most.

    Where the goal is out of reach the threshold is, and `attained` is False:

    - precision: the one of the best precision among those that find `FEW` positives (or
      all, if there are fewer), for a rule that decides nothing would be silent;
    - no positive row: `DEFAULT`; for "cost" 1 / (1 + cost), which is right for calibrated
      probabilities.

    What is reached on these rows is optimistic; `wagers` has what holds on others.

    Args:
        truth_N: Given labels.
        probs_N: Held-out probabilities in [0, 1]; compared as float32.
        goal: What the threshold is for.

    Shape:
        truth_N, probs_N: (N,).

    Raises:
        InputError: shapes disagree, or a probability is NaN or outside [0, 1].

    References:
        Lipton, Elkan & Narayanaswamy (2014), "Thresholding classifiers to maximize F1
        score", arXiv:1402.1892; Elkan (2001), "The foundations of cost-sensitive
        learning", section 2 (the threshold of calibrated probabilities).

    Examples:
        >>> truth, probs = np.array([0, 0, 1, 1], bool), np.float32([0.1, 0.4, 0.35, 0.8])
        >>> round(find_cut(truth, probs, Goal(kind="recall", value=1.0)).threshold, 3)
        0.225
        >>> round(find_cut(truth, probs, Goal(kind="precision", value=1.0)).threshold, 3)
        0.6
    """
    probs = _check(np.asarray(truth_N), np.asarray(probs_N))
    if goal.kind == "fixed":
        return Cut(threshold=float(goal.value), attained=True)
    if not np.any(truth_N):
        free = 1 / (1 + goal.value) if goal.kind == "cost" else DEFAULT
        return Cut(threshold=free, attained=False)
    ladder = build_ladder(np.asarray(truth_N, np.bool_), probs)
    place = choose(ladder.found, ladder.called, goal)
    attained = goal.kind != "precision" or reaches(ladder.found, ladder.called, place, goal)
    return Cut(threshold=place_threshold(ladder.values, int(place)), attained=bool(attained))


def find_cuts(truth_NC: Bool, probs_NC: Floats, goals: Sequence[Goal]) -> tuple[Cut, ...]:
    """Choose a threshold for each column, as `find_cut` does.

    Args:
        truth_NC: Given labels.
        probs_NC: Held-out probabilities in [0, 1], columns in the same order.
        goals: (C,) one for each column.

    Shape:
        truth_NC, probs_NC: (N, C).

    Raises:
        InputError: as `find_cut`, or there are more or fewer goals than columns.
    """
    if truth_NC.ndim != 2 or truth_NC.shape != probs_NC.shape or len(goals) != truth_NC.shape[1]:
        raise InputError(
            f"labels have shape {truth_NC.shape}, probabilities {probs_NC.shape}, and there are "
            f"{len(goals)} goals; expected (N, C) twice and C goals."
        )
    columns = zip(truth_NC.T, probs_NC.T, goals, strict=True)
    return tuple(find_cut(truth, probs, goal) for truth, probs, goal in columns)


def build_ladder(truth_N: Bool, probs_N: Float32) -> Ladder:
    """Sort a column and count what every threshold would decide.

    Args:
        truth_N: Given labels.
        probs_N: In [0, 1].

    Shape:
        truth_N, probs_N: (N,).
    """
    # The bits of floats from 0 up to 1 rise with them and leave two bits free: one carries
    # the label, so sorting plain numbers sorts both. Adding 0 turns -0 to 0.
    keys: Keys = ((probs_N + np.float32(0)).view(np.uint32) << np.uint32(1)) | truth_N
    keys.sort()
    keys = keys[::-1]
    bits = keys >> np.uint32(1)
    ends = np.append(np.flatnonzero(bits[1:] != bits[:-1]), len(bits) - 1)
    hits = np.cumsum(keys & np.uint32(1), dtype=np.intp)
    return Ladder(
        values=bits[ends].view(np.float32),
        found=np.append(0, hits[ends]),
        called=np.append(0, ends + 1),
    )


def choose(found: Counts, called: Counts, goal: Goal) -> Places:
    """Choose among candidates by what they count; many resamples at once.

    Args:
        found: Positive rows that each candidate decides, rising; the last finds all.
        called: Rows that each candidate decides, rising.
        goal: Any but "fixed".

    Shape:
        found, called: (..., T). Returns (...).

    Returns:
        Place of the candidate; 0 decides least.
    """
    positives = found[..., -1:]
    if goal.kind == "recall":
        return np.asarray((found >= positives * (goal.value - SLACK)).argmax(axis=-1))
    if goal.kind == "cost":
        return np.asarray((goal.value * (positives - found) + (called - found)).argmin(axis=-1))
    if goal.kind == "fbeta":
        # F-beta without its constant (1 + beta^2).
        return np.asarray(divide(found, goal.value**2 * positives + called, empty=0).argmax(-1))
    reached = divide(found, called, empty=0)
    good = reached >= goal.value - SLACK
    lowest = found.shape[-1] - 1 - good[..., ::-1].argmax(axis=-1)
    reached[found < np.minimum(FEW, positives)] = -1
    best = found.shape[-1] - 1 - reached[..., ::-1].argmax(axis=-1)
    return np.asarray(np.where(good.any(axis=-1), lowest, best))


def reaches(found: Counts, called: Counts, place: Places, goal: Goal) -> Bool:
    """Say whether a candidate has the precision that a goal asks for.

    Shape:
        found, called: (..., T). place: (...). Returns (...).
    """
    at = np.asarray(place)[..., None]
    right, total = (np.take_along_axis(counts, at, -1)[..., 0] for counts in (found, called))
    return np.asarray(divide(right, total, empty=0) >= goal.value - SLACK)


def place_threshold(values: Float32, place: int) -> float:
    """Return the threshold of a candidate: halfway to the next lower probability.

    Args:
        values: (T - 1,) distinct probabilities, falling.
        place: 0 to T - 1.

    Returns:
        A number that decides the same rows compared as float32 or as float64.
    """
    if place == 0:
        return NEVER
    if place == len(values):
        return 0.0
    least, below = values[place - 1], values[place]
    middle = (float(least) + float(below)) / 2
    # Halfway between neighbouring floats, rounding may fall on the lower one.
    return middle if below < np.float32(middle) <= least else float(least)


def _check(truth_N: Bool, probs_N: Floats) -> Float32:
    if probs_N.ndim != 1 or probs_N.shape != truth_N.shape or not len(probs_N):
        raise InputError(
            f"labels have shape {truth_N.shape} and probabilities {probs_N.shape}; expected the "
            "same (N,) twice, with a row at least."
        )
    probs = np.ascontiguousarray(probs_N, dtype=np.float32)
    wrong = np.flatnonzero(~((probs >= 0) & (probs <= 1)))
    if len(wrong):
        found = shorten([f"row {row} ({probs[row]:g})" for row in wrong[:4]], 3)
        raise InputError(
            f"probabilities are NaN or outside [0, 1] in {len(wrong)} of {len(probs)} rows: "
            f"{found}. Leave out the rows that were not predicted."
        )
    return probs


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
