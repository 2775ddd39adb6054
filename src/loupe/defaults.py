"""The recipe for people who did not write one: chosen from the data, with reasons.

It must not train or time anything: the choice follows from the table, the local
weights and the device alone, so the same command makes the same run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from loupe.augment import parse_steps
from loupe.choices import AdamW, AutoLoss, Cosine, Loss
from loupe.errors import shorten
from loupe.recipe import Recipe
from loupe.settings import FullStage, HeadStage, Input, Network
from loupe.table import Table, count_classes
from loupe.weights import WeightsFile, list_weights

CPU_PARAMETERS = 12_000_000
"""Largest local network taken by itself where there is no accelerator."""
SCRATCH_NETWORK = "test_resnet"
"""0.4 M parameters; learns small defects from some hundred images on a CPU."""
_SCRATCH_EPOCHS = 40
_MANY_ROWS = 20_000
_RARE = 0.2  # a class this much rarer than the commonest calls for weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A recipe, the name of its member, and why it was picked."""

    member: str
    recipe: Recipe
    reasons: tuple[str, ...]


def choose_recipe(
    table: Table,
    weights: Path | None,
    *,
    device: str,
    knows: Callable[[str], bool] | None = None,
) -> Choice:
    """Pick a recipe for a table.

    With local weights: the largest network that suits the device; its last layer
    is solved on frozen features, then all layers are tuned for a few epochs at a
    low rate with BatchNorm statistics kept (linear probing, then fine-tuning). If
    all are too large for a CPU: the last layer of the smallest. Without weights: a
    small network from scratch.

    Args:
        table: What is to be learnt.
        weights: Local folder of pretrained weights, or None.
        device: torch device; decides how large a network is sensible.
        knows: Tells whether an architecture can be built; files of others are
            left out. None holds all for known.

    References:
        Kumar et al. (2022), Fine-Tuning can Distort Pretrained Features and
        Underperform Out-of-Distribution, arXiv:2202.10054, for the two stages.
    """
    files = () if weights is None else list_weights(weights)
    usable = [file for file in files if knows is None or knows(file.architecture)]
    suited = [f for f in usable if device != "cpu" or f.parameters <= CPU_PARAMETERS]
    if suited:
        choice = _tune(table, max(suited, key=_size), device)
    elif usable:
        choice = _probe(table, min(usable, key=_size))
    else:
        choice = _from_scratch(table, weights)
    left_out = tuple(file.path.name for file in files if file not in usable)
    return replace(choice, reasons=choice.reasons + _explain_unknown(left_out))


AUGMENT = parse_steps(["HorizontalFlip"])
"""Transforms of the default recipe: with few epochs stronger ones cost more than they
give (docs/notes.md)."""


def scratch_recipe(table: Table) -> Recipe:
    """Return the recipe for training a small network from random weights.

    Max beside mean pooling, small batches and many epochs: measured on hairline
    defects, where a mean alone drowns them (docs/notes.md).

    Args:
        table: What is to be learnt.
    """
    return Recipe(
        network=Network(name=SCRATCH_NETWORK, pretrained=False, pool="catavgmax"),
        input=Input(size=(96, 96)),
        augment=parse_steps(["HorizontalFlip", "VerticalFlip", "Transpose"]),
        loss=_loss(table, smoothing=0.0),
        optimizer=AdamW(lr=4e-3, weight_decay=0.05),
        schedule=Cosine(warmup=0.25),
        stages=(FullStage(epochs=_SCRATCH_EPOCHS),),
        batch_size=8,
    )


def _size(file: WeightsFile) -> tuple[int, str]:
    return file.parameters, file.path.name


def _tune(table: Table, file: WeightsFile, device: str) -> Choice:
    epochs = 3 if len(table) < _MANY_ROWS else 1
    recipe = Recipe(
        network=Network(name=file.path.stem),
        input=Input(size=(224, 224)),
        augment=AUGMENT,
        loss=_loss(table, smoothing=0.1 if table.exclusive else 0.0),
        optimizer=AdamW(lr=1e-4),
        stages=(HeadStage(), FullStage(epochs=epochs, freeze_norm=True)),
        ema=0.98,
    )
    plan = f"last layer on frozen features first, then all layers for {epochs} epoch(s)"
    reasons = (
        f"{file.architecture}: the largest local network that suits {device} ({_describe(file)})",
        f"{len(table):,} rows: {plan} at a low rate",
        *_explain_loss(recipe.loss),
    )
    return Choice(member=file.architecture, recipe=recipe, reasons=reasons)


def _probe(table: Table, file: WeightsFile) -> Choice:
    recipe = Recipe(
        network=Network(name=file.path.stem),
        input=Input(size=(224, 224)),
        loss=_loss(table, smoothing=0.0),
        stages=(HeadStage(),),
    )
    most = f"{CPU_PARAMETERS / 1e6:.0f} M parameters"
    why = (
        f"all are above {most}, too large to tune on a CPU: its last layer alone is fitted, on "
        "frozen features; tune all layers with --device cuda or a smaller network"
    )
    first = f"{file.architecture}: the smallest local network ({_describe(file)})"
    reasons = (first, why, *_explain_loss(recipe.loss))
    return Choice(member=file.architecture, recipe=recipe, reasons=reasons)


def _describe(file: WeightsFile) -> str:
    return f"{file.parameters / 1e6:.1f} M parameters, {file.path.name}"


def _explain_unknown(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        return ()
    said = (
        f"left out, since timm has no such network: {shorten(names)}; the file's name up to the "
        "first dot, or 'timm_arch' in its metadata, must be timm's name"
    )
    return (said,)


def _from_scratch(table: Table, weights: Path | None) -> Choice:
    recipe = scratch_recipe(table)
    where = "no weights folder was named" if weights is None else f"{weights} holds none of use"
    advice = "pretrained weights score much higher: pass --weights DIR or set $LOUPE_WEIGHTS"
    reasons = (
        f"{SCRATCH_NETWORK} from scratch, because {where}; {advice}",
        *_explain_loss(recipe.loss),
    )
    return Choice(member=SCRATCH_NETWORK, recipe=recipe, reasons=reasons)


def _loss(table: Table, *, smoothing: float) -> AutoLoss:
    # A class without rows cannot be learnt, and must not change how others are.
    counts = [n for n in count_classes(table).values() if n]
    rare = table.exclusive and min(counts, default=0) < _RARE * max(counts, default=0)
    return AutoLoss(label_smoothing=smoothing, class_weights="balanced" if rare else "none")


def _explain_loss(loss: Loss) -> tuple[str, ...]:
    if loss.class_weights == "balanced":
        return ("classes are uneven by more than 5 to 1: rare ones count more in the loss",)
    return ()
