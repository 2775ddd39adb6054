"""Sources without a table file: class folders, plain folders and COCO.

Each function here turns one such source into a `Table`. It must not read label
columns (that is `labels`) or open an image.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from loupe.errors import TableError, shorten
from loupe.labels import encode_presence, sort_labels
from loupe.locating import explain_no_images, list_images, locate_images
from loupe.table import Layout, Table

_SUBSETS = {"train", "training", "val", "valid", "validation", "test", "testing"}


def read_folder(folder: Path, names: Mapping[str, str], *, labelled: bool = True) -> Table:
    """Read a folder per class, or a plain folder of images without labels.

    Args:
        folder: Its sub-folders are the classes; an image below one, however
            deep, belongs to it.
        names: Folder name to class name; empty for none.
        labelled: False reads every image below the folder and no label.

    Raises:
        TableError: there are no images, images lie beside the class folders, or
            the sub-folders do not look like classes.
    """
    ids = list_images(folder)
    if not ids:
        raise TableError(explain_no_images(folder))
    parts = [name.split("/") if "/" in name else ["", name] for name in ids]
    found = sort_labels({part[0] for part in parts} - {""})
    if not labelled or not found:
        return read_plain(ids, folder)
    _check_class_folders(folder, ids, found)
    labels = encode_presence(
        len(ids), [(row, part[0]) for row, part in enumerate(parts)], found, names
    )
    empty = sorted(
        p.name
        for p in folder.iterdir()
        if p.is_dir() and p.name not in found and not p.name.startswith(".")
    )
    notes = [f"{folder}: layout 'folders': a class is a sub-folder", *labels.notes]
    if empty:
        notes.append(f"{len(empty)} sub-folder(s) hold no images: {shorten(empty)}")
    return Table(
        ids=tuple(ids),
        images=tuple(folder / name for name in ids),
        classes=labels.classes,
        targets=labels.targets,
        exclusive=True,
        layout=Layout(name="folders", numbers=labels.written),
        notes=tuple(notes),
    )


def read_plain(ids: Sequence[str], folder: Path) -> Table:
    """Make a table without labels.

    Args:
        ids: Paths relative to the folder.
        folder: Where the images lie.
    """
    return Table(
        ids=tuple(ids),
        images=tuple(folder / name for name in ids),
        classes=(),
        targets=np.zeros((len(ids), 0), np.float32),
        exclusive=False,
        layout=Layout(name="images"),
        notes=(f"{folder}: layout 'images': {len(ids)} images without labels",),
    )


def read_coco(
    path: Path, images: Path | None, names: Mapping[str, str], *, labelled: bool = True
) -> Table:
    """Read a COCO file: a class is present where an annotation says so.

    Polygons and counts are not turned into masks: `Table.masks` stays None.

    Args:
        path: JSON with ``images``, ``categories`` and ``annotations``; without
            annotations the table has no labels.
        images: The folder that file names start from; None is the file's own.
        names: Category name to class name; empty for none.
        labelled: False reads the images and no label.

    Raises:
        TableError: parts are missing, or annotations name unknown images or categories.
    """
    whole = read_coco_json(path, labelled=labelled)
    files = {entry["id"]: str(entry["file_name"]) for entry in whole["images"]}
    ids = [str(entry["file_name"]) for entry in whole["images"]]
    folder = images or path.parent
    located = locate_images(ids, folder, path.name)
    if "annotations" not in whole or not labelled:
        why = "without annotations: no labels" if labelled else "whose labels were not read"
        note = f"{path.name}: layout 'coco' {why}"
        return replace(read_plain(ids, folder), images=located.paths, notes=(note, *located.notes))
    categories = {e["id"]: str(e["name"]) for e in sorted(whole["categories"], key=index_by_id)}
    check_coco(path, whole, files, categories)
    rows = {key: row for row, key in enumerate(files)}
    pairs = [
        (rows[note["image_id"]], categories[note["category_id"]]) for note in whole["annotations"]
    ]
    labels = encode_presence(len(ids), pairs, categories.values(), names)
    clean = len(ids) - len({row for row, _ in pairs})
    return Table(
        ids=tuple(ids),
        images=located.paths,
        classes=labels.classes,
        targets=labels.targets,
        exclusive=False,
        layout=Layout(name="coco", numbers=labels.written),
        notes=(
            f"{path.name}: layout 'coco': a class is present where an annotation names it",
            f"{clean} images have no annotation and count as clean",
            *labels.notes,
            *located.notes,
        ),
    )


def _check_class_folders(folder: Path, ids: Sequence[str], found: Sequence[str]) -> None:
    loose = [name for name in ids if "/" not in name]
    if loose:
        raise TableError(
            f"{folder}: {len(loose)} image(s) lie beside the class folders: {shorten(loose)}. Move "
            "each into the folder of its class, or pass layout 'images' to read no labels."
        )
    if {name.casefold() for name in found} <= _SUBSETS:
        raise TableError(
            f"{folder}: the sub-folders {', '.join(found)} are parts of a data set, not classes. "
            f"Pass one of them, such as {folder / found[0]}."
        )
    if len(found) == 1:
        raise TableError(
            f"{folder}: the only sub-folder with images is {found[0]!r}, and one class teaches "
            f"nothing. Did you mean {folder / found[0]}? (layout 'images' reads no labels.)"
        )


def index_by_id(entry: Mapping[str, Any]) -> float:
    """Return what the categories of a COCO file are sorted by.

    Args:
        entry: One of its categories.
    """
    return float(entry["id"])


def read_coco_json(path: Path, *, labelled: bool) -> dict[str, Any]:
    """Read a COCO file as it stands.

    Args:
        path: The JSON file.
        labelled: Its annotations must be there.

    Raises:
        TableError: it is no JSON, or no COCO file.
    """
    try:
        whole = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise TableError(f"{path}: not readable as JSON ({error}).") from None
    expected = {"images": ("id", "file_name"), "categories": ("id", "name")}
    if isinstance(whole, dict) and "annotations" in whole and labelled:
        expected["annotations"] = ("image_id", "category_id")
    elif isinstance(whole, dict):
        del expected["categories"]
    wrong = [
        f"{part!r} with {' and '.join(keys)}"
        for part, keys in expected.items()
        if not _has_keys(whole, part, keys)
    ]
    if wrong or not whole["images"]:
        raise TableError(
            f"{path}: not a COCO file; expected a list {', '.join(wrong) or 'images'} in every "
            "entry."
        )
    return dict(whole)


def _has_keys(whole: object, part: str, keys: Sequence[str]) -> bool:
    entries = whole.get(part) if isinstance(whole, dict) else None
    return isinstance(entries, list) and all(
        isinstance(entry, dict) and all(key in entry for key in keys) for entry in entries
    )


def check_coco(
    path: Path,
    whole: Mapping[str, Any],
    files: Mapping[object, str],
    categories: Mapping[object, str],
) -> None:
    """Make sure that the annotations of a COCO file name its own images and categories.

    Args:
        path: The file, for messages.
        whole: From `read_coco_json`.
        files: Image id to file name.
        categories: Category id to name.

    Raises:
        TableError: some do not; all such annotations are counted.
    """
    notes = whole["annotations"]
    lost = [repr(n["image_id"]) for n in notes if n["image_id"] not in files]
    unknown = [repr(n["category_id"]) for n in notes if n["category_id"] not in categories]
    twice = [repr(name) for name, n in Counter(categories.values()).items() if n > 1]
    repeated = len(whole["images"]) - len(files)
    found = [
        *([f"{len(lost)} annotations of unknown images: {shorten(lost)}"] if lost else []),
        *([f"{len(unknown)} of unknown categories: {shorten(unknown)}"] if unknown else []),
        *([f"categories that share a name: {shorten(twice)}"] if twice else []),
        *([f"{repeated} image ids stand more than once"] if repeated else []),
    ]
    if found:
        raise TableError(f"{path}: {'; '.join(found)}.")
