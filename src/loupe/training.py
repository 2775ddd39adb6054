"""The verb `train`: from a table to a scored run, in one call.

Members by folds become jobs; this module prepares what they share (folds,
recipe, decoded pixels, frozen features, the probe's choice) and runs them. It
must not loop over batches.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from loupe.build import build_network, find_start, knows_network, resolve_input
from loupe.caching import DEFAULT_LIMIT_BYTES, open_pixels, read_pixels
from loupe.defaults import choose_recipe
from loupe.errors import RecipeError, TableError
from loupe.executors import Executor, count_cores, map_jobs
from loupe.files import replacing
from loupe.following import following
from loupe.inference import choose_device, compute_features
from loupe.jobs import Job, feature_views, head_only, run_job
from loupe.layouts import read_table
from loupe.probing import Timing, choose_engine
from loupe.progress import Reporter, Silent
from loupe.recipe import Engine, FullStage, HeadStage, Recipe, read_recipe
from loupe.runs import Run, append_event, create_run, digest_sizes
from loupe.scoring import finish_run
from loupe.splitting import check_folds, split
from loupe.table import Table
from loupe.weights import weights_folder


def train(
    table: Table | str | Path,
    recipes: Mapping[str, Recipe] | Sequence[str | Path] = (),
    out: str | Path | None = None,
    *,
    name: str | None = None,
    images: str | Path | None = None,
    overrides: Sequence[str] = (),
    folds: int = 5,
    group: str = "auto",
    allow_leak: bool = False,
    weights: str | Path | None = None,
    device: str = "auto",
    executor: Executor = "processes",
    jobs: int | None = None,
    cache_bytes: int = DEFAULT_LIMIT_BYTES,
    reporter: Reporter | None = None,
) -> Run:
    """Train every recipe on every fold, and score the out-of-fold predictions.

    A table without folds is split first, copies together; folds that the table
    brings are checked for copies that cross them. Without a recipe one
    is chosen from the data. The same call continues an interrupted run; a
    finished run returns at once.

    Args:
        table: The labelled images, or a file or folder that `read_table` reads.
        recipes: Member name to recipe, or recipe files (the member is named by
            the file); empty chooses one.
        out: Run folder; None makes `runs/<table>-<digest>`.
        name: What the table is called in `out`; None takes the file's name.
        images: Folder of the images, if `table` is a file.
        overrides: `key=value` changes of every recipe.
        folds: Folds made if the table has none.
        group: How they are grouped; see `split`.
        allow_leak: Go on with `group="none"`, and stamp every score.
        weights: Local folder of pretrained weights; None takes `$LOUPE_WEIGHTS`.
        device: `auto` or a torch device.
        executor: How jobs are run; it does not change results.
        jobs: Jobs at a time; None for as many as there are cores (one on an
            accelerator).
        cache_bytes: Limit of the decode cache; 0 decodes whenever asked.
        reporter: Told of the progress.

    Returns:
        The finished run.

    Raises:
        TableError: no targets, or unreadable images (all are named).
        RecipeError: a recipe does not fit the table or the network.
        WeightsError: pretrained weights cannot be had.
        LeakageError: a group crosses folds, or `group="none"` without
            `allow_leak`.
        RunError: `out` holds something else.
    """
    reporter = reporter or Silent()
    if name is None:
        name = "table" if isinstance(table, Table) else Path(table).stem
    if not isinstance(table, Table):
        table = read_table(table, images=images)
        for note in table.notes:
            reporter.note(note)
    if not table.labelled:
        raise TableError("the table has no labels (or rows without one); training needs them all.")
    # What is quick to refuse comes before what takes long.
    device = choose_device(device)
    folder = weights_folder(weights)
    members = _read_members(recipes, overrides, table, folder, device, reporter)
    members = {
        key: recipe.model_copy(update={"start": find_start(recipe, folder)})
        for key, recipe in members.items()
    }
    _check_stages(members)
    table = _with_folds(table, folds, group, allow_leak, reporter)
    stamps = _stamps(table)
    run = create_run(
        Path(out) if out else _default_out(name, table, members), table, members, stamps
    )
    reporter.note(f"run folder: {run.folder}")
    if run.finished:
        reporter.note("this run is finished already; nothing to do.")
        return run
    started = time.perf_counter()
    append_event(run.log, "start", device=device, rows=len(table))
    _prepare_inputs(run, members, len(table.classes), folder)
    _decode(run, table, cache_bytes, reporter)
    _choose_engines(run, device, reporter)
    _prepare_features(run, table, folder, device, cache_bytes, reporter)
    _run_jobs(run, _list_jobs(run, folder, device, cache_bytes), executor, jobs, reporter)
    finish_run(run, table, time.perf_counter() - started)
    return run


def _with_folds(
    table: Table,
    folds: int,
    group: str,
    allow_leak: bool,  # noqa: FBT001 (passed on as it came)
    reporter: Reporter,
) -> Table:
    if table.folds is None:
        table = split(table, folds=folds, group=group, allow_leak=allow_leak, reporter=reporter)
    else:
        table = check_folds(table, group=group, allow_leak=allow_leak, reporter=reporter)
    if table.folds is None or not (table.folds >= 0).any():
        raise TableError("no row has a fold of 0 or more, so nothing would be held out.")
    return table


def _stamps(table: Table) -> tuple[str, ...]:
    return tuple(note for note in table.notes if note.startswith("LEAK"))


def _read_members(
    recipes: Mapping[str, Recipe] | Sequence[str | Path],
    overrides: Sequence[str],
    table: Table,
    weights: Path | None,
    device: str,
    reporter: Reporter,
) -> dict[str, Recipe]:
    if isinstance(recipes, Mapping):
        named = dict(recipes)
    else:
        named = {Path(file).stem: read_recipe(file) for file in recipes}
        if len(named) < len(recipes):
            raise RecipeError("two recipe files have one name; members are named by their files.")
    if not named:
        choice = choose_recipe(table, weights, device=device, knows=knows_network)
        for reason in choice.reasons:
            reporter.note(reason)
        named = {choice.member: choice.recipe}
    # A resolved recipe of another run may be given: where it started is looked up anew.
    return {
        key: read_recipe(recipe.model_dump(mode="json", exclude={"start"}), overrides)
        for key, recipe in named.items()
    }


def _default_out(name: str, table: Table, members: Mapping[str, Recipe]) -> Path:
    parts = [table.digest(), digest_sizes(table.images)]
    parts += [f"{key}{recipe.digest()}{recipe.start.digest}" for key, recipe in members.items()]
    return Path("runs") / f"{name}-{_short_digest(parts)}"


def _short_digest(parts: Sequence[str]) -> str:
    return hashlib.blake2b("/".join(parts).encode(), digest_size=4).hexdigest()


def _check_stages(recipes: Mapping[str, Recipe]) -> None:
    late = [n for n, r in recipes.items() if any(isinstance(s, HeadStage) for s in r.stages[1:])]
    if late:
        raise RecipeError(
            f"{', '.join(late)}: a stage with 'train: head' comes after another one. It is fitted "
            "on features of the start weights, so it must be the first."
        )


def _prepare_inputs(
    run: Run, recipes: Mapping[str, Recipe], classes: int, weights: Path | None
) -> None:
    """Fix each member's start weights and input, once; what is missing is said here."""
    for name in run.members:
        member = run.member(name)
        if member.prepared:
            continue
        recipe = recipes[name]
        spec = resolve_input(recipe, weights)
        # Built once here, so that missing weights stop us before any long work.
        build_network(recipe, spec, classes, weights=weights)
        member.write_recipe(recipe)
        member.write_input(spec)


