"""The verb `train`: from a table to a scored run, in one call.

Members by folds become jobs; this module settles table, folds and recipes, lets
`preparation` make what the jobs share, and runs them. It must not loop over batches.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from loupe.architectures import find_network
from loupe.augment import check_mask_dropout, drops_masks
from loupe.build import knows_network
from loupe.caching import DEFAULT_LIMIT_BYTES
from loupe.choices import Plateau
from loupe.contact import write_contact_sheet
from loupe.defaults import choose_recipe
from loupe.errors import LeakageError, LoupeError, RecipeError, TableError
from loupe.executors import Executor, count_cores, map_jobs
from loupe.features import count_draws, head_only
from loupe.following import following
from loupe.inference import choose_device
from loupe.jobs import Job, run_job
from loupe.layouts import read_table
from loupe.losses import build_loss, weigh_classes
from loupe.maskjobs import count_masks
from loupe.maskscoring import finish_masks, finish_masks_refit
from loupe.masktraining import check_mask_members, spread_members
from loupe.origins import parse_origin
from loupe.preparation import (
    check_networks,
    choose_engines,
    decode_images,
    prepare_features,
    prepare_frames,
    prepare_inputs,
)
from loupe.progress import Reporter, Silent
from loupe.recipe import Recipe, change_recipe, read_recipe
from loupe.records import append_event, digest_sizes
from loupe.refitting import (
    check_alone,
    check_kept,
    check_unwatched,
    join_rows,
    open_source,
    stamp_refit,
    take_recipes,
)
from loupe.runs import Run, create_run, list_folds, open_run
from loupe.scoring import finish_refit, finish_run
from loupe.settings import Checkpoint, Draws, EarlyStop, Start
from loupe.splitting import check_folds, split
from loupe.starts import digest_start
from loupe.table import Table
from loupe.teachers import TEACHER_STAMP, check_teachers
from loupe.tracking import check_trackers, track_finished, tracking
from loupe.watching import check_metric
from loupe.weights import weights_folder

_CHANGED = ("relabelled", "softened")
"""Actions after which a label is not as given."""


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
    refit: str | Path | None = None,
    weights: str | Path | None = None,
    device: str = "auto",
    executor: Executor = "processes",
    jobs: int | None = None,
    cache_bytes: int = DEFAULT_LIMIT_BYTES,
    track: Sequence[str] = (),
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
        refit: A finished cross-validated run. Its recipes are trained on all rows but
            its hold-out, for as many epochs as its folds took. Nothing is held out, so
            scores and rule are those of that run.
        weights: Local folder of pretrained weights; None takes `$LOUPE_WEIGHTS`.
        device: `auto` or a torch device.
        executor: How jobs are run; it does not change results.
        jobs: Jobs at a time; None for as many as there are cores (one on an
            accelerator).
        cache_bytes: Limit of the decode cache; 0 decodes whenever asked.
        track: Where else to show the training: `tensorboard` (in the run folder),
            `mlflow`. It changes no result, and a tracker that fails stops nothing.
        reporter: Told of the progress.

    Returns:
        The finished run.

    Raises:
        MissingExtraError: a tracker's library is not installed.
        TableError: no targets, or unreadable images (all are named).
        RecipeError: a recipe does not fit the table or the network.
        WeightsError: pretrained weights cannot be had.
        LeakageError: a group crosses folds, `group="none"`, or labels were made by
            networks that saw what a fold holds out, without `allow_leak`.
        RunError: `out` holds something else.
    """
    reporter, track = reporter or Silent(), check_trackers(track)
    if name is None:
        name = "table" if isinstance(table, Table) else Path(table).stem
    table = _read_labelled(table, images, reporter)
    # What is quick to refuse comes before what takes long.
    device = choose_device(device)
    folder = weights_folder(weights)
    source = None if refit is None else open_source(refit)
    if source is not None:
        check_alone(recipes)
        check_kept(source, overrides)
        recipes = take_recipes(source)
    members = spread_members(
        _read_members(recipes, overrides, table, folder, device, reporter), table
    )
    members = {key: _fill_start(key, recipe, folder, reporter) for key, recipe in members.items()}
    _check_members(members, table)
    if source is not None:
        check_unwatched(members)
        table = join_rows(table, source)
    else:
        table = _with_folds(table, folds, group, allow_leak, reporter)
    again = () if source is None else stamp_refit(source, overrides)
    stamps = tuple(dict.fromkeys((*_stamps(table, reporter), *_stamp_control(members), *again)))
    where = Path(out) if out else _default_out(name, table, members, source)
    refit_of = None if source is None else source.folder
    if not (where / "manifest.json").is_file():
        # A folder is made only for what can be trained.
        numbers = list_folds(table, refit=source is not None)
        check_networks(table, numbers, members, folder)
    run = create_run(where, table, members, stamps, refit_of=refit_of)
    reporter.note(f"run folder: {run.folder}")
    if run.finished:
        reporter.note("this run is finished already; nothing to do.")
        track_finished(run, track, reporter)
        _show_masks(run, device, reporter)
        return run
    started = time.perf_counter()
    append_event(run.log, "start", device=device, rows=len(table))
    prepare_inputs(run, table, members, folder, cache_bytes, reporter)
    decode_images(run, table, cache_bytes, reporter)
    prepare_frames(run, table, reporter)
    choose_engines(run, device, reporter)
    prepare_features(run, table, folder, device, cache_bytes, reporter)
    todo = _list_jobs(run, folder, device, cache_bytes)
    with tracking(run, track, reporter):
        _run_jobs(run, todo, executor, jobs, reporter)
        count_masks(
            run,
            device=device,
            executor=executor,
            jobs=jobs,
            cache_bytes=cache_bytes,
            reporter=reporter,
        )
        _finish(run, table, source, time.perf_counter() - started)
    _show_masks(run, device, reporter)
    return run


