import math

import numpy as np
import pytest
from scipy.stats import betabinom

from loupe import condensing, resamples
from loupe.errors import InputError
from loupe.testing import make_predictions
from loupe.thresholds import find_cuts, read_goal
from loupe.wagers import METRICS, Threshold, _predict, describe_thresholds


def describe(truth, probs, text, *, held=None, parts=None, groups=None, part_cuts=None, **options):
    """Choose and describe the thresholds of a table, as the verb decide does."""
    truth, probs = np.asarray(truth, np.bool_), np.asarray(probs, np.float32)
    if truth.ndim == 1:
        truth, probs = truth[:, None], probs[:, None]
    held = probs if held is None else np.asarray(held, np.float32).reshape(probs.shape)
    rows, columns = truth.shape
    groups = np.arange(rows) if groups is None else groups
    parts = np.asarray(groups) % 5 if parts is None else parts
    goals = [read_goal(text)] * columns
    if part_cuts is None:
        found = [find_cuts(truth[parts != k], probs[parts != k], goals) for k in range(5)]
        part_cuts = [[cut.threshold for cut in cuts] for cuts in found]
    return describe_thresholds(
        truth,
        probs,
        held,
        parts,
        part_cuts,
        find_cuts(truth, probs, goals),
        goals,
        groups,
        classes=[f"class {number}" for number in range(columns)],
        **options,
    )


def measure(truth, probs, threshold) -> dict[str, float]:
    decided = probs >= np.float32(threshold)
    right, called, positives = (truth & decided).sum(), decided.sum(), truth.sum()
    return {
        "precision": right / called if called else math.nan,
        "recall": right / positives if positives else math.nan,
        "f1": 2 * right / (called + positives) if positives else math.nan,
    }


def find_share_inside(text, tables, resamples=100) -> dict[str, float]:
    """Choose on the first table of each pair; count the scores of the second that fall inside."""
    inside: dict[str, list[bool]] = {metric: [] for metric in METRICS}
    for (truth, probs, groups), (new_truth, new_probs) in tables:
        told = describe(truth, probs, text, groups=groups, resamples=resamples)
        for column, threshold in enumerate(told):
            reached = measure(new_truth[:, column], new_probs[:, column], threshold.threshold)
            for metric, values in inside.items():
                said = getattr(threshold, metric)
                if not math.isnan(reached[metric]) and not math.isnan(said.low):
                    values.append(said.low - 1e-9 <= reached[metric] <= said.high + 1e-9)
    assert min(len(values) for values in inside.values()) > 50
    return {metric: float(np.mean(values)) for metric, values in inside.items()}


def split(seeds, *, rows=800, by_group=1):
    """Split tables in two, groups whole, classes of 3 to 30 % and of two qualities."""
    for seed in seeds:
        quality = (0.4, 0.7)[seed % 2]
        shares = (0.03, 0.05, 0.1, 0.15, 0.2, 0.3)
        made = make_predictions(
            rows, 6, quality=quality, prevalence=shares, groups=rows // by_group, seed=seed
        )
        count = int(made.groups.max()) + 1
        first = np.random.default_rng(seed).permutation(count)[made.groups] < count // 2
        truth = made.targets >= 0.5
        yield (
            (truth[first], made.probs[first], made.groups[first]),
            (truth[~first], made.probs[~first]),
        )


@pytest.mark.parametrize(
    ("text", "halves"),
    [("recall:0.94", 20), ("precision:0.9", 12), ("f1", 12), ("cost:10", 12), ("fixed:0.3", 12)],
)
def test_the_interval_holds_what_other_rows_bring(text, halves):
    inside = find_share_inside(text, split(range(halves)))
    assert min(inside.values()) >= 0.9


@pytest.mark.parametrize("text", ["recall:0.94", "f1"])
def test_the_interval_holds_with_groups(text):
    inside = find_share_inside(text, split(range(12), rows=1200, by_group=3))
    assert min(inside.values()) >= 0.9


def test_the_interval_holds_where_all_rows_of_a_group_fare_alike():
    def copies():
        for (truth, probs, _), new in split(range(12), rows=500):
            groups = np.repeat(np.arange(len(truth)), 4)
            old = np.repeat(truth, 4, axis=0), np.repeat(probs, 4, axis=0), groups
            yield old, tuple(np.repeat(sheet, 4, axis=0) for sheet in new)

    inside = find_share_inside("recall:0.94", copies())
    assert min(inside.values()) >= 0.9


@pytest.mark.parametrize("positives", [20, 60, 200])
def test_the_recall_of_a_recall_threshold_is_close_to_its_exact_law(positives):
    rng = np.random.default_rng(positives)
    truth = np.arange(4 * positives) % 4 == 0
    widths, exact = [], []
    for _ in range(7):
        probs = rng.beta(np.where(truth, 3, 1), np.where(truth, 1, 3))
        (told,) = describe(truth, probs, "recall:0.9", resamples=200)
        # The threshold is an order statistic of the positives: Wilks (1941).
        found = math.ceil(0.9 * positives)
        law = betabinom(positives, found, positives - found + 1)
        widths.append(told.recall.high - told.recall.low)
        exact.append((law.ppf(0.975) - law.ppf(0.025)) / positives)
    assert np.median(widths) == pytest.approx(np.median(exact), rel=0.2)


