"""Where each pixel comes from: many moves of an image, composed into one map.

Owns `Geometry`, the moves that extend it, and `warp`, the one place where an
augmented image is resampled. Each move costs a 3 x 3 product and no pixels, so
three moves blur a hairline crack no more than one does. It must not draw random
numbers or change colours.

Convention: matrices are 3 x 3, act on columns (x, y, 1) and point backwards: from
a pixel of the output to the place in the source it is read from. Pixel centres
lie on whole numbers, so an image spans [-0.5, W - 0.5] and its centre is
(W - 1) / 2. Sizes are (height, width). Angles are in degrees, counter-clockwise.

Shapes: H height, W width, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

UInt8 = NDArray[np.uint8]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Planes = tuple[Float32, Float32]
"""x and y, each (H, W), in pixels."""
Size = tuple[int, int]
Border = Literal["reflect", "constant"]

WHOLE_PX = 1e-6
"""A place this near to a pixel centre is on it; OpenCV itself resolves 1/32 px."""
MOST_CHANNELS = 4
"""Channels that every warping function of OpenCV handles at once."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bend:
    """A dense displacement, and the map from its canvas back to what lay before.

    Attributes:
        shift: (2, H, W) float32, x and y in pixels: the pixel p of this canvas is read
            at ``matrix @ (p + shift[:, p])``.
        matrix: (3, 3) float64.
    """

    shift: Float32
    matrix: Float64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Geometry:
    """The one map of a sample, from pixels of the output back to the source.

    Attributes:
        source: Size of the image that is read.
        size: Size of the output so far; a further move acts on this canvas.
        matrix: (3, 3) float64, from the output to the canvas of the last bend, or
            to the source if there is none.
        bends: Dense displacements, the one nearest to the source first.
        border: What is read outside of the source. "reflect" mirrors it without
            repeating the edge; "constant" is black. "constant" wins as soon as one
            move asks for it.
    """

    source: Size
    size: Size
    matrix: Float64
    bends: tuple[Bend, ...] = ()
    border: Border = "reflect"


def start_geometry(height: int, width: int) -> Geometry:
    """Start from an image as it is.

    Args:
        height: Of the image, in pixels, at least 1.
        width: Of the image, in pixels, at least 1.
    """
    return Geometry(source=(height, width), size=(height, width), matrix=np.eye(3))


def move(
    geometry: Geometry, matrix: Float64, *, size: Size | None = None, border: Border = "reflect"
) -> Geometry:
    """Append an affine move.

    Args:
        geometry: The moves before this one.
        matrix: (3, 3), from the new canvas to the present one.
        size: Of the new canvas; the present size if not given.
        border: What this move wants outside of the source.
    """
    return replace(
        geometry,
        matrix=geometry.matrix @ matrix,
        size=size or geometry.size,
        border=_join_borders(geometry.border, border),
    )


def bend(geometry: Geometry, shift: Float32, *, border: Border = "reflect") -> Geometry:
    """Append a dense displacement; past its edge the outermost one continues.

    Args:
        geometry: The moves before this one.
        shift: (2, H, W) float32, x and y in pixels, on the present canvas.
        border: What this move wants outside of the source.
    """
    return replace(
        geometry,
        matrix=np.eye(3),
        bends=(*geometry.bends, Bend(shift=shift, matrix=geometry.matrix)),
        border=_join_borders(geometry.border, border),
    )


def mirror_matrix(size: Size, *, horizontal: bool) -> Float64:
    """Map a canvas onto its mirror image; horizontal swaps left and right."""
    height, width = size
    if horizontal:
        return np.array([[-1.0, 0, width - 1], [0, 1, 0], [0, 0, 1]])
    return np.array([[1.0, 0, 0], [0, -1, height - 1], [0, 0, 1]])


def transpose_matrix() -> Float64:
    """Swap x and y; the canvas must be square to keep its size."""
    return np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]])


