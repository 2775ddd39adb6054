from pathlib import Path

import pytest

from loupe.errors import RecipeError
from loupe.recipe import EarlyStop, Engine, FullStage, HeadStage, Recipe, read_recipe, write_recipe

RICH = {
    "seed": 5,
    "network": {"name": "test_vit.r160_in1k", "pretrained": False, "dropout": 0.25},
    "input": {"size": [96, 128], "resize": "pad", "channels": 1},
    "augment": ["HorizontalFlip", {"Rotate": {"limit": 20, "p": 0.5}}],
    "loss": {"name": "bce", "label_smoothing": 0.1, "class_weights": "balanced"},
    "optimizer": {"lr": 3e-5, "clip_norm": None},
    "stages": [{"train": "head", "l2": 0.01}, {"train": "all", "epochs": 3, "lr": 1e-4}],
    "early_stop": {"patience": 2},
    "engine": {"precision": "bf16", "channels_last": True, "threads": [1, 2]},
}


@pytest.mark.parametrize("values", [{}, RICH])
def test_a_recipe_survives_yaml(tmp_path, values):
    recipe = read_recipe(values)
    path = tmp_path / "r.yaml"
    path.write_text(write_recipe(recipe), encoding="utf-8")
    assert read_recipe(path) == recipe
    assert read_recipe(path).digest() == recipe.digest()


def test_the_parts_of_a_recipe_are_read():
    recipe = read_recipe(RICH)
    assert recipe.stages == (HeadStage(l2=0.01), FullStage(epochs=3, lr=1e-4))
    assert recipe.early_stop == EarlyStop(patience=2, share=0.1)
    assert recipe.input.size == (96, 128)
    assert read_recipe({"input": {"size": 96}}).input.size == (96, 96)


@pytest.mark.parametrize(
    ("values", "place", "meant"),
    [
        ({"batchsize": 8}, "'batchsize'", "batch_size"),
        ({"network": {"nam": "x"}}, "'network.nam'", "name"),
        ({"early_stop": {"patiense": 1}}, "'early_stop.patiense'", "patience"),
        ({"stages": [{"train": "all", "epoch": 1}]}, "epoch'", "epochs"),
        ({"stages": [{"train": "head", "view": []}]}, "view'", "views"),
        ({"engine": {"thread": [1]}}, "'engine.thread'", "threads"),
    ],
)
def test_unknown_keys_are_named_with_what_was_meant(values, place, meant):
    with pytest.raises(RecipeError) as caught:
        read_recipe(values)
    assert place in str(caught.value)
    assert f"did you mean '{meant}'" in str(caught.value)


def test_all_findings_stand_in_one_message():
    wrong = {
        "batch_size": 0,
        "ema": 1.0,
        "optimizer": {"lr": -1, "weightdecay": 0},
        "augment": [{"Rotat": {}}],
    }
    with pytest.raises(RecipeError) as caught:
        read_recipe(wrong)
    for part in ("batch_size", "ema", "optimizer.lr", "weight_decay", "Rotate"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"seed": -1},
        {"network": {"dropout": 1.0}},
        {"input": {"size": 0}},
        {"input": {"channels": 2}},
        {"loss": {"label_smoothing": -0.1}},
        {"optimizer": {"lr": 0}},
        {"optimizer": {"lr": float("inf")}},
        {"optimizer": {"lr": float("nan")}},
        {"optimizer": {"clip_norm": 0}},
        {"schedule": {"warmup": 1}},
        {"stages": []},
        {"stages": [{"train": "some"}]},
        {"stages": [{"train": "all", "epochs": 0}]},
        {"stages": [{"train": "head", "l2": "strong"}]},
        {"early_stop": {"share": 0.5}},
        {"tta": []},
        {"tta": ["upside"]},
    ],
)
def test_values_out_of_range_are_refused(values):
    with pytest.raises(RecipeError):
        read_recipe(values)


def test_overrides_reach_nested_fields_and_places_of_lists():
    recipe = read_recipe(
        RICH,
        ["optimizer.lr=1e-4", "stages.1.epochs=7", "input.size=[32,48]", "early_stop=null"],
    )
    assert recipe.optimizer.lr == pytest.approx(1e-4)
    assert recipe.stages[1].epochs == 7
    assert recipe.stages[0] == HeadStage(l2=0.01)
    assert recipe.input.size == (32, 48)
    assert recipe.early_stop is None
    assert read_recipe({}, ["early_stop.patience=1"]).early_stop == EarlyStop(patience=1)
    assert RICH["stages"][1]["epochs"] == 3  # the caller's values are left alone


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "1.e-4", "0.0001", "+1e-4"])
def test_numbers_with_an_exponent_are_numbers(tmp_path, text):
    path = tmp_path / "r.yaml"
    path.write_text(f"optimizer:\n  lr: {text}\n", encoding="utf-8")
    assert read_recipe(path).optimizer.lr == pytest.approx(1e-4)


@pytest.mark.parametrize(
    "override", ["seed", "=3", "stages.9.epochs=1", "stages.first.epochs=1", "tta=[identity"]
)
def test_an_override_that_cannot_be_read_is_quoted(override):
    with pytest.raises(RecipeError) as caught:
        read_recipe(RICH, [override])
    assert override in str(caught.value)


def test_the_digest_follows_every_field_but_the_engine():
    recipe = Recipe()
    assert recipe.digest() == Recipe(engine=Engine(precision="bf16", threads=(1,))).digest()
    others = [Recipe(seed=1), Recipe(ema=0.5), read_recipe({"augment": ["HorizontalFlip"]})]
    others.append(read_recipe({"augment": [{"HorizontalFlip": {"p": 0.4}}]}))
    assert len({r.digest() for r in [recipe, *others]}) == 5
    assert len(recipe.digest()) == 16


@pytest.mark.parametrize(
    ("text", "said"), [("- a\n", "found list"), ("", "found NoneType"), ("a: [", "YAML")]
)
def test_a_file_without_keys_is_refused(tmp_path: Path, text, said):
    path = tmp_path / "r.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=said) as caught:
        read_recipe(path)
    assert str(path) in str(caught.value)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(RecipeError, match="no such recipe"):
        read_recipe(tmp_path / "none.yaml")
