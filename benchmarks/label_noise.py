"""Which labels are wrong? Our rankings and rules beside cleanlab's, where the truth is known.

People's labels of CIFAR-10 images (CIFAR-10N), and labels planted wrong in a table of paintings
and in the demo's tiles. All sides are given the same out-of-fold probabilities of a frozen
network, whose heads were solved on the wrong labels.

    python -m benchmarks.label_noise --cifar DATA --art DATA --weights W --work DIR

Sheets are kept under DIR, so that the tables can be made again in a minute.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.label_noise_pages import write_page
from benchmarks.label_noise_speed import compare_imports, compare_speed
from benchmarks.measuring import ROOT, describe_machine, name_result, read_commit, write_result
from benchmarks.noisy_labels import (
    Case,
    Features,
    keep_sheet,
    label,
    number_groups,
    open_art,
    open_cifar,
    open_tiles,
    plant,
    plant_cells,
    read_human,
    stand_alone,
)
from benchmarks.target_recall import write_csv
from cleanlab.filter import find_label_issues
from cleanlab.multilabel_classification import get_label_quality_scores as score_rows
from cleanlab.multilabel_classification.rank import get_label_quality_scores_per_class
from cleanlab.rank import get_label_quality_scores

from loupe.auditrules import (
    PLAIN,
    RULES,
    Asking,
    Judged,
    Question,
    ask_questions,
    judge,
    look_around,
)
from loupe.intervals import bootstrap_weights
from loupe.noise import count_joint
from loupe.noiserates import estimate_rates
from loupe.ranking import average_precision
from loupe.records import list_versions

SECOND = "vit_tiny_patch16_224"
"""Asked beside the first network, for the rule `agreement`."""
OURS, PLAIN_OURS = "loupe", "loupe, no features"
SCORES = {
    "self_confidence": ("self_confidence", False),
    "self_confidence, adjusted": ("self_confidence", True),
    "normalized_margin": ("normalized_margin", False),
    "normalized_margin, adjusted": ("normalized_margin", True),
    "confidence_weighted_entropy": ("confidence_weighted_entropy", False),
}
"""cleanlab's rankings: method, and whether probabilities are adjusted."""
FILTERS = {
    "prune_by_noise_rate": "by_noise_rate",
    "prune_by_class": "by_class",
    "both": "both",
    "confident_learning": "confident_joint",
    "predicted_neq_given": "disagree",
    "low_self_confidence": "",
    "low_normalized_margin": "",
}
"""cleanlab's rules, and which of ours is to be the same."""
RESAMPLES = 500
ENDS = ("rate", "low", "high")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """A case and what was held out of it.

    Attributes:
        case: With the labels.
        features: Of its table.
        probs: (N, C) out-of-fold, rows summing to 1 where classes are exclusive.
        second: The same of another network; None where it was not asked.
    """

    case: Case
    features: Features
    probs: np.ndarray
    second: np.ndarray | None

    def questions(self) -> list[Question]:
        return ask(self, [self.probs])

    def judge(self, asking: Asking, questions: Sequence[Question]) -> list[Judged]:
        """Judge as an audit does, neighbours asked."""
        groups = number_groups(self.features.table)
        around = look_around(self.features.plain, groups, questions)
        return [
            judge(question, asking, around.of(number), mates=around.mates[number])
            for number, question in enumerate(questions)
        ]


def ask(sheet: Sheet, members: Sequence[np.ndarray]) -> list[Question]:
    table = label(sheet.features.table, sheet.case.given)
    mean = np.mean(members, axis=0)
    words = ("no", "yes")
    return ask_questions(
        table.targets, members, mean, table.classes, words, exclusive=table.exclusive
    )


