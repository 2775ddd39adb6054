"""Losses of masks as plain functions of logits and targets, and their weighted sum.

It must not know networks, rows of a table or run-length text. All is computed in
float32, under autocast and from half-precision logits too, or in float64 if logits
are. The value of an empty selection (no mask with a pixel, `positive_only`) is 0,
with gradients of 0.

Shapes: B batch, C classes, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from loupe.errors import InputError, RecipeError, shorten, suggest
from loupe.maskchoices import MaskLoss, Over

MaskLossFunction = Callable[..., Tensor]
"""Of mask logits and targets (B, C, H, W), class logits and targets (B, C) or None."""


def build_mask_loss(loss: MaskLoss, classes: Sequence[str]) -> MaskLossFunction:
    """Return the weighted sum as a function of (logits, targets, class logits, class targets).

    Args:
        loss: Weights and parameters.
        classes: (C,) Names of the channels.

    Returns:
        A function of mask logits (B, C, H, W), targets (B, C, H, W) in [0, 1], and,
        with a class head, class logits and targets (B, C); without these targets, a
        class is there if its mask has a pixel above 0. It gives the mean loss, and raises
        InputError if shapes do not fit, or the class head or its weight is missing.

    Raises:
        RecipeError: weights are given for names that are no classes, or all are 0.

    Examples:
        >>> compute = build_mask_loss(MaskLoss(bce=0, dice=1, smooth=0), ["crack"])
        >>> targets = torch.tensor([[[[1.0, 0.0]]]])
        >>> round(float(compute(torch.zeros(1, 1, 1, 2), targets, None, None)), 6)
        0.5
    """
    pos_weight = _read_weights("pos_weight", loss.pos_weight, classes)
    mask_weight = _read_weights("mask_weight", loss.mask_weight, classes)
    tversky = partial(tversky_loss, over=loss.over, positive_only=loss.positive_only)
    lovasz = partial(lovasz_loss, over=loss.over, positive_only=loss.positive_only)
    parts: list[tuple[float, Callable[..., Tensor]]] = [
        (loss.bce, partial(bce_loss, pos_weight=pos_weight)),
        (loss.focal, partial(focal_loss, gamma=loss.gamma, pos_weight=pos_weight)),
        (loss.dice, partial(tversky, alpha=0.5, beta=0.5, smooth=loss.smooth / 2)),
        (loss.tversky, partial(tversky, alpha=loss.alpha, beta=loss.beta, smooth=loss.smooth)),
        (loss.lovasz, partial(lovasz, symmetric=loss.symmetric)),
    ]
    used = [(weight, part) for weight, part in parts if weight]

    def compute(
        logits: Tensor,
        targets: Tensor,
        class_logits: Tensor | None = None,
        class_targets: Tensor | None = None,
    ) -> Tensor:
        logits, targets = _take(logits, targets)
        _check_head(class_logits, loss.class_head)
        total = logits.new_zeros(())
        for weight, part in used:
            total = total + weight * part(logits, targets, mask_weight=mask_weight)
        if class_logits is not None:
            found = _find_masks(targets) if class_targets is None else class_targets
            total = total + loss.class_head * class_loss(class_logits, found)
        return total

    return compute


# Sums over pixels ---------------------------------------------------------------------------------


def bce_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    pos_weight: Sequence[float] = (),
    mask_weight: Sequence[float] = (),
) -> Tensor:
    """Return the mean over pixels of w t (-log p) + (1 - t) (-log(1 - p)).

    Args:
        logits: Of the masks.
        targets: Share of each pixel that the class covers, in [0, 1].
        pos_weight: (C,) w of each class; 1 if empty.
        mask_weight: (C,) Weights of the mean over classes; equal if empty.

    Shape:
        logits, targets: (B, C, H, W). Returns: ().

    Raises:
        InputError: shapes do not fit.

    Examples:
        >>> masks = torch.ones(1, 1, 2, 2)
        >>> round(float(bce_loss(torch.zeros(1, 1, 2, 2), masks, pos_weight=[3])), 4)
        2.0794
    """
    logits, targets = _take(logits, targets)
    factors = _spread(pos_weight, logits, "pos_weight")[:, None, None] if len(pos_weight) else None
    values = functional.binary_cross_entropy_with_logits(
        logits, targets, pos_weight=factors, reduction="none"
    )
    return _average(values.mean(dim=(0, 2, 3)), _weigh(mask_weight, logits))


def focal_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    gamma: float = 2.0,
    pos_weight: Sequence[float] = (),
    mask_weight: Sequence[float] = (),
) -> Tensor:
    """Return cross-entropy in which pixels that are right already count little.

    The mean over pixels of w t (1 - p)^gamma (-log p) + (1 - t) p^gamma (-log(1 - p));
    `loupe.losses` has the same formula for classes.

    Args:
        logits: Of the masks.
        targets: Share of each pixel that the class covers, in [0, 1].
        gamma: 0 is cross-entropy.
        pos_weight: (C,) w of each class; 1 if empty.
        mask_weight: (C,) Weights of the mean over classes; equal if empty.

    Shape:
        logits, targets: (B, C, H, W). Returns: ().

    Raises:
        InputError: shapes do not fit.

    References:
        Lin et al. (2017), Focal Loss for Dense Object Detection, arXiv:1708.02002,
        equation 4.
    """
    logits, targets = _take(logits, targets)
    log_yes, log_no = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    yes = targets * log_yes * torch.exp(gamma * log_no)
    no = (1 - targets) * log_no * torch.exp(gamma * log_yes)
    if len(pos_weight):
        yes = yes * _spread(pos_weight, logits, "pos_weight")[:, None, None]
    return _average(-(yes + no).mean(dim=(0, 2, 3)), _weigh(mask_weight, logits))


# Areas --------------------------------------------------------------------------------------------


def dice_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    smooth: float = 1.0,
    over: Over = "mask",
    positive_only: bool = False,
    mask_weight: Sequence[float] = (),
) -> Tensor:
    """Return 1 - Dice, Dice being (2 I + smooth) / (P + T + smooth), of soft masks.

    P and T are the sums of probabilities and of targets, I is that of the smaller of
    the two at each pixel. Where targets are 0 or 1 it is the sum of their product, as
    everywhere; with shares between, the usual product is not largest where
    probabilities equal targets, and this one is. `tversky_loss` with
    alpha = beta = 0.5 and half of `smooth` is the same.

    Args:
        logits: Of the masks.
        targets: Share of each pixel that the class covers, in [0, 1].
        smooth: In pixels. With 0 an empty mask has the loss 1 whatever the logits.
        over: What is one set of pixels; the mean over sets is the loss.
        positive_only: Leave masks without a pixel above 0 out.
        mask_weight: (C,) Weights of the mean over classes; equal if empty.

    Shape:
        logits, targets: (B, C, H, W). Returns: ().

    Raises:
        InputError: shapes do not fit, or weights of classes that are one set.

    References:
        Milletari et al. (2016), V-Net, arXiv:1606.04797, section 3.
        Wang et al. (2023), Dice Semimetric Losses, arXiv:2303.16296, section 3, for I.

    Examples:
        >>> logits, masks = torch.zeros(1, 2, 1, 2), torch.zeros(1, 2, 1, 2)
        >>> masks[0, 0] = 1  # 1 - (2 + 1) / (1 + 2 + 1), and 1 - 1 / (1 + 1)
        >>> round(float(dice_loss(logits, masks)), 6)
        0.375
        >>> round(float(dice_loss(logits, masks, positive_only=True)), 6)
        0.25
    """
    return tversky_loss(
        logits,
        targets,
        alpha=0.5,
        beta=0.5,
        smooth=smooth / 2,
        over=over,
        positive_only=positive_only,
        mask_weight=mask_weight,
    )


def tversky_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    smooth: float = 1.0,
    over: Over = "mask",
    positive_only: bool = False,
    mask_weight: Sequence[float] = (),
) -> Tensor:
    """Return 1 - (I + smooth) / (I + alpha (P - I) + beta (T - I) + smooth).

    I, P and T are those of `dice_loss`: P - I is what is wrongly predicted, T - I what
    is missed.

    Args:
        logits: Of the masks.
        targets: Share of each pixel that the class covers, in [0, 1].
        alpha: What a false positive costs.
        beta: What a false negative costs; above alpha, recall is favoured.
        smooth: In pixels.
        over: What is one set of pixels; the mean over sets is the loss.
        positive_only: Leave masks without a pixel above 0 out.
        mask_weight: (C,) Weights of the mean over classes; equal if empty.

    Shape:
        logits, targets: (B, C, H, W). Returns: ().

    Raises:
        InputError: shapes do not fit, or weights of classes that are one set.

    References:
        Salehi et al. (2017), Tversky loss function for image segmentation,
        arXiv:1706.05721, equation 3; alpha = 0.3 with beta = 0.7 is tried there.
    """
    logits, targets = _take(logits, targets)
    probs = torch.sigmoid(logits)
    kept = _keep(targets, positive_only=positive_only)
    both, predicted, true = (
        _pool(sheet.sum(dim=(2, 3)) * kept, over)
        for sheet in (torch.minimum(probs, targets), probs, targets)
    )
    bottom = both + alpha * (predicted - both) + beta * (true - both) + smooth
    # Nothing is predicted and nothing is there: that is right.
    nothing = bottom <= 0
    values = 1 - torch.where(nothing, 1.0, (both + smooth) / torch.where(nothing, 1.0, bottom))
    return _average(values, _weigh_sets(mask_weight, kept, over))


def lovasz_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    symmetric: bool = False,
    over: Over = "mask",
    positive_only: bool = False,
    mask_weight: Sequence[float] = (),
) -> Tensor:
    """Return the Lovasz hinge: a convex surrogate of 1 - intersection / union.

    Errors e = 1 - logit x sign are sorted, largest first, and each max(e, 0) counts by
    how much the pixels so far have raised 1 - intersection / union. Targets of 0.5 and
    above are positive. Of an empty mask the highest logit alone counts.

    Args:
        logits: Of the masks.
        targets: Share of each pixel that the class covers, in [0, 1].
        symmetric: The mean of the loss and that of the background: logits with the
            other sign against 1 - targets.
        over: What is one set of pixels; the mean over sets is the loss.
        positive_only: Leave masks without a pixel above 0 out.
        mask_weight: (C,) Weights of the mean over classes; equal if empty.

    Shape:
        logits, targets: (B, C, H, W). Returns: ().

    Raises:
        InputError: shapes do not fit, or weights of classes that are one set.

    References:
        Berman et al. (2018), The Lovasz-Softmax loss, arXiv:1705.08790, equations 8
        to 11, algorithm 1. Yu & Blaschko (2015), Learning Submodular Losses, ICML.

    Examples:
        >>> logits = torch.tensor([[[[0.5, -0.5, -2.0]]]])
        >>> masks = torch.tensor([[[[1.0, 1.0, 0.0]]]])  # errors 0.5, 1.5 and -1
        >>> float(lovasz_loss(logits, masks))  # (1.5 + 0.5) / 2
        1.0
    """
    logits, targets = _take(logits, targets)
    kept = _keep(targets, positive_only=positive_only)
    left_out = _rearrange((kept == 0)[:, :, None, None].expand_as(targets), over)
    scores, hard = _rearrange(logits, over), _rearrange(targets >= 0.5, over)
    values = _lovasz_hinge(scores, hard, left_out)
    if symmetric:
        values = (values + _lovasz_hinge(-scores, ~hard, left_out)) / 2
    shape = _pool(kept, over).shape
    return _average(values.reshape(shape), _weigh_sets(mask_weight, kept, over))


def _lovasz_hinge(scores: Tensor, hard: Tensor, left_out: Tensor) -> Tensor:
    """Return the loss of each set of pixels; all three are (sets, pixels)."""
    errors = torch.where(hard, 1 - scores, 1 + scores)
    # Last in order and without a value: pixels that are left out change no weight.
    errors = errors.masked_fill(left_out, -math.inf)
    errors, order = torch.sort(errors, dim=1, descending=True)
    truth = (hard & ~left_out).gather(1, order)
    return (functional.relu(errors) * _rises(truth, errors.dtype)).sum(dim=1)


def _rises(truth: Tensor, dtype: torch.dtype) -> Tensor:
    """Return by how much each pixel raises 1 - intersection / union, without cancellation.

    A positive lowers the intersection by 1 at the same union U: 1 / U. A negative
    raises the union at the same intersection I: I / (U (U - 1)), U being that after it.
    """
    positives = truth.sum(dim=1, keepdim=True, dtype=torch.int32)
    so_far = truth.cumsum(dim=1, dtype=torch.int32)
    intersection = (positives - so_far).to(dtype)
    # Positives, and the negatives so far.
    union = (torch.arange(1, truth.shape[1] + 1).to(so_far) + positives - so_far).to(dtype)
    rises = torch.where(truth, 1 / union, intersection / (union * (union - 1).clamp(min=1)))
    # With no positive at all the first pixel takes the loss from 0 to 1.
    rises[:, :1] = torch.where(positives > 0, rises[:, :1], 1.0)
    return rises


def class_loss(class_logits: Tensor, class_targets: Tensor) -> Tensor:
    """Return the cross-entropy of a class head: is a class there at all?

    Args:
        class_logits: Of the classes; each stands alone.
        class_targets: In [0, 1].

    Shape:
        Both (B, C). Returns: ().

    Raises:
        InputError: shapes differ.
    """
    if class_logits.shape != class_targets.shape or class_logits.ndim != 2:
        raise InputError(
            f"class logits are {tuple(class_logits.shape)} and class targets "
            f"{tuple(class_targets.shape)}; expected (B, C) both."
        )
    return bce_loss(class_logits[:, :, None, None], class_targets[:, :, None, None])


def _take(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return both in float32 or better; a wrong shape must not be spread silently."""
    if logits.shape != targets.shape or logits.ndim != 4:
        raise InputError(
            f"mask logits are {tuple(logits.shape)} and targets {tuple(targets.shape)}; expected "
            "(B, C, H, W) both."
        )
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits, targets.to(logits)


