from dataclasses import replace

import numpy as np
import pytest
import yaml

from loupe.choices import AdamW, Cosine
from loupe.defaults import choose_recipe
from loupe.recipe import read_recipe, write_recipe
from loupe.settings import FullStage, HeadStage
from loupe.weights import find_weights, list_weights


def uneven(table, common, rare):
    rows = np.repeat([0, 1], [common, rare])
    n = len(rows)
    return replace(
        table,
        ids=tuple(str(i) for i in range(n)),
        images=(table.images[0],) * n,
        targets=np.eye(2, dtype=np.float32)[rows],
        groups=None,
        folds=None,
    )


def test_without_weights_a_small_network_starts_from_nothing(exclusive):
    choice = choose_recipe(exclusive, None, device="cpu")
    assert not choice.recipe.network.pretrained
    assert all(isinstance(stage, FullStage) for stage in choice.recipe.stages)
    assert isinstance(choice.recipe.optimizer, AdamW)
    assert choice.recipe.schedule == Cosine(warmup=0.25)
    assert "no weights folder" in choice.reasons[0]
    assert "--weights" in choice.reasons[0]


def test_with_weights_the_largest_that_suits_is_probed_then_tuned(exclusive, weights):
    choice = choose_recipe(exclusive, weights, device="cpu")
    assert choice.recipe.network.name == "test_resnet"
    assert choice.recipe.stages == (HeadStage(), FullStage(epochs=3, freeze_norm=True))
    assert choice.recipe.optimizer == AdamW(lr=1e-4)
    assert choice.recipe.schedule == Cosine()
    assert "test_resnet" in choice.reasons[0]
    found = find_weights(choice.recipe.network.name, weights)
    assert found.path.name in choice.reasons[0]


def test_on_a_cpu_large_networks_are_left_out(exclusive, weights, monkeypatch):
    sizes = {file.architecture: file.parameters for file in list_weights(weights)}
    monkeypatch.setattr("loupe.defaults.CPU_PARAMETERS", sizes["test_vit"])
    assert sizes["test_vit"] < sizes["test_resnet"]
    assert choose_recipe(exclusive, weights, device="cpu").recipe.network.name == "test_vit"
    assert choose_recipe(exclusive, weights, device="cuda").recipe.network.name == "test_resnet"
    monkeypatch.setattr("loupe.defaults.CPU_PARAMETERS", 1)
    choice = choose_recipe(exclusive, weights, device="cpu")
    assert choice.recipe.network.name == "test_vit"
    assert choice.recipe.network.pretrained
    assert choice.recipe.stages == (HeadStage(),)
    assert "smallest local network" in choice.reasons[0]
    assert "too large to tune on a CPU" in choice.reasons[1]
    assert "pass --weights" not in " ".join(choice.reasons)


def test_weights_of_unknown_networks_are_left_out_and_named(exclusive, weights):
    choice = choose_recipe(exclusive, weights, device="cpu", knows=lambda a: a == "test_vit")
    assert choice.recipe.network.name == "test_vit"
    assert "no such network: test_resnet.safetensors;" in choice.reasons[-1]
    nothing = choose_recipe(exclusive, weights, device="cpu", knows=lambda _: False)
    assert not nothing.recipe.network.pretrained
    assert "holds none of use" in nothing.reasons[0]
    assert "test_resnet.safetensors, test_vit.safetensors;" in nothing.reasons[-1]
    assert choose_recipe(exclusive, weights, device="cpu", knows=lambda _: True) == choose_recipe(
        exclusive, weights, device="cpu"
    )


def test_of_two_files_of_a_network_the_one_named_is_used(exclusive, tmp_path, save_weights):
    save_weights(tmp_path, "test_resnet", file="test_resnet.a")
    save_weights(tmp_path, "test_resnet", file="test_resnet.b")
    choice = choose_recipe(exclusive, tmp_path, device="cpu")
    found = find_weights(choice.recipe.network.name, tmp_path)
    assert found.path.name in choice.reasons[0]


@pytest.mark.parametrize(("rare", "weighted"), [(21, "none"), (19, "balanced")])
def test_classes_more_uneven_than_five_to_one_are_balanced(exclusive, rare, weighted):
    choice = choose_recipe(uneven(exclusive, 100, rare), None, device="cpu")
    assert choice.recipe.loss.class_weights == weighted
    assert any("uneven" in reason for reason in choice.reasons) == (weighted == "balanced")


def test_the_choice_is_a_recipe_that_can_be_written(exclusive, binary, weights):
    for table in (exclusive, binary):
        for folder in (None, weights):
            first = choose_recipe(table, folder, device="cpu")
            assert choose_recipe(table, folder, device="cpu") == first
            text = write_recipe(first.recipe)
            assert read_recipe(yaml.safe_load(text)) == first.recipe


@pytest.mark.parametrize(("rare", "weighted"), [(50, "none"), (5, "balanced")])
def test_a_class_without_rows_does_not_switch_weights_on(exclusive, rare, weighted):
    table = uneven(exclusive, 100, rare)
    empty = np.zeros((len(table), 1), np.float32)
    wider = replace(
        table,
        classes=(*table.classes, "unused"),
        targets=np.concatenate([table.targets, empty], axis=1),
    )
    choice = choose_recipe(wider, None, device="cpu")
    assert choice.recipe.loss.class_weights == weighted
