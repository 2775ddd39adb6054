"""Pixels become the same input everywhere, and nothing of a picture is lost unasked."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loupe.errors import InputError
from loupe.images import PAD_VALUE, InputSpec, normalise, prepare_image, prepare_masks

SIZES = st.integers(1, 40)


def draw(height=24, width=36):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


# Preparing.


@settings(max_examples=80, deadline=None)
@given(
    st.tuples(SIZES, SIZES),
    st.tuples(SIZES, SIZES),
    st.sampled_from(["stretch", "pad"]),
    st.sampled_from(["auto", "area", "linear", "cubic", "nearest"]),
    st.sampled_from([1, 3]),
)
def test_prepared_pixels_have_the_size_asked_for(size, wanted, resize, name, channels):
    height, width = wanted
    spec = InputSpec(height=height, width=width, resize=resize, filter=name, channels=channels)
    prepared = prepare_image(draw(*size), spec)
    assert prepared.shape == (height, width, channels)
    assert prepared.dtype == np.uint8


@pytest.mark.parametrize("resize", ["stretch", "pad"])
def test_a_picture_that_fits_is_left_alone(resize):
    picture = draw()
    prepared = prepare_image(picture, InputSpec(height=24, width=36, resize=resize))
    np.testing.assert_array_equal(prepared, picture)


@pytest.mark.parametrize("name", ["auto", "area", "linear", "cubic", "nearest"])
@pytest.mark.parametrize("size", [(7, 50), (50, 7), (7, 7), (50, 50)])
def test_one_colour_stays_one_colour(name, size):
    picture = np.full((24, 36, 3), (10, 120, 250), np.uint8)
    prepared = prepare_image(picture, InputSpec(height=size[0], width=size[1], filter=name))
    assert np.unique(prepared.reshape(-1, 3), axis=0).tolist() == [[10, 120, 250]]


def test_auto_averages_what_shrinks_even_if_the_other_axis_grows():
    stripes = np.zeros((4, 400, 3), np.uint8)
    stripes[:, ::2] = 200
    prepared = prepare_image(stripes, InputSpec(height=8, width=40))
    assert np.unique(prepared).tolist() == [100]


def test_padding_keeps_the_aspect_and_centres():
    white = np.full((10, 30, 3), 255, np.uint8)
    prepared = prepare_image(white, InputSpec(height=60, width=60, resize="pad"))
    expected = np.full((60, 60, 3), PAD_VALUE, np.uint8)
    expected[20:40] = 255
    np.testing.assert_array_equal(prepared, expected)


def test_padding_keeps_a_pixel_of_the_thinnest_picture():
    line = np.full((1, 500, 3), 255, np.uint8)
    prepared = prepare_image(line, InputSpec(height=9, width=10, resize="pad"))
    assert (prepared == 255).all(axis=(1, 2)).tolist() == [row == 4 for row in range(9)]


def test_one_channel_is_luma():
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], dtype=np.uint8)
    prepared = prepare_image(colours, InputSpec(height=1, width=3, channels=1))
    assert prepared[0, :, 0].tolist() == [76, 150, 29]  # 0.299, 0.587, 0.114 of 255


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_prepare_refuses_what_is_no_picture(picture):
    with pytest.raises(InputError, match="expected"):
        prepare_image(picture, InputSpec(height=4, width=4))


# Masks.


@settings(max_examples=60, deadline=None)
@given(st.tuples(SIZES, SIZES), st.tuples(SIZES, SIZES), st.sampled_from(["stretch", "pad"]))
def test_masks_lie_where_their_picture_lies(size, wanted, resize):
    # A white picture with a mask of it all: both must fill the same box, and bars be 0.
    spec = InputSpec(height=wanted[0], width=wanted[1], resize=resize)
    picture = prepare_image(np.full((*size, 3), 255, np.uint8), spec)
    masks = prepare_masks(np.full((*size, 2), 7, np.uint8), spec)
    assert masks.shape == (*wanted, 2)
    np.testing.assert_array_equal(masks == 7, np.repeat(picture[..., :1] == 255, 2, axis=2))
    assert set(np.unique(masks)) <= {0, 7}


@settings(max_examples=60, deadline=None)
@given(st.tuples(SIZES, SIZES), st.tuples(SIZES, SIZES))
def test_a_mask_pixel_is_the_one_below_its_centre(size, wanted):
    masks = np.random.default_rng(0).integers(0, 256, (*size, 1), dtype=np.uint8)
    prepared = prepare_masks(masks, InputSpec(height=wanted[0], width=wanted[1]))
    for row in range(wanted[0]):
        for column in range(wanted[1]):
            source = (
                int((row + 0.5) * size[0] / wanted[0] + 1e-9),
                int((column + 0.5) * size[1] / wanted[1] + 1e-9),
            )
            assert prepared[row, column, 0] == masks[*source, 0]


def test_padded_masks_keep_their_place():
    masks = np.zeros((10, 30, 1), np.uint8)
    masks[2:4, 6:12] = 1
    prepared = prepare_masks(masks, InputSpec(height=60, width=60, resize="pad"))
    expected = np.zeros((60, 60, 1), np.uint8)
    expected[20 + 4 : 20 + 8, 12:24] = 1
    np.testing.assert_array_equal(prepared, expected)


def test_masks_that_fit_are_left_as_they_are():
    masks = np.random.default_rng(0).integers(0, 2, (24, 36, 3), dtype=np.uint8)
    np.testing.assert_array_equal(prepare_masks(masks, InputSpec(height=24, width=36)), masks)


@pytest.mark.parametrize(
    "masks", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 1), bool), np.zeros((0, 4, 1), np.uint8)]
)
def test_prepare_refuses_what_is_no_mask(masks):
    with pytest.raises(InputError, match="expected"):
        prepare_masks(masks, InputSpec(height=4, width=4))


# Normalising.


@pytest.mark.parametrize("channels", [1, 3])
def test_normalise_is_its_formula(channels):
    spec = InputSpec(height=5, width=4, channels=channels)
    batch = np.random.default_rng(0).integers(0, 256, (3, 5, 4, channels), dtype=np.uint8)
    values = normalise(batch, spec)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, (batch / 255 - spec.mean) / spec.std, atol=1e-6)
    assert normalise(batch[:0], spec).shape == (0, 5, 4, channels)


def test_normalise_refuses_other_channels_and_types():
    spec = InputSpec(height=2, width=2)
    for batch in (np.zeros((1, 2, 2, 1), np.uint8), np.zeros((1, 2, 2, 3), np.float32)):
        with pytest.raises(InputError, match="expected"):
            normalise(batch, spec)


# The specification.


def test_a_spec_survives_json_and_has_defaults_for_its_channels():
    spec = InputSpec(height=8, width=9, mean=(0.1, 0.2, 0.3))
    assert InputSpec(**json.loads(json.dumps(asdict(spec)))) == spec
    assert spec.std == (0.229, 0.224, 0.225)
    assert len(InputSpec(height=1, width=1, channels=1).mean) == 1


def test_a_crop_survives_json_and_is_what_the_network_sees():
    spec = InputSpec(height=600, width=800, crop=(512, 480))
    assert InputSpec(**json.loads(json.dumps(asdict(spec)))) == spec
    assert (spec.network_height, spec.network_width) == (512, 480)
    assert (spec.height, spec.width) == (600, 800)
    whole = InputSpec(height=600, width=800)
    assert (whole.network_height, whole.network_width) == (600, 800)
    assert whole.digest() == spec.digest()  # the prepared pixels are the same
    assert hash(spec) != hash(whole)


@pytest.mark.parametrize("crop", [(9, 4), (4, 10), (0, 4), (4,), (4, 4, 3)])
def test_a_crop_that_does_not_fit_is_refused(crop):
    with pytest.raises(InputError, match=r"crop is .* to the size, 8 x 9"):
        InputSpec(height=8, width=9, crop=crop)
    assert InputSpec(height=8, width=9, crop=(8, 9)).crop == (8, 9)


def test_the_digest_follows_the_pixels_only():
    base = {"height": 8, "width": 9}
    changes = [
        {"height": 9},
        {"width": 8},
        {"resize": "pad"},
        {"filter": "area"},
        {"channels": 1},
    ]
    digests = {InputSpec(**(base | change)).digest() for change in [{}, *changes]}
    assert len(digests) == 6
    other_mean = InputSpec(**base, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert other_mean.digest() == InputSpec(**base).digest()


def test_all_faults_of_a_spec_stand_in_one_message():
    with pytest.raises(InputError) as caught:
        InputSpec(height=0, width=4, resize="crop", filter="best", mean=(0.5,), std=(0.0,) * 3)
    for word in ("0 x 4", "'crop'", "'best'", "1 and 3 values", "above 0"):
        assert word in str(caught.value)
