"""Comparing runs: several runs beside each other, as sections of a report.

Owns what is said of more than one run. Scores are those stored in the runs, differences
those of `decisions.compare`; it must not measure anything itself, draw, or train.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loupe.chartparts import DASH, name_metric, spell, spell_interval
from loupe.comparing import COMPARED, Comparison, Proof, find_side, judge, spell_rows, turn
from loupe.comparingcharts import draw_differences, draw_scores
from loupe.dices import MAIN
from loupe.intervals import Difference, Score
from loupe.origins import parse_origin
from loupe.proving import WORDS
from loupe.reportparts import Block, Grid, Section, Text, Tone
from loupe.runs import Run
from loupe.scorecard import LOWER_IS_BETTER
from loupe.scoring import read_scores
from loupe.table import Table

_DRAWN_MASKS = (MAIN, "dice_nonempty", "dice_micro", "specificity", "recall", "dice_given_found")
_BY_CLASS = "f1"
_TONES: dict[str, Tone] = {"helped": "good", "hurt": "bad", "mixed": "warn"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One of the runs, and how it does against the first.

    Attributes:
        name: What to call it, unique.
        run: Finished.
        comparison: From `decisions.compare` of the first run and this one, in this order;
            None of the first itself, and where they cannot be compared.
        fault: Why they cannot be compared; "" if they can.
    """

    name: str
    run: Run
    comparison: Comparison | None = None
    fault: str = ""


def describe_comparison(compared: Sequence[Compared]) -> tuple[Section, ...]:
    """Show runs beside each other: verdict, scores, paired differences, classes, recipes.

    Args:
        compared: Two runs or more, `comparingcharts.MOST_RUNS` at most; the others are
            compared with the first.
    """
    return (
        _describe_verdicts(compared),
        _describe_scores(compared),
        _describe_differences(compared),
        _describe_classes(compared),
        _describe_recipes(compared),
    )


def _describe_verdicts(compared: Sequence[Compared]) -> Section:
    """Say in words who is better, and what must be said beside it."""
    first, *others = compared
    blocks: list[Text] = []
    for other in others:
        found = other.comparison
        if found is None:
            text = f"{other.name} cannot be compared with {first.name}: {other.fault}"
            blocks.append(Text(text=text, tone="warn"))
            continue
        blocks.append(_judge(first.name, other.name, found))
        if found.proof is not None:
            blocks += [Text(text=_say(remark), tone="warn") for remark in found.proof.remarks]
    known = [each.comparison for each in others if each.comparison is not None]
    stamps = dict.fromkeys(stamp for found in known for stamp in found.stamps)
    notes = dict.fromkeys(note for found in known for note in found.notes)
    blocks += [Text(text=stamp, tone="bad") for stamp in stamps]
    blocks += [Text(text=_say(note)) for note in notes]
    return Section(key="verdict", title="Verdict", blocks=tuple(blocks))


def _judge(first: str, other: str, found: Comparison) -> Text:
    if found.proof is not None:
        tone = _TONES.get(found.proof.answer, "plain")
        text = f"{other} (after cleaning) against {first} (before): {found.verdict}."
        return Text(text=text, tone=tone)
    difference = found.differences[0]
    words = judge(difference, names=(first, other))
    side = find_side(difference)
    # The first run is the yardstick: a run that beats it is good news.
    tone = "good" if side < 0 else "bad" if side > 0 else "plain"
    lead = "" if words.startswith((first, other)) else f"{other} against {first}: "
    return Text(text=f"{lead}{words}, {spell_rows(found.rows, found.groups)}.", tone=tone)


def _describe_scores(compared: Sequence[Compared]) -> Section:
    """Show the stored scores of all runs beside each other, with intervals."""
    names = [each.name for each in compared]
    scores = [{s.metric: s for s in read_scores(each.run) if not s.class_name} for each in compared]
    metrics = list(dict.fromkeys(metric for each in scores for metric in each))
    drawn = [metric for metric in _choose_drawn(compared[0].run) if metric in metrics]
    chart = draw_scores(
        [name_metric(metric) for metric in drawn],
        [[each.get(metric) for metric in drawn] for each in scores],
        names,
        name="compared-scores",
        title="Scores of all runs, with 95 % intervals",
        what="score, 1 is best",
    )
    grid = Grid(
        title="All scores",
        header=("score", *names),
        rows=tuple(
            (name_metric(metric), *(_spell_score(each.get(metric)) for each in scores))
            for metric in metrics
        ),
        name="compared-all-scores",
        wide=True,
    )
    said = "Each run on all rows that it held out."
    if any(each.comparison is not None for each in compared):
        said += (
            " Whether one is better is said by the paired differences below: intervals of two "
            "runs may overlap though one is clearly better."
        )
    told = Text(text=said)
    warned = _warn_of_labels(compared)
    return Section(key="scores", title="Scores", blocks=(told, *warned, chart, grid))


