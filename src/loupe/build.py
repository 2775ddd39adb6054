"""From names to networks: which weights, which input, which timm model.

The only module that imports timm. It must not read a run or train.

Shapes: B batch, H height, W width, C classes (or channels of an image), D
features.
"""

from __future__ import annotations

import socket
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import timm
import torch
from huggingface_hub import constants as hub
from torch import nn

from loupe.aliases import ALIASES, resolve_alias
from loupe.errors import RecipeError, WeightsError, shorten, suggest
from loupe.images import IMAGENET_MEAN, IMAGENET_STD, InputSpec
from loupe.networks import Classifier
from loupe.recipe import Recipe
from loupe.settings import Input, Network, Start
from loupe.weights import (
    WeightsFile,
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
_LARGEST_LEAST_SIDE = 128
"""Where the search for the smallest input of a network ends; the largest known is 75."""


def knows_network(name: str) -> bool:
    """Return True if timm has a network of this name, with or without a tag, or alias."""
    known = _name_in_timm(name)
    return bool(timm.is_model(known.partition(".")[0]))


def find_start(recipe: Recipe, weights: Path | None) -> Start:
    """Look up which network and which weights a recipe starts from.

    A name that timm has is timm's; else the usual names of `aliases` are tried.

    Args:
        recipe: Its `network`; a `start` found earlier is returned as it is.
        weights: Local weights folder.

    Raises:
        RecipeError: neither timm, nor the aliases, nor a local file has such a
            network.
    """
    if recipe.start.architecture:
        return recipe.start
    network = recipe.network
    file = _find_file(network.name, weights) if network.pretrained else None
    name = file.architecture if file else _name_in_timm(network.name)
    if not knows_network(name):
        base = name.partition(".")[0]
        raise RecipeError(
            f"network.name is {network.name!r}: timm {timm.__version__} has no network {base!r}"
            f"{suggest(base, [*timm.list_models(), *ALIASES]) or '.'}"
        )
    if file is None:
        return Start(architecture=name)
    digest = digest_file(file.path)
    return Start(architecture=name, kwargs=dict(file.kwargs), file=file.path.name, digest=digest)


def resolve_input(
    recipe: Recipe, weights: Path | None, *, image_size: tuple[int, int] | None = None
) -> InputSpec:
    """Say how images are prepared: the recipe's size, the weights' normalisation.

    Args:
        recipe: Its `input` and `network` are used.
        weights: Local weights folder. A file's own mean and deviation win; next
            comes what timm has under the file's name, then under the network's.
        image_size: Height and width that all images share, if they do; a size
            given as a factor, such as `x2`, needs it.

    Raises:
        RecipeError: timm has no such network; or the size is a factor and images
            have no size in common, or come out smaller than the crop.
    """
    start = find_start(recipe, weights)
    file = _find_file(recipe.network.name, weights) if start.file else None
    if file is not None and file.mean and file.std:
        mean, std = file.mean, file.std
    else:
        # Tags of one network may differ: the most exact name is looked up first.
        base = start.architecture.partition(".")[0]
        names = (Path(start.file).stem, _name_in_timm(recipe.network.name), base)
        known = (_published(name) for name in names if name.partition(".")[0] == base)
        cfg = next(filter(None, known), None)
        mean, std = (cfg.mean, cfg.std) if cfg else (IMAGENET_MEAN, IMAGENET_STD)
    height, width = _resolve_size(recipe.input, image_size)
    channels = recipe.input.channels
    return InputSpec(
        height=height,
        width=width,
        resize=recipe.input.resize,
        filter=recipe.input.filter,
        channels=channels,
        mean=_match_channels(mean, channels),
        std=_match_channels(std, channels),
        crop=recipe.input.crop,
    )


def _name_in_timm(name: str) -> str:
    """Return what timm calls a network: its own names as they are, then aliases.

    Names that timm has given up (`xception`) warn when built; they are not listed.
    """
    if timm.list_models(name.partition(".")[0]):
        return name
    return resolve_alias(name) or name


def _find_file(name: str, weights: Path | None) -> WeightsFile | None:
    return find_weights(name, weights) or find_weights(_name_in_timm(name), weights)


def _resolve_size(wanted: Input, image_size: tuple[int, int] | None) -> tuple[int, int]:
    """Turn a factor into pixels; `Input` itself has checked sizes given in pixels."""
    if not isinstance(wanted.size, str):
        return wanted.size
    if image_size is None:
        raise RecipeError(
            f"input.size is {wanted.size!r}, a factor of the images' size, but the images have "
            "no size in common. Give height and width: --set input.size=[224,224]."
        )
    factor = float(wanted.size.removeprefix("x"))
    height, width = (max(1, round(side * factor)) for side in image_size)
    if wanted.crop and (wanted.crop[0] > height or wanted.crop[1] > width):
        raise RecipeError(
            f"input.crop {wanted.crop[0]} x {wanted.crop[1]} is larger than the images, which "
            f"input.size {wanted.size!r} brings to {height} x {width}. Choose a smaller crop or a "
            "larger factor."
        )
    return height, width


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
        RecipeError: the network is unknown, or does not take a setting, or takes
            larger images only.
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
        features = _count_features(start.architecture, backbone, spec)
        return Classifier(backbone, features, classes, spec, network.head)


def autocast(recipe: Recipe, device: str) -> torch.autocast:
    """Return the mixed-precision context of a recipe's engine."""
    kind = device.partition(":")[0]
    precision = recipe.engine.precision
    half = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(kind, half, enabled=precision in {"fp16", "bf16"})


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
    except RecipeError:
        raise
    except _FAILURES as error:
        cfg = _published(start.architecture)
        usual = f"; it was published for {cfg.input_size[1]}" if cfg else ""
        raise RecipeError(
            f"network {start.architecture!r} cannot be built with {_spell_size(spec)}, "
            f"network.pool {network.pool!r} and network.drop_path {network.drop_path} "
            f"({shorten_error(error)}). Choose a size that it takes (--set {_size_key(spec)}=N"
            f"{usual}), or leave out a setting that it does not have."
        ) from None


def _size_key(spec: InputSpec) -> str:
    return "input.crop" if spec.crop else "input.size"


def _spell_size(spec: InputSpec) -> str:
    return f"{_size_key(spec)} {spec.network_height} x {spec.network_width}"


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
        name = _name_in_timm(network.name)
        raise WeightsError(explain_failed(error, name, start.file, weights)) from None


def _create_sized(name: str, options: dict[str, Any], spec: InputSpec) -> nn.Module:
    """Create a network; those with position embeddings are told the input size."""
    try:
        return _create(name, options | {"img_size": (spec.network_height, spec.network_width)})
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
def _count_features(name: str, backbone: nn.Module, spec: InputSpec) -> int:
    """Measured, because timm's `num_features` is not always what comes out."""
    blank = torch.zeros(1, spec.channels, spec.network_height, spec.network_width)
    try:
        features = int(backbone.eval()(blank).shape[1])
    except _FAILURES:
        least = _find_least_side(backbone, spec)
        if least is None:
            raise
        raise RecipeError(
            f"network {name!r} takes images of {least} x {least} pixels and more; "
            f"{_spell_size(spec)} is too small. Choose a larger size, such as --set "
            f"{_size_key(spec)}={least}, or another network."
        ) from None
    backbone.train()
    return features


def _find_least_side(backbone: nn.Module, spec: InputSpec) -> int | None:
    """Search the smallest square input; None if it is not the size that is too small."""

    def takes(side: int) -> bool:
        try:
            backbone(torch.zeros(1, spec.channels, side, side))
        except _FAILURES:
            return False
        return True

    first = min(spec.network_height, spec.network_width) + 1
    sides = range(first, max(first, _LARGEST_LEAST_SIDE))
    least = first + bisect_left(sides, True, key=takes)
    # Networks that want multiples of a number refuse the next side again.
    return least if least in sides and takes(least + 1) else None


def _hub_resolves() -> bool:
    host = urlsplit(hub.ENDPOINT).hostname or ""
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return False
    return True
