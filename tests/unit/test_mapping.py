"""Maps: means over views, tiles, folds and members, and the way back to the image."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from loupe.decoding import read_image
from loupe.errors import InputError, RunError
from loupe.files import write_json
from loupe.images import InputSpec, prepare_image, prepare_masks
from loupe.mapping import draw_maps, fit_map, list_drawn, load_mappers, place_image
from loupe.masks import encode_rle
from loupe.recipe import read_recipe
from loupe.runs import create_run, open_run
from loupe.segmenters import build_segmenter, settle_encoder
from loupe.table import Table

CLASSES = ("crack", "hole", "stain")
SHAPES = [(40, 50), (64, 32), (33, 70), (48, 48), (20, 90), (57, 41)]
PADDED = InputSpec(height=48, width=64, resize="pad")
CROPPED = InputSpec(height=40, width=72, crop=(32, 32))


def make_table(folder: Path) -> Table:
    """Six noisy images of several sizes, two folds, masks of three classes, some empty."""
    rng = np.random.default_rng(3)
    folder.mkdir()
    paths, masks = [], []
    for row, (height, width) in enumerate(SHAPES):
        small = rng.integers(0, 256, (6, 6, 3), np.uint8)
        Image.fromarray(small).resize((width, height)).save(folder / f"{row}.png")
        paths.append(folder / f"{row}.png")
        mask = np.zeros((3, height, width), bool)
        mask[0, : height // 2, 5:20] = True
        mask[1, ::2] = row % 2 == 0
        masks.append(tuple(encode_rle(each) for each in mask))
    return Table(
        ids=tuple(path.name for path in paths),
        images=tuple(paths),
        classes=CLASSES,
        targets=np.array([[bool(text) for text in texts] for texts in masks], np.float32),
        exclusive=False,
        folds=np.array([0, 1, 0, 1, 1, 0], np.int16),
        masks=tuple(masks),
    )


def make_recipe(**changes):
    return read_recipe(
        {
            "network": {"name": "test_resnet", "pretrained": False},
            "input": {"size": 64},
            "decoder": {"options": {"decoder_channels": [8, 8, 4, 4, 4]}},
            "engine": {"precision": "fp32", "channels_last": False},
            "tta": ["identity"],
        }
        | changes
    )


def make_run(folder: Path, table: Table, members, *, spread: float = 0.2):
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
                    value.add_(torch.randn_like(value) * spread * value.std().nan_to_num(1) + 0.01)
            member.fold(fold).folder.mkdir(parents=True)
            save_file(network.state_dict(), member.fold(fold).weights)
            write_json(member.fold(fold).done_mark, {})
    return run


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return make_table(tmp_path_factory.mktemp("masks") / "images")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, table):
    """Two members: all classes in padded frames, two of them in tiles of stretched ones."""
    tiled = make_recipe(
        input={"size": [40, 72], "crop": [32, 32]},
        masks={"classes": ["stain", "crack"], "overlap": 0.5},
        tta=["identity", "rot180"],
    )
    members = {
        "whole": (make_recipe(tta=["identity", "hflip", "vflip"]), PADDED),
        "tiled": (tiled, CROPPED),
    }
    return make_run(tmp_path_factory.mktemp("runs") / "mixed", table, members)


def prepare(table, rows, mappers):
    """Return the images of each mapper, and the sizes as shown."""
    pictures = [read_image(table.images[row]) for row in rows]
    stacks = [np.stack([prepare_image(each, m.spec) for each in pictures]) for m in mappers]
    return stacks, np.array([each.shape[:2] for each in pictures], np.int64)


def look(network, image):
    """Return the probabilities of one prepared image or tile, (K, h, w)."""
    with torch.inference_mode():
        pixels = torch.from_numpy(np.ascontiguousarray(image))[None]
        return torch.sigmoid(network(pixels).masks)[0].numpy()


def look_around(network, image, views):
    """Return the mean over views by rows (down) and columns (along) reversed."""
    found = []
    for down, along in views:
        seen = look(network, image[::down, ::along])
        found.append(seen[:, ::down, ::along])
    return np.mean(found, axis=0)


# Loading ------------------------------------------------------------------------------------------


def test_folds_share_no_values_and_have_those_of_their_files(mixed):
    found = load_mappers(mixed, device="cpu")
    files = [mixed.member(name).fold(fold).weights for name in mixed.members for fold in (0, 1)]
    for each, path in zip(found, files, strict=True):
        stored, state = load_file(path), each.network.state_dict()
        assert state.keys() == stored.keys()
        assert all(torch.equal(state[key], stored[key]) for key in stored)
        assert not each.network.training
    places = [value.data_ptr() for each in found for value in each.network.parameters()]
    assert len(places) == len(set(places))
    alone = load_mappers(mixed, folds=(1,), device="cpu")[0].network.state_dict()
    assert all(torch.equal(alone[key], value) for key, value in load_file(files[1]).items())


def test_every_member_and_fold_is_loaded_with_its_own_classes(mixed):
    found = load_mappers(mixed, device="cpu")
    assert [each.classes for each in found] == [CLASSES] * 2 + [("crack", "stain")] * 2
    assert [each.spec for each in found] == [PADDED, PADDED, CROPPED, CROPPED]
    assert [each.views for each in found] == [("identity", "hflip", "vflip")] * 2 + [
        ("identity", "rot180")
    ] * 2
    assert not any(each.network.training for each in found)
    assert {each.views for each in load_mappers(mixed, views=2, device="cpu")} == {
        ("identity", "hflip")
    }
    fold_one = load_mappers(open_run(mixed.folder), folds=(1,), device="cpu")
    for held, alone in zip(found[1::2], fold_one, strict=True):
        for name, value in held.network.state_dict().items():
            assert torch.equal(value, alone.network.state_dict()[name])
    assert list_drawn(found[2:], ("stain", "rust", "hole", "crack")) == ("stain", "crack")


def test_what_is_not_finished_or_draws_no_masks_is_refused(tmp_path, table, mixed, binary):
    run = create_run(tmp_path / "bare", table, {"a": make_recipe(), "b": make_recipe(seed=1)})
    with pytest.raises(RunError, match=r"a/fold-1, .*b/fold-1; run the same"):
        load_mappers(run, folds=(1,), device="cpu")
    plain = create_run(tmp_path / "plain", binary, {"a": read_recipe({})})
    with pytest.raises(RunError, match=r"draws no masks.*loupe predict"):
        load_mappers(plain, device="cpu")
    with pytest.raises(InputError, match="expected 1 to 4 views"):
        load_mappers(mixed, views=5, device="cpu")


# Maps ---------------------------------------------------------------------------------------------


def test_maps_are_means_over_views_tiles_folds_and_members(mixed, table):
    mappers = load_mappers(mixed, device="cpu")
    rows = range(6)
    images, shown = prepare(table, rows, mappers)
    wanted = np.ones((6, 3), bool)
    drawn = list(draw_maps(mappers, CLASSES, images, shown, wanted, shown=shown))
    assert [row for row, _ in drawn] == list(rows)
    for row, maps in drawn:
        height, width = shown[row]
        assert maps.shape == (3, height, width)
        assert maps.dtype == np.float32
        total = np.zeros((3, height, width))
        for fold in (0, 1):
            # Whole frames with bars.
            views = [(1, 1), (1, -1), (-1, 1)]
            frame = look_around(mappers[fold].network, images[fold][row], views)
            scale = min(48 / height, 64 / width)
            inner = round(height * scale), round(width * scale)
            top, left = (48 - inner[0]) // 2, (64 - inner[1]) // 2
            frame = frame[:, top : top + inner[0], left : left + inner[1]]
            for at in range(3):
                total[at] += fit_map(frame[at], (height, width))
            # Tiles of 32 x 32 in 40 x 72, half of which is shared at least.
            tiles = [(y, x) for y in (0, 8) for x in (0, 13, 27, 40)]
            summed, weights = np.zeros((2, 40, 72)), np.zeros((40, 72))
            ramp = 16.5 - np.abs(np.arange(32) - 15.5)
            for y, x in tiles:
                cut = images[2 + fold][row][y : y + 32, x : x + 32]
                seen = look_around(mappers[2 + fold].network, cut, [(1, 1), (-1, -1)])
                summed[:, y : y + 32, x : x + 32] += seen * np.outer(ramp, ramp)
                weights[y : y + 32, x : x + 32] += np.outer(ramp, ramp)
            for at, name in enumerate(mappers[2].classes):
                joined = (summed[at] / weights).astype(np.float32)
                total[CLASSES.index(name)] += fit_map(joined, (height, width))
        expected = total / np.array([4, 2, 4])[:, None, None]
        assert np.ptp(expected) > 0.05  # a map that says something
        np.testing.assert_allclose(maps, expected, atol=2e-5)


def test_only_what_is_wanted_is_drawn_and_only_its_images_enter(mixed, table):
    mappers = load_mappers(mixed, folds=(0,), device="cpu")
    images, shown = prepare(table, range(6), mappers)
    every = dict(draw_maps(mappers, CLASSES, images, shown, np.ones((6, 3), bool), shown=shown))
    wanted = np.zeros((6, 3), bool)
    wanted[1, 1] = wanted[4, 0] = wanted[4, 1] = True
    entered = {}
    for name, mapper in zip(("whole", "tiled"), mappers, strict=True):
        entered[name] = 0

        def count(module, given, name=name):
            entered[name] += len(given[0])

        mapper.network.register_forward_pre_hook(count)
    some = dict(draw_maps(mappers, CLASSES, images, shown, wanted, shown=shown))
    assert entered == {"whole": 2 * 3, "tiled": 8 * 2}  # images x views, tiles x views
    for row in range(6):
        assert some[row].shape == every[row].shape
        np.testing.assert_allclose(some[row], every[row] * wanted[row][:, None, None], atol=1e-6)


def test_batches_do_not_change_maps(mixed, table, monkeypatch):
    mappers = load_mappers(mixed, folds=(1,), device="cpu")
    images, shown = prepare(table, range(6), mappers)
    wanted = np.ones((6, 3), bool)
    sizes = np.tile([30, 44], (6, 1))
    at_once = [maps for _, maps in draw_maps(mappers, CLASSES, images, sizes, wanted, shown=shown)]
    monkeypatch.setattr("loupe.mapping.MOST_PIXELS", 2 * 40 * 72 + 1)
    few = [maps for _, maps in draw_maps(mappers, CLASSES, images, sizes, wanted, shown=shown)]
    assert {each.shape for each in few} == {(3, 30, 44)}
    np.testing.assert_allclose(few, at_once, atol=1e-5)


def test_a_crop_can_be_predicted_whole(tmp_path, table):
    recipe = make_recipe(input={"size": [40, 72], "crop": [32, 32]}, masks={"predict": "whole"})
    run = make_run(tmp_path / "r", table, {"a": (recipe, CROPPED)})
    mappers = load_mappers(run, folds=(0,), device="cpu")
    images, shown = prepare(table, [0], mappers)
    frame = np.array([[40, 72]])
    wanted = np.ones((1, 3), bool)
    ((_, maps),) = draw_maps(mappers, CLASSES, images, frame, wanted, shown=shown)
    np.testing.assert_allclose(maps, look(mappers[0].network, images[0][0]), atol=1e-5)


def test_a_subset_of_classes_in_another_order(mixed, table):
    mappers = load_mappers(mixed, folds=(0,), device="cpu")
    images, shown = prepare(table, [2], mappers)
    ((_, every),) = draw_maps(mappers, CLASSES, images, shown, np.ones((1, 3), bool), shown=shown)
    turned = ("stain", "crack")
    ((_, some),) = draw_maps(mappers, turned, images, shown, np.ones((1, 2), bool), shown=shown)
    np.testing.assert_allclose(some, every[[2, 0]], atol=1e-6)


def test_no_images_give_no_maps(mixed):
    mappers = load_mappers(mixed, folds=(0,), device="cpu")
    images = [np.zeros((0, m.spec.height, m.spec.width, 3), np.uint8) for m in mappers]
    none = np.zeros((0, 2), np.int64)
    assert not list(draw_maps(mappers, CLASSES, images, none, np.zeros((0, 3), bool), shown=none))


def test_a_class_that_nobody_draws_is_refused_where_it_is_wanted(mixed, table):
    mappers = load_mappers(mixed, folds=(0,), device="cpu")[1:]
    images, shown = prepare(table, [0, 1], mappers)
    wanted = np.ones((2, 3), bool)
    with pytest.raises(RunError, match=r"no network draws 'hole'; .* 'crack', 'stain'"):
        draw_maps(mappers, CLASSES, images, shown, wanted, shown=shown)
    wanted[:, 1] = False
    for _, maps in draw_maps(mappers, CLASSES, images, shown, wanted, shown=shown):
        assert not maps[1].any()
        assert maps[[0, 2]].all()


def test_shapes_that_do_not_agree_are_told_together(mixed, table):
    mappers = load_mappers(mixed, folds=(0,), device="cpu")
    images, shown = prepare(table, [0, 1], mappers)
    wanted = np.ones((2, 3), bool)
    with pytest.raises(InputError) as caught:
        draw_maps(mappers, CLASSES, images[::-1], shown[:1], wanted[:, :2], shown=shown)
    for part in ("wanted of bool", "sizes has the shape (1, 2)", "(2, 40, 72, 3), not (2, 48, 64"):
        assert part in str(caught.value)
    with pytest.raises(InputError, match="1 arrays of images for 2 networks"):
        draw_maps(mappers, CLASSES, images[:1], shown, wanted, shown=shown)


def test_maps_that_are_no_numbers_are_refused(mixed, table):
    mappers = load_mappers(mixed, folds=(0,), device="cpu")
    with torch.no_grad():
        next(mappers[0].network.parameters()).fill_(torch.nan)
    images, shown = prepare(table, [0], mappers)
    with pytest.raises(RunError, match="NaN"):
        list(draw_maps(mappers, CLASSES, images, shown, np.ones((1, 3), bool), shown=shown))


# The way back -------------------------------------------------------------------------------------


@pytest.mark.parametrize("resize", ["stretch", "pad"])
@pytest.mark.parametrize("shape", [(30, 50), (200, 64), (17, 160), (48, 48), (1, 300)])
def test_a_mask_prepared_and_brought_back_lands_within_a_pixel(shape, resize):
    spec = InputSpec(height=48, width=64, resize=resize)
    height, width = shape
    place = place_image(height, width, spec)
    white = prepare_image(np.full((*shape, 3), 255, np.uint8), spec)[..., 0] > 0
    expected = np.zeros((48, 64), bool)
    expected[place.slices] = True
    np.testing.assert_array_equal(white, expected)
    mask = np.zeros(shape, bool)
    mask[height // 4 : height // 4 + height // 2 + 1, width // 3 : width // 3 + width // 2] = True
    frame = prepare_masks(mask[..., None].astype(np.uint8), spec)[..., 0].astype(np.float32)
    back = fit_map(frame[place.slices], shape) >= 0.5
    # A pixel of the coarser of the two grids.
    reach = [
        2 * int(np.ceil(side / inner)) + 1
        for side, inner in zip(shape, (place.height, place.width), strict=True)
    ]
    kernel = np.ones(reach, np.uint8)
    grown = cv2.dilate(mask.astype(np.uint8), kernel) > 0
    shrunk = cv2.erode(mask.astype(np.uint8), kernel) > 0
    assert not (back & ~grown).any()
    assert not (shrunk & ~back).any()


def test_maps_are_resized_by_area_or_linearly_and_stay_probabilities():
    rng = np.random.default_rng(0)
    probs = rng.random((24, 36), np.float32)
    smaller = fit_map(probs, (8, 12))
    np.testing.assert_allclose(smaller, probs.reshape(8, 3, 12, 3).mean(axis=(1, 3)), atol=1e-6)
    wider = fit_map(probs, (8, 72))  # by area down, linearly along
    rows = probs.reshape(8, 3, 36).mean(axis=1)
    np.testing.assert_allclose(
        wider[:, 1:-1:2], rows[:, :-1] * 0.75 + rows[:, 1:] * 0.25, atol=1e-6
    )
    np.testing.assert_array_equal(fit_map(probs, (24, 36)), probs)
    ones = fit_map(np.ones((31, 47), np.float32), (13, 101))
    assert ones.min() > 1 - 1e-6
    assert ones.max() <= 1


def test_the_place_of_an_image_follows_from_its_shown_size_not_from_the_map(mixed, table):
    mappers = load_mappers(mixed, folds=(0,), device="cpu")[:1]
    images, shown = prepare(table, [4], mappers)  # 20 x 90 in 48 x 64
    wanted, one = np.ones((1, 3), bool), np.array([[14, 64]])
    ((_, maps),) = draw_maps(mappers, CLASSES, images, one, wanted, shown=shown)
    views = [(1, 1), (1, -1), (-1, 1)]
    frame = look_around(mappers[0].network, images[0][0], views)
    np.testing.assert_allclose(maps, frame[:, 17:31], atol=1e-5)
