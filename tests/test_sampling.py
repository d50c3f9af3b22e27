"""Orders of images against the indices that the published repeated-augmentation sampler gave."""

import json
import re

import numpy as np
import pytest
import torch
from conftest import GOLDEN

from multicrop.engine.batches import Batches
from multicrop.engine.sampling import repeated, shuffled

RECORDED = np.load(GOLDEN / "dhvt" / "recipe_numbers.npz")
STAGE_TWO = np.load(GOLDEN / "two_stage_ssl" / "finetune_misc.npz")
CASES = [name for name in RECORDED.files if re.fullmatch(r"ra/n\d+_w\d_r\d_e\d", name)]


def published_part(order: torch.Tensor, rank: int, world: int) -> torch.Tensor:
    """What the published sampler gives one rank of `repeated`: every world-th entry of the first N // 256 * 256.

    engine/batches.py cuts each global batch into one piece per rank instead. The images of a global batch are the
    same in both; here the repeats of an image meet on one rank, there they are spread over the ranks.
    """
    return order[rank::world][: len(order) // 256 * 256 // world]


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
            options = {
                "seed": 0,
                "device": torch.device("cpu"),
                "rank": rank,
                "world": world,
                "order": order,
            }
            (batch,) = Batches(pixels, None, size, **options).step(step)
            ours += batch.images.flatten().tolist()
            published += published_part(order(0), rank, world)[step * size :][:size].tolist()
        assert sorted(ours) == sorted(published) and len(ours) == 32


def draw_as_published(monkeypatch, shuffle: bool = True) -> None:
    """Let every shuffle come from NumPy's generator as it was seeded for the recordings of stage two's sampler."""
    random = np.random.RandomState(71)

    def permutation(n: int, generator) -> torch.Tensor:
        return torch.from_numpy(random.permutation(n)) if shuffle else torch.arange(n)

    monkeypatch.setattr(torch, "randperm", permutation)


def test_an_epoch_of_stage_two_is_the_published_three_shuffles_cut_into_batches(monkeypatch):
    """Across the seams of the shuffles; the batch that is left over is dropped."""
    draw_as_published(monkeypatch)
    pixels = torch.arange(11).view(-1, 1, 1, 1)
    batches = Batches(pixels, None, 4, seed=0, device=torch.device("cpu"), passes=3)
    assert batches.steps_per_epoch == STAGE_TWO["ra_finetune_len"]
    for epoch in (0, 1):
        steps = range(8 * epoch, 8 * epoch + 8)
        found = [batch.images.flatten().tolist() for step in steps for batch in batches.step(step)]
        assert found == json.loads(str(STAGE_TWO[f"ra_finetune_epoch{epoch}"]))


@pytest.mark.parametrize(("name", "repeats"), [("true_repeat", 3), ("noshuffle", 2)])
def test_repeats_begin_as_in_the_published_sampler_of_stage_two(monkeypatch, name, repeats):
    """Which stage two does not use. There an epoch is as many times longer; ours ends after as many as there are."""
    draw_as_published(monkeypatch, shuffle=name == "true_repeat")
    for epoch in (0, 1):
        recorded = np.concatenate(json.loads(str(STAGE_TWO[f"ra_{name}_epoch{epoch}"])))
        assert repeated(11, 0, epoch, repeats).tolist() == recorded[:11].tolist()
