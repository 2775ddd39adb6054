import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from loupe import caching
from loupe.caching import (
    Pixels,
    cache_folder,
    find_shared_size,
    measure_pixels,
    open_pixels,
    prepare_ahead,
    read_pixels,
)
from loupe.decoding import read_image
from loupe.errors import TableError
from loupe.images import InputSpec, prepare_image

SPEC = InputSpec(height=8, width=12)
SIZE = 8 * 12 * 3


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LOUPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    paths = [tmp_path / "images" / f"{n}.png" for n in range(4)]
    for path in paths:
        paint(path, int(rng.integers(20, 200)))
    return paths


def paint(path: Path, grey: int) -> None:
    cv2.imwrite(str(path), np.full((16, 24, 3), grey, np.uint8))


def age(path: Path, seconds: int) -> None:
    facts = path.stat()
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns - seconds * 10**9))


@pytest.fixture
def decoded(monkeypatch):
    """Names of the images that were decoded."""
    names = []
    original = caching.read_image

    def spy(path):
        names.append(path.name)
        return original(path)

    monkeypatch.setattr(caching, "read_image", spy)
    return names


def test_the_cache_holds_prepared_images_in_order(images):
    told = []
    pixels = open_pixels(images, SPEC, progress=lambda *done: told.append(done))
    assert pixels.cache.shape == (4, 8, 12, 3)
    assert len(pixels) == 4
    for row, path in enumerate(images):
        np.testing.assert_array_equal(pixels[row], prepare_image(read_image(path), SPEC))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_it_is_made_once(images, folder, decoded):
    open_pixels(images, SPEC)
    (file,) = folder.glob("*.npy")
    before = file.stat()
    again = open_pixels(images, SPEC)
    shared = read_pixels(images, SPEC)
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert sorted(decoded) == ["0.png", "1.png", "2.png", "3.png"]
    np.testing.assert_array_equal(again.cache, shared.cache)
    assert [p.suffix for p in folder.iterdir() if p.suffix not in {".npy", ".json"}] == []


def test_a_changed_image_alone_is_decoded_anew(images, decoded):
    first = np.array(open_pixels(images, SPEC).cache)
    decoded.clear()
    paint(images[2], 250)
    age(images[2], -5)
    assert read_pixels(images, SPEC).cache is None  # stale: decode, never serve old pixels
    second = open_pixels(images, SPEC)
    assert decoded == ["2.png"]
    assert second[2].min() == 250
    np.testing.assert_array_equal(second.cache[[0, 1, 3]], first[[0, 1, 3]])


def test_other_sizes_and_lists_have_their_own_cache(images, folder):
    open_pixels(images, SPEC)
    open_pixels(images, InputSpec(height=8, width=8))
    open_pixels(images[::-1], SPEC)
    assert len(list(folder.glob("*.npy"))) == 3
    open_pixels(images, InputSpec(height=8, width=12, mean=(0.1,) * 3, std=(1.0,) * 3))
    assert len(list(folder.glob("*.npy"))) == 3  # normalising comes later


def test_without_room_images_are_decoded_when_asked_for(images, folder, decoded):
    for limit in (0, 4 * SIZE - 1):
        pixels = open_pixels(images, SPEC, limit_bytes=limit)
        assert pixels.cache is None
        assert not list(folder.glob("*.npy"))
    # Each call still read every image once: damaged ones are all named up front.
    assert len(decoded) == 2 * len(images)
    np.testing.assert_array_equal(pixels[1], prepare_image(read_image(images[1]), SPEC))
    assert open_pixels(images, SPEC, limit_bytes=4 * SIZE).cache is not None


def test_a_cache_is_not_made_on_a_full_disk(images, folder, monkeypatch):
    monkeypatch.setattr(
        caching.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 4 * SIZE})()
    )
    assert open_pixels(images, SPEC).cache is None


