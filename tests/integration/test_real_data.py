"""Small subsets of real data sets through check, split, train and predict.

The images and weights are not part of the project: they are looked for in
`$LOUPE_TEST_DATA` or in `shared/` beside the checkout, and skipped if absent.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest

import loupe
from loupe.masks import measure_rle
from loupe.recipe import read_recipe
from loupe.scoring import read_scores

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("LOUPE_TEST_DATA", ROOT.parent / "shared"))
DATA, WEIGHTS = SHARED / "data", SHARED / "weights"
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"no evaluation data in {DATA}"),
]
HEAD = {
    "network": {"name": "mobilenetv2_100_tf"},
    "input": {"size": 96},
    "stages": [{"train": "head"}],
    "engine": {"precision": "fp32", "channels_last": True},
}


def some_of(table, count):
    """Return rows spread evenly over a table."""
    return table.select(np.linspace(0, len(table) - 1, count).astype(int))


def train_head(table, out):
    return loupe.train(
        table, {"head": read_recipe(HEAD)}, out, folds=3, weights=WEIGHTS, executor="serial"
    )


def value_of(run, metric):
    return next(s for s in read_scores(run) if s.metric == metric and not s.class_name)


def test_art_paintings_are_learnt_well_above_chance(tmp_path):
    folder = DATA / "art-painting"
    table = some_of(loupe.read_table(folder / "labels.csv", images=folder / "images"), 140)
    run = train_head(table, tmp_path / "run")
    accuracy = value_of(run, "accuracy")
    assert accuracy.low > 0.35  # the commonest class is 22 %
    predictions = loupe.predict(run, table.select(range(20)))
    assert predictions.readable.all()
    assert not predictions.held_out.any()


def test_shots_of_one_magnetic_tile_share_a_fold():
    folder = DATA / "magnetic-tile"
    table = loupe.read_table(
        folder / "labels.csv",
        images=folder / "images",
        label_column="class",
        any_class="defect",
        negative="Free",
    )
    assert table.classes == ("defect",)
    made = loupe.split(some_of(table, 200), folds=5)
    assert len(set(made.groups)) < 150  # most tiles were photographed several times
    fold_of = {}
    for group, fold in zip(made.groups, made.folds.tolist(), strict=True):
        assert fold_of.setdefault(group, fold) == fold


def test_run_length_table_counts_images_without_a_row_as_clean():
    folder = DATA / "magnetic-tile"
    table = loupe.read_table(folder / "train.csv", images=folder / "images")
    assert len(table) == 1071
    assert not table.exclusive
    assert int((table.targets.sum(axis=1) == 0).sum()) == 1071 - 308


def test_multi_label_scenes_go_all_the_way(tmp_path):
    folder = DATA / "ucmerced"
    table = loupe.read_table(folder / "labels.csv", images=folder / "images", label_column="labels")
    assert len(table.classes) == 17
    run = train_head(some_of(table, 150), tmp_path / "run")
    prevalence = float(run.table().targets.mean())
    assert value_of(run, "average_precision").low > prevalence


def test_messy_rice_photographs_pass_check_and_their_copies_are_found():
    folder = DATA / "rice-disease"
    report = loupe.check(loupe.read_table(folder / "labels.csv", images=folder / "images"))
    assert not report.must_fix
    assert sum(finding.finding == "equal-copy" for finding in report.findings) == 38


def test_road_cracks_bring_their_masks_and_are_drawn_in_tiles(tmp_path):
    folder = DATA / "crackforest"
    table = loupe.read_table(
        folder / "labels.csv", images=folder / "images", masks=folder / "masks"
    )
    areas = [measure_rle(text) for (text,) in table.masks]
    rows = csv.DictReader((folder / "labels.csv").read_text().splitlines())
    assert areas == [int(row["crack_pixels"] or 0) for row in rows]
    cracked = table.select(np.flatnonzero(np.array(areas) > 1500)[:10])
    recipe = read_recipe(
        {
            "network": {"name": "mobilenetv2_100_tf"},
            "input": {"size": "x0.5", "crop": 96},
            "decoder": {"options": {"decoder_channels": [32, 24, 16, 16, 8]}},
            "mask_loss": {"over": "batch"},
            "masks": {"nonempty_crops": 1.0},
            "optimizer": {"lr": 3e-3},
            "stages": [{"epochs": 15}],
            "batch_size": 4,
            "tta": ["identity"],
            "engine": {"precision": "fp32", "channels_last": True},
        }
    )
    run = loupe.train(
        cracked, {"tiles": recipe}, tmp_path / "run", folds=2, weights=WEIGHTS, executor="serial"
    )
    share = np.mean([area / (320 * 480) for area in areas if area > 1500])
    # Guessing all pixels would score twice the share over one plus the share.
    assert value_of(run, "dice_micro").value > 3 * share
    drawn = loupe.segment(run, cracked.select(range(2)))
    assert drawn.masks.sizes.tolist() == [[320, 480], [320, 480]]
    assert drawn.known.all()
