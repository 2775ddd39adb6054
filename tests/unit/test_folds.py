import numpy as np
import pytest
from sklearn.model_selection import KFold

from loupe.errors import InputError, LeakageError, TableError
from loupe.folds import (
    assign_folds,
    assign_holdout,
    assign_validation,
    check_leaks,
    inner_split,
)
from loupe.table import ALWAYS_TRAINED, HOLDOUT

GOLDEN_EXCLUSIVE = [2, 1, 0, 0, 3, 3, 3, 1, 1, 0, 2, 1, 1, 2, 0, 3, 2, 2, 0, 3]
GOLDEN_GROUPED = [0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 0, 1, 2, 2, 0, 0, 0, 0, 2, 2, 1, 2]


def name(n: int) -> list[str]:
    return [f"{i:03d}.png" for i in range(n)]


def one_hot(*counts: int) -> np.ndarray:
    return np.repeat(np.eye(len(counts)), counts, axis=0)


def test_golden_folds_of_exclusive_classes():
    labels = one_hot(11, 6, 3)
    dealt = assign_folds(labels, None, ids=name(20), classes=["a", "b", "c"], folds=4, seed=7)
    assert dealt.folds.dtype == np.int16
    assert dealt.folds.tolist() == GOLDEN_EXCLUSIVE
    assert dealt.notes == ("class 'c' (3 row(s) in 3 group(s)) is missing from fold 1.",)


def test_golden_folds_of_groups_and_label_sets():
    labels = np.array([[i % 2, i % 3 == 0, i % 7 == 0] for i in range(24)], dtype=float)
    groups = [f"plate {i // 3 if i < 12 else i}" for i in range(24)]
    dealt = assign_folds(labels, groups, ids=name(24), classes=["x", "y", "z"], folds=3)
    assert dealt.folds.tolist() == GOLDEN_GROUPED
    assert dealt.notes == ()


def test_the_seed_changes_the_folds():
    labels = one_hot(30, 30)
    dealt = [
        assign_folds(labels, None, ids=name(60), classes=["a", "b"], folds=5, seed=seed)
        for seed in (0, 1)
    ]
    assert (dealt[0].folds != dealt[1].folds).any()


def test_rare_label_sets_are_spread():
    labels = np.zeros((100, 3))
    labels[:, 0] = 1
    labels[:4, 1] = 1
    labels[4:8, 2] = 1
    dealt = assign_folds(labels, None, ids=name(100), classes=["a", "b", "c"], folds=4)
    for column in (1, 2):
        assert sorted(dealt.folds[labels[:, column] == 1]) == [0, 1, 2, 3]
    assert np.bincount(dealt.folds).tolist() == [25, 25, 25, 25]


def test_missing_labels_count_as_negative():
    labels = one_hot(8, 8)
    labels[:8, 0] = np.nan
    dealt = assign_folds(labels, None, ids=name(16), classes=["a", "b"], folds=4)
    assert dealt.notes == ("class 'a' has no row.",)
    assert np.bincount(dealt.folds[:8]).tolist() == [2, 2, 2, 2]


@pytest.mark.parametrize(("n", "k"), [(10, 3), (11, 5), (7, 7)])
def test_without_shuffle_folds_are_those_of_kfold(n, k):
    labels = one_hot(n)
    dealt = assign_folds(labels, None, ids=name(n), classes=["a"], folds=k, shuffle=False)
    for fold, (_, held_out) in enumerate(KFold(k).split(labels)):
        assert np.flatnonzero(dealt.folds == fold).tolist() == held_out.tolist()
    assert "contiguous" in dealt.notes[0]


def test_without_shuffle_groups_stay_whole_and_no_fold_is_empty():
    groups = ["big"] * 20 + ["b", "c", "d"]
    labels = one_hot(23)
    dealt = assign_folds(
        labels, groups, ids=name(23), classes=["a"], folds=4, shuffle=False, stratify=False
    )
    assert dealt.folds.tolist() == [0] * 20 + [1, 2, 3]


def test_without_shuffle_validation_takes_the_last_rows():
    dealt = assign_validation(
        one_hot(10), None, ids=name(10), classes=["a"], share=0.3, shuffle=False
    )
    assert dealt.folds.tolist() == [ALWAYS_TRAINED] * 7 + [0] * 3


def test_validation_takes_its_share_of_each_class():
    labels = one_hot(70, 20, 10)
    dealt = assign_validation(labels, None, ids=name(100), classes=list("abc"), share=0.2)
    assert set(dealt.folds.tolist()) == {ALWAYS_TRAINED, 0}
    assert labels[dealt.folds == 0].sum(axis=0).tolist() == [14, 4, 2]


