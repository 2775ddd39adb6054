"""Contact sheets: the best, the median and the worst held-out mask of each class, to look at.

Owns which rows are shown, and their masks, drawn by networks that held the row out. It
must not score or cut by itself, nor train.

Shapes: N rows that were held out, C classes, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from loupe.countfiles import CountSheet
from loupe.decoding import read_image
from loupe.dices import Pairs, measure_dice
from loupe.errors import RunError
from loupe.images import prepare_image
from loupe.mapping import draw_maps, load_mappers
from loupe.maskcuts import MaskCut, cut_masks
from loupe.maskrules import MaskRule, cut_map, read_mask_rule
from loupe.masks import decode_rle, encode_rle, resize_mask
from loupe.maskscoring import cross_fitted_masks, read_mask_counts
from loupe.overlays import Panel, save_sheet
from loupe.runs import Run
from loupe.table import Table
from loupe.weighting import Float64, Integers

Kind = Literal["best", "median", "worst"]
Texts = dict[tuple[int, int], str]
Bool = NDArray[np.bool_]
UInt8 = NDArray[np.uint8]
Rows = NDArray[np.intp]

_COLUMNS = 3  # a class on a line


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One row that shows how well the masks of one class are.

    Attributes:
        row: Number of the row.
        class_name: Whose mask is looked at.
        kind: Why it was chosen.
        dice: Of its mask.
    """

    row: int
    class_name: str
    kind: Kind
    dice: float


def choose_examples(
    dice: Float64, truth_area: Integers, predicted_area: Integers, classes: Sequence[str]
) -> tuple[Example, ...]:
    """Choose the best, the median and the worst mask of each class.

    Only among rows where the true or the predicted mask is not empty: a pair that is empty
    twice has nothing to look at. Of equal Dice the larger masks are shown as best and as
    worst, then the first rows. A class with two such rows has no median, one with a single
    row has a best alone.

    Args:
        dice: Of each pair.
        truth_area: Of the true masks in pixels.
        predicted_area: Of the predicted masks.
        classes: Names of the columns.

    Shape:
        dice, truth_area, predicted_area: (N, C). classes: (C,).

    Returns:
        Class by class: best, median, worst; each row once for a class.

    Examples:
        >>> area = np.array([[9], [9], [9], [0]])
        >>> found = choose_examples(np.array([[0.5], [0.9], [0.1], [1.0]]), area, area, ["a"])
        >>> [(each.kind, each.row) for each in found]
        [('best', 1), ('median', 0), ('worst', 2)]
    """
    area = np.asarray(truth_area, np.int64) + predicted_area
    found: list[Example] = []
    for column, name in enumerate(classes):
        for kind, row in _choose_rows(dice[:, column], area[:, column]):
            value = float(dice[row, column])
            found.append(Example(row=row, class_name=name, kind=kind, dice=value))
    return tuple(found)


def write_contact_sheet(run: Run, *, device: str = "cpu") -> Path:
    """Draw the best, the median and the worst held-out mask of each class of a run.

    Dice is that of `maskscoring.cross_fitted_masks`; the masks are drawn anew, of these rows
    alone, by the networks that held them out and cut as rows of other folds say.

    Args:
        run: Finished; its networks draw masks.
        device: torch device.

    Returns:
        The PNG, `run.contact_file`.

    Raises:
        RunError: the run draws no masks, held nothing out or is not finished, or no row has
            a mask at all.
        ImageError: an image cannot be read any more.
    """
    held = _open_held(run)
    pairs = held.pairs
    examples = choose_examples(
        measure_dice(pairs), pairs.truth, pairs.predicted, held.sheet.classes
    )
    if not examples:
        raise RunError(
            f"{run.folder}: of {len(pairs):,} held-out rows none has a mask, true or predicted, "
            "so there is nothing to look at. Check the masks of the table."
        )
    texts: Texts = {}
    for fold in sorted({int(held.sheet.folds[each.row]) for each in examples}):
        mine = [each for each in examples if held.sheet.folds[each.row] == fold]
        texts |= _draw_fold(held, fold, mine, device)
    panels = _make_panels(held, examples, texts)
    save_sheet(run.contact_file, panels, held.sheet.classes, columns=_COLUMNS)
    return run.contact_file


