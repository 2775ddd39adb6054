"""Networks that draw masks: an encoder by any name, a decoder, and a class head beside it.

The only module that imports segmentation-models-pytorch. It must not read a run,
train, or know tables.

Shapes: B batch, H height, W width, C classes (or channels of an image).
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.nn import functional

from loupe.build import build_network, find_start, knows_network
from loupe.errors import InputError, RecipeError, WeightsError, shorten, suggest
from loupe.images import InputSpec
from loupe.maskchoices import Decoder
from loupe.networks import MaskLogits, Net
from loupe.recipe import Recipe
from loupe.settings import Network, Start
from loupe.weights import shorten_error

OWN = "smp-"
"""Prefix of encoders that are segmentation-models-pytorch's own, where timm has the name too."""
_FROM_TIMM = "tu-"  # what that library calls an encoder of timm
_NON_COMMERCIAL = "mit_b"
"""Mix transformers: that file alone is not under the library's MIT licence."""
_MULTIPLE = 32
"""The deepest feature map is 32 times smaller; decoders need sides that this divides."""
_TRIAL_SIDE = 128
"""Of the picture that a new network is tried with: enough for all that were tried."""
_FAILURES = (OSError, LookupError, RuntimeError, AssertionError, TypeError, ValueError)
# What the two libraries raise for settings and sizes that do not fit.


class Segmenter(Net):
    """Normalisation, encoder, decoder and heads in one: prepared pixels in, logits out.

    Images of any size: sides that are no multiples of 32 are extended evenly on both
    ends by their outermost pixels, and the masks are cut back.

    Args:
        network: Of segmentation-models-pytorch: its encoder becomes the backbone.
        spec: How images are prepared.
    """

    def __init__(self, network: Any, spec: InputSpec) -> None:
        super().__init__(network.encoder, spec)
        self.decoder = network.decoder
        self.mask_head = network.segmentation_head
        self.class_head = network.classification_head

    def forward(self, images_BHWC: Tensor) -> MaskLogits:
        """Return the logits of prepared images, in float32 even under AMP."""
        height, width = images_BHWC.shape[1:3]
        top, bottom = _extend(height)
        left, right = _extend(width)
        pixels = self.normalise(images_BHWC)
        if top or bottom or left or right:
            pixels = functional.pad(pixels, (left, right, top, bottom), mode="replicate")
        features = self.backbone(pixels)
        masks = self.mask_head(self.decoder(features))
        masks = masks[..., top : top + height, left : left + width].float()
        if self.class_head is None:
            return MaskLogits(masks, None)
        return MaskLogits(masks, self.class_head(features[-1]).float())


def settle_encoder(recipe: Recipe, weights: Path | None) -> Recipe:
    """Return the recipe with its encoder looked up; `build.resolve_input` goes on from it.

    A name that timm has is timm's, also with `tu-` before it; then come the usual
    names of `aliases`, then segmentation-models-pytorch's own encoders, which
    `smp-` before the name asks for.

    Args:
        recipe: Its `network.name` is the encoder; a `start` found earlier is kept.
        weights: Local weights folder.

    Raises:
        RecipeError: nobody has such an encoder, or its licence is not free.
    """
    if recipe.start.architecture:
        return recipe
    name = recipe.network.name.removeprefix(_FROM_TIMM)
    own = name.removeprefix(OWN)
    if own.startswith(_NON_COMMERCIAL):
        raise RecipeError(
            f"network.name is {recipe.network.name!r}: the code of mix transformers is licensed "
            "for non-commercial use only (NVIDIA Source Code License for SegFormer), so Loupe does "
            "not offer them. Choose another encoder with stages, such as "
            "swin_tiny_patch4_window7_224 or convnext_tiny."
        )
    if own in _own_encoders() and (name != own or not knows_network(name)):
        return recipe.model_copy(update={"start": Start(architecture=OWN + own)})
    named = recipe.model_copy(update={"network": recipe.network.model_copy(update={"name": name})})
    try:
        return named.model_copy(update={"start": find_start(named, weights)})
    except RecipeError as error:
        near = suggest(own, _own_encoders())
        near = near.replace(";", ",", 1)
        more = f" Of segmentation-models-pytorch's own{near}" if near else ""
        raise RecipeError(f"{error}{more}") from None


