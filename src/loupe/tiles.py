"""Ceramic tiles drawn in code: glaze and defects, with the masks of the defects.

Owns the look of the tiles in the sample data that `loupe.testing` writes: pure
functions from a random generator to arrays. It must not photograph (that is
`photographs`), write files or know tables.

The glaze has veins, speckles, brush marks and cloudy patches that resemble each
defect, so that a class is not told by brightness or by the presence of a line
alone.

Shapes: H rows, W columns of the picture; a canvas is (2H, 2W), BGR in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Point = NDArray[np.float64]

CLASSES = ("crack", "chip", "stain", "scratch")
OVERSAMPLING = 2
"""Canvas pixels to a picture's pixel: lines one pixel wide stay smooth when turned."""
DESIGN_PX = 128
"""Lengths below are in pixels of a picture this large, and grow with the picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductLine:
    """How the tiles of one product look.

    Attributes:
        glaze: BGR in [0, 1].
        body: BGR in [0, 1] of the fired clay that a chip lays bare.
        cloud: Relative deviation of slow changes of brightness.
        grain: Relative deviation from pixel to pixel.
        speckles: How many, on a picture of 128 by 128 pixels.
        veins: The most that one tile has.
        brush: Relative deviation of brush marks along one direction.
    """

    glaze: tuple[float, float, float]
    body: tuple[float, float, float]
    cloud: float = 0.03
    grain: float = 0.02
    speckles: int = 40
    veins: int = 0
    brush: float = 0.0


PRODUCT_LINES = (
    ProductLine(glaze=(0.70, 0.79, 0.83), body=(0.42, 0.56, 0.74), speckles=90),  # ivory
    ProductLine(glaze=(0.79, 0.79, 0.78), body=(0.66, 0.74, 0.80), veins=5),  # marble
    ProductLine(glaze=(0.29, 0.42, 0.63), body=(0.58, 0.73, 0.87), cloud=0.07),  # terracotta
    ProductLine(glaze=(0.55, 0.50, 0.44), body=(0.68, 0.74, 0.79), cloud=0.06, veins=2),  # slate
    ProductLine(glaze=(0.52, 0.63, 0.55), body=(0.62, 0.72, 0.80), speckles=20),  # sage
    ProductLine(glaze=(0.60, 0.66, 0.68), body=(0.52, 0.66, 0.78), brush=0.022),  # linen
)
"""What the plant makes; each tile belongs to one."""
STAINS = ((0.30, 0.55, 0.84), (0.40, 0.68, 0.80), (0.82, 0.62, 0.50), (0.42, 0.56, 0.68))
"""Share of blue, green and red that rust, oil, ink and coffee let through."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One tile, before any photograph.

    Attributes:
        pixels: The tile on its belt.
        masks: Class to the share of each pixel that the defect covers; only
            the classes that the tile has.

    Shape:
        pixels: (2H, 2W, 3). masks: (2H, 2W) each, in [0, 1].
    """

    pixels: Float32
    masks: dict[str, Float32]


@dataclass(slots=True, kw_only=True)
class _Canvas:
    """A tile while it is drawn; `unit` is one picture pixel of the 128 px design."""

    pixels: Float32
    inside: Float32
    edges: tuple[float, float, float, float]
    unit: float
    line: ProductLine


def draw_tile(rng: np.random.Generator, size: tuple[int, int], defects: Sequence[str]) -> Tile:
    """Draw one tile of a random product line, with its defects.

    Args:
        rng: The only source of chance.
        size: Height and width of the pictures to come, in pixels.
        defects: Names out of `CLASSES`; none for a sound tile.
    """
    canvas = _draw_sound_tile(rng, size)
    masks = {}
    for name in defects:
        mask = _PAINTERS[name](rng, canvas)
        masks[name] = np.asarray(mask * canvas.inside, np.float32)
    belt = _draw_belt(rng, canvas)
    pixels = belt + canvas.inside[..., None] * (canvas.pixels - belt)
    return Tile(pixels=np.asarray(pixels, np.float32), masks=masks)


# The glaze ----------------------------------------------------------------------------------------


def _draw_sound_tile(rng: np.random.Generator, size: tuple[int, int]) -> _Canvas:
    height, width = (side * OVERSAMPLING for side in size)
    unit = OVERSAMPLING * min(size) / DESIGN_PX
    line = PRODUCT_LINES[rng.integers(len(PRODUCT_LINES))]
    glaze = np.array(line.glaze, np.float32) * rng.normal(1, 0.04) + rng.normal(0, 0.012, 3)
    shade = 1 + line.cloud * _noise(rng, (height, width), 34 * unit)
    shade += line.grain * _noise(rng, (height, width), 1.5 * unit, octaves=2)
    shade += line.brush * _noise(rng, (height, width), 1.2 * unit, octaves=2, stretch=30)
    hue = 1 + 0.2 * line.cloud * _noise_bgr(rng, (height, width), 50 * unit)
    pixels = (glaze * shade[..., None] * hue).astype(np.float32)
    inside, edges = _cut_outline(rng, (height, width), unit)
    canvas = _Canvas(pixels=pixels, inside=inside, edges=edges, unit=unit, line=line)
    _add_speckles(rng, canvas)
    _add_veins(rng, canvas)
    _add_bevel(canvas)
    return canvas


def _noise(
    rng: np.random.Generator,
    shape: tuple[int, int],
    cell: float,
    octaves: int = 4,
    stretch: float = 1,
) -> Float32:
    """Smooth noise of mean 0 and deviation 1; each octave has half the cell and strength."""
    total = np.zeros(shape, np.float32)
    for octave in range(octaves):
        step = max(cell / 2**octave, 1)
        grid = rng.standard_normal(
            (math.ceil(shape[0] / step) + 1, math.ceil(shape[1] / (step * stretch)) + 1),
            dtype=np.float32,
        )
        grown = cv2.resize(grid, shape[::-1], interpolation=cv2.INTER_CUBIC)
        total += np.asarray(grown, np.float32) / 2**octave
    return np.asarray((total - total.mean()) / total.std(), np.float32)


def _noise_bgr(rng: np.random.Generator, shape: tuple[int, int], cell: float) -> Float32:
    return np.stack([_noise(rng, shape, cell, octaves=2) for _ in range(3)], axis=-1)


def _cut_outline(
    rng: np.random.Generator, shape: tuple[int, int], unit: float
) -> tuple[Float32, tuple[float, float, float, float]]:
    """Return the tile's cover in [0, 1] and its top, left, bottom and right edges."""
    inset = rng.uniform(5.5, 7.5, 4) * unit
    top, left, bottom, right = inset * (1, 1, -1, -1) + (0, 0, shape[0], shape[1])
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    radius = 2.5 * unit
    # Distance to a rectangle with round corners, negative inside of it.
    x = np.maximum(left + radius - columns, columns - right + radius)
    y = np.maximum(top + radius - rows, rows - bottom + radius)
    away = np.hypot(np.maximum(x, 0), np.maximum(y, 0)) + np.minimum(np.maximum(x, y), 0) - radius
    cover = np.asarray(np.clip(0.5 - away, 0, 1), np.float32)
    return cover, (float(top), float(left), float(bottom), float(right))


