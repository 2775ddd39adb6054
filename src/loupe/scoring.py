"""From finished folds to the out-of-fold sheet, its rule, its scores and what to do next.

It must not train, or compute a metric by itself.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loupe.deciding import (
    Decision,
    apply_part_rules,
    decide_evidence,
    write_decision,
)
from loupe.errors import AlignmentError, InputError
from loupe.evidence import Evidence, make_evidence
from loupe.files import replacing, write_json, write_text
from loupe.intervals import Score, score
from loupe.predictions import (
    Predictions,
    append_quarantined,
    read_predictions,
    write_predictions,
)
from loupe.records import append_event
from loupe.runs import Run
from loupe.table import Float32, Int16, Table


def read_scores(run: Run, member: str = "all") -> tuple[Score, ...]:
    """Read the scores of a finished run.

    Args:
        run: Finished.
        member: A member's name, or `all` for the mean of all members.
    """
    found = json.loads(run.scores_file.read_text(encoding="utf-8"))["scores"][member]
    return tuple(Score(**_with_nan(entry)) for entry in found)


def finish_run(run: Run, table: Table, seconds: float) -> None:
    """Join the folds into one sheet in table order, score it, say what is next."""
    rows = np.flatnonzero(_folds(table) >= 0)
    members = {name: _join_folds(run, table, name, rows) for name in run.members}
    marked = {name: append_quarantined(sheet, table) for name, sheet in members.items()}
    padding = np.full((len(table.quarantined), len(table.classes)), np.nan, np.float32)
    with replacing(run.oof_file) as temporary:
        write_predictions(temporary, marked, np.concatenate([table.targets[rows], padding]))
    evidence = make_evidence(
        table.targets[rows],
        [sheet.probs for sheet in members.values()],
        exclusive=table.exclusive,
        classes=table.classes,
        ids=[table.ids[row] for row in rows],
        folds=_folds(table)[rows],
        groups=None if table.groups is None else [table.groups[row] for row in rows],
    )
    write_text(run.instructions_file, write_instructions(run, table))
    _write_scores(run, replace(evidence, stamps=tuple(run.manifest()["stamps"])), seconds)


def finish_blend(run: Run, evidence: Evidence) -> None:
    """Write what a blend predicted of held-out rows, its rule, its scores, what is next.

    Args:
        run: From `create_blend`.
        evidence: A member a source, with the weights of the blend.
    """
    table = run.table()
    folds = np.array([int(name) for name in evidence.part_names], np.int16)[evidence.parts]
    sheets = {
        name: Predictions(
            ids=evidence.ids,
            classes=evidence.classes,
            probs=probs,
            exclusive=evidence.exclusive,
            held_out=np.ones(len(evidence), np.bool_),
            folds=folds,
        )
        for name, probs in zip(run.members, evidence.members, strict=True)
    }
    with replacing(run.oof_file) as temporary:
        write_predictions(temporary, sheets, evidence.targets)
    write_text(run.instructions_file, write_instructions(run, table))
    _write_scores(run, evidence, 0.0)


def _write_scores(run: Run, evidence: Evidence, seconds: float) -> None:
    """Fit the rule that `predict` follows, and score it cross-fitted; `scores.json` comes last."""
    decision = decide_evidence(evidence)
    write_decision(decision, run.rule_file, source=str(run.folder))
    scores = {"all": decision.scores}
    if len(run.members) > 1:
        scores |= {
            name: _score_member(evidence, probs)
            for name, probs in zip(run.members, evidence.members, strict=True)
        }
    append_event(run.log, "finish", seconds=round(seconds, 1))
    values = {
        "stamps": evidence.stamps,
        "seconds": round(seconds, 1),
        "folds": _score_folds(evidence, decision),
        "scores": {name: [asdict(each) for each in found] for name, found in scores.items()},
    }
    write_json(run.scores_file, values)


def finish_refit(run: Run, table: Table, source: Run, seconds: float) -> None:
    """Give a run that was trained on all rows the scores and the rule of its source.

    Nothing was held out, so nothing can be measured: what is known of it is what
    cross-validation measured of the same recipes on parts of the rows.

    Args:
        run: Trained on all rows.
        table: What it was trained on.
        source: The cross-validated run.
        seconds: How long training took.
    """
    if source.rule_file.is_file():
        write_text(run.rule_file, source.rule_file.read_text(encoding="utf-8"))
    write_text(run.instructions_file, write_instructions(run, table))
    append_event(run.log, "finish", seconds=round(seconds, 1))
    found = json.loads(source.scores_file.read_text(encoding="utf-8"))
    inherited = {key: found[key] for key in ("folds", "scores")}
    stamps = run.manifest()["stamps"]
    write_json(run.scores_file, {"stamps": stamps, "seconds": round(seconds, 1), **inherited})


def _join_folds(run: Run, table: Table, name: str, rows: NDArray[np.intp]) -> Predictions:
    folds = _folds(table)
    at = {key: row for row, key in enumerate(table.ids)}
    probs = np.full((len(table), len(table.classes)), np.nan, np.float32)
    for fold in run.folds:
        sheet = read_predictions(run.member(name).fold(fold).predictions)[name]
        places = np.array([at.get(key, -1) for key in sheet.ids], np.intp)
        if sorted(places) != np.flatnonzero(folds == fold).tolist():
            raise AlignmentError(
                f"{run.member(name).fold(fold).predictions} holds other rows than fold {fold} of "
                "the table. Delete that fold's folder and run the same command again."
            )
        probs[places] = sheet.probs
    return Predictions(
        ids=tuple(table.ids[row] for row in rows),
        classes=table.classes,
        probs=probs[rows],
        exclusive=table.exclusive,
        held_out=np.ones(len(rows), np.bool_),
        folds=folds[rows],
    )


def _score_member(evidence: Evidence, probs: Float32) -> tuple[Score, ...]:
    """Score one member by itself, decided plainly: it has no rule of its own."""
    return score(
        evidence.targets,
        probs,
        exclusive=evidence.exclusive,
        classes=evidence.classes,
        folds=None if evidence.dealt else evidence.parts,
        groups=evidence.groups,
    )


def _score_folds(evidence: Evidence, decision: Decision) -> dict[str, dict[str, float]]:
    """Overall metrics of each fold by itself, without intervals; {} of a single one."""
    held = apply_part_rules(evidence, decision.part_rules)
    found: dict[str, dict[str, float]] = {}
    if evidence.dealt:
        return found
    for part, name in enumerate(evidence.part_names):
        mine = evidence.parts == part
        scores = score(
            evidence.targets[mine],
            held.probs[mine],
            exclusive=evidence.exclusive,
            classes=evidence.classes,
            decisions=held.decisions[mine],
            resamples=0,
        )
        found[name] = {s.metric: s.value for s in scores if not s.class_name}
    return found


def write_instructions(run: Run, table: Table) -> str:
    """Return the commands that use a finished run.

    Args:
        run: The run.
        table: What it was trained on.
    """
    place = shlex.quote(str(run.folder))
    if run.blend is not None and any(source.file for source in run.blend.sources):
        return (
            "blend new predictions: loupe blend NEW_A NEW_B --weights "
            f"{','.join(f'{weight:.6g}' for weight in run.blend.weights)} --out new.csv\n"
            f"choose thresholds:     loupe decide {place} "
            f"{'--precision 0.99' if table.exclusive else '--recall 0.95'}\n"
            "score new predictions: loupe score new.csv TABLE --rule "
            f"{shlex.quote(str(run.rule_file))} --held-out\n"
            f"scores:                {run.scores_file}\n"
        )
    # A classifier cannot fill a column of masks.
    own_form = table.layout.name != "memory" and not table.layout.name.startswith("rle")
    goal = "--precision 0.99" if table.exclusive else "--recall 0.95"
    submission = f"loupe predict {place} TABLE --out submission.csv --format submission"
    return (
        f"read all about it:    loupe report {place}\n"
        f"predict new images:   loupe predict {place} IMAGES --out predictions.csv\n"
        f"as probabilities:     loupe predict {place} IMAGES --out probabilities.csv "
        "--format probabilities\n"
        + (f"in the table's form:  {submission}\n" if own_form else "")
        + ("" if run.refit else f"choose thresholds:    loupe decide {place} {goal}\n")
        + ("" if run.refit else f"find wrong labels:    loupe audit {place}\n")
        + ("" if run.refit else f"out-of-fold sheet:    {run.oof_file}\n")
        + f"scores:               {run.scores_file}\n"
    )


def _with_nan(values: dict[str, Any]) -> dict[str, Any]:
    return {k: float("nan") if v is None else v for k, v in values.items()}


def _folds(table: Table) -> Int16:
    if table.folds is None:
        raise InputError("the table has no folds.")
    return table.folds
