"""A row among the reference has a random rank, one far out has 1."""

import numpy as np
import pytest

from loupe.errors import InputError
from loupe.nearness import rank_remoteness


def test_far_rows_rank_at_the_end_and_usual_ones_anywhere():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(400, 6)) * [1, 10, 100, 1, 1, 1]
    rows[-1, 3] = 30
    found = rank_remoteness(rows, np.arange(400) < 200, np.arange(400))
    assert found[-1] == 1
    # Ranks of 199 usual rows are uniform: their mean has a deviation of 0.02.
    assert found[200:-1].mean() == pytest.approx(0.5, abs=0.08)
    assert np.sort(found[:200]) == pytest.approx(np.arange(200) / 200)


def test_distance_is_the_mean_to_the_five_nearest():
    reference = np.array([0.0, 1, 2, 3, 4, 5, 6, 7])
    rows = np.append(reference, [3.5, 20.0])[:, None]
    found = rank_remoteness(rows, np.arange(10) < 8, np.arange(10))

    def distance(value, own):
        others = np.delete(reference, own) if own is not None else reference
        return np.sort(np.abs(others - value))[:5].mean()

    judges = np.array([distance(value, place) for place, value in enumerate(reference)])
    expected = [(judges < distance(v, k if k < 8 else None) - 1e-9).mean() for k, v in
                enumerate(rows[:, 0])]  # fmt: skip
    # The rank of a row at exactly a judge's distance hangs on rounding.
    assert found[8:].tolist() == expected[8:] == [0.0, 1.0]
    assert found[0] == found[7] >= 0.75


def test_a_copy_in_the_reference_does_not_make_a_row_usual():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(50, 3))
    rows[0] = rows[-1] = 15
    groups = np.arange(50)
    inside = np.arange(50) < 40
    groups[-1] = groups[0]
    assert rank_remoteness(rows, inside, groups)[-1] >= 1 - 1 / 40


def test_a_number_that_the_reference_shares_is_no_trouble():
    rows = np.ones((30, 2))
    rows[:, 1] = np.arange(30)
    rows[-1, 0] = 2
    found = rank_remoteness(rows, np.arange(30) < 25, np.arange(30))
    assert np.isfinite(found).all()
    assert found[-1] == 1


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="expected"):
        rank_remoteness(np.zeros((3, 2)), np.ones(3, bool), np.arange(2))
    with pytest.raises(InputError, match="fewer than 2 groups"):
        rank_remoteness(np.zeros((3, 2)), np.ones(3, bool), np.zeros(3, int))
