import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from loupe import metrics as m
from loupe.intervals import bootstrap_weights
from loupe.ranking import average_precision, pr_auc, roc_auc

FEW = settings(max_examples=80, deadline=None)


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


@st.composite
def binary(draw):
    """Truth with both sides, probabilities with many ties, and counts as weights."""
    n = draw(st.integers(2, 40))
    truth = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    truth[0], truth[1] = True, False
    levels = draw(st.sampled_from([2, 5, 1000]))
    ticks = draw(st.lists(st.integers(0, levels), min_size=n, max_size=n))
    weights = draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    weights[0] = weights[1] = 1
    return np.array(truth), np.array(ticks) / levels, np.array(weights)


@st.composite
def multiclass(draw):
    """Given and decided class of each row; every class is given once at least."""
    c = draw(st.integers(2, 5))
    n = draw(st.integers(c + 1, 40))
    truth = draw(st.lists(st.integers(0, c - 1), min_size=n, max_size=n))
    truth[:c] = range(c)
    called = draw(st.lists(st.integers(0, c - 1), min_size=n, max_size=n))
    weights = draw(st.lists(st.integers(1, 4), min_size=n, max_size=n))
    return np.array(truth), np.array(called), np.array(weights), c


@FEW
@given(binary())
def test_ranking_scores_agree_with_scikit_learn(case):
    truth, probs, weights = case
    columns = truth[:, None], probs[:, None], weights
    close(
        average_precision(*columns)[0],
        sk.average_precision_score(truth, probs, sample_weight=weights),
    )
    close(roc_auc(*columns)[0], sk.roc_auc_score(truth, probs, sample_weight=weights))
    curve = sk.precision_recall_curve(truth, probs, sample_weight=weights)
    close(pr_auc(*columns)[0], sk.auc(curve[1], curve[0]))
    close(average_precision(*columns[:2])[0], sk.average_precision_score(truth, probs))


@FEW
@given(binary())
def test_losses_agree_with_scikit_learn(case):
    truth, probs, weights = case
    targets, columns = truth[:, None].astype(float), probs[:, None]
    close(
        m.log_loss(targets, columns, exclusive=False, weights=weights),
        sk.log_loss(truth, probs, sample_weight=weights),
    )
    close(
        m.brier(targets, columns, exclusive=False, weights=weights),
        sk.brier_score_loss(truth, probs, sample_weight=weights),
    )
    both = np.column_stack([1 - probs, probs])
    close(
        m.log_loss(np.eye(2)[truth.astype(int)], both, exclusive=True, weights=weights),
        sk.log_loss(truth, both, sample_weight=weights),
    )


@FEW
@given(multiclass())
def test_decision_scores_agree_with_scikit_learn(case):
    truth, called, weights, c = case
    given_NC, decided_NC = np.eye(c, dtype=bool)[truth], np.eye(c, dtype=bool)[called]
    counts = m.count_outcomes(given_NC, decided_NC, weights)
    p, r, f, _ = sk.precision_recall_fscore_support(
        truth, called, labels=range(c), sample_weight=weights, zero_division=np.nan
    )
    close(m.recall(counts), r)
    close(np.nan_to_num(m.precision(counts), nan=-1), np.nan_to_num(p, nan=-1))
    close(m.f1(counts), np.nan_to_num(f))
    options = {"labels": range(c), "sample_weight": weights, "zero_division": 0}
    close(m.macro(m.f1(counts)), sk.f1_score(truth, called, average="macro", **options))
    close(m.f1(m.pool(counts))[0], sk.f1_score(truth, called, average="micro", **options))
    close(
        m.accuracy(given_NC, decided_NC, weights),
        sk.accuracy_score(truth, called, sample_weight=weights),
    )
    close(
        m.balanced_accuracy(counts),
        sk.balanced_accuracy_score(truth, called, sample_weight=weights),
    )
    close(
        m.cohen_kappa(counts),
        sk.cohen_kappa_score(truth, called, labels=range(c), sample_weight=weights),
    )
    close(
        np.nan_to_num(m.mcc(counts)),
        sk.matthews_corrcoef(truth, called, sample_weight=weights),
    )
    close(
        m.confusion_matrix(given_NC, decided_NC, weights),
        sk.confusion_matrix(truth, called, labels=range(c), sample_weight=weights),
    )


@FEW
@given(multiclass())
def test_one_column_stands_for_two_classes(case):
    truth, called, weights, _ = case
    truth, called = truth == 0, called == 0
    counts = m.count_outcomes(truth[:, None], called[:, None], weights)
    close(
        m.balanced_accuracy(counts),
        sk.balanced_accuracy_score(truth, called, sample_weight=weights),
    )
    close(np.nan_to_num(m.mcc(counts)), sk.matthews_corrcoef(truth, called, sample_weight=weights))


@FEW
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_scores_of_several_labels_agree_with_scikit_learn(seed, c):
    rng = np.random.default_rng(seed)
    truth, probs = rng.random((30, c)) < 0.5, rng.integers(0, 8, (30, c)) / 8
    truth[0], truth[1] = True, False
    called = m.to_decisions(probs, exclusive=False)
    counts = m.count_outcomes(truth, called)
    target = truth.astype(int) if c > 1 else truth[:, 0].astype(int)
    decided = called.astype(int) if c > 1 else called[:, 0].astype(int)
    close(m.accuracy(truth, called), sk.accuracy_score(target, decided))
    average = "micro" if c > 1 else "binary"
    close(m.f1(m.pool(counts))[0], sk.f1_score(target, decided, average=average, zero_division=0))
    close(
        m.macro(average_precision(truth, probs)),
        sk.average_precision_score(truth.astype(int), probs, average="macro"),
    )
    close(m.macro(roc_auc(truth, probs)), sk.roc_auc_score(truth.astype(int), probs))


@FEW
@given(st.integers(0, 10_000), st.booleans())
def test_counts_as_weights_are_rows_repeated(seed, exclusive):
    """Each score under a batch of weights is that of the data set written out."""
    rng = np.random.default_rng(seed)
    n, c = 25, 3
    truth = np.eye(c, dtype=bool)[rng.integers(0, c, n)] if exclusive else rng.random((n, c)) < 0.4
    probs = rng.integers(0, 6, (n, c)) + 0.5
    probs /= probs.sum(axis=1, keepdims=True)
    called = m.to_decisions(probs, exclusive=exclusive)
    weights = bootstrap_weights(rng.integers(0, 9, n), 4, seed)
    targets = truth.astype(float)

    def all_scores(rows, weights):
        t, p, d = truth[rows], probs[rows], called[rows]
        counts = m.count_outcomes(t, d, weights)
        loss = {"exclusive": exclusive, "weights": weights}
        yield from (m.precision(counts), m.recall(counts), m.f1(counts), m.f1(m.pool(counts)))
        if exclusive:
            yield from (m.mcc(counts), m.cohen_kappa(counts), m.balanced_accuracy(counts))
        yield from (f(t, p, weights) for f in (average_precision, pr_auc, roc_auc))
        yield m.accuracy(t, d, weights)
        yield m.log_loss(targets[rows], p, **loss)
        yield m.brier(targets[rows], p, **loss)
        yield m.expected_calibration_error(t, p, bins=5, **loss)

    batch = list(all_scores(slice(None), weights))
    for number, counts in enumerate(weights):
        repeated = all_scores(np.repeat(np.arange(n), counts), None)
        for ours, plain in zip(batch, repeated, strict=True):
            close(ours[number], plain)
