"""Which trained weights a fold may go on from: those that never saw what it holds out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from loupe.errors import LeakageError, RecipeError
from loupe.recipe import read_recipe
from loupe.runs import REFIT, create_run
from loupe.starts import match_folds
from loupe.table import HOLDOUT, Table


@dataclass(frozen=True)
class Maker:
    """Finished runs without weights: who saw what is all that counts."""

    folder: Path

    def __call__(self, name, table, *, init_from=None, refit_of=None):
        recipe = read_recipe({"init_from": init_from, "stages": [{"epochs": 1}]})
        run = create_run(self.folder / name, table, {"m": recipe}, refit_of=refit_of)
        run.scores_file.write_text("{}", encoding="utf-8")
        return str(run.folder)


@pytest.fixture
def make(tmp_path):
    return Maker(tmp_path)


def table(folds, *, ids="abcdef", groups=None, folder="x") -> Table:
    n = len(folds)
    return Table(
        ids=tuple(f"{name}.png" for name in ids[:n]),
        images=tuple(Path(folder) / f"{name}.png" for name in "abcdefghi"[:n]),
        classes=("crack",),
        targets=np.zeros((n, 1), np.float32),
        exclusive=False,
        folds=np.array(folds, np.int16),
        groups=groups,
    )


def match(new, start, folds=(0, 1)):
    found = match_folds(new, folds, start, "m")
    return {number: files.folder.name for number, files in found.items()}


def test_each_fold_goes_on_from_its_own(make):
    start = make("a", table([0, 0, 1, 1]))
    assert match(table([0, 0, 1, 1]), start) == {0: "fold-0", 1: "fold-1"}
    assert match(table([1, 1, 0, 0]), start) == {0: "fold-1", 1: "fold-0"}


def test_other_folds_leak(make):
    start = make("a", table([0, 0, 1, 1]))
    with pytest.raises(LeakageError, match=r"fold 0 holds out were trained on in every network"):
        match(table([0, 1, 0, 1]), start)


def test_an_image_is_known_by_its_place_under_another_id(make):
    start = make("a", table([0, 0, 1, 1]))
    with pytest.raises(LeakageError):
        match(table([0, 1, 0, 1], ids="wxyz"), start)
    assert match(table([0, 1, 0, 1], ids="wxyz", folder="y"), start)[0] == "fold-0"


def test_copies_of_what_is_held_out_count(make):
    groups = ("g", "h", "g", "k")
    start = make("a", table([0, 0, 1, 1], groups=groups))
    # Only one of the two copies is in the new table; the other was trained on.
    new = table([0, 1], ids="ab")
    with pytest.raises(LeakageError, match="copies"):
        match(new, start)


def test_rows_kept_apart_were_never_seen(make):
    start = make("a", table([0, 0, 1, 1]))
    with pytest.raises(LeakageError):
        match(table([HOLDOUT, 0, 1, 1]), start)
    apart = make("b", table([HOLDOUT, 0, 1, 1]))
    assert match(table([HOLDOUT, 0, 1, 1]), apart) == {0: "fold-0", 1: "fold-1"}


def test_what_an_earlier_start_saw_counts(make):
    first = make("a", table([0, 0, 1, 1]))
    second = make("b", table([0, 0, 1, 1], folder="x"), init_from=first)
    assert match(table([0, 0, 1, 1]), second) == {0: "fold-0", 1: "fold-1"}
    # Row d is only in the first run, where fold 0's weights were trained on it.
    first = make("c", table([0, 0, 1, 1]))
    second = make("d", table([0, 0, 1]), init_from=first)
    held = replace(table([0, 0, 1, 0]), ids=table([0, 0, 1, 1]).ids)
    with pytest.raises(LeakageError):
        match(held, second, (0,))


def test_a_refit_goes_on_from_a_refit(make):
    first = make("a", table([0, 0, 1, 1]))
    whole = make("b", table([-1] * 4), refit_of=Path(first))
    assert match(table([-1] * 4), whole, (REFIT,)) == {REFIT: "all"}
    with pytest.raises(RecipeError, match="Refit that run first"):
        match(table([-1] * 4), first, (REFIT,))
    with pytest.raises(LeakageError, match="kept apart"):
        match(table([HOLDOUT, -1, -1, -1]), whole, (REFIT,))


def test_weights_of_all_rows_may_start_other_data(make):
    whole = make("b", table([-1] * 4), refit_of=make.folder / "none")
    assert match(table([0, 1], ids="yz", folder="other"), whole) == {0: "all", 1: "all"}
    with pytest.raises(LeakageError):
        match(table([0, 0, 1, 1]), whole)


def test_classes_must_be_the_same(make):
    start = make("a", table([0, 1]))
    with pytest.raises(RecipeError, match="this table has chip"):
        match(replace(table([0, 1]), classes=("chip",)), start)
