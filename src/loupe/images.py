"""Images: the one place where pixels become the input of a network.

Owns resizing, padding and normalisation. Training, validation, prediction, export
and serving all call these functions, so a number measured in one of them holds in
the others. It must not open files, use randomness, or know tables, labels or
networks.

Shapes: N images, H height, W width, C channels; sizes are (height, width).
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from loupe.errors import InputError

UInt8 = NDArray[np.uint8]
Float32 = NDArray[np.float32]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PAD_VALUE = 0
"""Value of the bars of `resize="pad"`; fixed, so that it needs no place in a recipe."""

_PREPARE_VERSION = 1  # raise when the same spec begins to give other pixels
_GREY_MEAN, _GREY_STD = 0.449, 0.226  # ImageNet's, averaged over the channels
_FILTERS = {
    "area": cv2.INTER_AREA,
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "nearest": cv2.INTER_NEAREST,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """What a network is given: size, channels and normalisation.

    The fields survive JSON: `InputSpec(**json.loads(json.dumps(asdict(spec))))`
    is equal to `spec`.

    Attributes:
        height: Rows of the input, in pixels.
        width: Columns of the input, in pixels.
        resize: "stretch" fills the input; "pad" keeps the aspect, centres the
            picture and fills the bars with `PAD_VALUE`.
        filter: "auto" is area along an axis that shrinks and cubic along one
            that grows.
        channels: 3 for RGB, 1 for luma (ITU-R BT.601).
        mean: (channels,) in units of [0, 1]; ImageNet's if not given.
        std: (channels,) above 0, in units of [0, 1]; ImageNet's if not given.
        crop: Height and width that the network sees, at most the size; None for
            the whole.

    Raises:
        InputError: a field is out of range, or mean and std do not have one
            value for each channel.
    """

    height: int
    width: int
    resize: Literal["stretch", "pad"] = "stretch"
    filter: Literal["auto", "area", "linear", "cubic", "nearest"] = "auto"
    channels: Literal[1, 3] = 3
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    crop: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        colour = self.channels == 3
        mean = tuple(self.mean) or (IMAGENET_MEAN if colour else (_GREY_MEAN,))
        std = tuple(self.std) or (IMAGENET_STD if colour else (_GREY_STD,))
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "std", std)
        if self.crop is not None:
            object.__setattr__(self, "crop", tuple(self.crop))  # JSON has lists only
        _check_spec(self)

    @property
    def network_height(self) -> int:
        """Rows that the network sees: those of the crop, else of the whole."""
        return self.crop[0] if self.crop else self.height

    @property
    def network_width(self) -> int:
        """Columns that the network sees: those of the crop, else of the whole."""
        return self.crop[1] if self.crop else self.width

    def digest(self) -> str:
        """Return 16 hex digits that change when the prepared pixels change.

        Mean, standard deviation and crop are left out: they act after
        `prepare_image`, so networks that differ only in them share one cache of
        pixels.
        """
        fields = (self.height, self.width, self.resize, self.filter, self.channels)
        text = json.dumps([_PREPARE_VERSION, PAD_VALUE, *fields])
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def prepare_image(image: UInt8, spec: InputSpec) -> UInt8:
    """Bring a picture to the input's size and channels.

    Args:
        image: As `decoding.decode_image` gives it.
        spec: What the network wants.

    Shape:
        image: (H, W, 3) uint8.
        Returns: (spec.height, spec.width, spec.channels) uint8.

    Returns:
        The prepared pixels; `image` itself if nothing had to be done.

    Raises:
        InputError: the picture is not (H, W, 3) uint8, or has no pixels.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise InputError(
            f"the picture has shape {image.shape} and type {image.dtype}; expected "
            "(height, width, 3) of uint8, as `read_image` gives it."
        )
    pixels = image if spec.channels == 3 else _to_luma(image)
    if spec.resize == "pad":
        fitted = _pad(pixels, spec)
    else:
        fitted = _resize(pixels, spec.height, spec.width, spec.filter)
    return fitted.reshape(spec.height, spec.width, spec.channels)


def prepare_masks(masks: UInt8, spec: InputSpec) -> UInt8:
    """Bring masks to the input's size, as `prepare_image` brings their picture.

    Each pixel takes the value of the source pixel that its centre falls on, so no
    new value arises; the bars of `resize="pad"` are 0.

    Args:
        masks: Of one picture, one channel a class.
        spec: What the network wants; its filter is for pictures only.

    Shape:
        masks: (H, W, K) uint8, H and W those of the picture.
        Returns: (spec.height, spec.width, K) uint8.

    Raises:
        InputError: the masks are not (H, W, K) uint8, or have no pixels.

    Examples:
        >>> masks = np.array([[[1], [2]]], dtype=np.uint8)
        >>> prepare_masks(masks, InputSpec(height=2, width=4))[..., 0].tolist()
        [[1, 1, 2, 2], [1, 1, 2, 2]]
    """
    if masks.ndim != 3 or masks.dtype != np.uint8 or 0 in masks.shape[:2]:
        raise InputError(
            f"the masks have shape {masks.shape} and type {masks.dtype}; expected "
            "(height, width, classes) of uint8, at least 1 x 1 pixels."
        )
    top, left, height, width = _place_inner(masks.shape[0], masks.shape[1], spec)
    rows = _nearest(masks.shape[0], height)
    columns = _nearest(masks.shape[1], width)
    prepared = np.zeros((spec.height, spec.width, masks.shape[2]), np.uint8)
    prepared[top : top + height, left : left + width] = masks[rows[:, None], columns]
    return prepared


