"""Two runs that draw masks, compared on the rows that both held out."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import loupe
from loupe.cli import main
from loupe.countfiles import CountSheet, write_counts
from loupe.dices import Pairs, measure_dice
from loupe.errors import AlignmentError, InputError, LeakageError, RunError
from loupe.margins import compare_pairs
from loupe.maskcomparing import MASK_METRICS, compare_masks
from loupe.maskcuts import PairCounts
from loupe.maskscoring import cross_fitted_masks, finish_masks, read_mask_counts
from loupe.recipe import read_recipe
from loupe.runs import Run, create_run, open_run
from loupe.table import ALWAYS_TRAINED, Table

CLASSES = ("crack", "stain")
N = 60
FOLDS = tuple(row % 3 for row in range(N))
QUICK = {"resamples": 200}


def make_truth(seed: int = 0) -> np.ndarray:
    """Areas of the given masks of N rows and two classes; about half are empty."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random((N, 2)) < 0.5, rng.integers(20, 60, (N, 2)), 0)


def make_run(
    folder: Path,
    *,
    skill: float,
    folds=FOLDS,
    classes=CLASSES,
    order=range(N),
    truth: np.ndarray | None = None,
    groups=None,
    stamps=(),
    seed: int = 1,
    finish: bool = True,
    origins=None,
    **masks,
) -> Run:
    """Make a finished run that hits a share of each given mask, about `skill`."""
    known = list(order)
    truth = make_truth() if truth is None else truth
    columns = [CLASSES.index(name) for name in classes]
    table = Table(
        ids=tuple(f"{row:03}.png" for row in known),
        images=tuple(Path(f"/nowhere/{row:03}.png") for row in known),
        classes=tuple(classes),
        targets=np.zeros((len(known), len(classes)), np.float32),
        exclusive=False,
        groups=None if groups is None else tuple(groups[row] for row in known),
        folds=np.array([folds[row] for row in known], np.int16),
        masks=(("",) * len(classes),) * len(known),
        label_origins=None if origins is None else tuple(origins[row] for row in known),
    )
    recipe = read_recipe({"decoder": {}, "masks": {"cut": "fixed", **masks}})
    run = create_run(folder, table, {"unet": recipe}, stamps)
    rng = np.random.default_rng(seed)
    candidates = recipe.masks.candidates
    falling = np.linspace(1.2, 0.6, len(candidates))
    shares = np.clip(skill + rng.normal(0, 0.1, (N, 2, 1)), 0, 0.8) * falling
    extra = rng.integers(0, 12, (N, 2, 1)) * (rng.random((N, 2, 1)) < 0.6) * falling
    hit = np.round(truth[:, :, None] * np.minimum(shares, 1)).astype(np.int32)
    counts = np.stack([hit, np.round(extra).astype(np.int32), truth[:, :, None] - hit], axis=-1)
    for fold in run.folds:
        rows = [row for row in known if folds[row] == fold]
        sheet = CountSheet(
            ids=tuple(f"{row:03}.png" for row in rows),
            classes=tuple(classes),
            folds=np.full(len(rows), fold, np.int16),
            counts=PairCounts(candidates=candidates, counts=counts[np.ix_(rows, columns)]),
        )
        write_counts(run.fold_counts(fold), sheet)
    if finish:
        finish_masks(run, table, 1.0)
    return open_run(folder)


def read_pairs(run: Run, ids, classes) -> Pairs:
    """Return the masks of some rows and classes, found by name."""
    sheet, masks = read_mask_counts(run), cross_fitted_masks(run).pairs
    rows = [sheet.ids.index(key) for key in ids]
    at = np.ix_(rows, [sheet.classes.index(name) for name in classes])
    return Pairs(
        truth=masks.truth[at], predicted=masks.predicted[at], intersection=masks.intersection[at]
    )


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "good", skill=0.7)


@pytest.fixture(scope="module")
def weak(tmp_path_factory):
    """The folds, rows and classes of the good run."""
    return make_run(tmp_path_factory.mktemp("runs") / "weak", skill=0.4)


