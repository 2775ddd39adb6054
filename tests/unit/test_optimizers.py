import math

import numpy as np
import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from loupe.choices import Adam, AdamW, RAdam, Sgd
from loupe.errors import RecipeError
from loupe.images import InputSpec
from loupe.networks import Classifier
from loupe.optimizers import build_optimizer, clip_gradients, set_rate
from loupe.settings import Head

SPEC = InputSpec(height=32, width=32)
KINDS = [AdamW(), Adam(), RAdam(), Sgd()]


def build(name="test_resnet", **head):
    backbone = timm.create_model(name, num_classes=0, pretrained=False)
    return Classifier(backbone, backbone.num_features, 3, SPEC, Head(**head))


def tiny():
    """Two weights that are decayed (the kernel), one that is not (the bias)."""
    network = Classifier(nn.Identity(), 2, 1, SPEC, Head())
    with torch.no_grad():
        network.head.weight.copy_(torch.tensor([[1.0, -2.0]]))
        network.head.bias.fill_(0.5)
    return network


def look_up(optimizer, key):
    """The group's value of each parameter, by its id."""
    return {id(p): group[key] for group in optimizer.param_groups for p in group["params"]}


def by_name(network, optimizer, key):
    found = look_up(optimizer, key)
    return {name: found[id(p)] for name, p in network.named_parameters() if id(p) in found}


GRADIENTS = np.random.default_rng(0).normal(size=(12, 3)) * 0.01


def walk(settings, lr=0.01):
    """The weights (two of the kernel, the bias) after each of 12 steps."""
    network = tiny()
    optimizer = build_optimizer(settings, network, lr=lr)
    found = []
    for gradient in torch.tensor(GRADIENTS, dtype=torch.float32):
        network.head.weight.grad = gradient[:2].reshape(1, 2).clone()
        network.head.bias.grad = gradient[2:].clone()
        optimizer.step()
        found.append([*network.head.weight.detach()[0].tolist(), network.head.bias.item()])
    return np.array(found)


def moments(gradient, mean, square, betas):
    return (
        betas[0] * mean + (1 - betas[0]) * gradient,
        betas[1] * square + (1 - betas[1]) * gradient**2,
    )


def walk_by_definition(step, *, l2=0.0, decoupled=0.0, lr=0.01, betas=(0.9, 0.999)):
    """The same, where `step` maps (t, m, v, gradient) to what is taken off per rate."""
    weights, mean, square = np.array([1.0, -2.0, 0.5]), np.zeros(3), np.zeros(3)
    spared, found = np.array([1.0, 1.0, 0.0]), []
    for t, given in enumerate(GRADIENTS, start=1):
        gradient = given + l2 * spared * weights
        weights = weights * (1 - lr * decoupled * spared)
        mean, square = moments(gradient, mean, square, betas)
        weights = weights - lr * step(t, mean, square, gradient)
        found.append(weights)
    return np.array(found)


def adam_step(epsilon, betas=(0.9, 0.999)):
    """Kingma & Ba, Algorithm 1."""

    def step(t, mean, square, gradient):
        root = np.sqrt(square / (1 - betas[1] ** t))
        return mean / (1 - betas[0] ** t) / (root + epsilon)

    return step


def radam_step(epsilon, *, tractable=4.0, betas=(0.9, 0.999)):
    """Liu et al., Algorithm 2, with the epsilon that it leaves out at the raw root."""

    def step(t, mean, square, gradient):
        longest = 2 / (1 - betas[1]) - 1
        length = longest - 2 * t * betas[1] ** t / (1 - betas[1] ** t)
        corrected = mean / (1 - betas[0] ** t)
        if length <= tractable:
            return corrected
        adaptive = math.sqrt(1 - betas[1] ** t) / (np.sqrt(square) + epsilon)
        above, below = (length - 4) * (length - 2), (longest - 4) * (longest - 2)
        return corrected * adaptive * math.sqrt(above * longest / (below * length))

    return step


def test_adam_steps_as_in_the_paper():
    settings = Adam(epsilon=1e-3, betas=(0.8, 0.99), weight_decay=0.1)
    expected = walk_by_definition(adam_step(1e-3, (0.8, 0.99)), l2=0.1, betas=(0.8, 0.99))
    np.testing.assert_allclose(walk(settings), expected, atol=1e-6)


