import itertools

import numpy as np
import pytest
from scipy.stats import binomtest

from loupe import comparing
from loupe.comparing import compare_decisions, compare_sheets, judge
from loupe.errors import InputError
from loupe.intervals import Difference
from loupe.metrics import to_decisions
from loupe.testing import make_predictions

CLASSES = ["a", "b", "c"]


def disagree(only_a: int, only_b: int, both: int = 3):
    """Rows that A alone, B alone, and both have right."""
    right_a = np.repeat([True, False, True], [only_a, only_b, both])
    right_b = np.repeat([False, True, True], [only_a, only_b, both])
    return right_a, right_b


def compare(targets, a, b, groups=None, *, exclusive=True, **more):
    decided = (to_decisions(probs, exclusive=exclusive) for probs in (a, b))
    known = {"exclusive": exclusive, "classes": CLASSES, "resamples": 200}
    return compare_sheets(targets, a, b, *decided, groups, **(known | more))


def make_pair(blur: float, *, exclusive: bool = True, n: int = 300, groups: int | None = None):
    """A sheet, and one that is worse by some noise."""
    targets, probs, group, _ = make_predictions(n, 3, exclusive=exclusive, groups=groups, seed=1)
    noise = np.random.default_rng(0).dirichlet(np.ones(3), n).astype(np.float32)
    return targets, probs, (1 - blur) * probs + np.float32(blur) * noise, group


def count_swaps(surplus) -> float:
    """Share of all choices of signs whose total is as far from 0."""
    totals = [
        abs(np.dot(signs, surplus)) for signs in itertools.product([1, -1], repeat=len(surplus))
    ]
    return float(np.mean(np.array(totals) >= abs(sum(surplus))))


@pytest.mark.parametrize(
    ("only_a", "only_b"),
    [(0, 0), (1, 0), (5, 5), (6, 5), (0, 9), (30, 12), (400, 330), (5000, 5300)],
)
def test_rows_that_stand_alone_are_tossed_like_coins(only_a, only_b):
    right_a, right_b = disagree(only_a, only_b)
    found = compare_decisions(right_a, right_b, np.arange(len(right_a)))
    total = only_a + only_b
    expected = binomtest(only_a, total).pvalue if total else 1.0
    assert (found.only_a, found.only_b) == (only_a, only_b)
    assert found.p_value_rows == pytest.approx(expected, rel=1e-9)
    assert found.p_value == found.p_value_rows


def test_a_million_rows_are_tossed_exactly():
    assert comparing._toss(500_900, 499_100) == pytest.approx(
        binomtest(499_100, 1_000_000).pvalue, rel=1e-6
    )


@pytest.mark.parametrize("seed", range(8))
def test_groups_are_swapped_whole(seed):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 9, 40)
    right_a, right_b = rng.random(40) < 0.7, rng.random(40) < 0.5
    surplus = np.bincount(groups, right_a.astype(int) - right_b.astype(int), minlength=9)
    found = compare_decisions(right_a, right_b, groups)
    assert found.p_value == pytest.approx(count_swaps(surplus[surplus != 0]), abs=1e-9)


def test_copies_of_rows_prove_nothing_more():
    right_a, right_b = disagree(9, 2)
    once = compare_decisions(right_a, right_b, np.arange(len(right_a)))
    groups = np.repeat(np.arange(len(right_a)), 7)
    copied = compare_decisions(np.repeat(right_a, 7), np.repeat(right_b, 7), groups)
    assert copied.p_value == pytest.approx(once.p_value, abs=1e-9)
    assert copied.p_value_rows < 1e-3 * once.p_value


def test_many_groups_of_all_sizes_are_close_to_the_normal_curve(monkeypatch):
    rng = np.random.default_rng(0)
    surplus = rng.integers(-6, 8, 150)
    surplus = surplus[surplus != 0]
    exact = comparing._swap(surplus)
    monkeypatch.setattr(comparing, "WORK", 0)
    assert 0.001 < exact < 0.3
    assert comparing._swap(surplus) == pytest.approx(exact, rel=0.1)


