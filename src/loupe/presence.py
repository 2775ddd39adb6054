"""Presence: what probabilities of any origin say of the images of a submission.

Owns how they are found, matched by id and class name, and decided: by a rule, where it
can be by the one that was fitted without the fold of a row. It must not know masks, nor
fit anything.

Shapes: N rows of the submission, R rows of the probabilities, C classes with masks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loupe.aligning import ABSENT, guess_difference, match_ids
from loupe.decisions import place_rule
from loupe.errors import AlignmentError, InputError, shorten, suggest
from loupe.evidence import held_out_probs
from loupe.gates import gate_hard
from loupe.heldout import gather_evidence
from loupe.predictions import Predictions
from loupe.rules import Rule, apply_rule, find_lost, load_rule_file, read_part_rules, read_rule
from loupe.runs import Run
from loupe.sheetfiles import SheetFile, open_sheet_file

Bool = NDArray[np.bool_]
Float32 = NDArray[np.float32]
Rows = NDArray[np.intp]
PathLike = str | Path
Origin = Predictions | Run | str | Path
Levels = float | Mapping[str, float]
"""One number for all classes, or class name to number ("" for the others)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """What says that a class is there: a rule, or thresholds.

    Attributes:
        rule: For all classes of the probabilities.
        path: The file it was read from.
        levels: Thresholds of the classes with masks, in place of a rule.
    """

    rule: Rule | None = None
    path: Path | None = None
    levels: Levels | None = None

    @property
    def given(self) -> bool:
        """True if it says anything."""
        return self.rule is not None or self.levels is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Probabilities, and the fold of each row where they have folds.

    Attributes:
        place: Where they are from, for messages.
        ids: (R,) unique.
        classes: Names of the columns.
        probs: (R, columns); NaN where an image could not be predicted.
        parts: (R,) number of the fold in `part_names`; None without folds.
        part_names: Names of the folds.
        notes: What was read.
        stamps: What must be said beside every score of what they decide.
    """

    place: str
    ids: tuple[str, ...]
    classes: tuple[str, ...]
    probs: Float32
    parts: Rows | None = None
    part_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    stamps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What probabilities say of the rows of a submission.

    Attributes:
        probs: (N, C), calibrated; NaN where nothing is known.
        there: (N, C) True where the class is decided to be there.
        asked: (N,) True where the row has probabilities.
        shared: True where one column says whether an image shows any class at all, and so
            tells of several classes.
        notes: How it was decided.
        stamps: As of `Source`.
    """

    probs: Float32
    there: Bool
    asked: Bool
    shared: bool = False
    notes: tuple[str, ...] = ()
    stamps: tuple[str, ...] = ()


def read_cut(rule: Rule | PathLike | None, levels: Levels | None, name: str) -> Cut:
    """Put together what the user gave; nothing is fine.

    Args:
        rule: A rule or its file.
        levels: Thresholds.
        name: What they are, for messages.

    Raises:
        InputError: both are given, the file is no rule, or it decides whole groups.
    """
    if rule is not None and levels is not None:
        raise InputError(f"a {name} rule and {name} thresholds: expected one of them.")
    if rule is None:
        return Cut(levels=levels)
    path = None if isinstance(rule, Rule) else Path(rule)
    found = rule if isinstance(rule, Rule) else read_rule(Path(rule))
    if found.pool:
        raise InputError(
            f"{path or 'the rule'} decides whole groups by the {found.pool} of their rows, but a "
            "gate needs single rows; run 'loupe decide' without --by-group."
        )
    return Cut(rule=found, path=path)


def find_cut(by: Origin, *, needed: bool) -> Cut:
    """Return the rule that `decide` left with probabilities.

    Args:
        by: The probabilities.
        needed: There must be one.

    Raises:
        InputError: there is none, or as `read_cut`.
    """
    place = _find_place(by)
    path = None if place is None else place_rule(place)
    if path is not None and path.is_file():
        return read_cut(path, None, "stored")
    if needed:
        raise InputError(
            f"there is no rule{f' at {path}' if path else ''} that says from which probability on "
            "a class is there. Name one with --rule, give --threshold, or run 'loupe decide' "
            "first."
        )
    return Cut()


def open_source(by: Origin, classes: Sequence[str], cuts: Sequence[Cut]) -> Source:
    """Read probabilities.

    Args:
        by: A predictions file or what was read from one; or a run, whose held-out
            probabilities are taken.
        classes: (C,) with masks. A file that has none of them, and one column of numbers
            alone, is read by that column: it tells of all of them.
        cuts: What will be asked of them: a rule needs the columns of all its classes.

    Raises:
        AlignmentError: a class has no column.
        InputError: the file cannot be used.
        LeakageError: the probabilities of a run leak.
    """
    place = _find_place(by)
    if place is not None and (isinstance(by, Run) or place.is_dir()):
        evidence = gather_evidence([place])
        return Source(
            place=str(place),
            ids=evidence.ids,
            classes=evidence.classes,
            probs=held_out_probs(evidence),
            parts=evidence.parts,
            part_names=evidence.part_names,
            notes=(*evidence.notes, f"{place}: its held-out probabilities are taken"),
            stamps=evidence.stamps,
        )
    notes: tuple[str, ...] = ()
    if isinstance(by, Predictions):
        sheet = by
    else:
        ruled = next((cut.rule for cut in cuts if cut.rule is not None), None)
        file = _open_file(str(place), classes, ruled)
        sheet, notes = file.sheet, file.notes
    parts: Rows | None = None
    names: tuple[str, ...] = ()
    if sheet.folds is not None:
        numbers, parts = np.unique(sheet.folds, return_inverse=True)
        names = tuple(str(number) for number in numbers)
    return Source(
        place="the predictions" if place is None else str(place),
        ids=sheet.ids,
        classes=sheet.classes,
        probs=sheet.probs,
        parts=parts,
        part_names=names,
        notes=notes,
    )


