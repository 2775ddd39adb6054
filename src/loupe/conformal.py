"""Conformal: sets of answers that hold the right one as often as was asked for.

Split conformal prediction by class: of the rows that truly are of a class, at least
the stated share keep that class in their set, whatever the classifier. Owns the cuts,
their text form, how they are applied and measured. It must not choose the coverage,
and loads nothing heavy: sets are made wherever decisions are.

Shapes: N rows, C classes, G groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from loupe.errors import InputError, shorten
from loupe.metrics import to_decisions
from loupe.reliability import measure_share

Bool = NDArray[np.bool_]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Rows = NDArray[np.intp]
Side = Literal["present", "absent"]

ALWAYS = 1.0
"""No 1 - p is above it, so that such an answer is in every set."""
_SLACK = 1e-9
"""0.07 * 100 is 7.000000000000001 in binary, and must not ask for an eighth row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conformal:
    """How unlikely an answer may look and still be kept, by class.

    Attributes:
        coverage: The share of rows of each class that keep it, in (0, 1).
        present: (C,) "the class is present" is kept where 1 - p is no larger.
        absent: (C,) "the class is absent" is kept where p is no larger; () if exclusive.
        notes: Where there were too few rows to leave an answer out at this coverage.
    """

    coverage: float
    present: tuple[float, ...]
    absent: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """What the sets of one class are worth.

    Attributes:
        class_name: The class.
        side: "present" for the rows that have it, "absent" for those that have not.
        n: How many such rows.
        groups: How many groups they form.
        covered: Share of them whose set holds the right answer; each group counts once,
            as in the guarantee.
        low: Lower end of its interval.
        high: Upper end of its interval.
        size: Mean number of answers in their sets: of C classes if exclusive, else of two.
        reviewed: Share of them whose set is not one answer, for this class if classes
            stand alone.
    """

    class_name: str
    side: Side
    n: int
    groups: int
    covered: float
    low: float
    high: float
    size: float
    reviewed: float


def fit_conformal(
    targets: Float32,
    probs: Float32,
    groups: Rows,
    *,
    exclusive: bool,
    coverage: float,
    classes: Sequence[str],
) -> Conformal:
    """Find the cuts that keep the right answer of a new row with the stated probability.

    Of the n rows of a class, the ceil((n + 1) * coverage)-th smallest 1 - p is the cut;
    a new row of that class lies below it with probability coverage or more, because it
    is equally likely to take any rank. Where n is too small for that rank, the answer
    is always kept. Rows of one group are not exchangeable with a row of a new one, so
    groups count as n, and each row of a group as its share of it: then the promise is
    for one row from a new group.

    Args:
        targets: Given labels; 0.5 and above is present, the largest if exclusive.
        probs: Held-out probabilities, calibrated or not: only their order matters.
        groups: Rows that belong together.
        exclusive: True if the columns of a row sum to 1.
        coverage: In (0, 1).
        classes: Names of the columns.

    Shape:
        targets, probs: (N, C). groups: (N,). classes: (C,).

    Raises:
        InputError: the coverage is out of its range, shapes disagree, or there is NaN.

    References:
        Vovk (2012), "Conditional validity of inductive conformal predictors", section 3
        (one quantile a class); Angelopoulos & Bates (2021), arXiv:2107.07511, sections 1
        and 4.2; Lee, Barber & Willett (2023), arXiv:2306.06342, section 2 (groups).

    Examples:
        >>> targets = np.float32([[1], [1], [1], [0], [0], [0]])
        >>> probs = np.float32([[0.875], [0.75], [0.25], [0.5], [0.25], [0.125]])
        >>> fit_conformal(
        ...     targets, probs, np.arange(6), exclusive=False, coverage=0.5, classes=["a"]
        ... )
        Conformal(coverage=0.5, present=(0.25,), absent=(0.25,), notes=())
    """
    if not 0 < coverage < 1:
        raise InputError(f"coverage is {coverage}; expected more than 0 and less than 1.")
    _check_rows(targets, probs, groups, classes)
    truth = to_decisions(targets, exclusive=exclusive)
    _, keys = np.unique(groups, return_inverse=True)
    cuts: dict[Side, list[float]] = {"present": [], "absent": []}
    small: dict[str, int] = {}
    for column, name in enumerate(classes):
        for side in _sides(exclusive=exclusive):
            rows = np.flatnonzero(truth[:, column] == (side == "present"))
            scores = _score(probs[rows, column], side)
            cut, count = _find_cut(scores, keys[rows], coverage)
            cuts[side].append(ALWAYS if cut is None else cut)
            if cut is None:
                small[name if side == "present" else f"no {name}"] = count
    return Conformal(
        coverage=coverage,
        present=tuple(cuts["present"]),
        absent=tuple(cuts["absent"]),
        notes=_note_small(small, coverage),
    )


