"""Answers: predictions of some rows, and the text of their cells.

Owns the sheet that `submissions` writes, with unreadable rows marked, and how a
number, a class, a list or a 0/1 word is spelled. It must not know columns or files.

Shapes: N rows, C classes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loupe.errors import InputError, shorten
from loupe.table import Float32, Layout

Bools = NDArray[np.bool_]

_INTEGER = re.compile(r"[+-]?\d+")
_DECIMAL = re.compile(r"[+-]?\d*\.\d*(?:[eE][+-]?\d+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Predictions of some rows, ready to be written.

    Attributes:
        ids: (N,) ids as the table writes them.
        classes: (C,) names.
        probs: (N, C) float32; NaN where the image could not be read.
        decisions: (N, C) bool; all False where it could not be read.
        exclusive: One class a row; a row without any was rejected by the rule.
        errors: (N,) why a row could not be read, else None; None if all could.
        layout: How the training table was written.

    Raises:
        InputError: lengths differ, or exclusive classes have two decisions in a row.
    """

    ids: tuple[str, ...]
    classes: tuple[str, ...]
    probs: Float32
    decisions: Bools
    exclusive: bool
    errors: tuple[str | None, ...] | None = None
    layout: Layout

    def __post_init__(self) -> None:
        shape = (len(self.ids), len(self.classes))
        lengths = self.errors is None or len(self.errors) == len(self.ids)
        if self.probs.shape != shape or self.decisions.shape != shape or not lengths:
            raise InputError(
                f"{shape[0]} ids and {shape[1]} classes have probabilities of shape "
                f"{self.probs.shape}, decisions of shape {self.decisions.shape} and "
                f"{'no' if self.errors is None else len(self.errors)} error texts."
            )
        double = np.flatnonzero(self.decisions.sum(axis=1) > 1)
        if self.exclusive and len(double):
            raise InputError(
                f"classes are exclusive, but {len(double)} row(s) have several decisions: "
                f"{shorten([repr(self.ids[i]) for i in double])}."
            )

    def messages(self) -> list[str]:
        """Return for each row why it could not be read, "" where it could."""
        given = self.errors or (None,) * len(self.ids)
        lost: list[bool] = np.asarray(np.isnan(self.probs).any(axis=1)).tolist()
        return [
            error or ("not predicted" if bad else "")
            for error, bad in zip(given, lost, strict=True)
        ]


def blank_answers(
    ids: Sequence[str], classes: Sequence[str], *, exclusive: bool, layout: Layout
) -> Answers:
    """Return answers that say nothing, to try out how they would be written.

    Args:
        ids: (N,) ids of the rows that are to be predicted.
        classes: (C,) names.
        exclusive: One class a row.
        layout: How the training table was written.
    """
    shape = (len(ids), len(classes))
    return Answers(
        ids=tuple(ids),
        classes=tuple(classes),
        probs=np.zeros(shape, np.float32),
        decisions=np.zeros(shape, np.bool_),
        exclusive=exclusive,
        layout=layout,
    )


def spell_probs(answers: Answers, at: int) -> list[str]:
    """Spell a column of probabilities; "" where a row could not be read.

    The text is the shortest that reads back as the same float32.

    Args:
        answers: The predictions.
        at: Number of the class.
    """
    texts = np.asarray(answers.probs[:, at], np.float32).astype(str).tolist()
    return ["" if lost else str(t) for t, lost in zip(texts, answers.messages(), strict=True)]


def spell_classes(answers: Answers, *, numbers: bool) -> tuple[str, ...]:
    """Return the text that stands for each class in the training table.

    Args:
        answers: The predictions.
        numbers: Where the table has names, give each class its place, from 0.
    """
    given = answers.layout.numbers
    known = len(given) == len(answers.classes)
    if numbers and not known and not are_integers(answers.classes):
        return tuple(str(at) for at in range(len(answers.classes)))
    return given if known else answers.classes


def spell_flags(answers: Answers, at: int, words: Sequence[str]) -> list[str]:
    """Spell the decisions of one class; "" where a row could not be read.

    Args:
        answers: The predictions.
        at: Number of the class.
        words: Text of absent and of present.
    """
    flags = answers.decisions[:, at].tolist()
    return ["" if lost else words[f] for f, lost in zip(flags, answers.messages(), strict=True)]


def spell_choice(answers: Answers, texts: Sequence[str]) -> list[str]:
    """Spell the chosen class of each row; "" where there is none.

    Args:
        answers: Predictions of exclusive classes.
        texts: (C,) what to write for each class.
    """
    chosen: list[int] = answers.decisions.argmax(axis=1).tolist()
    decided: list[bool] = np.asarray(answers.decisions.any(axis=1)).tolist()
    return [
        texts[at] if there and not lost else ""
        for at, there, lost in zip(chosen, decided, answers.messages(), strict=True)
    ]


def spell_lists(answers: Answers, texts: Sequence[str], separator: str) -> list[str]:
    """Spell the classes decided for each row as a list.

    Args:
        answers: The predictions.
        texts: (C,) what to write for each class.
        separator: What parts them.
    """
    return [
        "" if lost else separator.join(t for t, there in zip(texts, row, strict=True) if there)
        for row, lost in zip(answers.decisions.tolist(), answers.messages(), strict=True)
    ]


def has_decimals(cells: Sequence[str]) -> bool:
    """Return True if some cell is a number with a decimal point.

    Examples:
        >>> has_decimals(["0", "0.5"]), has_decimals(["0", "a.b"])
        (True, False)
    """
    return any(_DECIMAL.fullmatch(text.strip()) for text in cells)


def are_integers(texts: Sequence[str]) -> bool:
    """Return True if there are texts and each is a whole number.

    Examples:
        >>> are_integers(["0", "-12"]), are_integers(["0", "x"]), are_integers([])
        (True, False, False)
    """
    return bool(texts) and all(_INTEGER.fullmatch(text.strip()) for text in texts)
