import numpy as np
import pytest

from loupe.errors import InputError
from loupe.metrics import to_decisions
from loupe.testing import make_predictions
from loupe.thresholds import DEFAULT, NEVER, Cut, Goal, find_cut, find_cuts, read_goal

TRUTH = np.array([1, 1, 0, 1, 0, 1, 0, 0, 0, 0], np.bool_)
PROBS = np.float32([0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])


def cut(text: str, truth=TRUTH, probs=PROBS) -> Cut:
    return find_cut(np.asarray(truth, np.bool_), np.float32(probs), read_goal(text))


@pytest.mark.parametrize(
    ("text", "goal"),
    [
        ("f1", Goal(kind="fbeta", value=1)),
        (" F0.5 ", Goal(kind="fbeta", value=0.5)),
        ("recall:0.94", Goal(kind="recall", value=0.94)),
        ("precision: 0.9", Goal(kind="precision", value=0.9)),
        ("cost:10", Goal(kind="cost", value=10)),
        ("fixed:0", Goal(kind="fixed", value=0)),
    ],
)
def test_goals_are_read(text, goal):
    assert read_goal(text) == goal
    assert read_goal(str(goal)) == goal


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("recal:0.94", "did you mean 'recall'?"),
        ("f", "expected one of f1"),
        ("f_1", "did you mean 'f1'?"),
        ("", "is not known"),
        ("recall", "no number"),
        ("recall:high", "no number"),
        ("cost:nan", "no number"),
        ("recall:94", "expected a share above 0 and up to 1"),
        ("recall:0", "expected a share"),
        ("precision:1.1", "expected a share"),
        ("f0", "beta above 0"),
        ("f-1", "beta above 0"),
        ("cost:0", "a number above 0"),
        ("fixed:1.5", "a probability in"),
    ],
)
def test_a_goal_that_cannot_be_read_says_why(text, part):
    with pytest.raises(InputError, match="goal") as caught:
        read_goal(text)
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("text", "threshold"),
    [
        # Positives are at ranks 1, 2, 4 and 6; thresholds are halfway to the next row.
        ("recall:0.25", 0.925),
        ("recall:0.5", 0.85),
        ("recall:0.51", 0.65),
        ("recall:0.75", 0.65),
        ("recall:1", 0.45),
        ("precision:1", 0.85),
        ("precision:0.75", 0.65),
        ("precision:0.67", 0.65),
        ("precision:0.66", 0.45),
        ("precision:0.4", 0.0),
        # F1 by rank: 0.4, 0.67, 0.57, 0.75, 0.67, 0.8.
        ("f1", 0.45),
        ("f0.5", 0.85),
        ("f5", 0.45),
        # False negatives cost as much as false positives: 2 at ranks 2, 4 and 6.
        ("cost:1", 0.85),
        ("cost:3", 0.45),
        ("cost:0.1", 0.85),
        ("fixed:0.3", 0.3),
    ],
)
def test_each_goal_chooses_the_threshold_of_its_definition(text, threshold):
    found = cut(text)
    assert found.threshold == pytest.approx(threshold, abs=1e-7)
    assert found.attained


def test_shares_may_be_rounded():
    probs = np.linspace(0.01, 1, 100)
    # 0.07 x 100 is a little above 7 in floats; seven are enough.
    assert cut("recall:0.07", np.ones(100), probs).threshold == pytest.approx(0.935, abs=1e-6)
    truth = np.arange(100) >= 10
    assert cut("precision:0.9", truth, np.linspace(0, 1, 100)).threshold == 0.0


def test_equal_probabilities_enter_together():
    truth, probs = [1, 0, 1, 0], [0.5, 0.5, 0.5, 0.2]
    assert cut("recall:0.1", truth, probs).threshold == pytest.approx(0.35)
    assert cut("f1", truth, probs).threshold == pytest.approx(0.35)
    assert not cut("precision:0.9", truth, probs).attained


def test_a_class_that_is_never_worth_it_is_never_decided():
    truth = np.arange(10) == 0
    found = cut("cost:0.1", truth, np.linspace(0, 1, 10))
    assert found == Cut(threshold=NEVER, attained=True)
    for dtype in (np.float32, np.float64):
        decided = to_decisions(np.ones((1, 1), dtype), exclusive=False, thresholds=NEVER)
        assert not decided.any()
    assert cut("cost:100", truth, np.linspace(0, 1, 10)).threshold == 0.0


def test_a_precision_out_of_reach_gives_the_best_one_that_finds_a_few():
    # The best precision of all is that of two rows, 1 of 2; five are found at 5 of 12.
    truth = [0, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 1]
    probs = np.linspace(0.9, 0.1, 15)
    found = cut("precision:0.9", truth, probs)
    assert not found.attained
    assert int((np.float32(probs) >= np.float32(found.threshold)).sum()) == 12


@pytest.mark.parametrize(
    ("text", "threshold"),
    [("f1", DEFAULT), ("recall:0.9", DEFAULT), ("precision:0.9", DEFAULT), ("cost:9", 0.1)],
)
def test_a_class_without_positives_attains_nothing(text, threshold):
    assert cut(text, np.zeros(10)) == Cut(threshold=threshold, attained=False)
    assert cut("fixed:0.2", np.zeros(10)) == Cut(threshold=0.2, attained=True)


def test_a_class_of_positives_alone():
    assert cut("f1", np.ones(10)).threshold == 0.0
    assert cut("precision:1", np.ones(10)).threshold == 0.0
    assert cut("recall:0.5", [1], [0.7]).threshold == 0.0


def test_calibrated_probabilities_lead_to_the_threshold_of_theory():
    targets, probs, _, _ = make_predictions(100_000, 1, quality=0.5)
    truth = targets[:, 0] >= 0.5
    # A false negative that costs k is worth a false positive from p = 1 / (1 + k) on.
    assert cut("cost:4", truth, probs[:, 0]).threshold == pytest.approx(0.2, abs=0.03)
    # The threshold of the best F1 is half of it.
    best = cut("f1", truth, probs[:, 0]).threshold
    decided = probs[:, 0] >= best
    f1 = 2 * (decided & truth).sum() / (decided.sum() + truth.sum())
    assert best == pytest.approx(f1 / 2, abs=0.03)


def test_columns_have_their_own_goals():
    goals = [read_goal("recall:1"), read_goal("fixed:0.3")]
    pairs = np.stack([TRUTH, TRUTH], axis=1), np.stack([PROBS, PROBS], axis=1)
    found = find_cuts(*pairs, goals)
    assert [c.threshold for c in found] == pytest.approx([0.45, 0.3])
    with pytest.raises(InputError, match="there are 1 goals"):
        find_cuts(*pairs, goals[:1])


@pytest.mark.parametrize("wrong", [np.nan, -0.1, 1.1])
def test_numbers_that_are_no_probabilities_are_refused(wrong):
    probs = PROBS.copy()
    probs[3] = wrong
    with pytest.raises(InputError, match=r"NaN or outside \[0, 1\] in 1 of 10 rows: row 3"):
        find_cut(TRUTH, probs, read_goal("f1"))


def test_shapes_must_agree():
    with pytest.raises(InputError, match="expected the same"):
        find_cut(TRUTH[1:], PROBS, read_goal("f1"))
    with pytest.raises(InputError, match="a row at least"):
        find_cut(TRUTH[:0], PROBS[:0], read_goal("f1"))


def test_minus_zero_is_zero():
    found = cut("f1", [0, 0, 1], [-0.0, 0.0, 0.5])
    assert found.threshold == pytest.approx(0.25)
