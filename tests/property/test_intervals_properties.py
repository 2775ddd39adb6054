import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from loupe.intervals import score
from loupe.trials import find_span


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(1, 2), st.booleans())
def test_intervals_hold_their_value_and_stay_inside_its_span(seed, groups, classes, exclusive):
    rng, classes = np.random.default_rng(seed), classes + exclusive
    targets = (rng.random((30, classes)) < 0.3).astype(float)
    probs = np.clip(targets * rng.random() + rng.random((30, classes)), 0, 1)
    decided = probs > 0.5
    if exclusive:
        targets = np.eye(classes)[rng.integers(0, classes, 30)]
        probs = np.clip(targets * rng.random() + rng.random((30, classes)), 0.01, 1)
        probs /= probs.sum(axis=1, keepdims=True)
        decided = (np.arange(classes) == probs.argmax(axis=1)[:, None]) & (probs > 0.4)
    scores = score(
        targets,
        probs,
        exclusive=exclusive,
        classes=[str(c) for c in range(classes)],
        groups=[str(g) for g in rng.integers(0, groups, 30)],
        decisions=decided,
        resamples=60,
    )
    for found in scores:
        if np.isnan(found.low):
            continue
        lowest, highest = find_span(found.metric, exclusive=exclusive, overall=not found.class_name)
        assert lowest <= found.low <= found.high <= highest, found
        if found.metric != "log_loss":
            assert found.low < found.high, found


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
                targets, probs, exclusive=True, classes=["a", "b"], seed=trial, resamples=200
            )[0]
            hits += top.low <= rate <= top.high
        assert hits >= 90
