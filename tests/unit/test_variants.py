"""Variants of a cascade on held-out rows: every Dice from its definition, none by luck."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loupe.cascades import open_runs, read_cascade
from loupe.countfiles import CountSheet, write_counts
from loupe.decisions import decide
from loupe.dices import Pairs, keep_pairs, measure_dice
from loupe.errors import AlignmentError, InputError
from loupe.gatefits import FittedGate, apply_gate, fit_gate
from loupe.gates import keep_likeliest
from loupe.heldmasks import cut_open, cut_present, gather_held_masks, nest_present
from loupe.maskcuts import (
    Candidate,
    CutMasks,
    MaskCut,
    PairCounts,
    choose_mask_cuts,
    cut_masks,
    join_masks,
    take_masks,
)
from loupe.maskrules import cut_parts, fit_mask_rule, write_mask_rule
from loupe.predictions import Predictions, write_predictions
from loupe.recipe import read_recipe
from loupe.rules import apply_rule, read_part_rules
from loupe.runs import Run, create_run
from loupe.stagetimes import may_pass
from loupe.table import Table
from loupe.variants import Variants, fit_stage, try_variants

AB = ("a", "b")
NONE, HIT, HALF, FALSE, MISS = (0, 0, 0), (9, 0, 0), (5, 5, 5), (0, 7, 0), (0, 0, 4)
"""True positives, false positives, false negatives: Dice 1, 1, 0.5, 0, 0."""
COUNTS = [
    [HIT, NONE],
    [HALF, FALSE],
    [FALSE, NONE],
    [NONE, HIT],
    [FALSE, FALSE],
    [NONE, MISS],
    [HALF, HIT],
    [NONE, FALSE],
]
BINARY = [[0.9], [0.8], [0.2], [0.9], [0.1], [0.7], [0.3], [0.6]]
LABELS = [
    [0.9, 0.1],
    [0.8, 0.2],
    [0.6, 0.1],
    [0.1, 0.4],
    [0.1, 0.8],
    [0.1, 0.9],
    [0.7, 0.6],
    [0.1, 0.4],
]


class Night:
    """A folder with runs whose held-out rows are made by hand."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self.ids = tuple(f"{row:03}.png" for row in range(count))
        self.folds = (np.arange(count) % 2).astype(np.int16)

    def table(self, classes, targets=None, *, ids=None, folds=None) -> Table:
        names = self.ids if ids is None else tuple(ids)
        known = np.zeros((len(names), len(classes)), np.float32) if targets is None else targets
        return Table(
            ids=names,
            images=tuple(Path("x") / key for key in names),
            classes=tuple(classes),
            targets=np.asarray(known, np.float32),
            exclusive=False,
            folds=self.folds if folds is None else np.asarray(folds, np.int16),
        )

    def classify(self, name, probs, *, classes=AB, targets=None, ids=None, folds=None) -> Run:
        """Write a finished run with held-out probabilities."""
        table = self.table(classes, targets, ids=ids, folds=folds)
        run = create_run(self.folder / name, table, {"m": read_recipe({})})
        sheet = Predictions(
            ids=table.ids,
            classes=table.classes,
            probs=np.asarray(probs, np.float32),
            exclusive=False,
            held_out=np.ones(len(table), np.bool_),
            folds=table.folds,
        )
        write_predictions(run.oof_file, {"m": sheet})
        run.scores_file.write_text("{}", encoding="utf-8")
        return run

    def draw(self, counts: PairCounts, *, name="draw", classes=AB, ids=None, folds=None,
             kind="fixed", refit_of=None) -> Run:  # fmt: skip
        """Write a finished run with counts of held-out masks, or one that follows it."""
        table = self.table(classes, ids=ids, folds=folds)
        recipes = {"m": read_recipe({"decoder": {}, "masks": {"cut": kind}})}
        run = create_run(self.folder / name, table, recipes, refit_of=refit_of)
        sheet = CountSheet(ids=table.ids, classes=table.classes, folds=table.folds, counts=counts)
        names = tuple(str(fold) for fold in np.unique(table.folds))
        fitted = fit_mask_rule(
            counts, np.unique(table.folds, return_inverse=True)[1], names, classes=classes,
            kind=kind, size=None,
        )  # fmt: skip
        if refit_of is None:
            write_counts(run.counts_file, sheet)
        write_mask_rule(run.cuts_file, fitted.rule)
        run.scores_file.write_text("{}", encoding="utf-8")
        return run

    def compare(self, **cascade) -> Variants:
        return try_variants(self.spell(**cascade), resamples=200)

    def spell(self, **cascade):
        """Put the folder before the runs of a cascade."""
        stages = {
            name: {**stage, "run": self.folder / stage["run"]}
            for name, stage in cascade.items()
            if isinstance(stage, dict) and name != "masks"
        }
        return read_cascade({"masks": {"run": self.folder / "draw"}, **cascade, **stages})


