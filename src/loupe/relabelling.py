"""The verb `relabel`: a new table in which doubted labels are changed, softened or dropped.

Owns the files: what is read, what is written and where it came from. It must not decide
about labels (that is `relabels`), edit a table in place or touch an image.

Shapes: N rows, C classes.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from loupe.aligning import ABSENT, match_ids
from loupe.cells import Cells
from loupe.columns import RLE_LAYOUTS
from loupe.errors import AlignmentError, InputError, LoupeError, TableError, shorten
from loupe.evidence import held_out_probs
from loupe.extras import quarantine_path
from loupe.files import write_json
from loupe.heldout import gather_evidence, open_source
from loupe.issues import IssueSheet, Key, read_issues
from loupe.labelcells import respell_labels, spell_number, spread_labels
from loupe.layouts import read_table
from loupe.relabels import Change, Choice, Policy, apply_changes, count_actions, plan_changes
from loupe.reviews import Review, read_reviews, settle_reviews
from loupe.rewrites import append_columns
from loupe.table import Float32, Layout, Table

SCHEMA = 1
KIND = "relabelled table"
Edit = Callable[[Cells, Sequence[str]], Cells]


@dataclass(frozen=True, slots=True, kw_only=True)
class Relabelled:
    """A table with some labels changed.

    Attributes:
        table: As `read_table` reads `path`, images included.
        counts: Action of `loupe.origins` to the number of rows it was done to.
        path: The file.
        reading: Arguments of `read_table` that `path` needs to be read so, besides the images'
            folder and the names that the old table needed.
        notes: What was used and what could not be done, for the screen.
    """

    table: Table
    counts: Mapping[str, int]
    path: Path
    reading: Mapping[str, str]
    notes: tuple[str, ...] = ()


def relabel(
    table: Table | str | Path,
    issues: str | Path,
    *,
    out: str | Path,
    policy: Policy = "relabel",
    reviews: str | Path | None = None,
    only_reviewed: bool = False,
    rules: Sequence[str] = (),
    max_quality: float = 1.0,
    mix: float = 0.5,
    source: str | Path | None = None,
    images: str | Path | None = None,
) -> Relabelled:
    """Write a table in which doubted labels are changed; the old one stays as it is.

    Rows, ids, folds and groups stay, so that a training on the new table can be compared
    with one on the old. A dropped row keeps its label and gets the weight 0: it is not
    trained on, but still held out, predicted and scored. The column `label_origin` says of
    every row what was done, and `<stem>.origin.json` beside the table from what and how.
    A person's decision always wins over the policy; what was skipped is left as it is.

    Args:
        table: The labels that were audited, or a file or folder that `read_table` reads.
        issues: From `loupe audit`. What stands beside it names the run: its folds and groups
            are taken where the table has none, its predictions to soften.
        out: The CSV to write. An earlier result from the same table and issues is replaced,
            any other file refused.
        policy: What becomes of labels that nobody decided about. "relabel" takes the
            suggested label, "drop" sets the weight to 0, "soften" mixes the label with
            the held-out prediction. Issues that suggest no label (copies, strange images)
            wait for a person, unless `rules` names theirs.
        reviews: Decisions of people; None takes `<stem>.reviews.csv` beside the issues,
            if it is there.
        only_reviewed: True changes nothing that nobody decided about.
        rules: The policy is for issues that one of these rules flags; () for any.
        max_quality: The policy is for issues of this quality or a lower one.
        mix: Share of the prediction in a softened label, above 0.
        source: The file or folder that `table` was read from, if it is a `Table`: its other
            cells are kept. None writes images and labels alone.
        images: Folder of the images, if `table` is a file.

    Returns:
        The new table, as it is read back from `out`.

    Raises:
        AlignmentError: ids of issues are not in the table, labels there are others, or
            its folds are not those of the run.
        InputError: an argument or a new label is not valid, or there is no prediction to
            soften by.
        TableError: the table has no labels, or its layout cannot hold the new ones.
    """
    sheet_path, path = Path(issues), Path(out)
    given = source if isinstance(table, Table) else table
    place = None if given is None else Path(given)
    choice = Choice(
        policy=policy, only_reviewed=only_reviewed, rules=tuple(rules), max_quality=max_quality
    )
    _check_arguments(choice, mix)
    found = find_reviews(sheet_path) if reviews is None else Path(reviews)
    record: dict[str, Any] = {
        "source": None if place is None else str(place.absolute()),
        "issues": str(sheet_path.absolute()),
    }
    _check_out(path, [place, sheet_path, found], record)
    before = table if isinstance(table, Table) else read_table(table, images=images)
    if not before.classes:
        raise TableError("the table has no labels, so there is nothing to change.")
    sheet = read_issues(sheet_path)
    decided: dict[Key, Review] = {} if found is None else settle_reviews(read_reviews(found))
    plan = plan_changes(before, sheet.issues, decided, choice)
    joined, told = _join_folds(before, sheet.origin)
    probs = _predict(before, sheet, plan.changes)
    after = apply_changes(joined, plan.changes, probs, mix=mix)
    counts = count_actions(after)
    record |= {
        "reviews": None if found is None else str(found.absolute()),
        "audited": sheet.origin.get("source"),
        "policy": policy, "only_reviewed": only_reviewed, "rules": list(rules),
        "max_quality": max_quality, "mix": mix, "counts": counts,
        "digests": {
            "table": before.digest(), "issues": _digest_file(sheet_path),
            "reviews": _digest_file(found),
        },
    }  # fmt: skip
    made, reading, hints = _write(before, after, place, path, record)
    by = [] if found is None else [f"{len(decided)} decision(s) of people are from {found}"]
    notes = (*by, *told, *plan.notes, *hints)
    return Relabelled(table=made, counts=counts, path=path, reading=reading, notes=notes)


def find_reviews(issues: Path) -> Path | None:
    """Return the decisions that stand beside an issues file; None if there are none.

    Args:
        issues: The issues file.
    """
    beside = issues.with_name(f"{issues.stem}.reviews.csv")
    return beside if beside.is_file() else None


def record_path(out: Path) -> Path:
    """Return the file that says how a relabelled table was made.

    Examples:
        >>> record_path(Path("clean.csv")).as_posix()
        'clean.origin.json'
    """
    return out.with_name(f"{out.stem}.origin.json")


def _check_arguments(choice: Choice, mix: float) -> None:
    known = get_args(Policy)
    if choice.policy not in known:
        raise InputError(f"policy {choice.policy!r}: expected one of {', '.join(known)}.")
    if not 0 <= choice.max_quality <= 1:
        raise InputError(f"max_quality is {choice.max_quality}; expected a number in [0, 1].")
    if not 0 < mix <= 1:
        raise InputError(f"mix is {mix}; expected a number above 0 and up to 1.")


def _check_out(path: Path, inputs: Sequence[Path | None], record: Mapping[str, Any]) -> None:
    """Refuse to write over what is read, or over a file that was not made from the same."""
    if path.suffix.lower() not in (".csv", ".tsv", ".txt"):
        raise InputError(f"{path}: tables are written as text; name a file that ends in .csv.")
    if any(given is not None and given.resolve() == path.resolve() for given in inputs):
        raise InputError(f"{path} is read here, and nothing is edited in place; choose another.")
    beside = record_path(path)
    made = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
    others = [] if path.exists() else [quarantine_path(path)]
    others += [] if made.get("kind", KIND) == KIND else [beside]
    for other in others:
        if other.exists():
            raise InputError(
                f"{other} is there already, and belongs to something else; choose another name."
            )
    if not path.exists():
        return
    same = made.get("kind") == KIND and all(made.get(key) == record[key] for key in record)
    if same and made.get("written", "") not in ("", _digest_file(path)):
        raise InputError(
            f"{path} was made from this table and these issues, and changed since; choose another "
            "name, or delete it."
        )
    if not same:
        raise InputError(
            f"{path} is there already, and was not made from this table and these issues; choose "
            "another name."
        )


def _digest_file(path: Path | None) -> str | None:
    return None if path is None else hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()


def _join_folds(table: Table, origin: Mapping[str, Any]) -> tuple[Table, tuple[str, ...]]:
    """Take folds and groups of the audited run where the table has none."""
    place = origin.get("source")
    if not origin.get("is_run") or not place or not (Path(place) / "manifest.json").is_file():
        gone = f"there is no run to take folds from ({place or 'the file beside it is gone'})"
        return table, () if table.folds is not None else (gone,)
    run = open_source(Path(place))
    trained = table if run is None else run.table()
    at = match_ids(trained.ids, table.ids)
    there = np.flatnonzero(at != ABSENT)
    if table.folds is not None and trained.folds is not None:
        other = [row for row in there if table.folds[row] != trained.folds[at[row]]]
        if other:
            names = shorten([repr(table.ids[row]) for row in other])
            raise AlignmentError(
                f"{len(other)} row(s) have another fold than in {place}: {names}. Name the "
                "table that was audited, or leave its folds out: those of the run are taken."
            )
    elif trained.folds is not None:
        if len(there) < len(table):
            lost = [repr(key) for key, row in zip(table.ids, at, strict=True) if row == ABSENT]
            raise AlignmentError(
                f"{len(lost)} row(s) of the table are not in {place}, so they have no fold there: "
                f"{shorten(lost)}. Name the table that was audited."
            )
        table = replace(table, folds=trained.folds[at])
    if table.groups is None and trained.groups is not None and len(there) == len(table):
        table = replace(table, groups=tuple(trained.groups[row] for row in at))
    return table, (f"folds are those of {place}",)


def _predict(table: Table, sheet: IssueSheet, changes: Sequence[Change]) -> Float32:
    """Return held-out probabilities of rows that are softened, (N, C); zeros elsewhere."""
    probs = np.zeros(table.targets.shape, np.float32)
    rows = sorted({change.row for change in changes if change.action == "softened"})
    if not rows:
        return probs
    if table.masks is not None:
        raise InputError("masks cannot be softened; choose the policy relabel or drop.")
    place = sheet.origin.get("source")
    if not place or not Path(place).exists():
        raise InputError(
            "softened labels are mixed with predictions, and what was audited is gone "
            f"({place or 'the file beside the issues'}); choose the policy relabel or drop."
        )
    run = open_source(Path(place))
    evidence = gather_evidence(
        [place], table if run is None else None, held_out=True, allow_leak=True,
        group="none" if run is None else "",
    )  # fmt: skip
    if set(evidence.classes) != set(table.classes) or evidence.exclusive != table.exclusive:
        raise AlignmentError(
            f"{place} predicts {shorten(evidence.classes)}; the table has the classes "
            f"{shorten(table.classes)}. Expected the same."
        )
    at = match_ids(evidence.ids, [table.ids[row] for row in rows])
    if (at == ABSENT).any():
        lost = [repr(table.ids[row]) for row, k in zip(rows, at, strict=True) if k == ABSENT]
        raise AlignmentError(f"{place} has no held-out prediction of {shorten(lost)}.")
    columns = [evidence.classes.index(name) for name in table.classes]
    probs[rows] = held_out_probs(evidence)[at][:, columns]
    return probs


def _write(
    before: Table, after: Table, source: Path | None, out: Path, record: Mapping[str, Any]
) -> tuple[Table, dict[str, str], tuple[str, ...]]:
    """Write the table in the first form that is read back as it is meant."""

    def own(cells: Cells, keys: Sequence[str]) -> Cells:
        return respell_labels(cells, keys, before, after)

    def wide(cells: Cells, keys: Sequence[str]) -> Cells:
        return spread_labels(cells, keys, before, after)

    table = _choose_columns(after, source)
    added = _list_columns(before, table)
    forms: list[Edit | None] = [own] if table.layout.name in RLE_LAYOUTS else [own, wide]
    if not table.layout.columns or (before.targets == after.targets).all():
        forms = [None]
    faults = []
    for edit in forms:
        try:
            read, reading = _try_form(table, source, out, added, edit)
        except LoupeError as error:
            faults.append(str(error))
            continue
        write_json(record_path(out), {"kind": KIND, "schema": SCHEMA, **record})
        append_columns(table, source or out, out, added, edit=edit)
        done = {"kind": KIND, "schema": SCHEMA, **record, "written": _digest_file(out)}
        write_json(record_path(out), done)
        told = ["labels are written as a column for each class"] if edit is wide else []
        if source is not None and after.layout.columns and not table.layout.columns:
            told.append("only images, labels and what is known of rows are written")
        told += [f"read it with {key}={value!r}" for key, value in reading.items()]
        return replace(read, images=after.images), reading, (*told, *_hint_images(after, out))
    raise TableError(f"the new labels cannot be written: {' '.join(faults)}")


def _choose_columns(table: Table, source: Path | None) -> Table:
    """Forget the columns of a table that has to be spelled anew."""
    # Mask files are not edited, and which of joined classes a label was no text can say.
    anew = table.layout.name == "masks" or bool(table.layout.any_class)
    if not table.layout.columns or (source is not None and not anew):
        return table
    if table.layout.id_column:
        raise InputError(
            f"the table knows its rows by column {table.layout.id_column!r}, so images and labels "
            "alone would not do. Name the file that it was read from (source), and read it "
            "without joining classes (any_class)."
        )
    layout = Layout(
        name=table.layout.name, numbers=table.layout.numbers, any_class=table.layout.any_class
    )
    return replace(table, layout=layout)


def _list_columns(before: Table, table: Table) -> dict[str, Sequence[object]]:
    """Return the columns that the file lacks, or has otherwise."""
    header = {name.casefold() for name in table.layout.columns}
    columns: dict[str, Sequence[object]] = {}
    if table.folds is not None and "fold" not in header:
        columns["fold"] = table.folds.tolist()
    if table.groups is not None and "group" not in header:
        columns["group"] = table.groups
    same = "weight" in header and _are_equal(before.weights, table.weights)
    if table.weights is not None and not same:
        columns["weight"] = [spell_number(weight) for weight in table.weights]
    if table.teachers is not None:
        # Their folders were found from where the old table is.
        columns["teacher"] = table.teachers
    return columns | {"label_origin": table.label_origins or ("",) * len(table)}


def _try_form(
    table: Table,
    source: Path | None,
    out: Path,
    added: Mapping[str, Sequence[object]],
    edit: Edit | None,
) -> tuple[Table, dict[str, str]]:
    """Write a trial beside nothing of the user's, and read it back as the user would."""
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / out.name
        append_columns(table, source or trial, trial, added, edit=edit)
        always, ways = _list_ways(table)
        for arguments in ways:
            try:
                read = read_table(trial, need_images=False, **always, **arguments)
            except LoupeError as error:
                faults.append(str(error))
                continue
            differing = _find_differences(read, table)
            if not differing:
                return read, arguments
            faults.append(f"{', '.join(differing)} would be read back otherwise.")
    raise TableError(shorten(list(dict.fromkeys(faults)), 2))


