"""Mask issues: given masks that are empty, of an odd size, missing, needless or different.

Owns what is doubted about masks: by their areas alone, and by what a segmenter drew for
rows that it never saw. It must not draw masks, open images or choose a cut.

Shapes: N rows, C classes, T candidate cuts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from loupe.aligning import ABSENT, match_ids
from loupe.countfiles import CountSheet
from loupe.dices import measure_dice
from loupe.errors import InputError
from loupe.issues import MASK, NO_MASK, Issue, Key
from loupe.maskcuts import CutMasks, PairCounts
from loupe.masks import measure_rle
from loupe.maskscoring import cross_fitted_masks, read_mask_counts
from loupe.runs import Run
from loupe.table import Table
from loupe.weighting import Float64, Integers, divide

EMPTY, TINY, HUGE = "empty_mask", "tiny_mask", "huge_mask"
MISSING, EXTRA, DIFFERS = "mask_missing", "mask_extra", "mask_differs"
"""Names of the rules."""
FEWEST_MASKS = 8
"""A class with fewer masks is not judged: their quartiles say nothing."""
_SAID = 0.5  # target from which a class is there
_AREA_DEVIATIONS, _AREA_FACTOR = 4.0, 4.0
_DICE_DEVIATIONS, _DICE_SHARE = 3.0, 0.5
_MOST_UNSEEN = 0.2  # more given masks that nothing of is seen: the class is not learnt
_AGREES = 0.5  # Dice from which a drawn mask is the given one
_TO_SIGMA = 0.6745  # from the median of a normal law to its quartile, in deviations
Bool = NDArray[np.bool_]


def audit_masks(run: Run, table: Table) -> list[Issue]:
    """Find all issues of the masks of a table, with a run that was trained on it.

    Args:
        run: Finished; its networks draw masks.
        table: With masks; rows that the run did not hold out are judged by area alone.

    Returns:
        One issue for each row and class that `find_odd_areas` or `find_mask_issues` names,
        in their order; where several rules do, it has all of them, the lowest quality, and
        all sentences.

    Raises:
        InputError: the table has no masks, or lacks a class or rows of the run.
        RunError: as `maskscoring.cross_fitted_masks`.
    """
    odd, sheet = find_odd_areas(table), read_mask_counts(run)
    lost = [name for name in sheet.classes if name not in table.classes]
    absent = int((match_ids(table.ids, sheet.ids) == ABSENT).sum())
    if lost or absent:
        raise InputError(
            f"{run.folder} was trained on another table: this one lacks {absent} of its "
            f"{len(sheet.ids)} held-out rows and {len(lost)} of its classes."
        )
    drawn = find_mask_issues(sheet, cross_fitted_masks(run))
    rows = {key: row for row, key in enumerate(table.ids)}

    def is_same(issue: Issue) -> bool:
        there = table.targets[rows[issue.id], table.classes.index(issue.class_name)] >= _SAID
        return bool(there) == (issue.given == MASK)

    # A thin mask may vanish at the size of the counts; the table has it all the same.
    return _merge([*odd, *filter(is_same, drawn)])


def find_odd_areas(table: Table) -> list[Issue]:
    """Find masks that are empty, nearly empty or oversize, by the table alone.

    "empty_mask": the class is said to be there, and its mask is empty. "tiny_mask" and
    "huge_mask": in logarithms, the area is further from the median of the class than 4
    deviations of that side, and 4 times smaller or larger at least. The deviation of a side
    is the way to its quartile divided by 0.67, as in a normal law, so up to a quarter of
    odd masks on a side do not hide each other; areas spread unevenly, so each side is
    measured by itself. Of normal logarithms 0.003 % lie beyond a side. Image sizes are not
    known here: in tables of mixed sizes areas spread more, and less is flagged.

    Args:
        table: With masks. A class with fewer than `FEWEST_MASKS` has no usual area.

    Returns:
        Class by class, each in the order of the table. `quality` is how many times the area
        is smaller or larger than the median, as a share of 1; 0 if the mask is empty.

    Raises:
        InputError: the table has no masks.

    Examples:
        >>> from pathlib import Path
        >>> areas = [90, 100, 100, 110, 95, 105, 100, 120, 3, 2000]
        >>> table = Table(
        ...     ids=tuple("abcdefghij"),
        ...     images=(Path("x"),) * 10,
        ...     classes=("crack",),
        ...     targets=np.ones((10, 1), np.float32),
        ...     exclusive=False,
        ...     masks=tuple((f"1 {area}",) for area in areas),
        ... )
        >>> [(each.id, each.rules, each.quality) for each in find_odd_areas(table)]
        [('i', ('tiny_mask',), 0.03), ('j', ('huge_mask',), 0.05)]
    """
    if table.masks is None:
        raise InputError("the table has no masks; expected one for each row and class, or none.")
    found: list[Issue] = []
    for column, name in enumerate(table.classes):
        areas = np.array([measure_rle(texts[column]) for texts in table.masks], np.int64)
        empty = (table.targets[:, column] >= _SAID) & (areas == 0)
        issues = [
            (row, _name_empty(table.ids[row], name)) for row in np.flatnonzero(empty).tolist()
        ]
        issues += _find_odd(table.ids, name, areas)
        found += [issue for _, issue in sorted(issues, key=lambda pair: pair[0])]
    return found


def find_mask_issues(sheet: CountSheet, masks: CutMasks) -> list[Issue]:
    """Find masks that a segmenter contradicts, in rows that it never saw.

    Each class is judged by itself, against what is usual in it; one with fewer than
    `FEWEST_MASKS` given masks is not judged.

    - "mask_missing": there is no given mask, and one is drawn by the cut that was fitted
      without the row's part, as surely as three quarters of the drawn masks that agree with a
      given one (Dice 0.5): its mean probability is at least their lower quartile. A class
      whose cut leaves it empty has none; fewer than `FEWEST_MASKS` that agree judge nothing.
    - "mask_extra": nothing of the given mask is seen by any candidate, and the map is as
      empty as half of those of rows without a mask: its top is at most their median. By
      this every second needless mask passes; it may still differ.
    - "mask_differs": the given mask agrees with no candidate, and is not extra; its best Dice
      is below half of the median of the class, and more than 3 deviations below it (the way
      from the median to the lower quartile, divided by 0.67).

    The last two look at the best of all candidates, not at the cut: a cut may leave a whole
    class empty because a false mask costs more than a missed one, which says nothing of a
    single label; and a mask that no threshold finds is in doubt however it is cut. If more
    than a fifth of the given masks of a class are not seen at all, the network does not know
    the class, and its misses doubt nothing.

    Args:
        sheet: Counts of held-out rows.
        masks: Of the same rows, from `maskscoring.cross_fitted_masks`.

    Returns:
        Class by class, the lowest quality first. `quality` is what the network gives the
        label, in [0, 1]: one less the drawn mask's mean probability where none is given,
        the map's top as a share of what is usual with a mask where nothing is seen, else
        the best Dice.

    Raises:
        InputError: rows or classes of both differ.
    """
    shape = sheet.counts.counts.shape[:2]
    if masks.pairs.truth.shape != shape:
        raise InputError(
            f"counts are of {shape} rows and classes, masks of {masks.pairs.truth.shape}; "
            "expected the same."
        )
    best = _measure_best(sheet.counts)
    found: list[Issue] = []
    for column, name in enumerate(sheet.classes):
        given = masks.pairs.truth[:, column] > 0
        if np.count_nonzero(given) < FEWEST_MASKS:
            continue
        extra = list(_find_extra(sheet.ids, name, best[:, column], masks, column))
        known = {each.id for each in extra}
        different = _find_different(sheet.ids, name, best[:, column], given)
        issues = [
            *_find_missing(sheet.ids, name, masks, column),
            *extra,
            *(each for each in different if each.id not in known),
        ]
        found += sorted(issues, key=lambda each: each.quality)
    return found


def _name_empty(row_id: str, name: str) -> Issue:
    return Issue(
        id=row_id,
        class_name=name,
        given=MASK,
        quality=0.0,
        rules=(EMPTY,),
        evidence=f"The table says that {name!r} is there, but its mask is empty.",
    )


def _find_odd(ids: Sequence[str], name: str, areas: Integers) -> list[tuple[int, Issue]]:
    """Return row numbers and issues of the masks of one class that are not empty."""
    rows = np.flatnonzero(areas > 0)
    if len(rows) < FEWEST_MASKS:
        return []
    usual = float(np.median(areas[rows]))
    away = np.log(areas[rows] / usual)
    low, high = np.quantile(away, [0.25, 0.75])
    found = []
    for rule, sign, side in ((TINY, -1, -low), (HUGE, 1, high)):
        limit = max(_AREA_DEVIATIONS * side / _TO_SIGMA, np.log(_AREA_FACTOR))
        for at in np.flatnonzero(sign * away > limit).tolist():
            row = int(rows[at])
            share = float(min(areas[row], usual) / max(areas[row], usual))
            issue = Issue(
                id=ids[row],
                class_name=name,
                given=MASK,
                quality=share,
                rules=(rule,),
                evidence=(
                    f"The mask of {name!r} has {areas[row]:,} px, {_spell_times(1 / share)} "
                    f"{'fewer' if rule == TINY else 'more'} than usual (median {usual:,.0f} of "
                    f"{len(rows):,} masks)."
                ),
            )
            found.append((row, issue))
    return found


def _measure_best(counts: PairCounts) -> Float64:
    """Return the best Dice of any candidate, (N, C); 1 where none is given and none drawn."""
    hit, extra, missed = (counts.counts[..., at].astype(np.int64) for at in range(3))
    dice = divide(2 * hit, 2 * hit + extra + missed, empty=1.0)
    return np.asarray(dice.max(axis=2))


def _find_missing(ids: Sequence[str], name: str, masks: CutMasks, column: int) -> Iterator[Issue]:
    if masks.confidences is None:
        return
    dice, sure = measure_dice(masks.pairs)[:, column], masks.confidences[:, column]
    truth, area = masks.pairs.truth[:, column], masks.pairs.predicted[:, column]
    agreed = (truth > 0) & (area > 0) & (dice >= _AGREES)
    if np.count_nonzero(agreed) < FEWEST_MASKS:
        return
    usual = float(np.quantile(sure[agreed], 0.25))
    for row in np.flatnonzero((truth == 0) & (area > 0) & (sure >= usual)).tolist():
        yield Issue(
            id=ids[row],
            class_name=name,
            given=NO_MASK,
            suggested=MASK,
            quality=float(np.clip(1 - sure[row], 0, 1)),
            rules=(MISSING,),
            evidence=(
                f"No mask of {name!r} is given; the network, which never saw this row, draws "
                f"{area[row]:,} px with a mean probability of {sure[row]:.3f} (three of four "
                f"masks that agree with given ones have {usual:.3f} or more)."
            ),
        )


def _find_extra(
    ids: Sequence[str], name: str, best_N: Float64, masks: CutMasks, column: int
) -> Iterator[Issue]:
    given = masks.pairs.truth[:, column] > 0
    unseen = given & (best_N == 0)
    rare = np.count_nonzero(unseen) <= _MOST_UNSEEN * np.count_nonzero(given)
    if masks.tops is None or given.all() or not rare:
        return
    tops = masks.tops[:, column]
    without, usual = float(np.median(tops[~given])), float(np.median(tops[given]))
    for row in np.flatnonzero(unseen & (tops <= min(without, usual))).tolist():
        yield Issue(
            id=ids[row],
            class_name=name,
            given=MASK,
            suggested=NO_MASK,
            quality=float(tops[row] / usual) if usual else 0.0,
            rules=(EXTRA,),
            evidence=(
                f"A mask of {name!r} is given; the network, which never saw this row, finds "
                f"nothing of it, and its map is as empty as where there is none (top "
                f"{tops[row]:.2g}; medians {without:.2g} without a mask, {usual:.2g} with one)."
            ),
        )


def _find_different(
    ids: Sequence[str], name: str, best_N: Float64, given_N: Bool
) -> Iterator[Issue]:
    low, usual = np.quantile(best_N[given_N], [0.25, 0.5])
    spread = (usual - low) / _TO_SIGMA
    limit = min(usual * _DICE_SHARE, usual - _DICE_DEVIATIONS * spread)
    for row in np.flatnonzero(given_N & (best_N < limit)).tolist():
        yield Issue(
            id=ids[row],
            class_name=name,
            given=MASK,
            quality=float(best_N[row]),
            rules=(DIFFERS,),
            evidence=(
                f"The given mask of {name!r} and what the network draws, which never saw this row, "
                f"agree at no threshold: Dice {best_N[row]:.3f} at best, the median of the class "
                f"is {usual:.3f}."
            ),
        )


def _spell_times(ratio: float) -> str:
    return f"{ratio:,.0f} times" if ratio >= 10 else f"{ratio:.1f} times"


def _merge(issues: Sequence[Issue]) -> list[Issue]:
    """Make one issue of all that are about the same row and class."""
    found: dict[Key, Issue] = {}
    for issue in issues:
        first = found.get(issue.key)
        found[issue.key] = (
            issue
            if first is None
            else replace(
                first,
                suggested=first.suggested or issue.suggested,
                quality=min(first.quality, issue.quality),
                rules=(*first.rules, *issue.rules),
                evidence=f"{first.evidence} {issue.evidence}",
            )
        )
    return list(found.values())
