"""Held-out masks of several runs side by side, as scores, gates and variants need them.

Owns which cuts make the mask of which row: never one that was chosen on it, nor on what a
gate would close. It must not fit a gate, or know probabilities.

Shapes: N held-out rows, C classes, K parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from loupe.aligning import ABSENT, match_ids
from loupe.cascades import StageRuns
from loupe.dices import Pairs
from loupe.errors import AlignmentError, shorten
from loupe.evidence import make_evidence
from loupe.maskcuts import CutMasks, PairCounts, take_counts, take_masks
from loupe.maskrules import (
    MaskRule,
    Wish,
    close_counts,
    cut_others,
    cut_parts,
    fit_mask_rule,
)
from loupe.maskscoring import cross_fitted_masks, read_mask_counts
from loupe.runs import Run, open_run
from loupe.weighting import Bool

Float32 = NDArray[np.float32]
Int16 = NDArray[np.int16]
Rows = NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldRun:
    """What one run that draws masks hits and misses in held-out rows.

    Attributes:
        classes: (c,) names of its columns.
        counts: (N, c, ...) of the rows of `HeldMasks`.
        wish: The kind of cuts that its recipe asks for.
        size: Height and width at which it was counted; None is that of each image.
    """

    classes: tuple[str, ...]
    counts: PairCounts
    wish: Wish
    size: tuple[int, int] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldMasks:
    """Held-out rows of runs that draw masks.

    Attributes:
        place: Folder of the first run.
        ids: (N,) of the rows.
        folds: (N,) of the first run.
        parts: (N,) number of each row's part, 0 to K - 1: folds as a rule.
        part_names: (K,) of the parts.
        groups: (N,) rows that belong together; None where each stands alone.
        masks: Of each row by its run's own cuts, chosen without its part.
        runs: What each run hits and misses; their columns side by side are the C classes.
        notes: What was read and assumed.
        stamps: What must be said beside every score.
    """

    place: Path
    ids: tuple[str, ...]
    folds: Int16
    parts: Rows
    part_names: tuple[str, ...]
    groups: tuple[str, ...] | None
    masks: CutMasks
    runs: tuple[HeldRun, ...]
    notes: tuple[str, ...]
    stamps: tuple[str, ...]


class Recut(NamedTuple):
    """Cuts that were fitted again, for masks behind a gate.

    Attributes:
        rules: One for each run, for new images and without each part.
        masks: (N, C) of all pairs, closed ones too: of each row by cuts chosen without its
            part.
    """

    rules: tuple[MaskRule, ...]
    masks: CutMasks


def gather_held_masks(runs: StageRuns) -> HeldMasks:
    """Put the held-out masks of all runs that draw them side by side.

    Args:
        runs: Of a cascade.

    Raises:
        AlignmentError: runs held out other images.
        RunError: counts or cuts of a run cannot be read.
    """
    opened = [find_measured(run) for run in runs.masks]
    first, _ = opened[0]
    sheet, table = read_mask_counts(first), first.table()
    at = match_ids(table.ids, sheet.ids)
    groups = None if table.groups is None else tuple(table.groups[row] for row in at)
    areas = sheet.counts.counts[:, :, 0]
    truth = (areas[..., 0] + areas[..., 2] > 0).astype(np.float32)
    # Of one fold alone, it deals rows to parts.
    evidence = make_evidence(
        truth,
        [truth],
        exclusive=False,
        classes=sheet.classes,
        ids=sheet.ids,
        folds=sheet.folds,
        groups=groups,
    )
    pieces = [_read_run(run, sheet.ids, evidence.parts, first) for run, _ in opened]
    stamps = [str(stamp) for run, _ in opened for stamp in run.manifest()["stamps"]]
    return HeldMasks(
        place=first.folder,
        ids=sheet.ids,
        folds=sheet.folds,
        parts=evidence.parts,
        part_names=evidence.part_names,
        groups=groups,
        masks=_join_classes([whole for whole, _, _ in pieces]),
        runs=tuple(each for _, each, _ in pieces),
        notes=tuple(note for _, notes in opened for note in notes),
        stamps=(*stamps, *(stamp for _, _, stamp in pieces if stamp)),
    )


def find_measured(run: Run) -> tuple[Run, tuple[str, ...]]:
    """Return the run whose held-out rows tell of a run, and a note if that is another one.

    Args:
        run: A refit run is told of by the one that it follows.
    """
    if not run.refit:
        return run, ()
    source = open_run(run.manifest()["refit_of"])
    note = f"{run.folder} was trained on all rows; {source.folder}, which it follows, tells of it"
    return source, (note,)


def cut_open(held: HeldMasks, open_NC: Bool) -> Recut:
    """Fit the cuts of every run again, for what a gate leaves open.

    Without a gate, the best cut of a class that the network draws everywhere is one that
    leaves it empty, and no gate could then bring it back. Here a false mask that is closed
    anyway costs a cut nothing.

    Args:
        held: Held-out rows.
        open_NC: Which pairs stay open, decided for each row without its part, and without
            a look at its masks.

    Shape:
        open_NC: (N, C).
    """
    rules = [
        _fit_run(held, run, close_counts(run.counts, mine), run.wish)
        for run, mine in _split_classes(held, open_NC)
    ]
    return _recut(held, rules)


def cut_present(held: HeldMasks) -> Recut:
    """Fit the pixel threshold of every run again, for a gate that alone tells presence.

    The threshold is chosen on pairs whose given mask is not empty: it says how a class is
    drawn where it is, not if. A gate is to be fitted on masks that were cut so.

    Args:
        held: Held-out rows.
    """
    rules = [
        _fit_run(held, run, close_counts(run.counts, mine), "pixel")
        for run, mine in _split_classes(held, held.masks.pairs.truth > 0)
    ]
    return _recut(held, rules)


def nest_present(held: HeldMasks, recut: Recut) -> tuple[CutMasks, ...]:
    """Return, for each part, the masks that a gate for that part can be fitted on.

    Args:
        held: Held-out rows.
        recut: From `cut_present`.

    Returns:
        (K,) masks of all N rows: those of the part as in `recut.masks`; all others by cuts
        that were chosen without the part and without their own.
    """
    nested = []
    for rule, (run, there) in zip(
        recut.rules, _split_classes(held, held.masks.pairs.truth > 0), strict=True
    ):
        closed = close_counts(run.counts, there)
        nested.append(
            cut_others(rule, run.counts, held.parts, kind="pixel", chosen_on=closed)
            # Of a single part nothing was fitted apart.
            or [cut_parts(rule, run.counts, held.parts)]
        )
    return tuple(_join_classes(masks) for masks in zip(*nested, strict=True))


def _read_run(
    run: Run, ids: Sequence[str], parts: Rows, first: Run
) -> tuple[CutMasks, HeldRun, str]:
    """Return the masks of a run's rows by its own cuts, its counts, and a stamp."""
    sheet, whole = read_mask_counts(run), cross_fitted_masks(run)
    at = match_ids(sheet.ids, ids)
    lost = [repr(key) for key, row in zip(ids, at, strict=True) if row == ABSENT]
    more = [repr(key) for key in sorted(set(sheet.ids) - set(ids))]
    if lost or more:
        raise AlignmentError(
            f"{run.folder} held out other images than {first.folder}: it lacks {len(lost)} "
            f"({shorten(lost, 3)}), and {len(more)} are its own ({shorten(more, 3)}). Expected "
            "runs that were trained on one table."
        )
    work = run.member(run.members[0]).recipe().masks
    held = HeldRun(
        classes=sheet.classes,
        counts=take_counts(sheet.counts, at),
        wish=work.cut,
        size=work.size,
    )
    folds, numbers = np.unique(sheet.folds, return_inverse=True)
    apart = len(folds) > 1 and not (numbers[at] == parts).all()
    stamp = (
        f"OPTIMISTIC: {run.folder} has other folds than {first.folder}; what is fitted without a "
        "part may know it through networks trained on it"
    )
    return take_masks(whole, at), held, stamp if apart else ""