def _read_labelled(
    table: Table | str | Path, images: str | Path | None, reporter: Reporter
) -> Table:
    if not isinstance(table, Table):
        table = read_table(table, images=images)
        for note in table.notes:
            reporter.note(note)
    if not table.labelled:
        raise TableError("the table has no labels (or rows without one); training needs them all.")
    return table


def _show_masks(run: Run, device: str, reporter: Reporter) -> None:
    """Draw examples of held-out masks; they say nothing that is not in the counts."""
    if not run.segments or run.refit or run.contact_file.is_file():
        return
    try:
        write_contact_sheet(run, device=device)
    except (LoupeError, OSError) as error:
        # The run is finished and scored; a picture must not make it fail.
        reporter.note(f"no picture of masks: {error}")


def _finish(run: Run, table: Table, source: Run | None, seconds: float) -> None:
    if run.segments and source is None:
        finish_masks(run, table, seconds)
    elif run.segments and source is not None:
        finish_masks_refit(run, source, table, seconds)
    elif source is None:
        finish_run(run, table, seconds)
    else:
        finish_refit(run, table, source, seconds)


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
    return _check_teachers(table, allow_leak, reporter)


def _check_teachers(table: Table, allow_leak: bool, reporter: Reporter) -> Table:  # noqa: FBT001
    """Refuse, or stamp, labels of networks that saw what a fold holds out."""
    try:
        check_teachers(table)
    except LeakageError:
        if not allow_leak:
            raise
        reporter.note(TEACHER_STAMP)
        return replace(table, notes=(*table.notes, TEACHER_STAMP))
    return table


def _stamps(table: Table, reporter: Reporter) -> tuple[str, ...]:
    """Return what the table says of its scores, and tell which rows only they are for."""
    idle = 0 if table.weights is None else int((table.weights == 0).sum())
    if idle:
        reporter.note(
            f"{idle} row(s) have weight 0: not trained on, but held out, predicted and scored"
        )
    leaks = tuple(note for note in table.notes if note.startswith("LEAK"))
    origins = [parse_origin(text) for text in table.label_origins or ()]
    # A row may be dropped after its label was changed in a table before.
    changed = sum(o is not None and (o.action in _CHANGED or o.given != "") for o in origins)
    if not changed:
        return leaks
    said = (
        f"RELABELLED: {changed} label(s) are not as given; these scores are against the new ones "
        "(loupe compare BEFORE AFTER scores both against the given)"
    )
    return (*leaks, said)


def _stamp_control(members: Mapping[str, Recipe]) -> tuple[str, ...]:
    """Say that scores flatter where the held-out fold chose weights, here or at the start."""
    peeked = [
        name
        for name, recipe in members.items()
        if recipe.control_on == "heldout" and recipe.watched_metrics
    ]
    starts = dict.fromkeys(recipe.init_from for recipe in members.values() if recipe.init_from)
    inherited = [stamp for start in starts for stamp in open_run(start).manifest()["stamps"]]
    if not peeked:
        return tuple(dict.fromkeys(inherited))
    said = (
        f"OPTIMISTIC: the held-out fold chose the epoch or the rate of {', '.join(peeked)} "
        "(control_on: heldout); expect less on new images"
    )
    return (*dict.fromkeys(inherited), said)


