"""Sheet cells: the columns of a predictions file, fast, with the place of every bad cell.

Owns CSV and Parquet of a million rows as columns, and their conversion to ids, numbers
and marks. It must not know what a column means (that is `sheetfiles`).

Shapes: R rows of the file.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from loupe.errors import InputError, shorten

Bool = NDArray[np.bool_]
Float32 = NDArray[np.float32]
Int16 = NDArray[np.int16]
Rows = NDArray[np.intp]

TEXT_ENDINGS = (".csv", ".tsv")
PARQUET_ENDINGS = (".parquet", ".pq")
MISSING_WORDS = ("", "nan", "na", "n/a", "null", "none")
"""Cells that mean "no number", in any case."""
_MARKS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_SEPARATORS = (",", ";", "\t")
_HEAD_BYTES = 1 << 20
_SAMPLE = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class RawSheet:
    """The columns of a file as they are.

    Attributes:
        where: The file, for messages.
        size: R, how many rows there are.
        columns: Name to (R,) column: text where the file is CSV.
        lines: True if row r stands on line r + 2 of the file.
        meta: What our own files say of themselves; {} for others.
    """

    where: str
    size: int
    columns: dict[str, pa.ChunkedArray]
    lines: bool
    meta: dict[str, Any]

    def __len__(self) -> int:
        return self.size

    def spell_row(self, row: int) -> str:
        """Name a row by its place in the file.

        Args:
            row: From 0.
        """
        return f"line {row + 2}" if self.lines else f"row {row + 1}"

    def spell_cells(self, rows: Rows, cells: Callable[[int], object], most: int = 4) -> str:
        """List rows with their place and what stands there.

        Args:
            rows: Which, from 0.
            cells: Row to what is to be shown of it.
            most: How many to spell out.
        """
        shown = [f"{self.spell_row(int(row))} ({cells(int(row))})" for row in rows[:most]]
        rest = len(rows) - len(shown)
        return ", ".join(shown) + (f" and {rest} more" if rest else "")


def load_raw(path: Path) -> RawSheet:
    """Load a CSV or Parquet file.

    Args:
        path: The file.

    Raises:
        InputError: it is missing, of another kind, empty, not UTF-8 or not rectangular,
            or two columns have one name.
    """
    ending = path.suffix.lower()
    if ending not in TEXT_ENDINGS + PARQUET_ENDINGS:
        raise InputError(
            f"{path}: predictions are read from {', '.join(TEXT_ENDINGS + PARQUET_ENDINGS)} files, "
            "or from the folder of a run."
        )
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; check the path.")
    sheet, lines = _load_parquet(path) if ending in PARQUET_ENDINGS else _load_csv(path)
    names = [name.strip() for name in sheet.column_names]
    twice = [repr(name) for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(
            f"{path}: {len(twice)} column name(s) stand more than once: {shorten(twice)}. Rename "
            "them, so that each column can be told apart."
        )
    if not len(sheet):
        raise InputError(f"{path}: the file has a header ({shorten(names)}) and no rows.")
    return RawSheet(
        where=str(path),
        size=len(sheet),
        columns=dict(zip(names, sheet.columns, strict=True)),
        lines=lines,
        meta=json.loads((sheet.schema.metadata or {}).get(b"loupe", b"{}")),
    )


def read_ids(raw: RawSheet, name: str) -> pa.ChunkedArray:
    """Read ids as text: "007" stays as it is written.

    Args:
        raw: The file.
        name: The column.

    Raises:
        InputError: a cell is empty, or the column holds no text or whole numbers.
    """
    column = raw.columns[name]
    kind = column.type
    if pa.types.is_floating(kind):
        # A column of whole numbers becomes one of floats where a cell was empty.
        column = pc.cast(column, pa.int64(), safe=False)
        if not pc.all(pc.equal(pc.cast(column, kind), raw.columns[name])).as_py():
            raise InputError(f"{raw.where}: column {name!r} holds fractions; expected ids.")
    elif not _is_text(kind) and not pa.types.is_integer(kind):
        raise InputError(
            f"{raw.where}: column {name!r} holds {kind}; expected ids as text or whole numbers."
        )
    texts = pc.cast(column, pa.string())
    empty = _find(pc.or_kleene(pc.is_null(texts), pc.equal(pc.fill_null(texts, ""), "")))
    if len(empty):
        raise InputError(
            f"{raw.where}: {len(empty)} row(s) have no id in column {name!r}: on "
            f"{shorten([raw.spell_row(int(row)) for row in empty])}."
        )
    return texts


def read_texts(raw: RawSheet, name: str) -> pa.ChunkedArray:
    """Read a column as text; cells without any are null.

    Args:
        raw: The file.
        name: The column.
    """
    texts = pc.cast(raw.columns[name], pa.string())
    return pc.if_else(pc.equal(texts, ""), None, texts)


def read_numbers(raw: RawSheet, name: str) -> Float32:
    """Read a column as float32; cells without a number are NaN.

    Args:
        raw: The file.
        name: The column.

    Raises:
        InputError: cells hold text; they are listed.
    """
    values = _to_floats(raw.columns[name])
    if values is not None:
        return values
    cells = raw.columns[name]
    wrong = _find_texts(cells)
    if not len(wrong):
        # Spellings that only Python reads, such as "infinity".
        texts = ["nan" if _is_missing(str(cell)) else str(cell) for cell in cells.to_pylist()]
        return np.array([float(text) for text in texts], np.float32)
    told = raw.spell_cells(wrong, lambda row: repr(cells[row].as_py()))
    comma = ""
    if all("," in str(cells[int(row)].as_py()) for row in wrong[:_SAMPLE]):
        comma = " A decimal comma? Write the numbers with a point."
    raise InputError(
        f"{raw.where}: column {name!r} holds {len(wrong)} cell(s) that are no numbers, on {told}. "
        f"Expected probabilities.{comma}"
    )


def holds_numbers(raw: RawSheet, name: str) -> bool:
    """Tell whether a column is meant to hold numbers: most of its first cells do.

    Args:
        raw: The file.
        name: The column.
    """
    head = raw.columns[name].slice(0, _SAMPLE)
    if not _is_text(head.type):
        return bool(pa.types.is_integer(head.type) or pa.types.is_floating(head.type))
    cells = [text.strip() for text in head.to_pylist() if text and not _is_missing(text)]
    return 2 * sum(_is_number(text) for text in cells) > len(cells)


def read_folds(raw: RawSheet, name: str) -> Int16 | None:
    """Read whole numbers from -2 on.

    Args:
        raw: The file.
        name: The column.

    Returns:
        (R,) folds; None if all cells are empty.

    Raises:
        InputError: a cell is empty or no fold; all are counted, the first ones listed.
    """
    values = read_numbers(raw, name)
    if np.isnan(values).all():
        return None
    good = (values >= -2) & (values < 2**15) & (np.floor(values) == values)
    wrong = np.flatnonzero(~good)
    if len(wrong):
        cells = raw.columns[name]
        told = raw.spell_cells(wrong, lambda row: repr(cells[row].as_py()))
        raise InputError(
            f"{raw.where}: column {name!r} holds {len(wrong)} cell(s) that are no folds, on "
            f"{told}. Expected a whole number from 0 on, -1 (always trained on) or -2 (never)."
        )
    return values.astype(np.int16)


def read_marks(raw: RawSheet, name: str) -> Bool:
    """Read yes or no: true, 1, yes, false, 0, no, in any case.

    Args:
        raw: The file.
        name: The column.

    Raises:
        InputError: a cell is something else; all are counted, the first ones listed.
    """
    column = raw.columns[name]
    if pa.types.is_boolean(column.type) and not column.null_count:
        return np.asarray(column.to_numpy(), np.bool_)
    coded = column.combine_chunks().dictionary_encode()
    words = [str(word).strip().lower().removesuffix(".0") for word in coded.dictionary.to_pylist()]
    codes = pc.fill_null(coded.indices, len(words)).to_numpy(zero_copy_only=False)
    known = np.array([word in _MARKS for word in words] + [False], np.bool_)
    wrong = np.flatnonzero(~known[codes])
    if len(wrong):
        told = raw.spell_cells(wrong, lambda row: repr(column[row].as_py()))
        raise InputError(
            f"{raw.where}: column {name!r} holds {len(wrong)} cell(s) that are neither true nor "
            f"false, on {told}. Expected true or false, or 1 or 0, in every row."
        )
    meanings = np.array([_MARKS.get(word, False) for word in words] + [False], np.bool_)
    return np.asarray(meanings[codes], np.bool_)


def _load_csv(path: Path) -> tuple[pa.Table, bool]:
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    if not head.strip():
        raise InputError(f"{path}: the file is empty; expected a header line and rows below it.")
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(f"{path}: the file is UTF-16; save it as UTF-8.")
    separator = "\t" if path.suffix.lower() == ".tsv" else _sniff_separator(head)
    names = next(csv.reader([_first_line(head)], delimiter=separator))
    try:
        sheet = _parse(path, separator, names, threads=True)
    except pa.ArrowInvalid:
        try:
            # Slower, and the message names the row.
            sheet = _parse(path, separator, names, threads=False)
        except pa.ArrowInvalid as error:
            raise InputError(f"{path}: not a readable table ({_explain(str(error))}).") from None
    return sheet, _count_lines(path) == len(sheet) + 1


def _parse(path: Path, separator: str, names: Sequence[str], *, threads: bool) -> pa.Table:
    return pcsv.read_csv(
        path,
        read_options=pcsv.ReadOptions(use_threads=threads),
        parse_options=pcsv.ParseOptions(delimiter=separator, newlines_in_values=True),
        convert_options=pcsv.ConvertOptions(
            # All as text: what a column holds is not to be guessed from its first rows.
            column_types=dict.fromkeys(names, pa.string()),
            strings_can_be_null=False,
        ),
    )


def _explain(error: str) -> str:
    if "UTF8" in error:
        return "it is not UTF-8 text; save it as UTF-8, in a spreadsheet as 'CSV UTF-8'"
    return error.removeprefix("CSV parse error: ")[:200]


def _first_line(head: bytes) -> str:
    text = head.decode("utf-8-sig", errors="replace").lstrip("\r\n")
    return text.splitlines()[0] if text else ""


def _sniff_separator(head: bytes) -> str:
    line = _first_line(head)
    # max() keeps the first of equals, and the comma is the first.
    return max(_SEPARATORS, key=lambda each: len(next(csv.reader([line], delimiter=each))))


def _count_lines(path: Path) -> int:
    count, last = 0, b"\n"
    with path.open("rb") as stream:
        while block := stream.read(_HEAD_BYTES):
            count += block.count(b"\n")
            last = block[-1:]
    return count + (last != b"\n")


def _load_parquet(path: Path) -> tuple[pa.Table, bool]:
    try:
        sheet = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({error}).") from None
    kept = [name for name in sheet.column_names if not name.startswith("__index_level_")]
    if not kept:
        raise InputError(f"{path}: the file has no columns.")
    sheet = sheet.select(kept)
    plain = {
        name: pc.cast(sheet[name], sheet[name].type.value_type)
        for name in kept
        if pa.types.is_dictionary(sheet[name].type)
    }
    for name, column in plain.items():
        sheet = sheet.set_column(kept.index(name), name, column)
    return sheet, False


_TEXT_KINDS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_null)


def _is_text(kind: pa.DataType) -> bool:
    return any(is_kind(kind) for is_kind in _TEXT_KINDS)


def _is_missing(text: str) -> bool:
    return text.strip().lower() in MISSING_WORDS


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def _to_floats(column: pa.ChunkedArray) -> Float32 | None:
    """Convert a column; None if a cell is no number."""
    if _is_text(column.type):
        try:
            numbers = pc.cast(column, pa.float32())
        except pa.ArrowInvalid:
            # Slower: blanks around numbers, and the words for none.
            trimmed = pc.utf8_lower(pc.utf8_trim_whitespace(column))
            gone = pc.is_in(trimmed, pa.array(MISSING_WORDS, trimmed.type))
            try:
                numbers = pc.cast(pc.if_else(gone, None, trimmed), pa.float32())
            except pa.ArrowInvalid:
                return None
    else:
        try:
            numbers = pc.cast(column, pa.float32(), safe=False)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return None
    return np.asarray(numbers.to_numpy(), np.float32)


def _find_texts(column: pa.ChunkedArray) -> Rows:
    """Return the rows whose cell is neither a number nor a word for none."""
    cells: Sequence[Any] = column.to_pylist()
    texts = ["" if cell is None else str(cell) for cell in cells]
    return np.array(
        [row for row, text in enumerate(texts) if not _is_missing(text) and not _is_number(text)],
        np.intp,
    )


def _find(mask: pa.ChunkedArray) -> Rows:
    return np.flatnonzero(mask.to_numpy()).astype(np.intp)
