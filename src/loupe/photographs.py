"""Photographs of a drawn tile: pose, light, lens, sensor, lint and JPEG.

Owns what differs between two pictures of one tile; they share its glaze and its
defects and nothing else, as on a real line. It must not draw tiles (that is
`tiles`), write files or know tables.

Shapes: H rows, W columns of the picture; a canvas is (2H, 2W), BGR in [0, 1].
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from loupe.tiles import DESIGN_PX, OVERSAMPLING, Tile, blur, draw_lines, walk

Float32 = NDArray[np.float32]
UInt8 = NDArray[np.uint8]
Bool = NDArray[np.bool_]

COVERED = 0.3
"""A pixel of the picture belongs to a mask from this share of its area on."""


def photograph(
    rng: np.random.Generator, tile: Tile, *, quality: int = 90
) -> tuple[bytes, dict[str, Bool]]:
    """Take one picture of a tile: pose, light, lens, sensor and JPEG.

    Args:
        rng: The only source of chance; another one gives another picture.
        tile: What lies under the camera.
        quality: Of the JPEG, in [1, 100].

    Returns:
        The JPEG file, and the mask of each defect in the same pose.

    Shape:
        masks: (H, W) bool each.
    """
    height, width = (side // OVERSAMPLING for side in tile.pixels.shape[:2])
    pose = _draw_pose(rng, tile.pixels.shape[:2])
    pixels = _shrink(_drop_lint(rng, _move(tile.pixels, pose)), (height, width))
    masks = {n: _shrink(_move(m, pose), (height, width)) >= COVERED for n, m in tile.masks.items()}
    pixels *= _draw_light(rng, (height, width))
    pixels = blur(pixels, rng.uniform(0.25, 0.5) * min(height, width) / DESIGN_PX)
    # Shot noise grows with the root of the light; 0.011 is about 3 grey levels.
    noise = rng.standard_normal(pixels.shape, dtype=np.float32)
    pixels += noise * rng.uniform(0.007, 0.012) * np.sqrt(np.clip(pixels, 0.05, 1))
    return encode_jpeg(np.clip(pixels * 255, 0, 255).round().astype(np.uint8), quality), masks


def encode_jpeg(pixels: UInt8, quality: int) -> bytes:
    """Encode a BGR image as a JPEG file.

    Args:
        pixels: The image.
        quality: In [1, 100].

    Shape:
        pixels: (H, W, 3).
    """
    _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return data.tobytes()


def _draw_pose(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the (2, 3) affine map of a small turn, shift and change of distance."""
    height, width = shape[:2]
    degrees, scale = rng.normal(0, 0.8), rng.uniform(0.975, 1.025)
    middle = (width / 2, height / 2)
    pose = np.asarray(cv2.getRotationMatrix2D(middle, degrees, scale), np.float64)
    pose[:, 2] += np.clip(rng.normal(0, 0.01, 2), -0.02, 0.02) * (width, height)
    return pose


def _move(pixels: Float32, pose: NDArray[np.float64]) -> Float32:
    size = pixels.shape[1::-1]
    moved = cv2.warpAffine(pixels, pose, size, None, cv2.INTER_LINEAR, cv2.BORDER_REFLECT)
    return np.asarray(moved, np.float32)


def _shrink(pixels: Float32, size: tuple[int, int]) -> Float32:
    return np.asarray(cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA), np.float32)


def _drop_lint(rng: np.random.Generator, pixels: Float32) -> Float32:
    """Let a curled fibre lie on every eighth picture; unlike a defect, it does not stay."""
    if rng.random() >= 0.125:
        return pixels
    shape = pixels.shape[:2]
    unit = min(shape) / DESIGN_PX
    start = rng.uniform(0.15, 0.85, 2) * shape[::-1]
    path = walk(rng, start, rng.uniform(0, 2 * math.pi), 14 * unit, 1.5 * unit, drift=0.4)
    cover = 0.6 * blur(draw_lines(shape, [path], 0.5 * unit), 0.3 * unit)
    grey = np.float32(rng.choice((0.25, 0.8)))
    return np.asarray(pixels + cover[..., None] * (grey - pixels), np.float32)


def _draw_light(rng: np.random.Generator, size: tuple[int, int]) -> Float32:
    """Draw exposure, tint, a slanting lamp, vignetting and sometimes a soft glare."""
    rows = np.linspace(-1, 1, size[0], dtype=np.float32)[:, None]
    columns = np.linspace(-1, 1, size[1], dtype=np.float32)[None]
    slant = rng.normal(0, 0.06, 2)
    light = np.asarray(1 + slant[0] * rows + slant[1] * columns) * rng.normal(1.0, 0.06)
    light *= 1 - rng.uniform(0.02, 0.12) * (rows**2 + columns**2)
    if rng.random() < 0.3:
        y, x = rng.uniform(-0.9, 0.9, 2)
        near = ((rows - y) ** 2 + (columns - x) ** 2) / rng.uniform(0.15, 0.5)
        light += rng.uniform(0.04, 0.12) * np.exp(-near)
    tint = rng.normal(1, 0.012, 3)
    return np.asarray(light[..., None] * tint, np.float32)
