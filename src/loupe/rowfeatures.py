"""Row features: what a run kept of how its images look to the frozen network.

It must not compute features.

Shapes: N rows asked for, D features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from loupe.aligning import ABSENT, match_ids
from loupe.errors import LoupeError
from loupe.recipe import Recipe
from loupe.runs import Member, Run, open_run
from loupe.settings import HeadStage
from loupe.table import Float32


def read_row_features(run: Run, ids: Sequence[str]) -> Float32 | None:
    """Read the features of the first member that kept them.

    Args:
        run: Finished; the members of a blend stand in other runs.
        ids: Of the rows wanted, in the order wanted.

    Shape:
        Returns: (N, D); NaN for rows that the run does not know.

    Returns:
        None where no member kept features, as where no stage trained a frozen head.
    """
    try:
        members = [member for member, _ in run.networks()]
    except LoupeError:
        return None  # a blend whose sources are gone, or are files
    for member in members:
        if member.features.is_file():
            values: Float32 = np.load(member.features, mmap_mode="r")
            home = run if run.blend is None else open_run(member.folder.parent)
            known = home.table().ids
            if len(values) == len(known):
                return reorder_rows(values[:, _find_column(member)], known, ids)
    return None


def reorder_rows(values: Float32, known: Sequence[str], ids: Sequence[str]) -> Float32:
    """Bring rows into another order; those not known are NaN.

    Args:
        values: A row for each of `known`.
        known: Ids.
        ids: Wanted.
    """
    if tuple(known) == tuple(ids):
        return np.asarray(values)
    at = match_ids(tuple(known), tuple(ids))
    found = np.full((len(ids), values.shape[1]), np.nan, np.float32)
    found[at != ABSENT] = values[at[at != ABSENT]]
    return found


def _find_column(member: Member) -> int:
    """Return which view of the features shows the image as it is; see `features.list_views`."""
    recipe: Recipe = member.recipe()
    stage = recipe.stages[0]
    if recipe.input.crop is not None or not isinstance(stage, HeadStage):
        return 0
    if isinstance(stage.views, int):
        return stage.views
    return list(dict.fromkeys((*stage.views, "identity"))).index("identity")
