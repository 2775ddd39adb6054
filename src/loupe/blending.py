"""Blending: how much each member counts in the mean of their probabilities.

Owns the question whether fitted weights beat equal ones, asked on rows that they were
not fitted on; the fit itself is in `simplex`. It must not read files, calibrate or
decide.

Shapes: M members, N rows, C classes, K parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from loupe.comparing import describe, find_side
from loupe.errors import InputError, suggest
from loupe.evidence import Evidence, Float64, Rows, held_out_probs, mix, number
from loupe.intervals import Difference, compare_paired
from loupe.scorecard import find_family, main_metric, read_sheet
from loupe.simplex import Fit, fit_weights, limit_rows, share_equally, spread_rows

__all__ = ["Blend", "Method", "choose_weights", "fit_weights", "fixed_weights"]

Method = Literal["auto", "mean", "simplex", "greedy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Blend:
    """Weights of the members, and what fitting them gains over the plain mean.

    Attributes:
        method: What the weights are: "mean", "simplex", "greedy" or "fixed".
        metric: The score that was fitted.
        weights: (M,) on the simplex, for new rows.
        part_weights: (K, M) the same procedure without each part; None if nothing
            was fitted.
        gain: Fitted weights minus plain mean on `scorecard.main_metric`, cross-fitted.
            If "auto" kept the mean, it is still the gain of the fitted weights.
        gain_log_loss: The same on log loss, where a gain is below 0.
        verdict: In words.
    """

    method: str
    metric: str
    weights: Float64
    part_weights: Float64 | None = None
    gain: Difference
    gain_log_loss: Difference
    verdict: str


def choose_weights(
    evidence: Evidence,
    *,
    method: Method = "auto",
    metric: str = "log_loss",
    resamples: int = 1000,
    seed: int = 0,
) -> Blend:
    """Choose the weights of the members, and say what that gains.

    The weights of a part are fitted on the other parts, so each row is blended by
    weights that never saw it. "auto" fits simplex weights and uses them only where
    they beat the plain mean significantly and lose nothing of the main score; for the
    weights of a part that choice too is made without it, by cross-fitting over the
    other parts (on as many rows as a fit reads, so in long tables more cautiously than
    the final choice).

    Args:
        evidence: Held-out rows; its own weights are not used.
        method: "mean" (equal weights), "simplex", "greedy" or "auto".
        metric: What to fit, an overall score as `intervals.score` names it.
        resamples: Of the bootstrap over groups that judges the gain.
        seed: Of that bootstrap.

    Raises:
        InputError: there is no such method or metric.

    References:
        Varma & Simon (2006), "Bias in error estimation when using cross-validation
        for model selection" (why choosing is nested); Caruana et al. (2004),
        "Ensemble selection from libraries of models".
    """
    _check_request(evidence, method, metric)
    equal = share_equally(len(evidence.members))
    if method == "mean" or len(equal) == 1:
        return _keep_mean(evidence, equal, metric)
    fit: Fit = "greedy" if method == "greedy" else "simplex"
    fitted = _fit_parts(evidence, fit, metric)
    judge = _Judge(resamples=resamples, seed=seed)
    main = main_metric(exclusive=evidence.exclusive)
    gains = judge.compare(evidence, fitted, list(dict.fromkeys((main, "log_loss", metric))))
    used = method != "auto" or _beats(gains[metric], gains[main])
    part_weights = fitted
    if method == "auto":
        chosen = [_choose_without(evidence, part, metric, judge) for part in _parts(evidence)]
        part_weights = np.where(np.array(chosen)[:, None], fitted, equal)
    return Blend(
        method=fit if used else "mean",
        metric=metric,
        weights=_fit(evidence, fit, metric) if used else equal,
        part_weights=part_weights,
        gain=gains[main],
        gain_log_loss=gains["log_loss"],
        verdict=_tell("fitted", gains[main], gains[metric], used=used),
    )


def fixed_weights(
    weights: Sequence[float] | Float64, evidence: Evidence, *, resamples: int = 1000, seed: int = 0
) -> Blend:
    """Take weights given by hand, and say what they gain over the plain mean.

    The gain is honest only if the weights were not chosen by looking at these rows.

    Args:
        weights: One for each member: numbers that sum to 1, or votes (whole numbers
            from 0 on), which are divided by their sum.
        evidence: Held-out rows.
        resamples: Of the bootstrap over groups that judges the gain.
        seed: Of that bootstrap.

    Raises:
        InputError: another number of weights, one below 0, or neither votes nor a
            sum of 1.
    """
    shares = _read_by_hand(weights, len(evidence.members))
    judge = _Judge(resamples=resamples, seed=seed)
    main = main_metric(exclusive=evidence.exclusive)
    gains = judge.compare(evidence, shares[None], (main, "log_loss"))
    return Blend(
        method="fixed",
        metric="",
        weights=shares,
        gain=gains[main],
        gain_log_loss=gains["log_loss"],
        verdict=_tell("given", gains[main], gains[main], used=True),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judge:
    """How gains are judged."""

    resamples: int
    seed: int

    def compare(
        self, evidence: Evidence, part_weights: Float64, metrics: Sequence[str]
    ) -> dict[str, Difference]:
        """Blend each part by its own weights, and compare with the plain mean.

        Args:
            evidence: The rows.
            part_weights: (K, M), or (1, M) for all parts alike.
            metrics: Overall scores.

        Returns:
            Fitted minus mean, by score.
        """
        known = part_weights if len(part_weights) > 1 else None
        blended = held_out_probs(replace(evidence, weights=part_weights[0], part_weights=known))
        plain = mix(evidence.members, share_equally(len(evidence.members)))
        return {
            metric: compare_paired(
                evidence.targets,
                blended,
                plain,
                exclusive=evidence.exclusive,
                metric=metric,
                groups=evidence.groups,
                resamples=self.resamples,
                seed=self.seed,
            )
            for metric in metrics
        }


def _choose_without(evidence: Evidence, part: int, metric: str, judge: _Judge) -> bool:
    """Say whether fitted weights beat the plain mean, judged without one part."""
    rows = np.flatnonzero(evidence.parts != part)
    inside = _take(evidence, rows[spread_rows(len(rows), limit_rows(metric))])
    if inside.part_count < 2:
        return False
    fitted = _fit_parts(inside, "simplex", metric)
    main = main_metric(exclusive=evidence.exclusive)
    gains = judge.compare(inside, fitted, (metric, main))
    return _beats(gains[metric], gains[main])


def _beats(judged: Difference, main: Difference) -> bool:
    """Say whether weights gain what they were fitted for, and lose nothing of the main score."""
    return find_side(judged) > 0 and find_side(main) >= 0


def _take(evidence: Evidence, rows: Rows) -> Evidence:
    """Keep some rows; where one part is left, halve it by groups."""
    groups, parts = number(evidence.groups[rows]), number(evidence.parts[rows])
    parts = parts if parts.max() else groups % 2
    return replace(
        evidence,
        ids=tuple(evidence.ids[row] for row in rows),
        targets=evidence.targets[rows],
        members=tuple(sheet[rows] for sheet in evidence.members),
        parts=parts,
        part_names=tuple(str(part) for part in range(int(parts.max()) + 1)),
        groups=groups,
        part_weights=None,
    )


def _fit_parts(evidence: Evidence, method: Fit, metric: str) -> Float64:
    """Fit the weights of each part on the others, (K, M)."""
    return np.stack([_fit(evidence, method, metric, without=p) for p in _parts(evidence)])


def _fit(evidence: Evidence, method: Fit, metric: str, without: int = -1) -> Float64:
    # The members of all rows would be copied else: only what the fit reads is taken.
    rows = np.flatnonzero(evidence.parts != without)
    rows = rows[spread_rows(len(rows), limit_rows(metric))]
    members = [sheet[rows] for sheet in evidence.members]
    return fit_weights(
        evidence.targets[rows],
        members,
        exclusive=evidence.exclusive,
        method=method,
        metric=metric,
    )


def _keep_mean(evidence: Evidence, equal: Float64, metric: str) -> Blend:
    main = main_metric(exclusive=evidence.exclusive)
    none = Difference(metric=main, value=0.0, low=0.0, high=0.0, p_value=1.0)
    alone = "one member: there is nothing to blend"
    return Blend(
        method="mean",
        metric=metric,
        weights=equal,
        gain=none,
        gain_log_loss=replace(none, metric="log_loss"),
        verdict=alone if len(equal) == 1 else f"plain mean of {len(equal)} members, as asked",
    )


def _tell(kind: str, gain: Difference, judged: Difference, *, used: bool) -> str:
    """Say what weights gain over the plain mean, on the main metric and on the judged score."""
    told = describe(gain)
    if judged.metric != gain.metric:
        told = f"{told}, {describe(judged)}"
    side = find_side(judged)
    if side > 0 and find_side(gain) < 0:
        choice = "used all the same, as asked" if used else "not used: plain mean"
        return f"{kind} weights gain one score and lose the other: {told}; {choice}"
    if side > 0:
        return f"{kind} weights beat the plain mean: {told}"
    finding = "is better" if side < 0 else "is not beaten"
    doubt = "" if side < 0 else ", no evidence of a difference"
    choice = f"{kind} weights used all the same, as asked" if used else "plain mean used"
    return f"the plain mean {finding}: {told}{doubt}; {choice}"


def _parts(evidence: Evidence) -> range:
    return range(evidence.part_count)


def _read_by_hand(weights: Sequence[float] | Float64, count: int) -> Float64:
    given = np.asarray(weights, np.float64)
    total = float(given.sum())
    votes = bool((given == np.floor(given)).all()) and total > 0
    wrong = given.shape != (count,) or not (np.isfinite(given) & (given >= 0)).all()
    if wrong or not (votes or abs(total - 1) <= 1e-6):
        raise InputError(
            f"weights are {given.tolist()}, which sum to {total:.6g}; expected {count} number(s), "
            "one for each member, none below 0: either summing to 1 (0.8 0.2) or whole numbers "
            "counted as votes (4 1)."
        )
    return np.asarray(given / total)


def _check_request(evidence: Evidence, method: str, metric: str) -> None:
    known = ["auto", "mean", "simplex", "greedy"]
    if method not in known:
        raise InputError(
            f"method is {method!r}; expected {', '.join(known)}{suggest(method, known)}."
        )
    first = slice(1)
    sheet = read_sheet(
        evidence.targets[first],
        evidence.members[0][first],
        exclusive=evidence.exclusive,
        thresholds=None,
    )
    find_family(sheet, metric)
