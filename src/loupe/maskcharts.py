"""Mask charts: what the mean Dice is made of, how gates compare, and masks to look at.

Owns the sections of a report on a run that draws masks. It must not decode, cut or score
masks: scores, cuts and pictures are those of the run, gates those of `variants`.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence

from PIL import Image

from loupe.chartparts import (
    MOST_ROWS,
    Mark,
    draw_marks,
    fit_shares,
    measure_height,
    spell_interval,
    write_number,
)
from loupe.dices import MAIN
from loupe.figures import GREEN, ORANGE, PURPLE, add_axes, drawing, finish_figure
from loupe.gatetrials import GateTrial
from loupe.intervals import Score
from loupe.maskrules import read_mask_rule
from loupe.maskwords import spell_cut
from loupe.reportparts import Block, Chart, Commands, Gallery, Grid, Picture, Section, Text
from loupe.runs import Run
from loupe.scoring import read_scores
from loupe.variants import UNGATED, Variants

FACTORS = {
    "specificity": "empty masks kept empty",
    "recall": "given masks found",
    "dice_given_found": "Dice of those found",
}
"""Shares that the mean Dice is made of, and what a panel calls them."""
EMPTY = "all_empty"
_ALL = "all classes"
_COLOURS = {"specificity": GREEN, "recall": ORANGE, "dice_given_found": PURPLE}
_SHEET_WIDTH = 1100
_QUALITY = 85

Key = tuple[str, str]
"""Metric and class of a score."""


def describe_masks(run: Run, variants: Variants | None = None) -> tuple[Section, ...]:
    """Show what held-out masks are worth, and why.

    Args:
        run: Finished.
        variants: What `try_variants` found of a cascade with this run; None shows the command.

    Returns:
        Scores and cuts, gates, examples; () for a run that draws no masks.
    """
    if not run.segments:
        return ()
    found = {(each.metric, each.class_name): each for each in read_scores(run)}
    sections = [
        Section(key="masks", title="What the Dice of masks is made of", blocks=tuple(
            _list_blocks(run, found)
        )),
        Section(key="gates", title="Masks behind a gate", blocks=tuple(
            _list_gates(run, variants)
        )),
    ]  # fmt: skip
    sheet = _show_sheet(run)
    if sheet is not None:
        sections.append(Section(key="examples", title="Masks to look at", blocks=(sheet,)))
    return tuple(sections)


def list_useless(scores: Sequence[Score]) -> tuple[str, ...]:
    """Name the classes whose masks score no more than empty ones would.

    Args:
        scores: Of a run that draws masks.
    """
    found = {(each.metric, each.class_name): each for each in scores}
    return tuple(
        name
        for metric, name in found
        if metric == MAIN and name and not found[MAIN, name].value > found[EMPTY, name].value
    )


def _list_blocks(run: Run, found: dict[Key, Score]) -> Iterator[Block]:
    whole, empty = found[MAIN, ""], found[EMPTY, ""]
    yield Text(
        text=f"Mean Dice over all pairs of an image and a class is {_spell(whole)}, where an empty "
        f"mask for an empty one counts 1. {empty.value:.1%} of the pairs have no mask, so empty "
        f"masks alone would score {empty.value:.3f}.",
        tone="plain" if whole.value > empty.value else "bad",
    )
    for note in dict.fromkeys(each.note for each in found.values() if each.note):
        yield Text(text=note, tone="warn")
    yield _draw_dice(found)
    yield Text(
        text="Dice = empty share x kept empty + (1 - empty share) x found x Dice of those found."
    )
    yield _draw_factors(found)
    yield _list_scores(found)
    if run.cuts_file.is_file():
        rule = read_mask_rule(run.cuts_file)
        rows = zip(rule.classes, rule.cuts, strict=True)
        yield Grid(
            title=f"How maps become masks (cut by '{rule.kind}', fitted on held-out rows)",
            header=("class", "mask"),
            rows=tuple((name, spell_cut(cut)) for name, cut in rows),
            wide=len(rule.classes) > len(FACTORS),
        )


def _list_names(found: dict[Key, Score]) -> list[str]:
    """List the classes, the lowest Dice first."""
    names = [name for metric, name in found if metric == MAIN and name]
    return sorted(names, key=lambda name: _rank(found[MAIN, name].value))


def _rank(value: float) -> float:
    return -1.0 if math.isnan(value) else value


def _draw_dice(found: dict[Key, Score]) -> Chart:
    """Draw the Dice of each class beside that of empty masks."""
    names = _list_names(found)
    marks = [
        Mark(
            label=name or _ALL, value=main.value, low=main.low, high=main.high,
            tick=found[EMPTY, name].value,
        )
        for name in ["", *names[: MOST_ROWS - 1]]
        if (main := found[MAIN, name])
    ]  # fmt: skip
    with drawing(measure_height(len(marks))) as figure:
        (axes,) = add_axes(figure)
        draw_marks(axes, marks)
        fit_shares(axes, marks)
        axes.set_xlabel("mean Dice, 95 % interval;   | = empty masks alone")
        useless = list_useless(list(found.values()))
        said = f"{len(useless)} of {len(names)} classes score no more than empty masks"
        return finish_figure(
            figure,
            name="mask-dice",
            title="Mean Dice of held-out masks, and of empty ones",
            alt=f"Mean Dice of all classes {_spell(found[MAIN, ''])}; empty masks alone "
            f"{found[EMPTY, ''].value:.3f}. {said}.",
            header=("class", "dice", "low", "high", "empty masks"),
            rows=[
                (name or _ALL, *_list_ends(found[MAIN, name]), f"{found[EMPTY, name].value:.6f}")
                for name in ["", *names]
            ],
        )


def _draw_factors(found: dict[Key, Score]) -> Chart:
    names = _list_names(found)
    shown = ["", *names[: MOST_ROWS - 1]]
    with drawing(measure_height(len(shown))) as figure:
        panels = add_axes(figure, 1, len(FACTORS), shared=True)
        for axes, (metric, title) in zip(panels, FACTORS.items(), strict=True):
            marks = [_mark(name or _ALL, found[metric, name]) for name in shown]
            draw_marks(axes, marks, colour=_COLOURS[metric], spelled=False)
            axes.set_title(title)
            axes.set_xlim(-0.02, 1.02)
            axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        whole = ", ".join(f"{title} {_spell(found[key, ''])}" for key, title in FACTORS.items())
        return finish_figure(
            figure,
            name="mask-factors",
            title="What the Dice is made of, 95 % intervals",
            alt=f"All classes: {whole}.",
            header=("class", "factor", "value", "low", "high"),
            rows=[
                (name or _ALL, metric, *_list_ends(found[metric, name]))
                for name in ["", *names]
                for metric in FACTORS
            ],
        )


def _mark(label: str, score: Score) -> Mark:
    return Mark(label=label, value=score.value, low=score.low, high=score.high)


def _list_ends(score: Score) -> tuple[str, str, str]:
    return write_number(score.value), write_number(score.low), write_number(score.high)


def _list_scores(found: dict[Key, Score]) -> Grid:
    metrics = {MAIN: "Dice", EMPTY: "empty masks alone", **FACTORS, "dice_nonempty": "non-empty"}
    names = ["", *_list_names(found)]
    rows = [
        (
            name or _ALL,
            f"{found['dice_nonempty', name].n:,}",
            *(_spell(found[metric, name]) for metric in metrics),
        )
        for name in names
    ]
    return Grid(
        title="Dice and what it is made of, the lowest first",
        header=("class", "masks", *metrics.values()),
        rows=tuple(rows),
        name="mask-scores",
        wide=True,
    )


def _list_gates(run: Run, variants: Variants | None) -> Iterator[Block]:
    if variants is None:
        yield Text(
            text="A classifier that says first whether a class is there can keep masks from where "
            "nothing is; whether one helps here was not measured. Write a cascade of this run and "
            "one of labels, as "
            f"'masks: {{run: {run.folder}}}' and 'labels: {{run: LABELS_RUN}}', and compare all "
            "ways through it on held-out rows:"
        )
        yield Commands(lines=("loupe cascade CASCADE.yaml",))
        return
    for stamp in variants.stamps:
        yield Text(text=stamp, tone="bad")
    whole = [each for each in variants.trials if not each.class_name]
    if variants.best == UNGATED:
        yield Text(text="No gate is better than the masks alone beyond what chance explains.")
    else:
        best = next(each for each in whole if each.name == variants.best)
        gain = best.difference
        yield Text(
            text=f"Best, as far as the evidence goes: {best.name}, Dice {best.dice:.3f} in place "
            f"of {whole[0].dice:.3f} ({gain.value:+.3f}, 95 % interval {gain.low:+.3f} to "
            f"{gain.high:+.3f}).",
            tone="good",
        )
    yield _draw_gates(whole)
    yield _list_trials(variants.trials)


def _draw_gates(trials: Sequence[GateTrial]) -> Chart:
    shown = sorted(trials, key=lambda each: -each.dice)
    plain = next((each for each in trials if each.name == UNGATED), trials[0])
    marks = [
        Mark(
            label=each.name + (" *" if each.best else ""), value=each.dice, low=each.low,
            high=each.high, tick=plain.dice,
        )
        for each in shown
    ]  # fmt: skip
    with drawing(measure_height(len(marks))) as figure:
        (axes,) = add_axes(figure)
        draw_marks(axes, marks)
        fit_shares(axes, marks)
        axes.set_xlabel("mean Dice, 95 % interval;   | = the masks alone;   * = best")
        top = shown[0]
        return finish_figure(
            figure,
            name="mask-gates",
            title="Ways through a cascade on held-out rows",
            alt=f"Mean Dice of {len(shown)} ways. Highest: {top.name} {top.dice:.3f}; the masks "
            f"alone {plain.dice:.3f}.",
            header=("way", "dice", "low", "high", "best"),
            rows=[
                (each.name, *(f"{v:.6f}" for v in (each.dice, each.low, each.high)), str(each.best))
                for each in trials
            ],
        )


def _list_trials(trials: Sequence[GateTrial]) -> Grid:
    return Grid(
        title="All ways, by class; the gain is over the masks alone",
        header=("class", "way", "Dice", "gain", "95 % interval", "p", "emptied"),
        rows=tuple(
            (
                each.class_name or _ALL,
                each.name,
                f"{each.dice:.4f}",
                f"{each.difference.value:+.4f}",
                "-"
                if math.isnan(each.difference.low)
                else f"{each.difference.low:+.4f} to {each.difference.high:+.4f}",
                "-" if math.isnan(each.p_value) else f"{each.p_value:.3f}",
                f"{each.emptied:,}",
            )
            for each in trials
        ),
        name="mask-gates-by-class",
        wide=True,
    )


def _show_sheet(run: Run) -> Gallery | None:
    """Return the sheet of examples that training drew, small enough for a page."""
    if not run.contact_file.is_file():
        return None
    with Image.open(run.contact_file) as opened:
        image = opened.convert("RGB")
    image.thumbnail((_SHEET_WIDTH, image.height))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=_QUALITY, subsampling=0)
    picture = Picture(
        data=out.getvalue(),
        alt="Held-out images of each class with the best, the median and the worst mask; "
        "predicted masks are filled, given ones are lines. Ids and Dice stand below each.",
        lines=("filled: predicted; line: given", run.contact_file.name),
    )
    title = "Best, median and worst held-out mask of each class"
    return Gallery(title=title, pictures=(picture,))


def _spell(score: Score) -> str:
    return spell_interval(score.value, score.low, score.high)
