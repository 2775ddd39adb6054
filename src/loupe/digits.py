"""Digits: long rows of whole numbers as text, and back, many at once.

Owns the spelling of numbers that makes up most of the time of run-length text. It
must not know what the numbers mean; whoever calls says what is wrong with a text.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]
UInt32 = NDArray[np.uint32]

_BLANKS = b" \t\r\n\f\v"
_FEW_NUMBERS = 600
"""Below, one call of Python's own is faster than a dozen of NumPy's."""
_FEW_LETTERS = 4000
_PIECE = 2**19
_MARGIN = b" " * 8
_KEPT = np.array([0x0F0F0F0F0F0F0F0F >> 8 * (8 - n) << 8 * (8 - n) for n in range(9)], "<u8")
"""For a number of n digits at the end of eight letters: what of them is a digit's value."""
_FOLDS = tuple(
    (np.uint64(10 ** (bits // 8) << bits | 1), np.uint64(bits), np.uint64(kept))
    for bits, kept in ((8, 0x00FF00FF00FF00FF), (16, 0x0000FFFF0000FFFF), (32, 0xFFFFFFFF))
)
_BASE = 10_000
_TOP = 1_000
_BLANK, _ZERO, _NINE = b" 09"


def spell_numbers(numbers: Int64) -> str:
    """Spell rows of numbers, parted by single blanks.

    Args:
        numbers: Not negative. The columns are spelled by themselves, so that one of
            short numbers costs little beside one of long ones.

    Shape:
        numbers: (R, K).

    Returns:
        The rows one after the other; "" for no rows.

    Examples:
        >>> spell_numbers(np.array([[1, 20], [345, 6]]))
        '1 20 345 6'
    """
    if numbers.size < _FEW_NUMBERS or int(numbers.max()) >= 2**32:
        # One format is twice as fast as joining the text of each number.
        return ("%d " * numbers.size % tuple(numbers.ravel().tolist()))[:-1]
    words = [word for column in numbers.T for word in _spell_column(column)]
    sheet = np.empty((len(numbers), len(words)), "<u4")
    for at, word in enumerate(words):
        sheet[:, at] = word
    return sheet.tobytes().translate(None, b"\0")[1:].decode("ascii")


def read_numbers(text: str) -> Int64 | None:
    r"""Read whole numbers that are parted by blanks.

    Args:
        text: ASCII digits and blanks (also tabs and line ends), of any length.

    Returns:
        (n,) numbers, none for a blank text; None if it holds anything but digits
        and blanks. A number beyond 64 bits becomes the largest that fits.

    Examples:
        >>> read_numbers(" 7 12\n003").tolist()
        [7, 12, 3]
        >>> read_numbers("7 -1") is None, read_numbers("7.0 1") is None
        (True, True)
    """
    raw = text.encode("ascii", "replace")
    if len(raw) >= _FEW_LETTERS:
        return _read_long(raw)
    digits = raw.translate(None, _BLANKS)
    if not digits:
        return np.zeros(0, np.int64)
    # Of anything but digits and blanks, `fromstring` would read no more than the head.
    if not digits.isdigit():
        return None
    return np.fromstring(raw, np.int64, sep=" ")


@functools.cache
def _spell_table() -> tuple[UInt32, UInt32]:
    """Return 4 digits as one word, and a blank with up to 3 digits as one.

    The first table holds numbers below 10,000 without leading zeros, then those with
    them; 0 stands for no letter.
    """
    numbers = np.arange(_BASE, dtype=np.int64)
    full = np.stack([numbers // 10**k % 10 + _ZERO for k in (3, 2, 1, 0)], axis=1).astype(np.uint8)
    bare = full.copy()
    for place, least in enumerate((1000, 100, 10)):
        bare[numbers < least, place] = 0
    head = bare[:_TOP].copy()
    head[:, 0] = _BLANK
    words = np.concatenate([bare, full])
    return words.view("<u4").ravel(), head.view("<u4").ravel()


def _spell_column(column: Int64) -> list[UInt32]:
    """Return words of 4 letters for each number: a blank first, 0 for no letter."""
    words, head = _spell_table()
    rest = column.astype(np.uint32)
    most = int(rest.max())
    if most < _TOP:
        return [head[rest]]
    spelled: list[UInt32] = []
    while most >= _TOP:
        above = rest // np.uint32(_BASE)
        rest -= above * np.uint32(_BASE)
        # With something above it, a word keeps its leading zeros.
        rest += (above > 0) * np.uint32(_BASE)
        word = words[rest]
        if spelled:
            word[rest == 0] = 0
        spelled.append(word)
        rest, most = above, most // _BASE
    word = head[rest]
    word[rest == 0] = _BLANK
    return [word, *reversed(spelled)]


def _read_long(raw: bytes) -> Int64 | None:
    read: list[Int64] = []
    start = 0
    while start < len(raw):
        # Pieces that stay in the processor's cache are read twice as fast.
        stop = raw.find(b" ", start + _PIECE) + 1 or len(raw)
        piece = _read_piece(_MARGIN + raw[start:stop] + b" ")
        if piece is None:
            return None
        read.append(piece)
        start = stop
    return np.concatenate(read)


def _read_piece(raw: bytes) -> Int64 | None:
    """Read numbers between blanks, eight letters at a time."""
    letters = np.frombuffer(raw, np.uint8)
    ends = np.flatnonzero(letters < _ZERO)
    between = letters[ends]
    blank = (between == _BLANK).all() or np.isin(between, list(_BLANKS)).all()
    if not blank or letters.max() > _NINE:
        return None
    ends = ends[len(_MARGIN) - 1 :]
    lengths = np.diff(ends)
    lengths -= 1
    ends = ends[1:]
    if not lengths.all():
        ends, lengths = ends[lengths > 0], lengths[lengths > 0]
    if lengths.max(initial=0) > len(_MARGIN):
        return np.fromstring(raw, np.int64, sep=" ")
    words = np.ndarray((len(raw) - 7,), "<u8", raw, strides=(1,))[ends - 8]
    words &= _KEPT[lengths]
    # Digits to pairs, pairs to fours, fours to eights: the first letter is the lowest byte.
    for factor, shift, kept in _FOLDS:
        words *= factor
        words >>= shift
        words &= kept
    return words.view(np.int64)
