"""System 5, steel strips: the two classifiers that will gate the segmenters.

python examples/steel.py train.csv train_images OUT [key=value ...]

The table has `ImageId`, `ClassId` and `EncodedPixels`; images without a row are clean.
What follows OUT changes both recipes, as --set does. Writes OUT/counts.csv,
OUT/overlays.png, and the out-of-fold sheets OUT/binary.parquet and OUT/multilabel.parquet.
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
from PIL import Image, ImageDraw

import loupe
from loupe.decoding import read_image
from loupe.masks import decode_rle
from loupe.scoring import read_scores
from loupe.showing import show_decision
from loupe.table import count_classes
from loupe.terminal import make_console, make_reporter

RECIPES = Path(__file__).parents[1] / "recipes"
RECALL = 0.96
"""Of the binary gate: a defect that it misses never reaches a segmenter."""
OVERLAYS, WIDTH, HEIGHT = 12, 800, 128
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (204, 121, 167))
"""Of the four classes; told apart by colour-blind people too (Okabe and Ito)."""


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


def draw_overlays(table: loupe.Table, path: Path) -> None:
    """Draw the first strips with a defect, its pixels in the colour of its class."""
    faulty = np.flatnonzero((table.targets >= 0.5).any(axis=1))[:OVERLAYS]
    sheet = Image.new("RGB", (WIDTH + 8, len(faulty) * (HEIGHT + 20) + 8), "white")
    pen = ImageDraw.Draw(sheet)
    for place, row in enumerate(faulty):
        pixels = read_image(table.images[row])
        for text, colour in zip(table.masks[row] if table.masks else (), COLOURS, strict=True):
            if text:
                there = decode_rle(text, *pixels.shape[:2])
                pixels[there] = pixels[there] // 2 + np.array(colour, np.uint8) // 2
        y = place * (HEIGHT + 20) + 4
        names = [c for c, t in zip(table.classes, table.targets[row], strict=True) if t >= 0.5]
        pen.text((4, y), f"{table.ids[row]}: {', '.join(names)}", fill="black")
        sheet.paste(Image.fromarray(pixels).resize((WIDTH, HEIGHT)), (4, y + 14))
    sheet.save(path)


def show_recall(name: str, run: loupe.Run) -> None:
    """Print recall before precision, of each class, with intervals."""
    scores = {(s.metric, s.class_name): s for s in read_scores(run)}
    for column in run.table().classes:
        r, p = scores["recall", column], scores["precision", column]
        print(
            f"{name:<12}{column:<8}recall {r.value:.3f} [{r.low:.3f}, {r.high:.3f}]  "
            f"precision {p.value:.3f} [{p.low:.3f}, {p.high:.3f}]"
        )
    for stamp in run.manifest()["stamps"]:
        print(f"{name:<12}{stamp}")


def show_gate(run: loupe.Run) -> None:
    """Choose the threshold that keeps enough defects, and say what it is worth on new rows."""
    decision = loupe.decide(run, goals=f"recall:{RECALL}")
    show_decision(make_console(), decision)


def main(labels: str, images: str, out: str, *changes: str, **options: Any) -> None:
    """Count, train both classifiers on the same folds, store their sheets.

    `options` are those of `loupe.train`.
    """
    place = Path(out)
    place.mkdir(parents=True, exist_ok=True)
    table = loupe.split(loupe.read_table(labels, images=images), folds=5, seed=42)
    write_counts(table, place / "counts.csv")
    draw_overlays(table, place / "overlays.png")
    binary = loupe.read_table(labels, images=images, any_class="defect")
    binary = replace(binary, folds=table.folds, groups=table.groups)
    for name, rows in (("binary", binary), ("multilabel", table)):
        recipe = loupe.read_recipe(RECIPES / f"steel_{name}.yaml", changes)
        run = loupe.train(rows, {name: recipe}, place / name, **options)
        show_recall(name, run)
        if name == "binary":
            show_gate(run)
        shutil.copy(run.oof_file, place / f"{name}.parquet")


if __name__ == "__main__":
    main(*sys.argv[1:], reporter=make_reporter(make_console(errors=True)))
