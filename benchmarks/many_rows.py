"""Speed and memory of decisions on a large table: blend of 10 members, then a rule.

    python -m benchmarks.many_rows [--rows 1000000] [--classes 10] [--members 10] [--exclusive]

One process, one thread. Peak memory is what the system saw (resident), as a multiple of the
sheets handed in (targets and members, float32).
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from loupe.blending import choose_weights
from loupe.deciding import decide_evidence
from loupe.evidence import Evidence, make_evidence
from loupe.goals import Request
from loupe.records import list_versions

ARGMAX_OR_F1 = Request()
RECALL = Request(goals={"": "recall:0.95"})


def main(arguments: Sequence[str] | None = None) -> None:
    args = read_arguments(arguments)
    evidence = simulate(args.rows, args.classes, args.members, exclusive=args.exclusive)
    sheets = evidence.targets.nbytes * (1 + args.members)
    forget_peak()
    start = peak_bytes()
    steps: list[dict[str, Any]] = []

    def measure(name: str, work: Any) -> Any:
        begun = time.perf_counter()
        made = work()
        seconds = time.perf_counter() - begun
        peak = peak_bytes()
        steps.append({"step": name, "seconds": round(seconds, 1), "peak_x": peak / sheets})
        print(f"{name}: {seconds:.1f} s, peak {peak / 2**30:.2f} GiB = {peak / sheets:.2f} x input")
        return made

    print(f"input {sheets / 2**30:.2f} GiB; before {start / 2**30:.2f} GiB")
    blend = measure("blend", lambda: choose_weights(evidence, method="simplex"))
    fitted = replace(evidence, weights=blend.weights, part_weights=blend.part_weights)
    request = ARGMAX_OR_F1 if args.exclusive else RECALL
    measure("decide", lambda: decide_evidence(fitted, request))
    # Not before: it loads torch, which decisions do without and which would be counted.
    from benchmarks.measuring import describe_machine, read_commit, write_result

    result = {
        "benchmark": "many-rows",
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "job": {
            "data": "simulated",
            "rows": args.rows,
            "classes": args.classes,
            "members": args.members,
            "exclusive": args.exclusive,
        },
        "machine": describe_machine(),
        "versions": list_versions(),
        "commit": read_commit(),
        "input_bytes": sheets,
        "before_x": start / sheets,
        "steps": steps,
    }
    write_result(args.results, result, write_page(result))


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--members", type=int, default=10)
    parser.add_argument("--exclusive", action="store_true")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    return parser.parse_args(arguments)


def simulate(rows: int, classes: int, members: int, *, exclusive: bool) -> Evidence:
    """Make members that see the label through noise of their own, column by column."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, classes, rows)
    targets = np.zeros((rows, classes), np.float32)
    if exclusive:
        targets[np.arange(rows), label] = 1
    else:
        targets[:] = rng.random((rows, classes), np.float32) < 0.1
    sheets = []
    for member in range(members):
        logits = rng.standard_normal((rows, classes), np.float32)
        logits *= 1.5
        logits += (3 + 0.2 * member) * targets
        if exclusive:
            np.exp(logits, out=logits)
            logits /= logits.sum(axis=1, keepdims=True)
        else:
            logits -= 3
            np.negative(logits, out=logits)
            np.exp(logits, out=logits)
            logits += 1
            np.reciprocal(logits, out=logits)
        sheets.append(logits)
    return make_evidence(
        targets,
        sheets,
        exclusive=exclusive,
        classes=[f"class {c}" for c in range(classes)],
        folds=np.arange(rows) % 5,
    )


def forget_peak() -> None:
    """Let the largest resident size start again from now (Linux; elsewhere it counts all)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_bytes() -> int:
    """Largest resident size of this process since `forget_peak`, or so far."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def write_page(result: dict[str, Any]) -> str:
    job, machine = result["job"], result["machine"]
    kind = "exclusive classes" if job["exclusive"] else "classes that stand alone"
    lines = [
        f"# Decisions on {job['rows']:,} rows x {job['classes']} classes, {job['members']} members",
        "",
        f"{result['date']}, commit {result['commit']}, {machine['cpu']}, {machine['cores']} cores",
        "",
        f"Input {result['input_bytes'] / 2**30:.2f} GiB (float32 sheets); {kind}; one process.",
        "",
        "| step | seconds | peak memory / input |",
        "|---|---|---|",
        *(f"| {s['step']} | {s['seconds']} | {s['peak_x']:.2f} |" for s in result["steps"]),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
