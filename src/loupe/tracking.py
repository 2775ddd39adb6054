"""Tracking: a training shown in TensorBoard and MLflow while it runs.

Owns what trackers are told, and when. Jobs run in other processes and know of no tracker: a
thread of this one reads the histories and the log that they write. What a tracker holds already
is asked of the tracker itself, so a continued run tells no epoch twice, and the same command
tells later what could not be told before. It must not train, compute, or stop a training.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
import threading
from collections.abc import Iterator, Sequence

from loupe.errors import InputError, MissingExtraError, suggest
from loupe.progress import Reporter
from loupe.runs import Run
from loupe.trackers import Status, Tracker, read_courses

_EVERY_S = 2.0
_PATIENCE_S = 120.0
"""How long a finished training waits for a tracker that still writes; a server may be slow."""
_HASTE_S = 15.0
"""How long one waits that was interrupted or has failed."""
_LONGEST_ERROR = 240
_LIBRARIES = {"tensorboard": ("tensorboard",), "mlflow": ("mlflow",)}
TRACKERS = tuple(_LIBRARIES)
"""Names that `train --track` knows."""


def check_trackers(names: Sequence[str]) -> tuple[str, ...]:
    """Refuse trackers that are not known, or whose library is not here.

    Args:
        names: As the user gave them.

    Returns:
        The names, each once.

    Raises:
        InputError: there is no such tracker.
        MissingExtraError: the extra `track` is not installed.

    Examples:
        >>> check_trackers(())
        ()
    """
    chosen = tuple(dict.fromkeys((names,) if isinstance(names, str) else names))
    for name in chosen:
        if name not in TRACKERS:
            raise InputError(
                f"there is no tracker {name!r}{suggest(name, TRACKERS)}; a training can be "
                f"tracked by {' and '.join(TRACKERS)}."
            )
        for library in _LIBRARIES[name]:
            # Found, not imported: that takes seconds, and happens while the training runs.
            if importlib.util.find_spec(library) is None:
                raise MissingExtraError(
                    f"--track {name} needs {library}; install it with: "
                    "pip install 'loupe-vision[track]'"
                )
    return chosen


@contextlib.contextmanager
def tracking(run: Run, names: Sequence[str], reporter: Reporter) -> Iterator[None]:
    """Tell trackers of a training while the block runs, and of its scores at the end.

    A tracker that fails is left out from then on, with one note; the training goes on.

    Args:
        run: Prepared; its recipes are the resolved ones.
        names: From `check_trackers`.
        reporter: Told where to look, and what went wrong.

    Yields:
        Once.
    """
    followers = [_Follower(run, name, reporter) for name in names]
    status: Status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        for follower in followers:
            follower.end(status)


def track_finished(run: Run, names: Sequence[str], reporter: Reporter) -> None:
    """Tell trackers of a run that is finished already, as far as they do not know it.

    Args:
        run: Finished.
        names: From `check_trackers`.
        reporter: Told where to look, and what went wrong.
    """
    with tracking(run, names, reporter):
        pass


def _open_tracker(name: str, run: Run) -> Tracker:
    # Imported when used: both load libraries that few have.
    if name == "tensorboard":
        from loupe.tensorboards import TensorBoard  # noqa: PLC0415

        return TensorBoard(run)
    from loupe.mlflows import Mlflow  # noqa: PLC0415

    return Mlflow(run)


class _Follower:
    """One tracker and its thread; a tracker that hangs delays no other and no job."""

    def __init__(self, run: Run, name: str, reporter: Reporter) -> None:
        self._run, self._name, self._reporter = run, name, reporter
        self._status: Status = "FAILED"
        self._stop, self._warned = threading.Event(), False
        self._thread = threading.Thread(target=self._work, daemon=True, name=f"track {name}")
        self._thread.start()

    def end(self, status: Status) -> None:
        """Let the tracker write the rest, for as long as patience lasts."""
        self._status = status
        self._stop.set()
        patience = _PATIENCE_S if status == "FINISHED" else _HASTE_S
        self._thread.join(patience)
        if self._thread.is_alive():
            self._warn(f"it has not ended after {patience:g} s")

    def _work(self) -> None:
        try:
            tracker = _open_tracker(self._name, self._run)
            try:
                self._follow(tracker)
            except Exception:
                # What went wrong first is what is told.
                with contextlib.suppress(Exception):
                    tracker.close("FAILED")
                raise
            tracker.close(self._status)
        except Exception as error:  # noqa: BLE001 (whatever a tracker does, the training goes on)
            self._warn(_tell_error(error))

    def _follow(self, tracker: Tracker) -> None:
        tracker.begin()
        self._reporter.note(f"{self._name}: {tracker.place}")
        size, ended = -1, False
        while not ended:
            ended = self._stop.wait(_EVERY_S)
            grown = self._run.log.stat().st_size if self._run.log.is_file() else 0
            if ended or grown != size:
                size = grown
                for course in read_courses(self._run):
                    tracker.tell(course)
        if self._status == "FINISHED" and self._run.finished:
            tracker.finish()

    def _warn(self, text: str) -> None:
        if self._warned:
            return
        self._warned = True
        self._reporter.note(
            f"! {self._name}: tracking stopped ({text}). The training is not affected; the same "
            "command, run again, tells what is missing."
        )


def _tell_error(error: Exception) -> str:
    """Return the first line of an error, without the password of an address in it."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"//[^/\s]*@", "//", lines[0])[:_LONGEST_ERROR]
