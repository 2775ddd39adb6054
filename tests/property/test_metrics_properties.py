import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from loupe import metrics as m
from loupe.intervals import bootstrap_weights
from loupe.ranking import average_precision, pr_auc, roc_auc
from loupe.scorecard import measure, read_sheet

FEW = settings(max_examples=60, deadline=None)
FEWER = settings(max_examples=15, deadline=None)


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


@st.composite
def sheets(draw, *, exclusive):
    """Hard targets, probabilities with ties, zeros and ones, decisions, weights with zeros."""
    seed, c = (
        draw(st.integers(0, 10_000)),
        draw(st.integers(2, 5) if exclusive else st.integers(1, 4)),
    )
    levels = draw(st.sampled_from([1, 3, 50]))
    rng = np.random.default_rng(seed)
    n = 2 * c + draw(st.integers(2, 30))
    if exclusive:
        truth = np.eye(c, dtype=bool)[np.append(np.arange(c), rng.integers(0, c, n - c))]
        # The last class may never be decided, and its probabilities may all be 0.
        probs = rng.integers(0, levels + 1, (n, c)) * np.append(np.ones(c - 1), draw(st.booleans()))
        probs[:, 0] += probs.sum(axis=1) == 0
        probs = probs / probs.sum(axis=1, keepdims=True)
    else:
        truth = rng.random((n, c)) < rng.random(c)
        truth[0], truth[1] = True, False
        probs = rng.integers(0, levels + 1, (n, c)) / levels
    weights = rng.integers(0, 4, n) * draw(st.sampled_from([1.0, 0.37]))
    weights[: 2 * c] = 1
    return truth, probs, weights


def take_scores(truth, probs, weights, *, exclusive, decisions=None):
    sheet = read_sheet(
        truth.astype(float), probs, exclusive=exclusive, thresholds=None, decisions=decisions
    )
    return {key: value[0] for key, value in measure(sheet, [weights[None]]).items()}


def expected_by_class(truth, probs, called, weights, c):
    """What scikit-learn says of one column."""
    column, options = (truth[:, c], called[:, c]), {"sample_weight": weights}
    options |= {"zero_division": np.nan}
    curve = sk.precision_recall_curve(truth[:, c], probs[:, c], sample_weight=weights)
    ranked = (truth[:, c], probs[:, c])
    return {
        "precision": sk.precision_score(*column, **options),
        "recall": sk.recall_score(*column, **options),
        "f1": sk.f1_score(*column, **(options | {"zero_division": 0})),
        "prevalence": np.average(truth[:, c], weights=weights),
        "brier": sk.brier_score_loss(*ranked, sample_weight=weights),
        "average_precision": sk.average_precision_score(*ranked, sample_weight=weights),
        "roc_auc": sk.roc_auc_score(*ranked, sample_weight=weights),
        "pr_auc": sk.auc(curve[1], curve[0]),
    }


def mean_of_defined(values):
    defined = [value for value in values if not np.isnan(value)]
    return np.mean(defined) if defined else np.nan


def plain_calibration_error(truth, probs, weights, bins=15):
    """From the definition, bin by bin; of columns."""
    errors = []
    for t, p in zip(truth.T, probs.T, strict=True):
        which = [min(int(value * bins), bins - 1) for value in p]
        parts = [np.flatnonzero(np.equal(which, number)) for number in range(bins)]
        errors.append(sum(abs((weights[rows] * (t[rows] - p[rows])).sum()) for rows in parts))
    return np.mean(errors) / weights.sum()


def check_names(found, expected):
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=0, atol=1e-12, err_msg=str(key))
    assert set(found) == set(expected)


@FEWER
@given(sheets(exclusive=True))
def test_every_score_of_exclusive_classes_agrees_with_scikit_learn(case):
    truth, probs, weights = case
    c, called = truth.shape[1], m.to_decisions(probs, exclusive=True)
    given_N, decided_N = truth.argmax(axis=1), called.argmax(axis=1)
    pair, options = (given_N, decided_N), {"sample_weight": weights}
    by_class = [expected_by_class(truth, probs, called, weights, k) for k in range(c)]
    means = {name: mean_of_defined([one[name] for one in by_class]) for name in by_class[0]}
    top = (called & truth).any(axis=1)[:, None], probs.max(axis=1)[:, None]
    mcc = sk.matthews_corrcoef(*pair, **options)
    expected = {
        "accuracy": sk.accuracy_score(*pair, **options),
        "balanced_accuracy": sk.balanced_accuracy_score(*pair, **options),
        "f1_macro": sk.f1_score(
            *pair, average="macro", labels=range(c), zero_division=0, **options
        ),
        "precision_macro": means["precision"],
        "mcc": np.nan if len(set(decided_N[weights > 0])) == 1 else mcc,
        "cohen_kappa": sk.cohen_kappa_score(*pair, labels=range(c), **options),
        "log_loss": sk.log_loss(given_N, probs, labels=range(c), **options),
        "brier": sk.brier_score_loss(
            given_N, probs, labels=range(c), scale_by_half=False, **options
        ),
        "expected_calibration_error": plain_calibration_error(*top, weights),
        "roc_auc_macro": means["roc_auc"],
        "average_precision_macro": means["average_precision"],
        "pr_auc": means["pr_auc"],
    }
    expected = {(name, -1): value for name, value in expected.items()}
    expected |= {(name, k): v for k, one in enumerate(by_class) for name, v in one.items()}
    check_names(take_scores(truth, probs, weights, exclusive=True), expected)
    # What the scorecard leaves out, because it says the same.
    micro = sk.precision_recall_fscore_support(*pair, average="micro", **options)
    close(micro[:3], [expected["accuracy", -1]] * 3)


