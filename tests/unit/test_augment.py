"""Augmentation: exact moves, one map, exact colours, aligned masks, readable errors."""

import json
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from loupe import augment
from loupe.augment import (
    STEPS,
    Steps,
    apply_drawn,
    apply_to_masks,
    augment_image,
    augment_labelled,
    augment_pair,
    check_mask_dropout,
    describe_steps,
    draw,
    drops_masks,
    parse_steps,
    sample_rng,
)
from loupe.colour import Contrast, Gamma, Linear, Mix, apply_looks, hue_matrix, saturation_matrix
from loupe.erasing import EDGE_PX
from loupe.errors import InputError, RecipeError
from loupe.geometry import (
    bend,
    centred_matrix,
    mirror_matrix,
    move,
    rotation_matrix,
    start_geometry,
    warp,
    window_matrix,
)
from loupe.table import Table

MASKLESS = [name for name in STEPS if name != "MaskDropout"]
"""Steps that need an image alone."""
GOLDEN = [[1955424472, 327115102], [2682028131, 2910942141], [4286391542, 1418410790]]
GOLDEN_UNIFORM = [0.47978247157848164, 0.8466671872589429, 0.4156495024508309]


def make_image(height=24, width=24, channels=3, *, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, channels), np.uint8)


def make_smooth(height=64, width=64, channels=3):
    """An image that linear interpolation reproduces to a grey level or two."""
    return cv2.GaussianBlur(make_image(height, width, channels), (0, 0), 6).reshape(
        height, width, channels
    )


def run(image, *steps, key="a"):
    return augment_image(image, parse_steps(list(steps)), sample_rng(1, 0, key))


def certain(name, **parameters):
    needed = {"height": 16, "width": 16} if name == "RandomCrop" else {}
    return {name: {**needed, **parameters, "p": 1.0}}


# Exact moves


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("HorizontalFlip", lambda image: image[:, ::-1]),
        ("VerticalFlip", lambda image: image[::-1]),
        ("Transpose", lambda image: image.swapaxes(0, 1)),
    ],
)
def test_mirrors_and_transpose_move_pixels_exactly(name, expected, channels):
    image = make_image(channels=channels)
    found = run(image, certain(name))
    np.testing.assert_array_equal(found, expected(image))
    assert found.flags.c_contiguous


def test_random_rotate90_gives_exactly_the_four_turns():
    image = make_image()
    turns = [np.rot90(image, k) for k in range(4)]
    seen = set()
    for key in range(40):
        found = run(image, certain("RandomRotate90"), key=str(key))
        seen |= {k for k in range(4) if np.array_equal(found, turns[k])}
        assert any(np.array_equal(found, turn) for turn in turns)
    assert seen == {0, 1, 2, 3}


def test_an_oblong_image_keeps_its_size():
    image = make_image(12, 20)
    halves = [image, image[::-1, ::-1]]
    for key in range(10):
        found = run(image, certain("RandomRotate90"), key=str(key))
        assert any(np.array_equal(found, half) for half in halves)
    np.testing.assert_array_equal(run(image, certain("Transpose")), image)


def test_rotation_by_90_turns_as_numpy_does():
    image = make_image()
    found = run(image, certain("Rotate", limit=[90, 90]))
    np.testing.assert_array_equal(found, np.rot90(image))


def test_rotation_is_counter_clockwise_about_the_centre():
    image = np.zeros((41, 41, 1), np.uint8)
    image[20, 35] = 255  # 15 to the right of the centre
    found = run(image, certain("Rotate", limit=[30, 30]))
    y, x = np.unravel_index(found[..., 0].argmax(), (41, 41))
    # cos 30 * 15 = 13.0 to the right, sin 30 * 15 = 7.5 up.
    assert abs(int(x) - 33) <= 1
    assert abs(int(y) - 12.5) <= 1


def test_two_flips_are_no_change_at_all():
    image = make_image(13, 17)
    for name in ("HorizontalFlip", "VerticalFlip"):
        assert run(image, certain(name), certain(name)) is image
    four = [certain("Rotate", limit=[90, 90])] * 4
    np.testing.assert_array_equal(run(make_image(), *four), make_image())


@pytest.mark.parametrize(
    "step",
    [
        certain("Affine", translate_percent=[0.25, 0.25]),
        certain("ShiftScaleRotate", shift_limit=[0.25] * 2, scale_limit=0, rotate_limit=0),
    ],
)
def test_shifts_are_fractions_of_each_side_to_the_right_and_down(step):
    image = make_image(8, 20)
    found = run(image, step)
    np.testing.assert_array_equal(found[2:, 5:], image[:-2, :-5])


@pytest.mark.parametrize(
    "step",
    [
        certain("Affine", scale=[2, 2], border="constant"),
        certain("ShiftScaleRotate", shift_limit=0, scale_limit=[1, 1], rotate_limit=0),
    ],
)
def test_a_scale_above_one_enlarges(step):
    image = np.zeros((41, 41, 1), np.uint8)
    image[15:26, 15:26] = 200
    found = run(image, step)
    # 11 pixels become 22; the linear ramp at each edge is half bright in its middle.
    assert (found[20, :, 0] > 99).sum() in {21, 22, 23}
    np.testing.assert_array_equal(found, found[::-1, ::-1])


