"""Time and score the main job: Loupe's default recipe against the plain loop.

From a table with folds to out-of-fold predictions with test-time augmentation. Both
sides run alternately, each in a fresh process on the same rows and folds; Loupe's
decode cache is empty before each of its runs. Nothing is pinned: both sides may use the
whole machine as they see fit. Round r uses seed r on both sides.

    python -m benchmarks.main_job --data DIR --weights DIR --folds 5 --epochs 3 --rounds 1

DIR of --data holds labels.csv and images/. See README.md for what is counted.
"""

from __future__ import annotations

import argparse
import datetime as dt
import itertools
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from benchmarks import plain_loop
from benchmarks.measuring import (
    ROOT,
    Timed,
    add_rest,
    describe_machine,
    read_commit,
    run_process,
    summarise,
    write_result,
)
from benchmarks.pages import write_page

from loupe.augment import parse_steps
from loupe.choices import AdamW, AutoLoss, Cosine
from loupe.defaults import choose_recipe
from loupe.inference import choose_device
from loupe.intervals import compare_paired, score
from loupe.layouts import read_table
from loupe.recipe import Recipe, read_recipe, write_recipe
from loupe.records import list_versions
from loupe.runs import open_run
from loupe.settings import FullStage, HeadStage, Input, Network
from loupe.splitting import split
from loupe.table import Float32, Table
from loupe.weights import WeightsFile, find_weights

