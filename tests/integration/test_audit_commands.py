"""audit, relabel, train and compare as a user types them, and what they refuse."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from loupe.cli import main
from loupe.issues import COLUMNS, read_issues
from loupe.origins import parse_origin
from loupe.reviews import Review, append_review
from loupe.testing import make_predictions, make_tiles

RECIPE = """
network: {name: test_resnet, pretrained: false}
input: {size: 32}
augment: [HorizontalFlip]
stages: [{train: all, epochs: 1, lr: 0.001}]
batch_size: 8
engine: {precision: fp32, channels_last: false}
"""
CLASSES = ("cat", "dog", "cow")


def run_main(monkeypatch, *arguments):
    """Run one command in this process; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["loupe", *map(str, arguments)])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def rows_of(path: Path):
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.reader(stream))


def write_rows(path: Path, header, rows) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])


def read_notes(capsys) -> tuple[str, str]:
    """Return what was shown and what was complained of, on one line each."""
    said = capsys.readouterr()
    return " ".join(said.out.split()), " ".join(said.err.split())


@pytest.fixture
def files(tmp_path):
    """A table with 10 % wrong labels, and predictions that know better."""
    call = {"exclusive": True, "quality": 0.9, "seed": 5}
    clean = make_predictions(200, 3, **call)
    given = make_predictions(200, 3, **call, label_noise=0.1).targets.argmax(axis=1)
    ids = [f"{row:03}.png" for row in range(200)]
    (tmp_path / "data").mkdir()
    labels = [[ids[r], CLASSES[given[r]]] for r in range(200)]
    write_rows(tmp_path / "data" / "labels.csv", ["image", "label"], labels)
    sheet = [[ids[r], clean.folds[r], *(f"{p:.6f}" for p in clean.probs[r])] for r in range(200)]
    write_rows(tmp_path / "preds.csv", ["id", "fold", *CLASSES], sheet)
    wrong = np.flatnonzero(given != clean.targets.argmax(axis=1))
    return tmp_path, {ids[row] for row in wrong}


def type_audit(monkeypatch, folder: Path, *more) -> int:
    table = folder / "data" / "labels.csv"
    return run_main(
        monkeypatch, "audit", folder / "preds.csv", "--table", table, "--held-out", *more
    )


@pytest.mark.parametrize("command", ["audit", "review", "relabel"])
def test_each_command_explains_itself(command, monkeypatch, capsys):
    assert run_main(monkeypatch, command, "--help") == 0
    shown, _ = read_notes(capsys)
    wanted = {
        "audit": ("RUN|PREDS", "--rule", "--reviews", "--held-out", "worst first"),
        "review": ("ISSUES.csv", "--merge", "--no-open", "--port"),
        "relabel": ("TABLE ISSUES.csv", "--policy", "--only-reviewed", "the old one stays as it"),
    }[command]
    assert all(word in shown for word in wanted), shown


def test_the_rules_of_the_help_are_those_of_the_audit():
    from loupe.auditcommands import RULE_NAMES
    from loupe.auditrules import RULES

    assert RULE_NAMES == RULES


def test_predictions_are_audited(files, monkeypatch, capsys):
    folder, wrong = files
    assert type_audit(monkeypatch, folder) == 0
    shown, complaints = read_notes(capsys)
    assert "estimated share of wrong labels" in shown
    assert "look at these first" in shown
    assert "loupe review" in shown
    assert "Traceback" not in complaints
    out = folder / "preds.issues.csv"
    header, *rows = rows_of(out)
    assert tuple(header) == COLUMNS
    assert f"{len(rows)} label(s) of {len(rows)} among 200 rows are doubted" in shown
    assert len(wrong & {row[0] for row in rows}) > 0.8 * len(wrong) > 10
    assert rows[0][0] in wrong
    known = json.loads(out.with_suffix(".json").read_text())
    assert known["rules"] == ["low_quality"]


def test_options_reach_the_audit(files, monkeypatch, capsys):
    folder, _ = files
    out = folder / "new" / "found.csv"
    options = ("--rule", "confident", "--rule", "both", "--confidence", 0.9, "--all")
    code = type_audit(monkeypatch, folder, *options, "--ranking", "margin", "--out", out)
    assert code == 0
    sheet = read_issues(out)
    assert len(sheet.issues) == 200
    assert {rule for issue in sheet.issues for rule in issue.rules} == {"confident", "both"}
    known = {key: sheet.origin[key] for key in ("rules", "confidence", "ranking")}
    assert known == {"rules": ["confident", "both"], "confidence": 0.9, "ranking": "margin"}
    assert f"wrote {out}" in capsys.readouterr().out.replace("\n", " ")


