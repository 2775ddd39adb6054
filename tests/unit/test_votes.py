"""Votes: who is near, what they say, and when they are asked."""

from __future__ import annotations

import numpy as np
import pytest

from loupe import votes
from loupe.errors import InputError
from loupe.votes import NEIGHBOURS, SHARES, count_votes, find_nearest, mates_disagree, mix_votes

MOST = max(NEIGHBOURS)


def draw_features(n: int, *, d: int = 12, seed: int = 0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, d)) * rng.uniform(0.1, 20, d) + 3).astype(np.float32)


def look_by_hand(features, apart=None):
    """Rank all other rows by the cosine of their standardised features, one row at a time."""
    values = features.astype(np.float64)
    values = (values - values.mean(axis=0)) / values.std(axis=0)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    names = np.arange(len(values)) if apart is None else apart
    for row in range(len(values)):
        others = np.flatnonzero(names != names[row])
        cosines = values[others] @ values[row]
        order = np.argsort(-cosines)[:MOST]
        yield others[order], cosines[order]


@pytest.mark.parametrize("groups", [None, 200, 30])
def test_the_nearest_are_those_of_a_plain_search(groups):
    features = draw_features(300)
    apart = None if groups is None else np.random.default_rng(1).integers(0, groups, 300)
    rows, likeness = find_nearest(features, apart)
    assert rows.shape == likeness.shape == (300, MOST)
    for row, (wanted, cosines) in enumerate(look_by_hand(features, apart)):
        assert rows[row].tolist() == wanted.tolist()
        np.testing.assert_allclose(likeness[row], cosines, atol=1e-5)