def test_random_crop_is_a_slice():
    image = make_image(20, 30)
    places = set()
    for key in range(60):
        found = run(image, certain("RandomCrop", height=18, width=28), key=str(key))
        hits = [
            (y, x)
            for y in range(3)
            for x in range(3)
            if np.array_equal(found, image[y : y + 18, x : x + 28])
        ]
        assert len(hits) == 1
        places |= set(hits)
    assert len(places) == 9


def test_random_crop_fills_what_is_missing():
    image = make_image(4, 30)
    found = run(image, certain("RandomCrop", height=10, width=30))
    assert found.shape == (10, 30, 3)
    folded = [np.pad(image, ((n, 6 - n), (0, 0), (0, 0)), mode="reflect") for n in range(7)]
    assert sum(np.array_equal(found, one) for one in folded) >= 1


def test_flip_and_crop_together_stay_exact():
    image = make_image(20, 20)
    steps = [certain("RandomCrop", height=12, width=14), certain("VerticalFlip")]
    plain = run(image, steps[0])
    np.testing.assert_array_equal(run(image, *steps), plain[::-1])


# One map


def test_moves_compose_as_points_do():
    size = (31, 47)
    linear = np.array([[1.2, 0.3], [-0.1, 0.8]])
    matrices = [
        centred_matrix(size, linear, (3.0, -2.0)),
        rotation_matrix(size, 25),
        mirror_matrix(size, horizontal=True),
        window_matrix((2.5, 4.0, 20.0, 30.0), size),
    ]
    geometry = start_geometry(*size)
    for matrix in matrices:
        geometry = move(geometry, matrix)
    points = np.array([[0, 46, 10.5], [0, 30, 7.25], [1, 1, 1]])
    walked = points
    for matrix in reversed(matrices):
        walked = matrix @ walked
    np.testing.assert_allclose(geometry.matrix @ points, walked, atol=1e-9)


def test_a_centred_move_goes_forward_about_the_centre():
    # Forward: the point 4 right of the centre of an 11 x 21 canvas, doubled, then moved.
    matrix = centred_matrix((11, 21), np.diag([2.0, 2.0]), (1.0, -3.0))
    np.testing.assert_allclose(matrix @ [10 + 8 + 1, 5 - 3, 1], [14, 5, 1])


@pytest.mark.parametrize(
    "steps",
    [
        [certain("Affine"), certain("Rotate"), certain("HorizontalFlip")],
        [certain("GridDistortion"), certain("ElasticTransform", alpha=60)],
        [certain("Rotate", limit=[20, 20]), certain("GridDistortion"), certain("Affine")],
        [certain("RandomResizedCrop", scale=[0.4, 0.6]), certain("ElasticTransform", alpha=40)],
        [certain("RandomCrop", height=40, width=52), certain("Rotate"), certain("VerticalFlip")],
    ],
)
def test_one_map_shows_what_one_move_after_the_other_shows(steps):
    # A ramp of coordinates is reproduced by linear interpolation wherever no border
    # is involved, so warping step by step must agree with the composed map.
    y, x = np.mgrid[:64, :64]
    image = np.dstack([3 * x + 30, 3 * y + 30, 0 * x]).astype(np.uint8)
    parsed = parse_steps(steps)
    rng = sample_rng(3, 0, "x")
    whole = start_geometry(64, 64)
    apart = image
    inside = np.full((64, 64, 1), 255, np.uint8)
    for step in parsed:
        rng.random()
        state = rng.bit_generator.state
        whole = step.extend(whole, rng)
        rng.bit_generator.state = state
        alone = step.extend(start_geometry(*apart.shape[:2]), rng)
        apart = warp(apart, alone)
        # Erode where the border was read, on the way too.
        inside = warp(inside, move(alone, np.eye(3), border="constant"))
    safe = cv2.erode(inside, np.ones((5, 5)), borderValue=0) == 255
    assert safe.mean() > 0.2
    together = warp(image, whole).astype(int)
    assert np.abs(together - apart)[safe].max() <= 2 * len(steps)


def test_pixels_are_resampled_once(monkeypatch):
    calls = []
    for name in ("warpAffine", "remap", "resize"):
        real = getattr(cv2, name)
        monkeypatch.setattr(
            cv2, name, lambda *a, _n=name, _r=real, **k: (calls.append(_n), _r(*a, **k))[1]
        )
    moves = ["Affine", "Rotate", "ShiftScaleRotate", "RandomResizedCrop", "HorizontalFlip"]
    run(make_image(), *(certain(name) for name in moves))
    assert calls == ["warpAffine"]
    calls.clear()
    run(make_image(), *(certain(name) for name in [*moves[:3], "GridDistortion"]))
    assert calls == ["remap"]
    calls.clear()
    run(make_image(), *(certain(n) for n in ["VerticalFlip", "Transpose", "RandomRotate90"]))
    assert calls == []


def test_a_window_is_stretched_edge_to_edge():
    y, x = np.mgrid[:25, :25]
    image = np.dstack([10 * x, 10 * y, 5 * (x + y)]).astype(np.uint8)
    geometry = move(start_geometry(25, 25), window_matrix((8, 5, 10, 12), (30, 36)), size=(30, 36))
    found = warp(image, geometry)
    expected = cv2.resize(image[8:18, 5:17], (36, 30), interpolation=cv2.INTER_LINEAR)
    # The outermost pixels may look past the window, which a resized slice cannot.
    assert np.abs(found.astype(int) - expected)[1:-1, 1:-1].max() <= 1


