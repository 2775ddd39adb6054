"""The verb `cascade`: classifiers close what they can, and only the rest is drawn.

Owns the order of the stages for each chunk of images, and what reaches which network. It must
not fit anything by itself (that is `variants`), or know how maps and probabilities are made.

Shapes: N images, n those of a chunk, C classes with masks, h and w height and width of a
prepared frame.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from loupe.caching import Chunk
from loupe.cascades import (
    Cascade,
    PresenceStage,
    StageName,
    StageRuns,
    choose_stages,
    open_runs,
    read_cascade,
    tell_idle,
)
from loupe.decoding import read_image, read_size
from loupe.dices import Pairs
from loupe.ensembles import find_known, load_ensemble, score_chunk
from loupe.errors import AlignmentError, ImageError, InputError, LeakageError, RunError
from loupe.executors import count_cores
from loupe.gatefits import FittedGate, apply_gate
from loupe.gates import gate_hard, keep_likeliest
from loupe.images import InputSpec, prepare_image
from loupe.inference import choose_device
from loupe.layouts import read_table
from loupe.maskcuts import CutMasks
from loupe.maskdrawing import Drawer, draw_masks, find_sizes, open_drawer
from loupe.masks import Size
from loupe.masksheets import Masks, write_mask_sheet
from loupe.presence import Cut, read_levels
from loupe.progress import Reporter, Silent
from loupe.rules import apply_rule
from loupe.segmenting import Outline, fill_sheet, plan_sheet, tell_known, try_out
from loupe.stagetimes import DECODE, Clock, StageTime, may_pass, open_likeliest
from loupe.table import Table
from loupe.variants import FittedStage, fit_stage, read_stage_cut
from loupe.weighting import Bool

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
UInt8 = NDArray[np.uint8]
Rows = NDArray[np.intp]
PathLike = str | Path
Source = Cascade | Mapping[str, Any] | str | Path

_CHUNK = 64  # images that go through the stages together
_CHUNK_PIXELS = 2**26  # fewer of large ones: three chunks are held decoded


@dataclass(frozen=True, slots=True, kw_only=True)
class Cascaded:
    """Masks of new images, and what they cost.

    Attributes:
        masks: One row for every image and class, in the order of the table or the sample.
        stages: "decode" and then each stage: what reached it, what went on, how long it took.
        errors: (N,) why an image has no masks, where it could not be read, else None.
        known: (N,) True for images that some network was trained on.
        notes: What was read and done, for the screen.
        stamps: What must be said beside every score of these masks.
    """

    masks: Masks
    stages: tuple[StageTime, ...]
    errors: tuple[str | None, ...]
    known: Bool
    notes: tuple[str, ...] = ()
    stamps: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Wall time from files to masks; loading networks and fitting gates not counted."""
        return sum(each.seconds for each in self.stages)

    @property
    def images_per_s(self) -> float:
        """Images a second through all stages."""
        return self.stages[0].images_in / self.seconds if self.seconds else float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Voice:
    """A stage of classifiers, loaded.

    `columns` are the places of the classes with masks among the run's; one of a binary run,
    for all. A `gate` decides in place of `cut`, once there are masks to look at.
    """

    name: StageName
    specs: tuple[InputSpec, ...]
    score: Callable[[Chunk, Sequence[str]], Float32]
    names: tuple[str, ...]
    columns: tuple[int, ...]
    cut: Cut
    gate: FittedGate | None
    at_least_one: bool


class _Engine(NamedTuple):
    """All stages, loaded; each drawer with the columns of its classes."""

    voices: tuple[_Voice, ...]
    drawers: tuple[tuple[Drawer, Rows], ...]


class _Drawn(NamedTuple):
    """Masks of the images of a chunk; see `maskdrawing.DrawnMasks`."""

    texts: list[list[str]]
    areas: Int64
    confidences: Float32
    tops: Float32