@pytest.fixture(scope="module")
def poor(tmp_path_factory):
    """Other folds, rows and classes in another order, ten rows that are always trained on."""
    folds = [ALWAYS_TRAINED if row < 10 else (row // 5) % 2 for row in range(N)]
    return make_run(
        tmp_path_factory.mktemp("runs") / "poor",
        skill=0.3,
        folds=folds,
        classes=CLASSES[::-1],
        order=np.random.default_rng(5).permutation(N),
        cut="pixel",
        seed=2,
    )


def test_rows_and_classes_are_joined_by_name(good, poor):
    found = compare_masks(good, poor, names=("good", "poor"), **QUICK)
    ids = [f"{row:03}.png" for row in range(10, N)]
    one, other = (read_pairs(run, ids, CLASSES) for run in (good, poor))
    assert (one.truth == other.truth).all()
    gap = measure_dice(one) - measure_dice(other)
    assert (found.rows, found.groups) == (50, 50)
    assert found.differences[0].value == pytest.approx(gap.mean())
    assert [name for name, _ in found.by_class] == list(CLASSES)
    assert [each.value for _, each in found.by_class] == pytest.approx(gap.mean(axis=0))
    means = gap.mean(axis=1)
    assert (found.only_a, found.only_b) == ((means > 0).sum(), (means < 0).sum())
    assert found.only_b > 0
    assert [each.metric for each in found.differences] == list(MASK_METRICS)
    for each in found.differences:
        assert each == compare_pairs(one, other, metric=each.metric, **QUICK)[0]
    assert found.mcnemar == ()
    assert found.verdict.startswith("good is better: +")
    assert found.verdict.endswith(", 50 rows")
    assert f"10 rows are in {good.folder} alone and play no part" in found.notes
    assert not any(f"in {poor.folder} alone" in note for note in found.notes)
    assert any("fixed in good, pixel in poor" in note for note in found.notes)


def test_the_other_way_round_the_signs_turn(good, poor):
    found, turned = (compare_masks(*pair, **QUICK) for pair in ((good, poor), (poor, good)))
    for one, other in zip(found.differences, turned.differences, strict=True):
        assert one.value == pytest.approx(-other.value)
    assert (turned.only_a, turned.only_b) == (found.only_b, found.only_a)
    assert turned.verdict.startswith("B is better: +")


def test_a_run_equals_itself(good):
    found = compare_masks(good, good, **QUICK)
    assert {each.value for each in found.differences} == {0.0}
    assert (found.only_a, found.only_b, found.rows) == (0, 0, N)
    assert found.verdict.startswith("no evidence of a difference")


def test_the_score_that_decides_can_be_chosen(good, poor):
    found = compare_masks(good, poor, metric="dice_nonempty", **QUICK)
    assert found.differences[0].metric == "dice_nonempty"
    assert "points dice nonempty" in found.verdict
    assert sorted(each.metric for each in found.differences) == sorted(MASK_METRICS)
    for wrong in ("accuracy", "all_empty"):
        with pytest.raises(InputError, match=rf"'{wrong}' does not compare masks.*dice_micro"):
            compare_masks(good, poor, metric=wrong, **QUICK)


def test_classes_of_one_run_alone_play_no_part(good, tmp_path):
    alone = make_run(tmp_path / "alone", skill=0.5, classes=("stain",))
    found = compare_masks(good, alone, **QUICK)
    assert [name for name, _ in found.by_class] == ["stain"]
    assert found.differences[0].value == found.by_class[0][1].value
    assert f"{good.folder} alone draws 'crack', which play no part" in found.notes
    crack = make_run(tmp_path / "crack", skill=0.5, classes=("crack",))
    with pytest.raises(AlignmentError, match="have a class in common"):
        compare_masks(alone, crack)


def test_other_given_masks_are_refused(good, tmp_path):
    truth = make_truth()
    row = int(np.flatnonzero(truth[:, 1])[3])
    truth[row, 1] += 7
    other = make_run(tmp_path / "other", skill=0.5, truth=truth, size=[40, 50])
    told = rf"1 given mask\(s\).*'{row:03}\.png', class 'stain': {truth[row, 1] - 7} and"
    with pytest.raises(AlignmentError, match=told) as caught:
        compare_masks(good, other)
    assert "of each image (height x width) and 40 x 50" in str(caught.value)


def test_runs_without_a_common_row_are_refused(good, tmp_path):
    folds = [ALWAYS_TRAINED] * 50 + [0] * 10
    early = make_run(tmp_path / "early", skill=0.5, folds=folds)
    late = make_run(tmp_path / "late", skill=0.5, folds=[1] * 10 + [ALWAYS_TRAINED] * 50)
    assert compare_masks(good, early, **QUICK).rows == 10
    with pytest.raises(AlignmentError, match="share no row"):
        compare_masks(early, late)


def test_groups_of_both_runs_are_drawn_together(tmp_path):
    pairs = [f"p{row // 2}" for row in range(N)]
    shifted = [f"q{(row + 1) // 2}" if row < 8 else str(row) for row in range(N)]
    folds = [0 if row < 30 else 1 for row in range(N)]
    one = make_run(tmp_path / "one", skill=0.6, folds=folds, groups=pairs)
    other = make_run(tmp_path / "other", skill=0.4, folds=folds, groups=shifted)
    found = compare_masks(one, other, **QUICK)
    # Pairs alone make 30; the first eight rows are one chain.
    assert found.groups == 30 - 3
    assert found.verdict.endswith("60 rows in 27 groups")
    assert compare_masks(one, one, **QUICK).groups == 30
    assert compare_masks(one, other, group="given", **QUICK).groups == 27
    with pytest.raises(LeakageError, match="--group none"):
        compare_masks(one, other, group="none", **QUICK)
    alone = compare_masks(one, other, group="none", allow_leak=True, **QUICK)
    assert alone.groups == N
    assert alone.stamps[0].startswith("LEAK")


def test_groups_of_one_that_cross_the_folds_of_the_other_are_refused(good, tmp_path):
    folds = [0 if row < 30 else 1 for row in range(N)]
    pairs = [f"p{row // 2}" for row in range(N)]
    grouped = make_run(tmp_path / "grouped", skill=0.5, folds=folds, groups=pairs)
    with pytest.raises(LeakageError, match=r"good: 30 group\(s\) stand in more than one fold"):
        compare_masks(grouped, good)
    found = compare_masks(grouped, good, allow_leak=True, **QUICK)
    assert any(stamp.startswith("LEAK") for stamp in found.stamps)


def test_stamps_of_both_runs_stay(good, tmp_path):
    stamped = make_run(tmp_path / "stamped", skill=0.5, stamps=["LEAK: told"])
    assert compare_masks(good, stamped, **QUICK).stamps == ("LEAK: told",)
    assert compare_masks(good, good, **QUICK).stamps == ()


def test_runs_that_counted_nothing_are_refused(good, tmp_path):
    open_jobs = make_run(tmp_path / "open", skill=0.5, finish=False)
    with pytest.raises(RunError, match="training has not finished"):
        compare_masks(good, open_jobs)
    refit = create_run(
        tmp_path / "all",
        good.table(),
        {"unet": good.member("unet").recipe()},
        refit_of=good.folder,
    )
    with pytest.raises(RunError, match="trained on all rows"):
        compare_masks(good, refit)


def test_the_verb_takes_two_of_one_kind(good, poor, tmp_path):
    found = loupe.compare(good, poor.folder, **QUICK)
    assert found == compare_masks(good, poor, names=("good", "poor"), **QUICK)
    plain = create_run(
        tmp_path / "plain",
        replace(good.table(), masks=None),
        {"net": read_recipe({"network": {"name": "test_resnet", "pretrained": False}})},
    )
    file = tmp_path / "preds.csv"
    file.write_text("id,crack,stain\n000.png,0.5,0.5\n")
    for other in (plain.folder, file):
        for pair in ((good.folder, other), (other, good.folder)):
            with pytest.raises(RunError) as caught:
                loupe.compare(*pair)
            assert f"{good.folder} draws masks and {other} does not" in str(caught.value)
    with pytest.raises(InputError, match="--table"):
        loupe.compare(good, poor, good.table())


def test_the_command_shows_no_empty_grid(good, poor, monkeypatch, capsys):
    arguments = ("compare", good.folder, poor.folder, "--resamples", "100")
    monkeypatch.setattr(sys, "argv", ["loupe", *map(str, arguments)])
    main()
    told = capsys.readouterr().out
    assert "good against poor on 50 rows that both held out" in told
    assert "McNemar" not in told
    assert "dice_per_pair_empty1" in told
    lines = [line.split() for line in told.splitlines()]
    assert {"crack", "stain"} <= {line[0] for line in lines if line}
    assert "rows by the higher Dice: good " in told
    assert "good is better" in told.splitlines()[-1]


def test_a_run_on_a_cleaned_table_is_proven(weak, tmp_path):
    origins = ["dropped by rule" if row % 6 == 0 else "" for row in range(N)]
    after = make_run(tmp_path / "after", skill=0.8, origins=origins, seed=4)
    found = compare_masks(weak, after, **QUICK)
    assert found.proof is not None
    total, free = found.proof.sections
    assert (total.kind, total.rows, free.kind, free.rows) == ("given", N, "untouched", N - 10)
    ids = [f"{row:03}.png" for row in range(N) if row % 6]
    one, other = (read_pairs(run, ids, CLASSES) for run in (weak, after))
    assert free.before == pytest.approx(measure_dice(one).mean())
    assert free.after == pytest.approx(measure_dice(other).mean())
    assert free.difference.value == pytest.approx(free.after - free.before)
    assert total.difference.value == pytest.approx(-found.differences[0].value)
    assert found.proof.answer == "helped"
    assert found.verdict == found.proof.verdict
    assert "rules alone dropped or changed 10 row(s)" in found.proof.remarks[0]


def test_redrawn_masks_play_no_part_in_a_proof(weak, tmp_path):
    truth = make_truth()
    truth[:5] = 0
    origins = ["relabelled by review, was crack" if row < 5 else "" for row in range(N)]
    after = make_run(tmp_path / "after", skill=0.8, truth=truth, origins=origins, seed=4)
    found = compare_masks(weak, after, **QUICK)
    assert found.rows == N - 5
    assert found.proof is not None
    assert found.proof.answer == "unclear"
    assert found.proof.remarks[0].startswith("5 row(s) have other masks after cleaning")
    assert found.verdict.endswith("no proof: rows are missing")
    shifted = [(row + 1) % 3 for row in range(N)]
    moved = make_run(tmp_path / "moved", skill=0.8, folds=shifted, origins=origins)
    with pytest.raises(AlignmentError, match=r"60 shared row\(s\) are in another fold"):
        compare_masks(weak, moved)
