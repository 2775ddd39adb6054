"""Predictions of any origin: what is read, what is refused, and the way back."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loupe.aligning import guess_difference, match_ids
from loupe.errors import AlignmentError, InputError
from loupe.predictions import Predictions, write_predictions
from loupe.sheetfiles import align_sheet, open_sheet_file, read_sheet_file, write_sheet_file

AB = ("a", "b")


@pytest.fixture
def write(tmp_path):
    def write(text, name="p.csv", encoding="utf-8"):
        path = tmp_path / name
        path.write_bytes(text.encode(encoding) if isinstance(text, str) else text)
        return path

    return write


def sheet(probs, *, ids=None, classes=AB, **more):
    probs = np.array(probs, np.float32)
    ids = tuple(f"{row}.png" for row in range(len(probs))) if ids is None else tuple(ids)
    values = {"exclusive": False, "held_out": np.ones(len(probs), np.bool_), **more}
    return Predictions(ids=ids, classes=tuple(classes), probs=probs, **values)


def same(first: Predictions, other: Predictions) -> None:
    assert (first.ids, first.classes, first.exclusive) == (
        other.ids, other.classes, other.exclusive,
    )  # fmt: skip
    np.testing.assert_array_equal(first.probs, other.probs)
    np.testing.assert_array_equal(first.held_out, other.held_out)
    assert (first.folds is None) == (other.folds is None)
    if first.folds is not None:
        np.testing.assert_array_equal(first.folds, other.folds)


# Reading ------------------------------------------------------------------------------------------


def test_ids_stay_text_and_classes_follow_the_table(write):
    path = write("id,prob:b,a,fold\n007,0.25,0.5,1\nNA,1,0,0\n")
    found = read_sheet_file(path, classes=AB, exclusive=False)
    assert found.ids == ("007", "NA")
    assert found.probs.tolist() == [[0.5, 0.25], [0.0, 1.0]]
    assert found.probs.dtype == np.float32
    assert found.folds.tolist() == [1, 0]
    assert found.errors is None


@pytest.mark.parametrize("name", ["id", "Id", "image_id", "filename", "path", "Image"])
def test_the_column_of_ids_has_many_names(write, name):
    assert read_sheet_file(write(f"{name},a,b\nx,0,1\n"), classes=AB).ids == ("x",)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("id;a;b\nx;0.5;1\n", "p.csv"),
        ("id\ta\tb\nx\t0.5\t1\n", "p.tsv"),
        ("\ufeffid,a,b\r\nx, 0.5 ,1\r\n", "p.csv"),
        ('"id","a","b"\n\n"x","0.5","1.0"\n', "p.csv"),
    ],
)
def test_spellings_of_a_table(write, text, name):
    found = read_sheet_file(write(text, name), classes=AB)
    assert (found.ids, found.probs.tolist()) == (("x",), [[0.5, 1.0]])


def test_rows_are_held_out_only_if_somebody_says_so(write):
    plain = write("id,a\nx,0\ny,1\n")
    assert read_sheet_file(plain, classes=["a"]).held_out.tolist() == [False, False]
    assert read_sheet_file(plain, classes=["a"], held_out=True).held_out.tolist() == [True, True]
    marked = write("id,a,held_out\nx,0,True\ny,1,0\n")
    assert read_sheet_file(marked, classes=["a"]).held_out.tolist() == [True, False]
    floats = write("id,a,held_out\nx,0,1.0\ny,1,0.0\n", "q.csv")
    assert read_sheet_file(floats, classes=["a"]).held_out.tolist() == [True, False]
    # What the file denies cannot be asserted.
    found = read_sheet_file(marked, classes=["a"], held_out=True)
    assert found.held_out.tolist() == [True, False]


def test_without_a_table_every_column_of_numbers_is_a_class(write):
    path = write("id,a,remark,b,group,target:a,fold\nx,0.2,good,0.8,3,1,0\n")
    found = open_sheet_file(path)
    assert found.sheet.classes == AB
    assert found.sheet.exclusive
    assert "rows sum to 1" in " ".join(found.notes)
    assert not read_sheet_file(write("id,a,b\nx,0.2,0.7\n")).exclusive


def test_the_one_class_of_a_binary_table_may_have_another_name(write):
    found = open_sheet_file(write("id,size,score\nx,4,0.5\n"), classes=["crack"])
    assert found.sheet.probs.tolist() == [[0.5]]
    assert "'score' is taken for the one class 'crack'" in " ".join(found.notes)
    with pytest.raises(AlignmentError, match="'crack'"):
        read_sheet_file(write("id,size,weight\nx,4,0.5\n"), classes=["crack"])


def test_other_numbers_are_noted(write):
    found = open_sheet_file(write("id,a,b,entropy\nx,0,1,0.7\n"), classes=AB)
    assert "'entropy'" in " ".join(found.notes)


def test_unreadable_rows_have_an_error(write):
    found = read_sheet_file(write("id,a,b,error\nx,,,broken\ny,0,1,\n"), classes=AB)
    assert np.isnan(found.probs[0]).all()
    assert found.errors == ("broken", None)
    assert found.readable.tolist() == [False, True]


def test_the_out_of_fold_sheet_of_a_run_is_read_as_the_mean_of_its_members(tmp_path):
    path = tmp_path / "oof.parquet"
    folds = np.array([0, 1], np.int16)
    first = sheet([[0.2, 0.8], [0.5, 0.5]], exclusive=True, folds=folds, ids=("x", "y"))
    other = sheet([[0.1, 0.9], [0.4, 0.6]], exclusive=True, folds=folds[::-1], ids=("y", "x"))
    write_predictions(path, {"m": first, "n": other}, np.zeros((2, 2), np.float32))
    found = read_sheet_file(path)
    assert found.ids == ("x", "y")
    np.testing.assert_allclose(found.probs, [[0.3, 0.7], [0.3, 0.7]], atol=1e-7)
    assert found.folds.tolist() == [0, 1]
    assert found.held_out.all()
    assert found.exclusive
    with pytest.raises(AlignmentError, match="its classes are exclusive"):
        read_sheet_file(path, classes=AB, exclusive=False)


def test_members_may_stand_in_any_file(write):
    text = "id,member,a,held_out\nx,m,0.2,1\ny,m,0.4,1\ny,n,0.6,0\nx,n,0.4,1\n"
    found = read_sheet_file(write(text), classes=["a"])
    np.testing.assert_allclose(found.probs[:, 0], [0.3, 0.5], atol=1e-7)
    assert found.held_out.tolist() == [True, False]
    with pytest.raises(AlignmentError, match="members predicted different rows"):
        read_sheet_file(write("id,member,a\nx,m,0\ny,m,0\nx,n,0\n"), classes=["a"])
    with pytest.raises(AlignmentError, match=r"1 row\(s\) have another fold"):
        read_sheet_file(write("id,member,a,fold\nx,m,0,1\nx,n,0,2\n"), classes=["a"])


def test_parquet_of_other_makers(tmp_path):
    path = tmp_path / "p.parquet"
    columns = {
        "image": pa.array(["x", "y"]).dictionary_encode(),
        "a": pa.array([0.5, 1.0], pa.float64()),
        "b": pa.array([1, 0], pa.int64()),
        "held_out": [1, 0],
        "__index_level_0__": [0, 1],
    }
    pq.write_table(pa.table(columns), path)
    found = read_sheet_file(path, classes=AB)
    assert (found.ids, found.probs.tolist()) == (("x", "y"), [[0.5, 1.0], [1.0, 0.0]])
    assert found.held_out.tolist() == [True, False]
    pq.write_table(pa.table({"id": pa.array([7.0, 12.0]), "a": [0.0, 1.0]}), path)
    assert read_sheet_file(path, classes=["a"]).ids == ("7", "12")
    pq.write_table(pa.table({"id": pa.array([7.5]), "a": [0.0]}), path)
    with pytest.raises(InputError, match="fractions"):
        read_sheet_file(path, classes=["a"])


# Refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,a,b,fold\nx,0,1,-3\n", r"1 cell\(s\) that are no folds, on line 2 \('-3'\)"),
        ("id,a,b\nx,0,1\ny,0,2", "on line 3"),
        ("", "the file is empty"),
        ("id,a,b\n", r"a header \(id, a, b\) and no rows"),
        ("id,a,a\nx,0,1\n", "'a'"),
        ("name_of,a,b\nx,0,1\n", "no column of ids"),
        ("id,a\nx,0\n", r"1 of 2 classes have no column: 'b'"),
        ("id,a,bb\nx,0,1\n", r"'b'; did you mean 'bb'\?"),
        ("id,a,b\nx,0,1\ny,0\n", "Expected 3 columns, got 2"),
        ("id,a,b\nx,0,1\n,0,1\n", r"1 row\(s\) have no id in column 'id': on line 3"),
        ("id,a,b\nx,0,1\ny,0,1\nx,1,0\n", r"1 id\(s\) .* 'x' on line 2, line 4"),
        ("id,a,b\nx,0,1\ny,no,1\nz,?,1\n", r"'a' holds 2 cell\(s\) .* line 3 \('no'\), line 4"),
        ('id,a,b\nx,"0,5","0,5"\n', "decimal comma"),
        ("id,a,b\nx,0,1\ny,,1\n", r"1 of 2 row\(s\) lack probabilities .* line 3 \('y': nan, 1\)"),
        ("id,a,b\nx,0,1\ny,NaN,na\n", r"1 of 2 row\(s\) lack probabilities"),
        ("id,a,b,error\nx,,1,half\n", "lack probabilities"),
        ("id,a,b\nx,0,1\ny,0,1.5\n", r"1 of 2 row\(s\) have numbers outside \[0, 1\]: on line 3"),
        ("id,a,b\nx,40,60\ny,99,1\n", "percentages: divide by 100"),
        ("id,a,b\nx,-2,3\n", "logits"),
        ("id,a,b\nx,-inf,0\n", "log probabilities"),
        ("id,a,b\nx,inf,0\n", r"outside \[0, 1\]"),
        ("id,a,b,fold\nx,0,1,0.5\n", "no folds, on line 2"),
        ("id,a,b,fold\nx,0,1,0\ny,0,1,\n", r"1 cell\(s\) that are no folds, on line 3"),
        ("id,a,b,held_out\nx,0,1,maybe\n", r"neither true nor false, on line 2 \('maybe'\)"),
        (b"id,a,b\n\xff,0,1\n", "UTF-8"),
        ("id,a,b\nx,0,1\n".encode("utf-16"), "UTF-16"),
    ],
)
def test_bad_files_are_refused(write, text, said):
    with pytest.raises(InputError, match=said):
        read_sheet_file(write(text), classes=AB, exclusive=False)


def test_counts_are_told_and_first_rows_named(write):
    rows = "".join(f"r{row},0.5,2\n" for row in range(30))
    with pytest.raises(InputError, match=r"30 of 30 row\(s\).* line 5 .* and 26 more"):
        read_sheet_file(write(f"id,a,b\n{rows}"), classes=AB)


def test_lines_are_told_as_rows_where_cells_have_line_ends(write):
    path = write('id,a,b\n"two\nlines",0,1\ny,0,2\n')
    with pytest.raises(InputError, match="on row 2"):
        read_sheet_file(path, classes=AB)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("x,0.5,0.5\ny,0.5,0.6\nz,1,0\n", r"1 of 3 row\(s\) do not sum to 1: on line 3 .*votes"),
        ("x,0.5,0.9\ny,0.5,0.6\n", "sigmoids"),
        ("x,0.5,0.3\ny,0.5,0.1\n", "is the column of a class missing"),
    ],
)
def test_exclusive_rows_must_sum_to_one(write, rows, said):
    path = write(f"id,a,b\n{rows}")
    with pytest.raises(InputError, match=said):
        read_sheet_file(path, classes=AB, exclusive=True)
    assert len(read_sheet_file(path, classes=AB, exclusive=False)) > 1


def test_three_digits_are_enough_for_a_sum(write):
    path = write("id,a,b,c\nx,0.333,0.333,0.333\n")
    assert read_sheet_file(path, exclusive=True).exclusive


def test_wrong_places_are_refused(tmp_path, write):
    with pytest.raises(InputError, match="no such file"):
        read_sheet_file(tmp_path / "gone.csv")
    with pytest.raises(InputError, match=r"\.csv, \.tsv, \.parquet"):
        read_sheet_file(write("x", "p.npy"))
    with pytest.raises(InputError, match="not a readable Parquet"):
        read_sheet_file(write("x", "p.parquet"))
    with pytest.raises(InputError, match="are written to"):
        write_sheet_file(tmp_path / "p.xlsx", sheet([[0, 1]]))


# Writing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_what_is_written_is_read_back(tmp_path, ending):
    path = tmp_path / "deep" / f"p.{ending}"
    first = sheet(
        [[0.1, 1e-7], [np.nan, np.nan], [1 / 3, 0]],
        ids=("007", 'a, "b"', "c\td"),
        held_out=np.array([True, False, True]),
        folds=np.array([0, -1, 3], np.int16),
        errors=(None, "it, broke", None),
    )
    write_sheet_file(path, first)
    found = read_sheet_file(path, classes=AB, exclusive=False)
    same(first, found)
    assert found.errors == first.errors
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_the_text_is_the_shortest_and_says_no_more_than_needed(tmp_path):
    write_sheet_file(tmp_path / "p.csv", sheet([[0.1, 1], [0.25, 0]]))
    text = (tmp_path / "p.csv").read_text(encoding="utf-8")
    assert text == "id,held_out,a,b\n0.png,true,0.1,1\n1.png,true,0.25,0\n"


def test_classes_named_like_other_columns_are_marked(tmp_path):
    first = sheet([[0.2, 0.3, 0.4, 1]], classes=("error", "id", "prob:x", "plain"))
    write_sheet_file(tmp_path / "p.csv", first)
    same(first, read_sheet_file(tmp_path / "p.csv", classes=first.classes))
    head = (tmp_path / "p.csv").read_text(encoding="utf-8").splitlines()[0]
    assert head == "id,held_out,prob:error,prob:id,prob:prob:x,plain"


TEXTS = st.text(
    st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=8
).filter(lambda text: text == text.strip())


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_sheet_survives_csv(tmp_path_factory, data):
    ids = data.draw(st.lists(TEXTS, min_size=1, max_size=5, unique=True))
    classes = data.draw(st.lists(TEXTS, min_size=1, max_size=3, unique=True))
    numbers = st.floats(0, 1, width=32)
    shape = len(ids) * len(classes)
    values = data.draw(st.lists(numbers, min_size=shape, max_size=shape))
    first = sheet(np.reshape(values, (len(ids), -1)), ids=ids, classes=classes)
    path = tmp_path_factory.mktemp("p") / "p.csv"
    write_sheet_file(path, first)
    same(first, read_sheet_file(path, classes=classes, exclusive=False))


# Aligning -----------------------------------------------------------------------------------------


def test_rows_are_aligned_by_id():
    first = sheet([[0, 0], [0.1, 0.1], [0.2, 0.2]], ids=("x", "y", "z"))
    found = align_sheet(first, ("z", "x"))
    assert found.ids == ("z", "x")
    np.testing.assert_array_equal(found.probs, first.probs[[2, 0]])
    assert align_sheet(first, first.ids) is first


def test_missing_ids_are_all_told():
    first = sheet([[0, 0]] * 3, ids=("x", "y", "z"))
    with pytest.raises(AlignmentError, match=r"2 of 3 ids have no prediction: 'p', 'q'\. .* 2 of"):
        align_sheet(first, ("p", "q", "x"))


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ("img/a.png", "by their folder"),
        ("a", "by their extension"),
        ("A.png", "by case"),
        (" a.png", "by blanks"),
        ("img\\A.JPG", "by folder, extension and case"),
    ],
)
def test_a_reason_is_guessed(there, said):
    with pytest.raises(AlignmentError, match=f"1 of them differ only {said}"):
        align_sheet(sheet([[0, 0]], ids=(there,)), ("a.png",))


def test_nothing_is_guessed_without_reason():
    assert not guess_difference(["a.png"], ["b.png"])
    assert "leading zeros" in guess_difference(["7"], ["007"])


def test_positions_are_those_of_a_plain_search():
    rng = np.random.default_rng(0)
    known = [f"{n}" for n in rng.permutation(50)]
    wanted = [f"{n}" for n in rng.integers(0, 70, 40)]
    plain = [known.index(key) if key in known else -1 for key in wanted]
    assert match_ids(known, wanted).tolist() == plain
