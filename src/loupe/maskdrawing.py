"""Drawing masks: the trained segmenters of a run and its cuts, from prepared images to text.

It must not decode image files, decide which images are drawn, or fit a cut.

Shapes: n images, C classes of the rule, M mappers, h and w height and width of a prepared
frame, c its channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from loupe.errors import RunError
from loupe.images import InputSpec
from loupe.inference import choose_device
from loupe.mapping import Mapper, draw_maps, list_drawn, load_mappers
from loupe.maskrules import CutMap, MaskRule, cut_map, read_mask_rule
from loupe.masks import encode_rle
from loupe.runs import Run

Bool = NDArray[np.bool_]
Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
UInt8 = NDArray[np.uint8]
Texts = tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Drawer:
    """What draws the masks of a run.

    Attributes:
        mappers: (M,) networks: of each member, every fold.
        rule: How their maps become masks.
    """

    mappers: tuple[Mapper, ...]
    rule: MaskRule

    @property
    def classes(self) -> tuple[str, ...]:
        """(C,) names of what is drawn."""
        return self.rule.classes

    @property
    def specs(self) -> tuple[InputSpec, ...]:
        """(M,) how images are prepared for each network."""
        return tuple(mapper.spec for mapper in self.mappers)


class DrawnMasks(NamedTuple):
    """Masks of some images, and what the networks say of them.

    Attributes:
        texts: n rows of C, run-length text at the final size; "" where there is no mask,
            or none was wanted.
        areas: (n, C) pixels of each mask.
        confidences: (n, C) mean probability of the pixels of each mask; NaN if it is empty.
        tops: (n, C) mean of the largest probabilities of each map; NaN if it was not wanted.
    """

    texts: Texts
    areas: Int64
    confidences: Float32
    tops: Float32


def open_drawer(run: Run, *, views: int | None = None, device: str) -> Drawer:
    """Load the networks and the cuts of a run.

    Args:
        run: Finished; its networks draw masks.
        views: Number of named views; None takes each recipe's own.
        device: `auto` or a torch device.

    Raises:
        RunError: the run names classes, a fold is not finished, or there are no cuts.
        InputError: the device is not there, or there are not so many views.
    """
    if not run.segments:
        raise RunError(
            f"{run.folder} draws no masks: its networks name classes. For those: loupe predict "
            f"{run.folder} IMAGES --out predictions.csv. Masks need a run whose recipe has a "
            "'decoder'."
        )
    rule = read_mask_rule(run.cuts_file)
    mappers = load_mappers(run, views=views, device=choose_device(device))
    lost = [name for name in rule.classes if name not in list_drawn(mappers, rule.classes)]
    if lost:
        raise RunError(
            f"{run.cuts_file} cuts the classes {lost}, which no network of the run draws. Expected "
            "the cuts that this run wrote."
        )
    return Drawer(mappers, rule)


def find_sizes(rule: MaskRule, shown: Int64) -> Int64:
    """Return the sizes at which masks are drawn: that of the rule, or of each image.

    Args:
        rule: Its size is used.
        shown: Height and width of the image files.

    Shape:
        shown: (n, 2). Returns the same.
    """
    return shown if rule.size is None else np.tile(np.array(rule.size, np.int64), (len(shown), 1))


def draw_masks(drawer: Drawer, images: Sequence[UInt8], sizes: Int64, wanted: Bool) -> DrawnMasks:
    """Draw the masks of some images.

    Args:
        drawer: Networks and cuts.
        images: Prepared for each network, in their order; the same array may stand twice.
        sizes: Height and width of the image files as shown.
        wanted: Which masks are drawn; an image of which a network has no class wanted
            does not enter it.

    Shape:
        images: M arrays (n, h, w, c). sizes: (n, 2). wanted: (n, C).

    Raises:
        RunError: a network gives NaN.
        InputError: shapes do not agree.
    """
    shape = wanted.shape
    texts = [[""] * len(drawer.classes) for _ in range(len(wanted))]
    areas = np.zeros(shape, np.int64)
    sure, tops = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
    # A map costs time and memory even where nothing is drawn on it.
    asked = np.flatnonzero(wanted.any(axis=1))
    drawn = draw_maps(
        drawer.mappers,
        drawer.classes,
        _take(images, asked, len(wanted)),
        find_sizes(drawer.rule, sizes)[asked],
        wanted[asked],
        shown=sizes[asked],
    )
    for at, maps in drawn:
        row = int(asked[at])
        for column in np.flatnonzero(wanted[row]).tolist():
            found: CutMap = cut_map(maps[column], drawer.rule.cuts[column])
            areas[row, column] = np.count_nonzero(found.mask)
            texts[row][column] = encode_rle(found.mask) if areas[row, column] else ""
            sure[row, column], tops[row, column] = found.confidence, found.top
    return DrawnMasks(tuple(map(tuple, texts)), areas, sure, tops)


def _take(images: Sequence[UInt8], rows: NDArray[np.intp], count: int) -> list[UInt8]:
    """Return some rows; arrays that stand twice are copied once."""
    if len(rows) == count:
        return list(images)
    taken = {id(each): each[rows] for each in images}
    return [taken[id(each)] for each in images]
