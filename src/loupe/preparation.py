"""What the jobs of a run share, made once before they start.

Start weights and input, decoded pixels, the probe's choice, features of the frozen
backbone. Each is done only if the run folder does not hold it yet. It must not run
jobs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from loupe.architectures import create_network
from loupe.build import build_network, resolve_input
from loupe.caching import (
    Pixels,
    find_shared_size,
    measure_pixels,
    open_pixels,
    read_pixels,
)
from loupe.data import order_batches
from loupe.errors import MaskError, RecipeError, shorten
from loupe.executors import count_cores
from loupe.features import check_views, count_draws, needs_features, save_features
from loupe.images import InputSpec
from loupe.jobs import check_rows, check_watched, learnt_classes, stage_specs
from loupe.maskfaults import find_faults
from loupe.maskframes import count_lost, frame_masks, measure_images, write_frames
from loupe.networks import Net, freeze_layers
from loupe.optimizers import build_optimizer
from loupe.pictures import caption, save_batch
from loupe.probing import Timing, choose_engine
from loupe.progress import Reporter
from loupe.recipe import Recipe
from loupe.records import append_event
from loupe.runs import Fold, Member, Run
from loupe.settings import Engine, FullStage, HeadStage
from loupe.starts import match_folds, open_start
from loupe.table import HOLDOUT, Table
from loupe.views import check_draws, draw_images, training_steps


def check_networks(
    table: Table, folds: tuple[int, ...], recipes: Mapping[str, Recipe], weights: Path | None
) -> None:
    """Build every network once, so that what does not fit stops us before any long work.

    Args:
        table: With folds.
        folds: Their numbers.
        recipes: Member name to recipe.
        weights: Local folder of pretrained weights.

    Raises:
        RecipeError: a setting does not fit the network, the images or another setting;
            or a watched metric is undefined on the rows that would be watched.
        WeightsError: pretrained weights cannot be had.
        LeakageError: `init_from` names weights that saw what is held out.
    """
    if any(recipe.decoder is not None for recipe in recipes.values()):
        _check_masks(table)
    for name, recipe in recipes.items():
        check_rows(table, folds, recipe, name)
        check_watched(table, folds, recipe)
        spec = _resolve(name, recipe, table, weights)
        starts = match_folds(table, folds, recipe.init_from, name) if recipe.init_from else {}
        _try_network(recipe, spec, len(learnt_classes(table, recipe)[0]), weights, starts)


def _check_masks(table: Table) -> None:
    """Refuse masks that do not fit their images, all at once and before any long work."""
    texts = [text for row in table.masks or () for text in row]
    sizes = np.repeat(measure_images(table.images), len(table.classes), axis=0)
    found = find_faults(texts, sizes)
    if found:
        pairs = [(key, name) for key in table.ids for name in table.classes]
        told = [f"{pairs[at][0]!r}, class {pairs[at][1]!r}: {'; '.join(found[at])}" for at in found]
        raise MaskError(
            f"{len(found)} mask(s) do not fit their images: {shorten(told, 20)}. Correct these "
            "rows of the table, or set them aside."
        )


def prepare_inputs(
    run: Run,
    table: Table,
    recipes: Mapping[str, Recipe],
    weights: Path | None,
    cache_bytes: int,
    reporter: Reporter,
) -> None:
    """Fix each member's start weights and input, once.

    Args:
        run: Where they are stored.
        table: With folds.
        recipes: Member name to recipe.
        weights: Local folder of pretrained weights.
        cache_bytes: Limit of the decode cache.
        reporter: Told of the progress.
    """
    for name in run.members:
        member, recipe = run.member(name), recipes[name]
        if member.prepared:
            # The run that it goes on from may have been moved since.
            stored = member.recipe()
            member.write_recipe(stored.model_copy(update={"init_from": recipe.init_from}))
            continue
        spec = _resolve(name, recipe, table, weights)
        if recipe.input.normalisation == "data":
            spec = _measure_input(name, table, spec, cache_bytes, reporter)
        member.write_recipe(recipe)
        member.write_input(spec)


def _resolve(name: str, recipe: Recipe, table: Table, weights: Path | None) -> InputSpec:
    size = find_shared_size(table.images) if isinstance(recipe.input.size, str) else None
    spec = resolve_input(recipe, weights, image_size=size)
    if recipe.init_from is None:
        return spec
    before = open_start(recipe.init_from, name)[1].input_spec()
    if before.channels != spec.channels:
        raise RecipeError(
            f"input.channels is {spec.channels}, but {recipe.init_from} was trained with "
            f"{before.channels}; expected the same."
        )
    return replace(spec, mean=before.mean, std=before.std)


def _measure_input(
    name: str, table: Table, spec: InputSpec, cache_bytes: int, reporter: Reporter
) -> InputSpec:
    """Take mean and deviation from the images that some fold trains on."""
    folds = np.zeros(len(table), np.int16) if table.folds is None else table.folds
    held = {int(fold) for fold in folds if fold >= 0}
    # A single fold is held out for good; of several, each is trained on by the others.
    never = {HOLDOUT} | (held if len(held) == 1 else set())
    rows = np.flatnonzero(~np.isin(folds, list(never)))
    pixels = _open(table, spec, cache_bytes, reporter)
    mean, std = measure_pixels(pixels, rows)
    shown = ", ".join(f"{m:.3f} +- {s:.3f}" for m, s in zip(mean, std, strict=True))
    reporter.note(f"{name}: normalised by {len(rows):,} images of the table: {shown}")
    return replace(spec, mean=mean, std=std)


def _try_network(
    recipe: Recipe,
    spec: InputSpec,
    classes: int,
    weights: Path | None,
    starts: Mapping[int, Fold],
) -> None:
    check_views(recipe)
    check_draws(recipe.tta, spec)
    training_steps(recipe.augment, spec)
    network = create_network(recipe, spec, classes, weights=weights, load=recipe.init_from is None)
    for files in starts.values():
        try:
            network.load_state_dict(load_file(files.weights))
        except RuntimeError as error:
            said = " ".join(str(error).split())[:200]
            raise RecipeError(
                f"init_from: {files.weights} does not hold this network ({said}). Give the recipe "
                "the network, head and input of the run it goes on from."
            ) from None
    for number, sized in stage_specs(recipe, spec).items():
        _try_size(network, sized, f"stages.{number}.size")
    if recipe.decoder is not None and spec.crop and recipe.masks.predict == "whole":
        _try_size(network, replace(spec, crop=None), "with masks.predict 'whole' the input")
    if recipe.decoder is not None and recipe.batch_size == 1:
        _try_single(network, spec)
    for stage in recipe.stages:
        if isinstance(stage, FullStage):
            freeze_layers(network, stage.freeze)
            build_optimizer(recipe.optimizer, network, lr=1.0, layer_decay=stage.layer_decay)


@torch.inference_mode()
def _try_size(network: Net, spec: InputSpec, what: str) -> None:
    """Show the network one blank image of another size."""
    shape = (1, spec.network_height, spec.network_width, spec.channels)
    try:
        network.eval()(torch.zeros(shape, dtype=torch.uint8))
    except (AssertionError, RuntimeError) as error:
        raise RecipeError(
            f"{what} is {spec.height} x {spec.width}, which this network does not take beside its "
            f"own size ({str(error).partition(chr(10))[0]}). Leave that out, or take a network "
            "without position embeddings."
        ) from None


def _try_single(network: Net, spec: InputSpec) -> None:
    """Train on one blank image for a moment: some layers need more than one value."""
    shape = (1, spec.network_height, spec.network_width, spec.channels)
    try:
        network.train()(torch.zeros(shape, dtype=torch.uint8))
    except ValueError as error:
        raise RecipeError(
            f"batch_size is 1, and BatchNorm has a single value to work on ({error}). Take a "
            "larger batch_size or input.size, or another decoder than DeepLabV3Plus."
        ) from None


def choose_engines(run: Run, device: str, reporter: Reporter) -> None:
    """Let the probe fill each member's engine, once.

    Args:
        run: Where it is stored.
        device: torch device.
        reporter: Told of the choice.
    """
    jobs = len(run.members) * len(run.folds)
    for place, name in enumerate(run.members):
        member = run.member(name)
        recipe = member.recipe()
        if recipe.start.file:
            reporter.note(f"{name}: starts from {recipe.start.file}")
        if "auto" not in recipe.engine.model_dump().values():
            _own_threads(recipe.engine, place, run)
            continue
        engine, timings = choose_engine(
            recipe, member.input_spec(), device=device, jobs=jobs, cores=count_cores()
        )
        engine = engine.model_copy(update={"threads": _own_threads(engine, place, run)})
        member.write_recipe(recipe.model_copy(update={"engine": engine}))
        append_event(run.log, "probe", member=name, timings=[asdict(t) for t in timings])
        layout = ", channels-last" if engine.channels_last else ""
        reporter.note(f"{name}: {engine.precision}{layout}{_describe_timings(timings)}")


def _own_threads(engine: Engine, place: int, run: Run) -> tuple[int, ...]:
    """Of the threads of all jobs, those of one member; a recipe may name its own."""
    folds = len(run.folds)
    threads = engine.threads if engine.threads != "auto" else ()
    own = threads if len(threads) == folds else threads[place * folds :][:folds]
    if len(own) != folds:
        raise RecipeError(
            f"engine.threads has {len(threads)} entries; expected one for each of {folds} folds."
        )
    return own


def _describe_timings(timings: Sequence[Timing]) -> str:
    tried = [
        f"{t.precision}{' channels-last' if t.channels_last else ''} {t.images_per_s:.0f}"
        for t in timings
    ]
    return f" (probed, images/s: {', '.join(tried)})" if tried else ""


def decode_images(run: Run, table: Table, cache_bytes: int, reporter: Reporter) -> None:
    """Decode every image once for each input size that the members use.

    Args:
        run: Its members' inputs.
        table: Whose images.
        cache_bytes: Limit of the decode cache.
        reporter: Told of the progress.
    """
    for spec in {spec.digest(): spec for spec in _list_specs(run)}.values():
        _open(table, spec, cache_bytes, reporter)


def _list_specs(run: Run) -> list[InputSpec]:
    """How images are prepared for each member, and for stages with a size of their own."""
    specs: list[InputSpec] = []
    for name in run.members:
        member = run.member(name)
        spec = member.input_spec()
        specs += [spec, *stage_specs(member.recipe(), spec).values()]
    return specs


def _open(table: Table, spec: InputSpec, cache_bytes: int, reporter: Reporter) -> Pixels:
    reporter.begin(f"decode to {spec.height}x{spec.width}", len(table))
    pixels = open_pixels(table.images, spec, limit_bytes=cache_bytes, progress=reporter.advance)
    reporter.end("cached" if pixels.cache is not None else "no room for a cache")
    return pixels


def prepare_frames(run: Run, table: Table, reporter: Reporter) -> None:
    """Bring the masks into the frame of the prepared images, once for all folds and epochs.

    Args:
        run: Where they are stored.
        table: With masks.
        reporter: Told of masks that are too thin to be seen there.

    Raises:
        MaskError: masks do not fit their images; all of them are named.
    """
    if not run.segments or table.masks is None:
        return
    specs = {spec.digest(): spec for spec in _list_specs(run)}
    todo = [spec for spec in specs.values() if not run.frames(spec).is_file()]
    sizes = measure_images(table.images) if todo else np.zeros((0, 2), np.int64)
    for spec in todo:
        frames = frame_masks(table.masks, sizes, spec, ids=table.ids, classes=table.classes)
        write_frames(run.frames(spec), frames)
        lost = count_lost(table.masks, frames)
        if lost:
            reporter.note(
                f"{lost} mask(s) have no pixel left at {spec.height} x {spec.width} and are learnt "
                "as empty there; scores are taken at the size of the images or of masks.size"
            )


def prepare_features(
    run: Run, table: Table, weights: Path | None, device: str, cache_bytes: int, reporter: Reporter
) -> None:
    """Compute the frozen backbone's features once for all folds and epochs.

    Args:
        run: Where they are stored.
        table: Whose images.
        weights: Local folder of pretrained weights.
        device: torch device.
        cache_bytes: Limit of the decode cache.
        reporter: Told of the progress, and of what it saves.
    """
    for name in run.members:
        member = run.member(name)
        recipe = member.recipe()
        if member.features.is_file() or not needs_features(recipe):
            continue
        spec = member.input_spec()
        network = build_network(recipe, spec, len(table.classes), weights=weights)
        pixels = read_pixels(table.images, spec, limit_bytes=cache_bytes)
        reporter.begin(f"{name}: features", len(table))
        begin = time.perf_counter()
        rows, views = save_features(
            network, pixels, table.ids, recipe, member.features, device=device, reporter=reporter
        )
        seconds = time.perf_counter() - begin
        _save_first_batch(member, pixels, table, recipe)
        append_event(run.log, "features", member=name, seconds=round(seconds, 2))
        rate = rows * views / seconds
        reporter.end(f"{views} views, {rate:.0f} images/s, shared by all folds")
        saved = _count_passes(recipe, table, len(run.folds)) / rate - seconds
        if saved > 0:
            reporter.note(
                f"{name}: sending the images through the frozen network in every epoch of every "
                f"fold would take about {saved:,.0f} s more"
            )


def _save_first_batch(member: Member, pixels: Pixels, table: Table, recipe: Recipe) -> None:
    """Show the images of the first batch as the frozen network sees them."""
    rows = order_batches(np.arange(len(table)), seed=recipe.seed, epoch=0, size=16)[0]
    images = np.stack([pixels[row] for row in rows])
    if count_draws(recipe):
        steps = training_steps(recipe.augment, pixels.spec)
        ids = [table.ids[row] for row in rows]
        images = next(draw_images(images, ids, steps, recipe.seed, draws=1))
    captions = [caption(table.targets[row], table.classes) for row in rows]
    save_batch(member.first_batch, images, captions)


def _count_passes(recipe: Recipe, table: Table, folds: int) -> int:
    """Images that the head stage would send through the network without shared features."""
    stage = recipe.stages[0]
    epochs = stage.epochs or 0 if isinstance(stage, HeadStage) else 0
    return epochs * len(table) * max(1, folds - 1)
