"""Extras: the fold, group and weight of rows, and the rows set aside.

Owns the optional columns of a table file and its quarantine file. It must not
decide a fold or a group.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from loupe.cells import Cells, read_cells
from loupe.columns import EXTRA_COLUMNS
from loupe.errors import TableError, shorten, suggest
from loupe.table import HOLDOUT, Float32, Int16, Quarantined

_T = TypeVar("_T")


def name_groups(cells: Cells, column: str | None) -> Cells:
    """Take another column for `group`, if one is named.

    Args:
        cells: The table.
        column: The column whose equal values belong together; None changes
            nothing.

    Raises:
        TableError: there is no such column, or one named `group` besides.
    """
    if column is None or column == "group":
        return cells
    if column not in cells.header:
        raise TableError(
            f"{cells.where}: there is no column {column!r} to group by"
            f"{suggest(column, cells.header)} (columns: {shorten(cells.header)})."
        )
    if "group" in cells.header:
        raise TableError(
            f"{cells.where}: --group-column {column} was given, but there is a column 'group' too; "
            "leave the option out, or rename that column."
        )
    renamed = tuple("group" if name == column else name for name in cells.header)
    return replace(cells, header=renamed)


def read_groups(cells: Cells, rows: Sequence[int]) -> tuple[str, ...] | None:
    """Read the column `group`.

    Args:
        cells: The table.
        rows: For each sample, the row to read.

    Returns:
        One value for each of `rows`; None if there is no such column.

    Raises:
        TableError: a cell is empty.
    """
    found = _read_extra(cells, "group", rows, lambda text: text or None, "filled in")
    return None if found is None else tuple(found)


def read_weights(cells: Cells, rows: Sequence[int]) -> Float32 | None:
    """Read the column `weight`.

    Args:
        cells: The table.
        rows: For each sample, the row to read.

    Returns:
        One value for each of `rows`; None if there is no such column.

    Raises:
        TableError: a cell is not a number above 0.
    """
    found = _read_extra(cells, "weight", rows, _parse_weight, "numbers above 0")
    return None if found is None else np.array(found, np.float32)


def read_folds(cells: Cells, rows: Sequence[int]) -> Int16 | None:
    """Read the column `fold`.

    Args:
        cells: The table.
        rows: For each sample, the row to read.

    Returns:
        One value for each of `rows`; None if there is no such column.

    Raises:
        TableError: a cell is not a fold.
    """
    expected = "a fold: a whole number from 0 on, -1 (always trained on) or -2 (never)"
    found = _read_extra(cells, "fold", rows, _parse_fold, expected)
    return None if found is None else np.array(found, np.int16)


def refuse_contradictions(cells: Cells, keys: Sequence[str], first: Mapping[str, int]) -> None:
    """Refuse rows of one image that disagree on its fold, group or weight.

    Args:
        cells: The table.
        keys: The id of each row.
        first: Id to its first row.

    Raises:
        TableError: rows disagree; all are listed.
    """
    for name in EXTRA_COLUMNS:
        column = _extra_column(cells, name)
        if column is None:
            continue
        wrong = [i for i, key in enumerate(keys) if column[i] != column[first[key]]]
        if wrong:
            raise TableError(
                f"{cells.where}, column {name!r}: {len(wrong)} row(s) differ from the first row "
                f"of their image, on {cells.spell_lines(wrong)}."
            )


def quarantine_path(path: Path) -> Path:
    """Return where the rows set aside from a table file are listed."""
    return path.with_name(f"{path.stem}.quarantine.csv")


def read_quarantine(path: Path) -> tuple[Quarantined, ...]:
    """Read the rows set aside from a table file.

    Args:
        path: The table file, not the list beside it.

    Raises:
        TableError: the list has no columns `id` and `reason`.
    """
    side = quarantine_path(path)
    if not side.is_file():
        return ()
    cells = read_cells(side)
    pairs = zip(cells.column("id"), cells.column("reason"), strict=True)
    return tuple(Quarantined(id=key, reason=reason) for key, reason in pairs)


def _read_extra(
    cells: Cells, name: str, rows: Sequence[int], parse: Callable[[str], _T | None], expected: str
) -> list[_T] | None:
    column = _extra_column(cells, name)
    if column is None:
        return None
    values = [parse(column[i]) for i in rows]
    bad = [i for i, value in zip(rows, values, strict=True) if value is None]
    if bad:
        raise TableError(
            f"{cells.where}, column {name!r}: {len(bad)} cell(s) are not {expected}, on "
            f"{cells.spell_lines(bad)} (the first is {column[bad[0]]!r})."
        )
    return [value for value in values if value is not None]


def _extra_column(cells: Cells, name: str) -> list[str] | None:
    found = [column for column in cells.header if column.casefold() == name]
    return [text.strip() for text in cells.column(found[0])] if found else None


def _parse_weight(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value < np.inf else None


def _parse_fold(text: str) -> int | None:
    try:
        value = int(text)
    except ValueError:
        return None
    return value if HOLDOUT <= value < 2**15 else None
