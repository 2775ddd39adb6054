"""What a recipe can choose for masks: the loss, the decoder, what is learnt and how it is cut.

It must not read files, or import torch: settings are data.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from loupe.choices import ClassName
from loupe.errors import suggest
from loupe.maskcuts import DEFAULT, Candidate
from loupe.parts import NotNegative, Part, Positive, Probability, Share, Size, Whole

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
        uses = {"gamma": "focal", "symmetric": "lovasz", "alpha": "tversky", "beta": "tversky"}
        fields = type(self).model_fields
        for name, loss in uses.items():
            if getattr(self, name) != fields[name].default and not getattr(self, loss):
                raise ValueError(f"{name} has no effect while the weight of {loss} is 0")
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
    """A second output while training, from the encoder's last feature map: is the class there
    at all? It helps the encoder along (`mask_loss.class_head`); masks are drawn without it."""
    head_pool: Literal["avg", "max"] = "avg"
    """How the class head pools."""
    head_dropout: Share = 0.2
    """Share of values dropped before the class head's layer while training."""
    options: dict[str, Any] = Field(default_factory=dict)
    """More of the architecture's arguments, as segmentation-models-pytorch names them:
    `decoder_channels`, `decoder_attention_type: scse`, `decoder_merge_policy: cat`."""


class MaskWork(Part):
    """Which masks a network learns, from which rows and crops, and how masks are made of maps."""

    networks: Literal["joint", "per_class"] = "joint"
    """`joint`: one network with a channel for each class; `per_class`: one network for each,
    which becomes a member of its own, `<member>-<class>`."""
    classes: tuple[ClassName, ...] = ()
    """Classes whose masks are learnt; none named means all."""
    rows: Literal["all", "nonempty"] = "all"
    """Training rows: all, or those that show one of the classes learnt. Held-out rows are
    always all of them."""
    nonempty_crops: Probability = 0.5
    """Of the random crops (`input.crop`) of an image with masks, the share placed so that
    a pixel of a mask is in it; the others lie anywhere."""
    predict: Literal["tiles", "whole"] = "tiles"
    """With `input.crop`, how an image is predicted: in overlapping tiles of that size, or
    in one piece. Without a crop it is always one piece."""
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """Share of a tile's side that it has in common with the next, at least."""
    size: Size | None = None
    """Height and width at which masks are scored and written, as a submission may want;
    null is the size of each image."""
    thresholds: Annotated[tuple[Probability, ...], Field(min_length=1)] = (
        *(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    )
    """Pixel thresholds that are tried on held-out rows; plain 0.5 always is, too."""
    min_components: Annotated[tuple[Whole, ...], Field(min_length=1)] = (0,)
    """Least areas of a connected part that are tried, in pixels of `size`; 0 keeps all, and
    is always tried at 0.5."""
    fill_holes: Annotated[tuple[bool, ...], Field(min_length=1)] = (False,)
    """Whether enclosed holes are filled; `[false, true]` tries both."""
    cut: Literal["auto", "fixed", "pixel", "area", "doublet", "triplet"] = "auto"
    """How masks are made of maps, fitted on held-out rows: `fixed` at 0.5; `pixel` fits the
    threshold; `area` also the least area; `doublet` has one threshold for the area that tells
    presence, one for the mask; `triplet` all of them. `auto` takes the best, judged on
    rows it was not fitted on. Behind a gate of a cascade cuts are fitted anew to what it leaves
    open; behind a fitted gate the pixel threshold alone, since the gate decides presence."""

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Every way to make a mask of a map that is tried; the plain one is among them."""
        plain = Candidate(threshold=DEFAULT)
        tried = [
            Candidate(threshold=threshold, min_component=least, fill_holes=fill)
            for fill in self.fill_holes
            for least in self.min_components
            for threshold in sorted(self.thresholds)
        ]
        return tuple(tried) if plain in tried else (plain, *tried)
