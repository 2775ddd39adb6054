"""Proofs of cleaning, on labels and networks whose truth is known."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

import loupe
from loupe.cli import main
from loupe.comparing import Section
from loupe.errors import AlignmentError
from loupe.evidence import Evidence, make_evidence
from loupe.intervals import Difference
from loupe.metrics import to_decisions
from loupe.origins import Origin, spell_origin
from loupe.predictions import Predictions, write_predictions
from loupe.proving import WORDS, make_proof, prove_evidence, read_origins, split_parts
from loupe.recipe import read_recipe
from loupe.runs import Run, create_run
from loupe.table import Table

N, C, SEEDS = 600, 3, 40
SKILL = 1.6
CLASSES = ("a", "b", "c")
REVIEWED = Origin(action="relabelled", by="review", given="a")
KEPT = Origin(action="kept", by="review")
RULED = Origin(action="relabelled", by="rule", given="a")
DROPPED = Origin(action="dropped", by="rule")


@dataclass(frozen=True)
class World:
    """True and given labels, how hard each row is, and what was predicted before cleaning."""

    rng: np.random.Generator
    true: np.ndarray
    given: np.ndarray
    ease: np.ndarray
    luck: np.ndarray
    before: np.ndarray


def make_world(seed: int, *, noise: float = 0.08) -> World:
    """Rows of three classes; a share of the given labels is wrong, and half the rows are hard."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, C, N)
    wrong = rng.random(N) < noise
    given = np.where(wrong, (true + rng.integers(1, C, N)) % C, true)
    ease = np.where(rng.random(N) < 0.5, 0.4, 1.6)
    luck = rng.normal(0, 1, (N, C))
    world = World(rng, true, given, ease, luck, before=np.zeros((N, C)))
    return replace(world, before=predict(world, SKILL * ease))


def make_twins(seed: int, own: float) -> World:
    """A world whose run before has as much luck of its own as the one after will have."""
    world = make_world(seed)
    return replace(world, before=predict(world, SKILL * world.ease, own=own))


def predict(world: World, skill: np.ndarray, *, own: float = 0.4) -> np.ndarray:
    """Predict by logits that know the truth; some of the luck is each training's own."""
    logits = skill[:, None] * np.eye(C)[world.true] + world.luck
    logits = logits + world.rng.normal(0, own, (N, C))
    shares = np.exp(logits)
    return (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)


def doubt(world: World, share: float = 0.1) -> np.ndarray:
    """Flag the rows whose given label the run before believes least, as a rule does."""
    believed = world.before[np.arange(N), world.given]
    return believed <= np.quantile(believed, share)


def prove(world, after, origins, cleaned=None, **more):
    """Prove with the given labels before, and the cleaned ones after."""
    cleaned = world.given if cleaned is None else cleaned
    pair = (hold(world.given, world.before), hold(cleaned, after))
    rows = np.arange(N)
    probs = (world.before, after)
    decided = tuple(to_decisions(each, exclusive=True) for each in probs)
    known = {"resamples": 150} | more
    return prove_evidence(pair, (rows, rows), probs, decided, split_parts(origins), **known)


def hold(labels: np.ndarray, probs: np.ndarray) -> Evidence:
    targets = np.eye(C, dtype=np.float32)[labels]
    return make_evidence(
        targets, [probs], exclusive=True, classes=CLASSES, folds=np.arange(len(labels)) % 5
    )


def relabel(world: World, flagged: np.ndarray, origin: Origin):
    """Give flagged rows the label the run before suggests."""
    suggested = world.before.argmax(axis=1)
    changed = flagged & (suggested != world.given)
    cleaned = np.where(changed, suggested, world.given)
    return cleaned, [origin if row else None for row in changed]


