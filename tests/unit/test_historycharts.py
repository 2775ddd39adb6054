"""Learning curves come from the histories alone, whatever was watched and however members ended."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")

from loupe.blended import Blended, Source
from loupe.historycharts import describe_history, read_courses
from loupe.reportparts import Chart, Section, Text
from loupe.runs import Run


def charts(section: Section) -> dict[str, Chart]:
    return {block.name: block for block in section.blocks if isinstance(block, Chart)}


def words(section: Section) -> str:
    return " ".join(block.text for block in section.blocks if isinstance(block, Text))


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, finished: Any) -> Run:
    """A run of two stages whose folds ended at different epochs, its metric watched."""
    folder = tmp_path_factory.mktemp("watched") / "run"
    for fold, epochs in ((0, 4), (1, 3)):
        place = folder / "full" / f"fold-{fold}"
        place.mkdir(parents=True)
        lines = ["stage,epoch,lr,loss,val/loss,val/f1_macro"]
        losses = [0, 0.9, 0.5, 0.8, 0.9]
        lines += [f"0,{n},0.01,{1 / n},{losses[n]},0.{n}" for n in range(1, epochs + 1)]
        lines += [f"1,{epoch},0.001,0.2,0.95,nan" for epoch in (1, 2)]
        (place / "history.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    shutil.copy(finished.member("full").folder / "recipe.yaml", folder / "full")
    return Run(folder, ("full",), (0, 1))


@pytest.fixture(scope="module")
def drawn(watched: Run) -> Section:
    """Its section, drawn once."""
    return describe_history(watched)


def test_a_solved_head_has_a_sentence_and_a_trained_member_has_curves(finished: Any) -> None:
    section = describe_history(finished)
    assert section.key == "history"
    assert set(charts(section)) == {"learning-loss", "learning-rate"}
    loss = charts(section)["learning-loss"]
    # Two folds of two epochs; the head was solved and has no row.
    assert [row[:5] for row in loss.rows] == [
        ("full", fold, "1", epoch, "training") for fold in "01" for epoch in "12"
    ]
    stored = (finished.member("full").fold(0).history).read_text().splitlines()[1].split(",")[3]
    assert float(loss.rows[0][5]) == pytest.approx(float(stored), rel=1e-5)
    assert "head: the last layer was solved in one step" in words(section)
    event = next(e for e in map(json.loads, finished.log.read_text().splitlines()) if "l2" in e)
    assert f"{event['l2']:g}" in words(section)


def test_watched_rows_stand_beside_training_rows(drawn: Section) -> None:
    found = charts(drawn)
    assert list(found) == ["learning-loss", "learning-f1_macro", "learning-rate"]
    assert {row[4] for row in found["learning-loss"].rows} == {"training", "watched"}
    assert ">watched<" in found["learning-loss"].svg
    # Undefined values are left out, not drawn as 0.
    assert {row[2] for row in found["learning-f1_macro"].rows} == {"1"}
    assert "best 0.3 in epoch 3 of stage 1" in found["learning-f1_macro"].alt


def test_stages_are_named_and_the_mean_ends_with_the_shortest_fold(
    watched: Run, drawn: Section
) -> None:
    assert ">stage 2<" in charts(drawn)["learning-loss"].svg
    (course, *_) = read_courses(watched)
    assert [len(points) for points in course.folds.values()] == [6, 5]
    # Both folds have three epochs of the first stage and two of the second.
    assert "1 to 0.2 over 5 epochs" in words(drawn)


def test_a_watched_loss_that_rises_is_a_warning(drawn: Section) -> None:
    (warning,) = [
        block for block in drawn.blocks if isinstance(block, Text) and block.tone == "warn"
    ]
    assert "lowest in epoch 2 (0.5)" in warning.text
    assert "0.95" in warning.text


def test_many_members_keep_their_numbers_but_not_their_panels(
    tmp_path: Path, finished: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loupe.historycharts.PANELS", 2)  # twelve take a while to draw
    names = ("m0", "m1", "m2")
    for number, name in enumerate(names):
        shutil.copytree(finished.member("full").folder, tmp_path / name)
        path = tmp_path / name / "fold-0" / "history.csv"
        header, *lines = path.read_text(encoding="utf-8").splitlines()
        cells = [line.split(",") for line in lines]
        changed = [",".join([*c[:2], str((number + 1) / 10), *c[3:]]) for c in cells]
        path.write_text("\n".join([header, *changed]) + "\n", encoding="utf-8")
    found = charts(describe_history(Run(tmp_path, names, (0,))))
    for chart in found.values():
        assert {row[0] for row in chart.rows} == set(names)
        assert ">m1<" in chart.svg
        assert ">m2<" not in chart.svg
        assert "first 2 members" in chart.title


def test_members_of_one_schedule_share_a_panel(tmp_path: Path, finished: Any) -> None:
    for name in ("a", "b"):
        shutil.copytree(finished.member("full").folder, tmp_path / name)
    found = charts(describe_history(Run(tmp_path, ("a", "b"), (0, 1))))
    assert {row[0] for row in found["learning-rate"].rows} == {"a"}
    assert {row[0] for row in found["learning-loss"].rows} == {"a", "b"}


def test_a_blend_points_to_its_sources(tmp_path: Path) -> None:
    blend = Blended(
        sources=(Source(place="../one"), Source(place="../two")),
        weights=(0.5, 0.5),
        method="equal",
        metric="accuracy",
    )
    section = describe_history(Run(tmp_path, ("one", "two"), (0, 1), blend))
    assert not charts(section)
    assert "../one" in words(section)
