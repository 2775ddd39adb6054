"""The pages are true: generated ones are current, and what they show works.

A ```python block that cannot run by itself is marked ```python no-run.
"""

from __future__ import annotations

import inspect
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest
import yaml
from docs.generate import PAGES, ROOT

import loupe
from loupe import read_recipe
from loupe.cli import cli
from loupe.defaults import choose_recipe, scratch_recipe
from loupe.recipe import write_recipe
from loupe.table import Table

TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
SHELLS = {"bash", "console", "sh", "shell"}


class Block(NamedTuple):
    """A fenced block: where it begins, its language, what else its fence says, its text."""

    where: str
    language: str
    info: str
    text: str


def read_blocks(name: str, text: str) -> Iterator[Block]:
    for found in re.finditer(r"(?ms)^```(\w+)[ \t]*([^\n]*)\n(.*?)^```", text):
        line = text.count("\n", 0, found.start()) + 1
        yield Block(f"{name}:{line}", *found.groups())


def list_blocks() -> list[Block]:
    pages = [(path, path.read_text(encoding="utf-8")) for path in TEXTS]
    return [b for path, text in pages for b in read_blocks(str(path.relative_to(ROOT)), text)]


BLOCKS = list_blocks()
CODE = [b for b in BLOCKS if b.language == "python" and "no-run" not in b.info]


def read_commands(block: Block) -> Iterator[str]:
    """Find the `loupe` commands of a shell block; in a console they follow a `$`."""
    text = re.sub(r"\\\n\s*", " ", block.text)
    prompt = r"\$ " if block.language == "console" else r"(?:\$ )?"
    yield from re.findall(rf"(?m)^\s*{prompt}(loupe\s.*)$", text)


def read_inline(text: str) -> list[str]:
    """Find the commands in running text, without fenced blocks."""
    text = re.sub(r"(?ms)^```.*?^```", "", text)
    return [" ".join(found.split()) for found in re.findall(r"`(loupe\s[^`]+)`", text)]


def split_words(command: str) -> list[str]:
    """Split into words, up to what only the shell reads."""
    words = shlex.split(command, comments=True)
    ends = [place for place, word in enumerate(words) if re.fullmatch(r"[|;&<>]+", word)]
    return words[: min(ends, default=len(words))]


def parse_command(command: str, *, whole: bool = True) -> None:
    """Parse a command as the command line would, without running it.

    Args:
        command: It starts with `loupe`.
        whole: False lets a command leave out what it needs, as in running text.
    """
    words = [word for word in split_words(command)[1:] if word != "--debug"]
    if words[0].startswith("-"):
        assert words[0] in {"--help", "-h", "--version"}, command
        return
    assert words[0] in cli.commands, f"{command}: there is no such command"
    try:
        cli.commands[words[0]].make_context(words[0], words[1:])
    except click.exceptions.Exit:
        pass  # --help
    except click.MissingParameter:
        if whole:
            raise


@pytest.mark.parametrize("place", PAGES)
def test_generated_pages_are_current(place: str) -> None:
    text = (ROOT / place).read_text(encoding="utf-8")
    assert text == PAGES[place](), f"{place} is old; run: make docs"


@pytest.mark.parametrize("block", CODE, ids=lambda block: block.where)
def test_python_blocks_run(
    block: Block, tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A block finds a table and its images, as the pages assume.
    shutil.copytree(tiles, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    exec(compile(block.text, block.where, "exec"), {"__name__": "__main__"})  # noqa: S102


COMMANDS = [(b.where, c) for b in BLOCKS if b.language in SHELLS for c in read_commands(b)]


@pytest.mark.parametrize(("where", "command"), COMMANDS)
def test_commands_of_the_pages_parse(where: str, command: str) -> None:
    parse_command(command)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_commands_in_running_text_parse(path: Path) -> None:
    for command in read_inline(path.read_text(encoding="utf-8")):
        parse_command(command, whole=False)


def test_every_command_and_every_function_has_its_place() -> None:
    commands = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert re.findall(r"(?m)^## (\w+)$", commands) == list(cli.commands)
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    assert set(re.findall(r"(?m)^## (\w+)$", page)) == set(loupe.__all__)
    for name in (n for n in loupe.__all__ if inspect.isfunction(getattr(loupe, n))):
        assert f"\n{name}(" in page, f"{name} has no signature in docs/python.md"


def test_links_between_pages_lead_somewhere() -> None:
    lost = [
        f"{path.name}: {target}"
        for path in TEXTS
        for target in re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8"))
        if "://" not in target and not (path.parent / target).exists()
    ]
    assert not lost


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_load_and_come_back(path: Path, tmp_path: Path) -> None:
    recipe = read_recipe(path)
    copy = tmp_path / "copy.yaml"
    copy.write_text(write_recipe(recipe), encoding="utf-8")
    assert read_recipe(copy) == recipe
    assert read_recipe(copy).digest() == recipe.digest()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_say_how_to_run_them(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    command = text.partition("\n")[0].removeprefix("# ")
    assert f"recipes/{path.name}" in split_words(command)
    parse_command(command)
    assert "# expect: see benchmarks/results" in text


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_write_only_what_they_mean(path: Path) -> None:
    """Engine and start are found out by a run; a worked recipe must not fix them."""
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert not written.keys() & {"engine", "start"}


def test_recipes_are_the_defaults_written_out(exclusive: Table, weights: Path) -> None:
    assert read_recipe(ROOT / "recipes" / "scratch.yaml") == scratch_recipe(exclusive)
    picked = choose_recipe(exclusive, weights, device="cpu").recipe
    written = read_recipe(ROOT / "recipes" / "finetune.yaml")
    assert written.model_copy(update={"network": picked.network}) == picked
    assert written.network.pretrained


def test_blocks_and_commands_are_seen() -> None:
    page = "a\n```python no-run\nx\n```\n```console\n$ loupe check \\\n  t.csv # c\nloupe x\n```\n"
    blocks = list(read_blocks("p.md", page))
    assert [b.where for b in blocks] == ["p.md:2", "p.md:5"]
    assert blocks[0].info == "no-run"
    assert [split_words(c) for c in read_commands(blocks[1])] == [["loupe", "check", "t.csv"]]
    assert read_inline("run `loupe check\nT` twice") == ["loupe check T"]


@pytest.mark.parametrize("command", ["loupe trian t.csv", "loupe check"])
def test_wrong_commands_are_seen(command: str) -> None:
    with pytest.raises((AssertionError, click.UsageError)):
        parse_command(command)


def test_unknown_options_are_seen() -> None:
    with pytest.raises(click.NoSuchOption):
        parse_command("loupe check t.csv --imagse i")
