"""Segmenters: what goes in, what comes out, where weights come from, what is refused."""

import os
from pathlib import Path

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from torch import nn

from loupe.build import resolve_input
from loupe.errors import RecipeError, WeightsError
from loupe.images import InputSpec
from loupe.maskchoices import ARCHITECTURES, Decoder, MaskLoss
from loupe.masklosses import build_mask_loss
from loupe.networks import Classifier, freeze_norms
from loupe.recipe import read_recipe
from loupe.segmenters import Segmenter, build_segmenter, settle_encoder
from loupe.settings import Head

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("LOUPE_TEST_DATA", ROOT.parent / "shared"))
SMALL = {"decoder_channels": (16, 8, 8, 8, 4)}


def recipe(name="test_resnet", size=64, **more):
    return read_recipe(
        {"network": {"name": name, "pretrained": False} | more, "input": {"size": size}}
    )


def build(made, weights=None, classes=2, **decoder):
    load = decoder.pop("load", True)
    settled = settle_encoder(made, weights)
    spec = resolve_input(settled, weights)
    wanted = Decoder(**({"options": SMALL} | decoder))
    return build_segmenter(wanted, settled, spec, classes, weights=weights, load=load)


def batch(height=64, width=64, n=2, channels=3):
    pixels = np.random.default_rng(0).integers(0, 256, (n, height, width, channels), np.uint8)
    return torch.from_numpy(pixels)


class Echo(nn.Module):
    """In place of a network: gives its input back, and keeps it."""

    decoder = segmentation_head = nn.Identity()
    classification_head = None

    @property
    def encoder(self):
        return self

    def forward(self, pixels):
        self.seen = pixels
        return pixels


# In and out ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_masks_of_any_size_come_out(architecture, name):
    network = build(recipe(name), architecture=architecture, options={}, class_head=True).eval()
    with torch.inference_mode():
        for height, width in [(64, 64), (45, 100)]:
            found = network(batch(height, width))
            assert found.masks.shape == (2, 2, height, width)
            assert found.classes.shape == (2, 2)
            assert found.masks.dtype == found.classes.dtype == torch.float32
    found = network(batch(45, 100))
    targets = torch.zeros(2, 2, 45, 100)
    targets[0, 0, 10:20] = 1
    loss = build_mask_loss(MaskLoss(class_head=0.1), "ab")
    loss(found.masks, targets, found.classes).backward()
    outside = [p for name, p in network.named_parameters() if not name.startswith("backbone.")]
    assert outside
    assert all(p.grad is not None and p.grad.isfinite().all() for p in outside)
    assert any(p.grad is not None and p.grad.any() for p in network.backbone.parameters())


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_normalised_as_a_classifier_normalises_them(channels):
    spec = InputSpec(height=32, width=64, channels=channels)
    echo = Echo()
    classifier = Classifier(nn.Identity(), 1, 1, spec, Head())
    images = batch(32, 64, channels=channels)
    Segmenter(echo, spec)(images)
    assert torch.equal(echo.seen, classifier.features(images))
    Segmenter(echo, spec)(images.float())
    assert torch.equal(echo.seen, classifier.features(images.float()))


@pytest.mark.parametrize(("height", "width"), [(32, 33), (45, 100), (1, 63), (96, 64)])
def test_images_are_extended_by_their_edges_and_cut_back(height, width):
    echo = Echo()
    spec = InputSpec(height=height, width=width)
    network = Segmenter(echo, spec)
    images = batch(height, width)
    found = network(images)
    assert torch.equal(found.masks, network.normalise(images))
    assert found.classes is None
    high, wide = echo.seen.shape[-2:]
    assert (high % 32, wide % 32) == (0, 0)
    assert high - height < 32
    assert wide - width < 32
    assert torch.equal(echo.seen[..., 0, 0], found.masks[..., 0, 0])
    assert torch.equal(echo.seen[..., -1, -1], found.masks[..., -1, -1])


