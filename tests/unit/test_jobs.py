"""Jobs and whole trainings: the same bits however they are run or interrupted."""

import csv
import itertools
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from loupe import jobs
from loupe.errors import RecipeError, RunError, TableError, WeightsError
from loupe.features import head_only, list_views
from loupe.predictions import average_sheets
from loupe.progress import Silent
from loupe.recipe import Recipe, read_recipe
from loupe.runs import open_run
from loupe.scoring import read_scores
from loupe.table import ALWAYS_TRAINED, HOLDOUT, Quarantined
from loupe.training import train


def again(run, table, members, weights, **more):
    return train(
        table, members, run, weights=weights, device="cpu", **{"executor": "serial"} | more
    )


def assert_equal_oof(first, second):
    mine, theirs = first.oof(), second.oof()
    assert list(mine) == list(theirs)
    for name, sheet in mine.items():
        assert sheet.ids == theirs[name].ids
        np.testing.assert_array_equal(sheet.probs, theirs[name].probs)


@pytest.fixture
def copy(finished, tmp_path):
    """The finished run, to be spoilt."""
    return shutil.copytree(finished.folder, tmp_path / "copy")


def unfinish(folder, *folds):
    for fold in folds:
        (folder / fold / "done.json").unlink()
    (folder / "scores.json").unlink()
    (folder / "oof.parquet").unlink()


def read_history(folder):
    with (folder / "history.csv").open(encoding="utf-8") as stream:
        return [(row["stage"], row["epoch"]) for row in csv.DictReader(stream)]


def test_a_finished_run_holds_every_row_once_and_its_scores(finished, exclusive):
    oof = finished.oof()
    assert list(oof) == ["full", "head"]
    for sheet in oof.values():
        assert sheet.ids == exclusive.ids
        assert sheet.folds.tolist() == exclusive.folds.tolist()
        assert sheet.held_out.all()
        assert sheet.readable.all()
        np.testing.assert_allclose(sheet.probs.sum(axis=1), 1, atol=1e-5)
    assert not np.array_equal(oof["full"].probs, oof["head"].probs)
    overall = {s.metric: s for s in read_scores(finished) if not s.class_name}
    right = (
        average_sheets(list(oof.values())).probs.argmax(1) == exclusive.targets.argmax(1)
    ).mean()
    assert overall["accuracy"].value == pytest.approx(right)
    assert {s.metric for s in read_scores(finished, "head")} >= {"accuracy"}
    assert finished.finished
    assert str(finished.folder) in finished.instructions_file.read_text()


def test_the_run_folder_holds_what_it_promises(finished):
    fold = finished.member("full").fold(0)
    assert read_history(fold.folder) == [("0", "1"), ("0", "2")]
    assert not fold.state.exists()
    assert "auto" not in finished.member("full").recipe().engine.model_dump().values()
    events = [json.loads(line)["event"] for line in finished.log.read_text().splitlines()]
    assert events[0] == "start"
    assert events[-1] == "finish"
    assert events.count("fold") == 4


def test_processes_give_the_same_bits(finished, exclusive, members, weights, tmp_path):
    run = again(tmp_path / "r", exclusive, members, weights, executor="processes", jobs=2)
    assert_equal_oof(run, finished)


def test_without_a_cache_the_bits_are_the_same(finished, exclusive, members, weights, tmp_path):
    run = again(tmp_path / "r", exclusive, members, weights, cache_bytes=0)
    assert_equal_oof(run, finished)


def test_a_finished_run_is_left_alone(finished, exclusive, members, weights, monkeypatch):
    monkeypatch.setattr("loupe.training.run_job", None)
    assert again(finished.folder, exclusive, members, weights) == finished


def test_only_the_missing_fold_is_trained_again(copy, finished, exclusive, members, weights):
    unfinish(copy, "full/fold-0")
    kept = (copy / "full/fold-1/last.safetensors").stat()
    run = again(copy, exclusive, members, weights)
    assert_equal_oof(run, finished)
    assert (copy / "full/fold-1/last.safetensors").stat().st_mtime_ns == kept.st_mtime_ns
    assert read_history(copy / "full/fold-0") == [("0", "1"), ("0", "2")]
    mine, theirs = ((r.member("full").fold(0).weights).read_bytes() for r in (run, finished))
    assert mine == theirs


