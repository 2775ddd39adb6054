"""Gates as functions of arrays: stated values, and what holds of all of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from loupe.errors import InputError
from loupe.gates import (
    FEWEST_PAIRS,
    expect_dice,
    find_refills,
    fit_expected_dice,
    gate_areas,
    gate_expected,
    gate_hard,
    gate_product,
    gate_top,
    gate_two_sided,
    keep_likeliest,
    scale_areas,
)

NAN = float("nan")
ROWS, CLASSES = 3, 3
FEW = settings(max_examples=40, deadline=None)

shares = st.floats(0, 1, width=32)
sheets = st.lists(shares, min_size=ROWS * CLASSES, max_size=ROWS * CLASSES).map(
    lambda values: np.array(values, np.float32).reshape(ROWS, CLASSES)
)
marks = st.lists(st.booleans(), min_size=ROWS * CLASSES, max_size=ROWS * CLASSES).map(
    lambda values: np.array(values).reshape(ROWS, CLASSES)
)
levels = st.lists(shares, min_size=CLASSES, max_size=CLASSES)
areas = st.lists(st.integers(0, 5000), min_size=ROWS * CLASSES, max_size=ROWS * CLASSES).map(
    lambda values: np.array(values).reshape(ROWS, CLASSES)
)

GATES = {
    "hard": lambda p, _q, t, _a: gate_hard(p, t),
    "two-sided": lambda p, _q, t, a: gate_two_sided(p, a > 0, t, 0.9).keep,
    "areas": lambda p, _q, t, a: gate_areas(p, a, np.array(t) * 1000, 5),
    "product": lambda p, q, t, _a: gate_product(p, q, t),
    "top": lambda p, q, t, _a: gate_top(p, q, t),
    "expected": lambda p, q, _t, _a: gate_expected(p, q),
}


def test_hard_gate_is_inclusive_in_the_precision_of_the_probabilities():
    # 0.7 as float32 lies below 0.7 as float64, and must reach it all the same.
    probs = np.float32([[0.7, 0.6999]])
    assert gate_hard(probs, 0.7).tolist() == [[True, False]]
    assert gate_hard(probs, [0.8, 0.1]).tolist() == [[False, True]]


@FEW
@given(sheets, areas)
def test_hard_gate_at_zero_changes_nothing(probs, found):
    assert gate_hard(probs, 0).all()


@pytest.mark.parametrize("name", GATES)
def test_a_pair_without_a_probability_passes(name):
    probs = np.float32([[NAN, 0.0, NAN]])
    keep = GATES[name](probs, np.zeros_like(probs), [1.0, 1.0, 1.0], np.array([[1, 1, 0]]))
    assert keep.tolist() == [[True, False, True]]


@pytest.mark.parametrize("name", GATES)
@FEW
@given(sheets, sheets, sheets, levels, areas)
def test_gates_are_monotone_in_the_probability(name, probs, other, more, level, found):
    low, high = np.minimum(probs, other), np.maximum(probs, other)
    kept = GATES[name](low, more, level, found)
    assert (GATES[name](high, more, level, found) | ~kept).all()


@pytest.mark.parametrize("name", ["hard", "two-sided", "areas", "product", "top"])
@FEW
@given(sheets, sheets, levels, levels, areas)
def test_a_raised_threshold_never_keeps_more(name, probs, more, first, second, found):
    low, high = np.minimum(first, second), np.maximum(first, second)
    assert (GATES[name](probs, more, low, found) | ~GATES[name](probs, more, high, found)).all()


@FEW
@given(sheets, marks, levels, levels)
def test_refills_are_empty_sure_and_kept(probs, filled, recall, precision):
    keep, refill = gate_two_sided(probs, filled, recall, precision)
    assert (keep == gate_hard(probs, recall)).all()
    assert not (refill & filled).any()
    assert not (refill & ~keep).any()
    assert (refill == (~filled & (probs >= np.maximum(recall, precision).astype("f4")))).all()


def test_two_sided_gate_with_published_thresholds():
    recall = [0.271, 0.228, 0.269, 0.452]
    probs = np.float32([[0.2, 0.3, 0.95, 0.45], [0.271, 0.99, 0.1, NAN]])
    filled = np.array([[True, True, False, True], [True, False, False, False]])
    keep, refill = gate_two_sided(probs, filled, recall, 0.9)
    assert keep.tolist() == [[False, True, True, False], [True, True, False, True]]
    assert refill.tolist() == [[False, False, True, False], [False, True, False, False]]


def test_find_refills_asks_for_equal_shapes():
    with pytest.raises(InputError, match=r"filled \(1, 2\).*\(2, 2\)"):
        find_refills(np.ones((2, 2), bool), np.ones((2, 2), bool), np.ones((1, 2), bool))


def test_scaled_areas_follow_the_formula():
    probs = np.float32([[0.0, 0.25], [0.9, 1.0]])
    base, factor = np.array([600.0, 2000.0]), 10.0
    stated = base * factor - base * (factor - 1) * probs
    assert_allclose(scale_areas(probs, base, factor), stated, rtol=1e-6)
    # float32 knows no 0.9, yet a mask of exactly the stated area passes.
    assert scale_areas(np.float32([[0.9]]), 600, 5).tolist() == [[840.0]]
    assert gate_areas(np.float32([[0.9, 0.9]]), [[840, 839]], 600, 5).tolist() == [[True, False]]


@FEW
@given(sheets, areas, st.floats(1, 50))
def test_scaled_areas_lie_between_the_stated_one_and_its_multiple(probs, found, factor):
    smallest = scale_areas(probs, [10, 600, 2000], factor)
    assert (smallest >= [10, 600, 2000]).all()
    assert (smallest <= np.array([10, 600, 2000]) * factor + 0.05).all()
    plain = found >= np.array([10, 600, 2000])
    assert (gate_areas(probs, found, [10, 600, 2000], 1) == plain).all()
    assert (gate_areas(np.ones_like(probs), found, [10, 600, 2000], factor) == plain).all()


@pytest.mark.parametrize("factor", [0.5, NAN, float("inf")])
def test_scaled_areas_refuse_a_factor(factor):
    with pytest.raises(InputError, match="expected 1 or more"):
        scale_areas(np.float32([[0.5]]), 600, factor)


def test_product_and_top_by_hand():
    probs, other = np.float32([[0.8, 0.9, 0.9]]), np.float32([[0.75, 0.5, NAN]])
    assert gate_product(probs, other, 0.6).tolist() == [[True, False, True]]
    assert gate_top(probs, other, 0.75).tolist() == [[True, False, True]]


@FEW
@given(sheets, marks)
def test_keep_likeliest_opens_one_pair_of_closed_rows_alone(probs, keep):
    opened = keep_likeliest(keep, probs)
    closed = ~keep.any(axis=1)
    assert (opened[~closed] == keep[~closed]).all()
    assert (opened.sum(axis=1) >= 1).all()
    assert (opened[closed].argmax(axis=1) == probs[closed].argmax(axis=1)).all()
    assert (opened[closed].sum(axis=1) == 1).all()


def test_keep_likeliest_leaves_its_argument_and_unknown_rows_alone():
    keep = np.zeros((2, 2), bool)
    opened = keep_likeliest(keep, np.float32([[NAN, NAN], [NAN, 0.1]]))
    assert opened.tolist() == [[False, False], [False, True]]
    assert not keep.any()


@pytest.mark.parametrize(
    ("dice", "gate"),
    [(0.5, 0.667), (0.55, 0.645), (0.6, 0.625), (0.7, 0.588), (0.75, 0.571), (0.8, 0.556)],
)
def test_expected_gate_cuts_where_the_table_says(dice, gate):
    probs = np.float32([[gate - 0.001, gate + 0.001]])
    assert gate_expected(probs, np.full((1, 2), dice)).tolist() == [[False, True]]


def test_expected_gate_is_strict_and_refuses_what_is_no_dice():
    assert gate_expected(np.float32([[0.5, 1.0]]), [[1.0, 0.0]]).tolist() == [[False, False]]
    with pytest.raises(InputError, match=r"1 Dice value.*outside"):
        gate_expected(np.float32([[0.5]]), [[1.2]])


@FEW
@given(sheets, sheets)
def test_expected_gate_takes_the_choice_that_scores_more(probs, dices):
    p, d = probs.astype(float), dices.astype(float)
    gain = p * d - (1 - p)
    keep = gate_expected(probs, dices)
    assert keep[gain > 1e-6].all()
    assert not keep[gain < -1e-6].any()


def test_expected_gate_beats_one_threshold_where_dice_varies():
    rng = np.random.default_rng(0)
    probs = rng.random((20_000, 1), dtype=np.float32)
    dices = rng.uniform(0.1, 0.95, probs.shape)
    there = rng.random(probs.shape) < probs

    def mean(keep):
        return np.where(keep, there * dices, ~there).mean()

    best = max(mean(gate_hard(probs, level)) for level in np.linspace(0, 1, 101))
    assert mean(gate_expected(probs, dices)) > best + 0.003


def test_linear_fit_is_least_squares_and_never_falls():
    rng = np.random.default_rng(1)
    x = rng.uniform(0.5, 1, 200)
    y = np.clip(0.8 * x + rng.normal(0, 0.05, 200), 0, 1)
    slope, start = np.polyfit(x, y, 1)
    inside = np.linspace(x.min(), x.max(), 7)
    assert_allclose(expect_dice(fit_expected_dice(x, y), inside), slope * inside + start, rtol=1e-9)
    flat = fit_expected_dice(x, 1 - y)
    assert_allclose(expect_dice(flat, inside), (1 - y).mean())


def test_a_line_that_leaves_0_to_1_is_clipped():
    x = np.linspace(0, 1, 100)
    found = expect_dice(fit_expected_dice(x, (x > 0.5).astype(float)), [0.0, 0.5, 1.0])
    assert_allclose(found, [0, 0.5, 1])


def test_monotone_fit_finds_a_step_that_a_line_cannot():
    x = np.linspace(0, 1, 400)
    y = np.where(x < 0.7, 0.2, 0.9)
    fitted = fit_expected_dice(x, y, kind="monotone")
    assert_allclose(expect_dice(fitted, [0.0, 0.3, 0.6]), 0.2)
    assert_allclose(expect_dice(fitted, [0.8, 1.0]), 0.9)
    assert abs(expect_dice(fit_expected_dice(x, y), [0.6])[0] - 0.2) > 0.1


@FEW
@given(
    st.lists(st.tuples(shares, shares), min_size=1, max_size=60),
    st.sampled_from(["linear", "monotone"]),
)
def test_fitted_dice_never_falls_and_lies_within_0_and_1(pairs, kind):
    x, y = np.array(pairs).T
    fitted = fit_expected_dice(x, y, kind=kind)
    assert (np.diff(fitted.knots) > 0).all()
    found = expect_dice(fitted, np.linspace(0, 1, 50))
    assert (np.diff(found) >= -1e-12).all()
    assert (found >= 0).all()
    assert (found <= 1).all()


def test_few_or_equal_pairs_give_their_mean():
    few = fit_expected_dice([0.1] + [0.9] * (FEWEST_PAIRS - 2), [0.0] + [1.0] * (FEWEST_PAIRS - 2))
    assert_allclose(expect_dice(few, [0.1, 0.9]), 1 - 1 / (FEWEST_PAIRS - 1))
    same = fit_expected_dice([0.5] * 20, [0.2, 0.4] * 10, kind="monotone")
    assert_allclose(expect_dice(same, [0.0, 0.5, 1.0]), 0.3)
    assert np.isnan(expect_dice(same, [NAN])).all()


@pytest.mark.parametrize(
    ("x", "y", "told"),
    [
        ([], [], "one pair or more"),
        ([0.5], [0.5, 0.6], "one of each"),
        ([0.5, NAN], [0.5, 0.6], "1 of 2 pairs have no confidence"),
        ([0.5, 1.5], [0.5, 0.6], "1 confidence value"),
    ],
)
def test_fit_refuses(x, y, told):
    with pytest.raises(InputError, match=told):
        fit_expected_dice(x, y)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: gate_hard(np.float32([0.5]), 0.5), r"shape \(1,\)"),
        (lambda: gate_hard(np.float32([[0.5]]), [0.1, 0.2]), "1 classes"),
        (lambda: gate_hard(np.float32([[0.5]]), -0.1), "from 0 on"),
        (lambda: gate_hard(np.float32([[0.5]]), NAN), "from 0 on"),
        (lambda: gate_product(np.float32([[0.5]]), np.float32([[0.5, 1]]), 0.1), "confidences"),
        (lambda: gate_areas(np.float32([[0.5]]), [[1, 2]], 600, 5), "sizes"),
    ],
)
def test_what_does_not_fit_is_refused(call, told):
    with pytest.raises(InputError, match=told):
        call()
