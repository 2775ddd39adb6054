"""Target test: does what is said of a threshold hold on other rows?

A table is split in two at random, groups whole. Thresholds are chosen on one half, with
their prediction intervals; the other half shows what they really bring. The classes of a
real table are taken one by one, exclusive or not.

    python -m benchmarks.target_recall --simulate
    python -m benchmarks.target_recall --run RUN [--name ucmerced]

Printed for each goal: the share of (class, half) scores that fall in the printed
interval, its median width, for recall the width of the exact interval that is possible
for independent rows, and the mean scores on the other halves.
"""

from __future__ import annotations

import argparse
import csv
import datetime as dt
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.comparing import without_nan
from benchmarks.measuring import (
    ROOT,
    describe_machine,
    name_result,
    read_commit,
    write_result,
)
from scipy.stats import betabinom

from loupe.evidence import make_evidence
from loupe.predictions import average_sheets, read_predictions
from loupe.records import list_versions
from loupe.table import read_snapshot
from loupe.testing import make_predictions
from loupe.thresholds import Goal, find_cuts, read_goal
from loupe.wagers import METRICS, Estimate, describe_thresholds

GOALS = ("recall:0.94", "precision:0.9", "f1")
PREVALENCES = (0.02, 0.05, 0.1, 0.2, 0.3)
QUALITIES = (0.3, 0.6, 0.8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """A table: truth and probs are (N, C), groups (N,)."""

    name: str
    truth: np.ndarray
    probs: np.ndarray
    groups: np.ndarray
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wager:
    """One score of one class on one half, and what it was on the other."""

    table: str
    goal: str
    class_name: str
    metric: str
    half: int
    positives: int
    value: float
    low: float
    high: float
    in_sample: float
    reached: float
    ideal_width: float

    @property
    def holds(self) -> bool:
        return self.low - 1e-9 <= self.reached <= self.high + 1e-9


def main(arguments: Sequence[str] | None = None) -> None:
    args = read_arguments(arguments)
    sheets = [read_run(args.run, args.name)] if args.run else list(simulate(args.rows))
    start = time.perf_counter()
    wagers = [
        wager
        for sheet in sheets
        for goal in args.goals
        for wager in split_often(sheet, read_goal(goal), args.halves, args.resamples)
    ]
    result = {
        "benchmark": "target-recall",
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "job": {
            "data": args.name if args.run else "simulated",
            "rows": max(len(sheet.truth) for sheet in sheets),
            "halves": args.halves,
            "resamples": args.resamples,
        },
        "machine": describe_machine(),
        "versions": list_versions(),
        "commit": read_commit(),
        "seconds": round(time.perf_counter() - start, 1),
        "tables": [without_nan(line) for line in summarise(wagers, ("goal", "table", "metric"))],
        "goals": [without_nan(line) for line in summarise(wagers, ("goal", "metric"))],
    }
    write_result(args.results, result, write_page(result))
    by_class = summarise(wagers, ("goal", "table", "class_name", "metric"))
    write_csv(args.results / f"{name_result(result)}.csv", by_class)


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--simulate", action="store_true", help="tables with known truth")
    source.add_argument("--run", type=Path, help="folder of a finished run")
    parser.add_argument("--name", default="run", help="what the run is called in the result")
    parser.add_argument("--goals", nargs="+", default=GOALS)
    parser.add_argument("--halves", type=int, default=50)
    parser.add_argument("--rows", type=int, default=1500, help="of a simulated table")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    return parser.parse_args(arguments)


def read_run(folder: Path, name: str) -> Sheet:
    """Read the out-of-fold rows of a run; the mean of its members."""
    table = read_snapshot(folder / "table.parquet")
    sheet = average_sheets(list(read_predictions(folder / "oof.parquet").values()))
    place = {key: row for row, key in enumerate(table.ids)}
    kept = np.flatnonzero(sheet.readable & sheet.held_out)
    rows = np.array([place[sheet.ids[row]] for row in kept])
    names = table.ids if table.groups is None else table.groups
    groups = np.unique(np.array(names)[rows], return_inverse=True)[1]
    truth = table.targets[rows] >= 0.5
    return Sheet(
        name=name, truth=truth, probs=sheet.probs[kept], groups=groups, classes=sheet.classes
    )


def simulate(rows: int) -> Iterator[Sheet]:
    for number, quality in enumerate(QUALITIES):
        for by_group in (1, 3):
            made = make_predictions(
                rows,
                len(PREVALENCES),
                quality=quality,
                prevalence=PREVALENCES,
                groups=rows // by_group,
                seed=10 * number + by_group,
            )
            yield Sheet(
                name=f"quality {quality}, {by_group} row(s) a group",
                truth=made.targets >= 0.5,
                probs=made.probs,
                groups=made.groups,
                classes=tuple(f"{share:.0%}" for share in PREVALENCES),
            )


def split_often(sheet: Sheet, goal: Goal, halves: int, resamples: int) -> Iterator[Wager]:
    """Choose on one half of the groups and look at the other, again and again."""
    count = int(sheet.groups.max()) + 1
    for half in range(halves):
        order = np.random.default_rng(half).permutation(count)
        first = order[sheet.groups] < count // 2
        if (sheet.truth[first].any(axis=0) & sheet.truth[~first].any(axis=0)).all():
            yield from wager_once(sheet, first, goal, half, resamples)


def wager_once(
    sheet: Sheet, first: np.ndarray, goal: Goal, half: int, resamples: int
) -> Iterator[Wager]:
    truth, probs, groups = sheet.truth[first], sheet.probs[first], sheet.groups[first]
    goals = [goal] * len(sheet.classes)
    evidence = make_evidence(
        truth.astype(np.float32), [probs], exclusive=False, classes=sheet.classes, groups=groups
    )
    cuts = find_cuts(truth, probs, goals)
    part_cuts = [
        [cut.threshold for cut in find_cuts(truth[others], probs[others], goals)]
        for others in (evidence.parts != part for part in range(evidence.part_count))
    ]
    told = describe_thresholds(
        truth,
        probs,
        probs,
        evidence.parts,
        part_cuts,
        cuts,
        goals,
        evidence.groups,
        classes=sheet.classes,
        resamples=resamples,
        seed=half,
    )
    decided = sheet.probs[~first] >= np.float32([cut.threshold for cut in cuts])
    for column, threshold in enumerate(told):
        reached = measure(sheet.truth[~first, column], decided[:, column])
        for metric in METRICS:
            found: Estimate = getattr(threshold, metric)
            if np.isnan([reached[metric], found.low]).any():
                continue
            yield Wager(
                table=sheet.name,
                goal=threshold.goal,
                class_name=threshold.class_name,
                metric=metric,
                half=half,
                positives=threshold.positives,
                value=found.value,
                low=found.low,
                high=found.high,
                in_sample=threshold.in_sample[metric],
                reached=reached[metric],
                ideal_width=find_ideal_width(threshold.positives, goal, metric),
            )


def measure(truth: np.ndarray, decided: np.ndarray) -> dict[str, float]:
    right, called, positives = (truth & decided).sum(), decided.sum(), truth.sum()
    return {
        "precision": right / called if called else np.nan,
        "recall": right / positives,
        "f1": 2 * right / (called + positives),
    }


def find_ideal_width(positives: int, goal: Goal, metric: str) -> float:
    """Return the width of the exact interval of the recall of a recall threshold.

    The threshold is an order statistic of the positives, so whatever their distribution,
    its recall on as many new ones is beta-binomial. Wilks (1941).
    """
    if (goal.kind, metric) != ("recall", "recall"):
        return float("nan")
    found = int(np.ceil(positives * goal.value - 1e-9))
    law = betabinom(positives, found, positives - found + 1)
    return float(law.ppf(0.975) - law.ppf(0.025)) / positives


def summarise(wagers: Sequence[Wager], by: Sequence[str]) -> list[dict[str, Any]]:
    keys = [tuple(getattr(wager, name) for name in by) for wager in wagers]
    lines = []
    for key in dict.fromkeys(keys):
        some = [wager for wager, other in zip(wagers, keys, strict=True) if other == key]
        lines.append(
            {
                **dict(zip(by, key, strict=True)),
                "wagers": len(some),
                "inside": float(np.mean([w.holds for w in some])),
                "median_width": float(np.median([w.high - w.low for w in some])),
                "ideal_width": float(np.median([w.ideal_width for w in some])),
                "positives": float(np.mean([w.positives for w in some])),
                "in_sample": float(np.mean([w.in_sample for w in some])),
                "cross_fitted": float(np.nanmean([w.value for w in some])),
                "reached": float(np.mean([w.reached for w in some])),
            }
        )
    return lines


def write_page(result: Mapping[str, Any]) -> str:
    """Return the result as tables for people: all tables together, then each."""
    job, machine = result["job"], result["machine"]
    lines = [
        "Thresholds chosen on one half, looked at on the other, with 95 % prediction intervals.",
        "",
        f"{job['halves']} random halves of tables of {job['rows']:,} rows.",
        "",
        *write_lines(result["goals"], ("goal", "metric")),
        "",
        *write_lines(result["tables"], ("goal", "table", "metric")),
        "",
        f"{machine['cpu']}, {machine['cores']} cores; {result['seconds']} s; {result['commit']}",
    ]
    return "\n".join(lines) + "\n"


def write_lines(lines: Sequence[Mapping[str, Any]], by: Sequence[str]) -> list[str]:
    names = ("inside", "median_width", "ideal_width", "in_sample", "cross_fitted", "reached")
    shown = [f"| {' | '.join((*by, *names))} |", "|---" * (len(by) + len(names)) + "|"]
    for line in lines:
        numbers = ["" if line[name] is None else f"{line[name]:.3f}" for name in names]
        shown.append(f"| {' | '.join([*(str(line[name]) for name in by), *numbers])} |")
    return shown


def write_csv(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(lines[0]))
        writer.writeheader()
        writer.writerows(
            {k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()}
            for line in lines
        )
    print(f"wrote {path.name}")


if __name__ == "__main__":
    main()
