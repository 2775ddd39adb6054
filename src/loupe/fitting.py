"""The training of one member on one set of rows: stages, epochs, steps.

It must not see held-out rows (but where the recipe says `control_on: heldout`),
write files, or branch on the kind of task. The only module with `.backward()`.

Shapes: N rows, V views, D features, B batch, C classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from loupe.augment import sample_rng
from loupe.averaging import MovingAverage
from loupe.build import autocast
from loupe.choices import Schedule
from loupe.control import Control, best_weights, gave_up, react
from loupe.data import Batch, Rows, Samples, gather_features, load_batches, order_batches
from loupe.errors import LoupeError
from loupe.features import Features
from loupe.heads import fit_head
from loupe.mixing import mix_batch, mixes
from loupe.networks import Classifier, Net, freeze_layers, freeze_norms
from loupe.optimizers import build_optimizer, clip_gradients, set_rate
from loupe.sampling import draw_rows
from loupe.schedules import rate_at
from loupe.settings import FullStage, HeadStage, Mixing
from loupe.tasks import Epoch, Progress, Task, TaskLoss

OnEpoch = Callable[[Epoch, Net, Progress], None]
OnBatch = Callable[[Batch], None]


def fit(
    network: Net,
    task: Task,
    progress: Progress,
    on_epoch: OnEpoch,
    on_first_batch: OnBatch = lambda _: None,
) -> Net:
    """Train a network through the stages of its recipe.

    Args:
        network: Start weights, or the weights of an interrupted training.
        task: Rows and recipe.
        progress: Where to go on; changed in place.
        on_epoch: Called after each epoch, with all that continuing needs.
        on_first_batch: Called with the first batch of images of each stage.

    Returns:
        The network to predict with: the moving average, or the weights of the best
        epochs where early stopping or a checkpoint asks for them.

    Raises:
        LoupeError: the loss is not a number.
    """
    network = network.to(task.device)
    while progress.stage < len(task.recipe.stages):
        stage = task.recipe.stages[progress.stage]
        if isinstance(stage, HeadStage) and stage.epochs is None:
            epoch = _solve_head(_as_classifier(network), stage, task, progress)
            _enter_next_stage(progress)
            # Told last, so that a continued training does not fit and count it twice.
            on_epoch(epoch, network, progress)
        else:
            plan = _plan_stage(stage, task, progress)
            _train_stage(network, plan, task, progress, on_epoch, on_first_batch)
            _enter_next_stage(progress)
    return network.eval()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """One stage that is trained by epochs, its defaults filled in."""

    epochs: int
    stop_after: int
    lr: float
    head_lr_factor: float = 1.0
    layer_decay: float = 1.0
    frozen: tuple[str, ...]
    freeze_norm: bool = False
    schedule: Schedule
    loss: TaskLoss
    mixing: Mixing
    samples: Samples
    features: Features | None = None


def _plan_stage(stage: HeadStage | FullStage, task: Task, progress: Progress) -> _Plan:
    recipe = task.recipe
    lr, schedule = stage.lr or recipe.optimizer.lr, stage.schedule or recipe.schedule
    loss = task.aim.build_loss(stage.loss)
    if isinstance(stage, HeadStage):
        return _Plan(
            epochs=stage.epochs or 0,
            stop_after=stage.stop_after or stage.epochs or 0,
            lr=lr,
            frozen=("backbone",),
            schedule=schedule,
            loss=loss,
            mixing=Mixing(),
            samples=task.samples,
            features=_features_of(task),
        )
    return _Plan(
        epochs=stage.epochs,
        stop_after=stage.stop_after or stage.epochs,
        lr=lr,
        head_lr_factor=stage.head_lr_factor,
        layer_decay=stage.layer_decay,
        frozen=stage.freeze,
        freeze_norm=stage.freeze_norm,
        schedule=schedule,
        loss=loss,
        mixing=stage.mixing or recipe.mixing,
        samples=task.sizes.get(progress.stage, task.samples),
    )


def _enter_next_stage(progress: Progress) -> None:
    progress.stage += 1
    progress.epoch = 0
    progress.optimizer = progress.average = progress.scaler = progress.control = None


def _as_classifier(network: Net) -> Classifier:
    if not isinstance(network, Classifier):
        raise LoupeError("a head stage fits pooled features, which only classifiers have.")
    return network


def _features_of(task: Task) -> Features:
    if task.features is None:
        raise LoupeError("a head stage needs the features of the frozen backbone.")
    return task.features


def _solve_head(network: Classifier, stage: HeadStage, task: Task, progress: Progress) -> Epoch:
    """Solve for the last layer on frozen features."""
    features, loss = _features_of(task), task.aim.build_loss(stage.loss)
    fitted = fit_head(
        features.values[:, list(features.fitted)],
        task.samples,
        loss=loss,
        rows=_draw_rows(task, task.rows, progress),
        inner=_draw_rows(task, task.inner, progress),
        l2=stage.l2,
    )
    with torch.no_grad():
        network.head.weight.copy_(fitted.weight)
        network.head.bias.copy_(fitted.bias)
    progress.total_epochs += 1
    watched = _measure(network, task.watched, task, loss, features)
    trained = _measure(network, _trained(task), task, loss, features)
    return Epoch(progress.stage, 0, fitted.loss, 0.0, watched, trained, {"l2": fitted.l2})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stage:
    """One stage under way: what is trained, by what, and how it is doing."""

    network: Net
    plan: _Plan
    still: tuple[nn.Module, ...]
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: MovingAverage[Net] | None
    control: Control

    @property
    def followed(self) -> Net:
        """The network whose metrics count: the moving average, if there is one."""
        return self.average.network if self.average else self.network


def _train_stage(
    network: Net,
    plan: _Plan,
    task: Task,
    progress: Progress,
    on_epoch: OnEpoch,
    on_first_batch: OnBatch,
) -> None:
    """Train one stage by epochs; the network ends with the weights to keep."""
    stage = _start_stage(network, plan, task, progress)
    while progress.epoch < plan.stop_after and not gave_up(stage.control, task.recipe):
        loss, rate = _run_epoch(stage, task, progress, on_first_batch)
        watched = _measure(stage.followed, task.watched, task, plan.loss, plan.features)
        trained = _measure(stage.followed, _trained(task), task, plan.loss, plan.features)
        if watched:
            weights = _changing(stage)
            react(stage.control, task.recipe, plan.schedule, watched, weights)
        progress.epoch += 1
        progress.total_epochs += 1
        _note_state(stage, progress)
        epoch = Epoch(progress.stage, progress.epoch, loss, rate, watched, trained)
        on_epoch(epoch, network, progress)
    kept = best_weights(stage.control) or {}
    network.load_state_dict(stage.followed.state_dict() | kept)


def _changing(stage: _Stage) -> dict[str, Tensor]:
    """Return the weights that this stage can change: of a head stage, the head's."""
    weights = stage.followed.state_dict()
    if stage.plan.features is None:
        return weights
    return {name: value for name, value in weights.items() if not name.startswith("backbone.")}