def _choose_engines(run: Run, device: str, reporter: Reporter) -> None:
    """Let the probe fill each member's engine, once."""
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


def _decode(run: Run, table: Table, cache_bytes: int, reporter: Reporter) -> None:
    specs = {run.member(name).input_spec() for name in run.members}
    for spec in {spec.digest(): spec for spec in specs}.values():
        reporter.begin(f"decode to {spec.height}x{spec.width}", len(table))
        pixels = open_pixels(table.images, spec, limit_bytes=cache_bytes, progress=reporter.advance)
        reporter.end("cached" if pixels.cache is not None else "no room for a cache")


def _prepare_features(
    run: Run, table: Table, weights: Path | None, device: str, cache_bytes: int, reporter: Reporter
) -> None:
    """Compute the frozen backbone's features once for all folds."""
    for name in run.members:
        member = run.member(name)
        recipe = member.recipe()
        if member.features.is_file() or not isinstance(recipe.stages[0], HeadStage):
            continue
        spec = member.input_spec()
        network = build_network(recipe, spec, len(table.classes), weights=weights)
        pixels = read_pixels(table.images, spec, limit_bytes=cache_bytes)
        reporter.begin(f"{name}: features", len(table))
        begin = time.perf_counter()
        features = compute_features(
            network, pixels, recipe, views=feature_views(recipe), device=device, reporter=reporter
        )
        with replacing(member.features) as temporary, temporary.open("wb") as stream:
            np.save(stream, features)
        seconds = time.perf_counter() - begin
        rate = features.shape[0] * features.shape[1] / seconds
        append_event(run.log, "features", member=name, seconds=round(seconds, 2))
        reporter.end(f"{features.shape[1]} views, {rate:.0f} images/s, shared by all folds")


def _list_jobs(run: Run, weights: Path | None, device: str, cache_bytes: int) -> list[Job]:
    text = None if weights is None else str(weights)
    jobs = [
        Job(str(run.folder), name, fold, threads, device, text, cache_bytes)
        for name in run.members
        for fold, threads in zip(run.folds, _threads(run, name), strict=True)
        if not run.member(name).fold(fold).done
    ]
    # Jobs with one thread first: the wide ones at the end fill all cores.
    return sorted(jobs, key=lambda job: job.threads)


def _threads(run: Run, name: str) -> tuple[int, ...]:
    threads = run.member(name).recipe().engine.threads
    if threads == "auto":
        raise RecipeError(f"{name}: the engine was not resolved.")
    return threads


def _run_jobs(
    run: Run, todo: Sequence[Job], executor: Executor, jobs: int | None, reporter: Reporter
) -> None:
    on_cpu = bool(todo) and todo[0].device == "cpu"
    workers = jobs or (count_cores() if on_cpu else 1)
    quick = all(head_only(run.member(name).recipe()) for name in run.members)
    # Fitting heads takes seconds; starting processes would take longer.
    chosen: Executor = "serial" if quick and executor == "processes" else executor
    epochs = sum(_count_epochs(run.member(job.member).recipe()) for job in todo)
    threads_before = torch.get_num_threads()
    reporter.begin("train (epochs of all folds)", epochs)
    try:
        with following(run.log, "epoch", reporter.advance):
            for _ in map_jobs(run_job, todo, executor=chosen, workers=workers):
                pass
    finally:
        torch.set_num_threads(threads_before)
    reporter.end(f"{len(run.members)} member(s), {len(run.folds)} folds")


def _count_epochs(recipe: Recipe) -> int:
    return sum(stage.epochs if isinstance(stage, FullStage) else 1 for stage in recipe.stages)
