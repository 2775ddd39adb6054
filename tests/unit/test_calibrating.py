import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.linear_model import LogisticRegression

from loupe import calibrating
from loupe.calibrating import choose_calibration, fit_calibration
from loupe.calibration import Calibration, Kind, calibrate, take_logits
from loupe.errors import InputError
from loupe.metrics import log_loss
from loupe.testing import make_predictions

KINDS: tuple[Kind, ...] = ("temperature", "platt", "isotonic")


def distort(probs: np.ndarray, by: Calibration, *, exclusive=False) -> np.ndarray:
    return calibrate(by, probs, exclusive=exclusive)


def sharpen(probs: np.ndarray, *, exclusive, factor: float = 2.0) -> np.ndarray:
    by = Calibration(kind="temperature", temperature=1 / factor)
    return distort(probs, by, exclusive=exclusive)


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("factor", [0.5, 1.0, 2.5])
def test_a_known_temperature_is_found_again(exclusive, factor: float) -> None:
    # Columns of 0.5 and 0.3: in the middle, where little is lost to the clipped logits.
    targets, probs, *_ = make_predictions(
        20_000, 3, exclusive=exclusive, quality=0.4, prevalence=(0.4, 0.3, 0.3), seed=3
    )
    sharp = sharpen(probs, exclusive=exclusive, factor=factor)
    fitted = fit_calibration("temperature", targets, sharp, exclusive=exclusive)
    assert fitted.temperature == pytest.approx(factor, rel=0.05)


def test_a_known_line_is_found_again() -> None:
    targets, probs, *_ = make_predictions(20_000, 2, quality=0.4, prevalence=(0.4, 0.1), seed=1)
    slopes, intercepts = (2.0, 0.5), (1.0, -0.7)
    by = Calibration(kind="platt", slopes=slopes, intercepts=intercepts)
    fitted = fit_calibration("platt", targets, distort(probs, by), exclusive=False)
    assert_allclose(fitted.slopes, [1 / a for a in slopes], rtol=0.05)
    inverse = [-b / a for a, b in zip(slopes, intercepts, strict=True)]
    assert_allclose(fitted.intercepts, inverse, atol=0.08)


def test_platt_is_a_logistic_regression_on_his_targets() -> None:
    targets, probs, *_ = make_predictions(300, 1, seed=4)
    fitted = fit_calibration("platt", targets, probs, exclusive=False)
    n = targets.sum()
    soft = np.where(targets[:, 0] == 1, (n + 1) / (n + 2), 1 / (300 - n + 2))
    x = take_logits(probs.astype(float))
    # A soft target is two rows with weights.
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
    model.fit(np.r_[x, x], np.r_[np.ones(300), np.zeros(300)], np.r_[soft, 1 - soft])
    assert fitted.slopes[0] == pytest.approx(model.coef_[0, 0], rel=1e-4)
    assert fitted.intercepts[0] == pytest.approx(model.intercept_[0], abs=1e-4)


def test_cells_of_the_logit_change_next_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    targets, probs, *_ = make_predictions(6000, 1, seed=4)
    in_cells = fit_calibration("platt", targets, probs, exclusive=False)
    monkeypatch.setattr("loupe.monotone.CELLS", 10_000)
    exact = fit_calibration("platt", targets, probs, exclusive=False)
    assert in_cells != exact
    assert in_cells.slopes[0] == pytest.approx(exact.slopes[0], rel=1e-4)
    assert in_cells.intercepts[0] == pytest.approx(exact.intercepts[0], abs=1e-4)


