"""COCO's forms: agreement with strings and drawings that COCO's own tool made."""

import numpy as np
import pytest

from loupe.cocomasks import (
    decode_coco,
    decode_counts,
    encode_coco,
    encode_counts,
    find_polygon,
    pack_counts,
    read_coco_rle,
    spell_coco,
    unpack_counts,
)
from loupe.errors import MaskError
from loupe.maskruns import fill_runs
from loupe.masks import decode_rle, encode_rle

# Made with pycocotools 2.0.11: (seed, share of pixels, height, width) to its string.
STRINGS = {
    (0, 0.5, 7, 9): "2110010O141MNO011OO01011NO0021OOO00023",
    (1, 0.1, 13, 10): "c0140c00N0\\O16Ol00oN07",
    (2, 0.9, 12, 9): "0:1M0K0P10\\O0M0F1?OD",
    (
        3,
        0.0001,
        300,
        400,
    ): "oT21XY50]TL0aS10TmM0[_20bX20VZ20h]I0T30oe00d^30^WL0SXh00^e50hYSO0i]10Ui70dmG",
    (4, 0.0, 5, 6): "n0",
    (5, 1.0, 5, 6): "0n0",
}

# Made with pycocotools 2.0.11: a polygon in 12 x 16 pixels, and the runs of what it draws.
POLYGONS = [
    ([1, 1, 9, 1, 9, 7, 1, 7], "14 6 26 6 38 6 50 6 62 6 74 6 86 6 98 6"),
    ([2.5, 1.5, 13.5, 4.5, 6, 11], "39 2 51 5 63 8 76 7 88 7 100 6 112 5 125 3 137 2 149 1"),
    ([-3, -2, 8, 5, 20, 30, 1, 9], "1 7 14 8 26 10 39 10 52 9 64 9 77 8 90 7 103 6 117 4 131 2"),
    ([0, 0, 16, 0, 16, 12, 0, 12], "1 192"),
    (
        [3, 3, 12, 9, 3, 9, 12, 3],
        "52 1 57 1 64 2 68 2 76 2 80 2 88 6 100 2 104 2 112 2 116 2 124 1 129 1",
    ),
    ([5, 5, 5, 5, 9, 5, 9, 9, 5, 9], "66 4 78 4 90 4 102 4"),
    ([4.4, 4.4, 4.5, 4.4, 4.5, 4.5], ""),
    (
        [1, 1, 14, 1, 14, 10, 7, 3, 1, 10],
        "14 8 26 7 38 6 50 5 62 4 74 2 86 2 98 3 110 4 122 5 134 6 146 7 158 8",
    ),
]


@pytest.mark.parametrize(("made", "counts"), STRINGS.items())
def test_strings_are_those_of_cocos_own_tool(made, counts):
    seed, share, height, width = made
    mask = np.random.default_rng(seed).random((height, width)) < share
    packed = encode_coco(mask)
    assert packed == {"size": [height, width], "counts": counts}
    np.testing.assert_array_equal(decode_coco(packed), mask)
    np.testing.assert_array_equal(decode_coco(packed | {"counts": counts.encode()}), mask)
    np.testing.assert_array_equal(decode_counts(encode_counts(mask), height, width), mask)
    text = encode_rle(mask)
    assert spell_coco(text, height, width) == packed
    assert read_coco_rle(packed) == text


@pytest.mark.parametrize(("points", "text"), POLYGONS)
def test_polygons_are_drawn_pixel_by_pixel_as_by_cocos_own_tool(points, text):
    drawn = fill_runs(find_polygon(points, 12, 16), 12, 16)
    np.testing.assert_array_equal(drawn, decode_rle(text, 12, 16))


def test_counts_start_outside_and_ours_start_at_one():
    mask = np.array([[1, 0], [1, 1]], bool)
    assert encode_counts(mask) == [0, 2, 1, 1]
    assert encode_rle(mask) == "1 2 4 1"
    assert encode_counts(np.zeros((2, 3), bool)) == [6]
    assert encode_counts(np.ones((2, 3), bool)) == [0, 6]
    assert read_coco_rle({"size": [2, 3], "counts": [0, 2, 0, 4]}) == "1 6"
    assert not decode_counts([], 2, 3).any()


@pytest.mark.parametrize("counts", [[0], [10**9, 1, 2, 10**9], [5, 0, 40000], [1, 2, 3] * 50])
def test_packing_is_undone(counts):
    assert unpack_counts(pack_counts(counts)).tolist() == counts


@pytest.mark.parametrize(
    ("segmentation", "expected"),
    [
        ({"counts": [4]}, r"size None; expected \[height, width\]"),
        ({"size": [2, 0], "counts": [4]}, r"size \[2, 0\]; expected"),
        ({"size": [2, 2]}, "without counts"),
        ({"size": [2, 2], "counts": [1.5, 2.5]}, "without counts"),
        ({"size": [2, 2], "counts": [1, 2]}, "add up to 3; expected .* 4 pixels .* 2 x 2"),
        ({"size": [2, 2], "counts": [5, -1]}, "counts of -1; expected counts from 0 on"),
        ({"size": [2, 2], "counts": "4 "}, "expected letters from '0' to 'o'"),
        ({"size": [2, 2], "counts": "4P"}, "the last of them below 'P'"),
        ({"size": [2, 2], "counts": "P" * 12 + "0"}, "a number of 13 letters"),
    ],
)
def test_run_lengths_that_are_no_mask_are_refused(segmentation, expected):
    with pytest.raises(MaskError, match=expected):
        decode_coco(segmentation)


def test_text_beyond_the_image_and_odd_polygons_are_refused():
    with pytest.raises(MaskError, match="reaches pixel 5, but an image of 2 x 2"):
        spell_coco("4 2", 2, 2)
    for points in ([1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, float("nan")], ["x"] * 6):
        with pytest.raises(MaskError, match="expected x and y of three points"):
            find_polygon(points, 5, 5)
    with pytest.raises(MaskError, match="no image has as many pixels"):
        pack_counts([2**60])
