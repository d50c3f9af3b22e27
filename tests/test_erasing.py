"""Random erasing against recorded images, and the distribution of its boxes."""

import random
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
import torch

from multicrop.augment import erasing
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
    assert (top + rows <= height).all() and (left + columns <= width).all() and (top.min(), left.min()) == (0, 0)
    share = rows * columns / (height * width)
    assert 0.01 < share.min() < 0.03 and 0.37 < share.max() < 0.43


def test_aspect_is_uniform_not_log_uniform():
    boxes = Erasing(probability=1.0, max_area=0.1).draw(20_000, 256, 256, torch.Generator().manual_seed(0))
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
