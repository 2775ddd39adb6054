"""Relabels: what a policy and people's decisions make of doubted labels.

Owns who wins, what becomes of each label, and the arrays of the new table. It must not
read or write files.

Shapes: N rows, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from loupe.errors import AlignmentError, InputError, shorten, suggest
from loupe.issues import MASK, NO, NO_MASK, YES, Issue, Key
from loupe.origins import Action, By, Origin, parse_origin, spell_origin
from loupe.reviews import Review
from loupe.table import Float32, Table

Policy = Literal["relabel", "drop", "soften"]
"""What becomes of a doubted label that nobody decided about."""
_ORDER: tuple[Action, ...] = ("dropped", "relabelled", "softened", "kept", "flagged")
_DECIDED: dict[str, Action] = {
    "keep": "kept",
    "drop": "dropped",
    "relabel": "relabelled",
    "skip": "flagged",
}
_ENFORCED: dict[Policy, Action] = {
    "drop": "dropped",
    "relabel": "relabelled",
    "soften": "softened",
}
_WORDS = {YES: 1.0, MASK: 1.0, NO: 0.0, NO_MASK: 0.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What is to be done with labels that nobody decided about.

    Attributes:
        policy: What to do.
        only_reviewed: Do nothing with them.
        rules: Only if one of these flags the label; () for any.
        max_quality: Only labels of this quality or a lower one.
    """

    policy: Policy
    only_reviewed: bool = False
    rules: tuple[str, ...] = ()
    max_quality: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What becomes of one label.

    Attributes:
        row: In the table.
        column: Of the class where classes stand alone; None for the label of the row.
        action: What is done.
        by: Who decided.
        given: The label as it was.
        label: The new one, if it is relabelled.
    """

    row: int
    column: int | None
    action: Action
    by: By
    given: str
    label: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What becomes of all doubted labels.

    Attributes:
        changes: One for each label, in the order of the issues.
        notes: What could not be done, for the screen.
    """

    changes: tuple[Change, ...]
    notes: tuple[str, ...] = ()


def plan_changes(
    table: Table, issues: Sequence[Issue], reviews: Mapping[Key, Review], choice: Choice
) -> Plan:
    """Say what becomes of every label that a rule doubts or a person decided about.

    A person's decision wins over the policy, also about a label that no rule doubts. A row
    of which a person kept or set a label is not dropped by a rule.

    Args:
        table: With the labels as they are.
        issues: All of them; those that the choice leaves out count as flagged.
        reviews: The decisions that stand; `skip` leaves a label as it is.
        choice: What to do where nobody decided.

    Raises:
        AlignmentError: ids are not in the table, or labels there are not those that were
            doubted or decided about.
        InputError: a rule or a new label is unknown.
    """
    _check_rules(issues, choice.rules)
    found: dict[Key, list[Issue]] = {}
    for issue in issues:
        # `audit --all` lists labels that no rule doubts as well: they are no reason to act.
        if issue.rules:
            found.setdefault(issue.key, []).append(issue)
    given = {key: doubts[0].given for key, doubts in found.items()}
    given |= {key: review.given for key, review in reviews.items()}
    told = [(issue.key, issue.given) for issue in issues]
    _check_given(table, [*told, *given.items()])
    at = {name: row for row, name in enumerate(table.ids)}
    columns = {name: number for number, name in enumerate(table.classes)}
    changes = []
    for key, named in given.items():
        action, by, label = _settle(found.get(key, []), reviews.get(key), choice)
        # Without a class a label is the row's; words of one class would say nothing there.
        place = columns[key[1]] if key[1] else None
        row = at[key[0]]
        was = _read_label(table, row, place, named)
        changes.append(Change(row=row, column=place, action=action, by=by, given=was, label=label))
    _check_labels(table, changes)
    return _allow(table, changes)


def _settle(
    doubts: Sequence[Issue], review: Review | None, choice: Choice
) -> tuple[Action, By, str]:
    if review is not None:
        kept = review.decision == "relabel" and review.label == review.given
        action = "kept" if kept else _DECIDED[review.decision]
        by: By = "rule" if action == "flagged" else "review"
        return action, by, review.label if action == "relabelled" else ""
    chosen = [
        issue
        for issue in doubts
        if issue.quality <= choice.max_quality
        and (not choice.rules or not set(choice.rules).isdisjoint(issue.rules))
    ]
    if choice.only_reviewed or not chosen:
        return "flagged", "rule", ""
    label = next((issue.suggested for issue in chosen if issue.suggested), "")
    if not label and not choice.rules:
        # Worth a look (a copy, a strange image), but nobody says that the label is wrong.
        return "relabelled", "rule", ""
    return _ENFORCED[choice.policy], "rule", label if choice.policy == "relabel" else ""


