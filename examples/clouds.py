"""System 2, cloud patterns: a classifier that empties masks of someone else's submission.

python examples/clouds.py train.csv train_images segmented.csv test_images OUT [key=value ...]

`segmented.csv` is a submission of masks: `Image_Label` (`<file>_<class>`) and
`EncodedPixels`. What follows OUT changes the recipe, as --set does. Writes
OUT/thresholds.csv, OUT/curves.png (it needs matplotlib) and OUT/submission.csv, the
masks that are left.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import loupe
from loupe.intervals import bootstrap_weights
from loupe.predictions import Predictions
from loupe.ranking import pr_auc
from loupe.showing import show_decision, show_gated
from loupe.terminal import make_console, make_reporter

RECIPE = Path(__file__).parents[1] / "recipes" / "clouds.yaml"
RECALL, PRECISION = 0.94, 0.90
RESAMPLES = 1000

Thresholds = dict[str, tuple[float, float]]


def measure_areas(table: loupe.Table, sheet: Predictions) -> list[str]:
    """Return PR-AUC of each class and their mean, each with its bootstrap interval."""
    truth = table.targets >= 0.5
    groups = np.arange(len(table)) if table.groups is None else table.groups
    # The first weights are all 1: the value itself. The others draw groups of copies.
    ones = np.ones((1, len(table)), np.int32)
    weights = np.concatenate([ones, bootstrap_weights(groups, RESAMPLES, seed=0)])
    areas = pr_auc(truth, sheet.probs, weights)
    areas = np.column_stack([areas, areas.mean(axis=1)])
    ends = np.nanquantile(areas[1:], [0.025, 0.975], axis=0)
    return [
        f"{value:.3f} [{low:.3f}, {high:.3f}]"
        for value, low, high in zip(areas[0], *ends, strict=True)
    ]


def show_side_by_side(table: loupe.Table, runs: dict[str, loupe.Run]) -> None:
    """Print PR-AUC of each class, watched on an inner part and on the held-out fold."""
    told = [measure_areas(table, run.oof()["clouds"]) for run in runs.values()]
    print(f"{'PR-AUC':<10}{'inner':<24}held out")
    for name, *pair in zip((*table.classes, "mean"), *told, strict=True):
        print(f"{name:<10}{pair[0]:<24}{pair[1]}")
    for name, run in runs.items():
        for stamp in run.manifest()["stamps"]:
            print(f"{name}: {stamp}")


def choose_thresholds(run: loupe.Run) -> Thresholds:
    """Return the threshold of each class for enough recall, and for enough precision.

    The rule for recall is the one that the run keeps; both are told with what they buy.
    """
    console, found = make_console(), []
    for goal in (f"precision:{PRECISION}", f"recall:{RECALL}"):
        decision = loupe.decide(run, goals=goal, calibration="none")
        show_decision(console, decision)
        found.append(decision.rule.thresholds)
    sure, enough = found
    pairs = zip(run.table().classes, enough, sure, strict=True)
    return {name: (for_recall, for_precision) for name, for_recall, for_precision in pairs}


def write_thresholds(found: Thresholds, path: Path) -> None:
    """Write both thresholds of each class."""
    rows = [(name, *pair) for name, pair in found.items()]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([("class", "recall_threshold", "precision_threshold"), *rows])


def draw_curves(table: loupe.Table, sheet: Predictions, found: Thresholds, path: Path) -> None:
    """Draw precision over recall of each class, with both thresholds marked."""
    figure = Figure(figsize=(3 * len(table.classes), 3.2), layout="constrained")
    truths, panels = table.targets.T >= 0.5, figure.subplots(1, len(table.classes), sharey=True)
    for name, truth, probs, panel in zip(
        table.classes, truths, sheet.probs.T, np.atleast_1d(panels), strict=True
    ):
        hits = np.cumsum(truth[np.argsort(-probs, kind="stable")])
        panel.plot(hits / max(hits[-1], 1), hits / np.arange(1, len(hits) + 1), color="#0072B2")
        for mark, label, level in zip("ov", ("recall", "precision"), found[name], strict=True):
            if not (probs >= level).any():
                continue
            kept = truth[probs >= level]
            place = (kept.sum() / max(truth.sum(), 1), kept.mean())
            panel.plot(*place, mark, color="#D55E00", label=f"for {label}: {level:.3f}")
        panel.set(title=name, xlabel="recall", xlim=(0, 1.02), ylim=(0, 1.02))
        panel.legend(fontsize=7, loc="lower left")
    np.atleast_1d(panels)[0].set_ylabel("precision")
    figure.savefig(path, dpi=100)


def main(
    labels: str, images: str, masks: str, test: str, out: str, *changes: str, **options: Any
) -> None:
    """Train twice, show both scores, choose thresholds out of fold, gate the masks.

    `options` are those of `loupe.train`.
    """
    table = loupe.split(loupe.read_table(labels, images=images), folds=5, seed=2019)
    runs = {}
    for part in ("inner", "heldout"):
        recipe = loupe.read_recipe(RECIPE, [f"control_on={part}", *changes])
        runs[part] = loupe.train(table, {"clouds": recipe}, Path(out) / part, **options)
    show_side_by_side(table, runs)
    run = runs["inner"]
    oof = run.oof()["clouds"]
    found = choose_thresholds(run)
    write_thresholds(found, Path(out) / "thresholds.csv")
    draw_curves(table, oof, found, Path(out) / "curves.png")
    sheet = loupe.predict(run, loupe.read_table(test, layout="images"))
    gated = loupe.gate(masks, sheet, rule=run.rule_file, out=Path(out) / "submission.csv")
    show_gated(make_console(), gated)


if __name__ == "__main__":
    main(*sys.argv[1:], reporter=make_reporter(make_console(errors=True)))