def test_reflection_does_not_repeat_the_edge():
    image = np.arange(5, dtype=np.uint8).reshape(1, 5, 1) * 10
    shifted = move(start_geometry(1, 5), centred_matrix((1, 5), np.eye(2), (2, 0)))
    assert warp(image, shifted).ravel().tolist() == [20, 10, 0, 10, 20]
    black = move(shifted, np.eye(3), border="constant")
    assert warp(image, black).ravel().tolist() == [0, 0, 0, 10, 20]


def test_a_displacement_reads_from_where_it_points():
    image = make_image(9, 9)
    shift = np.zeros((2, 9, 9), np.float32)
    shift[0], shift[1] = 2, -1
    found = warp(image, bend(start_geometry(9, 9), shift))
    np.testing.assert_array_equal(found[1:, :7], image[:8, 2:])


def test_grid_distortion_keeps_the_edges_of_the_image():
    y, x = np.mgrid[:50, :50]
    image = np.dstack([5 * x, 5 * y, x]).astype(np.uint8)
    found = run(image, certain("GridDistortion", distort_limit=0.6))
    assert found[25, 0, 0] <= 8
    assert found[25, -1, 0] >= 237
    assert (np.diff(found[25, :, 0].astype(int)) >= 0).all()


def test_elastic_strength_is_the_documented_one():
    steps = parse_steps([certain("ElasticTransform", alpha=120, sigma=6)])
    shifts = [draw(steps, sample_rng(1, 0, str(k)), 200, 200).geometry.bends[0] for k in range(5)]
    # Uniform noise of deviation 1 / sqrt(3), blurred: divided by 2 sqrt(pi) sigma.
    expected = 120 / np.sqrt(3) / (2 * np.sqrt(np.pi) * 6)
    assert np.std([one.shift for one in shifts]) == pytest.approx(expected, rel=0.15)
    assert np.mean(np.abs([one.shift for one in shifts])) == pytest.approx(0.13 * 20, rel=0.15)


# Masks


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "name", [name for name, kind in STEPS.items() if issubclass(kind, augment.GeometricStep)]
)
def test_masks_stay_on_their_image(name, channels):
    y, x = np.mgrid[:96, :96]
    disc = (y - 50) ** 2 + (x - 42) ** 2 < 22**2
    image = np.repeat(disc[..., None] * np.uint8(255), channels, axis=2)
    masks = np.dstack([disc, ~disc, disc, disc, ~disc])
    larger = {"height": 80, "width": 80} if name == "RandomCrop" else {}
    for key in range(5):
        steps = parse_steps([certain(name, **larger)])
        found, moved = augment_pair(image, masks, steps, sample_rng(1, 0, str(key)))
        assert moved.dtype == np.bool_
        seen = found[..., 0] > 127
        union = (seen | moved[..., 0]).sum()
        assert union == 0 or (seen & moved[..., 0]).sum() / union > 0.95
        np.testing.assert_array_equal(moved[..., 4], ~moved[..., 0])


def test_shuffled_tiles_take_their_masks_along():
    image = make_image(30, 33, 1)
    found, masks = augment_pair(
        image, image, parse_steps([certain("RandomGridShuffle")]), sample_rng(1, 0, "a")
    )
    np.testing.assert_array_equal(found, masks)
    np.testing.assert_array_equal(np.sort(found, axis=None), np.sort(image, axis=None))
    tiles = {image[y : y + 10, x : x + 11].tobytes() for y in (0, 10, 20) for x in (0, 11, 22)}
    assert {
        found[y : y + 10, x : x + 11].tobytes() for y in (0, 10, 20) for x in (0, 11, 22)
    } == tiles
    assert not np.array_equal(found, image)


def test_masks_keep_their_values_and_pass_looks_unchanged():
    masks = np.full((20, 20, 2), 7, np.uint8)
    masks[5:9] = 200
    image = make_image(20, 20)
    looks = parse_steps([certain("RandomBrightnessContrast"), certain("CoarseDropout")])
    assert augment_pair(image, masks, looks, sample_rng(1, 0, "a"))[1] is masks
    turned = augment_pair(image, masks, parse_steps([certain("Rotate")]), sample_rng(1, 0, "a"))
    assert set(np.unique(turned[1])) == {7, 200}


def test_no_masks_are_moved_to_no_masks():
    drawn = draw(parse_steps([certain("Rotate")]), sample_rng(1, 0, "a"), 8, 6)
    assert apply_to_masks(np.zeros((8, 6, 0), bool), drawn).shape == (8, 6, 0)


def test_image_and_pair_see_the_same():
    steps = parse_steps([certain("Affine"), certain("GaussNoise"), "RandomGridShuffle"])
    image = make_image()
    alone = augment_image(image, steps, sample_rng(4, 2, "b"))
    pair = augment_pair(image, image > 99, steps, sample_rng(4, 2, "b"))
    np.testing.assert_array_equal(alone, pair[0])


# Colour


