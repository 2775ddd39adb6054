"""The mistakes that people make first, and what Loupe answers.

Each mistake is made for real, in an empty folder, by the command that a user would
type. `docs.generate` prints the answers into `docs/errors.md`, and the tests hold
their parts: where, what was found, what was expected, how to go on.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import shlex
import struct
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
from PIL import Image

from loupe.cli import main

NETWORK = "regnety_002.pycls_in1k"
"""A published network that hardly any machine has downloaded before."""
ENGINE = "engine: {precision: fp32, channels_last: false}"
"""Spares the speed probe: no mistake is about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """One mistake, made in an empty folder.

    Attributes:
        name: Short name.
        title: What went wrong, for the page.
        command: What was typed.
        prepare: Writes the files into the folder it is given.
        kind: The exception in Python; "" where the command ends with findings.
        code: Exit code of the command.
        where: What the answer must name as the place,
        found: what it found there,
        expected: what it expected, where that is not plain from what was found,
        onward: and how to go on.
    """

    name: str
    title: str
    command: str
    prepare: Callable[[Path], None]
    kind: str
    code: int
    where: str
    found: tuple[str, ...]
    expected: str = ""
    onward: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the command line did.

    Attributes:
        kind: Name of the exception behind it, or "".
        code: Exit code.
        text: What it printed: the error if there was one, else all.
    """

    kind: str
    code: int
    text: str


@functools.cache
def make(mistake: Mistake) -> Answer:
    """Make a mistake in a folder of its own, and return the answer."""
    with tempfile.TemporaryDirectory() as name, _in_folder(Path(name)):
        mistake.prepare(Path())
        return _answer(shlex.split(mistake.command))


@contextlib.contextmanager
def _in_folder(folder: Path) -> Iterator[None]:
    """Work in a folder, with a cache of its own and no network."""
    kept = {k: v for k, v in os.environ.items() if k != "LOUPE_WEIGHTS"}
    with (
        contextlib.chdir(folder),
        patch.dict(os.environ, kept | {"LOUPE_CACHE": str(folder / ".cache")}, clear=True),
        patch("socket.getaddrinfo", side_effect=OSError("no network here")),
    ):
        yield


def _answer(words: Sequence[str]) -> Answer:
    out, errors = io.StringIO(), io.StringIO()
    kind, code = "", 0
    with (
        patch.object(sys, "argv", list(words)),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
    ):
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
            kind = type(stop.__context__).__name__ if stop.__context__ else ""
    return Answer(kind=kind, code=code, text=_settle(errors.getvalue() or out.getvalue()))


def _settle(text: str) -> str:
    """Take out what differs between machines: seconds, bytes, words of the hub's client."""
    text = re.sub(r"\(\d+\.\d s\)", "(0.1 s)", text)
    text = re.sub(r"\(\d+ bytes not", "(77 bytes not", text)
    return re.sub(r"(?m)^\(.*\)$", "", text).strip()


def _photograph(path: Path, seed: int) -> None:
    """Write a small picture that is like no other."""
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).resize((48, 48), Image.Resampling.BICUBIC).save(path, quality=90)


def _write_table(folder: Path, rows: int, header: str = "image,label", rare: int = 0) -> None:
    """Write photographs and a table of two classes, and rows of a third."""
    lines = [header]
    for row in range(rows):
        label = "crack" if row < rare else ("ok", "stain")[row % 2]
        _photograph(folder / "images" / f"{row:03}.jpg", row)
        lines.append(f"{row:03}.jpg,{label}")
    _write(folder / "labels.csv", *lines)


def _write(path: Path, *lines: str) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _no_image_column(folder: Path) -> None:
    _write_table(folder, 6, header="plate,verdict")
    text = (folder / "labels.csv").read_text(encoding="utf-8").replace(".jpg", "")
    _write(folder / "labels.csv", text.strip())


def _no_images(folder: Path) -> None:
    _write_table(folder, 6)
    (folder / "pictures").mkdir()


