"""What was not held out, what crosses folds, who taught labels: refused, or stamped."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loupe.errors import LeakageError, RunError
from loupe.heldout import gather_evidence
from loupe.predictions import Predictions, write_predictions
from loupe.recipe import read_recipe
from loupe.runs import create_run
from loupe.sheetfiles import write_sheet_file
from loupe.table import ALWAYS_TRAINED, Table
from loupe.testing import make_predictions

N = 40
AB = ("a", "b")


def table(*, seed=0, exclusive=False, **more) -> Table:
    made = make_predictions(N, 2, exclusive=exclusive, folds=4, groups=20, seed=seed)
    values = {
        "ids": tuple(f"{row:02}.png" for row in range(N)),
        "images": tuple(Path("x") / f"{row:02}.png" for row in range(N)),
        "classes": AB,
        "targets": made.targets,
        "exclusive": exclusive,
        "folds": made.folds,
        "groups": tuple(f"g{number}" for number in made.groups),
    }
    return Table(**(values | more))


def predict(truth: Table, *, seed=0, folds=True, held_out=True, rows=None) -> Predictions:
    """Predictions of the table's rows, or of some of them, in any order."""
    probs = make_predictions(len(truth), 2, exclusive=truth.exclusive, seed=seed).probs
    rows = np.arange(len(truth)) if rows is None else np.asarray(rows)
    return Predictions(
        ids=tuple(truth.ids[row] for row in rows),
        classes=truth.classes,
        probs=probs[rows],
        exclusive=truth.exclusive,
        held_out=np.full(len(rows), held_out),
        folds=truth.folds[rows] if folds and truth.folds is not None else None,
    )


@dataclass(frozen=True)
class Maker:
    """Finished runs without networks, and predictions files."""

    folder: Path

    def run(self, name, truth, *seeds, stamps=(), rows=None):
        recipe = read_recipe({"stages": [{"epochs": 1}]})
        names = {f"m{seed}": recipe for seed in seeds}
        run = create_run(self.folder / name, truth, names, stamps)
        rows = np.flatnonzero(truth.folds >= 0) if rows is None else rows
        sheets = {f"m{seed}": predict(truth, seed=seed, rows=rows) for seed in seeds}
        return self.finish(run, sheets)

    def finish(self, run, sheets):
        write_predictions(run.oof_file, sheets)
        run.scores_file.write_text("{}", encoding="utf-8")
        return run.folder

    def file(self, name, sheet):
        path = self.folder / name
        write_sheet_file(path, sheet)
        return path


@pytest.fixture
def make(tmp_path):
    return Maker(tmp_path)


def told(evidence) -> str:
    return " | ".join(evidence.notes)


def test_rows_must_be_held_out(make):
    truth = table()
    path = make.file("p.csv", predict(truth, held_out=False))
    with pytest.raises(LeakageError, match=r"40 of 40 row\(s\) .*--held-out.*--allow-leak"):
        gather_evidence([path], truth)
    plain = make.folder / "plain.csv"
    lines = [f"{key},{a},{b}" for key, (a, b) in zip(truth.ids, predict(truth).probs, strict=True)]
    plain.write_text("\n".join(["id,a,b", *lines]), encoding="utf-8")
    with pytest.raises(LeakageError, match="--held-out"):
        gather_evidence([plain], truth)
    assert gather_evidence([plain], truth, held_out=True).stamps == ()
    stamps = gather_evidence([path], truth, allow_leak=True).stamps
    assert stamps[0].startswith("LEAK: ")
    assert "40 of 40" in stamps[0]
    some = predict(truth)
    some.held_out[[1, 2]] = False
    with pytest.raises(LeakageError, match=r"2 of 40 row\(s\).*'01\.png', '02\.png'"):
        gather_evidence([make.file("q.csv", some)], truth, held_out=True)


def test_rows_that_are_always_trained_on_are_not_held_out(make):
    truth = table()
    folds = truth.folds.copy()
    folds[:2] = ALWAYS_TRAINED
    truth = replace(truth, folds=folds, groups=None)
    path = make.file("p.csv", predict(truth, folds=False))
    with pytest.raises(LeakageError, match=r"2 of 40 row\(s\).*fold -1"):
        gather_evidence([path], truth)
    assert len(gather_evidence([path], truth.select(range(2, N)))) == N - 2


def crossing(truth):
    names = ["shared" if row < 12 else f"g{row}" for row in range(N)]
    return replace(truth, groups=tuple(names))


