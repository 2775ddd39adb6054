"""What users may rely on: names, signatures, one command for each verb, a quick start."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import time
from statistics import median

import pytest

import loupe
from loupe.cli import cli

READERS = {"open_run", "read_cascade", "read_recipe", "read_rule", "read_table"}
"""Public functions that are no verb of the command line."""
SIDES = {"merge_reviews": "review", "score_masks": "score", "try_variants": "cascade"}
"""The other function of a command that has two: by its arguments it shows one or the other."""
SLOW_TO_LOAD = {
    "torch", "torchvision", "timm", "safetensors", "huggingface_hub", "scipy", "sklearn", "pandas",
    "matplotlib",
}  # fmt: skip
SLOWEST_HELP_S = 3.0  # about 0.3 s on a quiet machine; tests run on shared ones


def verbs() -> set[str]:
    functions = {name for name in loupe.__all__ if inspect.isfunction(getattr(loupe, name))}
    return functions - READERS - SIDES.keys()


def loaded_after(code: str) -> set[str]:
    """Run code in a new Python, and return the top-level modules it loaded."""
    script = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return {name.partition(".")[0] for name in json.loads(done.stdout)}


def test_names_are_sorted_and_there() -> None:
    assert list(loupe.__all__) == sorted(loupe.__all__)
    assert all(getattr(loupe, name).__name__ == name for name in loupe.__all__)
    assert set(loupe.__all__) < set(dir(loupe))


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        _ = loupe.trian


def test_each_verb_is_one_command_and_one_function() -> None:
    assert set(cli.commands) == verbs()
    assert set(SIDES.values()) < verbs()
    for name in verbs():
        assert getattr(loupe, name).__module__ != "loupe"
        assert callable(cli.commands[name].callback)


@pytest.mark.parametrize("name", sorted(verbs() | READERS | SIDES.keys()))
def test_a_function_has_one_return_type(name: str) -> None:
    signature = inspect.signature(getattr(loupe, name))
    assert signature.return_annotation is not signature.empty
    assert "|" not in signature.return_annotation
    assert "Any" not in signature.return_annotation


@pytest.mark.parametrize("name", sorted(verbs() | READERS | SIDES.keys()))
def test_options_are_named_and_explained(name: str) -> None:
    function = getattr(loupe, name)
    _, _, arguments = (inspect.getdoc(function) or "").partition("Args:\n")
    for parameter in inspect.signature(function).parameters.values():
        assert f"    {parameter.name}: " in arguments, f"{name}: {parameter.name} is not explained"
        # A bare True in a call tells its reader nothing.
        assert parameter.annotation != "bool" or parameter.kind is parameter.KEYWORD_ONLY


def test_import_loads_nothing_but_the_standard_library() -> None:
    foreign = loaded_after("import loupe") - loaded_after("pass") - sys.stdlib_module_names
    assert {name for name in foreign if not name.startswith("_")} == {"loupe"}


@pytest.mark.parametrize(
    "code",
    [
        "from loupe import Predictions, Table, check, read_recipe, read_table, split",
        "import loupe.cli",
        "import loupe.testing",
    ],
)
def test_reading_checking_and_splitting_need_no_torch(code: str) -> None:
    assert not loaded_after(code) & SLOW_TO_LOAD


def test_help_is_quick() -> None:
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "loupe.cli", "--help"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        times.append(time.perf_counter() - begin)
    assert all(name in done.stdout for name in cli.commands)
    assert median(times) < SLOWEST_HELP_S
