"""Dealing: groups of rows into parts of like size and like labels.

Every choice follows from the names of the groups, the labels and a salt, through
BLAKE2b: not from the order of the rows, not from a library's random numbers. It
must not know what a part is for (that is `folds`), read files or look at images.

Shapes: N rows, C classes, G groups, Q kinds of groups, K parts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loupe.errors import TableError

Bool = NDArray[np.bool_]
Float64 = NDArray[np.float64]
Floats = NDArray[np.floating]
Int64 = NDArray[np.int64]

TIE = 1e-6
"""Parts whose need differs by less than this part of one row's are equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """Rows gathered into groups.

    Attributes:
        truth: (N, C) given labels.
        classes: (C,) names of the columns.
        index: (N,) group of each row.
        names: (G,) sorted.
        sizes: (G,) rows of each group.
        spread: (C,) number of groups in which each class stands.
    """

    truth: Bool
    classes: Sequence[str]
    index: Int64
    names: Sequence[str]
    sizes: Int64
    spread: Int64


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kinds:
    """Groups that carry the same label sets are of one kind; Q kinds."""

    kind: Int64  # (G,)
    counts: Int64  # (Q, C + 1) rows of each class; the last column: rows of no class


def read_groups(
    labels_NC: Floats,
    groups: Sequence[str] | None,
    *,
    ids: Sequence[str],
    classes: Sequence[str],
) -> Groups:
    """Gather the rows into groups.

    Args:
        labels_NC: Targets in [0, 1]; 0.5 and above count as positive, NaN not.
        groups: Rows of equal text stay together; None: each row alone.
        ids: Unique keys of the rows.
        classes: Names of the columns.

    Shape:
        labels_NC: (N, C). groups, ids: (N,). classes: (C,).

    Raises:
        TableError: lengths disagree, or rows stand alone and ids repeat.
    """
    labels = np.asarray(labels_NC)
    n = len(ids)
    if labels.shape != (n, len(classes)) or (groups is not None and len(groups) != n):
        raise TableError(
            f"labels have shape {labels.shape} and there are {n} ids, {len(classes)} classes and "
            f"{n if groups is None else len(groups)} groups; expected a row an id and a column a "
            "class."
        )
    names, index = np.unique(np.asarray(ids if groups is None else groups), return_inverse=True)
    if groups is None and len(names) < n:
        raise TableError(f"{n - len(names)} of {n} ids repeat; expected one row for each id.")
    truth = labels >= 0.5
    spread = [np.count_nonzero(np.bincount(index[column])) for column in truth.T]
    return Groups(
        truth=truth,
        classes=classes,
        index=index,
        names=[str(name) for name in names],
        sizes=np.bincount(index, minlength=len(names)),
        spread=np.asarray(spread, dtype=np.int64),
    )


def deal(sheet: Groups, shares: Float64, *, stratify: bool, shuffle: bool, salt: str) -> Int64:
    """Choose the part of each row.

    Groups of one kind carry the same label sets and are exchangeable: they are
    ordered by hash and dealt in equal parts, and what is left over is placed one
    by one, the group with the largest share of any class first, where its
    classes are missing most. No part outgrows its share by more than the largest
    group, and none stays empty.

    Args:
        sheet: From `read_groups`; at least as many groups as parts.
        shares: Wanted share of rows in each part; they sum to 1.
        stratify: False balances sizes only.
        shuffle: False cuts the rows into contiguous blocks; labels play no part.
        salt: Another salt, other parts.

    Shape:
        shares: (K,).

    Returns:
        (N,) parts, 0 to K - 1.
    """
    if not shuffle:
        return _cut_blocks(sheet, shares)[sheet.index]
    truth = sheet.truth if stratify else sheet.truth[:, :0]
    digests = _hash_names(sheet.names, salt)
    return _spread(_find_kinds(truth, sheet.index), sheet.sizes, digests, shares)[sheet.index]


def _cut_blocks(sheet: Groups, shares: Float64) -> Int64:
    """Cut the groups, in the order of their first rows, into contiguous parts."""
    n, g, k = len(sheet.index), len(sheet.names), len(shares)
    wanted = np.floor(n * shares + TIE).astype(np.int64)
    wanted[: n - wanted.sum()] += 1
    order = np.argsort(np.unique(sheet.index, return_index=True)[1])
    sizes = sheet.sizes[order]
    middle = np.cumsum(sizes) - sizes / 2
    part = np.searchsorted(np.cumsum(wanted), middle, side="right")
    # Large groups may jump over a part: let no step exceed one, and leave none empty.
    place = np.arange(g)
    part = np.minimum.accumulate(np.append(0, part - place))[1:] + place
    parts = np.empty(g, dtype=np.int64)
    parts[order] = np.maximum(part, k - g + place)
    return parts


def _hash_names(names: Sequence[str], salt: str) -> NDArray[np.uint64]:
    digests = (
        hashlib.blake2b(f"{salt}\0{name}".encode(errors="surrogatepass"), digest_size=8).digest()
        for name in names
    )
    return np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64)


def _find_kinds(truth: Bool, index: Int64) -> _Kinds:
    flags = np.column_stack([truth, ~truth.any(axis=1)])
    _, first, code = np.unique(
        np.packbits(flags, axis=1), axis=0, return_index=True, return_inverse=True
    )
    sets, code = flags[first], code.ravel()
    order = np.lexsort((code, index))
    members = np.split(code[order], np.cumsum(np.bincount(index))[:-1])
    kinds: dict[bytes, int] = {}
    kind = [kinds.setdefault(codes.tobytes(), len(kinds)) for codes in members]
    counts = [sets[np.frombuffer(key, dtype=code.dtype)].sum(axis=0) for key in kinds]
    return _Kinds(kind=np.asarray(kind), counts=np.asarray(counts))


def _spread(kinds: _Kinds, sizes: Int64, digests: NDArray[np.uint64], shares: Float64) -> Int64:
    """Deal each kind in whole rounds, then place what is left, rarest first."""
    parts, quota = _deal_rounds(kinds.kind, digests, shares)
    kind_sizes = np.zeros(len(kinds.counts), dtype=np.int64)
    kind_sizes[kinds.kind] = sizes
    held, filled = quota.T @ kinds.counts, quota.T @ kind_sizes
    totals = np.maximum(kinds.counts[kinds.kind].sum(axis=0), 1)
    rarity = (kinds.counts / totals).max(axis=1)[kinds.kind]
    # Kinds stay together, so that leftovers of one class are spread before the next.
    order = np.lexsort((digests, kinds.kind, -sizes, -rarity))
    room = shares * sizes.sum() + sizes.max() + TIE
    for group in order[parts[order] == len(shares)]:
        counts, size = kinds.counts[kinds.kind[group]], sizes[group]
        cost = _weigh_parts(counts, held, totals, shares)
        cost[filled + size > room] = np.inf
        part = _choose(cost, (2 * filled + size) / shares, int(digests[group]))
        parts[group] = part
        held[part] += counts
        filled[part] += size
    return _fill_empty(parts, order, len(shares))


def _deal_rounds(kind: Int64, digests: NDArray[np.uint64], shares: Float64) -> tuple[Int64, Int64]:
    """Return the part of each group (K where it is left over) and the (Q, K) quotas."""
    members = np.bincount(kind)
    quota = np.floor(members[:, None] * shares + TIE).astype(np.int64)
    order = np.lexsort((digests, kind))
    place = np.empty(len(kind), dtype=np.int64)
    place[order] = np.arange(len(kind)) - np.repeat(np.cumsum(members) - members, members)
    parts = (place[:, None] >= np.cumsum(quota, axis=1)[kind]).sum(axis=1)
    return parts, quota


def _weigh_parts(counts: Int64, held: Int64, totals: Int64, shares: Float64) -> Float64:
    """Return what each part's imbalance gains by one more group.

    The imbalance is sum_kc (held - share * total)^2 / (share * total^2): each
    class counts by its own share, so the rarest speaks loudest.
    """
    used = np.flatnonzero(counts)
    extra, total = counts[used], totals[used]
    lack = held[:, used] - shares[:, None] * total
    gain = ((2 * extra * lack + extra**2) / (shares[:, None] * total**2)).sum(axis=1)
    # In units of one row, so that a tie does not depend on the rounding of a sum.
    return np.asarray(gain / (extra / total**2).sum())


def _choose(cost: Float64, fill: Float64, digest: int) -> int:
    """Take the cheapest part; on a tie the emptiest; on a tie by the hash."""
    near = np.flatnonzero(cost <= cost.min() + TIE)
    near = near[fill[near] <= fill[near].min() + TIE]
    return int(near[digest % len(near)])


def _fill_empty(parts: Int64, order: Int64, k: int) -> Int64:
    """Give a part that got nothing the least of the groups that another can spare."""
    for part in np.flatnonzero(np.bincount(parts, minlength=k) == 0):
        spare = np.bincount(parts, minlength=k)[parts[order]] > 1
        parts[order[spare][-1]] = part
    return parts
