"""Losses as plain functions of logits, targets and weights.

It must not know networks or rows of a table.

Shapes: B batch, N rows, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from loupe.choices import (
    BinaryCrossEntropy,
    BiTempered,
    CrossEntropy,
    Focal,
    Loss,
    SymmetricCrossEntropy,
    Taylor,
)
from loupe.errors import RecipeError, shorten, suggest

LossFunction = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Of logits (B, C), targets (B, C) and row weights (B,) or None; gives the mean loss."""
_RowLosses = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of logits, targets and targets times class weights, all (B, C); gives (B,)."""

NEWTON_STEPS = 6
"""Before the last step, which is differentiated. Seven in all reach the last bit of
float64 for t2 from 1 to 8, 2 to 1000 classes and logits of any spread up to 120;
the fixed-point iteration of the paper's code is off by 2e-4 after 30 rounds there."""


def build_loss(loss: Loss, *, exclusive: bool, class_weights: Tensor | None) -> LossFunction:
    """Return the loss as a function of (logits, targets, row weights).

    Targets may be shares (label smoothing, CutMix, MixUp); those of exclusive classes
    sum to 1. With t a target, p a probability and w a class weight, sums over classes,
    a row's loss is:

    * cross_entropy: sum w t (-log p).
    * bce: the mean over columns of w t (-log p) + (1 - t) (-log(1 - p)); w weighs
      the positives alone.
    * focal: the same two formulas, exclusive or not, with -log p times (1 - p)^gamma
      and -log(1 - p) times p^gamma.
    * bi_tempered: the Bregman divergence sum t (log_t1(t + 1e-10) - log_t1 p)
      - (t^(2 - t1) - p^(2 - t1)) / (2 - t1), where p is the tempered softmax of t2.
      Up to a constant it is the mean, with shares t, of the losses against each class
      alone; w weighs these. t1 = t2 = 1 is cross_entropy, without that constant.
    * taylor: sum w t ((1 - p) + (1 - p)^2 / 2 + ... + (1 - p)^terms / terms).
    * symmetric: alpha times cross_entropy + beta times (sum w t) (-sum p log t), where
      log t is never below log_zero.

    The sums are taken in float32, under autocast too, or in float64 if logits are.

    Args:
        loss: Which loss, its parameters and label smoothing.
        exclusive: Softmax (True) or a sigmoid per column.
        class_weights: (C,) from `weigh_classes`, or None.

    Returns:
        A function of logits (B, C), targets (B, C) in [0, 1] and optional
        weights (B,), of mean 1 over the training rows, that gives the mean loss.

    Raises:
        RecipeError: a loss of exclusive classes for columns that stand alone.

    References:
        focal: Lin et al. 2017, arXiv:1708.02002, equation 4. bi_tempered: Amid et al.
        2019, arXiv:1906.03361, section 3, with the 1e-10 of the authors' code. taylor:
        Feng et al. 2020, IJCAI, "Can Cross Entropy Loss Be Robust to Label Noise?".
        symmetric: Wang et al. 2019, arXiv:1908.06112, section 3.

    Examples:
        >>> from loupe.choices import Taylor
        >>> taylor = build_loss(Taylor(terms=2), exclusive=True, class_weights=None)
        >>> float(taylor(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]), None))
        0.625
    """
    check_loss(loss, exclusive=exclusive)
    per_row = _choose_formula(loss, exclusive=exclusive)
    smoothing = loss.label_smoothing

    def compute(logits: Tensor, targets: Tensor, row_weights: Tensor | None) -> Tensor:
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        targets = _smooth(targets.to(logits), smoothing, exclusive=exclusive)
        weighted = targets if class_weights is None else targets * class_weights.to(logits)
        values = per_row(logits, targets, weighted)
        return values.mean() if row_weights is None else (values * row_weights).mean()

    return compute


def check_loss(loss: Loss, *, exclusive: bool) -> None:
    """Check that the loss suits the table's classes.

    Args:
        loss: Which loss.
        exclusive: Whether each row has one class alone.

    Raises:
        RecipeError: a loss of exclusive classes for columns that stand alone.
    """
    softmax_alone = CrossEntropy | BiTempered | Taylor | SymmetricCrossEntropy
    if not exclusive and isinstance(loss, softmax_alone):
        raise RecipeError(
            f"loss.name is {loss.name!r}, but the table's classes are not exclusive; "
            "use 'bce' or 'focal' (or 'auto')."
        )


def weigh_classes(
    loss: Loss, targets: Tensor, classes: Sequence[str], *, exclusive: bool
) -> Tensor | None:
    """Return the class weights that a loss asks for.

    Args:
        loss: Its `class_weights` are read.
        targets: (N, C) of the training rows.
        classes: Names of the columns.
        exclusive: Softmax or sigmoids.

    Returns:
        (C,) float32 where the targets are, or None if all classes count the same.

    Raises:
        RecipeError: weights are given for names that are no classes.

    Examples:
        >>> from loupe.choices import AutoLoss
        >>> loss = AutoLoss(class_weights={"crack": 3})
        >>> weigh_classes(loss, torch.eye(2), ["ok", "crack"], exclusive=True)
        tensor([1., 3.])
    """
    wanted = loss.class_weights
    if wanted == "none":
        return None
    if wanted == "balanced":
        return balance_classes(targets, exclusive=exclusive)
    unknown = [name for name in wanted if name not in classes]
    if unknown:
        told = " ".join(f"{name!r} is no class{suggest(name, classes) or '.'}" for name in unknown)
        raise RecipeError(
            f"loss.class_weights: {told} The table's classes: {shorten(classes, most=20)}."
        )
    return torch.tensor(
        [wanted.get(name, 1.0) for name in classes], dtype=torch.float32, device=targets.device
    )


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


