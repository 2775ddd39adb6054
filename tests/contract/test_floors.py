"""The module map, and what a module may not do.

`MAP` is the house from the ground up: named storeys, each a list of floors, each
a set of modules. An import goes to a lower floor, never up and never sideways, so
there are no circles either. `docs/architecture.md` says what each module owns,
under the same names of storeys.

A new module goes as low as it can: the failing test names the lowest floor.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "loupe"
FRONT = "__init__"

MAP: dict[str, list[set[str]]] = {
    "shapes and small tools": [
        {"digits", "errors", "files", "progress"},
        {"decoding", "executors", "maskruns", "origins", "table", "tta"},
        {"masks", "tiling"},
        {"cocomasks", "maskfaults"},
    ],
    "images": [
        {"images"},
        {"appearance", "caching", "copies"},
    ],
    "reading tables": [
        {"answers", "cells", "locating"},
        {"labels"},
        {"columns", "sources"},
        {"extras", "labelcells", "submissions"},
        {"rewrites", "runlengths"},
        {"masksheets"},
        {"maskimages"},
        {"maskfolders"},
        {"layouts"},
    ],
    "random transforms": [
        {"colour", "geometry"},
        {"steps"},
        {"colour_steps", "erasing", "geometric_steps"},
        {"augment"},
        {"maskcrops"},
    ],
    "numbers": [
        {"dealing", "predictions", "weighting"},
        {
            "dices",
            "ends",
            "folds",
            "logistic",
            "metrics",
            "nearness",
            "noise",
            "ranking",
            "votes",
        },
        {"labelquality", "maskcuts", "scorecard"},
        {"components", "condensing", "maskwords", "trials"},
        {"intervals"},
        {"margins"},
    ],
    "decisions": [
        {
            "aligning",
            "calibration",
            "comparing",
            "evidence",
            "promises",
            "reliability",
            "sheetcells",
        },
        {"conformal", "monotone", "proving", "sheetchecks", "simplex", "thresholds"},
        {"blending", "calibrating", "gates", "maskrules", "resamples", "rules", "sheetroles"},
        {"curves", "doubts", "gatefits", "goals", "ruling", "sheetfiles", "wagers"},
        {"gatetrials", "worth"},
        {"deciding"},
    ],
    "checking and splitting": [
        {"apart", "findings", "seen"},
        {"checking", "gathered"},
        {"adversarial", "splitting"},
    ],
    "training": [
        {
            "aliases",
            "averaging",
            "blended",
            "countfiles",
            "following",
            "maskframes",
            "overlays",
            "parts",
            "pictures",
            "records",
            "watching",
            "weights",
        },
        {"choices"},
        {"maskchoices", "settings"},
        {"losses", "masklosses", "mixing", "networks", "recipechecks", "sampling", "schedules"},
        {"recipe", "views"},
        {"build", "data", "defaults", "runs"},
        {"control", "heads", "inference", "maskevaluation", "optimizers", "scoring", "starts"},
        {"content", "evaluation", "exposure", "features", "refitting", "segmenters", "teachers"},
        {"architectures", "ensembles", "tasks"},
        {"aims", "fitting", "mapping", "masktraining", "maskscoring", "probing"},
        {"contact", "counting", "jobs"},
        {"maskjobs", "preparation", "trackers"},
        {"mlflows", "tensorboards"},
        {"tracking"},
        {"training"},
    ],
    "using what was trained": [
        {"cascades", "fresh", "leaks", "maskdrawing", "matching"},
        {"heldmasks", "heldout", "maskcomparing", "segmenting", "stagetimes"},
        {"decisions", "grading", "maskgrading"},
        {"presence"},
        {"gating", "variants"},
        {"cascading"},
    ],
    "finding wrong labels": [
        {"auditrules", "issues", "neighbours", "rowfeatures", "rowimages"},
        {"maskissues", "reviews", "tableissues"},
        {"agreement", "noiserates", "queues", "relabels"},
        {"auditing", "desks", "relabelling"},
        {"reviewpages"},
        {"reviewserver"},
        {"reviewing"},
    ],
    "the report": [
        {"explaining", "judged", "reportparts", "samplepictures"},
        {"datasamples", "figures", "mistakes", "reportpages", "runfacts", "worries"},
        {"chartparts", "datahealth", "historycharts", "verdicts"},
        {
            "calibrationcharts",
            "comparingcharts",
            "confusioncharts",
            "curvecharts",
            "goalcharts",
            "issuecharts",
            "maskcharts",
            "scorecharts",
        },
        {"comparingruns", "thresholdtables"},
        {"reporting"},
    ],
    "the surface": [
        {"tiles"},
        {"photographs"},
        {"samples", "scenes"},
        {"testing"},
        {"demonstration", "systems", "terminal"},
        {"auditshowing", "maskshowing", "options", "showing"},
        {FRONT},
        {"auditcommands", "maskcommands", "reportcommands"},
        {"commands"},
        {"cli"},
    ],
}

TOPICS = {"images", "reading tables", "random transforms", "numbers"}
"""Storeys that do not know each other: each stands on the ground storey alone."""
GROUND = "shapes and small tools"

LIBRARIES: dict[str, set[str]] = {
    "captum": {"explaining"},
    "click": {"auditcommands", "cli", "commands", "maskcommands", "options", "reportcommands"},
    "cv2": {
        "appearance", "colour", "components", "copies", "erasing", "geometric_steps", "geometry",
        "explaining", "images", "mapping", "mistakes", "photographs", "samples", "scenes", "tiles",
    },
    "huggingface_hub": {"build"},
    "numpy": set(),  # anywhere
    "jinja2": {"reportpages", "reviewserver"},
    "markupsafe": {"reportpages"},
    "matplotlib": {
        "calibrationcharts", "chartparts", "comparingcharts", "confusioncharts", "curvecharts",
        "figures", "goalcharts", "historycharts",
    },
    "mlflow": {"mlflows"},
    "tensorboard": {"tensorboards"},
    "PIL": {
        "decoding", "maskcharts", "maskimages", "mistakes", "overlays", "pictures", "reportpages",
        "rowimages", "samplepictures",
    },
    "platformdirs": {"caching"},
    "pyarrow": {
        "cells", "heldout", "predictions", "sheetcells", "sheetchecks", "sheetfiles", "table",
    },
    "pydantic": {
        "augment", "cascades", "choices", "colour_steps", "erasing", "geometric_steps",
        "maskchoices", "parts", "recipe", "settings", "steps",
    },
    "rich": {"auditshowing", "maskshowing", "showing", "terminal"},
    "segmentation_models_pytorch": {"segmenters"},
    "safetensors": {"inference", "jobs", "mapping", "preparation"},
    "starlette": {"reviewserver"},
    "timm": {"build", "optimizers"},
    "torch": {
        "aims", "averaging", "build", "cascading", "control", "counting", "data", "ensembles",
        "evaluation", "explaining", "features",
        "fitting", "heads", "inference", "jobs", "losses", "mapping", "maskevaluation", "maskjobs",
        "masklosses", "mixing", "networks", "optimizers", "preparation", "probing", "segmenters",
        "tasks", "tensorboards", "training",
    },
    "uvicorn": {"reviewing"},
    "yaml": {"cascades", "recipe"},
}  # fmt: skip
"""Who imports what; one place for each keeps it replaceable. No pandas, no scikit-learn."""

PRINTING = {"auditcommands", "cli", "commands", "maskcommands", "options", "reportcommands"}
SAMPLES = {"testing", "samples", "photographs", "tiles", "scenes", "systems"}
"""Sample data; imported by one another and by the demonstration alone."""
RUNNERS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
PRINTERS = {"print", "exit", "quit", "sys.exit", "sys.stdout.write", "sys.stderr.write"}
VAGUE = {"base", "common", "core", "helpers", "misc", "tools", "types", "util", "utils"}


@dataclass(frozen=True, slots=True)
class Imports:
    """What one module imports.

    Attributes:
        ours: Modules of Loupe.
        libraries: Top-level names of everything else, but the standard library.
    """

    ours: frozenset[str]
    libraries: frozenset[str]


def list_modules() -> dict[str, ast.Module]:
    return {p.stem: ast.parse(p.read_text(encoding="utf-8")) for p in sorted(SOURCE.glob("*.py"))}


MODULES = list_modules()


def walk_code(tree: ast.AST, *, typing: bool = False) -> Iterator[ast.AST]:
    """Walk all nodes, also inside functions, but not what only type checkers read."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not typing:
            for other in node.orelse:
                yield other
                yield from walk_code(other)
            continue
        yield node
        yield from walk_code(node, typing=typing)


