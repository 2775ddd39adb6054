"""Every layout that users write, and every way to write one wrongly."""

import json
import os
import time
import unicodedata
from dataclasses import replace
from pathlib import PureWindowsPath

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from loupe.cells import read_cells
from loupe.errors import AlignmentError, MaskError, TableError
from loupe.labels import find_list_separator, tell_kind
from loupe.layouts import LAYOUTS, read_table
from loupe.locating import list_images, strip_base
from loupe.rewrites import append_columns, list_settled, write_quarantine
from loupe.table import Quarantined, Table, read_snapshot, write_snapshot

JOINED = "Image_Label,EncodedPixels\na.jpg_Fish,1 3 9 2\na.jpg_Sugar,\nb.jpg_Fish,\nb.jpg_Sugar,\n"


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def put(folder, text, name="labels.csv", *, images=("a.jpg", "b.jpg", "c.jpg")):
    """Write a table beside (empty) image files: reading most tables opens none."""
    touch(folder, *images)
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def has_note(table, note):
    """Tell whether a note is there, once and word for word."""
    return table.notes.count(note) == 1


def sheet(table):
    return table.targets.astype(int).tolist()


class TestClasses:
    def test_reads_text_labels_in_sorted_order(self, tmp_path):
        table = read_table(put(tmp_path, "image,label\nb.jpg,dog\na.jpg,cat\nc.jpg,dog\n"))
        assert table.ids == ("b.jpg", "a.jpg", "c.jpg")
        assert table.images == tuple(tmp_path / name for name in table.ids)
        assert table.classes == ("cat", "dog")
        assert table.exclusive
        assert sheet(table) == [[0, 1], [1, 0], [0, 1]]
        assert table.layout.name == "classes"
        assert (table.layout.image_column, table.layout.label_column) == ("image", ("label",))
        assert "layout 'classes'" in table.notes[0]
        assert "'cat' 1, 'dog' 2" in table.notes[-1]

    def test_keeps_text_that_looks_like_a_number_or_like_nothing(self, tmp_path):
        text = "image,label\na.jpg,007\nb.jpg,NA\nc.jpg,null\n"
        assert read_table(put(tmp_path, text)).classes == ("007", "NA", "null")

    def test_sorts_numbers_by_value(self, tmp_path):
        text = "image,label\na.jpg,10\nb.jpg,9\nc.jpg,2\n"
        assert read_table(put(tmp_path, text)).classes == ("2", "9", "10")

    def test_maps_numbers_to_names_with_all_classes_of_the_map(self, tmp_path):
        names = tmp_path / "names.json"
        names.write_text(json.dumps({"0": "CBB", "2": "CGM", "10": "None", "1": "CBSD"}))
        path = put(tmp_path, "image_id,label\na.jpg,0\nb.jpg,1\nc.jpg,10\n")
        table = read_table(path, names=names)
        assert table.classes == ("CBB", "CBSD", "CGM", "None")
        assert table.layout.numbers == ("0", "1", "2", "10")
        assert sheet(table) == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]
        assert any("'CGM'" in note for note in table.notes)
        same = read_table(path, names={0: "CBB", 1: "CBSD", 2: "CGM", 10: "None"})
        assert same.digest() == table.digest()

    def test_refuses_a_label_that_the_map_lacks(self, tmp_path):
        path = put(tmp_path, "image,label\na.jpg,0\nb.jpg,7\n")
        with pytest.raises(TableError, match=r"no name for '7'.*names '0'"):
            read_table(path, names={"0": "CBB"})

    @pytest.mark.parametrize("text", ['["a", "b"]', "{}", '{"0": 1}', "{"])
    def test_refuses_a_bad_map(self, tmp_path, text):
        names = tmp_path / "names.json"
        names.write_text(text)
        with pytest.raises(TableError, match=r"names\.json"):
            read_table(put(tmp_path, "image,label\na.jpg,0\n"), names=names)

    def test_refuses_two_classes_of_one_name(self, tmp_path):
        with pytest.raises(TableError, match="one name: 'x'"):
            read_table(put(tmp_path, "image,label\na.jpg,0\n"), names={"0": "x", "1": "x"})

    def test_lists_all_rows_without_a_label_by_line(self, tmp_path):
        text = 'image,label\na.jpg,\n\nb.jpg,"two\nlines"\nc.jpg,  \n'
        with pytest.raises(TableError, match=r"'label': 2 row\(s\) have no label, on lines 2, 6"):
            read_table(put(tmp_path, text))

    def test_lists_repeated_images_with_their_lines(self, tmp_path):
        text = "image,label\na.jpg,x\nb.jpg,y\na.jpg,x\n"
        with pytest.raises(TableError, match=r"1 image\(s\).*'a\.jpg' on lines 2, 4"):
            read_table(put(tmp_path, text))

    def test_notes_labels_that_look_alike(self, tmp_path):
        table = read_table(put(tmp_path, "image,label\na.jpg,Cat\nb.jpg,cat\nc.jpg, cat \n"))
        assert table.classes == ("Cat", "cat")
        assert any("'Cat', 'cat'" in note for note in table.notes)


class TestBinary:
    @pytest.mark.parametrize(
        ("words", "written"),
        [("0 1 1", ("0", "1")), ("no yes yes", ("no", "yes")), ("False True True", None)],
    )
    def test_reads_one_column_named_as_the_header(self, tmp_path, words, written):
        a, b, c = words.split()
        table = read_table(put(tmp_path, f"image,crack\na.jpg,{a}\nb.jpg,{b}\nc.jpg,{c}\n"))
        assert table.classes == ("crack",)
        assert not table.exclusive
        assert sheet(table) == [[0], [1], [1]]
        assert table.layout.name == "binary"
        assert table.layout.words == (written or ("False", "True"))

    def test_completes_the_word_that_no_row_has(self, tmp_path):
        table = read_table(put(tmp_path, "image,label\na.jpg,No\n"))
        assert table.layout.words == ("No", "Yes")

    def test_layout_classes_makes_two_exclusive_classes(self, tmp_path):
        path = put(tmp_path, "image,label\na.jpg,0\nb.jpg,1\n")
        table = read_table(path, layout="classes")
        assert (table.classes, table.exclusive) == (("0", "1"), True)
        named = read_table(path, names={"0": "ok", "1": "bad"})
        assert (named.classes, named.exclusive) == (("ok", "bad"), True)

    def test_reads_numbers_between_as_soft_targets(self, tmp_path):
        table = read_table(put(tmp_path, "image,label\na.jpg,0.25\nb.jpg,1\n"))
        assert table.targets.tolist() == [[0.25], [1.0]]
        assert any("soft" in note for note in table.notes)


class TestMultiHot:
    def test_reads_columns_that_stand_alone(self, tmp_path):
        text = "image,chip,crack\na.jpg,1,1\nb.jpg,0,0\nc.jpg,0,1\n"
        table = read_table(put(tmp_path, text))
        assert (table.layout.name, table.classes) == ("multi-hot", ("chip", "crack"))
        assert not table.exclusive
        assert sheet(table) == [[1, 1], [0, 0], [0, 1]]

    def test_is_exclusive_if_every_row_sums_to_one(self, tmp_path):
        table = read_table(put(tmp_path, "image,p,q\na.jpg,0.3,0.7\nb.jpg,1,0\n"))
        assert table.exclusive
        assert table.targets == pytest.approx(np.array([[0.3, 0.7], [1, 0]]))

    def test_takes_the_columns_asked_for_and_says_what_it_left(self, tmp_path):
        text = "image,a,b,width\na.jpg,1,1,640\nb.jpg,0,1,480\n"
        assert read_table(put(tmp_path, text)).classes == ("a", "b")
        table = read_table(tmp_path / "labels.csv", label_column="b,a")
        assert table.classes == ("b", "a")
        assert any("'width'" in note for note in read_table(put(tmp_path, text)).notes)

    def test_lists_all_cells_outside_the_range(self, tmp_path):
        path = put(tmp_path, "image,a,b\na.jpg,1,yes!\nb.jpg,0,\nc.jpg,2,1\n")
        with pytest.raises(TableError) as caught:
            read_table(path, label_column="a,b")
        text = str(caught.value)
        assert "3 cell(s)" in text
        for part in ("'a' on line 4: '2'", "'b' on line 2: 'yes!'", "'b' on line 3: ''"):
            assert part in text


class TestLists:
    @pytest.mark.parametrize("separator", [" ", "|", ";", ", "])
    def test_reads_lists(self, tmp_path, separator):
        cells = ["cars", f"cars{separator}grass", f"grass{separator}trees", "trees", ""]
        rows = "".join(f'{i}.jpg,"{cell}"\n' for i, cell in enumerate(cells))
        path = put(tmp_path, f"image,labels\n{rows}", images=["0.jpg"])
        table = read_table(path)
        assert table.layout.name == "label-list"
        assert table.layout.separator == separator.strip(" ") or separator == " "
        assert table.classes == ("cars", "grass", "trees")
        assert sheet(table) == [[1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 1], [0, 0, 0]]
        assert any("1 rows have an empty list" in note for note in table.notes)

    def test_names_with_blanks_are_no_lists(self):
        diseases = ["Bacterial Blight", "Brown Streak", "Green Mottle", "Mosaic", "Healthy"]
        assert find_list_separator(diseases) == ""
        assert find_list_separator(["type 1", "type 2", "line 1", "line 2"]) == ""
        assert tell_kind(diseases) == "classes"

    def test_layout_forces_either_reading(self, tmp_path):
        path = put(tmp_path, "image,label\na.jpg,x y\nb.jpg,y\nc.jpg,x\n")
        assert read_table(path, layout="classes").classes == ("x", "x y", "y")
        assert read_table(path, layout="label-list").classes == ("x", "y")

    def test_maps_names(self, tmp_path):
        path = put(tmp_path, "image,labels\na.jpg,0 16\nb.jpg,0\nc.jpg,16\n")
        table = read_table(path, names={"0": "nucleus", "16": "cytosol"})
        assert table.classes == ("nucleus", "cytosol")
        assert sheet(table) == [[1, 1], [1, 0], [0, 1]]


