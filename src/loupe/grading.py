"""Grading: the stored rule on rows that were never trained on.

Owns the verb `score`. It must not fit anything; networks are asked only where the
source is a run, so that predictions files are graded without torch.

Shapes: N rows (or groups, where each is decided once), C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loupe.conformal import Coverage, measure_coverage, predict_sets
from loupe.errors import InputError, LeakageError, TableError
from loupe.evidence import digest_rows, number
from loupe.exposure import GroupBy, check_way
from loupe.files import write_json
from loupe.fresh import (
    Fresh,
    Wanted,
    ask_run,
    choose_rows,
    list_unread,
    pool_fresh,
    read_fresh,
)
from loupe.goals import choose_pool
from loupe.heldout import open_source
from loupe.intervals import Score
from loupe.intervals import score as score_sheet
from loupe.metrics import confusion_matrix, to_decisions
from loupe.predictions import Predictions, append_quarantined
from loupe.progress import Reporter, Silent
from loupe.promises import (
    Kept,
    Promise,
    check_thresholds,
    compare_main,
    find_main_score,
    read_main_score,
    tell_thresholds,
)
from loupe.rules import Decided, Pool, Rule, apply_rule, load_rule_file, plain_rule, rule_from_dict
from loupe.runs import Run
from loupe.scoring import read_scores
from loupe.table import Float32, Table

Bool = NDArray[np.bool_]
Float64 = NDArray[np.float64]

SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Graded:
    """What a rule is worth on rows that were never trained on.

    Attributes:
        source: The run or the predictions file.
        rows: How many rows, or groups, the scores rest on.
        classes: (C,) names.
        exclusive: One class a row.
        scores: Every metric with its interval.
        confusion: (C, C) rows by given and by decided class; (2, 2) absent and present for a
            single column; None where several columns stand alone. Without rejected rows.
        pool: How each group was decided once; "" where each row was.
        reviewed: Share that a person should look at, what has no prediction included.
        rejected: Share that got no class, of those with a prediction; 0 if not exclusive.
        coverage: Of the prediction sets; () if the rule has none.
        promise: The main metric beside its cross-fitted value; None where there is none.
        kept: What each threshold brings beside what the rule's report promised of it; () where
            nothing was promised.
        unread: Rows without a prediction, and why.
        notes: What was read and done, for the screen.
        stamps: What must be said beside every score.
        predictions: (N,) calibrated; set-aside rows of the table come last.
        decisions: (N, C) what was decided of them.
        review: (N,) True where a person should look.
    """

    source: str
    rows: int
    classes: tuple[str, ...]
    exclusive: bool
    scores: tuple[Score, ...]
    confusion: Float64 | None
    pool: Pool
    reviewed: float
    rejected: float
    coverage: tuple[Coverage, ...]
    promise: Promise | None
    kept: tuple[Kept, ...]
    unread: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    stamps: tuple[str, ...]
    predictions: Predictions
    decisions: Bool
    review: Bool


def score(
    source: Run | str | Path,
    table: Table,
    *,
    rule: Path | str | Rule | None = None,
    pool: str = "",
    held_out: bool = False,
    allow_leak: bool = False,
    group: GroupBy = "auto",
    device: str = "auto",
    resamples: int = 1000,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> Graded:
    """Score a rule on rows that were never trained on: a hold-out, or a new batch.

    Args:
        source: A run, or a predictions file (CSV or Parquet).
        table: The rows with their targets. If `split` held some apart, only those are scored.
        rule: A rule, or its file; None takes that of the run, or argmax or p >= 0.5.
        pool: "mean" or "max" of the rows of a group decides the group once; "auto" takes
            what the rule was fitted for, else max, or mean if classes are exclusive. ""
            does so only if the rule was fitted by group.
        held_out: All rows of a predictions file were held out, though it does not say so.
        allow_leak: Score rows that were trained on, too; everything is stamped.
        group: "auto" refuses copies of training images, and rows of their groups, and draws
            copies together for the intervals; "given" goes by the table's groups alone,
            without decoding; "none" ignores both, and for a run needs `allow_leak`.
        device: `auto` or a torch device; for a run.
        resamples: Bootstrap resamples of every interval.
        seed: Of the bootstrap.
        reporter: Told of the progress.

    Returns:
        Scores of the rows that have a prediction; the others are listed.

    Raises:
        LeakageError: rows were trained on, or are not said to be held out.
        AlignmentError: the table has a class, or rows, that the source has not.
        TableError: there are no labels, or no groups where each is to be decided once.
        InputError: the rule or an argument cannot be used, or no row has a prediction.
    """
    check_way(group)
    run = source if isinstance(source, Run) else open_source(Path(source))
    where = str(source.folder if isinstance(source, Run) else source)
    chosen, note = choose_rows(table)
    found = _find_rule(rule, run, where, chosen, allow_leak=allow_leak)
    way = _choose_way(pool, found, run, chosen)
    wanted = Wanted(
        where=where,
        table=chosen,
        rule=found.rule,
        group=group,
        allow_leak=allow_leak,
        reporter=reporter or Silent(),
    )
    if run is None:
        fresh = read_fresh(wanted, held_out=held_out)
    else:
        fresh = ask_run(wanted, run, device=device)
    sheet = fresh.sheet
    used = found.rule or plain_rule(sheet.classes, exclusive=sheet.exclusive)
    unread = list_unread(sheet, chosen)
    notes = [note, *found.notes, *_tell_pool(way, found.rule)]
    if unread:
        notes.append(f"{len(unread):,} row(s) have no prediction; the scores leave them out")
    if way:
        fresh = pool_fresh(fresh, chosen.groups or (), way)
    judged = _judge(fresh, used, resamples=resamples, seed=seed)
    promise = _find_promise(judged.scores, found, run, way, exclusive=sheet.exclusive)
    kept = _check_thresholds(judged.scores, found, way)
    # Broken thresholds first: the main metric does not see them.
    notes += [*tell_thresholds(kept), *([promise.verdict] if promise else [])]
    if promise or kept:
        notes += [f"cross-validation: {text}" for text in found.cautions]
    extra = len(chosen.quarantined)
    return Graded(
        source=where,
        rows=judged.rows,
        classes=sheet.classes,
        exclusive=sheet.exclusive,
        scores=judged.scores,
        confusion=judged.confusion,
        pool=way,
        reviewed=float(judged.decided.review.mean()),
        rejected=judged.rejected,
        coverage=judged.coverage,
        promise=promise,
        kept=kept,
        unread=unread,
        notes=(*notes[:1], *fresh.notes, *notes[1:]),
        stamps=(*found.stamps, *fresh.stamps),
        predictions=append_quarantined(replace(fresh.sheet, probs=judged.decided.probs), chosen),
        decisions=np.pad(judged.decided.decisions, ((0, extra), (0, 0))),
        review=np.pad(judged.decided.review, (0, extra), constant_values=True),
    )


def write_graded(graded: Graded, path: Path) -> None:
    """Write scores and what must be known of them as JSON, whole or not at all.

    Args:
        graded: From `score`.
        path: The file; in a folder it is called `score.json`. NaN is written as null.
    """
    apart = {"predictions", "decisions", "review"}
    values: dict[str, Any] = {"kind": "score", "schema": SCHEMA}
    for name in Graded.__slots__:
        if name not in apart:
            values[name] = getattr(graded, name)
    values["scores"] = [asdict(each) for each in graded.scores]
    values["coverage"] = [asdict(each) for each in graded.coverage]
    values["promise"] = None if graded.promise is None else asdict(graded.promise)
    values["kept"] = [asdict(each) for each in graded.kept]
    values["confusion"] = None if graded.confusion is None else graded.confusion.tolist()
    write_json(path / "score.json" if path.is_dir() else path, values)


@dataclass(frozen=True, slots=True)
class _Found:
    """A rule, or None for none, and what is known of it."""

    rule: Rule | None
    report: Mapping[str, Any] | None = None
    cautions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    stamps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    rows: int
    decided: Decided
    scores: tuple[Score, ...]
    confusion: Float64 | None
    rejected: float
    coverage: tuple[Coverage, ...]


def _find_rule(
    given: Path | str | Rule | None,
    run: Run | None,
    where: str,
    table: Table,
    *,
    allow_leak: bool,
) -> _Found:
    """Return the given rule, or that of the run, with what it promised."""
    if isinstance(given, Rule):
        return _Found(given)
    path = None if given is None else Path(given)
    if path is None and run is not None and run.rule_file.is_file():
        path = run.rule_file
    if path is None:
        note = "no fitted rule: decided by argmax, or p >= 0.5; 'loupe decide' fits one"
        return _Found(None, notes=(note,))
    values = load_rule_file(path)
    parts = (values.get("report"), values.get("origin"))
    report, origin = (part if isinstance(part, dict) else {} for part in parts)
    stamps: tuple[str, ...] = ()
    fitted_on = str(origin.get("source", ""))
    same = bool(fitted_on) and Path(fitted_on).resolve() == Path(where).resolve()
    # Wherever they came from: a blend, a copy of the file, another folder.
    labels = digest_rows(table.ids, table.classes, table.targets)
    if run is None and (same or values.get("labels") == labels):
        text = f"{path} was fitted on these very rows"
        if not allow_leak:
            raise LeakageError(
                f"{text}; what it was fitted to it will hit. Expected other rows; 'loupe decide' "
                "already said what the rule is worth, cross-fitted. Say --allow-leak to go on."
            )
        stamps = (f"LEAK: {text} (--allow-leak); scores are optimistic",)
    cautions = values.get("stamps")
    return _Found(
        rule=rule_from_dict(values, str(path)),
        report=report,
        cautions=tuple(map(str, cautions)) if isinstance(cautions, list) else (),
        stamps=stamps,
    )


def _choose_way(pool: str, found: _Found, run: Run | None, table: Table) -> Pool:
    """Return how groups are decided: as the rule was fitted, unless the user says otherwise."""
    fitted: Pool = found.rule.pool if found.rule is not None else ""
    if pool in ("", "auto") and fitted:
        way: Pool = fitted
    else:
        way = choose_pool(pool, exclusive=pool == "auto" and _know_kind(found, run, table))
    if way and table.groups is None:
        why = "the rule decides each group once" if fitted else "--by-group decides each group once"
        raise TableError(
            f"{why}, but the table has no groups. Name the column that says which rows belong "
            "together: --group-column NAME."
        )
    return way


def _know_kind(found: _Found, run: Run | None, table: Table) -> bool:
    """Tell whether classes are exclusive, before anything is predicted."""
    if found.rule is not None:
        return found.rule.exclusive
    return (table if run is None else run.table()).exclusive


def _tell_pool(way: Pool, rule: Rule | None) -> tuple[str, ...]:
    """Say where groups are decided by a rule that was fitted for something else."""
    if rule is None or rule.pool == way:
        return ()
    fitted = f"the {rule.pool} of each group" if rule.pool else "single rows"
    text = (
        f"the rule was fitted for {fitted}, but is applied to the {way} of each group; 'loupe "
        f"decide --by-group {way}' fits it for that"
    )
    return (text,)


def _judge(fresh: Fresh, rule: Rule, *, resamples: int, seed: int) -> _Judged:
    """Decide, and score what has a prediction."""
    sheet, exclusive = fresh.sheet, fresh.sheet.exclusive
    # Without groups: where the rule pools, these rows are groups already.
    decided = apply_rule(rule, sheet.probs, classes=sheet.classes)
    rows = np.flatnonzero(sheet.readable)
    if not len(rows):
        raise InputError(
            f"none of the {len(sheet):,} rows has a prediction, so nothing can be scored; the "
            f"first: {(sheet.errors or ('not predicted',))[0]}."
        )
    targets, probs, decisions = fresh.targets[rows], decided.probs[rows], decided.decisions[rows]
    groups = None if fresh.groups is None else number(np.asarray(fresh.groups)[rows])
    scores = score_sheet(
        targets,
        probs,
        exclusive=exclusive,
        classes=sheet.classes,
        groups=groups,
        decisions=decisions,
        resamples=resamples,
        seed=seed,
    )
    taken = decisions.any(axis=1)
    confusion = None
    if exclusive or len(sheet.classes) == 1:
        truth = to_decisions(targets, exclusive=exclusive)
        kept = taken if exclusive else np.ones(len(rows), np.bool_)
        # All rows may have been rejected.
        confusion = (
            confusion_matrix(truth[kept], decisions[kept])
            if kept.any()
            else np.zeros((len(sheet.classes),) * 2)
        )
    return _Judged(
        rows=len(rows),
        decided=decided,
        scores=scores,
        confusion=confusion,
        rejected=float(1 - taken.mean()) if exclusive else 0.0,
        coverage=_measure_sets(rule, sheet.classes, targets, probs, groups),
    )


def _measure_sets(
    rule: Rule,
    classes: Sequence[str],
    targets: Float32,
    probs: Float32,
    groups: NDArray[np.intp] | None,
) -> tuple[Coverage, ...]:
    """Measure how often the prediction sets of a rule hold the answer."""
    if rule.conformal is None:
        return ()
    order = [classes.index(name) for name in rule.classes]
    sets = predict_sets(rule.conformal, probs[:, order], exclusive=rule.exclusive)
    return measure_coverage(
        sets,
        targets[:, order],
        np.arange(len(targets)) if groups is None else groups,
        exclusive=rule.exclusive,
        classes=rule.classes,
    )


def _find_promise(
    scores: Sequence[Score], found: _Found, run: Run | None, way: Pool, *, exclusive: bool
) -> Promise | None:
    """Compare the main metric with what cross-validation said of the same rule."""
    if found.report is not None and found.rule is not None and found.rule.pool == way:
        report = found.report
        return compare_main(scores, lambda m: read_main_score(report, m), exclusive=exclusive)
    if found.rule is None and run is not None and run.finished and not way:
        known = read_scores(run)
        return compare_main(scores, lambda m: find_main_score(known, m), exclusive=exclusive)
    return None


def _check_thresholds(scores: Sequence[Score], found: _Found, way: Pool) -> tuple[Kept, ...]:
    """Hold the thresholds to the report of their rule, if it is for the same decisions."""
    if found.report is None or found.rule is None or found.rule.pool != way:
        return ()
    return check_thresholds(scores, found.report, exclusive=found.rule.exclusive)
