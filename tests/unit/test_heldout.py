"""Runs and files become evidence: matched by id, weighed by fold, no row left out silently."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from loupe.blended import Blended, Source
from loupe.errors import AlignmentError, InputError, LeakageError, RunError
from loupe.evidence import held_out_probs
from loupe.heldout import gather_evidence
from loupe.predictions import Predictions, write_predictions
from loupe.recipe import read_recipe
from loupe.runs import create_blend, create_run
from loupe.sheetfiles import write_sheet_file
from loupe.table import HOLDOUT, Quarantined, Table
from loupe.testing import make_predictions

N = 40
AB = ("a", "b")


def table(*, seed=0, exclusive=False, **more) -> Table:
    made = make_predictions(N, 2, exclusive=exclusive, folds=4, groups=20, seed=seed)
    values = {
        "ids": tuple(f"{row:02}.png" for row in range(N)),
        "images": tuple(Path("x") / f"{row:02}.png" for row in range(N)),
        "classes": AB,
        "targets": made.targets,
        "exclusive": exclusive,
        "folds": made.folds,
        "groups": tuple(f"g{number}" for number in made.groups),
    }
    return Table(**(values | more))


def predict(truth: Table, *, seed=0, folds=True, held_out=True, rows=None) -> Predictions:
    """Predictions of the table's rows, or of some of them, in any order."""
    probs = make_predictions(len(truth), 2, exclusive=truth.exclusive, seed=seed).probs
    rows = np.arange(len(truth)) if rows is None else np.asarray(rows)
    return Predictions(
        ids=tuple(truth.ids[row] for row in rows),
        classes=truth.classes,
        probs=probs[rows],
        exclusive=truth.exclusive,
        held_out=np.full(len(rows), held_out),
        folds=truth.folds[rows] if folds and truth.folds is not None else None,
    )


@dataclass(frozen=True)
class Maker:
    """Finished runs without networks, and predictions files."""

    folder: Path

    def run(self, name, truth, *seeds, stamps=(), rows=None):
        recipe = read_recipe({"stages": [{"epochs": 1}]})
        names = {f"m{seed}": recipe for seed in seeds}
        run = create_run(self.folder / name, truth, names, stamps)
        rows = np.flatnonzero(truth.folds >= 0) if rows is None else rows
        sheets = {f"m{seed}": predict(truth, seed=seed, rows=rows) for seed in seeds}
        return self.finish(run, sheets)

    def finish(self, run, sheets):
        write_predictions(run.oof_file, sheets)
        run.scores_file.write_text("{}", encoding="utf-8")
        return run.folder

    def file(self, name, sheet):
        path = self.folder / name
        write_sheet_file(path, sheet)
        return path


@pytest.fixture
def make(tmp_path):
    return Maker(tmp_path)


def told(evidence) -> str:
    return " | ".join(evidence.notes)


# Sources ------------------------------------------------------------------------------------------


def test_a_run_is_the_mean_of_its_members(make):
    truth = table()
    folder = make.run("r", truth, 1, 2, stamps=["OPTIMISTIC: x"])
    found = gather_evidence([folder])
    assert found.ids == truth.ids
    mean = (predict(truth, seed=1).probs + predict(truth, seed=2).probs) / 2
    np.testing.assert_allclose(held_out_probs(found), mean, atol=1e-6)
    np.testing.assert_array_equal(found.targets, truth.targets)
    np.testing.assert_array_equal(found.parts, truth.folds)
    assert found.part_names == ("0", "1", "2", "3")
    assert len(found.members) == 1
    assert found.stamps == ("OPTIMISTIC: x",)
    same = np.array(truth.groups)[:, None] == np.array(truth.groups)
    np.testing.assert_array_equal(found.groups[:, None] == found.groups, same)


def test_members_of_one_run_may_stay_apart(make):
    truth = table()
    found = gather_evidence([make.run("r", truth, 1, 2)], split=True)
    assert len(found.members) == 2
    np.testing.assert_array_equal(found.members[1], predict(truth, seed=2).probs)
    assert found.weights.tolist() == [0.5, 0.5]


def test_a_file_is_aligned_by_id_and_class(make):
    truth = table()
    order = np.random.default_rng(0).permutation(N)
    shuffled = predict(truth, rows=order)
    turned = replace(shuffled, classes=("b", "a"), probs=shuffled.probs[:, ::-1])
    for sheet in (shuffled, turned):
        found = gather_evidence([make.file("p.csv", sheet)], truth)
        assert found.ids == truth.ids
        np.testing.assert_array_equal(found.members[0], predict(truth).probs)
        np.testing.assert_array_equal(found.parts, truth.folds)


