import itertools
import math
import re
from pathlib import Path

import pytest
import yaml

from loupe.augment import parse_steps
from loupe.choices import (
    Adam,
    AdamW,
    AutoLoss,
    BinaryCrossEntropy,
    BiTempered,
    Constant,
    Cosine,
    CrossEntropy,
    Focal,
    OneCycle,
    Plateau,
    RAdam,
    Ramp,
    Sgd,
    SymmetricCrossEntropy,
    Taylor,
)
from loupe.errors import RecipeError
from loupe.recipe import Recipe, change_recipe, read_recipe, write_recipe
from loupe.settings import (
    Checkpoint,
    Draws,
    EarlyStop,
    Engine,
    FullStage,
    Head,
    HeadStage,
    Mixing,
    Start,
)

PAGE = Path(__file__).resolve().parents[2] / "docs" / "recipe.md"

LOSSES = {
    "auto": (AutoLoss, {}),
    "cross_entropy": (CrossEntropy, {"label_smoothing": 0.1}),
    "bce": (BinaryCrossEntropy, {"class_weights": "balanced"}),
    "focal": (Focal, {"gamma": 1.5, "class_weights": {"a b": 2.0, "yes": 0.5}}),
    "bi_tempered": (BiTempered, {"t1": 0.7, "t2": 1.2}),
    "taylor": (Taylor, {"terms": 6}),
    "symmetric": (SymmetricCrossEntropy, {"alpha": 0.2, "beta": 0.5, "log_zero": -6.0}),
}
OPTIMIZERS = {
    "adamw": (AdamW, {"weight_decay": 0.05, "betas": (0.9, 0.99)}),
    "adam": (Adam, {"epsilon": 1e-3, "lr_decay": 1e-5, "clip_norm_each": 1.0, "clip_norm": None}),
    "radam": (RAdam, {"weight_decay": 1e-4}),
    "sgd": (Sgd, {"momentum": 0.8, "nesterov": True, "clip_value": 0.5}),
}
SCHEDULES = {
    "cosine": (Cosine, {"warmup": 0.0, "floor": 0.3}),
    "constant": (Constant, {"warmup": 0.2}),
    "ramp": (Ramp, {"factor": 8.0, "sustain_epochs": 2}),
    "one_cycle": (OneCycle, {"start_divisor": 10.0}),
    "plateau": (Plateau, {"metric": "recall/crack", "factor": 0.2, "cooldown": 1}),
}
STAGES = {
    "head": (HeadStage, {"l2": 0.01, "views": ("identity",)}),
    "all": (FullStage, {"freeze": ("conv_stem", "blocks.0"), "size": (96, 128)}),
}
PARTS = {"loss": LOSSES, "optimizer": OPTIMIZERS, "schedule": SCHEDULES}
KINDS = [(part, name) for part, kinds in PARTS.items() for name in kinds]

RICH = {
    "seed": 5,
    "network": {"name": "test_vit.r160_in1k", "pretrained": False, "head": {"dropout": 0.25}},
    "input": {"size": [96, 128], "resize": "pad", "channels": 1},
    "augment": ["HorizontalFlip", {"Rotate": {"limit": 20, "p": 0.5}}],
    "mixing": {"cutmix": 0.5, "mixup": 0.5, "skip_last": 1},
    "loss": {"name": "bce", "label_smoothing": 0.1, "class_weights": "balanced"},
    "optimizer": {"name": "radam", "lr": 3e-5, "clip_norm": None},
    "schedule": {"name": "ramp", "factor": 8},
    "stages": [
        {"train": "head", "l2": 0.01},
        {"epochs": 3, "lr": 1e-4, "loss": {"name": "focal"}, "mixing": {"mixup": 1}},
    ],
    "early_stop": {"patience": 2},
    "checkpoint": {"metric": "pr_auc", "average": 3},
    "tta": {"draws": 2, "augment": ["VerticalFlip"]},
    "engine": {"precision": "bf16", "channels_last": True, "threads": [1, 2]},
    "start": {"architecture": "test_vit", "kwargs": {"img_size": 96}, "file": "a", "digest": "b"},
}


