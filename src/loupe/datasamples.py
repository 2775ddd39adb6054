"""Data samples: images of each class for the first look at a table, with their given labels.

Owns which rows are shown, drawn at random but the same for the same seed, and how a given
label is spelled below its image. It must not draw masks or judge labels.

Shapes: N rows, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from loupe.errors import MaskError
from loupe.reportparts import Block, Gallery, Picture, Text
from loupe.samplepictures import fit_picture
from loupe.table import Table

Rows = NDArray[np.intp]

MOST_SAMPLES = 60
"""Sample images in a report."""
_FEW_CLASSES = 12  # up to here each class has a gallery of its own
_EACH, _EACH_OF_MANY = 6, 2
_TRIES = 4  # rows looked at for each picture wanted, where files are damaged
_LINE_NAMES = ("orange", "sky blue", "green", "purple", "yellow", "blue", "vermilion")
"""Names of `loupe.overlays.COLOURS`, in their order."""


def show_samples(table: Table, *, seed: int = 0) -> Iterator[Block]:
    """Yield galleries: one a class, or one of all where there are many classes.

    A class has up to 6 images, up to 2 where there are more than 12 classes, and all together
    at most `MOST_SAMPLES`. Classes that stand alone have a gallery more, of rows with none of
    them. A row is shown for a second class only if that has no others. A file that cannot be
    read is passed over: the check lists it.

    Args:
        table: Labels and masks may be missing.
        seed: Of the choice; a class draws by itself, so that the others do not change it.
    """
    groups = [(name, rows) for name, rows in _group_rows(table) if len(rows)]
    if not groups:
        return
    if table.masks is not None and any(any(texts) for texts in table.masks):
        yield Text(text="A line runs around each given mask, in the colour named with its class.")
    few = len(groups) <= _FEW_CLASSES
    each = max(1, min(_EACH if few else _EACH_OF_MANY, MOST_SAMPLES // len(groups)))
    taken: set[int] = set()
    found = [
        (name, _choose_pictures(table, rows, each, taken, np.random.Philox(key=(seed, number))))
        for number, (name, rows) in enumerate(groups[:MOST_SAMPLES])
    ]
    if few:
        yield from (Gallery(title=name, pictures=tuple(shown)) for name, shown in found if shown)
        return
    told = "" if len(groups) <= MOST_SAMPLES else f", of the first {MOST_SAMPLES} of {len(groups)}"
    title = f"Samples: {each} of each class{told}"
    yield Gallery(title=title, pictures=tuple(one for _, shown in found for one in shown))


def _group_rows(table: Table) -> Iterator[tuple[str, Rows]]:
    """Yield the rows of each class, and those with none of them."""
    if not table.classes:
        yield "Images", np.arange(len(table))
        return
    for column, name in enumerate(table.classes):
        yield name, np.flatnonzero(table.targets[:, column] >= 0.5)
    if not table.exclusive:
        name = f"not {table.classes[0]}" if len(table.classes) == 1 else "None of the classes"
        yield name, np.flatnonzero((table.targets < 0.5).all(axis=1))


def _choose_pictures(
    table: Table, rows: Rows, most: int, taken: set[int], chance: np.random.Philox
) -> list[Picture]:
    """Make pictures of rows drawn at random, first of those that are not shown yet."""
    order = np.random.Generator(chance).permutation(rows).tolist()
    found: list[Picture] = []
    # Among many damaged files a handful is tried for each: the check lists them all.
    for row in sorted(order, key=taken.__contains__)[: _TRIES * most]:
        made = _make_picture(table, row) if len(found) < most else None
        if made is not None:
            taken.add(row)
            found.append(made)
    return found


def _make_picture(table: Table, row: int) -> Picture | None:
    """Return the picture of a row with its given masks; None if it cannot be read."""
    masks = None if table.masks is None else table.masks[row]
    lines = [table.ids[row], f"given: {_spell_given(table, row)}"]
    try:
        data = fit_picture(table.images[row], masks=masks)
    except MaskError:
        data = fit_picture(table.images[row])
        lines.append("its mask does not fit the image")
    if table.label_origins is not None and table.label_origins[row]:
        lines.append(table.label_origins[row])
    if data is None:
        return None
    return Picture(data=data, alt=f"Image {lines[0]}, {lines[1]}", lines=tuple(lines))


def _spell_given(table: Table, row: int) -> str:
    """Spell a label; with masks also the colour of each."""
    targets = table.targets[row]
    if not len(targets) or bool(np.isnan(targets).all()):
        return "no label"
    masks = () if table.masks is None else table.masks[row]
    parts = []
    for column in np.flatnonzero(targets > 0).tolist():
        value = targets[column]
        part = table.classes[column] + ("" if value == 1 else f" {value:.2g}")
        line = _LINE_NAMES[column % len(_LINE_NAMES)]
        parts.append(f"{part} ({line})" if masks and masks[column] else part)
    none = f"not {table.classes[0]}" if len(targets) == 1 else "none of the classes"
    return ", ".join(parts) or none
