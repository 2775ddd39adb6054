"""Records: what a run writes of itself beside its results: versions, a log, sizes of files.

It must not know the run folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

_LIBRARIES = ("numpy", "opencv-python-headless", "pillow", "torch", "timm", "torchvision")


def list_versions() -> dict[str, str]:
    """Return the versions of Python, the system and the libraries that matter."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for library in ("loupe-vision", *_LIBRARIES):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[library] = metadata.version(library)
    return found


def append_event(log: Path, event: str, **values: object) -> None:
    """Add one line to a run's log; lines of several processes do not mix.

    Args:
        log: The file.
        event: What happened.
        values: Anything that JSON can hold.
    """
    line = json.dumps({"time_s": round(time.time(), 3), "event": event, **values})
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, line.encode() + b"\n")
    finally:
        os.close(handle)


def digest_sizes(images: Sequence[Path]) -> str:
    """Return 16 hex digits over the sizes of files, wherever they lie.

    Quick, and enough to notice that a table's names now mean other images.

    Args:
        images: The files, in order; one that is missing has size -1.
    """
    hasher = hashlib.blake2b(digest_size=8)
    for image in images:
        size = image.stat().st_size if image.is_file() else -1
        hasher.update(f"{size} ".encode())
    return hasher.hexdigest()
