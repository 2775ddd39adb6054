"""What watched metrics lead to: an end, the best weights, a lower rate."""

import pytest
import torch

from loupe.choices import Constant, Plateau
from loupe.control import Control, best_weights, checkpoint_of, gave_up, react
from loupe.recipe import read_recipe
from loupe.settings import Checkpoint


def run(recipe, values, metric="loss", schedule=None):
    control = Control()
    for number, value in enumerate(values):
        weights = {"w": torch.tensor([float(number)])}
        react(control, recipe, schedule or Constant(), {metric: value}, weights)
    return control


def test_patience_counts_epochs_without_a_better_value():
    recipe = read_recipe({"early_stop": {"patience": 2}})
    assert not gave_up(run(recipe, [3.0, 2.0, 2.5]), recipe)
    assert gave_up(run(recipe, [3.0, 2.0, 2.5, 2.0]), recipe)
    assert not gave_up(run(recipe, [3.0, 2.0, 2.5, 1.9]), recipe)


def test_a_least_change_is_asked_for():
    recipe = read_recipe({"early_stop": {"patience": 1, "min_delta": 0.5}})
    assert gave_up(run(recipe, [3.0, 2.6]), recipe)
    assert not gave_up(run(recipe, [3.0, 2.4]), recipe)


def test_a_metric_that_should_rise_is_not_taken_for_a_loss():
    recipe = read_recipe({"early_stop": {"patience": 1, "metric": "f1_macro"}})
    control = run(recipe, [0.2, 0.5, 0.4], metric="f1_macro")
    assert control.best == 0.5
    assert gave_up(control, recipe)
    assert best_weights(control)["w"].item() == 1


def test_early_stopping_alone_keeps_its_best_epoch():
    recipe = read_recipe({"early_stop": {"metric": "accuracy"}})
    assert checkpoint_of(recipe) == Checkpoint(metric="accuracy")
    own = read_recipe({"early_stop": {}, "checkpoint": {"metric": "accuracy"}})
    assert checkpoint_of(own) == Checkpoint(metric="accuracy")
    assert checkpoint_of(read_recipe({})) is None


@pytest.mark.parametrize(("average", "expected"), [(1, 3.0), (2, 2.0), (3, 8 / 3), (9, 2.0)])
def test_the_best_epochs_are_averaged(average, expected):
    recipe = read_recipe({"checkpoint": {"average": average}})
    control = run(recipe, [5.0, 2.0, 7.0, 1.0, 3.0])
    assert best_weights(control)["w"].item() == pytest.approx(expected)
    assert len(control.kept) == min(average, 5)


def test_of_equal_epochs_the_earlier_is_kept():
    recipe = read_recipe({"checkpoint": {}})
    assert best_weights(run(recipe, [2.0, 1.0, 1.0]))["w"].item() == 1


def test_an_undefined_metric_keeps_nothing_and_goes_stale():
    recipe = read_recipe({"early_stop": {"patience": 2}})
    control = run(recipe, [float("nan"), float("nan")])
    assert best_weights(control) is None
    assert gave_up(control, recipe)


def test_kept_weights_are_copies():
    recipe = read_recipe({"checkpoint": {}})
    control, weights = Control(), {"w": torch.zeros(1)}
    react(control, recipe, Constant(), {"loss": 1.0}, weights)
    weights["w"] += 5
    assert best_weights(control)["w"].item() == 0


def test_a_plateau_lowers_the_rate():
    recipe = read_recipe({})
    schedule = Plateau(patience=1, factor=0.1)
    assert run(recipe, [1.0, 1.0], schedule=schedule).standing.factor == 1
    assert run(recipe, [1.0, 1.0, 1.0], schedule=schedule).standing.factor == pytest.approx(0.1)


def test_the_state_comes_back_through_a_file(tmp_path):
    recipe = read_recipe({"early_stop": {"patience": 3}, "checkpoint": {"average": 2}})
    control = run(recipe, [3.0, 2.0, 2.5], schedule=Plateau(patience=0))
    torch.save(control.state(), tmp_path / "c.pt")
    again = Control.restore(torch.load(tmp_path / "c.pt", weights_only=True))
    assert again.standing == control.standing
    assert (again.best, again.stale) == (control.best, control.stale)
    assert [value for value, _ in again.kept] == [value for value, _ in control.kept]
    assert torch.equal(best_weights(again)["w"], best_weights(control)["w"])
