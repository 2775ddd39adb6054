"""Code stays small enough to be read: a budget for functions and files."""

from __future__ import annotations

import ast
from pathlib import Path
from statistics import median

SOURCE = Path(__file__).resolve().parents[2] / "src" / "loupe"
MOST_IN_BODY = 60
MEDIAN_OF_BODIES = 10
MOST_IN_FILE = 450
LONGER: dict[str, str] = {}
"""What may be longer, `file.py` or `file.py:function`, and the reason."""


def count_body(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines of a body, without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def measure_functions(name: str, code: str) -> dict[str, int]:
    return {
        f"{name}:{node.name}": count_body(node)
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


CODE = {path.name: path.read_text(encoding="utf-8") for path in sorted(SOURCE.glob("*.py"))}
FILES = {name: len(code.splitlines()) for name, code in CODE.items()}
FUNCTIONS = {k: n for name, code in CODE.items() for k, n in measure_functions(name, code).items()}


def test_functions_and_files_keep_to_the_budget() -> None:
    over = {name: n for name, n in FUNCTIONS.items() if n > MOST_IN_BODY}
    over |= {name: n for name, n in FILES.items() if n > MOST_IN_FILE}
    # Both ways: an exception that is no longer needed is taken off the list.
    assert over.keys() == LONGER.keys(), over


def test_most_functions_are_short() -> None:
    assert median(FUNCTIONS.values()) <= MEDIAN_OF_BODIES


def test_a_docstring_does_not_count() -> None:
    code = (
        'def f():\n    """One.\n\n    Two.\n    """\n    a = 1\n\n    return a\ndef g():\n    "x"\n'
    )
    assert measure_functions("m.py", code) == {"m.py:f": 3, "m.py:g": 0}
