"""What trackers are told, and that none of them can stop a training."""

import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from loupe.errors import InputError, MissingExtraError
from loupe.progress import Silent
from loupe.records import append_event
from loupe.runs import Run
from loupe.trackers import Course, Status, flatten, flatten_recipes, read_courses
from loupe.tracking import check_trackers, track_finished, tracking


class Notes(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


class Told:
    """A tracker that keeps what it is told, and fails where it should."""

    place = "here"

    def __init__(self, fails: str = "") -> None:
        self.fails, self.calls = fails, []
        self.steps: dict[str, list[int]] = {}

    def begin(self) -> None:
        self._call("begin")

    def tell(self, course: Course) -> None:
        self._call("tell")
        self.steps[course.name] = [point.step for point in course.points]

    def finish(self) -> None:
        self._call("finish")

    def close(self, status: Status) -> None:
        self.calls.append(status)

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name == self.fails:
            raise OSError(f"no {name}\nmore")


@pytest.fixture
def run(finished: Run, tmp_path: Path) -> Iterator[Run]:
    shutil.copytree(finished.folder, tmp_path / "run")
    return replace(finished, folder=tmp_path / "run")


def use(monkeypatch: pytest.MonkeyPatch, tracker: object) -> None:
    monkeypatch.setattr("loupe.tracking._open_tracker", lambda *_: tracker)
    monkeypatch.setattr("loupe.tracking._EVERY_S", 0.01)


def test_unknown_trackers_are_refused():
    with pytest.raises(InputError, match="did you mean 'mlflow'"):
        check_trackers(["mlfow"])
    assert check_trackers(("mlflow", "tensorboard", "mlflow")) == ("mlflow", "tensorboard")
    assert check_trackers("mlflow") == ("mlflow",)


def test_a_missing_library_is_told_before_any_training(monkeypatch, exclusive, tmp_path):
    from loupe.training import train

    monkeypatch.setattr("loupe.tracking._LIBRARIES", {"mlflow": ("no_such_library",)})
    with pytest.raises(MissingExtraError, match=r"pip install 'loupe-vision\[track\]'"):
        train(exclusive, out=tmp_path / "run", track=("mlflow",))
    assert not (tmp_path / "run").exists()


def test_courses_hold_what_history_and_log_say(run):
    found = {course.name: course for course in read_courses(run)}
    assert list(found) == ["full/fold-0", "full/fold-1", "head/fold-0", "head/fold-1"]
    full, head = found["full/fold-0"], found["head/fold-1"]
    assert [point.step for point in full.points] == [1, 2]
    assert full.points[0].values.keys() == {"loss", "lr"}
    assert full.points[0].time_s < full.points[1].time_s
    # The penalty of a solved head stands in the log alone.
    assert head.points[0].values.keys() == {"loss", "lr", "l2"}


def test_an_epoch_whose_line_of_the_log_is_missing_waits_while_the_job_is_under_way(run):
    fold = run.member("full").fold(1)
    fold.done_mark.unlink()
    run.log.write_text("")
    append_event(run.log, "epoch", member="full", fold=1, stage=0, epoch=1, loss=1.0, lr=0.1)
    with run.log.open("a") as stream:
        stream.write('{"event": "epoch", "me')
    found = {course.name: course for course in read_courses(run)}
    assert [point.step for point in found["full/fold-1"].points] == [1]
    assert not found["full/fold-1"].done
    # Of a job that is done all is told, whatever became of the log.
    assert [point.step for point in found["full/fold-0"].points] == [1, 2]


def test_values_that_are_not_numbers_are_left_out(run):
    history = run.member("full").fold(0).history
    history.write_text("stage,epoch,lr,loss,val/pr_auc\n0,1,0.1,0.5,nan\n0,2,0.1,0.4,\n")
    points = next(read_courses(run)).points
    assert [point.values for point in points] == [
        {"lr": 0.1, "loss": 0.5},
        {"lr": 0.1, "loss": 0.4},
    ]


def test_settings_are_plain_values_named_by_their_member_if_there_are_several(run):
    flat = flatten_recipes(run)
    assert flat["full.stages.0.epochs"] == 2
    assert flat["full.engine.channels_last"] is False
    assert flat["head.init_from"] == "null"
    assert "stages.0.epochs" in flatten_recipes(replace(run, members=("full",)))
    assert flatten({"a": {}, "b": [], "c": None}) == {"a": "{}", "b": "[]", "c": "null"}


def test_a_tracker_is_told_all_and_how_it_ended(run, monkeypatch):
    tracker, notes = Told(), Notes()
    use(monkeypatch, tracker)
    track_finished(run, ["mlflow"], notes)
    assert tracker.calls == ["begin", *["tell"] * 4, "finish", "FINISHED"]
    assert tracker.steps["full/fold-1"] == [1, 2]
    assert notes.texts == ["mlflow: here"]


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt, "KILLED"), (OSError, "FAILED")])
def test_an_interrupted_training_is_not_told_as_finished(run, monkeypatch, error, status):
    tracker = Told()
    use(monkeypatch, tracker)
    with pytest.raises(error), tracking(run, ["mlflow"], Silent()):
        raise error
    assert tracker.calls[-1] == status
    assert "finish" not in tracker.calls
    assert tracker.steps["full/fold-1"] == [1, 2]


@pytest.mark.parametrize("place", ["begin", "tell", "finish"])
def test_a_failing_tracker_is_noted_once_and_stops_nothing(run, monkeypatch, place):
    tracker, notes = Told(place), Notes()
    use(monkeypatch, tracker)
    went_on = False
    with tracking(run, ["mlflow"], notes):
        went_on = True
    assert went_on
    warned = [text for text in notes.texts if text.startswith("!")]
    assert len(warned) == 1
    assert f"(no {place})" in warned[0]
    assert tracker.calls[-1] == "FAILED"


def test_a_tracker_that_hangs_is_left_alone(run, monkeypatch):
    ever, notes = threading.Event(), Notes()
    tracker = Told()
    tracker.begin = ever.wait
    use(monkeypatch, tracker)
    monkeypatch.setattr("loupe.tracking._PATIENCE_S", 0.05)
    track_finished(run, ["tensorboard"], notes)
    ever.set()
    assert notes.texts[0].startswith("! tensorboard: tracking stopped (it has not ended after 0.05")


def test_epochs_are_told_while_they_are_written(run, monkeypatch):
    history = run.member("full").fold(0).history
    lines = history.read_text().splitlines(keepends=True)
    history.write_text("".join(lines[:2]))
    told, tracker = threading.Event(), Told()
    keep = tracker.tell

    def tell(course: Course) -> None:
        keep(course)
        if tracker.steps.get("full/fold-0") == [1, 2]:
            told.set()

    tracker.tell = tell
    use(monkeypatch, tracker)
    with tracking(run, ["mlflow"], Silent()):
        history.write_text("".join(lines))
        append_event(run.log, "epoch", member="full", fold=0, stage=0, epoch=2)
        assert told.wait(20)
    assert json.loads(run.scores_file.read_text())["scores"]


def test_a_password_is_not_told(run, monkeypatch):
    notes = Notes()

    def fail(*_: object) -> None:
        raise OSError("no answer from https://me:secret@server:5000/api")

    monkeypatch.setattr("loupe.tracking._open_tracker", fail)
    track_finished(run, ["mlflow"], notes)
    assert "https://server:5000/api" in notes.texts[0]
    assert "secret" not in notes.texts[0]
