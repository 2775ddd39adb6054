"""Threshold tables: the same as `decide` finds for the goal, and words where it cannot be had."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from loupe.chartparts import spell_share
from loupe.deciding import decide_evidence, write_decision
from loupe.evidence import Evidence, make_evidence
from loupe.goalcharts import MOST_CLASSES, Row, falls_short, spell_flagged
from loupe.goals import Request
from loupe.judged import Judged, judge_run
from loupe.reportparts import Chart, Commands, Grid, Section
from loupe.runs import Run
from loupe.thresholds import read_goal
from loupe.thresholdtables import (
    describe_thresholds,
    make_accepted_case,
    make_case,
    take_goal,
)
from loupe.wagers import Estimate


def _make(classes: int, *, exclusive: bool = False, rows: int = 160) -> Evidence:
    rng = np.random.default_rng(classes)
    if exclusive:
        targets = np.eye(classes, dtype=np.float32)[np.arange(rows) % classes]
        logits = np.exp(rng.normal(size=(rows, classes)) + 2 * targets)
        probs = logits / logits.sum(axis=1, keepdims=True)
    else:
        targets = (rng.random((rows, classes)) < 0.3).astype(np.float32)
        probs = 1 / (1 + np.exp(1 - rng.normal(size=(rows, classes)) - 2 * targets))
    return make_evidence(
        targets,
        [probs.astype(np.float32)],
        exclusive=exclusive,
        classes=[f"c{number}" for number in range(classes)],
        folds=np.arange(rows) // 5 % 4,
        groups=np.arange(rows) // 2,
    )


def _judge(folder: Path, evidence: Evidence, calibration: str = "none") -> tuple[Run, Judged]:
    run = Run(folder=folder, members=("a",), folds=(0, 1, 2, 3))
    request = Request(
        goals={} if evidence.exclusive else {"": "fixed:0.5"}, calibration=calibration
    )
    write_decision(decide_evidence(evidence, request, resamples=20), run.rule_file)
    return run, judge_run(run, evidence)


@pytest.mark.parametrize("goal", ["recall:0.95", "precision:0.9", "cost:10"])
@pytest.mark.parametrize("calibration", ["none", "platt"])
def test_a_goal_takes_what_decide_says(tmp_path: Path, goal: str, calibration: str) -> None:
    evidence = _make(2)
    _, judged = _judge(tmp_path, evidence, calibration)
    rows = take_goal(make_case(judged), read_goal(goal), resamples=50)
    request = Request(goals={"": goal}, calibration=calibration)
    decision = decide_evidence(evidence, request, resamples=50)
    assert [row.found for row in rows] == list(decision.thresholds)


@pytest.mark.parametrize("calibration", ["none", "temperature"])
def test_accepting_takes_what_decide_says(tmp_path: Path, calibration: str) -> None:
    evidence = _make(3, exclusive=True)
    _, judged = _judge(tmp_path, evidence, calibration)
    (row,) = take_goal(make_accepted_case(judged), read_goal("precision:0.9"), resamples=50)
    request = Request(goals={"": "precision:0.9"}, calibration=calibration)
    decision = decide_evidence(evidence, request, resamples=50)
    assert (row.found,) == decision.thresholds
    accepted = {s.metric: s.value for s in decision.scores if not s.class_name}["accepted"]
    assert row.flagged == pytest.approx(accepted)


def test_flagged_is_the_share_of_held_out_rows_that_are_decided(tmp_path: Path) -> None:
    evidence = _make(2)
    _, judged = _judge(tmp_path, evidence)
    goal = read_goal("recall:0.9")
    rows = take_goal(make_case(judged), goal, resamples=0)
    cross = decide_evidence(evidence, Request(goals={"": str(goal)}, calibration="none"))
    decided = np.zeros(evidence.targets.shape, np.bool_)
    for part, rule in enumerate(cross.part_rules):
        mine = evidence.parts == part
        decided[mine] = evidence.members[0][mine] >= np.array(rule.thresholds, np.float32)
    assert [row.flagged for row in rows] == pytest.approx(decided.mean(axis=0).tolist())


def test_the_span_of_the_flagged_share_is_of_the_ends_of_the_threshold(tmp_path: Path) -> None:
    evidence = _make(2)
    _, judged = _judge(tmp_path, evidence)
    rows = take_goal(make_case(judged), read_goal("recall:0.9"), resamples=50)
    probs = evidence.members[0]
    for column, row in enumerate(rows):
        for share, end in ((row.least, row.found.high), (row.most, row.found.low)):
            assert share == pytest.approx(np.mean(probs[:, column] >= np.float32(end)))
        assert row.least < row.most
        least, most = spell_share(row.least), spell_share(row.most)
        assert spell_flagged(row) == f"{spell_share(row.flagged)}; {least} to {most}"
    (bare, _) = take_goal(make_case(judged), read_goal("recall:0.9"), resamples=0)
    assert np.isnan(bare.least)
    assert spell_flagged(bare) == spell_share(bare.flagged)


def _make_missed() -> Evidence:
    """Make a class whose positives of one part score lower than negatives of the others."""
    evidence = _make(3)
    odd, first = np.arange(len(evidence.parts)) % 2 > 0, evidence.parts == 0
    evidence.targets[:, 0] = odd
    evidence.members[0][:, 0] = np.where(first, np.where(odd, 0.5, 0.05), np.where(odd, 0.6, 0.59))
    return evidence


def test_a_goal_that_is_missed_on_held_out_rows_is_remarked(tmp_path: Path) -> None:
    evidence = _make_missed()
    run, judged = _judge(tmp_path, evidence)
    case = make_case(judged)
    row = take_goal(case, read_goal("recall:0.95"), resamples=20)[0]
    assert row.found.attained
    assert row.found.recall.value == pytest.approx(0.8)
    assert row.note == "aimed at 95 %, 80 % on held-out rows"
    chart = _find_chart(describe_thresholds(run, evidence, judged))
    assert "aiming at a recall of 95 % brings on held-out rows" in chart.title
    assert "c0, aimed at 95 %, reaches a recall of 80 %" in chart.alt
    assert "recall reached" in chart.svg
    assert "recall aimed at" in chart.svg


@pytest.mark.parametrize(
    ("goal", "value", "high", "short"),
    [
        ("recall:0.95", 0.69, 0.99, True),
        ("precision:0.9", 0.87, 0.99, True),
        ("recall:0.95", 0.93, 0.99, False),
        ("recall:0.95", 0.94, 0.945, True),
        ("precision:0.9", 0.95, 0.99, False),
        ("precision:0.9", np.nan, np.nan, False),
    ],
)
def test_what_falls_short(goal: str, value: float, high: float, *, short: bool) -> None:
    estimate = Estimate(value=value, low=0.1, high=high)
    assert falls_short(estimate, read_goal(goal)) is short


def _find_chart(section: Section) -> Chart:
    (chart,) = [block for block in section.blocks if isinstance(block, Chart)]
    return chart


def test_what_cannot_be_had_is_said(tmp_path: Path) -> None:
    evidence = _make(3)
    evidence.targets[:, 2] = 0
    # The surest rows are wrong, so no threshold is ever precise.
    evidence.members[0][:, 1] = np.where(evidence.targets[:, 1] > 0, 0.4, 0.6)
    _, judged = _judge(tmp_path, evidence)
    case = make_case(judged)
    notes = [row.note for row in take_goal(case, read_goal("precision:0.99"), resamples=20)]
    assert notes[1].startswith("cannot be reached")
    assert notes[2] == "no row has this class"
    recall = take_goal(case, read_goal("recall:0.99"), resamples=20)
    assert recall[1].note == "met only by flagging every row"
    never = take_goal(case, read_goal("cost:0.0001"), resamples=20)
    assert never[1].note == "cheapest is to flag nothing"


def test_columns_without_intervals_have_their_values(tmp_path: Path) -> None:
    _, judged = _judge(tmp_path, _make(3))
    case, goal = make_case(judged), read_goal("recall:0.9")
    some = take_goal(case, goal, columns=[2], resamples=30)
    every = take_goal(case, goal, resamples=30)
    assert [row.found.class_name for row in some] == ["c0", "c1", "c2"]
    assert [_values(row) for row in some] == [_values(row) for row in every]
    assert np.isnan(some[0].found.recall.low)
    assert some[2].found.recall.low == pytest.approx(every[2].found.recall.low)


def _values(row: Row) -> tuple[float, float, float, float]:
    found = row.found
    return found.threshold, found.recall.value, found.precision.value, row.flagged


@pytest.mark.parametrize(("classes", "exclusive"), [(1, False), (2, True), (21, False)])
def test_the_section_has_a_table_for_each_kind(
    tmp_path: Path, classes: int, *, exclusive: bool
) -> None:
    evidence = _make(classes, exclusive=exclusive, rows=60)
    run, judged = _judge(tmp_path / "a run", evidence)
    section = describe_thresholds(run, evidence, judged)
    grids = [block for block in section.blocks if isinstance(block, Grid)]
    shown = min(classes, MOST_CLASSES)
    tables = [3 * shown, 3 * shown, 5 * shown]
    assert [len(grid.rows) for grid in grids] == ([3, *tables] if exclusive else tables)
    assert all(len(row) == len(grid.header) for grid in grids for row in grid.rows)
    chart = _find_chart(section)
    assert len(chart.rows) == 11 * classes
    assert all(len(row) == len(chart.header) for row in chart.rows)
    (command,) = [block for block in section.blocks if isinstance(block, Commands)]
    assert command.lines[0].startswith(f"loupe decide '{run.folder}' --")