def _split_classes(held: HeldMasks, values: Bool) -> list[tuple[HeldRun, Bool]]:
    """Return each run with its columns of (N, C) values."""
    ends = np.cumsum([len(run.classes) for run in held.runs])
    pieces = np.split(values, ends[:-1], axis=1)
    return list(zip(held.runs, pieces, strict=True))


def _fit_run(held: HeldMasks, run: HeldRun, counts: PairCounts, kind: Wish) -> MaskRule:
    """Fit the cuts of a run; those of a single part cannot be fitted and scored apart."""
    return fit_mask_rule(
        counts,
        held.parts,
        held.part_names,
        classes=run.classes,
        kind=kind if len(held.part_names) > 1 else "fixed",
        size=run.size,
    ).rule


def _recut(held: HeldMasks, rules: Sequence[MaskRule]) -> Recut:
    """Apply rules to all pairs, closed ones too."""
    pieces = [
        cut_parts(rule, run.counts, held.parts) for rule, run in zip(rules, held.runs, strict=True)
    ]
    return Recut(tuple(rules), _join_classes(pieces))


def _join_classes(pieces: Sequence[CutMasks]) -> CutMasks:
    """Put the columns of several runs beside each other."""

    def join(values: Sequence[Float32 | None]) -> Float32 | None:
        known = [value for value in values if value is not None]
        return np.concatenate(known, axis=1) if len(known) == len(values) else None

    pairs = [each.pairs for each in pieces]
    return CutMasks(
        Pairs(
            truth=np.concatenate([each.truth for each in pairs], axis=1),
            predicted=np.concatenate([each.predicted for each in pairs], axis=1),
            intersection=np.concatenate([each.intersection for each in pairs], axis=1),
        ),
        join([each.confidences for each in pieces]),
        join([each.tops for each in pieces]),
    )
