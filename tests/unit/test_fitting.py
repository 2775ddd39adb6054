import copy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from loupe.aims import aim_at_labels
from loupe.build import build_network, resolve_input
from loupe.choices import AutoLoss
from loupe.data import Samples
from loupe.errors import LoupeError
from loupe.features import Features
from loupe.fitting import fit
from loupe.heads import L2_GRID, fit_logistic
from loupe.images import InputSpec
from loupe.losses import build_loss
from loupe.recipe import Recipe, read_recipe
from loupe.tasks import Progress, Task

N, SIZE = 12, 32
NONE = np.zeros(0, np.intp)


@dataclass(frozen=True)
class Watchful:
    """Pixels of some rows; to ask for any other is an error."""

    images: Any
    allowed: frozenset[int]
    asked: set[int] = field(default_factory=set)
    spec: InputSpec = field(default_factory=lambda: InputSpec(height=SIZE, width=SIZE))

    def __getitem__(self, row: int) -> Any:
        self.asked.add(int(row))
        assert int(row) in self.allowed, f"row {row} is held out"
        return self.images[row]

    def __len__(self) -> int:
        return len(self.images)


def make_task(recipe: Recipe, *, rows=range(8), watched=(), inner=(), seed=0, **more) -> Task:
    """Images whose left half is bright in class 1; rows 8 and on are held out."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 120, (N, SIZE, SIZE, 3), dtype=np.uint8)
    labels = np.arange(N) % 2
    images[labels == 1, :, : SIZE // 2] += 100
    samples = Samples(
        pixels=Watchful(images, frozenset([*rows, *watched])),
        ids=tuple(str(i) for i in range(N)),
        targets=np.eye(2, dtype=np.float32)[labels],
        weights=None,
        steps=recipe.augment,
        seed=recipe.seed,
    )
    task = Task(
        recipe=recipe,
        samples=samples,
        rows=np.array(rows, np.intp),
        watched=np.array(watched, np.intp),
        inner=np.array(inner, np.intp),
        classes=("dark", "bright"),
        exclusive=True,
        features=None,
        aim=aim_at_labels(
            recipe, samples.targets[list(rows)], ("dark", "bright"), exclusive=True, device="cpu"
        ),
        device="cpu",
    )
    return replace(task, **more)


def make_recipe(*stages, **more) -> Recipe:
    return read_recipe(
        {
            "network": {"name": "test_resnet", "pretrained": False} | more.pop("network", {}),
            "input": {"size": SIZE},
            "stages": list(stages) or [{"train": "all", "epochs": 1}],
            "batch_size": 4,
            **more,
        }
    )


def start(recipe: Recipe):
    return build_network(recipe, resolve_input(recipe, None), 2, weights=None)


def ignore(*_: object) -> None:
    return


def equal_states(a: nn.Module, b: nn.Module) -> bool:
    mine, theirs = a.state_dict(), b.state_dict()
    return all(torch.equal(mine[key], theirs[key]) for key in mine)


# The last layer -----------------------------------------------------------------------------------


def problem(n=60, d=5, c=3, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    y = (x @ rng.normal(size=(d, c)) + rng.normal(size=(n, c))).argmax(axis=1)
    return x.astype(np.float32), y


@pytest.mark.parametrize("l2", [1.0, 0.03, 3e-3])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_logistic_fit_is_scikit_learns(l2, weighted):
    x, y = problem()
    rows = np.linspace(0.2, 3, len(x)).astype(np.float32) if weighted else None
    loss = build_loss(AutoLoss(), exclusive=True, class_weights=None)
    weight, bias = fit_logistic(
        torch.from_numpy(x),
        torch.eye(3)[y],
        loss,
        l2,
        (torch.zeros(3, 5), torch.zeros(3)),
        None if rows is None else torch.from_numpy(rows),
    )
    theirs = LogisticRegression(C=1 / (l2 * len(x)), tol=1e-8, max_iter=2000).fit(x, y, rows)
    np.testing.assert_allclose(weight, theirs.coef_, atol=1e-3)
    mine = torch.softmax(torch.from_numpy(x) @ weight.T + bias, dim=1)
    np.testing.assert_allclose(mine, theirs.predict_proba(x), atol=1e-3)


def test_columns_that_stand_alone_are_fitted_one_by_one():
    x, y = problem(c=2)
    loss = build_loss(AutoLoss(), exclusive=False, class_weights=None)
    zeros = (torch.zeros(2, 5), torch.zeros(2))
    # The loss is the mean over columns, so each column has half of it.
    weight, _ = fit_logistic(torch.from_numpy(x), torch.eye(2)[y], loss, 0.01, zeros)
    theirs = LogisticRegression(C=1 / (2 * 0.01 * len(x)), tol=1e-8).fit(x, y)
    np.testing.assert_allclose(weight[1], theirs.coef_[0], atol=1e-3)
    np.testing.assert_allclose(weight[0], -theirs.coef_[0], atol=1e-3)


def head_task(recipe, network, views=2, **more) -> Task:
    task = make_task(recipe, **more)
    images = torch.from_numpy(task.samples.pixels.images)
    with torch.no_grad():
        network.eval()
        seen = [network.features(images), network.features(images.flip(2))][:views]
        features = torch.stack(seen, dim=1)
    features[8:] = float("nan")  # held out: one of them used would spoil all
    kept = Features(features.clone(), fitted=tuple(range(views)), plain=0, tta=())
    return replace(task, features=kept)


def test_a_head_fitted_on_features_is_the_same_network_through_pixels():
    recipe = make_recipe({"train": "head", "l2": 0.01})
    network = start(recipe)
    task = head_task(recipe, network)
    fitted = fit(network, task, Progress(), ignore)
    with torch.inference_mode():
        images = torch.from_numpy(task.samples.pixels.images[:8])
        logits = fitted(images)
        expected = fitted.classify(task.features.values[:8, 0])
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    flat = task.features.values[:8].flatten(0, 1)
    scaled = (flat - flat.mean(0)) / flat.std(0).clamp(min=1e-6)
    y = np.repeat(np.arange(8) % 2, 2)
    theirs = LogisticRegression(C=1 / (0.01 * 16), tol=1e-8, max_iter=2000).fit(scaled, y)
    np.testing.assert_allclose(
        torch.softmax(logits, 1)[:, 1], theirs.predict_proba(scaled[::2])[:, 1], atol=2e-3
    )
    assert not task.samples.pixels.asked


def test_rows_of_more_weight_pull_the_head():
    recipe = make_recipe({"train": "head", "l2": 0.3})
    network = start(recipe)
    task = head_task(recipe, network)
    heavy = np.ones(N, np.float32)
    heavy[1::2] = 20
    biased = replace(task, samples=replace(task.samples, weights=heavy))
    plain = fit(copy.deepcopy(network), task, Progress(), ignore)
    moved = fit(copy.deepcopy(network), biased, Progress(), ignore)
    with torch.inference_mode():
        before, after = (
            torch.softmax(n.classify(task.features.values[:8, 0]), 1)[:, 1] for n in (plain, moved)
        )
    assert (after > before).all()


def test_the_penalty_is_chosen_on_inner_rows():
    recipe = make_recipe({"train": "head"})
    network = start(recipe)
    told = []
    task = head_task(recipe, network, inner=[6, 7])
    fit(network, task, Progress(), lambda epoch, *_: told.append(epoch.notes["l2"]))
    assert told[0] in L2_GRID
    without = head_task(recipe, network)
    fit(network, without, Progress(), lambda epoch, *_: told.append(epoch.notes["l2"]))
    assert told[1] == L2_GRID[len(L2_GRID) // 2]
    # Labels turned round on the inner rows: only the strongest penalty is not punished.
    targets = task.samples.targets.copy()
    targets[[6, 7]] = targets[[7, 6]]
    opposed = replace(task, samples=replace(task.samples, targets=targets))
    fit(network, opposed, Progress(), lambda epoch, *_: told.append(epoch.notes["l2"]))
    assert told[2] == max(L2_GRID)


def test_a_head_stage_needs_features():
    recipe = make_recipe({"train": "head"})
    with pytest.raises(LoupeError, match="features"):
        fit(start(recipe), make_task(recipe), Progress(), ignore)


# All layers ---------------------------------------------------------------------------------------


def test_a_small_network_learns_eight_images_by_heart():
    recipe = make_recipe({"train": "all", "epochs": 15, "lr": 3e-3})
    task = make_task(recipe)
    told = []
    network = fit(start(recipe), task, Progress(), lambda epoch, *_: told.append(epoch))
    with torch.inference_mode():
        found = network(torch.from_numpy(task.samples.pixels.images[:8])).argmax(dim=1)
    assert found.tolist() == [0, 1] * 4
    assert not network.training
    assert told[-1].loss < 0.3 * told[0].loss
    assert [epoch.epoch for epoch in told] == list(range(1, 16))
    assert told[-1].lr < told[5].lr <= 3e-3
    assert task.samples.pixels.asked == set(range(8))


def test_early_stopping_watches_its_own_rows_and_returns_the_best():
    recipe = make_recipe(
        {"train": "all", "epochs": 12, "lr": 0.05}, early_stop={"patience": 2}, ema=0.5
    )
    task = make_task(recipe, rows=range(6), watched=[6, 7])
    told, states = [], []

    def remember(epoch, network, progress):
        told.append(epoch.watched["loss"])
        states.append({k: v.clone() for k, v in progress.average["weights"].items()})

    network = fit(start(recipe), task, Progress(), remember)
    best = min(range(len(told)), key=told.__getitem__)
    assert len(told) == min(12, best + 1 + 2)
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in states[best].items())
    assert {6, 7} < task.samples.pixels.asked <= set(range(8))


def test_frozen_statistics_are_those_of_the_start():
    for frozen in (True, False):
        recipe = make_recipe({"train": "all", "epochs": 1, "freeze_norm": frozen})
        network = start(recipe)
        before = {k: v.clone() for k, v in network.state_dict().items() if "running" in k}
        after = fit(network, make_task(recipe), Progress(), ignore).state_dict()
        assert all(torch.equal(after[k], v) for k, v in before.items()) is frozen


def test_a_loss_that_is_no_number_stops_with_advice():
    recipe = make_recipe({"train": "all", "epochs": 1})
    network = start(recipe)
    with torch.no_grad():
        network.head.bias.fill_(float("nan"))
    with pytest.raises(LoupeError, match=r"epoch 1 is nan.*--set optimizer\.lr"):
        fit(network, make_task(recipe), Progress(), ignore)


def test_the_network_that_is_returned_is_the_moving_average():
    recipe = make_recipe({"train": "all", "epochs": 2}, ema=0.9)
    kept = {}

    def remember(epoch, network, progress):
        kept.update(average={k: v.clone() for k, v in progress.average["weights"].items()})
        kept.update(raw={k: v.clone() for k, v in network.state_dict().items()})

    network = fit(start(recipe), make_task(recipe), Progress(), remember)
    found = network.state_dict()
    assert all(torch.equal(found[key], value) for key, value in kept["average"].items())
    assert not torch.equal(found["head.weight"], kept["raw"]["head.weight"])


class StoppedError(Exception):
    """As if the process had been killed."""


STAGES = [
    {"train": "head", "l2": 0.1},
    {"train": "all", "epochs": 3, "lr": 0.01},
    {"train": "all", "epochs": 2, "lr": 1e-3, "freeze_norm": True},
]


@pytest.mark.parametrize("last", range(1, 7))
def test_an_interrupted_training_ends_bit_for_bit_alike(last):
    recipe = make_recipe(
        *STAGES,
        network={"head": {"dropout": 0.3}, "drop_path": 0.1},
        ema=0.8,
        augment=["HorizontalFlip", {"Rotate": {"limit": 30, "p": 1.0}}],
        early_stop={"patience": 2},
    )
    task = head_task(recipe, start(recipe), rows=range(7), watched=[7])
    whole = fit(start(recipe), task, Progress(), ignore)
    saved: dict[str, Any] = {}
    calls = []

    def save_and_stop(epoch, network, progress):
        calls.append(progress.total_epochs)
        saved["network"] = copy.deepcopy(network.state_dict())
        saved["progress"] = copy.deepcopy(progress)
        if len(calls) == last:
            raise StoppedError

    finished = False
    try:
        fit(start(recipe), task, Progress(), save_and_stop)
        finished = True  # stopped early before that epoch
    except StoppedError:
        pass
    network = start(recipe.model_copy(update={"seed": 99}))
    network.load_state_dict(saved["network"])
    torch.manual_seed(1234)
    later: list[int] = []
    again = fit(network, task, saved["progress"], lambda *told: later.append(told[2].total_epochs))
    assert equal_states(whole, again)
    assert [*calls, *later] == list(range(1, len(calls) + len(later) + 1))
    assert not (finished and later)
