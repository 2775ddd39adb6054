"""One job of a training: one member, held out on one fold.

A job is plain values; whatever else it needs it reads from the run folder, and
what is done is not done again. It must not know of other jobs.
"""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from loupe.aims import aim_at_labels, aim_at_masks
from loupe.architectures import create_network
from loupe.caching import Pixels, read_pixels
from loupe.data import Batch, Framed, Rows, Samples
from loupe.dices import Pairs
from loupe.errors import InputError, RecipeError, shorten
from loupe.executors import count_cores
from loupe.features import Features, head_only, load_features, needs_features
from loupe.files import replacing, write_json, write_text
from loupe.fitting import fit
from loupe.folds import inner_split
from loupe.images import InputSpec
from loupe.inference import arrange_memory, score_features, score_rows
from loupe.maskevaluation import name_metrics
from loupe.maskframes import read_frames
from loupe.networks import Classifier, Net
from loupe.pictures import caption, save_batch
from loupe.predictions import Predictions, write_predictions
from loupe.recipe import Recipe
from loupe.records import append_event
from loupe.runs import REFIT, Fold, Member, Run, open_run
from loupe.settings import FullStage, HeadStage
from loupe.starts import match_folds
from loupe.table import HOLDOUT, Float32, Int16, Table
from loupe.tasks import Aim, Epoch, Progress, Task
from loupe.views import training_steps
from loupe.watching import measure

SAVE_EVERY_S = 10.0
"""Epochs that end sooner after the last saved state are repeated by a continued run."""
INNER_SHARE = 0.2
"""Share of a fold's training rows on which `l2: auto` is judged."""


@dataclass(frozen=True, slots=True)
class Job:
    """One member held out on one fold."""

    run: str
    member: str
    fold: int
    threads: int
    device: str
    weights: str | None
    cache_bytes: int


def run_job(job: Job) -> None:
    """Train and predict one fold; continue where an earlier try stopped.

    Args:
        job: Which fold of which member, and how many threads it may use.
    """
    run = open_run(job.run)
    files = run.member(job.member).fold(job.fold)
    if files.done:
        files.state.unlink(missing_ok=True)
        return
    if job.device == "cpu":
        torch.set_num_threads(job.threads)
    started = time.perf_counter()
    task = _make_task(run, job)
    progress = Progress()
    network = _resume(run, job, task, progress)

    columns = _history_columns(task)
    saved = time.monotonic()

    def on_epoch(epoch: Epoch, current: Net, now: Progress) -> None:
        nonlocal saved
        # The history comes first: lines past the state are cut when the epoch is repeated.
        _append_history(files, epoch, now.total_epochs, columns)
        if time.monotonic() - saved >= SAVE_EVERY_S:
            _save_state(files, current, now)
            saved = time.monotonic()
        _log_epoch(run, job, task, epoch)

    def on_first_batch(batch: Batch) -> None:
        _save_picture(files, batch, task.classes)

    network = fit(network, task, progress, on_epoch, on_first_batch)
    _save_weights(files, network)
    if job.fold != REFIT and not run.segments:
        held = _rows_of(run.table(), job.fold)
        _save_predictions(
            run, job, held, _predict_held_out(_as_classifier(network), task, held, job)
        )
    seconds = round(time.perf_counter() - started, 2)
    write_json(files.done_mark, {"seconds": seconds})
    files.state.unlink(missing_ok=True)
    append_event(run.log, "fold", member=job.member, fold=job.fold, seconds=seconds)


def _make_task(run: Run, job: Job) -> Task:
    table = run.table()
    member = run.member(job.member)
    recipe, spec = member.recipe(), member.input_spec()
    rows, watched, inner = _training_rows(table, recipe, job.fold)

    def sample(sized: InputSpec) -> Samples:
        pixels = read_pixels(table.images, sized, limit_bytes=job.cache_bytes)
        return _samples(run, table, pixels, recipe, rows)

    classes, _ = learnt_classes(table, recipe)
    return Task(
        recipe=recipe,
        samples=sample(spec),
        rows=rows,
        watched=watched,
        inner=inner,
        classes=classes,
        exclusive=table.exclusive,
        features=_load_features(member, job, recipe),
        sizes={number: sample(sized) for number, sized in stage_specs(recipe, spec).items()},
        aim=_choose_aim(table, recipe, rows, job.device),
        device=job.device,
        loaders=1 if job.device == "cpu" else min(8, count_cores()),
    )


