"""Networks at work: features, probabilities, and the verb `predict`.

It must not choose a threshold or train.

Shapes: N rows, V views, D features, B batch, C classes, H height, W width; h and w
those that the network sees.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from loupe.build import autocast, build_network
from loupe.caching import Chunk, Pixels, prepare_ahead
from loupe.data import Rows, stack_images
from loupe.errors import InputError, RecipeError, RunError
from loupe.executors import count_cores
from loupe.images import InputSpec
from loupe.networks import Classifier
from loupe.predictions import Predictions, append_quarantined
from loupe.progress import Reporter, Silent
from loupe.recipe import Recipe
from loupe.runs import Member, Run, open_run
from loupe.seen import Bool, find_seen
from loupe.settings import Draws, HeadStage, Tta
from loupe.table import Float32, Table
from loupe.tta import ViewName, first_views
from loupe.views import count_views, draw_images, list_cuts, training_steps, view_images

BATCH = 32
_MOST_WORKERS = 8  # threads that draw random views ahead of a GPU


def choose_device(name: str) -> str:
    """Turn `auto` into the device of this machine.

    Args:
        name: `auto`, or a torch device such as `cpu`, `cuda:1`, `mps`.

    Raises:
        InputError: the device is not there.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name}: {str(error).partition(chr(10))[0]}") from None
    return name


def arrange_memory(network: Classifier, recipe: Recipe) -> Classifier:
    """Put a network's weights into the memory format that the probe chose."""
    if recipe.engine.channels_last is True:
        return network.to(memory_format=torch.channels_last)
    return network


def to_probabilities(logits: Tensor, *, exclusive: bool) -> Tensor:
    """Return the softmax (exclusive) or the sigmoids of logits, as float32."""
    logits = logits.float()
    return torch.softmax(logits, dim=1) if exclusive else torch.sigmoid(logits)


@torch.inference_mode()
def compute_features(
    network: Classifier,
    pixels: Pixels,
    recipe: Recipe,
    *,
    views: Sequence[ViewName],
    device: str,
    reporter: Reporter | None = None,
) -> Float32:
    """Compute the pooled features of every row and view.

    Args:
        network: Its backbone is used.
        pixels: Prepared images of the table.
        recipe: Its engine sets the precision.
        views: Which views, in order.
        device: torch device.
        reporter: Told of the rows done.

    Returns:
        (N, V, D) float32; if the input is cropped, every view of the first crop of
        the grid, then of the next: V = `count_views(views, pixels.spec)`.
    """
    network = arrange_memory(network.to(device).eval(), recipe)
    found = []
    for rows in _chunks(len(pixels), BATCH):
        images = stack_images(pixels, rows)
        inputs = _list_inputs(images, (), tuple(views), pixels.spec, recipe.seed, device)
        found.append(_stack_features(network, inputs, recipe, device))
        _tell(reporter, rows)
    return np.concatenate(found)


@torch.inference_mode()
def compute_drawn_features(
    network: Classifier,
    pixels: Pixels,
    ids: Sequence[str],
    recipe: Recipe,
    *,
    draws: int,
    device: str,
    reporter: Reporter | None = None,
) -> Float32:
    """Compute the pooled features of augmented draws of every row.

    Draw k of a row is what training shows of it in epoch k: the recipe's `augment`
    and the random crop, seeded by (seed, k, id).

    Args:
        network: Its backbone is used.
        pixels: Prepared images of the table.
        ids: (N,) ids of the table; they seed the draws.
        recipe: Its seed, random transforms and engine are used.
        draws: V, how many of each row.
        device: torch device.
        reporter: Told of the rows done.

    Returns:
        (N, V, D) float32.

    Raises:
        RecipeError: a RandomCrop has another size than the crop of the input.
    """
    steps = training_steps(recipe.augment, pixels.spec)
    network = arrange_memory(network.to(device).eval(), recipe)
    found = []
    for rows in _chunks(len(pixels), BATCH):
        keys = [ids[row] for row in rows]
        images = stack_images(pixels, rows).numpy()
        drawn = draw_images(
            images, keys, steps, recipe.seed, draws=draws, workers=_count_workers(device)
        )
        inputs = (torch.from_numpy(view).to(device) for view in drawn)
        found.append(_stack_features(network, inputs, recipe, device))
        _tell(reporter, rows)
    return np.concatenate(found)


@torch.inference_mode()
def score_features(network: Classifier, features: Tensor, *, exclusive: bool) -> Float32:
    """Return the view-mean probabilities of rows from their features.

    Args:
        network: Its layers after pooling are used, in evaluation mode.
        features: (n, V, D).
        exclusive: Softmax or sigmoids.

    Returns:
        (n, C) float32.
    """
    network.eval()
    per_view = [
        to_probabilities(network.classify(features[:, view]), exclusive=exclusive)
        for view in range(features.shape[1])
    ]
    return torch.stack(per_view).mean(dim=0).cpu().numpy()


