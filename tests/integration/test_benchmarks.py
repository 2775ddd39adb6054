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


@pytest.fixture
def noisy_labels(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.noisy_labels")


@pytest.fixture
def paintings(noisy_labels):
    """Features of 90 rows in three clear heaps, in place of a network's."""
    rng = np.random.default_rng(2)
    labels = np.arange(90) % 3
    values = rng.normal(0, 0.3, (90, 2, 6)).astype(np.float32)
    values[np.arange(90), :, labels] += 3
    names = tuple(f"{row:02}.png" for row in range(90))
    table = Table(
        ids=names,
        images=tuple(Path(name) for name in names),
        classes=("a", "b", "c"),
        targets=np.eye(3, dtype=np.float32)[labels],
        exclusive=True,
        folds=(np.arange(90) // 3 % 3).astype(np.int16),
    )
    # One penalty, so that a head is solved at once.
    recipe = read_recipe(ROOT / "recipes" / "frozen_head.yaml", ["stages.0.l2=0.01"])
    return noisy_labels.Features(table=table, values=torch.from_numpy(values), recipe=recipe)


def test_as_many_labels_are_planted_wrong_as_asked(noisy_labels, paintings):
    cases = list(noisy_labels.plant("toy", paintings.table, 1))
    assert len(cases) == 8
    for case in cases:
        wrong = case.given != case.true
        assert wrong.sum() == round(case.rate * 90)
        steps = (case.given - case.true)[wrong] % 3
        assert set(steps) == ({1} if case.kind == "conditional" else {1, 2})
    for case in noisy_labels.plant_cells("toy", paintings.table, 1):
        assert np.bincount((case.given != case.true).sum(axis=1)).tolist() == [
            90 - round(case.rate * 90),
            round(case.rate * 90),
        ]


def test_parts_of_a_table_share_no_row(noisy_labels, paintings):
    (case, *_) = noisy_labels.plant("toy", paintings.table, 1)
    taken = [noisy_labels.take_part(paintings, case, 3, part) for part in range(3)]
    assert sorted(name for features, _ in taken for name in features.table.ids) == sorted(
        paintings.table.ids
    )
    for part, (features, fewer) in enumerate(taken):
        np.testing.assert_array_equal(fewer.given, case.given[part::3])
        np.testing.assert_array_equal(features.table.folds, paintings.table.folds[part::3])
        assert torch.equal(features.values, paintings.values[part::3])


def test_held_out_predictions_ignore_rows_of_weight_0(noisy_labels, paintings):
    true = paintings.table.targets.argmax(axis=1)
    given, weights = true.copy(), np.ones(90)
    given[:45], weights[:45] = (true[:45] + 1) % 3, 0
    found = noisy_labels.predict_held_out(paintings, given, weights=weights)
    np.testing.assert_array_equal(found.argmax(axis=1), true)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


def test_rankings_and_rules_are_compared(noisy_labels, paintings, monkeypatch, tmp_path):
    pytest.importorskip("cleanlab")
    label_noise = importlib.import_module("benchmarks.label_noise")
    monkeypatch.setattr(noisy_labels, "RATES", (0.05, 0.1))
    monkeypatch.setattr(label_noise, "RESAMPLES", 50)
    monkeypatch.setattr(label_noise, "open_art", lambda *_: paintings)
    monkeypatch.setattr(label_noise, "compare_imports", lambda: {"loupe.noise": 0.1})
    speed = [{"what": "by_class", "rows": 9, "loupe": 0.1, "cleanlab": 0.2, "differ": 0}]
    monkeypatch.setattr(label_noise, "compare_speed", lambda _: speed)
    options = ["--art", "toy", "--no-tiles", "--seeds", "2"]
    folders = ["--work", str(tmp_path / "work"), "--results", str(tmp_path / "results")]
    label_noise.main([*options, *folders])
    (path,) = (tmp_path / "results").glob("*.json")
    result = json.loads(path.read_text())
    assert [line["case"] for line in result["rankings"]][:2] == [
        "toy, symmetric, 5%",
        "toy, symmetric, 10%",
    ]
    for line in result["rankings"]:
        assert line["seeds"] == 2
        assert line["lowest"] <= line["lead"] <= line["highest"]
        best = line["scores"][line["best"]]
        assert best == max(v for k, v in line["scores"].items() if not k.startswith("loupe"))
        assert line["lead"] == pytest.approx(line["scores"]["loupe"] - best)
    # Heaps so clear that a wrong label stands out.
    assert result["rankings"][0]["scores"]["loupe"] == 1
    assert result["rates"][0]["true"] == pytest.approx(4 / 90)
    assert all(same["differ_alike"] == 0 for same in result["same"].values())
    rules = {(x["of"], x["who"], x["rule"]): x for x in result["rules"] if x["by"] == "case"}
    assert rules["toy, symmetric, 5%", "loupe", "agreement"]["recall"] == 1
    assert str(tmp_path) not in path.read_text()
    sheets = sorted((tmp_path / "work" / "sheets").iterdir())
    assert len(sheets) == 2 * 2 * 4


def test_policies_are_scored_on_all_rows(noisy_labels, paintings, monkeypatch, tmp_path):
    cleaning = importlib.import_module("benchmarks.cleaning")
    monkeypatch.setattr(cleaning, "open_art", lambda *_: paintings)
    folders = ["--work", str(tmp_path / "work"), "--results", str(tmp_path / "results")]
    cleaning.main(["--art", "toy", "--seeds", "1", *folders])
    (path,) = (tmp_path / "results").glob("*.json")
    result = json.loads(path.read_text())
    lines = {(line["case"], line["policy"]): line for line in result["lines"]}
    assert len(lines) == 2 * 5 + 4
    for (case, policy), line in lines.items():
        assert line["gain"] == pytest.approx(line["after"] - line["before"])
        assert line["low"] <= line["gain"] <= line["high"]
        if policy == "drop all wrong":
            assert (line["changed"], line["precision"], line["left"]) == (18, 1, 0)
            assert line["after"] == 1
        if case == "toy, no wrong labels":
            assert line["rate"] == 0
            assert line["after"] == 1
    kept = json.dumps(result)
    again = tmp_path / "again"
    cleaning.main(["--art", "toy", "--seeds", "1", *folders[:2], "--results", str(again)])
    (path,) = again.glob("*.json")
    assert json.loads(path.read_text())["lines"] == json.loads(kept)["lines"]
