"""Sample data with known truth: a photographed tile data set, and predictions.

Owns `make_tiles`, which writes images, tables and masks of ceramic tiles and
plants the faults that real tables have (copies, wrong labels, damaged files),
and `make_predictions`, which simulates held-out probabilities. Whatever Loupe
claims to find can so be asserted, in Loupe's tests and in yours. No other module
imports this one; it loads no torch and no pandas.

Shapes: N rows, C classes, H and W the height and width of a picture.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from loupe import samples
from loupe.errors import InputError, TableError
from loupe.tiles import CLASSES

Float32 = NDArray[np.float32]
Bool = NDArray[np.bool_]

SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What is known about a sample data set, beyond what its tables say.

    Attributes:
        folder: Where the data set lies.
        classes: (C,) the defects.
        ids: (N,) rows in the order of the tables; file names within `images`.
        groups: (N,) the tile that the picture truly shows. A planted copy has
            the group of its original here, and a tile of its own in the table:
            as when a picture is imported twice.
        targets_true: (N, C) the defects that the tile has.
        targets_given: (N, C) the defects that the tables claim.
        duplicates: Pairs (original, copy, kind), the kind one of
            same-bytes, reencoded, resized and brightened.
        wrong: Ids whose given label is wrong.
        damaged: Ids whose file is cut off or empty.
    """

    folder: Path
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    targets_true: Float32
    targets_given: Float32
    duplicates: tuple[tuple[str, str, str], ...]
    wrong: tuple[str, ...]
    damaged: tuple[str, ...]

    @property
    def table(self) -> Path:
        """The main table: a row an image, a 0/1 column a class."""
        return self.folder / "labels.csv"

    @property
    def images(self) -> Path:
        """The folder of the pictures."""
        return self.folder / "images"

    def mask(self, id: str, name: str) -> Bool:  # noqa: A002
        """Read where one defect lies in one picture.

        Args:
            id: The picture.
            name: The class.

        Shape:
            (H, W), the size of the picture.

        Raises:
            TableError: by the truth, the picture shows no such defect.
        """
        if not samples.mask_path(self.folder, name, id).is_file():
            raise TableError(f"{self.folder}: {id!r} has no mask of {name!r}; see targets_true.")
        return samples.read_mask(self.folder, name, id)


class SimulatedPredictions(NamedTuple):
    """Arrays as cross-validation would leave them; unpacks like a tuple.

    Attributes:
        targets: (N, C) float32, 0 or 1.
        probs: (N, C) float32 in [0, 1].
        groups: (N,) integers.
        folds: (N,) int16; a group lies in one fold.
    """

    targets: Float32
    probs: Float32
    groups: NDArray[np.int64]
    folds: NDArray[np.int16]


def make_tiles(
    folder: str | Path,
    *,
    tiles: int = 120,
    shots: int = 3,
    size: tuple[int, int] = (128, 128),
    seed: int = 0,
    defect_share: float = 0.45,
    duplicates: int = 8,
    wrong_labels: int = 6,
    damaged: int = 0,
    group_column: bool = True,
) -> Truth:
    """Write a sample data set of photographed ceramic tiles with known truth.

    Each tile is photographed several times, in other light and another pose, so
    rows of a tile must not be parted by a split. File names are shuffled: they
    tell neither the tile nor the class. Written are

    - `labels.csv`: image, group, and a 0/1 column for each class;
    - `classes.csv`: image, label; "ok" or the main defect;
    - `train.csv`: ImageId, ClassId, EncodedPixels; run-length masks, counted
      from 1 down the columns, a row for each true defect;
    - `images/`, `masks/<class>/<name>.png`, and `truth.json`.

    The same arguments give the same bytes (on the same versions of numpy and
    OpenCV). The planted faults change no picture but their own.

    Args:
        folder: Where to write; created if need be, and must be empty.
        tiles: How many tiles, at least 1.
        shots: Pictures of each tile, at least 1.
        size: Height and width of a picture in pixels, each at least 32.
        seed: Of everything drawn.
        defect_share: Share of the tiles with a defect, in [0, 1]; one in ten of
            these has a second one.
        duplicates: Planted copies, on top of tiles x shots; the kinds take turns.
        wrong_labels: Rows whose given label is wrong, half of them truly faulty;
            never a row with a copy.
        damaged: Rows whose file is cut off or empty; never one of the above.
        group_column: If True, `labels.csv` names the tile of each picture.

    Returns:
        The truth, which `read_truth` gives again.

    Raises:
        InputError: a number is out of its range, more faults are asked for than
            there are rows, or the folder is not empty.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     truth = make_tiles(folder, tiles=4, shots=2, duplicates=1, wrong_labels=0)
        >>> len(truth.ids), len(set(truth.groups)), truth.duplicates[0][2]
        (9, 4, 'same-bytes')
    """
    folder = Path(folder)
    _check_request(tiles, shots, size, defect_share, (duplicates, wrong_labels, damaged))
    _check_empty(folder)
    for name in ("images", *(f"masks/{name}" for name in CLASSES)):
        (folder / name).mkdir(parents=True, exist_ok=True)
    plan = samples.plan_defects(samples.open_stream(seed, samples.PLAN), tiles, defect_share)
    rng = samples.open_stream(seed, samples.FAULTS)
    names = [f"{n:05d}.jpg" for n in rng.permutation(tiles * shots + duplicates)]
    rows = list(samples.shoot_tiles(folder, plan, names, size=size, shots=shots, seed=seed))
    copied, wrong, spoilt = samples.pick_rows(rng, rows, (duplicates, wrong_labels, damaged))
    spare = names[len(rows) :]
    copies = samples.plant_copies(folder, copied, spare, first=tiles, seed=seed)
    relabelled = {row.id: samples.mislabel(rng, row) for row in wrong}
    for number, row in enumerate(spoilt):
        samples.damage(folder / "images" / row.id, cut=number % 2 == 0)
    rows = [relabelled.get(row.id, row) for row in rows] + [copy for _, copy, _ in copies]
    rows.sort(key=lambda row: row.id)
    samples.write_tables(folder, rows, group_column=group_column)
    truth = Truth(
        folder=folder,
        classes=CLASSES,
        ids=tuple(row.id for row in rows),
        groups=tuple(row.tile for row in rows),
        targets_true=np.array([samples.multi_hot(row.true) for row in rows], np.float32),
        targets_given=np.array([samples.multi_hot(row.given) for row in rows], np.float32),
        duplicates=tuple((source.id, copy.id, kind) for source, copy, kind in copies),
        wrong=tuple(sorted(relabelled)),
        damaged=tuple(sorted(row.id for row in spoilt)),
    )
    _write_truth(truth)
    return truth