def test_several_sources_become_members_of_one_order(make):
    truth = table()
    run = make.run("r", truth, 1, 2)
    path = make.file("p.parquet", predict(truth, seed=3, rows=np.arange(N)[::-1]))
    found = gather_evidence([path, run])
    assert found.ids == truth.ids
    np.testing.assert_array_equal(found.members[0], predict(truth, seed=3).probs)
    assert len(found.members) == 2
    assert found.part_weights is None


def test_runs_with_another_order_of_classes_are_turned(make):
    truth = table()
    turned = replace(truth, classes=("b", "a"), targets=truth.targets[:, ::-1])
    first, other = make.run("r", truth, 1), make.run("s", turned, 1)
    found = gather_evidence([first, other])
    np.testing.assert_array_equal(found.members[1], predict(truth, seed=1).probs[:, ::-1])
    renamed = make.run("t", replace(truth, classes=("a", "c")), 1)
    with pytest.raises(AlignmentError, match=r"its classes are a, c .*; it lacks 'b'"):
        gather_evidence([first, renamed])


def make_blend(make, truth, by_fold):
    blended = Blended(
        sources=(Source(place="../r"), Source(place="../s")),
        weights=(0.75, 0.25),
        by_fold=by_fold,
        method="simplex",
        metric="log_loss",
    )
    run = create_blend(make.folder / "mix", truth, ["m1", "m2"], blended, ["LEAK: y"])
    return make.finish(run, {f"m{seed}": predict(truth, seed=seed) for seed in (1, 2)})


BY_FOLD = {str(fold): (fold / 4, 1 - fold / 4) for fold in range(4)}


def expected_blend(truth):
    first, other = predict(truth, seed=1).probs, predict(truth, seed=2).probs
    share = truth.folds[:, None] / 4
    return first * share + other * (1 - share)


def test_a_blend_has_the_weights_that_each_fold_was_left_out_of(make):
    truth = table()
    found = gather_evidence([make_blend(make, truth, BY_FOLD)])
    assert found.weights.tolist() == [0.75, 0.25]
    assert found.part_weights[1].tolist() == [0.25, 0.75]
    np.testing.assert_allclose(held_out_probs(found), expected_blend(truth), atol=1e-6)
    assert found.stamps == ("LEAK: y",)


def test_a_blend_is_one_member_among_others(make):
    truth = table()
    found = gather_evidence([make.run("z", truth, 3), make_blend(make, truth, BY_FOLD)])
    np.testing.assert_allclose(found.members[1], expected_blend(truth), atol=1e-6)


def test_a_blend_among_others_must_have_weights_for_every_fold(make):
    truth = table()
    mix = make_blend(make, truth, {name: BY_FOLD[name] for name in "012"})
    count = int((truth.folds == 3).sum())
    with pytest.raises(LeakageError, match=rf"mix: {count} of 40 row\(s\) were not held out"):
        gather_evidence([make.run("z", truth, 3), mix])


def test_a_blend_by_hand_has_no_weights_of_folds(make):
    found = gather_evidence([make_blend(make, table(), None)])
    assert found.part_weights is None
    assert found.weights.tolist() == [0.75, 0.25]


def test_a_blend_whose_folds_are_others_is_stamped(make):
    by_fold = {name: BY_FOLD[name] for name in "012"}
    found = gather_evidence([make_blend(make, table(), by_fold)])
    assert found.part_weights is None
    assert "OPTIMISTIC: the weights of the blend were fitted on folds 3" in found.stamps[1]


def test_other_labels_may_be_given_for_a_run(make):
    truth = table()
    folder = make.run("r", truth, 1)
    corrected = replace(truth, targets=1 - truth.targets, groups=None, folds=None).select(
        range(N - 1, 4, -1)
    )
    found = gather_evidence([folder], corrected)
    assert found.ids == corrected.ids
    np.testing.assert_array_equal(found.targets, corrected.targets)
    np.testing.assert_array_equal(found.parts, truth.folds[::-1][: N - 5])
    assert "5 row(s) that are not in the table" in told(found)
    # What was grouped for training still is.
    names = np.array(truth.groups[::-1][: N - 5])
    same = names[:, None] == names
    np.testing.assert_array_equal(found.groups[:, None] == found.groups, same)


# Rows that count ----------------------------------------------------------------------------------


def test_rows_without_label_or_picture_do_not_count(make):
    truth = table()
    targets = truth.targets.copy()
    targets[3] = np.nan
    truth = replace(truth, targets=targets, quarantined=(Quarantined(id="q.png", reason="x"),))
    sheet = predict(truth)
    probs = np.concatenate([sheet.probs, np.full((1, 2), np.nan, np.float32)])
    probs[7] = np.nan
    reasons = [None] * N + ["set aside"]
    reasons[7] = "broken"
    sheet = replace(
        sheet,
        ids=(*sheet.ids, "q.png"),
        probs=probs,
        held_out=np.append(sheet.held_out, False),
        folds=np.append(sheet.folds, np.int16(-1)),
        errors=tuple(reasons),
    )
    recipe = read_recipe({"stages": [{"epochs": 1}]})
    run = create_run(make.folder / "r", truth, {"m": recipe})
    for source in (make.finish(run, {"m": sheet}), make.file("p.csv", sheet)):
        found = gather_evidence([source], truth)
        assert found.ids == tuple(key for key in truth.ids if key not in ("03.png", "07.png"))
        assert "1 row(s) in quarantine do not count" in told(found)
        assert "1 row(s) without a label do not count" in told(found)
        assert "1 row(s) that could not be read do not count: '07.png'" in told(found)


