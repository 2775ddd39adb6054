"""The training of one member on one set of rows: stages, epochs, steps.

It must not see held-out rows, write files, or branch on the kind of task. The
only module with `.backward()`.

Shapes: N rows, V views, D features, B batch, C classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from loupe.build import (
    Classifier,
    MovingAverage,
    autocast,
    build_optimizer,
    freeze_norms,
    rate_factor,
)
from loupe.data import Batch, Rows, Samples, load_batches, order_batches, stack_images
from loupe.errors import LoupeError
from loupe.heads import fit_head
from loupe.losses import LossFunction, balance_classes, build_loss
from loupe.recipe import FullStage, HeadStage, Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What one member is to learn from.

    Attributes:
        recipe: How.
        samples: All rows of the table; only `rows` and `watched` are read.
        rows: Row numbers to train on.
        watched: Row numbers of the inner part that early stopping watches;
            empty if there is no early stopping.
        inner: Row numbers, a part of `rows`, on which `l2: auto` is judged.
        exclusive: Softmax or sigmoids.
        features: (N, V, D) features of the frozen backbone for a head stage.
        device: torch device name.
        loaders: Threads that make batches.
    """

    recipe: Recipe
    samples: Samples
    rows: Rows
    watched: Rows
    inner: Rows
    exclusive: bool
    features: Tensor | None
    device: str
    loaders: int = 1


@dataclass(slots=True)
class Progress:
    """Where training stands; with the weights, all that continuing needs.

    Attributes:
        stage: Number of the stage under way.
        epoch: Finished epochs of that stage.
        total_epochs: Finished epochs of all stages; seeds order and transforms.
        optimizer: State of the optimizer; None at the start of a stage.
        average: State of the moving average; None at the start of a stage.
        average_steps: Steps the average has seen.
        best: Weights with the lowest watched loss so far; None without.
        best_loss: That loss.
        stale: Epochs since then.
    """

    stage: int = 0
    epoch: int = 0
    total_epochs: int = 0
    optimizer: dict[str, Any] | None = None
    average: dict[str, Tensor] | None = None
    average_steps: int = 0
    best: dict[str, Tensor] | None = None
    best_loss: float = float("inf")
    stale: int = 0


@dataclass(frozen=True, slots=True)
class Epoch:
    """One line of the history."""

    stage: int
    epoch: int
    loss: float
    watched_loss: float | None
    lr: float
    notes: dict[str, float] = field(default_factory=dict)


OnEpoch = Callable[[Epoch, Classifier, Progress], None]


def fit(network: Classifier, task: Task, progress: Progress, on_epoch: OnEpoch) -> Classifier:
    """Train a network through the stages of its recipe.

    Args:
        network: Start weights, or the weights of an interrupted training.
        task: Rows and recipe.
        progress: Where to go on; changed in place.
        on_epoch: Called after each epoch, with all that continuing needs.

    Returns:
        The network to predict with: the moving average, or the weights with the
        lowest watched loss where early stopping is on.

    Raises:
        LoupeError: the loss is not a number.
    """
    network = network.to(task.device)
    while progress.stage < len(task.recipe.stages):
        stage = task.recipe.stages[progress.stage]
        if isinstance(stage, HeadStage):
            epoch = _fit_head_stage(network, stage, task, progress)
            _enter_next_stage(progress)
            # Told last, so that a continued training does not fit and count it twice.
            on_epoch(epoch, network, progress)
        else:
            network = _fit_full_stage(network, stage, task, progress, on_epoch)
            _enter_next_stage(progress)
    return network.eval()


def _enter_next_stage(progress: Progress) -> None:
    progress.stage += 1
    progress.epoch, progress.optimizer, progress.average = 0, None, None
    progress.best, progress.best_loss, progress.stale = None, float("inf"), 0


def _fit_head_stage(network: Classifier, stage: HeadStage, task: Task, progress: Progress) -> Epoch:
    """Solve for the last layer on frozen features."""
    if task.features is None:
        raise LoupeError("a head stage needs the features of the frozen backbone.")
    fitted = fit_head(
        task.features,
        task.samples,
        loss=_loss_for(task),
        rows=task.rows,
        inner=task.inner,
        l2=stage.l2,
    )
    with torch.no_grad():
        network.head.weight.copy_(fitted.weight)
        network.head.bias.copy_(fitted.bias)
    progress.total_epochs += 1
    return Epoch(progress.stage, 0, fitted.loss, None, 0.0, {"l2": fitted.l2})


