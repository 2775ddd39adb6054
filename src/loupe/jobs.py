"""One job of a training: one member, held out on one fold.

A job is plain values; whatever else it needs it reads from the run folder, and
what is done is not done again. It must not know of other jobs.
"""

from __future__ import annotations

import csv
import io
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from loupe.build import Classifier, build_network
from loupe.caching import Pixels, read_pixels
from loupe.data import Rows, Samples
from loupe.errors import InputError
from loupe.executors import count_cores
from loupe.files import replacing, write_json, write_text
from loupe.fitting import Epoch, Progress, Task, fit
from loupe.folds import inner_split
from loupe.inference import score_features, score_rows
from loupe.predictions import Predictions, write_predictions
from loupe.recipe import HeadStage, Recipe
from loupe.runs import Fold, Run, append_event, open_run
from loupe.table import HOLDOUT, Float32, Int16, Table
from loupe.tta import ViewName

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
        return
    if job.device == "cpu":
        torch.set_num_threads(job.threads)
    started = time.perf_counter()
    task = _make_task(run, job)
    progress = Progress()
    network = _resume(run, job, task, progress)

    def on_epoch(epoch: Epoch, current: Classifier, now: Progress) -> None:
        # The history comes first: lines past the state are cut when the epoch is repeated.
        _append_history(files, epoch, now.total_epochs)
        _save_state(files, current, now)
        append_event(
            run.log, "epoch", member=job.member, fold=job.fold, **_without_none(asdict(epoch))
        )

    network = fit(network, task, progress, on_epoch)
    held = _rows_of(run.table(), job.fold)
    probs = _predict_held_out(network, task, held, run, job)
    _save_fold(run, job, network, held, probs)
    seconds = round(time.perf_counter() - started, 2)
    write_json(files.done_mark, {"seconds": seconds})
    files.state.unlink(missing_ok=True)
    append_event(run.log, "fold", member=job.member, fold=job.fold, seconds=seconds)


def feature_views(recipe: Recipe) -> tuple[ViewName, ...]:
    """Return the views a head stage fits, then those only prediction needs."""
    stage = recipe.stages[0]
    fitted = stage.views if isinstance(stage, HeadStage) else ()
    return tuple(dict.fromkeys(fitted + (recipe.tta if head_only(recipe) else ())))


def head_only(recipe: Recipe) -> bool:
    """Return True if no stage trains the backbone."""
    return all(isinstance(stage, HeadStage) for stage in recipe.stages)


def _make_task(run: Run, job: Job) -> Task:
    table = run.table()
    member = run.member(job.member)
    recipe = member.recipe()
    pixels = read_pixels(table.images, member.input_spec(), limit_bytes=job.cache_bytes)
    rows, watched, inner = _training_rows(table, recipe, job.fold)
    return Task(
        recipe=recipe,
        samples=_samples(table, pixels, recipe, rows),
        rows=rows,
        watched=watched,
        inner=inner,
        exclusive=table.exclusive,
        features=_load_features(run, job, recipe),
        device=job.device,
        loaders=1 if job.device == "cpu" else min(8, count_cores()),
    )


def _samples(table: Table, pixels: Pixels, recipe: Recipe, rows: Rows) -> Samples:
    # Mean 1 over the rows trained on, so that their unit does not act as a rate.
    weights = None if table.weights is None else table.weights / table.weights[rows].mean()
    return Samples(
        pixels=pixels,
        ids=table.ids,
        targets=table.targets.astype(np.float32),
        weights=weights,
        steps=recipe.augment,
        seed=recipe.seed,
    )


