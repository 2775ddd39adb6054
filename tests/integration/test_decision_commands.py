"""blend, decide, score and compare as a user types them; predict following a rule."""

from __future__ import annotations

import csv
import json
import sys

import numpy as np
import pytest

import loupe
from loupe.cli import main
from loupe.rules import read_rule
from loupe.runs import open_run
from loupe.testing import make_predictions, make_tiles

RECIPE = """
network: {name: test_resnet, pretrained: false}
input: {size: 32}
augment: [HorizontalFlip]
stages: [{train: all, epochs: 2, lr: 0.001}]
batch_size: 8
engine: {precision: fp32, channels_last: false}
"""
CLASSES = ("crack", "stain")


def run_main(monkeypatch, *arguments):
    """Run one command in this process; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["loupe", *map(str, arguments)])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.reader(stream))


def write_rows(path, header, rows):
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two predictions files of one table, rows in different orders, and the table."""
    folder = tmp_path_factory.mktemp("files")
    sheet = make_predictions(240, 2, quality=0.5, groups=120, seed=1)
    ids = [f"{row:03d}.jpg" for row in range(240)]
    for number, name in enumerate("ab"):
        rng = np.random.default_rng(number)
        noisy = np.clip(sheet.probs + rng.normal(0, 0.03, sheet.probs.shape), 0, 1)
        rows = [[ids[r], sheet.folds[r], *(f"{p:.6f}" for p in noisy[r])] for r in range(240)]
        rng.shuffle(rows)
        write_rows(folder / f"{name}.csv", ["id", "fold", *CLASSES], rows)
    rows = [[ids[r], *sheet.targets[r].astype(int), f"p{sheet.groups[r]}"] for r in range(240)]
    write_rows(folder / "labels.csv", ["image", *CLASSES, "group"], rows)
    return folder


def test_decide_refuses_what_is_not_said_to_be_held_out(files, monkeypatch, capsys):
    code = run_main(monkeypatch, "decide", files / "a.csv", "--table", files / "labels.csv")
    told = capsys.readouterr().err
    assert code == 2
    assert "240 of 240 row(s) were not held out" in told
    assert "--held-out" in told


def test_the_command_does_what_the_function_does(files, tmp_path, monkeypatch, capsys):
    options = ("--table", files / "labels.csv", "--held-out", "--cost", 5, "--coverage", 0.8)
    one = ("--class", "stain=recall:0.9", "--out", tmp_path / "rule.json")
    assert run_main(monkeypatch, "decide", files / "a.csv", *options, *one) == 0
    shown = capsys.readouterr().out
    assert "recall:0.9" in shown
    assert "in-sample (flatters)" in shown
    assert "would go to a person" in shown
    made = loupe.decide(
        files / "a.csv",
        loupe.read_table(files / "labels.csv", need_images=False),
        goals={"": "cost:5", "stain": "recall:0.9"},
        coverage=0.8,
        held_out=True,
        out=tmp_path / "same.json",
    )
    assert read_rule(tmp_path / "rule.json") == made.rule
    texts = [(tmp_path / name).read_text() for name in ("rule.json", "same.json")]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--recall", 0.9, "--cost", 5), "choose one of"),
        (("--class", "stain"), "NAME=GOAL"),
        (("--class", "stian=f1"), "did you mean 'stain'"),
        (("--recall", 1.5), "recall"),
        (("--metric", "g1"), "goal"),
        (("--coverage", 1.2), "coverage"),
    ],
)
def test_goals_that_make_no_sense_are_refused(files, monkeypatch, capsys, options, told):
    common = ("--table", files / "labels.csv", "--held-out", "--out", files / "no.json")
    assert run_main(monkeypatch, "decide", files / "a.csv", *common, *options) == 2
    assert told in capsys.readouterr().err
    assert not (files / "no.json").exists()


