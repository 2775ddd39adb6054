"""Relabelling: who wins, what is refused, what is written and where it came from."""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loupe.errors import AlignmentError, InputError, TableError
from loupe.files import write_json
from loupe.issues import NO, YES, Issue, write_issues
from loupe.layouts import read_table
from loupe.predictions import Predictions, average_sheets, write_predictions
from loupe.recipe import read_recipe
from loupe.relabelling import relabel
from loupe.reviews import Review, append_review
from loupe.runs import create_run
from loupe.table import Table

NAMES = tuple(f"{n}.png" for n in range(8))
LABELS = ("cat", "dog", "cat", "dog", "cow", "dog", "cat", "cow")
FOLDS = np.array([0, 1, 0, 1, 0, 1, -1, -2], np.int16)


def put(folder: Path, text: str, name: str = "labels.csv") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for image in NAMES:
        if not (folder / image).exists():
            Image.new("RGB", (10, 8)).save(folder / image)
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def spell(header: str, rows) -> str:
    return "\n".join([header, *rows, ""])


@pytest.fixture
def classes(tmp_path):
    rows = (f"{n},{label},note {n}" for n, label in zip(NAMES, LABELS, strict=True))
    return put(tmp_path / "data", spell("image,label,remark", rows))


def doubt(name, given, suggested="", *, column="", quality=0.2, rule="off") -> Issue:
    return Issue(
        id=name, class_name=column, given=given, suggested=suggested, quality=quality, rules=(rule,)
    )


def write(folder: Path, *issues: Issue, **origin) -> Path:
    path = folder / "issues.csv"
    write_issues(path, issues, origin)
    return path


def review(path: Path, name, decision, given, label="", *, column="") -> None:
    append_review(
        path,
        Review(
            time="2030-01-01T00:00:00+00:00",
            reviewer="ann",
            id=name,
            class_name=column,
            given=given,
            suggested="",
            decision=decision,
            label=label,
        ),
    )


@dataclass(frozen=True)
class Audited:
    """A finished run of a table, as far as relabelling looks at it."""

    folder: Path
    probs: np.ndarray

    @property
    def origin(self):
        return {"source": str(self.folder), "is_run": True}


def audit(folder: Path, table: Table, *, groups=True) -> Audited:
    rng = np.random.default_rng(3)
    probs = rng.random(table.targets.shape).astype(np.float32)
    if table.exclusive:
        probs /= probs.sum(axis=1, keepdims=True)
    names = tuple(f"g{n}" for n in range(len(table))) if groups else None
    trained = replace(table, folds=FOLDS[: len(table)], groups=names)
    run = create_run(folder, trained, {"m": read_recipe({"stages": [{"epochs": 1}]})})
    held = np.flatnonzero(trained.folds >= 0)
    sheet = Predictions(
        ids=tuple(table.ids[row] for row in held),
        classes=table.classes,
        probs=probs[held],
        exclusive=table.exclusive,
        held_out=np.ones(len(held), bool),
        folds=trained.folds[held],
    )
    write_predictions(run.oof_file, {"m": sheet}, table.targets[held])
    write_json(run.scores_file, {})
    return Audited(folder, probs)


def assert_same(read: Table, wanted: Table) -> None:
    assert read.digest() == wanted.digest()
    assert read.images == wanted.images
    assert read.label_origins == wanted.label_origins
    np.testing.assert_array_equal(read.targets, wanted.targets)


