from __future__ import annotations

import csv
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from loupe.errors import InputError
from loupe.reviews import (
    COLUMNS,
    Decision,
    Review,
    append_review,
    read_reviews,
    settle_reviews,
)


def make(name: str = "a.png", decision: Decision = "keep", label: str = "cat") -> Review:
    return Review(
        time="2026-01-01T00:00:00+00:00",
        reviewer="ann",
        id=name,
        class_name="",
        given="cat",
        suggested="dog",
        decision=decision,
        label=label,
    )


def test_what_is_written_is_read_back_in_its_order(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "reviews.csv"
    names = ["a,b.png", 'say "cat".png', "고양이/猫.png", "<script>.png", " blank ", "=1+1"]
    made = [make(name, label=name) for name in names]
    for review in made:
        append_review(path, review)
    assert list(read_reviews(path)) == made
    with path.open(encoding="utf-8", newline="") as stream:
        assert [row["id"] for row in csv.DictReader(stream)] == names


def test_a_decision_only_adds_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "reviews.csv"
    append_review(path, make("a"))
    before = path.read_bytes()
    append_review(path, make("b"))
    assert path.read_bytes().startswith(before)
    assert path.read_text().count(",".join(COLUMNS)) == 1


def test_a_decision_is_one_line_whatever_a_class_is_called(tmp_path: Path) -> None:
    path = tmp_path / "reviews.csv"
    append_review(path, make("a\r\nb", label="two\nlines"))
    assert len(path.read_text().splitlines()) == 2
    (review,) = read_reviews(path)
    assert (review.id, review.label) == ("a\r\nb", "two\nlines")


@pytest.mark.parametrize("name", ["a\\b.png", "dir\\name.png", "two\\\\n", "\\", "\n", "\\\n"])
def test_what_was_written_is_read_back(tmp_path: Path, name: str) -> None:
    append_review(tmp_path / "reviews.csv", make(name, label=name))
    (review,) = read_reviews(tmp_path / "reviews.csv")
    assert (review.id, review.label) == (name, name)


@pytest.mark.parametrize("cut", ["more,", "-1"])
def test_lines_edited_by_hand_are_named(tmp_path: Path, cut: str) -> None:
    path = tmp_path / "reviews.csv"
    append_review(path, make("first"))
    append_review(path, make("drop", "drop", label=""))
    lines = path.read_text().splitlines()
    lines[2] = lines[2][:-1] if cut == "-1" else f"{cut}{lines[2]}"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match="line 3"):
        read_reviews(path)


@pytest.mark.parametrize("cut", range(1, 70, 6))
def test_a_torn_last_line_is_no_decision_and_spoils_no_other(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "reviews.csv"
    append_review(path, make("first"))
    whole = path.read_bytes()
    append_review(path, make('quo"ted, name.png', "relabel", "a long, name"))
    torn = path.read_bytes()[: len(whole) + cut]
    assert torn != path.read_bytes()
    path.write_bytes(torn)
    assert [review.id for review in read_reviews(path)] == ["first"]

    append_review(path, make("next", "drop", ""))

    found = read_reviews(path)
    assert found[0] == make("first")
    assert found[-1] == make("next", "drop", "")


@pytest.mark.parametrize(("label", "lost"), [("Mosaic", 3), ("a long, name", 3)])
def test_a_label_cut_short_never_becomes_a_decision(tmp_path: Path, label: str, lost: int) -> None:
    path = tmp_path / "reviews.csv"
    append_review(path, make("torn", "relabel", label))
    path.write_bytes(path.read_bytes()[:-lost])
    assert read_reviews(path) == ()

    append_review(path, make("next"))

    assert read_reviews(path) == (make("next"),)


def test_a_file_that_holds_half_a_character_is_read(tmp_path: Path) -> None:
    path = tmp_path / "reviews.csv"
    append_review(path, make("first"))
    path.write_bytes(path.read_bytes() + "2026,ann,고".encode()[:-1])
    append_review(path, make("고양이.png"))
    assert [review.id for review in read_reviews(path)] == ["first", "고양이.png"]


WRITER = """
import sys
from pathlib import Path
from loupe.reviews import Review, append_review
for number in range(100_000):
    append_review(Path(sys.argv[1]), Review(
        time="t", reviewer="", id=f"{number}", class_name="", given="cat", suggested="dog",
        decision="keep", label="cat"))
    print(number, flush=True)
"""


def test_a_killed_writer_loses_nothing_that_it_told_of(tmp_path: Path) -> None:
    path = tmp_path / "reviews.csv"
    for _ in range(2):
        before = len(read_reviews(path)) if path.exists() else 0
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            told = [writer.stdout.readline() for _ in range(25)][-1]
            writer.send_signal(signal.SIGKILL)
            told = ([told, *writer.stdout.read().splitlines(keepends=True)])[-1]
        found = [review.id for review in read_reviews(path)][before:]
        assert found == [str(number) for number in range(len(found))]
        assert len(found) > int(told)


def test_undo_takes_back_one_decision_about_the_same_label() -> None:
    reviews = [
        make("a", "skip", ""),
        make("b", "drop", ""),
        make("a", "keep"),
        make("a", "undo", ""),
    ]
    standing = settle_reviews(reviews)
    assert {key[0]: review.decision for key, review in standing.items()} == {
        "a": "skip",
        "b": "drop",
    }
    assert ("a", "") not in settle_reviews([*reviews, make("a", "undo", "")])


def test_undo_without_a_decision_changes_nothing() -> None:
    assert settle_reviews([make("a", "undo", "")]) == {}
    standing = settle_reviews([make("a", "undo", ""), make("a", "keep")])
    assert standing["a", ""].decision == "keep"


def test_the_latest_of_two_decisions_stands() -> None:
    standing = settle_reviews([make("a", "keep"), make("a", "relabel", "dog")])
    assert standing["a", ""].label == "dog"


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "reviews.csv"
    with pytest.raises(InputError, match="no such file"):
        read_reviews(path)
    path.write_text("id,label\na,cat\n")
    with pytest.raises(InputError, match="first line"):
        read_reviews(path)
    path.unlink()
    append_review(path, make("a"))
    path.write_text(path.read_text().replace(",keep,", ",maybe,"))
    with pytest.raises(InputError, match=r"1 line\(s\) decide 'maybe'"):
        read_reviews(path)


@pytest.mark.parametrize("size", [1, 20, len(",".join(COLUMNS))])
def test_a_header_cut_short_is_no_decision_and_is_written_again(tmp_path: Path, size: int) -> None:
    path = tmp_path / "reviews.csv"
    path.write_text(",".join(COLUMNS)[:size])
    assert read_reviews(path) == ()
    append_review(path, make("next"))
    assert read_reviews(path) == (make("next"),)
