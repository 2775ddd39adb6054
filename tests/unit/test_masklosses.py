"""Mask losses by hand, against plain numpy loops, and against segmentation-models-pytorch."""

from functools import partial

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.autograd import gradcheck
from torch.nn import functional

from loupe.errors import InputError, RecipeError
from loupe.maskchoices import Decoder, MaskLoss
from loupe.masklosses import (
    bce_loss,
    build_mask_loss,
    class_loss,
    dice_loss,
    focal_loss,
    lovasz_loss,
    tversky_loss,
)

FEW = settings(max_examples=25, deadline=None)
OVER = ("mask", "channel", "batch")
SETS = {
    "mask": [[(b, c)] for b in range(2) for c in range(3)],
    "channel": [[(0, c), (1, c)] for c in range(3)],
    "batch": [[(b, c) for b in range(2) for c in range(3)]],
}
AREAS = {
    "dice": dice_loss,
    "tversky": tversky_loss,
    "lovasz": lovasz_loss,
    "symmetric": partial(lovasz_loss, symmetric=True),
}
ALL = AREAS | {"bce": bce_loss, "focal": focal_loss}


def draw(seed=0, *, soft=False, empty=(), shape=(2, 3, 4, 5)):
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(0, 2, shape))
    targets = torch.from_numpy(rng.random(shape))
    targets = targets if soft else (targets > 0.6).double()
    for b, c in empty:
        targets[b, c] = 0
    return logits, targets


def lovasz_by_definition(logits, targets):
    """Berman et al. 2018: 1 - Jaccard of growing sets of wrong pixels, float64."""
    errors = 1 - logits * (2 * targets - 1)
    order = np.argsort(-errors)
    truth, total, before = targets > 0, 0.0, 0.0
    for k in range(len(order)):
        wrong = np.zeros(len(order), bool)
        wrong[order[: k + 1]] = True
        predicted = truth ^ wrong
        union = (truth | predicted).sum()
        value = 1 - (truth & predicted).sum() / union if union else 0.0
        total += max(errors[order[k]], 0) * (value - before)
        before = value
    return total


def area_by_definition(name, logits, targets, smooth=1.0):
    if name in {"lovasz", "symmetric"}:
        there = lovasz_by_definition(logits, targets)
        if name == "lovasz":
            return there
        return (there + lovasz_by_definition(-logits, 1 - targets)) / 2
    p = 1 / (1 + np.exp(-logits))
    both = np.minimum(p, targets).sum()
    if name == "dice":
        return 1 - (2 * both + smooth) / (p.sum() + targets.sum() + smooth)
    missed, wrong = targets.sum() - both, p.sum() - both
    return 1 - (both + smooth) / (both + 0.3 * wrong + 0.7 * missed + smooth)


# Values -------------------------------------------------------------------------------------------


def test_dice_by_hand():
    # Probabilities 3/4, 1/4, 1/4, 1/4; the mask is the first two pixels.
    logits = torch.tensor([3.0, 1 / 3, 1 / 3, 1 / 3]).log().reshape(1, 1, 2, 2)
    targets = torch.tensor([1.0, 1, 0, 0]).reshape(1, 1, 2, 2)
    found = float(dice_loss(logits, targets, smooth=0))
    assert found == pytest.approx(1 - 2 * 1.0 / (1.5 + 2))
    assert float(dice_loss(logits, targets)) == pytest.approx(1 - (2 + 1) / (3.5 + 1))
    # 1 hit, 0.5 false alarms, 1 missed: 1 / (1 + 0.3 x 0.5 + 0.7 x 1).
    found = float(tversky_loss(logits, targets, smooth=0))
    assert found == pytest.approx(1 - 1 / 1.85)
    # Errors 1 - logit x sign: 1 + ln 3 at the missed pixel, first in order, whose loss
    # makes Jaccard 1/2; 1 - ln 3 < 0 at all others.
    assert float(lovasz_loss(logits, targets)) == pytest.approx((1 + np.log(3)) / 2)


def test_cross_entropy_and_focal_by_hand():
    logits = torch.tensor([[[[np.log(3.0), -np.log(3.0)]], [[0.0, 0.0]]]])
    targets = torch.tensor([[[[1.0, 1.0]], [[0.0, 0.25]]]])
    first, second = (np.log(4 / 3) + np.log(4)) / 2, np.log(2)
    assert float(bce_loss(logits, targets)) == pytest.approx((first + second) / 2)
    weighted = bce_loss(logits, targets, pos_weight=[3, 5], mask_weight=[1, 3])
    # Class 2: (ln 2 + (5 x 0.25 + 0.75) ln 2) / 2.
    assert float(weighted) == pytest.approx((3 * first + 3 * 1.5 * np.log(2)) / 4)
    focal = focal_loss(logits[:, :1], targets[:, :1], gamma=1)
    assert float(focal) == pytest.approx((np.log(4 / 3) / 4 + np.log(4) * 3 / 4) / 2)
    logits, targets = draw(1, soft=True)
    expected = functional.binary_cross_entropy_with_logits(logits, targets)
    torch.testing.assert_close(bce_loss(logits, targets), expected)


