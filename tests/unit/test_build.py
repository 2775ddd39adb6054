import math

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from torch.nn import functional

from loupe.build import (
    MovingAverage,
    build_network,
    build_optimizer,
    freeze_norms,
    knows_network,
    rate_factor,
    resolve_input,
)
from loupe.errors import RecipeError, WeightsError
from loupe.losses import balance_classes, build_loss
from loupe.recipe import FullStage, Loss, Recipe, Schedule, read_recipe


def recipe(name="test_resnet", size=32, **more):
    return read_recipe({"network": {"name": name} | more, "input": {"size": size}})


def build(made: Recipe, weights=None, classes=3, **more):
    return build_network(made, resolve_input(made, weights), classes, weights=weights, **more)


def batch(n=2, size=32, channels=3):
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (n, size, size, channels), dtype=np.uint8))


def test_pixels_go_in_and_logits_equal_those_of_timm(weights):
    made = recipe()
    network = build(made, weights).eval()
    plain = timm.create_model(
        "test_resnet",
        num_classes=0,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(weights / "test_resnet.safetensors")},
    ).eval()
    images = batch()
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])
    normal = ((images / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()
    with torch.no_grad():
        features = plain(normal)
        torch.testing.assert_close(network.features(images), features, atol=1e-5, rtol=1e-5)
        logits = features @ network.head.weight.T + network.head.bias
        torch.testing.assert_close(network(images), logits, atol=1e-5, rtol=1e-5)


def test_pretrained_weights_are_those_of_the_file(weights):
    from safetensors.torch import load_file

    stored = load_file(weights / "test_resnet.safetensors")
    mine = build(recipe(), weights).backbone.state_dict()
    assert mine.keys() == {key for key in stored if key in mine}
    assert all(torch.equal(mine[key], stored[key]) for key in mine)
    untouched = build(recipe(), weights, load=False).backbone.state_dict()
    assert not torch.equal(untouched["conv1.0.weight"], stored["conv1.0.weight"])


def test_the_seed_alone_fixes_the_start_and_the_callers_randomness_is_kept():
    made = recipe(pretrained=False)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = build(made)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    second = build(made)
    other = build(made.model_copy(update={"seed": 9}))
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key])
    assert not torch.equal(first.head.weight, other.head.weight)


def test_an_unknown_network_is_named_with_the_nearest():
    with pytest.raises(RecipeError, match=r"'test_resnt'.*did you mean 'test_resnet'"):
        build(recipe("test_resnt"))


def test_networks_are_known_with_or_without_a_tag():
    assert knows_network("test_resnet")
    assert knows_network("test_resnet.r160_in1k")
    assert not knows_network("model")


@pytest.mark.parametrize(
    ("name", "size", "more", "said"),
    [
        ("inception_v3", 48, {}, "input.size 48 x 48.*it was published for 299"),
        ("densenet121", 32, {"drop_path": 0.2}, "network.drop_path 0.2.*drop_path_rate"),
        ("test_vit", 32, {"pool": "catavgmax"}, "network.pool 'catavgmax'"),
        ("test_vit.nonsense", 32, {}, r"Invalid pretrained tag \(nonsense\)"),
    ],
)
def test_settings_that_a_network_does_not_take_are_named(name, size, more, said):
    with pytest.raises(RecipeError, match=f"'{name}'.*{said}"):
        build(recipe(name, size, pretrained=False, **more))


def test_with_weights_a_wrong_setting_is_still_blamed_on_the_recipe(weights):
    with pytest.raises(RecipeError, match=r"network\.pool 'catavgmax'"):
        build(recipe("test_vit", pool="catavgmax"), weights)


def test_weights_that_do_not_fit_are_named_by_their_file(tmp_path):
    tensors = {"conv1.0.weight": torch.zeros(4, 3, 9, 9)}
    save_file(tensors, tmp_path / "test_resnet.safetensors", {"timm_arch": "test_resnet"})
    with pytest.raises(WeightsError, match=r"test_resnet\.safetensors: its weights do not fit"):
        build(recipe(), tmp_path)


def test_without_network_the_weights_are_said_to_be_missing(monkeypatch):
    def refuse(name, **options):
        if options["pretrained"]:
            raise OSError("offline")
        return create(name, **options)

    create = timm.create_model
    monkeypatch.setattr("loupe.build._hub_resolves", lambda: False)
    monkeypatch.setattr("timm.create_model", refuse)
    with pytest.raises(WeightsError, match=r"(?s)were not found.*\(offline\)"):
        build(recipe())


