import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from loupe.caching import Pixels
from loupe.errors import InputError, RunError
from loupe.inference import (
    choose_device,
    compute_features,
    load_network,
    predict,
    score_features,
    score_rows,
    to_probabilities,
)
from loupe.recipe import read_recipe
from loupe.table import HOLDOUT
from loupe.training import train


@pytest.fixture(scope="module")
def sheet(finished, exclusive):
    return predict(finished, exclusive, device="cpu")


def fold_scores(run, table, name):
    """Each fold's probabilities, through pixels, one network after the other."""
    member = run.member(name)
    recipe = member.recipe()
    pixels = Pixels(table.images, member.input_spec(), None)
    rows = np.arange(len(table))
    return [
        score_rows(
            load_network(member, recipe, fold, len(table.classes)),
            pixels,
            rows,
            recipe,
            exclusive=table.exclusive,
            device="cpu",
        )
        for fold in run.folds
    ]


def test_a_prediction_is_the_mean_of_all_single_networks(finished, exclusive, sheet):
    # The member "head" shares one backbone in `predict`, but not here.
    means = [np.mean(fold_scores(finished, exclusive, name), axis=0) for name in finished.members]
    np.testing.assert_allclose(sheet.probs, np.mean(means, axis=0), atol=1e-5)
    assert sheet.probs.dtype == np.float32


def test_held_out_rows_are_predicted_alike_when_trained_and_when_loaded(finished, exclusive):
    for name, stored in finished.oof().items():
        found = fold_scores(finished, exclusive, name)
        for fold, probs in zip(finished.folds, found, strict=True):
            mine = exclusive.folds == fold
            np.testing.assert_allclose(probs[mine], stored.probs[mine], atol=1e-5)


def test_order_is_that_of_the_table_and_damaged_rows_say_why(finished, exclusive, sheet, tmp_path):
    order = np.array([5, 0, 11, 3])
    table = exclusive.select(order)
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"nothing")
    table = replace(
        table,
        ids=("new-a", table.ids[1], "new-b", table.ids[3]),
        images=(table.images[0], bad, tmp_path / "gone.jpg", table.images[3]),
    )
    found = predict(finished, table, device="cpu")
    assert found.ids == table.ids
    np.testing.assert_allclose(found.probs[[0, 3]], sheet.probs[[5, 3]], atol=1e-5)
    assert found.readable.tolist() == [True, False, False, True]
    assert np.isnan(found.probs[1:3]).all()
    assert found.errors[0] is None
    assert "bad.jpg" in found.errors[1]
    assert "gone.jpg" in found.errors[2]
    # A file of the training table under another id; another file under its id; both new.
    assert found.held_out.tolist() == [False, True, True, False]


def test_labels_are_not_needed(finished, exclusive, sheet):
    bare = replace(
        exclusive, classes=(), targets=np.zeros((16, 0), np.float32), exclusive=False, folds=None
    )
    found = predict(finished.folder, bare, device="cpu")
    assert found.classes == ("ok", "defect")
    np.testing.assert_array_equal(found.probs, sheet.probs)


def test_views_may_be_chosen(finished, exclusive, sheet):
    one, two, four = (predict(finished, exclusive, views=n, device="cpu") for n in (1, 2, 4))
    np.testing.assert_array_equal(two.probs, sheet.probs)  # what the recipes say
    assert not np.allclose(one.probs, two.probs, atol=1e-6)
    assert not np.allclose(four.probs, two.probs, atol=1e-6)
    with pytest.raises(InputError, match="1 to 4 views"):
        predict(finished, exclusive, views=5, device="cpu")


def test_features_give_the_probabilities_of_pixels(finished, exclusive):
    member = finished.member("head")
    recipe = member.recipe()
    network = load_network(member, recipe, 0, 2)
    pixels = Pixels(exclusive.images, member.input_spec(), None)
    features = compute_features(network, pixels, recipe, views=recipe.tta, device="cpu")
    assert features.shape == (16, 2, network.head.in_features)
    np.testing.assert_allclose(features, np.load(member.features), atol=1e-5)
    by_features = score_features(network, torch.from_numpy(features), exclusive=True)
    by_pixels = score_rows(network, pixels, np.arange(16), recipe, exclusive=True, device="cpu")
    np.testing.assert_allclose(by_features, by_pixels, atol=1e-5)
    none = score_rows(network, pixels, np.arange(0), recipe, exclusive=True, device="cpu")
    assert none.shape == (0, 2)


def test_probabilities_of_logits():
    logits = torch.tensor([[0.0, np.log(3.0)]])
    assert to_probabilities(logits, exclusive=True).tolist()[0] == pytest.approx([0.25, 0.75])
    assert to_probabilities(logits, exclusive=False).tolist()[0] == pytest.approx([0.5, 0.75])


def test_what_cannot_be_predicted_is_refused(finished, exclusive, tmp_path):
    with pytest.raises(InputError, match="0 images"):
        predict(finished, exclusive.select([]), device="cpu")
    with pytest.raises(InputError, match="--device nonsense"):
        choose_device("nonsense")
    with pytest.raises(RunError, match="no run folder"):
        predict(tmp_path, exclusive)
    copy = shutil.copytree(finished.folder, tmp_path / "copy")
    (copy / "full" / "fold-1" / "done.json").unlink()
    with pytest.raises(RunError, match="fold-1 is not finished"):
        predict(copy, exclusive, device="cpu")


HEAD = {
    "input": {"size": 32},
    "stages": [{"train": "head", "l2": 0.1}],
    "engine": {"precision": "fp32", "channels_last": False},
}


def test_arguments_of_the_weights_file_are_kept_for_prediction(binary, save_weights, tmp_path):
    (tmp_path / "w").mkdir()
    # Other padding has the same tensors: nothing but the numbers would show it.
    save_weights(tmp_path / "w", "test_efficientnet", kwargs={"pad_type": "same"})
    recipe = read_recipe(HEAD | {"network": {"name": "test_efficientnet"}})
    run = train(
        binary, {"m": recipe}, tmp_path / "r", weights=tmp_path / "w", executor="serial",
        device="cpu",
    )  # fmt: skip
    stored = run.oof()["m"].probs
    for fold, probs in zip(run.folds, fold_scores(run, binary, "m"), strict=True):
        mine = binary.folds == fold
        np.testing.assert_allclose(probs[mine], stored[mine], atol=1e-5)


def test_rows_kept_apart_from_training_are_held_out(binary, weights, tmp_path):
    folds = binary.folds.copy()
    folds[:2] = HOLDOUT
    table = replace(binary, folds=folds, groups=None)
    recipe = read_recipe(HEAD | {"network": {"name": "test_resnet"}})
    run = train(
        table,
        {"m": recipe},
        tmp_path / "r",
        weights=weights,
        executor="serial",
        device="cpu",
        group="none",
        allow_leak=True,
    )
    assert predict(run, table, device="cpu").held_out.tolist() == [True] * 2 + [False] * 14
