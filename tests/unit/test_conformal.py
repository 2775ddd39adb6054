import json

import numpy as np
import pytest

from loupe.conformal import (
    Conformal,
    conformal_to_dict,
    fit_conformal,
    measure_coverage,
    needs_review,
    predict_sets,
    read_conformal,
)
from loupe.errors import InputError
from loupe.testing import make_predictions

BOTH = Conformal(coverage=0.9, present=(0.5, 0.25), absent=(0.5, 0.75))
ONE = Conformal(coverage=0.9, present=(0.5, 0.25, 1.0))


def column(*values) -> np.ndarray:
    return np.array(values, np.float32)[:, None]


def fit_one(probs: np.ndarray, coverage: float, groups: np.ndarray | None = None) -> Conformal:
    """Fit rows that are all positive."""
    keys = np.arange(len(probs)) if groups is None else groups
    targets = np.ones_like(probs)
    return fit_conformal(
        targets, probs, keys, exclusive=False, coverage=coverage, classes=["crack"]
    )


def test_the_cut_is_the_rank_of_the_definition() -> None:
    probs = column(*(np.arange(1, 10) / 16))  # 1 - p rises from 7/16 to 15/16.
    # ceil(10 * 0.8) = 8th smallest, ceil(10 * 0.81) = 9th, ceil(10 * 0.91) = 10th of nine.
    assert fit_one(probs, 0.8).present == (14 / 16,)
    assert fit_one(probs, 0.81).present == (15 / 16,)
    assert fit_one(probs, 0.9).present == (15 / 16,)
    assert fit_one(probs, 0.91).present == (1.0,)


@pytest.mark.parametrize("coverage", [0.07, 0.29, 0.57, 0.9])
def test_rounding_asks_for_no_row_more(coverage) -> None:
    probs = column(*(np.arange(1, 100) / 128))
    rank = round(100 * coverage)  # 100 * 0.07 is above 7 in binary.
    assert fit_one(probs, coverage).present == (1 - (100 - rank) / 128,)


def test_too_few_rows_keep_the_answer_and_say_so() -> None:
    targets = np.float32([[1, 1], [1, 0], [0, 0], [0, 0]])
    fitted = fit_conformal(
        targets, 1 - targets, np.arange(4), exclusive=False, coverage=0.75, classes=["a", "b"]
    )
    assert fitted.present == (1.0, 1.0)
    assert fitted.absent == (1.0, 1.0)
    (note,) = fitted.notes
    assert "a (2), no a (2), b (1)" in note
    assert "no b" not in note
    assert "expected 3 or more" in note
    # Three rows are just enough: their largest score is the cut.
    enough = fit_one(column(0.5, 0.75, 0.875), 0.75)
    assert enough.present == (0.5,)
    assert ": no crack (0); expected 3" in enough.notes[0]


def test_groups_count_once_each() -> None:
    """By hand: groups of scores {1/8, 1/8, 7/8}, {2/8}, {3/8, 4/8}; n = 3, so of 4 units."""
    probs = 1 - column(1 / 8, 1 / 8, 7 / 8, 2 / 8, 3 / 8, 4 / 8)
    groups = np.array([5, 5, 5, 1, 9, 9])
    # Mass by score: 2/3 at 1/8, 1 at 2/8, 1/2 at 3/8, 1/2 at 4/8, 1/3 at 7/8.
    for coverage, cut in ((0.16, 1), (0.17, 2), (0.4, 2), (0.5, 3), (0.6, 4), (0.7, 7), (0.75, 7)):
        assert fit_one(probs, coverage, groups).present == (cut / 8,), coverage
    assert fit_one(probs, 0.76, groups).present == (1.0,)
    assert "crack (3)" in fit_one(probs, 0.76, groups).notes[0]


def test_sets_of_exclusive_classes() -> None:
    probs = np.float32([[0.5, 0.25, 0.25], [0.125, 0.75, 0.125], [np.nan] * 3])
    sets = predict_sets(ONE, probs, exclusive=True)
    assert sets.tolist() == [[True, False, True], [False, True, True], [False] * 3]
    assert needs_review(ONE, probs, exclusive=True).tolist() == [True, True, True]
    sure = Conformal(coverage=0.9, present=(0.5, 0.25, 0.5))
    assert needs_review(sure, probs, exclusive=True).tolist() == [False, False, True]


def test_sets_of_classes_that_stand_alone() -> None:
    probs = np.float32([[0.5, 0.9], [0.6, 0.75], [0.4, 0.5], [np.nan, 0.9]])
    sets = predict_sets(BOTH, probs, exclusive=False)
    assert sets[:, 0].tolist() == [[True, True], [False, True], [True, False], [False, False]]
    assert sets[:, 1].tolist() == [[False, True], [True, True], [True, False], [False, False]]
    assert needs_review(BOTH, probs, exclusive=False).tolist() == [True, True, False, True]


def test_a_set_can_be_empty_and_goes_to_review() -> None:
    strict = Conformal(coverage=0.5, present=(0.25,), absent=(0.25,))
    assert predict_sets(strict, column(0.5), exclusive=False).tolist() == [[[False, False]]]
    assert needs_review(strict, column(0.5), exclusive=False).tolist() == [True]