def test_another_recipe_does_not_continue_a_run(copy, exclusive, members, weights):
    changed = members | {"head": members["head"].model_copy(update={"seed": 8})}
    with pytest.raises(RunError, match="another recipes"):
        again(copy, exclusive, changed, weights)


TWO_STAGES = {
    "network": {"name": "test_vit", "head": {"dropout": 0.1}},
    "input": {"size": 32},
    "augment": ["HorizontalFlip"],
    "stages": [{"train": "head"}, {"train": "all", "epochs": 2, "lr": 1e-3}],
    "early_stop": {"patience": 3},
    "control_share": 0.25,
    "batch_size": 4,
    "ema": 0.8,
    "engine": {"precision": "fp32", "channels_last": True},
}


@pytest.fixture(scope="module")
def two_stages(tmp_path_factory, binary, weights):
    members = {"m": Recipe.model_validate(TWO_STAGES)}
    return again(tmp_path_factory.mktemp("two") / "r", binary, members, weights)


def test_two_stages_for_a_column_that_stands_alone(two_stages, binary):
    sheet = two_stages.oof()["m"]
    assert sheet.probs.shape == (16, 1)
    assert not sheet.exclusive
    fold = two_stages.member("m").fold(0)
    assert read_history(fold.folder) == [("0", "0"), ("1", "1"), ("1", "2")]
    features = np.load(two_stages.member("m").features)
    assert features.shape[:2] == (16, 2)
    assert features.dtype == np.float32


@pytest.mark.parametrize(
    ("place", "number", "often"),
    [
        *itertools.product(("history", "state", "event"), (1, 2, 3), (0.0,)),
        # States that are hours apart: all is repeated from the first one.
        *itertools.product(("history", "event"), (2, 3), (3600.0,)),
    ],
)
def test_killed_in_any_epoch_the_same_command_ends_alike(  # noqa: PLR0917 (fixtures)
    two_stages, binary, weights, tmp_path, monkeypatch, place, number, often
):
    members = {"m": Recipe.model_validate(TWO_STAGES)}
    name = {"history": "_append_history", "state": "_save_state", "event": "append_event"}[place]
    original, calls = getattr(jobs, name), []

    def stop(*values, **more):
        calls.append(1)
        original(*values, **more)
        if len(calls) == number:
            raise KeyboardInterrupt

    monkeypatch.setattr(jobs, name, stop)
    monkeypatch.setattr(jobs, "SAVE_EVERY_S", often)
    with pytest.raises(KeyboardInterrupt):
        again(tmp_path / "r", binary, members, weights)
    monkeypatch.undo()
    monkeypatch.setenv("LOUPE_CACHE", str(tmp_path / "other cache"))
    run = again(tmp_path / "r", binary, members, weights)
    assert_equal_oof(run, two_stages)
    assert read_history(run.member("m").fold(0).folder) == [("0", "0"), ("1", "1"), ("1", "2")]


QUICK = read_recipe(
    {
        "network": {"name": "test_resnet"},
        "input": {"size": 32},
        "stages": [{"train": "head", "l2": 0.1}],
        "engine": {"precision": "fp32", "channels_last": False},
    }
)


def test_rows_set_aside_stand_in_the_sheet_with_their_reason(binary, weights, tmp_path):
    table = replace(binary, quarantined=(Quarantined(id="bad.jpg", reason="cut off"),))
    sheet = again(
        tmp_path / "r", table, {"q": QUICK}, weights, group="none", allow_leak=True
    ).oof()["q"]
    assert sheet.ids == (*binary.ids, "bad.jpg")
    assert sheet.errors == (*[None] * 16, "cut off")
    assert sheet.readable.tolist() == [True] * 16 + [False]
    assert sheet.held_out.tolist() == [True] * 16 + [False]


