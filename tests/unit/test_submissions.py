"""Outputs of predict, letter by letter."""

import numpy as np
import pytest

from loupe.answers import Answers
from loupe.errors import AlignmentError, InputError
from loupe.layouts import read_table
from loupe.submissions import (
    check_writing,
    write_labels,
    write_probabilities,
    write_submission,
)
from loupe.table import Layout

CLASSES = Layout(name="classes", image_column="image", label_column=("label",), columns=("image",))


def answer(classes, probs, *, exclusive=True, layout=CLASSES, ids=None, errors=None):
    """Decide by argmax or at 0.5; rows of NaN are unreadable."""
    sheet = np.array(probs, np.float32).reshape(-1, len(classes))
    if exclusive:
        best = np.nan_to_num(sheet, nan=-1).argmax(axis=1)
        decisions = np.eye(len(classes), dtype=bool)[best] & ~np.isnan(sheet)
    else:
        decisions = sheet >= 0.5
    return Answers(
        ids=tuple(ids or [f"{name}.jpg" for name in "abcdefgh"[: len(sheet)]]),
        classes=tuple(classes),
        probs=sheet,
        decisions=decisions,
        exclusive=exclusive,
        errors=errors,
        layout=layout,
    )


@pytest.fixture
def out(tmp_path):
    return tmp_path / "new" / "out.csv"


def submit(out, answers, **options):
    notes = write_submission(out, answers, **options)
    return out.read_bytes().decode(), notes


NAN = float("nan")
PETS = [[0.9, 0.1], [0.2, 0.8], [NAN, NAN]]


class TestOwnFormats:
    def test_probabilities_have_fixed_columns(self, out):
        write_probabilities(out, answer(["cat", "d,g"], PETS, errors=(None, None, "cut off")))
        assert out.read_text() == (
            'id,cat,"d,g",error\na.jpg,0.9,0.1,\nb.jpg,0.2,0.8,\nc.jpg,,,cut off\n'
        )

    def test_probabilities_read_back_exactly(self, out):
        probs = np.random.default_rng(1).random((50, 1), np.float32) ** 9
        write_probabilities(out, answer(["x"], probs, exclusive=False, ids=map(str, range(50))))
        lines = out.read_text().splitlines()[1:]
        again = np.array([float(line.split(",")[1]) for line in lines]).astype(np.float32)
        assert (again == probs[:, 0]).all()

    def test_labels_of_exclusive_classes(self, out):
        write_labels(out, answer(["cat", "dog"], PETS))
        assert out.read_text() == ("id,label,error\na.jpg,cat,\nb.jpg,dog,\nc.jpg,,not predicted\n")

    def test_a_rejected_row_has_no_label_and_no_error(self, out):
        answers = answer(["cat", "dog"], [[0.5, 0.5]])
        answers.decisions[:] = False
        write_labels(out, answers)
        assert out.read_text() == "id,label,error\na.jpg,,\n"

    def test_labels_that_stand_alone(self, out):
        write_labels(out, answer(["x", "y"], [[0.9, 0.6], [0.1, 0.2], PETS[2]], exclusive=False))
        assert out.read_text() == ("id,x,y,error\na.jpg,1,1,\nb.jpg,0,0,\nc.jpg,,,not predicted\n")

    def test_refuses_classes_named_like_fixed_columns(self, out):
        with pytest.raises(InputError, match=r"'error'.*--names"):
            write_probabilities(out, answer(["ok", "error"], [[1, 0]]))
        write_labels(out, answer(["ok", "error"], [[0, 1]]))
        assert out.read_text().endswith("a.jpg,error,\n")

    def test_leaves_formulas_as_they_are(self, out):
        write_labels(out, answer(["=1+1", "b"], [[1, 0]], ids=["@x.jpg"]))
        assert out.read_text() == "id,label,error\n@x.jpg,=1+1,\n"

    def test_replaces_the_file_whole_and_leaves_nothing_beside_it(self, out):
        write_labels(out, answer(["a", "b"], [[1, 0]]))
        write_labels(out, answer(["a", "b"], [[0, 1]]))
        assert [p.name for p in out.parent.iterdir()] == ["out.csv"]
        with pytest.raises(InputError):
            write_probabilities(out, answer(["id", "b"], [[0, 1]]))
        assert out.read_text().endswith("a.jpg,b,\n")


class TestAnswers:
    def test_refuses_sheets_that_do_not_fit(self):
        with pytest.raises(InputError, match=r"2 ids and 2 classes.*\(1, 2\)"):
            answer(["a", "b"], [[1, 0]], ids=["x", "y"])
        with pytest.raises(InputError, match="2 error texts"):
            answer(["a", "b"], [[1, 0]], errors=(None, "x"))

    def test_refuses_two_decisions_of_exclusive_classes(self):
        with pytest.raises(InputError, match=r"1 row\(s\) have several decisions: 'x'"):
            Answers(
                ids=("x",),
                classes=("a", "b"),
                probs=np.ones((1, 2), np.float32),
                decisions=np.ones((1, 2), np.bool_),
                exclusive=True,
                layout=CLASSES,
            )


