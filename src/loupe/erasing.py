"""The augmentation step that paints defects away, by their masks.

Owns the parameters of `MaskDropout`, which defects it takes, and what it puts in
their place. It acts before all moves, on the image and its masks as they were
prepared. It must not change targets: what a missing defect means for a label is
said in `augment`.

Shapes: H height, W width, C channels (1 or 3), K masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from loupe.errors import InputError
from loupe.steps import Count, Step

UInt8 = NDArray[np.uint8]
Bool = NDArray[np.bool_]
Masks = TypeVar("Masks", NDArray[np.uint8], NDArray[np.bool_])

EDGE_PX = 3
"""How far around a mask is painted too: the soft edge of a defect would give it away."""
RADIUS_PX = 3
"""Neighbourhood that a painted pixel is made of; as in albumentations."""


class MaskDropout(Step):
    """Paint some defects away; a class that has none left loses its label.

    A defect is a connected piece of the mask of one class; pieces within a few pixels
    of each other are one, as a thin crack falls apart when its mask is made smaller.
    It is painted with a margin of 3 pixels, for its soft edge. Other defects are
    spared, but where one of another class lies on it, that goes too.

    It needs a table with masks, and acts before all moves wherever it stands in the
    list. Moves clear no label, also where a crop cuts the last defect off.

    albumentations 1.3.1 calls `fill` `image_fill_value`, later versions "inpaint"
    "inpaint_telea". Their default is 0, but a black blot tells that a defect was there.
    So does, less so, the smooth patch that "inpaint" leaves of a large defect; where
    one fills the whole image, nothing is left to continue and it stays.

    Attributes:
        max_objects: How many defects of an image are taken; 3 stands for [1, 3].
        fill: "inpaint" continues the surroundings; a number is a grey level.

    References:
        Telea (2004), "An Image Inpainting Technique Based on the Fast Marching
        Method", Journal of Graphics Tools 9(1).
    """

    name: Literal["MaskDropout"] = "MaskDropout"
    max_objects: Count = (1, 1)
    fill: Literal["inpaint"] | Annotated[int, Field(ge=0, le=255)] = "inpaint"


def erase_defects(
    image: UInt8, masks: Masks, steps: Sequence[MaskDropout], rng: np.random.Generator
) -> tuple[UInt8, Masks]:
    """Paint some defects of an image away, and clear them in its masks.

    Args:
        image: RGB or grey, as it was prepared; it is not written to.
        masks: One channel a class, not 0 where its defects are; not written to.
        steps: One after the other.
        rng: The random numbers of the sample.

    Shape:
        image: (H, W, C) uint8. masks: (H, W, K) uint8 or bool.

    Returns:
        The image and its masks; the ones given if nothing was painted.

    Raises:
        InputError: dtype or shape are others, or image and masks are of two sizes.
    """
    if not steps:
        return image, masks
    _check_pair(image, masks)
    left = masks.view(np.uint8)
    for step in steps:
        if rng.random() < step.p:
            image, left = _erase(image, left, step, rng)
    return image, left.view(masks.dtype)


def _erase(
    image: UInt8, masks: UInt8, step: MaskDropout, rng: np.random.Generator
) -> tuple[UInt8, UInt8]:
    there = masks != 0
    taken, reach = _take_defects(there, step.max_objects, rng)
    painted = reach & ~(there.any(axis=2) & ~taken)
    if not painted.any() or (step.fill == "inpaint" and painted.all()):
        return image, masks
    left = masks.copy()
    left[painted] = 0
    if step.fill == "inpaint":
        return _inpaint(image, painted), left
    filled = image.copy()
    filled[painted] = step.fill
    return filled, left


def _take_defects(
    there: Bool, limits: tuple[int, int], rng: np.random.Generator
) -> tuple[Bool, Bool]:
    """Choose defects; return the pixels of those taken, without and with their margin."""
    side = 2 * EDGE_PX + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    defects = []
    for channel in np.flatnonzero(there.any(axis=(0, 1))):
        mask = np.ascontiguousarray(there[..., channel])
        count, labels = cv2.connectedComponents(cv2.dilate(mask.view(np.uint8), disc))
        defects += [(mask, labels, label) for label in range(1, count)]
    wanted = int(rng.integers(limits[0], limits[1] + 1))
    taken = np.zeros(there.shape[:2], np.bool_)
    reach = np.zeros(there.shape[:2], np.bool_)
    for at in rng.permutation(len(defects))[:wanted]:
        mask, labels, label = defects[at]
        around = labels == label
        reach |= around
        taken |= around & mask
    return taken, reach


def _inpaint(image: UInt8, painted: Bool) -> UInt8:
    """Continue the surroundings into the painted pixels."""
    rows, columns = np.flatnonzero(painted.any(axis=1)), np.flatnonzero(painted.any(axis=0))
    # A pixel is made of those within the radius; the rest of the image need not be seen.
    margin = RADIUS_PX + 2
    box = (
        slice(max(rows[0] - margin, 0), rows[-1] + margin + 1),
        slice(max(columns[0] - margin, 0), columns[-1] + margin + 1),
    )
    hole = painted[box].view(np.uint8)
    filled = image.copy()
    part = cv2.inpaint(
        np.ascontiguousarray(image[box]), np.ascontiguousarray(hole), RADIUS_PX, cv2.INPAINT_TELEA
    )
    filled[box] = part.reshape(filled[box].shape)
    return filled


def _check_pair(image: UInt8, masks: Masks) -> None:
    right = image.dtype == np.uint8 and masks.dtype in (np.uint8, np.bool_)
    if not right or image.ndim != 3 or masks.ndim != 3 or image.shape[:2] != masks.shape[:2]:
        raise InputError(
            f"an image of shape {image.shape} and dtype {image.dtype} with masks of shape "
            f"{masks.shape} and dtype {masks.dtype}; expected (H, W, C) of uint8 and (H, W, K) of "
            "uint8 or bool, of one height and width."
        )