def review(world: World, flagged: np.ndarray):
    """Let a person who knows the truth look at all flagged rows."""
    cleaned = np.where(flagged, world.true, world.given)
    wrong = world.true != world.given
    origins = [
        (REVIEWED if bad else KEPT) if seen else None
        for seen, bad in zip(flagged, wrong, strict=True)
    ]
    return cleaned, origins


def accuracy(labels: np.ndarray, probs: np.ndarray) -> float:
    return float((probs.argmax(axis=1) == labels).mean())


def count_answers(make) -> Counter[str]:
    return Counter(make(seed).answer for seed in range(SEEDS))


def test_a_true_gain_is_found():
    def gain(seed):
        world = make_world(seed)
        cleaned, origins = review(world, doubt(world))
        return prove(world, predict(world, 2.6 * world.ease), origins, cleaned)

    found = count_answers(gain)
    assert found["helped"] >= 0.9 * SEEDS
    assert found["hurt"] == 0


def test_a_true_gain_is_found_without_people():
    def gain(seed):
        world = make_world(seed)
        cleaned, origins = relabel(world, doubt(world), RULED)
        return prove(world, predict(world, 2.8 * world.ease), origins, cleaned)

    found = count_answers(gain)
    assert found["helped"] >= 0.7 * SEEDS
    assert found["hurt"] == 0


@pytest.mark.parametrize(("people", "own", "share"), [(True, 0.4, 0.1), (False, 1.0, 0.3)])
def test_another_training_that_is_no_better_is_no_proof(people, own, share):
    """The rows were picked by the run before, so parts move by chance; totals must not."""

    def null(seed):
        world = make_twins(seed, own)
        after = predict(world, SKILL * world.ease, own=own)
        flagged = doubt(world, share)
        cleaned, origins = review(world, flagged) if people else relabel(world, flagged, RULED)
        return prove(world, after, origins, cleaned, resamples=300)

    found = count_answers(null)
    # One interval of 40 lies above 0 by chance; 400 other seeds gave 7 and 8 of the two.
    assert found["helped"] <= 3
    assert found["hurt"] <= 4
    assert found["mixed"] <= 0.3 * SEEDS


def test_rows_picked_by_the_run_before_mislead_a_part_and_no_total():
    """What the verdict guards against is there: equals part by many points."""
    moved = Counter()
    for seed in range(SEEDS):
        world = make_twins(seed, 1.0)
        after = predict(world, SKILL * world.ease, own=1.0)
        cleaned, origins = review(world, doubt(world, 0.3))
        for each in prove(world, after, origins, cleaned, resamples=10).sections:
            moved[each.kind] += each.difference.value / SEEDS
    assert moved["untouched"] < -0.1
    assert moved["reviewed"] > 0.2
    assert abs(moved["given"]) < 0.01
    assert moved["corrected"] < moved["given"]


def test_dropping_hard_rows_cannot_pass_as_a_gain():
    kept_rows = []

    def trap(seed):
        world = make_world(seed, noise=0.0)
        hard = world.ease < 1
        after = predict(world, np.where(hard, 0.2, 2.4 * 1.6))
        proof = prove(world, after, [DROPPED if row else None for row in hard])
        kept_rows.append(next(s for s in proof.sections if s.kind == "untouched"))
        total = proof.sections[0]
        assert (total.kind, total.rows) == ("given", N)
        assert total.after == pytest.approx(accuracy(world.given, after))
        return proof

    found = count_answers(trap)
    # On the rows that were kept it is always a gain beyond chance.
    assert all(section.difference.low > 0 for section in kept_rows)
    assert found["helped"] <= 2, found