class TestTrainingLayout:
    def read(self, tmp_path, text, **options):
        for name in "abc":
            (tmp_path / f"{name}.jpg").touch()
        path = tmp_path / "labels.csv"
        path.write_text(text)
        return read_table(path, images=tmp_path, **options)

    def test_classes(self, out):
        text, notes = submit(out, answer(["cat", "dog"], PETS))
        assert text == "image,label\na.jpg,cat\nb.jpg,dog\nc.jpg,\n"
        assert notes == ("1 unreadable rows have empty cells",)

    def test_classes_with_numbers_in_the_table(self, tmp_path, out):
        table = self.read(
            tmp_path,
            "image_id,label\na.jpg,3\nb.jpg,12\n",
            names={"3": "CMD", "12": "Healthy"},
        )
        text, _ = submit(out, answer(table.classes, PETS[:2], layout=table.layout))
        assert text == "image_id,label\na.jpg,3\nb.jpg,12\n"

    def test_binary_words(self, tmp_path, out):
        table = self.read(tmp_path, "image,bad\na.jpg,Yes\nb.jpg,No\n")
        probs = [[0.2], [0.5], [NAN]]
        answers = answer(table.classes, probs, exclusive=False, layout=table.layout)
        assert submit(out, answers)[0] == "image,bad\na.jpg,No\nb.jpg,Yes\nc.jpg,\n"

    def test_multi_hot(self, tmp_path, out):
        table = self.read(tmp_path, "image,x,y\na.jpg,1,1\nb.jpg,0,1\n")
        probs = [[0.9, 0.1], [0.6, 0.7], [NAN, NAN]]
        answers = answer(table.classes, probs, exclusive=False, layout=table.layout)
        assert submit(out, answers)[0] == "image,x,y\na.jpg,1,0\nb.jpg,1,1\nc.jpg,,\n"

    def test_lists(self, tmp_path, out):
        table = self.read(tmp_path, "image,labels\na.jpg,x|y\nb.jpg,y\n")
        probs = [[0.9, 0.8], [0.6, 0.1], [0.1, 0.1]]
        answers = answer(table.classes, probs, exclusive=False, layout=table.layout)
        assert submit(out, answers)[0] == "image,labels\na.jpg,x|y\nb.jpg,x\nc.jpg,\n"

    def test_any_class(self, tmp_path, out):
        text = "image,label\na.jpg,Free\nb.jpg,Crack\n"
        table = self.read(tmp_path, text, any_class="defect", negative="Free")
        answers = answer(table.classes, [[0.1], [0.9]], exclusive=False, layout=table.layout)
        assert submit(out, answers)[0] == "image,defect\na.jpg,0\nb.jpg,1\n"

    def test_folders(self, out):
        answers = answer(["cat", "dog"], PETS[:2], layout=Layout(name="folders"))
        assert submit(out, answers)[0] == "image,label\na.jpg,cat\nb.jpg,dog\n"

    def test_masks_are_refused(self, tmp_path, out):
        table = self.read(tmp_path, "id,rle_mask\na,1 2\nb,\n")
        answers = answer(table.classes, [[0.9]], exclusive=False, layout=table.layout)
        with pytest.raises(InputError, match="--format labels"):
            write_submission(out, answers)
        assert not out.exists()


