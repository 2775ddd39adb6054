"""The networks and heads of published systems: built, trained for a step, saved and loaded.

Each stands at the input size of its write-up, with random weights and a batch of two.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from loupe.build import build_network, resolve_input
from loupe.networks import Classifier, freeze_layers
from loupe.recipe import Recipe, read_recipe

TILES = {"batch_norm": True, "widths": [128, 64], "dropout": 0.5, "init": "he_normal"}
PAINTINGS = {"widths": [512], "l2": 1e-3, "dropout": 0.5, "init": "he_normal"}
STEEL = {"widths": [128, 64]}
LINEAR: dict[str, object] = {}

SYSTEMS = {
    "tiles-B7": ("EfficientNetB7-noisy-student", 136, TILES, 2, {}),
    "tiles-B6": ("EfficientNetB6-noisy-student", 136, TILES, 2, {}),
    "clouds-B2": ("EfficientNetB2", 224, LINEAR, 4, {}),
    "clouds-B1": ("EfficientNetB1", 224, LINEAR, 4, {}),
    "leaves-B3": ("EfficientNetB3", 512, {"dropout": 0.4}, 5, {"drop_path": 0.4}),
    "leaves-B0": ("EfficientNetB0", 300, LINEAR, 5, {}),
    "paintings-Xception": ("Xception", 200, PAINTINGS, 7, {}),
    "paintings-B4": ("EfficientNetB4", 200, PAINTINGS, 7, {}),
    "paintings-B5": ("EfficientNetB5", 200, PAINTINGS, 7, {}),
    "paintings-InceptionV3": ("InceptionV3", 200, PAINTINGS, 7, {}),
    "paintings-InceptionResNetV2": ("InceptionResNetV2", 200, PAINTINGS, 7, {}),
    "paintings-DenseNet201": ("DenseNet201", 200, PAINTINGS, 7, {}),
    "paintings-DenseNet169": ("DenseNet169", 200, PAINTINGS, 7, {}),
    "steel-binary": ("InceptionResNetV2", 299, STEEL, 1, {"freeze": ["backbone"]}),
    "steel-classes": ("InceptionResNetV2", 299, STEEL, 4, {"freeze": ["backbone"]}),
}
QUICK = {
    "small-tiles": ("EfficientNetB0", 64, TILES, 2, {"drop_path": 0.2}),
    "small-paintings": ("resnet18", 64, PAINTINGS, 7, {}),
    "small-steel": ("MobileNetV2", 64, STEEL, 1, {"freeze": ["backbone"]}),
}
BATCH = 2


def make_recipe(system: str) -> Recipe:
    name, size, head, _, more = (SYSTEMS | QUICK)[system]
    network = {"name": name, "pretrained": False, "head": head}
    if "drop_path" in more:
        network["drop_path"] = more["drop_path"]
    stage = {"freeze": more.get("freeze", [])}
    return read_recipe({"network": network, "input": {"size": size}, "stages": [stage]})


def build(recipe: Recipe, classes: int, *, seed: int = 0) -> Classifier:
    again = recipe.model_copy(update={"seed": seed})
    return build_network(again, resolve_input(again, None), classes, weights=None)


def make_batch(recipe: Recipe, classes: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (BATCH, *recipe.input.size, 3)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return images, (torch.arange(BATCH * classes) % 2).reshape(BATCH, classes).float()


def take_step(network: Classifier, images: Tensor, targets: Tensor, frozen: list[str]) -> float:
    still = freeze_layers(network, frozen)
    network.train()
    for module in still:
        module.eval()
    trained = [value for value in network.parameters() if value.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=1e-4)
    loss = nn.functional.binary_cross_entropy_with_logits(network(images), targets)
    loss = loss + network.penalty()
    loss.backward()
    optimizer.step()
    return loss.item()


def check_system(system: str, folder: Path) -> None:
    _, _, head, classes, more = (SYSTEMS | QUICK)[system]
    recipe = make_recipe(system)
    network = build(recipe, classes)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    images, targets = make_batch(recipe, classes)

    loss = take_step(network, images, targets, more.get("freeze", []))

    assert torch.isfinite(torch.tensor(loss))
    after = network.state_dict()
    moved = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert "head.weight" in moved
    dense = [layer for layer in network.hidden if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in dense] == head.get("widths", [])
    assert network.head.out_features == classes
    trains_backbone = any(key.startswith("backbone.") for key in moved)
    assert trains_backbone == (not more.get("freeze"))

    save_file(after, folder / "network.safetensors")
    fresh = build(recipe, classes, seed=1)
    fresh.load_state_dict(load_file(folder / "network.safetensors"))
    assert fresh.state_dict().keys() == after.keys()
    assert all(torch.equal(value, after[key]) for key, value in fresh.state_dict().items())
    with torch.inference_mode():
        logits = network.eval()(images)
        assert torch.equal(fresh.eval()(images), logits)
    assert logits.shape == (BATCH, classes)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("system", QUICK)
def test_small_networks_train_and_survive_a_file(system, tmp_path):
    check_system(system, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_networks_of_published_systems_train_and_survive_a_file(system, tmp_path):
    check_system(system, tmp_path)
