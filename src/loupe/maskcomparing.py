"""Mask comparing: are the masks of one run better than those of another on the same rows.

Owns how the counted rows of two runs are joined by id and class name, and which of them are
drawn together. It must not fit, draw maps or compute a score by itself.

Shapes: N rows that both held out, C classes that both count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from loupe.comparing import Comparison, Section, judge, spell_rows
from loupe.copies import CopyPair, group_copies
from loupe.countfiles import CountSheet
from loupe.dices import METRICS, Pairs, list_sums, measure_dice, take_score, tally_rows
from loupe.errors import AlignmentError, InputError, RunError, shorten
from loupe.leaks import Copies, check_other_folds, find_copies
from loupe.margins import compare_pairs
from loupe.maskrules import MaskRule, read_mask_rule
from loupe.maskscoring import cross_fitted_masks, read_mask_counts
from loupe.matching import Rows, note_unshared, refuse_moved_rows, share_ids
from loupe.proving import (
    Parts,
    add_proof,
    choose_rows,
    make_proof,
    name_cause,
    read_origins,
    split_parts,
)
from loupe.runs import Run
from loupe.table import Table

MASK_METRICS = tuple(name for name in METRICS if name != "all_empty")
"""What masks are compared by, the first by default; empty masks score alike for both."""
_COUNTED = "masks are counted with those of each run's own table, so these rows play no part"
_TIE = 1e-9  # a smaller gap between two means is rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    """One of the two: its counts, how they were cut, and the areas of its masks."""

    run: Run
    table: Table
    sheet: CountSheet
    rule: MaskRule
    pairs: Pairs


def compare_masks(
    a: Run,
    b: Run,
    *,
    names: tuple[str, str] = ("A", "B"),
    metric: str = "",
    allow_leak: bool = False,
    group: str = "",
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compare two runs that draw masks on the rows that both held out.

    The mask of a row is cut as was chosen without its part, in either run. Rows and classes
    are joined by name; those of one run alone play no part, and the notes say so. Where `b`
    was trained on a cleaned table and `a` on the table before, the comparison is a proof.

    Args:
        a: Finished; its networks draw masks.
        b: Another; its given masks of shared rows are the same, at the same size.
        names: What to call A and B.
        metric: The score that decides, of `MASK_METRICS`; "" for the mean Dice over pairs,
            1 where both masks are empty.
        allow_leak: Go on where groups cross folds; everything is stamped.
        group: What is drawn and swapped together: "" the groups of both runs, "given" the
            same, which must be there, "auto" also copies of images, "none" each row alone.
        resamples: Of the bootstrap, and swaps of the tests.
        seed: Of both.

    Returns:
        The verdict by the first difference; no exact tests, for masks are not right or
        wrong.

    Raises:
        RunError: a run has no counts or cuts.
        AlignmentError: no row or class is shared, given masks differ, or folds in a proof.
        LeakageError: groups of one run cross the folds of the other.
        InputError: the metric is not known.
    """
    if metric and metric not in MASK_METRICS:
        raise InputError(
            f"metric {metric!r} does not compare masks; expected one of {list(MASK_METRICS)}."
        )
    sides = (_read_side(a), _read_side(b))
    places = (a.folder, b.folder)
    mine, theirs = share_ids((sides[0].sheet.ids, sides[1].sheet.ids), places)
    classes = _share_classes(sides)
    shared = len(mine)
    mine, theirs, parts = _find_parts(sides, mine, theirs)
    pairs = (_take(sides[0], mine, classes), _take(sides[1], theirs, classes))
    ids = [sides[0].sheet.ids[row] for row in mine]
    _refuse_other_truth(sides, pairs, ids, classes)
    copies = _find_groups(sides, ids, (mine, theirs), group, allow_leak=allow_leak)
    first = metric or MASK_METRICS[0]
    found = {
        name: compare_pairs(*pairs, copies.groups, metric=name, resamples=resamples, seed=seed)
        for name in (first, *(name for name in MASK_METRICS if name != first))
    }
    gap = measure_dice(pairs[0]).mean(axis=1) - measure_dice(pairs[1]).mean(axis=1)
    count = len(ids) if copies.groups is None else len(set(copies.groups))
    told = (*_note_classes(sides, classes), _note_cuts(sides, names))
    sizes = (len(sides[0].sheet.ids), len(sides[1].sheet.ids))
    comparison = Comparison(
        names=names,
        rows=len(ids),
        groups=count,
        only_a=int((gap > _TIE).sum()),
        only_b=int((gap < -_TIE).sum()),
        differences=tuple(differences[0] for differences in found.values()),
        mcnemar=(),
        verdict=f"{judge(found[first][0], names=names)}, {spell_rows(len(ids), count)}",
        by_class=tuple(zip(classes, found[first][1:], strict=True)),
        stamps=_list_stamps(sides, copies),
        notes=(*copies.notes, *note_unshared(places, sizes, shared), *told),
    )
    if parts is None:
        return comparison
    sections = _prove(pairs, parts, copies.groups, first, resamples=resamples, seed=seed)
    cause = name_cause([a.manifest(), b.manifest()])
    proof = make_proof(sections, parts, missing=sizes[0] - len(ids), cause=cause)
    if shared > len(ids):
        redrawn = f"{shared - len(ids):,} row(s) have other masks after cleaning; {_COUNTED}"
        proof = replace(proof, remarks=(redrawn, *proof.remarks))
    return add_proof(comparison, proof)


