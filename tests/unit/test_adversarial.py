"""Known differences are found and named; where there is none, none is claimed."""

import csv
from dataclasses import replace

import cv2
import numpy as np
import pytest

from loupe import adversarial
from loupe.adversarial import tell_apart
from loupe.apart import (
    COLUMNS,
    CONTENT,
    Separation,
    describe_apart,
    judge,
    note_doubts,
    write_apart,
)
from loupe.errors import InputError
from loupe.layouts import read_table
from loupe.table import Table
from loupe.testing import make_tiles


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    """48 pictures of 24 tiles, with groups."""
    folder = tmp_path_factory.mktemp("tiles") / "data"
    make_tiles(
        folder, tiles=24, shots=2, size=(64, 64), duplicates=0, wrong_labels=0, defect_share=0.2
    )
    return read_table(folder / "labels.csv", images=folder / "images")


@pytest.fixture(autouse=True)
def _few_exchanges(monkeypatch):
    # The least number by which a difference can be significant.
    monkeypatch.setattr(adversarial, "_EXCHANGES", 39)


def part(table, seed=0):
    """Part a table in two by whole groups at random."""
    names = np.unique(table.groups)
    half = set(np.random.default_rng(seed).permutation(names)[: len(names) // 2])
    inside = np.array([name in half for name in table.groups])
    return table.select(np.flatnonzero(inside)), table.select(np.flatnonzero(~inside))


def rewrite(table, folder, change):
    """Write each picture changed, without loss, and return the table of these."""
    folder.mkdir()
    paths = []
    for row, path in enumerate(table.images):
        paths.append(folder / f"{row:03}.png")
        cv2.imwrite(str(paths[-1]), change(cv2.imread(str(path))))
    return replace(table, images=tuple(paths), groups=None)


def brighten(image):
    return np.clip(image * 1.0 + 60, 0, 255).astype(np.uint8)


def blur(image):
    return cv2.GaussianBlur(image, (0, 0), 1.5)


def as_is(image):
    return image


@pytest.fixture(scope="module")
def plain(tiles, tmp_path_factory):
    """Two halves, the pictures of both written in one form."""
    folder = tmp_path_factory.mktemp("plain")
    ours, other = part(tiles)
    return rewrite(ours, folder / "ours", as_is), other


@pytest.mark.parametrize(
    ("change", "kind", "direction", "names"),
    [
        (brighten, "light", "higher", {"brightness", "dark tones", "bright tones"}),
        (blur, "texture", "lower", {"sharpness", "noise", "edges", "fine against coarse detail"}),
    ],
)
def test_a_changed_camera_is_found_and_named(plain, tmp_path, change, kind, direction, names):
    ours, other = plain
    found = tell_apart(ours, rewrite(other, tmp_path / "other", change))
    assert found.total.low > 0.5
    assert found.total.auc > 0.9
    assert found.p_value == 1 / 40
    assert found.verdict.startswith(("the tables differ strongly", "the tables differ almost"))
    assert "loupe score" in found.advice
    by_name = {shift.name: shift for shift in found.shifts}
    assert {by_name[name].direction for name in names} == {direction}
    assert found.shifts[0].auc > 0.9
    assert {separation.by: separation.auc for separation in found.kinds}[kind] > 0.85
    told = [reason for image in found.least_like_ours for reason in image.reasons]
    assert any(f"{name} {direction}" in told for name in names)


@pytest.mark.parametrize("seed", range(4))
def test_halves_of_one_table_are_not_told_apart(tiles, seed):
    found = tell_apart(*part(tiles, seed))
    assert found.verdict.startswith("no evidence that the tables differ")
    assert found.total.low <= 0.5
    assert {shift.direction for shift in found.shifts} == {"alike"}
    assert found.shared == ()
    assert (found.ours, found.other) == (24, 24)


def test_shots_of_a_tile_in_both_tables_are_held_out_together(tiles):
    # Every tile stands in both: a tile learnt as ours must not be judged as the other's.
    seen = set()
    first = np.array([name not in seen and not seen.add(name) for name in tiles.groups])
    ours, other = tiles.select(np.flatnonzero(first)), tiles.select(np.flatnonzero(~first))
    found = tell_apart(ours, other)
    assert len(found.shared_groups) == 24
    assert any("24 group name(s)" in note for note in found.notes)
    assert found.verdict.startswith("no evidence")


def test_a_table_against_itself_is_a_leak_and_chance(tiles):
    found = tell_apart(tiles, tiles)
    assert len(found.shared) == len(tiles)
    assert {(pair.other, pair.kind) for pair in found.shared} == {
        (name, "equal") for name in tiles.ids
    }
    assert found.total.auc == pytest.approx(0.5, abs=0.02)
    assert any("48 image(s)" in note and "leak" in note for note in found.notes)


def test_copies_across_the_tables_are_listed(plain, tmp_path):
    ours, other = plain
    folder = tmp_path / "copies"
    folder.mkdir()
    near = cv2.resize(cv2.imread(str(ours.images[3])), (80, 80), interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(folder / "near.png"), near)
    (folder / "equal.png").write_bytes(ours.images[5].read_bytes())
    paths = (folder / "near.png", folder / "equal.png", *other.images[2:])
    found = tell_apart(ours, replace(other, images=paths))
    # Shots of one tile may count as near copies, but halves share no tile.
    kinds = {pair.other: (pair.ours, pair.kind) for pair in found.shared}
    assert kinds[other.ids[0]][1] in {"near", "linked"}
    assert kinds[other.ids[1]] == (ours.ids[5], "equal")
    marked = {image.id: image.copy_of for image in found.images if image.table == "other"}
    assert marked[other.ids[1]] == ours.ids[5]
    back = {image.id: image.copy_of for image in found.images if image.table == "ours"}
    assert back[ours.ids[5]] == other.ids[1]


def test_one_odd_picture_comes_first_though_the_tables_are_alike(plain, tmp_path):
    ours, other = plain
    odd = np.zeros((64, 64, 3), np.uint8)
    odd[::2, :, 2] = 255
    cv2.imwrite(str(tmp_path / "odd.png"), odd)
    found = tell_apart(ours, replace(other, images=(*other.images[:-1], tmp_path / "odd.png")))
    first = found.least_like_ours[0]
    assert (first.id, first.remoteness) == (other.ids[-1], 1)
    assert found.images[0] is first


def test_damaged_files_are_listed_and_left_out(plain, tmp_path):
    ours, other = plain
    (tmp_path / "cut.jpg").write_bytes(ours.images[0].read_bytes()[:300])
    ours = replace(ours, images=(tmp_path / "cut.jpg", *ours.images[1:]))
    other = replace(other, images=(*other.images[:-1], tmp_path / "gone.jpg"))
    found = tell_apart(ours, other)
    assert [(lost.id, lost.table) for lost in found.unread] == [
        (ours.ids[0], "ours"),
        (other.ids[-1], "other"),
    ]
    assert "there is no such file" in found.unread[1].reason
    assert (found.ours, found.other) == (23, 23)
    lines = describe_apart(found, most=2)
    assert lines[:2] == ("23 images of ours, 23 of the other table", found.verdict)
    assert f"! 1 image(s) of ours cannot be read: {ours.ids[0]}" in lines
    assert sum("further out than" in line for line in lines) == 2
    assert lines[-1] == f"next: {found.advice}"
    write_apart(found, tmp_path / "apart.csv")
    with (tmp_path / "apart.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert tuple(header) == COLUMNS
    assert len(rows) == 48
    assert [row[0] for row in rows[:23]] == [image.id for image in found.least_like_ours]
    assert rows[-1][:4] == [other.ids[-1], "other", "", ""]
    assert all(0 <= float(row[2]) <= 1 and 0 <= float(row[3]) <= 1 for row in rows[:46])


def test_features_are_heard(tiles):
    ours, other = part(tiles)
    rng = np.random.default_rng(0)
    sheets = [rng.normal(size=(24, 100)).astype(np.float32) for _ in range(2)]
    assert tell_apart(ours, other, features=tuple(sheets)).verdict.startswith("no evidence")
    sheets[1][:, :30] += 2
    found = tell_apart(ours, other, features=tuple(sheets))
    assert found.kinds[0].by == CONTENT
    assert found.kinds[0].auc > 0.95
    assert found.total.auc > 0.9
    assert any(CONTENT in image.reasons for image in found.least_like_ours)
    assert not any("--weights" in note for note in found.notes)


def test_the_same_call_gives_the_same_numbers(tiles):
    ours, other = part(tiles)
    calls = []
    first = tell_apart(ours, other, jobs=1)
    again = tell_apart(ours, other, jobs=3, progress=lambda *told: calls.append(told))
    assert first == again
    assert calls == [(n, 48) for n in range(1, 49)]


def test_bad_requests_are_refused(tiles, tmp_path):
    ours, other = part(tiles)
    with pytest.raises(InputError, match="folds is 1"):
        tell_apart(ours, other, folds=1)
    with pytest.raises(InputError, match="jobs is 0"):
        tell_apart(ours, other, jobs=0)
    with pytest.raises(InputError, match=r"expected \(24, F\)"):
        tell_apart(ours, other, features=(np.zeros((9, 3), np.float32),) * 2)
    sheet = np.full((24, 3), np.nan, np.float32)
    with pytest.raises(InputError, match="24 readable row"):
        tell_apart(ours, other, features=(np.zeros((24, 3), np.float32), sheet))
    with pytest.raises(InputError, match="the other has 5; expected 20"):
        tell_apart(ours, other.select(range(5)))
    with pytest.raises(InputError, match="all images of the other are in one group"):
        tell_apart(ours, replace(other, groups=("batch 7",) * 24))


def test_parts_hold_both_tables_and_whole_groups():
    rng = np.random.default_rng(3)
    for _ in range(200):
        kinds = rng.integers(0, 3, rng.integers(4, 12))
        held = np.sort(rng.integers(0, len(kinds), 60))
        foreign = np.where(kinds[held] == 1, rng.random(60) < 0.5, kinds[held] == 2)
        groups = [len(np.unique(held[foreign == side])) for side in (False, True)]
        folds = min(5, *groups)
        if folds < 2:
            continue
        parts = adversarial._deal(held, foreign, folds, rng)
        assert all(len(np.unique(parts[held == group])) == 1 for group in np.unique(held))
        for fold in range(folds):
            assert len(np.unique(foreign[parts != fold])) == 2
            assert len(np.unique(foreign[parts == fold])) == 2


def test_normal_scores_follow_the_ranks():
    values = np.array([5, 1, 1, 1e9, -3], np.float32)
    scores = adversarial._to_normal_scores(values)
    assert np.argsort(scores, kind="stable").tolist() == [4, 1, 2, 0, 3]
    assert scores[1] == scores[2]
    assert scores[3] == pytest.approx(-scores[4]) == pytest.approx(1.2815516)
    assert adversarial._to_normal_scores(np.ones(4, np.float32)).tolist() == [0] * 4


@pytest.mark.parametrize("shape", [(200, 12), (40, 300)])
def test_content_is_whitened_and_uncorrelated(shape):
    features = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    content = adversarial._condense(features @ np.diag(np.arange(1, shape[1] + 1)))
    assert content.shape[1] <= min(32, max(1, shape[0] // 10))
    assert content.T @ content / shape[0] == pytest.approx(np.eye(content.shape[1]), abs=1e-6)
    assert (adversarial._condense(np.ones(shape, np.float32)) == 0).all()


def test_the_verdict_needs_interval_and_p_value():
    total = Separation(by="everything", auc=0.7, low=0.6, high=0.8)
    assert judge(total, 0.02)[0].startswith("the tables differ clearly")
    assert judge(total, 0.03)[0].startswith("no evidence")
    assert judge(replace(total, low=0.5), 0.01)[0].startswith("no evidence")
    assert "0.80 is not excluded" in judge(replace(total, low=0.4), 0.01)[1]
    assert judge(replace(total, auc=0.55, low=0.51, high=0.59), 0.01)[0].startswith(
        "the tables differ slightly"
    )


def test_a_statistic_that_differs_alone_is_not_drowned(tiles, tmp_path):
    # Three of four pictures of the other table are saved as a larger file.
    ours, other = part(tiles)
    paths = []
    for row, path in enumerate(other.images):
        paths.append(tmp_path / f"{row}.jpg")
        paths[-1].write_bytes(path.read_bytes() + bytes(4000 * (row % 4 < 3)))
    found = tell_apart(ours, replace(other, images=tuple(paths)))
    assert found.shifts[0].name == "bytes per pixel"
    assert found.shifts[0].direction == "higher"
    alone = judge(Separation(by="everything", auc=0.5, low=0.4, high=0.6), 0.5, found.shifts)
    assert alone[0].startswith("the tables differ in single statistics (AUC: bytes per pixel 0.")
    assert "AUC 0.50, 95 % interval 0.40 to 0.60" in alone[0]


def test_doubts_are_told():
    near = Separation(by="light", auc=0.5, low=0.4, high=0.6)
    file = Separation(by="file", auc=0.9, low=0.8, high=0.95)
    notes = note_doubts([file, near], (), (), {"ours": 40, "other": 3})
    assert any("few groups (other 3)" in note for note in notes)
    assert any("the files differ" in note for note in notes)
    notes = note_doubts([file, replace(near, low=0.55)], (), (), {"ours": 40, "other": 30})
    assert not any("the files differ" in note or "few groups" in note for note in notes)


def test_tables_without_labels_are_enough(tiles):
    ours, other = part(tiles)
    bare = Table(
        ids=other.ids,
        images=other.images,
        classes=(),
        targets=np.zeros((24, 0), np.float32),
        exclusive=False,
    )
    assert tell_apart(ours, bare).other == 24
