"""Stage times: what reaches each stage of a cascade, and how long each takes.

Owns which pairs of an image and a class must still be looked at, the share of them, and the
line that is shown of a stage. It must not run a stage.

Shapes: n images, C classes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from loupe.cascades import StageName
from loupe.dices import Pairs
from loupe.gatefits import FittedGate, apply_gate
from loupe.gates import keep_likeliest
from loupe.maskcuts import CutMasks
from loupe.weighting import Bool, divide

Float32 = NDArray[np.float32]

DECODE = "decode"
"""Name of what comes before all stages: files to pixels."""
_HUGE = 2**40  # an area that no gate finds too small


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """How much reaches one stage of a variant; the rest costs it nothing.

    Attributes:
        variant: Name of the variant.
        stage: The stage.
        images: Share of all images that it is shown.
        pairs: Share of all pairs of an image and a class that are still open then.
    """

    variant: str
    stage: StageName
    images: float
    pairs: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTime:
    """What one stage was shown, what it let through, and how long it took.

    Attributes:
        name: "decode", or the stage.
        images_in: Images that it was shown.
        images_out: Images that went on; of the masks, images with a mask in the end.
        pairs_in: Pairs of an image and a class that were open before it.
        pairs_out: Pairs that went on; of the masks, masks that are not empty in the end.
        seconds: Wall time spent waiting for it, preparing its images included. Files are
            decoded ahead in threads, so what networks hide of that is not counted.
    """

    name: str
    images_in: int
    images_out: int
    pairs_in: int
    pairs_out: int
    seconds: float

    @property
    def images_per_s(self) -> float:
        """Images that it was shown in a second; NaN if it took no time.

        Examples:
            >>> StageTime(
            ...     name="masks", images_in=6, images_out=1, pairs_in=9, pairs_out=1, seconds=1.5
            ... ).images_per_s
            4.0
        """
        return float(divide(np.float64(self.images_in), np.float64(self.seconds)))


@dataclass(slots=True)
class Clock:
    """Adds up what each stage is shown and takes, chunk by chunk.

    Attributes:
        names: Of the stages, in order.
    """

    names: tuple[str, ...]
    _seconds: dict[str, float] = field(default_factory=dict)
    _counts: dict[str, list[int]] = field(default_factory=dict)

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        """Count the time inside to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            taken = time.perf_counter() - start
            self._seconds[name] = self._seconds.get(name, 0.0) + taken

    def count(self, name: str, before: Bool, after: Bool) -> None:
        """Count the pairs that were open before and after a stage.

        Args:
            name: The stage.
            before: Which pairs it was shown.
            after: Which went on.

        Shape:
            before, after: (n, C).
        """
        both = [figure for open_ in (before, after) for figure in (open_.any(axis=1), open_)]
        held = self._counts.setdefault(name, [0, 0, 0, 0])
        self._counts[name] = [n + int(each.sum()) for n, each in zip(held, both, strict=True)]

    def list_times(self) -> tuple[StageTime, ...]:
        """Return a line for each stage, in order; zeros where one was never reached."""
        return tuple(self._spell(name) for name in self.names)

    def _spell(self, name: str) -> StageTime:
        images_in, pairs_in, images_out, pairs_out = self._counts.get(name, [0, 0, 0, 0])
        return StageTime(
            name=name,
            images_in=images_in,
            images_out=images_out,
            pairs_in=pairs_in,
            pairs_out=pairs_out,
            seconds=self._seconds.get(name, 0.0),
        )


def measure_reach(variant: str, stage: StageName, seen: Bool) -> Reach:
    """Return what share of images and pairs reaches a stage.

    Args:
        variant: Name of the variant.
        stage: The stage.
        seen: (n, C) pairs that are open when it looks.
    """
    images, pairs = float(seen.any(axis=1).mean()), float(seen.mean())
    return Reach(variant=variant, stage=stage, images=images, pairs=pairs)


def may_pass(gate: FittedGate, probs: Float32) -> Bool:
    """Return which pairs a gate could let through; for the others no mask need be drawn.

    Every gate that lets a mask through lets a larger and surer one through as well, so it is
    asked about the best mask that there can be.

    Args:
        gate: Fitted.
        probs: Of presence, as the networks give them; NaN passes.

    Shape:
        probs: (N, C). Returns (N, C).

    Examples:
        >>> may_pass(FittedGate(kind="top", levels=(0.7,)), np.float32([[0.3], [0.5]])).tolist()
        [[False], [True]]
    """
    nothing, sure = np.zeros(probs.shape, np.int64), np.ones(probs.shape, np.float32)
    best = Pairs(truth=nothing, predicted=np.full(probs.shape, _HUGE), intersection=nothing)
    return apply_gate(gate, probs, CutMasks(best, sure, sure)).keep


def open_likeliest(probs: Float32) -> Bool:
    """Return the likeliest class of each row alone; none where nothing is known."""
    return keep_likeliest(np.zeros(probs.shape, np.bool_), probs)