def find_drawing(
    places: tuple[Path, Path], runs: Sequence[Run | None], table: Table | None
) -> tuple[Run, Run] | None:
    """Return both runs if they draw masks, None if neither does.

    Args:
        places: What the user named.
        runs: What is there; None stands for a predictions file.
        table: Targets that the user named.

    Raises:
        RunError: one draws masks and the other does not.
        InputError: there is a table, which says nothing of masks that were counted before.
    """
    a, b = runs
    draws = [run is not None and run.segments for run in runs]
    if not any(draws):
        return None
    if a is None or b is None or not all(draws):
        one, other = places if draws[0] else places[::-1]
        raise RunError(
            f"{one} draws masks and {other} does not, so they have no score in common. Expected "
            "two runs that draw masks, or two runs or files that name classes."
        )
    if table is not None:
        raise InputError(
            "masks are compared with those that the runs were trained on, which were counted "
            "then; a table says nothing more. Leave it out (--table)."
        )
    return a, b


def _read_side(run: Run) -> _Side:
    return _Side(
        run=run,
        table=run.table(),
        sheet=read_mask_counts(run),
        rule=read_mask_rule(run.cuts_file),
        pairs=cross_fitted_masks(run).pairs,
    )


def _share_classes(sides: Sequence[_Side]) -> tuple[str, ...]:
    """Return the classes that both count, in the order of the first."""
    one, other = (side.sheet.classes for side in sides)
    shared = tuple(name for name in one if name in other)
    if not shared:
        raise AlignmentError(
            f"{sides[0].run.folder} draws the classes {shorten(one)}, {sides[1].run.folder} draws "
            f"{shorten(other)}; expected runs that have a class in common."
        )
    return shared


def _take(side: _Side, rows: Rows, classes: Sequence[str]) -> Pairs:
    columns = np.array([side.sheet.classes.index(name) for name in classes], np.intp)
    at = np.ix_(rows, columns)
    return Pairs(
        truth=side.pairs.truth[at],
        predicted=side.pairs.predicted[at],
        intersection=side.pairs.intersection[at],
    )


def _find_parts(
    sides: Sequence[_Side], mine: Rows, theirs: Rows
) -> tuple[Rows, Rows, Parts | None]:
    """Return the shared rows that count, and who touched them if there is something to prove."""
    ids = [sides[0].sheet.ids[row] for row in mine.tolist()]
    origins = read_origins([side.table for side in sides], ids)
    if origins is None:
        return mine, theirs, None
    folds = (sides[0].sheet.folds[mine], sides[1].sheet.folds[theirs])
    refuse_moved_rows(ids, *folds, (sides[0].run.folder, sides[1].run.folder))
    same = np.array([origin is None or origin.action != "relabelled" for origin in origins])
    if not same.any():
        raise AlignmentError(
            f"all {len(ids):,} shared rows have other masks in {sides[1].run.folder}; {_COUNTED}."
        )
    kept = [origin for origin, alike in zip(origins, same, strict=True) if alike]
    return mine[same], theirs[same], split_parts(kept)


def _prove(
    pairs: tuple[Pairs, Pairs],
    parts: Parts,
    groups: Sequence[str] | None,
    metric: str,
    **bootstrap: int,
) -> list[Section]:
    """Compare both runs, after minus before, on the rows of each section."""
    sections = []
    for kind, chosen in choose_rows(parts).items():
        before, after = (
            Pairs(
                truth=each.truth[chosen],
                predicted=each.predicted[chosen],
                intersection=each.intersection[chosen],
            )
            for each in pairs
        )
        rows = np.flatnonzero(chosen)
        own = None if groups is None else [groups[row] for row in rows.tolist()]
        scores = [
            float(take_score(metric, tally_rows(list_sums(each), None))[0])
            for each in (before, after)
        ]
        section = Section(
            kind=kind,
            rows=len(rows),
            groups=len(rows) if own is None else len(set(own)),
            before=scores[0],
            after=scores[1],
            difference=compare_pairs(after, before, own, metric=metric, **bootstrap)[0],
        )
        sections.append(section)
    return sections


