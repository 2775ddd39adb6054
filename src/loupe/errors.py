"""The exceptions of Loupe, and the helper that guesses what was meant.

* LoupeError: anything Loupe raises on purpose.
    * InputError (also ValueError): the user's data or arguments.
        * TableError: a table, its columns, its labels or its images.
        * RecipeError: a recipe or an override of it.
        * MaskError: masks or their run-length text.
        * AlignmentError: two sheets disagree on ids or classes.
        * LeakageError: a prediction was not held out, or a group crosses folds.
    * ImageError (also ValueError): one file cannot be turned into pixels.
    * RunError: a run folder is incomplete, foreign, or from another version.
    * WeightsError: pretrained weights were not found or do not fit.
    * ExportError: a bundle does not agree with the run it was made from.
    * MissingExtraError (also ImportError): an optional dependency is absent.

A message says where, what was found, what was expected and how to go on; all
findings of one kind stand in one message. This module imports nothing of ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class LoupeError(Exception):
    """Anything Loupe raises on purpose; its text is meant for the user."""


class InputError(LoupeError, ValueError):
    """The user's data or arguments cannot be used as they are."""


class TableError(InputError):
    """A table, its columns, its labels or its images cannot be used."""


class RecipeError(InputError):
    """A recipe, or an override of one, is not valid."""


class MaskError(InputError):
    """A mask or its run-length text is not valid."""


class AlignmentError(InputError):
    """Two sheets disagree on ids or on classes."""


class LeakageError(InputError):
    """A prediction was not held out, or copies of a row cross folds."""


class ImageError(LoupeError, ValueError):
    """One image file cannot be turned into pixels."""


class RunError(LoupeError):
    """A run folder is incomplete, foreign, or written by another version."""


class WeightsError(LoupeError):
    """Pretrained weights were not found, or do not fit the network."""


class ExportError(LoupeError):
    """A bundle does not agree with the run it was made from."""


class MissingExtraError(LoupeError, ImportError):
    """An optional dependency is absent; the message names the extra."""


def suggest(name: str, known: Iterable[str]) -> str:
    """Name the known words nearest to a mistyped one.

    Args:
        name: What the user wrote.
        known: What would have been accepted.

    Returns:
        ``"; did you mean 'x'?"``, or ``""`` when nothing is near.

    Examples:
        >>> suggest("epoch", ["epochs", "seed"])
        "; did you mean 'epochs'?"
        >>> suggest("zzz", ["epochs", "seed"])
        ''
    """
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    if not near:
        return ""
    return "; did you mean " + " or ".join(repr(word) for word in near) + "?"


def shorten(items: Sequence[object], most: int = 8) -> str:
    """List items in one line, and say how many were left out.

    Args:
        items: What to list; each is turned into text.
        most: How many to spell out.

    Examples:
        >>> shorten([3, 5, 8], most=2)
        '3, 5 and 1 more'
    """
    head = ", ".join(str(item) for item in items[:most])
    rest = len(items) - most
    return f"{head} and {rest} more" if rest > 0 else head