def cascade(
    source: Source,
    images: Table | PathLike,
    *,
    stages: Sequence[str] = (),
    like: PathLike | None = None,
    size: Size | None = None,
    device: str = "auto",
    out: PathLike | None = None,
    reporter: Reporter | None = None,
) -> Cascaded:
    """Draw the masks of images, after classifiers have closed what they can.

    Every file is decoded once, and prepared only for the stages that it reaches: an image
    that `binary` closes costs nothing more, `labels` is asked about the others, and only
    pairs of an image and a class that are still open are drawn. A fitted gate closes before
    the masks what no mask could open again, and the rest after them. Behind classifiers, cuts
    of masks are those of `variants.fit_stage`; alone, those of the runs. An image that cannot be
    read keeps its rows, without masks and with the reason.

    Args:
        source: A cascade, or its file.
        images: A table, or what `read_table` reads; masks are not needed.
        stages: Names of the stages to use, such as ("binary", "masks"); all if empty.
        like: A sample submission: the result has its rows, in its order and form.
        size: Height and width of the masks; None is the runs' (`masks.size`), or the size
            of each image.
        device: `auto` or a torch device.
        out: CSV to write.
        reporter: Told of the images done.

    Returns:
        Masks, with images that were set aside in the table at the end, and the stages' times.

    Raises:
        RecipeError: the file is no cascade.
        RunError: a run is missing, unfinished or of the wrong kind.
        AlignmentError: classes of the runs differ, the sample has images or classes that
            there are not, or a gate is to be fitted on rows without a probability.
        InputError: there are no images, no rule, no such stage, or the device is not there.
        LeakageError: a gate is to be fitted on probabilities that leak.
    """
    chosen = choose_stages(source if isinstance(source, Cascade) else read_cascade(source), stages)
    table = images if isinstance(images, Table) else read_table(images, layout="images")
    if not len(table):
        raise InputError("there are 0 images to segment; name a table or a folder with images.")
    runs = open_runs(chosen)
    aside = table.quarantined
    ids = (*table.ids, *(each.id for each in aside))
    plan = plan_sheet(runs.masks[0].table(), ids, runs.classes, like=like)
    try_out(plan, out)
    engine, notes, stamps = _load(chosen, runs, choose_device(device))
    clock = Clock((DECODE, *chosen.stages))
    texts, sizes, errors = _work(engine, table, plan, clock, reporter or Silent())
    texts += [("",) * len(runs.classes)] * len(aside)
    sizes = np.concatenate([sizes, np.zeros((len(aside), 2), np.int64)])
    reasons = [*errors, *(each.reason for each in aside)]
    masks = fill_sheet(plan, texts, sizes, size=size)
    if out is not None:
        write_mask_sheet(out, masks)
    seen = np.append(_find_seen_by(table, runs), np.zeros(len(aside), np.bool_))[plan.rows]
    failed = tuple(reasons[row] for row in plan.rows)
    return Cascaded(
        masks=masks,
        stages=clock.list_times(),
        errors=failed,
        known=np.asarray(seen, np.bool_),
        notes=(*tell_idle(chosen), *notes, *tell_known(seen, failed), *masks.notes),
        stamps=stamps,
    )


def _load(
    chosen: Cascade, runs: StageRuns, device: str
) -> tuple[_Engine, tuple[str, ...], tuple[str, ...]]:
    """Load all networks; fit gate and cuts behind classifiers. Notes and stamps come with it."""
    fitted = _fit(chosen)
    voices = []
    for name, stage in chosen.presence:
        gate = fitted.gate if stage is chosen.fitted else None
        voices.append(_load_voice(chosen, runs, name, stage, gate, device))
    drawers = [open_drawer(run, device=device) for run in runs.masks]
    if fitted.rules:
        drawers = [replace(d, rule=rule) for d, rule in zip(drawers, fitted.rules, strict=True)]
    ends = np.cumsum([len(drawer.classes) for drawer in drawers])
    places = [np.arange(end - len(d.classes), end) for d, end in zip(drawers, ends, strict=True)]
    every = (*runs.presence.values(), *runs.masks)
    stamps = [str(stamp) for run in every for stamp in run.manifest()["stamps"]]
    engine = _Engine(tuple(voices), tuple(zip(drawers, places, strict=True)))
    return engine, fitted.notes, tuple(dict.fromkeys((*fitted.stamps, *stamps)))


def _fit(chosen: Cascade) -> FittedStage:
    """Fit gate and cuts; hard stages whose held-out rows cannot tell have the runs' own cuts."""
    if not chosen.presence:
        return FittedStage(None, (), (), ())
    try:
        return fit_stage(chosen)
    except (AlignmentError, LeakageError, RunError) as error:
        if chosen.fitted is not None:
            raise
        told = "masks are cut as without classifiers, since held-out rows cannot tell of both"
        return FittedStage(None, (), (f"{told}: {error}",), ())