def test_nothing_to_doubt_is_said_and_written(files, monkeypatch, capsys):
    folder, _ = files
    given = [CLASSES.index(label) for _, label in rows_of(folder / "data" / "labels.csv")[1:]]
    sure = [
        [*row[:2], *(0.96 if column == label else 0.02 for column in range(3))]
        for row, label in zip(rows_of(folder / "preds.csv")[1:], given, strict=True)
    ]
    write_rows(folder / "preds.csv", ["id", "fold", *CLASSES], sure)
    assert type_audit(monkeypatch, folder) == 0
    shown, _ = read_notes(capsys)
    assert "0 label(s) of 0 among 200 rows are doubted" in shown
    assert "loupe review" not in shown
    out = folder / "preds.issues.csv"
    assert read_issues(out).issues == ()
    table = folder / "data" / "labels.csv"
    assert run_main(monkeypatch, "relabel", table, out, "--out", folder / "data" / "n.csv") == 0
    assert "no label was changed or doubted" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--rule", "agreement"), "asks several members"),
        (("--rule", "confidnt"), "confident"),
        (("--confidence", 1.5), "--confidence"),
        (("--reviews", "none.csv"), "none.csv: there is no such file"),
    ],
)
def test_audits_that_make_no_sense_are_refused(files, monkeypatch, capsys, options, told):
    folder, _ = files
    assert type_audit(monkeypatch, folder, *options) == 2
    assert told in read_notes(capsys)[1]
    assert not (folder / "preds.issues.csv").exists()


def test_predictions_of_known_rows_are_refused(files, monkeypatch, capsys):
    folder, _ = files
    table = folder / "data" / "labels.csv"
    assert run_main(monkeypatch, "audit", folder / "preds.csv", "--table", table) == 2
    told = read_notes(capsys)[1]
    assert told.count("200 of 200 row(s) were not held out") == 1
    assert run_main(monkeypatch, "audit", folder / "preds.csv") == 2
    assert "--table" in read_notes(capsys)[1]
    assert run_main(monkeypatch, "audit", folder / "none.csv") == 2
    assert "does not exist" in read_notes(capsys)[1]


def test_reviews_are_counted(files, monkeypatch, capsys):
    folder, _ = files
    assert type_audit(monkeypatch, folder) == 0
    issues = read_issues(folder / "preds.issues.csv").issues
    said = folder / "said.csv"
    for number, issue in enumerate(issues[:5]):
        label = issue.suggested if number else issue.given
        review = Review(
            time="2030-01-01T00:00:00+00:00", reviewer="ann", id=issue.id, class_name="",
            given=issue.given, suggested=issue.suggested,
            decision="relabel" if number else "keep", label=label,
        )  # fmt: skip
        append_review(said, review)
    capsys.readouterr()
    assert type_audit(monkeypatch, folder, "--reviews", said) == 0
    shown, _ = read_notes(capsys)
    assert f"all rules: of 5 reviewed among {len(issues)} flagged, 4 were wrong, 80%" in shown


@pytest.fixture
def audited(files, monkeypatch, capsys):
    """The files with their issues, and images for `relabel` to read."""
    folder, wrong = files
    assert type_audit(monkeypatch, folder) == 0
    capsys.readouterr()
    return folder / "data" / "labels.csv", folder / "preds.issues.csv", wrong


