"""Executors: run independent jobs one after another or in processes.

A job is plain values; a worker reads all else from the run folder. So serial,
processes and a continued run are the same code. It must not know what a job is.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Literal, TypeVar

from loupe.errors import LoupeError

Job = TypeVar("Job")
Executor = Literal["serial", "processes"]


def count_cores() -> int:
    """Return the CPU cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # Windows and macOS have no affinity to ask for
        return os.cpu_count() or 1


def share_threads(jobs: int, cores: int) -> tuple[int, ...]:
    """Give each job its threads, so that all cores are busy to the end.

    As many jobs as cores run side by side with one thread each, because threads
    of one job wait for each other and jobs do not. What is left over at the end
    shares all cores. The answer is a function of (jobs, cores) alone.

    Args:
        jobs: Number of jobs.
        cores: Number of CPU cores.

    Returns:
        Threads of each job, in the order in which jobs should start.

    Examples:
        >>> share_threads(5, 2)
        (1, 1, 1, 1, 2)
        >>> share_threads(3, 16)
        (5, 5, 5)
    """
    if jobs <= 0:
        return ()
    full, rest = divmod(jobs, cores)
    return (1,) * (full * cores) + ((cores // rest,) * rest if rest else ())


def map_jobs(
    function: Callable[[Job], object], jobs: Sequence[Job], *, executor: Executor, workers: int
) -> Iterator[int]:
    """Run a function on every job and yield the position of each as it ends.

    The first error stops the rest: jobs that have not begun are cancelled, and
    the error is raised here.

    Args:
        function: A module-level function; with processes it is imported anew.
        jobs: Plain values that can be pickled.
        executor: `serial` runs here; `processes` in fresh (spawned) processes.
        workers: Processes at a time.

    Yields:
        Positions in `jobs`, in the order in which they end.
    """
    if executor == "serial" or workers == 1 or len(jobs) <= 1:
        for place, job in enumerate(jobs):
            function(job)
            yield place
        return
    yield from _map_processes(function, jobs, min(workers, len(jobs)))


def _map_processes(
    function: Callable[[Job], object], jobs: Sequence[Job], workers: int
) -> Iterator[int]:
    # Spawned, not forked: torch's thread pools do not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(max_workers=workers, mp_context=context)
    coming = iter(enumerate(jobs))
    places: dict[Future[object], int] = {}
    try:
        with _main_left_alone():
            places |= {pool.submit(function, job): at for at, job in islice(coming, workers)}
        while places:
            for future in wait(places, return_when=FIRST_COMPLETED).done:
                place = places.pop(future)
                _raise_failure(future)
                # One at a time: a job handed over early could not be taken back.
                places |= {pool.submit(function, job): at for at, job in islice(coming, 1)}
                yield place
    except BaseException:
        # What they write is whole or absent, so they can be stopped anywhere.
        for process in list((pool._processes or {}).values()):  # noqa: SLF001 (public from 3.14 on)
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _main_left_alone() -> Iterator[None]:
    """Keep spawned processes from running the user's script again.

    They would import it as their main module; a script without the
    `if __name__ == "__main__"` guard would then start another training.
    """
    main = sys.modules["__main__"]
    kept = {name: getattr(main, name) for name in ("__spec__", "__file__") if hasattr(main, name)}
    main.__spec__ = None
    if "__file__" in kept:
        del main.__file__
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(main, name, value)


def _raise_failure(future: Future[object]) -> None:
    try:
        future.result()
    except BrokenProcessPool:
        raise LoupeError(
            "a worker process ended before its job was done; most often the memory ran out. The "
            "same command goes on from where it stopped; let fewer jobs run at a time (--jobs 1)."
        ) from None
