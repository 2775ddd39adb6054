"""Training-time augmentation of one sample: an image, or an image with its masks.

Owns reading the steps of a recipe, the random numbers of a sample, and the order of
work: **all moves of a sample are composed into one map and its pixels are resampled
once**, then the looks act in their own order. Moves therefore come before looks
wherever they stand in the list, so noise and holes are never blurred or turned.
`MaskDropout` comes before both, as it needs the masks where they were prepared.
It must not know of batches (CutMix and MixUp act on tensors) nor keep any state.

Shapes: H height, W width, C channels (1 or 3), K masks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, ValidationError, WithJsonSchema

from loupe.colour import Look, Shuffle, apply_looks, shuffle_tiles
from loupe.colour_steps import (
    CLAHE,
    CoarseDropout,
    ColorJitter,
    GaussianBlur,
    GaussNoise,
    HueSaturationValue,
    MotionBlur,
    RandomBrightnessContrast,
    RandomGamma,
    RandomGridShuffle,
    ToGray,
)
from loupe.erasing import MaskDropout, erase_defects
from loupe.errors import InputError, RecipeError, shorten, suggest
from loupe.geometric_steps import (
    Affine,
    ElasticTransform,
    GridDistortion,
    HorizontalFlip,
    RandomCrop,
    RandomResizedCrop,
    RandomRotate90,
    Rotate,
    ShiftScaleRotate,
    Transpose,
    VerticalFlip,
)
from loupe.geometry import Geometry, start_geometry, warp
from loupe.steps import ColourStep, GeometricStep, describe_step, explain_errors, name_step
from loupe.table import Table

UInt8 = NDArray[np.uint8]
Float32 = NDArray[np.float32]
Masks = TypeVar("Masks", NDArray[np.uint8], NDArray[np.bool_])

AnyStep = (
    HorizontalFlip
    | VerticalFlip
    | Transpose
    | RandomRotate90
    | Rotate
    | ShiftScaleRotate
    | Affine
    | RandomResizedCrop
    | RandomCrop
    | GridDistortion
    | ElasticTransform
    | RandomBrightnessContrast
    | RandomGamma
    | HueSaturationValue
    | ColorJitter
    | ToGray
    | CLAHE
    | GaussianBlur
    | MotionBlur
    | GaussNoise
    | CoarseDropout
    | RandomGridShuffle
    | MaskDropout
)
"""One step of a recipe."""

STEPS: Mapping[str, type[AnyStep]] = {kind.__name__: kind for kind in get_args(AnyStep)}
"""Every step by its name."""
OTHER_NAMES = {"GridShuffle": "RandomGridShuffle"}
"""Names that write-ups use, and the step that is meant."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Drawn:
    """What is done to one sample; applied twice, it does the same twice.

    Attributes:
        geometry: The one map that all moves became.
        looks: What then changes pixels where they are, in order.
    """

    geometry: Geometry
    looks: tuple[Look, ...]


def parse_steps(value: object) -> tuple[AnyStep, ...]:
    """Read the steps of a recipe.

    A step is written as its name, as ``{Rotate: {limit: 20, p: 0.5}}``, or as
    ``{name: Rotate, limit: 20}``; a step that was read before is kept.

    Args:
        value: A list of steps, as YAML gives it.

    Raises:
        RecipeError: a name, a parameter or a value is not valid; one message lists
            all findings.

    Examples:
        >>> [step.name for step in parse_steps(["VerticalFlip", {"Rotate": {"limit": 20}}])]
        ['VerticalFlip', 'Rotate']
        >>> parse_steps([{"Rotate": {"limit": 20}}])[0]
        Rotate(name='Rotate', p=0.5, limit=(-20.0, 20.0), border='reflect')
    """
    if not isinstance(value, list | tuple):
        raise RecipeError(f"augmentation: found {value!r}; expected a list of steps. {_HOW_TO}")
    findings: list[str] = []
    steps = [_parse_step(item, place, findings) for place, item in enumerate(value, start=1)]
    if findings:
        listed = "".join(f"\n  {finding}" for finding in findings)
        raise RecipeError(f"augmentation: {len(findings)} finding(s):{listed}\n{_HOW_TO}")
    return tuple(step for step in steps if step is not None)


