"""Proving: did cleaning the labels help, in numbers and in words.

Owns which rows a proof looks at, against which labels, and how its verdict comes about. It
must not fit, read files, or know where the predictions come from.

A proof compares a run before cleaning with one after it, trained on the cleaned table with
the same folds. Up to four sections, each after minus before on the same rows:

- given: all rows, labels as given. Dropped rows are held out and predicted like the others.
  Fair to hard rows; where a given label is wrong, whoever knows better is counted wrong.
- corrected: the same, with the label of a person where one was changed.
- untouched: rows that no rule and nobody touched. Few of their labels are wrong, but they
  are the easy rows, and those on which the run before agreed with the label.
- reviewed: rows that people looked at, with their labels. Right labels, but rows on which the
  run before disagreed: it is wrong wherever the label was kept, and luck alone mends some.

So no section may speak alone. Dropping hard rows lifts "untouched" and lowers the rest; a
second training that is no better loses on "untouched" and gains on "reviewed", for the first
one picked the rows. Both faults cancel in a total, over all rows. "Helped" therefore needs a
total (given or corrected) and a part (untouched or reviewed) above chance, and none below.
"Hurt" is the same turned round, but of totals "given" alone: people correct where the run
before disagrees, never where it agrees with a wrong label, so "corrected" favours it. All
else is told as what it is, and is no proof; parts that contradict each other while no total
moves are no sign of anything.

Shapes: N rows, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from loupe.aligning import match_ids
from loupe.comparing import Answer, Comparison, Kind, Proof, Section, describe, find_side
from loupe.evidence import Evidence, Rows
from loupe.intervals import compare_paired
from loupe.origins import Origin, parse_origin
from loupe.scorecard import find_family, main_metric, measure, read_sheet
from loupe.table import Table
from loupe.weighting import Bool, Floats, Integers

CHANGED = frozenset({"dropped", "relabelled", "softened"})
"""What was done to rows that the run after does not learn as they were given."""
STAMP = "RELABELLED"
"""How the stamp of a run begins whose scores are against new labels; a proof's are not."""
WORDS: dict[Kind, str] = {
    "given": "all rows, labels as given",
    "corrected": "all rows, labels as reviewed",
    "untouched": "rows nobody touched",
    "reviewed": "reviewed rows, labels as reviewed",
}
"""What the sections are called."""
_TOTALS: tuple[Kind, ...] = ("given", "corrected")
_WHY_BETTER: dict[Kind, str] = {
    "given": "rows nobody touched do not show it",
    "corrected": "rows nobody touched do not show it",
    "untouched": "dropping hard rows looks the same; review some of the touched rows to tell "
    "wrong labels from hard rows",
    "reviewed": "they were picked where the run before disagreed with the label, so luck alone "
    "lifts them",
}
_WHY_WORSE: dict[Kind, str] = {
    "given": "where a given label is wrong, whoever knows better is counted wrong",
    "corrected": "rows nobody touched do not show it",
    "untouched": "they were left alone where the run before agreed with the label, which "
    "favours it",
    "reviewed": "where a label was changed to what the run before said, that run is always right",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Which rows of a proof are which.

    Attributes:
        untouched: (N,) no rule doubted the label and nobody looked.
        reviewed: (N,) a person kept or changed the label.
        corrected: (N,) a person changed it.
        ruled: How many rows rules alone dropped or changed.
    """

    untouched: Bool
    reviewed: Bool
    corrected: Bool
    ruled: int


def read_origins(
    tables: Sequence[Table | None], ids: Sequence[str]
) -> tuple[Origin | None, ...] | None:
    """Read what was done to the labels between two tables.

    Args:
        tables: Of the run before cleaning, and of the one after it; None stands for no run.
        ids: Rows of both.

    Returns:
        (N,) what was done, or None where there is nothing to prove: the later table says
        nothing, nothing was dropped or changed, or the earlier one says the same.

    Raises:
        InputError: a text of the table is no label origin.
    """
    before, after = tables
    if before is None or after is None:
        return None
    texts = _pick(after, ids)
    if texts is None or texts == _pick(before, ids):
        return None
    known = {text: parse_origin(text) for text in set(texts)}
    changed = any(origin is not None and origin.action in CHANGED for origin in known.values())
    return tuple(known[text] for text in texts) if changed else None


def split_parts(origins: Sequence[Origin | None]) -> Parts:
    """Sort rows by who touched their labels.

    Args:
        origins: (N,) what was done to each.

    Examples:
        >>> kept = Origin(action="kept", by="review")
        >>> split_parts([None, kept, Origin(action="dropped", by="rule")]).reviewed.tolist()
        [False, True, False]
    """
    seen = [(o.action, o.by) if o is not None else ("", "") for o in origins]
    corrected = np.array([pair == ("relabelled", "review") for pair in seen], np.bool_)
    kept = np.array([pair == ("kept", "review") for pair in seen], np.bool_)
    return Parts(
        untouched=np.array([origin is None for origin in origins], np.bool_),
        reviewed=kept | corrected,
        corrected=corrected,
        ruled=sum(by == "rule" and action in CHANGED for action, by in seen),
    )


def prove_evidence(
    pair: tuple[Evidence, Evidence],
    rows: tuple[Rows, Rows],
    probs: tuple[Floats, Floats],
    decided: tuple[Bool, Bool],
    parts: Parts,
    *,
    metric: str = "",
    cause: str = "cleaning",
    resamples: int = 2000,
    seed: int = 0,
) -> Proof:
    """Prove that cleaning helped, or that it did not, from held-out predictions.

    Args:
        pair: Evidence of the run before and after, each with the labels of its own table.
        rows: Numbers of the shared rows in each.
        probs: Held-out probabilities of the shared rows, before and after.
        decided: Decisions of both.
        parts: From `split_parts`.
        metric: The overall score; "" for `scorecard.main_metric`.
        cause: What differs, from `name_cause`.
        resamples: Of the bootstrap over groups.
        seed: Of the bootstrap.

    Shape:
        each of probs, decided: (N, C). each of rows, and the arrays of parts: (N,).

    Raises:
        InputError: as `intervals.compare_paired`.
    """
    first, second = pair
    given, cleaned = first.targets[rows[0]], second.targets[rows[1]]
    right = np.where(parts.reviewed[:, None], cleaned, given)
    groups = first.groups[rows[0]]
    sections = []
    for kind, chosen in choose_rows(parts).items():
        at = np.flatnonzero(chosen)
        truth = right if kind in ("corrected", "reviewed") else given
        section = _compare(
            kind,
            truth[at],
            (probs[0][at], probs[1][at]),
            (decided[0][at], decided[1][at]),
            groups[at],
            exclusive=first.exclusive,
            metric=metric or main_metric(exclusive=first.exclusive),
            resamples=resamples,
            seed=seed,
        )
        sections.append(section)
    return make_proof(sections, parts, missing=len(first) - len(rows[0]), cause=cause)


def make_proof(
    sections: Sequence[Section], parts: Parts, *, missing: int = 0, cause: str = "cleaning"
) -> Proof:
    """Give the verdict of a proof, by the reasons that this module begins with.

    Args:
        sections: "given" first.
        parts: From `split_parts`.
        missing: Rows of the run before that play no part; if there are any, nothing is
            proven, for they may be the hard ones.
        cause: What helped or hurt.
    """
    better = [each for each in sections if find_side(each.difference) > 0]
    worse = [each for each in sections if find_side(each.difference) < 0]
    why = _explain(better, worse)
    answer: Answer = "unclear"
    if not better and not worse:
        answer = "none"
        verdict = f"no evidence that {cause} helped or hurt: {_tell(sections[:1])}"
    elif better and worse:
        both = f"better, {_tell(better)}; worse, {_tell(worse)}"
        if any(each.kind in _TOTALS for each in (*better, *worse)):
            answer, verdict = "mixed", f"mixed: {both}; {why}"
        else:
            told = f"no evidence that {cause} helped or hurt: {_tell(sections[:1])}"
            verdict = f"{told}; parts alone moved ({both}), but the run before picked them"
    elif missing:
        verdict = f"{_look(better, worse)}; no proof: rows are missing"
    elif _is_enough(better, _TOTALS):
        answer, verdict = "helped", f"{cause} helped: {_tell(better)}"
    elif _is_enough(worse, _TOTALS[:1]):
        answer, verdict = "hurt", f"{cause} hurt: {_tell(worse)}"
    else:
        verdict = f"{_look(better, worse)}; no proof: {why}"
    return Proof(
        sections=tuple(sections),
        answer=answer,
        verdict=verdict,
        remarks=_list_remarks(parts, missing),
    )


def add_proof(comparison: Comparison, proof: Proof) -> Comparison:
    """Put a proof and its verdict into the comparison of the same two runs.

    Args:
        comparison: A is the run before cleaning. Its stamps about new labels go: the
            sections say themselves which labels count.
        proof: Of the same rows.
    """
    stamps = tuple(stamp for stamp in comparison.stamps if not stamp.startswith(STAMP))
    return replace(comparison, stamps=stamps, proof=proof, verdict=proof.verdict)


def name_cause(manifests: Sequence[Mapping[str, Any]]) -> str:
    """Say what made the difference between two runs, besides chance.

    Args:
        manifests: Of both runs.

    Examples:
        >>> name_cause([{"recipes": {"b0": "1f"}}, {"recipes": {"b0": "1f"}}])
        'cleaning'
        >>> name_cause([{"recipes": {"b0": "1f"}}, {"recipes": {"b0": "2e"}}])
        'cleaning with another recipe'
    """
    one, other = (
        [sorted(map(str, known.get(key, {}).values())) for key in ("recipes", "weights")]
        for known in manifests
    )
    return "cleaning" if one == other else "cleaning with another recipe"


def choose_rows(parts: Parts) -> dict[Kind, Bool]:
    """Choose the rows of each section; a section without rows is left out.

    Args:
        parts: From `split_parts`.

    Returns:
        (N,) for each kind of section, "given" first.
    """
    everywhere = np.ones(len(parts.untouched), np.bool_)
    wanted: dict[Kind, Bool] = {"given": everywhere}
    if parts.corrected.any():
        wanted["corrected"] = everywhere
    if parts.untouched.any():
        wanted["untouched"] = parts.untouched
    if parts.reviewed.any():
        wanted["reviewed"] = parts.reviewed
    return wanted


def _compare(
    kind: Kind,
    truth: Floats,
    probs: tuple[Floats, Floats],
    decided: tuple[Bool, Bool],
    groups: Integers,
    *,
    exclusive: bool,
    metric: str,
    **bootstrap: int,
) -> Section:
    """Compare both runs on the rows of one section."""
    difference = compare_paired(
        truth,
        probs[1],
        probs[0],
        decisions_a=decided[1],
        decisions_b=decided[0],
        exclusive=exclusive,
        metric=metric,
        groups=groups,
        **bootstrap,
    )
    sheets = [
        read_sheet(truth, p, exclusive=exclusive, thresholds=None, decisions=d)
        for p, d in zip(probs, decided, strict=True)
    ]
    # As in the comparison: both have the same scores, also where one leaves rows undecided.
    abstains = any(sheet.abstains for sheet in sheets)
    sheets = [replace(sheet, abstains=abstains) for sheet in sheets]
    ones, family = np.ones((1, len(truth)), np.bool_), find_family(sheets[0], metric)
    before, after = (float(measure(s, [ones], family)[metric, -1][0]) for s in sheets)
    count = len(np.unique(groups))
    return Section(
        kind=kind, rows=len(truth), groups=count, before=before, after=after, difference=difference
    )


def _is_enough(moved: Sequence[Section], totals: Sequence[Kind]) -> bool:
    """True if a total and a part moved alike."""
    kinds = {each.kind for each in moved}
    return bool(kinds & set(totals)) and bool(kinds - set(_TOTALS))


def _look(better: Sequence[Section], worse: Sequence[Section]) -> str:
    word = "better" if better else "worse"
    return f"looks {word} only in part, {_tell(better or worse)}"


def _explain(better: Sequence[Section], worse: Sequence[Section]) -> str:
    """Return the reason against the first part that moved, else against the first total."""
    whys = [(each.kind, _WHY_BETTER) for each in better]
    whys += [(each.kind, _WHY_WORSE) for each in worse]
    # False sorts before True: parts come first.
    return next((by[kind] for kind, by in sorted(whys, key=lambda w: w[0] in _TOTALS)), "")


def _tell(sections: Sequence[Section]) -> str:
    told = []
    for each in sections:
        defined = not math.isnan(each.difference.low)
        metric = each.difference.metric.replace("_", " ")
        what = describe(each.difference) if defined else f"{metric} is not defined"
        told.append(f"{what} on {WORDS[each.kind]}")
    return ", and ".join(told)


def _list_remarks(parts: Parts, missing: int) -> tuple[str, ...]:
    lost = f"{missing:,} row(s) of the run before play no part, and may be the hard ones"
    ruled = (
        f"rules alone dropped or changed {parts.ruled:,} row(s), going by networks that saw the "
        "labels of other folds: a hold-out is the last judge ('loupe split --holdout', then "
        "'loupe score' of both runs)"
    )
    once = "each was trained once: what another seed would change is not in the intervals"
    return (*([lost] if missing else []), *([ruled] if parts.ruled else []), once)


def _pick(table: Table, ids: Sequence[str]) -> tuple[str, ...] | None:
    """Return the origin texts of some rows, "" where the table has no such row."""
    if table.label_origins is None:
        return None
    at = match_ids(table.ids, ids)
    return tuple(table.label_origins[row] if row >= 0 else "" for row in at)
