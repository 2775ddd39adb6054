import math

import numpy as np
import pytest

from loupe import weighting
from loupe.errors import InputError
from loupe.metrics import (
    brier,
    brier_by_class,
    cohen_kappa,
    confusion_matrix,
    count_outcomes,
    expected_calibration_error,
    f1,
    log_loss,
    macro,
    mcc,
    pool,
    precision,
    recall,
    to_decisions,
)


def column(*values, dtype=float) -> np.ndarray:
    return np.array(values, dtype=dtype)[:, None]


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


def test_batched_f1_is_not_the_f1_of_the_data_set():
    truth, called = column(0, 0, 1, 1, dtype=bool), column(0, 1, 0, 1, dtype=bool)
    whole = recall(count_outcomes(truth, called))
    batches = [recall(count_outcomes(truth[rows], called[rows])) for rows in ([0, 1], [2, 3])]
    assert whole.tolist() == [0.5]
    assert np.isnan(batches[0]).all()


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


def test_calibration_error_and_confusion_under_many_sets_of_weights():
    """Weights are rows repeated, by either way of adding up."""
    rng = np.random.default_rng(0)
    truth, probs = rng.random((40, 2)) < 0.4, rng.random((40, 2))
    counts = rng.integers(0, 3, (20, 40))  # more sets than are added up one by one
    halves = counts / 2
    errors = expected_calibration_error(truth, probs, exclusive=False, weights=counts)
    few = expected_calibration_error(truth, probs, exclusive=False, weights=halves[:2])
    assert errors.shape == (20,)
    np.testing.assert_allclose(few, errors[:2], rtol=1e-12)
    matrices = confusion_matrix(truth[:, :1], probs[:, :1] > 0.5, counts)
    for number, times in enumerate(counts):
        rows = np.repeat(np.arange(40), times)
        written_out = expected_calibration_error(truth[rows], probs[rows], exclusive=False)
        assert errors[number] == pytest.approx(written_out, rel=1e-12)
        plain = confusion_matrix(truth[rows, :1], probs[rows, :1] > 0.5)
        np.testing.assert_allclose(matrices[number], plain, rtol=0, atol=1e-12)


def test_a_large_table_is_added_up_part_by_part(monkeypatch):
    rng = np.random.default_rng(1)
    truth, probs = np.eye(3, dtype=bool)[rng.integers(0, 3, 50)], rng.dirichlet(np.ones(3), 50)
    weights = rng.random((12, 50))

    def take():
        decided = to_decisions(probs, exclusive=True)
        options = {"exclusive": True, "weights": weights}
        return np.concatenate(
            [
                recall(count_outcomes(truth, decided, weights)).ravel(),
                log_loss(truth, probs, **options),
                brier_by_class(truth, probs, weights).ravel(),
                expected_calibration_error(truth, probs, **options),
                confusion_matrix(truth, decided, weights).ravel(),
            ]
        )

    whole = take()
    monkeypatch.setattr(weighting, "BLOCK", 21)  # 7 rows at a time, or fewer
    np.testing.assert_allclose(take(), whole, rtol=1e-12)


def test_undecided_rows_lower_agreement():
    truth = np.eye(2, dtype=bool)[[0, 0, 1, 1]]
    decided = truth & np.array([True, False, True, True])[:, None]
    counts = count_outcomes(truth, decided)
    # right 3, given (2, 2), decided (1, 2) and 1 undecided, of 4.
    assert mcc(counts) == pytest.approx((3 * 4 - 6) / math.sqrt((16 - 8) * (16 - 6)))
    assert cohen_kappa(counts) == pytest.approx((3 * 4 - 6) / (16 - 6))


def test_agreement_is_undefined_under_fractional_weights_of_one_class():
    truth = np.eye(3, dtype=bool)[[0, 1, 2, 1]]
    decided = np.eye(3, dtype=bool)[[1, 1, 1, 1]]
    weights = np.array([[0.1, 0.2, 0.3, 0.7], [0.0, 0.1, 0.0, 0.7]])
    counts = count_outcomes(truth, decided, weights)
    assert np.isnan(mcc(counts)).all()
    assert cohen_kappa(counts)[0] == pytest.approx(0)
    assert np.isnan(cohen_kappa(counts)[1])


def test_brier_of_each_class_adds_up_to_that_of_all():
    rng = np.random.default_rng(3)
    targets, probs = rng.dirichlet(np.ones(4), 30), rng.dirichlet(np.ones(4), 30)
    by_class = brier_by_class(targets, probs)
    assert by_class[2] == pytest.approx(((probs - targets)[:, 2] ** 2).mean())
    assert brier(targets, probs, exclusive=True) == pytest.approx(by_class.sum())
    assert brier(targets, probs, exclusive=False) == pytest.approx(by_class.mean())
