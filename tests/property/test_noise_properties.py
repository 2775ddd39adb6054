"""Rules of confident learning: what holds for every sheet."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from loupe.labelquality import rank_labels
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
from loupe.votes import count_votes, find_nearest

FEW = settings(max_examples=60, deadline=None)
RULES = (
    flag_disagreeing, flag_confident, flag_confident_joint, flag_by_class, flag_by_noise_rate,
    flag_both,
)  # fmt: skip
rules = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)


@st.composite
def sheets(draw, least: int = 1):
    """Given classes, some of them maybe of no row, and probabilities without ties."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, classes = draw(st.integers(least, 60)), draw(st.integers(2, 5))
    labels = rng.integers(0, draw(st.integers(1, classes)), n)
    lean = draw(st.sampled_from([0.0, 1.0, 4.0]))
    drawn = rng.standard_gamma(0.5 + lean * np.eye(classes)[labels]) + 1e-6
    return labels, drawn / drawn.sum(axis=1, keepdims=True), rng


@st.composite
def coarse(draw):
    """As sheets, with many equal probabilities."""
    labels, probs, rng = draw(sheets())
    ticks = np.round(probs * 4) + 0.25
    return labels, ticks / ticks.sum(axis=1, keepdims=True), rng


def remainders_differ(labels, probs) -> bool:
    """True if it does not depend on the order of classes which cell of the joint gives way."""
    counted = count_confident(labels, probs)
    rows = np.bincount(labels, minlength=len(counted))
    scaled = counted / counted.sum(axis=1, keepdims=True) * rows[:, None]
    rest = np.sort(scaled - np.round(scaled), axis=1)
    moved = np.round(scaled).sum(axis=1) != rows
    halves = np.isclose(np.abs(rest), 0.5, atol=1e-6).any()
    return not halves and not (np.diff(rest[moved], axis=1) < 1e-9).any()


@rules
@FEW
@given(case=st.one_of(sheets(), coarse()))
def test_only_labels_that_another_class_beats_are_flagged(rule, case):
    labels, probs, _ = case
    beaten = probs[np.arange(len(labels)), labels] < probs.max(axis=1)
    assert not (rule(labels, probs) & ~beaten).any()


@rules
@FEW
@given(case=sheets())
def test_rows_may_come_in_any_order(rule, case):
    labels, probs, rng = case
    order = rng.permutation(len(labels))
    np.testing.assert_array_equal(rule(labels[order], probs[order]), rule(labels, probs)[order])


@rules
@FEW
@given(case=sheets())
def test_names_of_classes_do_not_matter(rule, case):
    labels, probs, rng = case
    assume(remainders_differ(labels, probs))
    order = rng.permutation(probs.shape[1])  # class k is called order[k]
    turned = np.empty_like(probs)
    turned[:, order] = probs
    np.testing.assert_array_equal(rule(order[labels], turned), rule(labels, probs))


@FEW
@given(st.one_of(sheets(), coarse()))
def test_the_joint_shares_out_the_labels(case):
    labels, probs, _ = case
    joint = count_joint(labels, probs)
    assert (joint >= 0).all()
    np.testing.assert_array_equal(joint.sum(axis=1), np.bincount(labels, minlength=probs.shape[1]))


@FEW
@given(st.one_of(sheets(), coarse()))
def test_both_is_less_than_either_and_all_disagree(case):
    labels, probs, _ = case
    either = flag_by_class(labels, probs), flag_by_noise_rate(labels, probs)
    np.testing.assert_array_equal(flag_both(labels, probs), either[0] & either[1])
    # No class loses its last row.
    for number in np.unique(labels):
        assert not either[0][labels == number].all()


@FEW
@given(sheets(), st.floats(0, 1), st.floats(0, 1))
def test_more_confidence_flags_less(case, one, other):
    labels, probs, _ = case
    less, more = sorted((one, other))
    strict = flag_confident(labels, probs, more)
    assert not (strict & ~flag_confident(labels, probs, less)).any()


@FEW
@given(st.one_of(sheets(), coarse()))
def test_weights_of_one_change_nothing(case):
    labels, probs, _ = case
    ones = np.ones(len(labels), int)
    for each in (find_class_thresholds, guess_classes, count_confident):
        np.testing.assert_array_equal(each(labels, probs, ones), each(labels, probs))


@FEW
@given(sheets())
def test_whole_weights_are_repeated_rows(case):
    labels, probs, rng = case
    weights = rng.integers(0, 4, len(labels))
    at = np.repeat(np.arange(len(labels)), weights)
    np.testing.assert_allclose(
        find_class_thresholds(labels, probs, weights),
        find_class_thresholds(labels[at], probs[at]),
        rtol=1e-12,
    )
    np.testing.assert_array_equal(
        guess_classes(labels, probs, weights)[at], guess_classes(labels[at], probs[at])
    )
    np.testing.assert_array_equal(
        count_confident(labels, probs, weights), count_confident(labels[at], probs[at])
    )


@FEW
@given(sheets())
def test_a_guess_reaches_its_threshold_and_nobody_reaches_none(case):
    labels, probs, _ = case
    limits, guessed = find_class_thresholds(labels, probs), guess_classes(labels, probs)
    for row, guess in zip(probs, guessed, strict=True):
        reached = np.flatnonzero(row >= limits - 1e-6)
        if guess == NOBODY:
            assert not len(reached)
        else:
            assert len(reached)
            assert guess == (reached[0] if len(reached) == 1 else row.argmax())


@FEW
@given(sheets())
def test_rankings_are_bounded_and_a_beaten_label_has_a_low_margin(case):
    labels, probs, _ = case
    beaten = flag_disagreeing(labels, probs)
    margin = rank_labels(labels, probs, "margin")
    np.testing.assert_array_equal(margin < 0.5, beaten)
    for ranking in ("posterior", "self_confidence"):
        found = rank_labels(labels, probs, ranking)
        assert ((found >= 0) & (found <= 1)).all()


@FEW
@given(sheets(least=2))
def test_votes_are_shares_and_no_row_votes_on_itself(case):
    labels, probs, rng = case
    nearest = find_nearest(rng.standard_normal((len(labels), 6)).astype(np.float32))
    assert (nearest[0] != np.arange(len(labels))[:, None]).all()
    found = count_votes(labels, nearest, probs.shape[1], 10)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    row = int(rng.integers(len(labels)))
    changed = labels.copy()
    changed[row] = (labels[row] + 1) % probs.shape[1]
    np.testing.assert_array_equal(
        count_votes(changed, nearest, probs.shape[1], 10)[row], found[row]
    )
