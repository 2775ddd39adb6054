"""What the command line shows: numbers as they are, user text never as markup."""

import io

import pytest
from rich.console import Console

from loupe.checking import check
from loupe.intervals import Score
from loupe.terminal import LineReporter, make_console, make_reporter, show_check, show_scores


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=200, highlight=False)


def text_of(console):
    return console.file.getvalue()


def a_score(metric, class_name="", value=0.5):
    return Score(
        metric=metric, class_name=class_name, value=value, low=value - 0.1, high=value + 0.1,
        fold_mean=value, fold_std=0.01, n=12,
    )  # fmt: skip


def test_scores_are_shown_with_interval_and_stamp(console):
    show_scores(console, [a_score("accuracy", value=0.8125), a_score("f1", "[b]ok")], ["LEAK: x"])
    shown = text_of(console)
    assert "! LEAK: x" in shown
    assert "0.8125  0.7125 - 0.9125" in shown
    assert "[b]ok" in shown  # a class may be named like markup
    assert "0.500 (0.40-0.60)" in shown


def test_check_says_what_must_be_fixed(console, exclusive):
    show_check(console, check(exclusive))
    assert "nothing must be fixed" in text_of(console)


def test_lines_name_the_work_and_how_long_it_took(console, monkeypatch):
    reporter = LineReporter(console)
    monkeypatch.setattr("loupe.terminal._LINE_EVERY_S", 0.0)
    reporter.begin("decode", 4)
    reporter.advance(2)
    reporter.end("all of [them]")
    shown = text_of(console)
    assert "decode: 2/4" in shown
    assert "✓ decode (0.0 s): all of [them]" in shown


def test_without_a_terminal_lines_are_neither_wrapped_nor_drawn(capsys):
    console = make_console()
    assert isinstance(make_reporter(console), LineReporter)
    console.print("x" * 500)
    assert "x" * 500 + "\n" in capsys.readouterr().out