def test_sections_are_their_definitions():
    world = make_world(3)
    flagged = doubt(world)
    cleaned, origins = review(world, flagged)
    ruled = int(np.flatnonzero(~flagged)[0])
    origins[ruled] = DROPPED
    after = predict(world, 2.4 * world.ease)
    proof = prove(world, after, origins, cleaned)
    free = ~flagged
    free[ruled] = False
    expected = {
        "given": (np.full(N, fill_value=True), world.given),
        "corrected": (np.full(N, fill_value=True), cleaned),
        "untouched": (free, world.given),
        "reviewed": (flagged, world.true),
    }
    assert [each.kind for each in proof.sections] == list(expected)
    for each in proof.sections:
        rows, labels = expected[each.kind]
        scores = [accuracy(labels[rows], probs[rows]) for probs in (world.before, after)]
        assert (each.before, each.after) == pytest.approx(scores)
        assert each.difference.value == pytest.approx(scores[1] - scores[0])
        assert (each.rows, each.groups) == (rows.sum(), rows.sum())
    # Reviewed labels count, not the given ones: these say otherwise.
    assert accuracy(world.given[flagged], after[flagged]) < expected_score(proof, "reviewed") - 0.2


def expected_score(proof, kind: str) -> float:
    return next(each.after for each in proof.sections if each.kind == kind)


def test_a_label_softened_or_dropped_by_a_person_is_no_reviewed_label():
    origins = [Origin(action=a, by="review") for a in ("kept", "dropped", "softened")]
    parts = split_parts([*origins, REVIEWED, RULED, Origin(action="flagged", by="rule"), None])
    assert parts.reviewed.tolist() == [True, False, False, True, False, False, False]
    assert parts.corrected.tolist() == [False, False, False, True, False, False, False]
    assert parts.untouched.tolist() == [False] * 6 + [True]
    assert parts.ruled == 1


def test_sections_without_rows_are_left_out():
    world = make_world(1)
    proof = prove(world, world.before, [DROPPED] * N)
    assert [each.kind for each in proof.sections] == ["given"]
    assert proof.answer == "none"
    assert proof.verdict.startswith("no evidence that cleaning helped or hurt: +0.00 points")


def test_a_loss_is_better_when_it_falls():
    world = make_world(2)
    cleaned, origins = review(world, doubt(world))
    after = predict(world, 2.6 * world.ease)
    proof = prove(world, after, origins, cleaned, metric="log_loss")
    assert proof.answer == "helped"
    assert proof.sections[0].after < proof.sections[0].before
    assert prove(replace(world, before=after), world.before, origins, cleaned).answer == "hurt"


UP, DOWN, FLAT, NONE = (0.02, 0.01, 0.03), (-0.02, -0.03, -0.01), (0.0, -0.01, 0.01), (np.nan,) * 3


@pytest.mark.parametrize(
    ("moves", "missing", "answer", "told"),
    [
        ({"given": UP, "untouched": UP}, 0, "helped", "cleaning helped: +2.00 points accuracy"),
        (
            {"given": FLAT, "corrected": UP, "untouched": FLAT, "reviewed": UP},
            0,
            "helped",
            "as rev",
        ),
        ({"given": FLAT, "untouched": UP}, 0, "unclear", "review some of the touched rows"),
        ({"given": UP, "untouched": FLAT}, 0, "unclear", "rows nobody touched do not show it"),
        ({"given": FLAT, "untouched": FLAT, "reviewed": UP}, 0, "unclear", "so luck alone"),
        ({"given": DOWN, "untouched": FLAT}, 0, "unclear", "knows better is counted wrong"),
        ({"given": FLAT, "untouched": DOWN}, 0, "unclear", "which favours it"),
        ({"given": DOWN, "untouched": DOWN}, 0, "hurt", "cleaning hurt: -2.00 points"),
        ({"given": DOWN, "untouched": UP}, 0, "mixed", "mixed: better, +2.00"),
        ({"given": UP, "untouched": UP, "reviewed": DOWN}, 0, "mixed", "worse, -2.00"),
        ({"given": DOWN, "untouched": UP}, 0, "mixed", "review some of the touched rows"),
        ({"given": FLAT, "untouched": DOWN, "reviewed": UP}, 0, "unclear", "+0.00 points accuracy"),
        ({"given": FLAT, "corrected": DOWN, "untouched": DOWN}, 0, "unclear", "which favours it"),
        ({"given": FLAT, "untouched": FLAT}, 0, "none", "no evidence that cleaning helped or hurt"),
        ({"given": NONE, "untouched": FLAT}, 0, "none", "accuracy is not defined on all rows"),
        ({"given": UP, "untouched": UP}, 3, "unclear", "no proof: rows are missing"),
        ({"given": DOWN, "untouched": DOWN}, 3, "unclear", "no proof: rows are missing"),
    ],
)
def test_no_section_speaks_alone(moves, missing, answer, told):
    sections = [make_section(kind, *ends) for kind, ends in moves.items()]
    proof = make_proof(sections, split_parts([None]), missing=missing)
    assert proof.answer == answer
    assert told in proof.verdict
    assert any("3 row(s) of the run before play no part" in r for r in proof.remarks) == bool(
        missing
    )


