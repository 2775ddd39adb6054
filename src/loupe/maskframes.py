"""Mask frames: run-length text of masks as the network sees their images.

Owns the way from masks of image files to masks of prepared images, and the file that
keeps them for all jobs of a run. It must not decode images, augment, or know folds.

Shapes: N images, C classes; sizes are (height, width).
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loupe.caching import explain_unreadable
from loupe.decoding import read_size
from loupe.errors import ImageError, MaskError, RunError, TableError, shorten
from loupe.executors import count_cores
from loupe.files import replacing
from loupe.images import InputSpec, prepare_masks
from loupe.masks import decode_rle, encode_rle, resize_rle

Int64 = NDArray[np.int64]
Texts = tuple[tuple[str, ...], ...]
"""(N, C) run-length text, see `masks.encode_rle`; "" is no mask."""

_MOST_TOLD = 20


def measure_images(images: Sequence[Path]) -> Int64:
    """Read the sizes of image files from their headers.

    Args:
        images: (N,) files.

    Shape:
        Returns: (N, 2) height and width as displayed (after EXIF), in pixels.

    Raises:
        TableError: some images cannot be read; all of them are told.
    """

    def measure(path: Path) -> tuple[int, int] | str:
        try:
            return read_size(path)
        except ImageError as error:
            return str(error)

    with ThreadPoolExecutor(count_cores()) as pool:
        found = list(pool.map(measure, images))
    faults = [size for size in found if isinstance(size, str)]
    if faults:
        raise TableError(explain_unreadable(faults, len(images)))
    return np.array(found, np.int64).reshape(-1, 2)


def frame_masks(
    texts: Texts,
    sizes: Int64,
    spec: InputSpec,
    *,
    ids: Sequence[str],
    classes: Sequence[str] | None = None,
) -> Texts:
    """Bring masks of image files to the prepared images, as `images.prepare_masks` does.

    Each pixel takes the value of the pixel of the file that its centre falls on, so a
    thin mask can lie between those and be lost: its text is "" then, see `count_lost`.

    Args:
        texts: Of the images as they are displayed; "" or blanks are no mask.
        sizes: Of the image files; see `measure_images`.
        spec: How images are prepared.
        ids: Of the images, for messages.
        classes: Their names, for messages; None tells the number of the column.

    Shape:
        texts: (N, C). sizes: (N, 2).

    Returns:
        (N, C) run-length text of images of spec.height x spec.width pixels.

    Raises:
        MaskError: texts are not valid for the size of their image; all of them are
            counted, and told by image and class.

    Examples:
        >>> spec = InputSpec(height=2, width=3)
        >>> frame_masks((("1 8", ""),), np.array([[4, 6]]), spec, ids=["a.jpg"])
        (('1 2', ''),)
    """
    there = [
        (row, column)
        for row, line in enumerate(texts)
        for column, text in enumerate(line)
        if text and not text.isspace()
    ]

    def frame(cell: tuple[int, int]) -> str | MaskError:
        row, column = cell
        try:
            return _frame_mask(texts[row][column], (int(sizes[row][0]), int(sizes[row][1])), spec)
        except MaskError as error:
            return error

    with ThreadPoolExecutor(count_cores()) as pool:
        found = list(zip(there, pool.map(frame, there), strict=True))
    faults = [
        f"{ids[row]!r}, class {repr(classes[column]) if classes else column + 1}: {error}"
        for (row, column), error in found
        if isinstance(error, MaskError)
    ]
    if faults:
        raise MaskError(
            f"{len(faults)} mask(s) do not fit their images: {shorten(faults, _MOST_TOLD)} "
            "Correct these rows of the table, or set them aside."
        )
    frames = [[""] * len(line) for line in texts]
    for (row, column), text in found:
        frames[row][column] = str(text)
    return tuple(tuple(line) for line in frames)


def count_lost(texts: Texts, frames: Texts) -> int:
    """Count the masks that have no pixel left in the prepared image.

    Args:
        texts: Masks of the image files.
        frames: What `frame_masks` made of them.

    Examples:
        >>> count_lost((("1 8", ""), ("3 1", "")), (("1 2", ""), ("", "")))
        1
    """
    return sum(
        bool(text.strip()) and not frame
        for line, framed in zip(texts, frames, strict=True)
        for text, frame in zip(line, framed, strict=True)
    )


def write_frames(path: Path, frames: Texts) -> None:
    """Write the masks of prepared images, whole or not at all.

    Args:
        path: An npz file; its folder is made.
        frames: (N, C) run-length text.
    """
    # As one text: an array of N x C texts is as wide as the longest of them.
    letters = "\n".join(text for line in frames for text in line).encode("ascii")
    shape = (len(frames), len(frames[0]) if frames else 0)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, shape=np.array(shape), letters=np.frombuffer(letters, np.uint8))


def read_frames(path: Path) -> Texts:
    """Read what `write_frames` wrote.

    Args:
        path: An npz file.

    Returns:
        (N, C) run-length text.

    Raises:
        RunError: the file is absent or cannot be read.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            rows, columns = held["shape"].tolist()
            letters = held["letters"].tobytes().decode("ascii")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise RunError(f"{path}: no masks of a run that can be read ({error}).") from None
    texts = letters.split("\n") if rows * columns else []
    if len(texts) != rows * columns:
        raise RunError(f"{path}: {len(texts)} masks for {rows} x {columns} (images x classes).")
    return tuple(tuple(texts[row * columns : (row + 1) * columns]) for row in range(rows))


def _frame_mask(text: str, size: tuple[int, int], spec: InputSpec) -> str:
    if spec.resize == "stretch":
        # The same pixels as below, found from the runs alone.
        return resize_rle(text, size, (spec.height, spec.width))
    mask = decode_rle(text, *size).view(np.uint8)
    return encode_rle(prepare_masks(mask[..., None], spec)[..., 0].view(np.bool_))
