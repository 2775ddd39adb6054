"""Every benchmark runs at toy size, and the plain loop does the work it is said to do."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from loupe.choices import Cosine
from loupe.defaults import choose_recipe
from loupe.recipe import read_recipe
from loupe.schedules import rate_at
from loupe.table import Table

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("LOUPE_TEST_DATA", ROOT.parent / "shared"))
NAME = re.compile(r"main-job-[a-z0-9-]+-rows__[a-z0-9.-]+__torch[0-9.]+__\d{4}(-\d{2}){4}")


@pytest.fixture
def main_job(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.main_job")


@pytest.fixture
def plain_loop(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.plain_loop")


@pytest.mark.parametrize("classes", [2, 4])
def test_fine_tuning_starts_from_the_fitted_head(plain_loop, classes):
    rng = np.random.default_rng(0)
    labels = np.arange(60) % classes
    features = rng.normal(labels[:, None, None], 1.0, (60, 2, 5)).astype(np.float32)
    head = plain_loop.fit_head(features, labels, np.arange(60))
    layer = torch.nn.Linear(5, classes)
    plain_loop.start_from_head(layer, head)
    with torch.no_grad():
        probs = layer(torch.from_numpy(features)).softmax(dim=-1).mean(dim=1).numpy()
    np.testing.assert_allclose(probs, plain_loop.predict_head(head, features), atol=1e-5)


def test_plain_rate_is_the_recipes(plain_loop):
    mine = [plain_loop.rate(step, 43, 0.1) for step in range(43)]
    theirs = [
        rate_at(Cosine(warmup=0.1), 1.0, step=step, steps_per_epoch=43, epochs=1)
        for step in range(43)
    ]
    assert mine == pytest.approx(theirs)


@pytest.mark.parametrize(
    "change",
    ["tta=[identity]", "loss.class_weights=balanced", "augment=[VerticalFlip]"],
)
def test_a_recipe_that_does_other_work_is_refused(main_job, tmp_path, change):
    make_weights(tmp_path)
    recipe = choose_recipe(make_rows(12), tmp_path, device="cpu").recipe
    main_job.check_same_work(recipe)
    changed = read_recipe(recipe.model_dump(mode="json"), [change])
    assert changed != recipe
    with pytest.raises(SystemExit, match=change.partition(".")[0].partition("=")[0]):
        main_job.check_same_work(changed)


def test_a_repeated_round_changes_no_interval(main_job):
    table = make_rows(40)
    rng = np.random.default_rng(1)
    sheets = {
        who: [rng.dirichlet((1, 1), 40).astype(np.float32)]
        for who in ("loupe", "plain_loop", "logistic_regression")
    }
    once = main_job.compare_quality(table, sheets)
    twice = main_job.compare_quality(table, {who: found * 2 for who, found in sheets.items()})
    assert twice["scores"]["loupe"]["accuracy"] == pytest.approx(
        once["scores"]["loupe"]["accuracy"]
    )
    pair = "loupe - plain_loop"
    for key in ("value", "low", "high", "p_value"):
        assert twice["differences"][pair][key] == pytest.approx(once["differences"][pair][key])


def test_probabilities_are_put_into_the_tables_order(main_job):
    table = make_rows(4)
    probs = np.arange(8, dtype=np.float32).reshape(4, 2)
    found = main_job.align(table.ids[::-1], table.classes[::-1], probs[::-1, ::-1], table)
    np.testing.assert_array_equal(found, probs)


@pytest.mark.slow
def test_the_main_job_runs_on_made_images(tmp_path):
    rng = np.random.default_rng(0)
    table = make_rows(24)
    for folder in ("toy/images", "weights"):
        (tmp_path / folder).mkdir(parents=True)
    for row, name in enumerate(table.ids):
        pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8) // (1 + row % 2)
        Image.fromarray(pixels).save(tmp_path / "toy/images" / name)
    lines = [f"{name},{'ab'[row % 2]}" for row, name in enumerate(table.ids)]
    (tmp_path / "toy/labels.csv").write_text("\n".join(["image,label", *lines]) + "\n")
    make_weights(tmp_path / "weights")
    result = run_main_job(tmp_path, tmp_path / "toy", tmp_path / "weights", rows=24, size=32)
    assert result["recipe"]["network"]["name"] == "test_resnet"


@pytest.mark.slow
@pytest.mark.real
def test_the_main_job_runs_on_real_images(tmp_path):
    data, weights = SHARED / "data" / "art-painting", SHARED / "weights"
    if not (data / "labels.csv").is_file() or not weights.is_dir():
        pytest.skip("no data/art-painting and weights; name their folder in $LOUPE_TEST_DATA")
    run_main_job(tmp_path, data, weights, rows=40, size=64)


def run_main_job(tmp_path, data, weights, *, rows, size):
    out = tmp_path / "results"
    command = [sys.executable, "-m", "benchmarks.main_job", "--data", data, "--weights", weights]
    options = {"subset": rows, "folds": 2, "epochs": 1, "size": size, "results": out}
    command += [part for key, value in options.items() for part in (f"--{key}", value)]
    subprocess.run([str(part) for part in command], cwd=ROOT, check=True, capture_output=True)
    (path,) = out.glob("*.json")
    page = Path(f"{str(path).removesuffix('.json')}.md").read_text()
    assert NAME.fullmatch(path.name.removesuffix(".json"))
    assert str(data.parent) not in path.read_text() + page
    assert str(tmp_path) not in path.read_text() + page
    result = json.loads(path.read_text())
    assert [run["who"] for run in result["runs"]] == ["loupe", "plain_loop"]
    for run in result["runs"]:
        assert sum(run["parts"].values()) == pytest.approx(run["wall_s"], abs=0.1)
    assert {"folds", "decode and features"} <= result["runs"][0]["parts"].keys()
    assert {"features", "head", "train", "predict"} <= result["runs"][1]["parts"].keys()
    loupe, plain = (run["wall_s"] for run in result["runs"])
    assert result["time"]["plain_over_loupe"]["median"] == pytest.approx(plain / loupe, abs=1e-3)
    scores = result["scores"]
    gap = scores["loupe"]["accuracy"]["value"] - scores["plain_loop"]["accuracy"]["value"]
    assert result["differences"]["loupe - plain_loop"]["value"] == pytest.approx(gap)
    assert result["job"]["rows"] == rows
    return result


def make_weights(folder):
    network = timm.create_model("test_resnet", pretrained=False)
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    save_file(state, folder / "test_resnet.safetensors", metadata={"timm_arch": "test_resnet"})


def make_rows(rows):
    ids = tuple(f"{row:02}.png" for row in range(rows))
    return Table(
        ids=ids,
        images=tuple(Path(name) for name in ids),
        classes=("a", "b"),
        targets=np.eye(2, dtype=np.float32)[np.arange(rows) % 2],
        exclusive=True,
    )


def test_runs_are_compared_on_the_same_rows(finished, monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(str(ROOT))
    comparing = importlib.import_module("benchmarks.comparing")
    folder = str(finished.folder)
    comparing.main(
        ["--name", "toy", "--results", str(tmp_path), f"a={folder}", f"b={folder},{folder}"]
    )
    (path,) = tmp_path.glob("*.json")
    found = json.loads(path.read_text())
    assert found["differences"]["b"]["value"] == 0
    assert found["scores"]["a"]["accuracy"] == found["scores"]["b"]["accuracy"]
    assert list(found["pr_auc"]) == ["a", "b"]
    page = path.with_name(path.name.removesuffix(".json") + ".md").read_text()
    assert page in capsys.readouterr().out
    assert str(finished.folder) not in path.read_text()
