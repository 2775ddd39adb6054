"""Each statistic says what its name says, and nothing makes one of them infinite."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loupe.appearance import KINDS, NAMES, measure_appearance
from loupe.errors import InputError


def measure(image, file_bytes=1000):
    return dict(zip(NAMES, measure_appearance(image, file_bytes).tolist(), strict=True))


@pytest.fixture(scope="module")
def scene():
    """A picture with texture at all scales."""
    rng = np.random.default_rng(5)
    layers = [
        cv2.resize(rng.normal(size=(side, side, 3)), (200, 160), interpolation=cv2.INTER_CUBIC)
        for side in (4, 16, 64)
    ]
    return np.clip(128 + 25 * sum(layers), 0, 255).astype(np.uint8)


def test_names_are_unique_and_in_the_order_of_the_kinds():
    assert len(set(NAMES)) == len(NAMES)
    assert [name for names in KINDS.values() for name in names] == list(NAMES)
    assert measure_appearance(np.zeros((8, 8, 3), np.uint8), 1).shape == (len(NAMES),)


def test_facts_of_the_file():
    found = measure(np.zeros((50, 100, 3), np.uint8), file_bytes=2500)
    assert (found["height"], found["width"], found["aspect ratio"]) == (50, 100, 2)
    assert found["bytes per pixel"] == 0.5


def test_tones_of_a_picture_half_black_and_half_white():
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, 32:] = 255
    found = measure(image)
    assert found["brightness"] == 127.5
    assert found["contrast"] == 127.5
    assert (found["dark tones"], found["bright tones"]) == (0, 255)
    assert (found["black pixels"], found["white pixels"]) == (0.5, 0.5)
    assert found["unevenness of light"] == 127.5
    assert found["saturation"] == found["spread of colours"] == 0


def test_colours_of_plain_pictures():
    red = np.zeros((20, 20, 3), np.uint8)
    red[..., 0] = 200
    found = measure(red)
    assert (found["red"], found["green"], found["blue"]) == (200, 0, 0)
    assert (found["red against green"], found["yellow against blue"]) == (200, 100)
    assert found["saturation"] == 1
    blue = red[..., ::-1]
    assert measure(blue)["yellow against blue"] == -200
    assert measure(blue)["red against green"] == 0


def test_rim_is_compared_with_the_middle():
    image = np.full((80, 80, 3), 50, np.uint8)
    image[10:-10, 10:-10] = 150
    assert measure(image)["brightness of the rim"] == -100


def test_blur_lowers_sharpness_and_detail(scene):
    sharp, soft = measure(scene), measure(cv2.GaussianBlur(scene, (0, 0), 2))
    for name in ("sharpness", "edges", "noise", "fine against coarse detail"):
        assert soft[name] < sharp[name] / 1.5, name


def test_noise_is_estimated_in_grey_levels():
    # Equal channels, so that turning to grey leaves the deviation as it is.
    noise = np.random.default_rng(0).normal(0, 6, (300, 300, 1))
    image = np.clip(128 + np.repeat(noise, 3, axis=2), 0, 255).round().astype(np.uint8)
    assert measure(image)["noise"] == pytest.approx(6, rel=0.05)


def test_compression_raises_blocks(scene):
    _, data = cv2.imencode(".jpg", scene, [cv2.IMWRITE_JPEG_QUALITY, 10])
    blocky = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))
    assert measure(blocky)["JPEG blocks"] > measure(scene)["JPEG blocks"] + 0.2
    assert abs(measure(scene)["JPEG blocks"]) < 0.1


def test_blocks_are_found_where_a_large_picture_is_cut():
    # 8 px blocks of one value each; the middle of 700 px does not start at a multiple of 8.
    blocks = np.random.default_rng(1).integers(0, 256, (88, 88), dtype=np.uint8)
    image = np.repeat(np.kron(blocks, np.ones((8, 8), np.uint8))[:700, :700, None], 3, axis=2)
    assert measure(image)["JPEG blocks"] > 3


def test_edges_have_a_direction():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::8] = 255
    assert measure(stripes)["upright against level edges"] > 0.99
    assert measure(stripes.swapaxes(0, 1))["upright against level edges"] < -0.99


def test_resolution_alone_hardly_changes_tones_and_colours(scene):
    large = cv2.resize(scene, None, fx=3, fy=3, interpolation=cv2.INTER_LINEAR)
    one, other = measure(scene), measure(large)
    for name in ("brightness", "red", "saturation", "bright tones"):
        assert other[name] == pytest.approx(one[name], rel=0.03), name


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_all_values_are_finite_for_any_size(height, width, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert np.isfinite(measure_appearance(image, seed)).all()


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(image):
    with pytest.raises(InputError, match=r"expected \(H, W, 3\)"):
        measure_appearance(image, 1)
