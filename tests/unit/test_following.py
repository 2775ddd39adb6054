"""Counting the events of a log while it is written."""

import time

from loupe.following import count_events, following
from loupe.records import append_event


def test_only_whole_lines_of_the_kind_after_the_start_count(tmp_path):
    log = tmp_path / "log.jsonl"
    assert count_events(log, "epoch") == 0
    append_event(log, "epoch", fold=0)
    start = log.stat().st_size
    append_event(log, "fold", fold=0)
    append_event(log, "epoch", fold=1)
    with log.open("a") as stream:
        stream.write('{"event": "epo')
    assert count_events(log, "epoch") == 2
    assert count_events(log, "epoch", start) == 1


def test_the_count_is_told_while_events_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr("loupe.following._EVERY_S", 0.005)
    log = tmp_path / "log.jsonl"
    told = []
    append_event(log, "epoch")
    with following(log, "epoch", told.append):
        append_event(log, "epoch")
        append_event(log, "epoch")
        deadline = time.monotonic() + 10
        while told[-1:] != [2] and time.monotonic() < deadline:
            time.sleep(0.005)
    assert told[-1] == 2