@pytest.fixture
def read_back(tmp_path):
    """Write a recipe to a file and read it."""

    def write_and_read(recipe: Recipe) -> Recipe:
        path = tmp_path / "r.yaml"
        path.write_text(write_recipe(recipe), encoding="utf-8")
        return read_recipe(path)

    return write_and_read


def refuse(values, overrides=()) -> str:
    with pytest.raises(RecipeError) as caught:
        read_recipe(values, overrides)
    return str(caught.value)


@pytest.mark.parametrize("values", [{}, RICH])
def test_a_recipe_survives_yaml(values, read_back):
    recipe = read_recipe(values)
    assert read_back(recipe) == recipe
    assert read_back(recipe).digest() == recipe.digest()


@pytest.mark.parametrize(("part", "name"), KINDS)
def test_every_kind_survives_yaml_with_what_was_set(part, name, read_back):
    kind, fields = PARTS[part][name]
    recipe = read_recipe({part: {"name": name, **fields}})
    assert getattr(recipe, part) == kind(**fields)
    assert read_back(recipe) == recipe
    # Built in Python, the key that picks the kind is not written, and yet it is kept.
    assert read_back(Recipe(**{part: kind(**fields)})) == recipe


@pytest.mark.parametrize(("part", "name"), KINDS)
def test_a_stage_has_kinds_of_its_own(part, name, read_back):
    if part == "optimizer":
        assert "unknown key 'stages.0.optimizer'" in refuse({"stages": [{part: {"name": name}}]})
        return
    kind, fields = PARTS[part][name]
    recipe = read_recipe({"stages": [{part: {"name": name, **fields}}]})
    assert getattr(recipe.stages[0], part) == kind(**fields)
    assert read_back(recipe) == recipe


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_survives_yaml(name, read_back):
    kind, fields = STAGES[name]
    recipe = read_recipe({"stages": [{"train": name, **fields}]})
    assert recipe.stages == (kind(**fields),)
    assert read_back(recipe) == recipe == read_back(Recipe(stages=(kind(**fields),)))


def test_a_part_without_its_kind_is_of_the_default_kind():
    recipe = read_recipe({p: {} for p in PARTS} | {"stages": [{}]})
    assert recipe == Recipe()
    assert (recipe.loss, recipe.optimizer, recipe.schedule) == (AutoLoss(), AdamW(), Cosine())
    assert recipe.stages == (FullStage(),)
    assert read_recipe({"loss": {"label_smoothing": 0.1}}).loss == AutoLoss(label_smoothing=0.1)


@pytest.mark.parametrize(("part", "name"), KINDS)
def test_a_kind_can_be_picked_and_set_from_the_command_line(part, name):
    kind, fields = PARTS[part][name]
    field, value = next(iter(fields.items()), ("label_smoothing", 0.2))
    text = yaml.safe_dump(list(value) if isinstance(value, tuple) else value).removesuffix("...\n")
    changed = read_recipe({}, [f"{part}.name={name}", f"{part}.{field}={text}"])
    assert getattr(changed, part) == kind(**{field: value})


def test_the_parts_of_a_recipe_are_read():
    recipe = read_recipe(RICH)
    assert recipe.stages == (
        HeadStage(l2=0.01),
        FullStage(epochs=3, lr=1e-4, loss=Focal(), mixing=Mixing(mixup=1)),
    )
    assert recipe.network.head == Head(dropout=0.25)
    assert recipe.mixing == Mixing(cutmix=0.5, mixup=0.5, skip_last=1)
    assert recipe.loss == BinaryCrossEntropy(label_smoothing=0.1, class_weights="balanced")
    assert recipe.optimizer == RAdam(lr=3e-5, clip_norm=None)
    assert recipe.schedule == Ramp(factor=8)
    assert recipe.early_stop == EarlyStop(metric="loss", patience=2)
    assert recipe.checkpoint == Checkpoint(metric="pr_auc", average=3)
    assert recipe.tta == Draws(draws=2, augment=parse_steps(["VerticalFlip"]))
    assert recipe.start.kwargs == {"img_size": 96}


