"""What one prepared image becomes, told again with plain slices and flips."""

import numpy as np
import pytest

from loupe.augment import augment_image, parse_steps, sample_rng
from loupe.errors import RecipeError
from loupe.images import InputSpec
from loupe.settings import Draws
from loupe.tta import VIEWS
from loupe.views import check_draws, count_views, draw_images, training_steps, view_images

SCAN = InputSpec(height=30, width=40, crop=(24, 24))
CORNERS = [(0, 0), (0, 16), (6, 0), (6, 16)]
STEPS = ["HorizontalFlip", {"Affine": {"scale": [1.0, 1.2], "p": 1.0}}, "RandomBrightnessContrast"]
DRAWS = Draws(draws=3, augment=STEPS)
IDS = ["a", "b", "c", "d", "e"]


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 30, 40, 3), dtype=np.uint8)


def view(images, ids, tta, spec, seed=7, **more):
    return list(view_images(images, ids, tta, spec, seed, **more))


# Named views.


def test_names_are_flips_of_the_whole_without_a_crop(images):
    seen = view(images, IDS, VIEWS, InputSpec(height=30, width=40))
    by_hand = [images, images[:, :, ::-1], images[:, ::-1], images[:, ::-1, ::-1]]
    assert len(seen) == 4
    for found, expected in zip(seen, by_hand, strict=True):
        np.testing.assert_array_equal(found, expected)
        assert np.shares_memory(found, images)


def test_every_crop_is_seen_in_every_view_crop_by_crop(images):
    seen = view(images, IDS, ("identity", "hflip"), SCAN)
    by_hand = []
    for top, left in CORNERS:
        crop = images[:, top : top + 24, left : left + 24]
        by_hand += [crop, crop[:, :, ::-1]]
    assert len(seen) == count_views(("identity", "hflip"), SCAN) == 8
    for found, expected in zip(seen, by_hand, strict=True):
        np.testing.assert_array_equal(found, expected)


# Draws.


def test_a_draw_is_seeded_by_its_number_the_crop_and_the_id(images):
    seen = view(images, IDS, DRAWS, SCAN)
    assert len(seen) == count_views(DRAWS, SCAN) == 12
    steps = parse_steps(STEPS)
    for place, found in enumerate(seen):
        number, draw = divmod(place, 3)
        top, left = CORNERS[number]
        for row, name in enumerate(IDS):
            crop = images[row, top : top + 24, left : left + 24]
            rng = sample_rng(7, draw, f"tta/{number}/{name}")
            np.testing.assert_array_equal(found[row], augment_image(crop, steps, rng))
    assert len({found.tobytes() for found in seen}) == 12


def test_the_batch_and_the_threads_change_nothing(images):
    whole = view(images, IDS, DRAWS, SCAN)
    order = [3, 0, 4]
    part = view(images[order], [IDS[row] for row in order], DRAWS, SCAN, workers=3)
    for all_rows, some in zip(whole, part, strict=True):
        np.testing.assert_array_equal(all_rows[order], some)


def test_seed_and_id_make_other_draws(images):
    first = view(images, IDS, DRAWS, SCAN)[0]
    assert (view(images, IDS, DRAWS, SCAN, seed=8)[0] != first).any(axis=(1, 2, 3)).all()
    other = view(images, [f"{name}x" for name in IDS], DRAWS, SCAN)[0]
    assert (other != first).any(axis=(1, 2, 3)).all()


def test_the_scan_of_600_x_800_is_16_inputs():
    spec = InputSpec(height=600, width=800, crop=(512, 512))
    image = np.random.default_rng(0).integers(0, 256, (1, 600, 800, 3), dtype=np.uint8)
    never = Draws(draws=4, augment=[{"HorizontalFlip": {"p": 0}}])
    seen = view(image, ["a"], never, spec)
    assert len(seen) == count_views(never, spec) == 16
    for place, (top, left) in enumerate([(0, 0), (0, 288), (88, 0), (88, 288)]):
        for found in seen[4 * place : 4 * place + 4]:
            np.testing.assert_array_equal(found, image[:, top : top + 512, left : left + 512])


def test_draws_of_images_are_one_after_the_other(images):
    steps = parse_steps(["HorizontalFlip", "VerticalFlip"])
    drawn = list(draw_images(images, IDS, steps, 3, draws=5, workers=2))
    assert len(drawn) == 5
    for number, batch in enumerate(drawn):
        expected = [
            augment_image(image, steps, sample_rng(3, number, name))
            for image, name in zip(images, IDS, strict=True)
        ]
        np.testing.assert_array_equal(batch, np.stack(expected))


# Sizes.


def crop_step(height, width):
    return {"RandomCrop": {"height": height, "width": width}}


@pytest.mark.parametrize("spec", [SCAN, InputSpec(height=30, width=40)])
def test_draws_of_another_size_are_refused(images, spec):
    odd = Draws(draws=2, augment=["HorizontalFlip", crop_step(20, 24)])
    with pytest.raises(RecipeError, match=r"RandomCrop of 20 x 24 .* 'input.crop: \[20, 24\]'"):
        check_draws(odd, spec)
    with pytest.raises(RecipeError, match="the network sees"):
        view(images, IDS, odd, spec)


def test_draws_of_the_same_size_and_names_are_not(images):
    same = Draws(draws=2, augment=[crop_step(24, 24), "HorizontalFlip"])
    check_draws(same, SCAN)
    check_draws(VIEWS, SCAN)
    assert {batch.shape for batch in view(images, IDS, same, SCAN)} == {(5, 24, 24, 3)}


def test_training_takes_the_crop_at_random_after_all_moves(images):
    steps = parse_steps(STEPS)
    cropped = training_steps(steps, SCAN)
    assert cropped[:-1] == steps
    assert cropped[-1].model_dump() == {
        "name": "RandomCrop", "height": 24, "width": 24, "border": "reflect", "p": 1.0,
    }  # fmt: skip
    places = set()
    for epoch in range(40):
        seen = augment_image(images[0], training_steps((), SCAN), sample_rng(0, epoch, "a"))
        windows = np.lib.stride_tricks.sliding_window_view(images[0], (24, 24), axis=(0, 1))
        hits = (windows == np.moveaxis(seen, 2, 0)).all(axis=(2, 3, 4))
        places |= {tuple(place) for place in np.argwhere(hits).tolist()}
    assert len(places) > 25  # of 7 x 17 places
    assert {top for top, _ in places} == set(range(7))


def test_training_without_a_crop_is_left_alone():
    steps = parse_steps(["HorizontalFlip", crop_step(20, 20)])
    assert training_steps(steps, InputSpec(height=30, width=40)) == steps


def test_a_crop_of_the_same_size_is_not_taken_twice():
    steps = parse_steps([crop_step(24, 24), "HorizontalFlip"])
    assert training_steps(steps, SCAN) == steps


def test_a_training_crop_of_another_size_is_refused():
    steps = parse_steps(["HorizontalFlip", crop_step(24, 20)])
    with pytest.raises(RecipeError, match=r"RandomCrop of 24 x 20 .* input.crop is 24 x 24"):
        training_steps(steps, SCAN)