def _allow(table: Table, changes: Sequence[Change]) -> Plan:
    """Leave labels alone where the wanted change cannot be made, and say so."""
    decided = {c.row for c in changes if c.by == "review" and c.action in ("kept", "relabelled")}
    allowed, told = [], dict.fromkeys(_EXCUSES, 0)
    for change in changes:
        excuse = _find_excuse(table, change, decided)
        if excuse:
            told[excuse] += 1
            change = replace(change, action="flagged", by="rule", label="")  # noqa: PLW2901
        allowed.append(change)
    notes = tuple(f"{n} {_EXCUSES[excuse]}" for excuse, n in told.items() if n)
    return Plan(changes=tuple(allowed), notes=notes)


_EXCUSES = {
    "unsuggested": "issue(s) suggest no other label; they wait for a person to look (loupe review)",
    "whole": "issue(s) are about a row and not about one class, so its labels are left as they are",
    "undrawn": "mask(s) are said to be missing; none can be drawn here, so nothing is changed",
    "softened": "label(s) were softened before and stay as they are",
    "decided": "row(s) are not dropped by a rule, because a person decided about one of its labels",
}


def _was_softened(table: Table, row: int) -> bool:
    origin = None if table.label_origins is None else parse_origin(table.label_origins[row])
    return origin is not None and origin.action == "softened"


def _find_excuse(table: Table, change: Change, decided: set[int]) -> str:
    """Return why a change cannot be made, "" if it can."""
    if change.action == "dropped":
        return "decided" if change.by == "rule" and change.row in decided else ""
    if change.action == "relabelled" and change.label in ("", change.given):
        return "unsuggested"
    if change.action == "softened" and _was_softened(table, change.row):
        return "softened"
    if change.action in ("relabelled", "softened") and _is_whole(table, change.column):
        return "whole"
    if change.action == "relabelled" and table.masks is not None and _WORDS[change.label]:
        return "undrawn"
    return ""


def _is_whole(table: Table, column: int | None) -> bool:
    return column is None and not table.exclusive


def _check_rules(issues: Sequence[Issue], rules: Sequence[str]) -> None:
    known = sorted({rule for issue in issues for rule in issue.rules})
    unknown = [f"{rule!r}{suggest(rule, known)}" for rule in rules if rule not in known]
    if unknown:
        raise InputError(
            f"no issue is flagged by {shorten(unknown)}. Rules that flag some here: "
            f"{', '.join(known) or 'none'}."
        )


def _check_given(table: Table, told: Iterable[tuple[Key, str]]) -> None:
    """Refuse issues and decisions that are about other labels than the table's."""
    at = {name: row for row, name in enumerate(table.ids)}
    columns = {name: number for number, name in enumerate(table.classes)}
    pairs = list(dict.fromkeys(told))
    lost = list(dict.fromkeys(key[0] for key, _ in pairs if key[0] not in at))
    if lost:
        raise AlignmentError(
            f"{len(lost)} id(s) with a label issue or a review are not in the table: "
            f"{shorten([repr(name) for name in lost])}. Name the table that was audited."
        )
    odd = [name for (_, name), _ in pairs if name and (table.exclusive or name not in columns)]
    if odd:
        names = shorten([repr(name) for name in dict.fromkeys(odd)])
        kind = "one a row" if table.exclusive else "each on its own"
        raise AlignmentError(
            f"issues are about the labels of {names}, each on its own; the table has the classes "
            f"{shorten(table.classes)}, {kind}. Name the table that was audited."
        )
    other = [
        f"{key[0]!r}{f' ({key[1]})' if key[1] else ''}: {given!r} there, {now!r} in the table"
        for key, given in pairs
        if given and (now := _read_label(table, at[key[0]], columns.get(key[1]), given)) != given
    ]
    if other:
        raise AlignmentError(
            f"{len(other)} label(s) are not those that were audited or reviewed: "
            f"{shorten(other)}. The table was changed since; run 'loupe audit' again."
        )


def _read_label(table: Table, row: int, column: int | None, given: str) -> str:
    """Spell the label of a row or cell in the words of `given`."""
    if table.exclusive:
        return table.classes[int(table.targets[row].argmax())]
    if column is None:
        return given
    there = bool(table.targets[row, column] >= 0.5)
    if given in (MASK, NO_MASK):
        return MASK if there else NO_MASK
    return YES if there else NO


def _check_labels(table: Table, changes: Sequence[Change]) -> None:
    """Refuse new labels that are no classes, or no words of one class."""
    known = table.classes if table.exclusive else tuple(_WORDS)
    wrong = [
        f"{change.label!r} of {table.ids[change.row]!r}{suggest(change.label, known)}"
        for change in changes
        if change.label and change.label not in known and not _is_whole(table, change.column)
    ]
    wrong += [
        f"{change.label!r} of the whole row {table.ids[change.row]!r}"
        for change in changes
        if change.by == "review" and change.label and _is_whole(table, change.column)
    ]
    if wrong:
        raise InputError(
            f"{len(wrong)} new label(s) are unknown: {shorten(wrong)}. Expected "
            f"{shorten([repr(name) for name in known], 20)}"
            f"{'' if table.exclusive else ' of one class'}."
        )