class TestChoice:
    def test_a_class_and_a_list_are_not_chosen_between(self, tmp_path):
        text = "image,scene_class,labels\na.jpg,s,x y\nb.jpg,s,y\nc.jpg,t,x\nd.jpg,t,x y\n"
        path = put(tmp_path, text)
        with pytest.raises(TableError) as caught:
            read_table(path)
        assert "'labels' (lists of labels parted by ' ')" in str(caught.value)
        assert "'scene_class' (2 different values)" in str(caught.value)
        assert "--label-column" in str(caught.value)
        assert read_table(path, label_column="scene_class").classes == ("s", "t")
        assert read_table(path, label_column="labels").classes == ("x", "y")

    def test_several_label_columns_are_not_chosen_between(self, tmp_path):
        text = "image,clean_label,worse_label\na.jpg,x,y\nb.jpg,y,y\n"
        with pytest.raises(TableError, match=r"'clean_label'.*'worse_label'.*--label-column"):
            read_table(put(tmp_path, text))

    def test_a_known_name_wins_and_the_others_are_noted(self, tmp_path):
        table = read_table(put(tmp_path, "image,site,class,label\na.jpg,s,1,x\nb.jpg,s,2,y\n"))
        assert table.layout.label_column == ("label",)
        assert any("'site', 'class'" in note for note in table.notes)

    def test_no_label_gives_a_table_for_prediction(self, tmp_path):
        table = read_table(put(tmp_path, "file_name\na.jpg\nb.jpg\n"))
        assert table.layout.name == "images"
        assert table.targets.shape == (2, 0)
        assert not table.labelled
        both = put(tmp_path, "image,label\na.jpg,x\nb.jpg,\n")
        assert read_table(both, layout="images").classes == ()

    @pytest.mark.parametrize("name", ["image_id", "Image", "file_name", "filepath", "IMG", "id"])
    def test_knows_image_columns(self, tmp_path, name):
        table = read_table(put(tmp_path, f"label,{name}\nx,a.jpg\ny,b.jpg\n"))
        assert table.ids == ("a.jpg", "b.jpg")

    def test_takes_the_only_column_of_file_names(self, tmp_path):
        table = read_table(put(tmp_path, "tile,label\na.jpg,x\nb.jpg,y\n"))
        assert table.layout.image_column == "tile"

    def test_lists_the_columns_without_an_image(self, tmp_path):
        with pytest.raises(TableError, match=r"no image column among 'case', 'label'"):
            read_table(put(tmp_path, "case,label\n1,x\n"))
        with pytest.raises(TableError, match=r"looks like data.*header"):
            read_table(put(tmp_path, "a.jpg,x\nb.jpg,y\n"))
        with pytest.raises(TableError, match=r"left and right: choose with --image-column"):
            read_table(put(tmp_path, "left,right\na.jpg,b.jpg\n"))

    def test_suggests_a_column(self, tmp_path):
        path = put(tmp_path, "image,label\na.jpg,x\n")
        with pytest.raises(TableError, match=r"'lable'.*did you mean 'label'"):
            read_table(path, label_column="lable")
        with pytest.raises(TableError, match=r"image column 'img'"):
            read_table(path, image_column="img")

    def test_an_id_beside_an_image_names_the_rows(self, tmp_path):
        table = read_table(put(tmp_path, "id,image,label\n7,a.jpg,x\n8,b.jpg,y\n"))
        assert table.ids == ("7", "8")
        assert table.images[0] == tmp_path / "a.jpg"
        assert table.layout.id_column == "id"

    def test_refuses_an_unknown_or_unfit_layout(self, tmp_path):
        path = put(tmp_path, "image,label\na.jpg,x\n")
        with pytest.raises(TableError, match="did you mean 'classes'"):
            read_table(path, layout="clases")
        with pytest.raises(TableError, match="asked for, but the source is 'classes'"):
            read_table(path, layout="folders")
        with pytest.raises(TableError, match="needs a column of run-length text"):
            read_table(path, layout="rle-rows")


class TestExtras:
    def test_reads_fold_group_and_weight(self, tmp_path):
        text = "image,label,Fold,group,weight\na.jpg,x,0,p1,1\nb.jpg,y,-2,p2,0.5\n"
        table = read_table(put(tmp_path, text))
        assert table.folds.tolist() == [0, -2]
        assert table.groups == ("p1", "p2")
        assert table.weights.tolist() == [1.0, 0.5]
        assert table.layout.label_column == ("label",)

    @pytest.mark.parametrize(
        ("column", "cell"), [("fold", "-3"), ("fold", "1.5"), ("group", ""), ("weight", "-1")]
    )
    def test_lists_bad_cells(self, tmp_path, column, cell):
        path = put(tmp_path, f"image,label,{column}\na.jpg,x,1\nb.jpg,y,{cell}\n")
        with pytest.raises(TableError, match=rf"column '{column}': 1 cell\(s\).*line 3"):
            read_table(path)

    def test_says_which_columns_were_used_and_what_they_hold(self, tmp_path):
        text = (
            "image,label,FOLD,Group,Weight\n"
            "a.jpg,x,0,p,1\nb.jpg,y,0,p,0.5\nc.jpg,y,1,q,2\nd.jpg,y,-1,r,1\ne.jpg,y,-2,s,1\n"
        )
        table = read_table(put(tmp_path, text))
        folds = "-2 (1 images, never trained on), -1 (1 images, always trained on)"
        folds += ", 0 (2 images), 1 (1 images)"
        assert [note for note in table.notes if "is used as" in note] == [
            f"column 'FOLD' is used as the fold: {folds}",
            "column 'Group' is used as the group: 4 groups, each of which shares a fold",
            "column 'Weight' is used as the weight in the loss: 0.5 to 2",
        ]
        plain = read_table(put(tmp_path, "image,label\na.jpg,x\nb.jpg,y\n"))
        assert not [note for note in plain.notes if "is used as" in note]

    def test_refuses_columns_that_differ_by_case_only(self, tmp_path):
        path = put(tmp_path, "image,label,Fold,fold\na.jpg,x,0,1\nb.jpg,y,1,0\n")
        with pytest.raises(TableError, match=r"by case cannot be told apart: 'Fold', 'fold' \(fo"):
            read_table(path)

    def test_reads_the_quarantine_beside_the_table(self, tmp_path):
        path = put(tmp_path, "image,label\na.jpg,x\n")
        put(tmp_path, "id,reason\nb.jpg,cut off\n", "labels.quarantine.csv")
        table = read_table(path)
        assert table.quarantined == (Quarantined(id="b.jpg", reason="cut off"),)
        put(tmp_path, "id,reason\na.jpg,cut off\n", "labels.quarantine.csv")
        with pytest.raises(TableError, match=r"also in its quarantine file: 'a\.jpg'"):
            read_table(path)


class TestGroupColumn:
    TEXT = "image,label,lot\na.jpg,x,p1\nb.jpg,y,p2\nc.jpg,y,p1\n"

    @pytest.mark.parametrize("name", ["lot", "LOT", " Lot "])
    def test_takes_the_column_named_in_any_case(self, tmp_path, name):
        table = read_table(put(tmp_path, self.TEXT), group_column=name)
        assert table.groups == ("p1", "p2", "p1")
        assert table.layout.columns == ("image", "label", "lot")
        assert has_note(
            table, "column 'lot' is used as the group: 2 groups, each of which shares a fold"
        )
        assert read_table(tmp_path / "labels.csv").groups is None

    def test_takes_the_exact_name_where_several_fit(self, tmp_path):
        text = "image,label,lot,Lot\na.jpg,x,p,1\nb.jpg,y,q,1\n"
        path = put(tmp_path, text)
        assert read_table(path, group_column="lot").groups == ("p", "q")
        assert read_table(path, group_column="Lot").groups == ("1", "1")
        with pytest.raises(TableError, match="no column 'LOT' to group by"):
            read_table(path, group_column="LOT")

    @pytest.mark.parametrize("header", ["Group", "group", "GROUP"])
    def test_the_name_group_needs_its_column(self, tmp_path, header):
        path = put(tmp_path, self.TEXT.replace("lot", header))
        assert read_table(path, group_column="group").groups == ("p1", "p2", "p1")
        with pytest.raises(TableError) as caught:
            read_table(put(tmp_path, self.TEXT), group_column="group")
        assert "labels.csv: there is no column 'group' to group by" in str(caught.value)
        assert "(columns: image, label, lot)" in str(caught.value)

    @pytest.mark.parametrize("other", ["Group", "group"])
    def test_refuses_another_group_besides(self, tmp_path, other):
        text = f"image,label,lot,{other}\na.jpg,x,p1,g\nb.jpg,y,p2,g\n"
        with pytest.raises(TableError, match=rf"--group-column lot .*column '{other}' too"):
            read_table(put(tmp_path, text), group_column="lot")

    def test_names_the_column_of_a_bad_cell(self, tmp_path):
        path = put(tmp_path, "image,label,lot\na.jpg,x,1\nb.jpg,y,\n")
        with pytest.raises(
            TableError, match=r"column 'lot': 1 cell\(s\) are not filled in, on line 3"
        ):
            read_table(path, group_column="lot")

    def test_a_column_may_be_the_label_and_the_group(self, tmp_path):
        table = read_table(put(tmp_path, self.TEXT), label_column="lot", group_column="lot")
        assert (table.classes, table.groups) == (("p1", "p2"), ("p1", "p2", "p1"))

    def test_holds_for_run_lengths(self, tmp_path):
        text = "ImageId,ClassId,EncodedPixels,lot\na.jpg,1,1 2,p\na.jpg,2,1 2,p\nb.jpg,2,,q\n"
        assert read_table(put(tmp_path, text), group_column="lot").groups == ("p", "q")
        path = put(tmp_path, text.replace("a.jpg,2,1 2,p", "a.jpg,2,1 2,q"))
        with pytest.raises(TableError, match=r"'lot': 1 row\(s\) differ.*line 3"):
            read_table(path, group_column="lot")
        with pytest.raises(TableError, match=r"1 image\(s\).*no row.*a column 'lot'"):
            read_table(put(tmp_path, text), images=tmp_path, group_column="lot")

    @pytest.mark.parametrize("layout", [None, "images"])
    def test_folders_and_coco_files_have_no_columns(self, tmp_path, layout):
        touch(tmp_path, "i/cat/a.jpg", "i/dog/b.jpg")
        with pytest.raises(TableError, match=r"--group-column lot .*a folder has no columns"):
            read_table(tmp_path / "i", group_column="lot", layout=layout)
        path = put(tmp_path, json.dumps(WHOLE), "coco.json")
        with pytest.raises(TableError, match=r"--group-column lot .*a COCO file has no columns"):
            read_table(path, group_column="lot", layout=layout)


