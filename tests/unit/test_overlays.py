"""Masks on images: what is filled, where lines run, and the sheet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loupe.errors import InputError
from loupe.overlays import COLOURS, Panel, draw_overlay, save_sheet


def blank(height: int, width: int, value: int = 100) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def masks(height: int, width: int, classes: int = 1) -> np.ndarray:
    return np.zeros((height, width, classes), bool)


def find_colour(pixels: np.ndarray, colour) -> np.ndarray:
    return (pixels == np.array(colour, np.uint8)).all(axis=-1)


def mix(colour, value: int = 100) -> np.ndarray:
    return np.floor((np.array(colour) + value) / 2 + 0.5)


def test_predicted_masks_are_half_transparent_in_the_colour_of_their_class():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    there = masks(20, 30, 9)
    there[2:5, 3:9, 1] = there[8:12, :, 8] = True
    drawn = draw_overlay(image, there, None, width=30)
    for k in (1, 8):  # the ninth class has the colour of the second
        seen = np.floor((image[there[..., k]].astype(float) + COLOURS[1]) / 2 + 0.5)
        assert (drawn[there[..., k]] == seen).all()
    outside = ~there.any(axis=2)
    assert (drawn[outside] == image[outside]).all()


def test_overlapping_predictions_are_mixed():
    there = masks(4, 4, 3)
    there[0, 0] = [True, False, True]
    drawn = draw_overlay(blank(4, 4), there, None, width=4)
    middle = (np.array(COLOURS[0]) + COLOURS[2]) / 2
    assert drawn[0, 0].tolist() == mix(middle).tolist()


def test_the_line_runs_around_the_true_mask_and_leaves_it_free():
    there = masks(40, 40, 2)
    there[10:20, 10:30, 1] = True
    drawn = draw_overlay(blank(40, 40), None, there, width=40)
    line = find_colour(drawn, COLOURS[1])
    ring = np.zeros((40, 40), bool)
    ring[8:22, 8:32] = True
    ring[10:20, 10:30] = False
    assert (line == ring).all()
    assert (drawn[~ring] == 100).all()


def test_a_mask_that_fills_the_image_has_a_line_at_the_border():
    drawn = draw_overlay(blank(20, 30), None, ~masks(20, 30), width=30)
    line = find_colour(drawn, COLOURS[0])
    assert line[:2].all()
    assert line[-2:].all()
    assert line[:, :2].all()
    assert line[:, -2:].all()
    assert not line[2:-2, 2:-2].any()


@pytest.mark.parametrize("factor", [3, 7.3, 20])
def test_thin_cracks_stay_visible_when_shrunk(factor):
    # A line of a pixel runs through every row; so it does in the drawing.
    height, width = 400, 600
    there = masks(height, width)
    there[np.arange(height), np.arange(height) + 57, 0] = True
    wide = round(width / factor)
    drawn = draw_overlay(blank(height, width), there, None, width=wide)
    assert drawn.shape == (round(height * wide / width), wide, 3)
    seen = find_colour(drawn, mix(COLOURS[0]))
    assert seen.any(axis=1).all()
    assert seen.sum(axis=1).max() <= 3
    lined = draw_overlay(blank(height, width), None, there, width=wide)
    assert find_colour(lined, COLOURS[0]).any(axis=1).all()


def test_a_single_pixel_is_seen_at_any_place_and_nothing_else():
    rng = np.random.default_rng(1)
    for _ in range(30):
        there = masks(256, 160)
        row, column = rng.integers(256), rng.integers(160)
        there[row, column] = True
        seen = draw_overlay(blank(256, 160), there, None, width=50)
        found = np.argwhere((seen != 100).any(axis=2))
        assert len(found) == 1
        assert abs((found[0, 0] + 0.5) * 256 / len(seen) - row - 0.5) <= 256 / 80
        assert abs((found[0, 1] + 0.5) * 160 / 50 - column - 0.5) <= 160 / 50


def test_images_keep_their_shape_and_grow_in_squares():
    image = np.arange(6, dtype=np.uint8).reshape(2, 3, 1) * 40
    drawn = draw_overlay(image, None, None, width=12)
    assert (drawn == np.kron(image, np.ones((4, 4, 1), int))).all()
    assert drawn.shape == (8, 12, 3)
    there = masks(2, 3)
    there[1, 2] = True
    filled = draw_overlay(image, there, None, width=12)
    assert (filled != drawn).any(axis=2).nonzero()[0].min() == 4
    assert draw_overlay(np.zeros((256, 1600, 3), np.uint8), None, None).shape == (51, 320, 3)


@pytest.mark.parametrize("width", [8, 11, 20, 51])
def test_grown_masks_lie_on_their_pixels(width):
    there = np.random.default_rng(0).random((7, 8, 1)) < 0.5
    image = np.where(there, 200, 0).astype(np.uint8)
    seen = draw_overlay(image, there, None, width=width)
    bright = draw_overlay(image, None, None, width=width)[..., 0] == 200
    assert (find_colour(seen, mix(COLOURS[0], 200)) == bright).all()


def test_the_image_and_the_masks_are_not_changed():
    image, there = blank(9, 9), ~masks(9, 9)
    draw_overlay(image, there, there, width=9)
    assert (image == 100).all()
    assert there.all()


@pytest.mark.parametrize(
    ("image", "predicted", "truth", "width", "told"),
    [
        (blank(4, 4) / 255, None, None, 4, "float64"),
        (blank(4, 4)[..., 0], None, None, 4, r"\(4, 4\)"),
        (blank(4, 4), masks(4, 5), None, 4, "predicted masks of shape"),
        (blank(4, 4), None, masks(4, 4).astype(int), 4, "true masks .* int64"),
        (blank(4, 4), masks(4, 4, 2), masks(4, 4), 4, "another number of classes"),
        (blank(4, 4), None, None, 0, "a width of 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(image, predicted, truth, width, told):
    with pytest.raises(InputError, match=told):
        draw_overlay(image, predicted, truth, width=width)


def make_panels(count: int, height: int, width: int) -> list[Panel]:
    there = masks(height, width, 2)
    there[: height // 2, : width // 2, 1] = True
    return [
        Panel(image=blank(height, width), predicted=there, truth=there, caption=f"image {n}")
        for n in range(count)
    ]


def test_a_sheet_has_all_panels_in_their_place(tmp_path: Path):
    path = tmp_path / "sheet.png"
    panels = make_panels(5, 64, 64)
    save_sheet(path, panels, ["a", "b"], columns=2, width=64)
    with Image.open(path) as picture:
        pixels = np.asarray(picture)
    assert pixels.shape[1] == 2 * 64 + 3 * 8
    drawn = draw_overlay(panels[0].image, panels[0].predicted, panels[0].truth, width=64)
    found = [
        (y, x)
        for y in range(pixels.shape[0] - 63)
        for x in (8, 80)
        if (pixels[y : y + 64, x : x + 64] == drawn).all()
    ]
    assert [x for _, x in found] == [8, 80, 8, 80, 8]
    assert all(
        below - above >= 64 for (above, _), (below, _) in zip(found, found[2:], strict=False)
    )
    # The legend shows both classes.
    assert find_colour(pixels[:30], COLOURS[0]).any()
    assert find_colour(pixels[:30], COLOURS[1]).any()
    assert [each.name for each in tmp_path.iterdir()] == ["sheet.png"]


def test_strips_are_wide_and_squares_are_not(tmp_path: Path):
    sizes = {}
    for shape in ((32, 200), (64, 64)):
        save_sheet(tmp_path / "s.png", make_panels(4, *shape), ["a", "b"], columns=2)
        with Image.open(tmp_path / "s.png") as picture:
            sizes[shape] = picture.size
    assert sizes[32, 200] == (2 * 640 + 24, sizes[32, 200][1])
    assert sizes[64, 64][0] == 2 * 256 + 24
    assert sizes[32, 200][1] < sizes[64, 64][1]


def test_captions_are_wrapped_and_never_cut(tmp_path: Path):
    heights = []
    for caption in ("", "short", "a caption of many words " * 4, "train/" + "0123456789" * 6):
        panel = Panel(image=blank(40, 100), caption=caption)
        save_sheet(tmp_path / "s.png", [panel], ["a"], columns=3, width=100)
        with Image.open(tmp_path / "s.png") as picture:
            pixels = np.asarray(picture.convert("L"))
        heights.append(pixels.shape[0])
        # One panel makes one column, and no ink runs out of it.
        assert pixels.shape[1] == 116
        assert (pixels[:, 108:] == 255).all()
    assert heights[0] < heights[1] < heights[3] <= heights[2]


def test_many_classes_make_more_lines_of_legend(tmp_path: Path):
    heights = []
    for classes in (2, 30):
        names = [f"class {k}" for k in range(classes)]
        panel = Panel(image=blank(50, 50), truth=masks(50, 50, classes))
        save_sheet(tmp_path / "s.png", [panel], names, columns=1, width=200)
        with Image.open(tmp_path / "s.png") as picture:
            heights.append(picture.height)
    assert heights[1] - heights[0] >= 6 * 15


def test_a_sheet_of_nothing_or_of_other_classes_is_refused(tmp_path: Path):
    path = tmp_path / "s.png"
    with pytest.raises(InputError, match="0 images in 2 columns"):
        save_sheet(path, [], ["a"], columns=2)
    with pytest.raises(InputError, match="5 images in 0 columns"):
        save_sheet(path, make_panels(5, 8, 8), ["a", "b"], columns=0)
    with pytest.raises(InputError, match=r"masks of 5 image.* expected 3"):
        save_sheet(path, make_panels(5, 8, 8), ["a", "b", "c"], columns=2)
    assert not path.exists()
