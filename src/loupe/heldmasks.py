"""Held-out masks of several runs side by side, as scores, gates and variants need them.

Owns which cuts make the mask of which row: never one that was chosen on it. It must not
fit a gate, or know probabilities.

Shapes: N held-out rows, C classes, K parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loupe.aligning import ABSENT, match_ids
from loupe.cascades import StageRuns
from loupe.dices import Pairs
from loupe.errors import AlignmentError, shorten
from loupe.evidence import make_evidence
from loupe.maskcuts import CutMasks, take_counts, take_masks
from loupe.maskrules import cut_others, read_mask_rule
from loupe.maskscoring import cross_fitted_masks, read_mask_counts
from loupe.runs import Run, open_run

Float32 = NDArray[np.float32]
Int16 = NDArray[np.int16]
Rows = NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldMasks:
    """Held-out rows of runs that draw masks.

    Attributes:
        place: Folder of the first run.
        ids: (N,) of the rows.
        folds: (N,) of the first run.
        parts: (N,) number of each row's part, 0 to K - 1: folds as a rule.
        groups: (N,) rows that belong together; None where each stands alone.
        masks: Of each row by cuts chosen without its part.
        part_masks: (K,) what a gate for a part is fitted on, and applied to: rows of the part
            as in `masks`; all others by cuts that were chosen without the part and
            without their own.
        notes: What was read and assumed.
        stamps: What must be said beside every score.
    """

    place: Path
    ids: tuple[str, ...]
    folds: Int16
    parts: Rows
    groups: tuple[str, ...] | None
    masks: CutMasks
    part_masks: tuple[CutMasks, ...]
    notes: tuple[str, ...]
    stamps: tuple[str, ...]


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
    pieces = [_cut_run(run, sheet.ids, evidence.parts, first) for run, _ in opened]
    stamps = [str(stamp) for run, _ in opened for stamp in run.manifest()["stamps"]]
    return HeldMasks(
        place=first.folder,
        ids=sheet.ids,
        folds=sheet.folds,
        parts=evidence.parts,
        groups=groups,
        masks=_join_classes([whole for whole, _, _ in pieces]),
        part_masks=tuple(
            _join_classes(masks) for masks in zip(*(each for _, each, _ in pieces), strict=True)
        ),
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


def _cut_run(
    run: Run, ids: Sequence[str], parts: Rows, first: Run
) -> tuple[CutMasks, list[CutMasks], str]:
    """Return the masks of a run's rows, those that each part's gate is fitted on, and a stamp."""
    sheet, rule, whole = (
        read_mask_counts(run),
        read_mask_rule(run.cuts_file),
        cross_fitted_masks(run),
    )
    at = match_ids(sheet.ids, ids)
    lost = [repr(key) for key, row in zip(ids, at, strict=True) if row == ABSENT]
    more = [repr(key) for key in sorted(set(sheet.ids) - set(ids))]
    if lost or more:
        raise AlignmentError(
            f"{run.folder} held out other images than {first.folder}: it lacks {len(lost)} "
            f"({shorten(lost, 3)}), and {len(more)} are its own ({shorten(more, 3)}). Expected "
            "runs that were trained on one table."
        )
    masks, count = take_masks(whole, at), int(parts.max()) + 1
    numbers = np.unique(sheet.folds, return_inverse=True)[1][at]
    if len(rule.part_cuts) == count and (numbers == parts).all():
        kind = run.member(run.members[0]).recipe().masks.cut
        bench = cut_others(rule, take_counts(sheet.counts, at), parts, kind=kind)
        return masks, bench, ""
    apart = f"OPTIMISTIC: {run.folder} has other folds than {first.folder}; a gate may know a part"
    other = len(np.unique(sheet.folds)) > 1 and not (numbers == parts).all()
    return masks, [masks] * count, f"{apart} through cuts that were chosen on it" if other else ""


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