@pytest.mark.parametrize(
    ("size", "meant"), [(96, (96, 96)), ([32, 48], (32, 48)), ("x2", "x2"), ("x0.5", "x0.5")]
)
def test_a_size_is_one_number_or_two_or_a_factor(size, meant, read_back):
    recipe = read_recipe({"input": {"size": size}})
    assert recipe.input.size == meant
    assert read_back(recipe) == recipe


def test_a_crop_fits_into_a_size_that_is_known():
    assert read_recipe({"input": {"size": [64, 48], "crop": [64, 48]}}).input.crop == (64, 48)
    assert read_recipe({"input": {"size": "x2", "crop": 512}}).input.crop == (512, 512)
    for crop in (65, [64, 49], [65, 48]):
        text = refuse({"input": {"size": [64, 48], "crop": crop}})
        assert "is larger than size 64 x 48" in text


@pytest.mark.parametrize(
    ("values", "place", "meant"),
    [
        ({"batchsize": 8}, "batchsize", "batch_size"),
        ({"network": {"nam": "x"}}, "network.nam", "name"),
        ({"network": {"head": {"width": [8]}}}, "network.head.width", "widths"),
        ({"early_stop": {"patiense": 1}}, "early_stop.patiense", "patience"),
        ({"loss": {"name": "focal", "gama": 1}}, "loss.gama", "gamma"),
        ({"schedule": {"name": "ramp", "sustain": 1}}, "schedule.sustain", "sustain_epochs"),
        ({"stages": [{"train": "all", "epoch": 1}]}, "stages.0.epoch", "epochs"),
        ({"stages": [{}, {"epoch": 1}]}, "stages.1.epoch", "epochs"),
        ({"stages": [{"train": "head", "view": []}]}, "stages.0.view", "views"),
        (
            {"stages": [{"loss": {"name": "taylor", "term": 1}}]},
            "stages.0.loss.term",
            "terms",
        ),
        ({"tta": {"draw": 3, "augment": []}}, "tta.draw", "draws"),
        ({"engine": {"thread": [1]}}, "engine.thread", "threads"),
    ],
)
def test_unknown_keys_are_named_with_what_was_meant(values, place, meant):
    text = refuse(values)
    assert text.startswith(f"recipe: unknown key '{place}'; did you mean '{meant}'")
    assert ";" not in text.split("did you mean")[1]  # one finding, said once


def test_the_keys_known_are_those_of_the_kind_that_was_picked():
    of_auto = "(known here: class_weights, label_smoothing, name)"
    assert refuse({"loss": {"gamma": 2}}).endswith(f"unknown key 'loss.gamma' {of_auto}")
    text = refuse({"optimizer": {"name": "sgd", "betas": [0.9, 0.99]}})
    assert "momentum, name, nesterov, weight_decay)" in text
    assert "epsilon" not in text
    text = refuse({"stages": [{"train": "head", "freeze_norm": True}]})
    assert text.endswith("(known here: epochs, l2, loss, lr, schedule, stop_after, train, views)")


@pytest.mark.parametrize(
    ("values", "place", "found", "meant"),
    [
        ({"loss": {"name": "focall"}}, "loss", "focall", "focal"),
        ({"optimizer": {"name": "rdam"}}, "optimizer", "rdam", "radam"),
        ({"schedule": {"name": "onecycle"}}, "schedule", "onecycle", "one_cycle"),
        ({"stages": [{"train": "heads"}]}, "stages.0", "heads", "head"),
        ({"stages": [{}, {"loss": {"name": "tailor"}}]}, "stages.1.loss", "tailor", "taylor"),
    ],
)
def test_an_unknown_kind_is_answered_with_the_nearest(values, place, found, meant):
    text = refuse(values)
    assert text.startswith(f"recipe: {place}")
    assert f" is '{found}'; did you mean '{meant}'" in text


