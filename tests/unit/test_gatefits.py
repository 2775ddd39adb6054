from dataclasses import replace

import numpy as np
import pytest

from loupe import dices as d
from loupe.dices import make_pairs
from loupe.errors import InputError
from loupe.gatefits import (
    FACTORS,
    GATE_KINDS,
    FittedGate,
    apply_gate,
    fit_gate,
    list_gates,
    name_gates,
    open_pairs,
)
from loupe.maskcuts import CutMasks
from loupe.testing import make_predictions
from loupe.thresholds import NEVER

NAN = float("nan")
FITTED = ("hard", "soft_area", "product", "top", "per_image")


def draw_masks(n: int = 60, classes: int = 2, seed: int = 0, quality: float = 0.6):
    """Calibrated probabilities, and masks of which two of three are there."""
    truth, probs, _, _ = make_predictions(
        n, classes, quality=quality, prevalence=[0.5] * classes, seed=seed
    )
    rng = np.random.default_rng(seed)
    there, found = truth > 0, rng.random(truth.shape) < 0.67
    area = np.where(found, rng.integers(20, 200, truth.shape), 0)
    inter = np.where(there & found, area - rng.integers(0, 20, truth.shape), 0)
    sure = np.where(found, rng.uniform(0.5, 1, truth.shape), np.nan).astype(np.float32)
    tops = rng.random(truth.shape).astype(np.float32)
    return probs, CutMasks(make_pairs(np.where(there, inter + 5, 0), area, inter), sure, tops)


def score(gate: FittedGate, probs, masks: CutMasks) -> np.ndarray:
    opened = apply_gate(gate, probs, masks)
    return d.dice_per_pair_empty1(open_pairs(opened, masks.pairs)).classes


def look(kind: str, probs, masks: CutMasks) -> np.ndarray:
    return {"hard": probs, "product": probs * masks.confidences, "top": (probs + masks.tops) / 2}[
        kind
    ]


@pytest.mark.parametrize("kind", ["hard", "product", "top"])
@pytest.mark.parametrize("seed", range(4))
def test_no_threshold_is_better_than_the_fitted_one(kind, seed):
    probs, masks = draw_masks(seed=seed)
    gate = fit_gate(kind, probs, masks)
    best = np.zeros(2)
    seen = look(kind, probs, masks)
    for level in np.append(np.unique(seen[~np.isnan(seen)]), [0, NEVER]):
        best = np.maximum(best, score(replace(gate, levels=(level, level)), probs, masks))
    assert score(gate, probs, masks) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_no_smallest_area_is_better_than_the_fitted_one(seed):
    probs, masks = draw_masks(seed=seed, n=40)
    gate = fit_gate("soft_area", probs, masks)
    best = np.zeros(2)
    for factor in FACTORS:
        for level in np.append(
            0, np.unique(masks.pairs.predicted / (1 + (factor - 1) * (1 - probs)))
        ):
            for near in (level, level + 0.2):
                tried = replace(gate, levels=(near, near), factors=(factor, factor))
                best = np.maximum(best, score(tried, probs, masks))
    # The gate works in tenths of a pixel, so that the grid may gain a row here or there.
    assert score(gate, probs, masks) == pytest.approx(best, abs=1.01 / 40)


def test_thresholds_lie_midway_between_pairs_with_masks():
    probs = np.float32([[0.1], [0.2], [0.6], [0.8]])
    areas, truth = np.array([[9], [0], [0], [9]]), np.array([[0], [0], [9], [9]])
    masks = CutMasks(make_pairs(truth, areas, np.minimum(areas, truth)))
    assert fit_gate("hard", probs, masks).levels == (pytest.approx(0.45),)


def test_masks_without_fault_are_left_alone():
    probs, masks = draw_masks()
    areas = masks.pairs.truth
    perfect = CutMasks(
        make_pairs(areas, areas, areas), np.where(areas > 0, 0.9, np.nan), masks.tops
    )
    for kind in FITTED:
        gate = fit_gate(kind, probs, perfect)
        assert score(gate, probs, perfect).tolist() == [1, 1], kind


