"""Maps: every family of networks gives one, it lies on the evidence, held-out networks make it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import loupe.explaining as module
from loupe.decisions import blend
from loupe.errors import RunError
from loupe.explaining import explain_images, explain_rows
from loupe.images import InputSpec
from loupe.networks import Classifier
from loupe.recipe import Recipe
from loupe.runs import open_run
from loupe.settings import Head
from loupe.table import Table
from loupe.training import train
from loupe.views import list_cuts

SMALL = {
    "densenet121": {"growth_rate": 16, "block_config": (2, 2, 2, 2)},
    "swin_tiny_patch4_window7_224": {
        "embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2), "window_size": 2,
    },
    "cait_xxs24_224": {"depth": 1},
    "eva02_tiny_patch14_224": {"depth": 1, "patch_size": 16, "global_pool": "token"},
    "deit_tiny_distilled_patch16_224": {"depth": 2},
}  # fmt: skip
FAMILIES = (
    "test_resnet", "test_efficientnet", "test_vit", "test_vit2", "test_vit3", "test_convnext",
    "test_maxvit", "test_coatnet", "test_nfnet", "test_mambaout", "tf_efficientnetv2_b0",
    "mobilenetv3_small_050", *SMALL,
)  # fmt: skip
LARGE = ("legacy_xception", "inception_v3", "inception_resnet_v2", "mixer_s32_224")
SIZED = ("vit", "swin", "mixer", "cait", "eva", "deit", "coat")
SIDE = 96
PATCH = 32


def build(name: str, side: int = SIDE, **options: Any) -> Classifier:
    import timm

    if any(part in name for part in SIZED):
        options["img_size"] = side
    torch.manual_seed(1)
    backbone = timm.create_model(name, num_classes=0, **SMALL.get(name, {}), **options).eval()
    with torch.no_grad():
        features = backbone(torch.zeros(1, 3, side, side)).shape[1]
    spec = InputSpec(height=side, width=side)
    return Classifier(backbone, features, 2, spec, Head()).eval()


def whole(spec: InputSpec, *views: Any) -> Any:
    return list_cuts(views or ("identity",), spec)


def noise(count: int, side: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 90, (count, side, side, 3), dtype=np.uint8)


def with_patches(count: int, side: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Dim noise with one bright square each, and the centres of the squares."""
    images = noise(count, side, seed)
    corners = np.random.default_rng(seed + 1).integers(0, side - PATCH + 1, (count, 2))
    for image, (top, left) in zip(images, corners, strict=True):
        image[top : top + PATCH, left : left + PATCH] = 250
    return images, corners + PATCH / 2


def centre(heat: np.ndarray) -> np.ndarray:
    kept = np.maximum(heat, 0)
    axes = np.indices(kept.shape) + 0.5
    return (axes * kept).sum(axis=(1, 2)) / kept.sum()


@pytest.mark.parametrize(
    "name", [*FAMILIES, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)]
)
def test_every_family_gives_a_map(name: str) -> None:
    side = 140 if "inception" in name else SIDE  # smaller, and only one place is left
    network, spec = build(name, side), InputSpec(height=side, width=side)
    images = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    before = network.state_dict().keys()
    with torch.no_grad():
        answer = network(torch.from_numpy(images))
    heat = explain_images(network, images, [0, 1], whole(spec))
    assert not isinstance(heat, str), heat
    assert heat.shape == (2, side, side)
    assert heat.dtype == np.float32
    assert np.isfinite(heat).all()
    assert heat.std() > 0
    # The network is as it was.
    assert network.state_dict().keys() == before
    with torch.no_grad():
        assert torch.equal(network(torch.from_numpy(images)), answer)


class _Bright(nn.Module):
    """Its one feature is how bright a place is."""

    def forward_features(self, images: Tensor) -> Tensor:
        return torch.relu(nn.functional.avg_pool2d(images, 8).mean(dim=1, keepdim=True))

    def forward_head(self, features: Tensor) -> Tensor:
        return features.mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))


