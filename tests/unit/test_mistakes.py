"""Mistakes: which rows, in which order, and what a reader sees of them."""

from __future__ import annotations

import builtins
import csv
import io
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import loupe.mistakes as module
from loupe.evidence import Evidence, make_evidence
from loupe.heldout import gather_evidence
from loupe.judged import Judged, judge_run
from loupe.mistakes import (
    HEADER,
    Mistake,
    describe_mistakes,
    describe_predictions,
    draw_map,
    find_mistakes,
    write_mistakes,
)
from loupe.reportparts import Gallery, Grid, Section, Text
from loupe.rules import Decided, Rule, apply_rule, plain_rule
from loupe.runs import Run, open_run
from loupe.table import Table

SCRIPT = "<script>alert(1)</script>"


def make_rows(
    targets: Any, probs: Any, classes: tuple[str, ...], *, exclusive: bool
) -> tuple[Evidence, Table]:
    values = np.asarray(targets, np.float32)
    ids = tuple(f"{row}.png" for row in range(len(values)))
    evidence = make_evidence(
        values,
        [np.asarray(probs, np.float32)],
        exclusive=exclusive,
        classes=classes,
        ids=ids,
        folds=np.arange(len(values)) % 2,
    )
    # The table has a row more, in front.
    table = Table(
        ids=("first.png", *ids),
        images=tuple(Path(name) for name in ("first.png", *ids)),
        classes=classes,
        targets=np.concatenate([values[:1], values]),
        exclusive=exclusive,
    )
    return evidence, table


def decide(evidence: Evidence, rules: list[Rule]) -> Decided:
    made = [apply_rule(rule, evidence.members[0], classes=evidence.classes) for rule in rules]
    first = (evidence.parts == 0)[:, None]
    return replace(made[0], decisions=np.where(first, made[0].decisions, made[1].decisions))


def texts(section: Section) -> list[str]:
    return [block.text for block in section.blocks if isinstance(block, Text)]


def galleries(section: Section) -> list[Gallery]:
    return [block for block in section.blocks if isinstance(block, Gallery)]


def test_exclusive_mistakes_come_surest_first() -> None:
    evidence, table = make_rows(
        [[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0.3, 0.6, 0.1], [0.9, 0.05, 0.05], [0.9, 0.02, 0.08], [0.3, 0.5, 0.2]],
        ("cat", "dog", SCRIPT),
        exclusive=True,
    )
    rule = plain_rule(evidence.classes, exclusive=True)
    found = find_mistakes(evidence, decide(evidence, [rule, rule]), table, [rule, rule])
    assert [(each.id, each.row, each.given, each.decided) for each in found] == [
        ("2.png", 3, "dog", "cat"),
        ("0.png", 1, "cat", "dog"),
        ("3.png", 4, SCRIPT, "dog"),
    ]
    assert found[0].margin == pytest.approx(0.88)
    assert (found[0].p_given, found[0].p_decided) == pytest.approx((0.02, 0.9))
    assert [each.fold for each in found] == ["0", "0", "1"]
    assert [each.column for each in found] == [0, 1, 1]


def test_rows_left_to_a_person_are_no_mistakes() -> None:
    evidence, table = make_rows(
        [[1, 0], [1, 0]], [[0.4, 0.6], [0.1, 0.9]], ("cat", "dog"), exclusive=True
    )
    rule = replace(plain_rule(evidence.classes, exclusive=True), reject=0.7)
    found = find_mistakes(evidence, decide(evidence, [rule, rule]), table, [rule, rule])
    assert [each.id for each in found] == ["1.png"]


def test_classes_that_stand_alone_are_measured_from_the_threshold_of_the_part() -> None:
    evidence, table = make_rows(
        [[1, 0], [1, 1], [0, 0], [0, 1]],
        [[0.3, 0.1], [0.3, 0.95], [0.6, 0.2], [0.55, 0.4]],
        ("crack", "hole"),
        exclusive=False,
    )
    plain = plain_rule(evidence.classes, exclusive=False)
    rules = [replace(plain, thresholds=(0.4, 0.5)), replace(plain, thresholds=(0.2, 2.0))]
    found = find_mistakes(evidence, decide(evidence, rules), table, rules)
    told = [(each.id, each.name, each.kind, round(each.margin, 3)) for each in found]
    assert told == [
        ("3.png", "hole", "miss", 0.6),  # a threshold that is never reached counts as 1
        ("3.png", "crack", "false alarm", 0.35),
        ("2.png", "crack", "false alarm", 0.2),
        ("0.png", "crack", "miss", 0.1),
        ("1.png", "hole", "miss", 0.05),
    ]
    assert (found[3].given, found[3].decided) == ("yes", "no")
    assert (found[3].p_given, found[3].p_decided) == pytest.approx((0.3, 0.7))


