"""Run facts: what a run is made of, how long it took and where, and how to make it again.

Owns the sections "What made this run" and "How to reproduce". It must not train, score or
guess: what a run does not keep is said to be unknown.
"""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loupe.errors import LoupeError, shorten
from loupe.maskscoring import write_mask_instructions
from loupe.recipe import Recipe
from loupe.reportparts import Block, Commands, Facts, Grid, Section, Text
from loupe.runs import Member, Run
from loupe.scoring import write_instructions
from loupe.table import Table
from loupe.weights import read_header

_UNKNOWN = "not known"
_MINUTE, _HOUR = 60, 3600
_AGAIN = "again"
"""Folder that the commands write to: never the run itself."""


def describe_facts(run: Run) -> Section:
    """Show members, recipes, versions, time and hardware of a run.

    Args:
        run: Finished.
    """
    blocks: list[Block] = [Facts(pairs=tuple(_list_pairs(run)))]
    blocks += [Text(text=stamp, tone="bad") for stamp in read_stamps(run)]
    if run.blend is not None:
        blocks.append(_list_sources(run))
    else:
        blocks.append(_list_members(run))
        blocks += _list_times(run)
    versions = _read_json(run.folder / "versions.json")
    if versions:
        blocks.append(Grid(title="Versions", header=("what", "version"), rows=tuple(
            (str(name), str(value)) for name, value in versions.items()
        ), wide=True))  # fmt: skip
    if run.blend is None:
        blocks += _list_settings({name: run.member(name).recipe() for name in run.members})
    return Section(key="facts", title="What made this run", blocks=tuple(blocks))


def describe_commands(run: Run, table: str = "", images: str = "") -> Section:
    """List the commands that make a run again and use it.

    A run keeps its rows, labels, groups and folds, and its recipes with every setting filled
    in; not where the table came from, nor the options that it was read with.

    Args:
        run: Finished.
        table: The file or folder that it was trained on, if the user named it again.
        images: The folder of its images, likewise.
    """
    known = run.table()
    blocks = [*_repeat(run, known, table, images), Text(text="Use it:")]
    instructions = write_mask_instructions(run) if run.segments else write_instructions(run, known)
    told = [line.partition(": ")[2].strip() for line in instructions.splitlines()]
    uses = [text for text in told if text.startswith("loupe ") and "decide" not in text[:13]]
    blocks.append(Commands(lines=(*uses, quote_command("loupe", "report", run.folder))))
    if not run.refit and not run.segments:
        blocks.append(Text(text="Other decisions from the same probabilities; nothing is trained:"))
        goals = ("--precision", "--coverage") if known.exclusive else ("--recall", "--cost")
        values = {"--precision": "0.99", "--coverage": "0.9", "--recall": "0.95", "--cost": "10"}
        words = ("loupe", "decide", run.folder)
        lines = tuple(quote_command(*words, goal, values[goal]) for goal in goals)
        blocks.append(Commands(lines=lines))
    return Section(key="reproduce", title="How to reproduce", blocks=tuple(blocks))


def read_stamps(run: Run) -> tuple[str, ...]:
    """Return what must be said beside every score of a run.

    Args:
        run: Finished or not.
    """
    scored = _read_json(run.scores_file).get("stamps", ())
    return tuple(dict.fromkeys(str(s) for s in (*run.manifest()["stamps"], *scored)))


def read_events(run: Run) -> tuple[Mapping[str, Any], ...]:
    """Read the log of a run.

    Args:
        run: Its log may be missing, as that of a blend, or end within a line.
    """
    if not run.log.is_file():
        return ()
    events = []
    for line in run.log.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):
            events.append(json.loads(line))
    return tuple(events)


