"""Mask sheets: three layouts read, and written again byte by byte."""

import time

import numpy as np
import pytest

from loupe.errors import MaskError, TableError
from loupe.masks import decode_rle, encode_rle
from loupe.masksheets import (
    Masks,
    make_form,
    read_mask_sheet,
    resize_sheet,
    write_mask_sheet,
)

FILES = {
    "clouds": "Image_Label,EncodedPixels\n"
    "b.jpg_Fish,1 3 10 5\nb.jpg_Sugar,\na.jpg_Sugar,2 2\na.jpg_Fish,\n",
    "steel before": "ImageId_ClassId,EncodedPixels\r\n0a.jpg_1,\r\n0a.jpg_2,4 4 9 1\r\n",
    "steel": "ImageId,ClassId,EncodedPixels\nx.jpg,3,1 20\ny.jpg,1,  1  3 10 5  \n",
    "salt": "id,rle_mask\nfirst,\nsecond,1 1",
    "no mask is -1": 'ImageId,EncodedPixels\n"1.2.3",-1\n4.5.6,"7 1"\n',
    "nan, extra columns": "n;Image_Label;EncodedPixels;by\n"
    "7;a.png_x;nan;me\n8;a.png_y;1 2;'you'\n\n",
    "all quoted, marked": '\ufeff"Image_Label","EncodedPixels"\n"a.png_x","1 2"\n',
}


def write(tmp_path, text):
    path = tmp_path / "in.csv"
    path.write_bytes(text.encode())
    return path


def rewrite(tmp_path, masks):
    write_mask_sheet(tmp_path / "out.csv", masks)
    return (tmp_path / "out.csv").read_bytes().decode()


def swap(masks, row, column, text):
    texts = [list(line) for line in masks.texts]
    texts[row][column] = text
    return Masks(
        ids=masks.ids,
        classes=masks.classes,
        texts=tuple(map(tuple, texts)),
        sizes=masks.sizes,
        form=masks.form,
    )


@pytest.mark.parametrize("name", FILES)
def test_an_unchanged_file_is_written_byte_by_byte(tmp_path, name):
    masks = read_mask_sheet(write(tmp_path, FILES[name]), sizes=(4, 5))
    assert rewrite(tmp_path, masks) == FILES[name]


def test_images_keep_their_order_and_classes_are_sorted(tmp_path):
    masks = read_mask_sheet(write(tmp_path, FILES["clouds"]))
    assert (masks.ids, masks.classes) == (("b.jpg", "a.jpg"), ("Fish", "Sugar"))
    assert masks.texts == (("1 3 10 5", ""), ("", "2 2"))
    assert masks.present.tolist() == [[True, False], [False, True]]
    assert masks.sizes is None


def test_classes_may_be_given_in_another_order_and_without_rows(tmp_path):
    path = write(tmp_path, FILES["clouds"])
    masks = read_mask_sheet(path, classes=("Sugar", "Gravel", "Fish"))
    assert masks.texts == (("", "", "1 3 10 5"), ("2 2", "", ""))
    assert rewrite(tmp_path, masks) == FILES["clouds"]
    with pytest.raises(MaskError, match=r"2 row\(s\) are of classes .*'Fish'.* lines 2, 5"):
        read_mask_sheet(path, classes=("Sugar", "Gravel"))


def test_the_one_class_of_a_file_without_classes_may_have_a_name(tmp_path):
    path = write(tmp_path, FILES["salt"])
    masks = read_mask_sheet(path, classes=["salt"])
    assert (masks.classes, masks.texts) == (("salt",), (("",), ("1 1",)))
    assert rewrite(tmp_path, masks) == FILES["salt"]
    with pytest.raises(MaskError, match="tell no class from another, but 2"):
        read_mask_sheet(path, classes=["salt", "sand"])


def test_a_changed_mask_changes_its_own_row_alone(tmp_path):
    masks = read_mask_sheet(write(tmp_path, FILES["nan, extra columns"]))
    emptied = rewrite(tmp_path, swap(masks, 0, 1, ""))
    assert emptied == FILES["nan, extra columns"].replace("1 2;", "nan;")
    filled = rewrite(tmp_path, swap(masks, 0, 0, "5 1"))
    assert filled == FILES["nan, extra columns"].replace("nan;", "5 1;")