def test_masks_that_only_harm_are_removed():
    probs, masks = draw_masks()
    nothing, areas = np.zeros_like(masks.pairs.truth), masks.pairs.predicted
    false = CutMasks(make_pairs(nothing, areas, nothing), masks.confidences, masks.tops)
    for kind in FITTED:
        assert score(fit_gate(kind, probs, false), probs, false).tolist() == [1, 1], kind


def test_per_image_follows_the_rule_of_known_numbers():
    # Dice is 2c - 1 of the confidence c, and p is calibrated where there is a mask.
    truth, probs, _, _ = make_predictions(40_000, 1, quality=0.5, prevalence=[0.5], seed=2)
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.6, 1, truth.shape)
    hit = np.where(truth > 0, np.round(10_000 * (2 * sure - 1)), 0).astype(int)
    pairs = make_pairs(np.where(truth > 0, 10_000, 0), np.full(truth.shape, 10_000), hit)
    masks = CutMasks(pairs, sure.astype(np.float32))
    gate = fit_gate("per_image", probs, masks)
    (line,), (expected,) = gate.lines, gate.expected
    assert line == pytest.approx((1, 0), abs=0.05)
    assert expected.values == pytest.approx((0.2, 1.0), abs=1e-3)
    kept = apply_gate(gate, probs, masks).keep
    rule = probs > 1 / (1 + (2 * sure - 1))
    assert (kept != rule).mean() < 0.01
    optimum = np.maximum(probs * (2 * sure - 1), 1 - probs).mean()
    assert score(gate, probs, masks)[0] == pytest.approx(optimum, abs=0.006)


def test_per_image_calibrates_to_pairs_with_a_mask():
    # Masks tell presence too: with one, the odds are nine times what the classifier says.
    truth, probs, _, _ = make_predictions(20_000, 1, quality=0.5, prevalence=[0.5], seed=1)
    rng = np.random.default_rng(0)
    found = rng.random(truth.shape) < np.where(truth > 0, 0.9, 0.1)
    area = np.where(found, 10, 0)
    masks = CutMasks(make_pairs(np.where(truth > 0, 10, 0), area, np.where(truth > 0, area, 0)))
    gate = fit_gate("per_image", probs, masks)
    assert gate.lines[0] == pytest.approx((1.0, np.log(9)), abs=0.15)
    # Nothing is known of single masks: one Dice for all, and so one threshold.
    assert gate.expected[0].values == (1.0,)
    kept = apply_gate(gate, probs, masks).keep[found]
    assert probs[found][kept].min() == pytest.approx(0.1, abs=0.03)


def test_a_class_without_hits_takes_the_dice_of_all():
    probs, masks = draw_masks()
    truth, inter = masks.pairs.truth.copy(), masks.pairs.intersection.copy()
    truth[:, 1] = inter[:, 1] = 0
    masks = masks._replace(pairs=make_pairs(truth, masks.pairs.predicted, inter))
    gate = fit_gate("per_image", probs, masks)
    assert gate.expected[0] == gate.expected[1]
    assert score(gate, probs, masks)[1] == 1
    nothing = np.zeros_like(truth)
    empty = CutMasks(make_pairs(truth, nothing, nothing))
    assert fit_gate("per_image", probs, empty).lines == ((1, 0), (1, 0))


def test_two_sided_reaches_its_goals_and_refills():
    probs, masks = draw_masks(2000, 1, quality=0.8)
    gate = fit_gate("two_sided", probs, masks)
    present = masks.pairs.truth > 0
    assert (probs[present] >= gate.levels[0]).mean() >= 0.94
    assert present[probs >= gate.refills[0]].mean() >= 0.9
    opened = apply_gate(gate, probs, masks)
    assert not opened.keep[probs < gate.levels[0]].any()
    empty = masks.pairs.predicted == 0
    assert (opened.refill == ((probs >= gate.refills[0]) & empty & opened.keep)).all()
    assert opened.refill.sum() > 100
    second = make_pairs(
        masks.pairs.truth, np.full_like(masks.pairs.truth, 7), 0 * masks.pairs.truth
    )
    after = open_pairs(opened, masks.pairs, second)
    assert (after.predicted[opened.refill] == 7).all()
    assert (after.predicted[~opened.keep] == 0).all()
    with pytest.raises(InputError, match="no second"):
        open_pairs(opened, masks.pairs)


