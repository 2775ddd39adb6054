import math

import numpy as np
import pytest

from loupe import intervals, weighting
from loupe.ends import find_biased_interval, find_interval
from loupe.errors import InputError
from loupe.intervals import Score, bootstrap_weights, compare_paired, score
from loupe.scorecard import main_metric
from loupe.testing import make_predictions

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
        "precision_macro",
        "mcc",
        "cohen_kappa",
        "log_loss",
        "brier",
        "expected_calibration_error",
        "roc_auc_macro",
        "average_precision_macro",
        "pr_auc",
    ]
    assert [s.metric for s in scores if s.class_name == "b"] == [
        *("precision", "recall", "f1", "prevalence", "brier"),
        *("average_precision", "roc_auc", "pr_auc"),
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
        *("average_precision", "roc_auc", "pr_auc", "log_loss", "brier", "exact_match"),
        *("f1_macro", "f1_micro", "precision_macro", "precision_micro"),
        *("recall_macro", "recall_micro", "expected_calibration_error"),
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


def test_a_single_column_is_scored_as_a_choice_too():
    scores = score(
        column(1, 1, 1, 0, 0, 0),
        column(0.9, 0.8, 0.2, 0.6, 0.1, 0.2),
        exclusive=False,
        classes=["x"],
    )
    assert find(scores, "accuracy").value == find(scores, "exact_match").value
    assert find(scores, "balanced_accuracy").value == pytest.approx(4 / 6)
    assert find(scores, "mcc").value == find(scores, "cohen_kappa").value == pytest.approx(1 / 3)


def test_undecided_rows_are_wrong_and_told_apart():
    targets = np.eye(2)[[0, 0, 0, 1, 1]]
    probs = np.tile([0.6, 0.4], (5, 1))
    decided = np.array([[1, 0], [1, 0], [0, 0], [1, 0], [0, 0]], dtype=bool)
    scores = score(targets, probs, exclusive=True, classes=["a", "b"], decisions=decided)
    assert find(scores, "accuracy").value == 2 / 5
    assert find(scores, "accepted").value == 3 / 5
    assert find(scores, "accuracy_accepted").value == pytest.approx(2 / 3)
    assert find(scores, "recall", "a").value == pytest.approx(2 / 3)
    assert find(scores, "recall", "b").value == 0
    every = score(targets, probs, exclusive=True, classes=["a", "b"], decisions=targets > 0)
    assert find(every, "accuracy").value == 1
    assert not {"accepted", "accuracy_accepted"} & {s.metric for s in every}


def test_decisions_take_the_place_of_thresholds():
    rng = np.random.default_rng(2)
    targets, probs = (rng.random((60, 2)) < 0.4).astype(float), rng.random((60, 2))
    cuts = [0.3, 0.6]
    options = {"exclusive": False, "classes": ["x", "y"], "resamples": 30}
    assert score(targets, probs, decisions=probs >= cuts, **options) == score(
        targets, probs, thresholds=cuts, **options
    )


def test_paired_decisions_differ_where_probabilities_do_not():
    targets = np.eye(2)[np.zeros(100, int)]
    probs, decided = shifted(100, 100), np.eye(2, dtype=bool)[np.zeros(100, int)]
    undecided = decided & (np.arange(100) % 4 > 0)[:, None]
    found = compare_paired(
        targets, probs, probs, exclusive=True, decisions_a=decided, decisions_b=undecided
    )
    assert found.value == pytest.approx(0.25)
    assert found.low == pytest.approx(0.25 - 1.96 * math.sqrt(0.25 * 0.75 / 100), abs=0.015)
    accepted = compare_paired(
        targets, probs, probs, exclusive=True, metric="accepted", decisions_b=undecided
    )
    assert accepted.value == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"thresholds": 0.5}, "both given"),
        ({"decisions": np.ones((3, 1), bool)}, r"bool of shape \(3, 1\); expected .* \(3, 2\)"),
        ({"decisions": np.zeros((3, 2))}, "decisions are float64"),
        ({"decisions": np.array([[1, 1], [0, 0], [1, 1]], bool), "exclusive": True}, "2 of 3 rows"),
    ],
)
def test_wrong_decisions_are_refused(change, text):
    good = {"targets_NC": np.eye(2)[[0, 1, 0]], "probs_NC": np.full((3, 2), 0.5)}
    good |= {"exclusive": False, "decisions": np.zeros((3, 2), bool)}
    with pytest.raises(InputError, match=text):
        score(**(good | {"classes": ["a", "b"]} | change))


