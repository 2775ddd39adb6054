"""Trials: how many independent groups a score rests on, and between which ends it lies.

What an interval needs where the resamples say nothing, and what the reader must know
of a mean. It must not measure, draw or make intervals.

Shapes: N rows, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from loupe.errors import shorten
from loupe.scorecard import Sheet
from loupe.weighting import Bool, Float64, Integers

BIASED = ("expected_calibration_error",)
"""Sums of absolute gaps: chance alone makes them larger, and resampling adds more."""

Side = Literal["truth", "decided", "scarcer"]

_OF_ALL_ROWS = {
    *("accuracy", "exact_match", "accepted", "prevalence", "brier", "log_loss"),
    *("mcc", "cohen_kappa", *BIASED),
}


def find_span(metric: str, *, exclusive: bool, overall: bool) -> tuple[float, float]:
    """Return the lowest and the highest value that a score can have.

    Args:
        metric: Name of the score.
        exclusive: True if the columns of a row sum to 1.
        overall: True for all classes together.

    Examples:
        >>> find_span("mcc", exclusive=True, overall=True)
        (-1.0, 1.0)
        >>> find_span("log_loss", exclusive=True, overall=True)
        (0.0, inf)
    """
    if metric == "log_loss":
        return 0.0, math.inf
    if metric in {"mcc", "cohen_kappa"}:
        return -1.0, 1.0
    if metric == "brier" and exclusive and overall:
        return 0.0, 2.0
    return 0.0, 1.0


class Trials:
    """Counts the groups that the scores of one sheet rest on; each side is counted once."""

    def __init__(self, sheet: Sheet, keys: Integers) -> None:
        """Take the sheet and the number of the group of each row, (N,), from 0."""
        self._sheet = sheet
        self._keys = keys
        self._groups = int(keys.max()) + 1
        self._counts: dict[tuple[Side, int], int] = {}

    def count(self, metric: str, column: int) -> int:
        """Count the groups that a score rests on.

        Args:
            metric: Name of the score.
            column: Of the class; -1 is all classes together.

        Returns:
            All groups for a score of all rows. For a class those with positives
            (precision: decided positives; ROC: the scarcer side); for a macro mean the
            least of these times the number of classes, for a micro score their sum. For
            Matthews' correlation and Cohen's kappa all groups, but fewer where one class
            dwarfs the others: an error then costs more than 2 / groups.
        """
        if metric in {"mcc", "cohen_kappa"}:
            return max(1, int(self._groups * min(1.0, 2 * self._find_variety())))
        if metric in _OF_ALL_ROWS:
            return self._groups
        if metric == "accuracy_accepted":
            return self._count_groups(np.asarray(self._sheet.decided.any(axis=1)))
        classes = self._sheet.truth.shape[1]
        side: Side = "truth"
        if metric.startswith("roc_auc"):
            side = "scarcer"
        elif metric.startswith("precision"):
            side = "decided"
        columns = range(classes) if column < 0 else (column,)
        counts = [self._count_side(side, c) for c in columns]
        if metric == "balanced_accuracy" and classes == 1:
            counts.append(self._count_groups(~self._sheet.truth[:, 0]))
        counts = [n for n in counts if n]
        if metric.endswith("_micro"):
            return sum(counts)
        return len(counts) * min(counts, default=0)

    def _find_variety(self) -> float:
        """Chance that two rows, drawn at random, are of different classes."""
        shares: Float64 = self._sheet.truth.mean(axis=0)
        if len(shares) == 1:
            shares = np.append(shares, 1 - shares)
        return float(1 - (shares**2).sum())

    def _count_side(self, side: Side, column: int) -> int:
        if (side, column) not in self._counts:
            flags = (self._sheet.decided if side == "decided" else self._sheet.truth)[:, column]
            count = self._count_groups(flags)
            if side == "scarcer":
                count = min(count, self._count_groups(~flags))
            self._counts[side, column] = count
        return self._counts[side, column]

    def _count_groups(self, flags: Bool) -> int:
        if self._groups == len(self._keys):
            return int(np.count_nonzero(flags))
        return int(np.count_nonzero(np.bincount(self._keys[flags])))


def note_left_out(sheet: Sheet, classes: Sequence[str], metric: str) -> str:
    """Name the classes that a macro mean leaves out; "" if none."""
    if metric in {*_OF_ALL_ROWS, "accuracy_accepted"} or metric.endswith("_micro"):
        return ""
    positives = (sheet.decided if metric.startswith("precision") else sheet.truth).sum(axis=0)
    left_out = positives == 0
    if metric.startswith("roc_auc"):
        left_out |= positives == len(sheet.truth)
    names = [name for name, out in zip(classes, left_out, strict=True) if out]
    if not names:
        return ""
    used = len(classes) - len(names)
    return f"mean of {used} of {len(classes)} classes; undefined for {shorten(names)}"
