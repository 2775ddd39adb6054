"""Submissions: predictions written as files that people and graders expect.

Owns the fixed outputs of `predict` and the imitation of a training table or of a
sample file. It must not choose a threshold: probabilities and decisions come in.
Rows are never dropped: one that could not be read keeps its place, empty.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from loupe.answers import (
    Answers,
    are_integers,
    blank_answers,
    has_decimals,
    spell_choice,
    spell_classes,
    spell_flags,
    spell_lists,
    spell_probs,
)
from loupe.cells import Cells, read_cells, write_cells
from loupe.columns import IMAGE_COLUMNS, RLE_COLUMNS, RLE_LAYOUTS, fold_name
from loupe.errors import AlignmentError, InputError, shorten
from loupe.labels import WORDS, find_list_separator
from loupe.locating import strip_extension
from loupe.table import Layout

Format = Literal["labels", "probabilities", "submission"]


@dataclass(frozen=True, slots=True)
class _Sheet:
    """What one file is to hold, and what was assumed on the way."""

    header: tuple[str, ...]
    rows: list[list[str]]
    notes: tuple[str, ...] = ()


def check_writing(
    path: Path,
    form: Format,
    *,
    ids: Sequence[str],
    classes: Sequence[str],
    exclusive: bool,
    layout: Layout,
    like: Path | None = None,
    columns: Sequence[str] | None = None,
    numbers: bool = False,
) -> None:
    """Refuse, before anything is predicted, what could not be written afterwards.

    The file is made up with empty answers and thrown away, so that what is
    refused here is what the functions that write would refuse, and nothing else.

    Args:
        path: The CSV that is to be written.
        form: Which of `write_labels`, `write_probabilities`, `write_submission`.
        ids: Ids of the rows that are to be predicted.
        classes: Names of the classes.
        exclusive: One class a row.
        layout: How the training table was written.
        like: As for `write_submission`, and so are the rest.
        columns: Names of the columns instead.
        numbers: Write classes as numbers.

    Raises:
        InputError: the file cannot be written there, a column cannot be filled,
            or its meaning is doubtful.
        AlignmentError: ids of the sample are not to be predicted.
    """
    answers = blank_answers(ids, classes, exclusive=exclusive, layout=layout)
    _refuse_place(path)
    if form == "labels":
        _compose_labels(answers)
    elif form == "probabilities":
        _compose_probabilities(answers)
    else:
        _compose_submission(answers, like=like, columns=columns, numbers=numbers)


def write_probabilities(path: Path, answers: Answers) -> None:
    """Write `id`, a column for each class, and `error`.

    The columns are always the same, so that programs need no special case;
    `error` is empty where the image was read, and the probabilities where it
    was not. Numbers are the shortest text that reads back as the same float32.

    Args:
        path: The CSV.
        answers: What to write.

    Raises:
        InputError: a class is named like one of the fixed columns, or the file
            cannot be written there.
    """
    _write(path, _compose_probabilities(answers))


def write_labels(path: Path, answers: Answers) -> None:
    """Write `id, label, error`, or a 0/1 column for each class if they are not exclusive.

    The label is the class's name; it is empty for a row that the rule rejected
    and, with an `error`, for one that could not be read.

    Args:
        path: The CSV.
        answers: What to write.

    Raises:
        InputError: a class is named like one of the fixed columns, or the file
            cannot be written there.
    """
    _write(path, _compose_labels(answers))


def write_submission(
    path: Path,
    answers: Answers,
    *,
    like: Path | None = None,
    columns: Sequence[str] | None = None,
    header: bool = True,
    index: bool = False,
    numbers: bool = False,
) -> tuple[str, ...]:
    """Write predictions in the layout of the training table, or of a sample file.

    A column is understood by its name: the image, a class, or else the label.
    With `like`, columns, rows and their order are the sample's; rows are matched
    by id, with or without an image extension, and the sample's cells tell
    probabilities (0.5) from decisions (0). Unreadable rows keep their place with
    empty cells.

    Args:
        path: The CSV.
        answers: What to write.
        like: A sample submission with a header line.
        columns: Names of the columns instead; ``("label",)`` is a bare label.
            Blanks around them do not count.
        header: Write the header line.
        index: Put a column without a name before the others, counting from 0.
        numbers: Write classes as numbers: those of the training table's name
            map, or else the place of the class, from 0.

    Returns:
        What was assumed, for the screen.

    Raises:
        InputError: a column cannot be filled, its meaning is doubtful, or the
            file cannot be written there.
        AlignmentError: ids of the sample were not predicted; all are listed.
    """
    sheet = _compose_submission(answers, like=like, columns=columns, numbers=numbers)
    _write(path, sheet, header=header, index=index)
    return sheet.notes


def _compose_probabilities(answers: Answers) -> _Sheet:
    _refuse_clash(answers.classes)
    columns = [spell_probs(answers, at) for at in range(len(answers.classes))]
    return _frame(answers, answers.classes, columns)


def _compose_labels(answers: Answers) -> _Sheet:
    if answers.exclusive:
        return _frame(answers, ("label",), [spell_choice(answers, answers.classes)])
    _refuse_clash(answers.classes)
    columns = [spell_flags(answers, at, WORDS[0]) for at in range(len(answers.classes))]
    return _frame(answers, answers.classes, columns)


def _frame(answers: Answers, names: Sequence[str], columns: Sequence[Sequence[str]]) -> _Sheet:
    """Put the columns between those of the id and of the error."""
    rows = [list(row) for row in zip(answers.ids, *columns, answers.messages(), strict=True)]
    return _Sheet(("id", *names, "error"), rows)


def _compose_submission(
    answers: Answers, *, like: Path | None, columns: Sequence[str] | None, numbers: bool
) -> _Sheet:
    if like is not None and columns is not None:
        raise InputError("--like and --columns both name the columns; pass one of them.")
    lost = answers.messages()
    notes = [f"{sum(map(bool, lost))} unreadable rows have empty cells"] if any(lost) else []
    if like is not None:
        names, rows, more = _imitate(read_cells(like), answers, numbers=numbers)
    else:
        names = tuple(n.strip() for n in columns) if columns else _training_columns(answers)
        meanings = _understand(names, answers)
        filled, more = _fill(names, meanings, answers, None, numbers=numbers)
        rows = [list(row) for row in zip(*filled, strict=True)]
    return _Sheet(names, rows, (*notes, *more))


def _write(path: Path, sheet: _Sheet, *, header: bool = True, index: bool = False) -> None:
    _refuse_place(path)
    names, rows = sheet.header, sheet.rows
    if index:
        names = ("", *names)
        rows = [[str(at), *row] for at, row in enumerate(rows)]
    write_cells(path, names if header else None, rows)


def _refuse_place(path: Path) -> None:
    """Refuse a folder, and a place where no file can be made; missing folders can."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; name the file to write, as {path / 'out.csv'}.")
    above = next((folder for folder in path.absolute().parents if folder.exists()), Path("/"))
    if not above.is_dir():
        raise InputError(f"{path}: {above} is a file, not a folder. Name another place with --out.")
    if not os.access(above, os.W_OK | os.X_OK):
        raise InputError(
            f"{path}: nothing may be written to {above}. Name another place with --out, or ask "
            "for its rights to be changed."
        )


