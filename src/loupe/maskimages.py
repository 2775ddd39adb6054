"""Mask files: folders of mask images, and COCO files, as a sheet of masks, and back.

Owns which grey value is inside a mask, and where a mask's file lies. It must not
look for columns or images (that is `maskfolders`, `sources`); `masksheets` owns the
sheet and its tables.

A grey value is a share of the largest that its depth holds, so 8-bit 128 and 16-bit
32896 are the same 0.502. A pixel is inside from `level` on.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from loupe.cocomasks import spell_coco
from loupe.errors import MaskError, shorten
from loupe.files import replacing, write_text
from loupe.locating import list_images, strip_extension
from loupe.masks import decode_rle, encode_rle, measure_rle, read_runs
from loupe.masksheets import Masks
from loupe.runlengths import MASK_CLASS
from loupe.sources import (
    check_coco,
    index_by_id,
    read_annotations,
    read_coco_json,
    read_entry_size,
)

Bool = NDArray[np.bool_]

LEVEL = 0.5
"""The share of full brightness from which on a pixel is inside, if none is given."""
HOW_TO_WRITE = (
    "Write 0/1 masks as 0/255, a map of class numbers as one folder of masks for each class."
)
_BYTE = 255
_WORD = 65535


@dataclass(frozen=True, slots=True, eq=False)
class MaskPixels:
    """What one mask image shows.

    Attributes:
        mask: (H, W) bool, True inside.
        peak: The highest grey value.
        full: The grey value of full brightness, by the depth of the file.
        faint: True if it is neither empty nor anywhere as bright as it should be.
    """

    mask: Bool
    peak: float
    full: int
    faint: bool


def look_at_mask(path: str | Path, level: float = LEVEL) -> MaskPixels | str:
    """Decode one mask image; the one place where a grey value is found inside or not.

    Args:
        path: See `read_mask_image`.
        level: See `read_mask_image`.

    Returns:
        Its pixels, or why it cannot be read.
    """
    try:
        with Image.open(path) as image:
            if image.mode in ("P", "PA"):
                return "a palette image, as maps of class numbers are"
            # 16- and 32-bit greys keep their values; all else becomes 0..255.
            deep = image.mode[0] in "IF"
            grey = np.asarray(image if deep else image.convert("L"))
            lossy = image.format == "JPEG"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return f"cannot be read: {error}"
    peak = float(grey.max())
    if deep and (peak > _WORD or float(grey.min()) < 0):
        return f"values up to {peak:g}; expected 8 or 16 bits"
    full = _WORD if peak > _BYTE else _BYTE
    mask: Bool = grey >= level * full
    # JPEG leaves faint rings in empty masks.
    return MaskPixels(mask, peak, full, bool(peak) and not lossy and not mask.any())


def read_mask_image(path: str | Path, level: float = LEVEL) -> Bool:
    """Read one mask image.

    Args:
        path: A grey image of 8 or 16 bits; colours become grey. Values up to 255 in a
            16-bit file are of an 8-bit scale.
        level: The share of full brightness from which on a pixel is inside, in
            (0, 1]; soft edges are cut there.

    Shape:
        Returns: (H, W) bool.

    Raises:
        MaskError: the file is unreadable, a palette or 32-bit image, or neither empty
            nor as bright as `level` anywhere, as 0/1 masks and class maps are.
    """
    if not 0 < level <= 1:
        raise MaskError(f"level {level}; expected a share of full brightness in (0, 1].")
    found = look_at_mask(path, level)
    if isinstance(found, str):
        raise MaskError(f"{path}: {found}.")
    if found.faint:
        raise MaskError(
            f"{path}: neither empty nor as bright as {level:g} (highest value {found.peak:g} of "
            f"{found.full}). {HOW_TO_WRITE}"
        )
    return found.mask


def read_mask_folder(
    folder: str | Path, *, classes: Sequence[str] | None = None, level: float = LEVEL
) -> Masks:
    """Read a folder of mask images: one class, or a sub-folder for each class.

    An image is known by its mask's path without the extension. It may lack the mask
    of a class, which then is not there.

    Args:
        folder: Masks, or sub-folders named like classes with masks in them.
        classes: Sub-folders to read, in that order; None reads all of them, or the
            folder itself as the class "mask" if it has none with images.
        level: See `read_mask_image`.

    Raises:
        MaskError: there are no masks, masks of one image differ in size, or files
            cannot be read; all are listed.
    """
    folder = Path(folder)
    names = tuple(classes) if classes is not None else _find_class_folders(folder)
    places = [(name, folder / name) for name in names] or [(MASK_CLASS, folder)]
    absent = [str(place) for _, place in places if not place.is_dir()]
    if absent:
        raise MaskError(f"there are no folders {shorten(absent)}; expected one for each class.")
    found: dict[str, dict[str, str]] = {}
    shapes: dict[str, set[tuple[int, ...]]] = {}
    faults: list[str] = []
    for name, place in places:
        for file in list_images(place):
            key = strip_extension(file)
            if name in found.setdefault(key, {}):
                faults.append(f"{place / file}: a second mask of the same image and class.")
                continue
            try:
                mask = read_mask_image(place / file, level)
            except MaskError as error:
                faults.append(str(error))
                continue
            found[key][name] = encode_rle(mask)
            shapes.setdefault(key, set()).add(mask.shape)
    faults += [
        f"{key!r}: masks of {' and '.join(f'{h} x {w}' for h, w in sorted(shape))} pixels."
        for key, shape in shapes.items()
        if len(shape) > 1
    ]
    if faults or not found:
        raise MaskError(
            f"{folder}: {len(faults)} fault(s). {shorten(faults)}"
            if faults
            else f"{folder}: there are no mask images in it."
        )
    ids = sorted(found)
    order = [name for name, _ in places]
    return Masks(
        ids=tuple(ids),
        classes=tuple(order),
        texts=tuple(tuple(found[key].get(name, "") for name in order) for key in ids),
        sizes=np.array([shapes[key].pop() for key in ids], np.int64),
        notes=(f"{folder}: a pixel is inside from {level:g} of full brightness on",),
    )


def write_mask_folder(folder: str | Path, masks: Masks) -> list[Path]:
    """Write masks as 8-bit PNG files of 0 and 255, empty ones too.

    Args:
        folder: One class is written into it, several into sub-folders of their names.
        masks: With their sizes.

    Returns:
        The files.

    Raises:
        MaskError: sizes are not known, two images would have one file, or an id or
            class would be written outside the folder.
    """
    folder = Path(folder)
    sizes = _need_sizes(masks)
    stems = [strip_extension(key) for key in masks.ids]
    twice = [repr(stem) for stem, n in Counter(stems).items() if n > 1]
    outside = [repr(n) for n in (*stems, *masks.classes) if _leaves(n)]
    if twice or outside:
        raise MaskError(
            f"{folder}: masks cannot be written: {shorten(twice + outside)} would share a file or "
            "lie outside the folder."
        )
    files = []
    for at, stem in enumerate(stems):
        for name, text in zip(masks.classes, masks.texts[at], strict=True):
            place = folder / name if len(masks.classes) > 1 else folder
            path = place / f"{stem}.png"
            pixels = decode_rle(text, *sizes[at]).astype(np.uint8) * np.uint8(_BYTE)
            with replacing(path) as temporary:
                Image.fromarray(np.ascontiguousarray(pixels)).save(temporary, format="PNG")
            files.append(path)
    return files


def read_coco_masks(path: str | Path) -> Masks:
    """Read the masks of a COCO file: polygons and run lengths, compressed or not.

    Several annotations of a class on one image are joined; polygons are drawn as
    COCO's own tool draws them.

    Args:
        path: JSON with ``images`` (with height and width), ``categories`` and
            ``annotations`` (with ``segmentation``).

    Returns:
        Images in the order of the file; classes in the order of their numbers.

    Raises:
        TableError: it is not a COCO file, or names unknown images or categories.
        MaskError: images have no size, or annotations no valid mask; all are listed.
    """
    path = Path(path)
    whole = read_coco_json(path, labelled=True)
    files = {entry["id"]: str(entry["file_name"]) for entry in whole["images"]}
    names = {e["id"]: str(e["name"]) for e in sorted(whole.get("categories", []), key=index_by_id)}
    notes = whole.get("annotations", [])
    check_coco(path, {**whole, "annotations": notes}, files, names)
    given = {entry["id"]: read_entry_size(entry) for entry in whole["images"]}
    sizes = {key: size for key, size in given.items() if size is not None}
    bare = [repr(files[key]) for key in given if key not in sizes]
    if bare:
        raise MaskError(f"{path}: {len(bare)} image(s) have no height and width: {shorten(bare)}.")
    found, faults = read_annotations(notes, sizes)
    if faults:
        raise MaskError(f"{path}: {len(faults)} annotation(s) have no mask. {shorten(faults, 20)}")
    return Masks(
        ids=tuple(files.values()),
        classes=tuple(names.values()),
        texts=tuple(tuple(found.get((i, c), "") for c in names) for i in files),
        sizes=np.array([sizes[key] for key in files], np.int64).reshape(-1, 2),
    )


def write_coco_masks(path: str | Path, masks: Masks) -> None:
    """Write masks as a COCO file with compressed run lengths, one for each mask.

    Args:
        path: The JSON file.
        masks: With their sizes.

    Raises:
        MaskError: sizes are not known, or a text is not valid for its size.
    """
    sizes = _need_sizes(masks)
    notes: list[dict[str, Any]] = []
    for row, texts in enumerate(masks.texts):
        for column, text in enumerate(texts):
            if text:
                notes.append(
                    {
                        "id": len(notes) + 1,
                        "image_id": row + 1,
                        "category_id": column + 1,
                        "segmentation": spell_coco(text, *sizes[row]),
                        "area": measure_rle(text),
                        "bbox": _bound(text, sizes[row][0]),
                        "iscrowd": 0,
                    }
                )
    whole = {
        "images": [
            {"id": row + 1, "file_name": key, "height": high, "width": wide}
            for row, (key, (high, wide)) in enumerate(zip(masks.ids, sizes, strict=True))
        ],
        "categories": [{"id": at + 1, "name": name} for at, name in enumerate(masks.classes)],
        "annotations": notes,
    }
    write_text(Path(path), json.dumps(whole, ensure_ascii=False) + "\n")


def _find_class_folders(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        return ()
    return tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and list_images(p)))


def _need_sizes(masks: Masks) -> list[tuple[int, int]]:
    if masks.sizes is None:
        raise MaskError(
            "the sizes of the images are not known; read the sheet with sizes=(height, width)."
        )
    return [(int(high), int(wide)) for high, wide in masks.sizes]


def _leaves(name: str) -> bool:
    parts = PurePosixPath(name)
    return not name or parts.is_absolute() or ".." in parts.parts


def _bound(text: str, height: int) -> list[int]:
    """Return left, top, width and height of the box around a mask."""
    runs = read_runs(text)
    first, last = runs[:, 0], runs[:, 1] - 1
    left, right = int(first[0] // height), int(last[-1] // height)
    # A run that goes on into the next column reaches both edges.
    across = bool((first // height != last // height).any())
    top = 0 if across else int((first % height).min())
    bottom = height - 1 if across else int((last % height).max())
    return [left, top, right - left + 1, bottom - top + 1]
