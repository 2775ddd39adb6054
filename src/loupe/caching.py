"""The decode cache: prepared pixels of a table's images, made once, mapped by all.

Owns, too, what is asked of all images before training (their one size, the mean and
deviation of their pixels), and decoding new ones ahead of who uses them.

One file for one list of images and one `InputSpec`: (N, H, W, C) uint8. Beside
it stands the size and time of change of every file, so that a changed image is
noticed and decoded anew. It must not normalise, augment or know labels.

Shapes: N images, H height, W width, C channels.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from numpy.typing import NDArray

from loupe.decoding import read_image, read_size
from loupe.errors import ImageError, TableError, shorten
from loupe.executors import count_cores
from loupe.images import InputSpec, prepare_image

UInt8 = NDArray[np.uint8]
Progress = Callable[[int, int], None]

CACHE_VARIABLE = "LOUPE_CACHE"
DEFAULT_LIMIT_BYTES = 20 * 2**30
_MOST_LISTED = 20
_DAY_S = 86_400
_CHUNK = 64  # new images decoded together while the ones before are used
_FREE_SHARE = 0.5  # never take more than half of what the disk has left


@dataclass(frozen=True, slots=True)
class Pixels:
    """Prepared images of a table, from the cache or decoded when asked for.

    Attributes:
        images: (N,) files.
        spec: How they are prepared.
        cache: (N, H, W, C) uint8 memory map; None if it would be too large.
    """

    images: tuple[Path, ...]
    spec: InputSpec
    cache: UInt8 | None

    def __getitem__(self, row: int) -> UInt8:
        """Return one prepared image, (H, W, C) uint8."""
        if self.cache is not None:
            return np.asarray(self.cache[row])
        return prepare_image(read_image(self.images[row]), self.spec)

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some images in a row, prepared in every way that was asked for.

    Attributes:
        rows: (n,) places of those that could be read.
        images: For each spec (n, H, W, C) uint8; empty if none could be read.
        errors: Place to reason, of those that could not.
        end: How many images are now done.
    """

    rows: NDArray[np.intp]
    images: tuple[UInt8, ...]
    errors: Mapping[int, str]
    end: int


