"""Cascades: the text that says which runs look at an image, in which order, and what they close.

Owns the model, its YAML, the choice of some of its stages, and whether the runs that it names
fit each other. It must not load networks, predict or fit.

Shapes: C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from loupe.choices import ClassName
from loupe.errors import AlignmentError, InputError, RecipeError, RunError, shorten, suggest
from loupe.maskrules import read_mask_rule
from loupe.parts import NotNegative, Part
from loupe.runs import Run, open_run

StageName = Literal["binary", "labels", "masks"]
STAGES: tuple[StageName, ...] = get_args(StageName)
"""Stages in the order in which they look at an image."""
CascadeGate = Literal["hard", "per_image", "product", "top", "soft_area"]
_MOST_SHOWN = 60  # characters of a wrong value


def _as_mapping(value: object) -> object:
    """Let ``threshold: 0.3`` mean ``threshold: {"": 0.3}``, the number of all classes."""
    return value if isinstance(value, Mapping) or value is None else {"": value}


def _as_list(value: object) -> object:
    """Let ``run: runs/a`` mean ``run: [runs/a]``."""
    return [value] if isinstance(value, str | Path) else value


class PresenceStage(Part):
    """A stage that says what an image shows: a run of classifiers, and what it is decided by."""

    run: Path
    """Folder of the run."""
    rule: Path | None = None
    """A rule file; null takes the one that `loupe decide` left with the run."""
    threshold: (
        Annotated[dict[ClassName, NotNegative], BeforeValidator(_as_mapping), Field(min_length=1)]
        | None
    ) = None
    """In place of a rule: the probability from which on a class is there, one number or
    one for each class. 0 closes nothing, a number above 1 closes everything."""

    @model_validator(mode="after")
    def _check_one(self) -> PresenceStage:
        if self.rule is not None and self.threshold is not None:
            raise ValueError("a rule and a threshold; expected one of them")
        return self


class MaskStage(Part):
    """The stage that draws the masks."""

    run: Annotated[tuple[Path, ...], BeforeValidator(_as_list), Field(min_length=1)]
    """Folder of a run, or a list of those of runs that have different classes."""


class Cascade(Part):
    """Which runs look at an image, one after the other; what one closes, the next never sees.

    Examples:
        >>> Cascade(binary={"run": "runs/any"}, masks={"run": "runs/draw"}).stages
        ('binary', 'masks')
    """

    binary: PresenceStage | None = None
    """Is there anything at all? A run with one column, whatever its name."""
    labels: PresenceStage | None = None
    """Which classes are there? A run with a column for each class of the masks."""
    masks: MaskStage
    """The masks themselves."""
    gate: CascadeGate = "hard"
    """How `labels` (or `binary`, if there are no labels) meets the masks: `hard`, by its rule
    or threshold; else as `gates` says, fitted on the held-out rows of the runs."""
    at_least_one: bool = False
    """Never close the likeliest class of an image of which `labels` would close all; for data
    whose every image, or every one that `binary` lets through, shows a class."""

    @property
    def stages(self) -> tuple[StageName, ...]:
        """Names of the stages that there are, in order."""
        return tuple(name for name in STAGES if getattr(self, name) is not None)

    @property
    def presence(self) -> tuple[tuple[StageName, PresenceStage], ...]:
        """Names and stages of the classifiers, in order."""
        pairs: tuple[tuple[StageName, PresenceStage | None], ...] = (
            ("binary", self.binary),
            ("labels", self.labels),
        )
        return tuple((name, stage) for name, stage in pairs if stage is not None)

    @property
    def fitted(self) -> PresenceStage | None:
        """The stage whose probabilities a fitted gate looks at; None if none is fitted."""
        return None if self.gate == "hard" else self.labels or self.binary

    @model_validator(mode="after")
    def _check_effects(self) -> Cascade:
        """Refuse settings that no stage would use."""
        wrong = []
        if self.gate != "hard" and self.fitted is None:
            wrong.append(f"gate: {self.gate} needs labels or binary, whose probabilities it uses")
        if self.fitted is not None and (self.fitted.rule or self.fitted.threshold):
            name = "labels" if self.labels else "binary"
            wrong.append(
                f"{name}.rule and {name}.threshold are for gate: hard; gate: {self.gate} is fitted "
                "on held-out rows"
            )
        if self.at_least_one and self.labels is None:
            wrong.append("at_least_one chooses among classes, so it needs labels")
        if wrong:
            raise ValueError("; ".join(wrong))
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRuns:
    """The runs of a cascade, opened.

    Attributes:
        presence: Name of a stage to its run of classifiers.
        masks: Runs that draw masks, each with classes of its own.
        classes: (C,) of all of them, in their order.
        size: Height and width of the masks; None is the size of each image.
    """

    presence: Mapping[StageName, Run]
    masks: tuple[Run, ...]
    classes: tuple[str, ...]
    size: tuple[int, int] | None


def read_cascade(source: str | Path | Mapping[str, Any]) -> Cascade:
    """Read a cascade and check every key.

    Args:
        source: A YAML file, whose paths are relative to the file; or the same as a
            mapping, with paths relative to where the program runs.

    Raises:
        RecipeError: the file is absent or no YAML mapping, or keys are unknown or out
            of range; all findings in one message.

    Examples:
        >>> read_cascade({"masks": {"run": "runs/draw"}}).masks.run[0].name
        'draw'
    """
    if isinstance(source, Mapping):
        return _validate(source, "cascade")
    path = Path(source)
    return _place(_validate(_read_yaml(path), str(path)), path.parent)


def choose_stages(cascade: Cascade, stages: Sequence[str]) -> Cascade:
    """Keep some stages of a cascade, as `--stages` does.

    What concerns a stage that is left out plays no part: without labels, a fitted gate
    looks at binary, or without it too, there is no gate.

    Args:
        cascade: As it was read.
        stages: Names of those to keep, in any order; all if empty.

    Raises:
        InputError: a name is unknown or the cascade lacks it, or the masks are left out.

    Examples:
        >>> steel = Cascade(binary={"run": "a"}, labels={"run": "b"}, masks={"run": "c"})
        >>> choose_stages(steel, ["masks", "labels"]).stages
        ('labels', 'masks')
    """
    if not stages:
        return cascade
    wrong = [f"{name!r}{suggest(name, STAGES)}" for name in stages if name not in STAGES]
    lacking = [name for name in stages if name in STAGES and name not in cascade.stages]
    said = [f"there is no stage {shorten(wrong)}"] if wrong else []
    said += [f"the cascade has no {shorten(lacking)}"] if lacking else []
    said += ["'masks' is left out, and nothing else draws them"] if "masks" not in stages else []
    if said:
        raise InputError(
            f"stages: {'; '.join(said)}. Expected some of {', '.join(cascade.stages)}, with masks."
        )
    dropped = [name for name in cascade.stages if name not in stages]
    changes: dict[str, object] = dict.fromkeys(dropped)
    if "labels" not in stages:
        changes["at_least_one"] = False
        if "binary" not in stages:
            changes["gate"] = "hard"
    # A copy, since rules of a stage that now meets a fitted gate are told, not refused.
    return cascade.model_copy(update=changes)


def open_runs(cascade: Cascade) -> StageRuns:
    """Open the runs of a cascade, and refuse those that do not fit each other.

    Args:
        cascade: With the stages that are wanted; others need not be there.

    Raises:
        RunError: folders or files are missing, a run is unfinished, or it names classes
            where masks are wanted or the reverse.
        AlignmentError: the classes of the runs do not fit, or the sizes of their masks.
    """
    _check_places(cascade)
    presence = {name: open_run(stage.run) for name, stage in cascade.presence}
    masks = tuple(open_run(folder) for folder in cascade.masks.run)
    _check_kinds(presence, masks)
    rules = [read_mask_rule(run.cuts_file) for run in masks]
    classes = tuple(name for rule in rules for name in rule.classes)
    wrong = _find_mismatches(classes, masks, presence)
    if len({rule.size for rule in rules}) > 1:
        told = [f"{run.folder} {rule.size}" for run, rule in zip(masks, rules, strict=True)]
        wrong.append(f"masks are drawn at different sizes: {shorten(told)}; expected one")
    if wrong:
        raise AlignmentError(f"the runs of the cascade do not fit: {'; '.join(wrong)}.")
    return StageRuns(presence=presence, masks=masks, classes=classes, size=rules[0].size)


def tell_idle(cascade: Cascade) -> tuple[str, ...]:
    """Say which settings play no part, once stages were chosen.

    Args:
        cascade: From `choose_stages`.
    """
    stage = cascade.fitted
    if stage is None or not (stage.rule or stage.threshold):
        return ()
    name = "labels" if cascade.labels else "binary"
    return (f"gate: {cascade.gate} is fitted; the rule or threshold of {name} plays no part",)


def _validate(values: Mapping[str, Any], where: str) -> Cascade:
    try:
        return Cascade.model_validate(dict(values))
    except ValidationError as error:
        found = "; ".join(_explain(detail) for detail in error.errors())
        raise RecipeError(f"{where}: {found}.") from None


def _read_yaml(path: Path) -> dict[str, Any]:
    if path.is_dir():
        raise RecipeError(
            f"{path} is a folder; expected a YAML file that names the runs of each stage, such as "
            f"'masks: {{run: {path}}}'. For one run alone: loupe segment {path} IMAGES --out FILE."
        )
    if not path.is_file():
        raise RecipeError(f"{path}: no such cascade file.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not readable as YAML: {error}") from None
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: expected 'key: value' lines, found {type(values).__name__}.")
    return values


def _place(cascade: Cascade, folder: Path) -> Cascade:
    """Make the paths of a file relative to where the program runs."""
    changes: dict[str, object] = {
        "masks": MaskStage(run=tuple(folder / run for run in cascade.masks.run))
    }
    for name, stage in cascade.presence:
        rule = None if stage.rule is None else folder / stage.rule
        changes[name] = stage.model_copy(update={"run": folder / stage.run, "rule": rule})
    return cascade.model_copy(update=changes)


def _check_places(cascade: Cascade) -> None:
    """Refuse a cascade whose folders or rule files are not there."""
    missing = [
        f"{name}.run: no folder {stage.run}"
        for name, stage in cascade.presence
        if not stage.run.is_dir()
    ]
    missing += [
        f"{name}.rule: no file {stage.rule}"
        for name, stage in cascade.presence
        if stage.rule is not None and not stage.rule.is_file()
    ]
    missing += [f"masks.run: no folder {run}" for run in cascade.masks.run if not run.is_dir()]
    if missing:
        raise RunError(
            f"the cascade names what is not there: {'; '.join(missing)}. Train it, correct the "
            "path (it is relative to the cascade's file), or leave the stage out with --stages."
        )


def _check_kinds(presence: Mapping[StageName, Run], masks: Sequence[Run]) -> None:
    """Refuse runs that are not finished, or do something else than their stage."""
    wrong = [
        f"{name}.run: {run.folder} draws masks; expected a run of classifiers"
        for name, run in presence.items()
        if run.segments
    ]
    wrong += [
        f"masks.run: {run.folder} names classes; expected a run whose recipe has a decoder"
        for run in masks
        if not run.segments
    ]
    wrong += [
        f"{run.folder} is not finished; run its 'loupe train' command again"
        for run in (*presence.values(), *masks)
        if not run.finished
    ]
    if wrong:
        raise RunError(f"the cascade cannot be used: {'; '.join(wrong)}.")


def _find_mismatches(
    classes: tuple[str, ...], masks: Sequence[Run], presence: Mapping[StageName, Run]
) -> list[str]:
    """Say which classes do not fit; they are matched by name, whatever their order."""
    wrong = []
    twice = sorted({name for name in classes if classes.count(name) > 1})
    if twice:
        told = shorten([str(run.folder) for run in masks])
        wrong.append(f"the classes {shorten(twice)} have masks in more than one of {told}")
    if "binary" in presence and len(known := presence["binary"].table().classes) != 1:
        wrong.append(
            f"binary: {presence['binary'].folder} has {len(known)} classes ({shorten(known)}); "
            "expected one column, as 'loupe train --any-class NAME' makes"
        )
    if "labels" not in presence:
        return wrong
    known = presence["labels"].table().classes
    lost = [f"{name!r}{suggest(name, known)}" for name in classes if name not in known]
    more = [repr(name) for name in known if name not in classes]
    faults = [f"it lacks {shorten(lost)}"] if lost else []
    faults += [f"{shorten(more)} have no masks"] if more else []
    if faults:
        wrong.append(
            f"labels: {presence['labels'].folder} has the classes {shorten(known, 20)}, the masks "
            f"{shorten(classes, 20)}: {' and '.join(faults)}; expected the same names"
        )
    return wrong


def _explain(detail: Any) -> str:
    """Say one finding in the words of a cascade."""
    place = [str(part) for part in detail["loc"] if part != "[key]"]
    where, said = ".".join(place), str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        known = sorted(_find_model(place[:-1]).model_fields)
        near = suggest(place[-1], known)
        return f"unknown key {where!r}{near} (known here: {', '.join(known)})"
    if detail["type"] == "missing":
        return f"{where} is missing"
    if detail["type"] == "value_error":
        return f"{where}: {said}" if where else said
    found = repr(detail["input"])
    shown = found if len(found) <= _MOST_SHOWN else f"{found[: _MOST_SHOWN - 4]} ..."
    if detail["type"] in {"model_type", "dict_type"}:
        return f"{where} is {shown}: must be keys and their values, such as 'run: FOLDER'"
    if detail["type"] == "too_short":
        return f"{where} is {shown}: must have {detail['ctx']['min_length']} entry or more"
    return f"{where} is {shown}: {said.replace('Input should be', 'must be')}"


def _find_model(place: Sequence[str]) -> type[Part]:
    """Return the part that a key stands in."""
    if not place:
        return Cascade
    return MaskStage if place[0] == "masks" else PresenceStage
