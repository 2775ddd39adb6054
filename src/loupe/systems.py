"""Small data sets in the file layouts of five public systems, with known truth.

Owns `make_cracks`, `make_clouds`, `make_cassava`, `make_paintings` and `make_steel`:
drawn stand-ins that a tiny network learns within seconds, in the files and columns
of the originals, so that the worked recipes and the example scripts can be run
anywhere. A score on a stand-in says that the job runs, nothing about the task. It
must not decide how a picture looks (that is `scenes`).

Shapes: N rows, C classes, H and W the height and width of a picture.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loupe.errors import InputError
from loupe.samples import open_stream
from loupe.scenes import (
    Size,
    draw_box,
    draw_clouds,
    draw_crack,
    draw_leaf,
    draw_painting,
    draw_strip,
    encode_picture,
)

Float32 = NDArray[np.float32]
Bool = NDArray[np.bool_]
Classes = tuple[str, ...]

CRACKS = ("sound", "crack")
"""What the labels 0 and 1 of `make_cracks` mean."""
CLOUDS = ("Fish", "Flower", "Gravel", "Sugar")
"""Cloud patterns, in the order in which a table of them is read."""
CASSAVA = (
    "Cassava Bacterial Blight (CBB)",
    "Cassava Brown Streak Disease (CBSD)",
    "Cassava Green Mottle (CGM)",
    "Cassava Mosaic Disease (CMD)",
    "Healthy",
)
"""What the labels 0 to 4 of `make_cassava` mean."""
PAINTINGS = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
"""Folders of `make_paintings`."""
STEEL = ("1", "2", "3", "4")
"""Defects of `make_steel`, as the table writes them."""
# Each data set, and each purpose within it, draws from its own stream.
_CRACKS, _CLOUDS, _CASSAVA, _PAINTINGS, _STEEL = range(10, 15)
_PLAN, _PICTURE, _EXTRA = range(3)
_SHARES = {
    "cassava": (0.05, 0.10, 0.11, 0.61, 0.13),  # of the 21,397 training images
    "paintings": (0.18, 0.13, 0.14, 0.08, 0.10, 0.15, 0.22),  # of the 1,698 paintings
}
_FEWEST = 4  # pictures of the rarest class, so that folds can share them


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemData:
    """A data set on disk, and what is true of it.

    Attributes:
        table: What `read_table` reads: the training table, or a folder of folders.
        images: Folder of the training images.
        test: Folder of the test images.
        classes: (C,) names, in the order in which the table is read.
        truth: Training image, as the table names it, to what it truly shows.
        test_truth: File name of each test image to what it truly shows.
        wrong: Training images whose given label is wrong.
        names: JSON file of what the labels mean, if the layout has one.
        test_table: The table of the test images, if the layout has one.
        submission: Masks of the test images by someone else's segmenter, if the
            layout has them; too many, as an ungated segmenter's are.
    """

    table: Path
    images: Path
    test: Path
    classes: Classes
    truth: Mapping[str, Classes]
    test_truth: Mapping[str, Classes]
    wrong: Classes = ()
    names: Path | None = None
    test_table: Path | None = None
    submission: Path | None = None


def make_cracks(
    folder: str | Path, *, count: int = 48, test: int = 12, size: Size = (68, 68), seed: int = 0
) -> SystemData:
    """Write crops of tiles, every third with a crack: `file_name,label`, TIFF files.

    Args:
        folder: Where to write; created if need be, and must be empty.
        count: Training images.
        test: Test images, listed by name in `test.csv`.
        size: Height and width in pixels.
        seed: Of everything drawn.

    Raises:
        InputError: the folder is not empty.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     data = make_cracks(folder, count=3, test=1)
        ...     print(data.table.read_text().split())
        ['file_name,label', '00000.tif,0', '00001.tif,0', '00002.tif,1']
    """
    folder = _open(folder, "train", "test")
    plan = [CRACKS[number % 3 == 2] for number in range(count + test)]
    truth: dict[str, Classes] = {}
    for number, name in enumerate(plan):
        rng = open_stream(seed, _CRACKS, _PICTURE, number)
        file = f"{number:05d}.tif"
        place = folder / ("train" if number < count else "test") / file
        _write_image(place, draw_crack(rng, size, broken=name == "crack"))
        truth[file] = (name,)
    train, held = _cut(truth, count)
    labels = ((file, CRACKS.index(name)) for file, (name,) in train.items())
    return SystemData(
        table=_write_csv(folder / "train.csv", ("file_name", "label"), labels),
        images=folder / "train",
        test=folder / "test",
        classes=CRACKS,
        truth=train,
        test_truth=held,
        test_table=_write_csv(folder / "test.csv", ("file_name",), ((file,) for file in held)),
    )


def make_clouds(
    folder: str | Path, *, count: int = 40, test: int = 10, size: Size = (70, 105), seed: int = 0
) -> SystemData:
    """Write satellite views with one to three cloud patterns: `Image_Label,EncodedPixels`.

    A row for each image and class, as in the original; the cell is empty where the
    class is not there. Masks are boxes, as the originals' nearly are.

    Args:
        folder: Where to write; created if need be, and must be empty.
        count: Training images.
        test: Test images.
        size: Height and width in pixels; the originals have 1400 x 2100.
        seed: Of everything drawn.

    Raises:
        InputError: the folder is not empty.
    """
    folder = _open(folder, "train_images", "test_images")
    truth: dict[str, Classes] = {}
    rows: list[tuple[str, str]] = []
    claims: list[tuple[str, str]] = []
    for number in range(count + test):
        rng = open_stream(seed, _CLOUDS, _PICTURE, number)
        # Each class in turn is there for sure, so none is missing from a small set.
        others = [name for name in CLOUDS if name != CLOUDS[number % 4]]
        more = rng.permutation(others)[: rng.integers(0, 3)].tolist()
        shown = tuple(name for name in CLOUDS if name == CLOUDS[number % 4] or name in more)
        pixels, masks = draw_clouds(rng, size, shown)
        file = f"{number:07x}.jpg"
        part = "train_images" if number < count else "test_images"
        _write_image(folder / part / file, pixels)
        truth[file] = shown
        if number < count:
            rows += [(f"{file}_{name}", encode_runs(masks.get(name))) for name in CLOUDS]
        else:
            claims += _claim_masks(open_stream(seed, _CLOUDS, _EXTRA, number), file, masks, size)
    train, held = _cut(truth, count)
    header = ("Image_Label", "EncodedPixels")
    return SystemData(
        table=_write_csv(folder / "train.csv", header, rows),
        images=folder / "train_images",
        test=folder / "test_images",
        classes=CLOUDS,
        truth=train,
        test_truth=held,
        submission=_write_csv(folder / "segmented.csv", header, claims),
    )


def make_cassava(
    folder: str | Path,
    *,
    count: int = 60,
    test: int = 8,
    size: Size = (60, 80),
    wrong: int = 6,
    seed: int = 0,
) -> SystemData:
    """Write leaves with four diseases or none: `image_id,label` and a JSON of the names.

    Args:
        folder: Where to write; created if need be, and must be empty.
        count: Training images, about; three in five have the mosaic disease.
        test: Test images.
        size: Height and width in pixels; the originals have 600 x 800.
        wrong: Training images that get another class' label.
        seed: Of everything drawn.

    Raises:
        InputError: the folder is not empty.
    """
    folder = _open(folder, "train_images", "test_images")
    plan = open_stream(seed, _CASSAVA, _PLAN)
    numbers = _deal(plan, _SHARES["cassava"], count)
    count = len(numbers)
    numbers += [number % len(CASSAVA) for number in range(test)]
    truth: dict[str, Classes] = {}
    for place, disease in enumerate(numbers):
        pixels = draw_leaf(open_stream(seed, _CASSAVA, _PICTURE, place), size, disease)
        file = f"{1000015157 + 3077 * place}.jpg"
        part = "train_images" if place < count else "test_images"
        _write_image(folder / part / file, pixels)
        truth[file] = (CASSAVA[disease],)
    train, held = _cut(truth, count)
    spoilt = sorted(plan.permutation(list(train))[:wrong].tolist())
    given = {file: CASSAVA.index(name) for file, (name,) in train.items()}
    given |= {file: (given[file] + int(plan.integers(1, 5))) % 5 for file in spoilt}
    names = folder / "label_num_to_disease_map.json"
    names.write_text(json.dumps(dict(enumerate(CASSAVA))), encoding="utf-8")
    return SystemData(
        table=_write_csv(folder / "train.csv", ("image_id", "label"), given.items()),
        images=folder / "train_images",
        test=folder / "test_images",
        classes=CASSAVA,
        truth=train,
        test_truth=held,
        wrong=tuple(spoilt),
        names=names,
    )


def make_paintings(
    folder: str | Path, *, count: int = 70, test: int = 18, size: Size = (56, 56), seed: int = 0
) -> SystemData:
    """Write paintings of seven subjects, a folder for each; the test folder has no classes.

    Args:
        folder: Where to write; created if need be, and must be empty.
        count: Training images, about; classes are uneven.
        test: Test images.
        size: Height and width in pixels; the originals have 227 x 227.
        seed: Of everything drawn.

    Raises:
        InputError: the folder is not empty.
    """
    folder = _open(folder, "test", *(f"train/{name}" for name in PAINTINGS))
    numbers = _deal(open_stream(seed, _PAINTINGS, _PLAN), _SHARES["paintings"], count)
    count = len(numbers)
    numbers += [number % len(PAINTINGS) for number in range(test)]
    train: dict[str, Classes] = {}
    held: dict[str, Classes] = {}
    for place, subject in enumerate(numbers):
        pixels = draw_painting(open_stream(seed, _PAINTINGS, _PICTURE, place), size, subject)
        name = PAINTINGS[subject]
        if place < count:
            file = f"{name}/pic_{place:03d}.jpg"
            _write_image(folder / "train" / file, pixels)
            train[file] = (name,)
        else:
            file = f"{place - count:03d}.jpg"
            _write_image(folder / "test" / file, pixels)
            held[file] = (name,)
    return SystemData(
        table=folder / "train",
        images=folder / "train",
        test=folder / "test",
        classes=PAINTINGS,
        truth=train,
        test_truth=held,
    )


def make_steel(
    folder: str | Path, *, count: int = 48, test: int = 10, size: Size = (64, 400), seed: int = 0
) -> SystemData:
    """Write strips of steel, half of them clean: `ImageId,ClassId,EncodedPixels`.

    A row for each defect of an image; clean images have none. Every sixth faulty
    image has two defects.

    Args:
        folder: Where to write; created if need be, and must be empty.
        count: Training images.
        test: Test images.
        size: Height and width in pixels; the originals have 256 x 1600.
        seed: Of everything drawn.

    Raises:
        InputError: the folder is not empty.
    """
    folder = _open(folder, "train_images", "test_images")
    truth: dict[str, Classes] = {}
    rows: list[tuple[str, str, str]] = []
    for number in range(count + test):
        turn = number // 2
        shown = {STEEL[turn % 4]} | ({STEEL[(turn + 1) % 4]} if turn % 6 == 5 else set())
        defects = tuple(sorted(shown)) if number % 2 else ()
        pixels, masks = draw_strip(open_stream(seed, _STEEL, _PICTURE, number), size, defects)
        file = f"{0x2CC93B + 40503 * number:09x}.jpg"
        part = "train_images" if number < count else "test_images"
        _write_image(folder / part / file, pixels)
        truth[file] = defects
        if number < count:
            rows += [(file, name, encode_runs(masks[name])) for name in defects]
    train, held = _cut(truth, count)
    return SystemData(
        table=_write_csv(folder / "train.csv", ("ImageId", "ClassId", "EncodedPixels"), rows),
        images=folder / "train_images",
        test=folder / "test_images",
        classes=STEEL,
        truth=train,
        test_truth=held,
    )


def encode_runs(mask: Bool | None) -> str:
    """Encode a mask as "start length" pairs, counted from 1 down the columns.

    Args:
        mask: Where the class is; None for nowhere.

    Shape:
        mask: (H, W).

    Examples:
        >>> encode_runs(np.array([[0, 1, 1], [0, 1, 0]], bool))
        '3 3'
    """
    if mask is None:
        return ""
    flat = np.concatenate(([0], mask.ravel(order="F").astype(np.int8), [0]))
    edges = np.flatnonzero(np.diff(flat))
    runs = zip(edges[::2], edges[1::2], strict=True)
    return " ".join(f"{start + 1} {stop - start}" for start, stop in runs)


# Plans and files ----------------------------------------------------------------------------------


def _claim_masks(
    rng: np.random.Generator, file: str, masks: Mapping[str, Bool], size: Size
) -> list[tuple[str, str]]:
    """Rows of a segmenter that finds every true mask, and half of the others as well."""
    rows = []
    for name in CLOUDS:
        invented = draw_box(rng, size, int(rng.integers(4))) if rng.random() < 0.5 else None
        rows.append((f"{file}_{name}", encode_runs(masks.get(name, invented))))
    return rows


def _deal(rng: np.random.Generator, shares: Sequence[float], count: int) -> list[int]:
    """Return class numbers in a drawn order; the counts are exact, none below `_FEWEST`."""
    counts = [max(_FEWEST, round(share * count)) for share in shares]
    dealt: list[int] = rng.permutation(np.repeat(np.arange(len(shares)), counts)).tolist()
    return dealt


def _cut(truth: Mapping[str, Classes], count: int) -> tuple[dict[str, Classes], dict[str, Classes]]:
    """Part what belongs to training from what belongs to the test."""
    items = list(truth.items())
    return dict(items[:count]), dict(items[count:])


def _open(folder: str | Path, *parts: str) -> Path:
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not an empty folder; choose another one, or empty it.")
    for part in parts:
        (folder / part).mkdir(parents=True, exist_ok=True)
    return folder


def _write_image(path: Path, pixels: Float32) -> None:
    path.write_bytes(encode_picture(pixels, path.suffix))


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    return path
