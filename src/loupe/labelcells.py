"""Label cells: changed labels written back into the cells of a user's table.

Owns how each layout spells a label that differs from the one it had; all other cells stay
as they are. It must not decide labels or write files.

Shapes: N rows of the table, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from loupe.cells import LIST_JOINT, Cells, add_columns
from loupe.columns import EXTRA_COLUMNS, RLE_LAYOUTS, split_joined
from loupe.errors import TableError, shorten
from loupe.labels import split_list
from loupe.table import Float32, Table


def respell_labels(cells: Cells, keys: Sequence[str], before: Table, after: Table) -> Cells:
    """Write changed labels in the way the table writes labels.

    Args:
        cells: The table's file.
        keys: The id of each of its rows.
        before: As read from it.
        after: The same rows and classes with other targets or masks.

    Returns:
        New cells; those of unchanged labels keep their text.

    Raises:
        TableError: the layout has no way to write such targets.
    """
    name = before.layout.name
    if name in RLE_LAYOUTS:
        return _empty_masks(cells, keys, before, after)
    if name == "classes":
        return _write_classes(cells, keys, before, after)
    if name == "label-list":
        return _write_lists(cells, keys, before, after)
    if name in ("multi-hot", "binary"):
        return _write_numbers(cells, keys, before, after)
    raise TableError(f"layout {name!r} has no labels that could be changed.")


def spread_labels(cells: Cells, keys: Sequence[str], before: Table, after: Table) -> Cells:
    """Write a column for each class in place of the column of labels.

    It holds what one label cannot: shares of several classes, and classes without a row.

    Args:
        cells: The table's file.
        keys: The id of each of its rows.
        before: As read from it.
        after: The same rows and classes with other targets.

    Raises:
        TableError: a class is called like a column of the table.
    """
    layout = before.layout
    gone = [cells.header.index(name) for name in layout.label_column]
    kept = [at for at in range(len(cells.header)) if at not in gone]
    narrow = replace(
        cells,
        header=tuple(cells.header[at] for at in kept),
        rows=[[row[at] for at in kept] for row in cells.rows],
    )
    names = layout.numbers or before.classes
    taken = {name.casefold() for name in narrow.header} | {*EXTRA_COLUMNS, "id"}
    clash = [repr(name) for name in names if name.casefold() in taken or name != name.strip()]
    if clash:
        raise TableError(
            f"{cells.where}: these labels need a column for each class, and {shorten(clash)} would "
            "be called like a column that means something else; rename that class or column."
        )
    rows = _find_rows(keys, after)
    columns = {
        name: [spell_number(after.targets[row, k]) for row in rows] for k, name in enumerate(names)
    }
    return add_columns(narrow, columns)


def spell_number(value: np.floating | float) -> str:
    """Spell a float32 so that it is read back unchanged.

    Examples:
        >>> spell_number(np.float32(0.3)), spell_number(1.0)
        ('0.3', '1')
    """
    return np.format_float_positional(np.float32(value), trim="-")


def _find_rows(keys: Sequence[str], table: Table) -> list[int]:
    at = {name: row for row, name in enumerate(table.ids)}
    return [at[key] for key in keys]


def _find_changed(before: Table, after: Table) -> set[int]:
    return set(np.flatnonzero((before.targets != after.targets).any(axis=1)).tolist())


def _write_classes(cells: Cells, keys: Sequence[str], before: Table, after: Table) -> Cells:
    if not np.isin(after.targets, (0, 1)).all():
        raise TableError("a column of classes cannot hold shares of several classes.")
    names = before.layout.numbers or before.classes
    changed = _find_changed(before, after)
    column = before.layout.label_column[0]
    texts = [
        names[int(after.targets[row].argmax())] if row in changed else text
        for row, text in zip(_find_rows(keys, after), cells.column(column), strict=True)
    ]
    return add_columns(cells, {column: texts})


def _write_lists(cells: Cells, keys: Sequence[str], before: Table, after: Table) -> Cells:
    if not np.isin(after.targets, (0, 1)).all():
        raise TableError("a list of labels cannot hold shares of classes.")
    names = before.layout.numbers or before.classes
    changed = _find_changed(before, after)
    column = before.layout.label_column[0]
    joint = before.layout.separator or LIST_JOINT
    texts = []
    for row, text in zip(_find_rows(keys, after), cells.column(column), strict=True):
        wanted = [name for name, on in zip(names, after.targets[row], strict=True) if on]
        stay = [name for name in split_list(text, joint) if name in wanted]
        new = [*stay, *(name for name in wanted if name not in stay)]
        texts.append(joint.join(new) if row in changed else text)
    return add_columns(cells, {column: texts})


def _write_numbers(cells: Cells, keys: Sequence[str], before: Table, after: Table) -> Cells:
    rows = _find_rows(keys, after)
    columns = {}
    for k, name in enumerate(before.layout.label_column):
        texts = cells.column(name)
        was: Float32 = before.targets[rows, k]
        # The table's own words for absent and present, such as "no" and "yes".
        words = {float(v): text for text, v in zip(texts, was, strict=True) if v in (0, 1)}
        words = {float(at): word for at, word in enumerate(before.layout.words)} | words
        columns[name] = [
            text if old == new else words.get(float(new), spell_number(new))
            for text, old, new in zip(texts, was, after.targets[rows, k], strict=True)
        ]
    return add_columns(cells, columns)


def _empty_masks(cells: Cells, keys: Sequence[str], before: Table, after: Table) -> Cells:
    """Empty the cells of masks that are gone; nothing else can change here."""
    layout = before.layout
    masks, kept = before.masks or (), after.masks or ()
    gone = {
        (row, column)
        for row in range(len(masks))
        for column in range(len(before.classes))
        if masks[row][column] and not kept[row][column]
    }
    names = {name: k for k, name in enumerate(layout.numbers or before.classes)}
    if layout.name == "rle-rows":
        columns = [names.get(text.strip()) for text in cells.column(layout.label_column[0])]
    elif layout.name == "rle-joined":
        parts = [split_joined(text) for text in cells.column(layout.image_column)]
        columns = [names.get(part[1]) if part else None for part in parts]
    else:
        columns = [0] * len(cells)
    pixels = layout.label_column[-1]
    texts = [
        "" if (row, column) in gone else text
        for row, column, text in zip(
            _find_rows(keys, before), columns, cells.column(pixels), strict=True
        )
    ]
    return add_columns(cells, {pixels: texts})