def plain_counts(counts) -> PairCounts:
    return PairCounts(
        candidates=(Candidate(threshold=0.5),), counts=np.array(counts, np.int64)[:, :, None]
    )


def dices(variants: Variants, class_name: str = "") -> dict[str, float]:
    found = {each.name: each.dice for each in variants.trials if each.class_name == class_name}
    return {name: round(value, 9) for name, value in found.items()}


@pytest.fixture
def night(tmp_path) -> Night:
    made = Night(tmp_path, 8)
    made.draw(plain_counts(COUNTS))
    made.classify("any", BINARY, classes=["defect"])
    made.classify("which", LABELS)
    return made


BOTH = {"binary": {"run": "any", "threshold": 0.5}, "labels": {"run": "which", "threshold": 0.5}}


def test_the_four_pipelines_have_the_dice_of_their_definition(night):
    found = night.compare(**BOTH)
    # Class a, row by row: 1 .5 0 1 0 1 .5 1; class b: 1 0 1 1 0 0 1 0.
    assert dices(found)["masks"] == 9 / 16
    assert dices(found, "a")["masks"] == 5 / 8
    assert dices(found, "b")["masks"] == 4 / 8
    # Empty masks: 1 where the truth is empty.
    assert dices(found)["empty"] == 10 / 16
    # Binary closes rows 2, 4 and 6: a 1 .5 1 1 1 1 0 1, b 1 0 1 1 1 0 0 0.
    assert dices(found, "a")["binary+masks"] == 6.5 / 8
    assert dices(found, "b")["binary+masks"] == 4 / 8
    # Labels open a in 0, 1, 2, 6 and b in 4, 5, 6: a 1 .5 0 1 1 1 .5 1, b 1 1 1 0 0 0 1 1.
    assert dices(found, "a")["labels+masks"] == 6 / 8
    assert dices(found, "b")["labels+masks"] == 5 / 8
    # Both: a 1 .5 1 1 1 1 0 1, b 1 1 1 0 1 0 0 1.
    assert dices(found, "a")["binary+labels+masks"] == 6.5 / 8
    assert dices(found, "b")["binary+labels+masks"] == 5 / 8
    assert (found.rows, found.classes) == (8, AB)
    gap = {each.name: each.difference.value for each in found.trials if not each.class_name}
    assert gap["binary+labels+masks"] == pytest.approx(11.5 / 16 - 9 / 16)
    trial = next(each for each in found.trials if each.name == "binary+labels+masks")
    # Given masks are empty in 10 pairs, of which only b of none stays filled; 6 others, 2 found.
    assert trial.specificity == 1.0
    assert trial.recall == pytest.approx(2 / 6)
    assert trial.dice_given_found == pytest.approx(0.75)
    assert found.best == "masks"


def test_what_reaches_each_stage_is_told(night):
    found = night.compare(**BOTH)
    reach = {(each.variant, each.stage): (each.images, each.pairs) for each in found.reach}
    assert {key: value for key, value in reach.items() if not key[0].startswith("fitted")} == {
        ("masks", "masks"): (1, 1),
        ("binary+masks", "binary"): (1, 1),
        ("binary+masks", "masks"): (5 / 8, 5 / 8),
        ("labels+masks", "labels"): (1, 1),
        ("labels+masks", "masks"): (6 / 8, 7 / 16),
        ("binary+labels+masks", "binary"): (1, 1),
        ("binary+labels+masks", "labels"): (5 / 8, 5 / 8),
        ("binary+labels+masks", "masks"): (3 / 8, 3 / 16),
    }
    assert reach["fitted hard", "labels"] == (1, 1)


