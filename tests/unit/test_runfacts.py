"""Facts are those of the run folder, and the commands do what they say."""

from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loupe.blended import Blended, Source
from loupe.reportparts import Commands, Facts, Grid, Section, Text
from loupe.runfacts import describe_commands, describe_facts, name_source, read_events
from loupe.runs import Run, create_blend, open_run


def grids(section: Section) -> dict[str, Grid]:
    return {block.title: block for block in section.blocks if isinstance(block, Grid)}


def pairs(section: Section) -> dict[str, str]:
    return dict(next(block for block in section.blocks if isinstance(block, Facts)).pairs)


def lines(section: Section) -> list[str]:
    return [line for block in section.blocks if isinstance(block, Commands) for line in block.lines]


def words(section: Section) -> str:
    return " ".join(block.text for block in section.blocks if isinstance(block, Text))


@pytest.fixture
def run(tmp_path: Path, finished: Any) -> Run:
    shutil.copytree(finished.folder, tmp_path / "run")
    return open_run(tmp_path / "run")


def stamp(run: Run, *stamps: str) -> None:
    path = run.folder / "manifest.json"
    values = json.loads(path.read_text(encoding="utf-8")) | {"stamps": list(stamps)}
    path.write_text(json.dumps(values), encoding="utf-8")


def test_members_versions_and_time_are_those_of_the_run(run: Run) -> None:
    section = describe_facts(run)
    found = pairs(section)
    assert found["kind"] == "names classes"
    assert found["device"] == "cpu"
    assert "interruptions" not in found
    versions = json.loads((run.folder / "versions.json").read_text(encoding="utf-8"))
    assert found["machine"] == versions["platform"]
    members = {row[0]: row for row in grids(section)["Members"].rows}
    assert set(members) == {"full", "head"}
    assert members["full"][1] == "test_resnet"
    assert members["full"][3:6] == ("32 x 32", "all", "2")
    assert members["head"][5] == "solved"
    assert members["full"][2].endswith(" M")
    assert ("torch", versions["torch"]) in grids(section)["Versions"].rows
    times = grids(section)["Time by part (folds may have run side by side)"]
    assert {(row[1], row[2]) for row in times.rows if row[0] == "training"} == {
        (name, fold) for name in ("full", "head") for fold in "01"
    }


def test_settings_that_members_share_stand_once(run: Run) -> None:
    found = grids(describe_facts(run))
    shared = {row[0]: row[1] for row in found["Recipe, shared settings"].rows}
    assert shared["input.size"] == "[32, 32]"
    differing = found["Settings in which members differ"].rows
    assert ("seed", "full", "3") in differing
    assert ("seed", "head", "0") in differing
    assert not {row[0] for row in differing} & set(shared)
    alone = grids(describe_facts(replace(run, members=("full",))))
    assert ("stages.0.lr", "0.001") in alone["Recipe of full"].rows


def test_stamps_and_interruptions_are_told(run: Run) -> None:
    stamp(run, "LEAK: copies cross")
    with run.log.open("a", encoding="utf-8") as stream:
        stream.write('{"time_s": 1, "event": "start", "device": "cuda"}\n{"time_s": 2, "ev')
    section = describe_facts(run)
    assert "LEAK: copies cross" in words(section)
    assert pairs(section)["interruptions"] == "1, each continued"
    assert pairs(section)["device"] == "cpu, cuda"
    assert all("event" in event for event in read_events(run))


def test_the_exact_command_trains_the_same_again(
    run: Run, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = replace(run, members=("head",))
    line = next(line for line in lines(describe_commands(one)) if line.startswith("python"))
    program, option, code = shlex.split(line)
    assert (program, option) == ("python", "-c")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOUPE_WEIGHTS", str(weights))
    # The whole run; its own process would only import everything again.
    code = code.replace('"again")', '"again", executor="serial", device="cpu")')
    exec(code, {})  # noqa: S102
    again = open_run(tmp_path / "again")
    assert again.manifest()["table"] == run.manifest()["table"]
    old, new = (json.loads(each.scores_file.read_text()) for each in (run, again))
    assert new["scores"] == old["scores"]


def test_commands_name_what_is_not_known(run: Run) -> None:
    section = describe_commands(run)
    train = next(line for line in lines(section) if line.startswith("loupe train"))
    assert shlex.split(train) == [
        *("loupe", "train", "TABLE", "full.yaml", "head.yaml"),
        *("--images", "IMAGES", "--folds", "2", "--out", "again"),
    ]
    assert f"cp {run.folder}/full/recipe.yaml full.yaml" in lines(section)
    assert "does not keep its folder" in words(section)
    assert f"loupe report {run.folder}" in lines(section)
    assert any(line.startswith(f"loupe predict {run.folder}") for line in lines(section))
    assert len([line for line in lines(section) if line.startswith("loupe decide")]) == 2
    given = describe_commands(run, "my table.csv", "pictures")
    assert any("'my table.csv'" in line for line in lines(given))
    assert "does not keep its folder" not in words(given)


def test_a_leak_has_to_be_allowed_again(run: Run) -> None:
    stamp(run, "LEAK: copies cross")
    found = lines(describe_commands(run))
    assert any(line.endswith("--allow-leak --out again") for line in found)
    assert any("allow_leak=True" in line for line in found)


def test_a_run_on_all_rows_is_made_from_its_source(run: Run) -> None:
    path = run.folder / "manifest.json"
    values = json.loads(path.read_text(encoding="utf-8")) | {"folds": [-1], "refit_of": "runs/a"}
    path.write_text(json.dumps(values), encoding="utf-8")
    again = open_run(run.folder)
    found = lines(describe_commands(again))
    assert found[0] == "loupe train TABLE --images IMAGES --refit runs/a --out again"
    assert not any("decide" in line or "python" in line for line in found)
    assert pairs(describe_facts(again))["kind"].endswith("trained on all rows, after runs/a")


def test_masks_have_their_own_commands(segmented: Any) -> None:
    found = lines(describe_commands(segmented))
    assert any(line.startswith("loupe segment") for line in found)
    assert not any(line.startswith(("loupe decide", "loupe predict")) for line in found)
    assert pairs(describe_facts(segmented))["kind"] == "draws masks"
    assert "+ Unet" in grids(describe_facts(segmented))["Members"].rows[0][1]


def test_a_blend_names_its_sources(run: Run, tmp_path: Path) -> None:
    blend = Blended(
        sources=(Source(place="../run", member="full"), Source(place="../run", member="head")),
        weights=(0.8, 0.2),
        method="given",
        metric="accuracy",
    )
    made = create_blend(tmp_path / "blend", run.table(), ("full", "head"), blend, ())
    assert grids(describe_facts(made))["Sources of the blend"].rows == (
        ("../run", "full", "0.800"),
        ("../run", "head", "0.200"),
    )
    assert any("--weights 0.8,0.2" in line for line in lines(describe_commands(made)))


def test_the_source_is_read_from_the_first_note(run: Run) -> None:
    table = run.table()
    named = replace(table, notes=("my: labels.csv: layout 'classes'; image column 'a'", "other"))
    assert name_source(named) == "my: labels.csv"
    assert name_source(replace(table, notes=("said something",))) == ""
    assert name_source(replace(table, notes=())) == ""
