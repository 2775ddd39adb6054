"""Variants: what each way through a cascade is worth on held-out rows, without predicting any.

Owns the held-out rows of all runs of a cascade side by side, and which masks each choice of
stages lets through. Cuts, rules and gates of a row are those fitted without its part, and
new images are drawn by what is measured here. It must not open images or networks, nor measure
by itself (that is `gatetrials`).

Shapes: N held-out rows, C classes, K parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from loupe.aligning import ABSENT, guess_difference, match_ids
from loupe.cascades import (
    Cascade,
    PresenceStage,
    StageName,
    StageRuns,
    choose_stages,
    open_runs,
    read_cascade,
)
from loupe.dices import Pairs, keep_pairs
from loupe.errors import AlignmentError, shorten
from loupe.gatefits import FittedGate, GateKind, apply_gate, fit_gate, list_gates
from loupe.gates import keep_likeliest
from loupe.gatetrials import SIMPLE, GateTrial, rate_trials
from loupe.heldmasks import (
    HeldMasks,
    cut_open,
    cut_present,
    find_measured,
    gather_held_masks,
    nest_present,
)
from loupe.maskcuts import CutMasks, take_masks
from loupe.maskrules import MaskRule
from loupe.presence import Cut, ask, find_cut, open_source, read_cut
from loupe.runs import Run
from loupe.stagetimes import Reach, may_pass, measure_reach, open_likeliest
from loupe.weighting import Bool

Float32 = NDArray[np.float32]
Int16 = NDArray[np.int16]
Rows = NDArray[np.intp]

UNGATED = "masks"
"""Name of the variant that all others are compared with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variants:
    """All variants side by side, on held-out rows.

    Attributes:
        trials: All classes together first, then class by class; the variants in the same order:
            "masks" (nothing gates), "empty" (no mask at all), the choices of stages that the
            cascade can make, and "fitted" gates in their place. Differences are to "masks".
        best: The variant that the evidence carries for all classes together; "masks" if none.
        best_by_class: (C,) the same for each class by itself.
        reach: What reaches each stage of each variant.
        classes: (C,) names.
        rows: How many images were held out.
        notes: What was read and assumed.
        stamps: What must be said beside every score.
    """

    trials: tuple[GateTrial, ...]
    best: str
    best_by_class: tuple[str, ...]
    reach: tuple[Reach, ...]
    classes: tuple[str, ...]
    rows: int
    notes: tuple[str, ...] = ()
    stamps: tuple[str, ...] = ()


class FittedStage(NamedTuple):
    """What new images are drawn by behind classifiers, fitted on all held-out rows.

    Attributes:
        gate: The gate; its classes are those of the masks. None where stages decide hard.
        rules: How maps become masks behind the stages: one for each run of masks; () where
            nothing tells, and each run's own is to be taken.
        notes: What they were fitted on.
        stamps: What must be said beside every score of what they let through.
    """

    gate: FittedGate | None
    rules: tuple[MaskRule, ...]
    notes: tuple[str, ...]
    stamps: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Heard:
    """What one run of classifiers says of held-out rows, each (N, C).

    `there` is True also where nothing is known; `probs` are calibrated by the rule that
    decides, `raw` as the networks gave them: what gates are fitted on.
    """

    there: Bool
    probs: Float32
    raw: Float32
    notes: tuple[str, ...]
    stamps: tuple[str, ...]


class _Way(NamedTuple):
    """The (N, C) masks of one way, and the pairs that are open when each stage looks."""

    pairs: Pairs
    seen: dict[StageName, Bool]


class _Present(NamedTuple):
    """Masks behind a fitted gate, and for each part those that its gate is fitted on."""

    masks: CutMasks
    nested: tuple[CutMasks, ...]


