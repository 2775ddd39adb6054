import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loupe.errors import InputError
from loupe.tta import VIEWS, first_views, flipped_axes, place_crops

IMAGE = np.arange(6).reshape(1, 2, 3, 1)


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        ("identity", [[0, 1, 2], [3, 4, 5]]),
        ("hflip", [[2, 1, 0], [5, 4, 3]]),
        ("vflip", [[3, 4, 5], [0, 1, 2]]),
        ("rot180", [[5, 4, 3], [2, 1, 0]]),
    ],
)
def test_what_each_view_does_and_that_twice_is_nothing(view, expected):
    seen = np.flip(IMAGE, flipped_axes(view))
    assert seen[0, :, :, 0].tolist() == expected
    assert (np.flip(seen, flipped_axes(view)) == IMAGE).all()


def test_views_are_taken_in_their_order():
    assert VIEWS == ("identity", "hflip", "vflip", "rot180")
    assert [first_views(n) for n in (1, 4)] == [("identity",), VIEWS]


@pytest.mark.parametrize("count", [0, 5, -1])
def test_other_numbers_of_views_are_refused(count):
    with pytest.raises(InputError, match="expected 1 to 4 views"):
        first_views(count)


# Crops.


@st.composite
def scans(draw):
    """Height and width of an image, and a crop that fits into it."""
    height, width = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    return height, width, (draw(st.integers(1, height)), draw(st.integers(1, width)))


@given(scans())
def test_crops_cover_every_pixel_with_as_few_as_can_be(scan):
    height, width, (high, wide) = scan
    seen = np.zeros((height, width), int)
    crops = place_crops(height, width, (high, wide))
    for top, left in crops:
        assert 0 <= top <= height - high
        assert 0 <= left <= width - wide
        seen[top : top + high, left : left + wide] += 1
    assert seen.min() >= 1
    assert len(crops) == len(set(crops)) == math.ceil(height / high) * math.ceil(width / wide)


@given(scans())
def test_crops_lie_evenly_and_in_the_corners(scan):
    height, width, (high, wide) = scan
    crops = place_crops(height, width, (high, wide))
    assert crops[0] == (0, 0)
    assert crops[-1] == (height - high, width - wide)
    assert list(crops) == sorted(crops)
    for axis in (0, 1):
        starts = sorted({crop[axis] for crop in crops})
        gaps = np.diff(starts)
        assert not len(gaps) or gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize(
    ("size", "crop", "expected"),
    [
        ((600, 800), (512, 512), [(0, 0), (0, 288), (88, 0), (88, 288)]),
        ((10, 10), (10, 10), [(0, 0)]),
        ((4, 10), (4, 4), [(0, 0), (0, 3), (0, 6)]),
        ((5, 3), (2, 3), [(0, 0), (2, 0), (3, 0)]),  # the middle one at 1.5
    ],
)
def test_where_crops_lie(size, crop, expected):
    assert list(place_crops(*size, crop)) == expected


@pytest.mark.parametrize("crop", [(11, 5), (5, 21), (0, 5)])
def test_crops_that_do_not_fit_are_refused(crop):
    with pytest.raises(InputError, match="into an image of 10 x 20"):
        place_crops(10, 20, crop)
