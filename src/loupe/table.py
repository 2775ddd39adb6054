"""The table: one row a sample, its image, its targets, its group and its fold.

Owns `Table` and its Parquet snapshot. It must not decode images, split, read
the users' layouts (that is `layouts`) or reorder rows.

Shapes: N rows, C classes.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from loupe.errors import TableError, shorten

Float32 = NDArray[np.float32]
Int16 = NDArray[np.int16]

ALWAYS_TRAINED = -1
"""Fold of a row that every member trains on and none holds out."""
HOLDOUT = -2
"""Fold of a row that no member ever sees; kept for a final score."""
SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a table was written, so that a submission can be written alike.

    Attributes:
        name: One of `loupe.layouts.LAYOUTS`.
        image_column: Column of the image; "" for folders and COCO.
        label_column: Column(s) of the label, in order; () for folders and COCO.
        numbers: For each class the number the table used for it, where a name
            map was given; empty where the table wrote names.
        columns: All columns of the file, in order.
        id_column: Column of the ids where it is not the image's; else "".
        words: Text of absent and present in a 0/1 column.
        separator: What parts the labels in a list of labels.
        any_class: Name of the one class that all others were collapsed to; else "".
    """

    name: str
    image_column: str = ""
    label_column: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    id_column: str = ""
    words: tuple[str, ...] = ()
    separator: str = ""
    any_class: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """A row that was set aside; it still appears, marked, in every output."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Labelled images: a sheet of N sample ids by C class names, with extras.

    Rows keep their order for good. Targets are always an (N, C) float matrix;
    the one question asked of a table is `exclusive`.

    Attributes:
        ids: (N,) unique keys; the image path as the table writes it.
        images: (N,) files on this machine.
        classes: (C,) names of the columns of `targets`.
        targets: (N, C) float32 in [0, 1]; NaN where the label is not given.
        exclusive: True if the columns of a row sum to 1 (softmax, argmax), False
            if they stand alone (sigmoid, thresholds). Binary is C = 1.
        layout: How the table was written.
        groups: (N,) rows with equal text must not be parted by a split.
        weights: (N,) float32 >= 0, the weight of a row in the loss; a row of weight 0 is never
            trained on, but held out, predicted and scored.
        folds: (N,) int16; k = held out together, `ALWAYS_TRAINED`, `HOLDOUT`.
        teachers: (N,) the run whose networks made the label of a row, as a folder or
            `<folder>#fold-<k>`; "" where people did. None: people labelled all rows.
        label_origins: (N,) what was done to the label of a row, as `loupe.origins` spells it; ""
            where no rule and nobody touched it. None: the table says nothing.
        masks: (N, C) run-length text, see `loupe.masks`, of the image as it is shown
            (after its EXIF turn); "" for no mask. None where the table brings none, or mask
            images or COCO annotations do not fit the images: the notes say why.
        quarantined: Rows set aside by `check --quarantine`.
        origin: How these targets came to be; part of the digest.
        notes: What the reader saw and did, for the screen.

    Raises:
        TableError: lengths differ, ids repeat, or a target lies outside [0, 1].
    """

    ids: tuple[str, ...]
    images: tuple[Path, ...]
    classes: tuple[str, ...]
    targets: Float32
    exclusive: bool
    layout: Layout = field(default_factory=lambda: Layout(name="memory"))
    groups: tuple[str, ...] | None = None
    weights: Float32 | None = None
    folds: Int16 | None = None
    teachers: tuple[str, ...] | None = None
    label_origins: tuple[str, ...] | None = None
    masks: tuple[tuple[str, ...], ...] | None = None
    quarantined: tuple[Quarantined, ...] = ()
    origin: str = "given"
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_lengths(self)
        _check_unique(self.ids)
        _check_targets(self)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labelled(self) -> bool:
        """True if every row has its targets."""
        return bool(self.classes) and not bool(np.isnan(self.targets).any())

    def select(self, rows: Sequence[int] | NDArray[np.integer]) -> Table:
        """Keep some rows, in the order given.

        Args:
            rows: Positions of the rows to keep.
        """
        index = np.asarray(rows, dtype=np.intp)
        return replace(
            self,
            ids=tuple(self.ids[i] for i in index),
            images=tuple(self.images[i] for i in index),
            targets=self.targets[index],
            groups=None if self.groups is None else tuple(self.groups[i] for i in index),
            weights=None if self.weights is None else self.weights[index],
            folds=None if self.folds is None else self.folds[index],
            teachers=None if self.teachers is None else tuple(self.teachers[i] for i in index),
            label_origins=(
                None if self.label_origins is None else tuple(self.label_origins[i] for i in index)
            ),
            masks=None if self.masks is None else tuple(self.masks[i] for i in index),
        )

    def digest(self) -> str:
        """Return 16 hex digits that change when anything that matters changes.

        The place of the images and of teachers on this machine does not matter; notes
        do not.
        """
        hasher = hashlib.blake2b(digest_size=8)
        plain = (self.ids, self.classes, self.exclusive, self.groups, self.origin)
        hasher.update(json.dumps(plain, ensure_ascii=False).encode())
        hasher.update(json.dumps([[q.id, q.reason] for q in self.quarantined]).encode())
        for array in (self.targets, self.weights, self.folds):
            hasher.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
        # Only where there are any: tables without teachers keep the digest they had.
        if self.teachers is not None:
            names = [PurePath(teacher).name for teacher in self.teachers]
            hasher.update(json.dumps(["teachers", names], ensure_ascii=False).encode())
        if self.label_origins is not None:
            told = ["label origins", self.label_origins]
            hasher.update(json.dumps(told, ensure_ascii=False).encode())
        # Row by row: all masks together can be hundreds of megabytes.
        for texts in self.masks or ():
            hasher.update(json.dumps(texts).encode())
        return hasher.hexdigest()


