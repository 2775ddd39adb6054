import numpy as np
import pytest

from loupe.components import clean_mask, count_map, measure_components
from loupe.errors import MaskError
from loupe.maskcuts import Candidate


def draw(*lines: str) -> np.ndarray:
    return np.array([[mark == "#" for mark in line] for line in lines])


RING = draw(
    "#####....",
    "#...#..#.",
    "#.#.#....",
    "#...#....",
    "#####...#",
)


def test_small_components_go():
    assert measure_components(RING).tolist() == [16, 1, 1, 1]
    assert clean_mask(RING, 2).sum() == 16
    assert clean_mask(RING, 17).sum() == 0
    assert (clean_mask(RING, 1) == RING).all()
    assert (clean_mask(RING, 0) == RING).all()


def test_holes_are_filled_before_components_are_measured():
    filled = clean_mask(RING, 0, True)
    assert filled[:5, :5].all()
    assert filled.sum() == 25 + 2
    assert clean_mask(RING, 25, True).sum() == 25


def test_pixels_that_touch_at_a_corner_are_one_component():
    line = draw("#..", ".#.", "..#")
    assert measure_components(line).tolist() == [3]
    # ... and so they part what lies on both sides, but close no hole at the border.
    assert (clean_mask(line, 0, True) == line).all()
    diamond = draw(".#.", "#.#", ".#.")
    assert clean_mask(diamond, 0, True)[1, 1]


def test_holes_at_the_border_are_open():
    bay = draw("###", "#.#", "#.#")
    assert (clean_mask(bay, 0, True) == bay).all()
    assert clean_mask(np.ones((3, 4), bool), 12, True).all()
    assert not clean_mask(np.zeros((3, 4), bool), 2, True).any()


def test_the_given_mask_is_left_alone():
    before = RING.copy()
    clean_mask(RING, 5, True)
    assert (before == RING).all()


def test_counts_of_a_map_are_those_of_its_masks():
    rng = np.random.default_rng(0)
    probs, truth = rng.random((20, 30)).astype(np.float32), rng.random((20, 30)) < 0.3
    candidates = [
        Candidate(threshold=0.5),
        Candidate(threshold=0.9, min_component=3),
        Candidate(threshold=0.7, fill_holes=True),
        Candidate(threshold=1.0),
    ]
    found = count_map(probs, truth, candidates, top_share=0.1, largest=True)
    for row, each in enumerate(candidates):
        mask = clean_mask(probs >= each.threshold, each.min_component, each.fill_holes)
        wanted = [(mask & truth).sum(), (mask & ~truth).sum(), (~mask & truth).sum()]
        assert found.counts[row].tolist() == wanted
        if mask.any():
            assert found.confidences[row] == pytest.approx(probs[mask].mean(), rel=1e-6)
            assert found.largest[row] == measure_components(mask)[0]
    assert np.isnan(found.confidences[3])
    assert found.largest[3] == 0
    assert found.top == pytest.approx(np.sort(probs.ravel())[-60:].mean(), rel=1e-6)


def test_candidates_that_share_a_threshold_are_counted_as_if_alone():
    """In any order, repeated, with holes filled or not; to the last bit."""
    rng = np.random.default_rng(1)
    probs = np.round(rng.random((24, 31)) * 8).astype(np.float32) / 8
    truth = rng.random((24, 31)) < 0.4
    candidates = [
        Candidate(threshold=threshold, min_component=least, fill_holes=fill)
        for least in (4, 0, 30, 1, 9, 10_000, 4)
        for threshold in (0.75, 0.5, 0.9)
        for fill in (True, False)
    ]
    found = count_map(probs, truth, candidates, largest=True)
    emptied = 0
    for row, each in enumerate(candidates):
        mask = probs >= np.float32(each.threshold)
        mask = clean_mask(clean_mask(mask, 0, each.fill_holes), each.min_component)
        hit = (mask & truth).sum()
        assert found.counts[row].tolist() == [hit, mask.sum() - hit, truth.sum() - hit]
        if not mask.any():
            emptied += 1
            assert np.isnan(found.confidences[row])
            assert found.largest[row] == 0
            continue
        assert found.confidences[row] == np.float32(probs[mask].mean(dtype=np.float64))
        assert found.largest[row] == measure_components(mask)[0] >= each.min_component
    assert 0 < emptied < len(candidates) / 2
    assert len(np.unique(found.counts[:, 0])) > 8


def test_the_largest_component_is_measured_only_if_asked_for():
    probs = np.float32([[0.9, 0.1, 0.9, 0.9]])
    truth = np.ones((1, 4), bool)
    candidates = [Candidate(threshold=0.5), Candidate(threshold=0.5, min_component=3)]
    assert count_map(probs, truth, candidates).largest is None
    assert count_map(probs, truth, candidates, largest=True).largest.tolist() == [2, 0]


def test_thresholds_are_inclusive():
    probs = np.float32([[0.3, 0.29999]])
    found = count_map(probs, np.ones((1, 2), bool), [Candidate(threshold=0.3)])
    assert found.counts.tolist() == [[1, 0, 1]]


def test_faults_are_told():
    with pytest.raises(MaskError, match="bool"):
        clean_mask(np.ones((2, 2), np.uint8))
    with pytest.raises(MaskError, match="from 0 on"):
        clean_mask(np.ones((2, 2), bool), -1)
    with pytest.raises(MaskError, match="twice"):
        count_map(np.zeros((2, 2), np.float32), np.zeros((2, 3), bool), [])
    with pytest.raises(MaskError, match="top share 0"):
        count_map(np.zeros((2, 2), np.float32), np.zeros((2, 2), bool), [], top_share=0)