def change_cells(source, target, change):
    header, *rows = rows_of(source)
    write_rows(target, header, [change(number, row) for number, row in enumerate(rows)])
    return target


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda n, row: [*row[:2], "1.2", row[3]] if n == 4 else row, "outside"),
        (lambda n, row: [*row[:2], "", row[3]] if n in (4, 9) else row, "2 "),
        (lambda n, row: ["x" + row[0], *row[1:]] if n == 4 else row, "1 "),
        (lambda n, row: [row[0], *row[1:3], "high"] if n == 4 else row, "high"),
        (lambda n, row: ["000.jpg", *row[1:]] if n < 2 else row, "000.jpg"),
    ],
)
def test_bad_predictions_are_refused_with_their_rows(
    files, tmp_path, monkeypatch, capsys, change, told
):
    bad = change_cells(files / "a.csv", tmp_path / "bad.csv", change)
    code = run_main(monkeypatch, "decide", bad, "--table", files / "labels.csv", "--held-out")
    said = capsys.readouterr().err
    assert code == 2
    assert told in said
    assert "Traceback" not in said


def test_a_class_without_positives_does_not_stop_the_other(files, tmp_path, monkeypatch, capsys):
    none = change_cells(files / "labels.csv", tmp_path / "l.csv", lambda _, r: [*r[:2], "0", r[3]])
    options = ("--table", none, "--held-out", "--recall", 0.9, "--out", tmp_path / "r.json")
    assert run_main(monkeypatch, "decide", files / "a.csv", *options) == 0
    assert "! stain:" in capsys.readouterr().out


def test_a_blend_is_used_like_a_run(files, tmp_path, monkeypatch, capsys):
    both = (files / "a.csv", files / "b.csv")
    common = ("--table", files / "labels.csv", "--held-out")
    out = tmp_path / "ab"
    assert run_main(monkeypatch, "blend", *both, *common, "--weights", "0.8,0.2", "--out", out) == 0
    assert "weights: a 0.800, b 0.200" in capsys.readouterr().out
    blend = open_run(out).blend
    assert blend is not None
    assert (blend.weights, blend.by_fold, blend.method) == ((0.8, 0.2), None, "fixed")
    assert run_main(monkeypatch, "decide", out, "--recall", 0.9, "--by-group") == 0
    assert read_rule(out / "rule.json").pool == "max"
    assert "groups in 5 folds" in capsys.readouterr().out
    assert run_main(monkeypatch, "compare", out, files / "a.csv", *common) == 0
    assert "no evidence of a difference" in capsys.readouterr().out
    assert run_main(monkeypatch, "predict", out, files, "--out", tmp_path / "p.csv") == 2


def test_fitted_weights_are_kept_fold_by_fold(files, tmp_path, monkeypatch, capsys):
    common = ("--table", files / "labels.csv", "--held-out", "--method", "simplex")
    out = tmp_path / "fitted"
    both = (files / "a.csv", files / "b.csv")
    assert run_main(monkeypatch, "blend", *both, *common, "--out", out) == 0
    capsys.readouterr()
    blend = open_run(out).blend
    assert blend is not None
    assert blend.by_fold is not None
    assert sorted(blend.by_fold) == ["0", "1", "2", "3", "4"]
    assert all(abs(sum(weights) - 1) < 1e-9 for weights in blend.by_fold.values())
    shown = json.loads((out / "scores.json").read_text())
    assert set(shown["scores"]) == {"all", "a", "b"}
    # Deciding again gives the same worth: fold by fold weights were read back.
    before = json.loads((out / "rule.json").read_text())["report"]["scores"]
    assert run_main(monkeypatch, "decide", out) == 0
    assert json.loads((out / "rule.json").read_text())["report"]["scores"] == before


def test_files_of_new_images_are_mixed_by_id(files, tmp_path, monkeypatch):
    out = tmp_path / "mixed.csv"
    both = (files / "a.csv", files / "b.csv")
    assert run_main(monkeypatch, "blend", *both, "--weights", "0.8,0.2", "--out", out) == 0
    a, b, mixed = ({r[0]: r for r in rows_of(p)[1:]} for p in (*both, out))
    assert list(mixed) == list(a)
    for key, row in mixed.items():
        expected = 0.8 * float(a[key][2]) + 0.2 * float(b[key][2])
        assert float(row[-2]) == pytest.approx(expected, abs=1e-6)
    assert run_main(monkeypatch, "blend", *both, "--method", "greedy", "--out", out) == 2


