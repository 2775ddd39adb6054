"""Training crops of an image with its masks: where they lie, and one map for all.

Owns the place of the crop, and that moves and crop become one map, so that no more of
the image is resampled than the crop shows. It must not know of batches or recipes, nor
keep any state; what the steps do is said in `augment`.

Shapes: H height, W width, h and w those of the crop, C channels (1 or 3), K masks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from loupe.augment import AnyStep, Drawn, apply_drawn, apply_to_masks, augment_pair, draw
from loupe.erasing import MaskDropout, erase_defects
from loupe.errors import InputError
from loupe.geometric_steps import RandomCrop
from loupe.geometry import Size, move, start_geometry, window_matrix
from loupe.steps import ColourStep, GeometricStep

UInt8 = NDArray[np.uint8]


def augment_masked(
    image: UInt8,
    masks: UInt8,
    steps: Sequence[AnyStep],
    rng: np.random.Generator,
    *,
    crop: Size | None,
    nonempty: float,
) -> tuple[UInt8, UInt8]:
    """Augment one image with its masks, and cut a crop that often shows a mask.

    `MaskDropout` acts first, then all moves of the sample and the crop as one map, then
    the looks at the crop's size. Where the moved masks have a pixel, a share of the
    crops is placed for it: a class that is there is drawn, one of its pixels is drawn,
    both uniformly, and so is the crop among those that contain this pixel. All other
    crops lie anywhere, uniformly, so that some of them show a mask too.

    Args:
        image: RGB or grey, as it was prepared; it is not written to.
        masks: One channel a class, not 0 where it is; they are not written to.
        steps: See `augment.parse_steps`. A `RandomCrop` of the crop's size is left out,
            as the crop takes its place.
        rng: The random numbers of the sample, see `augment.sample_rng`; they are used
            up, and the result is a function of them and the arguments alone.
        crop: Height and width of the output, in pixels; None keeps the whole, and then
            the result is that of `augment.augment_pair`.
        nonempty: The share of crops placed for a pixel of a mask, in [0, 1].

    Shape:
        image: (H, W, C) uint8. masks: (H, W, K) uint8; K may be 0.

    Returns:
        (h, w, C) and (h, w, K) uint8; the image and the masks given where the crop is
        None and nothing is drawn.

    Raises:
        InputError: the image is smaller than the crop, dtype or shape are others, or
            sizes of image and masks differ.

    Examples:
        >>> image = np.zeros((6, 8, 3), dtype=np.uint8)
        >>> masks = np.zeros((6, 8, 1), dtype=np.uint8)
        >>> masks[5, 7] = 1
        >>> rng = np.random.default_rng(1)
        >>> cut = augment_masked(image, masks, (), rng, crop=(2, 3), nonempty=1.0)
        >>> cut[0].shape, cut[1][..., 0].tolist()
        ((2, 3, 3), [[0, 0, 0], [0, 0, 1]])
    """
    if crop is None:
        return augment_pair(image, masks, steps, rng)
    dropping = [step for step in steps if isinstance(step, MaskDropout)]
    image, masks = erase_defects(image, masks, dropping, rng)
    moves = [step for step in steps if isinstance(step, GeometricStep) and not _is(step, crop)]
    geometry = draw(moves, rng, *image.shape[:2]).geometry
    _check_room(geometry.size, crop)
    moved, pixel = None, None
    if rng.random() < nonempty and masks.any():
        moved = apply_to_masks(masks, Drawn(geometry=geometry, looks=()))
        pixel = _choose_pixel(moved, rng)
    top, left = _place_crop(geometry.size, crop, pixel, rng)
    looks = draw([step for step in steps if isinstance(step, ColourStep)], rng, *crop).looks
    window = window_matrix((top, left, *crop), crop)
    drawn = Drawn(geometry=move(geometry, window, size=crop), looks=looks)
    if moved is None:
        return apply_drawn(image, drawn), apply_to_masks(masks, drawn)
    # Not warped again: rounding could part the masks from the pixel they were placed for.
    cut = moved[top : top + crop[0], left : left + crop[1]]
    still = Drawn(geometry=start_geometry(*crop), looks=looks)
    return apply_drawn(image, drawn), apply_to_masks(np.ascontiguousarray(cut), still)


def _is(step: GeometricStep, crop: Size) -> bool:
    return isinstance(step, RandomCrop) and (step.height, step.width) == crop


def _check_room(size: Size, crop: Size) -> None:
    if crop[0] > size[0] or crop[1] > size[1] or min(crop) < 1:
        raise InputError(
            f"a crop of {crop[0]} x {crop[1]} pixels (height x width) cannot be cut out of an "
            f"image of {size[0]} x {size[1]}; make input.crop smaller, or input.size larger."
        )


def _choose_pixel(masks: UInt8, rng: np.random.Generator) -> tuple[int, int] | None:
    """Row and column of a pixel of a class that is there; None if there is none."""
    # Compared first: NumPy looks for True ten times faster than for any other number.
    found = np.flatnonzero(masks != 0)
    if not len(found):
        return None
    channels = found % masks.shape[2]
    present = np.flatnonzero(np.bincount(channels))
    # A small defect beside a large one of another class is met as often.
    of_class = found[channels == present[rng.integers(len(present))]]
    chosen = int(of_class[rng.integers(len(of_class))])
    row, column = divmod(chosen // masks.shape[2], masks.shape[1])
    return row, column


def _place_crop(
    size: Size, crop: Size, pixel: tuple[int, int] | None, rng: np.random.Generator
) -> tuple[int, int]:
    """Top and left, uniform among the places that contain the pixel, if there is one."""
    top, left = (
        int(
            rng.integers(
                0 if pixel is None else max(0, pixel[axis] - crop[axis] + 1),
                (rest if pixel is None else min(pixel[axis], rest)) + 1,
            )
        )
        for axis, rest in enumerate((size[0] - crop[0], size[1] - crop[1]))
    )
    return top, left
