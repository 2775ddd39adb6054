"""What all augmentation steps share: a probability, and how they are written.

Owns the base classes, the forms a step is written in, and the kinds of ranges. The
steps themselves are in `geometric_steps`, `colour_steps` and `erasing`. It must not
touch pixels.

A range is written ``[low, high]``. A number v alone is read as albumentations reads
it: it stands for (-v, v) where 0 means no change, for (1 - v, 1 + v) where 1 does,
and for (least, v) where only one side makes sense. Where albumentations takes it
for one fixed value, or would have to guess, a number alone is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
)

from loupe.colour import Look
from loupe.errors import shorten, suggest
from loupe.geometry import Geometry, Size

Pair = tuple[float, float]


class Step(BaseModel):
    """What every step has: a probability, and nothing that is not declared.

    Attributes:
        p: Probability that the step acts on a sample; 0 never, 1 always.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    name: str
    p: float = Field(default=0.5, ge=0, le=1)


class GeometricStep(Step):
    """A step that moves pixels; it extends the one map of a sample."""

    def extend(self, geometry: Geometry, rng: np.random.Generator, /) -> Geometry:
        """Draw a move, and append it to the map."""
        raise NotImplementedError


class ColourStep(Step):
    """A step that changes pixels of the output where they are."""

    def choose(self, size: Size, rng: np.random.Generator, /) -> tuple[Look, ...]:
        """Draw what is done to an output of this size."""
        raise NotImplementedError


def name_step(item: object) -> tuple[str, dict[str, Any]] | None:
    """Part the name of a step from its parameters.

    Args:
        item: ``Name``, ``{Name: parameters}`` or ``{name: Name, ...}``.

    Returns:
        The name and the parameters, or None if it has none of these forms.
    """
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


def explain_errors(error: ValidationError, kind: type[Step]) -> list[str]:
    """Say in one line each what a step's parameters got wrong.

    Args:
        error: What pydantic found.
        kind: The step.
    """
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


def describe_step(step: Step) -> str:
    """Describe a step in a few words: what is set, and its probability.

    Args:
        step: As it was read.
    """
    given = step.model_dump(mode="json", exclude_defaults=True, exclude={"name", "p"})
    parameters = [f"{key}={_show(value)}" for key, value in given.items()]
    return f"{step.name}({', '.join([*parameters, f'p={step.p:g}'])})"


def draw_uniform(limits: Pair, rng: np.random.Generator) -> float:
    """Draw a number between two limits, all equally likely."""
    return float(limits[0] + (limits[1] - limits[0]) * rng.random())


def within(low: float, high: float) -> AfterValidator:
    """Demand that both ends of a range lie in [low, high]."""

    def check(value: Pair) -> Pair:
        if not (low <= value[0] and value[1] <= high):
            raise ValueError(f"expected values in [{low:g}, {high:g}]")
        return value

    return AfterValidator(check)


def _read_range(number: Callable[[float], Pair] | None = None) -> BeforeValidator:
    """Read [low, high], or a number where there is a rule for one."""
    expected = "a number or [low, high]" if number else "[low, high]"

    def read(value: object) -> Pair:
        if number is not None and _is_number(value):
            value = number(value)  # type: ignore[arg-type]  # _is_number has looked
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise ValueError(f"expected {expected}")
        if not all(_is_number(end) for end in value) or not value[0] <= value[1]:
            raise ValueError(f"expected {expected}, with numbers and low <= high")
        return (value[0], value[1])

    return BeforeValidator(read)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _show(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_show(part) for part in value)}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _show_pair(kind: str, *, or_number: bool = True) -> WithJsonSchema:
    """Describe a range to editors that read the JSON schema."""
    pair = {"type": "array", "items": {"type": kind}, "minItems": 2, "maxItems": 2}
    return WithJsonSchema({"anyOf": [{"type": kind}, pair]} if or_number else pair)


def _has_odd(value: tuple[int, int]) -> tuple[int, int]:
    if value[0] == value[1] and value[0] % 2 == 0:
        raise ValueError("expected a range with an odd number in it, as a kernel has a middle")
    return value


Limits = Annotated[Pair, _read_range(), _show_pair("number", or_number=False)]
"""[low, high] only."""
Symmetric = Annotated[Pair, _read_range(lambda v: (-v, v)), _show_pair("number")]
"""v stands for (-v, v)."""
UpTo = Annotated[Pair, _read_range(lambda v: (0, v)), _show_pair("number")]
"""v stands for (0, v)."""
FromOne = Annotated[Pair, _read_range(lambda v: (1, v)), _show_pair("number")]
"""v stands for (1, v)."""
Factor = Annotated[
    Pair, _read_range(lambda v: (max(0, 1 - v), 1 + v)), _show_pair("number"), within(0, 10)
]
"""v stands for (1 - v, 1 + v), cut at 0."""
Kernel = Annotated[
    tuple[int, int],
    _read_range(lambda v: (3, v)),
    _show_pair("integer"),
    within(3, 99),
    AfterValidator(_has_odd),
]
"""Sides of a kernel in pixels; only odd ones are drawn; v stands for (3, v)."""
Count = Annotated[
    tuple[int, int], _read_range(lambda v: (1, v)), _show_pair("integer"), within(1, 1000)
]
"""A number of things; v stands for (1, v)."""
Grid = Annotated[
    tuple[Annotated[int, Field(ge=1, le=64)], Annotated[int, Field(ge=1, le=64)]],
    BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
]
"""[rows, columns] of tiles."""