@dataclass(frozen=True, slots=True)
class _Held:
    """The held-out rows of a run.

    Attributes:
        run: The run.
        table: What it was trained on.
        sheet: Counts of the rows.
        rows: (N,) where each stands in the table.
        rule: How maps become masks.
        pairs: Areas of the masks that are scored.
    """

    run: Run
    table: Table
    sheet: CountSheet
    rows: Rows
    rule: MaskRule
    pairs: Pairs

    def open_image(self, row: int) -> UInt8:
        """Open the image of a row."""
        return read_image(self.table.images[self.rows[row]])

    def find_cut(self, row: int, column: int) -> MaskCut:
        """Return the cut that made the scored mask of a pair.

        As a rule that is the one chosen without its fold. The rows of a single fold are dealt
        to parts instead; the cut is then known by what it hits and misses.
        """
        fold, areas = str(self.sheet.folds[row]), (self.pairs.predicted, self.pairs.intersection)
        wanted = [int(each[row, column]) for each in areas]
        named = zip(self.rule.part_names, self.rule.part_cuts, strict=True)
        for _, cuts in sorted(named, key=lambda part: part[0] != fold):
            made = cut_masks(self.sheet.counts, cuts, np.array([row])).pairs
            if [int(made.predicted[0, column]), int(made.intersection[0, column])] == wanted:
                return cuts[column]
        return self.rule.cuts[column]


def _open_held(run: Run) -> _Held:
    sheet, table = read_mask_counts(run), run.table()
    places = {key: row for row, key in enumerate(table.ids)}
    return _Held(
        run=run,
        table=table,
        sheet=sheet,
        rows=np.array([places[key] for key in sheet.ids], np.intp),
        rule=read_mask_rule(run.cuts_file),
        pairs=cross_fitted_masks(run).pairs,
    )


def _choose_rows(dice_N: Float64, area_N: Integers) -> list[tuple[Kind, int]]:
    """Return kinds and rows of one class."""
    rows = np.flatnonzero(area_N > 0).tolist()
    if not rows:
        return []
    order = sorted(rows, key=lambda row: (dice_N[row], -area_N[row], row))
    best = max(order[1:] or order, key=lambda row: (dice_N[row], area_N[row], -row))
    others = [row for row in order if row != best]
    found: list[tuple[Kind, int]] = [("best", best)]
    if len(others) > 1:
        found.append(("median", others[len(others) // 2]))
    if others:
        found.append(("worst", others[0]))
    return found


def _draw_fold(held: _Held, fold: int, examples: Sequence[Example], device: str) -> Texts:
    """Draw the masks of some rows by the networks of the fold that held them out."""
    classes = held.sheet.classes
    mappers = load_mappers(held.run, folds=(fold,), device=device)
    rows = sorted({each.row for each in examples})
    pictures = [held.open_image(row) for row in rows]
    shown = np.array([picture.shape[:2] for picture in pictures], np.int64)
    images = [np.stack([prepare_image(p, mapper.spec) for p in pictures]) for mapper in mappers]
    sizes = shown if held.rule.size is None else np.tile(held.rule.size, (len(rows), 1))
    pairs = [(rows.index(each.row), classes.index(each.class_name)) for each in examples]
    wanted = np.zeros((len(rows), len(classes)), np.bool_)
    wanted[tuple(np.array(pairs).T)] = True
    texts: Texts = {}
    for at, maps in draw_maps(mappers, classes, images, sizes, wanted, shown=shown):
        for column in np.flatnonzero(wanted[at]).tolist():
            found = cut_map(maps[column], held.find_cut(rows[at], column))
            texts[rows[at], column] = encode_rle(found.mask)
    return texts


def _make_panels(held: _Held, examples: Sequence[Example], texts: Texts) -> Iterator[Panel]:
    """Make one panel after the other, so that few images are held at once."""
    for example in examples:
        row, column = example.row, held.sheet.classes.index(example.class_name)
        image = held.open_image(row)
        size = (image.shape[0], image.shape[1])
        drawn = decode_rle(texts[row, column], *(held.rule.size or size))
        given = _read_truth(held, row, example.class_name)
        found, true = (int(a[row, column]) for a in (held.pairs.predicted, held.pairs.truth))
        yield Panel(
            image=image,
            predicted=_place_mask(resize_mask(drawn, size), held, column),
            truth=_place_mask(decode_rle(given, *size), held, column),
            caption=(
                f"{example.class_name}, {example.kind}: Dice {example.dice:.3f}, {found:,} px "
                f"predicted, {true:,} px true. {held.sheet.ids[row]}"
            ),
        )


def _read_truth(held: _Held, row: int, name: str) -> str:
    """Return the run-length text of a true mask."""
    masks = held.table.masks
    return "" if masks is None else masks[held.rows[row]][held.table.classes.index(name)]


def _place_mask(mask: Bool, held: _Held, column: int) -> Bool:
    """Put one mask among those of all classes; the others are empty."""
    masks = np.zeros((*mask.shape, len(held.sheet.classes)), np.bool_)
    masks[..., column] = mask
    return masks