def match_rows(source: Source, ids: Sequence[str]) -> Rows:
    """Return where each image of a submission stands in the probabilities.

    Args:
        source: The probabilities.
        ids: (N,) of the submission.

    Returns:
        (N,) rows; `ABSENT` where an image has none.

    Raises:
        AlignmentError: no image has any; a reason is guessed.
    """
    at = match_ids(source.ids, ids)
    if (at != ABSENT).any():
        return at
    hint = guess_difference(ids, source.ids)
    place = Path(source.place)
    if not hint and place.is_dir():
        hint = (
            f" A run holds out its training images; for others: loupe predict {place} IMAGES "
            "--format probabilities --out preds.csv, then --by preds.csv --rule "
            f"{place_rule(place)}."
        )
    raise AlignmentError(
        f"{source.place}: none of the {len(ids):,} images of the submission has a probability: "
        f"{shorten([repr(key) for key in ids], 3)}, against "
        f"{shorten([repr(key) for key in source.ids], 3)}.{hint}"
    )


def ask(source: Source, cut: Cut, classes: Sequence[str], at: Rows) -> Said:
    """Say which classes are there in the rows of a submission.

    Args:
        source: The probabilities.
        cut: What decides; nothing gives probabilities as they are, and no class.
        classes: (C,) with masks. Probabilities of one class that is none of them tell of
            all: an image that they close is closed for every class. A threshold may then
            name that one class, too.
        at: (N,) from `match_rows`.

    Raises:
        AlignmentError: a class has no probability, or the rule is for other classes.
        InputError: a threshold is no number from 0 on, or names no class.
    """
    columns, notes, other = _match_columns(classes, source)
    probs, there = source.probs, np.zeros(source.probs.shape, np.bool_)
    stamps: tuple[str, ...] = ()
    if cut.rule is not None:
        part_rules, same = _find_part_rules(source, cut)
        decided = apply_rule(cut.rule, probs, classes=source.classes)
        probs, there = decided.probs, decided.decisions
        if part_rules:
            probs, there = _decide_parts(source, part_rules, probs, there)
            notes += (f"{cut.path}: each fold is decided by the rule fitted without it",)
        else:
            stamps = (f"OPTIMISTIC: {cut.path} was fitted on these very rows",) if same else ()
    probs, there = probs[:, columns], there[:, columns]
    if cut.levels is not None:
        _check_names(cut.levels, classes, other, source.classes)
        levels = _rename_level(_drop_levels(cut.levels, (*classes, other)), other)
        there = gate_hard(probs, read_levels(levels, classes, "threshold"))
    asked = np.asarray((at != ABSENT) & ~find_lost(source.probs)[at], np.bool_)
    return Said(
        probs=np.where(asked[:, None], probs[at], np.float32(np.nan)),
        there=np.asarray(there[at] & asked[:, None], np.bool_),
        asked=asked,
        shared=bool(other) and len(classes) > 1,
        notes=notes,
        stamps=stamps,
    )


def read_levels(levels: Levels, classes: Sequence[str], name: str) -> Float32:
    """Return a number for each class.

    Args:
        levels: One for all, or by class; "" is all others.
        classes: (C,) names.
        name: What the numbers are, for messages.

    Raises:
        InputError: a class is not known, or has no number.

    Examples:
        >>> read_levels({"": 0.5, "b": 0.25}, ["a", "b"], "threshold").tolist()
        [0.5, 0.25]
    """
    if not isinstance(levels, Mapping):
        return np.full(len(classes), levels, np.float32)
    unknown = [key for key in levels if key and key not in classes]
    if unknown:
        told = shorten([f"{key!r}{suggest(key, classes)}" for key in unknown])
        raise InputError(f"{name}: there is no class {told}. Expected {shorten(classes, 20)}.")
    missing = [] if "" in levels else [key for key in classes if key not in levels]
    if missing:
        raise InputError(
            f"{name}: {shorten([repr(key) for key in missing])} has no number; expected one for "
            "each class, or one without a name for the others."
        )
    return np.array([levels.get(key, levels.get("", 0.0)) for key in classes], np.float32)


