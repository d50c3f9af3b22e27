"""Orders of images against the indices that the published repeated-augmentation sampler gave."""

import re

import numpy as np
import pytest
import torch
from conftest import GOLDEN

from multicrop.batches import Batches
from multicrop.orders import published_part, repeated, shuffled

RECORDED = np.load(GOLDEN / "dhvt" / "recipe_numbers.npz")
CASES = [name for name in RECORDED.files if re.fullmatch(r"ra/n\d+_w\d_r\d_e\d", name)]


@pytest.mark.parametrize("case", CASES)
def test_published_indices(case):
    images, world, rank, epoch = map(int, re.findall(r"\d+", case))
    own, recorded = published_part(repeated(images, None, epoch), rank, world), RECORDED[case]
    length = RECORDED[f"{case}_len"] if f"{case}_len" in RECORDED.files else len(recorded)
    assert len(own) == length
    np.testing.assert_array_equal(own[: len(recorded)], recorded)


def test_repeats_meet_in_a_row_and_a_third_of_the_images_is_seen():
    order = repeated(100, 0, 4)
    assert len(order) == 100 and len(order.unique()) == 34
    assert torch.equal(order[:99].view(33, 3), order[:99:3, None].expand(33, 3))


def test_orders_are_functions_of_seed_and_epoch():
    for draw in (shuffled, repeated):
        assert torch.equal(draw(50, 3, 7), draw(50, 3, 7))
        assert not torch.equal(draw(50, 3, 7), draw(50, 3, 8))
        assert not torch.equal(draw(50, 3, 7), draw(50, 4, 7))


@pytest.mark.parametrize("world", [1, 2, 4])
def test_a_global_batch_holds_the_published_images_on_any_number_of_ranks(world):
    """The published loader: each rank's part, cut into its batches of 32 / world images."""
    pixels = torch.arange(600).view(-1, 1, 1, 1)

    def order(epoch):
        return repeated(600, None, epoch)

    size = 32 // world
    for step in range(16):
        ours, published = [], []
        for rank in range(world):
            options = {"seed": 0, "device": torch.device("cpu"), "rank": rank, "world": world, "order": order}
            (batch,) = Batches(pixels, None, size, **options).step(step)
            ours += batch.images.flatten().tolist()
            published += published_part(order(0), rank, world)[step * size :][:size].tolist()
        assert sorted(ours) == sorted(published) and len(ours) == 32
