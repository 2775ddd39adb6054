"""Columns: which column of a table is the image, which the label, and so the layout.

Owns the names that are recognised and the rules of the choice. It must not turn
cells into targets or look for files. Nothing is chosen silently: every choice is
a note, and a doubtful one is an error that names the argument which settles it.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from loupe.cells import Cells
from loupe.errors import TableError, shorten
from loupe.labels import find_list_separator, is_unit_column, tell_kind
from loupe.locating import EXTENSIONS, is_image
from loupe.table import Layout

# Names are compared without case, blanks and punctuation; earlier ones win.
IMAGE_COLUMNS = (
    *("image", "imageid", "imagename", "imagepath", "imagefile", "images"),
    *("img", "imgid", "imgname", "imgpath", "filename", "filepath", "file", "path", "id"),
)
"""Names of an image column, in order of preference."""
LABEL_COLUMNS = (
    *("label", "labels", "class", "classes", "target", "targets", "category", "categories"),
    *("classname", "labelname", "categoryname", "classid", "labelid", "categoryid"),
)
"""Names of a label column, in order of preference."""
RLE_COLUMNS = ("encodedpixels", "rlemask", "maskrle", "rle")
"""Names of a column of run-length text."""
JOINED_COLUMNS = ("imagelabel", "imageidclassid", "imageclass", "imageclassid")
"""Names of a column that joins an image and a class by an underscore."""
EXTRA_COLUMNS = ("fold", "group", "weight", "teacher", "label_origin")
"""Columns with a meaning of their own, by exact name in any case."""
LISTED, LISTED_ALL = "listed", "all"
"""Column, and what its cells hold, of a table of masks that lists its clean images, too."""
RLE_LAYOUTS = ("rle-joined", "rle-rows", "rle-single")
SINGLE_LAYOUTS = ("classes", "binary", "label-list")
COLUMN_LAYOUTS = (*SINGLE_LAYOUTS, "multi-hot", *RLE_LAYOUTS, "images")
_LABEL_WORDS = {"label", "labels", "class", "classes", "target", "targets", "category"}
_NEVER_LABELS = ("", "index", "unnamed0", "split", "error")
_JOINED = re.compile(
    rf"(.+(?:{'|'.join(re.escape(e) for e in EXTENSIONS)}))_(.+)", re.IGNORECASE | re.DOTALL
)
_FEW_ROWS = 10
_SAMPLE_ROWS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The columns of a table that matter, and the layout they make.

    Attributes:
        layout: One of `COLUMN_LAYOUTS`.
        image: Column of the image.
        id: Column of the row's id; the image column, unless there is another.
        labels: Columns of the label; for run-length layouts the class column, if
            any, and the column of the text.
        notes: Why these.
    """

    layout: str
    image: str
    id: str
    labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def fold_name(name: str) -> str:
    """Strip a column name of case, blanks and punctuation.

    Examples:
        >>> fold_name("ImageId_ClassId"), fold_name(" File name")
        ('imageidclassid', 'filename')
    """
    return "".join(c for c in name.casefold() if c.isalnum())


def recognise_columns(
    cells: Cells,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    layout: str | None = None,
    named: bool = False,
) -> Columns:
    """Find the image and the label of a table.

    Args:
        cells: The table.
        image_column: The image's column; None looks for one.
        label_column: The label's column, or several parted by commas; None looks.
            Layout "images" does not.
        layout: One of `COLUMN_LAYOUTS`; None finds out.
        named: Whether a name map says that numbers stand for classes.

    Raises:
        TableError: a named column is missing, there is no image column, or
            several columns could be the label.
    """
    wanted = () if layout == "images" else _split_columns(cells, label_column)
    pixels = _find_named(cells, RLE_COLUMNS)
    if layout in RLE_LAYOUTS or (layout is None and pixels):
        return _recognise_rle(cells, image_column, wanted, pixels, layout)
    if layout == "images" and pixels:
        return _recognise_masked(cells, image_column)
    image, notes = find_image_column(cells, image_column)
    key = _find_id(cells, image)
    if key != image:
        notes.append(f"rows are known by column {key!r}")
    if layout == "images":
        return Columns(layout="images", image=image, id=key, notes=tuple(notes))
    free = _free_columns(cells, (image, key))
    labels, why = (wanted, []) if wanted else _choose_labels(cells, free)
    return Columns(
        layout=_tell_layout(cells, labels, layout, named=named),
        image=image,
        id=key,
        labels=labels,
        notes=(*notes, *why),
    )


