"""Images: the one place where a file becomes pixels, and pixels become an input.

Owns decoding, EXIF orientation, resizing, padding and normalisation. Training,
validation, prediction, export and serving all call these functions, so a number
measured in one of them holds in the others. It must not know tables, labels or
networks, and it never stands in for a picture that cannot be read.

What every file is turned into: 8-bit RGB. Grey is repeated, palettes are looked
up, CMYK is converted, 16-bit grey is divided by 257, transparency is laid over
white (as a page would show it; the colours hidden below it are often noise), and
of several pages or frames the first is taken.

Shapes: N images, H height, W width, C channels; sizes are (height, width).
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from loupe.errors import ImageError, InputError

UInt8 = NDArray[np.uint8]
Float32 = NDArray[np.float32]
Damage = Literal["missing", "zero-byte", "unreadable", "truncated", "bomb"]

MAX_PIXELS = 178_956_970
"""Largest picture opened, in pixels: half a gigabyte of RGB, Pillow's own limit."""
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PAD_VALUE = 0
"""Value of the bars of `resize="pad"`; fixed, so that it needs no place in a recipe."""

_PREPARE_VERSION = 1  # raise when the same spec begins to give other pixels
_GREY_MEAN, _GREY_STD = 0.449, 0.226  # ImageNet's, averaged over the channels
_ORIENTATION_TAG = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF")
_FILTERS = {
    "area": cv2.INTER_AREA,
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "nearest": cv2.INTER_NEAREST,
}


class DamagedImageError(ImageError):
    """One file cannot be turned into pixels, and `kind` says in which way."""

    def __init__(self, kind: Damage, message: str) -> None:
        super().__init__(message)
        self.kind: Damage = kind


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

    def __post_init__(self) -> None:
        colour = self.channels == 3
        mean = tuple(self.mean) or (IMAGENET_MEAN if colour else (_GREY_MEAN,))
        std = tuple(self.std) or (IMAGENET_STD if colour else (_GREY_STD,))
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "std", std)
        _check_spec(self)

    def digest(self) -> str:
        """Return 16 hex digits that change when the prepared pixels change.

        Mean and standard deviation are left out: they act after `prepare_image`,
        so networks that differ only in them share one cache of pixels.
        """
        fields = (self.height, self.width, self.resize, self.filter, self.channels)
        text = json.dumps([_PREPARE_VERSION, PAD_VALUE, *fields])
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """What one file turned out to be.

    Attributes:
        width: Columns after EXIF orientation; 0 if the file cannot be read.
        height: Rows after EXIF orientation; 0 if the file cannot be read.
        format: As Pillow names it, such as "JPEG"; "" if unknown.
        mode: Pillow's mode as stored, such as "RGB", "I;16" or "CMYK".
        bits: Bits per channel as stored.
        channels: 1 if the picture is grey in content, however it is stored.
        frames: Pages or frames in the file; only the first is used.
        orientation: The EXIF orientation, 1 to 8; 1 is upright.
        alpha: True if some pixel is not opaque.
        peak: Brightest decoded value, 0 to 255.
        digest: 16 hex digits of the file's bytes; "" if it cannot be read.
        pixels: 16 hex digits of the decoded pixels and their shape; equal for
            the same picture in another lossless container; "" if unreadable.
        kind: What is wrong with the file; None if it was decoded.
        error: The message for the user; None if it was decoded.
    """

    width: int = 0
    height: int = 0
    format: str = ""
    mode: str = ""
    bits: int = 0
    channels: int = 0
    frames: int = 0
    orientation: int = 1
    alpha: bool = False
    peak: int = 0
    digest: str = ""
    pixels: str = ""
    kind: Damage | None = None
    error: str | None = None


def decode_image(data: bytes, *, name: str, max_pixels: int = MAX_PIXELS) -> UInt8:
    """Decode the bytes of an image file to upright RGB.

    A file that ends early is an error, never a half-grey picture.

    Args:
        data: The whole file.
        name: What to call it in messages.
        max_pixels: Refuse larger pictures before decoding them. Pillow's own
            guard at twice `PIL.Image.MAX_IMAGE_PIXELS` stays in force.

    Returns:
        The picture, writable and contiguous.

    Shape:
        Returns: (H, W, 3) uint8.

    Raises:
        ImageError: the file is empty, not an image, truncated, too large, or of
            a kind with no sure meaning in 8 bits (float, signed or wider than
            16-bit grey). The error is a `DamagedImageError`.
    """
    with _quiet_pillow(), _open(data, name, max_pixels) as image:
        upright = _load_upright(image, name)[0]
        return np.array(upright)


