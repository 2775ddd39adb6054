"""Augmentation: any steps, any size, any number of channels."""

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from loupe.augment import (
    STEPS,
    apply_drawn,
    apply_to_masks,
    augment_image,
    augment_pair,
    draw,
    parse_steps,
    sample_rng,
)
from loupe.colour import Gamma, Linear, Mix, apply_looks, hue_matrix, saturation_matrix
from loupe.geometry import bend, centred_matrix, move, start_geometry, warp

sizes = st.integers(1, 64)
channels = st.sampled_from([1, 3])
borders = st.sampled_from(["reflect", "constant"])


def ranges(low, high):
    ends = st.floats(low, high, allow_nan=False)
    return st.tuples(ends, ends).map(sorted)


def kernels():
    ends = st.integers(3, 31)
    pairs = st.tuples(ends, ends).map(sorted)
    return pairs.filter(lambda pair: pair[0] < pair[1] or pair[0] % 2)


PARAMETERS = {
    "Rotate": {"limit": ranges(-180, 180), "border": borders},
    "ShiftScaleRotate": {
        "shift_limit": ranges(-1, 1),
        "scale_limit": ranges(-0.5, 9),
        "rotate_limit": ranges(-180, 180),
        "border": borders,
    },
    "Affine": {
        "scale": ranges(0.5, 10),
        "translate_percent": ranges(-1, 1),
        "rotate": ranges(-180, 180),
        "shear": ranges(-60, 60),
        "keep_ratio": st.booleans(),
        "border": borders,
    },
    "RandomResizedCrop": {"scale": ranges(0.01, 1), "ratio": ranges(0.05, 20)},
    "RandomCrop": {"height": sizes, "width": sizes, "border": borders},
    "GridDistortion": {"num_steps": st.integers(1, 64), "distort_limit": ranges(-0.9, 0.9)},
    "ElasticTransform": {"alpha": st.floats(0, 1000), "sigma": st.floats(1, 200)},
    "RandomBrightnessContrast": {
        "brightness_limit": ranges(-1, 1),
        "contrast_limit": ranges(-1, 5),
    },
    "RandomGamma": {"gamma_limit": ranges(10, 1000)},
    "HueSaturationValue": {
        "hue_shift_limit": ranges(-90, 90),
        "sat_shift_limit": ranges(-127.5, 255),
        "val_shift_limit": ranges(-255, 255),
    },
    "ColorJitter": {
        "brightness": ranges(0, 10),
        "contrast": ranges(0, 10),
        "saturation": ranges(0, 10),
        "hue": ranges(-0.5, 0.5),
    },
    "CLAHE": {
        "clip_limit": ranges(1, 100),
        "tile_grid_size": st.tuples(st.integers(1, 64), st.integers(1, 64)),
    },
    "GaussianBlur": {"blur_limit": kernels(), "sigma_limit": ranges(0, 50)},
    "MotionBlur": {"blur_limit": kernels()},
    "GaussNoise": {"var_limit": ranges(0, 65025), "per_channel": st.booleans()},
    "CoarseDropout": {
        "max_holes": st.integers(1, 20),
        "max_height": st.one_of(st.integers(1, 200), st.floats(0.01, 0.99)),
        "max_width": st.one_of(st.integers(1, 200), st.floats(0.01, 0.99)),
        "fill_value": st.integers(0, 255),
    },
    "RandomGridShuffle": {"grid": st.tuples(st.integers(1, 64), st.integers(1, 64))},
}


def one_step(name):
    chance = st.just(1.0) if name == "RandomCrop" else st.floats(0.5, 1)
    fields = {**PARAMETERS.get(name, {}), "p": chance}
    return st.fixed_dictionaries(fields).map(lambda values: {name: values})


# MaskDropout needs masks, and changes the image by them.
names = [name for name in STEPS if name != "MaskDropout"]
any_steps = st.lists(st.sampled_from(names).flatmap(one_step), max_size=6)


def make_image(height, width, depth, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, depth), np.uint8)


@settings(max_examples=250, deadline=None)
@given(any_steps, sizes, sizes, channels, st.integers(0, 6), st.integers(0, 2**32))
def test_any_steps_keep_dtype_and_shape(written, height, width, depth, masks, seed):
    steps = parse_steps(written)
    image = make_image(height, width, depth)
    before = image.copy()
    given_masks = np.zeros((height, width, masks), bool)
    found, moved = augment_pair(image, given_masks, steps, sample_rng(seed, 0, "a"))
    crops = [step for step in steps if step.name == "RandomCrop"]
    size = (crops[-1].height, crops[-1].width) if crops else (height, width)
    assert found.shape == (*size, depth)
    assert moved.shape == (*size, masks)
    assert (found.dtype, moved.dtype) == (np.uint8, np.bool_)
    assert found.flags.c_contiguous
    assert not moved.any()
    np.testing.assert_array_equal(image, before)
    again = augment_image(image, steps, sample_rng(seed, 0, "a"))
    np.testing.assert_array_equal(found, again)