def make_section(kind, value, low, high) -> Section:
    difference = Difference(metric="accuracy", value=value, low=low, high=high, p_value=0.5)
    return Section(
        kind=kind, rows=9, groups=9, before=0.5, after=0.5 + value, difference=difference
    )


def test_rules_that_read_the_labels_are_named():
    sections = [make_section("given", *UP)]
    ruled, seen = (make_proof(sections, split_parts([o, None])) for o in (RULED, REVIEWED))
    assert "rules alone dropped or changed 1 row(s)" in ruled.remarks[0]
    assert "loupe split --holdout" in ruled.remarks[0]
    assert seen.remarks == ruled.remarks[1:]


def make_table(origins, targets=None) -> Table:
    return Table(
        ids=("x", "y", "z"),
        images=tuple(Path(f"/nowhere/{name}.png") for name in "xyz"),
        classes=("crack",),
        targets=np.zeros((3, 1), np.float32) if targets is None else targets,
        exclusive=False,
        label_origins=origins,
    )


def test_there_is_nothing_to_prove_where_nothing_was_changed():
    bare, dropped = make_table(None), make_table(("", "dropped by rule", "kept by review"))
    looked = make_table(("", "flagged by rule", "kept by review"))
    assert read_origins([bare, bare], "xyz") is None
    assert read_origins([bare, looked], "xyz") is None
    assert read_origins([dropped, dropped], "xyz") is None
    assert read_origins([dropped, bare], "xyz") is None
    assert read_origins([None, dropped], "xyz") is None
    # Rows are joined by id, in the order asked for.
    assert read_origins([bare, dropped], "yx") == (DROPPED, None)
    assert read_origins([looked, dropped], "zy") == (KEPT, DROPPED)