def read_truth(folder: str | Path) -> Truth:
    """Read the truth of a data set that `make_tiles` wrote.

    Args:
        folder: The one given to `make_tiles`; it may have been moved.

    Raises:
        TableError: there is no truth, or another version wrote it.
    """
    folder = Path(folder)
    path = folder / "truth.json"
    if not path.is_file():
        raise TableError(f"{path} does not exist; expected a finished folder of `make_tiles`.")
    known = json.loads(path.read_text(encoding="utf-8"))
    if known.get("schema") != SCHEMA:
        raise TableError(f"{path}: another version wrote it; expected schema {SCHEMA}.")
    return Truth(
        folder=folder,
        classes=tuple(known["classes"]),
        ids=tuple(known["ids"]),
        groups=tuple(known["groups"]),
        targets_true=np.array(known["targets_true"], np.float32),
        targets_given=np.array(known["targets_given"], np.float32),
        duplicates=tuple((first, second, kind) for first, second, kind in known["duplicates"]),
        wrong=tuple(known["wrong"]),
        damaged=tuple(known["damaged"]),
    )


def make_predictions(
    n: int,
    classes: int,
    *,
    exclusive: bool = False,
    quality: float = 0.6,
    prevalence: Sequence[float] | None = None,
    groups: int | None = None,
    folds: int = 5,
    label_noise: float = 0.0,
    seed: int = 0,
) -> SimulatedPredictions:
    """Simulate held-out probabilities that are calibrated by construction.

    For classes that stand alone, with prevalence m and k = (1 - quality) / quality,

        t ~ Bernoulli(m),   p | t ~ Beta(m k + t, (1 - m) k + 1 - t).

    That is Bayes' rule read backwards: over all rows p ~ Beta(m k, (1 - m) k), and
    P(t = 1 | p) = p exactly. The variance of p is quality * m (1 - m), so the
    expected Brier score is (1 - quality) m (1 - m): `quality` is the Brier skill.
    Exclusive classes use the Dirichlet distribution, whose margins are the same.
    Rows of a group share the target and draw their own p, so they are correlated
    as pictures of one part are.

    Args:
        n: Rows, at least 1.
        classes: Columns, at least 1; at least 2 if exclusive.
        exclusive: True if one class of a row is 1 and the columns sum to 1.
        quality: In (0, 1); near 0 p is the prevalence, near 1 it is the target.
        prevalence: (C,) in (0, 1), summing to 1 if exclusive; 0.2 each, or an
            equal share, when None.
        groups: How many groups; None gives each row its own.
        folds: How many, at least 2; whole groups take turns.
        label_noise: Share of the rows, in [0, 1], whose target is then made
            wrong in one class. It is drawn last: the same call with 0 gives the
            true targets and the same probabilities.
        seed: Of everything drawn.

    Shape:
        targets, probs: (N, C) float32. groups, folds: (N,).

    Raises:
        InputError: a number is out of its range.

    References:
        A. P. Dawid, "The Well-Calibrated Bayesian", JASA 77 (1982); conjugate
        Beta-Bernoulli and Dirichlet-categorical pairs.

    Examples:
        >>> targets, probs, groups, folds = make_predictions(20_000, 1, quality=0.5)
        >>> skill = 1 - ((targets - probs) ** 2).mean() / (0.2 * 0.8)
        >>> round(float(skill), 1)
        0.5
    """
    shares = _choose_prevalence(classes, prevalence, exclusive=exclusive)
    _check_simulation(n, quality, label_noise)
    rng = samples.open_stream(seed, samples.PLAN)
    total = n if groups is None else groups
    if total < 1 or folds < 2:
        raise InputError(f"groups is {groups}, folds is {folds}; expected at least 1 and 2.")
    group = np.arange(n) % total if groups is not None else np.arange(n)
    group = rng.permutation(group).astype(np.int64)
    fold = rng.permutation(np.arange(total) % folds)[group].astype(np.int16)
    strength = (1 - quality) / quality
    if exclusive:
        targets = np.eye(classes)[rng.choice(classes, total, p=shares)][group]
        draws = rng.standard_gamma(shares * strength + targets)
        probs = draws / draws.sum(axis=1, keepdims=True)
    else:
        targets = (rng.random((total, classes)) < shares)[group].astype(float)
        probs = rng.beta(shares * strength + targets, (1 - shares) * strength + 1 - targets)
    noisy = np.flatnonzero(rng.random(n) < label_noise)
    _flip_targets(rng, targets, noisy, exclusive=exclusive)
    return SimulatedPredictions(
        targets.astype(np.float32), np.clip(probs, 0, 1).astype(np.float32), group, fold
    )