def _start_stage(network: Net, plan: _Plan, task: Task, progress: Progress) -> _Stage:
    """Set a stage up, or as it was when it was interrupted."""
    recipe = task.recipe
    still = freeze_layers(network, plan.frozen)
    optimizer = build_optimizer(
        recipe.optimizer,
        network,
        lr=plan.lr,
        head_lr_factor=plan.head_lr_factor,
        layer_decay=plan.layer_decay,
    )
    half = recipe.engine.precision == "fp16"
    scaler = torch.amp.GradScaler(task.device.partition(":")[0], enabled=half)
    average = MovingAverage(network, recipe.ema) if recipe.ema else None
    if progress.optimizer is not None:
        optimizer.load_state_dict(progress.optimizer)
    if progress.scaler:
        scaler.load_state_dict(progress.scaler)
    if average is not None and progress.average is not None:
        average.network.load_state_dict(progress.average["weights"])
        average.step = progress.average["step"]
    return _Stage(
        network=network,
        plan=plan,
        still=still,
        optimizer=optimizer,
        scaler=scaler,
        average=average,
        control=Control.restore(progress.control) if progress.control else Control(),
    )


def _note_state(stage: _Stage, progress: Progress) -> None:
    progress.optimizer = stage.optimizer.state_dict()
    progress.scaler = stage.scaler.state_dict() or None
    progress.control = stage.control.state()
    if stage.average is not None:
        weights = stage.average.network.state_dict()
        progress.average = {"weights": weights, "step": stage.average.step}


