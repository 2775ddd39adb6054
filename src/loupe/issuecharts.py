"""Issue charts: what an audit of the labels found, for the report.

Owns the section "Label issues". It must not look for issues or judge labels: the files that
`audit` and `review` wrote hold all that is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from loupe.chartparts import MOST_ROWS, Mark, draw_marks, measure_height
from loupe.errors import MaskError
from loupe.figures import add_axes, drawing, finish_figure
from loupe.issues import Issue, IssueSheet, Key, read_issues
from loupe.noiserates import NoiseRate, Precision, estimate_precision
from loupe.reliability import Share
from loupe.reportparts import Block, Chart, Commands, Gallery, Grid, Picture, Section, Text
from loupe.reviews import Review, read_reviews, settle_reviews
from loupe.runs import Run
from loupe.samplepictures import fit_picture
from loupe.table import Table
from loupe.worries import read_rates

WORST = 12
"""Issues shown as pictures; the file has all."""
KEY, TITLE = "issues", "Label issues"


def issues_file(run: Run) -> Path:
    """Return where `audit` puts what it found of a run."""
    return run.folder / "issues.csv"


def reviews_file(run: Run) -> Path:
    """Return where `review` puts what people decided about these."""
    return run.folder / "issues.reviews.csv"


def read_run_issues(run: Run) -> IssueSheet | None:
    """Read what an audit of a run found.

    Args:
        run: Finished.

    Returns:
        None if the run was not audited.

    Raises:
        InputError: the file is not one of issues.
    """
    path = issues_file(run)
    return read_issues(path) if path.is_file() else None


def describe_issues(run: Run) -> Section | None:
    """Show how many labels are doubted, how many are estimated wrong, and the worst.

    Args:
        run: Finished.

    Returns:
        With a sentence and a command where the run was not audited; None of a refit run, whose
        rows were not held out.

    Raises:
        InputError: the file of issues or of reviews is not valid.
    """
    if run.refit:
        return None
    sheet = read_run_issues(run)
    if sheet is None:
        blocks: tuple[Block, ...] = (
            Text(text="The labels of this run were not audited: nobody knows how many are wrong."),
            Commands(lines=(f"loupe audit {run.folder}",)),
        )
        return Section(key=KEY, title=TITLE, blocks=blocks)
    table = run.table()
    reviews = _read_reviews(run)
    return Section(key=KEY, title=TITLE, blocks=tuple(_list_blocks(run, sheet, table, reviews)))


def _list_blocks(
    run: Run, sheet: IssueSheet, table: Table, reviews: dict[Key, Review]
) -> Iterator[Block]:
    flagged = [issue for issue in sheet.issues if issue.rules]
    yield from _list_stamps(run, sheet)
    rows = len({issue.id for issue in flagged})
    yield Text(
        text=f"{len(flagged):,} label(s), in {rows:,} of {len(table):,} rows, are doubted: "
        "networks that never saw a row, and the labels of the most similar images, speak for "
        "another label. A doubt is no proof; people decide.",
        tone="warn" if flagged else "good",
    )
    rates = read_rates(sheet.origin)
    if rates:
        yield _tell_rate(rates)
        parts = [rate for rate in rates if rate.given]
        if parts:
            yield _draw_rates(rates)
    if flagged:
        yield _list_worst(flagged)
        shown = _show_worst(flagged[:WORST], table)
        if shown.pictures:
            yield shown
    yield from _tell_reviews(run, flagged, reviews)


def _list_stamps(run: Run, sheet: IssueSheet) -> Iterator[Text]:
    for stamp in sheet.origin.get("stamps", ()):
        yield Text(text=str(stamp), tone="bad")
    if sheet.origin and sheet.origin.get("table") != run.manifest()["table"]:
        told = "These issues are of another table than that of this run; audit it again."
        yield Text(text=told, tone="bad")


def _tell_rate(rates: Sequence[NoiseRate]) -> Text:
    """Say the rate of all labels together; of the highest question where classes stand alone."""
    whole = [rate for rate in rates if not rate.given]
    most = max(whole, key=lambda rate: rate.rate)
    what = f"labels of {most.class_name!r}" if most.class_name else "labels"
    text = (
        f"About {most.rate:.1%} of all {what} are estimated wrong ({most.low:.1%} to "
        f"{most.high:.1%}), by counts of confident contradictions"
    )
    others = f"; the other {len(whole) - 1} classes have less" if len(whole) > 1 else ""
    return Text(text=f"{text}{others}.")


def _draw_rates(rates: Sequence[NoiseRate]) -> Chart:
    ordered = sorted((r for r in rates if r.given), key=lambda r: (-r.rate, r.class_name, r.given))
    shown = ordered[:MOST_ROWS]
    marks = [
        Mark(label=f"{_spell_given(r)} ({r.rows:,})", value=r.rate, low=r.low, high=r.high)
        for r in shown
    ]
    with drawing(measure_height(len(shown))) as figure:
        (axes,) = add_axes(figure)
        draw_marks(axes, marks)
        axes.set_xlim(left=0)
        axes.set_xlabel("share of the labels estimated wrong, 95 % interval; labels in brackets")
        worst = ordered[0]
        cut = "" if len(shown) == len(ordered) else f", highest {MOST_ROWS} of {len(ordered)}"
        return finish_figure(
            figure,
            name="noise-rates",
            title=f"Estimated share of wrong labels by given label{cut}",
            alt=f"Estimated share of wrong labels of {len(ordered)} given labels. Highest: "
            f"{_spell_given(worst)} {worst.rate:.1%} ({worst.low:.1%} to {worst.high:.1%}); "
            f"lowest: {_spell_given(ordered[-1])} {ordered[-1].rate:.1%}.",
            header=("class", "given", "rows", "rate", "low", "high"),
            rows=[
                (r.class_name, r.given, str(r.rows), *(f"{v:.6f}" for v in (r.rate, r.low, r.high)))
                for r in rates
            ],
        )


def _spell_given(rate: NoiseRate) -> str:
    return f"{rate.class_name}: {rate.given}" if rate.class_name else rate.given


def _list_worst(flagged: Sequence[Issue]) -> Grid:
    header = ("id", "class", "given", "suggested", "quality", "why")
    rows = [
        (each.id, each.class_name, each.given, each.suggested, f"{each.quality:.3f}", each.evidence)
        for each in flagged[:WORST]
    ]
    alone = any(row[1] for row in rows)
    keep = [place for place in range(len(header)) if alone or place != 1]
    return Grid(
        title=f"The {len(rows)} worst of {len(flagged):,}",
        header=tuple(header[place] for place in keep),
        rows=tuple(tuple(row[place] for place in keep) for row in rows),
        wide=True,
    )


def _show_worst(issues: Sequence[Issue], table: Table) -> Gallery:
    at = {name: row for row, name in enumerate(table.ids)}
    pictures = []
    for issue in issues:
        row = at.get(issue.id)
        data = None if row is None else _fit(table, row)
        if data is None:
            continue
        about = f"{issue.class_name}: " if issue.class_name else ""
        suggested = issue.suggested or "look at it"
        lines = (
            issue.id,
            f"{about}given {issue.given}",
            f"suggested {suggested}",
            f"quality {issue.quality:.3f}",
        )
        alt = f"{issue.id}: {about}given {issue.given}, suggested {suggested}"
        pictures.append(Picture(data=data, alt=alt, lines=lines))
    return Gallery(title="The most doubted labels, worst first", pictures=tuple(pictures))


def _fit(table: Table, row: int) -> bytes | None:
    """Return the picture of a row with its masks; without them if they are of another size."""
    masks = None if table.masks is None else table.masks[row]
    try:
        return fit_picture(table.images[row], masks=masks)
    except MaskError:
        return fit_picture(table.images[row])


def _read_reviews(run: Run) -> dict[Key, Review]:
    path = reviews_file(run)
    return settle_reviews(read_reviews(path)) if path.is_file() else {}


def _tell_reviews(
    run: Run, flagged: Sequence[Issue], reviews: Mapping[Key, Review]
) -> Iterator[Block]:
    """Say how right the audit was, and what is next."""
    if not flagged:
        return
    found = estimate_precision(flagged, reviews)
    if found:
        yield Text(text=_spell_precision(found[0]))
    if len(found) > 2:
        yield _list_precision(found)
    issues = issues_file(run)
    done = found[0].reviewed if found else 0
    if done < len(flagged):
        told = "Next: look at them one by one; every decision is kept."
        yield Text(text=told if not done else f"Next: {len(flagged) - done:,} are left to look at.")
        yield Commands(lines=(f"loupe review {issues}",))
    else:
        yield Text(text="Next: apply the decisions, train again, and prove that it helped.")
        yield Commands(lines=(f"loupe relabel TABLE {issues} --out cleaned.csv --only-reviewed",))


def _spell_precision(each: Precision) -> str:
    return (
        f"People looked at {each.reviewed:,} of the {each.flagged:,} doubted labels and found "
        f"{each.wrong:,} wrong: {_spell_share(each.share)}."
    )


def _list_precision(found: Sequence[Precision]) -> Grid:
    return Grid(
        title="How often each rule was right, of the labels that people looked at",
        header=("rule", "flagged", "reviewed", "wrong", "share, 95 % interval"),
        rows=tuple(
            (p.rule or "all", f"{p.flagged:,}", f"{p.reviewed:,}", f"{p.wrong:,}",
             _spell_share(p.share))
            for p in found
        ),
    )  # fmt: skip


def _spell_share(share: Share) -> str:
    return f"{share.value:.0%} ({share.low:.0%} to {share.high:.0%})"