def rotation_matrix(size: Size, degrees: float) -> Float64:
    """Turn a canvas counter-clockwise about its centre, as `numpy.rot90` turns."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # y points down, so a counter-clockwise turn is [[cos, sin], [-sin, cos]] forwards.
    return centred_matrix(size, np.array([[cos, sin], [-sin, cos]]))


def centred_matrix(size: Size, linear: Float64, shift: tuple[float, float] = (0, 0)) -> Float64:
    """Turn a forward move about the centre of a canvas into a backward matrix.

    Args:
        size: Of the canvas.
        linear: (2, 2), forwards: where (x, y) relative to the centre goes to.
        shift: (x, y) in pixels, added afterwards; positive is right and down.
    """
    height, width = size
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    matrix = np.eye(3)
    matrix[:2, :2] = np.linalg.inv(linear)
    matrix[:2, 2] = centre - matrix[:2, :2] @ (centre + shift)
    return matrix


def window_matrix(window: tuple[float, float, float, float], size: Size) -> Float64:
    """Stretch a window of a canvas to an output.

    Edges meet edges, not centres: the window spans [left - 0.5, left + width - 0.5].

    Args:
        window: (top, left, height, width) in pixels, not necessarily whole.
        size: Of the output.
    """
    top, left, height, width = window
    x_scale, y_scale = width / size[1], height / size[0]
    x_shift, y_shift = left - 0.5 + x_scale / 2, top - 0.5 + y_scale / 2
    return np.array([[x_scale, 0, x_shift], [0, y_scale, y_shift], [0, 0, 1]])


def warp(array: UInt8, geometry: Geometry, *, nearest: bool = False) -> UInt8:
    """Read an array through the map: the only resampling of a sample.

    A map made of mirrors, quarter turns and whole-pixel crops moves pixels and
    changes none. Any other is interpolated once, by `cv2.warpAffine`, or
    `cv2.remap` if something bends. There is no low-pass filter for shrinking: steps
    shrink by a factor of 2 at most, where linear interpolation still sees each pixel.

    Args:
        array: What to read.
        geometry: The map, made for arrays of this height and width.
        nearest: Take the nearest pixel instead of a linear mean, for masks.

    Shape:
        array: (H, W, C) uint8.

    Returns:
        (H', W', C), contiguous; the array itself if nothing moves.

    Examples:
        >>> image = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
        >>> mirror = mirror_matrix((2, 3), horizontal=True)
        >>> warp(image, move(start_geometry(2, 3), mirror))[..., 0].tolist()
        [[2, 1, 0], [5, 4, 3]]
    """
    if _is_still(geometry):
        return array
    read = _choose_reader(geometry, nearest=nearest)
    channels = array.shape[2]
    parts = [
        read(array[..., first : first + MOST_CHANNELS]).reshape(*geometry.size, -1)
        for first in range(0, channels, MOST_CHANNELS)
    ]
    if not parts:
        return np.zeros((*geometry.size, 0), np.uint8)
    whole = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
    return np.ascontiguousarray(whole)


def _choose_reader(geometry: Geometry, *, nearest: bool) -> Callable[[UInt8], Any]:
    """Choose the cheapest way to read through a map without losing anything."""
    border = cv2.BORDER_REFLECT_101 if geometry.border == "reflect" else cv2.BORDER_CONSTANT
    how = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    if geometry.bends:
        # Two planes: with x and y in one map, OpenCV 5.0.0 never returns from a
        # mirrored border.
        x, y = _find_places(geometry)
        return lambda part: cv2.remap(part, x, y, how, borderMode=border)
    exact = _find_exact(geometry)
    if exact is not None:
        return exact
    height, width = geometry.size
    flags = how | cv2.WARP_INVERSE_MAP
    top = geometry.matrix[:2]
    return lambda part: cv2.warpAffine(part, top, (width, height), flags=flags, borderMode=border)


def _find_exact(geometry: Geometry) -> Callable[[UInt8], Any] | None:
    """Read by slicing, swapping and mirroring, where the map allows it."""
    whole = np.rint(geometry.matrix)
    if np.abs(geometry.matrix - whole).max() * max(*geometry.size, 1) > WHOLE_PX:
        return None
    if np.abs(whole[:2, :2]).sum() != 2 or abs(np.linalg.det(whole)) != 1:
        return None
    last = (geometry.size[1] - 1, geometry.size[0] - 1)
    ends = whole[:2] @ np.array([[0, last[0]], [0, last[1]], [1, 1]])
    (left, top), (right, bottom) = ends.min(axis=1).astype(int), ends.max(axis=1).astype(int)
    if left < 0 or top < 0 or bottom >= geometry.source[0] or right >= geometry.source[1]:
        return None
    swapped = whole[0, 0] == 0
    mirrored = whole[:2, :2].sum(axis=0) < 0

    def read(part: UInt8) -> Any:
        tile: Any = part[top : bottom + 1, left : right + 1]
        if swapped:
            tile = cv2.transpose(tile)
        if mirrored.any():
            # 1 mirrors left and right, 0 up and down, -1 both.
            tile = cv2.flip(tile, -1 if mirrored.all() else int(mirrored[0]))
        return tile

    return read


def _find_places(geometry: Geometry) -> Planes:
    """For each pixel of the output, the place in the source."""
    height, width = geometry.size
    # A row and a column stand for the grid until something mixes x and y.
    x = np.arange(width, dtype=np.float32)[None]
    y = np.arange(height, dtype=np.float32)[:, None]
    matrix, on_grid = geometry.matrix, True
    for step in reversed(geometry.bends):
        on_grid = on_grid and _is_identity(matrix)
        x, y = _transform(x, y, matrix)
        shift = step.shift if on_grid else _sample(step.shift, _fill(x, y, geometry.size))
        x, y = x + shift[0], y + shift[1]
        matrix, on_grid = step.matrix, False
    return _fill(*_transform(x, y, matrix), geometry.size)


def _sample(shift: Float32, places: Planes) -> Float32:
    """Interpolate a displacement between the pixels it was made for."""
    edge = cv2.BORDER_REPLICATE
    planes = [cv2.remap(plane, *places, cv2.INTER_LINEAR, borderMode=edge) for plane in shift]
    return np.asarray(planes, np.float32)


def _transform(x: Float32, y: Float32, matrix: Float64) -> Planes:
    if _is_identity(matrix):
        return x, y
    (a, b, c), (d, e, f) = matrix[:2].tolist()
    return a * x + b * y + c, d * x + e * y + f


def _fill(x: Float32, y: Float32, size: Size) -> Planes:
    """Write rows and columns out to full planes."""
    return (
        np.ascontiguousarray(np.broadcast_to(x, size)),
        np.ascontiguousarray(np.broadcast_to(y, size)),
    )


def _is_identity(matrix: Float64) -> bool:
    return bool((matrix == np.eye(3)).all())


def _is_still(geometry: Geometry) -> bool:
    return not geometry.bends and geometry.size == geometry.source and _is_identity(geometry.matrix)


def _join_borders(one: Border, other: Border) -> Border:
    return "constant" if "constant" in (one, other) else "reflect"
