"""Drawing masks: maps of a run's networks, cut by its rule, as text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from loupe.errors import RunError
from loupe.files import write_json
from loupe.images import InputSpec
from loupe.mapping import draw_maps
from loupe.maskcuts import NEVER_AREA, Candidate, MaskCut
from loupe.maskdrawing import Drawer, draw_masks, find_sizes, open_drawer
from loupe.maskrules import MaskRule, cut_map, write_mask_rule
from loupe.masks import decode_rle
from loupe.recipe import read_recipe
from loupe.runs import Run, create_run
from loupe.segmenters import build_segmenter, settle_encoder
from loupe.table import Table

CLASSES = ("crack", "stain")
SPEC = InputSpec(height=32, width=64)
SIZES = np.array([[40, 50], [32, 64], [20, 90]])


def make_run(folder: Path, *, decoder=True) -> Run:
    table = Table(
        ids=("x", "y"), images=(Path("/nowhere/x"), Path("/nowhere/y")), classes=CLASSES,
        targets=np.zeros((2, 2), np.float32), exclusive=False,
        folds=np.array([0, 1], np.int16), masks=(("", ""),) * 2,
    )  # fmt: skip
    made = {
        "network": {"name": "test_resnet", "pretrained": False},
        "input": {"size": [32, 64]},
        "tta": ["identity"],
        "engine": {"precision": "fp32", "channels_last": False},
    }
    if decoder:
        made["decoder"] = {"options": {"decoder_channels": [8, 8, 4, 4, 4]}}
    recipe = read_recipe(made)
    run = create_run(folder, table, {"unet": recipe})
    if not decoder:
        return run
    settled = settle_encoder(recipe, None)
    member = run.member("unet")
    member.write_recipe(settled)
    member.write_input(SPEC)
    for fold in (0, 1):
        network = build_segmenter(settled.decoder, settled, SPEC, 2, weights=None)
        torch.manual_seed(fold)
        with torch.no_grad():
            for value in network.parameters():
                value.add_(torch.randn_like(value) * 0.1)
        member.fold(fold).folder.mkdir(parents=True)
        save_file(network.state_dict(), member.fold(fold).weights)
        write_json(member.fold(fold).done_mark, {})
    return run


def make_rule(levels, least=(1, 1), **more) -> MaskRule:
    cuts = []
    for (high, low), area in zip(levels, least, strict=True):
        top, bottom = Candidate(threshold=high), Candidate(threshold=low)
        cuts.append(MaskCut(top=top, bottom=bottom, min_area=int(area)))
    return MaskRule(classes=CLASSES, kind="triplet", cuts=tuple(cuts), **more)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    made = make_run(tmp_path_factory.mktemp("runs") / "unet")
    write_mask_rule(made.cuts_file, make_rule([(0.5, 0.5)] * 2))
    return made


@pytest.fixture(scope="module")
def images():
    blocks = np.random.default_rng(0).integers(0, 256, (3, 4, 8, 3), np.uint8)
    return np.kron(blocks, np.ones((1, 8, 8, 1), np.uint8))


def draw_all(drawer: Drawer, images, sizes):
    wanted = np.ones((3, 2), bool)
    pixels = [images] * len(drawer.mappers)
    drawn = draw_maps(drawer.mappers, CLASSES, pixels, sizes, wanted, shown=SIZES)
    return [maps for _, maps in drawn]


def suit(drawer: Drawer, images, **more) -> Drawer:
    """Cut at levels and areas that some of these maps reach."""
    maps = draw_all(drawer, images, find_sizes(make_rule([(0.5, 0.5)] * 2, **more), SIZES))
    levels = [np.quantile(np.concatenate([m[c].ravel() for m in maps]), (0.9, 0.6)) for c in (0, 1)]
    areas = [[(m[c] >= np.float32(levels[c][0])).sum() for m in maps] for c in (0, 1)]
    return replace(drawer, rule=make_rule(levels, np.median(areas, axis=1), **more))


@pytest.mark.parametrize("size", [None, (24, 30)])
def test_masks_are_those_of_the_maps(run, images, size):
    drawer = open_drawer(run, device="cpu")
    assert (drawer.classes, drawer.specs) == (CLASSES, (SPEC, SPEC))
    drawer = suit(drawer, images, size=size)
    sizes = SIZES if size is None else np.array([size] * 3)
    assert find_sizes(drawer.rule, SIZES).tolist() == sizes.tolist()
    found = draw_masks(drawer, [images, images], SIZES, np.ones((3, 2), bool))
    maps = draw_all(drawer, images, sizes)
    filled = 0
    for row in range(3):
        for column, cut in enumerate(drawer.rule.cuts):
            probs = maps[row][column]
            mask = probs >= np.float32(cut.bottom.threshold)
            mask &= (probs >= np.float32(cut.top.threshold)).sum() >= cut.min_area
            height, width = (int(side) for side in sizes[row])
            assert (decode_rle(found.texts[row][column], height, width) == mask).all()
            assert found.areas[row, column] == mask.sum()
            filled += mask.any()
            sure = found.confidences[row, column]
            assert np.isnan(sure) if not mask.any() else sure == pytest.approx(probs[mask].mean())
            assert found.tops[row, column] == pytest.approx(cut_map(probs, cut).top)
    assert 0 < filled < 6, filled


def test_what_is_not_wanted_is_not_drawn(run, images):
    drawer = suit(open_drawer(run, device="cpu"), images)
    everything = draw_masks(drawer, [images, images], SIZES, np.ones((3, 2), bool))
    entered = []
    hooks = [
        mapper.network.register_forward_hook(lambda _, inputs, __: entered.append(len(inputs[0])))
        for mapper in drawer.mappers
    ]
    wanted = np.array([[True, False], [False, False], [True, True]])
    found = draw_masks(drawer, [images, images], SIZES, wanted)
    for row in range(3):
        for column in range(2):
            expected = everything.texts[row][column] if wanted[row, column] else ""
            assert found.texts[row][column] == expected
    assert sum(entered) == 4  # two images by two networks
    assert np.isnan(found.tops).tolist() == (~wanted).tolist()
    assert np.isnan(found.confidences[~wanted]).all()
    entered.clear()
    nothing = draw_masks(drawer, [images, images], SIZES, np.zeros((3, 2), bool))
    assert (nothing.texts, entered) == ((("", ""),) * 3, [])
    for hook in hooks:
        hook.remove()


def test_a_class_that_is_never_kept_stays_empty(run, images):
    drawer = suit(open_drawer(run, device="cpu"), images)
    never = replace(drawer.rule.cuts[1], min_area=NEVER_AREA)
    drawer = replace(drawer, rule=replace(drawer.rule, cuts=(drawer.rule.cuts[0], never)))
    found = draw_masks(drawer, [images, images], SIZES, np.ones((3, 2), bool))
    assert any(row[0] for row in found.texts)
    assert not any(row[1] for row in found.texts)
    assert found.areas[:, 1].tolist() == [0, 0, 0]


def test_runs_that_cannot_draw_are_refused(tmp_path, run):
    plain = make_run(tmp_path / "plain", decoder=False)
    with pytest.raises(RunError, match="loupe predict"):
        open_drawer(plain, device="cpu")
    fresh = make_run(tmp_path / "fresh")
    with pytest.raises(RunError, match=r"cuts\.json: no rule"):
        open_drawer(fresh, device="cpu")
    other = replace(make_rule([(0.5, 0.5)] * 2), classes=("crack", "rust"))
    write_mask_rule(fresh.cuts_file, other)
    with pytest.raises(RunError, match=r"\['rust'\]"):
        open_drawer(fresh, device="cpu")
