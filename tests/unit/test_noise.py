"""The arithmetic of confident learning: against its definition, by hand, and against cleanlab."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from loupe.errors import InputError
from loupe.noise import (
    NOBODY,
    count_confident,
    count_joint,
    find_class_thresholds,
    flag_both,
    flag_by_class,
    flag_by_noise_rate,
    flag_confident,
    flag_confident_joint,
    flag_disagreeing,
    guess_classes,
)

RULES = {
    "predicted_neq_given": flag_disagreeing,
    "confident_learning": flag_confident_joint,
    "prune_by_class": flag_by_class,
    "prune_by_noise_rate": flag_by_noise_rate,
    "both": flag_both,
}
"""As cleanlab calls them."""
HAND = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.1, 0.9], [0.2, 0.8], [0.8, 0.2]])
HAND_GIVEN = np.array([0, 0, 0, 1, 1, 1])


def make_sheet(seed: int, *, n: int | None = None, classes: int | None = None):
    """Draw true classes, labels of which some are wrong, and probabilities that lean to both."""
    rng = np.random.default_rng(seed)
    n = n or int(rng.integers(30, 900))
    classes = classes or int(rng.integers(2, 7))
    true = rng.integers(0, classes, n)
    wrong = rng.random(n) < rng.uniform(0, 0.5)
    given = np.where(wrong, rng.integers(0, classes, n), true)
    alpha = rng.uniform(0.2, 1) + rng.uniform(0.5, 6) * np.eye(classes)[true]
    return given, rng.dirichlet(np.ones(classes), n) * 1e-3 + draw(rng, alpha)


def draw(rng, alpha):
    drawn = rng.standard_gamma(alpha) + 1e-9
    return drawn / drawn.sum(axis=1, keepdims=True) * (1 - 1e-3)


def rounds_alike(given, probs) -> bool:
    """True if rounding the joint meets no two equal remainders; of those either may give way."""
    counted = count_confident(given, probs)
    rows = np.bincount(given, minlength=len(counted))
    scaled = counted / counted.sum(axis=1, keepdims=True) * rows[:, None]
    for line in scaled:
        rest = np.sort(line - np.round(line))
        lacking = round(line.sum() - np.round(line).sum())
        cut = len(rest) - lacking if lacking > 0 else -lacking
        if lacking and rest[cut] - rest[cut - 1] < 1e-9:
            return False
    return True


def ask_cleanlab(given, probs, rule: str):
    filters = pytest.importorskip("cleanlab.filter")
    with warnings.catch_warnings():
        # "too few examples": a class with one row has nothing to spare.
        warnings.simplefilter("ignore", UserWarning)
        return filters.find_label_issues(given, probs, filter_by=rule, n_jobs=1)


def assert_agreement(given, probs):
    counting = pytest.importorskip("cleanlab.count")
    theirs = counting.compute_confident_joint(given, probs, calibrate=False)
    np.testing.assert_array_equal(count_confident(given, probs), theirs)
    np.testing.assert_array_equal(
        count_joint(given, probs), counting.compute_confident_joint(given, probs)
    )
    for name, rule in RULES.items():
        np.testing.assert_array_equal(
            rule(given, probs), ask_cleanlab(given, probs, name), err_msg=name
        )


def test_the_sheets_agree_with_cleanlab_row_by_row():
    alike = flagged = 0
    for seed in range(100):
        given, probs = make_sheet(seed)
        if rounds_alike(given, probs):
            assert_agreement(given, probs)
            alike += 1
            flagged += int(flag_both(given, probs).sum())
    # The comparison is of something: many sheets have no tie, and rows are flagged.
    assert alike >= 50
    assert flagged > 1000


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_classes_with_few_rows_agree_with_cleanlab(rows):
    compared = 0
    for seed in range(40):
        given, probs = make_sheet(1000 + seed, n=120, classes=4)
        spare = np.flatnonzero(given == 2)[rows:]
        given[spare] = np.random.default_rng(seed).choice([0, 1, 3], len(spare))
        if rounds_alike(given, probs):
            assert_agreement(given, probs)
            compared += 1
    assert compared >= 15


def test_where_remainders_tie_cells_differ_by_one_and_sums_by_nothing():
    counting = pytest.importorskip("cleanlab.count")
    tied = 0
    for seed in range(400):
        given, probs = make_sheet(seed, n=24, classes=5)
        if not rounds_alike(given, probs):
            ours, theirs = (
                count_joint(given, probs), counting.compute_confident_joint(given, probs)
            )  # fmt: skip
            assert np.abs(ours - theirs).max() <= 1
            np.testing.assert_array_equal(ours.sum(axis=1), theirs.sum(axis=1))
            tied += 1
    assert tied >= 5


class TestByHand:
    """Class 0 reaches (0.9 + 0.6 + 0.3) / 3 = 0.6, class 1 (0.9 + 0.8 + 0.2) / 3 = 0.633."""

    def test_thresholds_are_means_over_the_rows_labelled_so(self):
        found = find_class_thresholds(HAND_GIVEN, HAND)
        np.testing.assert_allclose(found, [0.6, 1.9 / 3], rtol=1e-12)

    def test_weights_count_rows_several_times(self):
        found = find_class_thresholds(HAND_GIVEN, HAND, np.array([1, 0, 3, 0, 0, 0]))
        np.testing.assert_allclose(found, [(0.9 + 3 * 0.3) / 4, 2])

    def test_guesses(self):
        assert guess_classes(HAND_GIVEN, HAND).tolist() == [0, 0, 1, 1, 1, 0]

    def test_a_row_that_reaches_no_threshold_is_of_nobody(self):
        probs = np.array([[0.9, 0.1], [0.55, 0.45], [0.1, 0.9]])
        assert guess_classes(np.array([0, 0, 1]), probs).tolist() == [0, NOBODY, 1]
        # Two rows of class 0 have a mean of 0.725, which the second does not reach.
        counted = count_confident(np.array([0, 0, 1]), probs)
        assert counted.tolist() == [[1, 0], [0, 1]]

    def test_of_several_reached_classes_the_most_probable_counts(self):
        probs = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.2, 0.3, 0.5], [0.3, 0.4, 0.3]])
        given = np.array([0, 1, 2, 0])  # thresholds 0.4, 0.2, 0.5: row 3 reaches class 1 alone
        assert guess_classes(given, probs).tolist() == [0, 2, 2, 1]

    def test_a_probability_equal_to_the_threshold_reaches_it(self):
        probs = np.array([[0.7, 0.3], [0.7, 0.3], [0.7, 0.3]])
        assert guess_classes(np.array([0, 0, 0]), probs).tolist() == [0, 0, 0]

    def test_confident_counts_and_joint(self):
        assert count_confident(HAND_GIVEN, HAND).tolist() == [[2, 1], [1, 2]]
        assert count_joint(HAND_GIVEN, HAND).tolist() == [[2, 1], [1, 2]]

    def test_rows_that_nobody_is_confident_of_are_shared_out(self):
        # Of 6 rows of class 0 two are confidently 0 and one confidently 1: 6 x (2/3, 1/3).
        zeros = np.array([0.9, 0.9, 0.1, 0.5, 0.5, 0.5])
        probs = np.stack([zeros, 1 - zeros], axis=1)
        probs = np.concatenate([probs, [[0.3, 0.7], [0.3, 0.7]]])
        given = np.array([0] * 6 + [1, 1])
        assert count_confident(given, probs).tolist() == [[2, 1], [0, 2]]
        assert count_joint(given, probs).tolist() == [[4, 2], [0, 2]]

    def test_every_class_has_one_sound_row_in_the_counts(self):
        probs = np.array([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7]])
        assert count_confident(np.array([0, 0, 1]), probs)[0, 0] == 1
        assert count_confident(np.array([1, 1, 1]), probs)[0, 0] == 1

    @pytest.mark.parametrize(
        "rule",
        [flag_disagreeing, flag_confident_joint, flag_by_class, flag_by_noise_rate, flag_both],
    )
    def test_the_two_wrong_rows_are_flagged(self, rule):
        assert np.flatnonzero(rule(HAND_GIVEN, HAND)).tolist() == [2, 5]

    def test_by_class_takes_the_least_probable_and_by_noise_rate_the_largest_lead(self):
        # The joint says that one row of class 0 is a 1; both candidates disagree.
        probs = np.array([
            [0.8, 0.1, 0.1], [0.7, 0.2, 0.1], [0.2, 0.45, 0.35], [0.25, 0.74, 0.01],
            [0.1, 0.6, 0.3], [0.1, 0.6, 0.3], [0.1, 0.1, 0.8],
        ])  # fmt: skip
        given = np.array([0, 0, 0, 0, 1, 1, 2])
        # Mean of class 1 is 0.6: row 3 alone reaches it, row 2 is of nobody.
        assert count_joint(given, probs)[0].tolist() == [3, 1, 0]
        assert np.flatnonzero(flag_by_class(given, probs)).tolist() == [2]
        assert np.flatnonzero(flag_by_noise_rate(given, probs)).tolist() == [3]
        assert not flag_both(given, probs).any()
        assert np.flatnonzero(flag_disagreeing(given, probs)).tolist() == [2, 3]
        assert np.flatnonzero(flag_confident_joint(given, probs)).tolist() == [3]


class TestConfident:
    """Two views whose probabilities of one other class sum to 1.6 or more."""

    def test_the_sum_of_two_views_reaches_its_limit(self):
        sums = np.array([1.58, 1.6, 1.62, 2.0])
        other = sums / 2
        probs = np.stack([1 - other, other], axis=1)
        flagged = flag_confident(np.zeros(4, int), probs)
        assert flagged.tolist() == [False, True, True, True]

    @pytest.mark.parametrize("views", [(0.9, 0.7), (0.8, 0.8), (1.0, 0.6)])
    def test_the_limit_holds_in_float32(self, views):
        sheets = [np.array([[1 - view, view]], np.float32) for view in views]
        mean = np.mean(sheets, axis=0, dtype=np.float32)
        assert flag_confident(np.array([0]), mean).tolist() == [True]

    def test_the_own_class_is_never_flagged_however_sure(self):
        probs = np.array([[0.05, 0.95], [0.95, 0.05]])
        assert flag_confident(np.array([1, 0]), probs).tolist() == [False, False]
        assert flag_confident(np.array([0, 1]), probs, 0.95).tolist() == [True, True]
        assert flag_confident(np.array([0, 1]), probs, 0.96).tolist() == [False, False]

    def test_at_confidence_zero_it_is_disagreement(self):
        given, probs = make_sheet(3)
        np.testing.assert_array_equal(
            flag_confident(given, probs, 0), flag_disagreeing(given, probs)
        )


def test_of_equal_probabilities_the_given_class_is_kept():
    probs = np.array([[0.4, 0.4, 0.2], [0.4, 0.4, 0.2]])
    for rule in (*RULES.values(), flag_confident):
        assert not rule(np.array([0, 1]), probs).any(), rule


def test_a_class_of_one_row_is_never_pruned():
    given, probs = np.array([0, 1, 1, 1, 0]), np.zeros((5, 2))
    probs[:, 1], probs[4] = 0.9, (0.9, 0.1)
    probs[:, 0] = 1 - probs[:, 1]
    one = np.concatenate([given[:1], given[1:4]])
    assert flag_disagreeing(one, probs[:4]).tolist() == [True, False, False, False]
    assert not flag_by_class(one, probs[:4]).any()
    assert not flag_by_noise_rate(one, probs[:4]).any()
    # With a second row of the class the first can be spared.
    assert flag_by_class(given, probs).tolist() == [True, False, False, False, False]


def test_nothing_is_found_among_no_rows():
    given, probs = np.zeros(0, np.int64), np.zeros((0, 3))
    assert count_joint(given, probs).tolist() == np.zeros((3, 3)).tolist()
    assert guess_classes(given, probs).shape == (0,)


@pytest.mark.parametrize("call", [guess_classes, count_joint, flag_disagreeing, flag_by_class])
def test_sheets_that_do_not_fit_are_refused(call):
    with pytest.raises(InputError, match=r"shape \(2,\), probabilities \(3, 2\)"):
        call(np.array([0, 1]), np.full((3, 2), 0.5))
    with pytest.raises(InputError, match="from 0 to 2; expected numbers from 0 to 1"):
        call(np.array([0, 2]), np.full((2, 2), 0.5))
    with pytest.raises(InputError, match="from -1 to 1"):
        call(np.array([-1, 1]), np.full((2, 2), 0.5))