def tell_unmatched(source: Source, ids: Sequence[str], at: Rows) -> tuple[str, ...]:
    """Name the images that have no probability, guess why, and count what was not asked for.

    Args:
        source: The probabilities.
        ids: (N,) of the submission.
        at: (N,) from `match_rows`.
    """
    lost = [ids[int(row)] for row in np.flatnonzero(at == ABSENT)]
    blank = (at != ABSENT) & find_lost(source.probs)[at]
    unread = [ids[int(row)] for row in np.flatnonzero(blank)]
    wanted = set(ids)
    others = [key for key in source.ids if key not in wanted]
    notes = []
    if others:
        notes.append(f"{source.place}: {len(others):,} images are not in the submission")
    if lost:
        hint = guess_difference(lost, others)
        told = shorten([repr(key) for key in lost])
        notes.append(
            f"{len(lost):,} of {len(ids):,} images have no probability and stay as they are: "
            f"{told}.{hint}"
        )
    if unread:
        told = shorten([repr(key) for key in unread])
        notes.append(f"{len(unread):,} images could not be predicted and stay as they are: {told}")
    return tuple(notes)


def _find_place(by: Origin) -> Path | None:
    if isinstance(by, Predictions):
        return None
    return by.folder if isinstance(by, Run) else Path(by)


def _open_file(place: str, classes: Sequence[str], rule: Rule | None) -> SheetFile:
    """Open a predictions file by the classes of a rule, of the masks, or by its one column."""
    if rule is not None:
        return open_sheet_file(place, classes=rule.classes, exclusive=rule.exclusive)
    try:
        return open_sheet_file(place, classes=classes)
    except AlignmentError:
        file = open_sheet_file(place)
        if len(file.sheet.classes) > 1 or file.sheet.classes[0] in classes:
            raise
        return file


def _match_columns(
    classes: Sequence[str], source: Source
) -> tuple[list[int], tuple[str, ...], str]:
    """Return the column of each class, notes, and the one class of another name that tells all."""
    known = source.classes
    if len(known) == 1 and (len(classes) == 1 or known[0] not in classes):
        if known[0] in classes:
            return [0], (), ""
        note = f"{source.place}: {known[0]!r} is taken for "
        if len(classes) == 1:
            note += f"the one class {classes[0]!r} of masks"
        else:
            note += (
                f"the presence of any of the {len(classes)} classes of masks: an image that it "
                "closes loses the masks of all of them"
            )
        return [0] * len(classes), (note,), known[0]
    missing = [name for name in classes if name not in known]
    if missing:
        told = shorten([f"{name!r}{suggest(name, known)}" for name in missing])
        raise AlignmentError(
            f"{len(missing)} of {len(classes)} classes with masks have no probability in "
            f"{source.place}: {told}. Its classes are {shorten(known, 20)}; name them alike, or "
            "give one column of another name that tells whether an image shows any class."
        )
    extra = [name for name in known if name not in classes]
    note = f"{source.place}: class(es) without masks: {shorten(extra)}"
    return [known.index(name) for name in classes], (note,) if extra else (), ""


def _check_names(levels: Levels, classes: Sequence[str], other: str, others: Sequence[str]) -> None:
    """Refuse thresholds of unknown names; the one class that tells of all has a name, too."""
    names = [*classes, *([other] if other else [])]
    given = [key for key in levels if key] if isinstance(levels, Mapping) else []
    # Classes without masks may have a threshold, too: it says nothing here.
    unknown = [f"{key!r}{suggest(key, names)}" for key in given if key not in (*names, *others)]
    if unknown:
        raise InputError(
            f"threshold: there is no class {shorten(unknown)}. Expected {shorten(names, 20)}."
        )


def _drop_levels(levels: Levels, names: Sequence[str]) -> Levels:
    """Leave out the thresholds of classes that have no masks."""
    if not isinstance(levels, Mapping):
        return levels
    return {key: level for key, level in levels.items() if not key or key in names}


def _rename_level(levels: Levels, other: str) -> Levels:
    """Return levels with that of the one class that tells all given to all others."""
    if not other or not isinstance(levels, Mapping) or other not in levels:
        return levels
    return {"": levels[other], **{key: level for key, level in levels.items() if key != other}}


def _find_part_rules(source: Source, cut: Cut) -> tuple[dict[str, Rule], bool]:
    """Return the rules fitted without each fold, and whether the rule is of these very rows."""
    if cut.path is None:
        return {}, False
    origin = load_rule_file(cut.path).get("origin") or {}
    # By its last name, since folders are moved.
    if Path(str(origin.get("source", ""))).name != Path(source.place).name:
        return {}, False
    rules = read_part_rules(cut.path)
    return (rules if rules and set(rules) <= set(source.part_names) else {}), True


def _decide_parts(
    source: Source, rules: Mapping[str, Rule], probs: Float32, there: Bool
) -> tuple[Float32, Bool]:
    """Decide each fold by the rule that was fitted without it; others, as new rows, stay."""
    probs, there = probs.copy(), there.copy()
    for number, name in enumerate(source.part_names):
        if name not in rules:
            continue
        rows = np.flatnonzero(source.parts == number)
        decided = apply_rule(rules[name], source.probs[rows], classes=source.classes)
        probs[rows], there[rows] = decided.probs, decided.decisions
    return probs, there
