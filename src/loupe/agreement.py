"""Agreement: two reviewers' files as one, and how far they agree.

Owns `merge_reviews`. It must not change the two files.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from loupe.cells import write_cells
from loupe.errors import InputError, shorten
from loupe.issues import Key
from loupe.reliability import Share, measure_share
from loupe.reviews import COLUMNS, Review, read_reviews, settle_reviews

Answer = tuple[str, str]
"""What was decided: the decision and the label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """One label about which two reviewers decided differently."""

    a: Review
    b: Review


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How far two reviewers agree, and where the merged file is.

    Attributes:
        out: The merged file.
        both: Labels that both decided; `skip` is no decision.
        only_a: Labels that the first alone decided.
        only_b: Labels that the second alone decided.
        share: Share of `both` with the same decision and label, with a 95 % interval;
            the labels of one row count as one draw. NaN where there are none.
        kappa: Cohen's kappa of these: 1 is full agreement, 0 what chance would give;
            NaN where chance alone agrees fully.
        conflicts: Where they differ, in the order of the first file.
    """

    out: Path
    both: int
    only_a: int
    only_b: int
    share: Share
    kappa: float
    conflicts: tuple[Conflict, ...]


def merge_reviews(a: str | Path, b: str | Path, out: str | Path) -> Agreement:
    """Merge the decisions of two reviewers, and say how far they agree.

    What one of them decided stands, and so does what both decided alike. Where they
    differ, the merged file says `skip`: the label is open again, and a review that
    goes on with this file shows it at its end.

    Args:
        a: A file that `review` wrote.
        b: Another, about the same issues.
        out: The merged file, one line for each label; replaced if it exists.

    Raises:
        InputError: a file is missing or no reviews file, `out` is one of the two, or they
            were shown different given labels.

    References:
        Cohen (1960), "A coefficient of agreement for nominal scales".
    """
    a, b, out = Path(a), Path(b), Path(out)
    if out.resolve() in {a.resolve(), b.resolve()}:
        raise InputError(
            f"{out}: is one of the files to merge, which stay as they are; choose another --out."
        )
    if out.exists():
        raise InputError(
            f"{out} is there already; decisions made in it would be lost. Choose another --out."
        )
    first, second = (settle_reviews(read_reviews(path)) for path in (a, b))
    _check_given(first, second, a, b)
    merged: list[Review] = []
    pairs: list[tuple[Review, Review]] = []
    for key in dict.fromkeys((*first, *second)):
        mine, other = first.get(key), second.get(key)
        if mine is None or other is None:
            merged += [review for review in (mine, other) if review is not None]
            continue
        mine, other = _name(mine, a), _name(other, b)
        merged.append(_join(mine, other))
        if _decides(mine) and _decides(other):
            pairs.append((mine, other))
    write_cells(out, COLUMNS, [_spell(review) for review in merged])
    decided = [sum(_decides(review) for review in each.values()) for each in (first, second)]
    return Agreement(
        out=out,
        both=len(pairs),
        only_a=decided[0] - len(pairs),
        only_b=decided[1] - len(pairs),
        share=_measure(pairs),
        kappa=measure_kappa([(_answer(x), _answer(y)) for x, y in pairs]),
        conflicts=tuple(Conflict(a=x, b=y) for x, y in pairs if _answer(x) != _answer(y)),
    )


def measure_kappa(pairs: Sequence[tuple[Answer, Answer]]) -> float:
    """Measure how far two people agree beyond chance.

    kappa = (agreed - chance) / (1 - chance), where chance is how often they would agree
    if each gave the same answers as often, but without looking.

    Args:
        pairs: The answers of both, for each label that both decided.

    Returns:
        At most 1; NaN for no pairs, or if both gave one and the same answer throughout.

    Examples:
        >>> keep, drop = ("keep", "cat"), ("drop", "")
        >>> measure_kappa([(keep, keep), (keep, keep), (drop, drop), (keep, drop)])
        0.5
    """
    total = len(pairs)
    if not total:
        return math.nan
    agreed = sum(x == y for x, y in pairs) / total
    left, right = Counter(x for x, _ in pairs), Counter(y for _, y in pairs)
    chance = sum(count * right[answer] for answer, count in left.items()) / total**2
    return (agreed - chance) / (1 - chance) if chance < 1 else math.nan


def _decides(review: Review) -> bool:
    return review.decision != "skip"


def _answer(review: Review) -> Answer:
    return review.decision, review.label


def _name(review: Review, path: Path) -> Review:
    """Give a reviewer without a name that of the file."""
    return review if review.reviewer else replace(review, reviewer=path.stem)


def _join(mine: Review, other: Review) -> Review:
    if _decides(mine) != _decides(other):
        return mine if _decides(mine) else other
    later = max(mine.time, other.time)
    both = replace(mine, time=later, reviewer=f"{mine.reviewer}|{other.reviewer}")
    alike = _answer(mine) == _answer(other)
    return both if alike else replace(both, decision="skip", label="")


def _measure(pairs: Sequence[tuple[Review, Review]]) -> Share:
    rows: dict[str, list[bool]] = {}
    for mine, other in pairs:
        rows.setdefault(mine.id, []).append(_answer(mine) == _answer(other))
    hits = np.array([sum(each) for each in rows.values()], np.float64)
    sizes = np.array([len(each) for each in rows.values()], np.float64)
    return measure_share(hits, sizes)


def _check_given(
    first: Mapping[Key, Review], second: Mapping[Key, Review], a: Path, b: Path
) -> None:
    wrong = [
        f"{key[0]!r} ({first[key].given!r} and {second[key].given!r})"
        for key in first
        if key in second and first[key].given != second[key].given
    ]
    if wrong:
        raise InputError(
            f"{a} and {b} show another given label for {shorten(wrong)}: they review different "
            "tables. Merge reviews of one issues.csv."
        )


def _spell(review: Review) -> tuple[str, ...]:
    return (
        review.time,
        review.reviewer,
        review.id,
        review.class_name,
        review.given,
        review.suggested,
        review.decision,
        review.label,
    )