def read_image(path: Path, *, max_pixels: int = MAX_PIXELS) -> UInt8:
    """Read an image file; see `decode_image`.

    Args:
        path: The file.
        max_pixels: Refuse larger pictures before decoding them.

    Shape:
        Returns: (H, W, 3) uint8.

    Raises:
        ImageError: the file does not exist, or cannot be decoded.
    """
    return decode_image(_read_bytes(path), name=str(path), max_pixels=max_pixels)


def inspect_image(path: Path, *, max_pixels: int = MAX_PIXELS) -> tuple[ImageFacts, UInt8 | None]:
    """Read and decode a file once, and say what it is.

    A damaged file is a finding here, not an error.

    Args:
        path: The file.
        max_pixels: Larger pictures are reported as "bomb" and not decoded.

    Returns:
        The facts, and the picture as `decode_image` gives it; None where
        `ImageFacts.kind` says why there is none.

    Shape:
        Returns: (H, W, 3) uint8.
    """
    try:
        return _inspect(_read_bytes(path), str(path), max_pixels)
    except DamagedImageError as error:
        return ImageFacts(kind=error.kind, error=str(error)), None


def prepare_image(image: UInt8, spec: InputSpec) -> UInt8:
    """Bring a picture to the input's size and channels.

    Args:
        image: As `decode_image` gives it.
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
    if wrong:
        raise InputError(f"the input specification cannot be used: {'; '.join(wrong)}.")


class _Quiet:
    """How many decodes are under way, and the filters to restore after the last."""

    lock = threading.Lock()
    depth = 0
    saved: warnings.catch_warnings[None] | None = None


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Silence Pillow's own warnings while pictures are decoded, in any thread.

    `warnings.catch_warnings` alone would be wrong here: two threads that enter
    and leave it crosswise restore each other's filters.
    """
    with _Quiet.lock:
        _Quiet.depth += 1
        if _Quiet.depth == 1:
            _Quiet.saved = warnings.catch_warnings()
            _Quiet.saved.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        yield
    finally:
        with _Quiet.lock:
            _Quiet.depth -= 1
            if _Quiet.depth == 0 and _Quiet.saved is not None:
                _Quiet.saved.__exit__(None, None, None)


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DamagedImageError("missing", f"{path}: there is no such file.") from None
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise DamagedImageError("unreadable", f"{path}: cannot be read ({why}).") from None


def _open(data: bytes, name: str, max_pixels: int) -> Image.Image:
    """Read the header only, and refuse what is too large to decode."""
    if not data:
        raise DamagedImageError("zero-byte", f"{name}: the file is empty (0 bytes).")
    try:
        image = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise _bomb(name, f"more than {limit:,} pixels", max_pixels) from None
    except Exception as error:  # noqa: BLE001 - a damaged file can raise anything
        raise _unopened(data, name, error) from None
    if image.width * image.height > max_pixels:
        size = f"{image.width} x {image.height} pixels"
        image.close()
        raise _bomb(name, size, max_pixels)
    return image


def _bomb(name: str, found: str, max_pixels: int) -> DamagedImageError:
    return DamagedImageError(
        "bomb",
        f"{name}: its header announces {found}; at most {max_pixels:,} are decoded, as a "
        "guard against decompression bombs. Cut or shrink the picture.",
    )


def _unopened(data: bytes, name: str, error: Exception) -> DamagedImageError:
    """Tell a file cut off in its header from one that is no image at all."""
    if data.startswith(_SIGNATURES):
        return DamagedImageError(
            "truncated", f"{name}: starts like an image, but its header is cut off or damaged."
        )
    why = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
    return DamagedImageError(
        "unreadable", f"{name}: is not an image of a known format{why}; it has {len(data)} bytes."
    )


def _load_upright(image: Image.Image, name: str) -> tuple[Image.Image, int]:
    """Decode all pixels, then turn them as EXIF says; return its orientation too.

    In this order, since reading the EXIF of a PNG may itself load the picture, and
    an error of that must not pass for damaged EXIF.
    """
    loaded = _load_rgb(image, name)
    orientation = _read_orientation(image)
    turn = _TURNS.get(orientation)
    return (loaded if turn is None else loaded.transpose(turn)), orientation


