"""The commands about masks: segment, gate, cascade; what `score` does with masks.

Exit codes as in `cli`: 1 if something must be looked at. It must not hold logic.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loupe.options import choose_reporter, read_source

if TYPE_CHECKING:
    from loupe.segmenting import Segmented
    from loupe.table import Table


class _Size(click.ParamType[tuple[int, int]]):
    """Height and width, as 350x525."""

    name = "HxW"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        """Read a size."""
        parts = str(value).lower().split("x")
        if len(parts) != 2 or not all(part.isdigit() and int(part) for part in parts):
            self.fail(f"{value!r}; expected height x width in pixels, such as 350x525", param, ctx)
        return int(parts[0]), int(parts[1])


SIZE = _Size()


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("source", metavar="IMAGES|TABLE", type=click.Path(path_type=Path))
@click.option("--images", type=click.Path(path_type=Path), help="Folder of the images.")
@click.option("--image-column", help="Column with the image's file name.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="CSV to write.")
@click.option("--like", type=click.Path(path_type=Path), help="Sample submission to repeat.")
@click.option("--size", type=SIZE, help="Size of the masks.  [default: the run's, or the image's]")
@click.option("--tta", "views", type=click.IntRange(1, 4), help="Views; default: the recipe's.")
@click.option("--device", default="auto", show_default=True)
def segment(run: Path, source: Path, out: Path, **options: Any) -> None:
    """Draw the masks of images with all folds of a run, cut by its stored cuts.

    Exit code 1 if some images could not be read; their rows have no masks.
    """
    import loupe

    table = _read_images(source, options)
    found = loupe.segment(run, table, out=out, reporter=choose_reporter(), **options)
    _show_drawn(found.notes, found)
    click.echo(f"wrote {out}")
    sys.exit(1 if any(found.errors) else 0)


@click.command()
@click.argument("cascade", metavar="CASCADE.yaml", type=click.Path(path_type=Path))
@click.argument("source", metavar="[IMAGES|TABLE]", required=False, type=click.Path(path_type=Path))
@click.option("--images", type=click.Path(path_type=Path), help="Folder of the images.")
@click.option("--image-column", help="Column with the image's file name.")
@click.option("--out", type=click.Path(path_type=Path), help="CSV to write.")
@click.option("--stages", help="Which of its stages, with commas, as binary,masks.")
@click.option("--like", type=click.Path(path_type=Path), help="Sample submission to repeat.")
@click.option("--size", type=SIZE, help="Size of the masks.  [default: the run's, or the image's]")
@click.option("--device", default="auto", show_default=True)
def cascade(cascade: Path, source: Path | None, out: Path | None, **options: Any) -> None:
    """Draw masks behind classifiers; what a stage closes costs the next ones nothing.

    Without images: what each choice of stages and each gate is worth on held-out rows.
    Exit code 1 if some images could not be read.
    """
    import loupe
    from loupe.cascades import choose_stages
    from loupe.maskshowing import show_stage_times, show_variants
    from loupe.terminal import make_console

    stages = [name.strip() for name in (options.pop("stages") or "").split(",") if name.strip()]
    if source is None:
        given = [name for name, value in options.items() if value and value != "auto"]
        if out or stages or given:
            raise click.UsageError("name the images, or leave out what says how they are drawn.")
        show_variants(make_console(), loupe.try_variants(cascade))
        return
    if out is None:
        raise click.UsageError("masks are written to a file; name it with --out.")
    chosen = loupe.read_cascade(cascade)
    if stages:
        # A misspelt stage is told before any image is looked at.
        choose_stages(chosen, stages)
    table = _read_images(source, options)
    found = loupe.cascade(
        chosen, table, stages=stages, out=out, reporter=choose_reporter(), **options
    )
    for stamp in found.stamps:
        click.echo(f"! {stamp}")
    _show_drawn(found.notes, found)
    show_stage_times(make_console(), found.stages)
    click.echo(f"wrote {out}")
    sys.exit(1 if any(found.errors) else 0)


def score_run_masks(run: Path, table: Table, options: dict[str, Any]) -> None:
    """Score the masks of a run on rows never trained on, and print them.

    Args:
        run: Its networks draw masks.
        table: The rows with their masks.
        options: Of the command `score`.
    """
    from loupe.maskgrading import score_segmenter

    _refuse(options, ("rule", "pool", "held_out"), "a run that draws masks has cuts, not a rule")
    _refuse(options, ("size",), "a run is scored at the size that it draws (masks.size)")
    kept = {name: options[name] for name in ("group", "allow_leak", "device")}
    _show_graded(score_segmenter(run, table, reporter=choose_reporter(), **kept), options["out"])


def score_mask_file(masks: Path, table: Table, options: dict[str, Any]) -> None:
    """Score anyone's file of masks, and print it.

    Args:
        masks: A submission.
        table: The rows with their masks.
        options: Of the command `score`.
    """
    import loupe

    _refuse(options, ("rule", "pool", "allow_leak"), "a file of masks is scored as it is")
    if options["group"] != "auto" or options["device"] != "auto":
        raise click.UsageError("--group and --device are for runs; a file has the table's groups.")
    _show_graded(loupe.score_masks(masks, table, size=options["size"]), options["out"])


def is_mask_file(source: Path) -> bool:
    """Return True for a file of run-length text, by its columns.

    Args:
        source: What the user named.
    """
    from loupe.cells import read_cells
    from loupe.columns import RLE_LAYOUTS, recognise_columns
    from loupe.errors import LoupeError

    if source.is_dir() or not source.is_file():
        return False
    try:
        return recognise_columns(read_cells(source)).layout in RLE_LAYOUTS
    except LoupeError:
        return False


def _show_graded(graded: Any, out: Path | None) -> None:
    from loupe.maskgrading import write_mask_graded
    from loupe.maskshowing import show_mask_graded
    from loupe.terminal import make_console

    show_mask_graded(make_console(), graded)
    if out is not None:
        write_mask_graded(graded, out)
        click.echo(f"wrote {out}")
    sys.exit(1 if graded.unread else 0)


def _refuse(options: dict[str, Any], names: tuple[str, ...], why: str) -> None:
    spelt = {"pool": "by-group"}
    given = [f"--{spelt.get(n, n).replace('_', '-')}" for n in names if options.get(n)]
    if given:
        raise click.UsageError(f"{', '.join(given)}: {why}.")


def _read_images(source: Path, options: dict[str, Any]) -> Table:
    reading = {name: options.pop(name) for name in ("images", "image_column")}
    return read_source(source, {"layout": "images", **reading})


def _show_drawn(notes: tuple[str, ...], found: Segmented | Any) -> None:
    for note in notes:
        click.echo(f"· {note}")
    counts = found.masks.present.sum(axis=0).tolist()
    total = len(found.masks.ids)
    pairs = zip(found.masks.classes, counts, strict=True)
    told = ", ".join(f"{name} {count:,}" for name, count in pairs)
    click.echo(f"masks of {total:,} images: {told}")


@click.command()
@click.argument("masks", metavar="MASKS", type=click.Path(path_type=Path))
@click.option(
    "--by",
    required=True,
    metavar="RUN|PREDS",
    type=click.Path(path_type=Path),
    help="Class probabilities: a predictions file, or a run (its held-out rows).",
)
@click.option(
    "--rule", type=click.Path(path_type=Path), help="Default: the one 'decide' left with --by."
)
@click.option(
    "--threshold",
    "thresholds",
    multiple=True,
    metavar="[NAME=]T",
    help="In place of a rule: masks below are emptied. Repeat it for single classes.",
)
@click.option("--soft", is_flag=True, help="No veto: the area a mask must have shrinks with p.")
@click.option(
    "--min-area",
    multiple=True,
    metavar="[NAME=]PIXELS",
    help="With --soft: smallest area where the class is sure, in pixels of MASKS.",
)
@click.option(
    "--factor",
    default=5.0,
    show_default=True,
    help="With --soft: how many times that where the class is surely absent.",
)
@click.option(
    "--refill",
    metavar="SECOND",
    type=click.Path(path_type=Path),
    help="Submission whose masks fill empty pairs where a class is surely there.",
)
@click.option(
    "--precision-rule", type=click.Path(path_type=Path), help="When it surely is (--refill)."
)
@click.option(
    "--precision-threshold",
    "precision_thresholds",
    multiple=True,
    metavar="[NAME=]T",
    help="In place of --precision-rule.",
)
@click.option(
    "--at-least-one",
    is_flag=True,
    help="Keep the likeliest class of an image of which none would be kept.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="CSV to write.")
def gate(masks: Path, by: Path, out: Path, **options: Any) -> None:
    """Empty the masks of a submission where a classifier says absent.

    Anyone's submission and anyone's probabilities; rows and their order stay. Exit code 1
    if some images have no probability; their masks stay as they are.
    """
    import loupe
    from loupe.showing import show_gated
    from loupe.terminal import make_console

    for name in ("thresholds", "min_area", "precision_thresholds"):
        options[name] = _read_levels(name, options[name])
    gated = loupe.gate(masks, by, out=out, **options)
    show_gated(make_console(), gated)
    click.echo(f"wrote {out}")
    sys.exit(1 if gated.ungated else 0)


MASK_COMMANDS = (segment, gate, cascade)


def _read_levels(name: str, given: tuple[str, ...]) -> dict[str, float] | None:
    """Read numbers for all classes ("") or for single ones."""
    found = {}
    for text in given:
        key, _, value = text.rpartition("=")
        try:
            found[key] = float(value)
        except ValueError:
            raise click.BadParameter(
                f"{text!r}; expected a number, or NAME=NUMBER for one class",
                param_hint=f"--{name.removesuffix('s').replace('_', '-')}",
            ) from None
    return found or None
