"""What the watched metrics of masks are taken from: a segmenter at work on rows, as they are.

No random transforms and no flips: the whole prepared image, or its grid of crops, each of
which counts as an image. Pixels belong to a mask from 0.5 on. It must not train, choose
rows, or fit a threshold.

Shapes: N rows of the table, B batch, C classes, h and w those that the network sees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from loupe.build import autocast
from loupe.data import Rows, Samples, stack_images, stack_masks
from loupe.dices import MAIN, Pairs, decompose, dice_micro, dice_nonempty, dice_per_pair_empty1
from loupe.networks import MaskLogits, Net
from loupe.recipe import Recipe
from loupe.views import list_cuts
from loupe.watching import LOSS

MaskLogitsLoss = Callable[[MaskLogits, Tensor, Tensor | None], Tensor]
"""Of what a segmenter gives, masks (B, C, H, W) and None; gives the mean loss."""
_BATCH = 8
_OVERALL = (MAIN, "dice_nonempty", "dice_micro", "specificity", "recall", "dice_given_found")
_BY_CLASS = (MAIN, "dice_nonempty")


def list_mask_metrics(classes: Sequence[str]) -> tuple[str, ...]:
    """List what can be watched of masks: overall, then of each class as ``"dice_nonempty/crack"``.

    Args:
        classes: In the order of their channels.

    Examples:
        >>> list_mask_metrics(["crack"])[:3]
        ('loss', 'dice_per_pair_empty1', 'dice_nonempty')
    """
    single = [f"{metric}/{name}" for name in classes for metric in _BY_CLASS]
    return (LOSS, *_OVERALL, *single)


@torch.inference_mode()
def evaluate_masks(
    network: Net,
    samples: Samples,
    rows: Rows,
    recipe: Recipe,
    loss: MaskLogitsLoss,
    *,
    classes: tuple[str, ...],
    device: str,
) -> dict[str, float]:
    """Return every metric of the masks of some rows.

    Args:
        network: Left in the mode it is in.
        samples: Pixels and masks of the table.
        rows: Which rows; none give no metrics.
        recipe: Its engine is used.
        loss: The stage's.
        classes: Names of the channels.
        device: torch device.

    Returns:
        Value by name, as `list_mask_metrics` lists them; NaN where one is undefined, as
        those of classes without a mask are. Empty for no rows.
    """
    if not len(rows):
        return {}
    training = network.training
    network.eval()
    found: list[tuple[Tensor, ...]] = []
    losses: list[float] = []
    for start in range(0, len(rows), _BATCH):
        part = rows[start : start + _BATCH]
        images, masks = stack_images(samples.pixels, part), stack_masks(samples, part)
        for cut in list_cuts(("identity",), samples.pixels.spec):
            inputs = images[:, cut.rows, cut.columns].to(device)
            targets = masks[:, :, cut.rows, cut.columns].to(device)
            with autocast(recipe, device):
                given = network(inputs)
            losses.append(float(loss(given, targets, None)) * len(part))
            found.append(_count_pixels(given.masks, targets))
    network.train(training)
    truth, predicted, both = (torch.cat(parts).cpu().numpy() for parts in zip(*found, strict=True))
    pairs = Pairs(truth=truth, predicted=predicted, intersection=both)
    value = sum(losses) / len(truth) + float(network.penalty())
    return name_metrics(pairs, classes, value)


def name_metrics(pairs: Pairs, classes: Sequence[str], loss: float) -> dict[str, float]:
    """Return every metric of counted masks by its name; see `list_mask_metrics`.

    Args:
        pairs: Areas of the masks.
        classes: Names of their columns.
        loss: Mean training loss of these rows.
    """
    factors = decompose(pairs)[0]
    per_pair, nonempty = dice_per_pair_empty1(pairs), dice_nonempty(pairs)
    values = (
        *(float(per_pair.overall), float(nonempty.overall), float(dice_micro(pairs).overall)),
        *(factors.specificity, factors.recall, factors.dice_given_found),
        *np.stack([per_pair.classes, nonempty.classes], axis=1).ravel().tolist(),
    )
    return dict(zip(list_mask_metrics(classes), (loss, *values), strict=True))


def _count_pixels(logits: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    """Areas of the given masks, of the predicted ones, and of what both cover; (B, C) each."""
    drawn, given = logits >= 0, targets > 0
    return tuple(each.sum(dim=(2, 3)) for each in (given, drawn, drawn & given))
