"""Rules for masks: nested choice of the kind, the file, and one map cut as counts say."""

from __future__ import annotations

import json

import numpy as np
import pytest

from loupe.components import count_map
from loupe.dices import measure_dice
from loupe.errors import InputError, RunError
from loupe.maskcuts import (
    CUT_KINDS,
    NEVER_AREA,
    Candidate,
    MaskCut,
    PairCounts,
    choose_mask_cuts,
    cross_fit_cuts,
    cut_masks,
)
from loupe.maskrules import (
    MaskRule,
    close_counts,
    cut_map,
    cut_others,
    cut_parts,
    fit_mask_rule,
    read_mask_rule,
    write_mask_rule,
)

LEVELS = tuple(Candidate(threshold=level) for level in (0.3, 0.5, 0.7, 0.9))
PARTS = np.arange(40) % 4
NAMES = ("0", "1", "2", "5")


def draw_counts(n: int = 40, classes: int = 2, seed: int = 0, share: float = 0.5) -> PairCounts:
    """Counts of nested masks, as thresholds give them."""
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


def best_kind(counts: PairCounts, parts) -> str:
    """The kind whose cross-fitted masks score most, the simplest of equal ones."""
    parts = np.unique(parts, return_inverse=True)[1]
    scores = {
        kind: measure_dice(cross_fit_cuts(counts, parts, kind).masks.pairs).mean().round(9)
        for kind in CUT_KINDS
    }
    return max(scores, key=lambda kind: scores[kind])


def fit(counts, kind="auto", parts=PARTS, names=NAMES, size=None):
    classes = ("a", "b")[: counts.counts.shape[1]]
    return fit_mask_rule(counts, parts, names, classes=classes, kind=kind, size=size)


@pytest.mark.parametrize("seed", range(3))
def test_auto_judges_the_kinds_without_the_part_they_are_used_on(seed):
    counts = draw_counts(seed=seed, share=0.4)
    found = fit(counts)
    assert found.rule.kind == best_kind(counts, PARTS)
    assert found.rule.cuts == choose_mask_cuts(counts, found.rule.kind)
    for part in range(4):
        others = np.flatnonzero(part != PARTS)
        kind = best_kind(take(counts, others), PARTS[others])
        expected = choose_mask_cuts(take(counts, others), kind)
        assert found.rule.part_cuts[part] == expected
        alone = cut_masks(take(counts, part == PARTS), expected).pairs
        assert (found.masks.pairs.predicted[part == PARTS] == alone.predicted).all()


def test_auto_takes_another_kind_where_another_is_better():
    # False masks are small: an area parts them from real ones, a threshold does not.
    rows = np.zeros((40, 1, 4, 3), int)
    rows[::2, :, :, 0], rows[1::2, :, :, 1] = 50, 8
    assert fit(PairCounts(candidates=LEVELS, counts=rows), parts=np.arange(40) // 10).rule.kind == (
        "area"
    )
    # Nothing can be gained: the simplest.
    rows[1::2] = 0
    assert fit(PairCounts(candidates=LEVELS, counts=rows)).rule.kind == "fixed"


def test_the_truth_of_a_part_does_not_reach_its_masks():
    counts = draw_counts(seed=5)
    swapped = counts.counts.copy()
    swapped[PARTS == 2] = swapped[PARTS == 2][..., [1, 0, 2]]
    swapped[PARTS == 2, ..., 2] = 40 - swapped[PARTS == 2, ..., 0]
    before, after = fit(counts), fit(PairCounts(candidates=LEVELS, counts=swapped))
    assert before.rule.part_cuts[2] == after.rule.part_cuts[2]
    assert before.rule.part_cuts != after.rule.part_cuts
    rows = PARTS == 2
    assert (before.masks.pairs.predicted[rows] == after.masks.pairs.predicted[rows]).all()


def test_a_given_kind_is_that_of_cross_fit_cuts():
    counts = draw_counts(seed=1)
    found, plain = fit(counts, "doublet"), cross_fit_cuts(counts, PARTS, "doublet")
    assert (found.rule.kind, found.rule.cuts) == ("doublet", plain.cuts)
    assert found.rule.part_cuts == plain.part_cuts
    assert (found.masks.pairs.predicted == plain.masks.pairs.predicted).all()


