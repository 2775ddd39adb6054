"""What must worry is named, what need not is not, and the worst comes first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loupe.checking import CheckReport
from loupe.findings import Finding
from loupe.intervals import Score
from loupe.issues import IssueSheet
from loupe.maskcuts import NEVER_AREA, Candidate, MaskCut
from loupe.maskrules import MaskRule, write_mask_rule
from loupe.runs import Run
from loupe.table import HOLDOUT, Quarantined, Table
from loupe.worries import FEW_GROUPS, FEW_ROWS, Case, list_worries, name_classes

ROWS = 400


def make_score(
    metric: str, value: float, name: str = "", *, width: float = 0.04, spread: float = 0.01
) -> Score:
    return Score(
        metric=metric,
        class_name=name,
        value=value,
        low=value - width / 2,
        high=value + width / 2,
        fold_mean=value,
        fold_std=spread,
        n=ROWS,
    )


def make_case(*scores: Score, masks: bool = False, **changes: Any) -> Case:
    """A run that gives no reason to worry."""
    targets = np.zeros((ROWS, 2), np.float32)
    targets[np.arange(ROWS), np.arange(ROWS) % 2] = 1
    names = tuple(f"{row}.png" for row in range(ROWS))
    table = Table(
        ids=names,
        images=tuple(Path(name) for name in names),
        classes=("a", "b"),
        targets=targets,
        exclusive=not masks,
        folds=np.where(np.arange(ROWS) < 9, HOLDOUT, np.arange(ROWS) % 3).astype(np.int16),
    )
    found = {(each.metric, each.class_name): each for each in scores}
    case = Case(
        run=Run(Path("run"), ("m",), (0, 1, 2), segments=masks),
        table=table,
        scores=found,
        stamps=(),
        judged=None,
        check=None,
        issues=None,
    )
    return replace(case, **changes)


def texts(case: Case) -> list[str]:
    return [f"{each.tone}: {each.text}" for each in list_worries(case)]


GOOD = (make_score("accuracy", 0.9), make_score("f1", 0.9, "a"), make_score("f1", 0.8, "b"))


def test_a_sound_run_gives_no_reason() -> None:
    assert texts(make_case(*GOOD)) == []


def test_stamps_come_first_and_relabelled_is_milder() -> None:
    said = ("RELABELLED: 3 label(s)", "LEAK: copies", "OPTIMISTIC: peeked")
    found = texts(make_case(make_score("accuracy", 0.9, width=0.3), stamps=said))
    assert found[:3] == ["bad: LEAK: copies", "bad: OPTIMISTIC: peeked", f"warn: {said[0]}"]
    assert "interval is wide: accuracy 0.900 (0.750 to 1.050)" in found[3]


def make_check(*findings: Finding) -> CheckReport:
    return CheckReport(
        rows=2, findings=findings, class_counts={}, classes_per_image={}, group_sizes={},
        copy_sizes={}, sizes=None, copies=(), groups=(),  # type: ignore[arg-type]
    )  # fmt: skip


def test_near_copies_with_other_labels_are_counted() -> None:
    findings = [
        Finding(id=name, finding="near-contradiction", severity="note", detail="odd")
        for name in ("a.png", "b.png")
    ]
    assert texts(make_case(*GOOD, check=make_check(*findings))) == [
        "warn: 2 rows have a near copy with another label: look for wrong labels there."
    ]


def test_what_must_be_fixed_is_counted() -> None:
    finding = Finding(id="a.png", finding="truncated", severity="fix", detail="cut")
    report = make_check(finding, finding)
    assert texts(make_case(*GOOD, check=report))[0].startswith("bad: 1 image(s) cannot be read")
    assert texts(make_case(*GOOD, check=replace(report, findings=()))) == []


def test_weak_and_lost_classes_are_named() -> None:
    scores = (
        make_score("recall", 0.0, "a"),
        make_score("f1", 0.0, "a"),
        make_score("recall", 0.4, "b"),
        make_score("f1", 0.49, "b"),
    )
    found = texts(make_case(*scores))
    assert found == ["bad: Never found: 'a'.", "warn: Weak (F1 below 0.5): 'b' (0.49)."]


def test_masks_no_better_than_none_are_named() -> None:
    scores = [make_score("all_empty", 0.9, name) for name in ("", "a", "b")]
    scores += [
        make_score("dice_per_pair_empty1", value, n)
        for n, value in zip(("", "a", "b"), (0.92, 0.89, 0.95), strict=True)
    ]
    assert texts(make_case(*scores, masks=True)) == [
        "bad: Masks score no more than empty ones for 'a'."
    ]


def test_cuts_that_never_draw_and_masks_that_are_missed_are_named(tmp_path: Path) -> None:
    half = Candidate(threshold=0.5)
    cuts = tuple(MaskCut(top=half, bottom=half, min_area=area) for area in (NEVER_AREA, 9))
    rule = MaskRule(classes=("a", "<b>"), kind="area", cuts=cuts)
    run = Run(tmp_path, ("m",), (0, 1, 2), segments=True)
    write_mask_rule(run.cuts_file, rule)
    scores = (
        make_score("recall", 0.1, "a"),
        make_score("recall", 0.6, "b"),
    )
    assert texts(make_case(*scores, masks=True, run=run)) == [
        "bad: Never drawn on new images: 'a'.",
        "warn: Less than half of the given masks are found: 'a' (40 of 400, 32 to 48).",
    ]
    write_mask_rule(run.cuts_file, replace(rule, cuts=cuts[1:] * 2))
    assert len(texts(make_case(*scores, masks=True, run=run))) == 1


@pytest.mark.parametrize(("count", "told"), [(FEW_ROWS - 1, True), (FEW_ROWS, False)])
def test_few_rows_are_counted(count: int, told: bool) -> None:  # noqa: FBT001
    case = make_case(*GOOD)
    targets = np.zeros((ROWS, 2), np.float32)
    # Rows that no fold holds out are not scored, so they do not count.
    targets[: 9 + count, 0] = 1
    targets[9 + count :, 1] = 1
    found = texts(replace(case, table=replace(case.table, targets=targets)))
    assert found == ([f"warn: Few images, so little can be said: 'a' ({count})."] if told else [])


@pytest.mark.parametrize(("count", "told"), [(FEW_GROUPS - 1, True), (FEW_GROUPS, False)])
def test_few_groups_are_counted(count: int, told: bool) -> None:  # noqa: FBT001
    case = make_case(*GOOD)
    # Class a (even rows, of which five are set aside) stands in few groups, each row of b alone.
    groups = tuple(str(row // 2 % count) if row % 2 == 0 else f"b{row}" for row in range(ROWS))
    found = texts(replace(case, table=replace(case.table, groups=groups)))
    assert bool(found) == told
    assert not told or f"'a' ({count})" in found[0]


def test_folds_that_differ_are_told_beyond_chance_alone() -> None:
    # An interval of 0.04 is a deviation of 0.01 of the mean of three folds, 0.018 of one.
    assert texts(make_case(make_score("accuracy", 0.9, spread=0.03))) == []
    (found,) = texts(make_case(make_score("accuracy", 0.9, spread=0.05)))
    assert "Folds differ more than chance explains" in found
    assert "deviation 0.050" in found


def test_probabilities_that_mislead_are_told() -> None:
    error = make_score("expected_calibration_error", 0.08)
    (found,) = texts(make_case(*GOOD, error))
    assert "off by 8 points" in found
    assert texts(make_case(*GOOD, replace(error, low=0.0))) == []
    assert texts(make_case(*GOOD, replace(error, value=0.04))) == []


def test_wrong_labels_are_told_by_the_worst_class() -> None:
    rates = [
        {"class_name": n, "given": "", "rows": 9, "rate": r, "low": r - 0.02, "high": r + 0.05}
        for n, r in (("a", 0.1), ("b", 0.2))
    ]
    sheet = IssueSheet(issues=(), origin={"rates": rates})
    (found,) = texts(make_case(*GOOD, issues=sheet))
    assert "20 of 100 labels of 'b' are estimated wrong (18 to 25)" in found
    quiet = IssueSheet(issues=(), origin={"rates": [{**rates[0], "low": 0.01}]})
    assert texts(make_case(*GOOD, issues=quiet)) == []


def test_rows_set_aside_and_a_missing_last_test_are_told() -> None:
    case = make_case(*GOOD)
    table = replace(case.table, folds=(np.arange(ROWS) % 3).astype(np.int16))
    table = replace(table, quarantined=(Quarantined(id="x", reason="cut"),))
    found = texts(replace(case, table=table))
    assert found[0].startswith("warn: 1 image(s) were set aside")
    assert found[1].startswith("plain: No rows were set aside for a last test")


def test_many_names_are_shortened() -> None:
    assert name_classes([str(n) for n in range(20)]).endswith("and 12 more")
