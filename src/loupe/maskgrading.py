"""Mask grading: anyone's masks, or those of a run, against a table of given masks.

Owns how both are matched by id and class name and brought to one size, and the areas that
they share. It must not fit or choose anything; networks are asked only where the source
is a run, so that submissions are graded without torch.

Shapes: N rows of the table, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loupe.aligning import ABSENT, guess_difference, match_ids
from loupe.decoding import read_size
from loupe.dices import MAIN, Factors, Pairs, decompose
from loupe.errors import (
    AlignmentError,
    ImageError,
    InputError,
    MaskError,
    MissingExtraError,
    RunError,
    TableError,
    shorten,
    suggest,
)
from loupe.executors import count_cores
from loupe.exposure import GroupBy, refuse_known
from loupe.files import write_json
from loupe.fresh import LISTED, choose_rows
from loupe.intervals import Score
from loupe.layouts import read_table
from loupe.margins import score_pairs
from loupe.maskfaults import find_faults, suspect_layout
from loupe.maskrules import read_mask_rule
from loupe.maskruns import Runs, join_runs
from loupe.masks import Size, read_runs, resize_rle
from loupe.masksheets import Masks, read_mask_sheet
from loupe.progress import Reporter, Silent
from loupe.runs import Run, open_run
from loupe.scoring import read_scores
from loupe.table import Table

Int64 = NDArray[np.int64]
Rows = NDArray[np.intp]
Texts = tuple[tuple[str, ...], ...]
PathLike = str | Path

SCHEMA = 1
_MOST_FAULTS = 20
_ANY_SIDE = 2**20  # where a size is not known: no mask reaches beyond


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskGraded:
    """What masks are worth against those of a table.

    Attributes:
        source: The submission or the run.
        rows: How many images the scores rest on.
        classes: (C,) names.
        scores: Every metric of `dices.METRICS` with its interval, overall and by class;
            `all_empty` is what a submission without any mask would score.
        factors: (1 + C,) what the mean Dice over pairs is made of, overall first.
        unread: Rows whose image could not be read, and why; they are left out.
        notes: What was read and done, for the screen.
        stamps: What must be said beside every score.
    """

    source: str
    rows: int
    classes: tuple[str, ...]
    scores: tuple[Score, ...]
    factors: tuple[Factors, ...]
    unread: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    stamps: tuple[str, ...] = ()


def score_masks(
    masks: Masks | PathLike,
    table: Table | PathLike,
    *,
    size: Size | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> MaskGraded:
    """Score anyone's masks against a table with given masks.

    Rows are matched by id, classes by name (or by the number that the table writes for a
    name). Whether the masks were made by a network that saw these rows cannot be told.

    Args:
        masks: A submission: masks, or the CSV that holds them.
        table: The rows with their masks. If `split` held some apart, only those are scored.
        size: Height and width that the submission was made for, if not those of the
            images; given masks are resized to it.
        resamples: Bootstrap resamples of every interval, over the groups of the table.
        seed: Of the bootstrap.

    Raises:
        AlignmentError: rows of the table are not in the submission, or classes differ.
        TableError: the table has no masks, or images whose size is needed cannot be read.
        MaskError: texts are not valid, or reach beyond their image.
    """
    sheet = masks if isinstance(masks, Masks) else read_mask_sheet(masks)
    chosen, note = choose_rows(table if isinstance(table, Table) else read_table(table))
    notes = [note, *sheet.notes]
    if chosen.quarantined:
        notes.append(f"{len(chosen.quarantined):,} rows of the table are set aside, not scored")
    names = () if _are_alone(sheet, chosen) else (_rename(name, chosen) for name in sheet.classes)
    classes = tuple(dict.fromkeys((*chosen.classes, *names)))
    truth, told = _arrange_truth(chosen, classes, "the submission")
    pairs, more = _measure(sheet, truth, size)
    source = "masks" if isinstance(masks, Masks) else str(masks)
    graded = _grade(source, truth, pairs, truth.groups, resamples, seed)
    return replace(graded, notes=tuple(dict.fromkeys((*notes, *told, *more))))


def score_segmenter(
    run: Run | PathLike,
    table: Table | PathLike,
    *,
    views: int | None = None,
    allow_leak: bool = False,
    group: GroupBy = "auto",
    device: str = "auto",
    resamples: int = 1000,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> MaskGraded:
    """Score the masks of a run on rows that it was never trained on.

    Masks are made as `segment` makes them, by the stored cuts, and compared at the size
    that the run writes.

    Args:
        run: Finished; its networks draw masks.
        table: The rows with their masks. If `split` held some apart, only those are scored.
        views: Number of named views; None takes each recipe's own.
        allow_leak: Score rows that were trained on, too; everything is stamped.
        group: How rows related to those are found; see `grading.score`.
        device: `auto` or a torch device.
        resamples: Bootstrap resamples of every interval.
        seed: Of the bootstrap.
        reporter: Told of the progress.

    Raises:
        LeakageError: rows were trained on, or are related to such rows.
        AlignmentError: the table lacks a class that the run draws.
        InputError: the table has no masks (TableError), or no image can be read.
        RunError: the run draws no masks, or is not finished.
    """
    opened = run if isinstance(run, Run) else open_run(run)
    where = str(opened.folder)
    if not opened.segments:
        raise RunError(f"{where} draws no masks; 'loupe score' scores the classes that it names.")
    rule = read_mask_rule(opened.cuts_file)
    chosen, note = choose_rows(table if isinstance(table, Table) else read_table(table))
    truth, told = _arrange_truth(replace(chosen, quarantined=()), rule.classes, where)
    # What is wrong with the table is told before the work.
    blank = (("",) * len(truth.classes),) * len(truth)
    _measure(Masks(ids=truth.ids, classes=truth.classes, texts=blank), truth, None)
    reporter = reporter or Silent()
    exposure = refuse_known(opened, truth, by=group, allow_leak=allow_leak, reporter=reporter)
    masks, errors = _ask(opened, truth, views, device, reporter)
    lost = [(truth.ids[row], error) for row, error in enumerate(errors) if error]
    rows = np.array([row for row, error in enumerate(errors) if not error], np.intp)
    if not len(rows):
        raise InputError(f"none of the {len(truth):,} images can be read; the first: {errors[0]}.")
    pairs, more = _measure(masks, truth.select(rows), None)
    groups = None if exposure.groups is None else [exposure.groups[row] for row in rows]
    notes = [note, *told, *exposure.notes, *more, *_tell_promise(opened)]
    if lost:
        notes.append(f"{len(lost):,} image(s) cannot be read; the scores leave them out")
    return replace(
        _grade(where, truth, pairs, groups, resamples, seed),
        unread=(*lost, *((each.id, each.reason) for each in chosen.quarantined)),
        notes=tuple(dict.fromkeys(notes)),
        stamps=exposure.stamps,
    )


def measure_sheet(masks: Masks, truth: Table, *, size: Size | None = None) -> Pairs:
    """Measure the areas of masks and given masks, and of what both cover.

    Nothing is decoded: areas are sums of run lengths. Both are compared at the size of the
    masks (`Masks.sizes`, else `size`, else that of the image files); given masks that have
    another are resized as `masks.resize_rle` does.

    Args:
        masks: In any order of rows and classes; rows that the table has not are left alone.
        truth: The given masks, in pixels of its image files.
        size: Height and width that the masks were made for.

    Returns:
        (N, C) in the order of the table.

    Raises:
        AlignmentError, TableError, MaskError: see `score_masks`.
    """
    return _measure(masks, truth, size)[0]


def measure_overlap(mine: Runs, other: Runs) -> int:
    """Count the pixels that two masks share, by their runs (`masks.read_runs`).

    Examples:
        >>> measure_overlap(read_runs("1 5 10 2"), read_runs("3 4 11 9"))
        4
    """
    areas = _sum_lengths(mine) + _sum_lengths(other)
    return areas - _sum_lengths(join_runs(np.concatenate([mine, other])))


def write_mask_graded(graded: MaskGraded, path: Path) -> None:
    """Write scores and what must be known of them as JSON, whole or not at all.

    Args:
        graded: From `score_masks` or `score_segmenter`.
        path: The file; in a folder it is called `score.json`. NaN is written as null.
    """
    values = {"kind": "mask score", "schema": SCHEMA, **asdict(graded)}
    write_json(path / "score.json" if path.is_dir() else path, values)


def _ask(
    run: Run, table: Table, views: int | None, device: str, reporter: Reporter
) -> tuple[Masks, tuple[str | None, ...]]:
    try:
        # Here, not above: submissions are graded without torch.
        from loupe.segmenting import segment  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"a run segments with {error.name}; install it with: pip install 'loupe-vision[train]'"
        ) from None
    found = segment(run, table, views=views, device=device, reporter=reporter)
    return found.masks, found.errors


def _tell_promise(run: Run) -> list[str]:
    """Say what cross-validation measured of the same run."""
    scores = read_scores(run) if run.finished else ()
    return [
        f"cross-validation measured {each.metric} {each.value:.4f} ({each.low:.4f} to "
        f"{each.high:.4f})"
        for each in scores
        if (each.metric, each.class_name) == (MAIN, "")
    ]


def _grade(
    source: str, truth: Table, pairs: Pairs, groups: Sequence[str] | None, resamples: int, seed: int
) -> MaskGraded:
    names = truth.classes
    return MaskGraded(
        source=source,
        rows=len(pairs),
        classes=names,
        scores=score_pairs(pairs, classes=names, groups=groups, resamples=resamples, seed=seed),
        factors=decompose(pairs),
    )


# Rows and classes ---------------------------------------------------------------------------------


def _measure(masks: Masks, truth: Table, size: Size | None) -> tuple[Pairs, list[str]]:
    if truth.masks is None:
        raise TableError(
            f"the table has no masks (layout {truth.layout.name!r}), so masks cannot be scored. "
            "Expected run-length text, mask images or a COCO file."
        )
    columns, notes = _match_classes(masks, truth)
    at = _match_rows(masks, truth)
    mine = _take_columns(masks.texts, at, columns)
    shown, sizes, told = _find_sizes(masks, truth, at, size)
    _refuse_faults(mine, truth, sizes, "the submission", "if it was made for another size, give it")
    _refuse_faults(truth.masks, truth, shown, "the table", "is another image of that name there?")
    if others := len(masks.ids) - len(truth):
        notes.append(f"{others:,} images of the submission are not among the rows scored")
    notes += [*told, *_suspect(mine, sizes)]
    return _measure_texts(mine, truth.masks, shown, sizes), notes


def _measure_texts(
    mine: Sequence[Sequence[str]], given: Sequence[Sequence[str]], shown: Int64, sizes: Int64
) -> Pairs:
    areas = np.zeros((3, len(mine), len(mine[0])), np.int64)
    for row, pairs in enumerate(zip(mine, given, strict=True)):
        image = (int(shown[row, 0]), int(shown[row, 1]))
        wanted = (int(sizes[row, 0]), int(sizes[row, 1]))
        for column, (text, true) in enumerate(zip(*pairs, strict=True)):
            resized = true if not true or image == wanted else resize_rle(true, image, wanted)
            truth, predicted = read_runs(resized), read_runs(text)
            shared = measure_overlap(truth, predicted)
            areas[:, row, column] = _sum_lengths(truth), _sum_lengths(predicted), shared
    return Pairs(truth=areas[0], predicted=areas[1], intersection=areas[2])


def _take_columns(texts: Texts, rows: Iterable[int], columns: Sequence[int]) -> Texts:
    """Return some rows and columns; one that is absent is empty."""
    return tuple(
        tuple("" if column == ABSENT else texts[row][column] for column in columns) for row in rows
    )


def _sum_lengths(runs: Runs) -> int:
    return int((runs[:, 1] - runs[:, 0]).sum())


def _are_alone(masks: Masks, truth: Table) -> bool:
    return len(masks.classes) == len(truth.classes) == 1


def _rename(name: str, truth: Table) -> str:
    """Return the class that a submission means by a name or a number."""
    if name in truth.classes or name not in truth.layout.numbers:
        return name
    return truth.classes[truth.layout.numbers.index(name)]


def _arrange_truth(table: Table, classes: Sequence[str], where: str) -> tuple[Table, list[str]]:
    """Give a table these classes; one that lists what occurs has no masks of the others."""
    missing = [name for name in classes if name not in table.classes]
    if missing and table.layout.name not in LISTED:
        told = shorten([f"{name!r}{suggest(name, table.classes)}" for name in missing])
        raise AlignmentError(
            f"{where} has {len(missing)} class(es) that the table does not know: {told}. Expected "
            f"some of {shorten(table.classes, 20)}."
        )
    extra = [name for name in table.classes if name not in classes]
    notes = [f"no row of the table is of class {shorten(missing, 20)}"] if missing else []
    if extra:
        notes.append(f"{where} has no class {shorten(extra, 20)}, which is left out")
    if tuple(classes) == table.classes or table.masks is None:
        return table, notes
    columns = [table.classes.index(name) if name in table.classes else ABSENT for name in classes]
    targets = np.zeros((len(table), len(classes)), np.float32)
    there = [place for place, column in enumerate(columns) if column != ABSENT]
    targets[:, there] = table.targets[:, [columns[place] for place in there]]
    masks = tuple(
        tuple("" if column == ABSENT else texts[column] for column in columns)
        for texts in table.masks
    )
    arranged = replace(table, classes=tuple(classes), targets=targets, masks=masks, exclusive=False)
    return arranged, notes


def _match_classes(masks: Masks, truth: Table) -> tuple[list[int], list[str]]:
    """Return the column of each class of the table in the masks, and notes."""
    if _are_alone(masks, truth):
        mine, given = masks.classes[0], truth.classes[0]
        return [0], [] if mine == given else [f"{mine!r} is taken for the one class {given!r}"]
    names = [_rename(name, truth) for name in masks.classes]
    missing = [name for name in truth.classes if name not in names]
    # A file with a row for each mask does not name a class of which it has none.
    if missing and not (masks.form.layout == "rle-rows" and masks.form.pairs):
        told = shorten([f"{name!r}{suggest(name, masks.classes)}" for name in missing])
        raise AlignmentError(
            f"{len(missing)} of {len(truth.classes)} classes of the table have no masks in the "
            f"submission: {told}. It has {shorten(masks.classes, 20)}; expected all."
        )
    columns = [names.index(name) if name in names else ABSENT for name in truth.classes]
    return columns, [f"no mask is of class {shorten(missing, 20)}"] if missing else []


def _match_rows(masks: Masks, truth: Table) -> Rows:
    at = match_ids(masks.ids, truth.ids)
    lost = [truth.ids[row] for row in np.flatnonzero(at == ABSENT)]
    if lost:
        known = set(truth.ids)
        hint = guess_difference(lost, [key for key in masks.ids if key not in known])
        raise AlignmentError(
            f"{len(lost):,} of {len(truth):,} rows of the table are not in the submission: "
            f"{shorten([repr(key) for key in lost], _MOST_FAULTS)}.{hint} Expected every row, also "
            "those without a mask (an empty cell)."
        )
    return at


def _find_sizes(
    masks: Masks, truth: Table, at: Rows, size: Size | None
) -> tuple[Int64, Int64, list[str]]:
    # Of the images and of the masks, (N, 2) each.
    shown, faults = _read_sizes(truth.images)
    wanted = shown if masks.sizes is None else masks.sizes[at]
    if size is not None:
        odd = np.flatnonzero((wanted != size).any(axis=1))
        if masks.sizes is not None and len(odd):
            raise AlignmentError(
                f"masks of {len(odd):,} images are not of the size {size[0]} x {size[1]} (height x "
                f"width): {shorten([repr(truth.ids[row]) for row in odd])}. Leave the size out."
            )
        wanted = np.tile(np.array(size, np.int64), (len(truth), 1))
    lost = sorted(faults)
    if (wanted[lost] != shown[lost]).any():
        raise TableError(
            f"the sizes of {len(lost):,} images are needed to resize their masks, but cannot be "
            f"read: {shorten(list(faults.values()), 3)} Put the images in their place."
        )
    note = f"{len(lost):,} of {len(truth):,} images cannot be read: are masks of their size?"
    return shown, wanted, [note] if lost else []


def _read_sizes(images: Sequence[Path]) -> tuple[Int64, dict[int, str]]:
    """Read sizes by headers; those that cannot be read are larger than any mask."""

    def measure(path: Path) -> Size | str:
        try:
            return read_size(path)
        except ImageError as error:
            return str(error)

    with ThreadPoolExecutor(count_cores()) as pool:
        found = list(pool.map(measure, images))
    faults = {row: each for row, each in enumerate(found) if isinstance(each, str)}
    sizes = [(_ANY_SIDE, _ANY_SIDE) if isinstance(each, str) else each for each in found]
    return np.array(sizes, np.int64).reshape(-1, 2), faults


def _refuse_faults(
    texts: Sequence[Sequence[str]], truth: Table, sizes: Int64, where: str, hint: str
) -> None:
    flat = [text for row in texts for text in row]
    wide = np.repeat(sizes, len(truth.classes), axis=0)
    found = find_faults(flat, wide)
    if found:
        names = [f"{key!r}, class {name!r}" for key in truth.ids for name in truth.classes]
        told = [f"{names[at]}: {'; '.join(faults)}" for at, faults in found.items()]
        raise MaskError(
            f"{len(found):,} mask(s) of {where} are not valid for their image: "
            f"{shorten(told, _MOST_FAULTS)} ({hint})."
        )


def _suspect(texts: Sequence[Sequence[str]], sizes: Int64) -> list[str]:
    """Tell if masks look made along rows, or for another size."""
    by_size: dict[Size, list[str]] = {}
    for row, (high, wide) in zip(texts, sizes.tolist(), strict=True):
        if high < _ANY_SIDE:
            by_size.setdefault((high, wide), []).extend(text for text in row if text)
    return [note for size, same in by_size.items() if (note := suspect_layout(same, *size))]
