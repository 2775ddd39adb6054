"""Losses against their published formulas, written here in plain numpy, float64, row by row."""

from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from torch.autograd import gradcheck
from torch.nn import functional

from loupe.choices import (
    AutoLoss,
    BinaryCrossEntropy,
    BiTempered,
    CrossEntropy,
    Focal,
    Loss,
    SymmetricCrossEntropy,
    Taylor,
)
from loupe.errors import RecipeError
from loupe.losses import (
    _tempered_log_softmax,
    balance_classes,
    build_loss,
    check_loss,
    weigh_classes,
)

FEW = settings(max_examples=60, deadline=None)
SOFTMAX = [
    AutoLoss(),
    CrossEntropy(),
    Focal(gamma=2),
    Focal(gamma=0.5),
    BiTempered(),
    BiTempered(t1=0.2, t2=1.0),
    BiTempered(t1=1.0, t2=4.0),
    BiTempered(t1=0.0, t2=1.01),
    BiTempered(t1=1.0, t2=1.0),
    Taylor(terms=1),
    Taylor(terms=6),
    SymmetricCrossEntropy(),
    SymmetricCrossEntropy(alpha=2, beta=0.3, log_zero=-1.5),
]
SIGMOID = [AutoLoss(), BinaryCrossEntropy(), Focal(gamma=2), Focal(gamma=0.5)]
CASES = [(loss, True) for loss in [*SOFTMAX, BinaryCrossEntropy()]]
CASES += [(loss, False) for loss in SIGMOID]
NEED_EXCLUSIVE = [CrossEntropy(), BiTempered(), Taylor(), SymmetricCrossEntropy()]
EVERY = pytest.mark.parametrize(("loss", "exclusive"), CASES)


def test_every_kind_is_tested():
    kinds = {get_args(kind)[0] for kind in get_args(get_args(Loss)[0])}
    assert {type(loss) for loss, _ in CASES} == kinds


# Formulas -----------------------------------------------------------------------------------------


def log_t(u, t):
    return np.log(u) if t == 1 else (u ** (1 - t) - 1) / (1 - t)


def exp_t(u, t):
    return np.exp(u) if t == 1 else (1 + (1 - t) * u) ** (1 / (1 - t))


def temper(row, t):
    """Tempered softmax by bisection of the level at which the probabilities sum to 1."""
    low = row.max()
    high = low + (np.log(len(row)) if t == 1 else -log_t(1 / len(row), t))
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if exp_t(row - middle, t).sum() > 1 else (low, middle)
    return exp_t(row - (low + high) / 2, t)


def softmax(row):
    odds = np.exp(row - row.max())
    return odds / odds.sum()


def row_loss(loss, row, t, w, *, exclusive):
    """The loss of one row: logits, smoothed targets and class weights, each (C,)."""
    name = loss.name
    if name == "auto":
        name = "cross_entropy" if exclusive else "bce"
    if name == "bce" or (name == "focal" and not exclusive):
        p, gamma = 1 / (1 + np.exp(-row)), getattr(loss, "gamma", 0)
        yes, no = (1 - p) ** gamma * np.log(p), p**gamma * np.log(1 - p)
        return -np.mean(w * t * yes + (1 - t) * no)
    p = softmax(row)
    if name == "focal":
        return sum(w * t * (1 - p) ** loss.gamma * -np.log(p))
    if name == "taylor":
        return sum(sum(w * t * (1 - p) ** k / k) for k in range(1, loss.terms + 1))
    plain = -sum(w * t * np.log(p))
    if name == "symmetric":
        logs = [max(np.log(s), loss.log_zero) if s > 0 else loss.log_zero for s in t]
        return loss.alpha * plain + loss.beta * sum(w * t) * -sum(p * logs)
    if name == "bi_tempered" and (loss.t1, loss.t2) != (1, 1):
        return bregman(loss, row, t)
    return plain


def bregman(loss, row, t):
    """As in the authors' code, class by class."""
    p, t1 = temper(row, loss.t2), loss.t1
    parts = t * (log_t(t + 1e-10, t1) - log_t(p, t1))
    return sum(parts - (t ** (2 - t1) - p ** (2 - t1)) / (2 - t1))


@dataclass(frozen=True)
class Problem:
    logits: Any
    targets: Any
    class_weights: Any
    row_weights: Any
    smoothing: float