@pytest.mark.parametrize("exclusive", [True, False])
def test_no_other_temperature_has_a_smaller_loss(exclusive) -> None:
    targets, probs, *_ = make_predictions(3000, 3, exclusive=exclusive, seed=8)
    best = fit_calibration("temperature", targets, probs, exclusive=exclusive).temperature

    def loss(temperature: float) -> float:
        by = Calibration(kind="temperature", temperature=temperature)
        return float(
            log_loss(targets, distort(probs, by, exclusive=exclusive), exclusive=exclusive)
        )

    # The row of doubt moves the minimum a little, hence 5 % to either side.
    assert loss(best) < min(loss(best * 0.95), loss(best * 1.05))


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_told_apart_without_a_fault_do_not_make_certain(kind: Kind, exclusive) -> None:
    targets = np.tile(np.eye(2, dtype=np.float32), (50, 1))
    probs = (targets * 0.8 + 0.1).astype(np.float32)
    fitted = fit_calibration(kind, targets, probs, exclusive=exclusive)
    mapped = calibrate(fitted, probs, exclusive=exclusive)
    wrong = mapped[targets == 0]
    # 100 right rows bear out an error of about 1 in 100, and not much less.
    assert wrong.min() > 0.001
    assert wrong.max() < 0.05


@pytest.mark.parametrize("exclusive", [True, False])
def test_the_temperature_keeps_to_its_range(exclusive) -> None:
    targets = np.tile(np.eye(2, dtype=np.float32), (5000, 1))
    timid = (targets * 0.002 + 0.499).astype(np.float32)
    coldest = fit_calibration("temperature", targets, timid, exclusive=exclusive)
    assert coldest.temperature == pytest.approx(calibrating.COLDEST, rel=1e-3)
    wrong = (0.999 - targets * 0.998).astype(np.float32)
    hottest = fit_calibration("temperature", targets, wrong, exclusive=exclusive)
    assert hottest.temperature == pytest.approx(calibrating.HOTTEST, rel=1e-3)
    nothing = np.full_like(targets, 0.5)
    assert fit_calibration("temperature", targets, nothing, exclusive=exclusive).temperature == 1


def test_a_column_without_signal_gets_a_flat_line() -> None:
    targets, probs, *_ = make_predictions(400, 1, quality=0.7, seed=2)
    fitted = fit_calibration("platt", targets, 1 - probs, exclusive=False)
    assert fitted.slopes == (0.0,)
    mapped = calibrate(fitted, 1 - probs, exclusive=False)
    assert_allclose(mapped, targets.mean(), atol=0.01)


@pytest.mark.parametrize("value", [0.123, 0.3, 0.77, 0.9])  # Their deviations round unlike.
def test_a_column_of_one_value_is_mapped_to_its_share(value) -> None:
    targets = np.float32([[1], [0], [0], [0]] * 50)
    probs = np.full((200, 1), value, np.float32)
    for kind in ("platt", "isotonic"):
        fitted = fit_calibration(kind, targets, probs, exclusive=False)
        assert_allclose(calibrate(fitted, probs, exclusive=False), 0.25, atol=0.01)
        elsewhere = calibrate(fitted, np.float32([[0.1], [0.999]]), exclusive=False)
        assert ((elsewhere > 0.01) & (elsewhere < 0.99)).all(), kind


@pytest.mark.parametrize("constant", [0, 1])
def test_a_class_of_one_kind_of_rows_keeps_its_probabilities(constant: int) -> None:
    targets, probs, *_ = make_predictions(100, 2, seed=1)
    targets[:, 1] = constant
    for kind in ("platt", "isotonic"):
        fitted = fit_calibration(kind, targets, probs, exclusive=False)
        mapped = calibrate(fitted, probs, exclusive=False)
        assert_allclose(mapped[:, 1], probs[:, 1], atol=1e-6)
        assert not np.allclose(mapped[:, 0], probs[:, 0], atol=1e-3)