def test_two_groups_are_parted_however_unlike_they_are():
    labels, groups = one_hot(50), ["a"] * 48 + ["b"] * 2
    mask = assign_holdout(labels, groups, ids=name(50), classes=["x"], share=0.1)
    assert np.flatnonzero(mask).tolist() == [48, 49]


def test_holdout_and_folds_use_different_draws():
    labels, ids = one_hot(40, 40), name(80)
    mask = assign_holdout(labels, None, ids=ids, classes=["a", "b"], share=0.2)
    folds = assign_folds(labels, None, ids=ids, classes=["a", "b"], folds=5).folds
    assert labels[mask].sum(axis=0).tolist() == [8, 8]
    assert len(set(folds[mask].tolist())) > 1


def test_too_few_groups_is_an_error():
    with pytest.raises(TableError, match=r"6 rows form 2 group\(s\), but 3 parts"):
        assign_folds(one_hot(6), list("aaabbb"), ids=name(6), classes=["x"], folds=3)


def test_too_few_groups_may_come_from_the_table_or_from_copies():
    with pytest.raises(TableError, match=r"group column and from copies.*--group given"):
        assign_folds(one_hot(6), list("aaabbb"), ids=name(6), classes=["x"], folds=3)
    with pytest.raises(TableError, match=r"group column and from copies.*--group given"):
        assign_folds(one_hot(6, 2), list("abcdefgg"), ids=name(8), classes=["x", "y"], folds=3)
    with pytest.raises(TableError, match=r"--stratify none\)\.$"):
        assign_folds(one_hot(6, 1), None, ids=name(7), classes=["x", "y"], folds=3)


def test_classes_in_one_group_are_all_named():
    labels = one_hot(10, 1, 3)
    groups = [*name(10), "u", "v", "v", "v"]
    with pytest.raises(TableError) as caught:
        assign_folds(labels, groups, ids=name(14), classes=["ok", "once", "plate"], folds=5)
    text = str(caught.value)
    assert "2 class(es)" in text
    assert "'once' (1 row(s), 1 group), 'plate' (3 row(s), 1 group)" in text
    assert "loupe split --stratify none" in text
    assert "ok" not in text.partition("Expected")[0]


def test_unstratified_folds_accept_a_class_in_one_group_and_say_so():
    dealt = assign_folds(
        one_hot(10, 1), None, ids=name(11), classes=["a", "b"], folds=2, stratify=False
    )
    assert [note[:9] for note in dealt.notes] == ["class 'b'"]


@pytest.mark.parametrize(
    "call",
    [
        lambda: assign_folds(one_hot(4), None, ids=name(4), classes=["a"], folds=1),
        lambda: assign_holdout(one_hot(4), None, ids=name(4), classes=["a"], share=1.0),
        lambda: assign_validation(one_hot(4), None, ids=name(4), classes=["a"], share=0.0),
    ],
)
def test_wrong_numbers_are_refused(call):
    with pytest.raises(InputError, match="expected"):
        call()


def test_wrong_lengths_and_repeated_ids_are_refused():
    with pytest.raises(TableError, match="3 ids"):
        assign_folds(one_hot(4), None, ids=name(3), classes=["a"], folds=2)
    with pytest.raises(TableError, match="1 of 4 ids repeat"):
        assign_folds(one_hot(4), None, ids=[*name(3), "000.png"], classes=["a"], folds=2)


def test_leaks_are_listed_with_their_folds():
    folds = np.array([0, 0, 1, HOLDOUT, ALWAYS_TRAINED, 2], dtype=np.int16)
    check_leaks(folds, ["a", "a", "b", "c", "d", "e"], name(6))
    with pytest.raises(LeakageError) as caught:
        check_leaks(folds, ["a", "a", "a", "c", "c", "e"], name(6))
    text = str(caught.value)
    assert "2 group(s)" in text
    assert "group 'a' in fold 0 (id '000.png') and fold 1 (id '002.png')" in text
    assert "group 'c' in the hold-out part" in text
    assert "'e'" not in text


def test_inner_split_keeps_to_its_rows_and_classes():
    labels = one_hot(50, 50)
    rows = np.arange(0, 100, 2)
    train, stop = inner_split(rows, labels, None, ids=name(100), share=0.2)
    assert sorted([*train, *stop]) == rows.tolist()
    assert labels[stop].sum(axis=0).tolist() == [5, 5]


def test_inner_split_leaves_a_class_in_one_group_to_training():
    labels = one_hot(40, 1, 5)
    groups = [*name(41), *["plate"] * 5]
    train, stop = inner_split(np.arange(46), labels, groups, ids=name(46), share=0.25)
    assert {40, 41, 42, 43, 44, 45} <= set(train.tolist())
    assert len(stop) >= 10
