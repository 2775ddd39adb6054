"""Segmenters in a run: who learns what, what is refused, the same bits when interrupted."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from loupe.aims import aim_at_masks
from loupe.architectures import create_network
from loupe.build import resolve_input
from loupe.caching import Pixels
from loupe.countfiles import read_counts
from loupe.data import Framed, Samples, load_batches, stack_masks
from loupe.errors import MaskError, RecipeError, TableError
from loupe.images import InputSpec
from loupe.jobs import _training_rows, _weigh_rows, learnt_classes
from loupe.maskevaluation import evaluate_masks, list_mask_metrics
from loupe.masks import decode_rle, encode_rle
from loupe.masktraining import check_mask_members, spread_members
from loupe.recipe import change_recipe, read_recipe
from loupe.runs import open_run
from loupe.scoring import read_scores
from loupe.training import train

PLAIN = {
    "network": {"name": "test_resnet", "pretrained": False},
    "input": {"size": 32},
    "decoder": {"options": {"decoder_channels": [8, 8, 8, 4, 4]}},
    "stages": [{"epochs": 2}],
    "batch_size": 4,
    "engine": {"precision": "fp32", "channels_last": False},
}


def recipe(*overrides, **more):
    return read_recipe(PLAIN | more, overrides)


# Who learns what ----------------------------------------------------------------------------------


def test_a_network_for_each_class_is_a_member_for_each(masked):
    given = {"steel": recipe("masks.networks=per_class"), "both": recipe()}
    spread = spread_members(given, masked)
    assert list(spread) == ["steel-red", "steel-green", "both"]
    assert spread["steel-green"].masks.classes == ("green",)
    assert spread["steel-green"].masks.networks == "joint"
    assert learnt_classes(masked, spread["steel-green"]) == (("green",), [1])
    assert learnt_classes(masked, spread["both"]) == (("red", "green"), [0, 1])
    # A resolved recipe of a finished run is spread no further.
    assert spread_members(spread, masked) == spread


def test_names_that_no_file_can_have_are_changed_and_must_stay_apart(masked):
    odd = replace(masked, classes=("a/b", "a b"))
    with pytest.raises(RecipeError, match=r"two networks would have one name \(m-a_b\)"):
        spread_members({"m": recipe("masks.networks=per_class")}, odd)


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"a": {}, "b": {"decoder": None}}, "a draw masks and b name classes"),
        ({"a": {"masks": {"classes": ["rde"]}}}, "there is no class 'rde'; did you mean 'red'"),
        ({"a": {"masks": {"classes": ["red"]}}}, "nobody learns the masks of 'green'"),
        ({"a": {}, "b": {"masks": {"size": [8, 8]}}}, "members of one run share masks.size"),
        ({"a": {"early_stop": {"metric": "dice"}}}, "watched metric 'dice'"),
        ({"a": {"mask_loss": {"pos_weight": {"blue": 2}}}}, "blue"),
    ],
)
def test_recipes_that_do_not_fit_are_refused(masked, members, said):
    read = {name: recipe(**more) for name, more in members.items()}
    with pytest.raises(RecipeError, match=said):
        check_mask_members(read, masked)


def test_tables_that_do_not_fit_are_refused(masked):
    with pytest.raises(TableError, match="brings none"):
        check_mask_members({"a": recipe()}, replace(masked, masks=None))
    weighed = replace(masked, weights=np.linspace(0, 1, len(masked), dtype=np.float32))
    with pytest.raises(TableError, match="weighs its rows"):
        check_mask_members({"a": recipe()}, weighed)
    assert check_mask_members({"a": recipe()}, masked)
    halves = replace(masked, weights=np.repeat(np.float32([0, 0.5]), len(masked) // 2))
    assert check_mask_members({"a": recipe()}, halves)
    # Nobody learns from rows of weight 0, and the others weigh alike, as masks must.
    rows, _, _ = _training_rows(halves, recipe(), 1)
    assert rows.tolist() == [8, 9, 10, 11]
    assert _weigh_rows(halves, rows) is None
    assert not check_mask_members({"a": recipe(decoder=None)}, masked)


def test_weights_and_names_of_classes_follow_their_network(masked):
    weighed = recipe(mask_loss={"pos_weight": {"red": 2, "green": 3}, "mask_weight": {"red": 2}})
    spread = spread_members({"m": change_recipe(weighed, ["masks.networks=per_class"])}, masked)
    assert spread["m-green"].mask_loss.pos_weight == {"green": 3}
    assert spread["m-green"].mask_loss.mask_weight == {}
    check_mask_members(spread, masked)
    wrong = recipe("masks.networks=per_class", mask_loss={"pos_weight": {"blue": 2}})
    with pytest.raises(RecipeError, match="blue"):
        spread_members({"m": wrong}, masked)


def test_a_fold_that_leaves_nothing_to_learn_is_told_before_any_work(masked, tmp_path):
    folds = np.where(masked.targets[:, 1] > 0, 0, 1).astype(np.int16)
    alone = recipe("masks.networks=per_class", "masks.rows=nonempty")
    with pytest.raises(RecipeError, match="m-green: without fold 0 no row is left that shows gre"):
        train(replace(masked, folds=folds), {"m": alone}, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_masks_that_do_not_fit_are_all_told_before_any_work(masked, tmp_path):
    texts = (("1 2", "9999 3"), *masked.masks[1:-1], ("1281 1", "1"))
    with pytest.raises(MaskError, match=r"3 mask.*'00.png', class 'green'.*'11.png', class 'red'"):
        train(replace(masked, masks=texts), {"m": recipe()}, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            {"batch_size": 1, "decoder": {"architecture": "DeepLabV3Plus"}},
            "batch_size is 1, and BatchNorm has a single value",
        ),
        (
            {
                "network": {"name": "swin_tiny_patch4_window7_224", "pretrained": False},
                "input": {"size": 128, "crop": 64},
                "masks": {"predict": "whole"},
                "decoder": {},
            },
            "with masks.predict 'whole' the input is 128 x 128",
        ),
    ],
)
def test_what_no_network_could_do_later_is_refused_at_once(masked, tmp_path, more, said):
    with pytest.raises(RecipeError, match=said):
        train(masked, {"m": recipe(**more)}, tmp_path / "run", device="cpu")


def test_a_refit_takes_cuts_and_scores_of_its_source(segmented, masked, tmp_path):
    changes = ["masks.size=[8, 8]", "masks.cut=fixed", "batch_size=2"]
    with pytest.raises(RecipeError, match=r"so masks.size=\[8, 8\] and masks.cut=fixed would"):
        train(masked, {}, tmp_path / "a", refit=segmented.folder, overrides=changes)
    run = train(masked, {}, tmp_path / "b", refit=segmented.folder, executor="serial", device="cpu")
    assert run.refit
    assert run.cuts_file.read_bytes() == segmented.cuts_file.read_bytes()
    np.testing.assert_equal(
        *(json.loads(each.scores_file.read_text())["scores"] for each in (run, segmented))
    )
    assert not run.counts_file.exists()


# What is learnt from ------------------------------------------------------------------------------


def samples(masked, *, crop=None, nonempty=0.5, steps=()):
    spec = InputSpec(height=32, width=40, crop=crop)
    return Samples(
        pixels=Pixels(masked.images, spec, None),
        ids=masked.ids,
        targets=masked.targets,
        weights=None,
        steps=steps,
        seed=1,
        framed=Framed(texts=masked.masks, crop=crop, nonempty=nonempty),
    )


def test_a_batch_holds_images_and_their_masks_moved_alike(masked):
    steps = recipe(augment=["HorizontalFlip", "VerticalFlip"]).augment
    rows = np.arange(12)
    (batch,) = load_batches(samples(masked, steps=steps), [rows], epoch=0, workers=1)
    assert batch.inputs.shape == (12, 32, 40, 3)
    assert batch.targets.shape == (12, 2, 32, 40)
    assert batch.targets.dtype == torch.uint8
    # The squares are the only pixels of such a value, so masks can be read off the images.
    seen = (batch.inputs[..., :2] == 230).permute(0, 3, 1, 2)
    assert torch.equal(seen, batch.targets.bool())
    still = stack_masks(samples(masked), rows)
    assert not torch.equal(still, batch.targets)
    expected = decode_rle(masked.masks[3][1], 32, 40)
    np.testing.assert_array_equal(still[3, 1].numpy().astype(bool), expected)


def test_crops_have_their_size_and_show_masks_as_often_as_asked(masked):
    rows = np.repeat(np.arange(12)[masked.targets.any(axis=1)], 1)
    shown = {}
    for share in (0.0, 1.0):
        source = samples(masked, crop=(8, 8), nonempty=share)
        batches = [
            next(load_batches(source, [rows], epoch=epoch, workers=1)) for epoch in range(20)
        ]
        assert batches[0].inputs.shape[1:] == (8, 8, 3)
        shown[share] = np.mean([b.targets.flatten(1).any(1).numpy().mean() for b in batches])
    assert shown[1.0] == 1.0
    assert shown[0.0] < 0.9


# What is measured ---------------------------------------------------------------------------------


def test_watched_metrics_of_a_network_that_draws_the_truth(masked):
    class Oracle(torch.nn.Module):
        def forward(self, images):
            masks = (images[..., :2] == 230).permute(0, 3, 1, 2).float() * 20 - 10
            return type("Given", (), {"masks": masks, "classes": None})

        def penalty(self):
            return torch.zeros(())

    aim = aim_at_masks(recipe(), masked.classes, device="cpu")
    for crop in (None, (16, 16)):
        found = evaluate_masks(
            Oracle().train(),
            samples(masked, crop=crop),
            np.arange(12),
            recipe(),
            aim.build_loss(None),
            classes=masked.classes,
            device="cpu",
        )
        assert tuple(found) == list_mask_metrics(masked.classes) == aim.metrics
        assert found.pop("loss") < 0.01
        assert set(found.values()) == {1.0}
    assert aim.measure(Oracle(), samples(masked), np.zeros(0, np.intp), None, None) == {}


# Whole runs ---------------------------------------------------------------------------------------


def test_a_finished_run_has_counts_cuts_and_scores_of_every_held_out_row(segmented, masked):
    assert open_run(segmented.folder).segments
    sheet = read_counts(segmented.counts_file)
    assert sheet.ids == masked.ids
    assert sheet.classes == masked.classes
    np.testing.assert_array_equal(sheet.folds, masked.folds)
    truth = sheet.counts.counts[..., 0] + sheet.counts.counts[..., 2]
    areas = [[decode_rle(text, 32, 40).sum() for text in row] for row in masked.masks]
    np.testing.assert_array_equal(truth[..., 0], areas)
    metrics = {s.metric: s.value for s in read_scores(segmented) if not s.class_name}
    factors = metrics["recall"] * metrics["dice_given_found"]
    empty = metrics["all_empty"]
    assert metrics["dice_per_pair_empty1"] == pytest.approx(
        empty * metrics["specificity"] + (1 - empty) * factors
    )
    assert segmented.cuts_file.is_file()
    assert "loupe segment" in segmented.instructions_file.read_text()
    assert not segmented.oof_file.exists()


def test_an_interrupted_run_continues_to_the_same_bits(segmented, masked, drawing, tmp_path):
    folder = shutil.copytree(segmented.folder, tmp_path / "copy")
    for gone in ("scores.json", "counts.npz", "cuts.json"):
        (folder / gone).unlink()
    shutil.rmtree(folder / "unet" / "fold-1")
    (folder / "counts" / "fold-1.npz").unlink()
    kept = (folder / "unet" / "fold-0" / "last.safetensors").stat().st_mtime_ns
    run = train(masked, drawing, folder, executor="serial", device="cpu")
    assert (folder / "unet" / "fold-0" / "last.safetensors").stat().st_mtime_ns == kept
    first, second = (load_file(r.member("unet").fold(1).weights) for r in (segmented, run))
    assert all(torch.equal(first[key], second[key]) for key in first)
    one, two = read_counts(segmented.counts_file), read_counts(run.counts_file)
    np.testing.assert_array_equal(one.counts.counts, two.counts.counts)


def test_a_frozen_encoder_stays_as_it_started(masked, tmp_path):
    # Fold 0 alone, so that it is quick.
    table = replace(masked, folds=np.where(masked.folds == 0, 0, -1).astype(np.int16))
    frozen = recipe(stages=[{"epochs": 1, "freeze": ["backbone"]}])
    run = train(table, {"m": frozen}, tmp_path / "run", executor="serial", device="cpu")
    spec = run.member("m").input_spec()
    assert spec == resolve_input(run.member("m").recipe(), None)
    start = create_network(run.member("m").recipe(), spec, 2, weights=None).state_dict()
    trained = load_file(run.member("m").fold(0).weights)
    assert all(torch.equal(start[k], trained[k]) for k in start if k.startswith("backbone."))
    assert any(not torch.equal(start[k], trained[k]) for k in start if k.startswith("decoder."))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"mixing": {"cutmix": 1.0}}, "mixing mixes labels"),
        ({"stages": [{"train": "head"}]}, "fits pooled features"),
        ({"loss": {"name": "bce"}}, "set 'mask_loss'"),
        ({"network": {"head": {"widths": [8]}}}, "network.head and network.pool"),
        ({"tta": {"draws": 2, "augment": ["HorizontalFlip"]}}, "flips by name"),
        ({"votes": "sum"}, "leave out 'sum'"),
        ({"augment": [{"RandomCrop": {"height": 8, "width": 8}}]}, "leave out RandomCrop"),
        ({"mask_loss": {"class_head": 0.1}}, "set both"),
        ({"mask_loss": {"gamma": 3}}, "gamma has no effect while the weight of focal is 0"),
        ({"masks": {"overlap": 0.5}}, "masks.overlap has no effect without input.crop"),
        ({"decoder": {"head_pool": "max"}}, "head_pool has no effect without decoder.class_head"),
        ({"decoder": None, "masks": {"rows": "nonempty"}}, "masks has no effect without"),
    ],
)
def test_settings_that_masks_cannot_have_are_told(more, said):
    with pytest.raises(RecipeError, match=said):
        recipe(**more)


def test_a_recipe_of_masks_is_changed_like_any_other():
    changed = change_recipe(
        recipe(), ["masks.thresholds=[0.3, 0.5]", "decoder.architecture=unet++"]
    )
    assert [each.threshold for each in changed.masks.candidates] == [0.3, 0.5]
    assert changed.decoder.architecture == "UnetPlusPlus"


def test_given_masks_without_a_pixel_at_the_size_of_the_scores_are_told(masked, drawing, tmp_path):
    # A line of one pixel between the rows that shrinking keeps.
    thin = np.zeros((32, 40), bool)
    thin[1] = True
    texts = ((encode_rle(thin), ""), *masked.masks[1:])
    targets = masked.targets.copy()
    targets[0, 0] = 1
    small = change_recipe(drawing["unet"], ["masks.size=[8, 10]", "stages.0.epochs=1"])
    run = train(
        replace(masked, masks=texts, targets=targets),
        {"unet": small},
        tmp_path / "run",
        executor="serial",
        device="cpu",
    )
    main = next(s for s in read_scores(run) if s.metric == "dice_per_pair_empty1")
    assert main.note.startswith("1 given mask(s) have no pixel at the size of the scores")
