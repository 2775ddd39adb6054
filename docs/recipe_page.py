"""The page and the JSON schema of a recipe, from the fields themselves.

What a field takes and means is read from the settings; here stand the order of the
page, its examples, and what no field can say.
"""

from __future__ import annotations

import functools
import inspect
import json
import re
import textwrap
from collections.abc import Mapping
from typing import Any

from pydantic import AfterValidator, BaseModel, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from loupe.augment import STEPS
from loupe.choices import Loss, Optimizer, Schedule
from loupe.maskevaluation import list_mask_metrics
from loupe.recipe import Recipe
from loupe.settings import Stage
from loupe.watching import list_metrics

SCHEMA = "recipe.schema.json"
NOTE = "<!-- Written by `make docs`; changes made here are lost. -->\n"
"""Second line of every generated page."""


def write_recipe_page() -> str:
    """Describe every field of a recipe, and every augmentation step."""
    schema = _schema()
    parts = [name for name, field in schema["properties"].items() if _models_of(field)]
    sections = [_RECIPE_INTRO, _list_contents(parts), _WHOLE, _field_table(schema)]
    for name in parts:
        sections += _describe_part(name, schema)
        if name == "checkpoint":
            sections.append(_describe_metrics())
    sections += [_AUGMENT_INTRO, *(_describe_step(kind) for kind in STEPS.values())]
    return "\n".join(sections)


def write_recipe_schema() -> str:
    """Return the JSON schema that editors check a recipe with."""
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    schema = dialect | Recipe.model_json_schema(schema_generator=_WithFactories)
    for name, model in schema["$defs"].items():
        # Else a part without the key that picks its kind would be of all kinds at once.
        if name not in _default_kinds() and (key := _kind_key(model)):
            model["required"] = [key, *model.get("required", [])]
    return json.dumps(schema, indent=1) + "\n"


_RECIPE_INTRO = f"""# Recipe
{NOTE}
A recipe is a YAML file that fixes how one network is trained; what only changes the speed is an
option of `loupe train`. Every field has a default, an unknown one is an error, and
`--set optimizer.lr=1e-4` changes one from the command line. Worked recipes are in `recipes/`.

An editor that knows YAML schemas completes and checks a recipe if its first line is
`# yaml-language-server: $schema=` and the place of `docs/{SCHEMA}`.
"""

_CONTENTS = {
    "The network and its input": ["network", "input"],
    "What it sees in training": ["augment", "mixing"],
    "How it learns": ["loss", "optimizer", "schedule", "stages"],
    "Masks": ["decoder", "mask_loss", "masks"],
    "What watches it": ["early_stop", "checkpoint", "metrics"],
    "Prediction": ["tta"],
    "Filled in by a run": ["engine", "start"],
}

_WHOLE = """## The whole

```yaml
network: {name: tf_efficientnetv2_b0}
input: {size: 224}
augment: [HorizontalFlip, Rotate: {limit: 20}]
optimizer: {lr: 1e-4}
stages:
  - {train: head}                          # the last layer, on frozen features
  - {train: all, epochs: 3, freeze_norm: true}
early_stop: {metric: f1_macro, patience: 2}
```
"""

