"""The verbs `decide`, `blend` and `compare`: on runs, or on predictions of any origin.

They gather held-out rows, call one pure function and write what came of it. They must
not fit or measure anything themselves.

Shapes: M members, N rows, C classes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from loupe.blended import Blended, Source
from loupe.blending import Blend, Method, choose_weights, fixed_weights
from loupe.comparing import Comparison, compare_sheets
from loupe.deciding import (
    Decision,
    apply_part_rules,
    decide_evidence,
    write_decision,
)
from loupe.errors import AlignmentError, InputError, shorten
from loupe.evidence import Evidence, Rows, digest_evidence, held_out_probs
from loupe.goals import ARGMAX, AUTO, Request
from loupe.heldout import gather_evidence, open_source
from loupe.maskcomparing import compare_masks, find_drawing
from loupe.matching import note_unshared, refuse_other_folds, refuse_other_targets, share_rows
from loupe.predictions import average_sheets
from loupe.proving import add_proof, name_cause, prove_evidence, read_origins, split_parts
from loupe.rules import Rule, apply_rule, load_rule_file, plain_rule, read_part_rules
from loupe.runs import Run, create_blend, open_run
from loupe.scoring import finish_blend
from loupe.sheetfiles import align_sheet, read_sheet_file, write_sheet_file
from loupe.table import Table
from loupe.thresholds import read_goal
from loupe.weighting import Bool, Floats

PathLike = str | Path


def decide(
    source: PathLike | Run,
    table: Table | None = None,
    *,
    goals: Mapping[str, str] | str = "",
    calibration: str = "auto",
    coverage: float | None = None,
    pool: str = "",
    out: PathLike | None = None,
    held_out: bool = False,
    allow_leak: bool = False,
    group: str = "",
    resamples: int = 1000,
    seed: int = 0,
) -> Decision:
    """Fit the rule that turns probabilities into decisions, and say what it is worth.

    Calibration and thresholds are fitted on held-out rows. Scores are cross-fitted: each
    fold is decided by a rule that was fitted without it.

    Args:
        source: A finished run or blend, or a predictions file (CSV or Parquet: `id`, maybe
            `fold` and `held_out`, a column a class).
        table: The targets; needed for a predictions file.
        goals: One goal for all classes, or class name to goal ("" for the others): "f1",
            "f2", "recall:0.94", "precision:0.9", "cost:10" (a miss costs ten false alarms),
            "fixed:0.3". Exclusive classes: "argmax", "precision:0.99" (reject rows until so
            many of the others are right), "fixed:0.6". Default: "auto" (the largest F1 where
            it beats a threshold of 0.5 beyond doubt, else 0.5), or "argmax".
        calibration: "auto" (what cross-fitting favours, or none), "none", "temperature",
            "platt" or "isotonic".
        coverage: In (0, 1): send rows to a person whose prediction set at this coverage is
            not one answer.
        pool: "mean", "max" or "auto" decides each group of the table once, "" each row.
        out: Where to write; `rule.json` in the run, or beside the predictions file.
        held_out: All rows of a predictions file were held out, though it does not say so.
        allow_leak: Go on where rows were not held out; everything is stamped.
        group: As for `split`; "" takes the groups of a run, and looks for copies otherwise.
        resamples: Bootstrap resamples of every interval.
        seed: Of the bootstrap.

    Returns:
        The rule and its worth; also written to `out`.

    Raises:
        LeakageError: rows were not held out, or groups or labels leak across folds.
        InputError: a goal does not suit, or predictions cannot be used.
    """
    wanted = {"": goals} if isinstance(goals, str) else dict(goals)
    for text in wanted.values():
        if text and text not in (ARGMAX, AUTO):
            read_goal(text)  # refused now, rather than after copies were looked for
    evidence = gather_evidence(
        [_folder(source)], table, held_out=held_out, allow_leak=allow_leak, group=group
    )
    request = Request(
        goals={name: goal for name, goal in wanted.items() if goal},
        calibration=calibration,
        coverage=coverage,
        pool=pool,
    )
    decision = decide_evidence(evidence, request, resamples=resamples, seed=seed)
    path = place_rule(_folder(source)) if out is None else Path(out)
    write_decision(decision, path, source=str(_folder(source).absolute()))
    run = open_source(_folder(source))
    if run is None or len(run.folds) < 2 or not has_networks(run.folder):
        return decision
    steadier = (
        f"new images get the mean of {len(run.folds)} folds, these rows had one fold each: the "
        "mean is steadier, so recall and precision move a little; 'loupe score' on labelled new "
        "rows tells"
    )
    return replace(decision, notes=(*decision.notes, steadier))


def blend(
    sources: Sequence[PathLike],
    table: Table | None = None,
    *,
    out: PathLike,
    method: Method = "auto",
    weights: Sequence[float] | None = None,
    metric: str = "log_loss",
    held_out: bool = False,
    allow_leak: bool = False,
    group: str = "",
    seed: int = 0,
) -> Run:
    """Blend runs or predictions files: fit weights on held-out rows, score cross-fitted.

    The result is a run folder whose networks stay where they are; `predict`, `decide`,
    `score` and `compare` take it like any other. Of predictions files it can be decided
    and compared, but it has no networks to predict images with.

    Args:
        sources: Two or more runs or predictions files; or one run, whose members are blended.
        table: The targets; needed if all sources are files.
        out: Folder of the blend; an earlier blend there is replaced.
        method: "auto" (fitted weights if they beat the plain mean significantly, else the
            mean), "mean", "simplex" or "greedy".
        weights: By hand, one for each source, as 0.8 and 0.2; nothing is fitted then.
        metric: What fitted weights are to be good at; any overall metric.
        held_out: All rows of predictions files were held out, though they do not say so.
        allow_leak: Go on where rows were not held out; everything is stamped.
        group: As for `decide`.
        seed: Of the bootstrap.

    Raises:
        LeakageError: rows were not held out, or groups or labels leak across folds.
        AlignmentError: the sources predicted other rows or classes.
        InputError: weights, method or metric are not valid.
    """
    folders = [_folder(source) for source in sources]
    _refuse_itself(Path(out), folders)
    evidence = gather_evidence(
        folders, table, held_out=held_out, allow_leak=allow_leak, group=group, split=True
    )
    evidence = replace(evidence, part_weights=None)
    if weights is None:
        fitted = choose_weights(evidence, method=method, metric=metric, seed=seed)
    else:
        fitted = fixed_weights(weights, evidence)
    return _write_blend(Path(out), folders, evidence, fitted, table)


def compare(
    a: PathLike | Run,
    b: PathLike | Run,
    table: Table | None = None,
    *,
    metric: str = "",
    held_out: bool = False,
    allow_leak: bool = False,
    group: str = "",
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compare two runs or predictions files on the rows that both held out.

    Each is decided by its own rule, cross-fitted, where both have one for the same goals
    that was fitted on these very rows; else both plainly. The notes say which. Two runs
    that draw masks are compared by these, see `maskcomparing.compare_masks`.

    Where `b` was trained on a cleaned table (`relabel`) and `a` on the table before, the
    comparison is a proof that cleaning helped or did not, see `proving`: its sections are
    after minus before. A table turns this off: its labels then count for both.

    Args:
        a: A run, a blend or a predictions file; the one before cleaning first.
        b: Another.
        table: The targets; needed if both are files, else those of a run serve both.
        metric: The overall score that decides; "" for accuracy, average precision where
            classes stand alone, or the mean Dice of masks.
        held_out: All rows of predictions files were held out, though they do not say so.
        allow_leak: Go on where rows were not held out.
        group: As for `decide`.
        resamples: Bootstrap resamples.
        seed: Of the bootstrap.

    Raises:
        AlignmentError: no row is shared, or targets or classes of shared rows differ; or
            the folds, in a proof.
        LeakageError: rows were not held out.
        RunError: one draws masks and the other does not.
    """
    places = (_folder(a), _folder(b))
    names = (places[0].name, places[1].name) if places[0].name != places[1].name else ("A", "B")
    runs = [open_source(place) for place in places]
    drawing = find_drawing(places, runs, table)
    if drawing is not None:
        return compare_masks(
            *drawing,
            names=names,
            metric=metric,
            allow_leak=allow_leak,
            group=group,
            resamples=resamples,
            seed=seed,
        )
    truth = table or next((run.table() for run in runs if run is not None), None)
    first, second = (
        gather_evidence(
            [place],
            truth if run is None else table,
            held_out=held_out,
            allow_leak=allow_leak,
            group=group,
        )
        for place, run in zip(places, runs, strict=True)
    )
    pair = (first, second)
    rows = mine, _ = share_rows(*pair, places)
    tables = [run.table() if run and table is None else None for run in runs]
    origins = read_origins(tables, [first.ids[row] for row in mine])
    (refuse_other_targets if origins is None else refuse_other_folds)(*pair, rows, places)
    probs, decided, ways = _decide_both(pair, rows, places)
    comparison = compare_sheets(
        first.targets[mine],
        *probs,
        *decided,
        first.groups[mine],
        exclusive=first.exclusive,
        classes=first.classes,
        metric=metric,
        names=names,
        resamples=resamples,
        seed=seed,
    )
    comparison = replace(
        comparison,
        stamps=tuple(dict.fromkeys((*first.stamps, *second.stamps))),
        notes=tuple(dict.fromkeys((*first.notes, *second.notes)))
        + note_unshared(places, (len(first), len(second)), len(mine))
        + ways,
    )
    if origins is None:
        return comparison
    proof = prove_evidence(
        pair, rows, probs, decided, split_parts(origins),
        metric=metric,
        cause=name_cause([run.manifest() for run in runs if run is not None]),
        resamples=resamples,
        seed=seed,
    )  # fmt: skip
    return add_proof(comparison, proof)


