"""The decode cache: prepared pixels of a table's images, made once, mapped by all.

One file for one list of images and one `InputSpec`: (N, H, W, C) uint8. Beside
it stands the size and time of change of every file, so that a changed image is
noticed and decoded anew. It must not normalise, augment or know labels.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from numpy.typing import NDArray

from loupe.decoding import read_image
from loupe.errors import ImageError, TableError
from loupe.executors import count_cores
from loupe.images import InputSpec, prepare_image

UInt8 = NDArray[np.uint8]
Progress = Callable[[int, int], None]

CACHE_VARIABLE = "LOUPE_CACHE"
DEFAULT_LIMIT_BYTES = 20 * 2**30
_MOST_LISTED = 20
_DAY_S = 86_400
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
