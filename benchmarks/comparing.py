"""Compare finished runs on the same rows: scores with intervals, paired differences.

    python -m benchmarks.comparing --name art plain=RUN cutmix=RUN both=RUN,RUN2

Names are free; several runs parted by commas are blended by their plain mean. The first
is what the others are compared with. Out-of-fold rows only; nothing is chosen on them.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.measuring import ROOT, describe_machine, read_commit, write_result

from loupe.intervals import compare_paired, score
from loupe.predictions import Predictions, average_sheets
from loupe.ranking import pr_auc
from loupe.records import list_versions
from loupe.runs import Run, open_run
from loupe.scorecard import main_metric
from loupe.table import Table


def main(arguments: Sequence[str] | None = None) -> None:
    args = read_arguments(arguments)
    named = dict(part.split("=", 1) for part in args.runs)
    runs = {name: [open_run(f) for f in folders.split(",")] for name, folders in named.items()}
    table = next(iter(runs.values()))[0].table()
    rows = np.flatnonzero(table.folds >= 0) if table.folds is not None else np.arange(len(table))
    sheets = {name: blend(group, table, rows) for name, group in runs.items()}
    result = {
        "benchmark": "comparing",
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "job": {"data": args.name, "rows": len(rows), "classes": list(table.classes)},
        "machine": describe_machine(),
        "versions": list_versions(),
        "commit": read_commit(),
        "note": args.note,
        **compare(table, rows, sheets),
        "recipes": {name: list_recipes(group) for name, group in runs.items()},
        "seconds": {name: list_seconds(group) for name, group in runs.items()},
        "stamps": {name: list_stamps(group) for name, group in runs.items()},
    }
    write_result(args.results, result, write_page(result))


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN[,RUN]")
    parser.add_argument("--name", required=True, help="what the result is called")
    parser.add_argument("--note", default="", help="what a reader must know")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    return parser.parse_args(arguments)


def blend(runs: Sequence[Run], table: Table, rows: np.ndarray) -> Predictions:
    """Return the mean of all members of some runs, whose rows must be the table's."""
    sheets = [sheet for run in runs for sheet in run.oof().values()]
    wanted = tuple(table.ids[row] for row in rows)
    for run in runs:
        folds = run.table().folds
        if run.table().ids != table.ids or not np.array_equal(folds, table.folds):
            sys.exit(f"{run.folder} has other rows or folds than the first run.")
    found = average_sheets(sheets)
    if found.ids != wanted:
        sys.exit("a run has rows that were set aside; compare runs on readable images.")
    return found


def compare(table: Table, rows: np.ndarray, sheets: Mapping[str, Predictions]) -> dict[str, Any]:
    groups = None if table.groups is None else [table.groups[row] for row in rows]
    targets, exclusive = table.targets[rows], table.exclusive
    metric = main_metric(exclusive=exclusive)
    first = next(iter(sheets.values()))
    scores, differences, areas = {}, {}, {}
    for name, sheet in sheets.items():
        scored = score(
            targets, sheet.probs, exclusive=exclusive, classes=table.classes, groups=groups
        )
        scores[name] = {s.metric: without_nan(asdict(s)) for s in scored if not s.class_name}
        areas[name] = pr_auc(targets >= 0.5, sheet.probs).round(4).tolist()
        if sheet is not first:
            found = compare_paired(
                targets, sheet.probs, first.probs, exclusive=exclusive, groups=groups
            )
            differences[name] = without_nan(asdict(found))
    return {"metric": metric, "scores": scores, "differences": differences, "pr_auc": areas}


def without_nan(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no NaN; null stands for it."""
    return {k: None if isinstance(v, float) and v != v else v for k, v in values.items()}  # noqa: PLR0124


def list_recipes(runs: Sequence[Run]) -> dict[str, Any]:
    return {
        member: run.member(member).recipe().model_dump(mode="json", exclude={"init_from"})
        for run in runs
        for member in run.members
    }


def list_seconds(runs: Sequence[Run]) -> list[float]:
    return [json.loads(run.scores_file.read_text(encoding="utf-8"))["seconds"] for run in runs]


def list_stamps(runs: Sequence[Run]) -> list[str]:
    return [stamp for run in runs for stamp in run.manifest()["stamps"]]


def write_page(result: Mapping[str, Any]) -> str:
    """Return the result as a table for people, and PR-AUC of each class below."""
    metric = result["metric"]
    first = next(iter(result["scores"]))
    lines = [f"| what | {metric} | against {first}, points | seconds |", "|---|---|---|---|"]
    for name, scores in result["scores"].items():
        s, d = scores[metric], result["differences"].get(name)
        shown = "" if d is None else (
            f"{100 * d['value']:+.2f} ({100 * d['low']:+.2f} to {100 * d['high']:+.2f}), "
            f"p = {d['p_value']:.3f}"
        )  # fmt: skip
        took = " + ".join(f"{value:.0f}" for value in result["seconds"][name])
        lines.append(
            f"| {name} | {s['value']:.2%} ({s['low']:.2%} to {s['high']:.2%}) | {shown} | {took} |"
        )
    lines += ["", "PR-AUC (trapezoid) of each class:", ""]
    classes = result["job"]["classes"]
    lines += [f"| what | mean | {' | '.join(classes)} |", "|---|---|" + "---|" * len(classes)]
    for name, values in result["pr_auc"].items():
        cells = " | ".join(f"{value:.3f}" for value in values)
        lines.append(f"| {name} | {np.mean(values):.3f} | {cells} |")
    machine, rows = result["machine"], result["job"]["rows"]
    how = f"Out-of-fold, {rows:,} rows, 95 % intervals over groups, paired differences."
    where = f"{machine['cpu']}, {machine['cores']} cores; {result['commit']}, {result['date']}"
    lines += ["", f"{how} {result['note']}", "", where]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