def test_of_two_parts_each_is_cut_by_the_pixel_threshold_of_the_other():
    counts, parts = draw_counts(seed=2), np.arange(40) % 2
    found = fit(counts, parts=parts, names=("0", "1"))
    for part in (0, 1):
        others = take(counts, parts != part)
        assert found.rule.part_cuts[part] == choose_mask_cuts(others, "pixel")
    assert found.rule.kind == best_kind(counts, parts)


def test_a_single_part_is_cut_plainly():
    counts = draw_counts()
    parts = np.zeros(40, int)
    found = fit(counts, parts=parts, names=("0",))
    assert (found.rule.kind, found.rule.part_names) == ("fixed", ())
    assert found.rule.cuts == (MaskCut(top=LEVELS[1], bottom=LEVELS[1]),) * 2
    again = cut_parts(found.rule, counts, parts)
    assert (again.pairs.predicted == found.masks.pairs.predicted).all()
    with pytest.raises(InputError, match=r"one part.*'pixel'"):
        fit(counts, "pixel", parts=parts, names=("0",))


def test_parts_are_cut_again_as_they_were():
    counts = draw_counts(seed=3)
    found = fit(counts)
    again = cut_parts(found.rule, counts, PARTS)
    assert (again.pairs.predicted == found.masks.pairs.predicted).all()
    assert (again.pairs.intersection == found.masks.pairs.intersection).all()
    plain = cut_masks(counts, found.rule.cuts)
    assert (again.pairs.predicted != plain.pairs.predicted).any()


def test_faults_are_told_together():
    with pytest.raises(
        InputError, match=r"'best' is not known.*3 names for 2 classes.*shape \(3,\)"
    ):
        fit_mask_rule(
            draw_counts(), np.arange(3), ["0"], classes=["a", "b", "c"], kind="best", size=None
        )
    with pytest.raises(InputError, match="numbers"):
        fit(draw_counts(), parts=PARTS + 1)
    with pytest.raises(InputError, match="2 classes and 0 parts"):
        MaskRule(classes=("a", "b"), kind="fixed", cuts=())


# One map ------------------------------------------------------------------------------------------


def smooth(rng, high=12, wide=15):
    noise = rng.random((high + 2, wide + 2))
    found = sum(noise[y : y + high, x : x + wide] for y in range(3) for x in range(3)) / 9
    spread = (found - found.min()) / (found.max() - found.min())
    return spread.astype(np.float32)


def list_cuts(candidates, areas):
    """Cuts with least areas that are met, just met and just missed."""
    for bottom in candidates:
        for top, area in zip(candidates, areas.tolist(), strict=True):
            for least in (1, max(area, 1), area + 1, NEVER_AREA):
                yield MaskCut(top=top, bottom=bottom, min_area=least)


def test_one_map_is_cut_as_its_counts_say():
    rng = np.random.default_rng(0)
    candidates = (
        *LEVELS, Candidate(threshold=0.5, min_component=8),
        Candidate(threshold=0.3, min_component=8, fill_holes=True),
    )  # fmt: skip
    kept = 0
    for _ in range(4):
        probs = smooth(rng)
        truth = smooth(rng) > 0.6
        found = count_map(probs, truth, candidates)
        counts = PairCounts(
            candidates=candidates,
            counts=found.counts[None, None],
            confidences=found.confidences[None, None],
            tops=np.float32([[found.top]]),
        )
        for cut in list_cuts(candidates, found.counts[:, :2].sum(axis=1)):
            said, made = cut_masks(counts, [cut]), cut_map(probs, cut)
            assert said.pairs.predicted.item() == made.mask.sum()
            assert said.pairs.intersection.item() == (made.mask & truth).sum()
            assert said.confidences.item() == pytest.approx(made.confidence, nan_ok=True, abs=0)
            assert found.top == made.top
            kept += made.mask.any()
    assert 100 < kept < 4 * 36 * 4 - 100


# Files --------------------------------------------------------------------------------------------