def spell_time(seconds: float) -> str:
    """Spell a time as people say it.

    Args:
        seconds: At least 0.

    Examples:
        >>> spell_time(8.31), spell_time(75), spell_time(7300)
        ('8.3 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < _MINUTE:
        return f"{seconds:.1f} s"
    if seconds < _HOUR:
        return f"{int(seconds // _MINUTE)} min {int(seconds % _MINUTE)} s"
    return f"{int(seconds // _HOUR)} h {int(seconds % _HOUR // _MINUTE)} min"


def quote_command(*words: object) -> str:
    """Return a line to type in a shell.

    Args:
        words: Each is quoted if need be.

    Examples:
        >>> quote_command("loupe", "audit", "my run")
        "loupe audit 'my run'"
    """
    return shlex.join([str(word) for word in words])


def name_source(table: Table) -> str:
    """Return the name of the file that a table was read from, without its folder; "" if unknown.

    Args:
        table: Of a run.
    """
    # The reader's first note is "labels.csv: layout 'classes'; ...".
    first = table.notes[0] if table.notes else ""
    name, sign, _ = first.partition(": layout ")
    return name if sign else ""


def _list_pairs(run: Run) -> Iterator[tuple[str, str]]:
    events, versions = read_events(run), _read_json(run.folder / "versions.json")
    starts = [event for event in events if event["event"] == "start"]
    manifest = run.manifest()
    yield "run", str(run.folder)
    what = (
        "a blend of other runs" if run.blend else "draws masks" if run.segments else "names classes"
    )
    yield "kind", what + (f"; trained on all rows, after {run_of}" if (
        run_of := manifest.get("refit_of")
    ) else "")  # fmt: skip
    if starts:
        moment = datetime.fromtimestamp(starts[0]["time_s"], UTC)
        yield "training began", f"{moment:%Y-%m-%d %H:%M} UTC"
        yield "device", ", ".join(dict.fromkeys(str(event["device"]) for event in starts))
    if len(starts) > 1:
        yield "interruptions", f"{len(starts) - 1}, each continued"
    seconds = _read_json(run.scores_file).get("seconds", 0.0)
    if seconds:
        yield "time, last start to end", spell_time(seconds)
    yield "machine", str(versions.get("platform", _UNKNOWN))
    yield "table digest", str(manifest["table"])
    if "images" in manifest:
        yield "image sizes digest", str(manifest["images"])


def _list_members(run: Run) -> Grid:
    header = (
        "member", "network", "parameters", "input (h x w)", "stages", "epochs", "start weights",
        "seed",
    )  # fmt: skip
    return Grid(
        title="Members",
        header=header,
        rows=tuple(_list_cells(run.member(name)) for name in run.members),
    )


def _list_cells(member: Member) -> tuple[str, ...]:
    recipe = member.recipe()
    size = _UNKNOWN
    if member.prepared:
        spec = member.input_spec()
        size = f"{spec.height} x {spec.width}"
    start = recipe.start
    decoder = "" if recipe.decoder is None else f" + {recipe.decoder.architecture}"
    epochs = [str(stage.epochs or "solved") for stage in recipe.stages]
    return (
        member.name,
        f"{start.architecture or recipe.network.name}{decoder}",
        _count_parameters(member),
        size,
        ", ".join(stage.train for stage in recipe.stages),
        ", ".join(epochs),
        f"{start.file} ({start.digest})" if start.file else "random",
        str(recipe.seed),
    )


def _count_parameters(member: Member) -> str:
    """Count the numbers in the weights of the first fold, statistics of layers included."""
    for fold in member.folds:
        with contextlib.suppress(LoupeError):
            count = read_header(member.fold(fold).weights).parameters
            return f"{count / 1e6:.1f} M"
    return _UNKNOWN


def _list_sources(run: Run) -> Grid:
    if run.blend is None:
        return Grid(title="Sources", header=(), rows=())
    pairs = zip(run.blend.sources, run.blend.weights, strict=True)
    return Grid(
        title="Sources of the blend",
        header=("source", "member", "weight"),
        rows=tuple((each.place, each.member or "all", f"{weight:.3f}") for each, weight in pairs),
    )


def _list_times(run: Run) -> Iterator[Grid]:
    """List what the log says about time: each part's seconds, and the speed that was probed."""
    events = read_events(run)
    rows = [
        ("frozen features", event["member"], "", spell_time(event["seconds"]))
        for event in events
        if event["event"] == "features"
    ]
    rows += [
        ("training", event["member"], str(event["fold"]), spell_time(event["seconds"]))
        for event in events
        if event["event"] == "fold"
    ]
    if rows:
        header = ("part", "member", "fold", "time")
        title = "Time by part (folds may have run side by side)"
        yield Grid(title=title, header=header, rows=tuple(rows), name="times", wide=True)
    speeds = [
        (event["member"], each["precision"], "yes" if each["channels_last"] else "no",
         f"{each['images_per_s']:,.1f}")
        for event in events
        if event["event"] == "probe"
        for each in event["timings"]
    ]  # fmt: skip
    if speeds:
        yield Grid(
            title="Training speed that was probed on this machine, one thread",
            header=("member", "precision", "channels last", "images/s"),
            rows=tuple(speeds),
            wide=True,
        )