def main(arguments: Sequence[str] | None = None) -> None:
    args = read_arguments(arguments)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="cleanlab")
    start = time.perf_counter()
    rankings: list[dict[str, Any]] = []
    rules: list[dict[str, Any]] = []
    rates: list[dict[str, Any]] = []
    for sheet in list_sheets(args):
        rankings += rank_sheet(sheet)
        rules += try_rules(sheet)
        rates.append(compare_rates(sheet))
    result = {
        "benchmark": "label-noise",
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "job": {
            "data": "-".join(dict.fromkeys(each["data"] for each in rates)),
            "rows": max(each["rows"] for each in rates),
            "seeds": args.seeds,
            "second": SECOND,
        },
        "machine": describe_machine() | {"load": [round(x, 2) for x in os.getloadavg()]},
        "versions": list_versions() | {"cleanlab": metadata.version("cleanlab")},
        "commit": read_commit(),
        "seconds": round(time.perf_counter() - start, 1),
        "rankings": summarise_rankings(rankings),
        "rules": summarise_rules(rules),
        "rates": rates,
        "same": count_differing(rules),
        "speed": compare_speed(args.speed_rows),
        "imports": compare_imports(),
    }
    write_result(args.results, result, write_page(result))
    write_csv(args.results / f"{name_result(result)}.csv", rankings)
    write_csv(args.results / f"{name_result(result)}-rules.csv", rules)


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--cifar", type=Path, help="labels.csv with columns of people, images")
    parser.add_argument("--art", type=Path, help="labels.csv taken to be sound, images")
    parser.add_argument("--weights", type=Path, help="folder of safetensors files")
    parser.add_argument("--work", type=Path, required=True, help="where sheets are kept")
    parser.add_argument("--no-tiles", action="store_true", help="leave the demo's tiles out")
    parser.add_argument("--seeds", type=int, default=3, help="of planted labels")
    parser.add_argument("--first-art-seed", type=int, default=3)
    parser.add_argument("--speed-rows", type=int, default=1_000_000)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    return parser.parse_args(arguments)


def list_sheets(args: argparse.Namespace) -> Iterator[Sheet]:
    first = args.first_art_seed
    if args.cifar:
        features = open_cifar(args.cifar, args.weights, args.work)
        yield from make_sheets(features, read_human(args.cifar, features.table), args.work)
    if args.art:
        name = args.art.name
        features = open_art(args.art, args.weights, args.work)
        second = open_art(args.art, args.weights, args.work, SECOND)
        cases = (
            c for k in range(first, first + args.seeds) for c in plant(name, features.table, k)
        )
        yield from make_sheets(features, cases, args.work, second)
    if not args.no_tiles:
        features = open_tiles(args.weights, args.work)
        cases = (c for k in range(args.seeds) for c in plant("demo-tiles", features.table, k))
        yield from make_sheets(features, cases, args.work)
        alone = stand_alone(features, args.work)
        cells = (c for k in range(args.seeds) for c in plant_cells("demo-tiles", alone.table, k))
        yield from make_sheets(alone, cells, args.work)


def make_sheets(
    features: Features, cases: Iterator[Case], work: Path, second: Features | None = None
) -> Iterator[Sheet]:
    for case in cases:
        sheets = [keep_sheet(features, case, work).astype(np.float64)]
        if second is not None:
            sheets.append(keep_sheet(second, case, work, SECOND).astype(np.float64))
        if features.table.exclusive:
            sheets = [sheet / sheet.sum(axis=1, keepdims=True) for sheet in sheets]
        yield Sheet(
            case=case,
            features=features,
            probs=sheets[0],
            second=sheets[1] if second is not None else None,
        )


