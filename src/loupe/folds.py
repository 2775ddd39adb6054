"""Who is held out together: stratified and grouped folds, and a leak check.

The same table gets the same folds on any machine, for ever; `dealing` says how.
It must not read files, and must not look at images.

Shapes: N rows, C classes, K parts (folds).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loupe.dealing import Bool, Float64, Floats, Groups, Int64, deal, read_groups
from loupe.errors import InputError, LeakageError, TableError, shorten
from loupe.table import ALWAYS_TRAINED, HOLDOUT, Int16

_ADVICE = (
    "or look at what is grouped: groups come from the group column and from copies that were found "
    "(`loupe check` lists them); where those are different samples, --group given takes the "
    "column's alone"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """Folds, and what the user should know about them.

    Attributes:
        folds: (N,) fold of each row, or `ALWAYS_TRAINED`.
        notes: What is worth knowing but no error.
    """

    folds: Int16
    notes: tuple[str, ...] = ()


def assign_folds(
    labels_NC: Floats,
    groups: Sequence[str] | None,
    *,
    ids: Sequence[str],
    classes: Sequence[str],
    folds: int,
    stratify: bool = True,
    shuffle: bool = True,
    seed: int = 0,
) -> Assignment:
    """Deal the rows into folds of like size and like labels, groups whole.

    Groups whose rows carry the same label sets are exchangeable: each kind of
    group is shuffled by hash and dealt in equal parts, and only its remainder
    is placed one by one, the group with the largest share of any class first,
    where its classes are missing most. So frequent label sets are split evenly,
    rare ones are spread, and where rows stand alone and have one class each, no
    two folds differ by more than one row of a class. No fold outgrows N / folds
    by more than the largest group.

    Without `shuffle` the folds are contiguous blocks of rows, as scikit-learn's
    `KFold`, and labels play no part; a group goes where its rows begin.

    Args:
        labels_NC: Targets in [0, 1]; 0.5 and above count as positive, NaN not.
        groups: Rows of equal text stay together; None: each row alone.
        ids: Unique keys of the rows.
        classes: Names of the columns, for messages.
        folds: Number of folds, 2 or more.
        stratify: False balances sizes only.
        shuffle: False keeps the order of the rows.
        seed: Another seed, other folds.

    Shape:
        labels_NC: (N, C). groups, ids: (N,). classes: (C,).

    Returns:
        Folds 0 to folds - 1, and notes on classes that some fold lacks.

    Raises:
        TableError: lengths disagree, there are fewer groups than folds, or
            (stratified) a class stands in one group only.
        InputError: fewer than two folds.

    References:
        Sechidis, Tsoumakas & Vlahavas (2011), "On the stratification of
        multi-label data", for placing rare labels first where they lack.

    Examples:
        >>> labels = np.repeat(np.eye(2), 4, axis=0)
        >>> ids = [f"{n}.png" for n in range(8)]
        >>> dealt = assign_folds(labels, None, ids=ids, classes=["a", "b"], folds=4)
        >>> sorted(dealt.folds[:4].tolist()), sorted(dealt.folds[4:].tolist())
        ([0, 1, 2, 3], [0, 1, 2, 3])
    """
    if folds < 2:
        raise InputError(f"folds is {folds}; expected 2 or more. For a single part give a share.")
    sheet = read_groups(labels_NC, groups, ids=ids, classes=classes)
    _check_enough(sheet, folds, stratify=stratify and shuffle)
    shares = np.full(folds, 1 / folds)
    parts = deal(sheet, shares, stratify=stratify, shuffle=shuffle, salt=f"folds:{seed}")
    names = [f"fold {k}" for k in range(folds)]
    notes = _note_blocks(stratify=stratify, shuffle=shuffle) + _note_missing(sheet, parts, names)
    return Assignment(folds=parts.astype(np.int16), notes=notes)


def assign_validation(
    labels_NC: Floats,
    groups: Sequence[str] | None,
    *,
    ids: Sequence[str],
    classes: Sequence[str],
    share: float,
    stratify: bool = True,
    shuffle: bool = True,
    seed: int = 0,
) -> Assignment:
    """Set one validation part aside as fold 0; all else is always trained on.

    Args:
        labels_NC: As for `assign_folds`, and so are all but:
        groups: Rows of equal text stay together; None: each row alone.
        ids: Unique keys of the rows.
        classes: Names of the columns, for messages.
        share: Wanted share of rows in fold 0, in (0, 1).
        stratify: False balances sizes only.
        shuffle: False takes the last rows, as `train_test_split` does.
        seed: Another seed, another part.

    Shape:
        labels_NC: (N, C). groups, ids: (N,). classes: (C,).

    Returns:
        Fold 0 and `ALWAYS_TRAINED`.

    Raises:
        TableError: as `assign_folds`.
        InputError: share is not inside (0, 1).
    """
    sheet = read_groups(labels_NC, groups, ids=ids, classes=classes)
    _check_enough(sheet, 2, stratify=stratify and shuffle)
    shares = _read_share(share)
    parts = deal(sheet, shares, stratify=stratify, shuffle=shuffle, salt=f"validation:{seed}")
    names = ["the training part", "the validation part"]
    notes = _note_blocks(stratify=stratify, shuffle=shuffle) + _note_missing(sheet, parts, names)
    folds = np.where(parts == 1, 0, ALWAYS_TRAINED)
    return Assignment(folds=folds.astype(np.int16), notes=notes)


def assign_holdout(
    labels_NC: Floats,
    groups: Sequence[str] | None,
    *,
    ids: Sequence[str],
    classes: Sequence[str],
    share: float,
    stratify: bool = True,
    shuffle: bool = True,
    seed: int = 0,
) -> Bool:
    """Choose the rows that no member ever sees, before the rest is folded.

    Args:
        labels_NC: As for `assign_folds`, and so are all arguments but `share`.
        groups: Rows of equal text stay together; None: each row alone.
        ids: Unique keys of the rows.
        classes: Names of the columns, for messages.
        share: Wanted share of the rows, in (0, 1).
        stratify: False balances sizes only.
        shuffle: False takes the last rows.
        seed: Another seed, another part.

    Shape:
        labels_NC: (N, C). groups, ids: (N,). classes: (C,).

    Returns:
        (N,) True for the rows whose fold is to be `HOLDOUT`.

    Raises:
        TableError: as `assign_folds`.
        InputError: share is not inside (0, 1).
    """
    sheet = read_groups(labels_NC, groups, ids=ids, classes=classes)
    _check_enough(sheet, 2, stratify=stratify and shuffle)
    shares = _read_share(share)
    parts = deal(sheet, shares, stratify=stratify, shuffle=shuffle, salt=f"holdout:{seed}")
    return np.asarray(parts == 1)


def inner_split(
    rows: Sequence[int] | Int64,
    labels_NC: Floats,
    groups: Sequence[str] | None,
    *,
    ids: Sequence[str],
    share: float,
    seed: int = 0,
) -> tuple[Int64, Int64]:
    """Part the training rows of one member: to train on, and to stop early by.

    Stopping by the held-out fold would choose the epoch on the rows that are to
    be scored; so a part of the training rows does it, whole groups again. The
    first, rarest groups of each class stay with training.

    Args:
        rows: Positions of the member's training rows.
        labels_NC: Targets of the whole table.
        groups: Groups of the whole table; None: each row alone.
        ids: Ids of the whole table.
        share: Wanted share of `rows` to stop by, in (0, 1).
        seed: Another seed, another part.

    Shape:
        labels_NC: (N, C). groups, ids: (N,).

    Returns:
        Positions to train on and positions to stop by, each rising, no row lost.

    Raises:
        TableError: lengths disagree, or the rows form fewer than two groups.
        InputError: share is not inside (0, 1).
    """
    chosen = np.sort(np.asarray(rows, dtype=np.int64))
    sheet = read_groups(
        np.asarray(labels_NC)[chosen],
        None if groups is None else [groups[i] for i in chosen],
        ids=[ids[i] for i in chosen],
        classes=[str(c) for c in range(np.shape(labels_NC)[1])],
    )
    _check_enough(sheet, 2, stratify=False)
    shares = _read_share(share)
    parts = deal(sheet, shares, stratify=True, shuffle=True, salt=f"inner:{seed}")
    return chosen[parts == 0], chosen[parts == 1]


def check_leaks(folds: Int16, groups: Sequence[str], ids: Sequence[str]) -> None:
    """Make sure that no group stands in two folds, always-trained and hold-out included.

    Args:
        folds: Fold of each row.
        groups: Group of each row.
        ids: Ids, for the message.

    Shape:
        folds, groups, ids: (N,).

    Raises:
        LeakageError: a group spans folds; all such groups are listed.
    """
    first: dict[str, int] = {}
    spans: dict[str, dict[int, str]] = {}
    for row, group in enumerate(groups):
        start = first.setdefault(group, row)
        if folds[start] != folds[row]:
            where = spans.setdefault(group, {int(folds[start]): ids[start]})
            where.setdefault(int(folds[row]), ids[row])
    if not spans:
        return
    found = [
        f"group {group!r} in " + " and ".join(f"{_name_fold(k)} (id {i!r})" for k, i in at.items())
        for group, at in spans.items()
    ]
    raise LeakageError(
        f"{len(spans)} group(s) stand in more than one fold, so their rows would be scored by "
        f"members that trained on their like: {shorten(found)}. Expected each group in one fold; "
        "split again with these groups, or correct the fold column."
    )


def _read_share(share: float) -> Float64:
    if not 0 < share < 1:
        raise InputError(f"share is {share}; expected more than 0 and less than 1, as 0.2.")
    return np.asarray([1 - share, share])


def _check_enough(sheet: Groups, parts: int, *, stratify: bool) -> None:
    if len(sheet.names) < parts:
        raise TableError(
            f"{len(sheet.index)} rows form {len(sheet.names)} group(s), but {parts} parts were "
            f"asked for and a group cannot be parted. Use fewer folds, {_ADVICE}."
        )
    alone = np.flatnonzero(sheet.spread == 1)
    if not stratify or not len(alone):
        return
    rows = sheet.truth.sum(axis=0)
    found = [f"{sheet.classes[int(c)]!r} ({rows[c]} row(s), 1 group)" for c in alone]
    where = f"; {_ADVICE}" if (rows[alone] > 1).any() else ""
    raise TableError(
        f"{len(alone)} class(es) stand in one group only, so they could never be both trained on "
        f"and scored: {shorten(found)}. Expected two groups or more for each class. Gather more "
        "images, merge the class into another, leave it out, or give up balanced classes "
        f"(loupe split --stratify none){where}."
    )


def _note_blocks(*, stratify: bool, shuffle: bool) -> tuple[str, ...]:
    if shuffle or not stratify:
        return ()
    return ("parts are contiguous blocks of rows: classes were not balanced.",)


def _note_missing(sheet: Groups, parts: Int64, names: Sequence[str]) -> tuple[str, ...]:
    notes = []
    for column, name in enumerate(sheet.classes):
        counts = np.bincount(parts[sheet.truth[:, column]], minlength=len(names))
        missing = [part for part, count in zip(names, counts, strict=True) if not count]
        if len(missing) == len(names):
            notes.append(f"class {name!r} has no row.")
        elif missing:
            notes.append(
                f"class {name!r} ({counts.sum()} row(s) in {sheet.spread[column]} group(s)) is "
                f"missing from {shorten(missing)}."
            )
    return tuple(notes)


def _name_fold(fold: int) -> str:
    special = {ALWAYS_TRAINED: "the always-trained part", HOLDOUT: "the hold-out part"}
    return special.get(fold, f"fold {fold}")