def test_brightness_and_contrast_follow_the_formula():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    step = certain(
        "RandomBrightnessContrast", brightness_limit=[0.1, 0.1], contrast_limit=[0.3] * 2
    )
    expected = np.rint(np.clip(1.3 * ramp.astype(float) + 25.5, 0, 255))
    np.testing.assert_array_equal(run(ramp, step), expected)
    np.testing.assert_array_equal(run(np.repeat(ramp, 3, 2), step), np.repeat(expected, 3, 2))


def test_gamma_follows_the_formula():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    expected = np.rint(255 * (ramp / 255) ** 0.5)
    np.testing.assert_array_equal(run(ramp, certain("RandomGamma", gamma_limit=[50, 50])), expected)


def test_tone_changes_in_a_row_are_rounded_once():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    twice = apply_looks(ramp, [Gamma(exponent=3.0), Gamma(exponent=1 / 3)])
    np.testing.assert_array_equal(twice, ramp)


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.7])
def test_contrast_keeps_the_mean_brightness(factor):
    image = make_image() // 4 + 96
    found = apply_looks(image, [Contrast(scale=factor)])
    luma = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    assert cv2.cvtColor(found, cv2.COLOR_RGB2GRAY).mean() == pytest.approx(luma.mean(), abs=1)
    assert found.astype(float).std() == pytest.approx(
        np.clip(factor * (image - luma.mean()), -128, 127).std(), abs=1.5
    )


def test_contrast_after_a_change_uses_the_changed_mean():
    image = make_image() // 4
    run_of_three = [Linear(offset=100), Mix(matrix=hue_matrix(40)), Contrast(scale=0.0)]
    found = apply_looks(image, run_of_three)
    moved = apply_looks(image, run_of_three[:2])
    expected = cv2.cvtColor(moved, cv2.COLOR_RGB2GRAY).mean()
    assert np.ptp(found) <= 1
    assert found.mean() == pytest.approx(expected, abs=1)


def test_a_dark_image_brightened_again_keeps_its_detail():
    image = make_image()
    looks = [Linear(offset=-200), Mix(matrix=np.eye(3)), Linear(offset=200)]
    np.testing.assert_allclose(apply_looks(image, looks), image, atol=1)


def test_hue_turns_red_to_green_to_blue():
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 240
    green = run(
        red,
        certain(
            "HueSaturationValue", hue_shift_limit=[60, 60], sat_shift_limit=0, val_shift_limit=0
        ),
    )
    assert green[0, 0].tolist() == [0, 240, 0]
    blue = apply_looks(red, [Mix(matrix=hue_matrix(240))])
    assert blue[0, 0].tolist() == [0, 0, 240]


@pytest.mark.parametrize("name", ["HueSaturationValue", "ColorJitter", "ToGray"])
def test_grey_stays_grey(name):
    grey = np.repeat(make_image(channels=1), 3, axis=2)
    for key in range(5):
        found = run(grey, certain(name), key=str(key)).astype(int)
        assert np.ptp(found, axis=2).max() <= 1


def test_saturation_and_grey_use_perceived_brightness():
    image = make_image()
    luma = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(int)
    found = run(image, certain("ToGray"))
    assert np.abs(found - luma[..., None]).max() <= 1
    np.testing.assert_allclose(saturation_matrix(1), np.eye(3))
    grey = make_image(channels=1)
    assert run(grey, certain("ToGray")) is grey


def test_noise_has_the_drawn_variance_and_channels():
    flat = np.full((100, 100, 3), 128, np.uint8)
    noise = run(flat, certain("GaussNoise", var_limit=[100, 100])).astype(float) - 128
    assert noise.std() == pytest.approx(10, rel=0.05)
    assert abs(noise.mean()) < 0.3
    assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.05
    grey = run(flat, certain("GaussNoise", var_limit=[100, 100], per_channel=False))
    assert np.ptp(grey, axis=2).max() == 0
    assert np.ptp(grey) > 0


@pytest.mark.parametrize("name", ["GaussianBlur", "MotionBlur"])
def test_blurs_keep_the_mean_and_shift_nothing(name):
    image = np.zeros((31, 31, 1), np.uint8)
    image[15, 15] = 255
    for key in range(12):
        found = run(image, certain(name, blur_limit=9), key=str(key))[..., 0].astype(float)
        assert found.max() < 255
        assert found.sum() == pytest.approx(255, abs=20)
        y, x = np.mgrid[:31, :31]
        assert (found * x).sum() / found.sum() == pytest.approx(15, abs=1e-9)
        assert (found * y).sum() / found.sum() == pytest.approx(15, abs=1e-9)


def test_clahe_spreads_a_narrow_histogram():
    image = make_smooth() // 8 + 100
    found = run(image, certain("CLAHE", clip_limit=[4, 4], tile_grid_size=[2, 2]))
    assert found.std() > 1.5 * image.std()


def test_holes_lie_inside_and_have_the_drawn_size():
    image = np.full((40, 60, 3), 200, np.uint8)
    step = certain("CoarseDropout", max_holes=1, max_height=0.25, max_width=7, fill_value=9)
    found = run(image, step)
    ys, xs = np.nonzero((found == 9).all(axis=2))
    assert (np.ptp(ys) + 1, np.ptp(xs) + 1, len(ys)) == (10, 7, 70)
    assert (image == 200).all()
    many = run(image, certain("CoarseDropout", max_holes=5, min_holes=2, min_height=1))
    assert (many == 0).any()