class TestWhoWins:
    def test_labels_that_no_rule_doubts_are_left_alone(self, classes, tmp_path):
        issues = write(
            tmp_path, doubt("0.png", "cat", "dog"), replace(doubt("1.png", "dog", "cat"), rules=())
        )
        for policy in ("relabel", "drop"):
            made = relabel(classes, issues, out=tmp_path / f"data/{policy}.csv", policy=policy)
            assert made.table.label_origins[1:] == ("",) * 7
            assert made.table.label_origins[0] != ""
        # A person may decide about them all the same.
        review(tmp_path / "issues.reviews.csv", "1.png", "relabel", "dog", "cow")
        made = relabel(classes, issues, out=tmp_path / "data/new.csv")
        assert made.table.label_origins[1] == "relabelled by review, was dog"

    def test_a_persons_decision_wins_over_the_policy(self, classes, tmp_path):
        named = [
            doubt(name, label, "cow" if label != "cow" else "cat")
            for name, label in zip(NAMES, LABELS, strict=True)
        ]
        issues = write(tmp_path, *named[:6])
        said = tmp_path / "issues.reviews.csv"
        review(said, "0.png", "keep", "cat", "cat")
        review(said, "1.png", "drop", "dog")
        review(said, "2.png", "relabel", "cat", "dog")
        review(said, "3.png", "skip", "dog")
        review(said, "4.png", "relabel", "cow", "dog")
        review(said, "4.png", "undo", "cow")
        review(said, "6.png", "relabel", "cat", "cat")
        made = relabel(classes, issues, out=tmp_path / "data/new.csv")
        assert made.table.label_origins == (
            "kept by review",
            "dropped by review",
            "relabelled by review, was cat",
            "flagged by rule",
            "relabelled by rule, was cow",
            "relabelled by rule, was dog",
            "kept by review",
            "",
        )
        labels = [made.table.classes[at] for at in made.table.targets.argmax(axis=1)]
        assert labels == ["cat", "dog", "dog", "dog", "cat", "cow", "cat", "cow"]
        assert made.table.weights.tolist() == [1, 0, 1, 1, 1, 1, 1, 1]
        assert made.counts == {
            "dropped": 1, "relabelled": 3, "softened": 0, "kept": 2, "flagged": 1,
        }  # fmt: skip
        assert any("issues.reviews.csv" in note for note in made.notes)
        assert_same(read_table(made.path), made.table)

    def test_only_reviewed_leaves_the_others_flagged(self, classes, tmp_path):
        issues = write(tmp_path, doubt("0.png", "cat", "dog"), doubt("1.png", "dog", "cat"))
        said = tmp_path / "elsewhere.csv"
        review(said, "1.png", "relabel", "dog", "cow")
        made = relabel(
            classes, issues, reviews=said, only_reviewed=True, out=tmp_path / "data/new.csv"
        )
        assert made.table.label_origins[:3] == (
            "flagged by rule",
            "relabelled by review, was dog",
            "",
        )
        assert made.table.weights is None

    def test_filters_leave_issues_flagged(self, classes, tmp_path):
        issues = write(
            tmp_path,
            doubt("0.png", "cat", "dog", quality=0.1, rule="a"),
            doubt("1.png", "dog", "cat", quality=0.1, rule="b"),
            doubt("2.png", "cat", "dog", quality=0.9, rule="a"),
        )
        made = relabel(
            classes, issues, policy="drop", rules=["a"], max_quality=0.5,
            out=tmp_path / "data/new.csv",
        )  # fmt: skip
        assert made.table.label_origins[:3] == (
            "dropped by rule",
            "flagged by rule",
            "flagged by rule",
        )
        with pytest.raises(InputError, match="flagged by 'z'"):
            relabel(classes, issues, rules=["z"], out=tmp_path / "data/other.csv")

    def test_what_has_no_suggestion_stays_and_is_counted(self, classes, tmp_path):
        issues = write(tmp_path, doubt("0.png", "cat"), doubt("1.png", "dog", "cat"))
        made = relabel(classes, issues, out=tmp_path / "data/new.csv")
        assert made.counts["flagged"] == made.counts["relabelled"] == 1
        assert any(note.startswith("1 issue(s) suggest no other label") for note in made.notes)

    def test_a_second_round_remembers_what_was_given_first(self, classes, tmp_path):
        first = relabel(
            classes,
            write(tmp_path / "a", doubt("0.png", "cat", "dog")),
            out=tmp_path / "data/a.csv",
        )
        again = write(tmp_path / "b", doubt("0.png", "dog", "cow"), doubt("1.png", "dog", "cat"))
        second = relabel(first.path, again, out=tmp_path / "data/b.csv")
        assert second.table.label_origins[:2] == (
            "relabelled by rule, was cat",
            "relabelled by rule, was dog",
        )
        flagged = relabel(first.path, again, only_reviewed=True, out=tmp_path / "data/c.csv")
        assert flagged.table.label_origins[0] == "relabelled by rule, was cat"
        dropped = relabel(first.path, again, policy="drop", out=tmp_path / "data/d.csv")
        assert dropped.table.label_origins[0] == "dropped by rule, was cat"
        back = write(tmp_path / "e", doubt("0.png", "dog", "cat"))
        undone = relabel(first.path, back, out=tmp_path / "data/e.csv")
        assert undone.table.label_origins[0] == "flagged by rule"