def test_an_unknown_kind_is_answered_with_all_that_there_are():
    for part, kinds in PARTS.items():
        text = refuse({part: {"name": "zzz"}})
        # `listed` cannot be left to its defaults: it has none.
        known = sorted({*kinds, "listed"} if part == "schedule" else kinds)
        assert text.endswith(f"is 'zzz' (known here: {', '.join(known)})")
    assert refuse({"stages": [{"train": "zzz"}]}).endswith("(known here: all, head)")


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"loss": {"class_weights": {"a": -1}}}, "loss.class_weights.a is -1"),
        ({"loss": {"name": "focal", "class_weights": "some"}}, "loss.class_weights is 'some'"),
        ({"optimizer": {"betas": [0.9, 1.5]}}, "optimizer.betas.1 is 1.5"),
        ({"stages": [{"schedule": {"name": "ramp", "decay": 0}}]}, "stages.0.schedule.decay is 0"),
        ({"stages": [{}, {"train": "head", "views": 0}]}, "stages.1.views is 0"),
        ({"stages": [{"train": "head", "views": ["up"]}]}, "stages.0.views.0 is 'up'"),
        ({"input": {"size": [0, 8]}}, "input.size.0 is 0"),
        ({"input": {"size": "twice"}}, "input.size is 'twice'"),
        ({"tta": ["up"]}, "tta.0 is 'up'"),
        ({"tta": {"draws": 0, "augment": []}}, "tta.draws is 0"),
        ({"network": {"head": {"widths": [8, 0]}}}, "network.head.widths.1 is 0"),
    ],
)
def test_a_wrong_value_is_shown_at_the_place_where_it_was_written(values, place):
    text = refuse(values)
    assert text.startswith(f"recipe: {place}: ")
    assert not re.search(r"form-|constrained|literal\[|\[key\]", text)


def test_all_findings_stand_in_one_message():
    wrong = {
        "batch_size": 0,
        "ema": 1.0,
        "optimizer": {"lr": -1, "weightdecay": 0},
        "schedule": {"name": "step"},
        "augment": [{"Rotat": {}}],
    }
    text = refuse(wrong)
    for part in ("batch_size", "ema", "optimizer.lr", "weight_decay", "one_cycle", "'Rotate'"):
        assert part in text


@pytest.mark.parametrize(
    "values",
    [
        {"seed": -1},
        {"network": {"head": {"dropout": 1.0}}},
        {"network": {"head": {"l2": -1}}},
        {"network": {"head": {"init": "random"}}},
        {"input": {"size": 0}},
        {"input": {"size": [8]}},
        {"input": {"size": [8, 8, 8]}},
        {"input": {"size": 2.5}},
        {"input": {"size": "2x"}},
        {"input": {"channels": 2}},
        {"mixing": {"cutmix": 1.1}},
        {"mixing": {"mixup_alpha": 0}},
        {"sampling": "some"},
        {"loss": {"label_smoothing": -0.1}},
        {"loss": {"class_weights": {"a": 0}}},
        {"loss": {"name": "bi_tempered", "t1": 1.1}},
        {"loss": {"name": "bi_tempered", "t2": 0.9}},
        {"loss": {"name": "taylor", "terms": 0}},
        {"loss": {"name": "symmetric", "log_zero": 0}},
        {"loss": "focal"},
        {"optimizer": {"lr": 0}},
        {"optimizer": {"lr": math.inf}},
        {"optimizer": {"lr": math.nan}},
        {"optimizer": {"clip_norm": 0}},
        {"optimizer": {"betas": [0.9, 1.0]}},
        {"optimizer": {"name": "sgd", "momentum": 1.0}},
        {"schedule": {"warmup": 1}},
        {"schedule": {"name": "ramp", "decay": 1.1}},
        {"schedule": {"name": "plateau", "factor": 1}},
        {"stages": []},
        {"stages": [{"train": "all", "epochs": 0}]},
        {"stages": [{"layer_decay": 0}]},
        {"stages": [{"size": "x2"}]},
        {"stages": [{"train": "head", "l2": "strong"}]},
        {"early_stop": {"patience": 0}},
        {"checkpoint": {"average": 0}},
        {"control_share": 0.5},
        {"control_share": 0},
        {"control_on": "train"},
        {"tta": []},
        {"tta": {"draws": 2}},
        {"votes": "max"},
    ],
)
def test_values_out_of_range_are_refused(values):
    refuse(values)