def build_segmenter(
    decoder: Decoder,
    recipe: Recipe,
    spec: InputSpec,
    classes: int,
    *,
    weights: Path | None,
    load: bool = True,
) -> Segmenter:
    """Build a segmenter; its initial values follow from the recipe's seed alone.

    Args:
        decoder: Architecture and class head.
        recipe: Names the encoder; see `settle_encoder`.
        spec: Input size, channels and normalisation.
        classes: Number of masks C.
        weights: Local weights folder.
        load: Load pretrained weights of the encoder if the recipe asks for them;
            False when trained weights are loaded next.

    Raises:
        WeightsError: weights cannot be had or do not fit the encoder.
        RecipeError: the encoder is unknown, has no feature maps that decoders can use,
            or does not take a setting.

    References:
        Unet: Ronneberger et al. (2015), arXiv:1505.04597. UnetPlusPlus: Zhou et al.
        (2018), arXiv:1807.10165. FPN: Lin et al. (2017), arXiv:1612.03144, and
        Kirillov et al. (2019), arXiv:1901.02446. DeepLabV3Plus: Chen et al. (2018),
        arXiv:1802.02611.
    """
    recipe = settle_encoder(recipe, weights)
    _check_options(decoder)
    pretrained = load and recipe.network.pretrained
    # Forked so that the caller's random state is untouched.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = _create_fitting(decoder, recipe, spec, classes)
        if pretrained and not recipe.start.architecture.startswith(OWN):
            _load_encoder(network.get_submodule("encoder"), recipe, spec, weights)
        elif pretrained:
            _download_own(network.get_submodule("encoder"), recipe, spec)
    return Segmenter(network, spec)


def _extend(side: int) -> tuple[int, int]:
    """Return the pixels to add at both ends."""
    missing = -side % _MULTIPLE
    return missing // 2, missing - missing // 2


def _own_encoders() -> list[str]:
    # Those called timm-... are given up there, in favour of timm's own.
    names = smp.encoders.get_encoder_names()
    return [name for name in names if not name.startswith(("timm-", _NON_COMMERCIAL))]


# Creating -----------------------------------------------------------------------------------------


def _create_fitting(decoder: Decoder, recipe: Recipe, spec: InputSpec, classes: int) -> nn.Module:
    """Create the network and try it once, so that what does not fit is told now."""
    whole = _padded(spec)
    try:
        try:
            _check_own(recipe)
            network = _create(decoder, recipe, spec, classes, {"img_size": whole})
        except TypeError as error:
            if "img_size" not in str(error):
                raise
            # Only networks with embedded places are told the size, and keep to it.
            whole = (min(whole[0], _TRIAL_SIDE), min(whole[1], _TRIAL_SIDE))
            network = _create(decoder, recipe, spec, classes, {})
        _try(network, (1, spec.channels, *whole))
    except _FAILURES as error:
        raise RecipeError(_explain(decoder, recipe, error)) from None
    return network


def _check_own(recipe: Recipe) -> None:
    """Refuse what these encoders would pass over in silence."""
    if recipe.start.architecture.startswith(OWN):
        setting = "drop_path_rate" if recipe.network.drop_path else "img_size"
        raise TypeError(f"{setting} is not known to encoders of segmentation-models-pytorch")


def _create(
    decoder: Decoder, recipe: Recipe, spec: InputSpec, classes: int, more: dict[str, Any]
) -> nn.Module:
    start = recipe.start
    encoder = start.architecture.removeprefix(OWN)
    options = dict(start.kwargs) | more
    if recipe.network.drop_path:
        options["drop_path_rate"] = recipe.network.drop_path
    head = {"classes": classes, "pooling": decoder.head_pool, "dropout": decoder.head_dropout}
    network: nn.Module = getattr(smp, decoder.architecture)(
        encoder_name=_FROM_TIMM + encoder if encoder == start.architecture else encoder,
        encoder_weights=None,
        in_channels=spec.channels,
        classes=classes,
        aux_params=head if decoder.class_head else None,
        **decoder.options,
        **options,
    )
    return network