def _list_ways(table: Table) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Return arguments that a table is always read with, and more of them, simplest first."""
    layout = table.layout
    always: dict[str, Any] = {}
    base = next((path.anchor for path in map(Path, table.ids) if path.is_absolute()), "")
    if base and layout.name not in RLE_LAYOUTS:
        always["images"] = base
    if layout.numbers and not layout.any_class:
        always["names"] = dict(zip(layout.numbers, table.classes, strict=True))
    spread = ",".join(layout.numbers or table.classes)
    image = {"image_column": layout.image_column} if layout.image_column else {}
    ways: list[dict[str, str]] = [{}]
    for columns, kind in ((",".join(layout.label_column), layout.name), (spread, "multi-hot")):
        named = {"label_column": columns}
        if columns:
            ways += [named, image | named, image | named | {"layout": kind}]
    return always, ways


def _hint_images(table: Table, out: Path) -> tuple[str, ...]:
    """Say where image names start from, if that is not the folder of the new table."""
    for name, path in zip(table.ids, table.images, strict=True):
        place = path.absolute().as_posix()
        if place.endswith(f"/{name}"):
            base = Path(place.removesuffix(f"/{name}") or "/")
            same = base.resolve() == out.absolute().parent.resolve()
            return () if same else (f"image names start from {base}: read it with images there",)
    return ()


def _find_differences(read: Table, wanted: Table) -> list[str]:
    """Name what differs between two tables that should be equal."""
    same = {
        "ids": read.ids == wanted.ids,
        "classes": read.classes == wanted.classes and read.exclusive == wanted.exclusive,
        "targets": np.array_equal(read.targets, wanted.targets),
        "masks": read.masks == wanted.masks,
        "groups": read.groups == wanted.groups,
        "folds": _are_equal(read.folds, wanted.folds),
        "weights": _are_equal(read.weights, wanted.weights),
        "label origins": read.label_origins == wanted.label_origins,
    }
    return [name for name, equal in same.items() if not equal]


def _are_equal(first: np.ndarray[Any, Any] | None, second: np.ndarray[Any, Any] | None) -> bool:
    if first is None or second is None:
        return first is second
    return bool(np.array_equal(first, second))