@pytest.mark.parametrize("place", [(), ("stages",)])
def test_cutmix_and_mixup_share_one_draw(place):
    def build(**mixing):
        return {"stages": [{"mixing": mixing}]} if place else {"mixing": mixing}

    assert read_recipe(build(cutmix=0.5, mixup=0.5))
    assert "cutmix 0.75 and mixup 0.5" in refuse(build(cutmix=0.75, mixup=0.5))


def test_a_head_stage_comes_first():
    head, full = {"train": "head"}, {"train": "all"}
    assert len(read_recipe({"stages": [head, full, full]}).stages) == 3
    for stages in ([full, head], [head, head], [head, full, head]):
        assert "must be the first" in refuse({"stages": stages})


def test_a_head_stage_does_not_go_on_from_a_run():
    assert read_recipe({"init_from": "runs/a", "stages": [{}]}).init_from == "runs/a"
    assert "'init_from'" in refuse({"init_from": "runs/a", "stages": [{"train": "head"}]})


@pytest.mark.parametrize("head", [{"widths": [8]}, {"batch_norm": True}])
def test_only_a_linear_head_is_solved(head):
    network = {"head": head}
    assert "'epochs'" in refuse({"network": network, "stages": [{"train": "head"}]})
    assert read_recipe({"network": network, "stages": [{"train": "head", "epochs": 2}]})
    assert read_recipe({"network": network, "stages": [{}]})
    solved = {"network": {"head": {"dropout": 0.5, "init": "he_normal"}}}
    said = refuse(solved | {"stages": [{"train": "head"}]})
    assert "network.head.dropout has no effect" in said


def test_nothing_is_watched_unless_something_is_controlled():
    assert Recipe().watched_metrics == ()
    assert read_recipe({"control_on": "heldout", "train_metrics": True}).watched_metrics == ()


def test_watched_metrics_are_those_of_stop_checkpoint_and_plateau_each_once():
    plateau = {"name": "plateau", "metric": "brier"}
    recipe = read_recipe(
        {
            "early_stop": {"metric": "pr_auc"},
            "checkpoint": {"metric": "recall/crack"},
            "schedule": {"name": "plateau", "metric": "pr_auc"},
            "stages": [{"train": "head"}, {"schedule": plateau}, {"schedule": {"name": "ramp"}}],
        }
    )
    assert recipe.watched_metrics == ("pr_auc", "recall/crack", "brier")
    assert read_recipe({"early_stop": {}}).watched_metrics == ("loss",)
    assert read_recipe({"checkpoint": {}}).watched_metrics == ("loss",)
    assert read_recipe({"schedule": {"name": "plateau"}}).watched_metrics == ("loss",)
    # A schedule that every stage replaces leads to nothing, but is no reason to fail.
    assert read_recipe({"stages": [{"schedule": plateau}]}).watched_metrics == ("brier",)