def _refuse_clash(classes: Sequence[str]) -> None:
    clash = [repr(name) for name in classes if name in ("id", "error")]
    if clash:
        raise InputError(
            f"a class is named {' and '.join(clash)}, like a fixed column of this file; rename it "
            "with a name map (--names)."
        )


def _training_columns(answers: Answers) -> tuple[str, ...]:
    layout = answers.layout
    if layout.name in RLE_LAYOUTS and not layout.any_class:
        raise InputError(
            f"the training table holds masks (layout {layout.name!r}), which a classifier does not "
            "make. Use --format labels or --format probabilities, or `loupe gate` to clean a "
            "submission of masks."
        )
    image = layout.id_column or layout.image_column or "image"
    if layout.name in ("classes", "binary", "label-list") and not layout.any_class:
        return (image, *layout.label_column)
    return (image, "label") if answers.exclusive else (image, *answers.classes)


def _imitate(
    sample: Cells, answers: Answers, *, numbers: bool
) -> tuple[tuple[str, ...], list[list[str]], list[str]]:
    """Return the sample's columns and its rows with the answers, and notes."""
    key, order, notes = _follow_sample(sample, answers)
    meanings = _understand(sample.header, answers, key)
    filled, more = _fill(sample.header, meanings, answers, sample, numbers=numbers)
    rows = [
        # Ids keep the sample's spelling, which may lack the extension.
        [
            cell if meaning == "id" else column[at]
            for cell, meaning, column in zip(row, meanings, filled, strict=True)
        ]
        for row, at in zip(sample.rows, order, strict=True)
    ]
    return sample.header, rows, [*notes, *more]