def test_an_isotonic_map_is_a_few_knots_of_enough_rows() -> None:
    targets, probs, *_ = make_predictions(2000, 1, seed=1)
    fitted = fit_calibration("isotonic", targets, sharpen(probs, exclusive=False), exclusive=False)
    (knots,), (values,) = fitted.knots, fitted.values
    assert 3 < len(knots) < 60
    assert values[0] > 0
    assert values[-1] < 1
    # A map of block means keeps the mean, and repairs most of what was done.
    mapped = calibrate(fitted, sharpen(probs, exclusive=False), exclusive=False)
    assert mapped.mean() == pytest.approx(targets.mean(), abs=0.01)
    assert np.abs(mapped - probs).mean() < 0.03


def test_soft_targets_count_by_their_share() -> None:
    _, probs, *_ = make_predictions(5000, 1, quality=0.4, prevalence=(0.5,), seed=6)
    sharp = sharpen(probs, exclusive=False)
    # The probabilities themselves as targets: the map must undo the sharpening.
    for kind in KINDS:
        mapped = calibrate(
            fit_calibration(kind, probs, sharp, exclusive=False), sharp, exclusive=False
        )
        assert np.abs(mapped - probs).mean() < 0.004, kind


def test_many_rows_are_read_evenly_and_rare_positives_all(monkeypatch: pytest.MonkeyPatch) -> None:
    targets, probs, *_ = make_predictions(20_000, 2, quality=0.4, prevalence=(0.4, 0.005), seed=5)
    whole = fit_calibration("platt", targets, probs, exclusive=False)
    monkeypatch.setattr(calibrating, "FIT_ROWS", 2000)
    part = fit_calibration("platt", targets, probs, exclusive=False)
    assert part != whole
    # All positives of the rare class are read: of 10 in a hundred, the slope would be off by 0.3.
    assert part.slopes[1] == pytest.approx(whole.slopes[1], abs=0.06)
    assert part.intercepts[1] == pytest.approx(whole.intercepts[1], abs=0.2)
    stairs = fit_calibration("isotonic", targets, probs, exclusive=False)
    mapped = calibrate(stairs, probs, exclusive=False)
    assert_allclose(mapped.mean(axis=0), targets.mean(axis=0), rtol=0.15)


@pytest.mark.parametrize("exclusive", [True, False])
def test_calibrated_sheets_are_left_alone(exclusive) -> None:
    kinds = []
    for seed in range(20):
        targets, probs, groups, folds = make_predictions(
            300, 3, exclusive=exclusive, groups=100, seed=seed
        )
        kinds.append(choose_calibration(targets, probs, folds, groups, exclusive=exclusive).kind)
    assert kinds.count("none") >= 17, kinds


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_distorted_sheet_is_repaired_and_the_gain_is_told(exclusive) -> None:
    targets, probs, groups, folds = make_predictions(
        600, 3, exclusive=exclusive, quality=0.4, groups=300, seed=2
    )
    sharp = sharpen(probs, exclusive=exclusive, factor=2.5)
    choice = choose_calibration(targets, sharp, folds, groups, exclusive=exclusive)
    assert choice.kind == choice.calibration.kind == "temperature"
    assert set(choice.losses) == {"none", *KINDS}
    assert choice.losses["none"] == pytest.approx(log_loss(targets, sharp, exclusive=exclusive))
    assert choice.gain == pytest.approx(choice.losses["temperature"] - choice.losses["none"])
    assert choice.low < choice.gain < choice.high < 0
    assert choice.reason == (
        f"temperature: log loss {choice.losses['temperature']:.3f} against "
        f"{choice.losses['none']:.3f} uncalibrated ({choice.gain:+.3f}, {choice.low:+.3f} to "
        f"{choice.high:+.3f})"
    )
    whole = fit_calibration("temperature", targets, sharp, exclusive=exclusive)
    assert choice.calibration == whole


