"""A run scored on rows it never saw: split with a hold-out, trained, decided, scored."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image

import loupe
from loupe.errors import LeakageError
from loupe.recipe import read_recipe
from loupe.rules import apply_rule, read_rule
from loupe.table import HOLDOUT

RECIPE = {
    "network": {"name": "test_resnet"},
    "input": {"size": 32},
    "stages": [{"train": "head", "views": ["identity"]}],
    "engine": {"precision": "fp32", "channels_last": False},
}


@pytest.fixture(scope="module")
def table(binary):
    """Two folds, and a quarter of the tiles kept apart."""
    plain = replace(binary, folds=None)
    return loupe.split(plain, folds=2, holdout=0.25, group="given")


@pytest.fixture(scope="module")
def run(table, weights, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    recipes = {"m": read_recipe(RECIPE)}
    return loupe.train(table, recipes, out, weights=weights, device="cpu", executor="serial")


def test_the_hold_out_is_scored_by_the_rule_of_the_run(run, table):
    graded = loupe.score(run.folder, table, group="given", device="cpu", resamples=100)
    apart = table.select(np.flatnonzero(table.folds == HOLDOUT))
    assert graded.rows == len(apart) == 4
    assert graded.predictions.ids == apart.ids
    assert graded.predictions.held_out.all()
    assert graded.stamps == graded.unread == ()
    said = loupe.predict(run, apart, device="cpu")
    wanted = apply_rule(read_rule(run.rule_file), said.probs, classes=said.classes)
    assert_allclose(graded.predictions.probs, wanted.probs, atol=1e-6)
    assert np.array_equal(graded.decisions, wanted.decisions)
    assert graded.promise is not None
    parts = loupe.score(run, table, group="given", pool="max", device="cpu", resamples=100)
    assert parts.rows == 2


def test_rows_trained_on_are_refused(run, table):
    with pytest.raises(LeakageError, match=r"12 of these 16 rows.*kept 4 rows apart"):
        loupe.score(run, replace(table, folds=None), device="cpu")
    stamped = loupe.score(
        run, replace(table, folds=None), allow_leak=True, group="given", device="cpu", resamples=0
    )
    assert stamped.stamps[0].startswith("LEAK: ")
    assert stamped.predictions.held_out.sum() == 4


def test_a_new_batch_is_scored_but_for_copies_and_damaged_files(run, table, tmp_path):
    seen = table.images[int(np.flatnonzero(table.folds != HOLDOUT)[0])]
    noise = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    paths = [tmp_path / name for name in ("a.png", "b.png", "broken.png", "copy.png")]
    for path, image in zip(paths, noise, strict=False):
        Image.fromarray(image).resize((48, 48)).save(path)
    paths[2].write_bytes(paths[0].read_bytes()[:200])
    with Image.open(seen) as picture:
        picture.resize((64, 64)).save(paths[3])
    batch = replace(
        table.select(range(4)),
        ids=tuple(path.name for path in paths),
        images=tuple(paths),
        targets=np.float32([[0], [1], [0], [1]]),
        folds=None,
        groups=None,
    )
    with pytest.raises(LeakageError, match=r"1 of these 4 rows: 'copy\.png'"):
        loupe.score(run, batch, device="cpu")
    graded = loupe.score(run, batch.select(range(3)), device="cpu", resamples=100)
    assert graded.rows == 2
    ((key, reason),) = graded.unread
    assert key == "broken.png"
    assert reason
