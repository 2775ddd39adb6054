"""Which held-out masks are shown, and that they are what their fold's networks draw."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from loupe.contact import choose_examples, write_contact_sheet
from loupe.counting import count_fold
from loupe.decoding import read_image
from loupe.dices import measure_dice
from loupe.errors import RunError
from loupe.files import write_json
from loupe.images import InputSpec, prepare_image
from loupe.mapping import draw_maps, load_mappers
from loupe.maskrules import cut_map, read_mask_rule
from loupe.masks import decode_rle, encode_rle, resize_mask
from loupe.maskscoring import cross_fitted_masks, finish_masks, read_mask_counts
from loupe.overlays import draw_overlay
from loupe.recipe import read_recipe
from loupe.runs import Run, create_run
from loupe.segmenters import build_segmenter, settle_encoder
from loupe.table import ALWAYS_TRAINED, Table

CLASSES = ("crack", "stain")
SPEC = InputSpec(height=32, width=64)


def choose(dice, truth, predicted, classes=("a",)):
    found = choose_examples(np.array(dice, float), np.array(truth), np.array(predicted), classes)
    return [(each.class_name, each.kind, each.row, each.dice) for each in found]


def test_best_median_and_worst_of_rows_with_a_mask():
    # Row 3 is empty twice: a Dice of 1 that has nothing to look at.
    dice = [[0.2], [0.9], [0.5], [1.0], [0.0], [0.7]]
    truth = [[5], [5], [5], [0], [0], [5]]
    predicted = [[5], [5], [5], [0], [8], [5]]
    assert choose(dice, truth, predicted) == [
        ("a", "best", 1, 0.9), ("a", "median", 2, 0.5), ("a", "worst", 4, 0.0),
    ]  # fmt: skip


def test_few_rows_are_shown_once():
    zero, some = [[0]] * 4, [[3]] * 4
    assert choose([[1.0]] * 4, zero, zero) == []
    one = [[0], [0], [3], [0]]
    assert choose([[1.0], [1.0], [0.4], [1.0]], one, zero) == [("a", "best", 2, 0.4)]
    two = [[0], [1], [3], [0]]
    assert choose([[1.0], [0.1], [0.4], [1.0]], zero, two) == [
        ("a", "best", 2, 0.4), ("a", "worst", 1, 0.1),
    ]  # fmt: skip
    # Alike in all: still three rows.
    assert len({row for _, _, row, _ in choose([[0.0]] * 4, some, some)}) == 3


def test_of_equal_dice_the_larger_masks_are_shown():
    truth = [[5], [50], [20], [7], [70], [9]]
    dice = [[0.0], [0.0], [0.5], [1.0], [1.0], [0.6]]
    rows = {kind: row for _, kind, row, _ in choose(dice, truth, [[0]] * 6)}
    assert rows == {"best": 4, "median": 2, "worst": 1}


def test_classes_choose_apart_and_in_their_order():
    rng = np.random.default_rng(0)
    dice, truth = rng.random((40, 3)), rng.integers(0, 3, (40, 3))
    found = choose(dice, truth, 0 * truth, ("a", "b", "c"))
    assert [each[0] for each in found] == ["a"] * 3 + ["b"] * 3 + ["c"] * 3
    for column, name in enumerate(("a", "b", "c")):
        shown = np.flatnonzero(truth[:, column])
        ordered = shown[np.argsort(dice[shown, column])]
        mine = {kind: row for each, kind, row, _ in found if each == name}
        assert (mine["best"], mine["worst"]) == (ordered[-1], ordered[0])
        assert mine["median"] in ordered[len(ordered) // 2 - 1 : len(ordered) // 2 + 1]


def make_table(folder: Path, folds, *, masks: bool = True) -> Table:
    rng = np.random.default_rng(5)
    folder.mkdir(parents=True)
    paths, texts = [], []
    for row in range(len(folds)):
        height, width = (30, 60) if row % 2 else (36, 50)
        small = rng.integers(0, 256, (5, 8, 3), np.uint8)
        paths.append(folder / f"{row}.png")
        Image.fromarray(small).resize((width, height)).save(paths[-1])
        given = np.zeros((2, height, width), bool)
        given[0, 5:25, 10 + row : 30 + row] = row % 3 > 0
        given[1, :, ::2] = row % 4 == 0
        texts.append(tuple(encode_rle(each & masks) for each in given))
    return Table(
        ids=tuple(path.name for path in paths),
        images=tuple(paths),
        classes=CLASSES,
        targets=np.array([[bool(text) for text in row] for row in texts], np.float32),
        exclusive=False,
        folds=np.array(folds, np.int16),
        masks=tuple(texts),
    )


def make_run(folder: Path, table: Table, *, size=None, bias: float = 0.0) -> Run:
    """A finished run whose networks have random weights, another draw for each fold."""
    recipe = read_recipe(
        {
            "network": {"name": "test_resnet", "pretrained": False},
            "input": {"size": [32, 64]},
            "decoder": {"options": {"decoder_channels": [8, 8, 4, 4, 4]}},
            "engine": {"precision": "fp32", "channels_last": False},
            "masks": {"size": size, "thresholds": [0.45, 0.5, 0.55]},
        }
    )
    run = create_run(folder, table, {"unet": recipe})
    member, settled = run.member("unet"), settle_encoder(recipe, None)
    member.write_recipe(settled)
    member.write_input(SPEC)
    for fold in run.folds:
        network = build_segmenter(settled.decoder, settled, SPEC, 2, weights=None)
        torch.manual_seed(fold)
        with torch.no_grad():
            for value in network.parameters():
                value.add_(torch.randn_like(value) * 0.2 * value.std().nan_to_num(1) + 0.01)
            network.mask_head[0].bias.add_(bias)
        member.fold(fold).folder.mkdir(parents=True)
        save_file(network.state_dict(), member.fold(fold).weights)
        write_json(member.fold(fold).done_mark, {})
        count_fold(run, fold, threads=1, device="cpu", cache_bytes=0)
    finish_masks(run, table, 1.0)
    return run


@cache
def open_networks(run: Run, fold: int):
    return load_mappers(run, folds=(fold,), device="cpu")


def draw_pair(run: Run, table: Table, row: int, column: int, cut, width: int):
    """Draw one pair by the network of the fold that holds the row out; and its area."""
    place = table.ids.index(read_mask_counts(run).ids[row])
    fold, image = int(table.folds[place]), read_image(table.images[place])
    shown = np.array([image.shape[:2]], np.int64)
    size = read_mask_rule(run.cuts_file).size or image.shape[:2]
    mappers = open_networks(run, fold)
    ((_, maps),) = draw_maps(
        mappers, CLASSES, [prepare_image(image, SPEC)[None]], np.array([size]),
        np.ones((1, 2), bool), shown=shown,
    )  # fmt: skip
    mask = cut_map(maps[column], cut).mask
    both = np.zeros((2, *image.shape[:2], 2), bool)
    both[0, ..., column] = resize_mask(mask, image.shape[:2])
    both[1, ..., column] = decode_rle(table.masks[place][column], *image.shape[:2])
    return int(mask.sum()), draw_overlay(image, *both, width=width)


def holds(sheet: np.ndarray, drawn: np.ndarray) -> bool:
    """Return if a sheet shows a drawing somewhere."""
    height, width = drawn.shape[:2]
    corners = (sheet[: -height + 1, : -width + 1] == drawn[0, 0]).all(axis=2)
    return any(
        (sheet[y : y + height, x : x + width] == drawn).all() for y, x in np.argwhere(corners)
    )


def open_sheet(path: Path) -> tuple[np.ndarray, int]:
    """Read a sheet, and the width of its images: three in a row, 8 pixels apart."""
    with Image.open(path) as picture:
        sheet = np.asarray(picture)
    return sheet, (sheet.shape[1] - 4 * 8) // 3


@pytest.mark.parametrize("size", [None, [20, 30]])
def test_held_out_masks_are_drawn_by_the_networks_of_their_fold(tmp_path, size):
    table = make_table(tmp_path / "images", [0, 1, 1, 0, ALWAYS_TRAINED, 1, 0, 1, 0])
    run = make_run(tmp_path / "run", table, size=size)
    assert write_contact_sheet(run) == run.contact_file
    sheet, width = open_sheet(run.contact_file)
    rule, pairs = read_mask_rule(run.cuts_file), cross_fitted_masks(run).pairs
    held = read_mask_counts(run)
    examples = choose_examples(measure_dice(pairs), pairs.truth, pairs.predicted, CLASSES)
    assert len(examples) == 6
    before = run.contact_file.read_bytes()
    assert write_contact_sheet(run).read_bytes() == before
    for each in examples:
        column = CLASSES.index(each.class_name)
        part = rule.part_names.index(str(held.folds[each.row]))
        cut = rule.part_cuts[part][column]
        area, drawn = draw_pair(run, table, each.row, column, cut, width)
        assert area == pairs.predicted[each.row, column]
        assert holds(sheet, drawn), each


def test_rows_of_a_single_fold_are_cut_as_the_parts_they_were_dealt_to(tmp_path):
    table = make_table(tmp_path / "images", [0] * 9 + [ALWAYS_TRAINED] * 2)
    run = make_run(tmp_path / "run", table)
    sheet, width = open_sheet(write_contact_sheet(run))
    rule, pairs = read_mask_rule(run.cuts_file), cross_fitted_masks(run).pairs
    assert len(rule.part_cuts) > 1
    examples = choose_examples(measure_dice(pairs), pairs.truth, pairs.predicted, CLASSES)
    told = 0
    for each in examples:
        column = CLASSES.index(each.class_name)
        area = pairs.predicted[each.row, column]
        for cut in {part[column] for part in rule.part_cuts}:
            made, drawn = draw_pair(run, table, each.row, column, cut, width)
            assert holds(sheet, drawn) == (made == area), each
            told += made != area
    # Some parts cut otherwise, and what they would draw is not shown.
    assert told


def test_a_run_without_masks_to_look_at_says_so(tmp_path):
    table = make_table(tmp_path / "images", [0, 1, 1, 0], masks=False)
    run = make_run(tmp_path / "run", table, bias=-20)
    with pytest.raises(RunError, match="of 4 held-out rows none has a mask"):
        write_contact_sheet(run)


def test_a_run_that_draws_no_masks_is_refused(tmp_path):
    table = make_table(tmp_path / "images", [0, 1])
    run = create_run(tmp_path / "run", table, {"m": read_recipe({"stages": [{"epochs": 1}]})})
    with pytest.raises(RunError, match="draws no masks"):
        write_contact_sheet(run)
