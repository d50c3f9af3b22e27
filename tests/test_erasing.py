"""Random erasing against recorded images, and the distribution of its boxes."""

import random
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.data.random_erasing import RandomErasing

from multicrop.augment import erasing, noise
from multicrop.augment.erasing import Erasing

GOLDEN = Path(__file__).parent / "golden" / "two_stage_ssl" / "finetune_misc.npz"
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)


def published_box(seed, side=32):
    """The box that the published code draws one image at a time from Python's random numbers."""
    rng = random.Random(seed)
    rng.uniform(0, 1)  # whether to erase at all: always, when these were recorded
    for _ in range(100):
        area = rng.uniform(0.02, 0.4) * side * side
        aspect = rng.uniform(0.3, 1 / 0.3)
        rows, columns = round(sqrt(area * aspect)), round(sqrt(area / aspect))
        if rows < side and columns < side:
            return (rng.randint(0, side - rows), rng.randint(0, side - columns), rows, columns)
    raise AssertionError("no box fits")


def test_erased_images_are_the_recorded_ones():
    golden = np.load(GOLDEN)
    images = torch.from_numpy(golden["erase_input"])[None].expand(4, -1, -1, -1)
    boxes = torch.tensor([published_box(seed) for seed in range(4)])
    erased = erasing.apply(images, boxes, CIFAR10_MEAN)
    expected = torch.stack([torch.from_numpy(golden[f"erase_seed{seed}"]) for seed in range(4)])
    assert torch.equal(erased, expected)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (16, 48)])
def test_boxes_have_the_published_distribution(height, width):
    boxes = Erasing().draw(20_000, height, width, torch.Generator().manual_seed(0))
    top, left, rows, columns = boxes[boxes[:, 2] > 0].unbind(1)
    assert abs(len(rows) / len(boxes) - 0.25) < 0.01
    assert (rows < height).all() and (columns < width).all() and (columns > 0).all()
    assert (
        (top + rows <= height).all()
        and (left + columns <= width).all()
        and (top.min(), left.min()) == (0, 0)
    )
    share = rows * columns / (height * width)
    assert 0.01 < share.min() < 0.03 and 0.37 < share.max() < 0.43


def test_aspect_is_uniform_not_log_uniform():
    boxes = Erasing(probability=1.0, max_area=0.1).draw(
        20_000, 256, 256, torch.Generator().manual_seed(0)
    )
    aspect = boxes[:, 2] / boxes[:, 3]
    assert abs(aspect.mean() - (0.3 + 1 / 0.3) / 2) < 0.05


def test_impossible_boxes_erase_nothing():
    boxes = Erasing(probability=1.0).draw(8, 1, 1, torch.Generator().manual_seed(0))
    images = torch.randn(8, 3, 1, 1)
    assert torch.equal(erasing.apply(images, boxes), images)


def test_fill_is_zero_by_default():
    erased = erasing.apply(torch.ones(1, 3, 8, 8), torch.tensor([[2, 3, 4, 5]]))
    assert erased.sum() == 3 * (64 - 20)
    assert (erased[0, :, 2:6, 3:8] == 0).all()


def test_log_uniform_boxes_are_timms():
    """Shares and ratios have the quantiles of timm's boxes."""
    state = random.getstate()
    random.seed(0)
    found = []
    timm = RandomErasing(1.0, max_area=1 / 3, mode="const", device="cpu")
    for _ in range(4000):
        kept = timm(torch.ones(1, 48, 48))[0]
        found.append((int((kept == 0).any(1).sum()), int((kept == 0).any(0).sum())))
    random.setstate(state)
    theirs = torch.tensor(found).double()
    ours = (
        Erasing(1.0, 1 / 3, log_aspect=True)
        .draw(4000, 48, 48, torch.Generator().manual_seed(0))[:, 2:]
        .double()
    )
    theirs = theirs[theirs[:, 0] > 0]
    for value in (
        lambda boxes: boxes.prod(1) / 48**2,
        lambda boxes: (boxes[:, 0] / boxes[:, 1]).log(),
    ):
        at = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
        gap = value(theirs).quantile(at) - value(ours).quantile(at)
        assert gap.abs().max() < 0.05 * (
            value(theirs).quantile(0.95) - value(theirs).quantile(0.05)
        )


def test_noise_fills_the_boxes_and_nothing_else():
    images = torch.full((400, 3, 24, 24), 9.0)
    generator = torch.Generator().manual_seed(0)
    boxes = Erasing(0.5, 1 / 3, log_aspect=True).draw(400, 24, 24, generator)
    seeds = erasing.draw_seeds(400, generator)
    filled = erasing.apply_noise(images, boxes, seeds)
    inside = erasing.apply(images, boxes, 0.0) == 0
    assert ((filled != 9) == inside).all() and inside.any()
    values = filled[inside]
    assert abs(values.mean()) < 0.02 and abs(values.std() - 1) < 0.02
    parts = [slice(start, start + 8) for start in range(0, 400, 8)]
    again = torch.cat(
        [erasing.apply_noise(images[part], boxes[part], seeds[part]) for part in parts]
    )
    assert torch.equal(filled, again)
    nothing = torch.zeros(400, 4, dtype=torch.int64)
    assert erasing.apply_noise(images, nothing, seeds) is images


def test_noise_is_normal_and_independent():
    seeds = erasing.draw_seeds(64, torch.Generator().manual_seed(0))
    field = noise.normal(seeds, (3, 32, 32))
    flat = field.flatten().double().sort().values
    expected = torch.special.ndtri((torch.arange(len(flat)) + 0.5) / len(flat)).double()
    assert (flat - expected)[2000:-2000].abs().max() < 0.03
    assert abs((field[..., 1:] * field[..., :-1]).mean()) < 0.01  # pixels beside each other
    assert abs((field[:, 1:] * field[:, :-1]).mean()) < 0.01  # channels
    assert abs((field[1:] * field[:-1]).mean()) < 0.01  # images
    assert abs((noise.normal(torch.arange(63), (3, 32, 32)) * field[:63]).mean()) < 0.01
    assert torch.equal(noise.normal(seeds[3:4], (3, 32, 32)), field[3:4])
