"""Rows to score: which are chosen, and their targets in the columns of a model."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from loupe.errors import AlignmentError, InputError, TableError
from loupe.fresh import Fresh, choose_rows, match_targets, pool_fresh
from loupe.predictions import Predictions
from loupe.table import HOLDOUT, Layout, Quarantined, Table


def table(targets, classes, *, exclusive=True, layout="memory", **more) -> Table:
    values = np.asarray(targets, np.float32)
    return Table(
        ids=tuple(f"{row}.png" for row in range(len(values))),
        images=tuple(Path(f"{row}.png") for row in range(len(values))),
        classes=tuple(classes),
        targets=values,
        exclusive=exclusive,
        layout=Layout(name=layout),
        **more,
    )


def test_only_the_hold_out_is_chosen():
    aside = (Quarantined(id="x", reason="broken"),)
    folds = np.array([0, HOLDOUT, 1, HOLDOUT], np.int16)
    whole = table(np.eye(2)[[0, 1, 0, 0]], "ab", folds=folds, quarantined=aside)
    chosen, note = choose_rows(whole)
    assert chosen.ids == ("1.png", "3.png")
    assert chosen.quarantined == ()
    assert note == "2 of 4 rows, those kept apart, are scored"
    chosen, note = choose_rows(replace(whole, folds=None))
    assert (len(chosen), len(chosen.quarantined), note) == (4, 1, "4 rows are scored")


def test_rows_without_labels_cannot_be_scored():
    with pytest.raises(TableError, match="has no labels"):
        choose_rows(table(np.zeros((3, 0)), "", exclusive=False))
    with pytest.raises(TableError, match="0 rows"):
        choose_rows(table(np.zeros((0, 2)), "ab"))
    partly = table([[1], [np.nan], [0]], "a", exclusive=False)
    with pytest.raises(TableError, match=r"1 of 3 rows have no label: '1\.png'"):
        choose_rows(partly)
    folds = np.array([HOLDOUT, 0, HOLDOUT], np.int16)
    assert len(choose_rows(replace(partly, folds=folds))[0]) == 2


def match(new, classes, *, exclusive):
    return match_targets(new, classes, exclusive=exclusive, where="RUN")


def test_classes_are_matched_by_name_and_may_be_absent():
    new = table([[1, 0], [0, 1]], ("wood", "clay"))
    targets, notes = match(new, ("clay", "sand", "wood"), exclusive=True)
    assert targets.tolist() == [[0, 0, 1], [1, 0, 0]]
    assert notes == ("no row of the table is of class sand",)
    listed = table([[1], [0]], ("wood",), exclusive=False, layout="label-list")
    targets, notes = match(listed, ("clay", "wood"), exclusive=False)
    assert targets.tolist() == [[0, 1], [0, 0]]
    assert match(new, ("wood", "clay"), exclusive=True)[1] == ()


def test_unknown_classes_and_missing_columns_are_refused():
    new = table([[1, 0]], ("crak", "ok"))
    with pytest.raises(AlignmentError, match=r"1 class.*'crak'; did you mean 'crack'"):
        match(new, ("crack", "ok"), exclusive=True)
    for layout in ("multi-hot", "memory"):
        stated = table([[1]], ("crack",), exclusive=False, layout=layout)
        with pytest.raises(AlignmentError, match="no column for rust"):
            match(stated, ("crack", "rust"), exclusive=False)
    several = table([[1, 1], [0, 0], [1, 0]], ("crack", "ok"), exclusive=False)
    with pytest.raises(AlignmentError, match=r"2 of 3 rows have none or several: '0\.png'"):
        match(several, ("crack", "ok"), exclusive=True)


def fresh(targets, probs, *, exclusive, held_out=None) -> Fresh:
    sheet = Predictions(
        ids=tuple("abcdefgh"[: len(probs)]),
        classes=tuple("xyz"[: len(probs[0])]),
        probs=np.array(probs, np.float32),
        exclusive=exclusive,
        held_out=np.array(held_out or [True] * len(probs)),
    )
    return Fresh(sheet=sheet, targets=np.array(targets, np.float32), groups=None)


def test_a_group_has_what_any_of_its_rows_has():
    nan = np.nan
    rows = fresh(
        [[0], [1], [0], [0], [1]],
        [[0.25], [nan], [0.75], [0.5], [nan]],
        exclusive=False,
        held_out=[True, True, True, False, True],
    )
    pooled = pool_fresh(rows, ["p2", "p2", "p1", "p1", "p3"], "max")
    assert pooled.sheet.ids == ("p1", "p2", "p3")
    assert pooled.sheet.probs[:2, 0].tolist() == [0.75, 0.25]
    assert pooled.targets.tolist() == [[0], [1], [1]]
    assert pooled.sheet.held_out.tolist() == [False, True, True]
    assert pooled.sheet.errors == (None, None, "none of its rows has a prediction")
    (note,) = pooled.notes
    assert note.startswith("5 rows are decided as 3 groups, by the max of each; 1 of them")


def test_rows_of_an_exclusive_group_must_agree():
    rows = fresh(np.eye(2)[[0, 0, 1]], [[0.5, 0.5], [0.25, 0.75], [0, 1]], exclusive=True)
    pooled = pool_fresh(rows, ["p1", "p1", "p2"], "mean")
    assert pooled.sheet.probs.tolist() == [[0.375, 0.625], [0, 1]]
    assert pooled.targets.tolist() == [[1, 0], [0, 1]]
    with pytest.raises(InputError, match=r"1 of 2 groups .* different classes: 'p2'"):
        pool_fresh(rows, ["p1", "p2", "p2"], "mean")


def test_predictions_files_need_no_torch():
    code = "import sys, loupe.grading; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
