"""The verdict says stored scores in words, and is never kinder than they are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loupe.checking import CheckReport
from loupe.findings import Finding
from loupe.heldout import gather_evidence
from loupe.issues import Issue, IssueSheet
from loupe.reportparts import Commands, Section, Text
from loupe.runs import Run, open_run
from loupe.table import ALWAYS_TRAINED, HOLDOUT
from loupe.verdicts import write_verdict

Ends = tuple[float, float, float]


def words(section: Section) -> list[str]:
    return [f"{b.tone}: {b.text}" for b in section.blocks if isinstance(b, Text)]


def lines(section: Section) -> list[str]:
    return [line for b in section.blocks if isinstance(b, Commands) for line in b.lines]


@pytest.fixture
def run(tmp_path: Path, finished: Any) -> Run:
    shutil.copytree(finished.folder, tmp_path / "run")
    return open_run(tmp_path / "run")


def set_scores(
    run: Run, rows: int = 4000, names: Sequence[str] = (), **changes: float | Ends
) -> None:
    """Store other scores: of all classes together and of each; one number is all three."""
    values = json.loads(run.scores_file.read_text(encoding="utf-8"))
    listed = values["scores"]["all"]
    for metric, change in changes.items():
        value, low, high = change if isinstance(change, tuple) else (change,) * 3
        for name in names or ("", *run.table().classes):
            listed[:] = [e for e in listed if (e["metric"], e["class_name"]) != (metric, name)]
            ends = {"value": value, "low": low, "high": high}
            about = {"metric": metric, "class_name": name, "n": rows, "note": ""}
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
    assert f"Of 16 new images like these, {16 * right['value']:.0f} (" in words(section)[1]
    assert "A table of 16 images of 'classes.csv', 2 classes ('ok', 'defect'; " in words(section)[0]
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


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (8, "Of 8 new images like these, 8 (8 to 8) get"),
        (500, "Of 500 new images like these, 497 (495 to 499) get"),
    ],
)
def test_no_more_rows_are_told_of_than_there_are(run: Run, rows: int, told: str) -> None:
    set_scores(run, rows, accuracy=(0.994, 0.99, 0.998), prevalence=0.5)
    assert told in words(write_verdict(run))[1]


@pytest.mark.parametrize("stamp", ["LEAK: copies", "OPTIMISTIC: peeked"])
def test_scores_that_are_too_kind_are_not_praised(run: Run, stamp: str) -> None:
    set_scores(run, accuracy=0.97, prevalence=0.5)
    assert words(write_verdict(run))[1].startswith("good: ")
    path = run.folder / "manifest.json"
    values = json.loads(path.read_text(encoding="utf-8")) | {"stamps": [stamp]}
    path.write_text(json.dumps(values), encoding="utf-8")
    said = words(write_verdict(open_run(run.folder)))
    assert said[1].startswith("warn: ")
    assert not any(each.startswith("good: ") for each in said)


def test_rows_that_were_only_trained_on_are_counted_once(run: Run) -> None:
    folds = np.array([ALWAYS_TRAINED] * 8 + [0] * 6 + [HOLDOUT] * 2, np.int16)
    said = words(write_verdict(set_table(run, folds=folds)))[0]
    assert "A table of 14 images" in said
    assert ": 6 were scored, the other 8 only trained on. 2 more were set aside" in said


def test_what_is_left_to_a_person_is_told(run: Run) -> None:
    set_scores(run, accuracy=0.8, prevalence=0.5, accepted=0.85, accuracy_accepted=0.96)
    found = " ".join(words(write_verdict(run)))
    assert "Of 100 it answers for about 85 (85 to 85) and leaves the rest to a person" in found
    assert "of 100 answers about 96 (96 to 96) are right" in found


def test_one_class_is_told_by_what_is_found_and_flagged(run: Run) -> None:
    table = run.table()
    set_table(run, classes=("defect",), targets=table.targets[:, 1:], exclusive=False)
    set_scores(run, recall=(0.87, 0.79, 0.93), precision=(0.91, 0.85, 0.95), prevalence=0.3)
    set_scores(run, average_precision=(0.9, 0.8, 0.95))
    said = words(write_verdict(run))[1]
    assert said.startswith(
        "plain: Of 100 images with 'defect' it finds about 87 (79 to 93): it misses 13 of 100 "
        "(7 to 21); of 100 that it flags, "
    )
    assert "about 91 (85 to 95) have it. 'defect' is on 30 of 100" in said
    set_scores(run, average_precision=(0.4, 0.2, 0.6))
    assert words(write_verdict(run))[1].startswith("bad: ")
    set_scores(run, precision=float("nan"), average_precision=(0.9, 0.8, 0.95))
    said = words(write_verdict(run))[1]
    assert said.startswith("bad: ")
    assert "it flags none at all" in said
    set_scores(run, 8, recall=(0.625, 0.25, 0.875))
    assert (
        "with 'defect' it finds 5 (2 to 7): it misses 3 of 8 (1 to 6)"
        in (words(write_verdict(run))[1])
    )


def test_several_classes_are_told_together(run: Run) -> None:
    table = run.table()
    targets = table.targets[:, [0, 1, 1]]
    set_table(run, classes=("a", "b", "<b>"), targets=targets, exclusive=False)
    set_scores(run, recall_micro=0.7, precision_micro=0.6, prevalence=0.3, average_precision=0.5)
    set_scores(run, f1=(0.6, 0.5, 0.7), recall=(0.8, 0.7, 0.9))
    set_scores(run, 40, ["<b>"], recall=(0.6, 0.5, 0.7))
    said = words(write_verdict(run))
    assert said[1].startswith("plain: Of 100 classes that are there it names about 70 (70 to 70)")
    assert "it misses 30 of 100 (30 to 30); of 100 that it names, about 60" in said[1]
    assert "Missed most often: '<b>', 16 of 40 (12 to 20)." in said[1]
    assert "It tells 3 of 3 classes from the rest clearly better than chance" in said[1]
    assert "weakest: 'a' (F1 0.600 (0.500 to 0.700))" in said[2]
    set_scores(run, recall_micro=0.95, precision_micro=0.95, recall=0.9)
    assert words(write_verdict(run))[1].startswith("good: ")
    set_scores(run, 40, ["<b>"], recall=0.3)
    assert words(write_verdict(run))[1].startswith("warn: ")
    set_scores(run, average_precision=0.2)
    assert words(write_verdict(run))[1].startswith("bad: ")


@pytest.mark.parametrize(
    ("dice", "tone"),
    [((0.8, 0.75, 0.85), "plain"), ((0.72, 0.65, 0.8), "warn"), ((0.7, 0.6, 0.8), "bad")],
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
    assert ("loupe cascade CASCADE.yaml" in lines(section)) == (tone != "plain")
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


def make_check(name: str, severity: Any) -> CheckReport:
    finding = Finding(id="a.png", finding=name, severity=severity, detail="odd")
    return CheckReport(
        rows=2, findings=(finding,), class_counts={}, classes_per_image={}, group_sizes={},
        copy_sizes={}, sizes=None, copies=(), groups=(),  # type: ignore[arg-type]
    )  # fmt: skip


def test_steps_name_the_table_and_near_copies(run: Run) -> None:
    fix = write_verdict(run, check=make_check("truncated", "fix"))
    assert lines(fix)[0] == "loupe check classes.csv --quarantine clean.csv"
    near = make_check("near-contradiction", "note")
    section = write_verdict(run, check=near)
    assert any("first among near copies with different labels" in each for each in words(section))
    assert lines(section)[0].startswith("loupe audit")
    clean = write_verdict(run, check=near, issues=IssueSheet(issues=(), origin={}))
    assert lines(clean)[0] == "loupe check classes.csv"
    set_table(run, notes=())
    unnamed = write_verdict(run, check=make_check("truncated", "fix"))
    assert lines(unnamed)[0] == "loupe check TABLE --quarantine clean.csv"


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
