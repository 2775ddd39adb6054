"""Run lengths: tables with a row for each mask, read as presence of classes.

Owns the three layouts whose cells are run-length text. Text that is not empty
says that the class is there; the text itself is kept with the table. It must not
decode pixels (that is `masks`), so a mask that reaches beyond its image is found
by whoever decodes it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from loupe.cells import Cells
from loupe.columns import LISTED, LISTED_ALL, find_extras, split_keys
from loupe.errors import MaskError, TableError, shorten
from loupe.extras import (
    read_folds,
    read_groups,
    read_label_origins,
    read_teachers,
    read_weights,
    refuse_contradictions,
)
from loupe.labels import encode_presence
from loupe.locating import is_image, list_images, locate_images, strip_extension
from loupe.masks import join_rle
from loupe.table import Layout, Table

MASK_CLASS = "mask"
"""The class of tables that name none."""
_RLE = re.compile(r"\s*0*[1-9]\d*\s+0*[1-9]\d*(?:\s+0*[1-9]\d*\s+0*[1-9]\d*)*+\s*")


def read_run_lengths(
    cells: Cells,
    layout: Layout,
    keys: list[str],
    folder: Path | None,
    names: Mapping[str, str],
    aside: set[str],
    *,
    need_images: bool = True,
) -> Table:
    """Read a table of run-length text; a row is a mask, several make an image.

    Args:
        cells: The table.
        layout: One of the run-length layouts.
        keys: The id of each row.
        folder: The images' folder; its images without a row count as clean, unless the
            table has rows of neither a class nor a mask, which list the clean ones. None
            looks beside the table, and adds no images.
        names: Class as written to its name; empty for none.
        aside: Ids in quarantine, which are not clean.
        need_images: False is content where not one image file is there.

    Returns:
        Images in the order of their first row, then clean ones by name. Several
        masks of a class on one image are joined to one.

    Raises:
        MaskError: a cell is not run-length text, a mask has no class, or one that is
            to be joined has runs out of order.
        TableError: images cannot be found, or rows of an image contradict.
    """
    pixels = cells.column(layout.label_column[-1])
    check_rle(pixels, cells, layout.label_column[-1])
    present = [bool(text.strip()) for text in pixels]
    texts = _read_row_classes(cells, layout, present)
    first: dict[str, int] = {}
    for i, key in enumerate(keys):
        first.setdefault(key, i)
    place = folder or cells.folder
    located = locate_images(list(first), place, cells.where, needed=need_images)
    clean = _find_clean(located.paths, folder, aside, stems=not is_image(keys[0].strip()))
    others = 0
    if lists_all(cells):
        clean, others = {}, len(clean)
    _refuse_unfolded(cells, clean)
    ids = [*first, *clean]
    position = {key: row for row, key in enumerate(ids)}
    there = [at for at, found in enumerate(present) if found]
    pairs = [(position[keys[at]], texts[at]) for at in there]
    labels = encode_presence(len(ids), pairs, {text for text in texts if text}, names)
    refuse_contradictions(cells, keys, first)
    order = {text: at for at, text in enumerate(labels.written or labels.classes)}
    slots = [(row, order[text]) for row, text in pairs]
    rows = list(first.values())
    return Table(
        ids=tuple(ids),
        images=(*located.paths, *clean.values()),
        classes=labels.classes,
        targets=labels.targets,
        exclusive=False,
        layout=replace(layout, numbers=labels.written),
        groups=read_groups(cells, rows),
        weights=read_weights(cells, rows),
        folds=read_folds(cells, rows),
        teachers=read_teachers(cells, rows),
        label_origins=read_label_origins(cells, rows),
        masks=_arrange_masks(slots, [pixels[at] for at in there], ids, len(labels.classes)),
        notes=(*_note_rle(cells, len(first), clean, others, folder), *labels.notes, *located.notes),
    )


def lists_all(cells: Cells) -> bool:
    """Return True if a table says that it lists all its images, clean ones too.

    It then has a column `listed` of which every cell is "all", as `rewrites` writes it;
    other images in the folder are not of the table. Without it they count as clean.

    Args:
        cells: Of a table of run-length text.
    """
    return LISTED in cells.header and set(cells.column(LISTED)) == {LISTED_ALL}


def check_rle(texts: Sequence[str], cells: Cells, column: str) -> None:
    """Refuse text that cannot be run lengths; pixels are not decoded.

    Args:
        texts: The column; "" is no mask.
        cells: The table, for the line numbers.
        column: Its name.

    Raises:
        MaskError: not an even count of whole numbers from 1 on; lists the lines.
    """
    wrong = [i for i, text in enumerate(texts) if text.strip() and not _RLE.fullmatch(text)]
    if wrong:
        found = texts[wrong[0]].strip()
        raise MaskError(
            f"{cells.where}, column {column!r}: {len(wrong)} cell(s) are not run-length text, on "
            f"{cells.spell_lines(wrong)} (the first begins {found[:30]!r}). Expected pairs "
            "'start length' of whole numbers from 1 on, or an empty cell for no mask."
        )


def _read_row_classes(cells: Cells, layout: Layout, present: Sequence[bool]) -> list[str]:
    if layout.name == "rle-joined":
        return [name for _, name in split_keys(cells, layout.image_column)]
    if layout.name == "rle-single":
        return [MASK_CLASS] * len(cells)
    texts = [text.strip() for text in cells.column(layout.label_column[0])]
    bad = [i for i, text in enumerate(texts) if present[i] and not text]
    if bad:
        raise MaskError(
            f"{cells.where}: {len(bad)} mask(s) have no class in column "
            f"{layout.label_column[0]!r}, on {cells.spell_lines(bad)}."
        )
    return texts


def _arrange_masks(
    slots: Sequence[tuple[int, int]], texts: Sequence[str], ids: Sequence[str], width: int
) -> tuple[tuple[str, ...], ...]:
    """Put each text into its row and column; "" where there is none."""
    found: dict[tuple[int, int], list[str]] = {}
    for slot, text in zip(slots, texts, strict=True):
        found.setdefault(slot, []).append(text)
    sheet = [[""] * width for _ in ids]
    for (row, column), parts in found.items():
        try:
            sheet[row][column] = join_rle(parts)
        except MaskError as error:
            raise MaskError(f"the masks of image {ids[row]!r} cannot be joined: {error}") from None
    return tuple(tuple(row) for row in sheet)


def _find_clean(
    paths: Sequence[Path], folder: Path | None, aside: set[str], *, stems: bool
) -> dict[str, Path]:
    """Return id and file of the images in the folder that have no row."""
    if folder is None:
        return {}
    known = set(paths)
    # Masks often lie in a folder below; look there only if images do too.
    deep = any(path.parent != folder for path in paths)
    found = {name: folder / name for name in list_images(folder, deep=deep)}
    named = {(strip_extension(n) if stems else n): p for n, p in found.items() if p not in known}
    return {name: path for name, path in named.items() if name not in aside}


def _refuse_unfolded(cells: Cells, clean: Mapping[str, Path]) -> None:
    extra = list(find_extras(cells).values())
    if extra and clean:
        raise TableError(
            f"{cells.where}: {len(clean)} image(s) in the images' folder have no row "
            f"({shorten(list(clean), 3)}), but the table has a column {extra[0]!r}. Give each a "
            "row with an empty mask, as `loupe split` does."
        )


def _note_rle(
    cells: Cells, imaged: int, clean: Mapping[str, Path], others: int, folder: Path | None
) -> list[str]:
    notes = [f"{len(cells)} rows of run-length text belong to {imaged} images"]
    if folder is None:
        return [*notes, "images without a row are not known; --images DIR counts them as clean"]
    if clean:
        notes.append(f"{len(clean)} images in {folder} have no row and count as clean")
    if others:
        notes.append(
            f"{others} images in {folder} have no row and are left out: the table says that it "
            f"lists all its images (column '{LISTED}')"
        )
    return notes
