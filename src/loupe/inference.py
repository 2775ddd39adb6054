"""Networks at work: features, probabilities, and the verb `predict`.

It must not choose a threshold or train.

Shapes: N rows, V views, D features, B batch, C classes, H height, W width.
"""

from __future__ import annotations

import filecmp
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from loupe.build import Classifier, autocast, build_network
from loupe.caching import Pixels
from loupe.data import Rows, stack_images
from loupe.decoding import read_image
from loupe.errors import ImageError, InputError, RunError
from loupe.executors import count_cores
from loupe.images import InputSpec, prepare_image
from loupe.predictions import Predictions, append_quarantined
from loupe.progress import Reporter, Silent
from loupe.recipe import HeadStage, Recipe
from loupe.runs import Member, Run, open_run
from loupe.table import HOLDOUT, Float32, Table
from loupe.tta import ViewName, first_views, flipped_axes

BATCH = 32
_CHUNK = 64  # images decoded together while the ones before are computed


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
        (N, V, D) float32.
    """
    network = arrange_memory(network.to(device).eval(), recipe)
    found = []
    for rows in _chunks(len(pixels), BATCH):
        images = stack_images(pixels, rows).to(device)
        with autocast(recipe, device):
            per_view = [network.features(images.flip(flipped_axes(v))).float() for v in views]
        found.append(torch.stack(per_view, dim=1).cpu())
        if reporter:
            reporter.advance(int(rows[-1]) + 1)
    return torch.cat(found).numpy()


@torch.inference_mode()
def score_features(network: Classifier, features: Tensor, *, exclusive: bool) -> Float32:
    """Return the view-mean probabilities of rows from their features.

    Args:
        network: Its head is used, in evaluation mode.
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
    network: Classifier, pixels: Pixels, rows: Rows, recipe: Recipe, *, exclusive: bool, device: str
) -> Float32:
    """Return the view-mean probabilities of rows from their pixels.

    Args:
        network: Trained.
        pixels: Prepared images of the table.
        rows: Which rows, in order.
        recipe: Its views and engine are used.
        exclusive: Softmax or sigmoids.
        device: torch device.

    Returns:
        (n, C) float32.
    """
    network = arrange_memory(network.to(device).eval(), recipe)
    found = [np.zeros((0, network.head.out_features), np.float32)]
    for part in _chunks(len(rows), BATCH):
        images = stack_images(pixels, rows[part]).to(device)
        with autocast(recipe, device):
            per_view = [network(images.flip(flipped_axes(view))) for view in recipe.tta]
        probs = [to_probabilities(logits, exclusive=exclusive) for logits in per_view]
        found.append(torch.stack(probs).mean(dim=0).cpu().numpy())
    return np.concatenate(found)


def load_network(member: Member, recipe: Recipe, fold: int, classes: int) -> Classifier:
    """Load the trained network of one fold.

    Args:
        member: Where it lies.
        recipe: The member's resolved recipe.
        fold: Which fold was held out.
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

    Args:
        run: A finished run, or its folder.
        table: The images; targets are not needed.
        views: Number of test-time views; None takes each recipe's own.
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
    probs = np.full((len(table), len(trained.classes)), np.nan, np.float32)
    errors: list[str | None] = [None] * len(table)
    reporter.begin("predict", len(table))
    for chunk in _decode_chunks(table.images, [part.spec for part in ensemble]):
        for row, error in chunk.errors.items():
            errors[row] = error
        if len(chunk.rows):
            probs[chunk.rows] = _score_chunk(ensemble, chunk.images, exclusive=trained.exclusive)
        reporter.advance(chunk.end)
    reporter.end()
    sheet = Predictions(
        ids=table.ids,
        classes=trained.classes,
        probs=probs,
        exclusive=trained.exclusive,
        held_out=~_find_seen(table, trained),
        errors=tuple(errors),
    )
    return append_quarantined(sheet, table)


_Shared = tuple[Classifier, tuple[torch.nn.Linear, ...]]


@dataclass(frozen=True, slots=True)
class _Part:
    """One member: backbones with the heads that share each of them."""

    spec: InputSpec
    recipe: Recipe
    views: tuple[ViewName, ...]
    device: str
    networks: tuple[_Shared, ...]


def _find_seen(table: Table, trained: Table) -> NDArray[np.bool_]:
    """(N,) True for images that some member trained on; rows kept apart are not."""
    folds = np.zeros(len(trained), np.int16) if trained.folds is None else trained.folds
    used = np.flatnonzero(folds != HOLDOUT)
    at = {trained.ids[row]: trained.images[row] for row in used}
    paths = {trained.images[row].resolve() for row in used}
    return np.array(
        [
            path.resolve() in paths or (name in at and _may_equal(path, at[name]))
            for name, path in zip(table.ids, table.images, strict=True)
        ],
        dtype=np.bool_,
    )


def _may_equal(path: Path, other: Path) -> bool:
    """True unless both files are there and their bytes differ."""
    try:
        return filecmp.cmp(path, other, shallow=False)
    except OSError:
        return True


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Decoded images of one chunk, prepared for each member."""

    rows: Rows
    images: tuple[NDArray[np.uint8], ...]
    errors: dict[int, str]
    end: int


