import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_curve

from loupe.testing import make_predictions
from loupe.thresholds import FEW, Goal, find_cut, read_goal
from loupe.wagers import describe_thresholds

MANY = settings(max_examples=100, deadline=None)
SOME = settings(max_examples=25, deadline=None)


@st.composite
def columns(draw):
    """Truth with a positive, and probabilities with ties or next to each other."""
    n = draw(st.integers(1, 30))
    truth = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    truth[0] = True
    levels = draw(st.sampled_from([2, 7, 1000]))
    ticks = np.array(draw(st.lists(st.integers(0, levels), min_size=n, max_size=n)))
    if draw(st.booleans()):
        # Neighbouring floats: nothing lies between them.
        probs = (np.float32(0.7).view(np.int32) + ticks.astype(np.int32)).view(np.float32)
    else:
        probs = np.float32(ticks / levels)
    return np.array(truth), probs


def goals():
    shares = st.floats(0.01, 1)
    return st.one_of(
        st.builds(Goal, kind=st.sampled_from(["recall", "precision"]), value=shares),
        st.builds(Goal, kind=st.sampled_from(["fbeta", "cost"]), value=st.floats(0.1, 20)),
        st.builds(Goal, kind=st.just("fixed"), value=st.floats(0, 1)),
    )


def count(truth, decided):
    return int((truth & decided).sum()), int(decided.sum()), int(truth.sum())


def list_candidates(truth, probs):
    """Count what every threshold decides, from never down to always."""
    thresholds = [2.0, *np.unique(probs)[::-1]]
    return [count(truth, probs >= t) for t in thresholds]


@MANY
@given(goals())
def test_goals_are_spelled_as_they_are_read(goal):
    assert str(read_goal(str(goal))) == str(goal)
    assert np.isclose(read_goal(str(goal)).value, goal.value, rtol=1e-11)


@MANY
@given(columns(), goals())
def test_a_threshold_serves_its_goal_as_a_search_of_all_does(column, goal):
    truth, probs = column
    cut = find_cut(truth, probs, goal)
    found, called, positives = count(truth, probs >= np.float32(cut.threshold))
    every = list_candidates(truth, probs)
    if goal.kind == "recall":
        fit = [c for f, c, _ in every if f >= goal.value * positives - 1e-9]
        assert (cut.attained, called) == (True, min(fit))
    elif goal.kind == "cost":
        costs = [goal.value * (p - f) + c - f for f, c, p in every]
        assert np.isclose(goal.value * (positives - found) + called - found, min(costs))
    elif goal.kind == "fbeta":
        square = goal.value**2
        scores = [f / (square * p + c) for f, c, p in every]
        assert np.isclose(found / (square * positives + called), max(scores))
    elif goal.kind == "precision":
        fit = [c for f, c, _ in every if c and f / c >= goal.value - 1e-12]
        assert cut.attained == bool(fit)
        if not fit:
            least = min(FEW, positives)
            best = max(f / c for f, c, _ in every if f >= least)
            assert (found >= least, np.isclose(found / called, best)) == (True, True)
        else:
            assert called == max(fit)
    else:
        assert cut.threshold == goal.value


@MANY
@given(columns(), goals())
def test_float32_and_float64_decide_the_same(column, goal):
    truth, probs = column
    if goal.kind != "fixed":
        threshold = find_cut(truth, probs, goal).threshold
        wide = probs.astype(np.float64) >= threshold
        assert (wide == (probs >= np.float32(threshold))).all()


@MANY
@given(columns(), st.floats(0.05, 1))
def test_recall_and_precision_agree_with_scikit_learn(column, share):
    truth, probs = column
    precision, recall, thresholds = precision_recall_curve(truth, probs)
    strict = thresholds[recall[:-1] >= share - 1e-12].max()
    cut = find_cut(truth, probs, Goal(kind="recall", value=share))
    assert ((probs >= np.float32(cut.threshold)) == (probs >= strict)).all()
    enough = thresholds[precision[:-1] >= share - 1e-12]
    cut = find_cut(truth, probs, Goal(kind="precision", value=share))
    assert cut.attained == bool(len(enough))
    if len(enough):
        assert ((probs >= np.float32(cut.threshold)) == (probs >= enough.min())).all()


@SOME
@given(columns(), goals(), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(column, goal, random):
    truth, probs = column
    order = np.array(random.sample(range(len(truth)), len(truth)))
    assert find_cut(truth, probs, goal) == find_cut(truth[order], probs[order], goal)


@SOME
@given(columns(), goals(), st.integers(1, 3))
def test_what_is_said_of_a_threshold_hangs_together(column, goal, size):
    truth, probs = column
    truth, probs = np.tile(truth, 3), np.tile(probs, 3)
    parts = np.arange(len(truth)) % 3
    cut = find_cut(truth, probs, goal)
    part_cuts = [[find_cut(truth[parts != k], probs[parts != k], goal).threshold] for k in range(3)]
    (told,) = describe_thresholds(
        truth[:, None],
        probs[:, None],
        probs[:, None],
        parts,
        part_cuts,
        [cut],
        [goal],
        np.arange(len(truth)) // size,
        classes=["crack"],
        resamples=30,
    )
    assert told.goal == str(goal)
    assert 0 <= told.stability <= 1
    assert told.low <= told.threshold <= told.high or np.isnan(told.low)
    for score in (told.precision, told.recall, told.f1):
        ends = [score.low, score.high]
        assert np.isnan(ends).all() or 0 <= ends[0] <= ends[1] <= 1
        if not np.isnan([*ends, score.value]).any():
            assert ends[0] <= score.value <= ends[1]


@SOME
@given(st.integers(0, 1000))
def test_the_seed_alone_decides_the_intervals(seed):
    targets, probs, groups, folds = make_predictions(60, 1, quality=0.5, groups=30, seed=3)
    truth, goal = targets >= 0.5, read_goal("f1")
    cuts = [find_cut(truth[:, 0], probs[:, 0], goal)]
    told = [
        describe_thresholds(
            truth[rows],
            probs[rows],
            probs[rows],
            folds[rows],
            [[0.3]] * 5,
            cuts,
            [goal],
            groups[rows],
            classes=["crack"],
            resamples=40,
            seed=seed,
        )
        for rows in (np.arange(60), np.arange(60)[::-1])
    ]
    assert told[0] == told[1]
