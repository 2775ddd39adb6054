"""The verb `gate`: masks of anyone's submission, emptied where a classifier says absent.

Owns what becomes of each mask, with rows and their order unchanged, and the count of it.
It must not fit a threshold or decode a mask.

Shapes: N rows of the submission, C classes with masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from loupe.aligning import ABSENT, guess_difference, match_ids
from loupe.errors import AlignmentError, InputError, shorten, suggest
from loupe.gates import find_refills, gate_areas, keep_likeliest
from loupe.masks import measure_rle
from loupe.masksheets import Masks, read_mask_sheet, write_mask_sheet
from loupe.presence import (
    Cut,
    Levels,
    Origin,
    PathLike,
    Said,
    Source,
    ask,
    find_cut,
    match_rows,
    open_source,
    read_cut,
    read_levels,
    tell_unmatched,
)
from loupe.rules import Rule

Bool = NDArray[np.bool_]
Int64 = NDArray[np.int64]
Rows = NDArray[np.intp]
Texts = tuple[tuple[str, ...], ...]

FACTOR = 5.0
"""How many times its smallest area a mask must have where its class is surely absent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassGated:
    """What became of the masks of one class.

    Attributes:
        class_name: The class.
        emptied: Masks that were removed.
        kept: Masks that the gate let through.
        ungated: Masks of rows without a probability, left as they are.
        refilled: Empty pairs that took the mask of the second submission.
    """

    class_name: str
    emptied: int
    kept: int
    ungated: int
    refilled: int

    @property
    def before(self) -> int:
        """Masks of the submission."""
        return self.emptied + self.kept + self.ungated

    @property
    def after(self) -> int:
        """Masks of the result."""
        return self.kept + self.ungated + self.refilled


@dataclass(frozen=True, slots=True, kw_only=True)
class Gated:
    """A submission after its gate.

    Attributes:
        masks: The submission; rows and their order as they were.
        classes: (C,) what became of the masks of each class.
        ungated: Ids of the rows that have no probability, and stay as they are.
        notes: What was read and done, for the screen.
        stamps: What must be said beside every score of the result.
    """

    masks: Masks
    classes: tuple[ClassGated, ...]
    ungated: tuple[str, ...]
    notes: tuple[str, ...] = ()
    stamps: tuple[str, ...] = ()


def gate(
    masks: Masks | PathLike,
    by: Origin,
    *,
    rule: Rule | PathLike | None = None,
    thresholds: Levels | None = None,
    soft: bool = False,
    min_area: Levels | None = None,
    factor: float = FACTOR,
    refill: Masks | PathLike | None = None,
    precision_rule: Rule | PathLike | None = None,
    precision_thresholds: Levels | None = None,
    at_least_one: bool = False,
    out: PathLike | None = None,
) -> Gated:
    """Empty the masks of a submission where a classifier says that their class is absent.

    The submission and the probabilities may be anyone's. They are matched by id and class
    name; rows, their order and all other masks stay as they are. A row without a
    probability is never changed; it is counted and named. Probabilities of one class that
    is none of the masks' tell whether an image shows any class: what they close loses the
    masks of all classes.

    Args:
        masks: A submission: masks, or the CSV that holds them.
        by: Class probabilities: a predictions file, or a run, whose held-out ones are taken.
        rule: A rule or its file; None takes the one that `decide` left with `by`.
        thresholds: In place of a rule: masks below are removed.
        soft: No veto: the area that a mask must have shrinks with the probability, from
            `factor * min_area` to `min_area`. A rule gives its calibration alone.
        min_area: In pixels of the submission; for `soft`.
        factor: For `soft`; 1 ignores the probability.
        refill: A second submission, as one made without a smallest area. Its masks fill
            pairs that are empty though a class is surely there.
        precision_rule: When it surely is: a rule, or its file.
        precision_thresholds: In place of `precision_rule`.
        at_least_one: Never close the likeliest class of a row of which all would be
            closed; for data whose every image shows a class. It needs a probability for
            each class.
        out: CSV to write, in the form of the submission.

    Returns:
        The submission, and what became of the masks of each class.

    Raises:
        AlignmentError: no id is shared, a class of the masks has no probability, or a
            rule is for other classes.
        InputError: arguments contradict each other, there is no rule, or a file cannot be
            used.
        LeakageError: the probabilities of a run leak.

    References:
        See `gates`: `gate_hard`, `gate_two_sided`, `gate_areas` and `keep_likeliest`.
    """
    cut = read_cut(rule, thresholds, "recall")
    sure = read_cut(precision_rule, precision_thresholds, "precision")
    _check_request(cut, sure, soft=soft, min_area=min_area, factor=factor, refill=refill)
    sheet = _read(masks)
    cut = cut if cut.given else find_cut(by, needed=not soft)
    source = open_source(by, sheet.classes, (cut, sure))
    at = match_rows(source, sheet.ids)
    said = ask(source, cut, sheet.classes, at)
    filled = sheet.present
    keep = _keep_large(sheet, said, min_area, factor) if soft else said.there
    if at_least_one:
        keep = _keep_one(keep, said, source)
    keep = np.asarray(keep | ~said.asked[:, None], np.bool_)
    texts, refilled = _blank(sheet.texts, keep), np.zeros_like(filled)
    notes, stamps = [*sheet.notes, *source.notes, *said.notes], [*source.stamps, *said.stamps]
    if refill is not None:
        opinion = ask(source, sure, sheet.classes, at)
        wanted = find_refills(keep, opinion.there, filled)
        second = _read(refill)
        texts, refilled, told = _refill(replace(sheet, texts=texts), second, wanted)
        notes += [*second.notes, *opinion.notes, *told]
        stamps += opinion.stamps
    notes += tell_unmatched(source, sheet.ids, at)
    result = replace(sheet, texts=texts)
    if out is not None:
        write_mask_sheet(out, result)
    return Gated(
        masks=result,
        classes=_count(sheet.classes, filled, keep, refilled, said.asked),
        ungated=tuple(sheet.ids[row] for row in np.flatnonzero(~said.asked)),
        notes=tuple(dict.fromkeys(notes)),
        stamps=tuple(dict.fromkeys(stamps)),
    )


