"""Table issues: labels that copies of an image contradict, and images like no other.

Owns what can be doubted without a prediction: copies with different labels, and rows far
from all others in the features of a network. It must not open images, look for copies or
compute features.

Shapes: N rows, C classes, D features, K neighbours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from loupe.errors import InputError
from loupe.issues import MASK, NO, NO_MASK, YES, Issue
from loupe.table import Table
from loupe.weighting import Float64, Floats

COPIES, OUTLIER = "copies", "outlier"
"""Names of the rules."""
NEIGHBOURS = 10
"""Fewer strange images of one kind than this do not hide each other."""
FEWEST_ROWS = 50
"""With fewer rows nothing is known of what is usual."""
_DEVIATIONS = 3.0
_SIGMA = 0.8413447  # share of a normal law below one deviation above its middle
_NEAREST = 1e-6  # distances below are rounding of float32; also keeps logarithms finite
_BLOCK = 512
_MOST_REFERENCE = 20_000  # neighbours are looked for among so many, evenly spaced
_Ints = NDArray[np.intp]


class _Words(NamedTuple):
    """What the rows of a group are labelled, for one class or all of them.

    Attributes:
        class_name: As in an issue.
        read: Turns the number of a row to its label; "" if it has none.
    """

    class_name: str
    read: Callable[[int], str]


def find_contradictions(table: Table, copies: Sequence[str]) -> list[Issue]:
    """Find rows whose copies are labelled otherwise: rule "copies".

    Every labelled row of such a group is an issue, as nobody knows yet which of them is
    wrong. The label that more than half of the group's rows have is suggested to the
    others. Of a pair none is suggested: it would swap two labels and mend nothing.

    Where classes are exclusive the label is the class with the largest target. Where they
    stand alone each class is compared by itself: it is there if its target is 0.5 or above.

    Args:
        table: Labels may be missing; such rows contradict nothing.
        copies: Group of copies of each row, as `loupe.check(...).copies` gives; rows that are
            alone have a name of their own.

    Shape:
        copies: (N,).

    Returns:
        Of each row `quality`, the share of the other labelled rows of its group that agree
        with it; class by class, and in the order of the table.

    Raises:
        InputError: there is another number of groups than of rows.

    Examples:
        >>> from pathlib import Path
        >>> table = Table(
        ...     ids=("a", "b", "c", "d"),
        ...     images=(Path("x"),) * 4,
        ...     classes=("cat", "dog"),
        ...     targets=np.float32([[1, 0], [1, 0], [0, 1], [0, 1]]),
        ...     exclusive=True,
        ... )
        >>> found = find_contradictions(table, ["a", "a", "a", "d"])
        >>> [(each.id, each.given, each.suggested, each.quality) for each in found]
        [('a', 'cat', '', 0.5), ('b', 'cat', '', 0.5), ('c', 'dog', 'cat', 0.0)]
    """
    if len(copies) != len(table):
        raise InputError(f"{len(copies)} groups of copies for {len(table)} rows; expected as many.")
    groups: dict[str, list[int]] = {}
    for row, name in enumerate(copies):
        groups.setdefault(name, []).append(row)
    several = [rows for rows in groups.values() if len(rows) > 1]
    found: list[Issue] = []
    for words in _list_words(table):
        pairs = [pair for rows in several for pair in _compare(table, rows, words)]
        found += [issue for _, issue in sorted(pairs, key=lambda pair: pair[0])]
    return found


def find_outliers(
    table: Table, features: Floats, groups: Sequence[str] | None = None
) -> list[Issue]:
    """Find rows that are far from all others: rule "outlier".

    Features are scaled to length 1; of each row the distance to the tenth nearest row is
    taken (beyond 20,000 rows: of evenly spaced ones). What is usual is learnt from the table
    itself: in logarithms, the median and the way from it up to where a normal law has one
    deviation (the upper side alone, since near rows say nothing of far ones). A row is
    flagged beyond 3 of these, as 0.1 % of normal rows are. In features of two ImageNet
    networks this flagged 0 to 1.2 % of the rows of five real sets, and of 8 images planted
    from another set nearly all where the sets are unlike, a third to a half where they are
    much alike (paintings and aerial scenes).

    Of what was tried the mean cosine distance to 10 neighbours is as good, but a handful of
    planted images of one kind hid each other from it; distances in plain or whitened
    features, and in ratio to the neighbours' own, were worse. More than ten strange images
    that look alike are a kind of their own, and not found. A class of fewer rows than that
    may be flagged as a whole: look before you drop.

    Args:
        table: What the features are of; fewer than `FEWEST_ROWS` rows are not judged.
        features: Of a frozen network, one view of each image.
        groups: Rows of a group, such as copies, are not each other's neighbours; each row
            stands alone if None.

    Shape:
        features: (N, D). groups: (N,).

    Returns:
        Farthest first. `quality` is the usual distance divided by the row's own. Nothing is
        suggested; where classes stand alone no given label is named, as the whole row is meant.

    Raises:
        InputError: shapes disagree, or a feature is not finite.

    References:
        Ramaswamy, Rastogi & Shim (2000), "Efficient algorithms for mining outliers from
        large data sets"; Sun et al. (2022), "Out-of-distribution detection with deep nearest
        neighbors", arXiv:2204.06507 (features scaled to length 1).
    """
    names = table.ids if groups is None else groups
    if features.ndim != 2 or not len(features) == len(table) == len(names):
        raise InputError(
            f"features have shape {features.shape} and {len(names)} groups for {len(table)} rows; "
            "expected (rows, features), and a group for each row."
        )
    if not np.isfinite(features).all():
        raise InputError("features are not finite; expected numbers alone.")
    numbers = np.unique(np.asarray(names, np.str_), return_inverse=True)[1]
    taken = min(len(table), _MOST_REFERENCE)
    reference = np.linspace(0, len(table) - 1, taken).astype(np.intp)
    if len(table) < FEWEST_ROWS or len(np.unique(numbers[reference])) <= NEIGHBOURS:
        return []
    distances = _measure_remoteness(features, numbers, reference)
    logs = np.log(distances)
    usual, above = np.quantile(logs, [0.5, _SIGMA])
    if above <= usual:
        return []
    far = np.flatnonzero(logs > usual + _DEVIATIONS * (above - usual))
    return [
        _make_outlier(table, row, float(distances[row]), float(np.exp(usual)))
        for row in far[np.argsort(-distances[far], kind="stable")].tolist()
    ]


def _list_words(table: Table) -> Iterator[_Words]:
    """Say how rows are labelled: at once, or class by class."""
    if table.exclusive:
        yield _Words("", partial(_spell_label, table))
        return
    for column, name in enumerate(table.classes):
        yield _Words(name, partial(_spell_class, table, column))


def _spell_label(table: Table, row: int) -> str:
    targets = table.targets[row]
    return "" if np.isnan(targets).any() else table.classes[int(targets.argmax())]


def _spell_class(table: Table, column: int, row: int) -> str:
    value = table.targets[row, column]
    if np.isnan(value):
        return ""
    no, yes = (NO, YES) if table.masks is None else (NO_MASK, MASK)
    return yes if value >= 0.5 else no


def _measure_remoteness(features: Floats, groups: _Ints, reference: _Ints) -> Float64:
    """Return how far each row is from its tenth nearest reference row of another group."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    scaled = (features / np.maximum(lengths, _NEAREST)).astype(np.float32)
    near, found = scaled[reference].T, np.empty(len(scaled))
    for start in range(0, len(scaled), _BLOCK):
        rows = slice(start, start + _BLOCK)
        unlike = -(scaled[rows] @ near)
        unlike[groups[rows][:, None] == groups[reference]] = np.inf
        unlike.partition(NEIGHBOURS - 1, axis=1)
        found[rows] = np.sqrt((2 + 2 * unlike[:, NEIGHBOURS - 1]).clip(0))
    return np.maximum(found, _NEAREST)