def test_on_noise_the_interval_holds_chance_and_the_printed_score_does_not():
    flattering = []

    def noise():
        for seed in range(12):
            rng = np.random.default_rng(seed)
            truth, new = (rng.random((2, 200, 6)) < 0.2).astype(np.bool_)
            probs, other = rng.random((2, 200, 6)).astype(np.float32)
            told = describe(truth, probs, "precision:0.9", resamples=0)
            flattering.extend(each.in_sample["precision"] for each in told)
            yield (truth, probs, np.arange(200)), (new, other)

    inside = find_share_inside("precision:0.9", noise())
    assert inside["precision"] >= 0.9
    assert np.mean(flattering) > 0.3  # chance is 0.2


@pytest.mark.parametrize("size", [1, 7, 40, 3000])
@pytest.mark.parametrize("mean", [0.0, 0.02, 0.5, 0.97, 1.0])
def test_quantiles_of_new_trials_agree_with_scipy(size, mean):
    law = betabinom(size, mean * size + 0.5, (1 - mean) * size + 0.5)
    expected = law.ppf([0.025, 0.975]) / size
    assert _predict(size, mean, (0.025, 0.975)) == pytest.approx(expected, abs=1e-12)


def test_quantiles_of_a_million_trials_are_those_of_the_normal_law():
    low, high = _predict(1_000_000, 0.3, (0.025, 0.975))
    half = 1.96 * math.sqrt(2 * 0.3 * 0.7 / 1_000_000)
    assert (low, high) == pytest.approx((0.3 - half, 0.3 + half), abs=2e-6)


def test_a_perfect_score_still_has_an_interval():
    truth = np.arange(100) < 20
    (told,) = describe(truth, np.where(truth, 0.9, 0.1), "fixed:0.5")
    for score in (told.precision, told.recall, told.f1):
        assert (score.value, score.high) == (1.0, 1.0)
        assert 0.7 < score.low < 0.95
    assert (told.threshold, told.low, told.high) == (0.5, 0.5, 0.5)
    assert told.warnings == ()


