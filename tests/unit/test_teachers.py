"""Labels that networks made must not tell a fold about the rows it holds out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from loupe.blended import Blended, Source
from loupe.errors import LeakageError, RunError, TableError
from loupe.layouts import read_table
from loupe.recipe import read_recipe
from loupe.runs import create_blend, create_run, open_run
from loupe.table import Table, read_snapshot, write_snapshot
from loupe.teachers import check_teachers


@dataclass(frozen=True)
class Maker:
    """Runs without weights: who saw what is all that counts."""

    folder: Path

    def __call__(self, name, table, *, init_from=None, refit_of=None):
        recipe = read_recipe({"init_from": init_from, "stages": [{"epochs": 1}]})
        run = create_run(self.folder / name, table, {"m": recipe}, refit_of=refit_of)
        run.scores_file.write_text("{}", encoding="utf-8")
        return str(run.folder)


@pytest.fixture
def make(tmp_path):
    return Maker(tmp_path)


def table(rows, *, groups=None, folder="x") -> Table:
    """Rows as "a0": the image a in fold 0; "p-1=TEACHER": labelled by a teacher."""
    parts = [row.partition("=") for row in rows]
    names = [part[0][0] for part in parts]
    teachers = tuple(part[2] for part in parts)
    return Table(
        ids=tuple(f"{name}.png" for name in names),
        images=tuple(Path(folder) / f"{name}.png" for name in names),
        classes=("crack",),
        targets=np.zeros((len(rows), 1), np.float32),
        exclusive=False,
        folds=np.array([int(part[0][1:]) for part in parts], np.int16),
        groups=groups,
        teachers=teachers if any(teachers) else None,
    )


PEOPLE = ("a0", "b0", "c1", "d1")


def test_a_table_without_teachers_or_folds_is_fine():
    check_teachers(table(PEOPLE))
    check_teachers(replace(table((*PEOPLE, "p-1=gone")), folds=None))


def test_labels_that_every_fold_learns_leak(make):
    run = make("a", table(PEOPLE))
    with pytest.raises(LeakageError) as caught:
        check_teachers(table((*PEOPLE, f"p-1={run}", f"q-1={run}")))
    told = str(caught.value)
    assert "labels of 2 row(s)" in told
    assert "it saw 2 of the 2 row(s) of fold 0 ('a.png', 'b.png'), and 2 of its labels" in told
    assert "it saw 2 of the 2 row(s) of fold 1 ('c.png', 'd.png'), and 2 of its labels" in told
    assert run in told
    assert "--allow-leak" in told


def test_labels_of_the_fold_that_held_out_the_rows_are_fine(make):
    run = make("a", table(PEOPLE))
    # p is learned where fold 0 is held out, and its teacher never saw fold 0.
    check_teachers(table((*PEOPLE, f"p1={run}#fold-0", f"q0={run}#fold-1")))
    with pytest.raises(LeakageError, match=r"saw 2 of the 2 row\(s\) of fold 0") as caught:
        check_teachers(table((*PEOPLE, f"p1={run}#fold-1")))
    assert "fold 1" not in str(caught.value)


def test_only_folds_that_learn_the_label_count(make):
    run = make("a", table(PEOPLE))
    # Fold 1 holds p out itself; fold 0 learns it, from networks that saw only c and d.
    check_teachers(table(("a0", "b0", "c1", f"p1={run}#fold-0")))
    # Rows kept apart teach nobody.
    check_teachers(table((*PEOPLE, f"p-2={run}")))


def test_rows_kept_apart_must_not_be_seen_by_a_teacher(make):
    run = make("a", table(PEOPLE))
    with pytest.raises(LeakageError, match=r"it saw 1 of the 1 row\(s\) of the hold-out"):
        check_teachers(table(("a-2", "x0", "y1", f"p-1={run}")))
    apart = make("b", table(("a-2", "r0", "s1")))
    check_teachers(table(("a-2", "x0", "y1", f"p-1={apart}")))


def test_images_are_known_by_place_copy_and_group(make):
    run = make("a", table(PEOPLE, groups=("g", "g", "h", "k")))
    other = table(("x0", "y1", f"p-1={run}"), folder="elsewhere")
    check_teachers(other)
    with pytest.raises(LeakageError, match=r"saw 1 of the 1 row\(s\) of fold 0"):
        check_teachers(replace(other, images=(Path("x/c.png"), *other.images[1:])))
    with pytest.raises(LeakageError, match=r"saw 1 of the 1 row\(s\) of fold 1"):
        check_teachers(replace(other, groups=("new", "h", "p")))


def test_what_the_teachers_start_and_its_teachers_saw_counts(make):
    first = make("a", table(("x0", "y1")))
    start = make("b", table(("r0", "s1")), init_from=first)
    with pytest.raises(LeakageError, match=r"'x\.png'"):
        check_teachers(table(("x0", "z1", f"p-1={start}")))
    taught = make("c", table(("r0", "s1", f"t-1={first}")))
    with pytest.raises(LeakageError, match=r"'x\.png'"):
        check_teachers(table(("x0", "z1", f"p-1={taught}")))


def test_a_circle_of_teachers_ends(make, tmp_path):
    run = str(tmp_path / "a")
    made = make("a", table(("r0", "s1", f"t-1={run}")))
    check_teachers(table(("x0", "z1", f"p-1={made}")))


def test_a_refit_and_a_blend_saw_everything_their_networks_saw(make, tmp_path):
    whole = make("a", table(("a-1", "b-1")), refit_of=Path("none"))
    with pytest.raises(LeakageError, match=r"saw 1 of the 1 row\(s\) of fold 0"):
        check_teachers(table(("a0", "z1", f"p-1={whole}")))
    make("b", table(PEOPLE))
    blended = Blended(
        sources=(Source(place="../b"),), weights=(1.0,), method="mean", metric="log_loss"
    )
    create_blend(tmp_path / "mix", table(PEOPLE), ["b"], blended, ())
    with pytest.raises(LeakageError, match=r"saw 1 of the 2 row\(s\) of fold 1"):
        check_teachers(table(("z0", "c1", "w1", f"p-1={tmp_path / 'mix'}")))


def test_a_teacher_that_is_gone_is_named(make):
    with pytest.raises(RunError, match=r"says that gone#fold-1 made labels, but .* is unknown"):
        check_teachers(table((*PEOPLE, "p-1=gone#fold-1")))
    run = make("a", table(PEOPLE))
    with pytest.raises(RunError, match="whose folds are 0, 1"):
        check_teachers(table((*PEOPLE, f"p-1={run}#fold-7")))


# The column ---------------------------------------------------------------------------------------


def write_table(folder: Path, teachers: str) -> Path:
    for name in "ab":
        (folder / f"{name}.png").write_bytes(b"")
    path = folder / "t.csv"
    path.write_text(f"image,label,teacher\na.png,x,\nb.png,y,{teachers}\n", encoding="utf-8")
    return path


def test_the_column_is_read_and_told(make, tmp_path, monkeypatch):
    make("run", table(PEOPLE))
    found = read_table(write_table(tmp_path, " run#fold-1 "))
    assert found.teachers == ("", f"{tmp_path / 'run'}#fold-1")
    assert found.classes == ("x", "y")
    assert any(
        "column 'teacher' is used as the run that made a label: labels made by run#fold-1 (1 images"
        in note
        for note in found.notes
    )
    # What is not beside the table starts where the program was started.
    monkeypatch.chdir(tmp_path)
    assert read_table(write_table(tmp_path, "gone")).teachers == ("", str(tmp_path / "gone"))


def test_teachers_are_kept_with_the_table(make, tmp_path):
    first = table((*PEOPLE, "p-1=runs/a"))
    assert first.select([4, 0]).teachers == ("runs/a", "")
    write_snapshot(first, tmp_path / "t.parquet")
    assert read_snapshot(tmp_path / "t.parquet").teachers == first.teachers
    assert open_run(make("r", first)).table().teachers == first.teachers
    with pytest.raises(TableError, match="teachers has 1"):
        replace(first, teachers=("",))


def test_the_digest_knows_teachers_but_not_their_place():
    people = table((*PEOPLE, "p-1"))
    taught = replace(people, teachers=("", "", "", "", "runs/a"))
    assert people.digest() == "5cb61620452dc5e5"  # as before there were teachers
    assert (
        len({people.digest(), taught.digest(), replace(taught, teachers=("",) * 5).digest()}) == 3
    )
    assert replace(taught, teachers=("", "", "", "", "/far/runs/a")).digest() == taught.digest()
