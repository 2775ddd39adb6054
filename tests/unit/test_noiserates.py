"""Rates of wrong labels and the precision of rules: exact by hand, and true to planted errors."""

from __future__ import annotations

import numpy as np
import pytest

from loupe.auditrules import Question
from loupe.issues import Issue
from loupe.noiserates import (
    FEWER_RESAMPLES,
    RESAMPLES,
    draw_resamples,
    estimate_precision,
    estimate_rates,
)
from loupe.reliability import measure_share
from loupe.reviews import Review
from loupe.testing import make_predictions

NAMES = ("cat", "dog", "cow")


def ask(given, probs, options=NAMES, class_name="") -> Question:
    return Question(
        class_name=class_name,
        options=tuple(options),
        given=np.asarray(given, np.int64),
        probs=np.asarray(probs, np.float64),
        members=(np.asarray(probs, np.float64),),
    )


def make_noisy(n: int, rate: float, *, seed: int, groups: int | None = None, quality=0.9):
    """Return a question whose labels are wrong at a rate, and which of them are."""
    sheet = make_predictions(n, 3, exclusive=True, quality=quality, groups=groups, seed=seed)
    true = sheet.targets.argmax(axis=1)
    rng = np.random.default_rng(seed + 100)
    wrong = rng.random(n) < rate
    given = np.where(wrong, (true + rng.integers(1, 3, n)) % 3, true)
    return ask(given, sheet.probs), wrong, sheet.groups


class TestRates:
    def test_rates_by_hand(self):
        # Of three cats two are confidently cats and one a dog; of three dogs the same.
        cats = np.array([0.9, 0.6, 0.3, 0.1, 0.2, 0.8])
        question = ask([0, 0, 0, 1, 1, 1], np.stack([cats, 1 - cats], axis=1), ("cat", "dog"))
        found = estimate_rates(question, np.arange(6))
        assert [(r.given, r.rows) for r in found] == [("", 6), ("cat", 3), ("dog", 3)]
        assert [r.rate for r in found] == pytest.approx([1 / 3, 1 / 3, 1 / 3])
        assert all(r.low <= r.rate <= r.high for r in found)

    def test_all_labels_together_weigh_classes_by_their_rows(self):
        question, _, groups = make_noisy(2000, 0.2, seed=0)
        whole, *each = estimate_rates(question, groups)
        assert sum(r.rows for r in each) == whole.rows == 2000
        assert whole.rate == pytest.approx(sum(r.rate * r.rows for r in each) / 2000)

    def test_a_label_that_no_row_has_is_left_out(self):
        question, _, groups = make_noisy(300, 0.1, seed=1)
        given = np.where(question.given == 1, 0, question.given)
        found = estimate_rates(ask(given, question.probs), groups)
        assert [r.given for r in found] == ["", "cat", "cow"]

    def test_the_class_in_question_is_named(self):
        present = np.random.default_rng(0).random(50)
        question = ask(
            present > 0.5, np.stack([1 - present, present], axis=1), ("no", "yes"), "rust"
        )
        found = estimate_rates(question, np.arange(50))
        assert [(r.class_name, r.given) for r in found] == [
            ("rust", ""), ("rust", "no"), ("rust", "yes"),
        ]  # fmt: skip
        # Labels that are what the network says are not wrong; of so few that is not certain.
        assert found[0].rate == 0
        assert found[0].low == 0
        assert 0 < found[0].high < 0.1

    @pytest.mark.parametrize("rate", [0.05, 0.2])
    def test_intervals_hold_the_planted_share_of_wrong_labels(self, rate):
        held = [0, 0]
        for seed in range(20):
            question, wrong, groups = make_noisy(1500, rate, seed=seed, quality=0.97)
            for number, found in enumerate(estimate_rates(question, groups)[:2]):
                own = wrong if number == 0 else wrong[question.given == 0]
                # Chance of which rows were drawn, so either share will do.
                held[number] += found.low <= own.mean() <= found.high
        assert min(held) >= 18

    def test_rows_of_a_group_are_drawn_together(self):
        """Every row four times over tells nothing more than once."""
        question, _, groups = make_noisy(300, 0.2, seed=2)
        four = ask(np.tile(question.given, 4), np.tile(question.probs, (4, 1)))
        once = estimate_rates(question, groups)
        joined = estimate_rates(four, np.tile(groups, 4))
        parted = estimate_rates(four, np.arange(1200))
        assert [r.rate for r in joined] == pytest.approx([r.rate for r in once])
        widths = [[r.high - r.low for r in found] for found in (once, joined, parted)]
        assert widths[1] == pytest.approx(widths[0], rel=0.25)
        assert widths[2][0] < 0.7 * widths[0][0]

    def test_the_seed_decides(self):
        question, _, groups = make_noisy(300, 0.2, seed=3)
        one, same, other = (draw_resamples(groups, 1, seed) for seed in (1, 1, 2))
        assert estimate_rates(question, groups, one) == estimate_rates(question, groups, same)
        assert estimate_rates(question, groups, one) != estimate_rates(question, groups, other)
        assert len(draw_resamples(groups, 10_000_000)) == FEWER_RESAMPLES
        assert RESAMPLES == 200