def normalise(batch: UInt8, spec: InputSpec) -> Float32:
    """Turn prepared pixels into a network's numbers: (x / 255 - mean) / std.

    Args:
        batch: Prepared pixels.
        spec: Where mean and std stand.

    Shape:
        batch: (N, H, W, C) uint8, C = spec.channels.
        Returns: the same, float32.

    Raises:
        InputError: the batch is not uint8, or its channels are not the spec's.

    Examples:
        >>> spec = InputSpec(height=1, width=1, mean=(0.5,) * 3, std=(0.5,) * 3)
        >>> normalise(np.array([[[[0, 255, 51]]]], dtype=np.uint8), spec).tolist()
        [[[[-1.0, 1.0, -0.6000000238418579]]]]
    """
    if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[3] != spec.channels:
        raise InputError(
            f"the batch has shape {batch.shape} and type {batch.dtype}; expected "
            f"(rows, height, width, {spec.channels}) of uint8, as `prepare_image` gives them."
        )
    levels = np.arange(256)[:, None] / 255
    table = ((levels - np.array(spec.mean)) / np.array(spec.std)).astype(np.float32)
    if not batch.size:
        return batch.astype(np.float32)
    flat = batch.reshape(len(batch), -1, spec.channels)
    looked_up = cv2.LUT(flat, table.reshape(1, 256, spec.channels))
    return np.asarray(looked_up, dtype=np.float32).reshape(batch.shape)


def _check_spec(spec: InputSpec) -> None:
    wrong = []
    if spec.height < 1 or spec.width < 1:
        wrong.append(f"size is {spec.height} x {spec.width}; expected 1 or more")
    if spec.resize not in {"stretch", "pad"}:
        wrong.append(f"resize is {spec.resize!r}; expected 'stretch' or 'pad'")
    if spec.filter not in {"auto", *_FILTERS}:
        wrong.append(f"filter is {spec.filter!r}; expected one of auto, {', '.join(_FILTERS)}")
    if spec.channels not in {1, 3}:
        wrong.append(f"channels is {spec.channels}; expected 1 or 3")
    if not len(spec.mean) == len(spec.std) == spec.channels:
        found = f"{len(spec.mean)} and {len(spec.std)} values"
        wrong.append(f"mean and std have {found}; expected {spec.channels} each")
    if not all(math.isfinite(value) for value in spec.mean):
        wrong.append(f"mean is {spec.mean}; expected finite numbers")
    if not all(math.isfinite(value) and value > 0 for value in spec.std):
        wrong.append(f"std is {spec.std}; expected numbers above 0")
    if spec.crop is not None and not _fits(spec.crop, (spec.height, spec.width)):
        found = " x ".join(str(side) for side in spec.crop)
        wrong.append(
            f"crop is {found}; expected a height and width from 1 x 1 to the size, "
            f"{spec.height} x {spec.width}"
        )
    if wrong:
        raise InputError(f"the input specification cannot be used: {'; '.join(wrong)}.")


def _to_luma(image: UInt8) -> UInt8:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), dtype=np.uint8)


def _fits(crop: tuple[int, ...], size: tuple[int, int]) -> bool:
    return len(crop) == 2 and all(1 <= c <= side for c, side in zip(crop, size, strict=True))


def _place_inner(height: int, width: int, spec: InputSpec) -> tuple[int, int, int, int]:
    """Top, left, height and width that a picture of some size takes in the input."""
    if spec.resize == "stretch":
        return 0, 0, spec.height, spec.width
    scale = min(spec.height / height, spec.width / width)
    inner = (max(1, round(height * scale)), max(1, round(width * scale)))
    return (spec.height - inner[0]) // 2, (spec.width - inner[1]) // 2, *inner


def _nearest(source: int, size: int) -> NDArray[np.intp]:
    """(size,) the pixel of the source that each centre falls on, in whole numbers."""
    return (2 * np.arange(size, dtype=np.intp) + 1) * source // (2 * size)


def _pad(pixels: UInt8, spec: InputSpec) -> UInt8:
    top, left, height, width = _place_inner(pixels.shape[0], pixels.shape[1], spec)
    padded = np.full((spec.height, spec.width, *pixels.shape[2:]), PAD_VALUE, np.uint8)
    inner = _resize(pixels, height, width, spec.filter)
    padded[top : top + height, left : left + width] = inner
    return padded


def _resize(pixels: UInt8, height: int, width: int, name: str) -> UInt8:
    """Resize; "auto" shrinks by area first and then grows by cubic."""
    if name != "auto":
        return _resize_by(pixels, height, width, _FILTERS[name])
    shrunk = _resize_by(
        pixels, min(height, pixels.shape[0]), min(width, pixels.shape[1]), cv2.INTER_AREA
    )
    return _resize_by(shrunk, height, width, cv2.INTER_CUBIC)


def _resize_by(pixels: UInt8, height: int, width: int, flag: int) -> UInt8:
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=flag), dtype=np.uint8)
