"""Masks of anyone's submission against given ones: by hand, by pixels, and what is refused."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loupe.dices import METRICS, make_pairs, measure_dice
from loupe.errors import AlignmentError, MaskError, TableError
from loupe.layouts import read_table
from loupe.maskgrading import measure_overlap, measure_sheet, score_masks, write_mask_graded
from loupe.masks import encode_rle, read_runs, resize_mask
from loupe.masksheets import Masks, make_form, read_mask_sheet, write_mask_sheet
from loupe.table import HOLDOUT, Layout, Table

CLASSES = ("a", "b")
SIZES = ((12, 20), (30, 17), (16, 16), (12, 20))


def draw(rng, size, share=0.5):
    """A rectangle, or nothing."""
    mask = np.zeros(size, bool)
    if rng.random() < share:
        top, left = (int(rng.integers(0, side - 4)) for side in size)
        mask[top : top + rng.integers(2, size[0]), left : left + rng.integers(2, size[1])] = True
    return mask


def make_table(folder: Path, seed=0, share=0.7, **more) -> tuple[Table, list]:
    """Four images, and their masks as pixels."""
    rng = np.random.default_rng(seed)
    folder.mkdir(exist_ok=True)
    masks = [[draw(rng, size, share) for _ in CLASSES] for size in SIZES]
    paths = []
    for row, size in enumerate(SIZES):
        paths.append(folder / f"{row}.png")
        Image.fromarray(np.zeros(size, np.uint8)).save(paths[-1])
    texts = tuple(tuple(encode_rle(mask) for mask in row) for row in masks)
    table = Table(
        ids=tuple(path.name for path in paths),
        images=tuple(paths),
        classes=CLASSES,
        targets=np.array([[bool(text) for text in row] for row in texts], np.float32),
        exclusive=False,
        masks=texts,
        **more,
    )
    return table, masks


def make_sheet(ids, masks, classes=CLASSES, **more) -> Masks:
    texts = tuple(tuple(encode_rle(mask) for mask in row) for row in masks)
    return Masks(ids=tuple(ids), classes=classes, texts=texts, **more)


def count(mine, given):
    """Areas by pixels."""
    areas = [
        [(g.sum(), m.sum(), (g & m).sum()) for m, g in zip(*rows, strict=True)]
        for rows in zip(mine, given, strict=True)
    ]
    return make_pairs(*np.moveaxis(np.array(areas), 2, 0))


def assert_same(found, expected):
    for name in ("truth", "predicted", "intersection"):
        assert getattr(found, name).tolist() == getattr(expected, name).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_overlap_by_runs_is_that_of_pixels(seed):
    rng = np.random.default_rng(seed)
    one, two = rng.random((2, 13, 11)) < rng.random((2, 1, 1))
    runs = [read_runs(encode_rle(mask)) for mask in (one, two)]
    assert measure_overlap(*runs) == (one & two).sum()
    assert measure_overlap(runs[0], read_runs("")) == 0


def test_areas_are_those_of_pixels_in_the_order_of_the_table(tmp_path):
    table, given = make_table(tmp_path)
    rng = np.random.default_rng(9)
    mine = [[draw(rng, size) for _ in CLASSES] for size in SIZES]
    turned = [[row[1], row[0]] for row in mine[::-1]]
    sheet = make_sheet(table.ids[::-1], turned, classes=CLASSES[::-1])
    assert_same(measure_sheet(sheet, table), count(mine, given))


def test_given_masks_are_resized_to_the_size_of_the_submission(tmp_path):
    table, given = make_table(tmp_path)
    rng = np.random.default_rng(9)
    mine = [[draw(rng, (10, 14)) for _ in CLASSES] for _ in SIZES]
    small = [[resize_mask(mask, (10, 14)) for mask in row] for row in given]
    expected = count(mine, small)
    sheet = make_sheet(table.ids, mine)
    assert_same(measure_sheet(sheet, table, size=(10, 14)), expected)
    known = replace(sheet, sizes=np.array([(10, 14)] * 4))
    assert_same(measure_sheet(known, table), expected)
    assert_same(measure_sheet(known, table, size=(10, 14)), expected)
    with pytest.raises(AlignmentError, match=r"4 images are not of the size 9 x 14.*'0\.png'"):
        measure_sheet(known, table, size=(9, 14))


def test_scores_of_a_file_are_exact(tmp_path):
    table, given = make_table(tmp_path, groups=("g", "g", "h", "i"))
    rng = np.random.default_rng(9)
    mine = [[draw(rng, size) for _ in CLASSES] for size in SIZES]
    path = tmp_path / "mine.csv"
    write_mask_sheet(path, make_sheet(table.ids, mine))
    graded = score_masks(path, table, resamples=50)
    pairs = count(mine, given)
    scores = {(s.metric, s.class_name): s.value for s in graded.scores}
    assert set(scores) == {(metric, name) for metric in METRICS for name in ("", *CLASSES)}
    assert scores["dice_per_pair_empty1", ""] == pytest.approx(measure_dice(pairs).mean())
    assert scores["dice_per_pair_empty1", "b"] == pytest.approx(measure_dice(pairs)[:, 1].mean())
    assert scores["all_empty", ""] == pytest.approx((pairs.truth == 0).mean())
    assert (graded.rows, graded.classes, graded.source) == (4, CLASSES, str(path))
    assert len(graded.factors) == 3
    assert graded.factors[0].score == pytest.approx(scores["dice_per_pair_empty1", ""])
    empty = [[np.zeros(size, bool)] * 2 for size in SIZES]
    blank = score_masks(make_sheet(table.ids, empty), table, resamples=0)
    assert blank.scores[0].value == pytest.approx(scores["all_empty", ""])
    perfect = score_masks(make_sheet(table.ids, given), table, resamples=0)
    assert perfect.scores[0].value == 1


def test_scores_are_written_as_json(tmp_path):
    table, given = make_table(tmp_path)
    graded = score_masks(make_sheet(table.ids, given), table, resamples=0)
    write_mask_graded(graded, tmp_path)
    values = json.loads((tmp_path / "score.json").read_text())
    assert (values["kind"], values["rows"], values["classes"]) == ("mask score", 4, ["a", "b"])
    assert (values["scores"][0]["value"], values["scores"][0]["low"]) == (1.0, None)
    assert len(values["factors"]) == 3


def test_intervals_go_by_groups(tmp_path):
    table, given = make_table(tmp_path)
    mine = [[np.zeros_like(mask) for mask in row] for row in given]
    mine[0] = given[0]
    sheet = make_sheet(table.ids, mine)
    alone = score_masks(sheet, table).scores[0]
    pairs = score_masks(sheet, replace(table, groups=("g", "g", "h", "h"))).scores[0]
    assert alone.value == pairs.value
    assert (alone.low, alone.high) != (pairs.low, pairs.high)


def test_only_a_hold_out_is_scored_where_there_is_one(tmp_path):
    table, given = make_table(tmp_path, folds=np.array([0, HOLDOUT, 1, HOLDOUT], np.int16))
    graded = score_masks(make_sheet(table.ids, given), table, resamples=0)
    assert graded.rows == 2
    assert any("2 of 4 rows" in note for note in graded.notes)
    assert any("2 images of the submission are not among" in note for note in graded.notes)
    held = make_sheet(table.ids[1::2], given[1::2])
    assert score_masks(held, table, resamples=0).scores[0].value == 1


# Matching -----------------------------------------------------------------------------------------


def test_missing_rows_are_all_named(tmp_path):
    table, given = make_table(tmp_path)
    sheet = make_sheet(["x/1.png", "2.png"], given[1:3])
    with pytest.raises(AlignmentError, match=r"3 of 4 rows.*'0\.png', '1\.png', '3\.png'.*folder"):
        score_masks(sheet, table)


def test_missing_and_strange_classes(tmp_path):
    table, given = make_table(tmp_path)
    one = [[row[0]] for row in given]
    with pytest.raises(AlignmentError, match=r"1 of 2 classes.*'b'"):
        score_masks(make_sheet(table.ids, one, classes=("a",)), table)
    three = [[*row, row[0]] for row in given]
    more = make_sheet(table.ids, three, classes=("a", "b", "bb"))
    with pytest.raises(AlignmentError, match=r"does not know: 'bb'; did you mean 'b'"):
        score_masks(more, table)
    # A table that lists what occurs has none of the others: their masks are all wrong.
    listed = replace(table, layout=Layout(name="rle-rows"))
    graded = score_masks(more, listed, resamples=0)
    assert graded.classes == ("a", "b", "bb")
    last = next(s for s in graded.scores if (s.metric, s.class_name) == ("all_empty", "bb"))
    assert last.value == 1
    assert any("no row of the table is of class bb" in note for note in graded.notes)


def test_a_file_with_a_row_for_each_mask_may_lack_a_class(tmp_path):
    table, given = make_table(tmp_path, share=1.0)
    path = tmp_path / "rows.csv"
    lines = [f"{key},a,{encode_rle(row[0])}" for key, row in zip(table.ids, given, strict=True)]
    path.write_text("\n".join(["ImageId,ClassId,EncodedPixels", *lines]) + "\n")
    graded = score_masks(path, table, resamples=0)
    by_name = {s.class_name: s.value for s in graded.scores if s.metric == "dice_nonempty"}
    assert by_name == {"": 0.5, "a": 1.0, "b": 0.0}
    assert any("no mask is of class b" in note for note in graded.notes)


def test_classes_may_be_written_as_the_numbers_of_the_table(tmp_path):
    table, given = make_table(tmp_path)
    table = replace(table, layout=Layout(name="rle-joined", numbers=("1", "2")))
    sheet = make_sheet(table.ids, given, classes=("1", "2"))
    assert score_masks(sheet, table, resamples=0).scores[0].value == 1


def test_single_classes_need_not_have_one_name(tmp_path):
    table, given = make_table(tmp_path)
    one = replace(
        table,
        classes=("crack",),
        targets=table.targets[:, :1],
        masks=tuple(row[:1] for row in table.masks),
    )
    sheet = make_sheet(table.ids, [[row[0]] for row in given], classes=("mask",))
    graded = score_masks(replace(sheet, form=make_form("rle-single")), one, resamples=0)
    assert graded.scores[0].value == 1
    assert "'mask' is taken for the one class 'crack'" in graded.notes


# Faults -------------------------------------------------------------------------------------------


def test_masks_that_reach_beyond_their_image_are_all_named(tmp_path):
    table, given = make_table(tmp_path)
    sheet = make_sheet(table.ids, given)
    texts = [list(row) for row in sheet.texts]
    texts[0][1], texts[2][0] = "240 2", "256 2"
    broken = replace(sheet, texts=tuple(map(tuple, texts)))
    with pytest.raises(MaskError, match=r"2 mask\(s\) of the submission.*'0\.png', class 'b'.*'2"):
        score_masks(broken, table)
    with pytest.raises(MaskError, match=r"1 mask\(s\) of the table"):
        score_masks(sheet, replace(table, masks=(("", "999 9"), *table.masks[1:])))


def test_without_images_masks_are_compared_as_they_are(tmp_path):
    table, given = make_table(tmp_path)
    gone = replace(table, images=tuple(Path("/nowhere") / key for key in table.ids))
    sheet = make_sheet(table.ids, given)
    graded = score_masks(sheet, gone, resamples=0)
    assert graded.scores[0].value == 1
    assert any("4 of 4 images cannot be read" in note for note in graded.notes)
    with pytest.raises(TableError, match="sizes of 4 images are needed"):
        score_masks(sheet, gone, size=(9, 9))


def test_masks_of_another_size_are_suspected(tmp_path):
    big = np.zeros((60, 80), bool)
    big[5:55, 5:75] = True
    Image.fromarray(np.zeros((60, 80), np.uint8)).save(tmp_path / "0.png")
    table = Table(
        ids=("0.png",), images=(tmp_path / "0.png",), classes=("a",),
        targets=np.ones((1, 1), np.float32), exclusive=False, masks=((encode_rle(big),),),
    )  # fmt: skip
    small = make_sheet(["0.png"], [[resize_mask(big, (30, 40))]], classes=("a",))
    assert any("30 pixels high" in note for note in score_masks(small, table).notes)
    sized = score_masks(small, table, size=(30, 40), resamples=0)
    assert (sized.scores[0].value, sized.notes) == (1, ("1 rows are scored",))


def test_tables_without_masks_are_refused(tmp_path):
    table, given = make_table(tmp_path)
    sheet = make_sheet(table.ids, given)
    with pytest.raises(TableError, match="has no masks"):
        score_masks(sheet, replace(table, masks=None))


def test_files_of_both_are_read(tmp_path):
    table, given = make_table(tmp_path / "images")
    path = tmp_path / "images" / "train.csv"
    write_mask_sheet(path, make_sheet(table.ids, given))
    graded = score_masks(str(path), read_table(path, images=tmp_path / "images"), resamples=0)
    assert graded.scores[0].value == 1
    assert score_masks(read_mask_sheet(path), path, resamples=0).source == "masks"


def test_no_torch_is_imported():
    # What another test imported does not count.
    import subprocess

    code = "import sys, loupe.maskgrading; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
