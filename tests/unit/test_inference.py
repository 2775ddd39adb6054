import copy
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from loupe import inference
from loupe.augment import augment_image, sample_rng
from loupe.build import Classifier, build_network, resolve_input
from loupe.caching import Pixels
from loupe.ensembles import count_run_views, predict
from loupe.errors import InputError, RecipeError, RunError
from loupe.images import InputSpec
from loupe.inference import (
    choose_device,
    compute_drawn_features,
    compute_features,
    load_network,
    score_features,
    score_rows,
    to_probabilities,
)
from loupe.recipe import read_recipe
from loupe.runs import create_run
from loupe.settings import Head
from loupe.table import HOLDOUT
from loupe.tta import VIEWS


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
            ids=table.ids,
            exclusive=table.exclusive,
            device="cpu",
        )
        for fold in run.folds
    ]


def score(network, pixels, rows, recipe, ids):
    return score_rows(network, pixels, rows, recipe, ids=ids, exclusive=True, device="cpu")


# Views, crops and draws, with a network that is easy to follow.


class Blocks(nn.Module):
    """Means of the 3 x 3 parts of an image; counts the batches that it saw."""

    def __init__(self):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(3)
        self.seen = []

    def forward(self, images):
        self.seen.append(tuple(images.shape))
        return self.pool(images).flatten(1)


PLAIN = {"engine": {"precision": "fp32", "channels_last": False}, "seed": 5}
ZOOM = ["HorizontalFlip", "VerticalFlip", {"Affine": {"scale": [1.0, 1.2], "p": 1.0}}]
RANDOM = PLAIN | {"tta": {"draws": 4, "augment": [*ZOOM, "RandomBrightnessContrast"]}}
SCAN = {"height": 600, "width": 800, "crop": (512, 512)}
CORNERS = [(0, 0), (0, 288), (88, 0), (88, 288)]
IDS = ["a", "b", "c"]


def make_network(spec, head=None):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Classifier(Blocks(), 27, 2, spec, head or Head())
        # Probabilities that are not all near one half.
        nn.init.normal_(network.head.weight, std=2.0)
    return network.eval()


