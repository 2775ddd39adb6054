"""The scenes of `loupe.systems`: tiles, clouds, leaves, paintings and strips of steel.

Owns how the pictures look, as pure functions from a random generator to arrays. It
must not write files or know tables. Classes differ by colour, texture or a coarse
shape, so that a tiny network tells them apart; nothing here is meant to be hard.

Shapes: H and W the height and width of a picture; pictures are (H, W, 3), BGR in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from loupe.photographs import encode_jpeg
from loupe.tiles import blur, draw_lines, walk

Float32 = NDArray[np.float32]
Bool = NDArray[np.bool_]
Size = tuple[int, int]
Colour = tuple[float, float, float]


def draw_crack(rng: np.random.Generator, size: Size, *, broken: bool) -> Float32:
    """Draw glaze with speckles; a crack is a dark line with sharp bends from rim to rim.

    Args:
        rng: The only source of chance.
        size: Height and width in pixels.
        broken: Draw a crack.
    """
    pixels = _plain(rng, size, (0.72, 0.78, 0.80), cell=20, contrast=0.04)
    pixels *= 1 - 0.08 * (_noise(rng, size, 2) > 2)[..., None]
    if broken:
        unit = min(size) / 68
        start = np.array((rng.uniform(0.2, 0.8) * size[1], 0.0))
        angle = math.pi / 2 + rng.normal(0, 0.3)
        path = walk(rng, start, angle, 1.3 * size[0], 4 * unit, jitter=0.5, drift=0.08)
        pixels *= 1 - 0.65 * draw_lines(size, [path], 2 * unit)[..., None]
    return pixels


_TINTS = {
    "Fish": (0.80, 0.90, 1.00),
    "Flower": (1.00, 1.00, 1.00),
    "Gravel": (0.75, 0.95, 0.75),
    "Sugar": (1.00, 0.80, 0.75),
}


def draw_clouds(
    rng: np.random.Generator, size: Size, shown: Sequence[str]
) -> tuple[Float32, dict[str, Bool]]:
    """Draw a dark sea; each cloud pattern fills a box in a quarter of its own.

    Args:
        rng: The only source of chance.
        size: Height and width in pixels.
        shown: Patterns out of Fish, Flower, Gravel and Sugar.

    Returns:
        The picture, and where each pattern is.

    Shape:
        masks: (H, W) bool each.
    """
    pixels = _plain(rng, size, (0.40, 0.24, 0.12), cell=30, contrast=0.08)
    masks = {}
    for name, quarter in zip(shown, rng.permutation(4), strict=False):
        masks[name] = mask = draw_box(rng, size, int(quarter))
        cover = (_pattern(rng, size, name) * mask)[..., None]
        pixels += cover * (np.array(_TINTS[name], np.float32) * 0.9 - pixels)
    return pixels, masks


def _pattern(rng: np.random.Generator, size: Size, name: str) -> Float32:
    """Return the share of each pixel that a cloud pattern covers."""
    unit = size[0] / 70
    rows, columns = np.ogrid[: size[0], : size[1]]
    if name == "Fish":  # bones: slanting stripes
        wave = np.sin((rows + columns) / (1.6 * unit) + _noise(rng, size, 12 * unit))
    elif name == "Flower":  # wide bright patches
        wave = 2 * _noise(rng, size, 14 * unit)
    elif name == "Gravel":  # arcs and rings
        wave = 3 * (0.6 - np.abs(_noise(rng, size, 6 * unit)))
    else:  # sugar: fine grain
        wave = 2 * _noise(rng, size, 1.5 * unit)
    return np.asarray(1 / (1 + np.exp(-3 * wave)), np.float32)


def draw_box(rng: np.random.Generator, size: Size, quarter: int) -> Bool:
    """Return a box that fills most of one quarter of the picture.

    Args:
        rng: The only source of chance.
        size: Height and width in pixels.
        quarter: 0 to 3, row by row.

    Shape:
        (H, W) bool.
    """
    high, wide = size[0] // 2, size[1] // 2
    top = high * (quarter // 2) + int(rng.integers(0, high // 6 + 1))
    left = wide * (quarter % 2) + int(rng.integers(0, wide // 6 + 1))
    mask = np.zeros(size, np.bool_)
    mask[top : top + high * 5 // 6, left : left + wide * 5 // 6] = True
    return mask


_GREEN = (0.18, 0.55, 0.20)
# Colour of the patches, their size in pixels, and the level of noise they begin at.
_DISEASES: tuple[tuple[Colour, float, float], ...] = (
    ((0.10, 0.20, 0.40), 3, 0.9),  # blight: small brown spots
    ((0.15, 0.45, 0.65), 22, 0.0),  # brown streak: wide brown patches
    ((0.45, 0.80, 0.55), 4, 0.0),  # green mottle: pale grain
    ((0.20, 0.75, 0.80), 9, 0.0),  # mosaic: yellow patches
    (_GREEN, 9, 9.0),  # healthy: none
)


def draw_leaf(rng: np.random.Generator, size: Size, disease: int) -> Float32:
    """Draw a leaf on soil; the disease is in its colours and the size of its patches.

    Args:
        rng: The only source of chance.
        size: Height and width in pixels.
        disease: 0 blight, 1 brown streak, 2 green mottle, 3 mosaic, 4 none.
    """
    unit = size[0] / 60
    rows, columns = np.ogrid[: size[0], : size[1]]
    y, x = rows - size[0] * rng.uniform(0.4, 0.6), columns - size[1] * rng.uniform(0.4, 0.6)
    turn = rng.uniform(0, math.pi)
    along = x * math.cos(turn) + y * math.sin(turn)
    across = y * math.cos(turn) - x * math.sin(turn)
    inside = np.hypot(along / (0.62 * size[1]), across / (0.55 * size[0])) < 1
    leaf = _plain(rng, size, _GREEN, cell=20 * unit, contrast=0.08)
    colour, cell, level = _DISEASES[disease]
    ill = blur((_noise(rng, size, cell * unit) > level).astype(np.float32), 0.6 * unit)[..., None]
    leaf += ill * (np.array(colour, np.float32) - leaf)
    soil = _plain(rng, size, (0.20, 0.28, 0.38), cell=4 * unit, contrast=0.15)
    return np.asarray(np.where(inside[..., None], leaf, soil), np.float32)


_PALETTE: tuple[Colour, ...] = (
    (0.05, 0.25, 0.65),
    (0.55, 0.50, 0.48),
    (0.15, 0.60, 0.85),
    (0.10, 0.15, 0.80),
    (0.10, 0.12, 0.20),
    (0.85, 0.45, 0.20),
    (0.65, 0.70, 0.90),
)


def draw_painting(rng: np.random.Generator, size: Size, subject: int) -> Float32:
    """Draw a figure on brushed ground: subject k has its own colour, and k + 1 lobes.

    Args:
        rng: The only source of chance.
        size: Height and width in pixels.
        subject: 0 to 6.
    """
    ground = rng.uniform(0.35, 0.85) + rng.uniform(-0.12, 0.12, 3)
    pixels = _plain(rng, size, ground.tolist(), cell=10, contrast=0.12)
    rows, columns = np.ogrid[: size[0], : size[1]]
    y, x = rows - size[0] * rng.uniform(0.42, 0.58), columns - size[1] * rng.uniform(0.42, 0.58)
    lobes = 1 + 0.3 * np.cos((subject + 1) * (np.arctan2(y, x) + rng.uniform(0, 2 * math.pi)))
    reach = rng.uniform(0.28, 0.38) * min(size) * lobes
    cover = blur((np.hypot(y, x) < reach).astype(np.float32), 0.8)[..., None]
    figure = _plain(rng, size, _PALETTE[subject], cell=5, contrast=0.12)
    return np.asarray(pixels + cover * (figure - pixels), np.float32)


def draw_strip(
    rng: np.random.Generator, size: Size, defects: Sequence[str]
) -> tuple[Float32, dict[str, Bool]]:
    """Draw rolled steel: 1 pits, 2 short dark lines, 3 long bright scratches, 4 a dark patch.

    Args:
        rng: The only source of chance.
        size: Height and width in pixels.
        defects: Out of "1" to "4".

    Returns:
        The picture, and where each defect is.

    Shape:
        masks: (H, W) bool each.
    """
    grey = 0.45 * (1 + 0.05 * _noise(rng, size, 2) + 0.06 * _noise(rng, (1, size[1]), 30))
    masks = {}
    for name in defects:
        cover = _DEFECTS[name](rng, size)
        masks[name] = np.asarray(cover > 0.3)
        target = 0.95 if name == "3" else 0.08
        grey += cover * (target - grey)
    return np.repeat(grey[..., None], 3, axis=2).astype(np.float32), masks


def _pits(rng: np.random.Generator, size: Size) -> Float32:
    dots = np.zeros(size, np.float32)
    at = rng.uniform(0.05, 0.95, (25, 2)) * size
    for y, x in at.astype(int):
        cv2.circle(dots, (int(x), int(y)), max(1, size[0] // 24), 1.0, -1)
    return dots


def _cuts(rng: np.random.Generator, size: Size) -> Float32:
    tops = [(rng.uniform(0.1, 0.9) * size[1], rng.uniform(0.1, 0.4) * size[0]) for _ in range(3)]
    paths = [np.array((top, (top[0], top[1] + 0.45 * size[0]))) for top in tops]
    return draw_lines(size, paths, size[0] / 16)


def _scratches(rng: np.random.Generator, size: Size) -> Float32:
    starts = [np.array((rng.uniform(0, 0.3), rng.uniform(0.1, 0.9))) * size[::-1] for _ in range(3)]
    paths = [walk(rng, start, 0.0, 0.6 * size[1], 6, drift=0.03) for start in starts]
    return draw_lines(size, paths, size[0] / 21)


def _patch(rng: np.random.Generator, size: Size) -> Float32:
    rows, columns = np.ogrid[: size[0], : size[1]]
    y, x = rows - rng.uniform(0.3, 0.7) * size[0], columns - rng.uniform(0.2, 0.8) * size[1]
    away = np.hypot(y / (0.4 * size[0]), x / (0.15 * size[1])) + 0.2 * _noise(rng, size, 8)
    return np.asarray(np.clip(3 * (1 - away), 0, 1), np.float32)


_DEFECTS: Mapping[str, Callable[[np.random.Generator, Size], Float32]] = MappingProxyType(
    {"1": _pits, "2": _cuts, "3": _scratches, "4": _patch}
)


def _plain(
    rng: np.random.Generator, size: Size, colour: Sequence[float], *, cell: float, contrast: float
) -> Float32:
    """Return a surface of one colour with slow changes of brightness and a little grain."""
    shade = 1 + contrast * _noise(rng, size, cell) + rng.normal(0, 0.03)
    grain = 0.01 * rng.standard_normal((*size, 3), dtype=np.float32)
    return np.asarray(np.array(colour, np.float32) * shade[..., None] + grain, np.float32)


def _noise(rng: np.random.Generator, size: Size, cell: float) -> Float32:
    """Smooth noise of mean 0 and deviation 1, whose patches are `cell` pixels wide."""
    rows, columns = (math.ceil(side / max(cell, 1)) + 2 for side in size)
    grid = rng.standard_normal((rows, columns), dtype=np.float32)
    grown = np.asarray(cv2.resize(grid, size[::-1], interpolation=cv2.INTER_CUBIC), np.float32)
    return np.asarray((grown - grown.mean()) / (grown.std() + 1e-6), np.float32)


def encode_picture(pixels: Float32, suffix: str) -> bytes:
    """Encode a picture as a file.

    Args:
        pixels: The picture; values outside of [0, 1] are cut off.
        suffix: ".jpg", or one that OpenCV knows.

    Shape:
        pixels: (H, W, 3).
    """
    whole = np.clip(pixels * 255, 0, 255).round().astype(np.uint8)
    if suffix == ".jpg":
        return encode_jpeg(whole, quality=92)
    return cv2.imencode(suffix, whole)[1].tobytes()
