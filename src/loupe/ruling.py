"""Ruling: predictions of new images decided by a stored rule, and the review list.

It must not predict or fit.

Shapes: N rows, C classes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from loupe.errors import InputError
from loupe.evidence import number
from loupe.files import write_text
from loupe.predictions import Predictions
from loupe.rules import Decided, Rule, apply_rule, plain_rule, read_rule
from loupe.table import Float32, Table


def find_rule(stored: Path, given: Path | None = None) -> Rule | None:
    """Return the rule to follow: the given one, else the stored one, else None for none.

    Args:
        stored: Where a run keeps its rule; it need not be there.
        given: A rule file that the user named; it must be there.

    Raises:
        InputError: the named file is missing, or a file is no rule.
    """
    if given is not None:
        return read_rule(given)
    return read_rule(stored) if stored.is_file() else None


def check_ruling(
    rule: Rule | None,
    classes: Sequence[str],
    table: Table,
    *,
    calibrated: bool = False,
    review: Path | None = None,
) -> tuple[str, ...]:
    """Find out before predicting whether a rule can be followed.

    Args:
        rule: From `find_rule`.
        classes: (C,) names that will be predicted.
        table: The images; it needs groups if the rule decides groups.
        calibrated: Probabilities after calibration are wanted.
        review: Where the review list is to go.

    Returns:
        What the user must know.

    Raises:
        AlignmentError: the rule is for other classes.
        InputError: there is no rule to calibrate by, no groups, or a folder in the way.
    """
    if review is not None and review.is_dir():
        raise InputError(f"{review} is a folder; --review names the CSV to write.")
    if rule is None:
        if calibrated:
            raise InputError("there is no rule to calibrate by; 'loupe decide' fits one.")
        return ()
    apply_rule(rule, np.full((1, len(classes)), 0.5, np.float32), classes=classes)
    if rule.pool and table.groups is None:
        raise InputError(
            "the rule decides each group once, and the images have no groups; name their column "
            "(--group-column), or fit a rule for rows: loupe decide RUN."
        )
    unsure = rule.conformal is None and not rule.reject
    if review is not None and unsure:
        return ("the rule has no --coverage: only unreadable images come to review",)
    return ()


def rule_predictions(
    rule: Rule | None, predictions: Predictions, table: Table | None = None
) -> Decided:
    """Decide predictions of new images.

    Args:
        rule: None decides plainly: argmax, or p >= 0.5.
        predictions: Probabilities as a run gives them.
        table: Of the same images first, in the same order; its groups are decided once if
            the rule pools. A row without a group stands alone.

    Raises:
        AlignmentError: the rule is for other classes.
    """
    rule = rule or plain_rule(predictions.classes, exclusive=predictions.exclusive)
    groups = None
    if rule.pool and table is not None and table.groups is not None:
        # Quarantined rows follow those of the table, each alone.
        rest = [f"\0{row}" for row in range(len(table), len(predictions))]
        groups = number([*table.groups, *rest])
    return apply_rule(rule, predictions.probs, classes=predictions.classes, groups=groups)


def write_review(path: Path, predictions: Predictions, decided: Decided) -> int:
    """Write the images that a person should look at, least sure first, as CSV.

    Columns: id, reason, the class in doubt (exclusive: the likeliest) with its calibrated
    probability, and what was decided.

    Args:
        path: The file.
        predictions: Of new images.
        decided: From `rule_predictions`.

    Returns:
        How many there are.
    """
    rows = np.flatnonzero(decided.review)
    exclusive = predictions.exclusive
    doubts = [_doubt(decided.probs[row], exclusive=exclusive) for row in rows]
    order = np.argsort(-np.array(doubts), kind="stable")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "reason", "class", "probability", "decided"])
    errors = predictions.errors or (None,) * len(predictions)
    for row in rows[order]:
        probs = decided.probs[row]
        decisions = decided.decisions[row]
        names = [n for n, there in zip(predictions.classes, decisions, strict=True) if there]
        lost = bool(np.isnan(probs).any())
        at = 0 if lost else int(_doubtful_class(probs, exclusive=exclusive))
        reason = (errors[row] or "not predicted") if lost else "not sure"
        cells = ["", ""] if lost else [predictions.classes[at], f"{probs[at]:.4g}"]
        writer.writerow([predictions.ids[row], reason, *cells, " ".join(names)])
    write_text(path, text.getvalue())
    return len(rows)


def _doubt(probs: Float32, *, exclusive: bool) -> float:
    """Rank a row: unreadable ones first, then by how far the probability is from sure."""
    if np.isnan(probs).any():
        return 2.0
    return float(1 - probs.max() if exclusive else 1 - np.abs(probs - 0.5).min())


def _doubtful_class(probs: Float32, *, exclusive: bool) -> np.intp:
    return probs.argmax() if exclusive else np.abs(probs - 0.5).argmin()