def _list_settings(recipes: Mapping[str, Recipe]) -> Iterator[Grid]:
    """List all settings with the keys that '--set' takes; those that members share once."""
    sheets = {name: dict(_flatten(each.model_dump(mode="json"))) for name, each in recipes.items()}
    keys = dict.fromkeys(key for sheet in sheets.values() for key in sheet)
    values = {key: {sheet.get(key, "") for sheet in sheets.values()} for key in keys}
    shared = tuple((key, next(iter(found))) for key, found in values.items() if len(found) == 1)
    differing = tuple(
        (key, name, sheet[key])
        for key, found in values.items()
        for name, sheet in sheets.items()
        if len(found) > 1 and key in sheet
    )
    whose = f"Recipe of {next(iter(sheets))}" if len(sheets) == 1 else "Recipe, shared settings"
    yield Grid(title=whose, header=("setting", "value"), rows=shared, name="recipe", wide=True)
    if differing:
        yield Grid(
            title="Settings in which members differ",
            header=("setting", "member", "value"),
            rows=differing,
            wide=True,
        )


def _flatten(values: Any, place: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(values, Mapping) and values:
        for key, value in values.items():
            yield from _flatten(value, f"{place}.{key}" if place else str(key))
    elif isinstance(values, list) and any(isinstance(value, Mapping) for value in values):
        for number, value in enumerate(values):
            yield from _flatten(value, f"{place}.{number}")
    else:
        yield place, json.dumps(values, ensure_ascii=False)


def _repeat(run: Run, known: Table, table: str, images: str) -> Iterator[Block]:
    """Say how to make the same again."""
    if run.blend is not None:
        yield Text(text="Blend the same sources again, by the same weights:")
        places = [run.folder / source.place for source in run.blend.sources]
        weights = ",".join(f"{weight:.6g}" for weight in run.blend.weights)
        yield Commands(lines=(quote_command("loupe", "blend", *places, "--weights", weights),))
        return
    needed = _list_weights(run)
    if needed:
        yield Text(text=f"Needs the pretrained weights {needed} ('--weights' or LOUPE_WEIGHTS).")
    refit_of = run.manifest().get("refit_of")
    if not refit_of:
        yield Text(
            text="Exactly the same, from the rows, folds and resolved recipes that the run keeps "
            "(equal scores on an equal machine; close ones elsewhere):"
        )
        yield Commands(lines=(quote_command("python", "-c", _write_code(run)),))
    source = name_source(known)
    if not table:
        where = f"it was called {source!r}" if source else "its name is not known"
        yield Text(
            text="From your table: the run does not keep its folder or the options it was read "
            f"with ({where}); put them in place of TABLE and IMAGES."
        )
    yield Commands(lines=tuple(_train_again(run, known, table or "TABLE", images or "IMAGES")))
    if known.notes:
        yield Text(text=f"How the table was read: {known.notes[0]}.")


def _train_again(run: Run, known: Table, table: str, images: str) -> Iterator[str]:
    words: list[object] = ["loupe", "train", table]
    refit_of = run.manifest().get("refit_of")
    if refit_of:
        yield quote_command(*words, "--images", images, "--refit", refit_of, "--out", _AGAIN)
        return
    # A member is named by its file, and in a run all files are called recipe.yaml.
    for name in run.members:
        yield quote_command("cp", run.folder / name / "recipe.yaml", f"{name}.yaml")
        words.append(f"{name}.yaml")
    words += ["--images", images]
    brought = any("is used as the fold" in note for note in known.notes)
    if not brought and len(run.folds) > 1:
        words += ["--folds", len(run.folds)]
    if any(stamp.startswith("LEAK") for stamp in read_stamps(run)):
        words.append("--allow-leak")
    yield quote_command(*words, "--out", _AGAIN)


def _write_code(run: Run) -> str:
    place = json.dumps(str(run.folder), ensure_ascii=False)
    leak = any(stamp.startswith("LEAK") for stamp in read_stamps(run))
    more = ", allow_leak=True" if leak else ""
    return (
        f"import loupe; run = loupe.open_run({place}); loupe.train(run.table(), "
        f'{{name: run.member(name).recipe() for name in run.members}}, "{_AGAIN}"{more})'
    )


def _list_weights(run: Run) -> str:
    starts = [run.member(name).recipe().start for name in run.members]
    return shorten(list(dict.fromkeys(f"{s.file} ({s.digest})" for s in starts if s.file)))


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