_PARTS = {
    "network": """```yaml
network:
  name: EfficientNetB6-noisy-student
  drop_path: 0.2
  head: {widths: [128, 64], batch_norm: true, dropout: 0.5, init: he_normal}
```
""",
    "input": """```yaml
input: {size: 512, resize: pad}            # or {size: x2}, {size: [600, 800], crop: 512}
```
""",
    "mixing": """```yaml
mixing: {cutmix: 0.5, skip_last: 2}        # the last two epochs see whole images
```

The probabilities of `cutmix` and `mixup` share one draw, so that a batch goes through one of them
at most.
""",
    "loss": """What training minimises.

```yaml
loss: {name: focal, gamma: 2, class_weights: {crack: 3}}
```
""",
    "decoder": """```yaml
decoder: {architecture: UnetPlusPlus, options: {decoder_attention_type: scse}}
```

With it, `head_lr_factor` of a stage is the decoder's rate over the encoder's, and
`freeze: [backbone]` keeps the encoder as it is.
""",
    "mask_loss": """```yaml
decoder: {architecture: Unet}
mask_loss: {bce: 1, dice: 1, over: batch, pos_weight: {crack: 5}}
```
""",
    "masks": """```yaml
decoder: {architecture: Unet}
masks: {networks: per_class, rows: nonempty, thresholds: [0.3, 0.5, 0.7], cut: triplet}
```
""",
    "optimizer": """How the weights are moved.

```yaml
optimizer: {name: adam, lr: 1e-3, epsilon: 1e-7}
```
""",
    "schedule": """How the learning rate moves within one stage.

```yaml
schedule: {name: plateau, metric: f1_macro, factor: 0.5, patience: 3}
```
""",
    "stages": """What is trained: a list of one stage or more, done in order. A stage starts from
the weights of the one before, with a new optimizer.

```yaml
stages:
  - {train: all, freeze: [backbone], epochs: 3, lr: 1e-3}
  - {train: all, epochs: 10, lr: 1e-4, loss: {name: taylor}, mixing: {cutmix: 1.0}}
```
""",
    "early_stop": """```yaml
early_stop: {metric: pr_auc, patience: 5}
```

Without a `checkpoint` of its own, a stage then ends with the weights of its best epoch.
""",
    "checkpoint": """```yaml
checkpoint: {metric: recall/crack, average: 3}
```
""",
    "tta": """The views of an image whose probabilities are averaged at prediction: a list of
names, or random draws.

```yaml
tta: {draws: 4, augment: [HorizontalFlip, VerticalFlip]}   # or [identity, hflip]
```
""",
    "engine": "A run fills this in; leave it out, or say what must be so on every machine.\n",
    "start": "A run fills this in; leave it out.\n",
}
"""What a part's own docstring does not say, by its key."""

_FEW = 2  # of so many kinds each is described in full

_METRICS_INTRO = """## metrics

What can be watched, by name; `history.csv` has a column for each. `loss` is what training
minimises; with it `log_loss` and `brier` are the ones that are better when lower. For a class with
another name write that in place of `crack`.
"""

_AUGMENT_INTRO = """## augment

A list of steps, in order: `- HorizontalFlip` or `- Rotate: {limit: 20, p: 0.5}`. All moves of a
sample become one map and its pixels are resampled once; then the steps that change pixels where
they are act in their order. A range is written `[low, high]`; where a number alone is read, the
meaning says what for. `p` is the probability that a step acts on a sample.
"""


def _list_contents(parts: list[str]) -> str:
    listed = [name for names in _CONTENTS.values() for name in names]
    if sorted(listed) != sorted([*parts, "augment", "metrics"]):
        raise ValueError(f"_CONTENTS names {listed}; the parts of a recipe are {parts}")
    lines = ["- [The whole](#the-whole): every key, and an example"]
    for title, names in _CONTENTS.items():
        lines.append(f"- {title}: " + ", ".join(f"[{name}](#{name})" for name in names))
    return "\n".join(lines) + "\n"


def _describe_metrics() -> str:
    """List what early stopping, checkpoint and plateau can watch."""
    rows = ["| table | of all classes | of one class |", "|---|---|---|"]
    for title, exclusive in (("exclusive classes", True), ("columns that stand alone", False)):
        names = list_metrics(["crack"], exclusive=exclusive)
        overall = ", ".join(f"`{name}`" for name in names if "/" not in name)
        single = ", ".join(f"`{name}`" for name in names if "/" in name)
        rows.append(f"| {title} | {overall} | {single} |")
    masks = list_mask_metrics(["crack"])
    overall, single = (
        ", ".join(f"`{name}`" for name in masks if ("/" in name) == inner)
        for inner in (False, True)
    )
    rows.append(f"| masks | {overall} | {single} |")
    return "\n".join([_METRICS_INTRO, *rows]) + "\n"


