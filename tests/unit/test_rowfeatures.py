"""Row features: the right view of the right rows, whatever the order."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

import loupe
from loupe.features import list_views
from loupe.recipe import Recipe
from loupe.rowfeatures import _find_column, read_row_features, reorder_rows
from loupe.runs import Member, open_run


@pytest.fixture
def run(finished, tmp_path):
    return open_run(shutil.copytree(finished.folder, tmp_path / "run"))


def test_the_first_member_that_kept_features_is_asked(run):
    ids = run.table().ids
    member = run.member("head")
    assert not run.member("full").features.exists()
    kept = np.load(member.features)
    place = list_views(member.recipe()).index("identity")
    found = read_row_features(run, ids)
    np.testing.assert_array_equal(found, kept[:, place])
    assert found.shape == (len(ids), kept.shape[2])
    # Another view is something else, or the test would say nothing.
    assert kept.shape[1] == 2
    assert np.abs(found - kept[:, 1 - place]).max() > 0


def test_rows_come_as_asked_and_unknown_ones_are_no_numbers(run):
    ids = run.table().ids
    whole = read_row_features(run, ids)
    found = read_row_features(run, (ids[5], "stranger", ids[0]))
    np.testing.assert_array_equal(found[[0, 2]], whole[[5, 0]])
    assert np.isnan(found[1]).all()


def test_without_features_there_are_none(run):
    run.member("head").features.unlink()
    assert read_row_features(run, run.table().ids) is None


def test_features_of_other_rows_are_not_used(run):
    kept = np.load(run.member("head").features)
    np.save(run.member("head").features, kept[:-1])
    assert read_row_features(run, run.table().ids) is None


def test_a_blend_asks_the_runs_it_was_made_of(run, tmp_path):
    other = shutil.copytree(run.folder, tmp_path / "other")
    blend = loupe.blend([run.folder, other], out=tmp_path / "blend", weights=[0.5, 0.5])
    ids = run.table().ids
    np.testing.assert_array_equal(read_row_features(blend, ids), read_row_features(run, ids))
    # When they are gone there is nothing to ask, and that is no error.
    shutil.rmtree(run.folder)
    shutil.rmtree(other)
    assert read_row_features(blend, ids) is None


@pytest.mark.parametrize(
    ("views", "tta"),
    [
        (["identity"], ["identity", "hflip"]),
        (["hflip", "identity"], ["identity"]),
        (["hflip", "vflip"], ["hflip"]),
        (3, ["hflip", "identity"]),
    ],
)
def test_the_column_is_that_of_the_image_as_it_is(tmp_path, views, tta):
    recipe = Recipe.model_validate({
        "network": {"name": "test_resnet"},
        "augment": ["HorizontalFlip"],
        "stages": [{"train": "head", "views": views}],
        "tta": tta,
    })  # fmt: skip
    member = Member("head", tmp_path, (0,))
    member.write_recipe(recipe)
    # Random draws are kept before named views.
    drawn = views if isinstance(views, int) else 0
    assert _find_column(member) == drawn + list_views(recipe).index("identity")


def test_rows_in_the_same_order_are_not_copied():
    values = np.arange(6, dtype=np.float32).reshape(3, 2)
    assert reorder_rows(values, ["a", "b", "c"], ("a", "b", "c")) is values
    found = reorder_rows(values, ["a", "b", "c"], ["c", "x", "a"])
    np.testing.assert_array_equal(found, [[4, 5], [np.nan, np.nan], [0, 1]])