def test_quotes_line_ends_and_a_missing_last_one_stay(tmp_path):
    masks = read_mask_sheet(write(tmp_path, FILES["steel before"]))
    assert rewrite(tmp_path, swap(masks, 0, 0, "1 1")).splitlines(keepends=True)[1:] == [
        "0a.jpg_1,1 1\r\n",
        "0a.jpg_2,4 4 9 1\r\n",
    ]
    masks = read_mask_sheet(write(tmp_path, FILES["salt"]))
    assert rewrite(tmp_path, swap(masks, 1, 0, "")) == "id,rle_mask\nfirst,\nsecond,"
    masks = read_mask_sheet(write(tmp_path, FILES["all quoted, marked"]))
    assert rewrite(tmp_path, swap(masks, 0, 0, "")).endswith('"a.png_x",""\n')


def test_a_mask_without_a_row_gets_one_behind_the_others(tmp_path):
    masks = read_mask_sheet(write(tmp_path, FILES["steel"]))
    assert masks.texts == (("", "1 20"), ("1  3 10 5", ""))
    assert rewrite(tmp_path, swap(masks, 0, 0, "2 1")) == FILES["steel"] + "x.jpg,1,2 1\n"
    # An emptied row of a table that lists positives stays: rows in are rows out.
    assert "\nx.jpg,3,\n" in rewrite(tmp_path, swap(masks, 0, 1, ""))


def test_a_row_without_class_and_mask_is_kept(tmp_path):
    text = "ImageId,ClassId,EncodedPixels\nclean.jpg,,\nx.jpg,3,1 2\n"
    masks = read_mask_sheet(write(tmp_path, text))
    assert (masks.ids, masks.classes) == (("clean.jpg", "x.jpg"), ("3",))
    assert rewrite(tmp_path, masks) == text


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ("rle-joined", "Image_Label,EncodedPixels\na_x,1 1\na_y,\n"),
        ("rle-rows", "ImageId,ClassId,EncodedPixels\na,x,1 1\na,y,\n"),
    ],
)
def test_masks_of_no_file_have_a_row_for_each_image_and_class(tmp_path, layout, expected):
    masks = Masks(ids=("a",), classes=("x", "y"), texts=(("1 1", ""),), form=make_form(layout))
    assert rewrite(tmp_path, masks) == expected
    assert read_mask_sheet(tmp_path / "out.csv").texts == masks.texts


def test_several_classes_do_not_fit_into_a_file_without_classes(tmp_path):
    masks = Masks(
        ids=("a",), classes=("x", "y"), texts=(("1 1", ""),), form=make_form("rle-single")
    )
    with pytest.raises(MaskError, match=r"2 classes .*do not fit into a file of id and rle_mask"):
        rewrite(tmp_path, masks)
    with pytest.raises(MaskError, match=r"expected a name such as masks\.csv"):
        write_mask_sheet(tmp_path / "out.parquet", masks)


def test_rows_of_images_that_are_gone_are_not_dropped(tmp_path):
    masks = read_mask_sheet(write(tmp_path, FILES["clouds"]))
    less = Masks(ids=("b.jpg",), classes=masks.classes, texts=masks.texts[:1], form=masks.form)
    with pytest.raises(MaskError, match=r"2 row\(s\) of the file .*'a.jpg', 'Sugar'.*never dropp"):
        rewrite(tmp_path, less)


def test_every_fault_of_every_cell_is_told_with_its_line(tmp_path):
    cells = ["1 2 3", "0 4", "5 0 9 9", "x 1", "8 2 1 1", "19 5", "1 1", "1.5 2", "2 2 3 1"]
    rows = "".join(f"{at}.jpg_a,{cell}\n" for at, cell in enumerate(cells))
    path = write(tmp_path, "Image_Label,EncodedPixels\n" + rows)
    with pytest.raises(MaskError) as caught:
        read_mask_sheet(path, sizes=(4, 5))
    told = str(caught.value)
    for part in (
        r"in.csv, column 'EncodedPixels': 8 cell(s) are not valid",
        "line 2: 3 number(s) do not make pairs of start and length",
        "line 3: 1 run(s) start at pixel 0; the first pixel is 1",
        "line 4: run(s) of no pixel, at pixel 5",
        "line 5: 'x' is not a whole number",
        "line 6: the run from pixel 1 follows one that ends at pixel 9",
        "line 7: pixel 23 lies behind the last, 20, of an image of 4 x 5 (height x width)",
        "line 9: '1.5' is not a whole number",
        "line 10: the run from pixel 3 follows one that ends at pixel 3",
    ):
        assert part in told
    assert "line 8" not in told


