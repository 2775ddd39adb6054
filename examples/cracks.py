"""System 1, cracks on ceramic tiles: four folds in blocks, arg-max of 0.8 x B6 + 0.2 x B7.

python examples/cracks.py train.csv train test.csv test OUT [key=value ...]

The tables have the columns `file_name` and, to train on, `label` (1 is a crack). What
follows OUT changes the recipe, as --set does. Writes OUT/answer.csv, a label a line.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import loupe
from loupe.answers import Answers
from loupe.ruling import find_rule, rule_predictions
from loupe.scoring import read_scores
from loupe.submissions import write_submission
from loupe.terminal import make_console, make_reporter

RECIPE = Path(__file__).parents[1] / "recipes" / "cracks.yaml"
NETWORKS = {"b6": "EfficientNetB6-noisy-student", "b7": "EfficientNetB7-noisy-student"}
SHARES = {"b6": 0.8, "b7": 0.2}
NAMES: dict[object, str] = {"0": "sound", "1": "crack"}


def show_scores(run: loupe.Run) -> None:
    """Print precision, recall and F1 of the cracks, cross-fitted, each with its interval."""
    for s in read_scores(run):
        if s.class_name == "crack" and s.metric in {"precision", "recall", "f1"}:
            print(f"{s.metric:<10}{s.value:7.3f}  [{s.low:.3f}, {s.high:.3f}]  of {s.n} cracks")
    for stamp in run.manifest()["stamps"]:
        print(stamp)


def main(
    labels: str, images: str, test: str, test_images: str, out: str, *changes: str, **options: Any
) -> None:
    """Train both networks, score their blend out of fold, predict the test images.

    `options` are those of `loupe.train`.
    """
    table = loupe.read_table(labels, images=images, names=NAMES)
    table = loupe.split(table, folds=4, shuffle=False, stratify=False)
    folders = []
    for name, network in NETWORKS.items():
        recipe = loupe.read_recipe(RECIPE, [f"network.name={network}", *changes])
        folders.append(loupe.train(table, {name: recipe}, Path(out) / name, **options).folder)
    blended = loupe.blend(folders, out=Path(out) / "blend", weights=list(SHARES.values()))
    loupe.decide(blended, goals="argmax", calibration="none")
    show_scores(blended)
    wanted = loupe.read_table(test, images=test_images, layout="images")
    sheet = loupe.predict(blended, wanted)
    spelled = Answers(
        ids=sheet.ids,
        classes=sheet.classes,
        probs=sheet.probs,
        decisions=rule_predictions(find_rule(blended.rule_file), sheet).decisions,
        exclusive=True,
        errors=sheet.errors,
        layout=table.layout,
    )
    path = Path(out) / "answer.csv"
    write_submission(path, spelled, columns=("label",), header=False, numbers=True)


if __name__ == "__main__":
    main(*sys.argv[1:], reporter=make_reporter(make_console(errors=True)))
