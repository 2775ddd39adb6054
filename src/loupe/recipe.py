"""The recipe: the text that fixes how one network is trained.

Owns the whole of it, YAML reading, `--set key=value` and the digest; its parts are
in `settings`. What changes the numbers is here; what changes only the speed (device,
jobs, executor, cache) is an argument of `train`. The one exception is `Engine`:
a probe fills it once per run, because precision and thread count do change the
last bits, and a continued run must repeat them.

It must not import torch or timm, or name a device: a recipe is data.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from loupe.augment import Steps
from loupe.choices import AdamW, AutoLoss, Cosine, Loss, Optimizer, Plateau, Schedule
from loupe.errors import RecipeError, suggest
from loupe.maskchoices import Decoder, MaskLoss, MaskWork
from loupe.parts import Count, Part, Share
from loupe.recipechecks import find_idle
from loupe.settings import (
    Checkpoint,
    EarlyStop,
    Engine,
    FullStage,
    HeadStage,
    Input,
    Mixing,
    Network,
    Stage,
    Start,
    Tta,
)

_MOST_SHOWN = 60  # characters of a wrong value


class Recipe(Part):
    """How one network is trained.

    Examples:
        >>> Recipe(network={"name": "resnet18"}, stages=[{"epochs": 3}]).stages[0].epochs
        3
    """

    seed: Annotated[int, Field(ge=0)] = 0
    """Fixes initial weights, order of rows, augmentation and dropout."""
    init_from: str | None = None
    """A finished run to go on from: each fold starts from the weights of the member of
    the same name (or the only one) that never saw the rows this fold holds out."""
    network: Network = Network()
    input: Input = Input()
    augment: Steps = ()
    """Random transforms of training images, by albumentations' names."""
    mixing: Mixing = Mixing()
    sampling: Literal["none", "under", "over", "weighted"] = "none"
    """Which training rows an epoch takes. `under`: as many of each class as the rarest
    has, drawn once; `over`: as many as the commonest, rows repeated at random; `weighted`:
    as many rows as there are, drawn with replacement so that classes are equally likely."""
    loss: Loss = AutoLoss()
    decoder: Decoder | None = None
    """Given, the network draws masks: its backbone is the encoder, and `mask_loss` and `masks`
    are used in place of `loss`. Null makes a classifier."""
    mask_loss: MaskLoss = MaskLoss()
    masks: MaskWork = MaskWork()
    optimizer: Optimizer = AdamW()
    schedule: Schedule = Cosine()
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)] = (FullStage(),)
    """What is trained, in order."""
    batch_size: Count = 32
    """Images in one step."""
    ema: Share = 0.0
    """Decay per step of the moving average of weights; 0 for none."""
    early_stop: EarlyStop | None = None
    checkpoint: Checkpoint | None = None
    control_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    """Share of the training rows, whole groups, set aside to watch, if anything (early
    stop, checkpoint, plateau) needs watching. The held-out fold is never looked at."""
    control_on: Literal["inner", "heldout"] = "inner"
    """`heldout` watches the held-out fold itself, as many write-ups do; the run's scores
    are then optimistic and say so wherever they are shown."""
    train_metrics: bool = False
    """Write every metric of the training rows, without augmentation, into the history."""
    tta: Tta = ("identity", "hflip")
    """Views averaged at prediction: names, or random draws."""
    votes: Literal["mean", "sum"] = "mean"
    """What `predict --format probabilities` writes: the mean over views and crops, or
    their sum. Scores and stored sheets always hold the mean."""
    engine: Engine = Engine()
    start: Start = Start()

    @property
    def decoder_has_head(self) -> bool:
        """True if the network draws masks and names classes, too."""
        return self.decoder is not None and self.decoder.class_head

    @property
    def watched_metrics(self) -> tuple[str, ...]:
        """Metrics that control something, each once; empty if nothing is watched."""
        trained = [stage for stage in self.stages if stage.epochs is not None]
        schedules = [stage.schedule or self.schedule for stage in trained]
        parts = [self.early_stop, self.checkpoint, *schedules]
        kinds = (EarlyStop, Checkpoint, Plateau)
        return tuple(dict.fromkeys(part.metric for part in parts if isinstance(part, kinds)))

    @model_validator(mode="after")
    def _check_effects(self) -> Recipe:
        """Refuse settings that no stage would use."""
        wrong = find_idle(self)
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    @model_validator(mode="after")
    def _check_stages(self) -> Recipe:
        """Refuse stages that cannot follow from this start or fit this head."""
        if any(isinstance(stage, HeadStage) for stage in self.stages[1:]):
            raise ValueError(
                "a stage with 'train: head' comes after another one; it is fitted on features "
                "of the start weights, so it must be the first"
            )
        for stage in self.stages:
            mixing = (isinstance(stage, FullStage) and stage.mixing) or self.mixing
            if mixing.mixes_never(stage.epochs or 0) and isinstance(stage, FullStage):
                raise ValueError(
                    f"mixing skips {mixing.skip_first} epochs at the start and "
                    f"{mixing.skip_last} at the end of a stage of {stage.epochs}, so nothing "
                    "would be mixed"
                )
        for number, stage in enumerate(self.stages):
            size = stage.size if isinstance(stage, FullStage) else None
            if (
                size
                and self.input.crop
                and any(c > s for c, s in zip(self.input.crop, size, strict=True))
            ):
                raise ValueError(f"stages.{number}.size {size} is smaller than input.crop")
        if self.network.head.batch_norm and self.batch_size == 1:
            raise ValueError("network.head.batch_norm needs a batch_size of 2 or more")
        first = self.stages[0]
        if not isinstance(first, HeadStage):
            return self
        if self.init_from:
            raise ValueError(
                "a stage with 'train: head' shares one frozen backbone among folds, but "
                "'init_from' starts each fold from another one; leave that stage out"
            )
        shaped = self.network.head.widths or self.network.head.batch_norm
        if first.epochs is None and shaped:
            raise ValueError(
                "a head with dense layers or BatchNorm cannot be solved; give the stage with "
                "'train: head' its 'epochs'"
            )
        return self

    def digest(self) -> str:
        """Return 16 hex digits over every field but `engine`, `start` and `init_from`.

        What it starts from is told by the digest in `start`, wherever that lies.
        """
        # What a classifier does not use leaves its digest as it was.
        unused = {"decoder", "mask_loss", "masks"} if self.decoder is None else set()
        chosen = self.model_dump(mode="json", exclude={"engine", "start", "init_from"} | unused)
        text = json.dumps(chosen, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def read_recipe(source: str | Path | Mapping[str, Any], overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe and check every field.

    Args:
        source: A YAML file, or the same as a mapping.
        overrides: ``"optimizer.lr=1e-4"`` and the like; values are YAML.

    Raises:
        RecipeError: the file is absent or no YAML mapping, or any field is
            unknown or out of range; all findings in one message.

    Examples:
        >>> read_recipe({"batch_size": 8}, ["optimizer.lr=1e-4"]).optimizer.lr
        0.0001
    """
    where = "recipe" if isinstance(source, Mapping) else str(source)
    values = dict(source) if isinstance(source, Mapping) else _read_yaml(Path(source))
    for override in overrides:
        values = _override(values, override)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(f"{where}: " + "; ".join(_explain(error))) from None


def change_recipe(recipe: Recipe, overrides: Iterable[str]) -> Recipe:
    """Change some fields of a recipe, as `--set` does.

    Fields that were never set stay free: with another kind of optimizer or the like
    its own defaults hold.

    Args:
        recipe: As it was read or made; it stays as it is.
        overrides: See `read_recipe`.

    Raises:
        RecipeError: a field is unknown or out of range.

    Examples:
        >>> change_recipe(Recipe(optimizer={"lr": 0.01}), ["optimizer.name=sgd"]).optimizer.lr
        0.01
    """
    return read_recipe(_as_written(recipe), overrides)


def write_recipe(recipe: Recipe) -> str:
    """Return a recipe as YAML that `read_recipe` reads back equal."""
    values = recipe.model_dump(mode="json")
    text: str = yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


class _Loader(yaml.SafeLoader):
    """YAML 1.1 but for `1e-4`, which people mean as a number."""


class _Dumper(yaml.SafeDumper):
    """Puts text that `_Loader` would take for a number in quotes, such as a digest `12e4`."""


for _yaml in (_Loader, _Dumper):
    _yaml.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
        list("-+0123456789"),
    )


def _parse(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)  # noqa: S506 (a subclass of SafeLoader)


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise RecipeError(f"{path}: no such recipe file.")
    try:
        values = _parse(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not readable as YAML: {error}") from None
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: expected 'key: value' lines, found {type(values).__name__}.")
    return values


def _override(values: Mapping[str, Any], override: str) -> dict[str, Any]:
    path, equals, text = override.partition("=")
    if not equals or not path.strip():
        raise RecipeError(f"--set {override!r}: expected key=value, like optimizer.lr=1e-4.")
    keys = path.strip().split(".")
    try:
        value = _parse(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {override!r}: not readable as YAML: {error}") from None
    if keys[0] not in values and len(keys) > 1 and keys[1].isdigit():
        # A place in a list that was not written: that of the default.
        values = {**values, keys[0]: _as_written(Recipe()).get(keys[0], {})}
    changed: dict[str, Any] = _set(values, keys, value, override)
    return changed


def _as_written(part: Part) -> dict[str, Any]:
    """Spell out the fields that were set, lists of the whole, and what tells a kind."""
    plain = part.model_dump(mode="json")
    spelt: dict[str, Any] = {}
    for name, value in plain.items():
        inner = getattr(part, name)
        whole = isinstance(part, Recipe) and isinstance(inner, tuple)
        if name in part.model_fields_set or whole or name == _kind_key(type(part)):
            spelt[name] = _spell(inner, value)
    return spelt


def _spell(value: Any, plain: Any) -> Any:
    if isinstance(value, Part):
        return _as_written(value)
    if isinstance(value, tuple):
        return [_spell(one, simple) for one, simple in zip(value, plain, strict=True)]
    return plain


def _set(node: Any, keys: list[str], value: Any, override: str) -> Any:
    """Return a copy of nested mappings and lists with one place changed."""
    if not keys:
        return value
    head, rest = keys[0], keys[1:]
    if isinstance(node, list | tuple):
        if not head.isdigit() or int(head) >= len(node):
            raise RecipeError(f"--set {override!r}: {head!r} is no place in a list of {len(node)}.")
        place = int(head)
        return [_set(v, rest, value, override) if i == place else v for i, v in enumerate(node)]
    branch = dict(node) if isinstance(node, Mapping) else {}
    branch[head] = _set(branch.get(head, {}), rest, value, override)
    return branch


def _explain(error: ValidationError) -> list[str]:
    """One sentence for each finding, with a suggestion for unknown keys."""
    details = error.errors()
    places = [detail["loc"] for detail in details]
    # A list with a bad entry is reported a second time, as too short: say it once.
    inner = [d for d in details if not any(_below(d["loc"], place) for place in places)]
    return [_explain_one(detail) for detail in inner]


def _below(place: tuple[int | str, ...], other: tuple[int | str, ...]) -> bool:
    return len(other) > len(place) and other[: len(place)] == place


def _explain_one(detail: Any) -> str:
    place = [str(part) for part in detail["loc"] if part != "[key]"]
    kind, said = detail["type"], detail["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden":
        clean, models = _walk(place[:-1])
        known = sorted({name for model in models for name in model.model_fields})
        unknown = ".".join([*clean, place[-1]])
        return (
            f"unknown key {unknown!r}{suggest(place[-1], known)} (known here: {', '.join(known)})"
        )
    clean, models = _walk(place)
    where = ".".join(clean)
    if kind == "union_tag_invalid":
        known = sorted(tag for model in models if (tag := _tag(model)))
        found, key = detail["ctx"]["tag"], _kind_key(models[0])
        near = suggest(found.lower(), known)
        return f"{where}.{key} is {_show(found)}{near} (known here: {', '.join(known)})"
    if kind == "missing":
        return f"{where} is missing"
    if kind == "value_error":
        return f"{where}: {said.removeprefix('augmentation: ')}" if where else said
    return f"{where} is {_show(detail['input'])}: {_expect(detail, models)}"


def _expect(detail: Any, models: list[type[BaseModel]]) -> str:
    """Say what a value must be; pydantic speaks of Python's types."""
    found, key = detail["input"], _kind_key(models[0]) if models else None
    if detail["type"] in {"model_type", "dict_type"}:
        hint = f", such as '{key}: {found}'" if key and isinstance(found, str) else ""
        return f"must be keys and their values{hint}"
    if detail["type"] == "tuple_type":
        return "must be a list"
    if detail["type"] == "too_short":
        return f"must have {detail['ctx']['min_length']} entries or more"
    if detail["type"] == "too_long":
        return f"must have {detail['ctx']['max_length']} entries or fewer"
    if detail["type"] == "string_pattern_mismatch":
        return "must be pixels, or a factor such as 'x2'"
    return str(detail["msg"]).replace("Input should be", "must be")


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 4]} ..."


def _walk(path: list[str]) -> tuple[list[str], list[type[BaseModel]]]:
    """Follow a finding to its place: the keys as they were written, the parts there.

    pydantic also names the kind of a stage, loss or the like; that is left out. The
    last key of an unknown one stays, and the parts are those that would hold it.
    """
    models: list[type[BaseModel]] = [Recipe]
    clean: list[str] = []
    for part in path:
        kinds = [model for model in models if _tag(model) == part]
        inner = [m.model_fields[part].annotation for m in models if part in m.model_fields]
        if part.isdigit() or inner:
            clean.append(part)
            models = [m for field in inner for m in _models_in(field)] if inner else models
        elif kinds:
            models = kinds
        elif not part.startswith("form-"):
            clean.append(part)
    return clean, models


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _tag(model: type[BaseModel]) -> str | None:
    """Return what a kind is called in a recipe; None for a part of one kind."""
    key = _kind_key(model)
    return None if key is None else str(model.model_fields[key].default)


def _kind_key(model: type[BaseModel]) -> str | None:
    """Return the key that picks a kind, if a part comes in kinds."""
    fields = model.model_fields
    found = (k for k in ("train", "name") if k in fields and fields[k].annotation is not str)
    return next(found, None)