class TestListCells:
    def test_lists_read_as_a_label_list(self, tmp_path):
        touch(tmp_path, "a.jpg", "b.jpg", "c.jpg", "d.jpg")
        lists = [["leaf smut", "rust"], ("rust",), np.array(["blight"], object), []]
        frame = pd.DataFrame({"image": ["a.jpg", "b.jpg", "c.jpg", "d.jpg"], "labels": lists})
        assert read_cells(frame).column("labels") == ["leaf smut|rust", "rust", "blight", ""]
        table = read_table(frame, images=tmp_path)
        assert (table.layout.name, table.layout.separator) == ("label-list", "|")
        assert table.classes == ("blight", "leaf smut", "rust")
        assert sheet(table) == [[0, 1, 1], [0, 0, 1], [1, 0, 0], [0, 0, 0]]
        assert not table.exclusive
        assert has_note(table, "cells are lists of labels")
        assert has_note(table, "1 rows have an empty list: none of the classes")
        frame.assign(labels=[list(cell) for cell in lists]).to_parquet(tmp_path / "t.parquet")
        assert read_table(tmp_path / "t.parquet").digest() == table.digest()

    def test_lists_without_a_label_in_common(self, tmp_path):
        touch(tmp_path, "a.jpg")
        frame = pd.DataFrame({"image": ["a.jpg", "b.jpg"], "labels": [["w", "x"], ["y", "z"]]})
        table = read_table(frame, images=tmp_path)
        assert (table.classes, sheet(table)) == (
            ("w", "x", "y", "z"),
            [[1, 1, 0, 0], [0, 0, 1, 1]],
        )

    @pytest.mark.parametrize(
        ("labels", "classes"),
        [([["leaf smut"], ["rust"]], ("leaf smut", "rust")), ([["0"], ["1"]], ("0", "1"))],
    )
    def test_lists_of_one_label(self, tmp_path, labels, classes):
        touch(tmp_path, "a.jpg")
        frame = pd.DataFrame({"image": ["a.jpg", "b.jpg"], "labels": labels})
        table = read_table(frame, images=tmp_path)
        assert (table.layout.name, table.classes) == ("label-list", classes)
        assert sheet(table) == [[1, 0], [0, 1]]
        assert has_note(
            table, "every cell is a list of one label; layout 'classes' makes them exclusive"
        )
        single = read_table(frame, images=tmp_path, layout="classes")
        assert (single.classes, single.exclusive) == (classes, True)

    def test_lists_of_numbers_go_through_the_name_map(self, tmp_path):
        touch(tmp_path, "a.jpg")
        lists = [np.array([0, 16]), np.array([16])]
        frame = pd.DataFrame({"image": ["a.jpg", "b.jpg"], "label": lists})
        table = read_table(frame, images=tmp_path, names={0: "nucleus", 16: "cytosol"})
        assert (table.classes, sheet(table)) == (("nucleus", "cytosol"), [[1, 1], [0, 1]])

    def test_a_list_and_a_class_are_not_chosen_between(self, tmp_path):
        frame = pd.DataFrame({"image": ["a", "b"], "label": [["x"], ["y"]], "class": ["x", "y"]})
        with pytest.raises(TableError, match=r"'label' \(lists of labels\), 'class' \(2 diff"):
            read_table(frame, images=tmp_path)

    @pytest.mark.parametrize(
        ("cell", "told"),
        [
            ({"bytes": b"", "path": "a.jpg"}, "a dict object"),
            (b"\x89PNG", "a bytes object"),
            ([{"name": "x"}], "a list of dict objects"),
            (["x", None], "a list of NoneType objects"),
            (np.array([["x"], ["y"]], object), "a list of list objects"),
            (["x|y"], "a label with '|' in it"),
        ],
    )
    def test_refuses_what_has_no_text(self, cell, told):
        frame = pd.DataFrame({"image": ["a", "b", "c"], "label": ["x", cell, cell], "n": [1, 2, 3]})
        with pytest.raises(TableError) as caught:
            read_cells(frame)
        start = f"the data frame: column 'label' holds {told} on rows 2, 3. Expected text, numbers"
        assert str(caught.value).startswith(start)

    def test_refuses_the_bytes_of_a_parquet_file(self, tmp_path):
        frame = pd.DataFrame({"image": [{"bytes": b"", "path": "a.jpg"}], "label": [b"cat"]})
        frame.to_parquet(tmp_path / "t.parquet")
        with pytest.raises(TableError) as caught:
            read_table(tmp_path / "t.parquet", layout="images")
        for part in ("t.parquet", "'image' holds a dict", "'label' holds a bytes object on row 1."):
            assert part in str(caught.value)


class TestWithoutLabels:
    """`layout="images"` reads the images of any source, and needs no label."""

    def check(self, table, *ids):
        assert table.ids == ids
        assert (table.classes, table.targets.shape) == ((), (len(ids), 0))
        assert (table.layout.name, table.exclusive, table.labelled) == ("images", False, False)

    def test_reads_tables_whose_label_is_doubtful_or_empty(self, tmp_path):
        path = put(tmp_path, "image,clean_label,worse_label\na.jpg,,y\nb.jpg,y,\n")
        self.check(read_table(path, layout="images"), "a.jpg", "b.jpg")
        self.check(read_table(path, layout="images", label_column="gone"), "a.jpg", "b.jpg")
        self.check(read_table(put(tmp_path, "image,label\na.jpg,\n"), layout="images"), "a.jpg")

    def test_reads_parquet_and_frames(self, tmp_path):
        touch(tmp_path, "a.jpg", "b.jpg")
        frame = pd.DataFrame({"image": ["a.jpg", "b.jpg"], "labels": [["x"], None]})
        frame.to_parquet(tmp_path / "t.parquet")
        self.check(read_table(tmp_path / "t.parquet", layout="images"), "a.jpg", "b.jpg")
        self.check(read_table(frame, images=tmp_path, layout="images"), "a.jpg", "b.jpg")

    @pytest.mark.parametrize(
        ("names", "ids"),
        [
            (["b.jpg", "dog/a.jpg"], ("b.jpg", "dog/a.jpg")),
            (["only/a.jpg", "only/b.jpg"], ("only/a.jpg", "only/b.jpg")),
            (["test/a.jpg", "train/b.jpg"], ("test/a.jpg", "train/b.jpg")),
        ],
    )
    def test_reads_any_folder(self, tmp_path, names, ids):
        touch(tmp_path, *names)
        self.check(read_table(tmp_path, layout="images"), *ids)

    def test_reads_a_coco_file(self, tmp_path):
        path = put(tmp_path, json.dumps(WHOLE | {"annotations": [{}], "categories": 0}), "c.json")
        self.check(read_table(path, layout="images"), "b.jpg", "a.jpg")

    @pytest.mark.parametrize(
        ("text", "ids"),
        [
            (JOINED.replace("1 3 9 2", "no runs"), ("a.jpg", "b.jpg")),
            (
                "ImageId,ClassId,EncodedPixels\nb.jpg,,1 2\na.jpg,3,\nb.jpg,3,x\n",
                ("b.jpg", "a.jpg"),
            ),
            ("id,rle_mask\nb,\na,\n", ("b", "a")),
        ],
    )
    def test_reads_each_image_of_run_lengths_once_and_adds_none(self, tmp_path, text, ids):
        table = read_table(put(tmp_path, text), images=tmp_path, layout="images")
        self.check(table, *ids)
        assert table.images == tuple(tmp_path / f"{name[0]}.jpg" for name in ids)
        rows = text.count("\n") - 1
        told = f"{rows} rows belong to 2 images, which are read once each"
        assert has_note(table, told) == (rows > 2)

    def test_rows_of_an_image_must_agree_on_the_extras(self, tmp_path):
        text = "image,box,fold\na.jpg,1,0\na.jpg,2,0\nb.jpg,1,1\n"
        table = read_table(put(tmp_path, text), layout="images")
        self.check(table, "a.jpg", "b.jpg")
        assert table.folds.tolist() == [0, 1]
        with pytest.raises(TableError, match=r"'fold': 1 row\(s\) differ.*line 3"):
            read_table(put(tmp_path, text.replace("2,0", "2,1")), layout="images")

    def test_refuses_an_id_of_two_images(self, tmp_path):
        path = put(tmp_path, "id,image\n1,a.jpg\n1,b.jpg\n")
        with pytest.raises(TableError, match="'1' on lines 2, 3"):
            read_table(path, layout="images")

    def test_reads_the_quarantine(self, tmp_path):
        put(tmp_path, "id,reason\nc.jpg,cut off\n", "labels.quarantine.csv")
        table = read_table(put(tmp_path, JOINED), images=tmp_path, layout="images")
        self.check(table, "a.jpg", "b.jpg")
        assert table.quarantined == (Quarantined(id="c.jpg", reason="cut off"),)

    def test_run_lengths_keep_their_rows_when_written_again(self, tmp_path):
        path = put(tmp_path, JOINED)
        table = read_table(path, images=tmp_path, layout="images")
        append_columns(table, path, tmp_path / "out.csv", {"fold": [0, 1]})
        assert read_cells(tmp_path / "out.csv").column("fold") == ["0", "0", "1", "1"]