def rank_sheet(sheet: Sheet) -> Iterator[dict[str, Any]]:
    """Return the average precision of every ranking; of cells and of rows where there are both."""
    case, groups = sheet.case, number_groups(sheet.features.table)
    wrong = case.given != case.true
    if sheet.features.table.exclusive:
        yield measure_rankings(case, case.name, wrong, groups, rank_labels(sheet))
        return
    cells = {name: found.ravel() for name, found in rank_cells(sheet).items()}
    by_cell = np.repeat(groups, wrong.shape[1])
    yield measure_rankings(case, f"{case.name}: cells", wrong.ravel(), by_cell, cells)
    rows = {name: found.min(axis=1) for name, found in rank_cells(sheet, ours_only=True).items()}
    lists = [np.flatnonzero(line).tolist() for line in case.given]
    for name, (method, adjusted) in SCORES.items():
        rows[name] = score_rows(lists, sheet.probs, method=method, adjust_pred_probs=adjusted)
    yield measure_rankings(case, f"{case.name}: rows", wrong.any(axis=1), groups, rows)


def rank_labels(sheet: Sheet) -> dict[str, np.ndarray]:
    """Return the quality of each label by every ranking."""
    (question,) = sheet.questions()
    (judged,) = sheet.judge(Asking(), [question])
    found = {OURS: judged.quality, PLAIN_OURS: judge(question, Asking()).quality}
    for name, (method, adjusted) in SCORES.items():
        found[name] = get_label_quality_scores(
            sheet.case.given, sheet.probs, method=method, adjust_pred_probs=adjusted
        )
    return found


def rank_cells(sheet: Sheet, *, ours_only: bool = False) -> dict[str, np.ndarray]:
    """Return the quality of each cell, (N, C), by every ranking."""
    questions = sheet.questions()
    judged = {
        OURS: sheet.judge(Asking(), questions),
        PLAIN_OURS: [judge(question, Asking()) for question in questions],
    }
    found = {name: np.stack([j.quality for j in each], axis=1) for name, each in judged.items()}
    lists = [np.flatnonzero(line).tolist() for line in sheet.case.given]
    for name, (method, adjusted) in {} if ours_only else SCORES.items():
        scores = get_label_quality_scores_per_class(
            lists, sheet.probs, method=method, adjust_pred_probs=adjusted
        )
        found[name] = np.asarray(scores).reshape(sheet.probs.shape)
    return found


