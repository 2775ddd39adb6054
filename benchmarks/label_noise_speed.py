"""How long it takes to load and to run the rules of `noise`, beside cleanlab's twins."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores

from loupe import noise
from loupe.labelquality import rank_labels

CLASSES = 10
ROUNDS = 3
IMPORTS = ("loupe.noise", "loupe.auditing", "cleanlab.filter")
TWINS = {
    "by_noise_rate": (noise.flag_by_noise_rate, "prune_by_noise_rate"),
    "by_class": (noise.flag_by_class, "prune_by_class"),
    "confident_joint": (noise.flag_confident_joint, "confident_learning"),
}


def compare_speed(rows: int) -> list[dict[str, Any]]:
    """Return the least of 3 times, in turns, on made probabilities; flags must agree."""
    rng = np.random.default_rng(0)
    given = rng.integers(0, CLASSES, rows)
    probs = rng.dirichlet(np.ones(CLASSES), rows)
    probs[np.arange(rows), given] += 0.5
    probs /= probs.sum(axis=1, keepdims=True)
    found = []
    for name, (ours, theirs) in TWINS.items():
        line, flags = time_in_turns(
            {
                "loupe": lambda f=ours: f(given, probs),
                "cleanlab": lambda f=theirs: find_label_issues(given, probs, filter_by=f),
                "cleanlab, 1 job": lambda f=theirs: find_label_issues(
                    given, probs, filter_by=f, n_jobs=1
                ),
            }
        )
        differ = int((flags["loupe"] != flags["cleanlab"]).sum())
        found.append({"what": name, "rows": rows, "differ": differ, **line})
    line, _ = time_in_turns(
        {
            "loupe": lambda: rank_labels(given, probs),
            "cleanlab": lambda: get_label_quality_scores(given, probs),
        }
    )
    found.append({"what": "default ranking, no features", "rows": rows, "differ": None, **line})
    return found


def time_in_turns(
    sides: dict[str, Callable[[], np.ndarray]],
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    times: dict[str, list[float]] = {who: [] for who in sides}
    flags = {}
    for _ in range(ROUNDS):
        for who, run in sides.items():
            start = time.perf_counter()
            flags[who] = run()
            times[who].append(time.perf_counter() - start)
    return {who: round(min(each), 2) for who, each in times.items()}, flags


def compare_imports() -> dict[str, float]:
    """Return the least seconds of 5 fresh processes that import a module, Python's own left out."""
    empty = time_process("pass")
    return {name: round(time_process(f"import {name}") - empty, 2) for name in IMPORTS}


def time_process(code: str) -> float:
    times = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        times.append(time.perf_counter() - start)
    return min(times)
