"""Watch a run's log while jobs, in whatever process, write to it."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

_EVERY_S = 0.3


@contextlib.contextmanager
def following(log: Path, event: str, tell: Callable[[int], None]) -> Iterator[None]:
    """Count the events of one kind that are written from now on.

    Args:
        log: A file of one JSON object a line; it may not exist yet.
        event: The kind to count.
        tell: Called, from another thread, with the count whenever it grew.

    Yields:
        Once; counting ends with the block.
    """
    start = log.stat().st_size if log.is_file() else 0
    stop = threading.Event()

    def watch() -> None:
        known = 0
        while not stop.wait(_EVERY_S):
            count = count_events(log, event, start)
            if count > known:
                known = count
                tell(count)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def count_events(log: Path, event: str, start: int = 0) -> int:
    """Count the events of one kind in a log.

    Args:
        log: A file of one JSON object a line; it may not exist yet.
        event: The kind to count.
        start: Byte at which to begin; the start of a line.
    """
    if not log.is_file():
        return 0
    with log.open("rb") as stream:
        stream.seek(start)
        # The last line may still be under way.
        lines = stream.read().split(b"\n")[:-1]
    return sum(json.loads(line)["event"] == event for line in lines)