def measure_rankings(
    case: Case, name: str, wrong: np.ndarray, groups: np.ndarray, found: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Return the average precision of each ranking, and the interval of our lead."""

    def measure(quality: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        return average_precision(wrong[:, None], -quality[:, None], weights)[..., 0]

    scores = {key: float(measure(quality)) for key, quality in found.items()}
    best = max(SCORES, key=scores.__getitem__)
    drawn = bootstrap_weights(groups, RESAMPLES, 0)
    leads = measure(found[OURS], drawn) - measure(found[best], drawn)
    low, high = np.quantile(leads, (0.025, 0.975))
    return {
        "case": name,
        "data": case.data,
        "kind": case.kind,
        "rate": float(wrong.mean()),
        "seed": case.seed,
        "rows": len(wrong),
        **scores,
        "lead_low": float(low),
        "lead_high": float(high),
    }


def try_rules(sheet: Sheet) -> Iterator[dict[str, Any]]:
    """Count what every rule flags, in a table of exclusive classes."""
    case = sheet.case
    if not sheet.features.table.exclusive:
        return
    names = tuple(name for name in RULES if name != "agreement")
    flags = dict(sheet.judge(Asking(rules=names), sheet.questions())[0].flags)
    if sheet.second is not None:
        asked = ask(sheet, [sheet.probs, sheet.second])
        flags |= sheet.judge(Asking(rules=("agreement",)), asked)[0].flags
    found = {("loupe", name): flagged for name, flagged in flags.items()}
    for name in FILTERS:
        found["cleanlab", name] = find_label_issues(
            case.given, sheet.probs, filter_by=name, n_jobs=1
        )
    alike = flag_alike(case.given, sheet.probs)
    wrong = case.given != case.true
    for (who, name), flagged in found.items():
        twin = FILTERS.get(name, "") if who == "cleanlab" else ""
        hits = int((flagged & wrong).sum())
        yield {
            "case": case.name,
            "data": case.data,
            "seed": case.seed,
            "who": who,
            "rule": name,
            "flagged": int(flagged.sum()),
            "wrong": int(wrong.sum()),
            "hits": hits,
            "precision": hits / max(int(flagged.sum()), 1),
            "recall": hits / max(int(wrong.sum()), 1),
            "f1": 2 * hits / max(int(flagged.sum() + wrong.sum()), 1),
            "differ": int((flagged != flags[twin]).sum()) if twin in PLAIN else -1,
            "differ_alike": int((alike[name] != flags[twin]).sum()) if twin in PLAIN else -1,
        }


def flag_alike(given: np.ndarray, probs: np.ndarray) -> dict[str, np.ndarray]:
    """Return what cleanlab flags when told our counts.

    Where two remainders are equal, either may give way in rounding; its sort leaves it open.
    """
    joint = count_joint(given, probs)
    return {
        name: find_label_issues(given, probs, filter_by=name, n_jobs=1, confident_joint=joint)
        for name, twin in FILTERS.items()
        if twin
    }


def compare_rates(sheet: Sheet) -> dict[str, Any]:
    """Return the estimated rate of wrong labels; where classes stand alone, over all cells."""
    case = sheet.case
    groups = number_groups(sheet.features.table)
    wholes = [estimate_rates(question, groups)[0] for question in sheet.questions()]
    rate, low, high = (float(np.mean([getattr(w, n) for w in wholes])) for n in ENDS)
    true = float((case.given != case.true).mean())
    return {
        "case": case.name,
        "data": case.data,
        "seed": case.seed,
        "rows": len(case.given),
        "true": true,
        "estimated": rate,
        "low": low if len(wholes) == 1 else None,
        "high": high if len(wholes) == 1 else None,
    }


def summarise_rankings(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the mean over seeds, and our lead over the setting of cleanlab that is best there."""
    found = []
    for case in dict.fromkeys(line["case"] for line in lines):
        some = [line for line in lines if line["case"] == case]
        means = {
            name: float(np.mean([line[name] for line in some]))
            for name in (OURS, PLAIN_OURS, *SCORES)
        }
        best = max(SCORES, key=means.__getitem__)
        leads = [line[OURS] - line[best] for line in some]
        found.append(
            {
                "case": case,
                "data": some[0]["data"],
                "seeds": len(some),
                "rate": float(np.mean([line["rate"] for line in some])),
                "scores": means,
                "best": best,
                "lead": float(np.mean(leads)),
                "plain_lead": means[PLAIN_OURS] - means[best],
                "lowest": min(leads),
                "highest": max(leads),
                "low": some[0]["lead_low"] if len(some) == 1 else None,
                "high": some[0]["lead_high"] if len(some) == 1 else None,
            }
        )
    return found


def summarise_rules(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the means over the seeds of each case, and over all cases of each table."""
    found = []
    keyed = [(by, line[by], line["who"], line["rule"]) for by in ("data", "case") for line in lines]
    for key in dict.fromkeys(keyed):
        by, value, who, rule = key
        some = [x for x in lines if (x[by], x["who"], x["rule"]) == (value, who, rule)]
        means = {
            name: float(np.mean([line[name] for line in some]))
            for name in ("precision", "recall", "f1", "flagged", "wrong")
        }
        found.append({"by": by, "of": value, "who": who, "rule": rule, **means})
    return found


def count_differing(lines: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Count the rows that a rule of ours and its twin of cleanlab's flag differently."""
    found = {}
    for name, twin in FILTERS.items():
        some = [x for x in lines if (x["who"], x["rule"]) == ("cleanlab", name)]
        if twin:
            found[twin] = {
                "sheets": len(some),
                "flagged": sum(line["flagged"] for line in some),
                "differ": sum(line["differ"] for line in some),
                "differ_alike": sum(line["differ_alike"] for line in some),
            }
    return found


if __name__ == "__main__":
    main()
