"""Auditing: the verb `audit`, from held-out predictions to the labels to look at first.

It gathers what was held out, asks `auditrules`, `tableissues` and `maskissues`, and writes what
they say. It must not judge a label by itself, or change one.

Shapes: N rows, C classes.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from loupe.auditrules import (
    DEFAULT,
    SUSPECT,
    Asking,
    Judged,
    Question,
    ask_questions,
    check_rules,
    explain,
    judge,
    look_around,
)
from loupe.checking import find_copies_of
from loupe.errors import InputError, shorten
from loupe.evidence import Evidence, held_out_probs
from loupe.heldout import gather_evidence, open_source
from loupe.issues import NO, YES, Issue, Key, write_issues
from loupe.labelquality import Ranking
from loupe.maskissues import audit_masks
from loupe.noise import CONFIDENT
from loupe.noiserates import (
    NoiseRate,
    Precision,
    draw_resamples,
    estimate_precision,
    estimate_rates,
)
from loupe.progress import Reporter, Silent
from loupe.ranking import average_precision
from loupe.reviews import read_reviews, settle_reviews
from loupe.rowfeatures import read_row_features
from loupe.runs import Run
from loupe.table import Float32, Table
from loupe.tableissues import find_contradictions, find_outliers
from loupe.weighting import Integers

COPIES = "copies"
OUTLIER = "outlier"
KNOWN = 0.5
"""Average precision, from chance at 0 to 1, from which a class counts as known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """Labels that are probably wrong, and how many there are.

    Attributes:
        issues: Flagged labels, worst first; with `every` all others after them.
        rows: N, how many rows were audited.
        rates: Estimated share of wrong labels: for each question all labels, then each given
            label; () for masks.
        precision: Of rules that people have looked at; () without reviews.
        stamps: What must be said beside it.
        notes: What was done, and what could not be, for the screen.
    """

    issues: tuple[Issue, ...]
    rows: int
    rates: tuple[NoiseRate, ...] = ()
    precision: tuple[Precision, ...] = ()
    stamps: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def flagged(self) -> tuple[Issue, ...]:
        """The issues that some rule flags."""
        return tuple(issue for issue in self.issues if issue.rules)


def audit(
    source: str | Path | Run,
    table: Table | None = None,
    *,
    out: str | Path | None = None,
    rules: Sequence[str] = (DEFAULT,),
    confidence: float = CONFIDENT,
    ranking: Ranking = "posterior",
    every: bool = False,
    reviews: str | Path | None = None,
    copies: bool = True,
    held_out: bool = False,
    allow_leak: bool = False,
    group: str = "",
    seed: int = 0,
    reporter: Reporter | None = None,
) -> Audit:
    """Find labels that are probably wrong, from predictions of networks that never saw them.

    Labels are ranked by a model of how they come to be wrong, fitted on the predictions and, where
    the run kept features, on how the most similar images are labelled. Added are copies of one
    image with different labels, images unlike all others, and for masks the odd ones.

    Args:
        source: A finished run or blend, or a predictions file (CSV or Parquet: `id`, maybe `fold`
            and `held_out`, a column a class).
        table: The labels; those of the run if None. Needed for a predictions file.
        out: `issues.csv` to write; what was done is kept beside it as `.json`. None writes nothing.
        rules: Which labels to flag: `low_quality` (the default: more likely wrong than right),
            `confident` (another class at `confidence` or above), `agreement` (all members on one
            other class), or of confident learning `disagree`, `confident_joint`, `by_class`,
            `by_noise_rate`, `both`.
        confidence: Of the rule `confident`, in [0, 1]; 0.8 is 1.6 for the sum of two views.
        ranking: `posterior`, or those of confident learning, `self_confidence` and `margin`.
        every: Keep the labels that no rule flags as well, after the others.
        reviews: Decisions of people, see `review`: they tell how often each rule is right.
        copies: Look for copies among the images; takes a while for many.
        held_out: All rows of a predictions file were held out, though it does not say so.
        allow_leak: Go on where rows were not held out; everything is stamped.
        group: As for `decide`.
        seed: Of the resamples of intervals.
        reporter: Told of the progress.

    Returns:
        The issues and the estimates; also written to `out`.

    Raises:
        LeakageError: rows were not held out.
        InputError: a rule is unknown, or predictions or reviews cannot be used.
        RunError: a folder is no finished run.
    """
    place = source.folder if isinstance(source, Run) else Path(source)
    if not 0 <= confidence <= 1:
        raise InputError(f"confidence is {confidence}; expected a probability, such as 0.8.")
    settled = {} if reviews is None else settle_reviews(read_reviews(Path(reviews)))
    run = open_source(place)
    asking = Asking(rules=tuple(rules), confidence=confidence, ranking=ranking)
    told = reporter or Silent()
    if run is not None and run.segments:
        check_rules(rules, 2)
        truth = table or run.table()
        found = _audit_drawn(run, truth, _find_copies(truth, wanted=copies, reporter=told))
    else:
        evidence = gather_evidence(
            [place], table, held_out=held_out, allow_leak=allow_leak, group=group, split=True
        )
        check_rules(rules, len(evidence.members))
        truth = _choose_truth(run, table)
        # A classifier's labels are named as such, though its table may bring masks as well.
        extra = _find_copies(replace(truth, masks=None), wanted=copies, reporter=told)
        found = _audit_evidence(evidence, asking, run, extra, every=every, seed=seed, reporter=told)
    issues = sorted((each for each in found.issues if each.rules or every), key=_order)
    audited = replace(found, issues=tuple(issues), precision=estimate_precision(issues, settled))
    if out is not None:
        _write(Path(out), audited, asking, place, run, truth)
    return audited