def try_variants(
    source: Cascade | Mapping[str, Any] | str | Path, *, resamples: int = 2000, seed: int = 0
) -> Variants:
    """Compare what a cascade can be, on rows that no network, rule, cut or gate was fitted on.

    Compared are the choices of stages ("masks", "binary+masks", "labels+masks" and
    "binary+labels+masks", as far as the cascade has them), met as its `gate` says; empty
    masks; and every gate of `gatefits` fitted to the probabilities of labels alone (of binary,
    without labels). "masks" has the runs' own cuts; behind stages, cuts are fitted for what
    those leave open, and behind a fitted gate for pairs that have a mask (`heldmasks`).
    Nothing is predicted: counts of masks and probabilities are those of the runs' own
    cross-validation. Only what the evidence carries is marked as best, as
    `gatetrials.try_gates` says.

    Args:
        source: A cascade, or its file.
        resamples: Of each bootstrap and test.
        seed: Of both.

    Raises:
        AlignmentError: classes differ, or held-out rows of the masks have no probability.
        RunError: a run is missing, unfinished or of the wrong kind.
        RecipeError: the file is no cascade.
        LeakageError: the probabilities of a run leak.
        InputError: a run has no rule and the cascade no threshold.
    """
    cascade = source if isinstance(source, Cascade) else read_cascade(source)
    runs = open_runs(cascade)
    held, heard = _gather(cascade, runs)
    ways = _list_ways(cascade, held, heard)
    nothing = np.zeros(held.masks.pairs.truth.shape, np.bool_)
    pairs: dict[str, Pairs] = {"none": held.masks.pairs}
    pairs["empty"] = keep_pairs(held.masks.pairs, nothing)
    pairs |= {name: way.pairs for name, way in ways.items() if name != UNGATED}
    found = rate_trials(pairs, held.groups, classes=runs.classes, resamples=resamples, seed=seed)
    trials = tuple(replace(each, name=UNGATED) if each.name == "none" else each for each in found)
    notes, stamps = _tell(held, heard)
    return Variants(
        trials=trials,
        best=_find_best(trials, ""),
        best_by_class=tuple(_find_best(trials, name) for name in runs.classes),
        reach=tuple(
            measure_reach(name, stage, seen)
            for name, way in ways.items()
            for stage, seen in way.seen.items()
        ),
        classes=runs.classes,
        rows=len(held.ids),
        notes=notes,
        stamps=stamps,
    )


def fit_stage(cascade: Cascade) -> FittedStage:
    """Fit what draws new images behind classifiers, on all held-out rows.

    Hard stages: cuts of masks for the pairs that the stages leave open, each row decided
    without its part. A fitted gate: cuts for pairs that have a mask, and the gate on masks cut
    so without their own part; rows that a binary stage before labels closes are left out,
    since their like will never reach it.

    Args:
        cascade: With labels or binary.

    Raises:
        AlignmentError: as `try_variants`; so the other errors.
    """
    held, heard = _gather(cascade, open_runs(cascade))
    notes, stamps = _tell(held, heard)
    if cascade.fitted is None:
        rules = cut_open(held, _decide_hard(cascade, heard)).rules
        told = "masks are cut as is best for what the stages leave open in held-out rows"
        return FittedStage(None, rules, (*notes, told), stamps)
    last, passed = _find_last(cascade, heard)
    recut = cut_present(held)
    gate = fit_gate(cascade.gate, _hide(last.raw, passed), recut.masks)
    told = "masks are cut as is best for held-out pairs that have one; the gate tells presence"
    return FittedStage(gate, recut.rules, (*notes, told), stamps)


def read_stage_cut(stage: PresenceStage) -> Cut:
    """Return what a stage decides by: its rule, its threshold, or the rule of its run.

    Args:
        stage: The stage.

    Raises:
        InputError: there is no rule, or it decides whole groups.
    """
    cut = read_cut(stage.rule, stage.threshold, "stage's")
    return cut if cut.given else find_cut(stage.run, needed=True)


