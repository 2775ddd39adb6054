"""What training asks of tables and recipes of masks: who learns what, and whether it can.

It must not train.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

import numpy as np

from loupe.errors import RecipeError, TableError, shorten, suggest
from loupe.maskchoices import MaskLoss
from loupe.maskevaluation import list_mask_metrics
from loupe.masklosses import build_mask_loss
from loupe.recipe import Recipe
from loupe.settings import Checkpoint, EarlyStop
from loupe.table import Table


def spread_members(members: Mapping[str, Recipe], table: Table) -> dict[str, Recipe]:
    """Make a member for each class where a recipe asks for a network of each.

    Args:
        members: Member name to recipe.
        table: Whose classes.

    Returns:
        The members, in order; ``steel`` becomes ``steel-1``, ``steel-2``, ... by the names
        of the classes. What names no file is an underscore there.

    Raises:
        RecipeError: two members would have one name.
    """
    spread: list[tuple[str, Recipe]] = []
    for name, recipe in members.items():
        if recipe.decoder is None or recipe.masks.networks == "joint":
            spread.append((name, recipe))
            continue
        # Names of all classes are looked at before each network is told of its own alone.
        build_mask_loss(recipe.mask_loss, recipe.masks.classes or table.classes)
        for single in recipe.masks.classes or table.classes:
            masks = recipe.masks.model_copy(update={"networks": "joint", "classes": (single,)})
            own = {"masks": masks, "mask_loss": _narrow_loss(recipe.mask_loss, single)}
            safe = re.sub(r"[^\w.-]", "_", single)
            spread.append((f"{name}-{safe}", recipe.model_copy(update=own)))
    counted = Counter(name for name, _ in spread)
    twice = [name for name, times in counted.items() if times > 1]
    if twice:
        raise RecipeError(
            f"two networks would have one name ({shorten(twice)}); rename the recipe files, or the "
            "classes that differ by more than letters, digits, '-', '_' and '.'."
        )
    return dict(spread)


def _narrow_loss(loss: MaskLoss, single: str) -> MaskLoss:
    """Keep the weights of one class."""
    kept = {key: value for key, value in loss.pos_weight.items() if key == single}
    # A single class has all the weight there is.
    return loss.model_copy(update={"pos_weight": kept, "mask_weight": {}})


def check_mask_members(members: Mapping[str, Recipe], table: Table) -> bool:
    """Refuse recipes and tables that cannot train segmenters together.

    Args:
        members: Member name to recipe.
        table: What they are to learn.

    Returns:
        True if the members draw masks, False if they name classes.

    Raises:
        RecipeError: members are of both kinds, or do not agree on how masks are scored;
            classes are unknown, or learnt by nobody; a watched metric is unknown.
        TableError: the table has no masks, or weights of rows other than 0 and one value,
            which mask losses do not use.
    """
    drawing = [name for name, recipe in members.items() if recipe.decoder is not None]
    if not drawing:
        return False
    if len(drawing) < len(members):
        others = [name for name in members if name not in drawing]
        raise RecipeError(
            f"{shorten(drawing)} draw masks and {shorten(others)} name classes; train them as two "
            "runs, and join these in a cascade."
        )
    _check_table(table)
    _check_classes(members, table)
    for name, recipe in members.items():
        classes = recipe.masks.classes or table.classes
        build_mask_loss(recipe.mask_loss, classes)
        _check_metrics(name, recipe, list_mask_metrics(classes))
    scored = {
        (recipe.masks.size, recipe.masks.candidates, recipe.masks.cut)
        for recipe in members.values()
    }
    if len(scored) > 1:
        raise RecipeError(
            "members of one run share masks.size, masks.thresholds, masks.min_components, "
            "masks.fill_holes and masks.cut, since their maps are averaged; give all the same."
        )
    return True


def _check_table(table: Table) -> None:
    if table.masks is None:
        raise TableError(
            f"a recipe with a decoder learns masks, but a table of layout {table.layout.name!r} "
            "brings none. Give a table of run-length text (EncodedPixels, rle_mask), a folder of "
            "masks (--masks), or a COCO file."
        )
    if table.weights is not None and len(np.unique(table.weights[table.weights > 0])) > 1:
        raise TableError(
            "the table weighs its rows, and losses of masks do not use such weights (only 0: not "
            "trained on); leave the column out (it is kept for classifiers)."
        )


def _check_classes(members: Mapping[str, Recipe], table: Table) -> None:
    named = [name for recipe in members.values() for name in recipe.masks.classes]
    unknown = [f"{name!r}{suggest(name, table.classes)}" for name in named]
    unknown = [told for told, name in zip(unknown, named, strict=True) if name not in table.classes]
    if unknown:
        raise RecipeError(
            f"masks.classes: there is no class {shorten(unknown)}. Expected some of "
            f"{shorten(table.classes, 20)}."
        )
    learnt = {name for recipe in members.values() for name in recipe.masks.classes or table.classes}
    left = [repr(name) for name in table.classes if name not in learnt]
    if left:
        raise RecipeError(
            f"nobody learns the masks of {shorten(left)}; add a recipe that does, or leave "
            "masks.classes out."
        )


def _check_metrics(name: str, recipe: Recipe, known: tuple[str, ...]) -> None:
    kinds = (EarlyStop, Checkpoint)
    parts = (recipe.early_stop, recipe.checkpoint)
    named = {part.metric for part in parts if isinstance(part, kinds)} | set(recipe.watched_metrics)
    unknown = [f"{metric!r}{suggest(metric, known)}" for metric in sorted(named - set(known))]
    if unknown:
        raise RecipeError(
            f"{name}: watched metric {shorten(unknown)} is unknown for masks (known here: "
            f"{', '.join(known[:7])}; and of one class that this network learns, written "
            f"'{known[-1]}')."
        )