def test_a_split_that_leaks_stamps_its_scores(binary, weights, tmp_path):
    table = replace(binary, groups=None, folds=None)
    run = again(
        tmp_path / "r", table, {"q": QUICK}, weights, group="none", allow_leak=True, folds=2
    )
    (stamp,) = json.loads(run.scores_file.read_text())["stamps"]
    assert stamp.startswith("LEAK")
    assert open_run(run.folder).manifest()["stamps"] == [stamp]


def test_rows_always_trained_on_or_kept_apart_are_not_scored(binary, weights, tmp_path):
    folds = binary.folds.copy()
    folds[0], folds[1] = HOLDOUT, ALWAYS_TRAINED
    table = replace(binary, folds=folds, groups=None)
    sheet = again(
        tmp_path / "r", table, {"q": QUICK}, weights, group="none", allow_leak=True
    ).oof()["q"]
    assert sheet.ids == binary.ids[2:]


def test_no_row_kept_apart_or_held_out_is_trained_on(binary):
    folds = binary.folds.copy()
    folds[0], folds[1] = HOLDOUT, ALWAYS_TRAINED
    table = replace(binary, folds=folds)
    recipe = Recipe.model_validate(TWO_STAGES)
    rows, watched, inner = jobs._training_rows(table, recipe, 0)
    used = {*rows.tolist(), *watched.tolist()}
    assert used == set(np.flatnonzero((folds == 1) | (folds == ALWAYS_TRAINED)).tolist())
    assert not set(rows.tolist()) & set(watched.tolist())
    assert set(inner.tolist()) < set(rows.tolist())
    of = np.array(table.groups)
    assert not set(of[rows]) & set(of[watched])


def test_the_views_kept_are_the_fitted_ones_the_plain_one_and_those_of_prediction(members):
    assert list_views(members["head"]) == ("identity", "hflip")
    two = Recipe.model_validate(TWO_STAGES)
    assert list_views(two) == ("identity", "hflip")
    mirrored = read_recipe({"stages": [{"train": "head", "views": ["hflip"]}], "tta": ["vflip"]})
    assert list_views(mirrored) == ("hflip", "identity", "vflip")
    assert head_only(members["head"])
    assert not head_only(members["full"])


def test_what_cannot_be_trained_is_said_before_it_starts(binary, members, weights, tmp_path):
    with pytest.raises(RecipeError, match="must be the first"):
        read_recipe({"stages": [{"train": "all"}, {"train": "head"}]})
    unheld = replace(binary, folds=np.full(16, ALWAYS_TRAINED, np.int16))
    with pytest.raises(TableError, match="nothing would be held out"):
        again(tmp_path / "b", unheld, members, weights)
    nameless = replace(binary, targets=binary.targets * np.nan)
    with pytest.raises(TableError, match="no labels"):
        again(tmp_path / "c", nameless, members, weights)
    with pytest.raises(WeightsError, match="no folder"):
        again(tmp_path / "d", binary, members, tmp_path / "none")
    assert not any(tmp_path.iterdir())


def test_damaged_images_are_all_named(binary, weights, tmp_path):
    bad = [tmp_path / "x.jpg", tmp_path / "y.jpg"]
    for path in bad:
        path.write_bytes(b"\xff\xd8\xff")
    table = replace(binary, images=(*bad, *binary.images[2:]))
    with pytest.raises(TableError, match="2 of 16 images") as caught:
        again(tmp_path / "r", table, {"q": QUICK}, weights)
    assert all(str(path) in str(caught.value) for path in bad)


def test_an_engine_given_in_full_needs_no_probe(binary, weights, tmp_path):
    engine = {"precision": "fp32", "channels_last": False, "threads": [1, 1]}
    recipe = QUICK.model_copy(update={"engine": QUICK.engine.model_validate(engine)})
    assert again(tmp_path / "r", binary, {"q": recipe}, weights).finished


def spare(table, rows, *, weight=1.0):
    """Give some rows the weight 0, and all others one weight."""
    weights = np.full(len(table), weight, np.float32)
    weights[rows] = 0
    return replace(table, weights=weights)


