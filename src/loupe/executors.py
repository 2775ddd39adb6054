"""Executors: run independent jobs one after another or in processes.

A job is plain values; a worker reads all else from the run folder. So serial,
processes and a continued run are the same code. It must not know what a job is.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
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
    try:
        places = {pool.submit(function, job): place for place, job in enumerate(jobs)}
        waiting = set(places)
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                _raise_failure(future)
                yield places[future]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _raise_failure(future: Future[object]) -> None:
    try:
        future.result()
    except BrokenProcessPool:
        raise LoupeError(
            "a worker process ended before its job was done; most often the memory ran out. The "
            "same command goes on from where it stopped; let fewer jobs run at a time (--jobs 1)."
        ) from None
