"""Comparing: is one sheet better than another on the same rows, in numbers and in words.

Owns the comparison and its verdict, the exact tests of paired decisions, and the words
for a difference. It must not fit, choose, or know where the sheets come from.

Shapes: N rows, C classes, G groups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from loupe.errors import InputError
from loupe.intervals import Difference, compare_paired
from loupe.metrics import to_decisions
from loupe.scorecard import LOWER_IS_BETTER, main_metric
from loupe.weighting import Bool, Floats, Integers

COMPARED = (
    ("accuracy", "balanced_accuracy", "f1_macro", "log_loss", "roc_auc_macro"),
    ("average_precision", "f1_macro", "f1_micro", "exact_match", "log_loss", "brier", "roc_auc"),
)
"""What two sheets are compared by: exclusive classes, and classes that stand alone."""
NO_EVIDENCE = "no evidence of a difference"
SMALLEST = 1e-12
"""Smallest p-value of a test over groups: below it, rounding is all there is."""
WORK = 1 << 24
"""Most terms of the exact test over groups; beyond it the normal curve is close enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class McNemar:
    """Rows that one of two is right about and the other is not.

    Attributes:
        class_name: The class decided; "" for all columns of a row together.
        only_a: Rows that A alone has right.
        only_b: Rows that B alone has right.
        p_value: Two-sided, exact, over groups; this one counts. Where each row is a
            group it is the same as `p_value_rows`.
        p_value_rows: The textbook's, which takes rows of a group for independent and
            so is too small where they are alike.
    """

    class_name: str
    only_a: int
    only_b: int
    p_value: float
    p_value_rows: float