def test_a_blend_does_not_eat_its_sources(files, tmp_path, monkeypatch, capsys):
    both = [files / "a.csv", files / "b.csv"]
    before = both[0].read_bytes()
    assert run_main(monkeypatch, "blend", *both, "--out", both[0]) == 2
    assert both[0].read_bytes() == before
    common = ("--table", files / "labels.csv", "--held-out", "--method", "mean")
    first, second = tmp_path / "first", tmp_path / "second"
    assert run_main(monkeypatch, "blend", *both, *common, "--out", first) == 0
    assert run_main(monkeypatch, "blend", first, both[0], *common, "--out", second) == 0
    capsys.readouterr()
    assert run_main(monkeypatch, "blend", second, both[1], *common, "--out", first) == 2
    assert "one of the things to blend" in capsys.readouterr().err


def test_files_with_other_rows_are_not_mixed(files, tmp_path, monkeypatch, capsys):
    lines = (files / "a.csv").read_text().splitlines()
    (tmp_path / "short.csv").write_text("\n".join(lines[:200]))
    for pair in (
        (tmp_path / "short.csv", files / "b.csv"),
        (files / "b.csv", tmp_path / "short.csv"),
    ):
        assert run_main(monkeypatch, "blend", *pair, "--out", tmp_path / "m.csv") == 2
        assert "41" in capsys.readouterr().err
    assert not (tmp_path / "m.csv").exists()


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("blend", "a.csv", "b.csv", "--table", "labels.csv", "--out", "m.csv"), "--table"),
        (
            ("blend", "a.csv", "b.csv", "--weights", "1,0", "--method", "mean", "--out", "m"),
            "--method",
        ),
        (("decide", "runs/tilez"), "does not exist"),
        (("compare", "nope", "a.csv"), "does not exist"),
        (("decide", "a.csv", "--recall", "95"), "0.95"),
        (("decide", "a.csv", "--coverage", "90"), "0.9"),
    ],
)
def test_what_would_be_ignored_or_misread_is_refused(files, monkeypatch, capsys, command, told):
    monkeypatch.chdir(files)
    assert run_main(monkeypatch, *command) == 2
    assert told in capsys.readouterr().err


def test_equal_predictions_are_equal_whatever_one_was_asked_for(
    files, tmp_path, monkeypatch, capsys
):
    """A rule for another goal, or of other folds, does not decide a comparison."""
    for name in "ab":
        (tmp_path / f"{name}.csv").write_bytes((files / "a.csv").read_bytes())
    common = ("--table", files / "labels.csv", "--held-out")
    a, b = tmp_path / "a.csv", tmp_path / "b.csv"
    assert run_main(monkeypatch, "decide", a, *common, "--recall", 0.99) == 0
    capsys.readouterr()
    assert run_main(monkeypatch, "compare", a, b, *common) == 0
    shown = capsys.readouterr().out
    assert "both are decided plainly (p >= 0.5)" in shown
    assert "all columns  0  0" in shown
    assert run_main(monkeypatch, "decide", b, *common, "--recall", 0.99) == 0
    assert run_main(monkeypatch, "compare", a, b, *common) == 0
    assert "by their own rules, cross-fitted: recall:0.99" in capsys.readouterr().out
    moved = [[r[0], str((int(r[1]) + n) % 5), *r[2:]] for n, r in enumerate(rows_of(b)[1:])]
    write_rows(b, ["id", "fold", *CLASSES], moved)
    assert run_main(monkeypatch, "compare", a, b, *common, "--allow-leak") == 0
    assert "was fitted on other rows, folds or probabilities" in capsys.readouterr().out


