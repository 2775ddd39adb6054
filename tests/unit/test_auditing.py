"""Audits end to end: planted wrong labels, files written, and what is refused."""

from __future__ import annotations

import csv
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

import loupe
from loupe.auditing import Audit, audit, place_issues
from loupe.errors import InputError, LeakageError, RunError
from loupe.files import write_json
from loupe.issues import COLUMNS, MASK, NO, NO_MASK, YES, read_issues
from loupe.predictions import Predictions, write_predictions
from loupe.recipe import Recipe
from loupe.reviews import Review, append_review
from loupe.runs import Run, create_run, open_run
from loupe.table import Table
from loupe.testing import make_predictions, make_tiles

RECIPE = {"network": {"name": "test_resnet"}, "stages": [{"train": "head", "views": ["identity"]}]}


@dataclass(frozen=True)
class Planted:
    """A table with wrong labels, and what a network that never saw them says."""

    table: Table
    true: np.ndarray
    members: tuple[np.ndarray, ...]
    folds: np.ndarray
    groups: np.ndarray

    @property
    def wrong(self) -> set[tuple[str, str]]:
        """What an audit should find: id, and class where classes stand alone."""
        off = self.true != self.table.targets
        if self.table.exclusive:
            return {(self.table.ids[row], "") for row in np.flatnonzero(off.any(axis=1))}
        return {(self.table.ids[r], self.table.classes[c]) for r, c in np.argwhere(off)}


def plant(
    n: int = 600, *, exclusive: bool = True, rate: float = 0.1, seed: int = 0, members: int = 1
) -> Planted:
    call = {"exclusive": exclusive, "quality": 0.9, "seed": seed}
    clean = make_predictions(n, 3, **call)
    given = make_predictions(n, 3, **call, label_noise=rate).targets
    rng = np.random.default_rng(seed)
    sheets = []
    for _ in range(members):
        sheet = np.clip(clean.probs + rng.normal(0, 0.02, clean.probs.shape), 0.001, 0.999)
        sheets.append(sheet / sheet.sum(axis=1, keepdims=True) if exclusive else sheet)
    names = tuple(f"{row:04}.png" for row in range(n))
    table = Table(
        ids=names,
        images=tuple(Path("nowhere") / name for name in names),
        classes=("cat", "dog", "cow"),
        targets=given,
        exclusive=exclusive,
    )
    return Planted(table, clean.targets, tuple(sheets), clean.folds, clean.groups)


def write_sheet(path: Path, planted: Planted, *, marked: bool = False) -> Path:
    """Write a predictions file, rows in another order than the table's."""
    order = np.random.default_rng(3).permutation(len(planted.table))
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "fold", *planted.table.classes, *(["held_out"] if marked else [])])
        for row in order:
            cells = [*(f"{p:.6f}" for p in planted.members[0][row]), *["true"][: int(marked)]]
            writer.writerow([planted.table.ids[row], planted.folds[row], *cells])
    return path


def make_run(folder: Path, planted: Planted, features: np.ndarray | None = None) -> Run:
    """Make a finished run, as far as an audit looks at it."""
    table = replace(
        planted.table, folds=planted.folds, groups=tuple(f"g{g}" for g in planted.groups)
    )
    names = [f"m{number}" for number in range(len(planted.members))]
    run = create_run(folder, table, dict.fromkeys(names, Recipe.model_validate(RECIPE)))
    sheets = {
        name: Predictions(
            ids=table.ids,
            classes=table.classes,
            probs=probs.astype(np.float32),
            exclusive=table.exclusive,
            held_out=np.ones(len(table), bool),
            folds=planted.folds,
        )
        for name, probs in zip(names, planted.members, strict=True)
    }
    write_predictions(run.oof_file, sheets, table.targets)
    if features is not None:
        np.save(run.member(names[0]).features, features[:, None].astype(np.float32))
    write_json(run.scores_file, {})
    return open_run(folder)


def show_kinds(planted: Planted, seed: int = 0) -> np.ndarray:
    """Features that tell the true classes."""
    rng = np.random.default_rng(seed)
    return 4 * planted.true @ np.eye(3, 16) + 0.5 * rng.standard_normal((len(planted.true), 16))


def assert_ordered(found: Audit) -> None:
    """Flagged ones first, worst first; outliers alone after doubted labels."""
    keys = [(not i.rules, i.rules == ("outlier",), i.quality, i.id) for i in found.issues]
    assert keys == sorted(keys)


