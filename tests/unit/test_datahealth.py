"""The part of a report about the table: counts, findings, sizes and sample images."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from xml.dom import minidom

import numpy as np
import pytest
from PIL import Image

from loupe.checking import CheckReport, check
from loupe.datahealth import SHOWN_FINDINGS, _shorten_name, describe_table
from loupe.datasamples import MOST_SAMPLES, show_samples
from loupe.errors import InputError
from loupe.findings import Finding
from loupe.reportparts import Chart, Commands, Facts, Gallery, Grid, Section, Text
from loupe.table import HOLDOUT, Quarantined, Table

EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sizes of noise, twelve files."""
    made = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for k in range(12):
        shape = (20, 30, 3) if k < 8 else (40, 25, 3)
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(made / f"{k}.png")
    return made


def make(folder: Path, targets, *, exclusive: bool, names=None, **others) -> Table:
    targets = np.asarray(targets, np.float32)
    n, c = targets.shape
    return Table(
        ids=tuple(f"row-{k}" for k in range(n)),
        images=tuple(folder / f"{k % 12}.png" for k in range(n)),
        classes=tuple(names or (f"class {k}" for k in range(c))),
        targets=targets,
        exclusive=exclusive,
        **others,
    )


def one_hot(labels, classes: int) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[labels]


def found(section: Section, kind) -> list:
    return [block for block in section.blocks if isinstance(block, kind)]


def texts(section: Section, *tones: str) -> str:
    kept = [each for each in found(section, Text) if not tones or each.tone in tones]
    return "\n".join(each.text for each in kept)


def chart(section: Section, name: str) -> Chart:
    return next(each for each in found(section, Chart) if each.name == name)


def a_check(table: Table, findings=(), **others) -> CheckReport:
    return replace(check(table), findings=tuple(findings), **others)


def test_classes_are_counted_in_the_order_of_the_table(folder):
    table = make(folder, one_hot([0] * 7 + [2] * 4 + [1], 3), exclusive=True)
    section = describe_table(table, check=None)
    assert section.key == "data"
    assert "12 images, each of one of 3 classes." in texts(section)
    assert "'class 0' with 7 rows, the rarest 'class 1' with 1: 7.0 to 1." in texts(section)
    bars = chart(section, "class-counts")
    assert bars.header == ("class", "images", "share")
    assert [row[:2] for row in bars.rows] == [("class 0", "7"), ("class 1", "1"), ("class 2", "4")]
    assert "7 (58.3%)" in bars.svg
    assert not [each for each in found(section, Chart) if each.name == "classes-per-image"]


def test_one_class_is_set_beside_its_absence(folder):
    section = describe_table(make(folder, [[1]] * 3 + [[0]] * 9, exclusive=False), check=None)
    assert "12 images; 3 (25.0%) are 'class 0'." in texts(section)
    rows = chart(section, "class-counts").rows
    assert [row[:2] for row in rows] == [("class 0", "3"), ("not class 0", "9")]
    assert [each.title for each in found(section, Gallery)] == ["class 0", "not class 0"]


def test_classes_that_stand_alone_are_counted_by_image_too(folder):
    targets = [[1, 1, 0]] * 2 + [[0, 1, 0]] * 4 + [[0, 0, 0]] * 6
    section = describe_table(make(folder, targets, exclusive=False), check=None)
    assert "6 (50.0%) have none." in texts(section)
    assert chart(section, "classes-per-image").rows == (("0", "6"), ("1", "4"), ("2", "2"))
    assert "No row has 'class 2'." in texts(section, "bad")


def test_a_rare_class_is_a_warning(folder):
    section = describe_table(make(folder, one_hot([0] * 11 + [1], 2), exclusive=True), check=None)
    assert "11.0 to 1. Accuracy hides" in texts(section, "warn")