def test_new_rows_are_scored_by_a_stored_rule(files, tmp_path, monkeypatch, capsys):
    rule, new = tmp_path / "rule.json", tmp_path / "new.csv"
    common = ("--table", files / "labels.csv", "--held-out", "--out", rule)
    assert run_main(monkeypatch, "decide", files / "a.csv", *common, "--recall", 0.9) == 0
    capsys.readouterr()
    options = ("--rule", rule, "--held-out", "--out", tmp_path / "scores.json")
    # Under whatever name: the rows are those that the rule was fitted on.
    assert run_main(monkeypatch, "score", files / "b.csv", files / "labels.csv", *options) == 2
    assert "fitted on these very rows" in capsys.readouterr().err
    write_rows(new, rows_of(files / "labels.csv")[0], rows_of(files / "labels.csv")[1:200])
    assert run_main(monkeypatch, "score", files / "b.csv", new, *options) == 0
    shown = capsys.readouterr().out
    assert "scores on new rows" in shown
    assert "keep" in shown
    assert json.loads((tmp_path / "scores.json").read_text())["kind"] == "score"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    make_tiles(
        folder / "tiles", tiles=30, shots=2, size=(48, 48), defect_share=0.8, duplicates=0,
        wrong_labels=0,
    )  # fmt: skip
    (folder / "quick.yaml").write_text(RECIPE)
    table = loupe.read_table(folder / "tiles" / "labels.csv", images=folder / "tiles" / "images")
    loupe.train(table, [folder / "quick.yaml"], folder / "run", executor="serial")
    return folder


def test_training_ends_with_a_rule_that_predict_follows(trained, tmp_path, monkeypatch, capsys):
    run, images = trained / "run", trained / "tiles" / "images"
    stored = (run / "rule.json").read_text()
    # What marks a run as finished is written last: a run killed before it is continued.
    written = [p.stat().st_mtime_ns for p in (run / "rule.json", run / "instructions.txt")]
    assert max(written) <= (run / "scores.json").stat().st_mtime_ns
    # Two epochs teach nothing: no threshold beats 0.5.
    assert read_rule(run / "rule.json").goals == ("fixed:0.5",) * 4
    assert run_main(monkeypatch, "decide", run, "--threshold", 0, "--coverage", 0.5) == 0
    out, review = tmp_path / "p.csv", tmp_path / "review.csv"
    predict = ("predict", run, images, "--out", out)
    assert run_main(monkeypatch, *predict, "--review", review) == 0
    header, *rows = rows_of(out)
    assert {cell for row in rows for cell in row[1:5]} == {"1"}
    assert rows_of(review)[0] == ["id", "reason", "class", "probability", "decided"]
    (run / "rule.json").write_text(stored)
    never = tmp_path / "never.json"
    assert run_main(monkeypatch, "decide", run, "--threshold", 1, "--out", never) == 0
    assert run_main(monkeypatch, *predict, "--rule", never) == 0
    assert {cell for row in rows_of(out)[1:] for cell in row[1:5]} == {"0"}
    del header
    capsys.readouterr()


def test_tables_are_told_apart_or_not(trained, tmp_path, monkeypatch, capsys):
    images = trained / "tiles" / "images"
    labels = rows_of(trained / "tiles" / "labels.csv")
    parts = {row[1]: number for number, row in enumerate(labels[1:])}
    for name, parity in (("ours", 0), ("other", 1)):
        rows = [row for row in labels[1:] if sorted(parts).index(row[1]) % 2 == parity]
        write_rows(tmp_path / f"{name}.csv", labels[0], rows)
    options = ("--against-images", images, "--against-out", tmp_path / "apart.csv")
    code = run_main(
        monkeypatch, "check", tmp_path / "ours.csv", "--images", images, "--out",
        tmp_path / "check.csv", "--against", tmp_path / "other.csv", *options,
    )  # fmt: skip
    shown = capsys.readouterr().out
    assert code == 0
    assert "AUC" in shown
    assert len(rows_of(tmp_path / "apart.csv")) == len(labels)