def test_a_map_that_temperature_cannot_undo_is_found() -> None:
    targets, probs, groups, folds = make_predictions(1500, 1, quality=0.4, seed=2)
    shifted = distort(probs, Calibration(kind="platt", slopes=(1.0,), intercepts=(2.0,)))
    assert choose_calibration(targets, shifted, folds, groups, exclusive=False).kind == "platt"
    bent = (np.round(probs * 4) / 4) ** 4 * 0.5 + 0.5 * (probs > 0.5)
    bent = np.clip(bent, 0.02, 0.98).astype(np.float32)
    choice = choose_calibration(
        targets, bent, folds, groups, exclusive=False, kinds=("temperature", "isotonic")
    )
    assert choice.kind == "isotonic"
    assert set(choice.losses) == {"none", "temperature", "isotonic"}


def test_the_loss_of_a_part_comes_from_the_other_parts() -> None:
    targets, probs, groups, folds = make_predictions(200, 2, folds=2, seed=7)
    parts = np.where(folds == 0, 3, 11)  # Some of the parts, as in nested cross-fitting.
    choice = choose_calibration(targets, probs, parts, groups, exclusive=False)
    total = 0.0
    for part in (3, 11):
        held = parts == part
        fitted = fit_calibration("platt", targets[~held], probs[~held], exclusive=False)
        mapped = calibrate(fitted, probs[held], exclusive=False)
        total += held.sum() * float(log_loss(targets[held], mapped, exclusive=False))
    assert choice.losses["platt"] == pytest.approx(total / 200)


def test_rows_of_a_group_do_not_count_as_many() -> None:
    """The same rows five times over prove no more, if they are known to be one group."""
    found = []
    for seed in range(8):
        targets, probs, groups, folds = make_predictions(60, 1, quality=0.3, seed=seed)
        sharp = sharpen(probs, exclusive=False, factor=1.6)
        sheets = [np.repeat(each, 5, axis=0) for each in (targets, sharp)]
        group, part = np.repeat(groups, 5), np.repeat(folds, 5)
        alone = choose_calibration(*sheets, part, np.arange(300), exclusive=False)
        whole = choose_calibration(*sheets, part, group, exclusive=False)
        found.append((alone.kind != "none", whole.kind != "none"))
    fooled, careful = np.sum(found, axis=0)
    assert careful < fooled


def test_many_groups_are_drawn_in_bundles(monkeypatch: pytest.MonkeyPatch) -> None:
    targets, probs, groups, folds = make_predictions(2000, 1, quality=0.3, seed=3)
    sharp = sharpen(probs, exclusive=False)
    monkeypatch.setattr(calibrating, "BUNDLES", 5000)
    whole = choose_calibration(targets, sharp, folds, groups, exclusive=False)
    monkeypatch.setattr(calibrating, "BUNDLES", 300)
    bundled = choose_calibration(targets, sharp, folds, groups, exclusive=False)
    assert bundled.gain == whole.gain
    assert bundled.high - bundled.low == pytest.approx(whole.high - whole.low, rel=0.2)


def test_a_single_part_leaves_nothing_to_choose() -> None:
    targets, probs, groups, _ = make_predictions(50, 2, seed=1)
    choice = choose_calibration(targets, probs, np.zeros(50, int), groups, exclusive=False)
    assert choice.kind == "none"
    assert "single part" in choice.reason


def test_what_cannot_be_fitted_is_refused() -> None:
    targets, probs, groups, folds = make_predictions(20, 2, seed=1)
    with pytest.raises(InputError, match="did you mean 'platt'"):
        fit_calibration("plat", targets, probs, exclusive=False)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"\(20, 2\) and probabilities \(20, 1\)"):
        fit_calibration("platt", targets, probs[:, :1], exclusive=False)
    with pytest.raises(InputError, match="19 parts and 20 groups for 20 rows"):
        choose_calibration(targets, probs, folds[1:], groups, exclusive=False)
    for bad in (math.nan, 1.5, -0.1):
        broken = probs.copy()
        broken[3, 1] = bad
        with pytest.raises(InputError, match="NaN or outside"):
            fit_calibration("temperature", targets, broken, exclusive=False)
