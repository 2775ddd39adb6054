"""What the watched metrics are taken from: a network at work on rows, as they are.

No random transforms and no flips: the whole image, or its grid of crops. It must
not train, or choose which rows.

Shapes: N rows of the table, n rows asked for, D features, C classes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from loupe.build import autocast
from loupe.data import Rows, Samples, stack_images
from loupe.inference import BATCH, to_probabilities
from loupe.losses import LossFunction
from loupe.networks import Classifier
from loupe.recipe import Recipe
from loupe.views import list_cuts
from loupe.watching import measure

_LEAST = 1e-7  # probabilities are kept off 0 and 1 before their logarithm


@torch.inference_mode()
def evaluate(
    network: Classifier,
    samples: Samples,
    rows: Rows,
    recipe: Recipe,
    loss: LossFunction,
    *,
    classes: tuple[str, ...],
    exclusive: bool,
    device: str,
    features: Tensor | None = None,
) -> dict[str, float]:
    """Return every metric of some rows.

    Args:
        network: Left in the mode it is in.
        samples: Pixels and targets of the table.
        rows: Which rows; none give no metrics.
        recipe: Its engine is used.
        loss: The stage's.
        classes: Names of the columns.
        exclusive: Softmax or sigmoids.
        device: torch device.
        features: (N, D) features of the frozen backbone, in place of pixels.

    Returns:
        See `watching.measure`; empty for no rows.
    """
    if not len(rows):
        return {}
    training = network.training
    network.eval()
    score = _score_pixels if features is None else _score_features(features)
    logits = torch.cat(
        [
            score(network, samples, rows[i : i + BATCH], recipe, exclusive, device)
            for i in range(0, len(rows), BATCH)
        ]
    )
    network.train(training)
    targets = samples.targets[rows]
    fit = loss(logits, torch.from_numpy(targets).to(logits.device), None)
    value = float(fit + network.penalty())
    probs = to_probabilities(logits, exclusive=exclusive).cpu().numpy()
    return measure(targets, np.clip(probs, 0, 1), value, classes=classes, exclusive=exclusive)


_Score = Callable[[Classifier, Samples, Rows, Recipe, bool, str], Tensor]


def _score_pixels(
    network: Classifier,
    samples: Samples,
    rows: Rows,
    recipe: Recipe,
    exclusive: bool,  # noqa: FBT001 (one of two functions of one shape)
    device: str,
) -> Tensor:
    """Return logits; with crops, those of the mean probability over the grid."""
    images = stack_images(samples.pixels, rows).to(device)
    cuts = list_cuts(("identity",), samples.pixels.spec)
    with autocast(recipe, device):
        per_crop = [network(images[:, cut.rows, cut.columns]) for cut in cuts]
    if len(per_crop) == 1:
        logits: Tensor = per_crop[0].float()
        return logits
    probs = [to_probabilities(logits, exclusive=exclusive) for logits in per_crop]
    mean = torch.stack(probs).mean(dim=0).clamp(_LEAST, 1 - _LEAST)
    return mean.log() if exclusive else torch.logit(mean)


def _score_features(features: Tensor) -> _Score:
    def score(network: Classifier, _: Samples, rows: Rows, *__: object) -> Tensor:
        return network.classify(features[rows])

    return score
