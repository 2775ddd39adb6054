"""Labels: text cells turned into targets, and what the text says about itself.

Owns the five ways a label is written (a class, a 0/1 word, columns, a
list, pairs of row and class) and the name map. It must not choose columns
or look for files.

Shapes: N rows, C classes.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from loupe.cells import LIST_JOINT, Cells
from loupe.errors import TableError, shorten
from loupe.table import Float32

LIST_SEPARATORS = ("|", ";", ",", " ")
"""What may part the labels of a list, in the order tried."""
WORDS = (("0", "1"), ("0.0", "1.0"), ("false", "true"), ("no", "yes"))
"""Pairs that make a column a 0/1 column, whatever their case."""
_VALUES = {word: float(at) for pair in WORDS for at, word in enumerate(pair)}
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")
_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Targets and how their text was written.

    Attributes:
        classes: (C,) names.
        targets: (N, C) float32.
        exclusive: True if the columns of a row sum to 1.
        written: For each class its text in the table, if a name map renamed it.
        words: Text of absent and present in a 0/1 column.
        separator: What parts the labels of a list.
        notes: What the user should know.
    """

    classes: tuple[str, ...]
    targets: Float32
    exclusive: bool
    written: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    separator: str = ""
    notes: tuple[str, ...] = ()


def read_names(names: str | Path | Mapping[object, str] | None) -> dict[str, str]:
    """Read a map from the text in a table, often a number, to a class name.

    Args:
        names: A JSON file such as ``{"0": "CBB", "1": "CBSD"}``, or a mapping.

    Raises:
        TableError: the file is not such a map, or two entries share a name.
    """
    if names is None:
        return {}
    if isinstance(names, str | Path):
        where, found = str(names), _read_json_map(Path(names))
    else:
        where, found = "names", dict(names)
    wrong = [f"{key!r}: {value!r}" for key, value in found.items() if not isinstance(value, str)]
    if wrong or not found:
        raise TableError(
            f'{where}: expected a map from text to name, such as {{"0": "CBB"}}; '
            f"found {shorten(wrong) or 'nothing'}."
        )
    mapped = {str(key).strip(): str(value).strip() for key, value in found.items()}
    twice = [repr(name) for name, n in Counter(mapped.values()).items() if n > 1]
    if twice:
        raise TableError(f"{where}: several entries have one name: {shorten(twice)}.")
    return mapped


def sort_labels(labels: Iterable[str]) -> list[str]:
    """Sort label texts: by value if all are numbers, else by code point.

    Examples:
        >>> sort_labels(["10", "9", "1"]), sort_labels(["b", "10", "a"])
        (['1', '9', '10'], ['10', 'a', 'b'])
    """
    found = sorted(set(labels))
    if all(_NUMBER.fullmatch(text) for text in found):
        return sorted(found, key=float)
    return found


def find_list_separator(texts: Iterable[str]) -> str:
    """Tell what parts the labels, if a column holds lists of labels.

    A blank may also belong to a name ("leaf smut"), so it counts only if some
    label stands both alone and in a list, and there are fewer labels than
    different cells. For other separators one label in two cells is enough.

    Args:
        texts: The column.

    Returns:
        One of `LIST_SEPARATORS`, or "" if each cell is one label.

    Examples:
        >>> find_list_separator(["cars", "cars grass", "grass", "grass trees", "trees"])
        ' '
        >>> find_list_separator(["leaf smut", "brown spot", "leaf blight"])
        ''
    """
    distinct = {text.strip() for text in texts} - {""}
    for separator in LIST_SEPARATORS:
        lists = [split_list(text, separator) for text in distinct]
        if _are_lists(lists, blank=separator == " "):
            return separator
    return ""


def split_list(text: str, separator: str) -> list[str]:
    """Split one cell into its labels, without empty ones."""
    return [label.strip() for label in text.split(separator) if label.strip()]


def tell_kind(texts: Sequence[str], *, named: bool = False) -> str:
    """Tell how a label column is written.

    Args:
        texts: The column.
        named: Whether a name map says that numbers stand for classes.

    Returns:
        "binary" for 0/1 words and for numbers in [0, 1], "label-list", or "classes".
    """
    distinct = {text.strip() for text in texts} - {""}
    if named:
        return "label-list" if find_list_separator(distinct) else "classes"
    if _find_words(distinct) or (distinct and all(_to_unit(t) is not None for t in distinct)):
        return "binary"
    return "label-list" if find_list_separator(distinct) else "classes"


def is_unit_column(texts: Iterable[str]) -> bool:
    """Tell whether every cell is a 0/1 word or a number in [0, 1]."""
    return all(_to_unit(text) is not None for text in {text.strip() for text in texts})