def test_a_padded_image_gives_what_smp_gives_for_it():
    network = build(recipe()).eval()
    images = batch(64, 50)
    wide = torch.from_numpy(np.pad(images.numpy(), [(0, 0), (0, 0), (7, 7), (0, 0)], "edge"))
    with torch.inference_mode():
        features = network.backbone(network.normalise(wide))
        expected = network.mask_head(network.decoder(features))[..., 7:57]
        torch.testing.assert_close(network(images).masks, expected)


def test_logits_are_float32_under_autocast():
    network = build(recipe(), class_head=True).eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = network(batch())
    assert found.masks.dtype == found.classes.dtype == torch.float32


def test_grey_input():
    made = read_recipe(
        {"network": {"name": "test_resnet", "pretrained": False}, "input": {"channels": 1}}
    )
    assert build(made).eval()(batch(channels=1)).masks.shape == (2, 2, 64, 64)


def test_the_encoder_is_the_backbone_and_the_rest_are_decoder_and_heads():
    network = build(recipe(), class_head=True)
    names = {name.partition(".")[0] for name, _ in network.named_parameters()}
    assert names == {"backbone", "decoder", "mask_head", "class_head"}
    network.train()
    freeze_norms(network.backbone)
    before = {k: v.clone() for k, v in network.backbone.state_dict().items()}
    network(batch())
    assert all(torch.equal(before[k], v) for k, v in network.backbone.state_dict().items())


def test_the_seed_alone_fixes_the_start_and_the_callers_randomness_is_kept(weights):
    made = recipe(pretrained=True)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = build(made, weights)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    second = build(made, weights)
    other = build(made.model_copy(update={"seed": 9}), weights)
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key])
    head = "mask_head.0.weight"
    assert not torch.equal(first.get_parameter(head), other.get_parameter(head))
    assert first.training


# Names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("test_resnet", "test_resnet"),
        ("tu-test_resnet", "test_resnet"),
        ("resnet18", "resnet18"),
        ("smp-resnet18", "smp-resnet18"),
        ("se_resnet50", "smp-se_resnet50"),
        ("EfficientNet-B0", "tf_efficientnet_b0.aa_in1k"),
        ("efficientnet-b0", "tf_efficientnet_b0.aa_in1k"),
    ],
)
def test_encoders_are_timms_by_name_or_alias_then_smps_own(name, found):
    settled = settle_encoder(recipe(name), None)
    assert settled.start.architecture == found
    assert settle_encoder(settled, None) == settled


def test_an_own_encoder_of_smp_is_built():
    network = build(recipe("smp-resnet18"))
    assert type(network.backbone) is type(smp.encoders.get_encoder("resnet18"))
    assert network.eval()(batch()).masks.shape == (2, 2, 64, 64)


def test_decoder_settings_reach_the_decoder():
    wide = {"decoder_channels": (16,) * 5}
    plain = build(recipe(), options=wide)
    rich = build(recipe(), options=wide | {"decoder_attention_type": "scse"})
    assert sum(1 for _ in rich.parameters()) > sum(1 for _ in plain.parameters())
    head = build(recipe(), class_head=True, head_dropout=0.4, head_pool="max")
    kinds = {type(layer): layer for layer in head.class_head}
    assert nn.AdaptiveMaxPool2d in kinds
    assert kinds[nn.Dropout].p == 0.4


# Weights ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_encoder_starts_from_local_weights(weights, architecture):
    made = settle_encoder(recipe("tu-test_resnet", pretrained=True), weights)
    assert made.start.file == "test_resnet.safetensors"
    spec = resolve_input(made, weights)
    assert spec.mean == (0.4, 0.5, 0.6)
    network = build(made, weights, architecture=architecture, options={}).eval()
    stride = 16 if architecture == "DeepLabV3Plus" else 32
    plain = load_timm("test_resnet", weights / "test_resnet.safetensors", output_stride=stride)
    check_features(network, plain)


def load_timm(name, file, **more):
    overlay = {"file": str(file)}
    network = timm.create_model(
        name, features_only=True, pretrained=True, pretrained_cfg_overlay=overlay, **more
    )
    return network.eval()


def check_features(network, plain):
    """All maps equal those of timm: weights, and the statistics of BatchNorm."""
    with torch.inference_mode():
        pixels = network.normalise(batch())
        found, expected = network.backbone(pixels)[1:], plain(pixels)
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