class TestSheetsThatDoNotFit:
    def test_unknown_ids_are_named(self, classes, tmp_path):
        issues = write(tmp_path, doubt("x.png", "cat"), doubt("0.png", "cat"))
        with pytest.raises(AlignmentError, match=r"1 id\(s\).*'x\.png'"):
            relabel(classes, issues, out=tmp_path / "data/new.csv")

    def test_other_labels_are_named(self, classes, tmp_path):
        issues = write(tmp_path, doubt("0.png", "dog"), doubt("1.png", "dog"))
        with pytest.raises(AlignmentError, match=r"1 label\(s\).*'0\.png': 'dog' there, 'cat' in"):
            relabel(classes, issues, out=tmp_path / "data/new.csv")
        issues = write(tmp_path, doubt("0.png", "cat"))
        review(tmp_path / "issues.reviews.csv", "1.png", "keep", "cow", "cow")
        with pytest.raises(AlignmentError, match=r"'1\.png': 'cow' there, 'dog'"):
            relabel(classes, issues, out=tmp_path / "data/new.csv")

    def test_a_label_that_is_no_class_is_refused(self, classes, tmp_path):
        issues = write(tmp_path, doubt("0.png", "cat", "dgo"))
        with pytest.raises(InputError, match=r"'dgo' of '0\.png'; did you mean 'dog'"):
            relabel(classes, issues, out=tmp_path / "data/new.csv")

    def test_issues_of_another_kind_of_table_are_refused(self, classes, tmp_path):
        issues = write(tmp_path, doubt("0.png", YES, NO, column="cat"))
        with pytest.raises(AlignmentError, match="'cat', each on its own"):
            relabel(classes, issues, out=tmp_path / "data/new.csv")

    def test_other_folds_are_named(self, classes, tmp_path):
        run = audit(tmp_path / "run", read_table(classes))
        issues = write(tmp_path, doubt("0.png", "cat", "dog"), **run.origin)
        table = replace(read_table(classes), folds=np.array([0, 1, 0, 1, 0, 0, -1, -2], np.int16))
        with pytest.raises(AlignmentError, match=r"1 row\(s\) have another fold.*'5\.png'"):
            relabel(table, issues, out=tmp_path / "new.csv")
        shorter = audit(tmp_path / "b", read_table(classes).select(range(7)))
        issues = write(tmp_path, doubt("0.png", "cat"), **shorter.origin)
        with pytest.raises(AlignmentError, match=r"no fold there: '7\.png'"):
            relabel(classes, issues, out=tmp_path / "new.csv")

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            ({"policy": "delete"}, "expected one of relabel, drop, soften"),
            ({"mix": 0.0}, "mix is"),
            ({"max_quality": 2}, "max_quality is 2"),
        ],
    )
    def test_arguments_are_checked(self, classes, tmp_path, arguments, told):
        with pytest.raises(InputError, match=told):
            relabel(classes, write(tmp_path), out=tmp_path / "new.csv", **arguments)

    def test_dropping_every_row_is_refused(self, classes, tmp_path):
        others = ["cat" if label != "cat" else "dog" for label in LABELS]
        issues = write(tmp_path, *map(doubt, NAMES, LABELS, others))
        with pytest.raises(InputError, match="every row would be dropped"):
            relabel(classes, issues, policy="drop", out=tmp_path / "data/new.csv")