@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("positive_only", [False, True])
@pytest.mark.parametrize("name", AREAS)
@FEW
@given(seed=st.integers(0, 999))
def test_areas_are_those_of_their_definitions(name, positive_only, over, seed):
    logits, targets = draw(seed, empty=[(0, 1), (0, 2), (1, 2)])
    kept = [(b, c) for b in range(2) for c in range(3) if not positive_only or targets[b, c].any()]
    values = []
    for pixels in SETS[over]:
        pairs = [pair for pair in pixels if pair in kept]
        if pairs:
            sheets = [np.concatenate([s[p].flatten() for p in pairs]) for s in (logits, targets)]
            values.append(area_by_definition(name, *sheets))
    found = AREAS[name](logits, targets, over=over, positive_only=positive_only)
    assert float(found) == pytest.approx(np.mean(values), abs=1e-12)


@pytest.mark.parametrize("name", ["dice", "tversky"])
def test_soft_targets_are_best_met_by_equal_probabilities(name):
    logits, _ = draw(3)
    targets = torch.sigmoid(logits)
    assert float(AREAS[name](logits, targets)) == pytest.approx(0, abs=1e-12)
    for seed in range(5):
        other = logits + draw(seed)[0] * 0.1
        assert float(AREAS[name](other, targets)) > 1e-3


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("over", [None, "channel"])
def test_mask_weights_make_a_weighted_mean_of_the_classes(name, over):
    areas = {"over": over} if over and name in AREAS else {}
    logits, targets = draw(4)
    alone = [float(ALL[name](logits[:, [c]], targets[:, [c]], **areas)) for c in range(3)]
    found = ALL[name](logits, targets, mask_weight=[2, 0, 0.5], **areas)
    assert float(found) == pytest.approx((2 * alone[0] + 0.5 * alone[2]) / 2.5)
    assert float(ALL[name](logits, targets, **areas)) == pytest.approx(np.mean(alone))


# Against segmentation-models-pytorch --------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("soft", [False, True])
def test_the_same_values_as_smp_where_they_mean_the_same(dtype, soft):
    logits, targets = (sheet.to(dtype) for sheet in draw(5, soft=soft, shape=(3, 4, 16, 16)))
    near = partial(torch.testing.assert_close, atol=1e-6, rtol=1e-6)
    weights = torch.tensor([2.0, 2, 1, 1.5]).to(dtype)
    theirs = smp.losses.SoftBCEWithLogitsLoss(pos_weight=weights[:, None, None])
    near(bce_loss(logits, targets, pos_weight=weights.tolist()), theirs(logits, targets))
    for smooth in (0.0, 1.0):  # theirs is added to I, ours to 2 I
        theirs = smp.losses.DiceLoss("multilabel", smooth=smooth / 2)(logits, targets)
        near(dice_loss(logits, targets, smooth=smooth, over="channel"), theirs)
    weighted = smp.losses.DiceLoss("multilabel", smooth=0.5, class_weights=weights.tolist())
    found = dice_loss(logits, targets, over="channel", mask_weight=weights.tolist())
    near(found, weighted(logits, targets))
    theirs = smp.losses.TverskyLoss("multilabel", smooth=1.0, alpha=0.3, beta=0.7)
    near(tversky_loss(logits, targets, over="channel"), theirs(logits, targets))
    if not soft:
        theirs = smp.losses.FocalLoss("multilabel", gamma=2.0)
        near(focal_loss(logits, targets), theirs(logits, targets))
        logits, targets = logits.float(), targets.float()  # theirs takes no other
        theirs = smp.losses.LovaszLoss("multilabel", per_image=False)
        near(lovasz_loss(logits, targets, over="batch"), theirs(logits, targets))
        theirs = smp.losses.LovaszLoss("binary", per_image=True)
        for c in range(4):
            found = lovasz_loss(logits[:, [c]], targets[:, [c]])
            near(found, theirs(logits[:, c], targets[:, c]))


def test_smp_counts_empty_channels_as_zero_where_ours_leaves_them_out():
    logits, targets = draw(6, empty=[(0, 1), (1, 1)])
    theirs = smp.losses.DiceLoss("multilabel", smooth=0.5)(logits, targets)
    found = dice_loss(logits, targets, over="channel", positive_only=True)
    torch.testing.assert_close(found * 2 / 3, theirs, atol=1e-6, rtol=1e-6)


