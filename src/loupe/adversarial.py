"""Adversarial validation: how well two tables of images can be told apart.

Owns the measuring behind `check --against OTHER`: the held-out score of a simple
classifier on statistics of the pictures (and frozen features), which statistics differ,
which images are least like ours, and which stand in both tables. Labels play no part.
The words stand in `apart`. It must not change a table, train networks, or stand in for
a picture that cannot be read.

Shapes: N rows of both tables, first ours, then the other's; S statistics; P content
numbers (principal components of frozen features); D numbers given to the classifier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from loupe.apart import (
    CONTENT,
    EVERYTHING,
    Apart,
    Placed,
    Separation,
    Shared,
    Shift,
    judge,
    note_doubts,
)
from loupe.appearance import KINDS, NAMES
from loupe.copies import CopyPair
from loupe.errors import InputError
from loupe.gathered import Gathered, gather_rows
from loupe.intervals import bootstrap_weights, find_interval
from loupe.logistic import fit_logistic
from loupe.nearness import rank_remoteness
from loupe.ranking import rank, sort_column
from loupe.table import Table

Bool = NDArray[np.bool_]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int = NDArray[np.intp]
Progress = Callable[[int, int], None]

_PENALTY = 3.0  # of the ridge, on numbers of unit variance
_MOST_CONTENT = 32  # content numbers kept,
_ROWS_FOR_CONTENT = 10  # and rows that there must be for each
_REASONS = 3
_LEAST_REASON = 0.1  # of the logit; less is not worth telling
_CONFIDENCE = 0.95
_RESAMPLES, _FEWER_RESAMPLES = 1000, 200
_EXCHANGES, _FEWER_EXCHANGES = 119, 39  # with the real tables 120 and 40
_MANY_ROWS = 5_000
_DRAWN_CELLS = 2**23  # resamples times rows held at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class _Design:
    """What the classifier sees: (N, D) numbers, and to what each belongs.

    `owners` (D,) is a place in `NAMES`, or S for content.
    """

    numbers: Float64
    owners: Int


def tell_apart(
    ours: Table,
    other: Table,
    *,
    features: tuple[Float32, Float32] | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
    folds: int = 5,
    seed: int = 0,
) -> Apart:
    """Say how well two tables of images are told apart, and what is foreign.

    A ridge logistic regression is given each statistic of `loupe.appearance` by its
    rank among all images (as a normal score, and how far that is from the middle), and
    the leading principal components of the features. It is cross-validated with groups
    and copies held out together, of both tables: a part that stands in both is never
    learnt from one and judged in the other. A different mix of classes is a difference
    too. Ranks and components use no knowledge of
    which table a row is from, so taking them from all rows gives nothing away.

    Args:
        ours: What was, or is to be, trained on.
        other: What it is compared with; labels are not needed in either.
        features: Frozen features of both tables (`loupe.content.frozen_features`);
            rows that cannot be read may be NaN. Without them statistics alone count.
        jobs: Threads that decode; all cores if not given.
        progress: Called with (images done, images of both tables) after each.
        folds: Parts of the cross-validation, 2 or more; fewer are made where a table
            has fewer groups.
        seed: Of the folds and the bootstrap.

    Shape:
        features: (rows of ours, F) and (rows of other, F).

    Raises:
        InputError: as `loupe.gathered.gather_rows`, or folds is below 2.

    References:
        Lopez-Paz & Oquab (2017), "Revisiting classifier two-sample tests",
        arXiv:1610.06545; Rabanser, Guennemann & Lipton (2019), "Failing loudly: an
        empirical study of methods for detecting dataset shift", arXiv:1810.11953.
    """
    if folds < 2:
        raise InputError(f"folds is {folds}; expected 2 or more.")
    rows, unread = gather_rows(ours, other, features=features, jobs=jobs, progress=progress)
    groups = rows.count_groups()
    parts = _deal(rows.held, rows.foreign, min(folds, *groups.values()), _open_stream(seed, 0))
    design = _design(rows)
    probs, pushes = _hold_out(design, rows.foreign, parts)
    total, *kinds = _separate(rows, design, probs, parts, seed)
    p_value = _find_chance(rows, design, total.auc, int(parts.max()) + 1, seed)
    shared, mates = _match(rows)
    both = tuple(sorted(set(ours.groups or ()) & set(other.groups or ())))
    shifts = _find_shifts(rows, seed)
    verdict, advice = judge(total, p_value, shifts)
    return Apart(
        ours=int((~rows.foreign).sum()),
        other=int(rows.foreign.sum()),
        total=total,
        p_value=p_value,
        kinds=tuple(sorted(kinds, key=lambda kind: -kind.auc)),
        shifts=shifts,
        images=_place(rows, probs, pushes, mates),
        shared=shared,
        shared_groups=both,
        unread=unread,
        verdict=verdict,
        advice=advice,
        notes=note_doubts(kinds, shared, both, groups),
    )


# The classifier -----------------------------------------------------------------------------------


def _open_stream(seed: int, purpose: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, purpose]))


def _deal(held: Int, foreign: Bool, folds: int, stream: np.random.Generator) -> Int:
    """Deal whole groups into parts, so that rows of both tables are in each.

    Groups of ours, of the other's and of both are dealt in turn, the largest first.
    """
    groups, number, sizes = np.unique(held, return_inverse=True, return_counts=True)
    theirs = np.bincount(number, weights=foreign)
    kind = np.where(theirs == 0, 0, np.where(theirs == sizes, 2, 1))
    order = np.lexsort([stream.random(len(groups)), -sizes, kind])
    part = np.empty(len(groups), np.intp)
    part[order] = np.arange(len(groups)) % folds
    return part[number]


def _design(rows: Gathered) -> _Design:
    scores = np.stack([_to_normal_scores(column) for column in rows.statistics.T], axis=1)
    # A table may be spread more widely than the other about the same middle.
    outward = np.abs(scores)
    outward -= outward.mean(axis=0)
    content = np.zeros((len(scores), 0)) if rows.features is None else _condense(rows.features)
    places = np.arange(len(NAMES))
    return _Design(
        numbers=np.concatenate([scores, outward, content], axis=1),
        owners=np.concatenate([places, places, np.full(content.shape[1], len(NAMES))]),
    )


def _restrict(design: _Design, kind: str) -> _Design:
    """Keep the numbers of one kind."""
    names = next((names for name, names in KINDS.items() if name == kind), ())
    wanted = [NAMES.index(name) for name in names] or [len(NAMES)]
    kept = np.isin(design.owners, wanted)
    return _Design(numbers=design.numbers[:, kept], owners=design.owners[kept])


def _separate(
    rows: Gathered, design: _Design, probs: Float64, parts: Int, seed: int
) -> Iterator[Separation]:
    """Yield how well everything tells the tables apart, then each kind alone."""
    kinds: list[str] = [*KINDS, *([CONTENT] if rows.features is not None else [])]
    alone = [_hold_out(_restrict(design, kind), rows.foreign, parts)[0] for kind in kinds]
    trials = min(rows.count_groups().values())
    areas = _draw_areas(rows, np.stack([probs, *alone], axis=1), _RESAMPLES, seed)
    for name, (auc, draws) in zip([EVERYTHING, *kinds], areas, strict=True):
        low, high = find_interval(auc, draws, trials=trials, bounded=True, confidence=_CONFIDENCE)
        yield Separation(by=name, auc=auc, low=low, high=high)


def _find_chance(rows: Gathered, design: _Design, reached: float, folds: int, seed: int) -> float:
    """Return the share of random exchanges of groups that are told apart as well.

    The bootstrap takes the fitted classifiers as given, and is too sure of an area near
    0.5: whole groups are exchanged between the tables, and all is done again. A group
    that stands in both tables keeps its size in each.
    """
    stream = _open_stream(seed, 1)
    times = _EXCHANGES if len(rows.ids) <= _MANY_ROWS else _FEWER_EXCHANGES
    number = np.unique(rows.held, return_inverse=True)[1]
    theirs = np.bincount(number, weights=rows.foreign)
    mixed = (theirs > 0) & (theirs < np.bincount(number))
    gathered, as_well = np.argsort(number, kind="stable"), 1  # 1: the tables as they are
    for _ in range(times):
        sides = theirs > 0
        sides[~mixed] = stream.permutation(sides[~mixed])
        foreign = np.empty(len(number), np.bool_)
        foreign[np.lexsort([stream.random(len(number)), number])] = rows.foreign[gathered]
        foreign = np.where(mixed[number], foreign, sides[number])
        parts = _deal(rows.held, foreign, folds, stream)
        probs = _hold_out(design, foreign, parts)[0]
        auc = rank(sort_column(foreign, probs), np.ones(len(probs))).roc_auc()
        as_well += int(auc >= reached)
    return as_well / (times + 1)


def _hold_out(design: _Design, foreign: Bool, parts: Int) -> tuple[Float64, Float64]:
    """Predict each part by the others.

    Returns:
        (N,) probabilities, and (N, S + 1) by how much each statistic, and content, raise
        a row's logit above that of the mean row of ours.
    """
    probs = np.empty(len(foreign))
    pushes = np.zeros((len(foreign), len(NAMES) + 1))
    for part in np.unique(parts):
        inside = parts == part
        fit = fit_logistic(design.numbers[~inside], foreign[~inside], penalty=_PENALTY)
        probs[inside] = fit.predict(design.numbers[inside])
        usual = design.numbers[~inside & ~foreign].mean(axis=0)
        each = (design.numbers[inside] - usual) * fit.weights
        for column, owner in enumerate(design.owners):
            pushes[inside, owner] += each[:, column]
    return probs, pushes


def _to_normal_scores(values: Float32) -> Float64:
    """Replace each value by the normal quantile of its rank; equal values share one."""
    distinct, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    if len(distinct) == 1:
        return np.zeros(len(values))
    middle = np.cumsum(counts) - counts / 2
    inverse = NormalDist().inv_cdf
    return np.array([inverse(share) for share in middle / len(values)])[place]


def _condense(features: Float32) -> Float64:
    """Return the leading principal components, each of unit variance; (N, P)."""
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    spread = centred.std(axis=0)
    centred /= np.where(spread > 0, spread, 1)
    count = max(1, min(_MOST_CONTENT, len(centred) // _ROWS_FOR_CONTENT))
    wide = centred.shape[1] > len(centred)
    square = centred @ centred.T if wide else centred.T @ centred
    size, axes = np.linalg.eigh(square)
    kept = np.flatnonzero(size > size[-1] * 1e-9)[-count:]
    directions = axes[:, kept] if wide else centred @ axes[:, kept] / np.sqrt(size[kept])
    return np.asarray(directions * np.sqrt(len(centred)))


# What is told -------------------------------------------------------------------------------------


def _draw_areas(
    rows: Gathered, columns: Float64, resamples: int, seed: int
) -> Iterator[tuple[float, Float64]]:
    """Yield the area under the ROC curve of each column, and on resampled groups."""
    count = max(_FEWER_RESAMPLES, min(resamples, _DRAWN_CELLS // len(rows.ids)))
    drawn = bootstrap_weights(rows.held, count, seed).astype(np.float64)
    for column in columns.T:
        order = sort_column(rows.foreign, column)
        auc = float(rank(order, np.ones(len(column))).roc_auc())
        draws = rank(order, drawn).roc_auc()
        yield auc, draws[~np.isnan(draws)]


def _find_shifts(rows: Gathered, seed: int) -> tuple[Shift, ...]:
    kinds = [kind for kind, names in KINDS.items() for _ in names]
    medians = [np.median(rows.statistics[rows.foreign == s], axis=0) for s in (False, True)]
    # Bonferroni: 95 % for all statistics together.
    wide = NormalDist().inv_cdf(1 - (1 - _CONFIDENCE) / (2 * len(NAMES)))
    areas = _draw_areas(rows, rows.statistics.astype(np.float64), _FEWER_RESAMPLES, seed)
    shifts = []
    for place, (auc, draws) in enumerate(areas):
        half = wide * float(draws.std())
        away = abs(auc - 0.5)
        direction: Literal["higher", "lower", "alike"] = "higher" if auc > 0.5 else "lower"
        shifts.append(
            Shift(
                name=NAMES[place],
                kind=kinds[place],
                direction=direction if away > half else "alike",
                auc=0.5 + away,
                low=max(0.5 + away - half, 0.0),
                high=min(0.5 + away + half, 1.0),
                ours=float(medians[0][place]),
                other=float(medians[1][place]),
            )
        )
    return tuple(sorted(shifts, key=lambda shift: (shift.direction == "alike", -shift.auc)))


def _match(rows: Gathered) -> tuple[tuple[Shared, ...], dict[int, int]]:
    """List the other's images that stand in ours, and the opposite copy of each row."""
    best: dict[int, CopyPair] = {}
    for pair in rows.pairs:
        if rows.foreign[pair.first] != rows.foreign[pair.second]:
            for row in (pair.first, pair.second):
                if row not in best or pair.similarity > best[row].similarity:
                    best[row] = pair
    firsts: dict[tuple[int, bool], int] = {}
    for row, group in enumerate(rows.copies.tolist()):
        firsts.setdefault((group, bool(rows.foreign[row])), row)
    mates, shared = {}, []
    for row, group in enumerate(rows.copies.tolist()):
        mate = firsts.get((group, not rows.foreign[row]))
        if mate is None:
            continue
        direct = best.get(row)
        if direct is not None:
            mate = direct.first + direct.second - row
        mates[row] = mate
        if rows.foreign[row]:
            kind: Literal["equal", "near", "linked"] = direct.kind if direct else "linked"
            shared.append(Shared(other=rows.ids[row], ours=rows.ids[mate], kind=kind))
    return tuple(shared), mates


