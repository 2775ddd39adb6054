import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from loupe.build import autocast, build_network, find_start, knows_network, resolve_input
from loupe.errors import RecipeError, WeightsError
from loupe.images import InputSpec
from loupe.networks import Classifier, freeze_layers, freeze_norms
from loupe.recipe import Recipe, read_recipe
from loupe.settings import Head

HEAD = Head()


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
    assert knows_network("Efficient Net-B6 noisy_student")
    assert not knows_network("model")


@pytest.mark.parametrize(
    ("name", "size", "more", "said"),
    [
        ("test_vit", 40, {}, "input.size 40 x 40.*--set input.size=N; it was published for 160"),
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


def test_missing_weights_of_a_usual_name_are_told_by_timms(monkeypatch):
    def refuse(name, **options):
        if options["pretrained"]:
            raise OSError("offline")
        return create("test_resnet", num_classes=0)

    create = timm.create_model
    monkeypatch.setattr("loupe.build._hub_resolves", lambda: True)
    monkeypatch.setattr("timm.create_model", refuse)
    with pytest.raises(WeightsError, match=r"create_model\('legacy_xception\.tf_in1k', pretrained"):
        build(recipe("Xception"))


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


def test_a_file_that_does_not_hold_the_network_is_refused(tmp_path):
    # timm itself would load nothing of it and say nothing.
    save_file({"foreign.weight": torch.zeros(3)}, tmp_path / "test_resnet.safetensors")
    made = recipe()
    with pytest.raises(WeightsError, match="are not in the file"):
        build_network(made, resolve_input(made, tmp_path), 2, weights=tmp_path)


# Names --------------------------------------------------------------------------------------------


def test_usual_names_are_looked_up_and_timms_own_win():
    assert find_start(recipe("Xception"), None).architecture == "legacy_xception.tf_in1k"
    assert find_start(recipe("EfficientNetB0"), None).architecture == "tf_efficientnet_b0.aa_in1k"
    assert find_start(recipe("efficientnet_b0"), None).architecture == "efficientnet_b0"
    # timm has given this name up, and warns.
    assert find_start(recipe("xception"), None).architecture == "legacy_xception.tf_in1k"


def test_unknown_names_are_told_the_nearest_of_both_kinds():
    with pytest.raises(RecipeError, match=r"did you mean 'inception_v3'.*'InceptionV3'\?$"):
        find_start(recipe("incepton v3"), None)
    with pytest.raises(RecipeError, match=r"has no network 'zzzzzz'\.$"):
        find_start(recipe("zzzzzz"), None)


def test_a_usual_name_has_the_normalisation_of_its_weights():
    assert resolve_input(recipe("Xception", 200), None).mean == (0.5, 0.5, 0.5)
    assert resolve_input(recipe("DenseNet201", 200), None).mean == (0.485, 0.456, 0.406)


def test_a_usual_name_finds_the_local_file_of_its_network(tmp_path):
    meta = {"timm_arch": "legacy_xception", "mean": "[0.1, 0.2, 0.3]", "std": "[0.4, 0.5, 0.6]"}
    save_file({"w": torch.zeros(1)}, tmp_path / "mine.safetensors", meta)
    start = find_start(recipe("Xception"), tmp_path)
    assert (start.architecture, start.file) == ("legacy_xception", "mine.safetensors")
    assert resolve_input(recipe("Xception"), tmp_path).mean == (0.1, 0.2, 0.3)


# Input size ---------------------------------------------------------------------------------------


def sized(size, crop=None, name="test_resnet"):
    return read_recipe(
        {"network": {"name": name, "pretrained": False}, "input": {"size": size, "crop": crop}}
    )


@given(
    factor=st.sampled_from(["x1", "x2", "x0.5", "x1.25"]),
    side=st.tuples(st.integers(1, 2000), st.integers(1, 2000)),
)
@settings(max_examples=30, deadline=None)
def test_a_factor_multiplies_the_size_of_the_images(factor, side):
    spec = resolve_input(sized(factor), None, image_size=side)
    expected = [max(1, round(float(factor[1:]) * pixels)) for pixels in side]
    assert [spec.height, spec.width] == expected


def test_a_factor_needs_images_of_one_size():
    assert resolve_input(sized("x2"), None, image_size=(68, 68)).height == 136
    with pytest.raises(RecipeError, match=r"'x2'.*no size in common"):
        resolve_input(sized("x2"), None)


def test_a_size_in_pixels_does_not_ask_for_the_images():
    spec = resolve_input(sized([20, 30]), None, image_size=(7, 9))
    assert (spec.height, spec.width) == (20, 30)


def test_a_crop_is_part_of_the_input_and_fits_into_it():
    spec = resolve_input(sized([600, 800], 512), None)
    assert (spec.height, spec.width, spec.crop) == (600, 800, (512, 512))
    assert resolve_input(sized("x1", 40), None, image_size=(40, 50)).crop == (40, 40)
    with pytest.raises(RecipeError, match=r"input\.crop 40 x 40 is larger .* to 80 x 20"):
        resolve_input(sized("x2", 40), None, image_size=(40, 10))


def test_a_network_is_built_for_what_it_sees():
    made = sized([48, 64], 32, name="test_vit")
    network = build(made).eval()
    assert network(batch(size=32)).shape == (2, 3)
    assert network.backbone.patch_embed.img_size == (32, 32)


@pytest.mark.parametrize(
    ("name", "size", "least"),
    [("InceptionV3", 60, 75), ("densenet121", 10, 29)],
)
def test_the_smallest_input_of_a_network_is_said(name, size, least):
    said = f"of {least} x {least} pixels and more; input.size {size} x {size} is too small"
    with pytest.raises(RecipeError, match=said):
        build(sized(size, name=name))


def test_a_crop_that_is_too_small_is_called_a_crop():
    with pytest.raises(RecipeError, match=r"input\.crop 10 x 12 is too small.*input\.crop=29"):
        build(sized(64, [10, 12], name="densenet121"))


@pytest.mark.parametrize("size", [29, 40])
def test_inputs_far_from_a_networks_own_are_normal(size):
    assert build(sized(size, name="densenet121"))(batch(size=size)).shape == (2, 3)


@pytest.mark.parametrize("name", ["densenet201", "InceptionV3", "InceptionResNetV2", "Xception"])
def test_networks_without_stochastic_depth_say_so(name):
    with pytest.raises(RecipeError, match=r"network\.drop_path 0\.2.*drop_path_rate"):
        build(recipe(name, 200, pretrained=False, drop_path=0.2))


# Half precision -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_the_backbone_computes_in_the_engines_precision_and_the_head_in_full(precision, dtype):
    head = {"widths": [4], "batch_norm": True}
    made = read_recipe(
        {
            "network": {"name": "test_resnet", "pretrained": False, "head": head},
            "input": {"size": 32},
            "engine": {"precision": precision},
        }
    )
    network = build(made)
    seen = {}

    def note(layer, inputs, output):
        seen[layer] = output.dtype

    for layer in (network.backbone.conv1[0], *network.hidden):
        layer.register_forward_hook(note)
    with autocast(made, "cpu"):
        logits = network(batch())
    assert seen.pop(network.backbone.conv1[0]) == dtype
    assert set(seen.values()) == {torch.float32}
    assert logits.dtype == torch.float32


# Head ---------------------------------------------------------------------------------------------


def with_head(**head):
    return build(recipe(pretrained=False, head=head))


def test_a_linear_head_keeps_the_names_of_its_weights():
    names = [name for name in with_head().state_dict() if not name.startswith("backbone.")]
    assert names == ["mean", "scale", "head.weight", "head.bias"]


def test_the_layers_of_a_head_stand_in_order():
    network = with_head(widths=[7, 5], batch_norm=True, dropout=0.5)
    kinds = [type(layer) for layer in network.hidden]
    assert kinds == [nn.BatchNorm1d, nn.Linear, nn.ReLU, nn.Linear, nn.ReLU]
    assert network.hidden[0].num_features == network.hidden[1].in_features
    shapes = [(d.in_features, d.out_features) for d in (network.hidden[3], network.head)]
    assert shapes == [(7, 5), (5, 3)]
    assert network.dropout.p == 0.5


def test_a_deep_head_equals_its_formula():
    network = with_head(widths=[7], batch_norm=True).eval()
    norm, dense = network.hidden[0], network.hidden[1]
    with torch.no_grad():
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
    features = torch.randn(4, norm.num_features)
    scaled = (features - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    inner = (scaled @ dense.weight.T + dense.bias).clamp(min=0)
    expected = inner @ network.head.weight.T + network.head.bias
    torch.testing.assert_close(network.classify(features), expected)


def test_dropout_acts_before_the_last_layer_alone():
    network = with_head(widths=[400], dropout=0.5)
    nn.init.zeros_(network.hidden[0].weight)
    nn.init.ones_(network.hidden[0].bias)
    features = torch.zeros(1, network.hidden[0].in_features)
    torch.manual_seed(0)
    logits = network.train().classify(features)
    torch.manual_seed(0)
    dropped = nn.functional.dropout(torch.ones(1, 400), 0.5)
    assert 0 < (dropped == 0).sum() < 400
    torch.testing.assert_close(logits, network.head(dropped))
    torch.testing.assert_close(network.eval().classify(features), network.head(torch.ones(1, 400)))


def test_the_penalty_is_that_of_the_inner_kernels():
    network = with_head(widths=[7, 5], l2=0.25, batch_norm=True)
    kernels = (network.hidden[1].weight, network.hidden[3].weight)
    expected = 0.25 * sum((kernel.double() ** 2).sum().item() for kernel in kernels)
    assert network.penalty().item() == pytest.approx(expected, rel=1e-6)
    network.penalty().backward()
    torch.testing.assert_close(kernels[0].grad, 2 * 0.25 * kernels[0])
    assert all(p.grad is None for p in (network.head.weight, network.hidden[1].bias))


@pytest.mark.parametrize("head", [{}, {"widths": [4]}])
def test_there_is_no_penalty_without_a_factor(head):
    penalty = with_head(**head).penalty()
    assert (penalty.shape, penalty.item(), penalty.dtype) == ((), 0.0, torch.float32)


def test_he_normal_has_variance_two_over_inputs_and_is_cut_at_two_deviations():
    network = with_head(widths=[3000, 200], init="he_normal")
    dense = [network.hidden[0], network.hidden[2], network.head]
    for layer in dense:
        drawn = layer.weight.detach()
        assert torch.equal(layer.bias, torch.zeros_like(layer.bias))
        # Deviation of the normal distribution before the cut: Keras' VarianceScaling.
        before = (2 / layer.in_features) ** 0.5 / 0.87962566103423978
        assert drawn.abs().max() <= 2 * before
    large = dense[1].weight.detach()
    assert large.var().item() == pytest.approx(2 / 3000, rel=0.01)
    assert large.mean().abs() < 1e-3 * (2 / 3000) ** 0.5 * 5
    assert large.abs().max() > 1.99 * (2 / 3000) ** 0.5 / 0.8796


def test_default_initial_values_are_torchs():
    torch.manual_seed(0)
    layer = with_head(widths=[64]).hidden[0]
    # kaiming_uniform with a = sqrt(5): within 1 / sqrt(inputs).
    assert layer.weight.abs().max() <= layer.in_features**-0.5
    assert layer.bias.abs().max() > 0


def test_mixed_images_are_floats_from_0_to_255():
    made = recipe(pretrained=False)
    network = build(made).eval()
    images = batch()
    spec = resolve_input(made, None)
    mixed = 0.3 * images.float() + 0.7 * images.flip(0).float()
    normal = (mixed / 255 - torch.tensor(spec.mean)) / torch.tensor(spec.std)
    with torch.no_grad():
        assert torch.equal(network(images), network(images.float()))
        expected = network.backbone(normal.permute(0, 3, 1, 2))
        torch.testing.assert_close(network.features(mixed), expected, atol=1e-5, rtol=1e-5)


# Layers that stay as they are ---------------------------------------------------------------------


def test_frozen_norms_stay_as_they_are():
    network = build(recipe(pretrained=False, head={"batch_norm": True})).train()
    freeze_norms(network.backbone)
    norms = [m for m in network.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]
    network(batch(4))
    assert norms
    assert all(torch.equal(b, n.running_mean) for b, n in zip(before, norms, strict=True))
    assert network.hidden[0].training
    assert network.hidden[0].num_batches_tracked == 1


def take_step(network, frozen):
    network.train()
    for module in frozen:
        module.eval()
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    nn.functional.cross_entropy(network(batch(4)), torch.tensor([0, 1, 2, 0])).backward()
    optimizer.step()


@pytest.mark.parametrize(
    ("names", "still"),
    [
        (("backbone",), ("backbone.",)),
        (("conv1", "bn1", "layer2"), ("backbone.conv1.", "backbone.bn1.", "backbone.layer2.")),
        (("layer1.0",), ("backbone.layer1.0.",)),
        (("layer1.0.conv1.weight",), ("backbone.layer1.0.conv1.weight",)),
        ((), ()),
    ],
)
def test_a_step_changes_neither_frozen_weights_nor_their_statistics(names, still):
    network = build(recipe(pretrained=False))
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.ones_(norm.weight)  # where timm starts from 0, what is before would rest
    before = {key: value.clone() for key, value in network.state_dict().items()}
    take_step(network, freeze_layers(network, names))
    moved = {
        key for key, value in network.state_dict().items() if not torch.equal(value, before[key])
    }
    expected = {
        k for k in before if k not in {"mean", "scale"} and not k.startswith(still or ("?",))
    }
    assert moved == expected


def test_layers_that_are_no_longer_named_are_let_go():
    network = build(recipe(pretrained=False))
    freeze_layers(network, ["backbone"])
    assert freeze_layers(network, ["layer1"]) == (network.backbone.layer1,)
    still = {name for name, value in network.named_parameters() if not value.requires_grad}
    assert still == {n for n, _ in network.named_parameters() if n.startswith("backbone.layer1.")}


def test_what_timm_keeps_fixed_is_never_let_go():
    network = build(recipe(pretrained=False))
    backbone = network.backbone
    backbone.bn1.weight.requires_grad_(requires_grad=False)
    again = type(network)(
        backbone, network.head.in_features, 3, resolve_input(recipe(), None), HEAD
    )
    freeze_layers(again, ["backbone"])
    freeze_layers(again, [])
    still = [name for name, value in again.named_parameters() if not value.requires_grad]
    assert still == ["backbone.bn1.weight"]


def test_all_unknown_layers_are_named_with_the_nearest():
    network = build(recipe(pretrained=False))
    with pytest.raises(RecipeError) as caught:
        freeze_layers(network, ["conv1", "layer9", "head", "layer1.0.conv", "backbone.layer1"])
    said = str(caught.value)
    assert "'layer9'; did you mean 'layer" in said
    assert "'head'" in said
    assert "'layer1.0.conv'; did you mean" in said
    assert "'backbone.layer1'; did you mean" in said
    assert "'conv1'" not in said.partition("'layer9'")[0]
    assert "backbone (all of them), conv1, bn1, act1" in said
    assert all(p.requires_grad for p in network.parameters())


def test_glorot_uniform_is_keras_default():
    spec = InputSpec(height=8, width=8)
    head = Head(widths=(400,), init="glorot_uniform")
    network = Classifier(torch.nn.Identity(), 600, 300, spec, head)
    for layer in (network.hidden[0], network.head):
        limit = (6 / (layer.in_features + layer.out_features)) ** 0.5
        assert float(layer.weight.detach().abs().max()) <= limit
        assert float(layer.weight.detach().var()) == pytest.approx(limit**2 / 3, rel=0.02)
        assert not layer.bias.detach().any()