def test_the_cache_used_longest_ago_makes_room(images, folder):
    limit = 2 * (4 * SIZE + 128)
    specs = [InputSpec(height=8, width=12, filter=name) for name in ("area", "linear", "cubic")]
    for spec in specs[:2]:
        open_pixels(images, spec, limit_bytes=limit)
    for file in folder.glob("*.json"):
        age(file, 100)
    open_pixels(images, specs[0], limit_bytes=limit)  # used again: the other is now older
    open_pixels(images, specs[2], limit_bytes=limit)
    held = [read_pixels(images, spec).cache is not None for spec in specs]
    assert held == [True, False, True]
    assert len(list(folder.glob("*.json"))) == 2


def test_all_damaged_images_are_named_in_one_message(images, folder):
    images[1].write_bytes(b"")
    images[3].write_bytes(images[3].read_bytes()[:60])
    missing = images[0].with_name("gone.png")
    with pytest.raises(TableError) as caught:
        open_pixels([*images, missing], SPEC)
    said = str(caught.value)
    assert said.startswith("3 of 5 images cannot be read")
    assert all(str(path) in said for path in (images[1], images[3], missing))
    assert "0.png" not in said
    assert "--quarantine" in said
    assert list(folder.iterdir()) == []  # nothing half made is left


def test_a_long_list_of_damaged_images_is_cut():
    said = caching.explain_unreadable([f"{n}.png: empty" for n in range(25)], 100)
    assert "19.png" in said
    assert "20.png" not in said
    assert "and 5 more" in said


@pytest.mark.parametrize("damage", ["pixels cut", "stamps cut", "stamps odd", "stamps gone"])
def test_a_damaged_cache_is_made_anew(images, folder, damage):
    expected = np.array(open_pixels(images, SPEC).cache)
    (file,) = folder.glob("*.npy")
    stamps = file.with_suffix(".json")
    if damage == "pixels cut":
        file.write_bytes(file.read_bytes()[:200])
    elif damage == "stamps cut":
        stamps.write_text(stamps.read_text()[:10])
    elif damage == "stamps odd":
        stamps.write_text(json.dumps([1, 2]))
    else:
        stamps.unlink()
    assert read_pixels(images, SPEC).cache is None
    np.testing.assert_array_equal(open_pixels(images, SPEC).cache, expected)


def test_a_failed_update_leaves_no_stale_rows_in_use(images, folder):
    open_pixels(images, SPEC)
    images[0].write_bytes(b"")
    with pytest.raises(TableError, match="1 of 4"):
        open_pixels(images, SPEC)
    with pytest.raises(TableError, match="1 of 4"):
        open_pixels(images, SPEC)


