"""Decoding: the one place where a file becomes pixels.

Training, validation, prediction, export and serving all call these functions, so
a number measured in one of them holds in the others. It must not resize, know
tables, labels or networks, or stand in for a picture that cannot be read.

What every file is turned into: 8-bit RGB. Grey is repeated, palettes are looked
up, CMYK is converted, 16-bit grey is divided by 257, 16-bit colour keeps its upper
8 bits (as Pillow reads it), transparency is laid over white (as a page would show
it; the colours hidden below it are often noise), and of several pages or frames
the first is taken.

Shapes: H height, W width.
"""

from __future__ import annotations

import hashlib
import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from loupe.errors import ImageError

UInt8 = NDArray[np.uint8]
Damage = Literal["missing", "zero-byte", "unreadable", "truncated", "bomb"]

MAX_PIXELS = 178_956_970
"""Largest picture opened, in pixels: half a gigabyte of RGB, Pillow's own limit."""

_FIRST_SIDEWAYS = 5  # orientations 5 to 8 exchange height and width
_ORIENTATION_TAG = 0x0112
_BITS_PER_SAMPLE_TAG = 258  # of TIFF 6.0
_PNG_DEPTH_AT = 24  # signature 8, length 4, "IHDR" 4, width 4, height 4
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


class DamagedImageError(ImageError):
    """One file cannot be turned into pixels, and `kind` says in which way."""

    def __init__(self, kind: Damage, message: str) -> None:
        super().__init__(message)
        self.kind: Damage = kind

    def __reduce__(self) -> tuple[type[DamagedImageError], tuple[Damage, str]]:
        """Let workers send it: the default passes the message alone."""
        return type(self), (self.kind, str(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """What one file turned out to be.

    Attributes:
        width: Columns after EXIF orientation; 0 if the file cannot be read.
        height: Rows after EXIF orientation; 0 if the file cannot be read.
        format: As Pillow names it, such as "JPEG"; "" if unknown.
        mode: Pillow's mode as stored, such as "RGB", "I;16" or "CMYK".
        bits: Bits per channel as stored: 1, 8 or 16; other depths count as 8.
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


def read_size(path: Path, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Return height and width as displayed (after EXIF), from the header alone.

    Args:
        path: An image file.
        max_pixels: Refuse what is larger.

    Raises:
        ImageError: the file is missing, no image, or too large.
    """
    with _quiet_pillow(), _open(_read_bytes(path), str(path), max_pixels) as image:
        turned = _read_orientation(image) >= _FIRST_SIDEWAYS
        return (image.width, image.height) if turned else (image.height, image.width)


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
        mode, form, bits = image.mode, image.format or "", _count_bits(image, data)
        upright, orientation = _load_upright(image, name)
        alpha, frames = _has_clear_pixels(image), _count_frames(image)
        pixels = np.array(upright)
    facts = ImageFacts(
        width=pixels.shape[1],
        height=pixels.shape[0],
        format=form,
        mode=mode,
        bits=bits,
        channels=1 if _is_grey(pixels) else 3,
        frames=frames,
        orientation=orientation,
        alpha=alpha,
        peak=int(pixels.max()),
        digest=hashlib.blake2b(data, digest_size=8).hexdigest(),
        pixels=_digest_pixels(pixels),
    )
    return facts, pixels


def _count_bits(image: Image.Image, data: bytes) -> int:
    """Read the depth of the file: Pillow opens 16-bit colour in an 8-bit mode."""
    if image.mode == "1":
        return 1
    depth = 8
    if image.format == "PNG":
        depth = data[_PNG_DEPTH_AT]
    elif image.format == "TIFF":
        depth = max(8, *getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE_TAG, ()))
    return 16 if depth == 16 or image.mode.startswith("I") else 8


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