def _warn_of_labels(compared: Sequence[Compared]) -> tuple[Text, ...]:
    """Say whose scores cannot be set beside each other: they are of other labels."""
    blocks = []
    changed = [each.name for each in compared[1:] if each.comparison and each.comparison.proof]
    if changed:
        text = (
            f"{', '.join(changed)} has other labels than {compared[0].name}: each run is scored by "
            "its own, so that these scores do not say which is better."
        )
        blocks.append(Text(text=text, tone="warn"))
    alone = [each.name for each in compared[1:] if each.comparison is None]
    if alone:
        text = (
            f"{', '.join(alone)} cannot be compared with {compared[0].name} (see above), so that "
            "these scores do not say which is better."
        )
        blocks.append(Text(text=text, tone="warn"))
    refit = [each.name for each in compared if each.run.refit]
    if refit:
        text = (
            f"{', '.join(refit)} was trained on all rows and held none out: what is shown was "
            "measured of the run that it follows."
        )
        blocks.append(Text(text=text, tone="warn"))
    return tuple(blocks)


def _describe_differences(compared: Sequence[Compared]) -> Section:
    """Show each run minus the first on the rows that both held out; of a proof its sections."""
    first = compared[0].name
    both = [(each.name, each.comparison) for each in compared if each.comparison is not None]
    found = [(name, each) for name, each in both if each.proof is None]
    blocks: list[Block] = [
        _show_proof(first, name, each.proof, number)
        for number, (name, each) in enumerate(both, 1)
        if each.proof is not None
    ]
    if found:
        blocks += _show_pairs(first, found)
    return Section(key="differences", title="Paired differences", blocks=tuple(blocks))


def _show_pairs(first: str, found: Sequence[tuple[str, Comparison]]) -> list[Block]:
    pairs = [(name, [turn(d) for d in each.differences]) for name, each in found]
    told = Text(
        text=f"Points (1 of 100) by which a run is above {first} on the same rows; losses as they "
        "are, where lower is better. The first score of a table decides; the others help to "
        "understand it."
    )
    chart = draw_differences(
        [(name, [d for d in mine if d.metric not in LOWER_IS_BETTER]) for name, mine in pairs],
        first,
        name="compared-differences",
        title=f"Each run minus {first}, with 95 % intervals",
    )
    grids = [
        Grid(
            title=f"{name} minus {first}, {spell_rows(each.rows, each.groups)}",
            header=("score", "difference", "95 % interval", "p", "better"),
            rows=tuple((name_metric(d.metric), *_list_cells(d, (name, first))) for d in mine),
            name=f"compared-differences-{number}",
        )
        for number, ((name, mine), (_, each)) in enumerate(zip(pairs, found, strict=True), 1)
    ]
    return [told, chart, *grids, *_list_tests(first, found)]


def _show_proof(first: str, name: str, proof: Proof, number: int) -> Grid:
    rows = tuple(
        (
            WORDS[each.kind],
            f"{each.rows:,}",
            spell(each.before),
            spell(each.after),
            *_list_cells(each.difference, (name, first)),
        )
        for each in proof.sections
    )
    metric = name_metric(proof.sections[0].difference.metric)
    return Grid(
        title=f"Did cleaning help? {name} minus {first} by {metric}",
        header=("rows", "count", "before", "after", "difference", "95 % interval", "p", "better"),
        rows=rows,
        name=f"compared-proof-{number}",
    )


def _list_tests(first: str, found: Sequence[tuple[str, Comparison]]) -> tuple[Grid, ...]:
    rows = [
        (
            name,
            test.class_name or "all columns",
            f"{test.only_b:,}",
            f"{test.only_a:,}",
            _spell_p(test.p_value),
        )
        for name, each in found
        for test in each.mcnemar
    ]
    grid = Grid(
        title="Rows that one alone has right (McNemar, exact over groups)",
        header=("run", "class", "only this run", f"only {first}", "p"),
        rows=tuple(rows),
        name="compared-rows",
        wide=len(rows) > len(found),
    )
    return (grid,) if rows else ()


