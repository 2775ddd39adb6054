"""Checking: what is odd, damaged, copied or contradicting in a table.

Owns the verb `check`, its findings, and the groups of copies that `split` needs.
It must not change the table, move files, fold, or stand in for a damaged picture.

Findings that must be fixed make `CheckReport.must_fix` true: files that cannot be
decoded, and equal pictures with different labels. All others are notes.

Shapes: N rows, C classes, D values of a descriptor.
"""

from __future__ import annotations

import csv
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from loupe.copies import (
    DESCRIPTOR_SIZE,
    CopyPair,
    Float16,
    describe,
    find_copies,
    group_copies,
)
from loupe.errors import InputError
from loupe.images import ImageFacts, inspect_image
from loupe.table import Quarantined, Table, count_classes

Progress = Callable[[int, int], None]

COLUMNS = ("id", "finding", "severity", "detail", "group")
"""Columns of the file that `write_check` writes."""
RARE = 5
"""A class on fewer rows than this cannot be in each of five folds."""

_MINORITY = 0.2  # a share below this is odd; above, the set is simply mixed
_FEW_ROWS = 8  # below, there is no bulk to stand out from
_DEVIATIONS = 6.0  # robust standard deviations
_AREA_FACTOR, _ASPECT_FACTOR = 4.0, 2.0  # and at least so far off the median
_TO_SIGMA = 1.4826  # median absolute deviation to the sigma of a normal law


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing noticed about one row, or about the table.

    Attributes:
        id: The row; "" for a finding about a class.
        finding: Its short name, such as "truncated" or "near-copy".
        severity: "fix" if training must not go on like this, else "note".
        detail: One sentence for the user.
        group: Name of the group of copies, where the finding is about one.
    """

    id: str
    finding: str
    severity: Literal["fix", "note"]
    detail: str
    group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Sizes of the pictures that could be read, as (height, width) in pixels.

    Attributes:
        distinct: How many different sizes there are.
        smallest: Least height and least width.
        median: Median height and median width, rounded down.
        largest: Greatest height and greatest width.
    """

    distinct: int = 0
    smallest: tuple[int, int] = (0, 0)
    median: tuple[int, int] = (0, 0)
    largest: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """All that `check` found.

    Attributes:
        rows: N.
        findings: What must be fixed first; then in the order of the table.
        class_counts: Rows of each class.
        classes_per_image: How many rows have 0, 1, 2, ... classes.
        group_sizes: Rows of each group the user gave.
        copy_sizes: Rows of each group of copies; rows alone are left out.
        sizes: Of the pictures.
        copies: (N,) group of copies of each row; its own id if it is alone.
        groups: (N,) the same, merged with the user's groups: what `split` keeps
            together.
    """

    rows: int
    findings: tuple[Finding, ...]
    class_counts: Mapping[str, int]
    classes_per_image: Mapping[int, int]
    group_sizes: Mapping[str, int]
    copy_sizes: Mapping[str, int]
    sizes: Sizes
    copies: tuple[str, ...]
    groups: tuple[str, ...]

    @property
    def must_fix(self) -> bool:
        """True if some finding must be fixed before training."""
        return any(finding.severity == "fix" for finding in self.findings)

    @property
    def bad_ids(self) -> tuple[str, ...]:
        """Ids of the rows to set aside, each once, in the order of the table."""
        return tuple(dict.fromkeys(f.id for f in self.findings if f.severity == "fix"))

    def quarantined(self) -> tuple[Quarantined, ...]:
        """Return the rows to set aside, each with the first reason found."""
        reasons: dict[str, str] = {}
        for finding in self.findings:
            if finding.severity == "fix":
                reasons.setdefault(finding.id, f"{finding.finding}: {finding.detail}")
        return tuple(Quarantined(id=key, reason=reason) for key, reason in reasons.items())