class TestPlantedTruth:
    def test_exclusive_classes(self, tmp_path):
        planted = plant()
        source = write_sheet(tmp_path / "preds.csv", planted)
        found = audit(source, planted.table, held_out=True)
        keys = {issue.key for issue in found.flagged}
        assert len(keys & planted.wrong) > 0.85 * len(planted.wrong) > 30
        assert len(keys & planted.wrong) > 0.75 * len(keys)
        first = [issue.key in planted.wrong for issue in found.issues[: len(planted.wrong) // 2]]
        assert sum(first) >= 0.95 * len(first)
        assert found.rows == 600
        assert_ordered(found)
        sheets = (planted.table.targets, planted.true)
        told, true = (dict(zip(planted.table.ids, t.argmax(axis=1), strict=True)) for t in sheets)
        names = planted.table.classes
        assert all(issue.given == names[told[issue.id]] for issue in found.issues)
        hits = [i for i in found.flagged if i.key in planted.wrong]
        assert np.mean([i.suggested == names[true[i.id]] for i in hits]) > 0.9

    def test_classes_that_stand_alone(self, tmp_path):
        planted = plant(1000, exclusive=False, rate=0.2, seed=1)
        source = write_sheet(tmp_path / "preds.csv", planted)
        found = audit(source, planted.table, held_out=True)
        keys = {issue.key for issue in found.flagged}
        assert len(keys & planted.wrong) > 0.8 * len(planted.wrong) > 100
        assert len(keys & planted.wrong) > 0.7 * len(keys)
        assert {(i.given, i.suggested) for i in found.flagged} == {(YES, NO), (NO, YES)}
        cells = {
            (name, column): planted.table.targets[row, number] >= 0.5
            for row, name in enumerate(planted.table.ids)
            for number, column in enumerate(planted.table.classes)
        }
        assert all((issue.given == YES) == cells[issue.key] for issue in found.issues)
        assert [(r.class_name, r.given) for r in found.rates[:3]] == [
            ("cat", ""), ("cat", NO), ("cat", YES),
        ]  # fmt: skip
        assert len(found.rates) == 9
        assert_ordered(found)

    def test_clean_labels_are_hardly_doubted(self, tmp_path):
        planted = plant(rate=0)
        found = audit(write_sheet(tmp_path / "p.csv", planted), planted.table, held_out=True)
        assert len(found.flagged) < 30
        assert found.rates[0].rate < 0.06

    def test_the_rate_is_near_the_planted_one(self, tmp_path):
        for rate in (0.05, 0.2):
            planted = plant(2000, rate=rate)
            source = write_sheet(tmp_path / "preds.csv", planted)
            whole = audit(source, planted.table, held_out=True).rates[0]
            assert (whole.class_name, whole.given, whole.rows) == ("", "", 2000)
            assert whole.rate == pytest.approx(len(planted.wrong) / 2000, abs=0.03)
            assert whole.low < whole.rate < whole.high


class TestRules:
    def test_rules_are_named_beside_every_label(self, tmp_path):
        planted = plant()
        source = write_sheet(tmp_path / "preds.csv", planted)
        rules = ("disagree", "confident", "both")
        found = audit(source, planted.table, held_out=True, rules=rules, confidence=0.9)
        for issue in found.issues:
            row = planted.table.ids.index(issue.id)
            probs = np.round(planted.members[0][row], 6)
            assert issue.rules[0] == "disagree"
            assert ("confident" in issue.rules) == (probs.max() >= 0.9)
        assert {issue.rules for issue in found.issues} >= {("disagree",), rules}
        given = planted.table.targets.argmax(axis=1)
        assert len(found.issues) == (planted.members[0].argmax(axis=1) != given).sum()

    def test_all_labels_follow_the_flagged_ones(self, tmp_path):
        planted = plant()
        source = write_sheet(tmp_path / "preds.csv", planted)
        found = audit(source, planted.table, held_out=True)
        whole = audit(source, planted.table, held_out=True, every=True)
        assert whole.flagged == found.issues
        assert whole.issues[: len(found.issues)] == found.issues
        assert {issue.id for issue in whole.issues} == set(planted.table.ids)

    def test_agreement_needs_members(self, tmp_path):
        one, three = plant(), plant(members=3)
        source = write_sheet(tmp_path / "preds.csv", one)
        with pytest.raises(InputError, match="'agreement' asks several members"):
            audit(source, one.table, held_out=True, rules=["agreement"])
        found = audit(make_run(tmp_path / "run", three), rules=["agreement"])
        given = three.table.targets.argmax(axis=1)
        firsts = np.stack([sheet.argmax(axis=1) for sheet in three.members])
        agree = (firsts == firsts[0]).all(axis=0) & (firsts[0] != given)
        assert {i.id for i in found.flagged} == {three.table.ids[r] for r in np.flatnonzero(agree)}
        assert all(i.evidence.endswith(f"3 of 3 members say {i.suggested}") for i in found.flagged)

    @pytest.mark.parametrize("ranking", ["self_confidence", "margin"])
    def test_rankings_of_the_field_order_by_their_own_numbers(self, tmp_path, ranking):
        planted = plant()
        source = write_sheet(tmp_path / "preds.csv", planted)
        found = audit(source, planted.table, held_out=True, ranking=ranking, every=True)
        probs = np.round(planted.members[0], 6)
        given = planted.table.targets.argmax(axis=1)
        own = probs[np.arange(600), given]
        others = np.where(np.eye(3)[given] > 0, -1, probs).max(axis=1)
        wanted = own if ranking == "self_confidence" else (1 + own - others) / 2
        quality = {issue.id: issue.quality for issue in found.issues}
        np.testing.assert_allclose([quality[name] for name in planted.table.ids], wanted, atol=1e-6)

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            ({"rules": ["confidnt"]}, "did you mean 'confident'"),
            ({"rules": ["both", "by_clas"]}, "did you mean 'by_class'"),
            ({"rules": []}, "none was named"),
            ({"confidence": 1.2}, "confidence is 1.2; expected a probability"),
            ({"ranking": "entropy"}, "ranking is 'entropy'"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, tmp_path, options, told):
        planted = plant(60)
        source = write_sheet(tmp_path / "preds.csv", planted)
        out = tmp_path / "issues.csv"
        with pytest.raises(InputError, match=told):
            audit(source, planted.table, held_out=True, out=out, **options)
        assert not out.exists()


class TestHeldOut:
    def test_rows_that_were_not_held_out_are_refused(self, tmp_path):
        planted = plant(60)
        source, out = write_sheet(tmp_path / "preds.csv", planted), tmp_path / "issues.csv"
        with pytest.raises(LeakageError, match=r"60 of 60 row\(s\) were not held out"):
            audit(source, planted.table, out=out)
        assert not out.exists()
        found = audit(source, planted.table, out=out, allow_leak=True)
        assert found.stamps
        assert read_issues(out).origin["stamps"] == list(found.stamps)
        marked = write_sheet(tmp_path / "marked.csv", planted, marked=True)
        assert audit(marked, planted.table).stamps == ()

    def test_a_file_has_no_labels(self, tmp_path):
        source = write_sheet(tmp_path / "preds.csv", plant(60))
        with pytest.raises(InputError, match="name the table that has"):
            audit(source, held_out=True)

    def test_a_folder_that_is_no_run_is_refused(self, tmp_path):
        with pytest.raises(RunError):
            audit(tmp_path)
        with pytest.raises(InputError, match="does not exist"):
            audit(tmp_path / "nothing")


class TestFiles:
    def test_what_is_written_is_what_was_found(self, tmp_path):
        planted = plant()
        source, out = write_sheet(tmp_path / "preds.csv", planted), tmp_path / "new" / "issues.csv"
        found = audit(source, planted.table, held_out=True, out=out, rules=["both", "disagree"])
        with out.open(newline="", encoding="utf-8") as stream:
            header, *rows = csv.reader(stream)
        assert tuple(header) == COLUMNS
        assert [row[0] for row in rows] == [issue.id for issue in found.issues]
        assert [row[5] for row in rows] == [" ".join(issue.rules) for issue in found.issues]
        assert [float(row[4]) for row in rows] == sorted(float(row[4]) for row in rows)
        read = read_issues(out)
        for one, other in zip(read.issues, found.issues, strict=True):
            assert replace(one, quality=0) == replace(other, quality=0)
            assert one.quality == pytest.approx(other.quality, abs=1e-6)
        origin = dict(read.origin)
        assert origin["source"] == str(source.absolute())
        assert origin["table"] == planted.table.digest()
        wanted = {
            "is_run": False, "rows": 600, "classes": ["cat", "dog", "cow"], "exclusive": True,
            "segments": False, "rules": ["both", "disagree"], "confidence": 0.8,
            "ranking": "posterior", "precision": [], "notes": list(found.notes),
        }  # fmt: skip
        assert {key: origin[key] for key in wanted} == wanted
        assert origin["rates"][0]["rate"] == found.rates[0].rate

    def test_an_audit_that_finds_nothing_writes_a_file_that_can_be_read(self, tmp_path):
        table = plant(60, rate=0).table
        sure = 0.02 + 0.94 * table.targets
        planted = Planted(table, table.targets, (sure,), np.arange(60) % 5, np.arange(60))
        out = tmp_path / "issues.csv"
        source = write_sheet(tmp_path / "preds.csv", planted)
        assert audit(source, table, held_out=True, out=out).issues == ()
        read = read_issues(out)
        assert read.issues == ()
        assert read.origin["rates"][0]["rate"] == 0

    def test_files_lie_beside_what_was_audited(self, tmp_path):
        assert place_issues(tmp_path) == tmp_path / "issues.csv"
        assert place_issues(tmp_path / "a.parquet") == tmp_path / "a.issues.csv"

    def test_without_out_nothing_is_written(self, tmp_path):
        source = write_sheet(tmp_path / "preds.csv", plant(60))
        audit(source, plant(60).table, held_out=True)
        assert list(tmp_path.iterdir()) == [source]


def decide(path: Path, name: str, decision: str, given: str, label: str = "") -> None:
    append_review(
        path,
        Review(
            time="2030-01-01T00:00:00+00:00", reviewer="ann", id=name, class_name="",
            given=given, suggested="", decision=decision, label=label,
        ),
    )  # fmt: skip


def test_reviews_tell_how_right_the_rules_are(tmp_path):
    planted = plant()
    source, said = write_sheet(tmp_path / "preds.csv", planted), tmp_path / "reviews.csv"
    options = {"held_out": True, "rules": ["low_quality", "confident"], "confidence": 0.95}
    found = audit(source, planted.table, **options)
    picked = [i for i in found.flagged if i.rules == ("low_quality", "confident")][:5]
    picked += [i for i in found.flagged if i.rules == ("low_quality",)][:2]
    assert len(picked) == 7
    actions = ["relabel", "relabel", "drop", "keep", "skip", "keep", "keep"]
    for issue, action in zip(picked, actions, strict=True):
        label = {"relabel": issue.suggested, "keep": issue.given}.get(action, "")
        decide(said, issue.id, action, issue.given, label)
    decide(said, picked[5].id, "undo", picked[5].given)
    judged = audit(source, planted.table, reviews=said, **options)
    assert judged.issues == found.issues
    counts = {n: sum(n in i.rules for i in found.flagged) for n in ("low_quality", "confident")}
    assert [(p.rule, p.flagged, p.reviewed, p.wrong) for p in judged.precision] == [
        ("", len(found.flagged), 5, 3),
        ("low_quality", counts["low_quality"], 5, 3),
        ("confident", counts["confident"], 4, 3),
    ]
    assert [p.share.value for p in judged.precision] == pytest.approx([0.6, 0.6, 0.75])
    with pytest.raises(InputError, match="no such file"):
        audit(source, planted.table, held_out=True, reviews=tmp_path / "none.csv")


class TestRuns:
    def test_a_trained_run_is_audited(self, finished, exclusive, tmp_path):
        folder = shutil.copytree(finished.folder, tmp_path / "run")
        out = tmp_path / "issues.csv"
        found = loupe.audit(folder, out=out, every=True, rules=["disagree", "agreement"])
        assert len(found.issues) == found.rows == len(exclusive) == 16
        assert {issue.id for issue in found.issues} == set(exclusive.ids)
        mean = np.mean([sheet.probs for sheet in finished.oof().values()], axis=0)
        given = exclusive.targets.argmax(axis=1)
        off = {exclusive.ids[row] for row in np.flatnonzero(mean.argmax(axis=1) != given)}
        assert {i.id for i in found.issues if "disagree" in i.rules} == off
        assert any("similar images" in note for note in found.notes)
        origin = read_issues(out).origin
        assert (origin["source"], origin["is_run"]) == (str(folder), True)
        assert origin["table"] == open_run(folder).table().digest()
        # Nothing of the run is changed, and the run itself may be given.
        assert sorted(p.name for p in folder.iterdir()) == sorted(
            p.name for p in finished.folder.iterdir()
        )
        assert loupe.audit(open_run(folder)).flagged == loupe.audit(folder).flagged

    def test_other_labels_of_the_same_images_are_audited(self, finished, exclusive):
        turned = replace(exclusive, targets=1 - exclusive.targets)
        one = audit(finished.folder, rules=["disagree"], every=True)
        other = audit(finished.folder, turned, rules=["disagree"], every=True)
        flags = [{i.id: bool(i.rules) for i in found.issues} for found in (one, other)]
        assert all(flags[0][name] != flags[1][name] for name in exclusive.ids)

    def test_masks_are_judged_by_their_own_rules(self, segmented, tmp_path):
        out = tmp_path / "issues.csv"
        found = audit(segmented.folder, out=out)
        assert found.rates == ()
        assert found.rows == 12
        assert all(issue.given in (MASK, NO_MASK, "") for issue in found.issues)
        assert read_issues(out).origin["segments"] is True
        assert_ordered(found)


class TestNeighbours:
    def test_features_are_heard_and_mentioned(self, tmp_path):
        planted = plant()
        weak = replace(planted, members=(planted.members[0] * 0.3 + 0.7 / 3,))
        alone = audit(make_run(tmp_path / "alone", weak))
        both = audit(make_run(tmp_path / "both", weak, show_kinds(weak)))
        assert any("no features of the images" in note for note in alone.notes)
        assert any(note.startswith("the labels of up to") for note in both.notes)
        plain = audit(tmp_path / "both", ranking="margin")
        assert not any("similar images" in note for note in plain.notes)

    def test_strange_images_come_after_doubted_labels(self, tmp_path):
        planted, rng = plant(), np.random.default_rng(8)
        features, probs = show_kinds(planted), planted.members[0]
        off = probs.argmax(axis=1) != planted.table.targets.argmax(axis=1)
        # Labels of low quality among them, which the rule is not sure enough of.
        rows = [*np.flatnonzero(~off)[:3], *np.flatnonzero(off & (probs.max(axis=1) < 0.9))[:2]]
        features[rows] = -40 * rng.standard_normal((5, 16))
        run = make_run(tmp_path / "run", planted, features)
        found = audit(run, rules=["confident"], confidence=0.95)
        strange = [issue for issue in found.issues if issue.rules == ("outlier",)]
        assert {planted.table.ids[row] for row in rows} <= {issue.id for issue in strange}
        assert min(i.quality for i in strange) < 0.5
        assert found.issues[-len(strange) :] == tuple(strange)
        assert len(found.issues) > len(strange) + 20
        assert_ordered(found)
        # Nothing is suggested where the network has the given label.
        assert {i.suggested for i in strange if i.quality >= 0.5} == {""}


class TestCopies:
    @pytest.fixture
    def copied(self, tmp_path):
        """Tiles of which one copy is labelled otherwise than its original."""
        truth = make_tiles(
            tmp_path / "tiles", tiles=12, shots=1, size=(64, 64), duplicates=2, wrong_labels=0,
            seed=3,
        )  # fmt: skip
        table = loupe.read_table(truth.folder / "classes.csv", images=truth.images)
        source, copy, _ = truth.duplicates[0]
        targets = table.targets.copy()
        row = table.ids.index(copy)
        targets[row] = np.roll(targets[row], 1)
        table = replace(table, targets=targets)
        count = len(table.classes)
        sure = 0.1 / count + 0.9 * targets
        planted = Planted(table, targets, (sure,), np.zeros(14, int), np.arange(14))
        return table, write_sheet(tmp_path / "preds.csv", planted), {source, copy}

    def test_labels_that_copies_contradict_are_doubted(self, copied):
        table, source, pair = copied
        found = audit(source, table, held_out=True)
        assert {i.id for i in found.flagged if "copies" in i.rules} == pair
        # The network has both labels, so neither is called wrong, and none is suggested.
        assert {i.suggested for i in found.flagged} == {""}
        assert all(i.quality > 0.9 for i in found.flagged)
        assert not audit(source, table, held_out=True, copies=False).flagged

    def test_they_are_not_looked_for_where_images_are_gone(self, copied):
        table, source, pair = copied
        table.images[table.ids.index(min(pair))].unlink()
        found = audit(source, table, held_out=True)
        assert not found.flagged
        assert any("copies were not looked for" in note for note in found.notes)
