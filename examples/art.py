"""System 4, paintings: CutMix, the plain mean of networks, a second round at a lower rate.

python examples/art.py train test OUT [key=value ...]

`train` has a folder for each class, `test` the images to predict. What follows OUT
changes both recipes, as --set does. Writes OUT/classes.png, OUT/grid.png and
OUT/submission.csv.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageOps

import loupe
from loupe.answers import Answers
from loupe.predictions import Predictions, decide_plainly
from loupe.scoring import read_scores
from loupe.submissions import write_submission
from loupe.table import count_classes
from loupe.terminal import make_console, make_reporter

RECIPES = Path(__file__).parents[1] / "recipes"
NETWORKS = {
    "xception": ["network.name=Xception"],
    "b4": ["network.name=EfficientNetB4", "network.drop_path=0.2"],  # as Keras' has by default
    "densenet": ["network.name=DenseNet201"],
}
TILE, CAPTION, COLUMNS, ROWS = 150, 34, 6, 3


def draw_bars(counts: dict[str, int], path: Path) -> None:
    """Draw how many images each class has."""
    pen = ImageDraw.Draw(picture := Image.new("RGB", (520, 24 * len(counts) + 8), "white"))
    for place, (name, count) in enumerate(counts.items()):
        y = 24 * place + 6
        pen.text((8, y), name, fill="black")
        length = round(340 * count / max(counts.values()))
        pen.rectangle((110, y, 110 + length, y + 16), fill=(70, 110, 180))
        pen.text((118 + length, y), str(count), fill="black")
    picture.save(path)


def draw_grid(table: loupe.Table, sheet: Predictions, path: Path) -> None:
    """Draw the first 18 images with their names and the predicted classes."""
    grid = Image.new("RGB", (COLUMNS * TILE, ROWS * (TILE + CAPTION)), "white")
    for place in range(min(COLUMNS * ROWS, len(table))):
        x, y = place % COLUMNS * TILE, place // COLUMNS * (TILE + CAPTION)
        best = int(sheet.probs[place].argmax())
        caption = f"{table.ids[place]}\n{sheet.classes[best]} {sheet.probs[place, best]:.2f}"
        picture = Image.open(table.images[place]).convert("RGB")
        grid.paste(ImageOps.fit(picture, (TILE - 4, TILE - 4)), (x + 2, y + 2))
        ImageDraw.Draw(grid).text((x + 4, y + TILE), caption, fill="black")
    grid.save(path)


def add_flip(run: loupe.Run) -> str:
    """Return the change that adds the vertical flip to the augmentation of a run."""
    steps = run.member(run.members[0]).recipe().model_dump(mode="json")["augment"]
    return f"augment={json.dumps([*steps, 'VerticalFlip'])}"


def main(train: str, test: str, out: str, *changes: str, folds: int = 5, **options: Any) -> None:
    """Train, go on at a lower rate, refit on all rows, predict the test images.

    `options` are those of `loupe.train`.
    """
    place = Path(out)
    table = loupe.split(loupe.read_table(train), folds=folds, seed=42)

    def recipes(file: str, *more: str) -> dict[str, loupe.Recipe]:
        """Read one recipe for each network."""
        read = loupe.read_recipe
        return {name: read(RECIPES / file, [*n, *more, *changes]) for name, n in NETWORKS.items()}

    first = loupe.train(table, recipes("art.yaml"), place / "first", **options)
    again = recipes("art_retrain.yaml", f"init_from={first.folder}")
    second = loupe.train(table, again, place / "second", **options)
    for told, run in (("first round", first), ("second round", second)):
        for member in (*NETWORKS, "all"):
            s = next(s for s in read_scores(run, member) if s.metric == "accuracy")
            name = "plain mean" if member == "all" else member
            print(f"{told:<14}{name:<12}{s.value:6.3f}  [{s.low:.3f}, {s.high:.3f}]")
        for stamp in run.manifest()["stamps"]:
            print(f"{told:<14}{stamp}")
    # Nothing is held out from here on; what is known of it is what was measured above, and
    # that was without the vertical flip, which comes "at the end".
    more = [add_flip(first)]
    whole = loupe.train(
        table, out=place / "first-all", refit=first.folder, overrides=more, **options
    )
    more = [add_flip(second), f"init_from={whole.folder}"]
    final = loupe.train(
        table, out=place / "second-all", refit=second.folder, overrides=more, **options
    )
    wanted = loupe.read_table(test, layout="images")
    sheet = loupe.predict(final, wanted)
    draw_bars(count_classes(table), place / "classes.png")
    draw_grid(wanted, sheet, place / "grid.png")
    answers = Answers(
        ids=sheet.ids,
        classes=sheet.classes,
        probs=sheet.probs,
        decisions=decide_plainly(sheet),
        exclusive=True,
        errors=sheet.errors,
        layout=table.layout,
    )
    columns = ("answer value",)
    write_submission(place / "submission.csv", answers, columns=columns, index=True, numbers=True)


if __name__ == "__main__":
    main(*sys.argv[1:], reporter=make_reporter(make_console(errors=True)))
