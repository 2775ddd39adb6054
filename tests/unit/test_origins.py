"""Label origins: every text that is written is read back, and nothing else is."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from loupe.errors import InputError, TableError
from loupe.layouts import read_table
from loupe.origins import Action, By, Origin, parse_origin, spell_origin
from loupe.table import Table, read_snapshot, write_snapshot

GIVEN = ("", "cat", "a, was b", "dog by rule", "개", "two\nlines", 'with "quotes"')


@pytest.mark.parametrize(
    ("action", "by", "given"), [*itertools.product(get_args(Action), get_args(By), GIVEN)]
)
def test_what_is_spelled_is_parsed_to_the_same(action, by, given):
    origin = Origin(action=action, by=by, given=given)
    assert parse_origin(spell_origin(origin)) == origin


def test_nothing_is_an_empty_cell():
    assert spell_origin(None) == ""
    assert parse_origin("") is None
    assert parse_origin("  ") is None


def test_blanks_around_a_cell_do_not_matter():
    assert parse_origin(" kept by review ") == Origin(action="kept", by="review")


@pytest.mark.parametrize(
    "text", ["cat", "kept", "kept by nobody", "deleted by rule", "kept by rule was x", "by rule"]
)
def test_other_text_is_refused_with_what_is_expected(text):
    with pytest.raises(InputError, match="relabelled, softened"):
        parse_origin(text)


ORIGINS = ("", "relabelled by review, was x", "kept by rule")


def make_table(**more) -> Table:
    return Table(
        ids=("a", "b", "c"),
        images=(Path("a"), Path("b"), Path("c")),
        classes=("x",),
        targets=np.zeros((3, 1), np.float32),
        exclusive=False,
        **more,
    )


def test_a_table_keeps_them_row_by_row(tmp_path):
    table = make_table(label_origins=ORIGINS)
    assert table.select([2, 0]).label_origins == ("kept by rule", "")
    write_snapshot(table, tmp_path / "t.parquet")
    assert read_snapshot(tmp_path / "t.parquet").label_origins == ORIGINS
    write_snapshot(make_table(), tmp_path / "t.parquet")
    assert read_snapshot(tmp_path / "t.parquet").label_origins is None
    with pytest.raises(TableError, match="label origins has 1"):
        replace(table, label_origins=("",))


def test_the_digest_knows_them_and_older_tables_keep_theirs():
    plain = make_table()
    told = [replace(plain, label_origins=each) for each in (ORIGINS, ("",) * 3)]
    taught = replace(plain, teachers=ORIGINS)
    assert len({plain.digest(), taught.digest(), *(table.digest() for table in told)}) == 4
    assert plain.digest() == "de18e0b9a4e0b582"  # as before there were label origins


def test_the_column_is_read_told_and_never_a_label(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(b"")
    path = tmp_path / "t.csv"
    rows = [f'{name}.png,"{text}",1' for name, text in zip("abc", ORIGINS, strict=True)]
    path.write_text("\n".join(["image,Label_Origin,crack", *rows]), encoding="utf-8")
    table = read_table(path)
    assert table.label_origins == ORIGINS
    assert table.classes == ("crack",)
    told = "column 'Label_Origin' is used as what was done to a label: 1 kept by rule, 1 relabelled"
    assert any(note.startswith(told) for note in table.notes)
    path.write_text("image,label_origin\na.png,good\nb.png,\nc.png,bad", encoding="utf-8")
    with pytest.raises(TableError, match=r"2 cell\(s\) are not a label origin.*lines 2, 4"):
        read_table(path)


def test_weights_of_zero_are_read_unless_all_are(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    path = tmp_path / "t.csv"
    path.write_text("image,label,weight\na.png,x,0\nb.png,y,0.5\n", encoding="utf-8")
    table = read_table(path)
    assert table.weights.tolist() == [0, 0.5]
    assert any("1 of the images have weight 0 and are not trained on" in n for n in table.notes)
    path.write_text("image,label,weight\na.png,x,0\nb.png,y,0.0\n", encoding="utf-8")
    with pytest.raises(TableError, match="all weights are 0"):
        read_table(path)