def encode_classes(cells: Cells, column: str, names: Mapping[str, str]) -> Labels:
    """Read one class a row.

    With a name map, every class of the map is a column, also one without a row,
    so that parts of a data set agree.

    Args:
        cells: The table.
        column: Its label column.
        names: Text in the table to class name; empty for none.

    Raises:
        TableError: a row has no label, or its label is not in the map.
    """
    texts = [text.strip() for text in cells.column(column)]
    _refuse_empty(cells, column, texts)
    order, notes = _order_labels(texts, names, f"{cells.where}, column {column!r}")
    index = {text: at for at, text in enumerate(order)}
    targets = np.zeros((len(texts), len(order)), np.float32)
    targets[np.arange(len(texts)), [index[text] for text in texts]] = 1
    return _named(order, names, targets, exclusive=True, notes=notes)


def encode_binary(cells: Cells, column: str) -> Labels:
    """Read one 0/1 column, named as its header; numbers between are soft targets.

    Args:
        cells: The table.
        column: Its label column.

    Raises:
        TableError: a row has no label or another value.
    """
    targets = _read_units(cells, [column])
    words = _find_words({text.strip() for text in cells.column(column)}) or WORDS[0]
    soft = bool(((targets > 0) & (targets < 1)).any())
    notes = ("the column holds soft targets between 0 and 1",) if soft else ()
    return Labels(classes=(column,), targets=targets, exclusive=False, words=words, notes=notes)


def encode_multi_hot(cells: Cells, columns: Sequence[str], names: Mapping[str, str]) -> Labels:
    """Read a column for each class, of 0 and 1 or of soft targets.

    Args:
        cells: The table.
        columns: Its label columns.
        names: Column name to class name; empty for none.

    Returns:
        Exclusive if every row sums to 1, else columns that stand alone.

    Raises:
        TableError: a cell is not in [0, 1]; all such cells are listed.
    """
    targets = _read_units(cells, columns)
    exclusive = bool((np.abs(targets.sum(axis=1) - 1) <= _SUM_TOLERANCE).all())
    notes = ["every row sums to 1: the classes are exclusive"] if exclusive else []
    if ((targets > 0) & (targets < 1)).any():
        notes.append("the columns hold soft targets between 0 and 1")
    _refuse_unnamed(columns, names, cells.where)
    return _named(columns, names, targets, exclusive=exclusive, notes=notes)


def encode_lists(cells: Cells, column: str, names: Mapping[str, str]) -> Labels:
    """Read one list of labels a row; an empty list has none of the classes.

    Args:
        cells: The table.
        column: Its label column.
        names: Label to class name; empty for none.

    Raises:
        TableError: a label is not in the map.
    """
    texts = cells.column(column)
    typed = column in cells.lists
    separator = LIST_JOINT if typed else find_list_separator(texts) or _first_separator(texts)
    lists = [split_list(text, separator) for text in texts]
    order, notes = _order_labels(list(chain(*lists)), names, f"{cells.where}, column {column!r}")
    pairs = [(row, label) for row, found in enumerate(lists) for label in found]
    targets = _mark(len(lists), order, pairs)
    empty = sum(not found for found in lists)
    if not typed:
        notes.append(f"lists of labels are parted by {separator!r}")
    elif all(len(found) == 1 for found in lists):
        notes.append("every cell is a list of one label; layout 'classes' makes them exclusive")
    else:
        notes.append("cells are lists of labels")
    if empty:
        notes.append(f"{empty} rows have an empty list: none of the classes")
    return _named(order, names, targets, exclusive=False, notes=notes, separator=separator)


def encode_presence(
    rows: int, pairs: Sequence[tuple[int, str]], known: Iterable[str], names: Mapping[str, str]
) -> Labels:
    """Make 0/1 targets from pairs of a row and a class that is present in it.

    Args:
        rows: How many rows there are.
        pairs: Position of the row, and the class as written.
        known: Every class as written, also those present nowhere.
        names: Text to class name; empty for none.

    Raises:
        TableError: a class is not in the map.
    """
    order, notes = _order_labels([*known], names, "the masks' classes")
    return _named(order, names, _mark(rows, order, pairs), exclusive=False, notes=notes)


def _read_json_map(path: Path) -> dict[object, object]:
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise TableError(f"{path}: the name map cannot be read ({error}).") from None
    if not isinstance(found, dict):
        raise TableError(f'{path}: expected a JSON object such as {{"0": "CBB"}}.')
    return dict(found)


