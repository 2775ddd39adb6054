import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.isotonic import IsotonicRegression

from loupe import monotone
from loupe.monotone import condense, find_zero, fit_line, fit_stairs, pool_violators
from loupe.testing import make_predictions


def test_stairs_of_single_rows_are_those_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monotone, "BLOCK_ROWS", 1)
    targets, probs, *_ = make_predictions(400, 1, quality=0.3, seed=1)
    t, p = targets[:, 0], np.round(probs[:, 0], 2)  # With ties.
    knots, values = fit_stairs(t, p)
    steps = IsotonicRegression().fit_transform(p.astype(float), t.astype(float)).round(9)
    # A knot is the mean of its block; scikit-learn's map is flat there, so a row of that
    # step tells its value. Only the ends differ, where 0 and 1 are kept away from.
    blocks = [p[steps == step].mean() for step in np.unique(steps)]
    assert_allclose(knots, blocks, rtol=1e-6)
    assert_allclose(values[1:-1], np.unique(steps)[1:-1], rtol=1e-6)
    first, share = (steps == steps.min()).sum(), t.mean()
    assert steps.min() == 0
    assert values[0] == pytest.approx(share / (first + 1))


def test_small_blocks_are_joined() -> None:
    t = np.float32([0, 0] + [1, 0] * 4 + [1] * 10)
    p = np.linspace(0.1, 0.9, 20).astype(np.float32)
    knots, values = fit_stairs(t, p)
    # Pooled violators are rows 0 and 1, 2 to 9, and the rest; the first two make ten rows.
    assert_allclose(knots, [p[:10].mean(), p[10:].mean()], rtol=1e-6)
    assert values[0] == pytest.approx(4 / 10)
    assert values[1] == pytest.approx(1 - (1 - t.mean()) / 11)
    # Nine rows at the end are too few, and join the block before.
    assert_allclose(fit_stairs(t[:-1], p[:-1]), [[p[:-1].mean()], [13 / 19]], rtol=1e-6)


def test_weights_are_rows_that_are_there_more_than_once() -> None:
    targets, probs, *_ = make_predictions(150, 1, quality=0.3, seed=5)
    t, p = targets[:, 0], probs[:, 0]
    times = 1 + np.arange(150) % 3
    twice = np.repeat(t, times), np.repeat(p, times)
    assert_allclose(fit_line(t, p, times.astype(float)), fit_line(*twice), rtol=1e-5)
    cells = condense(p.astype(float), t.astype(float), times.astype(float))
    assert cells[2] is not None
    assert cells[2].sum() == times.sum()


def test_cells_keep_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monotone, "CELLS", 16)
    rng = np.random.default_rng(0)
    x, t, weights = rng.normal(size=200), rng.random(200), rng.random(200)
    cells_x, cells_t, cells_weight = condense(x, t, weights)
    assert len(cells_x) <= 17
    assert (np.diff(cells_x) > 0).all()
    assert cells_weight.sum() == pytest.approx(weights.sum())
    assert cells_weight @ cells_x == pytest.approx(weights @ x)
    assert cells_weight @ cells_t == pytest.approx(weights @ t)
    flat = condense(np.full(200, 3.0), t, weights)
    assert flat[0] == pytest.approx([3.0])


@pytest.mark.parametrize("last", [0.0, 0.5])
def test_a_long_rise_that_one_row_pulls_down(last) -> None:
    values = np.r_[np.arange(1, 200), last * 200]
    means, starts = pool_violators(values, np.ones(200))
    expected = IsotonicRegression().fit_transform(np.arange(200), values)
    assert_allclose(np.repeat(means, np.diff(starts, append=200)), expected)


@pytest.mark.parametrize("root", [0.05, 0.06, 0.9, 1.0, 7.0, 19.9])
def test_a_zero_is_found_where_newton_alone_would_leap(root) -> None:
    def slope(u: float) -> tuple[float, float]:
        return float(np.arctan(9 * (u - root))), float(9 / (1 + 81 * (u - root) ** 2))

    assert find_zero(slope, 0.05, 20) == pytest.approx(root, rel=1e-4)


def test_beyond_the_range_its_end_is_returned() -> None:
    assert find_zero(lambda u: (u - 90, 1.0), 0.05, 20) == pytest.approx(20, rel=1e-4)
    assert find_zero(lambda u: (u + 90, 1.0), 0.05, 20) == pytest.approx(0.05, rel=1e-4)
    assert find_zero(lambda _: (0.0, 0.0), 0.05, 20) == 1