def _choose_aim(table: Table, recipe: Recipe, rows: Rows, device: str) -> Aim:
    if recipe.decoder is not None:
        return aim_at_masks(recipe, learnt_classes(table, recipe)[0], device=device)
    targets = table.targets[rows].astype(np.float32)
    return aim_at_labels(recipe, targets, table.classes, exclusive=table.exclusive, device=device)


def learnt_classes(table: Table, recipe: Recipe) -> tuple[tuple[str, ...], list[int]]:
    """Return the classes that a member learns, and their columns in the table.

    Args:
        table: Whose classes.
        recipe: A segmenter may learn some of them.
    """
    chosen = recipe.masks.classes if recipe.decoder is not None else ()
    columns = [k for k, name in enumerate(table.classes) if name in chosen or not chosen]
    return tuple(table.classes[k] for k in columns), columns


def stage_specs(recipe: Recipe, spec: InputSpec) -> dict[int, InputSpec]:
    """Say how images are prepared for the stages that have a size of their own.

    Args:
        recipe: Its stages.
        spec: Of the other stages.
    """
    return {
        number: replace(spec, height=stage.size[0], width=stage.size[1])
        for number, stage in enumerate(recipe.stages)
        if isinstance(stage, FullStage) and stage.size is not None
    }


def _samples(run: Run, table: Table, pixels: Pixels, recipe: Recipe, rows: Rows) -> Samples:
    _, columns = learnt_classes(table, recipe)
    framed = None
    if recipe.decoder is not None:
        frames = read_frames(run.frames(pixels.spec))
        framed = Framed(
            texts=tuple(tuple(texts[k] for k in columns) for texts in frames),
            crop=pixels.spec.crop,
            nonempty=recipe.masks.nonempty_crops,
        )
    return Samples(
        pixels=pixels,
        ids=table.ids,
        targets=table.targets[:, columns].astype(np.float32),
        weights=_weigh_rows(table, rows),
        steps=recipe.augment if framed else training_steps(recipe.augment, pixels.spec),
        seed=recipe.seed,
        masks=table.masks,
        framed=framed,
    )


def _weigh_rows(table: Table, rows: Rows) -> Float32 | None:
    """Return the weights of all rows; None if those trained on weigh alike."""
    if table.weights is None or not np.ptp(table.weights[rows]):
        return None
    # Mean 1 over the rows trained on, so that their unit does not act as a rate.
    return np.asarray(table.weights / table.weights[rows].mean(), np.float32)


def _training_rows(table: Table, recipe: Recipe, fold: int) -> tuple[Rows, Rows, Rows]:
    """Rows to train on, rows to watch, and the part of the first that judges l2."""
    rows = _rows_without(table, recipe, fold)
    watched = np.zeros(0, np.intp)
    if recipe.watched_metrics and recipe.control_on == "heldout" and fold != REFIT:
        watched = _rows_of(table, fold)
    elif recipe.watched_metrics:
        rows, watched = _split_inner(table, rows, recipe.control_share, recipe.seed)
    inner = np.zeros(0, np.intp)
    if any(isinstance(stage, HeadStage) and stage.l2 == "auto" for stage in recipe.stages):
        _, inner = _split_inner(table, rows, INNER_SHARE, recipe.seed + 1)
    return rows, watched, inner


def _rows_without(table: Table, recipe: Recipe, fold: int) -> Rows:
    """Rows that a member may learn from where a fold is held out."""
    folds = _folds(table)
    held = np.zeros(len(table), np.bool_) if fold == REFIT else folds == fold
    # Rows of weight 0 teach nothing, nor do they judge a penalty or an epoch inside a fold.
    idle = np.zeros(len(table), np.bool_) if table.weights is None else table.weights == 0
    rows = np.flatnonzero(~held & ~idle & (folds != HOLDOUT))
    if recipe.decoder is not None and recipe.masks.rows == "nonempty":
        rows = rows[(table.targets[rows][:, learnt_classes(table, recipe)[1]] > 0).any(axis=1)]
    return rows