def count_classes(table: Table) -> dict[str, int]:
    """Count the rows of each class; targets of 0.5 and above count.

    Returns:
        Class name to number of rows, in the order of the columns.
    """
    counts = (table.targets >= 0.5).sum(axis=0)
    return {name: int(n) for name, n in zip(table.classes, counts, strict=True)}


def write_snapshot(table: Table, path: Path) -> None:
    """Write a table to Parquet so that `read_snapshot` gives it back unchanged.

    Args:
        table: What to keep.
        path: The file; the caller makes the write atomic.
    """
    columns: dict[str, Any] = {"id": list(table.ids), "image": [str(p) for p in table.images]}
    extras = {
        "group": table.groups,
        "weight": table.weights,
        "fold": table.folds,
        "teacher": table.teachers,
        "label_origin": table.label_origins,
    }
    columns |= {name: values for name, values in extras.items() if values is not None}
    for number, name in enumerate(table.classes):
        columns[f"target:{name}"] = table.targets[:, number]
        if table.masks is not None:
            columns[f"mask:{name}"] = [texts[number] for texts in table.masks]
    layout = {slot: getattr(table.layout, slot) for slot in Layout.__slots__}
    meta = {
        "schema": SCHEMA,
        "classes": table.classes,
        "exclusive": table.exclusive,
        "layout": layout,
        "quarantined": [[q.id, q.reason] for q in table.quarantined],
        "origin": table.origin,
        "notes": table.notes,
    }
    sheet = pa.table(columns).replace_schema_metadata({"loupe": json.dumps(meta)})
    pq.write_table(sheet, path)