def draw_arrays(draw, shape, low, high):
    size = int(np.prod(shape))
    values = st.lists(st.floats(low, high, width=32), min_size=size, max_size=size)
    return np.array(draw(values)).reshape(shape)


@st.composite
def problems(draw, *, exclusive, spread=10):
    """Soft and hard targets; those of exclusive classes sum to 1."""
    shape = draw(st.integers(1, 3)), draw(st.integers(2 if exclusive else 1, 5))
    size = shape[0] * shape[1]
    shares = np.array(draw(st.lists(st.integers(0, 4), min_size=size, max_size=size)), float)
    shares = shares.reshape(shape)
    if exclusive:
        shares[shares.sum(axis=1) == 0, -1] = 1
        shares /= shares.sum(axis=1, keepdims=True)
    else:
        shares /= 4
    return Problem(
        logits=draw_arrays(draw, shape, -spread, spread),
        targets=shares,
        class_weights=draw_arrays(draw, shape[1:], 0.25, 4),
        row_weights=draw_arrays(draw, shape[:1], 0, 3),
        smoothing=draw(st.sampled_from([0.0, 0.1, 0.3])),
    )


def expect(loss, problem, *, exclusive, weighted=True, by_row=True):
    s, c = problem.smoothing, problem.targets.shape[1]
    smooth = problem.targets * (1 - s) + s / (c if exclusive else 2)
    w = problem.class_weights if weighted else np.ones(c)
    pairs = zip(problem.logits, smooth, strict=True)
    rows = np.array([row_loss(loss, row, t, w, exclusive=exclusive) for row, t in pairs])
    return float(np.mean(rows * problem.row_weights if by_row else rows))


def compute(loss, problem, dtype, *, exclusive, weighted=True, by_row=True):
    loss = loss.model_copy(update={"label_smoothing": problem.smoothing})
    weights = torch.tensor(problem.class_weights, dtype=torch.float32) if weighted else None
    function = build_loss(loss, exclusive=exclusive, class_weights=weights)
    rows = torch.tensor(problem.row_weights, dtype=dtype) if by_row else None
    logits = torch.tensor(problem.logits, dtype=dtype)
    return float(function(logits, torch.tensor(problem.targets, dtype=dtype), rows))


def agree(loss, problem, **how):
    expected = expect(loss, problem, **how)
    assert compute(loss, problem, torch.float64, **how) == pytest.approx(expected, abs=1e-9)
    # float32 itself has 6e-8 of a value, and logits reach 10.
    assert compute(loss, problem, torch.float32, **how) == pytest.approx(
        expected, abs=1e-6, rel=1e-6
    )


PLAIN = st.sampled_from([AutoLoss(), CrossEntropy(), BinaryCrossEntropy()])
FOCAL = st.builds(Focal, gamma=st.sampled_from([0, 1, 2]) | st.floats(0.05, 5))
TAYLOR = st.builds(Taylor, terms=st.integers(1, 12))
SYMMETRIC = st.builds(
    SymmetricCrossEntropy,
    alpha=st.floats(0, 3),
    beta=st.floats(0, 3),
    log_zero=st.floats(-9, -0.1),
)
TEMPERED = st.builds(
    BiTempered,
    t1=st.just(1) | st.floats(0, 0.99),
    t2=st.just(1) | st.floats(1.01, 4),
)


@FEW
@given(PLAIN | FOCAL | TAYLOR | SYMMETRIC, problems(exclusive=True), st.booleans(), st.booleans())
def test_exclusive_losses_equal_their_formulas(loss, problem, weighted, by_row):
    agree(loss, problem, exclusive=True, weighted=weighted, by_row=by_row)


@FEW
@given(
    st.just(AutoLoss()) | st.just(BinaryCrossEntropy()) | FOCAL,
    problems(exclusive=False),
    st.booleans(),
    st.booleans(),
)
def test_losses_of_single_columns_equal_their_formulas(loss, problem, weighted, by_row):
    agree(loss, problem, exclusive=False, weighted=weighted, by_row=by_row)


@FEW
@given(TEMPERED, problems(exclusive=True), st.booleans())
def test_the_bi_tempered_loss_equals_the_authors(loss, problem, by_row):
    agree(loss, problem, exclusive=True, weighted=False, by_row=by_row)