def test_adamw_decays_beside_the_gradient():
    expected = walk_by_definition(adam_step(1e-8), decoupled=0.3)
    np.testing.assert_allclose(walk(AdamW(weight_decay=0.3)), expected, atol=1e-6)
    within = walk_by_definition(adam_step(1e-8), l2=0.3)
    assert np.abs(within - expected).max() > 1e-3


def test_keras_adds_epsilon_to_the_raw_root():
    # Keras: p -= lr sqrt(1 - b2^t) / (1 - b1^t) x m / (sqrt(v) + epsilon).
    def keras(t, mean, square, gradient):
        scale = math.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        return scale * mean / (np.sqrt(square) + 1e-3)

    def ours_in_their_terms(t, mean, square, gradient):
        return adam_step(1e-3 / math.sqrt(1 - 0.999**t))(t, mean, square, gradient)

    theirs = walk_by_definition(keras)
    np.testing.assert_allclose(walk_by_definition(ours_in_their_terms), theirs, rtol=1e-12)
    assert 1 / math.sqrt(1 - 0.999) == pytest.approx(31.6, abs=0.05)
    assert 1 / math.sqrt(1 - 0.999**1000) == pytest.approx(1.26, abs=0.005)
    # Theirs starts with smaller steps where epsilon is large.
    start = np.array([1.0, -2.0, 0.5])
    mine = walk(Adam(epsilon=1e-3))
    assert (np.abs(theirs[0] - start) < 0.8 * np.abs(mine[0] - start)).all()


def test_radam_is_plain_momentum_at_first_and_rectified_from_step_6_on():
    found = walk(RAdam())
    paper = walk_by_definition(radam_step(1e-8))
    np.testing.assert_allclose(found[:4], paper[:4], atol=1e-6)
    momentum = walk_by_definition(lambda t, mean, *_: mean / (1 - 0.9**t))
    np.testing.assert_allclose(found[:5], momentum[:5], atol=1e-6)
    # The paper starts one step earlier; the steps themselves are the same from then on.
    assert np.abs(np.diff(paper, axis=0)[3] - np.diff(found, axis=0)[3]).max() > 1e-5
    np.testing.assert_allclose(np.diff(found, axis=0)[4:], np.diff(paper, axis=0)[4:], atol=1e-6)
    authors = walk_by_definition(radam_step(1e-8, tractable=5.0))
    np.testing.assert_allclose(found, authors, atol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_steps_by_definition(nesterov):
    weights, speed, expected = np.array([1.0, -2.0, 0.5]), np.zeros(3), []
    for given in GRADIENTS:
        gradient = given + 0.1 * np.array([1.0, 1.0, 0.0]) * weights
        speed = 0.9 * speed + gradient
        weights = weights - 0.01 * (gradient + 0.9 * speed if nesterov else speed)
        expected.append(weights)
    found = walk(Sgd(weight_decay=0.1, nesterov=nesterov))
    np.testing.assert_allclose(found, np.array(expected), atol=1e-6)


@pytest.mark.parametrize("settings", KINDS, ids=lambda kind: kind.name)
def test_memory_order_changes_no_step(settings):
    torch.manual_seed(0)
    images = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    found = []
    for order in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(1)
        network = build().eval().to(memory_format=order)
        optimizer = build_optimizer(settings, network, lr=1e-3)
        for _ in range(2):
            optimizer.zero_grad()
            network(images).square().sum().backward()
            optimizer.step()
        found.append(network.state_dict())
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], atol=1e-4, rtol=1e-4, msg=name)


def test_only_what_asks_for_gradients_is_moved():
    network = build()
    network.backbone.requires_grad_(requires_grad=False)
    optimizer = build_optimizer(AdamW(), network, lr=1e-3)
    assert look_up(optimizer, "factor").keys() == {id(p) for p in network.head.parameters()}