def read_snapshot(path: Path) -> Table:
    """Read a table written by `write_snapshot`.

    Args:
        path: The Parquet file.

    Raises:
        TableError: the file is not such a snapshot, or a newer Loupe wrote it.
    """
    sheet = pq.read_table(path)
    meta = json.loads((sheet.schema.metadata or {}).get(b"loupe", b"{}"))
    if meta.get("schema") != SCHEMA:
        raise TableError(
            f"{path}: table snapshot of schema {meta.get('schema')!r}; this version of "
            f"Loupe reads schema {SCHEMA}."
        )
    classes = tuple(meta["classes"])
    names = set(sheet.column_names)
    targets = [sheet[f"target:{name}"].to_numpy() for name in classes]
    masks = [sheet[f"mask:{name}"].to_pylist() for name in classes if f"mask:{name}" in names]
    layout: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in meta["layout"].items()
    }
    return Table(
        ids=tuple(sheet["id"].to_pylist()),
        images=tuple(Path(p) for p in sheet["image"].to_pylist()),
        classes=classes,
        targets=np.stack(targets, axis=1) if targets else np.zeros((len(sheet), 0), np.float32),
        exclusive=meta["exclusive"],
        layout=Layout(**layout),
        groups=tuple(sheet["group"].to_pylist()) if "group" in names else None,
        weights=sheet["weight"].to_numpy().astype(np.float32) if "weight" in names else None,
        folds=sheet["fold"].to_numpy().astype(np.int16) if "fold" in names else None,
        teachers=tuple(sheet["teacher"].to_pylist()) if "teacher" in names else None,
        label_origins=(
            tuple(sheet["label_origin"].to_pylist()) if "label_origin" in names else None
        ),
        masks=tuple(zip(*masks, strict=True)) if masks else None,
        quarantined=tuple(Quarantined(id=i, reason=r) for i, r in meta["quarantined"]),
        origin=meta["origin"],
        notes=tuple(meta["notes"]),
    )


def _check_lengths(table: Table) -> None:
    n = len(table.ids)
    found: Mapping[str, int | None] = {
        "images": len(table.images),
        "targets": len(table.targets),
        "groups": None if table.groups is None else len(table.groups),
        "weights": None if table.weights is None else len(table.weights),
        "folds": None if table.folds is None else len(table.folds),
        "teachers": None if table.teachers is None else len(table.teachers),
        "label origins": None if table.label_origins is None else len(table.label_origins),
        "masks": None if table.masks is None else len(table.masks),
    }
    wrong = [f"{name} has {size}" for name, size in found.items() if size not in (None, n)]
    if wrong:
        raise TableError(f"the table has {n} ids, but {', '.join(wrong)} rows.")
    if table.targets.ndim != 2 or table.targets.shape[1] != len(table.classes):
        raise TableError(
            f"targets have shape {table.targets.shape}; expected "
            f"({n}, {len(table.classes)}): a row a sample, a column a class."
        )
    widths = {len(texts) for texts in table.masks or ()}
    if widths - {len(table.classes)}:
        raise TableError(
            f"rows of masks have {shorten(sorted(widths))} text(s); expected "
            f"{len(table.classes)}, one a class."
        )


def _check_unique(ids: tuple[str, ...]) -> None:
    if len(set(ids)) == len(ids):
        return
    twice = [f"{name!r} ({n} rows)" for name, n in Counter(ids).items() if n > 1]
    raise TableError(
        f"{len(twice)} id(s) stand in more than one row: {shorten(twice)}. Expected one row "
        "for each image; remove the extra rows, or use a multi-label layout."
    )


def _check_targets(table: Table) -> None:
    targets = table.targets
    wrong = np.flatnonzero(((targets < 0) | (targets > 1)).any(axis=1))
    if len(wrong):
        ids = [repr(table.ids[i]) for i in wrong]
        raise TableError(f"targets outside [0, 1] in {len(wrong)} row(s): {shorten(ids)}.")
    if table.exclusive and len(table.classes):
        off = np.flatnonzero(np.abs(targets.sum(axis=1) - 1) > 1e-3)
        if len(off):
            ids = [repr(table.ids[i]) for i in off]
            raise TableError(
                f"classes are exclusive, but the targets of {len(off)} row(s) do not sum to 1: "
                f"{shorten(ids)}."
            )
