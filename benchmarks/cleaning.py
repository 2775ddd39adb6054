"""Does cleaning help? Wrong labels with a known truth, before and after each policy.

The out-of-fold predictions of a frozen network are scored on the true labels of all rows, also
of those that a policy dropped. Labels are doubted by `auditrules.judge` and changed by `relabels`,
as `loupe audit` and `loupe relabel` do; then the heads are solved again on the same folds.

    python -m benchmarks.cleaning --cifar DATA --art DATA --weights W --work DIR

What was predicted is kept under DIR, so that a run which was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import datetime as dt
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.measuring import (
    ROOT,
    describe_machine,
    name_result,
    read_commit,
    write_result,
)
from benchmarks.noisy_labels import (
    Case,
    Features,
    keep_sheet,
    label,
    number_groups,
    open_art,
    open_cifar,
    plant,
    predict_held_out,
    read_human,
    take_part,
)
from benchmarks.target_recall import write_csv

from loupe.auditrules import DEFAULT, Asking, ask_questions, judge, look_around
from loupe.intervals import compare_paired
from loupe.issues import Issue
from loupe.records import list_versions
from loupe.relabels import Choice, Policy, apply_changes, plan_changes
from loupe.table import Table

MIX = 0.5
HUMAN_COLUMNS = ("worse_label", "random_label1")
RATE = 0.2
NULL = "no wrong labels"
POLICIES: Mapping[str, tuple[str, Policy]] = {
    "drop": (DEFAULT, "drop"),
    "relabel": (DEFAULT, "relabel"),
    "soften": (DEFAULT, "soften"),
    "drop confident": ("confident", "drop"),
    "drop all wrong": ("truth", "drop"),
}
"""Name of a policy: the rule that doubts labels, and what becomes of them."""


HOW = """\
Out-of-fold predictions of a frozen EfficientNetV2-B0, scored on the true label of every row, also
of dropped ones. `drop`, `relabel` and `soften` act on what the default rule flags (soften:
{mix:.0%} of the prediction), `drop confident` on labels that another class contradicts at 0.8 and
above, `drop all wrong` on the truly wrong ones: what a perfect audit would bring by dropping.
`wrong left`: share of wrong labels among the rows trained on afterwards (softened ones by their
largest share)."""
SPREAD = """\
The interval is of the rows (95 %, paired, groups drawn with replacement), its mean over seeds; the
deviation is over seeds. Seeds of planted labels differ in which labels are wrong; those of people's
labels are parts of the table without a common row, each trained and scored by itself; those of
sound labels differ only in the inner part that chooses the penalty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One policy on one case.

    Attributes:
        case: Name.
        data: Of the images.
        rows: How many are scored.
        rate: Share of given labels that is wrong.
        seed: Of what was planted; number of the part of people's labels; where nothing is wrong,
            of the inner part that chooses the penalty.
        policy: Name, of `POLICIES`.
        changed: How many labels it changed or dropped.
        wrong: How many of these were wrong.
        left: Share of wrong labels among those trained on afterwards; softened ones as given.
        before: Accuracy on the truth, trained on the labels as given.
        after: The same, trained on what the policy made of them.
        low: Lower end of the 95 % interval of after - before, groups drawn with replacement.
        high: Upper end.
    """

    case: str
    data: str
    rows: int
    rate: float
    seed: int
    policy: str
    changed: int
    wrong: int
    left: float
    before: float
    after: float
    low: float
    high: float

    @property
    def gain(self) -> float:
        return self.after - self.before


def main(arguments: Sequence[str] | None = None) -> None:
    args = read_arguments(arguments)
    torch.set_num_threads(1)
    start = time.perf_counter()
    outcomes = []
    for features, case, seed in list_cases(args):
        outcomes += try_policies(features, case, args.work, seed)
    result = {
        "benchmark": "cleaning",
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "job": {
            "data": "-".join(dict.fromkeys(each.data for each in outcomes)),
            "rows": max(each.rows for each in outcomes),
            "seeds": args.seeds,
            "null_seeds": args.null_seeds,
            "split": args.split,
            "human_parts": args.human_parts,
            "mix": MIX,
            "policies": {name: list(parts) for name, parts in POLICIES.items()},
        },
        "machine": describe_machine(),
        "versions": list_versions(),
        "commit": read_commit(),
        "seconds": round(time.perf_counter() - start, 1),
        "lines": summarise(outcomes),
    }
    write_result(args.results, result, write_page(result))
    write_csv(args.results / f"{name_result(result)}.csv", [list_fields(o) for o in outcomes])


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--cifar", type=Path, help="labels.csv with columns of people, images")
    parser.add_argument("--art", type=Path, help="labels.csv taken to be sound, images")
    parser.add_argument("--weights", type=Path, help="folder of safetensors files")
    parser.add_argument("--work", type=Path, required=True, help="where predictions are kept")
    parser.add_argument("--seeds", nargs="+", type=int, default=[3, 4, 5], help="of planted labels")
    parser.add_argument("--null-seeds", nargs="+", type=int, default=[0], help="of inner parts")
    parser.add_argument("--columns", nargs="+", default=HUMAN_COLUMNS, help="of people's labels")
    parser.add_argument("--split", type=int, default=3, help="parts that human labels are cut into")
    parser.add_argument("--human-parts", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    return parser.parse_args(arguments)


def list_cases(args: argparse.Namespace) -> Iterator[tuple[Features, Case, int]]:
    """Yield a table, its labels, and the seed of the inner parts."""
    if args.art:
        features = open_art(args.art, args.weights, args.work)
        for seed in args.null_seeds:
            yield features, leave_sound(args.art.name, features.table, seed), seed
        for seed in args.seeds:
            for case in plant(args.art.name, features.table, seed):
                if case.rate == RATE:
                    yield features, case, 0
    if args.cifar:
        features = open_cifar(args.cifar, args.weights, args.work)
        cases = {case.name: case for case in read_human(args.cifar, features.table)}
        for name in args.columns:
            for part in args.human_parts:
                yield *take_part(features, cases[name], args.split, part), 0


def leave_sound(data: str, table: Table, seed: int) -> Case:
    true = table.targets.argmax(axis=1)
    name = f"{data}, {NULL}"
    return Case(name=name, data=data, kind="null", rate=0.0, seed=seed, given=true, true=true)


def try_policies(features: Features, case: Case, work: Path, seed: int) -> Iterator[Outcome]:
    before = keep_sheet(features, case, work, seed=seed)
    table = label(features.table, case.given)
    issues = doubt(features, case, before)
    wrong = case.given != case.true
    place = {name: row for row, name in enumerate(table.ids)}
    for policy, (rule, action) in POLICIES.items():
        found = issues[rule]
        if rule == "truth" and not found:
            continue
        plan = plan_changes(table, found, {}, Choice(policy=action))
        cleaned = apply_changes(table, plan.changes, before, mix=MIX)
        after = predict_once(features, cleaned, case, policy, work, seed)
        rows = np.array([place[issue.id] for issue in found], np.intp)
        used = np.ones(len(table), np.bool_) if cleaned.weights is None else cleaned.weights > 0
        left = cleaned.targets.argmax(axis=1) != case.true
        truth = label(table, case.true).targets
        gain = compare_paired(
            truth,
            after,
            before,
            exclusive=True,
            metric="accuracy",
            groups=number_groups(table),
            resamples=1000,
        )
        yield Outcome(
            case=case.name,
            data=case.data,
            rows=len(table),
            rate=float(wrong.mean()),
            seed=case.seed,
            policy=policy,
            changed=len(rows),
            wrong=int(wrong[rows].sum()),
            left=float(left[used].mean()),
            before=float((before.argmax(axis=1) == case.true).mean()),
            after=float((after.argmax(axis=1) == case.true).mean()),
            low=gain.low,
            high=gain.high,
        )


def doubt(features: Features, case: Case, probs: np.ndarray) -> dict[str, list[Issue]]:
    """List what each rule flags, and what is truly wrong, as an audit lists issues."""
    table = label(features.table, case.given)
    (question,) = ask_questions(
        table.targets, [probs], probs, table.classes, ("no", "yes"), exclusive=True
    )
    around = look_around(features.plain, number_groups(table), [question])
    asking = Asking(rules=(DEFAULT, "confident"))
    judged = judge(question, asking, around.of(0), mates=around.mates[0])
    flags = {**judged.flags, "truth": case.given != case.true}
    return {
        rule: [
            Issue(
                id=table.ids[row],
                given=table.classes[case.given[row]],
                suggested=table.classes[judged.suggested[row]],
                quality=float(judged.quality[row]),
                rules=(rule,),
            )
            for row in np.flatnonzero(flagged)
        ]
        for rule, flagged in flags.items()
    }


def predict_once(
    features: Features, cleaned: Table, case: Case, policy: str, work: Path, seed: int
) -> np.ndarray:
    """Solve the heads on a cleaned table, or read what was predicted for the same one."""
    name = "__".join((case.name, str(case.seed), str(seed), policy)).replace(" ", "-")
    path = work / "cleaned" / f"{name}.npz"
    weights = np.ones(len(cleaned), np.float32) if cleaned.weights is None else cleaned.weights
    if path.is_file():
        with np.load(path) as kept:
            same = np.array_equal(kept["targets"], cleaned.targets)
            if same and np.array_equal(kept["weights"], weights):
                return kept["probs"]
    start = time.perf_counter()
    probs = predict_held_out(features, cleaned.targets, weights=weights, seed=seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, probs=probs, targets=cleaned.targets, weights=weights)
    print(f"{path.name} {time.perf_counter() - start:.0f} s", flush=True)
    return probs


def summarise(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return the mean over seeds for each case and policy."""
    lines = []
    for key in dict.fromkeys((each.case, each.policy) for each in outcomes):
        some = [each for each in outcomes if (each.case, each.policy) == key]
        gains = np.array([each.gain for each in some])
        changed = sum(each.changed for each in some)
        lines.append(
            {
                "case": key[0],
                "policy": key[1],
                "seeds": len(some),
                "rate": float(np.mean([each.rate for each in some])),
                "changed": changed / len(some),
                "precision": sum(each.wrong for each in some) / changed if changed else None,
                "left": float(np.mean([each.left for each in some])),
                "before": float(np.mean([each.before for each in some])),
                "after": float(np.mean([each.after for each in some])),
                "gain": float(gains.mean()),
                "deviation": float(gains.std(ddof=1)) if len(gains) > 1 else None,
                "low": float(np.mean([each.low for each in some])),
                "high": float(np.mean([each.high for each in some])),
            }
        )
    return lines


