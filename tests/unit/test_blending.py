from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from loupe import simplex
from loupe.blending import choose_weights, fit_weights, fixed_weights
from loupe.errors import InputError
from loupe.evidence import Evidence, held_out_probs, make_evidence, mix
from loupe.intervals import compare_paired
from loupe.metrics import brier, log_loss
from loupe.scorecard import find_family, measure, read_sheet
from loupe.testing import make_predictions


def draw_sheets(n: int, classes: int, count: int, *, exclusive: bool, seed: int = 0):
    """Unrelated sheets of probabilities, each as float32."""
    rng = np.random.default_rng(seed)
    if exclusive:
        return [rng.dirichlet(np.ones(classes), n).astype(np.float32) for _ in range(count)]
    return [rng.uniform(0.02, 0.98, (n, classes)).astype(np.float32) for _ in range(count)]


def make_members(
    seed: int,
    noises: tuple[float, ...],
    *,
    n: int = 200,
    exclusive: bool = True,
    null: bool = False,
) -> Evidence:
    """One true sheet, blurred for each member by so much noise on the log scale."""
    targets, probs, groups, folds = make_predictions(n, 4, exclusive=exclusive, seed=seed)
    rng = np.random.default_rng(seed)
    if null:
        targets = targets[rng.permutation(n)]
    members = []
    for noise in noises:
        sheet = np.clip(probs, 0.01, 0.99) * np.exp(rng.normal(0, noise, probs.shape))
        sheet = sheet / sheet.sum(axis=1, keepdims=True) if exclusive else np.clip(sheet, 0, 1)
        members.append(sheet.astype(np.float32))
    return make_evidence(
        targets, members, exclusive=exclusive, classes=list("abcd"), groups=groups, folds=folds
    )


def score(targets, members, weights, metric: str, *, exclusive: bool) -> float:
    sheet = read_sheet(targets, mix(members, weights), exclusive=exclusive, thresholds=None)
    return float(
        measure(sheet, [np.ones((1, len(targets)))], find_family(sheet, metric))[metric, -1][0]
    )


@pytest.mark.parametrize("metric", ["log_loss", "brier"])
@pytest.mark.parametrize("exclusive", [True, False])
def test_weights_of_a_known_mixture_are_found(metric, exclusive):
    sheets = draw_sheets(4000, 3, 3, exclusive=exclusive)
    truth = mix(sheets, np.array([0.7, 0.3, 0.0]))
    soft = fit_weights(truth, sheets, exclusive=exclusive, metric=metric)
    np.testing.assert_allclose(soft, [0.7, 0.3, 0], atol=1e-3)
    rng = np.random.default_rng(1)
    if exclusive:
        hard = rng.random((4000, 1)) < truth.cumsum(axis=1)
        hard = np.diff(hard.astype(np.float32), axis=1, prepend=0)
    else:
        hard = (rng.random(truth.shape) < truth).astype(np.float32)
    found = fit_weights(hard, sheets, exclusive=exclusive, metric=metric)
    np.testing.assert_allclose(found, [0.7, 0.3, 0], atol=0.06)


@pytest.mark.parametrize(("metric", "loss"), [("log_loss", log_loss), ("brier", brier)])
@pytest.mark.parametrize("exclusive", [True, False])
def test_no_other_weights_have_a_lower_loss(metric, loss, exclusive):
    evidence = make_members(3, (0.3, 0.5, 0.7, 1.0, 1.5), n=400, exclusive=exclusive)
    targets, members = evidence.targets, evidence.members

    def measured(weights):
        mixed = sum(w * sheet.astype(np.float64) for w, sheet in zip(weights, members, strict=True))
        return float(loss(targets, np.clip(mixed, 1e-9, 1 - 1e-9), exclusive=exclusive))

    reference = minimize(
        measured,
        np.full(5, 0.2),
        method="SLSQP",
        bounds=[(0, 1)] * 5,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        options={"ftol": 1e-12},
    )
    found = fit_weights(targets, members, exclusive=exclusive, metric=metric)
    # The ridge of one row in N, and members dropped below a hundredth of an equal share.
    assert measured(found) <= reference.fun + 1e-4
    assert measured(np.full(5, 0.2)) > reference.fun + 3e-4


@pytest.mark.parametrize("metric", ["log_loss", "brier", "accuracy"])
def test_equal_members_get_equal_weights(metric):
    (sheet,) = make_members(0, (0.5,)).members
    targets = make_members(0, (0.5,)).targets
    for method in ("simplex", "greedy"):
        found = fit_weights(targets, [sheet] * 3, exclusive=True, method=method, metric=metric)
        np.testing.assert_allclose(found, np.full(3, 1 / 3), atol=1e-9)