class TestFiles:
    @pytest.mark.parametrize(
        "data",
        [
            "image;label\r\na.jpg;ä\r\nb.jpg;y\r\n".encode("utf-8-sig"),
            "image\tlabel\na.jpg\tä\nb.jpg\ty\n".encode(),
            'image,label\n"a.jpg","ä"\nb.jpg,y'.encode(),
        ],
    )
    def test_reads_separators_marks_and_line_ends(self, tmp_path, data):
        table = read_table(put(tmp_path, data))
        assert (table.ids, table.classes) == (("a.jpg", "b.jpg"), ("y", "ä"))
        assert (b";" not in data and b"\t" not in data) or any("parted" in n for n in table.notes)

    def test_reads_tsv_parquet_and_frames_alike(self, tmp_path):
        frame = pd.DataFrame({"image": ["a.jpg", "b.jpg"], "label": [3, 12]}, index=[5, 6])
        touch(tmp_path, "a.jpg", "b.jpg")
        frame.to_csv(tmp_path / "t.tsv", sep="\t", index=False)
        frame.to_parquet(tmp_path / "t.parquet")
        tables = [
            read_table(tmp_path / "t.tsv"),
            read_table(tmp_path / "t.parquet"),
            read_table(frame, images=tmp_path),
        ]
        assert {table.digest() for table in tables} == {tables[0].digest()}
        assert tables[0].classes == ("3", "12")

    def test_frames_keep_whole_numbers_whole_and_missing_empty(self):
        frame = pd.DataFrame({"image": ["a", None], "x": [1.0, float("nan")], "b": [True, False]})
        frame["n"] = pd.array([1, None], dtype="Int64")
        assert read_cells(frame).rows == [["a", "1", "True", "1"], ["", "", "False", ""]]

    def test_says_which_line_is_not_utf8(self, tmp_path):
        with pytest.raises(TableError, match="line 3: byte 0xE4 is not UTF-8"):
            read_table(put(tmp_path, "image,label\na.jpg,x\nb.jpg,ä\n".encode("latin-1")))
        with pytest.raises(TableError, match="UTF-16"):
            read_table(put(tmp_path, "image,label\n".encode("utf-16")))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "the file is empty"),
            ("image,label\n", "no rows"),
            ("image,label,label\na.jpg,x,y\n", "stand more than once: 'label'"),
            ("image,label\na.jpg,x,y\nb.jpg\n", "header has 2 cells, but line 2 has 3, line 3 has"),
            ('image,label\na.jpg,"x\n', "from line 2 on"),
            ("image,label\n,x\n", "1 row(s) name no image, on line 2"),
        ],
    )
    def test_refuses_broken_files(self, tmp_path, text, message):
        with pytest.raises(TableError) as caught:
            read_table(put(tmp_path, text))
        assert message in str(caught.value)

    def test_refuses_what_is_no_table(self, tmp_path):
        with pytest.raises(TableError, match="no such file"):
            read_table(tmp_path / "none.csv")
        with pytest.raises(TableError, match="not a readable Parquet"):
            read_table(put(tmp_path, "x", "t.parquet"))
        with pytest.raises(TableError, match="this is a list"):
            read_table([1])

    def test_reads_cells_longer_than_the_library_allows(self, tmp_path):
        runs = " ".join(f"{i} 1" for i in range(1, 60_000, 2))
        assert len(runs) > 2**17
        table = read_table(put(tmp_path, f"id,rle_mask\na,{runs}\nb,\n"), images=tmp_path)
        assert sheet(table)[:2] == [[1], [0]]

    def test_reads_100_000_rows_in_seconds(self, tmp_path):
        touch(tmp_path, "0.jpg")
        rows = "".join(f"{i}.jpg,class {i % 7}\n" for i in range(100_000))
        path = put(tmp_path, f"image,label\n{rows}")
        start = time.perf_counter()
        table = read_table(path)
        # Measured 0.6 s; the bound only catches work that grows with rows x rows.
        assert time.perf_counter() - start < 10
        assert len(table) == 100_000
        assert len(table.classes) == 7


class TestImages:
    def test_completes_names_without_an_extension(self, tmp_path):
        path = put(tmp_path, "image,label\na,x\nsub/b,y\n", images=["a.PNG", "sub/b.tif"])
        table = read_table(path)
        assert table.ids == ("a", "sub/b")
        assert table.images == (tmp_path / "a.PNG", tmp_path / "sub/b.tif")
        assert any("2 image names have no extension" in note for note in table.notes)

    def test_refuses_a_name_that_fits_two_files(self, tmp_path):
        path = put(tmp_path, "image,label\na,x\n", images=["a.png", "a.jpg"])
        with pytest.raises(TableError, match=r"'a' fits a\.jpg and a\.png"):
            read_table(path)

    def test_missing_files_are_noted_until_none_is_there(self, tmp_path):
        path = put(tmp_path, "image,label\na.jpg,x\nz.jpg,y\n")
        assert any("1 image files are missing" in note for note in read_table(path).notes)
        path = put(tmp_path, "image,label\ny.jpg,x\nz.jpg,y\n")
        with pytest.raises(TableError, match=r"none of the 2 images.*--images"):
            read_table(path)

    def test_says_where_the_images_are(self, tmp_path):
        text = "image,label\nd/a.jpg,x\n"
        path = put(tmp_path, text, images=["pictures/d/a.jpg"])
        with pytest.raises(TableError, match=f"pass --images {tmp_path / 'pictures'}"):
            read_table(path)
        with pytest.raises(TableError, match="take the folder out"):
            read_table(path, images=tmp_path / "pictures/d")
        with pytest.raises(TableError, match="does not exist"):
            read_table(path, images=tmp_path / "none")

    @pytest.mark.parametrize(
        "name", ["../secret.jpg", "x/../../secret.jpg", "/etc/secret.jpg", "..", "C:/x.jpg"]
    )
    def test_refuses_names_that_lead_out(self, tmp_path, name):
        with pytest.raises(TableError, match=r"1 image name\(s\) lead out of"):
            read_table(put(tmp_path, f"image,label\na.jpg,x\n{name},y\n"))

    def test_takes_absolute_names_within_the_folder_and_suggests_it_otherwise(self, tmp_path):
        path = put(tmp_path, f"image,label\n{tmp_path}/a.jpg,x\n")
        assert read_table(path).images == (tmp_path / "a.jpg",)
        (tmp_path / "elsewhere").mkdir()
        with pytest.raises(TableError, match=f"--images {tmp_path}"):
            read_table(path, images=tmp_path / "elsewhere")

    def test_reads_names_written_with_backslashes(self, tmp_path):
        table = read_table(put(tmp_path, "image,label\nd\\a.jpg,x\n", images=["d/a.jpg"]))
        assert table.ids == ("d\\a.jpg",)
        assert table.images == (tmp_path / "d/a.jpg",)

    @pytest.mark.parametrize(
        ("path", "base", "expected"),
        [
            ("C:/data/img/a.jpg", "C:/data/img", "a.jpg"),
            ("c:/Data/IMG/Sub/a.jpg", "C:/data/img/", "Sub/a.jpg"),
            ("D:/data/img/a.jpg", "C:/data/img", "D:/data/img/a.jpg"),
            ("C:/data/img2/a.jpg", "C:/data/img", "C:/data/img2/a.jpg"),
            ("C:/a.jpg", "C:/", "a.jpg"),
            ("//host/share/a.jpg", "//host/share", "a.jpg"),
            ("/Data/a.jpg", "/data", "/Data/a.jpg"),
        ],
    )
    def test_cuts_the_folder_off_absolute_names(self, path, base, expected):
        assert strip_base(path, base) == expected

    @pytest.mark.parametrize("name", ["C:\\data\\img\\a.jpg", "c:/data/img/a.jpg"])
    def test_names_on_a_drive_are_found_below_the_folder(self, tmp_path, monkeypatch, name):
        # No folder here has a drive, so the folder only says that it lies on one.
        path = put(tmp_path, f"image,label\n{name},x\n{name[:2]}{name[2:].replace('a', 'b')},y\n")
        with pytest.raises(TableError, match=r"2 image name\(s\) lead out of"):
            read_table(path)
        path = put(tmp_path, f"image,label\n{name},x\n")
        monkeypatch.setattr(type(tmp_path), "absolute", lambda _: PureWindowsPath("C:/data/img"))
        table = read_table(path, images=tmp_path)
        assert (table.ids, table.images) == ((name,), (tmp_path / "a.jpg",))

    @pytest.mark.parametrize("form", ["NFC", "NFD"])
    def test_finds_accents_composed_otherwise(self, tmp_path, form):
        there = unicodedata.normalize(form, "Bärte/é.jpg")
        written = unicodedata.normalize("NFD" if form == "NFC" else "NFC", "Bärte/é.jpg")
        path = put(tmp_path, f"image,label\n{written},x\na.jpg,y\n", images=["a.jpg", there])
        table = read_table(path)
        assert table.ids == (written, "a.jpg")
        assert table.images == (tmp_path / there, tmp_path / "a.jpg")
        assert has_note(
            table,
            "1 image files were found only without surrounding blanks or with accents composed "
            f"otherwise (NFC, NFD): {written!r}",
        )

    def test_finds_names_with_blanks_around_them(self, tmp_path):
        text = 'image,label\n" a.jpg",x\n"b ",y\n" c.jpg ",y\nz.jpg ,y\n'
        table = read_table(put(tmp_path, text, images=["a.jpg", "b.jpg", " c.jpg "]))
        assert table.ids == (" a.jpg", "b ", " c.jpg ", "z.jpg ")
        expected = ("a.jpg", "b.jpg", " c.jpg ", "z.jpg ")
        assert table.images == tuple(tmp_path / name for name in expected)
        notes = [note.partition(":")[0] for note in table.notes]
        assert sum(note.startswith("2 image files were found only without") for note in notes) == 1
        assert sum(note.startswith("1 image names have no extension") for note in notes) == 1
        assert sum(note.startswith("1 image files are missing") for note in notes) == 1

    @pytest.mark.parametrize("name", [" ../secret.jpg", " /etc/secret.jpg", " C:/x.jpg", " .. "])
    def test_refuses_names_that_lead_out_behind_a_blank(self, tmp_path, name):
        with pytest.raises(TableError, match=r"1 image name\(s\) lead out of"):
            read_table(put(tmp_path, f"image,label\na.jpg,x\n{name},y\n"))


