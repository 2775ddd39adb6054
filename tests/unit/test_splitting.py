from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from loupe.checking import find_groups
from loupe.errors import InputError, LeakageError, TableError
from loupe.layouts import read_table
from loupe.splitting import LEAK_STAMP, added_columns, check_folds, split
from loupe.table import ALWAYS_TRAINED, HOLDOUT
from loupe.testing import make_tiles


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A table with planted copies, which claim to be other tiles."""
    folder = tmp_path_factory.mktemp("copied") / "tiles"
    truth = make_tiles(folder, tiles=15, shots=1, size=(64, 64), duplicates=4, wrong_labels=0)
    return truth, read_table(truth.table, images=truth.images)


def fold_of(table):
    return dict(zip(table.ids, table.folds.tolist(), strict=True))


def test_planted_copies_share_a_fold(copied):
    truth, table = copied
    made = split(table, folds=3, stratify=False)
    folds, groups = fold_of(made), dict(zip(made.ids, made.groups, strict=True))
    for source, copy, _ in truth.duplicates:
        assert folds[source] == folds[copy]
        assert groups[source] == groups[copy]
    assert set(folds.values()) == {0, 1, 2}
    assert any("groups of copies" in note for note in made.notes)
    assert not any(note.startswith("LEAK") for note in made.notes)
    assert fold_of(split(table, folds=3, stratify=False)) == folds


def test_given_groups_share_a_fold(binary):
    made = split(replace(binary, folds=None), folds=4, group="given")
    groups = dict(zip(made.groups, made.folds.tolist(), strict=True))
    assert [groups[g] for g in made.groups] == made.folds.tolist()
    assert made.groups == binary.groups
    with pytest.raises(TableError, match="no group column"):
        split(replace(binary, groups=None), group="given")


def test_to_split_without_groups_must_be_meant_and_is_stamped(binary):
    with pytest.raises(LeakageError, match="--allow-leak"):
        split(binary, group="none")
    made = split(binary, group="none", folds=2, allow_leak=True)
    assert LEAK_STAMP in made.notes
    assert made.groups is None


def test_one_validation_part_and_rows_kept_apart(binary):
    made = split(binary, group="given", validation=0.25, holdout=0.25)
    counts = Counter(made.folds.tolist())
    assert set(counts) == {HOLDOUT, ALWAYS_TRAINED, 0}
    assert counts[HOLDOUT] == 4
    assert 2 <= counts[0] <= 4
    of = {
        g: {f for g2, f in zip(made.groups, made.folds, strict=True) if g2 == g}
        for g in made.groups
    }
    assert all(len(folds) == 1 for folds in of.values())
    assert "4 rows are held apart" in " ".join(made.notes)


def test_without_shuffling_folds_are_blocks(binary):
    plain = replace(binary, groups=None)
    made = split(plain, group="none", allow_leak=True, folds=4, shuffle=False, stratify=False)
    assert made.folds.tolist() == np.repeat([0, 1, 2, 3], 4).tolist()


def test_the_columns_added_to_a_table(binary):
    assert added_columns(binary) == {
        "fold": binary.folds.tolist(),
        "group": binary.groups,
    }
    assert list(added_columns(replace(binary, groups=None))) == ["fold"]
    with pytest.raises(TableError, match="no folds"):
        added_columns(replace(binary, folds=None))


def test_another_word_for_grouping_is_refused(binary):
    with pytest.raises(InputError, match="auto, given or none"):
        split(binary, group="tile")


def crossing(table):
    """Folds that part a copy from its original."""
    copies = find_groups(table)
    first = next(row for row, name in enumerate(copies) if copies.count(name) > 1)
    folds = np.array([int(copies[row] != copies[first]) for row in range(len(table))], np.int16)
    folds[first] = 1
    return replace(table, folds=folds, groups=None)


def test_copies_that_cross_the_folds_of_a_table_are_refused(copied):
    table = crossing(copied[1])
    with pytest.raises(LeakageError, match=r"stand in more than one fold.*loupe split"):
        check_folds(table)


def test_copies_allowed_to_cross_folds_are_stamped(copied):
    checked = check_folds(crossing(copied[1]), allow_leak=True)
    assert [note for note in checked.notes if note.startswith("LEAK")]


def test_folds_that_keep_copies_together_pass_and_gain_their_groups(copied):
    made = split(copied[1], folds=2, stratify=False)
    checked = check_folds(replace(made, notes=()))
    assert checked.groups == made.groups
    assert not [note for note in checked.notes if note.startswith("LEAK")]
