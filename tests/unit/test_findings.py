"""What is noticed from facts and copies alone; kinds that need files are in test_checking."""

from pathlib import Path

import numpy as np
import pytest

from loupe.decoding import ImageFacts
from loupe.findings import list_findings
from loupe.table import Table


def list_large(copies):
    """Find what a sound table of one class is said to have, whose copies are these."""
    n = len(copies)
    ids = tuple(f"{row}.png" for row in range(n))
    table = Table(
        ids=ids,
        images=tuple(Path(name) for name in ids),
        classes=("crack",),
        targets=(np.arange(n) % 2).astype(np.float32)[:, None],
        exclusive=False,
    )
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
