"""What cross-validation promised beside what new rows show."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import numpy as np
import pytest

from loupe.intervals import Score, score
from loupe.promises import compare_main, compare_promise, find_main_score, read_main_score

FOUND = Score(
    metric="accuracy",
    class_name="",
    value=0.9,
    low=0.86,
    high=0.93,
    fold_mean=math.nan,
    fold_std=math.nan,
    n=100,
)


def wilson(positives: int, n: int) -> Score:
    z, p = 1.959964, positives / n
    middle, scale = p + z * z / (2 * n), 1 + z * z / n
    half = z * math.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
    ends = {"low": (middle - half) / scale, "high": (middle + half) / scale}
    return replace(FOUND, value=p, n=n, **ends)


@pytest.mark.parametrize(
    ("a", "b", "low", "high"),
    [  # Newcombe (1998), table II, method 10
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((6, 7), (2, 7), 0.0582, 0.8062),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((10, 10), (0, 20), 0.6791, 1.0000),
        ((10, 10), (0, 10), 0.6075, 1.0000),
    ],
)
def test_the_interval_is_that_of_newcombe(a, b, low, high):
    found = compare_promise(wilson(*a), wilson(*b))
    assert (found.low, found.high) == pytest.approx((low, high), abs=6e-5)


def test_the_verdict_names_the_side():
    new = replace(FOUND, value=0.85, low=0.8, high=0.89)
    assert "is as expected: 0.8500, 0.9000 in" in compare_promise(new, FOUND).verdict
    new = replace(FOUND, value=0.7, low=0.66, high=0.74)
    assert "is lower than cross-validation promised" in compare_promise(new, FOUND).verdict
    assert "is higher than cross-validation promised" in compare_promise(FOUND, new).verdict


def test_what_cannot_be_compared_says_so():
    blind = replace(FOUND, low=math.nan, high=math.nan)
    assert "there is no interval" in compare_promise(FOUND, blind).verdict
    other = replace(FOUND, note="mean of 2 of 3 classes; undefined for x")
    assert "mean of other classes (mean of 2 of 3" in compare_promise(other, FOUND).verdict


def test_equal_quality_is_as_expected_and_a_drop_is_seen():
    rng = np.random.default_rng(0)
    expected = 0
    for _ in range(40):
        sheets = []
        for n in (400, 300):
            truth = rng.random(n) < 0.5
            right = rng.random(n) < 0.8
            probs = np.where(truth == right, 0.9, 0.1).astype(np.float32)
            targets = np.stack([~truth, truth], axis=1).astype(np.float32)
            made = score(
                targets,
                np.stack([1 - probs, probs], axis=1),
                exclusive=True,
                classes="ab",
                resamples=200,
            )
            sheets.append(find_main_score(made, "accuracy"))
        expected += "as expected" in compare_promise(*sheets).verdict
    # 95 % of 40 is 38; 34 or fewer has a chance below 2 %.
    assert expected >= 34


def test_a_report_is_read_and_not_trusted():
    entry = asdict(FOUND) | {"fold_mean": None, "fold_std": None}
    others = [entry | {"class_name": "a", "value": 0.1}, entry | {"metric": "log_loss"}]
    found = read_main_score({"scores": [*others, entry]}, "accuracy")
    assert found is not None
    assert (found.value, found.low, found.high, found.n) == (0.9, 0.86, 0.93, 100)
    assert math.isnan(found.fold_mean)
    broken = ({}, {"scores": []}, {"scores": 3}, {"scores": [1]}, {"scores": [{"metric": 1}]})
    for report in (*broken, {"scores": [entry | {"value": "high"}]}):
        assert read_main_score(report, "accuracy") is None
    assert find_main_score([FOUND], "f1_macro") is None


def test_a_broken_promise_is_told_apart_from_other_shares_of_the_classes():
    old = {
        "average_precision": replace(FOUND, metric="average_precision"),
        "roc_auc": replace(FOUND, metric="roc_auc", value=0.95, low=0.93, high=0.97),
    }
    rare = replace(old["average_precision"], value=0.6, low=0.5, high=0.7)
    new = [rare, replace(old["roc_auc"], class_name="a"), replace(old["roc_auc"], value=0.94)]
    found = compare_main(new, old.get, exclusive=False)
    assert found is not None
    assert (found.metric, found.kept) == ("average_precision", False)
    assert "average_precision is lower than" in found.verdict
    assert "; roc_auc is as expected: 0.9400, 0.9500 in" in found.verdict
    kept = compare_main([old["average_precision"], new[2]], old.get, exclusive=False)
    assert kept is not None
    assert kept.kept
    assert "roc_auc" not in kept.verdict
    assert compare_main(new, {}.get, exclusive=False) is None
    assert compare_main(new, old.get, exclusive=True) is None
