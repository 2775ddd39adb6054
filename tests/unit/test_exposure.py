"""Which new images a run knows: by file, id, copy or group, and through earlier runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loupe.blended import Blended, Source
from loupe.errors import InputError, LeakageError
from loupe.exposure import find_trained, refuse_known
from loupe.progress import Silent
from loupe.recipe import read_recipe
from loupe.runs import Run, create_blend, create_run, open_run
from loupe.seen import find_seen
from loupe.table import HOLDOUT, Table


def draw(path: Path, seed: int, *, scale: int = 12) -> Path:
    """Write a picture with coarse texture, so that only its copies are like it."""
    small = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(small).resize((12 * scale,) * 2, Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Ten pictures; `copy.jpg` is the first again, larger and compressed."""
    made = tmp_path_factory.mktemp("pictures")
    for number in range(10):
        draw(made / f"{number}.png", number)
    draw(made / "copy.jpg", 0, scale=13)
    return made


def table(folder: Path, names, *, folds=None, groups=None) -> Table:
    return Table(
        ids=tuple(names),
        images=tuple(folder / name for name in names),
        classes=("crack",),
        targets=np.zeros((len(names), 1), np.float32),
        exclusive=False,
        folds=None if folds is None else np.array(folds, np.int16),
        groups=groups,
    )


@dataclass(frozen=True)
class Maker:
    """Runs without weights: what they were trained on is all that counts."""

    folder: Path

    def __call__(
        self, name: str, trained: Table, init_from: Run | None = None, stamps: tuple[str, ...] = ()
    ) -> Run:
        start = None if init_from is None else str(init_from.folder)
        recipe = read_recipe({"init_from": start, "stages": [{"epochs": 1}]})
        run = create_run(self.folder / name, trained, {"m": recipe}, stamps)
        run.scores_file.write_text("{}", encoding="utf-8")
        return run


@pytest.fixture
def make(tmp_path) -> Maker:
    return Maker(tmp_path)


TRAINED = ("0.png", "1.png", "2.png", "3.png")


@pytest.fixture
def run(make, folder) -> Run:
    return make("run", table(folder, TRAINED, folds=[0, 1, 0, HOLDOUT]))


def look(run, new, *, by="auto", allow_leak=False):
    return refuse_known(run, new, by=by, allow_leak=allow_leak, reporter=Silent())


def test_new_images_and_what_was_kept_apart_pass(run, folder):
    found = look(run, table(folder, ["3.png", "4.png", "5.png"]))
    assert not found.known.any()
    assert found.stamps == ()
    assert len(set(found.groups)) == 3
    (note,) = found.notes
    assert note == "3 training images were searched for copies of these 3 images"


def test_images_trained_on_are_refused_by_file_and_by_id(run, folder, tmp_path):
    new = table(folder, ["9.png", "0.png", "2.png"])
    with pytest.raises(LeakageError, match=r"2 of these 3 rows: '0\.png', '2\.png'.*1 rows apart"):
        look(run, new)
    renamed = replace(new, ids=("a", "b", "c"))
    assert find_seen(renamed, run.table()).tolist() == [False, True, True]
    draw(tmp_path / "0.png", 77)
    other = table(tmp_path, ["0.png", "1.png"])
    # The same id is another image here, and one that is gone may be the same.
    assert find_seen(other, run.table()).tolist() == [False, True]


def test_a_leak_that_is_allowed_is_stamped_and_marked(run, folder):
    found = look(run, table(folder, ["9.png", "0.png", "copy.jpg"]), allow_leak=True)
    assert found.known.tolist() == [False, True, True]
    assert len(found.stamps) == 2
    assert all(stamp.startswith("LEAK: ") for stamp in found.stamps)
    assert "1 of these 3 rows: 'copy.jpg'" in found.stamps[1]


def test_copies_under_other_names_are_looked_for(run, folder):
    new = table(folder, ["copy.jpg", "9.png"])
    with pytest.raises(LeakageError, match=r"copies of images .* 1 of these 2 rows: 'copy\.jpg'"):
        look(run, new)
    assert not look(run, new, by="given").known.any()