@torch.inference_mode()
def _try(network: nn.Module, shape: tuple[int, ...]) -> None:
    found = network.eval()(torch.zeros(shape))
    masks = found[0] if isinstance(found, tuple) else found
    if masks.shape[-2:] != shape[-2:]:
        raise InputError(f"masks of {tuple(masks.shape[-2:])} come out where {shape[-2:]} went in")
    network.train()


def _explain(decoder: Decoder, recipe: Recipe, error: Exception) -> str:
    name = recipe.network.name
    detail = shorten_error(error)
    own = name.casefold() if name.casefold() in _own_encoders() else ""
    instead = f" segmentation-models-pytorch has one of its own, 'smp-{own}'." if own else ""
    if "downsampling pattern" in detail or "features_only not" in detail:
        return (
            f"network.name is {name!r}, which has no feature maps at falling scales (1/2, 1/4, ... "
            f"1/32 of the image, or from 1/4), and {decoder.architecture} needs them: plain vision "
            f"transformers and mixers keep one scale.{instead} Choose a convolutional network "
            "(resnet34, efficientnet_b0, se_resnext50_32x4d, mobilenetv2_100, convnext_tiny) or a "
            "transformer with stages (swin_tiny_patch4_window7_224)."
        )
    wide = " or another architecture: Unet takes more encoders than the others"
    return (
        f"{decoder.architecture} cannot be built on network {name!r} ({detail}).{instead} Choose "
        f"another encoder{wide if decoder.architecture != 'Unet' else ''}, or leave out settings "
        "that it does not have."
    )


def _check_options(decoder: Decoder) -> None:
    taken = inspect.signature(getattr(smp, decoder.architecture).__init__).parameters
    known = [name for name in taken if name.startswith("decoder_") or name == "encoder_depth"]
    unknown = [name for name in decoder.options if name not in known]
    if unknown:
        found = ", ".join(f"{name!r}{suggest(name, known).rstrip('?')}" for name in unknown)
        raise RecipeError(
            f"options of {decoder.architecture}: {found} not known; it has {shorten(known, 12)}."
        )


def _padded(spec: InputSpec) -> tuple[int, int]:
    height, width = spec.network_height, spec.network_width
    return height + sum(_extend(height)), width + sum(_extend(width))


# Weights ------------------------------------------------------------------------------------------


def _load_encoder(
    encoder: nn.Module, recipe: Recipe, spec: InputSpec, weights: Path | None
) -> None:
    """Load what a classifier of the same name starts from, found and checked as for one."""
    height, width = _padded(spec)
    plain = recipe.model_copy(
        update={"network": Network(name=recipe.network.name, pretrained=True)}
    )
    whole = replace(spec, height=height, width=width, crop=None)
    held = build_network(plain, whole, 1, weights=weights).backbone.state_dict()
    # Feature extractors write stages_0 for stages.0, and some add a prefix.
    folded = {_fold(name): value for name, value in held.items()}
    wanted = encoder.state_dict()
    missing = [name for name in wanted if _fold(name) not in folded]
    if missing:
        raise WeightsError(
            f"pretrained weights of {recipe.network.name!r} cannot be given to the encoder: "
            f"{len(missing)} of its {len(wanted)} tensors have no counterpart "
            f"({shorten(missing, 3)}). Start from scratch with --set network.pretrained=false, or "
            "choose another encoder."
        )
    encoder.load_state_dict({name: folded[_fold(name)] for name in wanted})


def _fold(name: str) -> str:
    while name.startswith("model."):
        name = name.removeprefix("model.")
    return name.replace(".", "_")


def _download_own(encoder: nn.Module, recipe: Recipe, spec: InputSpec) -> None:
    name = recipe.start.architecture.removeprefix(OWN)
    try:
        held = smp.encoders.get_encoder(name, in_channels=spec.channels, weights="imagenet")
    except _FAILURES as error:
        raise WeightsError(
            f"weights of segmentation-models-pytorch's own encoder {name!r} cannot be had "
            f"({shorten_error(error)}); they come from its hub alone. Choose an encoder of timm, "
            "whose weights a local folder can hold (--weights), or start from scratch with --set "
            "network.pretrained=false."
        ) from None
    wanted = encoder.state_dict()
    encoder.load_state_dict({name: held.state_dict()[name] for name in wanted})
