"""Maps: what trained segmenters say of each pixel of an image, at the size asked for.

Owns loading segmenters from a run, their means over views, tiles, folds and members, and
the way back from the prepared frame to the image. It must not choose a threshold, compare
with given masks, or open images.

Shapes: n images, C classes asked for, M mappers, h and w height and width of a prepared
frame, c its channels, K masks of one network; H and W height and width of the map wanted.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from loupe.build import autocast
from loupe.errors import InputError, RecipeError, RunError, shorten
from loupe.images import InputSpec
from loupe.inference import arrange_memory
from loupe.recipe import Recipe
from loupe.runs import Member, Run
from loupe.segmenters import Segmenter, build_segmenter
from loupe.settings import Draws
from loupe.tiling import Window, blend_tiles, cut_tiles
from loupe.tta import ViewName, first_views, flipped_axes

Bool = NDArray[np.bool_]
Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
UInt8 = NDArray[np.uint8]

MOST_PIXELS = 2**21
"""Pixels that enter a network together, and that frames held together have; one image at least."""
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Mapper:
    """One trained segmenter, and how it is used.

    Attributes:
        network: In evaluation mode, on its device.
        recipe: Says how images are cut into tiles, and the precision.
        spec: How images are prepared for it.
        classes: (K,) what its masks are of.
        views: Averaged, each turned back first.
        device: torch device.
    """

    network: Segmenter
    recipe: Recipe
    spec: InputSpec
    classes: tuple[str, ...]
    views: tuple[ViewName, ...]
    device: str


def load_mappers(
    run: Run, *, folds: Sequence[int] | None = None, views: int | None = None, device: str
) -> tuple[Mapper, ...]:
    """Load the trained segmenters of a run: of each member, every fold.

    Args:
        run: Its networks draw masks.
        folds: Numbers of the folds that were held out; None takes all of the run.
        views: Number of named views; None takes each recipe's own.
        device: torch device.

    Raises:
        RunError: the run draws no masks, or a fold is not finished; all such are named.
        RecipeError: a recipe has no decoder, or random views.
        InputError: there are not so many views.
    """
    if not run.segments:
        raise RunError(
            f"{run.folder} draws no masks: its networks name classes. Use 'loupe predict' with it, "
            "or name a run whose recipe has a 'decoder'."
        )
    numbers = run.folds if folds is None else tuple(folds)
    members = [run.member(name) for name in run.members]
    files = [member.fold(number) for member in members for number in numbers]
    missing = [str(each.folder) for each in files if not each.done]
    if missing:
        raise RunError(
            f"not finished: {shorten(missing)}; run the same 'loupe train' command again first."
        )
    classes = run.table().classes
    return tuple(
        mapper for member in members for mapper in _load(member, numbers, classes, views, device)
    )


def list_drawn(mappers: Sequence[Mapper], classes: Sequence[str]) -> tuple[str, ...]:
    """Return those of some classes that one of the mappers draws, in the same order."""
    known = {name for mapper in mappers for name in mapper.classes}
    return tuple(name for name in classes if name in known)


def draw_maps(
    mappers: Sequence[Mapper],
    classes: Sequence[str],
    images: Sequence[UInt8],
    sizes: Int64,
    wanted: Bool,
    *,
    shown: Int64,
) -> Iterator[tuple[int, Float32]]:
    """Draw the map of each image and class: the mean probability at every pixel.

    The mean is over views, tiles that overlap, and the mappers that have the class, all of
    equal weight; of probabilities, not of logits. Bars that preparation added are cut off,
    and the rest is resized: an axis that shrinks by area, one that grows linearly.

    Args:
        mappers: Which networks.
        classes: Names of the columns of `wanted`.
        images: Prepared for each mapper, in their order; the same array may stand twice.
        sizes: Height and width of the maps, such as those of the image files.
        wanted: What is drawn. Other maps are zeros; an image of which a mapper has no
            class wanted does not enter its network.
        shown: Height and width of the image files as shown; `resize: pad` placed the image
            by them.

    Shape:
        images: M arrays (n, h, w, c). sizes, shown: (n, 2). wanted: (n, C).

    Yields:
        Number and (C, H, W) maps, values in [0, 1], of image 0 to n - 1.

    Raises:
        RunError: a class is wanted that no mapper has, or a network gives NaN.
        InputError: shapes do not agree.
    """
    _check_shapes(mappers, classes, images, wanted, {"sizes": sizes, "shown": shown})
    missing = set(classes) - set(list_drawn(mappers, classes))
    lost = [name for at, name in enumerate(classes) if name in missing and wanted[:, at].any()]
    if lost:
        held = sorted({name for mapper in mappers for name in mapper.classes})
        raise RunError(
            f"no network draws {shorten([repr(name) for name in lost])}; those of this run draw "
            f"{shorten([repr(name) for name in held])}. Leave out the others."
        )
    return _draw_rows(mappers, tuple(classes), images, sizes, wanted, shown)


def map_frames(mapper: Mapper, images: UInt8) -> Float32:
    """Return the probabilities of one network in the prepared frame, tiles joined.

    Args:
        mapper: Which network.
        images: Prepared for it.

    Shape:
        images: (n, h, w, c). Returns: (n, K, h, w).

    Raises:
        RunError: the network gives NaN.
    """
    tiles = list_tiles(mapper.recipe, mapper.spec)
    cut = [image[tile.slices] for image in images for tile in tiles]
    step = max(1, MOST_PIXELS // (tiles[0].height * tiles[0].width))
    starts = range(0, len(cut), step)
    parts = [_map_batch(mapper, np.stack(cut[start : start + step])) for start in starts]
    found = parts[0] if len(parts) == 1 else np.concatenate(parts)
    if len(tiles) == 1:
        return found
    size = (mapper.spec.height, mapper.spec.width)
    firsts = range(0, len(found), len(tiles))
    return np.stack([blend_tiles(found[at : at + len(tiles)], tiles, size) for at in firsts])


def list_tiles(recipe: Recipe, spec: InputSpec) -> tuple[Window, ...]:
    """Return the tiles in which a prepared image enters a network; one if it enters whole."""
    size = (spec.height, spec.width)
    if spec.crop is None or recipe.masks.predict == "whole":
        return cut_tiles(size, size)
    share = recipe.masks.overlap
    down, right = (min(side - 1, math.ceil(share * side - _ROUNDING)) for side in spec.crop)
    return cut_tiles(size, spec.crop, (down, right))


def place_image(height: int, width: int, spec: InputSpec) -> Window:
    """Return where `images.prepare_image` puts an image in its prepared frame.

    Args:
        height: Of the image as shown, in pixels.
        width: Of the image as shown, in pixels.
        spec: How it is prepared.

    Examples:
        >>> place_image(10, 40, InputSpec(height=20, width=20, resize="pad"))
        Window(top=7, left=0, height=5, width=20)
    """
    if spec.resize == "stretch":
        return Window(top=0, left=0, height=spec.height, width=spec.width)
    scale = min(spec.height / height, spec.width / width)
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (spec.height - rows) // 2, (spec.width - columns) // 2
    return Window(top=top, left=left, height=rows, width=columns)


def fit_map(probs: Float32, size: tuple[int, int]) -> Float32:
    """Resize one map; an axis that shrinks by area, then one that grows linearly.

    Args:
        probs: Probabilities.
        size: Height and width wanted.

    Shape:
        probs: (h, w). Returns: (H, W), probabilities again.

    Examples:
        >>> fit_map(np.float32([[0, 1, 1, 0]]), (2, 2)).tolist()
        [[0.5, 0.5], [0.5, 0.5]]
    """
    height, width = (min(pair) for pair in zip(size, probs.shape, strict=True))
    steps = (((height, width), cv2.INTER_AREA), (size, cv2.INTER_LINEAR))
    fitted = np.ascontiguousarray(probs)
    for (rows, columns), flag in steps:
        if fitted.shape != (rows, columns):
            fitted = np.asarray(cv2.resize(fitted, (columns, rows), interpolation=flag), np.float32)
    # Sums of rounded shares can pass 1 by a last bit.
    return np.clip(fitted, 0, 1)


def _load(
    member: Member,
    folds: Sequence[int],
    classes: Sequence[str],
    views: int | None,
    device: str,
) -> Iterator[Mapper]:
    """Load the folds of one member."""
    recipe, spec = member.recipe(), member.input_spec()
    chosen = recipe.tta if views is None else first_views(views)
    if isinstance(chosen, Draws) or recipe.decoder is None:
        raise RecipeError(
            f"{member.folder}: expected a 'decoder', and views by name, such as 'tta: [identity, "
            "hflip]'; train a segmenter anew."
        )
    learnt = recipe.masks.classes or tuple(classes)
    own = tuple(name for name in classes if name in learnt)
    plain = build_segmenter(recipe.decoder, recipe, spec, len(own), weights=None, load=False)
    for fold in folds:
        # What is built is tried out once, which takes many times as long as a copy.
        network = copy.deepcopy(plain) if len(folds) > 1 else plain
        network.load_state_dict(load_file(member.fold(fold).weights))
        network = arrange_memory(network.to(device).eval(), recipe)
        yield Mapper(network, recipe, spec, own, chosen, device)


@torch.inference_mode()
def _map_batch(mapper: Mapper, images: UInt8) -> Float32:
    """Return the mean over views, (B, K, h, w)."""
    inputs = torch.from_numpy(images).to(mapper.device)
    shape = (len(images), len(mapper.classes), *images.shape[1:3])
    total = torch.zeros(shape, device=mapper.device)
    for view in mapper.views:
        axes = flipped_axes(view)
        with autocast(mapper.recipe, mapper.device):
            logits = mapper.network(inputs.flip(axes)).masks
        # Channels come before rows in a map, and after them in an image.
        total += torch.sigmoid(logits.float()).flip([axis + 1 for axis in axes])
    if total.isnan().any():
        raise RunError(
            "a network gives maps that are no numbers (NaN): its training has diverged, or half "
            f"precision is too coarse (engine.precision is {mapper.recipe.engine.precision!r}). "
            "Train it again with a smaller lr, or with --set engine.precision=fp32."
        )
    mean: Float32 = total.div_(len(mapper.views)).cpu().numpy()
    return mean


# From frames to maps ------------------------------------------------------------------------------


def _draw_rows(
    mappers: Sequence[Mapper],
    classes: tuple[str, ...],
    images: Sequence[UInt8],
    sizes: Int64,
    wanted: Bool,
    shown: Int64,
) -> Iterator[tuple[int, Float32]]:
    largest = max((each.spec.height * each.spec.width for each in mappers), default=1)
    step = max(1, MOST_PIXELS // largest)
    having = np.array([sum(name in each.classes for each in mappers) for name in classes])
    for start in range(0, len(wanted), step):
        rows = slice(start, start + step)
        frames = _sum_frames(mappers, classes, [each[rows] for each in images], wanted[rows])
        for at, row in enumerate(range(start, min(start + step, len(wanted)))):
            height, width = (int(side) for side in sizes[row])
            maps = np.zeros((len(classes), height, width), np.float32)
            for frame, totals in frames.items():
                place = place_image(int(shown[row, 0]), int(shown[row, 1]), frame).slices
                for column in np.flatnonzero(wanted[row]):
                    mean = totals[at, column][place] / np.float32(having[column])
                    maps[column] += fit_map(mean, (height, width))
            # Likewise a sum over frames.
            yield row, np.minimum(maps, 1, out=maps)


def _sum_frames(
    mappers: Sequence[Mapper], classes: tuple[str, ...], images: Sequence[UInt8], wanted: Bool
) -> dict[InputSpec, Float32]:
    """Sum over mappers that place images alike, (n, C, h, w) each: one resizing serves them."""
    sums: dict[InputSpec, Float32] = {}
    for mapper, pixels in zip(mappers, images, strict=True):
        spec = mapper.spec
        frame = InputSpec(height=spec.height, width=spec.width, resize=spec.resize)
        if frame not in sums:
            sums[frame] = np.zeros((*wanted.shape, spec.height, spec.width), np.float32)
        pairs = [
            (at, classes.index(name)) for at, name in enumerate(mapper.classes) if name in classes
        ]
        rows = np.flatnonzero(wanted[:, [column for _, column in pairs]].any(axis=1))
        if len(rows):
            found = map_frames(mapper, pixels[rows])
            for place, row in enumerate(rows):
                for at, column in pairs:
                    sums[frame][row, column] += found[place, at]
    return sums


def _check_shapes(
    mappers: Sequence[Mapper],
    classes: Sequence[str],
    images: Sequence[UInt8],
    wanted: Bool,
    sizes: dict[str, Int64],
) -> None:
    count = len(wanted)
    wrong = []
    if wanted.shape != (count, len(classes)) or wanted.dtype != np.bool_:
        wrong.append(f"wanted of {wanted.dtype} has the shape {wanted.shape}, classes {classes}")
    wrong += [
        f"{name} has the shape {values.shape}, expected {(count, 2)}"
        for name, values in sizes.items()
        if values.shape != (count, 2)
    ]
    if len(images) != len(mappers):
        wrong.append(f"there are {len(images)} arrays of images for {len(mappers)} networks")
    for mapper, pixels in zip(mappers, images, strict=False):
        expected = (count, mapper.spec.height, mapper.spec.width, mapper.spec.channels)
        if pixels.shape != expected or pixels.dtype != np.uint8:
            wrong.append(f"images of {pixels.dtype} have the shape {pixels.shape}, not {expected}")
    if wrong:
        raise InputError(
            f"maps cannot be drawn: {'; '.join(wrong)}. Expected images that `prepare_image` made "
            "for each network, and a row of the others for each image."
        )
