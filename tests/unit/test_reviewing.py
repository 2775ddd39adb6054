from __future__ import annotations

import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from loupe.desks import Desk, Strip
from loupe.errors import ImageError, InputError, MissingExtraError
from loupe.issues import NO, YES, Issue, write_issues
from loupe.masks import encode_rle
from loupe.predictions import Predictions, write_predictions
from loupe.recipe import Recipe
from loupe.reviewing import count_reviewed, open_desk, review
from loupe.reviews import read_reviews
from loupe.rowimages import RowImages
from loupe.runs import create_run
from loupe.sheetfiles import write_sheet_file
from loupe.table import Table

ROWS = 12


def make_table(folder: Path, *, exclusive: bool = True) -> Table:
    targets = np.eye(3, dtype=np.float32)[np.arange(ROWS) % 3]
    return Table(
        ids=tuple(f"{row:02}.png" for row in range(ROWS)),
        images=tuple(folder / f"{row:02}.png" for row in range(ROWS)),
        classes=("ant", "bee", "fly"),
        targets=targets,
        exclusive=exclusive,
        groups=tuple(str(row % 6) for row in range(ROWS)),
        folds=(np.arange(ROWS) % 2).astype(np.int16),
    )


def write(folder: Path, *issues: Issue, **origin: Any) -> Path:
    path = folder / "night.csv"
    write_issues(path, issues, origin)
    return path


ISSUE = Issue(id="00.png", given="ant", suggested="bee", quality=0.1, rules=("confident",))


def make_run(folder: Path, *, views: object = ("identity",), features: bool = True) -> Path:
    """Make a run whose rows lie on a quarter of a circle, in the view as they are."""
    recipe = Recipe.model_validate({"stages": [{"train": "head", "views": views}]})
    table = make_table(folder)
    run = create_run(folder / "run", table, {"head": recipe})
    if features:
        angle = np.linspace(0, 1.5, ROWS)
        plain = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
        noise = np.random.default_rng(0).normal(size=plain.shape).astype(np.float32)
        column = {"identity": 0, "hflip": 1, 2: 2}[views[0] if isinstance(views, tuple) else 2]
        parts = [noise] * (column + 1)
        parts[column] = plain
        np.save(run.member("head").features, np.stack(parts, axis=1))
    probs = np.full((ROWS, 3), 0.1, np.float32)
    probs[np.arange(ROWS), [0, 1, 2, 1, 0, 2, 0, 1, 2, 2, 1, 0]] = 0.8
    sheet = Predictions(
        ids=table.ids,
        classes=table.classes,
        probs=probs,
        exclusive=True,
        held_out=np.ones(ROWS, np.bool_),
    )
    write_predictions(run.oof_file, {"head": sheet})
    return run.folder


@pytest.mark.parametrize("views", [("identity",), ("hflip", "identity"), 2])
def test_neighbours_are_near_in_the_view_of_the_image_as_it_is(tmp_path: Path, views: Any) -> None:
    desk = open_desk(write(tmp_path, ISSUE, source=str(make_run(tmp_path, views=views))))
    assert desk.find_strips(ISSUE) == (
        # Row 6 is an ant too, but of the same group.
        Strip(kind="given", label="ant", rows=(3, 9)),
        Strip(kind="suggested", label="bee", rows=(1, 4, 7, 10)),
        Strip(kind="group", label="", rows=(6,)),
    )
    assert desk.basis == "by features of the network"


def test_a_run_without_features_has_neighbours_by_its_probabilities(tmp_path: Path) -> None:
    desk = open_desk(write(tmp_path, ISSUE, source=str(make_run(tmp_path, features=False))))
    strips = desk.find_strips(ISSUE)
    assert desk.basis == "by predicted probabilities: the run kept no features"
    # Of the bees, row 4 alone is predicted as row 0 is.
    assert strips[1].rows == (4, 1, 7, 10)


