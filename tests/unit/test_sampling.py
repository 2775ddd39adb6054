"""Rows of an epoch: which, how often, and how evenly."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from loupe.errors import InputError
from loupe.sampling import draw_rows

FEW = settings(max_examples=80, deadline=None)
LABELS = np.array([0] * 10 + [1] * 3 + [2] * 5)
TABLE = np.eye(4, dtype=np.float32)[LABELS]  # class 3 has no row
ALL = np.arange(len(TABLE))
WAYS = ["none", "under", "over", "weighted"]


def draw(rows, targets, sampling, *, exclusive=True, seed=1, epoch=0):
    return draw_rows(rows, targets, sampling=sampling, exclusive=exclusive, seed=seed, epoch=epoch)


@st.composite
def tables(draw_from):
    """Draw a table of standing columns or exclusive classes, and some of its rows."""
    number, columns = draw_from(st.integers(1, 30)), draw_from(st.integers(1, 3))
    exclusive = draw_from(st.booleans())
    rng = np.random.default_rng(draw_from(st.integers(0, 1000)))
    if exclusive:
        targets = rng.dirichlet(np.ones(columns + 1), size=number)
        names = targets.argmax(axis=1).tolist()
    else:
        targets = rng.choice([0, 0.2, 0.5, 1], size=(number, columns))
        names = [tuple(row) for row in (targets >= 0.5).tolist()]
    rows = rng.permutation(number)[: draw_from(st.integers(1, number))]
    return rows, targets.astype(np.float32), exclusive, names


@FEW
@given(tables(), st.sampled_from(WAYS), st.integers(0, 99), st.integers(0, 5))
def test_counts_are_those_of_the_definition(table, sampling, seed, epoch):
    rows, targets, exclusive, names = table
    drawn = draw(rows, targets, sampling, exclusive=exclusive, seed=seed, epoch=epoch)
    given_counts = Counter(names[row] for row in rows)
    counts = Counter(names[row] for row in drawn)
    assert set(drawn) <= set(rows)
    assert drawn.dtype == np.intp
    assert (np.diff(drawn) >= 0).all()
    if sampling == "none":
        assert drawn.tolist() == sorted(rows)
    elif sampling == "under":
        assert counts == dict.fromkeys(given_counts, min(given_counts.values()))
        assert len(set(drawn)) == len(drawn)
    elif sampling == "over":
        assert counts == dict.fromkeys(given_counts, max(given_counts.values()))
        assert set(drawn) == set(rows)
    else:
        assert len(drawn) == len(rows)


@FEW
@given(tables(), st.sampled_from(WAYS), st.integers(0, 99))
def test_the_order_of_rows_and_other_rows_change_nothing(table, sampling, seed):
    rows, targets, exclusive, _ = table
    first = draw(rows, targets, sampling, exclusive=exclusive, seed=seed)
    longer = np.concatenate([targets, targets[:1]])
    second = draw(rows[::-1], longer, sampling, exclusive=exclusive, seed=seed)
    assert first.tolist() == second.tolist()


@pytest.mark.parametrize(
    ("sampling", "expected"), [("under", [3, 3, 3]), ("over", [10, 10, 10]), ("none", [10, 3, 5])]
)
def test_exclusive_classes_are_balanced_and_an_absent_one_plays_no_part(sampling, expected):
    counts = np.bincount(LABELS[draw(ALL, TABLE, sampling)])
    assert counts.tolist() == expected


def test_a_column_on_its_own_has_two_classes():
    targets = np.array([[1], [0], [0], [0], [1], [0.4]], np.float32)
    rows = np.arange(6)
    under = draw(rows, targets, "under", exclusive=False)
    assert {0, 4} <= set(under)
    assert len(under) == 4
    over = draw(rows, targets, "over", exclusive=False)
    assert (targets[over] >= 0.5).sum() == 4
    assert len(over) == 8


def test_label_sets_are_classes_of_their_own():
    sets = np.array([[0, 0]] * 6 + [[1, 0]] * 4 + [[1, 1]] * 2, np.float32)
    under = draw(np.arange(12), sets, "under", exclusive=False)
    assert [int((under < 6).sum()), int(((under >= 6) & (under < 10)).sum())] == [2, 2]
    assert under[-2:].tolist() == [10, 11]
    over = draw(np.arange(12), sets, "over", exclusive=False)
    assert [int((over < 6).sum()), int((over >= 10).sum()), len(over)] == [6, 6, 18]


def test_under_takes_the_same_rows_in_every_epoch():
    draws = {tuple(draw(ALL, TABLE, "under", epoch=epoch)) for epoch in range(8)}
    assert len(draws) == 1
    assert len({tuple(draw(ALL, TABLE, "under", seed=seed)) for seed in range(8)}) > 1


@pytest.mark.parametrize("sampling", ["over", "weighted"])
def test_over_and_weighted_draw_anew_in_every_epoch_and_repeat_it(sampling):
    draws = [tuple(draw(ALL, TABLE, sampling, epoch=epoch)) for epoch in range(8)]
    assert len(set(draws)) == 8
    assert draws == [tuple(draw(ALL, TABLE, sampling, epoch=epoch)) for epoch in range(8)]
    assert draws[0] != tuple(draw(ALL, TABLE, sampling, seed=2))


def count_draws(sampling, number):
    drawn = [draw(ALL, TABLE, sampling, seed=seed, epoch=3) for seed in range(number)]
    return np.bincount(np.concatenate(drawn), minlength=len(ALL))


def test_weighted_draws_rows_at_one_over_the_count_of_their_class():
    counts = count_draws("weighted", 600)
    chances = 1 / (3 * np.bincount(LABELS)[LABELS])
    assert stats.chisquare(counts, chances * 600 * len(ALL)).pvalue > 0.001


def test_under_and_over_favour_no_row_of_a_class():
    under, over = count_draws("under", 600), count_draws("over", 600)
    assert (under[10:13] == 600).all()
    assert stats.chisquare(under[:10]).pvalue > 0.001
    assert (over[:10] == 600).all()
    assert over[10:13].sum() == 10 * 600
    assert stats.chisquare(over[10:13] - 600).pvalue > 0.001
    assert stats.chisquare(over[13:] - 600).pvalue > 0.001


def test_over_repeats_with_replacement():
    # 7 more rows from 3: were each drawn in turn, no row would come more than 4 times.
    most = max(np.bincount(draw(ALL, TABLE, "over", seed=seed))[10:13].max() for seed in range(20))
    assert most > 4


@pytest.mark.parametrize("sampling", WAYS)
def test_no_rows_stay_no_rows_and_rows_are_not_written_to(sampling):
    assert draw(ALL[:0], TABLE, sampling).tolist() == []
    rows = ALL[::-1].copy()
    drawn = draw(rows, TABLE, sampling)
    drawn[:] = 0
    assert rows.tolist() == ALL[::-1].tolist()


def test_an_unknown_way_is_refused_with_the_nearest_one():
    with pytest.raises(InputError, match=r"sampling 'weigthed' is not known; did you mean 'weigh"):
        draw(ALL, TABLE, "weigthed")
