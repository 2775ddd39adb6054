from __future__ import annotations

import numpy as np
import pytest

from loupe.neighbours import find_nearest, open_space, place_probabilities

ALL = np.ones(5, np.bool_)


def test_the_nearest_are_those_at_the_smallest_angle_whatever_their_length() -> None:
    angles = np.radians([0, 40, 10, 170, 20])
    lengths = np.array([1, 0.01, 500, 3, 7])
    values = (np.stack([np.cos(angles), np.sin(angles)], axis=1) * lengths[:, None]).astype("f4")

    space = open_space(values)

    assert find_nearest(space, 0, ALL, 3) == (2, 4, 1)
    assert find_nearest(space, 0, np.array([True, True, False, True, False]), 3) == (1, 3)


def test_a_row_without_features_is_nobodys_neighbour_and_has_none() -> None:
    values = np.ones((5, 3), np.float32)
    values[1] = np.nan
    values[2] = 0

    space = open_space(values)

    assert find_nearest(space, 0, ALL, 4) == (3, 4)
    assert find_nearest(space, 1, ALL, 4) == find_nearest(space, 2, ALL, 4) == ()


def test_many_rows_in_blocks_are_those_of_one_product() -> None:
    values = np.random.default_rng(1).normal(size=(9_000, 6)).astype(np.float32)
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    expected = [row for row in np.argsort(-(unit @ unit[17])) if row != 17][:20]

    found = find_nearest(open_space(values), 17, np.ones(9_000, np.bool_), 20)

    assert list(found) == expected


def test_candidates_are_left_as_they_were() -> None:
    candidates = ALL.copy()
    find_nearest(open_space(np.ones((5, 2), np.float32)), 0, candidates, 2)
    assert candidates.all()


@pytest.mark.parametrize("exclusive", [True, False])
def test_points_of_probabilities_have_the_cosine_of_bhattacharyya(*, exclusive: bool) -> None:
    rng = np.random.default_rng(2)
    probs = rng.dirichlet(np.ones(3), 2) if exclusive else rng.uniform(size=(2, 3))
    a, b = probs
    expected = np.sqrt(a * b).sum()
    if not exclusive:
        expected = (np.sqrt(a * b) + np.sqrt((1 - a) * (1 - b))).sum() / 3

    x, y = place_probabilities(probs.astype(np.float32), exclusive=exclusive)

    assert x @ y / np.linalg.norm(x) / np.linalg.norm(y) == pytest.approx(expected, abs=1e-6)


def test_one_class_alone_has_near_and_far_rows() -> None:
    probs = np.array([[0.1], [0.9], [0.2], [0.5], [np.nan]], np.float32)
    space = open_space(place_probabilities(probs, exclusive=False))
    assert find_nearest(space, 0, ALL, 4) == (2, 3, 1)
