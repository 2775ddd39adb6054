"""Tables whose labels are partly wrong, with the truth, and their out-of-fold sheets.

Used by `benchmarks.label_noise` (which rule finds them?) and `benchmarks.cleaning` (does
cleaning help?).

The network is frozen: its features are computed once by a run of `recipes/frozen_head.yaml`,
and for every set of labels the heads are solved as such a run solves them, fold by fold.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from benchmarks.measuring import ROOT

import loupe
from loupe.data import Samples
from loupe.folds import assign_folds, inner_split
from loupe.heads import fit_head
from loupe.jobs import INNER_SHARE
from loupe.losses import build_loss
from loupe.recipe import Recipe
from loupe.runs import Run, open_run
from loupe.settings import HeadStage
from loupe.table import Table
from loupe.testing import make_tiles

HUMAN = ("random_label1", "random_label2", "random_label3", "aggre_label", "worse_label")
RATES = (0.05, 0.1, 0.2, 0.4)
CELL_RATES = (0.05, 0.1, 0.2)
KINDS = ("symmetric", "conditional")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One table with wrong labels.

    Attributes:
        name: Of the row in the result.
        data: Of the images.
        kind: `human`, `symmetric` (any other class), `conditional` (one other class for each), or
            `cell` (one label of a row, where classes stand alone).
        rate: Share of wrong labels that was asked for, or found.
        seed: Of what was planted.
        given: (N,) numbers of the classes that the table says; (N, C) 0 or 1 for `cell`.
        true: The right ones.
    """

    name: str
    data: str
    kind: str
    rate: float
    seed: int
    given: np.ndarray
    true: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """Frozen features of a table (N, V, D), its folds and groups, and how its heads are solved."""

    table: Table
    values: torch.Tensor
    recipe: Recipe

    @property
    def plain(self) -> np.ndarray:
        """(N, D) features of the images as they are, as an audit reads them."""
        stage = self.recipe.stages[0]
        assert isinstance(stage, HeadStage)
        assert not isinstance(stage.views, int)
        views = list(dict.fromkeys((*stage.views, "identity")))
        return self.values[:, views.index("identity")].numpy()

    @classmethod
    def of(cls, run: Run) -> Features:
        member = run.member(run.members[0])
        values = torch.from_numpy(np.load(member.features))
        return cls(table=run.table(), values=values, recipe=member.recipe())


def train_frozen(
    make_table: Callable[[], Table], out: Path, weights: Path | None, changes: Sequence[str] = ()
) -> Run:
    """Make the run whose features all cases of a table share, or open it."""
    if (out / "scores.json").is_file():
        return open_run(out)
    recipe = loupe.read_recipe(ROOT / "recipes" / "frozen_head.yaml", changes)
    return loupe.train(make_table(), {"frozen": recipe}, out, weights=weights)


def open_cifar(data: Path, weights: Path | None, work: Path) -> Features:
    """Return the features of images of 32 pixels, shown to the network at 128."""

    def make() -> Table:
        return loupe.split(
            loupe.read_table(
                data / "labels.csv",
                images=data / "images",
                image_column="image",
                label_column="clean_label",
            )
        )

    return Features.of(train_frozen(make, work / data.name, weights, ["input.size=128"]))


def open_art(data: Path, weights: Path | None, work: Path, network: str = "") -> Features:
    """Return the features of a table that is taken to be sound."""

    def make() -> Table:
        return loupe.split(loupe.read_table(data / "labels.csv", images=data / "images"))

    changes = [f"network.name={network}"] if network else []
    place = f"{data.name}-{network}" if network else data.name
    return Features.of(train_frozen(make, work / place, weights, changes))


def open_tiles(weights: Path | None, work: Path) -> Features:
    """Return the features of the demo's tiles, one class each, sound labels."""
    folder = work / "tiles"

    def make() -> Table:
        return loupe.split(make_demo_tiles(folder))

    return Features.of(train_frozen(make, work / "demo-tiles", weights))


def stand_alone(features: Features, work: Path) -> Features:
    """Return the same tiles with a column for each class, several of which may be there."""
    folder = work / "tiles"
    table = loupe.read_table(folder / "labels.csv", images=folder / "images")
    assert table.ids == features.table.ids
    found = assign_folds(
        table.targets, table.groups, ids=table.ids, classes=table.classes, folds=5, seed=0
    )
    return replace(features, table=replace(table, folds=found.folds))


def read_human(data: Path, table: Table) -> Iterator[Case]:
    """Read the columns of labels that people gave, in the order of the table."""
    with (data / "labels.csv").open(encoding="utf-8", newline="") as file:
        lines = {line["image"]: line for line in csv.DictReader(file)}
    place = {name: number for number, name in enumerate(table.classes)}
    columns = {
        column: np.array([place[lines[key][column]] for key in table.ids])
        for column in ("clean_label", *HUMAN)
    }
    true = columns["clean_label"]
    for column in HUMAN:
        given = columns[column]
        rate = float((given != true).mean())
        yield Case(
            name=column, data=data.name, kind="human", rate=rate, seed=0, given=given, true=true
        )