def test_precision_out_of_reach_refills_nothing():
    probs, masks = draw_masks(200, 1)
    noise = np.random.default_rng(0).random(probs.shape).astype(np.float32)
    gate = fit_gate("two_sided", noise, masks)
    assert gate.refills == (NEVER,)
    assert not apply_gate(gate, noise, masks).refill.any()


def test_rows_without_a_probability_pass():
    probs, masks = draw_masks()
    some = probs.copy()
    some[::3] = np.nan
    known = np.setdiff1d(np.arange(60), np.arange(60)[::3])
    for kind in (*FITTED, "two_sided"):
        gate = fit_gate(kind, some, masks)
        opened = apply_gate(gate, some, masks)
        filled = masks.pairs.predicted[::3] > 0
        assert opened.keep[::3][filled].all(), kind
        assert not opened.refill[::3].any()
        if kind != "per_image":
            rows = CutMasks(
                make_pairs(*(getattr(masks.pairs, name)[known]
                             for name in ("truth", "predicted", "intersection"))),
                masks.confidences[known],
                masks.tops[known],
            )  # fmt: skip
            assert fit_gate(kind, some[known], rows) == gate, kind


def test_gates_that_look_at_what_is_missing_are_left_out():
    probs, masks = draw_masks()
    bare = CutMasks(masks.pairs)
    assert list_gates(bare) == ("none", "empty", "hard", "hard_one", "soft_area", "per_image")
    assert list_gates(masks, second=True) == GATE_KINDS
    for kind, what in (("product", "confidences"), ("top", "top pixels")):
        with pytest.raises(InputError, match=what):
            fit_gate(kind, probs, bare)
    alone, one = probs[:, :1], CutMasks(make_pairs(*np.full((3, 60, 1), 5)))
    assert "hard_one" not in list_gates(one)
    with pytest.raises(InputError, match=r"'hard_one' looks at .*a second class"):
        fit_gate("hard_one", alone, one)


def test_hard_one_lets_the_likeliest_of_closed_rows_pass():
    # Masks that only harm: every threshold closes all, and one of each row comes back.
    probs = np.float32([[0.1, 0.4], [0.3, 0.2], [NAN, NAN]])
    areas = np.full((3, 2), 9)
    masks = CutMasks(make_pairs(0 * areas, areas, 0 * areas))
    gate = fit_gate("hard_one", probs, masks)
    assert gate.levels == fit_gate("hard", probs, masks).levels == (NEVER, NEVER)
    opened = apply_gate(gate, probs, masks)
    assert opened.keep.tolist() == [[False, True], [True, False], [True, True]]
    assert not opened.refill.any()
    # Rows of which a class passes are those of the hard gate.
    probs, masks = draw_masks(200, 3)
    hard = apply_gate(fit_gate("hard", probs, masks), probs, masks).keep
    one = apply_gate(fit_gate("hard_one", probs, masks), probs, masks).keep
    shut = ~hard.any(axis=1)
    assert 0 < shut.sum() < 200
    assert (one[~shut] == hard[~shut]).all()
    assert (one[shut] == (probs[shut] == probs[shut].max(axis=1, keepdims=True))).all()


def test_faults_are_told():
    probs, masks = draw_masks()
    with pytest.raises(InputError, match="expected the same"):
        fit_gate("hard", probs[:5], masks)
    with pytest.raises(InputError, match="outside"):
        fit_gate("hard", probs * 2, masks)
    with pytest.raises(InputError, match="not known"):
        fit_gate("soft", probs, masks)
    with pytest.raises(InputError, match="soft"):
        name_gates(["soft", "hard"])
    assert name_gates(["per_image", "hard", "hard"]) == ("hard", "per_image")
