"""Networks at work: features, and probabilities of rows.

It must not choose a threshold or train; new images are the job of `ensembles`.

Shapes: N rows, V views, D features, B batch, C classes, H height, W width; h and w
those that the network sees.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from loupe.build import autocast, build_network
from loupe.caching import Pixels
from loupe.data import Rows, stack_images
from loupe.errors import InputError, RunError
from loupe.executors import count_cores
from loupe.images import InputSpec
from loupe.networks import Classifier, Net
from loupe.progress import Reporter
from loupe.recipe import Recipe
from loupe.runs import Member
from loupe.settings import Draws, Tta
from loupe.table import Float32
from loupe.tta import ViewName
from loupe.views import draw_images, list_cuts, training_steps, view_images

Trained = TypeVar("Trained", bound=Net)

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


def arrange_memory(network: Trained, recipe: Recipe) -> Trained:
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
        inputs = list_inputs(images, (), tuple(views), pixels.spec, recipe.seed, device)
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
        for inputs in list_inputs(images, keys, recipe.tta, pixels.spec, recipe.seed, device):
            with autocast(recipe, device):
                logits = network(inputs)
            probs.append(to_probabilities(logits, exclusive=exclusive))
        found.append(torch.stack(probs).mean(dim=0).cpu().numpy())
    return np.concatenate(found)


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


def list_inputs(
    images: Tensor, ids: Sequence[str], tta: Tta, spec: InputSpec, seed: int, device: str
) -> Iterator[Tensor]:
    """Yield the inputs of `views.view_images`; flips are made on the device.

    Args:
        images: (B, H, W, C) uint8, prepared.
        ids: (B,) seeds of random views.
        tta: Views.
        spec: How they were prepared.
        seed: The recipe's.
        device: torch device.

    Yields:
        (B, h, w, C) for each crop and view.
    """
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