def check(
    table: Table, *, jobs: int | None = None, progress: Progress | None = None
) -> CheckReport:
    """Decode every file once and list what is damaged, odd, copied or contradicting.

    Args:
        table: What to check; labels may be missing.
        jobs: Threads that decode; all cores if not given.
        progress: Called with (rows done, rows in all) after each row.

    Returns:
        The report; nothing is changed or written.

    Raises:
        InputError: jobs is below 1.
    """
    facts, descriptors = _inspect_all(table.images, jobs, progress)
    pairs = find_copies(descriptors, [fact.pixels for fact in facts])
    copies = group_copies(table.ids, pairs)
    findings = [
        *_list_damage(table, facts),
        *_list_contradictions(table, facts, pairs, copies),
        *_list_copies(table, pairs, copies),
        *_list_formats(table, facts),
        *_list_colours(table, facts),
        *_list_outliers(table, facts),
        *_list_rare(table),
    ]
    return CheckReport(
        rows=len(table),
        findings=_sort(findings, table.ids),
        class_counts=count_classes(table),
        classes_per_image=_count_per_image(table),
        group_sizes=dict(Counter(table.groups or ())),
        copy_sizes={name: n for name, n in Counter(copies).items() if n > 1},
        sizes=_measure(facts),
        copies=copies,
        groups=group_copies(table.ids, pairs, also=table.groups),
    )


def find_groups(
    table: Table, *, jobs: int | None = None, progress: Progress | None = None
) -> tuple[str, ...]:
    """Group the rows that no split may part: the user's groups and all copies.

    A row whose file cannot be read is grouped by the user's groups alone.

    Args:
        table: Its images are decoded, each once; its groups are merged in.
        jobs: Threads that decode; all cores if not given.
        progress: Called with (rows done, rows in all) after each row.

    Returns:
        (N,) names; a group has the id of its first row.

    Raises:
        InputError: jobs is below 1.
    """
    facts, descriptors = _inspect_all(table.images, jobs, progress)
    pairs = find_copies(descriptors, [fact.pixels for fact in facts])
    return group_copies(table.ids, pairs, also=table.groups)


def write_check(report: CheckReport, path: Path) -> None:
    """Write the findings as CSV with the columns of `COLUMNS`.

    Args:
        report: From `check`.
        path: The file; the caller makes the write atomic.
    """
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([getattr(f, name) for name in COLUMNS] for f in report.findings)


def _inspect_all(
    images: Sequence[Path], jobs: int | None, progress: Progress | None
) -> tuple[list[ImageFacts], Float16]:
    """Inspect all files in threads: Pillow and OpenCV decode outside the lock."""
    if jobs is not None and jobs < 1:
        raise InputError(f"jobs is {jobs}; expected 1 or more.")
    facts: list[ImageFacts] = []
    descriptors = np.zeros((len(images), DESCRIPTOR_SIZE), np.float16)
    with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as pool:
        for row, (fact, descriptor) in enumerate(pool.map(_inspect_one, images)):
            facts.append(fact)
            if descriptor is not None:
                descriptors[row] = descriptor
            if progress is not None:
                progress(row + 1, len(images))
    return facts, descriptors


def _inspect_one(path: Path) -> tuple[ImageFacts, Float16 | None]:
    fact, pixels = inspect_image(path)
    return fact, None if pixels is None else describe(pixels)


def _list_damage(table: Table, facts: Sequence[ImageFacts]) -> Iterator[Finding]:
    for name, fact in zip(table.ids, facts, strict=True):
        if fact.kind is not None:
            detail = fact.error or fact.kind
            yield Finding(id=name, finding=fact.kind, severity="fix", detail=detail)


