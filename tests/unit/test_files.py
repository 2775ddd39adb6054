"""A file is whole or untouched."""

import stat

import pytest

from loupe.files import replacing, write_json, write_text


def write_half(path):
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyError


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "scores.json"
    write_text(path, "old")
    with pytest.raises(KeyError):
        write_half(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_appears_only_when_whole(tmp_path):
    path = tmp_path / "run" / "fold-0" / "done.json"
    with replacing(path) as temporary:
        assert temporary.parent == path.parent
        assert not path.exists()
        temporary.write_bytes(b"whole")
    assert path.read_bytes() == b"whole"
    assert list(path.parent.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_text_and_json_are_utf_8_and_readable(tmp_path):
    write_text(tmp_path / "a.txt", "Riß\n")
    assert (tmp_path / "a.txt").read_bytes() == "Riß\n".encode()
    write_json(tmp_path / "a.json", {"class": "Riß", "n": [1]})
    expected = '{\n  "class": "Riß",\n  "n": [\n    1\n  ]\n}\n'
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == expected
