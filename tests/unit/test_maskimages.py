"""Mask images and COCO files as sheets of masks, and back."""

import json

import numpy as np
import pytest
from PIL import Image

from loupe.errors import MaskError, TableError
from loupe.maskimages import (
    read_coco_masks,
    read_mask_folder,
    read_mask_image,
    write_coco_masks,
    write_mask_folder,
)
from loupe.masks import decode_rle
from loupe.masksheets import Masks

SHEET = Masks(
    ids=("a.jpg", "b.jpg"),
    classes=("crack", "hole"),
    texts=(("3 3 7 2", ""), ("", "1 2 11 2")),
    sizes=np.array([[3, 4], [4, 3]]),
)


def save(path, values, dtype=np.uint8):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(values, dtype)).save(path)
    return path


@pytest.mark.parametrize(("dtype", "full"), [(np.uint8, 255), (np.uint16, 65535)])
def test_soft_edges_are_cut_at_a_share_of_full_brightness(tmp_path, dtype, full):
    shares = np.array([[0, 0.25, 0.49, 0.51, 1]])
    path = save(tmp_path / "m.png", np.round(shares * full), dtype)
    assert read_mask_image(path).tolist() == [[False, False, False, True, True]]
    assert read_mask_image(path, 0.2).tolist() == [[False, True, True, True, True]]
    assert read_mask_image(path, 1.0).tolist() == [[False, False, False, False, True]]


def test_8_bit_values_in_a_16_bit_file_are_understood(tmp_path):
    path = save(tmp_path / "m.png", [[0, 127, 128, 255]], np.uint16)
    assert read_mask_image(path).tolist() == [[False, False, True, True]]


def test_images_that_are_no_masks_are_refused(tmp_path):
    with pytest.raises(MaskError, match=r"neither empty nor as bright as 0.5 \(highest value 3"):
        read_mask_image(save(tmp_path / "classes.png", [[0, 1, 3]]))
    palette = Image.fromarray(np.zeros((2, 2), np.uint8)).convert("P")
    palette.save(tmp_path / "palette.png")
    with pytest.raises(MaskError, match="a palette image"):
        read_mask_image(tmp_path / "palette.png")
    (tmp_path / "text.png").write_text("no image", encoding="utf-8")
    with pytest.raises(MaskError, match="cannot be read"):
        read_mask_image(tmp_path / "text.png")
    with pytest.raises(MaskError, match=r"level 0; expected a share"):
        read_mask_image(tmp_path / "text.png", 0)


def test_folders_of_masks_survive(tmp_path):
    files = write_mask_folder(tmp_path, SHEET)
    assert [file.relative_to(tmp_path).as_posix() for file in files] == [
        "crack/a.png",
        "hole/a.png",
        "crack/b.png",
        "hole/b.png",
    ]
    with Image.open(files[0]) as image:
        assert (image.mode, image.size) == ("L", (4, 3))
    again = read_mask_folder(tmp_path)
    assert (again.ids, again.classes, again.texts) == (("a", "b"), SHEET.classes, SHEET.texts)
    assert again.sizes.tolist() == SHEET.sizes.tolist()
    assert read_mask_folder(tmp_path, classes=["hole"]).texts == (("",), ("1 2 11 2",))


def test_a_plain_folder_is_one_class(tmp_path):
    save(tmp_path / "x.png", [[0, 255], [0, 255]])
    masks = read_mask_folder(tmp_path)
    assert (masks.ids, masks.classes, masks.texts) == (("x",), ("mask",), (("3 2",),))