def _training_rows(table: Table, recipe: Recipe, fold: int) -> tuple[Rows, Rows, Rows]:
    """Rows to train on, rows to watch, and the part of the first that judges l2."""
    folds = _folds(table)
    rows = np.flatnonzero((folds != fold) & (folds != HOLDOUT))
    watched = np.zeros(0, np.intp)
    if recipe.early_stop is not None:
        rows, watched = _split_inner(table, rows, recipe.early_stop.share, recipe.seed)
    inner = np.zeros(0, np.intp)
    if any(isinstance(stage, HeadStage) and stage.l2 == "auto" for stage in recipe.stages):
        _, inner = _split_inner(table, rows, INNER_SHARE, recipe.seed + 1)
    return rows, watched, inner


def _split_inner(table: Table, rows: Rows, share: float, seed: int) -> tuple[Rows, Rows]:
    return inner_split(rows, table.targets, table.groups, ids=table.ids, share=share, seed=seed)


def _folds(table: Table) -> Int16:
    if table.folds is None:
        raise InputError("the table has no folds.")
    return table.folds


def _rows_of(table: Table, fold: int) -> Rows:
    return np.flatnonzero(_folds(table) == fold)


def _load_features(run: Run, job: Job, recipe: Recipe) -> torch.Tensor | None:
    stage = recipe.stages[0]
    if not isinstance(stage, HeadStage):
        return None
    features = np.load(run.member(job.member).features, mmap_mode="r")
    return torch.from_numpy(np.array(features[:, : len(stage.views)])).to(job.device)


def _resume(run: Run, job: Job, task: Task, progress: Progress) -> Classifier:
    """Build the network at its start, or where an earlier try stopped."""
    member = run.member(job.member)
    files = member.fold(job.fold)
    classes = task.samples.targets.shape[1]
    started = files.state.is_file()
    network = build_network(
        task.recipe,
        member.input_spec(),
        classes,
        weights=None if job.weights is None else Path(job.weights),
        load=not started,
    )
    if started:
        state = torch.load(files.state, map_location=job.device, weights_only=True)
        for name, value in state["progress"].items():
            setattr(progress, name, value)
        network.load_state_dict(state["network"])
    if task.recipe.engine.channels_last is True:
        network = network.to(memory_format=torch.channels_last)
    return network


def _save_state(files: Fold, network: Classifier, progress: Progress) -> None:
    # One file, so that weights and counters can never be of two epochs.
    counters = {name: getattr(progress, name) for name in Progress.__slots__}
    state = {"network": network.state_dict(), "progress": counters}
    with replacing(files.state) as temporary:
        torch.save(state, temporary)


def _save_weights(files: Fold, network: Classifier) -> None:
    tensors = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    with replacing(files.weights) as temporary:
        save_file(tensors, temporary)


def _append_history(files: Fold, epoch: Epoch, number: int) -> None:
    """Write the line of one epoch, the `number`-th of all stages, from 1."""
    row = {k: v for k, v in asdict(epoch).items() if k != "notes"}
    lines = io.StringIO()
    writer = csv.DictWriter(lines, list(row), lineterminator="\n")
    writer.writeheader()
    if files.history.is_file():
        written = files.history.read_text(encoding="utf-8").splitlines(keepends=True)
        lines.writelines(written[1:number])
    writer.writerow(row)
    write_text(files.history, lines.getvalue())


def _predict_held_out(network: Classifier, task: Task, held: Rows, run: Run, job: Job) -> Float32:
    recipe = task.recipe
    if not head_only(recipe):
        return score_rows(
            network, task.samples.pixels, held, recipe, exclusive=task.exclusive, device=job.device
        )
    views = feature_views(recipe)
    places = [views.index(view) for view in recipe.tta]
    features = np.load(run.member(job.member).features, mmap_mode="r")[held][:, places]
    return score_features(
        network, torch.from_numpy(features).to(job.device), exclusive=task.exclusive
    )


def _save_fold(
    run: Run,
    job: Job,
    network: Classifier,
    held: Rows,
    probs: Float32,
) -> None:
    table = run.table()
    files = run.member(job.member).fold(job.fold)
    _save_weights(files, network)
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


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
