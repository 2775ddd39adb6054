"""Mask sheets: run-length text of images by classes, read from a file and written back.

Owns `Masks`, the sheet that gates and cascades work on, and the three layouts of
submissions. An unchanged file is written byte by byte; a changed mask changes its own
row alone, and no row is dropped or moved. It must not decode pixels or choose masks.

Shapes: N images, C classes.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from loupe.cells import Cells, read_cells
from loupe.columns import RLE_LAYOUTS, Columns, recognise_columns, split_keys
from loupe.errors import MaskError, TableError, shorten
from loupe.files import replacing
from loupe.labels import sort_labels
from loupe.maskfaults import find_faults, suspect_layout
from loupe.masks import Size, resize_rle
from loupe.runlengths import MASK_CLASS

Int64 = NDArray[np.int64]
MaskLayout = Literal["rle-joined", "rle-rows", "rle-single"]

NO_MASK = ("", "-1", "nan", "none", "null", "na", "<na>")
"""What a cell without a mask may hold, in any case."""
HEADERS: dict[MaskLayout, tuple[str, ...]] = {
    "rle-joined": ("Image_Label", "EncodedPixels"),
    "rle-rows": ("ImageId", "ClassId", "EncodedPixels"),
    "rle-single": ("id", "rle_mask"),
}
"""Columns of a sheet that was not read from a file: image, class, text."""
_MOST_FAULTS = 20
_TEXT_TABLES = (".csv", ".tsv", ".txt")


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskForm:
    """How a file of masks is written, so that it can be written again.

    Attributes:
        layout: One of `HEADERS`.
        header: Names of all columns, in order; those that are no image, class or
            text are kept as they are.
        image_column: Column of the image, or of image and class in one.
        class_column: Column of the class; "" where the layout has none.
        text_column: Column of the run-length text.
        separator: What stands between cells.
        pairs: Id and class of each row in the order of the file; a row without class
            has "". None were read: one row for each image and class.
        cells: All cells of each row, as written.
        records: Each row as it stands in the file, with its line end; () if the file
            is no text.
        head: The header line as it stands in the file.
        no_mask: What the file writes where there is no mask.
    """

    layout: MaskLayout = "rle-joined"
    header: tuple[str, ...] = HEADERS["rle-joined"]
    image_column: str = HEADERS["rle-joined"][0]
    class_column: str = ""
    text_column: str = HEADERS["rle-joined"][-1]
    separator: str = ","
    pairs: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    cells: tuple[tuple[str, ...], ...] = field(default=(), repr=False)
    records: tuple[str, ...] = field(default=(), repr=False)
    head: str = ""
    no_mask: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Masks:
    """Masks of N images by C classes, as run-length text.

    Attributes:
        ids: Ids of the images.
        classes: Names of the classes.
        texts: (N, C) run-length text, see `masks.encode_rle`; "" is no mask.
        sizes: (N, 2) height and width of the images; None if they are not known.
        form: How the file was written.
        notes: What was assumed or looks odd.
    """

    ids: tuple[str, ...]
    classes: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]
    sizes: Int64 | None = None
    form: MaskForm = MaskForm()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the shapes, and that no id or class stands twice.

        Raises:
            MaskError: they do not fit.
        """
        wide = [len(row) for row in self.texts]
        if len(wide) != len(self.ids) or any(n != len(self.classes) for n in wide):
            raise MaskError(
                f"{len(wide)} rows of masks, {sorted(set(wide))} wide, for {len(self.ids)} images "
                f"and {len(self.classes)} classes; expected a row for each image."
            )
        if self.sizes is not None and self.sizes.shape != (len(self.ids), 2):
            raise MaskError(
                f"sizes of shape {self.sizes.shape}; expected ({len(self.ids)}, 2), the height and "
                "width of each image."
            )
        counted = (*Counter(self.ids).items(), *Counter(self.classes).items())
        twice = [repr(name) for name, times in counted if times > 1]
        if twice:
            raise MaskError(f"ids or classes stand more than once: {shorten(twice)}.")

    @property
    def present(self) -> NDArray[np.bool_]:
        """Where there is a mask, (N, C)."""
        flags = [bool(text) for row in self.texts for text in row]
        return np.array(flags, bool).reshape(len(self.ids), len(self.classes))