def _predict_elsewhere(folder: Path, *, of: str = "{row:03}.jpg", odds: float = 0.3) -> None:
    """Write a table of labels and the probabilities of another tool; no images."""
    labels, preds = ["image,label"], ["id,fold,ok,stain"]
    for row in range(40):
        labels.append(f"{row:03}.jpg,{('ok', 'stain')[row % 2]}")
        preds.append(f"{of.format(row=row)},{row % 5},{odds},0.7")
    _write(folder / "labels.csv", *labels)
    _write(folder / "preds.csv", *preds)


def _cut_three(folder: Path) -> None:
    _write_table(folder, 200)
    _write(folder / "mine.yaml", "network: {name: test_resnet, pretrained: false}", ENGINE)
    for row in (7, 42, 150):
        path = folder / "images" / f"{row:03}.jpg"
        path.write_bytes(path.read_bytes()[:700])


def _repeat_a_row(folder: Path) -> None:
    _write_table(folder, 6)
    text = (folder / "labels.csv").read_text(encoding="utf-8")
    _write(folder / "labels.csv", text.strip(), "002.jpg,stain")


def _announce_too_much(folder: Path) -> None:
    """Write a PNG of some bytes whose header says 60,000 x 60,000 pixels."""
    _write_table(folder, 12)

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    (folder / "images" / "003.jpg").write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def _misspell_a_recipe(folder: Path) -> None:
    _write_table(folder, 12)
    _write(
        folder / "mine.yaml",
        "netwrk:",
        "  name: resnet18",
        "optimizer:",
        "  lr: -1",
        "stages:",
        "  - {train: all, epoch: 3}",
    )


def _no_weights(folder: Path) -> None:
    _write_table(folder, 12)
    (folder / "weights").mkdir()
    _write(folder / "mine.yaml", f"network: {{name: {NETWORK}}}", "stages: [{train: head}]", ENGINE)


def _foreign_folder(folder: Path) -> None:
    _write_table(folder, 12)
    (folder / "results").mkdir()
    _write(folder / "results" / "thesis.txt", "do not delete")