def doubt(name, rules, given="cat", class_name="") -> Issue:
    return Issue(
        id=name, class_name=class_name, given=given, suggested="dog", quality=0.1, rules=rules
    )


def decide(name, decision, label="", given="cat", class_name="") -> Review:
    return Review(
        time="2030-01-01T00:00:00+00:00",
        reviewer="ann",
        id=name,
        class_name=class_name,
        given=given,
        suggested="dog",
        decision=decision,
        label=label,
    )


def settle(*reviews: Review):
    return {review.key: review for review in reviews}


class TestPrecision:
    ISSUES = (
        doubt("1", ("low_quality",)),
        doubt("2", ("low_quality", "both")),
        doubt("3", ("both",)),
        doubt("4", ("both",)),
        doubt("5", ("copies",)),
        doubt("6", ()),
    )

    def test_counts_by_hand(self):
        found = estimate_precision(
            self.ISSUES,
            settle(
                decide("1", "keep", "cat"),
                decide("2", "relabel", "dog"),
                decide("3", "drop"),
                decide("4", "skip"),
                decide("6", "relabel", "dog"),
                decide("elsewhere", "relabel", "dog"),
            ),
        )
        assert [(p.rule, p.flagged, p.reviewed, p.wrong) for p in found] == [
            ("", 5, 3, 2), ("low_quality", 2, 2, 1), ("both", 3, 2, 2),
        ]  # fmt: skip
        assert [p.share.value for p in found] == pytest.approx([2 / 3, 0.5, 1])
        # Of two decisions nothing is certain.
        assert found[2].share.low < 0.5
        assert found[2].share.high == 1

    def test_a_label_changed_to_itself_was_right(self):
        found = estimate_precision(self.ISSUES, settle(decide("1", "relabel", "cat")))
        assert [(p.rule, p.wrong) for p in found] == [("", 0), ("low_quality", 0)]

    def test_a_dropped_image_was_strange_though_it_has_no_single_label(self):
        strange = [doubt("1", ("outlier",), given=""), doubt("2", ("outlier",), given="")]
        said = settle(decide("1", "drop", given=""), decide("2", "keep", given=""))
        assert [(p.reviewed, p.wrong) for p in estimate_precision(strange, said)] == [(2, 1)] * 2

    def test_without_decisions_nothing_is_said(self):
        assert estimate_precision(self.ISSUES, {}) == ()
        assert estimate_precision(self.ISSUES, settle(decide("4", "skip"))) == ()
        assert estimate_precision((), settle(decide("1", "keep", "cat"))) == ()

    def test_the_labels_of_a_row_are_one_draw(self):
        names = [f"c{number}" for number in range(5)]
        issues = [doubt(str(n), ("both",), "yes", name) for n in range(8) for name in names]
        told = settle(
            *(decide(str(n), "relabel", "no", "yes", name) for n in range(4) for name in names),
            *(decide(str(n), "keep", "yes", "yes", name) for n in range(4, 8) for name in names),
        )
        found = estimate_precision(issues, told)[0]
        assert (found.reviewed, found.wrong) == (40, 20)
        assert found.share == measure_share(np.array([5.0] * 4 + [0.0] * 4), np.full(8, 5.0))
        alone = measure_share(np.array([1.0] * 20 + [0.0] * 20), np.ones(40))
        assert found.share.high - found.share.low > 1.5 * (alone.high - alone.low)
