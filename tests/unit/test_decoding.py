"""Files become pixels in one way, and never silently in a wrong one."""

import hashlib
import io
import struct
import threading
import warnings
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from loupe.decoding import DamagedImageError, decode_image, inspect_image, read_image
from loupe.errors import ImageError


def draw(height=24, width=36, seed=0):
    """Draw a smooth colour picture without any symmetry."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8))
    return np.array(small.resize((width, height), Image.Resampling.BICUBIC))


def encode(picture, form="PNG", **options):
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def decode(data, **options):
    return decode_image(data, name="picture", **options)


def write_png(width, height, depth, colour, pixels):
    """Write a PNG by hand, of rows each with the byte of its filter."""

    def chunk(kind, body):
        tail = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + tail

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def png_header(width, height):
    """Write a PNG that announces a size and has next to no pixels."""
    return write_png(width, height, 8, 2, b"\0" * 10)


def kind_of(data, **options):
    with pytest.raises(DamagedImageError) as caught:
        decode(data, **options)
    assert str(caught.value).startswith("picture: ")
    return caught.value.kind


# Decoding what is whole.


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_give_the_very_pixels(form):
    options = {"lossless": True} if form == "WEBP" else {}
    pixels = decode(encode(draw(), form, **options))
    np.testing.assert_array_equal(pixels, draw())
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_every_orientation_gives_the_upright_picture(tmp_path, orientation, form):
    upright = draw()
    # How a camera held in this way stores the upright scene (EXIF 2.3, tag 0x0112).
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright),
        7: np.rot90(upright, 2).swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(np.ascontiguousarray(stored), form, exif=exif)
    np.testing.assert_array_equal(decode(data), upright)
    path = tmp_path / "picture"
    path.write_bytes(data)
    facts, pixels = inspect_image(path)
    np.testing.assert_array_equal(pixels, upright)
    assert (facts.height, facts.width) == upright.shape[:2]
    if form == "PNG":
        assert facts.orientation == orientation


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_an_absurd_orientation_is_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(decode(encode(draw(), exif=exif)), draw())


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x09"]
)
def test_damaged_exif_costs_no_picture_and_no_warning(exif):
    pixels = decode(encode(draw(), "JPEG", quality=95, exif=exif))
    assert np.abs(pixels.astype(int) - draw()).mean() < 4


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bit_grey_is_divided_by_257(form):
    values = np.array([[0, 128, 129, 257], [32_768, 65_278, 65_406, 65_535]], dtype=np.uint16)
    expected = np.rint(values / 257).astype(np.uint8)
    pixels = decode(encode(Image.fromarray(values), form))
    np.testing.assert_array_equal(pixels, np.stack([expected] * 3, axis=2))


def test_16_bit_grey_with_a_transparent_value_is_read(tmp_path):
    data = encode(Image.fromarray(np.full((2, 2), 65_535, np.uint16)))
    at = data.index(b"IDAT") - 4
    body = b"tRNS\0\0"
    clear = struct.pack(">I", 2) + body + struct.pack(">I", zlib.crc32(body))
    facts, pixels = inspect_file(tmp_path, data[:at] + clear + data[at:])
    assert np.unique(pixels).tolist() == [255]
    assert not facts.alpha


def test_16_bit_big_endian_and_32_bit_within_16_are_the_same():
    values = np.array([[0, 1000, 65_535]], dtype=np.uint16)
    raw = struct.pack(">3H", *values[0].tolist())
    big = Image.frombytes("I;16B", (3, 1), raw)
    wide = Image.fromarray(values.astype(np.int32))
    assert decode(encode(big, "TIFF"))[0, :, 0].tolist() == [0, 4, 255]
    assert decode(encode(wide, "TIFF"))[0, :, 0].tolist() == [0, 4, 255]


@pytest.mark.parametrize(
    "picture",
    [
        Image.fromarray(np.full((4, 4), 0.5, np.float32)),
        Image.fromarray(np.full((4, 4), 70_000, np.int32)),
        Image.fromarray(np.full((4, 4), -1, np.int32)),
    ],
)
def test_pixels_without_an_agreed_white_are_refused(picture):
    assert kind_of(encode(picture, "TIFF")) == "unreadable"


def test_palette_and_one_bit_are_looked_up():
    palette = Image.fromarray(draw()).quantize(16)
    np.testing.assert_array_equal(decode(encode(palette)), np.array(palette.convert("RGB")))
    one_bit = Image.fromarray(np.array([[True, False]]))
    assert decode(encode(one_bit))[0].tolist() == [[255] * 3, [0] * 3]


def test_transparency_is_laid_over_white():
    rgba = np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [200, 0, 0, 51]]], dtype=np.uint8)
    # 51 / 255 = 0.2: 0.2 * (200, 0, 0) + 0.8 * 255
    expected = [[200, 0, 0], [255, 255, 255], [244, 204, 204]]
    assert decode(encode(rgba))[0].tolist() == expected
    grey = np.array([[[40, 255], [40, 0]]], dtype=np.uint8)
    assert decode(encode(Image.fromarray(grey, "LA")))[0].tolist() == [[40] * 3, [255] * 3]


def test_a_transparent_palette_entry_is_white(tmp_path):
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putdata([0, 1])
    data = encode(palette, transparency=1)
    assert decode(data)[0].tolist() == [[10, 20, 30], [255, 255, 255]]
    facts, _ = inspect_file(tmp_path, data)
    assert facts.alpha
    assert facts.mode == "P"


def test_cmyk_jpeg_becomes_rgb(tmp_path):
    data = encode(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "JPEG", quality=100)
    red, green, blue = decode(data)[8, 8].tolist()
    assert red < 10
    assert min(green, blue) > 245
    facts, _ = inspect_file(tmp_path, data)
    assert facts.mode == "CMYK"


def test_of_several_frames_the_first_is_taken(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    for form in ("GIF", "TIFF", "PNG"):
        data = encode(frames[0], form, save_all=True, append_images=frames[1:])
        assert decode(data)[4, 4].tolist() == [255, 0, 0], form
        facts, pixels = inspect_file(tmp_path, data)
        assert facts.frames == 3
        assert pixels[4, 4].tolist() == [255, 0, 0], form


# Refusing what is damaged.


def test_each_damage_has_its_kind():
    assert kind_of(b"") == "zero-byte"
    assert kind_of(b"image,label\na.jpg,cat\n") == "unreadable"
    assert kind_of(b"\xff\xd8\xff\xe0") == "truncated"
    assert kind_of(png_header(60_000, 60_000)) == "bomb"
    assert kind_of(png_header(16_000, 16_000)) == "bomb"  # where Pillow only warns
    assert kind_of(encode(draw()), max_pixels=24 * 36 - 1) == "bomb"
    assert decode(encode(draw()), max_pixels=24 * 36).shape == (24, 36, 3)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "TIFF", "GIF", "WEBP"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_a_cut_file_is_never_a_picture(form, kept):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encode(noise, form)
    assert kind_of(data[: int(kept * len(data))]) in {"truncated", "unreadable"}


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_a_cut_camera_file_is_called_truncated(form):
    data = encode(draw(200, 300), form)
    assert kind_of(data[: len(data) // 2]) == "truncated"


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_spoilt_file_gives_a_picture_or_an_image_error(data):
    form = data.draw(st.sampled_from(["JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP"]))
    spoilt = bytearray(encode(draw(), form))
    for _ in range(data.draw(st.integers(1, 6))):
        spoilt[data.draw(st.integers(0, len(spoilt) - 1))] = data.draw(st.integers(0, 255))
    try:
        pixels = decode(bytes(spoilt), max_pixels=10_000)
    except ImageError:
        return
    assert pixels.ndim == 3
    assert pixels.dtype == np.uint8


def test_a_missing_file_and_a_folder_are_said_so(tmp_path):
    with pytest.raises(ImageError, match="no such file"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(ImageError, match="cannot be read"):
        read_image(tmp_path)


def test_threads_leave_the_warning_filters_as_they_were():
    before = list(warnings.filters)
    data = encode(draw(100, 100), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    results = []

    def work():
        results.extend(decode(data).shape for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [(100, 100, 3)] * 80
    assert warnings.filters == before
    with pytest.warns(UserWarning, match="ours"):
        warnings.warn("ours", UserWarning, stacklevel=1)


# Facts.


def inspect_file(tmp_path, data):
    path = tmp_path / "picture"
    path.write_bytes(data)
    return inspect_image(path)


def test_facts_of_a_plain_picture(tmp_path):
    data = encode(draw())
    facts, pixels = inspect_file(tmp_path, data)
    np.testing.assert_array_equal(pixels, draw())
    assert (facts.height, facts.width, facts.format, facts.mode) == (24, 36, "PNG", "RGB")
    assert (facts.bits, facts.channels, facts.frames, facts.orientation) == (8, 3, 1, 1)
    assert facts.peak == draw().max()
    assert facts.digest == hashlib.blake2b(data, digest_size=8).hexdigest()
    assert not facts.alpha
    assert facts.kind is None
    assert facts.error is None


def test_the_pixel_digest_knows_the_picture_not_the_container(tmp_path):
    png, _ = inspect_file(tmp_path, encode(draw()))
    bmp, _ = inspect_file(tmp_path, encode(draw(), "BMP"))
    other = draw()
    other[0, 0, 0] ^= 1
    changed, _ = inspect_file(tmp_path, encode(other))
    reshaped, _ = inspect_file(tmp_path, encode(draw().reshape(36, 24, 3)))
    assert png.digest != bmp.digest
    assert png.pixels == bmp.pixels
    assert len({png.pixels, changed.pixels, reshaped.pixels}) == 3


def test_grey_is_judged_by_content(tmp_path):
    grey = np.repeat(draw()[..., :1], 3, axis=2)
    stained = grey.copy()
    stained[5, 5, 2] ^= 1
    assert inspect_file(tmp_path, encode(grey))[0].channels == 1
    assert inspect_file(tmp_path, encode(stained))[0].channels == 3
    assert inspect_file(tmp_path, encode(grey[..., 0]))[0].channels == 1


def test_opaque_alpha_is_no_alpha(tmp_path):
    rgba = np.dstack([draw(), np.full((24, 36), 255, np.uint8)])
    assert not inspect_file(tmp_path, encode(rgba))[0].alpha
    rgba[3, 3, 3] = 254
    assert inspect_file(tmp_path, encode(rgba))[0].alpha


def test_16_bits_are_reported_with_the_brightest_value(tmp_path):
    values = np.full((4, 4), 4095, np.uint16)
    facts, _ = inspect_file(tmp_path, encode(Image.fromarray(values)))
    assert (facts.bits, facts.channels, facts.peak) == (16, 1, 16)


def test_16_bit_colour_is_noticed_though_it_is_read_as_8_bits(tmp_path):
    values = np.array([[[0x12FF, 0x00FF, 0xFF00]]], dtype=np.uint16)
    png = write_png(1, 1, 16, 2, b"\0" + values.astype(">u2").tobytes())
    tiff = cv2.imencode(".tiff", values[..., ::-1])[1].tobytes()
    for data in (png, tiff):
        facts, pixels = inspect_file(tmp_path, data)
        assert (facts.bits, facts.mode, facts.channels) == (16, "RGB", 3)
        assert pixels[0, 0].tolist() == [0x12, 0, 0xFF]
    grey_and_alpha = write_png(1, 1, 16, 4, b"\0" + b"\xff" * 4)
    assert inspect_file(tmp_path, grey_and_alpha)[0].bits == 16


def test_depths_of_other_pictures(tmp_path):
    one_bit = Image.fromarray(np.array([[True, False]]))
    assert inspect_file(tmp_path, encode(one_bit))[0].bits == 1
    assert inspect_file(tmp_path, encode(Image.fromarray(draw()).quantize(4)))[0].bits == 8
    assert inspect_file(tmp_path, encode(draw(), "TIFF"))[0].bits == 8


def test_damage_is_a_fact_here(tmp_path):
    missing, pixels = inspect_image(tmp_path / "gone.png")
    assert (missing.kind, pixels) == ("missing", None)
    assert "gone.png" in missing.error
    empty, pixels = inspect_file(tmp_path, b"")
    assert (empty.kind, pixels, empty.pixels) == ("zero-byte", None, "")