def apply_changes(table: Table, changes: Sequence[Change], probs: Float32, *, mix: float) -> Table:
    """Return a table with new targets, masks, weights and label origins.

    A dropped row keeps its labels and gets the weight 0, whatever else was wanted of it.

    Args:
        table: With the labels as they are.
        changes: From `plan_changes`.
        probs: What was predicted of rows that are softened; others are not looked at.
        mix: Share of the prediction in a softened target.

    Shape:
        probs: (N, C).

    Raises:
        InputError: no row would be left to train on.
    """
    dropped = sorted({change.row for change in changes if change.action == "dropped"})
    kept = [change for change in changes if change.row not in set(dropped)]
    targets = table.targets.copy()
    masks = None if table.masks is None else [list(texts) for texts in table.masks]
    for change in kept:
        cell = slice(None) if change.column is None else change.column
        if change.action == "softened":
            mixed = (1 - mix) * table.targets[change.row, cell] + mix * probs[change.row, cell]
            targets[change.row, cell] = mixed / mixed.sum() if table.exclusive else mixed
        elif change.action == "relabelled" and table.exclusive:
            targets[change.row] = [name == change.label for name in table.classes]
        elif change.action == "relabelled" and change.column is not None:
            targets[change.row, change.column] = _WORDS[change.label]
            if masks is not None:
                masks[change.row][change.column] = ""
    weights = _weigh(table, kept, dropped)
    if dropped and weights is not None and not weights.any():
        raise InputError(
            "every row would be dropped; nothing would be left to train on. Choose fewer "
            "issues (--rule, --max-quality), or another policy."
        )
    return replace(
        table,
        targets=targets,
        weights=weights,
        masks=None if masks is None else tuple(tuple(texts) for texts in masks),
        label_origins=_join_origins(table, changes),
    )


def _join_origins(table: Table, changes: Sequence[Change]) -> tuple[str, ...]:
    """Say of each row what was done to its label, in this table or in one before."""
    texts = list(table.label_origins or ("",) * len(table))
    by_row: dict[int, list[Change]] = {}
    for change in changes:
        by_row.setdefault(change.row, []).append(change)
    for row, found in by_row.items():
        before, now = parse_origin(texts[row]), _merge(table, found)
        given = "" if before is None else before.given
        if now.action == "relabelled" and given and found[0].label == given:
            # The label is again what was given at first.
            now = Origin(action="kept" if now.by == "review" else "flagged", by=now.by)
            before = None
        texts[row] = spell_origin(_follow(before, now))
    return tuple(texts)


def _merge(table: Table, changes: Sequence[Change]) -> Origin:
    """Return the strongest change of a row; a rule's share in it is never hidden."""
    action = min((change.action for change in changes), key=_ORDER.index)
    same = [change for change in changes if change.action == action]
    by: By = "review" if all(change.by == "review" for change in same) else "rule"
    if action == "relabelled" and any(c.action == "softened" for c in changes):
        by = "rule"
    if action not in ("relabelled", "softened"):
        return Origin(action=action, by=by)
    altered = [change for change in changes if change.action in ("relabelled", "softened")]
    told = [
        change.given if change.column is None else f"{table.classes[change.column]} {change.given}"
        for change in altered
    ]
    return Origin(action=action, by=by, given=", ".join(told).strip())


def _weigh(table: Table, kept: Sequence[Change], dropped: Sequence[int]) -> Float32 | None:
    """Weigh what is dropped nothing; what a person wants back after all weighs 1 again."""
    earlier = [parse_origin(text) for text in table.label_origins or ("",) * len(table)]
    gone = {row for row, o in enumerate(earlier) if o is not None and o.action == "dropped"}
    wanted = [c for c in kept if c.by == "review" and c.action in ("kept", "relabelled")]
    back = [change.row for change in wanted if change.row in gone]
    if not dropped and (not back or table.weights is None):
        return table.weights
    weights = np.ones(len(table), np.float32) if table.weights is None else table.weights.copy()
    # What it weighed before an earlier drop is not on record.
    weights[back] = 1
    weights[dropped] = 0
    return weights


def _follow(before: Origin | None, now: Origin) -> Origin:
    """Join what was done to a label with what an earlier table did to it."""
    if before is None or before.action in ("flagged", "kept"):
        return now
    if before.action == "dropped" and now.action == "kept" and now.by == "review":
        return replace(now, given=before.given)
    if now.action == "flagged" or (before.action == "dropped" and now.action == "kept"):
        return before
    if now.action == "kept":
        return replace(before, by="review")
    # What people once gave is what later scores are held against.
    return replace(now, given=before.given or now.given)


def count_actions(table: Table) -> dict[str, int]:
    """Count the rows to whose label something was done, by what.

    Args:
        table: With label origins.

    Returns:
        All actions of `loupe.origins`, also those without a row.
    """
    origins = [parse_origin(text) for text in table.label_origins or ()]
    actions = [origin.action for origin in origins if origin is not None]
    return {action: actions.count(action) for action in _ORDER}