@FEW
@given(TEMPERED, problems(exclusive=True), problems(exclusive=True))
def test_class_weights_weigh_the_bi_tempered_loss_against_each_class(loss, problem, other):
    # Soft targets add a constant; the difference of two networks' losses is free of it.
    t, w = problem.targets[0], problem.class_weights
    rows = problem.logits[0], np.resize(other.logits, len(t))
    function = build_loss(loss, exclusive=True, class_weights=torch.from_numpy(w))
    found = [
        float(function(torch.from_numpy(row)[None], torch.from_numpy(t)[None], None))
        for row in rows
    ]
    alone = [
        sum(
            w[c] * t[c] * row_loss(loss, row, np.eye(len(t))[c], np.ones(len(t)), exclusive=True)
            for c in range(len(t))
        )
        for row in rows
    ]
    assert found[0] - found[1] == pytest.approx(alone[0] - alone[1], abs=1e-8)


@pytest.mark.parametrize("t", [1.0, 1.0001, 1.1, 1.4, 2.0, 4.0, 8.0])
@pytest.mark.parametrize("spread", [0.0, 1.0, 20.0, 120.0])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-13), (torch.float32, 3e-6)])
def test_tempered_probabilities_of_a_thousand_classes_sum_to_one(t, spread, dtype, close):
    # The rest lies far below one class, where fixed-point iterations crawl.
    generator = torch.Generator().manual_seed(0)
    logits = torch.rand(8, 1000, generator=generator, dtype=dtype) - spread
    logits[:4] = torch.randn(4, 1000, generator=generator, dtype=dtype) * spread
    logits[4:, 0] = 0
    total = _tempered_log_softmax(logits, t).exp().sum(dim=1)
    torch.testing.assert_close(total, torch.ones_like(total), atol=close, rtol=0)


# Limits and known values --------------------------------------------------------------------------

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]])
HARD = torch.tensor([[1.0, 0, 0], [0, 0, 1]])
SOFT = torch.tensor([[0.7, 0.3, 0], [0.1, 0.2, 0.7]])
WEIGHTS = torch.tensor([2.0, 0.5, 1.5])
HALF = torch.log(torch.tensor([[3.0, 1.0]]))  # probabilities 3/4 and 1/4
SECOND = torch.tensor([[0.0, 1.0]])


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (CrossEntropy(), np.log(4)),
        (Focal(gamma=2), 9 / 16 * np.log(4)),
        (Taylor(terms=1), 3 / 4),
        (Taylor(terms=2), 3 / 4 + 9 / 32),
        (SymmetricCrossEntropy(alpha=0, beta=1, log_zero=-4), 3),
        (SymmetricCrossEntropy(alpha=2, beta=1, log_zero=-4), 3 + 2 * np.log(4)),
        # t1 = 0: log_0 u = u - 1, so the loss is half the squared distance.
        (BiTempered(t1=0, t2=1), (9 / 16 + 9 / 16) / 2),
    ],
)
def test_values_worked_out_by_hand(loss, expected):
    found = build_loss(loss, exclusive=True, class_weights=None)(HALF, SECOND, None)
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_the_tempered_softmax_of_t_2_is_worked_out_by_hand():
    # exp_2 x = 1 / (1 - x): logits 0 and -3/2 give 1 / (1 + l) + 1 / (5/2 + l) = 1, l = 1/2.
    probs = _tempered_log_softmax(torch.tensor([[7.0, 5.5]]), 2.0).exp()
    torch.testing.assert_close(probs, torch.tensor([[2 / 3, 1 / 3]]))


@pytest.mark.parametrize("targets", [HARD, SOFT])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize(
    ("limit", "close"),
    [
        (AutoLoss(), 0),
        (Focal(gamma=0), 0),
        (BiTempered(t1=1, t2=1), 0),
        (SymmetricCrossEntropy(alpha=1, beta=0), 1e-6),
        (Taylor(terms=3000), 1e-5),
    ],
)
def test_limits_are_cross_entropy(targets, weights, limit, close):
    plain = build_loss(CrossEntropy(), exclusive=True, class_weights=weights)
    found = build_loss(limit, exclusive=True, class_weights=weights)
    expected = float(plain(LOGITS, targets, None))
    assert float(found(LOGITS, targets, None)) == pytest.approx(expected, abs=close)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_bi_tempered_nears_cross_entropy_but_for_a_constant(weights):
    near = build_loss(BiTempered(t1=1 - 1e-9, t2=1 + 1e-9), exclusive=True, class_weights=weights)
    plain = build_loss(CrossEntropy(), exclusive=True, class_weights=weights)
    slopes = []
    for function in (near, plain):
        logits = LOGITS.double().requires_grad_()
        function(logits, SOFT.double(), None).backward()
        slopes.append(logits.grad)
    torch.testing.assert_close(slopes[0], slopes[1], atol=1e-7, rtol=0)