def make_bright(spec: InputSpec) -> Classifier:
    network = Classifier(_Bright(), 1, 2, spec, Head()).eval()
    with torch.no_grad():
        network.head.weight.copy_(torch.tensor([[-1.0], [1.0]]))
    return network


def test_the_map_lies_on_the_evidence_and_speaks_for_one_class() -> None:
    spec = InputSpec(height=96, width=96)
    images, centres = with_patches(6, 96, seed=3)
    heat = explain_images(make_bright(spec), images, [1] * 6, whole(spec, "identity", "hflip"))
    assert not isinstance(heat, str)
    for each, at in zip(heat, centres, strict=True):
        assert np.abs(centre(each) - at).max() < 4
    against = explain_images(make_bright(spec), images, [0] * 6, whole(spec))
    assert not isinstance(against, str)
    assert against.max() <= 0


@pytest.mark.parametrize(("name", "side"), [("test_resnet", 96), ("test_vit", 128)])
def test_a_trained_network_looks_at_what_it_learnt(name: str, side: int) -> None:
    network = build(name, side).train()
    shown, _ = with_patches(24, side, seed=7)
    images = torch.from_numpy(np.concatenate([noise(24, side, seed=9), shown]))
    labels = torch.arange(2).repeat_interleave(24)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for step in range(20):
        rows = torch.randperm(48, generator=torch.Generator().manual_seed(step))[:8]
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images[rows]), labels[rows]).backward()
        optimizer.step()
    network.eval()
    new, centres = with_patches(6, side, seed=20)
    spec = InputSpec(height=side, width=side)
    heat = explain_images(network, new, [1] * 6, whole(spec))
    assert not isinstance(heat, str)
    distances = [
        np.abs(centre(np.where(each > each.max() / 2, each, 0)) - at).max()
        for each, at in zip(heat, centres, strict=True)
    ]
    assert np.median(distances) < PATCH / 2


def test_flips_and_crops_are_undone() -> None:
    spec = InputSpec(height=64, width=96, crop=(64, 64))
    images, _ = with_patches(2, 96, seed=1)
    images = images[:, :64]
    network = make_bright(spec)
    heat = explain_images(network, images, [1, 1], whole(spec, "identity", "hflip"))
    turned = explain_images(network, images[:, :, ::-1].copy(), [1, 1], whole(spec))
    assert not isinstance(heat, str)
    assert not isinstance(turned, str)
    assert heat.shape == (2, 64, 96)
    np.testing.assert_allclose(heat, turned[:, :, ::-1], atol=1e-4)


