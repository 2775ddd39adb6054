"""What an audit found is shown as it is written, and what is next follows from it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")

from loupe.issuecharts import WORST, describe_issues, issues_file, reviews_file
from loupe.issues import Issue, write_issues
from loupe.reportparts import Chart, Commands, Gallery, Grid, Section, Text
from loupe.reviews import Review, append_review
from loupe.runs import Run, open_run

NOTHING = "<script>alert(1)</script>"


def words(section: Section | None) -> str:
    assert section is not None
    return " ".join(block.text for block in section.blocks if isinstance(block, Text))


def pick(section: Section | None, kind: type) -> list[Any]:
    assert section is not None
    return [block for block in section.blocks if isinstance(block, kind)]


@pytest.fixture
def run(tmp_path: Path, finished: Any) -> Run:
    shutil.copytree(finished.folder, tmp_path / "run")
    return open_run(tmp_path / "run")


def issue(run: Run, row: int = 0, **values: Any) -> Issue:
    found = Issue(
        id=run.table().ids[row],
        given="ok",
        suggested="defect",
        quality=row / 100,
        rules=("low_quality",),
        evidence="p(ok) 0.02, p(defect) 0.97",
    )
    return replace(found, **values)


def rate(given: str, value: float, class_name: str = "") -> dict[str, Any]:
    ends = {"rate": value, "low": value / 2, "high": value * 2}
    return {"class_name": class_name, "given": given, "rows": 8, **ends}


def write(run: Run, issues: list[Issue], **origin: Any) -> None:
    known = {"table": run.manifest()["table"], "rates": [], "stamps": []}
    write_issues(issues_file(run), issues, known | origin)


def test_a_run_that_was_not_audited_has_the_command(run: Run) -> None:
    section = describe_issues(run)
    assert section is not None
    assert "not audited" in words(section)
    (commands,) = pick(section, Commands)
    assert commands.lines == (f"loupe audit {run.folder}",)


def test_nothing_is_said_of_a_run_on_all_rows(run: Run) -> None:
    assert describe_issues(replace(run, folds=(-1,))) is None


def test_issues_are_counted_shown_and_reviewed_next(run: Run) -> None:
    count = WORST + 2
    listed = [issue(run, row) for row in range(count)]
    write(run, [*listed, issue(run, count, rules=())], rates=[rate("", 0.1), rate("ok", 0.2)])
    section = describe_issues(run)
    assert section is not None
    assert f"{count} label(s), in {count} of {len(run.table())} rows" in words(section)
    assert "10.0% of all labels are estimated wrong (5.0% to 20.0%)" in words(section)
    (gallery,) = pick(section, Gallery)
    assert len(gallery.pictures) == WORST
    assert gallery.pictures[0].data.startswith(b"\xff\xd8")
    assert gallery.pictures[0].lines[:3] == (run.table().ids[0], "given ok", "suggested defect")
    (grid,) = pick(section, Grid)
    assert grid.header == ("id", "given", "suggested", "quality", "why")
    (commands,) = pick(section, Commands)
    assert commands.lines == (f"loupe review {issues_file(run)}",)


def test_rates_are_sorted_and_the_csv_holds_all(run: Run) -> None:
    names = [f"class {number}" for number in range(80)]
    rates = [rate("", 0.2), *(rate(name, place / 200) for place, name in enumerate(names))]
    write(run, [issue(run)], rates=rates)
    (chart,) = pick(describe_issues(run), Chart)
    assert len(chart.rows) == len(rates)
    assert "Highest: class 79 39.5%" in chart.alt
    assert "class 79 (8)" in chart.svg
    assert "class 3 (8)" not in chart.svg


def test_classes_that_stand_alone_are_told_by_the_worst(run: Run) -> None:
    rates = [rate("", 0.1, "a"), rate("yes", 0.3, "a"), rate("", 0.2, NOTHING)]
    write(run, [issue(run, class_name="a")], rates=rates)
    section = describe_issues(run)
    assert section is not None
    assert f"of all labels of '{NOTHING}'" in words(section)
    (chart,) = pick(section, Chart)
    assert NOTHING not in chart.svg
    (grid,) = pick(section, Grid)
    assert grid.header[1] == "class"


def test_reviews_say_how_right_the_audit_was(run: Run) -> None:
    write(run, [issue(run, 0), issue(run, 1)])
    for row, decision, label in ((0, "relabel", "defect"), (1, "keep", "ok")):
        review = Review(
            time="2026-01-01T00:00:00+00:00",
            reviewer="",
            id=run.table().ids[row],
            class_name="",
            given="ok",
            suggested="defect",
            decision=decision,  # type: ignore[arg-type]
            label=label,
        )
        append_review(reviews_file(run), review)
        section = describe_issues(run)
        assert section is not None
        (commands,) = pick(section, Commands)
        left = commands.lines[0].startswith("loupe review")
        assert left == (row == 0)
    assert section is not None
    assert "looked at 2 of the 2 doubted labels and found 1 wrong: 50%" in words(section)
    assert commands.lines[0].startswith("loupe relabel TABLE ")


def test_a_clean_audit_is_good_news(run: Run) -> None:
    write(run, [])
    section = describe_issues(run)
    assert [block.tone for block in pick(section, Text)] == ["good"]


def test_issues_of_another_table_and_stamps_come_first(run: Run) -> None:
    write(run, [issue(run, id="gone.png")], table="0000", stamps=["LEAK: copies cross"])
    tones = [(block.tone, block.text) for block in pick(describe_issues(run), Text)]
    assert tones[0] == ("bad", "LEAK: copies cross")
    assert tones[1][0] == "bad"
    assert "another table" in tones[1][1]
    # A row that is not there has no picture.
    assert not pick(describe_issues(run), Gallery)


def test_a_file_without_its_origin_still_shows_its_issues(run: Run) -> None:
    write(run, [issue(run)])
    issues_file(run).with_suffix(".json").unlink()
    assert "1 label(s)" in words(describe_issues(run))
    assert json.loads(run.scores_file.read_text())["scores"]
