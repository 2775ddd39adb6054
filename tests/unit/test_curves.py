"""Curves: points against scikit-learn, areas against ours, thinning."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve, roc_curve

from loupe.curves import thin_curve, trace_curve
from loupe.ranking import average_precision


def _draw(rows: int, digits: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(rows)
    truth = rng.random(rows) < 0.3
    probs = np.clip(rng.normal(0.3 + 0.3 * truth, 0.2), 0, 1).round(digits)
    return truth, probs.astype(np.float32)


@pytest.mark.parametrize("digits", [6, 1])
def test_points_are_those_of_scikit_learn(digits: int) -> None:
    truth, probs = _draw(200, digits)
    curve = trace_curve(truth, probs)
    precision, recall, cuts = precision_recall_curve(truth, probs)
    # It stops where all positives are found, and counts from below.
    np.testing.assert_allclose(curve.precision[1:], precision[-2::-1])
    np.testing.assert_allclose(curve.recall[1:], recall[-2::-1])
    np.testing.assert_allclose(curve.thresholds[1:], cuts[::-1])
    alarms, found, _ = roc_curve(truth, probs, drop_intermediate=False)
    np.testing.assert_allclose(curve.false_alarms, alarms)
    np.testing.assert_allclose(curve.recall, found)
    np.testing.assert_allclose(curve.flagged[1:], [(probs >= cut).mean() for cut in cuts[::-1]])


def test_the_area_is_the_average_precision() -> None:
    truth, probs = _draw(300)
    curve = trace_curve(truth, probs)
    area = float((np.diff(curve.recall) * curve.precision[1:]).sum())
    assert area == pytest.approx(float(average_precision(truth[:, None], probs[:, None])[0]))
    assert curve.prevalence == pytest.approx(truth.mean())


@pytest.mark.parametrize("most", [2, 10, 250])
def test_thinning_keeps_the_ends_and_points_that_were_there(most: int) -> None:
    curve = trace_curve(*_draw(3000))
    thin = thin_curve(curve, most)
    assert 2 <= len(thin.recall) <= most
    assert set(thin.thresholds) <= set(curve.thresholds)
    for name in ("thresholds", "recall", "false_alarms", "flagged"):
        ours, all_of_them = getattr(thin, name), getattr(curve, name)
        assert (ours[0], ours[-1]) == (all_of_them[0], all_of_them[-1])
    assert thin.positives == curve.positives


def test_a_thin_curve_lies_where_the_whole_one_does() -> None:
    curve = trace_curve(*_draw(20_000))
    thin = thin_curve(curve)
    between = np.interp(curve.false_alarms, thin.false_alarms, thin.recall)
    assert np.abs(between - curve.recall).max() < 0.02


def test_a_class_without_positives_or_without_negatives() -> None:
    probs = np.array([0.1, 0.5, 0.9], np.float32)
    none = trace_curve(np.zeros(3, np.bool_), probs)
    assert np.isnan(none.recall).all()
    assert none.prevalence == 0
    every = trace_curve(np.ones(3, np.bool_), probs)
    assert np.isnan(every.false_alarms).all()
    assert every.recall[-1] == 1
    assert len(thin_curve(none, 3).recall) <= 3