def _read_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, or 1 where it is absent, damaged or absurd.

    TIFF is 1 here: Pillow turns these pictures itself while it loads them.
    """
    if image.format == "TIFF":
        return 1
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # noqa: BLE001 - damaged EXIF must not cost a good picture
        return 1
    return orientation if orientation in _TURNS else 1


def _load_rgb(image: Image.Image, name: str) -> Image.Image:
    """Decode all pixels and lay any transparency over white."""
    try:
        image.load()
        if image.mode == "F" or image.mode.startswith("I"):
            return _to_8_bit(image, name).convert("RGB")
        if image.has_transparency_data:
            clear = image.convert("RGBA")
            white = Image.new("RGBA", clear.size, "white")
            return Image.alpha_composite(white, clear).convert("RGB")
        return image.convert("RGB")
    except DamagedImageError:
        raise
    except Exception as error:  # noqa: BLE001 - a damaged file can raise anything
        raise _unloaded(name, error) from None


def _to_8_bit(image: Image.Image, name: str) -> Image.Image:
    """Map 16-bit grey to 8 bits; refuse what has no agreed white."""
    if image.mode == "F":
        found = "its pixels are floating-point numbers, whose white is not agreed on"
    else:
        values = np.asarray(image).astype(np.int64)
        low, high = int(values.min()), int(values.max())
        if low >= 0 and high <= 65_535:
            return Image.fromarray(((values + 128) // 257).astype(np.uint8))
        found = f"its values reach from {low} to {high}, beyond 16 bits"
    raise DamagedImageError(
        "unreadable", f"{name}: {found}. Save it as 8-bit or 16-bit grey, or as RGB."
    )


def _unloaded(name: str, error: Exception) -> DamagedImageError:
    text = str(error) or type(error).__name__
    if isinstance(error, EOFError) or "truncated" in text:
        return DamagedImageError("truncated", f"{name}: the file ends too early ({text}).")
    return DamagedImageError("unreadable", f"{name}: cannot be decoded ({text}).")


def _inspect(data: bytes, name: str, max_pixels: int) -> tuple[ImageFacts, UInt8]:
    with _quiet_pillow(), _open(data, name, max_pixels) as image:
        mode, form = image.mode, image.format or ""
        upright, orientation = _load_upright(image, name)
        alpha, frames = _has_clear_pixels(image), _count_frames(image)
        pixels = np.array(upright)
    facts = ImageFacts(
        width=pixels.shape[1],
        height=pixels.shape[0],
        format=form,
        mode=mode,
        bits=1 if mode == "1" else 16 if mode.startswith("I") else 8,
        channels=1 if _is_grey(pixels) else 3,
        frames=frames,
        orientation=orientation,
        alpha=alpha,
        peak=int(pixels.max()),
        digest=hashlib.blake2b(data, digest_size=8).hexdigest(),
        pixels=_digest_pixels(pixels),
    )
    return facts, pixels


def _count_frames(image: Image.Image) -> int:
    """Count the frames; the second picture of a phone's MPO is a preview."""
    if image.format == "MPO":
        return 1
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # noqa: BLE001 - a later frame may be damaged; we use the first
        return 1


def _has_clear_pixels(image: Image.Image) -> bool:
    if not image.has_transparency_data or image.mode.startswith("I"):
        return False
    lowest, _ = image.convert("RGBA").getchannel("A").getextrema()
    return bool(lowest < 255)  # type: ignore[operator]


def _is_grey(pixels: UInt8) -> bool:
    # Most colour pictures show it in a sparse sample, which costs next to nothing.
    sparse = pixels[::16, ::16]
    return all(
        np.array_equal(part[..., 0], part[..., band])
        for part in (sparse, pixels)
        for band in (1, 2)
    )


def _digest_pixels(pixels: UInt8) -> str:
    hasher = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=8)
    hasher.update(pixels.data)
    return hasher.hexdigest()


def _to_luma(image: UInt8) -> UInt8:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), dtype=np.uint8)


def _pad(pixels: UInt8, spec: InputSpec) -> UInt8:
    height, width = pixels.shape[:2]
    scale = min(spec.height / height, spec.width / width)
    inner = _resize(
        pixels, max(1, round(height * scale)), max(1, round(width * scale)), spec.filter
    )
    top, left = (spec.height - inner.shape[0]) // 2, (spec.width - inner.shape[1]) // 2
    padded = np.full((spec.height, spec.width, *pixels.shape[2:]), PAD_VALUE, np.uint8)
    padded[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
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