def make_run(folder: Path, labels, probs, origins=None, *, stamps=(), order=None, **recipe) -> Run:
    """Write a finished run of given probabilities, its rows in some order."""
    rows = np.arange(N) if order is None else order
    ids = tuple(f"{row:04}.png" for row in rows)
    folds = (rows % 5).astype(np.int16)
    table = Table(
        ids=ids,
        images=tuple(Path(f"/nowhere/{name}") for name in ids),
        classes=CLASSES,
        targets=np.eye(C, dtype=np.float32)[labels[rows]],
        exclusive=True,
        folds=folds,
        label_origins=None if origins is None else tuple(spell_origin(origins[r]) for r in rows),
    )
    known = read_recipe({"network": {"name": "test_resnet", "pretrained": False}, **recipe})
    run = create_run(folder, table, {"net": known}, stamps)
    sheet = Predictions(
        ids=ids,
        classes=CLASSES,
        probs=probs[rows],
        exclusive=True,
        held_out=np.ones(len(rows), np.bool_),
        folds=folds,
    )
    write_predictions(run.oof_file, {"net": sheet}, table.targets)
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run before cleaning, and a better one after it with its rows in another order."""
    folder, world = tmp_path_factory.mktemp("runs"), make_world(7)
    cleaned, origins = review(world, doubt(world))
    after = predict(world, 2.6 * world.ease)
    before = make_run(folder / "before", world.given, world.before)
    order = world.rng.permutation(N)
    stamps = ("RELABELLED: told", "LEAK: told")
    done = make_run(folder / "after", cleaned, after, origins, order=order, stamps=stamps)
    return world, cleaned, after, before, done


def test_the_verb_proves_a_run_on_a_cleaned_table(runs):
    world, cleaned, after, before, done = runs
    found = loupe.compare(before, done, resamples=200)
    assert found.proof is not None
    assert found.proof.answer == "helped"
    assert found.verdict == found.proof.verdict
    by_kind = {each.kind: each for each in found.proof.sections}
    assert list(by_kind) == ["given", "corrected", "untouched", "reviewed"]
    assert by_kind["given"].before == pytest.approx(accuracy(world.given, world.before))
    assert by_kind["given"].after == pytest.approx(accuracy(world.given, after))
    assert by_kind["corrected"].after == pytest.approx(accuracy(cleaned, after))
    # The comparison is A minus B as ever, with the labels of A.
    assert found.differences[0].value == pytest.approx(-by_kind["given"].difference.value)
    assert found.stamps == ("LEAK: told",)


def test_the_command_shows_the_sections_alone(runs, monkeypatch, capsys):
    *_, before, done = runs
    places = [str(run.folder) for run in (before, done)]
    monkeypatch.setattr(sys, "argv", ["loupe", "compare", *places, "--resamples", "100"])
    monkeypatch.setenv("COLUMNS", "140")
    main()
    told = capsys.readouterr().out
    assert f"after, after cleaning, against before, before, on {N} rows" in told
    assert "after minus before by accuracy" in told
    for words in WORDS.values():
        assert words in told
    assert "cleaning helped: +" in told
    assert "McNemar" not in told
    assert "A minus B" not in told


def test_the_wrong_way_round_is_refused_with_the_right_one(runs):
    *_, before, done = runs
    with pytest.raises(AlignmentError, match="name the run before first"):
        loupe.compare(done, before)


def test_a_table_counts_for_both_and_proves_nothing(runs):
    *_, before, done = runs
    found = loupe.compare(before, done, before.table(), resamples=50)
    assert found.proof is None
    assert found.verdict.startswith("after is better")


def test_other_folds_are_another_experiment(runs, tmp_path):
    *_, before, done = runs
    moved = replace(done.table(), folds=((np.arange(N) + 1) % 5).astype(np.int16))
    other = create_run(tmp_path / "moved", moved, {"net": done.member("net").recipe()})
    sheet = done.oof()["net"]
    write_predictions(other.oof_file, {"net": replace(sheet, folds=moved.folds)}, moved.targets)
    with pytest.raises(AlignmentError, match=r"row\(s\) are in another fold.*\d{4}\.png' \(\d and"):
        loupe.compare(before, other)


def test_rows_that_were_taken_out_and_other_recipes_are_told(runs, tmp_path):
    world, cleaned, after, before, _ = runs
    flagged = doubt(world)
    _, origins = review(world, flagged)
    easy = np.flatnonzero(world.ease > 1)
    short = make_run(tmp_path / "short", cleaned, after, origins, order=easy, seed=9)
    found = loupe.compare(before, short, resamples=200).proof
    assert found is not None
    assert found.answer == "unclear"
    assert found.verdict.endswith("no proof: rows are missing")
    assert f"{N - len(easy):,} row(s) of the run before play no part" in found.remarks[0]
    whole = make_run(tmp_path / "whole", cleaned, after, origins, seed=9)
    proof = loupe.compare(before, whole, resamples=200).proof
    assert proof is not None
    assert proof.verdict.startswith("cleaning with another recipe helped")
