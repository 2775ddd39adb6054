"""From names to networks, losses, optimizers and schedules.

The only module that imports timm. It must not read a run or train.

Shapes: B batch, H height, W width, C classes (or channels of an image), D
features.
"""

from __future__ import annotations

import copy
import math
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import timm
import torch
from huggingface_hub import constants as hub
from torch import Tensor, nn

from loupe.errors import RecipeError, WeightsError, shorten, suggest
from loupe.images import IMAGENET_MEAN, IMAGENET_STD, InputSpec
from loupe.recipe import FullStage, Network, Recipe, Schedule, Start
from loupe.weights import (
    digest_file,
    explain_failed,
    find_weights,
    locate_start,
    read_header,
    shorten_error,
)

# What timm and torch raise for settings and weights that do not fit a network.
_FAILURES = (OSError, LookupError, RuntimeError, AssertionError, TypeError, ValueError)


_MOST_MISSING = 0.05
"""Share of the parameters that a weights file may lack (a new norm before the head)."""


class Classifier(nn.Module):
    """Normalisation, backbone and head in one: prepared pixels in, logits out.

    Normalising inside the network leaves one place for it, on every path.

    Args:
        backbone: Maps (B, 3, H, W) to pooled (B, D) features.
        features: D.
        classes: Number of columns C.
        spec: How images are prepared; its mean and deviation are used here.
        dropout: Share of features dropped while training.

    Shape:
        images_BHWC: uint8. Logits: (B, C) float32.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self, backbone: nn.Module, features: int, classes: int, spec: InputSpec, dropout: float
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features, classes)
        shape = (1, spec.channels, 1, 1)
        self.register_buffer("mean", torch.tensor(spec.mean).reshape(shape) * 255)
        self.register_buffer("scale", 1 / (torch.tensor(spec.std).reshape(shape) * 255))

    def features(self, images_BHWC: Tensor) -> Tensor:
        """Return pooled features, (B, D)."""
        # A permuted NHWC tensor is already channels_last: nothing is copied.
        images_BCHW = images_BHWC.permute(0, 3, 1, 2).float()
        pooled: Tensor = self.backbone((images_BCHW - self.mean) * self.scale)
        return pooled

    def classify(self, features_BD: Tensor) -> Tensor:
        """Return the logits of pooled features, in float32 even under AMP."""
        with torch.autocast(features_BD.device.type, enabled=False):
            logits: Tensor = self.head(self.dropout(features_BD.float()))
        return logits

    def forward(self, images_BHWC: Tensor) -> Tensor:
        """Return the logits of prepared images."""
        return self.classify(self.features(images_BHWC))


def knows_network(name: str) -> bool:
    """Return True if timm has a network of this name, with or without a tag."""
    return bool(timm.is_model(name.partition(".")[0]))


def find_start(recipe: Recipe, weights: Path | None) -> Start:
    """Look up which network and which weights a recipe starts from.

    Args:
        recipe: Its `network`; a `start` found earlier is returned as it is.
        weights: Local weights folder.

    Raises:
        RecipeError: neither timm nor a local file has such a network.
    """
    if recipe.start.architecture:
        return recipe.start
    network = recipe.network
    file = find_weights(network.name, weights) if network.pretrained else None
    name = file.architecture if file else network.name
    if not knows_network(name):
        base = name.partition(".")[0]
        raise RecipeError(
            f"network.name is {network.name!r}: timm {timm.__version__} has no network {base!r}"
            f"{suggest(base, timm.list_models())}."
        )
    if file is None:
        return Start(architecture=name)
    digest = digest_file(file.path)
    return Start(architecture=name, kwargs=dict(file.kwargs), file=file.path.name, digest=digest)


def resolve_input(recipe: Recipe, weights: Path | None) -> InputSpec:
    """Say how images are prepared: the recipe's size, the weights' normalisation.

    Args:
        recipe: Its `input` and `network` are used.
        weights: Local weights folder. A file's own mean and deviation win; next
            comes what timm has under the file's name, then under the network's.

    Raises:
        RecipeError: timm has no such network.
    """
    start = find_start(recipe, weights)
    file = find_weights(recipe.network.name, weights) if start.file else None
    if file is not None and file.mean and file.std:
        mean, std = file.mean, file.std
    else:
        # Tags of one network may differ: the most exact name is looked up first.
        base = start.architecture.partition(".")[0]
        names = (Path(start.file).stem, recipe.network.name, base)
        known = (_published(name) for name in names if name.partition(".")[0] == base)
        cfg = next(filter(None, known), None)
        mean, std = (cfg.mean, cfg.std) if cfg else (IMAGENET_MEAN, IMAGENET_STD)
    channels = recipe.input.channels
    return InputSpec(
        height=recipe.input.size[0],
        width=recipe.input.size[1],
        resize=recipe.input.resize,
        filter=recipe.input.filter,
        channels=channels,
        mean=_match_channels(mean, channels),
        std=_match_channels(std, channels),
    )


def build_network(
    recipe: Recipe, spec: InputSpec, classes: int, *, weights: Path | None, load: bool = True
) -> Classifier:
    """Build a network; its initial values follow from the recipe's seed alone.

    Args:
        recipe: Names the network.
        spec: Input size, channels and normalisation.
        classes: Number of columns C.
        weights: Local weights folder.
        load: Load pretrained weights if the recipe asks for them; False when
            trained weights are loaded next.

    Raises:
        WeightsError: weights cannot be had, do not fit the network, or are not
            those that the run started from.
        RecipeError: the network is unknown, or does not take a setting.
    """
    network = recipe.network
    start = find_start(recipe, weights)
    options = _timm_options(network, spec, start)
    if load and network.pretrained:
        options |= _pretrained_options(start, weights)
    # Forked so that the caller's random state is untouched.
    with torch.random.fork_rng(devices=[]), _naming_settings(network, start, spec):
        torch.manual_seed(recipe.seed)
        backbone = _create_backbone(network, start, options, spec, weights)
        if load and network.pretrained and start.file:
            _check_names(backbone, (weights or Path()) / start.file)
        features = _count_features(backbone, spec)
        return Classifier(backbone, features, classes, spec, network.dropout)


def build_optimizer(recipe: Recipe, stage: FullStage, network: Classifier) -> torch.optim.Optimizer:
    """Return the optimizer of one stage.

    Biases, norms and what timm names so (position embeddings) are not decayed.

    Args:
        recipe: Optimizer settings.
        stage: May set its own rate.
        network: Its parameters that ask for gradients are moved.
    """
    rate = stage.lr or recipe.optimizer.lr
    decay = recipe.optimizer.weight_decay
    spared = _undecayed(network)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            factor = stage.head_lr_factor if name.startswith("head.") else 1.0
            key = (rate * factor, 0.0 if name in spared else decay)
            groups.setdefault(key, []).append(parameter)
    return torch.optim.AdamW(
        [{"params": held, "lr": lr, "weight_decay": d} for (lr, d), held in groups.items()]
    )


def rate_factor(schedule: Schedule, step: int, steps: int) -> float:
    """Return the learning rate at a step as a share of the peak.

    Linear warm-up over the first `warmup x steps` steps (the first step already
    moves), then the cosine from 1 to `floor`, or 1 throughout.

    Args:
        schedule: Shape of the curve.
        step: From 0.
        steps: Steps of the stage in all.

    References:
        Loshchilov & Hutter (2017), SGDR, arXiv:1608.03983, eq. 5 (no restarts).

    Examples:
        >>> [round(rate_factor(Schedule(warmup=0.5), s, 4), 3) for s in range(4)]
        [0.5, 1.0, 1.0, 0.5]
    """
    warm = int(schedule.warmup * steps)
    if step < warm:
        return (step + 1) / warm
    if schedule.name == "constant":
        return 1.0
    progress = (step - warm) / max(1, steps - warm)
    return schedule.floor + (1 - schedule.floor) * 0.5 * (1 + math.cos(math.pi * progress))


def autocast(recipe: Recipe, device: str) -> torch.autocast:
    """Return the mixed-precision context of a recipe's engine."""
    kind = device.partition(":")[0]
    return torch.autocast(kind, torch.bfloat16, enabled=recipe.engine.precision == "bf16")


