"""Content: what the pictures of a table show, as features of a frozen network.

Owns the choice of the network and the features of every row, for comparing tables. It
must not fit anything, keep files, or look for weights anywhere but where it is told.

Importing it loads torch; who can do without says so by catching `ImportError`.

Shapes: N rows, F features.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from loupe.build import build_network, knows_network, resolve_input
from loupe.caching import Pixels, prepare_ahead
from loupe.defaults import choose_recipe
from loupe.inference import choose_device, compute_features
from loupe.progress import Reporter, Silent
from loupe.recipe import Recipe
from loupe.settings import Engine
from loupe.table import Float32, Table
from loupe.weights import weights_folder


def frozen_features(
    tables: tuple[Table, Table],
    weights: str | Path | None = None,
    *,
    device: str = "auto",
    reporter: Reporter | None = None,
) -> tuple[Float32, Float32] | None:
    """Compute the features of two tables by the network that training would start from.

    Args:
        tables: Ours and the other; ours decides on the network.
        weights: Folder of pretrained weights; `$LOUPE_WEIGHTS` if not given.
        device: `auto` or a torch device.
        reporter: Told of the images done.

    Shape:
        Returns: (rows of ours, F) and (rows of the other, F) float32.

    Returns:
        Features of each row, NaN where its file cannot be read; None where there is no
        folder of weights, or nothing in it that can be used: a network with random
        weights knows nothing of what pictures show.

    Raises:
        WeightsError: the folder does not exist, or a file in it is damaged.
        InputError: the device is not there.
    """
    folder = weights_folder(weights)
    device = choose_device(device)
    choice = choose_recipe(tables[0], folder, device=device, knows=knows_network)
    if folder is None or not choice.recipe.network.pretrained:
        return None
    reporter = reporter or Silent()
    engine = Engine(precision="fp32", channels_last=False, threads=())
    recipe = choice.recipe.model_copy(update={"engine": engine})
    reporter.begin(f"features of {choice.member}", sum(map(len, tables)))
    ours, other = (
        _compute(table, recipe, folder, device, reporter, done)
        for table, done in zip(tables, (0, len(tables[0])), strict=True)
    )
    reporter.end()
    return ours, other


def _compute(
    table: Table, recipe: Recipe, weights: Path, device: str, reporter: Reporter, done: int
) -> Float32:
    spec = resolve_input(recipe, weights)
    network = build_network(recipe, spec, 1, weights=weights)
    found = np.full((len(table), network.head.in_features), np.nan, np.float32)
    for chunk in prepare_ahead(table.images, [spec]):
        if len(chunk.rows):
            paths = tuple(table.images[row] for row in chunk.rows)
            pixels = Pixels(paths, spec, chunk.images[0])
            values = compute_features(network, pixels, recipe, views=("identity",), device=device)
            found[chunk.rows] = values[:, 0]
        reporter.advance(done + chunk.end)
    return found
