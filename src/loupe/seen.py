"""Seen: which images of a table some training used, by file, id and bytes.

It must not look for copies under other names (that is `copies`) or decide what follows.

Shapes: N rows.
"""

from __future__ import annotations

import filecmp
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loupe.table import HOLDOUT, Table

Bool = NDArray[np.bool_]


def list_trained(trained: Table) -> NDArray[np.intp]:
    """Return the rows of a table that trainings on it use: all but those kept apart.

    Args:
        trained: The table of a run.
    """
    if trained.folds is None:
        return np.arange(len(trained))
    return np.flatnonzero(trained.folds != HOLDOUT)


def find_seen(table: Table, trained: Table) -> Bool:
    """Tell which images were trained on: the same file, or an equal one of the same id.

    Where a file is gone, the same id counts as the same image. Rows that the training
    kept apart are not seen; copies under other names are not looked for.

    Args:
        table: The images in question.
        trained: The table of a run.

    Returns:
        (N,) True for rows that some member trained on.
    """
    used = list_trained(trained)
    at = {trained.ids[row]: trained.images[row] for row in used}
    paths = {trained.images[row].resolve() for row in used}
    return np.array(
        [
            path.resolve() in paths or (name in at and _may_equal(path, at[name]))
            for name, path in zip(table.ids, table.images, strict=True)
        ],
        dtype=np.bool_,
    )


def _may_equal(path: Path, other: Path) -> bool:
    """True unless both files are there and their bytes differ."""
    try:
        return filecmp.cmp(path, other, shallow=False)
    except OSError:
        return True
