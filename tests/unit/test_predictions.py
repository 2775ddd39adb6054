from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from loupe.errors import AlignmentError
from loupe.predictions import (
    Predictions,
    average_sheets,
    decide_plainly,
    read_predictions,
    write_predictions,
)

NAN = float("nan")


def sheet(probs, *, exclusive=False, held_out=None, **more):
    probs = np.array(probs, np.float32)
    n, c = probs.shape
    return Predictions(
        ids=tuple(f"{i}.png" for i in range(n)),
        classes=tuple("abc"[:c]),
        probs=probs,
        exclusive=exclusive,
        held_out=np.ones(n, np.bool_) if held_out is None else np.array(held_out),
        **more,
    )


def test_a_plain_decision_is_the_largest_or_half_and_above():
    alone = sheet([[0.5, 0.49], [NAN, NAN], [0.9, 0.6]])
    assert decide_plainly(alone).tolist() == [[True, False], [False, False], [True, True]]
    one = sheet([[0.4, 0.35, 0.25], [NAN, NAN, NAN]], exclusive=True)
    assert decide_plainly(one).tolist() == [[True, False, False], [False, False, False]]
    assert one.readable.tolist() == [True, False]


def test_an_average_is_the_mean_and_held_out_only_if_all_are():
    first = sheet([[0.2], [0.8], [NAN]], held_out=[True, True, False])
    second = sheet([[0.4], [0.5], [NAN]], held_out=[True, False, False])
    mean = average_sheets([first, second])
    np.testing.assert_allclose(mean.probs[:2, 0], [0.3, 0.65], atol=1e-7)
    assert np.isnan(mean.probs[2, 0])
    assert mean.held_out.tolist() == [True, False, False]
    assert mean.probs.dtype == np.float32


def test_sheets_that_differ_are_not_averaged():
    first = sheet([[0.2], [0.8]])
    with pytest.raises(AlignmentError, match=r"'0\.png' / 'x'"):
        average_sheets([first, replace(first, ids=("x", "1.png"))])
    with pytest.raises(AlignmentError, match="2 and 1 rows"):
        average_sheets([first, sheet([[0.2]])])
    with pytest.raises(AlignmentError, match="classes differ"):
        average_sheets([first, replace(first, classes=("z",))])


@pytest.mark.parametrize("probs", [np.zeros((2, 2)), np.zeros((3, 1)), np.zeros(2)])
def test_a_sheet_has_a_row_an_id_and_a_column_a_class(probs):
    with pytest.raises(AlignmentError, match="shape"):
        replace(sheet([[0.2], [0.8]]), probs=probs.astype(np.float32))


def test_parquet_gives_back_every_member(tmp_path):
    folds = np.array([1, 0], np.int16)
    a = sheet([[0.25, 1 / 3], [NAN, NAN]], folds=folds, errors=(None, "cut off"))
    b = replace(a, probs=a.probs / 2, held_out=np.array([False, True]), errors=(None, None))
    targets = np.array([[1, 0], [0, 1]], np.float32)
    path = tmp_path / "oof.parquet"
    write_predictions(path, {"z": a, "a": b}, targets)
    found = read_predictions(path)
    assert list(found) == ["z", "a"]
    for given, read in ((a, found["z"]), (b, found["a"])):
        np.testing.assert_array_equal(read.probs, given.probs)
        assert read.held_out.tolist() == given.held_out.tolist()
        assert read.folds.tolist() == [1, 0]
        assert (read.ids, read.classes, read.exclusive) == (given.ids, given.classes, False)
        assert read.errors == given.errors
    columns = pq.read_table(path).column_names
    head = ["id", "fold", "member", "held_out", "error"]
    assert columns == [*head, "prob:a", "prob:b", "target:a", "target:b"]
    assert pq.read_table(path)["target:b"].to_pylist() == [0, 1, 0, 1]