def _list_contradictions(
    table: Table, facts: Sequence[ImageFacts], pairs: Sequence[CopyPair], copies: Sequence[str]
) -> Iterator[Finding]:
    """Compare each labelled row with its copies; name one that disagrees."""
    same: dict[str, list[int]] = defaultdict(list)
    for row in np.flatnonzero(~np.isnan(table.targets).any(axis=1)).tolist():
        if facts[row].pixels:
            same[facts[row].pixels].append(row)
    for rows in same.values():
        labels = [table.targets[row].tobytes() for row in rows]
        odd = next((r for r, label in zip(rows, labels, strict=True) if label != labels[0]), None)
        if odd is not None:
            for row, label in zip(rows, labels, strict=True):
                other = odd if label == labels[0] else rows[0]
                yield _contradict(table, row, other, copies, "contradiction")
    yield from _list_near_contradictions(table, pairs, copies)


def _list_near_contradictions(
    table: Table, pairs: Sequence[CopyPair], copies: Sequence[str]
) -> Iterator[Finding]:
    against: dict[int, int] = {}
    for pair in pairs:
        one, other = table.targets[pair.first], table.targets[pair.second]
        # NaN, no label, equals nothing but contradicts nothing either.
        if pair.kind == "near" and bool((one != other)[~np.isnan(one + other)].any()):
            against.setdefault(pair.first, pair.second)
            against.setdefault(pair.second, pair.first)
    for row, other in against.items():
        yield _contradict(table, row, other, copies, "near-contradiction")


def _contradict(table: Table, row: int, other: int, copies: Sequence[str], name: str) -> Finding:
    equal = name == "contradiction"
    what = "the same pixels" if equal else "a near copy"
    detail = (
        f"labelled {_spell(table, row)}; {table.ids[other]!r} is {what} and is labelled "
        f"{_spell(table, other)}."
    )
    return Finding(
        id=table.ids[row],
        finding=name,
        severity="fix" if equal else "note",
        detail=detail,
        group=copies[row],
    )


def _spell(table: Table, row: int) -> str:
    """Spell a label out; values between 0 and 1 are shown."""
    parts = [
        name if value == 1 else f"{name}={value:.3g}"
        for name, value in zip(table.classes, table.targets[row], strict=True)
        if value > 0
    ]
    return repr(" ".join(parts)) if parts else "with no class"


def _list_copies(
    table: Table, pairs: Sequence[CopyPair], copies: Sequence[str]
) -> Iterator[Finding]:
    """Name each copied row once for each kind of copy, with one partner."""
    partners: dict[tuple[int, str], int] = {}
    for pair in pairs:
        partners.setdefault((pair.first, pair.kind), pair.second)
        partners.setdefault((pair.second, pair.kind), pair.first)
    sizes = Counter(copies)
    for (row, kind), partner in partners.items():
        what = "same pixels as" if kind == "equal" else "near copy of"
        detail = f"{what} {table.ids[partner]!r}; {sizes[copies[row]]} rows in the group."
        yield Finding(
            id=table.ids[row],
            finding=f"{kind}-copy",
            severity="note",
            detail=detail,
            group=copies[row],
        )


def _list_formats(table: Table, facts: Sequence[ImageFacts]) -> Iterator[Finding]:
    for name, fact in zip(table.ids, facts, strict=True):
        if fact.kind is None:
            for finding, detail in _name_format(fact):
                yield Finding(id=name, finding=finding, severity="note", detail=detail)


def _name_format(fact: ImageFacts) -> Iterator[tuple[str, str]]:
    if fact.frames > 1:
        yield "animated", f"{fact.frames} frames or pages; the first one is used."
    if fact.orientation != 1:
        yield "exif-rotated", f"EXIF orientation {fact.orientation}; turned upright on reading."
    if fact.bits == 16:
        yield "16-bit", f"16-bit grey, divided by 257; the brightest value is {fact.peak} of 255."
    if fact.mode in {"P", "PA"}:
        yield "palette", "colours come from a palette of at most 256."
    if fact.alpha:
        yield "alpha", "partly transparent; laid over white."
    if fact.mode == "CMYK":
        yield "cmyk", "a CMYK picture; converted to RGB without a colour profile."