def test_absent_classes_are_named_in_macro_scores():
    targets = np.array([[1, 0], [0, 0]])
    scores = score(targets, np.full((2, 2), 0.5), exclusive=False, classes=["x", "y"])
    note = "mean of 1 of 2 classes; undefined for y"
    assert find(scores, "f1_macro").note == find(scores, "roc_auc").note == note
    assert find(scores, "precision_macro").note == ""
    assert find(scores, "exact_match").note == find(scores, "recall_micro").note == ""
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


def test_agreement_beyond_chance_is_widened_on_its_own_scale():
    """All right of 100 balanced rows: the least mcc is that of the least accuracy, 2 a - 1."""
    targets = column(*[1] * 50, *[0] * 50)
    scores = score(targets, targets, exclusive=False, classes=["x"])
    least = 100 / (100 + 1.959964**2)
    for metric in ("mcc", "cohen_kappa"):
        assert find(scores, metric).low == pytest.approx(2 * least - 1, abs=1e-6)
        assert find(scores, metric).high == 1
    worst = find(score(targets, 1 - targets, exclusive=False, classes=["x"]), "mcc")
    assert (worst.low, worst.high) == (-1, pytest.approx(1 - 2 * least, abs=1e-6))
    rare = column(*[1] * 5, *[0] * 95)
    found = find(score(rare, rare, exclusive=False, classes=["x"]), "mcc")
    # 100 rows of which two differ with chance 0.095: worth 19 balanced ones.
    assert found.low == pytest.approx(2 * 19 / (19 + 1.959964**2) - 1, abs=1e-6)


def test_the_brier_score_of_exclusive_classes_goes_up_to_2():
    targets = np.eye(2)[[0, 1] * 50]
    worst = find(score(targets, 1 - targets, exclusive=True, classes=["a", "b"]), "brier")
    assert (worst.value, worst.high) == (2, 2)
    assert worst.low == pytest.approx(2 * 100 / (100 + 1.959964**2), abs=1e-6)


def find_calibration_error(targets, probs):
    scores = score(targets, probs, exclusive=False, classes=["x"], resamples=100)
    return find(scores, "expected_calibration_error")


def test_chance_alone_is_not_a_calibration_error():
    """Calibrated by construction: 0 must be inside, though the value is never 0."""
    outside = 0
    for seed in range(15):
        targets, probs, _, _ = make_predictions(150, 1, seed=seed)
        found = find_calibration_error(targets, probs)
        assert 0 <= found.low <= found.value <= found.high
        assert found.value > 0
        outside += found.low > 0
    assert outside <= 1


def test_the_interval_of_a_real_calibration_error_holds_it():
    """A quarter of calibrated probabilities, of mean 0.2: the error is 0.15."""
    held = 0
    for seed in range(15):
        targets, probs, _, _ = make_predictions(600, 1, prevalence=[0.2], seed=seed)
        found = find_calibration_error(targets, probs / 4)
        assert found.low > 0.05
        held += found.low <= 0.15 <= found.high
    assert held >= 12


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


def test_equal_draws_are_not_certainty():
    """Their variance is 0 but for rounding, which would stand for endless rows."""
    draws = np.full(60, 0.327326835354)
    assert draws.var() > 0
    low, high = find_interval(draws[0], draws, trials=9, bounded=True, confidence=0.95)
    assert low < 0.2
    assert high > 0.5
    low, high = find_biased_interval(0.25, np.full(60, 0.25), trials=9, confidence=0.95)
    assert (low, high) == (0.25, pytest.approx(1.25 - 0.025 ** (1 / 9)))


def test_one_group_says_nothing_of_the_calibration():
    found = find_biased_interval(0.2, np.full(9, 0.2), trials=1, confidence=0.95)
    assert np.isnan(found).all()