def test_missing_rows_are_refused(make):
    truth = table()
    path = make.file("p.csv", predict(truth, rows=range(2, N)))
    with pytest.raises(AlignmentError, match=r"2 of 40 labelled rows .*: '00\.png', '01\.png'\."):
        gather_evidence([path], truth)
    sheet = predict(truth)
    other = replace(sheet, ids=tuple(f"img/{key}" for key in sheet.ids))
    with pytest.raises(AlignmentError, match=r"40 of them differ only by their folder"):
        gather_evidence([make.file("q.csv", other)], truth)
    with pytest.raises(AlignmentError, match=r"40 of them differ only by their folder"):
        gather_evidence(
            [make.run("r", truth, 1)], replace(truth, ids=tuple(f"i/{key}" for key in truth.ids))
        )


def test_whole_folds_may_be_missing_and_other_rows_are_noted(make):
    truth = table()
    rows = np.flatnonzero(truth.folds < 2)
    path = make.file("p.csv", predict(truth, rows=rows))
    found = gather_evidence([path], truth)
    assert len(found) == len(rows)
    assert f"predicts {len(rows)} of the 40 rows" in told(found)
    short = truth.select(range(N - 1))
    found = gather_evidence([make.file("q.csv", predict(truth))], short)
    assert len(found) == N - 1
    assert "1 row(s) that are not in the table do not count: '39.png'" in told(found)


def test_sources_must_predict_the_same_rows(make):
    truth = table()
    first = make.run("r", truth, 1)
    other = make.run("s", truth, 2, rows=np.arange(3, N))
    with pytest.raises(AlignmentError, match=r"3 row\(s\) .* lacks 3 \('00\.png'"):
        gather_evidence([first, other])


def test_the_hold_out_is_left_for_the_last_score(make):
    truth = table()
    folds = np.where(truth.folds == 3, HOLDOUT, truth.folds).astype(np.int16)
    truth = replace(truth, folds=folds)
    path = make.file("p.csv", predict(truth, folds=False))
    found = gather_evidence([path], truth)
    assert len(found) == (folds >= 0).sum()
    assert "row(s) of the hold-out do not count" in told(found)
    # Runs do not predict these rows.
    assert gather_evidence([make.run("r", truth, 1), path], truth).ids == found.ids
    # The file may be the one that says so.
    found = gather_evidence([make.file("q.csv", predict(truth))], replace(truth, folds=None))
    assert len(found) == (folds >= 0).sum()


def test_parts_are_dealt_where_there_are_no_folds(make):
    truth = replace(table(), folds=None)
    found = gather_evidence([make.file("p.csv", predict(truth))], truth)
    assert found.part_count == 5
    assert "no folds" in told(found)
    for name in set(truth.groups):
        assert len({int(found.parts[row]) for row in range(N) if truth.groups[row] == name}) == 1


# Arguments ----------------------------------------------------------------------------------------


def test_targets_are_needed(make):
    truth = table()
    path = make.file("p.csv", predict(truth))
    with pytest.raises(InputError, match="--table"):
        gather_evidence([path])
    with pytest.raises(InputError, match="name a run"):
        gather_evidence([], truth)
    bare = replace(truth, classes=(), targets=np.zeros((N, 0), np.float32))
    with pytest.raises(InputError, match="no labels"):
        gather_evidence([path], bare)
    strange = replace(truth, ids=tuple(f"{row}?" for row in range(N)))
    with pytest.raises(AlignmentError, match=r"40 of 40 labelled rows"):
        gather_evidence([path], strange)


def test_unfinished_and_foreign_folders_are_refused(make, tmp_path):
    truth = table()
    run = create_run(tmp_path / "r", truth, {"m": read_recipe({"stages": [{"epochs": 1}]})})
    with pytest.raises(RunError, match="not finished"):
        gather_evidence([run.folder])
    (tmp_path / "other").mkdir()
    with pytest.raises(RunError, match="no run folder"):
        gather_evidence([tmp_path / "other"])


def test_exclusive_rows_stay_exclusive(make):
    truth = table(exclusive=True)
    found = gather_evidence([make.run("r", truth, 1, 2)])
    assert found.exclusive
    np.testing.assert_allclose(held_out_probs(found).sum(axis=1), 1, atol=1e-5)