def test_pairs_that_stand_twice_are_refused_with_their_lines(tmp_path):
    path = write(tmp_path, FILES["clouds"] + "b.jpg_Fish,1 1\nz.jpg_Fish,\nz.jpg_Fish,\n")
    with pytest.raises(MaskError, match=r"2 pair\(s\).*'b.jpg', class 'Fish' on lines 2, 6.*7, 8"):
        read_mask_sheet(path)


def test_masks_and_rows_without_names_are_refused(tmp_path):
    path = write(tmp_path, "ImageId,ClassId,EncodedPixels\na.jpg,,1 1\n ,2,\n")
    with pytest.raises(
        MaskError,
        match=r"1 row\(s\) name no image, on line 3; 1 mask\(s\) have no class, on line 2",
    ):
        read_mask_sheet(path)


def test_a_table_without_run_lengths_is_refused(tmp_path):
    with pytest.raises(TableError, match=r"no column of run-length text .* among image, label"):
        read_mask_sheet(write(tmp_path, "image,label\na.jpg,1\nb.jpg,2\n"))


def test_sizes_may_differ_by_image_and_must_be_known_for_all(tmp_path):
    path = write(tmp_path, FILES["clouds"])
    masks = read_mask_sheet(path, sizes={"a.jpg": (1, 3), "b.jpg": (7, 2)})
    assert masks.sizes.tolist() == [[7, 2], [1, 3]]
    with pytest.raises(MaskError, match=r"sizes of 1 image\(s\) are missing: 'b.jpg'"):
        read_mask_sheet(path, sizes={"a.jpg": (1, 3)})
    with pytest.raises(MaskError, match=r"line 4: pixel 3 lies behind the last, 2,"):
        read_mask_sheet(path, sizes={"a.jpg": (1, 2), "b.jpg": (7, 2)})


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(MaskError, match="a row for each image"):
        Masks(ids=("a", "b"), classes=("x",), texts=(("",),))
    with pytest.raises(MaskError, match="height and width of each image"):
        Masks(ids=("a",), classes=("x",), texts=(("",),), sizes=np.zeros((2, 2), np.int64))
    with pytest.raises(MaskError, match="stand more than once: 'a'"):
        Masks(ids=("a", "a"), classes=("x",), texts=(("",), ("",)))


def test_masks_made_along_rows_are_noted(tmp_path):
    mask = np.zeros((60, 90), bool)
    mask[5:50, 20:40] = True
    wrong = encode_rle(mask.T)  # numbers along the rows of `mask`
    path = write(tmp_path, f"Image_Label,EncodedPixels\na.jpg_x,{wrong}\n")
    note = read_mask_sheet(path, sizes=(60, 90)).notes
    assert "90 pixels apart, as rows of 60 x 90 images do" in note[0]
    assert read_mask_sheet(path, sizes=(90, 60)).notes == ()


def test_resizing_keeps_rows_and_tells_of_masks_that_vanish(tmp_path):
    path = write(tmp_path, "Image_Label,EncodedPixels\na.jpg_x,1 2940000\na.jpg_y,1 1\n")
    masks = resize_sheet(read_mask_sheet(path, sizes=(1400, 2100)), (350, 525))
    assert masks.texts == (("1 183750", ""),)
    assert masks.sizes.tolist() == [[350, 525]]
    assert masks.notes == ("1 mask(s) have no pixel left at 350 x 525 (height x width)",)
    assert rewrite(tmp_path, masks).count("\n") == 3
    with pytest.raises(MaskError, match="sizes of the images are not known"):
        resize_sheet(read_mask_sheet(path), (350, 525))


def test_a_full_submission_takes_well_under_a_second(tmp_path):
    mask = np.zeros((350, 525), bool)
    mask[40:200, 100:330] = True
    mask[250:300, 50:90] = True
    text = encode_rle(mask)
    rows = [
        f"{at:07x}.jpg_{name},{text if (at + c) % 2 else ''}\n"
        for at in range(3698)
        for c, name in enumerate(("Fish", "Flower", "Gravel", "Sugar"))
    ]
    path = write(tmp_path, "Image_Label,EncodedPixels\n" + "".join(rows))
    start = time.perf_counter()
    masks = read_mask_sheet(path, sizes=(350, 525))
    write_mask_sheet(tmp_path / "out.csv", masks)
    spent = time.perf_counter() - start
    assert (tmp_path / "out.csv").read_bytes() == path.read_bytes()
    assert len(masks.ids) == 3698
    np.testing.assert_array_equal(decode_rle(masks.texts[1][0], 350, 525), mask)
    assert spent < 10  # about 1 s for these 20 MB on an idle core