def test_a_fitted_row_at_the_cut_is_inside_in_float32() -> None:
    probs = np.random.default_rng(1).random((99, 1)).astype(np.float32)
    fitted = fit_one(probs, 0.8)
    assert predict_sets(fitted, probs, exclusive=False)[:, 0, 1].sum() == 80
    again = read_conformal(json.loads(json.dumps(conformal_to_dict(fitted))), 1)
    assert again == fitted


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("groups", [None, 120])
def test_new_rows_are_covered_as_stated(exclusive, groups) -> None:
    """200 rows to fit on; on average over draws the promise holds, whatever the model."""
    covered, names = [], ("a", "b", "c")
    for seed in range(60):
        targets, probs, keys, _ = make_predictions(
            600, 3, exclusive=exclusive, groups=groups, seed=seed,
            prevalence=(0.4, 0.35, 0.25), quality=0.4,
        )  # fmt: skip
        skewed = probs**2  # Not calibrated, which must not matter.
        fit = keys < (200 if groups is None else 40)
        fitted = fit_conformal(
            targets[fit], skewed[fit], keys[fit], exclusive=exclusive, coverage=0.8, classes=names
        )
        sets = predict_sets(fitted, skewed[~fit], exclusive=exclusive)
        found = measure_coverage(
            sets, targets[~fit], keys[~fit], exclusive=exclusive, classes=names
        )
        covered.append([each.covered for each in found])
    means = np.mean(covered, axis=0)
    assert len(means) == (3 if exclusive else 6)
    # 60 means of a deviation of about 0.06: four standard errors. Above by 1 / (n + 1) at most.
    assert (means > 0.8 - 0.03).all(), means
    assert (means < 0.8 + 0.03 + 1 / 11).all(), means
    if groups is None:
        # The share of rows, not only of classes: too wide sets would be as useless.
        assert means.mean() == pytest.approx(0.81, abs=0.015)


def test_rows_of_a_group_taken_for_strangers_break_the_promise() -> None:
    """One large group must not decide: the contrast that shows what `groups` is for."""
    held = {"groups": [], "rows": []}
    for seed in range(60):
        rng = np.random.default_rng(seed)
        level = rng.normal(size=14)
        sizes = np.r_[rng.integers(60, 90, 2), np.ones(11, int), 1]
        keys = np.repeat(np.arange(14), sizes)
        probs = 1 / (1 + np.exp(-level[keys] - rng.normal(size=len(keys)) / 9))
        probs = probs.astype(np.float32)[:, None]
        old, new = keys < 13, probs[keys == 13]
        for name, groups in (("groups", keys[old]), ("rows", np.arange(old.sum()))):
            fitted = fit_one(probs[old], 0.8, groups)
            held[name].append(predict_sets(fitted, new, exclusive=False)[:, 0, 1].mean())
    assert np.mean(held["groups"]) > 0.75
    assert np.mean(held["rows"]) < np.mean(held["groups"]) - 0.05


def test_coverage_is_measured_by_class_and_side() -> None:
    targets = np.float32([[1], [1], [0], [0], [0]])
    sets = np.array([[[0, 1]], [[1, 0]], [[1, 1]], [[1, 0]], [[0, 0]]], bool)
    present, absent = measure_coverage(
        sets, targets, np.array([0, 1, 2, 2, 3]), exclusive=False, classes=["a"]
    )
    assert (present.class_name, present.side, present.n, present.groups) == ("a", "present", 2, 2)
    assert (present.covered, present.size, present.reviewed) == (0.5, 1, 0)
    # Rows 2 and 3 are one group and are covered, row 4 is another one and is not.
    assert (absent.side, absent.n, absent.groups, absent.covered) == ("absent", 3, 2, 0.5)
    assert (absent.size, absent.reviewed) == (1, 2 / 3)
    assert absent.low < absent.covered < absent.high


def test_coverage_of_exclusive_classes_leaves_out_those_without_rows() -> None:
    targets = np.float32([[1, 0, 0], [0, 1, 0], [0, 1, 0]])
    sets = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0]], bool)
    found = measure_coverage(sets, targets, np.arange(3), exclusive=True, classes=list("abc"))
    assert [(each.class_name, each.covered, each.size) for each in found] == [
        ("a", 1, 1),
        ("b", 0.5, 1.5),
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (None, "cannot be read"),
        ({}, "KeyError 'coverage'"),
        ({"coverage": "x", "present": [], "absent": []}, "cannot be read"),
        ({"coverage": 1.0, "present": [0.5, 0.5], "absent": []}, "coverage 1.0"),
        ({"coverage": 0.9, "present": [0.5], "absent": []}, "1 cuts for present"),
        ({"coverage": 0.9, "present": [0.5, 0.5], "absent": [0.1]}, "1 for absent"),
        ({"coverage": 0.9, "present": [0.5, float("nan")], "absent": []}, "outside"),
        ({"coverage": 0.9, "present": [0.5, 0.5], "absent": [0.5, -1]}, "outside"),
    ],
)
def test_a_text_form_that_was_tampered_with_is_refused(values, message) -> None:
    with pytest.raises(InputError, match=message):
        read_conformal(values, 2)


def test_what_does_not_fit_is_refused() -> None:
    probs = column(0.5, 0.75)
    for coverage in (0, 1, 95):
        with pytest.raises(InputError, match=f"coverage is {coverage}"):
            fit_one(probs, coverage)
    with pytest.raises(InputError, match=r"1 row\(s\) have NaN"):
        fit_one(column(0.5, np.nan), 0.9)
    with pytest.raises(InputError, match="with 3 groups"):
        fit_one(probs, 0.9, np.arange(3))
    with pytest.raises(InputError, match="fitted for 2 classes, exclusive False"):
        predict_sets(BOTH, probs, exclusive=False)
    with pytest.raises(InputError, match="exclusive True"):
        predict_sets(ONE, np.zeros((2, 3), np.float32), exclusive=False)
    with pytest.raises(InputError, match=r"expected \(2, 1, 2\)"):
        measure_coverage(
            np.zeros((2, 1), bool), probs, np.arange(2), exclusive=False, classes=["a"]
        )
