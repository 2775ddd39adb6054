"""The scorecard: which scores a sheet of probabilities gets, and their values.

What does not depend on the row weights (decisions, sorting, losses of each row) is
computed once for a sheet; then each score is taken under as many sets of weights as
wanted. It must not draw resamples or make intervals.

Shapes: N rows, C classes, B sets of weights (resamples).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from loupe.errors import InputError, shorten, suggest
from loupe.metrics import (
    accuracy,
    brier_by_row,
    count_outcomes,
    f1,
    log_loss_by_row,
    macro,
    pool,
    precision,
    recall,
    to_decisions,
)
from loupe.ranking import Order, rank, sort_column
from loupe.weighting import Bool, Float64, Floats, Integers, Weights, average, divide, read_weights

UNBOUNDED = ("log_loss",)
"""Overall scores that are no share of anything, and have no upper end at 1."""


def main_metric(*, exclusive: bool) -> str:
    """Name the score that runs are selected and compared by."""
    return "accuracy" if exclusive else "average_precision"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """What every set of weights needs, computed once.

    Attributes:
        exclusive: True if the columns of a row sum to 1.
        truth: (N, C) given labels.
        decided: (N, C) decisions.
        orders: (C,) each column, sorted by probability.
        log_loss: (N,) of each row.
        brier: (N,) of each row.
    """

    exclusive: bool
    truth: Bool
    decided: Bool
    orders: tuple[Order, ...]
    log_loss: Float64
    brier: Float64


Values = tuple[dict[str, Float64], dict[str, Float64]]
Family = Callable[[Sheet, Float64], Values]


def _measure_decisions(sheet: Sheet, weights: Float64) -> Values:
    outcomes = count_outcomes(sheet.truth, sheet.decided, weights)
    exact = accuracy(sheet.truth, sheet.decided, weights)
    f1_C, recall_C = f1(outcomes), recall(outcomes)
    by_class = {"precision": precision(outcomes), "recall": recall_C, "f1": f1_C}
    if sheet.exclusive:
        overall = {"accuracy": exact, "balanced_accuracy": macro(recall_C), "f1_macro": macro(f1_C)}
        return overall, by_class
    overall = {"f1_macro": macro(f1_C), "f1_micro": f1(pool(outcomes))[..., 0]}
    total = weights.sum(axis=-1)[..., None]
    by_class["prevalence"] = divide(outcomes.tp + outcomes.fn, total)
    return overall | {"exact_match": exact}, by_class


def _measure_losses(sheet: Sheet, weights: Float64) -> Values:
    overall = {"log_loss": average(sheet.log_loss, weights)}
    if not sheet.exclusive:
        overall["brier"] = average(sheet.brier, weights)
    return overall, {}


def _measure_rankings(sheet: Sheet, weights: Float64) -> Values:
    rankings = (rank(order, weights) for order in sheet.orders)
    pairs = [(r.average_precision(), r.roc_auc()) for r in rankings]
    ap, roc = np.moveaxis(np.asarray(pairs), 0, -1)
    if sheet.exclusive:
        overall = {"roc_auc_macro": macro(roc), "average_precision_macro": macro(ap)}
        return overall, {"average_precision": ap}
    overall = {"average_precision": macro(ap), "roc_auc": macro(roc)}
    return overall, {"average_precision": ap, "roc_auc": roc}


_FAMILIES: tuple[Family, ...] = (_measure_decisions, _measure_losses, _measure_rankings)


def read_sheet(
    targets: Floats,
    probs: Floats,
    *,
    exclusive: bool,
    thresholds: float | Sequence[float] | Floats | None,
) -> Sheet:
    """Check a sheet of probabilities, and compute what does not depend on weights.

    Args:
        targets: Given labels in [0, 1].
        probs: Probabilities in [0, 1], columns in the same order.
        exclusive: True if the columns of a row sum to 1.
        thresholds: One or one per class, 0.5 if None; only if not exclusive.

    Shape:
        targets, probs: (N, C). thresholds: () or (C,).

    Raises:
        InputError: shapes disagree, values are NaN or outside [0, 1], or
            thresholds were given for exclusive classes.
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
    truth = to_decisions(targets, exclusive=exclusive)
    cut = 0.5 if thresholds is None else thresholds
    columns = zip(truth.T, probs.T, strict=True)
    return Sheet(
        exclusive=exclusive,
        truth=truth,
        decided=to_decisions(probs, exclusive=exclusive, thresholds=cut),
        orders=tuple(sort_column(t, p) for t, p in columns),
        log_loss=log_loss_by_row(targets, probs, exclusive=exclusive),
        brier=brier_by_row(targets, probs, exclusive=exclusive),
    )


def measure(
    sheet: Sheet, blocks: Iterable[Weights], families: Sequence[Family] = _FAMILIES
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
    parts: dict[tuple[str, int], list[Float64]] = {}
    for block in blocks:
        for family in families:
            overall, by_class = family(sheet, np.asarray(block, dtype=np.float64))
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
    known: list[str] = []
    for family in _FAMILIES:
        overall, _ = family(sheet, np.ones((1, len(sheet.truth))))
        if metric in overall:
            return (family,)
        known += overall
    raise InputError(
        f"metric {metric!r} is not an overall score; expected one of {', '.join(sorted(known))}"
        f"{suggest(metric, known)}."
    )


def count_trials(sheet: Sheet, keys: Integers, metric: str, column: int) -> int:
    """Count the groups that a score rests on.

    Args:
        sheet: From `read_sheet`.
        keys: (N,) number of the group of each row, from 0.
        metric: Name of the score.
        column: Of the class; -1 is all classes together.

    Returns:
        All groups for a score of all rows. For a class those with positives
        (precision: decided positives; ROC: the scarcer side); for a macro mean
        the least of these times the number of classes.
    """
    if metric in {"accuracy", "exact_match", "prevalence", "brier", "log_loss"}:
        return int(keys.max()) + 1
    columns = range(sheet.truth.shape[1]) if column < 0 else (column,)
    counts = [_count_class_trials(sheet, keys, metric, c) for c in columns]
    counts = [n for n in counts if n]
    if metric == "f1_micro":
        return sum(counts)
    return len(counts) * min(counts, default=0)


def note_left_out(sheet: Sheet, classes: Sequence[str], metric: str) -> str:
    """Name the classes that a macro mean leaves out; "" if none."""
    if metric in {"accuracy", "exact_match", "f1_micro", "brier", "log_loss"}:
        return ""
    positives = sheet.truth.sum(axis=0)
    left_out = positives == 0
    if metric.startswith("roc_auc"):
        left_out |= positives == len(sheet.truth)
    names = [name for name, out in zip(classes, left_out, strict=True) if out]
    if not names:
        return ""
    used = len(classes) - len(names)
    return f"mean of {used} of {len(classes)} classes; undefined for {shorten(names)}"


def _count_class_trials(sheet: Sheet, keys: Integers, metric: str, column: int) -> int:
    truth, decided = sheet.truth[:, column], sheet.decided[:, column]
    if metric.startswith("roc_auc"):
        sides = [truth, ~truth]
    else:
        sides = [decided if metric == "precision" else truth]
    return min(int(np.count_nonzero(np.bincount(keys[side]))) for side in sides)
