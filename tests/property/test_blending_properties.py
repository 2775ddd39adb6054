import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loupe.blending import fit_weights
from loupe.evidence import mix
from loupe.metrics import brier, log_loss

FEW = settings(max_examples=40, deadline=None)
LOSSES = {"log_loss": log_loss, "brier": brier}


@st.composite
def problems(draw):
    """Targets and members, from useless to certain, in rows of any number."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, classes, count = draw(st.integers(1, 60)), draw(st.integers(1, 4)), draw(st.integers(2, 5))
    exclusive = classes > 1 and draw(st.booleans())
    sharpness = draw(st.sampled_from([0.1, 1.0, 10.0]))
    if exclusive:
        targets = np.eye(classes)[rng.integers(0, classes, n)]
        sheets = rng.dirichlet(np.full(classes, sharpness), (count, n))
    else:
        targets = (rng.random((n, classes)) < 0.4).astype(float)
        sheets = rng.beta(sharpness, sharpness, (count, n, classes))
    # Some members know the truth a little.
    knows = rng.random(count)[:, None, None] * draw(st.sampled_from([0, 0.5]))
    sheets = knows * targets + (1 - knows) * sheets
    return targets.astype(np.float32), list(sheets.astype(np.float32)), exclusive


@FEW
@given(
    problems(),
    st.sampled_from(["log_loss", "brier", "f1_macro"]),
    st.sampled_from(["simplex", "greedy"]),
)
def test_weights_lie_on_the_simplex(problem, metric, method):
    targets, sheets, exclusive = problem
    found = fit_weights(targets, sheets, exclusive=exclusive, method=method, metric=metric)
    assert found.shape == (len(sheets),)
    assert found.min() >= 0
    assert found.sum() == pytest.approx(1, abs=1e-12)


@FEW
@given(problems(), st.sampled_from(["log_loss", "brier"]), st.randoms(use_true_random=False))
def test_the_order_of_members_and_rows_does_not_matter(problem, metric, random):
    targets, sheets, exclusive = problem
    found = fit_weights(targets, sheets, exclusive=exclusive, metric=metric)
    order = random.sample(range(len(sheets)), len(sheets))
    rows = random.sample(range(len(targets)), len(targets))
    moved = [sheets[m][rows] for m in order]
    again = fit_weights(targets[rows], moved, exclusive=exclusive, metric=metric)
    np.testing.assert_allclose(again, found[order], atol=1e-6)


@FEW
@given(problems(), st.sampled_from(["log_loss", "brier"]))
def test_no_member_alone_and_no_plain_mean_has_a_lower_loss(problem, metric):
    targets, sheets, exclusive = problem
    count = len(sheets)
    found = fit_weights(targets, sheets, exclusive=exclusive, metric=metric)

    def measured(weights):
        probs = mix(sheets, weights).astype(np.float64)
        eps = np.finfo(np.float32).eps
        return LOSSES[metric](targets, np.clip(probs, eps, 1 - eps), exclusive=exclusive)

    # The ridge is half a row's worth at most; members below 0.01 / count are dropped.
    slack = 0.5 / len(targets) + 0.02
    for weights in (*np.eye(count), np.full(count, 1 / count)):
        assert measured(found) <= measured(weights) + slack


@FEW
@given(problems(), st.sampled_from(["log_loss", "brier"]))
def test_a_copy_of_a_member_gets_the_same_weight(problem, metric):
    targets, sheets, exclusive = problem
    found = fit_weights(targets, [sheets[0], *sheets], exclusive=exclusive, metric=metric)
    assert found[0] == pytest.approx(found[1], abs=1e-6)