def write_page(result: Mapping[str, Any]) -> str:
    """Return the result as a table for people."""
    job, machine = result["job"], result["machine"]
    columns = ("labels", "wrong", "policy", "changed", "of these wrong", "wrong left", "before")
    columns += ("after", "points", "interval", "deviation", "seeds")
    lines = [
        "# Does cleaning help? Accuracy on the true labels, before and after",
        "",
        HOW.format(mix=job["mix"]),
        "",
        SPREAD,
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
    ]
    for line in result["lines"]:
        precision = "" if line["precision"] is None else f"{line['precision']:.0%}"
        deviation = "" if line["deviation"] is None else f"{100 * line['deviation']:.2f}"
        lines.append(
            f"| {line['case']} | {line['rate']:.1%} | {line['policy']} | {line['changed']:.0f} "
            f"| {precision} | {line['left']:.1%} | {line['before']:.2%} | {line['after']:.2%} "
            f"| {100 * line['gain']:+.2f} | {100 * line['low']:+.2f} to {100 * line['high']:+.2f} "
            f"| {deviation} | {line['seeds']} |"
        )
    lines += [
        "",
        f"{machine['cpu']}, {machine['cores']} cores; {result['commit']}, {result['date']}",
    ]
    return "\n".join(lines) + "\n"


def list_fields(outcome: Outcome) -> dict[str, Any]:
    return {name: getattr(outcome, name) for name in Outcome.__slots__} | {"gain": outcome.gain}


if __name__ == "__main__":
    main()
