from __future__ import annotations

import math
from pathlib import Path

import pytest
from sklearn.metrics import cohen_kappa_score

from loupe.agreement import measure_kappa, merge_reviews
from loupe.errors import InputError
from loupe.issues import Issue
from loupe.queues import Choice, find_next
from loupe.reviews import Decision, Review, append_review, read_reviews, settle_reviews


def write(path: Path, reviewer: str, *lines: str) -> Path:
    """Write reviews of texts such as "a relabel dog"."""
    for number, line in enumerate(lines):
        name, word, *label = line.split()
        decision: Decision = word  # type: ignore[assignment]
        append_review(
            path,
            Review(
                time=f"2026-01-01T00:00:{number:02}+00:00",
                reviewer=reviewer,
                id=name,
                class_name="",
                given="cat",
                suggested="dog",
                decision=decision,
                label=" ".join(label) or ("cat" if word == "keep" else ""),
            ),
        )
    return path


def test_two_files_become_one_line_for_each_label(tmp_path: Path) -> None:
    a = write(tmp_path / "a.csv", "ann", "x keep", "y relabel dog", "z drop", "w skip", "v keep")
    b = write(tmp_path / "b.csv", "bob", "y relabel cow", "x keep", "w drop", "u skip", "v skip")
    before = a.read_bytes(), b.read_bytes()

    found = merge_reviews(a, b, tmp_path / "both.csv")

    merged = {review.id: review for review in read_reviews(found.out)}
    assert list(merged) == ["x", "y", "z", "w", "v", "u"]
    assert len(read_reviews(found.out)) == 6
    answers = {name: (m.decision, m.label, m.reviewer) for name, m in merged.items()}
    assert answers == {
        "x": ("keep", "cat", "ann|bob"),
        "y": ("skip", "", "ann|bob"),
        "z": ("drop", "", "ann"),
        "w": ("drop", "", "bob"),
        "v": ("keep", "cat", "ann"),
        "u": ("skip", "", "bob"),
    }
    assert (found.both, found.only_a, found.only_b) == (2, 2, 1)
    assert [(c.a.label, c.b.label) for c in found.conflicts] == [("dog", "cow")]
    assert found.share.value == 0.5
    assert (a.read_bytes(), b.read_bytes()) == before


def test_a_review_that_goes_on_with_the_merged_file_shows_the_conflicts(tmp_path: Path) -> None:
    a = write(tmp_path / "a.csv", "ann", "x keep", "y drop")
    b = write(tmp_path / "b.csv", "bob", "x keep", "y keep")
    issues = [Issue(id=name, given="cat", suggested="dog", quality=0.1) for name in "xy"]

    out = merge_reviews(a, b, tmp_path / "both.csv").out

    assert find_next(issues, read_reviews(out), Choice()) == 1
    write(out, "cy", "y keep")
    assert settle_reviews(read_reviews(out))["y", ""].reviewer == "cy"


def test_decisions_that_were_undone_do_not_count(tmp_path: Path) -> None:
    a = write(tmp_path / "a.csv", "", "x keep", "y keep", "y undo", "z drop", "z undo", "z keep")
    b = write(tmp_path / "b.csv", "", "x keep", "y drop", "z keep")

    found = merge_reviews(a, b, tmp_path / "both.csv")

    assert (found.both, found.only_b, found.conflicts) == (2, 1, ())
    # Who signed nothing is called by the file.
    assert [review.reviewer for review in read_reviews(found.out)] == ["a|b", "a|b", ""]


def test_the_interval_is_wilsons_and_labels_of_one_row_are_one_draw(tmp_path: Path) -> None:
    lines = [f"r{n} keep" for n in range(20)]
    a = write(tmp_path / "a.csv", "ann", *lines)
    b = write(tmp_path / "b.csv", "bob", *lines[:15], *(f"r{n} drop" for n in range(15, 20)))

    share = merge_reviews(a, b, tmp_path / "both.csv").share

    # Wilson's interval of 15 among 20, from its formula.
    z, n, p = 1.959964, 20, 0.75
    half = z * math.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2) / (1 + z * z / n)
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    assert (share.low, share.high) == pytest.approx((centre - half, centre + half), abs=1e-6)


def test_kappa_is_that_of_scikit_learn() -> None:
    a = ["keep"] * 12 + ["drop"] * 5 + ["dog"] * 8
    b = ["keep"] * 9 + ["dog"] * 4 + ["drop"] * 6 + ["dog"] * 6
    pairs = [((x, ""), (y, "")) for x, y in zip(a, b, strict=True)]
    assert measure_kappa(pairs) == pytest.approx(cohen_kappa_score(a, b))


def test_a_relabel_to_another_class_is_another_answer() -> None:
    dog, cow = ("relabel", "dog"), ("relabel", "cow")
    assert measure_kappa([(dog, dog), (cow, cow)]) == 1
    assert measure_kappa([(dog, cow), (cow, dog)]) == -1


def test_kappa_says_nothing_where_all_answers_are_one_or_there_are_none(tmp_path: Path) -> None:
    keep = ("keep", "cat")
    assert math.isnan(measure_kappa([(keep, keep)] * 3))
    a, b = write(tmp_path / "a.csv", "", "x keep"), write(tmp_path / "b.csv", "", "y keep")
    found = merge_reviews(a, b, tmp_path / "both.csv")
    assert found.both == 0
    assert math.isnan(found.kappa)
    assert math.isnan(found.share.value)


def test_neither_file_is_overwritten(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.csv", "", "x keep"), write(tmp_path / "b.csv", "", "y keep")
    for out in (a, tmp_path / "." / "b.csv"):
        with pytest.raises(InputError, match="one of the files to merge"):
            merge_reviews(a, b, out)


def test_reviews_of_different_tables_are_refused(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.csv", "", "x keep"), tmp_path / "b.csv"
    b.write_text(a.read_text().replace("cat", "cow"))
    with pytest.raises(InputError, match=r"'x' \('cat' and 'cow'\).*different tables"):
        merge_reviews(a, b, tmp_path / "both.csv")
    assert not (tmp_path / "both.csv").exists()