@FEWER
@given(sheets(exclusive=False))
def test_every_score_of_columns_agrees_with_scikit_learn(case):
    truth, probs, weights = case
    c, called = truth.shape[1], m.to_decisions(probs, exclusive=False)
    by_class = [expected_by_class(truth, probs, called, weights, k) for k in range(c)]
    means = {name: mean_of_defined([one[name] for one in by_class]) for name in by_class[0]}
    # Micro: all cells as one column.
    cells = truth.ravel(), called.ravel()
    options = {"sample_weight": np.repeat(weights, c), "zero_division": np.nan}
    losses = [
        sk.log_loss(t, p, sample_weight=weights) for t, p in zip(truth.T, probs.T, strict=True)
    ]
    expected = {
        **{name: means[name] for name in ("average_precision", "roc_auc", "pr_auc")},
        **{f"{name}_macro": means[name] for name in ("f1", "precision", "recall")},
        "f1_micro": sk.f1_score(*cells, **(options | {"zero_division": 0})),
        "precision_micro": sk.precision_score(*cells, **options),
        "recall_micro": sk.recall_score(*cells, **options),
        "exact_match": np.average((truth == called).all(axis=1), weights=weights),
        "log_loss": np.mean(losses),
        "brier": means["brier"],
        "expected_calibration_error": plain_calibration_error(truth, probs, weights),
    }
    if c == 1:
        pair = truth[:, 0], called[:, 0]
        mcc = sk.matthews_corrcoef(*pair, sample_weight=weights)
        expected |= {
            "accuracy": sk.accuracy_score(*pair, sample_weight=weights),
            "balanced_accuracy": sk.balanced_accuracy_score(*pair, sample_weight=weights),
            "mcc": np.nan if len(set(called[weights > 0, 0])) == 1 else mcc,
            "cohen_kappa": sk.cohen_kappa_score(*pair, sample_weight=weights),
        }
    expected = {(name, -1): value for name, value in expected.items()}
    expected |= {(name, k): v for k, one in enumerate(by_class) for name, v in one.items()}
    check_names(take_scores(truth, probs, weights, exclusive=False), expected)


@FEWER
@given(sheets(exclusive=True), st.integers(0, 99))
def test_undecided_rows_are_a_class_that_is_never_right(case, seed):
    truth, probs, weights = case
    c, called = truth.shape[1], m.to_decisions(probs, exclusive=True)
    called[0] = False
    called &= (np.random.default_rng(seed).random(len(called)) < 0.7)[:, None]
    found = take_scores(truth, probs, weights, exclusive=True, decisions=called)
    decided_N = np.where(called.any(axis=1), called.argmax(axis=1), c)
    pair, options = (truth.argmax(axis=1), decided_N), {"sample_weight": weights}
    kept = decided_N < c
    close(found["accuracy", -1], sk.accuracy_score(*pair, **options))
    close(found["accepted", -1], np.average(kept, weights=weights))
    if weights[kept].sum():
        right = np.average(pair[0][kept] == decided_N[kept], weights=weights[kept])
        close(found["accuracy_accepted", -1], right)
    else:
        assert np.isnan(found["accuracy_accepted", -1])
    close(np.nan_to_num(found["mcc", -1]), sk.matthews_corrcoef(*pair, **options))
    close(found["cohen_kappa", -1], sk.cohen_kappa_score(*pair, **options))
    close(
        found["f1_macro", -1],
        sk.f1_score(*pair, labels=range(c), average="macro", zero_division=0, **options),
    )
    recalls = sk.recall_score(*pair, labels=range(c), average="macro", **options)
    close(found["balanced_accuracy", -1], recalls)


@FEW
@given(st.integers(0, 10_000), st.booleans(), st.integers(1, 12))
def test_a_column_of_one_side_is_undefined_and_no_mean_takes_it(seed, side, levels):
    rng = np.random.default_rng(seed)
    truth, probs = rng.random((12, 2)) < 0.5, rng.integers(0, levels + 1, (12, 2)) / levels
    truth[0], truth[1], truth[:, 1] = True, False, side
    found = take_scores(truth, probs, np.ones(12), exclusive=False)
    assert np.isnan(found["roc_auc", 1])
    assert found["roc_auc", -1] == found["roc_auc", 0]
    for name in ("average_precision", "pr_auc", "recall", "f1"):
        assert np.isnan(found[name, 1]) != side
        overall = found[name if (name, -1) in found else f"{name}_macro", -1]
        assert side or overall == found[name, 0]


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