# Chance


def test_random_numbers_are_a_function_of_seed_epoch_and_id():
    # Fixed for good: a continued training must draw what the first part would have.
    assert sample_rng(0, 0, "").integers(2**32, size=2).tolist() == GOLDEN[0]
    assert sample_rng(7, 3, "images/é 1.png").integers(2**32, size=2).tolist() == GOLDEN[1]
    assert sample_rng(7, 3, "bad\udcff.png").integers(2**32, size=2).tolist() == GOLDEN[2]
    keys = {(1, 11, "a"), (11, 1, "a"), (1, 1, "1a"), (1, 1, "a"), (1, 1, "A"), (-1, 1, "a")}
    assert len({sample_rng(*key).random() for key in keys}) == len(keys)


def test_uniform_numbers_are_the_golden_ones():
    assert sample_rng(1, 2, "x").random(3).tolist() == GOLDEN_UNIFORM


def test_order_and_threads_change_nothing():
    steps = parse_steps([certain(name) for name in MASKLESS])
    image = make_image(32, 32)
    keys = [str(k) for k in range(16)]

    def one(key):
        return augment_image(image, steps, sample_rng(5, 1, key)).tobytes()

    expected = {key: one(key) for key in keys}
    with ThreadPoolExecutor(4) as pool:
        backwards = dict(zip(keys[::-1], pool.map(one, keys[::-1]), strict=True))
    assert backwards == expected


def test_global_random_state_is_neither_read_nor_written():
    steps = parse_steps([certain(name) for name in MASKLESS])
    before = np.random.get_state()[1].copy()  # noqa: NPY002  the state must stay as it is
    cv2.setRNGSeed(1)
    first = augment_image(make_image(), steps, sample_rng(5, 1, "a"))
    cv2.setRNGSeed(2)
    np.testing.assert_array_equal(augment_image(make_image(), steps, sample_rng(5, 1, "a")), first)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_what_was_drawn_can_be_applied_again():
    drawn = draw(parse_steps([certain(name) for name in MASKLESS]), sample_rng(1, 0, "a"), 24, 24)
    image = make_image()
    np.testing.assert_array_equal(apply_drawn(image, drawn), apply_drawn(image, drawn))


@pytest.mark.parametrize("name", [name for name in MASKLESS if name != "RandomCrop"])
def test_probability_zero_is_identity(name):
    image = make_image()
    assert run(image, {name: {"p": 0}}) is image


def test_probability_is_the_share_of_samples():
    image = np.array([[[0], [1]]], np.uint8)
    steps = parse_steps([{"HorizontalFlip": {"p": 0.3}}])
    flips = sum(
        int(augment_image(image, steps, sample_rng(1, 0, str(k)))[0, 0, 0]) for k in range(2000)
    )
    # Four deviations of a binomial around 600.
    assert abs(flips - 600) < 82


def test_probability_one_is_always():
    image = np.array([[[0], [1]]], np.uint8)
    assert all(run(image, certain("HorizontalFlip"), key=str(k))[0, 0, 0] for k in range(300))


def test_the_input_is_not_written_to():
    image = make_image(32, 32)
    masks = np.zeros((32, 32, 1), bool)
    masks[8:12, 8:12] = True
    for array in (image, masks):
        array.flags.writeable = False
    for name in STEPS:
        augment_pair(image, masks, parse_steps([certain(name)]), sample_rng(1, 0, "a"))


# Defects painted away


def make_defects(height=40, width=60):
    """Two defects of class 0 far apart, one of class 1, and a class without any."""
    masks = np.zeros((height, width, 3), bool)
    masks[5:9, 5:9, 0] = True
    masks[5:9, 40:50, 0] = True
    masks[25:30, 20:30, 1] = True
    return masks


def drop(image, masks, targets=(1, 1, 1), *, key="a", **parameters):
    steps = parse_steps([certain("MaskDropout", **parameters)])
    return augment_labelled(image, masks, np.float32(targets), steps, sample_rng(1, 0, key))


def test_a_class_loses_its_target_when_all_its_defects_are_gone():
    image, masks = make_image(40, 60), make_defects()
    _, targets = drop(image, masks, max_objects=[3, 3])
    assert targets.dtype == np.float32
    # Class 2 never had pixels; what its label means is not seen, so it stays.
    assert targets.tolist() == [0, 0, 1]


def test_a_class_with_a_defect_left_keeps_its_target():
    image, masks = make_image(40, 60), make_defects()
    seen = {tuple(drop(image, masks, key=str(k))[1].tolist()) for k in range(30)}
    # One of three is taken: either of class 0, which has another, or that of class 1.
    assert seen == {(1, 1, 1), (1, 0, 1)}


def test_targets_that_are_soft_or_absent_stay_unless_they_are_cleared():
    _, targets = drop(make_image(40, 60), make_defects(), (0.25, 0.75, 0), max_objects=[3, 3])
    assert targets.tolist() == [0, 0, 0]
    _, targets = drop(make_image(40, 60), np.zeros((40, 60, 3), bool), (0.25, 0.75, 0))
    assert targets.tolist() == [0.25, 0.75, 0]


