"""System 3b, cassava leaves: drop the rows whose label the out-of-fold votes contradict.

python examples/cassava_denoise.py train.csv train_images names.json OUT [key=value ...]

`names.json` is label_num_to_disease_map.json. What follows OUT changes the recipe, as
--set does. Writes OUT/noisy.csv, OUT/cleaned.csv and OUT/scores.csv.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import loupe
from loupe.ensembles import count_run_views
from loupe.intervals import compare_paired, score
from loupe.terminal import make_console, make_reporter

RECIPE = Path(__file__).parents[1] / "recipes" / "cassava_denoise.yaml"
SURE = 0.8
"""Of each vote, on average: 1.6 for the sum of two."""


def write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def find_noisy(table: loupe.Table, run: loupe.Run, path: Path) -> NDArray[np.bool_]:
    """Return which rows' votes are sure of another class than the given one."""
    views = count_run_views(run)
    sums = run.oof()["b0"].probs * views
    given, predicted, value = table.targets.argmax(axis=1), sums.argmax(axis=1), sums.max(axis=1)
    noisy = np.asarray((given != predicted) & (value >= SURE * views))
    rows = (
        (table.ids[i], table.classes[given[i]], table.classes[predicted[i]], f"{value[i]:.4f}")
        for i in np.flatnonzero(noisy)
    )
    write_rows(path, ("image_id", "given", "predicted", "value"), rows)
    return noisy


def predict_dropped(run: loupe.Run, table: loupe.Table, probs: NDArray[Any]) -> None:
    """Fill in the rows that a run was not given, each by the network of its own fold.

    That network saw no row of the fold and none of its groups, as for all other rows.
    """
    missing = np.isnan(probs[:, 0])
    for fold in run.folds:
        rows = np.flatnonzero(missing & (np.asarray(table.folds) == fold))
        if len(rows):
            probs[rows] = loupe.predict(replace(run, folds=(fold,)), table.select(rows)).probs


def main(labels: str, images: str, names: str, out: str, *changes: str, **options: Any) -> None:
    """Train, drop what is noisy, train the same folds again, score on all rows.

    `options` are those of `loupe.train`.
    """
    place = Path(out)
    table = loupe.split(loupe.read_table(labels, images=images, names=names), folds=5, seed=42)
    recipes = {"b0": loupe.read_recipe(RECIPE, changes)}
    first = loupe.train(table, recipes, place / "first", **options)
    clean = ~find_noisy(table, first, place / "noisy.csv")
    kept = table.select(np.flatnonzero(clean))
    with Path(labels).open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    column = header.index(table.layout.image_column)
    write_rows(place / "cleaned.csv", header, (row for row in rows if row[column] in kept.ids))
    second = loupe.train(kept, recipes, place / "second", **options)
    before = first.oof()["b0"].probs
    after = np.full_like(before, np.nan)
    after[clean] = second.oof()["b0"].probs
    predict_dropped(second, table, after)
    told: list[tuple[object, ...]] = []
    sheets = (("before", table, before), ("after", table, after), ("cleaned", kept, after[clean]))
    for what, on, probs in sheets:
        s = score(on.targets, probs, exclusive=True, classes=on.classes, groups=on.groups)[0]
        told.append((what, len(on), f"{s.value:.4f}", f"{s.low:.4f}", f"{s.high:.4f}"))
        print(f"{what:<8} {len(on):>6} rows: accuracy {s.value:.3f} [{s.low:.3f}, {s.high:.3f}]")
    write_rows(place / "scores.csv", ("what", "rows", "accuracy", "low", "high"), told)
    gain = compare_paired(table.targets, after, before, exclusive=True, groups=table.groups)
    print(f"gain on all rows {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]")
    print("'cleaned' flatters: rows that it would have got wrong were dropped. 'after' is honest")
    print("but for one thing: the votes that chose the rows had seen the labels of other folds.")
    for stamp in dict.fromkeys(first.manifest()["stamps"] + second.manifest()["stamps"]):
        print(stamp)


if __name__ == "__main__":
    main(*sys.argv[1:], reporter=make_reporter(make_console(errors=True)))