class _Odd(_Bright):
    """Forward is not what its parts are."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + 1


class _Flat(_Bright):
    def forward_features(self, images: Tensor) -> Tensor:
        return super().forward_features(images).flatten(1)

    def forward_head(self, features: Tensor) -> Tensor:
        return features.mean(dim=1, keepdim=True)


class _Deaf(_Bright):
    def forward_head(self, features: Tensor) -> Tensor:
        return 0 * features.mean(dim=(2, 3))


@pytest.mark.parametrize(
    ("backbone", "side", "said"),
    [
        (_Odd(), 96, "would change its answer"),
        (_Flat(), 96, "no place in the image"),
        (_Deaf(), 96, "does not rest on"),
        (_Bright(), 8, "one place only"),
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1)), 96, "apart"),
    ],
)
def test_no_map_is_made_up(backbone: nn.Module, side: int, said: str) -> None:
    spec = InputSpec(height=side, width=side)
    network = Classifier(backbone, 1, 2, spec, Head()).eval()
    found = explain_images(network, noise(1, side), [1], whole(spec))
    assert isinstance(found, str)
    assert said in found


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory,
    exclusive: Table,
    members: dict[str, Recipe],
    weights: Path,
) -> Any:
    head = members["head"].model_dump()
    recipes = {
        "wide": Recipe.model_validate(head | {"input": {"size": [96, 128], "resize": "pad"}}),
        "small": Recipe.model_validate(head | {"input": {"size": 64}}),
    }
    out = tmp_path_factory.mktemp("explained") / "run"
    return train(exclusive, recipes, out, weights=weights, executor="serial", device="cpu")


@pytest.fixture(scope="module")
def shown(run: Any) -> list[int]:
    """The class of each row that has a map: what speaks against one speaks for the other."""
    first = explain_rows(run, range(16), [0] * 16, device="cpu").maps
    return [int(heat is None) for heat in first]


def test_each_row_is_explained_by_networks_that_held_it_out(
    run: Any, shown: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    real = module.load_network

    def record(member: Any, recipe: Recipe, fold: int, classes: int) -> Classifier:
        loaded.append((member.name, fold))
        return real(member, recipe, fold, classes)

    monkeypatch.setattr(module, "load_network", record)
    folds = run.table().folds
    rows = [int(np.flatnonzero(folds == 1)[0])]
    found = explain_rows(run, rows, [shown[rows[0]]], device="cpu")
    assert sorted(loaded) == [("small", 1), ("wide", 1)]
    (heat,) = found.maps
    assert heat is not None
    # 48 x 48 pixels padded to 96 x 128: the bars are cut off.
    assert heat.shape == (96, 96)
    assert heat.min() >= 0
    assert heat.max() == pytest.approx(1)
    assert found.notes == ()


def test_rows_keep_their_order_and_what_is_lost_is_told(
    run: Any, shown: list[int], tmp_path: Path
) -> None:
    rows = [5, 0, 7]
    columns = [shown[row] for row in rows]
    together = explain_rows(run, rows, columns, device="cpu")
    for row, column, heat in zip(rows, columns, together.maps, strict=True):
        (alone,) = explain_rows(run, [row], [column], device="cpu").maps
        assert heat is not None
        assert alone is not None
        np.testing.assert_allclose(heat, alone, atol=1e-4)
    copy = tmp_path / "run"
    shutil.copytree(run.folder, copy)
    for member in ("wide", "small"):
        (copy / member / "fold-0" / "last.safetensors").unlink()
    found = explain_rows(open_run(copy), range(16), shown, device="cpu")
    held = open_run(copy).table().folds == 0
    assert [heat is None for heat in found.maps] == held.tolist()
    assert any("last.safetensors is not there" in note for note in found.notes)


def test_a_blend_asks_the_networks_of_its_sources(
    run: Any, shown: list[int], tmp_path: Path
) -> None:
    blend([run.folder], out=tmp_path / "blend")
    found = explain_rows(open_run(tmp_path / "blend"), [0, 9], [shown[0], shown[9]], device="cpu")
    assert all(heat is not None for heat in found.maps)


def test_an_input_of_one_place_has_no_map(finished: Any) -> None:
    found = explain_rows(finished, [0, 1], [0, 1], device="cpu")
    assert found.maps == (None, None)
    assert any("one place only" in note for note in found.notes)


def test_a_class_that_nothing_speaks_for_has_no_map(run: Any, shown: list[int]) -> None:
    found = explain_rows(run, [0], [1 - shown[0]], device="cpu")
    if found.maps[0] is None:
        assert found.notes == (
            "in 1 image(s) no place by itself speaks for the class, so no map is shown",
        )
    against = explain_rows(run, range(16), [1 - column for column in shown], device="cpu")
    assert any(heat is None for heat in against.maps)


def test_a_damaged_image_has_no_map(
    run: Any, shown: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = run.table()
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    broken = tmp_path / "b.png"
    broken.write_bytes((tmp_path / "a.png").read_bytes()[:40])
    moved = replace(table, images=(broken, *table.images[1:]))
    monkeypatch.setattr(type(run), "table", lambda _: moved)
    found = explain_rows(run, [0, 1], shown[:2], device="cpu")
    assert found.maps[0] is None
    assert found.maps[1] is not None
    assert found.notes == ("images that cannot be read have no map",)


@pytest.mark.parametrize(
    ("change", "said"), [({"segments": True}, "masks"), ({"folds": (-1,)}, "nothing")]
)
def test_runs_without_held_out_classes_are_refused(run: Any, change: Any, said: str) -> None:
    with pytest.raises(RunError, match=said):
        explain_rows(replace(run, **change), [0], [0])
