import pytest
import torch

from multicrop.engine.batches import Batches

CPU = torch.device("cpu")


def numbered(n: int) -> torch.Tensor:
    """Images that carry their number."""
    return torch.arange(n, dtype=torch.uint8).reshape(n, 1, 1, 1).expand(n, 3, 2, 2).contiguous()


def step_images(size, accumulate, world, step, images=48, **options) -> list[int]:
    """The global batch of a step, put together at each part's place."""
    total = size * accumulate * world
    found = torch.full((total,), -1)
    for rank in range(world):
        batches = Batches(
            numbered(images),
            None,
            size,
            seed=3,
            device=CPU,
            accumulate=accumulate,
            rank=rank,
            world=world,
            **options,
        )
        for batch in batches.step(step):
            found[batch.rank_slice] = batch.images[:, 0, 0, 0].long()
            assert torch.equal(batch.index, found[batch.rank_slice])
    return found.tolist()


@pytest.mark.parametrize("step", [0, 2, 5, 11])
def test_a_global_batch_is_the_same_however_it_is_spread(step):
    alone = step_images(8, 1, 1, step)
    assert (
        alone
        == step_images(4, 1, 2, step)
        == step_images(2, 4, 1, step)
        == step_images(2, 2, 2, step)
    )


def test_an_epoch_visits_each_image_once_and_epochs_differ():
    epochs = [
        [image for s in range(6) for image in step_images(8, 1, 1, 6 * e + s)] for e in range(2)
    ]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(48))
    assert epochs[0] != epochs[1]


def test_incomplete_batches_are_dropped():
    batches = Batches(numbered(50), None, 8, seed=0, device=CPU)
    assert batches.steps_per_epoch == 6


def test_passes_chain_shuffles():
    batches = Batches(numbered(10), None, 8, seed=0, device=CPU, passes=3)
    assert batches.steps_per_epoch == 3
    order = batches.order(0)
    assert len(order) == 30 and all(
        sorted(order[i : i + 10].tolist()) == list(range(10)) for i in (0, 10, 20)
    )


def test_an_order_of_ones_own_decides_the_images_and_the_length_of_an_epoch():
    subset = torch.tensor([5, 6, 7, 8])
    batches = Batches(
        numbered(10),
        None,
        3,
        seed=0,
        device=CPU,
        subset=subset,
        order=lambda epoch: torch.tensor([0, 0, 1, 3, 2, epoch]),
    )
    assert batches.steps_per_epoch == 2
    read = [
        [batch.images[:, 0, 0, 0].tolist() for batch in batches.step(step)] for step in range(4)
    ]
    assert read == [[[5, 5, 6]], [[8, 7, 5]], [[5, 5, 6]], [[8, 7, 6]]]


def test_labels_follow_their_images():
    batches = Batches(numbered(20), torch.arange(20), 4, seed=0, device=CPU)
    for batch in batches.step(2):
        assert batch.labels.tolist() == batch.images[:, 0, 0, 0].tolist()


def test_prefetched_batches_are_the_resident_ones(monkeypatch):
    resident = [step_images(2, 2, 1, step) for step in range(8)]
    monkeypatch.setattr("multicrop.engine.batches._fits", lambda *_: False)
    batches = Batches(numbered(48), None, 2, seed=3, device=CPU, accumulate=2)
    read = [
        [int(image[0, 0, 0]) for b in batches.step(step) for image in b.images] for step in range(8)
    ]
    assert read == resident


def test_a_batch_larger_than_the_set_says_what_fits():
    with pytest.raises(ValueError, match="lower the batch size to at most 10"):
        Batches(numbered(20), None, 16, seed=0, device=CPU, accumulate=2)
