"""Deciding: a rule for new rows, and scores from rules that never saw the row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmarks.null_labels import summarise, try_exclusive, try_standing
from numpy.testing import assert_allclose

from loupe.calibration import Calibration, calibrate
from loupe.deciding import apply_part_rules, decide_evidence, pool_evidence, write_decision
from loupe.errors import InputError
from loupe.evidence import Evidence, make_evidence, mix
from loupe.goals import Request
from loupe.intervals import score
from loupe.metrics import to_decisions
from loupe.rules import apply_rule, read_part_rules, read_rule
from loupe.testing import make_predictions
from loupe.thresholds import find_cuts, read_goal
from loupe.worth import rescale


def make(
    n: int = 400, classes: int = 3, *, exclusive: bool = False, groups: int | None = None, **more
) -> Evidence:
    sheet = make_predictions(n, classes, exclusive=exclusive, groups=groups, quality=0.4, **more)
    return make_evidence(
        sheet.targets,
        [sheet.probs],
        exclusive=exclusive,
        classes=[f"c{k}" for k in range(classes)],
        folds=sheet.folds,
        groups=sheet.groups,
    )


def find(scores, metric: str, class_name: str = ""):
    return next(s for s in scores if (s.metric, s.class_name) == (metric, class_name))


def test_each_part_is_decided_by_what_the_others_chose() -> None:
    evidence = make()
    goal = read_goal("recall:0.9")
    made = decide_evidence(evidence, Request(goals={"": "recall:0.9"}, calibration="none"))
    truth, probs = evidence.targets >= 0.5, evidence.members[0]
    decided = np.zeros(truth.shape, bool)
    for part, rule in enumerate(made.part_rules):
        others, mine = evidence.parts != part, evidence.parts == part
        cuts = find_cuts(truth[others], probs[others], [goal] * 3)
        assert rule.thresholds == tuple(cut.threshold for cut in cuts)
        decided[mine] = to_decisions(probs[mine], exclusive=False, thresholds=rule.thresholds)
    expected = score(
        evidence.targets, probs, exclusive=False, classes=evidence.classes, decisions=decided,
        folds=evidence.parts, groups=evidence.groups,
    )  # fmt: skip
    assert made.scores == expected
    everything = find_cuts(truth, probs, [goal] * 3)
    assert made.rule.thresholds == tuple(cut.threshold for cut in everything)
    assert min(find(made.in_sample, "recall", c).value for c in evidence.classes) >= 0.9


def test_goals_of_single_classes_stand_beside_that_of_all() -> None:
    made = decide_evidence(make(), Request(goals={"": "precision:0.8", "c1": "fixed:0.25"}))
    assert made.rule.goals == ("precision:0.8", "fixed:0.25", "precision:0.8")
    assert made.rule.thresholds[1] == 0.25


@pytest.mark.parametrize(
    ("wish", "exclusive", "told"),
    [
        (Request(goals={"c9": "f1"}), False, "which is no class; expected one of c0"),
        (Request(goals={"": "f9000x"}), False, "goal"),
        (Request(calibration="plat"), False, "did you mean 'platt'"),
        (Request(goals={"": "recall:0.9"}), True, "exclusive"),
        (Request(goals={"c1": "f1"}), True, "exclusive"),
        (Request(pool="median"), False, "mean or max"),
    ],
)
def test_requests_that_do_not_suit_are_refused(
    wish: Request, *, exclusive: bool, told: str
) -> None:
    with pytest.raises(InputError, match=told):
        decide_evidence(make(exclusive=exclusive), wish)


def test_known_miscalibration_is_undone() -> None:
    evidence = make(3000, 2)
    sharpened = (evidence.members[0] ** 3).astype(np.float32)
    made = decide_evidence(replace(evidence, members=(sharpened,)), resamples=50)
    assert made.rule.calibration.kind != "none"
    repaired = calibrate(made.rule.calibration, sharpened, exclusive=False)
    assert np.abs(repaired - evidence.members[0]).mean() < 0.03
    plain = score(evidence.targets, sharpened, exclusive=False, classes=evidence.classes)
    assert find(made.scores, "log_loss").value < find(plain, "log_loss").value - 0.02


def test_what_is_left_of_two_folds_is_fitted_as_the_whole_is() -> None:
    evidence = make(600, 2)
    halves = replace(evidence, parts=evidence.groups % 2, part_names=("0", "1"))
    squared = replace(halves, members=((halves.members[0] ** 3).astype(np.float32),))
    made = decide_evidence(squared, resamples=20)
    kinds = {rule.calibration.kind for rule in (made.rule, *made.part_rules)}
    assert "none" not in kinds


def test_thresholds_of_other_calibrations_are_measured_on_one_scale() -> None:
    evidence = make(400, 2)
    made = decide_evidence(evidence, Request(goals={"": "recall:0.9"}, calibration="none"))
    platt = Calibration(kind="platt", slopes=(0.5, 2.0), intercepts=(-1.0, 1.0))
    ordered = np.sort(evidence.members[0], axis=0)
    rows = [150, 250]
    mapped = calibrate(platt, ordered, exclusive=False)
    part = replace(
        made.rule,
        calibration=platt,
        thresholds=tuple(float(mapped[r, c]) for c, r in enumerate(rows)),
    )
    (found,) = rescale(made.rule, [part], evidence.members[0])
    assert_allclose(found, [ordered[r, c] for c, r in enumerate(rows)])


def test_exclusive_rows_are_rejected_until_the_others_are_right() -> None:
    evidence = make(2000, 3, exclusive=True)
    made = decide_evidence(evidence, Request(goals={"": "precision:0.9"}))
    taken = find(made.scores, "accuracy_accepted")
    assert taken.low <= 0.9 <= taken.high
    assert 0.1 < find(made.scores, "accepted").value < 0.9
    (only,) = made.thresholds
    assert only.class_name == "accepted"
    assert only.precision.low <= 0.9 <= only.precision.high
    decided = apply_rule(made.rule, evidence.members[0], classes=evidence.classes)
    assert (decided.decisions.any(axis=1) == ~decided.review).all()


def test_parts_that_were_dealt_are_not_told_as_folds() -> None:
    evidence = make(200, 2)
    single = make_evidence(
        evidence.targets, evidence.members, exclusive=False, classes="ab", folds=[0] * 200
    )
    dealt = decide_evidence(single, resamples=20)
    assert len(dealt.part_rules) == 5
    assert all(np.isnan(s.fold_mean) for s in dealt.scores)
    folded = decide_evidence(evidence, resamples=20)
    assert not np.isnan(find(folded.scores, "f1_macro").fold_mean)


def test_argmax_needs_no_threshold() -> None:
    made = decide_evidence(make(exclusive=True))
    assert (made.thresholds, made.rule.goals) == ((), ("argmax",))


def test_coverage_is_kept_on_rows_that_chose_nothing() -> None:
    made = decide_evidence(make(3000, 2, groups=1500), Request(coverage=0.9), resamples=20)
    assert [(c.class_name, c.side) for c in made.coverage][:2] == [
        ("c0", "present"),
        ("c0", "absent"),
    ]
    assert all(c.low <= 0.93 and c.high >= 0.9 for c in made.coverage)
    assert 0 < made.reviewed < 1


def test_rows_without_groups_cannot_be_decided_by_group() -> None:
    with pytest.raises(InputError, match="nothing to decide by group"):
        decide_evidence(make(60, 1), Request(pool="max"))


def test_a_group_becomes_one_row() -> None:
    evidence = make(300, 2, groups=100)
    pooled = pool_evidence(evidence, "max")
    assert len(pooled) == 100
    for group in (0, 57):
        rows = evidence.groups == group
        assert_allclose(pooled.members[0][group], evidence.members[0][rows].max(axis=0))
        assert pooled.targets[group].tolist() == evidence.targets[rows].max(axis=0).tolist()
        assert pooled.parts[group] == evidence.parts[rows][0]
    made = decide_evidence(evidence, Request(pool="auto"))
    assert (made.rows, made.rule.pool) == (100, "max")


def test_groups_are_pooled_after_members_are_mixed() -> None:
    evidence = make(300, 2, groups=100)
    members = (evidence.members[0], np.float32(1 - evidence.members[0]))
    weights = np.array([[1, 0], [0, 1], [0.5, 0.5], [0.5, 0.5], [0.3, 0.7]])
    fitted = replace(evidence, members=members, weights=weights[4], part_weights=weights)
    pooled = pool_evidence(fitted, "max")
    mixed = mix(members, weights[1])
    assert_allclose(pooled.members[1][3], mixed[evidence.groups == 3].max(axis=0))
    assert pooled.part_weights is not None
    assert pooled.part_weights[1].tolist() == [0, 1, 0, 0, 0, 0]


def test_exclusive_groups_must_agree() -> None:
    evidence = make(60, 2, exclusive=True, groups=20)
    odd = evidence.targets.copy()
    odd[0] = odd[0, ::-1]
    with pytest.raises(InputError, match="1 group"):
        pool_evidence(replace(evidence, targets=odd), "mean")


def test_a_decision_survives_its_file(tmp_path: Path) -> None:
    evidence = make()
    made = decide_evidence(evidence, Request(coverage=0.8), resamples=20)
    write_decision(made, tmp_path / "rule.json", source="here")
    assert read_rule(tmp_path / "rule.json") == made.rule
    rules = read_part_rules(tmp_path / "rule.json")
    assert list(rules) == list(made.parts)
    held = apply_part_rules(evidence, tuple(rules.values()))
    again = find(made.scores, "exact_match").value
    assert (held.decisions == (evidence.targets >= 0.5)).all(axis=1).mean() == pytest.approx(again)


def test_a_class_without_positives_does_not_stop_the_others() -> None:
    evidence = make()
    targets = evidence.targets.copy()
    targets[:, 1] = 0
    made = decide_evidence(replace(evidence, targets=targets), Request(goals={"": "recall:0.9"}))
    assert not made.thresholds[1].attained
    assert any("c1" in warning for warning in made.warnings)
    assert np.isnan(find(made.scores, "recall", "c1").value)


def test_labels_that_mean_nothing_score_as_chance() -> None:
    """Eight seeds of `benchmarks/null_labels.py`; forty by the slow test below."""
    for attempt in (try_exclusive, try_standing):
        found = summarise([attempt(seed) for seed in range(8)], exact=True)
        assert found["honest"]["covered"] >= 6
        assert abs(found["honest"]["mean score"] - found["honest"]["mean truth"]) < 0.02
        assert found["flattering"]["mean score"] > found["honest"]["mean score"] + 0.01


@pytest.mark.slow
def test_labels_that_mean_nothing_score_as_chance_in_36_of_40() -> None:
    for attempt in (try_exclusive, try_standing):
        found = summarise([attempt(seed) for seed in range(40)], exact=True)
        assert found["honest"]["covered"] >= 36
        if attempt is try_exclusive:
            assert found["honest"]["width / exact"] <= 1.5
