"""Counts out of fold: exact against the definition, of the right rows, classes and networks."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from loupe.components import clean_mask, count_map
from loupe.countfiles import read_counts
from loupe.counting import count_candidates, count_fold, count_rows
from loupe.decoding import read_image
from loupe.errors import InputError, MaskError, RunError, TableError
from loupe.files import write_json
from loupe.images import InputSpec, prepare_image
from loupe.mapping import draw_maps, load_mappers
from loupe.maskcuts import Candidate, choose_mask_cuts, cut_masks
from loupe.masks import decode_rle, encode_rle, resize_mask
from loupe.recipe import read_recipe
from loupe.runs import create_run
from loupe.segmenters import build_segmenter, settle_encoder
from loupe.table import Table

CLASSES = ("crack", "hole")
SHAPES = [(40, 50), (64, 32), (33, 70), (48, 48), (20, 90)]
FOLDS = [1, 0, -1, 0, 1]
WHOLE = InputSpec(height=64, width=64)
PADDED = InputSpec(height=32, width=64, resize="pad")
MASKS = {
    "thresholds": [0.6, 0.3, 0.5, 0.4],
    "min_components": [0, 9],
    "fill_holes": [False, True],
}


def make_table(folder: Path) -> Table:
    """Five noisy images of several sizes, two of each fold; some masks are empty."""
    rng = np.random.default_rng(3)
    folder.mkdir()
    paths, masks = [], []
    for row, (height, width) in enumerate(SHAPES):
        small = rng.integers(0, 256, (6, 6, 3), np.uint8)
        Image.fromarray(small).resize((width, height)).save(folder / f"{row}.png")
        paths.append(folder / f"{row}.png")
        mask = np.zeros((2, height, width), bool)
        mask[0, : height // 2, 5 : 12 + row] = True
        mask[1, ::2] = row % 2 == 0
        masks.append(tuple(encode_rle(each) for each in mask))
    return Table(
        ids=tuple(path.name for path in paths),
        images=tuple(paths),
        classes=CLASSES,
        targets=np.array([[bool(text) for text in texts] for texts in masks], np.float32),
        exclusive=False,
        folds=np.array(FOLDS, np.int16),
        masks=tuple(masks),
    )


def make_recipe(**masks):
    return read_recipe(
        {
            "network": {"name": "test_resnet", "pretrained": False},
            "input": {"size": 64},
            "decoder": {"options": {"decoder_channels": [8, 8, 4, 4, 4]}},
            "masks": MASKS | masks,
            "engine": {"precision": "fp32", "channels_last": False},
            "tta": ["identity", "hflip"],
        }
    )


def make_run(folder: Path, table: Table, members):
    """Make a run of (recipe, spec) by name, whose networks have random weights."""
    run = create_run(folder, table, {name: recipe for name, (recipe, _) in members.items()})
    for number, (name, (recipe, spec)) in enumerate(members.items()):
        member = run.member(name)
        member.write_recipe(settled := settle_encoder(recipe, None))
        member.write_input(spec)
        count = len(recipe.masks.classes or table.classes)
        for fold in run.folds:
            network = build_segmenter(settled.decoder, settled, spec, count, weights=None)
            torch.manual_seed(10 * number + fold)
            with torch.no_grad():
                for value in network.parameters():
                    value.add_(torch.randn_like(value) * 0.4 * value.abs().mean().clamp(min=0.3))
            member.fold(fold).folder.mkdir(parents=True)
            save_file(network.state_dict(), member.fold(fold).weights)
            write_json(member.fold(fold).done_mark, {})
    return run


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return make_table(tmp_path_factory.mktemp("masks") / "images")


@pytest.fixture(scope="module")
def run(tmp_path_factory, table):
    """Two members: one of both classes, one of the second class in padded frames."""
    members = {
        "both": (make_recipe(), WHOLE),
        "hole": (make_recipe(classes=["hole"]), PADDED),
    }
    return make_run(tmp_path_factory.mktemp("runs") / "r", table, members)


def prepare(table, rows, mappers):
    pictures = [read_image(table.images[row]) for row in rows]
    stacks = [np.stack([prepare_image(each, m.spec) for each in pictures]) for m in mappers]
    return stacks, np.array([each.shape[:2] for each in pictures], np.int64)


def smooth(seed, height=60, width=80):
    """A map with islands, lakes in them, and values that are thresholds exactly."""
    noise = np.random.default_rng(seed).random((height, width), np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), 2)
    scaled = (blurred - blurred.min()) / np.ptp(blurred)
    return (np.round(scaled * 40) / 40).astype(np.float32)


# One map ------------------------------------------------------------------------------------------

WIDE = tuple(
    Candidate(threshold=threshold, min_component=least, fill_holes=fill)
    for threshold in (0.7, 0.1, 0.5, 0.30000001, 0.9, 0.5, 1.0, 0.0)
    for least in (0, 30, 1, 5000)
    for fill in (True, False)
)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("count", [10, len(WIDE)])
def test_counts_are_those_of_count_map_to_the_last_bit(seed, count):
    probs, truth = smooth(seed), smooth(seed + 100) > 0.55
    candidates = WIDE[:count] if count > 10 else WIDE[1::8]
    expected = count_map(probs, truth, candidates)
    found = count_candidates(probs, truth, candidates)
    np.testing.assert_array_equal(found.counts, expected.counts)
    np.testing.assert_array_equal(found.confidences, expected.confidences)
    assert found.confidences.dtype == expected.confidences.dtype
    assert found.top == expected.top
    assert len(np.unique(found.counts[:, 0])) > 3  # candidates that differ


@pytest.mark.parametrize("value", [0.0, 0.2, 1.0])
def test_maps_without_an_edge_are_counted_too(value):
    probs = np.full((9, 7), value, np.float32)
    for truth in (np.zeros((9, 7), bool), np.ones((9, 7), bool)):
        expected = count_map(probs, truth, WIDE)
        found = count_candidates(probs, truth, WIDE)
        np.testing.assert_array_equal(found.counts, expected.counts)
        np.testing.assert_array_equal(found.confidences, expected.confidences)
        assert found.top == expected.top


def test_counts_are_what_they_are_called():
    probs, truth = smooth(1), smooth(2) > 0.4
    each = Candidate(threshold=0.6, min_component=40, fill_holes=True)
    mask = clean_mask(probs >= 0.6, 40, True)
    assert not np.array_equal(mask, probs >= 0.6)
    found = count_candidates(probs, truth, [each])
    both, extra, missed = (int(part.sum()) for part in (mask & truth, mask & ~truth, truth & ~mask))
    assert found.counts.tolist() == [[both, extra, missed]]
    assert found.confidences[0] == pytest.approx(probs[mask].mean())
    assert found.top == pytest.approx(np.sort(probs.ravel())[-480:].mean())


def test_maps_and_masks_of_other_sizes_are_refused():
    with pytest.raises(MaskError, match="shape"):
        count_candidates(smooth(0), np.zeros((60, 79), bool), WIDE)


# Rows of a run ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [None, (24, 32)])
@pytest.mark.parametrize("threads", [1, 3])
def test_rows_are_counted_as_their_maps_say(run, table, size, threads):
    mappers = load_mappers(run, folds=(0,), device="cpu")
    rows = [1, 3, 0]
    images, shown = prepare(table, rows, mappers)
    sizes = shown if size is None else np.tile(size, (3, 1))
    truths = []
    for row, (height, width) in zip(rows, shown, strict=True):
        decoded = [decode_rle(text, height, width) for text in table.masks[row]]
        truths.append(np.stack([m if size is None else resize_mask(m, size) for m in decoded]))
    candidates = make_recipe().masks.candidates
    found = count_rows(
        mappers,
        CLASSES,
        images,
        sizes,
        truths.__getitem__,
        candidates,
        shown=shown,
        threads=threads,
    )
    assert (found.candidates, found.presences) == (candidates, None)
    assert found.counts.dtype == np.int32
    wanted = np.ones((3, 2), bool)
    for at, maps in draw_maps(mappers, CLASSES, images, sizes, wanted, shown=shown):
        for column in range(2):
            expected = count_map(maps[column], truths[at][column], candidates)
            np.testing.assert_array_equal(found.counts[at, column], expected.counts)
            np.testing.assert_array_equal(found.confidences[at, column], expected.confidences)
            assert found.tops[at, column] == np.float32(expected.top)
    areas = found.counts[..., 0] + found.counts[..., 1]
    assert (areas.min(axis=2) < areas.max(axis=2)).any(axis=0).all()  # thresholds matter


def test_each_fold_is_counted_by_the_networks_that_have_not_seen_it(run, table):
    for fold, rows in ((0, [1, 3]), (1, [0, 4])):
        path = run.fold_counts(fold)
        count_fold(run, fold, threads=1, device="cpu", cache_bytes=0)
        sheet = read_counts(path)
        assert sheet.ids == tuple(table.ids[row] for row in rows)
        assert sheet.classes == CLASSES
        assert sheet.folds.tolist() == [fold] * 2
        mappers = load_mappers(run, folds=(fold,), device="cpu")
        images, shown = prepare(table, rows, mappers)
        truths = [
            np.stack([decode_rle(text, *SHAPES[row]) for text in table.masks[row]]) for row in rows
        ]
        candidates = make_recipe().masks.candidates
        expected = count_rows(
            mappers, CLASSES, images, shown, truths.__getitem__, candidates, shown=shown
        )
        np.testing.assert_array_equal(sheet.counts.counts, expected.counts)
        np.testing.assert_array_equal(sheet.counts.confidences, expected.confidences)
        np.testing.assert_array_equal(sheet.counts.tops, expected.tops)
        areas = sheet.counts.counts[..., 0] + sheet.counts.counts[..., 2]
        assert areas.tolist() == [
            [[int(mask.sum())] * len(candidates) for mask in masks] for masks in truths
        ]
        cuts = choose_mask_cuts(sheet.counts, "triplet")
        assert cut_masks(sheet.counts, cuts).pairs.truth.shape == (2, 2)
        before = path.stat().st_mtime_ns
        count_fold(run, fold, threads=1, device="cpu", cache_bytes=0)
        assert path.stat().st_mtime_ns == before


def test_chunks_and_threads_change_nothing(tmp_path, table, run, monkeypatch):
    recipe = make_recipe(size=[24, 32])
    other = make_run(tmp_path / "r", table, {"a": (recipe, PADDED), "b": (recipe, WHOLE)})
    count_fold(other, 1, threads=3, device="cpu", cache_bytes=0)
    whole = read_counts(other.fold_counts(1))
    other.fold_counts(1).unlink()
    monkeypatch.setattr("loupe.counting._MOST_ROWS", 1)
    count_fold(other, 1, threads=1, device="cpu", cache_bytes=0)
    parts = read_counts(other.fold_counts(1))
    assert parts.ids == whole.ids == ("0.png", "4.png")
    np.testing.assert_array_equal(parts.counts.tops, whole.counts.tops)
    np.testing.assert_array_equal(parts.counts.counts, whole.counts.counts)
    given = resize_mask(decode_rle(table.masks[0][0], *SHAPES[0]), (24, 32))
    assert given.any()
    assert whole.counts.counts[0, 0, :, [0, 2]].sum(axis=0).tolist() == [given.sum()] * 16


def test_classes_that_nobody_learns_are_not_counted(tmp_path, table):
    only = make_run(tmp_path / "r", table, {"a": (make_recipe(classes=["hole"]), WHOLE)})
    count_fold(only, 0, threads=1, device="cpu", cache_bytes=0)
    sheet = read_counts(only.fold_counts(0))
    assert sheet.classes == ("hole",)
    assert sheet.counts.counts.shape[:2] == (2, 1)


def test_what_cannot_be_counted_is_refused(tmp_path, table, run):
    with pytest.raises(RunError, match=r"holds out no fold 5.*\[0, 1\]"):
        count_fold(run, 5, threads=1, device="cpu", cache_bytes=0)
    refit = create_run(tmp_path / "all", table, {"a": make_recipe()}, refit_of=run.folder)
    with pytest.raises(RunError, match="holds out no fold -1"):
        count_fold(refit, -1, threads=1, device="cpu", cache_bytes=0)
    bare = create_run(tmp_path / "bare", replace(table, masks=None), {"a": make_recipe()})
    with pytest.raises(TableError, match="no masks"):
        count_fold(bare, 0, threads=1, device="cpu", cache_bytes=0)
    open_jobs = create_run(tmp_path / "open", table, {"a": make_recipe()})
    with pytest.raises(RunError, match="not finished"):
        count_fold(open_jobs, 0, threads=1, device="cpu", cache_bytes=0)
    assert not open_jobs.fold_counts(0).exists()


def test_masks_that_do_not_fit_their_image_are_named(tmp_path, table):
    wrong = [list(texts) for texts in table.masks]
    wrong[3][1] = "1 99999"
    spoilt = replace(table, masks=tuple(tuple(texts) for texts in wrong))
    made = make_run(tmp_path / "r", spoilt, {"a": (make_recipe(), WHOLE)})
    with pytest.raises(MaskError, match=r"3\.png, class 'hole': .*48 x 48"):
        count_fold(made, 0, threads=1, device="cpu", cache_bytes=0)
    assert not made.fold_counts(0).exists()


def test_truths_of_another_size_are_refused(run, table):
    mappers = load_mappers(run, folds=(0,), device="cpu")
    images, shown = prepare(table, [1], mappers)
    candidates = make_recipe().masks.candidates
    with pytest.raises(MaskError, match="shape"):
        count_rows(
            mappers,
            CLASSES,
            images,
            shown,
            lambda _: np.zeros((2, 5, 5), bool),
            candidates,
            shown=shown,
        )
    with pytest.raises(InputError, match="sizes has the shape"):
        count_rows(
            mappers, CLASSES, images, shown[:, :1], lambda _: images, candidates, shown=shown
        )


def test_no_rows_are_refused(run):
    mappers = load_mappers(run, folds=(0,), device="cpu")
    images = [np.zeros((0, m.spec.height, m.spec.width, 3), np.uint8) for m in mappers]
    none = np.zeros((0, 2), np.int64)
    with pytest.raises(InputError, match="counts have the shape"):
        count_rows(mappers, CLASSES, images, none, lambda _: none, WIDE, shown=none)
