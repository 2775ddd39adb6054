import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from loupe.choices import Constant, Cosine, Listed, OneCycle, Plateau, Ramp
from loupe.schedules import Standing, follow, rate_at

START = Standing(None, 0, 0, 1.0)
WHOLE = st.integers(0, 4)


def rates(schedule, lr, epochs, steps_per_epoch=1, **more):
    return [
        rate_at(schedule, lr, step=step, steps_per_epoch=steps_per_epoch, epochs=epochs, **more)
        for step in range(epochs * steps_per_epoch)
    ]


def follow_all(schedule, values, *, lower_is_better=True):
    """The rate of each epoch that comes after these values, at lr = 1."""
    standing, found = START, []
    for value in values:
        standing = follow(schedule, standing, value, lower_is_better=lower_is_better)
        found += rates(schedule, 1.0, 1, standing=standing)
    return found


# Typed from the definitions in `choices`; (schedule, lr, epochs, steps per epoch): rates.
TABLE = [
    (Cosine(warmup=0.0), 2.0, 4, 1, [2.0, 1 + 0.5**0.5, 1.0, 1 - 0.5**0.5]),
    # Warm-up of 2 of 8 steps; 1/6, 2/6, ... of the half cosine from 1 to 0.2 after that.
    (
        Cosine(warmup=0.25, floor=0.2),
        1.0,
        4,
        2,
        [0.5, 1.0, 1.0, 0.9464101615, 0.8, 0.6, 0.4, 0.2535898385],
    ),
    # 0.34 of 7 steps is 2, rounded down.
    (Constant(warmup=0.34), 0.1, 7, 1, [0.05, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]),
    (Constant(warmup=0.0), 0.1, 1, 2, [0.1, 0.1]),
    # Peak 0.02: two epochs up, one at the peak, then halves of what is above 0.002.
    (
        Ramp(start_lr=1e-3, min_lr=2e-3, factor=2, ramp_epochs=2, sustain_epochs=1, decay=0.5),
        0.01,
        6,
        2,
        [1e-3, 1e-3, 0.0105, 0.0105, 0.02, 0.02, 0.02, 0.02, 0.011, 0.011, 0.0065, 0.0065],
    ),
    (Ramp(ramp_epochs=0, min_lr=0.0), 1.0, 3, 1, [1.0, 0.8, 0.64]),
    # 3 of 6 steps rise from 1 / 25; the last is 1 / 25 / 100.
    (
        OneCycle(warmup=0.5, start_divisor=25, final_divisor=100),
        1.0,
        2,
        3,
        [0.04, 0.52, 1.0, 0.7501, 0.2503, 0.0004],
    ),
    (Plateau(), 0.3, 2, 2, [0.3, 0.3, 0.3, 0.3]),
    (Listed(rates=(0.2, 0.5, 0.1)), 9.0, 4, 2, [0.2, 0.2, 0.5, 0.5, 0.1, 0.1, 0.1, 0.1]),
    (Listed(rates=(0.2, 0.5)), 9.0, 1, 2, [0.2, 0.2]),
]


@pytest.mark.parametrize(("schedule", "lr", "epochs", "each", "expected"), TABLE)
def test_rates_are_those_of_the_definition(schedule, lr, epochs, each, expected):
    assert rates(schedule, lr, epochs, each) == pytest.approx(expected, rel=1e-9)


def test_every_kind_stands_in_the_table():
    assert {type(row[0]) for row in TABLE} == {
        Cosine,
        Constant,
        Ramp,
        OneCycle,
        Plateau,
        Listed,
    }


def test_the_ramp_has_the_published_rates_of_the_cracks_system():
    found = rates(Ramp(factor=8), 5e-5, 50, 3)
    assert found[::3] == found[1::3] == found[2::3]
    published = [1e-5, 8.8e-5, 1.66e-4, 2.44e-4, 3.22e-4, 4e-4, 3.22e-4, 2.596e-4]
    assert found[: 3 * 8 : 3] == pytest.approx(published, rel=1e-12)
    start, peak, least = 1e-5, 5e-5 * 8, 1e-5
    for epoch, rate in enumerate(found[::3]):
        if epoch < 5:
            assert rate == (peak - start) / 5 * epoch + start
        else:
            assert rate == (peak - least) * 0.8 ** (epoch - 5) + least


def test_cosine_without_warm_up_is_that_of_keras():
    # CosineDecay(1e-4, 16, alpha=0.3), as the cassava system has it, with 2 steps an epoch.
    expected = [
        1e-4 * ((1 - 0.3) * 0.5 * (1 + math.cos(math.pi * step / 16)) + 0.3) for step in range(16)
    ]
    found = rates(Cosine(warmup=0.0, floor=0.3), 1e-4, 8, 2)
    assert found == pytest.approx(expected, rel=1e-12)
    assert (found[0], found[8]) == pytest.approx((1e-4, 0.65e-4), rel=1e-12)