def test_only_stages_that_the_cascade_has_are_tried(night):
    assert set(dices(night.compare())) == {"masks", "empty"}
    found = dices(night.compare(binary=BOTH["binary"]))
    assert set(found) == {
        "masks", "empty", "binary+masks", "fitted hard", "fitted hard_one", "fitted soft_area",
        "fitted per_image",
    }  # fmt: skip


def test_at_least_one_keeps_the_likeliest_of_rows_that_passed(night):
    found = night.compare(**BOTH, at_least_one=True)
    # Labels alone now also open b in 3 and 7: 1 and 0.
    assert dices(found, "b")["labels+masks"] == 5 / 8
    assert dices(found, "a")["labels+masks"] == 6 / 8
    assert dices(found, "b")["binary+labels+masks"] == 5 / 8
    reach = {(each.variant, each.stage): each.pairs for each in found.reach}
    assert reach["labels+masks", "masks"] == 9 / 16
    assert reach["binary+labels+masks", "masks"] == 5 / 16


def random_night(folder: Path, count: int = 60, *, kind="fixed") -> tuple[Night, PairCounts]:
    """Random masks of two candidates, with confidences, and probabilities that know something."""
    rng = np.random.default_rng(7)
    truth = rng.integers(0, 2, (count, 2)) * 20
    found = rng.integers(1, 30, (count, 2, 2))
    hit = np.minimum(found * (rng.random(found.shape) < 0.7), truth[..., None])
    counts = PairCounts(
        candidates=(Candidate(threshold=0.5), Candidate(threshold=0.7)),
        counts=np.stack([hit, found - hit, truth[..., None] - hit], axis=-1),
        confidences=rng.random(found.shape).astype(np.float32),
        tops=rng.random((count, 2)).astype(np.float32),
    )
    made = Night(folder, count)
    made.draw(counts, kind=kind)
    probs = np.clip(0.25 + 0.5 * (truth > 0) + rng.normal(0, 0.2, truth.shape), 0, 1)
    made.classify("which", probs, targets=truth > 0)
    any_there = (truth > 0).any(axis=1, keepdims=True)
    noise = rng.normal(0, 0.2, any_there.shape)
    made.classify("any", np.clip(0.25 + 0.5 * any_there + noise, 0, 1), classes=["defect"],
                  targets=any_there)  # fmt: skip
    return made, counts


def choose_where_present(counts: PairCounts, rows) -> tuple[MaskCut, ...]:
    """The pixel threshold of each class, on rows that show the class alone."""
    truth = counts.counts[:, :, 0, 0] + counts.counts[:, :, 0, 2] > 0
    each = [choose_mask_cuts(counts, "pixel", rows[truth[rows, at]])[at] for at in range(2)]
    return tuple(each)


def cut_where_present(counts: PairCounts, folds) -> CutMasks:
    """The masks of each of two folds, by the thresholds of the other."""
    pieces = []
    for part in (0, 1):
        cuts = choose_where_present(counts, np.flatnonzero(folds != part))
        rows = np.flatnonzero(folds == part)
        pieces.append((rows, cut_masks(counts, cuts, rows)))
    return join_masks(pieces)


def rate(pairs: Pairs, keep) -> float:
    return round(float(measure_dice(keep_pairs(pairs, keep)).mean()), 9)


