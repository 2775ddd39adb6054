"""Crops of an image with its masks: aligned, placed as asked, and read once."""

from collections import Counter

import numpy as np
import pytest

from loupe import maskcrops
from loupe.augment import augment_pair, parse_steps, sample_rng
from loupe.errors import InputError
from loupe.maskcrops import augment_masked

EXACT = parse_steps(
    [
        "HorizontalFlip",
        "VerticalFlip",
        "RandomRotate90",
        "Transpose",
        {"RandomGridShuffle": {"grid": [2, 2]}},
    ]
)
BENDING = parse_steps(
    [
        {"ShiftScaleRotate": {"p": 1}},
        {"GridDistortion": {"p": 0.5}},
        {"ElasticTransform": {"alpha": 20, "sigma": 4, "p": 0.5}},
    ]
)


def spell_places(height, width):
    """An image whose pixels tell where they lie."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.arange(height)[:, None]
    image[..., 1] = np.arange(width)
    return image


def mark(height, width, *pixels, classes=1):
    masks = np.zeros((height, width, classes), np.uint8)
    for row, column, channel in pixels:
        masks[row, column, channel] = 1
    return masks


def draw_corners(masks, crop, nonempty, draws):
    """How often each top left corner is drawn."""
    image = spell_places(*masks.shape[:2])
    found = Counter()
    for number in range(draws):
        rng = sample_rng(3, number, "a")
        cut, shown = augment_masked(image, masks, (), rng, crop=crop, nonempty=nonempty)
        top, left = cut[0, 0, :2].tolist()
        assert np.array_equal(shown, masks[top : top + crop[0], left : left + crop[1]])
        found[top, left] += 1
    return found


def assert_uniform(found, places):
    """Chi-square of the counts, five deviations above its mean at most."""
    assert set(found) == set(places)
    expected = found.total() / len(places)
    freedom = len(places) - 1
    statistic = sum((found[place] - expected) ** 2 for place in places) / expected
    assert statistic <= freedom + 5 * np.sqrt(2 * freedom)


@pytest.mark.parametrize("classes", range(5))
@pytest.mark.parametrize("nonempty", [0.0, 0.5, 1.0])
def test_image_and_masks_stay_aligned_to_the_pixel(classes, nonempty):
    rng = np.random.default_rng(classes)
    masks = (rng.random((33, 33, classes)) < 0.02).astype(np.uint8)
    # Each pixel of the image holds its classes as bits.
    bits = (masks << np.arange(classes, dtype=np.uint8)).sum(axis=2, dtype=np.uint8)
    image = np.repeat(bits[..., None], 3, axis=2)
    for number in range(60):
        rng = sample_rng(1, number, "a")
        cut, shown = augment_masked(image, masks, EXACT, rng, crop=(12, 16), nonempty=nonempty)
        assert cut.shape == (12, 16, 3)
        assert shown.shape == (12, 16, classes)
        assert shown.dtype == np.uint8
        assert shown.flags.c_contiguous
        again = (shown << np.arange(classes, dtype=np.uint8)).sum(axis=2, dtype=np.uint8)
        assert np.array_equal(cut, np.repeat(again[..., None], 3, axis=2))


def test_image_and_masks_bend_alike():
    masks = np.zeros((64, 64, 1), np.uint8)
    masks[20:44, 16:50] = 1
    image = np.repeat(masks * np.uint8(255), 3, axis=2)
    for number in range(60):
        rng = sample_rng(2, number, "a")
        cut, shown = augment_masked(image, masks, BENDING, rng, crop=(32, 40), nonempty=0.7)
        # Where the nearest pixel is inside, the mean of the four around it is mostly bright.
        odd = (cut[..., 0] > 127) != (shown[..., 0] > 0)
        assert odd.mean() < 0.02


@pytest.mark.parametrize("nonempty", [0.0, 0.3, 0.8, 1.0])
def test_the_share_of_crops_with_a_mask_is_the_one_asked_for(nonempty):
    masks = np.zeros((40, 48, 2), np.uint8)
    masks[30:34, 5:7, 1] = 1
    corners = [(top, left) for top in range(40 - 12 + 1) for left in range(48 - 16 + 1)]
    chance = np.mean([masks[top : top + 12, left : left + 16].any() for top, left in corners])
    share = nonempty + (1 - nonempty) * chance
    found = draw_corners(masks, (12, 16), nonempty, 1500)
    shown = sum(
        times
        for (top, left), times in found.items()
        if masks[top : top + 12, left : left + 16].any()
    )
    assert abs(shown - 1500 * share) <= 4.5 * np.sqrt(1500 * share * (1 - share))
    assert 0.05 < chance < 0.3


@pytest.mark.parametrize("pixel", [(2, 4), (0, 0), (5, 7), (3, 0)])
def test_crops_with_a_pixel_lie_anywhere_around_it(pixel):
    row, column = pixel
    places = [
        (top, left)
        for top in range(6 - 3 + 1)
        for left in range(8 - 4 + 1)
        if top <= row < top + 3 and left <= column < left + 4
    ]
    assert_uniform(draw_corners(mark(6, 8, (row, column, 0)), (3, 4), 1.0, 600), places)


@pytest.mark.parametrize("masks", [mark(6, 8, (2, 4, 0)), mark(6, 8), mark(6, 8, classes=0)])
def test_other_crops_lie_anywhere(masks):
    places = [(top, left) for top in range(4) for left in range(5)]
    # Nothing is asked for, or there is no mask to place a crop for.
    nonempty = 0.0 if masks.any() else 1.0
    assert_uniform(draw_corners(masks, (3, 4), nonempty, 1000), places)


def test_a_small_class_is_met_as_often_as_a_large_one():
    masks = mark(40, 40, (0, 39, 2), classes=3)
    masks[20:40, :20, 0] = 1
    found = draw_corners(masks, (8, 8), 1.0, 600)
    small = sum(times for (top, left), times in found.items() if top < 1 and left + 8 > 39)
    assert abs(small - 300) <= 4.5 * np.sqrt(600 / 4)


def test_a_crop_placed_for_a_pixel_shows_one_after_any_move():
    shift = parse_steps([{"Affine": {"translate_percent": [-0.4, 0.4], "border": "constant"}}])
    steps = [*shift, *BENDING, *EXACT]
    masks = mark(48, 48, (30, 11, 0), (30, 12, 0), (31, 11, 0))
    image = spell_places(48, 48)
    shown = 0
    for number in range(80):
        whole = augment_pair(image, masks, steps, sample_rng(5, number, "a"))[1]
        rng = sample_rng(5, number, "a")
        cut = augment_masked(image, masks, steps, rng, crop=(9, 7), nonempty=1.0)[1]
        # The moves are the same draws; some lose the pixel, and then the crop lies anywhere.
        assert cut.any() == whole.any()
        shown += bool(cut.any())
    assert 40 < shown < 80


def test_a_mask_that_is_moved_away_is_no_error():
    steps = parse_steps(
        [{"Affine": {"translate_percent": [0.9, 0.9], "border": "constant", "p": 1}}]
    )
    masks = mark(20, 20, (19, 19, 0))
    image = np.full((20, 20, 1), 200, np.uint8)
    cut, shown = augment_masked(
        image, masks, steps, np.random.default_rng(0), crop=(5, 5), nonempty=1.0
    )
    assert (cut.shape, shown.any()) == ((5, 5, 1), np.False_)


def test_painting_away_comes_before_the_crop():
    masks = np.zeros((32, 32, 1), np.uint8)
    masks[3:6, 3:6] = 1
    image = np.full((32, 32, 3), 90, np.uint8)
    image[3:6, 3:6] = 250
    steps = parse_steps([{"MaskDropout": {"p": 1, "fill": 7}}])
    seen = set()
    for number in range(60):
        rng = sample_rng(0, number, "a")
        cut, shown = augment_masked(image, masks, steps, rng, crop=(16, 16), nonempty=1.0)
        assert not shown.any()
        assert cut.max() == 90
        seen.add(bool((cut == 7).any()))
    assert seen == {True, False}


def test_no_more_of_the_image_is_resampled_than_the_crop(monkeypatch):
    sizes = []

    def watch(image, drawn):
        sizes.append((drawn.geometry.source, drawn.geometry.size))
        return apply(image, drawn)

    apply = maskcrops.apply_drawn
    monkeypatch.setattr(maskcrops, "apply_drawn", watch)
    masks = mark(48, 60, (20, 20, 0))
    for number in range(10):
        rng = sample_rng(7, number, "a")
        augment_masked(spell_places(48, 60), masks, BENDING, rng, crop=(16, 24), nonempty=0.5)
    assert sizes == [((48, 60), (16, 24))] * 10


def test_without_a_crop_it_is_augment_pair():
    masks = mark(24, 24, (3, 4, 0), (20, 9, 1), classes=2)
    image = spell_places(24, 24)
    steps = [*BENDING, *EXACT]
    for number in range(10):
        rngs = [sample_rng(1, number, "b") for _ in range(2)]
        given = augment_masked(image, masks, steps, rngs[0], crop=None, nonempty=0.5)
        wanted = augment_pair(image, masks, steps, rngs[1])
        assert all(np.array_equal(one, other) for one, other in zip(given, wanted, strict=True))
    still = augment_masked(image, masks, (), np.random.default_rng(0), crop=None, nonempty=0.5)
    assert still[0] is image
    assert still[1] is masks


def test_the_result_is_a_function_of_the_random_numbers():
    masks = mark(40, 40, (3, 4, 0), (20, 9, 1), classes=2)
    image = spell_places(40, 40)
    kept = (image.copy(), masks.copy())
    steps = [*BENDING, *EXACT, *parse_steps(["RandomBrightnessContrast", "CoarseDropout"])]

    def make(number):
        rng = sample_rng(1, number, "c")
        return augment_masked(image, masks, steps, rng, crop=(16, 16), nonempty=0.5)

    first = [make(number) for number in range(8)]
    for number in reversed(range(8)):
        again = make(number)
        assert all(np.array_equal(a, b) for a, b in zip(first[number], again, strict=True))
    assert len({cut.tobytes() for cut, _ in first}) == 8
    assert np.array_equal(image, kept[0])
    assert np.array_equal(masks, kept[1])


def test_a_random_crop_of_that_size_gives_way():
    steps = parse_steps([{"RandomCrop": {"height": 3, "width": 4}}])
    masks = mark(60, 80, (50, 70, 0))
    image = spell_places(60, 80)
    for number in range(20):
        rng = sample_rng(1, number, "d")
        cut, shown = augment_masked(image, masks, steps, rng, crop=(3, 4), nonempty=1.0)
        assert cut.shape == (3, 4, 3)
        assert shown.any()


def test_what_cannot_be_cut_is_refused():
    image, masks = spell_places(8, 9), mark(8, 9)
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match=r"crop of 9 x 4 .*cannot be cut out of an image of 8 x 9"):
        augment_masked(image, masks, (), rng, crop=(9, 4), nonempty=0.5)
    with pytest.raises(InputError, match=r"masks of 8 x 8 .*expected 8 x 9"):
        augment_masked(image, masks[:, :8], (), rng, crop=(4, 4), nonempty=0.5)
    with pytest.raises(InputError, match=r"expected \(H, W, 1\)"):
        augment_masked(image.astype(np.float32), masks, (), rng, crop=(4, 4), nonempty=0.5)
