"""The verdict says stored scores in words, and is never kinder than they are."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loupe.heldout import gather_evidence
from loupe.issues import Issue, IssueSheet
from loupe.reportparts import Commands, Section, Text
from loupe.runs import Run, open_run
from loupe.verdicts import write_verdict


def words(section: Section) -> list[str]:
    return [f"{b.tone}: {b.text}" for b in section.blocks if isinstance(b, Text)]


def lines(section: Section) -> list[str]:
    return [line for b in section.blocks if isinstance(b, Commands) for line in b.lines]


@pytest.fixture
def run(tmp_path: Path, finished: Any) -> Run:
    shutil.copytree(finished.folder, tmp_path / "run")
    return open_run(tmp_path / "run")


def set_scores(run: Run, **changes: float | tuple[float, float, float]) -> None:
    """Store other scores: of all classes together and of each; one number is all three."""
    values = json.loads(run.scores_file.read_text(encoding="utf-8"))
    listed = values["scores"]["all"]
    for metric, change in changes.items():
        value, low, high = change if isinstance(change, tuple) else (change,) * 3
        for name in ("", *run.table().classes):
            listed[:] = [e for e in listed if (e["metric"], e["class_name"]) != (metric, name)]
            ends = {"value": value, "low": low, "high": high}
            about = {"metric": metric, "class_name": name, "n": 16, "note": ""}
            listed.append({**about, **ends, "fold_mean": value, "fold_std": 0.0})
    run.scores_file.write_text(json.dumps(values), encoding="utf-8")


def set_table(run: Run, **changes: Any) -> Run:
    from loupe.table import write_snapshot

    write_snapshot(replace(run.table(), **changes), run.folder / "table.parquet")
    return run


def test_evidence_gives_the_scores_of_the_rule(run: Run) -> None:
    evidence = gather_evidence([run.folder])
    section = write_verdict(run, evidence)
    assert section.key == "verdict"
    report = json.loads(run.rule_file.read_text(encoding="utf-8"))["report"]
    right = next(s for s in report["scores"] if s["metric"] == "accuracy")
    assert f"about {100 * right['value']:.0f} (" in words(section)[1]
    assert "Trained on 16 images of 'classes.csv', 2 classes ('ok', 'defect'; " in words(section)[0]
    assert "in 8 groups" in words(section)[0]
    assert "never saw (2 folds)" in words(section)[0]


@pytest.mark.parametrize(
    ("accuracy", "tone"),
    [((0.9, 0.85, 0.95), "good"), ((0.45, 0.42, 0.5), "warn"), ((0.55, 0.3, 0.8), "bad")],
)
def test_an_answer_must_beat_the_most_frequent_class(
    run: Run, accuracy: tuple[float, float, float], tone: str
) -> None:
    set_scores(run, accuracy=accuracy, prevalence=0.4)
    found = words(write_verdict(run))[1]
    assert found.startswith(f"{tone}: Of 100 new images like these, about ")
    assert "Always answering 'ok', the most frequent class, would be right for 40." in found


def test_rare_errors_are_told_of_a_thousand(run: Run) -> None:
    set_scores(run, accuracy=(0.994, 0.99, 0.998), prevalence=0.5)
    assert "Of 1,000 new images like these, about 994 (990 to 998)" in words(write_verdict(run))[1]


def test_what_is_left_to_a_person_is_told(run: Run) -> None:
    set_scores(run, accuracy=0.8, prevalence=0.5, accepted=0.85, accuracy_accepted=0.96)
    found = " ".join(words(write_verdict(run)))
    assert "answers for 85 (85 to 85) of 100 and leaves the rest to a person" in found


def test_one_class_is_told_by_what_is_found_and_flagged(run: Run) -> None:
    table = run.table()
    set_table(run, classes=("defect",), targets=table.targets[:, 1:], exclusive=False)
    set_scores(run, recall=(0.87, 0.79, 0.93), precision=(0.91, 0.85, 0.95), prevalence=0.3)
    set_scores(run, average_precision=(0.9, 0.8, 0.95))
    said = words(write_verdict(run))[1]
    assert said.startswith(
        "good: Of 100 images with 'defect' it finds about 87 (79 to 93); of 100 "
    )
    assert "about 91 (85 to 95) have it. 'defect' is on 30 of 100" in said
    set_scores(run, average_precision=(0.4, 0.2, 0.6))
    assert words(write_verdict(run))[1].startswith("bad: ")
    set_scores(run, precision=float("nan"), average_precision=(0.9, 0.8, 0.95))
    said = words(write_verdict(run))[1]
    assert said.startswith("bad: ")
    assert "it flags none at all" in said


def test_several_classes_are_told_together(run: Run) -> None:
    table = run.table()
    targets = table.targets[:, [0, 1, 1]]
    set_table(run, classes=("a", "b", "<b>"), targets=targets, exclusive=False)
    set_scores(run, recall_micro=0.7, precision_micro=0.6, prevalence=0.3, average_precision=0.5)
    set_scores(run, f1=(0.6, 0.5, 0.7))
    said = words(write_verdict(run))
    assert said[1].startswith("good: Of 100 classes that are there it names about 70 (70 to 70)")
    assert "It tells 3 of 3 classes from the rest clearly better than chance" in said[1]
    assert "weakest: 'a' (F1 0.600 (0.500 to 0.700))" in said[2]
    set_scores(run, average_precision=0.2)
    assert words(write_verdict(run))[1].startswith("bad: ")


@pytest.mark.parametrize(
    ("dice", "tone"),
    [((0.8, 0.75, 0.85), "good"), ((0.72, 0.65, 0.8), "warn"), ((0.7, 0.6, 0.8), "bad")],
)
def test_masks_must_beat_empty_ones(
    tmp_path: Path, segmented: Any, dice: tuple[float, float, float], tone: str
) -> None:
    shutil.copytree(segmented.folder, tmp_path / "masks")
    run = open_run(tmp_path / "masks")
    set_scores(run, dice_per_pair_empty1=dice, all_empty=0.7, recall=(0.21, 0.12, 0.31))
    section = write_verdict(run)
    said = words(section)
    assert "Of 100 masks that should be drawn, it draws about 21 (12 to 31)" in said[1]
    assert said[2].startswith(f"{tone}: Mean Dice ")
    assert ("loupe cascade CASCADE.yaml" in lines(section)) == (tone != "good")
    assert lines(section)[-1].startswith("loupe segment")


def test_what_is_next_follows_from_what_is_known(run: Run) -> None:
    assert lines(write_verdict(run)) == [
        f"loupe audit {run.folder}",
        f"loupe decide {run.folder} --precision 0.99",
        f"loupe score {run.folder} NEW_TABLE",
        f"loupe predict {run.folder} IMAGES --out predictions.csv",
    ]
    issue = Issue(id="a", given="ok", quality=0.1, rules=("low_quality",))
    audited = lines(write_verdict(run, issues=IssueSheet(issues=(issue,), origin={})))
    assert audited[0] == f"loupe review {run.folder / 'issues.csv'}"
    clean = lines(write_verdict(run, issues=IssueSheet(issues=(), origin={})))
    assert clean[0].startswith("loupe decide")


def test_a_run_on_all_rows_says_whose_scores_these_are(run: Run) -> None:
    path = run.folder / "manifest.json"
    values = json.loads(path.read_text(encoding="utf-8")) | {"folds": [-1], "refit_of": "runs/a"}
    path.write_text(json.dumps(values), encoding="utf-8")
    section = write_verdict(open_run(run.folder))
    assert "those of the cross-validated run 'runs/a'" in words(section)[0]
    assert not any("decide" in line or "audit" in line for line in lines(section))


def test_nothing_to_worry_about_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loupe.verdicts.list_worries", lambda _case: ())
    assert any(said.startswith("good: Nothing stands out") for said in words(write_verdict(run)))