@pytest.mark.parametrize("kind", ["fixed", "triplet"])
def test_gates_are_fitted_and_measured_on_masks_cut_for_pairs_that_have_one(tmp_path, kind):
    made, counts = random_night(tmp_path, kind=kind)
    found = dices(made.compare(labels={"run": "which", "threshold": 0.0}))
    probs = Run(made.folder / "which", ("m",), (0, 1)).oof()["m"].probs
    own = fit_mask_rule(counts, made.folds, ("0", "1"), classes=AB, kind=kind, size=None).masks
    # What closes nothing changes nothing.
    assert found.pop("masks") == found.pop("labels+masks") == rate(own.pairs, True)
    assert found.pop("empty") == rate(own.pairs, False)
    keep = {name: np.zeros((60, 2), np.bool_) for name in found}
    assert len(keep) == 6
    masks = cut_where_present(counts, made.folds)
    for part in (0, 1):
        here, others = np.flatnonzero(made.folds == part), np.flatnonzero(made.folds != part)
        # Of two folds, the other is cut by what was chosen on it.
        cuts = choose_where_present(counts, others)
        for name, kept in keep.items():
            gate = fit_gate(
                name.removeprefix("fitted "), probs[others], cut_masks(counts, cuts, others)
            )
            kept[here] = apply_gate(gate, probs[here], take_masks(masks, here)).keep
    assert found == {name: rate(masks.pairs, kept) for name, kept in keep.items()}


@pytest.mark.parametrize("kind", ["pixel", "triplet"])
def test_masks_behind_hard_stages_are_cut_for_what_those_leave_open(tmp_path, kind):
    made, counts = random_night(tmp_path, kind=kind)
    found = dices(made.compare(labels={"run": "which", "threshold": 0.5}))
    keep = Run(made.folder / "which", ("m",), (0, 1)).oof()["m"].probs >= 0.5
    # A closed pair scores what it scores, whatever the cut: the best on open ones is the best.
    predicted = np.zeros((60, 2), np.int64)
    hit = predicted.copy()
    for part in (0, 1):
        here, others = np.flatnonzero(made.folds == part), np.flatnonzero(made.folds != part)
        for at in (0, 1):
            cut = choose_mask_cuts(counts, kind, others[keep[others, at]])
            pairs = cut_masks(counts, cut, here).pairs
            predicted[here, at] = pairs.predicted[:, at]
            hit[here, at] = pairs.intersection[:, at]
    truth = counts.counts[:, :, 0, 0] + counts.counts[:, :, 0, 2]
    pairs = Pairs(truth=truth, predicted=predicted, intersection=hit)
    assert found["labels+masks"] == rate(pairs, keep)


def everywhere_night(folder: Path) -> Night:
    """Networks that draw both classes everywhere; a gate knows where class a is."""
    made = Night(folder, 40)
    there = np.arange(40)[:, None] // 2 % 5 == 0
    low = np.where(there[:, :, None], HALF, FALSE)
    high = np.where(there[:, :, None], (0, 0, 10), NONE)
    counts = np.repeat(np.stack([low, high], axis=2), 2, axis=1)
    made.draw(
        PairCounts(
            candidates=(Candidate(threshold=0.5), Candidate(threshold=0.9)), counts=counts
        ),
        kind="pixel",
    )  # fmt: skip
    probs = np.where(there, 0.9, 0.1)
    made.classify("which", np.hstack([probs, 1 - probs]), targets=there.repeat(2, axis=1))
    return made


def test_a_class_that_is_drawn_everywhere_has_masks_behind_a_good_gate(tmp_path):
    made = everywhere_night(tmp_path)
    stages = {"labels": {"run": "which", "threshold": 0.5}}
    found = made.compare(**stages)
    # Ungated, the best cut of both classes is never: 8 of 40 rows show them.
    assert dices(found, "a")["masks"] == dices(found, "a")["empty"] == 0.8
    assert dices(found, "a")["labels+masks"] == dices(found, "a")["fitted hard"] == 0.9
    # Of b all false masks are open and no true one: still never.
    assert dices(found, "b")["labels+masks"] == 0.8
    (rule,) = fit_stage(made.spell(**stages)).rules
    assert [cut.bottom.threshold for cut in rule.cuts] == [0.5, 0.9]
    fitted = fit_stage(made.spell(labels={"run": "which"}, gate="per_image"))
    assert [cut.bottom.threshold for cut in fitted.rules[0].cuts] == [0.5, 0.5]


