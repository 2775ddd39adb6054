"""Losses as plain functions of logits, targets and weights.

It must not know networks or rows of a table.

Shapes: B batch, N rows, C classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from loupe.errors import RecipeError
from loupe.recipe import Loss

LossFunction = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def build_loss(loss: Loss, *, exclusive: bool, class_weights: Tensor | None) -> LossFunction:
    """Return the loss as a function of (logits, targets, row weights).

    Args:
        loss: Name and label smoothing.
        exclusive: Softmax (True) or a sigmoid per column.
        class_weights: (C,) from `balance_classes`, or None.

    Returns:
        A function of logits (B, C), targets (B, C) in [0, 1] and optional
        weights (B,), of mean 1 over the training rows, that gives the mean loss.

    Raises:
        RecipeError: cross-entropy for columns that stand alone.
    """
    name = loss.name if loss.name != "auto" else ("cross_entropy" if exclusive else "bce")
    if name == "cross_entropy" and not exclusive:
        raise RecipeError(
            "loss.name is 'cross_entropy', but the table's classes are not exclusive; "
            "use 'bce' (or 'auto')."
        )
    per_row = _cross_entropy if name == "cross_entropy" else _binary_cross_entropy
    smoothing = loss.label_smoothing

    def compute(logits: Tensor, targets: Tensor, row_weights: Tensor | None) -> Tensor:
        values = per_row(logits, _smooth(targets, smoothing, exclusive=exclusive), class_weights)
        return values.mean() if row_weights is None else (values * row_weights).mean()

    return compute


def balance_classes(targets: Tensor, *, exclusive: bool) -> Tensor:
    """Return class weights that make rare classes count as much as common ones.

    Exclusive columns: n / (C x n_class), as scikit-learn's `balanced`; C counts
    the classes that have rows. Columns that stand alone: the weight of a positive,
    n_negative / n_positive. A class without rows weighs 1 and changes no other.

    Args:
        targets: (N, C) of the training rows.
        exclusive: Softmax or sigmoids.

    Returns:
        (C,) float32.
    """
    count = targets.sum(dim=0)
    present = count > 0
    rows, count = targets.shape[0], count.clamp(min=1)
    weights = rows / (present.sum() * count) if exclusive else (rows - count).clamp(min=1) / count
    return torch.where(present, weights, torch.ones_like(weights))


def _smooth(targets: Tensor, smoothing: float, *, exclusive: bool) -> Tensor:
    if not smoothing:
        return targets
    other = 1 / targets.shape[1] if exclusive else 0.5
    return targets * (1 - smoothing) + smoothing * other


def _cross_entropy(logits: Tensor, targets: Tensor, class_weights: Tensor | None) -> Tensor:
    log_probs = functional.log_softmax(logits.float(), dim=1)
    weighted = targets if class_weights is None else targets * class_weights
    return -(weighted * log_probs).sum(dim=1)


def _binary_cross_entropy(logits: Tensor, targets: Tensor, class_weights: Tensor | None) -> Tensor:
    return functional.binary_cross_entropy_with_logits(
        logits.float(), targets, pos_weight=class_weights, reduction="none"
    ).mean(dim=1)