def _describe_classes(compared: Sequence[Compared]) -> Section:
    """Show a score of each class, the classes the first run is worst at at the top."""
    first = compared[0]
    metric = MAIN if first.run.segments else _BY_CLASS
    found = [
        {s.class_name: s for s in read_scores(each.run) if s.class_name and s.metric == metric}
        for each in compared
    ]
    classes = [name for name in found[0] if any(name in each for each in found[1:])]
    classes.sort(key=lambda name: (math.isnan(found[0][name].value), found[0][name].value))
    if len(classes) < 2:  # of one class all has been said above
        return Section(key="classes", title="By class", blocks=())
    what = name_metric(metric)
    chart = draw_scores(
        classes,
        [[each.get(name) for name in classes] for each in found],
        [each.name for each in compared],
        name="compared-classes",
        title=f"Each class by {what}, with 95 % intervals",
        what=what,
    )
    grids = [
        Grid(
            title=f"{each.name} minus {first.name} by class",
            header=("class", "difference", "95 % interval", "p", "better"),
            rows=tuple(
                (name, *_list_cells(turn(d), (each.name, first.name)))
                for name, d in each.comparison.by_class
            ),
            name=f"compared-classes-{number}",
            wide=True,
        )
        for number, each in enumerate(compared)
        if each.comparison is not None and each.comparison.by_class
    ]
    blocks: tuple[Block, ...] = (*_warn_of_labels(compared), chart, *grids)
    return Section(key="classes", title="By class", blocks=blocks)


def _describe_recipes(compared: Sequence[Compared]) -> Section:
    """Show what was trained, and the settings in which the runs differ."""
    header = tuple(each.name for each in compared)
    made = [_list_facts(each.run) for each in compared]
    settings = [_flatten_recipes(each.run) for each in compared]
    rows = tuple(
        (name, *(each.get(name, DASH) for each in settings))
        for name in dict.fromkeys(name for each in settings for name in each)
        if len({each.get(name) for each in settings}) > 1
    )
    trained = Grid(
        title="What was trained",
        header=("fact", *header),
        rows=tuple((name, *(each[name] for each in made)) for name in made[0]),
        name="compared-runs",
    )
    differing: Block = Text(text="The recipes are the same.")
    if rows:
        differing = Grid(
            title="Settings of the recipes that differ",
            header=("setting", *header),
            rows=rows,
            name="compared-recipes",
        )
    return Section(key="recipes", title="What differs", blocks=(trained, differing))


def _list_facts(run: Run) -> dict[str, str]:
    table = run.table()
    seconds = json.loads(run.scores_file.read_text(encoding="utf-8"))["seconds"]
    return {
        "folder": str(run.folder),
        "learnt": "masks" if run.segments else "labels",
        "rows": f"{len(table):,}",
        "classes": f"{len(table.classes):,}",
        "groups": DASH if table.groups is None else f"{len(set(table.groups)):,}",
        "folds": f"{len(run.folds):,}",
        "members": ", ".join(run.members),
        "labels": _tell_labels(table),
        "table": table.digest(),
        "seconds of training": f"{seconds:,.0f}",
    }


def _tell_labels(table: Table) -> str:
    origins = [parse_origin(text) for text in table.label_origins or ()]
    counts = Counter(origin.action for origin in origins if origin is not None)
    return ", ".join(f"{n:,} {action}" for action, n in counts.items()) or table.origin


def _flatten_recipes(run: Run) -> dict[str, str]:
    if run.blend is not None:
        shares = zip(run.members, run.blend.weights, strict=True)
        return {f"weight of {name}": spell(weight) for name, weight in shares}
    found: dict[str, str] = {}
    for name in run.members:
        values = run.member(name).recipe().model_dump(mode="json")
        # A member alone is compared with the one of another run, whatever it is called.
        prefix = f"{name}: " if len(run.members) > 1 else ""
        found |= {f"{prefix}{key}": value for key, value in _flatten(values, "").items()}
    return found


def _flatten(values: Mapping[str, Any], prefix: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            found |= _flatten(value, f"{prefix}{key}.")
        else:
            spelled = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            found[f"{prefix}{key}"] = spelled
    return found


def _choose_drawn(run: Run) -> list[str]:
    if run.segments:
        return list(_DRAWN_MASKS)
    return [m for m in COMPARED[0 if run.table().exclusive else 1] if m not in LOWER_IS_BETTER]


def _list_cells(difference: Difference, names: tuple[str, str]) -> tuple[str, str, str, str]:
    """Return a difference, its interval, its p-value and who is better."""
    if math.isnan(difference.value):
        return (DASH, DASH, DASH, "")
    loss = difference.metric in LOWER_IS_BETTER
    scale, digits = (1, 4) if loss else (100, 2)
    # Adding 0 turns the -0.0 of a rounded small number into 0.0.
    value, low, high = (
        f"{round(end * scale, digits) + 0.0:+.{digits}f}"
        for end in (difference.value, difference.low, difference.high)
    )
    side = find_side(difference)
    better = "" if not side else names[0] if side > 0 else names[1]
    return value, f"{low} to {high}", _spell_p(difference.p_value), better


def _spell_score(score: Score | None) -> str:
    return DASH if score is None else spell_interval(score.value, score.low, score.high)


def _spell_p(value: float) -> str:
    return DASH if math.isnan(value) else f"{value:.3g}"


def _say(note: str) -> str:
    return f"{note[:1].upper()}{note[1:]}{'' if note.endswith('.') else '.'}"