Kind = Literal["given", "corrected", "untouched", "reviewed"]
"""Which rows of a proof, against which labels: see `proving`."""
Answer = Literal["helped", "hurt", "mixed", "unclear", "none"]
"""Of a proof: "unclear" where only some sections moved, "none" where none did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Before and after cleaning on some of the rows.

    Attributes:
        kind: Which rows, against which labels.
        rows: How many they are.
        groups: How many groups these form.
        before: Score of the run before cleaning.
        after: Score of the run after it.
        difference: After minus before.
    """

    kind: Kind
    rows: int
    groups: int
    before: float
    after: float
    difference: Difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """Whether cleaning the labels helped.

    Attributes:
        sections: Each after minus before, by one score.
        answer: The verdict in a word.
        verdict: In words, from all sections.
        remarks: What the verdict cannot rule out.
    """

    sections: tuple[Section, ...]
    answer: Answer
    verdict: str
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How A and B compare on the rows that they share.

    Attributes:
        names: What A and B are called.
        rows: N, how many rows they share.
        groups: G, how many groups these form.
        only_a: Rows that A alone has right in every column; of masks, rows whose mean
            Dice is higher in A.
        only_b: The same for B.
        differences: A minus B by overall score; the first one decides.
        mcnemar: All columns together, then each class that stands alone; () for masks.
        verdict: In words, from the first difference.
        by_class: Of masks: each class with A minus B by the score that decides.
        stamps: What must be said beside every score.
        notes: Which rows are not shared, for the screen.
        proof: Where B is a run after cleaning and A the one before; the verdict is then that
            of the proof.
    """

    names: tuple[str, str]
    rows: int
    groups: int
    only_a: int
    only_b: int
    differences: tuple[Difference, ...]
    mcnemar: tuple[McNemar, ...]
    verdict: str
    by_class: tuple[tuple[str, Difference], ...] = ()
    stamps: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    proof: Proof | None = None


def compare_sheets(
    targets: Floats,
    probs_a: Floats,
    probs_b: Floats,
    decided_a: Bool,
    decided_b: Bool,
    groups: Sequence[str] | Integers | None,
    *,
    exclusive: bool,
    classes: Sequence[str],
    metric: str = "",
    names: tuple[str, str] = ("A", "B"),
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Comparison:
    """Compare two sheets of held-out probabilities and the decisions made from them.

    One score decides, the first difference. The others are shown to understand it:
    of a dozen scores one crosses its interval by chance in every second comparison
    of equals, so that a verdict must not be picked from among them.

    Args:
        targets: Given labels in [0, 1].
        probs_a: Probabilities of A.
        probs_b: Probabilities of B.
        decided_a: Decisions of A by its own rule; a row may have none.
        decided_b: Decisions of B.
        groups: Rows that are drawn together; each row alone if None.
        exclusive: True if the columns of a row sum to 1.
        classes: Names of the columns.
        metric: The overall score that decides; "" for `scorecard.main_metric`.
        names: What to call A and B.
        resamples: Of the bootstrap over groups.
        seed: Of the bootstrap.
        confidence: Of the intervals, in (0, 1).

    Shape:
        targets, probs, decisions: (N, C). groups: (N,). classes: (C,).

    Raises:
        InputError: shapes disagree, values are NaN or outside [0, 1], or no overall
            score is called `metric`.

    References:
        McNemar (1947), "Note on the sampling error of the difference between
        correlated proportions or percentages"; Dietterich (1998), "Approximate
        statistical tests for comparing supervised classification learning
        algorithms", section 3.1.

    Examples:
        >>> targets = np.float32([[1, 0], [0, 1]] * 20)
        >>> good, bad = np.abs(targets - np.float32(0.1)), np.full_like(targets, 0.5)
        >>> found = compare_sheets(targets, good, bad, good > 0.5, targets < 0, None,
        ...     exclusive=True, classes=["ok", "crack"], names=("new", "old"))
        >>> found.verdict
        'new is better: +100.00 points accuracy (+91.19 to +100.00), 40 rows'
    """
    _check_shapes(targets, classes, (probs_a, probs_b, decided_a, decided_b), groups)
    truth = to_decisions(targets, exclusive=exclusive)
    keys = np.arange(len(truth)) if groups is None else _number(groups)
    first = metric or main_metric(exclusive=exclusive)
    others = [name for name in COMPARED[0 if exclusive else 1] if name != first]
    differences = tuple(
        compare_paired(
            targets,
            probs_a,
            probs_b,
            decisions_a=decided_a,
            decisions_b=decided_b,
            exclusive=exclusive,
            metric=name,
            groups=keys,
            resamples=resamples,
            seed=seed,
            confidence=confidence,
        )
        for name in (first, *others)
    )
    right_a, right_b = truth == decided_a, truth == decided_b
    overall = compare_decisions(right_a.all(axis=1), right_b.all(axis=1), keys)
    by_class = () if exclusive else zip(classes, right_a.T, right_b.T, strict=True)
    count = int(keys.max()) + 1
    return Comparison(
        names=names,
        rows=len(truth),
        groups=count,
        only_a=overall.only_a,
        only_b=overall.only_b,
        differences=differences,
        mcnemar=(overall, *(compare_decisions(a, b, keys, class_name=n) for n, a, b in by_class)),
        verdict=f"{judge(differences[0], names=names)}, {spell_rows(len(truth), count)}",
    )


def compare_decisions(
    right_a: Bool, right_b: Bool, groups: Integers, *, class_name: str = ""
) -> McNemar:
    """Test whether A and B are right equally often on the same rows.

    Only rows on which one is right and the other wrong say anything. If A and B are
    equals, they may be swapped: row by row for `p_value_rows` (a fair coin for each
    such row), whole groups at a time for `p_value`. Both are the exact chance of a
    surplus as large as the one seen, over all swaps.

    Args:
        right_a: True where A is right.
        right_b: True where B is right.
        groups: Number of the group of each row, from 0.
        class_name: Whose decisions they are.

    Shape:
        right_a, right_b, groups: (N,).

    References:
        McNemar (1947); Fisher (1935), "The design of experiments", section 21 (all
        swaps of signs).

    Examples:
        >>> a, b = np.array([True] * 6), np.array([False] * 5 + [True])
        >>> compare_decisions(a, b, np.arange(6)).p_value
        0.0625
        >>> compare_decisions(a, b, np.array([0, 0, 1, 1, 1, 2])).p_value
        0.5
    """
    only_a, only_b = right_a & ~right_b, right_b & ~right_a
    a, b = int(only_a.sum()), int(only_b.sum())
    surplus = np.bincount(groups, only_a.astype(np.float64) - only_b).astype(np.int64)
    by_row = _toss(a, b)
    alone = a + b == np.count_nonzero(np.bincount(groups[only_a | only_b]))
    return McNemar(
        class_name=class_name,
        only_a=a,
        only_b=b,
        p_value=by_row if alone else _swap(surplus[surplus != 0]),
        p_value_rows=by_row,
    )


def judge(difference: Difference, *, names: tuple[str, str] = ("A", "B")) -> str:
    """Say in words whether A is better than B.

    Args:
        difference: A minus B.
        names: What to call A and B.

    Returns:
        "no evidence of a difference: ..." where the interval holds 0.

    Examples:
        >>> found = Difference(metric="log_loss", value=-0.2, low=-0.3, high=-0.1, p_value=0.01)
        >>> judge(found)
        'A is better: -0.2000 log loss (-0.3000 to -0.1000)'
        >>> found = Difference(metric="accuracy", value=0.01, low=-0.01, high=0.03, p_value=0.3)
        >>> judge(found)
        'no evidence of a difference: +1.00 points accuracy (-1.00 to +3.00), A minus B'
    """
    if math.isnan(difference.low):
        what = difference.metric.replace("_", " ")
        return f"{names[0]} and {names[1]} cannot be compared: {what} is not defined on these rows"
    side = find_side(difference)
    if side == 0:
        return f"{NO_EVIDENCE}: {describe(difference)}, {names[0]} minus {names[1]}"
    winner = names[0] if side > 0 else names[1]
    return f"{winner} is better: {describe(difference if side > 0 else turn(difference))}"


def spell_rows(rows: int, groups: int) -> str:
    """Say on how many rows a verdict rests, and in how many groups if these are fewer.

    Examples:
        >>> spell_rows(40, 40), spell_rows(40, 12)
        ('40 rows', '40 rows in 12 groups')
    """
    return f"{rows} rows" + (f" in {groups} groups" if groups < rows else "")


def find_side(difference: Difference) -> int:
    """Return 1 if A is better than B, -1 if B is, 0 if the interval holds 0 or is NaN."""
    if not (difference.low > 0 or difference.high < 0):
        return 0
    return 1 if (difference.low > 0) != (difference.metric in LOWER_IS_BETTER) else -1


def turn(difference: Difference) -> Difference:
    """Return B minus A."""
    return Difference(
        metric=difference.metric,
        value=-difference.value,
        low=-difference.high,
        high=-difference.low,
        p_value=difference.p_value,
    )


def describe(difference: Difference) -> str:
    """Write a difference with its interval: in points (1 of 100), losses as they are.

    Examples:
        >>> describe(Difference(metric="f1_macro", value=0.012, low=0.004, high=0.02, p_value=0.1))
        '+1.20 points f1 macro (+0.40 to +2.00)'
    """
    loss = difference.metric in LOWER_IS_BETTER
    scale, digits, unit = (1, 4, "") if loss else (100, 2, "points ")
    # Adding 0 turns the -0.0 of a rounded small number into 0.0.
    value, low, high = (
        f"{round(end * scale, digits) + 0.0:+.{digits}f}"
        for end in (difference.value, difference.low, difference.high)
    )
    return f"{value} {unit}{difference.metric.replace('_', ' ')} ({low} to {high})"


def _toss(a: int, b: int) -> float:
    """Chance that fair coins fall as unevenly as a to b, both ways; exact."""
    n, few = a + b, min(a, b)
    if 2 * few == n:
        return 1.0
    # A term falls by more than a factor of (few - k) / n a step, so 40 deviations are plenty.
    start = max(0, few - 40 - 20 * math.isqrt(n))
    logs = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2)
        for k in range(start, few + 1)
    ]
    return min(1.0, 2 * math.fsum(math.exp(term) for term in logs))


def _swap(surplus: Integers) -> float:
    """Chance of a total as far from 0, when the sign of each group is a fair coin.

    The total is a sum of independent signs times sizes d, so its distribution is
    the Fourier transform of the product of cos(d x), d over the groups.
    """
    seen = abs(int(surplus.sum()))
    sizes, counts = np.unique(np.abs(surplus), return_counts=True)
    if seen == 0:
        return 1.0
    reach = int((sizes * counts).sum())
    size = 1 << (2 * reach + 1).bit_length()
    if size * len(sizes) > WORK:
        return max(SMALLEST, math.erfc(seen / math.sqrt(2.0 * float((sizes**2 * counts).sum()))))
    steps = np.arange(size // 2 + 1)
    logs, sign = np.zeros(len(steps)), np.ones(len(steps))
    with np.errstate(divide="ignore"):
        for d, count in zip(sizes.tolist(), counts.tolist(), strict=True):
            angle = steps * d % size * (2 * math.pi / size)
            # log |cos| by way of the sine: exact to the last digits where it is near 0.
            logs += count * np.log1p(-np.minimum(np.sin(angle) ** 2, 1.0)) / 2
            sign *= np.sign(np.cos(angle)) ** count
    chances = np.fft.irfft(sign * np.exp(logs), size)
    tail = float(chances[seen : size - seen + 1].sum())
    return min(1.0, max(tail, SMALLEST))


def _number(groups: Sequence[str] | Integers) -> Integers:
    return np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1)


def _check_shapes(
    targets: Floats,
    classes: Sequence[str],
    sheets: Sequence[Floats | Bool],
    groups: Sequence[str] | Integers | None,
) -> None:
    shapes = [sheet.shape for sheet in sheets]
    expected = (len(targets), len(classes))
    count = len(targets) if groups is None else len(groups)
    if {targets.shape, *shapes} != {expected} or 0 in expected or count != len(targets):
        raise InputError(
            f"targets have the shape {targets.shape}, probabilities and decisions {shapes}, for "
            f"{len(classes)} classes and {count} groups; expected one shape (rows, classes) for "
            "all: align the sheets by id first."
        )
