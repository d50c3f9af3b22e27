"""CutMix and MixUp: what a draw can be, and what it does to a batch."""

import numpy as np
import pytest
import torch
from locality_guidance import training_pieces
from timm.data import Mixup

from multicrop.supervised import mixing
from multicrop.supervised.mixing import Mix, Mixing
from multicrop.supervised.objectives.cross_entropy import Objective

IMAGES = torch.arange(6.0)[:, None, None, None].expand(6, 3, 8, 10)
LABELS = torch.arange(6)


def draws(number, **options):
    generator = torch.Generator().manual_seed(0)
    return [Mixing(**options).draw(8, 10, generator) for _ in range(number)]


def test_half_the_batches_are_mixed_and_half_of_those_by_each_method():
    drawn = draws(4000)
    cut = sum(mix.box is not None for mix in drawn) / len(drawn)
    up = sum(mix.box is None and mix.share < 1 for mix in drawn) / len(drawn)
    assert abs(cut - 0.25) < 0.03 and abs(up - 0.25) < 0.03


def test_either_method_can_be_left_out():
    assert all(mix.box is None for mix in draws(200, cutmix=None))
    assert all(mix.box is not None or mix.share == 1 for mix in draws(200, mixup=None))
    assert all(mix == Mix() for mix in draws(200, cutmix=None, mixup=None))
    assert all(mix == Mix() for mix in draws(200, probability=0.0))


def test_mixup_share_follows_its_beta_distribution():
    for alpha in (1.0, 0.2):
        shares = torch.tensor(
            [mix.share for mix in draws(4000, cutmix=None, mixup=alpha, probability=1.0)]
        )
        assert abs(shares.mean() - 0.5) < 0.03
        assert abs(shares.var() - 1 / (4 * (2 * alpha + 1))) < 0.01


def test_cutmix_share_is_the_area_that_stays():
    for mix in draws(300, mixup=None, probability=1.0):
        mixed = mixing.apply(IMAGES, LABELS, mix)
        own = (mixed.images == IMAGES).double().mean((1, 2, 3))
        assert torch.allclose(own, torch.full((6,), mix.share, dtype=torch.float64))


def test_mixup_weighs_image_and_partner():
    mixed = mixing.apply(IMAGES, LABELS, Mix(0.75))
    assert torch.allclose(
        mixed.images[:, 0, 0, 0], torch.tensor([0.25, 0.75, 2.25, 2.75, 4.25, 4.75])
    )
    assert mixed.labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert mixed.partners.tolist() == [1, 0, 3, 2, 5, 4]


@pytest.mark.parametrize("mix", [Mix(0.75), Mix(0.75, (slice(0, 4), slice(0, 5)))])
def test_a_batch_cut_over_ranks_is_mixed_as_the_whole(mix):
    whole = mixing.apply(IMAGES, LABELS, mix)
    parts = [mixing.apply(IMAGES[rows], LABELS[rows], mix) for rows in (slice(0, 2), slice(2, 6))]
    assert torch.equal(whole.images, torch.cat([part.images for part in parts]))
    assert torch.equal(whole.partners, torch.cat([part.partners for part in parts]))


def test_the_last_of_an_odd_batch_stays_itself():
    mixed = mixing.apply(IMAGES[:5], LABELS[:5], Mix(0.6))
    assert torch.equal(mixed.images[4], IMAGES[4]) and mixed.partners[4] == 4


def test_no_mix_is_the_identity():
    mixed = mixing.apply(IMAGES, LABELS, Mix())
    assert mixed.images is IMAGES and mixed.share == 1


def test_the_draw_is_a_function_of_the_generator():
    assert draws(50) == draws(50)


def test_one_method_may_be_more_frequent():
    drawn = draws(2000, switch=0.8, probability=1.0)
    assert abs(sum(mix.box is not None for mix in drawn) / len(drawn) - 0.8) < 0.03


@pytest.mark.parametrize("copies", [1, 2, 3, 4, 5])
def test_copies_of_an_image_are_not_mixed_with_each_other(copies):
    mix = draws(1, probability=1.0, copies=copies)[0]
    batch = 8 * mix.distance
    image = torch.arange(batch) // copies
    partner = mixing.partners(batch, mix.distance)
    assert (image != image[partner]).all() and torch.equal(partner[partner], torch.arange(batch))
    part = mixing.partners(
        2 * mix.distance, mix.distance
    )  # a batch may be cut after each two groups
    assert torch.equal(part, partner[: 2 * mix.distance])


@pytest.fixture
def recorded(recordings):
    """From the code of locality guidance."""
    return training_pieces(recordings)


def one_by_one(recorded, kind, mix):
    """The recorded batch, each image beside the partner that it had."""
    images, labels = recorded["mix/inputs"], recorded["mix/labels"]
    partner = recorded[f"{kind}/permutation"].tolist()
    pairs = [mixing.apply(images[[i, p]], labels[[i, p]], mix) for i, p in enumerate(partner)]
    own, others = (
        torch.stack([getattr(pair, name)[0] for pair in pairs]) for name in ("labels", "partners")
    )
    eye = torch.eye(10)
    share = pairs[0].share
    return torch.stack([pair.images[0] for pair in pairs]), share * eye[own] + (1 - share) * eye[
        others
    ]


def test_mixup_and_cutmix_give_the_recorded_batches(recorded):
    centre = tuple(recorded["cutmix/centre_xy"].flip(0).tolist())
    cut = mixing.cutmix_box(recorded["cutmix/lambda_drawn"].item(), 16, 16, centre)
    for kind, mix in (("mixup", Mix(recorded["mixup/lambda_drawn"].item())), ("cutmix", cut)):
        images, targets = one_by_one(recorded, kind, mix)
        assert np.allclose(images, recorded[f"{kind}/inputs_out"], atol=1e-6)
        assert np.allclose(targets, recorded[f"{kind}/targets_out"], atol=1e-6)


def test_smoothed_cross_entropy_gives_the_recorded_loss_and_gradient(recorded):
    logits = recorded["ce/logits"].requires_grad_()
    loss = Objective(0.1)(logits, recorded["ce/labels"])
    loss.backward()
    assert loss.item() == pytest.approx(recorded["ce/loss"].item(), abs=1e-6)
    assert np.allclose(logits.grad, recorded["ce/grad"], atol=1e-6)


def test_shares_and_boxes_are_timms():
    """The distributions of the own share agree, box and clipping included (two-sample Kolmogorov-Smirnov)."""
    timm = Mixup(
        mixup_alpha=0.8, cutmix_alpha=1.0, switch_prob=0.5, label_smoothing=0.0, num_classes=10
    )
    images, labels = torch.zeros(2, 1, 32, 32), torch.tensor([0, 1])
    state = np.random.get_state()
    np.random.seed(0)
    theirs = np.sort([timm(images.clone(), labels)[1][0, 0].item() for _ in range(4000)])
    np.random.set_state(state)
    generator = torch.Generator().manual_seed(0)
    mix = Mixing(1.0, 0.8, probability=1.0)
    ours = np.sort([mix.draw(32, 32, generator).share for _ in range(4000)])
    grid = np.linspace(0, 1, 101)
    gap = np.abs(np.searchsorted(ours, grid) - np.searchsorted(theirs, grid)) / 4000
    assert gap.max() < 0.036  # 1 in 100 pairs of equal distributions are further apart
