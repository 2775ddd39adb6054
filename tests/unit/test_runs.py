import json
import multiprocessing
from dataclasses import replace

import numpy as np
import pytest

from loupe.errors import RunError
from loupe.files import replacing, write_json, write_text
from loupe.images import InputSpec
from loupe.recipe import Recipe
from loupe.records import append_event, list_versions
from loupe.runs import create_run, open_run

RECIPES = {"a": Recipe(), "b": Recipe(seed=1)}


def write_lines(log: str, number: int) -> None:
    from pathlib import Path

    for line in range(100):
        append_event(Path(log), "epoch", number=number, line=line, text="x" * 3000)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    write_text(path, "old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_text() == "old"
    write_json(path, {"é": 1})
    assert json.loads(path.read_text(encoding="utf-8")) == {"é": 1}
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_run_gives_back_what_made_it(tmp_path, binary):
    run = create_run(tmp_path / "r", binary, RECIPES, ["LEAK: x"])
    again = open_run(str(tmp_path / "r"))
    assert again == run
    assert (again.members, again.folds) == (("a", "b"), (0, 1))
    assert again.table().digest() == binary.digest()
    assert again.member("b").recipe() == RECIPES["b"]
    assert again.manifest()["stamps"] == ["LEAK: x"]
    assert not again.finished
    with pytest.raises(RunError, match="training has not finished"):
        again.oof()


def test_the_input_is_stored_with_its_member(tmp_path, binary):
    member = create_run(tmp_path / "r", binary, RECIPES).member("a")
    spec = InputSpec(height=32, width=48, resize="pad", channels=1, mean=(0.3,), std=(0.7,))
    member.write_input(spec)
    assert member.input_spec() == spec


def test_the_same_table_and_recipes_open_the_run_again(tmp_path, binary):
    first = create_run(tmp_path / "r", binary, RECIPES)
    first.member("a").write_recipe(Recipe(seed=0, ema=0.5))  # as the probe does
    assert create_run(tmp_path / "r", binary, RECIPES) == first
    assert first.member("a").recipe().ema == 0.5


def test_another_table_recipe_or_stamp_is_refused(tmp_path, binary):
    create_run(tmp_path / "r", binary, RECIPES)
    folds = np.where(binary.folds == 0, 2, binary.folds).astype(np.int16)
    for said, table, recipes, stamps in [
        ("another table", replace(binary, origin="relabelled"), RECIPES, ()),
        ("another table and another folds", replace(binary, folds=folds), RECIPES, ()),
        ("another recipes", binary, {"a": Recipe(), "b": Recipe(seed=2)}, ()),
        ("another recipes", binary, {"a": Recipe()}, ()),
        ("another stamps", binary, RECIPES, ("LEAK",)),
    ]:
        with pytest.raises(RunError, match=said):
            create_run(tmp_path / "r", table, recipes, stamps)


def test_a_foreign_folder_is_left_alone(tmp_path, binary):
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "photos").mkdir()
    with pytest.raises(RunError, match=r"not empty and no run \(it holds photos, thesis.tex\)"):
        create_run(tmp_path, binary, RECIPES)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photos", "thesis.tex"]


def test_a_run_stopped_before_its_manifest_is_taken_over(tmp_path, binary):
    create_run(tmp_path / "r", binary, RECIPES)
    (tmp_path / "r" / "manifest.json").unlink()
    run = create_run(tmp_path / "r", binary, RECIPES)
    assert open_run(run.folder) == run


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        (None, "no run folder"),
        ({"kind": "bundle", "schema": 1}, "is a 'bundle' of schema 1"),
        ({"kind": "run", "schema": 99}, "of schema 99"),
    ],
)
def test_what_is_no_run_is_not_opened(tmp_path, manifest, said):
    if manifest is not None:
        write_json(tmp_path / "manifest.json", manifest)
    with pytest.raises(RunError, match=said):
        open_run(tmp_path)


def test_lines_of_several_processes_do_not_mix(tmp_path):
    log = tmp_path / "log.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_lines, args=(str(log), n)) for n in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(events) == 300
    for number in range(3):
        assert [e["line"] for e in events if e["number"] == number] == list(range(100))
    assert {e["event"] for e in events} == {"epoch"}


def test_versions_name_what_changes_numbers():
    assert {"python", "platform", "numpy", "torch", "timm"} <= list_versions().keys()