def test_a_perfect_score_of_groups_counts_groups():
    truth = np.arange(100) < 20
    probs = np.where(truth, 0.9, 0.1)
    (told,) = describe(truth, probs, "fixed:0.5", groups=np.arange(100) // 4)
    # Nothing says that rows of a group differ: five trials, not twenty.
    assert told.recall.low == betabinom(5, 5.5, 0.5).ppf(0.025) / 5


def test_the_cross_fitted_and_the_in_sample_score():
    truth = np.array([1, 1, 0, 0, 1, 1, 0, 0], np.bool_)
    probs = np.float32([0.9, 0.4, 0.6, 0.1, 0.9, 0.4, 0.6, 0.1])
    parts = np.repeat([0, 1], 4)
    (told,) = describe(truth, probs, "fixed:0.3", parts=parts, part_cuts=[[0.5], [0.3]])
    # Part 0 at 0.5: 1 of 2 is right, 1 of 2 found. Part 1 at 0.3: 2 of 3, 2 of 2.
    assert told.precision.value == pytest.approx(3 / 5)
    assert told.recall.value == pytest.approx(3 / 4)
    assert told.f1.value == pytest.approx(6 / 9)
    assert told.in_sample == pytest.approx({"precision": 4 / 6, "recall": 1.0, "f1": 0.8})
    # At 0.3 six rows are decided, at 0.5 four of them.
    assert told.stability == pytest.approx(4 / 6)
    assert (told.positives, told.goal, told.class_name) == (4, "fixed:0.3", "class 0")


def test_the_score_is_that_of_held_out_probabilities():
    rng = np.random.default_rng(0)
    truth = rng.random(400) < 0.3
    held = rng.random(400)
    # The final sheet has learnt its labels by heart; the held-out one is noise.
    final = np.where(truth, 0.5 + held / 2, held / 2)
    (told,) = describe(truth, final, "f1", held=held)
    assert told.in_sample["precision"] == 1.0
    assert told.precision.low < 0.3 < told.precision.high < 0.5


def test_intervals_shrink_with_the_root_of_the_rows():
    widths = []
    for rows in (1000, 16_000):
        made = make_predictions(rows, 1, quality=0.5, prevalence=[0.3], seed=5)
        (told,) = describe(made.targets >= 0.5, made.probs, "f1", resamples=300)
        widths.append([getattr(told, m).high - getattr(told, m).low for m in METRICS])
    assert np.divide(*widths) == pytest.approx([4, 4, 4], rel=0.35)


@pytest.mark.parametrize("text", ["recall:0.9", "precision:0.8", "f1", "cost:5"])
def test_candidates_in_steps_change_little(monkeypatch, text):
    made = make_predictions(3000, 1, quality=0.5, prevalence=[0.3], seed=1)
    truth = made.targets >= 0.5
    monkeypatch.setattr(resamples, "CANDIDATES", 10_000)
    (exact,) = describe(truth, made.probs, text, resamples=300)
    monkeypatch.setattr(resamples, "CANDIDATES", 100)
    (near,) = describe(truth, made.probs, text, resamples=300)
    assert (near.low, near.high) == pytest.approx((exact.low, exact.high), abs=0.02)
    for metric in METRICS:
        a, b = getattr(near, metric), getattr(exact, metric)
        assert (a.low, a.high) == pytest.approx((b.low, b.high), abs=0.01)


def test_blocks_of_groups_change_little():
    made = make_predictions(3000, 1, quality=0.5, prevalence=[0.3], seed=2)
    truth = made.targets >= 0.5
    assert len(truth) > condensing.BLOCKS
    few = [describe(truth, made.probs, "f1", seed=seed)[0].f1 for seed in range(3)]
    assert np.ptp([score.low for score in few]) < 0.01
    assert np.ptp([score.high for score in few]) < 0.01


def warnings(truth, probs, text, **options) -> str:
    (told,) = describe(truth, probs, text, resamples=100, **options)
    return "\n".join(told.warnings)


def test_warnings_say_what_is_wrong():
    rng = np.random.default_rng(0)
    truth = np.arange(300) % 3 == 0
    good = np.float32(np.where(truth, 0.6, 0.2) + rng.random(300) * 0.3)
    noise = rng.random(300)
    parts = np.arange(300) % 2
    spread = [[0.2], [0.8]]
    assert warnings(truth, good, "f1") == ""
    assert "no row has this class" in warnings(np.zeros(300), good, "f1")
    assert "only 7 positive rows; " in warnings(np.arange(300) < 7, good, "f1")
    grouped = warnings(truth, good, "f1", groups=np.arange(300) // 50)
    assert "only 100 positive rows in 6 groups" in grouped
    assert "no threshold has a precision of 1" in warnings(truth, -noise * truth + 1, "precision:1")
    unstable = warnings(truth, noise, "f1", parts=parts, part_cuts=spread)
    assert "unstable, from 0.2 to 0.8 over the folds" in unstable
    assert "deciding every row positive" in warnings(truth, noise, "precision:0.3")
    assert "deciding no row positive" in warnings(truth, 1 - good, "cost:0.1")
    assert "recall:0.9 is missed" in warnings(truth, good, "recall:0.9", held=good / 3)


def test_a_given_threshold_is_not_called_unstable_but_may_decide_nothing():
    sheet = make_predictions(400, 1, quality=0.5)
    moved = [[0.2], [0.9], [0.2], [0.2], [0.2]]
    assert "unstable" not in warnings(sheet.targets, sheet.probs, "fixed:0.2", part_cuts=moved)
    told = warnings(sheet.targets, sheet.probs / 4, "fixed:0.5")
    assert "no row reaches 0.5" in told
    assert "never decided" in told


def test_a_class_without_positives_has_no_scores():
    (told,) = describe(np.zeros(50), np.linspace(0, 1, 50), "f1")
    assert (told.threshold, told.attained, told.positives) == (0.5, False, 0)
    for score in (told.precision, told.recall, told.f1):
        assert np.isnan([score.value, score.low, score.high]).all()
    assert math.isnan(told.low)


def test_without_resamples_there_are_no_intervals():
    made = make_predictions(100, 1, seed=0)
    told: Threshold = describe(made.targets >= 0.5, made.probs, "f1", resamples=0)[0]
    assert np.isnan([told.low, told.high, told.f1.low, told.recall.high]).all()
    assert told.f1.value > 0


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"held": np.zeros((3, 1))}, r"expected \(N, C\) for each sheet"),
        ({"groups": np.arange(3)}, r"expected \(4,\)"),
        ({"parts": np.array([0, 1, 2, 3])}, "expected parts 0 to 1"),
        ({"classes": ["a", "b"]}, "C of each other"),
    ],
)
def test_shapes_must_agree(change, part):
    sheet = np.float32([[0.1], [0.2], [0.8], [0.9]])
    given = {
        "truth": sheet > 0.5,
        "held": sheet,
        "parts": np.array([0, 1, 0, 1]),
        "groups": np.arange(4),
        "classes": ["a"],
    } | change
    goals = [read_goal("f1")]
    with pytest.raises(InputError, match=part):
        describe_thresholds(
            given["truth"],
            sheet,
            given["held"],
            given["parts"],
            [[0.5], [0.5]],
            find_cuts(sheet > 0.5, sheet, goals),
            goals,
            given["groups"],
            classes=given["classes"],
        )
