"""The run folder: every file name in it, and what is done.

    RUN/ manifest.json table.parquet versions.json log.jsonl
         oof.parquet scores.json instructions.txt
         counts.npz counts/fold-0.npz cuts.json masks.png frames/     in a run that draws masks
         issues.csv issues.json report.html figures/                  of `audit` and `report`
         <member>/ recipe.yaml input.json features.npy first_batch.png
                   fold-0/ last.safetensors state.pt history.csv first_batch.png
                           predictions.parquet done.json
                   all/    the same without predictions, in a refit run

No other module builds a path inside a run, but for what a verb keeps beside it by default
(`auditing`, `reporting`, `trackers`). It must not train or score.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from loupe.blended import Blended, Source, read_blended
from loupe.errors import RunError, shorten
from loupe.files import replacing, write_json, write_text
from loupe.images import InputSpec
from loupe.predictions import Predictions, read_predictions
from loupe.recipe import Recipe, read_recipe, write_recipe
from loupe.records import digest_sizes, list_versions
from loupe.table import Table, read_snapshot, write_snapshot

SCHEMA = 2
REFIT = -1
"""Number of the one fold of a refit run: trained on all rows, nothing held out."""


@dataclass(frozen=True, slots=True)
class Fold:
    """The files of one job: a member held out on one fold."""

    folder: Path

    @property
    def weights(self) -> Path:
        """Weights to predict with; there once the job is complete."""
        return self.folder / "last.safetensors"

    @property
    def state(self) -> Path:
        """All that continuing needs: weights, optimizer, averages, counters."""
        return self.folder / "state.pt"

    @property
    def history(self) -> Path:
        """A line an epoch."""
        return self.folder / "history.csv"

    @property
    def predictions(self) -> Path:
        """Probabilities of the held-out rows."""
        return self.folder / "predictions.parquet"

    @property
    def first_batch(self) -> Path:
        """Picture of the first batch of images, as the network saw them."""
        return self.folder / "first_batch.png"

    @property
    def done_mark(self) -> Path:
        """Written last; its presence means that the job is complete."""
        return self.folder / "done.json"

    @property
    def done(self) -> bool:
        """True if this job is complete."""
        return self.done_mark.is_file()


@dataclass(frozen=True, slots=True)
class Member:
    """The files of one member: one recipe, trained on every fold.

    Attributes:
        name: Unique in its run.
        folder: Where they are; in another run's folder if the run is a blend.
        folds: Numbers of its folds, in order.
    """

    name: str
    folder: Path
    folds: tuple[int, ...]

    @property
    def features(self) -> Path:
        """(N, V, D) float32 features of the frozen backbone, V views."""
        return self.folder / "features.npy"

    @property
    def first_batch(self) -> Path:
        """Picture of the first images whose features were kept."""
        return self.folder / "first_batch.png"

    def fold(self, number: int) -> Fold:
        """Return the files of one fold."""
        return Fold(self.folder / ("all" if number == REFIT else f"fold-{number}"))

    @property
    def prepared(self) -> bool:
        """True once start weights and input are fixed."""
        return (self.folder / "input.json").is_file()

    def recipe(self) -> Recipe:
        """Read the resolved recipe."""
        return read_recipe(self.folder / "recipe.yaml")

    def write_recipe(self, recipe: Recipe) -> None:
        """Store the resolved recipe."""
        write_text(self.folder / "recipe.yaml", write_recipe(recipe))

    def input_spec(self) -> InputSpec:
        """Read how images are prepared for this member."""
        values = json.loads((self.folder / "input.json").read_text(encoding="utf-8"))
        values["mean"], values["std"] = tuple(values["mean"]), tuple(values["std"])
        return InputSpec(**values)

    def write_input(self, spec: InputSpec) -> None:
        """Store how images are prepared for this member."""
        write_json(self.folder / "input.json", asdict(spec))


@dataclass(frozen=True, slots=True)
class Run:
    """A folder with everything about one training.

    Attributes:
        folder: Where it is.
        members: Names of the members, in order.
        folds: Numbers of the folds, in order.
        blend: What the run was blended from; None if it was trained.
        segments: True if its networks draw masks, False if they name classes.
    """

    folder: Path
    members: tuple[str, ...]
    folds: tuple[int, ...]
    blend: Blended | None = None
    segments: bool = False

    @property
    def log(self) -> Path:
        """One JSON object a line, written while training."""
        return self.folder / "log.jsonl"

    @property
    def refit(self) -> bool:
        """True if the run was trained on all rows and has no out-of-fold sheet."""
        return self.folds == (REFIT,)

    @property
    def oof_file(self) -> Path:
        """Out-of-fold probabilities of every member."""
        return self.folder / "oof.parquet"

    @property
    def scores_file(self) -> Path:
        """Every metric with its interval."""
        return self.folder / "scores.json"

    @property
    def rule_file(self) -> Path:
        """How probabilities become decisions, if that was fitted."""
        return self.folder / "rule.json"

    @property
    def counts_file(self) -> Path:
        """Of a run that draws masks: what each candidate cut hits and misses, out of fold."""
        return self.folder / "counts.npz"

    def frames(self, spec: InputSpec) -> Path:
        """Return the masks in the frame of images prepared so."""
        return self.folder / "frames" / f"{spec.digest()}.npz"

    def fold_counts(self, number: int) -> Path:
        """Return the counts of the rows that one fold holds out."""
        return self.folder / "counts" / f"fold-{number}.npz"

    @property
    def cuts_file(self) -> Path:
        """Of a run that draws masks: how maps become masks."""
        return self.folder / "cuts.json"

    @property
    def contact_file(self) -> Path:
        """Of a run that draws masks: the best, median and worst of each class."""
        return self.folder / "masks.png"

    @property
    def instructions_file(self) -> Path:
        """The commands that use this run."""
        return self.folder / "instructions.txt"

    @property
    def finished(self) -> bool:
        """True if all jobs are done and the scores are written."""
        return self.scores_file.is_file()

    def member(self, name: str) -> Member:
        """Return the files of one member of a trained run."""
        return Member(name, self.folder / name, self.folds)

    def networks(self) -> tuple[tuple[Member, float], ...]:
        """Return the members whose networks predict, each with its weight; weights sum to 1.

        Those of a blend are in the folders of its sources.

        Raises:
            RunError: a source of a blend is a predictions file, or is gone.
        """
        if self.blend is None:
            share = 1 / len(self.members)
            return tuple((self.member(name), share) for name in self.members)
        found = []
        for source, weight in zip(self.blend.sources, self.blend.weights, strict=True):
            run = self._open_source(source)
            if source.member:
                found.append((run.member(source.member), weight))
            else:
                found += [(member, weight * share) for member, share in run.networks()]
        return tuple(found)

    def manifest(self) -> dict[str, Any]:
        """Read what the run was made from."""
        return _read_manifest(self.folder)

    def table(self) -> Table:
        """Read the table the run was trained on."""
        return read_snapshot(self.folder / "table.parquet")

    def oof(self) -> dict[str, Predictions]:
        """Read the out-of-fold sheet of every member.

        Raises:
            RunError: training has not finished, nothing was held out, or the networks draw
                masks.
        """
        if self.segments:
            raise RunError(
                f"{self.folder} draws masks and names no classes, so it has no probabilities. Its "
                f"masks: loupe segment {self.folder} IMAGES --out masks.csv; their scores are in "
                f"{self.scores_file}."
            )
        if self.refit:
            raise RunError(
                f"{self.folder} was trained on all rows, so it has no out-of-fold predictions; "
                f"they are in {self.manifest()['refit_of']}."
            )
        if not self.oof_file.is_file():
            raise RunError(
                f"{self.folder} has no out-of-fold predictions yet: training has not finished. "
                "Run the same 'loupe train' command again to continue it."
            )
        return read_predictions(self.oof_file)

    def _open_source(self, source: Source) -> Run:
        if source.file:
            raise RunError(
                f"{self.folder} is a blend of predictions files ({source.place}), which have no "
                "networks to predict images with. Predict them where the files came from, then: "
                "loupe blend FILE FILE --weights ... --out blended.csv"
            )
        place = self.folder / source.place
        if not (place / "manifest.json").is_file():
            raise RunError(
                f"{self.folder} is a blend of {source.place}, and there is no run in "
                f"{place.resolve()} any more. Put it back, or blend again."
            )
        return open_run(place.resolve())


def create_run(
    folder: Path,
    table: Table,
    recipes: Mapping[str, Recipe],
    stamps: Sequence[str] = (),
    *,
    refit_of: Path | None = None,
) -> Run:
    """Make a run folder, or open it if the same table and recipes made it.

    Args:
        folder: Where the run lives.
        table: With folds.
        recipes: Member name to recipe, before the probe.
        stamps: What must be said wherever a score of this run is shown.
        refit_of: The cross-validated run that this one, trained on all rows, follows.

    Raises:
        RunError: the folder holds something else.
    """
    folds = list_folds(table, refit=refit_of is not None)
    wanted: dict[str, Any] = {
        "kind": "run",
        "schema": SCHEMA,
        "table": table.digest(),
        "images": digest_sizes(table.images),
        "weights": {name: recipe.start.digest for name, recipe in recipes.items()},
        "recipes": {name: recipe.digest() for name, recipe in recipes.items()},
        "folds": folds,
        "stamps": list(stamps),
        "refit_of": None if refit_of is None else str(refit_of.absolute()),
    }
    segments = any(recipe.decoder is not None for recipe in recipes.values())
    run = Run(folder, tuple(recipes), folds, segments=segments)
    wanted["task"] = "segment" if segments else "classify"
    if (folder / "manifest.json").is_file():
        _check_same(folder, json.loads(json.dumps(wanted)))
        if not run.finished:
            # The images may have been moved since.
            _write_table(folder, table)
        return run
    _check_empty(folder)
    for name, recipe in recipes.items():
        run.member(name).write_recipe(recipe)
    _write_table(folder, table)
    write_json(folder / "versions.json", list_versions())
    # The manifest comes last: a folder without one is not yet a run.
    write_json(folder / "manifest.json", wanted)
    return run


def list_folds(table: Table, *, refit: bool) -> tuple[int, ...]:
    """Return the numbers of the folds that a run of a table has.

    Args:
        table: With folds.
        refit: Nothing is held out.
    """
    if refit:
        return (REFIT,)
    return () if table.folds is None else tuple(sorted({int(k) for k in table.folds if k >= 0}))


def open_run(folder: str | Path) -> Run:
    """Open a run folder.

    Args:
        folder: Made by `train`.

    Raises:
        RunError: it is no run folder, or a newer Loupe made it.
    """
    manifest = _read_manifest(Path(folder))
    folds = tuple(manifest["folds"])
    if manifest["kind"] == "run":
        segments = manifest.get("task") == "segment"
        return Run(Path(folder), tuple(manifest["recipes"]), folds, segments=segments)
    return Run(Path(folder), tuple(manifest["members"]), folds, read_blended(manifest["blend"]))


def create_blend(
    folder: Path, table: Table, members: Sequence[str], blend: Blended, stamps: Sequence[str]
) -> Run:
    """Make the folder of a blend; it has the form of a run, but its networks are elsewhere.

    Args:
        folder: Empty, or of an earlier blend, which is replaced.
        table: What all sources predicted.
        members: (M,) names.
        blend: What it is made from.
        stamps: What must be said wherever a score of it is shown.

    Raises:
        RunError: the folder holds something else.
    """
    manifest = folder / "manifest.json"
    if manifest.is_file() and _read_manifest(folder)["kind"] != "blend":
        raise RunError(f"{folder} is a trained run; choose another --out.")
    if not manifest.is_file():
        _check_empty(folder)
    folds = list_folds(table, refit=False)
    _write_table(folder, table)
    write_json(folder / "versions.json", list_versions())
    wanted = {
        "kind": "blend",
        "schema": SCHEMA,
        "table": table.digest(),
        "members": list(members),
        "folds": folds,
        "stamps": list(stamps),
        "refit_of": None,
        "blend": asdict(blend),
    }
    write_json(manifest, wanted)
    return Run(folder, tuple(members), folds, blend)


def _write_table(folder: Path, table: Table) -> None:
    # Absolute, because the next command may start elsewhere.
    placed = replace(table, images=tuple(path.absolute() for path in table.images))
    with replacing(folder / "table.parquet") as temporary:
        write_snapshot(placed, temporary)


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    if not path.is_file():
        raise RunError(
            f"{folder} is no run folder (it has no manifest.json). Name a folder that 'loupe "
            "train' made; it prints its name at the start."
        )
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if manifest.get("kind") not in ("run", "blend") or manifest.get("schema") != SCHEMA:
        raise RunError(
            f"{folder} is a {manifest.get('kind')!r} of schema {manifest.get('schema')!r}; this "
            f"version of Loupe opens a 'run' of schema {SCHEMA}."
        )
    return manifest


_IDENTITY = ("table", "images", "recipes", "weights", "folds", "stamps", "refit_of")


def _check_same(folder: Path, wanted: Mapping[str, Any]) -> None:
    found = _read_manifest(folder)
    differing = [key for key in _IDENTITY if found.get(key) != wanted[key]]
    if differing:
        raise RunError(
            f"{folder} was made with another {' and another '.join(differing)}; a run is "
            "continued only by the same command. Choose another --out, or delete that folder."
        )


def _check_empty(folder: Path) -> None:
    held = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    # A run that was stopped before its manifest is taken over; anything else is foreign.
    foreign = [n for n in held if n not in {"table.parquet", "versions.json"} and n[0] != "."]
    foreign = [n for n in foreign if not (folder / n / "recipe.yaml").is_file()]
    if foreign:
        raise RunError(
            f"{folder} is not empty and no run (it holds {shorten(foreign)}); choose another --out."
        )
