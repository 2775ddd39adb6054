"""Mask folders: images with a mask image each, read as one class and its masks.

Owns the search for the mask of an image; a mask is decoded once, for its presence and
for `Table.masks`, and is the only picture whose pixels reading a table looks at. It must
not decide which grey value is inside (that is `maskimages`).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from loupe.cells import Cells, read_cells
from loupe.columns import find_image_column, fold_name, read_ids, refuse_repeats
from loupe.errors import MaskError, TableError, shorten
from loupe.executors import count_cores
from loupe.extras import (
    name_groups,
    note_extras,
    read_folds,
    read_groups,
    read_label_origins,
    read_teachers,
    read_weights,
)
from loupe.labels import encode_presence
from loupe.locating import explain_no_images, list_images, locate_images, strip_extension
from loupe.maskimages import HOW_TO_WRITE, LEVEL, look_at_mask
from loupe.masks import Size, encode_rle
from loupe.runlengths import MASK_CLASS
from loupe.sources import fit_masks, measure_shown
from loupe.table import Layout, Table

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class ReadMask:
    """One mask image: its run-length text, "" if it is empty, and its size."""

    text: str
    size: Size


def read_masked(
    source: str | Path | pd.DataFrame,
    folder: Path | None,
    masks: Path,
    image_column: str | None,
    label_column: str | None,
    *,
    group_column: str | None = None,
) -> Table:
    """Read images and a folder of masks as one class that is there or not.

    Args:
        source: A folder of images, or a table with an image column.
        folder: The images' folder for a table; None is the table's own.
        masks: The masks' folder.
        image_column: The image's column; None looks for one.
        label_column: The column of mask files; None looks for one, and without
            one a mask is the file with the image's name.
        group_column: The column whose equal values belong together, for a table;
            None takes one named `group`.

    Raises:
        TableError: images or masks cannot be matched, or there is no such column.
        MaskError: masks are missing, unreadable or not of one class.
    """
    if isinstance(source, str | Path) and Path(source).is_dir():
        cells, place, column = None, Path(source), ""
        ids = list_images(place)
        if not ids:
            raise TableError(explain_no_images(place))
        layout, where, names = Layout(name="masks"), str(place), ids
    else:
        cells = name_groups(read_cells(source), group_column)
        image, _ = find_image_column(cells, image_column)
        column = find_mask_column(cells, label_column)
        labels = (column,) if column else ()
        layout = Layout(name="masks", image_column=image, label_column=labels, columns=cells.header)
        ids, place, where = read_ids(cells, layout), folder or cells.folder, cells.where
        refuse_repeats(cells, ids)
        names = cells.column(image)
    # Names of files, not of rows: the table may write them in other ways.
    located = locate_images(names, place, where)
    if cells is not None and column:
        files = [text.strip() for text in cells.column(column)]
    else:
        files = find_masks([path.relative_to(place).as_posix() for path in located.paths], masks)
    found = read_masks(files, masks)
    texts = [found[file].text if file else "" for file in files]
    pairs = [(row, MASK_CLASS) for row, text in enumerate(texts) if text]
    sizes = {row: found[files[row]].size for row, _ in pairs}
    shown = measure_shown(located.paths, sizes)
    fitted, told = fit_masks(tuple((text,) for text in texts), sizes, shown, ids)
    rows = range(len(ids))
    by = f"column {column!r}" if column else "the same file name"
    none = files.count("")
    notes = [
        f"{where}: layout 'masks'; masks in {masks} are found by {by}",
        *([f"{none} images have no mask and count as clean"] if none else []),
        *told,
    ]
    table = Table(
        ids=tuple(ids),
        images=located.paths,
        classes=(MASK_CLASS,),
        targets=encode_presence(len(ids), pairs, [MASK_CLASS], {}).targets,
        exclusive=False,
        layout=layout,
        groups=None if cells is None else read_groups(cells, rows),
        weights=None if cells is None else read_weights(cells, rows),
        folds=None if cells is None else read_folds(cells, rows),
        teachers=None if cells is None else read_teachers(cells, rows),
        label_origins=None if cells is None else read_label_origins(cells, rows),
        masks=fitted,
        notes=(*notes, *located.notes),
    )
    if cells is None:
        return table
    return replace(table, notes=(*table.notes, *note_extras(cells, table)))


def find_mask_column(cells: Cells, wanted: str | None) -> str:
    """Find the column that names the mask files; "" if there is none.

    Args:
        cells: The table.
        wanted: The column the user named.

    Raises:
        TableError: the named column is missing, or several could be it.
    """
    if wanted:
        cells.check_column(wanted, "mask")
        return wanted
    likely = [name for name in cells.header if fold_name(name).startswith("mask")]
    exact = [name for name in likely if fold_name(name) in ("mask", "masks", "maskfile")]
    if len(exact or likely) > 1:
        raise TableError(
            f"{cells.where}: several columns could name the masks: {', '.join(likely)}. Choose "
            f"with --label-column {likely[0]}."
        )
    return (exact or likely or [""])[0]


def find_masks(ids: Sequence[str], folder: Path) -> list[str]:
    """Find the mask of each image: the file of the same name, whatever its ending.

    Args:
        ids: Image paths relative to their folder.
        folder: The masks' folder.

    Returns:
        Paths relative to the masks' folder; "" where there is no mask.

    Raises:
        TableError: no mask fits, or two fit one image.
    """
    by_stem: dict[str, list[str]] = {}
    for name in list_images(folder):
        by_stem.setdefault(_fold_stem(name), []).append(name)
    found = [by_stem.get(_fold_stem(name), []) for name in ids]
    several = [f"{i!r}: {' and '.join(m)}" for i, m in zip(ids, found, strict=True) if len(m) > 1]
    if several:
        raise TableError(f"{folder}: two masks fit {len(several)} image(s): {shorten(several)}.")
    if not any(found):
        raise TableError(
            f"{folder}: no mask has the name of an image. Images are {shorten(ids, 3)}; masks are "
            f"{shorten(sorted(by_stem), 3) or 'none'}. Name them alike, or write the mask of each "
            "image into a column of a table and name it with --label-column."
        )
    return [masks[0] if masks else "" for masks in found]


def _fold_stem(name: str) -> str:
    # Two folders may come from two machines that write accents differently.
    return unicodedata.normalize("NFC", strip_extension(name))


def read_masks(masks: Sequence[str], folder: Path) -> dict[str, ReadMask]:
    """Decode mask images in threads, each file once.

    Args:
        masks: Paths relative to the folder, also several times; "" is no mask.
        folder: The masks' folder.

    Returns:
        Path to the mask, for each file.

    Raises:
        MaskError: files are missing or unreadable, or hold small numbers, as
            0/1 masks and maps of class numbers do; all are listed.
    """
    names = [name for name in dict.fromkeys(masks) if name]
    missing = [name for name in masks if name and not (folder / name).is_file()]
    if missing:
        raise MaskError(f"{folder}: {len(missing)} mask file(s) are missing: {shorten(missing)}.")
    with ThreadPoolExecutor(count_cores()) as pool:
        found = dict(zip(names, pool.map(_read_mask, (folder / n for n in names)), strict=True))
    broken = [f"{name} ({why})" for name, why in found.items() if isinstance(why, str)]
    if broken:
        raise MaskError(f"{folder}: {len(broken)} mask(s) cannot be read: {shorten(broken)}.")
    faint = [f"{name} (highest value {p:g})" for name, p in found.items() if isinstance(p, float)]
    if faint:
        raise MaskError(
            f"{folder}: {len(faint)} mask(s) are neither empty nor anywhere as bright as {LEVEL:g} "
            f"of their scale, 128 of 255: {shorten(faint, 4)}. {HOW_TO_WRITE}"
        )
    return {name: mask for name, mask in found.items() if isinstance(mask, ReadMask)}


def _read_mask(path: Path) -> ReadMask | float | str:
    """Return a mask; the highest value of a faint one; or why it cannot be read."""
    seen = look_at_mask(path)
    if isinstance(seen, str):
        return seen
    if seen.faint:
        return seen.peak
    height, width = seen.mask.shape
    return ReadMask(encode_rle(seen.mask), (height, width))