def a_mistake(**changes: Any) -> Mistake:
    values: dict[str, Any] = {
        "id": "a.png", "row": 0, "column": 1, "kind": "wrong", "name": "개", "given": SCRIPT,
        "decided": "개", "p_given": 0.25, "p_decided": 0.75, "margin": 0.5, "fold": "3",
        "group": 0,
    }  # fmt: skip
    return Mistake(**values | changes)


def test_the_csv_holds_every_mistake_as_it_is(tmp_path: Path) -> None:
    both = [a_mistake(), a_mistake(id="b,.png", given='two\n"lines"')]
    write_mistakes(tmp_path / "mistakes.csv", both, {both[1]})
    with (tmp_path / "mistakes.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert tuple(rows[0]) == HEADER
    assert rows[1] == ["a.png", "개", SCRIPT, "개", "0.250000", "0.750000", "0.500000", "3", "no"]
    assert rows[2][0] == "b,.png"
    assert rows[2][2] == 'two\n"lines"'
    assert rows[2][-1] == "yes"


def test_one_of_each_group_is_shown_before_a_second() -> None:
    same = [a_mistake(id=f"{row}", margin=1 - row / 10, group=row // 3) for row in range(7)]
    shown = module._choose_shown(same, 4, exclusive=True)
    assert [each.id for each in shown[0][1]] == ["0", "1", "3", "6"]


def picture_of(level: int, size: tuple[int, int] = (60, 40)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, (level, level, 0)).save(out, "PNG")
    return out.getvalue()


def test_a_map_colours_what_it_marks_and_leaves_the_rest_grey() -> None:
    heat = np.zeros((4, 6), np.float32)
    heat[:, 3:] = 1
    drawn = np.asarray(Image.open(io.BytesIO(draw_map(picture_of(90), heat))), np.int16)
    assert drawn.shape == (40, 60, 3)
    assert np.ptp(drawn[:, :15], axis=2).max() <= 4
    right = drawn[20, 55]
    assert right[0] > right[2] + 60  # yellow
    dark = draw_map(picture_of(90), np.zeros((1, 1), np.float32))
    assert np.ptp(np.asarray(Image.open(io.BytesIO(dark)), np.int16), axis=2).max() <= 4


def turn_around(run: Run, share: float = 1.0) -> Judged:
    """Judge a run, with the decisions of the first rows turned to the other class."""
    judged = judge_run(run, gather_evidence([run.folder]))
    count = int(len(judged.evidence) * share)
    truth = judged.evidence.targets >= 0.5
    decisions = truth.copy()
    decisions[:count] = ~truth[:count]
    return replace(judged, held=replace(judged.held, decisions=decisions))


def test_a_run_shows_its_mistakes_with_maps(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from loupe import explaining

    def explain(run: Run, rows: Any, columns: Any, **_: Any) -> explaining.Explained:
        maps = [np.ones((4, 4), np.float32), *[None] * (len(rows) - 1)]
        return explaining.Explained(maps=tuple(maps), notes=("some have none",))

    monkeypatch.setattr(explaining, "explain_rows", explain)
    judged = turn_around(finished, 0.5)
    path = tmp_path / "mistakes.csv"
    section = describe_mistakes(finished, judged.evidence, judged, most=5, csv=path)
    assert section.key == "mistakes"
    told = " ".join(texts(section))
    assert "8 of 16 held-out images" in told
    assert (
        "Below are the 5 surest, one of each group while there are others. All are in mistakes.csv."
        in told
    )
    assert "Maps: some have none." in told
    (gallery,) = galleries(section)
    assert len(gallery.pictures) == 5
    first, second = gallery.pictures[:2]
    assert first.beside is not None
    assert second.beside is None
    assert Image.open(io.BytesIO(first.beside)).size == Image.open(io.BytesIO(first.data)).size
    assert first.lines[0] in first.alt
    assert len(first.lines) == 3
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 9
    assert lines[1].endswith(",yes")
    assert sum(line.endswith(",yes") for line in lines) == 1


def test_a_run_without_mistakes_says_so(finished: Run) -> None:
    judged = turn_around(finished, 0)
    section = describe_mistakes(finished, judged.evidence, judged)
    (only,) = section.blocks
    assert isinstance(only, Text)
    assert only.tone == "good"


def test_real_networks_that_see_one_place_are_told(finished: Run) -> None:
    judged = turn_around(finished, 0.2)
    section = describe_mistakes(finished, judged.evidence, judged, device="cpu")
    assert any("one place only" in text for text in texts(section))
    assert all(picture.beside is None for picture in galleries(section)[0].pictures)


def as_one_class(judged: Judged) -> Judged:
    """The second of two exclusive classes, alone."""
    evidence = judged.evidence
    alone = replace(
        evidence,
        classes=("defect",),
        exclusive=False,
        targets=evidence.targets[:, 1:],
        members=tuple(sheet[:, 1:] for sheet in evidence.members),
    )
    rule = plain_rule(("defect",), exclusive=False)
    held = replace(
        judged.held, probs=judged.held.probs[:, 1:], decisions=judged.held.decisions[:, 1:]
    )
    return replace(judged, evidence=alone, rule=rule, part_rules=(rule, rule), held=held)


def test_one_class_shows_misses_and_false_alarms_apart(finished: Run) -> None:
    judged = as_one_class(turn_around(finished))
    section = describe_mistakes(finished, judged.evidence, judged, most=6, maps=False)
    misses, alarms = galleries(section)
    assert misses.title.startswith("Misses")
    assert alarms.title.startswith("False alarms")
    assert (len(misses.pictures), len(alarms.pictures)) == (3, 3)
    assert misses.pictures[0].lines[1] == "miss: defect"
    assert "8 misses and 8 false alarms" in texts(section)[0]


def test_what_cannot_be_shown_is_told(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = turn_around(finished, 0.2)
    table = finished.table()
    gone = replace(table, images=tuple(tmp_path / name for name in table.ids))
    monkeypatch.setattr(Run, "table", lambda _: gone)
    real = builtins.__import__

    def refuse(name: str, *given: Any, **named: Any) -> Any:
        if name == "loupe.explaining":
            raise ModuleNotFoundError("No module named 'captum'", name="captum")
        return real(name, *given, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    section = describe_mistakes(finished, judged.evidence, judged)
    assert galleries(section) == []
    told = " ".join(texts(section))
    assert "captum is not installed" in told
    assert "3 image(s) of these cannot be read" in told


def test_predictions_go_from_sure_to_unsure(finished: Run) -> None:
    judged = turn_around(finished, 0.2)
    section = describe_predictions(finished, judged.evidence, judged, count=5)
    assert section.key == "predictions"
    (gallery,) = galleries(section)
    (picture,) = gallery.pictures
    assert Image.open(io.BytesIO(picture.data)).format == "PNG"
    assert picture.alt.startswith("5 images")
    (grid,) = [block for block in section.blocks if isinstance(block, Grid)]
    assert len(grid.rows) == 5
    probs = judged.held.probs.max(axis=1)
    at = [judged.evidence.ids.index(row[0]) for row in grid.rows]
    assert probs[at].tolist() == sorted(probs[at].tolist(), reverse=True)
    assert probs[at[0]] == probs.max()
    assert probs[at[-1]] == probs.min()
    assert gallery.title == "5 of 16 held-out images"
    for row, place in zip(grid.rows, at, strict=True):
        assert (row[2] == "the same") == (place >= 3)


def test_predictions_of_one_class_name_its_absence(finished: Run) -> None:
    judged = as_one_class(turn_around(finished, 0))
    section = describe_predictions(finished, judged.evidence, judged)
    (grid,) = [block for block in section.blocks if isinstance(block, Grid)]
    assert len(grid.rows) == 16
    names = {row[1].rpartition(" ")[0] for row in grid.rows}
    assert names == {"defect", "no defect"}


def test_the_rule_of_the_run_is_used_where_none_is_given(finished: Run, tmp_path: Path) -> None:
    shutil.copytree(finished.folder, tmp_path / "run")
    run = open_run(tmp_path / "run")
    evidence = gather_evidence([run.folder])
    judged = judge_run(run, evidence)
    mistakes = find_mistakes(judged.evidence, judged.held, run.table(), judged.part_rules)
    section = describe_mistakes(run, evidence, maps=False, csv=tmp_path / "all.csv")
    assert len((tmp_path / "all.csv").read_text().splitlines()) == len(mistakes) + 1
    assert section.blocks
    assert module.MOST == 24
