"""Findings: what is odd, damaged, copied or contradicting among inspected rows.

It must not open files or look at pixels: it is given facts and pairs of copies.

Findings that must be fixed are files that cannot be decoded and equal pictures with
different labels. All others are notes.

Shapes: N rows, C classes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from loupe.copies import CopyPair
from loupe.decoding import ImageFacts
from loupe.table import Table, count_classes

RARE = 5
"""A class on fewer rows than this cannot be in each of five folds."""

_MINORITY = 0.2  # a share below this is odd; above, the set is simply mixed
_FEW_ROWS = 8  # below, there is no bulk to stand out from
_DEVIATIONS = 6.0  # robust standard deviations
_AREA_FACTOR, _ASPECT_FACTOR = 4.0, 2.0  # and at least so far off the median
_TO_SIGMA = 1.4826  # median absolute deviation to the sigma of a normal law
_LARGE_SHARE, _LARGE_ROWS = 0.1, 50  # a group this large may be one scene, seen often


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing noticed about one row, or about the table.

    Attributes:
        id: The row; "" for a finding about the table or a class.
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


def list_findings(
    table: Table, facts: Sequence[ImageFacts], pairs: Sequence[CopyPair], copies: Sequence[str]
) -> tuple[Finding, ...]:
    """List all that is noticed about the rows and the table.

    Args:
        table: What was inspected; labels may be missing.
        facts: Of the image of each row.
        pairs: The copies that were found, as positions of rows.
        copies: Group of copies of each row.

    Shape:
        facts, copies: (N,).

    Returns:
        What must be fixed first; then in the order of the table, and what is
        about the whole table last.
    """
    findings = [
        *_list_damage(table, facts),
        *_list_contradictions(table, facts, pairs, copies),
        *_list_copies(table, facts, pairs, copies),
        *_list_large(copies),
        *_list_formats(table, facts),
        *_list_colours(table, facts),
        *_list_outliers(table, facts),
        *_list_rare(table),
        *_list_quarantined(table),
    ]
    return _sort(findings, table.ids)


def _list_damage(table: Table, facts: Sequence[ImageFacts]) -> Iterator[Finding]:
    for name, path, fact in zip(table.ids, table.images, facts, strict=True):
        if fact.kind is not None:
            # The id stands beside it already.
            detail = (fact.error or fact.kind).removeprefix(f"{path}: ")
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
    table: Table, facts: Sequence[ImageFacts], pairs: Sequence[CopyPair], copies: Sequence[str]
) -> Iterator[Finding]:
    """Name each copied row once for each kind of copy, with one partner."""
    partners: dict[tuple[int, str], int] = {}
    for pair in pairs:
        partners.setdefault((pair.first, pair.kind), pair.second)
        partners.setdefault((pair.second, pair.kind), pair.first)
    sizes = Counter(copies)
    twins = _find_twins(facts)
    for (row, kind), partner in partners.items():
        what, other = "near copy of", partner
        if kind == "equal":
            other = twins.get(row, partner)
            what = "same bytes as" if row in twins else "same pixels, in other bytes, as"
        detail = f"{what} {table.ids[other]!r}; {sizes[copies[row]]} rows in the group."
        yield Finding(
            id=table.ids[row],
            finding=f"{kind}-copy",
            severity="note",
            detail=detail,
            group=copies[row],
        )


def _find_twins(facts: Sequence[ImageFacts]) -> dict[int, int]:
    """Map each row whose file has the bytes of another's to the first of those."""
    same: dict[str, list[int]] = defaultdict(list)
    for row, fact in enumerate(facts):
        if fact.digest:
            same[fact.digest].append(row)
    return {row: rows[row == rows[0]] for rows in same.values() if len(rows) > 1 for row in rows}


def _list_large(copies: Sequence[str]) -> Iterator[Finding]:
    """Note groups too large to be copies of one picture only."""
    n = len(copies)
    for group, size in Counter(copies).items():
        if n >= _LARGE_ROWS and size > _LARGE_SHARE * n:
            detail = (
                f"{size} of {n} rows look like copies of {group!r} and would all share a fold. If "
                "they are different samples before one fixed camera, name what belongs together "
                "in a group column and split with --group given."
            )
            yield Finding(id="", finding="large-group", severity="note", detail=detail, group=group)


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
        grey = fact.mode.startswith("I")
        how = "16-bit grey, divided by 257" if grey else "16-bit colour, reduced to 8 bits"
        yield "16-bit", f"{how} on reading; the brightest value is {fact.peak} of 255."
    if fact.mode in {"P", "PA"}:
        yield "palette", "colours come from a palette of at most 256."
    if fact.alpha:
        yield "alpha", "partly transparent; laid over white."
    if fact.mode == "CMYK":
        yield "cmyk", "a CMYK picture; converted to RGB without a colour profile."


def _list_colours(table: Table, facts: Sequence[ImageFacts]) -> Iterator[Finding]:
    """Name grey pictures among coloured ones, or the reverse, if few; else count both."""
    counts = Counter(fact.channels for fact in facts if fact.kind is None)
    few, name, what = min(
        (counts[1], "grey-among-colour", "grey"), (counts[3], "colour-among-grey", "coloured")
    )
    if few and few >= _MINORITY * counts.total():
        detail = (
            f"{counts[1]} grey and {counts[3]} coloured pictures; if one class is mostly grey, a "
            "network learns that instead."
        )
        yield Finding(id="", finding="grey-and-colour", severity="note", detail=detail)
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


def _list_quarantined(table: Table) -> Iterator[Finding]:
    """Note the rows set aside earlier, so that no row goes missing from the report."""
    for row in table.quarantined:
        yield Finding(id=row.id, finding="quarantined", severity="note", detail=row.reason)


def _sort(findings: Sequence[Finding], ids: Sequence[str]) -> tuple[Finding, ...]:
    place = {name: row for row, name in enumerate(ids)}
    last = len(ids)
    return tuple(sorted(findings, key=lambda f: (f.severity != "fix", place.get(f.id, last))))