def test_the_search_goes_block_by_block(monkeypatch):
    features = draw_features(300)
    whole = find_nearest(features)
    monkeypatch.setattr(votes, "_BLOCK", 64)
    for one, other in zip(find_nearest(features), whole, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_beyond_a_limit_neighbours_are_evenly_spaced_rows(monkeypatch):
    monkeypatch.setattr(votes, "_MOST_REFERENCE", 100)
    rows, _ = find_nearest(draw_features(1000))
    spaced = np.linspace(0, 999, 100).astype(int)
    assert set(rows.ravel().tolist()) <= set(spaced.tolist())
    assert (rows != np.arange(1000)[:, None]).all()


def test_length_and_scale_of_features_do_not_matter():
    features = draw_features(80)
    rows = find_nearest(features)[0]
    moved = features * np.linspace(0.5, 90, 12, dtype=np.float32) + 5
    np.testing.assert_array_equal(find_nearest(moved)[0], rows)


def test_rows_of_a_group_are_kept_apart_and_gaps_say_nobody():
    apart = np.array([0] * 50 + [1, 2])
    rows, likeness = find_nearest(draw_features(52), apart)
    assert set(rows[0].tolist()) == {50, 51, -1}
    assert (rows[0] >= 0).sum() == 2
    assert (likeness[rows < 0] == -1).all()
    assert (rows[50] >= 0).all()
    assert 50 not in rows[50]


def test_rows_of_unknown_features_have_no_neighbours_and_are_nobodys():
    features = draw_features(60)
    features[7, 3], features[30] = np.nan, np.inf
    rows, likeness = find_nearest(features)
    assert (rows[[7, 30]] == -1).all()
    assert not {7, 30} & set(rows.ravel().tolist())
    known = np.setdiff1d(np.arange(60), [7, 30])
    alone_rows, alone_likeness = find_nearest(features[known])
    np.testing.assert_array_equal(rows[known], known[alone_rows])
    np.testing.assert_allclose(likeness[known], alone_likeness, atol=1e-6)


def test_small_tables_have_what_there_is():
    rows, _ = find_nearest(draw_features(3))
    assert [sorted(set(line.tolist())) for line in rows] == [[-1, 1, 2], [-1, 0, 2], [-1, 0, 1]]
    assert (find_nearest(draw_features(1))[0] == -1).all()
    assert (find_nearest(np.full((4, 2), np.nan, np.float32))[0] == -1).all()
    # A feature that is always the same says nothing, and stops nothing.
    assert np.isfinite(find_nearest(np.ones((5, 3), np.float32))[1]).all()


@pytest.mark.parametrize("shape", [(0, 3), (4,)])
def test_features_without_rows_are_refused(shape):
    with pytest.raises(InputError, match="features have shape"):
        find_nearest(np.zeros(shape, np.float32))


class TestVotes:
    def test_nearer_rows_count_more(self):
        nearest = np.array([[1, 2, -1]]), np.array([[1.0, 0.5, -1.0]])
        found = count_votes(np.array([0, 1, 2]), nearest, 3, 3)
        one, half = np.exp(5.0), np.exp(2.5)
        wanted = np.array([0, one, half]) + 0.5 / 3
        np.testing.assert_allclose(found, [wanted / (one + half + 0.5)])

    def test_only_so_many_vote(self):
        nearest = np.array([[1, 2]]), np.array([[0.0, 0.0]])
        found = count_votes(np.array([0, 1, 1]), nearest, 2, 1)
        np.testing.assert_allclose(found, [[0.25 / 1.5, 1.25 / 1.5]])

    def test_who_has_no_neighbours_is_undecided(self):
        nearest = np.full((2, 4), -1), np.full((2, 4), -1.0)
        np.testing.assert_allclose(count_votes(np.array([0, 3]), nearest, 4, 4), 0.25)

    def test_a_row_never_hears_its_own_label(self):
        nearest = find_nearest(draw_features(100))
        given = np.random.default_rng(1).integers(0, 3, 100)
        before = count_votes(given, nearest, 3, 20)
        for row in range(0, 100, 7):
            changed = given.copy()
            changed[row] = (given[row] + 1) % 3
            after = count_votes(changed, nearest, 3, 20)
            np.testing.assert_array_equal(after[row], before[row])
            # Whoever has it among the nearest hears it.
            heard = (nearest[0][:, :20] == row).any(axis=1)
            np.testing.assert_array_equal((after != before).any(axis=1), heard)


def make_kinds(n: int = 400, *, tell: bool, seed: int = 0):
    """Two classes, of which features tell all or nothing, and a network right in 70 %."""
    rng = np.random.default_rng(seed)
    given = rng.integers(0, 2, n)
    features = rng.standard_normal((n, 8)).astype(np.float32)
    if tell:
        features[:, :3] += 4 * given[:, None]
    right = np.where(rng.random(n) < 0.7, 0.65, 0.35)  # no surer than it may be
    probs = np.where(np.eye(2)[given] > 0, right[:, None], 1 - right[:, None])
    return given, probs, features


class TestMix:
    def test_neighbours_that_tell_nothing_are_hardly_asked(self):
        """Also where the network is too sure: flat votes would only cool it down."""
        for seed in range(4):
            for power in (1, 3):
                given, probs, features = make_kinds(1000, tell=False, seed=seed)
                sure = probs**power / (probs**power).sum(axis=1, keepdims=True)
                mixed = mix_votes(given, sure, find_nearest(features))
                assert mixed.share <= 0.1
                agree = (mixed.probs.argmax(axis=1) == probs.argmax(axis=1)).mean()
                assert agree > 0.97

    def test_neighbours_that_tell_are_asked(self):
        for seed in range(4):
            given, probs, features = make_kinds(tell=True, seed=seed)
            mixed = mix_votes(given, probs, find_nearest(features))
            assert mixed.share >= 0.5
            assert mixed.neighbours in NEIGHBOURS
            assert (mixed.probs.argmax(axis=1) == given).mean() > 0.95
            assert (probs.argmax(axis=1) == given).mean() < 0.8

    def test_the_choice_makes_the_labels_most_likely(self):
        given, probs, features = make_kinds(tell=True)
        features += 8 * np.random.default_rng(5).standard_normal(features.shape)
        nearest = find_nearest(features.astype(np.float32))
        mixed = mix_votes(given, probs, nearest)
        at, likelihoods = np.arange(len(given)), {}
        own = np.log(probs + 1e-3)
        for most in NEIGHBOURS:
            told = np.log(count_votes(given, nearest, 2, most) + 1e-3)
            for power in (0.25, 0.35, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5):
                for share in SHARES:
                    both = np.exp((1 - share) * power * own + share * told)
                    both /= both.sum(axis=1, keepdims=True)
                    likelihoods[power, most, share] = np.log(both[at, given]).mean()
        # The temperature is that of the network alone; votes come after it.
        power = max((key for key in likelihoods if key[2] == 0), key=lambda key: likelihoods[key])[
            0
        ]
        best = max(
            (key for key in likelihoods if key[0] == power), key=lambda key: likelihoods[key]
        )
        assert (mixed.neighbours, mixed.share) == best[1:]
        assert 0 < mixed.share < max(SHARES)
        np.testing.assert_allclose(mixed.probs.sum(axis=1), 1)
        own = np.log(mixed.probs[at, given]).mean()
        assert own == pytest.approx(likelihoods[best], abs=1e-9)

    def test_without_neighbours_the_network_is_alone(self):
        given, probs, features = make_kinds(50, tell=True)
        mixed = mix_votes(given, probs, find_nearest(np.full_like(features, np.nan)))
        assert mixed.share == 0


class TestMates:
    GROUPS = np.repeat(np.arange(500), 4)

    def label(self, rate: float, *, whole: bool, seed: int = 0):
        """Label rows, or groups as a whole, wrong at a rate."""
        rng = np.random.default_rng(seed)
        true = rng.integers(0, 3, 500)[self.GROUPS]
        wrong = rng.random(500)[self.GROUPS] < rate if whole else rng.random(2000) < rate
        shift = rng.integers(1, 3, 500)[self.GROUPS] if whole else rng.integers(1, 3, 2000)
        return np.where(wrong, (true + shift) % 3, true)

    @pytest.mark.parametrize("rate", [0.05, 0.1, 0.3])
    def test_labelled_row_by_row_they_disagree(self, rate):
        for seed in range(3):
            given = self.label(rate, whole=False, seed=seed)
            assert mates_disagree(given, self.GROUPS, rate)

    @pytest.mark.parametrize("rate", [0.05, 0.1, 0.3])
    def test_labelled_group_by_group_they_agree(self, rate):
        assert not mates_disagree(self.label(rate, whole=True), self.GROUPS, rate)

    def test_the_order_of_rows_does_not_matter(self):
        order = np.random.default_rng(3).permutation(2000)
        for whole in (False, True):
            given = self.label(0.2, whole=whole)
            assert mates_disagree(given[order], self.GROUPS[order], 0.2) is not whole

    def test_rows_that_stand_alone_have_no_mates(self):
        assert not mates_disagree(np.arange(5) % 2, np.arange(5), 0.4)

    def test_without_wrong_labels_there_is_nothing_to_ask(self):
        assert not mates_disagree(np.array([0, 1]), np.array([0, 0]), 0)

    def test_the_limit_is_half_of_what_independent_errors_give(self):
        given, groups = np.array([0, 1, 0, 0, 0]), np.zeros(5, int)  # 2 of 4 neighbours differ
        assert mates_disagree(given, groups, 0.5)
        assert not mates_disagree(given, groups, 0.51)
