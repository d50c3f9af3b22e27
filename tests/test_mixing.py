"""CutMix and MixUp: what a draw can be, and what it does to a batch."""

import pytest
import torch

from multicrop.supervised import mixing
from multicrop.supervised.mixing import Mix, Mixing

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
        shares = torch.tensor([mix.share for mix in draws(4000, cutmix=None, mixup=alpha, probability=1.0)])
        assert abs(shares.mean() - 0.5) < 0.03
        assert abs(shares.var() - 1 / (4 * (2 * alpha + 1))) < 0.01


def test_cutmix_share_is_the_area_that_stays():
    for mix in draws(300, mixup=None, probability=1.0):
        mixed = mixing.apply(IMAGES, LABELS, mix)
        own = (mixed.images == IMAGES).double().mean((1, 2, 3))
        assert torch.allclose(own, torch.full((6,), mix.share, dtype=torch.float64))


def test_mixup_weighs_image_and_partner():
    mixed = mixing.apply(IMAGES, LABELS, Mix(0.75))
    assert torch.allclose(mixed.images[:, 0, 0, 0], torch.tensor([0.25, 0.75, 2.25, 2.75, 4.25, 4.75]))
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