def predict_sets(conformal: Conformal, probs: Float32, *, exclusive: bool) -> Bool:
    """Return the set of answers of each row.

    A set can be empty: no answer then looks like those of the rows that were fitted on.
    It is empty where a row has NaN, too.

    Args:
        conformal: From `fit_conformal`.
        probs: Probabilities, calibrated as those it was fitted on.
        exclusive: True if the columns of a row sum to 1.

    Shape:
        probs: (N, C).

    Returns:
        Exclusive: (N, C), True for the classes in the set. Otherwise (N, C, 2): may be
        absent, may be present.

    Raises:
        InputError: it was fitted on other classes, or on classes of the other kind.

    Examples:
        >>> cuts = Conformal(coverage=0.9, present=(0.75,), absent=(0.5,))
        >>> predict_sets(cuts, np.float32([[0.9], [0.4]]), exclusive=False).tolist()
        [[[False, True]], [[True, True]]]
    """
    sheet = np.asarray(probs, np.float32)
    expected = (len(conformal.present), 0 if exclusive else len(conformal.present))
    if sheet.ndim != 2 or (sheet.shape[1], len(conformal.absent)) != expected:
        raise InputError(
            f"probabilities have shape {sheet.shape}, exclusive {exclusive}; the prediction sets "
            f"were fitted for {len(conformal.present)} classes, exclusive {not conformal.absent}."
        )
    sets = np.empty(sheet.shape if exclusive else (*sheet.shape, 2), np.bool_)
    for column in range(sheet.shape[1]):
        present = _score(sheet[:, column], "present") <= np.float32(conformal.present[column])
        if exclusive:
            sets[:, column] = present
        else:
            sets[:, column, 1] = present
            sets[:, column, 0] = sheet[:, column] <= np.float32(conformal.absent[column])
    sets[np.isnan(sheet).any(axis=1)] = False
    return sets


def needs_review(conformal: Conformal, probs: Float32, *, exclusive: bool) -> Bool:
    """Say which rows are not sure enough to need no person.

    Args:
        conformal: From `fit_conformal`.
        probs: Probabilities, calibrated as those it was fitted on.
        exclusive: True if the columns of a row sum to 1.

    Shape:
        probs: (N, C).

    Returns:
        (N,) True where the set is not exactly one class; where classes stand alone,
        where it is not exactly one answer for some class. True for rows with NaN.

    Raises:
        InputError: as `predict_sets`.
    """
    return _are_unsure(predict_sets(conformal, probs, exclusive=exclusive))


def measure_coverage(
    sets: Bool,
    targets: Float32,
    groups: Rows,
    *,
    exclusive: bool,
    classes: Sequence[str],
    confidence: float = 0.95,
) -> tuple[Coverage, ...]:
    """Measure what sets hold, by class and side; sides without rows are left out.

    Args:
        sets: From `predict_sets`, of rows that the cuts were not fitted on.
        targets: Given labels; 0.5 and above is present, the largest if exclusive.
        groups: Rows that belong together.
        exclusive: True if the columns of a row sum to 1.
        classes: Names of the columns.
        confidence: Of the intervals (see `reliability.measure_share`).

    Shape:
        sets: (N, C) if exclusive, else (N, C, 2). targets: (N, C). groups: (N,).

    Raises:
        InputError: shapes disagree.
    """
    expected = targets.shape if exclusive else (*targets.shape, 2)
    if sets.shape != expected:
        raise InputError(
            f"sets have shape {sets.shape} for targets of {targets.shape}; expected {expected}."
        )
    _check_rows(targets, targets, groups, classes)
    truth = to_decisions(targets, exclusive=exclusive)
    _, keys = np.unique(groups, return_inverse=True)
    found = []
    for column, name in enumerate(classes):
        for side in _sides(exclusive=exclusive):
            rows = np.flatnonzero(truth[:, column] == (side == "present"))
            if not len(rows):
                continue
            here = sets[rows] if exclusive else sets[rows, column]
            held = here[:, column] if exclusive else here[:, int(side == "present")]
            counts = np.bincount(keys[rows])
            known = counts > 0
            means = np.bincount(keys[rows], held)[known] / counts[known]
            share = measure_share(means, np.ones(len(means)), confidence=confidence)
            sizes = here.sum(axis=1)
            found.append(
                Coverage(
                    class_name=name,
                    side=side,
                    n=len(rows),
                    groups=len(means),
                    covered=share.value,
                    low=share.low,
                    high=share.high,
                    size=float(sizes.mean()),
                    reviewed=float((sizes != 1).mean()),
                )
            )
    return tuple(found)


