"""The verb `cascade`: what is closed never reaches a network, the rest is as `segment` draws it."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from loupe import cascading, maskdrawing
from loupe.build import build_network
from loupe.cascades import Cascade, read_cascade
from loupe.cascading import Cascaded, cascade
from loupe.countfiles import read_counts, write_counts
from loupe.counting import count_fold
from loupe.decisions import decide
from loupe.decoding import read_image
from loupe.dices import Pairs
from loupe.ensembles import predict
from loupe.errors import AlignmentError, InputError, MaskError
from loupe.files import write_json
from loupe.gatefits import FittedGate, apply_gate
from loupe.gates import ExpectedDice, keep_likeliest
from loupe.images import InputSpec, prepare_image
from loupe.maskcuts import CutMasks
from loupe.maskdrawing import DrawnMasks, draw_masks, open_drawer
from loupe.maskrules import MaskRule, read_mask_rule
from loupe.masks import encode_rle
from loupe.maskscoring import finish_masks
from loupe.masksheets import read_mask_sheet
from loupe.networks import Classifier
from loupe.predictions import Predictions, write_predictions
from loupe.recipe import read_recipe
from loupe.rules import apply_rule, read_rule
from loupe.runs import Run, create_run, open_run
from loupe.segmenters import Segmenter, build_segmenter, settle_encoder
from loupe.segmenting import segment
from loupe.stagetimes import may_pass
from loupe.table import Quarantined, Table
from loupe.variants import FittedStage, fit_stage

CLASSES = ("crack", "stain")
SPEC = InputSpec(height=32, width=32)
RECIPE = {
    "network": {"name": "test_resnet", "pretrained": False},
    "input": {"size": 32},
    "tta": ["identity"],
    "engine": {"precision": "fp32", "channels_last": False},
}
DECODER = {
    "decoder": {"options": {"decoder_channels": [8, 8, 4, 4, 4]}},
    "masks": {"thresholds": [0.4, 0.45, 0.5, 0.55, 0.6], "cut": "fixed"},
}
TRAINED, NEW = 16, 7


def draw_images(folder: Path, count: int, seed: int) -> tuple[Path, ...]:
    rng = np.random.default_rng(seed)
    folder.mkdir()
    for row in range(count):
        small = rng.integers(0, 256, (3, 4, 3), np.uint8)
        size = (40 + 3 * (row % 3), 30 + 5 * (row % 2))
        Image.fromarray(small).resize(size).save(folder / f"{seed}-{row}.png")
    return tuple(folder / f"{seed}-{row}.png" for row in range(count))


def make_table(paths, classes=CLASSES, *, masks=None, targets=None, folds=None, **more) -> Table:
    known = np.zeros((len(paths), len(classes)), np.float32) if targets is None else targets
    return Table(
        ids=tuple(path.name for path in paths),
        images=tuple(paths),
        classes=tuple(classes),
        targets=np.asarray(known, np.float32),
        exclusive=False,
        folds=folds,
        masks=masks,
        **more,
    )


def spread_logits(network: Classifier, images) -> None:
    """Make what an untrained network says of some images as different as can be."""
    frames = torch.from_numpy(np.stack([prepare_image(read_image(path), SPEC) for path in images]))
    with torch.no_grad():
        logits = network.eval()(frames)
        mean, deviation = logits.mean(dim=0), logits.std(dim=0)
        network.head.weight.div_(deviation[:, None])
        network.head.bias.sub_(mean).div_(deviation)


def save_network(run: Run, name: str, recipe, build, *, spread: float, seed: int, shown=()) -> None:
    """Give every fold of a member a network of random weights."""
    member = run.member(name)
    member.write_recipe(recipe)
    member.write_input(SPEC)
    for fold in run.folds:
        network = build()
        torch.manual_seed(seed + fold)
        with torch.no_grad():
            for value in network.parameters():
                value.add_(torch.randn_like(value) * spread)
        if len(shown):
            spread_logits(network, shown)
        member.fold(fold).folder.mkdir(parents=True)
        save_file(network.state_dict(), member.fold(fold).weights)
        write_json(member.fold(fold).done_mark, {})


def make_segmenters(folder: Path, table: Table) -> Run:
    """A run with a network for each class of the table: two folds, counted and cut."""
    each = {name: read_recipe({
        **RECIPE, **DECODER, "masks": {**DECODER["masks"], "classes": [name]},
    }) for name in table.classes}  # fmt: skip
    run = create_run(folder, table, {f"unet-{name}": recipe for name, recipe in each.items()})
    for number, (name, recipe) in enumerate(each.items()):
        settled = settle_encoder(recipe, None)
        save_network(
            run, f"unet-{name}", settled,
            lambda s=settled: build_segmenter(s.decoder, s, SPEC, 1, weights=None),
            spread=0.1, seed=50 * number + len(table.classes),
        )  # fmt: skip
    for fold in run.folds:
        count_fold(run, fold, threads=1, device="cpu", cache_bytes=0)
    finish_masks(run, table, 1.0)
    return open_run(folder)


def make_classifiers(folder: Path, table: Table, seed: int, shown) -> Run:
    """A run of two folds; what it says of held-out rows is made up, near the truth."""
    recipe = read_recipe(RECIPE)
    run = create_run(folder, table, {"net": recipe})
    save_network(
        run, "net", recipe,
        lambda: build_network(recipe, SPEC, len(table.classes), weights=None),
        spread=0.1, seed=seed, shown=shown,
    )  # fmt: skip
    noise = np.random.default_rng(seed).normal(0, 0.25, table.targets.shape)
    sheet = Predictions(
        ids=table.ids,
        classes=table.classes,
        probs=np.clip(0.3 + 0.4 * table.targets + noise, 0, 1).astype(np.float32),
        exclusive=False,
        held_out=np.ones(len(table), np.bool_),
        folds=table.folds,
    )
    write_predictions(run.oof_file, {"net": sheet})
    run.scores_file.write_text("{}", encoding="utf-8")
    return run


@pytest.fixture(scope="module", autouse=True)
def _load_once():
    """Keep networks once they are loaded: to build them is most of the time."""
    held: dict[tuple[object, ...], object] = {}

    def keep(load):
        def loaded(run, *given, **more):
            key = (load, run.folder, str(more))
            if key not in held:
                held[key] = load(run, *given, **more)
            return held[key]

        return loaded

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maskdrawing, "load_mappers", keep(maskdrawing.load_mappers))
        patch.setattr(cascading, "load_ensemble", keep(cascading.load_ensemble))
        yield


@pytest.fixture(scope="module")
def night(tmp_path_factory) -> Path:
    """A folder with three runs and with new images."""
    folder = tmp_path_factory.mktemp("night")
    torch.set_num_threads(1)
    trained = draw_images(folder / "trained", TRAINED, 1)
    new = draw_images(folder / "new", NEW, 2)
    rng = np.random.default_rng(5)
    texts, folds = [], (np.arange(TRAINED) % 2).astype(np.int16)
    for path in trained:
        height, width = read_image(path).shape[:2]
        mask = np.zeros((2, height, width), bool)
        mask[0, : height // 2] = rng.random() < 0.5
        mask[1, :, : width // 2] = rng.random() < 0.5
        texts.append(tuple(encode_rle(each) for each in mask))
    there = np.array([[bool(text) for text in row] for row in texts])
    full = make_table(trained, masks=tuple(texts), targets=there, folds=folds)
    make_segmenters(folder / "draw", full)
    turned = make_table(trained, CLASSES[::-1], targets=there[:, ::-1], folds=folds)
    make_classifiers(folder / "which", turned, 11, new)
    any_there = there.any(axis=1, keepdims=True)
    make_classifiers(folder / "any", make_table(trained, ["defect"], targets=any_there,
                                                folds=folds), 23, new)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def new(night) -> Table:
    return make_table(sorted((night / "new").glob("*.png")))


@pytest.fixture(scope="module")
def plain(night, new):
    """What the run of masks draws of the new images by itself."""
    return segment(night / "draw", new, device="cpu")


@pytest.fixture(scope="module")
def probs(night, new) -> dict[str, np.ndarray]:
    """What the classifiers say of all new images, in the order of the classes of the masks."""
    which = predict(night / "which", new, device="cpu")
    assert which.classes == CLASSES[::-1]
    return {
        "binary": predict(night / "any", new, device="cpu").probs,
        "labels": which.probs[:, ::-1],
    }


def between(values, below: int) -> float:
    """Return a threshold that so many values are below, midway to the next one."""
    ordered = np.sort(np.ravel(values).astype(np.float64))
    assert ordered[below] - ordered[below - 1] > 1e-4
    return float((ordered[below - 1] + ordered[below]) / 2)


def spell(night: Path, *, binary=None, labels=None, masks=("draw",), **more) -> Cascade:
    """Return a cascade; a stage is {} or its rule or threshold."""
    given = {"binary": ("any", binary), "labels": ("which", labels)}
    stages = {
        name: {"run": night / run, **stage}
        for name, (run, stage) in given.items()
        if stage is not None
    }
    return read_cascade({**stages, "masks": {"run": [night / run for run in masks]}, **more})


class Calls:
    """How many images entered the networks of each kind."""

    def __init__(self, monkeypatch) -> None:
        self.drawn: Counter[int] = Counter()
        self.classified = 0
        whole = Classifier.features

        def features(network, images):
            self.classified += len(images)
            return whole(network, images)

        monkeypatch.setattr(Classifier, "features", features)
        self.handle = torch.nn.modules.module.register_module_forward_pre_hook(self.hear)

    def hear(self, module, given) -> None:
        if isinstance(module, Segmenter):
            self.drawn[id(module)] += len(given[0])


@pytest.fixture
def calls(monkeypatch):
    made = Calls(monkeypatch)
    yield made
    made.handle.remove()


def times(found: Cascaded) -> dict[str, tuple[int, int, int, int]]:
    return {
        each.name: (each.images_in, each.images_out, each.pairs_in, each.pairs_out)
        for each in found.stages
    }


def blank(texts, keep) -> tuple[tuple[str, ...], ...]:
    return tuple(
        tuple(text if there else "" for text, there in zip(row, kept, strict=True))
        for row, kept in zip(texts, keep, strict=True)
    )


def test_new_images_have_masks_at_all(plain, probs):
    assert plain.masks.present.sum() > 0
    assert len({tuple(row) for row in plain.masks.texts}) > 1
    assert np.ptp(probs["binary"]) > 0.01
    assert np.ptp(probs["labels"]) > 0.01


def test_all_open_is_what_segment_draws(night, new, plain, calls):
    found = cascade(spell(night, binary={"threshold": 0}, labels={"threshold": 0}), new,
                    device="cpu")  # fmt: skip
    assert found.masks.texts == plain.masks.texts
    assert found.masks.ids == plain.masks.ids
    assert (found.masks.sizes == plain.masks.sizes).all()
    assert found.masks.form == plain.masks.form
    assert found.errors == (None,) * NEW
    assert not found.known.any()
    assert sorted(calls.drawn.values()) == [NEW] * 4
    assert calls.classified == 2 * 2 * NEW
    masks = int(plain.masks.present.sum())
    assert times(found) == {
        "decode": (NEW, NEW, 2 * NEW, 2 * NEW),
        "binary": (NEW, NEW, 2 * NEW, 2 * NEW),
        "labels": (NEW, NEW, 2 * NEW, 2 * NEW),
        "masks": (NEW, int(plain.masks.present.any(axis=1).sum()), 2 * NEW, masks),
    }
    assert all(each.seconds > 0 for each in found.stages)
    assert found.seconds == pytest.approx(sum(each.seconds for each in found.stages))
    assert found.images_per_s == pytest.approx(NEW / found.seconds)


def test_all_closed_costs_nothing_later(night, new, calls):
    found = cascade(spell(night, binary={"threshold": 1.01}, labels={"threshold": 0}), new,
                    device="cpu")  # fmt: skip
    assert found.masks.texts == (("", ""),) * NEW
    assert not calls.drawn
    assert calls.classified == 2 * NEW
    assert times(found) == {
        "decode": (NEW, NEW, 2 * NEW, 2 * NEW),
        "binary": (NEW, 0, 2 * NEW, 0),
        "labels": (0, 0, 0, 0),
        "masks": (0, 0, 0, 0),
    }


@pytest.mark.parametrize("stages", [(), ("binary", "masks"), ("labels", "masks"), ("masks",)])
def test_closed_images_and_classes_never_reach_a_network(night, new, plain, probs, calls, stages):
    levels = {
        "binary": between(probs["binary"], 4),
        "labels": {name: between(probs["labels"][:, at], 3) for at, name in enumerate(CLASSES)},
    }
    made = {name: {"threshold": level} for name, level in levels.items()}
    passed = probs["binary"] >= levels["binary"]
    there = probs["labels"] >= np.array([levels["labels"][name] for name in CLASSES])
    assert 0 < passed.sum() < NEW
    assert 0 < (there & passed).sum() < there.sum() < 2 * NEW
    found = cascade(spell(night, **made), new, stages=stages, device="cpu")
    used = stages or ("binary", "labels", "masks")
    still = np.ones((NEW, 2), bool)
    seen = {}
    for name, opens in (("binary", passed), ("labels", there)):
        if name in used:
            seen[name] = int(still.any(axis=1).sum())
            still &= opens
    assert found.masks.texts == blank(plain.masks.texts, still)
    # A network a class and fold: each sees just the images in which its class is open.
    assert sorted(calls.drawn.values()) == sorted(2 * still.sum(axis=0).tolist())
    assert calls.classified == 2 * sum(seen.values())
    assert [each.name for each in found.stages] == ["decode", *used]
    assert times(found)["masks"][:3:2] == (still.any(axis=1).sum(), still.sum())


def test_rules_of_the_runs_decide_if_nothing_else_is_named(night, new, plain, tmp_path):
    for name in ("any", "which"):
        decide(night / name, goals="recall:0.5", calibration="platt", resamples=0)
    try:
        rule = read_rule(night / "which" / "rule.json")
        other = (night / "which" / "rule.json").rename(tmp_path / "which.json")
        with pytest.raises(InputError, match="there is no rule"):
            cascade(spell(night, labels={}), new, device="cpu")
        found = cascade(spell(night, binary={}, labels={"rule": other}), new, device="cpu")
        sheet = predict(night / "which", new, device="cpu")
        there = apply_rule(rule, sheet.probs, classes=sheet.classes).decisions[:, ::-1]
        binary = read_rule(night / "any" / "rule.json")
        sheet = predict(night / "any", new, device="cpu")
        there &= apply_rule(binary, sheet.probs, classes=sheet.classes).decisions
        assert found.masks.texts == blank(plain.masks.texts, there)
    finally:
        (night / "any" / "rule.json").unlink()


def test_at_least_one_opens_the_likeliest_of_images_that_passed(night, new, plain, probs):
    level = between(probs["binary"], 4)
    found = cascade(
        spell(night, binary={"threshold": level}, labels={"threshold": 1.01}, at_least_one=True),
        new, device="cpu",
    )  # fmt: skip
    keep = keep_likeliest(np.zeros((NEW, 2), bool), probs["labels"])
    assert keep.sum() == NEW
    keep = keep & (probs["binary"] >= level)
    assert found.masks.texts == blank(plain.masks.texts, keep)
    assert times(found)["masks"][2] == keep.sum()


def draw_all(night: Path, new: Table, rule: MaskRule | None = None) -> DrawnMasks:
    drawer = open_drawer(open_run(night / "draw"), device="cpu")
    drawer = drawer if rule is None else replace(drawer, rule=rule)
    pictures = [read_image(path) for path in new.images]
    frames = np.stack([prepare_image(each, SPEC) for each in pictures])
    shown = np.array([each.shape[:2] for each in pictures], np.int64)
    return draw_masks(drawer, [frames] * len(drawer.mappers), shown, np.ones((NEW, 2), bool))


SURE = ExpectedDice(knots=(0.5, 0.6), values=(0.2, 0.9))
GATES = (
    FittedGate(kind="per_image", lines=((1.0, 0.0),) * 2, expected=(SURE,) * 2),
    FittedGate(kind="product", levels=(0.31, 0.305)),
    FittedGate(kind="top", levels=(0.53, 0.64)),
    FittedGate(kind="soft_area", levels=(25.0, 200.0), factors=(2.0, 2.0)),
)
"""Each closes some pairs before and some after their masks are there, and keeps some."""


def apply_all(gate: FittedGate, probs, drawn: DrawnMasks, *, one: bool):
    """Return what a gate keeps of masks that were all drawn, and what it may keep of any."""
    nothing = np.zeros(drawn.areas.shape, np.int64)
    pairs = Pairs(truth=nothing, predicted=drawn.areas, intersection=nothing)
    masks = CutMasks(pairs, drawn.confidences, drawn.tops)
    keep = apply_gate(gate, probs, masks).keep & (drawn.areas > 0)
    able = may_pass(gate, probs)
    if one:
        keep = keep_likeliest(keep, probs)
        able = able | keep_likeliest(np.zeros(probs.shape, bool), probs)
    return keep, able


@pytest.mark.parametrize("one", [False, True])
@pytest.mark.parametrize("gate", GATES, ids=[gate.kind for gate in GATES])
def test_a_gate_closes_early_what_it_can_and_the_rest_when_masks_are_there(
    night, new, probs, calls, gate, one
):
    drawn = draw_all(night, new)
    keep, able = apply_all(gate, probs["labels"], drawn, one=one)
    filled = drawn.areas > 0
    assert keep.any()
    assert (able & filled & ~keep).any()
    assert gate.kind == "soft_area" or not able.all()
    calls.drawn.clear()
    rule = read_mask_rule(night / "draw" / "cuts.json")
    given = FittedStage(gate, (rule,), ("how",), ("OPTIMISTIC: it was chosen",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cascading, "fit_stage", lambda *_: given)
        chosen = spell(night, labels={}, gate=gate.kind, at_least_one=one)
        found = cascade(chosen, new, device="cpu")
    assert found.masks.texts == blank(drawn.texts, keep)
    # Two folds of a network for each class.
    assert sorted(calls.drawn.values()) == sorted([*able.sum(axis=0)] * 2)
    assert times(found)["labels"] == (NEW, able.any(axis=1).sum(), 2 * NEW, able.sum())
    assert times(found)["masks"][2:] == (able.sum(), keep.sum())
    assert "how" in found.notes
    assert found.stamps == ("OPTIMISTIC: it was chosen",)


@pytest.mark.parametrize("kind", ["per_image", "product"])
def test_a_gate_is_fitted_on_the_held_out_rows_of_the_runs(night, new, probs, kind):
    chosen = spell(night, labels={}, gate=kind)
    found = cascade(chosen, new, device="cpu")
    fitted = fit_stage(chosen)
    drawn = draw_all(night, new, fitted.rules[0])
    keep, able = apply_all(fitted.gate, probs["labels"], drawn, one=False)
    assert fitted.rules[0].kind == "pixel"  # though the run asks for cuts that are fixed
    assert found.masks.texts == blank(drawn.texts, keep)
    assert times(found)["masks"][2] == able.sum()
    assert any("held-out probabilities are taken" in note for note in found.notes)


@pytest.fixture(scope="module")
def sharp(night, tmp_path_factory) -> Path:
    """The same networks, for cuts that are fitted; images that `which` finds clean are."""
    folder = tmp_path_factory.mktemp("sharp") / "draw"
    shutil.copytree(night / "draw", folder)
    run = open_run(folder)
    for name in run.members:
        recipe = run.member(name).recipe()
        masks = recipe.masks.model_copy(update={"cut": "pixel"})
        run.member(name).write_recipe(recipe.model_copy(update={"masks": masks}))
    probs = open_run(night / "which").oof()["net"].probs[:, ::-1]
    clean = dict(zip(run.table().ids, probs < 0.5, strict=True))
    for fold in run.folds:
        sheet = read_counts(run.fold_counts(fold))
        hit, extra, missed = np.moveaxis(sheet.counts.counts, -1, 0)
        none = np.array([clean[key] for key in sheet.ids])[:, :, None]
        areas = [np.where(none, 0, hit), np.where(none, hit + extra, extra), missed * ~none]
        counts = replace(sheet.counts, counts=np.stack(areas, axis=-1))
        write_counts(run.fold_counts(fold), replace(sheet, counts=counts))
    finish_masks(run, run.table(), 1.0)
    return folder


def test_new_images_are_cut_as_is_best_behind_the_stages(night, sharp, new, probs):
    chosen = spell(night, labels={"threshold": 0.5}, masks=(sharp,))
    found = cascade(chosen, new, device="cpu")
    (rule,) = fit_stage(chosen).rules
    there = probs["labels"] >= 0.5
    drawn = draw_all(night, new, rule)
    assert found.masks.texts == blank(drawn.texts, there)
    assert any("best for what the stages leave open" in note for note in found.notes)
    alone = draw_all(night, new, read_mask_rule(sharp / "cuts.json"))
    assert blank(alone.texts, there) != found.masks.texts
    assert cascade(chosen, new, stages=("masks",), device="cpu").masks.texts == alone.texts
    # What closes nothing leaves the run's own cuts.
    opened = cascade(spell(night, labels={"threshold": 0}, masks=(sharp,)), new, device="cpu")
    assert opened.masks.texts == alone.texts


def test_classifiers_of_other_images_leave_the_cuts_of_the_run(night, sharp, new, tmp_path):
    folds = (np.arange(NEW) % 2).astype(np.int16)
    targets = (np.arange(NEW)[:, None] + np.arange(2)) // 2 % 2
    apart = replace(new, targets=targets.astype(np.float32), folds=folds)
    make_classifiers(tmp_path / "apart", apart, 3, new.images)
    given = {"run": tmp_path / "apart"}
    masks = {"run": sharp}
    found = cascade(
        {"labels": {**given, "threshold": 0.5}, "masks": masks}, new, device="cpu"
    )  # fmt: skip
    (note,) = [each for each in found.notes if "cut as without classifiers" in each]
    assert "16 of 16 images" in note
    there = predict(tmp_path / "apart", new, device="cpu").probs >= 0.5
    assert 0 < there.sum() < there.size
    alone = draw_all(night, new, read_mask_rule(sharp / "cuts.json"))
    assert found.masks.texts == blank(alone.texts, there)
    with pytest.raises(AlignmentError, match="16 of 16 images"):
        cascade({"labels": given, "masks": masks, "gate": "product"}, new, device="cpu")


def test_a_fitted_gate_of_binary_takes_the_place_of_its_threshold(night, new):
    full = spell(night, binary={"threshold": 1.01}, labels={}, gate="soft_area")
    found = cascade(full, new, stages=("binary", "masks"), device="cpu")
    assert any("threshold of binary plays no part" in note for note in found.notes)
    assert times(found)["masks"][0] == NEW


def test_unreadable_images_keep_their_rows(night, new, plain, tmp_path):
    torn = tmp_path / "torn.png"
    torn.write_bytes(new.images[0].read_bytes()[:60])
    table = make_table(
        [new.images[0], torn, *new.images[1:]], quarantined=(Quarantined(id="z", reason="empty"),)
    )
    reported = Heard()
    found = cascade(spell(night, labels={"threshold": 0}), table, device="cpu", reporter=reported)
    assert found.masks.ids == (*table.ids, "z")
    assert found.masks.texts == (
        plain.masks.texts[0], ("", ""), *plain.masks.texts[1:], ("", ""),
    )  # fmt: skip
    assert "torn.png" in found.errors[1]
    assert found.errors[-1] == "empty"
    assert sum(error is not None for error in found.errors) == 2
    assert times(found)["decode"][:2] == (NEW + 1, NEW)
    assert any("2 of 9 images cannot be read" in note for note in found.notes)
    assert reported.told == [("cascade", NEW + 1), NEW + 1]


class Heard:
    def __init__(self) -> None:
        self.told: list[object] = []

    def begin(self, label, total):
        self.told.append((label, total))

    def advance(self, done):
        self.told.append(done)

    def end(self, summary=""):
        pass

    def note(self, text):
        pass


def test_only_unreadable_images_are_no_error(night, tmp_path, calls):
    path = tmp_path / "x.png"
    path.write_bytes(b"")
    found = cascade(spell(night, labels={"threshold": 0}), make_table([path]), device="cpu")
    assert found.masks.texts == (("", ""),)
    assert calls.classified == 0
    assert times(found)["labels"] == (0, 0, 0, 0)


def test_chunks_change_nothing(night, new, probs, monkeypatch):
    level = between(probs["binary"], 4)
    chosen = spell(night, binary={"threshold": level}, labels={"threshold": 0.0})
    whole = cascade(chosen, new, device="cpu")
    monkeypatch.setattr(cascading, "_CHUNK_PIXELS", 2 * 30 * 40)
    small = cascade(chosen, new, device="cpu")
    assert small.masks.texts == whole.masks.texts
    assert times(small) == times(whole)


def test_the_result_has_the_rows_of_a_sample(night, new, plain, tmp_path, calls):
    sample = tmp_path / "sample.csv"
    asked = [new.ids[2], new.ids[0]]
    lines = ["Image_Label,EncodedPixels", *(f"{key}_stain,1 1" for key in asked)]
    sample.write_text("\n".join(lines) + "\n", encoding="utf-8")
    out = tmp_path / "out.csv"
    found = cascade(spell(night, labels={"threshold": 0}), new, like=sample, out=out,
                    device="cpu")  # fmt: skip
    assert found.masks.ids == tuple(asked)
    assert found.masks.texts == tuple((plain.masks.texts[row][1],) for row in (2, 0))
    assert read_mask_sheet(out).texts == found.masks.texts
    # Images and classes that nobody asked for cost nothing.
    assert calls.classified == 2 * 2
    assert sorted(calls.drawn.values()) == [2, 2]


def test_masks_are_resized_and_written(night, new, tmp_path):
    out = tmp_path / "out.csv"
    found = cascade(spell(night), night / "new", size=(20, 24), out=out, device="cpu")
    same = segment(night / "draw", new, size=(20, 24), device="cpu")
    assert read_mask_sheet(out).texts == found.masks.texts == same.masks.texts
    with pytest.raises(MaskError, match="expected a name such as"):
        cascade(spell(night), new, out=tmp_path / "out.parquet", device="cpu")


def test_several_runs_draw_their_own_classes(night, new, plain, probs, calls, tmp_path):
    trained = open_run(night / "draw").table()
    for at, name in enumerate(CLASSES):
        part = replace(trained, classes=(name,), targets=trained.targets[:, [at]],
                       masks=tuple((row[at],) for row in trained.masks))  # fmt: skip
        run = create_run(tmp_path / name, part, {"m": open_run(night / "draw")
                                                 .member(f"unet-{name}").recipe()})  # fmt: skip
        run.member("m").write_input(SPEC)
        for fold in run.folds:
            source = open_run(night / "draw").member(f"unet-{name}").fold(fold)
            run.member("m").fold(fold).folder.mkdir(parents=True)
            run.member("m").fold(fold).weights.write_bytes(source.weights.read_bytes())
            write_json(run.member("m").fold(fold).done_mark, {})
            count_fold(run, fold, threads=1, device="cpu", cache_bytes=0)
        finish_masks(run, part, 1.0)
    calls.drawn.clear()
    level = between(probs["labels"], 8)
    chosen = spell(night, labels={"threshold": level},
                   masks=(tmp_path / "stain", tmp_path / "crack"))  # fmt: skip
    found = cascade(chosen, new, device="cpu")
    there = probs["labels"] >= level
    assert found.masks.classes == ("stain", "crack")
    expected = blank(plain.masks.texts, there)
    assert found.masks.texts == tuple(row[::-1] for row in expected)
    assert sum(calls.drawn.values()) == 2 * there.sum()


def test_images_that_were_trained_on_are_told(night, new):
    old = open_run(night / "which").table().images[:3]
    found = cascade(spell(night), make_table([*old, *new.images]), device="cpu")
    assert found.known.tolist() == [True] * 3 + [False] * NEW
    assert any("3 of 10 images were trained on" in note for note in found.notes)


def test_what_cannot_be_is_refused_before_the_work(night, new, calls):
    with pytest.raises(InputError, match="there are 0 images"):
        cascade(spell(night), new.select([]), device="cpu")
    with pytest.raises(InputError, match="there is no class 'cracks'; did you mean 'crack'"):
        cascade(spell(night, labels={"threshold": {"cracks": 1, "": 0}}), new, device="cpu")
    with pytest.raises(InputError, match="the cascade has no binary"):
        cascade(spell(night), new, stages=("binary", "masks"), device="cpu")
    odd = {"binary": {"run": night / "which", "threshold": 0}, "masks": {"run": night / "draw"}}
    with pytest.raises(AlignmentError, match="which has 2 classes"):
        cascade(read_cascade(odd), new, device="cpu")
    assert not calls.drawn
    assert calls.classified == 0