def _refuse_other_truth(
    sides: Sequence[_Side], pairs: Sequence[Pairs], ids: Sequence[str], classes: Sequence[str]
) -> None:
    one, other = pairs[0].truth, pairs[1].truth
    odd = np.argwhere(one != other)
    if not len(odd):
        return
    told = [
        f"{ids[row]!r}, class {classes[column]!r}: {one[row, column]} and {other[row, column]}"
        for row, column in odd
    ]
    sizes = [side.rule.size for side in sides]
    spelt = ["of each image" if size is None else f"{size[0]} x {size[1]}" for size in sizes]
    raise AlignmentError(
        f"{len(odd):,} given mask(s) of shared rows have other areas in {sides[1].run.folder} than "
        f"in {sides[0].run.folder}, in pixels: {shorten(told)}. Masks were counted at the size "
        f"{spelt[0]} (height x width) and {spelt[1]}; expected the same masks at the same size: "
        "train both on one table with one 'masks.size'."
    )


def _find_groups(
    sides: Sequence[_Side],
    ids: Sequence[str],
    rows: Sequence[Rows],
    mode: str,
    *,
    allow_leak: bool,
) -> Copies:
    """Find which shared rows belong together in either run; (N,) groups."""
    leave = allow_leak or any(_is_stamped(side.run) for side in sides)
    looked = [_look(sides[0], mode, allow_leak=leave)]
    same = sides[0].table.digest() == sides[1].table.digest()
    looked.append(looked[0] if same else _look(sides[1], mode, allow_leak=leave))
    parts = [
        None if found.groups is None else _pick(side.table, found.groups, ids)
        for side, found in zip(sides, looked, strict=True)
    ]
    groups = _join(ids, parts)
    stamps = [stamp for found in looked for stamp in found.stamps]
    for side, at in zip(sides, rows, strict=True):
        folds = side.sheet.folds[at]
        stamps += check_other_folds(ids, folds, groups, side.run.folder, allow_leak=leave)
    notes = dict.fromkeys(note for found in looked for note in found.notes)
    return Copies(groups=groups, stamps=tuple(stamps), notes=tuple(notes))


def _look(side: _Side, mode: str, *, allow_leak: bool) -> Copies:
    if mode == "":
        return Copies(groups=side.table.groups)
    place = side.run.folder
    return find_copies(side.table, mode, place=place, allow_leak=allow_leak, reporter=None)


def _pick(table: Table, groups: Sequence[str], ids: Sequence[str]) -> list[str]:
    known = dict(zip(table.ids, groups, strict=True))
    return [known[key] for key in ids]


def _join(ids: Sequence[str], parts: Sequence[Sequence[str] | None]) -> tuple[str, ...] | None:
    """Put rows together that are so in either run, directly or in steps."""
    there = [names for names in parts if names is not None]
    if not there:
        return None
    pairs = []
    for names in there[1:]:
        seen: dict[str, int] = {}
        for row, name in enumerate(names):
            first = seen.setdefault(name, row)
            if first < row:
                pairs.append(CopyPair(first=first, second=row, kind="equal", similarity=1.0))
    return group_copies(ids, pairs, also=there[0])


def _is_stamped(run: Run) -> bool:
    """True if a leak was allowed when the run was made."""
    return any(str(stamp).startswith("LEAK") for stamp in run.manifest()["stamps"])


def _list_stamps(sides: Sequence[_Side], copies: Copies) -> tuple[str, ...]:
    own = [str(stamp) for side in sides for stamp in side.run.manifest()["stamps"]]
    return tuple(dict.fromkeys((*own, *copies.stamps)))


def _note_classes(sides: Sequence[_Side], shared: Sequence[str]) -> tuple[str, ...]:
    apart = [[name for name in side.sheet.classes if name not in shared] for side in sides]
    return tuple(
        f"{side.run.folder} alone draws {shorten([repr(name) for name in names])}, which play no "
        "part"
        for side, names in zip(sides, apart, strict=True)
        if names
    )


def _note_cuts(sides: Sequence[_Side], names: tuple[str, str]) -> str:
    one, other = (side.rule.kind for side in sides)
    kinds = one if one == other else f"{one} in {names[0]}, {other} in {names[1]}"
    return f"masks are cut by each run's own rule, cross-fitted: {kinds}"