def test_what_else_the_table_says_is_told(folder):
    table = make(
        folder,
        one_hot([0, 1] * 6, 2),
        exclusive=True,
        groups=tuple("aab" * 4),
        weights=np.array([0] * 3 + [1] * 9, np.float32),
        folds=np.array([HOLDOUT, HOLDOUT, *[0, 1] * 5], np.int16),
        label_origins=("relabelled by rule, was cat",) * 2 + ("",) * 10,
        teachers=("run",) * 4 + ("",) * 8,
        quarantined=(Quarantined(id="x", reason="zero-byte"),),
        notes=("read by columns",),
    )
    section = describe_table(table, check=None)
    (facts,) = found(section, Facts)
    pairs = dict(facts.pairs)
    assert pairs["Labels relabelled by rule"] == "2 (16.7%)"
    assert pairs["Rows of weight 0"].startswith("3 (25.0%)")
    assert pairs["Rows labelled by networks"] == "4 (33.3%)"
    assert pairs["Groups"] == "2; the largest has 8"
    assert (pairs["Folds"], pairs["Rows kept apart"]) == ("2", "2 (16.7%)")
    assert pairs["Rows set aside before"] == "1"
    assert ("read by columns",) in found(section, Grid)[0].rows


def test_labels_that_are_missing_or_soft_are_told(folder):
    targets = [[0.6, 0.4], [np.nan, np.nan], *[[1, 0], [0, 1]] * 5]
    table = make(folder, targets, exclusive=False)
    pairs = dict(found(describe_table(table, check=None), Facts)[0].pairs)
    assert pairs["Rows with a label missing"] == pairs["Rows with labels between 0 and 1"]
    unlabelled = describe_table(make(folder, np.zeros((12, 0)), exclusive=False), check=None)
    assert "12 images without labels." in texts(unlabelled, "warn")
    assert len(found(unlabelled, Gallery)[0].pictures) == 6


def test_without_a_check_the_page_says_so_and_what_to_type(folder):
    table = make(folder, one_hot([0, 1] * 6, 2), exclusive=True)
    section = describe_table(table, check=None, source="labels.csv")
    assert "Not checked" in texts(section, "warn")
    assert ("loupe check labels.csv",) in [each.lines for each in found(section, Commands)]


def test_copies_and_contradictions_of_a_real_check_are_told(folder):
    # Rows 12 and 13 show the images of rows 0 and 1 again, one with another label.
    table = make(folder, one_hot([0, 1] * 6 + [1, 1], 2), exclusive=True)
    section = describe_table(table, check=check(table))
    assert "2 row(s) must be fixed or set aside." in texts(section, "bad")
    assert "4 rows are copies of each other, in 2 group(s)" in texts(section)
    kinds = next(grid for grid in found(section, Grid) if grid.title == "Findings by kind")
    assert ("contradiction", "2", "yes") in kinds.rows
    rows = next(grid for grid in found(section, Grid) if grid.title == "All findings").rows
    assert rows[0][:3] == ("row-0", "contradiction", "yes")


def test_of_many_findings_the_odd_ones_come_first(folder):
    table = make(folder, one_hot([0, 1] * 6, 2), exclusive=True)
    many = [
        Finding(id=f"row-{k}", finding="near-copy", severity="note", detail="near copy")
        for k in range(40)
    ]
    odd = Finding(id="row-3", finding="near-contradiction", severity="note", detail="odd")
    section = describe_table(table, check=a_check(table, [*many, odd]))
    assert "1 rows have a near copy with another label." in texts(section, "warn")
    grid = found(section, Grid)[-1]
    assert grid.title == "30 of 41 findings, rare kinds first"
    assert len(grid.rows) == SHOWN_FINDINGS
    assert grid.rows[0][1] == "near-contradiction"
    assert "nothing must be fixed" in texts(section, "good")


def test_a_check_of_another_table_is_refused(folder):
    table = make(folder, one_hot([0, 1] * 6, 2), exclusive=True)
    with pytest.raises(InputError, match="the check is about 12 rows, the table has 3"):
        describe_table(table.select([0, 1, 2]), check=a_check(table))


@pytest.mark.parametrize("checked", [True, False])
def test_sizes_are_drawn_and_a_single_one_is_said(folder, checked):
    table = make(folder, one_hot([0, 1] * 6, 2), exclusive=True)
    section = describe_table(table, check=check(table) if checked else None)
    assert "2 image sizes: median 20 x 30 pixels (h x w), heights from 20 to 40" in texts(section)
    assert chart(section, "image-sizes").rows == (("30", "20", "8"), ("25", "40", "4"))
    same = table.select(range(8))
    section = describe_table(same, check=check(same) if checked else None)
    assert "20 x 30 pixels (h x w)" in texts(section)
    assert [each.name for each in found(section, Chart)] == ["class-counts"]