def mix_files(sources: Sequence[PathLike], out: PathLike, weights: Sequence[float] | None) -> None:
    """Write the mean of predictions files that have no targets: of new images.

    Args:
        sources: Predictions files of the same ids, in any order.
        out: A CSV or Parquet file.
        weights: One for each file, summing to 1; equal if None.

    Raises:
        AlignmentError: the files have other ids or classes.
        InputError: weights are not valid, or `out` is one of the files.
    """
    _refuse_itself(Path(out), [Path(source) for source in sources])
    if weights is not None and (
        len(weights) != len(sources) or min(weights) < 0 or abs(sum(weights) - 1) > 1e-6
    ):
        raise InputError(
            f"weights are {shorten(weights)}; expected {len(sources)} number(s), none below 0, "
            "summing to 1: one for each file."
        )
    sheets = [read_sheet_file(Path(source)) for source in sources]
    first = sheets[0]
    for place, sheet in zip(sources, sheets, strict=True):
        # Both ways: a shorter first file must not make the answer shorter.
        align_sheet(first, sheet.ids)
        odd = set(sheet.classes) ^ set(first.classes)
        if odd:
            raise AlignmentError(
                f"{place} and {sources[0]} differ in the classes {shorten(sorted(odd))}; expected "
                "the same in every file."
            )
    aligned = [align_sheet(sheet, first.ids) for sheet in sheets]
    write_sheet_file(Path(out), average_sheets(aligned, weights))