@pytest.mark.parametrize("method", ["simplex", "greedy"])
def test_a_useless_member_is_left_out_altogether(method):
    evidence = make_members(1, (0.3, 0.3), n=400)
    noise = draw_sheets(400, 4, 1, exclusive=True, seed=9)
    sheets = [*evidence.members, *noise]
    found = fit_weights(evidence.targets, sheets, exclusive=True, method=method)
    assert found[2] == 0
    assert found[:2].min() > 0.1


def test_a_certain_and_wrong_member_leaves_the_loss_finite():
    targets = np.float32([[1, 0], [0, 1], [1, 0], [0, 1]])
    good, wrong = np.abs(targets - np.float32(0.1)), 1 - targets
    assert fit_weights(targets, [wrong, good], exclusive=True).tolist() == [0, 1]
    assert fit_weights(targets, [targets, wrong], exclusive=True).tolist() == [1, 0]


def test_greedy_draws_members_twice_where_that_helps():
    # 0.8 and 0.2: their mean misses 0.6 by 0.1; drawn 2 to 1 it is met.
    targets = np.float32([[0.6]])
    sheets = [np.float32([[0.2]]), np.float32([[0.8]])]
    found = fit_weights(targets, sheets, exclusive=False, method="greedy", metric="brier")
    np.testing.assert_allclose(found, [1 / 3, 2 / 3])


def test_greedy_draws_equal_members_equally_often():
    # 4 of 5 draws must be 0.8 to meet 0.68; two members say 0.8.
    sheets = [np.float32([[p]]) for p in (0.8, 0.8, 0.2)]
    targets = np.float32([[0.68]])
    found = fit_weights(targets, sheets, exclusive=False, method="greedy", metric="brier")
    np.testing.assert_allclose(found, [0.4, 0.4, 0.2])


# With the seeds from 2 on a coordinate is given up on the way and must be taken back.
@pytest.mark.parametrize("seed", [0, 1, 2, 33, 48, 75, 78, 90])
def test_quadratics_are_minimised_over_the_simplex(seed):
    rng = np.random.default_rng(seed)
    factor, slope = rng.normal(size=(12, 12)), 5 * rng.normal(size=12)
    curve = factor @ factor.T + 0.01 * np.eye(12)
    found = simplex._solve_quadratic(curve, slope)
    assert found.min() >= 0
    assert found.sum() == pytest.approx(1)
    pull = curve @ found + slope
    level = pull[found > 0].mean()
    # No coordinate would gain by growing, and those in use gain alike.
    np.testing.assert_allclose(pull[found > 0], level, atol=1e-8)
    assert (pull >= level - 1e-8).all()


def test_greedy_starts_from_the_best_few():
    # Brier .13 for a and b, .09 for their mean (.7, .3); the third is wrong for certain.
    targets = np.float32([[1], [0]])
    sheets = [np.float32([[0.9], [0.5]]), np.float32([[0], [1]]), np.float32([[0.5], [0.1]])]
    found = fit_weights(targets, sheets, exclusive=False, method="greedy", metric="brier")
    assert found.tolist() == [0.5, 0, 0.5]


@pytest.mark.parametrize("method", ["simplex", "greedy"])
@pytest.mark.parametrize(
    ("metric", "exclusive"),
    [("accuracy", True), ("f1_macro", True), ("average_precision", False), ("exact_match", False)],
)
def test_a_searched_score_is_no_worse_than_at_the_start(metric, method, exclusive):
    evidence = make_members(5, (0.4, 0.8, 1.2), n=150, exclusive=exclusive)
    known = {"exclusive": exclusive}
    found = fit_weights(evidence.targets, evidence.members, method=method, metric=metric, **known)
    reached = score(evidence.targets, evidence.members, found, metric, **known)
    assert reached >= score(evidence.targets, evidence.members, np.full(3, 1 / 3), metric, **known)
    assert found.sum() == pytest.approx(1)
    assert found.min() >= 0


