"""Checking: every file of a table decoded once, and a report of what was found.

Owns the verb `check` and the groups of copies that `split` needs; what counts as a
finding stands in `findings`. It must not change the table, move files, fold, or
stand in for a damaged picture.

Shapes: N rows, D values of a descriptor.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loupe.cells import write_cells
from loupe.copies import DESCRIPTOR_SIZE, Float16, describe, find_copies, group_copies
from loupe.decoding import ImageFacts, inspect_image
from loupe.errors import InputError
from loupe.findings import Finding, list_findings
from loupe.table import Quarantined, Table, count_classes

Progress = Callable[[int, int], None]

COLUMNS = ("id", "finding", "severity", "detail", "group")
"""Columns of the file that `write_check` writes."""


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
    return CheckReport(
        rows=len(table),
        findings=list_findings(table, facts, pairs, copies),
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


def find_copies_of(
    table: Table, *, jobs: int | None = None, progress: Progress | None = None
) -> tuple[str, ...]:
    """Group the rows that show one image, whatever the table's own groups say.

    Args:
        table: Its images are decoded, each once; a file that cannot be read is alone.
        jobs: Threads that decode; all cores if not given.
        progress: Called with (rows done, rows in all) after each row.

    Returns:
        (N,) names; a group has the id of its first row.

    Raises:
        InputError: jobs is below 1.
    """
    facts, descriptors = _inspect_all(table.images, jobs, progress)
    return group_copies(table.ids, find_copies(descriptors, [fact.pixels for fact in facts]))


def write_check(report: CheckReport, path: Path) -> None:
    """Write the findings as CSV with the columns of `COLUMNS`, whole or not at all.

    Args:
        report: From `check`.
        path: The file; its folder is made.
    """
    rows = [[str(getattr(f, name)) for name in COLUMNS] for f in report.findings]
    write_cells(path, COLUMNS, rows)


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
