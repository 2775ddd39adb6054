"""Ensembles: all networks of a run on new images, and the verb `predict`.

Every file is decoded once, for all networks and views. It must not choose a threshold or
train.

Shapes: N rows, M members, n images at a time, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from loupe.build import autocast
from loupe.caching import Chunk, prepare_ahead
from loupe.errors import InputError, RecipeError, RunError
from loupe.images import InputSpec
from loupe.inference import (
    BATCH,
    arrange_memory,
    choose_device,
    list_inputs,
    load_network,
    to_probabilities,
)
from loupe.networks import Classifier
from loupe.predictions import Predictions, append_quarantined
from loupe.progress import Reporter, Silent
from loupe.recipe import Recipe
from loupe.runs import Run, open_run
from loupe.seen import Bool, find_seen
from loupe.settings import HeadStage, Tta
from loupe.table import Float32, Table
from loupe.tta import first_views
from loupe.views import count_views

_Shared = tuple[Classifier, tuple[Classifier, ...]]
"""A backbone, and the networks whose other layers share it."""


@dataclass(frozen=True, slots=True)
class Part:
    """One member of an ensemble: how its images are prepared, and its networks."""

    spec: InputSpec
    recipe: Recipe
    tta: Tta
    device: str
    networks: tuple[_Shared, ...]


def predict(
    run: Run | str | Path,
    table: Table,
    *,
    views: int | None = None,
    device: str = "auto",
    reporter: Reporter | None = None,
) -> Predictions:
    """Predict images with the mean of all members and folds of a run.

    Every file is decoded once, for all networks and views. A file that cannot
    be read keeps its row, with NaN and the reason, and does not stop the rest.
    Probabilities are means, also if a recipe says `votes: sum` (`count_run_views`).

    Args:
        run: A finished run, or its folder.
        table: The images; targets are not needed.
        views: Number of named views of each crop; None takes each recipe's own.
        device: `auto` or a torch device.
        reporter: Told of the images done.

    Returns:
        A sheet in the order of the table, then its quarantined rows with their
        reason. A row is marked as not held out if it is an image of the training
        table: the same file, or an equal one of the same id. Copies under other
        names are not looked for.

    Raises:
        RunError: the run is not finished.
        InputError: the table has no rows, or the device is not there.
    """
    run = run if isinstance(run, Run) else open_run(run)
    if not len(table):
        raise InputError("there are 0 images to predict; name a table or a folder with images.")
    reporter = reporter or Silent()
    trained = run.table()
    ensemble = load_ensemble(run, trained, views, choose_device(device))
    weights = torch.tensor([share for _, share in run.networks()]).view(-1, 1, 1)
    probs = np.full((len(table), len(trained.classes)), np.nan, np.float32)
    errors: list[str | None] = [None] * len(table)
    reporter.begin("predict", len(table))
    for chunk in prepare_ahead(table.images, [part.spec for part in ensemble]):
        for row, error in chunk.errors.items():
            errors[row] = error
        if len(chunk.rows):
            ids = [table.ids[row] for row in chunk.rows]
            exclusive = trained.exclusive
            probs[chunk.rows] = score_chunk(ensemble, weights, chunk, ids, exclusive=exclusive)
        reporter.advance(chunk.end)
    reporter.end()
    sheet = Predictions(
        ids=table.ids,
        classes=trained.classes,
        probs=probs,
        exclusive=trained.exclusive,
        held_out=~find_known(table, run),
        errors=tuple(errors),
    )
    return append_quarantined(sheet, table)


def count_run_views(run: Run, *, views: int | None = None) -> int:
    """Return by what to multiply mean probabilities to get what a run's recipes ask for.

    Args:
        run: Its recipes say whether votes are averaged or summed.
        views: As given to `predict`; None takes each recipe's own.

    Returns:
        1 for means; for sums, the views times crops of each image.

    Raises:
        RecipeError: members do not agree on `votes`, or sum over other numbers.
        InputError: there are not so many views.
    """
    counts: list[tuple[str, int]] = []
    for member, _ in run.networks():
        recipe = member.recipe()
        tta = recipe.tta if views is None else first_views(views)
        times = count_views(tta, member.input_spec()) if recipe.votes == "sum" else 1
        counts.append((member.name, times))
    if len({times for _, times in counts}) > 1:
        told = ", ".join(f"{name} x {times}" for name, times in counts)
        raise RecipeError(
            f"{run.folder}: with 'votes: sum', members must sum over as many views and crops, but "
            f"their means would be multiplied by {told}. Write labels or a submission instead, or "
            "give all members the same 'votes', 'tta' and 'input.crop'."
        )
    return counts[0][1]


def load_ensemble(run: Run, table: Table, views: int | None, device: str) -> list[Part]:
    """Load all networks of a run.

    Args:
        run: Finished, or a blend of such.
        table: What it was trained on.
        views: Number of named views; None takes each recipe's own.
        device: torch device.

    Raises:
        RunError: the run is not finished, or its networks draw masks.
    """
    if run.segments:
        raise RunError(
            f"{run.folder} draws masks and names no classes: loupe segment {run.folder} IMAGES "
            "--out masks.csv"
        )
    parts = []
    for member, _ in run.networks():
        recipe = member.recipe()
        loaded = [load_network(member, recipe, k, len(table.classes)) for k in member.folds]
        loaded = [arrange_memory(network.to(device), recipe) for network in loaded]
        chosen = recipe.tta if views is None else first_views(views)
        networks: tuple[_Shared, ...] = tuple((network, (network,)) for network in loaded)
        if all(isinstance(stage, HeadStage) for stage in recipe.stages):
            # Folds differ after pooling only: one pass of the backbone serves them all.
            networks = ((loaded[0], tuple(loaded)),)
        parts.append(Part(member.input_spec(), recipe, chosen, device, networks))
    return parts


@torch.inference_mode()
def score_chunk(
    ensemble: Sequence[Part], weights: Tensor, chunk: Chunk, ids: Sequence[str], *, exclusive: bool
) -> Float32:
    """Return the probabilities of some images: means over views, folds, and members.

    Args:
        ensemble: From `load_ensemble`.
        weights: (M, 1, 1) of the members.
        chunk: Images, prepared for each member.
        ids: Of these images; they seed random views.
        exclusive: Softmax or sigmoids.

    Returns:
        (n, C) float32.
    """
    means = [
        _score_part(part, torch.from_numpy(images), ids, exclusive=exclusive)
        for part, images in zip(ensemble, chunk.images, strict=True)
    ]
    stacked = torch.stack(means).cpu()
    return (stacked * weights).sum(dim=0).clamp(max=1).numpy()


def find_known(table: Table, run: Run) -> Bool:
    """Find the images that some network of a run trained on; a blend's are in several runs.

    Args:
        table: New images.
        run: Finished, or a blend of such.

    Returns:
        (N,) True for those.
    """
    folders = {member.folder.parent for member, _ in run.networks()}
    known = [find_seen(table, open_run(folder).table()) for folder in folders]
    return np.asarray(np.logical_or.reduce(known), np.bool_)


def _score_part(part: Part, images: Tensor, ids: Sequence[str], *, exclusive: bool) -> Tensor:
    found = []
    for start in range(0, len(images), BATCH):
        here = slice(start, start + BATCH)
        batches = list_inputs(
            images[here], ids[here], part.tta, part.spec, part.recipe.seed, part.device
        )
        per_view = []
        for inputs in batches:
            for backbone, networks in part.networks:
                with autocast(part.recipe, part.device):
                    features = backbone.features(inputs)
                logits = [network.classify(features) for network in networks]
                per_view += [to_probabilities(each, exclusive=exclusive) for each in logits]
        found.append(torch.stack(per_view).mean(dim=0))
    return torch.cat(found)
