"""Label cells: every layout reads back as it is meant after its labels were changed."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from loupe.errors import InputError, TableError
from loupe.files import write_json
from loupe.issues import MASK, NO, NO_MASK, YES, Issue, write_issues
from loupe.layouts import read_table
from loupe.predictions import Predictions, write_predictions
from loupe.recipe import read_recipe
from loupe.relabelling import relabel
from loupe.reviews import Review, append_review
from loupe.runs import create_run
from loupe.table import Table

NAMES = tuple(f"{n}.png" for n in range(8))
LABELS = ("cat", "dog", "cat", "dog", "cow", "dog", "cat", "cow")
FOLDS = np.array([0, 1, 0, 1, 0, 1, -1, -2], np.int16)
LISTS = ("red", "red|blue", "", "blue", "red", "red|blue", "blue", "green")


def put(folder: Path, text: str, name: str = "labels.csv") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for image in NAMES:
        if not (folder / image).exists():
            Image.new("RGB", (10, 8)).save(folder / image)
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def spell(header: str, rows) -> str:
    return "\n".join([header, *rows, ""])


def doubt(name, given, suggested="", *, column="", quality=0.2, rule="off") -> Issue:
    return Issue(
        id=name, class_name=column, given=given, suggested=suggested, quality=quality, rules=(rule,)
    )


def write(folder: Path, *issues: Issue, **origin) -> Path:
    path = folder / "issues.csv"
    write_issues(path, issues, origin)
    return path


def review(path: Path, name, decision, given, label="", *, column="") -> None:
    append_review(
        path,
        Review(
            time="2030-01-01T00:00:00+00:00",
            reviewer="ann",
            id=name,
            class_name=column,
            given=given,
            suggested="",
            decision=decision,
            label=label,
        ),
    )


@dataclass(frozen=True)
class Audited:
    """A finished run of a table, as far as relabelling looks at it."""

    folder: Path
    probs: np.ndarray

    @property
    def origin(self):
        return {"source": str(self.folder), "is_run": True}


def audit(folder: Path, table: Table, *, groups=True) -> Audited:
    rng = np.random.default_rng(3)
    probs = rng.random(table.targets.shape).astype(np.float32)
    if table.exclusive:
        probs /= probs.sum(axis=1, keepdims=True)
    names = tuple(f"g{n}" for n in range(len(table))) if groups else None
    trained = replace(table, folds=FOLDS[: len(table)], groups=names)
    run = create_run(folder, trained, {"m": read_recipe({"stages": [{"epochs": 1}]})})
    held = np.flatnonzero(trained.folds >= 0)
    sheet = Predictions(
        ids=tuple(table.ids[row] for row in held),
        classes=table.classes,
        probs=probs[held],
        exclusive=table.exclusive,
        held_out=np.ones(len(held), bool),
        folds=trained.folds[held],
    )
    write_predictions(run.oof_file, {"m": sheet}, table.targets[held])
    write_json(run.scores_file, {})
    return Audited(folder, probs)


def assert_same(read: Table, wanted: Table) -> None:
    assert read.digest() == wanted.digest()
    assert read.images == wanted.images
    assert read.label_origins == wanted.label_origins
    np.testing.assert_array_equal(read.targets, wanted.targets)


def layout_classes(folder):
    rows = [f"{n},{label},x" for n, label in zip(NAMES, LABELS, strict=True)]
    return read_or_not(put(folder, spell("image,label,remark", rows)))


def layout_numbers(folder):
    order = ("cat", "cow", "dog")
    rows = [f"{n};{order.index(label)}" for n, label in zip(NAMES, LABELS, strict=True)]
    return read_or_not(
        put(folder, spell("image;label", rows)), names={str(k): v for k, v in enumerate(order)}
    )


def layout_one_hot(folder):
    rows = [f"{n},{label == 'cat':d},{label == 'cow':d},{label == 'dog':d}"
            for n, label in zip(NAMES, LABELS, strict=True)]  # fmt: skip
    return read_or_not(put(folder, spell("image,cat,cow,dog", rows)))


def layout_folders(folder):
    for name, label in zip(NAMES, LABELS, strict=True):
        (folder / label).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (10, 8)).save(folder / label / name)
    return read_or_not(folder)


def layout_absolute(folder):
    rows = [f"{(folder / n).absolute()},{label}" for n, label in zip(NAMES, LABELS, strict=True)]
    return read_or_not(put(folder, spell("image,label", rows)))


def read_or_not(source, **arguments):
    return source, arguments


EXCLUSIVE = [layout_classes, layout_numbers, layout_one_hot, layout_folders, layout_absolute]


@pytest.mark.parametrize("layout", EXCLUSIVE)
@pytest.mark.parametrize("policy", ["relabel", "drop", "soften"])
@pytest.mark.parametrize("seed", range(3))
def test_exclusive_tables_read_back_as_they_were_made(tmp_path, layout, policy, seed):
    source, arguments = layout(tmp_path / "data")
    before = read_table(source, **arguments)
    run = audit(tmp_path / "run", before)
    rng = np.random.default_rng(seed)
    chosen = rng.choice(np.flatnonzero(FOLDS >= 0), 3, replace=False)
    at = before.targets.argmax(axis=1)
    new = {row: int((at[row] + rng.integers(1, 3)) % 3) for row in chosen}
    doubts = [
        doubt(before.ids[r], before.classes[at[r]], before.classes[n]) for r, n in new.items()
    ]
    issues = write(tmp_path, *doubts, **run.origin)
    out = tmp_path / "made/new.csv"
    given = before if arguments else source
    made = relabel(
        given, issues, policy=policy, mix=0.25, out=out, source=source if arguments else None
    )
    wanted = before.targets.copy()
    for row, column in new.items():
        hot = np.eye(3, dtype=np.float32)[column]
        wanted[row] = {
            "relabel": hot,
            "drop": wanted[row],
            "soften": 0.75 * wanted[row] + 0.25 * run.probs[row],
        }[policy]
    np.testing.assert_allclose(made.table.targets, wanted, atol=1e-6)
    assert made.table.ids == before.ids
    assert made.table.classes == before.classes
    assert made.table.exclusive
    dropped = [row in new for row in range(8)] if policy == "drop" else None
    assert (None if made.table.weights is None else (made.table.weights == 0).tolist()) == dropped
    images = Path("/") if layout is layout_absolute else tmp_path / "data"
    assert_same(read_table(out, images=images, **arguments), made.table)


def test_a_class_that_loses_its_last_row_stays_a_class(tmp_path):
    source = put(
        tmp_path, spell("image,label", [f"{n},{'a' if k else 'b'}" for k, n in enumerate(NAMES)])
    )
    made = relabel(source, write(tmp_path, doubt("0.png", "b", "a")), out=tmp_path / "new.csv")
    assert made.table.classes == ("a", "b")
    assert made.table.targets.sum(axis=0).tolist() == [8, 0]
    assert "labels are written as a column for each class" in made.notes
    assert_same(read_table(made.path), made.table)


def test_a_class_named_like_a_column_cannot_be_spread(tmp_path):
    rows = [f"{n},{'fold' if k else 'b'}" for k, n in enumerate(NAMES)]
    source = put(tmp_path, spell("image,label", rows))
    issues = write(tmp_path, doubt("0.png", "b", "fold"))
    with pytest.raises(TableError, match="'fold' would be called like a column"):
        relabel(source, issues, out=tmp_path / "new.csv")


LISTED = spell("image,tags", (f"{n},{tags}" for n, tags in zip(NAMES, LISTS, strict=True)))
HOTS = spell(
    "image,blue,green,red",
    (
        f"{n},{','.join('yes' if c in tags else 'no' for c in ('blue', 'green', 'red'))}"
        for n, tags in zip(NAMES, LISTS, strict=True)
    ),
)


@pytest.mark.parametrize("text", [LISTED, HOTS], ids=["label-list", "multi-hot"])
@pytest.mark.parametrize("policy", ["relabel", "drop", "soften"])
def test_classes_that_stand_alone_are_changed_by_cell(tmp_path, text, policy):
    source = put(tmp_path / "data", text)
    named = {"label_column": "tags"} if text is LISTED else {}
    before = read_table(source, **named)
    run = audit(tmp_path / "run", before)
    issues = write(
        tmp_path,
        doubt("0.png", NO, YES, column="blue"),
        doubt("1.png", YES, NO, column="red"),
        doubt("1.png", NO, YES, column="green"),
        doubt("3.png", YES, "", column=""),
        **run.origin,
    )
    review(tmp_path / "issues.reviews.csv", "5.png", "relabel", YES, NO, column="blue")
    out = tmp_path / "data/new.csv"
    made = relabel(before, issues, policy=policy, out=out, source=source)
    wanted = before.targets.copy()
    cells = [(0, 0), (1, 2), (1, 1)]
    if policy == "relabel":
        for row, column in cells:
            wanted[row, column] = 1 - wanted[row, column]
    elif policy == "soften":
        for row, column in cells:
            wanted[row, column] = (wanted[row, column] + run.probs[row, column]) / 2
    wanted[5, 0] = 0
    np.testing.assert_allclose(made.table.targets, wanted, atol=1e-6)
    assert made.table.label_origins[5] == "relabelled by review, was blue yes"
    assert (
        made.table.label_origins[1]
        == {
            "relabel": "relabelled by rule, was red yes, green no",
            "drop": "dropped by rule",
            "soften": "softened by rule, was red yes, green no",
        }[policy]
    )
    # Nothing is suggested for it, so it waits for a person.
    assert made.table.label_origins[3] == "flagged by rule"
    again = {} if policy == "soften" else named
    assert_same(read_table(out, **again), made.table)


def test_a_row_that_a_person_settled_is_not_dropped_by_a_rule(tmp_path):
    source = put(tmp_path, HOTS)
    issues = write(
        tmp_path, doubt("0.png", YES, NO, column="red"), doubt("0.png", NO, YES, column="blue")
    )
    review(tmp_path / "issues.reviews.csv", "0.png", "keep", YES, YES, column="red")
    made = relabel(source, issues, policy="drop", out=tmp_path / "new.csv")
    assert made.table.weights is None
    assert made.table.label_origins[0] == "kept by review"
    review(tmp_path / "issues.reviews.csv", "0.png", "drop", YES, column="red")
    made = relabel(source, issues, policy="relabel", out=tmp_path / "new.csv")
    assert made.table.label_origins[0] == "dropped by review"
    np.testing.assert_array_equal(made.table.targets, read_table(source).targets)


def test_a_whole_row_of_several_classes_cannot_be_relabelled(tmp_path):
    source = put(tmp_path, HOTS)
    issues = write(tmp_path, doubt("0.png", ""))
    review(tmp_path / "issues.reviews.csv", "0.png", "relabel", "", "red")
    with pytest.raises(InputError, match=r"'red' of the whole row '0\.png'"):
        relabel(source, issues, out=tmp_path / "new.csv")


BINARY = spell("image,crack", (f"{n},{'TRUE' if k % 3 else 'FALSE'}" for k, n in enumerate(NAMES)))


def test_a_single_column_keeps_its_words(tmp_path):
    source = put(tmp_path, BINARY)
    issues = write(tmp_path, doubt("0.png", NO, YES, column="crack"))
    made = relabel(source, issues, out=tmp_path / "new.csv")
    first = made.path.read_text(encoding="utf-8").splitlines()[1]
    assert first == '0.png,TRUE,"relabelled by rule, was crack no"'
    assert_same(read_table(made.path), made.table)


RLE = {
    "rle-rows": spell(
        "ImageId,ClassId,EncodedPixels",
        ["0.png,a,1 3", "0.png,b,9 2", "0.png,a,20 2", "1.png,a,2 2", "2.png,b,", "3.png,b,7 3"],
    ),
    "rle-joined": spell(
        "Image_Label,EncodedPixels",
        ["0.png_a,1 3", "0.png_b,9 2", "1.png_a,2 2", "1.png_b,", "2.png_b,", "3.png_b,7 3"],
    ),
}


@pytest.mark.parametrize("kind", [*RLE, "memory"])
def test_masks_can_be_emptied_or_dropped_but_not_drawn(tmp_path, kind):
    source = put(tmp_path, RLE["rle-rows" if kind == "memory" else kind])
    table = read_table(source)
    issues = write(
        tmp_path,
        doubt("0.png", MASK, NO_MASK, column="a"),
        doubt("1.png", NO_MASK, MASK, column="b"),
        doubt("3.png", MASK, "", column="b"),
    )
    review(tmp_path / "issues.reviews.csv", "3.png", "drop", MASK, column="b")
    given = table if kind == "memory" else source
    made = relabel(given, issues, out=tmp_path / "new.csv")
    assert made.table.masks == (("", "9 2"), *table.masks[1:])
    assert made.table.targets.tolist() == [[0, 1], [1, 0], [0, 0], [0, 1]]
    assert made.table.weights.tolist() == [1, 1, 1, 0]
    assert made.table.label_origins == (
        "relabelled by rule, was a mask",
        "flagged by rule",
        "",
        "dropped by review",
    )
    assert any("none can be drawn" in note for note in made.notes)
    assert_same(read_table(made.path), made.table)
    with pytest.raises(InputError, match="masks cannot be softened"):
        relabel(given, issues, policy="soften", out=tmp_path / "soft.csv")


def test_it_is_said_how_to_read_what_is_not_read_by_itself(tmp_path):
    rows = [f"{n},{label},0.{k}" for k, (n, label) in enumerate(zip(NAMES, LABELS, strict=True))]
    source = put(tmp_path, spell("image,label,blur", rows))
    run = audit(tmp_path / "run", read_table(source))
    issues = write(tmp_path, doubt("0.png", "cat", "dog"), **run.origin)
    made = relabel(source, issues, policy="soften", out=tmp_path / "new.csv")
    assert made.reading == {"label_column": "cat,cow,dog"}
    assert_same(read_table(made.path, **made.reading), made.table)
    assert relabel(source, issues, out=tmp_path / "hard.csv").reading == {}


def test_lists_of_a_parquet_file_are_changed(tmp_path):
    put(tmp_path, "")
    tags = [text.split("|") if text else [] for text in LISTS]
    source = tmp_path / "tags.parquet"
    pq.write_table(pa.table({"image": list(NAMES), "tags": tags}), source)
    issues = write(
        tmp_path,
        doubt("0.png", NO, YES, column="blue"),
        doubt("3.png", YES, NO, column="blue"),
    )
    made = relabel(source, issues, out=tmp_path / "new.csv")
    lines = made.path.read_text(encoding="utf-8").splitlines()
    assert lines[1].startswith("0.png,red|blue,")
    assert lines[4].startswith("3.png,,")
    assert_same(read_table(made.path), made.table)


def test_mask_images_are_written_as_run_lengths(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for k in range(4):
        Image.new("L", (6, 5)).save(tmp_path / "images" / f"{k}.png")
        pixels = np.zeros((5, 6), np.uint8)
        pixels[:2, :k] = 255
        Image.fromarray(pixels).save(tmp_path / "masks" / f"{k}.png")
    table = read_table(tmp_path / "images", masks=tmp_path / "masks")
    issues = write(tmp_path, doubt("2.png", MASK, NO_MASK, column="mask"))
    made = relabel(table, issues, source=tmp_path / "images", out=tmp_path / "new.csv")
    assert made.table.masks == (*table.masks[:2], ("",), table.masks[3])
    assert_same(read_table(made.path, images=tmp_path / "images"), made.table)