def test_all_faults_of_a_folder_are_told(tmp_path):
    save(tmp_path / "a" / "x.png", [[0, 255]])
    save(tmp_path / "b" / "x.png", [[0], [255]])
    save(tmp_path / "b" / "y.png", [[0, 255]])
    save(tmp_path / "b" / "y.bmp", [[0, 255]])
    save(tmp_path / "b" / "z.png", [[0, 7]])
    with pytest.raises(MaskError) as caught:
        read_mask_folder(tmp_path)
    for part in (
        "3 fault(s)",
        "y.png: a second mask",
        "z.png: neither",
        "'x': masks of 1 x 2 and 2 x 1 pixels",
    ):
        assert part in str(caught.value)
    with pytest.raises(MaskError, match="there are no folders"):
        read_mask_folder(tmp_path, classes=["c"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(MaskError, match="there are no mask images"):
        read_mask_folder(tmp_path / "empty")


def test_masks_are_not_written_over_each_other_or_outside(tmp_path):
    sizes = np.array([[1, 1], [1, 1]])
    for ids in (("a.jpg", "a.png"), ("../a.jpg", "b.jpg"), ("/a.jpg", "b.jpg")):
        masks = Masks(ids=ids, classes=("x",), texts=(("",), ("",)), sizes=sizes)
        with pytest.raises(MaskError, match="share a file or lie outside"):
            write_mask_folder(tmp_path / "out", masks)
    bare = Masks(ids=("a",), classes=("x",), texts=(("",),))
    for write in (write_mask_folder, write_coco_masks):
        with pytest.raises(MaskError, match="sizes of the images are not known"):
            write(tmp_path / "out", bare)
    assert not list(tmp_path.iterdir())


def test_coco_files_survive_with_box_and_area(tmp_path):
    write_coco_masks(tmp_path / "m.json", SHEET)
    again = read_coco_masks(tmp_path / "m.json")
    assert (again.ids, again.classes, again.texts) == (SHEET.ids, SHEET.classes, SHEET.texts)
    assert again.sizes.tolist() == SHEET.sizes.tolist()
    notes = json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))["annotations"]
    assert [note["area"] for note in notes] == [5, 4]
    for note, (row, column) in zip(notes, [(0, 0), (1, 1)], strict=True):
        mask = decode_rle(SHEET.texts[row][column], *SHEET.sizes[row])
        rows, columns = np.nonzero(mask)
        width, height = np.ptp(columns) + 1, np.ptp(rows) + 1
        assert note["bbox"] == [columns.min(), rows.min(), width, height]


def coco(tmp_path, notes, **image):
    whole = {
        "images": [{"id": 7, "file_name": "a.jpg", "height": 4, "width": 5} | image],
        "categories": [{"id": 2, "name": "x"}],
        "annotations": [{"id": at, "image_id": 7, "category_id": 2} | n for at, n in notes],
    }
    path = tmp_path / "in.json"
    path.write_text(json.dumps(whole), encoding="utf-8")
    return path


def test_polygons_and_run_lengths_of_one_class_are_joined(tmp_path):
    square = {"segmentation": [[1, 1, 3, 1, 3, 3, 1, 3]]}
    counts = {"segmentation": {"size": [4, 5], "counts": [0, 1, 5, 1, 12, 1]}}
    masks = read_coco_masks(coco(tmp_path, [(1, square), (2, counts)]))
    assert masks.texts == (("1 1 6 2 10 2 20 1",),)
    assert read_coco_masks(coco(tmp_path, [])).texts == (("",),)


def test_annotations_without_masks_are_all_told(tmp_path):
    notes = [
        (1, {"segmentation": [[1, 1, 3, 1]]}),
        (2, {"bbox": [0, 0, 1, 1]}),
        (3, {"segmentation": {"size": [5, 4], "counts": [20]}}),
        (4, {"segmentation": {"size": [4, 5], "counts": [19]}}),
        (5, {"segmentation": [[1, 1, 3, 1, 3, 3], "x"]}),
        (6, {"segmentation": {"size": 20, "counts": [20]}}),
    ]
    with pytest.raises(MaskError) as caught:
        read_coco_masks(coco(tmp_path, notes))
    for part in (
        "6 annotation(s) have no mask",
        "annotation 1: a polygon of 4 value(s)",
        "annotation 2: no segmentation",
        "annotation 3: run lengths of size [5, 4], but the image has [4, 5]",
        "annotation 4: counts that add up to 19",
        "annotation 5: polygons among other values",
        "annotation 6: run lengths of size 20, but the image has [4, 5]",
    ):
        assert part in str(caught.value)
    with pytest.raises(MaskError, match=r"1 image\(s\) have no height and width: 'a.jpg'"):
        read_coco_masks(coco(tmp_path, [], height=None))
    (tmp_path / "no.json").write_text("[]", encoding="utf-8")
    with pytest.raises(TableError, match="not a COCO file"):
        read_coco_masks(tmp_path / "no.json")
