"""Rules: applied, pooled, written and read again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from loupe.calibration import Calibration, calibrate
from loupe.conformal import Conformal
from loupe.errors import AlignmentError, InputError
from loupe.rules import (
    SCHEMA,
    Rule,
    apply_rule,
    plain_rule,
    pool_rows,
    read_rule,
    rule_from_dict,
    rule_to_dict,
)

TWO = Rule(classes=("a", "b"), exclusive=False, thresholds=(0.3, 0.7), goals=("f1", "f1"))


def test_thresholds_are_inclusive_at_float32() -> None:
    probs = np.float32([[0.3, 0.7], [0.29, 0.69]])
    decided = apply_rule(TWO, probs, classes=("a", "b"))
    assert decided.decisions.tolist() == [[True, True], [False, False]]
    assert not decided.review.any()


def test_columns_are_matched_by_name() -> None:
    probs = np.float32([[0.9, 0.4]])
    decided = apply_rule(TWO, probs, classes=("b", "a"))
    assert decided.decisions.tolist() == [[True, True]]
    assert_allclose(decided.probs, probs)
    with pytest.raises(AlignmentError, match="the rule is for the classes a, b"):
        apply_rule(TWO, probs, classes=("b", "c"))


def test_unreadable_rows_are_not_decided_and_go_to_a_person() -> None:
    probs = np.float32([[np.nan, np.nan], [0.9, 0.9]])
    for rule in (TWO, plain_rule("ab", exclusive=True)):
        decided = apply_rule(rule, probs, classes=("a", "b"))
        assert decided.decisions[0].tolist() == [False, False]
        assert decided.review.tolist() == [True, False]
        assert np.isnan(decided.probs[0]).all()


def test_exclusive_rows_take_the_first_largest_or_are_rejected() -> None:
    rule = plain_rule("abc", exclusive=True)
    probs = np.float32([[0.4, 0.4, 0.2], [0.1, 0.1, 0.8]])
    decided = apply_rule(rule, probs, classes="abc")
    assert decided.decisions.argmax(axis=1).tolist() == [0, 2]
    decided = apply_rule(replace(rule, reject=0.5), probs, classes="abc")
    assert decided.decisions.any(axis=1).tolist() == [False, True]
    assert decided.review.tolist() == [True, False]


def test_calibration_comes_first() -> None:
    scale = Calibration(kind="temperature", temperature=0.5)
    probs = np.float32([[0.35, 0.65]])
    decided = apply_rule(replace(TWO, calibration=scale), probs, classes=("a", "b"))
    assert_allclose(decided.probs, calibrate(scale, probs, exclusive=False))
    assert decided.decisions.tolist() == [[False, True]]


def test_a_decision_outside_its_prediction_set_goes_to_a_person() -> None:
    # The set of the first row is {absent} alone, and yet the low threshold decides present.
    sure = Conformal(coverage=0.9, present=(0.3,), absent=(0.5,))
    rule = Rule(classes=("a",), exclusive=False, thresholds=(0.2,), conformal=sure)
    decided = apply_rule(rule, np.float32([[0.4], [0.9], [0.1]]), classes=("a",))
    assert decided.decisions[:, 0].tolist() == [True, True, False]
    assert decided.review.tolist() == [True, False, False]


def test_a_group_is_decided_once() -> None:
    rule = replace(TWO, pool="max")
    probs = np.float32([[0.1, 0.1], [0.5, 0.1], [0.2, 0.9], [np.nan, np.nan]])
    groups = np.array([0, 0, 1, 1])
    decided = apply_rule(rule, probs, classes=("a", "b"), groups=groups)
    assert decided.decisions.tolist() == [[True, False]] * 2 + [[False, True], [False, False]]
    assert decided.review.tolist() == [False, False, False, True]


def test_pooling_leaves_out_what_could_not_be_read() -> None:
    values = np.float32([[0.2], [0.4], [np.nan], [np.nan]])
    groups = np.array([0, 0, 0, 1])
    assert_allclose(pool_rows(values, groups, "mean"), [[0.3], [np.nan]], rtol=1e-6)
    assert_allclose(pool_rows(values, groups, "max"), [[0.4], [np.nan]], rtol=1e-6)


def test_a_rule_survives_its_text() -> None:
    rule = replace(TWO, calibration=Calibration(kind="platt", slopes=(1.5, 1), intercepts=(0, 1)))
    values = json.loads(json.dumps(rule_to_dict(rule)))
    assert rule_from_dict(values, "here") == rule


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"thresholds": [0.5]}, "1 thresholds, expected 2"),
        ({"thresholds": [0.5, 7]}, "outside"),
        ({"thresholds": [0.5, "high"]}, "is no rule"),
        ({"thresholds": [0.5, float("nan")]}, "outside"),
        ({"pool": "median"}, "median"),
        ({"classes": ["a", "a"]}, "repeat"),
        ({"calibration": {"kind": "magic"}}, "magic|is no rule"),
    ],
)
def test_what_is_no_rule_is_refused(change: dict[str, object], told: str) -> None:
    with pytest.raises(InputError, match=told):
        rule_from_dict({**rule_to_dict(TWO), **change}, "rule.json")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kind": "rule", "schema": 99}'])
def test_files_that_are_no_rule_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rule.json"
    with pytest.raises(InputError, match="does not exist"):
        read_rule(path)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=rf"no rule|schema {SCHEMA}"):
        read_rule(path)
