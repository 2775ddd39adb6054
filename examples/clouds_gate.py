"""System 2, the last step alone: anyone's masks, gated by anyone's probabilities.

python examples/clouds_gate.py submission.csv probabilities.csv train.csv OUT [--refill second.csv]

`submission.csv` has `Image_Label` (`<file>_<class>`) and `EncodedPixels`, like `train.csv`.
`probabilities.csv` has `id` and a column for each class: held-out rows of `train.csv`, on
which both thresholds are chosen, and the rows of the submission. Writes OUT/submission.csv,
and the rules OUT/recall.json and OUT/precision.json. No image is opened.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import loupe
from loupe.dices import MAIN
from loupe.maskgrading import score_masks
from loupe.masksheets import Masks, read_mask_sheet
from loupe.sheetfiles import read_sheet_file
from loupe.showing import show_decision, show_gated
from loupe.terminal import make_console

RECALL, PRECISION = 0.94, 0.90
"""A mask is removed where few true ones are lost, and refilled where few are false."""


def read_truth(labels: str) -> loupe.Table:
    """Read given masks as a table; images need not be there."""
    sheet = read_mask_sheet(labels)
    return loupe.Table(
        ids=sheet.ids,
        images=tuple(Path(name) for name in sheet.ids),
        classes=sheet.classes,
        targets=sheet.present.astype(np.float32),
        exclusive=False,
        masks=sheet.texts,
    )


def fit_rules(probabilities: str, table: loupe.Table, place: Path) -> tuple[Path, Path]:
    """Choose both thresholds of each class on held-out rows, and show what they buy."""
    found = []
    for name, level in (("recall", RECALL), ("precision", PRECISION)):
        path = place / f"{name}.json"
        decision = loupe.decide(
            probabilities,
            table,
            goals=f"{name}:{level}",
            calibration="none",
            held_out=True,
            out=path,
        )
        show_decision(make_console(), decision)
        found.append(path)
    return found[0], found[1]


def show_dice(table: loupe.Table, before: Masks, after: Masks) -> None:
    """Print the mean Dice over pairs of all classes and of each, with intervals."""
    graded = [score_masks(masks, table).scores for masks in (before, after)]
    print(f"{'Dice':<10}{'before':<24}after")
    for pair in zip(*graded, strict=True):
        if pair[0].metric == MAIN:
            told = [f"{s.value:.3f} [{s.low:.3f}, {s.high:.3f}]" for s in pair]
            print(f"{pair[0].class_name or 'mean':<10}{told[0]:<24}{told[1]}")


def main(
    submission: str, probabilities: str, labels: str, out: str, refill: str | None = None
) -> None:
    """Fit both thresholds, gate the submission, and score it if its truth is known."""
    place = Path(out)
    table, masks = read_truth(labels), read_mask_sheet(submission)
    recall, precision = fit_rules(probabilities, table, place)
    known = np.flatnonzero(np.isin(table.ids, masks.ids))
    # As a file, rows that chose the rule are seen, and decided by the folds that they are not in.
    by = probabilities if len(known) else read_sheet_file(probabilities, classes=table.classes)
    gated = loupe.gate(
        masks,
        by,
        rule=recall,
        refill=refill,
        precision_rule=precision if refill else None,
        out=place / "submission.csv",
    )
    show_gated(make_console(), gated)
    if len(known) == len(masks.ids):
        show_dice(table.select(known), masks, gated.masks)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("submission", "probabilities", "labels", "out"):
        parser.add_argument(name)
    parser.add_argument("--refill", help="a second submission, such as one with smaller masks")
    main(**vars(parser.parse_args()))
