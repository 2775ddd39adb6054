"""What the gates of a cascade save: its variants on the same images, taking turns.

python -m benchmarks.stages --cascade cascade.yaml --images DIR [--rows 160] [--rounds 3]

The images are spread evenly over the folder. Times are those of `Cascaded.stages` (loading the
networks is not counted); ratios are taken within a round. The worth of each variant and of each
gate, on held-out rows, is printed beside them.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import numpy as np
from benchmarks.measuring import describe_machine
from rich.console import Console

import loupe
from loupe.cascades import read_cascade
from loupe.cascading import Cascaded
from loupe.maskshowing import show_stage_times, show_variants
from loupe.recipe import write_recipe

VARIANTS = (("masks",), ("binary", "masks"), ("labels", "masks"), ("binary", "labels", "masks"))


def main(arguments: Sequence[str] | None = None) -> None:
    args = read_arguments(arguments)
    table = loupe.read_table(args.images, layout="images")
    rows = np.linspace(0, len(table) - 1, min(args.rows, len(table))).astype(int)
    chosen = read_cascade(args.cascade)
    wanted = [v for v in VARIANTS if set(v) <= set(chosen.stages)]
    rounds: list[list[Cascaded]] = []
    for number in range(args.rounds):
        rounds.append([loupe.cascade(chosen, table.select(rows), stages=v) for v in wanted])
        print(
            f"round {number + 1}: {', '.join(f'{c.seconds:.1f} s' for c in rounds[-1])}", flush=True
        )
    sheet = Console(file=io.StringIO(), width=160)
    machine = ", ".join(f"{key} {value}" for key, value in describe_machine().items())
    lines = [f"# Stages of {args.cascade.name}, {len(rows)} images", "", machine, ""]
    lines += [
        "| variant | images/s, median (range) | times as fast as masks alone |",
        "|---|---|---|",
    ]
    for at, variant in enumerate(wanted):
        rates = sorted(len(rows) / each[at].seconds for each in rounds)
        ratios = sorted(each[0].seconds / each[at].seconds for each in rounds)
        lines.append(
            f"| {' + '.join(variant)} | {median(rates):.1f} ({rates[0]:.1f}-{rates[-1]:.1f}) | "
            f"{median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f}) |"
        )
    for at, variant in enumerate(wanted):
        sheet.print(f"\n{' + '.join(variant)}, last round")
        show_stage_times(sheet, rounds[-1][at].stages)
    sheet.print()
    show_variants(sheet, loupe.try_variants(chosen), by_class=True)
    run = loupe.open_run(chosen.masks.run[0])
    recipe = write_recipe(run.member(run.members[0]).recipe())
    lines += [
        "",
        "```",
        sheet.file.getvalue().rstrip(),
        "```",
        "",
        "Segmenter:",
        "",
        "```yaml",
        recipe + "```",
    ]
    text = "\n".join(lines) + "\n"
    if args.out:
        args.out.write_text(text, encoding="utf-8")
    print(text, datetime.now(UTC).date())


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--cascade", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
