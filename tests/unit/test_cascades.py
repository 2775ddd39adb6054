"""The text of a cascade: what is refused, what paths are relative to, which stages are left."""

from __future__ import annotations

from pathlib import Path

import pytest

from loupe.cascades import Cascade, choose_stages, open_runs, read_cascade, tell_idle
from loupe.errors import AlignmentError, InputError, RecipeError, RunError
from loupe.maskcuts import Candidate, MaskCut
from loupe.maskrules import MaskRule, write_mask_rule
from loupe.recipe import read_recipe
from loupe.runs import create_run
from loupe.table import Table
from loupe.testing import make_predictions

STEEL = """
binary: {run: runs/any, threshold: 1e-1}
labels: {run: runs/which, threshold: {1: 0.25, 2: 0.5}}
masks: {run: runs/draw}
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def make_run(folder: Path, classes, *, draws=False, finished=True, size=None) -> Path:
    made = make_predictions(4, len(classes), folds=2, seed=1)
    ids = tuple(f"{row}.png" for row in range(4))
    table = Table(
        ids=ids,
        images=tuple(Path("x") / key for key in ids),
        classes=tuple(classes),
        targets=made.targets,
        exclusive=False,
        folds=made.folds,
    )
    run = create_run(folder, table, {"m": read_recipe({"decoder": {}} if draws else {})})
    if draws:
        plain = Candidate(threshold=0.5)
        cuts = (MaskCut(top=plain, bottom=plain),) * len(classes)
        write_mask_rule(
            run.cuts_file, MaskRule(classes=tuple(classes), kind="fixed", cuts=cuts, size=size)
        )
    if finished:
        run.scores_file.write_text("{}", encoding="utf-8")
    return folder


def test_paths_are_relative_to_the_file_and_numbers_are_read(tmp_path, monkeypatch):
    (tmp_path / "night").mkdir()
    path = write(tmp_path / "night" / "steel.yaml", STEEL)
    monkeypatch.chdir(tmp_path)
    cascade = read_cascade(path)
    assert cascade.stages == ("binary", "labels", "masks")
    assert cascade.masks.run == (tmp_path / "night" / "runs" / "draw",)
    assert cascade.binary.run == tmp_path / "night" / "runs" / "any"
    assert cascade.binary.rule is None
    assert cascade.binary.threshold == {"": 0.1}
    assert cascade.labels.threshold == {"1": 0.25, "2": 0.5}
    assert (cascade.gate, cascade.at_least_one, cascade.fitted) == ("hard", False, None)
    near = read_cascade({"masks": {"run": ["a", "b"]}, "binary": {"run": "c", "rule": "r.json"}})
    assert near.masks.run == (Path("a"), Path("b"))
    assert near.binary.rule == Path("r.json")


def test_absolute_paths_stay(tmp_path):
    path = write(tmp_path / "c.yaml", "masks: {run: /runs/draw}")
    assert read_cascade(path).masks.run == (Path("/runs/draw"),)


def test_the_cascade_that_comes_with_loupe_is_read():
    steel = read_cascade(Path(__file__).parents[2] / "cascades" / "steel.yaml")
    assert steel.stages == ("binary", "labels", "masks")
    assert steel.gate == "hard"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("binary: {run: a, treshold: 0.3}\nmask: {run: b}", [
            "unknown key 'binary.treshold'; did you mean 'threshold'",
            "unknown key 'mask'; did you mean 'masks'", "masks is missing",
        ]),
        ("masks: {run: a, rule: b}", ["unknown key 'masks.rule'", "known here: run"]),
        ("masks: {run: a}\ngate: hart", ["gate is 'hart': must be 'hard', 'per_image'"]),
        ("masks: {run: []}", ["masks.run is []: must have 1 entry or more"]),
        ("masks: a", ["masks is 'a': must be keys and their values, such as 'run: FOLDER'"]),
        ("masks: {run: a}\nbinary: {run: b, threshold: -1}", ["binary.threshold", "greater than"]),
        ("masks: {run: a}\nbinary: {run: b, threshold: {}}", ["threshold is {}: must have 1"]),
        ("masks: {run: a}\nbinary: {run: b, threshold: 1, rule: r}", [
            "binary: a rule and a threshold; expected one",
        ]),
        ("masks: {run: a}\ngate: product", ["gate: product needs labels or binary"]),
        ("masks: {run: a}\nlabels: {run: b, threshold: 1}\ngate: top", [
            "labels.rule and labels.threshold are for gate: hard",
        ]),
        ("masks: {run: a}\nbinary: {run: b}\nat_least_one: true", ["so it needs labels"]),
        ("- masks", ["expected 'key: value' lines, found list"]),
        ("masks: {run: a", ["not readable as YAML"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_at_once(tmp_path, text, told):
    path = write(tmp_path / "c.yaml", text)
    with pytest.raises(RecipeError) as caught:
        read_cascade(path)
    assert str(path) in str(caught.value)
    for each in told:
        assert each in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RecipeError, match="no such cascade file"):
        read_cascade(tmp_path / "none.yaml")


def test_stages_are_chosen_and_what_concerned_others_plays_no_part():
    parts = {name: {"run": name} for name in ("binary", "labels", "masks")}
    full = read_cascade({**parts, "at_least_one": True})
    assert choose_stages(full, ()) is full
    assert choose_stages(full, ["masks", "labels", "binary"]) == full
    assert choose_stages(full, ["masks"]) == read_cascade({"masks": {"run": "masks"}})
    two = choose_stages(full, ["masks", "binary"])
    assert (two.stages, two.at_least_one) == (("binary", "masks"), False)
    fitted = read_cascade({**parts, "gate": "product"})
    assert fitted.fitted is fitted.labels
    assert choose_stages(fitted, ["binary", "masks"]).fitted is fitted.binary
    assert choose_stages(fitted, ["masks"]).gate == "hard"


def test_a_threshold_that_a_fitted_gate_takes_the_place_of_is_told():
    cascade = read_cascade({
        "binary": {"run": "a", "threshold": 0.5}, "labels": {"run": "b"}, "masks": {"run": "c"},
        "gate": "per_image",
    })  # fmt: skip
    assert tell_idle(cascade) == ()
    (note,) = tell_idle(choose_stages(cascade, ["binary", "masks"]))
    assert "the rule or threshold of binary plays no part" in note


@pytest.mark.parametrize(
    ("stages", "told"),
    [
        (["masks", "lables"], "no stage 'lables'; did you mean 'labels'"),
        (["binary"], "'masks' is left out"),
        (["masks", "labels"], "the cascade has no labels"),
    ],
)
def test_stages_that_are_not_there(stages, told):
    cascade: Cascade = read_cascade({"binary": {"run": "a"}, "masks": {"run": "b"}})
    with pytest.raises(InputError, match=told):
        choose_stages(cascade, stages)


def test_runs_are_opened_and_their_classes_put_in_order(tmp_path):
    make_run(tmp_path / "any", ["defect"])
    make_run(tmp_path / "which", ["b", "c", "a"])
    make_run(tmp_path / "two", ["c", "b"], draws=True, size=(8, 9))
    make_run(tmp_path / "one", ["a"], draws=True, size=(8, 9))
    text = "binary: {run: any}\nlabels: {run: which}\nmasks: {run: [two, one]}"
    runs = open_runs(read_cascade(write(tmp_path / "c.yaml", text)))
    assert runs.classes == ("c", "b", "a")
    assert runs.size == (8, 9)
    assert [run.folder.name for run in runs.masks] == ["two", "one"]
    assert {name: run.folder.name for name, run in runs.presence.items()} == {
        "binary": "any", "labels": "which",
    }  # fmt: skip


def test_all_that_is_missing_is_named_but_only_of_stages_that_are_wanted(tmp_path):
    make_run(tmp_path / "draw", ["a"], draws=True)
    text = "binary: {run: any, rule: r.json}\nlabels: {run: which}\nmasks: {run: draw}"
    cascade = read_cascade(write(tmp_path / "c.yaml", text))
    with pytest.raises(RunError, match=r"binary.run: .*labels.run: .*binary.rule: no file"):
        open_runs(cascade)
    assert open_runs(choose_stages(cascade, ["masks"])).classes == ("a",)


def test_runs_that_do_another_work_are_refused_together(tmp_path):
    make_run(tmp_path / "names", ["a"])
    make_run(tmp_path / "draws", ["a"], draws=True, finished=False)
    text = "binary: {run: draws}\nmasks: {run: names}"
    with pytest.raises(RunError) as caught:
        open_runs(read_cascade(write(tmp_path / "c.yaml", text)))
    for told in ("draws masks; expected a run of", "names classes; expected", "not finished"):
        assert told in str(caught.value)


def test_classes_that_do_not_fit_are_named_on_both_sides(tmp_path):
    make_run(tmp_path / "any", ["yes", "no"])
    make_run(tmp_path / "which", ["fish", "suger", "gravel"])
    make_run(tmp_path / "draw", ["fish", "sugar"], draws=True)
    make_run(tmp_path / "more", ["fish"], draws=True, size=(8, 8))
    text = "binary: {run: any}\nlabels: {run: which}\nmasks: {run: [draw, more]}"
    with pytest.raises(AlignmentError) as caught:
        open_runs(read_cascade(write(tmp_path / "c.yaml", text)))
    for told in (
        "the classes fish have masks in more than one of",
        "any has 2 classes (yes, no); expected one column",
        "which has the classes fish, suger, gravel, the masks fish, sugar, fish",
        "it lacks 'sugar'; did you mean 'suger'",
        "'suger', 'gravel' have no masks",
        "masks are drawn at different sizes",
    ):
        assert told in str(caught.value)


def test_a_folder_in_place_of_the_file_is_told_what_it_may_be_for(tmp_path):
    with pytest.raises(RecipeError, match=r"is a folder; expected a YAML file.*loupe segment"):
        read_cascade(tmp_path)
