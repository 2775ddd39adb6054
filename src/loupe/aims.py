"""Aims: what a training is for, labels or masks, as its loss and its metrics.

The one place where fitting learns which kind of task it has. It must not train.

Shapes: N rows, C classes, B batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from loupe.choices import Loss
from loupe.data import Rows, Samples
from loupe.errors import RecipeError
from loupe.evaluation import evaluate
from loupe.losses import build_loss, weigh_classes
from loupe.maskevaluation import MaskLogitsLoss, evaluate_masks, list_mask_metrics
from loupe.masklosses import build_mask_loss
from loupe.networks import Classifier, MaskLogits, Net
from loupe.recipe import Recipe
from loupe.table import Float32
from loupe.tasks import Aim, TaskLoss
from loupe.watching import list_metrics


def aim_at_labels(
    recipe: Recipe, targets: Float32, classes: tuple[str, ...], *, exclusive: bool, device: str
) -> Aim:
    """Say how labels are learnt.

    Args:
        recipe: Its loss.
        targets: Of the training rows; class weights are theirs.
        classes: Names of the columns.
        exclusive: Softmax or sigmoids.
        device: torch device.

    Shape:
        targets: (N, C).
    """

    def build(loss: Loss | None) -> TaskLoss:
        chosen = loss or recipe.loss
        given = torch.from_numpy(targets)
        weights = weigh_classes(chosen, given, classes, exclusive=exclusive)
        weights = None if weights is None else weights.to(device)
        return build_loss(chosen, exclusive=exclusive, class_weights=weights)

    def measure(
        network: Net, samples: Samples, rows: Rows, loss: TaskLoss, features: Tensor | None
    ) -> dict[str, float]:
        if not isinstance(network, Classifier):
            raise RecipeError("labels are learnt by classifiers; leave 'decoder' out.")
        return evaluate(
            network,
            samples,
            rows,
            recipe,
            loss,
            classes=classes,
            exclusive=exclusive,
            device=device,
            features=features,
        )

    metrics = list_metrics(classes, exclusive=exclusive)
    return Aim(metrics=metrics, build_loss=build, measure=measure)


def aim_at_masks(recipe: Recipe, classes: tuple[str, ...], *, device: str) -> Aim:
    """Say how masks are learnt.

    Args:
        recipe: Its mask loss.
        classes: Names of the channels.
        device: torch device.

    Raises:
        RecipeError: the mask loss names classes that there are not.
    """
    compute = build_mask_loss(recipe.mask_loss, classes)

    def loss(given: MaskLogits, targets: Tensor, _: Tensor | None) -> Tensor:
        value: Tensor = compute(given.masks, targets.to(given.masks), given.classes)
        return value

    def build(_: Loss | None) -> MaskLogitsLoss:
        return loss

    def measure(
        network: Net, samples: Samples, rows: Rows, loss: MaskLogitsLoss, _: Tensor | None
    ) -> dict[str, float]:
        return evaluate_masks(network, samples, rows, recipe, loss, classes=classes, device=device)

    return Aim(metrics=list_mask_metrics(classes), build_loss=build, measure=measure)
