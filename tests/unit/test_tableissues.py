"""Contradicting copies and outliers are found, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loupe.checking import check
from loupe.errors import InputError
from loupe.issues import MASK, NO, NO_MASK, YES
from loupe.layouts import read_table
from loupe.table import Table
from loupe.tableissues import (
    FEWEST_ROWS,
    NEIGHBOURS,
    find_contradictions,
    find_outliers,
)
from loupe.testing import make_tiles


def make_table(labels, classes=("cat", "dog", "cow"), *, exclusive=True, masks=None) -> Table:
    """Labels are class numbers, rows of targets, or None where nothing is given."""
    targets = np.zeros((len(labels), len(classes)), np.float32)
    for row, label in enumerate(labels):
        if label is None:
            targets[row] = np.nan
        elif isinstance(label, int):
            targets[row, label] = 1
        else:
            targets[row] = label
    names = tuple(f"{row:04}" for row in range(len(labels)))
    return Table(
        ids=names,
        images=tuple(Path(name) for name in names),
        classes=classes,
        targets=targets,
        exclusive=exclusive,
        masks=masks,
    )


def show(issues):
    return [(int(e.id), e.class_name, e.given, e.suggested, round(e.quality, 4)) for e in issues]


def test_the_majority_of_a_group_is_suggested_to_the_others():
    table = make_table([0, 0, 1, 0, 2, 2])
    issues = find_contradictions(table, ["a", "a", "a", "a", "b", "b"])
    third = round(2 / 3, 4)
    assert show(issues) == [
        (0, "", "cat", "", third), (1, "", "cat", "", third),
        (2, "", "dog", "cat", 0.0), (3, "", "cat", "", third),
    ]  # fmt: skip
    assert {each.rules for each in issues} == {("copies",)}
    assert issues[2].evidence == (
        "4 copies of this image disagree ('cat' 3, 'dog' 1); '0000' is labelled 'cat'."
    )
    assert issues[0].evidence.endswith("'0002' is labelled 'dog'.")


@pytest.mark.parametrize("labels", [[0, 1], [0, 0, 1, 1], [0, 1, 2], [0, 0, 1, 2]])
def test_without_a_majority_nothing_is_suggested(labels):
    # Of a pair each would be given the label of the other.
    issues = find_contradictions(make_table(labels), ["a"] * len(labels))
    assert len(issues) == len(labels)
    assert {each.suggested for each in issues} == {""}


def test_rows_without_a_label_contradict_nothing():
    table = make_table([0, None, 1, None, 2, None])
    assert [e.id for e in find_contradictions(table, ["a", "a", "b", "b", "c", "c"])] == []
    assert [e.quality for e in find_contradictions(table, ["a", "a", "a", "b", "b", "b"])] == [0, 0]


def test_classes_that_stand_alone_are_compared_one_by_one():
    table = make_table([[1, 1], [1, 0], [1, 0], [0, 1]], ("red", "wet"), exclusive=False)
    issues = find_contradictions(table, ["x", "x", "x", "y"])
    assert show(issues) == [
        (0, "wet", YES, NO, 0.0), (1, "wet", NO, "", 0.5), (2, "wet", NO, "", 0.5),
    ]  # fmt: skip
    nothing = replace(table, targets=np.float32([[1, np.nan], [1, 0], [1, 0], [0, 1]]))
    assert find_contradictions(nothing, ["x", "x", "x", "y"]) == []


def test_masks_are_there_or_not_whatever_their_size():
    masks = (("1 4", ""), ("2 9", "3 1"), ("", " "))
    table = make_table([[1, 0], [1, 1], [0, 0]], ("red", "wet"), exclusive=False, masks=masks)
    assert show(find_contradictions(table, ["x", "x", "y"])) == [
        (0, "wet", NO_MASK, "", 0.0), (1, "wet", MASK, "", 0.0),
    ]  # fmt: skip


def test_another_number_of_groups_is_refused():
    with pytest.raises(InputError, match="2 groups of copies for 1 rows"):
        find_contradictions(make_table([0]), ["a", "b"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2)), max_size=14))
def test_rows_are_issues_if_and_only_if_their_group_disagrees(rows):
    groups = [name for name, _ in rows]
    issues = {int(e.id): e for e in find_contradictions(make_table([k for _, k in rows]), groups)}
    for row, (name, label) in enumerate(rows):
        others = [k for at, (g, k) in enumerate(rows) if g == name and at != row]
        assert (row in issues) == any(k != label for k in others)
        if row in issues:
            assert issues[row].quality == pytest.approx(others.count(label) / len(others))
            assert issues[row].suggested != issues[row].given


def test_planted_wrong_labels_of_real_copies_are_found(tmp_path):
    truth = make_tiles(
        tmp_path / "t", tiles=10, shots=1, size=(64, 64), duplicates=4, wrong_labels=0, seed=3
    )
    table = read_table(truth.table, images=truth.images)
    assert find_contradictions(table, check(table, jobs=1).copies) == []
    # The copies are equal bytes, encoded anew, resized and brightened.
    wrong = {copy for _, copy, _ in truth.duplicates}
    rows = [row for row, name in enumerate(table.ids) if name in wrong]
    targets = table.targets.copy()
    targets[rows, 1] = 1 - targets[rows, 1]
    planted = replace(table, targets=targets)
    issues = find_contradictions(planted, check(planted, jobs=1).copies)
    assert {each.id for each in issues} == wrong | {source for source, _, _ in truth.duplicates}
    assert {each.class_name for each in issues} == {table.classes[1]}


def draw_features(n: int, kinds: int = 4, seed: int = 0):
    """Features of some kinds of images, around a direction each."""
    rng = np.random.default_rng(seed)
    middles = rng.standard_normal((kinds, 64)) * 2
    return (middles[np.arange(n) % kinds] + rng.standard_normal((n, 64))).astype(np.float32)


def plant(features, count: int, seed: int = 9):
    """Add rows in other directions, each its own."""
    rng = np.random.default_rng(seed)
    strange = rng.standard_normal((count, features.shape[1])) * 2.5
    return np.concatenate([features, strange]).astype(np.float32)


@pytest.mark.parametrize("seed", range(4))
def test_planted_rows_are_found_and_few_others(seed):
    features = plant(draw_features(600, seed=seed), 6, seed + 100)
    table = make_table([0] * 606)
    found = find_outliers(table, features)
    assert {int(each.id) for each in found[:6]} == set(range(600, 606))
    assert len(found) <= 6 + 6
    assert [each.quality for each in found] == sorted(each.quality for each in found)
    assert all(0 < each.quality < 1 and each.rules == ("outlier",) for each in found)
    assert {(each.class_name, each.given, each.suggested) for each in found} == {("", "cat", "")}


@pytest.mark.parametrize("seed", range(4))
def test_of_usual_rows_at_most_one_in_a_hundred_is_flagged(seed):
    table = make_table([0] * 600)
    assert len(find_outliers(table, draw_features(600, seed=seed))) <= 6


def test_the_figures_in_the_evidence_are_those_of_the_definition():
    features = plant(draw_features(200), 1)
    (issue,) = find_outliers(make_table([1] * 201), features)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    gaps = np.linalg.norm(unit[:, None] - unit[None], axis=2)
    tenth = np.sort(gaps, axis=1)[:, NEIGHBOURS]  # the nearest is the row itself
    assert issue.quality == pytest.approx(np.median(tenth) / tenth[200], rel=1e-4)
    assert f"{tenth[200]:.3f}" in issue.evidence
    assert f"({np.median(tenth):.3f})" in issue.evidence


def test_copies_of_a_strange_image_do_not_hide_it():
    features = plant(draw_features(600), 1)
    features = np.concatenate([features, np.tile(features[-1], (NEIGHBOURS + 5, 1))])
    table = make_table([0] * len(features))
    copies = [str(row) for row in range(600)] + ["same"] * (NEIGHBOURS + 6)
    strange = set(range(600, len(features)))
    assert strange & {int(each.id) for each in find_outliers(table, features)} == set()
    assert strange <= {int(each.id) for each in find_outliers(table, features, copies)}


def test_fewer_strange_images_of_a_kind_than_neighbours_do_not_hide_each_other():
    features, rng = draw_features(600), np.random.default_rng(4)
    kin = rng.standard_normal(64) * 2.5 + rng.standard_normal((NEIGHBOURS - 1, 64)) * 0.05
    table = make_table([0] * (600 + len(kin)))
    found = find_outliers(table, np.concatenate([features, kin]).astype(np.float32))
    assert set(range(600, 600 + len(kin))) <= {int(each.id) for each in found}


def test_the_length_of_features_does_not_matter_nor_their_order():
    features = plant(draw_features(300), 3)
    table = make_table([0] * 303)
    usual = show(find_outliers(table, features))
    scaled = features * np.linspace(0.1, 50, 303, dtype=np.float32)[:, None]
    assert [row[0] for row in show(find_outliers(table, scaled))] == [row[0] for row in usual]
    turned = show(find_outliers(table, features[::-1]))
    assert [302 - row[0] for row in turned] == [row[0] for row in usual]


def test_small_or_even_tables_are_not_judged():
    few = plant(draw_features(FEWEST_ROWS - 2), 1)
    assert find_outliers(make_table([0] * len(few)), few) == []
    assert find_outliers(make_table([0] * 80), np.ones((80, 4), np.float32)) == []
    assert find_outliers(make_table([0] * 80), np.zeros((80, 4), np.float32)) == []
    many = plant(draw_features(80), 1)
    groups = [str(row % NEIGHBOURS) for row in range(81)]
    assert find_outliers(make_table([0] * 81), many, groups) == []


def test_features_that_do_not_fit_are_refused():
    table = make_table([0, 1])
    with pytest.raises(InputError, match=r"shape \(3, 2\) and 2 groups for 2 rows"):
        find_outliers(table, np.ones((3, 2), np.float32))
    with pytest.raises(InputError, match="1 groups"):
        find_outliers(table, np.ones((2, 2), np.float32), ["a"])
    with pytest.raises(InputError, match="not finite"):
        find_outliers(table, np.full((2, 2), np.nan, np.float32))


def test_a_whole_row_of_classes_that_stand_alone_has_no_single_given_label():
    features = plant(draw_features(200), 1)
    alone = make_table([[1, 0, 1]] * 201, exclusive=False)
    (issue,) = find_outliers(alone, features)
    assert (issue.id, issue.class_name, issue.given) == ("0200", "", "")
    unlabelled = make_table([None] * 201)
    assert [each.given for each in find_outliers(unlabelled, features)] == [""]