def has_networks(source: Path) -> bool:
    """Tell whether images can be predicted by what the user named.

    Args:
        source: A run, a blend or a predictions file.
    """
    run = open_source(source)
    return run is not None and not (run.blend and any(each.file for each in run.blend.sources))


def place_rule(source: Path) -> Path:
    """Return where the rule of a run or of a predictions file is kept.

    Examples:
        >>> place_rule(Path("night/preds.csv")).as_posix()
        'night/preds.rule.json'
    """
    return source / "rule.json" if source.is_dir() else source.with_suffix(".rule.json")


def _folder(source: PathLike | Run) -> Path:
    return source.folder if isinstance(source, Run) else Path(source)


def _decide_both(
    pair: tuple[Evidence, Evidence], rows: tuple[Rows, Rows], places: tuple[Path, Path]
) -> tuple[tuple[Floats, Floats], tuple[Bool, Bool], tuple[str, ...]]:
    """Decide both sides by their own rules, cross-fitted, or both plainly; and say how.

    Rules for different ends (a recall here, few false alarms there; rejected rows) would
    compare what was asked for, not what is known.
    """
    found = [_find_part_rules(e, place) for e, place in zip(pair, places, strict=True)]
    goals = [tuple(rules[0].goals) if rules else () for rules, _ in found]
    if all(goals) and goals[0] == goals[1]:
        ends = shorten(sorted(set(goals[0])), 4)
        told = f"both are decided by their own rules, cross-fitted: {ends}"
        both = zip(pair, found, strict=True)
        a, b = (apply_part_rules(evidence, rules) for evidence, (rules, _) in both)
    else:
        plain = "argmax" if pair[0].exclusive else "p >= 0.5"
        reasons = [reason for _, reason in found if reason] or ["their rules have other goals"]
        told = f"both are decided plainly ({plain}): {'; '.join(reasons)}"
        rule = plain_rule(pair[0].classes, exclusive=pair[0].exclusive)
        a, b = (apply_rule(rule, held_out_probs(e), classes=e.classes) for e in pair)
    mine, theirs = rows
    probs = (a.probs[mine], b.probs[theirs])
    return probs, (a.decisions[mine], b.decisions[theirs]), (told,)


