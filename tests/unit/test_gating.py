"""The verb `gate`: anyone's submission, anyone's probabilities; rows stay in their place."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loupe.deciding import decide_evidence, write_decision
from loupe.decisions import place_rule
from loupe.errors import AlignmentError, InputError, MaskError
from loupe.evidence import held_out_probs, make_evidence
from loupe.gating import Gated, gate, measure_areas
from loupe.goals import Request
from loupe.masks import decode_rle, encode_rle
from loupe.masksheets import read_mask_sheet
from loupe.predictions import Predictions
from loupe.rules import Rule, apply_rule, plain_rule
from loupe.sheetfiles import read_sheet_file, write_sheet_file
from loupe.testing import make_predictions

NAN = float("nan")
CLASSES = ("Fish", "Flower", "Gravel", "Sugar")


def write_masks(path: Path, ids, texts, *, classes=CLASSES) -> Path:
    pairs = [(f"{key}_{name}", row[at]) for key, row in zip(ids, texts, strict=True)
             for at, name in enumerate(classes)]  # fmt: skip
    lines = ["Image_Label,EncodedPixels", *(f"{key},{text}" for key, text in pairs)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_probs(path: Path, ids, probs, *, classes=CLASSES, **more) -> Path:
    sheet = Predictions(
        ids=tuple(ids),
        classes=tuple(classes),
        probs=np.asarray(probs, np.float32),
        exclusive=False,
        held_out=np.zeros(len(ids), np.bool_),
        **more,
    )
    write_sheet_file(path, sheet)
    return path


def read_keys(path: Path) -> list[str]:
    return [line.split(",")[0] for line in path.read_text(encoding="utf-8").splitlines()]


def thresholds_rule(levels, *, classes=CLASSES, **more) -> Rule:
    return replace(plain_rule(classes, exclusive=False), thresholds=tuple(levels), **more)


def counts(gated: Gated) -> dict[str, tuple[int, int, int, int]]:
    return {c.class_name: (c.emptied, c.kept, c.ungated, c.refilled) for c in gated.classes}


@pytest.fixture
def three(tmp_path) -> tuple[Path, Path]:
    """Three images; the rows of the probabilities stand in another order than the masks."""
    masks = write_masks(
        tmp_path / "masks.csv",
        ["a.jpg", "b.jpg", "c.jpg"],
        [["1 3", "", "5 2", "9 9"], ["1 1", "2 2", "", ""], ["", "4 4", "7 1", "1 20"]],
    )
    probs = write_probs(
        tmp_path / "probs.csv",
        ["c.jpg", "a.jpg", "b.jpg"],
        [[0.9, 0.6, 0.2, 0.4], [0.3, 0.9, 0.7, 0.5], [0.8, 0.1, 0.1, 0.9]],
    )
    return masks, probs


def test_masks_below_the_threshold_are_emptied_and_nothing_else(three, tmp_path):
    masks, probs = three
    out = tmp_path / "out.csv"
    gated = gate(masks, probs, thresholds=0.5, out=out)
    assert gated.masks.texts == (
        ("", "", "5 2", "9 9"), ("1 1", "", "", ""), ("", "4 4", "", ""),
    )  # fmt: skip
    assert counts(gated) == {
        "Fish": (1, 1, 0, 0), "Flower": (1, 1, 0, 0), "Gravel": (1, 1, 0, 0), "Sugar": (1, 1, 0, 0),
    }  # fmt: skip
    assert [(c.before, c.after) for c in gated.classes] == [(2, 1)] * 4
    assert gated.ungated == ()
    assert read_keys(out) == read_keys(masks)
    assert read_mask_sheet(out).texts == gated.masks.texts


def test_thresholds_of_single_classes(three):
    gated = gate(*three, thresholds={"": 0.0, "Sugar": 0.45})
    assert counts(gated)["Sugar"] == (1, 1, 0, 0)
    assert sum(c.emptied for c in gated.classes) == 1
    with pytest.raises(InputError, match="did you mean 'Sugar'"):
        gate(*three, thresholds={"": 0.1, "Suger": 0.5})
    with pytest.raises(InputError, match=r"'Fish'.*has no number"):
        gate(*three, thresholds={"Sugar": 0.5, "Gravel": 0.5, "Flower": 0.5})


def test_a_rule_with_its_calibration_decides_as_it_does_elsewhere(three):
    masks, probs = three
    rule = thresholds_rule([0.3, 0.9, 0.71, 0.5])
    gated = gate(masks, probs, rule=rule)
    sheet = read_sheet_file(probs, classes=CLASSES, exclusive=False)
    there = apply_rule(rule, sheet.probs, classes=CLASSES).decisions[[1, 2, 0]]
    before = read_mask_sheet(masks)
    for row in range(3):
        for at in range(4):
            expected = before.texts[row][at] if there[row, at] else ""
            assert gated.masks.texts[row][at] == expected


def test_exclusive_rule_keeps_the_likeliest_class_and_may_know_more_classes(tmp_path):
    masks = write_masks(tmp_path / "m.csv", ["a", "b"], [["1 1", "2 2"]] * 2, classes=("x", "y"))
    sheet = Predictions(
        ids=("a", "b"),
        classes=("none", "y", "x"),
        probs=np.float32([[0.2, 0.3, 0.5], [0.6, 0.1, 0.3]]),
        exclusive=True,
        held_out=np.zeros(2, np.bool_),
    )
    gated = gate(masks, sheet, rule=plain_rule(("none", "y", "x"), exclusive=True))
    assert gated.masks.texts == (("1 1", ""), ("", ""))
    assert "without masks: none" in " ".join(gated.notes)


def test_rows_without_a_probability_stay_and_are_named(three, tmp_path):
    masks, _ = three
    probs = write_probs(
        tmp_path / "some.csv", ["x.jpg", "a.jpg", "c.png"],
        [[0.9] * 4, [0.0] * 4, [0.0] * 4],
    )  # fmt: skip
    gated = gate(masks, probs, thresholds=0.5)
    before = read_mask_sheet(masks)
    assert gated.masks.texts == (("",) * 4, before.texts[1], before.texts[2])
    assert gated.ungated == ("b.jpg", "c.jpg")
    assert counts(gated)["Sugar"] == (1, 0, 1, 0)
    told = " ".join(gated.notes)
    assert "2 of 3 images have no probability and stay as they are: 'b.jpg', 'c.jpg'" in told
    assert "differ only by their extension ('c.jpg' and 'c.png')" in told


def test_unreadable_images_stay_and_are_named(three, tmp_path):
    masks, _ = three
    probs = write_probs(
        tmp_path / "torn.csv", ["a.jpg", "b.jpg", "c.jpg"],
        [[0.0] * 4, [NAN] * 4, [0.0] * 4], errors=(None, "truncated", None),
    )  # fmt: skip
    gated = gate(masks, probs, thresholds=0.5, at_least_one=True)
    assert gated.ungated == ("b.jpg",)
    assert gated.masks.texts[1] == read_mask_sheet(masks).texts[1]
    assert "1 images could not be predicted and stay as they are: 'b.jpg'" in " ".join(gated.notes)


def test_nothing_shared_is_an_error_with_a_reason(three, tmp_path):
    masks, _ = three
    probs = write_probs(tmp_path / "p.csv", [f"test/{key}.jpg" for key in "abc"], np.ones((3, 4)))
    with pytest.raises(AlignmentError, match=r"none of the 3 images.*3 of them differ only by the"):
        gate(masks, probs, thresholds=0.5)


def test_classes_are_matched_by_name_with_a_suggestion(three, tmp_path):
    masks, _ = three
    names = ("Sugar", "Gravell", "Fish", "Flower")
    probs = write_probs(tmp_path / "p.csv", ["a.jpg", "b.jpg", "c.jpg"], np.ones((3, 4)),
                        classes=names)  # fmt: skip
    with pytest.raises(AlignmentError, match="'Gravel'; did you mean 'Gravell'"):
        gate(masks, probs, thresholds=0.5)
    with pytest.raises(AlignmentError, match="'Gravel'; did you mean 'Gravell'"):
        gate(masks, probs, rule=thresholds_rule([0.5] * 4, classes=names))


def test_one_unnamed_class_takes_the_one_probability(tmp_path):
    masks = tmp_path / "m.csv"
    masks.write_text("id,rle_mask\na,1 1\nb,2 2\n", encoding="utf-8")
    probs = write_probs(tmp_path / "p.csv", ["a", "b"], [[0.1], [0.9]], classes=("salt",))
    gated = gate(masks, probs, thresholds=0.5)
    assert gated.masks.texts == (("",), ("2 2",))
    assert "'salt'" in " ".join(gated.notes)
    ruled = gate(masks, probs, rule=thresholds_rule([0.5], classes=("salt",)))
    assert ruled.masks.texts == gated.masks.texts
    assert "'salt' is taken for the one class" in " ".join(ruled.notes)


def test_one_probability_of_a_whole_image_closes_all_its_classes(three, tmp_path):
    masks, _ = three
    probs = write_probs(tmp_path / "p.csv", ["a.jpg", "b.jpg", "c.jpg"], [[0.9], [0.1], [0.5]],
                        classes=("defect",))  # fmt: skip
    gated = gate(masks, probs, thresholds=0.5)
    before = read_mask_sheet(masks)
    assert gated.masks.texts == (before.texts[0], ("",) * 4, before.texts[2])
    assert sum("'defect' is taken for the presence of any of the 4" in n for n in gated.notes) == 1
    ruled = gate(masks, probs, rule=thresholds_rule([0.5], classes=("defect",)))
    assert ruled.masks.texts == gated.masks.texts
    soft = gate(masks, probs, soft=True, min_area=2, factor=3)
    # At p = 0.1 that is 5.6 pixels, at 0.5 it is 4, and 2.4 at 0.9.
    assert soft.masks.texts == (
        ("1 3", "", "", "9 9"), ("", "", "", ""), ("", "4 4", "", "1 20"),
    )  # fmt: skip
    with pytest.raises(InputError, match=r"one probability for all 4 classes.*--at-least-one"):
        gate(masks, probs, thresholds=0.5, at_least_one=True)


def test_soft_gate_asks_less_area_of_the_sure(tmp_path):
    ids = [f"{n}.png" for n in range(5)]
    masks = write_masks(tmp_path / "m.csv", ids, [["1 50 90 50"]] * 4 + [[""]], classes=("d",))
    probs = write_probs(tmp_path / "p.csv", ids, [[1.0], [0.75], [0.74], [0.0], [1.0]],
                        classes=("d",))  # fmt: skip
    # 100 pixels: at 50 * (5 - 4 p) that is p = 0.75.
    gated = gate(masks, probs, soft=True, min_area=50)
    assert [bool(row[0]) for row in gated.masks.texts] == [True, True, False, False, False]
    assert counts(gated)["d"] == (2, 2, 0, 0)
    assert gate(masks, probs, soft=True, min_area={"d": 100}, factor=1).classes[0].kept == 4


def test_two_sided_gate_refills_from_the_second(three, tmp_path):
    masks, probs = three
    second = write_masks(
        tmp_path / "second.csv",
        ["c.jpg", "b.jpg", "a.jpg"],
        [["3 3", "8 8", "", "8 8"], ["8 8", "8 8", "8 8", ""], ["8 8", "6 1", "8 8", "8 8"]],
    )
    out = tmp_path / "out.csv"
    gated = gate(
        masks, probs, rule=thresholds_rule([0.5] * 4), refill=second,
        precision_rule=thresholds_rule([0.9] * 4), out=out,
    )  # fmt: skip
    assert gated.masks.texts == (
        ("", "6 1", "5 2", "9 9"), ("1 1", "", "", ""), ("3 3", "4 4", "", ""),
    )  # fmt: skip
    assert [c.refilled for c in gated.classes] == [1, 1, 0, 0]
    assert [c.after for c in gated.classes] == [2, 2, 1, 1]
    assert "1 mask(s) were to be refilled, but the second has none" in " ".join(gated.notes)
    assert read_mask_sheet(out).texts == gated.masks.texts
    assert read_keys(out) == read_keys(masks)


def test_second_submission_that_lacks_images_or_classes(three, tmp_path):
    masks, probs = three
    options = {"thresholds": 0.1, "precision_thresholds": 0.5}
    part = write_masks(tmp_path / "s.csv", ["a.jpg"], [["8 8"] * 4])
    gated = gate(masks, probs, refill=part, **options)
    assert gated.masks.texts[0][1] == "8 8"
    assert "lacks 2 image(s): 'b.jpg', 'c.jpg'" in " ".join(gated.notes)
    other = write_masks(tmp_path / "o.csv", ["img/a.jpg"], [["8 8"] * 4])
    with pytest.raises(AlignmentError, match=r"none of the 3 images.*by their folder"):
        gate(masks, probs, refill=other, **options)
    few = write_masks(tmp_path / "f.csv", ["a.jpg"], [["8 8"] * 3], classes=CLASSES[:3])
    with pytest.raises(AlignmentError, match="1 of 4 classes have no masks in the second"):
        gate(masks, probs, refill=few, **options)


def test_rows_are_not_added_to_a_file_of_positives(tmp_path):
    masks, second, out = (tmp_path / f"{name}.csv" for name in ("m", "s", "o"))
    masks.write_text("ImageId,ClassId,EncodedPixels\nb,2,5 5\na,1,1 1\na,2,-1\n", encoding="utf-8")
    second.write_text("ImageId,ClassId,EncodedPixels\na,2,7 7\nb,1,7 7\n", encoding="utf-8")
    probs = write_probs(
        tmp_path / "p.csv", ["a", "b", "c"], [[0.1, 0.9], [0.9, 0.9], [0, 0]], classes=("1", "2")
    )
    gated = gate(masks, probs, thresholds=0.5, refill=second, precision_thresholds=0.8, out=out)
    assert out.read_text(encoding="utf-8") == (
        "ImageId,ClassId,EncodedPixels\nb,2,5 5\na,1,-1\na,2,7 7\n"
    )
    assert counts(gated) == {"1": (1, 0, 0, 0), "2": (0, 1, 0, 1)}
    told = " ".join(gated.notes)
    assert "1 mask(s) were to be refilled, but the submission has no row" in told
    assert "1 images are not in the submission" in told


def test_masks_for_other_sizes_do_not_refill(three):
    masks, probs = three
    small, large = (read_mask_sheet(masks, sizes=size) for size in ((10, 10), (20, 10)))
    options = {"thresholds": 0.1, "precision_thresholds": 0.5}
    with pytest.raises(AlignmentError, match=r"3 image\(s\) have another size"):
        gate(small, probs, refill=large, **options)
    assert gate(small, probs, refill=masks, **options).masks.sizes is not None


def test_a_file_that_loses_no_mask_is_the_same_byte_by_byte(three, tmp_path):
    masks, probs = three
    masks.write_bytes(masks.read_bytes().replace(b"\n", b"\r\n"))
    gate(masks, probs, thresholds=0.0, out=tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_bytes() == masks.read_bytes()


def test_at_least_one_class_stays_open(three):
    gated = gate(*three, thresholds=0.95, at_least_one=True)
    # The likeliest class of a and b has no mask of its own.
    assert gated.masks.texts == (("",) * 4, ("",) * 4, ("",) * 4)
    masks, probs = three
    sheet = read_sheet_file(probs, classes=CLASSES, exclusive=False)
    sheet = replace(sheet, probs=sheet.probs[:, ::-1])
    gated = gate(masks, sheet, thresholds=0.95, at_least_one=True)
    assert gated.masks.texts == (("", "", "5 2", ""), ("1 1", "", "", ""), ("", "", "", "1 20"))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "there is no rule at .*probs.rule.json"),
        ({"thresholds": 0.5, "rule": thresholds_rule([0.5] * 4)}, "expected one of them"),
        ({"soft": True}, "--min-area"),
        ({"soft": True, "min_area": 5, "thresholds": 0.5}, "a soft gate has no thresholds"),
        ({"thresholds": 0.5, "min_area": 5}, "for the soft gate"),
        ({"thresholds": 0.5, "refill": "x.csv"}, "--precision-rule"),
        ({"thresholds": 0.5, "precision_thresholds": 0.9}, "--refill"),
        ({"thresholds": NAN}, "from 0 on"),
        ({"rule": thresholds_rule([0.5] * 4, pool="max")}, "decides whole groups"),
        ({"rule": thresholds_rule([0.5] * 3, classes=CLASSES[:3])}, "'Sugar'"),
    ],
)
def test_what_contradicts_is_refused(three, options, told):
    with pytest.raises(InputError, match=told):
        gate(*three, **options)


def test_areas_are_those_of_the_decoded_masks():
    rng = np.random.default_rng(0)
    texts = [[encode_rle(rng.random((7, 11)) < share) for share in (0, 0.3, 1)] for _ in range(4)]
    expected = [[decode_rle(text, 7, 11).sum() for text in row] for row in texts]
    assert measure_areas(texts).tolist() == expected
    for wrong in ("1 2 3", "a b", "1 -2"):
        with pytest.raises(MaskError, match="run-length text"):
            measure_areas([[wrong]])


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_gate_only_removes_but_for_empty_pairs(tmp_path_factory, seed, refill):
    rng = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("gate")
    ids = [f"{n}.jpg" for n in range(5)]
    texts = np.where(rng.random((5, 4)) < 0.5, "1 5", "").tolist()
    masks = write_masks(folder / "m.csv", ids, texts)
    other = write_masks(folder / "s.csv", ids, [["7 7"] * 4] * 5)
    known = rng.permutation(5)[: rng.integers(1, 6)]
    probs = rng.random((len(known), 4))
    sheet = write_probs(folder / "p.csv", [ids[n] for n in known], probs)
    more = {"refill": other, "precision_thresholds": 0.6} if refill else {}
    gated = gate(masks, sheet, thresholds=0.4, **more)
    for row, key in enumerate(ids):
        for at in range(4):
            before, after = texts[row][at], gated.masks.texts[row][at]
            if row not in known:
                assert after == before
                assert key in gated.ungated
            elif before:
                assert after in ("", before)
            else:
                assert after == ("7 7" if refill and probs[list(known).index(row), at] >= 0.6
                                 else "")  # fmt: skip
    total = sum(bool(text) for row in gated.masks.texts for text in row)
    assert total == sum(c.after for c in gated.classes)
    assert sum(c.before for c in gated.classes) == sum(bool(t) for row in texts for t in row)


def test_out_of_fold_rows_are_decided_by_the_rules_fitted_without_them(tmp_path):
    sheet = make_predictions(400, 2, exclusive=False, quality=0.85, folds=4, seed=3)
    names, ids = ("a", "b"), tuple(f"{n}.png" for n in range(400))
    evidence = make_evidence(
        sheet.targets, [sheet.probs], exclusive=False, classes=names,
        ids=ids, folds=sheet.folds,
    )  # fmt: skip
    decision = decide_evidence(evidence, Request(goals={"": "recall:0.9"}), resamples=0)
    probs = write_probs(tmp_path / "oof.csv", ids, held_out_probs(evidence),
                        classes=names, folds=np.asarray(sheet.folds, np.int16))  # fmt: skip
    write_decision(decision, place_rule(probs), source=str(probs))
    masks = write_masks(tmp_path / "m.csv", ids, [["1 1"] * 2] * 400, classes=names)
    gated = gate(masks, probs)
    there = np.array([[bool(text) for text in row] for row in gated.masks.texts])
    for part, rule in enumerate(decision.part_rules):
        rows = np.flatnonzero(evidence.parts == part)
        expected = apply_rule(rule, sheet.probs[rows], classes=names).decisions
        assert (there[rows] == expected).all()
    final = apply_rule(decision.rule, sheet.probs, classes=names).decisions
    assert (there != final).any()
    assert "each fold is decided by the rule fitted without it" in " ".join(gated.notes)
    assert gated.stamps == ()
    # Without folds in the file the same rule flatters, and that is said.
    bare = write_probs(probs, ids, sheet.probs, classes=names)
    gated = gate(masks, bare)
    assert "fitted on these very rows" in " ".join(gated.stamps)
    there = np.array([[bool(text) for text in row] for row in gated.masks.texts])
    assert (there == final).all()


def test_a_whole_submission_is_gated_in_seconds(tmp_path):
    rng = np.random.default_rng(0)
    ids = [f"{n:07x}.jpg" for n in range(3698)]
    # Rectangles at 350 x 525 have a run in each column.
    long = [" ".join(f"{350 * c + 5} {200 + n}" for c in range(60 + 40 * n)) for n in range(9)]
    pick = rng.integers(0, 9, (3698, 4))
    pick[rng.random((3698, 4)) < 0.45] = -1
    texts = [[long[n] if n >= 0 else "" for n in row] for row in pick]
    masks = write_masks(tmp_path / "m.csv", ids, texts)
    probs = write_probs(tmp_path / "p.csv", ids[::-1], rng.random((3698, 4)))
    for more in ({"thresholds": 0.4}, {"soft": True, "min_area": 12_000}):
        began = time.perf_counter()
        gated = gate(masks, probs, out=tmp_path / "out.csv", **more)
        assert time.perf_counter() - began < 5
        assert read_keys(tmp_path / "out.csv") == read_keys(masks)
        assert sum(c.emptied for c in gated.classes) > 1000
