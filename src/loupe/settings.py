"""The parts of a recipe: every field, its range and its meaning.

The kinds of loss, optimizer and schedule are in `choices`. It must not read files,
or import torch: settings are data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, Tag, model_validator

from loupe.augment import Steps
from loupe.choices import Loss, Schedule
from loupe.parts import (
    FIRST,
    SECOND,
    Count,
    Factor,
    NotNegative,
    Part,
    Positive,
    Probability,
    Share,
    Size,
    Whole,
    either,
    one_of,
)
from loupe.tta import ViewName

# Network and input --------------------------------------------------------------------------------


SizeOrFactor = Annotated[
    Annotated[Factor, Tag(FIRST)] | Annotated[Size, Tag(SECOND)],
    either(lambda value: isinstance(value, str)),
]


class Head(Part):
    """The layers after pooling: BatchNorm, dense layers with ReLU, dropout, the last layer."""

    widths: tuple[Count, ...] = ()
    """Widths of dense layers before the last one; none makes a linear head."""
    batch_norm: bool = False
    """Normalise the pooled features first."""
    dropout: Share = 0.0
    """Share of values dropped before the last layer while training."""
    l2: NotNegative = 0.0
    """Added to the loss: `l2` times the sum of squares of the dense layers before the
    last one, biases spared (Keras' `kernel_regularizer`)."""
    init: Literal["default", "he_normal", "glorot_uniform"] = "default"
    """`he_normal`: dense layers start from a normal distribution of variance 2 / inputs,
    cut off at two deviations, biases from 0; `glorot_uniform`, Keras' default: from a
    uniform one within sqrt(6 / (inputs + outputs)) of 0, biases from 0; `default` is
    torch's own."""


class Network(Part):
    """Which network is trained, and from which weights."""

    name: str = "resnet18"
    """Any timm name, also with a weights tag: `resnet50.a1_in1k`; or the usual name
    of a well-known network, such as `EfficientNetB6-noisy-student` or `Xception`."""
    pretrained: bool = True
    """Start from pretrained weights: the local folder first, then timm's hub."""
    pool: Literal["default", "avg", "max", "avgmax", "catavgmax"] = "default"
    """How the last feature map becomes one vector, for networks that can choose;
    `catavgmax` keeps the largest value beside the mean: small defects survive."""
    drop_path: Share = 0.0
    """Stochastic depth rate (drop-connect), for the networks that have it."""
    head: Head = Head()


class Input(Part):
    """How an image becomes the network's input; the whole image is kept."""

    size: SizeOrFactor = (224, 224)
    """Height and width in pixels; or a factor, `x2`, of the size that all images share."""
    crop: Size | None = None
    """Height and width that the network sees, if not the whole: random crops while
    training, a grid that covers the image at prediction, its probabilities averaged."""
    resize: Literal["stretch", "pad"] = "stretch"
    """`stretch` fills the input; `pad` keeps the aspect ratio."""
    filter: Literal["auto", "area", "linear", "cubic", "nearest"] = "auto"
    """Resize filter; `auto` is area when shrinking and cubic when growing."""
    channels: Literal[1, 3] = 3
    """1 for grey input (luma), 3 for colour."""
    normalisation: Literal["weights", "data"] = "weights"
    """Mean and deviation of the pretrained weights, or of the run's own images (taken
    once over all but the hold-out, and stored with the run)."""

    @model_validator(mode="after")
    def _check_crop(self) -> Input:
        if self.crop and not isinstance(self.size, str):
            (height, width), (high, wide) = self.size, self.crop
            if high > height or wide > width:
                raise ValueError(f"crop {high} x {wide} is larger than size {height} x {width}")
        return self


class Draws(Part):
    """Random views at prediction, seeded by the recipe, the draw and the row's id."""

    draws: Count = 4
    """Views of each image."""
    augment: Steps
    """What each of them goes through, by albumentations' names."""


Names = Annotated[tuple[ViewName, ...], Field(min_length=1)]
Tta = Annotated[
    Annotated[Draws, Tag(FIRST)] | Annotated[Names, Tag(SECOND)],
    either(lambda value: isinstance(value, Mapping | Draws)),
]


# Mixing, sampling, stages -------------------------------------------------------------------------


class Mixing(Part):
    """Mix the images of a batch, and their targets by the true share of each."""

    cutmix: Probability = 0.0
    """Probability that a batch is cut-mixed: a box of another image is pasted."""
    cutmix_alpha: Positive = 1.0
    """Beta(alpha, alpha) draws the share kept; 1 is uniform."""
    mixup: Probability = 0.0
    """Probability that a batch is mixed up: two images are averaged."""
    mixup_alpha: Positive = 0.2
    """Beta(alpha, alpha) draws the weight; small values stay near one image."""
    skip_first: Whole = 0
    """Epochs without mixing at the start of a stage."""
    skip_last: Whole = 0
    """Epochs without mixing at the end of a stage."""

    def mixes_never(self, epochs: int) -> bool:
        """Return True if a stage is too short for what is to be mixed.

        Args:
            epochs: Of the stage.
        """
        wanted = self.cutmix + self.mixup > 0
        return wanted and self.skip_first + self.skip_last >= epochs

    @model_validator(mode="after")
    def _check_sum(self) -> Mixing:
        if self.cutmix + self.mixup > 1:
            raise ValueError(
                f"cutmix {self.cutmix} and mixup {self.mixup} are probabilities of one draw; "
                "together at most 1"
            )
        return self


NamesOrCount = Annotated[
    Annotated[Count, Tag(FIRST)] | Annotated[Names, Tag(SECOND)],
    either(lambda value: isinstance(value, int)),
]
PenaltyOrAuto = Annotated[
    Annotated[Literal["auto"], Tag(FIRST)] | Annotated[Positive, Tag(SECOND)],
    either(lambda value: isinstance(value, str)),
]


class HeadStage(Part):
    """Train the head alone, on features of the frozen backbone, computed once for all folds.

    Without `epochs` a linear head is solved to convergence: ridge-penalised
    (multinomial) logistic regression on standardised features, by L-BFGS, no
    learning rate. With `epochs` any head is trained by the optimizer.
    """

    train: Literal["head"] = "head"
    """`head`: the layers after pooling alone."""
    epochs: Count | None = None
    """Passes over the training rows; null solves to convergence."""
    stop_after: Count | None = None
    """End after so many of them, though the schedule counts on `epochs`."""
    views: NamesOrCount = ("identity", "hflip")
    """Views of each training image whose features are kept: names, or how many draws of
    the recipe's `augment`. An epoch takes one of them for each row, in turn."""
    l2: PenaltyOrAuto = "auto"
    """Ridge penalty of the solution; `auto` chooses it on inner folds of the training rows."""
    lr: Positive | None = None
    """Peak learning rate of this stage; null takes the optimizer's."""
    loss: Loss | None = None
    """Loss of this stage; null takes the recipe's."""
    schedule: Schedule | None = None
    """Schedule of this stage; null takes the recipe's."""

    @model_validator(mode="after")
    def _check_effect(self) -> HeadStage:
        """Refuse what only the other way of fitting would use."""
        idle = [name for name in ("lr", "schedule") if getattr(self, name) is not None]
        if self.epochs is None and idle:
            raise ValueError(
                f"without 'epochs' the head is solved, and {' and '.join(map(repr, idle))} would "
                "have no effect; leave it out, or give 'epochs'"
            )
        if self.epochs is not None and self.l2 != "auto":
            raise ValueError(
                "'l2' is the penalty of a head that is solved; with 'epochs' it would have no "
                "effect. Use the optimizer's 'weight_decay', or leave 'epochs' out"
            )
        return self


class FullStage(Part):
    """Train all layers, or all but frozen ones, for some epochs."""

    train: Literal["all"] = "all"
    """`all`: every layer that `freeze` does not name."""
    epochs: Count = 5
    """Passes over the training rows."""
    stop_after: Count | None = None
    """End after so many of them, though schedule and mixing count on `epochs`."""
    lr: Positive | None = None
    """Peak learning rate of this stage; null takes the optimizer's."""
    head_lr_factor: Positive = 1.0
    """The head's rate as a multiple of the stage's."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The rate of each layer group as a multiple of that of the next group towards the head."""
    freeze: tuple[str, ...] = ()
    """Layers that stay as they are, BatchNorm statistics too: `backbone` for all but the
    head, or names within it as timm has them, such as `conv_stem` or `blocks.0`."""
    freeze_norm: bool = False
    """Keep the BatchNorm statistics of the start weights."""
    size: Size | None = None
    """Input size of this stage while training; null takes the recipe's."""
    loss: Loss | None = None
    """Loss of this stage; null takes the recipe's."""
    schedule: Schedule | None = None
    """Schedule of this stage; null takes the recipe's."""
    mixing: Mixing | None = None
    """Mixing of this stage; null takes the recipe's."""


Stage = Annotated[
    Annotated[HeadStage, Tag("head")] | Annotated[FullStage, Tag("all")], one_of("train", "all")
]


# Control ------------------------------------------------------------------------------------------


class EarlyStop(Part):
    """End a stage when a watched metric stops improving."""

    metric: str = "loss"
    """`loss`, or any metric of the history, such as `pr_auc` or `recall/crack`."""
    patience: Count = 3
    """Epochs without improvement before the stage ends."""
    min_delta: NotNegative = 0.0
    """Least change that counts as an improvement."""


class Checkpoint(Part):
    """Keep the weights of the best epochs of a stage in place of the last ones."""

    metric: str = "loss"
    """`loss`, or any metric of the history."""
    average: Count = 1
    """How many of the best epochs are averaged, weight by weight."""


FlagOrAuto = Annotated[
    Annotated[Literal["auto"], Tag(FIRST)] | Annotated[bool, Tag(SECOND)],
    either(lambda value: isinstance(value, str)),
]
CountsOrAuto = Annotated[
    Annotated[Literal["auto"], Tag(FIRST)] | Annotated[tuple[Count, ...], Tag(SECOND)],
    either(lambda value: isinstance(value, str)),
]


class Engine(Part):
    """What the speed probe chose, once per run; `auto` until then."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """`bf16` and `fp16` compute in half precision where torch deems it safe; the head
    and the loss stay in full precision. The probe never picks `fp16`."""
    channels_last: FlagOrAuto = "auto"
    """Memory order of images: channels last suits most CPUs and GPUs."""
    threads: CountsOrAuto = "auto"
    """CPU threads of each fold's job."""


class Start(Part):
    """Which weights a run started from; filled in once, then checked."""

    architecture: str = ""
    """timm's name of the network; empty until it is looked up."""
    kwargs: dict[str, Any] = Field(default_factory=dict)
    """Arguments of `timm.create_model` that the weights file needs."""
    file: str = ""
    """Name of the local weights file; empty for timm's hub or no weights."""
    digest: str = ""
    """Digest of that file's bytes, or of the run that `init_from` names."""