def test_focal_without_gamma_is_binary_cross_entropy():
    focal = build_loss(Focal(gamma=0), exclusive=False, class_weights=WEIGHTS)
    theirs = functional.binary_cross_entropy_with_logits(LOGITS, SOFT, pos_weight=WEIGHTS)
    torch.testing.assert_close(focal(LOGITS, SOFT, None), theirs)


def test_cross_entropies_are_torchs_own():
    for smoothing in (0.0, 0.1):
        loss = AutoLoss(label_smoothing=smoothing)
        mine = build_loss(loss, exclusive=True, class_weights=None)
        theirs = functional.cross_entropy(LOGITS, HARD, label_smoothing=smoothing)
        torch.testing.assert_close(mine(LOGITS, HARD, None), theirs)
    for exclusive in (True, False):
        mine = build_loss(BinaryCrossEntropy(), exclusive=exclusive, class_weights=WEIGHTS)
        theirs = functional.binary_cross_entropy_with_logits(LOGITS, SOFT, pos_weight=WEIGHTS)
        torch.testing.assert_close(mine(LOGITS, SOFT, None), theirs)


def test_wrong_labels_cost_no_more_than_a_bound():
    sure = torch.tensor([[-60.0, 60.0, 0.0]])
    wrong = HARD[:1]
    bounds = {
        BiTempered(t1=0.5, t2=1.0): 2 - 2 / 3 + 2 / 3,
        Taylor(terms=3): 1 + 1 / 2 + 1 / 3,
        SymmetricCrossEntropy(alpha=0, log_zero=-4): 4,
    }
    for loss, bound in bounds.items():
        value = build_loss(loss, exclusive=True, class_weights=None)(sure, wrong, None)
        assert float(value) == pytest.approx(bound, abs=1e-5)


# Gradients and precision --------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("targets", [HARD, SOFT])
def test_gradients_are_finite_differences(loss, exclusive, targets):
    function = build_loss(loss, exclusive=exclusive, class_weights=WEIGHTS.double())
    rows = torch.tensor([3.0, 0.5], dtype=torch.float64)
    logits = (LOGITS * 1.5).double().requires_grad_()
    assert gradcheck(lambda x: function(x, targets.double(), rows), logits)


@FEW
@given(TEMPERED.filter(lambda loss: (loss.t1, loss.t2) != (1, 1)), problems(exclusive=True))
def test_the_bi_tempered_gradient_equals_the_authors(loss, problem):
    function = build_loss(loss, exclusive=True, class_weights=None)
    row, t = problem.logits[:1], problem.targets[0]
    logits = torch.from_numpy(row).requires_grad_()
    function(logits, torch.from_numpy(t)[None], None).backward()
    p = temper(row[0], loss.t2)
    # Amid et al. 2019: the derivative by the level is shared out by the escort distribution.
    forgetful = (p - t) * p ** (loss.t2 - loss.t1)
    escort = p**loss.t2 / sum(p**loss.t2)
    np.testing.assert_allclose(logits.grad[0], forgetful - escort * sum(forgetful), atol=1e-9)


@EVERY
@pytest.mark.parametrize("size", [17.0, 60.0, 1e4])
@pytest.mark.parametrize("targets", [HARD, SOFT])
def test_extreme_logits_have_finite_losses_and_gradients(loss, exclusive, size, targets):
    signs = torch.tensor([[1.0, -1, -1], [1, -1, 0]])
    function = build_loss(loss, exclusive=exclusive, class_weights=None)
    results = []
    for dtype in (torch.float32, torch.float64):
        logits = (signs * size).to(dtype).requires_grad_()
        value = function(logits, targets, None)
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(logits.grad).all()
        results.append((value.detach().double(), logits.grad.double()))
    torch.testing.assert_close(results[0], results[1], atol=2e-6, rtol=2e-6)