def test_groups_must_not_cross_folds(make):
    truth = crossing(table())
    path = make.file("p.csv", predict(truth))
    with pytest.raises(LeakageError, match=r"p\.csv: 1 group\(s\) stand in more than one fold"):
        gather_evidence([path], truth)
    stamps = gather_evidence([path], truth, allow_leak=True).stamps
    assert len(stamps) == 1
    assert stamps[0].startswith("LEAK: ")
    # What is always trained on counts, though it is not predicted.
    folds = np.where(np.arange(N) == 0, ALWAYS_TRAINED, 2).astype(np.int16)
    folds[12:] = table().folds[12:]
    truth = replace(truth, folds=folds)
    path = make.file("q.csv", predict(truth, rows=np.arange(1, N)))
    with pytest.raises(LeakageError, match="always-trained"):
        gather_evidence([path], truth)


def test_groups_stay_with_their_rows_where_others_are_always_trained_on(make):
    truth = table()
    folds = truth.folds.copy()
    mine = np.array([name != truth.groups[0] for name in truth.groups])
    folds[~mine] = ALWAYS_TRAINED
    truth = replace(truth, folds=folds)
    rows = np.flatnonzero(mine)
    found = gather_evidence([make.file("p.csv", predict(truth, rows=rows))], truth)
    names = np.array(truth.groups)[rows]
    np.testing.assert_array_equal(found.groups[:, None] == found.groups, names[:, None] == names)


def test_a_run_that_was_stamped_goes_on_with_its_stamp(make):
    truth = crossing(table())
    with pytest.raises(LeakageError, match="shared"):
        gather_evidence([make.run("r", truth, 1)])
    found = gather_evidence([make.run("s", truth, 1, stamps=["LEAK: copies"])])
    assert found.stamps[0] == "LEAK: copies"


def test_the_folds_of_every_source_are_looked_at(make):
    truth = table()
    other = predict(truth, seed=1)
    other = replace(other, folds=np.arange(N, dtype=np.int16) % 4)
    paths = [make.file("p.csv", predict(truth)), make.file("q.csv", other)]
    with pytest.raises(LeakageError, match=r"q\.csv: \d+ group\(s\) stand"):
        gather_evidence(paths, truth)
    found = gather_evidence(paths, truth, allow_leak=True)
    assert len(found.stamps) == 1
    assert "has other folds; the parts are those of" in told(found)


def test_copies_are_looked_for_where_the_images_are(make, tmp_path):
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 255, (8, 8, 3), np.uint8).repeat(4, 0).repeat(4, 1) for _ in range(N)]
    pixels[1] = pixels[0]
    for row, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{row:02}.png")
    truth = table(images=tuple(tmp_path / f"{row:02}.png" for row in range(N)), groups=None)
    folds = truth.folds.copy()
    folds[:2] = 0, 1
    truth = replace(truth, folds=folds)
    path = make.file("p.csv", predict(truth))
    with pytest.raises(LeakageError, match=r"'00\.png'.*'01\.png'"):
        gather_evidence([path], truth)
    assert gather_evidence([path], truth, allow_leak=True).stamps
    with pytest.raises(LeakageError, match="--group none"):
        gather_evidence([path], truth, group="none")
    assert gather_evidence([path], truth, group="none", allow_leak=True).stamps
    folds[1] = 0
    found = gather_evidence([path], replace(truth, folds=folds), held_out=True, allow_leak=True)
    assert found.groups[0] == found.groups[1]
    gone = replace(truth, images=tuple(Path("gone") / path.name for path in truth.images))
    found = gather_evidence([path], gone)
    assert "the images are not here" in told(found)
    assert not found.stamps


def test_labels_of_teachers_that_saw_the_fold_leak(make):
    truth = table()
    teacher = str(make.run("teacher", truth, 1))
    folds = truth.folds.copy()
    folds[0] = ALWAYS_TRAINED
    taught = replace(truth, folds=folds, teachers=(teacher, *[""] * (N - 1)), groups=None)
    path = make.file("p.csv", predict(taught, rows=np.arange(1, N)))
    with pytest.raises(LeakageError, match=r"p\.csv: labels of 1 row\(s\) \(column 'teacher'\)"):
        gather_evidence([path], taught)
    stamps = gather_evidence([path], taught, allow_leak=True).stamps
    assert len(stamps) == 1
    assert stamps[0].startswith("LEAK: labels")
    run = make.run("r", taught, 2)
    with pytest.raises(LeakageError, match="column 'teacher'"):
        gather_evidence([run])
    allowed = make.run("s", taught, 2, stamps=stamps)
    assert gather_evidence([allowed]).stamps == stamps
    shutil.rmtree(teacher)
    assert "is gone; not looked at again" in told(gather_evidence([run]))
    with pytest.raises(RunError, match="is unknown"):
        gather_evidence([path], taught)
