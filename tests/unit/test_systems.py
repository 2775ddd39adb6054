"""The stand-ins of the five systems: their layouts, their truth, and that they are easy."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from loupe.checking import find_groups
from loupe.errors import InputError
from loupe.layouts import read_table
from loupe.ranking import roc_auc
from loupe.scenes import draw_box, encode_picture
from loupe.systems import (
    CRACKS,
    STEEL,
    SystemData,
    encode_runs,
    make_cassava,
    make_clouds,
    make_cracks,
    make_paintings,
    make_steel,
)
from loupe.table import Table

Make = Callable[..., SystemData]
MAKERS: dict[str, Make] = {
    "cracks": make_cracks,
    "clouds": make_clouds,
    "cassava": make_cassava,
    "paintings": make_paintings,
    "steel": make_steel,
}
LAYOUTS = {
    "cracks": "classes",
    "clouds": "rle-joined",
    "cassava": "classes",
    "paintings": "folders",
    "steel": "rle-rows",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SystemData]:
    folder = tmp_path_factory.mktemp("systems")
    return {name: make(folder / name) for name, make in MAKERS.items()}


def read(name: str, data: SystemData) -> Table:
    names: Any = dict(enumerate(CRACKS)) if name == "cracks" else data.names
    images = None if name == "paintings" else data.images
    return read_table(data.table, images=images, names=names)


def read_rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def decode_runs(text: str, size: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    flat = np.zeros(size[0] * size[1], np.bool_)
    numbers = [int(word) for word in text.split()]
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        flat[start - 1 : start - 1 + length] = True
    return flat.reshape(size, order="F")


@pytest.mark.parametrize("name", MAKERS)
def test_tables_are_read_in_their_layout(name: str, made: dict[str, SystemData]) -> None:
    table = read(name, made[name])
    assert table.layout.name == LAYOUTS[name]
    assert table.classes == made[name].classes
    assert table.exclusive == (name not in {"clouds", "steel"})
    assert set(table.ids) == set(made[name].truth)


@pytest.mark.parametrize("name", MAKERS)
def test_given_labels_are_the_truth_but_for_planted_ones(
    name: str, made: dict[str, SystemData]
) -> None:
    data, table = made[name], read(name, made[name])
    differing = {
        key
        for key, row in zip(table.ids, table.targets, strict=True)
        if tuple(c for c, t in zip(table.classes, row, strict=True) if t) != data.truth[key]
    }
    assert differing == set(data.wrong)
    assert len(differing) == (6 if name == "cassava" else 0)


@pytest.mark.parametrize("name", MAKERS)
def test_every_class_can_be_in_four_folds(name: str, made: dict[str, SystemData]) -> None:
    assert read(name, made[name]).targets.sum(axis=0).min() >= 4


@pytest.mark.parametrize("name", MAKERS)
def test_no_picture_looks_like_a_copy(name: str, made: dict[str, SystemData]) -> None:
    table = read(name, made[name])
    assert len(set(find_groups(table, jobs=1))) == len(table)


@pytest.mark.parametrize("name", MAKERS)
def test_the_seed_fixes_every_byte(name: str, tmp_path: Path) -> None:
    def digest(folder: str, seed: int) -> list[tuple[str, str]]:
        MAKERS[name](tmp_path / folder, count=6, test=2, seed=seed)
        files = sorted(p for p in (tmp_path / folder).rglob("*") if p.is_file())
        return [
            (str(p.relative_to(tmp_path / folder)), hashlib.sha256(p.read_bytes()).hexdigest())
            for p in files
        ]

    first = digest("first", 3)
    assert digest("second", 3) == first
    assert digest("third", 4) != first


@pytest.mark.parametrize("name", ["cracks", "clouds", "steel"])
def test_more_rows_change_no_picture(name: str, tmp_path: Path) -> None:
    few = MAKERS[name](tmp_path / "few", count=6, test=1)
    many = MAKERS[name](tmp_path / "many", count=8, test=1)
    for file in few.truth:
        assert (few.images / file).read_bytes() == (many.images / file).read_bytes()
        assert few.truth[file] == many.truth[file]


@pytest.mark.parametrize("name", MAKERS)
def test_a_folder_in_use_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(InputError, match="not an empty folder"):
        MAKERS[name](tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("name", MAKERS)
def test_a_line_through_simple_features_tells_the_classes(
    name: str, made: dict[str, SystemData]
) -> None:
    """Ridge regression on colour statistics, held out row by row: what a tiny network sees."""
    table = read(name, made[name])
    truth = np.array([[c in made[name].truth[i] for c in table.classes] for i in table.ids])
    features = np.stack([describe(path) for path in table.images])
    features = (features - features.mean(axis=0)) / (features.std(axis=0) + 1e-6)
    plain = np.c_[features, np.ones(len(features))]
    hat = plain @ np.linalg.solve(plain.T @ plain + 3 * np.eye(plain.shape[1]), plain.T)
    fitted = hat @ truth
    held = (fitted - np.diag(hat)[:, None] * truth) / (1 - np.diag(hat))[:, None]
    scores = 1 / (1 + np.exp(-4 * (held - 0.5)))
    assert roc_auc(truth, scores).min() > 0.85


def describe(path: Path) -> np.ndarray[Any, np.dtype[np.float64]]:
    pixels = cv2.imread(str(path)).astype(float) / 255
    edges = np.abs(np.diff(pixels, axis=1)).mean(axis=(0, 1)), np.abs(np.diff(pixels, axis=0)).max()
    levels = np.percentile(pixels, [1, 5, 25, 75, 95, 99], axis=(0, 1)).ravel()
    return np.r_[pixels.mean(axis=(0, 1)), pixels.std(axis=(0, 1)), levels, edges[0], edges[1]]


def test_cracks_are_small_tiff_files(made: dict[str, SystemData]) -> None:
    data = made["cracks"]
    assert cv2.imread(str(data.images / "00000.tif")).shape == (68, 68, 3)
    assert read_rows(data.table)[0] == ["file_name", "label"]
    assert data.test_table is not None
    listed = [row[0] for row in read_rows(data.test_table)[1:]]
    assert listed == list(data.test_truth) == sorted(p.name for p in data.test.iterdir())


def test_cloud_masks_are_one_box_each(made: dict[str, SystemData]) -> None:
    data = made["clouds"]
    for key, text in read_rows(data.table)[1:]:
        file, _, name = key.rpartition("_")
        mask = decode_runs(text, (70, 105))
        assert mask.any() == (name in data.truth[file])
        rows, columns = mask.any(axis=1), mask.any(axis=0)
        assert np.array_equal(mask, rows[:, None] & columns[None])


def test_the_cloud_segmenter_claims_all_that_is_there_and_more(
    made: dict[str, SystemData],
) -> None:
    data = made["clouds"]
    assert data.submission is not None
    rows = read_rows(data.submission)
    assert rows[0] == ["Image_Label", "EncodedPixels"]
    claimed = {key for key, text in rows[1:] if text}
    true = {f"{file}_{name}" for file, shown in data.test_truth.items() for name in shown}
    assert len(rows) - 1 == len(data.test_truth) * 4
    assert true < claimed


def test_most_leaves_have_the_mosaic_disease(made: dict[str, SystemData]) -> None:
    data = made["cassava"]
    shown = [name for (name,) in data.truth.values()]
    assert shown.count("Cassava Mosaic Disease (CMD)") == round(0.61 * 60)
    assert data.names is not None
    assert json.loads(data.names.read_text())["3"] == "Cassava Mosaic Disease (CMD)"


def test_leaves_have_the_size_that_is_asked_for(tmp_path: Path) -> None:
    data = make_cassava(tmp_path, count=1, test=1, size=(30, 44), wrong=0)
    assert {cv2.imread(str(p)).shape for p in data.images.iterdir()} == {(30, 44, 3)}
    assert data.wrong == ()


def test_paintings_lie_in_a_folder_for_each_class(made: dict[str, SystemData]) -> None:
    data = made["paintings"]
    counts = {p.name: len(list(p.iterdir())) for p in data.table.iterdir()}
    assert set(counts) == set(data.classes)
    assert max(counts.values()) >= 2 * min(counts.values())
    assert len(list(data.test.glob("*.jpg"))) == len(data.test_truth) == 18


def test_steel_masks_lie_where_the_strip_differs(made: dict[str, SystemData]) -> None:
    data = made["steel"]
    for file, name, text in read_rows(data.table)[1:]:
        grey = cv2.imread(str(data.images / file), cv2.IMREAD_GRAYSCALE) / 255
        mask = decode_runs(text, (64, 400))
        assert name in STEEL
        inside, outside = np.median(grey[mask]), np.median(grey[~mask])
        assert inside > outside + 0.3 if name == "3" else inside < outside - 0.15


def test_half_of_the_strips_are_clean_and_have_no_row(made: dict[str, SystemData]) -> None:
    data = made["steel"]
    clean = {file for file, defects in data.truth.items() if not defects}
    assert len(clean) == len(data.truth) / 2
    assert clean.isdisjoint(row[0] for row in read_rows(data.table)[1:])
    assert {len(defects) for defects in data.truth.values()} == {0, 1, 2}


def test_run_lengths_go_down_the_columns() -> None:
    mask = np.zeros((3, 4), np.bool_)
    mask[1:, 1] = mask[0, 2] = mask[2, 3] = True
    assert encode_runs(mask) == "5 3 12 1"
    assert np.array_equal(decode_runs("5 3 12 1", (3, 4)), mask)
    assert encode_runs(None) == encode_runs(np.zeros((2, 2), np.bool_)) == ""


def test_boxes_of_two_quarters_never_meet() -> None:
    boxes = [draw_box(np.random.default_rng(q), (21, 30), q) for q in range(4)]
    assert np.sum(boxes, axis=0).max() == 1
    assert all(box.sum() > 0.5 * 10 * 15 for box in boxes)


def test_pictures_are_cut_off_at_black_and_white() -> None:
    pixels = np.full((4, 4, 3), 1.5, np.float32)
    pixels[:2] = -0.5
    read_back = cv2.imdecode(
        np.frombuffer(encode_picture(pixels, ".tif"), np.uint8), cv2.IMREAD_COLOR
    )
    assert np.unique(read_back[:2]).tolist() == [0]
    assert np.unique(read_back[2:]).tolist() == [255]
