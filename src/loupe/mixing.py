"""Mixing: CutMix and MixUp of whole batches, labels by the true share of each image.

Owns what is done to one batch and when. It must not draw which rows make a batch,
nor keep random state: the random numbers are handed in.

Shapes: B batch, H height, W width, C channels (1 or 3), K classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from loupe.errors import InputError
from loupe.settings import Mixing


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mixed:
    """A batch after mixing.

    Attributes:
        images: (B, H, W, C); uint8, or float32 from 0 to 255 after MixUp.
        targets: (B, K).
        weights: (B,) or None.
    """

    images: Tensor
    targets: Tensor
    weights: Tensor | None


def mixes(mixing: Mixing, *, epoch: int, epochs: int) -> bool:
    """Say whether batches of an epoch may be mixed at all.

    Args:
        mixing: Probabilities, and the epochs that are spared.
        epoch: From 0, within the stage.
        epochs: Of the stage.

    Examples:
        >>> mixing = Mixing(cutmix=0.5, skip_first=1, skip_last=2)
        >>> [mixes(mixing, epoch=epoch, epochs=5) for epoch in range(5)]
        [False, True, True, False, False]
        >>> mixes(Mixing(), epoch=0, epochs=5)
        False
    """
    wanted = mixing.cutmix + mixing.mixup > 0
    return wanted and mixing.skip_first <= epoch < epochs - mixing.skip_last


def mix_batch(
    images: Tensor,
    targets: Tensor,
    weights: Tensor | None,
    mixing: Mixing,
    rng: np.random.Generator,
) -> Mixed:
    """Mix each image of a batch with another one of it, or leave the batch alone.

    One uniform number decides for the batch: CutMix, MixUp, or neither. Partners are
    a random permutation of the batch, so an image may be its own. With s the share
    that an image keeps, its targets become s t + (1 - s) t'; dashes mark the partner's. Row
    weights become s w + (1 - s) w', and the targets count by them, so that
    cross-entropy of the mixture is the mixture of the weighted cross-entropies.

    * CutMix: lambda ~ Beta(alpha, alpha). A box of sqrt(1 - lambda) times the height
      and the width, about a point uniform over the image, is taken from the partner,
      the same box for all. The box is clipped at the border, so s is the share of
      pixels that remained, not lambda. Values stay whole numbers.
    * MixUp: s ~ Beta(alpha, alpha); pixels become s x + (1 - s) x'.

    A batch of one image, or one that is left alone, comes back as it was given.

    Args:
        images: As the network takes them; not written to.
        targets: In [0, 1]; not written to.
        weights: Row weights or None; not written to.
        mixing: Probabilities and shapes of the draws; epochs are asked of `mixes`.
        rng: The random numbers of this step alone, see `loupe.augment.sample_rng`.

    Shape:
        images: (B, H, W, C) uint8. targets: (B, K). weights: (B,).

    Raises:
        InputError: images are not uint8 with channels last.

    References:
        CutMix: Yun et al. 2019, arXiv:1905.04899, section 3.1; the share after
        clipping is that of the authors' code. MixUp: Zhang et al. 2018,
        arXiv:1710.09412, section 2, one lambda a batch as in its figure 1a.

    Examples:
        >>> images = torch.tensor([0, 200], dtype=torch.uint8).reshape(2, 1, 1, 1)
        >>> images = images.expand(2, 10, 10, 3)
        >>> rng = np.random.Generator(np.random.Philox(1))
        >>> mixed = mix_batch(images, torch.eye(2), None, Mixing(cutmix=1), rng)
        >>> mixed.targets[0].numpy().round(2)
        array([0.44, 0.56], dtype=float32)
        >>> int((mixed.images[0, :, :, 0] == 0).sum())
        44
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] not in {1, 3}:
        raise InputError(
            f"images of shape {tuple(images.shape)} and dtype {images.dtype}; expected "
            "(B, H, W, 1) or (B, H, W, 3) of uint8."
        )
    chance = rng.random()
    if len(images) < 2 or chance >= mixing.cutmix + mixing.mixup:
        return Mixed(images=images, targets=targets, weights=weights)
    partner = torch.from_numpy(rng.permutation(len(images))).to(images.device)
    if chance < mixing.cutmix:
        made, share = _cut_mix(images, partner, mixing.cutmix_alpha, rng)
    else:
        made, share = _mix_up(images, partner, mixing.mixup_alpha, rng)
    if weights is None:
        return Mixed(images=made, targets=_blend(targets, partner, share), weights=None)
    # So that the weighted loss of the mixture is the mixture of the weighted losses.
    mixed = _blend(weights, partner, share)
    weighted = _blend(targets * weights[:, None], partner, share)
    return Mixed(images=made, targets=weighted / mixed[:, None], weights=mixed)


def _cut_mix(
    images: Tensor, partner: Tensor, alpha: float, rng: np.random.Generator
) -> tuple[Tensor, float]:
    """Paste one box of the partners; return the share of pixels that was kept."""
    height, width = images.shape[1:3]
    side = math.sqrt(1 - rng.beta(alpha, alpha))
    rows, columns = _cut(height, side, rng), _cut(width, side, rng)
    made = images.clone()
    made[:, rows, columns] = images[:, rows, columns].index_select(0, partner)
    pasted = (rows.stop - rows.start) * (columns.stop - columns.start)
    return made, 1 - pasted / (height * width)


def _cut(length: int, side: float, rng: np.random.Generator) -> slice:
    """Place one side of the box, a share of the length, and clip it at both ends."""
    centre, half = rng.uniform(0, length), side * length / 2
    return slice(max(0, round(centre - half)), min(length, round(centre + half)))


def _mix_up(
    images: Tensor, partner: Tensor, alpha: float, rng: np.random.Generator
) -> tuple[Tensor, float]:
    """Average each image with its partner; return the weight of the first."""
    share = float(rng.beta(alpha, alpha))
    made = images.float()
    return made.lerp_(made.index_select(0, partner), 1 - share), share


def _blend(values: Tensor, partner: Tensor, share: float) -> Tensor:
    """Return share v + (1 - share) v'; equal values stay what they are."""
    return values.lerp(values.index_select(0, partner.to(values.device)), 1 - share)
