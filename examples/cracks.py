"""System 1, cracks on ceramic tiles: four folds in blocks, arg-max of 0.8 x B6 + 0.2 x B7.

python examples/cracks.py train.csv train test.csv test OUT [key=value ...]

The tables have the columns `file_name` and, to train on, `label` (1 is a crack). What
follows OUT changes the recipe, as --set does. Writes OUT/answer.csv, a label a line.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import loupe
from loupe.answers import Answers
from loupe.intervals import score
from loupe.predictions import Predictions, decide_plainly
from loupe.submissions import write_submission
from loupe.terminal import make_console, make_reporter

RECIPE = Path(__file__).parents[1] / "recipes" / "cracks.yaml"
NETWORKS = {"b6": "EfficientNetB6-noisy-student", "b7": "EfficientNetB7-noisy-student"}
SHARES = {"b6": 0.8, "b7": 0.2}
NAMES: dict[object, str] = {"0": "sound", "1": "crack"}


def blend(sheets: dict[str, Predictions]) -> Predictions:
    """Return the weighted mean of the members' sheets; their rows are the same."""
    probs = sum(share * sheets[name].probs for name, share in SHARES.items())
    return replace(sheets["b6"], probs=np.clip(probs, 0, 1))


def show_scores(table: loupe.Table, sheet: Predictions) -> None:
    """Print precision, recall and F1 of the cracks, each with its interval."""
    found = score(
        table.targets,
        sheet.probs,
        exclusive=True,
        classes=table.classes,
        folds=table.folds,
        groups=table.groups,
    )
    for s in found:
        if s.class_name == "crack" and s.metric in {"precision", "recall", "f1"}:
            print(f"{s.metric:<10}{s.value:7.3f}  [{s.low:.3f}, {s.high:.3f}]  of {s.n} cracks")


def main(
    labels: str, images: str, test: str, test_images: str, out: str, *changes: str, **options: Any
) -> None:
    """Train both networks, score their blend out of fold, predict the test images.

    `options` are those of `loupe.train`.
    """
    table = loupe.read_table(labels, images=images, names=NAMES)
    table = loupe.split(table, folds=4, shuffle=False, stratify=False)
    wanted = loupe.read_table(test, images=test_images, layout="images")
    held_out, answers, stamps = {}, {}, []
    for name, network in NETWORKS.items():
        recipe = loupe.read_recipe(RECIPE, [f"network.name={network}", *changes])
        run = loupe.train(table, {name: recipe}, Path(out) / name, **options)
        held_out[name] = run.oof()[name]
        answers[name] = loupe.predict(run, wanted)
        stamps += run.manifest()["stamps"]
    show_scores(table, blend(held_out))
    for stamp in dict.fromkeys(stamps):
        print(stamp)
    sheet = blend(answers)
    spelled = Answers(
        ids=sheet.ids,
        classes=sheet.classes,
        probs=sheet.probs,
        decisions=decide_plainly(sheet),
        exclusive=True,
        errors=sheet.errors,
        layout=table.layout,
    )
    path = Path(out) / "answer.csv"
    write_submission(path, spelled, columns=("label",), header=False, numbers=True)


if __name__ == "__main__":
    main(*sys.argv[1:], reporter=make_reporter(make_console(errors=True)))
