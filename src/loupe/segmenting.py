"""The verb `segment`: masks of new images by a run, in the form that is asked for.

Owns which images are drawn, what becomes of those that cannot be read, and how the rows
of the result are laid out. It must not fit a cut, or know how maps are made.

Shapes: N images, C classes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loupe.aligning import ABSENT, guess_difference, match_ids
from loupe.caching import prepare_ahead
from loupe.decoding import read_size
from loupe.errors import AlignmentError, InputError, shorten, suggest
from loupe.executors import count_cores
from loupe.layouts import read_table
from loupe.maskdrawing import Drawer, draw_masks, find_sizes, open_drawer
from loupe.masks import Size
from loupe.masksheets import (
    HEADERS,
    MaskForm,
    MaskLayout,
    Masks,
    make_form,
    read_mask_sheet,
    resize_sheet,
    write_mask_sheet,
)
from loupe.progress import Reporter, Silent
from loupe.runs import Run, open_run
from loupe.seen import find_seen
from loupe.table import Layout, Table

Bool = NDArray[np.bool_]
Int64 = NDArray[np.int64]
Rows = NDArray[np.intp]
Texts = tuple[tuple[str, ...], ...]
PathLike = str | Path

_UNKNOWN = (0, 0)
"""Size of an image that cannot be read."""
_MOST_NAMED = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Segmented:
    """Masks of new images.

    Attributes:
        masks: One row for every image and class, in the order of the table or the sample.
        errors: (N,) why an image has no masks, where it could not be read, else None.
        known: (N,) True for images that some network was trained on.
        notes: What was read and done, for the screen.
    """

    masks: Masks
    errors: tuple[str | None, ...]
    known: Bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """Rows and form of a result, before there is a mask.

    Attributes:
        ids: (N,) of the result.
        classes: (C,) as the result writes them.
        rows: (N,) where each image of the result stands among those given.
        columns: (C,) where each class of the result stands among those drawn.
        form: How the file is written.
        notes: What is left out, and what is written in another way.
    """

    ids: tuple[str, ...]
    classes: tuple[str, ...]
    rows: Rows
    columns: tuple[int, ...]
    form: MaskForm
    notes: tuple[str, ...] = ()


def segment(
    run: Run | PathLike,
    table: Table | PathLike,
    *,
    like: PathLike | None = None,
    size: Size | None = None,
    views: int | None = None,
    device: str = "auto",
    out: PathLike | None = None,
    reporter: Reporter | None = None,
) -> Segmented:
    """Draw the masks of images with all members and folds of a run, cut by its stored cuts.

    Every file is decoded once, for all networks and views. One that cannot be read keeps
    its rows, without masks and with the reason, and does not stop the rest.

    Args:
        run: A finished run whose networks draw masks, or its folder.
        table: The images: a table, or what `read_table` reads; masks are not needed.
        like: A sample submission: the result has its rows, in its order and form. None
            writes a row for each image and class in the form of the training table, where
            that is one of run-length text, else in the usual one.
        size: Height and width of the masks; None is the run's (`masks.size`), or the size
            of each image.
        views: Number of named views; None takes each recipe's own.
        device: `auto` or a torch device.
        out: CSV to write.
        reporter: Told of the images done.

    Returns:
        Masks, with images that were set aside in the table at the end.

    Raises:
        RunError: the run draws no masks, or is not finished.
        AlignmentError: the sample has images or classes that there are not.
        InputError: there are no images, the device is not there, or the result does not
            fit into the file.
    """
    opened = run if isinstance(run, Run) else open_run(run)
    images = table if isinstance(table, Table) else read_table(table, layout="images")
    if not len(images):
        raise InputError("there are 0 images to segment; name a table or a folder with images.")
    drawer = open_drawer(opened, views=views, device=device)
    aside = images.quarantined
    ids = (*images.ids, *(each.id for each in aside))
    trained = opened.table()
    plan = plan_sheet(trained, ids, drawer.classes, like=like)
    try_out(plan, out)
    # A sample may ask for fewer images.
    wanted = np.isin(np.arange(len(images)), plan.rows)
    texts, sizes, errors = _draw(drawer, images, np.flatnonzero(wanted), reporter or Silent())
    blank = ("",) * len(drawer.classes)
    texts += [blank] * len(aside)
    sizes = np.concatenate([sizes, np.tile(np.array(_UNKNOWN, np.int64), (len(aside), 1))])
    errors += [each.reason for each in aside]
    masks = fill_sheet(plan, texts, sizes, size=size)
    if out is not None:
        write_mask_sheet(out, masks)
    seen = np.append(find_seen(images, trained), np.zeros(len(aside), np.bool_))
    known = np.asarray(seen[plan.rows], np.bool_)
    reasons = tuple(errors[row] for row in plan.rows)
    return Segmented(
        masks=masks,
        errors=reasons,
        known=known,
        notes=(
            *tell_known(known, reasons),
            *_tell_undrawn(trained.classes, drawer.classes),
            *masks.notes,
        ),
    )


def lay_out_masks(
    trained: Table,
    ids: Sequence[str],
    classes: Sequence[str],
    texts: Sequence[Sequence[str]],
    sizes: Int64,
    *,
    like: PathLike | None,
    size: Size | None,
) -> tuple[Masks, tuple[str, ...]]:
    """Put masks into the rows and the form of a result.

    Args:
        trained: The table of the run; its form is taken where there is no sample.
        ids: (N,) of the images.
        classes: (C,) drawn.
        texts: Run-length text of each image and class.
        sizes: Height and width at which they are drawn.
        like: See `segment`.
        size: See `segment`.

    Shape:
        texts: N rows of C. sizes: (N, 2).

    Returns:
        The masks, and notes.

    Raises:
        AlignmentError: as `plan_sheet`.
    """
    masks = fill_sheet(plan_sheet(trained, ids, classes, like=like), texts, sizes, size=size)
    return masks, masks.notes


def plan_sheet(
    trained: Table, ids: Sequence[str], classes: Sequence[str], *, like: PathLike | None
) -> Outline:
    """Say which rows a result will have, and in which form, before anything is drawn.

    Args:
        trained: The table of the run.
        ids: (N,) of the images.
        classes: (C,) that are drawn.
        like: A sample submission; None takes all images and classes.

    Raises:
        AlignmentError: the sample has images or classes that there are not; all are named.
    """
    if like is not None:
        return _follow(read_mask_sheet(like), str(like), trained, ids, classes)
    return Outline(
        ids=tuple(ids),
        classes=tuple(classes),
        rows=np.arange(len(ids)),
        columns=tuple(range(len(classes))),
        form=_take_form(trained.layout, len(classes)),
    )


def fill_sheet(
    plan: Outline, texts: Sequence[Sequence[str]], sizes: Int64, *, size: Size | None
) -> Masks:
    """Put masks into the rows of a result.

    Args:
        plan: From `plan_sheet`.
        texts: Run-length text of each image and class that is drawn.
        sizes: Height and width at which they are drawn.
        size: Height and width that all are to have; None leaves them.

    Returns:
        The masks; a note counts those for which the sample has no row.
    """
    listed = set(plan.form.pairs)
    lost = 0
    rows = []
    for key, row in zip(plan.ids, plan.rows.tolist(), strict=True):
        mine = [texts[row][column] for column in plan.columns]
        if listed:
            shut = [(key, name) not in listed for name in plan.classes]
            lost += sum(bool(text) for text, gone in zip(mine, shut, strict=True) if gone)
            mine = ["" if gone else text for text, gone in zip(mine, shut, strict=True)]
        rows.append(tuple(mine))
    notes = plan.notes
    if lost:
        notes += (f"{lost:,} mask(s) are left out: the sample has no row for image and class",)
    masks = Masks(
        ids=plan.ids,
        classes=plan.classes,
        texts=tuple(rows),
        sizes=sizes[plan.rows],
        form=plan.form,
        notes=notes,
    )
    return masks if size is None else resize_sheet(masks, size)


# Drawing ------------------------------------------------------------------------------------------


def _draw(
    drawer: Drawer, table: Table, rows: Rows, reporter: Reporter
) -> tuple[list[tuple[str, ...]], Int64, list[str | None]]:
    """Return texts, sizes at which they are drawn, and errors, of all images of the table."""
    texts = [("",) * len(drawer.classes)] * len(table)
    sizes = np.tile(np.array(_UNKNOWN, np.int64), (len(table), 1))
    errors: list[str | None] = [None] * len(table)
    images = [table.images[row] for row in rows]
    specs = {spec.digest(): spec for spec in drawer.specs}
    reporter.begin("segment", len(images))
    with ThreadPoolExecutor(count_cores()) as pool:
        for chunk in prepare_ahead(images, list(specs.values())):
            for at, error in chunk.errors.items():
                errors[int(rows[at])] = error
            if len(chunk.rows):
                files = [images[at] for at in chunk.rows]
                shown = np.array(list(pool.map(read_size, files)), np.int64)
                # Networks whose images are prepared alike share one array.
                made = dict(zip(specs, chunk.images, strict=True))
                shared = [made[spec.digest()] for spec in drawer.specs]
                wanted = np.ones((len(shown), len(drawer.classes)), np.bool_)
                found = draw_masks(drawer, shared, shown, wanted)
                sizes[rows[chunk.rows]] = find_sizes(drawer.rule, shown)
                for row, drawn in zip(rows[chunk.rows].tolist(), found.texts, strict=True):
                    texts[row] = drawn
            reporter.advance(chunk.end)
    reporter.end()
    return texts, sizes, errors


def try_out(plan: Outline, out: PathLike | None) -> None:
    """Write a result without masks, so that what does not fit is told before the work.

    Args:
        plan: Rows and form.
        out: The file that will be written, which is left alone; None tries nothing.

    Raises:
        MaskError: masks of this form do not fit into the file.
    """
    if out is None:
        return
    count = len(plan.ids)
    blank = Masks(
        ids=plan.ids,
        classes=plan.classes,
        texts=(("",) * len(plan.classes),) * count,
        form=plan.form,
    )
    with tempfile.TemporaryDirectory() as folder:
        write_mask_sheet(Path(folder) / Path(out).name, blank)


def tell_known(known: Bool, errors: Sequence[str | None]) -> tuple[str, ...]:
    """Say how many images were trained on, and how many cannot be read.

    Args:
        known: (N,) True for images that some network was trained on.
        errors: (N,) why an image has no masks, else None.
    """
    notes = []
    if known.any():
        notes.append(
            f"{int(known.sum()):,} of {len(known):,} images were trained on; their masks flatter"
        )
    unread = sum(error is not None for error in errors)
    if unread:
        notes.append(f"{unread:,} of {len(errors):,} images cannot be read and have no masks")
    return tuple(notes)


def _tell_undrawn(classes: Sequence[str], drawn: Sequence[str]) -> tuple[str, ...]:
    others = [name for name in classes if name not in drawn]
    return (f"the run draws no masks of {shorten(others, 20)}",) if others else ()


# Forms --------------------------------------------------------------------------------------------


def _take_form(layout: Layout, classes: int) -> MaskForm:
    """Return the form of the training table, or the usual one."""
    names: Mapping[str, MaskLayout] = {name: name for name in HEADERS}
    kind = names.get(layout.name, "rle-joined" if classes > 1 else "rle-single")
    if kind == "rle-single" and classes > 1:
        kind = "rle-joined"
    form = make_form(kind)
    if layout.name != kind or not layout.image_column or not layout.label_column:
        return form
    image, text = layout.id_column or layout.image_column, layout.label_column[-1]
    name = layout.label_column[0] if kind == "rle-rows" else ""
    used = (image, name, text) if name else (image, text)
    return replace(
        form,
        # In the table's order; other columns are its own.
        header=tuple(sorted(used, key=_order(layout.columns))),
        image_column=image,
        class_column=name,
        text_column=text,
    )


def _order(columns: Sequence[str]) -> Callable[[str], int]:
    return lambda name: columns.index(name) if name in columns else len(columns)


def _follow(
    sample: Masks, where: str, trained: Table, ids: Sequence[str], classes: Sequence[str]
) -> Outline:
    """Return the rows and the form of a sample submission."""
    rows, notes = _match_images(sample, where, ids)
    columns, more = _match_classes(sample, where, trained, classes)
    return Outline(
        ids=sample.ids,
        classes=sample.classes,
        rows=rows,
        columns=tuple(columns),
        form=sample.form,
        notes=(*notes, *more),
    )


def _match_images(sample: Masks, where: str, ids: Sequence[str]) -> tuple[Rows, list[str]]:
    rows = match_ids(ids, sample.ids)
    lost = [sample.ids[row] for row in np.flatnonzero(rows == ABSENT)]
    known = set(sample.ids)
    others = [key for key in ids if key not in known]
    if lost:
        raise AlignmentError(
            f"{where}: {len(lost):,} of its {len(rows):,} images are not among the "
            f"{len(ids):,} given: {shorten([repr(key) for key in lost], _MOST_NAMED)}."
            f"{guess_difference(lost, others)} Or give the sample itself in place of the images, "
            "with --images DIR."
        )
    told = shorten([repr(key) for key in others])
    note = f"{where} has no row for {len(others):,} of the {len(ids):,} images: {told}"
    return rows, [note] if others else []


def _match_classes(
    sample: Masks, where: str, trained: Table, classes: Sequence[str]
) -> tuple[list[int], list[str]]:
    """Return the column of each class of the sample among those drawn, and notes."""
    if len(sample.classes) == len(classes) == 1:
        mine, other = classes[0], sample.classes[0]
        named = sample.form.layout != "rle-single" and mine != other
        return [0], [f"{where}: {other!r} is taken for the one class {mine!r}"] if named else []
    numbers = dict(zip(trained.layout.numbers, trained.classes, strict=False))
    meant = [name if name in classes else numbers.get(name, name) for name in sample.classes]
    unknown = [name for name in meant if name not in classes]
    if unknown or not meant:
        told = shorten([f"{name!r}{suggest(name, classes)}" for name in unknown], _MOST_NAMED)
        raise AlignmentError(
            f"{where}: {f'no network draws its classes {told}' if meant else 'it has no classes'}. "
            f"Expected some of {shorten([repr(name) for name in classes], 20)}; without --like the "
            "result has a row for each image and class."
        )
    rest = [name for name in classes if name not in meant]
    note = f"{where} has no row of class {shorten(rest, 20)}, whose masks are left out"
    return [classes.index(name) for name in meant], [note] if rest else []