def test_what_is_measured_is_what_new_images_are_drawn_by(tmp_path):
    made, counts = random_night(tmp_path, kind="triplet")
    hard = made.spell(**BOTH)
    found = fit_stage(hard)
    assert found.gate is None
    probs = {
        name: Run(made.folder / name, ("m",), (0, 1)).oof()["m"].probs for name in ("any", "which")
    }
    keep = (probs["any"] >= 0.5) & (probs["which"] >= 0.5)
    pairs = cut_parts(found.rules[0], counts, made.folds).pairs
    assert dices(try_variants(hard, resamples=0))["binary+labels+masks"] == rate(pairs, keep)
    opened = counts.counts * keep[:, :, None, None]
    closed = np.concatenate([opened[..., :2], counts.counts.sum(axis=-1, keepdims=True)], axis=-1)
    closed[..., 2] = counts.counts[..., 0] + counts.counts[..., 2] - closed[..., 0]
    assert found.rules[0].cuts == choose_mask_cuts(replace(counts, counts=closed), "triplet")


def test_the_truth_of_a_part_does_not_reach_its_masks(tmp_path):
    rng = np.random.default_rng(3)
    keep = rng.random((60, 2)) < 0.6
    found = []
    for name in ("before", "after"):
        made = Night(tmp_path / name, 60)
        made.folds = (np.arange(60) % 3).astype(np.int16)
        _, counts = random_night(tmp_path / f"{name}-counts")
        if name == "after":
            # Masks as large as before, but what was hit is missed, and the reverse.
            mine = counts.counts[made.folds == 1]
            area = mine[..., 0] + mine[..., 1]
            hit = np.where(mine[..., 0] > 0, 0, area)
            truth = hit.max(axis=-1, keepdims=True)
            swapped = np.stack([hit, area - hit, truth - hit], axis=-1)
            counts.counts[made.folds == 1] = swapped
        made.draw(counts, kind="pixel")
        held = gather_held_masks(open_runs(made.spell()))
        recut = cut_present(held)
        found.append((cut_open(held, keep), recut, nest_present(held, recut)))
    (open_, present, nested), (open_too, present_too, nested_too) = found
    rows = np.arange(60) % 3 == 1
    for one, other in ((open_, open_too), (present, present_too)):
        before, after = one.masks.pairs.predicted, other.masks.pairs.predicted
        assert (before[rows] == after[rows]).all()
        assert one.rules[0].part_cuts[1] == other.rules[0].part_cuts[1]
        assert one.rules != other.rules
    # Nothing that the gate of the part is fitted on or applied to was cut by its truth.
    assert (nested[1].pairs.predicted == nested_too[1].pairs.predicted).all()


def test_what_the_gate_of_a_part_is_fitted_on_was_cut_without_both_parts(tmp_path):
    made = Night(tmp_path, 60)
    made.folds = (np.arange(60) % 3).astype(np.int16)
    _, counts = random_night(tmp_path / "counts")
    made.draw(counts)
    held = gather_held_masks(open_runs(made.spell()))
    recut = cut_present(held)
    nested = nest_present(held, recut)
    assert len(nested) == 3
    for part, masks in enumerate(nested):
        for own in range(3):
            here = np.flatnonzero(made.folds == own)
            cuts = choose_where_present(counts, np.flatnonzero(~np.isin(made.folds, [part, own])))
            expected = cut_masks(counts, cuts, here).pairs.predicted
            assert (masks.pairs.predicted[here] == expected).all()
        here = made.folds == part
        assert (recut.masks.pairs.predicted[here] == masks.pairs.predicted[here]).all()


