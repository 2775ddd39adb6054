"""The commands as a user types them, on a tiny table: files, exit codes, kill and continue."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import loupe
from loupe.cli import main
from loupe.testing import make_tiles

RECIPE = """
network: {name: test_resnet, pretrained: false}
input: {size: 32}
augment: [HorizontalFlip]
stages: [{train: all, epochs: 2, lr: 0.001}]
batch_size: 8
engine: {precision: fp32, channels_last: false}
"""


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


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    make_tiles(
        folder / "tiles",
        tiles=30,
        shots=2,
        size=(48, 48),
        defect_share=0.8,
        duplicates=2,
        wrong_labels=0,
    )
    (folder / "quick.yaml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def trained(place):
    """A run on `classes.csv`: ok, and four kinds of defect."""
    tiles = place / "tiles"
    run = place / "run"
    with pytest.MonkeyPatch.context() as patch:
        code = run_main(
            patch, "train", tiles / "classes.csv", place / "quick.yaml", "--images",
            tiles / "images", "--out", run, "--folds", 2, "--executor", "serial",
            "--label-column", "label",
        )  # fmt: skip
    assert code == 0
    return run


def test_check_writes_its_list_and_finds_the_planted_copies(place, monkeypatch, capsys):
    tiles = place / "tiles"
    out = place / "check.csv"
    code = run_main(
        monkeypatch, "check", tiles / "labels.csv", "--images", tiles / "images", "--out", out
    )
    assert code == 0
    assert "copies" in capsys.readouterr().out
    header, *rows = rows_of(out)
    assert header == ["id", "finding", "severity", "detail", "group"]
    planted = {pair[1] for pair in loupe.testing.read_truth(tiles).duplicates}
    assert planted <= {row[0] for row in rows if row[1].endswith("-copy")}


def test_split_keeps_the_table_and_adds_two_columns(place, monkeypatch):
    tiles = place / "tiles"
    out = place / "split.csv"
    arguments = ["split", tiles / "labels.csv", "--images", tiles / "images", "--folds", 3]
    assert run_main(monkeypatch, *arguments, "--out", out) == 0
    before, after = rows_of(tiles / "labels.csv"), rows_of(out)
    kept = [after[0].index(name) for name in before[0] if name != "group"]
    old = [before[0].index(name) for name in before[0] if name != "group"]
    assert [[row[i] for i in kept] for row in after] == [[row[i] for i in old] for row in before]
    assert {"fold", "group"} <= set(after[0])
    again = place / "again.csv"
    assert run_main(monkeypatch, *arguments, "--out", again) == 0
    assert again.read_bytes() == out.read_bytes()


def test_train_writes_all_files_and_scores_every_row(trained):
    run = loupe.open_run(trained)
    sheet = run.oof()["quick"]
    assert sorted(sheet.ids) == sorted(run.table().ids)
    assert sheet.held_out.all()
    scores = json.loads(run.scores_file.read_text())
    first = scores["scores"]["all"][0]
    assert first["metric"] == "accuracy"
    assert first["low"] <= first["value"] <= first["high"]
    assert sorted(scores["folds"]) == ["0", "1"]
    names = {path.relative_to(trained).as_posix() for path in trained.rglob("*") if path.is_file()}
    assert {
        "manifest.json", "table.parquet", "versions.json", "log.jsonl", "oof.parquet",
        "scores.json", "instructions.txt", "quick/recipe.yaml", "quick/input.json",
        "quick/fold-0/last.safetensors", "quick/fold-0/history.csv",
        "quick/fold-0/predictions.parquet", "quick/fold-0/done.json",
    } <= names  # fmt: skip
    assert not [name for name in names if name.endswith("state.pt")]


def test_a_finished_run_is_not_trained_again(trained, place, monkeypatch, capsys):
    before = (trained / "scores.json").stat().st_mtime_ns
    tiles = place / "tiles"
    code = run_main(
        monkeypatch, "train", tiles / "classes.csv", place / "quick.yaml", "--images",
        tiles / "images", "--out", trained, "--folds", 2, "--label-column", "label",
    )  # fmt: skip
    assert code == 0
    assert "finished already" in capsys.readouterr().out
    assert (trained / "scores.json").stat().st_mtime_ns == before


def test_predict_gives_one_line_for_each_image_with_a_label_or_an_error(
    trained, place, monkeypatch, capsys
):
    images = place / "new"
    images.mkdir()
    source = sorted((place / "tiles" / "images").iterdir())
    for path in source[:5]:
        (images / path.name).write_bytes(path.read_bytes())
    (images / "broken.jpg").write_bytes(source[0].read_bytes()[:300])
    out = place / "predictions.csv"
    assert run_main(monkeypatch, "predict", trained, images, "--out", out) == 1
    told = capsys.readouterr()
    assert "could not be read" in told.err
    assert "predicted: " in told.out
    header, *rows = rows_of(out)
    assert header == ["id", "label", "error"]
    by_id = {row[0]: row for row in rows}
    assert len(rows) == 6
    assert by_id["broken.jpg"][1] == ""
    assert by_id["broken.jpg"][2]
    assert all(row[1] and not row[2] for name, row in by_id.items() if name != "broken.jpg")


def test_bare_label_column_as_in_the_crack_contest(trained, place, monkeypatch):
    out = place / "s1.csv"
    tiles = place / "tiles"
    code = run_main(
        monkeypatch, "predict", trained, tiles / "classes.csv", "--images", tiles / "images",
        "--out", out, "--format", "submission", "--columns", "label", "--no-header",
    )  # fmt: skip
    assert code == 0
    rows = rows_of(out)
    classes = set(loupe.open_run(trained).table().classes)
    assert len(rows) == len(loupe.open_run(trained).table())
    assert all(len(row) == 1 and row[0] in classes for row in rows)


def test_indexed_class_numbers_as_in_the_art_contest(trained, place, monkeypatch):
    out = place / "s4.csv"
    code = run_main(
        monkeypatch, "predict", trained, place / "tiles" / "images", "--out", out, "--format",
        "submission", "--columns", "answer value", "--index", "--numbers",
    )  # fmt: skip
    assert code == 0
    header, *rows = rows_of(out)
    assert header == ["", "answer value"]
    assert [row[0] for row in rows] == [str(i) for i in range(len(rows))]
    assert {row[1] for row in rows} <= {"0", "1", "2", "3", "4"}


def test_like_a_sample_submission_in_its_own_order(trained, place, monkeypatch):
    table = loupe.open_run(trained).table()
    chosen = list(reversed(table.ids))[:7]
    sample = place / "sample.csv"
    sample.write_text("image_id,label\n" + "".join(f"{name},0\n" for name in chosen))
    out = place / "like.csv"
    tiles = place / "tiles"
    code = run_main(
        monkeypatch, "predict", trained, tiles / "images", "--out", out, "--format", "submission",
        "--like", sample,
    )  # fmt: skip
    assert code == 0
    header, *rows = rows_of(out)
    assert header == ["image_id", "label"]
    assert [row[0] for row in rows] == chosen
    assert {row[1] for row in rows} <= {"0", "1", "2", "3", "4"}


def test_killed_in_training_the_same_command_ends_with_the_same_bits(trained, place):
    tiles = place / "tiles"
    run = place / "killed"
    command = [
        sys.executable, "-m", "loupe.cli", "train", tiles / "classes.csv", place / "quick.yaml",
        "--images", tiles / "images", "--out", run, "--folds", "2", "--executor", "serial",
        "--label-column", "label",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [str(part) for part in command], env=environment, stdout=subprocess.DEVNULL
    )
    log = run / "log.jsonl"
    deadline = time.monotonic() + 120
    while not (log.is_file() and '"epoch"' in log.read_text()):
        assert time.monotonic() < deadline, "no epoch was finished in two minutes"
        assert process.poll() is None, "training ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (run / "scores.json").exists()
    subprocess.run(
        [str(part) for part in command], env=environment, check=True, capture_output=True
    )
    ours, theirs = loupe.open_run(run).oof()["quick"], loupe.open_run(trained).oof()["quick"]
    assert ours.ids == theirs.ids
    np.testing.assert_array_equal(ours.probs, theirs.probs)
