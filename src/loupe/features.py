"""Features of the frozen backbone: which are kept, made once, shared by all folds.

A head stage reads one view of each row in an epoch; what its views are is said in
the recipe. It must not fit anything.

Shapes: N rows, V views kept, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from loupe.caching import Pixels
from loupe.errors import RecipeError
from loupe.files import replacing
from loupe.inference import compute_drawn_features, compute_features
from loupe.networks import Classifier
from loupe.progress import Reporter
from loupe.recipe import Recipe
from loupe.settings import HeadStage
from loupe.table import Float32
from loupe.tta import ViewName


@dataclass(frozen=True, slots=True)
class Features:
    """Features of all rows, and what each of their views is for.

    Attributes:
        values: (N, V, D) float32.
        fitted: Columns that training takes, one an epoch, in turn.
        plain: Column of the image as it is.
        tta: Columns averaged at prediction; empty if prediction needs the pixels.
    """

    values: Tensor
    fitted: tuple[int, ...]
    plain: int
    tta: tuple[int, ...]


def needs_features(recipe: Recipe) -> bool:
    """Return True if the first stage trains the head on features."""
    return isinstance(recipe.stages[0], HeadStage)


def head_only(recipe: Recipe) -> bool:
    """Return True if no stage trains the backbone."""
    return all(isinstance(stage, HeadStage) for stage in recipe.stages)


def count_draws(recipe: Recipe) -> int:
    """Return how many random draws of each training image are kept; 0 for named views."""
    stage = recipe.stages[0]
    return stage.views if isinstance(stage, HeadStage) and isinstance(stage.views, int) else 0


def list_views(recipe: Recipe) -> tuple[ViewName, ...]:
    """Return the named views that are kept, each once, after the random draws.

    Those that the stage fits, the image as it is, and what prediction averages if
    no stage changes the backbone.
    """
    stage = recipe.stages[0]
    views: list[ViewName] = []
    if isinstance(stage, HeadStage) and isinstance(stage.views, tuple):
        views += stage.views
    views.append("identity")
    if head_only(recipe) and isinstance(recipe.tta, tuple):
        views += recipe.tta
    return tuple(dict.fromkeys(views))


def check_views(recipe: Recipe) -> None:
    """Refuse what cannot be had of images of which the network sees only crops.

    Raises:
        RecipeError: `input.crop` is set and the head stage names views, or metrics of
            its rows as they are would be needed.
    """
    if recipe.input.crop and needs_features(recipe) and not count_draws(recipe):
        raise RecipeError(
            "stages.0.views names fixed views, but input.crop lets the network see crops only; "
            "set it to a number of random draws, such as 'views: 8'."
        )

    measured = recipe.watched_metrics or recipe.train_metrics
    if recipe.input.crop and needs_features(recipe) and measured:
        raise RecipeError(
            "input.crop with a stage 'train: head' keeps features of random crops only, so no "
            "metric can be taken of whole images; leave out early_stop, checkpoint, plateau and "
            "train_metrics, or use 'train: all' with 'freeze: [backbone]'."
        )


def save_features(
    network: Classifier,
    pixels: Pixels,
    ids: tuple[str, ...],
    recipe: Recipe,
    path: Path,
    *,
    device: str,
    reporter: Reporter,
) -> tuple[int, int]:
    """Compute and store the features that a recipe's head stage needs.

    Args:
        network: Its backbone is used.
        pixels: Prepared images of the table.
        ids: (N,) ids; they seed the random draws.
        recipe: Says which views.
        path: File to write.
        device: torch device.
        reporter: Told of the rows done.

    Returns:
        Rows, and views of each.
    """
    parts = []
    draws, views = count_draws(recipe), list_views(recipe)
    if draws:
        parts.append(
            compute_drawn_features(
                network, pixels, ids, recipe, draws=draws, device=device, reporter=reporter
            )
        )
    if recipe.input.crop is None:
        parts.append(
            compute_features(network, pixels, recipe, views=views, device=device, reporter=reporter)
        )
    features = np.concatenate(parts, axis=1)
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, features)
    return features.shape[0], features.shape[1]


def load_features(path: Path, recipe: Recipe, device: str) -> Features:
    """Read what `save_features` wrote.

    Args:
        path: The file.
        recipe: The one it was written for.
        device: torch device.
    """
    values: Float32 = np.load(path)
    draws, views = count_draws(recipe), list_views(recipe)
    stage = recipe.stages[0]
    named = stage.views if isinstance(stage, HeadStage) and isinstance(stage.views, tuple) else ()
    fitted = tuple(range(draws)) if draws else tuple(views.index(view) for view in named)
    cropped = recipe.input.crop is not None
    stored = head_only(recipe) and isinstance(recipe.tta, tuple) and not cropped
    tta = tuple(draws + views.index(view) for view in recipe.tta) if stored else ()
    # Of cropped images a random draw stands in: the whole never goes through the network.
    plain = 0 if cropped else draws + views.index("identity")
    return Features(torch.from_numpy(values).to(device), fitted, plain, tta)
