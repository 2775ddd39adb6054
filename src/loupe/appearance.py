"""Appearance: some thirty numbers that say how a picture looks, whatever it shows.

Owns their names, kinds and formulas. They are made to tell cameras, lamps, lenses,
cuts and compression apart, so that two tables can be compared without labels. It
must not read files, know tables, or judge what is good.

Tones and colours are taken of the picture shrunk to at most 256 px a side, texture of
one stretched to 256 x 256 (so that resolution alone does not pass for sharpness), noise
and blocks of up to 512 x 512 px in the middle, as they are.

Shapes: H height, W width, S statistics.
"""

from __future__ import annotations

import math
from typing import Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from loupe.decoding import UInt8
from loupe.errors import InputError

Float32 = NDArray[np.float32]
Kind = Literal["file", "light", "colour", "texture"]

KINDS: Final[dict[Kind, tuple[str, ...]]] = {
    "file": ("height", "width", "aspect ratio", "bytes per pixel", "JPEG blocks"),
    "light": (
        "brightness",
        "contrast",
        "dark tones",
        "bright tones",
        "black pixels",
        "white pixels",
        "brightness of the rim",
        "unevenness of light",
    ),
    "colour": (
        "red",
        "green",
        "blue",
        "red against green",
        "yellow against blue",
        "saturation",
        "spread of colours",
    ),
    "texture": (
        "sharpness",
        "noise",
        "edges",
        "fine against coarse detail",
        "upright against level edges",
    ),
}
"""Names of the statistics by what they speak of, in the order of the values."""
NAMES: Final = tuple(name for names in KINDS.values() for name in names)
"""(S,) names in the order of the values."""

_TONES_PX = 256
_TEXTURE_PX = 256
_NATIVE_PX = 512
_BLOCK_PX = 8  # of JPEG
_BLACK, _WHITE = 8, 247  # grey levels
_EDGE = 32.0  # grey levels over the two pixels that a Sobel filter spans
_TINY = 1e-6
# Immerkaer's filter: blind to planes and straight ramps, so that mostly noise is left.
_NOISE_FILTER = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)


