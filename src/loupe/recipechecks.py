"""Recipe checks: settings that contradict others, or that nothing would use.

It must not read recipes; `recipe` asks it about each one that was read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from loupe.choices import AutoLoss
from loupe.geometric_steps import RandomCrop
from loupe.maskchoices import MaskLoss, MaskWork
from loupe.parts import Part
from loupe.settings import Draws, FullStage, Head, HeadStage

if TYPE_CHECKING:
    from loupe.recipe import Recipe


def find_idle(recipe: Recipe) -> list[str]:
    """Say what is wrong with the settings of a recipe taken together.

    Args:
        recipe: Each field of it is valid by itself.

    Returns:
        A sentence for each finding.
    """
    by_epochs = any(stage.epochs is not None for stage in recipe.stages)
    through_pixels = any(isinstance(stage, FullStage) for stage in recipe.stages)
    wrong = []
    if not by_epochs:
        given = [name for name in ("early_stop", "checkpoint") if getattr(recipe, name)]
        given += ["ema"] if recipe.ema else []
        given += ["network.head.dropout"] if recipe.network.head.dropout else []
        wrong += [f"{name} has no effect where the head is solved, not trained" for name in given]
    if not through_pixels and recipe.mixing.cutmix + recipe.mixing.mixup > 0:
        wrong.append("mixing has no effect without a stage with 'train: all'")
    if recipe.network.head.l2 and not recipe.network.head.widths:
        wrong.append("network.head.l2 is of the layers in network.head.widths, which is empty")
    if recipe.init_from and recipe.input.normalisation == "data":
        wrong.append(
            "input.normalisation is that of the weights which init_from names; leave out 'data'"
        )
    return wrong + (_find_without_masks(recipe) if recipe.decoder is None else _find_masks(recipe))


def _find_without_masks(recipe: Recipe) -> list[str]:
    """Settings of masks in the recipe of a classifier."""
    given = {"mask_loss": recipe.mask_loss != MaskLoss(), "masks": recipe.masks != MaskWork()}
    return [
        f"{name} has no effect without a 'decoder'; add one, such as 'decoder: "
        "{architecture: Unet}', to train a network that draws masks"
        for name, there in given.items()
        if there
    ]


def _find_masks(recipe: Recipe) -> list[str]:
    """What a network that draws masks cannot have."""
    wrong = []
    mixed = [recipe.mixing, *(s.mixing for s in recipe.stages if isinstance(s, FullStage))]
    if any(mixing is not None and mixing.cutmix + mixing.mixup > 0 for mixing in mixed):
        wrong.append("mixing mixes labels, and a network with a 'decoder' learns masks")
    if any(isinstance(stage, HeadStage) for stage in recipe.stages):
        wrong.append(
            "a stage with 'train: head' fits pooled features; with a 'decoder' write 'train: all', "
            "and 'freeze: [backbone]' to keep the encoder as it is"
        )
    losses = [recipe.loss != AutoLoss(), *(stage.loss is not None for stage in recipe.stages)]
    if any(losses):
        wrong.append("loss is of labels; with a 'decoder' set 'mask_loss'")
    if recipe.network.head != Head() or recipe.network.pool != "default":
        wrong.append("network.head and network.pool have no effect with a 'decoder'")
    if isinstance(recipe.tta, Draws):
        wrong.append("tta: with a 'decoder' views must be flips by name, which can be undone")
    if recipe.votes == "sum":
        wrong.append("votes: with a 'decoder' maps are averaged; leave out 'sum'")
    if any(isinstance(step, RandomCrop) for step in recipe.augment):
        wrong.append("augment: with a 'decoder' crops are set by input.crop; leave out RandomCrop")
    if bool(recipe.mask_loss.class_head) != recipe.decoder_has_head:
        wrong.append(
            "mask_loss.class_head is the weight of the class head that decoder.class_head adds; "
            "set both (class_head: 0.1 is usual), or neither"
        )
    return wrong + _find_unused(recipe)


def _find_unused(recipe: Recipe) -> list[str]:
    """Settings of masks that need another one."""
    wrong = []
    if recipe.input.crop is None:
        idle = [n for n in ("nonempty_crops", "predict", "overlap") if _is_set(recipe.masks, n)]
        wrong += [f"masks.{name} has no effect without input.crop" for name in idle]
    if not recipe.decoder_has_head:
        idle = [n for n in ("head_pool", "head_dropout") if _is_set(recipe.decoder, n)]
        wrong += [f"decoder.{name} has no effect without decoder.class_head" for name in idle]
    return wrong


def _is_set(part: Part | None, name: str) -> bool:
    """Return True if a field is not at its default."""
    return part is not None and getattr(part, name) != type(part).model_fields[name].default