# Gradients, empty masks, precision ----------------------------------------------------------------


@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("positive_only", [False, True])
@pytest.mark.parametrize("name", AREAS)
def test_gradients_of_areas(name, positive_only, over):
    logits, targets = draw(7, empty=[(0, 1), (1, 1), (1, 2)], shape=(2, 3, 2, 3))
    function = partial(AREAS[name], over=over, positive_only=positive_only)
    assert gradcheck(function, (logits.requires_grad_(), targets))
    function(logits, targets).backward()
    silent = (logits.grad == 0).flatten(2).all(dim=2)
    if positive_only:
        assert silent.tolist() == [[False, True, False], [False, True, True]]
    else:
        assert not silent.any() or name in {"lovasz", "symmetric"}


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_gradients_of_sums_over_pixels(gamma, soft):
    logits, targets = draw(8, soft=soft, shape=(2, 2, 2, 3))
    function = partial(focal_loss, gamma=gamma, pos_weight=[2, 0.5], mask_weight=[1, 3])
    assert gradcheck(function, (logits.requires_grad_(), targets))


@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("name", AREAS)
def test_a_batch_without_masks(name, over):
    logits = draw(9)[0].requires_grad_()
    targets = torch.zeros_like(logits)
    value = AREAS[name](logits, targets, over=over, positive_only=True)
    value.backward()
    assert value.item() == 0
    assert (logits.grad == 0).all()
    # If empty masks count, they ask for lower logits.
    other = logits.detach().requires_grad_()
    AREAS[name](other, targets, over=over).backward()
    assert (other.grad >= 0).all()
    assert (other.grad > 0).any()


def test_nothing_predicted_where_nothing_is_there_is_right():
    logits = torch.full((1, 1, 2, 2), -200.0).requires_grad_()
    value = dice_loss(logits, torch.zeros(1, 1, 2, 2), smooth=0)
    value.backward()
    assert value.item() == 0
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("size", [40.0, 1e4])
def test_extreme_logits_have_finite_losses_and_gradients(name, size):
    targets = draw(10)[1].float()
    for side in (1, -1):
        logits = (side * size * (2 * targets - 1)).requires_grad_()
        value = ALL[name](logits, targets)
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(logits.grad).all()
        assert (value.item() < 1e-6) == (side == 1)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_taken_in_float32(name, dtype):
    # More than 65504, where float16 ends, and 256, where bfloat16 stops counting.
    logits, targets = draw(11, shape=(1, 1, 300, 300))
    logits = logits.to(dtype).requires_grad_()
    expected = ALL[name](logits.detach().float(), targets.float())
    with torch.autocast("cpu", dtype):
        found = ALL[name](logits, targets.to(torch.uint8))
    assert found.dtype == torch.float32
    assert found.item() == expected.item()
    found.backward()
    assert torch.isfinite(logits.grad).all()


def test_lovasz_keeps_its_digits_over_many_pixels():
    logits, targets = draw(12, shape=(1, 1, 400, 500))
    exact = float(lovasz_loss(logits, targets))
    assert float(lovasz_loss(logits.float(), targets)) == pytest.approx(exact, rel=2e-6)


# The sum ------------------------------------------------------------------------------------------


def test_the_default_is_that_of_the_winners():
    logits, targets = draw(13)
    found = build_mask_loss(MaskLoss(), "abc")(logits, targets)
    expected = 0.75 * bce_loss(logits, targets) + 0.25 * dice_loss(logits, targets)
    torch.testing.assert_close(found, expected)