def _add_speckles(rng: np.random.Generator, canvas: _Canvas) -> None:
    """Strew mineral grains: mostly dark, few of them strong."""
    shape = canvas.inside.shape
    count = rng.poisson(canvas.line.speckles)
    dots = np.zeros(shape, np.float32)
    at = rng.integers(0, shape, (count, 2))
    dots[at[:, 0], at[:, 1]] = rng.exponential(1, count) * rng.choice((-1, -1, -1, 0.7), count)
    sigma = 0.5 * canvas.unit
    dots = blur(dots, sigma) * np.float32(2 * math.pi * sigma**2 * 0.16)
    canvas.pixels *= np.clip(1 + dots, 0.35, 1.3)[..., None]


def _add_veins(rng: np.random.Generator, canvas: _Canvas) -> None:
    """Draw soft bent veins, some nearly as thin as a crack but never as sharp."""
    shape, unit = canvas.inside.shape, canvas.unit
    tone = np.array((0.84, 0.82, 0.80), np.float32)
    for _ in range(rng.integers(0, canvas.line.veins + 1)):
        angle = rng.uniform(0, 2 * math.pi)
        start = rng.uniform(0, 1, 2) * shape[::-1]
        path = walk(rng, start, angle, 150 * unit, 5 * unit, drift=0.22)
        width = rng.uniform(0.8, 3) * unit
        soft = blur(draw_lines(shape, [path], width), 0.45 * width + 0.4 * unit)
        soft *= np.clip(0.55 + 0.4 * _noise(rng, shape, 20 * unit, octaves=2), 0, 1)
        canvas.pixels *= 1 - soft[..., None] * (1 - tone) * np.float32(rng.uniform(0.5, 1.2))


def _add_bevel(canvas: _Canvas) -> None:
    """Round the rim: light falls from the upper left."""
    soft = blur(canvas.inside, 1.6 * canvas.unit)
    slope_x = cv2.Sobel(soft, cv2.CV_32F, 1, 0, ksize=3)
    slope_y = cv2.Sobel(soft, cv2.CV_32F, 0, 1, ksize=3)
    canvas.pixels *= np.clip(1 + 0.25 * canvas.unit * (slope_x + slope_y), 0.6, 1.25)[..., None]