def _are_lists(lists: Sequence[Sequence[str]], *, blank: bool) -> bool:
    several = [found for found in lists if len(found) > 1]
    if not several or any(len(set(found)) < len(found) for found in several):
        return False
    counts = Counter(chain(*lists))
    if not blank:
        return max(counts.values()) > 1
    alone = {found[0] for found in lists if len(found) == 1}
    return len(counts) < len(lists) and not alone.isdisjoint(chain(*several))


def _first_separator(texts: Sequence[str]) -> str:
    for separator in LIST_SEPARATORS:
        if any(separator in text.strip() for text in texts):
            return separator
    return " "


def _find_words(distinct: set[str]) -> tuple[str, ...]:
    """Return the texts of absent and present, if the column has no others."""
    lowered = {text.lower(): text for text in distinct}
    if len(lowered) != len(distinct) or not distinct:
        return ()
    for pair in WORDS:
        if lowered.keys() <= set(pair):
            example = next(iter(distinct))
            cased = (_like(example, word) for word in pair)
            return tuple(lowered.get(w, c) for w, c in zip(pair, cased, strict=True))
    return ()


def _like(example: str, word: str) -> str:
    if example.isupper():
        return word.upper()
    return word.capitalize() if example[:1].isupper() else word


def _to_unit(text: str) -> float | None:
    known = _VALUES.get(text.lower())
    if known is not None:
        return known
    if not _NUMBER.fullmatch(text):
        return None
    value = float(text)
    return value if 0 <= value <= 1 else None


def _read_units(cells: Cells, columns: Sequence[str]) -> Float32:
    targets = np.zeros((len(cells), len(columns)), np.float32)
    wrong = []
    for at, name in enumerate(columns):
        texts = [text.strip() for text in cells.column(name)]
        values = {text: _to_unit(text) for text in set(texts)}
        bad = [i for i, text in enumerate(texts) if values[text] is None]
        wrong += [f"column {name!r} on {cells.unit} {cells.lines[i]}: {texts[i]!r}" for i in bad]
        if not bad:
            targets[:, at] = [values[text] for text in texts]
    if wrong:
        raise TableError(
            f"{cells.where}: {len(wrong)} cell(s) are not 0, 1 or a number between: "
            f"{shorten(wrong)}. Correct them, or name other columns with --label-column."
        )
    return targets


def _refuse_empty(cells: Cells, column: str, texts: Sequence[str]) -> None:
    empty = [i for i, text in enumerate(texts) if not text]
    if empty:
        raise TableError(
            f"{cells.where}, column {column!r}: {len(empty)} row(s) have no label, on "
            f"{cells.spell_lines(empty)}. Fill them in or take the rows out (layout 'images' "
            "reads a table without its labels)."
        )


def _order_labels(
    texts: Sequence[str], names: Mapping[str, str], where: str
) -> tuple[list[str], list[str]]:
    """Return the label texts in the order of the columns, and notes."""
    found = set(texts)
    if not names:
        notes = _note_lookalikes(found)
        return sort_labels(found), notes
    _refuse_unnamed(sort_labels(found), names, where)
    unused = [repr(names[text]) for text in sort_labels(names.keys()) if text not in found]
    notes = [f"the name map also has {shorten(unused)}, without a row"] if unused else []
    return sort_labels(names), notes


def _refuse_unnamed(found: Sequence[str], names: Mapping[str, str], where: str) -> None:
    unknown = [repr(text) for text in found if text not in names]
    if names and unknown:
        raise TableError(
            f"{where}: the name map has no name for {shorten(unknown)}; it names "
            f"{shorten([repr(text) for text in names])}."
        )


def _note_lookalikes(found: set[str]) -> list[str]:
    folded = Counter(" ".join(text.casefold().split()) for text in found)
    alike = sorted(t for t in found if folded[" ".join(t.casefold().split())] > 1)
    if not alike:
        return []
    return [f"labels that differ only by case or blanks: {shorten([repr(t) for t in alike])}"]


def _mark(rows: int, order: Sequence[str], pairs: Sequence[tuple[int, str]]) -> Float32:
    targets = np.zeros((rows, len(order)), np.float32)
    index = {text: at for at, text in enumerate(order)}
    if pairs:
        targets[[row for row, _ in pairs], [index[text] for _, text in pairs]] = 1
    return targets


def _named(
    order: Sequence[str],
    names: Mapping[str, str],
    targets: Float32,
    *,
    exclusive: bool,
    notes: Sequence[str],
    separator: str = "",
) -> Labels:
    return Labels(
        classes=tuple(names.get(text, text) for text in order),
        targets=targets,
        exclusive=exclusive,
        written=tuple(order) if names else (),
        separator=separator,
        notes=tuple(notes),
    )
