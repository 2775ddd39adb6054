"""Trackers: what they are told of a run, whatever they make of it.

Owns the form of it, read from the histories, the log and the recipes of a run that may be under
way. It must not know a tracker's library.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from loupe.runs import Run

Status = Literal["FINISHED", "FAILED", "KILLED"]
"""How a training ended, in MLflow's words."""
Plain = str | int | float | bool


class Point(NamedTuple):
    """What is known of one epoch.

    Attributes:
        step: Number of the epoch over all stages, from 1.
        time_s: When it ended, in seconds since 1970.
        values: Finite numbers by name: "loss", "lr", "val/f1_macro".
    """

    step: int
    time_s: float
    values: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How one job has gone so far: a member held out on one fold.

    Attributes:
        member: Its name.
        fold: Name of the folder of the fold: "fold-0", or "all" in a refit run.
        points: Its epochs, in order.
        done: True once the job is complete.
    """

    member: str
    fold: str
    points: tuple[Point, ...]
    done: bool

    @property
    def name(self) -> str:
        """The job in words: "tiles/fold-0"."""
        return f"{self.member}/{self.fold}"


class Tracker(Protocol):
    """Where a training is shown; opened, used and closed by one thread."""

    place: str
    """Where to look, for people."""

    def begin(self) -> None:
        """Tell what the run is made from: recipes, stamps, versions."""

    def tell(self, course: Course) -> None:
        """Tell the epochs of a job that it does not hold yet."""

    def finish(self) -> None:
        """Tell the scores of a finished run."""

    def close(self, status: Status) -> None:
        """Write what is still held back, and say how the training ended."""


def read_courses(run: Run) -> Iterator[Course]:
    """Read how the jobs of a run have gone so far.

    Values are those of the history; what only the log holds of an epoch (such as the chosen
    ridge penalty) is added. Of a job under way, the epoch whose line in the log is not written
    yet is left for the next time.

    Args:
        run: Trained, or under way.

    Yields:
        A course for each job that has begun.
    """
    events = {
        (event["member"], event["fold"], event["stage"], event["epoch"]): event
        for event in read_events(run)
        if event["event"] == "epoch"
    }
    for member in run.members:
        for number in run.folds:
            files = run.member(member).fold(number)
            done = files.done
            if not files.history.is_file():
                continue
            with files.history.open(encoding="utf-8", newline="") as stream:
                lines = list(csv.DictReader(stream))
            points = []
            for step, line in enumerate(lines, 1):
                event = events.get((member, number, int(line["stage"]), int(line["epoch"])), {})
                if not event and not done:
                    break
                when = event.get("time_s") or files.history.stat().st_mtime
                points.append(Point(step, when, _take_values(line, event)))
            fold = files.folder.name
            yield Course(member=member, fold=fold, points=tuple(points), done=done)


_PLACES = ("event", "time_s", "member", "fold", "stage", "epoch")
"""What says which epoch it was, not how it went."""


def _take_values(line: Mapping[str, str], event: Mapping[str, Any]) -> dict[str, float]:
    values = {
        name: float(value or "nan")
        for name, value in ({**event, **line}).items()
        if name not in _PLACES
    }
    # A metric without a value is left out, as in the log.
    return {name: value for name, value in values.items() if math.isfinite(value)}


def read_events(run: Run) -> list[dict[str, Any]]:
    """Read the whole lines of a run's log.

    Args:
        run: Whose log; it may not exist yet.
    """
    if not run.log.is_file():
        return []
    # The last line may still be under way.
    return [json.loads(line) for line in run.log.read_bytes().split(b"\n")[:-1]]


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Plain]:
    """Turn a nested mapping into one of plain values with dotted names.

    Args:
        values: As JSON has them.
        prefix: Put before each name.

    Examples:
        >>> flatten({"optimizer": {"lr": 0.1}, "stages": [{"epochs": 3}], "size": [64, 64]})
        {'optimizer.lr': 0.1, 'stages.0.epochs': 3, 'size': '[64, 64]'}
    """
    flat: dict[str, Plain] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        nested = value
        if isinstance(value, list) and any(isinstance(each, dict) for each in value):
            nested = {str(place): each for place, each in enumerate(value)}
        if isinstance(nested, dict) and nested:
            flat |= flatten(nested, f"{name}.")
        elif isinstance(value, str | int | float):
            flat[name] = value
        else:
            flat[name] = json.dumps(value, ensure_ascii=False)
    return flat


def flatten_recipes(run: Run) -> dict[str, Plain]:
    """Return all settings of a run's resolved recipes; names begin with the member, if several.

    Args:
        run: Prepared.
    """
    flat: dict[str, Plain] = {}
    for name in run.members:
        prefix = f"{name}." if len(run.members) > 1 else ""
        flat |= flatten(run.member(name).recipe().model_dump(mode="json"), prefix)
    return flat