def test_each_run_of_masks_is_cut_again_by_its_own_columns(tmp_path):
    made, counts = random_night(tmp_path, kind="pixel")
    for at, name in enumerate(AB):
        mine = replace(
            counts, counts=counts.counts[:, [at]], confidences=counts.confidences[:, [at]],
            tops=counts.tops[:, [at]],
        )  # fmt: skip
        # The second run has other folds: its masks behind a gate are cut by those of the first.
        folds = made.folds if at == 0 else made.folds[::-1]
        made.draw(mine, name=name, classes=[name], kind="pixel", folds=folds)
    keep = np.random.default_rng(1).random((60, 2)) < 0.5
    one = gather_held_masks(open_runs(made.spell()))
    two = gather_held_masks(open_runs(made.spell(masks={"run": [tmp_path / n for n in AB]})))
    (stamp,) = two.stamps
    assert stamp.startswith(f"OPTIMISTIC: {tmp_path / 'b'} has other folds than {tmp_path / 'a'}")
    for cut in (lambda held: cut_open(held, keep), cut_present):
        alone, apart = cut(one), cut(two)
        (rule,) = alone.rules
        assert tuple(each.cuts[0] for each in apart.rules) == rule.cuts
        assert [each.classes for each in apart.rules] == [("a",), ("b",)]
        assert (apart.masks.pairs.predicted == alone.masks.pairs.predicted).all()
        np.testing.assert_array_equal(apart.masks.confidences, alone.masks.confidences)
    for alone, apart in zip(
        nest_present(one, cut_present(one)), nest_present(two, cut_present(two)), strict=True
    ):
        assert (apart.pairs.intersection == alone.pairs.intersection).all()


def test_rows_of_a_single_part_are_cut_plainly(tmp_path):
    made, counts = random_night(tmp_path, kind="pixel")
    held = gather_held_masks(open_runs(made.spell()))
    held = replace(held, parts=np.zeros(60, np.intp), part_names=("0",))
    half = (MaskCut(top=counts.candidates[0], bottom=counts.candidates[0]),) * 2
    recut = cut_present(held)
    for found in (recut, cut_open(held, np.ones((60, 2), np.bool_))):
        assert (found.rules[0].kind, found.rules[0].cuts) == ("fixed", half)
    (nested,) = nest_present(held, recut)
    assert (nested.pairs.predicted == cut_masks(counts, half).pairs.predicted).all()


def test_a_gate_of_the_cascade_stands_under_the_names_of_its_stages(tmp_path):
    made, _ = random_night(tmp_path)
    plain = dices(made.compare(labels={"run": "which", "threshold": 0.5}))
    found = made.compare(labels={"run": "which"}, gate="product")
    assert dices(found)["labels+masks"] == plain["fitted product"]
    assert "fitted product" not in dices(found)
    assert "fitted top" in dices(found)
    reach = {(each.variant, each.stage): each.pairs for each in found.reach}
    assert reach["labels+masks", "masks"] < 1


def test_a_gate_behind_a_binary_stage_is_fitted_on_what_that_lets_through(tmp_path):
    made, counts = random_night(tmp_path)
    cascade = made.spell(
        binary={"run": "any", "threshold": 0.5}, labels={"run": "which"}, gate="product"
    )
    masks = cut_where_present(counts, made.folds)
    probs = {
        name: Run(made.folder / name, ("m",), (0, 1)).oof()["m"].probs for name in ("any", "which")
    }
    rows = np.flatnonzero(probs["any"][:, 0] >= 0.5)
    assert 0 < len(rows) < 60
    keep = np.zeros((60, 2), np.bool_)
    gate = fit_stage(cascade).gate
    for part in (0, 1):
        here = rows[made.folds[rows] == part]
        others = rows[made.folds[rows] != part]
        cuts = choose_where_present(counts, np.flatnonzero(made.folds != part))
        fitted = fit_gate("product", probs["which"][others], cut_masks(counts, cuts, others))
        keep[here] = apply_gate(fitted, probs["which"][here], take_masks(masks, here)).keep
    found = dices(try_variants(cascade, resamples=50))["binary+labels+masks"]
    assert found == rate(masks.pairs, keep)
    assert gate == fit_gate("product", probs["which"][rows], take_masks(masks, rows))


