"""Goals: what a rule is wanted for, and whether that suits the classes.

It must not fit anything.

Shapes: C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from loupe.errors import InputError, shorten, suggest
from loupe.rules import Pool
from loupe.thresholds import Goal, read_goal

ARGMAX = "argmax"
AUTO = "auto"
CALIBRATIONS = ("auto", "none", "temperature", "platt", "isotonic")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a rule is wanted for.

    Attributes:
        goals: Class name to goal, as `thresholds.read_goal` reads it; "" is for all other
            classes. Default: "auto", the largest F1 where it beats a threshold of 0.5
            beyond doubt, else 0.5 (`doubts.beat_half`); for exclusive classes "argmax",
            where "precision:0.99" rejects rows until 99 % of the others are right, and
            "fixed:0.6" rejects below it.
        calibration: "auto" takes the kind that cross-fitting favours, or none.
        coverage: In (0, 1): rows whose prediction set at this coverage is not one answer go
            to a person. None: no such rule.
        pool: "" decides rows; "mean", "max" or "auto" (`choose_pool`) each group once.
    """

    goals: Mapping[str, str] = field(default_factory=dict)
    calibration: str = "auto"
    coverage: float | None = None
    pool: str = ""


def read_goals(
    request: Request, classes: Sequence[str], *, exclusive: bool
) -> tuple[Goal | None, ...]:
    """Return the goal of each class, None for "auto"; of exclusive classes one, None for argmax.

    Args:
        request: Its goals are read.
        classes: (C,) names.
        exclusive: One class a row.

    Raises:
        InputError: a class or a goal is not known, or does not suit exclusive classes.
    """
    unknown = [name for name in request.goals if name and name not in classes]
    if unknown:
        raise InputError(
            f"a goal was given for {shorten([repr(name) for name in unknown])}, which is no class"
            f"{suggest(unknown[0], classes)}; expected one of {shorten(classes)}."
        )
    if request.calibration not in CALIBRATIONS:
        raise InputError(
            f"calibration {request.calibration!r} is not known; expected one of "
            f"{', '.join(CALIBRATIONS)}{suggest(request.calibration, CALIBRATIONS)}."
        )
    if not exclusive:
        default = request.goals.get("", AUTO)
        texts = [request.goals.get(name, default) for name in classes]
        return tuple(None if text == AUTO else read_goal(text) for text in texts)
    text = request.goals.get("", ARGMAX)
    goal = None if text == ARGMAX else read_goal(text)
    if set(request.goals) - {""} or (goal and goal.kind not in ("precision", "fixed")):
        raise InputError(
            "classes are exclusive: one class is chosen for each row, by the largest probability. "
            "Expected the goal argmax, precision:P (reject rows until a share P of the others is "
            "right) or fixed:T (reject rows below T), for all classes together. To choose a "
            "threshold for one class, train on it alone: --any-class NAME --negative OTHER."
        )
    return (goal,)


def choose_pool(pool: str, *, exclusive: bool) -> Pool:
    """Return how a group's rows are pooled where the user left it open.

    Args:
        pool: "auto": the largest probability where classes stand alone, for one picture
            of a part is enough to show a defect; the mean where they are exclusive.
        exclusive: One class a row.

    Raises:
        InputError: there is no such way.
    """
    auto: Pool = "mean" if exclusive else "max"
    ways: dict[str, Pool] = {"": "", "auto": auto, "mean": "mean", "max": "max"}
    if pool not in ways:
        raise InputError(f"by-group {pool!r} is not known; expected auto, mean or max.")
    return ways[pool]
