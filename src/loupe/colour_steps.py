"""The augmentation steps that change pixels where they are.

Owns their parameters and what they draw. They act on the output, after all moves
and in their own order. Names, parameters and defaults are those of albumentations
1.3.1; where a step differs, its docstring says so. It must not touch pixels: that
is `colour`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from loupe.colour import (
    Blur,
    Box,
    Contrast,
    Equalise,
    Gamma,
    Holes,
    Linear,
    Look,
    Mix,
    Motion,
    Noise,
    Shuffle,
    hue_matrix,
    saturation_matrix,
)
from loupe.geometry import Size
from loupe.steps import (
    ColourStep,
    Factor,
    FromOne,
    Grid,
    Kernel,
    Limits,
    Symmetric,
    UpTo,
    draw_uniform,
    within,
)

HUE_DEGREES = 2
"""Degrees in one unit of hue of OpenCV's 8-bit HSV, which albumentations counts in."""
HALF = 127.5
"""The middle of the grey scale."""
Length = Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)]
"""Whole pixels, or a fraction of the side."""


class RandomBrightnessContrast(ColourStep):
    """Multiply all values by one number and add another.

    Attributes:
        brightness_limit: Added, as a fraction of white.
        contrast_limit: Added to 1, the factor; it acts about black, as in albumentations.
    """

    name: Literal["RandomBrightnessContrast"] = "RandomBrightnessContrast"
    brightness_limit: Annotated[Symmetric, within(-1, 1)] = (-0.2, 0.2)
    contrast_limit: Annotated[Symmetric, within(-1, 5)] = (-0.2, 0.2)

    def choose(self, _size: Size, rng: np.random.Generator, /) -> tuple[Look, ...]:
        """Draw a factor and an offset."""
        scale = 1 + draw_uniform(self.contrast_limit, rng)
        return (Linear(scale=scale, offset=255 * draw_uniform(self.brightness_limit, rng)),)


class RandomGamma(ColourStep):
    """Raise all values, as fractions of white, to a power.

    Attributes:
        gamma_limit: Per cent: 80 is a power of 0.8, which brightens.
    """

    name: Literal["RandomGamma"] = "RandomGamma"
    gamma_limit: Annotated[Limits, within(10, 1000)] = (80, 120)

    def choose(self, _size: Size, rng: np.random.Generator, /) -> tuple[Look, ...]:
        """Draw a power."""
        return (Gamma(exponent=draw_uniform(self.gamma_limit, rng) / 100),)


class HueSaturationValue(ColourStep):
    """Shift the hue, strengthen or pale colours, and brighten or darken.

    The units are those of albumentations, but the change is linear in R, G and B:
    it folds into one matrix with its neighbours, and leaves grey images grey, where
    HSV tints them. The saturation is multiplied by 1 + shift / 127.5, which equals
    the shift at half saturation; the value shift is added to R, G and B.

    Attributes:
        hue_shift_limit: Units of 2 degrees, as in 8-bit HSV.
        sat_shift_limit: Grey levels.
        val_shift_limit: Grey levels.
    """

    name: Literal["HueSaturationValue"] = "HueSaturationValue"
    hue_shift_limit: Annotated[Symmetric, within(-90, 90)] = (-20, 20)
    sat_shift_limit: Annotated[Symmetric, within(-HALF, 255)] = (-30, 30)
    val_shift_limit: Annotated[Symmetric, within(-255, 255)] = (-20, 20)

    def choose(self, _size: Size, rng: np.random.Generator, /) -> tuple[Look, ...]:
        """Draw three shifts."""
        hue = hue_matrix(HUE_DEGREES * draw_uniform(self.hue_shift_limit, rng))
        saturation = saturation_matrix(1 + draw_uniform(self.sat_shift_limit, rng) / HALF)
        value = Linear(offset=draw_uniform(self.val_shift_limit, rng))
        return (Mix(matrix=saturation @ hue), value)


