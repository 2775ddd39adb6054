import math

import numpy as np
import pytest

from loupe.errors import InputError
from loupe.metrics import expected_calibration_error, to_decisions
from loupe.reliability import measure_reliability, measure_share
from loupe.testing import make_predictions

NAMES = ("a", "b", "c")


def test_rows_alone_have_wilsons_interval() -> None:
    # Newcombe (1998), "Two-sided confidence intervals for the single proportion", table I:
    # 81 of 263, score method without continuity correction; 0 of 20 likewise.
    hits = (np.arange(263) < 81).astype(float)
    share = measure_share(hits, np.ones(263))
    assert (round(share.low, 4), round(share.high, 4)) == (0.2553, 0.3662)
    none = measure_share(np.zeros(20), np.ones(20))
    assert (none.value, none.low, round(none.high, 4)) == (0, 0, 0.1611)


def test_rows_that_agree_within_their_group_count_once() -> None:
    hits = (np.arange(40) < 13).astype(float)
    assert measure_share(hits * 7, np.full(40, 7.0)) == measure_share(hits, np.ones(40))
    none = measure_share(np.zeros(20), np.full(20, 7.0))
    assert none == measure_share(np.zeros(20), np.ones(20))


def test_groups_of_mixed_rows_count_as_their_rows_at_most() -> None:
    even = measure_share(np.full(30, 2.0), np.full(30, 4.0))
    alone = measure_share(np.tile([0.0, 1.0], 60), np.ones(120))
    # No variance between groups at all: only their number is known to be safe.
    assert even == measure_share(np.tile([0.0, 1.0], 15), np.ones(30))
    nearly = measure_share(np.r_[np.full(29, 2.0), 1.0], np.full(30, 4.0))
    assert nearly.high - nearly.low == pytest.approx(alone.high - alone.low, rel=0.01)


def test_a_share_of_nothing_is_not_a_number() -> None:
    share = measure_share(np.zeros(0), np.zeros(0))
    assert all(math.isnan(each) for each in (share.value, share.low, share.high))


def test_intervals_of_correlated_rows_hold_the_truth() -> None:
    rng = np.random.default_rng(0)
    held = []
    for _ in range(300):
        chance = rng.beta(1.5, 3.5, 60)
        sizes = rng.integers(1, 12, 60)
        share = measure_share(rng.binomial(sizes, chance).astype(float), sizes.astype(float))
        held.append(share.low <= 0.3 <= share.high)
    assert 0.91 <= np.mean(held) <= 0.99


@pytest.mark.parametrize("exclusive", [True, False])
def test_bins_add_up_to_the_calibration_error(exclusive) -> None:
    targets, probs, groups, _ = make_predictions(500, 3, exclusive=exclusive, groups=150, seed=1)
    skewed = probs**1.5
    skewed = (skewed / skewed.sum(axis=1, keepdims=True)) if exclusive else skewed
    found = measure_reliability(targets, skewed, groups, exclusive=exclusive, classes=NAMES)
    gaps = sum(each.count * abs(each.observed - each.predicted) for each in found)
    columns = 1 if exclusive else 3
    assert sum(each.count for each in found) == 500 * columns
    error = expected_calibration_error(
        to_decisions(targets, exclusive=exclusive), skewed, exclusive=exclusive
    )
    assert gaps / 500 / columns == pytest.approx(float(error), abs=1e-6)
    assert {each.class_name for each in found} == ({""} if exclusive else set(NAMES))
    for each in found:
        assert each.low <= each.predicted <= each.high + 1e-6
        assert each.observed_low <= each.observed <= each.observed_high


def test_a_bin_is_the_share_of_its_own_rows_whatever_their_order() -> None:
    targets, probs, groups, _ = make_predictions(400, 2, groups=90, seed=4)
    found = measure_reliability(targets, probs, groups, exclusive=False, classes=("a", "b"), bins=5)
    for each in found:
        column = "ab".index(each.class_name)
        inside = (probs[:, column] >= each.low) & (probs[:, column] < each.high)
        assert each.count == inside.sum()
        assert each.observed == pytest.approx(targets[inside, column].mean())
        sizes = np.bincount(groups[inside])
        hits = np.bincount(groups[inside], targets[inside, column])
        share = measure_share(hits[sizes > 0], sizes[sizes > 0].astype(float))
        assert (each.observed_low, each.observed_high) == (share.low, share.high)


def test_the_intervals_of_a_calibrated_sheet_hold_its_probabilities() -> None:
    held = []
    for seed in range(10):
        targets, probs, groups, _ = make_predictions(1000, 2, groups=400, seed=seed)
        found = measure_reliability(targets, probs, groups, exclusive=False, classes=("a", "b"))
        held += [each.observed_low <= each.predicted <= each.observed_high for each in found]
    assert 0.9 < np.mean(held) < 0.995


def test_both_ends_have_a_bin() -> None:
    found = measure_reliability(
        np.float32([[0], [1]]),
        np.float32([[0], [1]]),
        np.arange(2),
        exclusive=False,
        classes=("a",),
        bins=3,
    )
    assert [(each.low, each.high, each.count) for each in found] == [
        (0, 1 / 3, 1),
        (2 / 3, 1, 1),
    ]


def test_shapes_that_disagree_are_refused() -> None:
    sheet = np.zeros((4, 2), np.float32)
    for groups, classes, bins in ((3, "ab", 5), (4, "abc", 5), (4, "ab", 0), (4, "ab", 99_999)):
        with pytest.raises(InputError, match=f"{groups} groups, {len(classes)} classes"):
            measure_reliability(
                sheet, sheet, np.arange(groups), exclusive=False, classes=classes, bins=bins
            )