@pytest.mark.parametrize(
    ("file", "name", "mean"),
    [
        ("vit_small_patch16_224.dino", "vit_small_patch16_224", 0.485),
        ("vit_small_patch16_224.dino", "vit_small_patch16_224.dino", 0.485),
        ("vit_small_patch16_224", "vit_small_patch16_224", 0.5),
        ("mine", "vit_small_patch16_224.dino", 0.485),
        ("mine", "mine", 0.5),
        ("vit_small_patch16_224.unheard_of", "vit_small_patch16_224", 0.5),
    ],
)
def test_normalisation_is_that_of_the_tag(tmp_path, file, name, mean):
    meta = {"timm_arch": "vit_small_patch16_224"}
    save_file({"w": torch.zeros(1)}, tmp_path / f"{file}.safetensors", meta)
    assert resolve_input(recipe(name, 224), tmp_path).mean[0] == mean


def test_missing_weights_say_what_the_folder_holds(weights, monkeypatch):
    monkeypatch.setattr("loupe.build._hub_resolves", lambda: False)
    with pytest.raises(WeightsError, match="test_resnet, test_vit"):
        build(recipe("test_convnext"), weights)


def test_grey_images_have_one_channel(weights):
    made = read_recipe({"network": {"name": "test_resnet"}, "input": {"size": 32, "channels": 1}})
    spec = resolve_input(made, weights)
    assert spec.mean == pytest.approx((0.5,))
    assert spec.std == pytest.approx((0.25,))
    assert build(made, weights)(batch(channels=1)).shape == (2, 3)


def test_position_embeddings_follow_the_input_size(weights):
    made = recipe("test_vit", size=48)
    assert timm.get_pretrained_cfg("test_vit").input_size[1] != 48
    network = build(made, weights).eval()
    assert network(batch(size=48)).shape == (2, 3)
    assert torch.isfinite(network(batch(size=48))).all()


def test_pooling_is_chosen_and_the_head_fits():
    plain = build(recipe(pretrained=False))
    both = build(recipe(pretrained=False, pool="catavgmax"))
    assert both.head.in_features == 2 * plain.head.in_features
    assert both(batch()).shape == (2, 3)


# Loss ---------------------------------------------------------------------------------------------

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]])
HARD = torch.tensor([[1.0, 0, 0], [0, 0, 1]])
SOFT = torch.tensor([[0.7, 0.3, 0], [0.1, 0.2, 0.7]])
WEIGHTS = torch.tensor([2.0, 0.5, 1.5])


def expected_cross_entropy(targets, smoothing, weights):
    total = []
    for row, target in zip(LOGITS.tolist(), targets.tolist(), strict=True):
        norm = math.log(sum(math.exp(v) for v in row))
        smooth = [t * (1 - smoothing) + smoothing / 3 for t in target]
        parts = zip(row, smooth, weights, strict=True)
        total.append(-sum(w * t * (v - norm) for v, t, w in parts))
    return total


def expected_bce(targets, smoothing, weights):
    total = []
    for row, target in zip(LOGITS.tolist(), targets.tolist(), strict=True):
        parts = []
        for v, t, w in zip(row, target, weights, strict=True):
            p, s = 1 / (1 + math.exp(-v)), t * (1 - smoothing) + smoothing / 2
            parts.append(-(w * s * math.log(p) + (1 - s) * math.log(1 - p)))
        total.append(sum(parts) / 3)
    return total


@pytest.mark.parametrize("targets", [HARD, SOFT])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("exclusive", [True, False])
def test_losses_equal_their_formulas(targets, smoothing, weights, exclusive):
    loss = build_loss(Loss(label_smoothing=smoothing), exclusive=exclusive, class_weights=weights)
    formula = expected_cross_entropy if exclusive else expected_bce
    rows = formula(targets, smoothing, [1.0] * 3 if weights is None else weights.tolist())
    assert float(loss(LOGITS, targets, None)) == pytest.approx(sum(rows) / 2, abs=1e-6)
    weighted = float(loss(LOGITS, targets, torch.tensor([3.0, 0.5])))
    assert weighted == pytest.approx((3 * rows[0] + 0.5 * rows[1]) / 2, abs=1e-6)


def test_losses_equal_torchs_own():
    for smoothing in (0.0, 0.1):
        mine = build_loss(Loss(label_smoothing=smoothing), exclusive=True, class_weights=None)
        torchs = functional.cross_entropy(LOGITS, HARD, label_smoothing=smoothing)
        torch.testing.assert_close(mine(LOGITS, HARD, None), torchs)


def test_bce_may_be_asked_for_but_softmax_needs_exclusive_classes():
    bce = build_loss(Loss(name="bce"), exclusive=True, class_weights=None)
    expected = functional.binary_cross_entropy_with_logits(LOGITS, HARD)
    torch.testing.assert_close(bce(LOGITS, HARD, None), expected)
    with pytest.raises(RecipeError, match="not exclusive"):
        build_loss(Loss(name="cross_entropy"), exclusive=False, class_weights=None)