class TestRunLengths:
    def test_reads_image_label(self, tmp_path):
        table = read_table(put(tmp_path, JOINED), images=tmp_path)
        assert table.layout.name == "rle-joined"
        assert table.ids == ("a.jpg", "b.jpg", "c.jpg")
        assert table.classes == ("Fish", "Sugar")
        assert sheet(table) == [[1, 0], [0, 0], [0, 0]]
        assert not table.exclusive
        assert any("1 images in" in n and "count as clean" in n for n in table.notes)

    def test_reads_image_class_id(self, tmp_path):
        text = "ImageId_ClassId,EncodedPixels\na.jpg_1,\na.jpg_2,5 5\nb.jpg_1,1 1\nb.jpg_2,3 4\n"
        table = read_table(put(tmp_path, text), images=tmp_path, names={"1": "pit", "2": "rust"})
        assert table.classes == ("pit", "rust")
        assert table.layout.numbers == ("1", "2")
        assert sheet(table) == [[0, 1], [1, 1], [0, 0]]

    def test_reads_a_row_a_mask(self, tmp_path):
        text = "ImageId,ClassId,EncodedPixels\nb.jpg,10,1 2\nb.jpg,3,4 5\nb.jpg,3,9 1\na.jpg,3,\n"
        table = read_table(put(tmp_path, text), images=tmp_path)
        assert table.layout.name == "rle-rows"
        assert table.layout.label_column == ("ClassId", "EncodedPixels")
        assert table.ids == ("b.jpg", "a.jpg", "c.jpg")
        assert table.classes == ("3", "10")
        assert sheet(table) == [[1, 1], [0, 0], [0, 0]]

    def test_keeps_the_masks_by_row_and_class(self, tmp_path):
        table = read_table(put(tmp_path, JOINED), images=tmp_path)
        assert table.masks == (("1 3 9 2", ""), ("", ""), ("", ""))
        text = "ImageId,ClassId,EncodedPixels\nb.jpg,10,1 2\nb.jpg,3, 4 5 \na.jpg,3,\n"
        # The map puts the classes in another order than their numbers stand in.
        table = read_table(put(tmp_path, text), images=tmp_path, names={"3": "rust", "10": "pit"})
        assert (table.ids, table.classes) == (("b.jpg", "a.jpg", "c.jpg"), ("rust", "pit"))
        assert table.masks == (("4 5", "1 2"), ("", ""), ("", ""))
        single = put(tmp_path, "id,rle_mask\na,1 2\nb,\n")
        assert read_table(single, images=tmp_path).masks == (("1 2",), ("",), ("",))

    def test_joins_several_masks_of_a_class(self, tmp_path):
        text = "ImageId,ClassId,EncodedPixels\nb.jpg,1,9 1\nb.jpg,2,5 1\nb.jpg,1,1 2 8 1\n"
        assert read_table(put(tmp_path, text)).masks == (("1 2 8 2", "5 1"),)
        text = "ImageId,ClassId,EncodedPixels\nb.jpg,1,9 1\nb.jpg,1,5 2 1 1\n"
        with pytest.raises(MaskError, match=r"image 'b\.jpg' cannot be joined.*in order"):
            read_table(put(tmp_path, text))

    def test_adds_no_clean_images_without_a_folder(self, tmp_path):
        table = read_table(put(tmp_path, JOINED))
        assert table.ids == ("a.jpg", "b.jpg")
        assert any("--images DIR" in note for note in table.notes)

    def test_reads_bare_ids_with_one_mask(self, tmp_path):
        path = put(tmp_path, "id,rle_mask\na1,1 2\nb2,\n", images=["p/a1.png", "p/b2.png"])
        touch(tmp_path, "p/c3.png", "p/masks/a1.png")
        table = read_table(path, images=tmp_path / "p")
        assert table.layout.name == "rle-single"
        assert (table.ids, table.classes) == (("a1", "b2", "c3"), ("mask",))
        assert table.images[0] == tmp_path / "p/a1.png"
        assert sheet(table) == [[1], [0], [0]]

    @pytest.mark.parametrize("fold", ["", "0"])
    def test_a_table_that_lists_all_its_images_has_no_others(self, tmp_path, fold):
        text = "ImageId,ClassId,EncodedPixels,listed\nb.jpg,1,1 2,all\na.jpg,,,all\n"
        if fold:
            text = text.replace("\n", ",0\n").replace("listed,0", "listed,fold")
        table = read_table(put(tmp_path, text), images=tmp_path)
        assert (table.ids, table.classes) == (("b.jpg", "a.jpg"), ("1",))
        assert table.masks == (("1 2",), ("",))
        assert sum("1 images in" in n and "are left out" in n for n in table.notes) == 1

    def test_a_clean_image_with_a_row_does_not_leave_the_others_out(self, tmp_path):
        text = "ImageId,ClassId,EncodedPixels\nb.jpg,1,1 2\na.jpg,,\n"
        assert len(read_table(put(tmp_path, text), images=tmp_path)) == 3

    @pytest.mark.parametrize(
        "text",
        [
            JOINED,
            "ImageId,ClassId,EncodedPixels\na.jpg,3,1 2\nb.jpg,3,\n",
            "id,rle_mask\na,1 2\nb,\n",
        ],
    )
    def test_images_need_not_be_there_to_score_by(self, tmp_path, text):
        path = put(tmp_path, text)
        there = read_table(path)
        (tmp_path / "far").mkdir()
        far = put(tmp_path / "far", text, images=())
        with pytest.raises(TableError, match="none of the 2 images"):
            read_table(far)
        table = read_table(far, need_images=False)
        assert (table.ids, table.classes, table.masks) == (there.ids, there.classes, there.masks)
        assert sheet(table) == sheet(there)
        assert any("2 image files are missing" in note for note in table.notes)

    def test_looks_for_clean_images_below_if_images_lie_there(self, tmp_path):
        text = "ImageId,ClassId,EncodedPixels\nbad/a.jpg,1,1 2\n"
        path = put(tmp_path, text, images=["i/bad/a.jpg", "i/ok/b.jpg"])
        assert read_table(path, images=tmp_path / "i").ids == ("bad/a.jpg", "ok/b.jpg")

    def test_blanks_around_a_name_do_not_make_it_a_bare_id(self, tmp_path):
        table = read_table(put(tmp_path, "id,rle_mask\na.jpg ,1 2\n"), images=tmp_path)
        assert table.ids == ("a.jpg ", "b.jpg", "c.jpg")

    def test_an_image_in_quarantine_is_not_clean(self, tmp_path):
        put(tmp_path, "id,reason\nc.jpg,cut off\n", "labels.quarantine.csv")
        assert read_table(put(tmp_path, JOINED), images=tmp_path).ids == ("a.jpg", "b.jpg")

    @pytest.mark.parametrize("runs", ["1", "1 2 3", "0 3", "1 -2", "1,2", "nan", "1.0 2"])
    def test_lists_lines_that_are_no_run_lengths(self, tmp_path, runs):
        text = f'id,rle_mask\na,1 1\nb,"{runs}"\n'
        with pytest.raises(MaskError, match=r"'rle_mask': 1 cell\(s\).*on line 3"):
            read_table(put(tmp_path, text))

    def test_refuses_a_mask_without_a_class(self, tmp_path):
        text = "ImageId,ClassId,EncodedPixels\na.jpg,,1 2\n"
        with pytest.raises(MaskError, match=r"no class in column 'ClassId', on line 2"):
            read_table(put(tmp_path, text))

    def test_refuses_a_key_without_a_class(self, tmp_path):
        with pytest.raises(TableError, match=r"not '<file>_<class>', on line 2.*'a\.jpg'"):
            read_table(put(tmp_path, "Image_Label,EncodedPixels\na.jpg,1 2\n"))

    def test_refuses_rows_of_an_image_that_contradict(self, tmp_path):
        text = "ImageId,ClassId,EncodedPixels,fold\na.jpg,1,1 2,0\na.jpg,2,1 2,1\n"
        with pytest.raises(TableError, match=r"'fold': 1 row\(s\) differ.*line 3"):
            read_table(put(tmp_path, text))

    def test_refuses_clean_images_without_a_fold(self, tmp_path):
        text = "ImageId,ClassId,EncodedPixels,fold\na.jpg,1,1 2,0\n"
        with pytest.raises(TableError, match=r"2 image\(s\).*no row.*'fold'"):
            read_table(put(tmp_path, text), images=tmp_path)


class TestFolders:
    def test_reads_a_folder_per_class_in_a_fixed_order(self, tmp_path):
        touch(tmp_path, "dog/b.JPG", "dog/a.png", "cat/deep/c.webp", "dog/.d.jpg", "dog/note.txt")
        touch(tmp_path, ".hidden/e.jpg")
        (tmp_path / "empty").mkdir()
        table = read_table(tmp_path)
        assert table.ids == ("cat/deep/c.webp", "dog/a.png", "dog/b.JPG")
        assert (table.classes, table.exclusive) == (("cat", "dog"), True)
        assert sheet(table) == [[1, 0], [0, 1], [0, 1]]
        assert any("empty" in note for note in table.notes)
        assert read_table(tmp_path, layout="images").classes == ()

    def test_reads_a_plain_folder_without_labels(self, tmp_path):
        touch(tmp_path, "b.jpg", "a.gif", "labels.csv")
        table = read_table(tmp_path)
        assert (table.ids, table.classes) == (("a.gif", "b.jpg"), ())

    def test_maps_folder_names(self, tmp_path):
        touch(tmp_path, "0/a.jpg", "10/b.jpg", "9/c.jpg")
        assert read_table(tmp_path).classes == ("0", "9", "10")
        named = read_table(tmp_path, names={"0": "x", "9": "y", "10": "z"})
        assert named.classes == ("x", "y", "z")

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (["x.txt"], "there are 0 images"),
            (["cat/a.jpg", "dog/b.jpg", "c.jpg"], "beside the class folders: c.jpg"),
            (["train/a.jpg", "test/b.jpg"], "parts of a data set"),
            (["images/a.jpg"], "only sub-folder with images is 'images'"),
        ],
    )
    def test_refuses_what_are_no_class_folders(self, tmp_path, names, message):
        touch(tmp_path, *names)
        with pytest.raises(TableError) as caught:
            read_table(tmp_path)
        assert message in str(caught.value)

    @pytest.mark.skipif(os.name == "nt", reason="names are text there")
    def test_refuses_file_names_that_are_no_text(self, tmp_path):
        try:
            (tmp_path / os.fsdecode(b"\xff.jpg")).touch()
        except OSError:
            pytest.skip("the file system takes valid names only")
        with pytest.raises(TableError, match="not UTF-8"):
            list_images(tmp_path)