def _describe_part(name: str, schema: Mapping[str, Any]) -> list[str]:
    """Describe a part, each of its kinds, and the parts within it."""
    field = schema["properties"][name]
    kinds = [schema["$defs"][model] for model in _models_of(field)]
    if len(kinds) > 1:
        return [f"## {name}\n", _PARTS[name], *_describe_kinds(kinds)]
    texts = [_prose(kinds[0]["description"]), _PARTS[name]]
    # With another form beside it, a part's docstring speaks of its table alone.
    sections = [f"## {name}\n", *(reversed(texts) if "oneOf" in field else texts)]
    if field.get("default", "") is None:
        sections.append("Absent, or `null`, it is not done; this is the default.\n")
    sections.append(_field_table(kinds[0]))
    for inner, value in kinds[0]["properties"].items():
        if found := _models_of(value):
            model = schema["$defs"][found[0]]
            sections += [f"### {name}: {inner}\n", _prose(model["description"])]
            sections.append(_field_table(model))
    return sections


def _describe_kinds(kinds: list[Mapping[str, Any]]) -> list[str]:
    """Show what many kinds have in common once, then each kind; the default is first."""
    key = _kind_key(kinds[0])
    shared = [
        name
        for name, field in kinds[0]["properties"].items()
        if len(kinds) > _FEW and all(kind["properties"].get(name) == field for kind in kinds)
    ]
    tags = [kind["properties"][key]["default"] for kind in kinds]
    names = ", ".join(f"[`{tag}`](#{key}-{tag})" for tag in tags)
    sections = [f"`{key}` picks the kind: {names}. A kind has its own fields and no others.\n"]
    if shared:
        sections += ["Every kind has these:\n", _field_table(kinds[0], shared)]
    for kind, tag in zip(kinds, tags, strict=True):
        default = "The default. " if kind["title"] in _default_kinds() else ""
        own = [name for name in kind["properties"] if name != key and name not in shared]
        sections += [f"### {key}: {tag}\n", _prose(default + kind["description"])]
        if own:
            sections.append(_field_table(kind, own))
    return sections


class _WithFactories(GenerateJsonSchema):
    """Write down what a factory makes as a default, like any other."""

    def get_default_value(self, schema: core_schema.WithDefaultSchema) -> Any:
        factory: Any = schema.get("default_factory")
        return factory() if factory else super().get_default_value(schema)


@functools.cache
def _schema() -> Mapping[str, Any]:
    return Recipe.model_json_schema(schema_generator=_WithFactories)


@functools.cache
def _default_kinds() -> frozenset[str]:
    """Name the models that an empty part is read as."""
    unions: tuple[Any, ...] = (Loss, Optimizer, Schedule, Stage)
    return frozenset(type(TypeAdapter(kind).validate_python({})).__name__ for kind in unions)


@functools.cache
def _anchors() -> Mapping[str, str]:
    """Say where on the page each model stands."""
    schema = _schema()
    found = {m: name for name, f in schema["properties"].items() for m in _models_of(f)}
    for model, place in list(found.items()):
        for name, field in schema["$defs"][model]["properties"].items():
            for inner in _models_of(field):
                found.setdefault(inner, f"{place}-{name}")
    return found


def _kind_key(model: Mapping[str, Any]) -> str:
    """Return the key that picks a kind; "" for a part of one kind."""
    return next((name for name, field in model["properties"].items() if "const" in field), "")


def _field_table(model: Mapping[str, Any], names: list[str] | None = None) -> str:
    rows = ["| field | values | default | meaning |", "|---|---|---|---|"]
    for name, field in model["properties"].items():
        if names is None or name in names:
            meaning = _one_line(field.get("description") or _meaning(name, field))
            rows.append(f"| `{name}` | {_values(field)} | {_default(field)} | {meaning} |")
    return "\n".join(rows) + "\n"


def _meaning(name: str, field: Mapping[str, Any]) -> str:
    """Take the first paragraph of what is said of a part."""
    models = _models_of(field)
    if not models:
        return ""
    text = _schema()["$defs"][models[0]]["description"] if len(models) == 1 else _PARTS[name]
    return str(text).partition("\n\n")[0]


