"""Runs in TensorBoard and MLflow, read back by the libraries themselves."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loupe.progress import Silent
from loupe.recipe import Recipe
from loupe.runs import Run
from loupe.scoring import read_scores
from loupe.tracking import track_finished
from loupe.training import train

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
STRANGE = "<script>alert(1)</script>"


class Notes(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An MLflow store of files; what MLflow makes by default, a database, takes seconds."""
    pytest.importorskip("mlflow")
    pytest.importorskip("tensorboard")
    uri = (tmp_path / "mlruns").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    monkeypatch.setattr("loupe.tracking._EVERY_S", 0.02)
    return uri


@pytest.fixture
def run(finished: Run, tmp_path: Path) -> Iterator[Run]:
    shutil.copytree(finished.folder, tmp_path / "run")
    return replace(finished, folder=tmp_path / "run")


def rename_class(run: Run, name: str) -> None:
    found = json.loads(run.scores_file.read_text())
    for scores in found["scores"].values():
        for each in scores:
            if each["class_name"] == "ok":
                each["class_name"] = name
    run.scores_file.write_text(json.dumps(found))


def read_events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    found.Reload()
    return found


def read_runs(store: str) -> dict[str, Any]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("loupe")
    assert experiment is not None
    return {each.info.run_name: each for each in client.search_runs([experiment.experiment_id])}


def steps(store: str, key: str, metric: str) -> list[int]:
    from mlflow.tracking import MlflowClient

    return [each.step for each in MlflowClient(store).get_metric_history(key, metric)]


def test_event_files_hold_epochs_scores_and_settings(run):
    rename_class(run, STRANGE)
    notes = Notes()
    track_finished(run, ["tensorboard"], notes)
    folder = run.folder / "tensorboard"
    assert notes.texts == [f"tensorboard: tensorboard --logdir {folder}"]
    epochs = read_events(folder / "full" / "fold-1")
    lines = run.member("full").fold(1).history.read_text().splitlines()[1:]
    losses = epochs.Scalars("loss")
    assert [each.step for each in losses] == [1, 2]
    assert [each.value for each in losses] == pytest.approx(
        [float(line.split(",")[3]) for line in lines]
    )
    assert read_events(folder / "head" / "fold-0").Tags()["scalars"] == ["loss", "lr", "l2"]

    scores = {(s.metric, s.class_name): s for s in read_scores(run)}
    first = next(iter(scores.values()))
    for end, value in (("", first.value), ("/low", first.low), ("/high", first.high)):
        (shown,) = read_events(folder / f"scores{end}").Scalars(f"score/{first.metric}")
        assert shown.value == pytest.approx(value)
    found = read_events(folder / "scores")
    metric = next(metric for metric, name in scores if name == STRANGE)
    assert f"score {metric}/{STRANGE}" in found.Tags()["scalars"]
    tags = found.Tags()["tensors"]
    assert {f"{tag}/text_summary" for tag in ("recipe/full", "recipe/head", "table")} <= set(tags)
    table = found.Tensors("table/text_summary")[0].tensor_proto.string_val[0].decode()
    assert STRANGE not in table
    assert "&#60;script&#62;" in table
    assert "full.optimizer.lr" in str(found.PluginTagToContent("hparams"))
    folds = read_events(folder / "scores" / "folds").Scalars(f"score/{first.metric}")
    assert [each.step for each in folds] == [0, 1]


def test_mlflow_holds_epochs_scores_settings_and_files(run, store):
    rename_class(run, STRANGE)
    notes = Notes()
    track_finished(run, ["mlflow"], notes)
    assert notes.texts == [f"mlflow: {store}, experiment 'loupe'"]
    found = read_runs(store)
    assert found.keys() == {
        "run", "full/fold-0", "full/fold-1", "head/fold-0", "head/fold-1",
    }  # fmt: skip
    assert {each.info.status for each in found.values()} == {"FINISHED"}
    parent, nested = found["run"], found["full/fold-1"]
    assert nested.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert nested.data.tags["loupe.member"] == "full"
    assert steps(store, nested.info.run_id, "loss") == [1, 2]
    assert parent.data.params["full.stages.0.epochs"] == "2"
    assert parent.data.params["full.engine.channels_last"] == "false"
    assert parent.data.tags["loupe.task"] == "classify"
    for each in read_scores(run):
        if not each.class_name and each.value == each.value:
            assert parent.data.metrics[f"score/{each.metric}"] == pytest.approx(each.value)
            assert parent.data.metrics[f"low/{each.metric}"] == pytest.approx(each.low)
    assert any(key.startswith("score full/") for key in parent.data.metrics)
    # Names of classes are anybody's text, names of metrics are not.
    assert any("_script_alert_1___script_-" in key for key in parent.data.metrics)
    files = Path(parent.info.artifact_uri.removeprefix("file://"))
    assert (files / "scores.json").read_bytes() == run.scores_file.read_bytes()
    assert {path.name for path in files.iterdir()} == {
        "full", "head", "log.jsonl", "rule.json", "scores.json", "versions.json",
    }  # fmt: skip
    assert (files / "full" / "recipe.yaml").is_file()