@settings(max_examples=100, deadline=None)
@given(any_steps)
def test_steps_that_were_read_are_read_again_alike(written):
    steps = parse_steps(written)
    assert parse_steps([step.model_dump(mode="json") for step in steps]) == steps


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from(["HorizontalFlip", "VerticalFlip", "Transpose", "RandomRotate90"])),
    sizes,
    sizes,
    channels,
)
def test_mirrors_and_turns_only_move_pixels(names, height, width, depth):
    image = make_image(height, width, depth)
    steps = parse_steps([{name: {"p": 1.0}} for name in names])
    found = augment_image(image, steps, sample_rng(1, 0, "a"))
    flat = image.reshape(-1, depth)
    np.testing.assert_array_equal(np.sort(found.reshape(-1, depth), axis=0), np.sort(flat, axis=0))


def fold(places, side):
    """Mirror places into [0, side - 1] without repeating the edge."""
    if side == 1:
        return np.zeros_like(places)
    places = np.abs(places) % (2 * (side - 1))
    return np.where(places > side - 1, 2 * (side - 1) - places, places)


def read_linear(image, x, y, *, black):
    """Linear interpolation by its definition."""
    height, width = image.shape[:2]
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    total = np.zeros((*x.shape, image.shape[2]))
    for dy in (0, 1):
        for dx in (0, 1):
            weight = (1 - abs(x - left - dx)) * (1 - abs(y - top - dy))
            if black:
                out = (left + dx < 0) | (left + dx >= width) | (top + dy < 0) | (top + dy >= height)
                weight = weight * ~out
            pixels = image[fold(top + dy, height), fold(left + dx, width)]
            total += weight[..., None] * pixels
    return total


@settings(max_examples=150, deadline=None)
@given(
    st.tuples(sizes, sizes, channels),
    ranges(0.5, 3),
    st.floats(-180, 180),
    st.booleans(),
    st.booleans(),
)
def test_warp_is_linear_interpolation_with_mirrored_borders(shape, scales, degrees, bent, black):
    height, width, _ = shape
    # Smooth, as OpenCV before version 5 knows places to 1/32 pixel only.
    image = cv2.GaussianBlur(make_image(*shape), (0, 0), 4).reshape(shape)
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    linear = np.array([[cos, sin], [-sin, cos]]) @ np.diag(scales)
    border = "constant" if black else "reflect"
    matrix = centred_matrix((height, width), linear, (1.25, -0.5))
    geometry = move(start_geometry(height, width), matrix, border=border)
    if bent:
        geometry = bend(geometry, np.full((2, height, width), 0.75, np.float32))
    y, x = np.mgrid[:height, :width] + (0.75 if bent else 0.0)
    source = np.einsum(
        "ij,jhw->ihw", geometry.bends[0].matrix if bent else matrix, [x, y, x * 0 + 1]
    )
    expected = read_linear(image, source[0], source[1], black=black)
    error = np.abs(warp(image, geometry) - expected)
    assert error.max() <= (9 if black else 4)
    assert error.mean() <= 1


@settings(max_examples=60, deadline=None)
@given(st.integers(24, 64), st.integers(24, 64), st.integers(0, 10**6), borders)
def test_masks_follow_their_image(height, width, seed, border):
    y, x = np.mgrid[:height, :width]
    disc = (y - height / 2) ** 2 + (x - width / 2) ** 2 < (min(height, width) / 3) ** 2
    steps = parse_steps(
        [
            {"Affine": {"border": border, "p": 1.0, "scale": [0.9, 1.5], "shear": [-10, 10]}},
            {"GridDistortion": {"border": border}},
            {"HorizontalFlip": {}},
        ]
    )
    drawn = draw(steps, sample_rng(seed, 0, "a"), height, width)
    seen = apply_drawn((disc * np.uint8(255))[..., None], drawn)[..., 0] > 127
    moved = apply_to_masks(disc[..., None], drawn)[..., 0]
    assert (seen & moved).sum() / max((seen | moved).sum(), 1) > 0.93


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.builds(Linear, scale=st.floats(0.9, 1.1), offset=st.floats(-5, 5)),
            st.builds(Gamma, exponent=st.floats(0.8, 1.25)),
            st.floats(-20, 20).map(lambda angle: Mix(matrix=hue_matrix(angle))),
            st.floats(0.5, 1.1).map(lambda factor: Mix(matrix=saturation_matrix(factor))),
        ),
        max_size=5,
    )
)
def test_folded_looks_equal_looks_one_after_the_other(looks):
    # Mid-tones only: folding leaves out the cuts at 0 and 255 on the way.
    image = np.random.default_rng(0).integers(100, 150, (8, 8, 3), np.uint8)
    apart = image.astype(float)
    for look in looks:
        if isinstance(look, Linear):
            apart = look.scale * apart + look.offset
        elif isinstance(look, Gamma):
            apart = 255 * (apart / 255) ** look.exponent
        else:
            apart = apart @ look.matrix.T
    assert np.abs(apply_looks(image, looks) - apart).max() <= 1 + len(looks)
