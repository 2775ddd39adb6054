"""Exposure: which new images the networks of a run know, and why.

Known are the images that it trained on, their copies, and what stands in one group
with them; also those of the runs that it was blended from, or went on from. Scores of
them would flatter, so they are refused, or stamped. It must not predict.

Shapes: N rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from loupe.checking import find_groups
from loupe.errors import InputError, LeakageError, RunError, shorten
from loupe.progress import Reporter
from loupe.runs import Run, open_run
from loupe.seen import Bool, find_seen, list_trained
from loupe.starts import open_start
from loupe.table import HOLDOUT, Table

GroupBy = Literal["auto", "given", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What the networks of a run were trained on.

    Attributes:
        tables: One for each training that the weights went through.
        notes: What could not be found out.
    """

    tables: tuple[Table, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """What the networks of a run know of new rows.

    Attributes:
        known: (N,) True for rows that they know.
        groups: (N,) group of each row; None where each stands alone.
        notes: What was looked for, and what could not be.
        stamps: What must be said beside every score.
    """

    known: Bool
    groups: tuple[str, ...] | None
    notes: tuple[str, ...]
    stamps: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Related:
    """Which new rows are of one kind with rows that were trained on.

    Attributes:
        known: (N,) True for copies of training images, and for rows of their groups.
        groups: (N,) group of each new row; None where each stands alone.
        searched: Copies were looked for.
        notes: What was looked for, and what could not be.
    """

    known: Bool
    groups: tuple[str, ...] | None
    searched: bool = False
    notes: tuple[str, ...] = ()


def find_trained(run: Run) -> Trained:
    """Find all tables that went into the weights of a run.

    Args:
        run: Trained or blended.

    Raises:
        RunError: a source of a blend is a predictions file, or is gone.
    """
    tables: dict[str, Table] = {}
    lost: dict[str, None] = {}
    waiting = [(open_run(m.folder.parent), m.name) for m, _ in run.networks()]
    done = set()
    while waiting:
        training, name = waiting.pop(0)
        if (training.folder, name) in done:
            continue
        done.add((training.folder, name))
        if str(training.folder) not in tables:
            tables[str(training.folder)] = training.table()
        start = training.member(name).recipe().init_from
        if start is None:
            continue
        try:
            earlier, member = open_start(start, name)
            waiting.append((earlier, member.name))
        except RunError:
            lost[start] = None
    notes = tuple(
        f"{place}, whose weights the run went on from, is gone: whether it trained on these "
        "images cannot be told"
        for place in lost
    )
    return Trained(tables=tuple(tables.values()), notes=notes)


def refuse_known(
    run: Run, table: Table, *, by: GroupBy, allow_leak: bool, reporter: Reporter
) -> Exposure:
    """Make sure that the networks of a run know none of these images.

    Args:
        run: Trained or blended.
        table: The new rows.
        by: As for `find_related`; "none" needs `allow_leak`.
        allow_leak: Stamp what would be refused.
        reporter: Told of the progress.

    Raises:
        LeakageError: rows were trained on, or are related to such rows.
        InputError: there is no such `by`.
        RunError: a source of a blend is a predictions file, or is gone.
    """
    check_way(by)
    findings: list[str] = []

    def judge(text: str, advice: str) -> None:
        if not allow_leak:
            raise LeakageError(f"{text}. {advice} Or say --allow-leak to go on; all is stamped.")
        findings.append(text)

    trained = find_trained(run)
    known = find_known(table, trained)
    if known.any():
        judge(f"{run.folder} was trained on {_count(table, known)}", _advise(run))
    if by == "none":
        text = "copies of training images were not looked for (--group none)"
        judge(text, "They would flatter the scores; leave --group at 'auto'.")
    related = find_related(table, trained, by=by, reporter=reporter)
    more = related.known & ~known
    if more.any():
        judge(
            f"copies of images that {run.folder} was trained on, or rows of their groups, are "
            f"{_count(table, more)}",
            "Expected other images; take these out. If a group of the same name is another one "
            "here, rename it.",
        )
    stamps = [f"LEAK: {text} (--allow-leak); scores are optimistic" for text in findings]
    if not related.searched:
        # Copies that cross the folds of the run may as well cross into its hold-out.
        stamps += [text for text in run.manifest()["stamps"] if text.startswith("LEAK")]
    return Exposure(
        known=known | related.known,
        groups=related.groups,
        notes=(*trained.notes, *related.notes),
        stamps=tuple(stamps),
    )


def find_known(table: Table, trained: Trained) -> Bool:
    """Tell which rows were trained on themselves, as `seen.find_seen` does.

    Args:
        table: The new rows.
        trained: From `find_trained`.

    Returns:
        (N,) True for rows that some network was trained on.
    """
    found = [find_seen(table, each) for each in trained.tables]
    return np.asarray(np.logical_or.reduce(found), np.bool_)


def find_related(table: Table, trained: Trained, *, by: GroupBy, reporter: Reporter) -> Related:
    """Tell which rows are copies of training images, or stand in a group with them.

    Args:
        table: The new rows.
        trained: From `find_trained`.
        by: "auto" decodes all images, and links copies and equal group names, in steps;
            "given" compares group names only; "none" looks for nothing.
        reporter: Told of the progress.

    Raises:
        InputError: there is no such way.
    """
    check_way(by)
    if by == "none":
        return Related(known=np.zeros(len(table), np.bool_), groups=None)
    used = [each.select(list_trained(each)) for each in trained.tables]
    images = {path for each in used for path in each.images}
    there = sum(path.is_file() for path in images)
    if by == "given" or not there:
        names = {name for each in used for name in each.groups or ()}
        known = np.array([name in names for name in table.groups or ()] or [False] * len(table))
        gone = "the training images are gone: copies of them under other names were not looked for"
        return Related(known=known, groups=table.groups, notes=() if by == "given" else (gone,))
    joined = _join(table, used)
    reporter.begin("look for copies of training images", len(joined))
    groups = find_groups(joined, progress=reporter.advance)
    reporter.end()
    mine, theirs = groups[: len(table)], set(groups[len(table) :])
    note = f"{there:,} training images were searched for copies of these {len(table):,} images"
    if there < len(images):
        note += f"; {len(images) - there:,} more are gone"
    known = np.array([name in theirs for name in mine], np.bool_)
    return Related(known=known, groups=mine, searched=True, notes=(note,))


def check_way(by: str) -> None:
    """Refuse a way to group rows that does not exist.

    Args:
        by: As the user wrote it.

    Raises:
        InputError: there is no such way.
    """
    if by not in ("auto", "given", "none"):
        raise InputError(f"--group {by!r}: expected auto, given or none.")


def _join(table: Table, used: Sequence[Table]) -> Table:
    """Put new rows above those trained on, for their images and groups; ids become numbers."""
    places = list(zip(table.images, _name_groups(table), strict=True))
    # Runs of a blend share most of their images: each is decoded once.
    pairs = [zip(each.images, _name_groups(each), strict=True) for each in used]
    places += dict.fromkeys(place for each in pairs for place in each)
    return Table(
        ids=tuple(str(row) for row in range(len(places))),
        images=tuple(path for path, _ in places),
        classes=(),
        targets=np.zeros((len(places), 0), np.float32),
        exclusive=False,
        groups=tuple(name for _, name in places),
    )


def _name_groups(table: Table) -> list[str]:
    """Name the group of each row so that a row without one stands alone."""
    if table.groups is None:
        return [f"image {path}" for path in table.images]
    return [f"group {name}" for name in table.groups]


def _count(table: Table, marked: Bool) -> str:
    """Count rows, and name the first."""
    rows = np.flatnonzero(marked)
    told = shorten([repr(table.ids[row]) for row in rows])
    return f"{len(rows):,} of these {len(table):,} rows: {told}"


def _advise(run: Run) -> str:
    """Say which rows the run did keep apart."""
    folds = run.table().folds
    apart = 0 if folds is None else int((folds == HOLDOUT).sum())
    if apart:
        return (
            f"It kept {apart:,} rows apart: to score those, give the table that 'loupe split "
            "--holdout' wrote."
        )
    return (
        "Expected images that it never saw: a new batch, or rows that 'loupe split --holdout' "
        "keeps apart before training."
    )
