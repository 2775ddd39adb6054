"""Worries: what is known of a run, and what of it speaks against trusting its scores.

Owns from where on a score is called weak, scarce or wide. It must not compute a score or
draw: all numbers were measured by others.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from loupe.checking import CheckReport
from loupe.dices import MAIN
from loupe.errors import RunError, shorten
from loupe.intervals import Score
from loupe.issues import IssueSheet
from loupe.judged import Judged
from loupe.maskcuts import NEVER_AREA
from loupe.maskrules import read_mask_rule
from loupe.noiserates import NoiseRate
from loupe.reportparts import Tone
from loupe.runs import Run
from loupe.scorecard import main_metric
from loupe.table import HOLDOUT, Table, count_classes

WEAK = 0.5
"""A class with a lower F1 has more errors than half of what is found and wanted together."""
FEW_ROWS = 30
"""With fewer rows of a class the 95 % interval of a share is up to 36 points wide (Wilson)."""
FEW_GROUPS = 10
"""With fewer groups of a class resampling them says little: too few different draws."""
WIDE = 0.1
"""An interval of a main score wider than this hides the differences that recipes make."""
UNSTEADY = 2.0
"""Folds whose deviation is so many times what chance explains: 1 in 50 runs of three folds."""
MISCALIBRATED = 0.05
"""A probability that is off by more than this on average misleads whoever reads it as one."""
NOISY = 0.03
"""Above this share of wrong labels the labels limit the scores of a good network."""
MOST_NAMES = 8
"""More classes than this are counted."""
EMPTY = "all_empty"
"""The Dice of empty masks alone: the share of pairs without a mask."""
_NORMAL = 1.96  # half a 95 % interval in deviations


class Worry(NamedTuple):
    """One thing that speaks against trusting a run.

    Attributes:
        tone: How much.
        text: In a sentence or two.
    """

    tone: Tone
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """All that a verdict is spoken from.

    Attributes:
        run: Finished.
        table: What it was trained on.
        scores: By metric and class; "" is all classes together.
        stamps: What must be said beside every score.
        judged: What its rule makes of held-out rows; None if there are none.
        check: What `check` found of its table; None if nobody looked.
        issues: What an audit found of its labels; None if there was none.
    """

    run: Run
    table: Table
    scores: dict[tuple[str, str], Score]
    stamps: tuple[str, ...]
    judged: Judged | None
    check: CheckReport | None
    issues: IssueSheet | None

    def find(self, metric: str, name: str = "") -> Score | None:
        """Return a score; None where it was not measured or is undefined.

        Args:
            metric: Its name.
            name: Of the class; "" for all classes together.
        """
        found = self.scores.get((metric, name))
        return None if found is None or math.isnan(found.value) else found

    @property
    def main(self) -> Score | None:
        """The score that runs are compared by."""
        exclusive = self.table.exclusive
        return self.find(MAIN if self.run.segments else main_metric(exclusive=exclusive))

    @property
    def scored(self) -> Table:
        """The rows that the scores rest on: those held out by a fold."""
        folds = self.table.folds
        if self.run.refit or folds is None:
            # Scores of a refit run are those of another, whose folds it does not keep.
            return self.table
        return self.table.select(np.flatnonzero(folds >= 0))

    @property
    def unit(self) -> str:
        """What is decided at once."""
        pooled = self.judged is not None and self.judged.rule.pool
        return "groups" if pooled else "images"


def list_worries(case: Case) -> tuple[Worry, ...]:
    """List what speaks against trusting a run, worst first.

    Args:
        case: What is known of it.
    """
    found = [worry for ask in _QUESTIONS for worry in ask(case)]
    return tuple(sorted(found, key=lambda worry: worry.tone != "bad"))


def _ask_stamps(case: Case) -> Iterator[Worry]:
    for stamp in case.stamps:
        yield Worry("warn" if stamp.startswith("RELABELLED") else "bad", stamp)


def _ask_check(case: Case) -> Iterator[Worry]:
    if case.check is not None and case.check.must_fix:
        count = len(case.check.bad_ids)
        text = f"{count:,} image(s) cannot be read, or equal others with another label."
        yield Worry("bad", text)
    unlike = count_unlike(case.check)
    if unlike:
        text = f"{unlike:,} rows have a near copy with another label: look for wrong labels there."
        yield Worry("warn", text)


def count_unlike(check: CheckReport | None) -> int:
    """Count the rows that have a near copy with another label.

    Args:
        check: What was found of a table; None if nobody looked.
    """
    found = () if check is None else check.findings
    return len({each.id for each in found if each.finding == "near-contradiction"})


def _ask_classes(case: Case) -> Iterator[Worry]:
    """Name classes that are hardly found."""
    names = case.table.classes
    if case.run.segments:
        yield from _ask_cuts(case)
        pairs = [(name, case.find(MAIN, name), case.find(EMPTY, name)) for name in names]
        useless = [name for name, own, empty in pairs if own and empty and own.value <= empty.value]
        if useless:
            yield Worry("bad", f"Masks score no more than empty ones for {name_classes(useless)}.")
        recalls = [score for n in names if (score := case.find("recall", n)) and _is_weak(score)]
        if recalls:
            told = [f"{each.class_name!r} ({_spell_found(each)})" for each in recalls]
            listed = name_classes([each.class_name for each in recalls], told)
            yield Worry("warn", f"Less than half of the given masks are found: {listed}.")
    else:
        lost = [n for n in names if (recall := case.find("recall", n)) and recall.value == 0]
        weak = [n for n in names if n not in lost and _is_weak(case.find("f1", n))]
        if lost:
            yield Worry("bad", f"Never found: {name_classes(lost)}.")
        if weak:
            each = [f"{n!r} ({case.scores['f1', n].value:.2f})" for n in weak]
            yield Worry("warn", f"Weak (F1 below {WEAK:g}): {name_classes(weak, each)}.")


def _ask_cuts(case: Case) -> Iterator[Worry]:
    """Name classes whose cut lets no mask through, however sure the network is."""
    with contextlib.suppress(RunError):
        rule = read_mask_rule(case.run.cuts_file)
        cuts = zip(rule.classes, rule.cuts, strict=True)
        never = [name for name, cut in cuts if cut.min_area >= NEVER_AREA]
        if never:
            yield Worry("bad", f"Never drawn on new images: {name_classes(never)}.")


def _spell_found(score: Score) -> str:
    """Say how many of the given masks of a class are found, in rows."""
    ends = (
        ""
        if math.isnan(score.low)
        else f", {round(score.n * score.low):,} to {round(score.n * score.high):,}"
    )
    return f"{round(score.n * score.value):,} of {score.n:,}{ends}"


def _ask_counts(case: Case) -> Iterator[Worry]:
    """Name classes with too few scored rows or groups to say anything of them."""
    counts = count_classes(case.scored)
    few = {name: count for name, count in counts.items() if count < FEW_ROWS}
    if few:
        told = name_classes(list(few), [f"{name!r} ({count})" for name, count in few.items()])
        yield Worry("warn", f"Few images, so little can be said: {told}.")
    scattered = {n: c for n, c in _count_groups(case.scored).items() if c < FEW_GROUPS}
    scattered = {n: c for n, c in scattered.items() if c < counts[n]}
    if scattered:
        told = name_classes(
            list(scattered), [f"{name!r} ({count})" for name, count in scattered.items()]
        )
        yield Worry("warn", f"In few groups, so every interval is a guess: {told}.")


def _is_weak(score: Score | None) -> bool:
    return score is not None and score.value < WEAK


def _count_groups(table: Table) -> dict[str, int]:
    """Count the groups that hold a class; {} where each row is alone."""
    if table.groups is None:
        return {}
    return {
        name: len({group for group, there in zip(table.groups, column, strict=True) if there})
        for name, column in zip(table.classes, (table.targets >= WEAK).T, strict=True)
    }


def _ask_spread(case: Case) -> Iterator[Worry]:
    """Tell of wide intervals, and of folds that differ more than chance lets them."""
    main = case.main
    if main is None or math.isnan(main.low):
        return
    width, folds = main.high - main.low, len(case.run.folds)
    told = main.metric.replace("_", " ")
    if width > WIDE:
        yield Worry(
            "warn",
            f"The interval is wide: {told} {main.value:.3f}{spell_ends(main)}. Another recipe "
            "must be much better before this data can show it.",
        )
    by_chance = width / (2 * _NORMAL) * math.sqrt(folds)
    if folds > 1 and main.fold_std > UNSTEADY * by_chance > 0:
        yield Worry(
            "warn",
            f"Folds differ more than chance explains: {told} {main.fold_mean:.3f} on average, "
            f"deviation {main.fold_std:.3f}. Look for groups that are unlike the others.",
        )


def _ask_probabilities(case: Case) -> Iterator[Worry]:
    error = case.find("expected_calibration_error")
    if error is not None and error.value > MISCALIBRATED and error.low > 0:
        yield Worry(
            "warn",
            f"Probabilities are off by {100 * error.value:.0f} points on average"
            f"{spell_ends(error)}: do not read 0.9 as 90 %.",
        )


def _ask_rule(case: Case) -> Iterator[Worry]:
    if case.judged is None:
        return
    counted = _count_groups(case.scored) or count_classes(case.scored)
    for each in case.judged.thresholds:
        # What is said of few rows and groups stands above for all such classes.
        known = counted.get(each.class_name, 0) < FEW_GROUPS
        for warning in each.warnings[int(known) :]:
            yield Worry("warn", warning)


def _ask_labels(case: Case) -> Iterator[Worry]:
    rates = () if case.issues is None else read_rates(case.issues.origin)
    noisy = [rate for rate in rates if not rate.given and rate.low > NOISY]
    if noisy:
        most = max(noisy, key=lambda rate: rate.rate)
        what = f"labels of {most.class_name!r}" if most.class_name else "labels"
        yield Worry(
            "warn",
            f"About {100 * most.rate:.0f} of 100 {what} are estimated wrong ({100 * most.low:.0f} "
            f"to {100 * most.high:.0f}): scores against wrong labels are too low, and networks "
            "learn them.",
        )


def _ask_rows(case: Case) -> Iterator[Worry]:
    aside = case.table.quarantined
    if aside:
        yield Worry("warn", f"{len(aside):,} image(s) were set aside and not scored.")
    held = case.table.folds is not None and bool((case.table.folds == HOLDOUT).any())
    if not held and not case.run.refit:
        yield Worry(
            "plain",
            "No rows were set aside for a last test: whoever tries many recipes and keeps the best "
            "will be flattered a little by these scores.",
        )


_QUESTIONS: tuple[Callable[[Case], Iterator[Worry]], ...] = (
    _ask_stamps, _ask_check, _ask_classes, _ask_counts, _ask_labels, _ask_spread,
    _ask_probabilities, _ask_rule, _ask_rows,
)  # fmt: skip
"""In the order of how much an answer matters, among those of one tone."""


def read_rates(origin: Mapping[str, Any]) -> tuple[NoiseRate, ...]:
    """Read the estimated shares of wrong labels.

    Args:
        origin: Of an issue sheet; it may hold none.
    """
    known = {field.name for field in fields(NoiseRate)}
    return tuple(
        NoiseRate(**{key: value for key, value in each.items() if key in known})
        for each in origin.get("rates", ())
    )


def spell_ends(score: Score, digits: int = 3) -> str:
    """Spell the interval of a score, after a space; "" if it has none.

    Args:
        score: Of a run.
        digits: Behind the point.
    """
    if math.isnan(score.low):
        return ""
    return f" ({score.low:.{digits}f} to {score.high:.{digits}f})"


def name_classes(names: Sequence[str], spelled: Sequence[str] = ()) -> str:
    """Name a few classes, and count the others.

    Args:
        names: Of classes.
        spelled: The same with more behind each; the names alone if ().
    """
    return shorten(list(spelled) or [repr(name) for name in names], MOST_NAMES)
