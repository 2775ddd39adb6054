"""What a recipe can choose for masks: the loss, and the decoder of the network.

It must not read files, or import torch: settings are data.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from loupe.choices import ClassName
from loupe.errors import suggest
from loupe.parts import NotNegative, Part, Positive, Share

Over = Literal["mask", "channel", "batch"]
"""What is one set of pixels to a loss that compares areas."""
Architecture = Literal["Unet", "UnetPlusPlus", "FPN", "DeepLabV3Plus"]
ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)


class MaskLoss(Part):
    """A weighted sum of losses; a weight of 0 leaves a loss out.

    The default is what winners of mask contests had most often. Write-ups made with
    Keras have `bce: 1, dice: 1, over: batch`.
    """

    bce: NotNegative = 0.75
    """Weight of binary cross-entropy, the mean over pixels."""
    dice: NotNegative = 0.25
    """Weight of 1 - soft Dice."""
    focal: NotNegative = 0.0
    """Weight of cross-entropy that counts easy pixels less."""
    lovasz: NotNegative = 0.0
    """Weight of the Lovasz hinge, a surrogate of intersection over union."""
    tversky: NotNegative = 0.0
    """Weight of 1 - Tversky, which is Dice with costs of its own for each kind of error."""
    class_head: NotNegative = 0.0
    """Weight of the class head's cross-entropy; needs a network with one, 0.1 is usual."""
    smooth: NotNegative = 1.0
    """Pixels added to both sides of the fractions of Dice and Tversky."""
    over: Over = "mask"
    """What Dice, Tversky and Lovasz are taken over before the mean: `mask`, each image
    and class alone, as the metric is; `channel`, each class over the batch; `batch`,
    all of it as one."""
    positive_only: bool = False
    """Leave masks without a pixel out of Dice, Tversky and Lovasz."""
    gamma: NotNegative = 2.0
    """Focal: how much less easy pixels count."""
    symmetric: bool = False
    """Lovasz: the mean of the loss and that of the background."""
    alpha: NotNegative = 0.3
    """Tversky: what a false positive costs."""
    beta: NotNegative = 0.7
    """Tversky: what a false negative costs."""
    pos_weight: dict[ClassName, Positive] = Field(default_factory=dict)
    """Factor of the positive pixels of a class in binary cross-entropy and focal, by
    name; classes not named weigh 1."""
    mask_weight: dict[ClassName, NotNegative] = Field(default_factory=dict)
    """Weight of a class in the mean over classes, by name; classes not named weigh 1."""

    @model_validator(mode="after")
    def _check_weights(self) -> MaskLoss:
        names = ("bce", "dice", "focal", "lovasz", "tversky")
        if not any(getattr(self, name) for name in names):
            raise ValueError(f"all of {', '.join(names)} are 0; one must be above 0")
        if self.mask_weight and self.over == "batch":
            raise ValueError(
                "mask_weight weighs classes, but over: batch makes them one set of pixels; choose "
                "over: mask or channel, or leave mask_weight out"
            )
        return self


def _fold_architecture(value: object) -> object:
    """Let `unet++` and `DeepLabV3+` mean what they say; name the nearest of what is unknown."""
    if not isinstance(value, str):
        return value
    folded = {name.casefold(): name for name in ARCHITECTURES}
    plain = value.casefold().replace("+", "plus").replace("-", "").replace("_", "")
    if plain not in folded:
        near = suggest(plain, folded).rstrip("?")
        for key, name in folded.items():
            near = near.replace(repr(key), repr(name))
        question = f"{near}?" if near else ";"
        raise ValueError(f"{value!r} is unknown{question} known are {', '.join(ARCHITECTURES)}")
    return folded[plain]


class Decoder(Part):
    """What turns the encoder's feature maps into masks."""

    architecture: Annotated[Architecture, BeforeValidator(_fold_architecture)] = "Unet"
    """`Unet`, `UnetPlusPlus`, `FPN` or `DeepLabV3Plus`."""
    class_head: bool = False
    """A second output: is the class there at all, from the encoder's last feature map."""
    head_pool: Literal["avg", "max"] = "avg"
    """How the class head pools."""
    head_dropout: Share = 0.2
    """Share of values dropped before the class head's layer while training."""
    options: dict[str, Any] = Field(default_factory=dict)
    """More of the architecture's arguments, as segmentation-models-pytorch names them:
    `decoder_channels`, `decoder_attention_type: scse`, `decoder_merge_policy: cat`."""