NAME = "main-job"
PLAIN_AUGMENT = ["HorizontalFlip"]
"""What plain_loop.py does at random, in the words of a recipe."""
REPORTED = ("accuracy", "balanced_accuracy", "f1_macro", "log_loss")
Sheets = dict[str, list[Float32]]  # who to probabilities, (N, C) of each round


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What both sides are given."""

    table: Table
    folds_csv: Path
    images: Path
    weights_folder: Path
    weights: WeightsFile
    recipe: Recipe
    recipe_file: Path
    folder: Path

    @property
    def member(self) -> str:
        """Loupe names a member by its recipe file."""
        return self.recipe_file.stem


def main(arguments: Sequence[str] | None = None) -> None:
    args = read_arguments(arguments)
    with tempfile.TemporaryDirectory(prefix="loupe-main-job-") as folder:
        job = prepare(args, Path(folder))
        runs, sheets = run_rounds(job, args.rounds)
        recipes = [read_resolved(job, seed) for seed in range(args.rounds)]
    result = {
        "benchmark": NAME,
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "command": describe_command(args),
        "job": describe_job(args, job),
        "machine": describe_machine(),
        "versions": list_versions(),
        "commit": read_commit(),
        "recipe": recipes[0].model_dump(mode="json"),
        "engines": [recipe.engine.model_dump(mode="json") for recipe in recipes],
        "time": compare_times(runs),
        **compare_quality(job.table, sheets),
        "runs": [asdict(run) for run in runs],
    }
    write_result(args.results, result, write_page(result))


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, required=True, help="holds labels.csv and images/")
    parser.add_argument("--weights", type=Path, required=True, help="folder of safetensors files")
    parser.add_argument("--label-column", help="if it is not to be found out")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--subset", type=int, help="so many rows, evenly spaced in the table")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    return parser.parse_args(arguments)


def prepare(args: argparse.Namespace, folder: Path) -> Job:
    """Make the folds, the recipe and the shared table; none of it is timed."""
    images = (args.data / "images").resolve()
    table = read_table(args.data / "labels.csv", images=images, label_column=args.label_column)
    if args.subset:
        table = table.select(np.linspace(0, len(table) - 1, args.subset).astype(int))
    if not table.exclusive or len(table.classes) < 2:
        sys.exit("the plain loop knows only tables with two or more exclusive classes.")
    # Looking for copies also reads every image, so both sides find them in memory.
    table = split(table, folds=args.folds)
    overrides = [f"input.size={args.size}", f"stages.1.epochs={args.epochs}"]
    choice = choose_recipe(table, args.weights, device=choose_device("auto"))
    recipe = read_recipe(choice.recipe.model_dump(mode="json"), overrides)
    check_same_work(recipe)
    weights = find_weights(recipe.network.name, args.weights)
    if weights is None:
        sys.exit("--weights holds no weights of the network; the plain loop needs the file.")
    weights.path.read_bytes()  # the first run should not be the one that waits for the disk
    job = Job(
        table=table,
        folds_csv=folder / "folds.csv",
        images=images,
        weights_folder=args.weights.resolve(),
        weights=weights,
        recipe=recipe,
        recipe_file=folder / f"{recipe.network.name}.yaml",
        folder=folder,
    )
    list_rows(table).to_csv(job.folds_csv, index=False)
    job.recipe_file.write_text(write_recipe(recipe), encoding="utf-8")
    return job


def check_same_work(recipe: Recipe) -> None:
    """Stop where the default recipe has moved on and the plain loop has not.

    The moving average is Loupe's alone: it changes no pass over the data.
    """
    full = recipe.stages[-1]
    known = Recipe(
        seed=recipe.seed,
        network=Network(name=recipe.network.name),
        input=Input(size=recipe.input.size),
        augment=parse_steps(PLAIN_AUGMENT),
        loss=AutoLoss(label_smoothing=recipe.loss.label_smoothing),
        optimizer=AdamW(
            lr=recipe.optimizer.lr,
            weight_decay=recipe.optimizer.weight_decay,
            clip_norm=recipe.optimizer.clip_norm or 1.0,
        ),
        schedule=Cosine(warmup=getattr(recipe.schedule, "warmup", 0.1)),
        stages=(HeadStage(), FullStage(epochs=getattr(full, "epochs", 1), freeze_norm=True)),
        batch_size=recipe.batch_size,
        ema=recipe.ema,
    )
    if recipe != known:
        fields = [name for name in Recipe.model_fields if _differ(recipe, known, name)]
        sys.exit(
            f"plain_loop.py does not do the work of this recipe ({', '.join(fields)} differ); "
            "bring it up to date before comparing."
        )


def _differ(recipe: Recipe, other: Recipe, name: str) -> bool:
    return bool(getattr(recipe, name) != getattr(other, name))


def list_rows(table: Table) -> pd.DataFrame:
    labels = [table.classes[place] for place in table.targets.argmax(axis=1)]
    columns = {"image": table.ids, "label": labels, "fold": table.folds}
    return pd.DataFrame(columns | ({"group": table.groups} if table.groups else {}))


def read_resolved(job: Job, seed: int) -> Recipe:
    """Return the recipe of one round, with what the speed probe chose."""
    return open_run(job.folder / f"loupe-{seed}").member(job.member).recipe()


def run_rounds(job: Job, rounds: int) -> tuple[list[Timed], Sheets]:
    """Run both sides in turn, so that a busy hour of the machine meets both."""
    runs: list[Timed] = []
    sheets: Sheets = {}
    for seed in range(rounds):
        for run_side in (run_loupe, run_plain):
            timed, found = run_side(job, seed)
            print(f"round {seed + 1}: {timed.who} {timed.wall_s:.1f} s", flush=True)
            runs.append(timed)
            for name, probs in found.items():
                sheets.setdefault(name, []).append(probs)
    return runs, sheets


def run_loupe(job: Job, seed: int) -> tuple[Timed, dict[str, Float32]]:
    out = job.folder / f"loupe-{seed}"
    command = ["-m", "loupe.cli", "train", str(job.folds_csv), str(job.recipe_file)]
    command += ["--images", str(job.images), "--weights", str(job.weights_folder)]
    command += ["--out", str(out), "--set", f"seed={seed}"]
    timed = run_process("loupe", command, job.folder, seed)
    run = open_run(out)
    timed.parts.update(read_parts(run.log))
    sheet = run.oof()[job.member]
    return add_rest(timed), {"loupe": align(sheet.ids, sheet.classes, sheet.probs, job.table)}


def run_plain(job: Job, seed: int) -> tuple[Timed, dict[str, Float32]]:
    out, recipe = job.folder / f"plain-{seed}", job.recipe
    full = recipe.stages[-1]
    options = {
        "table": job.folds_csv,
        "images": job.images,
        "weights": job.weights.path.resolve(),
        "out": out,
        "size": recipe.input.size[0],
        "epochs": full.epochs if isinstance(full, FullStage) else 0,
        "batch-size": recipe.batch_size,
        "lr": recipe.optimizer.lr,
        "weight-decay": recipe.optimizer.weight_decay,
        "warmup": recipe.schedule.warmup,
        "label-smoothing": recipe.loss.label_smoothing,
        "clip-norm": recipe.optimizer.clip_norm,
        "seed": seed,
    }
    command = ["-m", "benchmarks.plain_loop"]
    command += [str(part) for key, value in options.items() for part in (f"--{key}", value)]
    timed = run_process("plain_loop", command, job.folder, seed)
    timed.parts.update(json.loads((out / "parts.json").read_text(encoding="utf-8")))
    probs = {
        "plain_loop": read_sheet(out / "oof.csv", job.table),
        "logistic_regression": read_sheet(out / "head.csv", job.table),
    }
    if seed == 0:
        probs["logistic_regression_c1"] = fit_at_default(np.load(out / "features.npy"), job.table)
    return add_rest(timed), probs


def read_parts(log: Path) -> dict[str, float]:
    """Read from a run's log how long each part took; folds run side by side."""
    at: dict[str, float] = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        at[event["event"]] = event["time_s"]  # the last of its kind
    names = {"probe": "probe", "features": "decode and features", "fold": "folds"}
    ends = [("start", at["start"])] + [(n, at[n]) for n in (*names, "finish") if n in at]
    parts = itertools.pairwise(ends)
    return {names.get(name, "scores"): round(end - begin, 2) for (_, begin), (name, end) in parts}


