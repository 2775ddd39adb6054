"""What happens to pixels where they are: colour, blur, noise and holes.

Owns the looks, plain values that say what was drawn, and `apply_looks`, which
folds neighbours: a run of tone changes is one table look-up, a run of colour mixes
one 3 x 4 matrix. Inside a matrix run values are not cut to [0, 255] on the way, so
a dark image brightened again keeps its detail. It must not draw parameters.

Images are RGB or grey. A grey image (C = 1) passes colour mixes unchanged.

Shapes: H height, W width, C channels (1 or 3).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

UInt8 = NDArray[np.uint8]
Float64 = NDArray[np.float64]
Pixels = NDArray[Any]
"""What OpenCV returns: its dtype is that of its input, which its types do not say."""
Box = tuple[int, int, int, int]
"""(top, left, height, width) in pixels."""

LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of R, G and B in perceived brightness (ITU-R BT.601), as OpenCV uses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """Every value becomes ``scale * value + offset``; offset in grey levels."""

    scale: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """Distances from the mean brightness of the image are multiplied by scale."""

    scale: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Gamma:
    """Every value v becomes ``255 * (v / 255) ** exponent``."""

    exponent: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mix:
    """Every colour is multiplied by a (3, 3) matrix that acts on columns (R, G, B)."""

    matrix: Float64


@dataclass(frozen=True, slots=True, kw_only=True)
class Equalise:
    """Local histogram equalisation of brightness (CLAHE)."""

    clip: float
    tiles: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Blur:
    """Gaussian blur; size is odd, in pixels; a sigma of 0 follows from the size."""

    size: int
    sigma: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Motion:
    """Blur along a line of `size` pixels at an angle in degrees."""

    size: int
    degrees: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Gaussian noise of a deviation in grey levels; the seed fixes every value."""

    sigma: float
    seed: int
    per_channel: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Holes:
    """Boxes filled with one grey level."""

    boxes: tuple[Box, ...]
    fill: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Shuffle:
    """Tiles of equal size in new places: pairs of (from, to)."""

    moves: tuple[tuple[Box, Box], ...]


Tone = Linear | Contrast | Gamma
Look = Tone | Mix | Equalise | Blur | Motion | Noise | Holes | Shuffle


def saturation_matrix(factor: float) -> Float64:
    """Scale the distance of a colour from the grey of the same brightness.

    Args:
        factor: 0 gives grey, 1 changes nothing.
    """
    return factor * np.eye(3) + (1 - factor) * np.tile(LUMA, (3, 1))


