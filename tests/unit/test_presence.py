"""What probabilities of any origin say of the images of a submission."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from loupe.aligning import ABSENT
from loupe.calibration import Calibration, calibrate
from loupe.decisions import decide, place_rule
from loupe.errors import AlignmentError, InputError
from loupe.predictions import Predictions, write_predictions
from loupe.presence import (
    Cut,
    Source,
    ask,
    find_cut,
    match_rows,
    open_source,
    read_cut,
    tell_unmatched,
)
from loupe.recipe import read_recipe
from loupe.rules import Rule, apply_rule, plain_rule, read_part_rules
from loupe.runs import Run, create_run, open_run
from loupe.table import Table
from loupe.testing import make_predictions

NAN = float("nan")
AB = ("a", "b")
N = 120


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """A finished run without networks, and its rule."""
    folder = tmp_path_factory.mktemp("runs") / "night"
    made = make_predictions(N, 2, folds=4, quality=0.7, seed=1)
    ids = tuple(f"{row:03}.png" for row in range(N))
    table = Table(
        ids=ids,
        images=tuple(Path("x") / key for key in ids),
        classes=AB,
        targets=made.targets,
        exclusive=False,
        folds=made.folds,
    )
    trained = create_run(folder, table, {"m": read_recipe({"stages": [{"epochs": 1}]})})
    sheet = Predictions(
        ids=ids,
        classes=AB,
        probs=made.probs,
        exclusive=False,
        held_out=np.ones(N, np.bool_),
        folds=made.folds,
    )
    write_predictions(trained.oof_file, {"m": sheet})
    trained.scores_file.write_text("{}", encoding="utf-8")
    decide(folder, goals="recall:0.9", calibration="platt", resamples=0)
    return open_run(folder)


def source(probs, *, classes=AB, ids=None, **more) -> Source:
    sheet = np.asarray(probs, np.float32)
    names = tuple(f"{n}.png" for n in range(len(sheet))) if ids is None else tuple(ids)
    return Source(place="p.csv", ids=names, classes=classes, probs=sheet, **more)


def rule(*levels, classes=AB, **more) -> Rule:
    return replace(plain_rule(classes, exclusive=False), thresholds=levels, **more)


@pytest.mark.parametrize(
    "spell", [lambda run: run, lambda run: run.folder, lambda r: str(r.folder)]
)
def test_a_run_gives_its_held_out_rows_and_the_rules_of_their_folds(run, spell):
    cut = find_cut(spell(run), needed=True)
    found = open_source(spell(run), AB, (cut,))
    ids = (*reversed(found.ids), "new.png")
    said = ask(found, cut, AB, match_rows(found, ids))
    oof = run.oof()["m"]
    rules = read_part_rules(run.rule_file)
    assert len({each.thresholds for each in rules.values()}) > 1
    for row, (key, fold) in enumerate(zip(oof.ids, oof.folds, strict=True)):
        decided = apply_rule(rules[str(fold)], oof.probs[[row]], classes=AB)
        at = ids.index(key)
        assert (said.there[at] == decided.decisions[0]).all()
        assert (said.probs[at] == decided.probs[0]).all()
    assert said.asked.tolist() == [True] * N + [False]
    assert not said.there[-1].any()
    assert np.isnan(said.probs[-1]).all()
    assert said.stamps == ()


def test_new_rows_beside_held_out_ones_are_decided_by_the_whole_rule(run):
    cut = read_cut(run.rule_file, None, "recall")
    oof = run.oof()["m"]
    found = Source(
        place=str(run.folder),
        ids=("new", *oof.ids[:7]),
        classes=AB,
        probs=oof.probs[[0, *range(7)]],
        parts=np.array([0, *(oof.folds[:7] + 1)]),
        part_names=("-1", "0", "1", "2", "3"),
    )
    said = ask(found, cut, AB, np.arange(8))
    rules = read_part_rules(run.rule_file)
    whole = apply_rule(cut.rule, oof.probs[[0]], classes=AB)
    assert said.probs[0].tolist() == whole.probs[0].tolist()
    for row, fold in enumerate(oof.folds[:7], 1):
        decided = apply_rule(rules[str(fold)], oof.probs[[row - 1]], classes=AB)
        assert said.probs[row].tolist() == decided.probs[0].tolist()
    assert said.stamps == ()


def test_a_run_knows_nothing_of_other_images_and_says_how_to_go_on(run):
    found = open_source(run, AB, ())
    with pytest.raises(AlignmentError, match=r"none of the 2 images.*loupe predict .*night IMAGES"):
        match_rows(found, ["new/1.jpg", "new/2.jpg"])


def test_a_rule_of_other_rows_is_applied_as_it_is(run):
    cut = read_cut(run.rule_file, None, "recall")
    other = source(np.full((4, 2), 0.5), parts=np.arange(4), part_names=("0", "1", "2", "3"))
    said = ask(other, cut, AB, np.arange(4))
    # The calibrations of the folds differ, so their probabilities would, too.
    assert (said.probs == apply_rule(cut.rule, other.probs, classes=AB).probs).all()
    assert len(np.unique(said.probs[:, 0])) == 1
    assert said.stamps == ()
    same = ask(replace(other, place=str(run.folder)), cut, AB, np.arange(4))
    assert len(np.unique(same.probs[:, 0])) == 4


def test_columns_are_matched_by_name_and_calibrated_once():
    calibration = Calibration(kind="platt", slopes=(2.0, 0.5), intercepts=(0.5, -1.0))
    given = np.float32([[0.3, 0.9], [0.6, 0.2]])
    cut = Cut(rule=rule(0.4, 0.3, calibration=calibration))
    mapped = calibrate(calibration, given, exclusive=False)
    said = ask(source(given), cut, ("b", "a"), np.array([1, ABSENT, 0]))
    assert said.probs[[0, 2]].tolist() == mapped[[1, 0]][:, ::-1].tolist()
    expected = mapped >= np.float32([0.4, 0.3])
    assert said.there[[0, 2]].tolist() == expected[[1, 0]][:, ::-1].tolist()
    assert said.asked.tolist() == [True, False, True]


def test_rows_that_were_not_predicted_are_not_asked():
    found = source([[0.9, 0.9], [NAN, NAN]])
    at = np.array([0, 1, ABSENT])
    for cut in (Cut(levels=0.0), Cut(rule=rule(0.0, 0.0)), Cut()):
        said = ask(found, cut, AB, at)
        assert said.asked.tolist() == [True, False, False]
        assert not said.there[1:].any()
        assert np.isnan(said.probs[1:]).all()
    told = tell_unmatched(found, ["0.png", "1.png", "z.png"], at)
    assert len(told) == 2
    assert "1 of 3 images have no probability and stay as they are: 'z.png'." in told[0]
    assert "1 images could not be predicted and stay as they are: '1.png'" in told[1]
    told = tell_unmatched(found, ["0.png"], np.array([0]))
    assert told == ("p.csv: 1 images are not in the submission",)


def test_nothing_given_decides_nothing():
    said = ask(source([[0.9, 0.1]]), Cut(), AB, np.array([0]))
    assert not said.there.any()
    assert said.probs.tolist() == np.float32([[0.9, 0.1]]).tolist()


def test_a_missing_rule_is_named_if_one_is_needed(tmp_path):
    probs = tmp_path / "p.csv"
    with pytest.raises(InputError, match=r"p\.rule\.json.*--rule.*--threshold"):
        find_cut(probs, needed=True)
    assert not find_cut(probs, needed=False).given
    assert place_rule(probs).name == "p.rule.json"


def test_one_column_of_another_name_tells_of_all_classes():
    found = source([[0.9], [0.2], [NAN]], classes=("defect",))
    at = np.array([1, 0, ABSENT, 2])
    for cut in (
        Cut(levels=0.5),
        Cut(levels={"defect": 0.5}),
        Cut(levels={"": 0.5}),
        Cut(rule=rule(0.5, classes=("defect",))),
    ):
        said = ask(found, cut, AB, at)
        assert said.shared
        assert said.there.tolist() == [[False] * 2, [True] * 2, [False] * 2, [False] * 2]
        assert said.probs[:2].tolist() == np.float32([[0.2] * 2, [0.9] * 2]).tolist()
        assert said.asked.tolist() == [True, True, False, False]
        assert "'defect' is taken for the presence of any of the 2 classes" in said.notes[0]
    single = ask(found, Cut(levels={"defect": 0.95, "b": 0.1}), AB, at)
    assert single.there[:2].tolist() == [[False, True], [False, True]]
    assert not ask(found, Cut(levels=0.5), ("a",), at).shared
    # A column of the name of a class says nothing of the others.
    with pytest.raises(AlignmentError, match=r"1 of 2 classes.*'b'"):
        ask(source([[0.5]], classes=("a",)), Cut(levels=0.5), AB, np.array([0]))


def test_a_file_with_one_column_of_another_name_is_read(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("id,defect\n1.png,0.9\n2.png,0.2\n", encoding="utf-8")
    found = open_source(path, AB, (Cut(levels=0.5),))
    assert found.classes == ("defect",)
    assert ask(found, Cut(levels=0.5), AB, match_rows(found, ["2.png"])).there.tolist() == [
        [False, False]
    ]
    for text in ("id,a\n1.png,0.9\n", "id,x,y\n1.png,0.9,0.5\n"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(AlignmentError, match="of 2 classes have no column: "):
            open_source(path, AB, (Cut(levels=0.5),))


def test_a_class_without_a_probability_is_named_with_a_suggestion():
    with pytest.raises(AlignmentError, match=r"1 of 2 classes.*'bees'; did you mean 'bee'"):
        ask(
            source([[0.5, 0.5]], classes=("a", "bee")),
            Cut(levels=0.5),
            ("a", "bees"),
            np.array([0]),
        )


def test_a_threshold_of_a_class_without_masks_says_nothing_here():
    sheet = Predictions(
        ids=("a", "b"),
        classes=("crack", "ok"),
        probs=np.float32([[0.6, 0.1], [0.3, 0.9]]),
        exclusive=False,
        held_out=np.zeros(2, np.bool_),
    )
    source = open_source(sheet, ("crack",), ())
    said = ask(source, Cut(levels={"crack": 0.4, "ok": 0.5}), ("crack",), np.arange(2))
    assert said.there.tolist() == [[True], [False]]
    with pytest.raises(InputError, match="no class 'crakc'; did you mean 'crack'"):
        ask(source, Cut(levels={"crakc": 0.4}), ("crack",), np.arange(2))
