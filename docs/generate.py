"""Write the pages that follow from the code: `python -m docs.generate`.

Each page is a function without arguments that returns its text, so that a test can
compare it with the file. `PAGES` lists them by the path they are written to.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from pydantic import AfterValidator, BaseModel
from pydantic.fields import FieldInfo

import loupe
from docs.mistakes import MISTAKES, make
from loupe.augment import STEPS
from loupe.cli import cli
from loupe.recipe import FullStage, HeadStage, Recipe

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 100
SCHEMA = "recipe.schema.json"


def write_recipe_page() -> str:
    """Describe every field of a recipe, and every augmentation step."""
    schema = Recipe.model_json_schema()
    models = schema["$defs"]
    parts = [name for name, field in schema["properties"].items() if _model_of(field)]
    whole = [name for name in schema["properties"] if name not in parts]
    sections = [_RECIPE_INTRO, "## The whole\n", _field_table(schema, whole)]
    for name in parts:
        field = schema["properties"][name]
        model = models[_model_of(field)]
        sections += [f"## {name}\n", _prose(model["description"]), _field_table(model)]
        if field.get("default", "") is None:
            sections.append("Absent, or `null`, it is not done; this is the default.\n")
    sections += ["## stages\n", "A list of one or more; each is one of the two.\n"]
    for stage in (HeadStage, FullStage):
        model = models[stage.__name__]
        kind = model["properties"]["train"]["default"]
        sections += [f"### train: {kind}\n", _prose(model["description"]), _field_table(model)]
    sections += [_AUGMENT_INTRO, *(_describe_step(kind) for kind in STEPS.values())]
    return "\n".join(sections)


def write_recipe_schema() -> str:
    """Return the JSON schema that editors check a recipe with."""
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps(dialect | Recipe.model_json_schema(), indent=1) + "\n"


def write_commands_page() -> str:
    """Show the help of every command."""
    sections = [_COMMANDS_INTRO, _fence("text", _show_help(cli, "loupe"))]
    for name, command in cli.commands.items():
        sections += [f"## {name}\n", _fence("text", _show_help(command, f"loupe {name}"))]
    return "\n".join(sections)


def write_errors_page() -> str:
    """Show the answers to the mistakes that people make first."""
    sections = [_ERRORS_INTRO]
    for mistake in MISTAKES:
        answer = make(mistake)
        kind = f"In Python: `loupe.{answer.kind}`. " if answer.kind else ""
        sections += [
            f"## {mistake.title}\n",
            _fence("console", f"$ {mistake.command}\n{answer.text}"),
            f"{kind}Exit code {answer.code}.\n",
        ]
    return "\n".join(sections)


def write_python_page() -> str:
    """Show every public name with its signature and its docstring."""
    sections = [_PYTHON_INTRO]
    functions = [name for name in loupe.__all__ if inspect.isfunction(getattr(loupe, name))]
    for name in (*functions, *(n for n in loupe.__all__ if n not in functions)):
        public = getattr(loupe, name)
        text = inspect.cleandoc(public.__doc__ or "")
        body = text if name not in functions else f"{_sign(name, public)}\n\n{text}"
        sections += [f"## {name}\n", _fence("text", body)]
    return "\n".join(sections)


def write_public_api() -> str:
    """List every public name with all that a caller may rely on."""
    return "".join(f"{line}\n" for name in loupe.__all__ for line in _list_public(name))


PAGES: Mapping[str, Callable[[], str]] = {
    "docs/recipe.md": write_recipe_page,
    f"docs/{SCHEMA}": write_recipe_schema,
    "docs/commands.md": write_commands_page,
    "docs/errors.md": write_errors_page,
    "docs/python.md": write_python_page,
    "tests/golden/public_api.txt": write_public_api,
}
"""Path to what writes it."""

_NOTE = "<!-- Written by `make docs`; changes made here are lost. -->\n"

_RECIPE_INTRO = f"""# Recipe
{_NOTE}
A recipe is a YAML file that fixes how one network is trained; what only changes the speed is an
option of `loupe train`. Every field has a default, an unknown one is an error, and
`--set optimizer.lr=1e-4` changes one from the command line. Worked recipes are in `recipes/`.

An editor that knows YAML schemas completes and checks a recipe if its first line is
`# yaml-language-server: $schema=` and the place of `docs/{SCHEMA}`.
"""

_AUGMENT_INTRO = """## augment