MISTAKES = (
    Mistake(
        name="no-table",
        title="The table is not there",
        command="loupe check labels.csv",
        prepare=lambda _: None,
        kind="TableError",
        code=2,
        where="labels.csv",
        found=("there is no such file or folder",),
        onward="check the path",
    ),
    Mistake(
        name="no-image-column",
        title="No column names the images",
        command="loupe check labels.csv --images images",
        prepare=_no_image_column,
        kind="TableError",
        code=2,
        where="labels.csv",
        found=("no image column among 'plate', 'verdict'",),
        expected="Name it 'image'",
        onward="pass --image-column",
    ),
    Mistake(
        name="no-images",
        title="The images are elsewhere",
        command="loupe check labels.csv --images pictures",
        prepare=_no_images,
        kind="TableError",
        code=2,
        where="labels.csv",
        found=(
            "none of the 6 images",
            "'000.jpg'",
        ),
        expected="the folder that these names start from",
        onward="with --images",
    ),
    Mistake(
        name="row-twice",
        title="Two rows with one image",
        command="loupe check labels.csv --images images",
        prepare=_repeat_a_row,
        kind="TableError",
        code=2,
        where="labels.csv",
        found=("'002.jpg' on lines 4, 8",),
        expected="Expected one row for each image",
        onward="remove the extra rows",
    ),
    Mistake(
        name="truncated-train",
        title="Training on damaged images",
        command="loupe train labels.csv mine.yaml --images images",
        prepare=_cut_three,
        kind="TableError",
        code=2,
        where="images/007.jpg",
        found=(
            "3 of 200",
            "images/042.jpg",
            "images/150.jpg",
            "ends too early",
        ),
        onward="--quarantine CLEAN.csv",
    ),
    Mistake(
        name="truncated-check",
        title="Checking damaged images",
        command="loupe check labels.csv --images images",
        prepare=_cut_three,
        kind="",
        code=1,
        where="007.jpg",
        found=(
            "3 row(s)",
            "truncated",
            "ends too early",
        ),
        onward="--quarantine CLEAN.csv",
    ),
    Mistake(
        name="bomb",
        title="An image too large to be decoded",
        command="loupe check labels.csv --images images",
        prepare=_announce_too_much,
        kind="",
        code=1,
        where="003.jpg",
        found=(
            "bomb",
            "its header announces",
        ),
        expected="at most 178,956,970 are decoded",
        onward="Cut or shrink the picture",
    ),
    Mistake(
        name="label-once",
        title="A class on one row, and five folds",
        command="loupe split labels.csv --images images --folds 5 --out folds.csv",
        prepare=lambda folder: _write_table(folder, 30, rare=1),
        kind="TableError",
        code=2,
        where="'crack'",
        found=("1 row(s), 1 group",),
        expected="Expected two groups or more",
        onward="Gather more images",
    ),
    Mistake(
        name="leak",
        title="Folds without groups",
        command="loupe split labels.csv --images images --group none --out folds.csv",
        prepare=lambda folder: _write_table(folder, 12),
        kind="LeakageError",
        code=2,
        where="--group none",
        found=("copies of one image into different folds",),
        expected="'auto'",
        onward="--allow-leak",
    ),
    Mistake(
        name="recipe",
        title="A recipe with mistakes",
        command="loupe train labels.csv mine.yaml --images images",
        prepare=_misspell_a_recipe,
        kind="RecipeError",
        code=2,
        where="mine.yaml",
        found=(
            "'netwrk'",
            "optimizer.lr is -1",
            "epoch'",
        ),
        expected="greater than 0",
        onward="did you mean 'network'?",
    ),
    Mistake(
        name="no-weights",
        title="Pretrained weights cannot be had",
        command="loupe train labels.csv mine.yaml --images images --weights weights",
        prepare=_no_weights,
        kind="WeightsError",
        code=2,
        where=NETWORK,
        found=(
            "were not found",
            "holds no safetensors file",
        ),
        onward="--weights FOLDER",
    ),
    Mistake(
        name="weights-folder",
        title="The folder of weights is not there",
        command="loupe train labels.csv --images images --weights wights",
        prepare=lambda folder: _write_table(folder, 12),
        kind="WeightsError",
        code=2,
        where="--weights",
        found=("wights, which is no folder",),
        onward="Name the folder that holds",
    ),
    Mistake(
        name="foreign-folder",
        title="The run folder holds something else",
        command="loupe train labels.csv --images images --out results",
        prepare=_foreign_folder,
        kind="RunError",
        code=2,
        where="results",
        found=(
            "not empty and no run",
            "thesis.txt",
        ),
        onward="choose another --out",
    ),
    Mistake(
        name="no-run",
        title="Not a run folder",
        command="loupe predict results images --out predictions.csv",
        prepare=_foreign_folder,
        kind="RunError",
        code=2,
        where="results",
        found=("it has no manifest.json",),
        onward="Name a folder that",
    ),
    Mistake(
        name="nothing-to-predict",
        title="No images to predict",
        command="loupe predict runs/cracks pictures --out predictions.csv",
        prepare=_no_images,
        kind="TableError",
        code=2,
        where="pictures",
        found=("there are 0 images in this folder",),
        onward="name the folder that holds them",
    ),
    Mistake(
        name="not-held-out",
        title="Thresholds on rows that the model may have seen",
        command="loupe decide preds.csv --table labels.csv",
        prepare=_predict_elsewhere,
        kind="LeakageError",
        code=2,
        where="preds.csv",
        found=("40 of 40 row(s) were not held out",),
        expected="rows that their model never saw",
        onward="--held-out",
    ),
    Mistake(
        name="other-ids",
        title="Predictions and table name images differently",
        command="loupe decide preds.csv --table labels.csv --held-out",
        prepare=functools.partial(_predict_elsewhere, of="crops/{row:03}.jpg"),
        kind="AlignmentError",
        code=2,
        where="preds.csv",
        found=("crops/000.jpg",),
        onward="Predict the missing rows",
    ),
    Mistake(
        name="votes",
        title="Probabilities of exclusive classes do not sum to 1",
        command="loupe decide preds.csv --table labels.csv --held-out",
        prepare=functools.partial(_predict_elsewhere, odds=0.9),
        kind="InputError",
        code=2,
        where="preds.csv",
        found=("40 of 40", "sum to 1"),
        onward="apply softmax",
    ),
)
"""In the order in which a project meets them."""
