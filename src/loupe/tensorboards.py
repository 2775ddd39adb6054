"""TensorBoard: a run as event files, in its own folder.

    RUN/tensorboard/<member>/fold-0        a value of each epoch
    RUN/tensorboard/scores                 final scores, settings (HParams), recipes and tables
    RUN/tensorboard/scores/low, high       ends of their intervals
    RUN/tensorboard/scores/folds           the scores of each fold, at the step of its number
    RUN/tensorboard/<member>/scores        the same of one member, if there are several

Owns tags and folders. It must not read what a run computed but through `runs` and `scoring`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import (
    SCALARS,
    TENSORS,
    EventAccumulator,
)
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from loupe.intervals import Score
from loupe.recipe import write_recipe
from loupe.runs import Run
from loupe.scoring import read_scores
from loupe.trackers import Course, Status, flatten_recipes, read_events

FOLDER = "tensorboard"
_SCORES = "scores"
_SETTINGS = "_hparams_/session_end_info"
"""Tag of the last of the three summaries that make a line of the HParams page."""


class TensorBoard:
    """Writes event files; see `trackers.Tracker`."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._folder = run.folder / FOLDER
        self._opened: dict[str, _Events] = {}
        self.place = f"tensorboard --logdir {self._folder}"

    def begin(self) -> None:
        """Write recipes and stamps as text."""
        events = self._events(_SCORES)
        for name in self._run.members:
            text = write_recipe(self._run.member(name).recipe())
            events.add_text(f"recipe/{name}", _quote(text))
        stamps = self._run.manifest()["stamps"]
        if stamps:
            events.add_text("stamps", "\n".join(f"* {_escape(stamp)}" for stamp in stamps))
        events.flush()

    def tell(self, course: Course) -> None:
        """Write the epochs that are not in the event files yet."""
        events = self._events(course.name)
        for point in course.points:
            for name, value in point.values.items():
                events.add(name, value, point.step, point.time_s)
        events.flush()

    def finish(self) -> None:
        """Write scores with their intervals, settings beside them, and the rest of the log."""
        run = self._run
        found = json.loads(run.scores_file.read_text(encoding="utf-8"))
        when = run.scores_file.stat().st_mtime
        for name in found["scores"]:
            self._add_scores(name, read_scores(run, name), when)
        folds = self._events(f"{_SCORES}/folds")
        for fold, values in found["folds"].items():
            for metric, value in values.items():
                if value is not None:
                    folds.add(f"score/{metric}", value, int(fold), when)
        told = [json.dumps(e) for e in read_events(run) if e["event"] != "epoch"]
        events = self._events(_SCORES)
        events.add_text("log", _quote("\n".join(told)))
        overall = [_tag(each) for each in read_scores(run) if _known(each) and not each.class_name]
        events.add_settings(flatten_recipes(run), overall)
        for each in self._opened.values():
            each.flush()

    def close(self, status: Status) -> None:  # noqa: ARG002 (event files have no status)
        """Close the event files."""
        for events in self._opened.values():
            events.close()

    def _add_scores(self, name: str, scores: Sequence[Score], when: float) -> None:
        place = _SCORES if name == "all" else f"{name}/{_SCORES}"
        value, low, high = (self._events(f"{place}{end}") for end in ("", "/low", "/high"))
        for each in scores:
            for events, number in ((value, each.value), (low, each.low), (high, each.high)):
                if math.isfinite(number):
                    events.add(_tag(each), number, 0, when)
        value.add_text("table", _write_table(scores))

    def _events(self, place: str) -> _Events:
        if place not in self._opened:
            self._opened[place] = _Events(self._folder / place)
        return self._opened[place]


class _Events:
    """The event files of one folder, and what they held when they were opened."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None
        self._last: dict[str, int] = {}
        self._settings = False
        if folder.is_dir() and any(folder.glob("*tfevents*")):
            self._read()

    def _read(self) -> None:
        # Of each tag the last value is enough.
        found: Any = EventAccumulator(str(self._folder), size_guidance={SCALARS: 1, TENSORS: 1})
        found.Reload()
        tags = found.Tags()
        self._last = {tag: found.Scalars(tag)[-1].step for tag in tags["scalars"]}
        self._last |= dict.fromkeys(tags["tensors"], 0)
        self._settings = _SETTINGS in found.summary_metadata

    def add(self, tag: str, value: float, step: int, time_s: float) -> None:
        if step > self._last.get(tag, -1):
            self._open().add_scalar(tag, value, step, walltime=time_s)
            self._last[tag] = step

    def add_text(self, tag: str, text: str) -> None:
        held = f"{tag}/text_summary"
        if held not in self._last:
            self._open().add_text(tag, text, 0)
            self._last[held] = 0

    def add_settings(self, settings: dict[str, Any], metrics: Sequence[str]) -> None:
        """Write what the HParams page shows; the metrics are tags of the same folder."""
        if not self._settings:
            shown: Any = hparams(settings, dict.fromkeys(metrics, 0.0))  # type: ignore[no-untyped-call]
            for summary in shown:
                self._open().file_writer.add_summary(summary)
            self._settings = True

    def flush(self) -> None:
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _open(self) -> Any:
        # A file is made only for what is written.
        if self._writer is None:
            self._writer = SummaryWriter(str(self._folder))
        return self._writer


def _known(score: Score) -> bool:
    return math.isfinite(score.value)


def _tag(score: Score) -> str:
    if score.class_name:
        # A group of charts for each metric, a chart for each class.
        return f"score {score.metric}/{score.class_name}"
    return f"score/{score.metric}"


def _write_table(scores: Sequence[Score]) -> str:
    lines = [
        "| metric | class | value | low | high | rows | note |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in scores:
        numbers = [f"{value:.4f}" for value in (each.value, each.low, each.high)]
        cells = [each.metric, each.class_name, *numbers, str(each.n), each.note]
        lines.append("| " + " | ".join(_escape(cell) for cell in cells) + " |")
    return "\n".join(lines)


def _quote(text: str) -> str:
    """Return Markdown that shows text as it is."""
    return "\n".join(f"    {line}" for line in text.splitlines())


def _escape(text: str) -> str:
    """Return Markdown in which nothing of a text is markup.

    Examples:
        >>> _escape("<b>|*x*")
        '&#60;b&#62;&#124;&#42;x&#42;'
    """
    plain = " ".join(text.split())
    return "".join(
        f"&#{ord(c)};" if c.isascii() and not (c.isalnum() or c in " .,") else c for c in plain
    )