def _choose_formula(loss: Loss, *, exclusive: bool) -> _RowLosses:
    plain = _cross_entropy if exclusive else _binary_cross_entropy
    match loss:
        case BinaryCrossEntropy():
            return _binary_cross_entropy
        case Focal(gamma=gamma):
            return partial(plain, gamma=gamma)
        case BiTempered(t1=t1, t2=t2) if (t1, t2) != (1, 1):
            return partial(_bi_tempered, t1=t1, t2=t2)
        case Taylor(terms=terms):
            return partial(_taylor, terms=terms)
        case SymmetricCrossEntropy(alpha=alpha, beta=beta, log_zero=log_zero):
            return partial(_symmetric, alpha=alpha, beta=beta, log_zero=log_zero)
    return plain


def _smooth(targets: Tensor, smoothing: float, *, exclusive: bool) -> Tensor:
    if not smoothing:
        return targets
    other = 1 / targets.shape[1] if exclusive else 0.5
    return targets * (1 - smoothing) + smoothing * other


def _cross_entropy(
    logits: Tensor, _targets: Tensor, weighted: Tensor, *, gamma: float = 0.0
) -> Tensor:
    log_probs = functional.log_softmax(logits, dim=1)
    if gamma:
        # Above 0, because the slope of a power below 1 is infinite there.
        missing = (-torch.expm1(log_probs)).clamp(min=torch.finfo(logits.dtype).tiny)
        weighted = weighted * missing**gamma
    return -(weighted * log_probs).sum(dim=1)


def _binary_cross_entropy(
    logits: Tensor, targets: Tensor, weighted: Tensor, *, gamma: float = 0.0
) -> Tensor:
    log_yes, log_no = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    yes, no = weighted * log_yes, (1 - targets) * log_no
    if gamma:
        yes, no = yes * torch.exp(gamma * log_no), no * torch.exp(gamma * log_yes)
    return -(yes + no).mean(dim=1)


def _taylor(logits: Tensor, _targets: Tensor, weighted: Tensor, *, terms: int) -> Tensor:
    missing = -torch.expm1(functional.log_softmax(logits, dim=1))
    series = torch.zeros_like(missing)
    for power in range(terms, 0, -1):
        series = (series + 1 / power) * missing
    return (weighted * series).sum(dim=1)


def _symmetric(
    logits: Tensor,
    targets: Tensor,
    weighted: Tensor,
    *,
    alpha: float,
    beta: float,
    log_zero: float,
) -> Tensor:
    log_probs = functional.log_softmax(logits, dim=1)
    # A share so small that its log is lower counts as 0 too, as in the authors' code.
    log_targets = targets.log().clamp(min=log_zero)
    reverse = -(log_probs.exp() * log_targets).sum(dim=1) * weighted.sum(dim=1)
    return beta * reverse - alpha * (weighted * log_probs).sum(dim=1)


def _bi_tempered(
    logits: Tensor, targets: Tensor, weighted: Tensor, *, t1: float, t2: float
) -> Tensor:
    log_probs = _tempered_log_softmax(logits, t2)
    surprise = _temper_log((targets + 1e-10).log(), t1) - _temper_log(log_probs, t1)
    own = surprise - targets ** (1 - t1) / (2 - t1)
    # The class that is not meant has its part too: sum t = 1 brings in the weights.
    mass = torch.exp((2 - t1) * log_probs).sum(dim=1) / (2 - t1)
    return (weighted * own).sum(dim=1) + weighted.sum(dim=1) * mass


def _temper_log(log_values: Tensor, t: float) -> Tensor:
    """Return log_t(x) = (x^(1 - t) - 1) / (1 - t), given log x; exact as t nears 1."""
    return log_values if t == 1 else torch.expm1((1 - t) * log_values) / (1 - t)


def _tempered_log_softmax(logits: Tensor, t: float) -> Tensor:
    """Return log p, where p = exp_t(logits - level) and the level makes p sum to 1.

    The level is a root, found without gradients; one more step of Newton's, whose
    derivative at a root is that of the root itself, makes it a function of the logits.
    """
    if t == 1:
        return functional.log_softmax(logits, dim=1)
    # Near 0 the level keeps its digits; shifted logits have the same probabilities.
    logits = logits - logits.detach().amax(dim=1, keepdim=True)
    level = torch.zeros_like(logits[:, :1])
    with torch.no_grad():
        for _ in range(NEWTON_STEPS):
            level = level + _step_to_level(logits, level, t)
    level = level + _step_to_level(logits, level, t)
    return _log_of_tempered_exp(logits - level, t)


def _step_to_level(logits: Tensor, level: Tensor, t: float) -> Tensor:
    """Return Newton's step towards log_t(sum of exp_t(logits - level)) = 0.

    This side of the equation is convex and falls, so steps from the left, where the
    highest logit is, never pass the root.
    """
    log_values = _log_of_tempered_exp(logits - level, t)
    log_total = torch.logsumexp(log_values, dim=1, keepdim=True)
    # The slope is -sum(exp_t^t) / total^t.
    log_slope = torch.logsumexp(t * log_values, dim=1, keepdim=True) - t * log_total
    return _temper_log(log_total, t) * torch.exp(-log_slope)


def _log_of_tempered_exp(values: Tensor, t: float) -> Tensor:
    """Return log(exp_t(x)), exp_t(x) = (1 + (1 - t) x)^(1 / (1 - t)), for t > 1, x <= 0."""
    return torch.log1p((1 - t) * values) / (1 - t)
