"""Faults planted in masks are found by the rule that is for them, and sound masks are not."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from loupe.components import count_map
from loupe.countfiles import CountSheet, write_counts
from loupe.errors import InputError, RunError
from loupe.issues import MASK, NO_MASK
from loupe.layouts import read_table
from loupe.maskcuts import PairCounts, choose_mask_cuts, cut_masks
from loupe.maskissues import FEWEST_MASKS, audit_masks, find_mask_issues, find_odd_areas
from loupe.masks import encode_rle
from loupe.maskscoring import cross_fitted_masks, finish_masks, read_mask_counts
from loupe.recipe import read_recipe
from loupe.runs import create_run
from loupe.table import ALWAYS_TRAINED, Table

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("LOUPE_TEST_DATA", ROOT.parent / "shared"))
TILES = SHARED / "data" / "magnetic-tile"
CLASSES = ("crack", "stain")
CANDIDATES = read_recipe({"decoder": {}}).masks.candidates
SIDE, ROWS = 32, 90


class Scene(NamedTuple):
    """Given masks, and maps of a network that knows the true ones.

    Attributes:
        masks: (N, C, H, W) bool, given.
        maps: (N, C, H, W) float32.
    """

    masks: np.ndarray
    maps: np.ndarray


def draw_scene(seed: int = 0) -> Scene:
    """Squares in half of the rows; maps are sure of them, of some less, and blurred."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((ROWS, 2, SIDE, SIDE), bool)
    maps = rng.uniform(0.0, 0.06, masks.shape).astype(np.float32)
    for row in range(ROWS):
        for column in range(2):
            if (row + column) % 2:
                continue
            height, width = rng.integers(9, 14, 2)
            top, left = rng.integers(2, SIDE - 16, 2)
            masks[row, column, top : top + height, left : left + width] = True
            drop = rng.integers(-1, 2, 2)
            seen = np.roll(masks[row, column], drop, axis=(0, 1))
            maps[row, column][seen] = rng.uniform(0.7, 0.99)
    return Scene(masks, maps)


