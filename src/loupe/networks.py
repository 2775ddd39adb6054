"""The network as Loupe has it, and which of its layers stay as they are.

`Net` is what classifiers share with segmenters (`segmenters`): a backbone behind its
normalisation. It must not know recipes, where weights come from, or timm.

Shapes: B batch, H height, W width, C classes (or channels of an image), D
features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from loupe.errors import RecipeError, shorten, suggest
from loupe.images import InputSpec
from loupe.settings import Head

_TRUNCATED_STD = 0.87962566103423978
"""Deviation of a standard normal distribution that is cut off at two deviations."""


class MaskLogits(NamedTuple):
    """What a segmenter gives.

    Attributes:
        masks: (B, C, H, W) float32, at the size of the images.
        classes: (B, C) float32, or None without a class head.
    """

    masks: Tensor
    classes: Tensor | None


class Net(nn.Module):
    """A backbone behind its normalisation; what follows the backbone is a kind's own.

    Normalising inside the network leaves one place for it, on every path.

    Args:
        backbone: The layers that pretrained weights are for.
        spec: How images are prepared; its mean and deviation are used here.

    Attributes:
        fixed: Names of the parameters that never train, as timm has decided.

    Shape:
        images_BHWC: uint8, or floats from 0 to 255 (mixed images).
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, backbone: nn.Module, spec: InputSpec) -> None:
        super().__init__()
        self.backbone = backbone
        still = (name for name, value in backbone.named_parameters() if not value.requires_grad)
        self.fixed = frozenset(f"backbone.{name}" for name in still)
        shape = (1, spec.channels, 1, 1)
        self.register_buffer("mean", torch.tensor(spec.mean).reshape(shape) * 255)
        self.register_buffer("scale", 1 / (torch.tensor(spec.std).reshape(shape) * 255))

    def normalise(self, images_BHWC: Tensor) -> Tensor:
        """Return what the backbone is given, (B, C, H, W)."""
        # A permuted NHWC tensor is already channels_last: nothing is copied.
        images_BCHW = images_BHWC.permute(0, 3, 1, 2).float()
        return (images_BCHW - self.mean) * self.scale

    def penalty(self) -> Tensor:
        """Return what the loss of a batch is raised by; nothing, if a kind has no penalty."""
        return self.mean.new_zeros(())


class Classifier(Net):
    """Normalisation, backbone and head in one: prepared pixels in, logits out.

    The last layer is `head`; what stands between it and the pooled features is `hidden`.

    Args:
        backbone: Maps (B, 3, H, W) to pooled (B, D) features.
        features: D.
        classes: Number of columns C.
        spec: How images are prepared.
        head: The layers after pooling.

    Shape:
        Logits: (B, C) float32.
    """

    def __init__(
        self, backbone: nn.Module, features: int, classes: int, spec: InputSpec, head: Head
    ) -> None:
        super().__init__(backbone, spec)
        self.hidden = _build_hidden(features, head)
        self.dropout = nn.Dropout(head.dropout)
        self.head = nn.Linear(head.widths[-1] if head.widths else features, classes)
        self.l2 = head.l2
        inits = {"he_normal": _init_he_normal, "glorot_uniform": _init_glorot_uniform}
        if head.init in inits:
            for dense in (*_dense_layers(self.hidden), self.head):
                inits[head.init](dense)

    def features(self, images_BHWC: Tensor) -> Tensor:
        """Return pooled features, (B, D)."""
        pooled: Tensor = self.backbone(self.normalise(images_BHWC))
        return pooled

    def classify(self, features_BD: Tensor) -> Tensor:
        """Return the logits of pooled features, in float32 even under AMP."""
        with torch.autocast(features_BD.device.type, enabled=False):
            logits: Tensor = self.head(self.dropout(self.hidden(features_BD.float())))
        return logits

    def forward(self, images_BHWC: Tensor) -> Tensor:
        """Return the logits of prepared images."""
        return self.classify(self.features(images_BHWC))

    def penalty(self) -> Tensor:
        """Return what the loss of a batch is raised by: `head.l2` x sum of squares.

        It is taken over the kernels of the dense layers before the last one, biases
        spared, as Keras' `kernel_regularizer=l2(x)` of those layers does.
        """
        total = self.head.weight.new_zeros(())
        if self.l2:
            for dense in _dense_layers(self.hidden):
                total = total + self.l2 * dense.weight.square().sum()
        return total


def freeze_norms(network: nn.Module) -> None:
    """Put every BatchNorm into evaluation mode: its statistics stay as they are.

    Args:
        network: The backbone; a BatchNorm in the head has no statistics to start from.
    """
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001 (no public base)
            module.eval()


def freeze_layers(network: Net, names: Sequence[str]) -> tuple[nn.Module, ...]:
    """Let gradients go to all layers but the named ones, which are put into evaluation mode.

    Layers that were frozen before and are not named are let go, except for what timm
    itself keeps fixed.

    Args:
        network: Its parameters' `requires_grad` is set.
        names: `backbone`, or names within the backbone as timm has them: `blocks.0`
            stands for all that is in it. Names of single parameters do as well.

    Returns:
        The frozen modules; `network.train()` wakes them, so put them into `eval()`
        after it: statistics, dropout and stochastic depth then rest as well.

    Raises:
        RecipeError: names that the backbone does not have, all of them.
    """
    modules = {name or "backbone": module for name, module in network.backbone.named_modules()}
    parameters = dict(network.backbone.named_parameters())
    unknown = [name for name in names if name not in modules and name not in parameters]
    if unknown:
        known = [*modules, *parameters]
        found = ", ".join(f"{name!r}{suggest(name, known).rstrip('?')}" for name in unknown)
        raise RecipeError(
            f"freeze names layers that the network does not have: {found}. Its layers are "
            f"backbone (all of them), {shorten([k for k, _ in network.backbone.named_children()])}."
        )
    frozen = tuple(modules[name] for name in names if name in modules)
    for name, parameter in network.named_parameters():
        parameter.requires_grad = name not in network.fixed
    for module in frozen:
        module.eval().requires_grad_(requires_grad=False)
    for name in set(names) & parameters.keys():
        parameters[name].requires_grad = False
    return frozen


def _build_hidden(features: int, head: Head) -> nn.Sequential:
    layers: list[nn.Module] = [nn.BatchNorm1d(features)] if head.batch_norm else []
    for inputs, outputs in zip((features, *head.widths), head.widths, strict=False):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers)


def _dense_layers(layers: nn.Sequential) -> list[nn.Linear]:
    return [layer for layer in layers if isinstance(layer, nn.Linear)]


def _init_glorot_uniform(layer: nn.Linear) -> None:
    """Draw as Keras' GlorotUniform does; biases from 0."""
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)


def _init_he_normal(layer: nn.Linear) -> None:
    """Draw as Keras' HeNormal: variance 2 / inputs after the cut at two deviations.

    Keras: VarianceScaling(2, "fan_in", "truncated_normal"); He et al. (2015),
    arXiv:1502.01852, eq. 10.
    """
    std = (2 / layer.in_features) ** 0.5 / _TRUNCATED_STD
    nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
    nn.init.zeros_(layer.bias)
