"""Audit rules: what is asked, who is heard, and what is said."""

from __future__ import annotations

import numpy as np
import pytest

from loupe.auditrules import (
    PLAIN,
    RULES,
    Asking,
    ask_questions,
    check_rules,
    explain,
    judge,
    look_around,
)
from loupe.errors import InputError
from loupe.issues import NO, YES
from loupe.labelquality import fit_noise_model, rank_labels
from loupe.testing import make_predictions

NAMES = ("cat", "dog", "cow")


def make_noisy(n: int = 400, rate: float = 0.15, *, quality: float = 0.8, seed: int = 0):
    """Return true classes, given ones of which some are wrong, and probabilities."""
    sheet = make_predictions(n, 3, exclusive=True, quality=quality, seed=seed)
    true = sheet.targets.argmax(axis=1)
    rng = np.random.default_rng(seed + 1)
    wrong = rng.random(n) < rate
    return true, np.where(wrong, (true + rng.integers(1, 3, n)) % 3, true), sheet.probs


def ask(given, *members):
    sheets = [np.asarray(sheet, np.float32) for sheet in members]
    mean = np.mean(sheets, axis=0)
    return ask_questions(np.eye(3)[given], sheets, mean, NAMES, (NO, YES), exclusive=True)[0]


def show_kinds(true, seed: int = 0):
    """Features that tell the true class."""
    rng = np.random.default_rng(seed)
    return (6 * np.eye(3)[true] + rng.standard_normal((len(true), 3))).astype(np.float32)


def judge_around(question, asking, features, groups=None):
    """Judge with the neighbours that the question is asked of."""
    names = np.arange(len(features)) if groups is None else groups
    around = look_around(features, names, [question])
    return judge(question, asking, around.of(0), mates=around.mates[0])


class TestQuestions:
    def test_exclusive_classes_are_one_question(self):
        probs = np.float32([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]])
        targets = np.float32([[0.2, 0.3, 0.5], [1, 0, 0]])
        (found,) = ask_questions(targets, [probs], probs, NAMES, (NO, YES), exclusive=True)
        assert (found.class_name, found.options) == ("", NAMES)
        assert found.given.tolist() == [2, 0]
        np.testing.assert_array_equal(found.probs, probs)
        assert found.probs.dtype == np.float64

    def test_classes_that_stand_alone_are_a_question_each(self):
        targets = np.float32([[0.5, 0], [0.49, 1]])
        members = [np.float32([[0.9, 0.2], [0.1, 0.4]]), np.float32([[0.5, 0.4], [0.3, 0.8]])]
        found = ask_questions(
            targets, members, np.mean(members, axis=0), ("red", "wet"), (NO, YES), exclusive=False
        )
        assert [each.class_name for each in found] == ["red", "wet"]
        assert {each.options for each in found} == {(NO, YES)}
        assert [each.given.tolist() for each in found] == [[1, 0], [0, 1]]
        np.testing.assert_allclose(found[0].probs, [[0.3, 0.7], [0.8, 0.2]], atol=1e-6)
        np.testing.assert_allclose(found[1].members[1][:, 1], [0.4, 0.8], atol=1e-6)


class TestRules:
    @pytest.mark.parametrize("name", PLAIN)
    def test_rules_of_probabilities_flag_what_noise_does(self, name):
        _, given, probs = make_noisy()
        judged = judge(ask(given, probs), Asking(rules=(name,)))
        wanted = PLAIN[name](given, np.asarray(np.float32(probs), np.float64))
        assert wanted.any()
        np.testing.assert_array_equal(judged.flags[name], wanted)

    @pytest.mark.parametrize("confidence", [0.6, 0.8, 0.95])
    def test_confident_disagreement_has_its_limit(self, confidence):
        _, given, probs = make_noisy()
        judged = judge(ask(given, probs), Asking(rules=("confident",), confidence=confidence))
        off = (probs.argmax(axis=1) != given) & (probs.max(axis=1) >= confidence)
        np.testing.assert_array_equal(judged.flags["confident"], off)

    def test_the_default_flags_low_quality(self):
        _, given, probs = make_noisy()
        judged = judge(ask(given, probs), Asking())
        np.testing.assert_array_equal(judged.flags["low_quality"], judged.quality < 0.5)
        np.testing.assert_allclose(judged.quality, rank_labels(given, probs.astype(float)))
        assert list(judged.flags) == ["low_quality"]

    def test_agreement_needs_all_members(self):
        sure, unsure = (0.1, 0.8, 0.1), (0.5, 0.4, 0.1)
        members = [np.array([sure, sure, sure]), np.array([sure, unsure, sure])]
        judged = judge(ask(np.array([0, 0, 1]), *members), Asking(rules=("agreement",)))
        assert judged.flags["agreement"].tolist() == [True, False, False]
        assert judged.agreeing.tolist() == [2, 1, 0]

    def test_agreement_is_the_members_own_word(self):
        """Neighbours say cow of the row that both members call a dog: it is flagged all the same.

        Votes weigh the more, the less the members know.
        """
        true = np.arange(120) % 3
        probs = 0.3 + 0.1 * np.eye(3)[true]
        probs[0] = (0.25, 0.4, 0.35)  # given as a cat, among cows
        features = show_kinds(np.where(np.arange(120) == 0, 2, true))
        question = ask(true, probs, probs)
        judged = judge_around(question, Asking(rules=("agreement",)), features)
        assert question.options[judged.suggested[0]] == "cow"
        assert np.flatnonzero(judged.flags["agreement"]).tolist() == [0]

    def test_names_are_checked(self):
        check_rules(RULES, 2)
        with pytest.raises(
            InputError, match=r"unknown rules: 'confidnt'.*did you mean 'confident'"
        ):
            check_rules(["both", "confidnt"], 2)
        with pytest.raises(InputError, match="none was named"):
            check_rules([], 2)
        with pytest.raises(InputError, match="'agreement' asks several members, and there is 1"):
            check_rules(["agreement"], 1)