def draw(path, values, mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(values, np.uint8), "L").convert(mode).save(path)


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
class TestMasks:
    def test_reads_presence_by_the_same_name(self, tmp_path):
        touch(tmp_path, "i/a.jpg", "i/b.jpg", "i/c.jpg")
        draw(tmp_path / "m/a.png", [[0, 128]])
        draw(tmp_path / "m/b.png", [[0, 0]])
        table = read_table(tmp_path / "i", masks=tmp_path / "m")
        assert (table.layout.name, table.classes) == ("masks", ("mask",))
        assert sheet(table) == [[1], [0], [0]]
        assert any("1 images have no mask" in note for note in table.notes)

    def test_reads_presence_by_a_column(self, tmp_path):
        path = put(tmp_path, "image,mask,fold\na.jpg,x.png,0\nb.jpg,,1\n")
        draw(tmp_path / "m/x.png", [[255, 0]])
        table = read_table(path, masks=tmp_path / "m")
        assert sheet(table) == [[1], [0]]
        assert table.folds.tolist() == [0, 1]
        assert has_note(table, "column 'fold' is used as the fold: 0 (1 images), 1 (1 images)")

    def test_takes_a_group_column(self, tmp_path):
        path = put(tmp_path, "image,mask,lot\na.jpg,x.png,p\nb.jpg,,q\n")
        draw(tmp_path / "m/x.png", [[255, 0]])
        table = read_table(path, masks=tmp_path / "m", group_column="lot")
        assert table.groups == ("p", "q")
        told = "column 'lot' is used as the group: 2 groups, each of which shares a fold"
        assert has_note(table, told)
        with pytest.raises(TableError, match="no column 'plot' to group by; did you mean 'lot'"):
            read_table(path, masks=tmp_path / "m", group_column="plot")
        with pytest.raises(TableError, match="a folder has no columns"):
            read_table(tmp_path, masks=tmp_path / "m", group_column="lot")

    def test_finds_masks_by_the_file_however_the_table_writes_it(self, tmp_path):
        images = ["d/a.jpg", unicodedata.normalize("NFD", "é.jpg"), "c.jpg"]
        path = put(tmp_path, "image\nd\\a.jpg\né.jpg\n c\n", images=images)
        for name in ("d/a.png", unicodedata.normalize("NFC", "é.png"), "c.png"):
            draw(tmp_path / "m" / name, [[255, 0]])
        table = read_table(path, images=tmp_path, masks=tmp_path / "m")
        assert table.ids == ("d\\a.jpg", "é.jpg", " c")
        assert sheet(table) == [[1], [1], [1]]

    def test_refuses_maps_of_class_numbers(self, tmp_path):
        touch(tmp_path, "i/a.jpg")
        draw(tmp_path / "m/a.png", [[0, 3]])
        with pytest.raises(MaskError, match=r"a\.png \(highest value 3\).*map of class numbers"):
            read_table(tmp_path / "i", masks=tmp_path / "m")
        draw(tmp_path / "m/a.png", [[0, 200]], mode="P")
        with pytest.raises(MaskError, match="palette"):
            read_table(tmp_path / "i", masks=tmp_path / "m")

    def test_refuses_what_does_not_match(self, tmp_path):
        path = put(tmp_path, "image,mask_1,mask_2\na.jpg,x.png,y.png\n")
        draw(tmp_path / "m/z.png", [[255, 0]])
        with pytest.raises(TableError, match=r"mask_1, mask_2.*--label-column"):
            read_table(path, masks=tmp_path / "m")
        with pytest.raises(MaskError, match=r"1 mask file\(s\) are missing: x\.png"):
            read_table(path, masks=tmp_path / "m", label_column="mask_1")
        with pytest.raises(TableError, match=r"no mask has the name of an image.*--label-column"):
            read_table(put(tmp_path, "image\na.jpg\n"), masks=tmp_path / "m")
        (tmp_path / "m/a.png").write_bytes(b"no image")
        with pytest.raises(MaskError, match=r"1 mask\(s\) cannot be read: a\.png"):
            read_table(put(tmp_path, "image\na.jpg\n"), masks=tmp_path / "m")

    def test_keeps_the_masks_of_its_images(self, tmp_path):
        for name in ("a", "b", "c"):
            draw(tmp_path / f"i/{name}.png", [[9] * 4] * 3)
        draw(tmp_path / "m/a.png", [[0, 127, 128, 0], [0, 0, 255, 0], [200, 0, 0, 0]])
        draw(tmp_path / "m/b.png", [[0] * 4] * 3)
        table = read_table(tmp_path / "i", masks=tmp_path / "m")
        # Down the columns: pixel 3, then 7 and 8.
        assert table.masks == (("3 1 7 2",), ("",), ("",))
        assert sheet(table) == [[bool(text) for text in row] for row in table.masks]
        write_snapshot(table, tmp_path / "t.parquet")
        again = read_snapshot(tmp_path / "t.parquet")
        assert (again.masks, again.digest()) == (table.masks, table.digest())
        assert replace(table, masks=None).digest() != table.digest()

    def test_one_mask_can_be_that_of_several_images(self, tmp_path):
        path = put(tmp_path, "image,mask\na.png,x.png\nb.png,\nc.png,x.png\n")
        draw(tmp_path / "a.png", [[1, 1]] * 2)
        draw(tmp_path / "c.png", [[1, 1]])
        draw(tmp_path / "b.png", [[1, 1]])
        draw(tmp_path / "m/x.png", [[0, 255]] * 2)
        table = read_table(path, masks=tmp_path / "m")
        assert table.masks == (("3 2",), ("",), ("2 1",))

    def test_16_bit_masks_are_cut_by_share(self, tmp_path):
        rows = np.array([[0, 32767, 32768, 65535]], np.uint16)
        for name, values in (("a", rows), ("b", rows // 257), ("c", rows * 0)):
            draw(tmp_path / f"i/{name}.png", [[9] * 4])
            path = tmp_path / f"m/{name}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(values).save(path)
        table = read_table(tmp_path / "i", masks=tmp_path / "m")
        assert table.masks == (("3 2",), ("4 1",), ("",))

    def test_masks_of_another_size_are_resized_and_told(self, tmp_path):
        for name in ("a", "b"):
            draw(tmp_path / f"i/{name}.png", [[9] * 2] * 3)
        draw(tmp_path / "m/a.png", [[0, 0, 255, 255]] * 6)
        draw(tmp_path / "m/b.png", [[255, 0]] * 3)
        table = read_table(tmp_path / "i", masks=tmp_path / "m")
        assert table.masks == (("4 3",), ("1 3",))
        assert has_note(
            table,
            "the masks of 1 image(s) have another size (height x width) than the image and are "
            "resized to it: 'a.png' (6 x 4 for an image of 3 x 2)",
        )

    def test_a_mask_that_resizing_loses_costs_no_label(self, tmp_path):
        draw(tmp_path / "i/a.png", [[9] * 2] * 2)
        draw(tmp_path / "m/a.png", [[255, 0, 0, 0], [0] * 4, [0] * 4, [0] * 4])
        table = read_table(tmp_path / "i", masks=tmp_path / "m")
        assert (table.masks, sheet(table)) == (None, [[1]])
        assert any("no masks are kept: at the size of the image no pixel" in n for n in table.notes)

    @pytest.mark.parametrize("as_shown", [True, False])
    def test_masks_are_of_the_image_as_it_is_shown(self, tmp_path, as_shown):
        exif = Image.Exif()
        exif[0x0112] = 6
        (tmp_path / "i").mkdir()
        Image.new("L", (4, 2)).save(tmp_path / "i/a.jpg", exif=exif)
        tall = np.array([[0, 0], [0, 255], [0, 0], [0, 0]])
        draw(tmp_path / "m/a.png", tall if as_shown else tall.T)
        table = read_table(tmp_path / "i", masks=tmp_path / "m")
        assert sheet(table) == [[1]]
        assert table.masks == ((("6 1",),) if as_shown else None)
        told = "are turned against the image as it is shown (EXIF): 'a.jpg' (2 x 4 for an image of"
        assert any(told in note for note in table.notes) != as_shown

    def test_masks_of_images_that_cannot_be_read_are_kept_and_told(self, tmp_path):
        touch(tmp_path, "i/a.jpg", "i/b.jpg")
        draw(tmp_path / "m/a.png", [[0, 255]])
        draw(tmp_path / "m/b.png", [[0, 0]])
        table = read_table(tmp_path / "i", masks=tmp_path / "m")
        assert table.masks == (("2 1",), ("",))
        told = "the size of 1 image(s) with masks cannot be read"
        assert any(told in note and "'a.jpg' (1 x 2)" in note for note in table.notes)


WHOLE = {
    "images": [{"id": 5, "file_name": "b.jpg"}, {"id": 3, "file_name": "a.jpg"}],
    "categories": [{"id": 7, "name": "rust"}, {"id": 2, "name": "pit"}],
    "annotations": [
        {"image_id": 3, "category_id": 7, "bbox": [0, 0, 1, 1]},
        {"image_id": 3, "category_id": 7},
    ],
}


class TestCoco:
    def write(self, folder, **changes):
        return put(folder, json.dumps(WHOLE | changes), "coco.json")

    def test_reads_presence(self, tmp_path):
        table = read_table(self.write(tmp_path))
        assert table.ids == ("b.jpg", "a.jpg")
        assert table.layout.name == "coco"
        assert sorted(zip(table.classes, table.targets[1].tolist(), strict=True)) == [
            ("pit", 0.0),
            ("rust", 1.0),
        ]
        assert table.targets[0].sum() == 0
        assert any("1 images have no annotation" in note for note in table.notes)

    def test_without_annotations_there_are_no_labels(self, tmp_path):
        path = put(tmp_path, json.dumps({"images": WHOLE["images"]}), "test.json")
        assert read_table(path).classes == ()

    def test_lists_what_does_not_fit(self, tmp_path):
        lost = [{"image_id": 9, "category_id": 7}, {"image_id": 3, "category_id": 1}]
        with pytest.raises(TableError, match=r"unknown images: 9.*unknown categories: 1"):
            read_table(self.write(tmp_path, annotations=lost))
        with pytest.raises(TableError, match="'images' with id and file_name"):
            read_table(self.write(tmp_path, images=[{"id": 1}]))
        with pytest.raises(TableError, match="not readable as JSON"):
            read_table(put(tmp_path, "{", "coco.json"))


SQUARE = [[1, 1, 3, 1, 3, 3, 1, 3]]
"""Rows and columns 1 and 2."""


def draw_coco(folder, *annotations, size=(4, 5), **changes):
    """Write a COCO file of two images of 4 x 5 pixels; only the first has its size in it."""
    draw(folder / "a.png", [[9] * 5] * 4)
    draw(folder / "b.png", [[9] * 5] * 4)
    images = [
        {"id": 5, "file_name": "a.png", "height": size[0], "width": size[1]},
        {"id": 3, "file_name": "b.png"},
    ]
    notes = [
        {"image_id": image, "category_id": category, "segmentation": segmentation}
        for image, category, segmentation in annotations
    ]
    whole = WHOLE | {"images": images, "annotations": notes} | changes
    return put(folder, json.dumps(whole), "coco.json", images=())


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
class TestMasksOfCoco:
    def test_keeps_them_by_row_and_class(self, tmp_path):
        counts = {"size": [4, 5], "counts": [0, 1, 19]}
        table = read_table(
            draw_coco(tmp_path, (5, 7, SQUARE), (5, 7, counts), (3, 2, SQUARE), (3, 7, counts))
        )
        assert table.classes == ("pit", "rust")
        assert table.masks == (("", "1 1 6 2 10 2"), ("6 2 10 2", "1 1"))
        assert sheet(table) == [[0, 1], [1, 1]]
        write_snapshot(table, tmp_path / "t.parquet")
        again = read_snapshot(tmp_path / "t.parquet")
        assert (again.masks, again.digest()) == (table.masks, table.digest())

    def test_a_name_map_may_hold_more_classes(self, tmp_path):
        names = {"rust": "Rust", "dent": "Dent", "pit": "Pit"}
        table = read_table(draw_coco(tmp_path, (5, 7, SQUARE), (3, 2, SQUARE)), names=names)
        present = [[bool(text) for text in row] for row in table.masks]
        assert (len(table.classes), sheet(table)) == (3, present)
        assert table.masks[0][table.classes.index("Rust")] == "6 2 10 2"

    def test_collapsed_classes_join_theirs(self, tmp_path):
        path = draw_coco(tmp_path, (5, 7, SQUARE), (5, 2, [[0, 0, 2, 0, 2, 2, 0, 2]]))
        assert read_table(path, any_class="any").masks == (("1 2 5 3 10 2",), ("",))

    def test_without_annotations_all_are_empty(self, tmp_path):
        assert read_table(draw_coco(tmp_path)).masks == (("", ""), ("", ""))

    def test_boxes_alone_are_labels(self, tmp_path):
        table = read_table(draw_coco(tmp_path, (5, 7, []), (3, 7, None)))
        assert (table.masks, sheet(table)) == (None, [[0, 1], [0, 1]])
        assert has_note(table, "its annotations have no masks")

    @pytest.mark.parametrize(
        ("segmentation", "told"),
        [
            ([[1, 1, 3, 1]], "annotation at place 1: a polygon of 4 value(s)"),
            ([], "annotation at place 1: no segmentation"),
            ([[1, 1, 3, 1, 3, 3], 7], "annotation at place 1: polygons among other values"),
            ({"size": 20, "counts": [20]}, "annotation at place 1: run lengths of size 20"),
            ([[1, 1, 1.1, 1, 1.1, 1.1]], "the masks of a class in 'b.png' have no pixel"),
        ],
    )
    def test_what_is_no_mask_is_told_and_costs_no_label(self, tmp_path, segmentation, told):
        table = read_table(draw_coco(tmp_path, (5, 7, SQUARE), (3, 2, segmentation)))
        assert (table.masks, sheet(table)) == (None, [[0, 1], [1, 0]])
        start = f"no masks are kept: 1 are absent or not valid: {told}"
        assert sum(note.startswith(start) for note in table.notes) == 1

    def test_another_size_than_the_images_is_told(self, tmp_path):
        table = read_table(draw_coco(tmp_path, (5, 7, [[0, 0, 4, 0, 4, 8, 0, 8]]), size=(8, 10)))
        assert table.masks == (("", "1 8"), ("", ""))
        assert any(
            "resized to it: 'a.png' (8 x 10 for an image of 4 x 5)" in n for n in table.notes
        )
        table = read_table(draw_coco(tmp_path, (5, 7, SQUARE), size=(5, 4)))
        assert table.masks is None
        assert any("'a.png' (5 x 4 for an image of 4 x 5)" in note for note in table.notes)

    def test_a_mask_without_any_size_is_told(self, tmp_path):
        path = draw_coco(tmp_path, (3, 7, SQUARE))
        (tmp_path / "b.png").write_bytes(b"")
        table = read_table(path)
        assert (table.masks, sheet(table)) == (None, [[0, 0], [0, 1]])
        assert any("neither the file nor the image itself gives" in note for note in table.notes)


class TestAnyClass:
    TEXT = "image,label\na.jpg,Free\nb.jpg,Crack\nc.jpg,Fray\n"

    def test_collapses_exclusive_classes(self, tmp_path):
        table = read_table(put(tmp_path, self.TEXT), any_class="defect", negative="Free")
        assert (table.classes, table.exclusive) == (("defect",), False)
        assert sheet(table) == [[0], [1], [1]]
        assert table.layout.any_class == "defect"

    def test_collapses_columns_that_stand_alone(self, tmp_path):
        table = read_table(put(tmp_path, JOINED), images=tmp_path, any_class="cloud")
        assert sheet(table) == [[1], [0], [0]]

    def test_joins_the_masks_of_the_classes_it_collapses(self, tmp_path):
        text = "ImageId,ClassId,EncodedPixels\na.jpg,1,1 4\na.jpg,2,3 4 20 1\na.jpg,3,9 1\n"
        path = put(tmp_path, text)
        assert read_table(path, any_class="any").masks == (("1 6 9 1 20 1",),)
        assert read_table(path, any_class="any", negative="3").masks == (("1 6 20 1",),)
        labels = put(tmp_path, "image,label\na.jpg,x\nb.jpg,y\n")
        assert read_table(labels, any_class="any", negative="x").masks is None

    def test_asks_for_the_negative_class(self, tmp_path):
        path = put(tmp_path, self.TEXT)
        with pytest.raises(TableError, match=r"--negative NAME.*'Crack', 'Fray', 'Free'"):
            read_table(path, any_class="defect")
        with pytest.raises(TableError, match=r"'free' is not a class.*did you mean 'Free'"):
            read_table(path, any_class="defect", negative="free")
        with pytest.raises(TableError, match="needs --any-class"):
            read_table(path, negative="Free")
        with pytest.raises(TableError, match="the table has none"):
            read_table(path, any_class="defect", layout="images")


class TestRewrites:
    def test_appends_and_replaces_columns_and_keeps_all_other_text(self, tmp_path):
        text = 'image;label;Fold;note\na.jpg;007;9;"x;y"\nb.jpg; NA ;9;\n'
        path = put(tmp_path, text)
        table = read_table(path)
        append_columns(table, path, tmp_path / "out.csv", {"fold": [0, -1], "group": ["g", "h"]})
        assert (tmp_path / "out.csv").read_text() == (
            'image;label;Fold;note;group\na.jpg;007;0;"x;y";g\nb.jpg; NA ;-1;;h\n'
        )
        again = read_table(tmp_path / "out.csv")
        assert again.folds.tolist() == [0, -1]
        assert again.classes == table.classes

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            (JOINED, "c.jpg_Fish,,2"),
            (JOINED.replace("Fish", "bare_soil"), "c.jpg_bare_soil,,2"),
            ("ImageId,ClassId,EncodedPixels\na.jpg,4,1 2\nb.jpg,3,1 2\n", "c.jpg,4,,2"),
            ("id,rle_mask\na,1 2\nb,\n", "c,,2"),
        ],
    )
    def test_clean_images_get_a_row_so_that_they_keep_their_fold(self, tmp_path, text, expected):
        path = put(tmp_path, text)
        table = read_table(path, images=tmp_path)
        append_columns(table, path, tmp_path / "out.csv", {"fold": [0, 1, 2]})
        lines = (tmp_path / "out.csv").read_text().splitlines()
        assert lines[-1] == expected
        assert lines[1] == text.splitlines()[1] + ",0"
        again = read_table(tmp_path / "out.csv", images=tmp_path)
        assert again.ids == table.ids
        assert sheet(again) == sheet(table)
        assert again.folds.tolist() == [0, 1, 2]

    def test_folders_become_a_table(self, tmp_path):
        touch(tmp_path, "i/cat/a.jpg", "i/dog/b.jpg")
        table = read_table(tmp_path / "i")
        out = tmp_path / "out.csv"
        append_columns(table, tmp_path / "i", out, {"fold": [0, 1], "group": ["0", "1"]})
        assert out.read_text() == "image,label,fold,group\ncat/a.jpg,cat,0,0\ndog/b.jpg,dog,1,1\n"
        again = read_table(out, images=tmp_path / "i")
        assert (again.ids, again.classes) == (table.ids, table.classes)

    def test_coco_becomes_a_table(self, tmp_path):
        path = TestCoco().write(tmp_path)
        table = read_table(path)
        append_columns(table, path, tmp_path / "out.csv", {"fold": [0, 1]})
        again = read_table(tmp_path / "out.csv")
        assert (again.classes, sheet(again)) == (table.classes, sheet(table))

    @pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
    @pytest.mark.parametrize("annotated", [("a",), ("a", "b"), ("b",), ()])
    def test_coco_keeps_its_masks_classes_and_clean_images(self, tmp_path, annotated):
        """And nothing else: the folder holds images of another COCO file, too."""
        rows = {"a": 5, "b": 3}
        path = draw_coco(tmp_path, *((rows[name], 7, SQUARE) for name in annotated))
        draw(tmp_path / "other.png", [[9] * 5] * 4)
        table = read_table(path)
        out = tmp_path / "out.csv"
        append_columns(table, path, out, {"fold": [1, 0], "group": ["g", "h"]})
        again = read_table(out, images=tmp_path)
        assert (again.ids, again.classes) == (("a.png", "b.png"), ("pit", "rust"))
        assert (again.masks, sheet(again)) == (table.masks, sheet(table))
        assert again.targets.sum() == len(annotated)
        assert (again.folds.tolist(), again.groups) == ([1, 0], ("g", "h"))
        # And once more, as the table that it is now.
        twice = tmp_path / "twice.csv"
        append_columns(again, out, twice, {"fold": [0, 1]})
        assert read_table(twice, images=tmp_path).masks == table.masks

    @pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
    def test_masks_of_coco_are_written_by_row_and_class(self, tmp_path):
        path = draw_coco(tmp_path, (5, 7, SQUARE), (5, 2, SQUARE))
        out = tmp_path / "out.csv"
        append_columns(read_table(path), path, out, {"fold": [1, 0]})
        assert out.read_text().splitlines() == [
            "ImageId,ClassId,EncodedPixels,listed,fold",
            "a.png,pit,6 2 10 2,all,1",
            "a.png,rust,6 2 10 2,all,1",
            "b.png,,,all,0",
        ]

    @pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
    def test_images_that_coco_does_not_list_stay_out_when_rows_are_set_aside(self, tmp_path):
        path = draw_coco(tmp_path, (5, 7, SQUARE), (3, 2, SQUARE))
        Image.new("RGB", (4, 3)).save(tmp_path / "other.png")
        first, second = tmp_path / "first.csv", tmp_path / "second.csv"
        write_quarantine(read_table(path), path, first, [])
        table = read_table(first, images=tmp_path)
        assert table.ids == ("a.png", "b.png")
        # The only clean row goes, and what it says of the table stays.
        write_quarantine(table, first, second, [Quarantined(id="b.png", reason="dim")])
        assert read_table(second, images=tmp_path).ids == ("a.png",)

    @pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
    def test_masks_of_coco_are_written_by_the_names_that_were_mapped(self, tmp_path):
        names = {"rust": "Rust", "dent": "Dent", "pit": "Pit"}
        path, out = draw_coco(tmp_path, (5, 7, SQUARE), (3, 2, SQUARE)), tmp_path / "out.csv"
        table = read_table(path, names=names)
        append_columns(table, path, out, {"fold": [1, 0]})
        assert "names" not in list_settled(table)
        again = read_table(out, names=names)
        assert (again.classes, again.masks) == (table.classes, table.masks)

    @pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
    def test_collapsed_masks_need_no_second_collapse(self, tmp_path):
        path, out = draw_coco(tmp_path, (5, 7, SQUARE), (3, 2, SQUARE)), tmp_path / "out.csv"
        table = read_table(path, any_class="any", negative="pit")
        append_columns(table, path, out, {"fold": [1, 0]})
        assert {"any_class", "negative", "names"} <= set(list_settled(table))
        again = read_table(out)
        assert (again.classes, again.masks) == (("any",), (("6 2 10 2",), ("",)))

    @pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
    def test_the_first_image_of_coco_can_be_set_aside(self, tmp_path):
        path, out = draw_coco(tmp_path, (5, 7, SQUARE), (3, 2, SQUARE)), tmp_path / "clean.csv"
        write_quarantine(read_table(path), path, out, [Quarantined(id="a.png", reason="dark")])
        again = read_table(out, images=tmp_path)
        assert (again.ids, again.classes) == (("b.png",), ("pit", "rust"))
        assert again.masks == (("6 2 10 2", ""),)

    @pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
    def test_a_folder_of_masks_becomes_a_table_of_masks(self, tmp_path):
        for name in ("a", "b"):
            draw(tmp_path / f"i/{name}.png", [[9, 9]])
        draw(tmp_path / "m/a.png", [[0, 255]])
        table = read_table(tmp_path / "i", masks=tmp_path / "m")
        out = tmp_path / "out.csv"
        append_columns(table, tmp_path / "i", out, {"fold": [1, 0]})
        assert "masks" in list_settled(table)
        again = read_table(out, images=tmp_path / "i")
        assert (again.ids, again.classes, again.masks) == (table.ids, table.classes, table.masks)
        assert again.masks == (("2 1",), ("",))

    def test_tables_of_a_file_are_read_as_before(self, tmp_path):
        path = put(tmp_path, JOINED)
        assert list_settled(read_table(path, any_class="cloud")) == ()

    def test_quarantine_takes_rows_out_and_lists_them(self, tmp_path):
        path = put(tmp_path, "image,label\na.jpg,x\nb.jpg,y\nc.jpg,y\n")
        out = tmp_path / "clean.csv"
        table = read_table(path)
        write_quarantine(table, path, out, [Quarantined(id="b.jpg", reason="cut, off")])
        assert out.read_text() == "image,label\na.jpg,x\nc.jpg,y\n"
        assert (tmp_path / "clean.quarantine.csv").read_text() == 'id,reason\nb.jpg,"cut, off"\n'
        again = read_table(out)
        assert again.quarantined == (Quarantined(id="b.jpg", reason="cut, off"),)
        split = tmp_path / "split.csv"
        append_columns(again, out, split, {"fold": [0, 1]})
        assert read_table(split).quarantined == again.quarantined

    def test_refuses_what_does_not_fit(self, tmp_path):
        path = put(tmp_path, "image,label\na.jpg,x\nb.jpg,y\n")
        table = read_table(path)
        with pytest.raises(AlignmentError, match="'fold' has 1"):
            append_columns(table, path, tmp_path / "o.csv", {"fold": [1]})
        with pytest.raises(AlignmentError, match=r"not in the table: 'z'\."):
            write_quarantine(table, path, tmp_path / "o.csv", [Quarantined(id="z", reason="")])
        bad = [Quarantined(id=name, reason="") for name in table.ids]
        with pytest.raises(TableError, match="every row"):
            write_quarantine(table, path, tmp_path / "o.csv", bad)
        put(tmp_path, "image,label\na.jpg,x\nc.jpg,y\n")
        with pytest.raises(AlignmentError, match=r"not in the table.*'c\.jpg'"):
            append_columns(table, path, tmp_path / "o.csv", {"fold": [0, 1]})
        assert not (tmp_path / "o.csv").exists()


