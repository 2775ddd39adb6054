"""MLflow: a run as an MLflow run, with a nested run for each member and fold.

The run holds settings, stamps, final scores and files; a nested run holds a value of each
epoch. Where they are kept is MLflow's own choice: `MLFLOW_TRACKING_URI`, else what its version
makes by default. `RUN/tracking.json` remembers which of its runs are ours.

Owns names and limits of MLflow. It must not read what a run computed but through `runs` and
`scoring`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from loupe.files import write_json
from loupe.runs import Run
from loupe.scoring import read_scores
from loupe.trackers import Course, Status, flatten_recipes

if "mlflow" not in sys.modules:
    # Nothing is sent to anyone but the tracking server, and progress bars stay whole; whoever
    # has set these, or has imported MLflow before, is not overruled.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

EXPERIMENT = "loupe"
"""Name of the experiment, if `MLFLOW_EXPERIMENT_NAME` does not say another."""
STATE = "tracking.json"
_MOST_METRICS, _MOST_PARAMS = 500, 100
"""In one request; MLflow takes 1000 and 100."""
_LONGEST_VALUE, _LONGEST_TAG = 500, 4000
"""Characters; what older versions of MLflow take as well. Recipes are also kept as files."""
_LONGEST_KEY = 60
"""Characters of a name that was changed, without its digest: with three bytes each it is still
a file name."""
_NOT_ALLOWED = re.compile(r"[^\w\-. ]")

Item = TypeVar("Item")


class Mlflow:
    """Logs to a tracking store; see `trackers.Tracker`."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._client = MlflowClient()
        self._name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        uri = _hide_password(self._client.tracking_uri)
        self.place = f"{uri}, experiment {self._name!r}"
        self._state = _State(run.folder / STATE, uri)
        self._opened: dict[str, _Opened] = {}
        self._done: set[str] = set()

    def begin(self) -> None:
        """Log settings, stamps and versions; the resolved recipes as files."""
        run, parent = self._run, self._open("", run_name(self._run.folder), {})
        settings = flatten_recipes(run).items()
        params = {_key(name): _spell(value)[:_LONGEST_VALUE] for name, value in settings}
        # What was logged may not be logged with another value.
        missing = [Param(k, v) for k, v in params.items() if k not in parent.params]
        for some in _portions(missing, _MOST_PARAMS):
            self._client.log_batch(parent.id, params=some)
        tags = [RunTag(name, text[:_LONGEST_TAG]) for name, text in _describe(run).items()]
        self._client.log_batch(parent.id, tags=tags)
        for name in run.members:
            folder = run.member(name).folder
            self._client.log_artifact(parent.id, str(folder / "recipe.yaml"), _key(name))

    def tell(self, course: Course) -> None:
        """Log the epochs that MLflow does not hold yet."""
        if not course.points:
            return
        tags = {"loupe.member": course.member, "loupe.fold": course.fold}
        nested = self._open(course.name, course.name, tags)
        self._log(
            nested,
            (
                (_metric(name), value, point.step, point.time_s)
                for point in course.points
                for name, value in point.values.items()
            ),
        )
        if course.done:
            self._done.add(course.name)

    def finish(self) -> None:
        """Log scores with their intervals, and the files that matter."""
        run, parent = self._run, self._opened[""]
        found = json.loads(run.scores_file.read_text(encoding="utf-8"))
        when = run.scores_file.stat().st_mtime
        values = [("seconds", found["seconds"], 0, when)]
        for fold, scores in found["folds"].items():
            values += [
                (f"folds/{_key(metric)}", value, int(fold), when)
                for metric, value in scores.items()
                if value is not None
            ]
        for name in found["scores"]:
            of = "" if name == "all" else f" {name}"
            for each in read_scores(run, name):
                key = f"{each.metric}.{each.class_name}" if each.class_name else each.metric
                ends = {"score": each.value, "low": each.low, "high": each.high}
                values += [(f"{_key(k + of)}/{_key(key)}", v, 0, when) for k, v in ends.items()]
        self._log(parent, ((k, v, s, t) for k, v, s, t in values if math.isfinite(v)))
        versions = run.folder / "versions.json"
        files = (run.scores_file, run.rule_file, run.cuts_file, run.log, versions)
        for path in files:
            if path.is_file():
                self._client.log_artifact(parent.id, str(path))

    def close(self, status: Status) -> None:
        """Say how the training, and each of its jobs, ended."""
        for name, opened in self._opened.items():
            if not opened.ended:
                ended = "FINISHED" if name in self._done else status
                self._client.set_terminated(opened.id, ended)

    def _log(self, opened: _Opened, values: Iterator[tuple[str, float, int, float]]) -> None:
        new = (
            Metric(key, value, int(time_s * 1000), step)
            for key, value, step, time_s in values
            if step > opened.last.get(key, -1)
        )
        for some in _portions(new, _MOST_METRICS):
            self._client.log_batch(opened.id, metrics=some)
            opened.last |= {metric.key: metric.step for metric in some}

    def _open(self, name: str, title: str, tags: Mapping[str, str]) -> _Opened:
        """Go on with the MLflow run of a job, or of all ("")."""
        if name not in self._opened:
            found = self._find(self._state.runs.get(name))
            self._opened[name] = found or self._create(name, title, tags)
        return self._opened[name]

    def _find(self, key: str | None) -> _Opened | None:
        if key is None:
            return None
        try:
            found = self._client.get_run(key)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        if found.info.lifecycle_stage != "active":
            return None
        last = {
            name: max(each.step for each in self._client.get_metric_history(key, name))
            for name in found.data.metrics
        }
        ended = found.info.status == "FINISHED"
        if not ended:
            self._client.update_run(key, status="RUNNING")
        return _Opened(key, last, set(found.data.params), ended=ended)

    def _create(self, name: str, title: str, tags: Mapping[str, str]) -> _Opened:
        more = {"mlflow.source.name": "loupe train", "mlflow.source.type": "LOCAL", **tags}
        if name:
            more["mlflow.parentRunId"] = self._opened[""].id
        else:
            # Nested runs of a run that is gone would be found by nobody.
            self._state.runs.clear()
        made = self._client.create_run(
            self._find_experiment(), start_time=int(time.time() * 1000), run_name=title, tags=more
        )
        self._state.keep(name, made.info.run_id)
        return _Opened(made.info.run_id, {}, set(), ended=False)

    def _find_experiment(self) -> str:
        found = self._client.get_experiment_by_name(self._name)
        if found is not None:
            return str(found.experiment_id)
        try:
            return str(self._client.create_experiment(self._name))
        except MlflowException:
            # Another training may have made it just now.
            found = self._client.get_experiment_by_name(self._name)
            if found is None:
                raise
            return str(found.experiment_id)


