"""Faults of run-length text in words, and suspicions of a whole sheet."""

import numpy as np
import pytest

from loupe.errors import MaskError
from loupe.maskfaults import find_faults, list_faults, suspect_layout
from loupe.masks import decode_rle, encode_rle

FAULTY = [
    ("1", ["1 number(s) do not make pairs"]),
    ("1 2 3", ["3 number(s) do not make pairs"]),
    ("1 x", ["'x' is not a whole number"]),
    ("a 2 b 1", ["'a', 'b' are not whole numbers"]),
    ("1 -2 3", ["'-2' is not a whole number", "3 number(s) do not make pairs"]),
    ("1.0 2", ["'1.0' is not a whole number"]),
    ("\u0661 2", ["is not a whole number"]),
    ("0 2", ["1 run(s) start at pixel 0"]),
    ("1 0", ["run(s) of no pixel, at pixel 1"]),
    ("5 2 1 2", ["the run from pixel 1 follows one that ends at pixel 6"]),
    ("1 3 3 1", ["the run from pixel 3 follows one that ends at pixel 3"]),
    ("1 5 2 2 3 2", ["ends at pixel 5, and 1 more such"]),
    ("10 3", ["pixel 12 lies behind the last, 9, of an image of 3 x 3"]),
    ("1 99999999999999999999", ["lies behind the last"]),
    ("0 0 9 9 2 1", ["start at pixel 0", "of no pixel", "the run from pixel 2", "lies behind"]),
]


@pytest.mark.parametrize(("text", "expected"), FAULTY)
def test_every_fault_is_told_and_the_codec_refuses_the_text(text, expected):
    told = list_faults(text, 3, 3)
    assert len(told) == len(expected)
    for part, sentence in zip(expected, told, strict=True):
        assert part in sentence
    with pytest.raises(MaskError):
        decode_rle(text, 3, 3)


@pytest.mark.parametrize("text", ["", " ", "1 9", "1 2 3 2", "9 1", " 1  1\n4 1 "])
def test_valid_text_has_no_fault(text):
    assert list_faults(text, 3, 3) == ()
    decode_rle(text, 3, 3)


def test_many_texts_are_judged_as_each_alone():
    texts = ["1 9", "", *(text for text, _ in FAULTY), " ", "1  1", "2 2"]
    one_by_one = {at: list_faults(t, 3, 3) for at, t in enumerate(texts) if list_faults(t, 3, 3)}
    assert find_faults(texts, [(3, 3)] * len(texts)) == one_by_one
    # Without the odd words all are read together, which is another way.
    plain = [t for t in texts if t.isascii() and (t.replace(" ", "").isdigit() or not t.strip())]
    assert find_faults(plain, [(3, 3)] * len(plain)) == {
        at: list_faults(t, 3, 3) for at, t in enumerate(plain) if list_faults(t, 3, 3)
    }


def test_sizes_belong_to_their_own_text():
    texts = ["9 1", "9 1", "4 1"]
    assert list(find_faults(texts, [(3, 3), (2, 4), (2, 2)])) == [1]
    assert find_faults(texts) == {}


def draw(height, width):
    mask = np.zeros((height, width), bool)
    rows, columns = np.ogrid[:height, :width]
    mask |= ((rows - height / 2) / 20) ** 2 + ((columns - width / 3) / 25) ** 2 < 1
    mask[5:12, width // 2 : width - 5] = True
    return mask


def test_masks_along_rows_or_of_another_size_are_suspected():
    texts = [encode_rle(draw(80, 120))] * 3
    assert suspect_layout(texts, 80, 120) == ""
    assert "as rows of 120 x 80 images do" in suspect_layout(texts, 120, 80)
    assert "as rows of 80 x 120 images do" in suspect_layout([encode_rle(draw(80, 120).T)], 80, 120)
    assert "made for images 80 pixels high?" in suspect_layout(texts, 320, 480)


def test_nothing_is_suspected_of_square_scattered_or_few_masks():
    rng = np.random.default_rng(0)
    noise = encode_rle(rng.random((80, 120)) < 0.3)
    assert suspect_layout([noise], 80, 120) == ""
    assert suspect_layout([noise], 120, 80) == ""
    assert suspect_layout([encode_rle(draw(90, 90).T)], 90, 90) == ""
    assert suspect_layout(["1 5 81 5", "", "3 3"], 120, 80) == ""
    assert suspect_layout([], 120, 80) == ""
    # Two patches above each other start half a column apart.
    twins = np.zeros((80, 120), bool)
    twins[10:20, 20:90] = twins[50:60, 20:90] = True
    assert suspect_layout([encode_rle(twins)], 80, 120) == ""
