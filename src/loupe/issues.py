"""Issues: labels that are probably wrong, worst first, and the files that keep them.

Owns `issues.csv` and the text beside it that says where it comes from. It must not find
issues or decide about them.

    issues.csv    id, class, given, suggested, quality, rule, evidence
    issues.json   what was audited and how: run or predictions file, classes, rules, estimates
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loupe.cells import read_cells, write_cells
from loupe.errors import InputError, shorten
from loupe.files import write_json

COLUMNS = ("id", "class", "given", "suggested", "quality", "rule", "evidence")
SCHEMA = 1
YES, NO = "yes", "no"
"""Labels of one class where classes stand alone."""
MASK, NO_MASK = "mask", "no mask"
"""Labels of one class where masks are given."""
Key = tuple[str, str]
"""What is decided at once: the id of a row, and a class ("" where classes are exclusive)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Issue:
    """One label, and how far it is to be trusted.

    Attributes:
        id: Of the row.
        class_name: The class that is in doubt where classes stand alone or have masks; "" where
            they are exclusive, and where the whole row is meant.
        given: What the table says: a class, `YES` or `NO`, `MASK` or `NO_MASK`.
        suggested: What it should perhaps say, in the same words; "" for "look at it".
        quality: In [0, 1]; low is suspect.
        rules: Names of the rules that flag it; () if none does.
        evidence: Why, in one sentence.
    """

    id: str
    class_name: str = ""
    given: str
    suggested: str = ""
    quality: float
    rules: tuple[str, ...] = ()
    evidence: str = ""

    @property
    def key(self) -> Key:
        """What a decision about it is filed under."""
        return self.id, self.class_name


@dataclass(frozen=True, slots=True, kw_only=True)
class IssueSheet:
    """What an issues file holds.

    Attributes:
        issues: In the order of the file, worst first.
        origin: What was audited, see `loupe.auditing`: `source`, `is_run`, `table`, `classes`,
            `exclusive`, `segments` and more; empty if the file beside it is gone.
    """

    issues: tuple[Issue, ...]
    origin: Mapping[str, Any]


def origin_path(path: Path) -> Path:
    """Return the file that says where an issues file comes from.

    Examples:
        >>> origin_path(Path("night/issues.csv")).as_posix()
        'night/issues.json'
    """
    return path.with_suffix(".json")


def write_issues(path: Path, issues: Sequence[Issue], origin: Mapping[str, Any]) -> None:
    """Write issues and where they come from, each file whole or not at all.

    Args:
        path: The CSV; its folder is made.
        issues: In the order in which to look at them.
        origin: Plain values.

    Raises:
        InputError: the file is called .json, or it or the one beside it is there already and
            holds something else.
    """
    if origin_path(path) == path:
        raise InputError(f"{path}: issues are a CSV with a .json beside it; name it .csv.")
    if path.exists():
        with path.open("rb") as stream:
            first = stream.readline().decode("utf-8-sig", errors="replace").strip()
        if first != ",".join(COLUMNS):
            raise InputError(f"{path} is there already and holds no issues; choose another --out.")
    _read_origin(origin_path(path))  # refuses a .json that is something else
    rows = [
        (
            each.id,
            each.class_name,
            each.given,
            each.suggested,
            f"{each.quality:.6f}",
            " ".join(each.rules),
            each.evidence,
        )
        for each in issues
    ]
    write_json(origin_path(path), {"kind": "issues", "schema": SCHEMA, **origin})
    write_cells(path, COLUMNS, rows)


def read_issues(path: Path) -> IssueSheet:
    """Read what `write_issues` wrote, maybe edited since.

    Args:
        path: The CSV.

    Raises:
        InputError: there is no such file, it lacks a column, or a quality is no number in
            [0, 1]; all such lines are named.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; 'loupe audit RUN --out {path}' makes it.")
    if _is_empty(path):
        # A clean audit; a table without rows is no table elsewhere.
        return IssueSheet(issues=(), origin=_read_origin(origin_path(path)))
    cells = read_cells(path)
    lost = [name for name in COLUMNS if name not in cells.header]
    if lost:
        raise InputError(
            f"{path}: no column {shorten(lost)}; expected {', '.join(COLUMNS)}, as 'loupe audit' "
            "writes them."
        )
    columns = {name: cells.column(name) for name in COLUMNS}
    wrong = [
        f"{text!r} in {cells.unit} {line}"
        for text, line in zip(columns["quality"], cells.lines, strict=True)
        if not _is_share(text)
    ]
    if wrong:
        raise InputError(f"{path}: quality is no number in [0, 1]: {shorten(wrong)}.")
    rows = zip(*(columns[name] for name in COLUMNS), strict=True)
    issues = tuple(
        Issue(
            id=row[0],
            class_name=row[1],
            given=row[2],
            suggested=row[3],
            quality=float(row[4]),
            rules=tuple(row[5].split()),
            evidence=row[6],
        )
        for row in rows
    )
    return IssueSheet(issues=issues, origin=_read_origin(origin_path(path)))


def _is_empty(path: Path) -> bool:
    with path.open(encoding="utf-8-sig") as stream:
        header = stream.readline().strip().replace(";", ",")
        return header == ",".join(COLUMNS) and not stream.read().strip()


def _is_share(text: str) -> bool:
    try:
        return 0 <= float(text) <= 1
    except ValueError:
        return False


def _read_origin(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if found.get("kind") != "issues" or found.get("schema") != SCHEMA:
        raise InputError(
            f"{path}: is a {found.get('kind')!r} of schema {found.get('schema')!r}; this version "
            f"of Loupe reads 'issues' of schema {SCHEMA}. Run 'loupe audit' again."
        )
    return found
