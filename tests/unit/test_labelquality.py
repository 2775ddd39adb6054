"""Label quality: a planted model of wrong labels is recovered, and wrong labels come first."""

from __future__ import annotations

import numpy as np
import pytest

from loupe import labelquality
from loupe.errors import InputError
from loupe.labelquality import SHARPNESS, fit_noise_model, rank_labels
from loupe.ranking import average_precision
from loupe.testing import make_predictions

TRANSITION = np.array([[0.9, 0.1, 0.0], [0.0, 0.8, 0.2], [0.25, 0.05, 0.7]])
"""Share of the rows of each true class that are labelled as each class."""
RANKINGS = ("self_confidence", "margin")


def plant(n: int, transition=TRANSITION, *, quality: float = 0.7, seed: int = 0):
    """Return true and given classes, and probabilities that are calibrated to the true ones."""
    sheet = make_predictions(n, len(transition), exclusive=True, quality=quality, seed=seed)
    true = sheet.targets.argmax(axis=1)
    draws = np.random.default_rng(seed).random(n)[:, None]
    given = (draws > transition.cumsum(axis=1)[true]).sum(axis=1)
    return true, given, sheet.probs.astype(np.float64)


def blunt(probs):
    """Undo the sharpening of the model: it then has the calibrated probabilities."""
    flat = probs ** (1 / SHARPNESS)
    return flat / flat.sum(axis=1, keepdims=True)


def find(wrong, quality) -> float:
    return float(average_precision(wrong[:, None], 1 - quality[:, None])[0])


@pytest.mark.parametrize("seed", range(3))
def test_a_planted_matrix_is_recovered(seed, monkeypatch):
    monkeypatch.setattr(labelquality, "ROUNDS", 60)
    _, given, probs = plant(30_000, quality=0.8, seed=seed)
    model = fit_noise_model(given, blunt(probs))
    np.testing.assert_allclose(model.transition.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(model.transition, TRANSITION, atol=0.02)


def test_the_rounds_in_use_come_near():
    _, given, probs = plant(30_000, quality=0.8)
    model = fit_noise_model(given, blunt(probs))
    np.testing.assert_allclose(model.transition, TRANSITION, atol=0.03)


def test_the_posterior_is_calibrated_where_the_probabilities_are():
    true, given, probs = plant(30_000, quality=0.8)
    posterior = fit_noise_model(given, blunt(probs)).posterior
    right = posterior[np.arange(len(given)), given]
    for low in np.arange(0, 1, 0.2):
        rows = (right >= low) & (right < low + 0.2)
        assert rows.sum() > 200
        assert (true == given)[rows].mean() == pytest.approx(right[rows].mean(), abs=0.06)


@pytest.mark.parametrize(("quality", "loss"), [(0.5, 0.005), (0.7, 0.0), (0.8, 0.0), (0.9, 0.0)])
def test_planted_errors_are_ranked_at_least_as_well_as_by_confident_learning(quality, loss):
    for seed in range(3):
        true, given, probs = plant(6000, quality=quality, seed=seed)
        wrong = true != given
        ours = find(wrong, rank_labels(given, probs))
        others = [find(wrong, rank_labels(given, probs, name)) for name in RANKINGS]
        # Calibrated probabilities need no sharpening; where networks are weak it costs a little.
        assert ours >= max(others) - loss
        # It is no guess: at random it would be the share of wrong labels.
        assert ours > 2 * wrong.mean()


def test_direction_matters_to_the_model_alone():
    """Ones are never labelled 0, so a 0 that looks like a 1 is more to be trusted than a 2."""
    _, given, _ = plant(6000, quality=0.9)
    probs = plant(6000, quality=0.9)[2]
    zero, one = np.flatnonzero(given == 0)[0], np.flatnonzero(given == 1)[0]
    probs[zero], probs[one] = (0.3, 0.7, 0.0), (0.7, 0.3, 0.0)
    # A 1 that is labelled 0 is not to be had; a 0 that is labelled 1 is usual.
    quality = rank_labels(given, probs)
    assert quality[zero] > quality[one] + 0.1
    for name in RANKINGS:
        plain = rank_labels(given, probs, name)
        assert plain[zero] == pytest.approx(plain[one], abs=1e-12)


class TestByHand:
    PROBS = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.4, 0.4, 0.2]])
    GIVEN = np.array([0, 1, 1])

    def test_self_confidence_is_the_own_probability(self):
        assert rank_labels(self.GIVEN, self.PROBS, "self_confidence").tolist() == [0.7, 0.3, 0.4]

    def test_margin_is_the_lead_over_the_best_other_class(self):
        found = rank_labels(self.GIVEN, self.PROBS, "margin")
        np.testing.assert_allclose(found, [(1 + 0.5) / 2, (1 - 0.3) / 2, 0.5])

    def test_the_default_is_the_mean_of_posterior_and_margin(self):
        model = fit_noise_model(self.GIVEN, self.PROBS)
        margin = rank_labels(self.GIVEN, self.PROBS, "margin")
        own = model.posterior[np.arange(3), self.GIVEN]
        np.testing.assert_array_equal(rank_labels(self.GIVEN, self.PROBS), (own + margin) / 2)
        np.testing.assert_array_equal(
            rank_labels(self.GIVEN, self.PROBS, model=model), (own + margin) / 2
        )

    def test_the_posterior_is_bayes_rule(self):
        given, probs = plant(200)[1:]
        model = fit_noise_model(given, probs)
        sharp = (probs + 1e-3) ** 1.5
        wanted = sharp / sharp.sum(axis=1, keepdims=True) * model.transition[:, given].T
        np.testing.assert_allclose(
            model.posterior, wanted / wanted.sum(axis=1, keepdims=True), rtol=1e-9
        )

    def test_an_unknown_ranking_is_refused(self):
        with pytest.raises(InputError, match="expected one of posterior, self_confidence, margin"):
            rank_labels(self.GIVEN, self.PROBS, "entropy")


