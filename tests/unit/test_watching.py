import math

import numpy as np
import pytest

from loupe.errors import InputError, RecipeError
from loupe.intervals import score
from loupe.watching import check_metric, improves, list_metrics, lower_is_better, measure

KINDS = ["crack", "ok"]
TRUTH = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.float32)
PROBS = np.array([[0.9, 0.1], [0.4, 0.6], [0.35, 0.65], [0.2, 0.8]], np.float32)


def test_values_of_exclusive_classes_follow_from_their_definitions():
    values = measure(TRUTH, PROBS, 0.25, classes=KINDS, exclusive=True)
    assert values["loss"] == 0.25
    assert values["accuracy"] == values["balanced_accuracy"] == 3 / 4
    assert values["log_loss"] == pytest.approx(-np.log([0.9, 0.4, 0.65, 0.8]).mean(), rel=1e-6)
    # Decided: crack once, rightly; ok three times, one of them wrongly.
    assert (values["precision/crack"], values["recall/crack"]) == (1, 1 / 2)
    assert (values["precision/ok"], values["recall/ok"]) == (pytest.approx(2 / 3), 1)
    assert values["f1/crack"] == pytest.approx(2 / 3)
    assert values["f1/ok"] == pytest.approx(4 / 5)
    assert values["f1_macro"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert values["average_precision/crack"] == values["pr_auc/crack"] == 1


def test_pr_auc_is_the_mean_of_the_trapezoids_of_the_classes():
    truth = np.array([[0, 1], [0, 0], [1, 0], [1, 0]], np.float32)
    probs = np.array([[0.1, 0.9], [0.4, 0.1], [0.35, 0.2], [0.8, 0.3]], np.float32)
    values = measure(truth, probs, 0.0, classes=["a", "b"], exclusive=False)
    assert values["pr_auc/a"] == pytest.approx(0.5 + 0.5 * (1 / 2 + 2 / 3) / 2)
    assert values["pr_auc/b"] == 1
    assert values["pr_auc"] == pytest.approx((values["pr_auc/a"] + 1) / 2)
    assert values["average_precision/a"] == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_a_class_without_positives_is_undefined_and_left_out_of_the_means():
    truth = np.array([[1, 0], [0, 0]], np.float32)
    probs = np.array([[0.9, 0.7], [0.1, 0.2]], np.float32)
    values = measure(truth, probs, 0.0, classes=["a", "b"], exclusive=False)
    for metric in ("recall", "f1", "average_precision", "pr_auc", "roc_auc"):
        assert values[f"{metric}/a"] == 1
        assert math.isnan(values[f"{metric}/b"])
    for metric in ("f1_macro", "average_precision", "pr_auc", "roc_auc"):
        assert values[metric] == 1
    assert values["precision/b"] == 0


@pytest.mark.parametrize("exclusive", [True, False])
def test_values_are_those_of_the_scores_under_the_names_listed(exclusive):
    rng = np.random.default_rng(3)
    classes = ["a", "b/c", "d"]
    probs = rng.dirichlet(np.ones(3), 40)
    targets = np.eye(3)[rng.integers(0, 3, 40)]
    values = measure(targets, probs, 1.5, classes=classes, exclusive=exclusive)
    assert tuple(values) == list_metrics(classes, exclusive=exclusive)
    assert len(values) == len(set(values))
    shown = score(targets, probs, exclusive=exclusive, classes=classes, resamples=0)
    for one in shown:
        name = f"{one.metric}/{one.class_name}" if one.class_name else one.metric
        if one.metric != "prevalence":
            assert values[name] == pytest.approx(one.value, nan_ok=True), name
    assert len(values) == 1 + sum(one.metric != "prevalence" for one in shown)  # and the loss


def test_the_metrics_of_all_classes_come_before_those_of_each():
    overall = [
        *("loss", "average_precision", "f1_macro", "precision_macro", "recall_macro"),
        *("f1_micro", "precision_micro", "recall_micro", "exact_match"),
    ]
    choice = ["accuracy", "balanced_accuracy", "mcc", "cohen_kappa"]  # of a single column only
    losses = ["log_loss", "brier", "expected_calibration_error", "roc_auc", "pr_auc"]
    by_class = [
        *("precision/crack", "recall/crack", "f1/crack", "brier/crack"),
        *("average_precision/crack", "roc_auc/crack", "pr_auc/crack"),
    ]
    one = list(list_metrics(["crack"], exclusive=False))
    assert one == overall + choice + losses + by_class
    two = [name.replace("crack", kind) for kind in "ab" for name in by_class]
    assert list(list_metrics(["a", "b"], exclusive=False)) == overall + losses + two


@pytest.mark.parametrize("wrong", [np.nan, 1.5])
def test_values_that_are_no_probabilities_are_refused(wrong):
    probs = PROBS.copy()
    probs[1, 0] = wrong
    with pytest.raises(InputError, match="in 1 of 4 rows"):
        measure(TRUTH, probs, 0.0, classes=KINDS, exclusive=True)
    with pytest.raises(InputError):
        measure(TRUTH[:0], PROBS[:0], 0.0, classes=KINDS, exclusive=True)


@pytest.mark.parametrize("exclusive", [True, False])
def test_every_metric_listed_passes_the_check(exclusive):
    for name in list_metrics(KINDS, exclusive=exclusive):
        check_metric(name, KINDS, exclusive=exclusive, where="checkpoint.metric")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("pr_auk", "'pr_auc'"),
        ("val_loss", "'log_loss' or 'loss'"),
        ("PR_AUC", "'pr_auc' or 'roc_auc'"),
        ("recal/crack", "'recall/crack' or"),
        ("precision", "'precision/ok' or"),
    ],
)
def test_an_unknown_metric_is_answered_with_the_nearest(name, meant):
    with pytest.raises(RecipeError) as caught:
        check_metric(name, KINDS, exclusive=False, where="checkpoint.metric")
    assert str(caught.value).startswith(f"checkpoint.metric is {name!r}; did you mean {meant}")