@settings(deadline=None)
@given(
    warmup=st.floats(0, 0.95),
    epochs=st.integers(1, 4),
    each=st.integers(1, 5),
    start=st.floats(0.5, 100),
    final=st.floats(0.5, 1e5),
)
def test_one_cycle_has_the_rates_of_torch(warmup, epochs, each, start, final):
    assume(warmup * epochs * each != 1)  # torch divides by zero there
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    other = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=0.7,
        total_steps=epochs * each,
        pct_start=warmup,
        div_factor=start,
        final_div_factor=final,
        cycle_momentum=False,
    )
    expected = []
    for _ in range(epochs * each):
        expected.append(other.get_last_lr()[0])
        optimizer.step()
        other.step()
    schedule = OneCycle(warmup=warmup, start_divisor=start, final_divisor=final)
    assert rates(schedule, 0.7, epochs, each) == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_one_cycle_starts_at_the_peak_if_a_single_step_rises():
    assert rates(OneCycle(warmup=0.25), 0.5, 4)[0] == 0.5


# Few values, so that equal ones and improvements of exactly min_delta occur.
VALUES = st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, math.nan]), max_size=30)


@settings(deadline=None)
@given(
    values=VALUES,
    patience=WHOLE,
    cooldown=WHOLE,
    min_delta=st.sampled_from([0.0, 0.1, 0.25]),
    min_lr=st.sampled_from([0.0, 0.1]),
    lower=st.booleans(),
)
def test_a_plateau_lowers_the_rate_when_torch_does(
    values, patience, cooldown, min_delta, min_lr, lower
):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    other = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer,
        mode="min" if lower else "max",
        factor=0.5,
        patience=patience,
        threshold=min_delta,
        threshold_mode="abs",
        cooldown=cooldown,
        min_lr=min_lr,
        eps=0,
    )
    expected = []
    for value in values:
        other.step(value)
        expected.append(other.get_last_lr()[0])
    schedule = Plateau(
        patience=patience, cooldown=cooldown, min_delta=min_delta, min_lr=min_lr, factor=0.5
    )
    assert follow_all(schedule, values, lower_is_better=lower) == expected


def keras_rates(values, patience, cooldown):
    """Keras' ReduceLROnPlateau.on_epoch_end with factor 0.5, for a loss."""
    rate, best, wait, left, found = 1.0, math.inf, 0, 0, []
    for value in values:
        if left > 0:
            left -= 1
            wait = 0
        if value < best:
            best, wait = value, 0
        elif left <= 0:
            wait += 1
            if wait >= patience:
                rate, left, wait = rate * 0.5, cooldown, 0
        found.append(rate)
    return found


@given(values=VALUES, patience=WHOLE, cooldown=WHOLE)
def test_patience_and_cooldown_are_one_less_than_those_of_keras(values, patience, cooldown):
    schedule = Plateau(patience=max(0, patience - 1), cooldown=max(0, cooldown - 1))
    assert follow_all(schedule, values) == keras_rates(values, patience, cooldown)


def test_three_epochs_are_borne_and_the_fourth_halves_the_rate():
    schedule = Plateau(factor=0.5, patience=3)
    values = [0.7, 0.8, 0.8, 0.79, 0.5, 0.81, 0.81, 0.81, 0.81, 0.81]
    found = follow_all(schedule, values, lower_is_better=False)
    assert found == [1, 1, 1, 1, 1, 1, 1, 1, 1, 0.5]


def test_the_least_rate_ends_the_fall_and_lifts_no_lower_peak():
    schedule = Plateau(factor=0.5, patience=0, min_lr=1e-6)
    low = Standing(0.0, 0, 0, 0.5**20)
    assert rates(schedule, 1e-4, 1, standing=low) == [1e-6]
    assert rates(schedule, 1e-7, 1, standing=low) == [1e-7]


def test_nan_is_no_improvement():
    standing = follow(Plateau(patience=3), START, math.nan, lower_is_better=True)
    assert standing == Standing(None, 1, 0, 1.0)
    standing = follow(Plateau(patience=3), standing, 5.0, lower_is_better=True)
    assert standing == Standing(5.0, 0, 0, 1.0)


@given(
    schedule=st.one_of(
        st.builds(Cosine, warmup=st.floats(0, 0.99), floor=st.floats(0, 0.99)),
        st.builds(Constant, warmup=st.floats(0, 0.99)),
        st.builds(OneCycle, warmup=st.floats(0, 0.99), start_divisor=st.floats(1, 100)),
    ),
    epochs=st.integers(1, 5),
    each=st.integers(1, 5),
)
def test_no_rate_is_above_the_peak_or_below_zero(schedule, epochs, each):
    assert all(0 <= rate <= 0.1 * (1 + 1e-12) for rate in rates(schedule, 0.1, epochs, each))


def test_listed_rates_are_taken_an_epoch_each_and_the_last_one_holds_on():
    schedule = Listed(rates=(3e-4, 2e-4, 1e-5))
    found = [rate_at(schedule, 9.0, step=s, steps_per_epoch=2, epochs=5) for s in range(10)]
    assert found == [3e-4] * 2 + [2e-4] * 2 + [1e-5] * 6
