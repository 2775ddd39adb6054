import math

import numpy as np
import pytest

from loupe import intervals, weighting
from loupe.errors import InputError
from loupe.intervals import Score, bootstrap_weights, compare_paired, score
from loupe.scorecard import main_metric

GOLDEN_WEIGHTS = [[0, 2, 0, 1], [0, 2, 0, 1], [1, 1, 1, 1]]


def column(*values, dtype=float) -> np.ndarray:
    return np.array(values, dtype=dtype)[:, None]


def find(scores: tuple[Score, ...], metric: str, class_name: str = "") -> Score:
    (found,) = [s for s in scores if (s.metric, s.class_name) == (metric, class_name)]
    return found


def test_bootstrap_weights_are_pinned_and_keep_groups_together():
    weights = bootstrap_weights(["b", "a", "b", "c"], 3, seed=1)
    assert weights.tolist() == GOLDEN_WEIGHTS
    assert bootstrap_weights(["b", "a", "b", "c"], 2, seed=1).tolist() == GOLDEN_WEIGHTS[:2]
    assert bootstrap_weights(range(4), 0, seed=1).shape == (0, 4)


def test_bootstrap_draws_every_group_equally_often():
    weights = bootstrap_weights(range(10), 4000, seed=0)
    assert (weights.sum(axis=1) == 10).all()
    # A count is about Poisson(1): 5 standard errors of its mean over 4000 draws.
    assert np.abs(weights.mean(axis=0) - 1).max() < 5 / math.sqrt(4000)
    assert weights.var() == pytest.approx(0.9, abs=0.03)


def test_the_bootstrap_does_not_depend_on_the_block_size(monkeypatch):
    rng = np.random.default_rng(0)
    targets, probs = (rng.random((50, 3)) < 0.4).astype(float), rng.random((50, 3))
    whole = score(targets, probs, exclusive=False, classes=list("abc"), resamples=100)
    monkeypatch.setattr(intervals, "BLOCK", 7 * 50)
    monkeypatch.setattr(weighting, "BLOCK", 7 * 50)
    assert score(targets, probs, exclusive=False, classes=list("abc"), resamples=100) == whole


def test_scores_of_exclusive_classes():
    targets = np.eye(3)[[0, 0, 1, 1, 2, 2]]
    probs = np.eye(3)[[0, 0, 1, 2, 2, 2]] * 0.7 + 0.1
    scores = score(
        targets, probs, exclusive=True, classes=list("abc"), folds=np.array([0, 1, 0, 1, 0, 1])
    )
    assert [s.metric for s in scores if not s.class_name] == [
        "accuracy",
        "balanced_accuracy",
        "f1_macro",
        "log_loss",
        "roc_auc_macro",
        "average_precision_macro",
    ]
    first = scores[0]
    assert first.metric == main_metric(exclusive=True)
    assert (first.value, first.n) == (pytest.approx(5 / 6), 6)
    assert first.fold_mean == pytest.approx((1 + 2 / 3) / 2)
    assert first.fold_std == pytest.approx((1 / 3) / math.sqrt(2))
    assert find(scores, "recall", "b").value == 0.5
    assert find(scores, "recall", "b").n == 2
    assert find(scores, "precision", "c").value == pytest.approx(2 / 3)


def test_scores_of_classes_that_stand_alone():
    targets = np.array([[1, 0], [0, 0.6], [1, 1], [0, 0]])
    probs = np.array([[0.9, 0.1], [0.2, 0.5], [0.4, 0.9], [0.3, 0.2]])
    scores = score(targets, probs, exclusive=False, classes=["x", "y"], resamples=50)
    assert scores[0].metric == main_metric(exclusive=False) == "average_precision"
    names = {s.metric for s in scores if not s.class_name}
    assert names == {
        *("average_precision", "roc_auc", "f1_macro", "f1_micro"),
        *("log_loss", "brier", "exact_match"),
    }
    assert find(scores, "exact_match").value == 0.75
    assert find(scores, "f1_micro").value == pytest.approx(6 / 7)
    assert find(scores, "prevalence", "y").value == 0.5
    assert math.isnan(scores[0].fold_mean)
    strict = score(
        targets, probs, exclusive=False, classes=["x", "y"], thresholds=[0.4, 0.6], resamples=0
    )
    assert find(strict, "recall", "x").value == 1
    assert find(strict, "recall", "y").value == 0.5
    assert math.isnan(strict[0].low)


def test_absent_classes_are_named_in_macro_scores():
    targets = np.array([[1, 0], [0, 0]])
    scores = score(targets, np.full((2, 2), 0.5), exclusive=False, classes=["x", "y"])
    note = "mean of 1 of 2 classes; undefined for y"
    assert find(scores, "f1_macro").note == find(scores, "roc_auc").note == note
    assert find(scores, "exact_match").note == ""
    assert math.isnan(find(scores, "average_precision", "y").low)