def _load_voice(
    chosen: Cascade,
    runs: StageRuns,
    name: StageName,
    stage: PresenceStage,
    gate: FittedGate | None,
    device: str,
) -> _Voice:
    run = runs.presence[name]
    table = run.table()
    cut = read_stage_cut(stage) if gate is None else Cut()
    ensemble = load_ensemble(run, table, None, device)
    weights = torch.tensor([share for _, share in run.networks()]).view(-1, 1, 1)
    places = [0 if name == "binary" else table.classes.index(each) for each in runs.classes]
    voice = _Voice(
        name=name,
        specs=tuple(part.spec for part in ensemble),
        score=partial(score_chunk, ensemble, weights, exclusive=table.exclusive),
        names=table.classes,
        columns=tuple(places),
        cut=cut,
        gate=gate,
        at_least_one=chosen.at_least_one and name == "labels",
    )
    # A rule or threshold for other classes is refused before the work.
    _decide(voice, np.zeros((1, len(table.classes)), np.float32))
    return voice


def _work(
    engine: _Engine, table: Table, plan: Outline, clock: Clock, reporter: Reporter
) -> tuple[list[tuple[str, ...]], Int64, list[str | None]]:
    """Return texts, sizes at which they are drawn, and errors, of all images of the table."""
    rule = engine.drawers[0][0].rule
    count = sum(len(columns) for _, columns in engine.drawers)
    asked = np.isin(np.arange(count), plan.columns)
    texts = [("",) * count] * len(table)
    sizes = np.zeros((len(table), 2), np.int64)  # stays so where a file cannot be read
    errors: list[str | None] = [None] * len(table)
    # A sample may ask for fewer images.
    rows = np.flatnonzero(np.isin(np.arange(len(table)), plan.rows))
    reporter.begin("cascade", len(rows))
    with ThreadPoolExecutor(count_cores()) as ahead, ThreadPoolExecutor(count_cores()) as pool:
        for places, found in _decode_ahead([table.images[row] for row in rows], ahead, clock):
            here = rows[places]
            fine = np.array([not isinstance(each, str) for each in found], np.bool_)
            for row, each in zip(here.tolist(), found, strict=True):
                errors[row] = each if isinstance(each, str) else None
            wanted = np.tile(asked, (len(here), 1))
            clock.count(DECODE, wanted, wanted & fine[:, None])
            pictures = [each for each in found if not isinstance(each, str)]
            if pictures:
                here = here[fine]
                shown = np.array([each.shape[:2] for each in pictures], np.int64)
                sizes[here] = find_sizes(rule, shown)
                keys = [table.ids[row] for row in here]
                drawn = _pass_chunk(engine, pool, pictures, keys, wanted[fine], clock)
                for row, mine in zip(here.tolist(), drawn, strict=True):
                    texts[row] = tuple(mine)
            reporter.advance(int(places[-1]) + 1)
    reporter.end()
    return texts, sizes, errors


def _pass_chunk(
    engine: _Engine,
    pool: ThreadPoolExecutor,
    pictures: Sequence[UInt8],
    keys: Sequence[str],
    wanted: Bool,
    clock: Clock,
) -> list[list[str]]:
    """Take the images of a chunk through all stages; return their texts, n rows of C."""
    still, probs = wanted, np.full(wanted.shape, np.nan, np.float32)
    for voice in engine.voices:
        with clock.running(voice.name):
            rows = np.flatnonzero(still.any(axis=1))
            after = still.copy()
            if len(rows):
                images = _prepare(pool, pictures, rows, voice.specs)
                chunk = Chunk(rows, images, {}, len(pictures))
                raw = voice.score(chunk, [keys[row] for row in rows.tolist()])
                probs[rows] = raw[:, voice.columns]
                after[rows] &= _decide(voice, raw)
        clock.count(voice.name, still, after)
        still = after
    with clock.running("masks"):
        drawn = _draw(engine, pool, pictures, still)
        if engine.voices and engine.voices[-1].gate is not None:
            _close(engine.voices[-1], probs, drawn)
    filled = np.array([[bool(text) for text in row] for row in drawn.texts], np.bool_)
    clock.count("masks", still, filled)
    return drawn.texts


def _decide(voice: _Voice, raw: Float32) -> Bool:
    """Return which classes stay open, (n, C), by the raw probabilities of the run's columns."""
    probs = raw[:, voice.columns]
    if voice.gate is not None:
        able = may_pass(voice.gate, probs)
        return np.asarray(able | open_likeliest(probs), np.bool_) if voice.at_least_one else able
    if voice.cut.rule is not None:
        decided = apply_rule(voice.cut.rule, raw, classes=voice.names)
        there, probs = decided.decisions[:, voice.columns], decided.probs[:, voice.columns]
    else:
        levels = read_levels(voice.cut.levels or 0.0, voice.names, f"{voice.name}.threshold")
        there = gate_hard(raw, levels)[:, voice.columns]
    return keep_likeliest(there, probs) if voice.at_least_one else np.asarray(there, np.bool_)


