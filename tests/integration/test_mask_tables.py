"""Tables of masks as a user types them: without their images, and split for training."""

from __future__ import annotations

import csv
import json
import shlex
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image

from loupe.cli import cli, main
from loupe.layouts import read_table
from loupe.masks import encode_rle
from loupe.options import part_options, read_source

N = 40
CLASSES = ("crack", "stain")


def run_main(monkeypatch, *arguments) -> int:
    """Run one command in this process; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["loupe", *map(str, arguments)])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def write_rows(path: Path, header, rows) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def read_rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.reader(stream))


# Without images -----------------------------------------------------------------------------------


def write_far(folder: Path, layout: str) -> tuple[Path, Path, Path]:
    """Write a table of masks, masks that miss every fourth, and probabilities; no image."""
    rng = np.random.default_rng(0)
    ids = [f"{row:02}.jpg" for row in range(N)]
    present = rng.random((N, 2)) < 0.5
    names = ("mask",) if layout == "rle-single" else CLASSES
    pairs = [(row, at) for row in range(N) for at in range(len(names))]
    given = {pair: "1 10" if present[pair] else "" for pair in pairs}
    drawn = {pair: "" if pair[0] % 4 == 0 else text for pair, text in given.items()}
    forms = {
        "rle-joined": (["Image_Label"], lambda row, at: [f"{ids[row]}_{names[at]}"]),
        "rle-rows": (["ImageId", "ClassId"], lambda row, at: [ids[row], names[at]]),
        "rle-single": (["id"], lambda row, _: [ids[row]]),
    }
    header, key = forms[layout]
    paths = [
        write_rows(
            folder / name,
            [*header, "EncodedPixels"],
            [[*key(*pair), text] for pair, text in texts.items()],
        )
        for name, texts in (("train.csv", given), ("masks.csv", drawn))
    ]
    noisy = np.clip(present * 0.5 + rng.random((N, 2)) * 0.5, 0, 1)
    rows = [[ids[row], row % 4, *noisy[row, : len(names)].round(4)] for row in range(N)]
    return *paths, write_rows(folder / "preds.csv", ["id", "fold", *names], rows)


@pytest.mark.parametrize("layout", ["rle-joined", "rle-rows", "rle-single"])
def test_no_image_is_needed_to_decide_score_and_gate(tmp_path, monkeypatch, capsys, layout):
    table, masks, preds = write_far(tmp_path, layout)
    given = read_table(table, need_images=False)
    assert given.layout.name == layout
    code = run_main(
        monkeypatch, "decide", preds, "--table", table, "--held-out", "--resamples", 20,
        "--threshold", 0.5,
    )  # fmt: skip
    told = capsys.readouterr()
    assert (code, told.err) == (0, "")
    assert f"rule from {N} held-out rows in 4 folds" in told.out
    code = run_main(
        monkeypatch, "score", preds, table, "--rule", tmp_path / "preds.rule.json", "--held-out",
        "--allow-leak",
    )  # fmt: skip
    told = capsys.readouterr()
    assert (code, told.err) == (0, "")
    assert "scores on new rows" in told.out
    gated = tmp_path / "gated.csv"
    assert run_main(monkeypatch, "gate", masks, "--by", preds, "--out", gated) == 0
    assert len(read_rows(gated)) == len(read_rows(masks))
    capsys.readouterr()
    for file, dice in ((masks, None), (table, 1.0)):
        out = tmp_path / "score.json"
        assert run_main(monkeypatch, "score", file, table, "--out", out) == 0
        assert f"{N} of {N} images cannot be read" in capsys.readouterr().out
        main_score = json.loads(out.read_text())["scores"][0]
        lost = given.targets[::4].sum() / given.targets.size
        assert main_score["value"] == pytest.approx(1 - lost if dice is None else dice)


# Split --------------------------------------------------------------------------------------------


def draw_images(folder: Path, count: int, *, first: int = 0) -> None:
    folder.mkdir(exist_ok=True, parents=True)
    for row in range(first, first + count):
        pixels = np.random.default_rng(row).integers(0, 256, (20, 30, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{row}.png")


def follow(told: str):
    """Read the table as the command that was printed next does."""
    words = shlex.split(told.rpartition("next: loupe ")[2].strip())
    assert words[0] == "train"
    with click.Context(cli):
        params = cli.commands["train"].make_context("train", words[1:]).params
    return read_source(params.pop("table"), part_options(params)[0])


@pytest.mark.parametrize("command", ["split", "check"])
def test_a_coco_file_keeps_its_masks(tmp_path, monkeypatch, capsys, command):
    draw_images(tmp_path / "images", 9)
    draw_images(tmp_path / "images", 3, first=20)  # of the validation part, say
    notes = [
        {"id": row, "image_id": row, "category_id": row % 2, "segmentation": square}
        for row, square in enumerate([[[2, 2, 9, 2, 9, 9, 2, 9]]] * 6)
    ]
    if command == "check":
        (tmp_path / "images/3.png").write_bytes(b"no image")
        for row, note in enumerate(notes):
            note["segmentation"] = {"size": [20, 30], "counts": [row, 5, 595 - row]}
    whole = {
        "images": [
            {"id": row, "file_name": f"{row}.png", "height": 20, "width": 30} for row in range(9)
        ],
        "categories": [{"id": at, "name": name} for at, name in enumerate((*CLASSES, "dent"))],
        "annotations": notes,
    }
    source, out = tmp_path / "coco.json", tmp_path / "t.csv"
    source.write_text(json.dumps(whole))
    before = read_table(source, images=tmp_path / "images")
    options = {
        "split": ("--folds", 3, "--out", out, "--stratify", "none"),
        "check": ("--quarantine", out, "--out", tmp_path / "check.csv"),
    }
    arguments = (source, "--images", tmp_path / "images", *options[command])
    assert run_main(monkeypatch, command, *arguments) == 0
    table = follow(capsys.readouterr().out)
    kept = [row for row in range(9) if command == "split" or row != 3]
    assert table.ids == tuple(f"{row}.png" for row in kept)
    assert table.classes == before.classes == ("crack", "dent", "stain")
    assert table.masks == tuple(before.masks[row] for row in kept)
    assert sum(bool(text) for texts in table.masks for text in texts) == 6 - (command == "check")
    assert (table.folds is not None) == (command == "split")
    assert any("3 images in" in note and "left out" in note for note in table.notes)


@pytest.mark.parametrize("kind", ["folder", "table", "column"])
def test_mask_images_are_still_there_after_a_split(tmp_path, monkeypatch, capsys, kind):
    draw_images(tmp_path / "images", 6)
    (tmp_path / "masks").mkdir()
    masks = {}
    for row in range(5):
        mask = np.zeros((20, 30), bool)
        mask[row : row + 4, 3:9] = row != 2
        Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / f"masks/{row}.png")
        masks[f"{row}.png"] = (encode_rle(mask),)
    masks["5.png"] = ("",)
    source = tmp_path / "images"
    if kind != "folder":
        cells = [[name, name if texts[0] else ""] for name, texts in masks.items()]
        header = ["image", "mask"] if kind == "column" else ["image"]
        source = write_rows(
            tmp_path / "labels.csv", header, [cell[: len(header)] for cell in cells]
        )
    out = tmp_path / "t.csv"
    monkeypatch.chdir(tmp_path)
    arguments = ["split", source, "--masks", "masks", "--folds", 2, "--out", out]
    more = [] if kind == "folder" else ["--images", "images"]
    assert run_main(monkeypatch, *arguments, *more) == 0
    table = follow(capsys.readouterr().out)
    assert dict(zip(table.ids, table.masks, strict=True)) == masks
    assert set(table.folds.tolist()) == {0, 1}
    assert table.classes == ("mask",)
