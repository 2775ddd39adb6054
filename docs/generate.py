"""Write the pages that follow from the code: `python -m docs.generate`.

Each page is a function without arguments that returns its text, so that a test can
compare it with the file. `PAGES` lists them by the path they are written to.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel

import loupe
from docs.mistakes import MISTAKES, make
from docs.recipe_page import NOTE, SCHEMA, write_recipe_page, write_recipe_schema
from loupe.cli import cli

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 100


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

_COMMANDS_INTRO = f"""# Commands
{NOTE}
Exit codes: 0 done; 1 done, but something must be looked at; 2 the input cannot be used as it is;
130 interrupted. The same command continues what was interrupted.
"""

_ERRORS_INTRO = f"""# Errors
{NOTE}
The mistakes that people make first, and what Loupe answers. An error says where, what was found,
what was expected and how to go on; all findings of one kind stand in one message. `--debug` before
the command shows the traceback.
"""

_PYTHON_INTRO = f"""# From Python
{NOTE}
Every command is a function of the same name; both do the same.
"""


def _fence(language: str, text: str) -> str:
    body = "\n".join(line.rstrip() for line in text.strip().splitlines())
    return f"```{language}\n{body}\n```\n"


def _show_help(command: click.Command, name: str) -> str:
    # click keeps the first --help that it made, whoever asked for it and in what words.
    fresh = copy.copy(command)
    fresh.__dict__["_help_option"] = None
    context = click.Context(
        fresh,
        info_name=name,
        max_content_width=WIDTH,
        terminal_width=WIDTH,
        help_option_names=["-h", "--help"],  # as the program itself has it
    )
    return fresh.get_help(context)


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
