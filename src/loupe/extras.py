"""Extras: fold, group, weight, teacher and label origin of rows, and the rows set aside.

Owns the optional columns of a table file and its quarantine file. It must not
decide a fold or a group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from loupe.cells import Cells, read_cells
from loupe.columns import find_extras
from loupe.errors import InputError, TableError, shorten, suggest
from loupe.origins import parse_origin
from loupe.table import ALWAYS_TRAINED, HOLDOUT, Float32, Int16, Quarantined, Table

_FOLD_KINDS = {ALWAYS_TRAINED: ", always trained on", HOLDOUT: ", never trained on"}
_T = TypeVar("_T")


def name_groups(cells: Cells, column: str | None) -> Cells:
    """Take a column for the group of the rows, if one is named.

    Args:
        cells: The table.
        column: The column whose equal values belong together, by its name or, if
            only one fits, by its name in any case; None changes nothing.

    Raises:
        TableError: there is no such column, or one named `group` besides.
    """
    if column is None:
        return cells
    alike = [name for name in cells.header if name.casefold() == column.strip().casefold()]
    fits = [name for name in alike if name == column.strip()] or alike
    if len(fits) != 1:
        raise TableError(
            f"{cells.where}: there is no column {column!r} to group by"
            f"{suggest(column, cells.header)} (columns: {shorten(cells.header)})."
        )
    others = [name for name in cells.header if name.casefold() == "group" and name != fits[0]]
    if others:
        # `split` writes its groups there, over what the user has.
        raise TableError(
            f"{cells.where}: --group-column {column} was given, but there is a column "
            f"{others[0]!r} too; leave the option out, or rename that column."
        )
    return replace(cells, group=fits[0])


def read_groups(cells: Cells, rows: Sequence[int]) -> tuple[str, ...] | None:
    """Read the column `group`, or the one named instead.

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
        TableError: a cell is not a number of 0 or above, or all are 0.
    """
    found = _read_extra(cells, "weight", rows, _parse_weight, "numbers, 0 or above")
    if found is not None and not any(found):
        raise TableError(
            f"{cells.where}, column {find_extras(cells)['weight']!r}: all weights are 0, so there "
            "is nothing to train on. Give the rows to learn from a weight above 0."
        )
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


def read_teachers(cells: Cells, rows: Sequence[int]) -> tuple[str, ...] | None:
    """Read the column `teacher`: the run that made the label of a row.

    A folder starts at the table's, or else where the program was started.

    Args:
        cells: The table.
        rows: For each sample, the row to read.

    Returns:
        For each of `rows` an absolute folder, maybe with "#fold-<k>", or "" where people
        labelled the row; None if there is no such column.
    """
    found = _read_extra(cells, "teacher", rows, str, "text")
    if found is None:
        return None
    places = {text: _place_teacher(text, cells.folder) for text in set(found)}
    return tuple(places[text] for text in found)


def read_label_origins(cells: Cells, rows: Sequence[int]) -> tuple[str, ...] | None:
    """Read the column `label_origin`: what was done to the label of a row.

    Args:
        cells: The table.
        rows: For each sample, the row to read.

    Returns:
        For each of `rows` the text, "" where nothing was done; None if there is no such
        column.

    Raises:
        TableError: a cell is no text of `loupe.origins`.
    """
    expected = "a label origin, such as 'relabelled by review, was cat', or empty"
    found = _read_extra(cells, "label_origin", rows, _parse_label_origin, expected)
    return None if found is None else tuple(found)


def _parse_label_origin(text: str) -> str | None:
    try:
        parse_origin(text)
    except InputError:
        return None
    return text


def _place_teacher(text: str, folder: Path) -> str:
    """Make the folder of a teacher absolute, so that it is found from anywhere."""
    if not text:
        return ""
    place, mark, fold = text.partition("#")
    beside = folder / place
    return str((beside if beside.is_dir() else Path(place)).absolute()) + mark + fold


def refuse_contradictions(cells: Cells, keys: Sequence[str], first: Mapping[str, int]) -> None:
    """Refuse rows of one image that disagree on its fold, group, weight, teacher or label origin.

    Args:
        cells: The table.
        keys: The id of each row.
        first: Id to its first row.

    Raises:
        TableError: rows disagree; all are listed.
    """
    for name in find_extras(cells).values():
        column = [text.strip() for text in cells.column(name)]
        wrong = [i for i, key in enumerate(keys) if column[i] != column[first[key]]]
        if wrong:
            raise TableError(
                f"{cells.where}, column {name!r}: {len(wrong)} row(s) differ from the first row "
                f"of their image, on {cells.spell_lines(wrong)}."
            )


def note_extras(cells: Cells, table: Table) -> list[str]:
    """Say which columns were taken for the fold, group, weight, teacher and label origin.

    Args:
        cells: The table as text.
        table: What was read from it.

    Returns:
        A note for each such column.
    """
    told: dict[str, str] = {}
    if table.folds is not None:
        counts = sorted(Counter(table.folds.tolist()).items())
        held = [f"{fold} ({n} images{_FOLD_KINDS.get(fold, '')})" for fold, n in counts]
        told["fold"] = f"is used as the fold: {shorten(held, 20)}"
    if table.groups is not None:
        held_together = f"{len(set(table.groups))} groups, each of which shares a fold"
        told["group"] = f"is used as the group: {held_together}"
    if table.weights is not None:
        low, high = table.weights.min(), table.weights.max()
        idle = int((table.weights == 0).sum())
        unused = f"; {idle} of the images have weight 0 and are not trained on" if idle else ""
        told["weight"] = f"is used as the weight in the loss: {low:g} to {high:g}{unused}"
    if table.teachers is not None:
        told["teacher"] = _describe_teachers(table.teachers)
    if table.label_origins is not None:
        told["label_origin"] = _describe_origins(table.label_origins)
    return [f"column {name!r} {told[role]}" for role, name in find_extras(cells).items()]


def _describe_teachers(teachers: Sequence[str]) -> str:
    counts = Counter(Path(name).name for name in teachers if name)
    told = shorten([f"{name} ({n} images)" for name, n in sorted(counts.items())], 20)
    made = f"labels made by {told}" if counts else "people made all labels"
    return f"is used as the run that made a label: {made}"


def _describe_origins(texts: Sequence[str]) -> str:
    origins = [origin for origin in map(parse_origin, texts) if origin is not None]
    counts = Counter(f"{origin.action} by {origin.by}" for origin in origins)
    told = shorten([f"{n} {how}" for how, n in sorted(counts.items())], 20)
    return f"is used as what was done to a label: {told or 'nothing'}"


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
    cells: Cells, role: str, rows: Sequence[int], parse: Callable[[str], _T | None], expected: str
) -> list[_T] | None:
    found = find_extras(cells)
    if role not in found:
        return None
    name = found[role]
    column = [text.strip() for text in cells.column(name)]
    values = [parse(column[i]) for i in rows]
    bad = [i for i, value in zip(rows, values, strict=True) if value is None]
    if bad:
        raise TableError(
            f"{cells.where}, column {name!r}: {len(bad)} cell(s) are not {expected}, on "
            f"{cells.spell_lines(bad)} (the first is {column[bad[0]]!r}). Correct them, or rename "
            f"the column if it is no {role}."
        )
    return [value for value in values if value is not None]


def _parse_weight(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value < np.inf else None


def _parse_fold(text: str) -> int | None:
    try:
        value = int(text)
    except ValueError:
        return None
    return value if HOLDOUT <= value < 2**15 else None