def make_form(layout: MaskLayout = "rle-joined") -> MaskForm:
    """Make the form of a new file, with the usual names of columns.

    Args:
        layout: One of `HEADERS`.
    """
    header = HEADERS[layout]
    return MaskForm(
        layout=layout,
        header=header,
        image_column=header[0],
        class_column=header[1] if layout == "rle-rows" else "",
        text_column=header[-1],
    )


def read_mask_sheet(
    path: str | Path,
    *,
    classes: Sequence[str] | None = None,
    sizes: Size | Mapping[str, Size] | None = None,
) -> Masks:
    """Read a file of run-length text: a submission, or a training table of masks.

    Args:
        path: CSV, TSV or Parquet with ``Image_Label`` or ``ImageId_ClassId`` and
            ``EncodedPixels``; ``ImageId, ClassId, EncodedPixels``; or
            ``id, rle_mask``. Other columns are kept and not read.
        classes: The classes in the order wanted; those that have no row are without
            masks. None takes those of the file, sorted.
        sizes: Height and width of the image files, for all or by id; None checks
            only what can be checked without.

    Returns:
        Images in the order of their first row; `Masks.notes` tells if masks look
        made along rows, or for another size.

    Raises:
        MaskError: texts are not valid (each is told with its line and all its faults),
            image and class stand on several rows, or classes or sizes are missing.
        TableError: the file cannot be read, or has no such columns.
    """
    cells = read_cells(path)
    columns = recognise_columns(cells)
    if columns.layout not in RLE_LAYOUTS:
        raise TableError(
            f"{cells.where}: no column of run-length text ('EncodedPixels' or 'rle_mask') among "
            f"{', '.join(cells.header)}."
        )
    if columns.layout == "rle-single" and classes is not None and len(classes) != 1:
        raise MaskError(
            f"{cells.where}: the columns {', '.join(cells.header)} tell no class from another, but "
            f"{len(classes)} were asked for: {shorten(classes)}."
        )
    form = _describe(Path(path), cells, columns, (classes or [MASK_CLASS])[0])
    texts = ["" if _is_none(cell) else cell.strip() for cell in cells.column(form.text_column)]
    _refuse_repeats(cells, form.pairs)
    _refuse_nameless(cells, form.pairs, texts)
    ids = tuple(dict.fromkeys(key for key, _ in form.pairs))
    names = _choose_classes(cells, form, classes)
    size_of = _read_sizes(cells, ids, sizes)
    row_sizes = None if size_of is None else [size_of[key] for key, _ in form.pairs]
    _refuse_faults(cells, form, texts, row_sizes)
    found = dict(zip(form.pairs, texts, strict=True))
    return Masks(
        ids=ids,
        classes=names,
        texts=tuple(tuple(found.get((key, name), "") for name in names) for key in ids),
        sizes=None if size_of is None else np.array([size_of[key] for key in ids], np.int64),
        form=form,
        notes=tuple(_note_layout(texts, row_sizes)),
    )


def write_mask_sheet(path: str | Path, masks: Masks) -> None:
    """Write masks as the file was from which they were read.

    Rows keep their order and other columns; those whose mask is as it was are written
    as they stand in the file. A mask without a row gets one behind all others.

    Args:
        path: The CSV or TSV; its folder is made.
        masks: See `Masks`.

    Raises:
        MaskError: rows of the file are of images or classes that are not in `masks`,
            the layout knows but one class, or the name is not one of a text table.
    """
    path = Path(path)
    if path.suffix.lower() not in _TEXT_TABLES:
        raise MaskError(f"{path}: masks are written as text; expected a name such as masks.csv.")
    form = masks.form
    if form.layout == "rle-single" and len(masks.classes) > 1:
        raise MaskError(
            f"{len(masks.classes)} classes ({shorten(masks.classes)}) do not fit into a file of "
            f"{' and '.join(form.header)}; pass form=make_form('rle-joined')."
        )
    texts = {
        (key, name): text
        for key, row in zip(masks.ids, masks.texts, strict=True)
        for name, text in zip(masks.classes, row, strict=True)
    }
    _refuse_strangers(form, masks)
    parts = [form.head or _spell(form.header, form.separator) + "\n"]
    for at, pair in enumerate(form.pairs):
        parts.append(_rewrite(form, at, texts.get(pair, "")))
    known = set(form.pairs)
    more = [
        _spell(_compose(form, pair, text), form.separator) + "\n"
        for pair, text in texts.items()
        if pair not in known and (text or not form.pairs)
    ]
    if more and not parts[-1].endswith(("\n", "\r")):
        parts.append("\n")
    with replacing(path) as temporary:
        temporary.write_bytes("".join([*parts, *more]).encode("utf-8"))


