"""Which kind of network a recipe asks for, and that network.

Segmenters need libraries of their own, which are loaded only where a recipe has a
decoder. It must not train, or read a run.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from loupe.build import build_network, find_start
from loupe.errors import LoupeError
from loupe.images import InputSpec
from loupe.networks import Net
from loupe.recipe import Recipe
from loupe.settings import Start


def create_network(
    recipe: Recipe, spec: InputSpec, classes: int, *, weights: Path | None, load: bool = True
) -> Net:
    """Build the classifier or the segmenter of a recipe.

    Args:
        recipe: With a decoder for a segmenter.
        spec: Input size, channels and normalisation.
        classes: Number of columns, or of masks.
        weights: Local weights folder.
        load: Load pretrained weights if the recipe asks for them; False when trained
            weights are loaded next.

    Raises:
        WeightsError: see `build_network`.
        RecipeError: see `build_network` and `segmenters.build_segmenter`.
        LoupeError: the libraries of segmenters are not installed.
    """
    if recipe.decoder is None:
        return build_network(recipe, spec, classes, weights=weights, load=load)
    network: Net = _segmenters().build_segmenter(
        recipe.decoder, recipe, spec, classes, weights=weights, load=load
    )
    return network


def find_network(recipe: Recipe, weights: Path | None) -> Start:
    """Look up what the network, or the encoder, of a recipe starts from.

    Args:
        recipe: A `start` found earlier is kept.
        weights: Local weights folder.

    Raises:
        RecipeError: nobody has such a network.
        WeightsError: weights cannot be had.
        LoupeError: the libraries of segmenters are not installed.
    """
    if recipe.decoder is None:
        return find_start(recipe, weights)
    settled: Recipe = _segmenters().settle_encoder(recipe, weights)
    return settled.start


def _segmenters() -> ModuleType:
    try:
        # Here, since classifiers must run without the library behind it.
        from loupe import segmenters  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise LoupeError(
            f"a recipe with a decoder needs {error.name}, which is not installed: "
            "pip install 'loupe-vision[segment]'"
        ) from None
    return segmenters
