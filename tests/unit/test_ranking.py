import numpy as np
import pytest

from loupe.errors import InputError
from loupe.ranking import average_precision, pr_auc, roc_auc


def column(*values, dtype=float) -> np.ndarray:
    return np.array(values, dtype=dtype)[:, None]


def test_the_two_areas_under_precision_and_recall_differ():
    truth, probs = column(0, 0, 1, 1, dtype=bool), column(0.1, 0.4, 0.35, 0.8)
    assert average_precision(truth, probs)[0] == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert pr_auc(truth, probs)[0] == pytest.approx(0.5 + 0.5 * (1 / 2 + 2 / 3) / 2)


def test_equal_probabilities_enter_together():
    truth, probs = column(1, 0, 0, 0, dtype=bool), np.full((4, 1), 0.5)
    assert average_precision(truth, probs)[0] == 0.25
    assert roc_auc(truth, probs)[0] == 0.5


def test_a_class_without_positives_has_no_ranking():
    truth = np.array([[1, 0], [0, 0]], dtype=bool)
    probs = np.array([[0.9, 0.8], [0.1, 0.2]])
    for area in (average_precision, pr_auc, roc_auc):
        assert area(truth, probs)[0] == 1
        assert np.isnan(area(truth, probs)[1])
    assert np.isnan(roc_auc(np.ones((2, 1), bool), probs[:, :1])).all()


def test_wrong_weights_are_refused():
    with pytest.raises(InputError, match=r"weights have shape \(3,\); expected \(2,\)"):
        average_precision(np.ones((2, 1), bool), np.ones((2, 1)), np.ones(3))
