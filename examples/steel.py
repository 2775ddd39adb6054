"""System 5, steel strips: two classifiers, four segmenters behind them, and four cascades.

python examples/steel.py train.csv train_images OUT [key=value ...]

The table has `ImageId`, `ClassId` and `EncodedPixels`; images without a row are clean.
What follows OUT changes the recipes of both classifiers, as --set does, and behind
`segment:` (`segment:stages.0.epochs=5`) that of the segmenters. Writes OUT/counts.csv,
OUT/overlays.png, and the out-of-fold sheets OUT/binary.parquet and OUT/multilabel.parquet;
prints what each of the write-up's four pipelines is worth and how long it takes.
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
from loupe.maskshowing import show_stage_times, show_variants
from loupe.scoring import read_scores
from loupe.showing import show_decision
from loupe.table import count_classes
from loupe.terminal import make_console, make_reporter

RECIPES = Path(__file__).parents[1] / "recipes"
RECALL = 0.96
"""Of the binary gate: a defect that it misses never reaches a segmenter."""
SEGMENT = "segment:"
"""What a change of the segmenters' recipe begins with."""
PIPELINES = (
    ("masks",),
    ("binary", "masks"),
    ("labels", "masks"),
    ("binary", "labels", "masks"),
)
"""The write-up's; it chose the last."""
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


def time_pipelines(cascade: loupe.Cascade, images: str, device: str) -> None:
    """Run each pipeline on all images, and print what every stage was shown and took.

    Their networks were trained on these images: the times are those of new ones, the masks
    are not, and are not kept.
    """
    rows = loupe.read_table(images, layout="images")
    for stages in PIPELINES:
        found = loupe.cascade(cascade, rows, stages=stages, device=device)
        print(f"{' > '.join(stages)}: {found.seconds:.1f} s, {found.images_per_s:.1f} images/s")
        show_stage_times(make_console(), found.stages)


def main(labels: str, images: str, out: str, *changes: str, folds: int = 5, **options: Any) -> None:
    """Count, train everything on the same folds, store the sheets, compare the pipelines.

    `options` are those of `loupe.train`.
    """
    place = Path(out)
    place.mkdir(parents=True, exist_ok=True)
    table = loupe.split(loupe.read_table(labels, images=images), folds=folds, seed=42)
    write_counts(table, place / "counts.csv")
    draw_overlays(table, place / "overlays.png")
    binary = loupe.read_table(labels, images=images, any_class="defect")
    binary = replace(binary, folds=table.folds, groups=table.groups)
    shared = [change for change in changes if not change.startswith(SEGMENT)]
    for name, rows in (("binary", binary), ("multilabel", table)):
        recipe = loupe.read_recipe(RECIPES / f"steel_{name}.yaml", shared)
        run = loupe.train(rows, {name: recipe}, place / name, **options)
        show_recall(name, run)
        if name == "binary":
            show_gate(run)
        shutil.copy(run.oof_file, place / f"{name}.parquet")
    own = [change.removeprefix(SEGMENT) for change in changes if change.startswith(SEGMENT)]
    recipe = loupe.read_recipe(RECIPES / "steel_segment.yaml", own)
    loupe.train(table, {"segment": recipe}, place / "masks", **options)
    runs = {"binary": "binary", "labels": "multilabel", "masks": "masks"}
    cascade = loupe.read_cascade(
        {stage: {"run": str(place / name)} for stage, name in runs.items()}
    )
    show_variants(make_console(), loupe.try_variants(cascade))
    time_pipelines(cascade, images, options.get("device", "auto"))


if __name__ == "__main__":
    main(*sys.argv[1:], reporter=make_reporter(make_console(errors=True)))
