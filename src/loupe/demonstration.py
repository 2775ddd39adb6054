"""The verb `demo`: the whole job on a sample data set, in about three minutes.

It makes photographs of ceramic tiles whose truth is known, and runs the same
functions on them as anyone would on their own images. Nothing is downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from loupe.architectures import find_network
from loupe.auditing import Audit, audit, place_issues
from loupe.cascading import Cascaded, cascade
from loupe.checking import CheckReport, check, write_check
from loupe.defaults import scratch_recipe
from loupe.ensembles import predict
from loupe.files import write_text
from loupe.layouts import read_table
from loupe.predictions import Predictions
from loupe.progress import Reporter, Silent
from loupe.recipe import Recipe
from loupe.runs import Run
from loupe.table import ALWAYS_TRAINED, Table
from loupe.testing import Truth, make_tiles, read_truth
from loupe.training import train

FOLDS = 3
MASKS = Recipe.model_validate(
    {
        "network": {"name": "test_resnet", "pretrained": False},
        "input": {"size": 64},
        "decoder": {"options": {"decoder_channels": [64, 32, 16, 8, 8]}},
        "mask_loss": {"bce": 0.5, "dice": 0.5, "over": "batch"},
        "masks": {"rows": "nonempty"},
        "augment": ["HorizontalFlip", "VerticalFlip"],
        "optimizer": {"lr": 3e-3},
        "stages": [{"epochs": 35}],
        "batch_size": 8,
    }
)
"""So small that it learns in a minute without pretrained weights: stains, but no hairlines."""
CASCADE = """# loupe cascade {folder}/cascade.yaml    what each gate is worth on held-out tiles
labels: {{run: run}}
masks: {{run: masks}}
gate: per_image
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """What the demonstration made.

    Attributes:
        truth: The sample data and everything that was planted in it.
        report: What `check` found.
        run: The trained run.
        predictions: Of the same images, by the mean of all folds.
        audit: Labels that the run doubts.
        masks: A run that draws masks of the same defects; one fold of it is held out.
        cascaded: Masks of the same images, drawn behind the classifier.
    """

    truth: Truth
    report: CheckReport
    run: Run
    predictions: Predictions
    audit: Audit
    masks: Run
    cascaded: Cascaded

    @property
    def found_copies(self) -> int:
        """How many of the planted copies `check` put with their original."""
        group = dict(zip(self.truth.ids, self.report.copies, strict=True))
        return sum(group[a] == group[b] for a, b, _ in self.truth.duplicates)

    def count_wrong(self, first: int) -> int:
        """Count the labels made wrong among the rows that the audit doubts most.

        Args:
            first: How many rows are looked at.
        """
        doubted = list(dict.fromkeys(issue.id for issue in self.audit.flagged))[:first]
        return len(set(doubted) & set(self.truth.wrong))


def demo(out: str | Path = "demo", *, reporter: Reporter | None = None) -> Demo:
    """Make the sample data, check it, train on k folds, predict, audit, draw masks in a cascade.

    Args:
        out: Folder; what an earlier call finished there is used again.
        reporter: Told of the progress.

    Returns:
        Everything that was made.

    Raises:
        TableError: the folder holds something else.
        LoupeError: the libraries of segmenters are not installed.
    """
    out = Path(out)
    reporter = reporter or Silent()
    # A library that is missing is told before minutes of work.
    find_network(MASKS, None)
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
    doubted = audit(run, out=place_issues(run.folder), reporter=reporter)
    masks = train(_read_masks(truth, run), {"unet": MASKS}, out / "masks", reporter=reporter)
    if not (out / "cascade.yaml").is_file():
        write_text(out / "cascade.yaml", CASCADE.format(folder=out))
    cascaded = cascade(out / "cascade.yaml", table, out=out / "masks.csv", reporter=reporter)
    return Demo(
        truth=truth,
        report=report,
        run=run,
        predictions=predictions,
        audit=doubted,
        masks=masks,
        cascaded=cascaded,
    )


def _read_masks(truth: Truth, run: Run) -> Table:
    """Read the masks of the tiles, with the folds of a run; the first alone is held out."""
    names: dict[object, str] = dict(enumerate(truth.classes, start=1))
    table = read_table(truth.folder / "train.csv", images=truth.images, names=names)
    split = run.table()
    at = [split.ids.index(key) for key in table.ids]
    folds = np.zeros(len(split), np.int16) if split.folds is None else split.folds
    return replace(
        table,
        folds=np.where(folds[at] == 0, 0, ALWAYS_TRAINED).astype(np.int16),
        groups=None if split.groups is None else tuple(split.groups[row] for row in at),
    )


def _make_tiles(folder: Path, reporter: Reporter) -> Truth:
    if (folder / "truth.json").is_file():
        return read_truth(folder)
    reporter.begin("draw sample tiles", 1)
    truth = make_tiles(folder)
    reporter.advance(1)
    reporter.end(f"{len(truth.ids)} photographs in {truth.images}")
    return truth