def _fill(
    names: Sequence[str],
    meanings: Sequence[str],
    answers: Answers,
    sample: Cells | None,
    *,
    numbers: bool,
) -> tuple[list[list[str]], list[str]]:
    """Return the cells of each column in the order of the answers, and notes."""
    filled: list[list[str]] = []
    notes: list[str] = []
    for name, meaning in zip(names, meanings, strict=True):
        cells = None if sample is None else sample.column(name)
        if meaning == "id":
            filled.append(list(answers.ids))
        elif meaning == "label":
            column, note = _fill_label(name, answers, cells, numbers=numbers)
            filled.append(column)
            notes += note
        else:
            filled.append(_fill_class(int(meaning), answers, cells))
    used = [name for name, meaning in zip(names, meanings, strict=True) if meaning.isdigit()]
    if sample is not None and used:
        kinds = {has_decimals(sample.column(name)) for name in used}
        if len(kinds) > 1:
            raise InputError(
                f"{sample.where}: some of the columns {shorten([repr(n) for n in used])} hold "
                "decimals and some do not; are probabilities or 0/1 meant? Write all alike."
            )
        kind = "probabilities" if kinds.pop() else "0 and 1"
        notes.append(f"columns {shorten([repr(n) for n in used])} hold {kind}, as in the sample")
    return filled, notes


def _understand(names: Sequence[str], answers: Answers, key: str = "") -> list[str]:
    """Return "id", "label" or the number of a class for each column."""
    layout = answers.layout
    images = {layout.image_column, layout.id_column, key} - {""}
    at = {name: str(i) for i, name in enumerate(answers.classes)}
    if not layout.any_class:
        # A class may go by its own name, or by its text in the training table.
        at = {text: str(i) for i, text in enumerate(spell_classes(answers, numbers=False))} | at
    single = set(layout.label_column) if len(layout.label_column) == 1 else set()
    meanings = []
    for name in names:
        is_id = name in images or fold_name(name) in IMAGE_COLUMNS
        if is_id and name in at:
            raise InputError(
                f"column {name!r} could be the image or the class of that name; rename the class "
                "with a name map (--names)."
            )
        known = "label" if name in single and name in at else at.get(name, "label")
        meanings.append("id" if is_id else known)
    _refuse_unknown(names, meanings, answers)
    return meanings


def _refuse_unknown(names: Sequence[str], meanings: Sequence[str], answers: Answers) -> None:
    masks = [repr(name) for name in names if fold_name(name) in RLE_COLUMNS]
    if masks:
        raise InputError(
            f"column {masks[0]} holds masks, which a classifier does not make. Use --format labels "
            "or --format probabilities, or `loupe gate` to clean a submission of masks."
        )
    unknown = [repr(n) for n, meaning in zip(names, meanings, strict=True) if meaning == "label"]
    if len(unknown) > 1 or (unknown and any(meaning.isdigit() for meaning in meanings)):
        raise InputError(
            f"columns {', '.join(unknown)} are neither the image nor one of the classes "
            f"{shorten([repr(name) for name in answers.classes])}; only one column may be the "
            "label. Name the columns with --columns."
        )


def _fill_class(at: int, answers: Answers, cells: Sequence[str] | None) -> list[str]:
    if cells is not None and has_decimals(cells):
        return spell_probs(answers, at)
    return spell_flags(answers, at, WORDS[0])


