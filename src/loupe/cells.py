"""Cells: the text of a table file exactly as it is written, and its way back.

Owns CSV, TSV, Parquet and data frames as plain text cells with the line each
stands on. It must not guess what a column means (that is `layouts`); pandas
stays in here.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import math
import numbers
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from loupe.errors import TableError, shorten, suggest
from loupe.files import replacing

if TYPE_CHECKING:
    import pandas as pd

SEPARATORS = (",", ";", "\t")
"""What may stand between the cells of a text table, the first preferred."""
LIST_JOINT = "|"
"""What parts the labels of a cell that was a list of them."""
_SAMPLE_ROWS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """A table as text, nothing interpreted.

    Attributes:
        where: The file's name for messages.
        folder: Where relative paths in the table start.
        header: Names of the columns, without surrounding blanks.
        rows: Cells of each row, in the order of `header`.
        lines: For each row the line of the file on which it starts; for other
            sources the number of the row, from 1.
        unit: What `lines` counts: "line" or "row".
        separator: What stands between the cells of the file.
        lists: Columns whose cells were lists; their text is joined by `LIST_JOINT`.
        group: The column that the user named for groups; "" if none.
    """

    where: str
    folder: Path
    header: tuple[str, ...]
    rows: list[list[str]]
    lines: list[int]
    unit: str = "line"
    separator: str = ","
    lists: frozenset[str] = frozenset()
    group: str = ""

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> list[str]:
        """Return the cells of one column.

        Args:
            name: As in `header`.

        Raises:
            TableError: there is no such column.
        """
        self.check_column(name)
        at = self.header.index(name)
        return [row[at] for row in self.rows]

    def check_column(self, name: str, role: str = "a") -> None:
        """Refuse a column that the table does not have.

        Args:
            name: The column.
            role: What it was asked for as, with its article; for the message.

        Raises:
            TableError: there is no such column; the message lists those there are.
        """
        if name not in self.header:
            raise TableError(
                f"{self.where}: {role} column {name!r} is not in the table, whose columns are "
                f"{shorten([repr(n) for n in self.header], 20)}{suggest(name, self.header)}"
            )

    def spell_lines(self, rows: Sequence[int]) -> str:
        """Name rows by where they stand in the file, for messages.

        Args:
            rows: Positions in `rows`.
        """
        plural = self.unit if len(rows) == 1 else f"{self.unit}s"
        return f"{plural} {shorten([self.lines[i] for i in rows])}"


def read_cells(source: str | Path | pd.DataFrame) -> Cells:
    """Read a table as text, without reading anything into its cells.

    Text stays as written: "007", "NA" and "" are three different cells. Numbers
    of Parquet files and data frames become their shortest text, whole ones
    without a point; missing values become "", and a list of labels becomes one
    text, joined by `LIST_JOINT`.

    Args:
        source: A CSV or TSV file (UTF-8; the separator is found out), a Parquet
            file, or a pandas data frame (its index is not read).

    Raises:
        TableError: the file is missing, empty, not UTF-8 or not rectangular, two
            columns have one name, or a cell is no text, number or list of those.
    """
    if not isinstance(source, str | Path):
        return _read_frame(source)
    path = Path(source)
    if not path.is_file():
        raise TableError(
            f"{path}: there is no such file or folder. Expected a CSV, TSV, Parquet or COCO "
            "file, or a folder of images; check the path."
        )
    if path.suffix.lower() in (".parquet", ".pq"):
        return _read_parquet(path)
    return _read_csv(path)


def write_cells(
    path: Path, header: Sequence[str] | None, rows: Sequence[Sequence[str]], separator: str = ","
) -> None:
    r"""Write a CSV in UTF-8 with "\n" at line ends, whole or not at all.

    Cells are quoted where the format needs it and never changed: text that a
    spreadsheet would run as a formula stays as it is.

    Args:
        path: The file; its folder is made.
        header: Names of the columns; None writes no header line.
        rows: The cells.
        separator: What stands between cells.
    """
    everything = rows if header is None else [header, *rows]
    # A bare "\r" is not quoted by every Python, and would read back as a line end.
    odd = any("\r" in cell for row in everything for cell in row)
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(
            out,
            delimiter=separator,
            lineterminator="\n",
            quoting=csv.QUOTE_ALL if odd else csv.QUOTE_MINIMAL,
        )
        writer.writerows(everything)


def _read_csv(path: Path) -> Cells:
    text = _read_text(path)
    with _long_cells_allowed():
        separator = "\t" if path.suffix.lower() == ".tsv" else _sniff_separator(text)
        records, lines = _parse(path, text, separator)
    if not records:
        raise TableError(f"{path}: the file is empty; expected a header line and rows below it.")
    header = tuple(name.strip() for name in records[0])
    _check_width(path, header, records, lines)
    cells = Cells(
        where=path.name,
        folder=path.parent,
        header=header,
        rows=records[1:],
        lines=lines[1:],
        separator=separator,
    )
    return _checked(cells)


def _read_text(path: Path) -> str:
    data = path.read_bytes()
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise TableError(f"{path}: the file is UTF-16; save it as UTF-8.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TableError(
            f"{path}, line {line}: byte 0x{data[error.start]:02X} is not UTF-8 text; save the "
            "table as UTF-8 (in a spreadsheet: 'CSV UTF-8')."
        ) from None


@contextlib.contextmanager
def _long_cells_allowed() -> Iterator[None]:
    # The run-length text of one large mask passes the library's 128 KiB.
    before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _sniff_separator(text: str) -> str:
    widths = {sep: _measure(text, sep) for sep in SEPARATORS}
    # max() keeps the first of equals, and the comma is the first.
    return max(SEPARATORS, key=lambda sep: widths[sep])


def _measure(text: str, separator: str) -> tuple[bool, int]:
    """Tell whether the first rows are equally wide, and how wide the header is."""
    end = -1
    for _ in range(_SAMPLE_ROWS):
        end = text.find("\n", end + 1)
        if end < 0:
            end = len(text)
            break
    # Only the head is copied: tables of masks are large.
    head = itertools.islice(io.StringIO(text[: end + 1], newline=""), _SAMPLE_ROWS)
    rows = [row for row in csv.reader(head, delimiter=separator) if row]
    return len({len(row) for row in rows}) == 1 and len(rows[0]) > 1, len(rows[0]) if rows else 0


def _parse(path: Path, text: str, separator: str) -> tuple[list[list[str]], list[int]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    records: list[list[str]] = []
    lines: list[int] = []
    start = 1
    try:
        for record in reader:
            if record:
                records.append(record)
                lines.append(start)
            start = reader.line_num + 1
    except csv.Error as error:
        raise TableError(
            f"{path}, from line {start} on: {error}; a quote may be open or doubled wrongly."
        ) from None
    return records, lines


def _check_width(
    path: Path, header: tuple[str, ...], records: list[list[str]], lines: list[int]
) -> None:
    width = len(header)
    wrong = [(line, len(r)) for line, r in zip(lines, records, strict=True) if len(r) != width]
    if wrong:
        found = [f"line {line} has {n}" for line, n in wrong]
        raise TableError(
            f"{path}: the header has {width} cells, but {shorten(found)}. Put cells that hold "
            "the separator into double quotes."
        )


def _read_parquet(path: Path) -> Cells:
    try:
        sheet = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise TableError(f"{path}: not a readable Parquet file ({error}).") from None
    names = [name for name in sheet.column_names if not name.startswith("__index_level_")]
    columns = [sheet[name].to_pylist() for name in names]
    return _from_columns(path.name, path.parent, names, columns)


def _read_frame(frame: pd.DataFrame) -> Cells:
    if not (hasattr(frame, "columns") and hasattr(frame, "iloc")):
        raise TableError(
            f"a table is a path or a pandas DataFrame; this is a {type(frame).__name__}."
        )
    names = [str(name) for name in frame.columns]
    columns = [frame.iloc[:, at].tolist() for at in range(len(names))]
    return _from_columns("the data frame", Path(), names, columns)


def _from_columns(
    where: str, folder: Path, names: Sequence[str], columns: Sequence[Sequence[Any]]
) -> Cells:
    header = tuple(name.strip() for name in names)
    _refuse_objects(where, header, columns)
    texts = [[_spell(value) for value in column] for column in columns]
    rows = [list(row) for row in zip(*texts, strict=True)]
    listed = [any(_is_list(value) for value in column) for column in columns]
    cells = Cells(
        where=where,
        folder=folder,
        header=header,
        rows=rows,
        lines=list(range(1, len(rows) + 1)),
        unit="row",
        lists=frozenset(itertools.compress(header, listed)),
    )
    return _checked(cells)


def _refuse_objects(where: str, header: Sequence[str], columns: Sequence[Sequence[Any]]) -> None:
    """Refuse cells that have no text of their own, such as the bytes of an image."""
    told = []
    for name, column in zip(header, columns, strict=True):
        wrong = {row: kind for row, value in enumerate(column, 1) if (kind := _name_object(value))}
        if wrong:
            kinds = " and ".join(dict.fromkeys(wrong.values()))
            plural = "row" if len(wrong) == 1 else "rows"
            told.append(f"column {name!r} holds {kinds} on {plural} {shorten(list(wrong))}")
    if told:
        raise TableError(
            f"{where}: {'; '.join(told)}. Expected text, numbers or lists of labels: write file "
            "names and labels as text, and take columns of other data out."
        )


def _name_object(value: object) -> str:
    """Name what a cell holds if it cannot be spelled; "" if it can."""
    if isinstance(value, dict | bytes | bytearray | memoryview):
        return f"a {type(value).__name__} object"
    if not _is_list(value):
        return ""
    parts = _open_list(value)
    odd = [p for p in parts if not isinstance(p, str | numbers.Number | np.generic)]
    if odd:
        return f"a list of {type(odd[0]).__name__} objects"
    return f"a label with {LIST_JOINT!r} in it" if any(LIST_JOINT in str(p) for p in parts) else ""


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple | np.ndarray)


def _open_list(value: Any) -> list[Any]:
    return np.atleast_1d(value).tolist() if isinstance(value, np.ndarray) else list(value)


def _spell(value: object) -> str:
    if isinstance(value, str):
        return value
    if _is_list(value):
        return LIST_JOINT.join(_spell(part) for part in _open_list(value))
    # NaN, NaT and pandas' NA are the values that do not equal themselves.
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return ""
    if isinstance(value, float):
        if math.isnan(value):
            return ""
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(float(value))
    return str(value)


def _checked(cells: Cells) -> Cells:
    twice = [repr(name) for name, n in Counter(cells.header).items() if n > 1]
    if twice:
        raise TableError(
            f"{cells.where}: {len(twice)} column name(s) stand more than once: {shorten(twice)}. "
            "Rename them, so that each column can be told apart."
        )
    if not cells.rows:
        raise TableError(
            f"{cells.where}: the table has a header ({', '.join(cells.header)}) and no rows."
        )
    return cells


def add_columns(cells: Cells, added: Mapping[str, Sequence[str]]) -> Cells:
    """Set columns of a table, replacing those of the same name in place.

    Args:
        cells: The table.
        added: Name to one cell for each row.

    Returns:
        A new table; all other cells are as they were.
    """
    header = (*cells.header, *(name for name in added if name not in cells.header))
    rows = [row + [""] * (len(header) - len(row)) for row in cells.rows]
    for name, column in added.items():
        at = header.index(name)
        for row, cell in zip(rows, column, strict=True):
            row[at] = cell
    return replace(cells, header=header, rows=rows)