def test_stages_that_feature_extractors_rename_are_filled_too(tmp_path, save_weights):
    file = save_weights(tmp_path, "test_convnext")
    network = build(recipe("test_convnext", pretrained=True), tmp_path, options={}).eval()
    plain = load_timm("test_convnext", file)
    with torch.inference_mode():
        pixels = network.normalise(batch())
        found, expected = network.backbone(pixels)[2:], plain(pixels)  # the picture, and a blank
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


def test_weights_are_not_loaded_where_trained_ones_come_next(weights):
    made = recipe(pretrained=True)
    one, two = build(made, weights), build(made, None, load=False)
    name = "model.conv1.0.weight"
    assert not torch.equal(one.backbone.state_dict()[name], two.backbone.state_dict()[name])
    two.load_state_dict(one.state_dict())


@pytest.mark.real
@pytest.mark.parametrize("name", ["mobilenetv2_100_tf", "tf_efficientnetv2_b0"])
def test_published_weights(name):
    folder = SHARED / "weights"
    if not (folder / f"{name}.safetensors").is_file():
        pytest.skip(f"no weights {name}.safetensors in {folder}; see $LOUPE_TEST_DATA")
    made = settle_encoder(recipe(name, pretrained=True), folder)
    network = build(made, folder).eval()
    more = dict(made.start.kwargs)
    check_features(network, load_timm(made.start.architecture, folder / made.start.file, **more))


def test_own_weights_of_smp_that_cannot_be_had_are_told(monkeypatch):
    def refuse(*args, **options):
        raise OSError("offline")

    monkeypatch.setattr(smp.encoders, "hf_hub_download", refuse)
    with pytest.raises(WeightsError, match=r"encoder 'resnet18' cannot be had \(offline\)"):
        build(recipe("smp-resnet18", pretrained=True))


# Refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["test_vit", "test_vit3"])
def test_an_encoder_of_one_scale_is_refused_with_what_works(name):
    with pytest.raises(RecipeError, match=f"'{name}', which has no feature maps") as caught:
        build(recipe(name))
    for word in ("Unet needs them", "resnet34", "swin_tiny"):
        assert word in str(caught.value)


def test_unknown_encoders_are_named_with_the_nearest():
    with pytest.raises(RecipeError, match=r"'test_resnt'.*did you mean 'test_resnet'"):
        settle_encoder(recipe("test_resnt"), None)
    with pytest.raises(RecipeError, match="segmentation-models-pytorch's own, did you mean 'dpn"):
        settle_encoder(recipe("smp-dpn63"), None)


@pytest.mark.parametrize("name", ["mit_b0", "smp-mit_b5"])
def test_encoders_under_a_non_commercial_licence_are_refused(name):
    with pytest.raises(RecipeError, match=f"'{name}': .* non-commercial use only"):
        settle_encoder(recipe(name), None)


@pytest.mark.parametrize(
    ("name", "decoder", "more", "said"),
    [
        (
            "legacy_xception",
            {"architecture": "DeepLabV3Plus"},
            {},
            "output_stride.*or another arch",
        ),
        ("xception", {"architecture": "FPN"}, {}, "has one of its own, 'smp-xception'"),
        ("densenet121", {}, {"drop_path": 0.2}, "'densenet121' .*drop_path_rate"),
        ("smp-resnet18", {}, {"drop_path": 0.2}, "'smp-resnet18' .*drop_path_rate"),
    ],
)
def test_what_does_not_fit_is_told_when_it_is_built(name, decoder, more, said):
    with pytest.raises(RecipeError, match=said):
        build(recipe(name, **more), **({"options": {}} | decoder))


def test_unknown_options_are_told():
    with pytest.raises(RecipeError, match="'decoder_chanels'; did you mean 'decoder_channels'"):
        build(recipe(), options={"decoder_chanels": (1, 2)})
    with pytest.raises(RecipeError, match="options of FPN: 'classes' not known"):
        build(recipe(), architecture="FPN", options={"classes": 4})