def measure_areas(texts: Sequence[Sequence[str]]) -> Int64:
    """Return the areas of masks in pixels, by their run-length text alone.

    The lengths are added up; nothing is decoded, and no image's size is needed.

    Args:
        texts: "start length" pairs; "" is no mask.

    Shape:
        texts: N rows of C. Returns (N, C).

    Raises:
        MaskError: a text is no run-length text.

    Examples:
        >>> measure_areas([["1 3 10 5", ""]]).tolist()
        [[8, 0]]
    """
    return np.array([[measure_rle(text) for text in row] for row in texts], np.int64)


def _check_request(
    cut: Cut,
    sure: Cut,
    *,
    soft: bool,
    min_area: Levels | None,
    factor: float,
    refill: Masks | PathLike | None,
) -> None:
    """Refuse arguments that contradict each other, or that would play no part."""
    wrong = []
    if soft and cut.levels is not None:
        wrong.append("a soft gate has no thresholds: give a smallest area, or leave out --soft")
    if soft and refill is not None:
        wrong.append("masks are refilled beside a hard gate: leave out --soft or --refill")
    if soft and min_area is None:
        wrong.append(
            "a soft gate needs the smallest area of a mask in pixels (--min-area): the one that "
            "the submission was made with"
        )
    if not soft and (min_area is not None or factor != FACTOR):
        wrong.append("a smallest area and a factor are for the soft gate (--soft)")
    if refill is not None and not sure.given:
        wrong.append("--refill needs to know when a class is surely there: --precision-rule")
    if sure.given and refill is None:
        wrong.append("a precision rule says what is refilled: name a submission with --refill")
    if wrong:
        raise InputError("; ".join(wrong) + ".")


def _read(masks: Masks | PathLike) -> Masks:
    return masks if isinstance(masks, Masks) else read_mask_sheet(masks)


def _keep_large(sheet: Masks, said: Said, min_area: Levels | None, factor: float) -> Bool:
    """Keep the masks whose area reaches what their probability asks for."""
    areas = read_levels(0.0 if min_area is None else min_area, sheet.classes, "smallest area")
    return gate_areas(said.probs, measure_areas(sheet.texts), areas, factor)


