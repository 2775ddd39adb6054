import json

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from loupe import calibration
from loupe.calibration import (
    EPS,
    Calibration,
    calibrate,
    calibration_to_dict,
    read_calibration,
    squash,
    take_logits,
)
from loupe.errors import InputError

PLATT = Calibration(kind="platt", slopes=(2.0, 0.5, 1.0), intercepts=(0.0, -1.0, 0.3))
STAIRS = Calibration(
    kind="isotonic",
    knots=((0.2, 0.6), (0.5,), (0.0, 1.0)),
    values=((0.1, 0.9), (0.3,), (0.0, 1.0)),
)
WARM = Calibration(kind="temperature", temperature=2.0)
SHEET = np.float32([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.0, 0.0, 1.0]])
ALL = [Calibration(), WARM, PLATT, STAIRS]


def test_none_gives_back_the_sheet() -> None:
    assert calibrate(Calibration(), SHEET, exclusive=True) is SHEET


def test_temperature_of_exclusive_classes_is_softmax_of_divided_logits() -> None:
    logits = np.array([[2.0, -1.0, 0.5], [0.0, 4.0, 1.0]])
    powers, soft = np.exp(logits), np.exp(logits / 2)
    probs = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    expected = soft / soft.sum(axis=1, keepdims=True)
    assert_allclose(calibrate(WARM, probs, exclusive=True), expected, atol=1e-6)


def test_temperature_of_single_columns_divides_the_logit() -> None:
    logits = np.array([[-3.0, 0.0, 1.5]])
    probs = (1 / (1 + np.exp(-logits))).astype(np.float32)
    assert_allclose(
        calibrate(WARM, probs, exclusive=False), 1 / (1 + np.exp(-logits / 2)), atol=1e-6
    )


def test_platt_is_a_line_on_the_logit() -> None:
    found = calibrate(PLATT, np.float32([[0.5, 0.5, 0.5]]), exclusive=False)
    assert_allclose(found, [[0.5, 1 / (1 + np.e), 1 / (1 + np.exp(-0.3))]], rtol=1e-6)
    divided = calibrate(PLATT, np.float32([[0.5, 0.5, 0.5]]), exclusive=True)
    assert_allclose(divided, found / found.sum(), rtol=1e-6)


def test_stairs_are_linear_between_knots_and_constant_outside() -> None:
    column = np.float32([0, 0.2, 0.3, 0.4, 0.6, 1])
    found = calibrate(STAIRS, np.stack([column] * 3, axis=1), exclusive=False)
    assert_allclose(found[:, 0], [0.1, 0.1, 0.3, 0.5, 0.9, 0.9], rtol=1e-6)
    assert_allclose(found[:, 1], [0.3] * 6, rtol=1e-6)
    assert_allclose(found[:, 2], column, rtol=1e-6)


def test_a_row_that_would_sum_to_0_is_left_as_it_was() -> None:
    zeros = Calibration(kind="isotonic", knots=((0.5, 1.0),) * 2, values=((0.0, 1.0),) * 2)
    sheet = np.float32([[0.5, 0.5], [0.25, 0.75]])
    assert_allclose(calibrate(zeros, sheet, exclusive=True), [[0.5, 0.5], [0.0, 1.0]])


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("fitted", ALL, ids=lambda fitted: fitted.kind)
def test_unreadable_rows_stay_nan_and_others_do_not_know_of_them(
    fitted: Calibration, exclusive
) -> None:
    sheet = SHEET.copy()
    sheet[1] = np.nan
    found = calibrate(fitted, sheet, exclusive=exclusive)
    assert np.isnan(found[1]).all()
    whole = calibrate(fitted, SHEET, exclusive=exclusive)
    assert_array_equal(found[[0, 2]], whole[[0, 2]])
    assert found.dtype == np.float32


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("fitted", ALL, ids=lambda fitted: fitted.kind)
def test_blocks_of_rows_change_nothing(
    fitted: Calibration, exclusive, monkeypatch: pytest.MonkeyPatch
) -> None:
    sheet = np.random.default_rng(0).dirichlet([0.5] * 3, 40).astype(np.float32)
    whole = calibrate(fitted, sheet, exclusive=exclusive)
    before = sheet.copy()
    monkeypatch.setattr(calibration, "ROWS_AT_ONCE", 7)
    assert_array_equal(calibrate(fitted, sheet, exclusive=exclusive), whole)
    assert_array_equal(sheet, before)


