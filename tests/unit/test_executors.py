import os
import time
from pathlib import Path

import pytest

from loupe.errors import LoupeError, TableError
from loupe.executors import count_cores, map_jobs, share_threads


def leave_mark(job: tuple[str, int]) -> None:
    folder, number = job
    while number > 13 and not (Path(folder) / "13").exists():
        time.sleep(0.01)  # the worker that refuses may be the slower one to start
    if number > 13:
        time.sleep(0.1)
    (Path(folder) / str(number)).write_text(str(number**2))
    if number == 13:
        raise TableError("thirteen is refused")


def leave_process(job: tuple[str, int]) -> None:
    folder, number = job
    (Path(folder) / str(number)).write_text(str(os.getpid()))


def die(job: int) -> None:
    os._exit(job)


@pytest.mark.parametrize("executor", ["serial", "processes"])
def test_every_job_is_run_once_and_told(tmp_path, executor):
    jobs = [(str(tmp_path), n) for n in range(4)]
    ended = list(map_jobs(leave_mark, jobs, executor=executor, workers=2))
    assert sorted(ended) == [0, 1, 2, 3]
    marks = {int(path.name): path.read_text() for path in tmp_path.iterdir()}
    assert marks == {0: "0", 1: "1", 2: "4", 3: "9"}


def test_processes_are_others(tmp_path):
    jobs = [(str(tmp_path), n) for n in range(2)]
    list(map_jobs(leave_process, jobs, executor="processes", workers=2))
    assert str(os.getpid()) not in {path.read_text() for path in tmp_path.iterdir()}


@pytest.mark.parametrize("executor", ["serial", "processes"])
def test_the_first_error_stops_the_rest(tmp_path, executor):
    jobs = [(str(tmp_path), n) for n in [13, *range(20, 60)]]
    with pytest.raises(TableError, match="thirteen is refused"):
        list(map_jobs(leave_mark, jobs, executor=executor, workers=2))
    assert len(list(tmp_path.iterdir())) < len(jobs)


def test_a_killed_process_is_explained():
    with pytest.raises(LoupeError, match="--jobs 1"):
        list(map_jobs(die, [9, 9], executor="processes", workers=2))


def test_no_jobs_are_no_work():
    assert list(map_jobs(leave_mark, [], executor="processes", workers=2)) == []
    assert share_threads(0, 4) == ()


@pytest.mark.parametrize(
    ("jobs", "cores", "expected"),
    [(5, 2, (1, 1, 1, 1, 2)), (4, 2, (1, 1, 1, 1)), (1, 8, (8,)), (2, 7, (3, 3))],
)
def test_shared_threads(jobs, cores, expected):
    assert share_threads(jobs, cores) == expected


def test_cores_are_counted():
    assert 1 <= count_cores() <= (os.cpu_count() or 1)
