"""Layouts: the ways users write a table of labelled images, read into a `Table`.

Owns `read_table`, which recognises the layout and says in `Table.notes` what it
recognised. It must not decode images, split, or change a label. The parts:
`cells` (text), `columns` (which column is what), `labels` (text to targets),
`extras` (fold, group, weight and more), `locating` (names to files), `runlengths`,
`maskfolders` and `sources` (folders, COCO); `rewrites` is the way back.

Shapes: N rows, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from loupe.cells import Cells, read_cells
from loupe.columns import (
    COLUMN_LAYOUTS,
    RLE_LAYOUTS,
    Columns,
    read_ids,
    recognise_columns,
    refuse_repeats,
)
from loupe.errors import TableError, shorten, suggest
from loupe.extras import (
    name_groups,
    note_extras,
    read_folds,
    read_groups,
    read_label_origins,
    read_quarantine,
    read_teachers,
    read_weights,
    refuse_contradictions,
)
from loupe.labels import (
    Labels,
    encode_binary,
    encode_classes,
    encode_lists,
    encode_multi_hot,
    read_names,
)
from loupe.locating import locate_images
from loupe.maskfolders import read_masked
from loupe.masks import join_rle
from loupe.runlengths import read_run_lengths
from loupe.sources import read_coco, read_folder
from loupe.table import Layout, Quarantined, Table, count_classes

if TYPE_CHECKING:
    import pandas as pd

LAYOUTS = (*COLUMN_LAYOUTS, "folders", "masks", "coco")
"""Names of the layouts that are read:

* classes: an image column and a class column; classes are exclusive.
* binary: an image column and one column of 0 and 1, true and false, yes and no.
* label-list: an image column and a column of labels parted by blanks or `|;,`.
* multi-hot: an image column and a column of 0 and 1 for each class.
* rle-joined: `Image_Label, EncodedPixels`, the first being `<file>_<class>`.
* rle-rows: `ImageId, ClassId, EncodedPixels`, a row for each mask.
* rle-single: `id, rle_mask`; the one class is `mask`.
* images: an image column, or a folder, without labels.
* folders: a folder for each class.
* masks: images and a folder of mask images; the one class is `mask`.
* coco: a COCO JSON file.
"""


def read_table(
    source: str | Path | pd.DataFrame,
    *,
    images: str | Path | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    names: str | Path | Mapping[object, str] | None = None,
    masks: str | Path | None = None,
    any_class: str | None = None,
    negative: str | None = None,
    group_column: str | None = None,
    layout: str | None = None,
    need_images: bool = True,
) -> Table:
    """Read labelled images in any of `LAYOUTS`.

    Text is taken as written: ids are the image names of the table, "007" is not
    7 and "NA" is a label. A class column has its classes in sorted order (numbers
    by value); with a name map, in the map's. In the run-length layouts, images
    in the folder `images` that have no row count as clean, unless the table lists
    all its images: a column `listed` then says "all". Image files need not exist,
    except that at least one must. A side file `<stem>.quarantine.csv` is read
    along with the table.

    Args:
        source: A CSV, TSV, Parquet or COCO file, a folder, or a data frame.
        images: The folder that image names start from; None is the table's own.
        image_column: The image's column; None looks for one.
        label_column: The label's column, or several parted by commas, or with
            `masks` the column of mask files; None looks.
        names: JSON file or mapping from the text in the table, often a number,
            to the name of a class.
        masks: A folder of mask images; a class `mask` is present where a mask
            has a pixel above 127.
        any_class: Collapse all classes but `negative` to one column of this name.
        negative: The class that means "none of the others".
        group_column: The column whose equal values must share a fold; None takes
            one named `group`. Folders and COCO files have no columns.
        layout: One of `LAYOUTS`, if it is not to be found out; "images" reads the
            images of any source, each once, and no labels, whatever `label_column`
            says.
        need_images: False reads a table of labels or run lengths none of whose image files
            is there: its targets and masks are enough to decide and score by.

    Returns:
        The table; what was recognised stands in its notes.

    Raises:
        TableError: the table, its columns, labels or image names cannot be used.
        MaskError: run-length text or a mask image is not valid.
    """
    _check_arguments(layout, any_class, negative)
    mapped = read_names(names)
    folder = None if images is None else Path(images)
    path = Path(source) if isinstance(source, str | Path) else None
    aside = () if path is None or path.is_dir() else read_quarantine(path)
    _refuse_groups(path, group_column)
    if masks is not None and layout not in (None, "masks"):
        raise TableError(f"layout {layout!r} has no use for mask images; leave --masks out.")
    if masks is not None:
        table = read_masked(
            source, folder, Path(masks), image_column, label_column, group_column=group_column
        )
    elif path is not None and path.is_dir():
        table = read_folder(path, mapped, labelled=layout != "images")
    elif path is not None and path.suffix.lower() == ".json":
        table = read_coco(path, folder, mapped, labelled=layout != "images")
    else:
        cells = name_groups(read_cells(source), group_column)
        columns = recognise_columns(
            cells,
            image_column=image_column,
            label_column=label_column,
            layout=layout if layout in COLUMN_LAYOUTS else None,
            named=bool(mapped),
        )
        table = _read_cells(cells, columns, folder, mapped, aside, need_images=need_images)
    _check_layout(table, layout)
    return _summarise(_collapse(_set_aside(table, aside), any_class, negative))


def _check_arguments(layout: str | None, any_class: str | None, negative: str | None) -> None:
    if layout is not None and layout not in LAYOUTS:
        raise TableError(
            f"layout {layout!r} is not known; expected one of {', '.join(LAYOUTS)}"
            f"{suggest(layout, LAYOUTS)}"
        )
    if negative is not None and not any_class:
        raise TableError(
            f"--negative {negative} needs --any-class NAME, the name of the one class that "
            "all the others become."
        )


def _refuse_groups(path: Path | None, group_column: str | None) -> None:
    if path is None or group_column is None:
        return
    if path.is_dir() or path.suffix.lower() == ".json":
        kind = "folder" if path.is_dir() else "COCO file"
        raise TableError(
            f"{path}: --group-column {group_column} was given, but a {kind} has no columns. "
            "Write the images into a table with such a column, or leave the option out."
        )


def _check_layout(table: Table, layout: str | None) -> None:
    if layout is not None and table.layout.name != layout:
        raise TableError(
            f"layout {layout!r} was asked for, but the source is {table.layout.name!r}: "
            f"{'; '.join(table.notes[:1])}."
        )


def _read_cells(
    cells: Cells,
    columns: Columns,
    folder: Path | None,
    names: Mapping[str, str],
    aside: tuple[Quarantined, ...],
    *,
    need_images: bool,
) -> Table:
    layout = Layout(
        name=columns.layout,
        image_column=columns.image,
        label_column=columns.labels,
        columns=cells.header,
        id_column="" if columns.id == columns.image else columns.id,
    )
    keys = read_ids(cells, layout)
    if columns.layout in RLE_LAYOUTS:
        table = read_run_lengths(
            cells, layout, keys, folder, names, {q.id for q in aside}, need_images=need_images
        )
    elif columns.layout == "images":
        table = _read_images(cells, layout, keys, folder)
    else:
        table = _read_rows(cells, layout, keys, folder, names, need_images=need_images)
    told = [f"{cells.where}: layout {columns.layout!r}; {_name_columns(columns)}"]
    if cells.separator != ",":
        told.append(f"cells are parted by {cells.separator!r}")
    extras = note_extras(cells, table)
    return replace(table, notes=(*told, *columns.notes, *extras, *table.notes))


def _set_aside(table: Table, aside: tuple[Quarantined, ...]) -> Table:
    known = set(table.ids)
    both = [repr(q.id) for q in aside if q.id in known]
    if both:
        raise TableError(
            f"{len(both)} row(s) of the table are also in its quarantine file: {shorten(both)}. "
            "Take them out of one of the two."
        )
    notes = (f"{len(aside)} rows are in quarantine",) if aside else ()
    return replace(table, quarantined=aside, notes=(*table.notes, *notes))


def _name_columns(columns: Columns) -> str:
    labels = ", ".join(repr(name) for name in columns.labels[:12])
    more = f" and {len(columns.labels) - 12} more" if len(columns.labels) > 12 else ""
    return f"image column {columns.image!r}, label column {labels or 'none'}{more}"


def _read_rows(
    cells: Cells,
    layout: Layout,
    keys: list[str],
    folder: Path | None,
    names: Mapping[str, str],
    *,
    need_images: bool,
) -> Table:
    refuse_repeats(cells, keys)
    labels = _encode(cells, layout, names)
    place = folder or cells.folder
    column = cells.column(layout.image_column)
    located = locate_images(column, place, cells.where, needed=need_images)
    first = range(len(cells))
    return Table(
        ids=tuple(keys),
        images=located.paths,
        classes=labels.classes,
        targets=labels.targets,
        exclusive=labels.exclusive,
        layout=replace(
            layout, numbers=labels.written, words=labels.words, separator=labels.separator
        ),
        groups=read_groups(cells, first),
        weights=read_weights(cells, first),
        folds=read_folds(cells, first),
        teachers=read_teachers(cells, first),
        label_origins=read_label_origins(cells, first),
        notes=(*labels.notes, *located.notes),
    )


def _read_images(cells: Cells, layout: Layout, keys: list[str], folder: Path | None) -> Table:
    """Read the images and no labels; several rows of an image are read once."""
    first: dict[str, int] = {}
    for row, key in enumerate(keys):
        first.setdefault(key, row)
    if layout.id_column:
        # An id stands for one row; two rows of an id may be two images.
        refuse_repeats(cells, keys)
    refuse_contradictions(cells, keys, first)
    rows = list(first.values())
    column = cells.column(layout.image_column) if layout.id_column else keys
    located = locate_images([column[row] for row in rows], folder or cells.folder, cells.where)
    once = f"{len(keys)} rows belong to {len(rows)} images, which are read once each"
    return Table(
        ids=tuple(first),
        images=located.paths,
        classes=(),
        targets=np.zeros((len(rows), 0), np.float32),
        exclusive=False,
        layout=layout,
        groups=read_groups(cells, rows),
        weights=read_weights(cells, rows),
        folds=read_folds(cells, rows),
        teachers=read_teachers(cells, rows),
        label_origins=read_label_origins(cells, rows),
        notes=(*([once] if len(rows) < len(keys) else []), *located.notes),
    )


def _encode(cells: Cells, layout: Layout, names: Mapping[str, str]) -> Labels:
    columns = layout.label_column
    if layout.name == "multi-hot":
        return encode_multi_hot(cells, columns, names)
    if layout.name == "binary":
        return encode_binary(cells, columns[0])
    if layout.name == "label-list":
        return encode_lists(cells, columns[0], names)
    return encode_classes(cells, columns[0], names)


def _collapse(table: Table, any_class: str | None, negative: str | None) -> Table:
    if not any_class:
        return table
    known = shorten([repr(name) for name in table.classes], 40)
    if not table.classes:
        raise TableError(f"--any-class {any_class} needs labels, and the table has none.")
    if negative is None and table.exclusive:
        raise TableError(
            f"--any-class {any_class} needs --negative NAME: which of the classes {known} means "
            "that there is none of the others?"
        )
    if negative is not None and negative not in table.classes:
        raise TableError(
            f"--negative {negative!r} is not a class of the table; its classes are {known}"
            f"{suggest(negative, table.classes)}"
        )
    kept = [at for at, name in enumerate(table.classes) if name != negative]
    if not kept:
        raise TableError(f"--negative {negative!r} is the only class of the table.")
    chosen = table.targets[:, kept]
    # Exclusive shares add up; columns that stand alone are present if any one is.
    merged = np.clip(chosen.sum(axis=1), 0, 1) if table.exclusive else chosen.max(axis=1)
    parts = [repr(table.classes[at]) for at in kept]
    return replace(
        table,
        classes=(any_class,),
        targets=merged[:, None].astype(np.float32),
        exclusive=False,
        masks=_join_masks(table, kept),
        layout=replace(table.layout, any_class=any_class),
        notes=(*table.notes, f"{any_class!r} stands for any of {shorten(parts)}"),
    )


def _join_masks(table: Table, kept: Sequence[int]) -> tuple[tuple[str, ...], ...] | None:
    """Join the masks of several classes to those of one."""
    if table.masks is None:
        return None
    return tuple((join_rle([texts[at] for at in kept]),) for texts in table.masks)


def _summarise(table: Table) -> Table:
    counts = [f"{name!r} {n}" for name, n in count_classes(table).items()]
    kind = "classes, one a row" if table.exclusive else "classes, each on its own"
    if len(counts) == 1:
        kind = "class, there or not"
    told = f"{len(table)} images, {len(counts)} {kind}: {shorten(counts, 20)}"
    if not counts:
        told = f"{len(table)} images without labels"
    return replace(table, notes=(*table.notes, told))