def test_an_unknown_metric_is_answered_with_all_that_there_are():
    with pytest.raises(RecipeError) as caught:
        check_metric("accuracy", KINDS, exclusive=False, where="early_stop.metric")
    text = str(caught.value)
    assert "known here: loss, average_precision, f1_macro" in text
    assert text.endswith(
        "and of one class, written 'recall/ok': precision, recall, f1, brier, "
        "average_precision, roc_auc, pr_auc)"
    )
    with pytest.raises(RecipeError, match="written 'recall/b': precision, recall, f1, brier"):
        check_metric("", ["a/b", "b"], exclusive=False, where="early_stop.metric")
    with pytest.raises(RecipeError, match=r"early_stop\.metric is 'recall/dent'"):
        check_metric("recall/dent", KINDS, exclusive=False, where="early_stop.metric")


@pytest.mark.parametrize("exclusive", [True, False])
def test_only_losses_and_errors_are_better_when_lower(exclusive):
    names = [n for n in list_metrics(KINDS, exclusive=exclusive) if lower_is_better(n)]
    errors = ["loss", "log_loss", "brier", "expected_calibration_error"]
    assert names == errors + [f"brier/{kind}" for kind in KINDS]


@pytest.mark.parametrize("exclusive", [True, False])
def test_the_direction_of_every_metric_is_that_of_a_better_sheet(exclusive):
    worse = measure(TRUTH, 1 - PROBS, 2.0, classes=KINDS, exclusive=exclusive)
    better = measure(TRUTH, TRUTH, 1.0, classes=KINDS, exclusive=exclusive)
    for name in better:
        assert improves(name, better[name], worse[name]), name
        assert not improves(name, worse[name], better[name]), name


def test_an_improvement_is_more_than_the_least_change():
    assert improves("accuracy", 0.75, None)
    assert not improves("accuracy", 0.75, 0.75)
    assert improves("accuracy", 0.75, 0.5, min_delta=0.125)
    assert not improves("accuracy", 0.75, 0.5, min_delta=0.25)
    assert improves("loss", 0.5, 0.75, min_delta=0.125)
    assert not improves("loss", 0.5, 0.75, min_delta=0.25)
    assert improves("loss", 0.5, math.inf)


@pytest.mark.parametrize("best", [None, 0.0, math.inf])
def test_an_undefined_value_never_improves(best):
    assert not improves("loss", math.nan, best)
    assert not improves("accuracy", math.nan, best)