@pytest.mark.parametrize("channels", [1, 3])
def test_all_pixels_of_a_defect_and_its_edge_are_filled_and_no_others(channels):
    image = np.full((40, 60, channels), 100, np.uint8)
    masks = np.zeros((40, 60, 1), np.uint8)
    masks[20, 30] = 1
    found, targets = drop(image, masks, [1], fill=7)
    side = 2 * EDGE_PX + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)) > 0
    expected = np.zeros((40, 60), bool)
    expected[20 - EDGE_PX : 21 + EDGE_PX, 30 - EDGE_PX : 31 + EDGE_PX] = disc
    np.testing.assert_array_equal((found == 7).all(axis=2), expected)
    assert (found[~expected] == 100).all()
    assert targets.tolist() == [0]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_painted_defect_takes_the_colour_around_it(channels):
    ramp = np.linspace(50, 200, 60).astype(np.uint8)
    clean = np.broadcast_to(ramp[None, :, None], (40, 60, channels)).copy()
    masks = np.zeros((40, 60, 1), bool)
    masks[15:22, 25:32] = True
    spoilt = clean.copy()
    spoilt[masks[..., 0]] = 0
    found, _ = drop(spoilt, masks, [1])
    assert found.shape == clean.shape
    assert np.abs(found.astype(int) - clean).max() <= 12
    assert np.abs(spoilt.astype(int) - clean).max() > 100


def test_painting_a_part_of_the_image_is_painting_in_the_whole():
    image = make_smooth(80, 90)
    masks = np.zeros((80, 90, 1), bool)
    masks[30:41, 50:53] = True
    found, _ = drop(image, masks, [1])
    side = 2 * EDGE_PX + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    hole = cv2.dilate(masks[..., 0].view(np.uint8), disc)
    np.testing.assert_array_equal(found, cv2.inpaint(image, hole, 3, cv2.INPAINT_TELEA))


def test_pieces_that_nearly_touch_are_one_defect():
    masks = np.zeros((20, 60, 1), bool)
    masks[10, 5:50:4] = True  # a crack of one pixel in four
    assert drop(make_image(20, 60), masks, [1])[1].tolist() == [0]
    masks[10] = False
    masks[10, 5] = masks[10, 5 + 2 * EDGE_PX + 2] = True
    assert drop(make_image(20, 60), masks, [1])[1].tolist() == [1]


def test_other_defects_are_spared_unless_they_lie_under_one():
    masks = np.zeros((30, 30, 2), bool)
    masks[10:20, 10:15, 0] = True
    masks[10:20, 16, 1] = True  # within the edge of the first
    image = np.full((30, 30, 3), 100, np.uint8)
    steps = parse_steps([certain("MaskDropout", fill=0)])
    spared = set()
    for key in range(20):
        found, left = augment_pair(image, masks, steps, sample_rng(1, 0, str(key)))
        np.testing.assert_array_equal(left.any(axis=(0, 1)).sum(), 1)
        kept = masks[..., int(left.any(axis=(0, 1)).argmax())]
        assert (found[kept] == 100).all()
        spared.add(int(left.any(axis=(0, 1)).argmax()))
    assert spared == {0, 1}
    inside = np.zeros((30, 30, 2), bool)
    inside[5:25, 5:25, 0] = True
    inside[10:12, 10:12, 1] = True
    seen = {tuple(drop(image, inside, (1, 1), key=str(k))[1].tolist()) for k in range(20)}
    assert seen == {(0, 0), (1, 0)}


def test_a_defect_that_fills_the_image_is_filled_by_number_alone():
    image, masks = make_image(8, 8), np.ones((8, 8, 1), bool)
    found, targets = drop(image, masks, [1])
    np.testing.assert_array_equal(found, image)
    assert targets.tolist() == [1]
    found, targets = drop(image, masks, [1], fill=9)
    assert (found == 9).all()
    assert targets.tolist() == [0]


