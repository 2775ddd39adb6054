"""The check names each planted fault, and nothing in a sound table."""

import csv
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loupe.checking import COLUMNS, Sizes, check, find_groups, write_check
from loupe.errors import InputError
from loupe.findings import RARE
from loupe.table import Quarantined, Table


def texture(seed, height=60, width=80):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (13, 17, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def make_table(folder, labels, classes=("crack", "fine"), *, exclusive=True, **extras):
    """Write an unrelated picture for each row; a label is the classes of its row."""
    ids = tuple(f"{row:03}.png" for row in range(len(labels)))
    for row, name in enumerate(ids):
        texture(row).save(folder / name)
    targets = [[float(name in label.split()) for name in classes] for label in labels]
    return Table(
        ids=ids,
        images=tuple(folder / name for name in ids),
        classes=classes,
        targets=np.array(targets, dtype=np.float32).reshape(len(labels), len(classes)),
        exclusive=exclusive,
        **extras,
    )


@pytest.fixture
def table(tmp_path):
    return make_table(tmp_path, ["crack", "fine"] * 10)


def named(report, finding):
    return {f.id: f for f in report.findings if f.finding == finding}


def test_a_sound_table_has_no_findings(table):
    report = check(table)
    assert report.findings == ()
    assert not report.must_fix
    assert report.bad_ids == ()
    assert report.rows == 20
    assert report.class_counts == {"crack": 10, "fine": 10}
    assert report.classes_per_image == {1: 20}
    assert report.copies == report.groups == table.ids
    assert report.copy_sizes == report.group_sizes == {}
    assert report.sizes == Sizes(distinct=1, smallest=(60, 80), median=(60, 80), largest=(60, 80))


def test_each_damage_is_found_and_must_be_fixed(table):
    table.images[3].unlink()
    table.images[4].write_bytes(b"")
    table.images[5].write_text("not an image")
    whole = table.images[6].read_bytes()
    table.images[6].write_bytes(whole[: len(whole) // 2])
    header = bytearray(table.images[7].read_bytes())
    header[16:24] = (50_000).to_bytes(4, "big") * 2
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    table.images[7].write_bytes(header)
    report = check(table)
    found = {f.id: (f.finding, f.severity) for f in report.findings}
    assert found == {
        "003.png": ("missing", "fix"),
        "004.png": ("zero-byte", "fix"),
        "005.png": ("unreadable", "fix"),
        "006.png": ("truncated", "fix"),
        "007.png": ("bomb", "fix"),
    }
    assert report.must_fix
    assert report.bad_ids == tuple(found)
    assert report.copies == table.ids


def test_equal_pictures_with_different_labels_contradict(table):
    texture(0).save(table.images[1])  # crack at 0, fine at 1
    texture(2).save(table.images[4])  # crack at both
    report = check(table)
    wrong = named(report, "contradiction")
    assert set(wrong) == set(report.bad_ids) == {"000.png", "001.png"}
    assert {f.severity for f in wrong.values()} == {"fix"}
    assert {f.group for f in wrong.values()} == {"000.png"}
    assert wrong["000.png"].detail == (
        "labelled 'crack'; '001.png' is the same pixels and is labelled 'fine'."
    )
    assert wrong["001.png"].detail.startswith("labelled 'fine'; '000.png'")
    assert set(named(report, "equal-copy")) == {"000.png", "001.png", "002.png", "004.png"}
    assert report.copy_sizes == {"000.png": 2, "002.png": 2}


def test_near_copies_with_different_labels_are_a_note(table):
    texture(0).point(lambda value: value // 2).save(table.images[1])
    report = check(table)
    assert not report.must_fix
    assert set(named(report, "near-contradiction")) == {"000.png", "001.png"}
    assert set(named(report, "near-copy")) == {"000.png", "001.png"}
    assert report.copies[:3] == ("000.png", "000.png", "002.png")


def test_a_row_without_a_label_contradicts_nothing(table):
    texture(0).save(table.images[1])
    texture(2).point(lambda value: value // 2).save(table.images[3])
    table.targets[[1, 3]] = np.nan
    findings = {f.finding for f in check(table).findings}
    assert findings == {"equal-copy", "near-copy"}


def test_a_table_without_classes_is_checked_too(tmp_path):
    table = make_table(tmp_path, [""] * 4, classes=())
    texture(0).save(table.images[1])
    report = check(table)
    assert {f.finding for f in report.findings} == {"equal-copy"}
    assert report.classes_per_image == {0: 4}


def save_over(table, row, image, form="PNG", **options):
    image.save(table.images[row], form, **options)


def test_odd_formats_are_notes(table):
    exif = Image.Exif()
    exif[0x0112] = 3
    clear = texture(13).convert("RGBA")
    clear.putalpha(100)
    save_over(table, 10, texture(10), exif=exif)
    save_over(table, 11, texture(11), "GIF", save_all=True, append_images=[texture(99)])
    save_over(table, 12, texture(12).quantize(64))
    save_over(table, 13, clear)
    save_over(table, 14, texture(14).convert("CMYK"), "JPEG")
    save_over(table, 15, Image.fromarray(np.asarray(texture(15).convert("L")).astype(np.uint16)))
    report = check(table)
    assert not report.must_fix
    found = {(f.id, f.finding) for f in report.findings}
    assert found == {
        ("010.png", "exif-rotated"),
        ("011.png", "animated"),
        ("011.png", "palette"),
        ("012.png", "palette"),
        ("013.png", "alpha"),
        ("014.png", "cmyk"),
        ("015.png", "16-bit"),
        ("015.png", "grey-among-colour"),
    }
    assert "brightest value is 1 of 255" in named(report, "16-bit")["015.png"].detail


def test_the_few_coloured_among_grey_are_named(table):
    for row in range(1, 20):
        save_over(table, row, texture(row).convert("L"))
    assert set(named(check(table), "colour-among-grey")) == {"000.png"}
    for row in range(1, 8):
        save_over(table, row, texture(row))
    (mix,) = check(table).findings
    assert (mix.id, mix.finding) == ("", "grey-and-colour")
    assert mix.detail.startswith("12 grey and 8 coloured pictures")


def test_sizes_far_from_the_bulk_are_named(table):
    save_over(table, 3, texture(3, 60, 200))
    save_over(table, 4, texture(4, 20, 30))
    save_over(table, 5, texture(5, 70, 90))
    report = check(table)
    assert set(named(report, "size-outlier")) == {"003.png", "004.png"}
    assert named(report, "size-outlier")["003.png"].detail == (
        "60 x 200 pixels (height x width); the median is 60 x 80."
    )
    assert report.sizes == Sizes(distinct=4, smallest=(20, 30), median=(60, 80), largest=(70, 200))


def test_varied_sizes_have_no_outliers(tmp_path):
    table = make_table(tmp_path, ["crack", "fine"] * 10)
    for row in range(20):
        save_over(table, row, texture(row, 60 + 12 * row, 60 + 9 * row))
    assert named(check(table), "size-outlier") == {}


def test_rare_classes_are_named(tmp_path):
    labels = ["crack"] * (RARE - 1) + ["fine"] * RARE
    table = make_table(tmp_path, labels, ("crack", "fine", "dust"))
    rare = [f for f in check(table).findings if f.finding == "rare-class"]
    assert [f.id for f in rare] == ["", ""]
    assert [f.detail.split(";")[0] for f in rare] == [
        "class 'crack' has 4 row(s)",
        "class 'dust' has 0 row(s)",
    ]


def test_the_absence_of_a_single_class_can_be_rare(tmp_path):
    table = make_table(tmp_path, ["crack"] * 8 + [""] * 2, ("crack",), exclusive=False)
    (finding,) = check(table).findings
    assert finding.detail.startswith("class 'not crack' has 2 row(s)")


def test_classes_per_image_are_counted(tmp_path):
    table = make_table(tmp_path, ["crack fine", "", "fine", "fine"], exclusive=False)
    assert check(table).classes_per_image == {0: 1, 1: 2, 2: 1}


def test_users_groups_and_copies_are_merged(tmp_path):
    groups = ("a", "a", "b", "c", "c", "d")
    table = make_table(tmp_path, ["crack", "fine"] * 3, groups=groups)
    save_over(table, 4, texture(1))  # ties c to a
    table.images[5].write_bytes(b"")
    report = check(table)
    assert report.copies == ("000.png", "001.png", "002.png", "003.png", "001.png", "005.png")
    expected = ("000.png", "000.png", "002.png", "000.png", "000.png", "005.png")
    assert report.groups == expected
    assert find_groups(table) == expected
    assert report.group_sizes == {"a": 2, "b": 1, "c": 2, "d": 1}


def test_what_must_be_fixed_stands_first(table):
    save_over(table, 2, texture(2).quantize(64))
    table.images[15].unlink()
    texture(8).save(table.images[9])
    severities = [f.severity for f in check(table).findings]
    assert severities == sorted(severities)
    assert severities[0] == "fix"


def test_progress_counts_each_row_once_whatever_the_jobs(table):
    reports = []
    for jobs in (1, 3):
        seen = []
        reports.append(check(table, jobs=jobs, progress=lambda *step, to=seen: to.append(step)))
        assert seen == [(row, 20) for row in range(1, 21)]
    assert reports[0] == reports[1]
    with pytest.raises(InputError, match="jobs is 0"):
        check(table, jobs=0)


def test_an_empty_table_is_fine():
    empty = Table(
        ids=(), images=(), classes=(), targets=np.zeros((0, 0), np.float32), exclusive=False
    )
    report = check(empty)
    assert (report.rows, report.findings, report.groups) == (0, (), ())


def test_findings_are_written_as_csv(table, tmp_path):
    texture(0).save(table.images[1])
    report = check(table)
    path = Path(tmp_path / "out" / "check.csv")
    write_check(report, path)
    assert [p.name for p in path.parent.iterdir()] == ["check.csv"]
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS == ("id", "finding", "severity", "detail", "group")
    assert [tuple(row.values()) for row in rows] == [
        (f.id, f.finding, f.severity, f.detail, f.group) for f in report.findings
    ]


def test_rows_set_aside_earlier_stay_in_the_report(tmp_path):
    aside = (Quarantined(id="bad.png", reason="zero-byte: the file is empty (0 bytes)."),)
    table = make_table(tmp_path, ["crack", "fine"] * 10, quarantined=aside)
    report = check(table)
    write_check(report, tmp_path / "check.csv")
    with (tmp_path / "check.csv").open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert tuple(row.values()) == ("bad.png", "quarantined", "note", aside[0].reason, "")
    assert not report.must_fix
    assert report.quarantined() == ()
    assert report.rows == 20


def test_equal_files_and_equal_pixels_are_told_apart(table):
    texture(0).save(table.images[2])
    texture(0).save(table.images[4], "BMP")
    found = {name: f.detail for name, f in named(check(table), "equal-copy").items()}
    assert found["000.png"].startswith("same bytes as '002.png'")
    assert found["002.png"].startswith("same bytes as '000.png'")
    assert found["004.png"].startswith("same pixels, in other bytes, as '000.png'")
