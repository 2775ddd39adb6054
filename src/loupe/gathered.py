"""Gathered: the readable rows of two tables side by side, measured and matched.

Owns the one pass over the files that adversarial validation makes. It must not compare
the tables, or stand in for a picture that cannot be read.

Shapes: N rows of both tables, first ours, then the other's; S statistics; F features.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loupe.apart import Side, Unread
from loupe.appearance import NAMES, measure_appearance
from loupe.copies import DESCRIPTOR_SIZE, CopyPair, Float16, describe, find_copies, group_copies
from loupe.decoding import inspect_image
from loupe.errors import InputError, shorten
from loupe.table import Table

Bool = NDArray[np.bool_]
Float32 = NDArray[np.float32]
Int = NDArray[np.intp]
Progress = Callable[[int, int], None]

LEAST_ROWS = 20
"""Readable images that each table must have; with fewer, nothing can be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """What one file turned out to be."""

    pixels: str = ""
    error: str = ""
    descriptor: Float16 | None = None
    statistics: Float32 | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """The readable rows of both tables.

    Attributes:
        ids: (N,) as the tables have them; one may stand in both.
        foreign: (N,) True for the other table.
        statistics: (N, S) by `loupe.appearance`.
        features: (N, F), or None.
        pairs: Copies that were found, as positions of rows.
        copies: (N,) group of copies of each row.
        held: (N,) the same, merged with the users' groups of equal name.
    """

    ids: tuple[str, ...]
    foreign: Bool
    statistics: Float32
    features: Float32 | None
    pairs: tuple[CopyPair, ...]
    copies: Int
    held: Int

    def side(self, row: int) -> Side:
        """Return the table of a row."""
        return "other" if self.foreign[row] else "ours"

    def count_groups(self) -> dict[Side, int]:
        """Count the groups in each table; one that stands in both counts twice."""
        return {
            "ours": len(np.unique(self.held[~self.foreign])),
            "other": len(np.unique(self.held[self.foreign])),
        }


def gather_rows(
    ours: Table,
    other: Table,
    *,
    features: tuple[Float32, Float32] | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> tuple[Gathered, tuple[Unread, ...]]:
    """Read every file of both tables once; measure, and find the copies.

    Args:
        ours: The one table.
        other: The other.
        features: Of all rows of both; those that cannot be read may be NaN.
        jobs: Threads that decode; all cores if not given.
        progress: Called with (images done, images of both tables) after each.

    Shape:
        features: (rows of ours, F) and (rows of other, F).

    Returns:
        The rows that could be read, and the list of the others.

    Raises:
        InputError: a table has fewer than 20 readable images, or fewer than two
            groups; jobs is below 1; features do not fit the tables.
    """
    if features is not None:
        _check_features(features, (len(ours), len(other)))
    looks = _look_at_all([*ours.images, *other.images], jobs, progress)
    rows, unread = _join(ours, other, looks, features)
    _check_enough(rows, unread)
    return rows, unread


def _look_at_all(
    images: Sequence[Path], jobs: int | None, progress: Progress | None
) -> list[_Look]:
    if jobs is not None and jobs < 1:
        raise InputError(f"jobs is {jobs}; expected 1 or more.")
    looks = []
    with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as pool:
        for look in pool.map(_look_at, images):
            looks.append(look)
            if progress is not None:
                progress(len(looks), len(images))
    return looks


def _look_at(path: Path) -> _Look:
    facts, image = inspect_image(path)
    if image is None:
        return _Look(error=facts.error or "cannot be read")
    return _Look(
        pixels=facts.pixels,
        descriptor=describe(image),
        statistics=measure_appearance(image, path.stat().st_size),
    )


def _join(
    ours: Table,
    other: Table,
    looks: Sequence[_Look],
    features: tuple[Float32, Float32] | None,
) -> tuple[Gathered, tuple[Unread, ...]]:
    """Keep the rows that could be read, and list the others."""
    ids, foreign = (*ours.ids, *other.ids), np.arange(len(looks)) >= len(ours)
    read = np.array([row for row, look in enumerate(looks) if not look.error], np.intp)
    unread = tuple(
        Unread(id=ids[row], table="other" if foreign[row] else "ours", reason=look.error)
        for row, look in enumerate(looks)
        if look.error
    )
    kept = [looks[row] for row in read]
    descriptors = np.array([look.descriptor for look in kept], np.float16)
    pairs = find_copies(
        descriptors.reshape(len(kept), DESCRIPTOR_SIZE), [look.pixels for look in kept]
    )
    names = [str(row) for row in range(len(kept))]
    # Where a table has no groups its rows stand alone; no user's text holds a zero byte.
    alone = [f"\0{row}" for row in range(len(looks))]
    given = [*(ours.groups or alone[: len(ours)]), *(other.groups or alone[len(ours) :])]
    sheet = None if features is None else np.concatenate(features)[read]
    if sheet is not None and not np.isfinite(sheet).all():
        wrong = [repr(ids[row]) for row in read[~np.isfinite(sheet).all(axis=1)]]
        raise InputError(f"features of {len(wrong)} readable row(s) are NaN: {shorten(wrong)}.")
    rows = Gathered(
        ids=tuple(ids[row] for row in read),
        foreign=foreign[read],
        statistics=np.array([look.statistics for look in kept]).reshape(len(kept), len(NAMES)),
        features=sheet,
        pairs=pairs,
        copies=_number(group_copies(names, pairs)),
        held=_number(group_copies(names, pairs, also=[given[row] for row in read])),
    )
    return rows, unread


def _number(names: Sequence[str]) -> Int:
    return np.array([int(name) for name in names], np.intp)


def _check_features(features: tuple[Float32, Float32], counts: tuple[int, int]) -> None:
    first, second = (sheet.shape for sheet in features)
    flat = len(first) == len(second) == 2 and first[1:] == second[1:]
    if not flat or (first[0], second[0]) != counts:
        raise InputError(
            f"features have shapes {first} and {second}; expected ({counts[0]}, F) and "
            f"({counts[1]}, F): a row for each row of the tables."
        )


def _check_enough(rows: Gathered, unread: Sequence[Unread]) -> None:
    names = {False: "ours", True: "the other"}
    counts = {side: int((rows.foreign == side).sum()) for side in names}
    few = [
        f"{name} has {counts[side]}" for side, name in names.items() if counts[side] < LEAST_ROWS
    ]
    if few:
        lost = f" ({len(unread)} more cannot be read)" if unread else ""
        raise InputError(
            f"too few readable images: {', '.join(few)}{lost}; expected {LEAST_ROWS} or more in "
            "each table, for with fewer nothing can be told. Add images, or look at them yourself."
        )
    alone = [name for side, name in names.items() if len(set(rows.held[rows.foreign == side])) < 2]
    if alone:
        raise InputError(
            f"all images of {' and of '.join(alone)} are in one group (by the group column, or as "
            "copies of one another); expected two groups or more, of which one can be held out. "
            "If the column is the cause, leave out --group-column."
        )
