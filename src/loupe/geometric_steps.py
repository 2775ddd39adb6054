"""The augmentation steps that move pixels.

Owns their parameters and what they draw; the pixels are moved later, once for all
of them. Names, parameters and defaults are those of albumentations 1.3.1; where a
step differs, its docstring says so. One difference is common to all: outside of the
image they read its mirror image (``border: reflect``), Affine too, since black
wedges are a cue a network learns, and a surface goes on at its edge. Write
``border: constant`` for black, where a mirrored object would be wrong.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import cv2
import numpy as np
from pydantic import Field, model_validator

from loupe.geometry import (
    Border,
    Float32,
    Geometry,
    bend,
    centred_matrix,
    mirror_matrix,
    move,
    rotation_matrix,
    transpose_matrix,
    window_matrix,
)
from loupe.steps import GeometricStep, Limits, Pair, Symmetric, draw_uniform, within

LEAST_SCALE = 0.5
"""Shrinking further would need a low-pass filter, see `loupe.geometry.warp`."""
WINDOW_TRIES = 10
"""Windows drawn before a centred one is taken; torchvision and albumentations agree."""
Side = Annotated[int, Field(ge=1, le=16384)]


class HorizontalFlip(GeometricStep):
    """Swap left and right."""

    name: Literal["HorizontalFlip"] = "HorizontalFlip"

    def extend(self, geometry: Geometry, _rng: np.random.Generator, /) -> Geometry:
        """Append a mirror."""
        return move(geometry, mirror_matrix(geometry.size, horizontal=True))


class VerticalFlip(GeometricStep):
    """Swap up and down."""

    name: Literal["VerticalFlip"] = "VerticalFlip"

    def extend(self, geometry: Geometry, _rng: np.random.Generator, /) -> Geometry:
        """Append a mirror."""
        return move(geometry, mirror_matrix(geometry.size, horizontal=False))


class Transpose(GeometricStep):
    """Swap rows and columns of a square image; an oblong one stays as it is.

    albumentations swaps the sides of an oblong image; a batch of swapped and
    unswapped images cannot be stacked, so here every step but RandomCrop keeps the
    size.
    """

    name: Literal["Transpose"] = "Transpose"

    def extend(self, geometry: Geometry, _rng: np.random.Generator, /) -> Geometry:
        """Append a swap of x and y."""
        height, width = geometry.size
        return move(geometry, transpose_matrix()) if height == width else geometry


class RandomRotate90(GeometricStep):
    """Turn by 0, 90, 180 or 270 degrees; an oblong image by 0 or 180.

    A quarter turn would swap the sides of an oblong image, see `Transpose`.
    """

    name: Literal["RandomRotate90"] = "RandomRotate90"

    def extend(self, geometry: Geometry, rng: np.random.Generator, /) -> Geometry:
        """Draw the number of turns; all are equally likely."""
        height, width = geometry.size
        turns = int(rng.integers(4)) if height == width else 2 * int(rng.integers(2))
        return move(geometry, rotation_matrix(geometry.size, 90 * turns))


class Rotate(GeometricStep):
    """Rotate about the centre; the size stays, so corners are lost.

    Attributes:
        limit: Degrees, counter-clockwise; 20 stands for [-20, 20].
        border: What lies outside of the image: "reflect" or "constant" (black).
    """

    name: Literal["Rotate"] = "Rotate"
    limit: Annotated[Symmetric, within(-180, 180)] = (-90, 90)
    border: Border = "reflect"

    def extend(self, geometry: Geometry, rng: np.random.Generator, /) -> Geometry:
        """Draw an angle."""
        matrix = rotation_matrix(geometry.size, draw_uniform(self.limit, rng))
        return move(geometry, matrix, border=self.border)


class ShiftScaleRotate(GeometricStep):
    """Rotate and scale about the centre, then shift.

    Attributes:
        shift_limit: Fraction of the width and of the height, drawn apart.
        scale_limit: Added to 1: 0.1 stands for factors in [0.9, 1.1].
        rotate_limit: Degrees, counter-clockwise.
        border: What lies outside of the image: "reflect" or "constant" (black).
    """

    name: Literal["ShiftScaleRotate"] = "ShiftScaleRotate"
    shift_limit: Annotated[Symmetric, within(-1, 1)] = (-0.0625, 0.0625)
    scale_limit: Annotated[Symmetric, within(LEAST_SCALE - 1, 9)] = (-0.1, 0.1)
    rotate_limit: Annotated[Symmetric, within(-180, 180)] = (-45, 45)
    border: Border = "reflect"

    def extend(self, geometry: Geometry, rng: np.random.Generator, /) -> Geometry:
        """Draw an angle, a factor and two shifts."""
        angle = draw_uniform(self.rotate_limit, rng)
        factor = 1 + draw_uniform(self.scale_limit, rng)
        shift = _draw_shift(self.shift_limit, geometry, rng)
        matrix = centred_matrix(geometry.size, factor * _turn(angle), shift)
        return move(geometry, matrix, border=self.border)


class Affine(GeometricStep):
    """Scale, shear and rotate about the centre, then shift.

    With none of the four ranges given, all four act mildly, as in albumentations;
    with some given, the others rest. A number alone is refused: albumentations
    takes it for a fixed value here, and other steps for a range about 0.

    Attributes:
        scale: Factors, at least 0.5.
        translate_percent: Fraction of the width and of the height, drawn apart.
        rotate: Degrees, counter-clockwise.
        shear: Degrees along x and along y, drawn apart.
        keep_ratio: Draw one factor for both sides instead of one each.
        border: What lies outside of the image: "reflect" or "constant" (black).
    """

    name: Literal["Affine"] = "Affine"
    scale: Annotated[Limits, within(LEAST_SCALE, 10)] = (1, 1)
    translate_percent: Annotated[Limits, within(-1, 1)] = (0, 0)
    rotate: Annotated[Limits, within(-180, 180)] = (0, 0)
    shear: Annotated[Limits, within(-60, 60)] = (0, 0)
    keep_ratio: bool = False
    border: Border = "reflect"

    @model_validator(mode="before")
    @classmethod
    def _act_mildly(cls, data: Any) -> Any:
        mild = {
            "scale": (0.9, 1.1),
            "translate_percent": (-0.1, 0.1),
            "rotate": (-15, 15),
            "shear": (-10, 10),
        }
        return mild | data if isinstance(data, dict) and not mild.keys() & data else data

    def extend(self, geometry: Geometry, rng: np.random.Generator, /) -> Geometry:
        """Draw two factors, two angles of shear, an angle and two shifts."""
        x_scale, y_scale = draw_uniform(self.scale, rng), draw_uniform(self.scale, rng)
        x_shear, y_shear = draw_uniform(self.shear, rng), draw_uniform(self.shear, rng)
        scale = np.diag([x_scale, x_scale if self.keep_ratio else y_scale])
        # One shear after the other: the area stays, whatever the angles.
        along_x = np.array([[1.0, math.tan(math.radians(x_shear))], [0, 1]])
        along_y = np.array([[1.0, 0], [math.tan(math.radians(y_shear)), 1]])
        linear = _turn(draw_uniform(self.rotate, rng)) @ along_x @ along_y @ scale
        shift = _draw_shift(self.translate_percent, geometry, rng)
        return move(geometry, centred_matrix(geometry.size, linear, shift), border=self.border)


class RandomResizedCrop(GeometricStep):
    """Take a window of the image and stretch it to the image's own size.

    albumentations asks for a height and a width; here the size is that of the
    prepared image.

    Attributes:
        scale: Area of the window as a fraction of the image's.
        ratio: Width by height of the window, in pixels; its logarithm is uniform.
    """

    name: Literal["RandomResizedCrop"] = "RandomResizedCrop"
    scale: Annotated[Limits, within(0.01, 1)] = (0.08, 1.0)
    ratio: Annotated[Limits, within(0.05, 20)] = (3 / 4, 4 / 3)
    p: float = Field(default=1.0, ge=0, le=1)

    def extend(self, geometry: Geometry, rng: np.random.Generator, /) -> Geometry:
        """Draw an area, a ratio and a place."""
        height, width = self._draw_window(geometry, rng)
        top = (geometry.size[0] - height) * rng.random()
        left = (geometry.size[1] - width) * rng.random()
        return move(geometry, window_matrix((top, left, height, width), geometry.size))

    def _draw_window(self, geometry: Geometry, rng: np.random.Generator) -> Pair:
        """Draw a height and a width that fit into the canvas."""
        height, width = geometry.size
        logs = (math.log(self.ratio[0]), math.log(self.ratio[1]))
        for _ in range(WINDOW_TRIES):
            area = height * width * draw_uniform(self.scale, rng)
            ratio = math.exp(draw_uniform(logs, rng))
            window = (math.sqrt(area / ratio), math.sqrt(area * ratio))
            if window[0] <= height and window[1] <= width:
                return window
        ratio = min(max(width / height, self.ratio[0]), self.ratio[1])
        return (min(height, width / ratio), min(width, height * ratio))


class RandomCrop(GeometricStep):
    """Take a window of a fixed size; the output has this size.

    A side that is too short is filled by the border, at a random place;
    albumentations fails instead.

    Attributes:
        height: Of the output, in pixels.
        width: Of the output, in pixels.
        border: What lies outside of the image: "reflect" or "constant" (black).
        p: 1 and nothing else, or images of two sizes would meet in a batch.
    """

    name: Literal["RandomCrop"] = "RandomCrop"
    height: Side
    width: Side
    border: Border = "reflect"
    p: float = Field(default=1.0, ge=1, le=1)

    def extend(self, geometry: Geometry, rng: np.random.Generator, /) -> Geometry:
        """Draw a place, in whole pixels."""
        size = (self.height, self.width)
        top, left = (
            math.copysign(int(rng.integers(abs(rest) + 1)), rest)
            for rest in (geometry.size[0] - size[0], geometry.size[1] - size[1])
        )
        matrix = window_matrix((top, left, *size), size)
        return move(geometry, matrix, size=size, border=self.border)


class GridDistortion(GeometricStep):
    """Stretch and squeeze the columns and rows of a grid.

    Their widths are multiplied by random factors and then made to fill the image
    again, so nothing leaves it (``normalized=True`` in albumentations).

    Attributes:
        num_steps: Cells on a side.
        distort_limit: Added to 1, the factor of a width.
        border: What lies outside of the image, where another step shows it.
    """

    name: Literal["GridDistortion"] = "GridDistortion"
    num_steps: Annotated[int, Field(ge=1, le=64)] = 5
    distort_limit: Annotated[Symmetric, within(-0.9, 0.9)] = (-0.3, 0.3)
    border: Border = "reflect"

    def extend(self, geometry: Geometry, rng: np.random.Generator, /) -> Geometry:
        """Draw a factor for each column and each row."""
        height, width = geometry.size
        shift = np.empty((2, height, width), np.float32)
        shift[0] = self._draw_line(width, rng)
        shift[1] = self._draw_line(height, rng)[:, None]
        return bend(geometry, shift, border=self.border)

    def _draw_line(self, side: int, rng: np.random.Generator) -> Float32:
        """Displacements along one side, straight between the lines of the grid."""
        low, high = self.distort_limit
        widths = 1 + low + (high - low) * rng.random(self.num_steps)
        ends = np.concatenate([[0.0], np.cumsum(widths)])
        even = np.linspace(0, side, self.num_steps + 1)
        # Pixel i has its centre i + 0.5 away from the edge of the image.
        shift = np.interp(np.arange(side) + 0.5, even, ends / ends[-1] * side - even)
        return np.asarray(shift, np.float32)


class ElasticTransform(GeometricStep):
    """Move every pixel a little, its neighbours nearly alike.

    White noise in [-1, 1], blurred by a Gaussian and multiplied by alpha: the mean
    displacement along a side is about ``0.16 * alpha / sigma`` pixels. The defaults of
    albumentations, alpha 1 and sigma 50, move nothing by more than 0.02 pixels
    (what is seen there comes from its own affine part, which is `Affine` here), so
    these are the ones of its widely copied example: 120 and 6.

    Attributes:
        alpha: Strength, in pixels before the blur.
        sigma: Deviation of the blur in pixels; small is crumpled, large is wavy.
        border: What lies outside of the image: "reflect" or "constant" (black).

    References:
        Simard, Steinkraus & Platt (2003), "Best Practices for Convolutional Neural
        Networks Applied to Visual Document Analysis", ICDAR, section 2.
    """

    name: Literal["ElasticTransform"] = "ElasticTransform"
    alpha: float = Field(default=120, ge=0, le=10000)
    sigma: float = Field(default=6, ge=1, le=200)
    border: Border = "reflect"

    def extend(self, geometry: Geometry, rng: np.random.Generator, /) -> Geometry:
        """Draw a displacement for each pixel."""
        height, width = geometry.size
        # A field blurred this much has no detail below sigma / 2: it is drawn on a
        # grid of that spacing and enlarged. The deviation of blurred white noise
        # falls as 1 / sigma, which the division by the spacing makes up for.
        spacing = max(1.0, self.sigma / 2)
        coarse = (math.ceil(height / spacing) + 1, math.ceil(width / spacing) + 1)
        noise = rng.random((*coarse, 2), dtype=np.float32) * 2 - 1
        noise = cv2.GaussianBlur(noise, (0, 0), self.sigma / spacing) * (self.alpha / spacing)
        shift = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
        planes = np.ascontiguousarray(np.moveaxis(shift, 2, 0), np.float32)
        return bend(geometry, planes, border=self.border)


def _turn(degrees: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(2, 2) forward rotation, counter-clockwise on a screen, where y points down."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[cos, sin], [-sin, cos]])


def _draw_shift(limits: Pair, geometry: Geometry, rng: np.random.Generator) -> Pair:
    height, width = geometry.size
    return (draw_uniform(limits, rng) * width, draw_uniform(limits, rng) * height)
