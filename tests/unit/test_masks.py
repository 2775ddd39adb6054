"""Run-length text of masks: worked examples, exact round trips, strict reading."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from loupe.errors import MaskError
from loupe.masks import (
    decode_rle,
    decode_rle_rows,
    encode_rle,
    encode_rle_rows,
    join_rle,
    measure_rle,
    resize_mask,
    resize_masks,
    resize_rle,
)

bitmaps = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12))


def bits(text):
    return np.array([[int(c) for c in row.split()] for row in text.strip().splitlines()], bool)


# Two hand-made masks: every pixel of a run across columns, and the format's own example.
EXAMPLES = [
    (
        """
        1 0 0 1 0
        1 0 1 1 0
        1 0 1 0 0
        0 0 1 0 0
        """,
        "1 3 10 5",
    ),
    (
        """
        0 1 1 0
        0 1 1 0
        1 0 0 0
        """,
        "3 3 7 2",
    ),
]


@pytest.mark.parametrize(("drawn", "text"), EXAMPLES)
def test_the_worked_examples_are_met_both_ways(drawn, text):
    mask = bits(drawn)
    assert encode_rle(mask) == text
    decoded = decode_rle(text, *mask.shape)
    assert decoded.dtype == np.bool_
    np.testing.assert_array_equal(decoded, mask)


def test_empty_full_and_single_pixel_masks():
    assert encode_rle(np.zeros((3, 5), bool)) == ""
    for text in ("", " ", "\n"):
        assert decode_rle(text, 3, 5).shape == (3, 5)
        assert not decode_rle(text, 3, 5).any()
    full = np.ones((350, 525), bool)
    assert encode_rle(full) == "1 183750"
    assert decode_rle("1 183750", 350, 525).all()
    # Two whole columns of 3 pixels, one pixel above, and counting starts at 1.
    corner = np.zeros((3, 5), bool)
    corner[1, 2] = True
    assert encode_rle(corner) == "8 1"


def test_a_mask_read_by_rows_gives_other_text():
    mask = bits(EXAMPLES[1][0])
    assert encode_rle(mask.T) != encode_rle(mask)


def test_touching_runs_are_read_and_written_as_one():
    assert encode_rle(decode_rle("1 2 3 2", 4, 2)) == "1 4"


@given(bitmaps)
def test_what_was_encoded_decodes_to_itself(mask):
    np.testing.assert_array_equal(decode_rle(encode_rle(mask), *mask.shape), mask)


@given(bitmaps)
def test_the_runs_say_pixel_by_pixel_what_the_mask_says(mask):
    numbers = [int(word) for word in encode_rle(mask).split()]
    covered = {
        pixel
        for start, length in zip(numbers[::2], numbers[1::2], strict=True)
        for pixel in range(start, start + length)
    }
    height = mask.shape[0]
    expected = {row + height * column + 1 for row, column in zip(*np.nonzero(mask), strict=True)}
    assert covered == expected


@given(st.lists(hnp.arrays(np.bool_, (5, 4)), max_size=4))
def test_joined_text_covers_what_any_of_its_texts_covers(masks):
    joined = join_rle([encode_rle(mask) for mask in masks])
    union = np.any(masks, axis=0) if masks else np.zeros((5, 4), bool)
    np.testing.assert_array_equal(decode_rle(joined, 5, 4), union)
    assert joined == encode_rle(union)


def test_a_long_run_swallows_the_runs_within_it():
    assert join_rle(["1 20", "2 1 9 3", "25 1"]) == "1 20 25 1"


def test_a_text_that_is_alone_stays_as_it_is_written():
    assert join_rle(["", " 1 2 3 4 ", " "]) == "1 2 3 4"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", r"'1' has 1 part\(s\); expected an even"),
        ("1 2 3", r"has 3 part\(s\); expected an even"),
        ("1 x", "expected an even count of whole numbers"),
        ("1 -2", "expected an even count of whole numbers"),
        ("1.0 2", "expected an even count of whole numbers"),
        ("1 2_0", "expected an even count of whole numbers"),
        ("\u0661 \u0662", "expected an even count of whole numbers"),
        ("0 2", "numbers from 0 to 2; expected"),
        ("1 0", "numbers from 0 to 1; expected"),
        ("1 99999999999999999999", "expected pixels and lengths"),
        ("5 2 1 2", "the run from pixel 1 follows one that ends at 6"),
        ("1 3 3 1", "the run from pixel 3 follows one that ends at 3"),
        ("10 3", r"reaches pixel 12, but an image of 3 x 3 pixels .* has 9"),
    ],
)
def test_text_that_is_not_a_mask_is_refused(text, expected):
    with pytest.raises(MaskError, match=expected):
        decode_rle(text, 3, 3)


def test_errors_cite_long_text_in_short():
    with pytest.raises(MaskError) as caught:
        decode_rle("1 1 " * 1000, 3, 3)
    assert len(str(caught.value)) < 200


def test_joining_is_as_strict_within_a_text():
    with pytest.raises(MaskError, match="do not overlap"):
        join_rle(["1 3 3 1", "9 1"])


def test_only_two_dimensional_masks_of_bool_are_encoded():
    for mask in (np.zeros((2, 3), np.uint8), np.zeros((2, 3, 1), bool)):
        with pytest.raises(MaskError, match=r"expected \(height, width\) of bool"):
            encode_rle(mask)
    with pytest.raises(MaskError, match="at least 1 x 1"):
        decode_rle("", 0, 3)


@settings(max_examples=20)
@given(st.integers(0, 2**32))
def test_large_masks_survive_too(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((64, 200)) < rng.random()
    np.testing.assert_array_equal(decode_rle(encode_rle(mask), 64, 200), mask)


@pytest.mark.parametrize(("drawn", "text"), EXAMPLES)
def test_text_along_rows_is_that_of_the_turned_mask(drawn, text):
    mask = bits(drawn)
    assert encode_rle_rows(mask.T) == text
    np.testing.assert_array_equal(decode_rle_rows(text, *mask.shape[::-1]), mask.T)
    assert encode_rle_rows(mask) != text


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (700, 1), (97, 131), (64, 64)])
def test_few_and_many_runs_in_any_memory_layout_give_one_text(share, shape):
    """Each density takes another way through the codec; pixel by pixel they agree."""
    mask = np.random.default_rng(0).random(shape) < share
    flat = np.concatenate([[False], mask.T.ravel()])
    starts = np.flatnonzero(flat[1:] & ~flat[:-1]) + 1
    wide = np.zeros((2 * shape[0], 3 * shape[1]), bool)
    wide[::2, ::3] = mask
    text = encode_rle(mask)
    assert text.split()[::2] == [str(n) for n in starts.tolist()]
    assert encode_rle(np.asfortranarray(mask)) == text
    assert encode_rle(wide[::2, ::3]) == text
    assert encode_rle_rows(np.ascontiguousarray(mask.T)) == text
    np.testing.assert_array_equal(decode_rle(text, *shape), mask)
    assert measure_rle(text) == mask.sum()


def test_many_touching_runs_are_painted_as_they_are_written():
    # Many runs take another way than few; edges that two of them share are none.
    text = " ".join(f"{start} 2" for start in range(1, 200, 2)) + " 203 1"
    mask = decode_rle(text, 16, 16).T.ravel()
    assert mask[:200].all()
    assert mask[200:].nonzero()[0].tolist() == [2]


# Pixels of a 4 x 6 image that are kept at 2 x 3: rows 1 and 3, columns 1, 3 and 5.
def test_a_resized_mask_has_the_pixel_at_each_centre():
    mask = np.zeros((4, 6), bool)
    mask[1, 1] = mask[3, 5] = mask[0, 0] = mask[2, 3] = True
    expected = bits("1 0 0\n0 0 1")
    np.testing.assert_array_equal(resize_mask(mask, (2, 3)), expected)
    np.testing.assert_array_equal(resize_masks(np.stack([mask, ~mask]), (2, 3))[1], ~expected)
    assert resize_rle(encode_rle(mask), (4, 6), (2, 3)) == "1 1 6 1"


def test_masks_do_not_grow_at_the_size_of_a_submission():
    """Linear resizing that is cut above 0 grows each side; the nearest pixel does not."""
    mask = np.zeros((1400, 2100), bool)
    mask[401:999, 303:1201] = True
    mask[10:13, 40:2000] = True
    small = resize_mask(mask, (350, 525))
    assert abs(small.mean() / mask.mean() - 1) < 0.005
    assert resize_rle(encode_rle(mask), (1400, 2100), (350, 525)) == encode_rle(small)
    assert resize_rle("1 2940000", (1400, 2100), (350, 525)) == "1 183750"
    np.testing.assert_array_equal(resize_mask(resize_mask(small, (1400, 2100)), (350, 525)), small)


def test_resizing_refuses_what_is_no_mask_or_size():
    with pytest.raises(MaskError, match=r"expected \(\.\.\., height, width\) of bool"):
        resize_masks(np.zeros((2, 3), np.float32), (1, 1))
    with pytest.raises(MaskError, match=r"expected \(height, width\) of bool"):
        resize_mask(np.zeros((1, 2, 3), bool), (1, 1))
    for size in ((0, 3), (3, 0)):
        with pytest.raises(MaskError, match="at least 1 x 1"):
            resize_mask(np.zeros((2, 3), bool), size)
        with pytest.raises(MaskError, match="at least 1 x 1"):
            resize_rle("1 1", (2, 3), size)
    with pytest.raises(MaskError, match="reaches pixel 7"):
        resize_rle("7 1", (2, 3), (1, 1))