def test_masks_as_numbers_and_as_bool_do_the_same():
    image, masks = make_image(40, 60), make_defects()
    one = drop(image, masks, max_objects=2)
    other = drop(image, masks.astype(np.uint8) * 255, max_objects=2)
    for found, expected in zip(one, other, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_without_mask_dropout_a_labelled_image_is_an_augmented_image():
    image, targets = make_image(), np.float32([1, 0])
    steps = parse_steps(["HorizontalFlip", certain("Rotate"), "GaussNoise"])
    for key in "abcdef":
        found, same = augment_labelled(image, None, targets, steps, sample_rng(1, 0, key))
        np.testing.assert_array_equal(found, augment_image(image, steps, sample_rng(1, 0, key)))
        assert same is targets


def test_the_other_steps_follow_the_painting():
    image, masks = make_image(40, 60), make_defects()
    # The painting stands last in the list, and is done first.
    written = [
        certain("VerticalFlip"),
        certain("HorizontalFlip"),
        certain("MaskDropout", max_objects=[3, 3]),
    ]
    found, targets = augment_labelled(
        image, masks, np.ones(3, np.float32), parse_steps(written), sample_rng(1, 0, "a")
    )
    alone, _ = drop(image, masks, max_objects=[3, 3])
    np.testing.assert_array_equal(found, alone[::-1, ::-1])
    assert targets.tolist() == [0, 0, 1]


def test_a_crop_that_cuts_a_defect_off_clears_no_label():
    steps = parse_steps([{"RandomCrop": {"height": 4, "width": 4}}, {"MaskDropout": {"p": 0.0}}])
    masks = np.zeros((40, 40, 1), bool)
    masks[0, 0] = True
    found, targets = augment_labelled(
        make_image(40, 40), masks, np.ones(1, np.float32), steps, sample_rng(1, 0, "a")
    )
    assert found.shape == (4, 4, 3)
    assert targets.tolist() == [1]


def test_masks_of_a_pair_are_cleared_and_moved_with_their_image():
    image, masks = make_image(40, 60), make_defects()
    steps = parse_steps([certain("MaskDropout", max_objects=[3, 3]), certain("HorizontalFlip")])
    _, left = augment_pair(image, masks, steps, sample_rng(1, 0, "a"))
    assert left.dtype == np.bool_
    assert not left.any()
    one = parse_steps([certain("MaskDropout"), certain("HorizontalFlip")])
    _, left = augment_pair(image, masks, one, sample_rng(1, 0, "a"))
    assert 0 < left.sum() < masks.sum()
    assert not (left & ~masks[:, ::-1]).any()


def test_mask_dropout_asks_for_masks():
    steps = parse_steps(["HorizontalFlip", "MaskDropout"])
    assert drops_masks(steps)
    assert not drops_masks(steps[:1])
    with pytest.raises(InputError, match="MaskDropout needs the masks of an image"):
        augment_image(make_image(), steps, sample_rng(1, 0, "a"))
    targets = np.ones(2, np.float32)
    with pytest.raises(InputError, match=r"each of 2 class\(es\); found none"):
        augment_labelled(make_image(), None, targets, steps, sample_rng(1, 0, "a"))
    for masks in (np.zeros((24, 24, 1), bool), np.zeros((24, 24), bool)):
        with pytest.raises(InputError, match=r"Expected \(height, width, 2\)"):
            augment_labelled(make_image(), masks, targets, steps, sample_rng(1, 0, "a"))
    for masks in (np.zeros((24, 25, 2), bool), np.zeros((24, 24, 2), np.int32)):
        with pytest.raises(InputError, match="of one height and width"):
            augment_labelled(make_image(), masks, targets, steps, sample_rng(1, 0, "a"))


def test_a_table_must_have_masks_of_classes_that_stand_alone(tmp_path):
    plain = {
        "ids": ("a",),
        "images": (tmp_path / "a",),
        "classes": ("pit", "rust"),
        "targets": np.float32([[1, 0]]),
    }
    check_mask_dropout(Table(**plain, exclusive=False, masks=(("1 2", ""),)))
    with pytest.raises(RecipeError, match="layout 'memory' brings no masks"):
        check_mask_dropout(Table(**plain, exclusive=False))
    with pytest.raises(RecipeError, match="the classes pit, rust are exclusive"):
        check_mask_dropout(Table(**plain, exclusive=True, masks=(("1 2", ""),)))


# Input


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_an_image_of_another_kind_is_refused(image):
    with pytest.raises(InputError, match="expected"):
        augment_image(image, (), sample_rng(1, 0, "a"))


def test_masks_of_another_size_or_kind_are_refused():
    image = make_image(8, 8)
    for masks in (np.zeros((8, 9, 1), bool), np.zeros((8, 8, 1), np.int32)):
        with pytest.raises(InputError, match="expected"):
            augment_pair(image, masks, (), sample_rng(1, 0, "a"))


# Recipes


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    augment: Steps = ()


def test_all_forms_of_a_step_are_read():
    text = """
    - HorizontalFlip
    - VerticalFlip:
    - Rotate: {limit: 20, p: 1}
    - {name: Rotate, limit: [-20, 20], p: 1.0}
    """
    steps = parse_steps(yaml.safe_load(text))
    assert [step.name for step in steps] == ["HorizontalFlip", "VerticalFlip", "Rotate", "Rotate"]
    assert steps[2] == steps[3]
    assert parse_steps(steps) == steps


@pytest.mark.parametrize(
    ("written", "field", "expected"),
    [
        ({"Rotate": {"limit": 20}}, "limit", (-20, 20)),
        ({"Rotate": {"limit": [5, 20]}}, "limit", (5, 20)),
        ({"ColorJitter": {"contrast": 0.4}}, "contrast", (0.6, 1.4)),
        ({"ColorJitter": {"contrast": 2}}, "contrast", (0, 3)),
        ({"GaussNoise": {"var_limit": 30}}, "var_limit", (0, 30)),
        ({"CLAHE": {"clip_limit": 2}}, "clip_limit", (1, 2)),
        ({"GaussianBlur": {"blur_limit": 9}}, "blur_limit", (3, 9)),
        ({"MaskDropout": {"max_objects": 3}}, "max_objects", (1, 3)),
        ("MaskDropout", "max_objects", (1, 1)),
        ("Affine", "rotate", (-15, 15)),
        ({"Affine": {"p": 1.0}}, "scale", (0.9, 1.1)),
        ({"Affine": {"shear": [0, 5]}}, "rotate", (0, 0)),
        ({"Affine": {"shear": [0, 5]}}, "scale", (1, 1)),
    ],
)
def test_a_number_stands_for_a_range(written, field, expected):
    assert getattr(parse_steps([written])[0], field) == pytest.approx(expected)


@pytest.mark.parametrize(
    "written", ["GridShuffle", {"GridShuffle": {}}, {"name": "GridShuffle", "grid": [3, 3]}]
)
def test_grid_shuffle_is_another_name_of_random_grid_shuffle(written):
    assert parse_steps([written]) == parse_steps(["RandomGridShuffle"])


def test_every_step_survives_yaml_and_json():
    steps = parse_steps([certain(name) for name in STEPS])
    part = Part(augment=steps)
    assert Part.model_validate(yaml.safe_load(yaml.safe_dump(part.model_dump(mode="json")))) == part
    assert Part.model_validate_json(part.model_dump_json()) == part
    defaults = Part(augment=[name for name in STEPS if name != "RandomCrop"])
    assert Part.model_validate_json(defaults.model_dump_json()) == defaults


def test_all_findings_stand_in_one_message():
    written = [
        "HorizontalFlop",
        {"Rotate": {"limitt": 20, "p": 1.5}},
        {"Rotate": {"limit": "x"}},
        {"GaussianBlur": {"blur_limit": [4, 4]}},
        {"Affine": {"rotate": 20}},
        {"RandomCrop": {"height": 0, "p": 0.5}},
        {"HorizontalFlip": {}, "VerticalFlip": {}},
        17,
        "HorizontalFlip",
        {"CoarseDropout": {"min_holes": 9}},
        "Posterize",
    ]
    with pytest.raises(RecipeError) as caught:
        parse_steps(written)
    text = str(caught.value)
    for part in (
        "step 1: 'HorizontalFlop' is not a step; did you mean 'HorizontalFlip'",
        "step 2 (Rotate), 'limitt': not a parameter; did you mean 'limit'",
        "step 2 (Rotate), p: found 1.5; input should be less than or equal to 1",
        "step 3 (Rotate), limit: found 'x'; expected a number or [low, high]",
        "step 4 (GaussianBlur), blur_limit: found [4, 4]; expected a range with an odd number",
        "step 5 (Affine), rotate: found 20; expected [low, high]",
        "step 6 (RandomCrop), height: found 0",
        "step 6 (RandomCrop), width: not given, but needed",
        "step 6 (RandomCrop), p: found 0.5",
        "step 7: found {'HorizontalFlip': {}, 'VerticalFlip': {}}; expected a name",
        "step 8: found 17",
        "step 10 (CoarseDropout), expected min_holes <= max_holes",
        "step 11: 'Posterize' is not a step; expected one of Affine",
        "Write a step as",
    ):
        assert part in text
    assert "step 9" not in text
    assert "13 finding(s)" in text


@pytest.mark.parametrize(
    "written",
    [
        {"Rotate": {"limit": [20, 10]}},
        {"Rotate": {"limit": -20}},
        {"Rotate": {"limit": True}},
        {"Rotate": {"limit": [1, 2, 3]}},
        {"Rotate": {"limit": float("nan")}},
        {"Rotate": {"limit": 181}},
        {"Rotate": {"p": "0.5"}},
        {"Rotate": {"p": True}},
        {"Rotate": {"border": "wrap"}},
        {"Affine": {"scale": [0.1, 1]}},
        {"RandomGamma": {"gamma_limit": 80}},
        {"RandomResizedCrop": {"scale": [0, 1]}},
        {"GaussianBlur": {"blur_limit": [3, 7.5]}},
        {"CoarseDropout": {"max_height": 8, "min_height": 0.1}},
        {"CoarseDropout": {"max_height": 1.5}},
        {"CLAHE": {"tile_grid_size": 8}},
        {"MaskDropout": {"max_objects": 0}},
        {"MaskDropout": {"max_objects": [1, 2.5]}},
        {"MaskDropout": {"fill": 256}},
        {"MaskDropout": {"fill": "black"}},
    ],
)
def test_values_that_make_no_sense_are_refused(written):
    with pytest.raises(RecipeError, match="1 finding"):
        parse_steps([written])


def test_steps_must_be_a_list():
    with pytest.raises(RecipeError, match="expected a list of steps"):
        parse_steps({"Rotate": {}})


def test_errors_reach_the_model_that_has_steps_as_a_field():
    with pytest.raises(ValidationError, match="did you mean 'Rotate'"):
        Part(augment=["Rotat"])


def test_the_schema_knows_all_forms():
    items = Part.model_json_schema()["properties"]["augment"]["items"]["anyOf"]
    assert items[0]["enum"] == list(STEPS)
    assert set(items[1]["properties"]) == set(STEPS)
    assert len(items) == 2 + len(STEPS)
    limit = items[1]["properties"]["Rotate"]["properties"]["limit"]
    assert {"type": "number"} in limit["anyOf"]
    json.dumps(items)


def test_steps_are_described_in_one_line():
    steps = parse_steps([{"Affine": {"rotate": [-5, 5], "p": 1}}, "ToGray"])
    assert describe_steps(steps) == "Affine(rotate=[-5, 5], p=1), ToGray(p=0.5)"
    assert describe_steps(()) == "none"
