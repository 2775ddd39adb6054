"""Pictures of a batch: the pixels that were given, and a caption that fits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFont

from loupe import pictures
from loupe.errors import InputError
from loupe.pictures import caption, save_batch

GAP, LINE = 8, 15


def read(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture)


def random_images(number, height, width, channels=3):
    shape = (number, height, width, channels)
    return np.random.default_rng(5).integers(0, 256, shape, dtype=np.uint8)


def show(folder, images, captions=None, **options):
    path = folder / "batch.png"
    save_batch(path, images, captions or [""] * len(images), **options)
    return read(path)


def test_captions_name_targets_from_the_largest_on():
    classes = ["sound", "crack", "spall", "rust"]
    assert caption(np.array([0.37, 0.63, 0.004, 0]), classes) == "crack 0.63 sound 0.37"
    assert caption(np.array([1, 0, 1, 0.006], np.float32), classes) == (
        "sound 1.00 spall 1.00 rust 0.01"
    )
    assert caption(np.array([0, 0.005, 0, 0]), classes) == "none"


def test_equal_targets_stay_in_the_order_of_classes():
    classes = [f"c{number}" for number in range(100)]
    targets = np.tile([0.5, 1.0], 50)
    expected = [f"{name} 1.00" for name in classes[1::2]] + [f"{n} 0.50" for n in classes[::2]]
    assert caption(targets, classes) == " ".join(expected)


def test_captions_need_a_name_for_each_target():
    with pytest.raises(InputError, match=r"shape \(3,\); expected \(2,\)"):
        caption(np.zeros(3), ["a", "b"])


def test_images_of_a_middle_size_are_shown_pixel_for_pixel(tmp_path):
    images = random_images(3, 150, 200)
    sheet = show(tmp_path, images)
    # Three images make two columns and two rows; the last place stays empty.
    assert sheet.shape == (2 * (150 + GAP) + GAP, 2 * (200 + GAP) + GAP, 3)
    for image, (top, left) in zip(images, [(8, 8), (8, 216), (166, 8)], strict=True):
        assert (sheet[top : top + 150, left : left + 200] == image).all()
    assert (sheet[166:, 216:] == 255).all()


@pytest.mark.parametrize(("size", "factor"), [((32, 32), 4), ((50, 20), 3), ((127, 90), 2)])
def test_small_images_are_enlarged_by_whole_pixels(tmp_path, size, factor):
    images = random_images(1, *size)
    sheet = show(tmp_path, images)
    expected = images[0].repeat(factor, axis=0).repeat(factor, axis=1)
    height, width = expected.shape[:2]
    assert max(height, width) >= 128
    assert (sheet[8 : 8 + height, 8 : 8 + width] == expected).all()


def test_large_images_are_shrunk_to_256_by_the_mean(tmp_path):
    images = random_images(1, 256, 512)
    sheet = show(tmp_path, images)
    assert sheet.shape == (128 + 2 * GAP, 256 + 2 * GAP, 3)
    expected = images[0].reshape(128, 2, 256, 2, 3).mean(axis=(1, 3))
    assert np.abs(sheet[8:136, 8:264] - expected).max() <= 1


def test_grey_and_floating_images_are_shown(tmp_path):
    grey = random_images(1, 130, 130, channels=1)
    assert (show(tmp_path, grey)[8:138, 8:138] == grey[0]).all()
    colour = random_images(1, 130, 130)
    for dtype in (np.float32, np.float16, np.float64):
        for error in (0.25, -0.25):
            inexact = colour.astype(dtype) + dtype(error)
            assert (show(tmp_path, inexact)[8:138, 8:138] == colour[0]).all()


def test_values_that_are_no_colours_are_shown_and_not_wrapped(tmp_path):
    images = np.full((1, 128, 128, 3), 100, np.float32)
    images[0, 0, :4, 0] = [-50, 300, np.inf, np.nan]
    assert show(tmp_path, images)[8, 8:12, 0].tolist() == [0, 255, 255, 0]


def test_captions_stand_under_their_image(tmp_path):
    images = np.zeros((2, 128, 128, 3), np.uint8)
    sheet = show(tmp_path, images, ["", "crack 0.63"])
    assert (sheet[137:, :140] == 255).all()
    assert (sheet[137 : 137 + LINE, 144:] < 128).any()
    assert sheet.shape[0] == 128 + LINE + 2 * GAP


@pytest.mark.parametrize(("number", "most", "places"), [(20, 16, (4, 4)), (5, 3, (2, 2))])
def test_no_more_images_are_shown_than_asked_for(tmp_path, number, most, places):
    images = np.zeros((number, 128, 128, 3), np.uint8)
    sheet = show(tmp_path, images, most=most)
    rows, columns = places
    assert sheet.shape == (rows * 136 + 8, columns * 136 + 8, 3)
    assert int((sheet == 0).all(axis=2).sum()) == most * 128 * 128


def test_16_is_the_default(tmp_path):
    assert show(tmp_path, np.zeros((40, 128, 128, 1), np.uint8)).shape == (552, 552, 3)


@given(st.text(max_size=300), st.integers(128, 256))
def test_any_text_is_wrapped_to_lines_that_fit(text, width):
    font = ImageFont.load_default(12)
    lines = pictures._wrap(text, width, font)
    assert len(lines) <= 3
    assert all(font.getlength(line) <= width for line in lines)
    if not any(line.endswith("…") for line in lines):
        assert " ".join(lines).split() == text.split()


def test_long_captions_are_cut_by_an_ellipsis():
    font = ImageFont.load_default(12)
    words = [f"class{number}" for number in range(40)]
    lines = pictures._wrap(" ".join(words), 150, font)
    assert len(lines) == 3
    assert [line.endswith("…") for line in lines] == [False, False, True]
    assert " ".join(lines)[:-1].split()[:-1] == words[: len(" ".join(lines).split()) - 1]
    assert pictures._wrap("w" * 10_000, 150, font)[0].endswith("w…")


@pytest.mark.parametrize("text", ["трещина 0.63", "裂纹 1.00", "🙂", "\ud800", "a\0b\n\tc", "شق"])
def test_text_of_any_script_is_no_error(tmp_path, text):
    assert show(tmp_path, np.zeros((1, 8, 8, 3), np.uint8), [text]).shape[0] == 128 + LINE + 2 * GAP


def test_narrow_images_still_have_room_for_a_caption(tmp_path):
    sheet = show(tmp_path, np.zeros((1, 256, 4, 3), np.uint8), ["crack 0.63 sound 0.37"])
    assert sheet.shape == (256 + LINE + 2 * GAP, 128 + 2 * GAP, 3)


def test_the_file_is_written_whole_in_a_new_folder_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "fold-0" / "batch.png"
    save_batch(path, random_images(1, 8, 8), ["a"])
    before = path.read_bytes()

    def fail(picture, file, **_):
        file.write_bytes(b"half")
        raise OSError

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match=r"^$"):
        save_batch(path, random_images(2, 8, 8), ["a", "b"])
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("images", "captions", "most", "message"),
    [
        (np.zeros((0, 8, 8, 3), np.uint8), [], 16, "at least one image"),
        (np.zeros((1, 3, 8, 8), np.uint8), ["a"], 16, r"shape \(1, 3, 8, 8\)"),
        (np.zeros((1, 8, 8, 3), np.int64), ["a"], 16, "dtype int64"),
        (np.zeros((1, 8, 8, 3), np.uint8), ["a", "b"], 16, "2 captions for 1 images"),
        (np.zeros((1, 8, 8, 3), np.uint8), ["a"], 0, "most is 0"),
    ],
)
def test_what_cannot_be_shown_is_refused(tmp_path, images, captions, most, message):
    with pytest.raises(InputError, match=message):
        save_batch(tmp_path / "batch.png", images, captions, most=most)
    assert list(tmp_path.iterdir()) == []
