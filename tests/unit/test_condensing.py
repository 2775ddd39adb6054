import numpy as np
import pytest

from loupe import condensing, intervals
from loupe.condensing import BINS, deal_blocks, measure_blocks, sum_blocks
from loupe.errors import InputError
from loupe.intervals import bootstrap_weights, compare_paired, score
from loupe.scorecard import measure, read_sheet
from loupe.testing import make_predictions


def test_blocks_are_pinned_whole_groups_and_equal():
    groups = np.repeat(np.arange(500), 3)
    blocks = deal_blocks(groups, most=40)
    assert (blocks.reshape(500, 3) == blocks[::3, None]).all()
    sizes = np.bincount(blocks[::3])
    assert (len(sizes), sizes.min(), sizes.max()) == (40, 12, 13)
    assert deal_blocks(range(8), most=3).tolist() == [0, 2, 1, 2, 1, 0, 0, 1]
    assert deal_blocks(range(8), most=3, seed=1).tolist() != deal_blocks(range(8), 3).tolist()


def test_blocks_do_not_depend_on_the_order_of_rows():
    names = [f"g{number % 70}" for number in range(200)]
    order = np.random.default_rng(0).permutation(200)
    blocks = deal_blocks(names, most=9)
    assert deal_blocks([names[row] for row in order], most=9).tolist() == blocks[order].tolist()


def test_few_groups_are_a_block_each():
    assert deal_blocks(["c", "a", "b", "a"], most=3).tolist() == [2, 0, 1, 0]


def test_neighbours_are_parted():
    """Rows in the order of acquisition are alike: a block must not be a stretch of them."""
    blocks = deal_blocks(range(5000), most=50)
    drift = sum_blocks(np.arange(5000.0)[:, None], blocks, 50)[:, 0]
    # The mean of 100 of 5000 numbers spreads by 5000 / sqrt(12 * 100).
    assert (drift / 100).std() == pytest.approx(5000 / np.sqrt(1200), rel=0.3)


@pytest.mark.parametrize("change", [{"most": 1}, {"seed": -1}])
def test_wrong_numbers_are_refused(change):
    with pytest.raises(InputError, match="expected 2 or more"):
        deal_blocks(range(9), **change)


def tied_sheet(*, exclusive, n=400):
    """Few distinct probabilities, a rare class, and rows without a decision."""
    targets, probs, groups, _ = make_predictions(
        n, 3, exclusive=exclusive, prevalence=[0.6, 0.36, 0.04], groups=n // 4, seed=5
    )
    probs = np.round(probs, 2) / (1 if not exclusive else np.round(probs, 2).sum(1)[:, None])
    decided = (probs == probs.max(axis=1, keepdims=True)).cumsum(axis=1) == 1
    decided &= (probs == probs.max(axis=1, keepdims=True)) & (probs > 0.5)
    return read_sheet(
        targets, probs, exclusive=exclusive, thresholds=None, decisions=decided
    ), groups


@pytest.mark.parametrize("exclusive", [True, False])
def test_draws_of_blocks_are_the_scores_under_their_weights(exclusive):
    """All scores, with no more positives than bins: nothing is lost, ties included."""
    sheet, groups = tied_sheet(exclusive=exclusive)
    blocks = deal_blocks(groups, most=30)
    draws = bootstrap_weights(range(30), 20, seed=3)
    exact = measure(sheet, [np.ones((1, 400))])
    condensed = measure_blocks(sheet, blocks, draws, exact)
    plain = measure(sheet, [draws[:, blocks]])
    assert list(condensed) == list(plain)
    assert sheet.abstains is exclusive
    assert sheet.truth.sum(axis=0).max() <= BINS
    for key, values in plain.items():
        np.testing.assert_allclose(condensed[key], values, rtol=0, atol=1e-9, err_msg=str(key))


