"""The example scripts about masks from end to end, on generated data and small networks."""

from __future__ import annotations

import csv
import importlib.util
import re
import runpy
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import loupe
from loupe.dices import dice_per_pair_empty1, make_pairs
from loupe.masks import decode_rle
from loupe.masksheets import read_mask_sheet
from loupe.predictions import Predictions
from loupe.sheetfiles import write_sheet_file
from loupe.systems import SystemData, make_clouds

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    "network.name=test_resnet",
    "network.pretrained=false",
    "engine={precision: fp32, channels_last: false}",
)
SIZE = (70, 105)  # of the clouds


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def clouds(tmp_path: Path) -> SystemData:
    return make_clouds(tmp_path / "data", count=60, test=16, size=SIZE)


def write_probs(data: SystemData, path: Path, *, folds: bool = False) -> Path:
    """Write probabilities that are mostly right, of training and test images."""
    shown = {**data.truth, **(data.test_truth or {})}
    there = np.array([[name in each for name in data.classes] for each in shown.values()])
    drawn = np.random.default_rng(0).normal(np.where(there, 0.75, 0.25), 0.17)
    numbers = np.where(np.arange(len(shown)) < len(data.truth), np.arange(len(shown)) % 4, -1)
    sheet = Predictions(
        ids=tuple(shown),
        classes=data.classes,
        probs=drawn.clip(0.01, 0.99).astype(np.float32),
        exclusive=False,
        held_out=np.zeros(len(shown), bool),
        folds=numbers.astype(np.int16) if folds else None,
    )
    write_sheet_file(path, sheet)
    return path


def run_gate(*words: object) -> None:
    """Run the script as from the command line."""
    script = str(ROOT / "examples" / "clouds_gate.py")
    before, sys.argv = sys.argv, [script, *map(str, words)]
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        sys.argv = before


def read_counts(printed: str) -> dict[str, list[int]]:
    """Return emptied, kept and refilled masks of each class, as printed."""
    rows = re.findall(r"(?m)^(\w+) +(\d+) +(\d+) +(\d+) +(\d+) +(\d+) +(\d+)$", printed)
    return {name: [int(n) for n in numbers] for name, *numbers in rows}


def read_rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_clouds_gate_on_new_images(
    clouds: SystemData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, probs = tmp_path / "out", write_probs(clouds, tmp_path / "probs.csv")
    # A first submission without most of its masks; the second has them all.
    rows = read_rows(clouds.submission)
    first = tmp_path / "first.csv"
    kept = [[key, text if number % 3 == 0 else ""] for number, (key, text) in enumerate(rows[1:])]
    first.write_text("\n".join(map(",".join, [rows[0], *kept])) + "\n", encoding="utf-8")
    run_gate(first, probs, clouds.table, out, "--refill", clouds.submission)
    printed = capsys.readouterr().out
    assert "OPTIMISTIC" not in printed
    assert "Dice" not in printed
    sheet = loupe.read_rule(out / "recall.json"), loupe.read_rule(out / "precision.json")
    before, after, second = (
        read_mask_sheet(path) for path in (first, out / "submission.csv", clouds.submission)
    )
    assert [row[0] for row in read_rows(out / "submission.csv")] == [row[0] for row in rows]
    table = {row[0]: [float(cell) for cell in row[1:]] for row in read_rows(probs)[1:]}
    counts = dict.fromkeys(clouds.classes, (0, 0))
    for key, *triple in zip(before.ids, before.texts, after.texts, second.texts, strict=True):
        for name, p, low, high, was, now, other in zip(
            clouds.classes, table[key], sheet[0].thresholds, sheet[1].thresholds,
            *triple, strict=True,
        ):  # fmt: skip
            expected = was if p >= low else ""
            refilled = not was and p >= max(low, high) and bool(other)
            assert now == (other if refilled else expected)
            emptied, filled = counts[name]
            counts[name] = emptied + bool(was and not expected), filled + refilled
    printed_counts = read_counts(printed)
    assert {name: (row[1], row[4]) for name, row in printed_counts.items()} == counts
    assert sum(filled for _, filled in counts.values()) > 10
    assert sum(emptied for emptied, _ in counts.values()) > 0


@pytest.mark.parametrize("folds", ["folds", ""])
def test_clouds_gate_scores_rows_whose_truth_is_known(
    clouds: SystemData, tmp_path: Path, capsys: pytest.CaptureFixture[str], folds: str
) -> None:
    out, probs = tmp_path / "out", write_probs(clouds, tmp_path / "probs.csv", folds=bool(folds))
    rng = np.random.default_rng(1)
    given = read_rows(clouds.table)
    # The true masks, and one of 200 pixels in half of the pairs that have none.
    claimed = [[key, text or ("1 200" if rng.random() < 0.5 else "")] for key, text in given[1:]]
    masks = tmp_path / "masks.csv"
    masks.write_text("\n".join(map(",".join, [given[0], *claimed])) + "\n", encoding="utf-8")
    run_gate(masks, probs, clouds.table, out)
    printed = capsys.readouterr().out
    # Rows that chose the thresholds are decided by those of the other folds, or it is said.
    assert ("OPTIMISTIC" in printed) != bool(folds)
    truth = read_mask_sheet(clouds.table)
    found = re.findall(r"(?m)^(\w+) +([\d.]+) \[[\d.]+, [\d.]+\] +([\d.]+) \[", printed)
    told = {name: (float(before), float(after)) for name, before, after in found}
    for place, path in enumerate((masks, out / "submission.csv")):
        sheet = read_mask_sheet(path)
        assert sheet.ids == truth.ids
        pixels = np.array(
            [[[decode_rle(text, *SIZE) for text in row] for row in each.texts]
             for each in (truth, sheet)]
        )  # fmt: skip
        areas = pixels.sum(axis=(3, 4))
        dice = dice_per_pair_empty1(make_pairs(*areas, (pixels[0] & pixels[1]).sum(axis=(2, 3))))
        assert told["mean"][place] == pytest.approx(dice.overall, abs=6e-4)
        for name, value in zip(clouds.classes, dice.classes, strict=True):
            assert told[name][place] == pytest.approx(value, abs=6e-4)
    assert told["mean"][1] > told["mean"][0] + 0.1