def cache_folder() -> Path:
    """Return where caches live: `$LOUPE_CACHE`, else the user's cache folder."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named) if named else Path(platformdirs.user_cache_dir("loupe"))


def open_pixels(
    images: Sequence[Path],
    spec: InputSpec,
    *,
    limit_bytes: int = DEFAULT_LIMIT_BYTES,
    progress: Progress | None = None,
) -> Pixels:
    """Decode every image once, or map the cache that an earlier call made.

    Args:
        images: (N,) files.
        spec: How they are prepared.
        limit_bytes: Largest total of all caches; older ones make room. A table
            that alone is larger is decoded whenever its rows are asked for.
        progress: Called with (images done, images in all).

    Raises:
        TableError: some images cannot be read; all of them are named.
    """
    shape = (len(images), spec.height, spec.width, spec.channels)
    folder = cache_folder()
    uncached = Pixels(tuple(images), spec, None)
    size = int(np.prod(shape, dtype=np.int64))
    if size > limit_bytes or not _make_room(folder, size, limit_bytes, _key(images, spec)):
        _map_rows(lambda row: uncached[row], range(len(images)), uncached, progress)
        return uncached
    path = folder / f"{_key(images, spec)}.npy"
    stamps = [_stamp(image) for image in images]
    stale = _stale_rows(path, stamps)
    if stale is None or stale:
        _fill(path, uncached, stamps, stale, progress)
    path.with_suffix(".json").touch()  # the most recently used stays longest
    return Pixels(tuple(images), spec, np.load(path, mmap_mode="r"))


def read_pixels(
    images: Sequence[Path], spec: InputSpec, *, limit_bytes: int = DEFAULT_LIMIT_BYTES
) -> Pixels:
    """Map the cache if it is there and fresh, else decode row by row.

    What workers call: the parent has filled the cache with `open_pixels`.
    """
    path = cache_folder() / f"{_key(images, spec)}.npy"
    if limit_bytes and _stale_rows(path, [_stamp(image) for image in images]) == []:
        return Pixels(tuple(images), spec, np.load(path, mmap_mode="r"))
    return Pixels(tuple(images), spec, None)


def prepare_ahead(images: Sequence[Path], specs: Sequence[InputSpec]) -> Iterator[Chunk]:
    """Decode images in order, in threads, while the ones before are used; keep nothing.

    Args:
        images: (N,) files; what cannot be read is told, and does not stop the rest.
        specs: How they are prepared; each file is decoded once for all of them.

    Yields:
        All images, some at a time.
    """
    wanted = {spec.digest(): spec for spec in specs}

    def prepare(path: Path) -> dict[str, UInt8] | str:
        try:
            image = read_image(path)
        except ImageError as error:
            return str(error)
        return {digest: prepare_image(image, spec) for digest, spec in wanted.items()}

    with ThreadPoolExecutor(count_cores()) as pool:
        chunks = [range(i, min(i + _CHUNK, len(images))) for i in range(0, len(images), _CHUNK)]
        ahead = [[pool.submit(prepare, images[row]) for row in chunk] for chunk in chunks[:2]]
        for place, chunk in enumerate(chunks):
            results = [future.result() for future in ahead.pop(0)]
            if place + 2 < len(chunks):
                ahead.append([pool.submit(prepare, images[row]) for row in chunks[place + 2]])
            yield _gather_chunk(chunk, results, specs)


def _gather_chunk(
    chunk: range, results: Sequence[dict[str, UInt8] | str], specs: Sequence[InputSpec]
) -> Chunk:
    pairs = list(zip(chunk, results, strict=True))
    read = [(row, result) for row, result in pairs if not isinstance(result, str)]
    stacked = [np.stack([result[spec.digest()] for _, result in read]) for spec in specs if read]
    errors = {row: result for row, result in pairs if isinstance(result, str)}
    return Chunk(np.array([row for row, _ in read], np.intp), tuple(stacked), errors, chunk.stop)


def find_shared_size(images: Sequence[Path]) -> tuple[int, int]:
    """Return the size that all images share, by their headers alone.

    Args:
        images: (N,) files, at least 1.

    Returns:
        Height and width as displayed (after EXIF).

    Raises:
        TableError: sizes differ, each told with an example; or some images cannot be
            read, and all of them are named.
    """

    def measure(path: Path) -> tuple[int, int] | str:
        try:
            return read_size(path)
        except ImageError as error:
            return str(error)

    with ThreadPoolExecutor(count_cores()) as pool:
        found = list(zip(images, pool.map(measure, images), strict=True))
    faults = [size for _, size in found if isinstance(size, str)]
    if faults:
        raise TableError(explain_unreadable(faults, len(images)))
    examples: dict[tuple[int, int], list[Path]] = {}
    for path, size in found:
        if not isinstance(size, str):
            examples.setdefault(size, []).append(path)
    if len(examples) != 1:
        raise TableError(_explain_sizes(examples, len(images)))
    return next(iter(examples))


def measure_pixels(
    pixels: Pixels, rows: NDArray[np.intp]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel over all pixels of some rows.

    Exact: pixels are counted by value and divided at the end, so neither their order
    nor the threads matter.

    Args:
        pixels: Prepared images.
        rows: Which of them.

    Returns:
        (C,) means and (C,) deviations (of the population), for pixels in [0, 1].

    Raises:
        TableError: there are no rows, or a channel has one value throughout and so
            cannot be scaled; or images cannot be read.
    """
    counts = np.zeros((pixels.spec.channels, 256), np.int64)
    with ThreadPoolExecutor(count_cores()) as pool:
        for found in pool.map(lambda row: _count_levels(pixels[row]), rows.tolist()):
            counts += found
    moments = [_find_moments(levels) for levels in counts.tolist()]
    if not all(deviation > 0 for _, deviation in moments):
        raise TableError(
            f"the pixels of {len(rows)} images have one value throughout in some channel, so there "
            "is no deviation to divide by. Look at the images (loupe check), or set "
            "input.normalisation to 'weights'."
        )
    return tuple(mean for mean, _ in moments), tuple(deviation for _, deviation in moments)


def _count_levels(image: UInt8) -> NDArray[np.int64]:
    """(C, 256) how often each channel has each value."""
    planes = np.ascontiguousarray(np.moveaxis(image, 2, 0))
    return np.array([np.bincount(plane.ravel(), minlength=256) for plane in planes], np.int64)


def _find_moments(levels: Sequence[int]) -> tuple[float, float]:
    """Mean and deviation, in [0, 1], of values counted by level: whole numbers until the end."""
    count = max(1, sum(levels))
    total = sum(value * n for value, n in enumerate(levels))
    squares = sum(value * value * n for value, n in enumerate(levels))
    return total / count / 255, math.sqrt((count * squares - total * total) / count**2) / 255


def _explain_sizes(examples: Mapping[tuple[int, int], Sequence[Path]], count: int) -> str:
    ranked = sorted(examples.items(), key=lambda item: -len(item[1]))
    told = [f"{h} x {w}: {len(paths)} images, such as {paths[0]}" for (h, w), paths in ranked]
    return (
        f"a factor as input.size needs images of one size, but {count} images have "
        f"{len(examples)} sizes (height x width): {shorten(told, 4)}. Set input.size in pixels, "
        "such as [224, 224]."
    )


