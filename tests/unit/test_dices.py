import math

import numpy as np
import pytest

from loupe import dices as d
from loupe.dices import Pairs, make_pairs
from loupe.errors import InputError

EXAMPLE = np.array([[6, 8, 6], [0, 0, 0], [0, 5, 0], [10, 0, 0], [4, 4, 2]])
"""competitions.md 9.2: areas of truth, prediction and intersection."""


def one_column(areas) -> Pairs:
    return make_pairs(*np.asarray(areas).T[:, :, None])


def draw_pairs(n: int = 60, classes: int = 3, seed: int = 0) -> Pairs:
    rng = np.random.default_rng(seed)
    truth, predicted = rng.integers(0, 40, (2, n, classes)) * rng.integers(0, 2, (2, n, classes))
    return make_pairs(truth, predicted, rng.integers(0, np.minimum(truth, predicted) + 1))


def test_the_worked_example():
    pairs = one_column(EXAMPLE)
    assert d.measure_dice(pairs).ravel().round(3).tolist() == [0.857, 1, 0, 0, 0.5]
    assert d.dice_per_pair_empty1(pairs).overall == pytest.approx(0.4714, abs=5e-5)
    assert d.dice_micro(pairs).overall == pytest.approx(0.432, abs=5e-4)
    assert d.dice_nonempty(pairs).overall == pytest.approx(0.452, abs=5e-4)
    assert d.all_empty_baseline(pairs).overall == pytest.approx(0.4)


def test_iou_of_the_worked_example():
    pairs = one_column(EXAMPLE)
    assert d.measure_iou(pairs).ravel().tolist() == [0.75, 1, 0, 0, pytest.approx(1 / 3)]
    assert d.iou_per_pair_empty1(pairs).overall == pytest.approx((0.75 + 1 + 1 / 3) / 5)
    assert d.iou_nonempty(pairs).overall == pytest.approx((0.75 + 1 / 3) / 3)
    assert d.iou_micro(pairs).overall == pytest.approx(8 / (20 + 17 - 8))


@pytest.mark.parametrize(
    ("areas", "dice"), [((0, 0, 0), 1.0), ((0, 1, 0), 0.0), ((1, 0, 0), 0.0), ((1, 1, 1), 1.0)]
)
def test_the_four_cases_of_empty_masks(areas, dice):
    assert d.dice_per_pair_empty1(one_column([areas])).overall == dice
    assert d.iou_per_pair_empty1(one_column([areas])).overall == dice


def test_overall_takes_pairs_and_not_means_of_classes():
    # One class with a single mask, one with three: means of classes would say otherwise.
    truth = np.array([[4, 4], [0, 4], [0, 4]])
    found = np.array([[4, 0], [0, 0], [0, 4]])
    pairs = make_pairs(truth, found, found)
    assert d.dice_nonempty(pairs).classes.tolist() == [1.0, pytest.approx(1 / 3)]
    assert d.dice_nonempty(pairs).overall == 0.5
    assert d.dice_micro(pairs).overall == 2 * 8 / (16 + 8)
    assert d.dice_per_pair_empty1(pairs).classes.tolist() == [1.0, pytest.approx(1 / 3)]
    assert d.dice_per_pair_empty1(pairs).overall == pytest.approx(2 / 3)


def test_scores_without_pairs_are_undefined():
    nothing = one_column([(0, 0, 0), (0, 0, 0)])
    assert math.isnan(d.dice_nonempty(nothing).overall)
    assert math.isnan(d.dice_micro(nothing).overall)
    assert d.dice_per_pair_empty1(nothing).overall == 1


def test_factors_of_the_worked_example():
    (overall, only) = d.decompose(one_column(EXAMPLE))
    assert overall == only
    assert (overall.empty_share, overall.specificity) == (0.4, 0.5)
    assert overall.recall == pytest.approx(2 / 3)
    assert overall.dice_given_found == pytest.approx((12 / 14 + 0.5) / 2)


@pytest.mark.parametrize("seed", range(20))
def test_the_factors_multiply_to_the_score(seed):
    pairs = draw_pairs(seed=seed)
    overall, *classes = d.decompose(pairs)
    found = d.dice_per_pair_empty1(pairs)
    assert abs(overall.score - float(found.overall)) < 1e-12
    for factors, value in zip(classes, found.classes, strict=True):
        assert abs(factors.score - float(value)) < 1e-12


@pytest.mark.parametrize(
    "areas", [[(0, 0, 0)], [(0, 3, 0)], [(3, 0, 0)], [(3, 3, 2)], [(0, 0, 0), (3, 0, 0)]]
)
def test_undefined_factors_leave_the_score_whole(areas):
    pairs = one_column(areas)
    assert d.decompose(pairs)[0].score == float(d.dice_per_pair_empty1(pairs).overall)


def test_weights_count_rows():
    pairs = one_column(EXAMPLE)
    weights = np.array([[1, 1, 1, 1, 1], [0, 2, 0, 0, 1]])
    found = d.dice_per_pair_empty1(pairs, weights)
    assert found.overall.tolist() == pytest.approx([0.4714, 2.5 / 3], abs=5e-5)
    assert found.classes.shape == (2, 1)
    repeated = one_column(EXAMPLE[[1, 1, 4]])
    for score in (d.dice_micro, d.dice_nonempty, d.iou_micro):
        assert score(pairs, weights).overall[1] == score(repeated).overall


def test_emptied_pairs_score_like_empty_masks():
    pairs = draw_pairs()
    emptied = d.keep_pairs(pairs, np.zeros(pairs.truth.shape, bool))
    assert d.dice_per_pair_empty1(emptied).overall == d.all_empty_baseline(pairs).overall
    assert (
        d.keep_pairs(pairs, np.ones(pairs.truth.shape, bool)).predicted == pairs.predicted
    ).all()


def test_faults_are_told():
    with pytest.raises(InputError, match=r"2 pairs.*row 0, column 0"):
        one_column([(3, 2, 3), (1, 1, 2)])
    with pytest.raises(InputError, match="below 0"):
        one_column([(3, 2, -1)])
    with pytest.raises(InputError, match="same"):
        make_pairs(np.ones((2, 1), int), np.ones((2, 2), int), np.ones((2, 1), int))
    with pytest.raises(InputError, match="weights have shape"):
        d.dice_micro(one_column(EXAMPLE), np.ones(4))