def _find_part_rules(evidence: Evidence, source: Path) -> tuple[list[Rule], str]:
    """Return the rule of each part, or none and the reason why."""
    path = place_rule(source)
    if not path.is_file():
        return [], f"{source} has no rule"
    rules = read_part_rules(path)
    if any(rule.pool for rule in rules.values()):
        return [], f"the rule of {source} is for groups"
    if load_rule_file(path).get("evidence") != digest_evidence(evidence):
        return [], f"the rule of {source} was fitted on other rows, folds or probabilities"
    return [rules[name] for name in evidence.part_names], ""


def _refuse_itself(out: Path, sources: Sequence[Path]) -> None:
    """Refuse to write a blend over what it is made from."""
    places = {source.resolve() for source in sources}
    waiting = [source for source in sources if source.is_dir()]
    while waiting:
        place = waiting.pop()
        blended = open_run(place).blend
        for each in () if blended is None else blended.sources:
            inner = (place / each.place).resolve()
            if inner not in places and inner.is_dir():
                waiting.append(inner)
            places.add(inner)
    if out.resolve() in places:
        raise InputError(f"{out} is one of the things to blend; choose another --out.")


def _write_blend(
    out: Path, folders: Sequence[Path], evidence: Evidence, fitted: Blend, table: Table | None
) -> Run:
    by_fold = None
    if fitted.part_weights is not None:
        rows = zip(evidence.part_names, fitted.part_weights.tolist(), strict=True)
        by_fold = {name: tuple(weights) for name, weights in rows}
    names, sources = _list_sources(folders, out, len(evidence.members))
    made = Blended(
        sources=sources,
        weights=tuple(fitted.weights.tolist()),
        by_fold=by_fold,
        method=fitted.method,
        metric=fitted.metric,
        verdict=fitted.verdict,
    )
    known = table if table is not None else open_run(next(f for f in folders if f.is_dir())).table()
    run = create_blend(out, _with_groups(known, evidence), names, made, evidence.stamps)
    finish_blend(run, replace(evidence, weights=fitted.weights, part_weights=fitted.part_weights))
    return run


def _with_groups(table: Table, evidence: Evidence) -> Table:
    """Keep the groups that held: copies may have been found that the table does not know."""
    first = np.unique(evidence.groups, return_index=True)[1]
    names = [evidence.ids[row] for row in first]
    own = table.ids if table.groups is None else table.groups
    found = {key: names[group] for key, group in zip(evidence.ids, evidence.groups, strict=True)}
    pairs = zip(table.ids, own, strict=True)
    return replace(table, groups=tuple(found.get(key, group) for key, group in pairs))


def _list_sources(
    folders: Sequence[Path], out: Path, count: int
) -> tuple[list[str], tuple[Source, ...]]:
    """Return a name for each member of a blend, and where it comes from."""
    if len(folders) == 1 and count > 1:
        place = _spell_place(folders[0], out)
        names = list(open_run(folders[0]).members)
        return names, tuple(Source(place=place, member=name) for name in names)
    stems = [folder.name if folder.is_dir() else folder.stem for folder in folders]
    names = [
        stem if stems.count(stem) == 1 else f"{stem}-{number}"
        for number, stem in enumerate(stems, start=1)
    ]
    return names, tuple(
        Source(place=_spell_place(folder, out), file=not folder.is_dir()) for folder in folders
    )


def _spell_place(source: Path, out: Path) -> str:
    """Spell a place from the folder of the blend, so that both can be moved together."""
    try:
        return Path(os.path.relpath(source.resolve(), out.resolve())).as_posix()
    except ValueError:
        # Another drive.
        return source.resolve().as_posix()