def read_sheet(path: Path, table: Table) -> Float32:
    sheet = pd.read_csv(path, dtype={"image": str}, keep_default_na=False)
    columns = [name for name in map(str, sheet.columns) if name.startswith("prob:")]
    classes = [name.removeprefix("prob:") for name in columns]
    return align(sheet["image"].tolist(), classes, sheet[columns].to_numpy(np.float32), table)


def align(ids: Sequence[str], classes: Sequence[str], probs: Float32, table: Table) -> Float32:
    """Put rows and columns into the table's order; a missing one is an error."""
    row, column = ({key: place for place, key in enumerate(keys)} for keys in (ids, classes))
    rows, columns = [row[key] for key in table.ids], [column[key] for key in table.classes]
    return probs[np.ix_(rows, columns)]


def fit_at_default(features: Float32, table: Table) -> Float32:
    """Return out-of-fold probabilities of scikit-learn's default, C = 1; not timed."""
    labels, folds = table.targets.argmax(axis=1), np.asarray(table.folds)
    probs = np.zeros(table.targets.shape, np.float32)
    for fold in np.unique(folds):
        rows, held = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        flat = plain_loop.flatten_views(features[rows])
        head = plain_loop.make_head(C=1.0).fit(flat, labels[rows].repeat(2))
        probs[held] = plain_loop.predict_head(head, features[held])
    return probs


def compare_times(runs: Sequence[Timed]) -> dict[str, Any]:
    walls = {who: [run.wall_s for run in runs if run.who == who] for who in list_sides(runs)}
    ratios = [
        plain / loupe for plain, loupe in zip(walls["plain_loop"], walls["loupe"], strict=True)
    ]
    spread = {who: summarise(found) for who, found in walls.items()}
    return {f"{who}_s": found for who, found in spread.items()} | {
        "plain_over_loupe": summarise(ratios)
    }


def list_sides(runs: Sequence[Timed]) -> list[str]:
    return list(dict.fromkeys(run.who for run in runs))


def compare_quality(table: Table, sheets: Sheets) -> dict[str, Any]:
    """Score every side, and Loupe against every other, all rounds together.

    The rounds of one image are drawn together, so the interval is that of the mean over
    seeds and does not shrink because a round was repeated.
    """
    rounds = max(len(found) for found in sheets.values())
    targets = np.concatenate([table.targets] * rounds)
    groups = list(table.groups or table.ids) * rounds
    # The reference at C = 1 has no seed: one fit stands for all rounds.
    full = {who: np.concatenate((found * rounds)[:rounds]) for who, found in sheets.items()}
    scores = {
        who: [
            asdict(entry)
            for entry in score(targets, probs, exclusive=True, classes=table.classes, groups=groups)
            if not entry.class_name and entry.metric in REPORTED
        ]
        for who, probs in full.items()
    }
    pairs = [("loupe", other) for other in full if other != "loupe"]
    pairs += [("plain_loop", "logistic_regression")]
    differences = {
        f"{a} - {b}": asdict(
            compare_paired(targets, full[a], full[b], exclusive=True, groups=groups)
        )
        for a, b in pairs
    }
    return {
        "scores": {
            who: {e["metric"]: {key: e[key] for key in ("value", "low", "high")} for e in entries}
            for who, entries in scores.items()
        },
        "accuracy_by_round": {
            who: [accuracy(table, probs) for probs in found] for who, found in sheets.items()
        },
        "differences": differences,
    }


def accuracy(table: Table, probs: Float32) -> float:
    return float((probs.argmax(axis=1) == table.targets.argmax(axis=1)).mean())


def describe_command(args: argparse.Namespace) -> str:
    """Repeat the command with the names of data and weights, not their places."""
    subset = f" --subset {args.subset}" if args.subset else ""
    column = f" --label-column {args.label_column}" if args.label_column else ""
    return (
        f"python -m benchmarks.main_job --data {args.data.resolve().name} --weights WEIGHTS "
        f"--folds {args.folds} --epochs {args.epochs} --rounds {args.rounds} "
        f"--size {args.size}{subset}{column}"
    )


def describe_job(args: argparse.Namespace, job: Job) -> dict[str, Any]:
    table = job.table
    return {
        "data": args.data.resolve().name,
        "rows": len(table),
        "classes": len(table.classes),
        "groups": len(set(table.groups or table.ids)),
        "table_digest": table.digest(),
        "weights": job.weights.path.name,
        "folds": args.folds,
        "epochs": args.epochs,
        "size": args.size,
        "rounds": args.rounds,
        "seeds": list(range(args.rounds)),
    }


if __name__ == "__main__":
    main()