class ColorJitter(ColourStep):
    """Change brightness, contrast, saturation and hue, in this order.

    albumentations draws the order; here it is fixed, and the hue is turned about the
    grey axis, see `loupe.colour.hue_matrix`.

    Attributes:
        brightness: Factor; 0.2 stands for [0.8, 1.2].
        contrast: Factor of the distance from the image's mean brightness.
        saturation: Factor of the distance from grey.
        hue: Fraction of the colour circle; 0.2 stands for [-0.2, 0.2].
    """

    name: Literal["ColorJitter"] = "ColorJitter"
    brightness: Factor = (0.8, 1.2)
    contrast: Factor = (0.8, 1.2)
    saturation: Factor = (0.8, 1.2)
    hue: Annotated[Symmetric, within(-0.5, 0.5)] = (-0.2, 0.2)

    def choose(self, _size: Size, rng: np.random.Generator, /) -> tuple[Look, ...]:
        """Draw three factors and an angle."""
        brightness = Linear(scale=draw_uniform(self.brightness, rng))
        contrast = Contrast(scale=draw_uniform(self.contrast, rng))
        saturation = saturation_matrix(draw_uniform(self.saturation, rng))
        hue = hue_matrix(360 * draw_uniform(self.hue, rng))
        return (brightness, contrast, Mix(matrix=hue @ saturation))


class ToGray(ColourStep):
    """Replace colours by the grey of the same brightness; three channels stay three."""

    name: Literal["ToGray"] = "ToGray"

    def choose(self, _size: Size, _rng: np.random.Generator, /) -> tuple[Look, ...]:
        """Take all colour away."""
        return (Mix(matrix=saturation_matrix(0)),)


class CLAHE(ColourStep):
    """Equalise the histogram of brightness tile by tile, with limited contrast.

    Attributes:
        clip_limit: Limit of the contrast; 4 stands for [1, 4].
        tile_grid_size: [rows, columns] of tiles.
    """

    name: Literal["CLAHE"] = "CLAHE"
    clip_limit: Annotated[FromOne, within(1, 100)] = (1, 4)
    tile_grid_size: Grid = (8, 8)

    def choose(self, _size: Size, rng: np.random.Generator, /) -> tuple[Look, ...]:
        """Draw a limit."""
        return (Equalise(clip=draw_uniform(self.clip_limit, rng), tiles=self.tile_grid_size),)


class GaussianBlur(ColourStep):
    """Blur evenly.

    Attributes:
        blur_limit: Side of the kernel in pixels; 7 stands for [3, 7].
        sigma_limit: Deviation in pixels; 0 follows from the side of the kernel,
            ``0.3 * ((side - 1) / 2 - 1) + 0.8``.
    """

    name: Literal["GaussianBlur"] = "GaussianBlur"
    blur_limit: Kernel = (3, 7)
    sigma_limit: Annotated[UpTo, within(0, 50)] = (0, 0)

    def choose(self, _size: Size, rng: np.random.Generator, /) -> tuple[Look, ...]:
        """Draw a kernel."""
        side = _draw_odd(self.blur_limit, rng)
        return (Blur(size=side, sigma=draw_uniform(self.sigma_limit, rng)),)


class MotionBlur(ColourStep):
    """Blur along a straight line through each pixel, in a random direction.

    albumentations also shifts the image by moving the line off the middle; that
    would part an image from its masks.

    Attributes:
        blur_limit: Length of the line in pixels; 7 stands for [3, 7].
    """

    name: Literal["MotionBlur"] = "MotionBlur"
    blur_limit: Kernel = (3, 7)

    def choose(self, _size: Size, rng: np.random.Generator, /) -> tuple[Look, ...]:
        """Draw a length and a direction."""
        side = _draw_odd(self.blur_limit, rng)
        return (Motion(size=side, degrees=180 * float(rng.random())),)


class GaussNoise(ColourStep):
    """Add Gaussian noise.

    Attributes:
        var_limit: Variance, in grey levels squared; 50 stands for [0, 50].
        per_channel: Draw each channel apart; otherwise the noise is grey.
    """

    name: Literal["GaussNoise"] = "GaussNoise"
    var_limit: Annotated[UpTo, within(0, 65025)] = (10, 50)
    per_channel: bool = True

    def choose(self, _size: Size, rng: np.random.Generator, /) -> tuple[Look, ...]:
        """Draw a deviation, and the seed of the noise."""
        sigma = draw_uniform(self.var_limit, rng) ** 0.5
        seed = int(rng.integers(2**63))
        return (Noise(sigma=sigma, seed=seed, per_channel=self.per_channel),)