def _find_masks(targets: Tensor) -> Tensor:
    """Return (B, C): 1 where a mask has a pixel above 0."""
    return (targets > 0).flatten(2).any(dim=2).to(targets)


def _keep(targets: Tensor, *, positive_only: bool) -> Tensor:
    return _find_masks(targets) if positive_only else targets.new_ones(targets.shape[:2])


def _pool(sheet: Tensor, over: Over) -> Tensor:
    """Sum (B, C) into one value for each set of pixels: (B, C), (1, C) or (1, 1)."""
    if over == "mask":
        return sheet
    return sheet.sum(dim=0 if over == "channel" else (0, 1), keepdim=True)


def _rearrange(maps: Tensor, over: Over) -> Tensor:
    """Bring (B, C, H, W) to (sets, pixels), sets in the order of `_pool`."""
    if over == "mask":
        return maps.flatten(0, 1).flatten(1)
    return maps.transpose(0, 1).flatten(1) if over == "channel" else maps.reshape(1, -1)


def _weigh_sets(mask_weight: Sequence[float], kept: Tensor, over: Over) -> Tensor:
    """Return the weight of each set of pixels, 0 where all of it is left out."""
    left = (_pool(kept, over) > 0).to(kept)
    if over != "batch":
        return left * _weigh(mask_weight, kept)
    if len(mask_weight):
        raise InputError("mask_weight weighs classes; over='batch' makes them one set of pixels.")
    return left