def test_overrides_reach_nested_fields_and_places_of_lists():
    recipe = read_recipe(
        RICH,
        [
            "optimizer.lr=1e-4",
            "stages.1.epochs=7",
            "stages.1.loss.gamma=3",
            "input.size=[32,48]",
            "network.head.init=he_normal",
            "stages.0.views=3",
            "tta.draws=5",
            "early_stop=null",
        ],
    )
    assert recipe.optimizer == RAdam(lr=1e-4, clip_norm=None)
    assert recipe.stages[0] == HeadStage(l2=0.01, views=3)
    assert recipe.stages[1].epochs == 7
    assert recipe.stages[1].loss == Focal(gamma=3)
    assert recipe.network.head == Head(init="he_normal", dropout=0.25)
    assert recipe.input.size == (32, 48)
    assert recipe.tta.draws == 5
    assert recipe.early_stop is None
    assert read_recipe({}, ["early_stop.patience=1"]).early_stop == EarlyStop(patience=1)
    assert RICH["stages"][1]["epochs"] == 3  # the caller's values are left alone


def test_an_override_replaces_a_whole_part():
    assert read_recipe(RICH, ["loss={name: taylor}"]).loss == Taylor()
    assert read_recipe({}, ["stages=[{train: head}]"]).stages == (HeadStage(),)
    assert read_recipe(RICH, ["tta=[vflip]"]).tta == ("vflip",)
    assert read_recipe({}, ["loss.class_weights.crack=3"]).loss.class_weights == {"crack": 3}


@pytest.mark.parametrize("text", ["12345678e1234567", "1e5", "-2.e+3", "0123", "null", "1_000"])
def test_text_that_looks_like_a_number_stays_text(text, read_back):
    recipe = Recipe(start=Start(digest=text), loss=Focal(class_weights={text: 2}))
    assert read_back(recipe) == recipe


def test_a_class_may_be_named_by_a_number(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("loss:\n  class_weights:\n    0: 2.5\n    dent: 1.5\n", encoding="utf-8")
    assert read_recipe(path).loss.class_weights == {"0": 2.5, "dent": 1.5}


@pytest.mark.parametrize("size", ["x0", "x0.0", "x", "2x", "x-1", True])
def test_a_factor_of_nothing_is_no_size(size):
    assert refuse({"input": {"size": size}}).startswith(f"recipe: input.size is {size!r}: must be")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"loss": "focal"},
            "loss is 'focal': must be keys and their values, such as 'name: focal'",
        ),
        ({"stages": ["head"]}, "stages.0 is 'head': must be keys and their values, such as 'train"),
        ({"network": None}, "network is None: must be keys and their values"),
        ({"tta": "hflip"}, "tta is 'hflip': must be a list"),
        ({"stages": []}, "stages is []: must have 1 entries or more"),
        ({"tta": {"draws": 2}}, "tta.augment is missing"),
        ({"stages": [{"train": "head", "l2": 0}]}, "stages.0.l2 is 0: must be greater than 0"),
        ({"stages": [{"train": "head", "l2": "big"}]}, "stages.0.l2 is 'big': must be 'auto'"),
        ({"engine": {"threads": 4}}, "engine.threads is 4: must be a list"),
        ({"engine": {"channels_last": "?"}}, "engine.channels_last is '?': must be 'auto'"),
        ({"mixing": {"cutmix": 1, "mixup": 1}}, "mixing: cutmix 1.0 and mixup 1.0 are"),
        ({"augment": [{"Rotat": {}}]}, "augment: 1 finding(s):"),
        ({"loss": {"auto": 1}}, "unknown key 'loss.auto' (known"),
        ({"optimizer": {"name": "AdamW"}}, "optimizer.name is 'AdamW'; did you mean 'adamw'"),
        ({"seed": "x" * 99}, f"seed is {'x' * 55!r}".rstrip("'") + " ...: must be a valid int"),
    ],
)
def test_findings_speak_of_the_recipe_and_not_of_python(values, said):
    text = refuse(values)
    assert text.startswith(f"recipe: {said}")
    assert not re.search(r"instance of|tuple|dictionary|Input should", text)