def check_rows(table: Table, folds: Sequence[int], recipe: Recipe, name: str) -> None:
    """Refuse a member that has nothing to learn from in some fold.

    Args:
        table: With folds.
        folds: Numbers of the folds.
        recipe: Of the member.
        name: Of the member.

    Raises:
        RecipeError: a fold leaves no training row; all such folds are named.
    """
    bare = [str(fold) for fold in folds if not len(_rows_without(table, recipe, fold))]
    if bare and recipe.decoder is None:
        raise RecipeError(
            f"{name}: without fold {', '.join(bare)} no row is left to train on: all others have "
            "weight 0 or are kept apart. Give some a weight above 0, or make other folds."
        )
    if bare:
        classes, _ = learnt_classes(table, recipe)
        raise RecipeError(
            f"{name}: without fold {', '.join(bare)} no row is left that shows {shorten(classes)}, "
            "so there is nothing to learn. Split the table into more folds, leave that class out "
            "(--set masks.classes=[...]), or learn from all rows (--set masks.rows=all)."
        )


def check_watched(table: Table, folds: Sequence[int], recipe: Recipe) -> None:
    """Refuse a watched metric that has no value on the rows that would be watched.

    Args:
        table: With folds.
        folds: Numbers of the folds.
        recipe: Of one member.

    Raises:
        RecipeError: a class that the metric needs is missing among them.
    """
    for fold in folds if recipe.watched_metrics else ():
        _, watched, _ = _training_rows(table, recipe, fold)
        # Of perfect predictions every metric has a value, unless a class is missing.
        values = _measure_perfect(table, recipe, watched)
        lost = [name for name in recipe.watched_metrics if math.isnan(values[name])]
        if lost:
            raise RecipeError(
                f"the {len(watched)} rows watched for fold {fold} lack a class that "
                f"{', '.join(lost)} needs; watch more rows (--set control_share=0.3) or another "
                "metric, such as loss."
            )


def _measure_perfect(table: Table, recipe: Recipe, rows: Rows) -> dict[str, float]:
    classes, columns = learnt_classes(table, recipe)
    targets = table.targets[rows][:, columns].astype(np.float32)
    if recipe.decoder is None:
        return measure(targets, targets, 0.0, classes=classes, exclusive=table.exclusive)
    areas = (targets > 0).astype(np.int64)
    return name_metrics(Pairs(truth=areas, predicted=areas, intersection=areas), classes, 0.0)


def _split_inner(table: Table, rows: Rows, share: float, seed: int) -> tuple[Rows, Rows]:
    return inner_split(rows, table.targets, table.groups, ids=table.ids, share=share, seed=seed)


def _folds(table: Table) -> Int16:
    if table.folds is None:
        raise InputError("the table has no folds.")
    return table.folds


def _rows_of(table: Table, fold: int) -> Rows:
    return np.flatnonzero(_folds(table) == fold)


def _load_features(member: Member, job: Job, recipe: Recipe) -> Features | None:
    if not needs_features(recipe):
        return None
    return load_features(member.features, recipe, job.device)


def _resume(run: Run, job: Job, task: Task, progress: Progress) -> Net:
    """Build the network at its start, or where an earlier try stopped."""
    member = run.member(job.member)
    files = member.fold(job.fold)
    recipe = task.recipe
    started = files.state.is_file()
    network = create_network(
        recipe,
        member.input_spec(),
        len(task.classes),
        weights=None if job.weights is None else Path(job.weights),
        load=not started and recipe.init_from is None,
    )
    if started:
        state = torch.load(files.state, map_location=job.device, weights_only=True)
        for name, value in state["progress"].items():
            setattr(progress, name, value)
        network.load_state_dict(state["network"])
    elif recipe.init_from is not None:
        before = match_folds(run.table(), (job.fold,), recipe.init_from, job.member)
        network.load_state_dict(load_file(before[job.fold].weights))
    return arrange_memory(network, recipe)


