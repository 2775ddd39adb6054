"""The speed probe: a few seconds that choose how this machine trains.

It times real steps of the real network at its real size and keeps the fastest
of precision x memory format (channels last or not). What it chose goes into the
resolved recipe, so a continued run and every executor repeat it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

import torch

from loupe.architectures import create_network
from loupe.build import autocast
from loupe.executors import share_threads
from loupe.images import InputSpec
from loupe.inference import arrange_memory
from loupe.networks import Net
from loupe.recipe import Recipe
from loupe.settings import Engine, FullStage

_BATCH = 8
_ROUNDS = range(3)
Candidate = tuple[Literal["fp32", "bf16", "fp16"], bool]
ALL_CANDIDATES: tuple[Candidate, ...] = (
    ("fp32", True),
    ("bf16", True),
    ("fp32", False),
)
_CLEARLY = 0.95  # half precision must save at least a twentieth of the time
_HOPELESS = 4  # times as slow in the first round, set-up included: not timed again


@dataclass(frozen=True, slots=True)
class Timing:
    """One candidate and its speed in images a second."""

    precision: Literal["fp32", "bf16", "fp16"]
    channels_last: bool
    images_per_s: float


def choose_engine(
    recipe: Recipe, spec: InputSpec, *, device: str, jobs: int, cores: int
) -> tuple[Engine, tuple[Timing, ...]]:
    """Fill the `auto` fields of a recipe's engine.

    Args:
        recipe: Before the probe.
        spec: Input size.
        device: torch device.
        jobs: Jobs in all (members x folds) that will share the cores.
        cores: CPU cores.

    Returns:
        The engine without `auto`, and what was timed (nothing where the recipe
        had set precision and memory format).
    """
    engine = recipe.engine
    threads = engine.threads if engine.threads != "auto" else _threads(device, jobs, cores)
    timings: tuple[Timing, ...] = ()
    if "auto" in (engine.precision, engine.channels_last):
        timings = _time_candidates(recipe, spec, device, min(threads))
        fastest = _pick(timings)
        engine = Engine(precision=fastest.precision, channels_last=fastest.channels_last)
    return engine.model_copy(update={"threads": threads}), timings


def _threads(device: str, jobs: int, cores: int) -> tuple[int, ...]:
    return share_threads(jobs, cores) if device == "cpu" else (cores,) * jobs


def _pick(timings: tuple[Timing, ...]) -> Timing:
    """The fastest; full precision unless half is clearly faster."""
    best = max(timings, key=lambda t: t.images_per_s)
    exact = max(
        (t for t in timings if t.precision == "fp32"), key=lambda t: t.images_per_s, default=best
    )
    return best if exact.images_per_s < _CLEARLY * best.images_per_s else exact


def _time_candidates(
    recipe: Recipe, spec: InputSpec, device: str, threads: int
) -> tuple[Timing, ...]:
    start = recipe.model_copy(
        update={"network": recipe.network.model_copy(update={"pretrained": False})}
    )
    network = create_network(start, spec, 2, weights=None).to(device)
    images = torch.randint(
        0,
        255,
        (_BATCH, spec.network_height, spec.network_width, spec.channels),
        dtype=torch.uint8,
        device=device,
    )
    tried = _candidates(recipe.engine)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        # Rounds take turns, and the best of each counts: other programs on the
        # machine slow single steps down, they never speed one up.
        first = [_time_step(network, start, images, pair) for pair in tried]  # sets kernels up
        # Where the processor has no half precision, a step of it takes a minute.
        hopeless = [seconds > _HOPELESS * min(first) for seconds in first]
        hopeful = [pair for pair, slow in zip(tried, hopeless, strict=True) if not slow]
        rounds = [[_time_step(network, start, images, pair) for pair in hopeful] for _ in _ROUNDS]
    finally:
        torch.set_num_threads(before)
    timed = dict(zip(hopeful, map(min, zip(*rounds, strict=True)), strict=True))
    best = [timed.get(pair, seconds) for pair, seconds in zip(tried, first, strict=True)]
    return tuple(
        Timing(precision, channels_last, _BATCH / seconds)
        for (precision, channels_last), seconds in zip(tried, best, strict=True)
    )


def _candidates(engine: Engine) -> list[Candidate]:
    """Leave out what contradicts a field the recipe has set; fp16 must be set."""
    half: tuple[Candidate, ...] = (("fp16", True), ("fp16", False))
    return [
        (precision, last)
        for precision, last in (half if engine.precision == "fp16" else ALL_CANDIDATES)
        if engine.precision in ("auto", precision) and engine.channels_last in ("auto", last)
    ]


def _time_step(network: Net, recipe: Recipe, images: torch.Tensor, candidate: Candidate) -> float:
    """Return the seconds of one step, in evaluation mode if only heads are fitted."""
    precision, channels_last = candidate
    trial = recipe.model_copy(
        update={"engine": Engine(precision=precision, channels_last=channels_last)}
    )
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = arrange_memory(network.to(memory_format=layout), trial)
    trains = any(isinstance(stage, FullStage) for stage in recipe.stages)
    begin = time.perf_counter()
    _step(network, images, trial, trains=trains)
    return time.perf_counter() - begin


def _step(network: Net, images: torch.Tensor, recipe: Recipe, *, trains: bool) -> None:
    network.train(trains)
    with torch.set_grad_enabled(trains), autocast(recipe, images.device.type):
        found = network(images)
        # A segmenter gives masks, and classes if it has a head for them.
        parts = found if isinstance(found, tuple) else (found,)
        value = sum(part.sum() for part in parts if part is not None)
    if trains:
        value.backward()
    float(value.detach())  # waits for an accelerator
