"""Which inputs one prepared image becomes: crops, named views, random draws.

Owns their number, their order and their random numbers, at prediction and for the
random crop of training, so that every path that averages over views averages over
the same ones. It must not call a network, average anything, or know a device: named
views are told as `Cut`s, which numpy and torch both follow.

Shapes: B batch, H height, W width, h and w those that the network sees, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loupe.augment import AnyStep, Steps, augment_image, sample_rng
from loupe.errors import RecipeError
from loupe.geometric_steps import RandomCrop
from loupe.images import InputSpec
from loupe.settings import Draws, Tta
from loupe.tta import ViewName, flipped_axes, place_crops

UInt8 = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Cut:
    """One named view of one crop: ``flip(images[:, rows, columns], axes)``.

    Attributes:
        rows: Of the prepared images.
        columns: Of the prepared images.
        axes: What is reversed then; see `flipped_axes`.
    """

    rows: slice
    columns: slice
    axes: tuple[int, ...]


def count_views(tta: Tta, spec: InputSpec) -> int:
    """Return how many inputs one image becomes: views times crops.

    Args:
        tta: Named views or random draws.
        spec: Its size and crop are used.

    Examples:
        >>> count_views(("identity", "hflip"), InputSpec(height=600, width=800, crop=(512, 512)))
        8
    """
    each = tta.draws if isinstance(tta, Draws) else len(tta)
    return each * len(list_cuts(("identity",), spec))


def list_cuts(views: Sequence[ViewName], spec: InputSpec) -> tuple[Cut, ...]:
    """List the named views of every crop: crop by crop, and each view of it in order.

    Args:
        views: Names, in order.
        spec: Its size and crop are used; without a crop the whole is the only one.

    Examples:
        >>> list_cuts(["hflip"], InputSpec(height=2, width=3))
        (Cut(rows=slice(0, 2, None), columns=slice(0, 3, None), axes=(2,)),)
    """
    height, width = spec.network_height, spec.network_width
    return tuple(
        Cut(slice(top, top + height), slice(left, left + width), flipped_axes(view))
        for top, left in place_crops(spec.height, spec.width, (height, width))
        for view in views
    )


def view_images(
    images: UInt8, ids: Sequence[str], tta: Tta, spec: InputSpec, seed: int, *, workers: int = 1
) -> Iterator[UInt8]:
    """Yield the inputs that prepared images become at prediction.

    Crop by crop, and of each crop every view: names are flips, without a copy;
    draw k of a row is seeded by (seed, k, crop, id), so the batch that an image is
    in does not matter.

    Args:
        images: Prepared images.
        ids: Their ids, which seed the draws.
        tta: Named views or random draws.
        spec: How they were prepared, and the crop.
        seed: The recipe's.
        workers: Threads that draw ahead; they change nothing but the time.

    Shape:
        images: (B, H, W, C) uint8.
        Yields: (B, h, w, C) uint8, `count_views` times.

    Raises:
        RecipeError: see `check_draws`.
    """
    if not isinstance(tta, Draws):
        for cut in list_cuts(tta, spec):
            yield np.flip(images[:, cut.rows, cut.columns], cut.axes)
        return
    check_draws(tta, spec)
    for number, cut in enumerate(list_cuts(("identity",), spec)):
        keys = [f"tta/{number}/{name}" for name in ids]
        crops = images[:, cut.rows, cut.columns]
        yield from draw_images(crops, keys, tta.augment, seed, draws=tta.draws, workers=workers)


def draw_images(
    images: UInt8,
    keys: Sequence[str],
    steps: Sequence[AnyStep],
    seed: int,
    *,
    draws: int,
    workers: int = 1,
) -> Iterator[UInt8]:
    """Yield augmented draws of images; the next is made while one is used.

    Args:
        images: Prepared images.
        keys: What seeds each image, with the draw's number and the seed.
        steps: Random transforms; all give one size.
        seed: The recipe's.
        draws: How many of each image.
        workers: Threads.

    Shape:
        images: (B, H, W, C) uint8.
        Yields: (B, h, w, C) uint8, `draws` times.
    """

    def make(image: UInt8, key: str, number: int) -> UInt8:
        return augment_image(image, steps, sample_rng(seed, number, key))

    with ThreadPoolExecutor(workers) as pool:
        ahead = pool.map(make, images, keys, [0] * len(keys))
        for number in range(draws):
            drawn = np.stack(list(ahead))
            if number + 1 < draws:
                ahead = pool.map(make, images, keys, [number + 1] * len(keys))
            yield drawn


def check_draws(tta: Tta, spec: InputSpec) -> None:
    """Refuse random draws that would give the network another size.

    Args:
        tta: Named views or random draws; names always pass.
        spec: Its size and crop are used.

    Raises:
        RecipeError: a RandomCrop has another size than the network sees.
    """
    size = (spec.network_height, spec.network_width)
    odd = _find_odd(tta.augment if isinstance(tta, Draws) else (), size)
    if odd is not None:
        raise RecipeError(
            f"tta.augment has RandomCrop of {odd.height} x {odd.width} pixels (height x width), "
            f"but the network sees {size[0]} x {size[1]}; leave it out, or set 'input.crop: "
            f"[{odd.height}, {odd.width}]' to scan each image with crops of that size."
        )


def training_steps(steps: Steps, spec: InputSpec) -> tuple[AnyStep, ...]:
    """Return the random transforms of training, with the crop that the network sees.

    Args:
        steps: The recipe's.
        spec: Its crop is taken at random, after all moves, unless the steps take
            one of that size already.

    Raises:
        RecipeError: a RandomCrop has another size than `spec.crop`.

    Examples:
        >>> [step.name for step in training_steps((), InputSpec(height=9, width=9, crop=(4, 4)))]
        ['RandomCrop']
    """
    if spec.crop is None:
        return tuple(steps)
    odd = _find_odd(steps, spec.crop)
    if odd is not None:
        raise RecipeError(
            f"augment has RandomCrop of {odd.height} x {odd.width} pixels (height x width), but "
            f"input.crop is {spec.crop[0]} x {spec.crop[1]}; leave that step out (crops are "
            "taken at random while training anyway), or give both one size."
        )
    if any(isinstance(step, RandomCrop) for step in steps):
        return tuple(steps)
    return (*steps, RandomCrop(height=spec.crop[0], width=spec.crop[1]))


def _find_odd(steps: Sequence[AnyStep], size: tuple[int, int]) -> RandomCrop | None:
    """The first RandomCrop of another size; no other step changes the size."""
    crops = (step for step in steps if isinstance(step, RandomCrop))
    return next((crop for crop in crops if (crop.height, crop.width) != size), None)
