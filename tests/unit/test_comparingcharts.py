"""Comparing charts and runs: who is named better, and what is said beside it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="the extra 'report' is not installed")

from loupe.comparing import Comparison, Proof
from loupe.comparing import Section as ProofSection
from loupe.comparingcharts import MOST_LINES, MOST_RUNS, draw_differences, draw_scores
from loupe.comparingruns import Compared, describe_comparison
from loupe.decisions import compare
from loupe.intervals import Difference, Score
from loupe.reportparts import Chart, Grid, Section, Text

NAN = math.nan
WORSE = Difference(metric="accuracy", value=-0.1, low=-0.2, high=-0.05, p_value=0.001)
LOSS = Difference(metric="log_loss", value=0.3, low=0.1, high=0.5, p_value=0.001)
SAME = Difference(metric="accuracy", value=0.0, low=-0.1, high=0.1, p_value=1.0)


def make_score(value: float, low: float = NAN, high: float = NAN) -> Score:
    return Score(
        metric="accuracy", class_name="", value=value, low=low, high=high, fold_mean=NAN,
        fold_std=NAN, n=10, note="",
    )  # fmt: skip


def make_comparison(*differences: Difference, **more: Any) -> Comparison:
    return Comparison(
        names=("run", "run"), rows=40, groups=12, only_a=1, only_b=5, differences=differences,
        mcnemar=(), verdict="run is better", **more,
    )  # fmt: skip


@pytest.fixture
def describe(finished: Any) -> Any:
    def make(comparison: Comparison | None, fault: str = "") -> dict[str, Section]:
        other = Compared(name="new", run=finished, comparison=comparison, fault=fault)
        found = describe_comparison([Compared(name="old", run=finished), other])
        return {section.key: section for section in found}

    return make


def test_the_better_run_is_named_by_the_name_it_has_here(describe: Any) -> None:
    found = describe(make_comparison(WORSE, LOSS))
    (verdict,) = found["verdict"].blocks
    assert verdict == Text(
        text="new is better: +10.00 points accuracy (+5.00 to +20.00), 40 rows in 12 groups.",
        tone="good",
    )
    grid = next(b for b in found["differences"].blocks if isinstance(b, Grid))
    assert grid.rows[0] == ("accuracy", "+10.00", "+5.00 to +20.00", "0.001", "new")
    assert grid.rows[1] == ("log loss", "-0.3000", "-0.5000 to -0.1000", "0.001", "new")


def test_no_evidence_is_said_of_both(describe: Any) -> None:
    (verdict,) = describe(make_comparison(SAME))["verdict"].blocks
    assert verdict.tone == "plain"
    assert verdict.text.startswith("new against old: no evidence of a difference")


def test_stamps_and_faults_are_told(describe: Any) -> None:
    blocks = describe(make_comparison(SAME, stamps=("LEAK",), notes=("so it is",)))[
        "verdict"
    ].blocks
    assert [(b.text, b.tone) for b in blocks[1:]] == [("LEAK", "bad"), ("So it is.", "plain")]
    found = describe(None, "other rows.")
    assert found["verdict"].blocks[0].text == "new cannot be compared with old: other rows."
    assert found["differences"].blocks == ()
    assert any(getattr(b, "tone", "") == "warn" for b in found["scores"].blocks)


def test_a_proof_shows_its_sections_after_minus_before(describe: Any) -> None:
    gain = replace(WORSE, value=0.1, low=0.05, high=0.2)
    section = ProofSection(kind="given", rows=40, groups=12, before=0.8, after=0.9, difference=gain)
    proof = Proof(sections=(section,), answer="helped", verdict="cleaning helped", remarks=("but",))
    found = describe(make_comparison(WORSE, proof=proof))
    assert found["verdict"].blocks[0].tone == "good"
    assert found["verdict"].blocks[1] == Text(text="But.", tone="warn")
    (grid,) = found["differences"].blocks
    assert grid.rows[0][2:5] == ("0.800", "0.900", "+10.00")
    assert grid.rows[0][-1] == "new"
    assert any("own" in getattr(b, "text", "") for b in found["scores"].blocks)


def test_a_run_beside_itself_does_not_differ(describe: Any, finished: Any) -> None:
    found = describe(compare(finished, finished))
    assert "no evidence" in found["verdict"].blocks[0].text
    assert found["recipes"].blocks[1] == Text(text="The recipes are the same.")
    charts = [b for s in found.values() for b in s.blocks if isinstance(b, Chart)]
    assert len({chart.name for chart in charts}) == len(charts) >= 2


def test_scores_of_all_lines_are_in_the_csv() -> None:
    lines = [f"<b>고양이 {number}</b>" for number in range(MOST_LINES + 9)]
    names = [f"run {number} with a long name" for number in range(MOST_RUNS)]
    scores = [[make_score(0.5, 0.4, 0.6), *[None] * (len(lines) - 1)] for _ in names]
    chart = draw_scores(lines, scores, names, name="x", title="T", what="F1")
    assert len(chart.rows) == len(lines) * len(names)
    assert chart.rows[0] == (lines[0], names[0], "0.5", "0.4", "0.6")
    assert chart.rows[1][2:] == ("", "", "")
    assert "&lt;b&gt;고양이 0&lt;/b&gt;" in chart.svg
    assert f"고양이 {MOST_LINES}" not in chart.svg
    assert "run 0 with a long name 0.500 (0.400 to 0.600)" in chart.alt


def test_scores_without_a_value_leave_no_dot() -> None:
    chart = draw_scores(["a"], [[make_score(NAN)]], ["r"], name="x", title="T", what="F1")
    assert chart.rows == (("a", "r", "", "", ""),)


def test_differences_say_their_first_in_words() -> None:
    chart = draw_differences([("new", [WORSE])], "old", name="x", title="T")
    assert chart.alt == "T. new: -10.00 points accuracy (-20.00 to -5.00)."
    assert chart.rows == (("new", "accuracy", "-0.1", "-0.2", "-0.05"),)
