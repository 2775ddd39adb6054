"""Simplex: weights of members, none below 0 and summing to 1, that make a score best.

Owns the fit and how many rows it reads. It must not judge what it fitted: that needs
rows it has not seen, see `blending`.

Shapes: M members, N rows, C classes, T terms of the likelihood.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from loupe.errors import InputError
from loupe.evidence import Float32, Float64, Rows
from loupe.metrics import (
    Outcomes,
    accuracy,
    balanced_accuracy,
    count_outcomes,
    f1,
    macro,
    pool,
    to_decisions,
)
from loupe.scorecard import LOWER_IS_BETTER, find_family, measure, read_sheet
from loupe.weighting import Bool

Fit = Literal["simplex", "greedy"]

FIT_ROWS = 50_000
"""Most rows a smooth loss is fitted on: the error of a weight is then about 0.005."""
SEARCH_ROWS = 20_000
"""Most rows for scores that are searched; an error of 0.01 in a weight does not move them."""
SEARCH_SHIFTS = (0.2, 0.1, 0.05, 0.02)
"""Weight moved from one member to another in a search, coarse first."""
SEARCH_LIMIT = 60
"""Most evaluations of one search by one shift."""
GREEDY_ROUNDS = 30
"""Members drawn by greedy selection: weights are multiples of 1/30 or coarser."""
FLOOR = 0.01
"""Weights below this share of an equal one are set to 0: such members need not be run."""
NEWTON_STEPS = 60
CONVERGED = 1e-12
GOLDEN = (math.sqrt(5) - 1) / 2

Evaluate = Callable[[Float64], float]


class _Loss(Protocol):
    def evaluate(self, weights: Float64) -> float: ...

    def find_slopes(self, weights: Float64) -> tuple[Float64, Float64]: ...


def fit_weights(
    targets: Float32,
    members: Sequence[Float32],
    *,
    exclusive: bool,
    method: Fit = "simplex",
    metric: str = "log_loss",
) -> Float64:
    """Fit weights of the members on the simplex.

    "simplex": log loss and Brier are convex in the weights and are minimised by
    Newton steps, each a small quadratic programme. A ridge toward equal weights, as
    strong as one row in N, makes the answer unique: equal members get equal weights.
    Any other score is a step function of the weights; it is searched from the best of
    the log-loss weights, equal ones and each member alone, by moving weight between two.
    "greedy": members are drawn with replacement, each time the one that helps most,
    starting from the best few; the best of `GREEDY_ROUNDS` rounds counts.

    The error of a weight falls with the root of the rows, so at most `FIT_ROWS` or
    `SEARCH_ROWS` rows are read, spread evenly and without a period.

    Args:
        targets: Given labels in [0, 1].
        members: Held-out probabilities of each member.
        exclusive: True if the columns of a row sum to 1.
        method: "simplex" or "greedy".
        metric: An overall score as `intervals.score` names it.

    Shape:
        targets and each member: (N, C). Returns (M,).

    Raises:
        InputError: shapes disagree, there is no member or row, or no such method or score.

    References:
        Caruana et al. (2004), "Ensemble selection from libraries of models"; Kim et
        al. (2020), "A fast algorithm for maximum likelihood estimation of mixture
        proportions using sequential quadratic programming".

    Examples:
        >>> targets = np.float32([[1, 0], [0, 1]] * 10)
        >>> good, useless = np.abs(targets - np.float32(0.2)), np.full_like(targets, 0.5)
        >>> fit_weights(targets, [good, useless], exclusive=True).tolist()
        [1.0, 0.0]
    """
    count = len(members)
    _check_members(targets, members, method)
    if count == 1:
        return np.ones(1)
    smooth = metric in _LOSSES
    rows = spread_rows(len(targets), limit_rows(metric))
    targets, members = targets[rows], [sheet[rows] for sheet in members]
    loss = _LOSSES[metric if smooth else "log_loss"](targets, members, exclusive=exclusive)
    evaluate: Evaluate = loss.evaluate
    if not smooth:
        evaluate = _make_evaluate(targets, members, metric, exclusive=exclusive)
    if method == "greedy":
        return _select(evaluate, count)
    weights = _drop_small(_descend(loss, count, ridge=1 / len(targets)))
    return weights if smooth else _search(evaluate, weights, loss)


def limit_rows(metric: str) -> int:
    """Return how many rows a fit of this score reads at most."""
    return FIT_ROWS if metric in _LOSSES else SEARCH_ROWS


def spread_rows(count: int, limit: int) -> Rows:
    """Pick rows spread evenly over a table, one from each of `limit` equal stretches.

    The place within a stretch moves by the golden ratio, so that rows which come in
    turns (views, tiles of a picture) are all met.

    Args:
        count: Rows of the table.
        limit: How many to pick; all if there are fewer.

    Examples:
        >>> spread_rows(40, 4).tolist()
        [0, 16, 22, 38]
    """
    if count <= limit:
        return np.arange(count)
    steps = np.arange(limit)
    return np.floor((steps + steps * GOLDEN % 1) * (count / limit)).astype(np.intp)


@dataclass(frozen=True, slots=True)
class _LogLoss:
    """Mean of -log of the mixed chance of what happened; convex, and finite by a small floor."""

    chances: Float64
    shares: Float64

    def evaluate(self, weights: Float64) -> float:
        return -float(self.shares @ np.log(weights @ self.chances))

    def find_slopes(self, weights: Float64) -> tuple[Float64, Float64]:
        mixed = weights @ self.chances
        scaled = self.chances * (np.sqrt(self.shares) / mixed)
        return -(self.chances @ (self.shares / mixed)), scaled @ scaled.T


@dataclass(frozen=True, slots=True)
class _Brier:
    """Mean squared error: a quadratic, so two moments say all."""

    products: Float64
    matches: Float64
    rest: float

    def evaluate(self, weights: Float64) -> float:
        return float(weights @ self.products @ weights - 2 * self.matches @ weights + self.rest)

    def find_slopes(self, weights: Float64) -> tuple[Float64, Float64]:
        return 2 * (self.products @ weights - self.matches), 2 * self.products


def _read_log_loss(targets: Float32, members: Sequence[Float32], *, exclusive: bool) -> _LogLoss:
    """List what happened, (T,): chance by each member, and share of the mean loss."""
    present = np.nonzero(targets)
    absent = None if exclusive else np.nonzero(targets < 1)
    size = len(targets) if exclusive else targets.size
    shares = targets[present].astype(np.float64)
    if absent is not None:
        shares = np.concatenate([shares, 1 - targets[absent].astype(np.float64)])
    chances = np.empty((len(members), len(shares)))
    split = len(present[0])
    for chance, sheet in zip(chances, members, strict=True):
        chance[:split] = sheet[present]
        if absent is not None:
            chance[split:] = 1 - sheet[absent].astype(np.float64)
    # The floor of the score itself, see metrics.log_loss.
    np.maximum(chances, float(np.finfo(np.float32).eps), out=chances)
    return _LogLoss(chances, shares / size)


def _read_brier(targets: Float32, members: Sequence[Float32], *, exclusive: bool) -> _Brier:
    flat = np.stack([sheet.ravel() for sheet in members]).astype(np.float64)
    truth = targets.ravel().astype(np.float64)
    size = len(targets) if exclusive else targets.size
    return _Brier(flat @ flat.T / size, flat @ truth / size, float(truth @ truth) / size)


_LOSSES: dict[str, Callable[..., _Loss]] = {"log_loss": _read_log_loss, "brier": _read_brier}


def _make_evaluate(
    targets: Float32, members: Sequence[Float32], metric: str, *, exclusive: bool
) -> Evaluate:
    """Return a function of the weights whose lowest value is the best score."""
    sign, ones = 1 if metric in LOWER_IS_BETTER else -1, [np.ones((1, len(targets)))]
    truth = to_decisions(targets, exclusive=exclusive)
    stack = np.stack([sheet.ravel() for sheet in members])
    short = _SHORT_CUTS.get(metric)
    # Also where a short cut is taken: an unknown score must be refused either way.
    sheet = read_sheet(targets, members[0], exclusive=exclusive, thresholds=None)
    family = find_family(sheet, metric)

    def evaluate(weights: Float64) -> float:
        mixed = (weights.astype(np.float32) @ stack).reshape(targets.shape)
        probs = np.clip(mixed, 0, 1, out=mixed)
        if short is not None:
            value = float(short(truth, probs, exclusive))
        else:
            sheet = read_sheet(targets, probs, exclusive=exclusive, thresholds=None)
            value = float(measure(sheet, ones, family)[metric, -1][0])
        return math.inf if math.isnan(value) else sign * value

    return evaluate


def _cut_short(formula: Callable[[Outcomes], Float64]) -> Callable[[Bool, Float32, bool], Float64]:
    def measure_one(truth: Bool, probs: Float32, exclusive: bool) -> Float64:  # noqa: FBT001
        return formula(count_outcomes(truth, to_decisions(probs, exclusive=exclusive)))

    return measure_one


def _share_right(truth: Bool, probs: Float32, exclusive: bool) -> Float64:  # noqa: FBT001
    return accuracy(truth, to_decisions(probs, exclusive=exclusive))


# The scorecard sorts every column whatever score is wanted; a search asks a hundred times.
_SHORT_CUTS: dict[str, Callable[[Bool, Float32, bool], Float64]] = {
    "accuracy": _share_right,
    "exact_match": _share_right,
    "balanced_accuracy": _cut_short(balanced_accuracy),
    "f1_macro": _cut_short(lambda outcomes: macro(f1(outcomes))),
    "f1_micro": _cut_short(lambda outcomes: f1(pool(outcomes))[0]),
}


def _descend(loss: _Loss, count: int, *, ridge: float) -> Float64:
    """Minimise a convex loss over the simplex by damped Newton steps."""
    equal = share_equally(count)
    weights = equal

    def evaluate(w: Float64) -> float:
        return loss.evaluate(w) + ridge / 2 * float(((w - equal) ** 2).sum())

    value = evaluate(weights)
    for _ in range(NEWTON_STEPS):
        slope, curve = loss.find_slopes(weights)
        slope, curve = slope + ridge * (weights - equal), curve + ridge * np.eye(count)
        step = _solve_quadratic(curve, slope - curve @ weights) - weights
        drop, scale = -float(slope @ step), 1.0
        if drop < CONVERGED:
            break
        while (found := evaluate(weights + scale * step)) > value - 1e-4 * scale * drop:
            scale /= 2
            if scale < 1e-8:  # rounding is all that is left
                return weights
        weights, value = weights + scale * step, found
    return weights


def _solve_quadratic(curve: Float64, slope: Float64) -> Float64:
    """Minimise u' curve u / 2 + slope' u over the simplex, by an active set.

    References:
        Nocedal & Wright (2006), "Numerical optimization", algorithm 16.3.
    """
    count = len(slope)
    point, free = share_equally(count), np.ones(count, np.bool_)
    for _ in range(10 * count + 10):
        aim, level = _solve_free(curve, slope, free)
        blocked = aim < 0
        if blocked.any():
            ratios = np.full(count, np.inf)
            ratios[blocked] = point[blocked] / (point[blocked] - aim[blocked])
            nearest = ratios.min()
            point = np.maximum(point + nearest * (aim - point), 0)
            free &= ratios > nearest
            point[~free] = 0
            continue
        point = aim
        pull = np.where(free, 0, curve @ point + slope - level)
        if pull.min() >= -CONVERGED * (1 + abs(level)):
            break
        free[pull.argmin()] = True
    return np.asarray(point / point.sum())


def _solve_free(curve: Float64, slope: Float64, free: Bool) -> tuple[Float64, float]:
    """Minimise over the free coordinates that sum to 1; the others are 0."""
    size = int(free.sum())
    system = np.ones((size + 1, size + 1))
    system[:size, :size], system[size, size] = curve[np.ix_(free, free)], 0
    found = np.linalg.solve(system, np.append(-slope[free], 1))
    aim = np.zeros(len(slope))
    aim[free] = found[:size]
    return aim, -float(found[size])


def _search(evaluate: Evaluate, start: Float64, loss: _Loss) -> Float64:
    """Move weight between two members while the score gets better, in shrinking steps."""
    count = len(start)
    equal, alone = share_equally(count), np.eye(count)
    # The first of equals wins, so ties go to the plain mean. Members alone are tried as
    # well: steps are small, and a step function is flat around most weights.
    candidates = [(evaluate(one), one) for one in (equal, start, *alone)]
    best, weights = min(candidates, key=lambda pair: pair[0])
    # By their own loss, so that the order they are given in does not matter.
    turns = np.argsort([loss.evaluate(one) for one in alone], kind="stable")
    for shift in SEARCH_SHIFTS:
        moved, calls = True, 0
        while moved and calls < SEARCH_LIMIT:
            moved = False
            for up, down in ((i, j) for i in turns for j in turns[::-1] if i != j):
                amount = min(shift, float(weights[down]))
                if amount <= 0 or calls >= SEARCH_LIMIT:
                    continue
                trial = weights + amount * (alone[up] - alone[down])
                trial[down] = max(trial[down], 0)
                found, calls = evaluate(trial), calls + 1
                if found < best - CONVERGED:
                    best, weights, moved = found, trial, True
    return _drop_small(weights)


def _select(evaluate: Evaluate, count: int) -> Float64:
    """Draw members with replacement, each time the one that helps most."""
    alone = np.eye(count)
    order = np.argsort([evaluate(one) for one in alone], kind="stable")
    starts = [alone[order[: n + 1]].sum(axis=0) for n in range(count)]
    values = [evaluate(start / start.sum()) for start in starts]
    equal = share_equally(count)
    best, weights = values[-1], equal
    counts = starts[int(np.argmin(values))]
    for _ in range(GREEDY_ROUNDS):
        value = evaluate(counts / counts.sum())
        if value < best - CONVERGED:
            best, weights = value, counts / counts.sum()
        if counts.sum() >= GREEDY_ROUNDS:
            break
        found = [evaluate((counts + one) / (counts.sum() + 1)) for one in alone]
        # Among equals the one drawn least often: that leads towards the plain mean.
        near = np.flatnonzero(np.array(found) <= min(found) + CONVERGED)
        counts = counts + alone[near[counts[near].argmin()]]
    return np.asarray(weights)


def _drop_small(weights: Float64) -> Float64:
    kept = np.where(weights * len(weights) < FLOOR, 0, weights)
    return np.asarray(kept / kept.sum())


def share_equally(count: int) -> Float64:
    """Return the weights of the plain mean."""
    return np.full(count, 1 / count)


def _check_members(targets: Float32, members: Sequence[Float32], method: str) -> None:
    shapes = [sheet.shape for sheet in members]
    if set(shapes) != {targets.shape} or targets.ndim != 2 or not targets.size:
        raise InputError(
            f"targets have the shape {targets.shape} and members {shapes}; expected one member or "
            "more, each of the shape (rows, classes) of the targets."
        )
    if method not in {"simplex", "greedy"}:
        raise InputError(f"method is {method!r}; expected 'simplex' or 'greedy'.")