def write_run(folder: Path, scene: Scene, targets=None, folds=None):
    """Make a finished run of maps as if networks had drawn them, and its table."""
    n = len(scene.masks)
    names = tuple(f"{row:03}.png" for row in range(n))
    there = scene.masks.any(axis=(2, 3)).astype(np.float32)
    table = Table(
        ids=names,
        images=tuple(Path("/nowhere") / name for name in names),
        classes=CLASSES,
        targets=there if targets is None else targets,
        exclusive=False,
        folds=(np.arange(n) // 7 % 3 if folds is None else folds).astype(np.int16),
        masks=tuple(tuple(encode_rle(mask) for mask in row) for row in scene.masks),
    )
    recipe = read_recipe({"decoder": {}, "masks": {"size": [SIDE, SIDE]}})
    run = create_run(folder, table, {"unet": recipe})
    for fold in run.folds:
        rows = np.flatnonzero(table.folds == fold)
        found = [
            [count_map(scene.maps[r, c], scene.masks[r, c], CANDIDATES) for c in range(2)]
            for r in rows
        ]
        counts = PairCounts(
            candidates=CANDIDATES,
            counts=np.array([[each.counts for each in row] for row in found]),
            confidences=np.array([[each.confidences for each in row] for row in found]),
            tops=np.array([[each.top for each in row] for row in found], np.float32),
        )
        held = np.full(len(rows), fold, np.int16)
        sheet = CountSheet(
            ids=tuple(names[row] for row in rows), classes=CLASSES, folds=held, counts=counts
        )
        write_counts(run.fold_counts(fold), sheet)
    finish_masks(run, table, 1.0)
    return run, table


def plant(scene: Scene) -> tuple[Scene, dict[tuple[str, str], str]]:
    """Spoil given masks of the first class; say which rule is for which."""
    masks = scene.masks.copy()
    found = {}
    sure = [row for row in range(0, ROWS, 2) if scene.maps[row, 0].max() > 0.92]
    for row in sure[:2]:
        masks[row, 0] = False
        found[f"{row:03}.png", "crack"] = "mask_missing"
    for row in sure[2:5]:
        masks[row, 0] = np.roll(masks[row, 0], (15, 15), axis=(0, 1))
        found[f"{row:03}.png", "crack"] = "mask_differs"
    calm = sorted(
        range(1, ROWS, 2), key=lambda row: np.sort(scene.maps[row, 0].ravel())[-102:].sum()
    )
    for row in calm[:3]:
        masks[row, 0, 4:15, 4:15] = True
        found[f"{row:03}.png", "crack"] = "mask_extra"
    return Scene(masks, scene.maps), found


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    scene, found = plant(draw_scene())
    return (*write_run(tmp_path_factory.mktemp("masks") / "run", scene), found)


def test_each_planted_fault_is_found_by_its_rule_and_nothing_else(planted):
    run, table, truth = planted
    issues = audit_masks(run, table)
    assert {each.key: each.rules for each in issues} == {
        key: (rule,) for key, rule in truth.items()
    }
    words = {each.rules[0]: (each.given, each.suggested) for each in issues}
    assert words == {
        "mask_missing": (NO_MASK, MASK), "mask_extra": (MASK, NO_MASK), "mask_differs": (MASK, ""),
    }  # fmt: skip


def test_qualities_and_figures_are_those_of_the_counts(planted):
    run, table, _ = planted
    sheet, masks = read_mask_counts(run), cross_fitted_masks(run)
    hit, extra, missed = (sheet.counts.counts[:, 0, :, at].astype(float) for at in range(3))
    with np.errstate(invalid="ignore"):
        best = (2 * hit / (2 * hit + extra + missed)).max(axis=1)
    given = masks.pairs.truth[:, 0] > 0
    usual = np.median(masks.tops[given, 0])
    for issue in audit_masks(run, table):
        row = sheet.ids.index(issue.id)
        if issue.rules == ("mask_missing",):
            assert issue.quality == pytest.approx(1 - masks.confidences[row, 0], abs=1e-6)
            assert f"{masks.pairs.predicted[row, 0]} px" in issue.evidence
        elif issue.rules == ("mask_extra",):
            assert best[row] == 0
            assert issue.quality == pytest.approx(masks.tops[row, 0] / usual, rel=1e-5)
        else:
            assert issue.quality == pytest.approx(best[row])
            assert f"Dice {best[row]:.3f} at best" in issue.evidence
            assert f"is {np.median(best[given]):.3f}" in issue.evidence


@pytest.mark.parametrize("seed", range(3))
def test_sound_masks_are_not_flagged(tmp_path, seed):
    assert audit_masks(*write_run(tmp_path / "run", draw_scene(seed))) == []


def test_a_class_that_the_network_does_not_know_is_not_judged(tmp_path):
    scene, _ = plant(draw_scene())
    maps = scene.maps.copy()
    maps[:, 0] = np.random.default_rng(1).uniform(0, 0.06, maps[:, 0].shape)
    assert audit_masks(*write_run(tmp_path / "run", Scene(scene.masks, maps))) == []


def test_a_class_with_few_masks_is_not_judged(tmp_path):
    scene, _ = plant(draw_scene())
    masks = scene.masks.copy()
    masks[[row for row in range(ROWS) if masks[row, 0].any()][FEWEST_MASKS - 1 :], 0] = False
    assert audit_masks(*write_run(tmp_path / "run", Scene(masks, scene.maps))) == []


def test_a_pair_with_two_faults_is_one_issue_with_both(tmp_path):
    scene = draw_scene()
    masks = scene.masks.copy()
    masks[4, 0], masks[6, 0] = False, False
    masks[4, 0, 30, 30] = True
    targets = masks.any(axis=(2, 3)).astype(np.float32)
    targets[6, 0] = 1
    issues = audit_masks(*write_run(tmp_path / "run", Scene(masks, scene.maps), targets))
    found = {each.key: each for each in issues}
    tiny, empty = found["004.png", "crack"], found["006.png", "crack"]
    assert len(found) == len(issues) == 2
    assert tiny.rules == ("tiny_mask", "mask_differs")
    assert tiny.quality == 0
    assert "has 1 px" in tiny.evidence
    assert "Dice 0.000" in tiny.evidence
    assert (empty.rules, empty.given, empty.suggested) == (("empty_mask",), MASK, "")


def test_rows_that_were_not_held_out_are_judged_by_area_alone(tmp_path):
    scene, _ = plant(draw_scene())
    folds = np.arange(ROWS) // 7 % 3
    spoilt = np.flatnonzero((scene.masks != draw_scene().masks).any(axis=(1, 2, 3)))
    folds[spoilt] = ALWAYS_TRAINED
    run, table = write_run(tmp_path / "run", scene, folds=folds)
    assert audit_masks(run, table) == []


def test_a_mask_that_vanished_when_counted_is_not_called_missing(planted):
    run, table, truth = planted
    key = next(key for key, rule in truth.items() if rule == "mask_missing")
    row, targets = table.ids.index(key[0]), table.targets.copy()
    targets[row, 0] = 1
    masks = [list(texts) for texts in table.masks]
    masks[row][0] = "1 100"
    changed = replace(table, masks=tuple(map(tuple, masks)), targets=targets)
    assert {each.key for each in audit_masks(run, changed)} == set(truth) - {key}


def test_what_does_not_fit_is_refused(planted, tmp_path):
    run, table, _ = planted
    with pytest.raises(InputError, match="lacks 10 of its 90 held-out rows and 0 of its classes"):
        audit_masks(run, table.select(range(10, ROWS)))
    with pytest.raises(InputError, match="no masks"):
        audit_masks(run, replace(table, masks=None))
    sheet, masks = read_mask_counts(run), cross_fitted_masks(run)
    half = replace(sheet.counts, counts=sheet.counts.counts[:, :1], confidences=None, tops=None)
    with pytest.raises(InputError, match="expected the same"):
        find_mask_issues(replace(sheet, counts=half), masks)
    other = create_run(tmp_path / "other", table, {"m": read_recipe({"stages": [{"epochs": 1}]})})
    with pytest.raises(RunError, match="draws no masks"):
        audit_masks(other, table)


def find_by_hand(rows) -> list[tuple[int, str]]:
    """Judge rows of (hit, extra, missed, confidence), one class and one candidate."""
    n = len(rows)
    counts = PairCounts(
        candidates=(CANDIDATES[0],),
        counts=np.array([[[row[:3]]] for row in rows], np.int64),
        confidences=np.array([[[row[3]]] for row in rows], np.float32),
        tops=np.full((n, 1), 0.5, np.float32),
    )
    ids = tuple(str(row) for row in range(n))
    folds = np.zeros(n, np.int16)
    sheet = CountSheet(ids=ids, classes=("chip",), folds=folds, counts=counts)
    masks = cut_masks(counts, choose_mask_cuts(counts, "fixed"))
    return [(int(each.id), each.rules[0]) for each in find_mask_issues(sheet, masks)]


def dice(*shares) -> list[tuple[int, int, int, float]]:
    """Rows with masks of 100 pixels, given and drawn, that share so many hundredths."""
    return [(share, 100 - share, 100 - share, 0.9) for share in shares]


def test_a_mask_differs_below_half_of_the_usual_dice():
    usual = dice(*[90] * 20)
    assert find_by_hand([*usual, *dice(46)]) == []
    assert find_by_hand([*usual, *dice(44)]) == [(20, "mask_differs")]


def test_a_mask_differs_only_where_dice_is_usually_even():
    # The median is 0.6, the quartile 0.45: three deviations reach below 0.
    assert find_by_hand(dice(*range(30, 91, 3), 2)) == []
    # The quartile is 0.54: they end at 0.33 - and half of the median at 0.3.
    even = [*range(50, 71)]
    assert find_by_hand(dice(*even, 32)) == []
    assert find_by_hand(dice(*even, 28)) == [(21, "mask_differs")]


def test_a_mask_is_missing_if_it_is_drawn_as_surely_as_most_that_agree():
    given = [(90, 10, 10, sure / 100) for sure in range(80, 96)]  # the lower quartile is 0.8375
    assert find_by_hand([*given, (0, 50, 0, 0.83), (0, 0, 0, np.nan)]) == []
    assert find_by_hand([*given, (0, 50, 0, 0.84), (0, 50, 0, 0.99)]) == [
        (17, "mask_missing"), (16, "mask_missing"),
    ]  # fmt: skip


def test_without_enough_masks_that_agree_none_is_missing():
    lost = [(20, 80, 80, 0.9)] * 12
    extra = [(0, 50, 0, 0.99)]
    assert find_by_hand([*dice(*[90] * (FEWEST_MASKS - 1)), *lost, *extra]) == []
    assert find_by_hand([*dice(*[90] * FEWEST_MASKS), *lost, *extra]) == [(20, "mask_missing")]


def test_a_class_of_seven_masks_has_no_usual_dice():
    assert find_by_hand([*dice(*[90] * (FEWEST_MASKS - 2), 1), (0, 0, 0, np.nan)]) == []
    assert find_by_hand([*dice(*[90] * (FEWEST_MASKS - 1), 1), (0, 0, 0, np.nan)]) == [
        (FEWEST_MASKS - 1, "mask_differs")
    ]


def list_areas(areas, targets=None) -> Table:
    """A table of one class whose masks are single runs."""
    n = len(areas)
    return Table(
        ids=tuple(f"{row:03}" for row in range(n)),
        images=(Path("x"),) * n,
        classes=("chip",),
        targets=(np.array(areas) > 0).astype(np.float32)[:, None]
        if targets is None
        else np.array(targets, np.float32)[:, None],
        exclusive=False,
        masks=tuple((f"1 {area}" if area else "",) for area in areas),
    )


def test_areas_far_from_the_median_on_either_side():
    usual = [80, 90, 95, 100, 100, 105, 110, 120]
    found = find_odd_areas(list_areas([*usual, 2, 0, 9000]))
    assert [(e.id, e.rules, e.given, e.suggested) for e in found] == [
        ("008", ("tiny_mask",), MASK, ""), ("010", ("huge_mask",), MASK, ""),
    ]  # fmt: skip
    assert [e.quality for e in found] == [pytest.approx(2 / 100), pytest.approx(100 / 9000)]
    assert found[0].evidence == (
        "The mask of 'chip' has 2 px, 50 times fewer than usual (median 100 of 10 masks)."
    )


def test_four_times_smaller_is_usual_and_so_are_equal_areas():
    same = [100] * 12
    assert find_odd_areas(list_areas([*same, 26, 390])) == []
    assert [e.id for e in find_odd_areas(list_areas([*same, 24, 410]))] == ["012", "013"]


def test_few_masks_have_no_usual_area():
    assert find_odd_areas(list_areas([100] * (FEWEST_MASKS - 2) + [1])) == []
    assert len(find_odd_areas(list_areas([100] * (FEWEST_MASKS - 1) + [1]))) == 1


@pytest.mark.parametrize("seed", range(5))
def test_of_areas_that_spread_widely_none_is_odd_and_a_speck_is(seed):
    areas = np.exp(np.random.default_rng(seed).normal(7, 0.7, 400)).astype(int) + 1
    assert find_odd_areas(list_areas(areas)) == []
    assert [e.id for e in find_odd_areas(list_areas([*areas, 1]))] == ["400"]


def test_a_class_that_is_said_to_be_there_needs_a_mask():
    table = list_areas([0, 5, 0, 0], targets=[1, 1, 0, np.nan])
    (issue,) = find_odd_areas(table)
    assert (issue.id, issue.rules, issue.quality) == ("000", ("empty_mask",), 0.0)
    assert (issue.given, issue.suggested) == (MASK, "")


@pytest.mark.skipif(not TILES.is_dir(), reason="no real data here; see $LOUPE_TEST_DATA")
def test_real_faults_of_magnetic_tiles(tmp_path):
    # One class of six, as all images take long to open.
    lines = (TILES / "labels.csv").read_text(encoding="utf-8").splitlines()
    uneven = [lines[0], *(line for line in lines if ",Uneven," in line)]
    (tmp_path / "uneven.csv").write_text("\n".join(uneven), encoding="utf-8")
    table = read_table(tmp_path / "uneven.csv", images=TILES / "images", masks=TILES / "masks")
    found = find_odd_areas(replace(table, targets=np.ones_like(table.targets)))
    # Three have a black mask; two masks of a whole region are 1 and 3 pixels.
    assert {each.id: each.rules[0] for each in found} == {
        "exp3_num_45042.jpg": "empty_mask",
        "exp4_num_352527.jpg": "empty_mask",
        "exp4_num_45057.jpg": "empty_mask",
        "exp3_num_24829.jpg": "tiny_mask",
        "exp4_num_24843.jpg": "tiny_mask",
    }