def test_fifty_classes_with_any_names_fit(folder):
    names = [f"{['고양이', '猫', EVIL, 'long ' * 20, '$x$ & <b>'][k % 5]} {k}" for k in range(50)]
    table = make(folder, one_hot(np.arange(120) % 50, 50), exclusive=True, names=names)
    section = describe_table(table, check=None)
    bars = chart(section, "class-counts")
    assert len(bars.rows) == 50
    assert bars.rows[2][0] == f"{EVIL} 2"
    minidom.parseString(bars.svg)  # noqa: S318 - our own text
    assert "<script" not in bars.svg
    assert "고양이 0" in bars.svg
    (gallery,) = found(section, Gallery)
    assert gallery.title == "Samples: 1 of each class"
    assert len(gallery.pictures) == 50


def test_of_very_many_classes_the_ends_are_drawn_and_all_are_listed(folder):
    labels = np.repeat(np.arange(100), np.arange(1, 101))
    table = make(folder, one_hot(labels, 100), exclusive=True)
    section = describe_table(table, check=None)
    bars = chart(section, "class-counts")
    assert bars.title.endswith("the 30 most frequent and the 30 rarest")
    assert len(bars.rows) == 100
    assert ">class 99<" in bars.svg
    assert ">class 50<" not in bars.svg
    (gallery,) = found(section, Gallery)
    assert gallery.title.endswith("of the first 60 of 100")
    assert len(gallery.pictures) == MOST_SAMPLES


def test_samples_are_of_their_class_and_the_same_for_a_seed(folder):
    table = make(folder, one_hot(np.arange(60) % 3, 3), exclusive=True)
    galleries = list(show_samples(table, seed=1))
    assert galleries == list(show_samples(table, seed=1))
    assert galleries != list(show_samples(table, seed=2))
    assert [len(each.pictures) for each in galleries] == [6, 6, 6]
    for number, gallery in enumerate(galleries):
        assert {lines[1] for lines in (each.lines for each in gallery.pictures)} == {
            f"given: class {number}"
        }
    assert "class 1" in galleries[1].pictures[0].alt


def test_a_row_of_two_classes_is_shown_once_if_there_are_others(folder):
    targets = [[1, 1]] * 6 + [[0, 1]] * 6
    first, second = list(show_samples(make(folder, targets, exclusive=False)))[:2]
    assert {each.lines[0] for each in first.pictures}.isdisjoint(
        each.lines[0] for each in second.pictures
    )
    assert first.pictures[0].lines[1] == "given: class 0, class 1"


def test_masks_are_drawn_and_their_colour_is_named(folder):
    targets = [[0, 1]] * 6 + [[0, 0]] * 6
    masks = (("", "1 40"),) * 5 + (("", "1 999999"),) + (("", ""),) * 6
    table = make(folder, targets, exclusive=False, masks=masks)
    told, gallery, none = show_samples(table)
    assert "in the colour named with its class" in told.text
    lines = sorted(each.lines for each in gallery.pictures)
    assert lines[0] == ("row-0", "given: class 1 (sky blue)")
    assert lines[5][2] == "its mask does not fit the image"
    assert none.pictures[0].lines[1] == "given: none of the classes"
    pixels = np.asarray(Image.open(io.BytesIO(gallery.pictures[0].data)))
    assert pixels.shape == (100, 150, 3)  # each pixel five by five


def test_damaged_files_are_passed_over(folder, tmp_path):
    table = make(folder, one_hot([0] * 12, 2), exclusive=True)
    images = (*table.images[:10], tmp_path / "gone.png", tmp_path / "gone.png")
    (gallery,) = show_samples(replace(table, images=images))
    assert len(gallery.pictures) == 6
    gone = replace(table, images=(tmp_path / "gone.png",) * 12)
    section = describe_table(gone, check=check(gone))
    assert not found(section, Gallery)
    assert "12 row(s) must be fixed" in texts(section, "bad")


def test_long_names_lose_their_middle():
    assert _shorten_name("short\nname") == "short name"
    assert _shorten_name("a" * 20 + "b" * 20) == "a" * 15 + "…" + "b" * 14
    korean = _shorten_name("고" * 40)
    assert len(korean) == 15
    assert "…" in korean
