"""What is noticed from facts and copies alone; kinds that need files are in test_checking."""

from pathlib import Path

import numpy as np
import pytest

from loupe.copies import CopyPair
from loupe.decoding import ImageFacts
from loupe.findings import list_findings
from loupe.table import Quarantined, Table


def make_table(n, **extras):
    """Make a sound table of one class."""
    ids = tuple(f"{row}.png" for row in range(n))
    return Table(
        ids=ids,
        images=tuple(Path(name) for name in ids),
        classes=("crack",),
        targets=(np.arange(n) % 2).astype(np.float32)[:, None],
        exclusive=False,
        **extras,
    )


def list_large(copies):
    """Find what a sound table of one class is said to have, whose copies are these."""
    table = make_table(len(copies))
    ids = table.ids
    facts = [ImageFacts(width=8, height=8, channels=3) for _ in ids]
    return list_findings(table, facts, [], copies)


def in_groups(n, *sizes):
    """Name the groups of n rows, the first ones of these sizes, the rest alone."""
    groups = [f"group {k}" for k, size in enumerate(sizes) for _ in range(size)]
    return groups + [f"{row}.png" for row in range(len(groups), n)]


@pytest.mark.parametrize(
    ("n", "sizes", "large"),
    [
        (49, (20,), []),
        (50, (5,), []),
        (50, (6,), ["group 0"]),
        (80, (9, 8, 10), ["group 0", "group 2"]),
    ],
)
def test_groups_above_a_tenth_of_fifty_rows_or_more_are_noted(n, sizes, large):
    found = list_large(in_groups(n, *sizes))
    assert [f.group for f in found] == large
    assert {(f.id, f.finding, f.severity) for f in found} <= {("", "large-group", "note")}


def test_the_note_on_a_large_group_says_how_to_go_on():
    (found,) = list_large(in_groups(100, 60))
    assert found.detail.startswith("60 of 100 rows look like copies of 'group 0'")
    assert found.detail.endswith("split with --group given.")


def list_colours(grey, coloured):
    """Find what is said of a table with so many grey and coloured pictures."""
    channels = [1] * grey + [3] * coloured
    facts = [ImageFacts(width=8, height=8, channels=c) for c in channels]
    table = make_table(len(facts))
    found = list_findings(table, facts, [], table.ids)
    return [(f.id, f.finding) for f in found if "colour" in f.finding]


@pytest.mark.parametrize(
    ("grey", "coloured", "expected"),
    [
        (20, 0, []),
        (0, 20, []),
        (1, 19, [("0.png", "grey-among-colour")]),
        (18, 2, [("18.png", "colour-among-grey"), ("19.png", "colour-among-grey")]),
        (4, 16, [("", "grey-and-colour")]),
        (10, 10, [("", "grey-and-colour")]),
    ],
)
def test_few_of_another_colour_are_named_and_a_mix_is_counted(grey, coloured, expected):
    assert list_colours(grey, coloured) == expected


def test_the_note_on_a_mix_has_both_counts():
    table = make_table(20)
    facts = [ImageFacts(width=8, height=8, channels=1 if row < 7 else 3) for row in range(20)]
    (found,) = list_findings(table, facts, [], table.ids)
    assert found.detail.startswith("7 grey and 13 coloured pictures")


def test_copies_of_the_bytes_are_told_from_copies_of_the_pixels():
    table = make_table(10)
    digests = ["a", "b", "a", *"cdefghi"]
    facts = [ImageFacts(width=8, height=8, channels=3, digest=d, pixels=d) for d in digests]
    pairs = [CopyPair(first=0, second=row, kind="equal", similarity=1.0) for row in (1, 2)]
    copies = ["0.png"] * 3 + list(table.ids[3:])
    # The labels of the rows differ; only what is said of the copies counts here.
    found = [f for f in list_findings(table, facts, pairs, copies) if f.finding == "equal-copy"]
    assert {f.id: f.detail.partition(";")[0] for f in found} == {
        "0.png": "same bytes as '2.png'",
        "1.png": "same pixels, in other bytes, as '0.png'",
        "2.png": "same bytes as '0.png'",
    }


def test_rows_set_aside_are_listed_with_their_reason():
    aside = (Quarantined(id="gone.png", reason="missing: there is no such file."),)
    table = make_table(10, quarantined=aside)
    facts = [ImageFacts(width=8, height=8, channels=3) for _ in range(10)]
    (found,) = list_findings(table, facts, [], table.ids)
    assert (found.id, found.finding, found.severity) == ("gone.png", "quarantined", "note")
    assert found.detail == "missing: there is no such file."