def _key(images: Sequence[Path], spec: InputSpec) -> str:
    hasher = hashlib.blake2b(spec.digest().encode(), digest_size=12)
    for image in images:
        hasher.update(os.fsencode(image.absolute()) + b"\0")
    return hasher.hexdigest()


def _stamp(image: Path) -> list[int]:
    try:
        facts = image.stat()
    except OSError:
        return [-1, -1]
    return [facts.st_size, facts.st_mtime_ns]


def _stale_rows(path: Path, stamps: list[list[int]]) -> list[int] | None:
    """Rows whose file changed since the cache was made; None if there is none."""
    try:
        known = json.loads(path.with_suffix(".json").read_text())["stamps"]
        cached = np.load(path, mmap_mode="r")
    except (OSError, ValueError, KeyError, TypeError):
        return None  # absent, or cut off by a full disk: made anew
    if len(cached) != len(stamps) or len(known) != len(stamps):
        return None
    return [row for row, stamp in enumerate(stamps) if known[row] != stamp]


def _fill(
    path: Path,
    pixels: Pixels,
    stamps: list[list[int]],
    stale: list[int] | None,
    progress: Progress | None,
) -> None:
    """Decode into a copy that takes the cache's place when it is whole."""
    spec = pixels.spec
    shape = (len(pixels), spec.height, spec.width, spec.channels)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        if stale is None:
            cache = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)
        else:
            shutil.copyfile(path, temporary)
            cache = np.load(temporary, mmap_mode="r+")
        _decode_rows(cache, range(len(pixels)) if stale is None else stale, pixels, progress)
        cache.flush()
        del cache
        # Stamps last: if we die in between, there are none and all is redone.
        path.with_suffix(".json").unlink(missing_ok=True)
        temporary.replace(path)
        path.with_suffix(".json").write_text(json.dumps({"stamps": stamps}))
    finally:
        temporary.unlink(missing_ok=True)


def _decode_rows(
    cache: NDArray[Any], rows: Sequence[int], pixels: Pixels, progress: Progress | None
) -> None:
    def keep(row: int) -> None:
        cache[row] = pixels[row]

    _map_rows(keep, rows, pixels, progress)


def _map_rows(
    use: Callable[[int], object], rows: Sequence[int], pixels: Pixels, progress: Progress | None
) -> None:
    """Decode rows in threads; all that cannot be read are named in one error."""

    def decode(row: int) -> str | None:
        try:
            use(row)
        except ImageError as error:
            return str(error)
        return None

    faults: list[str] = []
    # Pillow and OpenCV let go of the interpreter lock, so threads are enough.
    with ThreadPoolExecutor(count_cores()) as pool:
        for done, fault in enumerate(pool.map(decode, rows), start=1):
            faults += [fault] if fault else []
            if progress:
                progress(done, len(rows))
    if faults:
        raise TableError(explain_unreadable(faults, len(pixels)))


def explain_unreadable(faults: Sequence[str], rows: int) -> str:
    """Say which images cannot be read, and how to go on without them.

    Args:
        faults: One sentence for each image.
        rows: Images in all.
    """
    listed = "\n  ".join(faults[:_MOST_LISTED])
    rest = len(faults) - _MOST_LISTED
    more = f"\n  and {rest} more" if rest > 0 else ""
    return (
        f"{len(faults)} of {rows} images cannot be read:\n  {listed}{more}\n"
        "Replace these files, or set their rows aside and train on the rest:\n"
        "  loupe check TABLE --quarantine CLEAN.csv"
    )


def _make_room(folder: Path, size: int, limit: int, keep: str) -> bool:
    """Delete the caches used longest ago until `size` more bytes fit."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / f"{keep}.npy").is_file():
        return True
    for left in folder.glob("*.tmp"):  # by processes that were killed
        if time.time() - left.stat().st_mtime > _DAY_S:
            left.unlink(missing_ok=True)
    held = sorted(folder.glob("*.npy"), key=_last_use)
    total = sum(path.stat().st_size for path in held)
    for path in held:
        if total + size <= limit:
            break
        total -= path.stat().st_size
        path.unlink(missing_ok=True)
        path.with_suffix(".json").unlink(missing_ok=True)
    return size <= shutil.disk_usage(folder).free * _FREE_SHARE


def _last_use(path: Path) -> float:
    stamps = path.with_suffix(".json")
    return stamps.stat().st_mtime if stamps.is_file() else 0.0