A list of steps, in order: `- HorizontalFlip` or `- Rotate: {limit: 20, p: 0.5}`. All moves of a
sample become one map and its pixels are resampled once; then the steps that change pixels where
they are act in their order. A range is written `[low, high]`; where a number alone is read, the
meaning says what for. `p` is the probability that a step acts on a sample.
"""

_COMMANDS_INTRO = f"""# Commands
{_NOTE}
Exit codes: 0 done; 1 done, but something must be looked at; 2 the input cannot be used as it is;
130 interrupted. The same command continues what was interrupted.
"""

_ERRORS_INTRO = f"""# Errors
{_NOTE}
The mistakes that people make first, and what Loupe answers. An error says where, what was found,
what was expected and how to go on; all findings of one kind stand in one message. `--debug` before
the command shows the traceback.
"""

_PYTHON_INTRO = f"""# From Python
{_NOTE}
Every command is a function of the same name; both do the same.
"""


def _field_table(model: Mapping[str, Any], names: list[str] | None = None) -> str:
    rows = ["| field | values | default | meaning |", "|---|---|---|---|"]
    for name, field in model["properties"].items():
        if names is None or name in names:
            meaning = _one_line(field.get("description", ""))
            rows.append(f"| `{name}` | {_values(field)} | {_default(field)} | {meaning} |")
    return "\n".join(rows) + "\n"


def _describe_step(kind: type[BaseModel]) -> str:
    """Show a step; its parameters are explained in its docstring."""
    prose, _, attributes = inspect.cleandoc(kind.__doc__ or "").partition("\nAttributes:\n")
    meanings = _read_attributes(attributes)
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
    for several in ("anyOf", "oneOf"):
        if several in field and "discriminator" not in field:
            return " or ".join(dict.fromkeys(_values(one) for one in field[several]))
    if "enum" in field or "const" in field:
        choices = field.get("enum", [field.get("const")])
        return ", ".join(f"`{json.dumps(choice).strip(chr(34))}`" for choice in choices)
    if field.get("type") == "array":
        return _list_values(field)
    return _number_values(field)


def _list_values(field: Mapping[str, Any]) -> str:
    items = field.get("items", {})
    if "prefixItems" in field or field.get("maxItems") == 2:
        kind, _, limits = _values((field.get("prefixItems") or [items])[0]).partition(" ")
        return f"[{kind}, {kind}]" + (f", each {limits}" if limits else "")
    if "discriminator" in items or "anyOf" in items:
        return "list, see below"
    return f"list of {_values(items)}"


def _number_values(field: Mapping[str, Any]) -> str:
    words = {"string": "text", "boolean": "`true`, `false`", "null": "`null`", "object": "mapping"}
    word = words.get(field["type"], field["type"])
    limits = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    ends = [f"{sign} {field[key]:g}" for key, sign in limits.items() if key in field]
    return " ".join([word, ", ".join(ends)]).strip()


def _default(field: Mapping[str, Any]) -> str:
    if "default" not in field:
        return "needed"
    value = field["default"]
    nested = isinstance(value, list) and any(isinstance(part, dict) for part in value)
    return "see below" if nested else f"`{_spell(value)}`"


def _spell(value: object) -> str:
    """Spell a value as YAML would."""
    if isinstance(value, list):
        return "[" + ", ".join(_spell(part) for part in value) + "]"
    if isinstance(value, float):
        return f"{value:g}"
    return value if value and isinstance(value, str) else json.dumps(value)


def _model_of(field: Mapping[str, Any]) -> str:
    """Name the model that a field holds; "" if it holds none."""
    options = [field, *field.get("anyOf", [])]
    found = (str(one["$ref"]).rpartition("/")[2] for one in options if "$ref" in one)
    return next(found, "")


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _prose(text: str) -> str:
    return text.strip() + "\n"


def _fence(language: str, text: str) -> str:
    body = "\n".join(line.rstrip() for line in text.strip().splitlines())
    return f"```{language}\n{body}\n```\n"


def _show_help(command: click.Command, name: str) -> str:
    context = click.Context(command, info_name=name, max_content_width=WIDTH, terminal_width=WIDTH)
    return command.get_help(context)


class _Words(str):
    """An annotation that is shown without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _read_signature(function: Callable[..., Any]) -> inspect.Signature:
    found = inspect.signature(function)
    parameters = [
        p if p.annotation is p.empty else p.replace(annotation=_Words(p.annotation))
        for p in found.parameters.values()
    ]
    return found.replace(parameters=parameters, return_annotation=_Words(found.return_annotation))


def _sign(name: str, function: Callable[..., Any]) -> str:
    """Write a signature, over several lines where one is too long."""
    signature = _read_signature(function)
    line = f"{name}{signature}"
    if len(line) <= WIDTH:
        return line
    parameters = [str(parameter) for parameter in signature.parameters.values()]
    kinds = [parameter.kind for parameter in signature.parameters.values()]
    if inspect.Parameter.KEYWORD_ONLY in kinds:
        parameters.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
    body = "".join(f"    {parameter},\n" for parameter in parameters)
    return f"{name}(\n{body}) -> {signature.return_annotation}"


def _list_public(name: str) -> Iterator[str]:
    public = getattr(loupe, name)
    if inspect.isfunction(public):
        yield f"{name}{_read_signature(public)}"
        return
    bases = ", ".join(base.__name__ for base in public.__bases__ if base is not object)
    yield f"class {name}({bases})" if bases else f"class {name}"
    if issubclass(public, BaseModel):
        yield from (f"    {field}" for field in public.model_fields)
    elif not issubclass(public, BaseException):
        yield f"    {_read_signature(public)}"
    for member, value in sorted(vars(public).items()):
        if member.startswith(("_", "model_")):
            continue
        if inspect.isfunction(value):
            yield f"    .{member}{_read_signature(value)}"
        elif isinstance(value, property) and value.fget is not None:
            yield f"    .{member} -> {_read_signature(value.fget).return_annotation}"


def main() -> None:
    """Write all pages, and name those that changed."""
    for place, write in PAGES.items():
        path, text = ROOT / place, write()
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"wrote {place}\n")


if __name__ == "__main__":
    main()
