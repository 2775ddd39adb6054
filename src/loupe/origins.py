"""Label origins: what was done to the label of a row, as one readable text in a table.

Owns the column `label_origin`. It must not read tables or decide anything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from loupe.errors import InputError

COLUMN = "label_origin"
"""Name of the column in a table file."""
Action = Literal["flagged", "kept", "dropped", "relabelled", "softened"]
"""Flagged: a rule doubted the label and nobody changed it."""
By = Literal["rule", "review"]
_FORM = re.compile(r"(?P<action>\w+) by (?P<by>\w+)(?:, was (?P<given>.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What was done to the label of one row.

    Attributes:
        action: What became of it. A dropped row keeps its label and is not trained on.
        by: Who decided: a rule alone, or a person.
        given: The label as it was, in the table's own words; "" where it did not change.
    """

    action: Action
    by: By
    given: str = ""


def spell_origin(origin: Origin | None) -> str:
    """Spell what was done; "" for a row that no rule and nobody touched.

    Args:
        origin: Of one row.

    Examples:
        >>> spell_origin(Origin(action="relabelled", by="review", given="cat"))
        'relabelled by review, was cat'
    """
    if origin is None:
        return ""
    was = f", was {origin.given}" if origin.given else ""
    return f"{origin.action} by {origin.by}{was}"


def parse_origin(text: str) -> Origin | None:
    """Read what `spell_origin` wrote.

    Args:
        text: A cell of the column; "" stands for an untouched row.

    Raises:
        InputError: the text says something else.

    Examples:
        >>> parse_origin("dropped by rule")
        Origin(action='dropped', by='rule', given='')
    """
    if not text.strip():
        return None
    found = _FORM.fullmatch(text.strip())
    known = found and found["action"] in get_args(Action) and found["by"] in get_args(By)
    if not found or not known:
        raise InputError(
            f"{text!r} is no label origin; expected text such as 'relabelled by review, was cat' "
            f"({', '.join(get_args(Action))}; by {' or '.join(get_args(By))}), or nothing."
        )
    action: Action = found["action"]  # type: ignore[assignment]
    by: By = found["by"]  # type: ignore[assignment]
    return Origin(action=action, by=by, given=found["given"] or "")
