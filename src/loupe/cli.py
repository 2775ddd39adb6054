"""The command line: parse, call one function, print, exit code.

Exit codes: 0 done; 1 done, but something must be looked at (findings that must
be fixed, images that could not be read); 2 the input cannot be used as it is;
130 interrupted. It must not hold logic.
"""

from __future__ import annotations

import functools
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from loupe.errors import LoupeError

if TYPE_CHECKING:
    from loupe.answers import Answers
    from loupe.checking import CheckReport
    from loupe.predictions import Bools, Predictions
    from loupe.runs import Run
    from loupe.table import Table

Command = TypeVar("Command", bound=Callable[..., Any])
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


def table_options(command: Command) -> Command:
    """Add the options that say how a table is read."""
    options = [
        click.option("--images", type=click.Path(path_type=Path), help="Folder of the images."),
        click.option("--image-column", help="Column with the image's file name."),
        click.option("--label-column", help="Column with the label, or several with commas."),
        click.option("--group-column", help="Column whose equal values must share a fold."),
        click.option(
            "--names", type=click.Path(path_type=Path), help="JSON from number to class name."
        ),
        click.option("--masks", type=click.Path(path_type=Path), help="Folder of mask images."),
        click.option("--any-class", help="Make one column of this name: any class but --negative."),
        click.option(
            "--negative", help="The label that means nothing is there (with --any-class)."
        ),
    ]
    return functools.reduce(lambda made, option: option(made), reversed(options), command)


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
def check(
    table: Path, out: Path, quarantine: Path | None, jobs: int | None, **reading: Any
) -> None:
    """List what is damaged, odd, copied or contradicting.

    Every file is decoded once.
    Exit code 1 if anything must be fixed.
    """
    import loupe
    from loupe.checking import write_check
    from loupe.rewrites import write_quarantine

    found = _read(table, reading)
    reporter = _reporter()
    reporter.begin("check", len(found))
    report = loupe.check(found, jobs=jobs, progress=reporter.advance)
    reporter.end()
    write_check(report, out)
    _show_check(report, out)
    bad = report.quarantined()
    if quarantine is not None:
        write_quarantine(found, table, quarantine, bad)
        next_command = _spell("train", quarantine, reading, default_images=table)
        click.echo(f"{len(bad)} rows set aside; next: {next_command}")
    elif report.must_fix:
        command = _spell("check", table, reading)
        click.echo(f"set these rows aside with: {command} --quarantine CLEAN.csv")
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
    from loupe.rewrites import append_columns
    from loupe.splitting import added_columns

    reading, options = _part(options)
    found = _read(table, reading)
    made = loupe.split(
        found,
        stratify=stratify == "auto",
        shuffle=not no_shuffle,
        reporter=_reporter(),
        **options,
    )
    append_columns(made, table, out, added_columns(made))
    given = ["--group", options["group"]] if options["group"] != "auto" else []
    if options["allow_leak"]:
        given.append("--allow-leak")
    reading |= {"masks": None, "names": None} if table.is_dir() else {}
    command = _spell("train", out, reading, default_images=table, more=given)
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
def train(table: Path, recipes: tuple[Path, ...], cache_gb: float, **options: Any) -> None:
    """Train on k folds and score every held-out row.

    Without RECIPES one is picked from the data. The same command continues an
    interrupted run.
    """
    import loupe

    reading, options = _part(options)
    found = _read(table, reading)
    run = loupe.train(
        found,
        recipes,
        name=table.stem,
        cache_bytes=int(cache_gb * 2**30),
        reporter=_reporter(),
        **options,
    )
    _show_run(run)


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("source", metavar="IMAGES|TABLE", type=click.Path(path_type=Path))
@click.option("--images", type=click.Path(path_type=Path), help="Folder of the images.")
@click.option("--image-column", help="Column with the image's file name.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="CSV to write.")
@click.option("--tta", "views", type=click.IntRange(1, 4), help="Views; default: the recipe's.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["labels", "probabilities", "submission"]),
    help="Default: labels; submission where its options are given.",
)
@click.option("--like", type=click.Path(path_type=Path), help="Sample submission to repeat.")
@click.option("--columns", help="Columns of the submission, with commas.")
@click.option("--no-header", is_flag=True, help="Submission without its header line.")
@click.option("--index", is_flag=True, help="Submission with a leading index column.")
@click.option("--numbers", is_flag=True, help="Class numbers in place of names.")
@click.option("--device", default="auto", show_default=True)
def predict(
    run: Path,
    source: Path,
    out: Path,
    views: int | None,
    device: str,
    **writing: Any,
) -> None:
    """Predict images with all folds of a run.

    Exit code 1 if some images could not be read; their rows say why.
    """
    import loupe
    from loupe.inference import count_run_views
    from loupe.predictions import decide_plainly

    reading = {name: writing.pop(name) for name in ("images", "image_column")}
    table = _read(source, {"layout": "images", **reading})
    trained = loupe.open_run(run).table()
    form, options = _choose_form(writing)
    # Refused now, rather than after hours of prediction.
    _check_writing(out, form, table, trained, options)
    predictions = loupe.predict(run, table, views=views, device=device, reporter=_reporter())
    decisions = decide_plainly(predictions)
    answers = _answer(predictions, decisions, trained)
    if form == "probabilities":
        times = count_run_views(loupe.open_run(run), views=views)
        answers = replace(answers, probs=answers.probs * times)
    _write_predictions(out, form, answers, options)
    _show_shares(predictions, decisions)
    failed = int((~predictions.readable).sum())
    seen = int((~predictions.held_out & predictions.readable).sum())
    if seen:
        click.echo(f"! the run was trained on {seen} of these images: their scores flatter")
    if failed:
        click.echo(f"! {failed} image(s) could not be read; their rows say why", err=True)
    click.echo(f"wrote {out}")
    sys.exit(1 if failed else 0)


@cli.command()
@click.option(
    "--out", default="demo", type=click.Path(path_type=Path), show_default=True, help="Folder."
)
def demo(out: Path) -> None:
    """Do the whole job on a sample data set."""
    import loupe
    from loupe.predictions import decide_plainly
    from loupe.terminal import make_console, show_check

    made = loupe.demo(out, reporter=_reporter())
    show_check(make_console(), made.report)
    planted = len(made.truth.duplicates)
    click.echo(f"copies planted: {planted}, found: {made.found_copies}\n")
    _show_run(made.run)
    _show_shares(made.predictions, decide_plainly(made.predictions))
    click.echo(f"\nyour own images: loupe train {made.truth.table} --images {made.truth.images}")


def _part(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Part the options of `table_options` from the rest."""
    names = {p.name for p in check.params} - {"table", "out", "quarantine", "jobs"}
    reading = {key: value for key, value in options.items() if key in names}
    return reading, {key: value for key, value in options.items() if key not in names}


def _read(source: Path, reading: dict[str, Any]) -> Table:
    from loupe.layouts import read_table

    table = read_table(source, **reading)
    for note in table.notes:
        click.echo(f"· {note}")
    return table


def _spell(
    verb: str,
    table: Path,
    reading: dict[str, Any],
    *,
    default_images: Path | None = None,
    more: Sequence[str] = (),
) -> str:
    """Spell a command with the reading options that were given."""
    shown = {key: value for key, value in reading.items() if value}
    if default_images is not None:
        folder = default_images if default_images.is_dir() else default_images.parent
        shown.setdefault("images", folder)
    words = [word for key, value in shown.items() for word in (f"--{key.replace('_', '-')}", value)]
    return shlex.join(["loupe", verb, str(table), *map(str, words), *more])


def _reporter() -> Any:
    from loupe.terminal import make_console, make_reporter

    return make_reporter(make_console())


def _show_check(report: CheckReport, out: Path) -> None:
    from loupe.terminal import make_console, show_check

    show_check(make_console(), report)
    click.echo(f"wrote {out}")


def _show_run(run: Run) -> None:
    from loupe.scoring import read_scores
    from loupe.terminal import make_console, show_scores

    show_scores(make_console(), read_scores(run), run.manifest()["stamps"])
    click.echo(f"\n{run.instructions_file.read_text(encoding='utf-8')}", nl=False)


def _choose_form(writing: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Part the form from the options of a submission, which imply it."""
    form = writing.pop("form")
    columns = writing["columns"]
    writing["columns"] = tuple(columns.split(",")) if columns else None
    given = [name for name, value in writing.items() if value]
    if form in (None, "submission"):
        return "submission" if given or form else "labels", writing
    if given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise click.UsageError(f"{names} shape a submission; leave out --format {form}.")
    return form, writing


def _check_writing(
    out: Path, form: Any, table: Table, trained: Table, options: dict[str, Any]
) -> None:
    from loupe.submissions import check_writing

    check_writing(
        out,
        form,
        ids=[*table.ids, *(row.id for row in table.quarantined)],
        classes=trained.classes,
        exclusive=trained.exclusive,
        layout=trained.layout,
        like=options["like"],
        columns=options["columns"],
        numbers=options["numbers"],
    )


def _answer(predictions: Predictions, decisions: Bools, trained: Table) -> Answers:
    from loupe.answers import Answers

    return Answers(
        ids=predictions.ids,
        classes=predictions.classes,
        probs=predictions.probs,
        decisions=decisions,
        exclusive=predictions.exclusive,
        errors=predictions.errors,
        layout=trained.layout,
    )


def _write_predictions(out: Path, form: Any, answers: Answers, options: dict[str, Any]) -> None:
    from loupe import submissions

    if form == "labels":
        submissions.write_labels(out, answers)
    elif form == "probabilities":
        submissions.write_probabilities(out, answers)
    else:
        header = not options.pop("no_header")
        for note in submissions.write_submission(out, answers, header=header, **options):
            click.echo(f"· {note}")


def _show_shares(predictions: Predictions, decisions: Bools) -> None:
    """Print how many images were given each class."""
    rows = max(1, int(predictions.readable.sum()))
    counts = decisions.sum(axis=0)
    shares = [
        f"{name} {int(n)} ({n / rows:.1%})"
        for name, n in zip(predictions.classes, counts, strict=True)
    ]
    click.echo("predicted: " + ", ".join(shares))


if __name__ == "__main__":
    main()
