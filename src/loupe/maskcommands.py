"""The command about masks: gate.

Exit codes as in `cli`: 1 if something must be looked at. It must not hold logic.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("masks", metavar="MASKS", type=click.Path(path_type=Path))
@click.option(
    "--by",
    required=True,
    metavar="RUN|PREDS",
    type=click.Path(path_type=Path),
    help="Class probabilities: a predictions file, or a run (its held-out rows).",
)
@click.option(
    "--rule", type=click.Path(path_type=Path), help="Default: the one 'decide' left with --by."
)
@click.option(
    "--threshold",
    "thresholds",
    multiple=True,
    metavar="[NAME=]T",
    help="In place of a rule: masks below are emptied. Repeat it for single classes.",
)
@click.option("--soft", is_flag=True, help="No veto: the area a mask must have shrinks with p.")
@click.option(
    "--min-area",
    multiple=True,
    metavar="[NAME=]PIXELS",
    help="With --soft: smallest area where the class is sure, in pixels of MASKS.",
)
@click.option(
    "--factor",
    default=5.0,
    show_default=True,
    help="With --soft: how many times that where the class is surely absent.",
)
@click.option(
    "--refill",
    metavar="SECOND",
    type=click.Path(path_type=Path),
    help="Submission whose masks fill empty pairs where a class is surely there.",
)
@click.option(
    "--precision-rule", type=click.Path(path_type=Path), help="When it surely is (--refill)."
)
@click.option(
    "--precision-threshold",
    "precision_thresholds",
    multiple=True,
    metavar="[NAME=]T",
    help="In place of --precision-rule.",
)
@click.option(
    "--at-least-one",
    is_flag=True,
    help="Keep the likeliest class of an image of which none would be kept.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="CSV to write.")
def gate(masks: Path, by: Path, out: Path, **options: Any) -> None:
    """Empty the masks of a submission where a classifier says absent.

    Anyone's submission and anyone's probabilities; rows and their order stay. Exit code 1
    if some images have no probability; their masks stay as they are.
    """
    import loupe
    from loupe.showing import show_gated
    from loupe.terminal import make_console

    for name in ("thresholds", "min_area", "precision_thresholds"):
        options[name] = _read_levels(name, options[name])
    gated = loupe.gate(masks, by, out=out, **options)
    show_gated(make_console(), gated)
    click.echo(f"wrote {out}")
    sys.exit(1 if gated.ungated else 0)


MASK_COMMANDS = (gate,)


def _read_levels(name: str, given: tuple[str, ...]) -> dict[str, float] | None:
    """Read numbers for all classes ("") or for single ones."""
    found = {}
    for text in given:
        key, _, value = text.rpartition("=")
        try:
            found[key] = float(value)
        except ValueError:
            raise click.BadParameter(
                f"{text!r}; expected a number, or NAME=NUMBER for one class",
                param_hint=f"--{name.removesuffix('s').replace('_', '-')}",
            ) from None
    return found or None