def test_numbers_are_bounded_and_rows_sum_to_one():
    for seed, quality in enumerate((0.05, 0.5, 0.99)):
        _, given, probs = plant(300, quality=quality, seed=seed)
        model = fit_noise_model(given, probs)
        np.testing.assert_allclose(model.posterior.sum(axis=1), 1, atol=1e-12)
        assert (model.posterior >= 0).all()
        for name in (*RANKINGS, "posterior"):
            found = rank_labels(given, probs, name)
            assert ((found >= 0) & (found <= 1)).all()


def test_zeros_and_ones_are_no_trouble():
    probs = np.eye(3)[[0, 1, 2, 0, 1, 2]]
    given = np.array([0, 1, 2, 0, 1, 1])
    quality = rank_labels(given, probs)
    assert np.isfinite(quality).all()
    assert quality.argmin() == 5
    # A class that nobody has, and a single row.
    assert np.isfinite(rank_labels(np.array([0, 0]), np.eye(3)[[0, 2]])).all()
    assert np.isfinite(rank_labels(np.array([1]), np.array([[0.5, 0.5]]))).all()


def test_names_of_classes_do_not_matter():
    _, given, probs = plant(500)
    order = np.array([2, 0, 1])  # class k is called order[k]
    turned = np.empty_like(probs)
    turned[:, order] = probs
    one, other = fit_noise_model(given, probs), fit_noise_model(order[given], turned)
    np.testing.assert_allclose(other.posterior[:, order], one.posterior, atol=1e-3)
    np.testing.assert_allclose(other.transition[np.ix_(order, order)], one.transition, atol=1e-3)


def test_rows_may_come_in_any_order():
    _, given, probs = plant(500)
    order = np.random.default_rng(1).permutation(500)
    np.testing.assert_allclose(
        rank_labels(given[order], probs[order]), rank_labels(given, probs)[order], atol=1e-9
    )


def test_weights_of_one_change_nothing_and_whole_ones_are_repeated_rows():
    _, given, probs = plant(2000)
    plain = fit_noise_model(given, probs)
    ones = fit_noise_model(given, probs, np.ones(2000))
    np.testing.assert_array_equal(ones.transition, plain.transition)
    weights = np.random.default_rng(2).integers(0, 4, 2000)
    weighed = fit_noise_model(given, probs, weights)
    at = np.repeat(np.arange(2000), weights)
    repeated = fit_noise_model(given[at], probs[at])
    # Both start elsewhere, and end at one place.
    np.testing.assert_allclose(weighed.transition, repeated.transition, atol=5e-3)
    assert np.abs(weighed.transition - plain.transition).max() > 5e-3
    np.testing.assert_allclose(weighed.posterior[at], repeated.posterior, atol=0.02)


def test_few_rows_move_the_model_little():
    """Ten rows, two of them labelled otherwise: errors go everywhere alike, nearly."""
    probs = np.full((10, 3), 0.05) + 0.85 * np.eye(3)[[0] * 10]
    given = np.array([0] * 8 + [1, 1])
    transition = fit_noise_model(given, probs).transition
    assert transition[0, 1] == pytest.approx(transition[0, 2], abs=0.03)
    assert transition[0, 1] > transition[0, 2]
    many = fit_noise_model(np.tile(given, 300), np.tile(probs, (300, 1))).transition
    assert many[0, 1] > 3 * many[0, 2]
