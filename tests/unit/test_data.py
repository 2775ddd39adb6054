import numpy as np
import pytest
import torch

from loupe.augment import parse_steps
from loupe.caching import Pixels
from loupe.data import Samples, load_batches, order_batches, stack_images
from loupe.images import InputSpec

N = 13


@pytest.fixture
def samples():
    rng = np.random.default_rng(1)
    cache = rng.integers(0, 256, (N, 8, 8, 3), dtype=np.uint8)
    return Samples(
        pixels=Pixels((), InputSpec(height=8, width=8), cache),
        ids=tuple(f"{i}.png" for i in range(N)),
        targets=np.eye(N, dtype=np.float32),
        weights=np.arange(1, N + 1, dtype=np.float32),
        steps=parse_steps(["HorizontalFlip", {"Rotate": {"limit": 40, "p": 1.0}}, "GaussNoise"]),
        seed=4,
    )


def order(rows=None, *, seed=0, epoch=0, size=4):
    rows = np.arange(10, 23) if rows is None else rows
    return [batch.tolist() for batch in order_batches(rows, seed=seed, epoch=epoch, size=size)]


def test_the_order_follows_from_seed_and_epoch():
    assert order() == order()
    assert len({str(order(seed=s, epoch=e)) for s in range(3) for e in range(3)}) == 9


def test_batches_are_full_and_hold_each_row_at_most_once():
    batches = order()
    assert [len(batch) for batch in batches] == [4, 4, 4]
    flat = [row for batch in batches for row in batch]
    assert len(set(flat)) == 12
    assert set(flat) <= set(range(10, 23))


def test_the_rows_left_out_change_so_that_all_are_seen():
    seen = {row for epoch in range(30) for batch in order(epoch=epoch) for row in batch}
    assert seen == set(range(10, 23))


def test_few_rows_make_one_smaller_batch():
    (batch,) = order(np.array([5, 6, 7]), size=8)
    assert sorted(batch) == [5, 6, 7]
    assert [len(b) for b in order(np.arange(8), size=4)] == [4, 4]


def test_batches_do_not_depend_on_the_number_of_threads(samples):
    batches = order_batches(np.arange(N), seed=0, epoch=0, size=3)
    one = list(load_batches(samples, batches, epoch=2, workers=1))
    three = list(load_batches(samples, batches, epoch=2, workers=3))
    assert len(one) == len(three) == 4
    for a, b, rows in zip(one, three, batches, strict=True):
        assert torch.equal(a.inputs, b.inputs)
        assert torch.equal(a.targets, torch.eye(N)[rows])
        assert torch.equal(b.weights, torch.from_numpy(rows + 1).float())
        assert a.inputs.dtype == torch.uint8
        assert a.inputs.shape == (3, 8, 8, 3)


def test_an_image_is_changed_alike_in_any_batch(samples):
    row = np.array([7])
    (alone,) = load_batches(samples, [row], epoch=0, workers=1)
    (among,) = load_batches(samples, [np.array([3, 7, 1])], epoch=0, workers=1)
    (later,) = load_batches(samples, [row], epoch=1, workers=1)
    assert torch.equal(alone.inputs[0], among.inputs[1])
    assert not torch.equal(alone.inputs, later.inputs)
    assert not torch.equal(alone.inputs, stack_images(samples.pixels, row))


def test_without_steps_images_are_as_they_are(samples):
    from dataclasses import replace

    plain = replace(samples, steps=(), weights=None)
    rows = np.array([2, 0])
    (batch,) = load_batches(plain, [rows], epoch=0, workers=1)
    assert torch.equal(batch.inputs, stack_images(samples.pixels, rows))
    assert batch.weights is None


def test_an_error_reaches_the_caller_and_stops_the_threads(samples):
    with pytest.raises(IndexError):
        list(load_batches(samples, [np.array([0]), np.array([99])], epoch=0, workers=2))
    stream = load_batches(samples, [np.array([0])] * 50, epoch=0, workers=2)
    next(stream)
    stream.close()
