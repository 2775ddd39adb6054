"""Copies are found through re-encoding, rescaling and relighting, and only copies are."""

import functools
import io

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from loupe.copies import (
    DESCRIPTOR_SIZE,
    NEAR,
    CopyPair,
    describe,
    find_copies,
    group_copies,
)
from loupe.errors import InputError


@functools.cache
def texture(seed, height=120, width=150, grain=4.0):
    """Draw a random surface with detail at several scales."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), np.float32)
    for sigma in (grain / 2, grain, 2 * grain):
        layer = cv2.GaussianBlur(rng.standard_normal(total.shape, np.float32), (0, 0), sigma)
        total += layer / layer.std()
    picture = np.clip(128 + 22 * total, 0, 255).astype(np.uint8)
    picture.setflags(write=False)  # shared by all tests
    return picture


def search(pictures, digests=None, **options):
    names = digests or [f"picture {row}" for row in range(len(pictures))]
    return find_copies(np.array([describe(p) for p in pictures]), names, **options)


def places(pairs):
    return [(pair.first, pair.second) for pair in pairs]


def save_jpeg(picture, quality):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    return np.array(Image.open(buffer))


def relight(picture):
    """Darken one side, brighten the other, and bend the tone curve."""
    ramp = np.linspace(0.5, 1.2, picture.shape[1])[None, :, None]
    return (255 * np.clip(picture / 255 * ramp, 0, 1) ** 0.8).astype(np.uint8)


COPIES = {
    "jpeg at quality 50": lambda p: save_jpeg(p, 50),
    "half the size": lambda p: cv2.resize(p, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "stretched": lambda p: cv2.resize(p, (190, 100), interpolation=cv2.INTER_CUBIC),
    "darker": lambda p: (p * 0.5).astype(np.uint8),
    "less contrast": lambda p: (p * 0.4 + 120).astype(np.uint8),
    "gamma": lambda p: (255 * (p / 255) ** 2.0).astype(np.uint8),
    "other light": relight,
    "grey": lambda p: np.repeat(p.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8),
    "shifted crop": lambda p: p[3:, 4:],
    "noise": lambda p: np.clip(p + np.random.default_rng(0).normal(0, 6, p.shape), 0, 255).astype(
        np.uint8
    ),
}


@pytest.mark.parametrize("change", COPIES)
@pytest.mark.parametrize("rows", [6, 60])
def test_a_changed_copy_is_found_and_nothing_else(change, rows):
    pictures = [texture(seed) for seed in range(rows)]
    pictures.append(COPIES[change](pictures[2]))
    (pair,) = search(pictures)
    assert (pair.first, pair.second, pair.kind) == (2, rows, "near")
    assert NEAR <= pair.similarity <= 1 + 1e-6


@pytest.mark.parametrize("grain", [1.0, 3.0, 10.0])
def test_unrelated_textures_are_no_copies(grain):
    pictures = [texture(seed, 64, 64, grain) for seed in range(300)]
    assert search(pictures) == ()


def test_flat_pictures_are_copies_only_if_their_pixels_are():
    rng = np.random.default_rng(0)
    flat = [np.full((60, 80, 3), level, np.uint8) for level in (0, 90, 90, 91, 255)]
    noisy = [
        np.clip(120 + rng.normal(0, 3, (200, 200, 3)), 0, 255).astype(np.uint8) for _ in range(5)
    ]
    ramps = [
        np.repeat(np.linspace(20, high, 200)[:, None, None], 200, 1).repeat(3, 2).astype(np.uint8)
        for high in (100, 180, 240)
    ]
    digests = ["0", "90", "90", "91", "255", *(f"noisy {i}" for i in range(5)), "a", "b", "c"]
    (pair,) = search([*flat, *noisy, *ramps], digests)
    assert pair == CopyPair(first=1, second=2, kind="equal", similarity=1.0)


def test_equal_pixels_are_chained_to_their_first_row():
    one, other = texture(1), texture(2)
    pairs = search([one, other, one, one, other], ["1", "2", "1", "1", "2"])
    assert places(pairs) == [(0, 2), (0, 3), (1, 4)]
    assert {pair.kind for pair in pairs} == {"equal"}


def test_a_near_copy_of_equal_rows_joins_their_group():
    one = texture(1)
    pictures = [one, texture(2), one, save_jpeg(one, 60)]
    pairs = search(pictures, ["1", "2", "1", "jpeg"])
    assert [(p.first, p.second, p.kind) for p in pairs] == [(0, 2, "equal"), (0, 3, "near")]


def test_rows_without_a_picture_match_nothing():
    descriptors = np.zeros((4, DESCRIPTOR_SIZE), np.float16)
    descriptors[1] = describe(texture(1))
    assert find_copies(descriptors, ["", "1", "", ""]) == ()
    assert find_copies(descriptors[:0], []) == ()


def test_what_all_pictures_share_is_no_likeness():
    # A camera above a fixture: one background in all rows, and a surface of its own in each.
    fixture = texture(1000, grain=8.0).astype(np.float32)
    pictures = [
        np.clip(fixture + 0.6 * (texture(seed) - 128.0), 0, 255).astype(np.uint8)
        for seed in range(50)
    ]
    pictures.append(relight(pictures[7]))
    assert places(search(pictures)) == [(7, 50)]


def test_a_crowd_of_near_copies_is_one_group():
    one = texture(1)
    rng = np.random.default_rng(0)
    crowd = [describe(one).astype(np.float32) + rng.normal(0, 0.1, 1024) for _ in range(100)]
    others = [describe(texture(seed, 64, 64)) for seed in range(2, 152)]
    descriptors = np.array([*crowd, *others]).astype(np.float16)
    ids = [str(row) for row in range(250)]
    pairs = find_copies(descriptors, ids)
    groups = group_copies(ids, pairs)
    assert groups[:100] == ("0",) * 100
    assert groups[100:] == tuple(ids[100:])
    assert len(pairs) <= 100 * 64


def test_the_blocks_do_not_show():
    pictures = [texture(seed, 64, 64) for seed in range(600)]
    for first, second in ((0, 599), (255, 256), (100, 300)):
        pictures[second] = relight(pictures[first])
    assert places(search(pictures)) == [(0, 599), (100, 300), (255, 256)]


def test_a_higher_threshold_keeps_fewer():
    one = texture(1)
    pictures = [one, relight(one[3:, 4:]), (one // 2)]
    loose, strict = search(pictures), search(pictures, threshold=0.97)
    assert set(strict) < set(loose)
    assert places(strict) == [(0, 2)]


@pytest.mark.parametrize("threshold", [0.0, 1.5, -1.0])
def test_a_threshold_out_of_range_is_refused(threshold):
    with pytest.raises(InputError, match="threshold"):
        find_copies(np.zeros((1, DESCRIPTOR_SIZE), np.float16), ["a"], threshold=threshold)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=r"expected \(2, 1024\)"):
        find_copies(np.zeros((1, DESCRIPTOR_SIZE), np.float16), ["a", "b"])
    with pytest.raises(InputError, match="1 groups"):
        group_copies(["a", "b"], [], also=["x"])


@given(st.data())
def test_groups_are_the_connected_parts(data):
    n = data.draw(st.integers(1, 12))
    rows = st.integers(0, n - 1)
    links = [(min(link), max(link)) for link in data.draw(st.lists(st.tuples(rows, rows)))]
    also = data.draw(st.none() | st.lists(st.sampled_from("xyzuvw"), min_size=n, max_size=n))
    pairs = [CopyPair(first=a, second=b, kind="near", similarity=0.9) for a, b in links]
    ids = [f"id {row}" for row in range(n)]
    # By definition: rows reach each other along links (transitive closure).
    reach = np.eye(n, dtype=bool)
    for a, b in links:
        reach[a, b] = reach[b, a] = True
    if also is not None:
        reach |= np.array(also)[:, None] == np.array(also)[None]
    for _ in range(n):
        reach = reach @ reach
    expected = tuple(ids[int(row.argmax())] for row in reach)
    assert group_copies(ids, pairs, also=also) == expected
