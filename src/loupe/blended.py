"""What a blend was made from: its sources, and their weights.

It must not read files or fit weights (that is `blending`).

Shapes: M members.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where one member of a blend comes from.

    Attributes:
        place: A run folder or a predictions file, from the folder of the blend.
        member: Of the run, where its members were blended; "" for the whole run.
        file: True for a predictions file, which has no networks.
    """

    place: str
    member: str = ""
    file: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Blended:
    """What a blend was made from, in the order of its members.

    Attributes:
        sources: (M,) where each member is.
        weights: (M,) on new images, summing to 1.
        by_fold: Fold, as text, to the (M,) weights that were fitted without it; None where
            nothing was fitted.
        method: How the weights came to be.
        metric: What they were fitted for.
        verdict: Whether they beat the plain mean, in words.
    """

    sources: tuple[Source, ...]
    weights: tuple[float, ...]
    by_fold: Mapping[str, tuple[float, ...]] | None = None
    method: str
    metric: str
    verdict: str = ""


def read_blended(values: Mapping[str, Any]) -> Blended:
    """Read what a manifest says of a blend.

    Args:
        values: `dataclasses.asdict` of a `Blended`, through JSON.
    """
    by_fold = values["by_fold"]
    return Blended(
        sources=tuple(
            Source(place=each["place"], member=each["member"], file=each["file"])
            for each in values["sources"]
        ),
        weights=tuple(values["weights"]),
        by_fold=None if by_fold is None else {k: tuple(w) for k, w in by_fold.items()},
        method=values["method"],
        metric=values["metric"],
        verdict=values["verdict"],
    )