def test_what_only_the_other_way_of_fitting_a_head_uses_is_refused():
    assert read_recipe({"stages": [{"train": "head", "epochs": 2, "lr": 1e-3}]})
    for idle in ({"lr": 1e-3}, {"schedule": {"name": "ramp"}}, {"epochs": 2, "l2": 0.1}):
        assert "would have no effect" in refuse({"stages": [{"train": "head", **idle}]})


def test_an_override_reaches_into_the_lists_of_the_defaults():
    assert read_recipe({}, ["stages.0.epochs=7"]).stages == (FullStage(epochs=7),)
    assert read_recipe({}, ["stages.0.train=head"]).stages == (HeadStage(),)
    assert read_recipe({}, ["tta.1=vflip"]).tta == ("identity", "vflip")
    assert "'1' is no place in a list of 1" in refuse({}, ["stages.1.epochs=7"])


def test_another_kind_takes_over_what_was_set_and_nothing_else():
    recipe = Recipe(
        optimizer=AdamW(lr=0.01),
        loss=Focal(label_smoothing=0.1),
        stages=(HeadStage(), FullStage(epochs=2, schedule=Plateau(patience=1))),
        augment=parse_steps(["HorizontalFlip"]),
    )
    assert change_recipe(recipe, []) == recipe
    changed = change_recipe(recipe, ["optimizer.name=sgd", "stages.1.epochs=3", "loss.gamma=1"])
    assert changed.optimizer == Sgd(lr=0.01)
    assert changed.loss == Focal(label_smoothing=0.1, gamma=1)
    assert changed.stages == (HeadStage(), FullStage(epochs=3, schedule=Plateau(patience=1)))
    assert changed.augment == recipe.augment
    with pytest.raises(RecipeError, match=r"unknown key 'loss\.gamma'"):
        change_recipe(Recipe(loss=Focal(gamma=1)), ["loss.name=bce"])


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "1.e-4", "0.0001", "+1e-4"])
def test_numbers_with_an_exponent_are_numbers(tmp_path, text):
    path = tmp_path / "r.yaml"
    path.write_text(f"optimizer:\n  lr: {text}\n", encoding="utf-8")
    assert read_recipe(path).optimizer.lr == pytest.approx(1e-4)


@pytest.mark.parametrize(
    "override", ["seed", "=3", "stages.9.epochs=1", "stages.first.epochs=1", "tta=[identity"]
)
def test_an_override_that_cannot_be_read_is_quoted(override):
    assert override in refuse(RICH, [override])


CHANGES = {
    "seed": 1,
    "init_from": "runs/a",
    "network": {"name": "test_vit"},
    "input": {"filter": "area"},
    "augment": ["HorizontalFlip"],
    "mixing": {"cutmix": 0.5},
    "sampling": "over",
    "loss": {"label_smoothing": 0.1},
    "decoder": {"architecture": "FPN"},
    "mask_loss": {"dice": 0.5},
    "masks": {"rows": "nonempty"},
    "optimizer": {"clip_norm": None},
    "schedule": {"floor": 0.1},
    "stages": [{"epochs": 6}],
    "batch_size": 8,
    "ema": 0.5,
    "early_stop": {},
    "checkpoint": {},
    "control_share": 0.2,
    "control_on": "heldout",
    "train_metrics": True,
    "tta": ["identity"],
    "votes": "sum",
    "engine": {"precision": "bf16", "threads": [1]},
    "start": {"file": "a.safetensors"},
}


