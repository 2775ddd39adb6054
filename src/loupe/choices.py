"""The kinds of loss, optimizer and schedule that a recipe can choose from.

A kind has only the fields it uses, so that a setting without effect is an error. It
must not read files, or import torch: settings are data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, Tag, model_validator

from loupe.parts import (
    FIRST,
    SECOND,
    Count,
    NotNegative,
    Part,
    Positive,
    Share,
    Whole,
    either,
    one_of,
)

# Losses -------------------------------------------------------------------------------------------


def _as_text(value: object) -> object:
    """Let a class be named by a number, as YAML reads ``0: 2.5``."""
    return str(value) if type(value) is int else value


ClassName = Annotated[str, BeforeValidator(_as_text)]
ClassWeights = Annotated[
    Annotated[dict[ClassName, Positive], Tag(FIRST)]
    | Annotated[Literal["none", "balanced"], Tag(SECOND)],
    either(lambda value: isinstance(value, Mapping)),
]


class _Loss(Part):
    label_smoothing: Share = 0.0
    """Share of the target spread over all classes."""
    class_weights: ClassWeights = "none"
    """`balanced`: a class counts n / (C x n_class), C being the classes that have rows;
    for columns on their own a positive counts n_negative / n_positive. Or the weight
    of each class by name; classes not named weigh 1."""


class AutoLoss(_Loss):
    """Cross-entropy for exclusive classes, else binary cross-entropy."""

    name: Literal["auto"] = "auto"


class CrossEntropy(_Loss):
    """Softmax cross-entropy; exclusive classes only."""

    name: Literal["cross_entropy"] = "cross_entropy"


class BinaryCrossEntropy(_Loss):
    """A sigmoid and binary cross-entropy for each column, averaged over columns."""

    name: Literal["bce"] = "bce"


class Focal(_Loss):
    """Cross-entropy that counts easy rows less: (1 - p)^gamma."""

    name: Literal["focal"] = "focal"
    gamma: NotNegative = 2.0
    """How much less; 0 is plain cross-entropy."""


class BiTempered(_Loss):
    """Bi-tempered logistic loss, bounded for outliers and wrong labels; exclusive classes."""

    name: Literal["bi_tempered"] = "bi_tempered"
    t1: Annotated[float, Field(ge=0, le=1)] = 0.8
    """Temperature of the logarithm; below 1 the loss is bounded."""
    t2: Annotated[float, Field(ge=1, le=8)] = 1.4
    """Temperature of the softmax; above 1 its tail is heavy."""


class Taylor(_Loss):
    """Taylor expansion of cross-entropy, robust to wrong labels; exclusive classes."""

    name: Literal["taylor"] = "taylor"
    terms: Count = 2
    """Terms of the series; 1 is half the absolute error, many are cross-entropy."""


class SymmetricCrossEntropy(_Loss):
    """alpha x cross-entropy + beta x reverse cross-entropy; exclusive classes."""

    name: Literal["symmetric"] = "symmetric"
    alpha: NotNegative = 0.1
    """Weight of cross-entropy."""
    beta: NotNegative = 1.0
    """Weight of reverse cross-entropy."""
    log_zero: Annotated[float, Field(lt=0)] = -4.0
    """What stands for log 0 in the reverse part."""


Loss = Annotated[
    Annotated[AutoLoss, Tag("auto")]
    | Annotated[CrossEntropy, Tag("cross_entropy")]
    | Annotated[BinaryCrossEntropy, Tag("bce")]
    | Annotated[Focal, Tag("focal")]
    | Annotated[BiTempered, Tag("bi_tempered")]
    | Annotated[Taylor, Tag("taylor")]
    | Annotated[SymmetricCrossEntropy, Tag("symmetric")],
    one_of("name", "auto"),
]
"""What training minimises."""


# Optimizers and schedules -------------------------------------------------------------------------


class _Optimizer(Part):
    lr: Positive = 1e-3
    """Peak learning rate; a stage may set its own."""
    clip_norm: Positive | None = 1.0
    """Largest norm of a step's whole gradient; null for no limit."""
    clip_norm_each: Positive | None = None
    """Largest norm of the gradient of each tensor by itself (Keras' `clipnorm`)."""
    clip_value: Positive | None = None
    """Largest magnitude of any entry of the gradient."""
    lr_decay: NotNegative = 0.0
    """The rate is divided by 1 + lr_decay x steps done in the stage (Keras' `decay`)."""


