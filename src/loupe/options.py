"""What commands share: the options that say how a table is read, and lines on the screen.

It must not hold logic.
"""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from loupe.table import Table

Command = TypeVar("Command", bound=Callable[..., Any])

_READING = (
    click.option("--images", type=click.Path(path_type=Path), help="Folder of the images."),
    click.option("--image-column", help="Column with the image's file name."),
    click.option("--label-column", help="Column with the label, or several with commas."),
    click.option("--group-column", help="Column whose equal values must share a fold."),
    click.option(
        "--names", type=click.Path(path_type=Path), help="JSON from number to class name."
    ),
    click.option("--masks", type=click.Path(path_type=Path), help="Folder of mask images."),
    click.option("--any-class", help="Make one column of this name: any class but --negative."),
    click.option("--negative", help="The label that means nothing is there (with --any-class)."),
)
_NAMES = {
    "images", "image_column", "label_column", "group_column", "names", "masks", "any_class",
    "negative",
}  # fmt: skip

_EVIDENCE = (
    click.option(
        "--table",
        "truth",
        type=click.Path(path_type=Path),
        help="Table with the targets; needed for predictions files.",
    ),
    *_READING,
    click.option(
        "--held-out",
        is_flag=True,
        help="All rows of a predictions file were held out, though it does not say so.",
    ),
    click.option(
        "--group",
        default="",
        type=click.Choice(["", "auto", "given", "none"]),
        help="auto: copies and given groups; given: the table's. Default: a run's own; else auto.",
    ),
    click.option("--allow-leak", is_flag=True, help="Go on with leaks; everything is stamped."),
)


def group_option(command: Command) -> Command:
    """Add the option that decides groups once."""
    return click.option(
        "--by-group",
        "pool",
        is_flag=False,
        flag_value="auto",
        default="",
        type=click.Choice(["", "auto", "mean", "max"]),
        help="One decision for each group; auto: max, or mean if classes are exclusive.",
    )(command)


def table_options(command: Command) -> Command:
    """Add the options that say how a table is read."""
    return functools.reduce(lambda made, option: option(made), reversed(_READING), command)


def evidence_options(command: Command) -> Command:
    """Add the options that say where targets come from, and what counts as held out."""
    return functools.reduce(lambda made, option: option(made), reversed(_EVIDENCE), command)


def part_options(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Part the options of `table_options` from the rest.

    Args:
        options: Name to value, as click gives them.
    """
    reading = {key: value for key, value in options.items() if key in _NAMES}
    return reading, {key: value for key, value in options.items() if key not in _NAMES}


def read_source(source: Path, reading: dict[str, Any]) -> Table:
    """Read a table and print what was recognised.

    Args:
        source: What the user named.
        reading: Values of `table_options`.
    """
    from loupe.layouts import read_table

    table = read_table(source, **reading)
    for note in table.notes:
        click.echo(f"· {note}")
    return table


def read_truth(options: dict[str, Any]) -> tuple[Table | None, dict[str, Any]]:
    """Read the table with the targets, if one was named.

    Args:
        options: Values of `evidence_options` and others.

    Returns:
        The table or None, and the options that say nothing of it.
    """
    reading, rest = part_options(options)
    truth = rest.pop("truth")
    if truth is None:
        given = [f"--{key.replace('_', '-')}" for key, value in reading.items() if value]
        if given:
            raise click.UsageError(f"{', '.join(given)} say(s) how --table is read; name one.")
        return None, rest
    # Targets are enough: the images may be on another machine.
    return read_source(truth, reading | {"need_images": False}), rest


def spell_command(
    verb: str,
    table: Path,
    reading: dict[str, Any],
    *,
    default_images: Path | None = None,
    more: Sequence[str] = (),
) -> str:
    """Spell a command with the reading options that were given.

    Args:
        verb: Name of the command.
        table: Its first argument.
        reading: Values of `table_options`.
        default_images: Table beside which the images lie, if `--images` was not given.
        more: Further words.
    """
    shown = {key: value for key, value in reading.items() if value}
    if default_images is not None:
        folder = default_images if default_images.is_dir() else default_images.parent
        shown.setdefault("images", folder)
    words = [word for key, value in shown.items() for word in (f"--{key.replace('_', '-')}", value)]
    return shlex.join(["loupe", verb, str(table), *map(str, words), *more])


def choose_reporter() -> Any:
    """Return the reporter that suits where the output goes."""
    from loupe.terminal import make_console, make_reporter

    return make_reporter(make_console())
