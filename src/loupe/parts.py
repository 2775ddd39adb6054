"""What all parts of a recipe are made of: the frozen model, ranges, unions.

It must not hold a setting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    WithJsonSchema,
)

Share = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]


class Part(BaseModel):
    """A frozen part of a recipe; unknown keys are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


def _pair(value: object) -> object:
    """Let ``size: 224`` mean ``size: [224, 224]``."""
    return [value, value] if type(value) is int else value


_SIDE = {"type": "integer", "minimum": 1}
_SIDES = {"type": "array", "prefixItems": [_SIDE, _SIDE], "minItems": 2, "maxItems": 2}
Size = Annotated[
    tuple[Count, Count], BeforeValidator(_pair), WithJsonSchema({"anyOf": [_SIDE, _SIDES]})
]
Factor = Annotated[str, Field(pattern=r"^x([1-9]\d*(\.\d+)?|0\.\d*[1-9]\d*)$")]


def one_of(key: str, default: str) -> Discriminator:
    """Tell the kinds of a part apart by one key, which may be left out.

    Args:
        key: Field that names the kind, such as `name`.
        default: Kind that is meant without it.
    """

    def name(value: object) -> str:
        if isinstance(value, Mapping):
            return str(value.get(key, default))
        return str(getattr(value, key, default))

    return Discriminator(name)


FIRST, SECOND = "form-1", "form-2"
"""Tags of the two forms of one field; `recipe` leaves them out of messages."""


def either(choose: Callable[[object], bool]) -> Discriminator:
    """Tell two forms of one field apart.

    Args:
        choose: True for a value of the first form.
    """
    return Discriminator(lambda value: FIRST if choose(value) else SECOND)
