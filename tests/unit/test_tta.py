import numpy as np
import pytest

from loupe.errors import InputError
from loupe.tta import VIEWS, first_views, flipped_axes

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
