"""What every benchmark needs: timed processes, the machine, the name of a result."""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from loupe.caching import CACHE_VARIABLE
from loupe.executors import count_cores

ROOT = Path(__file__).resolve().parent.parent
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """One run of one side.

    Attributes:
        who: `loupe` or `plain_loop`.
        seed: Number of the round.
        wall_s: From the start of the process to its end.
        cpu_s: CPU time of the process and its children.
        others_cpu_s: CPU time that other programs took meanwhile; None unless Linux.
        load_before: Load averages over 1, 5 and 15 minutes before the start.
        parts: Seconds by part, as the side itself saw them.
    """

    who: str
    seed: int
    wall_s: float
    cpu_s: float
    others_cpu_s: float | None
    load_before: tuple[float, ...]
    parts: dict[str, float] = field(default_factory=dict)


def run_process(who: str, command: Sequence[str], folder: Path, seed: int) -> Timed:
    """Run Python with an empty decode cache, and time it from start to end."""
    log = folder / f"{who}-{seed}.log"
    environment = os.environ | {CACHE_VARIABLE: str(folder / f"cache-{seed}")}
    load = os.getloadavg()
    cpu_before, busy_before = children_cpu_s(), machine_busy_s()
    start = time.perf_counter()
    with log.open("wb") as stream:
        ended = subprocess.run(
            [sys.executable, *command],
            cwd=ROOT,
            env=environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
            check=False,
        )
    wall = time.perf_counter() - start
    if ended.returncode:
        sys.exit(f"{who} ended with {ended.returncode}:\n{log.read_text(errors='replace')[-4000:]}")
    cpu, busy = children_cpu_s() - cpu_before, machine_busy_s()
    others = None if busy is None or busy_before is None else max(0.0, busy - busy_before - cpu)
    return Timed(
        who=who,
        seed=seed,
        wall_s=round(wall, 2),
        cpu_s=round(cpu, 2),
        others_cpu_s=None if others is None else round(others, 2),
        load_before=tuple(round(value, 2) for value in load),
    )


def add_rest(timed: Timed) -> Timed:
    """Add what no part accounts for: starting Python, importing, ending."""
    timed.parts["start-up and rest"] = round(timed.wall_s - sum(timed.parts.values()), 2)
    return timed


def children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def machine_busy_s() -> float | None:
    """Return the seconds all cores were busy, or taken by another guest, since boot."""
    try:
        first = Path("/proc/stat").read_text(encoding="ascii").partition("\n")[0]
    except OSError:
        return None
    user, nice, system, _idle, _wait, irq, softirq, stolen = map(int, first.split()[1:9])
    ticks = user + nice + system + irq + softirq + stolen
    return ticks / os.sysconf("SC_CLK_TCK")


def describe_machine() -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": read_cpu(),
        "cores": count_cores(),
        "memory_gib": round(memory, 1),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "thread_variables": {k: os.environ[k] for k in THREAD_VARIABLES if k in os.environ},
    }


def read_cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def read_commit() -> str:
    """Return the commit, marked if the working tree differs from it."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return ended.stdout.strip() or "unknown"


def name_result(result: Mapping[str, Any]) -> str:
    """Return <name>__<cpu or gpu>__torch<version>__<date>, all in file-name letters."""
    job, machine = result["job"], result["machine"]
    what = f"{result['benchmark']}-{job['data']}-{job['rows']}-rows"
    where = machine["accelerator"] or f"{machine['cpu']} {machine['cores']} cores"
    version = "torch" + result["versions"]["torch"].partition("+")[0]
    date = result["date"][:16].replace("T", "-")
    return "__".join(slug(part) for part in (what, where, version, date))


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")


def summarise(values: Sequence[float]) -> dict[str, float]:
    found = {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}
    return {key: round(value, 3) for key, value in found.items()}


def write_result(folder: Path, result: Mapping[str, Any], page: str) -> None:
    """Write a result as JSON and as a page; places on this machine must not be in it."""
    stem = folder / name_result(result)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=2, allow_nan=False) + "\n"
    # Not with_suffix: the stem has dots of its own.
    Path(f"{stem}.json").write_text(text, encoding="utf-8")
    Path(f"{stem}.md").write_text(page, encoding="utf-8")
    print(f"\n{page}\nwrote {stem.name}.json and .md")