def _fill_label(
    name: str, answers: Answers, cells: Sequence[str] | None, *, numbers: bool
) -> tuple[list[str], list[str]]:
    if len(answers.classes) == 1 and not answers.exclusive:
        return _fill_binary(name, answers, cells, numbers=numbers)
    decimals = cells is not None and has_decimals(cells)
    if decimals:
        raise InputError(
            f"column {name!r} of the sample holds decimals, but there are {len(answers.classes)} "
            "classes; which probability is meant? Name a class's column with --columns."
        )
    texts = spell_classes(answers, numbers=numbers)
    notes = []
    if cells is not None and not numbers and are_integers(cells) and not are_integers(texts):
        texts = spell_classes(answers, numbers=True)
        pairs = [f"{t} = {c}" for t, c in zip(texts, answers.classes, strict=True)]
        notes.append(f"column {name!r} holds numbers in the sample: {shorten(pairs)}")
    elif cells is not None and set(answers.classes) & set(cells):
        texts = answers.classes
    if answers.exclusive:
        return spell_choice(answers, texts), notes
    separator = answers.layout.separator or find_list_separator(cells or ()) or " "
    return spell_lists(answers, texts, separator), notes


def _fill_binary(
    name: str, answers: Answers, cells: Sequence[str] | None, *, numbers: bool
) -> tuple[list[str], list[str]]:
    if cells is not None and has_decimals(cells):
        note = f"column {name!r} holds the probability of {answers.classes[0]!r}"
        return spell_probs(answers, 0), [note]
    words = answers.layout.words or WORDS[0]
    plain = numbers or answers.layout.any_class or (cells is not None and are_integers(cells))
    return spell_flags(answers, 0, WORDS[0] if plain else words), []


def _follow_sample(sample: Cells, answers: Answers) -> tuple[str, list[int], list[str]]:
    """Return the sample's id column, the answer for each of its rows, and notes."""
    known = _number_ids(answers.ids)
    if any(name in known for name in sample.header):
        raise InputError(
            f"{sample.where}: the first line is a row, not a header. Name the columns with "
            "--columns and pass --no-header instead of --like."
        )
    key = _find_key(sample, known)
    wanted = sample.column(key)
    found = [_find(text, known) for text in wanted]
    missing = [repr(t) for t, row in zip(wanted, found, strict=True) if row is None]
    if missing:
        raise AlignmentError(
            f"{sample.where}, column {key!r}: {len(missing)} of {len(wanted)} ids were not "
            f"predicted: {shorten(missing, 20)}. Predict the images that the sample lists."
        )
    order = [row for row in found if row is not None]
    extra = len(answers.ids) - len(set(order))
    notes = [f"{extra} predicted images are not in the sample and were left out"] if extra else []
    return key, order, notes


def _number_ids(ids: Sequence[str]) -> dict[str, int]:
    """Map each id, and each id without its extension if only one fits, to its row."""
    stems = Counter(strip_extension(key) for key in ids)
    short = {strip_extension(key): row for row, key in enumerate(ids)}
    unique = {stem: row for stem, row in short.items() if stems[stem] == 1}
    return unique | {key: row for row, key in enumerate(ids)}


def _find(text: str, known: Mapping[str, int]) -> int | None:
    text = text.strip()
    return known[text] if text in known else known.get(strip_extension(text))


def _find_key(sample: Cells, known: Mapping[str, int]) -> str:
    named = [name for name in sample.header if fold_name(name) in IMAGE_COLUMNS]
    fits = {
        name: sum(_find(text, known) is not None for text in sample.column(name))
        for name in (*named, *sample.header)
    }
    best = max(fits, key=lambda name: fits[name])
    if not fits[best]:
        raise InputError(
            f"{sample.where}: no column holds predicted ids, such as "
            f"{shorten([repr(key) for key in known], 3)}; the columns are "
            f"{shorten([repr(name) for name in sample.header])}. For a file without ids, pass "
            "--columns (and --index for a running number) instead of --like."
        )
    return best