def plant(data: str, table: Table, seed: int) -> Iterator[Case]:
    """Make labels of a sound table wrong, in every rate and kind.

    The number of wrong labels is exact. `conditional` sends each class to its next one.
    """
    true = table.targets.argmax(axis=1)
    count = len(table.classes)
    for kind in KINDS:
        for rate in RATES:
            rng = np.random.default_rng((seed, KINDS.index(kind), round(rate * 100)))
            rows = rng.choice(len(true), round(rate * len(true)), replace=False)
            step = rng.integers(1, count, len(rows)) if kind == "symmetric" else 1
            given = true.copy()
            given[rows] = (true[rows] + step) % count
            name = f"{data}, {kind}, {rate:.0%}"
            yield Case(
                name=name, data=data, kind=kind, rate=rate, seed=seed, given=given, true=true
            )


def plant_cells(data: str, table: Table, seed: int) -> Iterator[Case]:
    """Make one label wrong, there or not, in exactly so many rows of classes that stand alone."""
    true = (table.targets >= 0.5).astype(np.int64)
    for rate in CELL_RATES:
        rng = np.random.default_rng((seed, len(KINDS), round(rate * 100)))
        rows = rng.choice(len(true), round(rate * len(true)), replace=False)
        given = true.copy()
        given[rows, rng.integers(0, true.shape[1], len(rows))] ^= 1
        name = f"{data}, one cell of {rate:.0%} of rows"
        yield Case(name=name, data=data, kind="cell", rate=rate, seed=seed, given=given, true=true)


def make_demo_tiles(folder: Path, *, tiles: int = 400, shots: int = 3) -> Table:
    """Write the demo's tiles with sound labels, one class each, and read them."""
    if not (folder / "classes.csv").is_file():
        make_tiles(folder, tiles=tiles, shots=shots, duplicates=0, wrong_labels=0, seed=7)
    return loupe.read_table(folder / "classes.csv", images=folder / "images")


def take_part(features: Features, case: Case, parts: int, part: int) -> tuple[Features, Case]:
    """Return every so many rows as a table of its own; parts have no row in common."""
    table, rows = features.table, np.arange(part, len(features.table), parts)
    assert table.folds is not None
    fewer = replace(
        table,
        ids=tuple(table.ids[row] for row in rows),
        images=tuple(table.images[row] for row in rows),
        targets=table.targets[rows],
        groups=None if table.groups is None else tuple(table.groups[row] for row in rows),
        folds=table.folds[rows],
    )
    name = f"{case.name}, a part of {parts}"
    given, true = case.given[rows], case.true[rows]
    taken = replace(case, name=name, seed=part, given=given, true=true)
    return replace(features, table=fewer, values=features.values[rows]), taken


def keep_sheet(
    features: Features, case: Case, work: Path, network: str = "", seed: int = 0
) -> np.ndarray:
    """Return the held-out predictions of a case, computed once and kept under `work`."""
    name = case.name.replace(" ", "").replace(",", "_")
    tags = [case.data, name, str(case.seed), *filter(None, [network])]
    tags += [f"inner{seed}"] if seed else []
    path = work / "sheets" / f"{'__'.join(tags)}.npz"
    if path.is_file():
        with np.load(path) as kept:
            if np.array_equal(kept["y"], case.given):
                return kept["P"]
    probs = predict_held_out(features, case.given, seed=seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    folds = features.table.folds
    np.savez(path, P=probs, y=case.given, clean=case.true, folds=folds)
    print(f"{path.name}", flush=True)
    return probs


def label(table: Table, given: np.ndarray) -> Table:
    """Return the table with other labels: (N,) numbers of classes or (N, C) targets."""
    hot = np.eye(len(table.classes), dtype=np.float32)
    targets = hot[given] if given.ndim == 1 else given.astype(np.float32)
    return replace(table, targets=targets)


def number_groups(table: Table) -> np.ndarray:
    """Return the number of the group of each row; rows of one number are drawn together."""
    return np.unique(np.array(table.groups or table.ids), return_inverse=True)[1]


def predict_held_out(
    features: Features, given: np.ndarray, *, weights: np.ndarray | None = None, seed: int = 0
) -> np.ndarray:
    """Solve the head for every fold on given labels, and predict what each holds out.

    Args:
        features: Of the table.
        given: (N,) numbers of classes, or (N, C) targets.
        weights: (N,) 0 for rows that are not trained on.
        seed: Of the inner part that chooses the penalty.

    Returns:
        (N, C) out-of-fold probabilities, the mean over the views.
    """
    table = features.table
    targets = label(table, given).targets
    used = np.ones(len(table), np.bool_) if weights is None else weights > 0
    samples = Samples(
        pixels=None,  # type: ignore[arg-type]  # features stand in for them
        ids=table.ids,
        targets=targets,
        weights=None,
        steps=(),
        seed=0,
    )
    loss = build_loss(features.recipe.loss, exclusive=table.exclusive, class_weights=None)
    stage = features.recipe.stages[0]
    assert isinstance(stage, HeadStage)
    found = np.zeros(targets.shape, np.float32)
    assert table.folds is not None
    for fold in np.unique(table.folds[table.folds >= 0]):
        rows = np.flatnonzero((table.folds != fold) & used)
        _, inner = inner_split(
            rows, targets, table.groups, ids=table.ids, share=INNER_SHARE, seed=seed + 1
        )
        head = fit_head(features.values, samples, loss=loss, rows=rows, inner=inner, l2=stage.l2)
        held = np.flatnonzero(table.folds == fold)
        logits = features.values[held] @ head.weight.T + head.bias
        probs = torch.softmax(logits, dim=2) if table.exclusive else torch.sigmoid(logits)
        found[held] = probs.mean(dim=1).numpy()
    return found