def test_a_search_finds_the_member_that_the_loss_leaves_out():
    # The first decides all rows right but is hardly certain; the second is certain, and
    # wrong in one row of ten: log loss weighs it up until it decides those rows wrong.
    targets = np.float32([[1, 0], [0, 1]] * 20)
    timid = targets * np.float32(0.06) + np.float32(0.47)
    bold = targets * np.float32(0.98) + np.float32(0.01)
    bold[::10] = bold[::10, ::-1] * np.float32(0.6) + np.float32(0.2)
    sheets = [timid, bold]
    by_loss = fit_weights(targets, sheets, exclusive=True)
    by_hits = fit_weights(targets, sheets, exclusive=True, metric="accuracy")
    assert score(targets, sheets, by_loss, "accuracy", exclusive=True) == pytest.approx(0.9)
    assert score(targets, sheets, by_hits, "accuracy", exclusive=True) == 1


def test_a_long_table_is_fitted_on_rows_spread_over_it(monkeypatch):
    evidence = make_members(2, (0.5, 1.0), n=300)
    monkeypatch.setattr(simplex, "FIT_ROWS", 100)
    rows = simplex.spread_rows(300, 100)
    cut = [sheet[rows] for sheet in evidence.members]
    expected = fit_weights(evidence.targets[rows], cut, exclusive=True)
    assert (
        fit_weights(evidence.targets, evidence.members, exclusive=True).tolist()
        == expected.tolist()
    )


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("metric", sorted(simplex._SHORT_CUTS))
def test_short_cuts_are_the_scores_of_the_scorecard(metric, exclusive, monkeypatch):
    evidence = make_members(6, (0.5, 1.5), exclusive=exclusive)
    weights, known = np.array([0.25, 0.75]), {"exclusive": exclusive}
    try:
        expected = score(evidence.targets, evidence.members, weights, metric, **known)
    except InputError:
        with pytest.raises(InputError, match=metric):
            simplex._make_evaluate(evidence.targets, evidence.members, metric, **known)
        return
    for short_cuts in (simplex._SHORT_CUTS, {}):
        monkeypatch.setattr(simplex, "_SHORT_CUTS", short_cuts)
        evaluate = simplex._make_evaluate(evidence.targets, evidence.members, metric, **known)
        assert evaluate(weights) == pytest.approx(-expected, abs=1e-12)


@pytest.mark.parametrize("period", [2, 3, 10, 16, 25])
def test_rows_that_come_in_turns_are_all_met(period):
    rows = simplex.spread_rows(10_000 * period, 10_000)
    assert (np.diff(rows) > 0).all()
    assert rows[-1] < 10_000 * period
    met = np.bincount(rows % period, minlength=period)
    np.testing.assert_allclose(met, 10_000 / period, rtol=0.05)


def test_members_of_another_shape_are_refused():
    sheets = draw_sheets(10, 2, 2, exclusive=True)
    with pytest.raises(InputError, match=r"\(10, 2\).*\(9, 2\)"):
        fit_weights(sheets[0], [sheets[0], sheets[1][:9]], exclusive=True)
    with pytest.raises(InputError, match="one member or more"):
        fit_weights(sheets[0], [], exclusive=True)
    with pytest.raises(InputError, match="'best'"):
        fit_weights(sheets[0], sheets, exclusive=True, method="best")


def test_a_member_that_is_plainly_better_is_found_and_used():
    evidence = make_members(0, (0.1, 2.0, 2.0), n=400)
    blend = choose_weights(evidence, resamples=200)
    assert blend.method == "simplex"
    assert blend.weights[0] > 0.8
    assert blend.gain_log_loss.high < 0
    assert blend.verdict.startswith("fitted weights beat the plain mean: ")
    assert blend.part_weights is not None
    assert (blend.part_weights[:, 0] > 0.8).all()


@pytest.mark.parametrize("null", [True, False])
def test_members_of_equal_quality_keep_the_plain_mean(null):
    kept = 0
    for seed in range(6):
        blend = choose_weights(make_members(seed, (0.6,) * 4, null=null), resamples=200)
        if blend.method == "mean":
            kept += 1
            assert blend.weights.tolist() == [0.25] * 4
            assert blend.verdict.startswith("the plain mean is")
            assert blend.verdict.endswith("plain mean used")
    assert kept >= 5


def test_shuffled_labels_score_no_better_than_chance():
    hits = []
    for seed in range(10):
        evidence = make_members(seed, (0.8,) * 5, null=True)
        blend = choose_weights(evidence, method="simplex", resamples=1)
        probs = held_out_probs(replace(evidence, part_weights=blend.part_weights))
        hits.append((probs.argmax(axis=1) == evidence.targets.argmax(axis=1)).mean())
    # 2000 rows at a chance of 1/4 have a deviation of 0.0097.
    assert np.mean(hits) == pytest.approx(0.25, abs=0.035)