def test_biases_norms_and_position_embeddings_are_not_decayed():
    network = build("test_vit")
    optimizer = build_optimizer(AdamW(weight_decay=0.02), network, lr=1e-3)
    decays = by_name(network, optimizer, "weight_decay")
    assert decays.keys() == dict(network.named_parameters()).keys()
    for name, parameter in network.named_parameters():
        spared = parameter.ndim <= 1 or name in {"backbone.pos_embed", "backbone.cls_token"}
        assert decays[name] == (0.0 if spared else 0.02), name
    assert decays["backbone.pos_embed"] == decays["head.bias"] == 0.0
    assert decays["head.weight"] == 0.02


def test_names_that_timm_spares_by_a_pattern_are_not_decayed():
    network = tiny()
    network.backbone = nn.ModuleDict({"pos_embed": nn.Linear(2, 2), "rest": nn.Linear(2, 2)})
    network.backbone.no_weight_decay = lambda: {"pos_embed.*"}
    decays = by_name(
        network, build_optimizer(AdamW(weight_decay=0.5), network, lr=1.0), "weight_decay"
    )
    assert decays["backbone.pos_embed.weight"] == 0.0
    assert decays["backbone.rest.weight"] == decays["head.weight"] == 0.5


def test_the_factor_is_for_all_that_comes_after_the_backbone():
    network = build(widths=(8,), batch_norm=True)
    optimizer = build_optimizer(Adam(), network, lr=1e-3, head_lr_factor=10)
    after = {name: not name.startswith("backbone.") for name, _ in network.named_parameters()}
    assert sum(after.values()) == 6
    assert by_name(network, optimizer, "factor") == {n: 10 if a else 1 for n, a in after.items()}
    rates = by_name(network, optimizer, "lr")
    assert rates == pytest.approx({name: 1e-2 if a else 1e-3 for name, a in after.items()})


def test_layer_decay_is_counted_from_the_head():
    network = build("test_vit")
    groups = build_optimizer(AdamW(), network, lr=1.0, layer_decay=0.5, head_lr_factor=3)
    found = by_name(network, groups, "factor")
    blocks = len(network.backbone.blocks)
    assert found["head.weight"] == 3
    assert found["backbone.norm.weight"] == 0.5  # of the last block's group
    for block in range(blocks):
        assert found[f"backbone.blocks.{block}.mlp.fc1.weight"] == 0.5 ** (blocks - block)
    assert found["backbone.pos_embed"] == 0.5 ** (blocks + 1)


@pytest.mark.parametrize(
    "name", ["test_vit", "test_resnet", "test_efficientnet", "test_convnext", "test_byobnet"]
)
def test_layer_decay_is_that_of_timm_for_the_whole_network(name):
    whole = timm.create_model(name, num_classes=3, pretrained=False)
    names = {id(parameter): name for name, parameter in whole.named_parameters()}
    expected = {
        f"backbone.{names[id(parameter)]}": group["lr_scale"]
        for group in param_groups_layer_decay(whole, layer_decay=0.7)
        for parameter in group["params"]
    }
    network = build(name)
    found = by_name(network, build_optimizer(Sgd(), network, lr=1.0, layer_decay=0.7), "factor")
    inside = {name: factor for name, factor in found.items() if name.startswith("backbone.")}
    assert len(set(inside.values())) > 2
    assert inside == pytest.approx({name: expected[name] for name in inside})


def test_layer_decay_needs_layer_groups():
    network = tiny()
    assert len(build_optimizer(AdamW(), network, lr=1.0).param_groups) == 2
    with pytest.raises(RecipeError, match=r"no layer groups for this network \(Identity\)"):
        build_optimizer(AdamW(), network, lr=1.0, layer_decay=0.9)


def test_every_rate_is_its_multiple_of_the_stages():
    network = tiny()
    network.backbone = nn.Linear(2, 2)
    settings = Adam(lr_decay=1e-2)
    optimizer = build_optimizer(settings, network, lr=1.0, head_lr_factor=4)
    set_rate(optimizer, settings, 0.3, step=0)
    rates = by_name(network, optimizer, "lr")
    assert rates["backbone.weight"] == 0.3
    assert rates["head.weight"] == 1.2
    set_rate(optimizer, settings, 0.3, step=50)
    rates = by_name(network, optimizer, "lr")
    assert rates["backbone.bias"] == pytest.approx(0.2)
    assert rates["head.bias"] == pytest.approx(0.8)