def hue_matrix(degrees: float) -> Float64:
    """Rotate colours about the grey axis; 120 degrees take red to green.

    The linear form of a hue shift: it agrees with HSV at multiples of 120 degrees,
    keeps R + G + B between them, and leaves greys untouched, where a shift in HSV
    tints the noise of a nearly grey image.

    Args:
        degrees: On the colour circle; red, green, blue stand at 0, 120, 240.

    References:
        Karras et al. (2020), "Training Generative Adversarial Networks with Limited
        Data", arXiv:2006.06676, appendix B (the same rotation about the grey axis).

    Examples:
        >>> (hue_matrix(120) @ [255, 0, 0]).round().astype(int).tolist()
        [0, 255, 0]
    """
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # Rodrigues' formula about the unit axis (1, 1, 1) / sqrt(3).
    cross = np.array([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    return cos * np.eye(3) + sin * cross + (1 - cos) / 3 * np.ones((3, 3))


def apply_looks(image: UInt8, looks: Sequence[Look]) -> UInt8:
    """Change pixels where they are, in order.

    Args:
        image: RGB or grey; it is not written to.
        looks: What was drawn.

    Shape:
        image: (H, W, C) uint8.

    Returns:
        (H, W, C) uint8; the image itself if there is nothing to do.

    Examples:
        >>> image = np.array([[[0], [100], [200]]], dtype=np.uint8)
        >>> apply_looks(image, [Linear(scale=1.5, offset=10)]).ravel().tolist()
        [10, 160, 255]
    """
    shape = image.shape
    wanted = [look for look in looks if shape[2] == 3 or not isinstance(look, Mix)]
    for run in _group(wanted):
        # OpenCV drops the last axis of a grey image.
        image = np.asarray(_apply_run(image, run), np.uint8).reshape(shape)
    return image


def shuffle_tiles(array: UInt8, shuffle: Shuffle) -> UInt8:
    """Move tiles to their new places; pixels are copied, never interpolated.

    Args:
        array: (H, W, C) image or masks; it is not written to.
        shuffle: Which tile goes where.
    """
    moved = array.copy()
    for (top, left, height, width), (to_top, to_left, _, _) in shuffle.moves:
        tile = array[top : top + height, left : left + width]
        moved[to_top : to_top + height, to_left : to_left + width] = tile
    return moved


def _group(looks: Sequence[Look]) -> Iterator[list[Look]]:
    """Part looks into runs that are one operation each."""
    run: list[Look] = []
    for look in looks:
        if run and not _fits(run, look):
            yield run
            run = []
        run.append(look)
    if run:
        yield run


def _fits(run: list[Look], look: Look) -> bool:
    """Say if a look folds into a run: into its table, or into its matrix."""
    kinds = {type(one) for one in (*run, look)}
    return kinds <= {Linear, Contrast, Gamma} or kinds <= {Linear, Contrast, Mix}


def _apply_run(image: UInt8, run: list[Look]) -> Pixels:
    if any(isinstance(look, Mix) for look in run):
        return cv2.transform(image, _fold_matrix(run, _mean_colour(image, run)))
    if isinstance(run[0], Linear | Contrast | Gamma):
        return cv2.LUT(image, _fold_table(run, _mean_colour(image, run)))
    return _filter(image, run[0])


def _mean_colour(image: UInt8, run: list[Look]) -> Float64:
    """Mean of each channel, which only `Contrast` asks for."""
    if not any(isinstance(look, Contrast) for look in run):
        return np.zeros(3)
    means = np.array(cv2.mean(image)[: image.shape[2]])
    return np.broadcast_to(means, 3)


def _fold_table(run: list[Look], mean: Float64) -> UInt8:
    """Fold tone changes into a table of 256 values, rounded once at the end."""
    table = np.arange(256, dtype=np.float64)
    bright = float(LUMA @ mean)
    for look in run:
        if isinstance(look, Gamma):
            table = 255 * (table / 255) ** look.exponent
            bright = 255 * (min(max(bright, 0), 255) / 255) ** look.exponent
        else:
            scale, offset = _as_line(look, bright)
            table, bright = scale * table + offset, scale * bright + offset
        table = table.clip(0, 255)
    return np.rint(table).astype(np.uint8)


def _fold_matrix(run: list[Look], mean: Float64) -> Float64:
    """Fold colour mixes and straight tone changes into one (3, 4) matrix."""
    total = np.eye(3, 4)
    for look in run:
        if isinstance(look, Mix):
            total, mean = look.matrix @ total, look.matrix @ mean
            continue
        scale, offset = _as_line(look, float(LUMA @ mean))
        total, mean = scale * total, scale * mean + offset
        total[:, 3] += offset
    return total


def _as_line(look: Look, bright: float) -> tuple[float, float]:
    """Scale and offset of a straight tone change, at a mean brightness."""
    if isinstance(look, Contrast):
        return look.scale, (1 - look.scale) * bright
    if isinstance(look, Linear):
        return look.scale, look.offset
    raise TypeError(f"{type(look).__name__} is not a straight line")


def _filter(image: UInt8, look: Look) -> Pixels:
    match look:
        case Equalise():
            return _equalise(image, look)
        case Blur():
            return cv2.GaussianBlur(image, (look.size, look.size), look.sigma)
        case Motion():
            return cv2.filter2D(image, -1, _draw_line(look))
        case Noise():
            return _add_noise(image, look)
        case Holes():
            return _cut_holes(image, look)
        case Shuffle():
            return shuffle_tiles(image, look)
        case _:
            raise TypeError(f"{type(look).__name__} is not a filter")


def _equalise(image: UInt8, look: Equalise) -> Pixels:
    clahe = cv2.createCLAHE(clipLimit=look.clip, tileGridSize=look.tiles[::-1])
    if image.shape[2] == 1:
        return clahe.apply(image[..., 0])
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lab[..., 0] = clahe.apply(np.ascontiguousarray(lab[..., 0]))
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)


def _draw_line(look: Motion) -> Float64:
    """Draw the kernel: a line through its middle, so that nothing is shifted."""
    half = look.size // 2
    x = round(half * math.cos(math.radians(look.degrees)))
    y = -round(half * math.sin(math.radians(look.degrees)))
    kernel = np.zeros((look.size, look.size), np.uint8)
    cv2.line(kernel, (half, half), (half + x, half + y), 1)
    # Half a line and its point reflection: the kernel is symmetric to the pixel.
    line = (kernel | kernel[::-1, ::-1]).astype(np.float64)
    return np.asarray(line / line.sum(), np.float64)


def _add_noise(image: UInt8, look: Noise) -> Pixels:
    height, width, channels = image.shape
    shape = (height, width, channels if look.per_channel else 1)
    # The fastest of NumPy's generators; its seed comes from the sample's own.
    rng = np.random.Generator(np.random.SFC64(look.seed))
    noise = rng.standard_normal(shape, dtype=np.float32) * np.float32(look.sigma)
    full = np.ascontiguousarray(np.broadcast_to(noise, image.shape))
    return cv2.add(image, full, dtype=cv2.CV_8U)


def _cut_holes(image: UInt8, look: Holes) -> UInt8:
    cut = image.copy()
    for top, left, height, width in look.boxes:
        cut[top : top + height, left : left + width] = look.fill
    return cut
