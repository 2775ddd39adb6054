"""The command line: parse, call one function, print, exit code.

Exit codes: 0 done; 1 done, but something must be looked at (findings that must
be fixed, images that could not be read); 2 the input cannot be used as it is;
130 interrupted. It must not hold logic.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loupe.auditcommands import AUDIT_COMMANDS
from loupe.commands import COMMANDS, show_shares
from loupe.errors import LoupeError
from loupe.maskcommands import MASK_COMMANDS
from loupe.options import (
    choose_reporter,
    part_options,
    read_source,
    spell_command,
    table_options,
)
from loupe.reportcommands import report

if TYPE_CHECKING:
    from loupe.checking import CheckReport
    from loupe.runs import Run
    from loupe.table import Table

_INTERRUPTED = 130


class _Group(click.Group):
    """Commands in the order in which they are used, not of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(self.commands)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="loupe-vision", prog_name="loupe")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Turn a table of labelled images into a model you can trust and ship."""
    del debug  # read by `main`, which sees the arguments before click does


def main() -> None:
    """Run the command line; errors are one message and an exit code."""
    try:
        cli(standalone_mode=False)
    except LoupeError as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        # A full disk, a folder that may not be written: the system says it best.
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("\ninterrupted; the same command continues.", err=True)
        sys.exit(_INTERRUPTED)


@cli.command()
@click.argument("table", type=click.Path(path_type=Path))
@table_options
@click.option("--out", default="check.csv", type=click.Path(path_type=Path), show_default=True)
@click.option(
    "--quarantine",
    type=click.Path(path_type=Path),
    help="Write the table without the rows that must be fixed, and a side table of those.",
)
@click.option("--jobs", type=click.IntRange(1), help="Threads; default: all cores.")
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    metavar="OTHER",
    help="Say how well the images of another table or folder are told apart from these.",
)
@click.option(
    "--against-images", type=click.Path(path_type=Path), help="Folder of the images of OTHER."
)
@click.option("--against-image-column", help="Column of OTHER with the image's file name.")
@click.option("--against-group-column", help="Column of OTHER with what belongs together.")
@click.option(
    "--against-out",
    default="apart.csv",
    type=click.Path(path_type=Path),
    show_default=True,
    help="CSV of all images, those of OTHER that are least like these first.",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="Pretrained weights, by which --against compares what the images show.",
)
@click.option("--device", default="auto", show_default=True, help="For --weights.")
def check(
    table: Path, out: Path, quarantine: Path | None, jobs: int | None, **options: Any
) -> None:
    """List what is damaged, odd, copied or contradicting.

    Every file is decoded once. With --against also: how far another table of images,
    such as tomorrow's batch, is from this one, and which of its images most.
    Exit code 1 if anything must be fixed.
    """
    import loupe
    from loupe.checking import write_check
    from loupe.rewrites import list_settled, write_quarantine

    reading, comparing = part_options(options)
    other = _read_other(comparing)
    found = read_source(table, reading)
    reporter = choose_reporter()
    reporter.begin("check", len(found))
    report = loupe.check(found, jobs=jobs, progress=reporter.advance)
    reporter.end()
    write_check(report, out)
    _show_check(report, out)
    bad = report.quarantined()
    if quarantine is not None:
        write_quarantine(found, table, quarantine, bad)
        reading |= dict.fromkeys(list_settled(found))
        next_command = spell_command("train", quarantine, reading, default_images=table)
        click.echo(f"{len(bad)} rows set aside; next: {next_command}")
    elif report.must_fix:
        command = spell_command("check", table, reading)
        click.echo(f"set these rows aside with: {command} --quarantine CLEAN.csv")
    if other is not None:
        _compare_tables(found, other, comparing, jobs, reporter)
    sys.exit(1 if report.must_fix and quarantine is None else 0)


@cli.command()
@click.argument("table", type=click.Path(path_type=Path))
@table_options
@click.option("--folds", default=5, type=click.IntRange(2), show_default=True)
@click.option("--val", "validation", type=float, help="One validation part in place of folds.")
@click.option("--holdout", type=float, help="Share of rows kept apart from all training.")
@click.option(
    "--group",
    default="auto",
    type=click.Choice(["auto", "given", "none"]),
    show_default=True,
    help="auto: copies and given groups; given: the table's; none needs --allow-leak.",
)
@click.option("--stratify", default="auto", type=click.Choice(["auto", "none"]), show_default=True)
@click.option("--no-shuffle", is_flag=True, help="Contiguous folds, in the table's order.")
@click.option("--seed", default=0, show_default=True)
@click.option("--allow-leak", is_flag=True, help="Go on without groups; scores are stamped.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The new table.")
def split(table: Path, out: Path, stratify: str, no_shuffle: bool, **options: Any) -> None:
    """Add a fold column; copies never cross folds."""
    import loupe
    from loupe.rewrites import append_columns, list_settled
    from loupe.splitting import added_columns

    reading, options = part_options(options)
    found = read_source(table, reading)
    made = loupe.split(
        found,
        stratify=stratify == "auto",
        shuffle=not no_shuffle,
        reporter=choose_reporter(),
        **options,
    )
    append_columns(made, table, out, added_columns(made))
    given = ["--group", options["group"]] if options["group"] != "auto" else []
    if options["allow_leak"]:
        given.append("--allow-leak")
    reading |= dict.fromkeys(list_settled(made))
    command = spell_command("train", out, reading, default_images=table, more=given)
    click.echo(f"wrote {out} (digest {made.digest()}); next: {command}")


@cli.command()
@click.argument("table", type=click.Path(path_type=Path))
@click.argument("recipes", nargs=-1, type=click.Path(path_type=Path))
@table_options
@click.option("--out", type=click.Path(path_type=Path), help="Run folder; default: runs/...")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a recipe.")
@click.option("--folds", default=5, type=click.IntRange(2), show_default=True)
@click.option(
    "--group", default="auto", type=click.Choice(["auto", "given", "none"]), show_default=True
)
@click.option("--allow-leak", is_flag=True, help="Go on without groups; scores are stamped.")
@click.option(
    "--refit",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Train RUN's recipes on all rows; scores and rule are those of RUN.",
)
@click.option("--weights", type=click.Path(path_type=Path), help="Folder of pretrained weights.")
@click.option("--device", default="auto", show_default=True)
@click.option(
    "--executor",
    default="processes",
    type=click.Choice(["serial", "processes"]),
    show_default=True,
)
@click.option("--jobs", type=click.IntRange(1), help="Jobs at a time; default: all cores.")
@click.option(
    "--cache-gb", default=20.0, type=click.FloatRange(0), show_default=True,
    help="Limit of the decode cache.",
)  # fmt: skip
@click.option(
    "--track",
    multiple=True,
    type=click.Choice(["tensorboard", "mlflow"]),
    help="Show the training there as well (RUN/tensorboard; an MLflow server or folder).",
)
def train(table: Path, recipes: tuple[Path, ...], cache_gb: float, **options: Any) -> None:
    """Train on k folds and score every held-out row.

    Without RECIPES one is picked from the data. The same command continues an
    interrupted run.
    """
    import loupe

    reading, options = part_options(options)
    found = read_source(table, reading)
    run = loupe.train(
        found,
        recipes,
        name=table.stem,
        cache_bytes=int(cache_gb * 2**30),
        reporter=choose_reporter(),
        **options,
    )
    _show_run(run)


for _command in (*COMMANDS, *MASK_COMMANDS, *AUDIT_COMMANDS, report):
    cli.add_command(_command)


@cli.command()
@click.option(
    "--out", default="demo", type=click.Path(path_type=Path), show_default=True, help="Folder."
)
def demo(out: Path) -> None:
    """Do the whole job on a sample data set, masks too (needs the extra 'segment')."""
    import loupe
    from loupe.auditing import place_issues
    from loupe.maskshowing import show_stage_times, show_variants
    from loupe.ruling import find_rule, rule_predictions
    from loupe.terminal import make_console, show_check

    made = loupe.demo(out, reporter=choose_reporter())
    show_check(make_console(), made.report)
    planted = len(made.truth.duplicates)
    click.echo(f"copies planted: {planted}, found: {made.found_copies}\n")
    _show_run(made.run)
    rule = find_rule(made.run.rule_file)
    show_shares(made.predictions, rule_predictions(rule, made.predictions).decisions)
    click.echo(
        f"\nlabels made wrong: {len(made.truth.wrong)}; among the 20 rows doubted most: "
        f"{made.count_wrong(20)} (look at them: loupe review {place_issues(made.run.folder)})"
    )
    click.echo("\nmasks of the same tiles, one fold held out:")
    _show_run(made.masks)
    click.echo()
    show_variants(make_console(), loupe.try_variants(out / "cascade.yaml"), by_class=False)
    show_stage_times(make_console(), made.cascaded.stages)
    click.echo(f"wrote {out / 'masks.csv'}; masks over tiles: {made.masks.contact_file}")
    click.echo(f"\nyour own images: loupe train {made.truth.table} --images {made.truth.images}")


def _read_other(options: dict[str, Any]) -> Table | None:
    """Read the table of --against; its labels are not needed."""
    source = options["against"]
    reading = {
        name: options[f"against_{name}"] for name in ("images", "image_column", "group_column")
    }
    if source is not None:
        return read_source(source, {"layout": "images", **reading})
    given = [f"--against-{name.replace('_', '-')}" for name, value in reading.items() if value]
    if given or options["weights"]:
        words = ", ".join([*given, *(["--weights"] if options["weights"] else [])])
        raise click.UsageError(f"{words} say(s) how --against compares; name a table with it.")
    return None


def _compare_tables(
    ours: Table, other: Table, options: dict[str, Any], jobs: int | None, reporter: Any
) -> None:
    from loupe.adversarial import tell_apart
    from loupe.apart import describe_apart, write_apart
    from loupe.weights import weights_folder

    features = None
    folder = weights_folder(options["weights"])
    if folder is not None:
        try:
            from loupe.content import frozen_features
        except ImportError:
            click.echo("! no torch here: pip install 'loupe-vision[train]' to use the weights")
        else:
            features = frozen_features(
                (ours, other), folder, device=options["device"], reporter=reporter
            )
    reporter.begin("against", len(ours) + len(other))
    report = tell_apart(ours, other, features=features, jobs=jobs, progress=reporter.advance)
    reporter.end()
    click.echo()
    for line in describe_apart(report):
        click.echo(line)
    write_apart(report, options["against_out"])
    click.echo(f"wrote {options['against_out']}")


def _show_check(report: CheckReport, out: Path) -> None:
    from loupe.terminal import make_console, show_check

    show_check(make_console(), report)
    click.echo(f"wrote {out}")


def _show_run(run: Run) -> None:
    from loupe.rules import load_rule_file, read_rule
    from loupe.scoring import read_scores
    from loupe.showing import show_rule
    from loupe.terminal import make_console, show_scores

    if run.segments:
        _show_mask_run(run)
        return
    show_scores(make_console(), read_scores(run), run.manifest()["stamps"])
    if run.rule_file.is_file():
        report = load_rule_file(run.rule_file).get("report", {})
        show_rule(make_console(), read_rule(run.rule_file), report.get("warnings", ()))
    click.echo(f"\n{run.instructions_file.read_text(encoding='utf-8')}", nl=False)


def _show_mask_run(run: Run) -> None:
    from loupe.maskrules import read_mask_rule
    from loupe.maskshowing import show_mask_rule, show_mask_scores
    from loupe.scoring import read_scores
    from loupe.terminal import make_console

    show_mask_scores(make_console(), read_scores(run), run.manifest()["stamps"])
    show_mask_rule(make_console(), read_mask_rule(run.cuts_file))
    if run.contact_file.is_file():
        click.echo(f"best, median and worst masks of each class: {run.contact_file}")
    click.echo(f"\n{run.instructions_file.read_text(encoding='utf-8')}", nl=False)


if __name__ == "__main__":
    main()