@pytest.mark.parametrize("method", ["auto", "simplex", "greedy"])
def test_weights_of_a_part_never_see_it(method):
    evidence = make_members(0, (0.2, 1.0, 2.0), n=240)
    rows = evidence.parts == 1
    targets = evidence.targets.copy()
    targets[rows] = np.roll(targets[rows], 1, axis=1)
    before = choose_weights(evidence, method=method, resamples=50).part_weights
    after = choose_weights(replace(evidence, targets=targets), method=method, resamples=50)
    assert before is not None
    assert after.part_weights is not None
    assert after.part_weights[1].tolist() == before[1].tolist()
    assert not np.allclose(after.part_weights[0], before[0])


def test_the_gain_is_that_of_weights_fitted_elsewhere():
    evidence = make_members(4, (0.2, 1.0, 1.5), n=240)
    blend = choose_weights(evidence, method="simplex", resamples=100, seed=3)
    assert blend.part_weights is not None
    probs = np.empty_like(evidence.targets)
    for part in range(5):
        inside = evidence.parts == part
        sheets = [sheet[~inside] for sheet in evidence.members]
        weights = fit_weights(evidence.targets[~inside], sheets, exclusive=True)
        np.testing.assert_array_equal(blend.part_weights[part], weights)
        probs[inside] = mix(evidence.members, weights)[inside]
    expected = compare_paired(
        evidence.targets,
        probs,
        mix(evidence.members, np.full(3, 1 / 3)),
        exclusive=True,
        metric="log_loss",
        groups=evidence.groups,
        resamples=100,
        seed=3,
    )
    assert blend.gain_log_loss.value == pytest.approx(expected.value, abs=1e-9)
    assert blend.gain_log_loss.low == pytest.approx(expected.low, abs=1e-9)
    assert blend.gain.metric == "accuracy"


@pytest.mark.parametrize("exclusive", [True, False])
def test_weights_fitted_for_another_score_are_judged_by_it(exclusive):
    evidence = make_members(1, (0.3, 1.0), n=120, exclusive=exclusive)
    blend = choose_weights(evidence, metric="f1_macro", resamples=50)
    assert blend.metric == "f1_macro"
    assert "f1 macro" in blend.verdict


def test_two_parts_are_enough():
    evidence = make_members(0, (0.1, 2.0, 2.0), n=400)
    halves = replace(evidence, parts=evidence.parts % 2, part_names=("0", "1"))
    blend = choose_weights(halves, resamples=100)
    assert blend.part_weights is not None
    assert blend.part_weights.shape == (2, 3)
    assert (blend.part_weights[:, 0] > 0.8).all()


def test_one_member_and_the_plain_mean_need_no_fit():
    alone = choose_weights(make_members(0, (0.5,)))
    assert alone.weights.tolist() == [1]
    assert "nothing to blend" in alone.verdict
    mean = choose_weights(make_members(0, (0.5, 0.5)), method="mean")
    assert mean.weights.tolist() == [0.5, 0.5]
    assert mean.part_weights is None
    assert (mean.gain.value, mean.gain.low, mean.gain.high) == (0, 0, 0)


@pytest.mark.parametrize("given", [[0.8, 0.2], [4, 1], [8, 2]])
def test_weights_by_hand_sum_to_one_or_are_votes(given):
    evidence = make_members(0, (0.1, 2.0))
    blend = fixed_weights(given, evidence, resamples=100)
    np.testing.assert_allclose(blend.weights, [0.8, 0.2])
    assert blend.method == "fixed"
    assert blend.part_weights is None
    assert blend.gain_log_loss.high < 0
    assert blend.verdict.startswith("given weights beat the plain mean: ")


@pytest.mark.parametrize(
    "given", [[0.8, 0.3], [0.8], [1.2, -0.2], [0, 0], [2, -1], [np.nan, 1], [np.inf, 1]]
)
def test_other_weights_by_hand_are_refused(given):
    with pytest.raises(InputError, match="2 number"):
        fixed_weights(given, make_members(0, (0.5, 0.5)))


def test_unknown_methods_and_scores_are_refused():
    evidence = make_members(0, (0.5, 0.5))
    with pytest.raises(InputError, match="simplex"):
        choose_weights(evidence, method="simplx")
    with pytest.raises(InputError, match="accuracy"):
        choose_weights(evidence, metric="acuracy")