def describe_steps(steps: Sequence[AnyStep]) -> str:
    """Describe steps in one line, for logs: what is set, and each probability.

    Args:
        steps: In their order.

    Examples:
        >>> describe_steps(parse_steps(["HorizontalFlip", {"Rotate": {"limit": 20}}]))
        'HorizontalFlip(p=0.5), Rotate(limit=[-20, 20], p=0.5)'
    """
    return ", ".join(describe_step(step) for step in steps) or "none"


def sample_rng(seed: int, epoch: int, sample_id: str) -> np.random.Generator:
    """Make the random numbers of one sample in one epoch.

    A function of its arguments alone: which worker, batch or machine asks, in which
    order, and whether training was resumed, changes nothing. The generator is
    counter-based; its key is a hash, so near seeds share nothing.

    Args:
        seed: Of the run.
        epoch: Counted from the start of training.
        sample_id: Key of the row in its table.

    References:
        Salmon et al. (2011), "Parallel Random Numbers: As Easy as 1, 2, 3", SC11.

    Examples:
        >>> bool(sample_rng(1, 0, "a").random() == sample_rng(1, 0, "a").random())
        True
        >>> bool(sample_rng(1, 0, "a").random() == sample_rng(1, 1, "a").random())
        False
    """
    # File names that are not UTF-8 reach us as lone surrogates; they pass through.
    text = f"{seed}\0{epoch}\0{sample_id}".encode("utf-8", "surrogatepass")
    key = int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key))


def draw(steps: Sequence[AnyStep], rng: np.random.Generator, height: int, width: int) -> Drawn:
    """Draw what is done to one sample.

    Moves are drawn first, as looks have to know the size of the output.

    Args:
        steps: What may be done, in order.
        rng: The random numbers of the sample, see `sample_rng`; they are used up.
        height: Of the image, in pixels.
        width: Of the image, in pixels.

    Raises:
        InputError: a step needs masks, see `drops_masks`.
    """
    if drops_masks(steps):
        raise InputError(
            "augmentation: MaskDropout needs the masks of an image, which are not at hand here. "
            "Leave it out where only images are seen, as in random views at prediction."
        )
    geometry = start_geometry(height, width)
    looks: tuple[Look, ...] = ()
    for step in steps:
        if isinstance(step, GeometricStep) and rng.random() < step.p:
            geometry = step.extend(geometry, rng)
    for step in steps:
        if isinstance(step, ColourStep) and rng.random() < step.p:
            looks += step.choose(geometry.size, rng)
    return Drawn(geometry=geometry, looks=looks)


