"""Sources without a table file: class folders, plain folders and COCO.

Each function here turns one such source into a `Table`; the masks of a source are
kept if they can be those of its images. It must not read label columns (that is
`labels`), or look at more of an image than its size.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from loupe.cocomasks import find_polygon, read_coco_rle
from loupe.decoding import read_size
from loupe.errors import ImageError, MaskError, TableError, shorten
from loupe.executors import count_cores
from loupe.labels import encode_presence, sort_labels
from loupe.locating import explain_no_images, list_images, locate_images
from loupe.maskruns import join_runs
from loupe.masks import Size, join_rle, resize_rle, spell_runs
from loupe.table import Layout, Table

Texts = tuple[tuple[str, ...], ...]
"""(N, C) run-length text, see `masks.encode_rle`; "" is no mask."""
_FAULTS = {
    "unknown": "the size of {n} image(s) with masks cannot be read; their masks are kept as they "
    "are: {told}",
    "resized": "the masks of {n} image(s) have another size (height x width) than the image and "
    "are resized to it: {told}",
    "turned": "no masks are kept: those of {n} image(s) are turned against the image as it is "
    "shown (EXIF): {told}",
    "lost": "no masks are kept: at the size of the image no pixel is left of some, in {n} "
    "image(s): {told}",
}
"""What masks and their images can disagree in, as notes."""
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

    Polygons and counts become `Table.masks`, drawn as COCO's own tool draws them. If
    annotations have none, as boxes, or some do not fit their image, the table has
    labels alone, and a note says why.

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
    order = {text: at for at, text in enumerate(labels.written or labels.classes)}
    columns = {key: order[name] for key, name in categories.items()}
    masks, told = _read_coco_masks(whole, ids, located.paths, columns, len(labels.classes))
    return Table(
        ids=tuple(ids),
        images=located.paths,
        classes=labels.classes,
        targets=labels.targets,
        exclusive=False,
        layout=Layout(name="coco", numbers=labels.written),
        masks=masks,
        notes=(
            f"{path.name}: layout 'coco': a class is present where an annotation names it",
            f"{clean} images have no annotation and count as clean",
            *told,
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


def read_annotations(
    notes: Sequence[Mapping[str, Any]], sizes: Mapping[object, Size]
) -> tuple[dict[tuple[object, object], str], list[str]]:
    """Read the masks of annotations; several of one category on an image are joined.

    Args:
        notes: The annotations of a COCO file.
        sizes: Image id to height and width.

    Returns:
        Image id and category id to run-length text, and a sentence for each annotation
        that has no valid mask.
    """
    parts: dict[tuple[object, object], list[str]] = {}
    faults = []
    for at, note in enumerate(notes):
        try:
            text = _read_segmentation(note.get("segmentation"), sizes.get(note["image_id"]))
        except MaskError as error:
            faults.append(f"annotation {note.get('id', f'at place {at}')}: {error}")
            continue
        parts.setdefault((note["image_id"], note["category_id"]), []).append(text)
    return {key: join_rle(texts) for key, texts in parts.items()}, faults


def read_entry_size(entry: Mapping[str, Any]) -> Size | None:
    """Return height and width that a COCO file gives for an image; None if it does not.

    Args:
        entry: One of its images.
    """
    sides = (entry.get("height"), entry.get("width"))
    whole = all(isinstance(side, int) and side > 0 for side in sides)
    return (int(entry["height"]), int(entry["width"])) if whole else None


def measure_shown(images: Sequence[Path], rows: Iterable[int]) -> dict[int, Size]:
    """Read the size of some images as they are shown, from their headers, in threads.

    Args:
        images: (N,) files.
        rows: Which of them.

    Returns:
        Row to height and width; an image that cannot be read is left out.
    """

    def measure(row: int) -> Size | None:
        try:
            return read_size(images[row])
        except ImageError:
            return None  # `check`, training and prediction tell of it; its labels stand

    wanted = list(rows)
    with ThreadPoolExecutor(count_cores()) as pool:
        found = list(zip(wanted, pool.map(measure, wanted), strict=True))
    return {row: size for row, size in found if size is not None}


def fit_masks(
    texts: Texts, sizes: Mapping[int, Size], shown: Mapping[int, Size], ids: Sequence[str]
) -> tuple[Texts | None, tuple[str, ...]]:
    """Bring masks to the size of their images, and say what was done.

    Args:
        texts: (N, C) run-length text.
        sizes: Row to the size that its masks are made for; rows with masks have one.
        shown: Row to the size of its image as it is shown; see `measure_shown`.
        ids: (N,) of the images.

    Returns:
        (N, C) masks, and notes. None for the masks if some cannot be those of their
        image: they are turned against it, or no pixel of one is left at its size.

    Examples:
        >>> fit_masks((("1 8",),), {0: (4, 4)}, {0: (2, 2)}, ["a"])[0]
        (('1 2',),)
    """
    kept = list(texts)
    found: dict[str, list[str]] = {}
    for row, size in sizes.items():
        to = shown.get(row)
        fault, kept[row] = _fit_row(texts[row], size, to)
        if fault:
            made = f"{_spell(size)} for an image of {_spell(to)}" if to else _spell(size)
            found.setdefault(fault, []).append(f"{ids[row]!r} ({made})")
    notes = tuple(
        _FAULTS[fault].format(n=len(told), told=shorten(told, 3)) for fault, told in found.items()
    )
    return (None if found.keys() & {"turned", "lost"} else tuple(kept)), notes


def _fit_row(texts: tuple[str, ...], size: Size, to: Size | None) -> tuple[str, tuple[str, ...]]:
    """Return one of `_FAULTS`, or "", and the masks of an image at its size."""
    if to == size or not any(texts):
        return "", texts
    if to is None:
        return "unknown", texts
    if to == size[::-1]:
        return "turned", texts
    fitted = tuple(resize_rle(text, size, to) for text in texts)
    lost = any(text and not new for text, new in zip(texts, fitted, strict=True))
    return "lost" if lost else "resized", fitted


def _read_coco_masks(
    whole: Mapping[str, Any],
    ids: Sequence[str],
    images: Sequence[Path],
    columns: Mapping[object, int],
    width: int,
) -> tuple[Texts | None, tuple[str, ...]]:
    """Masks of all images in the columns of their categories, or None; and notes."""
    notes = whole["annotations"]
    if notes and not any(note.get("segmentation") for note in notes):
        return None, ("its annotations have no masks",)
    named = {note["image_id"] for note in notes}
    rows = {e["id"]: row for row, e in enumerate(whole["images"]) if e["id"] in named}
    shown = measure_shown(images, rows.values())
    given = {row: read_entry_size(whole["images"][row]) for row in rows.values()}
    sizes = {row: size or shown[row] for row, size in given.items() if size or row in shown}
    by_key = {key: sizes[row] for key, row in rows.items() if row in sizes}
    found, faults = read_annotations(notes, by_key)
    faults += [
        f"the masks of a class in {ids[rows[key]]!r} have no pixel"
        for (key, _), text in found.items()
        if not text
    ]
    if faults:
        told = shorten(faults, 3)
        return None, (f"no masks are kept: {len(faults)} are absent or not valid: {told}",)
    sheet = [[""] * width for _ in ids]
    for (image, category), text in found.items():
        sheet[rows[image]][columns[category]] = text
    return fit_masks(tuple(map(tuple, sheet)), sizes, shown, ids)


def _read_segmentation(segmentation: object, size: Size | None) -> str:
    if segmentation and size is None:
        raise MaskError("neither the file nor the image itself gives the size of the image.")
    if isinstance(segmentation, Mapping) and size is not None:
        found = segmentation.get("size")
        if found not in (list(size), size):
            raise MaskError(f"run lengths of size {found}, but the image has {list(size)}.")
        return read_coco_rle(segmentation)
    if isinstance(segmentation, list) and segmentation and size is not None:
        # One outline may stand without the list around it.
        outlines = segmentation if isinstance(segmentation[0], list) else [segmentation]
        if not all(isinstance(points, list) for points in outlines):
            raise MaskError("polygons among other values; expected lists of x and y in turn.")
        runs = [find_polygon(points, *size) for points in outlines]
        return spell_runs(join_runs(np.concatenate(runs)))
    raise MaskError("no segmentation; expected polygons or run lengths.")


def _spell(size: Size) -> str:
    return f"{size[0]} x {size[1]}"