def test_rules_decide_each_fold_without_it(tmp_path):
    made, counts = random_night(tmp_path)
    with pytest.raises(InputError, match="there is no rule"):
        made.compare(labels={"run": "which"})
    decide(made.folder / "which", goals="recall:0.8", calibration="platt", resamples=0)
    found = made.compare(labels={"run": "which"})
    run = Run(made.folder / "which", ("m",), (0, 1))
    rules, probs = read_part_rules(run.rule_file), run.oof()["m"].probs
    keep = np.zeros((60, 2), np.bool_)
    for fold, rule in rules.items():
        rows = made.folds == int(fold)
        keep[rows] = apply_rule(rule, probs[rows], classes=AB).decisions
    hit, extra, missed = (counts.counts[:, :, 0, at] for at in range(3))
    area = hit + missed + np.where(keep, hit + extra, 0)
    dice = np.where(area > 0, 2 * np.where(keep, hit, 0) / np.maximum(area, 1), 1.0)
    assert dices(found)["labels+masks"] == pytest.approx(dice.mean())
    assert found.stamps == ()
    other = made.compare(labels={"run": "which", "rule": run.rule_file})
    assert dices(other) == dices(found)


def test_rows_are_matched_by_id_and_classes_by_name(night):
    order = [3, 1, 7, 0, 2, 6, 5, 4]
    night.classify(
        "mixed", np.array(LABELS)[order][:, ::-1], classes=AB[::-1],
        ids=[night.ids[row] for row in order], folds=night.folds[order],
    )  # fmt: skip
    mixed = night.compare(labels={"run": "mixed", "threshold": {"b": 0.5, "a": 0.15}})
    plain = night.compare(labels={"run": "which", "threshold": {"b": 0.5, "a": 0.15}})
    assert dices(mixed) == dices(plain)
    assert mixed.stamps == ()


def test_masks_of_images_that_no_classifier_held_out_are_an_error(night):
    night.classify("few", LABELS[:5], ids=night.ids[:5], folds=night.folds[:5])
    with pytest.raises(AlignmentError, match=r"3 of 8 images.*'005.png', '006.png', '007.png'"):
        night.compare(labels={"run": "few", "threshold": 0.5})
    night.classify("other", LABELS, ids=[f"img/{key}" for key in night.ids])
    with pytest.raises(AlignmentError, match=r"8 of 8 images.*by their folder"):
        night.compare(labels={"run": "other", "threshold": 0.5})


def test_images_that_only_a_classifier_knows_are_told(night):
    ids = (*night.ids, "new.png")
    folds = [*night.folds, 1]
    night.classify("more", [*LABELS, [1, 1]], ids=ids, folds=folds)
    found = night.compare(labels={"run": "more", "threshold": 0.5})
    assert "1 of its 9 images were not held out by" in " ".join(found.notes)
    assert dices(found) == dices(night.compare(labels=BOTH["labels"]))
    assert found.stamps == ()


def test_other_folds_are_a_stamp(night):
    folds = night.folds.copy()
    folds[:3] = 1 - folds[:3]
    night.classify("apart", LABELS, folds=folds)
    found = night.compare(labels={"run": "apart", "threshold": 0.5})
    (stamp,) = found.stamps
    assert stamp.startswith("OPTIMISTIC: ")
    assert "3 of 8 images" in stamp
    assert any("train both on one table of folds" in note for note in found.notes)


def test_several_runs_of_masks_stand_beside_each_other(night):
    counts = np.array(COUNTS)
    order = [1, 0, *range(2, 8)]
    night.draw(plain_counts(counts[:, [1]]), name="b", classes=["b"])
    night.draw(
        plain_counts(counts[order][:, [0]]), name="a", classes=["a"],
        ids=[night.ids[row] for row in order], folds=night.folds[order],
    )  # fmt: skip
    runs = {"run": [night.folder / "b", night.folder / "a"]}
    found = try_variants(night.spell(**BOTH) .model_copy(
        update={"masks": read_cascade({"masks": runs}).masks}), resamples=200)  # fmt: skip
    assert found.classes == ("b", "a")
    one = night.compare(**BOTH)
    for name in ("a", "b", ""):
        assert dices(found, name) == dices(one, name)
    assert found.stamps == ()
    night.draw(plain_counts(counts[:5, [0]]), name="short", classes=["a"], ids=night.ids[:5],
               folds=night.folds[:5])  # fmt: skip
    short = read_cascade({"masks": {"run": [night.folder / "b", night.folder / "short"]}})
    with pytest.raises(AlignmentError, match=r"it lacks 3 \('005.png'.*and 0 are its own"):
        try_variants(short)