def test_a_predictions_file_needs_a_table_and_gives_neighbours(tmp_path: Path) -> None:
    table = make_table(tmp_path)
    sheet = Predictions(
        ids=table.ids[::-1],
        classes=table.classes,
        probs=np.eye(3, dtype=np.float32)[(np.arange(ROWS) // 4)[::-1]],
        exclusive=True,
        held_out=np.ones(ROWS, np.bool_),
    )
    write_sheet_file(tmp_path / "oof.csv", sheet)
    path = write(tmp_path, ISSUE, source=str(tmp_path / "oof.csv"))
    with pytest.raises(InputError, match=r"oof.csv is no run folder.*--table"):
        open_desk(path)
    desk = open_desk(path, table=table)
    assert desk.find_strips(ISSUE)[1].rows == (1, 4, 7, 10)
    assert desk.find_strips(ISSUE)[0].rows == (3, 9)
    assert "probabilities" in desk.basis


def test_without_a_source_other_rows_of_both_labels_are_shown(tmp_path: Path) -> None:
    desk = open_desk(write(tmp_path, ISSUE), table=make_table(tmp_path))
    given, suggested, _ = desk.find_strips(ISSUE)
    assert (given.rows, suggested.rows, desk.basis) == ((3, 9), (1, 4, 7, 10), "")


def test_a_table_in_another_order_has_the_same_neighbours(tmp_path: Path) -> None:
    path = write(tmp_path, ISSUE, source=str(make_run(tmp_path)))
    order = [5, 0, *range(11, 5, -1), 4, 3, 1]
    desk = open_desk(path, table=make_table(tmp_path).select(order))
    names = [[desk.table.ids[row] for row in strip.rows] for strip in desk.find_strips(ISSUE)]
    assert names == [["03.png", "09.png"], ["01.png", "04.png", "07.png", "10.png"], ["06.png"]]


def test_of_classes_alone_rows_with_and_without_the_class_are_shown(tmp_path: Path) -> None:
    issue = Issue(id="00.png", class_name="bee", given=NO, suggested=YES, quality=0.1)
    whole = Issue(id="00.png", given="", suggested="", quality=0.1, rules=("outlier",))
    table = make_table(tmp_path, exclusive=False)
    desk = open_desk(write(tmp_path, issue, whole), table=table)
    strips = {
        strip.kind: {desk.label(row, issue) for row in strip.rows}
        for strip in desk.find_strips(issue)
    }
    assert strips == {"given": {NO}, "suggested": {YES}, "group": {NO}}
    assert (desk.list_labels(issue), desk.list_labels(whole)) == ((YES, NO), ())
    assert [strip.kind for strip in desk.find_strips(whole)] == ["near", "group"]
    assert desk.label(4, whole) == "bee"


def test_an_issue_without_a_suggestion_is_beside_rows_of_other_labels(tmp_path: Path) -> None:
    issue = replace(ISSUE, suggested="")
    desk = open_desk(write(tmp_path, issue), table=make_table(tmp_path))
    other = desk.find_strips(issue)[1]
    assert other.kind == "other"
    assert "ant" not in {desk.label(row, issue) for row in other.rows}


def test_only_labels_of_the_table_can_be_chosen(tmp_path: Path) -> None:
    desk = open_desk(write(tmp_path, ISSUE), table=make_table(tmp_path), reviewer="ann")
    for decision, label in (("relabel", "cow"), ("undo", ""), ("", ""), ("relabel", "")):
        with pytest.raises(InputError):
            desk.decide(0, decision, label)
    assert not desk.path.exists()
    desk.decide(0, "relabel", "fly")
    (made,) = read_reviews(tmp_path / "night.reviews.csv")
    assert (made.reviewer, made.id, made.decision, made.label) == (
        "ann",
        "00.png",
        "relabel",
        "fly",
    )
    assert made.given == "ant"
    assert made.suggested == "bee"


def test_what_another_window_wrote_counts(tmp_path: Path) -> None:
    path = write(tmp_path, ISSUE, replace(ISSUE, id="01.png"))
    one, other = (open_desk(path, table=make_table(tmp_path)) for _ in range(2))
    one.decide(0, "drop")
    other.decide(1, "skip")
    found = count_reviewed(one)
    assert (found.dropped, found.skipped, found.left, found.made) == (1, 1, 1, 1)
    assert (other.undo(), other.undo(), other.undo()) == (1, 0, None)


def test_a_small_image_is_sent_as_it_is_and_a_large_one_smaller(tmp_path: Path) -> None:
    table = make_table(tmp_path)
    small = np.random.default_rng(0).integers(0, 255, (8, 9, 3), np.uint8)
    Image.fromarray(small).save(table.images[0])
    Image.fromarray(np.zeros((900, 1800, 3), np.uint8)).save(table.images[1])
    images = RowImages(table)

    assert np.array_equal(open_pixels(images.draw(0, "page").data), small)
    large = images.draw(1, "page")
    assert open_pixels(large.data).shape == (800, 1600, 3)
    assert (large.media, large.height, large.width) == ("image/jpeg", 900, 1800)
    assert open_pixels(images.draw(1, "thumb").data).shape == (128, 256, 3)
    assert open_pixels(images.draw(1, "full").data).shape == (900, 1800, 3)
    with pytest.raises(ImageError, match="no such file"):
        images.draw(2, "page")


def test_a_mask_is_a_line_that_leaves_what_it_covers(tmp_path: Path) -> None:
    table = make_table(tmp_path, exclusive=False)
    Image.fromarray(np.full((200, 200, 3), 90, np.uint8)).save(table.images[0])
    mask = np.zeros((200, 200), np.bool_)
    mask[50:150, 50:150] = True
    texts = [("", encode_rle(mask), "")] + [("", "", "")] * (ROWS - 1)
    images = RowImages(replace(table, masks=tuple(texts)))

    drawn = open_pixels(images.draw(0, "page", "bee").data)

    # Enlarged four times, so that a line of 2 pixels hides nothing.
    assert drawn.shape == (800, 800, 3)
    line = np.abs(drawn.astype(int) - 90).max(axis=2) > 60
    assert line[198:200, 300:500].all()
    assert not line[204:596, 204:596].any()
    assert (images.has_mask(0, "bee"), images.has_mask(0, "ant"), images.has_mask(1, "")) == (
        True,
        False,
        False,
    )


def test_a_mask_that_does_not_fit_its_image_is_told_and_the_image_is_shown(tmp_path: Path) -> None:
    table = make_table(tmp_path, exclusive=False)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(table.images[0])
    masks = tuple(("1 99", "", "") for _ in range(ROWS))
    picture = RowImages(replace(table, masks=masks)).draw(0, "page", "ant")
    assert "cannot be drawn" in picture.note
    assert open_pixels(picture.data).shape == (4, 4, 3)


def open_pixels(data: bytes) -> Any:
    from io import BytesIO

    with Image.open(BytesIO(data)) as image:
        return np.asarray(image)


def test_what_cannot_be_reviewed_is_told_before_a_page_opens(tmp_path: Path) -> None:
    table = make_table(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        review(tmp_path / "none.csv", table=table)
    with pytest.raises(InputError, match=r"no rows|nothing to review"):
        review(write(tmp_path), table=table)
    with pytest.raises(InputError, match="table is not known"):
        review(write(tmp_path, ISSUE))
    with pytest.raises(InputError, match="none of its ids"):
        review(write(tmp_path, replace(ISSUE, id="x.png")), table=table)
    path = write(tmp_path, ISSUE)
    (tmp_path / "other.csv").write_text("id,label\n")
    with pytest.raises(InputError, match="first line"):
        review(path, table=table, out=tmp_path / "other.csv")


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port}"):
            review(write(tmp_path, ISSUE), table=make_table(tmp_path), port=port)


def test_without_the_extra_its_name_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(MissingExtraError, match=r"loupe-vision\[review\]"):
        review(write(tmp_path, ISSUE), table=make_table(tmp_path), open_browser=False)


def test_a_desk_with_features_knows_which_neighbours_are_flagged(tmp_path: Path) -> None:
    plain = replace(ISSUE, id="03.png", rules=())
    desk: Desk = open_desk(write(tmp_path, ISSUE, plain), table=make_table(tmp_path))
    assert desk.flagged(0, ISSUE)
    assert not desk.flagged(3, ISSUE)
    assert not desk.flagged(4, ISSUE)