def test_nobody_is_suggested_what_is_given():
    for seed in range(5):
        true, given, probs = make_noisy(seed=seed)
        judged = judge_around(ask(given, probs), Asking(), show_kinds(true))
        assert (judged.suggested != given).all()
        assert ((judged.quality >= 0) & (judged.quality <= 1)).all()


def test_planted_wrong_labels_come_first_and_the_true_class_is_suggested():
    true, given, probs = make_noisy(1000, quality=0.9)
    judged = judge(ask(given, probs), Asking())
    wrong, flagged = true != given, judged.flags["low_quality"]
    assert wrong[flagged].mean() > 0.8
    assert flagged[wrong].mean() > 0.8
    assert (judged.suggested == true)[flagged & wrong].mean() > 0.9
    first = np.argsort(judged.quality)[: wrong.sum() // 2]
    assert wrong[first].mean() > 0.97


class TestNeighbours:
    def test_they_help_where_features_tell_more_than_the_network(self):
        true, given, probs = make_noisy(quality=0.3)
        question = ask(given, probs)
        alone = judge(question, Asking())
        both = judge_around(question, Asking(), show_kinds(true))
        assert (alone.neighbours, alone.share) == (0, 0)
        assert both.share > 0
        assert both.neighbours in (10, 20, 40)
        wrong = true != given
        hits = [wrong[np.argsort(each.quality)[: wrong.sum()]].mean() for each in (alone, both)]
        assert hits[1] > hits[0] + 0.2

    def test_they_vote_in_the_default_ranking_alone(self):
        true, given, probs = make_noisy()
        for name in ("self_confidence", "margin"):
            judged = judge_around(ask(given, probs), Asking(ranking=name), show_kinds(true))
            assert (judged.neighbours, judged.share) == (0, 0)
            np.testing.assert_array_equal(
                judged.quality, rank_labels(given, probs.astype(np.float64), name)
            )

    def test_rules_of_the_field_do_not_hear_them(self):
        true, given, probs = make_noisy()
        asking = Asking(rules=("confident", *PLAIN))
        one = judge(ask(given, probs), asking)
        other = judge_around(ask(given, probs), asking, show_kinds(true))
        assert other.share > 0
        for name in asking.rules:
            np.testing.assert_array_equal(one.flags[name], other.flags[name])

    def test_mates_are_heard_only_where_rows_were_labelled_one_by_one(self):
        groups = np.repeat(np.arange(100), 4)
        sheet = make_predictions(100, 3, exclusive=True, quality=0.6, seed=4)
        true = sheet.targets.argmax(axis=1)[groups]
        probs = sheet.probs[groups]
        rng = np.random.default_rng(2)
        features = show_kinds(true)
        one_by_one = np.where(rng.random(400) < 0.2, (true + 1) % 3, true)
        whole = np.where(rng.random(100)[groups] < 0.2, (true + 1) % 3, true)
        assert judge_around(ask(one_by_one, probs), Asking(), features, groups).mates
        assert not judge_around(ask(whole, probs), Asking(), features, groups).mates
        both = look_around(features, groups, [ask(one_by_one, probs), ask(whole, probs)])
        assert both.mates == (True, False)
        assert both.of(0) is both.nearest
        assert both.of(1) is both.apart

    def test_nobody_is_looked_for_in_vain(self):
        true = np.repeat(np.arange(30) % 3, 2)  # mates are labelled alike
        features, question = show_kinds(true), ask(true, 0.1 + 0.7 * np.eye(3)[true])
        alone = look_around(features, np.arange(60), [question])
        assert alone.apart is alone.nearest
        grouped = look_around(features, np.arange(60) // 2, [question])
        assert (alone.mates, grouped.mates) == ((False,), (False,))
        assert grouped.nearest is None
        mates = np.arange(60)[:, None] ^ 1
        assert (alone.of(0)[0] == mates).any()
        assert not (grouped.of(0)[0] == mates).any()


class TestWords:
    def test_exclusive_classes_show_both_probabilities(self):
        probs = np.array([[0.1234, 0.8, 0.0766], [0.9, 0.05, 0.05], [0.1, 0.1, 0.8]])
        judged = judge(ask(np.array([0, 0, 2]), probs), Asking())
        assert explain(judged, 0) == "p(cat) 0.123, p(dog) 0.800"

    def test_members_are_counted(self):
        members = [np.array([[0.2, 0.7, 0.1]] * 2)] * 2 + [np.array([[0.6, 0.3, 0.1]] * 2)]
        judged = judge(ask(np.array([0, 1]), *members), Asking())
        assert explain(judged, 0) == "p(cat) 0.333, p(dog) 0.567, 2 of 3 members say dog"

    def test_a_class_that_stands_alone_shows_its_own(self):
        probs = np.float32([[0.91, 0.2], [0.1, 0.7]])
        targets = np.float32([[0, 0], [0, 1]])
        red, _ = ask_questions(targets, [probs], probs, ("red", "wet"), (NO, YES), exclusive=False)
        judged = judge(red, Asking())
        assert explain(judged, 0) == "p(red) 0.910"
        assert red.options[judged.suggested[0]] == YES


def test_the_suggestion_is_the_best_other_class_of_the_model():
    _, given, probs = make_noisy()
    question = ask(given, probs)
    posterior = fit_noise_model(given, question.probs).posterior.copy()
    posterior[np.arange(400), given] = -1
    np.testing.assert_array_equal(judge(question, Asking()).suggested, posterior.argmax(axis=1))
