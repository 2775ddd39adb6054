"""Sheet roles: which column of a predictions file is the id, which a class, which neither.

Owns the names that are recognised. It must not read numbers.

Shapes: C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loupe.columns import EXTRA_COLUMNS, IMAGE_COLUMNS, fold_name
from loupe.errors import AlignmentError, InputError, shorten, suggest
from loupe.sheetcells import RawSheet, holds_numbers

ROLES = ("fold", "held_out", "member", "error")
"""Columns with a meaning of their own, beside the id and the classes."""
PREFIX = "prob:"
"""What may stand before the name of a class."""
SINGLE_COLUMNS = ("prob", "probs", "probability", "score", "p", "pred", "prediction")
"""Names under which the one class of a binary table is found."""
TARGET = "target:"
"""What stands before a column of targets in our own files."""
_NO_CLASS = ("", "index", "unnamed0", "split", "label", "target")


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """Which column is what; "" where there is none.

    Attributes:
        id: Of the ids.
        fold: Of the folds.
        held_out: Of the marks whether a row was held out.
        member: Of the names of members.
        error: Of the reasons why rows have no probabilities.
        classes: (C,) names of the classes.
        columns: (C,) the column of each.
        notes: What was taken for what.
    """

    id: str
    fold: str
    held_out: str
    member: str
    error: str
    classes: tuple[str, ...]
    columns: tuple[str, ...]
    notes: tuple[str, ...]


def find_roles(raw: RawSheet, classes: Sequence[str] | None) -> Roles:
    """Find the ids, the classes and what else there is.

    Args:
        raw: The file.
        classes: Names that are looked for; None takes every column of numbers.

    Raises:
        InputError: there are no ids, or no numbers.
        AlignmentError: a class has no column; all such classes are listed.
    """
    header = list(raw.columns)
    lower = {name.casefold(): name for name in reversed(header)}
    found = {role: lower.get(role, "") for role in ROLES}
    key = _find_id(raw, header)
    taken = {key, *found.values()}
    free = [name for name in header if name not in taken and not name.startswith(TARGET)]
    if classes is None:
        names, columns, notes = _choose_classes(raw, free)
    else:
        names = tuple(classes)
        columns, notes = _match_classes(raw, names, free)
    return Roles(
        id=key,
        fold=found["fold"],
        held_out=found["held_out"],
        member=found["member"],
        error=found["error"],
        classes=names,
        columns=columns,
        notes=notes,
    )


def _find_id(raw: RawSheet, header: Sequence[str]) -> str:
    for known in ("id", *IMAGE_COLUMNS):
        fits = [name for name in header if fold_name(name) == known]
        if fits:
            return fits[0]
    raise InputError(
        f"{raw.where}: there is no column of ids; its columns are "
        f"{shorten([repr(name) for name in header], 12)}. Expected a header line with 'id' (or "
        "'image', 'file', 'path') and a column for each class."
    )


def _choose_classes(
    raw: RawSheet, free: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Take the columns marked as classes, or else every column of numbers."""
    columns = [name for name in free if name.startswith(PREFIX)]
    if not columns:
        never = (*_NO_CLASS, *EXTRA_COLUMNS)
        columns = [n for n in free if fold_name(n) not in never and holds_numbers(raw, n)]
    if not columns:
        raise InputError(
            f"{raw.where}: no column holds numbers; its columns are "
            f"{shorten([repr(name) for name in raw.columns], 12)}. Expected a column of "
            "probabilities for each class."
        )
    names = tuple(name.removeprefix(PREFIX) for name in columns)
    return names, tuple(columns), (f"columns taken for classes: {shorten(names, 20)}",)


def _match_classes(
    raw: RawSheet, classes: Sequence[str], free: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Find the column of each class by its name."""
    known = set(free)
    columns = [
        next((n for n in (f"{PREFIX}{name}", name, name.strip()) if n in known), "")
        for name in classes
    ]
    missing = [name for name, column in zip(classes, columns, strict=True) if not column]
    others = [n for n in free if n not in columns and fold_name(n) not in (*_NO_CLASS, "group")]
    others = [name for name in others if holds_numbers(raw, name)]
    notes: tuple[str, ...] = ()
    if missing and len(classes) == 1:
        named = [name for name in others if fold_name(name) in SINGLE_COLUMNS] or others
        if len(named) == 1:
            notes = (f"column {named[0]!r} is taken for the one class {classes[0]!r}",)
            return (named[0],), notes
    if missing:
        plain = [name.removeprefix(PREFIX) for name in others]
        told = [f"{name!r}{suggest(name, plain)}" for name in missing]
        raise AlignmentError(
            f"{raw.where}: {len(missing)} of {len(classes)} classes have no column: "
            f"{shorten(told)}. Columns of numbers that are no class of the table: "
            f"{shorten([repr(name) for name in others], 12) or 'none'}. Name the columns as the "
            "classes of the table."
        )
    if others:
        notes = (f"column(s) {shorten([repr(n) for n in others], 12)} are no class, and not used",)
    return tuple(columns), notes