def _gather(cascade: Cascade, runs: StageRuns) -> tuple[HeldMasks, dict[StageName, _Heard]]:
    """Return the held-out masks of a cascade, and what its classifiers say of the same rows."""
    held = gather_held_masks(runs)
    return held, {name: _hear(cascade, name, stage, held, runs) for name, stage in cascade.presence}


def _hear(
    cascade: Cascade, name: StageName, stage: PresenceStage, held: HeldMasks, runs: StageRuns
) -> _Heard:
    """Return what a stage's run says of held-out rows, decided without the fold of each."""
    run, told = find_measured(runs.presence[name])
    cut = Cut() if cascade.fitted is stage else read_stage_cut(stage)
    source = open_source(run, runs.classes, (cut,))
    # A binary run has a class of its own, and says the same of all.
    classes = source.classes if name == "binary" else runs.classes
    at = match_ids(source.ids, held.ids)
    _check_known(held, at, source.ids, run.folder)
    said, raw = ask(source, cut, classes, at), ask(source, Cut(), classes, at).probs
    notes, stamps = _compare_folds(run, held)
    shape = held.masks.pairs.truth.shape
    return _Heard(
        there=np.array(np.broadcast_to(said.there | ~said.asked[:, None], shape), np.bool_),
        probs=np.array(np.broadcast_to(said.probs, shape)),
        raw=np.array(np.broadcast_to(raw, shape)),
        notes=(*told, *source.notes, *said.notes, *notes),
        stamps=(*source.stamps, *said.stamps, *stamps),
    )