def test_that_of_write_ups_made_with_keras():
    logits, targets = draw(14)
    found = build_mask_loss(MaskLoss(bce=1, dice=1, over="batch"), "abc")(logits, targets)
    p, t = torch.sigmoid(logits).flatten(), targets.flatten()
    dice = (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
    bce = functional.binary_cross_entropy(p, t)
    torch.testing.assert_close(found, bce + (1 - dice))


def test_every_weight_and_parameter_reaches_its_loss():
    logits, targets = draw(15, empty=[(0, 0), (1, 0), (1, 1)])
    loss = MaskLoss(
        bce=0.1, dice=0.2, focal=0.3, lovasz=0.4, tversky=0.5, class_head=0.6, smooth=2,
        over="channel", positive_only=True, gamma=1.5, symmetric=True, alpha=0.2, beta=0.9,
        pos_weight={"b": 2}, mask_weight={"c": 3, "a": 0.5},
    )  # fmt: skip
    head = torch.tensor([[0.3, -1, 2], [0.1, 0.2, -0.7]], dtype=torch.float64)
    found = build_mask_loss(loss, "abc")(logits, targets, head, None)
    m, areas = {"mask_weight": [0.5, 1, 3]}, {"over": "channel", "positive_only": True}
    areas |= m
    there = torch.tensor([[0.0, 1, 1], [0, 0, 1]], dtype=torch.float64)
    expected = (
        0.1 * bce_loss(logits, targets, pos_weight=[1, 2, 1], **m)
        + 0.2 * dice_loss(logits, targets, smooth=2, **areas)
        + 0.3 * focal_loss(logits, targets, gamma=1.5, pos_weight=[1, 2, 1], **m)
        + 0.4 * lovasz_loss(logits, targets, symmetric=True, **areas)
        + 0.5 * tversky_loss(logits, targets, alpha=0.2, beta=0.9, smooth=2, **areas)
        + 0.6 * functional.binary_cross_entropy_with_logits(head, there)
    )
    torch.testing.assert_close(found, expected)
    given_targets = build_mask_loss(loss, "abc")(logits, targets, head, 1 - there)
    moved = class_loss(head, 1 - there) - class_loss(head, there)
    torch.testing.assert_close(given_targets - found, 0.6 * moved)


def test_class_head_and_its_weight_belong_together():
    logits, targets = draw(16)
    with pytest.raises(InputError, match=r"gives no class logits, and class_head.* is 0\.1"):
        build_mask_loss(MaskLoss(class_head=0.1), "abc")(logits, targets)
    with pytest.raises(InputError, match=r"has a class head, and class_head.* is 0\.0"):
        build_mask_loss(MaskLoss(), "abc")(logits, targets, logits[:, :, 0, 0])


def test_wrong_shapes_are_refused_where_torch_would_spread_them():
    logits, targets = draw(17)
    for name, function in ALL.items():
        with pytest.raises(InputError, match=r"\(2, 3, 4, 5\) and targets \(2, 1, 4, 5\)"):
            function(logits, targets[:, :1])
        with pytest.raises(InputError, match=r"mask_weight has 2 values \(1, 2\) for 3 classes"):
            function(logits, targets, mask_weight=[1, 2])
        if name in AREAS:
            with pytest.raises(InputError, match="one set of pixels"):
                function(logits, targets, mask_weight=[1, 2, 3], over="batch")
    with pytest.raises(InputError, match="pos_weight has 1 values"):
        bce_loss(logits, targets, pos_weight=[2])
    with pytest.raises(InputError, match=r"\(2, 3\) and class targets \(2, 1\)"):
        class_loss(logits[:, :, 0, 0], targets[:, :1, 0, 0])


# Settings -----------------------------------------------------------------------------------------


def test_names_that_are_no_classes_are_all_told():
    loss = MaskLoss(mask_weight={"crak": 1, "stain": 2, "zzz": 3})
    with pytest.raises(RecipeError) as caught:
        build_mask_loss(loss, ["crack", "stain"])
    assert str(caught.value) == (
        "mask_weight: 'crak' is no class; did you mean 'crack'? 'zzz' is no class. "
        "The masks' classes: crack, stain."
    )
    with pytest.raises(RecipeError, match="weights of all classes are 0"):
        build_mask_loss(MaskLoss(mask_weight={"crack": 0}), ["crack"])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"bce": 0, "dice": 0, "class_head": 1}, "all of bce, dice, focal, lovasz, tversky are 0"),
        ({"mask_weight": {"a": 1}, "over": "batch"}, "over: mask or channel"),
        ({"smooth": -1}, "greater than or equal to 0"),
        ({"over": "image"}, "'mask', 'channel' or 'batch'"),
        ({"dise": 1}, "Extra inputs"),
        ({"bce": float("nan")}, "finite"),
    ],
)
def test_wrong_settings_are_refused(fields, said):
    with pytest.raises(ValidationError, match=said):
        MaskLoss(**fields)


def test_architectures_are_known_by_their_usual_spellings():
    spelt = ["unet", "U-Net", "unet++", "Unet_PlusPlus", "fpn", "deeplabv3+", "DeepLabV3Plus"]
    found = [Decoder(architecture=name).architecture for name in spelt]
    assert found == ["Unet"] * 2 + ["UnetPlusPlus"] * 2 + ["FPN"] + ["DeepLabV3Plus"] * 2
    with pytest.raises(ValidationError, match="'unett' is unknown; did you mean 'Unet'"):
        Decoder(architecture="unett")
    with pytest.raises(ValidationError, match="'zzz' is unknown; known are Unet, UnetPlusPlus"):
        Decoder(architecture="zzz")