def test_rows_that_share_a_group_with_a_copy_are_known_too(run, folder):
    new = table(folder, ["copy.jpg", "8.png", "9.png"], groups=("part", "part", "other"))
    assert look(run, new, allow_leak=True).known.tolist() == [True, True, False]


def test_copies_among_the_new_rows_are_drawn_together(make, folder):
    run = make("run", table(folder, ["5.png", "6.png"], folds=[0, 1]))
    found = look(run, table(folder, ["0.png", "9.png", "copy.jpg"]))
    assert found.groups[0] == found.groups[2] != found.groups[1]


@pytest.mark.parametrize("by", ["auto", "given"])
def test_equal_group_names_are_one_group(make, folder, by):
    groups = ("plate 1", "plate 2", "plate 3")
    trained = table(folder, TRAINED[:3], folds=[0, 1, HOLDOUT], groups=groups)
    new = table(folder, ["8.png", "9.png"], groups=("plate 2", "plate 3"))
    with pytest.raises(LeakageError, match=r"1 of these 2 rows: '8\.png'.*rename"):
        look(make("run", trained), new, by=by)


def test_training_images_that_are_gone_are_told(make, folder, tmp_path):
    partly = make("a", table(tmp_path, ["x.png", "y.png"], folds=[0, 1]))
    (note,) = look(partly, table(folder, ["8.png"])).notes
    assert note.startswith("the training images are gone")
    images = (folder / "1.png", tmp_path / "y.png")
    mixed = make("b", replace(table(folder, ["1.png", "2.png"], folds=[0, 1]), images=images))
    (note,) = look(mixed, table(folder, ["8.png"])).notes
    assert note.endswith("; 1 more are gone")


def test_looking_for_nothing_is_a_leak_to_allow(run, folder):
    new = table(folder, ["copy.jpg"])
    with pytest.raises(LeakageError, match="--group none"):
        look(run, new, by="none")
    found = look(run, new, by="none", allow_leak=True)
    assert found.groups is None
    assert "were not looked for" in found.stamps[0]
    with pytest.raises(InputError, match="'all'"):
        look(run, new, by="all")


def test_what_start_weights_saw_is_known(make, folder):
    first = make("first", table(folder, ["7.png", "8.png"], folds=[0, 1]))
    second = make("second", table(folder, TRAINED, folds=[0, 1, 0, 1]), first)
    with pytest.raises(LeakageError, match=r"1 of these 2 rows: '8\.png'"):
        look(second, table(folder, ["8.png", "9.png"]))
    first.folder.rename(first.folder.with_name("moved"))
    trained = find_trained(open_run(second.folder))
    assert len(trained.tables) == 1
    assert "is gone" in trained.notes[0]


def test_what_any_source_of_a_blend_saw_is_known(make, folder, tmp_path):
    first = make("first", table(folder, ["0.png", "1.png"], folds=[0, 1]))
    make("second", table(folder, ["5.png", "6.png"], folds=[0, 1]))
    made = Blended(
        sources=(Source(place="../first"), Source(place="../second")),
        weights=(0.5, 0.5),
        method="mean",
        metric="log_loss",
    )
    blend = create_blend(tmp_path / "blend", first.table(), ["first", "second"], made, ())
    with pytest.raises(LeakageError, match=r"2 of these 3 rows: '1\.png', '6\.png'"):
        look(blend, table(folder, ["1.png", "6.png", "9.png"]))


def test_leaks_of_the_split_are_told_where_copies_are_not_looked_for(make, folder):
    stamps = ("LEAK: folds were made without grouping copies", "OPTIMISTIC: watched")
    run = make("run", table(folder, TRAINED, folds=[0, 1, 0, 1]), stamps=stamps)
    new = table(folder, ["8.png"])
    assert look(run, new, by="given").stamps == stamps[:1]
    assert look(run, new).stamps == ()
