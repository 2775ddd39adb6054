import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from loupe import dices as d
from loupe.components import clean_mask, measure_components
from loupe.dices import Pairs, make_pairs
from loupe.gatefits import apply_gate, fit_gate, open_pairs
from loupe.gatetrials import correct_holm
from loupe.maskcuts import CutMasks, measure_gains, split_best

FEW = settings(max_examples=60, deadline=None)
FEWER = settings(max_examples=25, deadline=None)
MASKS = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9))
FITTED = ("hard", "soft_area", "product", "top", "per_image", "two_sided")


@st.composite
def pairs_of_masks(draw) -> Pairs:
    """Areas of real masks of 12 pixels, empty ones among them."""
    n, c = draw(st.integers(1, 12)), draw(st.integers(1, 3))
    bits = hnp.arrays(np.uint16, (n, c), elements=st.sampled_from([0, 0, 1, 7, 0xF0, 0xFFF, 0x5A5]))
    truth, found = draw(bits), draw(bits)
    areas = (np.bitwise_count(each).astype(int) for each in (truth, found, truth & found))
    return make_pairs(*areas)


@FEW
@given(pairs_of_masks())
def test_scores_lie_in_order(pairs):
    dice, iou = d.measure_dice(pairs), d.measure_iou(pairs)
    assert ((iou >= 0) & (iou <= dice) & (dice <= 1)).all()
    np.testing.assert_allclose(iou, dice / (2 - dice), atol=1e-12)
    assert abs(d.decompose(pairs)[0].score - float(d.dice_per_pair_empty1(pairs).overall)) < 1e-12
    np.testing.assert_allclose(d.dice_per_pair_empty1(pairs).overall, dice.mean(), atol=1e-12)


@FEW
@given(pairs_of_masks())
def test_truth_and_prediction_may_be_swapped(pairs):
    turned = make_pairs(pairs.predicted, pairs.truth, pairs.intersection)
    for score in (d.dice_per_pair_empty1, d.dice_micro, d.iou_per_pair_empty1, d.iou_micro):
        np.testing.assert_allclose(score(pairs).overall, score(turned).overall, atol=1e-12)


@FEW
@given(pairs_of_masks(), st.data())
def test_order_and_splitting_of_rows_do_not_matter(pairs, data):
    order = np.array(data.draw(st.permutations(range(len(pairs)))))
    moved = make_pairs(*(a[order] for a in (pairs.truth, pairs.predicted, pairs.intersection)))
    for score in (d.dice_per_pair_empty1, d.dice_micro, d.dice_nonempty):
        np.testing.assert_allclose(score(pairs).classes, score(moved).classes, atol=1e-12)


@FEW
@given(pairs_of_masks())
def test_gains_are_what_a_mask_brings(pairs):
    empty = d.keep_pairs(pairs, np.zeros(pairs.truth.shape, bool))
    np.testing.assert_allclose(
        measure_gains(pairs), d.measure_dice(pairs) - d.measure_dice(empty), atol=1e-12
    )


@FEW
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-4, 4)), min_size=1, max_size=20))
def test_a_split_is_the_best_of_all_cuts(rows):
    values, gains = np.array(rows, float).T
    found = split_best(values, gains)
    sums = [gains[values >= cut].sum() for cut in (*np.unique(values), np.inf)]
    assert found.gain == max(sums)
    assert gains[values > found.below].sum() == found.gain == gains[values >= found.from_here].sum()
    assert not ((values > found.below) & (values < found.from_here)).any()


@FEWER
@given(pairs_of_masks(), st.integers(0, 2**31))
def test_no_fitted_threshold_is_worse_than_none_or_empty_on_its_own_rows(pairs, seed):
    rng = np.random.default_rng(seed)
    probs, tops, sure = rng.random((3, *pairs.truth.shape)).astype(np.float32)
    sure[pairs.predicted == 0] = np.nan
    masks = CutMasks(pairs, sure, tops)
    empty = d.keep_pairs(pairs, np.zeros(pairs.truth.shape, bool))
    least = np.maximum(*(d.dice_per_pair_empty1(each).classes for each in (pairs, empty)))
    for kind in ("hard", "product", "top"):
        opened = apply_gate(fit_gate(kind, probs, masks), probs, masks)
        assert (d.dice_per_pair_empty1(open_pairs(opened, pairs)).classes >= least - 1e-9).all()


@FEWER
@given(pairs_of_masks(), st.integers(0, 2**31))
def test_a_gate_only_removes(pairs, seed):
    rng = np.random.default_rng(seed)
    probs, tops, sure = rng.random((3, *pairs.truth.shape)).astype(np.float32)
    masks = CutMasks(pairs, sure, tops)
    for kind in FITTED:
        opened = apply_gate(fit_gate(kind, probs, masks), probs, masks)
        after = open_pairs(opened, pairs, pairs)
        assert ((after.predicted == 0) | (after.predicted == pairs.predicted)).all()
        assert not (opened.refill & (pairs.predicted > 0)).any()


@FEW
@given(MASKS, st.integers(0, 6), st.booleans())
def test_cleaning_twice_is_cleaning_once(mask, least, fill):
    once = clean_mask(mask, least, fill)
    assert (clean_mask(once, least, fill) == once).all()
    assert (measure_components(once) >= least).all()
    assert (clean_mask(mask.T, least, fill) == once.T).all()
    if not fill:
        assert not (once & ~mask).any()
    if least < 2:
        assert not (mask & ~once).any()


@FEW
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_raises_and_keeps_order(p_values):
    raw = np.array(p_values)
    found = correct_holm(raw)
    assert (found >= raw).all()
    assert (found <= np.minimum(1, raw * len(raw)) + 1e-15).all()
    assert (np.diff(found[np.argsort(raw, kind="stable")]) >= 0).all()
