import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from loupe.averaging import MovingAverage, average_states


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(2)


def test_the_moving_average_equals_a_loop_by_hand():
    network = Tiny()
    average = MovingAverage(network, 0.3)
    by_hand = network.dense.weight.detach().clone()
    statistics = network.norm.running_mean.clone()
    for step in range(1, 6):
        with torch.no_grad():
            network.dense.weight.add_(step)
            network.norm.running_mean.add_(1)
            network.norm.num_batches_tracked.add_(1)
        average.update(network)
        keep = min(0.3, (1 + step) / (10 + step))
        by_hand = keep * by_hand + (1 - keep) * network.dense.weight.detach()
        statistics = keep * statistics + (1 - keep) * network.norm.running_mean
    torch.testing.assert_close(average.network.dense.weight, by_hand)
    torch.testing.assert_close(average.network.norm.running_mean, statistics)
    assert int(average.network.norm.num_batches_tracked) == 5
    assert not average.network.training
    assert not average.network.dense.weight.requires_grad


def test_an_average_without_decay_is_the_network():
    network = Tiny()
    average = MovingAverage(network, 0.0)
    with torch.no_grad():
        network.dense.weight.mul_(1.7).add_(0.123)
    average.update(network)
    assert torch.equal(average.network.dense.weight, network.dense.weight)


def state(value, count=0):
    return {"w": torch.tensor([value, -value]), "n": torch.tensor(count)}


def test_the_mean_of_states_is_taken_weight_by_weight():
    found = average_states([state(1.0, 9), state(2.0, 4), state(6.0, 5)])
    assert found["w"].tolist() == [3.0, -3.0]
    assert found["w"].dtype == torch.float32
    assert found["n"].item() == 9


@given(
    value=st.floats(-1024, 1024, width=32),
    copies=st.integers(1, 7),
)
@settings(max_examples=50, deadline=None)
def test_the_mean_of_equal_states_is_the_state(value, copies):
    assert average_states([state(value)] * copies)["w"].tolist() == [value, -value]


def test_the_states_themselves_are_kept():
    states = [state(1.0), state(3.0)]
    found = average_states(states)
    found["w"].add_(100)
    found["n"].add_(100)
    assert states[0]["w"].tolist() == [1.0, -1.0]
    assert states[0]["n"].item() == 0


def test_the_mean_loads_into_the_network():
    first, second = Tiny(), Tiny()
    merged = Tiny()
    merged.load_state_dict(average_states([first.state_dict(), second.state_dict()]))
    expected = (first.dense.bias + second.dense.bias) / 2
    torch.testing.assert_close(merged.dense.bias, expected)


def test_states_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match="different networks"):
        average_states([state(1.0), {"w": torch.zeros(2)}])
    with pytest.raises(ValueError, match="no states"):
        average_states([])
