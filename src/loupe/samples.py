"""The files of a sample data set: pictures, masks, planted faults and tables.

Owns what `loupe.testing.make_tiles` writes, and the order in which it is drawn.
It must not decide what is asked for (that is `testing`) or how a tile looks
(that is `tiles`).

Shapes: N rows, C classes, H and W the height and width of a picture.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from loupe.photographs import COVERED, encode_jpeg, photograph
from loupe.tiles import CLASSES, draw_tile

Float32 = NDArray[np.float32]
UInt8 = NDArray[np.uint8]
Bool = NDArray[np.bool_]
Classes = tuple[str, ...]

COPY_KINDS = ("same-bytes", "reencoded", "resized", "brightened")
"""What a planted copy may be; they take turns."""
SOUND = "ok"
"""The label in `classes.csv` of a picture without a defect."""
# Each purpose draws from its own stream, so that planting faults changes no tile.
PLAN, TILE, SHOT, FAULTS, COPY = range(5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One picture.

    Attributes:
        id: Its file name.
        tile: The tile it truly shows.
        filed: The tile that the table names.
        true: The defects of the tile, the main one first.
        given: The defects that the tables claim.
    """

    id: str
    tile: str
    filed: str
    true: Classes
    given: Classes


def open_stream(seed: int, *path: int) -> np.random.Generator:
    """Return a generator that depends on the seed and the path alone.

    Args:
        seed: Of the data set.
        path: What is drawn: the purpose, the tile, the shot.
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, *path))))


def plan_defects(
    rng: np.random.Generator, tiles: int, defect_share: float, *, double_share: float = 0.1
) -> list[tuple[str, ...]]:
    """Decide which tile gets which defects; the counts are exact, the order is drawn.

    Args:
        rng: The only source of chance.
        tiles: How many.
        defect_share: Share of the tiles with a defect, in [0, 1]; the classes
            take turns, so each gets an equal share.
        double_share: Share of the defective tiles that get a second defect.

    Returns:
        For each tile the names of its defects, the main one first.
    """
    faulty = round(tiles * defect_share)
    plan = [(CLASSES[i % len(CLASSES)],) for i in range(faulty)] + [()] * (tiles - faulty)
    for i in range(round(faulty * double_share)):
        other = i + 1 + (i // len(CLASSES)) % (len(CLASSES) - 1)
        plan[i] = (*plan[i], CLASSES[other % len(CLASSES)])
    return [plan[i] for i in rng.permutation(tiles)]


def shoot_tiles(
    folder: Path,
    plan: Sequence[Classes],
    names: Sequence[str],
    *,
    size: tuple[int, int],
    shots: int,
    seed: int,
) -> Iterator[Row]:
    """Draw every tile, photograph it and write the pictures and masks.

    Args:
        folder: The data set.
        plan: For each tile its defects.
        names: File names; the first `len(plan) * shots` are used.
        size: Height and width of a picture in pixels.
        shots: Pictures of each tile.
        seed: Of everything drawn.
    """
    for number, defects in enumerate(plan):
        tile = draw_tile(open_stream(seed, TILE, number), size, defects)
        for shot in range(shots):
            data, masks = photograph(open_stream(seed, SHOT, number, shot), tile)
            name = names[number * shots + shot]
            (folder / "images" / name).write_bytes(data)
            _write_masks(folder, name, masks)
            label = f"tile-{number:04d}"
            yield Row(id=name, tile=label, filed=label, true=defects, given=defects)


def pick_rows(
    rng: np.random.Generator, rows: Sequence[Row], counts: tuple[int, int, int]
) -> tuple[list[Row], list[Row], list[Row]]:
    """Pick different rows to copy, to mislabel and to spoil.

    Args:
        rng: The only source of chance.
        rows: To pick from.
        counts: How many of each; no more than there are rows, together.

    Returns:
        The rows to copy, to mislabel (half of them faulty, if there are as
        many) and to spoil.
    """
    queue = [rows[i] for i in rng.permutation(len(rows))]
    copied, queue = queue[: counts[0]], queue[counts[0] :]
    sound = [row for row in queue if not row.true]
    faulty = [row for row in queue if row.true]
    # Half of each, or more of one kind where the other runs out.
    half = max(min(counts[1] // 2, len(faulty)), counts[1] - len(sound))
    wrong = faulty[:half] + sound[: counts[1] - half]
    taken = {row.id for row in wrong}
    rest = [row for row in queue if row.id not in taken]
    return copied, wrong, rest[: counts[2]]


def plant_copies(
    folder: Path, sources: Sequence[Row], names: Sequence[str], *, first: int, seed: int
) -> list[tuple[Row, Row, str]]:
    """Write a copy of each source under another name and another tile's number.

    Args:
        folder: The data set.
        sources: The rows to copy.
        names: A file name for each copy.
        first: Number of the first tile that the copies claim to show.
        seed: Of everything drawn.

    Returns:
        (source, copy, kind out of `COPY_KINDS`) for each source.
    """
    copies = []
    for number, (source, name) in enumerate(zip(sources, names, strict=True)):
        kind = COPY_KINDS[number % len(COPY_KINDS)]
        data = (folder / "images" / source.id).read_bytes()
        scale = 1.0
        if kind != "same-bytes":
            data, scale = _alter(open_stream(seed, COPY, number), data, kind)
        (folder / "images" / name).write_bytes(data)
        masks = {c: read_mask(folder, c, source.id) for c in source.true}
        _write_masks(folder, name, {c: _resize_mask(mask, scale) for c, mask in masks.items()})
        copy = replace(source, id=name, filed=f"tile-{first + number:04d}")
        copies.append((source, copy, kind))
    return copies


def mislabel(rng: np.random.Generator, row: Row) -> Row:
    """Give a row a wrong label: a sound one a defect, a faulty one none or another.

    Args:
        rng: The only source of chance.
        row: What to mislabel.
    """
    others = [name for name in CLASSES if name not in row.true]
    other = others[rng.integers(len(others))]
    missed = bool(row.true) and rng.random() < 0.5
    return replace(row, given=() if missed else (other,))


def damage(file: Path, *, cut: bool) -> None:
    """Spoil a file as an interrupted transfer does.

    Args:
        file: What to spoil.
        cut: If True the first 40 % of the bytes stay, else none.
    """
    data = file.read_bytes()
    file.write_bytes(data[: int(0.4 * len(data))] if cut else b"")


def write_tables(folder: Path, rows: Sequence[Row], *, group_column: bool) -> None:
    """Write the three tables: multi-hot, one class a row, and run-length masks.

    Args:
        folder: The data set.
        rows: In the order of the tables.
        group_column: If True, `labels.csv` names the tile of each row.
    """
    group = ("group",) if group_column else ()
    _write_csv(
        folder / "labels.csv",
        ("image", *group, *CLASSES),
        ((r.id, *((r.filed,) if group_column else ()), *multi_hot(r.given)) for r in rows),
    )
    labels = ((row.id, row.given[0] if row.given else SOUND) for row in rows)
    _write_csv(folder / "classes.csv", ("image", "label"), labels)
    _write_csv(
        folder / "train.csv",
        ("ImageId", "ClassId", "EncodedPixels"),
        (
            (row.id, CLASSES.index(name) + 1, _encode_runs(read_mask(folder, name, row.id)))
            for row in rows
            for name in sorted(row.true, key=CLASSES.index)
        ),
    )


def multi_hot(names: Classes) -> list[int]:
    """Return a 0 or 1 for each of `CLASSES`.

    Args:
        names: The classes that are 1.

    Examples:
        >>> multi_hot(("chip",))
        [0, 1, 0, 0]
    """
    return [int(name in names) for name in CLASSES]


def read_mask(folder: Path, name: str, image: str) -> Bool:
    """Read the mask of one class of one picture; it must exist.

    Args:
        folder: The data set.
        name: The class.
        image: Id of the row.

    Shape:
        (H, W), the size of the picture.
    """
    data = np.fromfile(mask_path(folder, name, image), np.uint8)
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), np.uint8) > 0


def mask_path(folder: Path, name: str, image: str) -> Path:
    """Return where the mask of one class of one picture lies.

    Args:
        folder: The data set.
        name: The class.
        image: Id of the row.
    """
    return folder / "masks" / name / Path(image).with_suffix(".png").name


def _write_masks(folder: Path, image: str, masks: Mapping[str, Bool]) -> None:
    for name, mask in masks.items():
        _, data = cv2.imencode(".png", mask.astype(np.uint8) * 255)
        mask_path(folder, name, image).write_bytes(data.tobytes())


def _alter(rng: np.random.Generator, data: bytes, kind: str) -> tuple[bytes, float]:
    """Return the altered picture and its scale."""
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    pixels = np.asarray(decoded, np.uint8)
    scale = 1.0
    if kind == "resized":
        scale = float(rng.choice((0.75, 1.25)))
        height, width = (round(side * scale) for side in pixels.shape[:2])
        way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        pixels = np.asarray(cv2.resize(pixels, (width, height), interpolation=way), np.uint8)
    elif kind == "brightened":
        gain = rng.choice((0.85, 1.12))
        bright = np.clip(pixels * gain + rng.uniform(-4, 4), 0, 255)
        pixels = np.asarray(bright.round(), np.uint8)
    return encode_jpeg(pixels, quality=int(rng.integers(60, 80))), scale


def _resize_mask(mask: Bool, scale: float) -> Bool:
    height, width = (round(side * scale) for side in mask.shape)
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    cover = cv2.resize(mask.astype(np.float32), (width, height), interpolation=way)
    return np.asarray(cover >= COVERED)


def _encode_runs(mask: Bool) -> str:
    """Encode a mask as "start length" pairs, counted from 1 down the columns."""
    flat = np.concatenate(([0], mask.ravel(order="F").astype(np.int8), [0]))
    edges = np.flatnonzero(np.diff(flat))
    runs = zip(edges[::2], edges[1::2], strict=True)
    return " ".join(f"{start + 1} {stop - start}" for start, stop in runs)


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
