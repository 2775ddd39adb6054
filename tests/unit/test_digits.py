"""Numbers as text: the fast ways agree with Python's own."""

import numpy as np
import pytest

from loupe.digits import read_numbers, spell_numbers

EDGES = [0, 1, 9, 10, 999, 1000, 9999, 10_000, 10_001, 99_999_999, 100_000_000, 2**32 - 1]


@pytest.mark.parametrize("repeats", [1, 200])
@pytest.mark.parametrize("most", [999, 9999, 10**7 - 1, 2**32 - 1, 2**40])
def test_numbers_are_spelled_as_python_spells_them(repeats, most):
    numbers = np.array([min(n, most) for n in [*EDGES, most]] * repeats, np.int64)
    for sheet in (numbers[:, None], np.stack([numbers, numbers[::-1] % 1000], axis=1)):
        assert spell_numbers(sheet) == " ".join(map(str, sheet.ravel().tolist()))


def test_no_numbers_are_no_text():
    assert spell_numbers(np.zeros((0, 2), np.int64)) == ""
    assert read_numbers("").tolist() == []
    assert read_numbers(" " * 5000).tolist() == []


@pytest.mark.parametrize("repeats", [1, 2000, 40_000])
def test_numbers_are_read_as_python_reads_them(repeats):
    words = ["1", "22", "007", "99999999", "123456789", "4294967295"] * repeats
    wanted = list(map(int, words))
    assert read_numbers(" ".join(words)).tolist() == wanted
    assert read_numbers(" \n\t".join(words) + "\r\n").tolist() == wanted
    short = [word for word in words if len(word) <= 8]
    assert read_numbers(" ".join(short)).tolist() == list(map(int, short))


@pytest.mark.parametrize("repeats", [1, 4000])
@pytest.mark.parametrize("odd", ["-1", "1.0", "x", "1_0", "\u0661", "1e3", "+1", "\x00"])
def test_anything_but_digits_and_blanks_is_refused_wherever_it_stands(repeats, odd):
    words = ["12"] * repeats
    for at in (0, repeats // 2, repeats):
        assert read_numbers(" ".join([*words[:at], odd, *words[at:]])) is None


def test_numbers_beyond_64_bits_become_the_largest():
    for repeats in (1, 3000):
        numbers = read_numbers("9" * 30 + " 5" * repeats)
        assert numbers[0] == np.iinfo(np.int64).max
        assert numbers[-1] == 5