def _fit_full_stage(
    network: Classifier, stage: FullStage, task: Task, progress: Progress, on_epoch: OnEpoch
) -> Classifier:
    optimizer = build_optimizer(task.recipe, stage, network)
    average = MovingAverage(network, task.recipe.ema)
    if progress.optimizer is not None and progress.average is not None:
        optimizer.load_state_dict(progress.optimizer)
        average.network.load_state_dict(progress.average)
        average.step = progress.average_steps
    peaks = [group.get("peak", group["lr"]) for group in optimizer.param_groups]
    for group, peak in zip(optimizer.param_groups, peaks, strict=True):
        group["peak"] = peak
    while progress.epoch < stage.epochs and not _gave_up(task, progress):
        loss = _run_epoch(network, stage, task, progress, optimizer, average)
        watched = _watch(average.network, task, progress)
        progress.epoch += 1
        progress.total_epochs += 1
        progress.optimizer = optimizer.state_dict()
        progress.average = average.network.state_dict()
        progress.average_steps = average.step
        rate = max(group["lr"] for group in optimizer.param_groups)
        on_epoch(Epoch(progress.stage, progress.epoch, loss, watched, rate), network, progress)
    if progress.best is not None:
        average.network.load_state_dict(progress.best)
    average.network.requires_grad_(requires_grad=True)
    return average.network


def _run_epoch(
    network: Classifier,
    stage: FullStage,
    task: Task,
    progress: Progress,
    optimizer: torch.optim.Optimizer,
    average: MovingAverage,
) -> float:
    """Train one epoch and return its mean loss."""
    recipe, epoch = task.recipe, progress.total_epochs
    batches = order_batches(task.rows, seed=recipe.seed, epoch=epoch, size=recipe.batch_size)
    loss = _loss_for(task)
    network.train()
    if stage.freeze_norm:
        freeze_norms(network)
    losses = []
    loaded = load_batches(task.samples, batches, epoch=epoch, workers=task.loaders)
    for step, batch in enumerate(loaded):
        position = progress.epoch * len(batches) + step
        _set_rate(optimizer, task, position, stage.epochs * len(batches))
        # Dropout is seeded by position, so a continued run repeats it.
        torch.manual_seed(_step_seed(recipe.seed, epoch, step))
        losses.append(_train_step(network, batch, task, loss, optimizer))
        average.update(network)
    return _finite_mean(losses, progress)


def _train_step(
    network: Classifier,
    batch: Batch,
    task: Task,
    loss: LossFunction,
    optimizer: torch.optim.Optimizer,
) -> Tensor:
    with autocast(task.recipe, task.device):
        logits = network(batch.images.to(task.device, non_blocking=True))
    weights = None if batch.weights is None else batch.weights.to(task.device)
    value = loss(logits, batch.targets.to(task.device), weights)
    optimizer.zero_grad(set_to_none=True)
    value.backward()  # type: ignore[no-untyped-call]
    if task.recipe.optimizer.clip_norm:
        torch.nn.utils.clip_grad_norm_(network.parameters(), task.recipe.optimizer.clip_norm)
    optimizer.step()
    return value.detach()


def _loss_for(task: Task) -> LossFunction:
    weights = None
    if task.recipe.loss.class_weights == "balanced":
        targets = torch.from_numpy(task.samples.targets[task.rows])
        weights = balance_classes(targets, exclusive=task.exclusive).to(task.device)
    return build_loss(task.recipe.loss, exclusive=task.exclusive, class_weights=weights)


def _set_rate(optimizer: torch.optim.Optimizer, task: Task, step: int, steps: int) -> None:
    factor = rate_factor(task.recipe.schedule, step, steps)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


@torch.inference_mode()
def _watch(network: Classifier, task: Task, progress: Progress) -> float | None:
    """Return the loss on the watched rows, and remember the best weights."""
    if task.recipe.early_stop is None or not len(task.watched):
        return None
    loss = _loss_for(task)
    total = 0.0
    for rows in _chunks(task.watched, task.recipe.batch_size):
        images = stack_images(task.samples.pixels, rows).to(task.device)
        with autocast(task.recipe, task.device):
            logits = network(images)
        targets = torch.from_numpy(task.samples.targets[rows]).to(task.device)
        total += float(loss(logits, targets, None)) * len(rows)
    value = total / len(task.watched)
    if value < progress.best_loss:
        progress.best_loss, progress.stale = value, 0
        progress.best = {k: v.clone() for k, v in network.state_dict().items()}
    else:
        progress.stale += 1
    return value


def _gave_up(task: Task, progress: Progress) -> bool:
    stop = task.recipe.early_stop
    return stop is not None and progress.stale >= stop.patience


def _chunks(rows: Rows, size: int) -> Iterator[Rows]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _step_seed(seed: int, epoch: int, step: int) -> int:
    text = f"{seed}/{epoch}/{step}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=7).digest(), "little")


def _finite_mean(losses: list[Tensor], progress: Progress) -> float:
    mean = float(torch.stack(losses).mean())
    if mean != mean or mean == float("inf"):  # noqa: PLR0124 (NaN differs from itself)
        raise LoupeError(
            f"the training loss of stage {progress.stage}, epoch {progress.epoch + 1} is {mean}. "
            "Lower the rate (--set optimizer.lr=1e-4) or train in full precision "
            "(--set engine.precision=fp32)."
        )
    return mean