def _keep_one(keep: Bool, said: Said, source: Source) -> Bool:
    """Keep the likeliest class of closed rows; one probability for all classes names none."""
    if said.shared:
        raise InputError(
            f"{source.place} has one probability for all {keep.shape[1]} classes, so that no "
            "class is the likeliest of an image; leave out --at-least-one, or give a probability "
            "for each class."
        )
    return keep_likeliest(keep, said.probs)


def _refill(sheet: Masks, second: Masks, wanted: Bool) -> tuple[Texts, Bool, tuple[str, ...]]:
    """Return the texts with those of the second submission, which were filled, and notes."""
    columns = _match_classes(sheet.classes, second.classes)
    at = match_ids(second.ids, sheet.ids)
    lost = np.flatnonzero(at == ABSENT)
    hint = guess_difference([sheet.ids[int(row)] for row in lost], second.ids)
    if len(lost) == len(at):
        raise AlignmentError(
            f"the second submission has none of the {len(at):,} images of the first.{hint}"
        )
    _check_sizes(sheet, second, at)
    there = np.asarray(second.present[:, columns][at] & (at != ABSENT)[:, None], np.bool_)
    listed = _find_listed(sheet)
    rows = [list(row) for row in sheet.texts]
    done = np.asarray(wanted & there & listed, np.bool_)
    for row, column in np.argwhere(done).tolist():
        rows[row][column] = second.texts[at[row]][columns[column]]
    notes = []
    if len(lost):
        told = shorten([repr(sheet.ids[int(row)]) for row in lost])
        notes.append(f"the second submission lacks {len(lost):,} image(s): {told}.{hint}")
    bare, rowless = int((wanted & ~there).sum()), int((wanted & there & ~listed).sum())
    if bare:
        notes.append(f"{bare:,} mask(s) were to be refilled, but the second has none either")
    if rowless:
        notes.append(
            f"{rowless:,} mask(s) were to be refilled, but the submission has no row for their "
            "image and class, and rows are not added; give it a row for each, empty or not"
        )
    return tuple(tuple(row) for row in rows), done, tuple(notes)


def _find_listed(sheet: Masks) -> Bool:
    """Return which pairs have a row in the file; all where none was read."""
    if not sheet.form.pairs or len(sheet.classes) == 1 == len({c for _, c in sheet.form.pairs}):
        return np.ones((len(sheet.ids), len(sheet.classes)), np.bool_)
    known = set(sheet.form.pairs)
    return np.array([[(key, name) in known for name in sheet.classes] for key in sheet.ids])


def _match_classes(classes: Sequence[str], others: Sequence[str]) -> list[int]:
    """Return the column of each class in the second submission."""
    missing = [name for name in classes if name not in others]
    if missing:
        told = shorten([f"{name!r}{suggest(name, others)}" for name in missing])
        raise AlignmentError(
            f"{len(missing)} of {len(classes)} classes have no masks in the second submission: "
            f"{told}. Expected the classes of the first."
        )
    return [others.index(name) for name in classes]


def _check_sizes(sheet: Masks, second: Masks, at: Rows) -> None:
    """Refuse masks made for images of another size, where sizes are known."""
    if sheet.sizes is None or second.sizes is None:
        return
    mine, theirs = np.asarray(sheet.sizes), np.asarray(second.sizes)[at]
    odd = np.flatnonzero((at != ABSENT) & (mine != theirs).any(axis=1))
    if len(odd):
        told = shorten([repr(sheet.ids[int(row)]) for row in odd])
        raise AlignmentError(
            f"{len(odd):,} image(s) have another size in the second submission: {told}. Expected "
            "masks of one size; resize those of one submission first."
        )


def _blank(texts: Sequence[Sequence[str]], keep: Bool) -> Texts:
    return tuple(
        tuple(text if there else "" for text, there in zip(row, kept, strict=True))
        for row, kept in zip(texts, keep.tolist(), strict=True)
    )


def _count(
    classes: Sequence[str], filled: Bool, keep: Bool, refilled: Bool, asked: Bool
) -> tuple[ClassGated, ...]:
    kept = np.asarray(filled & keep, np.bool_)
    emptied = np.asarray(filled & ~keep, np.bool_)
    return tuple(
        ClassGated(
            class_name=name,
            emptied=int(emptied[:, at].sum()),
            kept=int(kept[asked, at].sum()),
            ungated=int(kept[~asked, at].sum()),
            refilled=int(refilled[:, at].sum()),
        )
        for at, name in enumerate(classes)
    )
