import itertools

import numpy as np
import pytest

from loupe import dices as d
from loupe.components import count_map
from loupe.errors import InputError
from loupe.maskcuts import (
    NEVER_AREA,
    Candidate,
    MaskCut,
    PairCounts,
    choose_mask_cuts,
    cross_fit_cuts,
    cut_masks,
    split_best,
)

LEVELS = tuple(Candidate(threshold=level) for level in (0.3, 0.5, 0.7, 0.9))


def draw_counts(n: int = 30, classes: int = 2, seed: int = 0, share: float = 0.5) -> PairCounts:
    """Counts of nested masks, as thresholds give them; a class is there with a given share."""
    rng = np.random.default_rng(seed)
    there = rng.random((n, classes)) < share
    truth = np.where(there, rng.integers(5, 30, (n, classes)), 0)
    falling = np.sort(rng.random((2, n, classes, len(LEVELS))), axis=-1)[..., ::-1]
    hit = np.round(truth[..., None] * falling[0]).astype(int)
    extra = np.round(rng.integers(0, 20, (n, classes, 1)) * falling[1]).astype(int)
    counts = np.stack([hit, extra, truth[..., None] - hit], axis=-1)
    return PairCounts(candidates=LEVELS, counts=counts)


def take(counts: PairCounts, rows) -> PairCounts:
    return PairCounts(candidates=counts.candidates, counts=counts.counts[rows])


def score(counts: PairCounts, cuts) -> np.ndarray:
    return d.dice_per_pair_empty1(cut_masks(counts, cuts).pairs).classes


def try_all(counts: PairCounts, kind: str) -> np.ndarray:
    """The best mean Dice of each class, by trying every cut."""
    areas = range(1, 55) if kind in {"area", "triplet"} else [1]
    apart = kind in {"doublet", "triplet"}
    best = np.full(counts.counts.shape[1], -1.0)
    for top, bottom, area in itertools.product(LEVELS, LEVELS, areas):
        if top == bottom or (apart and top.threshold > bottom.threshold):
            cut = MaskCut(top=top, bottom=bottom, min_area=area)
            best = np.maximum(best, score(counts, [cut] * len(best)))
    return best


@pytest.mark.parametrize("kind", ["pixel", "area", "doublet", "triplet"])
@pytest.mark.parametrize("seed", range(4))
def test_the_choice_is_the_best_of_all(kind, seed):
    counts = draw_counts(seed=seed, share=0.4)
    found = score(counts, choose_mask_cuts(counts, kind))
    assert found == pytest.approx(try_all(counts, kind), abs=1e-12)


def test_the_fixed_cut_is_the_plainest_near_a_half():
    more = (Candidate(threshold=0.5, min_component=5), Candidate(threshold=0.5, fill_holes=True))
    counts = draw_counts(4)
    counts = PairCounts(candidates=(*more, *LEVELS), counts=counts.counts[:, :, [1, 1, 0, 1, 2, 3]])
    assert set(choose_mask_cuts(counts, "fixed")) == {MaskCut(top=LEVELS[1], bottom=LEVELS[1])}


def test_ties_go_to_the_threshold_near_a_half_and_the_smallest_area():
    counts = np.tile(np.array([5, 0, 0]), (6, 1, 4, 1))
    cuts = choose_mask_cuts(PairCounts(candidates=LEVELS, counts=counts), "triplet")
    assert cuts == (MaskCut(top=LEVELS[1], bottom=LEVELS[1], min_area=1),)


def test_a_class_that_masks_only_harm_stays_empty():
    counts = np.tile(np.array([0, 5, 0]), (6, 1, 4, 1))
    counts = PairCounts(candidates=LEVELS, counts=counts)
    (cut,) = choose_mask_cuts(counts, "area")
    assert cut.min_area == NEVER_AREA
    assert score(counts, [cut]).tolist() == [1.0]


def test_a_known_triplet_is_found():
    # Real masks are wide at .3 and have 20 pixels above .9; false ones have 8 of those.
    real, false = np.zeros((4, 3), int), np.zeros((4, 3), int)
    real[:, 0] = [50, 40, 30, 20]
    real[:, 2] = 50 - real[:, 0]
    false[:, 1] = [50, 40, 30, 8]
    rows = np.stack([real, false] * 5)[:, None]
    counts = PairCounts(candidates=LEVELS, counts=rows)
    (cut,) = choose_mask_cuts(counts, "triplet")
    assert (cut.top, cut.bottom, cut.min_area) == (LEVELS[3], LEVELS[0], 14)
    assert score(counts, [cut]).tolist() == [1.0]
    assert score(counts, choose_mask_cuts(counts, "area"))[0] < 1
    assert score(counts, choose_mask_cuts(counts, "doublet"))[0] < 1


