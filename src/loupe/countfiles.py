"""Count files: what candidate cuts hit and miss, out of fold, on disk.

It must not count or choose.

Shapes: N rows, C classes, T candidates.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loupe.errors import RunError
from loupe.files import replacing
from loupe.maskcuts import Candidate, PairCounts

Int16 = NDArray[np.int16]


@dataclass(frozen=True, slots=True, kw_only=True)
class CountSheet:
    """Counts of the rows of a table.

    Attributes:
        ids: (N,) of the rows.
        classes: (C,) names.
        folds: (N,) the fold that holds each row out.
        counts: Of these rows and classes.
    """

    ids: tuple[str, ...]
    classes: tuple[str, ...]
    folds: Int16
    counts: PairCounts


def write_counts(path: Path, sheet: CountSheet) -> None:
    """Write a sheet, whole or not at all; its folder is made.

    Args:
        path: An npz file.
        sheet: What to keep.
    """
    counts = sheet.counts
    given: dict[str, Any] = {
        name: values
        for name in ("confidences", "tops", "presences")
        if (values := getattr(counts, name)) is not None
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            ids=np.array(sheet.ids, dtype=np.str_),
            classes=np.array(sheet.classes, dtype=np.str_),
            folds=sheet.folds,
            thresholds=np.array([each.threshold for each in counts.candidates], np.float64),
            min_components=np.array([each.min_component for each in counts.candidates], np.int64),
            fill_holes=np.array([each.fill_holes for each in counts.candidates], np.bool_),
            counts=counts.counts,
            **given,
        )


def read_counts(path: Path) -> CountSheet:
    """Read a sheet that `write_counts` wrote.

    Args:
        path: An npz file.

    Raises:
        RunError: the file is absent or cannot be read.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            values = dict(held)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise RunError(f"{path}: no counts of masks that can be read ({error}).") from None
    candidates = tuple(
        Candidate(threshold=float(threshold), min_component=int(least), fill_holes=bool(fill))
        for threshold, least, fill in zip(
            values["thresholds"], values["min_components"], values["fill_holes"], strict=True
        )
    )
    return CountSheet(
        ids=tuple(values["ids"].tolist()),
        classes=tuple(values["classes"].tolist()),
        folds=values["folds"].astype(np.int16),
        counts=PairCounts(
            candidates=candidates,
            counts=values["counts"],
            confidences=values.get("confidences"),
            tops=values.get("tops"),
            presences=values.get("presences"),
        ),
    )