def test_where_caches_live(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("LOUPE_CACHE")
    assert cache_folder().name == "loupe"


def test_pixels_without_a_cache_are_the_same(images):
    plain = Pixels(tuple(images), SPEC, None)
    np.testing.assert_array_equal(plain[2], open_pixels(images, SPEC)[2])


# What is asked of all images.


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("cached", [True, False])
def test_mean_and_deviation_are_those_of_all_pixels_of_the_rows(tmp_path, channels, cached):
    rng = np.random.default_rng(1)
    paths = [tmp_path / f"{n}.png" for n in range(5)]
    for n, path in enumerate(paths):
        high = [100, 256, 30, 200, 5][n]
        cv2.imwrite(str(path), rng.integers(0, high, (8, 12, 3), dtype=np.uint8))
    spec = InputSpec(height=8, width=12, channels=channels)
    pixels = open_pixels(paths, spec) if cached else Pixels(tuple(paths), spec, None)
    rows = np.array([3, 0, 4])
    mean, std = measure_pixels(pixels, rows)
    values = np.stack([pixels[row] for row in rows]).astype(np.float64) / 255
    np.testing.assert_allclose(mean, values.mean(axis=(0, 1, 2)), rtol=1e-13)
    np.testing.assert_allclose(std, values.std(axis=(0, 1, 2)), rtol=1e-12)
    assert measure_pixels(pixels, rows[::-1]) == (mean, std)  # to the last bit
    assert InputSpec(height=8, width=12, channels=channels, mean=mean, std=std).mean == mean


def test_deviations_are_exact_where_they_are_tiny():
    # One pixel of 40,000 differs by 1: a mean of squares in float32 would lose it.
    image = np.full((200, 200, 1), 255, np.uint8)
    image[3, 4] = 254
    spec = InputSpec(height=200, width=200, channels=1)
    pixels = Pixels((Path("a"),), spec, image[None])
    mean, std = measure_pixels(pixels, np.array([0]))
    share = 1 / 40_000
    assert mean == pytest.approx(((255 - share) / 255,), rel=1e-15)
    assert std == pytest.approx(((share * (1 - share)) ** 0.5 / 255,), rel=1e-13)


def test_images_of_one_value_have_no_deviation():
    images = np.full((2, 4, 4, 3), 7, np.uint8)
    images[0, 0, 0] = (9, 9, 7)
    pixels = Pixels((Path("a"), Path("b")), InputSpec(height=4, width=4), images)
    with pytest.raises(TableError, match=r"2 images have one value .* input.normalisation"):
        measure_pixels(pixels, np.array([0, 1]))
    with pytest.raises(TableError, match="0 images"):
        measure_pixels(pixels, np.array([], np.intp))


def test_the_shared_size_is_the_one_displayed(tmp_path):
    upright, turned = tmp_path / "upright.png", tmp_path / "turned.jpg"
    Image.new("RGB", (12, 8)).save(upright)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn
    Image.new("RGB", (8, 12)).save(turned, exif=exif)
    assert find_shared_size([upright, turned]) == (8, 12)
    assert read_image(turned).shape == (8, 12, 3)


def test_the_shared_size_needs_headers_alone(tmp_path, decoded):
    whole = tmp_path / "whole.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(whole)
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(whole.read_bytes()[:-500])
    assert find_shared_size([whole, cut]) == (64, 64)
    assert decoded == []


def test_sizes_that_differ_are_told_with_examples(tmp_path):
    paths = [tmp_path / f"{n}.png" for n in range(4)]
    for path, size in zip(paths, [(12, 8), (9, 9), (12, 8), (8, 12)], strict=True):
        Image.new("RGB", size).save(path)
    with pytest.raises(TableError) as caught:
        find_shared_size(paths)
    said = str(caught.value)
    assert "4 images have 3 sizes" in said
    assert f"8 x 12: 2 images, such as {paths[0]}" in said
    assert f"9 x 9: 1 images, such as {paths[1]}" in said
    assert "Set input.size in pixels" in said


def test_all_images_without_a_size_are_named(tmp_path):
    good, bad, gone = (tmp_path / name for name in ("good.png", "bad.png", "gone.png"))
    Image.new("RGB", (4, 4)).save(good)
    bad.write_bytes(b"nothing")
    with pytest.raises(TableError, match="2 of 3 images cannot be read") as caught:
        find_shared_size([bad, good, gone])
    assert str(bad) in str(caught.value)
    assert str(gone) in str(caught.value)


# New images.


def test_new_images_come_in_order_prepared_for_each_spec(images, monkeypatch, decoded):
    monkeypatch.setattr(caching, "_CHUNK", 3)
    specs = [SPEC, InputSpec(height=4, width=4), InputSpec(height=8, width=12, mean=(0.5,) * 3)]
    bad = images[1].with_name("bad.png")
    bad.write_bytes(b"")
    paths = [images[0], bad, *images[1:], bad]
    chunks = list(prepare_ahead(paths, specs))
    assert [chunk.end for chunk in chunks] == [3, 6]
    assert [chunk.rows.tolist() for chunk in chunks] == [[0, 2], [3, 4]]
    assert [list(chunk.errors) for chunk in chunks] == [[1], [5]]
    assert "bad.png" in chunks[0].errors[1]
    for chunk in chunks:
        for spec, prepared in zip(specs, chunk.images, strict=True):
            expected = [prepare_image(read_image(paths[row]), spec) for row in chunk.rows]
            np.testing.assert_array_equal(prepared, np.stack(expected))
    assert sorted(decoded) == ["0.png", "1.png", "2.png", "3.png", "bad.png", "bad.png"]


def test_a_chunk_without_readable_images_is_empty(tmp_path):
    (chunk,) = prepare_ahead([tmp_path / "gone.png"], [SPEC])
    assert (chunk.rows.tolist(), chunk.images, list(chunk.errors), chunk.end) == ([], (), [0], 1)
