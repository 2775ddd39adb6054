"""Issues files: what is written is read back, edited files too, and others are refused."""

from __future__ import annotations

import json

import pytest

from loupe.errors import InputError
from loupe.issues import COLUMNS, Issue, origin_path, read_issues, write_issues

ISSUES = (
    Issue(
        id="a/1.png",
        given="cat",
        suggested="dog",
        quality=0.125,
        rules=("low_quality", "copies"),
        evidence='p(cat) 0.1, p("dog") 0.9\nsecond line',
    ),
    Issue(id="고양이, 2.png", class_name="red, wet", given="yes", suggested="no", quality=0.5),
    Issue(id="=1+1", given="mask", quality=1.0, rules=("outlier",), evidence="Far; away"),
)
ORIGIN = {"source": "/data/run", "classes": ["cat", "dog"], "rates": [{"rate": 0.1}]}


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / "new" / "issues.csv"
    write_issues(path, ISSUES, ORIGIN)
    read = read_issues(path)
    assert read.issues == ISSUES
    assert read.origin == {"kind": "issues", "schema": 1, **ORIGIN}


def test_the_columns_are_those_of_the_format(tmp_path):
    path = tmp_path / "issues.csv"
    write_issues(path, ISSUES[:1], {})
    header, *rows = path.read_text(encoding="utf-8").split("\n")
    assert header == "id,class,given,suggested,quality,rule,evidence"
    assert rows[0].startswith("a/1.png,,cat,dog,0.125000,low_quality copies,")


def test_no_issues_are_an_answer_too(tmp_path):
    path = tmp_path / "issues.csv"
    write_issues(path, (), ORIGIN)
    read = read_issues(path)
    assert read.issues == ()
    assert read.origin["source"] == "/data/run"


def test_a_spreadsheet_may_have_saved_it_in_another_order(tmp_path):
    path = tmp_path / "issues.csv"
    write_issues(path, (), ORIGIN)
    text = "remark,quality,id,given,suggested,class,rule,evidence\r\nlook,0.25,x,cat,,,both,\r\n"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    (issue,) = read_issues(path).issues
    assert issue == Issue(id="x", given="cat", quality=0.25, rules=("both",))


def test_without_the_file_beside_it_nothing_is_known_of_its_origin(tmp_path):
    path = tmp_path / "issues.csv"
    write_issues(path, ISSUES, ORIGIN)
    origin_path(path).unlink()
    assert read_issues(path).origin == {}
    assert read_issues(path).issues == ISSUES


def test_a_name_that_both_files_would_have_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"name it \.csv"):
        write_issues(tmp_path / "issues.json", ISSUES, ORIGIN)
    assert not list(tmp_path.iterdir())


def test_a_missing_file_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(InputError, match=r"no such file; 'loupe audit RUN --out .*issues\.csv'"):
        read_issues(tmp_path / "issues.csv")


@pytest.mark.parametrize("column", COLUMNS)
def test_every_column_is_needed(tmp_path, column):
    path = tmp_path / "issues.csv"
    left = [name for name in COLUMNS if name != column]
    path.write_text(",".join(left) + "\n" + ",".join("x" for _ in left) + "\n")
    with pytest.raises(InputError, match=f"no column {column}"):
        read_issues(path)


@pytest.mark.parametrize("quality", ["", "high", "1.01", "-0.1", "nan", "inf"])
def test_a_quality_is_a_number_from_zero_to_one(tmp_path, quality):
    path = tmp_path / "issues.csv"
    rows = [f"{n},,cat,dog,{value},both," for n, value in enumerate([quality, "0.5", quality])]
    path.write_text("\n".join([",".join(COLUMNS), *rows, ""]))
    with pytest.raises(InputError, match="quality is no number") as caught:
        read_issues(path)
    # Both lines are named, and the sound one is not.
    told = str(caught.value)
    assert "2" in told
    assert "4" in told
    assert "'0.5'" not in told


@pytest.mark.parametrize("change", [{"schema": 2}, {"kind": "rule"}])
def test_a_file_of_another_kind_or_version_is_refused(tmp_path, change):
    path = tmp_path / "issues.csv"
    write_issues(path, ISSUES, ORIGIN)
    known = json.loads(origin_path(path).read_text(encoding="utf-8"))
    origin_path(path).write_text(json.dumps(known | change), encoding="utf-8")
    with pytest.raises(InputError, match=r"reads 'issues' of schema 1\. Run 'loupe audit' again"):
        read_issues(path)


def test_a_label_is_filed_under_its_row_and_class():
    assert ISSUES[1].key == ("고양이, 2.png", "red, wet")
    assert ISSUES[0].key == ("a/1.png", "")
