"""The verb `report`: which parts a page has, where its files stand, and what it refuses."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jinja2", reason="the extra 'report' is not installed")
pytest.importorskip("matplotlib", reason="the extra 'report' is not installed")

from click.testing import CliRunner

from loupe import reporting
from loupe.errors import InputError, LeakageError, RunError
from loupe.reportcommands import report as command
from loupe.reporting import name_runs, report
from loupe.reportparts import Section, Text
from loupe.runs import Run, open_run
from loupe.table import Table

ORDER = [
    "verdict", "data", "scores", "confusion", "curves", "thresholds", "history", "calibration",
    "mistakes", "predictions", "issues", "conformal", "facts", "reproduce",
]  # fmt: skip


@pytest.fixture
def run(finished: Any, tmp_path: Path) -> Run:
    shutil.copytree(finished.folder, tmp_path / "run")
    return open_run(tmp_path / "run")


@pytest.fixture
def hushed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the parts that take long; their own tests look at them."""
    slow = [
        "describe_curves", "describe_thresholds", "describe_calibration", "describe_conformal",
        "describe_confusion", "describe_predictions", "describe_mistakes",
    ]  # fmt: skip
    for name in slow:
        key = name.removeprefix("describe_")
        made = Section(key=key, title=key, blocks=(Text(text="Hello."),))
        monkeypatch.setattr(reporting, name, lambda *_, made=made, **__: made)


def test_a_run_has_all_parts_in_their_order(run: Run) -> None:
    made = report(run.folder, maps=False)
    assert made.path == run.folder / "report.html"
    assert made.figures == run.folder / "figures"
    assert made.size == made.path.stat().st_size < 15e6
    assert [section.key for section in made.sections] == ORDER
    assert set(made.seconds) >= {*ORDER, "page", "blend"}
    assert "could not be made" not in made.path.read_text(encoding="utf-8")
    names = {path.suffix for path in made.figures.iterdir()}
    assert names == {".csv", ".png", ".svg"}
    with (made.figures / "mistakes.csv").open(encoding="utf-8") as file:
        assert "id" in next(csv.reader(file))


@pytest.mark.usefixtures("hushed")
def test_a_part_that_fails_says_why_and_the_page_is_written(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Section:
        raise InputError("the rows are odd.")

    monkeypatch.setattr(reporting, "describe_curves", fail)
    made = report(run, check=False)
    (odd,) = [section for section in made.sections if section.key == "curves"]
    assert odd.blocks == (Text(text="This part could not be made: the rows are odd.", tone="warn"),)
    monkeypatch.setattr(reporting, "describe_curves", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        report(run, check=False)


def test_rows_that_cannot_be_trusted_do_not_lose_the_page(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise LeakageError("a group crosses folds.")

    monkeypatch.setattr(reporting, "gather_evidence", fail)
    made = report(run, check=False)
    (scores,) = [section for section in made.sections if section.key == "scores"]
    text = "This part could not be made: a group crosses folds."
    assert scores.blocks == (Text(text=text, tone="warn"),)
    assert {"verdict", "data", "facts", "reproduce"} <= {section.key for section in made.sections}


@pytest.mark.usefixtures("hushed")
def test_images_that_are_gone_leave_the_page_without_pictures(run: Run, tmp_path: Path) -> None:
    gone = replace(
        run.table(), images=tuple(tmp_path / "gone" / path.name for path in run.table().images)
    )
    made = report(gone, out=tmp_path / "gone.html")
    assert made.path.is_file()


def test_a_table_is_described_before_any_training(binary: Table, tmp_path: Path) -> None:
    made = report(binary, out=tmp_path / "tiles.report.html")
    assert [section.key for section in made.sections] == ["data"]
    assert made.figures == tmp_path / "tiles.figures"
    with pytest.raises(InputError, match="out="):
        report(binary)


def test_a_run_that_draws_masks_has_its_own_parts(segmented: Any, tmp_path: Path) -> None:
    made = report(segmented, out=tmp_path / "masks.html", check=False)
    keys = [section.key for section in made.sections]
    assert keys[:3] == ["verdict", "data", "masks"]
    assert {"history", "facts", "reproduce"} <= set(keys)
    assert made.figures == tmp_path / "masks.figures"
    assert not (segmented.folder / "report.html").exists()


def test_a_cascade_compares_the_gates_of_masks(
    run: Run, segmented: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="draws no masks"):
        report(run, cascade=tmp_path / "cascade.yaml")
    asked: list[Any] = []

    def refuse(source: Any) -> None:
        asked.append(source)
        raise InputError("no such cascade")

    monkeypatch.setattr(reporting, "try_variants", refuse)
    made = report(segmented, out=tmp_path / "masks.html", check=False, cascade="cascade.yaml")
    assert asked == ["cascade.yaml"]
    assert "no such cascade" in made.path.read_text(encoding="utf-8")


def test_runs_are_compared(run: Run, finished: Any, tmp_path: Path) -> None:
    made = report([run, finished], out=tmp_path / "both.html")
    keys = [section.key for section in made.sections]
    assert [key for key in keys if key != "classes"] == [
        "verdict", "scores", "differences", "recipes", "reproduce",
    ]  # fmt: skip
    assert (tmp_path / "both.figures" / "compared-differences.csv").is_file()
    with pytest.raises(InputError, match="at most"):
        report([run] * 9)


def test_what_is_no_finished_run_is_refused(run: Run) -> None:
    run.scores_file.unlink()
    with pytest.raises(RunError, match="not finished"):
        report(run)
    with pytest.raises(InputError, match="nothing"):
        report([])


def test_runs_are_named_by_what_tells_them_apart() -> None:
    runs = [Run(Path(place), (), ()) for place in ("/a/x/run", "/b/x/run", "/b/y")]
    assert name_runs(runs) == ("a/x/run", "b/x/run", "/b/y")
    assert name_runs(runs[1:]) == ("run", "y")
    assert name_runs([runs[0]] * 2) == ("/a/x/run (1)", "/a/x/run (2)")


@pytest.mark.usefixtures("hushed")
def test_the_command_says_what_it_wrote_and_refuses_what_has_no_effect(
    run: Run, tiles: Path
) -> None:
    told = CliRunner().invoke(command, [str(run.folder), "--no-check"])
    assert told.exit_code == 0, told.output
    assert f"wrote {run.folder / 'report.html'}" in told.output
    refused = CliRunner().invoke(command, [str(run.folder), "--any-class", "x"])
    assert refused.exit_code == 2
    assert "--any-class" in refused.output
    page = run.folder.parent / "labels.report.html"
    options = ["--images", str(tiles / "images"), "--out", str(page), "--no-check"]
    told = CliRunner().invoke(command, [str(tiles / "classes.csv"), *options])
    assert told.exit_code == 0, told.output
    assert page.is_file()