def test_coarse_bins_are_set_right_on_average(monkeypatch):
    """With 10 bins the areas on all rows are off; the draws are moved by as much."""
    monkeypatch.setattr(condensing, "BINS", 10)
    targets, probs, _, _ = make_predictions(4000, 2, quality=0.7, seed=1)
    sheet = read_sheet(targets, probs, exclusive=False, thresholds=None)
    blocks = deal_blocks(range(4000), most=200)
    draws = bootstrap_weights(range(200), 40, seed=0)
    exact = measure(sheet, [np.ones((1, 4000))])
    condensed = measure_blocks(sheet, blocks, draws, exact, ("rankings",))
    plain = measure(sheet, [draws[:, blocks]], ("rankings",))
    ones = np.ones((1, 200), int)
    for key, values in plain.items():
        assert abs((condensed[key] - values).mean()) < 0.2 * values.std(), key
        (middle,) = measure_blocks(sheet, blocks, ones, exact, ("rankings",))[key]
        assert middle == pytest.approx(exact[key][0], abs=1e-12)


def test_a_class_without_positives_stays_undefined():
    targets, probs = np.zeros((50, 2)), np.full((50, 2), 0.3)
    targets[:20, 0] = 1
    sheet = read_sheet(targets, probs, exclusive=False, thresholds=None)
    exact = measure(sheet, [np.ones((1, 50))])
    draws = bootstrap_weights(range(10), 5, seed=0)
    found = measure_blocks(sheet, deal_blocks(range(50), most=10), draws, exact)
    assert np.isnan(found["average_precision", 1]).all()
    assert np.isnan(found["roc_auc", 1]).all()
    np.testing.assert_allclose(found["roc_auc", -1], 0.5)


def count_positives_drawn(flags, keys, resamples):
    size = int(keys.max()) + 1
    return bootstrap_weights(range(size), resamples, seed=2) @ np.bincount(keys, flags, size)


def test_few_positives_are_drawn_as_in_the_plain_bootstrap():
    """12 positives of 6000 rows: mean 12, variance 12, and chance exp(-12) to draw none."""
    rng = np.random.default_rng(4)
    variances = []
    for seed in range(6):
        flags = np.zeros(6000)
        flags[rng.choice(6000, 12, replace=False)] = 1
        drawn = count_positives_drawn(flags, deal_blocks(range(6000), 1000, seed), 300)
        assert drawn.mean() == pytest.approx(12, abs=0.9)
        variances.append(drawn.var())
    assert np.mean(variances) == pytest.approx(12, rel=0.2)


@pytest.mark.parametrize(
    ("seed", "exclusive", "groups"), [(0, False, None), (1, True, 1500), (2, False, 1500)]
)
def test_condensed_intervals_are_those_of_the_plain_bootstrap(monkeypatch, seed, exclusive, groups):
    """400 resamples leave each end uncertain by about 4 % of the width, in either way."""
    targets, probs, keys, _ = make_predictions(
        2500, 2, exclusive=exclusive, prevalence=[0.97, 0.03] if exclusive else [0.2, 0.03],
        groups=groups, seed=seed,
    )  # fmt: skip
    ends = {}
    for large in (10**6, 1000):
        monkeypatch.setattr(intervals, "LARGE", large)
        ends[large] = score(
            targets, probs, exclusive=exclusive, classes=["a", "b"], groups=keys, resamples=400
        )
    for plain, condensed in zip(ends[10**6], ends[1000], strict=True):
        width = plain.high - plain.low
        assert condensed.value == plain.value
        assert abs(condensed.low - plain.low) < 0.2 * width, plain.metric
        assert abs(condensed.high - plain.high) < 0.2 * width, plain.metric


def test_a_paired_difference_of_a_large_table(monkeypatch):
    targets, probs, keys, _ = make_predictions(2000, 1, groups=1500, seed=7)
    worse = np.clip(probs + np.random.default_rng(0).normal(0, 0.1, probs.shape), 0, 1)
    for metric in ("average_precision", "f1_macro", "log_loss"):
        found = []
        for large in (10**6, 1000):
            monkeypatch.setattr(intervals, "LARGE", large)
            found.append(
                compare_paired(
                    targets, probs, worse, exclusive=False, groups=keys, metric=metric,
                    resamples=400,
                )
            )  # fmt: skip
        plain, condensed = found
        width = plain.high - plain.low
        assert condensed.value == plain.value
        assert condensed.low == pytest.approx(plain.low, abs=0.2 * width)
        assert condensed.high == pytest.approx(plain.high, abs=0.2 * width)
