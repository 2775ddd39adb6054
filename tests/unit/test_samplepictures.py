"""Pictures for a page: their size, their colours, their masks, and the grid of predictions."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loupe.errors import InputError, MaskError
from loupe.masks import encode_rle
from loupe.overlays import COLOURS
from loupe.samplepictures import Predicted, _find_font, draw_prediction_grid, fit_picture

SIDEWAYS = 6  # the EXIF orientation of an upright telephone


def save(path: Path, height: int, width: int, colour=(90, 120, 150), **options) -> Path:
    Image.new("RGB", (width, height), colour).save(path, **options)
    return path


def pixels(data: bytes | None) -> np.ndarray:
    assert data is not None
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((400, 300), (160, 120)),
        ((120, 90), (120, 90)),  # no whole factor fits
        ((80, 40), (160, 80)),
        ((30, 20), (150, 100)),
        ((1, 1), (160, 160)),
        ((256, 1600), (51, 320)),  # a strip
        ((300, 600), (80, 160)),
        ((1, 5000), (1, 320)),
    ],
)
def test_a_picture_has_the_size_of_a_page(tmp_path, before, after):
    data = fit_picture(save(tmp_path / "a.png", *before))
    assert pixels(data).shape == (*after, 3)
    assert data.startswith(b"\xff\xd8\xff")


def test_a_small_image_grows_in_squares_of_pixels(tmp_path):
    board = np.indices((8, 8)).sum(axis=0) % 2 * 255
    Image.fromarray(board.astype(np.uint8)).save(tmp_path / "board.png")
    grown = pixels(fit_picture(tmp_path / "board.png", size=80))[..., 0]
    wanted = board.repeat(10, axis=0).repeat(10, axis=1)
    assert np.abs(grown - wanted).mean() < 8  # JPEG
    assert ((grown > 127) == (wanted > 127)).all()


def test_pixels_are_those_of_training(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = SIDEWAYS
    turned = save(tmp_path / "turned.jpg", 100, 200, exif=exif)
    assert pixels(fit_picture(turned)).shape == (160, 80, 3)
    Image.new("RGBA", (50, 50), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert pixels(fit_picture(tmp_path / "clear.png")).min() > 250  # over white
    deep = np.full((50, 50), 128 * 257, np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert abs(pixels(fit_picture(tmp_path / "deep.png")).mean() - 128) < 3
    Image.new("CMYK", (50, 50), (0, 255, 255, 0)).save(tmp_path / "red.jpg")
    red = pixels(fit_picture(tmp_path / "red.jpg")).mean(axis=(0, 1))
    assert red[0] > 180
    assert red[2] < 80


def test_masks_are_lines_in_the_colours_of_their_classes(tmp_path):
    path = save(tmp_path / "a.png", 100, 100, (0, 0, 0))
    mask = np.zeros((100, 100), bool)
    mask[30:60, 30:60] = True
    seen = pixels(fit_picture(path, size=100, masks=("", encode_rle(mask))))
    line = seen[45, 29]
    assert np.abs(line - COLOURS[1]).max() < 40
    assert seen[45, 45].max() < 30  # what it covers is not hidden
    assert seen[5, 5].max() < 10
    assert fit_picture(path, masks=("", "")) == fit_picture(path)


def test_a_thin_crack_is_seen_on_a_large_image(tmp_path):
    path = save(tmp_path / "a.png", 1600, 1600, (0, 0, 0))
    mask = np.zeros((1600, 1600), bool)
    mask[800, 100:1500] = True
    seen = pixels(fit_picture(path, masks=(encode_rle(mask),)))
    assert (seen.max(axis=2) > 150).sum() > 140


def test_what_cannot_be_read_is_no_picture(tmp_path):
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8\xff")
    assert fit_picture(tmp_path / "cut.jpg") is None
    assert fit_picture(tmp_path / "nowhere.jpg") is None


def test_a_mask_of_another_size_and_a_size_of_nothing_are_refused(tmp_path):
    path = save(tmp_path / "a.png", 10, 10)
    with pytest.raises(MaskError):
        fit_picture(path, masks=("1 101",))
    with pytest.raises(InputError, match="expected 1 or more"):
        fit_picture(path, size=0)


def predicted(path: Path, decided: str = "cat 0.93", **others: str) -> Predicted:
    return Predicted(path=path, name=path.name, decided=decided, **others)


def test_a_grid_holds_all_images_row_by_row(tmp_path):
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    paths = [save(tmp_path / f"{k}.png", 40, 40, colour) for k, colour in enumerate(colours)]
    data = draw_prediction_grid([predicted(path) for path in paths], columns=2, size=80)
    seen = pixels(data)
    assert data.startswith(b"\x89PNG")
    middles = [(48, 48), (48, 48 + 88), (48 + 88 + 34, 48)]
    assert np.abs(np.array([seen[spot] for spot in middles]) - colours).max() <= 4
    one = draw_prediction_grid([predicted(paths[0])], size=80)
    assert pixels(one).shape[1] == 96  # fewer images make fewer columns


def test_a_given_label_that_differs_has_a_line_more(tmp_path):
    path = save(tmp_path / "a.png", 80, 80, (254, 254, 254))
    same = pixels(draw_prediction_grid([predicted(path)]))
    other = pixels(draw_prediction_grid([predicted(path, given="dog")]))
    assert other.shape[0] > same.shape[0]
    red = (other[..., 0] - other[..., 1]) > 100
    assert red.any()
    assert not ((same[..., 0] - same[..., 1]) > 100).any()


def test_long_names_stay_inside_of_their_field(tmp_path):
    path = save(tmp_path / "a.png", 80, 80, (254, 254, 254))
    shown = [predicted(path, "w" * 400), predicted(path, "")]
    seen = pixels(draw_prediction_grid(shown, size=80))
    assert (seen[:, -80:][100:] > 250).mean() > 0.8  # the name alone


def test_an_unreadable_image_leaves_a_field_that_says_so(tmp_path):
    seen = pixels(draw_prediction_grid([predicted(tmp_path / "gone.png")], size=80))
    assert (seen[10:40, 10:80] < 240).all()


def test_a_font_with_the_letters_is_found_where_there_is_one():
    plain = _find_font("cat")
    korean = _find_font("고양이 0.93")
    if korean is plain:
        pytest.skip("no font with Korean on this machine")
    assert bytes(korean.getmask("고")) != bytes(korean.getmask("양"))


@pytest.mark.parametrize(("number", "columns"), [(0, 6), (1, 0)])
def test_a_grid_of_nothing_is_refused(tmp_path, number, columns):
    with pytest.raises(InputError, match="at least one of each"):
        draw_prediction_grid([predicted(tmp_path / "a.png")] * number, columns=columns)