def test_rules_survive_their_file(tmp_path):
    found = fit(draw_counts(seed=4), "triplet", size=(350, 525)).rule
    never = MaskCut(top=LEVELS[3], bottom=LEVELS[0], min_area=NEVER_AREA)
    odd = Candidate(threshold=0.1 + 0.2, min_component=7, fill_holes=True)
    rule = MaskRule(classes=("ä", "b"), kind="area", cuts=(never, MaskCut(top=odd, bottom=odd)))
    for each in (found, rule):
        write_mask_rule(tmp_path / "cuts.json", each)
        assert read_mask_rule(tmp_path / "cuts.json") == each


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "cuts.json"
    with pytest.raises(RunError, match="FileNotFoundError"):
        read_mask_rule(path)
    write_mask_rule(path, fit(draw_counts()).rule)
    values = json.loads(path.read_text())
    for key, value in (("schema", 99), ("kind", "rule"), ("rule", {}), ("rule", [])):
        path.write_text(json.dumps(values | {key: value}))
        with pytest.raises(RunError, match=r"cuts\.json: no rule for masks"):
            read_mask_rule(path)
    path.write_text("{")
    with pytest.raises(RunError):
        read_mask_rule(path)


def test_what_a_part_is_fitted_on_was_cut_without_it_and_without_its_own():
    counts = draw_counts(seed=3)
    rule = fit(counts, "pixel").rule
    found = cut_others(rule, counts, PARTS, kind="pixel")
    assert len(found) == len(NAMES)
    for part in range(len(NAMES)):
        for own in range(len(NAMES)):
            apart = ~np.isin(PARTS, [part, own])
            cuts = choose_mask_cuts(counts, "pixel", np.flatnonzero(apart))
            rows = np.flatnonzero(own == PARTS)
            expected = cut_masks(counts, cuts, rows).pairs.predicted
            np.testing.assert_array_equal(found[part].pairs.predicted[rows], expected)


def test_of_two_parts_the_other_is_cut_by_what_was_chosen_on_it():
    counts, parts = draw_counts(seed=2), np.arange(40) % 2
    rule = fit(counts, "pixel", parts=parts, names=("0", "1")).rule
    found = cut_others(rule, counts, parts, kind="pixel")
    expected = cut_masks(counts, rule.part_cuts[0]).pairs.predicted
    np.testing.assert_array_equal(found[0].pairs.predicted, expected)


def test_closed_pairs_predict_nothing_whatever_the_candidate():
    counts = draw_counts(seed=4)
    shape = counts.counts.shape[:3]
    counts = PairCounts(
        candidates=LEVELS,
        counts=counts.counts,
        confidences=np.full(shape, 0.7, np.float32),
        tops=np.full(shape[:2], 0.9, np.float32),
        presences=np.full(shape, 5),
    )
    stay = np.random.default_rng(0).random(shape[:2]) < 0.5
    found = close_counts(counts, stay)
    for name in ("counts", "confidences", "presences"):
        np.testing.assert_array_equal(getattr(found, name)[stay], getattr(counts, name)[stay])
    assert not found.counts[~stay][..., :2].any()
    truth = counts.counts[..., 0] + counts.counts[..., 2]
    np.testing.assert_array_equal(found.counts[~stay][..., 2], truth[~stay])
    assert np.isnan(found.confidences[~stay]).all()
    assert not found.presences[~stay].any()
    np.testing.assert_array_equal(found.tops, counts.tops)
    # Closed pairs have no say in a cut.
    rows = np.flatnonzero(stay[:, 0])
    for kind in ("pixel", "triplet"):
        assert choose_mask_cuts(found, kind)[0] == choose_mask_cuts(counts, kind, rows)[0]


def test_others_are_cut_by_what_was_chosen_on_closed_counts():
    counts = draw_counts(seed=6)
    stay = np.random.default_rng(2).random((40, 2)) < 0.5
    closed = close_counts(counts, stay)
    rule = fit(closed, "pixel").rule
    found = cut_others(rule, counts, PARTS, kind="pixel", chosen_on=closed)
    for part in range(len(NAMES)):
        for own in range(len(NAMES)):
            apart = np.flatnonzero(~np.isin(PARTS, [part, own]))
            rows = np.flatnonzero(own == PARTS)
            cuts = choose_mask_cuts(closed, "pixel", apart)
            expected = cut_masks(counts, cuts, rows).pairs.predicted
            np.testing.assert_array_equal(found[part].pairs.predicted[rows], expected)