class TestColumns:
    def test_micro_cracks_a_bare_label_a_line(self, out):
        layout = Layout(name="binary", image_column="file_name", label_column=("label",))
        answers = answer(["label"], [[0.2], [0.7], [NAN], [0.5]], exclusive=False, layout=layout)
        text, _ = submit(out, answers, columns=("label",), header=False)
        assert text == '0\n1\n""\n1\n'

    def test_art_paintings_an_indexed_answer_value(self, out):
        classes = ["dog", "elephant", "giraffe", "guitar", "horse", "house", "person"]
        answers = answer(classes, np.eye(7)[[3, 0, 6]], layout=Layout(name="folders"))
        text, _ = submit(out, answers, columns=("answer value",), index=True, numbers=True)
        assert text == ",answer value\n0,3\n1,0\n2,6\n"

    def test_numbers_are_those_of_the_table(self, out):
        probs = [[0.1, 0.9]]
        mapped = Layout(name="classes", label_column=("label",), numbers=("4", "9"))
        answers = answer(["a", "b"], probs, layout=mapped)
        assert submit(out, answers, columns=("id", "y"), numbers=True)[0] == "id,y\na.jpg,9\n"
        answers = answer(["3", "12"], probs)
        assert submit(out, answers, columns=("id", "y"), numbers=True)[0] == "id,y\na.jpg,12\n"

    def test_class_columns_by_name_in_any_order(self, out):
        text, _ = submit(out, answer(["cat", "dog"], PETS), columns=("dog", "image", "cat"))
        assert text == "dog,image,cat\n0,a.jpg,1\n1,b.jpg,0\n,c.jpg,\n"

    def test_blanks_around_names_do_not_count(self, out):
        text, _ = submit(out, answer(["cat", "dog"], PETS), columns=("id", " dog", " cat "))
        assert text == "id,dog,cat\na.jpg,0,1\nb.jpg,1,0\nc.jpg,,\n"

    def test_doubtful_columns_are_refused(self, out):
        with pytest.raises(InputError, match=r"'one', 'two' are neither"):
            write_submission(out, answer(["a", "b"], [[1, 0]]), columns=("one", "two"))
        with pytest.raises(InputError, match=r"'prize' are neither"):
            write_submission(out, answer(["a", "b"], [[1, 0]]), columns=("a", "prize"))
        with pytest.raises(InputError, match="'file' could be the image or the class"):
            write_submission(out, answer(["file", "b"], [[1, 0]]), columns=("file", "b"))
        with pytest.raises(InputError, match="'EncodedPixels' holds masks"):
            write_submission(out, answer(["a", "b"], [[1, 0]]), columns=("id", "EncodedPixels"))
        with pytest.raises(InputError, match="pass one of them"):
            write_submission(out, answer(["a", "b"], [[1, 0]]), columns=("id",), like=out)


class TestLike:
    def sample(self, tmp_path, text):
        path = tmp_path / "sample.csv"
        path.write_text(text)
        return path

    def test_takes_columns_rows_and_order_from_the_sample(self, tmp_path, out):
        like = self.sample(tmp_path, "image_id,label\nc.jpg,x\na.jpg,x\n")
        text, notes = submit(out, answer(["cat", "dog"], PETS), like=like)
        assert text == "image_id,label\nc.jpg,\na.jpg,cat\n"
        assert any("1 predicted images are not in the sample" in note for note in notes)

    def test_writes_numbers_where_the_sample_has_them_and_says_which(self, tmp_path, out):
        like = self.sample(tmp_path, "id,target\nb,4\na,4\n")
        text, notes = submit(out, answer(["cat", "dog"], PETS), like=like)
        assert text == "id,target\nb,1\na,0\n"
        assert notes[-1] == "column 'target' holds numbers in the sample: 0 = cat, 1 = dog"

    def test_writes_probabilities_where_the_sample_has_decimals(self, tmp_path, out):
        like = self.sample(tmp_path, "id,dog,cat\nb.jpg,0.5,0.5\na.jpg,0,0\n")
        text, notes = submit(out, answer(["cat", "dog"], PETS), like=like)
        assert text == "id,dog,cat\nb.jpg,0.8,0.2\na.jpg,0.1,0.9\n"
        assert any("hold probabilities" in note for note in notes)
        like = self.sample(tmp_path, "id,dog,cat\nb.jpg,0,0\n")
        text, notes = submit(out, answer(["cat", "dog"], PETS), like=like)
        assert text == "id,dog,cat\nb.jpg,1,0\n"
        assert any("hold 0 and 1" in note for note in notes)

    def test_one_class_is_a_probability_or_a_decision(self, tmp_path, out):
        answers = answer(["crack"], [[0.25], [0.75]], exclusive=False)
        like = self.sample(tmp_path, "id,value\nb.jpg,0.5\na.jpg,0.5\n")
        assert submit(out, answers, like=like)[0] == "id,value\nb.jpg,0.75\na.jpg,0.25\n"
        like = self.sample(tmp_path, "id,value\nb.jpg,0\na.jpg,0\n")
        assert submit(out, answers, like=like)[0] == "id,value\nb.jpg,1\na.jpg,0\n"

    def test_finds_ids_by_their_text_and_keeps_the_samples_spelling(self, tmp_path, out):
        like = self.sample(tmp_path, "case,label\nb.png,x\na,x\n")
        assert submit(out, answer(["cat", "dog"], PETS), like=like)[0] == (
            "case,label\nb.png,dog\na,cat\n"
        )

    def test_does_not_guess_between_two_files_of_one_name(self, tmp_path, out):
        like = self.sample(tmp_path, "id,label\na,x\nb.jpg,x\n")
        answers = answer(["cat", "dog"], PETS, ids=["a.jpg", "a.png", "b.jpg"])
        with pytest.raises(AlignmentError, match=r"1 of 2 ids were not predicted: 'a'\."):
            write_submission(out, answers, like=like)

    def test_lists_all_ids_that_were_not_predicted(self, tmp_path, out):
        like = self.sample(tmp_path, "id,label\na.jpg,x\ny.jpg,x\nz.jpg,x\n")
        with pytest.raises(AlignmentError, match=r"2 of 3 ids.*'y\.jpg', 'z\.jpg'"):
            write_submission(out, answer(["cat", "dog"], PETS), like=like)
        assert not out.exists()

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (",answer value\n0,1\n1,1\n", "no column holds predicted ids.*--index"),
            ("a.jpg,x\nb.jpg,x\n", "not a header.*--no-header"),
            ("id,label\na.jpg,0.5\n", "holds decimals.*2 classes"),
            ("id,cat,dog\na.jpg,0.5,0\n", "some of the columns"),
            ("id,rle_mask\na.jpg,1 1\n", "holds masks"),
            ("id,label,usage\na.jpg,x,Public\n", "'label', 'usage' are neither"),
        ],
    )
    def test_refuses_a_doubtful_sample(self, tmp_path, out, text, message):
        with pytest.raises(InputError, match=message):
            write_submission(out, answer(["cat", "dog"], PETS), like=self.sample(tmp_path, text))


