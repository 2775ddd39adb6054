"""Jobs that count masks: the rows that one fold holds out, by all members of that fold.

As `jobs` trains: plain values, all else is read from the run folder, and what is done is
not done again. It must not train.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from loupe.counting import count_fold
from loupe.executors import Executor, count_cores, map_jobs
from loupe.progress import Reporter
from loupe.records import append_event
from loupe.runs import REFIT, Run, open_run


@dataclass(frozen=True, slots=True)
class CountJob:
    """The rows that one fold holds out."""

    run: str
    fold: int
    threads: int
    device: str
    cache_bytes: int


def run_count_job(job: CountJob) -> None:
    """Count what each candidate cut hits and misses in the rows of one fold.

    Args:
        job: Which fold of which run, and how many threads it may use.
    """
    run = open_run(job.run)
    count_fold(run, job.fold, threads=job.threads, device=job.device, cache_bytes=job.cache_bytes)
    append_event(run.log, "counted", fold=job.fold)


def count_masks(
    run: Run,
    *,
    device: str,
    executor: Executor,
    jobs: int | None,
    cache_bytes: int,
    reporter: Reporter,
) -> None:
    """Predict and count all held-out rows of a run that draws masks.

    Args:
        run: All folds of all members are trained.
        device: torch device.
        executor: How jobs are run.
        jobs: Jobs at a time; None for as many as there are cores (one on an accelerator).
        cache_bytes: Limit of the decode cache.
        reporter: Told of the progress.
    """
    folds = [fold for fold in run.folds if fold != REFIT and not run.fold_counts(fold).is_file()]
    if not run.segments or not folds:
        return
    workers = jobs or (count_cores() if device == "cpu" else 1)
    before = torch.get_num_threads()
    reporter.begin("masks of held-out rows (folds)", len(folds))
    try:
        todo = _list_jobs(run, folds, device, cache_bytes)
        for done, _ in enumerate(map_jobs(run_count_job, todo, executor=executor, workers=workers)):
            reporter.advance(done + 1)
    finally:
        torch.set_num_threads(before)
    reporter.end()


def _list_jobs(run: Run, folds: Sequence[int], device: str, cache_bytes: int) -> list[CountJob]:
    """Give each fold the threads that it was trained with, so that its last bits stay."""
    threads = run.member(run.members[0]).recipe().engine.threads
    shares = dict(zip(run.folds, threads, strict=True)) if threads != "auto" else {}
    return [
        CountJob(str(run.folder), fold, shares.get(fold, 1), device, cache_bytes) for fold in folds
    ]