def find_image_column(cells: Cells, wanted: str | None) -> tuple[str, list[str]]:
    """Find the column of the images, and say so if there was a choice.

    A column of a known name wins, one with file names in it before one without;
    failing that, the only column full of file names is taken.

    Args:
        cells: The table.
        wanted: The column the user named; None looks for one.

    Returns:
        The column, and notes.

    Raises:
        TableError: there is none, or several could be it.
    """
    if wanted is not None:
        cells.check_column(wanted, "image")
        return wanted, []
    if any(is_image(name) for name in cells.header):
        raise TableError(
            f"{cells.where}: the first line ({', '.join(cells.header)}) looks like data; expected "
            "a header line such as 'image,label'."
        )
    named = [name for known in IMAGE_COLUMNS for name in cells.header if fold_name(name) == known]
    files = [name for name in cells.header if _holds_files(cells, name)]
    best = [name for name in named if name in files] or named
    if best:
        others = [repr(name) for name in best[1:]]
        return best[0], [f"column(s) {shorten(others)} could be the image too"] if others else []
    if len(files) == 1:
        return files[0], [f"column {files[0]!r} holds image file names"]
    raise TableError(_explain_no_image(cells, files))


def find_extras(cells: Cells) -> dict[str, str]:
    """Find the columns that hold what is known of a row beside its label.

    Args:
        cells: The table.

    Returns:
        Which of `EXTRA_COLUMNS` there are, and the column of each.

    Raises:
        TableError: several columns could be one of them.
    """
    found = {role: [n for n in cells.header if n.casefold() == role] for role in EXTRA_COLUMNS}
    several = [
        f"{shorten([repr(n) for n in names])} ({role})"
        for role, names in found.items()
        if len(names) > 1
    ]
    if several:
        raise TableError(
            f"{cells.where}: column names that differ only by case cannot be told apart: "
            f"{'; '.join(several)}. Rename all but one."
        )
    named = {role: names[0] for role, names in found.items() if names}
    return named | ({"group": cells.group} if cells.group else {})


def split_joined(text: str) -> tuple[str, str] | None:
    """Split "<file>_<class>" where the file name ends.

    Args:
        text: The cell.

    Returns:
        File and class, or None if there is no underscore between two parts.

    Examples:
        >>> split_joined("0a_1.jpg_bare_soil"), split_joined("0002cc93b_4")
        (('0a_1.jpg', 'bare_soil'), ('0002cc93b', '4'))
    """
    match = _JOINED.fullmatch(text)
    if match:
        return match[1], match[2]
    file, _, name = text.rpartition("_")
    return (file, name) if file and name else None


def _split_columns(cells: Cells, label_column: str | None) -> tuple[str, ...]:
    if not label_column:
        return ()
    whole = label_column.strip()
    # A column's own name may hold a comma.
    names = (whole,) if whole in cells.header else tuple(n.strip() for n in whole.split(","))
    for name in names:
        cells.check_column(name, "label")
    return names


def _find_named(cells: Cells, known: Sequence[str]) -> str:
    for word in known:
        for name in cells.header:
            if fold_name(name) == word:
                return name
    return ""