def _close(voice: _Voice, probs: Float32, drawn: _Drawn) -> None:
    """Empty the masks that a fitted gate does not let through, now that they are there."""
    if voice.gate is None:
        return
    nothing = np.zeros(drawn.areas.shape, np.int64)
    pairs = Pairs(truth=nothing, predicted=drawn.areas, intersection=nothing)
    keep = apply_gate(voice.gate, probs, CutMasks(pairs, drawn.confidences, drawn.tops)).keep
    if voice.at_least_one:
        # An empty mask, or one that was not drawn, is none that is kept.
        keep = keep_likeliest(np.asarray(keep & (drawn.areas > 0), np.bool_), probs)
    for row, column in np.argwhere(~keep).tolist():
        drawn.texts[row][column] = ""


def _draw(
    engine: _Engine, pool: ThreadPoolExecutor, pictures: Sequence[UInt8], still: Bool
) -> _Drawn:
    """Draw what is still open; images of which nothing is are not even prepared."""
    blank = np.full(still.shape, np.nan, np.float32)
    texts = [[""] * still.shape[1] for _ in pictures]
    drawn = _Drawn(texts, np.zeros(still.shape, np.int64), blank, blank.copy())
    for drawer, columns in engine.drawers:
        rows = np.flatnonzero(still[:, columns].any(axis=1))
        if not len(rows):
            continue
        shown = np.array([pictures[row].shape[:2] for row in rows.tolist()], np.int64)
        images = _prepare(pool, pictures, rows, drawer.specs)
        place = np.ix_(rows, columns)
        found = draw_masks(drawer, images, shown, still[place])
        drawn.areas[place] = found.areas
        drawn.confidences[place], drawn.tops[place] = found.confidences, found.tops
        for row, mine in zip(rows.tolist(), found.texts, strict=True):
            for column, text in zip(columns.tolist(), mine, strict=True):
                texts[row][column] = text
    return drawn


def _decode_ahead(
    images: Sequence[Path], pool: ThreadPoolExecutor, clock: Clock
) -> Iterator[tuple[Rows, list[UInt8 | str]]]:
    """Decode images in order while the ones before are used; what cannot be read is a reason.

    Whole pictures are kept, not prepared ones: which stages they reach is not known yet.
    """
    size = _choose_chunk(images)
    chunks = [np.arange(at, min(at + size, len(images))) for at in range(0, len(images), size)]

    def submit(chunk: Rows) -> list[Future[UInt8 | str]]:
        return [pool.submit(_decode, images[row]) for row in chunk]

    ahead = [submit(chunk) for chunk in chunks[:2]]
    for place, chunk in enumerate(chunks):
        with clock.running(DECODE):
            found = [future.result() for future in ahead.pop(0)]
        if place + 2 < len(chunks):
            ahead.append(submit(chunks[place + 2]))
        yield chunk, found


def _decode(path: Path) -> UInt8 | str:
    try:
        return read_image(path)
    except ImageError as error:
        return str(error)


def _choose_chunk(images: Sequence[Path]) -> int:
    """Return how many images go together, by the size of the first that can be read."""
    for path in images:
        with contextlib.suppress(ImageError):
            height, width = read_size(path)
            return max(1, min(_CHUNK, _CHUNK_PIXELS // (height * width)))
    return _CHUNK


def _prepare(
    pool: ThreadPoolExecutor, pictures: Sequence[UInt8], rows: Rows, specs: Sequence[InputSpec]
) -> tuple[UInt8, ...]:
    """Prepare some pictures for each spec, (m, h, w, c); specs that are alike share an array."""
    made: dict[str, UInt8] = {}
    for spec in specs:
        if spec.digest() not in made:
            make = partial(prepare_image, spec=spec)
            frames = list(pool.map(make, [pictures[row] for row in rows.tolist()]))
            made[spec.digest()] = np.stack(frames)
    return tuple(made[spec.digest()] for spec in specs)


def _find_seen_by(table: Table, runs: StageRuns) -> Bool:
    """(N,) True for images that some network of some stage trained on."""
    every = (*runs.presence.values(), *runs.masks)
    return np.asarray(np.logical_or.reduce([find_known(table, run) for run in every]), np.bool_)
