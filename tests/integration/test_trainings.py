"""Whole trainings of each kind: what they promise, on a tiny table and network."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

import loupe
from loupe.errors import LeakageError, RecipeError, RunError
from loupe.recipe import read_recipe
from loupe.table import HOLDOUT
from loupe.watching import list_metrics

ENGINE = {"precision": "fp32", "channels_last": False}
BASE = {
    "network": {"name": "test_resnet"},
    "input": {"size": 32},
    "stages": [{"train": "all", "epochs": 2, "lr": 1e-3}],
    "batch_size": 4,
    "engine": ENGINE,
}


def train(table, recipe, out, weights, **more):
    recipes = {"m": recipe if not isinstance(recipe, dict) else read_recipe(BASE | recipe)}
    return loupe.train(
        table, recipes, out, weights=weights, device="cpu", executor="serial", **more
    )


def read_history(run, fold=0):
    with run.member("m").fold(fold).history.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_the_history_has_every_metric_of_what_is_watched_and_trained_on(binary, weights, tmp_path):
    recipe = {"early_stop": {"patience": 5}, "control_share": 0.3, "train_metrics": True}
    run = train(binary, recipe, tmp_path / "r", weights)
    lines = read_history(run)
    names = list_metrics(binary.classes, exclusive=False)
    wanted = ["stage", "epoch", "lr", "loss"]
    wanted += [f"{part}/{name}" for part in ("val", "train") for name in names]
    assert list(lines[0]) == wanted
    assert "val/pr_auc" in wanted
    assert f"train/recall/{binary.classes[0]}" in wanted
    assert [line["epoch"] for line in lines] == ["1", "2"]
    assert float(lines[0]["val/loss"]) > 0


def test_without_anything_to_watch_all_rows_are_trained_on(binary, weights, tmp_path):
    run = train(binary, {}, tmp_path / "r", weights)
    assert list(read_history(run)[0]) == ["stage", "epoch", "lr", "loss"]


def test_the_first_batch_is_kept_as_a_picture(binary, weights, tmp_path):
    run = train(binary, {"mixing": {"cutmix": 1.0}}, tmp_path / "r", weights)
    with Image.open(run.member("m").fold(1).first_batch) as picture:
        assert min(picture.size) >= 128


def test_watching_the_held_out_fold_is_stamped_wherever_scores_are_shown(binary, weights, tmp_path):
    recipe = {"checkpoint": {"metric": "average_precision"}, "control_on": "heldout"}
    run = train(binary, recipe, tmp_path / "r", weights)
    (stamp,) = json.loads(run.scores_file.read_text())["stamps"]
    assert stamp.startswith("OPTIMISTIC")
    assert "control_on: heldout" in stamp
    assert run.manifest()["stamps"] == [stamp]
    later = train(binary, {"init_from": str(run.folder)}, tmp_path / "t", weights)
    assert later.manifest()["stamps"] == [stamp]
    harmless = train(binary, {"control_on": "heldout"}, tmp_path / "s", weights)
    assert harmless.manifest()["stamps"] == []


def test_shared_features_give_what_the_plain_path_gives(binary, weights, tmp_path):
    head = {"widths": [8], "dropout": 0.25, "batch_norm": True, "init": "he_normal"}
    network = {"name": "test_resnet", "head": head}
    stages = {"epochs": 4, "lr": 0.01}
    shared = {"network": network, "stages": [{"train": "head", "views": ["identity"], **stages}]}
    plain = {"network": network, "stages": [{"train": "all", "freeze": ["backbone"], **stages}]}
    one = train(binary, shared, tmp_path / "shared", weights)
    two = train(binary, plain, tmp_path / "plain", weights)
    np.testing.assert_allclose(one.oof()["m"].probs, two.oof()["m"].probs, atol=1e-4)
    losses = [[float(line["loss"]) for line in read_history(run)] for run in (one, two)]
    np.testing.assert_allclose(losses[0], losses[1], atol=1e-4)
    assert losses[0][-1] < losses[0][0]
    before = load_file(weights / "test_resnet.safetensors")
    after = load_file(two.member("m").fold(0).weights)
    kept = [key for key in before if not key.startswith("fc.")]
    assert all(np.array_equal(after[f"backbone.{key}"], before[key]) for key in kept)


def test_the_watched_loss_holds_the_penalty_that_training_adds(binary, weights, tmp_path):
    head = {"widths": [8], "l2": 1.0, "init": "he_normal"}
    base = {
        "network": {"name": "test_resnet", "head": head},
        "stages": [{"train": "all", "epochs": 1, "lr": 1e-9, "freeze": ["backbone"]}],
        "checkpoint": {},
        "control_share": 0.3,
    }
    with_l2 = read_history(train(binary, base, tmp_path / "a", weights))[0]
    head["l2"] = 0.0
    without = read_history(train(binary, base, tmp_path / "b", weights))[0]
    added = [float(with_l2[key]) - float(without[key]) for key in ("loss", "val/loss")]
    assert added[0] > 1
    assert added[1] == pytest.approx(added[0], rel=1e-3)


def test_a_head_on_crops_cannot_be_watched(binary, weights, tmp_path):
    recipe = {
        "input": {"size": 40, "crop": 32},
        "stages": [{"train": "head", "epochs": 2, "views": 2}],
        "checkpoint": {},
    }
    with pytest.raises(RecipeError, match="features of random crops only"):
        train(binary, recipe, tmp_path / "r", weights)
    run = train(binary, recipe | {"checkpoint": None}, tmp_path / "s", weights)
    assert run.member("m").first_batch.is_file()


def test_draws_of_the_augmentation_are_kept_for_a_head(binary, weights, tmp_path):
    recipe = {
        "augment": ["HorizontalFlip", {"Rotate": {"limit": 30, "p": 1.0}}],
        "stages": [{"train": "head", "epochs": 3, "views": 5, "lr": 0.01}],
        "tta": {"draws": 2, "augment": ["HorizontalFlip"]},
    }
    run = train(binary, recipe, tmp_path / "r", weights)
    features = np.load(run.member("m").features)
    assert features.shape[:2] == (16, 6)
    assert len({features[0, view].tobytes() for view in range(6)}) == 6


@pytest.mark.parametrize("sampling", ["under", "over", "weighted"])
def test_rows_are_sampled_by_class(exclusive, weights, tmp_path, sampling):
    run = train(exclusive, {"sampling": sampling}, tmp_path / "r", weights)
    assert run.oof()["m"].readable.all()


def test_a_stage_may_have_its_own_size_loss_and_schedule(exclusive, weights, tmp_path):
    stages = [
        {"train": "all", "epochs": 1, "size": 24, "loss": {"name": "focal"}},
        {"train": "all", "epochs": 1, "schedule": {"name": "ramp", "start_lr": 1e-4}},
    ]
    run = train(exclusive, {"stages": stages}, tmp_path / "r", weights)
    assert float(read_history(run)[1]["lr"]) == pytest.approx(1e-4)


def test_half_precision_trains_and_is_repeated(exclusive, weights, tmp_path):
    recipe = {"engine": {"precision": "fp16"}}
    one = train(exclusive, recipe, tmp_path / "one", weights)
    two = train(exclusive, recipe, tmp_path / "two", weights)
    np.testing.assert_array_equal(one.oof()["m"].probs, two.oof()["m"].probs)


def test_crops_are_random_in_training_and_a_grid_at_prediction(binary, weights, tmp_path):
    recipe = {"input": {"size": [40, 48], "crop": 32}, "checkpoint": {}, "control_share": 0.3}
    run = train(binary, recipe, tmp_path / "r", weights)
    assert loupe.predict(run, binary.select([0, 1])).probs.shape == (2, 1)


def test_the_input_may_be_a_factor_and_normalised_by_the_data(binary, weights, tmp_path):
    recipe = {"input": {"size": "x0.5", "normalisation": "data"}}
    spec = train(binary, recipe, tmp_path / "r", weights).member("m").input_spec()
    assert (spec.height, spec.width) == (24, 24)
    assert spec.mean != (0.485, 0.456, 0.406)
    assert all(0 < value < 1 for value in (*spec.mean, *spec.std))


# Going on from a run ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def first(binary, weights, tmp_path_factory):
    return train(binary, {}, tmp_path_factory.mktemp("first") / "r", weights)


def test_a_run_goes_on_from_another_fold_by_fold(first, binary, weights, tmp_path):
    stages = [{"train": "all", "epochs": 1, "lr": 1e-12}]
    recipe = {"init_from": str(first.folder), "stages": stages}
    recipe["optimizer"] = {"weight_decay": 0}
    recipe["stages"][0]["freeze_norm"] = True
    run = train(binary, recipe, tmp_path / "r", weights)
    np.testing.assert_allclose(run.oof()["m"].probs, first.oof()["m"].probs, atol=1e-4)
    assert not np.array_equal(
        *(load_file(r.member("m").fold(f).weights)["head.weight"] for r, f in [(run, 0), (run, 1)])
    )


def test_going_on_with_other_folds_is_a_leak(first, binary, weights, tmp_path):
    turned = replace(binary, folds=np.arange(16, dtype=np.int16) % 2, groups=None)
    with pytest.raises(LeakageError, match=r"fold 0 holds out were trained on.*same\s+folds"):
        train(
            turned,
            {"init_from": str(first.folder)},
            tmp_path / "r",
            weights,
            group="none",
            allow_leak=True,
        )


def test_swapped_fold_numbers_are_found(first, binary, weights, tmp_path):
    swapped = replace(binary, folds=1 - binary.folds)
    recipe = {
        "init_from": str(first.folder),
        "optimizer": {"weight_decay": 0},
        "stages": [{"train": "all", "epochs": 1, "lr": 1e-12, "freeze_norm": True}],
    }
    run = train(swapped, recipe, tmp_path / "r", weights)
    np.testing.assert_allclose(run.oof()["m"].probs, first.oof()["m"].probs, atol=1e-4)


def test_a_head_stage_cannot_go_on_from_folds(first):
    with pytest.raises(RecipeError, match="init_from"):
        read_recipe({"init_from": str(first.folder), "stages": [{"train": "head"}]})


# Refit --------------------------------------------------------------------------------------------


def test_a_refit_trains_on_all_rows_and_inherits_scores_and_rule(first, binary, weights, tmp_path):
    run = loupe.train(
        binary, out=tmp_path / "r", refit=first.folder, weights=weights, executor="serial"
    )
    assert run.refit
    assert [p.name for p in run.member("m").folder.iterdir() if p.is_dir()] == ["all"]
    assert run.rule_file.read_text() == first.rule_file.read_text()
    known = (json.loads(r.scores_file.read_text())["scores"] for r in (run, first))
    assert next(known) == next(known)
    stamps = json.loads(run.scores_file.read_text())["stamps"]
    assert any(stamp.startswith("REFIT") for stamp in stamps)
    with pytest.raises(RunError, match="trained on all rows"):
        run.oof()
    sheet = loupe.predict(run, binary)
    assert not sheet.held_out.any()
    assert sheet.readable.all()


def test_a_refit_trains_as_long_as_the_folds_did(binary, weights, tmp_path):
    recipe = {
        "stages": [{"train": "all", "epochs": 4, "lr": 0.02}],
        "checkpoint": {"metric": "loss"},
        "control_share": 0.3,
        "schedule": {"name": "plateau", "patience": 0},
    }
    source = train(binary, recipe, tmp_path / "cv", weights)
    histories = [read_history(source, fold) for fold in (0, 1)]
    best = [
        min(range(4), key=lambda epoch, lines=lines: float(lines[epoch]["val/loss"])) + 1
        for lines in histories
    ]
    rates = [np.median([float(lines[e]["lr"]) for lines in histories]) for e in range(min(best))]
    run = loupe.train(
        binary, out=tmp_path / "r", refit=source.folder, weights=weights, executor="serial"
    )
    lines = read_history(run, -1)
    assert len(lines) == min(best)
    assert [float(line["lr"]) for line in lines] == pytest.approx(rates)
    assert list(lines[0]) == ["stage", "epoch", "lr", "loss"]


def test_a_refit_takes_no_recipes_and_tells_changes(first, binary, weights, tmp_path):
    with pytest.raises(RecipeError, match="leave out the recipe files"):
        train(binary, {}, tmp_path / "r", weights, refit=first.folder)
    run = loupe.train(
        binary,
        out=tmp_path / "s",
        refit=first.folder,
        overrides=["optimizer.lr=1e-5"],
        weights=weights,
        executor="serial",
    )
    assert "before optimizer.lr=1e-5" in run.manifest()["stamps"][-1]


def test_a_refit_leaves_the_hold_out_alone(binary, weights, tmp_path):
    folds = binary.folds.copy()
    folds[:2] = HOLDOUT
    kept = replace(binary, folds=folds, groups=None)
    source = train(kept, {}, tmp_path / "cv", weights, group="none", allow_leak=True)
    plain = replace(binary, folds=None)
    run = loupe.train(
        plain, out=tmp_path / "r", refit=source.folder, weights=weights, executor="serial"
    )
    assert run.table().folds.tolist() == [HOLDOUT] * 2 + [-1] * 14
    assert loupe.predict(run, binary).held_out.tolist() == [True] * 2 + [False] * 14


def test_a_refit_of_a_refit_is_refused(first, binary, weights, tmp_path):
    run = loupe.train(
        binary, out=tmp_path / "r", refit=first.folder, weights=weights, executor="serial"
    )
    with pytest.raises(RunError, match="itself a refit"):
        loupe.train(binary, out=tmp_path / "s", refit=run.folder, weights=weights)


def test_a_metric_without_a_value_on_the_watched_rows_is_refused(exclusive, weights, tmp_path):
    targets = np.zeros((16, 3), np.float32)
    targets[:, :2] = exclusive.targets
    targets[0] = (0, 0, 1)
    table = replace(exclusive, classes=("ok", "defect", "rare"), targets=targets)
    with pytest.raises(RecipeError, match=r"rows watched for fold \d lack a class"):
        train(table, {"checkpoint": {"metric": "recall/rare"}}, tmp_path / "r", weights)
    assert not (tmp_path / "r").exists()


def test_start_weights_of_another_network_are_refused(first, binary, weights, tmp_path):
    recipe = {"init_from": str(first.folder), "network": {"name": "test_vit"}}
    with pytest.raises(RecipeError, match="does not hold this network"):
        train(binary, recipe, tmp_path / "r", weights)
    assert not (tmp_path / "r").exists()


def test_unknown_metrics_and_classes_are_named_before_any_work(binary, weights, tmp_path):
    with pytest.raises(RecipeError, match=r"early_stop\.metric is .*pr_auc"):
        train(binary, {"early_stop": {"metric": "pr_auk"}}, tmp_path / "r", weights)
    with pytest.raises(RecipeError, match="defect"):
        train(binary, {"loss": {"class_weights": {"defekt": 2.0}}}, tmp_path / "r", weights)
    with pytest.raises(RecipeError, match="taylor"):
        train(binary, {"loss": {"name": "taylor"}}, tmp_path / "r", weights)
    assert not (tmp_path / "r").exists()
