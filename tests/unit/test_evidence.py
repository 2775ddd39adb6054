"""Evidence: parts, weights and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from loupe.errors import InputError
from loupe.evidence import (
    PARTS,
    final_probs,
    held_out_probs,
    make_evidence,
    mix,
    number,
    probs_without,
)
from loupe.testing import make_predictions


def make(n: int = 60, *, exclusive: bool = False, groups: int | None = None):
    sheet = make_predictions(n, 3, exclusive=exclusive, groups=groups, folds=3)
    return sheet, make_evidence(
        sheet.targets,
        [sheet.probs, 1 - sheet.probs if not exclusive else sheet.probs[:, ::-1]],
        exclusive=exclusive,
        classes=["a", "b", "c"],
        folds=sheet.folds,
        groups=sheet.groups,
    )


def test_parts_are_the_folds_under_their_names() -> None:
    sheet, evidence = make()
    named = np.array([int(name) for name in evidence.part_names])[evidence.parts]
    assert named.tolist() == sheet.folds.tolist()
    shifted = make_evidence(
        sheet.targets, [sheet.probs], exclusive=False, classes="abc", folds=sheet.folds + 4
    )
    assert shifted.part_names == ("4", "5", "6")


def test_rows_without_folds_are_dealt_with_groups_whole() -> None:
    sheet = make_predictions(90, 2, groups=30)
    evidence = make_evidence(
        sheet.targets, [sheet.probs], exclusive=False, classes="ab", groups=sheet.groups
    )
    assert evidence.part_count == PARTS
    assert "dealt to 5 parts" in evidence.notes[0]
    for group in np.unique(sheet.groups):
        assert len(set(evidence.parts[sheet.groups == group])) == 1


def test_one_fold_is_dealt_as_well() -> None:
    sheet = make_predictions(40, 1)
    evidence = make_evidence(
        sheet.targets, [sheet.probs], exclusive=False, classes=["x"], folds=np.zeros(40, int)
    )
    assert evidence.part_count == PARTS


def test_rows_are_mixed_by_weights_that_never_saw_their_part() -> None:
    sheet, evidence = make()
    assert_allclose(held_out_probs(evidence), 0.5, atol=1e-6)
    weights = np.array([[1.0, 0.0], [0.0, 1.0], [0.25, 0.75]])
    fitted = replace(evidence, part_weights=weights, weights=np.array([0.5, 0.5]))
    held = held_out_probs(fitted)
    for part, (first, second) in enumerate(weights):
        rows = evidence.parts == part
        expected = first * sheet.probs[rows] + second * (1 - sheet.probs[rows])
        assert_allclose(held[rows], expected, atol=1e-6)
        others, probs = probs_without(fitted, part)
        assert others.tolist() == np.flatnonzero(~rows).tolist()
        assert_allclose(
            probs, first * sheet.probs[~rows] + second * (1 - sheet.probs[~rows]), atol=1e-6
        )
    assert_allclose(final_probs(fitted), 0.5, atol=1e-6)


def test_one_member_is_given_back_as_it_is() -> None:
    sheet = make_predictions(20, 2)
    assert mix([sheet.probs], np.array([1.0])).tolist() == sheet.probs.tolist()
    assert number(["b", "a", "b"]).tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"weights": np.array([0.5, 0.6])}, "summing to"),
        ({"weights": np.array([1.5, -0.5])}, "none below 0"),
        ({"classes": ["a", "b"]}, "shapes"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, object], told: str) -> None:
    sheet = make_predictions(20, 3)
    given = {"exclusive": False, "classes": ["a", "b", "c"], **change}
    with pytest.raises(InputError, match=told):
        make_evidence(sheet.targets, [sheet.probs, sheet.probs], **given)


@pytest.mark.parametrize("bad", [np.nan, -0.1, 1.5])
def test_all_rows_that_are_no_probability_are_counted(bad: float) -> None:
    sheet = make_predictions(20, 2)
    probs = sheet.probs.copy()
    probs[[3, 7], 1] = bad
    with pytest.raises(InputError, match="in 2 of 20 rows: '3'"):
        make_evidence(sheet.targets, [probs], exclusive=False, classes="ab")


def test_exclusive_rows_must_sum_to_one() -> None:
    sheet = make_predictions(20, 3, exclusive=True)
    probs = sheet.probs.copy()
    probs[4] /= 2
    with pytest.raises(InputError, match=r"1 of 20 rows do not sum to 1: '4' \(0.5\)"):
        make_evidence(sheet.targets, [probs], exclusive=True, classes="abc")


def test_a_single_group_cannot_be_cross_fitted() -> None:
    sheet = make_predictions(20, 1)
    with pytest.raises(InputError, match="1 group"):
        make_evidence(sheet.targets, [sheet.probs], exclusive=False, classes="x", groups=[0] * 20)