def apply_drawn(image: UInt8, drawn: Drawn) -> UInt8:
    """Apply to an image what was drawn for images of its size.

    Args:
        image: RGB or grey; it is not written to.
        drawn: See `draw`.

    Shape:
        image: (H, W, C) uint8, C is 1 or 3.

    Returns:
        (H', W', C) uint8; the image itself if nothing was drawn.

    Raises:
        InputError: dtype or shape are others, or not those it was drawn for.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in {1, 3}:
        raise InputError(
            f"image of shape {image.shape} and dtype {image.dtype}; expected (H, W, 1) or "
            "(H, W, 3) of uint8."
        )
    _check_size(image.shape, drawn, "image")
    return apply_looks(warp(image, drawn.geometry), drawn.looks)


def apply_to_masks(masks: Masks, drawn: Drawn) -> Masks:
    """Move masks as their image is moved; each pixel takes the nearest one's value.

    Args:
        masks: One channel a class; they are not written to.
        drawn: See `draw`.

    Shape:
        masks: (H, W, K) uint8 or bool.

    Returns:
        (H', W', K) of the same dtype; the masks themselves if nothing moves.

    Raises:
        InputError: dtype or shape are others, or not those it was drawn for.
    """
    if masks.dtype not in (np.uint8, np.bool_) or masks.ndim != 3:
        raise InputError(
            f"masks of shape {masks.shape} and dtype {masks.dtype}; expected (H, W, K) of "
            "uint8 or bool."
        )
    _check_size(masks.shape, drawn, "masks")
    plain = masks.view(np.uint8)
    moved = warp(plain, drawn.geometry, nearest=True)
    for look in drawn.looks:
        if isinstance(look, Shuffle):
            moved = shuffle_tiles(moved, look)
    return masks if moved is plain else moved.view(masks.dtype)


def augment_image(image: UInt8, steps: Sequence[AnyStep], rng: np.random.Generator) -> UInt8:
    """Augment one image.

    Args:
        image: RGB or grey, as it was prepared; it is not written to.
        steps: See `parse_steps`.
        rng: See `sample_rng`.

    Shape:
        image: (H, W, C) uint8, C is 1 or 3.

    Returns:
        (H, W, C) uint8, or of the size of a `RandomCrop`; the image itself if
        nothing was drawn.

    Raises:
        InputError: dtype or shape are others.

    Examples:
        >>> image = np.zeros((4, 6, 3), dtype=np.uint8)
        >>> steps = parse_steps([{"RandomCrop": {"height": 4, "width": 4}}, "HorizontalFlip"])
        >>> augment_image(image, steps, sample_rng(1, 0, "a")).shape
        (4, 4, 3)
    """
    return apply_drawn(image, draw(steps, rng, *image.shape[:2]))


def augment_pair(
    image: UInt8, masks: Masks, steps: Sequence[AnyStep], rng: np.random.Generator
) -> tuple[UInt8, Masks]:
    """Augment one image, and its masks by the same map.

    Args:
        image: RGB or grey, as it was prepared; it is not written to.
        masks: One channel a class; they are not written to.
        steps: See `parse_steps`.
        rng: See `sample_rng`.

    Shape:
        image: (H, W, C) uint8, C is 1 or 3. masks: (H, W, K) uint8 or bool.

    Returns:
        The image that `augment_image` gives, and its masks.

    Raises:
        InputError: dtype or shape are others, or sizes differ.
    """
    dropping, others = _part_steps(steps)
    image, masks = erase_defects(image, masks, dropping, rng)
    drawn = draw(others, rng, *image.shape[:2])
    return apply_drawn(image, drawn), apply_to_masks(masks, drawn)


def augment_labelled(
    image: UInt8,
    masks: Masks | None,
    targets: Float32,
    steps: Sequence[AnyStep],
    rng: np.random.Generator,
) -> tuple[UInt8, Float32]:
    """Augment one image, and clear the targets of classes that are painted away.

    A class loses its target when `MaskDropout` takes all pixels that it had. One
    without pixels keeps its target, and so does one whose defects a move cuts off.

    Args:
        image: RGB or grey, as it was prepared; it is not written to.
        masks: One channel a class; None will do where no step needs them.
        targets: Of classes that stand alone; they are not written to.
        steps: See `parse_steps`.
        rng: See `sample_rng`.

    Shape:
        image: (H, W, C) uint8, C is 1 or 3. masks: (H, W, K) uint8 or bool.
        targets: (K,) float32.

    Returns:
        The image, and its targets. Without `MaskDropout` they are what `augment_image`
        gives, and the targets given.

    Raises:
        InputError: dtype or shape are others, or masks are needed and not given.
    """
    if not drops_masks(steps):
        return augment_image(image, steps, rng), targets
    if masks is None or masks.shape[2:] != targets.shape:
        found = "none" if masks is None else f"masks of shape {masks.shape}"
        raise InputError(
            f"augmentation: MaskDropout needs a mask for each of {len(targets)} class(es); found "
            f"{found}. Expected (height, width, {len(targets)})."
        )
    dropping, others = _part_steps(steps)
    painted, left = erase_defects(image, masks, dropping, rng)
    gone = masks.any(axis=(0, 1)) & ~left.any(axis=(0, 1))
    cleared = np.where(gone, np.float32(0), targets)
    return augment_image(painted, others, rng), cleared


def drops_masks(steps: Sequence[AnyStep]) -> bool:
    """Tell whether a step needs the masks of an image, and may change its targets.

    Args:
        steps: See `parse_steps`.
    """
    return any(isinstance(step, MaskDropout) for step in steps)


def check_mask_dropout(table: Table) -> None:
    """Refuse a table that `MaskDropout` cannot be used on.

    Args:
        table: What is trained on.

    Raises:
        RecipeError: its classes are exclusive, or it has no masks.
    """
    if table.exclusive:
        why = (
            f"the classes {shorten(table.classes)} are exclusive: a row whose defect is painted "
            "away would have no class"
        )
    elif table.masks is None:
        why = f"a table of layout {table.layout.name!r} brings no masks"
    else:
        return
    raise RecipeError(
        f"augment: MaskDropout needs the masks of classes that stand alone, but {why}. Give a "
        "table of run-length text (rle-joined, rle-rows, rle-single), or leave the step out."
    )


_HOW_TO = "Write a step as `- HorizontalFlip` or as `- Rotate: {limit: 20, p: 0.5}`."


def _part_steps(steps: Sequence[AnyStep]) -> tuple[list[MaskDropout], list[AnyStep]]:
    """Part the steps that need masks from those that follow."""
    dropping = [step for step in steps if isinstance(step, MaskDropout)]
    return dropping, [step for step in steps if not isinstance(step, MaskDropout)]


def _parse_step(item: object, place: int, findings: list[str]) -> AnyStep | None:
    """Read one step, or note what is wrong with it."""
    if isinstance(item, get_args(AnyStep)):
        return item  # type: ignore[no-any-return]  # one of AnyStep, as was just asked
    named = name_step(item)
    if named is None:
        findings.append(f"step {place}: found {item!r}; expected a name with its parameters")
        return None
    name, parameters = named
    if name in OTHER_NAMES:
        name = OTHER_NAMES[name]
        parameters["name"] = name
    if name not in STEPS:
        findings.append(f"step {place}: {name!r} is not a step{_suggest_step(name)}")
        return None
    try:
        return STEPS[name].model_validate(parameters)
    except ValidationError as error:
        findings += [
            f"step {place} ({name}), {text}" for text in explain_errors(error, STEPS[name])
        ]
        return None


def _suggest_step(name: str) -> str:
    return suggest(name, STEPS) or f"; expected one of {shorten(sorted(STEPS), most=len(STEPS))}"


def _check_size(shape: tuple[int, ...], drawn: Drawn, what: str) -> None:
    if shape[:2] != drawn.geometry.source or 0 in shape[:2]:
        height, width = drawn.geometry.source
        raise InputError(
            f"{what} of {shape[0]} x {shape[1]} pixels (height x width); expected "
            f"{height} x {width}, at least 1 x 1: image and masks share one size."
        )


def _describe_form() -> dict[str, Any]:
    """Give the JSON schema of a list of steps, in all the forms that are read."""
    full = {name: kind.model_json_schema() for name, kind in STEPS.items()}
    keyed = {"type": "object", "minProperties": 1, "maxProperties": 1}
    keyed |= {"properties": full, "additionalProperties": False}
    named = [{**schema, "required": ["name"]} for schema in full.values()]
    return {"type": "array", "items": {"anyOf": [{"enum": list(full)}, keyed, *named]}}


Steps = Annotated[
    tuple[AnyStep, ...], BeforeValidator(parse_steps), WithJsonSchema(_describe_form())
]
"""A field of steps in another pydantic model; it reads what `parse_steps` reads."""
