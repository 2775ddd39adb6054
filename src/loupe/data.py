"""From rows to batches: pixels or features, random transforms, tensors, in a fixed order.

The order of an epoch and the transforms of an image are functions of (seed,
epoch) and (seed, epoch, id): batches, workers, jobs and a continued run do not
change them. It must not split, or know folds: it is given row numbers.

Shapes: B batch, H height, W width, C classes (channels of an image).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from loupe.augment import Steps, augment_image, augment_labelled, drops_masks, sample_rng
from loupe.caching import Pixels
from loupe.decoding import read_size
from loupe.errors import InputError, MaskError
from loupe.images import prepare_masks
from loupe.maskcrops import augment_masked
from loupe.masks import decode_rle
from loupe.table import Float32

Rows = NDArray[np.intp]
Texts = tuple[tuple[str, ...], ...]
_AHEAD = 4  # batches made ready while one is computed


@dataclass(frozen=True, slots=True, kw_only=True)
class Framed:
    """Masks to be learnt.

    Attributes:
        texts: (N, C) run-length text in the frame of the prepared images.
        crop: Height and width of the random crops that the network sees; None for all.
        nonempty: Of the crops of an image with masks, the share that must show one.
    """

    texts: Texts
    crop: tuple[int, int] | None
    nonempty: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """The rows a job may train on, and how they are changed at random.

    Attributes:
        pixels: Prepared images of all rows of the table.
        ids: (N,) ids; they seed the transforms.
        targets: (N, C) float32.
        weights: (N,) weights of the rows in the loss, or None.
        steps: Random transforms.
        seed: The recipe's.
        masks: (N, C) run-length text of what the labels mean, for `MaskDropout`; or None.
        framed: The masks, where these are what is learnt; None where labels are.
    """

    pixels: Pixels
    ids: tuple[str, ...]
    targets: Float32
    weights: Float32 | None
    steps: Steps
    seed: int
    masks: Texts | None = None
    framed: Framed | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """What a step takes in.

    Attributes:
        inputs: Images (B, H, W, C) uint8, or features (B, D).
        targets: Labels (B, C), or masks (B, C, H, W) uint8 of 0 and 1.
        weights: (B,) or None.
    """

    inputs: Tensor
    targets: Tensor
    weights: Tensor | None


def order_batches(rows: Rows, *, seed: int, epoch: int, size: int) -> list[Rows]:
    """Shuffle rows into batches of one size; what does not fill one is left out.

    Rows left out differ from epoch to epoch. Fewer rows than one batch make one
    smaller batch.

    Args:
        rows: Row numbers to train on.
        seed: The recipe's.
        epoch: Counted over all stages.
        size: Rows in a batch.
    """
    shuffled = sample_rng(seed, epoch, "order of rows").permutation(rows)
    full = max(size, len(rows) // size * size)
    return [shuffled[i : i + size] for i in range(0, min(full, len(rows)), size)]


def load_batches(
    samples: Samples, batches: Sequence[Rows], *, epoch: int, workers: int
) -> Iterator[Batch]:
    """Make training batches ahead of time in threads; the order stays.

    Args:
        samples: Where rows come from.
        batches: Row numbers of each batch.
        epoch: Seeds the random transforms.
        workers: Threads; OpenCV and numpy let go of the interpreter lock.
    """

    def make(rows: Rows) -> Batch:
        return _make_batch(samples, rows, epoch)

    with ThreadPoolExecutor(workers) as pool:
        source = iter(batches)
        ready: deque[Future[Batch]] = deque(
            pool.submit(make, rows) for rows in islice(source, _AHEAD + workers)
        )
        try:
            while ready:
                batch = ready.popleft().result()
                ready.extend(pool.submit(make, rows) for rows in islice(source, 1))
                yield batch
        finally:
            for future in ready:
                future.cancel()


def gather_features(
    features: Tensor, samples: Samples, batches: Sequence[Rows], *, column: int
) -> Iterator[Batch]:
    """Make batches of features that were computed before.

    Args:
        features: (N, V, D).
        samples: Targets and weights.
        batches: Row numbers of each batch.
        column: Which of the V views this epoch takes.
    """
    for rows in batches:
        weights = None if samples.weights is None else torch.from_numpy(samples.weights[rows])
        yield Batch(features[rows, column], torch.from_numpy(samples.targets[rows]), weights)


def stack_images(pixels: Pixels, rows: Rows) -> Tensor:
    """Return prepared images as they are, (B, H, W, C) uint8."""
    return torch.from_numpy(np.stack([pixels[row] for row in rows]))


def stack_masks(samples: Samples, rows: Rows) -> Tensor:
    """Return masks in the frame of the prepared images as they are, (B, C, H, W) uint8."""
    masks = np.stack([_read_masks(samples, row) for row in rows])
    return torch.from_numpy(np.ascontiguousarray(masks.transpose(0, 3, 1, 2)))


def _make_batch(samples: Samples, rows: Rows, epoch: int) -> Batch:
    draw = _augmented if samples.framed is None else _augmented_masks
    drawn = [draw(samples, row, epoch) for row in rows]
    weights = None if samples.weights is None else torch.from_numpy(samples.weights[rows])
    images = torch.from_numpy(np.stack([image for image, _ in drawn]))
    targets = torch.from_numpy(np.stack([target for _, target in drawn]))
    return Batch(images, targets, weights)


def _augmented_masks(
    samples: Samples, row: int, epoch: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return an image and its masks (C, h, w), moved alike."""
    framed = _framed(samples)
    image, masks = augment_masked(
        np.asarray(samples.pixels[row]),
        _read_masks(samples, row),
        samples.steps,
        sample_rng(samples.seed, epoch, samples.ids[row]),
        crop=framed.crop,
        nonempty=framed.nonempty,
    )
    return image, np.ascontiguousarray(masks.transpose(2, 0, 1))


def _read_masks(samples: Samples, row: int) -> NDArray[np.uint8]:
    """Decode the masks of one row in the frame of its prepared image, (h, w, C)."""
    spec = samples.pixels.spec
    texts = _framed(samples).texts[row]
    masks = [decode_rle(text, spec.height, spec.width) for text in texts]
    return np.stack(masks, axis=2).view(np.uint8)


def _framed(samples: Samples) -> Framed:
    if samples.framed is None:
        raise InputError("these samples have labels, but no masks to be learnt.")
    return samples.framed


def _augmented(samples: Samples, row: int, epoch: int) -> tuple[NDArray[np.uint8], Float32]:
    image, targets = np.asarray(samples.pixels[row]), samples.targets[row]
    if not samples.steps:
        return image, targets
    rng = sample_rng(samples.seed, epoch, samples.ids[row])
    if samples.masks is None or not drops_masks(samples.steps):
        return augment_image(image, samples.steps, rng), targets
    masks = _fit_masks(samples, row)
    return augment_labelled(image, masks, targets, samples.steps, rng)


def _fit_masks(samples: Samples, row: int) -> NDArray[np.uint8]:
    """Bring the masks of one row into the frame of its prepared image, (h, w, K)."""
    texts = samples.masks[row] if samples.masks is not None else ()
    height, width = read_size(samples.pixels.images[row])
    try:
        masks = [decode_rle(text, height, width) for text in texts]
    except MaskError as error:
        raise MaskError(f"{samples.ids[row]}: {error}") from None
    return prepare_masks(np.stack(masks, axis=2).astype(np.uint8), samples.pixels.spec)
