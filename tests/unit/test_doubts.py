"""Doubts: a fitted threshold must earn its place."""

from __future__ import annotations

import numpy as np

from loupe.doubts import beat_half
from loupe.testing import make_predictions


def ask(sheet, probs=None):
    probs = sheet.probs if probs is None else np.float32(probs)
    return beat_half(sheet.targets >= 0.5, probs, sheet.folds.astype(np.intp), sheet.groups)


def test_a_threshold_that_misses_nearly_all_is_replaced() -> None:
    # Divided by four, hardly a positive reaches 0.5, though they are told apart well.
    sheet = make_predictions(1000, 2, quality=0.6)
    assert ask(sheet, sheet.probs / 4).all()


def test_half_stays_where_it_is_as_good() -> None:
    sheet = make_predictions(400, 3, quality=0.9, prevalence=[0.4, 0.5, 0.6])
    assert not ask(sheet).any()


def test_a_class_that_cannot_be_told_keeps_half_rather_than_deciding_all() -> None:
    sheet = make_predictions(600, 3, quality=0.5)
    shuffled = np.random.default_rng(0).permutation(sheet.probs)
    assert not ask(sheet, shuffled / 4).any()


def test_few_groups_leave_a_doubt() -> None:
    sheet = make_predictions(60, 1, quality=0.6, groups=12, folds=3)
    assert not ask(sheet, sheet.probs * 0.9).any()


def test_with_one_part_nothing_can_be_said() -> None:
    sheet = make_predictions(100, 2)
    parts = np.zeros(100, np.intp)
    assert not beat_half(sheet.targets >= 0.5, sheet.probs / 4, parts, np.arange(100)).any()