def _recognise_rle(
    cells: Cells, image_column: str | None, wanted: tuple[str, ...], pixels: str, layout: str | None
) -> Columns:
    wanted = tuple(name for name in wanted if name != pixels)
    if not pixels:
        raise TableError(
            f"{cells.where}: layout {layout!r} needs a column of run-length text "
            f"(EncodedPixels or rle_mask); the columns are {', '.join(cells.header)}."
        )
    joined = image_column or _find_named(cells, JOINED_COLUMNS)
    is_joined = bool(joined) and fold_name(joined) in JOINED_COLUMNS
    if layout == "rle-joined" or (layout is None and is_joined and not wanted):
        key = joined or cells.header[0]
        cells.check_column(key, "image")
        return Columns(layout="rle-joined", image=key, id=key, labels=(pixels,))
    image, notes = find_image_column(cells, image_column)
    name = wanted[0] if wanted else _find_named(cells, LABEL_COLUMNS)
    if layout == "rle-single" or not name:
        return Columns(
            layout="rle-single", image=image, id=image, labels=(pixels,), notes=tuple(notes)
        )
    return Columns(
        layout="rle-rows", image=image, id=image, labels=(name, pixels), notes=tuple(notes)
    )


def _recognise_masked(cells: Cells, image_column: str | None) -> Columns:
    """Find the image of a table of run lengths of which only the images are read."""
    joined = image_column or _find_named(cells, JOINED_COLUMNS)
    if fold_name(joined) in JOINED_COLUMNS:
        cells.check_column(joined, "image")
        return Columns(layout="images", image=joined, id=joined)
    image, notes = find_image_column(cells, image_column)
    return Columns(layout="images", image=image, id=image, notes=tuple(notes))


def _find_id(cells: Cells, image: str) -> str:
    found = [name for name in cells.header if name.casefold() == "id"]
    return found[0] if found else image


def _holds_files(cells: Cells, name: str) -> bool:
    filled = (text for text in cells.column(name) if text.strip())
    column = list(itertools.islice(filled, _SAMPLE_ROWS))
    return bool(column) and sum(is_image(text) for text in column) > len(column) / 2


def _explain_no_image(cells: Cells, files: Sequence[str]) -> str:
    columns = shorten([repr(name) for name in cells.header], 20)
    start = f"{cells.where}: no image column among {columns}"
    if files:
        return f"{start}; file names are in {' and '.join(files)}: choose with --image-column."
    return f"{start}. Name it 'image', or pass --image-column."


def _free_columns(cells: Cells, taken: Sequence[str]) -> list[str]:
    extras = find_extras(cells).values()
    return [
        name
        for name in cells.header
        if name not in taken
        and name not in extras
        and name.casefold() != "id"
        and fold_name(name) not in (*_NEVER_LABELS, *RLE_COLUMNS, *IMAGE_COLUMNS)
    ]


def _choose_labels(cells: Cells, free: list[str]) -> tuple[tuple[str, ...], list[str]]:
    """Choose among the columns that have no other meaning; see `LABEL_COLUMNS`."""
    named = [name for known in LABEL_COLUMNS for name in free if fold_name(name) == known]
    like = [name for name in free if name not in named and _has_label_word(name)]
    units = [n for n in free if n not in cells.lists and is_unit_column(cells.column(n))]
    kinds = {name: _tell_kind(cells, name) for name in (*named, *like)}
    if named:
        # A list and a class are two different tasks; no order of names can choose.
        if len({kinds[name] == "label-list" for name in (*named, *like)}) > 1:
            raise TableError(_explain_choice(cells, (*named, *like)))
        return (named[0],), _note_others(free, named[:1])
    if len(units) > 1 and set(like) <= set(units):
        return tuple(units), _note_others(free, units)
    likely = like or [name for name in free if _could_be_classes(cells, name)]
    if len(likely) > 1:
        raise TableError(_explain_choice(cells, likely))
    return tuple(likely), _note_others(free, likely)


def _tell_kind(cells: Cells, name: str, *, named: bool = False) -> str:
    return "label-list" if name in cells.lists else tell_kind(cells.column(name), named=named)


def _has_label_word(name: str) -> bool:
    words = re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    return not _LABEL_WORDS.isdisjoint(words)


def _could_be_classes(cells: Cells, name: str) -> bool:
    column = [text.strip() for text in cells.column(name)]
    if not any(column) or _holds_files(cells, name):
        return False
    return len(column) <= _FEW_ROWS or len(set(column)) <= len(column) / 2