def freeze_norms(network: nn.Module) -> None:
    """Put every BatchNorm into evaluation mode: its statistics stay as they are."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001 (no public base)
            module.eval()


class MovingAverage:
    """The exponential moving average of a network's weights (EMA).

    The decay is warmed up as min(decay, (1 + step) / (10 + step)), so that the
    start weights are soon forgotten.

    Args:
        network: Followed from its present weights.
        decay: Per step, in [0, 1); 0 follows the network itself.

    References:
        TensorFlow's ExponentialMovingAverage (num_updates) for the warm-up.
    """

    def __init__(self, network: Classifier, decay: float) -> None:
        self.decay = decay
        self.step = 0
        self.network: Classifier = copy.deepcopy(network).eval()
        self.network.requires_grad_(requires_grad=False)

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move the average towards the network's present weights."""
        self.step += 1
        keep = min(self.decay, (1 + self.step) / (10 + self.step)) if self.decay else 0.0
        mine, theirs = self.network.state_dict(), network.state_dict()
        floats = [k for k, v in mine.items() if v.dtype.is_floating_point]
        torch._foreach_lerp_([mine[k] for k in floats], [theirs[k] for k in floats], 1 - keep)
        for key in mine.keys() - set(floats):
            mine[key].copy_(theirs[key])


