"""Reviews: what people decided about doubted labels, a line for each decision.

Owns the file, which only ever grows: nothing a person decided is lost, whatever is killed.
It must not find issues or change labels.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from loupe.errors import InputError, shorten
from loupe.issues import Key

COLUMNS = ("time", "reviewer", "id", "class", "given", "suggested", "decision", "label")
_ODD, _ESCAPED = re.compile(r"[\n\r]|\\[nr\\]"), re.compile(r"\\([nr\\])")
_MEANT = {"n": "\n", "r": "\r", "\\": "\\"}
_TORN = "\0"
"""Ends a line that was cut short: what is left of it must not pass for a decision."""
Decision = Literal["keep", "relabel", "drop", "skip", "undo"]
"""Keep: the given label is right. Drop: do not train on the row. Skip: still open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """One decision of one person.

    Attributes:
        time: ISO 8601 with offset.
        reviewer: A name; may be "".
        id: Of the row.
        class_name: As in `Issue`.
        given: The label that was shown.
        suggested: What the audit suggested.
        decision: What to do. `undo` takes back the latest decision about this id and class.
        label: The label that is right: the given one for `keep`, the new one for `relabel`,
            else "".
    """

    time: str
    reviewer: str
    id: str
    class_name: str
    given: str
    suggested: str
    decision: Decision
    label: str = ""

    @property
    def key(self) -> Key:
        """What the decision is about."""
        return self.id, self.class_name


def append_review(path: Path, review: Review) -> None:
    """Write one decision at the end of a file and onto the disk.

    A line that an earlier program did not finish is closed first, so that it spoils
    nothing but itself.

    Args:
        path: The CSV; made with its header if it is new.
        review: The decision.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as stream:
        size = stream.seek(0, os.SEEK_END)
        header = _spell(COLUMNS).encode()
        stream.seek(0)
        if size < len(header) and header.startswith(stream.read()):
            # A header cut short: nothing was decided yet.
            size = stream.truncate(0)
        text = "" if size else _spell(COLUMNS)
        if size:
            stream.seek(size - 1)
            text = "" if stream.read(1) == b"\n" else _TORN + "\n"
        cells = (
            review.time,
            review.reviewer,
            review.id,
            review.class_name,
            review.given,
            review.suggested,
            review.decision,
            review.label,
        )
        stream.write((text + _spell(cells)).encode())
        stream.flush()
        os.fsync(stream.fileno())


def read_reviews(path: Path) -> tuple[Review, ...]:
    """Read all decisions in the order in which they were made.

    A last line without its end, as a killed program leaves it, is not a decision.

    Args:
        path: The CSV.

    Raises:
        InputError: there is no such file, or a line is no decision; all such lines are named.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; 'loupe review issues.csv' makes it.")
    text = path.read_bytes().decode("utf-8-sig", errors="replace")
    whole = text[: text.rfind("\n") + 1]
    # Line by line: an open quote in a torn line must not swallow the next one.
    lines = [next(csv.reader([line]), []) for line in whole.split("\n")[:-1] if _TORN not in line]
    if not whole and ",".join(COLUMNS).startswith(text.strip()):
        return ()  # killed while it wrote its first line
    if not lines or tuple(name.strip() for name in lines[0]) != COLUMNS:
        raise InputError(
            f"{path}: its first line is {shorten(lines[0] if lines else [])}; expected "
            f"{','.join(COLUMNS)}, as 'loupe review' writes it."
        )
    kept = [line for line in lines[1:] if len(line) == len(COLUMNS)]
    # A torn line is shorter and ends anywhere: a program was killed while it wrote. These not.
    odd = [
        f"line {number}"
        for number, line in enumerate(lines[1:], start=2)
        if len(line) > len(COLUMNS)
        or (len(line) == len(COLUMNS) - 1 and line[-1] in get_args(Decision))
    ]
    if odd:
        raise InputError(
            f"{path}: {shorten(odd)} has not {len(COLUMNS)} cells; complete or delete it."
        )
    wrong = [repr(line[6]) for line in kept if line[6] not in get_args(Decision)]
    if wrong:
        raise InputError(
            f"{path}: {len(wrong)} line(s) decide {shorten(wrong)}; expected "
            f"{', '.join(get_args(Decision))}."
        )
    return tuple(_parse(line) for line in kept)


def settle_reviews(reviews: Iterable[Review]) -> dict[Key, Review]:
    """Return the decision that stands about each id and class; `skip` stands as well.

    Args:
        reviews: In the order in which they were made.
    """
    standing: dict[Key, list[Review]] = {}
    for review in reviews:
        decided = standing.setdefault(review.key, [])
        if review.decision != "undo":
            decided.append(review)
        elif decided:
            decided.pop()
    return {key: decided[-1] for key, decided in standing.items() if decided}


def _parse(cells: Sequence[str]) -> Review:
    line = [_unescape(cell) for cell in cells]
    decision: Decision = line[6]  # type: ignore[assignment]
    return Review(
        time=line[0],
        reviewer=line[1],
        id=line[2],
        class_name=line[3],
        given=line[4],
        suggested=line[5],
        decision=decision,
        label=line[7],
    )


def _spell(cells: Sequence[str]) -> str:
    out = io.StringIO(newline="")
    # A decision is one line, whatever a class is called.
    csv.writer(out, lineterminator="\n").writerow([_escape(cell) for cell in cells])
    return out.getvalue()


def _escape(cell: str) -> str:
    """Keep a cell on one line, so that it can be read back; few paths are changed by it."""
    if not _ODD.search(cell):
        return cell
    return cell.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")


def _unescape(cell: str) -> str:
    return _ESCAPED.sub(lambda found: _MEANT[found[1]], cell)
