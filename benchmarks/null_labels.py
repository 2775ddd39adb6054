"""Null test: labels that mean nothing, through the whole path of decisions.

Labels of 200 rows are shuffled, five members are blended, calibrated and cut by
thresholds. Whatever is then reported as a score should be the score of chance, and its
95 % interval should hold it. Beside it stands what everyone prints: weights, calibration
and thresholds chosen on the rows they are scored on.

    python -m benchmarks.null_labels [--seeds 40]
"""

from __future__ import annotations

import argparse
import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.measuring import ROOT, describe_machine, read_commit, write_result
from scipy.stats import beta

from loupe.blending import choose_weights, fit_weights
from loupe.calibrating import fit_calibration
from loupe.calibration import calibrate
from loupe.deciding import decide_evidence
from loupe.evidence import Evidence, make_evidence, mix
from loupe.folds import assign_folds
from loupe.goals import Request
from loupe.intervals import Score, score
from loupe.metrics import to_decisions
from loupe.records import list_versions
from loupe.testing import make_predictions
from loupe.thresholds import find_cuts, read_goal

ROWS, CLASSES, MEMBERS = 200, 4, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One seed.

    Attributes:
        truth: The score that chance has.
        honest: Cross-fitted.
        flattering: In-sample.
    """

    truth: float
    honest: Score
    flattering: Score


def shuffle_labels(seed: int, *, exclusive: bool) -> Evidence:
    """Make five members that predict something else than the labels."""
    rng = np.random.default_rng(seed)
    sheets = [
        make_predictions(ROWS, CLASSES, exclusive=exclusive, quality=0.5, seed=1000 * seed + k)
        for k in range(MEMBERS)
    ]
    if exclusive:
        targets = np.eye(CLASSES, dtype=np.float32)[rng.permutation(np.arange(ROWS) % CLASSES)]
    else:
        targets = np.float32(rng.permutation(sheets[0].targets))
    names = [str(c) for c in range(CLASSES)]
    ids = [str(row) for row in range(ROWS)]
    folds = assign_folds(targets, None, ids=ids, classes=names, folds=5, seed=seed).folds
    return make_evidence(
        targets, [s.probs for s in sheets], exclusive=exclusive, classes=names, folds=folds
    )


def find_score(scores: tuple[Score, ...], metric: str) -> Score:
    return next(s for s in scores if s.metric == metric and not s.class_name)


def try_exclusive(seed: int) -> Trial:
    """Accuracy of argmax; chance is 1 in 4, whatever is decided."""
    evidence = shuffle_labels(seed, exclusive=True)
    made = choose_weights(evidence, method="simplex")
    fitted = replace(evidence, weights=made.weights, part_weights=made.part_weights)
    decision = decide_evidence(fitted)
    weights = fit_weights(
        evidence.targets, evidence.members, exclusive=True, method="greedy", metric="accuracy"
    )
    probs = mix(evidence.members, weights)
    isotonic = fit_calibration("isotonic", evidence.targets, probs, exclusive=True)
    inside = score(
        evidence.targets,
        calibrate(isotonic, probs, exclusive=True),
        exclusive=True,
        classes=evidence.classes,
    )
    return Trial(
        truth=1 / CLASSES,
        honest=find_score(decision.scores, "accuracy"),
        flattering=find_score(inside, "accuracy"),
    )


def try_standing(seed: int) -> Trial:
    """Macro F1 of thresholds; chance at prevalence m, deciding a share d: 2 m d / (m + d)."""
    evidence = shuffle_labels(seed, exclusive=False)
    made = choose_weights(evidence, method="simplex")
    fitted = replace(evidence, weights=made.weights, part_weights=made.part_weights)
    decision = decide_evidence(fitted, Request(goals={"": "f1"}))
    by_class = {(s.metric, s.class_name): s.value for s in decision.scores}
    chance = []
    for name in evidence.classes:
        prevalence = by_class["prevalence", name]
        right = by_class["recall", name] * prevalence
        precision = by_class["precision", name]
        share = right / precision if precision > 0 else float(right > 0)
        chance.append(2 * prevalence * share / (prevalence + share))
    weights = fit_weights(evidence.targets, evidence.members, exclusive=False, method="simplex")
    probs = mix(evidence.members, weights)
    truth = to_decisions(evidence.targets, exclusive=False)
    cuts = find_cuts(truth, probs, [read_goal("f1")] * CLASSES)
    thresholds = [cut.threshold for cut in cuts]
    inside = score(
        evidence.targets, probs, exclusive=False, classes=evidence.classes, thresholds=thresholds
    )
    return Trial(
        truth=float(np.mean(chance)),
        honest=find_score(decision.scores, "f1_macro"),
        flattering=find_score(inside, "f1_macro"),
    )


def exact_width(share: float, rows: int) -> float:
    """Width of Clopper and Pearson's 95 % interval."""
    hits = round(share * rows)
    low = beta.ppf(0.025, hits, rows - hits + 1)
    return float(beta.ppf(0.975, hits + 1, rows - hits) - low)


def summarise(trials: list[Trial], *, exact: bool) -> dict[str, dict[str, float]]:
    """Count the intervals that hold the truth, and measure them."""
    found = {}
    for name in ("honest", "flattering"):
        scores = [(trial.truth, getattr(trial, name)) for trial in trials]
        widths = [s.high - s.low for _, s in scores]
        found[name] = {
            "covered": sum(s.low <= truth <= s.high for truth, s in scores),
            "of": len(scores),
            "mean score": float(np.mean([s.value for _, s in scores])),
            "mean truth": float(np.mean([truth for truth, _ in scores])),
            "median width": float(np.median(widths)),
        }
        if exact:
            ideal = [exact_width(s.value, ROWS) for _, s in scores]
            found[name]["width / exact"] = float(np.median(widths) / np.median(ideal))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    args = parser.parse_args(arguments)
    tables = {}
    for title, attempt, exact in (
        (f"accuracy, {CLASSES} exclusive classes", try_exclusive, True),
        (f"macro F1, {CLASSES} classes that stand alone", try_standing, False),
    ):
        tables[title] = summarise([attempt(seed) for seed in range(args.seeds)], exact=exact)
        print(title, tables[title])
    result = {
        "benchmark": "null-labels",
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "job": {"data": "shuffled", "rows": ROWS, "classes": CLASSES, "members": MEMBERS},
        "machine": describe_machine(),
        "versions": list_versions(),
        "commit": read_commit(),
        "tables": tables,
    }
    write_result(args.results, result, write_page(result, args.seeds))


def write_page(result: dict[str, Any], seeds: int) -> str:
    lines = [
        f"# Labels that mean nothing: {seeds} seeds, {ROWS} rows, a blend of {MEMBERS}",
        "",
        f"{result['date']}, commit {result['commit']}",
    ]
    for title, found in result["tables"].items():
        lines += ["", f"## {title}", "", "| | " + " | ".join(found["honest"]) + " |"]
        lines.append("|---" * (1 + len(found["honest"])) + "|")
        for name, told in (("honest", "cross-fitted"), ("flattering", "in-sample")):
            cells = " | ".join(f"{value:.3g}" for value in found[name].values())
            lines.append(f"| {told} | {cells} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
