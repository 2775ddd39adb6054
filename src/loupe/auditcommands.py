"""The commands about wrong labels: audit, review, relabel.

Exit codes as in `cli`. It must not hold logic.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loupe.options import (
    choose_reporter,
    evidence_options,
    part_options,
    read_source,
    read_truth,
    table_options,
)

if TYPE_CHECKING:
    from loupe.relabelling import Relabelled

RULE_NAMES = (
    "low_quality", "confident", "agreement", "disagree", "confident_joint", "by_class",
    "by_noise_rate", "both",
)  # fmt: skip
"""Those of `auditrules.RULES`; spelled here so that --help loads no numbers."""


@click.command()
@click.argument("source", metavar="RUN|PREDS", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="Default: RUN/issues.csv, or beside the file."
)
@click.option(
    "--rule",
    "rules",
    multiple=True,
    type=click.Choice(RULE_NAMES),
    help="What to flag; may be given several times.  [default: low_quality]",
)
@click.option(
    "--confidence",
    type=click.FloatRange(0, 1),
    default=0.8,
    show_default=True,
    help="Of the rule 'confident': 0.8 is 1.6 for the sum of two views.",
)
@click.option(
    "--ranking",
    type=click.Choice(["posterior", "self_confidence", "margin"]),
    default="posterior",
    show_default=True,
)
@click.option("--all", "every", is_flag=True, help="Also the labels that no rule flags.")
@click.option(
    "--reviews", type=click.Path(path_type=Path), help="Decisions of people: how right are rules?"
)
@click.option("--no-copies", is_flag=True, help="Do not look for copies among the images.")
@evidence_options
def audit(source: Path, out: Path | None, *, no_copies: bool, **options: Any) -> None:
    """Find labels that are probably wrong, worst first.

    The next step is 'loupe review', or 'loupe relabel'.
    """
    import loupe
    from loupe.auditing import place_issues
    from loupe.auditshowing import show_audit
    from loupe.terminal import make_console

    truth, rest = read_truth(options)
    path = place_issues(source) if out is None else out
    rest["rules"] = rest["rules"] or (RULE_NAMES[0],)
    found = loupe.audit(
        source, truth, out=path, copies=not no_copies, reporter=choose_reporter(), **rest
    )
    show_audit(make_console(), found)
    click.echo(f"wrote {path}")
    if found.flagged:
        spelled = shlex.quote(str(path))
        table = "" if source.is_dir() else " --table TABLE"
        click.echo(f"look at them:        loupe review {spelled}{table}")
        click.echo(f"or change the table: loupe relabel TABLE {spelled} --out TABLE2.csv")


@click.command()
@click.argument("issues", metavar="ISSUES.csv", type=click.Path(path_type=Path))
@click.option("--source", type=click.Path(path_type=Path), help="Default: what was audited.")
@click.option("--table", type=click.Path(path_type=Path), help="Needed where no run was audited.")
@table_options
@click.option("--reviewer", default="", help="A name to sign decisions with.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Default: ISSUES.reviews.csv beside the issues."
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    show_default="a free one",
    help="Of the page.",
)
@click.option("--no-open", is_flag=True, help="Only print the address.")
@click.option(
    "--merge",
    type=click.Path(path_type=Path),
    metavar="B.csv",
    help="In place of a review, merge two: loupe review A.csv --merge B.csv --out C.csv",
)
def review(issues: Path, merge: Path | None, *, no_open: bool, **options: Any) -> None:
    """Decide about issues on a local web page, with keys; or merge two people's decisions.

    Every decision is on the disk before the page goes on. Started again, it goes on at the
    first issue nobody decided.
    """
    import loupe
    from loupe.auditshowing import show_agreement, show_reviewed
    from loupe.terminal import make_console

    out = options.pop("out")
    if merge is not None:
        if out is None:
            raise click.UsageError("--merge writes a new file; name it with --out.")
        show_agreement(make_console(), loupe.merge_reviews(issues, merge, out))
        click.echo(f"wrote {out}")
        return
    reading, rest = part_options(options)
    table = rest.pop("table")
    given = [f"--{key.replace('_', '-')}" for key, value in reading.items() if value]
    if table is None and given:
        raise click.UsageError(f"{', '.join(given)} say(s) how --table is read; name one.")
    shown = None if table is None else read_source(table, reading | {"need_images": False})
    done = loupe.review(
        issues,
        table=shown,
        out=out,
        open_browser=not no_open,
        tell=lambda address: click.echo(f"review at {address} (end: its button, or ctrl-C)"),
        **rest,
    )
    show_reviewed(make_console(), done)
    click.echo(f"next: loupe relabel TABLE {shlex.quote(str(issues))} --out TABLE2.csv")


@click.command()
@click.argument("table", type=click.Path(path_type=Path))
@click.argument("issues", metavar="ISSUES.csv", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="CSV to write.")
@click.option(
    "--policy",
    type=click.Choice(["relabel", "drop", "soften"]),
    default="relabel",
    show_default=True,
    help="For labels nobody decided about. drop: not trained on, but still scored.",
)
@click.option(
    "--reviews",
    type=click.Path(path_type=Path),
    help="Default: ISSUES.reviews.csv, if it is there.",
)
@click.option("--only-reviewed", is_flag=True, help="Change nothing that nobody decided about.")
@click.option("--rule", "rules", multiple=True, help="Only what it flags; as in the file.")
@click.option("--max-quality", type=click.FloatRange(0, 1), default=1.0, help="Only up to this.")
@click.option(
    "--mix",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.5,
    show_default=True,
    help="Share of the prediction in a softened label.",
)
@table_options
def relabel(table: Path, issues: Path, out: Path, **options: Any) -> None:
    """Write a new table with doubted labels changed; the old one stays as it is.

    What people decided in 'loupe review' always wins.
    """
    import loupe
    from loupe.auditshowing import show_relabelled
    from loupe.terminal import make_console

    reading, rest = part_options(options)
    found = read_source(table, reading | {"need_images": False})
    made = loupe.relabel(found, issues, out=out, source=table, **rest)
    show_relabelled(make_console(), made)
    click.echo(f"wrote {out}")
    _say_next(made, table, reading)


def _say_next(made: Relabelled, table: Path, reading: dict[str, Any]) -> None:
    folder = reading.get("images") or (table if table.is_dir() else table.parent)
    words = ["loupe", "train", made.path, "--images", folder]
    for key, value in {"names": reading.get("names"), **made.reading}.items():
        # How a column is written is recognised; only names are options.
        if value is not None and key != "layout":
            words += [f"--{key.replace('_', '-')}", value]
    told = shlex.join(map(str, words))
    click.echo(f"train on it, with the recipe of BEFORE:  {told} --out AFTER")
    click.echo("did it help?  loupe compare BEFORE AFTER")


AUDIT_COMMANDS = (audit, review, relabel)