def test_a_run_trained_on_all_rows_is_measured_by_the_one_it_follows(night):
    night.draw(plain_counts(COUNTS), name="all", refit_of=night.folder / "draw")
    found = try_variants(read_cascade({"masks": {"run": night.folder / "all"}}), resamples=200)
    assert dices(found) == dices(night.compare())
    assert any("was trained on all rows" in note for note in found.notes)


def test_one_fold_is_dealt_to_parts(tmp_path):
    made, _ = random_night(tmp_path)
    one = Night(tmp_path / "one", 60)
    one.folds[:] = 0
    _, counts = random_night(tmp_path / "again")
    one.draw(counts)
    probs = Run(tmp_path / "which", ("m",), (0, 1)).oof()["m"].probs
    one.classify("which", probs, targets=probs > 0.5)
    found = one.compare(labels={"run": "which", "threshold": 0.5})
    assert (
        dices(found)["labels+masks"]
        == dices(made.compare(labels={"run": "which", "threshold": 0.5}))["labels+masks"]
    )
    assert found.stamps == ()


def test_the_best_is_marked_by_the_evidence(tmp_path):
    made = Night(tmp_path, 200)
    truth = np.arange(200) % 4 == 0
    counts = np.where(truth[:, None, None], HIT, FALSE)
    made.draw(plain_counts(counts), classes=["a"])
    made.classify("any", np.where(truth, 0.9, 0.1)[:, None], classes=["defect"])
    found = made.compare(binary={"run": "any", "threshold": 0.5})
    assert found.best == found.best_by_class[0]
    assert dices(found)[found.best] == 1.0 == dices(found)["binary+masks"]
    best = next(each for each in found.trials if each.best)
    assert best.p_value < 0.05
    assert best.difference.low > 0


SHARES = st.floats(0, 1, width=32)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(SHARES, SHARES, SHARES, st.integers(1, 10**6)), min_size=4, max_size=12),
    st.randoms(use_true_random=False),
)
def test_no_gate_lets_through_what_it_closes_for_certain(rows, random):
    probs, sure, tops = (
        np.array([row[at] for row in rows], np.float32)[:, None] for at in range(3)
    )
    areas = np.array([row[3] for row in rows])[:, None]
    truth = np.array([random.randint(0, 1) for _ in rows])[:, None] * 50
    pairs = Pairs(truth=truth, predicted=areas, intersection=np.minimum(truth, areas) // 2)
    masks = CutMasks(pairs, sure, tops)
    for kind in ("none", "empty", "hard", "soft_area", "product", "top", "per_image"):
        gate = fit_gate(kind, probs, masks)
        able = may_pass(gate, probs)
        assert not (apply_gate(gate, probs, masks).keep & ~able).any(), kind


def test_gates_close_before_masks_are_drawn():
    probs = np.float32([[0.2, 0.55, np.nan]])
    assert may_pass(FittedGate(kind="product", levels=(0.3,) * 3), probs).tolist() == [
        [False, True, True]
    ]
    assert may_pass(FittedGate(kind="top", levels=(0.7,) * 3), probs).tolist() == [
        [False, True, True]
    ]
    soft = FittedGate(kind="soft_area", levels=(900.0,) * 3, factors=(5.0,) * 3)
    assert may_pass(soft, probs).all()
    sure = replace(fit_gate("per_image", probs[:, :1], CutMasks(
        Pairs(truth=np.array([[9]]), predicted=np.array([[9]]), intersection=np.array([[9]]))
    )), lines=((1.0, 0.0),) * 3)  # fmt: skip
    sure = replace(sure, expected=sure.expected * 3)
    # A mask as good as can be, of Dice 1, is worth it from 1 / 2 on.
    assert may_pass(sure, probs).tolist() == [[False, True, True]]
    assert keep_likeliest(np.zeros((1, 3), bool), probs).tolist() == [[False, True, False]]
