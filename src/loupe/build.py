"""From names to networks, losses, optimizers and schedules.

The only module that imports timm. It must not read a run or train.

Shapes: B batch, H height, W width, C classes (or channels of an image), D
features.
"""

from __future__ import annotations

import copy
import math
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import timm
import torch
from huggingface_hub import constants as hub
from torch import Tensor, nn
from torch.nn import functional

from loupe.errors import RecipeError, WeightsError, suggest
from loupe.images import IMAGENET_MEAN, IMAGENET_STD, InputSpec
from loupe.recipe import FullStage, Loss, Network, Recipe, Schedule, Start
from loupe.weights import digest_file, explain_missing, find_weights

LossFunction = Callable[[Tensor, Tensor, Tensor | None], Tensor]


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
    base = name.partition(".")[0]
    if not timm.is_model(base):
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
        weights: Local weights folder; a file's own mean and deviation win over
            timm's configuration.

    Raises:
        RecipeError: timm has no such network.
    """
    start = find_start(recipe, weights)
    published = timm.get_pretrained_cfg(start.architecture)
    mean, std = (published.mean, published.std) if published else (IMAGENET_MEAN, IMAGENET_STD)
    file = find_weights(recipe.network.name, weights) if start.file else None
    if file is not None and file.mean and file.std:
        mean, std = file.mean, file.std
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
        WeightsError: weights were asked for and cannot be had, or the file is
            not the one that the run started from.
        RecipeError: the network is unknown, or does not take the input size.
    """
    network = recipe.network
    start = find_start(recipe, weights)
    options = _timm_options(network, spec, start)
    if load and network.pretrained:
        options |= _pretrained_options(network, start, weights)
    # Forked so that the caller's random state is untouched.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        try:
            backbone = _create_backbone(start.architecture, options, spec)
        except (OSError, LookupError) as error:
            detail = str(error).strip().partition("\n")[0][:200]
            raise WeightsError(f"{explain_missing(network.name, weights)}\n({detail})") from None
        return Classifier(backbone, _count_features(backbone, spec), classes, spec, network.dropout)


def build_loss(loss: Loss, *, exclusive: bool, class_weights: Tensor | None) -> LossFunction:
    """Return the loss as a function of (logits, targets, row weights).

    Args:
        loss: Name and label smoothing.
        exclusive: Softmax (True) or a sigmoid per column.
        class_weights: (C,) from `balance_classes`, or None.

    Returns:
        A function of logits (B, C), targets (B, C) in [0, 1] and optional
        weights (B,) that gives the mean loss.

    Raises:
        RecipeError: cross-entropy for columns that stand alone.
    """
    name = loss.name if loss.name != "auto" else ("cross_entropy" if exclusive else "bce")
    if name == "cross_entropy" and not exclusive:
        raise RecipeError(
            "loss.name is 'cross_entropy', but the table's classes are not exclusive; "
            "use 'bce' (or 'auto')."
        )
    per_row = _cross_entropy if name == "cross_entropy" else _binary_cross_entropy
    smoothing = loss.label_smoothing

    def compute(logits: Tensor, targets: Tensor, row_weights: Tensor | None) -> Tensor:
        values = per_row(logits, _smooth(targets, smoothing, exclusive=exclusive), class_weights)
        return values.mean() if row_weights is None else (values * row_weights).mean()

    return compute


def balance_classes(targets: Tensor, *, exclusive: bool) -> Tensor:
    """Return class weights that make rare classes count as much as common ones.

    Exclusive columns: n / (C x n_class), as scikit-learn's `balanced`. Columns
    that stand alone: the weight of a positive, n_negative / n_positive.

    Args:
        targets: (N, C) of the training rows.
        exclusive: Softmax or sigmoids.

    Returns:
        (C,) float32.
    """
    count = targets.sum(dim=0).clamp(min=1)
    rows = targets.shape[0]
    return rows / (targets.shape[1] * count) if exclusive else (rows - count).clamp(min=1) / count


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


def _pretrained_options(network: Network, start: Start, weights: Path | None) -> dict[str, Any]:
    if not start.file:
        return {"pretrained": True}
    path = (weights or Path()) / start.file
    if not path.is_file() or digest_file(path) != start.digest:
        raise WeightsError(
            f"{network.name} started from {start.file} (digest {start.digest}); {path} is "
            f"{'another file' if path.is_file() else 'not there'}. Name the folder that holds it "
            "with --weights, or train into another --out."
        )
    return {"pretrained": True, "pretrained_cfg_overlay": {"file": str(path)}}


def _create_backbone(name: str, options: dict[str, Any], spec: InputSpec) -> nn.Module:
    """Create the backbone; networks with position embeddings are told the input size."""
    sized = options | {"img_size": (spec.height, spec.width)}
    try:
        return _create(name, sized)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        return _create(name, options)
    except (RuntimeError, AssertionError) as error:
        raise RecipeError(f"network {name!r} could not be built: {error}") from None


def _create(name: str, options: dict[str, Any]) -> nn.Module:
    from_hub = options["pretrained"] and "pretrained_cfg_overlay" not in options
    if from_hub and not _hub_resolves():
        # Without this the hub's client retries for most of a minute; files it
        # downloaded earlier are still found.
        hub.HF_HUB_OFFLINE = True
    module: nn.Module = timm.create_model(name, **options)
    return module


@torch.inference_mode()
def _count_features(backbone: nn.Module, spec: InputSpec) -> int:
    """Measured, because timm's `num_features` is not always what comes out."""
    training = backbone.training
    blank = torch.zeros(1, spec.channels, spec.height, spec.width)
    try:
        return int(backbone.eval()(blank).shape[1])
    finally:
        backbone.train(training)


def _hub_resolves() -> bool:
    host = urlsplit(hub.ENDPOINT).hostname or ""
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return False
    return True


def _smooth(targets: Tensor, smoothing: float, *, exclusive: bool) -> Tensor:
    if not smoothing:
        return targets
    other = 1 / targets.shape[1] if exclusive else 0.5
    return targets * (1 - smoothing) + smoothing * other


def _cross_entropy(logits: Tensor, targets: Tensor, class_weights: Tensor | None) -> Tensor:
    log_probs = functional.log_softmax(logits.float(), dim=1)
    weighted = targets if class_weights is None else targets * class_weights
    return -(weighted * log_probs).sum(dim=1)


def _binary_cross_entropy(logits: Tensor, targets: Tensor, class_weights: Tensor | None) -> Tensor:
    return functional.binary_cross_entropy_with_logits(
        logits.float(), targets, pos_weight=class_weights, reduction="none"
    ).mean(dim=1)
