"""The recipe: the text that fixes how one network is trained.

Owns the recipe's fields, their ranges, YAML reading, `--set key=value` and the
digest. What changes the numbers is here; what changes only the speed (device,
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
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from loupe.augment import Steps
from loupe.errors import RecipeError, suggest
from loupe.tta import ViewName

Share = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class _Part(BaseModel):
    """A frozen part of a recipe; unknown keys are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


def _pair(value: object) -> object:
    """Let ``size: 224`` mean ``size: [224, 224]``."""
    return [value, value] if isinstance(value, int) else value


class Network(_Part):
    """Which network is trained, and from which weights."""

    name: str = "resnet18"
    """Any timm name, also with a weights tag: `resnet50.a1_in1k`."""
    pretrained: bool = True
    """Start from pretrained weights: the local folder first, then timm's hub."""
    pool: Literal["default", "avg", "max", "avgmax", "catavgmax"] = "default"
    """How the last feature map becomes one vector, for networks that can choose;
    `catavgmax` keeps the largest value beside the mean: small defects survive."""
    dropout: Share = 0.0
    """Share of pooled features dropped before the last layer while training."""
    drop_path: Share = 0.0
    """Stochastic depth rate, for the networks that have it."""


class Input(_Part):
    """How an image becomes the network's input; the whole image is kept."""

    size: Annotated[tuple[Count, Count], BeforeValidator(_pair)] = (224, 224)
    """Height and width in pixels."""
    resize: Literal["stretch", "pad"] = "stretch"
    """`stretch` fills the input; `pad` keeps the aspect ratio."""
    filter: Literal["auto", "area", "linear", "cubic", "nearest"] = "auto"
    """Resize filter; `auto` is area when shrinking and cubic when growing."""
    channels: Literal[1, 3] = 3
    """1 for grey input (luma), 3 for colour."""


class Loss(_Part):
    """What training minimises."""

    name: Literal["auto", "cross_entropy", "bce"] = "auto"
    """`auto`: cross-entropy for exclusive classes, else binary cross-entropy."""
    label_smoothing: Share = 0.0
    """Share of the target spread over all classes."""
    class_weights: Literal["none", "balanced"] = "none"
    """`balanced`: a class counts n / (C x n_class), C being the classes that have rows;
    for columns on their own a positive counts n_negative / n_positive."""


class Optimizer(_Part):
    """How the weights are moved."""

    name: Literal["adamw"] = "adamw"
    """AdamW: Adam with decoupled weight decay."""
    lr: Rate = 1e-3
    """Peak learning rate; a stage may set its own."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.02
    """Decoupled decay; biases and normalisation layers are spared."""
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest norm of a step's gradient; null for no limit."""


class Schedule(_Part):
    """How the learning rate moves within one stage, step by step."""

    name: Literal["cosine", "constant"] = "cosine"
    """`cosine` falls from the peak to the floor; `constant` stays after warm-up."""
    warmup: Share = 0.1
    """Share of the stage's steps in which the rate rises linearly from 0."""
    floor: Share = 0.0
    """Lowest rate as a share of the peak."""


class HeadStage(_Part):
    """Fit the last layer alone, on features of the frozen backbone.

    The features are computed once for all folds. The fit is a ridge-penalised
    (multinomial) logistic regression on standardised features, solved by L-BFGS
    to convergence: no learning rate, no epochs.
    """

    train: Literal["head"] = "head"
    """`head`: the last layer alone."""
    views: tuple[ViewName, ...] = ("identity", "hflip")
    """Views of each training image whose features are fitted."""
    l2: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    """Ridge penalty; `auto` chooses it on inner folds of the training rows."""


class FullStage(_Part):
    """Train all layers for some epochs."""

    train: Literal["all"] = "all"
    """`all`: every layer."""
    epochs: Count = 5
    """Passes over the training rows."""
    lr: Rate | None = None
    """Peak learning rate of this stage; null takes the optimizer's."""
    head_lr_factor: Rate = 1.0
    """The last layer's rate as a multiple of the stage's."""
    freeze_norm: bool = False
    """Keep the BatchNorm statistics of the start weights."""