def place_issues(source: Path) -> Path:
    """Return where the issues of a run or of a predictions file are kept.

    Examples:
        >>> place_issues(Path("night/preds.csv")).as_posix()
        'night/preds.issues.csv'
    """
    return source / "issues.csv" if source.is_dir() else source.with_suffix(".issues.csv")


def _choose_truth(run: Run | None, table: Table | None) -> Table:
    if table is not None:
        return table
    if run is None:
        raise InputError("a predictions file has no labels; name the table that has them.")
    return run.table()


@dataclass(frozen=True, slots=True)
class _Extra:
    """Issues that no prediction is needed for, and what is to be said of them."""

    issues: tuple[Issue, ...] = ()
    notes: tuple[str, ...] = ()


def _find_copies(table: Table, *, wanted: bool, reporter: Reporter) -> _Extra:
    """Find copies of one image that are labelled differently."""
    if not wanted:
        return _Extra()
    if not all(path.is_file() for path in table.images):
        note = "not all images are where the table says, so copies were not looked for"
        return _Extra(notes=(note,))
    reporter.begin("look for copies", len(table))
    names = find_copies_of(table, progress=reporter.advance)
    reporter.end()
    return _Extra(issues=tuple(find_contradictions(table, names)))


def _audit_drawn(run: Run, table: Table, extra: _Extra) -> Audit:
    note = "masks are judged by their own rules; --rule and --ranking are those of classes"
    return Audit(
        issues=tuple(_join([*audit_masks(run, table), *extra.issues])),
        rows=len(table),
        stamps=tuple(str(stamp) for stamp in run.manifest()["stamps"]),
        notes=(note, *extra.notes),
    )


def _audit_evidence(
    evidence: Evidence,
    asking: Asking,
    run: Run | None,
    extra: _Extra,
    *,
    every: bool,
    seed: int,
    reporter: Reporter,
) -> Audit:
    """Judge all labels, and add images unlike all others."""
    questions = ask_questions(
        evidence.targets,
        evidence.members,
        held_out_probs(evidence),
        evidence.classes,
        (NO, YES),
        exclusive=evidence.exclusive,
    )
    features = None if run is None else read_row_features(run, evidence.ids)
    around = None
    if features is not None and asking.ranking == "posterior":
        around = look_around(features, evidence.groups, questions)
    judged = [
        judge(question, asking)
        if around is None
        else judge(question, asking, around.of(number), mates=around.mates[number])
        for number, question in enumerate(questions)
    ]
    strange = [] if features is None else _find_strange(evidence, features)
    others = [*strange, *extra.issues]
    named = set(evidence.ids) if every else {issue.id for issue in others}
    issues = [issue for each in judged for issue in _list_issues(each, evidence.ids, named)]
    return Audit(
        issues=tuple(_join([*issues, *others])),
        rows=len(evidence),
        rates=_estimate_all(questions, evidence.groups, seed, reporter),
        stamps=evidence.stamps,
        notes=(
            *evidence.notes,
            *_note_neighbours(judged, asking, known=around is not None),
            *_note_unknown(judged),
            *extra.notes,
        ),
    )


def _estimate_all(
    questions: Sequence[Question], groups: Integers, seed: int, reporter: Reporter
) -> tuple[NoiseRate, ...]:
    weights = draw_resamples(groups, sum(each.probs.size for each in questions), seed)
    rates: list[NoiseRate] = []
    reporter.begin("estimate wrong labels", len(questions))
    for number, question in enumerate(questions, start=1):
        rates += estimate_rates(question, groups, weights)
        reporter.advance(number)
    reporter.end()
    return tuple(rates)