class CoarseDropout(ColourStep):
    """Fill boxes with one grey level; masks keep what was there.

    Attributes:
        max_holes: Most boxes.
        max_height: Most rows of a box, in pixels, or below 1 as a fraction.
        max_width: Most columns of a box, likewise.
        min_holes: Fewest boxes; as max_holes if not given.
        min_height: Fewest rows, in the unit of max_height, which it is if not given.
        min_width: Fewest columns, likewise.
        fill_value: Grey level of the boxes.
    """

    name: Literal["CoarseDropout"] = "CoarseDropout"
    max_holes: Annotated[int, Field(ge=1, le=1000)] = 8
    max_height: Length = 8
    max_width: Length = 8
    min_holes: Annotated[int, Field(ge=1, le=1000)] | None = None
    min_height: Length | None = None
    min_width: Length | None = None
    fill_value: Annotated[int, Field(ge=0, le=255)] = 0

    @model_validator(mode="after")
    def _check_order(self) -> CoarseDropout:
        for side in ("holes", "height", "width"):
            least, most = getattr(self, f"min_{side}"), getattr(self, f"max_{side}")
            if least is not None and (type(least) is not type(most) or least > most):
                raise ValueError(
                    f"expected min_{side} <= max_{side}, both whole or both fractions; "
                    f"found {least} and {most}"
                )
        return self

    def choose(self, size: Size, rng: np.random.Generator, /) -> tuple[Look, ...]:
        """Draw the number of boxes, their sizes and places."""
        least = self.max_holes if self.min_holes is None else self.min_holes
        count = int(rng.integers(least, self.max_holes + 1))
        boxes = tuple(self._draw_box(size, rng) for _ in range(count))
        return (Holes(boxes=boxes, fill=self.fill_value),)

    def _draw_box(self, size: Size, rng: np.random.Generator) -> Box:
        """Draw a box that lies in the image as a whole."""
        height = _draw_length(self.min_height, self.max_height, size[0], rng)
        width = _draw_length(self.min_width, self.max_width, size[1], rng)
        top = int(rng.integers(size[0] - height + 1))
        left = int(rng.integers(size[1] - width + 1))
        return (top, left, height, width)


class RandomGridShuffle(ColourStep):
    """Cut the image into tiles and shuffle them, with its masks.

    Only tiles of equal size change places; with sides that do not divide evenly
    some tiles are a pixel larger.

    Attributes:
        grid: [rows, columns] of tiles.
    """

    name: Literal["RandomGridShuffle"] = "RandomGridShuffle"
    grid: Grid = (3, 3)

    def choose(self, size: Size, rng: np.random.Generator, /) -> tuple[Look, ...]:
        """Draw a permutation of the tiles of each size."""
        moves: list[tuple[Box, Box]] = []
        for tiles in _cut_tiles(size, self.grid).values():
            order = rng.permutation(len(tiles))
            moves += [(tiles[i], tile) for i, tile in zip(order, tiles, strict=True)]
        return (Shuffle(moves=tuple(moves)),)


def _draw_odd(limits: tuple[int, int], rng: np.random.Generator) -> int:
    odd = range(limits[0] | 1, limits[1] + 1, 2)
    return odd[int(rng.integers(len(odd)))]


def _draw_length(least: float | None, most: float, side: int, rng: np.random.Generator) -> int:
    """Draw a length in pixels, at least 1 and at most the side."""
    ends = [most if least is None else least, most]
    low, high = (min(max(round(end * side if end < 1 else end), 1), side) for end in ends)
    return int(rng.integers(low, high + 1))


def _cut_tiles(size: Size, grid: tuple[int, int]) -> dict[Size, list[Box]]:
    """Cut an image into tiles, sorted by their size."""
    rows, columns = (
        np.linspace(0, side, min(parts, side) + 1).astype(int).tolist()
        for side, parts in zip(size, grid, strict=True)
    )
    tiles: dict[Size, list[Box]] = {}
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            box = (top, left, bottom - top, right - left)
            tiles.setdefault(box[2:], []).append(box)
    return tiles
