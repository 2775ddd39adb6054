import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from loupe import caching
from loupe.caching import Pixels, cache_folder, open_pixels, read_pixels
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
