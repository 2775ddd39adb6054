"""Places of tiles against their definition, and blends against sums of fractions."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loupe.errors import InputError
from loupe.tiling import Window, blend_tiles, cut_tiles
from loupe.tta import flipped_axes, place_crops

FEW = settings(max_examples=60, deadline=None)


@st.composite
def grids(draw, most=24):
    size = draw(st.tuples(st.integers(1, most), st.integers(1, most)))
    tile = draw(st.tuples(st.integers(1, most), st.integers(1, most)))
    overlap = tuple(draw(st.integers(0, side - 1)) for side in tile)
    return size, tile, overlap


def cut(image, tiles):
    return [image[..., *tile.slices].copy() for tile in tiles]


def share_of(position, start, length):
    return Fraction(min(position - start + 1, start + length - position))


# Places -------------------------------------------------------------------------------------------


@FEW
@given(grids())
def test_tiles_cover_the_image_and_share_what_was_asked(grid):
    size, tile, overlap = grid
    tiles = cut_tiles(size, tile, overlap)
    count = np.zeros(size, int)
    for window in tiles:
        assert (window.height, window.width) == tuple(np.minimum(size, tile))
        count[window.slices] += 1
    assert (count > 0).all()
    assert sum(window.height * window.width for window in tiles) == count.sum()  # none sticks out
    for axis, side in (("top", "height"), ("left", "width")):
        starts = sorted({getattr(window, axis) for window in tiles})
        length, k = getattr(tiles[0], side), int(axis == "left")
        for before, after in pairwise(starts):
            assert after - before <= length - overlap[k]
        # One tile fewer could not do it.
        assert len(starts) == 1 or (len(starts) - 1) * (length - overlap[k]) + overlap[k] < size[k]


@FEW
@given(grids())
def test_without_overlap_they_are_the_crops_of_prediction(grid):
    size, tile, _ = grid
    inner = tuple(int(side) for side in np.minimum(size, tile))
    assert [(w.top, w.left) for w in cut_tiles(size, tile)] == list(place_crops(*size, inner))


def test_known_places():
    tiles = cut_tiles((256, 1600), (256, 512), 64)
    assert [(w.top, w.left, w.height, w.width) for w in tiles] == [
        (0, 0, 256, 512),
        (0, 363, 256, 512),
        (0, 725, 256, 512),
        (0, 1088, 256, 512),
    ]
    assert len(cut_tiles((1400, 2100), (512, 512), (128, 64))) == 4 * 5
    small = cut_tiles((3, 50), (32, 32), 8)
    assert small == (
        Window(top=0, left=0, height=3, width=32),
        Window(top=0, left=18, height=3, width=32),
    )


@pytest.mark.parametrize(
    ("size", "tile", "overlap"),
    [
        ((0, 8), (4, 4), 0),
        ((8, 8), (4, 0), 0),
        ((8, 8), (4, 4), 4),
        ((8, 8), (4, 4), (0, 5)),
        ((8, 8), (4, 4), -1),
    ],
)
def test_tiles_that_cannot_be_are_refused(size, tile, overlap):
    shared = (overlap, overlap) if isinstance(overlap, int) else overlap
    with pytest.raises(InputError) as caught:
        cut_tiles(size, tile, overlap)
    for pair in (size, tile, shared):
        assert f"{pair[0]} x {pair[1]}" in str(caught.value)


# Blending -----------------------------------------------------------------------------------------


@FEW
@given(grids(12), st.floats(0, 1, width=32))
def test_the_weights_of_a_pixel_sum_to_exactly_one(grid, value):
    size, tile, overlap = grid
    tiles = cut_tiles(size, tile, overlap)
    for k, window in enumerate(tiles):
        # Tile k alone says 1: the blend is its normalised weight, known as a fraction.
        parts = [np.full((t.height, t.width), t is window, np.float32) for t in tiles]
        found = blend_tiles(parts, tiles, size)
        y, x = window.top + window.height // 3, window.left + window.width // 2
        weights = [
            share_of(y, t.top, t.height) * share_of(x, t.left, t.width)
            if t.top <= y < t.top + t.height and t.left <= x < t.left + t.width
            else Fraction(0)
            for t in tiles
        ]
        assert found[y, x] == np.float32(float(weights[k] / sum(weights)))
        if k == 2:
            break
    constant = [np.full((2, t.height, t.width), value, np.float32) for t in tiles]
    assert (blend_tiles(constant, tiles, size) == np.float32(value)).all()


@FEW
@given(grids(), st.integers(0, 99))
def test_an_image_cut_and_blended_is_the_image(grid, seed):
    size, tile, overlap = grid
    image = np.random.default_rng(seed).random((2, *size), dtype=np.float32)
    tiles = cut_tiles(size, tile, overlap)
    blended = blend_tiles(cut(image, tiles), tiles, size)
    assert blended.dtype == np.float32
    np.testing.assert_array_equal(blended, image)


@FEW
@given(grids(), st.integers(0, 99))
def test_a_blend_lies_between_its_tiles_and_lone_pixels_are_untouched(grid, seed):
    size, tile, overlap = grid
    rng = np.random.default_rng(seed)
    tiles = cut_tiles(size, tile, overlap)
    parts = [rng.random((w.height, w.width), dtype=np.float32) for w in tiles]
    low, high = np.full(size, np.inf), np.full(size, -np.inf)
    count, last = np.zeros(size, int), np.zeros(size, np.float32)
    for part, window in zip(parts, tiles, strict=True):
        s = window.slices
        low[s], high[s] = np.minimum(low[s], part), np.maximum(high[s], part)
        count[s] += 1
        last[s] = part
    found = blend_tiles(iter(parts), tiles, size)
    assert (found >= low).all()
    assert (found <= high).all()
    np.testing.assert_array_equal(found[count == 1], last[count == 1])


def test_a_seam_is_a_straight_line_over_the_shared_pixels():
    tiles = cut_tiles((6, 16), (6, 10), 4)
    parts = [np.full((6, 10), float(k), np.float32) for k in range(2)]
    row = blend_tiles(parts, tiles, (6, 16))
    np.testing.assert_allclose(row[2], [0] * 6 + [0.2, 0.4, 0.6, 0.8] + [1] * 6, rtol=1e-6)
    np.testing.assert_array_equal(row, np.broadcast_to(row[:1], row.shape))


@FEW
@given(grids(), st.sampled_from(["hflip", "vflip", "rot180"]))
def test_a_flipped_view_flipped_back_blends_to_the_same(grid, view):
    size, tile, overlap = grid
    image = np.random.default_rng(1).random(size, dtype=np.float32)
    axes = tuple(axis - 1 for axis in flipped_axes(view))  # of (H, W) in place of (B, H, W, C)
    tiles = cut_tiles(size, tile, overlap)
    # A "network" without memory of place: what it says of a flipped tile is flipped.
    back = [np.flip(np.flip(part, axes) ** 2, axes) for part in cut(image, tiles)]
    plain = blend_tiles([part**2 for part in cut(image, tiles)], tiles, size)
    np.testing.assert_array_equal(blend_tiles(back, tiles, size), plain)


def test_wrong_predictions_and_tiles_are_refused():
    size = (4, 6)
    tiles = cut_tiles(size, (4, 4), 2)
    parts = [np.zeros((3, 4, 4), np.float32)] * 2
    with pytest.raises(InputError, match="1 predictions for 2 tiles"):
        blend_tiles(parts[:1], tiles, size)
    with pytest.raises(InputError, match="more predictions than the 2 tiles"):
        blend_tiles(parts + parts, tiles, size)
    with pytest.raises(InputError, match=r"tile 1 has the shape \(4, 4\); expected \(3, 4, 4\)"):
        blend_tiles([parts[0], parts[1][0]], tiles, size)
    with pytest.raises(InputError, match=r"8 pixels of the image of 4 x 6 lie in none .*\(0, 4\)"):
        blend_tiles(parts[:1], tiles[:1], size)
    beside = Window(top=0, left=3, height=4, width=4)
    with pytest.raises(InputError, match="does not lie inside the image of 4 x 6"):
        blend_tiles(parts, [tiles[0], beside], size)
