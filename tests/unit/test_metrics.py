import math

import numpy as np
import pytest

from loupe import metrics
from loupe.errors import InputError
from loupe.metrics import (
    Score,
    average_precision,
    bootstrap_weights,
    compare_paired,
    confusion_matrix,
    count_outcomes,
    expected_calibration_error,
    f1,
    log_loss,
    macro,
    main_metric,
    pool,
    pr_auc,
    precision,
    recall,
    roc_auc,
    score,
    to_decisions,
)

GOLDEN_WEIGHTS = [[0, 2, 0, 1], [0, 2, 0, 1], [1, 1, 1, 1]]


def column(*values, dtype=float) -> np.ndarray:
    return np.array(values, dtype=dtype)[:, None]


def find(scores: tuple[Score, ...], metric: str, class_name: str = "") -> Score:
    (found,) = [s for s in scores if (s.metric, s.class_name) == (metric, class_name)]
    return found


def test_decisions_are_argmax_or_inclusive_thresholds():
    tied = np.array([[0.4, 0.4, 0.2]])
    assert to_decisions(np.array([[0, 1]]), exclusive=False).tolist() == [[False, True]]
    assert to_decisions(tied, exclusive=True).tolist() == [[True, False, False]]
    probs = np.array([[0.7, 0.3], [0.69, 0.31]], dtype=np.float32)
    assert to_decisions(probs, exclusive=False, thresholds=[0.7, 0.31]).tolist() == [
        [True, False],
        [False, True],
    ]


def test_outcomes_and_their_scores_from_the_definitions():
    truth = np.array([[1, 1], [1, 0], [0, 0], [0, 0]], dtype=bool)
    called = np.array([[1, 0], [0, 0], [1, 0], [1, 0]], dtype=bool)
    counts = count_outcomes(truth, called)
    assert (counts.tp.tolist(), counts.fp.tolist()) == ([1, 0], [2, 0])
    assert (counts.fn.tolist(), counts.tn.tolist()) == ([1, 1], [0, 3])
    np.testing.assert_allclose(precision(counts), [1 / 3, np.nan])
    np.testing.assert_allclose(recall(counts), [1 / 2, 0])
    np.testing.assert_allclose(f1(counts), [2 / 5, 0])
    np.testing.assert_allclose(f1(pool(counts)), [2 / 6])


def test_a_class_without_positives_is_undefined_and_left_out():
    truth = np.array([[1, 0], [0, 0]], dtype=bool)
    called = np.array([[1, 1], [0, 0]], dtype=bool)
    counts = count_outcomes(truth, called)
    np.testing.assert_array_equal(f1(counts), [1, np.nan])
    assert macro(f1(counts)) == 1
    assert math.isnan(macro(np.array([np.nan, np.nan])))
    assert np.isnan(roc_auc(truth, called.astype(float))[1])
    assert np.isnan(average_precision(truth, called.astype(float))[1])


def test_batched_f1_is_not_the_f1_of_the_data_set():
    truth, called = column(0, 0, 1, 1, dtype=bool), column(0, 1, 0, 1, dtype=bool)
    whole = recall(count_outcomes(truth, called))
    batches = [recall(count_outcomes(truth[rows], called[rows])) for rows in ([0, 1], [2, 3])]
    assert whole.tolist() == [0.5]
    assert np.isnan(batches[0]).all()


def test_the_two_areas_under_precision_and_recall_differ():
    truth, probs = column(0, 0, 1, 1, dtype=bool), column(0.1, 0.4, 0.35, 0.8)
    assert average_precision(truth, probs)[0] == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert pr_auc(truth, probs)[0] == pytest.approx(0.5 + 0.5 * (1 / 2 + 2 / 3) / 2)


def test_equal_probabilities_enter_together():
    truth, probs = column(1, 0, 0, 0, dtype=bool), np.full((4, 1), 0.5)
    assert average_precision(truth, probs)[0] == 0.25
    assert roc_auc(truth, probs)[0] == 0.5


def test_confusion_matrix_of_classes_and_of_one_column():
    truth, called = np.eye(3, dtype=bool)[[0, 1, 2, 2]], np.eye(3, dtype=bool)[[0, 0, 2, 1]]
    assert confusion_matrix(truth, called).tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 1]]
    weighted = confusion_matrix(truth, called, np.array([[1, 1, 1, 1], [0, 2, 0, 3]]))
    assert weighted[1].tolist() == [[0, 0, 0], [2, 0, 0], [0, 3, 0]]
    one = confusion_matrix(column(0, 0, 1, dtype=bool), column(0, 1, 1, dtype=bool))
    assert one.tolist() == [[1, 1], [0, 1]]
    with pytest.raises(InputError, match=r"1 row\(s\)"):
        confusion_matrix(np.ones((1, 2), bool), np.eye(2, dtype=bool)[:1])


def test_log_loss_takes_soft_targets():
    targets, probs = np.array([[0.25, 0.75]]), np.array([[0.5, 0.5]])
    assert log_loss(targets, probs, exclusive=True) == pytest.approx(math.log(2))
    probs = np.array([[0.25, 0.75]])
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert log_loss(targets, probs, exclusive=True) == pytest.approx(entropy)
    assert log_loss(targets, probs, exclusive=False) == pytest.approx(entropy)


def test_certain_and_wrong_is_finite_at_the_precision_of_the_probabilities():
    wrong = np.array([[1.0]], dtype=np.float32)
    loss = log_loss(np.array([[0.0]]), wrong, exclusive=False)
    assert loss == pytest.approx(-math.log(np.finfo(np.float32).eps), rel=1e-6)


def test_calibration_error_from_its_definition():
    truth, probs = column(0, 1, 1, 1, dtype=bool), column(0.2, 0.2, 0.9, 1.0)
    gap = abs(1 - 0.4) + abs(2 - 1.9)  # one bin holds 0.2 twice, the last one 0.9 and 1.0
    error = expected_calibration_error(truth, probs, exclusive=False, bins=4)
    assert error == pytest.approx(gap / 4)
    probs = np.array([[0.8, 0.2], [0.6, 0.4]])
    error = expected_calibration_error(np.eye(2, dtype=bool), probs, exclusive=True, bins=2)
    assert error == pytest.approx(abs(1 - 1.4) / 2)


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
    monkeypatch.setattr(metrics, "BLOCK", 7 * 50)
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


def test_wrong_weights_are_refused():
    with pytest.raises(InputError, match=r"weights have shape \(3,\); expected \(2,\)"):
        average_precision(np.ones((2, 1), bool), np.ones((2, 1)), np.ones(3))


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