def measure_appearance(image: UInt8, file_bytes: int) -> Float32:
    """Measure the statistics of one picture.

    Args:
        image: As `loupe.decoding.decode_image` gives it.
        file_bytes: Size of its file; only the bytes per pixel depend on it.

    Shape:
        image: (H, W, 3) uint8. Returns: (S,), all finite.

    Raises:
        InputError: the picture has another shape or dtype, or no pixels.

    References:
        Hasler & Suesstrunk (2003), "Measuring colourfulness in natural images"
        (spread of colours); Pertuz, Puig & Garcia (2013), "Analysis of focus
        measure operators" (variance of the Laplacian); Immerkaer (1996), "Fast
        noise variance estimation"; Wang, Bovik & Evans (2000), "Blind measurement
        of blocking artifacts in images".

    Examples:
        >>> grey = np.full((40, 80, 3), 128, np.uint8)
        >>> values = dict(zip(NAMES, measure_appearance(grey, 1600).tolist()))
        >>> values["aspect ratio"], values["brightness"], values["bytes per pixel"]
        (2.0, 128.0, 0.5)
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise InputError(
            f"the picture has shape {image.shape} and dtype {image.dtype}; expected (H, W, 3) "
            "uint8."
        )
    native = _to_grey(_cut_middle(image, _NATIVE_PX))
    small = _shrink(image, _TONES_PX)
    values = (
        *_measure_file(image, file_bytes, native),
        *_measure_light(_to_grey(small)),
        *_measure_colour(small),
        *_measure_texture(_to_grey(_stretch(image, _TEXTURE_PX)), native),
    )
    return np.array(values, np.float32)


def _measure_file(image: UInt8, file_bytes: int, native: Float32) -> tuple[float, ...]:
    height, width = image.shape[:2]
    return height, width, width / height, file_bytes / (height * width), _find_blocks(native)


def _measure_light(grey: Float32) -> tuple[float, ...]:
    dark, bright = np.percentile(grey, [5, 95])
    rim, middle = _part_rim(grey)
    coarse = cv2.resize(grey, (4, 4), interpolation=cv2.INTER_AREA)
    return (
        float(grey.mean()),
        float(grey.std()),
        float(dark),
        float(bright),
        float((grey <= _BLACK).mean()),
        float((grey >= _WHITE).mean()),
        rim - middle,
        float(coarse.std()),
    )


def _measure_colour(image: UInt8) -> tuple[float, ...]:
    red, green, blue = np.moveaxis(image.astype(np.float32), -1, 0)
    against_green, against_blue = red - green, (red + green) / 2 - blue
    most, least = image.max(axis=-1).astype(np.float32), image.min(axis=-1).astype(np.float32)
    saturation = (most - least) / np.maximum(most, 1)
    return (
        float(red.mean()),
        float(green.mean()),
        float(blue.mean()),
        float(against_green.mean()),
        float(against_blue.mean()),
        float(saturation.mean()),
        math.hypot(float(against_green.std()), float(against_blue.std())),
    )


def _measure_texture(grey: Float32, native: Float32) -> tuple[float, ...]:
    laplacian = cv2.Laplacian(grey, cv2.CV_32F)
    # Over the two pixels it spans, a Sobel filter of side 3 sums four differences.
    across = np.asarray(cv2.Sobel(grey, cv2.CV_32F, 1, 0)) / 4
    down = np.asarray(cv2.Sobel(grey, cv2.CV_32F, 0, 1)) / 4
    level, upright = float((down**2).mean()), float((across**2).mean())
    fine = float((grey - cv2.GaussianBlur(grey, (0, 0), 1.0)).std())
    return (
        float(laplacian.var()),
        _estimate_noise(native),
        float((np.hypot(across, down) >= _EDGE).mean()),
        fine / max(float(grey.std()), 1.0),
        (upright - level) / (upright + level + _TINY),
    )


def _estimate_noise(grey: Float32) -> float:
    """Deviation of the noise in grey levels; 0 for pictures without an inside."""
    if min(grey.shape) < 3:
        return 0.0
    inside = np.abs(cv2.filter2D(grey, cv2.CV_32F, _NOISE_FILTER)[1:-1, 1:-1])
    return float(inside.mean() * math.sqrt(math.pi / 2) / 6)


def _find_blocks(grey: Float32) -> float:
    """How much larger steps between neighbours are at multiples of 8 px, as a log ratio."""
    ratios = []
    for axis in (0, 1):
        steps = np.abs(np.diff(grey, axis=axis)).mean(axis=1 - axis)
        at_border = np.arange(len(steps)) % _BLOCK_PX == _BLOCK_PX - 1
        if at_border.any() and not at_border.all():
            border, within = float(steps[at_border].mean()), float(steps[~at_border].mean())
            ratios.append(math.log((border + 1) / (within + 1)))  # 1 grey level damps flat ones
    return sum(ratios) / len(ratios) if ratios else 0.0


def _part_rim(grey: Float32) -> tuple[float, float]:
    """Mean of the outer eighth on each side, and of what it surrounds."""
    inner = np.zeros(grey.shape, np.bool_)
    height, width = grey.shape
    inner[height // 8 : height - height // 8, width // 8 : width - width // 8] = True
    rim = grey[~inner]
    middle = float(grey[inner].mean())
    return (float(rim.mean()) if rim.size else middle), middle


def _cut_middle(image: UInt8, most: int) -> UInt8:
    """Cut at most `most` px a side, starting at a multiple of JPEG's block."""
    height, width = image.shape[:2]
    top, left = ((max(side - most, 0) // 2) // _BLOCK_PX * _BLOCK_PX for side in (height, width))
    return image[top : top + most, left : left + most]


def _shrink(image: UInt8, most: int) -> UInt8:
    height, width = (min(side, most) for side in image.shape[:2])
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(resized, np.uint8)


def _stretch(image: UInt8, side: int) -> UInt8:
    larger = min(image.shape[:2]) < side
    method = cv2.INTER_LINEAR if larger else cv2.INTER_AREA
    return np.asarray(cv2.resize(image, (side, side), interpolation=method), np.uint8)


def _to_grey(image: UInt8) -> Float32:
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    return np.asarray(grey, np.float32)
