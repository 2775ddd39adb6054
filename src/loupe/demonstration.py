"""The verb `demo`: the whole job on a sample data set, in about two minutes.

It makes photographs of ceramic tiles whose truth is known, and runs the same
functions on them as anyone would on their own images. Nothing is downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from loupe.checking import CheckReport, check, write_check
from loupe.defaults import scratch_recipe
from loupe.ensembles import predict
from loupe.layouts import read_table
from loupe.predictions import Predictions
from loupe.progress import Reporter, Silent
from loupe.runs import Run
from loupe.testing import Truth, make_tiles, read_truth
from loupe.training import train

FOLDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """What the demonstration made.

    Attributes:
        truth: The sample data and everything that was planted in it.
        report: What `check` found.
        run: The trained run.
        predictions: Of the same images, by the mean of all folds.
    """

    truth: Truth
    report: CheckReport
    run: Run
    predictions: Predictions

    @property
    def found_copies(self) -> int:
        """How many of the planted copies `check` put with their original."""
        group = dict(zip(self.truth.ids, self.report.copies, strict=True))
        return sum(group[a] == group[b] for a, b, _ in self.truth.duplicates)


def demo(out: str | Path = "demo", *, reporter: Reporter | None = None) -> Demo:
    """Make the sample data, check it, train on k folds, predict.

    Args:
        out: Folder; what an earlier call finished there is used again.
        reporter: Told of the progress.

    Returns:
        Everything that was made.

    Raises:
        TableError: the folder holds something else.
    """
    out = Path(out)
    reporter = reporter or Silent()
    truth = _make_tiles(out / "tiles", reporter)
    table = read_table(truth.table, images=truth.images)
    reporter.begin("check", len(table))
    report = check(table, progress=reporter.advance)
    reporter.end()
    write_check(report, out / "check.csv")
    run = train(
        table,
        {"tiles": scratch_recipe(table)},
        out / "run",
        folds=FOLDS,
        reporter=reporter,
    )
    predictions = predict(run, table, reporter=reporter)
    return Demo(truth=truth, report=report, run=run, predictions=predictions)


def _make_tiles(folder: Path, reporter: Reporter) -> Truth:
    if (folder / "truth.json").is_file():
        return read_truth(folder)
    reporter.begin("draw sample tiles", 1)
    truth = make_tiles(folder)
    reporter.advance(1)
    reporter.end(f"{len(truth.ids)} photographs in {truth.images}")
    return truth