class TestBeforePredicting:
    """What would be refused afterwards is refused before, in the same words."""

    def check(self, out, answers, form="submission", **options):
        check_writing(
            out,
            form,
            ids=answers.ids,
            classes=answers.classes,
            exclusive=answers.exclusive,
            layout=answers.layout,
            **options,
        )

    def refusals(self, out, answers, write, form="submission", **options):
        texts = []
        for act in (lambda: self.check(out, answers, form, **options), write):
            with pytest.raises(InputError) as caught:
                act()
            texts.append((type(caught.value), str(caught.value)))
        return texts

    @pytest.mark.parametrize(
        ("classes", "exclusive", "form", "refused"),
        [
            (["ok", "error"], True, "probabilities", True),
            (["ok", "error"], True, "labels", False),
            (["id", "ok"], False, "labels", True),
            (["id", "ok"], False, "probabilities", True),
            (["yes", "no"], False, "probabilities", False),
        ],
    )
    def test_names_of_classes(self, out, classes, exclusive, form, refused):
        answers = answer(classes, [[1, 0]], exclusive=exclusive)
        if not refused:
            self.check(out, answers, form)
            return
        writer = write_labels if form == "labels" else write_probabilities
        before, after = self.refusals(out, answers, lambda: writer(out, answers), form)
        assert before == after
        assert "--names" in before[1]

    @pytest.mark.parametrize(
        "options", [{"columns": ("one", "two")}, {"columns": ("id", "EncodedPixels")}]
    )
    def test_columns(self, out, options):
        answers = answer(["a", "b"], [[1, 0]])
        before, after = self.refusals(
            out, answers, lambda: write_submission(out, answers, **options), **options
        )
        assert before == after

    def test_masks(self, out):
        layout = Layout(name="rle-single", image_column="id")
        answers = answer(["a"], [[1]], exclusive=False, layout=layout)
        before, after = self.refusals(out, answers, lambda: write_submission(out, answers))
        assert before == after
        assert "holds masks" in before[1]

    @pytest.mark.parametrize(
        "text", ["id,label\na.jpg,x\nz.jpg,x\n", "id,label\na.jpg,0.5\n", "a.jpg,x\nb.jpg,x\n"]
    )
    def test_samples(self, tmp_path, out, text):
        like = tmp_path / "sample.csv"
        like.write_text(text)
        answers = answer(["cat", "dog"], PETS)
        before, after = self.refusals(
            out, answers, lambda: write_submission(out, answers, like=like), like=like
        )
        assert before == after

    def test_places(self, tmp_path, out, monkeypatch):
        answers = answer(["cat", "dog"], PETS)
        (tmp_path / "file").touch()
        for place in (tmp_path, tmp_path / "file" / "deep" / "out.csv"):
            for form in ("labels", "probabilities", "submission"):
                writer = {
                    "labels": write_labels,
                    "probabilities": write_probabilities,
                    "submission": write_submission,
                }[form]
                before, after = self.refusals(
                    place, answers, lambda w=writer, p=place: w(p, answers), form
                )
                assert before == after
        monkeypatch.setattr("os.access", lambda *_: False)
        with pytest.raises(InputError, match="nothing may be written to"):
            self.check(out, answers, "labels")

    def test_what_can_be_written_passes_and_leaves_nothing(self, tmp_path, out):
        like = tmp_path / "sample.csv"
        like.write_text("id,dog,cat\nb.jpg,0.5,0.5\n")
        answers = answer(["cat", "dog"], PETS)
        for form in ("labels", "probabilities", "submission"):
            self.check(out, answers, form)
        self.check(out, answers, like=like, numbers=True)
        self.check(out, answers, columns=(" label",))
        assert not out.parent.exists()
