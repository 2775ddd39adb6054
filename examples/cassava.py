"""System 3a, cassava leaves: windows that cover the photograph vote, drawn four times each.

python examples/cassava.py train.csv train_images names.json OUT [key=value ...]

`names.json` is label_num_to_disease_map.json. What follows OUT changes the recipe, as
--set does. Writes OUT/votes.csv, OUT/confusion.csv and OUT/confusion.png.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

import loupe
from loupe.ensembles import count_run_views
from loupe.metrics import confusion_matrix, to_decisions
from loupe.scoring import read_scores
from loupe.terminal import make_console, make_reporter

RECIPE = Path(__file__).parents[1] / "recipes" / "cassava.yaml"
CELL, MARGIN = 64, 230


def write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def draw_heat_map(names: Sequence[str], shares: NDArray[Any], path: Path) -> None:
    """Draw the share of each row (given) in each column (predicted, same order)."""
    size = (MARGIN + len(names) * CELL, len(names) * CELL)
    pen = ImageDraw.Draw(picture := Image.new("RGB", size, "white"))
    for row, name in enumerate(names):
        pen.text((8, row * CELL + CELL // 3), name, fill="black")
    for (row, column), share in np.ndenumerate(np.nan_to_num(shares)):
        x, y = MARGIN + column * CELL, row * CELL
        fade = round(255 * (1 - share))
        pen.rectangle((x, y, x + CELL - 2, y + CELL - 2), fill=(fade, fade, 255))
        ink = "white" if share > 0.5 else "black"
        pen.text((x + CELL // 4, y + CELL // 3), f"{share:.2f}", fill=ink)
    picture.save(path)


def main(labels: str, images: str, names: str, out: str, *changes: str, **options: Any) -> None:
    """Train on 80 %, let the windows of the rest vote, show where they err.

    `options` are those of `loupe.train`.
    """
    table = loupe.read_table(labels, images=images, names=names)
    table = loupe.split(table, validation=0.2, seed=42)
    recipe = loupe.read_recipe(RECIPE, changes)
    run = loupe.train(table, {"cassava": recipe}, Path(out) / "run", **options)
    sheet = run.oof()["cassava"]
    votes = sheet.probs.astype(np.float64) * count_run_views(run)
    rows = (
        (key, *sums.round(4).tolist(), sheet.classes[sums.argmax()])
        for key, sums in zip(sheet.ids, votes, strict=True)
    )
    write_rows(Path(out) / "votes.csv", ("image_id", *sheet.classes, "predicted"), rows)
    held = table.select(np.flatnonzero(np.asarray(table.folds) == 0))
    decided = to_decisions(sheet.probs, exclusive=True)
    counts = confusion_matrix(held.targets >= 0.5, decided).astype(int)
    lines = ((name, *line) for name, line in zip(table.classes, counts.tolist(), strict=True))
    write_rows(Path(out) / "confusion.csv", ("given", *table.classes), lines)
    with np.errstate(invalid="ignore"):
        shares = counts / counts.sum(axis=1, keepdims=True)
    draw_heat_map(table.classes, shares, Path(out) / "confusion.png")
    # The accuracy of one class is its recall.
    for s in read_scores(run):
        if s.metric == "accuracy" or (s.metric == "recall" and s.class_name):
            name = s.class_name or "accuracy"
            print(f"{name:<40}{s.value:7.3f}  [{s.low:.3f}, {s.high:.3f}]  of {s.n}")
    for stamp in run.manifest()["stamps"]:
        print(stamp)


if __name__ == "__main__":
    main(*sys.argv[1:], reporter=make_reporter(make_console(errors=True)))