def test_a_surplus_beyond_rounding_has_the_smallest_p_value():
    right_a, right_b = disagree(400, 0)
    found = compare_decisions(right_a, right_b, np.arange(len(right_a)) // 2)
    assert found.p_value == comparing.SMALLEST


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_sheet_does_not_differ_from_itself(exclusive):
    targets, probs, _, groups = make_pair(0.5, exclusive=exclusive, groups=60)
    found = compare(targets, probs, probs, groups, exclusive=exclusive)
    assert found.verdict.startswith("no evidence of a difference: +0.00 points ")
    assert found.verdict.endswith(", A minus B, 300 rows in 60 groups")
    assert (found.rows, found.groups, found.only_a, found.only_b) == (300, 60, 0, 0)
    assert [test.p_value for test in found.mcnemar] == [1.0] * len(found.mcnemar)
    assert {difference.value for difference in found.differences} == {0.0}


def test_the_better_sheet_is_named_whichever_side_it_stands_on():
    targets, good, bad, _ = make_pair(0.8)
    forth = compare(targets, good, bad, names=("new", "old"))
    back = compare(targets, bad, good, names=("old", "new"))
    assert forth.verdict.startswith("new is better: +")
    assert back.verdict == forth.verdict
    assert (forth.only_a, forth.only_b) == (back.only_b, back.only_a)
    for one, other in zip(forth.differences, back.differences, strict=True):
        assert one.metric == other.metric
        assert one.value == pytest.approx(-other.value)
    for one, other in zip(forth.mcnemar, back.mcnemar, strict=True):
        assert one.p_value == other.p_value


def test_a_lower_loss_is_better():
    targets, good, bad, _ = make_pair(0.8)
    found = compare(targets, good, bad, metric="log_loss")
    assert found.differences[0].metric == "log_loss"
    assert found.differences[0].high < 0
    assert found.verdict.startswith("A is better: -0.")
    assert "log loss" in found.verdict


@pytest.mark.parametrize("exclusive", [True, False])
def test_the_score_that_decides_comes_first(exclusive):
    targets, good, bad, _ = make_pair(0.3, exclusive=exclusive)
    found = compare(targets, good, bad, exclusive=exclusive)
    metrics = [difference.metric for difference in found.differences]
    assert metrics[0] == ("accuracy" if exclusive else "average_precision")
    assert {"f1_macro", "log_loss"} < set(metrics)
    assert len(set(metrics)) == len(metrics)
    assert [test.class_name for test in found.mcnemar] == ["", *([] if exclusive else CLASSES)]


def test_decisions_count_as_they_were_made():
    targets = np.tile(np.eye(3, dtype=np.float32), (20, 1))
    probs = np.full_like(targets, 1 / 3)
    decided_a, decided_b = targets > 0, np.zeros(targets.shape, np.bool_)
    found = compare_sheets(
        targets,
        probs,
        probs,
        decided_a,
        decided_b,
        None,
        exclusive=True,
        classes=CLASSES,
        resamples=50,
    )
    assert (found.only_a, found.only_b) == (60, 0)
    assert found.differences[0].value == 1
    assert found.verdict.startswith("A is better: +100.00 points accuracy")


def test_each_class_that_stands_alone_is_tested():
    targets = np.zeros((12, 3), np.float32)
    a = np.zeros((12, 3), np.float32)
    b = a.copy()
    b[:8, 1] = 0.9
    b[8:10, 2] = 0.9
    found = compare(targets, a, b, exclusive=False, metric="exact_match")
    assert [(test.only_a, test.only_b) for test in found.mcnemar] == [
        (10, 0),
        (0, 0),
        (8, 0),
        (2, 0),
    ]
    assert found.mcnemar[2].p_value == pytest.approx(2 / 2**8)


def test_a_score_without_positives_gives_no_verdict():
    targets = np.zeros((10, 3), np.float32)
    found = compare(targets, targets, targets + np.float32(0.2), exclusive=False)
    assert found.verdict.startswith("A and B cannot be compared: average precision is not defined")


@pytest.mark.parametrize(
    ("metric", "low", "high", "expected"),
    [
        ("accuracy", 0.01, 0.02, "A is better: +1.50 points accuracy (+1.00 to +2.00)"),
        ("accuracy", -0.02, -0.01, "B is better: +1.50 points accuracy (+1.00 to +2.00)"),
        ("brier", 0.01, 0.02, "B is better: -0.0150 brier (-0.0200 to -0.0100)"),
        ("brier", -0.02, -0.01, "A is better: -0.0150 brier (-0.0200 to -0.0100)"),
        ("accuracy", 0.0, 0.02, "no evidence of a difference: +1.00 points accuracy (+0.00 to"),
        ("log_loss", -0.02, 0.0, "no evidence of a difference: -0.0100 log loss (-0.0200 to"),
    ],
)
def test_verdicts_follow_the_interval(metric, low, high, expected):
    value = (low + high) / 2
    difference = Difference(metric=metric, value=value, low=low, high=high, p_value=0.01)
    assert judge(difference).startswith(expected)


def test_sheets_of_another_shape_are_refused():
    targets, good, bad, _ = make_pair(0.5)
    with pytest.raises(InputError, match="align the sheets by id"):
        compare(targets, good, bad[:-1])
    with pytest.raises(InputError, match="299 groups"):
        compare(targets, good, bad, np.arange(299))
    with pytest.raises(InputError, match="acuracy"):
        compare(targets, good, bad, metric="acuracy")
