"""The result of the main job as a page for people: one table row and its conditions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HEAD = (
    "data",
    "time: Loupe",
    "plain loop",
    "plain / Loupe",
    "accuracy: Loupe",
    "plain loop",
    "difference",
    "logistic regression",
    "the same, C = 1",
)
LEGEND = """
Times are wall times of the whole process, median (lowest to highest). Accuracy is
out-of-fold, with 95 % intervals over images; the difference is paired, Loupe minus plain
loop, in percentage points. The logistic regression is scikit-learn's on the frozen
features of image and mirror image; it is the plain loop's first part.
"""
RUNS_HEAD = """
| run | wall, s | own CPU, s | others' CPU, s | load before | parts, s |
|---|---|---|---|---|---|
"""


def write_page(result: Mapping[str, Any]) -> str:
    """Return the result as one Markdown table row, with its conditions below."""
    row = "| " + " | ".join(list_cells(result)) + " |"
    table = f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}\n{row}\n"
    conditions = "".join(f"- {line}\n" for line in list_conditions(result))
    runs = "".join(show_run(run) + "\n" for run in result["runs"])
    return f"{table}{LEGEND}\n{conditions}{RUNS_HEAD}{runs}"


def list_cells(result: Mapping[str, Any]) -> list[str]:
    job, times, scores = result["job"], result["time"], result["scores"]
    what = f"{job['data']}, {job['rows']:,} rows, {job['folds']} folds, {job['size']} px"
    return [
        f"{what}, {job['epochs']} epoch(s), {job['rounds']} round(s)",
        show_spread(times["loupe_s"], " s"),
        show_spread(times["plain_loop_s"], " s"),
        show_spread(times["plain_over_loupe"], "", digits=2),
        show_share(scores["loupe"]["accuracy"]),
        show_share(scores["plain_loop"]["accuracy"]),
        show_points(result["differences"]["loupe - plain_loop"]),
        show_share(scores["logistic_regression"]["accuracy"]),
        show_share(scores["logistic_regression_c1"]["accuracy"]),
    ]


def list_conditions(result: Mapping[str, Any]) -> list[str]:
    machine, versions = result["machine"], result["versions"]
    # The probe runs once a round and may choose differently on a noisy machine.
    chosen = " / ".join(dict.fromkeys(show_engine(engine) for engine in result["engines"]))
    libraries = ", ".join(f"{k} {versions[k]}" for k in ("python", "torch", "timm", "torchvision"))
    where = machine["accelerator"] or f"{machine['cpu']}, {machine['cores']} cores"
    pinned = "".join(f", {k}={v}" for k, v in machine["thread_variables"].items())
    return [
        f"{where}, {machine['memory_gib']} GiB{pinned}; {libraries}",
        f"{result['job']['weights']}; Loupe chose {chosen}; the plain loop runs fp32, NCHW",
        f"commit {result['commit']}, {result['date']}",
        f"`{result['command']}`",
    ]


def show_engine(engine: Mapping[str, Any]) -> str:
    layout = "channels-last" if engine["channels_last"] else "NCHW"
    return f"{engine['precision']}, {layout}, threads {tuple(engine['threads'])}"


def show_run(run: Mapping[str, Any]) -> str:
    parts = ", ".join(f"{part} {seconds:.1f}" for part, seconds in run["parts"].items())
    others = "" if run["others_cpu_s"] is None else f"{run['others_cpu_s']:.0f}"
    return (
        f"| {run['who']}, seed {run['seed']} | {run['wall_s']:.1f} | {run['cpu_s']:.0f} | "
        f"{others} | {run['load_before'][0]} | {parts} |"
    )


def show_spread(found: Mapping[str, float], unit: str, digits: int = 0) -> str:
    low, middle, high = (f"{found[k]:.{digits}f}" for k in ("lowest", "median", "highest"))
    return f"{middle}{unit}" if low == high else f"{middle}{unit} ({low} to {high})"


def show_share(found: Mapping[str, float]) -> str:
    return f"{found['value']:.2%} ({found['low']:.2%} to {found['high']:.2%})"


def show_points(found: Mapping[str, float]) -> str:
    low, middle, high = (f"{100 * found[key]:+.2f}" for key in ("low", "value", "high"))
    return f"{middle} ({low} to {high}), p = {found['p_value']:.3f}"
