import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from loupe.errors import LeakageError
from loupe.folds import assign_folds, assign_holdout, assign_validation, check_leaks, inner_split
from loupe.table import ALWAYS_TRAINED

FEW = settings(max_examples=60, deadline=None)


@st.composite
def tables(draw):
    """Labels (N, C), groups, ids and a number of folds that the groups allow."""
    folds = draw(st.integers(2, 6))
    sizes = draw(st.lists(st.integers(1, 5), min_size=folds, max_size=30))
    groups = [f"g{number}" for number, size in enumerate(sizes) for _ in range(size)]
    n, c = len(groups), draw(st.integers(1, 4))
    bits = draw(st.lists(st.integers(0, 2**c - 1), min_size=n, max_size=n))
    labels = np.array([[bit >> k & 1 for k in range(c)] for bit in bits], dtype=float)
    ids = [f"{number}.png" for number in range(n)]
    return labels, groups, ids, folds


def deal(table, **options):
    labels, groups, ids, folds = table
    classes = [str(c) for c in range(labels.shape[1])]
    options = {"stratify": False, "groups": groups} | options
    return assign_folds(
        labels, options.pop("groups"), ids=ids, classes=classes, folds=folds, **options
    )


def stratify_where_possible(table):
    """Drop the classes in one group, which stratified folds refuse."""
    labels, groups, ids, folds = table
    names = np.asarray(groups)
    usable = [c for c in range(labels.shape[1]) if len(set(names[labels[:, c] == 1])) != 1]
    return labels[:, usable], groups, ids, folds


@FEW
@given(tables(), st.booleans(), st.integers(0, 3))
def test_groups_stay_whole_and_no_fold_is_empty_or_too_large(table, shuffle, seed):
    table = stratify_where_possible(table)
    labels, groups, ids, k = table
    largest = max(groups.count(g) for g in groups)
    for stratify in (False, True):
        folds = deal(table, stratify=stratify, shuffle=shuffle, seed=seed).folds
        sizes = np.bincount(folds, minlength=k)
        check_leaks(folds, groups, ids)
        assert len(sizes) == k
        assert sizes.min() > 0
        if shuffle:
            assert sizes.max() <= len(labels) / k + largest
        if shuffle and not stratify:
            assert np.ptp(sizes) <= largest


@FEW
@given(tables(), st.randoms())
def test_the_order_of_rows_does_not_matter(table, random):
    table = stratify_where_possible(table)
    labels, groups, ids, k = table
    order = list(range(len(ids)))
    random.shuffle(order)
    again = (labels[order], [groups[i] for i in order], [ids[i] for i in order], k)
    folds = deal(table, stratify=True).folds
    assert deal(again, stratify=True).folds.tolist() == folds[order].tolist()
    assert deal(table, stratify=True).folds.tolist() == folds.tolist()


@FEW
@given(st.lists(st.integers(2, 40), min_size=1, max_size=6), st.integers(2, 7), st.integers(0, 9))
def test_single_rows_of_exclusive_classes_differ_by_one(counts, k, seed):
    labels = np.repeat(np.eye(len(counts)), counts, axis=0)
    if len(labels) < k:
        return
    ids = [str(i) for i in range(len(labels))]
    folds = deal((labels, None, ids, k), groups=None, stratify=True, seed=seed).folds
    per_class = np.array([labels[folds == fold].sum(axis=0) for fold in range(k)])
    assert np.ptp(per_class, axis=0).max() <= 1
    assert np.ptp(per_class.sum(axis=1)) <= 1


@FEW
@given(st.integers(0, 10_000), st.integers(2, 6))
def test_single_rows_of_many_labels_are_near_the_ideal(seed, k):
    labels = (np.random.default_rng(seed).random((200, 5)) < 0.25).astype(float)
    ids = [str(i) for i in range(200)]
    folds = deal((labels, None, ids, k), groups=None, stratify=True).folds
    per_class = np.array([labels[folds == fold].sum(axis=0) for fold in range(k)])
    assert np.abs(per_class - labels.sum(axis=0) / k).max() <= 3


@FEW
@given(tables(), st.floats(0.05, 0.5))
def test_parts_set_aside_are_whole_near_their_share_and_never_all(table, share):
    labels, groups, ids, _ = stratify_where_possible(table)
    classes = [str(c) for c in range(labels.shape[1])]
    largest = max(groups.count(g) for g in groups)
    mask = assign_holdout(labels, groups, ids=ids, classes=classes, share=share)
    folds = assign_validation(labels, groups, ids=ids, classes=classes, share=share).folds
    train, stop = inner_split(range(len(ids)), labels, groups, ids=ids, share=share)
    assert sorted([*train, *stop]) == list(range(len(ids)))
    assert set(folds.tolist()) == {ALWAYS_TRAINED, 0}
    for aside in (mask, folds == 0, np.isin(np.arange(len(ids)), stop)):
        check_leaks(aside.astype(np.int16), groups, ids)
        assert 0 < aside.sum() < len(ids)
        assert abs(aside.sum() - share * len(ids)) <= largest + 1


@FEW
@given(tables(), st.data())
def test_a_group_moved_in_part_is_always_found(table, data):
    _, groups, ids, k = table
    folds = deal(table).folds.copy()
    torn = [g for g in set(groups) if groups.count(g) > 1]
    if not torn:
        return
    row = groups.index(data.draw(st.sampled_from(sorted(torn))))
    folds[row] = (folds[row] + 1) % k
    with pytest.raises(LeakageError, match=groups[row]):
        check_leaks(folds, groups, ids)


@pytest.mark.filterwarnings("ignore:The least populated class")
def test_strata_are_no_worse_than_scikit_learns_on_average():
    rng = np.random.default_rng(5)
    ours, theirs = [], []
    for trial in range(25):
        sizes = rng.geometric(0.3, 60)
        group = np.repeat(np.arange(60), sizes)
        prior = rng.dirichlet(np.ones(4))
        label = np.concatenate([rng.choice(4, s, p=rng.dirichlet(prior * 4 + 0.1)) for s in sizes])
        labels, k = np.eye(4)[label], 5
        ids = [str(i) for i in range(len(label))]
        groups = [str(g) for g in group]
        table = stratify_where_possible((labels, groups, ids, k))
        ours.append(spread(labels, deal(table, stratify=True, seed=trial).folds, k))
        folds = np.zeros(len(label), int)
        splitter = StratifiedGroupKFold(k, shuffle=True, random_state=trial)
        for fold, (_, held_out) in enumerate(splitter.split(label, label, group)):
            folds[held_out] = fold
        theirs.append(spread(labels, folds, k))
    assert np.mean(ours) <= np.mean(theirs)


def spread(labels, folds, k):
    """Mean distance of each fold's share of a class from 1 / k, relative."""
    shares = [labels[folds == fold].sum(axis=0) / labels.sum(axis=0).clip(1) for fold in range(k)]
    return np.abs(np.array(shares) * k - 1).mean()