Stage = Annotated[HeadStage | FullStage, Field(discriminator="train")]


class EarlyStop(_Part):
    """Stop a full stage when an inner part of the training rows stops improving.

    The held-out fold is never looked at: the inner part is taken, whole groups
    at a time, from the rows the member trains on.
    """

    patience: Count = 3
    """Epochs without a lower inner loss before the stage ends."""
    share: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    """Share of the training rows set aside to watch."""


class Engine(_Part):
    """What the speed probe chose, once per run; `auto` until then."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`bf16` computes in half precision where torch deems it safe; the last layer
    and the loss stay in full precision."""
    channels_last: bool | Literal["auto"] = "auto"
    """Memory order of images: channels last suits most CPUs and GPUs."""
    threads: tuple[Count, ...] | Literal["auto"] = "auto"
    """CPU threads of each fold's job."""


class Start(_Part):
    """Which weights a run started from; filled in once, then checked."""

    architecture: str = ""
    """timm's name of the network; empty until it is looked up."""
    kwargs: dict[str, Any] = {}
    """Arguments of `timm.create_model` that the weights file needs."""
    file: str = ""
    """Name of the local weights file; empty for timm's hub or no weights."""
    digest: str = ""
    """Digest of that file's bytes."""


class Recipe(_Part):
    """How one network is trained.

    Examples:
        >>> Recipe(network={"name": "resnet18"}, stages=[{"train": "all", "epochs": 3}]).stages
        (FullStage(train='all', epochs=3, lr=None, head_lr_factor=1.0, freeze_norm=False),)
    """

    seed: Annotated[int, Field(ge=0)] = 0
    """Fixes initial weights, order of rows, augmentation and dropout."""
    network: Network = Network()
    input: Input = Input()
    augment: Steps = ()
    """Random transforms of training images, by albumentations' names."""
    loss: Loss = Loss()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)] = (FullStage(),)
    """What is trained, in order."""
    batch_size: Count = 32
    """Images in one step."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay per step of the moving average of weights; 0 for none."""
    early_stop: EarlyStop | None = None
    tta: Annotated[tuple[ViewName, ...], Field(min_length=1)] = ("identity", "hflip")
    """Views averaged at prediction."""
    engine: Engine = Engine()
    start: Start = Start()

    def digest(self) -> str:
        """Return 16 hex digits over every field but `engine` and `start`."""
        chosen = self.model_dump(mode="json", exclude={"engine", "start"})
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


def write_recipe(recipe: Recipe) -> str:
    """Return a recipe as YAML that `read_recipe` reads back equal."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 but for `1e-4`, which people mean as a number."""


_Loader.add_implicit_resolver(
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


_STAGE_TAGS = {"head", "all"}


def _override(values: Mapping[str, Any], override: str) -> dict[str, Any]:
    path, equals, text = override.partition("=")
    if not equals or not path.strip():
        raise RecipeError(f"--set {override!r}: expected key=value, like optimizer.lr=1e-4.")
    keys = path.strip().split(".")
    try:
        value = _parse(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {override!r}: not readable as YAML: {error}") from None
    changed: dict[str, Any] = _set(values, keys, value, override)
    return changed


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
    path = [str(part) for part in detail["loc"]]
    # pydantic names the kind of stage in the path; the user did not write it there.
    where = ".".join(part for part in path if part not in _STAGE_TAGS)
    if detail["type"] == "extra_forbidden":
        known = _fields_at(path[:-1])
        return f"unknown key {where!r}{suggest(path[-1], known)} (known here: {', '.join(known)})"
    return f"{where} is {detail['input']!r}: {detail['msg']}"


def _fields_at(path: list[str]) -> list[str]:
    """Name the keys that are known at one place of a recipe."""
    models: list[type[BaseModel]] = [Recipe]
    for part in path:
        if part.isdigit():
            continue
        fields = [m.model_fields[part].annotation for m in models if part in m.model_fields]
        models = [model for field in fields for model in _models_in(field)] or [
            m for m in models if _tag(m) == part
        ]
    return sorted({name for model in models for name in model.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _tag(model: type[BaseModel]) -> str | None:
    field = model.model_fields.get("train")
    return None if field is None else str(field.default)
