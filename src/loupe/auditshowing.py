"""How audits, reviews and relabelled tables look on a terminal.

It must not compute anything; it shows what others made.
"""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from loupe.agreement import Agreement
from loupe.auditing import Audit
from loupe.noiserates import NoiseRate
from loupe.relabelling import Relabelled
from loupe.reliability import Share
from loupe.reviewing import Reviewed

FIRST = 10
"""Issues shown; the file has all."""
_FEW_CLASSES = 30


def show_audit(console: Console, audit: Audit) -> None:
    """Print how many labels are doubted, how many are estimated wrong, and the worst.

    Args:
        console: Where to.
        audit: From `auditing.audit`.
    """
    for stamp in audit.stamps:
        console.print(escape(stamp), style="bold red")
    for note in audit.notes:
        console.print(escape(f"· {note}"))
    flagged = audit.flagged
    rows = len({issue.id for issue in flagged})
    console.print(f"{len(flagged):,} label(s) of {rows:,} among {audit.rows:,} rows are doubted")
    if audit.rates:
        console.print(_rate_grid(audit.rates))
    if flagged:
        console.print(_issue_grid(audit))
    for each in audit.precision:
        name = f"rule {each.rule}" if each.rule else "all rules"
        console.print(
            f"{name}: of {each.reviewed} reviewed among {each.flagged} flagged, {each.wrong} were "
            f"wrong, {_spell_share(each.share)}"
        )


def show_relabelled(console: Console, made: Relabelled) -> None:
    """Print what was done to how many labels.

    Args:
        console: Where to.
        made: From `relabelling.relabel`.
    """
    for note in made.notes:
        console.print(escape(f"· {note}"))
    told = ", ".join(f"{count:,} {action}" for action, count in made.counts.items() if count)
    console.print(told or "no label was changed or doubted")
    if made.counts.get("dropped"):
        console.print("dropped rows have weight 0: not trained on, but held out and scored as ever")


def show_reviewed(console: Console, done: Reviewed) -> None:
    """Print what was decided, and what is left.

    Args:
        console: Where to.
        done: From `reviewing.review`.
    """
    console.print(
        f"{done.kept} kept, {done.relabelled} relabelled, {done.dropped} dropped, "
        f"{done.skipped} skipped; {done.left} of {done.issues} left"
    )
    console.print(escape(f"decisions: {done.path}"))


def show_agreement(console: Console, found: Agreement) -> None:
    """Print how far two people agree.

    Args:
        console: Where to.
        found: From `agreement.merge_reviews`.
    """
    console.print(
        f"{found.both} label(s) decided by both, {found.only_a} by the first alone, "
        f"{found.only_b} by the second alone"
    )
    if found.both:
        console.print(f"they agree on {_spell_share(found.share)}; Cohen's kappa {found.kappa:.2f}")
    for conflict in found.conflicts[:FIRST]:
        a, b = conflict.a, conflict.b
        console.print(escape(f"  {a.id}: {a.decision} {a.label} / {b.decision} {b.label}".rstrip()))
    if found.conflicts:
        console.print(
            f"{len(found.conflicts)} conflict(s) stand as skipped: review the merged file"
        )


def _rate_grid(rates: tuple[NoiseRate, ...]) -> Grid:
    grid = Grid(title="estimated share of wrong labels", title_justify="left")
    alone = bool(rates[0].class_name)
    for name in (["class"] if alone else []) + ["given"]:
        grid.add_column(name)
    for name in ("rows", "wrong", "95 % interval"):
        grid.add_column(name, justify="right")
    # Of classes that stand alone "all" says little: most rows lack most classes.
    shown = [rate for rate in rates if rate.given] if alone else list(rates)
    for rate in sorted(shown, key=lambda rate: (bool(rate.given), -rate.rate))[:_FEW_CLASSES]:
        cells = [f"{rate.rows:,}", f"{rate.rate:.1%}", f"{rate.low:.1%} to {rate.high:.1%}"]
        names = [rate.class_name] if alone else []
        grid.add_row(*[escape(name) for name in (*names, rate.given or "all")], *cells)
    if len(shown) > _FEW_CLASSES:
        grid.caption = f"{len(shown) - _FEW_CLASSES} more in the .json beside the issues"
    return grid


def _issue_grid(audit: Audit) -> Grid:
    shown = audit.flagged[:FIRST]
    grid = Grid(title="look at these first", title_justify="left")
    alone = any(issue.class_name for issue in shown)
    for name in ("id", *(["class"] if alone else []), "given", "suggested"):
        grid.add_column(name, overflow="fold")
    grid.add_column("quality", justify="right")
    grid.add_column("evidence", overflow="fold")
    for issue in shown:
        names = (issue.id, *([issue.class_name] if alone else []), issue.given, issue.suggested)
        cells = (f"{issue.quality:.3f}", issue.evidence)
        grid.add_row(*[escape(cell) for cell in (*names, *cells)])
    return grid


def _spell_share(share: Share) -> str:
    return f"{share.value:.0%} ({share.low:.0%} to {share.high:.0%})"