def make_pixels(rows=3, **fields):
    spec = InputSpec(**({"height": 40, "width": 60} | fields))
    rng = np.random.default_rng(1)
    # Coarse patches, so that crops and flips of a picture have other means.
    coarse = rng.integers(0, 256, (rows, 8, 8, 3), dtype=np.uint8)
    fine = coarse.repeat(-(-spec.height // 8), axis=1).repeat(-(-spec.width // 8), axis=2)
    images = np.ascontiguousarray(fine[:, : spec.height, : spec.width])
    return Pixels(tuple(Path(f"{n}.png") for n in range(rows)), spec, images)


def score_inputs(network, inputs):
    """Mean probabilities of a list of (B, h, w, C) arrays, one after the other."""
    with torch.inference_mode():
        logits = [network(torch.from_numpy(np.ascontiguousarray(batch))) for batch in inputs]
        return torch.stack([torch.softmax(each, dim=1) for each in logits]).mean(dim=0).numpy()


def test_named_views_of_whole_images_are_their_flips_to_the_last_bit():
    pixels = make_pixels()
    network = make_network(pixels.spec)
    recipe = read_recipe(PLAIN | {"tta": list(VIEWS)})
    whole = torch.from_numpy(pixels.cache)
    with torch.inference_mode():
        each = [network(whole.flip(axes)) for axes in ((), (2,), (1,), (1, 2))]
        expected = torch.stack([torch.softmax(logits, dim=1) for logits in each]).mean(dim=0)
    found = score(network, pixels, np.arange(3), recipe, IDS)
    np.testing.assert_array_equal(found, expected.numpy())


def test_named_views_of_crops_are_averaged_over_both():
    pixels = make_pixels(**SCAN)
    network = make_network(pixels.spec)
    recipe = read_recipe(PLAIN | {"tta": ["identity", "vflip"]})
    crops = [pixels.cache[:, y : y + 512, x : x + 512] for y, x in CORNERS]
    expected = score_inputs(network, [view for crop in crops for view in (crop, crop[:, ::-1])])
    network.backbone.seen.clear()
    found = score(network, pixels, np.arange(3), recipe, IDS)
    assert network.backbone.seen == [(3, 3, 512, 512)] * 8
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_scan_with_4_draws_is_the_mean_of_16_inputs():
    pixels = make_pixels(**SCAN)
    network = make_network(pixels.spec)
    recipe = read_recipe(RANDOM)
    inputs = []
    for number, (top, left) in enumerate(CORNERS):
        for draw in range(4):
            rngs = [sample_rng(5, draw, f"tta/{number}/{name}") for name in IDS]
            crops = pixels.cache[:, top : top + 512, left : left + 512]
            drawn = [
                augment_image(crop, recipe.tta.augment, rng)
                for crop, rng in zip(crops, rngs, strict=True)
            ]
            inputs.append(np.stack(drawn))
    expected = score_inputs(network, inputs)
    network.backbone.seen.clear()
    found = score(network, pixels, np.arange(3), recipe, IDS)
    assert network.backbone.seen == [(3, 3, 512, 512)] * 16
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.ptp(expected[:, 0]) > 0.01


def test_draws_do_not_depend_on_the_batch(monkeypatch):
    pixels = make_pixels(rows=7, crop=(30, 30))
    network = make_network(pixels.spec)
    recipe = read_recipe(RANDOM)
    ids = list("abcdefg")
    whole = score(network, pixels, np.arange(7), recipe, ids)
    order = np.array([6, 0, 3])
    np.testing.assert_allclose(score(network, pixels, order, recipe, ids), whole[order], atol=1e-6)
    monkeypatch.setattr(inference, "BATCH", 2)
    np.testing.assert_allclose(score(network, pixels, np.arange(7), recipe, ids), whole, atol=1e-6)
    others = score(network, pixels, np.arange(7), recipe, [f"{name}2" for name in ids])
    assert (np.abs(others - whole) > 1e-4).any(axis=1).all()


def test_draws_of_another_size_are_refused():
    pixels = make_pixels(crop=(30, 30))
    wrong = {"draws": 2, "augment": [{"RandomCrop": {"height": 20, "width": 30}}]}
    with pytest.raises(RecipeError, match="the network sees 30 x 30"):
        score(make_network(pixels.spec), pixels, np.arange(3), read_recipe({"tta": wrong}), IDS)


# Features.


def test_features_of_crops_come_crop_by_crop():
    pixels = make_pixels(**SCAN)
    network = make_network(pixels.spec)
    found = compute_features(
        network, pixels, read_recipe(PLAIN), views=("identity", "hflip"), device="cpu"
    )
    assert found.shape == (3, 8, 27)
    for number, (top, left) in enumerate(CORNERS):
        crop = torch.from_numpy(pixels.cache[:, top : top + 512, left : left + 512].copy())
        for place, view in enumerate((crop, crop.flip(2))):
            expected = network.features(view).numpy()
            np.testing.assert_allclose(found[:, 2 * number + place], expected, atol=1e-5)


@pytest.mark.parametrize("crop", [None, (30, 20)])
def test_drawn_features_are_those_of_training_images(crop, monkeypatch):
    monkeypatch.setattr(inference, "BATCH", 2)
    pixels = make_pixels(crop=crop)
    network = make_network(pixels.spec)
    recipe = read_recipe(PLAIN | {"augment": ZOOM})
    found = compute_drawn_features(network, pixels, IDS, recipe, draws=3, device="cpu")
    assert found.shape == (3, 3, 27)
    last = [{"RandomCrop": {"height": 30, "width": 20}}] if crop else []
    steps = read_recipe({"augment": [*ZOOM, *last]}).augment
    for row, name in enumerate(IDS):
        for draw in range(3):
            image = augment_image(pixels[row], steps, sample_rng(5, draw, name))
            assert image.shape[:2] == (crop or (40, 60))
            expected = network.features(torch.from_numpy(image[None])).numpy()[0]
            np.testing.assert_allclose(found[row, draw], expected, atol=1e-5)


def test_one_draw_without_steps_is_the_image_itself():
    pixels = make_pixels()
    network, recipe = make_network(pixels.spec), read_recipe(PLAIN)
    drawn = compute_drawn_features(network, pixels, IDS, recipe, draws=1, device="cpu")
    plain = compute_features(network, pixels, recipe, views=("identity",), device="cpu")
    np.testing.assert_array_equal(drawn, plain)


def test_features_go_through_all_layers_after_pooling():
    pixels = make_pixels()
    network = make_network(pixels.spec, Head(widths=(5,), batch_norm=True, dropout=0.5))
    recipe = read_recipe(PLAIN | {"tta": ["identity", "hflip"]})
    network.train()  # dropout must rest all the same
    features = compute_features(network, pixels, recipe, views=recipe.tta, device="cpu")
    by_features = score_features(network.train(), torch.from_numpy(features), exclusive=True)
    by_pixels = score(network.train(), pixels, np.arange(3), recipe, IDS)
    np.testing.assert_allclose(by_features, by_pixels, atol=1e-6)


# Runs made by hand: random weights, a copy of the backbone in every fold.


def make_run(folder, table, recipes, *, refit_of=None):
    recipes = {
        name: read_recipe({"network": {"name": "test_resnet"}, "input": {"size": 32}} | PLAIN | r)
        for name, r in recipes.items()
    }
    run = create_run(folder, table, recipes, refit_of=refit_of)
    for name, recipe in recipes.items():
        member, spec = run.member(name), resolve_input(recipe, None)
        member.write_input(spec)
        start = build_network(recipe, spec, len(table.classes), weights=None, load=False)
        for fold in run.folds:
            network = copy.deepcopy(start)
            generator = torch.Generator().manual_seed(10 + fold)
            for module in (network.hidden, network.head):
                for value in module.parameters():
                    nn.init.normal_(value, std=0.5, generator=generator)
            files = member.fold(fold)
            files.folder.mkdir()
            save_file(network.state_dict(), files.weights)
            files.done_mark.write_text("{}")
    return run


@pytest.fixture
def few(exclusive):
    """Six rows, of both folds."""
    return exclusive.select(np.arange(6))


def test_folds_that_share_a_backbone_keep_their_own_layers(few, tmp_path):
    stages = [{"train": "head", "epochs": 1}]
    network = {"name": "test_resnet", "head": {"widths": [6], "batch_norm": True}}
    run = make_run(tmp_path / "r", few, {"m": {"stages": stages, "network": network}})
    each = fold_scores(run, few, "m")
    assert len(each) == 2
    assert not np.allclose(each[0], each[1], atol=1e-3)
    found = predict(run, few, device="cpu")
    np.testing.assert_allclose(found.probs, np.mean(each, axis=0), atol=1e-5)


def test_a_prediction_is_the_mean_over_the_draws_of_each_member(few, tmp_path, monkeypatch):
    monkeypatch.setattr(inference, "BATCH", 4)
    crop = {"input": {"size": [32, 40], "crop": 32}}
    fewer = {"tta": {"draws": 2, "augment": ZOOM}}
    run = make_run(tmp_path / "r", few, {"m": fewer | crop, "n": {"seed": 2}})
    found = predict(run, few, device="cpu")
    means = [np.mean(fold_scores(run, few, name), axis=0) for name in run.members]
    np.testing.assert_allclose(found.probs, np.mean(means, axis=0), atol=1e-5)
    some = predict(run, few.select(np.array([4, 2])), device="cpu")
    np.testing.assert_allclose(some.probs, found.probs[[4, 2]], atol=1e-5)


def test_given_views_take_the_place_of_draws(few, tmp_path):
    run = make_run(tmp_path / "r", few, {"m": RANDOM})
    named = make_run(tmp_path / "n", few, {"m": {"tta": ["identity", "hflip"]}})
    by_count = predict(run, few, views=2, device="cpu").probs
    np.testing.assert_allclose(by_count, predict(named, few, device="cpu").probs, atol=1e-6)
    assert not np.allclose(by_count, predict(run, few, device="cpu").probs, atol=1e-5)


def test_all_rows_of_a_refit_are_seen_but_those_kept_apart(exclusive, tmp_path):
    folds = np.full(16, -1, np.int16)
    folds[:3] = HOLDOUT
    table = replace(exclusive, folds=folds)
    run = make_run(tmp_path / "r", table, {"m": {}}, refit_of=tmp_path)
    assert run.folds == (-1,)
    found = predict(run, table, device="cpu")
    assert found.held_out.tolist() == [True] * 3 + [False] * 13
    (only,) = fold_scores(run, table, "m")
    np.testing.assert_allclose(found.probs, only, atol=1e-6)


def test_sums_are_over_views_and_crops(few, tmp_path):
    crops = {"input": {"size": [40, 60], "crop": 32}}  # 2 x 2 crops
    both = {"a": RANDOM | crops | {"votes": "sum"}, "b": crops | {"votes": "sum"}}
    both["b"]["tta"] = ["identity", "hflip", "vflip", "rot180"]
    run = make_run(tmp_path / "sum", few, both)
    assert count_run_views(run) == 16
    assert count_run_views(run, views=1) == 4
    mean = make_run(tmp_path / "mean", few, {"a": RANDOM | crops, "b": {}})
    assert count_run_views(mean) == 1


@pytest.mark.parametrize("other", [{"votes": "mean"}, {"votes": "sum", "tta": ["identity"]}])
def test_members_that_sum_differently_are_refused(few, tmp_path, other):
    recipes = {"a": RANDOM | {"votes": "sum"}, "b": other}
    run = make_run(tmp_path / "r", few, recipes)
    with pytest.raises(RecipeError, match="a x 4, b x 1"):
        count_run_views(run)


# Runs that were trained.


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
    by_pixels = score(network, pixels, np.arange(16), recipe, exclusive.ids)
    np.testing.assert_allclose(by_features, by_pixels, atol=1e-5)
    assert score(network, pixels, np.arange(0), recipe, exclusive.ids).shape == (0, 2)


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
    from loupe.training import train

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
    from loupe.training import train

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