class TestFiles:
    def test_nothing_that_is_read_is_written_over(self, classes, tmp_path):
        issues = write(tmp_path, doubt("0.png", "cat", "dog"))
        before = classes.read_bytes()
        for out in (classes, issues, classes.parent / "." / "labels.csv"):
            with pytest.raises(InputError, match="nothing is edited in place"):
                relabel(classes, issues, out=out)
        other = put(tmp_path / "data", "of somebody else", "other.csv")
        with pytest.raises(InputError, match="is there already"):
            relabel(classes, issues, out=other)
        assert other.read_text(encoding="utf-8") == "of somebody else"
        with pytest.raises(InputError, match=r"ends in \.csv"):
            relabel(classes, issues, out=tmp_path / "data/new.parquet")
        assert classes.read_bytes() == before

    def test_its_own_earlier_result_is_replaced(self, classes, tmp_path):
        issues = write(tmp_path, doubt("0.png", "cat", "dog"))
        out = tmp_path / "data/new.csv"
        relabel(classes, issues, out=out)
        made = relabel(classes, issues, policy="drop", out=out)
        assert read_table(out).label_origins[0] == "dropped by rule"
        record = json.loads((tmp_path / "data/new.origin.json").read_text(encoding="utf-8"))
        assert record["policy"] == "drop"
        assert record["source"] == str(classes)
        assert record["counts"] == made.counts
        shutil.copy(issues, tmp_path / "more.csv")
        with pytest.raises(InputError, match="was not made from this table and these issues"):
            relabel(classes, tmp_path / "more.csv", out=out)

    def test_a_failed_call_writes_nothing(self, classes, tmp_path):
        issues = write(tmp_path, doubt("0.png", "dog"))
        with pytest.raises(AlignmentError):
            relabel(classes, issues, out=tmp_path / "data/new.csv")
        assert not list((tmp_path / "data").glob("new*"))

    def test_folds_and_groups_are_those_of_the_run(self, classes, tmp_path):
        run = audit(tmp_path / "run", read_table(classes))
        issues = write(tmp_path, doubt("0.png", "cat", "dog"), **run.origin)
        made = relabel(classes, issues, out=tmp_path / "data/new.csv")
        assert made.table.folds.tolist() == FOLDS.tolist()
        assert made.table.groups == tuple(f"g{n}" for n in range(8))
        assert_same(read_table(made.path), made.table)

    def test_other_cells_and_image_names_stay(self, classes, tmp_path):
        issues = write(tmp_path, doubt("0.png", "cat", "dog"))
        made = relabel(classes, issues, out=tmp_path / "other/new.csv")
        lines = made.path.read_text(encoding="utf-8").splitlines()
        assert lines[0] == "image,label,remark,label_origin"
        assert lines[1] == '0.png,dog,note 0.png,"relabelled by rule, was cat"'
        assert lines[2] == "1.png,dog,note 1.png,"
        assert any(str(tmp_path / "data") in note for note in made.notes)
        assert_same(read_table(made.path, images=tmp_path / "data"), made.table)

    def test_the_label_origin_is_never_a_label(self, tmp_path):
        text = spell(
            "image,label_origin,crack", [f"{n},kept by rule,{k % 2}" for k, n in enumerate(NAMES)]
        )
        table = read_table(put(tmp_path, text))
        assert table.classes == ("crack",)
        assert set(table.label_origins) == {"kept by rule"}
        bad = spell("image,label,Label_Origin", ["0.png,a,", "1.png,b,nonsense", "2.png,b,what"])
        with pytest.raises(TableError, match=r"2 cell\(s\) are not a label origin.*lines 3, 4"):
            read_table(put(tmp_path, bad))


def test_softening_needs_what_was_audited(classes, tmp_path):
    issues = write(tmp_path, doubt("0.png", "cat", "dog"), source=str(tmp_path / "gone"))
    with pytest.raises(InputError, match="what was audited is gone"):
        relabel(classes, issues, policy="soften", out=tmp_path / "data/new.csv")
    run = audit(tmp_path / "run", read_table(classes))
    issues = write(tmp_path, doubt("7.png", "cow", "dog"), **run.origin)
    with pytest.raises(AlignmentError, match=r"no held-out prediction of '7\.png'"):
        relabel(classes, issues, policy="soften", out=tmp_path / "data/new.csv")


def test_a_predictions_file_can_be_mixed_in(classes, tmp_path):
    lines = [f"{name},0.2,0.3,0.5" for name in NAMES]
    sheet = put(tmp_path / "data", spell("image,cat,cow,dog", lines), "probs.csv")
    issues = write(tmp_path, doubt("0.png", "cat", "dog"), source=str(sheet), is_run=False)
    made = relabel(classes, issues, policy="soften", mix=0.5, out=tmp_path / "data/new.csv")
    np.testing.assert_allclose(made.table.targets[0], [0.6, 0.15, 0.25], atol=1e-6)
    np.testing.assert_array_equal(made.table.targets[1:], read_table(classes).targets[1:])
    assert_same(read_table(made.path), made.table)


def test_a_softened_table_is_trained_on_with_the_same_folds(finished, members, weights, tmp_path):
    from loupe.training import train

    table = finished.table()
    given = table.classes[int(table.targets[0].argmax())]
    other = next(name for name in table.classes if name != given)
    issues = write(
        tmp_path, doubt(table.ids[0], given, other), source=str(finished.folder), is_run=True
    )
    made = relabel(table, issues, policy="soften", mix=0.5, out=tmp_path / "new.csv")
    probs = average_sheets(list(finished.oof().values())).probs
    np.testing.assert_allclose(made.table.targets[0], (table.targets[0] + probs[0]) / 2, atol=1e-6)
    head = {"head": members["head"]}
    run = train(
        made.table, head, tmp_path / "run", weights=weights, executor="serial", device="cpu"
    )
    assert run.finished
    assert run.manifest()["stamps"][0].startswith("RELABELLED: 1 label(s)")
    assert run.oof()["head"].folds.tolist() == table.folds.tolist()