def _save_state(files: Fold, network: Net, progress: Progress) -> None:
    # One file, so that weights and counters can never be of two epochs.
    counters = {name: getattr(progress, name) for name in Progress.__slots__}
    state = {"network": network.state_dict(), "progress": counters}
    with replacing(files.state) as temporary:
        torch.save(state, temporary)


def _save_weights(files: Fold, network: Net) -> None:
    tensors = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    with replacing(files.weights) as temporary:
        save_file(tensors, temporary)


def _append_history(files: Fold, epoch: Epoch, number: int, columns: Sequence[str]) -> None:
    """Write the line of one epoch, the `number`-th of all stages, from 1."""
    row: dict[str, object] = {"stage": epoch.stage, "epoch": epoch.epoch}
    row |= {"lr": epoch.lr, "loss": epoch.loss}
    row |= {f"val/{name}": value for name, value in epoch.watched.items()}
    row |= {f"train/{name}": value for name, value in epoch.trained.items()}
    lines = io.StringIO()
    writer = csv.DictWriter(lines, columns, lineterminator="\n")
    writer.writeheader()
    if files.history.is_file():
        written = files.history.read_text(encoding="utf-8").splitlines(keepends=True)
        lines.writelines(written[1:number])
    writer.writerow(row)
    write_text(files.history, lines.getvalue())


def _history_columns(task: Task) -> tuple[str, ...]:
    """Name the columns of the history; they do not depend on what an epoch measures."""
    metrics = task.aim.metrics
    watched = metrics if len(task.watched) else ()
    trained = metrics if task.recipe.train_metrics else ()
    return (
        *("stage", "epoch", "lr", "loss"),
        *(f"val/{name}" for name in watched),
        *(f"train/{name}" for name in trained),
    )


def _save_picture(files: Fold, batch: Batch, classes: tuple[str, ...]) -> None:
    if files.first_batch.is_file():
        return
    targets = batch.targets.flatten(2).amax(2) if batch.targets.ndim > 2 else batch.targets
    captions = [caption(row, classes) for row in targets.float().numpy()]
    save_batch(files.first_batch, batch.inputs.numpy(), captions)


def _as_classifier(network: Net) -> Classifier:
    if not isinstance(network, Classifier):
        raise RecipeError("only classifiers have probabilities of rows.")
    return network


def _predict_held_out(network: Classifier, task: Task, held: Rows, job: Job) -> Float32:
    if task.features is not None and task.features.tta and head_only(task.recipe):
        kept = task.features.values[held][:, list(task.features.tta)]
        return score_features(network, kept, exclusive=task.exclusive)
    return score_rows(
        network,
        task.samples.pixels,
        held,
        task.recipe,
        ids=task.samples.ids,
        exclusive=task.exclusive,
        device=job.device,
    )


def _save_predictions(run: Run, job: Job, held: Rows, probs: Float32) -> None:
    table = run.table()
    files = run.member(job.member).fold(job.fold)
    sheet = Predictions(
        ids=tuple(table.ids[row] for row in held),
        classes=table.classes,
        probs=probs,
        exclusive=table.exclusive,
        held_out=np.ones(len(held), np.bool_),
        folds=np.full(len(held), job.fold, np.int16),
    )
    with replacing(files.predictions) as temporary:
        write_predictions(temporary, {job.member: sheet}, table.targets[held])


def _log_epoch(run: Run, job: Job, task: Task, epoch: Epoch) -> None:
    """Write the epoch into the run's log: what it took, and what controls it."""
    watched = task.recipe.watched_metrics
    values = {"loss": epoch.loss, "lr": epoch.lr, **epoch.notes}
    values |= {f"val/{name}": epoch.watched[name] for name in watched if name in epoch.watched}
    # JSON has no NaN: a metric without a value is left out.
    finite = {name: value for name, value in values.items() if math.isfinite(value)}
    append_event(
        run.log,
        "epoch",
        member=job.member,
        fold=job.fold,
        stage=epoch.stage,
        epoch=epoch.epoch,
        **finite,
    )