def _describe_step(kind: type[BaseModel]) -> str:
    """Show a step; its parameters are explained in its docstring."""
    prose, _, attributes = inspect.cleandoc(kind.__doc__ or "").partition("\nAttributes:\n")
    meanings = _read_attributes(attributes.partition("\n\n")[0])
    rows = ["| parameter | values | default | meaning |", "|---|---|---|---|"]
    properties = kind.model_json_schema()["properties"]
    for name in [n for n in properties if n not in {"name", "p"}] + ["p"]:
        values = _values(properties[name]) + _limits(kind.model_fields[name])
        meaning = meanings.get(name, "Probability." if name == "p" else "")
        rows.append(f"| `{name}` | {values} | {_default(properties[name])} | {meaning} |")
    return "\n".join([f"### {kind.__name__}\n", _prose(prose), *rows]) + "\n"


def _read_attributes(text: str) -> dict[str, str]:
    """Read the part "Attributes:" of a docstring."""
    found = re.findall(r"^(\w+): (.*(?:\n .*)*)", textwrap.dedent(text), re.MULTILINE)
    return {name: _one_line(meaning) for name, meaning in found}


def _limits(field: FieldInfo) -> str:
    """Say between which values a range must lie; the schema cannot."""
    for check in field.metadata:
        if isinstance(check, AfterValidator):
            ends = inspect.getclosurevars(check.func).nonlocals
            if {"low", "high"} <= ends.keys():
                return f" in [{ends['low']:g}, {ends['high']:g}]"
    return ""


def _values(field: Mapping[str, Any]) -> str:
    """Say in words what a field takes, from its JSON schema."""
    if "$ref" in field:
        place = _anchors()[str(field["$ref"]).rpartition("/")[2]]
        return f"see [{place.replace('-', ': ')}](#{place})"
    for several in ("anyOf", "oneOf"):
        if several in field:
            return " or ".join(dict.fromkeys(_values(one) for one in field[several]))
    if "enum" in field or "const" in field:
        choices = field.get("enum", [field.get("const")])
        return ", ".join(f"`{json.dumps(choice).strip(chr(34))}`" for choice in choices)
    return _list_values(field) if field.get("type") == "array" else _plain_values(field)


def _list_values(field: Mapping[str, Any]) -> str:
    items = field.get("items", {})
    if "prefixItems" in field or field.get("maxItems") == 2:
        kind, _, limits = _values((field.get("prefixItems") or [items])[0]).partition(" ")
        return f"[{kind}, {kind}]" + (f", each {limits}" if limits else "")
    if "oneOf" in items:
        return f"list, {_values(items)}"
    if "anyOf" in items:
        return "list, see [augment](#augment)"
    return f"list of {_values(items)}"


def _plain_values(field: Mapping[str, Any]) -> str:
    if "pattern" in field:
        return "a factor such as `x2`"
    if isinstance(inner := field.get("additionalProperties"), Mapping):
        return f"mapping of names to {_values(inner)}"
    words = {"string": "text", "boolean": "`true`, `false`", "null": "`null`", "object": "mapping"}
    word = words.get(field["type"], field["type"])
    limits = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    ends = [f"{sign} {field[key]:g}" for key, sign in limits.items() if key in field]
    return " ".join([word, ", ".join(ends)]).strip()


def _default(field: Mapping[str, Any]) -> str:
    if "default" not in field:
        return "needed"
    value = field["default"]
    if isinstance(value, list) and any(isinstance(part, dict) for part in value):
        return "one stage of 5 epochs"
    return "" if _models_of(field) and isinstance(value, dict) else f"`{_spell(value)}`"


def _spell(value: object) -> str:
    """Spell a value as YAML would."""
    if isinstance(value, list):
        return "[" + ", ".join(_spell(part) for part in value) + "]"
    if isinstance(value, float):
        return f"{value:g}"
    return value if value and isinstance(value, str) else json.dumps(value)


def _models_of(field: Mapping[str, Any]) -> list[str]:
    """Name the models that a field may hold, or its entries if it is a list."""
    inner = [*field.get("anyOf", []), *field.get("oneOf", [])]
    inner += [field["items"]] if "items" in field else []
    own = [str(field["$ref"]).rpartition("/")[2]] if "$ref" in field else []
    return own + [model for one in inner for model in _models_of(one)]


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _prose(text: str) -> str:
    return text.strip() + "\n"