def _undecayed(network: Classifier) -> set[str]:
    named: set[str] = getattr(network.backbone, "no_weight_decay", set)()
    vectors = {name for name, value in network.named_parameters() if value.ndim <= 1}
    return vectors | {f"backbone.{name}" for name in named}


def _published(name: str) -> Any:
    """Return timm's configuration of a network; None if it does not know the tag."""
    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError:
        return None


def _match_channels(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    if len(values) == channels:
        return tuple(values)
    return (sum(values) / len(values),) * channels


def _timm_options(network: Network, spec: InputSpec, start: Start) -> dict[str, Any]:
    options: dict[str, Any] = {"num_classes": 0, "in_chans": spec.channels, "pretrained": False}
    if network.pool != "default":
        options["global_pool"] = network.pool
    if network.drop_path:
        options["drop_path_rate"] = network.drop_path
    return options | start.kwargs


def _pretrained_options(start: Start, weights: Path | None) -> dict[str, Any]:
    if not start.file:
        return {"pretrained": True}
    path = str(locate_start(start.file, start.digest, weights))
    return {"pretrained": True, "pretrained_cfg_overlay": {"file": path}}


@contextmanager
def _naming_settings(network: Network, start: Start, spec: InputSpec) -> Iterator[None]:
    """Turn what timm and torch raise for settings that do not fit into our error."""
    try:
        yield
    except _FAILURES as error:
        cfg = _published(start.architecture)
        usual = f"; it was published for {cfg.input_size[1]}" if cfg else ""
        raise RecipeError(
            f"network {start.architecture!r} cannot be built with input.size {spec.height} x "
            f"{spec.width}, network.pool {network.pool!r} and network.drop_path "
            f"{network.drop_path} ({shorten_error(error)}). Choose a size that it takes (--set "
            f"input.size=N{usual}), or leave out a setting that it does not have."
        ) from None


def _create_backbone(
    network: Network, start: Start, options: dict[str, Any], spec: InputSpec, weights: Path | None
) -> nn.Module:
    try:
        return _create_sized(start.architecture, options, spec)
    except _FAILURES as error:
        if not options["pretrained"]:
            raise
        # Settings are at fault if it fails without weights too, else the weights are.
        _create_sized(start.architecture, options | {"pretrained": False}, spec)
        raise WeightsError(explain_failed(error, network.name, start.file, weights)) from None


def _create_sized(name: str, options: dict[str, Any], spec: InputSpec) -> nn.Module:
    """Create a network; those with position embeddings are told the input size."""
    try:
        return _create(name, options | {"img_size": (spec.height, spec.width)})
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        return _create(name, options)


def _create(name: str, options: dict[str, Any]) -> nn.Module:
    from_hub = options["pretrained"] and "pretrained_cfg_overlay" not in options
    if from_hub and not _hub_resolves():
        # Without this the hub's client retries for most of a minute; files it
        # downloaded earlier are still found.
        hub.HF_HUB_OFFLINE = True
    module: nn.Module = timm.create_model(name, **options)
    return module


def _check_names(backbone: nn.Module, path: Path) -> None:
    """Refuse a file that does not hold the network: timm loads what fits and is silent."""
    held = read_header(path).names
    wanted = {name: value.numel() for name, value in backbone.named_parameters()}
    missing = {name: count for name, count in wanted.items() if name not in held}
    if sum(missing.values()) > _MOST_MISSING * sum(wanted.values()):
        raise WeightsError(
            f"{path}: {len(missing)} of the network's {len(wanted)} parameters are not in the "
            f"file ({shorten(list(missing), 3)}); it holds {shorten(sorted(held), 3)}. Expected "
            "timm's names; save the file with the command of the error that asks for weights."
        )


@torch.inference_mode()
def _count_features(backbone: nn.Module, spec: InputSpec) -> int:
    """Measured, because timm's `num_features` is not always what comes out."""
    blank = torch.zeros(1, spec.channels, spec.height, spec.width)
    features = int(backbone.eval()(blank).shape[1])
    backbone.train()
    return features


def _hub_resolves() -> bool:
    host = urlsplit(hub.ENDPOINT).hostname or ""
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return False
    return True