def find_imports(name: str, tree: ast.Module) -> Imports:
    """List what a module imports; the front door loads by name what it types."""
    ours: set[str] = set()
    libraries: set[str] = set()
    for node in walk_code(tree, typing=name == FRONT):
        if isinstance(node, ast.Import):
            targets = [(alias.name, FRONT) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import in line {node.lineno}"
            targets = [(str(node.module), alias.name) for alias in node.names]
        else:
            continue
        for dotted, inside in targets:
            head, _, rest = dotted.partition(".")
            if head != "loupe":
                libraries.add(head)
            elif rest:
                ours.add(rest)
            else:
                ours.add(inside if inside in MODULES else FRONT)
    return Imports(frozenset(ours), frozenset(libraries - sys.stdlib_module_names))


IMPORTS = {name: find_imports(name, tree) for name, tree in MODULES.items()}
FLOORS = [(storey, floor) for storey, floors in MAP.items() for floor in floors]
FLOOR_OF = {name: place for place, (_, floor) in enumerate(FLOORS) for name in floor}
STOREY_OF = {name: storey for storey, floor in FLOORS for name in floor}


def spell_floor(place: int) -> str:
    storey = FLOORS[place][0]
    first = next(k for k, (name, _) in enumerate(FLOORS) if name == storey)
    return f"{storey!r}, floor {place - first + 1}"


def test_every_module_stands_on_one_floor() -> None:
    stated = [name for _, floor in FLOORS for name in floor]
    assert len(stated) == len(set(stated))
    gone = set(stated) - MODULES.keys()
    assert not gone, f"on the map, but there is no such module: {sorted(gone)}"
    advice = []
    for name in sorted(MODULES.keys() - set(stated)):
        below = max((FLOOR_OF.get(other, -1) for other in IMPORTS[name].ours), default=-1)
        beneath = f"above {spell_floor(below)}" if below >= 0 else "anywhere"
        advice.append(f"{name}: {beneath}; it imports {sorted(IMPORTS[name].ours)}")
    assert not advice, "not on the map:\n" + "\n".join(advice)


def test_imports_only_go_down() -> None:
    wrong = [
        f"{name} ({spell_floor(FLOOR_OF[name])}) imports {other} ({spell_floor(FLOOR_OF[other])})"
        for name in sorted(FLOOR_OF)
        for other in sorted(IMPORTS[name].ours & FLOOR_OF.keys())
        if FLOOR_OF[other] >= FLOOR_OF[name]
    ]
    assert not wrong, "\n".join(wrong)


def test_topics_do_not_know_each_other() -> None:
    wrong = [
        f"{name} ({STOREY_OF[name]}) imports {other} ({STOREY_OF[other]})"
        for name, storey in sorted(STOREY_OF.items())
        for other in sorted(IMPORTS[name].ours & STOREY_OF.keys())
        if storey in TOPICS and STOREY_OF[other] not in {storey, GROUND}
    ]
    assert not wrong, "\n".join(wrong)


def test_architecture_page_has_the_same_map() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    lines = page.partition("\n## Modules\n")[2].partition("\n## ")[0].splitlines()
    told: dict[str, str] = {}
    storey = ""
    for line in lines:
        first = line.removeprefix("|").partition("|")[0].strip()
        if first.startswith("**"):
            storey = first.strip("*")
        for name in re.findall(r"`(\w+)`", first):
            assert name not in told, f"{name} stands in two rows"
            told[name] = storey
    expected = {name: storey for name, storey in STOREY_OF.items() if name != FRONT}
    missing = {name: storey for name, storey in expected.items() if name not in told}
    assert not missing, f"docs/architecture.md has no row for {missing}"
    assert told == expected


@pytest.mark.parametrize("library", LIBRARIES)
def test_libraries_have_their_place(library: str) -> None:
    found = {name for name, imports in IMPORTS.items() if library in imports.libraries}
    allowed = LIBRARIES[library]
    if allowed:
        assert found == allowed


def test_no_other_library_is_imported() -> None:
    found = {
        f"{name} imports {library}"
        for name, imports in IMPORTS.items()
        for library in imports.libraries - LIBRARIES.keys()
    }
    assert not found, f"{sorted(found)}; a new one needs a line in docs/dependencies.md"


def test_sample_data_is_for_the_demonstration() -> None:
    users = {name for name, imports in IMPORTS.items() if imports.ours & SAMPLES}
    assert users - SAMPLES == {"demonstration"}


def test_no_module_has_a_vague_name() -> None:
    assert not VAGUE & MODULES.keys()


def find_faults(tree: ast.Module, *, may_print: bool = False) -> list[str]:
    """List what code must not do, with the line of each."""
    faults = []
    loaders = {"yaml.SafeLoader"} | {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and any(ast.unparse(base) == "yaml.SafeLoader" for base in node.bases)
    }
    for node in walk_code(tree):
        text = None
        if isinstance(node, ast.Assert):
            text = "assert: it is skipped by python -O; raise an error of loupe.errors"
        elif isinstance(node, ast.Import | ast.ImportFrom):
            text = _fault_of_import(node)
        elif isinstance(node, ast.Call):
            text = _fault_of_call(node, loaders, may_print=may_print)
        if text:
            faults.append(f"line {node.lineno}: {text}")
    return faults


def _fault_of_import(node: ast.Import | ast.ImportFrom) -> str | None:
    names = {alias.name.partition(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        names = {str(node.module).partition(".")[0]}
    return "pickle can run code" if names & {"pickle", "dill", "joblib", "shelve"} else None


def _fault_of_call(node: ast.Call, loaders: set[str], *, may_print: bool) -> str | None:
    name = ast.unparse(node.func)
    given = {word.arg: ast.unparse(word.value) for word in node.keywords}
    faults = {
        "runs text as code": name in RUNNERS or given.get("shell") == "True",
        "needs a SafeLoader": name == "yaml.load" and given.get("Loader") not in loaders,
        "needs weights_only": name == "torch.load" and given.get("weights_only") != "True",
        "unpickles": given.get("allow_pickle") == "True",
        "is for the command line": not may_print
        and (name in PRINTERS or name.startswith("click.")),
    }
    return next((f"{name} {fault}" for fault, found in faults.items() if found), None)


@pytest.mark.parametrize("name", MODULES)
def test_no_module_does_what_it_must_not(name: str) -> None:
    assert find_faults(MODULES[name], may_print=name in PRINTING) == []


@pytest.mark.parametrize(
    "code",
    [
        "assert x",
        "import pickle",
        "from pickle import loads",
        "def f():\n    eval('1')",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(text, shell=True)",
        "print(1)",
        "click.echo('x')",
        "sys.exit(1)",
    ],
)
def test_faults_are_seen(code: str) -> None:
    assert len(find_faults(ast.parse(code))) == 1


@pytest.mark.parametrize(
    "code",
    [
        "class Mine(yaml.SafeLoader):\n    pass\nyaml.load(text, Loader=Mine)",
        "torch.load(path, weights_only=True)",
        "network.eval()",
        "re.compile('x')",
        "console.print('x')",
        "if TYPE_CHECKING:\n    import pickle",
    ],
)
def test_good_code_has_no_faults(code: str) -> None:
    assert find_faults(ast.parse(code)) == []


def test_imports_are_seen_wherever_they_stand() -> None:
    code = (
        "import json\nimport numpy.typing\nfrom loupe import table\nimport loupe\n"
        "if TYPE_CHECKING:\n    import pandas\n"
        "def f():\n    from loupe.runs import open_run\n"
    )
    found = find_imports("any", ast.parse(code))
    assert found == Imports(frozenset({"table", FRONT, "runs"}), frozenset({"numpy"}))