def _list_issues(judged: Judged, ids: Sequence[str], named: Container[str]) -> Iterable[Issue]:
    """List the labels that some rule flags, and those of rows named for another reason."""
    question = judged.question
    flagged = np.logical_or.reduce(list(judged.flags.values()))
    for row, key in enumerate(ids):
        if flagged[row] or key in named:
            yield Issue(
                id=key,
                class_name=question.class_name,
                given=question.options[question.given[row]],
                suggested=question.options[judged.suggested[row]],
                quality=float(judged.quality[row]),
                rules=tuple(name for name, flags in judged.flags.items() if flags[row]),
                evidence=explain(judged, row),
            )


def _find_strange(evidence: Evidence, features: Float32) -> list[Issue]:
    known = np.isfinite(features).all(axis=1)
    rows = np.flatnonzero(known)
    shown = Table(
        ids=tuple(evidence.ids[row] for row in rows),
        images=tuple(Path() for _ in rows),
        classes=evidence.classes,
        targets=evidence.targets[rows],
        exclusive=evidence.exclusive,
    )
    return find_outliers(shown, features[rows], [str(evidence.groups[row]) for row in rows])


def _join(issues: Sequence[Issue]) -> list[Issue]:
    """Make one issue of all about one label."""
    found: dict[Key, Issue] = {}
    for issue in issues:
        known = found.get(issue.key)
        found[issue.key] = issue if known is None else _merge(known, issue)
    return list(found.values())


def _merge(known: Issue, issue: Issue) -> Issue:
    """Add what copies or features say of a label to what predictions say of it."""
    sound = not known.rules and known.quality >= SUSPECT
    suggested, quality = known.suggested, known.quality
    if COPIES in issue.rules and not sound:
        quality = min(quality, issue.quality)
    if sound or not known.rules:
        # No chosen rule doubts the label: what copies say is all there is to suggest.
        suggested = issue.suggested
    return replace(
        known,
        suggested=suggested,
        quality=quality,
        rules=tuple(dict.fromkeys((*known.rules, *issue.rules))),
        evidence="; ".join(text.rstrip(".") for text in (known.evidence, issue.evidence) if text),
    )


def _order(issue: Issue) -> tuple[bool, bool, float, str, str]:
    """Flagged labels first, and images that are only strange after doubted labels."""
    return (
        not issue.rules,
        issue.rules == (OUTLIER,),
        issue.quality,
        issue.id,
        issue.class_name,
    )


def _note_neighbours(judged: Sequence[Judged], asking: Asking, *, known: bool) -> tuple[str, ...]:
    if asking.ranking != "posterior":
        return ()
    if not known:
        return ("there are no features of the images, so the most similar ones were not asked",)
    asked = [each for each in judged if each.share]
    if not asked:
        return ("the labels of the most similar images tell nothing more: not used",)
    shares = sorted(each.share for each in asked)
    most = max(each.neighbours for each in asked)
    mates = ", images of the same group among them" if any(each.mates for each in asked) else ""
    span = f"{shares[0]:.0%}" if shares[0] == shares[-1] else f"{shares[0]:.0%} to {shares[-1]:.0%}"
    return (f"the labels of up to {most} similar images{mates} count for {span} of the ranking",)


def _note_unknown(judged: Sequence[Judged]) -> tuple[str, ...]:
    """Say which classes the networks hardly know: then a doubt may be their own fault."""
    weak = []
    for each in judged:
        question = each.question
        given = np.eye(len(question.options), dtype=np.bool_)[question.given]
        share, found = given.mean(axis=0), average_precision(given, question.probs)
        with np.errstate(invalid="ignore"):
            skill = (found - share) / (1 - share)
        for number in np.flatnonzero(skill < KNOWN):
            name = question.class_name or question.options[number]
            if not question.class_name or number == 1:
                weak.append(f"{name!r} ({found[number]:.2f})")
    if not weak:
        return ()
    said = (
        f"the networks hardly know {shorten(weak)} (average precision in brackets): many labels "
        "are wrong there, or the networks do not see it. Look (loupe review) before a rule relabels"
    )
    return (said,)


def _write(
    out: Path, audited: Audit, asking: Asking, place: Path, run: Run | None, table: Table
) -> None:
    origin: dict[str, Any] = {
        "source": str(place.absolute()),
        "is_run": run is not None,
        "table": table.digest(),
        "rows": audited.rows,
        "classes": table.classes,
        "exclusive": table.exclusive,
        "segments": run is not None and run.segments,
        "rules": asking.rules,
        "confidence": asking.confidence,
        "ranking": asking.ranking,
        "suspect": SUSPECT,
        "rates": [asdict(rate) for rate in audited.rates],
        "precision": [asdict(each) for each in audited.precision],
        "stamps": audited.stamps,
        "notes": audited.notes,
    }
    write_issues(out, audited.issues, origin)