def resize_sheet(masks: Masks, size: Size) -> Masks:
    """Resize all masks to one size, as a submission may want; see `masks.resize_rle`.

    Args:
        masks: With their sizes.
        size: Height and width that all are to have.

    Returns:
        Masks of that size; a note counts those too thin to be seen there.

    Raises:
        MaskError: the sizes are not known, or a text is not valid for its size.
    """
    if masks.sizes is None:
        raise MaskError(
            "the sizes of the images are not known, so their masks cannot be resized; read the "
            "sheet with sizes=(height, width)."
        )
    texts = tuple(
        tuple(resize_rle(text, (int(high), int(wide)), size) if text else "" for text in row)
        for row, (high, wide) in zip(masks.texts, masks.sizes, strict=True)
    )
    sizes = np.tile(np.array(size, np.int64), (len(masks.ids), 1))
    small = replace(masks, texts=texts, sizes=sizes)
    lost = int(masks.present.sum() - small.present.sum())
    if lost:
        note = f"{lost} mask(s) have no pixel left at {size[0]} x {size[1]} (height x width)"
        small = replace(small, notes=(*small.notes, note))
    return small


def _describe(path: Path, cells: Cells, columns: Columns, only: str) -> MaskForm:
    """Keep the file as it is written beside what its columns mean."""
    layout: MaskLayout = "rle-joined"
    if columns.layout == "rle-joined":
        pairs = split_keys(cells, columns.id)
    else:
        layout = "rle-rows" if columns.layout == "rle-rows" else "rle-single"
        names = [only] * len(cells)
        if layout == "rle-rows":
            names = [text.strip() for text in cells.column(columns.labels[0])]
        pairs = list(zip(cells.column(columns.id), names, strict=True))
    written = Counter(c for c in cells.column(columns.labels[-1]) if _is_none(c))
    records = _part_records(path, cells) if cells.unit == "line" else []
    return MaskForm(
        layout=layout,
        header=cells.header,
        image_column=columns.id,
        class_column=columns.labels[0] if layout == "rle-rows" else "",
        text_column=columns.labels[-1],
        separator=cells.separator,
        pairs=tuple(pairs),
        cells=tuple(map(tuple, cells.rows)),
        records=tuple(records[1:]),
        head=records[0] if records else "",
        no_mask=written.most_common(1)[0][0] if written else "",
    )


def _part_records(path: Path, cells: Cells) -> list[str]:
    """Part the file's text into its header and the records of its rows, nothing lost."""
    # Of bytes, only "\n", "\r" and both together end a line, as for the csv module.
    lines = path.read_bytes().splitlines(keepends=True)
    edges = [0, *(line - 1 for line in cells.lines), len(lines)]
    return [b"".join(lines[a:b]).decode("utf-8") for a, b in itertools.pairwise(edges)]


def _is_none(cell: str) -> bool:
    # Run-length text is long, and none of these is.
    return len(cell) < 8 and cell.strip().casefold() in NO_MASK


def _refuse_repeats(cells: Cells, pairs: Sequence[tuple[str, str]]) -> None:
    rows: dict[tuple[str, str], list[int]] = {}
    for at, pair in enumerate(pairs):
        rows.setdefault(pair, []).append(at)
    twice = [
        f"image {key!r}, class {name!r} on {cells.spell_lines(at)}"
        for (key, name), at in rows.items()
        if len(at) > 1
    ]
    if twice:
        raise MaskError(
            f"{cells.where}: {len(twice)} pair(s) of image and class have several rows: "
            f"{shorten(twice)}. Keep one row for each, or join their masks with "
            "loupe.masks.join_rle."
        )


def _refuse_nameless(cells: Cells, pairs: Sequence[tuple[str, str]], texts: Sequence[str]) -> None:
    bare = [at for at, (key, _) in enumerate(pairs) if not key.strip()]
    lost = [at for at, (_, name) in enumerate(pairs) if not name and texts[at]]
    told = [
        f"{len(rows)} {what}, on {cells.spell_lines(rows)}"
        for rows, what in ((bare, "row(s) name no image"), (lost, "mask(s) have no class"))
        if rows
    ]
    if told:
        raise MaskError(f"{cells.where}: {'; '.join(told)}.")