def test_what_is_known_already_is_not_told_again(run, store):
    for _ in range(2):
        track_finished(run, ["tensorboard", "mlflow"], Silent())
    events = read_events(run.folder / "tensorboard" / "full" / "fold-0")
    assert [each.step for each in events.Scalars("loss")] == [1, 2]
    found = read_runs(store)
    assert len(found) == 5
    assert steps(store, found["full/fold-0"].info.run_id, "loss") == [1, 2]
    assert len(list((run.folder / "tensorboard" / "scores").glob("*tfevents*"))) == 1


def test_an_interrupted_training_goes_on_where_its_trackers_are(
    exclusive, members, weights, tmp_path, store, monkeypatch
):
    recipe = members["full"].model_dump()
    recipe["stages"] = [{"train": "all", "epochs": 4, "lr": 1e-3}]
    member = {"full": Recipe.model_validate(recipe)}
    how = {"weights": weights, "executor": "serial", "device": "cpu"}
    both = ("tensorboard", "mlflow")

    def interrupt(run: Run, job: Any, task: Any, epoch: Any, log: Any = None) -> None:
        keep(run, job, task, epoch)
        if job.fold == 1 and epoch.epoch == 3:
            raise KeyboardInterrupt

    import loupe.jobs

    keep = loupe.jobs._log_epoch
    monkeypatch.setattr("loupe.jobs._log_epoch", interrupt)
    # No state is saved so early: all three epochs are repeated, and logged again.
    with pytest.raises(KeyboardInterrupt):
        train(exclusive, member, tmp_path / "run", track=both, **how)
    found = read_runs(store)
    assert found["run"].info.status == found["full/fold-1"].info.status == "KILLED"
    assert found["full/fold-0"].info.status == "FINISHED"
    assert steps(store, found["full/fold-1"].info.run_id, "loss") == [1, 2, 3]

    monkeypatch.setattr("loupe.jobs._log_epoch", keep)
    run = train(exclusive, member, tmp_path / "run", track=both, **how)
    assert len(run.log.read_text().split('"epoch", "member"')) - 1 == 4 + 3 + 4
    found = read_runs(store)
    assert len(found) == 3
    assert {each.info.status for each in found.values()} == {"FINISHED"}
    for fold in (0, 1):
        assert steps(store, found[f"full/fold-{fold}"].info.run_id, "loss") == [1, 2, 3, 4]
        events = read_events(run.folder / "tensorboard" / "full" / f"fold-{fold}")
        assert [each.step for each in events.Scalars("loss")] == [1, 2, 3, 4]
    # What is tracked is trained alike.
    plain = train(exclusive, member, tmp_path / "plain", **how)
    assert plain.oof()["full"].probs.tobytes() == run.oof()["full"].probs.tobytes()


def test_event_files_cut_short_by_a_crash_are_completed(run):
    track_finished(run, ["tensorboard"], Silent())
    folder = run.folder / "tensorboard" / "full" / "fold-0"
    (file,) = folder.glob("*tfevents*")
    file.write_bytes(file.read_bytes()[:-10])
    track_finished(run, ["tensorboard"], Silent())
    shown = read_events(folder)
    assert {tag: [each.step for each in shown.Scalars(tag)] for tag in ("loss", "lr")} == {
        "loss": [1, 2],
        "lr": [1, 2],
    }


def test_a_run_that_mlflow_lost_is_told_anew(run, store):
    from mlflow.tracking import MlflowClient

    track_finished(run, ["mlflow"], Silent())
    before = read_runs(store)
    for each in before.values():
        MlflowClient(store).delete_run(each.info.run_id)
    track_finished(run, ["mlflow"], Silent())
    after = read_runs(store)
    assert after.keys() == before.keys()
    assert after["run"].info.run_id != before["run"].info.run_id


def test_a_store_that_cannot_be_written_is_one_note(run, monkeypatch):
    notes = Notes()
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE")
    track_finished(run, ["mlflow"], notes)
    assert len(notes.texts) == 1
    assert notes.texts[0].startswith("! mlflow: tracking stopped (")


@pytest.mark.slow
def test_a_database_as_mlflow_makes_it_by_default(run, tmp_path, monkeypatch):
    pytest.importorskip("sqlalchemy")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        track_finished(run, ["mlflow"], Silent())
    found = read_runs(uri)
    assert len(found) == 5
    assert steps(uri, found["full/fold-1"].info.run_id, "loss") == [1, 2]
