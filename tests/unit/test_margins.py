import numpy as np
import pytest
from scipy.stats import binomtest

from loupe import dices as d
from loupe.dices import MAIN, Pairs, make_pairs
from loupe.errors import InputError
from loupe.margins import compare_means, compare_pairs, draw_signs, score_pairs


def draw_pairs(n: int, *, share: float = 0.5, seed: int = 0, classes: int = 2) -> Pairs:
    """Pairs that are there and found with the same share, and Dice 0, .1 ... 1 if so."""
    rng = np.random.default_rng(seed)
    there, found = rng.random((2, n, classes)) < share
    inter = np.where(there & found, rng.integers(0, 11, (n, classes)), 0)
    return make_pairs(10 * there, 10 * found, inter)


def test_scores_come_overall_first_and_then_by_class():
    pairs = draw_pairs(40)
    found = score_pairs(pairs, classes=["a", "b"], resamples=50)
    assert [each.class_name for each in found] == [
        *[""] * len(d.METRICS), *["a"] * len(d.METRICS), *["b"] * len(d.METRICS)
    ]  # fmt: skip
    values = {(each.metric, each.class_name): each for each in found}
    assert values[MAIN, ""].value == d.dice_per_pair_empty1(pairs).overall
    assert values["dice_micro", "b"].value == d.dice_micro(pairs).classes[1]
    assert values["dice_nonempty", "a"].n == int((pairs.truth[:, 0] > 0).sum())
    assert values[MAIN, ""].n == 80
    for each in found:
        assert each.low <= each.value <= each.high


def test_intervals_hold_the_truth_as_often_as_they_say():
    truth = 0.25 * 1 + 0.25 * 0.5  # both empty; both there with mean Dice 0.5
    inside = 0
    for seed in range(60):
        pairs = draw_pairs(120, seed=seed, classes=1)
        (found,) = [
            each
            for each in score_pairs(pairs, classes=["a"], metrics=[MAIN], resamples=200, seed=seed)
            if not each.class_name
        ]
        inside += found.low <= truth <= found.high
    assert binomtest(inside, 60, 0.95).pvalue > 0.001


def test_groups_widen_an_interval():
    pairs = draw_pairs(50)
    copied = make_pairs(*(np.repeat(areas, 4, axis=0) for areas in
                          (pairs.truth, pairs.predicted, pairs.intersection)))  # fmt: skip
    groups = np.repeat(np.arange(50), 4)
    one, grouped, rows = (
        score_pairs(sheet, classes=["a", "b"], metrics=[MAIN], groups=keys, resamples=400)[0]
        for sheet, keys in ((pairs, None), (copied, groups), (copied, None))
    )
    assert (grouped.low, grouped.high) == pytest.approx((one.low, one.high))
    assert rows.high - rows.low < 0.7 * (grouped.high - grouped.low)


def test_comparisons_agree_however_they_are_made():
    a, b = draw_pairs(70), draw_pairs(70, seed=3)
    b = make_pairs(a.truth, b.predicted, np.minimum(b.intersection, a.truth))
    groups = np.arange(70) // 2
    slow = compare_pairs(a, b, groups, resamples=300)
    gaps = d.measure_dice(a) - d.measure_dice(b)
    gaps = np.concatenate([gaps.mean(axis=1, keepdims=True), gaps], axis=1)
    fast = compare_means(gaps, groups, resamples=300)
    for one, other in zip(slow, fast, strict=True):
        assert (one.value, one.low, one.high) == pytest.approx(
            (other.value, other.low, other.high), abs=1e-11
        )
        assert other.p_value <= one.p_value < 2 * other.p_value + 0.01


def test_a_comparison_turns_its_sign():
    a, b = draw_pairs(50), draw_pairs(50, seed=3)
    b = make_pairs(a.truth, b.predicted, np.minimum(b.intersection, a.truth))
    for metric in d.METRICS:
        there, back = (
            compare_pairs(*pair, metric=metric, resamples=100) for pair in ((a, b), (b, a))
        )
        for one, other in zip(there, back, strict=True):
            assert one.value == pytest.approx(-other.value)
            assert one.p_value == pytest.approx(other.p_value)
            assert (one.low, one.high) == pytest.approx((-other.high, -other.low))


def test_equal_masks_do_not_differ():
    pairs = draw_pairs(30)
    for metric in d.METRICS:
        for each in compare_pairs(pairs, pairs, metric=metric, resamples=50):
            assert (each.value, each.low, each.high, each.p_value) == (0, 0, 0, 1)


def test_few_rows_that_differ_are_no_evidence():
    # Four of four rows gained: a fair coin does so 1 time in 8; percentiles alone leave out 0.
    gaps = np.zeros((400, 1))
    gaps[:4] = 1.0
    (found,) = compare_means(gaps, resamples=2000)
    assert found.low > 0
    assert found.p_value == pytest.approx(0.125, abs=0.03)


def test_p_values_of_swaps_are_the_exact_ones():
    rng = np.random.default_rng(0)
    gaps = rng.choice([-1.0, 1.0], 12, p=[0.2, 0.8])[:, None]
    exact = binomtest(int((gaps > 0).sum()), 12).pvalue
    assert compare_means(gaps, resamples=8000)[0].p_value == pytest.approx(exact, abs=0.015)


def test_p_values_get_smaller_than_the_number_of_swaps():
    (found,) = compare_means(np.ones((200, 1)), resamples=100)
    assert found.p_value == pytest.approx(2 * np.exp(-100))
    (found,) = compare_means(np.ones((3, 1)), resamples=4000)
    assert found.p_value == pytest.approx(0.25, abs=0.03)


def test_signs_are_fair_and_follow_no_resample():
    signs = draw_signs(400, 500, 0)
    assert set(np.unique(signs)) == {-1.0, 1.0}
    assert abs(signs.mean()) < 4 / np.sqrt(signs.size)
    assert (draw_signs(400, 3, 0) == signs[:3]).all()
    assert (draw_signs(400, 3, 1) != signs[:3]).any()


def test_faults_are_told():
    a, b = draw_pairs(10), draw_pairs(10, seed=1)
    with pytest.raises(InputError, match="align them by id"):
        compare_pairs(a, b)
    with pytest.raises(InputError, match="not known"):
        compare_pairs(a, a, metric="dice")
    with pytest.raises(InputError, match="not known"):
        score_pairs(a, classes=["a", "b"], metrics=["dice"])
    with pytest.raises(InputError, match="3 groups for 10 rows, 1 names for 2 classes"):
        score_pairs(a, classes=["a"], groups=[0, 1, 2])
