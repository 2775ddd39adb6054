"""The sections on masks repeat stored scores, and say when empty masks would do as well."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("matplotlib")

from loupe.gatetrials import GateTrial
from loupe.intervals import Difference
from loupe.maskcharts import FACTORS, describe_masks, list_useless
from loupe.reportparts import Chart, Commands, Gallery, Grid, Section, Text
from loupe.runs import Run, open_run
from loupe.scoring import read_scores
from loupe.variants import Variants


def pick(sections: tuple[Section, ...], kind: type) -> list[Any]:
    return [block for each in sections for block in each.blocks if isinstance(block, kind)]


@pytest.fixture
def run(tmp_path: Path, segmented: Any) -> Run:
    shutil.copytree(segmented.folder, tmp_path / "run")
    return open_run(tmp_path / "run")


def set_scores(run: Run, **changes: float) -> None:
    """Change stored scores of all classes together and of each."""
    values = json.loads(run.scores_file.read_text(encoding="utf-8"))
    for each in values["scores"]["all"]:
        if each["metric"] in changes:
            each["value"] = changes[each["metric"]]
    run.scores_file.write_text(json.dumps(values), encoding="utf-8")


def trial(name: str, dice: float, *, best: bool = False, class_name: str = "") -> GateTrial:
    return GateTrial(
        name=name,
        class_name=class_name,
        dice=dice,
        low=dice - 0.1,
        high=dice + 0.1,
        difference=Difference(metric="d", value=dice - 0.5, low=0.01, high=0.2, p_value=0.01),
        p_value=0.02,
        specificity=0.9,
        recall=0.8,
        dice_given_found=0.7,
        emptied=3,
        refilled=0,
        best=best,
    )


def test_a_run_of_labels_has_no_such_sections(finished: Any) -> None:
    assert describe_masks(finished) == ()


def test_dice_and_its_factors_are_those_that_are_stored(run: Run) -> None:
    sections = describe_masks(run)
    assert [each.key for each in sections] == ["masks", "gates", "examples"]
    found = {chart.name: chart for chart in pick(sections, Chart)}
    assert set(found) == {"mask-dice", "mask-factors"}
    stored = {(s.metric, s.class_name): s for s in read_scores(run)}
    rows = {row[0]: row for row in found["mask-dice"].rows}
    assert set(rows) == {"all classes", "red", "green"}
    assert float(rows["red"][1]) == pytest.approx(
        stored["dice_per_pair_empty1", "red"].value, abs=1e-5
    )
    assert float(rows["red"][4]) == pytest.approx(stored["all_empty", "red"].value, abs=1e-5)
    assert len(found["mask-factors"].rows) == 3 * len(FACTORS)
    grid = next(grid for grid in pick(sections, Grid) if "How maps" in grid.title)
    assert [row[0] for row in grid.rows] == ["red", "green"]


def test_masks_that_do_no_better_than_empty_ones_are_bad(run: Run) -> None:
    set_scores(run, dice_per_pair_empty1=0.4, all_empty=0.5)
    sections = describe_masks(run)
    assert pick(sections, Text)[0].tone == "bad"
    assert list_useless(read_scores(run)) == ("red", "green")
    chart = pick(sections, Chart)[0]
    assert "2 of 2 classes score no more than empty masks" in chart.alt
    set_scores(run, dice_per_pair_empty1=0.6)
    assert pick(describe_masks(run), Text)[0].tone == "plain"
    assert list_useless(read_scores(run)) == ()


def test_undefined_factors_are_left_out(run: Run) -> None:
    set_scores(run, dice_given_found=float("nan"))
    rows = {row[:2]: row for row in pick(describe_masks(run), Chart)[1].rows}
    assert rows["red", "dice_given_found"][2] == ""


def test_without_a_comparison_there_is_the_command(run: Run) -> None:
    gates = describe_masks(run)[1]
    (commands,) = [block for block in gates.blocks if isinstance(block, Commands)]
    assert commands.lines == ("loupe cascade CASCADE.yaml",)
    assert f"masks: {{run: {run.folder}}}" in gates.blocks[0].text  # type: ignore[union-attr]


@pytest.mark.parametrize("best", ["masks", "labels+masks"])
def test_variants_are_compared_with_the_masks_alone(run: Run, best: str) -> None:
    trials = (trial("masks", 0.5), trial("labels+masks", 0.6, best=best != "masks"))
    variants = Variants(
        trials=(*trials, trial("masks", 0.4, class_name="red")),
        best=best,
        best_by_class=(best, best),
        reach=(),
        classes=("red", "green"),
        rows=12,
        stamps=("LEAK: said first",),
    )
    gates = describe_masks(run, variants)[1]
    texts = [block for block in gates.blocks if isinstance(block, Text)]
    assert texts[0].tone == "bad"
    assert ("beyond what chance explains" in texts[1].text) == (best == "masks")
    if best != "masks":
        assert "labels+masks, Dice 0.600 in place of 0.500 (+0.100" in texts[1].text
    (chart,) = [block for block in gates.blocks if isinstance(block, Chart)]
    assert [row[0] for row in chart.rows] == ["masks", "labels+masks"]
    (grid,) = [block for block in gates.blocks if isinstance(block, Grid)]
    assert [row[0] for row in grid.rows] == ["all classes", "all classes", "red"]


def test_the_sheet_of_examples_fits_a_page(run: Run) -> None:
    Image.new("RGB", (3000, 1200)).save(run.contact_file)
    (gallery,) = pick(describe_masks(run), Gallery)
    with Image.open(io.BytesIO(gallery.pictures[0].data)) as image:
        assert image.format == "JPEG"
        assert image.width < 1500
        assert image.width / image.height == pytest.approx(2.5, rel=0.01)
    run.contact_file.unlink()
    assert not pick(describe_masks(run), Gallery)


def test_fifty_classes_of_any_script_are_drawn(run: Run) -> None:
    values = json.loads(run.scores_file.read_text(encoding="utf-8"))
    listed = values["scores"]["all"]
    whole = [each for each in listed if not each["class_name"]]
    red = [each for each in listed if each["class_name"] == "red"]
    names = ["<script>alert(1)</script>", "균열", *(f"class {n}" for n in range(48))]
    many = [{**each, "class_name": name} for name in names for each in red]
    values["scores"]["all"] = [*whole, *many]
    run.scores_file.write_text(json.dumps(values), encoding="utf-8")
    chart = pick(describe_masks(replace(run)), Chart)[0]
    assert len(chart.rows) == 51
    assert "<script>" not in chart.svg
    assert "균열" in chart.svg
