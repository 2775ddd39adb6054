import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from loupe.intervals import score


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30))
def test_intervals_hold_their_value_and_stay_inside_0_and_1(seed, groups):
    rng = np.random.default_rng(seed)
    targets = (rng.random((30, 2)) < 0.3).astype(float)
    probs = np.clip(targets * rng.random() + rng.random((30, 2)), 0, 1)
    scores = score(
        targets,
        probs,
        exclusive=False,
        classes=["a", "b"],
        groups=[str(g) for g in rng.integers(0, groups, 30)],
        resamples=60,
    )
    for found in scores:
        if found.metric == "log_loss" or np.isnan(found.low):
            continue
        assert 0 <= found.low <= found.high <= 1
        assert found.low < found.high


def test_coverage_of_the_interval_of_accuracy():
    """Truth by construction; a 95 % interval of 200 rows must not miss much more."""
    rng = np.random.default_rng(11)
    targets = np.eye(2)[np.zeros(200, int)]
    for rate in (0.9, 0.995):
        hits = 0
        for trial in range(100):
            right = rng.random(200) < rate
            probs = np.where(right[:, None], [0.9, 0.1], [0.1, 0.9])
            top = score(
                targets, probs, exclusive=True, classes=["a", "b"], seed=trial, resamples=300
            )[0]
            hits += top.low <= rate <= top.high
        assert hits >= 90