def test_a_perfect_score_still_has_an_interval():
    targets = np.eye(2)[[0, 1] * 50]
    top = score(targets, targets * 0.8 + 0.1, exclusive=True, classes=["a", "b"])[0]
    z2 = 1.959964**2
    assert (top.value, top.high) == (1, 1)
    assert top.low == pytest.approx(100 / (100 + z2), abs=1e-6)
    pairs = [str(i // 2) for i in range(100)]
    grouped = score(targets, targets, exclusive=True, classes=["a", "b"], groups=pairs)[0]
    assert grouped.low == pytest.approx(50 / (50 + z2), abs=1e-6)
    worst = score(targets, 1 - targets, exclusive=True, classes=["a", "b"])[0]
    assert (worst.low, worst.high) == (0, pytest.approx(z2 / (100 + z2), abs=1e-6))


def test_a_recall_of_one_rests_on_the_positive_rows_only():
    targets = column(*[1] * 5, *[0] * 95)
    found = find(score(targets, targets, exclusive=False, classes=["x"]), "recall", "x")
    assert found.low == pytest.approx(5 / (5 + 1.959964**2), abs=1e-6)


def test_whole_groups_widen_the_interval():
    rng = np.random.default_rng(3)
    right = np.repeat(rng.random(40) < 0.7, 10)
    targets = np.eye(2)[np.zeros(400, int)]
    probs = np.where(right[:, None], [0.8, 0.2], [0.2, 0.8])
    groups = np.repeat(np.arange(40), 10)
    alone = score(targets, probs, exclusive=True, classes=["a", "b"])[0]
    whole = score(targets, probs, exclusive=True, classes=["a", "b"], groups=groups)[0]
    ratio = (whole.high - whole.low) / (alone.high - alone.low)
    assert ratio == pytest.approx(math.sqrt(10), rel=0.15)


def test_one_group_alone_says_nothing_about_the_loss():
    targets = np.eye(2)[[0, 1]]
    scores = score(targets, targets, exclusive=True, classes=["a", "b"], groups=["g", "g"])
    assert math.isnan(find(scores, "log_loss").low)
    assert scores[0].low < 0.3


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"targets_NC": np.array([[np.nan, 1], [0, 1], [1, 0]])}, "targets are NaN .* 1 of 3"),
        ({"probs_NC": np.array([[0.5, 0.5], [2, 0], [np.nan, 1]])}, "probabilities .* 2 of 3"),
        ({"probs_NC": np.zeros((3, 1))}, r"\(3, 2\) and predictions \(3, 1\)"),
        ({"classes": ["a"], "folds": np.zeros(2, int)}, "1 classes for 2, 2 folds for 3"),
        ({"thresholds": 0.4}, "argmax"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_wrong_input_is_refused_with_its_count(change, text):
    good = {"targets_NC": np.eye(2)[[0, 1, 0]], "probs_NC": np.full((3, 2), 0.5)}
    with pytest.raises(InputError, match=text):
        score(**(good | {"exclusive": True, "classes": ["a", "b"]} | change))


def shifted(n: int, right: int) -> np.ndarray:
    probs = np.tile([0.2, 0.8], (n, 1))
    probs[:right] = [0.8, 0.2]
    return probs


def test_a_paired_difference_is_narrower_than_two_scores():
    targets = np.eye(2)[np.zeros(200, int)]
    a, b = shifted(200, 150), shifted(200, 140)
    found = compare_paired(targets, a, b, exclusive=True)
    assert found.metric == "accuracy"
    assert found.value == pytest.approx(0.05)
    # Ten discordant rows of one sign: the difference is Binomial(200, 0.05) / 200.
    assert found.low == pytest.approx(0.05 - 1.96 * 0.0154, abs=0.006)
    assert found.p_value < 0.01
    back = compare_paired(targets, b, a, exclusive=True)
    assert (back.value, back.low, back.high) == pytest.approx(
        (-found.value, -found.high, -found.low)
    )


def test_no_difference_is_not_certainty():
    targets = np.eye(2)[np.zeros(100, int)]
    same = compare_paired(targets, shifted(100, 100), shifted(100, 100), exclusive=True)
    bound = 1 - 0.025 ** (1 / 100)
    assert (same.value, same.p_value) == (0, 1)
    assert (same.low, same.high) == (pytest.approx(-bound), pytest.approx(bound))


def test_compare_knows_the_overall_metrics_only():
    targets = np.eye(2)[[0, 1, 0, 1]]
    found = compare_paired(targets, targets, targets, exclusive=True, metric="log_loss")
    assert (found.metric, found.low, found.high) == ("log_loss", 0, 0)
    with pytest.raises(InputError, match="did you mean 'accuracy'"):
        compare_paired(targets, targets, targets, exclusive=True, metric="acuracy")
