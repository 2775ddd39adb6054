from __future__ import annotations

import numpy as np
import pytest

from loupe.issues import Issue
from loupe.queues import Choice, choose_issues, count_progress, find_last, find_next
from loupe.reviews import Decision, Review, settle_reviews

ISSUES = (
    Issue(id="c", given="cat", suggested="dog", quality=0.0, rules=("confident",)),
    Issue(id="a", given="dog", suggested="cow", quality=0.1, rules=("copies", "confident")),
    Issue(id="b", given="cow", suggested="", quality=0.2, rules=("outlier",)),
    Issue(id="d", given="cat", suggested="cow", quality=0.3),
)
KEYS = {issue.key: place for place, issue in enumerate(ISSUES)}


def decide(*lines: str) -> list[Review]:
    """Make reviews of texts such as "a keep"."""
    reviews = []
    for line in lines:
        name, word = line.split()
        decision: Decision = word  # type: ignore[assignment]
        reviews.append(
            Review(
                time="", reviewer="", id=name, class_name="", given="", suggested="",
                decision=decision,
            )
        )  # fmt: skip
    return reviews


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (Choice(), "cabd"),
        (Choice(order="id"), "abcd"),
        (Choice(order="class"), "cdba"),
        (Choice(class_name="cow"), "abd"),
        (Choice(rule="confident"), "ca"),
        (Choice(class_name="cow", rule="copies"), "a"),
        (Choice(class_name="sheep"), ""),
    ],
)
def test_issues_are_chosen_by_class_and_rule_and_ordered(choice: Choice, expected: str) -> None:
    assert "".join(ISSUES[place].id for place in choose_issues(ISSUES, choice)) == expected


def test_classes_that_stand_alone_are_chosen_by_their_name_not_by_yes_and_no() -> None:
    issues = [
        Issue(id="a", class_name=name, given="yes", suggested="no", quality=0.0)
        for name in ("rust", "yes")
    ]
    assert choose_issues(issues, Choice(class_name="rust")) == (0,)
    assert choose_issues(issues, Choice(class_name="yes")) == (1,)


@pytest.mark.parametrize(
    ("done", "after", "expected"),
    [
        ("", None, "c"),
        ("", "a", "b"),
        ("c keep", None, "a"),
        ("d keep", "d", "c"),  # round to the start
        ("c skip", "c", "a"),
        ("c skip,a keep,b drop,d skip", "d", "c"),  # skipped longest ago
        ("c skip,a keep,b drop,d skip,c skip", "c", "d"),
        ("c keep,a keep,b keep,d keep", "d", None),
        ("c keep,a keep,b keep,d keep,a undo", "d", "a"),
        ("c skip,c undo", None, "c"),
    ],
)
def test_the_next_issue_is_the_first_open_one_and_skipped_ones_come_last(
    done: str, after: str | None, expected: str | None
) -> None:
    reviews = decide(*filter(None, done.split(",")))
    place = None if after is None else KEYS[after, ""]

    found = find_next(ISSUES, reviews, Choice(), after=place)

    assert (None if found is None else ISSUES[found].id) == expected


def test_the_next_issue_is_one_of_the_chosen() -> None:
    reviews = decide("c keep")
    choice = Choice(rule="confident")
    assert find_next(ISSUES, reviews, choice, after=KEYS["d", ""]) == KEYS["a", ""]
    assert find_next(ISSUES, [*reviews, *decide("a keep")], choice) is None


@pytest.mark.parametrize(
    ("done", "expected"),
    [
        ("", None),
        ("c keep,a drop", "a"),
        ("c keep,a drop,a undo", "c"),
        ("c keep,a drop,a undo,c undo", None),
        ("c skip,a keep,c keep,c undo", "a"),
        ("c keep,c undo,c undo,a keep,a undo", None),
        ("c keep,foreign keep", "c"),
    ],
)
def test_undo_takes_back_the_latest_that_stands(done: str, expected: str | None) -> None:
    last = find_last(decide(*filter(None, done.split(","))), KEYS)
    assert (None if last is None else last.id) == expected


def test_undoing_again_and_again_leads_back_to_the_start() -> None:
    words = ("keep", "drop", "skip", "relabel")
    rng = np.random.default_rng(4)
    made = decide(*(f"{rng.choice(list('abcd'))} {rng.choice(words)}" for _ in range(30)))
    reviews = list(made)
    for number in range(30, 0, -1):
        last = find_last(reviews, KEYS)
        assert last == made[number - 1]
        reviews += decide(f"{last.id} undo")
        assert settle_reviews(reviews) == settle_reviews(made[: number - 1])
    assert find_last(reviews, KEYS) is None


def test_progress_counts_what_is_decided_and_what_is_put_off() -> None:
    standing = settle_reviews(decide("c keep", "a skip", "b drop", "foreign keep"))

    progress = count_progress(ISSUES, standing, range(4))

    assert (progress.total, progress.decided, progress.skipped, progress.left) == (4, 2, 1, 2)
    assert count_progress(ISSUES, standing, (3,)).decided == 0