@torch.inference_mode()
def score_rows(
    network: Classifier,
    pixels: Pixels,
    rows: Rows,
    recipe: Recipe,
    *,
    ids: Sequence[str],
    exclusive: bool,
    device: str,
) -> Float32:
    """Return the probabilities of rows from their pixels: the mean over crops and views.

    Args:
        network: Trained.
        pixels: Prepared images of the table.
        rows: Which rows, in order.
        recipe: Its views, seed and engine are used.
        ids: (N,) ids of all rows of the table; they seed random views.
        exclusive: Softmax or sigmoids.
        device: torch device.

    Returns:
        (n, C) float32.

    Raises:
        RecipeError: random views have another size than the network sees.
    """
    network = arrange_memory(network.to(device).eval(), recipe)
    found = [np.zeros((0, network.head.out_features), np.float32)]
    for part in _chunks(len(rows), BATCH):
        chosen = rows[part]
        keys = [ids[row] for row in chosen]
        images = stack_images(pixels, chosen)
        probs = []
        for inputs in _list_inputs(images, keys, recipe.tta, pixels.spec, recipe.seed, device):
            with autocast(recipe, device):
                logits = network(inputs)
            probs.append(to_probabilities(logits, exclusive=exclusive))
        found.append(torch.stack(probs).mean(dim=0).cpu().numpy())
    return np.concatenate(found)


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


def load_network(member: Member, recipe: Recipe, fold: int, classes: int) -> Classifier:
    """Load the trained network of one fold.

    Args:
        member: Where it lies.
        recipe: The member's resolved recipe.
        fold: Which fold was held out; -1 for weights refitted on all rows.
        classes: Number of columns.

    Raises:
        RunError: its training has not finished.
    """
    files = member.fold(fold)
    if not files.done:
        raise RunError(
            f"{files.folder} is not finished; run the same 'loupe train' command again first."
        )
    network = build_network(recipe, member.input_spec(), classes, weights=None, load=False)
    network.load_state_dict(load_file(files.weights))
    return network.eval()


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
    ensemble = _load_ensemble(run, trained, views, choose_device(device))
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
            probs[chunk.rows] = _score_chunk(ensemble, weights, chunk, ids, exclusive=exclusive)
        reporter.advance(chunk.end)
    reporter.end()
    sheet = Predictions(
        ids=table.ids,
        classes=trained.classes,
        probs=probs,
        exclusive=trained.exclusive,
        held_out=~_find_known(table, run),
        errors=tuple(errors),
    )
    return append_quarantined(sheet, table)


def _find_known(table: Table, run: Run) -> Bool:
    """(N,) True for images that some network trained on; a blend's are in several runs."""
    folders = {member.folder.parent for member, _ in run.networks()}
    known = [find_seen(table, open_run(folder).table()) for folder in folders]
    return np.asarray(np.logical_or.reduce(known), np.bool_)


_Shared = tuple[Classifier, tuple[Classifier, ...]]
"""A backbone, and the networks whose other layers share it."""


@dataclass(frozen=True, slots=True)
class _Part:
    """One member of an ensemble."""

    spec: InputSpec
    recipe: Recipe
    tta: Tta
    device: str
    networks: tuple[_Shared, ...]


def _load_ensemble(run: Run, table: Table, views: int | None, device: str) -> list[_Part]:
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
        parts.append(_Part(member.input_spec(), recipe, chosen, device, networks))
    return parts


@torch.inference_mode()
def _score_chunk(
    ensemble: Sequence[_Part], weights: Tensor, chunk: Chunk, ids: Sequence[str], *, exclusive: bool
) -> Float32:
    """Mean over views, then folds, then the weighted one over members; (n, C)."""
    means = [
        _score_part(part, torch.from_numpy(images), ids, exclusive=exclusive)
        for part, images in zip(ensemble, chunk.images, strict=True)
    ]
    stacked = torch.stack(means).cpu()
    return (stacked * weights).sum(dim=0).clamp(max=1).numpy()


def _score_part(part: _Part, images: Tensor, ids: Sequence[str], *, exclusive: bool) -> Tensor:
    found = []
    for start in range(0, len(images), BATCH):
        here = slice(start, start + BATCH)
        batches = _list_inputs(
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


def _list_inputs(
    images: Tensor, ids: Sequence[str], tta: Tta, spec: InputSpec, seed: int, device: str
) -> Iterator[Tensor]:
    """Yield the (B, h, w, C) inputs of `view_images`; flips are made on the device."""
    if isinstance(tta, Draws):
        workers = _count_workers(device)
        for drawn in view_images(images.numpy(), ids, tta, spec, seed, workers=workers):
            yield torch.from_numpy(drawn).to(device)
        return
    whole = images.to(device)
    for cut in list_cuts(tta, spec):
        yield whole[:, cut.rows, cut.columns].flip(cut.axes)


def _stack_features(
    network: Classifier, inputs: Iterable[Tensor], recipe: Recipe, device: str
) -> Float32:
    """(B, V, D) pooled features of V inputs of the same rows."""
    per_view = []
    for images in inputs:
        with autocast(recipe, device):
            per_view.append(network.features(images).float())
    return torch.stack(per_view, dim=1).cpu().numpy()


def _count_workers(device: str) -> int:
    """Threads that draw random views: on a CPU those that the job was given."""
    return torch.get_num_threads() if device == "cpu" else min(_MOST_WORKERS, count_cores())


def _tell(reporter: Reporter | None, rows: Rows) -> None:
    if reporter:
        reporter.advance(int(rows[-1]) + 1)


def _chunks(count: int, size: int) -> Iterator[Rows]:
    for start in range(0, count, size):
        yield np.arange(start, min(start + size, count), dtype=np.intp)