def test_presence_may_be_judged_by_another_area():
    counts = np.tile(np.array([0, 9, 0]), (4, 1, 1, 1))
    counts[:2] = [9, 0, 0]
    largest = np.array([9, 9, 3, 3])[:, None, None]
    plain = PairCounts(candidates=LEVELS[:1], counts=counts)
    judged = PairCounts(candidates=LEVELS[:1], counts=counts, presences=largest)
    assert score(plain, choose_mask_cuts(plain, "area")).tolist() == [0.5]
    (cut,) = choose_mask_cuts(judged, "area")
    assert (cut.min_area, score(judged, [cut]).tolist()) == (6, [1.0])


def test_cut_masks_are_those_of_the_pixels():
    rng = np.random.default_rng(0)
    probs, truth = rng.random((6, 8, 9)).astype(np.float32), rng.random((6, 8, 9)) < 0.4
    maps = [count_map(*pair, LEVELS) for pair in zip(probs, truth, strict=True)]
    counts = PairCounts(
        candidates=LEVELS,
        counts=np.stack([each.counts for each in maps])[:, None],
        confidences=np.stack([each.confidences for each in maps])[:, None],
        tops=np.float32([[each.top] for each in maps]),
    )
    cut = MaskCut(top=LEVELS[3], bottom=LEVELS[1], min_area=8)
    found = cut_masks(counts, [cut])
    for row in range(6):
        mask = probs[row] >= 0.5 if (probs[row] >= 0.9).sum() >= 8 else np.zeros((8, 9), bool)
        assert found.pairs.predicted[row, 0] == mask.sum()
        assert found.pairs.intersection[row, 0] == (mask & truth[row]).sum()
        assert found.pairs.truth[row, 0] == truth[row].sum()
        sure = found.confidences[row, 0]
        assert np.isnan(sure) if not mask.any() else sure == pytest.approx(probs[row][mask].mean())
    assert 0 < (found.pairs.predicted > 0).sum() < 6


def test_a_part_is_cut_as_the_other_parts_say():
    counts, parts = draw_counts(40, seed=5), np.arange(40) % 4
    fit = cross_fit_cuts(counts, parts, "triplet")
    assert fit.cuts == choose_mask_cuts(counts, "triplet")
    for part, cuts in enumerate(fit.part_cuts):
        assert cuts == choose_mask_cuts(take(counts, parts != part), "triplet")
        alone = cut_masks(take(counts, parts == part), cuts).pairs
        assert (fit.masks.pairs.predicted[parts == part] == alone.predicted).all()


def test_the_truth_of_a_part_does_not_reach_its_masks():
    counts, parts = draw_counts(40, seed=5), np.arange(40) % 4
    swapped = counts.counts.copy()
    swapped[parts == 2] = swapped[parts == 2][..., [1, 0, 2]]
    swapped[parts == 2, ..., 2] = 40 - swapped[parts == 2, ..., 0]
    before = cross_fit_cuts(counts, parts, "triplet")
    after = cross_fit_cuts(PairCounts(candidates=LEVELS, counts=swapped), parts, "triplet")
    rows = parts == 2
    assert (before.masks.pairs.predicted[rows] == after.masks.pairs.predicted[rows]).all()
    assert before.part_cuts[2] == after.part_cuts[2]
    assert before.part_cuts != after.part_cuts


def test_splits_know_their_ends():
    values, ones = np.array([3.0, 1, 2, np.nan]), np.ones(4)
    assert split_best(values, ones) == (-np.inf, 1.0, 3.0)
    assert split_best(values, -ones) == (3.0, np.inf, 0.0)
    assert split_best(values[3:], ones[3:]) == (-np.inf, np.inf, 0.0)
    # Ties keep the most rows.
    assert split_best(np.array([1.0, 2.0, 3.0]), np.array([0.0, 0.0, 1.0])) == (-np.inf, 1.0, 1.0)
    # Equal values go together.
    assert split_best(np.array([1.0, 1.0, 2.0]), np.array([-3.0, 2.0, 0.5])) == (1.0, 2.0, 0.5)


def test_faults_are_told():
    counts = draw_counts(6)
    with pytest.raises(InputError, match="candidates, 3"):
        PairCounts(candidates=LEVELS[:2], counts=counts.counts)
    uneven = counts.counts.copy()
    uneven[2, 1, 0, 2] += 1
    with pytest.raises(InputError, match=r"1 pairs, the first in row 2, column 1"):
        PairCounts(candidates=LEVELS, counts=uneven)
    with pytest.raises(InputError, match=r"tops.*12 counts lie below 0"):
        PairCounts(candidates=LEVELS[:1], counts=-np.ones((2, 2, 1, 3), int), tops=np.ones((3, 2)))
    with pytest.raises(InputError, match="two parts"):
        cross_fit_cuts(counts, np.zeros(6, int))
    with pytest.raises(InputError, match="not known"):
        choose_mask_cuts(counts, "quartet")
    with pytest.raises(InputError, match="1 cuts for 2 classes"):
        cut_masks(counts, choose_mask_cuts(counts)[:1])
    strange = Candidate(threshold=0.1)
    with pytest.raises(InputError, match=r"lack 1 candidate.*0\.1"):
        cut_masks(counts, [MaskCut(top=strange, bottom=strange)] * 2)