def _compare(table: Table, rows: Sequence[int], words: _Words) -> Iterator[tuple[int, Issue]]:
    """Yield row numbers and issues of one group; none if its rows agree."""
    labels = {row: label for row in rows if (label := words.read(row))}
    counts = Counter(labels.values())
    if len(counts) < 2:
        return
    most, number = counts.most_common(1)[0]
    told = ", ".join(f"{label!r} {count}" for label, count in counts.most_common())
    for row, label in labels.items():
        other = next(each for each, said in labels.items() if said != label)
        suggested = most if number * 2 > len(labels) and label != most else ""
        yield (
            row,
            Issue(
                id=table.ids[row],
                class_name=words.class_name,
                given=label,
                suggested=suggested,
                quality=(counts[label] - 1) / (len(labels) - 1),
                rules=(COPIES,),
                evidence=(
                    f"{len(labels)} copies of this image disagree ({told}); {table.ids[other]!r} "
                    f"is labelled {labels[other]!r}."
                ),
            ),
        )


def _make_outlier(table: Table, row: int, distance: float, usual: float) -> Issue:
    return Issue(
        id=table.ids[row],
        given=_spell_label(table, row) if table.exclusive else "",
        quality=usual / distance,
        rules=(OUTLIER,),
        evidence=(
            f"Far from all other images: the tenth nearest is at {distance:.3f}, "
            f"{distance / usual:.1f} times as far as usual ({usual:.3f})."
        ),
    )
