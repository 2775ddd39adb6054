"""How scores, cuts and cascades of masks look on a terminal.

It must not compute anything; it shows what others made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from loupe.dices import MAIN
from loupe.gatetrials import GateTrial
from loupe.intervals import Score
from loupe.maskgrading import MaskGraded
from loupe.maskrules import MaskRule
from loupe.maskwords import spell_cut
from loupe.stagetimes import StageTime
from loupe.variants import Variants

_FACTORS = ("all_empty", "specificity", "recall", "dice_given_found", "dice_nonempty")
_HEADS = ("empty share", "specificity", "recall", "Dice if found", "Dice of non-empty")
_ALL = "all"


def show_mask_scores(
    console: Console,
    scores: Sequence[Score],
    stamps: Sequence[str],
    *,
    title: str = "masks of held-out rows, cuts cross-fitted",
) -> None:
    """Print the mean Dice of each class with its interval, and what it is made of.

    Args:
        console: Where to.
        scores: Of `margins.score_pairs`.
        stamps: Printed first: what must be said beside every score.
        title: Which rows were scored.
    """
    for stamp in stamps:
        console.print(escape(f"! {stamp}"), style="bold red")
    found = {(each.metric, each.class_name): each for each in scores}
    grid = _grid(title, ("class", "Dice (empty = 1)", "95 % interval", *_HEADS))
    for name in dict.fromkeys(each.class_name for each in scores):
        main = found[MAIN, name]
        span = "-" if math.isnan(main.low) else f"{main.low:.4f} - {main.high:.4f}"
        factors = [_spell(found[metric, name].value) for metric in _FACTORS]
        style = "" if name else "bold"
        grid.add_row(escape(name or _ALL), f"{main.value:.4f}", span, *factors, style=style)
    console.print(grid)
    for note in dict.fromkeys(each.note for each in scores if each.metric == MAIN and each.note):
        console.print(escape(f"! {note}"), style="yellow")
    console.print(
        "Dice = empty share x specificity + (1 - empty share) x recall x Dice if found; "
        "empty masks alone would score the empty share"
    )


def show_mask_rule(console: Console, rule: MaskRule) -> None:
    """Print how maps become masks, class by class.

    Args:
        console: Where to.
        rule: Of a run.
    """
    where = "image" if rule.size is None else f"{rule.size[0]} x {rule.size[1]}"
    console.print(f"cut by '{rule.kind}', fitted on held-out rows; areas in pixels of the {where}:")
    for name, cut in zip(rule.classes, rule.cuts, strict=True):
        console.print(escape(f"  {name}: {spell_cut(cut)}"))


def show_mask_graded(console: Console, graded: MaskGraded) -> None:
    """Print what masks are worth on rows with given masks.

    Args:
        console: Where to.
        graded: From `maskgrading`.
    """
    for note in graded.notes:
        console.print(escape(f"· {note}"))
    title = f"masks of {graded.rows:,} images"
    show_mask_scores(console, graded.scores, graded.stamps, title=title)
    if graded.unread:
        first, reason = graded.unread[0]
        told = f"! {len(graded.unread)} row(s) have no masks; {first}: {reason}"
        console.print(escape(told), style="yellow")


def show_variants(console: Console, variants: Variants, *, by_class: bool = True) -> None:
    """Print what each variant of a cascade is worth, and what reaches each of its stages.

    Args:
        console: Where to.
        variants: From `variants.try_variants`.
        by_class: Also a table for each class.
    """
    for stamp in variants.stamps:
        console.print(escape(f"! {stamp}"), style="bold red")
    for note in variants.notes:
        console.print(escape(f"· {note}"))
    names = dict.fromkeys(each.class_name for each in variants.trials)
    for name in names if by_class else ("",):
        of_class = [each for each in variants.trials if each.class_name == name]
        console.print(_trial_grid(of_class, name, variants.rows))
    if variants.best == "masks":
        console.print("no variant is better than the masks alone beyond what chance explains")
    else:
        console.print(escape(f"best, as far as the evidence goes: {variants.best} (*)"))
    grid = _grid("what reaches each stage", ("variant", "stage", "images", "image x class"))
    for each in variants.reach:
        grid.add_row(each.variant, each.stage, f"{each.images:.1%}", f"{each.pairs:.1%}")
    console.print(grid)


def show_stage_times(console: Console, times: Sequence[StageTime]) -> None:
    """Print what each stage of a cascade was shown, let through, and took.

    Args:
        console: Where to.
        times: From `cascading.cascade`.
    """
    columns = ("stage", "images", "went on", "image x class", "went on", "seconds", "images/s")
    grid = _grid("stages (loading the networks not counted)", columns)
    for each in times:
        grid.add_row(
            each.name,
            *(f"{n:,}" for n in (each.images_in, each.images_out, each.pairs_in, each.pairs_out)),
            f"{each.seconds:.1f}",
            f"{each.images_per_s:,.1f}" if each.images_in else "-",
        )
    console.print(grid)


def _trial_grid(trials: Sequence[GateTrial], class_name: str, rows: int) -> Grid:
    title = f"class {class_name}" if class_name else f"all classes, {rows:,} held-out images"
    heads = ("variant", "Dice", "95 % interval", "gain", "95 % interval", "p", *_HEADS[1:4])
    grid = _grid(escape(title), (*heads, "emptied"))
    for each in trials:
        gain = each.difference
        grid.add_row(
            escape(each.name + (" *" if each.best else "")),
            f"{each.dice:.4f}",
            f"{each.low:.4f} - {each.high:.4f}",
            f"{gain.value:+.4f}",
            "-" if math.isnan(gain.low) else f"{gain.low:+.4f} to {gain.high:+.4f}",
            _spell(each.p_value, 3),
            *(_spell(v) for v in (each.specificity, each.recall, each.dice_given_found)),
            f"{each.emptied:,}",
            style="bold" if each.best else "",
        )
    return grid


def _spell(value: float, digits: int = 4) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _grid(title: str, columns: Sequence[str]) -> Grid:
    grid = Grid(title=title, title_justify="left", box=None, pad_edge=False)
    for number, name in enumerate(columns):
        grid.add_column(name, justify="right" if number else "left")
    return grid
