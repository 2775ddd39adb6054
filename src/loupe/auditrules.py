"""Audit rules: which given labels are flagged, what they should say, and why.

Owns the names of the rules, and that a class which stands alone is judged as a question of its
own, absent or present. It must not read runs or write files.

Shapes: N rows, C classes, K questions of a row: 1 where classes are exclusive, else C; M members.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loupe import noise
from loupe.errors import InputError, shorten, suggest
from loupe.labelquality import Ranking, fit_noise_model, rank_labels
from loupe.votes import Nearest, find_nearest, mates_disagree, mix_votes
from loupe.weighting import Bool, Float64, Floats, Integers

Int64 = NDArray[np.int64]

DEFAULT = "low_quality"
SUSPECT = 0.5
"""Quality below which the default rule flags a label."""
PLAIN: Mapping[str, Callable[[Integers, Floats], Bool]] = {
    "disagree": noise.flag_disagreeing,
    "confident_joint": noise.flag_confident_joint,
    "by_class": noise.flag_by_class,
    "by_noise_rate": noise.flag_by_noise_rate,
    "both": noise.flag_both,
}
"""Rules of a sheet of probabilities alone."""
RULES = (DEFAULT, "confident", "agreement", *PLAIN)
"""All rules: `low_quality` is the default, `confident` disagreement with a threshold as a field,
`agreement` of all members on one other class, the others those of `noise`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """What an audit asks.

    Attributes:
        rules: Names of `RULES`.
        confidence: Of the rule `confident`, in [0, 1].
        ranking: How labels are ordered.
    """

    rules: tuple[str, ...] = (DEFAULT,)
    confidence: float = noise.CONFIDENT
    ranking: Ranking = "posterior"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One answer for each row: its class, or whether it shows one class.

    Attributes:
        class_name: The class; "" where classes are exclusive.
        options: What may be answered: names of classes, or absent and present.
        given: (N,) numbers of the given answers.
        probs: (N, options) held-out probabilities, the mean of all members.
        members: (M,) the same of each member.
    """

    class_name: str
    options: tuple[str, ...]
    given: Int64
    probs: Float64
    members: tuple[Float64, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What is thought of the labels that answer one question.

    Attributes:
        question: What was asked.
        quality: (N,) in [0, 1]; low is suspect.
        suggested: (N,) the best other answer.
        agreeing: (N,) how many members think so first of all.
        flags: Name of a rule to (N,) what it flags.
        neighbours: How many neighbours voted; 0 where none did.
        share: What their votes weighed.
        mates: Rows of one group were asked about each other.
    """

    question: Question
    quality: Float64
    suggested: Int64
    agreeing: Int64
    flags: Mapping[str, Bool]
    neighbours: int = 0
    share: float = 0.0
    mates: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Who looks like whom.

    Attributes:
        nearest: Of all rows; None where no question is asked of rows of one group.
        apart: Of rows in other groups; None where every question is.
        mates: For each question, whether rows of one group are asked about each other.
    """

    nearest: Nearest | None
    apart: Nearest | None
    mates: tuple[bool, ...]

    def of(self, number: int) -> Nearest:
        """Return the neighbours that a question is asked of."""
        found = self.nearest if self.mates[number] else self.apart
        if found is None:
            raise InputError(f"neighbours of question {number} were not looked for.")
        return found


def check_rules(names: Sequence[str], members: int) -> None:
    """Refuse rules that are unknown, or that need more than there is.

    Args:
        names: As the user named them.
        members: M.

    Raises:
        InputError: a rule is unknown, there is none, or `agreement` is asked of a single member.
    """
    unknown = [f"{name!r}{suggest(name, RULES)}" for name in names if name not in RULES]
    if unknown or not names:
        raise InputError(
            f"unknown rules: {shorten(unknown) or '(none was named)'} (known: {', '.join(RULES)})"
        )
    if "agreement" in names and members < 2:
        raise InputError(
            "the rule 'agreement' asks several members, and there is 1. Train several recipes, "
            "or blend runs and audit the blend."
        )


def ask_questions(
    targets: Floats,
    members: Sequence[Floats],
    mean: Floats,
    classes: Sequence[str],
    words: tuple[str, str],
    *,
    exclusive: bool,
) -> list[Question]:
    """Make the questions of a sheet.

    Args:
        targets: Given labels in [0, 1]; what is largest, or 0.5 and above, is the label.
        members: Held-out probabilities.
        mean: The same of all members together.
        classes: Names.
        words: For absent and present, where classes stand alone.
        exclusive: Rows sum to 1.

    Shape:
        targets, mean: (N, C). members: M of (N, C). classes: (C,).
    """
    sheets = [np.asarray(sheet, np.float64) for sheet in members]
    whole = np.asarray(mean, np.float64)
    if exclusive:
        return [
            Question(
                class_name="",
                options=tuple(classes),
                given=targets.argmax(axis=1).astype(np.int64),
                probs=whole,
                members=tuple(sheets),
            )
        ]
    return [
        Question(
            class_name=name,
            options=words,
            given=(targets[:, column] >= 0.5).astype(np.int64),
            probs=_part(whole[:, column]),
            members=tuple(_part(sheet[:, column]) for sheet in sheets),
        )
        for column, name in enumerate(classes)
    ]


def look_around(features: Floats, groups: Integers, questions: Sequence[Question]) -> Surroundings:
    """Find who looks like whom, and who may be asked about whom.

    Args:
        features: Of the frozen network.
        groups: Number of the group of each row.
        questions: What is to be asked of them, see `votes.mates_disagree`.

    Shape:
        features: (N, D). groups: (N,).
    """
    alone = len(np.unique(groups)) == len(groups)
    mates = tuple(not alone and _ask_mates(question, groups) for question in questions)
    # A search takes minutes where there are many rows.
    nearest = find_nearest(features) if alone or any(mates) else None
    apart = nearest if alone else None if all(mates) else find_nearest(features, groups)
    return Surroundings(nearest=nearest, apart=apart, mates=mates)


def judge(
    question: Question, asking: Asking, nearest: Nearest | None = None, *, mates: bool = False
) -> Judged:
    """Rank and flag the answers to one question.

    Args:
        question: See `ask_questions`.
        asking: Which rules and which ranking.
        nearest: The neighbours; None where no features were kept. They vote in the default
            ranking alone; the other rankings and the rules of the field have the network's word.
        mates: Rows of one group are among each other's neighbours.
    """
    given, mixed = question.given, question.probs
    voters, share = 0, 0.0
    if nearest is not None and asking.ranking == "posterior":
        found = mix_votes(given, question.probs, nearest)
        mixed, voters, share = found.probs, found.neighbours, found.share
    model = fit_noise_model(given, mixed)
    quality = rank_labels(given, mixed, asking.ranking, model)
    others = model.posterior.copy()
    others[np.arange(len(given)), given] = -1
    suggested = others.argmax(axis=1).astype(np.int64)
    firsts = np.stack([sheet.argmax(axis=1) for sheet in question.members])
    agreeing = (firsts == suggested).sum(axis=0).astype(np.int64)
    flags = {name: _flag(name, question, asking, quality) for name in asking.rules}
    return Judged(
        question=question,
        quality=quality,
        suggested=suggested,
        agreeing=agreeing,
        flags=flags,
        neighbours=voters,
        share=share,
        mates=mates and share > 0,
    )


def explain(judged: Judged, row: int) -> str:
    """Say in one sentence why a label is doubted.

    Args:
        judged: See `judge`.
        row: Which.
    """
    question = judged.question
    given, other = question.given[row], judged.suggested[row]
    shown = [f"p({question.options[n]}) {question.probs[row, n]:.3f}" for n in (given, other)]
    if question.class_name:
        shown = [f"p({question.class_name}) {question.probs[row, 1]:.3f}"]
    count = len(question.members)
    if count > 1:
        shown.append(f"{judged.agreeing[row]} of {count} members say {question.options[other]}")
    return ", ".join(shown)


def _flag(name: str, question: Question, asking: Asking, quality: Float64) -> Bool:
    if name == DEFAULT:
        return np.asarray(quality < SUSPECT)
    if name == "confident":
        return noise.flag_confident(question.given, question.probs, asking.confidence)
    if name == "agreement":
        # Their own word: neighbours and the noise model may suggest another class.
        firsts = np.stack([sheet.argmax(axis=1) for sheet in question.members])
        return np.asarray((firsts == firsts[0]).all(axis=0) & (firsts[0] != question.given))
    return PLAIN[name](question.given, question.probs)


def _ask_mates(question: Question, groups: Integers) -> bool:
    joint = noise.count_joint(question.given, question.probs)
    return mates_disagree(question.given, groups, 1 - joint.trace() / len(groups))


def _part(present: Float64) -> Float64:
    return np.stack([1 - present, present], axis=1)
