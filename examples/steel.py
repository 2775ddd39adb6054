"""System 5, steel strips: the two classifiers that will gate the segmenters.

python examples/steel.py train.csv train_images OUT [key=value ...]

The table has `ImageId`, `ClassId` and `EncodedPixels`; images without a row are clean.
What follows OUT changes both recipes, as --set does. Writes OUT/counts.csv, and the
out-of-fold sheets OUT/binary.parquet and OUT/multilabel.parquet.
"""

from __future__ import annotations

import csv
import shutil
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import loupe
from loupe.scoring import read_scores
from loupe.table import count_classes
from loupe.terminal import make_console, make_reporter

RECIPES = Path(__file__).parents[1] / "recipes"
RECALL = 0.96
"""Of the binary gate: a defect that it misses never reaches a segmenter."""


def write_counts(table: loupe.Table, path: Path) -> None:
    """Write and print how many images have a defect, each defect, and how many at once."""
    per_image = (table.targets >= 0.5).sum(axis=1).astype(int)
    faulty = int((per_image > 0).sum())
    rows: list[tuple[str, str, int]] = [("images", "defect", faulty)]
    rows += [("images", "clean", len(table) - faulty)]
    rows += [("images of class", name, count) for name, count in count_classes(table).items()]
    rows += [
        ("classes per image", str(n), count) for n, count in sorted(Counter(per_image).items())
    ]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("what", "of", "count"))
        writer.writerows(rows)
    for what, name, count in rows:
        print(f"{what:<20}{name:<10}{count:>7}")


def show_recall(name: str, run: loupe.Run) -> None:
    """Print recall before precision, of each class, with intervals."""
    scores = {(s.metric, s.class_name): s for s in read_scores(run)}
    for column in run.table().classes:
        r, p = scores["recall", column], scores["precision", column]
        print(
            f"{name:<12}{column:<8}recall {r.value:.3f} [{r.low:.3f}, {r.high:.3f}]  "
            f"precision {p.value:.3f} [{p.low:.3f}, {p.high:.3f}]"
        )


def show_gate(run: loupe.Run, table: loupe.Table) -> None:
    """Print the largest threshold that keeps enough defects, and how much it saves."""
    faulty = table.targets[:, 0] >= 0.5
    probs = run.oof()["binary"].probs[:, 0]
    sure = np.sort(probs[faulty])[::-1]
    threshold = sure[int(np.ceil(RECALL * len(sure))) - 1]
    saved = (probs[~faulty] < threshold).mean()
    print(
        f"at {threshold:.3f} it keeps {RECALL:.0%} of the defects and stops {saved:.0%} of the rest"
    )


def main(labels: str, images: str, out: str, *changes: str, **options: Any) -> None:
    """Count, train both classifiers on the same folds, store their sheets.

    `options` are those of `loupe.train`.
    """
    place = Path(out)
    place.mkdir(parents=True, exist_ok=True)
    table = loupe.split(loupe.read_table(labels, images=images), folds=5, seed=42)
    write_counts(table, place / "counts.csv")
    binary = loupe.read_table(labels, images=images, any_class="defect")
    binary = replace(binary, folds=table.folds, groups=table.groups)
    for name, rows in (("binary", binary), ("multilabel", table)):
        recipe = loupe.read_recipe(RECIPES / f"steel_{name}.yaml", changes)
        run = loupe.train(rows, {name: recipe}, place / name, **options)
        show_recall(name, run)
        if name == "binary":
            show_gate(run, binary)
        shutil.copy(run.oof_file, place / f"{name}.parquet")


if __name__ == "__main__":
    main(*sys.argv[1:], reporter=make_reporter(make_console(errors=True)))
