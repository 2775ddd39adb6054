"""Calibration charts and curve charts: numbers are those of the modules that own them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from loupe.calibrationcharts import COVERAGE, describe_calibration, describe_conformal
from loupe.curvecharts import describe_curves
from loupe.deciding import decide_evidence, write_decision
from loupe.evidence import Evidence, make_evidence
from loupe.goals import Request
from loupe.judged import judge_run
from loupe.reportparts import Chart, Commands, Grid, Section, Text
from loupe.runs import Run

EVIL = "<script>alert(1)</script>"


def _make(classes: int, *, exclusive: bool, rows: int = 120) -> Evidence:
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
        classes=[EVIL, *(f"c{number}" for number in range(1, classes))],
        folds=np.arange(rows) // 5 % 4,
    )


def _store(folder: Path, evidence: Evidence, **request: object) -> Run:
    run = Run(folder=folder, members=("a",), folds=(0, 1, 2, 3))
    # The goal "auto" resamples by itself, which is not what is tested here.
    wanted = {"goals": {} if evidence.exclusive else {"": "fixed:0.5"}, **request}
    found = decide_evidence(evidence, Request(**wanted), resamples=25)  # type: ignore[arg-type]
    write_decision(found, run.rule_file)
    return run


def _charts(section: Section) -> dict[str, Chart]:
    found = {block.name: block for block in section.blocks if isinstance(block, Chart)}
    for chart in found.values():
        assert "<script>" not in chart.svg
        assert all(len(row) == len(chart.header) for row in chart.rows)
    return found


def _texts(section: Section) -> str:
    return " ".join(block.text for block in section.blocks if isinstance(block, Text))


@pytest.mark.parametrize(("classes", "exclusive"), [(1, False), (13, False), (3, True)])
def test_the_diagram_is_the_stored_reliability(
    tmp_path: Path, classes: int, *, exclusive: bool
) -> None:
    evidence = _make(classes, exclusive=exclusive)
    run = _store(tmp_path, evidence, calibration="none")
    decision = decide_evidence(
        evidence,
        Request(calibration="none", goals={} if exclusive else {"": "fixed:0.5"}),
        resamples=0,
    )
    chart = _charts(describe_calibration(run, evidence))["reliability"]
    expected = [
        (each.class_name, str(each.count), f"{each.observed:.6g}") for each in decision.reliability
    ]
    assert [(row[0], row[3], row[5]) for row in chart.rows] == expected
    assert ("1 more in the CSV" in chart.title) == (classes == 13)


def test_why_a_calibration_was_chosen_is_told(tmp_path: Path) -> None:
    evidence = _make(2, exclusive=True)
    section = describe_calibration(_store(tmp_path, evidence), evidence)
    assert judge_run(_store(tmp_path, evidence), evidence).choice.reason in _texts(section)
    (grid,) = [block for block in section.blocks if isinstance(block, Grid)]
    assert [row[2] for row in grid.rows].count("chosen") == 1


@pytest.mark.parametrize("exclusive", [True, False])
def test_sets_that_are_off_are_those_that_decide_would_switch_on(
    tmp_path: Path, *, exclusive: bool
) -> None:
    evidence = _make(3, exclusive=exclusive)
    off = _store(tmp_path / "off", evidence, calibration="none")
    on = _store(tmp_path / "on", evidence, calibration="none", coverage=COVERAGE)
    sections = [describe_conformal(run, evidence) for run in (off, on)]
    ours, stored = (_charts(section)["coverage"] for section in sections)
    assert ours.rows == stored.rows
    coverage = judge_run(on, evidence).coverage
    assert [row[4] for row in ours.rows] == [f"{each.covered:.6g}" for each in coverage]
    assert "not switched on" in _texts(sections[0])
    assert "not switched on" not in _texts(sections[1])
    commands = [[b for b in section.blocks if isinstance(b, Commands)] for section in sections]
    assert list(map(len, commands)) == [1, 0]


def test_sizes_of_sets_count_every_row(tmp_path: Path) -> None:
    evidence = _make(3, exclusive=True)
    section = describe_conformal(_store(tmp_path, evidence), evidence)
    sizes = next(b for b in section.blocks if isinstance(b, Grid) and b.name == "set-sizes")
    assert sum(int(row[1].replace(",", "")) for row in sizes.rows) == len(evidence)


# Curves -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "exclusive", "names"),
    [
        (1, False, ["curves"]),
        (13, False, ["pr-curves", "roc-curves"]),
        (2, True, ["pr-curves", "roc-curves"]),
    ],
)
def test_curves_hold_all_classes_and_draw_the_weakest(
    tmp_path: Path, classes: int, names: list[str], *, exclusive: bool
) -> None:
    evidence = _make(classes, exclusive=exclusive)
    run = _store(tmp_path, evidence, calibration="none")
    section = describe_curves(run, evidence)
    charts = _charts(section)
    assert list(charts) == names
    chart = charts[names[0]]
    assert {row[0] for row in chart.rows} == set(evidence.classes)
    assert ("1 more in the CSV" in chart.title) == (classes == 13)
    (grid,) = [block for block in section.blocks if isinstance(block, Grid)]
    areas = [float(row[2].split()[0]) for row in grid.rows]
    assert areas == sorted(areas)
    scores = {s.class_name: s.value for s in judge_run(run, evidence).scores
              if s.metric == "average_precision" and s.class_name}  # fmt: skip
    assert areas[0] == pytest.approx(min(scores.values()), abs=5e-4)


def test_the_dot_is_what_the_rule_reaches(tmp_path: Path) -> None:
    evidence = _make(1, exclusive=False)
    run = _store(tmp_path, evidence, goals={"": "recall:0.9"})
    (grid,) = [b for b in describe_curves(run, evidence).blocks if isinstance(b, Grid)]
    (threshold,) = judge_run(run, evidence).thresholds
    row = dict(zip(grid.header, grid.rows[0], strict=True))
    assert float(row["recall"]) == pytest.approx(threshold.recall.value, abs=5e-4)
    assert float(row["precision"]) == pytest.approx(threshold.precision.value, abs=5e-4)
    told = row["threshold (95 % interval)"]
    assert told.startswith(f"{threshold.threshold:.3f} ({threshold.low:.3f} to ")


def test_a_class_without_rows_has_no_curve(tmp_path: Path) -> None:
    evidence = _make(3, exclusive=False)
    evidence.targets[:, 1] = 0
    section = describe_curves(_store(tmp_path, evidence), evidence)
    assert "no row and no curve" in _texts(section)
    assert "c1" not in {row[0] for row in _charts(section)["pr-curves"].rows}
