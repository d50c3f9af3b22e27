"""Stage two's transforms: each step, slicing by rank, determinism."""

import pytest
import torch
import torchvision.transforms.functional as TF

from multicrop.augment import shift
from multicrop.augment.evaluation import EvalTransform
from multicrop.supervised.augmentation import TrainTransform

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
IMAGES = torch.randint(256, (48, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_shift_is_flip_then_padded_crop():
    draws = shift.draw(48, 4, 0.5, generator())
    shifted = shift.apply(IMAGES, draws, 4)
    for i in range(48):
        image = TF.hflip(IMAGES[i]) if draws.flipped[i] else IMAGES[i]
        row, column = draws.start[i].tolist()
        assert torch.equal(shifted[i], TF.crop(TF.pad(image, 4), row, column, 32, 32))


def test_shift_draws_are_uniform():
    draws = shift.draw(20_000, 4, 0.5, generator())
    for axis in (0, 1):
        share = torch.bincount(draws.start[:, axis]) / 20_000
        assert len(share) == 9 and (share - 1 / 9).abs().max() < 0.01
    assert abs(draws.flipped.double().mean() - 0.5) < 0.02
    assert not shift.draw(100, 4, 0.0, generator()).flipped.any()


def test_all_off_is_evaluation():
    plain = TrainTransform(32, MEAN, STD, flip=0.0, padding=0, policy=None, erase=None)
    assert torch.equal(plain(IMAGES, plain.draw(48, generator())), EvalTransform(32, MEAN, STD)(IMAGES))


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_together_see_what_one_would(ranks):
    transform = TrainTransform(32, MEAN, STD)
    draws = transform.draw(48, generator())
    whole = transform(IMAGES, draws)
    share = 48 // ranks
    parts = [slice(rank * share, (rank + 1) * share) for rank in range(ranks)]
    assert torch.equal(whole, torch.cat([transform(IMAGES[part], draws[part]) for part in parts]))


def test_the_draw_is_a_function_of_the_generator():
    transform = TrainTransform(32, MEAN, STD)
    first, again, other = (transform(IMAGES, transform.draw(48, generator(seed))) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_erased_boxes_hold_the_fill():
    transform = TrainTransform(32, MEAN, STD, flip=0.0, padding=0, policy=None, fill=MEAN)
    draws = transform.draw(48, generator())
    changed = transform(IMAGES, draws) != EvalTransform(32, MEAN, STD)(IMAGES)
    assert changed.any() and changed.any((1, 2, 3)).sum() == (draws.boxes[:, 2] > 0).sum()
    filled = transform(IMAGES, draws).movedim(1, 3)[changed.any(1)]
    assert torch.equal(filled, torch.tensor(MEAN).expand_as(filled))


@pytest.mark.cuda
def test_cuda_gives_what_the_cpu_gives():
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    transform = TrainTransform(32, MEAN, STD, policy="imagenet")
    draws = transform.draw(48, generator())
    assert torch.allclose(transform(IMAGES.cuda(), draws).cpu(), transform(IMAGES, draws), atol=1e-6)