def _place(
    rows: Gathered, probs: Float64, pushes: Float64, mates: dict[int, int]
) -> tuple[Placed, ...]:
    remote = _rank_remoteness(rows)
    medians = np.median(rows.statistics[~rows.foreign], axis=0)
    order = np.lexsort([-probs, -remote, ~rows.foreign])
    return tuple(
        Placed(
            id=rows.ids[row],
            table=rows.side(row),
            probability=float(probs[row]),
            remoteness=float(remote[row]),
            reasons=_explain(rows.statistics[row], medians, pushes[row]),
            copy_of=rows.ids[mates[row]] if row in mates else "",
        )
        for row in order.tolist()
    )


def _rank_remoteness(rows: Gathered) -> Float64:
    sheets = [rows.statistics.astype(np.float64)]
    if rows.features is not None:
        sheets.append(_condense(rows.features))
    return rank_remoteness(np.concatenate(sheets, axis=1), ~rows.foreign, rows.held)


def _explain(values: Float32, usual: Float32, pushes: Float64) -> tuple[str, ...]:
    """Name what speaks most for the other table, and how it compares with our median."""
    best = np.argsort(-pushes, kind="stable")[:_REASONS]
    reasons = []
    for place in best[pushes[best] >= _LEAST_REASON].tolist():
        if place == len(NAMES):
            reasons.append(CONTENT)
            continue
        above, below = values[place] > usual[place], values[place] < usual[place]
        word = " higher" if above else " lower" if below else ""
        reasons.append(f"{NAMES[place]}{word}")
    return tuple(reasons)