def test_certain_probabilities_stay_finite() -> None:
    assert_allclose(take_logits(np.array([0.0, 1.0])), [np.log(EPS), -np.log(EPS)], rtol=1e-6)
    extreme = Calibration(kind="platt", slopes=(1e6,), intercepts=(0.0,))
    sheet = np.float32([[0.0], [0.5], [1.0]])
    assert calibrate(extreme, sheet, exclusive=False).tolist() == [[0.0], [0.5], [1.0]]
    assert squash(np.array([-1e6])) == pytest.approx(0)


@pytest.mark.parametrize("fitted", ALL, ids=lambda fitted: fitted.kind)
def test_text_form_gives_the_same_map_again(fitted: Calibration) -> None:
    text = json.dumps(calibration_to_dict(fitted))
    assert read_calibration(json.loads(text), classes=3) == fitted


@pytest.mark.parametrize("fitted", [PLATT, STAIRS], ids=lambda fitted: fitted.kind)
def test_a_map_for_other_classes_is_refused(fitted: Calibration) -> None:
    with pytest.raises(InputError, match=r"shape \(3, 2\).*, 3\."):
        calibrate(fitted, SHEET[:, :2], exclusive=False)
    with pytest.raises(InputError, match="expected 2"):
        read_calibration(calibration_to_dict(fitted), classes=2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "expected its fields"),
        ({}, "kind None is not known"),
        ({"kind": "temprature"}, "did you mean 'temperature'"),
        ({"kind": "temperature"}, "KeyError 'temperature'"),
        ({"kind": "temperature", "temperature": "hot"}, "cannot be read"),
        ({"kind": "temperature", "temperature": 0}, "expected > 0"),
        ({"kind": "temperature", "temperature": float("nan")}, "expected > 0"),
        ({"kind": "platt", "slopes": [1], "intercepts": [0, 0]}, "1 slopes, expected 2"),
        ({"kind": "platt", "slopes": "11", "intercepts": [0, 0]}, "a text instead"),
        ({"kind": "platt", "slopes": [1, -1], "intercepts": [0, 0]}, "a slope below 0"),
        ({"kind": "platt", "slopes": [1, 1], "intercepts": [0, float("inf")]}, "not finite"),
        ({"kind": "isotonic", "knots": [[0]], "values": [[0]]}, "for 1 classes, expected 2"),
        ({"kind": "isotonic", "knots": [0, 1], "values": [0, 1]}, "cannot be read"),
        ({"kind": "isotonic", "knots": [[0], []], "values": [[0], []]}, "class 2: 0 knots"),
        ({"kind": "isotonic", "knots": [[0], [0]], "values": [[0], [0, 1]]}, "class 2: 1 knots"),
        ({"kind": "isotonic", "knots": [[0, 0], [0]], "values": [[0, 1], [0]]}, "do not rise"),
        ({"kind": "isotonic", "knots": [[0, 1], [0]], "values": [[1, 0], [0]]}, "values that fall"),
        ({"kind": "isotonic", "knots": [[0], [2]], "values": [[0], [0]]}, r"outside \[0, 1\]"),
        ({"kind": "isotonic", "knots": [[0], [0]], "values": [[0], [float("nan")]]}, "outside"),
    ],
)
def test_a_text_form_that_was_tampered_with_is_refused(values: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_calibration(values, classes=2)  # type: ignore[arg-type]


def test_all_faults_stand_in_one_message() -> None:
    values = {"kind": "platt", "slopes": [-1], "intercepts": [float("nan")]}
    with pytest.raises(InputError, match=r"1 slopes.*1 intercepts.*not finite.*below 0"):
        read_calibration(values, classes=2)
