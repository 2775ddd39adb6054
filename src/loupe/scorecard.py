"""The scorecard: which scores a sheet of probabilities gets, and their values.

What does not depend on the row weights (decisions, sorting, losses of each row) is
computed once for a sheet; then each score is taken under as many sets of weights as
wanted. It must not draw resamples or make intervals.

Shapes: N rows, C classes, B sets of weights (resamples). `...` is B, or no axis.

What is named here:

- exclusive classes: accuracy, balanced_accuracy (which is the macro recall), f1_macro,
  precision_macro, mcc, cohen_kappa, log_loss, brier, expected_calibration_error,
  roc_auc_macro, average_precision_macro, pr_auc (a mean as well). Micro precision,
  recall and F1 are left out: with one decision a row they all equal the accuracy. Where the
  rule leaves rows undecided, also accepted (the share of rows with a decision) and
  accuracy_accepted (the share of those that are right); micro precision then equals
  accuracy_accepted, and micro recall accuracy, in which an undecided row is wrong.
- classes that stand alone: average_precision, roc_auc and pr_auc (means over classes);
  f1, precision, recall, each _macro and _micro; exact_match, log_loss, brier,
  expected_calibration_error. A single column is a choice between two classes as
  well: accuracy (its exact_match), balanced_accuracy, mcc, cohen_kappa.
- each class: precision, recall, f1, prevalence, brier, average_precision, roc_auc,
  pr_auc.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from loupe.errors import InputError, suggest
from loupe.metrics import (
    Outcomes,
    balanced_accuracy,
    brier_by_class,
    brier_by_row,
    cohen_kappa,
    complete_outcomes,
    expected_calibration_error,
    f1,
    log_loss_by_row,
    macro,
    mcc,
    pool,
    precision,
    recall,
    to_decisions,
)
from loupe.ranking import Order, Ranking, rank, sort_column
from loupe.weighting import (
    BLOCK,
    Bool,
    Float64,
    Floats,
    Weights,
    average,
    divide,
    read_weights,
    sum_rows,
    total_weight,
)

_KEPT = 1 << 22  # probabilities up to which the sorted columns are kept: 32 MB and more

Values = tuple[dict[str, Float64], dict[str, Float64]]
"""Overall scores, each (...), and scores by class, each (..., C), by name."""
Family = Literal["decisions", "losses", "calibration", "rankings"]
"""Scores that are taken together."""
FAMILIES: tuple[Family, ...] = ("decisions", "losses", "calibration", "rankings")

LOWER_IS_BETTER = frozenset({"log_loss", "brier", "expected_calibration_error"})
"""The errors among the scores, of all classes or of one; prevalence is neither."""


def main_metric(*, exclusive: bool) -> str:
    """Name the score that runs are selected and compared by."""
    return "accuracy" if exclusive else "average_precision"


@dataclass(frozen=True, kw_only=True)  # no slots: what is cached needs a place
class Sheet:
    """What every set of weights needs; what is dear is computed when it is first asked for.

    Attributes:
        exclusive: True if the columns of a row sum to 1.
        targets: (N, C) as given.
        probs: (N, C) as given.
        ranked: (N, C) what rankings sort by: `probs`, or what these were calibrated from.
        truth: (N, C) given labels.
        decided: (N, C) decisions.
        abstains: True if rows of exclusive classes may have no decision.
    """

    exclusive: bool
    targets: Floats
    probs: Floats
    ranked: Floats
    truth: Bool
    decided: Bool
    abstains: bool = False

    @property
    def orders(self) -> Iterable[Order]:
        """Each column, sorted by probability; sorted anew each time if the sheet is large."""
        return self._kept_orders if self.truth.size <= _KEPT else self._sort()

    @cached_property
    def log_loss(self) -> Float64:
        """(N,) of each row."""
        return log_loss_by_row(self.targets, self.probs, exclusive=self.exclusive)

    @cached_property
    def brier(self) -> Float64:
        """(N,) of each row."""
        return brier_by_row(self.targets, self.probs, exclusive=self.exclusive)

    @cached_property
    def _kept_orders(self) -> tuple[Order, ...]:
        return tuple(self._sort())

    def _sort(self) -> Iterator[Order]:
        columns = zip(self.truth.T, self.ranked.T, strict=True)
        return (sort_column(truth, probs) for truth, probs in columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Sums of decisions under sets of weights.

    Attributes:
        tp: (..., C) rows of the class, decided for it.
        positives: (..., C) rows of the class.
        decided: (..., C) rows decided for the class.
        exact: (...) rows that are right in every column.
        accepted: (...) rows decided for any class.
        total: (...) all rows.
    """

    tp: Float64
    positives: Float64
    decided: Float64
    exact: Float64
    accepted: Float64
    total: Float64


