"""Aligning: which row of one list of ids is which row of another.

Owns the match and the guess why ids do not match. It must not know what the rows hold.

Shapes: N rows that are known, W rows that are wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.intp]

ABSENT = -1
"""Position of an id that is not there."""
_MOST = 100_000


def match_ids(known: Sequence[str], wanted: Sequence[str]) -> Rows:
    """Return where each wanted id stands among the known ones.

    Lists that are equal are matched without looking at each row.

    Args:
        known: (N,) each once.
        wanted: (W,) ids.

    Returns:
        (W,) positions in `known`; `ABSENT` where an id is not there.

    Examples:
        >>> match_ids(("a", "b", "c"), ("c", "x", "a")).tolist()
        [2, -1, 0]
    """
    if tuple(known) == tuple(wanted):
        return np.arange(len(known), dtype=np.intp)
    at = {key: row for row, key in enumerate(known)}
    return np.fromiter((at.get(key, ABSENT) for key in wanted), np.intp, len(wanted))


def guess_difference(missing: Sequence[str], others: Sequence[str]) -> str:
    """Guess why ids do not match: they may differ by their folder, extension or case alone.

    Args:
        missing: Ids that were looked for.
        others: Ids that are there, and were not looked for.

    Returns:
        A sentence that starts with a blank, or "" if nothing explains the most of them.

    Examples:
        >>> guess_difference(["a.png", "b.png"], ["img/a.png", "img/b.png"])
        " 2 of them differ only by their folder ('a.png' and 'img/a.png'): write both alike."
    """
    lost, there = missing[:_MOST], others[:_MOST]
    best: tuple[int, str, str, str] | None = None
    for words, simplify in _WAYS:
        at = {simplify(name): name for name in there}
        pairs = [(name, at[key]) for name in lost if (key := simplify(name)) in at]
        if pairs and (best is None or len(pairs) > best[0]):
            best = (len(pairs), words, *pairs[0])
    if best is None:
        return ""
    count, words, mine, theirs = best
    return f" {count} of them differ only {words} ({mine!r} and {theirs!r}): write both alike."


def _strip(name: str) -> str:
    head, dot, ending = name.rpartition(".")
    return head if dot and head and "/" not in ending else name


def _cut_folder(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).name


_WAYS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("by their folder", _cut_folder),
    ("by their extension", _strip),
    ("by case", str.casefold),
    ("by blanks around them", str.strip),
    ("by leading zeros", lambda name: name.lstrip("0")),
    ("by folder, extension and case", lambda name: _strip(_cut_folder(name)).casefold()),
)
