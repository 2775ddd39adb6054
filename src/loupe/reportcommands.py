"""The command about what is known: report.

Exit codes as in `cli`. It must not hold logic.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loupe.options import choose_reporter, part_options, read_source, table_options

if TYPE_CHECKING:
    from types import ModuleType

    from loupe.reporting import Report

_EXTRA = {"jinja2", "markupsafe", "matplotlib"}


@click.command()
@click.argument(
    "sources", nargs=-1, required=True, metavar="RUN...|TABLE", type=click.Path(path_type=Path)
)
@table_options
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Page to write.  [default: RUN/report.html, <table>.report.html or compare.html]",
)
@click.option("--no-check", is_flag=True, help="Do not decode all images to look for faults.")
@click.option("--no-maps", is_flag=True, help="Do not show where networks looked.")
@click.option(
    "--cascade", type=click.Path(path_type=Path), help="Of a run of masks: compare its gates."
)
def report(
    sources: tuple[Path, ...],
    out: Path | None,
    cascade: Path | None,
    *,
    no_check: bool,
    no_maps: bool,
    **options: Any,
) -> None:
    """Write one page with all that is known of a run, or of a table; or compare runs.

    The page needs no other file and no network. Beside it stands a folder with its figures
    as SVG and PNG, and their numbers as CSV.
    """
    reporting = _load_reporting()
    reading, _ = part_options(options)
    found: Any = sources
    if len(sources) == 1 and not reporting.is_run(sources[0]):
        found = read_source(sources[0], reading)
        out = out or reporting.place_page(sources[0])
    else:
        _refuse_reading(reading)
    made: Report = reporting.report(
        found,
        images=reading["images"],
        read_from=sources[0],
        out=out,
        check=not no_check,
        maps=not no_maps,
        cascade=cascade,
        reporter=choose_reporter(),
    )
    megabytes = f"{made.size / 1e6:.1f} MB, {len(made.sections)} sections"
    beside = f", figures in {made.figures}" if made.figures.is_dir() else ""
    click.echo(f"wrote {made.path} ({megabytes}){beside}")
    click.echo(f"open it: {shlex.quote(made.path.absolute().as_uri())}")


def _refuse_reading(reading: dict[str, Any]) -> None:
    given = [f"--{key.replace('_', '-')}" for key, value in reading.items() if value]
    if given:
        raise click.UsageError(
            f"{', '.join(given)} say(s) how a table is read; a run has its own table."
        )


def _load_reporting() -> ModuleType:
    from loupe.errors import MissingExtraError

    try:
        from loupe import reporting
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        raise MissingExtraError(
            f"a report needs {error.name}; install it with: pip install 'loupe-vision[report]'"
        ) from None
    return reporting