def conformal_to_dict(conformal: Conformal) -> dict[str, Any]:
    """Return the cuts as plain values, for JSON.

    Args:
        conformal: Any.
    """
    return {
        "coverage": conformal.coverage,
        "present": list(conformal.present),
        "absent": list(conformal.absent),
        "notes": list(conformal.notes),
    }


def read_conformal(values: Mapping[str, Any], classes: int) -> Conformal:
    """Read cuts from plain values; nothing in them is trusted.

    Args:
        values: As `conformal_to_dict` wrote it.
        classes: How many classes they must be for.

    Raises:
        InputError: a field is missing, no number, out of [0, 1], or not one a class; all
            such findings stand in one message.
    """
    try:
        read = Conformal(
            coverage=float(values["coverage"]),
            present=tuple(float(value) for value in values["present"]),
            absent=tuple(float(value) for value in values["absent"]),
            notes=tuple(str(note) for note in values.get("notes", ())),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"the prediction sets cannot be read: {type(error).__name__} {error}. Expected what "
            "'loupe decide' writes; run it again."
        ) from None
    wrong = []
    if not 0 < read.coverage < 1:
        wrong.append(f"coverage {read.coverage}, expected more than 0 and less than 1")
    if len(read.present) != classes or len(read.absent) not in (0, classes):
        wrong.append(
            f"{len(read.present)} cuts for present and {len(read.absent)} for absent, expected "
            f"{classes} and {classes}, or none for absent if classes are exclusive"
        )
    if not all(0 <= cut <= 1 for cut in (*read.present, *read.absent)):
        wrong.append("a cut outside [0, 1]")
    if wrong:
        raise InputError(
            f"the prediction sets are not valid: {'; '.join(wrong)}. Run 'loupe decide' again."
        )
    return read


def _sides(*, exclusive: bool) -> tuple[Side, ...]:
    return ("present",) if exclusive else ("present", "absent")


def _score(probs_N: Float32, side: Side) -> Float32:
    """Return how little an answer looks like the right one, the same in fit and use."""
    return np.float32(1) - probs_N if side == "present" else probs_N


def _find_cut(scores_N: Float32, keys_N: Rows, coverage: float) -> tuple[float | None, int]:
    """Return the cut, None where there are too few groups for it, and how many there are."""
    rows_of = np.bincount(keys_N)
    count = int(np.count_nonzero(rows_of))
    needed = coverage * (count + 1) * (1 - _SLACK)
    if needed > count:
        return None, count
    if count == len(scores_N):
        place = int(np.ceil(needed)) - 1
        return float(np.partition(scores_N, place)[place]), count
    order = np.argsort(scores_N, kind="stable")
    # The sum of 1/3 + 1/3 + 1/3 may stay below 1, hence the slack, and the last row at most.
    reached = np.cumsum(1 / rows_of[keys_N[order]])
    place = int(np.searchsorted(reached, needed * (1 - _SLACK)))
    return float(scores_N[order[min(place, len(order) - 1)]]), count


def _note_small(small: Mapping[str, int], coverage: float) -> tuple[str, ...]:
    if not small:
        return ()
    # n + 1 >= 1 / (1 - coverage) is what makes the rank exist.
    least = int(np.ceil(coverage / (1 - coverage) * (1 - _SLACK)))
    told = shorten([f"{name} ({count})" for name, count in small.items()])
    note = (
        f"too few rows (or groups) to ever leave an answer out at coverage {coverage:g}: {told}; "
        f"expected {least} or more of each. These answers are in every set."
    )
    return (note,)


def _are_unsure(sets: Bool) -> Bool:
    answers = sets.sum(axis=-1) != 1
    return np.asarray(answers if sets.ndim == 2 else answers.any(axis=1))


def _check_rows(targets: Float32, probs: Float32, groups: Rows, classes: Sequence[str]) -> None:
    expected = (len(targets), len(classes))
    if targets.shape != expected or probs.shape != expected or len(groups) != expected[0]:
        raise InputError(
            f"targets have shape {targets.shape}, probabilities {probs.shape}, with "
            f"{len(groups)} groups and {len(classes)} classes; expected (rows, classes) for both."
        )
    lost = int(np.isnan(probs).any(axis=1).sum() + np.isnan(targets).any(axis=1).sum())
    if lost:
        raise InputError(
            f"{lost} row(s) have NaN; expected numbers in [0, 1]: leave those rows out."
        )
