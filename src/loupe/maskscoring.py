"""From counted folds to the rule for masks, its scores and what to do next.

It must not train, draw maps, or compute a score by itself.

Shapes: N rows that were held out, C classes, T candidates, K parts.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from loupe.countfiles import CountSheet, read_counts, write_counts
from loupe.dealing import deal, read_groups
from loupe.dices import MAIN, Pairs, dice_per_pair_empty1
from loupe.errors import AlignmentError, RunError, TableError
from loupe.evidence import PARTS, number
from loupe.files import write_json, write_text
from loupe.intervals import Score
from loupe.margins import score_pairs
from loupe.maskcuts import CutMasks, PairCounts, choose_mask_cuts, cut_masks, take_masks
from loupe.maskrules import cut_parts, fit_mask_rule, read_mask_rule, write_mask_rule
from loupe.records import append_event
from loupe.runs import Run
from loupe.table import Int16, Table

Rows = NDArray[np.intp]

_ALONE = (
    "the held-out rows are of one group, so no cut can be fitted and scored apart: masks are cut "
    "at 0.5"
)
_INHERITED = ("folds", "plain_dice", "scores")


class _Parts(NamedTuple):
    """How rows are parted, so that each is cut as others say.

    Attributes:
        numbers: (N,) number of the part of each row.
        names: (K,) of the parts.
        dealt: There is but one fold; the parts say nothing of networks.
    """

    numbers: Rows
    names: tuple[str, ...]
    dealt: bool


def finish_masks(run: Run, table: Table, seconds: float) -> None:
    """Join the counts of all folds, fit how maps become masks, score it, say what is next.

    Scores are of masks that were cut as rows of other folds say. The rows of a single fold
    are dealt to parts by whole groups, so that cuts can be scored on rows they were not
    fitted on.

    Args:
        run: Every fold was counted.
        table: What it was trained on, with folds.
        seconds: How long training took.

    Raises:
        AlignmentError: the counts of a fold are of other rows, classes or candidates.
        RunError: the counts of a fold are not there.
    """
    sheet = _join_folds(run, table)
    write_counts(run.counts_file, sheet)
    parts, groups = _find_parts(sheet, table), _find_groups(sheet, table)
    work = run.member(run.members[0]).recipe().masks
    alone = len(parts.names) < 2
    fitted = fit_mask_rule(
        sheet.counts,
        parts.numbers,
        parts.names,
        classes=sheet.classes,
        kind="fixed" if alone else work.cut,
        size=work.size,
    )
    write_mask_rule(run.cuts_file, fitted.rule)
    write_text(run.instructions_file, write_mask_instructions(run))
    folds = _score_folds(fitted.masks, parts, sheet.classes)
    scores = score_pairs(fitted.masks.pairs, classes=sheet.classes, groups=groups)
    scores = tuple(_add_folds(each, folds) for each in scores)
    notes = [_ALONE] if alone and work.cut != "fixed" else []
    notes += _note_lost(sheet, table)
    scores = tuple(replace(s, note="; ".join(notes)) if s.metric == MAIN else s for s in scores)
    append_event(run.log, "finish", seconds=round(seconds, 1))
    # Comes last: its presence means that all of the above is there.
    values = {
        "stamps": run.manifest()["stamps"],
        "seconds": round(seconds, 1),
        "folds": _list_overall(folds),
        "plain_dice": _score_plain(sheet),
        "scores": {"all": [asdict(each) for each in scores]},
    }
    write_json(run.scores_file, values)


def finish_masks_refit(run: Run, source: Run, table: Table, seconds: float) -> None:
    """Give a run that was trained on all rows the cuts and the scores of its source.

    Nothing was held out, so nothing can be counted: what is known of it is what
    cross-validation measured of the same recipes on parts of the rows.

    Args:
        run: Trained on all rows.
        source: The cross-validated run.
        table: What the run was trained on.
        seconds: How long training took.

    Raises:
        RunError: the source has no cuts or scores, or its classes are not in the table.
    """
    rule = read_mask_rule(source.cuts_file)
    lost = [name for name in rule.classes if name not in table.classes]
    if lost or not source.finished:
        raise RunError(
            f"{source.folder} cannot lend its scores to {run.folder}: "
            f"{f'the table lacks its classes {lost}' if lost else 'it is not finished'}. Expected "
            "a finished run of the same classes."
        )
    write_text(run.cuts_file, source.cuts_file.read_text(encoding="utf-8"))
    write_text(run.instructions_file, write_mask_instructions(run))
    append_event(run.log, "finish", seconds=round(seconds, 1))
    found = json.loads(source.scores_file.read_text(encoding="utf-8"))
    inherited = {key: found[key] for key in _INHERITED}
    stamps = run.manifest()["stamps"]
    write_json(run.scores_file, {"stamps": stamps, "seconds": round(seconds, 1), **inherited})


def read_mask_counts(run: Run) -> CountSheet:
    """Read what the candidates hit and miss in all held-out rows, in the order of the table.

    Args:
        run: Finished; its networks draw masks.

    Raises:
        RunError: the run draws no masks, held nothing out, or is not finished.
    """
    if not run.segments:
        raise RunError(
            f"{run.folder} draws no masks: its networks name classes. Expected a run whose recipe "
            "has a 'decoder'."
        )
    if run.refit:
        raise RunError(
            f"{run.folder} was trained on all rows, so nothing of it was counted; the counts are "
            f"in {run.manifest()['refit_of']}."
        )
    if not run.counts_file.is_file():
        raise RunError(
            f"{run.folder} has no counts of masks yet: training has not finished. Run the same "
            "'loupe train' command again to continue it."
        )
    return read_counts(run.counts_file)


def cross_fitted_masks(run: Run) -> CutMasks:
    """Return the mask of each held-out row, by the cuts that were chosen without its part.

    Args:
        run: Finished; its networks draw masks.

    Returns:
        Rows and classes as in `read_mask_counts`.

    Raises:
        RunError: as `read_mask_counts`, or the run has no cuts.
    """
    sheet, rule = read_mask_counts(run), read_mask_rule(run.cuts_file)
    parts = _find_parts(sheet, run.table())
    known = rule.part_names in {(), parts.names}
    if rule.classes != sheet.classes or not known:
        raise RunError(
            f"{run.cuts_file} is of the classes {list(rule.classes)} and parts "
            f"{list(rule.part_names)}, but {run.counts_file} is of {list(sheet.classes)} and "
            f"{list(parts.names)}. Delete {run.scores_file} and run the same 'loupe train' command "
            "again."
        )
    return cut_parts(rule, sheet.counts, parts.numbers)


def write_mask_instructions(run: Run) -> str:
    """Return the commands that use a finished run that draws masks.

    Args:
        run: The run.
    """
    place = shlex.quote(str(run.folder))
    return (
        f"read all about it:    loupe report {place}\n"
        f"segment new images:   loupe segment {place} IMAGES --out masks.csv\n"
        f"in a sample's form:   loupe segment {place} IMAGES --like sample_submission.csv "
        "--out submission.csv\n"
        "score masks:          loupe score masks.csv TABLE\n"
        f"after classifiers:    write 'masks: {{run: {run.folder}}}' into CASCADE.yaml, then loupe "
        "cascade CASCADE.yaml IMAGES --out submission.csv\n"
        + ("" if run.refit else f"find odd masks:       loupe audit {place}\n")
        + ("" if run.refit else f"held-out counts:      {run.counts_file}\n")
        + f"how maps are cut:     {run.cuts_file}\n"
        f"scores:               {run.scores_file}\n"
    )


def _join_folds(run: Run, table: Table) -> CountSheet:
    """Put the counts of all folds together, in the order of the table."""
    folds = _folds(table)
    at = {key: row for row, key in enumerate(table.ids)}
    sheets = [read_counts(run.fold_counts(fold)) for fold in run.folds]
    places = [np.array([at.get(key, -1) for key in sheet.ids], np.intp) for sheet in sheets]
    wrong = [
        f"{run.fold_counts(fold)} holds {fault}"
        for fold, sheet, rows in zip(run.folds, sheets, places, strict=True)
        if (fault := _find_fault(sheet, sheets[0], rows, np.flatnonzero(folds == fold)))
    ]
    if wrong:
        raise AlignmentError(
            f"counts of masks do not fit together: {'; '.join(wrong)}. Delete these files and run "
            "the same 'loupe train' command again."
        )
    rows = np.concatenate(places)
    order = np.argsort(rows, kind="stable")
    return CountSheet(
        ids=tuple(table.ids[row] for row in rows[order]),
        classes=sheets[0].classes,
        folds=folds[rows[order]],
        counts=_join_counts([sheet.counts for sheet in sheets], order),
    )


def _find_fault(sheet: CountSheet, first: CountSheet, rows: Rows, held: Rows) -> str:
    """Say what is wrong with the counts of one fold; "" if nothing is."""
    mine, others = sheet.counts, first.counts
    faults = (
        (sorted(rows) != held.tolist(), "other rows than its fold of the table"),
        (sheet.classes != first.classes, f"the classes {list(sheet.classes)}"),
        (mine.candidates != others.candidates, "other candidates than the first fold"),
        (
            [mine.confidences is None, mine.tops is None, mine.presences is None]
            != [others.confidences is None, others.tops is None, others.presences is None],
            "other measures than the first fold",
        ),
    )
    return " and ".join(text for wrong, text in faults if wrong)


def _join_counts(counts: Sequence[PairCounts], order: Rows) -> PairCounts:
    def join(name: str) -> NDArray[Any] | None:
        values = [getattr(each, name) for each in counts]
        return None if values[0] is None else np.concatenate(values)[order]

    return PairCounts(
        candidates=counts[0].candidates,
        counts=np.concatenate([each.counts for each in counts])[order],
        confidences=join("confidences"),
        tops=join("tops"),
        presences=join("presences"),
    )


def _find_parts(sheet: CountSheet, table: Table) -> _Parts:
    """Part rows by fold; those of one fold are dealt, whole groups, alike each time."""
    folds = np.unique(sheet.folds)
    if len(folds) > 1:
        return _Parts(number(sheet.folds), tuple(str(fold) for fold in folds), dealt=False)
    truth = (sheet.counts.counts[:, :, 0, 0] + sheet.counts.counts[:, :, 0, 2]) > 0
    groups = _find_groups(sheet, table)
    labels = truth.astype(np.float32)
    dealt = read_groups(labels, groups, ids=sheet.ids, classes=sheet.classes)
    count = min(PARTS, len(dealt.names))
    shares = np.full(count, 1 / count)
    index = deal(dealt, shares, stratify=True, shuffle=True, salt="parts").astype(np.intp)
    return _Parts(index, tuple(str(part) for part in range(count)), dealt=True)


def _find_groups(sheet: CountSheet, table: Table) -> list[str] | None:
    if table.groups is None:
        return None
    known = dict(zip(table.ids, table.groups, strict=True))
    return [known[key] for key in sheet.ids]


def _score_folds(
    masks: CutMasks, parts: _Parts, classes: Sequence[str]
) -> dict[str, tuple[Score, ...]]:
    """Score each fold by itself, without intervals; {} of a single one."""
    if parts.dealt:
        return {}
    return {
        name: score_pairs(
            take_masks(masks, np.flatnonzero(parts.numbers == part)).pairs,
            classes=classes,
            resamples=0,
        )
        for part, name in enumerate(parts.names)
    }


def _list_overall(folds: dict[str, tuple[Score, ...]]) -> dict[str, dict[str, float]]:
    return {
        name: {each.metric: each.value for each in scores if not each.class_name}
        for name, scores in folds.items()
    }


def _add_folds(score: Score, folds: dict[str, tuple[Score, ...]]) -> Score:
    """Give a score its mean and deviation over the folds on which it is defined."""
    values = [
        each.value
        for scores in folds.values()
        for each in scores
        if (each.metric, each.class_name) == (score.metric, score.class_name)
        and not math.isnan(each.value)
    ]
    mean = float(np.mean(values)) if values else math.nan
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return replace(score, fold_mean=mean, fold_std=spread)


def _note_lost(sheet: CountSheet, table: Table) -> list[str]:
    """Say how many given masks have no pixel at the size where masks are scored."""
    if table.masks is None:
        return []
    texts = dict(zip(table.ids, table.masks, strict=True))
    columns = [table.classes.index(name) for name in sheet.classes]
    given = np.array([[bool(texts[key][k]) for k in columns] for key in sheet.ids])
    areas = sheet.counts.counts[:, :, 0]
    lost = int((given & (areas[..., 0] + areas[..., 2] == 0)).sum())
    if not lost:
        return []
    return [f"{lost:,} given mask(s) have no pixel at the size of the scores and count as empty"]


def _score_plain(sheet: CountSheet) -> dict[str, Any]:
    """Return the mean Dice of masks cut at 0.5, which nothing was fitted for."""
    pairs: Pairs = cut_masks(sheet.counts, choose_mask_cuts(sheet.counts, "fixed")).pairs
    found = dice_per_pair_empty1(pairs)
    by_class = zip(sheet.classes, found.classes.tolist(), strict=True)
    return {"overall": float(found.overall), "classes": dict(by_class)}


def _folds(table: Table) -> Int16:
    if table.folds is None:
        raise TableError("the table has no folds, so no masks of held-out rows can be scored.")
    return table.folds
