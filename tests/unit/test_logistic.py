"""The regression agrees with scikit-learn, and both kinds count alike."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from loupe.errors import InputError
from loupe.logistic import fit_logistic


def draw(n, width, shift, seed=0, share=0.5):
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < share
    return rng.normal(size=(n, width)) + shift * truth[:, None], truth


@pytest.mark.parametrize(("n", "width", "share"), [(60, 3, 0.5), (300, 40, 0.1), (30, 50, 0.4)])
@pytest.mark.parametrize("penalty", [0.5, 3.0])
def test_agrees_with_scikit_learn(n, width, share, penalty):
    rows, truth = draw(n, width, 0.4, share=share)
    positive = int(truth.sum())
    half = 2 * positive * (n - positive) / n
    counts = np.where(truth, half / positive, half / (n - positive))
    theirs = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=10_000)
    theirs.fit(rows, truth, sample_weight=counts)
    ours = fit_logistic(rows, truth, penalty=penalty)
    assert ours.weights == pytest.approx(theirs.coef_[0], abs=1e-5)
    assert ours.intercept == pytest.approx(theirs.intercept_[0], abs=1e-5)
    assert ours.predict(rows) == pytest.approx(theirs.predict_proba(rows)[:, 1], abs=1e-5)


def test_parted_rows_stay_finite():
    fit = fit_logistic(np.array([[-50.0]] * 5 + [[50.0]] * 5), np.arange(10) >= 5, penalty=1e-3)
    probs = fit.predict(np.array([[-50.0], [0.0], [50.0], [1e9]]))
    assert np.isfinite(fit.weights).all()
    assert probs[0] < 0.01
    assert probs[1] == pytest.approx(0.5)
    assert 0.99 < probs[2] <= probs[3] <= 1


def test_without_a_difference_the_probability_is_a_half_whatever_the_sizes():
    truth = np.arange(1000) >= 950
    assert fit_logistic(np.zeros((1000, 2)), truth).predict(np.zeros((1, 2))) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("rows", "truth", "penalty", "said"),
    [
        (np.zeros((3, 2)), np.array([True, False]), 1, r"expected \(N, D\) and \(N,\)"),
        (np.zeros(3), np.array([True, False, True]), 1, r"expected \(N, D\) and \(N,\)"),
        (np.full((2, 1), np.nan), np.array([True, False]), 1, "NaN or infinite"),
        (np.zeros((2, 1)), np.array([True, True]), 1, "of one kind"),
        (np.zeros((2, 1)), np.array([True, False]), 0, "above 0"),
    ],
)
def test_bad_input_is_refused(rows, truth, penalty, said):
    with pytest.raises(InputError, match=said):
        fit_logistic(rows, truth, penalty=penalty)
