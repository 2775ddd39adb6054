"""System 3b, cassava leaves: drop the rows whose label the out-of-fold votes contradict.

python examples/cassava_denoise.py train.csv train_images names.json OUT [key=value ...]

`names.json` is label_num_to_disease_map.json, or '' where labels are names already. What
follows OUT changes the recipe, as --set does. Trains OUT/first, audits it, writes OUT/noisy.csv,
OUT/relabelled.csv and OUT/cleaned.csv, trains OUT/second, and proves what came of it:
OUT/scores.csv. Started again it goes on where it was.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import loupe
from loupe.ensembles import count_run_views
from loupe.intervals import score
from loupe.showing import show_comparison
from loupe.terminal import make_console, make_reporter

RECIPE = Path(__file__).parents[1] / "recipes" / "cassava_denoise.yaml"
RULE = "confident"
SURE = 0.8
"""Of each vote, on average: 1.6 for the sum of two."""


def write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def find_noisy(table: loupe.Table, run: loupe.Run, path: Path) -> NDArray[np.bool_]:
    """Return which rows' votes are sure of another class than the given one."""
    # As the write-up judges: by the votes alone, not by copies of an image.
    found = loupe.audit(
        run, out=run.folder / "issues.csv", rules=(RULE,), confidence=SURE, copies=False
    )
    doubted = {issue.id for issue in found.flagged if RULE in issue.rules}
    noisy = np.array([name in doubted for name in table.ids], np.bool_)
    sums = run.oof()["b0"].probs * count_run_views(run)
    given, predicted, value = table.targets.argmax(axis=1), sums.argmax(axis=1), sums.max(axis=1)
    rows = (
        (table.ids[i], table.classes[given[i]], table.classes[predicted[i]], f"{value[i]:.4f}")
        for i in np.flatnonzero(noisy)
    )
    write_rows(path, ("image_id", "given", "predicted", "value"), rows)
    return noisy


def write_cleaned(labels: Path, table: loupe.Table, clean: NDArray[np.bool_], path: Path) -> None:
    """Write the table as the write-up had it, without the dropped rows."""
    kept = {table.ids[row] for row in np.flatnonzero(clean)}
    with labels.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    column = header.index(table.layout.image_column)
    write_rows(path, header, (row for row in rows if row[column] in kept))


def print_scores(
    table: loupe.Table, runs: Sequence[loupe.Run], clean: NDArray[np.bool_], path: Path
) -> None:
    """Score both rounds on the cleaned rows, as the write-up did, and on all rows."""
    told: list[tuple[object, ...]] = []
    everywhere = np.ones(len(table), np.bool_)
    for on, chosen in (("cleaned", clean), ("all", everywhere)):
        rows = np.flatnonzero(chosen)
        part = table.select(rows)
        for what, run in zip(("before", "after"), runs, strict=True):
            s = score(
                part.targets, run.oof()["b0"].probs[rows], exclusive=True, classes=part.classes,
                folds=part.folds, groups=part.groups,
            )[0]  # fmt: skip
            numbers = (s.value, s.low, s.high, s.fold_mean)
            told.append((what, on, len(part), *(f"{number:.4f}" for number in numbers)))
            print(
                f"{what:<6} {on:>7} {len(part):>6} rows: mean of the folds {s.fold_mean:.3f}, "
                f"pooled {s.value:.3f} [{s.low:.3f}, {s.high:.3f}]"
            )
    header = ("what", "on", "rows", "accuracy", "low", "high", "mean_of_folds")
    write_rows(path, header, told)
    print("'cleaned' flatters, before the second training too: rows got wrong were left out")


def main(labels: str, images: str, names: str, out: str, *changes: str, **options: Any) -> None:
    """Train, drop what is noisy, train the same folds again, prove what came of it.

    `options` are those of `loupe.train`.
    """
    place = Path(out)
    table = loupe.read_table(labels, images=images, names=names or None)
    table = loupe.split(table, folds=5, seed=42)
    recipes = {"b0": loupe.read_recipe(RECIPE, changes)}
    first = loupe.train(table, recipes, place / "first", **options)
    noisy = find_noisy(table, first, place / "noisy.csv")
    write_cleaned(Path(labels), table, ~noisy, place / "cleaned.csv")
    print(f"{noisy.sum()} of {len(table)} rows are dropped")
    if not noisy.any():
        return
    # Dropped rows stay in the table with weight 0: not trained on, but held out and scored.
    made = loupe.relabel(
        table, first.folder / "issues.csv", out=place / "relabelled.csv", policy="drop",
        rules=(RULE,), source=labels,
    )  # fmt: skip
    second = loupe.train(made.table, recipes, place / "second", **options)
    print_scores(table, (first, second), ~noisy, place / "scores.csv")
    show_comparison(make_console(), loupe.compare(first, second))


if __name__ == "__main__":
    main(*sys.argv[1:], reporter=make_reporter(make_console(errors=True)))
