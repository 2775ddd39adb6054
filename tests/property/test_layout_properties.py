"""What is written reads back equal, whatever the names."""

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from loupe.answers import Answers
from loupe.cells import read_cells, write_cells
from loupe.labels import sort_labels
from loupe.layouts import read_table
from loupe.rewrites import append_columns
from loupe.submissions import write_labels, write_submission

# Any text that UTF-8 can hold; NUL is no text, and outer blanks of a label do not count.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
NAMES = st.one_of(
    TEXT.map(str.strip).filter(bool),
    st.sampled_from(["007", "7", "1e3", "NA", "None", "null", 'a "b", c', "=1+1", "a|b", "é", "%"]),
)


@st.composite
def answers(draw):
    names = draw(st.lists(NAMES, min_size=1, max_size=5, unique=True))
    chosen = draw(st.lists(st.integers(0, len(names) - 1), min_size=1, max_size=9))
    order = draw(st.permutations(range(len(chosen))))
    decisions = np.eye(len(names), dtype=np.bool_)[chosen]
    return Answers(
        ids=tuple(f"{i}.jpg" for i in order),
        classes=tuple(names),
        probs=decisions.astype(np.float32),
        decisions=decisions,
        exclusive=True,
        layout=read_layout(),
    )


def read_layout():
    with tempfile.TemporaryDirectory() as name:
        return read_table(put_table(Path(name), ["image", "class"], [["0.jpg", "x"]])).layout


def put_table(folder, header, rows):
    for i in range(9):
        (folder / f"{i}.jpg").touch()
    write_cells(folder / "t.csv", header, rows)
    return folder / "t.csv"


def labels_of(answers):
    at = answers.decisions.argmax(axis=1)
    return {key: answers.classes[i] for key, i in zip(answers.ids, at, strict=True)}


def labels_read(table):
    at = table.targets.argmax(axis=1)
    return {key: table.classes[i] for key, i in zip(table.ids, at, strict=True)}


@settings(max_examples=60, deadline=None)
@given(answers())
def test_labels_read_back_equal(given_answers):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        put_table(folder, ["image"], [["0.jpg"]])
        write_labels(folder / "l.csv", given_answers)
        write_submission(folder / "s.csv", given_answers)
        for file in ("l.csv", "s.csv"):
            table = read_table(folder / file, layout="classes")
            assert table.ids == given_answers.ids
            assert labels_read(table) == labels_of(given_answers)
            assert table.classes == tuple(sort_labels(labels_of(given_answers).values()))


@settings(max_examples=60, deadline=None)
@given(answers(), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_changes_no_label_and_no_class(given_answers, random):
    rows = [list(pair) for pair in labels_of(given_answers).items()]
    shuffled = random.sample(rows, len(rows))
    with tempfile.TemporaryDirectory() as name:
        path = put_table(Path(name), ["image", "label"], rows)
        first = read_table(path)
        second = read_table(put_table(Path(name), ["image", "label"], shuffled))
    assert first.classes == second.classes
    assert first.layout == second.layout
    assert second.ids == tuple(key for key, _ in shuffled)
    at = {key: i for i, key in enumerate(second.ids)}
    assert first.select(range(len(first))).targets.tolist() == [
        second.targets[at[key]].tolist() for key in first.ids
    ]


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 3).flatmap(
        lambda width: st.lists(st.lists(TEXT, min_size=width, max_size=width), min_size=1)
    ),
    st.sampled_from([",", "\t"]),
)
def test_cells_read_back_letter_by_letter(rows, separator):
    header = [f"column {i}" for i in range(len(rows[0]))]
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / ("t.tsv" if separator == "\t" else "t.csv")
        write_cells(path, header, rows, separator)
        cells = read_cells(path)
    assert list(cells.header) == header
    assert cells.rows == rows


@settings(max_examples=40, deadline=None)
@given(answers(), TEXT)
def test_added_columns_leave_all_other_cells_alone(given_answers, remark):
    rows = [[key, label, remark] for key, label in labels_of(given_answers).items()]
    with tempfile.TemporaryDirectory() as name:
        path = put_table(Path(name), ["image", "label", "remark"], rows)
        table = read_table(path, layout="classes")
        out = Path(name) / "out.csv"
        append_columns(table, path, out, {"fold": range(len(table))})
        cells = read_cells(out)
        again = read_table(out, layout="classes")
    assert [row[:3] for row in cells.rows] == rows
    assert cells.column("fold") == [str(i) for i in range(len(table))]
    assert again.classes == table.classes
    assert (again.targets == table.targets).all()