def flag_rows(sheet: Sheet) -> dict[str, Bool]:
    """Mark what a tally adds up: by the names of its fields, each (N, C) or (N, 1)."""
    return {
        "tp": sheet.truth & sheet.decided,
        "positives": sheet.truth,
        "decided": sheet.decided,
        "exact": (sheet.truth == sheet.decided).all(axis=1, keepdims=True),
        "accepted": sheet.decided.any(axis=1, keepdims=True),
    }


def make_tally(sums: Mapping[str, Float64], total: Float64) -> Tally:
    """Name the sums of `flag_rows`, each (..., C) or (..., 1)."""
    return Tally(
        tp=sums["tp"],
        positives=sums["positives"],
        decided=sums["decided"],
        exact=sums["exact"][..., 0],
        accepted=sums["accepted"][..., 0],
        total=total,
    )


def score_tally(sheet: Sheet, tally: Tally) -> Values:
    """Make the scores of decisions."""
    total = tally.total
    outcomes = complete_outcomes(
        tp=tally.tp, positives=tally.positives, decided=tally.decided, total=total
    )
    exact = divide(tally.exact, total)
    by_class = {
        "precision": precision(outcomes),
        "recall": recall(outcomes),
        "f1": f1(outcomes),
        "prevalence": divide(tally.positives, total[..., None]),
    }
    if sheet.exclusive:
        overall = {
            "accuracy": exact,
            "balanced_accuracy": balanced_accuracy(outcomes),
            "f1_macro": macro(by_class["f1"]),
            "precision_macro": macro(by_class["precision"]),
            **_score_agreement(outcomes),
        }
        if sheet.abstains:
            overall["accepted"] = divide(tally.accepted, total)
            overall["accuracy_accepted"] = divide(tally.exact, tally.accepted)
        return overall, by_class
    formulas = {"f1": f1, "precision": precision, "recall": recall}
    pooled = pool(outcomes)
    overall = {f"{name}_macro": macro(by_class[name]) for name in formulas}
    overall |= {f"{name}_micro": formula(pooled)[..., 0] for name, formula in formulas.items()}
    overall["exact_match"] = exact
    if sheet.truth.shape[1] == 1:
        overall |= {"accuracy": exact, "balanced_accuracy": balanced_accuracy(outcomes)}
        overall |= _score_agreement(outcomes)
    return overall, by_class


def score_losses(log_loss: Float64, brier: Float64, by_class: Float64) -> Values:
    """Name the losses: (...), (...) and (..., C)."""
    return {"log_loss": log_loss, "brier": brier}, {"brier": by_class}


def score_calibration(error: Float64) -> Values:
    """Name the calibration error, (...)."""
    return {"expected_calibration_error": error}, {}


def score_areas(sheet: Sheet, areas: Sequence[Float64]) -> Values:
    """Name the areas of each column, from `take_areas`."""
    average_precision, roc_auc, pr_auc = np.stack(areas, axis=-1)
    by_class = {"average_precision": average_precision, "roc_auc": roc_auc, "pr_auc": pr_auc}
    # PR-AUC had its name in the histories of trainings first, for both kinds of table.
    suffix = "_macro" if sheet.exclusive else ""
    overall = {
        f"roc_auc{suffix}": macro(roc_auc),
        f"average_precision{suffix}": macro(average_precision),
        "pr_auc": macro(pr_auc),
    }
    return overall, by_class


