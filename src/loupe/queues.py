"""Queues: which issue is shown next, after what was decided so far.

Pure functions of issues and reviews. It must not read files or know pages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from loupe.issues import Issue, Key
from loupe.reviews import Review, settle_reviews

Order = Literal["worst", "class", "id"]
"""As the file lists them, which is worst first; by class; by id."""
ORDERS: tuple[Order, ...] = get_args(Order)
_DECIDED = ("keep", "relabel", "drop")


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which issues are looked at, and in which order.

    Attributes:
        class_name: Issues of this class alone; where classes are exclusive, those with it
            as given or suggested label. "" for all.
        rule: Issues that this rule flags. "" for all.
        order: See `Order`.
    """

    class_name: str = ""
    rule: str = ""
    order: Order = "worst"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How many of the chosen issues are decided.

    Attributes:
        total: Chosen issues.
        decided: Kept, relabelled or dropped.
        skipped: Put off, and still open.
    """

    total: int
    decided: int
    skipped: int

    @property
    def left(self) -> int:
        """How many are still open, the skipped ones with them."""
        return self.total - self.decided


def name_classes(issue: Issue) -> tuple[str, ...]:
    """Return the classes that an issue is about.

    Args:
        issue: Of any kind.

    Examples:
        >>> name_classes(Issue(id="a.png", given="cat", suggested="dog", quality=0.1))
        ('cat', 'dog')
    """
    if issue.class_name:
        return (issue.class_name,)
    return tuple(dict.fromkeys(name for name in (issue.given, issue.suggested) if name))


def choose_issues(issues: Sequence[Issue], choice: Choice) -> tuple[int, ...]:
    """Return the places of the chosen issues, in the chosen order.

    Args:
        issues: As the file lists them.
        choice: Which, and in which order.
    """
    places = [
        place
        for place, issue in enumerate(issues)
        if choice.class_name in ("", *name_classes(issue))
        and (not choice.rule or choice.rule in issue.rules)
    ]
    # Sorting keeps the order of the file among equals: worst first.
    if choice.order == "class":
        places.sort(key=lambda place: (issues[place].class_name, issues[place].given))
    elif choice.order == "id":
        places.sort(key=lambda place: issues[place].id)
    return tuple(places)


def find_next(
    issues: Sequence[Issue], reviews: Sequence[Review], choice: Choice, *, after: int | None = None
) -> int | None:
    """Find the issue to decide next.

    The first that nobody touched, from where one is and then from the start; then those
    that were skipped, the one skipped longest ago first.

    Args:
        issues: As the file lists them.
        reviews: All decisions, in the order in which they were made.
        choice: Which issues, and in which order.
        after: Place of the issue that was shown last; None starts at the first.

    Returns:
        A place in `issues`; None if all chosen ones are decided.
    """
    places = choose_issues(issues, choice)
    start = places.index(after) + 1 if after in places else 0
    turned = (*places[start:], *places[:start])
    standing = settle_reviews(reviews)
    for place in turned:
        if issues[place].key not in standing:
            return place
    latest = {review.key: number for number, review in enumerate(reviews)}
    skipped = [p for p in turned if standing[issues[p].key].decision == "skip"]
    return min(skipped, key=lambda place: latest[issues[place].key], default=None)


def find_last(reviews: Sequence[Review], keys: Mapping[Key, int]) -> Review | None:
    """Find the decision that an undo takes back: the latest that still stands.

    Args:
        reviews: All decisions, in the order in which they were made.
        keys: What is reviewed; decisions about other labels are left alone.
    """
    made: list[Review] = []
    for review in reviews:
        if review.decision != "undo":
            made.append(review)
            continue
        back = (n for n in range(len(made) - 1, -1, -1) if made[n].key == review.key)
        place = next(back, None)
        if place is not None:
            del made[place]
    return next((review for review in reversed(made) if review.key in keys), None)


def count_progress(
    issues: Sequence[Issue], standing: Mapping[Key, Review], places: Sequence[int]
) -> Progress:
    """Count what is decided among some issues.

    Args:
        issues: As the file lists them.
        standing: The decision that stands about each key.
        places: Which issues count.
    """
    found: Counter[str] = Counter(
        standing[issues[place].key].decision for place in places if issues[place].key in standing
    )
    decided = sum(found[name] for name in _DECIDED)
    return Progress(total=len(places), decided=decided, skipped=found["skip"])