@EVERY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_taken_in_float32(loss, exclusive, dtype):
    function = build_loss(loss, exclusive=exclusive, class_weights=WEIGHTS)
    logits = (LOGITS * 1.7).to(dtype).requires_grad_()
    expected = function(logits.detach().float(), SOFT, None)
    with torch.autocast("cpu", dtype):
        found = function(logits, SOFT, None)
    assert found.dtype == torch.float32
    assert found.item() == expected.item()
    found.backward()
    assert torch.isfinite(logits.grad).all()


@EVERY
def test_row_weights_and_smoothing_do_what_their_names_say(loss, exclusive):
    function = build_loss(loss, exclusive=exclusive, class_weights=WEIGHTS)
    alone = [float(function(LOGITS[k : k + 1], SOFT[k : k + 1], None)) for k in (0, 1)]
    weighted = float(function(LOGITS, SOFT, torch.tensor([3.0, 0.5])))
    assert weighted == pytest.approx((3 * alone[0] + 0.5 * alone[1]) / 2, rel=1e-6)
    smoothed = loss.model_copy(update={"label_smoothing": 0.2})
    mixed = SOFT * 0.8 + (0.2 / 3 if exclusive else 0.1)
    found = build_loss(smoothed, exclusive=exclusive, class_weights=WEIGHTS)(LOGITS, SOFT, None)
    torch.testing.assert_close(found, function(LOGITS, mixed, None))
    assert float(found) != pytest.approx(sum(alone) / 2, abs=1e-4)


# Choice of the loss and of class weights ----------------------------------------------------------


@pytest.mark.parametrize("loss", NEED_EXCLUSIVE)
def test_softmax_losses_need_exclusive_classes(loss):
    told = (
        f"loss.name is '{loss.name}', but the table's classes are not exclusive; "
        r"use 'bce' or 'focal' \(or 'auto'\)."
    )
    for call in (check_loss, lambda *a, **k: build_loss(*a, **k, class_weights=None)):
        with pytest.raises(RecipeError, match=told):
            call(loss, exclusive=False)
    check_loss(loss, exclusive=True)


@EVERY
def test_other_losses_suit_their_tables(loss, exclusive):
    check_loss(loss, exclusive=exclusive)


def test_class_weights_are_none_balanced_or_named():
    targets = torch.eye(3)[np.repeat([0, 1, 2], [7, 2, 1])]
    names = ["ok", "crack", "stain"]
    assert weigh_classes(AutoLoss(), targets, names, exclusive=True) is None
    for exclusive in (True, False):
        balanced = AutoLoss(class_weights="balanced")
        found = weigh_classes(balanced, targets, names, exclusive=exclusive)
        assert torch.equal(found, balance_classes(targets, exclusive=exclusive))
    named = Focal(class_weights={"stain": 5, "ok": 0.5})
    found = weigh_classes(named, targets, names, exclusive=False)
    assert found.dtype == torch.float32
    assert found.tolist() == [0.5, 1.0, 5.0]


def test_unknown_names_of_classes_are_all_told():
    loss = AutoLoss(class_weights={"crak": 2, "ok": 1, "zzz": 3})
    with pytest.raises(RecipeError) as caught:
        weigh_classes(loss, torch.eye(2), ["ok", "crack"], exclusive=True)
    assert str(caught.value) == (
        "loss.class_weights: 'crak' is no class; did you mean 'crack'? 'zzz' is no class. "
        "The table's classes: ok, crack."
    )


def test_balanced_weights_are_scikit_learns():
    labels = np.repeat([0, 1, 2], [7, 2, 1])
    found = balance_classes(torch.eye(3)[labels], exclusive=True)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    columns = torch.tensor([[1.0, 0], [0, 0], [0, 0], [0, 1], [1, 1]])
    assert balance_classes(columns, exclusive=False).tolist() == pytest.approx([1.5, 1.5])


def test_a_class_without_rows_changes_no_weight():
    labels = np.repeat([0, 1, 2], [7, 2, 1])
    three = balance_classes(torch.eye(3)[labels], exclusive=True)
    four = balance_classes(torch.eye(4)[labels], exclusive=True)
    assert four.tolist() == [*three.tolist(), 1.0]
    columns = torch.tensor([[1.0, 0], [0, 0], [0, 0], [0, 0]])
    assert balance_classes(columns, exclusive=False).tolist() == [3.0, 1.0]
    assert balance_classes(torch.zeros(3, 2), exclusive=False).tolist() == [1.0, 1.0]