def _load_ensemble(run: Run, table: Table, views: int | None, device: str) -> list[_Part]:
    parts = []
    for name in run.members:
        member = run.member(name)
        recipe = member.recipe()
        loaded = [load_network(member, recipe, k, len(table.classes)) for k in run.folds]
        loaded = [arrange_memory(network.to(device), recipe) for network in loaded]
        chosen = recipe.tta if views is None else first_views(views)
        networks: tuple[_Shared, ...] = tuple((network, (network.head,)) for network in loaded)
        if all(isinstance(stage, HeadStage) for stage in recipe.stages):
            # Folds differ in the last layer only: one pass serves them all.
            networks = ((loaded[0], tuple(network.head for network in loaded)),)
        parts.append(_Part(member.input_spec(), recipe, chosen, device, networks))
    return parts


def _decode_chunks(images: Sequence[Path], specs: Sequence[InputSpec]) -> Iterator[_Chunk]:
    """Decode ahead of the networks, in order."""
    wanted = list(dict.fromkeys(specs))

    def decode(path: Path) -> dict[InputSpec, NDArray[np.uint8]] | str:
        try:
            image = read_image(path)
        except ImageError as error:
            return str(error)
        return {spec: prepare_image(image, spec) for spec in wanted}

    with ThreadPoolExecutor(count_cores()) as pool:
        chunks = [range(i, min(i + _CHUNK, len(images))) for i in range(0, len(images), _CHUNK)]
        ahead = [[pool.submit(decode, images[row]) for row in chunk] for chunk in chunks[:2]]
        for place, chunk in enumerate(chunks):
            results = [future.result() for future in ahead.pop(0)]
            if place + 2 < len(chunks):
                ahead.append([pool.submit(decode, images[row]) for row in chunks[place + 2]])
            yield _gather_chunk(chunk, results, specs)


def _gather_chunk(
    chunk: range,
    results: Sequence[dict[InputSpec, NDArray[np.uint8]] | str],
    specs: Sequence[InputSpec],
) -> _Chunk:
    pairs = list(zip(chunk, results, strict=True))
    read = [(row, result) for row, result in pairs if not isinstance(result, str)]
    images = tuple(np.stack([result[spec] for _, result in read]) for spec in specs if read)
    errors = {row: result for row, result in pairs if isinstance(result, str)}
    return _Chunk(np.array([row for row, _ in read], np.intp), images, errors, chunk.stop)


@torch.inference_mode()
def _score_chunk(
    ensemble: Sequence[_Part], images: Sequence[NDArray[np.uint8]], *, exclusive: bool
) -> Float32:
    """Mean over views, then folds, then members; (n, C)."""
    means = [
        _score_part(part, torch.from_numpy(prepared), exclusive=exclusive)
        for part, prepared in zip(ensemble, images, strict=True)
    ]
    return torch.stack(means).mean(dim=0).cpu().numpy()


def _score_part(part: _Part, images: Tensor, *, exclusive: bool) -> Tensor:
    found = []
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH].to(part.device)
        per_view = []
        for view in part.views:
            flipped = batch.flip(flipped_axes(view))
            for network, heads in part.networks:
                with autocast(part.recipe, part.device):
                    features = network.features(flipped)
                per_view += [
                    to_probabilities(head(features.float()), exclusive=exclusive) for head in heads
                ]
        found.append(torch.stack(per_view).mean(dim=0))
    return torch.cat(found)


def _chunks(count: int, size: int) -> Iterator[Rows]:
    for start in range(0, count, size):
        yield np.arange(start, min(start + size, count), dtype=np.intp)