def _weigh(mask_weight: Sequence[float], logits: Tensor) -> Tensor:
    if not len(mask_weight):
        return logits.new_ones(logits.shape[1])
    return _spread(mask_weight, logits, "mask_weight")


def _spread(values: Sequence[float], logits: Tensor, name: str) -> Tensor:
    if len(values) != logits.shape[1]:
        raise InputError(
            f"{name} has {len(values)} values ({shorten(values)}) for {logits.shape[1]} classes; "
            "expected one for each."
        )
    return torch.as_tensor(values, dtype=logits.dtype, device=logits.device)


def _average(values: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean; 0, with gradients of 0, if all weights are 0."""
    total = weights.sum().clamp(min=torch.finfo(values.dtype).tiny)
    return (values * weights).sum() / total


def _read_weights(
    key: str, weights: Mapping[str, float], classes: Sequence[str]
) -> tuple[float, ...]:
    unknown = [name for name in weights if name not in classes]
    if unknown:
        told = " ".join(f"{name!r} is no class{suggest(name, classes) or '.'}" for name in unknown)
        raise RecipeError(f"{key}: {told} The masks' classes: {shorten(classes, most=20)}.")
    values = tuple(weights.get(name, 1.0) for name in classes) if weights else ()
    if values and not any(values):
        raise RecipeError(f"{key}: the weights of all classes are 0; expected one above 0.")
    return values


def _check_head(class_logits: Tensor | None, weight: float) -> None:
    if (class_logits is None) != (weight == 0):
        found = "gives no class logits" if class_logits is None else "has a class head"
        raise InputError(
            f"the network {found}, and class_head, its weight in the loss, is {weight}; expected "
            "both (0.1 is usual) or neither."
        )
