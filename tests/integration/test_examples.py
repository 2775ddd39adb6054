"""Every example script from end to end, on generated data and with a small network.

What is learnt is not looked at (but where a script is about what is learnt); the layout
of every output file is, against `tests/golden/examples/<name>.txt`.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import runpy
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import loupe
from loupe.runs import open_run
from loupe.scoring import read_scores
from loupe.systems import (
    SystemData,
    make_cassava,
    make_clouds,
    make_cracks,
    make_paintings,
    make_steel,
)

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "examples"
SMALL = (
    "network.name=test_resnet",
    "network.pretrained=false",
    "engine={precision: fp32, channels_last: false}",
)
SEGMENTERS = (
    "decoder.options={decoder_channels: [8, 8, 4, 4, 4]}",
    "stages.0.epochs=2",
    "input.size=[32, 64]",
    "masks.thresholds=[0.4, 0.5, 0.6]",
)
FLIPS = "[HorizontalFlip, VerticalFlip]"
OPTIONS: dict[str, Any] = {"executor": "serial", "device": "cpu"}
Run = Callable[..., None]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def describe(folder: Path, *, learnt: Sequence[str] = (), bare: Sequence[str] = ()) -> str:
    """Describe the layout of the files in a folder, a block each.

    Args:
        folder: Its folders (the runs) are left out.
        learnt: Files whose number of rows depends on what was learnt.
        bare: Tables without a header.
    """
    blocks = []
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        if path.suffix == ".png":
            with Image.open(path) as picture:
                blocks.append(f"{path.name}: picture of {picture.width} x {picture.height}\n")
            continue
        if path.suffix == ".json":
            keys = "".join(f"  {key!r}\n" for key in json.loads(path.read_text(encoding="utf-8")))
            blocks.append(f"{path.name}: keys\n{keys}")
            continue
        if path.suffix == ".parquet":
            sheet = pq.read_table(path)
            columns = "".join(f"  {f.name}: {f.type}\n" for f in sheet.schema)
            blocks.append(f"{path.name}: {sheet.num_rows} rows\n{columns}")
            continue
        rows = read_rows(path)
        header = [f"column {n}" for n in range(len(rows[0]))] if path.name in bare else rows.pop(0)
        count = "some" if path.name in learnt else str(len(rows))
        told = "no header, " if path.name in bare else ""
        cells = zip(*rows, strict=True) if rows else [()] * len(header)
        kinds = [tell_kind(column) for column in cells]
        columns = "".join(f"  {n!r}: {k}\n" for n, k in zip(header, kinds, strict=True))
        blocks.append(f"{path.name}: {told}{count} rows\n{columns}")
    return "\n".join(blocks)


def tell_kind(cells: Sequence[str]) -> str:
    kinds = {
        "run lengths, or empty": r"(\d+ \d+( \d+ \d+)*)?",
        "number": r"-?\d+\.\d*(e-?\d+)?|nan",
    }
    if all(re.fullmatch(r"\d+", cell) for cell in cells):
        return "integer"
    return next(
        (k for k, form in kinds.items() if all(re.fullmatch(form, c) for c in cells)), "text"
    )


def check_layout(name: str, found: str) -> None:
    expected = (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")
    assert found == expected, f"found:\n{found}"


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., SystemData]:
    return lambda maker, **options: maker(tmp_path / "data", **options)


def test_cracks(make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = make(make_cracks), tmp_path / "out"
    load("cracks").main(
        str(data.table), str(data.images), str(data.test_table), str(data.test), str(out),
        *SMALL, "stages.0.epochs=2", "input.size=x1", **OPTIONS,
    )  # fmt: skip
    check_layout("cracks", describe(out, bare=["answer.csv"]))
    assert {row[0] for row in read_rows(out / "answer.csv")} <= {"0", "1"}
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == ["precision", "recall", "f1"]
    assert all("[" in line and "of 16 cracks" in line for line in printed)
    blend = open_run(out / "blend").blend
    assert blend is not None
    assert (blend.weights, [source.place for source in blend.sources]) == (
        (0.8, 0.2), ["../b6", "../b7"],
    )  # fmt: skip
    # Blocks as they stand in the table, not shuffled.
    assert open_run(out / "b6").table().folds.tolist() == np.repeat([0, 1, 2, 3], 12).tolist()


def test_clouds(make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = make(make_clouds), tmp_path / "out"
    load("clouds").main(
        str(data.table), str(data.images), str(data.submission), str(data.test), str(out),
        *SMALL, "stages.0.epochs=2", "stages.0.views=2", "stages.1.epochs=2", "input.size=48",
        **OPTIONS,
    )  # fmt: skip
    check_layout("clouds", describe(out))
    printed = capsys.readouterr().out
    assert re.search(r"PR-AUC +inner +held out\nFish ", printed)
    interval = r"[\d.]+ \[[\d.]+, [\d.]+\]"
    rows = re.findall(rf"^(\w+) +{interval} +{interval}$", printed, re.MULTILINE)
    assert rows == ["Fish", "Flower", "Gravel", "Sugar", "mean"]
    assert "heldout: OPTIMISTIC" in printed
    assert "inner: OPTIMISTIC" not in printed
    assert open_run(out / "inner").manifest()["stamps"] == []
    before, after = read_rows(data.submission), read_rows(out / "submission.csv")
    assert [row[0] for row in after] == [row[0] for row in before]
    assert all(new[1] in {"", old[1]} for new, old in zip(after, before, strict=True))


def test_cassava(make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = make(make_cassava), tmp_path / "out"
    load("cassava").main(
        str(data.table), str(data.images), str(data.names), str(out),
        *SMALL, "stages.0.epochs=2", "input.size=[60, 80]", "input.crop=48",
        "augment.0={RandomCrop: {height: 48, width: 48}}", "control_on=heldout", **OPTIONS,
    )  # fmt: skip
    check_layout("cassava", describe(out))
    held = read_rows(out / "votes.csv")[1:]
    # Four windows, each drawn four times: the votes of an image sum to 16.
    sums = [sum(map(float, row[1:-1])) for row in held]
    assert sums == pytest.approx([16] * len(held), abs=1e-3)
    counts = np.array([row[1:] for row in read_rows(out / "confusion.csv")[1:]], int)
    assert counts.sum() == len(held)
    right = np.trace(counts) / len(held)
    printed = capsys.readouterr().out.splitlines()
    assert re.match(rf"accuracy +{right:.3f}  \[", printed[0])
    shares = np.diag(counts) / counts.sum(axis=1)
    names = [row[0] for row in read_rows(out / "confusion.csv")[1:]]
    for name, share, n, line in zip(names, shares, counts.sum(axis=1), printed[1:6], strict=True):
        assert re.fullmatch(rf"{re.escape(name)} +{share:.3f}  \[.+\]  of {n}", line)
    assert [line.split(":")[0] for line in printed[6:]] == ["OPTIMISTIC"]


def test_cassava_denoise(
    make: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data, out = make(make_cassava), tmp_path / "out"
    # As from the command line. Random features and a solved last layer take seconds, and
    # are good enough to find the noise.
    words = (data.table, data.images, data.names, out, *SMALL, "input.size=[60, 80]")
    solved = ("stages=[{train: head, l2: 0.03}]", "network.head.init=default", "checkpoint=null")
    more = (*solved, f"tta.augment={FLIPS}")
    monkeypatch.setattr(sys, "argv", ["cassava_denoise.py", *map(str, words), *more])
    runpy.run_path(str(ROOT / "examples" / "cassava_denoise.py"), run_name="__main__")
    check_layout("cassava_denoise", describe(out, learnt=["noisy.csv", "cleaned.csv"]))
    noisy = {row[0]: row for row in read_rows(out / "noisy.csv")[1:]}
    # What it is for: nearly all that was planted is found, and little else.
    assert len(noisy.keys() & set(data.wrong)) >= len(data.wrong) - 1
    assert len(noisy.keys() - set(data.wrong)) <= 2
    assert all(1.6 <= float(value) <= 2.0001 for *_, value in noisy.values())
    given = {row[0]: row for row in read_rows(data.table)[1:]}
    cleaned = read_rows(out / "cleaned.csv")[1:]
    assert cleaned == [row for key, row in given.items() if key not in noisy]
    # Nothing is lost: all rows with their labels and folds, and no weight where doubted.
    first, second = open_run(out / "first").table(), open_run(out / "second").table()
    assert second.ids == first.ids
    assert (second.folds == first.folds).all()
    assert (second.targets == first.targets).all()
    assert second.weights is not None
    idle = {key for key, weight in zip(second.ids, second.weights, strict=True) if not weight}
    assert idle == noisy.keys()
    check_denoised_scores(read_rows(out / "scores.csv")[1:], len(given), len(cleaned))
    printed = capsys.readouterr().out
    assert f"{len(noisy)} of {len(given)} rows are dropped" in printed
    assert "all rows, labels as given" in printed
    assert "rows nobody touched" in printed


def check_denoised_scores(rows: list[list[str]], everything: int, left: int) -> None:
    told = {(row[0], row[1]): row[2:] for row in rows}
    assert {key: int(row[0]) for key, row in told.items()} == {
        ("before", "cleaned"): left, ("after", "cleaned"): left,
        ("before", "all"): everything, ("after", "all"): everything,
    }  # fmt: skip
    accuracy = {key: float(row[1]) for key, row in told.items()}
    # Dropped rows are those that the first round got wrong, so without them it looks better.
    assert accuracy["before", "cleaned"] > accuracy["before", "all"]
    hits = {on: accuracy["before", on] * int(told["before", on][0]) for on in ("cleaned", "all")}
    assert hits["cleaned"] == pytest.approx(hits["all"], abs=0.05)
    assert all(float(row[2]) <= float(row[1]) <= float(row[3]) for row in told.values())


def test_art(make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = make(make_paintings), tmp_path / "out"
    load("art").main(
        str(data.table), str(data.test), str(out), *SMALL, "stages.0.epochs=1", "input.size=32",
        "control_on=heldout", folds=2, **OPTIONS,
    )  # fmt: skip
    check_layout("art", describe(out))
    classes = [int(row[1]) for row in read_rows(out / "submission.csv")[1:]]
    assert set(classes) <= set(range(7))
    printed = capsys.readouterr().out.splitlines()
    assert sum("plain mean" in line for line in printed) == 2
    # The second round went on from weights that the held-out folds had chosen.
    rounds = [line[:12] for line in printed if "OPTIMISTIC" in line]
    assert rounds[0] == "first round "
    assert set(rounds[1:]) == {"second round"}
    assert len(printed) == 8 + len(rounds)
    last = open_run(out / "second-all")
    assert last.refit
    assert open_run(out / "second").member("b4").recipe().init_from == str(out / "first")
    assert last.member("b4").recipe().init_from == str(out / "first-all")
    # As in the write-up, the vertical flip comes with the refit.
    for name in ("first", "second"):
        before, after = (
            [step.name for step in open_run(out / run).member("b4").recipe().augment]
            for run in (name, f"{name}-all")
        )
        assert after == [*before, "VerticalFlip"]
        assert "VerticalFlip" not in before


def test_steel(make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = make(make_steel), tmp_path / "out"
    load("steel").main(
        str(data.table), str(data.images), str(out),
        *SMALL, "stages.0.epochs=2", "stages.0.views=2", "tta.draws=2", "input.size=32",
        "control_on=heldout", *(f"segment:{each}" for each in (*SMALL, *SEGMENTERS)),
        folds=2, **OPTIONS,
    )  # fmt: skip
    check_layout("steel", describe(out))
    counts = {(what, name): int(n) for what, name, n in read_rows(out / "counts.csv")[1:]}
    assert counts["images", "defect"] == counts["images", "clean"] == 24
    assert counts["images of class", "1"] == sum("1" in shown for shown in data.truth.values())
    assert counts["classes per image", "2"] == 4
    printed = capsys.readouterr().out
    assert re.search(r"binary +defect +recall [\d.]+ \[[\d., ]+\]  precision", printed)
    assert re.search(r"^binary +OPTIMISTIC", printed, re.MULTILINE)
    assert re.search(r"^multilabel +OPTIMISTIC", printed, re.MULTILINE)
    assert re.search(r"defect +recall:0.96 +[\d.]+ \([\d.]+-[\d.]+\)", printed)
    check_runs(out)
    check_cascades(printed.splitlines(), rows=48)


def check_runs(out: Path) -> None:
    runs = {name: open_run(out / name) for name in ("binary", "multilabel", "masks")}
    assert all(run.finished for run in runs.values())
    assert runs["masks"].segments
    assert runs["masks"].members == tuple(f"segment-{k}" for k in range(1, 5))
    tables = [run.table() for run in runs.values()]
    assert all(table.ids == tables[0].ids for table in tables)
    assert all((table.folds == tables[0].folds).all() for table in tables)
    # The changes went where they belong.
    assert runs["masks"].member("segment-1").input_spec().width == 64
    assert runs["binary"].member("binary").input_spec().width == 32
    assert {s.metric for s in read_scores(runs["masks"])} >= {"dice_per_pair_empty1", "all_empty"}


def check_cascades(lines: list[str], rows: int) -> None:
    ways = ("masks", "binary+masks", "labels+masks", "binary+labels+masks", "empty")
    for way in ways:
        assert any(
            re.match(rf"{re.escape(way)}( \*)? +0\.\d+ +0\.\d+ - [01]\.\d+", x) for x in lines
        )
    shown = {}
    for number, line in enumerate(lines):
        if found := re.match(r"([a-z >]+): [\d.]+ s, [\d.]+ images/s$", line):
            cells = [each.split() for each in lines[number + 1 : number + 8]]
            stages = (*found[1].split(" > "), "decode")
            shown[found[1]] = {row[0]: [int(n) for n in row[1:5]] for row in cells
                               if row and row[0] in stages and len(row) == 7}  # fmt: skip
    assert list(shown) == [
        "masks", "binary > masks", "labels > masks", "binary > labels > masks",
    ]  # fmt: skip
    for way, stages in shown.items():
        assert list(stages) == ["decode", *way.split(" > ")]
        assert stages["decode"][0] == rows
        # What a stage lets through is what the next is shown.
        named = list(stages.values())
        for before, after in pairwise(named):
            assert (before[1], before[3]) == (after[0], after[2])
        assert stages["masks"][2] <= shown["masks"]["masks"][2] == 4 * rows
    assert shown["binary > labels > masks"]["labels"][0] == shown["binary > masks"]["masks"][0]


def test_prediction_grid(make: Any, tmp_path: Path) -> None:
    data = make(make_cracks)
    table = loupe.read_table(data.table, images=data.images)
    stages = [{"train": "head", "views": ["identity"], "l2": 0.03}]
    recipe = loupe.read_recipe({"input": {"size": 32}, "stages": stages}, SMALL)
    run = loupe.train(table, {"a": recipe}, tmp_path / "run", folds=2, **OPTIONS)
    load("prediction_grid").main(str(run.folder), str(tmp_path / "grid.png"))
    with Image.open(tmp_path / "grid.png") as picture:
        # Six images in each of three rows, 150 pixels wide with 34 for what is said of them.
        assert picture.size == (900, 552)
        shown = np.asarray(picture.convert("L"))
    tiles = shown.reshape(3, 184, 6, 150)
    # Every place has an image, and black words below it.
    assert (tiles[:, 2:148, :, 2:148].std(axis=(1, 3)) > 0).all()
    assert (tiles[:, 150:].min(axis=(1, 3)) < 64).all()


CONSTANTS: dict[str, dict[str, Any]] = {
    "cracks": {
        "network.name": "EfficientNetB7-noisy-student",
        "network.head.widths": [128, 64],
        "network.head.batch_norm": True,
        "network.head.dropout": 0.5,
        "network.head.init": "he_normal",
        "optimizer.epsilon_hat": True,
        "input.size": "x2",
        "input.filter": "area",
        "optimizer.name": "adam",
        "optimizer.epsilon": 1e-3,
        "optimizer.lr_decay": 1e-5,
        "optimizer.clip_norm": None,
        "optimizer.clip_norm_each": 1.0,
        "stages.0.epochs": 50,
        "batch_size": 30,
        "early_stop": {"metric": "loss", "patience": 5, "min_delta": 0.0},
        "checkpoint.metric": "loss",
    },
    "clouds": {
        "seed": 2019,
        "input.size": [224, 224],
        "loss.name": "bce",
        "optimizer.name": "radam",
        "schedule.metric": "pr_auc",
        "schedule.factor": 0.5,
        "stages.0.train": "head",
        "stages.0.epochs": 20,
        "stages.1.train": "all",
        "stages.1.epochs": 100,
        "early_stop.metric": "pr_auc",
        "early_stop.patience": 5,
        "checkpoint.metric": "pr_auc",
        "batch_size": 32,
        "train_metrics": True,
    },
    "cassava": {
        "seed": 42,
        "network.drop_path": 0.4,
        "network.head.dropout": 0.4,
        "input.size": [600, 800],
        "input.crop": [512, 512],
        "input.normalisation": "data",
        "augment.0": {
            "name": "RandomCrop",
            "p": 1.0,
            "height": 512,
            "width": 512,
            "border": "reflect",
        },
        "optimizer.lr": 1e-4,
        "optimizer.epsilon": 1e-7,
        "schedule": {"name": "cosine", "warmup": 0.0, "floor": 0.3},
        "stages.0.epochs": 8,
        "batch_size": 8,
        "tta.draws": 4,
        "votes": "sum",
    },
    "cassava_denoise": {
        "seed": 42,
        "input.size": [300, 300],
        "optimizer.lr": 1e-3,
        "schedule": {"name": "cosine", "warmup": 0.0, "floor": 0.0},
        "stages.0.epochs": 3,
        "batch_size": 32,
        "checkpoint.metric": "accuracy",
        "tta.draws": 2,
        "votes": "sum",
    },
    "art": {
        "seed": 42,
        "input.size": [200, 200],
        "mixing.cutmix": 1.0,
        "network.head.widths": [512],
        "network.head.l2": 1e-3,
        "network.head.dropout": 0.5,
        "optimizer.lr": 1e-4,
        "schedule.factor": 0.5,
        "schedule.patience": 4,  # 5 as Keras counts
        "schedule.min_lr": 1e-6,
        "stages.0.epochs": 100,
        "early_stop.patience": 10,
        "batch_size": 20,
    },
    "art_retrain": {
        "optimizer.lr": 1e-5,
        "stages.0.epochs": 30,
        "sampling": "under",
        "seed": 42,
    },
    "steel_binary": {
        "network.head.widths": [128, 64],
        "input.size": [299, 299],
        "loss.name": "bce",
        "stages.0.train": "head",
        "stages.0.epochs": 17,
        "batch_size": 16,
        "checkpoint.metric": "recall/defect",
        "tta.draws": 10,
        "votes": "mean",
    },
    "steel_multilabel": {"checkpoint.metric": "pr_auc", "tta.draws": 10, "seed": 42},
}
"""What the write-ups state, typed from them."""


@pytest.mark.parametrize("name", CONSTANTS)
def test_recipes_hold_the_constants_of_the_write_ups(name: str) -> None:
    recipe = loupe.read_recipe(ROOT / "recipes" / f"{name}.yaml").model_dump(mode="json")
    found = {}
    for path in CONSTANTS[name]:
        node: Any = recipe
        for key in path.split("."):
            node = node[int(key)] if key.isdigit() else node[key]
        found[path] = node
    assert found == CONSTANTS[name]


@pytest.mark.parametrize("name", CONSTANTS)
def test_recipes_leave_no_default_of_ours_where_keras_has_its_own(name: str) -> None:
    recipe = loupe.read_recipe(ROOT / "recipes" / f"{name}.yaml").model_dump(mode="json")
    assert recipe["optimizer"]["clip_norm"] is None
    assert recipe["optimizer"]["epsilon"] == (1e-3 if name == "cracks" else 1e-7)
    # Keras adds it to the raw root; radam does so anyway.
    assert recipe["optimizer"].get("epsilon_hat", True)
    named = {"cracks": "he_normal", "art": "he_normal", "art_retrain": "he_normal"}
    assert recipe["network"]["head"]["init"] == named.get(name, "glorot_uniform")
    assert recipe["schedule"].get("warmup", 0) == 0
    assert recipe["tta"] == ["identity"] or recipe["tta"]["draws"] > 1


def test_retraining_changes_only_what_it_says() -> None:
    first, second = (
        loupe.read_recipe(ROOT / "recipes" / f"{n}.yaml").model_dump()
        for n in ("art", "art_retrain")
    )
    differing = {key for key in first if first[key] != second[key]}
    assert differing == {"augment", "optimizer", "sampling", "stages"}