def with_gradients(*gradients):
    parameters = [nn.Parameter(torch.zeros(len(gradient))) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = torch.tensor(gradient)
    return parameters


def clip(gradients, **limits):
    parameters = with_gradients(*gradients)
    clip_gradients(Adam(**{"clip_norm": None} | limits), iter(parameters))
    return [parameter.grad.tolist() for parameter in parameters]


GIVEN = [[3.0, -4.0], [0.0, 0.5], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, GIVEN),
        ({"clip_value": 1.0}, [[1.0, -1.0], [0.0, 0.5], [0.0, 0.0]]),
        ({"clip_norm_each": 1.0}, [[0.6, -0.8], [0.0, 0.5], [0.0, 0.0]]),
        ({"clip_norm_each": 0.1}, [[0.06, -0.08], [0.0, 0.1], [0.0, 0.0]]),
        # The whole has norm sqrt(25.25).
        ({"clip_norm": 25.25**0.5 / 2}, [[1.5, -2.0], [0.0, 0.25], [0.0, 0.0]]),
        ({"clip_norm": 6.0}, GIVEN),
        # Values first: (1, -1) has norm sqrt(2); then each tensor; then all, of norm 1.25^0.5.
        (
            {"clip_value": 1.0, "clip_norm_each": 1.0, "clip_norm": 1.25**0.5 / 5},
            [[0.5**0.5 / 5, -(0.5**0.5) / 5], [0.0, 0.1], [0.0, 0.0]],
        ),
    ],
)
def test_gradients_are_clipped_by_definition(limits, expected):
    found = clip(GIVEN, **limits)
    assert [pytest.approx(row, rel=1e-5) for row in expected] == found


def test_a_gradient_within_the_limit_keeps_every_bit():
    gradients = np.random.default_rng(1).normal(size=(20, 5)).astype(np.float32)
    gradients /= 1.001 * np.linalg.norm(gradients, axis=1, keepdims=True)
    assert clip(gradients.tolist(), clip_norm_each=1.0) == gradients.tolist()
    assert clip(gradients.tolist(), clip_norm_each=0.3) != gradients.tolist()


def test_parameters_without_a_gradient_are_passed_over():
    bare = nn.Parameter(torch.ones(2))
    settings = Adam(clip_norm=1.0, clip_norm_each=1.0, clip_value=1.0)
    clip_gradients(settings, [bare])
    other = with_gradients([3.0, 4.0])[0]
    clip_gradients(Adam(clip_norm=None, clip_norm_each=1.0), [bare, other])
    assert bare.grad is None
    assert other.grad is not None
    assert other.grad.tolist() == pytest.approx([0.6, 0.8])


def test_epsilon_hat_is_keras_adam():
    settings = Adam(lr=1e-3, epsilon=1e-3, epsilon_hat=True)
    network = torch.nn.Linear(3, 2, bias=False).double()
    with torch.no_grad():
        network.weight.copy_(torch.arange(6.0).reshape(2, 3))
    optimizer = torch.optim.Adam(
        [{"params": [network.weight], "factor": 1.0}], 1e-3, eps=1e-3, fused=True
    )
    rng = np.random.default_rng(0)
    weight, m, v = np.arange(6.0).reshape(2, 3), 0.0, 0.0
    for step in range(6):
        gradient = rng.normal(size=(2, 3)) * 1e-2
        network.weight.grad = torch.from_numpy(gradient.copy())
        set_rate(optimizer, settings, 1e-3, step=step)
        optimizer.step()
        t = step + 1
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        rate = 1e-3 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        weight -= rate * m / (np.sqrt(v) + 1e-3)
        np.testing.assert_allclose(network.weight.detach().numpy(), weight, rtol=1e-9)


def test_epsilon_is_each_groups_hat_only_where_it_is_asked_for():
    for hat, expected in ((False, 1e-3), (True, 1e-3 / math.sqrt(1 - 0.99**8))):
        settings = Adam(epsilon=1e-3, betas=(0.9, 0.99), epsilon_hat=hat, weight_decay=0.1)
        optimizer = build_optimizer(settings, tiny(), lr=0.1)
        set_rate(optimizer, settings, 0.1, step=7)
        found = [group["eps"] for group in optimizer.param_groups]
        assert found == pytest.approx([expected] * 2, rel=1e-12)
