"""Training-time augmentation of one sample: an image, or an image with its masks.

Owns reading the steps of a recipe, the random numbers of a sample, and the order of
work: **all moves of a sample are composed into one map and its pixels are resampled
once**, then the looks act in their own order. Moves therefore come before looks
wherever they stand in the list, so noise and holes are never blurred or turned.
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
from loupe.steps import ColourStep, GeometricStep

UInt8 = NDArray[np.uint8]
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
)
"""One step of a recipe."""

STEPS: Mapping[str, type[AnyStep]] = {kind.__name__: kind for kind in get_args(AnyStep)}
"""Every step by its name."""


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
    return ", ".join(_describe(step) for step in steps) or "none"


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
    """
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
    drawn = draw(steps, rng, *image.shape[:2])
    return apply_drawn(image, drawn), apply_to_masks(masks, drawn)


_HOW_TO = "Write a step as `- HorizontalFlip` or as `- Rotate: {limit: 20, p: 0.5}`."


def _parse_step(item: object, place: int, findings: list[str]) -> AnyStep | None:
    """Read one step, or note what is wrong with it."""
    if isinstance(item, get_args(AnyStep)):
        return item  # type: ignore[no-any-return]  # one of AnyStep, as was just asked
    named = _name_step(item)
    if named is None:
        findings.append(f"step {place}: found {item!r}; expected a name with its parameters")
        return None
    name, parameters = named
    if name not in STEPS:
        findings.append(f"step {place}: {name!r} is not a step{_suggest_step(name)}")
        return None
    try:
        return STEPS[name].model_validate(parameters)
    except ValidationError as error:
        findings += [f"step {place} ({name}), {text}" for text in _explain(error, STEPS[name])]
        return None


def _name_step(item: object) -> tuple[str, dict[str, Any]] | None:
    """Part the name of a step from its parameters; None if it has neither form."""
    if isinstance(item, str):
        return item, {}
    if not isinstance(item, Mapping) or not all(isinstance(key, str) for key in item):
        return None
    if isinstance(item.get("name"), str):
        return item["name"], dict(item)
    if len(item) != 1:
        return None
    name, parameters = next(iter(item.items()))
    # YAML reads `- HorizontalFlip:` as a mapping to nothing.
    parameters = {} if parameters is None else parameters
    return (name, dict(parameters)) if isinstance(parameters, Mapping) else None


def _suggest_step(name: str) -> str:
    return suggest(name, STEPS) or f"; expected one of {shorten(sorted(STEPS), most=len(STEPS))}"


def _explain(error: ValidationError, kind: type[AnyStep]) -> list[str]:
    """Say in one line each what a step's parameters got wrong."""
    known = set(kind.model_fields) - {"name"}
    lines: dict[str, str] = {}
    for finding in error.errors(include_url=False):
        where = str(finding["loc"][0]) if finding["loc"] else ""
        text = finding["msg"].removeprefix("Value error, ")
        text = text[0].lower() + text[1:]
        if finding["type"] == "extra_forbidden":
            hint = suggest(where, known) or f"; expected one of {shorten(sorted(known))}"
            lines[where] = f"{where!r}: not a parameter{hint}"
        elif finding["type"] == "missing":
            lines[where] = f"{where}: not given, but needed"
        elif where in lines:
            # Several forms are accepted and none fits; they belong together.
            lines[where] += f" or {text}"
        else:
            lines[where] = f"{where}: found {finding['input']!r}; {text}" if where else text
    return list(lines.values())


def _describe(step: AnyStep) -> str:
    given = step.model_dump(mode="json", exclude_defaults=True, exclude={"name", "p"})
    parameters = [f"{key}={_show(value)}" for key, value in given.items()]
    return f"{step.name}({', '.join([*parameters, f'p={step.p:g}'])})"


def _show(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_show(part) for part in value)}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


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
