"""Mistakes: which held-out rows are decided against their given label, surest first.

Owns the list, its CSV, and the sections that show the worst of it and a sample of all
predictions. It must not decide rows, judge whether the label or the network is wrong, or
look at rows that were trained on.

Shapes: N rows, C classes, K parts.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from loupe.aligning import match_ids
from loupe.cells import write_cells
from loupe.errors import LoupeError
from loupe.evidence import Evidence
from loupe.judged import Judged, judge_run
from loupe.metrics import to_decisions
from loupe.progress import Reporter
from loupe.reportparts import Block, Gallery, Grid, Picture, Section, Text
from loupe.rules import Decided, Rule
from loupe.runs import Run
from loupe.samplepictures import SIZE, Predicted, draw_prediction_grid, fit_picture
from loupe.table import Table

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Kind = Literal["wrong", "miss", "false alarm"]

HEADER = ("id", "class", "given", "decided", "p_given", "p_decided", "margin", "fold", "map")
"""Columns of the CSV."""
MOST = 24
"""Mistakes that are shown."""
SHOWN_PREDICTIONS = 18
"""Images in the sample of predictions."""
_YES = {True: "yes", False: "no"}
_QUALITY = 85
_PALE = 0.35
"""How far the grey image below a map is drawn to mid grey, so that the map's colours stand out."""
_STRONGEST = 0.75
"""How much of a map's colour covers the image where the map is 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """A row whose decision is not its given label; of classes that stand alone, one class of it.

    Attributes:
        id: Of the row.
        row: Its number in the table.
        column: The class that a map is made of: the decided one if exclusive, else the class.
        kind: "wrong" if classes are exclusive; else a "miss" or a "false alarm".
        name: Of that class.
        given: Name of the given class if exclusive, else "yes" or "no".
        decided: Likewise.
        p_given: Calibrated probability of what is given.
        p_decided: Of what was decided.
        margin: How sure the mistake is. Exclusive: `p_decided` minus `p_given`. Else the
            distance of the probability from the threshold that was fitted without the row's
            part; a threshold above 1, which is never reached, counts as 1.
        fold: Of the row; "" if rows have none.
        group: Number of the row's group: copies, or shots of one thing.
    """

    id: str
    row: int
    column: int
    kind: Kind
    name: str
    given: str
    decided: str
    p_given: float
    p_decided: float
    margin: float
    fold: str
    group: int


def find_mistakes(
    evidence: Evidence, decided: Decided, table: Table, part_rules: Sequence[Rule]
) -> tuple[Mistake, ...]:
    """List what is decided against the given labels, the surest first.

    Rows that a rule leaves to a person are no mistakes.

    Args:
        evidence: Held-out rows.
        decided: What is made of them, cross-fitted: `deciding.apply_part_rules`.
        table: Where the ids stand.
        part_rules: (K,) the rules that decided; their thresholds are looked at.
    """
    rows = match_ids(table.ids, evidence.ids)
    if evidence.exclusive:
        found = _find_wrong(evidence, decided, rows)
    else:
        found = _find_misses(evidence, decided, rows, part_rules)
    return tuple(sorted(found, key=lambda each: -each.margin))


def write_mistakes(
    path: Path, mistakes: Sequence[Mistake], mapped: AbstractSet[Mistake] = frozenset()
) -> None:
    """Write mistakes as CSV, whole or not at all.

    Args:
        path: The file; replaced if it is there.
        mistakes: In order.
        mapped: Those with a class-activation map.
    """
    write_cells(path, HEADER, [_to_cells(each, mapped=each in mapped) for each in mistakes])


def describe_mistakes(
    run: Run,
    evidence: Evidence,
    judged: Judged | None = None,
    *,
    most: int = MOST,
    maps: bool = True,
    device: str = "auto",
    csv: Path | None = None,
    reporter: Reporter | None = None,
) -> Section:
    """Show the surest mistakes, each with a map of what its held-out network looked at.

    Args:
        run: Finished.
        evidence: Its held-out rows.
        judged: From `judged.judge_run`, if it was made before.
        most: Shown mistakes; of classes that stand alone, half misses and half false alarms.
        maps: Make class-activation maps; needs torch and Captum, and is left out with a word
            where they, the images or the weights are not there.
        device: Of the maps.
        csv: Where all mistakes are written; None writes none.
        reporter: Told of the maps done.
    """
    judged, table = judged or judge_run(run, evidence), run.table()
    mistakes = find_mistakes(judged.evidence, judged.held, table, judged.part_rules)
    galleries = _choose_shown(mistakes, most, exclusive=evidence.exclusive)
    shown = [each for _, chosen in galleries for each in chosen]
    heats, notes = _make_maps(run, shown, device, reporter) if maps and shown else ({}, ())
    if csv is not None:
        write_mistakes(csv, mistakes, set(heats))
    blocks: list[Block] = [*_introduce(judged, mistakes, len(shown), csv)]
    if heats:
        blocks.append(Text(text=_explain_maps(exclusive=evidence.exclusive)))
    blocks += [Text(text=f"Maps: {note.rstrip('.')}.", tone="warn") for note in notes]
    for title, chosen in galleries:
        made = [_picture(each, table, heats.get(each)) for each in chosen]
        pictures = tuple(picture for picture in made if picture is not None)
        if pictures:
            blocks.append(Gallery(title=title, pictures=pictures))
        if len(pictures) < len(made):
            lost = len(made) - len(pictures)
            blocks.append(Text(text=f"{lost} image(s) of these cannot be read.", tone="warn"))
    return Section(key="mistakes", title="Worst mistakes", blocks=tuple(blocks))


def describe_predictions(
    run: Run, evidence: Evidence, judged: Judged | None = None, *, count: int = SHOWN_PREDICTIONS
) -> Section:
    """Show a sample of all held-out predictions, from the surest to the least sure.

    The images stand at even steps in the order of sureness, so that they are a fair picture
    of all, right and wrong.

    Args:
        run: Finished.
        evidence: Its held-out rows.
        judged: From `judged.judge_run`, if it was made before.
        count: Images.
    """
    judged, table = judged or judge_run(run, evidence), run.table()
    rows = match_ids(table.ids, judged.evidence.ids)
    order = np.argsort(-_measure_sureness(judged), kind="stable")
    steps = np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))
    shown = [_describe_row(judged, table, int(row), int(rows[row])) for row in order[steps]]
    cells = tuple((each.name, each.decided, each.given or "the same") for each in shown)
    wrong = sum(bool(each.given) for each in shown)
    alt = f"{len(shown)} images with what was decided; {wrong} of them against the given label."
    picture = Picture(data=draw_prediction_grid(shown), alt=alt)
    title = f"{len(shown)} of {len(judged.evidence)} held-out images"
    return Section(
        key="predictions",
        title="Predictions",
        blocks=(
            Text(
                text="Held-out images at even steps from the surest prediction to the least sure. "
                "The given label stands below a prediction only where it is another."
            ),
            Gallery(title=title, pictures=(picture,)),
            Grid(
                title="The same as text",
                header=("Image", "Decided", "Given"),
                rows=cells,
                name="predictions",
                wide=True,
            ),
        ),
    )


def draw_map(picture: bytes, heat: Float32) -> bytes:
    """Lay a map over an image in grey: purple where it is low, yellow where it is high.

    The colours are those of inferno, which grow evenly lighter and so can be told apart by
    anyone, and in print; where the map is 0, nothing covers the image.

    Args:
        picture: An image file.
        heat: Of the whole image, from 0 to 1, at any size.

    Shape:
        heat: (H, W).

    Returns:
        A JPEG file of the picture's size.
    """
    grey = np.asarray(Image.open(io.BytesIO(picture)).convert("L"), np.float32)
    height, width = grey.shape
    large = np.clip(cv2.resize(heat, (width, height), interpolation=cv2.INTER_LINEAR), 0, 1)
    levels = np.round(large * 255).astype(np.uint8)
    colours = cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[..., ::-1].astype(np.float32)
    below = (grey + _PALE * (128 - grey))[..., None]
    cover = (_STRONGEST * np.sqrt(large))[..., None]
    mixed = np.round(below + cover * (colours - below)).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(mixed).save(out, "JPEG", quality=_QUALITY)
    return out.getvalue()


def _find_wrong(evidence: Evidence, decided: Decided, rows: NDArray[np.intp]) -> Iterator[Mistake]:
    given = to_decisions(evidence.targets, exclusive=True).argmax(axis=1)
    chosen = decided.decisions.argmax(axis=1)
    for row in np.flatnonzero(decided.decisions.any(axis=1) & (given != chosen)):
        probs, mine, theirs = decided.probs[row], int(chosen[row]), int(given[row])
        yield Mistake(
            id=evidence.ids[row],
            row=int(rows[row]),
            column=mine,
            kind="wrong",
            name=evidence.classes[mine],
            given=evidence.classes[theirs],
            decided=evidence.classes[mine],
            p_given=float(probs[theirs]),
            p_decided=float(probs[mine]),
            margin=float(probs[mine]) - float(probs[theirs]),
            fold=_name_fold(evidence, int(row)),
            group=int(evidence.groups[row]),
        )


def _find_misses(
    evidence: Evidence, decided: Decided, rows: NDArray[np.intp], part_rules: Sequence[Rule]
) -> Iterator[Mistake]:
    given = to_decisions(evidence.targets, exclusive=False)
    limits = _list_thresholds(evidence, part_rules)
    for row, column in zip(*np.nonzero(given != decided.decisions), strict=True):
        prob, miss = float(decided.probs[row, column]), bool(given[row, column])
        yield Mistake(
            id=evidence.ids[row],
            row=int(rows[row]),
            column=int(column),
            kind="miss" if miss else "false alarm",
            name=evidence.classes[column],
            given=_YES[miss],
            decided=_YES[not miss],
            p_given=prob if miss else 1 - prob,
            p_decided=1 - prob if miss else prob,
            margin=abs(prob - float(limits[row, column])),
            fold=_name_fold(evidence, int(row)),
            group=int(evidence.groups[row]),
        )


def _list_thresholds(evidence: Evidence, part_rules: Sequence[Rule]) -> Float64:
    """(N, C) the threshold of each row, at most 1."""
    by_part = np.array([rule.thresholds for rule in part_rules], np.float64)
    return np.asarray(np.minimum(by_part, 1)[evidence.parts], np.float64)


def _name_fold(evidence: Evidence, row: int) -> str:
    return "" if evidence.dealt else evidence.part_names[evidence.parts[row]]


def _to_cells(each: Mistake, *, mapped: bool) -> tuple[str, ...]:
    numbers = (f"{value:.6f}" for value in (each.p_given, each.p_decided, each.margin))
    return (each.id, each.name, each.given, each.decided, *numbers, each.fold, _YES[mapped])


def _choose_shown(
    mistakes: Sequence[Mistake], most: int, *, exclusive: bool
) -> list[tuple[str, tuple[Mistake, ...]]]:
    if exclusive:
        return [("Decided otherwise, the surest first", _spread(mistakes, most))]
    titles: dict[Kind, str] = {
        "miss": "Misses: the label says yes, and it was not found",
        "false alarm": "False alarms: the label says no, and it was found",
    }
    return [
        (title, _spread([each for each in mistakes if each.kind == kind], most // 2))
        for kind, title in titles.items()
    ]


def _spread(mistakes: Sequence[Mistake], most: int) -> tuple[Mistake, ...]:
    """Take the surest; a second one of a group and class only if no other group is left."""
    firsts: dict[tuple[int, int], Mistake] = {}
    for each in mistakes:
        firsts.setdefault((each.group, each.column), each)
    seconds = [each for each in mistakes if firsts[each.group, each.column] is not each]
    chosen = set([*firsts.values(), *seconds][:most])
    return tuple(each for each in mistakes if each in chosen)


def _make_maps(
    run: Run, shown: Sequence[Mistake], device: str, reporter: Reporter | None
) -> tuple[dict[Mistake, Float32], tuple[str, ...]]:
    """Return the maps that could be made, and why others could not."""
    try:
        # Here, because lists and pictures of mistakes need no torch.
        from loupe.explaining import explain_rows  # noqa: PLC0415
    except ImportError as error:
        return {}, (f"{error.name} is not installed (pip install 'loupe-vision[train,report]')",)
    try:
        found = explain_rows(
            run,
            [each.row for each in shown],
            [each.column for each in shown],
            device=device,
            reporter=reporter,
        )
    except LoupeError as error:
        return {}, (str(error),)
    pairs = zip(shown, found.maps, strict=True)
    return {each: heat for each, heat in pairs if heat is not None}, found.notes


def _introduce(
    judged: Judged, mistakes: Sequence[Mistake], shown: int, csv: Path | None
) -> Iterator[Text]:
    total = len(judged.evidence)
    what = "groups" if judged.rule.pool else "held-out images"
    if not mistakes:
        yield Text(text=f"None of {total} {what} is decided against its label.", tone="good")
        return
    count = len({each.row for each in mistakes})
    shared = len(np.unique(judged.evidence.groups)) < total
    if judged.evidence.exclusive:
        said = f"{count} of {total} {what} are decided against their given label"
    else:
        misses = sum(each.kind == "miss" for each in mistakes)
        said = (
            f"{count} of {total} {what} have a decision against their given label: "
            f"{misses} misses and {len(mistakes) - misses} false alarms"
        )
    where = "" if csv is None else f" All are in {csv.name}."
    once = ", one of each group while there are others" if shared else ""
    yield Text(text=f"{said}. Below are the {shown} surest{once}.{where}")
    yield Text(
        text="Where a network that never saw an image is this sure, the label itself may be "
        "wrong: look before you blame the network (loupe audit lists doubtful labels)."
    )
    if judged.rule.pool:
        yield Text(text="A group is decided as one; its first image is shown.")


def _explain_maps(*, exclusive: bool) -> str:
    which = "the decided class" if exclusive else "the class"
    return (
        f"Beside an image: where networks that had not seen it found signs of {which} "
        "(Grad-CAM), from purple for few to yellow for most; grey is no sign. Each map has its own "
        "scale, so two maps cannot be compared. A map shows where, coarsely, but not why."
    )


def _picture(each: Mistake, table: Table, heat: Float32 | None) -> Picture | None:
    data = fit_picture(table.images[each.row], size=SIZE)
    if data is None:
        return None
    if each.kind == "wrong":
        lines = (
            f"given: {each.given} ({each.p_given:.2f})",
            f"decided: {each.decided} ({each.p_decided:.2f})",
        )
    else:
        prob = each.p_given if each.kind == "miss" else each.p_decided
        limit = prob + each.margin if each.kind == "miss" else prob - each.margin
        side = "below" if each.kind == "miss" else "above"
        lines = (f"{each.kind}: {each.name}", f"probability {prob:.2f}, {side} {limit:.2f}")
    return Picture(
        data=data,
        alt=f"{each.id}: {', '.join(lines)}",
        lines=(each.id, *lines),
        beside=None if heat is None else draw_map(data, heat),
    )


def _measure_sureness(judged: Judged) -> Float64:
    """(N,) the probability decided by; of classes that stand alone, the least distance to a cut."""
    probs = judged.held.probs.astype(np.float64)
    if judged.evidence.exclusive:
        return np.asarray(probs.max(axis=1))
    limits = _list_thresholds(judged.evidence, judged.part_rules)
    return np.asarray(np.abs(probs - limits).min(axis=1))


def _describe_row(judged: Judged, table: Table, row: int, place: int) -> Predicted:
    evidence, held = judged.evidence, judged.held
    classes = evidence.classes
    given = to_decisions(evidence.targets[row : row + 1], exclusive=evidence.exclusive)[0]
    decided, probs = held.decisions[row], held.probs[row]
    names = [f"{classes[at]} {probs[at]:.2f}" for at in np.flatnonzero(decided)]
    nothing = "left to a person" if evidence.exclusive else "none"
    if not evidence.exclusive and len(classes) == 1:
        nothing = f"no {classes[0]} {1 - probs[0]:.2f}"
    same = bool((given == decided).all())
    truth = ", ".join(classes[at] for at in np.flatnonzero(given)) or "none"
    return Predicted(
        path=table.images[place],
        name=evidence.ids[row],
        decided=", ".join(names) or nothing,
        given="" if same else truth,
    )