def _tell(
    held: HeldMasks, heard: Mapping[StageName, _Heard]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return all notes and stamps, each once."""
    notes = [*held.notes, *(note for each in heard.values() for note in each.notes)]
    stamps = [*held.stamps, *(stamp for each in heard.values() for stamp in each.stamps)]
    return tuple(dict.fromkeys(notes)), tuple(dict.fromkeys(stamps))


def _list_ways(
    cascade: Cascade, held: HeldMasks, heard: Mapping[StageName, _Heard]
) -> dict[str, _Way]:
    """Return every choice of stages, and every gate fitted to one run of probabilities."""
    every = np.ones(held.masks.pairs.truth.shape, np.bool_)
    ways = {UNGATED: _Way(pairs=held.masks.pairs, seen={"masks": every})}
    names = [name for name, _ in cascade.presence]
    if not names:
        return ways
    recut = cut_present(held)
    present = _Present(recut.masks, nest_present(held, recut))
    for count in range(1, len(names) + 1):
        for some in combinations(names, count):
            chosen = choose_stages(cascade, [*some, "masks"])
            ways["+".join(chosen.stages)] = _find_way(chosen, held, heard, present)
    alone = choose_stages(cascade, [names[-1], "masks"])
    for kind in list_gates(present.masks):
        # The cascade's own is there already, under the names of its stages.
        known = alone.fitted is not None and kind == alone.gate and not alone.at_least_one
        if kind not in SIMPLE and not known:
            keep, able = _cross_fit(kind, heard[names[-1]].raw, held, present)
            pairs = keep_pairs(present.masks.pairs, keep)
            ways[f"fitted {kind}"] = _Way(pairs=pairs, seen=_list_seen(alone, able, None))
    return ways


def _find_way(
    cascade: Cascade, held: HeldMasks, heard: Mapping[StageName, _Heard], present: _Present
) -> _Way:
    """Return what one choice of stages lets through."""
    last, passed = _find_last(cascade, heard)
    if cascade.fitted is None:
        kept = _decide_hard(cascade, heard)
        pairs = keep_pairs(cut_open(held, kept).masks.pairs, kept)
        return _Way(pairs=pairs, seen=_list_seen(cascade, kept, passed))
    keep, able = _cross_fit(cascade.gate, _hide(last.raw, passed), held, present)
    if cascade.at_least_one:
        keep = keep_likeliest(keep, last.raw)
        able = np.asarray(able | open_likeliest(last.raw), np.bool_)
    kept = keep if passed is None else np.asarray(keep & passed, np.bool_)
    pairs = keep_pairs(present.masks.pairs, kept)
    return _Way(pairs=pairs, seen=_list_seen(cascade, able, passed))


def _decide_hard(cascade: Cascade, heard: Mapping[StageName, _Heard]) -> Bool:
    """Return which pairs hard stages leave open; masks have no say in it."""
    last, passed = _find_last(cascade, heard)
    keep = keep_likeliest(last.there, last.probs) if cascade.at_least_one else last.there
    return keep if passed is None else np.asarray(keep & passed, np.bool_)


def _find_last(cascade: Cascade, heard: Mapping[StageName, _Heard]) -> tuple[_Heard, Bool | None]:
    """Return what the stage that meets the masks says, and what the one before lets through."""
    names = [name for name, _ in cascade.presence]
    return heard[names[-1]], heard[names[0]].there if len(names) > 1 else None


def _list_seen(cascade: Cascade, able: Bool, passed: Bool | None) -> dict[StageName, Bool]:
    """Return the pairs that are open when each stage looks."""
    seen = [np.ones(able.shape, np.bool_)]
    seen += [] if passed is None else [passed]
    seen.append(able if passed is None else np.asarray(able & passed, np.bool_))
    return dict(zip(cascade.stages, seen, strict=True))


def _cross_fit(
    kind: GateKind, probs: Float32, held: HeldMasks, present: _Present
) -> tuple[Bool, Bool]:
    """Fit a gate without each part; return what it keeps of the part, and what may pass it."""
    keep, able = np.zeros(probs.shape, np.bool_), np.zeros(probs.shape, np.bool_)
    # Masks to fit on were cut without their own part and without this one, as those that
    # the gate of new images is fitted on were cut without their own.
    for part, masks in enumerate(present.nested):
        here, others = np.flatnonzero(held.parts == part), np.flatnonzero(held.parts != part)
        gate = fit_gate(kind, probs[others], take_masks(masks, others))
        keep[here] = apply_gate(gate, probs[here], take_masks(present.masks, here)).keep
        able[here] = may_pass(gate, probs[here])
    return np.asarray(keep & (present.masks.pairs.predicted > 0), np.bool_), able


def _hide(probs: Float32, passed: Bool | None) -> Float32:
    """Leave out the rows that an earlier stage closed: NaN says nothing to a fit."""
    return probs if passed is None else np.where(passed, probs, np.float32(np.nan))


def _check_known(held: HeldMasks, at: Rows, known: Sequence[str], place: Path) -> None:
    lost = [held.ids[row] for row in np.flatnonzero(at == ABSENT)]
    if lost:
        told, hint = shorten([repr(key) for key in lost], 5), guess_difference(lost, known)
        raise AlignmentError(
            f"{place}: {len(lost):,} of {len(held.ids):,} images that {held.place} held out have "
            f"no held-out probability there: {told}.{hint} Expected a run that was trained on all "
            "of these images, clean ones too."
        )


def _compare_folds(run: Run, held: HeldMasks) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Tell of images that only the classifier knows, and of rows in other folds."""
    table = run.table()
    at = match_ids(table.ids, held.ids)
    more = len(table) - len(at)
    note = f"{run.folder}: {more:,} of its {len(table):,} images were not held out by {held.place}"
    told = (f"{note}, so nothing is measured on them",) if more > 0 else ()
    other = 0 if table.folds is None else int((table.folds[at] != held.folds).sum())
    if not other:
        return told, ()
    stamp = (
        f"OPTIMISTIC: {run.folder} has other folds than {held.place} ({other:,} of {len(at):,} "
        "images); a gate fitted without a part may know it through networks trained on it"
    )
    advice = f"{run.folder} and {held.place} were split apart; train both on one table of folds"
    return (*told, advice), (stamp,)


def _find_best(trials: Sequence[GateTrial], class_name: str) -> str:
    marked = [each.name for each in trials if each.best and each.class_name == class_name]
    return marked[0] if marked else UNGATED