def _choose_classes(cells: Cells, form: MaskForm, classes: Sequence[str] | None) -> tuple[str, ...]:
    found = sort_labels({name for _, name in form.pairs} - {""})
    if classes is None:
        return tuple(found)
    unknown = [name for name in found if name not in classes]
    if unknown:
        rows = [at for at, (_, name) in enumerate(form.pairs) if name in set(unknown)]
        raise MaskError(
            f"{cells.where}: {len(rows)} row(s) are of classes that were not asked for "
            f"({shorten([repr(n) for n in unknown])}), on {cells.spell_lines(rows)}; expected "
            f"{shorten([repr(n) for n in classes])}."
        )
    return tuple(classes)


def _read_sizes(
    cells: Cells, ids: Sequence[str], sizes: Size | Mapping[str, Size] | None
) -> dict[str, Size] | None:
    if sizes is None:
        return None
    known = sizes if isinstance(sizes, Mapping) else dict.fromkeys(ids, sizes)
    missing = [repr(key) for key in ids if key not in known]
    if missing:
        found = f"the sizes of {len(missing)} image(s) are missing: {shorten(missing)}"
        raise MaskError(f"{cells.where}: {found}.")
    wrong = [repr(key) for key in ids if min(known[key]) < 1]
    if wrong:
        raise MaskError(f"{len(wrong)} image(s) are below 1 x 1 pixel: {shorten(wrong)}.")
    return {key: (int(known[key][0]), int(known[key][1])) for key in ids}


def _refuse_faults(
    cells: Cells, form: MaskForm, texts: Sequence[str], sizes: Sequence[Size] | None
) -> None:
    found = find_faults(texts, sizes)
    if found:
        told = [f"{cells.unit} {cells.lines[at]}: {'; '.join(f)}" for at, f in found.items()]
        raise MaskError(
            f"{cells.where}, column {form.text_column!r}: {len(found)} cell(s) are not valid "
            f"run-length text. {shorten(told, _MOST_FAULTS)}. Expected pairs 'start length' in "
            "order, pixels counted from 1 down the columns, or an empty cell for no mask."
        )


def _note_layout(texts: Sequence[str], sizes: Sequence[Size] | None) -> list[str]:
    if sizes is None:
        return []
    by_size: dict[Size, list[str]] = {}
    for text, size in zip(texts, sizes, strict=True):
        if text:
            by_size.setdefault(size, []).append(text)
    return [note for size, same in by_size.items() if (note := suspect_layout(same, *size))]


def _refuse_strangers(form: MaskForm, masks: Masks) -> None:
    ids, names = set(masks.ids), {*masks.classes, ""}
    lost = [f"{k!r}, {n!r}" for k, n in form.pairs if k not in ids or n not in names]
    if lost:
        raise MaskError(
            f"{len(lost)} row(s) of the file are of images or classes without masks here: "
            f"{shorten(lost)}; rows are never dropped."
        )


def _rewrite(form: MaskForm, at: int, text: str) -> str:
    """Return the record of a row, the file's own if its mask is as it was."""
    cells = list(form.cells[at])
    place = form.header.index(form.text_column)
    before = "" if _is_none(cells[place]) else cells[place].strip()
    if form.records and text == before:
        return form.records[at]
    if text != before:
        cells[place] = text or form.no_mask
    record = form.records[at] if form.records else "\n"
    bare = record.rstrip("\r\n")
    quoted = len(bare) > 1 and bare[0] == bare[-1] == '"'
    return _spell(cells, form.separator, quoted=quoted) + record[len(bare) :]


def _compose(form: MaskForm, pair: tuple[str, str], text: str) -> list[str]:
    key, name = pair
    filled = {
        form.image_column: f"{key}_{name}" if form.layout == "rle-joined" else key,
        form.text_column: text or form.no_mask,
    }
    if form.class_column:
        filled[form.class_column] = name
    return [filled.get(column, "") for column in form.header]


def _spell(cells: Sequence[str], separator: str, *, quoted: bool = False) -> str:
    out = io.StringIO(newline="")
    writer = csv.writer(
        out,
        delimiter=separator,
        lineterminator="",
        quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL,
    )
    writer.writerow(cells)
    return out.getvalue()