# Keeping, and making wrong ------------------------------------------------------------------------


def _flip_targets(
    rng: np.random.Generator,
    targets: NDArray[np.float64],
    rows: NDArray[np.intp],
    *,
    exclusive: bool,
) -> None:
    """Make the targets of some rows wrong in place: one cell, or another class if exclusive."""
    classes = targets.shape[1]
    if exclusive:
        # A shift of 1 to C - 1 columns reaches every other class and never the same one.
        to = (targets[rows].argmax(axis=1) + rng.integers(1, classes, len(rows))) % classes
        targets[rows] = np.eye(classes)[to]
    else:
        cells = (rows, rng.integers(0, classes, len(rows)))
        targets[cells] = 1 - targets[cells]


def _write_truth(truth: Truth) -> None:
    """Write `truth.json`, a line a key; it is written last, so it marks a finished folder."""
    known = {
        "schema": SCHEMA,
        "classes": truth.classes,
        "duplicates": truth.duplicates,
        "wrong": truth.wrong,
        "damaged": truth.damaged,
        "ids": truth.ids,
        "groups": truth.groups,
        "targets_true": truth.targets_true.astype(int).tolist(),
        "targets_given": truth.targets_given.astype(int).tolist(),
    }
    lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in known.items())
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    (truth.folder / "truth.json").write_text(text, encoding="utf-8")


# Checks -------------------------------------------------------------------------------------------


def _check_request(
    tiles: int, shots: int, size: tuple[int, int], share: float, faults: tuple[int, int, int]
) -> None:
    wrong = []
    if min(tiles, shots) < 1:
        wrong.append(f"tiles is {tiles} and shots is {shots}; expected at least 1")
    if min(size) < 32:
        wrong.append(f"size is {size}; expected a height and width of at least 32 px")
    if not 0 <= share <= 1:
        wrong.append(f"defect_share is {share}; expected a number in [0, 1]")
    if min(faults) < 0 or sum(faults) > tiles * shots:
        wrong.append(
            f"duplicates, wrong_labels and damaged are {faults}; expected none below 0 and at "
            f"most tiles x shots = {tiles * shots} together, for they fall on different rows"
        )
    if wrong:
        raise InputError(f"make_tiles: {'; '.join(wrong)}.")


def _check_empty(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(
            f"{folder} is not an empty folder; choose another one, empty it, or use "
            "`read_truth` if a sample data set lies there."
        )


def _choose_prevalence(
    classes: int, prevalence: Sequence[float] | None, *, exclusive: bool
) -> NDArray[np.float64]:
    least = 2 if exclusive else 1
    if classes < least:
        raise InputError(f"make_predictions: classes is {classes}; expected at least {least}.")
    if prevalence is None:
        return np.full(classes, 1 / classes if exclusive else 0.2)
    shares = np.asarray(prevalence, np.float64)
    inside = shares.shape == (classes,) and bool(((shares > 0) & (shares < 1)).all())
    if not inside or (exclusive and abs(shares.sum() - 1) > 1e-6):
        raise InputError(
            f"make_predictions: prevalence is {prevalence}; expected {classes} numbers between "
            f"0 and 1{', summing to 1' if exclusive else ''}."
        )
    return shares


def _check_simulation(n: int, quality: float, label_noise: float) -> None:
    wrong = []
    if n < 1:
        wrong.append(f"n is {n}; expected at least 1")
    if not 0 < quality < 1:
        wrong.append(f"quality is {quality}; expected a number between 0 and 1")
    if not 0 <= label_noise <= 1:
        wrong.append(f"label_noise is {label_noise}; expected a number in [0, 1]")
    if wrong:
        raise InputError(f"make_predictions: {'; '.join(wrong)}.")