def _explain_choice(cells: Cells, names: Sequence[str]) -> str:
    told = [f"{name!r} ({_describe(cells, name)})" for name in names]
    return (
        f"{cells.where}: {len(names)} columns could be the label: {', '.join(told)}. Choose with "
        f"--label-column, such as --label-column {names[0]}."
    )


def _describe(cells: Cells, name: str) -> str:
    column = cells.column(name)
    if name in cells.lists:
        return "lists of labels"
    separator = find_list_separator(column)
    if separator:
        return f"lists of labels parted by {separator!r}"
    return f"{len({text.strip() for text in column})} different values"


def _note_others(free: Sequence[str], chosen: Sequence[str]) -> list[str]:
    others = [repr(name) for name in free if name not in chosen]
    if not others:
        return []
    if not chosen:
        return [f"no label column was recognised among {shorten(others)}"]
    return [f"column(s) {shorten(others)} were not read"]


def _tell_layout(cells: Cells, labels: tuple[str, ...], layout: str | None, *, named: bool) -> str:
    if layout in SINGLE_LAYOUTS and len(labels) != 1:
        raise TableError(
            f"{cells.where}: layout {layout!r} has one label column, and "
            f"{', '.join(labels) or 'none'} was found; name it with --label-column."
        )
    if layout == "multi-hot" and not labels:
        raise TableError(
            f"{cells.where}: layout 'multi-hot' needs columns of 0 and 1; name them with "
            "--label-column a,b."
        )
    if layout is not None:
        return layout
    if not labels:
        return "images"
    return "multi-hot" if len(labels) > 1 else _tell_kind(cells, labels[0], named=named)


def read_ids(cells: Cells, layout: Layout) -> list[str]:
    """Return the id that each row of a table file belongs to.

    Args:
        cells: The file.
        layout: How it is written, as recognised before.

    Raises:
        TableError: the id column is missing, or cells are empty or cannot be
            parted into image and class.
    """
    column = layout.id_column or layout.image_column
    texts = cells.column(column)
    if layout.name == "rle-joined" or (layout.name == "images" and _joins_classes(cells, column)):
        return [file for file, _ in split_keys(cells, column)]
    empty = [i for i, text in enumerate(texts) if not text.strip()]
    if empty:
        raise TableError(
            f"{cells.where}, column {column!r}: {len(empty)} row(s) name no image, on "
            f"{cells.spell_lines(empty)}."
        )
    return texts


def _joins_classes(cells: Cells, column: str) -> bool:
    return fold_name(column) in JOINED_COLUMNS and bool(_find_named(cells, RLE_COLUMNS))


def split_keys(cells: Cells, column: str) -> list[tuple[str, str]]:
    """Split a column of "<file>_<class>".

    Args:
        cells: The table.
        column: Its column.

    Raises:
        TableError: cells cannot be split; all are listed.
    """
    texts = cells.column(column)
    parts = [split_joined(text) for text in texts]
    bad = [i for i, part in enumerate(parts) if part is None]
    if bad:
        raise TableError(
            f"{cells.where}, column {column!r}: {len(bad)} cell(s) are not '<file>_<class>', on "
            f"{cells.spell_lines(bad)} (the first is {texts[bad[0]]!r})."
        )
    return [part for part in parts if part is not None]


def refuse_repeats(cells: Cells, keys: Sequence[str]) -> None:
    """Refuse images that have more than one row.

    Args:
        cells: The table, for the line numbers.
        keys: The id of each row.

    Raises:
        TableError: ids repeat; each is listed with its lines.
    """
    counts = Counter(keys)
    if len(counts) == len(keys):
        return
    rows: dict[str, list[int]] = {}
    for i, key in enumerate(keys):
        if counts[key] > 1:
            rows.setdefault(key, []).append(i)
    told = [f"{key!r} on {cells.spell_lines(found)}" for key, found in rows.items()]
    raise TableError(
        f"{cells.where}: {len(rows)} image(s) have more than one row: {shorten(told)}. Expected "
        "one row for each image: remove the extra rows, or write several labels as a list or "
        "as 0/1 columns."
    )