class AdamW(_Optimizer):
    """Adam with decoupled weight decay."""

    name: Literal["adamw"] = "adamw"
    weight_decay: NotNegative = 0.02
    """Decoupled decay; biases and normalisation layers are spared."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """Decay of the running mean and of the running square of the gradient."""
    epsilon: Positive = 1e-8
    """Added to the denominator."""


class Adam(_Optimizer):
    """Adam; weight decay is an L2 term of the gradient."""

    name: Literal["adam"] = "adam"
    weight_decay: NotNegative = 0.0
    """L2 term; biases and normalisation layers are spared."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """Decay of the running mean and of the running square of the gradient."""
    epsilon: Positive = 1e-8
    """Added to the denominator (Keras' default is 1e-7)."""
    epsilon_hat: bool = False
    """Add `epsilon` to the root before its bias is corrected (Kingma & Ba, section 2), as
    Keras does: a large one then weighs more in the first steps."""


class RAdam(_Optimizer):
    """Rectified Adam: the first steps, whose variance is unknown, are plain momentum."""

    name: Literal["radam"] = "radam"
    weight_decay: NotNegative = 0.0
    """L2 term; biases and normalisation layers are spared."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """Decay of the running mean and of the running square of the gradient."""
    epsilon: Positive = 1e-8
    """Added to the denominator."""


class Sgd(_Optimizer):
    """Stochastic gradient descent with momentum."""

    name: Literal["sgd"] = "sgd"
    weight_decay: NotNegative = 0.0
    """L2 term; biases and normalisation layers are spared."""
    momentum: Share = 0.9
    """Share of the last step that is kept."""
    nesterov: bool = False
    """Look ahead along the momentum."""

    @model_validator(mode="after")
    def _check_nesterov(self) -> Sgd:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov looks ahead along the momentum, which is 0")
        return self


Optimizer = Annotated[
    Annotated[AdamW, Tag("adamw")]
    | Annotated[Adam, Tag("adam")]
    | Annotated[RAdam, Tag("radam")]
    | Annotated[Sgd, Tag("sgd")],
    one_of("name", "adamw"),
]
"""How the weights are moved."""


class Cosine(Part):
    """Linear warm-up, then half a cosine from the peak to the floor."""

    name: Literal["cosine"] = "cosine"
    warmup: Share = 0.1
    """Share of the stage's steps in which the rate rises linearly from 0."""
    floor: Share = 0.0
    """Lowest rate as a share of the peak (alpha)."""


class Constant(Part):
    """Linear warm-up, then the peak."""

    name: Literal["constant"] = "constant"
    warmup: Share = 0.1
    """Share of the stage's steps in which the rate rises linearly from 0."""


class Ramp(Part):
    """Ramp up, sustain, decay exponentially: one rate for each epoch."""

    name: Literal["ramp"] = "ramp"
    start_lr: NotNegative = 1e-5
    """Rate of epoch 0."""
    min_lr: NotNegative = 1e-5
    """Rate that the decay falls towards."""
    factor: Positive = 1.0
    """The peak is `lr` times this (the number of replicas, in code written for them)."""
    ramp_epochs: Whole = 5
    """Epochs from the start rate to the peak."""
    sustain_epochs: Whole = 0
    """Epochs at the peak before the decay."""
    decay: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Factor of each epoch after that."""


class OneCycle(Part):
    """Up to the peak and far below the start, both along half a cosine."""

    name: Literal["one_cycle"] = "one_cycle"
    warmup: Share = 0.3
    """Share of the stage's steps that rise."""
    start_divisor: Positive = 25.0
    """The first rate is the peak divided by this."""
    final_divisor: Positive = 1e4
    """The last rate is the first divided by this."""


class Plateau(Part):
    """Lower the rate when a watched metric stops improving."""

    name: Literal["plateau"] = "plateau"
    metric: str = "loss"
    """`loss`, or any metric of the history, such as `f1_macro` or `recall/crack`."""
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """The rate is multiplied by this."""
    patience: Whole = 3
    """Epochs without improvement that are borne; the next one lowers the rate."""
    cooldown: Whole = 0
    """Epochs after a change in which none is counted."""
    min_delta: NotNegative = 0.0
    """Least change that counts as an improvement."""
    min_lr: NotNegative = 0.0
    """Lowest rate."""


class Listed(Part):
    """One rate for each epoch, written out; `lr` of the stage is then without meaning."""

    name: Literal["listed"] = "listed"
    rates: Annotated[tuple[Positive, ...], Field(min_length=1)]
    """Rate of each epoch; the last one holds on."""


Schedule = Annotated[
    Annotated[Cosine, Tag("cosine")]
    | Annotated[Constant, Tag("constant")]
    | Annotated[Ramp, Tag("ramp")]
    | Annotated[OneCycle, Tag("one_cycle")]
    | Annotated[Plateau, Tag("plateau")]
    | Annotated[Listed, Tag("listed")],
    one_of("name", "cosine"),
]
"""How the learning rate moves within one stage."""
