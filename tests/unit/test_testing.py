"""The sample data: what is claimed of it, and that the claims are true."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loupe.errors import InputError, TableError
from loupe.samples import COPY_KINDS, plan_defects
from loupe.testing import Truth, make_predictions, make_tiles, read_truth
from loupe.tiles import CLASSES

SMALL = {"tiles": 12, "shots": 2, "size": (48, 64), "defect_share": 0.75, "wrong_labels": 4}


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    folder = tmp_path_factory.mktemp("tiles")
    return make_tiles(folder, **SMALL, duplicates=4, damaged=3, seed=5)


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def list_bytes(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def decode_runs(text: str, shape: tuple[int, ...]) -> np.ndarray:
    """Decode by the definition, one pixel at a time."""
    mask = np.zeros(shape, bool)
    numbers = [int(word) for word in text.split()]
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        for pixel in range(start - 1, start - 1 + length):
            assert not mask[pixel % shape[0], pixel // shape[0]], "a pixel stands in two runs"
            mask[pixel % shape[0], pixel // shape[0]] = True
    return mask


def faults(truth: Truth) -> Iterator[str]:
    yield from truth.wrong
    yield from truth.damaged
    yield from (name for pair in truth.duplicates for name in pair[:2])


def test_same_arguments_give_the_same_bytes(truth: Truth, tmp_path: Path) -> None:
    make_tiles(tmp_path / "again", **SMALL, duplicates=4, damaged=3, seed=5)
    assert list_bytes(tmp_path / "again") == list_bytes(truth.folder)


def test_another_seed_gives_other_pictures(truth: Truth, tmp_path: Path) -> None:
    other = make_tiles(tmp_path, **SMALL, duplicates=0, seed=6)
    mine = {(truth.images / name).read_bytes() for name in truth.ids}
    assert mine.isdisjoint((other.images / name).read_bytes() for name in other.ids)


def test_faults_change_no_picture_but_their_own(truth: Truth, tmp_path: Path) -> None:
    plain = make_tiles(tmp_path, **SMALL | {"wrong_labels": 0}, duplicates=0, seed=5)
    mine = Counter((plain.images / name).read_bytes() for name in plain.ids)
    copies = {copy for _, copy, _ in truth.duplicates}
    theirs = [(truth.images / i).read_bytes() for i in truth.ids if i not in copies]
    assert sum((mine - Counter(theirs)).values()) == len(truth.damaged)


def test_counts_are_as_asked(truth: Truth) -> None:
    assert len(truth.ids) == 12 * 2 + 4
    assert len(truth.duplicates) == len(truth.wrong) == 4
    assert len(truth.damaged) == 3
    faulty = {t for t, row in zip(truth.groups, truth.targets_true, strict=True) if row.any()}
    assert len(faulty) == 9
    assert sorted(path.name for path in truth.images.iterdir()) == sorted(truth.ids)
    assert len(set(faults(truth))) == 4 * 2 + 4 + 3


def test_pictures_of_a_tile_share_their_defects(truth: Truth) -> None:
    copies = {copy for _, copy, _ in truth.duplicates}
    sets: dict[str, set[bytes]] = {}
    for tile, row in zip(truth.groups, truth.targets_true, strict=True):
        sets.setdefault(tile, set()).add(row.tobytes())
    shown = Counter(t for i, t in zip(truth.ids, truth.groups, strict=True) if i not in copies)
    assert set(shown.values()) == {2}
    assert all(len(kinds) == 1 for kinds in sets.values())


def test_names_do_not_tell_the_tile(truth: Truth) -> None:
    assert list(truth.ids) == sorted(truth.ids)
    numbers = [int(tile.removeprefix("tile-")) for tile in truth.groups]
    assert numbers != sorted(numbers)


def test_main_table_gives_the_given_targets(truth: Truth) -> None:
    rows = read_rows(truth.table)
    assert list(rows[0]) == ["image", "group", *CLASSES]
    assert tuple(row["image"] for row in rows) == truth.ids
    given = np.array([[float(row[name]) for name in CLASSES] for row in rows])
    np.testing.assert_array_equal(given, truth.targets_given)


def test_copies_are_filed_under_a_tile_of_their_own(truth: Truth) -> None:
    filed = {row["image"]: row["group"] for row in read_rows(truth.table)}
    copies = {copy for _, copy, _ in truth.duplicates}
    for name, tile in zip(truth.ids, truth.groups, strict=True):
        assert (filed[name] == tile) is (name not in copies)
    assert all(count == 1 for tile, count in Counter(filed.values()).items() if tile >= "tile-0012")


def test_group_column_can_be_left_out(tmp_path: Path) -> None:
    truth = make_tiles(tmp_path, tiles=1, shots=1, size=(32, 32), duplicates=0, wrong_labels=0,
                       group_column=False)  # fmt: skip
    assert list(read_rows(truth.table)[0]) == ["image", *CLASSES]


def test_classes_table_names_one_given_class(truth: Truth) -> None:
    for row, target in zip(
        read_rows(truth.folder / "classes.csv"), truth.targets_given, strict=True
    ):
        given = {name for name, value in zip(CLASSES, target, strict=True) if value}
        assert row["label"] in (given or {"ok"})


def test_wrong_labels_are_the_only_differences(truth: Truth) -> None:
    differ = (truth.targets_true != truth.targets_given).any(axis=1)
    assert tuple(np.array(truth.ids)[differ]) == truth.wrong
    was_faulty = truth.targets_true[differ].any(axis=1)
    assert was_faulty.sum() == 2


def test_masks_exist_where_a_target_is_true_and_only_there(truth: Truth) -> None:
    for name, row in zip(truth.ids, truth.targets_true, strict=True):
        for defect, value in zip(CLASSES, row, strict=True):
            path = truth.folder / "masks" / defect / f"{name[:-4]}.png"
            assert path.exists() is bool(value)
            if value:
                assert truth.mask(name, defect).any()
    sound = truth.ids[int(np.flatnonzero(~truth.targets_true.any(axis=1))[0])]
    with pytest.raises(TableError, match="has no mask of 'chip'"):
        truth.mask(sound, "chip")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("size", [(32, 32), (128, 128), (96, 160)])
def test_no_defect_is_lost_or_covers_the_tile(
    tmp_path: Path, size: tuple[int, int], seed: int
) -> None:
    truth = make_tiles(tmp_path, tiles=8, shots=1, size=size, defect_share=1, duplicates=0,
                       wrong_labels=0, seed=seed)  # fmt: skip
    for row, name in zip(truth.targets_true, truth.ids, strict=True):
        for defect in np.array(CLASSES)[row > 0]:
            mask = truth.mask(name, defect)
            assert mask.shape == size
            assert 3 <= mask.sum() < 0.25 * mask.size


def test_defects_lie_where_their_masks_say(tmp_path: Path) -> None:
    """Stained pixels differ in colour from the rest of the tile far more than noise does."""
    truth = make_tiles(tmp_path, tiles=24, shots=1, defect_share=1, duplicates=0, wrong_labels=0)
    stained = np.flatnonzero(truth.targets_true[:, CLASSES.index("stain")])
    seen = []
    for number in stained:
        pixels = cv2.imread(str(truth.images / truth.ids[number])).astype(float)
        hue = pixels / pixels.sum(axis=2, keepdims=True)
        mask = truth.mask(truth.ids[number], "stain")
        ring = cv2.dilate(mask.astype(np.uint8), np.ones((13, 13))).astype(bool) & ~cv2.dilate(
            mask.astype(np.uint8), np.ones((5, 5))
        ).astype(bool)
        seen.append(np.abs(hue[mask].mean(axis=0) - hue[ring].mean(axis=0)).max())
    assert len(seen) >= 6
    assert np.median(seen) > 0.01


def test_train_table_decodes_to_the_masks(truth: Truth) -> None:
    rows = read_rows(truth.folder / "train.csv")
    assert list(rows[0]) == ["ImageId", "ClassId", "EncodedPixels"]
    assert len(rows) == truth.targets_true.sum()
    for row in rows:
        mask = truth.mask(row["ImageId"], CLASSES[int(row["ClassId"]) - 1])
        np.testing.assert_array_equal(decode_runs(row["EncodedPixels"], mask.shape), mask)


def test_copies_are_what_they_are_said_to_be(truth: Truth) -> None:
    assert tuple(kind for *_, kind in truth.duplicates) == COPY_KINDS
    tile = dict(zip(truth.ids, truth.groups, strict=True))
    given = dict(zip(truth.ids, truth.targets_given.tolist(), strict=True))
    for source, copy, kind in truth.duplicates:
        first, second = ((truth.images / name).read_bytes() for name in (source, copy))
        assert (first == second) is (kind == "same-bytes")
        images = [
            cv2.imdecode(np.frombuffer(d, np.uint8), cv2.IMREAD_COLOR) for d in (first, second)
        ]
        assert (images[0].shape == images[1].shape) is (kind != "resized")
        grey = [cv2.cvtColor(cv2.resize(i, (16, 16)), cv2.COLOR_BGR2GRAY).ravel() for i in images]
        assert np.corrcoef(*grey)[0, 1] > 0.98
        assert tile[source] == tile[copy]
        assert given[source] == given[copy]
        for defect in np.array(CLASSES)[np.array(given[copy]) > 0]:
            assert truth.mask(copy, defect).shape == images[1].shape[:2]


def test_only_damaged_files_do_not_decode_whole(truth: Truth) -> None:
    sizes = {name: (truth.images / name).read_bytes() for name in truth.ids}
    unfinished = sorted(name for name, data in sizes.items() if data[-2:] != b"\xff\xd9")
    assert tuple(unfinished) == truth.damaged
    assert sum(not sizes[name] for name in truth.damaged) == 1


def test_truth_is_read_again_from_where_the_folder_is_now(truth: Truth, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    for name, data in list_bytes(truth.folder).items():
        (moved / name).parent.mkdir(parents=True, exist_ok=True)
        (moved / name).write_bytes(data)
    again = read_truth(moved)
    for name in ("classes", "ids", "groups", "duplicates", "wrong", "damaged"):
        assert getattr(again, name) == getattr(truth, name)
    for name in ("targets_true", "targets_given"):
        np.testing.assert_array_equal(getattr(again, name), getattr(truth, name), strict=True)
    assert again.table == moved / "labels.csv"


def test_truth_of_nothing_or_of_another_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="expected a finished folder"):
        read_truth(tmp_path)
    (tmp_path / "truth.json").write_text(json.dumps({"schema": 99}))
    with pytest.raises(TableError, match="another version"):
        read_truth(tmp_path)


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("do not mix")
    with pytest.raises(InputError, match="not an empty folder"):
        make_tiles(tmp_path)
    with pytest.raises(InputError, match="not an empty folder"):
        make_tiles(tmp_path / "mine.txt")


def test_all_findings_of_a_bad_request_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tiles is 0.*size is \(8, 8\).*share is 2.*\(1, 0, 0\)"):
        make_tiles(tmp_path, tiles=0, size=(8, 8), defect_share=2, duplicates=1, wrong_labels=0)


@given(st.integers(1, 200), st.floats(0, 1), st.integers(0, 99))
def test_planned_defects_are_counted_and_balanced(tiles: int, share: float, seed: int) -> None:
    plan = plan_defects(np.random.default_rng(seed), tiles, share)
    assert len(plan) == tiles
    assert sum(bool(defects) for defects in plan) == round(tiles * share)
    main = Counter(defects[0] for defects in plan if defects)
    assert max(main.values(), default=0) - min(main[name] for name in CLASSES) <= 1
    assert sum(len(defects) == 2 for defects in plan) == round(round(tiles * share) * 0.1)
    assert all(len(set(defects)) == len(defects) <= 2 for defects in plan)


# Simulated predictions ----------------------------------------------------------------------------


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("quality", [0.2, 0.6, 0.9])
def test_predictions_are_calibrated_and_as_good_as_asked(
    *, exclusive: bool, quality: float
) -> None:
    shares = (0.1, 0.3, 0.6)
    targets, probs, *_ = make_predictions(
        60_000, 3, exclusive=exclusive, quality=quality, prevalence=shares, seed=1
    )
    np.testing.assert_allclose(targets.mean(axis=0), shares, atol=0.01)
    for column, share in enumerate(shares):
        p, t = probs[:, column], targets[:, column]
        for low in np.arange(0, 1, 0.2):
            rows = (p >= low) & (p < low + 0.2)
            if rows.sum() > 200:
                error = 4.5 * np.sqrt(0.25 / rows.sum())
                assert abs(t[rows].mean() - p[rows].mean()) < error
        skill = 1 - ((t - p) ** 2).mean() / (share * (1 - share))
        assert skill == pytest.approx(quality, abs=0.02)


@settings(max_examples=30)
@given(
    n=st.integers(1, 60),
    classes=st.integers(2, 5),
    exclusive=st.booleans(),
    groups=st.none() | st.integers(1, 20),
    folds=st.integers(2, 6),
    seed=st.integers(0, 999),
)
def test_predictions_keep_their_shapes_and_groups(
    *, n: int, classes: int, exclusive: bool, groups: int | None, folds: int, seed: int
) -> None:
    made = make_predictions(
        n, classes, exclusive=exclusive, groups=groups, folds=folds, seed=seed, quality=0.95
    )
    assert made.targets.shape == made.probs.shape == (n, classes)
    assert made.targets.dtype == made.probs.dtype == np.float32
    assert made.folds.dtype == np.int16
    assert ((made.probs >= 0) & (made.probs <= 1)).all()
    if exclusive:
        np.testing.assert_allclose(made.probs.sum(axis=1), 1, atol=1e-5)
        assert (made.targets.sum(axis=1) == 1).all()
    assert len(set(made.groups)) == min(n, groups or n)
    for group in set(made.groups):
        rows = made.groups == group
        assert len(set(made.folds[rows])) == 1
        assert len({row.tobytes() for row in made.targets[rows]}) == 1
    assert set(made.folds) <= set(range(folds))


@pytest.mark.parametrize("exclusive", [False, True])
def test_label_noise_changes_the_targets_of_that_share_and_nothing_else(*, exclusive: bool) -> None:
    clean = make_predictions(20_000, 4, exclusive=exclusive, groups=500, seed=3)
    noisy = make_predictions(20_000, 4, exclusive=exclusive, groups=500, seed=3, label_noise=0.1)
    np.testing.assert_array_equal(noisy.probs, clean.probs)
    np.testing.assert_array_equal(noisy.folds, clean.folds)
    cells = (noisy.targets != clean.targets).sum(axis=1)
    assert (cells > 0).mean() == pytest.approx(0.1, abs=0.01)
    assert set(cells) == {0, 2 if exclusive else 1}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n": 0, "quality": 1}, "n is 0.*quality is 1"),
        ({"classes": 0}, "classes is 0"),
        ({"classes": 1, "exclusive": True}, "at least 2"),
        ({"label_noise": 1.5}, "label_noise is 1.5"),
        ({"prevalence": (0.5, 0.5, 0.5), "exclusive": True}, "summing to 1"),
        ({"prevalence": (0.5, 0.5)}, "expected 3 numbers"),
        ({"prevalence": (0.5, 0.5, 1.0)}, "between 0 and 1"),
        ({"folds": 1}, "folds is 1"),
        ({"groups": 0}, "groups is 0"),
    ],
)
def test_numbers_out_of_range_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_predictions(**({"n": 10, "classes": 3} | wrong))