# Odd weights show that nothing is rounded where the others weigh alike.
@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_rows_of_weight_0_teach_nothing_but_are_held_out(
    exclusive, members, tmp_path, weights, weight
):
    rows = [2, 3, 9]
    idle = spare(replace(exclusive, groups=None), rows, weight=weight)
    apart = exclusive.folds.copy()
    apart[rows] = HOLDOUT
    gone = replace(exclusive, groups=None, folds=apart)
    loose = {"group": "none", "allow_leak": True}
    mine = again(tmp_path / "a", idle, members, weights, **loose)
    theirs = again(tmp_path / "b", gone, members, weights, **loose)
    for name, fold in itertools.product(members, (0, 1)):
        first, second = (run.member(name).fold(fold).weights for run in (mine, theirs))
        assert first.read_bytes() == second.read_bytes()
    for name, sheet in mine.oof().items():
        assert sheet.ids == exclusive.ids
        assert sheet.readable.all()
        known = [row for row in range(len(exclusive)) if row not in rows]
        np.testing.assert_array_equal(sheet.probs[known], theirs.oof()[name].probs)
    accuracy = next(s.value for s in read_scores(mine) if s.metric == "accuracy")
    average = average_sheets(list(mine.oof().values())).probs.argmax(1)
    assert accuracy == pytest.approx((average == exclusive.targets.argmax(1)).mean())


def test_rows_of_weight_0_are_neither_watched_nor_judge_a_penalty(binary):
    recipe = Recipe.model_validate(TWO_STAGES)
    idle = np.flatnonzero(binary.folds == 1)[:2]
    used = {
        int(row) for part in jobs._training_rows(spare(binary, idle), recipe, 0) for row in part
    }
    assert used == {*np.flatnonzero(binary.folds == 1).tolist()} - {*idle.tolist()}
    refit = jobs._training_rows(spare(binary, idle), recipe, jobs.REFIT)
    assert not set(refit[0].tolist()) & set(idle.tolist())


def test_other_weights_have_a_mean_of_1_over_the_rows_trained_on(binary):
    weights = np.arange(16, dtype=np.float32)
    table = replace(binary, weights=weights)
    rows = np.flatnonzero(weights > 3)
    found = jobs._weigh_rows(table, rows)
    assert found[rows].mean() == pytest.approx(1)
    np.testing.assert_allclose(found, weights / weights[rows].mean())
    assert jobs._weigh_rows(spare(binary, [0, 1], weight=0.3), rows) is None


def test_a_fold_without_rows_to_train_on_is_refused(binary, weights, tmp_path):
    table = spare(binary, binary.folds == 1)
    with pytest.raises(RecipeError, match="without fold 0 no row is left to train on"):
        again(tmp_path / "r", table, {"q": QUICK}, weights)
    assert not (tmp_path / "r").exists()


class Heard(Silent):
    """Keeps what it is told."""

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def test_changed_labels_stamp_the_scores_and_dropped_ones_do_not(binary, weights, tmp_path):
    origins = ("dropped by rule", "kept by review", *[""] * 14)
    heard = Heard()
    run = again(
        tmp_path / "a", replace(spare(binary, [0]), label_origins=origins), {"q": QUICK}, weights,
        reporter=heard,
    )  # fmt: skip
    assert run.manifest()["stamps"] == []
    told = "1 row(s) have weight 0: not trained on, but held out, predicted and scored"
    assert told in heard.notes
    origins = ("relabelled by rule, was yes", "dropped by rule, was no", *[""] * 14)
    changed = replace(binary, label_origins=origins)
    run = again(tmp_path / "b", changed, {"q": QUICK}, weights)
    (stamp,) = json.loads(run.scores_file.read_text())["stamps"]
    assert stamp.startswith("RELABELLED: 2 label(s) are not as given")
    refit = again(tmp_path / "c", changed, {}, weights, refit=run.folder)
    assert [s.partition(":")[0] for s in refit.manifest()["stamps"]] == ["RELABELLED", "REFIT"]