class TestRelabel:
    def test_the_old_table_stays_and_the_new_one_says_what_was_done(
        self, audited, monkeypatch, capsys
    ):
        table, issues, _ = audited
        before, out = table.read_bytes(), table.parent / "new.csv"
        assert run_main(monkeypatch, "relabel", table, issues, "--out", out) == 0
        shown, _ = read_notes(capsys)
        doubted = {issue.id: issue for issue in read_issues(issues).issues}
        assert f"{len(doubted)} relabelled" in shown
        assert "loupe compare BEFORE AFTER" in shown
        assert table.read_bytes() == before
        header, *rows = rows_of(out)
        at = header.index("label_origin")
        for old, new in zip(rows_of(table)[1:], rows, strict=True):
            issue = doubted.get(old[0])
            assert new[:2] == [old[0], issue.suggested if issue else old[1]]
            assert new[at] == (f"relabelled by rule, was {old[1]}" if issue else "")

    def test_dropped_rows_keep_their_label(self, audited, monkeypatch, capsys):
        table, issues, _ = audited
        out = table.parent / "new.csv"
        options = ("--policy", "drop", "--max-quality", 0.2)
        assert run_main(monkeypatch, "relabel", table, issues, "--out", out, *options) == 0
        assert "not trained on, but held out and scored" in read_notes(capsys)[0]
        low = {issue.id for issue in read_issues(issues).issues if issue.quality <= 0.2}
        header, *rows = rows_of(out)
        weights = {row[0]: float(row[header.index("weight")]) for row in rows}
        assert {name for name, weight in weights.items() if weight == 0} == low
        assert [row[:2] for row in rows] == [row[:2] for row in rows_of(table)[1:]]

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            (("--reviews", "none.csv"), "none.csv: there is no such file"),
            (("--rule", "copies"), "copies"),
            (("--policy", "delete"), "--policy"),
            (("--mix", 0), "--mix"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, audited, monkeypatch, capsys, options, told):
        table, issues, _ = audited
        out = table.parent / "new.csv"
        assert run_main(monkeypatch, "relabel", table, issues, "--out", out, *options) == 2
        said = read_notes(capsys)[1]
        assert told in said
        assert "Traceback" not in said
        assert not out.exists()

    def test_issues_of_another_table_are_refused(self, audited, monkeypatch, capsys):
        table, issues, _ = audited
        out = table.parent / "new.csv"
        header, *rows = rows_of(table)
        doubted = read_issues(issues).issues[0]
        other = table.with_name("other.csv")
        turned = [
            [name, doubted.suggested if name == doubted.id else label] for name, label in rows
        ]
        write_rows(other, header, turned)
        assert run_main(monkeypatch, "relabel", other, issues, "--out", out) == 2
        said = read_notes(capsys)[1]
        assert "1 label(s) are not those that were audited" in said
        assert doubted.id in said
        write_rows(other, header, [["x" + name, label] for name, label in rows])
        assert run_main(monkeypatch, "relabel", other, issues, "--out", out) == 2
        assert "Name the table that was audited" in read_notes(capsys)[1]
        assert not out.exists()

    def test_no_file_of_others_is_overwritten(self, audited, monkeypatch, capsys):
        table, issues, _ = audited
        out = table.parent / "mine.csv"
        out.write_text("image,label\n000.png,cat\n")
        for place in (out, table, issues):
            before = place.read_bytes()
            assert run_main(monkeypatch, "relabel", table, issues, "--out", place) == 2
            assert place.name in read_notes(capsys)[1]
            assert place.read_bytes() == before

    def test_issues_that_are_not_there_are_refused(self, audited, monkeypatch, capsys):
        table, issues, _ = audited
        gone = issues.with_name("gone.csv")
        assert run_main(monkeypatch, "relabel", table, gone, "--out", table.with_name("n.csv")) == 2
        assert "loupe audit" in read_notes(capsys)[1]
        assert run_main(monkeypatch, "review", gone, "--no-open") == 2
        assert "loupe audit" in read_notes(capsys)[1]


def test_a_merge_needs_a_place_for_the_result(audited, monkeypatch, capsys):
    _, issues, _ = audited
    assert run_main(monkeypatch, "review", issues, "--merge", issues) == 2
    assert "--out" in read_notes(capsys)[1]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Tiles, some labelled wrong, and a run trained on them by command line."""
    folder = tmp_path_factory.mktemp("trained")
    make_tiles(
        folder / "tiles", tiles=15, shots=2, size=(64, 64), defect_share=0.7, duplicates=2,
        wrong_labels=4,
    )  # fmt: skip
    (folder / "quick.yaml").write_text(RECIPE)
    return folder


@pytest.mark.parametrize(
    "name", ["classes.csv", pytest.param("labels.csv", marks=pytest.mark.slow)]
)
def test_from_an_audit_to_a_proof(trained, name, tmp_path, monkeypatch, capsys):
    tiles = shutil.copytree(trained / "tiles", tmp_path / "tiles")
    table, images = tiles / name, tiles / "images"
    before, after = tmp_path / "before", tmp_path / "after"
    train = (trained / "quick.yaml", "--executor", "serial")
    options = ("--images", images, "--out", before)
    assert run_main(monkeypatch, "train", table, *train, *options) == 0
    capsys.readouterr()
    assert run_main(monkeypatch, "audit", before, "--rule", "disagree") == 0
    shown, _ = read_notes(capsys)
    issues = before / "issues.csv"
    assert f"wrote {issues}" in shown
    assert len(read_issues(issues).issues) >= 5
    new = tiles / "new.csv"
    options = ("--images", images, "--out", new)
    assert run_main(monkeypatch, "relabel", table, issues, *options) == 0
    shown, _ = read_notes(capsys)
    # The command that the user is told trains on the new table, with the old folds.
    said = shown.split("recipe of BEFORE: loupe ")[1].split(" --out AFTER")[0].split()
    assert run_main(monkeypatch, *said, *train, "--out", after) == 0
    capsys.readouterr()
    assert run_main(monkeypatch, "compare", before, after) == 0
    shown, _ = read_notes(capsys)
    assert "all rows, labels as given" in shown
    assert "a hold-out is the last judge" in shown
    at = rows_of(new)[0].index("label_origin")
    told = [parse_origin(row[at]) for row in rows_of(new)[1:]]
    assert ("rows nobody touched" in shown) == (None in told)
    # Nobody reviewed anything.
    assert "labels as reviewed" not in shown
    assert sum(o is not None and o.action == "relabelled" for o in told) >= 5
    assert "RELABELLED" not in shown