def take_areas(rankings: Iterable[Ranking]) -> Float64:
    """Return average precision, ROC-AUC and PR-AUC of one column, (3, B).

    Args:
        rankings: Under some sets of weights after another, B together.
    """
    parts = [np.stack([r.average_precision(), r.roc_auc(), r.pr_auc()]) for r in rankings]
    return np.concatenate(parts, axis=-1)


def read_sheet(
    targets: Floats,
    probs: Floats,
    *,
    exclusive: bool,
    thresholds: float | Sequence[float] | Floats | None,
    decisions: Bool | None = None,
    ranked: Floats | None = None,
) -> Sheet:
    """Check a sheet of probabilities, and compute what does not depend on weights.

    Args:
        targets: Given labels in [0, 1].
        probs: Probabilities in [0, 1], columns in the same order.
        exclusive: True if the columns of a row sum to 1.
        thresholds: One or one per class, 0.5 if None; only if not exclusive.
        decisions: Taken in place of thresholds and argmax; a row of exclusive classes
            has one True, or none where the rule leaves it undecided.
        ranked: What rankings sort by; `probs` if None.

    Shape:
        targets, probs, decisions, ranked: (N, C). thresholds: () or (C,).

    Raises:
        InputError: shapes disagree, values are NaN or outside [0, 1], thresholds were
            given for exclusive classes or beside decisions, or a row of exclusive
            classes has several decisions.
    """
    read_weights(targets, probs, None)
    if not targets.size:
        raise InputError(
            f"targets have shape {targets.shape}; expected a row and a class at least."
        )
    for name, values in (("targets", targets), ("probabilities", probs)):
        wrong = int((~((values >= 0) & (values <= 1))).any(axis=1).sum())
        if wrong:
            raise InputError(
                f"{name} are NaN or outside [0, 1] in {wrong} of {len(values)} rows; expected "
                "numbers in [0, 1]. Leave out the rows that are not labelled or not predicted."
            )
    if exclusive and thresholds is not None:
        raise InputError("thresholds were given, but exclusive classes are decided by argmax.")
    if decisions is None:
        cut = 0.5 if thresholds is None else thresholds
        decisions = to_decisions(probs, exclusive=exclusive, thresholds=cut)
    else:
        _check_decisions(decisions, targets, exclusive=exclusive, thresholds=thresholds)
    return Sheet(
        exclusive=exclusive,
        targets=targets,
        probs=probs,
        ranked=probs if ranked is None else ranked,
        truth=to_decisions(targets, exclusive=exclusive),
        decided=decisions,
        abstains=exclusive and not bool(decisions.any(axis=1).all()),
    )


def measure(
    sheet: Sheet, blocks: Iterable[Weights], families: Sequence[Family] = FAMILIES
) -> dict[tuple[str, int], Float64]:
    """Take every score under every set of weights.

    Args:
        sheet: From `read_sheet`.
        blocks: Weights, each (B, N); together they are all sets wanted.
        families: Which scores; from `find_family`, or all.

    Returns:
        (B,) values by (metric, column), `main_metric` first; column -1 is all
        classes together. Empty if there are no blocks.
    """
    # Converted once for all scores; of a large table by each score, part by part.
    ready = (np.asarray(b, np.float64) if b.size <= BLOCK else b for b in blocks)
    found = ([_MEASURES[family](sheet, block) for family in families] for block in ready)
    return gather_values(sheet, found)


