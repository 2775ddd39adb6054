"""CutMix and MixUp: what a label says is what the pixels show."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from loupe.augment import sample_rng
from loupe.errors import InputError
from loupe.mixing import mix_batch, mixes
from loupe.settings import Mixing

FEW = settings(max_examples=50, deadline=None)
CUT, MIX = Mixing(cutmix=1), Mixing(mixup=1)
SEEDS = st.integers(0, 2**31)


def plain_images(number, height, width, channels=3):
    """Images of one colour each: image k has the value k everywhere."""
    values = torch.arange(number, dtype=torch.uint8).reshape(number, 1, 1, 1)
    return values.expand(number, height, width, channels).contiguous()


def random_images(number, height=5, width=4, channels=3):
    made = torch.Generator().manual_seed(number)
    shape = (number, height, width, channels)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=made)


def mix(images, mixing, seed, weights=None):
    """Mix images whose target is their own number: a row of targets is the shares."""
    rng = sample_rng(seed, 0, "mix/0")
    return mix_batch(images, torch.eye(len(images)), weights, mixing, rng)


def count_shares(images):
    """Count the share of pixels of each colour in each of the images."""
    flat = images.reshape(len(images), -1)
    return torch.stack([(flat == k).float().mean(dim=1) for k in range(len(images))], dim=1)


def draw_shares(mixing, *, count, height=1, width=1):
    """Draw the share that images keep, many times over."""
    shares = []
    for step in range(count):
        rng = sample_rng(11, 0, f"mix/{step}")
        targets = mix_batch(plain_images(3, height, width), torch.eye(3), None, mixing, rng).targets
        kept = targets.diagonal()[targets.diagonal() != 1]
        shares += kept[:1].tolist()
    return np.array(shares)


@FEW
@given(
    st.integers(2, 7), st.integers(1, 23), st.integers(1, 23), st.sampled_from([0.1, 1, 9]), SEEDS
)
def test_cutmix_labels_are_the_shares_of_pixels(number, height, width, alpha, seed):
    images = plain_images(number, height, width)
    weights = torch.linspace(0.5, 2, number)
    plain = mix(images, Mixing(cutmix=1, cutmix_alpha=alpha), seed)
    made = mix(images, Mixing(cutmix=1, cutmix_alpha=alpha), seed, weights)
    shares = count_shares(made.images)
    np.testing.assert_allclose(plain.targets, shares, atol=1e-6, rtol=0)
    np.testing.assert_allclose(made.weights, shares @ weights, atol=1e-6, rtol=0)
    # The weighted loss of the mixture is the mixture of the weighted losses.
    weighted = made.targets * made.weights[:, None]
    np.testing.assert_allclose(weighted, shares * weights, atol=1e-6, rtol=0)
    assert made.images.dtype == torch.uint8
    assert made.targets.dtype == made.weights.dtype == torch.float32


@FEW
@given(st.integers(2, 6), SEEDS)
def test_cutmix_moves_nothing_and_takes_one_box_for_all(number, seed):
    images = random_images(number, 9, 7)
    boxes = mix(plain_images(number, 9, 7), CUT, seed).images[..., 0]
    made = mix(images, CUT, seed).images
    height, width = torch.meshgrid(torch.arange(9), torch.arange(7), indexing="ij")
    # The plain images say for each pixel whose image it is; it stays where it was.
    np.testing.assert_allclose(made, images[boxes.long(), height, width])
    foreign = boxes != torch.arange(number).reshape(-1, 1, 1)
    moved = foreign[foreign.any(dim=(1, 2))]
    assert (moved == moved[:1]).all()
    for box in moved[:1]:
        rows, columns = box.any(dim=1), box.any(dim=0)
        assert torch.equal(box, rows[:, None] & columns)
        assert all(int(torch.diff(side.int()).abs().sum()) <= 2 for side in (rows, columns))


@FEW
@given(st.integers(2, 6), st.sampled_from([1, 3]), SEEDS)
def test_mixup_averages_pixels_targets_and_weights_alike(number, channels, seed):
    images, weights = random_images(number, channels=channels), torch.linspace(0.5, 2, number)
    shares = mix(images, Mixing(mixup=1, mixup_alpha=1), seed).targets
    made = mix(images, Mixing(mixup=1, mixup_alpha=1), seed, weights)
    expected = torch.einsum("bk,khwc->bhwc", shares, images.float())
    np.testing.assert_allclose(made.images, expected, atol=1e-4, rtol=0)
    np.testing.assert_allclose(made.weights, shares @ weights, atol=1e-6, rtol=0)
    weighted = made.targets * made.weights[:, None]
    np.testing.assert_allclose(weighted, shares * weights, atol=1e-6, rtol=0)
    assert made.images.dtype == torch.float32
    assert made.images.min() >= 0
    assert made.images.max() <= 255


@FEW
@given(st.sampled_from([CUT, MIX]), st.integers(2, 7), SEEDS)
def test_every_image_is_the_partner_of_one(mixing, number, seed):
    targets = mix(plain_images(number, 6, 6), mixing, seed).targets
    np.testing.assert_allclose(targets.sum(dim=0), torch.ones(number), rtol=1e-6)
    np.testing.assert_allclose(targets.sum(dim=1), torch.ones(number), rtol=1e-6)
    assert ((targets > 0).sum(dim=1) <= 2).all()


@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_mixup_shares_are_beta_distributed(alpha):
    shares = draw_shares(Mixing(mixup=1, mixup_alpha=alpha), count=1000)
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(shares.mean() - 0.5) < 4 * math.sqrt(variance / len(shares))
    assert shares.var() == pytest.approx(variance, rel=0.15)
    # Shares that round to 1 are missing, which is far below what the test resolves.
    assert stats.kstest(shares, stats.beta(alpha, alpha).cdf).pvalue > 0.001


@pytest.mark.parametrize("alpha", [0.3, 1.0, 1e6])
def test_cutmix_boxes_are_as_large_as_the_definition_says(alpha):
    # A box of side r (image 1) about a uniform point has, clipped, the mean side
    # r - r^2 / 4; so given r the mean area is r^2 - r^3 / 2 + r^4 / 16; r^2 is Beta.
    def moment(power):
        parts = (alpha + power, 2 * alpha, alpha, 2 * alpha + power)
        a, b, c, d = (math.lgamma(part) for part in parts)
        return math.exp(a + b - c - d)

    expected = moment(1) - moment(1.5) / 2 + moment(2) / 16
    # Of eight images one at least has another as its partner.
    images, targets = plain_images(8, 40, 60, 1), torch.eye(8)
    own = torch.arange(8).reshape(8, 1, 1)
    areas = []
    for step in range(1000):
        mixing = Mixing(cutmix=1, cutmix_alpha=alpha)
        made = mix_batch(images, targets, None, mixing, rng_of(step)).images[..., 0]
        areas.append((made != own).float().mean(dim=(1, 2)).max().item())
    spread = np.std(areas) / math.sqrt(len(areas))
    assert abs(np.mean(areas) - expected) < 4 * spread + 1e-3


def rng_of(step):
    return sample_rng(7, 0, f"mix/{step}")


def test_cutmix_boxes_have_the_shape_of_the_image_and_lie_anywhere():
    images, mixing = plain_images(2, 40, 20, 1), Mixing(cutmix=1, cutmix_alpha=1e6)
    made = [
        mix_batch(images, torch.eye(2), None, mixing, rng_of(step)).images[0, :, :, 0]
        for step in range(1200)
    ]
    boxes = torch.stack([one == 1 for one in made if one.any()])
    rows, columns = boxes.any(dim=2), boxes.any(dim=1)
    # lambda is 1/2: whole boxes have sides of sqrt(1/2) = 0.707, 28.28 and 14.14 pixels.
    assert int(rows.sum(dim=1).max()) in {28, 29}
    assert int(columns.sum(dim=1).max()) in {14, 15}
    # A side of h about a uniform point reaches an end if the point is within h / 2 + 1/2.
    for side, length in [(rows, 40), (columns, 20)]:
        chance = (length * math.sqrt(0.5) / 2 + 0.5) / length
        deviation = math.sqrt(chance * (1 - chance) / len(boxes))
        for end in (side[:, 0], side[:, -1]):
            assert abs(end.float().mean().item() - chance) < 4 * deviation


def name_kind(made, images):
    if made.images is images:
        return "none"
    return "mixup" if made.images.is_floating_point() else "cutmix"


def test_one_draw_decides_between_none_cutmix_and_mixup():
    images, mixing, count = plain_images(2, 3, 3), Mixing(cutmix=0.2, mixup=0.5), 2000
    kinds = [
        name_kind(mix_batch(images, torch.eye(2), None, mixing, rng_of(step)), images)
        for step in range(count)
    ]
    for kind, expected in {"cutmix": 0.2, "mixup": 0.5, "none": 0.3}.items():
        deviation = math.sqrt(expected * (1 - expected) / count)
        assert abs(kinds.count(kind) / count - expected) < 4 * deviation


@pytest.mark.parametrize(
    ("mixing", "kinds"),
    [
        (Mixing(), {"none"}),
        (CUT, {"cutmix"}),
        (MIX, {"mixup"}),
        (Mixing(cutmix=0.4, mixup=0.6), {"cutmix", "mixup"}),
    ],
)
def test_probabilities_of_zero_and_one_are_kept(mixing, kinds):
    images = plain_images(2, 3, 3)
    made = [mix_batch(images, torch.eye(2), None, mixing, rng_of(step)) for step in range(200)]
    assert {name_kind(one, images) for one in made} == kinds


@pytest.mark.parametrize("mixing", [CUT, MIX])
def test_a_batch_of_one_is_left_alone(mixing):
    images, targets, weights = plain_images(1, 3, 3), torch.eye(1), torch.ones(1)
    made = mix_batch(images, targets, weights, mixing, rng_of(0))
    assert made.images is images
    assert made.targets is targets
    assert made.weights is weights


@pytest.mark.parametrize("mixing", [CUT, MIX])
def test_nothing_given_is_written_to_and_no_global_state_is_used(mixing):
    images, targets, weights = random_images(4), torch.eye(4), torch.linspace(0, 2, 4)
    kept = images.clone(), targets.clone(), weights.clone()
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002 (asks only)
    for step in range(20):
        mix_batch(images, targets, weights, mixing, rng_of(step))
    for before, after in zip(kept, (images, targets, weights), strict=True):
        assert torch.equal(before, after)
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()  # noqa: NPY002


@pytest.mark.parametrize("mixing", [CUT, MIX])
def test_equal_random_numbers_give_equal_batches(mixing):
    images = random_images(6)
    first, second = mix(images, mixing, 4), mix(images, mixing, 4)
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.targets, second.targets)
    assert first.weights is second.weights is None
    others = [mix(images, mixing, seed).targets for seed in range(5, 15)]
    assert not all(torch.equal(first.targets, other) for other in others)


@pytest.mark.parametrize("mixing", [CUT, MIX])
def test_channels_stay_last_in_memory(mixing):
    assert mix(random_images(3), mixing, 1).images.is_contiguous()


def test_targets_of_columns_on_their_own_are_mixed_too():
    targets = torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    images = plain_images(3, 8, 8)
    shares = mix(images, CUT, 3).targets
    made = mix_batch(images, targets, None, CUT, sample_rng(3, 0, "mix/0"))
    np.testing.assert_allclose(made.targets, shares @ targets, atol=1e-6)
    assert not torch.equal(made.targets, targets)


@given(
    st.integers(0, 5), st.integers(0, 5), st.integers(1, 8), st.sampled_from(["cutmix", "mixup"])
)
def test_epochs_at_start_and_end_are_spared(first, last, epochs, kind):
    mixing = Mixing.model_validate({kind: 0.3, "skip_first": first, "skip_last": last})
    mixed = [epoch for epoch in range(epochs) if mixes(mixing, epoch=epoch, epochs=epochs)]
    assert mixed == list(range(epochs))[first : max(0, epochs - last)]


def test_no_epoch_mixes_at_probability_zero():
    assert not any(mixes(Mixing(), epoch=epoch, epochs=4) for epoch in range(4))


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(2, 4, 4, 3),
        torch.zeros(2, 3, 4, 4, dtype=torch.uint8),
        torch.zeros(4, 4, 3, dtype=torch.uint8),
    ],
)
def test_images_of_another_form_are_refused(images):
    with pytest.raises(InputError, match=r"expected \(B, H, W, 1\) or \(B, H, W, 3\) of uint8"):
        mix_batch(images, torch.eye(2), None, CUT, rng_of(0))
