"""Rewrites: the user's own table again, with columns added or rows taken out.

Owns the way back from a `Table` to the layout it was read from, so that a table
stays the user's: every other cell keeps its text. It must not decide folds or
which rows are bad.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from loupe.cells import Cells, add_columns, read_cells, write_cells
from loupe.columns import LISTED, LISTED_ALL, RLE_LAYOUTS, read_ids, split_joined
from loupe.errors import AlignmentError, TableError, shorten
from loupe.extras import quarantine_path
from loupe.labelcells import spell_number
from loupe.table import Quarantined, Table

if TYPE_CHECKING:
    import pandas as pd


MASK_HEADER = ("ImageId", "ClassId", "EncodedPixels", LISTED)
"""Columns of a table of masks that had none."""


def append_columns(
    table: Table,
    source: str | Path | pd.DataFrame,
    out: Path,
    added: Mapping[str, Sequence[object]],
    *,
    edit: Callable[[Cells, Sequence[str]], Cells] | None = None,
) -> None:
    """Write a table's source again with columns added, such as fold and group.

    A table file keeps its rows, columns, separator and the text of its cells;
    columns of the same name are replaced, and in run-length layouts a value is
    repeated over the rows of an image. There, images that had no row (they are
    clean) get one with an empty mask, so that they keep their fold. Folders are
    written as `image, label`. COCO files and folders of masks have a row for each
    mask, and one without class and mask for each clean image; where no masks were
    read, an image and a 0/1 column for each class. Image names are not changed,
    whatever folder `out` is in.

    Args:
        table: As read from `source`.
        source: The file, folder or data frame.
        out: The CSV to write; its quarantine file is written beside it.
        added: Column name to a value for each row of `table`.
        edit: Changes cells of a file before columns are added, given the id of each row;
            None changes none. Sources that are no file are written as `table` has them.

    Raises:
        AlignmentError: a column has another length, or rows of the source are
            not in the table.
        TableError: the source cannot be read again.
    """
    wrong = [f"{name!r} has {len(v)}" for name, v in added.items() if len(v) != len(table)]
    if wrong:
        raise AlignmentError(f"the table has {len(table)} rows, but column {', '.join(wrong)}.")
    cells, keys = _reread(table, source)
    if edit is not None and table.layout.columns:
        cells = edit(cells, keys)
    at = {key: row for row, key in enumerate(table.ids)}
    unknown = [repr(key) for key in dict.fromkeys(keys) if key not in at]
    if unknown:
        raise AlignmentError(
            f"{cells.where}: {len(unknown)} image(s) of the file are not in the table that was "
            f"read from it: {shorten(unknown)}. Read it again."
        )
    texts = {name: [str(values[at[key]]) for key in keys] for name, values in added.items()}
    whole = add_columns(cells, _with_old_names(cells, texts))
    write_cells(out, whole.header, whole.rows, whole.separator)
    _write_side_file(out, table.quarantined)


def write_quarantine(
    table: Table, source: str | Path | pd.DataFrame, out: Path, bad: Sequence[Quarantined]
) -> None:
    """Write a table's source again without some rows, and list those beside it.

    The list is `<stem>.quarantine.csv` (id, reason), which `read_table` reads
    along with `out`; it continues the list that the source had.

    Args:
        table: As read from `source`.
        source: The file, folder or data frame.
        out: The CSV to write.
        bad: The rows to take out.

    Raises:
        AlignmentError: a row to take out is not in the table.
        TableError: no row would be left, or the source cannot be read again.
    """
    known = set(table.ids)
    unknown = [repr(q.id) for q in bad if q.id not in known]
    if unknown:
        raise AlignmentError(f"{len(unknown)} id(s) are not in the table: {shorten(unknown)}.")
    out_of = {q.id for q in bad}
    cells, keys = _reread(table, source, out_of)
    rows = [row for row, key in zip(cells.rows, keys, strict=True) if key not in out_of]
    if not rows:
        raise TableError(f"{cells.where}: every row would go into quarantine; nothing is left.")
    write_cells(out, cells.header, rows, cells.separator)
    _write_side_file(out, (*table.quarantined, *bad))


def _write_side_file(out: Path, aside: Sequence[Quarantined]) -> None:
    side = quarantine_path(out)
    if aside:
        write_cells(side, ("id", "reason"), [(q.id, q.reason) for q in aside])
    else:
        # One left from an earlier table of this name would speak of other rows.
        side.unlink(missing_ok=True)


def _reread(
    table: Table, source: str | Path | pd.DataFrame, out_of: Collection[str] = ()
) -> tuple[Cells, list[str]]:
    """Return the source's cells and the id of each row; every id has one.

    A table that had no file is spelled without the ids of `out_of`.
    """
    if not table.layout.columns:
        cells = _spell_table(
            table.select([row for row, key in enumerate(table.ids) if key not in out_of])
        )
        return cells, [row[0] for row in cells.rows]
    cells = read_cells(source)
    keys = read_ids(cells, table.layout)
    if table.layout.name not in RLE_LAYOUTS:
        return cells, keys
    there = set(keys)
    clean = [key for key in table.ids if key not in there]
    rows = [_empty_row(table, cells, key) for key in clean]
    longer = replace(
        cells, rows=[*cells.rows, *rows], lines=[*cells.lines, *[cells.lines[-1]] * len(rows)]
    )
    return longer, [*keys, *clean]


def _empty_row(table: Table, cells: Cells, key: str) -> list[str]:
    """Return a row that says an image has no mask of the first class."""
    layout = table.layout
    at = cells.header.index
    first = cells.rows[0]
    row = [""] * len(cells.header)
    row[at(layout.image_column)] = key
    if layout.name == "rle-joined":
        parts = split_joined(first[at(layout.image_column)])
        row[at(layout.image_column)] = f"{key}_{parts[1] if parts else ''}"
    elif layout.name == "rle-rows":
        row[at(layout.label_column[0])] = first[at(layout.label_column[0])]
    return row


def _spell_table(table: Table) -> Cells:
    """Write out a table that had no file: folders, masks, COCO."""
    # Collapsed classes cannot be told apart again, so their one column is written.
    names = table.classes if table.layout.any_class else table.layout.numbers or table.classes
    header: tuple[str, ...] = ("image",)
    if not table.classes:
        rows = [[key] for key in table.ids]
    elif table.masks is not None:
        header, rows = MASK_HEADER, _spell_masks(table, names)
    elif table.exclusive and _is_plain(table):
        best = table.targets.argmax(axis=1)
        header = ("image", "label")
        rows = [[key, names[at]] for key, at in zip(table.ids, best, strict=True)]
    else:
        header = ("image", *names)
        sheet = table.targets.tolist()
        rows = [
            [key, *(spell_number(v) for v in values)]
            for key, values in zip(table.ids, sheet, strict=True)
        ]
    lines = list(range(1, len(rows) + 1))
    return Cells(where="the table", folder=Path(), header=header, rows=rows, lines=lines)


def _is_plain(table: Table) -> bool:
    """True if one label a row says all: no shares, and no class that nobody would know of."""
    whole = bool(np.isin(table.targets, (0, 1)).all())
    named = bool(table.layout.numbers)
    return whole and (named or bool(table.targets.any(axis=0).all()))


def _spell_masks(table: Table, names: Sequence[str]) -> list[list[str]]:
    """Return a row for each mask, in which every image and every class is named.

    A clean image has a row without class and mask; the last cell tells the reader that
    images without a row are not clean ones of this table.
    """
    masks = table.masks or ()
    drawn = {name for texts in masks for name, text in zip(names, texts, strict=True) if text}
    absent = [name for name in names if name not in drawn]
    rows = []
    for at, (key, texts) in enumerate(zip(table.ids, masks, strict=True)):
        rows += [[key, name, text] for name, text in zip(names, texts, strict=True) if text]
        if at == 0:
            rows += [[key, name, ""] for name in absent]
        if not any(texts):
            rows.append([key, "", ""])
    return [[*row, LISTED_ALL] for row in rows]


def list_settled(table: Table) -> tuple[str, ...]:
    """Return the arguments of `read_table` that a table written again does without.

    Only those that had no file of their own, as folders and COCO files, are written with
    other columns, and with the classes that were made of the given ones.

    Args:
        table: As read from its source.
    """
    if table.layout.columns:
        return ()
    columns = ("image_column", "label_column", "masks")
    collapsed = bool(table.layout.any_class)
    named = not collapsed and bool(table.layout.numbers)
    return (
        *columns,
        *(() if named else ("names",)),
        *(("any_class", "negative") if collapsed else ()),
    )


def _with_old_names(cells: Cells, texts: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Let "fold" replace a column that the user wrote "Fold"."""
    old = {name.casefold(): name for name in cells.header}
    return {old.get(name.casefold(), name): values for name, values in texts.items()}
