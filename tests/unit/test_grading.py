"""A rule on rows never trained on: decided as it says, scored with what has a prediction."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image

from loupe.calibration import Calibration, calibrate
from loupe.conformal import fit_conformal, predict_sets
from loupe.deciding import decide_evidence, write_decision
from loupe.errors import AlignmentError, InputError, LeakageError, TableError
from loupe.evidence import make_evidence
from loupe.files import write_json
from loupe.goals import Request
from loupe.grading import Graded, write_graded
from loupe.grading import score as grade
from loupe.intervals import Score, score
from loupe.predictions import Predictions
from loupe.recipe import read_recipe
from loupe.rules import Rule, apply_rule, plain_rule, pool_rows, rule_to_dict
from loupe.runs import Run, create_run
from loupe.sheetfiles import write_sheet_file
from loupe.table import HOLDOUT, Quarantined, Table
from loupe.testing import make_predictions

NAN = float("nan")


def make_table(targets, *, exclusive=False, start=0, **more) -> Table:
    values = np.asarray(targets, np.float32)
    names = [f"{start + row}.png" for row in range(len(values))]
    return Table(
        ids=tuple(names),
        images=tuple(Path("nowhere") / name for name in names),
        classes=tuple("abcd"[: values.shape[1]]),
        targets=values,
        exclusive=exclusive,
        **more,
    )


@dataclass(frozen=True)
class Model:
    """A run without weights; what it says of each image is set by hand."""

    folder: Path
    patch: pytest.MonkeyPatch

    def __call__(self, table: Table, probs, *, errors=()) -> Run:
        trained = make_table(table.targets, exclusive=table.exclusive, start=1000)
        trained = replace(trained, folds=(np.arange(len(trained)) % 2).astype(np.int16))
        run = create_run(self.folder / "run", trained, {"m": read_recipe({})})
        said = dict(zip(table.ids, np.asarray(probs, np.float32), strict=True))
        why = dict(errors)

        def predict(run: Run, new: Table, device: str, reporter: object) -> Predictions:
            return Predictions(
                ids=new.ids,
                classes=trained.classes,
                probs=np.array([said[key] for key in new.ids]),
                exclusive=trained.exclusive,
                held_out=np.ones(len(new), np.bool_),
                errors=tuple(why.get(key) for key in new.ids),
            )

        self.patch.setattr("loupe.fresh._predict", predict)
        return run


@pytest.fixture
def model(tmp_path, monkeypatch) -> Model:
    return Model(tmp_path, monkeypatch)


def simulate(n=120, classes=3, *, exclusive=False, groups=None, seed=0):
    made = make_predictions(n, classes, exclusive=exclusive, groups=groups, seed=seed)
    names = None if groups is None else tuple(f"part {g:03}" for g in made.groups)
    return make_table(made.targets, exclusive=exclusive, groups=names), made.probs


def look(source, table, **more) -> Graded:
    return grade(source, table, **({"group": "given", "resamples": 50} | more))


def main_values(graded: Graded) -> dict[tuple[str, str], float]:
    return {(each.metric, each.class_name): each.value for each in graded.scores}


def check_equal(found: Sequence[Score], wanted: Sequence[Score]) -> None:
    assert [(s.metric, s.class_name) for s in found] == [(s.metric, s.class_name) for s in wanted]
    numbers = [[(s.value, s.low, s.high, s.n) for s in scores] for scores in (found, wanted)]
    assert_allclose(*numbers, rtol=1e-9)


@pytest.mark.parametrize("exclusive", [False, True])
def test_scores_are_those_of_the_rule_applied(model, exclusive):
    table, probs = simulate(exclusive=exclusive, groups=40)
    cool = Calibration(kind="temperature", temperature=1.7)
    rule = replace(plain_rule(table.classes, exclusive=exclusive), calibration=cool)
    if not exclusive:
        rule = replace(rule, thresholds=(0.3, 0.5, 0.6))
    graded = look(model(table, probs), table, rule=rule)
    decided = apply_rule(rule, probs, classes=table.classes)
    assert_allclose(graded.predictions.probs, calibrate(cool, probs, exclusive=exclusive))
    assert np.array_equal(graded.decisions, decided.decisions)
    wanted = score(
        table.targets,
        decided.probs,
        exclusive=exclusive,
        classes=table.classes,
        groups=table.groups,
        decisions=decided.decisions,
        resamples=50,
    )
    check_equal(graded.scores, wanted)
    assert (graded.rows, graded.unread, graded.rejected) == (120, (), 0)
    assert graded.stamps == ()
    assert (graded.confusion is None) is not exclusive


def test_only_the_hold_out_is_asked_about(model):
    table, probs = simulate()
    folds = np.where(np.arange(120) < 30, HOLDOUT, 0).astype(np.int16)
    graded = look(model(table, probs), replace(table, folds=folds))
    assert graded.rows == len(graded.predictions) == 30
    assert graded.notes[0] == "30 of 120 rows, those kept apart, are scored"
    assert "no fitted rule" in graded.notes[1]


def test_rows_trained_on_are_refused_before_anything_is_predicted(model, monkeypatch):
    table, probs = simulate()
    run = model(table, probs)

    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("loupe.fresh._predict", refuse)
    with pytest.raises(LeakageError, match=r"120 of these 120 rows: '1000\.png'"):
        look(run, run.table())
    few = run.table().select([0, 1])
    with pytest.raises(AlignmentError, match="the rule is for z"):
        look(run, few, rule=plain_rule("z", exclusive=False))


def test_an_allowed_leak_is_stamped(model):
    table, probs = simulate()
    seen = replace(table, ids=("1000.png", *table.ids[1:]))
    graded = look(model(seen, probs), seen, allow_leak=True)
    assert graded.stamps[0].startswith("LEAK: ")
    assert graded.predictions.held_out.tolist() == [False] + [True] * 119


def test_rows_without_a_prediction_are_listed_and_left_out(model):
    table, probs = simulate()
    table = replace(table, quarantined=(Quarantined(id="bad", reason="set aside"),))
    probs = probs.copy()
    probs[[3, 7]] = NAN
    run = model(table, probs, errors=[("3.png", "truncated")])
    graded = look(run, table)
    assert graded.unread == (
        ("3.png", "truncated"), ("7.png", "not predicted"), ("bad", "set aside"),
    )  # fmt: skip
    assert "3 row(s) have no prediction; the scores leave them out" in graded.notes
    assert graded.rows == graded.scores[0].n == 118
    kept = np.setdiff1d(np.arange(120), [3, 7])
    alone = look(run, replace(table, quarantined=()).select(kept))
    assert main_values(graded) == pytest.approx(main_values(alone), nan_ok=True)
    assert graded.predictions.ids == (*table.ids, "bad")
    assert np.flatnonzero(graded.review).tolist() == [3, 7, 120]
    assert graded.decisions.shape == (121, 3)
    assert not graded.decisions[[3, 7, 120]].any()
    with pytest.raises(InputError, match=r"none of the 2 rows has a prediction.*truncated"):
        look(run, table.select([3, 7]))


def test_rejected_rows_stand_in_no_cell_of_the_confusion(model):
    table = make_table(np.eye(2)[[0, 0, 1, 1]], exclusive=True)
    run = model(table, [[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.1, 0.9]])
    rule = replace(plain_rule("ab", exclusive=True), reject=0.7)
    graded = look(run, table, rule=rule)
    assert graded.confusion is not None
    assert graded.confusion.tolist() == [[1, 1], [0, 1]]
    assert (graded.rejected, graded.reviewed) == (0.25, 0.25)
    strict = look(run, table, rule=replace(rule, reject=0.95))
    assert strict.confusion is not None
    assert strict.confusion.tolist() == [[0, 0], [0, 0]]
    assert strict.rejected == 1


def test_one_column_has_a_confusion_of_absent_and_present(model):
    table = make_table([[1], [0], [1], [0], [0]])
    graded = look(model(table, [[0.9], [0.1], [0.2], [0.6], [0.3]]), table)
    assert graded.confusion is not None
    assert graded.confusion.tolist() == [[2, 1], [1, 1]]
    assert graded.rejected == 0


@pytest.mark.parametrize("exclusive", [False, True])
def test_a_group_is_decided_once(model, exclusive):
    table, probs = simulate(exclusive=exclusive, groups=40)
    rule = plain_rule(table.classes, exclusive=exclusive)
    graded = look(model(table, probs), table, pool="auto", rule=rule)
    assert graded.pool == ("mean" if exclusive else "max")
    numbers = np.unique(np.array(table.groups), return_inverse=True)[1]
    pooled = pool_rows(probs, numbers, graded.pool)
    wanted = score(
        pool_rows(table.targets, numbers, "max"),
        pooled,
        exclusive=exclusive,
        classes=table.classes,
        resamples=50,
    )
    check_equal(graded.scores, wanted)
    assert graded.rows == 40
    assert graded.predictions.ids == tuple(sorted(set(table.groups or ())))
    decided = apply_rule(
        replace(rule, pool=graded.pool), probs, classes=table.classes, groups=numbers
    )
    assert np.array_equal(graded.decisions[numbers], decided.decisions)
    assert any("fitted for single rows" in note for note in graded.notes)


def test_a_rule_for_groups_decides_groups_without_being_asked(model):
    table, probs = simulate(groups=40)
    run = model(table, probs)
    rule = replace(plain_rule("abc", exclusive=False), pool="mean")
    for pool in ("", "auto"):
        assert look(run, table, rule=rule, pool=pool).pool == "mean"
    assert look(run, table, rule=rule, pool="max").pool == "max"
    lone = replace(table, groups=None)
    for more in ({"rule": rule}, {"pool": "max"}):
        with pytest.raises(TableError, match="--group-column NAME"):
            look(run, lone, **more)
    with pytest.raises(InputError, match="'median'"):
        look(run, table, pool="median")


def test_groups_that_are_partly_unread_are_decided_by_the_rest(model):
    table = make_table([[1], [1], [0], [0]], groups=("p", "p", "q", "r"))
    graded = look(model(table, [[0.9], [NAN], [0.1], [NAN]]), table, pool="max")
    assert graded.decisions[:, 0].tolist() == [True, False, False]
    assert graded.review.tolist() == [False, False, True]
    assert [key for key, _ in graded.unread] == ["1.png", "3.png"]
    assert graded.rows == 2


@pytest.mark.parametrize("exclusive", [False, True])
def test_the_coverage_of_prediction_sets_is_measured(model, exclusive):
    table, probs = simulate(400, exclusive=exclusive)
    cut = fit_conformal(
        table.targets[:200],
        probs[:200],
        np.arange(200),
        exclusive=exclusive,
        coverage=0.8,
        classes=table.classes,
    )
    rule = replace(plain_rule(table.classes, exclusive=exclusive), conformal=cut)
    new = table.select(range(200, 400))
    graded = look(model(table, probs), new, rule=rule)
    sets = predict_sets(cut, probs[200:], exclusive=exclusive)
    there = new.targets[:, 0] >= 0.5
    held = sets[there, 0] if exclusive else sets[there, 0, 1]
    found = {(each.class_name, each.side): each.covered for each in graded.coverage}
    assert found["a", "present"] == pytest.approx(held.mean())
    assert 0 < graded.reviewed < 1


def test_the_columns_of_rule_model_and_table_are_matched_by_name(model):
    table, probs = simulate(300, exclusive=True)
    run = model(table, probs)
    cut = fit_conformal(
        table.targets, probs, np.arange(300), exclusive=True, coverage=0.7, classes=table.classes
    )
    rule = replace(plain_rule("abc", exclusive=True), conformal=cut)
    turned = Rule(
        classes=("c", "a", "b"),
        exclusive=True,
        conformal=replace(cut, present=tuple(np.array(cut.present)[[2, 0, 1]].tolist())),
        goals=rule.goals,
    )
    mixed = replace(table, classes=("b", "c", "a"), targets=table.targets[:, [1, 2, 0]])
    one, other = look(run, table, rule=rule), look(run, mixed, rule=turned)
    assert main_values(one) == pytest.approx(main_values(other), nan_ok=True)
    assert {c.class_name: c.covered for c in one.coverage} == pytest.approx(
        {c.class_name: c.covered for c in other.coverage}
    )
    rows = np.flatnonzero(table.targets[:, 2] == 0)
    fewer = replace(table.select(rows), classes=("a", "b"), targets=table.targets[rows][:, :2])
    graded = look(run, fewer, rule=rule)
    assert "no row of the table is of class c" in graded.notes
    assert np.isnan(main_values(graded)["recall", "c"])


def decide(path: Path, *, seed=1, pool="", **origin: str) -> None:
    made = make_predictions(300, 3, seed=seed, groups=100)
    evidence = make_evidence(
        made.targets,
        [made.probs],
        exclusive=False,
        classes=tuple("abc"),
        folds=made.folds,
        groups=made.groups,
    )
    request = Request(calibration="none", pool=pool)
    write_decision(decide_evidence(evidence, request, resamples=100), path, **origin)


def test_the_rule_of_the_run_is_followed_and_held_to_its_promise(model):
    table, probs = simulate(300, seed=5)
    run = model(table, probs)
    decide(run.rule_file)
    graded = look(run, table)
    assert graded.promise is not None
    assert graded.promise.metric == "average_precision"
    assert "as expected" in graded.promise.verdict
    assert graded.promise.verdict in graded.notes
    assert graded.promise.value == graded.scores[0].value
    poor = np.random.default_rng(0).permutation(probs)
    worse = look(model(table, poor), table)
    assert worse.promise is not None
    assert "lower than cross-validation promised" in worse.promise.verdict
    other = plain_rule("abc", exclusive=False)
    assert look(run, table, rule=other).promise is None


def test_groups_are_not_held_to_a_promise_for_rows(model):
    table, probs = simulate(300, groups=100, seed=5)
    run = model(table, probs)
    decide(run.rule_file)
    rows = look(run, table, pool="max")
    assert (rows.promise, rows.kept) == (None, ())
    decide(run.rule_file, pool="max")
    pooled = look(run, table)
    assert pooled.promise is not None
    assert len(pooled.kept) == 3


@pytest.fixture
def write(tmp_path) -> Callable[..., Path]:
    def make(table: Table, probs, *, held_out: bool = True, name: str = "preds.csv") -> Path:
        rows = np.random.default_rng(0).permutation(len(table))
        sheet = Predictions(
            ids=tuple(table.ids[row] for row in rows),
            classes=table.classes,
            probs=probs[rows],
            exclusive=table.exclusive,
            held_out=np.full(len(table), held_out),
        )
        write_sheet_file(tmp_path / name, sheet)
        return tmp_path / name

    return make


@pytest.mark.parametrize("exclusive", [False, True])
def test_a_predictions_file_is_matched_by_id(model, write, exclusive):
    table, probs = simulate(exclusive=exclusive)
    path = write(table, probs)
    some = table.select(range(20, 90))
    graded, wanted = look(path, some), look(model(table, probs), some)
    assert graded.predictions.ids == some.ids
    assert main_values(graded) == pytest.approx(main_values(wanted), abs=1e-4, nan_ok=True)
    assert graded.source == str(path)


def test_rows_of_a_file_are_drawn_by_given_groups_or_as_copies(write, tmp_path):
    table, probs = simulate(groups=30)
    path = write(table, probs)
    found = look(path, table)
    check_equal(found.scores, look(path, table, group="auto").scores)
    alone = look(path, replace(table, groups=None))
    check_equal(alone.scores, look(path, table, group="none").scores)
    assert [s.low for s in found.scores] != [s.low for s in alone.scores]
    pixels = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    places = []
    for row in range(120):
        places.append(tmp_path / f"{row}.png")
        Image.fromarray(pixels[row % 40]).save(places[-1])
    copied = replace(table, images=tuple(places), groups=tuple(str(r % 40) for r in range(120)))
    wanted = look(path, copied)
    check_equal(look(path, replace(copied, groups=None), group="auto").scores, wanted.scores)


def test_rows_of_a_file_that_were_not_held_out_are_refused(write):
    table, probs = simulate()
    # A file of new images says nothing of being held out.
    path = write(table, probs, held_out=False)
    with pytest.raises(LeakageError, match=r"120 of 120 rows were held out: '0\.png'.*--held-out"):
        look(path, table)
    (stamp,) = look(path, table, allow_leak=True).stamps
    assert stamp.startswith("LEAK: ")
    assert look(path, table, held_out=True).stamps == ()
    # What a file does say counts, whatever the user says.
    head, *lines = path.read_text(encoding="utf-8").splitlines()
    told = [f"{head},held_out", *(f"{line},false" for line in lines)]
    path.write_text("\n".join(told), encoding="utf-8")
    with pytest.raises(LeakageError, match="says that 120 of 120 rows were not held out"):
        look(path, table, held_out=True)
    with pytest.raises(InputError, match="does not exist"):
        look(path.with_name("other.csv"), table)


def test_one_column_of_a_file_may_have_any_name(tmp_path):
    path = tmp_path / "theirs.csv"
    path.write_text("image,prob\n1.png,0.8\n0.png,0.1\n2.png,0.7\n", encoding="utf-8")
    graded = look(path, make_table([[0], [1], [1]]), held_out=True)
    assert graded.classes == ("a",)
    assert main_values(graded)["f1_macro", ""] == 1
    with pytest.raises(AlignmentError, match=r"1 of 4 ids have no prediction: '3\.png'"):
        look(path, make_table([[0], [1], [1], [0]]), held_out=True)


def test_a_rule_is_not_scored_on_the_rows_it_was_fitted_on(write):
    table, probs = simulate()
    path = write(table, probs)
    rule = path.with_suffix(".rule.json")
    decide(rule, source=str(path))
    with pytest.raises(LeakageError, match="was fitted on these very rows"):
        look(path, table, rule=rule)
    (stamp,) = look(path, table, rule=rule, allow_leak=True).stamps
    assert "fitted on these very rows" in stamp
    other = write(table, probs, name="new.csv")
    graded = look(other, table, rule=rule)
    assert graded.stamps == ()
    assert graded.promise is not None


def test_what_is_written_is_json_without_nan(model, tmp_path):
    table = make_table([[1, 0], [0, 0], [1, 0]])
    rule = tmp_path / "rule.json"
    plain = plain_rule("ab", exclusive=False)
    write_json(rule, {"kind": "rule", "schema": 1, **rule_to_dict(plain), "stamps": ["LEAK: x"]})
    graded = look(model(table, [[0.9, 0.2], [0.2, 0.1], [NAN, NAN]]), table, rule=rule)
    write_graded(graded, tmp_path)
    write_graded(graded, tmp_path / "made" / "mine.json")
    found = json.loads((tmp_path / "score.json").read_text(encoding="utf-8"))
    assert found == json.loads((tmp_path / "made" / "mine.json").read_text(encoding="utf-8"))
    recall = [s for s in found["scores"] if (s["metric"], s["class_name"]) == ("recall", "b")]
    assert recall[0]["value"] is None
    assert found["unread"] == [["2.png", "not predicted"]]
    assert (found["rows"], found["classes"], found["promise"]) == (2, ["a", "b"], None)
    assert "predictions" not in found
