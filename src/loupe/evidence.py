"""Evidence: held-out probabilities beside their targets, which is what decisions rest on.

Owns the sheet and its parts. Whatever is fitted for a part is fitted without it, so
that the rows of a part are new to it. It must not read files or choose anything.

Shapes: M members, N rows, C classes, K parts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loupe.dealing import deal, read_groups
from loupe.errors import InputError, shorten

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Rows = NDArray[np.intp]

PARTS = 5
"""How many parts rows without folds are dealt to."""
SUM_SLACK = 2e-3
"""How far a row of exclusive probabilities may be from summing to 1: text of 3 digits, float16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Rows that were held out, what was predicted of them, and what they are.

    Attributes:
        ids: (N,) unique.
        classes: (C,) names.
        exclusive: Targets and probabilities of a row sum to 1.
        targets: (N, C) float32 in [0, 1].
        members: (M,) sheets of held-out probabilities, each (N, C) float32.
        weights: (M,) weight of each member on new rows, summing to 1.
        part_weights: (K, M) the weights fitted without each part; None where nothing was fitted.
        parts: (N,) number of the part of each row, 0 to K - 1: its fold, as a rule.
        part_names: (K,) name of each part, the number of its fold as a rule.
        dealt: There were no folds, or one: the parts say nothing of networks.
        groups: (N,) number of the group of each row, from 0; rows of a group share a part.
        stamps: What must be said beside every score made from these rows.
        notes: What the reader saw and did, for the screen.
    """

    ids: tuple[str, ...]
    classes: tuple[str, ...]
    exclusive: bool
    targets: Float32
    members: tuple[Float32, ...]
    weights: Float64
    part_weights: Float64 | None = None
    parts: Rows
    part_names: tuple[str, ...]
    groups: Rows
    dealt: bool = False
    stamps: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def part_count(self) -> int:
        """K, how many parts there are."""
        return len(self.part_names)


def make_evidence(
    targets: Float32,
    members: Sequence[Float32],
    *,
    exclusive: bool,
    classes: Sequence[str],
    ids: Sequence[str] | None = None,
    folds: Sequence[int] | NDArray[np.integer] | None = None,
    groups: Sequence[object] | NDArray[np.generic] | None = None,
    weights: Float64 | None = None,
) -> Evidence:
    """Put arrays together.

    Rows without folds, or all of one fold, are dealt to `PARTS` parts, groups whole
    and stratified, so that decisions can be scored on parts they were not fitted on.

    Args:
        targets: Given labels in [0, 1].
        members: Sheets of held-out probabilities in [0, 1].
        exclusive: True if the columns of a row sum to 1.
        classes: Names of the columns.
        ids: Unique keys; row numbers if None.
        folds: Fold of each row.
        groups: Rows that are drawn together and share a part; each row alone if None.
        weights: Of the members; equal if None.

    Shape:
        targets and each member: (N, C). ids, folds, groups: (N,). weights: (M,).

    Raises:
        InputError: shapes disagree, values are NaN or outside [0, 1], rows do not sum
            to 1, there are fewer than two groups, or weights are not a simplex.
    """
    keys = tuple(str(row) for row in range(len(targets))) if ids is None else tuple(ids)
    _check_sheets(targets, members, keys, classes, exclusive=exclusive)
    count = len(members)
    shares = np.full(count, 1 / count) if weights is None else np.asarray(weights, np.float64)
    if shares.shape != (count,) or (shares < 0).any() or abs(shares.sum() - 1) > 1e-6:
        raise InputError(
            f"weights are {shares.tolist()}; expected {count} number(s), none below 0, summing to "
            "1: one for each member."
        )
    names = np.arange(len(keys)) if groups is None else number(groups)
    notes: tuple[str, ...] = ()
    dealt = folds is None or len(np.unique(np.asarray(folds))) < 2
    if folds is None or dealt:
        parts = _deal_parts(targets, names, classes)
        part_names = tuple(str(part) for part in range(int(parts.max()) + 1))
        notes = (f"no folds: rows were dealt to {len(part_names)} parts for cross-fitting",)
    else:
        parts = number(folds)
        part_names = tuple(str(fold) for fold in np.unique(np.asarray(folds)))
    return Evidence(
        ids=keys,
        classes=tuple(classes),
        exclusive=exclusive,
        targets=targets,
        members=tuple(members),
        weights=shares,
        parts=parts,
        part_names=part_names,
        dealt=dealt,
        groups=names.astype(np.intp),
        notes=notes,
    )


def mix(sheets: Sequence[Float32], weights: Float64, rows: Rows | None = None) -> Float32:
    """Return the weighted mean of equal sheets, as float32.

    Args:
        sheets: (M,) each (N, C).
        weights: (M,) summing to 1.
        rows: Which rows; all if None.

    Examples:
        >>> a, b = np.float32([[1.0]]), np.float32([[0.5]])
        >>> mix([a, b], np.array([0.8, 0.2])).round(3).tolist() == np.float32([[0.9]]).tolist()
        True
    """
    chosen: slice | Rows = slice(None) if rows is None else rows
    if len(sheets) == 1:
        return np.asarray(sheets[0][chosen], dtype=np.float32)
    total = np.zeros(sheets[0][chosen].shape, np.float32)
    for sheet, weight in zip(sheets, weights, strict=True):
        if weight:
            total += sheet[chosen] * np.float32(weight)
    return np.clip(total, 0, 1, out=total)


def held_out_probs(evidence: Evidence) -> Float32:
    """Return what was predicted of each row by weights that never saw it, (N, C)."""
    if evidence.part_weights is None:
        return mix(evidence.members, evidence.weights)
    probs = np.empty(evidence.targets.shape, np.float32)
    for part, weights in enumerate(evidence.part_weights):
        rows = np.flatnonzero(evidence.parts == part)
        probs[rows] = mix(evidence.members, weights, rows)
    return probs


def final_probs(evidence: Evidence) -> Float32:
    """Return what the final weights say of each row, (N, C): for fitting the final rule."""
    return mix(evidence.members, evidence.weights)


def probs_without(evidence: Evidence, part: int) -> tuple[Rows, Float32]:
    """Return the rows outside a part, and what weights fitted on them say of them.

    Args:
        evidence: The rows.
        part: Which part is left out.

    Returns:
        Row numbers (n,), and probabilities (n, C).
    """
    rows = np.flatnonzero(evidence.parts != part)
    known = evidence.part_weights
    weights = evidence.weights if known is None else known[part]
    return rows, mix(evidence.members, weights, rows)


def digest_evidence(evidence: Evidence) -> str:
    """Return 16 hex digits that change with the rows, their parts, targets or probabilities.

    Args:
        evidence: What a rule is fitted on.
    """
    hasher = hashlib.blake2b("\n".join(evidence.ids).encode(), digest_size=8)
    hasher.update(repr((evidence.classes, evidence.part_names)).encode())
    for array in (evidence.parts, evidence.groups, evidence.targets, held_out_probs(evidence)):
        hasher.update(np.ascontiguousarray(array).data)
    return hasher.hexdigest()


def digest_rows(ids: Sequence[str], classes: Sequence[str], targets: Float32) -> str:
    """Return 16 hex digits of labelled rows, in whatever order of rows and of classes.

    Ids alone would not do: a camera may number each batch from 1.

    Args:
        ids: (N,) unique.
        classes: (C,) names of the columns.
        targets: (N, C) given labels.

    Examples:
        >>> one, two = np.float32([[1, 0], [0, 1]]), np.float32([[1, 0], [0, 1]])
        >>> digest_rows(["a", "b"], ["x", "y"], one) == digest_rows(["b", "a"], ["y", "x"], two)
        True
        >>> digest_rows(["a", "b"], ["x", "y"], one) == digest_rows(["b", "a"], ["x", "y"], two)
        False
    """
    rows, columns = np.argsort(np.asarray(ids)), np.argsort(np.asarray(classes))
    hasher = hashlib.blake2b("\n".join(sorted(ids)).encode(), digest_size=8)
    hasher.update(repr(sorted(classes)).encode())
    hasher.update(np.packbits(targets[rows][:, columns] >= 0.5).data)
    return hasher.hexdigest()


def number(names: Sequence[object] | NDArray[np.generic]) -> Rows:
    """Number equal names alike, from 0, in sorted order.

    Examples:
        >>> number([4, 2, 4]).tolist()
        [1, 0, 1]
    """
    return np.unique(np.asarray(names), return_inverse=True)[1].reshape(-1).astype(np.intp)


def _deal_parts(targets: Float32, groups: Rows, classes: Sequence[str]) -> Rows:
    texts = [str(group) for group in groups]
    sheet = read_groups(targets, texts, ids=texts, classes=classes)
    count = min(PARTS, len(sheet.names))
    if count < 2:
        raise InputError(
            f"the {len(groups)} rows form {count} group(s); expected two or more, so that a "
            "decision can be scored on rows it was not fitted on."
        )
    shares = np.full(count, 1 / count)
    return deal(sheet, shares, stratify=True, shuffle=True, salt="parts").astype(np.intp)


def _check_sheets(
    targets: Float32,
    members: Sequence[Float32],
    ids: tuple[str, ...],
    classes: Sequence[str],
    *,
    exclusive: bool,
) -> None:
    shape = (len(ids), len(classes))
    shapes = [targets.shape, *(sheet.shape for sheet in members)]
    if not members or set(shapes) != {shape} or 0 in shape:
        raise InputError(
            f"targets and probabilities have the shapes {shapes} for {shape[0]} ids and {shape[1]} "
            "classes; expected (ids, classes) for each, with a row and a class at least."
        )
    for name, values in (("targets", targets), *(("probabilities", sheet) for sheet in members)):
        wrong = np.flatnonzero(~((values >= 0) & (values <= 1)).all(axis=1))
        if len(wrong):
            told = shorten([f"{ids[row]!r} ({shorten(values[row], 4)})" for row in wrong[:9]], 3)
            raise InputError(
                f"{name} are NaN or outside [0, 1] in {len(wrong)} of {len(ids)} rows: {told}. "
                "Expected numbers in [0, 1]; leave out rows that are not labelled or predicted."
            )
        off = np.flatnonzero(np.abs(values.sum(axis=1, dtype=np.float64) - 1) > SUM_SLACK)
        if exclusive and len(off):
            told = shorten([f"{ids[row]!r} ({values[row].sum():.4g})" for row in off[:9]], 3)
            raise InputError(
                f"classes are exclusive, but {name} of {len(off)} of {len(ids)} rows do not sum to "
                f"1: {told}. Divide each row by its sum if the numbers are votes; if several "
                "classes can be present at once, the table must say so (a column for each class)."
            )
