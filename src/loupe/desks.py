"""Desks: all that a reviewer works on, issues, rows and decisions, joined.

Owns which labels can be chosen, which rows stand beside an issue, and the one way in which
a decision reaches the reviews file. It must not know HTTP or pages.

Shapes: N rows of the table.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from loupe.errors import InputError, shorten
from loupe.issues import MASK, NO, NO_MASK, YES, Issue, IssueSheet, Key
from loupe.neighbours import Space, find_nearest
from loupe.queues import find_last, name_classes
from loupe.reviews import Decision, Review, append_review, read_reviews
from loupe.rowimages import RowImages
from loupe.table import Table

Bool = NDArray[np.bool_]
NEAREST = 4
"""Neighbours shown of each label."""
_DECISIONS = ("keep", "relabel", "drop", "skip")


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """Some rows to compare with.

    Attributes:
        kind: Whose label they have; `near` is any label, `group` the same group.
        label: That label, "" if there is none.
        rows: Places in the table, the nearest first.
    """

    kind: Literal["given", "suggested", "other", "near", "group"]
    label: str
    rows: tuple[int, ...]


@dataclass(slots=True, kw_only=True)
class Desk:
    """What is reviewed, and where decisions go.

    Attributes:
        sheet: The issues.
        table: The rows they are about.
        path: The reviews file; nothing else is written.
        space: In what rows are near each other; None if nothing says.
        basis: What the space is, in words.
        groups: (N,) numbers of the groups; None where rows stand alone.
        segments: True where masks are given.
        reviewer: A name; may be "".
        made: Decisions made at this desk.
    """

    sheet: IssueSheet
    table: Table
    path: Path
    space: Space | None = None
    basis: str = ""
    groups: NDArray[np.intp] | None = None
    segments: bool = False
    reviewer: str = ""
    made: int = 0
    images: RowImages = field(init=False)
    rows: Mapping[str, int] = field(init=False)
    places: Mapping[Key, int] = field(init=False)
    _strips: dict[Key, tuple[Strip, ...]] = field(init=False, default_factory=dict)
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)
    _read: tuple[tuple[int, int], tuple[Review, ...]] = field(init=False, default=((-1, -1), ()))

    def __post_init__(self) -> None:
        self.images = RowImages(self.table)
        self.rows = {name: row for row, name in enumerate(self.table.ids)}
        places: dict[Key, int] = {}
        for place, issue in enumerate(self.sheet.issues):
            places.setdefault(issue.key, place)
        self.places = places

    def reviews(self) -> tuple[Review, ...]:
        """Read all decisions made so far; the file is the only memory."""
        if not self.path.is_file():
            return ()
        found = self.path.stat()
        stamp = (found.st_size, found.st_mtime_ns)
        if self._read[0] != stamp:
            self._read = (stamp, read_reviews(self.path))
        return self._read[1]

    def decide(self, place: int, decision: str, label: str = "") -> None:
        """Write a decision about an issue.

        Args:
            place: In the issues.
            decision: `keep`, `relabel`, `drop` or `skip`.
            label: The new label, for `relabel`; the given one makes it a `keep`.

        Raises:
            InputError: there is no such decision, or no such label.
            OSError: the file cannot be written.
        """
        issue = self.sheet.issues[place]
        if decision not in _DECISIONS:
            raise InputError(f"{decision!r} is no decision; expected {', '.join(_DECISIONS)}.")
        if decision == "relabel" and label not in self.list_labels(issue):
            raise InputError(
                f"{label!r} is no label of {issue.id!r}; expected "
                f"{shorten(self.list_labels(issue)) or 'another decision'}."
            )
        if decision == "keep" or (decision == "relabel" and label == issue.given):
            self._append(issue, "keep", issue.given)
        elif decision == "relabel":
            self._append(issue, "relabel", label)
        else:
            self._append(issue, "drop" if decision == "drop" else "skip", "")

    def undo(self) -> int | None:
        """Take back the latest decision that stands, and return its place; None if none does."""
        last = find_last(self.reviews(), self.places)
        if last is None:
            return None
        place = self.places[last.key]
        self._append(self.sheet.issues[place], "undo", "")
        return place

    def list_labels(self, issue: Issue) -> tuple[str, ...]:
        """Return the labels that an issue can get; () where only the whole row can be judged.

        Args:
            issue: One of the sheet.
        """
        if self.table.exclusive:
            # A suggestion of someone else's issues file may be a new class.
            more = (issue.suggested, issue.given)
            names = (*self.table.classes, *(name for name in more if name))
            return tuple(dict.fromkeys(names))
        if not issue.class_name:
            return ()
        return (MASK, NO_MASK) if self.segments else (YES, NO)

    def label(self, row: int, issue: Issue) -> str:
        """Return the label of a row in the words of an issue.

        Args:
            row: Its place in the table.
            issue: Says which class is meant, where classes stand alone.
        """
        present = np.asarray(self.table.targets[row] >= 0.5)
        if not self.table.exclusive and issue.class_name in self.table.classes:
            yes, no = (MASK, NO_MASK) if self.segments else (YES, NO)
            return yes if present[self.table.classes.index(issue.class_name)] else no
        if self.table.exclusive:
            return self.table.classes[int(np.argmax(self.table.targets[row]))]
        names = [name for name, here in zip(self.table.classes, present, strict=True) if here]
        return ", ".join(names) or "none"

    def find_strips(self, issue: Issue) -> tuple[Strip, ...]:
        """Find the rows to show beside an issue; rows of its own group stand apart.

        Args:
            issue: One of the sheet.

        Returns:
            Rows of the given label, then of the suggested or of any other; then those of
            the group, if there are any. () if the table does not have the issue's row.
        """
        row = self.rows.get(issue.id)
        if row is None:
            return ()
        # Each page is asked for twice: its images are loaded while the one before is shown.
        if issue.key not in self._strips:
            self._strips[issue.key] = self._make_strips(row, issue)
        return self._strips[issue.key]

    def flagged(self, row: int, issue: Issue) -> bool:
        """Return True if a rule doubts the label of another row, of the same class.

        Args:
            row: Its place in the table.
            issue: Says which class is meant.
        """
        place = self.places.get((self.table.ids[row], issue.class_name))
        return place is not None and bool(self.sheet.issues[place].rules)

    def count_classes(self) -> dict[str, int]:
        """Count the issues of each class, in the order of the table."""
        found = Counter(name for issue in self.sheet.issues for name in name_classes(issue))
        order = {name: number for number, name in enumerate(self.table.classes)}
        return dict(sorted(found.items(), key=lambda item: order.get(item[0], len(order))))

    def count_rules(self) -> dict[str, int]:
        """Count the issues that each rule flags."""
        return dict(sorted(Counter(r for issue in self.sheet.issues for r in issue.rules).items()))

    def _append(self, issue: Issue, decision: Decision, label: str) -> None:
        review = Review(
            time=datetime.now(UTC).astimezone().isoformat(timespec="seconds"),
            reviewer=self.reviewer,
            id=issue.id,
            class_name=issue.class_name,
            given=issue.given,
            suggested=issue.suggested,
            decision=decision,
            label=label,
        )
        with self._lock:
            append_review(self.path, review)
            self.made += 1

    def _mark(self, issue: Issue, label: str) -> Bool | None:
        """Return which rows have a label, (N,); None if it is none of the table's."""
        targets, classes = self.table.targets, self.table.classes
        if self.table.exclusive:
            if label not in classes:
                return None
            return np.asarray(targets.argmax(axis=1) == classes.index(label))
        if issue.class_name not in classes or label not in {YES, NO, MASK, NO_MASK}:
            return None
        return np.asarray(
            (targets[:, classes.index(issue.class_name)] >= 0.5) == (label in {YES, MASK})
        )

    def _make_strips(self, row: int, issue: Issue) -> tuple[Strip, ...]:
        mates = np.zeros(len(self.table), np.bool_)
        if self.groups is not None:
            mates = np.asarray(self.groups == self.groups[row])
        strips = self._find_labelled(row, issue, ~mates)
        mates[row] = False
        if mates.any():
            strips.append(Strip(kind="group", label="", rows=self._list_mates(row, mates)))
        return tuple(strips)

    def _find_labelled(self, row: int, issue: Issue, others: Bool) -> list[Strip]:
        """Find rows of the given and of the suggested label, or what comes nearest to that."""
        given, suggested = (self._mark(issue, label) for label in (issue.given, issue.suggested))
        if given is None:
            return [Strip(kind="near", label="", rows=self._nearest(row, others))]
        near = self._nearest(row, others & given)
        strips = [Strip(kind="given", label=issue.given, rows=near)]
        if suggested is None or issue.suggested == issue.given:
            near = self._nearest(row, others & ~given)
            return [*strips, Strip(kind="other", label="", rows=near)]
        near = self._nearest(row, others & suggested)
        return [*strips, Strip(kind="suggested", label=issue.suggested, rows=near)]

    def _nearest(self, row: int, candidates: Bool) -> tuple[int, ...]:
        if self.space is not None:
            return find_nearest(self.space, row, candidates, NEAREST)
        rows = np.flatnonzero(candidates)
        rows = rows[rows != row]
        # The middles of equal parts, so that they are not all of one folder.
        spread = (2 * np.arange(NEAREST) + 1) * len(rows) // (2 * NEAREST)
        return tuple(int(rows[at]) for at in dict.fromkeys(spread.tolist())) if len(rows) else ()

    def _list_mates(self, row: int, mates: Bool) -> tuple[int, ...]:
        """Return rows of the same group, those without features too."""
        rest = (int(mate) for mate in np.flatnonzero(mates))
        return tuple(dict.fromkeys((*self._nearest(row, mates), *rest)))[:NEAREST]
