"""Mask rules: which cuts make masks of a segmenter's maps, and how they are kept and applied.

Owns the choice among the kinds of cuts, such that nothing is scored by what chose it, and
the file of it. It must not know runs or networks, nor open images.

Shapes: N rows, C classes, K parts, H height, W width.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from loupe.components import TOP_SHARE, clean_mask
from loupe.dices import measure_dice
from loupe.errors import InputError, RunError
from loupe.files import write_json
from loupe.maskcuts import (
    CUT_KINDS,
    Candidate,
    CutKind,
    CutMasks,
    MaskCut,
    PairCounts,
    check_parts,
    choose_mask_cuts,
    cut_masks,
    join_masks,
    take_counts,
)
from loupe.weighting import Integers

Bool = NDArray[np.bool_]
Float32 = NDArray[np.float32]
Rows = NDArray[np.intp]
Cuts = tuple[MaskCut, ...]
Wish = CutKind | Literal["auto"]

SCHEMA = 1
_TIE = 1e-9  # a smaller gain is rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskRule:
    """How the maps of a run become masks.

    Attributes:
        classes: (C,) names.
        kind: What the cuts of new images were fitted with.
        cuts: (C,) for new images.
        size: Height and width of the maps that are cut, and so of the masks; None is the
            size of each image. Areas of the cuts are pixels of it.
        part_names: (K,) names of the parts, folds as a rule; () if nothing was fitted
            apart.
        part_cuts: (K, C) chosen without each part.
    """

    classes: tuple[str, ...]
    kind: CutKind
    cuts: Cuts
    size: tuple[int, int] | None = None
    part_names: tuple[str, ...] = ()
    part_cuts: tuple[Cuts, ...] = ()

    def __post_init__(self) -> None:
        wide = [len(self.cuts), *(len(cuts) for cuts in self.part_cuts)]
        if set(wide) != {len(self.classes)} or len(self.part_cuts) != len(self.part_names):
            raise InputError(
                f"a rule of {len(self.classes)} classes and {len(self.part_names)} parts has "
                f"{wide[0]} cuts, and {wide[1:]} in its parts; expected one for each class."
            )


class FittedMasks(NamedTuple):
    """A rule, and the masks that it makes of rows that it was not chosen on.

    Attributes:
        rule: For new images.
        masks: Of each row by the kind and cuts chosen without its part.
    """

    rule: MaskRule
    masks: CutMasks


class CutMap(NamedTuple):
    """What a cut makes of one map.

    Attributes:
        mask: (H, W) True where the class is.
        confidence: Mean probability of the pixels of the mask; NaN if it is empty.
        top: Mean of the largest probabilities of the map.
    """

    mask: Bool
    confidence: float
    top: float


def fit_mask_rule(
    counts: PairCounts,
    parts: Integers,
    part_names: Sequence[str],
    *,
    classes: Sequence[str],
    kind: Wish,
    size: tuple[int, int] | None,
) -> FittedMasks:
    """Choose how maps become masks, and make the masks of each part without looking at it.

    "auto" is nested: for a part, every kind is judged on the other parts alone, each of
    them by cuts chosen without it, by the mean Dice over pairs (empty = 1); the best is
    fitted on the other parts and makes the masks of the part. So no mask was made by a
    kind or a cut that its row had a say in. For new images the kind is judged over all
    parts and fitted on all rows. Of kinds that are equal, the simplest is taken: fixed,
    pixel, area, doublet, triplet. Where two parts leave but one to judge on, the kind is
    pixel.

    The kind that is best by a hair may be so by chance: on few rows a richer kind often
    wins by noise, and the parts may choose different ones. The masks returned pay for
    that; what they score is what such a choice is worth.

    Args:
        counts: Of held-out rows.
        parts: Number of the part of each row, 0 to K - 1.
        part_names: Their names; with a single part nothing can be fitted and scored apart,
            so only "fixed" is possible, which "auto" then takes. Deal rows to parts first.
        classes: Names of the columns.
        kind: See `maskcuts.choose_mask_cuts`, or "auto".
        size: At which the counts were taken; None is the size of each image.

    Shape:
        parts: (N,). part_names: (K,). classes: (C,).

    Raises:
        InputError: lengths disagree, the kind has another name, or is one that must be
            fitted while there is a single part.
    """
    _check(counts, parts, part_names, classes, kind)
    if len(part_names) < 2:
        cuts = choose_mask_cuts(counts, "fixed")
        rule = MaskRule(classes=tuple(classes), kind="fixed", cuts=cuts, size=size)
        return FittedMasks(rule, cut_masks(counts, cuts))
    bench = _Bench(counts, np.asarray(parts), len(part_names))
    everywhere = frozenset(range(len(part_names)))
    part_cuts, pieces = [], []
    for part in sorted(everywhere):
        chosen = _choose_kind(bench, everywhere - {part}) if kind == "auto" else kind
        cuts = bench.choose(chosen, frozenset({part}))
        rows = bench.rows[part]
        part_cuts.append(cuts)
        pieces.append((rows, cut_masks(counts, cuts, rows)))
    final = _choose_kind(bench, everywhere) if kind == "auto" else kind
    rule = MaskRule(
        classes=tuple(classes),
        kind=final,
        cuts=bench.choose(final, frozenset()),
        size=size,
        part_names=tuple(part_names),
        part_cuts=tuple(part_cuts),
    )
    return FittedMasks(rule, join_masks(pieces))


def cut_parts(rule: MaskRule, counts: PairCounts, parts: Integers) -> CutMasks:
    """Return the masks of rows by the cuts that were chosen without their part.

    Args:
        rule: As fitted on these rows; one without parts makes them by its cuts for new rows.
        counts: Of these rows.
        parts: (N,) number of each row's part in `rule.part_names`.
    """
    if not rule.part_cuts:
        return cut_masks(counts, rule.cuts)
    rows = [np.flatnonzero(parts == part) for part in range(len(rule.part_cuts))]
    pieces = [
        (mine, cut_masks(counts, cuts, mine))
        for mine, cuts in zip(rows, rule.part_cuts, strict=True)
        if len(mine)
    ]
    return join_masks(pieces)


def close_counts(counts: PairCounts, open_NC: Bool) -> PairCounts:
    """Return counts in which closed pairs predict nothing, whatever the candidate.

    Cuts fitted on them are those of masks behind a gate: what is closed costs no cut
    anything, and gains it nothing.

    Args:
        counts: Of all pairs.
        open_NC: False where a gate closes the pair.

    Shape:
        open_NC: (N, C).

    Examples:
        >>> one = PairCounts(
        ...     candidates=(Candidate(threshold=0.5),), counts=np.array([[[[4, 2, 1]]]])
        ... )
        >>> close_counts(one, np.array([[False]])).counts.tolist()
        [[[[0, 0, 5]]]]
    """
    stay = open_NC[:, :, None]
    hit, extra, missed = (counts.counts[..., at] for at in range(3))
    areas = [np.where(stay, hit, 0), np.where(stay, extra, 0), np.where(stay, missed, hit + missed)]
    sure, seen = counts.confidences, counts.presences
    return PairCounts(
        candidates=counts.candidates,
        counts=np.stack(areas, axis=-1),
        confidences=None if sure is None else np.where(stay, sure, np.float32(np.nan)),
        tops=counts.tops,
        presences=None if seen is None else np.where(stay, seen, 0),
    )


def cut_others(
    rule: MaskRule,
    counts: PairCounts,
    parts: Integers,
    *,
    kind: Wish,
    chosen_on: PairCounts | None = None,
) -> list[CutMasks]:
    """Return, for each part, the masks that something for that part can be fitted on.

    Rows of the part are cut by the cuts chosen without it. All others are cut as in
    `fit_mask_rule` on them alone: without their own part, and without this one. With two
    parts the others are a single one, so their cuts are those chosen on themselves.

    Args:
        rule: As fitted on these rows; it has parts.
        counts: Of held-out rows.
        parts: (N,) number of each row's part in `rule.part_names`.
        kind: What was asked for when the rule was fitted.
        chosen_on: What cuts are chosen on, where that is not `counts`: the same pairs, some
            of them closed.

    Returns:
        (K,) masks of all N rows.
    """
    found = []
    judged = counts if chosen_on is None else chosen_on
    for part, cuts in enumerate(rule.part_cuts):
        rows = np.flatnonzero(parts == part)
        others = np.flatnonzero(parts != part)
        kept, numbers = np.unique(parts[others], return_inverse=True)
        if len(kept) < 2:
            found.append(cut_masks(counts, cuts))
            continue
        nested = fit_mask_rule(
            take_counts(judged, others),
            numbers,
            [rule.part_names[int(number)] for number in kept],
            classes=rule.classes,
            kind=kind,
            size=rule.size,
        )
        masks = cut_parts(nested.rule, take_counts(counts, others), numbers)
        found.append(join_masks([(others, masks), (rows, cut_masks(counts, cuts, rows))]))
    return found


def cut_map(probs: Float32, cut: MaskCut) -> CutMap:
    """Make the mask of one map: what counts of the map and `maskcuts.cut_masks` say of it.

    Args:
        probs: Probability of one class at each pixel.
        cut: How its mask is made.

    Shape:
        probs: (H, W).

    Examples:
        >>> half = Candidate(threshold=0.5)
        >>> found = cut_map(np.float32([[0.75, 0.5], [0.25, 0.0]]), MaskCut(top=half, bottom=half))
        >>> found.mask.tolist(), found.confidence, found.top
        ([[True, True], [False, False]], 0.625, 0.75)
    """
    mask = _draw(probs, cut.bottom)
    judged = mask if cut.top == cut.bottom else _draw(probs, cut.top)
    if np.count_nonzero(judged) < cut.min_area:
        mask = np.zeros(probs.shape, np.bool_)
    sure = float(np.float32(probs[mask].mean(dtype=np.float64))) if mask.any() else np.nan
    return CutMap(mask, sure, _measure_top(probs))


def write_mask_rule(path: Path, rule: MaskRule) -> None:
    """Write a rule as JSON, whole or not at all.

    Args:
        path: The file.
        rule: What to keep.
    """
    write_json(path, {"kind": "mask rule", "schema": SCHEMA, "rule": asdict(rule)})


def read_mask_rule(path: Path) -> MaskRule:
    """Read a rule that `write_mask_rule` wrote.

    Args:
        path: The file.

    Raises:
        RunError: the file is absent, or not of this kind.
    """
    try:
        return _read_rule(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path}: no rule for masks that can be read ({type(error).__name__}: {error}). The "
            "run writes it when its training ends; run the same 'loupe train' command again."
        ) from None


@dataclass(frozen=True, slots=True)
class _Bench:
    """Cuts chosen without some parts, and what they score on others; each is made once."""

    counts: PairCounts
    parts: Integers
    count: int
    rows: tuple[Rows, ...] = field(init=False)
    _cuts: dict[tuple[CutKind, frozenset[int]], Cuts] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        rows = tuple(np.flatnonzero(self.parts == part) for part in range(self.count))
        object.__setattr__(self, "rows", rows)

    def choose(self, kind: CutKind, without: frozenset[int]) -> Cuts:
        """Choose cuts on all rows but those of some parts."""
        key = (kind, without)
        if key not in self._cuts:
            rows = np.flatnonzero(~np.isin(self.parts, list(without)))
            self._cuts[key] = choose_mask_cuts(self.counts, kind, rows)
        return self._cuts[key]

    def judge(self, kind: CutKind, inside: frozenset[int]) -> float:
        """Return the mean Dice of some parts, each by cuts chosen on the others of them."""
        outside = frozenset(range(self.count)) - inside
        found = [
            measure_dice(
                cut_masks(self.counts, self.choose(kind, outside | {part}), self.rows[part]).pairs
            )
            for part in sorted(inside)
        ]
        return float(np.concatenate(found).mean())


def _choose_kind(bench: _Bench, inside: frozenset[int]) -> CutKind:
    """Return the best kind by parts that are held out in turn; the simpler of equal ones."""
    if len(inside) < 2:
        return "pixel"
    best, most = CUT_KINDS[0], -np.inf
    for kind in CUT_KINDS:
        score = bench.judge(kind, inside)
        if score > most + _TIE:
            best, most = kind, score
    return best


def _check(
    counts: PairCounts,
    parts: Integers,
    part_names: Sequence[str],
    classes: Sequence[str],
    kind: Wish,
) -> None:
    known = ("auto", *CUT_KINDS)
    wrong = []
    if kind not in known:
        wrong.append(f"kind {kind!r} is not known; expected one of {list(known)}")
    if len(classes) != counts.counts.shape[1]:
        wrong.append(f"{len(classes)} names for {counts.counts.shape[1]} classes")
    if parts.shape != (len(counts),) or set(np.unique(parts)) != set(range(len(part_names))):
        wrong.append(
            f"parts of shape {parts.shape} and with the numbers {np.unique(parts).tolist()[:9]} "
            f"for {len(counts)} rows and {len(part_names)} names; expected a number from 0 on for "
            "each row, and a name for each number"
        )
    elif len(part_names) < 2 and kind not in {"auto", "fixed"}:
        wrong.append(
            f"all rows are of one part, so cuts of kind {kind!r} cannot be fitted and scored "
            "apart; expected two parts or more, or kind 'fixed'"
        )
    if wrong:
        raise InputError(f"cuts of masks: {'; '.join(wrong)}.")
    if len(part_names) > 1:
        check_parts(parts, len(counts))


def _draw(probs: Float32, candidate: Candidate) -> Bool:
    mask = np.asarray(probs >= np.float32(candidate.threshold), np.bool_)
    if candidate.fill_holes or candidate.min_component > 1:
        mask = clean_mask(mask, candidate.min_component, candidate.fill_holes)
    return mask


def _measure_top(probs: Float32) -> float:
    """Return the mean of the largest probabilities, as `components.count_map` takes it."""
    taken = max(1, round(probs.size * TOP_SHARE))
    peaks = np.partition(probs.ravel(), probs.size - taken)[probs.size - taken :]
    return float(peaks.mean(dtype=np.float64))


def _read_rule(file: dict[str, Any]) -> MaskRule:
    if (file["kind"], file["schema"]) != ("mask rule", SCHEMA):
        raise ValueError(f"{file['kind']!r} of schema {file['schema']!r}")
    values = file["rule"]
    size = values["size"]
    if values["kind"] not in CUT_KINDS:
        raise ValueError(f"cuts of kind {values['kind']!r}")
    return MaskRule(
        classes=tuple(values["classes"]),
        kind=values["kind"],
        cuts=tuple(map(_read_cut, values["cuts"])),
        size=None if size is None else (int(size[0]), int(size[1])),
        part_names=tuple(values["part_names"]),
        part_cuts=tuple(tuple(map(_read_cut, cuts)) for cuts in values["part_cuts"]),
    )


def _read_cut(values: dict[str, Any]) -> MaskCut:
    return MaskCut(
        top=Candidate(**values["top"]),
        bottom=Candidate(**values["bottom"]),
        min_area=int(values["min_area"]),
    )
