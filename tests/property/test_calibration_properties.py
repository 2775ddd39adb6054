import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose

from loupe.calibrating import KINDS, fit_calibration
from loupe.calibration import Calibration, calibrate, calibration_to_dict, read_calibration
from loupe.conformal import fit_conformal, needs_review, predict_sets
from loupe.monotone import pool_violators

SHARE = st.floats(0, 1, width=32)
SHEET = arrays(np.float32, st.tuples(st.integers(1, 30), st.just(2)), elements=SHARE)


@st.composite
def maps(draw: st.DrawFn) -> Calibration:
    kind = draw(st.sampled_from(KINDS))
    knots = sorted(draw(st.sets(st.floats(0, 1), min_size=1, max_size=6)))
    values = sorted(draw(st.lists(st.floats(0, 1), min_size=len(knots), max_size=len(knots))))
    return Calibration(
        kind=kind,
        temperature=draw(st.floats(0.05, 20)) if kind == "temperature" else 1.0,
        slopes=tuple(draw(st.floats(0, 50)) for _ in range(2)) if kind == "platt" else (),
        intercepts=tuple(draw(st.floats(-50, 50)) for _ in range(2)) if kind == "platt" else (),
        knots=(tuple(knots),) * 2 if kind == "isotonic" else (),
        values=(tuple(values),) * 2 if kind == "isotonic" else (),
    )


@settings(max_examples=80, deadline=None)
@given(maps(), SHEET)
def test_columns_that_stand_alone_keep_their_order(fitted: Calibration, sheet: np.ndarray) -> None:
    close = np.nextafter(sheet, np.float32(1))
    rows = np.sort(np.concatenate([sheet, close]), axis=0)
    mapped = calibrate(fitted, rows, exclusive=False)
    assert (np.diff(mapped, axis=0) >= 0).all()
    assert ((mapped >= 0) & (mapped <= 1)).all()


@settings(max_examples=60, deadline=None)
@given(maps(), SHEET)
def test_exclusive_rows_sum_to_one(fitted: Calibration, sheet: np.ndarray) -> None:
    sums = sheet.sum(axis=1, keepdims=True)
    rows = np.where(sums > 0.01, sheet / np.maximum(sums, 0.01), np.float32(0.5)).astype(np.float32)
    mapped = calibrate(fitted, rows, exclusive=True)
    assert_allclose(mapped.sum(axis=1), 1, atol=1e-5)
    if fitted.kind == "temperature":
        assert (np.take_along_axis(mapped, rows.argmax(1)[:, None], 1)[:, 0] == mapped.max(1)).all()


@settings(max_examples=60, deadline=None)
@given(maps())
def test_the_text_form_is_read_back(fitted: Calibration) -> None:
    assert read_calibration(calibration_to_dict(fitted), classes=2) == fitted


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(KINDS), SHEET, st.booleans(), st.booleans(), st.integers(0, 999))
def test_whatever_is_fitted_is_valid_and_never_certain(kind, sheet, exclusive, soft, seed) -> None:
    rng = np.random.default_rng(seed)
    targets = rng.random(sheet.shape) if soft else rng.random(sheet.shape) < 0.5
    if exclusive:
        targets = np.stack([targets[:, 0], 1 - targets[:, 0]], axis=1)
        sheet = np.stack([sheet[:, 0], 1 - sheet[:, 0]], axis=1)
    targets = targets.astype(np.float32)
    fitted = fit_calibration(kind, targets, sheet, exclusive=exclusive)
    assert read_calibration(calibration_to_dict(fitted), classes=2) == fitted
    mapped = calibrate(fitted, sheet, exclusive=exclusive)
    assert np.isfinite(mapped).all()
    if kind == "isotonic":
        varied = ((targets.mean(axis=0) > 0) & (targets.mean(axis=0) < 1)).all()
        assert not varied or ((mapped > 0) & (mapped < 1)).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 9)), min_size=1, max_size=40))
def test_pooling_is_that_of_scikit_learn(rows) -> None:
    from sklearn.isotonic import isotonic_regression

    values, weights = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    means, starts = pool_violators(values, weights)
    lengths = np.diff(starts, append=len(values))
    expected = isotonic_regression(values, sample_weight=weights)
    assert_allclose(np.repeat(means, lengths), expected, atol=1e-9)
    assert (np.diff(means) > 0).all()


@settings(max_examples=60, deadline=None)
@given(SHEET, st.integers(0, 999), st.floats(0.05, 0.9), st.booleans())
def test_more_coverage_never_makes_a_set_smaller(sheet, seed, coverage, exclusive) -> None:
    rng = np.random.default_rng(seed)
    targets = np.eye(2, dtype=np.float32)[rng.integers(0, 2, len(sheet))]
    groups = rng.integers(0, max(1, len(sheet) // 2), len(sheet))
    small, large = (
        fit_conformal(
            targets, sheet, groups, exclusive=exclusive, coverage=share, classes=["a", "b"]
        )
        for share in (coverage, (1 + coverage) / 2)
    )
    sets = predict_sets(small, sheet, exclusive=exclusive)
    assert not (sets & ~predict_sets(large, sheet, exclusive=exclusive)).any()
    sizes = sets.sum(axis=-1).reshape(len(sheet), -1)
    assert ((sizes != 1).any(axis=1) == needs_review(small, sheet, exclusive=exclusive)).all()