def gather_values(
    sheet: Sheet, found: Iterable[Sequence[Values]]
) -> dict[tuple[str, int], Float64]:
    """Join the values of some sets of weights after another, as `measure` returns them.

    Args:
        sheet: From `read_sheet`.
        found: For each block of weights the values of each family.
    """
    parts: dict[tuple[str, int], list[Float64]] = {}
    for families in found:
        for overall, by_class in families:
            for name, values in overall.items():
                parts.setdefault((name, -1), []).append(values)
            for name, values in by_class.items():
                for column in range(values.shape[-1]):
                    parts.setdefault((name, column), []).append(values[..., column])
    first = (main_metric(exclusive=sheet.exclusive), -1)
    keys = sorted(parts, key=lambda key: (key != first, key[1]))
    return {key: np.concatenate(parts[key]) for key in keys}


def find_family(sheet: Sheet, metric: str) -> tuple[Family]:
    """Find the scores that are taken together with one overall score.

    Args:
        sheet: From `read_sheet`.
        metric: Name of an overall score.

    Raises:
        InputError: no overall score has that name.
    """
    # One row has all the names, and costs nothing.
    row = Sheet(
        exclusive=sheet.exclusive,
        targets=sheet.targets[:1],
        probs=sheet.probs[:1],
        ranked=sheet.ranked[:1],
        truth=sheet.truth[:1],
        decided=sheet.decided[:1],
        abstains=sheet.abstains,
    )
    known: list[str] = []
    for family in FAMILIES:
        overall, _ = _MEASURES[family](row, np.ones((1, 1)))
        if metric in overall:
            return (family,)
        known += overall
    raise InputError(
        f"metric {metric!r} is not an overall score; expected one of {', '.join(sorted(known))}"
        f"{suggest(metric, known)}."
    )


def _score_agreement(outcomes: Outcomes) -> dict[str, Float64]:
    return {"mcc": mcc(outcomes), "cohen_kappa": cohen_kappa(outcomes)}


def _measure_decisions(sheet: Sheet, weights: Weights) -> Values:
    sums = {name: sum_rows(flags, weights) for name, flags in flag_rows(sheet).items()}
    return score_tally(sheet, make_tally(sums, total_weight(len(sheet.truth), weights)))


def _measure_losses(sheet: Sheet, weights: Weights) -> Values:
    return score_losses(
        average(sheet.log_loss, weights),
        average(sheet.brier, weights),
        brier_by_class(sheet.targets, sheet.probs, weights),
    )


def _measure_calibration(sheet: Sheet, weights: Weights) -> Values:
    return score_calibration(
        expected_calibration_error(
            sheet.truth, sheet.probs, exclusive=sheet.exclusive, weights=weights
        )
    )


def _measure_rankings(sheet: Sheet, weights: Weights) -> Values:
    # As many sets at once as a block holds; of a large sheet that is one by one.
    step = max(1, BLOCK // weights.shape[-1])
    parts = [weights[start : start + step] for start in range(0, len(weights), step)]
    areas = [take_areas(rank(order, part) for part in parts) for order in sheet.orders]
    return score_areas(sheet, areas)


_MEASURES: dict[Family, Callable[[Sheet, Weights], Values]] = {
    "decisions": _measure_decisions,
    "losses": _measure_losses,
    "calibration": _measure_calibration,
    "rankings": _measure_rankings,
}


def _check_decisions(
    decisions: Bool,
    targets: Floats,
    *,
    exclusive: bool,
    thresholds: float | Sequence[float] | Floats | None,
) -> None:
    if thresholds is not None:
        raise InputError("thresholds and decisions were both given; expected one of the two.")
    if decisions.shape != targets.shape or decisions.dtype != np.bool_:
        raise InputError(
            f"decisions are {decisions.dtype} of shape {decisions.shape}; expected bool of shape "
            f"{targets.shape}, as the targets."
        )
    several = int((decisions.sum(axis=1) > 1).sum()) if exclusive else 0
    if several:
        raise InputError(
            f"{several} of {len(decisions)} rows are decided for several classes; expected one "
            "class or none, because the classes are exclusive."
        )
