"""What people meet first when something is wrong: exit code, exception, and each part of the text.

The mistakes are made in `docs/mistakes.py`; the same answers stand in `docs/errors.md`.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from docs.mistakes import MISTAKES, Mistake, make

import loupe

BY_NAME = {mistake.name: mistake for mistake in MISTAKES}


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_an_answer_says_what_it_must(mistake: Mistake) -> None:
    answer = make(mistake)
    assert answer.code == mistake.code
    assert answer.kind == mistake.kind
    parts = (mistake.where, *mistake.found, mistake.expected, mistake.onward)
    missing = [part for part in parts if part not in answer.text]
    assert not missing, f"{missing} not in:\n{answer.text}"
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_an_answer_ends_as_a_sentence_does(mistake: Mistake) -> None:
    answer = make(mistake)
    if mistake.kind:
        assert answer.text.startswith("error: ")
        last = answer.text.splitlines()[-1]
        # Or with a command to be copied, on a line of its own.
        assert last.endswith((".", ")")) or last.startswith("  ")


def test_all_but_some_answers_say_how_to_go_on() -> None:
    assert not [mistake.name for mistake in MISTAKES if not mistake.onward]


def test_exit_codes_are_the_documented_ones() -> None:
    assert {mistake.code for mistake in MISTAKES if mistake.kind} == {2}
    assert {mistake.code for mistake in MISTAKES if not mistake.kind} == {1}
    kinds = [getattr(loupe, mistake.kind) for mistake in MISTAKES if mistake.kind]
    assert all(issubclass(kind, loupe.LoupeError) for kind in kinds)


@pytest.mark.parametrize("name", ["no-image-column", "leak", "row-twice"])
def test_a_process_of_its_own_answers_alike(name: str, tmp_path: Path) -> None:
    mistake = BY_NAME[name]
    mistake.prepare(tmp_path)
    command = [sys.executable, "-m", "loupe.cli", *shlex.split(mistake.command)[1:]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.strip() == make(mistake).text


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "loupe.cli", "--debug", "check", "absent.csv"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "Traceback" in done.stderr
    assert "TableError" in done.stderr


@pytest.mark.parametrize(
    "words", [["trian"], ["check"], ["check", "t.csv", "--fold", "3"], ["split", "t.csv"]]
)
def test_a_wrong_command_line_shows_its_usage(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from loupe.cli import main

    monkeypatch.setattr(sys, "argv", ["loupe", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Usage: " in printed.err
    assert "Error: " in printed.err