def _draw_belt(rng: np.random.Generator, canvas: _Canvas) -> Float32:
    """Draw the dark rubber under the tile, darker where the tile shades it."""
    shape = canvas.inside.shape
    shadow = blur(np.roll(canvas.inside, (3, 3), (0, 1)), 2.5 * canvas.unit)
    grey = 0.17 * (1 + 0.1 * _noise(rng, shape, 2 * canvas.unit, octaves=2)) * (1 - 0.5 * shadow)
    return np.asarray(grey[..., None] * np.array((1.05, 1, 0.97)), np.float32)


# The defects: each paints on the canvas and returns the share of each pixel it covers -------------


def _paint_crack(rng: np.random.Generator, canvas: _Canvas) -> Float32:
    """A hairline with sharp bends and a few branches; it often starts at the rim."""
    shape, unit = canvas.inside.shape, canvas.unit
    start = _pick_point(rng, canvas, rim=rng.random() < 0.6)
    angle = _angle_to_middle(canvas, start) + rng.normal(0, 0.45)
    trunk = walk(rng, start, angle, rng.uniform(55, 100) * unit, 4 * unit, jitter=0.5, drift=0.08)
    branches = []
    for _ in range(rng.integers(1, 4)):
        joint = rng.integers(len(trunk) // 4, len(trunk))
        turn = angle + rng.choice((-1, 1)) * rng.uniform(0.5, 1.1)
        length = rng.uniform(14, 36) * unit
        branches.append(walk(rng, trunk[joint], turn, length, 4 * unit, jitter=0.5, drift=0.08))
    width = rng.uniform(0.75, 1.2) * unit
    mask = np.maximum(draw_lines(shape, [trunk], width), draw_lines(shape, branches, 0.6 * width))
    depth = rng.uniform(0.36, 0.58) * np.clip(1 + 0.2 * _noise(rng, shape, 12 * unit), 0.5, 1.3)
    # The far lip of the gap catches the light.
    lip = np.clip(np.roll(mask, (round(unit), round(unit)), (0, 1)) - mask, 0, 1)
    canvas.pixels *= (1 - mask * depth + 0.06 * lip)[..., None]
    return mask


def _paint_chip(rng: np.random.Generator, canvas: _Canvas) -> Float32:
    """A bite out of the rim, often of a corner: rough bare clay, a shaded break."""
    shape, unit = canvas.inside.shape, canvas.unit
    corner = rng.random() < 0.45
    x, y = _pick_point(rng, canvas, rim=True, corner=corner)
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    radius = rng.uniform(8, 15) * unit * (1.4 if corner else 1)
    stretch = rng.uniform(0.7, 1.4)
    away = np.hypot((columns - x) / stretch, (rows - y) * stretch) / radius
    away += 0.16 * _noise(rng, shape, 9 * unit)
    mask = np.asarray(np.clip((1 - away) * radius / 2, 0, 1), np.float32)
    rough = 1 + 0.07 * _noise(rng, shape, 3 * unit) - 0.12 * np.clip(1 - away, 0, 1)
    clay = np.array(canvas.line.body, np.float32) * rng.normal(1.06, 0.04) * rough[..., None]
    shade = blur(np.roll(mask, (-2, -2), (0, 1)), 0.7 * unit)
    clay *= (0.62 + 0.38 * shade)[..., None]
    canvas.pixels += mask[..., None] * (clay - canvas.pixels)
    return mask


def _paint_stain(rng: np.random.Generator, canvas: _Canvas) -> Float32:
    """A soft patch of another hue with an uneven outline and a darker border."""
    shape, unit = canvas.inside.shape, canvas.unit
    x, y = _pick_point(rng, canvas, margin=20)
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    radius = rng.uniform(10, 20) * unit
    stretch = rng.uniform(0.75, 1.33)
    away = np.hypot((columns - x) / stretch, (rows - y) * stretch) / radius
    away += 0.17 * _noise(rng, shape, 14 * unit)
    soft = 1 / (1 + np.exp((away - 0.9) * 9))
    border = np.exp(-(((away - 0.85) / 0.13) ** 2))
    dye = np.array(STAINS[rng.integers(len(STAINS))], np.float32)
    strength = soft * rng.uniform(0.45, 0.7) + border * rng.uniform(0, 0.12)
    canvas.pixels *= (1 - strength[..., None] * (1 - dye)).astype(np.float32)
    return np.asarray(soft >= 0.4, np.float32)


def _paint_scratch(rng: np.random.Generator, canvas: _Canvas) -> Float32:
    """A nearly straight line, broken in places, sometimes with a fainter twin."""
    shape, unit = canvas.inside.shape, canvas.unit
    start = _pick_point(rng, canvas, margin=16)
    angle = _angle_to_middle(canvas, start) + rng.normal(0, 0.5)
    path = walk(rng, start, angle, rng.uniform(50, 90) * unit, 5 * unit, drift=0.025)
    paths = [path]
    if rng.random() < 0.35:
        aside = np.array((-math.sin(angle), math.cos(angle))) * rng.uniform(2.5, 4.5) * unit
        paths.append(path[len(path) // 4 :] + aside)
    whole = draw_lines(shape, paths, rng.uniform(0.5, 1.2) * unit)
    pressure = np.clip(0.75 + 0.7 * _noise(rng, shape, 14 * unit, octaves=2), 0, 1)
    mask = np.asarray(whole * np.clip(pressure * 4, 0, 1), np.float32)
    light = rng.uniform(0.22, 0.36) if rng.random() < 0.7 else -rng.uniform(0.22, 0.32)
    canvas.pixels += (mask * (0.55 + 0.45 * pressure) * light)[..., None].astype(np.float32)
    return mask


_PAINTERS: Mapping[str, Callable[[np.random.Generator, _Canvas], Float32]] = MappingProxyType(
    {
        "crack": _paint_crack,
        "chip": _paint_chip,
        "stain": _paint_stain,
        "scratch": _paint_scratch,
    }
)


def _pick_point(
    rng: np.random.Generator,
    canvas: _Canvas,
    *,
    rim: bool = False,
    corner: bool = False,
    margin: float = 10,
) -> Point:
    """Pick (x, y) on the tile: anywhere, on its rim, or on one of its corners."""
    top, left, bottom, right = canvas.edges
    gap = margin * canvas.unit
    point = np.array((rng.uniform(left + gap, right - gap), rng.uniform(top + gap, bottom - gap)))
    side = rng.integers(4)
    if corner:
        return np.array(((left, right)[side % 2], (top, bottom)[side // 2]))
    if rim:
        point[side % 2] = ((left, right), (top, bottom))[side % 2][side // 2]
    return point


def _angle_to_middle(canvas: _Canvas, point: Point) -> float:
    top, left, bottom, right = canvas.edges
    return math.atan2((top + bottom) / 2 - point[1], (left + right) / 2 - point[0])


# Strokes, which the photographs use as well -------------------------------------------------------


def walk(
    rng: np.random.Generator,
    start: Point,
    angle: float,
    length: float,
    step: float,
    *,
    jitter: float = 0.0,
    drift: float = 0.0,
) -> NDArray[np.float64]:
    """Walk from a point and return the corners of the path.

    Args:
        rng: The only source of chance.
        start: (x, y) in pixels.
        angle: Of the course at the start, in radians.
        length: Of the path in pixels, about.
        step: Mean length of a step in pixels.
        jitter: Deviation of each step from the course, in radians; sharp bends.
        drift: Deviation of the course from step to step, in radians; wide bows.

    Shape:
        (K, 2): x and y.
    """
    steps = max(2, round(length / step))
    course = angle + np.cumsum(rng.normal(0, drift, steps)) + rng.normal(0, jitter, steps)
    strides = step * rng.uniform(0.6, 1.4, steps)
    moves = np.stack((np.cos(course), np.sin(course)), axis=1) * strides[:, None]
    return np.concatenate((start[None], start + np.cumsum(moves, axis=0)))


def draw_lines(shape: tuple[int, ...], paths: Sequence[Point], width: float) -> Float32:
    """Draw polylines with smooth edges.

    Args:
        shape: Height and width of the canvas in pixels.
        paths: The corners of each line.
        width: In pixels, rounded to a whole one, at least 1.

    Shape:
        paths: (K, 2) each, x and y. Returns (H, W), the share covered.
    """
    mask = np.zeros(shape, np.uint8)
    # Coordinates go in as sixteenths of a pixel.
    points = [np.round(path * 16).astype(np.int32) for path in paths]
    thickness = max(1, round(width))
    cv2.polylines(mask, points, False, 255, thickness, cv2.LINE_AA, 4)
    return np.asarray(mask / 255, np.float32)


def blur(pixels: Float32, sigma: float) -> Float32:
    """Smooth an image with a Gaussian.

    Args:
        pixels: The image.
        sigma: In pixels, above 0.

    Shape:
        pixels: (H, W) or (H, W, 3).
    """
    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), sigma), np.float32)
