"""Score charts and confusions: numbers are those of the rule, and any name is drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from loupe.blended import Blended, Source
from loupe.chartparts import shorten_label
from loupe.confusioncharts import describe_confusion
from loupe.deciding import decide_evidence, write_decision
from loupe.evidence import Evidence, make_evidence
from loupe.files import write_json
from loupe.goals import Request
from loupe.intervals import score
from loupe.judged import judge_run
from loupe.reportparts import Chart, Grid, Section, Text
from loupe.runs import Run
from loupe.scorecharts import describe_blend, describe_scores

EVIL = "<script>alert(1)</script>"
NAMES = (EVIL, "스크래치 결함", "划痕", "$x_1$", "a name that goes on and on and never ends at all")


def _make(classes: int, *, exclusive: bool, rows: int = 100) -> Evidence:
    rng = np.random.default_rng(classes)
    names = [*NAMES, *(f"class {number}" for number in range(classes))][:classes]
    if exclusive:
        targets = np.eye(classes, dtype=np.float32)[np.arange(rows) % classes]
        logits = np.exp(rng.normal(size=(rows, classes)) + 3 * targets)
        probs = logits / logits.sum(axis=1, keepdims=True)
    else:
        targets = (rng.random((rows, classes)) < 0.3).astype(np.float32)
        probs = 1 / (1 + np.exp(1 - rng.normal(size=(rows, classes)) - 3 * targets))
    return make_evidence(
        targets,
        [probs.astype(np.float32)],
        exclusive=exclusive,
        classes=names,
        folds=np.arange(rows) // 7 % 3,
    )


def _store(folder: Path, evidence: Evidence, **request: object) -> Run:
    """Store a rule, as a finished run has it."""
    # The goal "auto" resamples by itself, which is not what is tested here.
    goals = {} if evidence.exclusive else {"": "fixed:0.5"}
    decision = decide_evidence(
        evidence,
        Request(**{"calibration": "none", "goals": goals, **request}),  # type: ignore[arg-type]
        resamples=25,
    )
    run = Run(folder=folder, members=("a",), folds=(0, 1, 2))
    write_decision(decision, run.rule_file)
    return run


def _chart(section: Section | None, name: str) -> Chart:
    assert section is not None
    return next(b for b in section.blocks if isinstance(b, Chart) and b.name == name)


def _grid(section: Section | None, name: str) -> Grid:
    assert section is not None
    return next(b for b in section.blocks if isinstance(b, Grid) and b.name == name)


@pytest.mark.parametrize(("classes", "exclusive"), [(1, False), (3, False), (5, True)])
def test_scores_are_the_stored_ones_and_those_of_each_fold(
    tmp_path: Path, classes: int, *, exclusive: bool
) -> None:
    evidence = _make(classes, exclusive=exclusive)
    run = _store(tmp_path, evidence)
    judged = judge_run(run, evidence)
    assert not judged.note
    section = describe_scores(run, evidence, judged)
    chart = _chart(section, "scores")
    known = {s.metric: s for s in judged.scores if not s.class_name}
    mine = evidence.parts == 1
    fold = score(
        evidence.targets[mine],
        judged.held.probs[mine],
        exclusive=exclusive,
        classes=evidence.classes,
        decisions=judged.held.decisions[mine],
        resamples=0,
    )
    by_fold = {s.metric: s.value for s in fold if not s.class_name}
    assert chart.header[4:] == ("fold 0", "fold 1", "fold 2")
    for metric, value, low, high, *folds in chart.rows:
        assert float(value) == pytest.approx(known[metric].value, rel=1e-5)
        assert float(low) == pytest.approx(known[metric].low, rel=1e-5)
        assert float(high) == pytest.approx(known[metric].high, rel=1e-5)
        assert float(folds[1]) == pytest.approx(by_fold[metric], rel=1e-5)
    assert len(_grid(section, "scores-per-class").rows) == classes
    assert "<script>" not in "".join(b.svg for b in _blocks(section) if isinstance(b, Chart))


def _blocks(section: Section | None) -> tuple[object, ...]:
    assert section is not None
    return section.blocks


def test_classes_are_sorted_from_the_weakest_and_all_are_in_the_numbers(tmp_path: Path) -> None:
    evidence = _make(50, exclusive=False, rows=100)
    run = _store(tmp_path, evidence)
    chart = _chart(describe_scores(run, evidence), "scores-by-class")
    values = [float(row[3]) for row in chart.rows]
    assert len(values) == 50
    assert values == sorted(values)
    assert "划痕" in chart.svg


def test_a_run_without_a_rule_for_these_rows_says_so(tmp_path: Path) -> None:
    evidence = _make(2, exclusive=True, rows=60)
    run = _store(tmp_path, evidence)
    other = replace(evidence, targets=evidence.targets[::-1].copy())
    assert "loupe decide" in judge_run(run, other).note
    empty = Run(folder=tmp_path / "none", members=("a",), folds=(0, 1, 2))
    judged = judge_run(empty, evidence)
    section = describe_scores(empty, evidence, judged)
    assert judged.note in [b.text for b in _blocks(section) if isinstance(b, Text)]
    assert not empty.rule_file.exists()


def test_stamps_stand_before_scores(tmp_path: Path) -> None:
    evidence = replace(_make(2, exclusive=True, rows=60), stamps=("LEAK: copies",))
    section = describe_scores(_store(tmp_path, evidence), evidence)
    assert _blocks(section)[0] == Text(text="LEAK: copies", tone="bad")


def test_a_run_that_draws_masks_has_no_scores_of_labels(tmp_path: Path) -> None:
    run = Run(folder=tmp_path, members=("a",), folds=(0,), segments=True)
    assert describe_scores(run, None) is None


# Confusion ----------------------------------------------------------------------------------------


def test_the_matrix_counts_every_row(tmp_path: Path) -> None:
    evidence = _make(5, exclusive=True)
    run = _store(tmp_path, evidence)
    judged = judge_run(run, evidence)
    section = describe_confusion(run, evidence, judged)
    counts = {(row[0], row[1]): int(row[2]) for row in _chart(section, "confusion").rows}
    assert sum(counts.values()) == len(evidence)
    given, decided = evidence.targets.argmax(axis=1), judged.held.decisions.argmax(axis=1)
    for row, a in enumerate(evidence.classes):
        for column, b in enumerate(evidence.classes):
            assert counts[a, b] == int(((given == row) & (decided == column)).sum())
    pairs = [int(row[2]) for row in _grid(section, "confusion-pairs").rows]
    assert pairs == sorted(pairs, reverse=True)
    assert _chart(section, "confusion-shares").rows == _chart(section, "confusion").rows


def test_rows_left_open_have_a_column_of_their_own(tmp_path: Path) -> None:
    evidence = _make(3, exclusive=True)
    run = _store(tmp_path, evidence, goals={"": "fixed:0.8"})
    judged = judge_run(run, evidence)
    chart = _chart(describe_confusion(run, evidence, judged), "confusion")
    told = sum(int(row[2]) for row in chart.rows if row[1] == "no decision")
    assert told == int((~judged.held.decisions.any(axis=1)).sum()) > 0
    assert {row[0] for row in chart.rows} == set(evidence.classes)


@pytest.mark.parametrize("classes", [2, 50])
def test_two_and_fifty_classes_are_one_chart(tmp_path: Path, classes: int) -> None:
    evidence = _make(classes, exclusive=True, rows=100)
    section = describe_confusion(_store(tmp_path, evidence), evidence)
    charts = [block for block in section.blocks if isinstance(block, Chart)]
    assert [chart.name for chart in charts] == ["confusion"]
    assert len(charts[0].rows) == classes**2
    assert "<script>" not in charts[0].svg


@pytest.mark.parametrize("classes", [1, 4])
def test_classes_that_stand_alone_are_counted_one_by_one(tmp_path: Path, classes: int) -> None:
    evidence = _make(classes, exclusive=False)
    run = _store(tmp_path, evidence)
    judged = judge_run(run, evidence)
    section = describe_confusion(run, evidence, judged)
    truth, decided = evidence.targets >= 0.5, judged.held.decisions
    if classes == 1:
        counts = [int(row[2]) for row in _chart(section, "confusion").rows]
        absent, present = ~truth[:, 0], truth[:, 0]
        sides = [~decided[:, 0], decided[:, 0]]
        assert counts == [int((rows & side).sum()) for rows in (absent, present) for side in sides]
        return
    for name, found, missed, alarms, rest in _chart(section, "decisions").rows:
        column = evidence.classes.index(name)
        t, d = truth[:, column], decided[:, column]
        expected = [(t & d).sum(), (t & ~d).sum(), (~t & d).sum(), (~t & ~d).sum()]
        assert [int(n) for n in (found, missed, alarms, rest)] == expected
    assert len(_grid(section, "decisions-by-class").rows) == classes


# Blend --------------------------------------------------------------------------------------------


def test_a_blend_shows_its_weights(
    tmp_path: Path, binary: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "table", lambda _: binary)
    blend = Blended(
        sources=(Source(place="../a"), Source(place="../b")),
        weights=(0.7, 0.3),
        by_fold={"0": (0.6, 0.4), "1": (0.8, 0.2)},
        method="simplex",
        metric="log_loss",
        verdict="the plain mean is as good",
    )
    run = Run(folder=tmp_path, members=("a", EVIL), folds=(0, 1), blend=blend)
    each = {"metric": "average_precision", "class_name": "", "value": 0.9, "low": 0.8, "high": 1.0,
            "fold_mean": 0.9, "fold_std": None, "n": 9, "note": ""}  # fmt: skip
    write_json(run.scores_file, {"scores": {"all": [each], "a": [each], EVIL: [each]}})
    section = describe_blend(run, None)
    chart = _chart(section, "blend-weights")
    assert chart.rows[0] == ("a", "../a", "0.7", "0.6", "0.8")
    assert "the plain mean is as good" in next(
        b.text for b in _blocks(section) if isinstance(b, Text)
    )
    assert [row[1] for row in _grid(section, "blend-members").rows] == [
        "0.900 (0.800 to 1.000)"
    ] * 3
    assert describe_blend(replace(run, blend=None), None) is None


def test_labels_fit_whatever_the_script() -> None:
    assert shorten_label("划痕" * 20, 11) == "划痕划痕划…"
    assert shorten_label("a\nb\x00") == "a b "