def _fill_start(name: str, recipe: Recipe, weights: Path | None, reporter: Reporter) -> Recipe:
    """Look up once what a recipe starts from."""
    start, asked = find_network(recipe, weights), recipe.network.name
    if start.architecture.partition(".")[0] != asked.partition(".")[0]:
        own = start.architecture.startswith("smp-")
        whose = "segmentation-models-pytorch's own" if own else "timm's"
        reporter.note(f"{name}: {asked} is {whose} {start.architecture.removeprefix('smp-')}")
    if recipe.init_from is not None:
        digest = digest_start(recipe.init_from, name)
        start = start.model_copy(update={"file": "", "digest": digest})
    return recipe.model_copy(update={"start": start})


def _check_members(members: Mapping[str, Recipe], table: Table) -> None:
    """Refuse what does not fit the table: metrics, losses, steps."""
    if check_mask_members(members, table):
        return
    for recipe in members.values():
        for where, metric in _name_metrics(recipe).items():
            check_metric(metric, table.classes, exclusive=table.exclusive, where=where)
        stages = [stage.loss for stage in recipe.stages if stage.loss is not None]
        targets = torch.from_numpy(table.targets)
        for loss in (recipe.loss, *stages):
            weights = weigh_classes(loss, targets, table.classes, exclusive=table.exclusive)
            build_loss(loss, exclusive=table.exclusive, class_weights=weights)
        if drops_masks(recipe.augment):
            check_mask_dropout(table)
        drawn = recipe.tta.augment if isinstance(recipe.tta, Draws) else ()
        if drops_masks((*drawn, *(recipe.augment if count_draws(recipe) else ()))):
            raise RecipeError(
                "MaskDropout changes labels, so it belongs to stages with 'train: all'; it can "
                "neither make the views of a head stage nor those of prediction (tta)."
            )


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
        if table.masks is not None:
            reporter.note(
                "the table has masks: this learns which classes are there; a recipe with a "
                "'decoder' draws them (recipes/segment.yaml)"
            )
        named = {choice.member: choice.recipe}
    # A resolved recipe of another run may be given: where it started is looked up anew.
    return {
        key: change_recipe(recipe.model_copy(update={"start": Start()}), overrides)
        for key, recipe in named.items()
    }


def _name_metrics(recipe: Recipe) -> dict[str, str]:
    """Return each watched metric by the place in the recipe that names it."""
    stages = {f"stages.{n}.schedule": stage.schedule for n, stage in enumerate(recipe.stages)}
    places = {"early_stop": recipe.early_stop, "checkpoint": recipe.checkpoint}
    parts = places | stages | {"schedule": recipe.schedule}
    kinds = (EarlyStop, Checkpoint, Plateau)
    named = {f"{p}.metric": part.metric for p, part in parts.items() if isinstance(part, kinds)}
    return {place: metric for place, metric in named.items() if metric in recipe.watched_metrics}


def _default_out(
    name: str, table: Table, members: Mapping[str, Recipe], source: Run | None
) -> Path:
    parts = [table.digest(), digest_sizes(table.images)]
    parts += [f"{key}{recipe.digest()}{recipe.start.digest}" for key, recipe in members.items()]
    kind = "" if source is None else "refit-"
    return Path("runs") / f"{name}-{kind}{_short_digest(parts)}"


def _short_digest(parts: Sequence[str]) -> str:
    return hashlib.blake2b("/".join(parts).encode(), digest_size=4).hexdigest()


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
    if len(threads) != len(run.folds):
        raise RecipeError(
            f"{name}: engine.threads has {len(threads)} entries and the run {len(run.folds)} "
            "fold(s); leave engine out of the recipe, or give one for each fold."
        )
    return threads


def _run_jobs(
    run: Run, todo: Sequence[Job], executor: Executor, jobs: int | None, reporter: Reporter
) -> None:
    on_cpu = bool(todo) and todo[0].device == "cpu"
    workers = jobs or (count_cores() if on_cpu else 1)
    recipes = [run.member(name).recipe() for name in run.members]
    quick = all(head_only(recipe) for recipe in recipes)
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
    # A head that is solved counts as one.
    return sum(stage.stop_after or stage.epochs or 1 for stage in recipe.stages)