def test_layout_survives_the_snapshot(tmp_path):
    path = put(tmp_path, "image,labels\na.jpg,x|y\nb.jpg,y\n")
    table = read_table(path)
    write_snapshot(table, tmp_path / "t.parquet")
    assert read_snapshot(tmp_path / "t.parquet").layout == table.layout


class TestSnapshotOfMasks:
    def make(self, tmp_path):
        text = "Image_Label,EncodedPixels\na.jpg_x,1 3\na.jpg_y,\nb.jpg_x,\nb.jpg_y,5 1 9 2\n"
        return read_table(put(tmp_path, text))

    def test_masks_survive(self, tmp_path):
        table = self.make(tmp_path)
        write_snapshot(table, tmp_path / "t.parquet")
        again = read_snapshot(tmp_path / "t.parquet")
        assert again.masks == table.masks == (("1 3", ""), ("", "5 1 9 2"))
        assert again.digest() == table.digest()

    def test_a_table_without_masks_has_none_and_its_digest_of_before(self, tmp_path):
        table = Table(
            ids=("a", "b"),
            images=(tmp_path / "a", tmp_path / "b"),
            classes=("x",),
            targets=np.float32([[1], [0]]),
            exclusive=False,
        )
        # The digest of this table before a table could have masks.
        assert table.digest() == "2a9f695d3b3f0991"
        write_snapshot(table, tmp_path / "t.parquet")
        assert read_snapshot(tmp_path / "t.parquet").masks is None

    def test_the_digest_changes_with_a_mask(self, tmp_path):
        table = self.make(tmp_path)
        without = replace(table, masks=None)
        moved = replace(table, masks=(("1 3", ""), ("", "5 1 9 3")))
        swapped = replace(table, masks=(("", "1 3"), ("", "5 1 9 2")))
        assert len({t.digest() for t in (table, without, moved, swapped)}) == 4

    def test_rows_keep_their_masks_when_chosen(self, tmp_path):
        table = self.make(tmp_path)
        assert table.select([1]).masks == (("", "5 1 9 2"),)
        assert table.select([1, 0]).masks == table.masks[::-1]

    def test_refuses_masks_that_do_not_fit(self, tmp_path):
        table = self.make(tmp_path)
        with pytest.raises(TableError, match="masks has 1 rows"):
            replace(table, masks=(("", ""),))
        with pytest.raises(TableError, match=r"have 1, 2 text\(s\); expected 2"):
            replace(table, masks=(("", ""), ("",)))


def test_every_layout_has_a_name_once():
    assert len(set(LAYOUTS)) == len(LAYOUTS) == 11
