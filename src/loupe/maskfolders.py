"""Mask folders: images with a mask image each, read as presence of one class.

Owns the search for the mask of an image and the question whether it is empty,
the only pixels that reading a table looks at. It must not resize or encode masks:
`Table.masks` stays None, as the size of a mask need not be that of its image.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from loupe.cells import Cells, read_cells
from loupe.columns import find_image_column, fold_name, read_ids, refuse_repeats
from loupe.errors import MaskError, TableError, shorten
from loupe.extras import (
    name_groups,
    note_extras,
    read_folds,
    read_groups,
    read_teachers,
    read_weights,
)
from loupe.labels import encode_presence
from loupe.locating import explain_no_images, list_images, locate_images, strip_extension
from loupe.runlengths import MASK_CLASS
from loupe.table import Layout, Table

if TYPE_CHECKING:
    import pandas as pd

MASK_LEVEL = 127
"""A mask's pixel above this value belongs to the class."""


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
    pairs = [(row, MASK_CLASS) for row, there in enumerate(see_masks(files, masks)) if there]
    rows = range(len(ids))
    by = f"column {column!r}" if column else "the same file name"
    none = files.count("")
    notes = [
        f"{where}: layout 'masks'; masks in {masks} are found by {by}",
        *([f"{none} images have no mask and count as clean"] if none else []),
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


def see_masks(masks: Sequence[str], folder: Path) -> list[bool]:
    """Tell for each mask whether any of its pixels is above `MASK_LEVEL`.

    Args:
        masks: Paths relative to the folder; "" is no mask and counts as empty.
        folder: The masks' folder.

    Raises:
        MaskError: files are missing or unreadable, or hold small numbers, as
            0/1 masks and maps of class numbers do; all are listed.
    """
    missing = [name for name in masks if name and not (folder / name).is_file()]
    if missing:
        raise MaskError(f"{folder}: {len(missing)} mask file(s) are missing: {shorten(missing)}.")
    peaks = {name: _read_peak(folder / name) for name in dict.fromkeys(masks) if name}
    broken = [f"{name} ({why})" for name, why in peaks.items() if isinstance(why, str)]
    if broken:
        raise MaskError(f"{folder}: {len(broken)} mask(s) cannot be read: {shorten(broken)}.")
    levels = {name: peak for name, peak in peaks.items() if not isinstance(peak, str)}
    faint = [f"{name} (highest value {p})" for name, p in levels.items() if 0 < p <= MASK_LEVEL]
    if faint:
        raise MaskError(
            f"{folder}: {len(faint)} mask(s) are neither empty nor brighter than {MASK_LEVEL}: "
            f"{shorten(faint, 4)}. Masks of one class with 0 and 255 are read; write 0/1 masks "
            "as 0/255, and a map of class numbers as one folder of masks for each class."
        )
    return [bool(name) and levels[name] > MASK_LEVEL for name in masks]


def _read_peak(path: Path) -> int | str:
    """Return the highest grey value of a mask, or why it cannot be had."""
    try:
        with Image.open(path) as image:
            if image.mode in ("P", "PA"):
                return "a palette image, as maps of class numbers are"
            # 16- and 32-bit greys keep their values; all else becomes 0..255.
            grey = image if image.mode[0] in "IF" else image.convert("L")
            peak = int(np.asarray(grey).max())
            lossy = image.format == "JPEG"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return str(error)
    # JPEG leaves faint rings in empty masks.
    return 0 if lossy and peak <= MASK_LEVEL else peak