def test_balanced_weights_are_scikit_learns():
    labels = np.repeat([0, 1, 2], [7, 2, 1])
    found = balance_classes(torch.eye(3)[labels], exclusive=True)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    columns = torch.tensor([[1.0, 0], [0, 0], [0, 0], [0, 1], [1, 1]])
    assert balance_classes(columns, exclusive=False).tolist() == pytest.approx([1.5, 1.5])


def test_a_class_without_rows_changes_no_weight():
    labels = np.repeat([0, 1, 2], [7, 2, 1])
    three = balance_classes(torch.eye(3)[labels], exclusive=True)
    four = balance_classes(torch.eye(4)[labels], exclusive=True)
    assert four.tolist() == [*three.tolist(), 1.0]
    columns = torch.tensor([[1.0, 0], [0, 0], [0, 0], [0, 0]])
    assert balance_classes(columns, exclusive=False).tolist() == [3.0, 1.0]
    assert balance_classes(torch.zeros(3, 2), exclusive=False).tolist() == [1.0, 1.0]


# Schedule, optimizer, average ---------------------------------------------------------------------


def test_the_rate_at_every_step():
    curve = Schedule(warmup=0.25, floor=0.1)
    found = [rate_factor(curve, step, 8) for step in range(8)]
    cosine = [1.0, 0.93971, 0.775, 0.55, 0.325, 0.16029]
    assert found == pytest.approx([0.5, 1.0, *cosine], abs=1e-5)
    flat = Schedule(name="constant", warmup=0.5)
    assert [rate_factor(flat, s, 4) for s in range(4)] == [0.5, 1.0, 1.0, 1.0]
    assert rate_factor(Schedule(warmup=0.0), 0, 1) == 1.0


def test_rates_are_positive_and_never_above_the_peak():
    for steps in (1, 2, 3, 10, 101):
        for warmup in (0.0, 0.1, 0.5, 0.99):
            rates = [rate_factor(Schedule(warmup=warmup), s, steps) for s in range(steps)]
            assert all(0 < rate <= 1 for rate in rates)


def test_vectors_are_not_decayed_and_the_head_has_its_own_rate():
    made = read_recipe(
        {
            "network": {"name": "test_resnet", "pretrained": False},
            "input": {"size": 32},
            "optimizer": {"lr": 0.5, "weight_decay": 0.25},
        }
    )
    network = build(made)
    network.backbone.conv1[0].weight.requires_grad_(requires_grad=False)
    optimizer = build_optimizer(made, FullStage(lr=0.01, head_lr_factor=10), network)
    of = {id(p): g for g in optimizer.param_groups for p in g["params"]}
    assert id(network.backbone.conv1[0].weight) not in of
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        group = of[id(parameter)]
        assert group["weight_decay"] == (0.25 if parameter.ndim > 1 else 0.0), name
        assert group["lr"] == pytest.approx(0.1 if name.startswith("head.") else 0.01), name
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(of)
    assert build_optimizer(made, FullStage(), network).param_groups[0]["lr"] == 0.5


def test_the_moving_average_equals_a_loop_by_hand():
    network = build(recipe(pretrained=False))
    average = MovingAverage(network, 0.3)
    by_hand = network.head.weight.detach().clone()
    statistics = network.backbone.bn1.running_mean.clone()
    for step in range(1, 6):
        with torch.no_grad():
            network.head.weight.add_(step)
            network.backbone.bn1.running_mean.add_(1)
            network.backbone.bn1.num_batches_tracked.add_(1)
        average.update(network)
        keep = min(0.3, (1 + step) / (10 + step))
        by_hand = keep * by_hand + (1 - keep) * network.head.weight.detach()
        statistics = keep * statistics + (1 - keep) * network.backbone.bn1.running_mean
    torch.testing.assert_close(average.network.head.weight, by_hand)
    torch.testing.assert_close(average.network.backbone.bn1.running_mean, statistics)
    assert int(average.network.backbone.bn1.num_batches_tracked) == 5
    assert not average.network.training
    assert not average.network.head.weight.requires_grad


def test_an_average_without_decay_is_the_network():
    network = build(recipe(pretrained=False))
    average = MovingAverage(network, 0.0)
    with torch.no_grad():
        network.head.weight.mul_(1.7).add_(0.123)
    average.update(network)
    assert torch.equal(average.network.head.weight, network.head.weight)


def test_frozen_norms_stay_as_they_are():
    network = build(recipe(pretrained=False)).train()
    freeze_norms(network)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]
    network(batch(4))
    assert norms
    assert all(torch.equal(b, n.running_mean) for b, n in zip(before, norms, strict=True))
    assert network.dropout.training


def test_a_file_that_does_not_hold_the_network_is_refused(tmp_path):
    # timm itself would load nothing of it and say nothing.
    save_file({"foreign.weight": torch.zeros(3)}, tmp_path / "test_resnet.safetensors")
    made = recipe()
    with pytest.raises(WeightsError, match="are not in the file"):
        build_network(made, resolve_input(made, tmp_path), 2, weights=tmp_path)