def test_the_digest_follows_every_field_but_where_and_how_it_runs():
    assert CHANGES.keys() == Recipe.model_fields.keys()
    # Settings of masks need a network that draws them.
    drawn = {name: {"decoder": {}} for name in ("mask_loss", "masks")}
    digests = {
        name: read_recipe({name: value} | drawn.get(name, {})).digest()
        for name, value in CHANGES.items()
    }
    plain = Recipe().digest()
    assert {name for name, digest in digests.items() if digest == plain} == {
        "engine",
        "init_from",
        "start",
    }
    assert len(set(digests.values())) == len(CHANGES) - 3 + 1
    assert re.fullmatch("[0-9a-f]{16}", plain)


@pytest.mark.parametrize(("part", "name"), KINDS)
def test_the_digest_follows_the_kind_and_each_of_its_fields(part, name):
    kind, fields = PARTS[part][name]
    recipes = [
        Recipe(**{part: kind()}),
        *(Recipe(**{part: kind(**{k: v})}) for k, v in fields.items()),
    ]
    assert len({recipe.digest() for recipe in recipes}) == 1 + len(fields)
    others = [Recipe(**{part: other()}).digest() for other, _ in PARTS[part].values()]
    assert len(set(others)) == len(others)


def test_the_digest_does_not_hang_on_how_a_recipe_was_written():
    spelled = read_recipe(yaml.safe_load(write_recipe(Recipe())))
    assert spelled.digest() == Recipe().digest()
    assert read_recipe({"input": {"size": 96}}).digest() == (
        read_recipe({"input": {"size": [96, 96]}}).digest()
    )
    pairs = itertools.permutations(RICH.items())
    assert len({read_recipe(dict(next(pairs))).digest() for _ in range(3)}) == 1
    assert Recipe(engine=Engine(threads=(1,)), start=Start(file="x")).digest() == Recipe().digest()


def test_a_recipe_cannot_be_changed():
    recipe = Recipe()
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 3
    with pytest.raises(ValueError, match="frozen"):
        recipe.optimizer.lr = 3


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


def test_every_example_of_the_page_is_a_recipe(tmp_path):
    blocks = re.findall(r"(?ms)^```yaml\n(.*?)^```", PAGE.read_text(encoding="utf-8"))
    path = tmp_path / "r.yaml"
    shown = set()
    for block in blocks:
        path.write_text(block, encoding="utf-8")
        shown |= read_recipe(path).model_fields_set
    assert shown >= {*PARTS, "network", "input", "augment", "mixing", "stages", "tta"}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"stages": [{"train": "head"}], "checkpoint": {}}, "checkpoint has no effect"),
        ({"stages": [{"train": "head"}], "ema": 0.9}, "ema has no effect"),
        (
            {"stages": [{"train": "head", "epochs": 2}], "mixing": {"cutmix": 1.0}},
            "mixing has no effect",
        ),
        ({"network": {"head": {"l2": 0.1}}}, "head.l2 is of the layers"),
        ({"init_from": "r", "input": {"normalisation": "data"}}, "leave out 'data'"),
        ({"batch_size": 1, "network": {"head": {"batch_norm": True}}}, "batch_size of 2 or more"),
        ({"input": {"crop": 64}, "stages": [{"size": 48}]}, "smaller than input.crop"),
        ({"mixing": {"mixup": 1.0, "skip_last": 5}}, "nothing would be mixed"),
    ],
)
def test_settings_without_effect_are_refused(values, said):
    with pytest.raises(RecipeError, match=re.escape(said)):
        read_recipe(values)


def test_a_schedule_that_no_stage_uses_watches_nothing():
    plateau = {"name": "plateau", "metric": "f1_macro"}
    own = [{"epochs": 2, "schedule": {"name": "constant"}}]
    assert read_recipe({"schedule": plateau, "stages": own}).watched_metrics == ()
    assert read_recipe({"schedule": plateau}).watched_metrics == ("f1_macro",)


def test_where_it_starts_is_not_what_it_is():
    assert read_recipe({"init_from": "a"}).digest() == read_recipe({"init_from": "b"}).digest()