class _Opened:
    """A run of MLflow: its id, the last step of each metric, which settings it has."""

    __slots__ = ("ended", "id", "last", "params")

    def __init__(self, key: str, last: dict[str, int], params: set[str], *, ended: bool) -> None:
        self.id, self.last, self.params, self.ended = key, last, params, ended


class _State:
    """The ids of the MLflow runs that show a run, of one tracking store."""

    def __init__(self, path: Path, uri: str) -> None:
        self._path, self._uri = path, uri
        held = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        self._stores: dict[str, dict[str, str]] = held.get("mlflow", {})
        self.runs = self._stores.setdefault(uri, {})

    def keep(self, name: str, key: str) -> None:
        self.runs[name] = key
        write_json(self._path, {"mlflow": self._stores})


def run_name(folder: Path) -> str:
    """Return what a run is called: the name of its folder."""
    return folder.absolute().name


def _describe(run: Run) -> dict[str, str]:
    manifest = run.manifest()
    versions = json.loads((run.folder / "versions.json").read_text(encoding="utf-8"))
    tags = {"loupe.folder": str(run.folder.absolute()), "loupe.table": manifest["table"]}
    tags |= {"loupe.task": manifest["task"], "loupe.stamps": "\n".join(manifest["stamps"])}
    tags |= {f"loupe.version.{_key(name)}": str(text) for name, text in versions.items()}
    if manifest["stamps"]:
        # What must be said wherever a score is shown: the text at the head of the page.
        tags["mlflow.note.content"] = "\n\n".join(manifest["stamps"])
    return tags


def _metric(name: str) -> str:
    """Return the key of a column of the history: at most one slash, for it parts folders."""
    head, slash, rest = name.partition("/")
    return f"{_key(head)}/{_key(rest.replace('/', '.', 1))}" if slash else _key(head)


def _key(text: str) -> str:
    """Return a name that MLflow takes; one that had to be changed ends with its digest.

    Examples:
        >>> _key("recall.crack")
        'recall.crack'
        >>> _key("a/b"), _key("a:b")
        ('a_b-82badf67', 'a_b-78d6dbab')
    """
    plain = _NOT_ALLOWED.sub("_", text)
    if plain == text and len(text) <= _LONGEST_KEY and text.strip(". "):
        return text
    digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    return f"{plain[:_LONGEST_KEY]}-{digest}"


def _spell(value: str | float | bool) -> str:  # noqa: FBT001
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _portions(items: Sequence[Item] | Iterator[Item], most: int) -> Iterator[list[Item]]:
    rest = iter(items)
    while some := list(islice(rest, most)):
        yield some


def _hide_password(uri: str) -> str:
    """Return an address without a name and a password.

    Examples:
        >>> _hide_password("https://me:secret@server:5000/x")
        'https://server:5000/x'
    """
    place = urlsplit(uri).netloc
    return uri.replace(place, place.rpartition("@")[2], 1) if "@" in place else uri