def _run_epoch(
    stage: _Stage, task: Task, progress: Progress, on_first_batch: OnBatch
) -> tuple[float, float]:
    """Train one epoch; return its mean loss and its last rate."""
    recipe, plan, epoch = task.recipe, stage.plan, progress.total_epochs
    rows = _draw_rows(task, task.rows, progress)
    batches = order_batches(rows, seed=recipe.seed, epoch=epoch, size=recipe.batch_size)
    _set_modes(stage)
    losses, rate = [], 0.0
    for step, batch in enumerate(_batches(plan, task, batches, progress)):
        if step == 0 and progress.epoch == 0 and plan.features is None:
            on_first_batch(batch)
        done = progress.epoch * len(batches) + step
        rate = rate_at(
            plan.schedule,
            plan.lr,
            step=done,
            steps_per_epoch=len(batches),
            epochs=plan.epochs,
            standing=stage.control.standing,
        )
        set_rate(stage.optimizer, recipe.optimizer, rate, step=done)
        # Dropout is seeded by position, so a continued run repeats it.
        _seed(_step_seed(recipe.seed, epoch, step), task.device)
        losses.append(_train_step(stage, batch, task))
        if stage.average is not None:
            stage.average.update(stage.network)
    return _finite_mean(losses, progress), rate


def _trained(task: Task) -> Rows:
    """Training rows whose metrics are asked for."""
    return task.rows if task.recipe.train_metrics else task.rows[:0]


def _draw_rows(task: Task, rows: Rows, progress: Progress) -> Rows:
    return draw_rows(
        rows,
        task.samples.targets,
        sampling=task.recipe.sampling,
        exclusive=task.exclusive,
        seed=task.recipe.seed,
        epoch=progress.total_epochs,
    )


def _set_modes(stage: _Stage) -> None:
    """Training mode, but what is frozen keeps its BatchNorm statistics."""
    stage.network.train()
    if stage.plan.freeze_norm:
        freeze_norms(stage.network.backbone)
    for module in stage.still:
        module.eval()


def _batches(plan: _Plan, task: Task, batches: list[Rows], progress: Progress) -> Iterator[Batch]:
    """Make the batches of one epoch: features, or images, some of them mixed."""
    epoch = progress.total_epochs
    if plan.features is not None:
        column = plan.features.fitted[progress.epoch % len(plan.features.fitted)]
        yield from gather_features(plan.features.values, plan.samples, batches, column=column)
        return
    loaded = load_batches(plan.samples, batches, epoch=epoch, workers=task.loaders)
    mixed = mixes(plan.mixing, epoch=progress.epoch, epochs=plan.epochs)
    for step, batch in enumerate(loaded):
        if not mixed:
            yield batch
            continue
        rng = sample_rng(task.recipe.seed, epoch, f"mix/{step}")
        made = mix_batch(batch.inputs, batch.targets, batch.weights, plan.mixing, rng)
        yield Batch(made.images, made.targets, made.weights)


def _train_step(stage: _Stage, batch: Batch, task: Task) -> Tensor:
    network, scaler, optimizer = stage.network, stage.scaler, stage.optimizer
    inputs = batch.inputs.to(task.device, non_blocking=True)
    on_features = stage.plan.features is not None
    with autocast(task.recipe, task.device):
        logits = _as_classifier(network).classify(inputs) if on_features else network(inputs)
    weights = None if batch.weights is None else batch.weights.to(task.device)
    value = stage.plan.loss(logits, batch.targets.to(task.device), weights) + network.penalty()
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(value).backward()  # type: ignore[no-untyped-call]
    scaler.unscale_(optimizer)
    clip_gradients(task.recipe.optimizer, _moved(optimizer))
    scaler.step(optimizer)
    scaler.update()
    return value.detach()


def _moved(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    # Not `network.parameters()`: walking all modules takes longer than the step of a head.
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _seed(seed: int, device: str) -> None:
    """Seed what draws dropout; `torch.manual_seed` alone costs 2 ms a call without CUDA."""
    if device == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def _measure(
    network: Net, rows: Rows, task: Task, loss: TaskLoss, features: Features | None
) -> dict[str, float]:
    plain = None if features is None else features.values[:, features.plain]
    return task.aim.measure(network, task.samples, rows, loss, plain)


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
