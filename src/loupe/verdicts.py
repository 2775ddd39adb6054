"""Verdicts: what a run is worth in plain words, what to worry about and what to do next.

Owns the first section of a report. It must not compute a score: all numbers were measured by
others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from loupe.checking import CheckReport
from loupe.errors import shorten
from loupe.evidence import Evidence
from loupe.intervals import Score
from loupe.issues import IssueSheet
from loupe.judged import Judged, judge_run
from loupe.reportparts import Block, Commands, Section, Text, Tone
from loupe.runfacts import name_source, quote_command, read_stamps
from loupe.runs import Run
from loupe.scoring import read_scores
from loupe.table import ALWAYS_TRAINED, HOLDOUT
from loupe.worries import EMPTY, MOST_NAMES, WEAK, Case, count_unlike, list_worries, spell_ends

GOOD = 0.9
"""Less found than this, or less of the alarms right, is told without praise."""
_GROUPED = 0.95  # a few copies among many images are no groups to speak of
_PAIR = 2  # of two classes, naming both says nothing
_RARE = 0.02  # closer to 0 or 1 than this, a share is told of 1,000
_HUNDRED, _THOUSAND = 100, 1000
_FLATTERING = ("LEAK", "OPTIMISTIC")  # stamps of scores that are too kind


class Step(NamedTuple):
    """One thing to do next.

    Attributes:
        reason: Why, in a sentence.
        command: The line to type.
    """

    reason: str
    command: str


def write_verdict(
    run: Run,
    evidence: Evidence | None = None,
    check: CheckReport | None = None,
    issues: IssueSheet | None = None,
    judged: Judged | None = None,
) -> Section:
    """Say in plain words what a run is worth.

    Args:
        run: Finished.
        evidence: Its held-out rows; None of a refit run or one that draws masks: then the scores
            that training stored are told.
        check: What `check` found of its table; None if nobody looked.
        issues: What an audit found of its labels; None if there was none.
        judged: From `judge_run`, if it was made before.
    """
    if judged is None and evidence is not None and not run.segments:
        judged = judge_run(run, evidence)
    scores = read_scores(run) if judged is None else judged.scores
    told = () if evidence is None else evidence.stamps
    case = Case(
        run=run,
        table=run.table(),
        scores={(each.metric, each.class_name): each for each in scores},
        stamps=tuple(dict.fromkeys((*read_stamps(run), *told))),
        judged=judged,
        check=check,
        issues=issues,
    )
    blocks: list[Block] = [Text(text=_tell_training(case)), *_tell_worth(case)]
    worries = list_worries(case)
    blocks += [Text(text=each.text, tone=each.tone) for each in worries]
    if not worries:
        told_none = "Nothing stands out to worry about, as far as this run can tell."
        blocks.append(Text(text=told_none, tone="good"))
    for number, step in enumerate(_list_steps(case), start=1):
        lead = "What to do next. " if number == 1 else ""
        blocks += [Text(text=f"{lead}{number}. {step.reason}"), Commands(lines=(step.command,))]
    return Section(key="verdict", title="The verdict", blocks=tuple(blocks))


# What it was trained on ---------------------------------------------------------------------------


def _tell_training(case: Case) -> str:
    table, run = case.table, case.run
    names = shorten([repr(name) for name in table.classes], MOST_NAMES)
    count = len(table.classes)
    how = "one of them each" if table.exclusive else "each there or not, by itself"
    of = (
        f"{count:,} classes ({names}; {how})" if count > 1 else f"one class ({names}; there or not)"
    )
    source = name_source(table)
    folds = [] if table.folds is None else table.folds.tolist()
    kept = len(table) - folds.count(HOLDOUT)
    text = f"A table of {kept:,} images" + (f" of {source!r}" if source else "") + f", {of}"
    groups = _count_groups(case)
    if groups < _GROUPED * kept:
        text += f", in {groups:,} groups of images that belong together"
    text += ". "
    if run.refit:
        return text + (
            "All rows were trained on, so nothing can be measured on them: the scores below are "
            f"those of the cross-validated run {run.manifest().get('refit_of')!r}."
        )
    count = len(run.folds)
    parts = f"{count} folds" if count > 1 else "one fold"
    text += f"Every score is of images that the networks never saw ({parts})."
    always, aside = folds.count(ALWAYS_TRAINED), folds.count(HOLDOUT)
    if always:
        text = f"{text[:-1]}: {kept - always:,} were scored, the other {always:,} only trained on."
    text += (
        f" {aside:,} more were set aside for a last test, which is not in here." if aside else ""
    )
    return text


def _count_groups(case: Case) -> int:
    """Count the groups of the rows that were not set aside."""
    table = case.table
    names = table.ids if table.groups is None else table.groups
    folds = [0] * len(table) if table.folds is None else table.folds.tolist()
    return len({name for name, fold in zip(names, folds, strict=True) if fold != HOLDOUT})


# How good it is -----------------------------------------------------------------------------------


def _tell_worth(case: Case) -> Iterator[Text]:
    if case.run.segments:
        yield from _tell_masks(case)
    elif case.table.exclusive:
        yield from _tell_exclusive(case)
    elif len(case.table.classes) == 1:
        yield from _tell_single(case)
    else:
        yield from _tell_several(case)


def _tell_exclusive(case: Case) -> Iterator[Text]:
    right = case.find("accuracy")
    if right is None:
        return
    shares = [score for name in case.table.classes if (score := case.find("prevalence", name))]
    usual = max(shares, key=lambda each: each.value, default=None)
    base = _choose_base(right, right.n)
    text = f"Of {base:,} new {case.unit} like these, {_count(right, right.n)} get the right class."
    beaten = usual is None or right.low > usual.value
    if usual is not None:
        text += (
            f" Always answering {usual.class_name!r}, the most frequent class, would be right for "
            f"{round(base * usual.value):,}."
        )
    yield Text(text=text, tone=_judge(case, beaten, right))
    yield from _tell_ends(case)
    kept, sure = case.find("accepted"), case.find("accuracy_accepted")
    if kept is not None and sure is not None:
        answers = round(kept.value * right.n)
        yield Text(
            text=f"Of {_choose_base(kept, right.n):,} it answers for {_count(kept, right.n)} and "
            f"leaves the rest to a person; of {_choose_base(sure, answers):,} answers "
            f"{_count(sure, answers)} are right."
        )


def _tell_single(case: Case) -> Iterator[Text]:
    name = case.table.classes[0]
    found, right = case.find("recall", name), case.find("precision", name)
    share, ranked = case.find("prevalence", name), case.find("average_precision", name)
    if found is None or share is None:
        return
    text = (
        f"Of {_choose_base(found, found.n):,} {case.unit} with {name!r} it finds "
        f"{_count(found, found.n)}: it misses {_count_missed(found, found.n)}; "
    )
    if right is None:
        text += "but it flags none at all."
    else:
        flagged = _count_flagged(found, right, found.n)
        text += (
            f"of {_choose_base(right, flagged):,} that it flags, {_count(right, flagged)} have it."
        )
    rows = found.n if case.main is None else case.main.n
    base = _choose_base(share, rows)
    text += (
        f" {name!r} is on {round(base * share.value):,} of {base:,}: flags at random would be "
        "right that often."
    )
    beaten = right is not None and ranked is not None and ranked.low > share.value
    yield Text(text=text, tone=_judge(case, beaten, found, right))


def _tell_several(case: Case) -> Iterator[Text]:
    found, right = case.find("recall_micro"), case.find("precision_micro")
    names = case.table.classes
    if found is None:
        return
    recalls = [score for name in names if (score := case.find("recall", name))]
    wanted = sum(each.n for each in recalls)
    text = (
        f"Of {_choose_base(found, wanted):,} classes that are there it names "
        f"{_count(found, wanted)}: it misses {_count_missed(found, wanted)}; "
    )
    if right is None:
        text += "but it names none at all."
    else:
        named = _count_flagged(found, right, wanted)
        text += (
            f"of {_choose_base(right, named):,} that it names, {_count(right, named)} are there."
        )
    least = min(recalls, key=_value, default=None)
    if least is not None and least.value < 1:
        text += f" Missed most often: {least.class_name!r}, {_count_missed(least, least.n)}."
    told = [name for name in names if _beats_chance(case, name)]
    text += (
        f" It tells {len(told)} of {len(names)} classes from the rest clearly better than chance."
    )
    main = case.main
    if main is not None:
        text += f" Mean average precision {main.value:.3f}{spell_ends(main)}."
    weakest = [] if least is None else [least]
    yield Text(text=text, tone=_judge(case, bool(told), found, right, *weakest))
    yield from _tell_ends(case)


def _beats_chance(case: Case, name: str) -> bool:
    """Average precision of a ranking by chance is the share of the class."""
    ranked, share = case.find("average_precision", name), case.find("prevalence", name)
    return ranked is not None and share is not None and ranked.low > share.value


def _tell_ends(case: Case) -> Iterator[Text]:
    """Name the strongest and the weakest class."""
    found = [score for name in case.table.classes if (score := case.find("f1", name))]
    if len(found) > _PAIR:
        low, high = min(found, key=_value), max(found, key=_value)
        yield Text(
            text=f"Strongest class: {high.class_name!r} (F1 {high.value:.3f}{spell_ends(high)}); "
            f"weakest: {low.class_name!r} (F1 {low.value:.3f}{spell_ends(low)})."
        )


def _judge(case: Case, beaten: bool, *scores: Score | None) -> Tone:  # noqa: FBT001 (its name)
    """Chance not beaten is bad; what fails more often than not calls for a warning.

    Scores that a stamp says are too kind are not praised either.
    """
    if not beaten or any(score is None for score in scores):
        return "bad"
    known = [score for score in scores if score is not None]
    if any(score.value < WEAK for score in known):
        return "warn"
    return _praise(case) if all(score.value >= GOOD for score in known) else "plain"


def _praise(case: Case) -> Tone:
    return "warn" if any(stamp.startswith(_FLATTERING) for stamp in case.stamps) else "good"


def _value(score: Score) -> float:
    return score.value


def _tell_masks(case: Case) -> Iterator[Text]:
    main, empty = case.main, case.find(EMPTY)
    found, shape = case.find("recall"), case.find("dice_given_found")
    clean = case.find("specificity")
    if main is None or empty is None or found is None:
        return
    text = (
        f"Of {_choose_base(found, found.n):,} masks that should be drawn, it draws "
        f"{_count(found, found.n)}"
    )
    if shape is not None:
        text += f"; the Dice of those is {shape.value:.2f}{spell_ends(shape, 2)}"
    if clean is not None:
        base = _choose_base(clean, clean.n)
        text += f". Of {base:,} that should be empty, {_count(clean, clean.n)} stay so"
    yield Text(text=f"{text}.", tone="warn" if found.value < WEAK else "plain")
    tone: Tone
    if main.value <= empty.value:
        tone, told = "bad", "it is not better than drawing nothing at all"
    elif main.low <= empty.value:
        tone, told = "warn", "whether it is better than drawing nothing is in doubt"
    else:
        tone = _praise(case) if found.value >= GOOD else "plain"
        told = "it is clearly better than drawing nothing"
    yield Text(
        text=f"Mean Dice {main.value:.3f}{spell_ends(main)}; empty masks alone would score "
        f"{empty.value:.3f}: {told}.",
        tone=tone,
    )


# What to do next ----------------------------------------------------------------------------------


def _list_steps(case: Case) -> Iterator[Step]:
    place, source = case.run.folder, name_source(case.table) or "TABLE"
    if case.check is not None and case.check.must_fix:
        yield Step(
            "Set aside what must be fixed, then train again.",
            quote_command("loupe", "check", source, "--quarantine", "clean.csv"),
        )
    yield from _list_label_steps(case)
    if case.run.segments:
        main, empty = case.main, case.find(EMPTY)
        if main is not None and empty is not None and main.low <= empty.value:
            yield Step(
                "Let a classifier say first what is there, and compare on held-out rows (see "
                "'Masks behind a gate').",
                "loupe cascade CASCADE.yaml",
            )
        reason = "Draw masks on new images."
        yield Step(reason, quote_command("loupe", "segment", place, "IMAGES", "--out", "masks.csv"))
        return
    if not case.run.refit:
        goal = ("--precision", "0.99") if case.table.exclusive else ("--recall", "0.95")
        reason = "Choose thresholds by what an error costs: a miss, or a false alarm."
        if case.table.exclusive:
            reason = "Leave doubtful images to a person, if wrong answers cost much."
        yield Step(reason, quote_command("loupe", "decide", place, *goal))
    yield Step(
        "Before trusting it: score new labelled images that nobody looked at while choosing.",
        quote_command("loupe", "score", place, "NEW_TABLE"),
    )
    words = ("loupe", "predict", place, "IMAGES", "--out", "predictions.csv")
    yield Step("Predict new images.", quote_command(*words))


def _list_label_steps(case: Case) -> Iterator[Step]:
    place, unlike = case.run.folder, count_unlike(case.check)
    doubted = case.issues is not None and any(issue.rules for issue in case.issues.issues)
    if doubted and not case.run.refit:
        reason = "Look at the doubted labels."
        yield Step(reason, quote_command("loupe", "review", place / "issues.csv"))
    elif case.issues is None and not case.run.refit:
        first = ", first among near copies with different labels" if unlike else ""
        yield Step(f"Look for wrong labels{first}.", quote_command("loupe", "audit", place))
    elif unlike:
        yield Step(
            "Look for wrong labels among near copies with different labels.",
            quote_command("loupe", "check", name_source(case.table) or "TABLE"),
        )


# Words --------------------------------------------------------------------------------------------


def _choose_base(score: Score, rows: int) -> int:
    """Tell of 100, of 1,000 where that would round an error away; never of more than there are."""
    near = min(score.value, 1 - score.value) < _RARE
    return max(1, min(rows, _THOUSAND if near else _HUNDRED))


def _count(score: Score, rows: int) -> str:
    """Say how many of the base, with the ends of the interval; "about" unless it is all rows."""
    base = _choose_base(score, rows)
    about = "about " if base < rows else ""
    return f"{about}{round(base * score.value):,}{_spell_counts(score.low, score.high, base)}"


def _count_missed(score: Score, rows: int) -> str:
    """Say how many of the base are not found; together with those found they are the base."""
    base = _choose_base(score, rows)
    ends = _spell_counts(1 - score.high, 1 - score.low, base)
    return f"{base - round(base * score.value):,} of {base:,}{ends}"


def _spell_counts(low: float, high: float, base: int) -> str:
    return "" if math.isnan(low) else f" ({round(base * low):,} to {round(base * high):,})"


def _count_flagged(found: Score, right: Score, rows: int) -> int:
    """Count what was flagged, from the share found of so many rows and the share that is right."""
    return round(found.value * rows / right.value) if right.value > 0 else rows
