"""Watching: which numbers the history of a training holds, and which of two is better.

The scores of one sheet by the names that a recipe may control by: `loss`, `f1_macro`,
`recall/crack`. It must not define a metric, decide what happens when one stops
improving, or import torch.

Shapes: N rows, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from loupe import scorecard
from loupe.errors import RecipeError, suggest
from loupe.weighting import Floats

LOSS = "loss"
"""The training loss, which a recipe may change; `log_loss` stays the same score."""
_LOWER = {LOSS, "log_loss", "brier", "expected_calibration_error"}
_CONSTANT = {"prevalence"}  # of the rows, not of the network: nothing to watch


def list_metrics(classes: Sequence[str], *, exclusive: bool) -> tuple[str, ...]:
    """List what can be watched.

    Args:
        classes: In the order of their columns.
        exclusive: True if the columns of a row sum to 1.

    Returns:
        `loss`, then the scores of all classes together, then those of each class as
        ``"recall/crack"``.

    Examples:
        >>> list_metrics(["a", "b"], exclusive=True)[:4]
        ('loss', 'accuracy', 'balanced_accuracy', 'f1_macro')
        >>> list_metrics(["a", "b"], exclusive=True)[-7:-3]
        ('precision/b', 'recall/b', 'f1/b', 'brier/b')
        >>> list_metrics(["a", "b"], exclusive=True)[-3:]
        ('average_precision/b', 'roc_auc/b', 'pr_auc/b')
    """
    sheet = np.ones((1, len(classes)))
    return tuple(measure(sheet, sheet, 0.0, classes=classes, exclusive=exclusive))


def measure(
    targets_NC: Floats, probs_NC: Floats, loss: float, *, classes: Sequence[str], exclusive: bool
) -> dict[str, float]:
    """Take all that can be watched, on one sheet.

    Args:
        targets_NC: Given labels in [0, 1].
        probs_NC: Probabilities in [0, 1], columns in the same order.
        loss: Mean training loss of these rows.
        classes: In the order of the columns.
        exclusive: True if the columns of a row sum to 1.

    Shape:
        targets_NC, probs_NC: (N, C).

    Returns:
        Value by name, in the order of `list_metrics`. NaN where a score is undefined,
        as those of a class without positives are; a mean leaves such classes out.

    Raises:
        InputError: shapes disagree, there are no rows, or values are NaN or outside
            [0, 1].
    """
    sheet = scorecard.read_sheet(targets_NC, probs_NC, exclusive=exclusive, thresholds=None)
    once = np.ones((1, len(targets_NC)))
    scores = {key: values[0] for key, values in scorecard.measure(sheet, [once]).items()}
    places = sorted(scores, key=lambda key: key[1])
    named = {
        metric if column < 0 else f"{metric}/{classes[column]}": float(scores[metric, column])
        for metric, column in places
        if metric not in _CONSTANT
    }
    return {LOSS: float(loss), **named}


def check_metric(name: str, classes: Sequence[str], *, exclusive: bool, where: str) -> None:
    """Refuse a metric that the history of this table will not have.

    Args:
        name: As a recipe names it.
        classes: Of the table.
        exclusive: True if the columns of a row sum to 1.
        where: The key of the recipe, such as `checkpoint.metric`.

    Raises:
        RecipeError: there is no such metric; the message lists those that there are.
    """
    known = list_metrics(classes, exclusive=exclusive)
    if name in known:
        return
    overall = [metric for metric in known if "/" not in metric]
    by_class = [metric for metric in known if "/" in metric]
    single = dict.fromkeys(metric.partition("/")[0] for metric in by_class)
    alike, last = by_class if "/" in name else overall, f"/{classes[-1]}"
    # "precision" alone is near "average_precision", but one of its classes is meant.
    near = suggest(name + last, known) if name in single else suggest(name.lower(), alike)
    raise RecipeError(
        f"{where} is {name!r}{near} (known here: {', '.join(overall)}; and of one class, "
        f"written 'recall{last}': {', '.join(single)})"
    )


def lower_is_better(name: str) -> bool:
    """Return True for losses and errors, False for scores.

    Args:
        name: One of `list_metrics`.

    Examples:
        >>> lower_is_better("log_loss"), lower_is_better("recall/crack")
        (True, False)
        >>> lower_is_better("brier/crack")
        True
    """
    return name.partition("/")[0] in _LOWER


def improves(name: str, value: float, best: float | None, *, min_delta: float = 0.0) -> bool:
    """Return True if a value is better than the best one by more than `min_delta`.

    Args:
        name: One of `list_metrics`; it says which way is better.
        value: NaN never improves.
        best: None before the first value: any number improves.
        min_delta: Change up to which nothing counts as an improvement.

    Examples:
        >>> improves("loss", 0.5, 0.6), improves("accuracy", 0.5, 0.6)
        (True, False)
        >>> improves("accuracy", 0.605, 0.6, min_delta=0.01)
        False
    """
    if best is None or math.isnan(value):
        return not math.isnan(value)
    gain = best - value if lower_is_better(name) else value - best
    return gain > min_delta
