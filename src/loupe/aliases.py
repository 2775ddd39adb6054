"""Usual names of well-known networks, and what timm calls them.

Write-ups name networks as Keras does. The weights tag is the one that holds the same
weights as Keras has, where timm has them; else torchvision's or, failing that,
timm's own. It must not import timm: this is a table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

_SAME_WEIGHTS = {
    # EfficientNet: the authors' AutoAugment weights, which Keras' "imagenet" holds too.
    **{f"EfficientNetB{n}": f"tf_efficientnet_b{n}.aa_in1k" for n in range(8)},
    # Xie et al. (2020), arXiv:1911.04252; the `efficientnet` package has them for Keras.
    **{f"EfficientNetB{n}-noisy-student": f"tf_efficientnet_b{n}.ns_jft_in1k" for n in range(8)},
    **{f"EfficientNetV2{n}": f"tf_efficientnetv2_{n.lower()}.in1k" for n in ("B0", "B1", "B2")},
    "EfficientNetV2B3": "tf_efficientnetv2_b3.in1k",
    "EfficientNetV2S": "tf_efficientnetv2_s.in1k",
    "EfficientNetV2M": "tf_efficientnetv2_m.in1k",
    "EfficientNetV2L": "tf_efficientnetv2_l.in1k",
    "Xception": "legacy_xception.tf_in1k",
    "InceptionV3": "inception_v3.tf_in1k",
    "InceptionResNetV2": "inception_resnet_v2.tf_in1k",
    "InceptionV4": "inception_v4.tf_in1k",
    "NASNetLarge": "nasnetalarge.tf_in1k",
    "DenseNet121": "densenet121.tv_in1k",
    "DenseNet169": "densenet169.tv_in1k",
    "DenseNet201": "densenet201.tv_in1k",
    "MobileNetV3Large": "tf_mobilenetv3_large_100.in1k",
    "MobileNetV3Small": "tf_mobilenetv3_small_100.in1k",
    # Keras' documentation: the three larger ones saw ImageNet-21k first.
    "ConvNeXtTiny": "convnext_tiny.fb_in1k",
    "ConvNeXtSmall": "convnext_small.fb_in1k",
    "ConvNeXtBase": "convnext_base.fb_in22k_ft_in1k",
    "ConvNeXtLarge": "convnext_large.fb_in22k_ft_in1k",
    "ConvNeXtXLarge": "convnext_xlarge.fb_in22k_ft_in1k",
}
_OTHER_WEIGHTS = {
    "ResNet18": "resnet18.tv_in1k",
    "ResNet34": "resnet34.tv_in1k",
    "ResNet50": "resnet50.tv_in1k",
    "ResNet101": "resnet101.tv_in1k",
    "ResNet152": "resnet152.tv_in1k",
    "ResNet50V2": "resnetv2_50.a1h_in1k",
    "ResNet101V2": "resnetv2_101.a1h_in1k",
    "VGG16": "vgg16.tv_in1k",
    "VGG19": "vgg19.tv_in1k",
    "MobileNet": "mobilenetv1_100.ra4_e3600_r224_in1k",
    "MobileNetV2": "mobilenetv2_100.ra_in1k",
}

ALIASES: Mapping[str, str] = MappingProxyType(_SAME_WEIGHTS | _OTHER_WEIGHTS)
"""timm's name, with a weights tag, of each usual name as it is commonly spelt."""


def resolve_alias(name: str) -> str | None:
    """Return timm's name of a network that is known by another one; None if it is not.

    Args:
        name: The usual name; case, `-`, `_` and spaces do not matter.

    Examples:
        >>> resolve_alias("EfficientNet-B6 noisy student")
        'tf_efficientnet_b6.ns_jft_in1k'
        >>> resolve_alias("resnet9000")
    """
    return _FOLDED.get(_fold(name))


def _fold(name: str) -> str:
    return re.sub(r"[-_\s]", "", name).casefold()


_FOLDED = {_fold(name): target for name, target in ALIASES.items()}
