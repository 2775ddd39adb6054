"""From counted folds to cuts, scores and instructions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from loupe.countfiles import CountSheet, read_counts, write_counts
from loupe.dices import METRICS, decompose, measure_dice
from loupe.errors import AlignmentError, RunError
from loupe.maskcuts import Candidate, PairCounts, choose_mask_cuts, cut_masks
from loupe.maskrules import fit_mask_rule, read_mask_rule
from loupe.maskscoring import (
    cross_fitted_masks,
    finish_masks,
    finish_masks_refit,
    read_mask_counts,
)
from loupe.recipe import read_recipe
from loupe.runs import Run, create_run, open_run
from loupe.scoring import read_scores
from loupe.table import ALWAYS_TRAINED, Table

CLASSES = ("crack", "stain")
CANDIDATES = read_recipe({"decoder": {}}).masks.candidates


def make_table(folds, groups=None) -> Table:
    n = len(folds)
    return Table(
        ids=tuple(f"{row:03}.png" for row in range(n)),
        images=tuple(Path(f"/nowhere/{row:03}.png") for row in range(n)),
        classes=CLASSES,
        targets=np.zeros((n, 2), np.float32),
        exclusive=False,
        groups=groups,
        folds=np.array(folds, np.int16),
        masks=(("", ""),) * n,
    )


def draw_counts(n: int, seed: int = 0) -> PairCounts:
    """Counts of nested masks; half of them are given, and false masks are smaller."""
    rng = np.random.default_rng(seed)
    truth = np.where(rng.random((n, 2)) < 0.5, rng.integers(20, 60, (n, 2)), 0)
    falling = np.sort(rng.random((2, n, 2, len(CANDIDATES))), axis=-1)[..., ::-1]
    hit = np.round(truth[..., None] * falling[0]).astype(np.int32)
    extra = np.round(rng.integers(0, 20, (n, 2, 1)) * falling[1]).astype(np.int32)
    counts = np.stack([hit, extra, truth[..., None] - hit], axis=-1)
    area = counts[..., :2].sum(axis=-1)
    sure = np.where(area > 0, rng.random(area.shape), np.nan).astype(np.float32)
    tops = rng.random((n, 2)).astype(np.float32)
    return PairCounts(candidates=CANDIDATES, counts=counts, confidences=sure, tops=tops)


def take(counts: PairCounts, rows) -> PairCounts:
    return PairCounts(
        candidates=counts.candidates,
        counts=counts.counts[rows],
        confidences=counts.confidences[rows],
        tops=counts.tops[rows],
    )


def write_folds(run: Run, table: Table, counts: PairCounts, *, turned: bool = True) -> None:
    """Write counts of all folds; their rows stand in another order than in the table."""
    held = np.flatnonzero(table.folds >= 0)
    for fold in run.folds:
        rows = np.flatnonzero(table.folds == fold)[:: -1 if turned else 1]
        sheet = CountSheet(
            ids=tuple(table.ids[row] for row in rows),
            classes=CLASSES,
            folds=np.full(len(rows), fold, np.int16),
            counts=take(counts, np.searchsorted(held, rows)),
        )
        write_counts(run.fold_counts(fold), sheet)


def make_run(folder: Path, table: Table, cut="auto", stamps=(), **more) -> Run:
    recipe = read_recipe({"decoder": {}, "masks": {"cut": cut, "size": [30, 40]}})
    return create_run(folder, table, {"unet": recipe}, stamps, **more)


def finish(folder: Path, folds, cut="auto", groups=None, seed=0) -> tuple[Run, Table, PairCounts]:
    table = make_table(folds, groups)
    run = make_run(folder, table, cut, ["LEAK: told"])
    counts = draw_counts(int((table.folds >= 0).sum()), seed)
    write_folds(run, table, counts)
    finish_masks(run, table, 12.34)
    return open_run(folder), table, counts


FOLDS = [0, 1, ALWAYS_TRAINED, 3, 1, 0, 3, ALWAYS_TRAINED, *([0, 1, 3] * 12)]


def test_folds_are_joined_in_the_order_of_the_table(tmp_path):
    run, table, counts = finish(tmp_path / "run", FOLDS)
    held = np.flatnonzero(table.folds >= 0)
    sheet = read_mask_counts(run)
    assert sheet.ids == tuple(table.ids[row] for row in held)
    assert sheet.folds.tolist() == table.folds[held].tolist()
    assert (sheet.counts.counts == counts.counts).all()
    assert np.array_equal(sheet.counts.confidences, counts.confidences, equal_nan=True)
    assert (sheet.counts.tops == counts.tops).all()


def test_scores_are_of_masks_that_other_folds_cut(tmp_path):
    groups = tuple(f"plate {row // 2}" for row in range(len(FOLDS)))
    run, table, counts = finish(tmp_path / "run", FOLDS, groups=groups)
    held = np.flatnonzero(table.folds >= 0)
    parts = np.unique(table.folds[held], return_inverse=True)[1]
    fitted = fit_mask_rule(
        counts, parts, ("0", "1", "3"), classes=CLASSES, kind="auto", size=(30, 40)
    )
    rule = read_mask_rule(run.cuts_file)
    assert rule == fitted.rule
    assert (rule.part_names, rule.size) == (("0", "1", "3"), (30, 40))
    masks = cross_fitted_masks(run)
    assert (masks.pairs.predicted == fitted.masks.pairs.predicted).all()
    assert np.array_equal(masks.confidences, fitted.masks.confidences, equal_nan=True)

    scores = {(s.metric, s.class_name): s for s in read_scores(run)}
    assert set(scores) == {(metric, name) for metric in METRICS for name in ("", *CLASSES)}
    dice = measure_dice(masks.pairs)
    main = scores["dice_per_pair_empty1", ""]
    assert main.value == pytest.approx(dice.mean())
    assert main.low < main.value < main.high
    assert main.n == dice.size
    for name, factors in zip(("", *CLASSES), decompose(masks.pairs), strict=True):
        assert scores["specificity", name].value == pytest.approx(factors.specificity)
        assert scores["dice_given_found", name].value == pytest.approx(factors.dice_given_found)
        assert scores["all_empty", name].value == pytest.approx(factors.empty_share)
    by_fold = [dice[parts == part, 1].mean() for part in range(3)]
    stain = scores["dice_per_pair_empty1", "stain"]
    assert stain.fold_mean == pytest.approx(np.mean(by_fold))
    assert stain.fold_std == pytest.approx(np.std(by_fold, ddof=1))


def test_the_file_of_scores_has_folds_stamps_and_the_plain_dice(tmp_path):
    run, table, counts = finish(tmp_path / "run", FOLDS, cut="triplet")
    values = json.loads(run.scores_file.read_text())
    assert (values["seconds"], values["stamps"]) == (12.3, ["LEAK: told"])
    dice = measure_dice(cross_fitted_masks(run).pairs)
    held = table.folds[table.folds >= 0]
    for fold in (0, 1, 3):
        found = values["folds"][str(fold)]
        assert set(found) == set(METRICS)
        assert found["dice_per_pair_empty1"] == pytest.approx(dice[held == fold].mean())
    plain = measure_dice(cut_masks(counts, choose_mask_cuts(counts, "fixed")).pairs)
    assert values["plain_dice"]["overall"] == pytest.approx(plain.mean())
    assert values["plain_dice"]["classes"]["stain"] == pytest.approx(plain[:, 1].mean())
    told = run.instructions_file.read_text()
    for command in ("loupe segment", "loupe score", "loupe cascade", "counts.npz"):
        assert command in told


def test_rows_of_one_fold_are_dealt_by_whole_groups_alike_each_time(tmp_path):
    folds = [0, ALWAYS_TRAINED] * 30
    groups = tuple(f"plate {row // 6}" for row in range(60))
    run, _, counts = finish(tmp_path / "run", folds, cut="pixel", groups=groups)
    rule = read_mask_rule(run.cuts_file)
    assert (rule.kind, rule.part_names) == ("pixel", ("0", "1", "2", "3", "4"))
    masks = cross_fitted_masks(run)
    scores = {(s.metric, s.class_name): s.value for s in read_scores(run)}
    assert scores["dice_per_pair_empty1", ""] == pytest.approx(measure_dice(masks.pairs).mean())
    assert json.loads(run.scores_file.read_text())["folds"] == {}
    assert len(set(rule.part_cuts)) > 1
    # Rows of a plate, three in a row here, are cut by the same cuts, and not by their own.
    parts = [cut_masks(counts, cuts).pairs.predicted for cuts in rule.part_cuts]
    plates = masks.pairs.predicted.reshape(10, 3, 2)
    fits = np.array([(part.reshape(10, 3, 2) == plates).all(axis=(1, 2)) for part in parts])
    assert fits.any(axis=0).all()


def test_a_single_group_is_cut_plainly_and_says_so(tmp_path):
    run, _, counts = finish(tmp_path / "run", [0] * 6, cut="triplet", groups=("one",) * 6)
    rule = read_mask_rule(run.cuts_file)
    assert (rule.kind, rule.part_names) == ("fixed", ())
    plain = cut_masks(counts, choose_mask_cuts(counts, "fixed"))
    assert (cross_fitted_masks(run).pairs.predicted == plain.pairs.predicted).all()
    main = read_scores(run)[0]
    assert (main.metric, "one group" in main.note) == ("dice_per_pair_empty1", True)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"ids": ("999.png",)}, "other rows"),
        ({"classes": ("crack", "rust")}, r"classes \['crack', 'rust'\]"),
        ({"counts": 1}, "other candidates"),
    ],
)
def test_counts_that_do_not_fit_are_named(tmp_path, change, told):
    table = make_table([0, 1, 1, 0, 1])
    run = make_run(tmp_path / "run", table)
    write_folds(run, table, draw_counts(5))
    path = run.fold_counts(1)
    sheet = read_counts(path)
    if "ids" in change:
        change["ids"] += sheet.ids[1:]
    if "counts" in change:
        fewer = sheet.counts.counts[:, :, :1]
        change["counts"] = PairCounts(candidates=(Candidate(threshold=0.2),), counts=fewer)
    write_counts(path, replace(sheet, **change))
    with pytest.raises(AlignmentError, match=rf"fold-1\.npz holds.*{told}"):
        finish_masks(run, table, 1.0)
    assert not run.scores_file.exists()


def test_a_refit_takes_cuts_and_scores_from_its_source(tmp_path):
    source, table, _ = finish(tmp_path / "run", FOLDS)
    everything = replace(table, folds=np.full(len(table), ALWAYS_TRAINED, np.int16))
    run = make_run(tmp_path / "all", everything, stamps=["REFIT: x"], refit_of=source.folder)
    finish_masks_refit(run, source, everything, 3.0)
    run = open_run(run.folder)
    assert read_mask_rule(run.cuts_file) == read_mask_rule(source.cuts_file)
    values, before = (json.loads(each.scores_file.read_text()) for each in (run, source))
    assert values["scores"] == before["scores"]
    assert values["folds"] == before["folds"]
    assert (values["seconds"], values["stamps"]) == (3.0, ["REFIT: x"])
    assert "plain_dice" in values
    assert "counts.npz" not in run.instructions_file.read_text()
    with pytest.raises(RunError, match=r"trained on all rows.*run"):
        read_mask_counts(run)
    fewer = replace(everything, classes=("crack", "rust"))
    with pytest.raises(RunError, match=r"lacks its classes \['stain'\]"):
        finish_masks_refit(run, source, fewer, 3.0)


def test_runs_without_counts_are_refused(tmp_path):
    table = make_table([0, 1, 1])
    run = make_run(tmp_path / "run", table)
    with pytest.raises(RunError, match="has not finished"):
        read_mask_counts(run)
    plain = create_run(tmp_path / "plain", table, {"one": read_recipe({})})
    with pytest.raises(RunError, match="draws no masks"):
        cross_fitted_masks(plain)