def _list_colours(table: Table, facts: Sequence[ImageFacts]) -> Iterator[Finding]:
    """Note grey pictures among coloured ones, or the reverse, if they are few."""
    counts = Counter(fact.channels for fact in facts if fact.kind is None)
    few, name, what = min(
        (counts[1], "grey-among-colour", "grey"), (counts[3], "colour-among-grey", "coloured")
    )
    if few >= _MINORITY * counts.total():
        return
    channels = 1 if what == "grey" else 3
    detail = f"one of {few} {what} picture(s) among {counts.total()}."
    for row_id, fact in zip(table.ids, facts, strict=True):
        if fact.kind is None and fact.channels == channels:
            yield Finding(id=row_id, finding=name, severity="note", detail=detail)


def _list_outliers(table: Table, facts: Sequence[ImageFacts]) -> Iterator[Finding]:
    rows = [row for row, fact in enumerate(facts) if fact.kind is None]
    if len(rows) < _FEW_ROWS:
        return
    heights = np.array([facts[row].height for row in rows], dtype=np.float64)
    widths = np.array([facts[row].width for row in rows], dtype=np.float64)
    odd = _stand_out(heights * widths, _AREA_FACTOR) | _stand_out(widths / heights, _ASPECT_FACTOR)
    usual = f"{int(np.median(heights))} x {int(np.median(widths))}"
    for at in np.flatnonzero(odd):
        size = f"{int(heights[at])} x {int(widths[at])}"
        detail = f"{size} pixels (height x width); the median is {usual}."
        yield Finding(
            id=table.ids[rows[at]], finding="size-outlier", severity="note", detail=detail
        )


def _stand_out(values: NDArray[np.float64], factor: float) -> NDArray[np.bool_]:
    """Mark values far from the median in ratio, and far outside the bulk."""
    logs = np.log(values)
    away = np.abs(logs - np.median(logs))
    limit = max(float(np.log(factor)), _DEVIATIONS * _TO_SIGMA * float(np.median(away)))
    marked: NDArray[np.bool_] = away > limit
    return marked


def _list_rare(table: Table) -> Iterator[Finding]:
    counts = dict(count_classes(table))
    if len(table.classes) == 1:
        known = ~np.isnan(table.targets[:, 0])
        counts[f"not {table.classes[0]}"] = int(known.sum()) - counts[table.classes[0]]
    for name, n in counts.items():
        if n < RARE:
            detail = (
                f"class {name!r} has {n} row(s); fewer than {RARE} cannot be in each of "
                f"{RARE} folds."
            )
            yield Finding(id="", finding="rare-class", severity="note", detail=detail)


def _sort(findings: Sequence[Finding], ids: Sequence[str]) -> tuple[Finding, ...]:
    place = {name: row for row, name in enumerate(ids)}
    last = len(ids)
    return tuple(sorted(findings, key=lambda f: (f.severity != "fix", place.get(f.id, last))))


def _count_per_image(table: Table) -> dict[int, int]:
    known = table.targets[~np.isnan(table.targets).any(axis=1)]
    return {int(n): c for n, c in sorted(Counter((known >= 0.5).sum(axis=1).tolist()).items())}


def _measure(facts: Sequence[ImageFacts]) -> Sizes:
    sizes = np.array([(f.height, f.width) for f in facts if f.kind is None], dtype=np.int64)
    if not len(sizes):
        return Sizes()
    (low_h, low_w), (mid_h, mid_w), (top_h, top_w) = (
        sizes.min(axis=0).tolist(),
        np.median(sizes, axis=0).astype(int).tolist(),
        sizes.max(axis=0).tolist(),
    )
    return Sizes(
        distinct=len(np.unique(sizes, axis=0)),
        smallest=(low_h, low_w),
        median=(mid_h, mid_w),
        largest=(top_h, top_w),
    )
