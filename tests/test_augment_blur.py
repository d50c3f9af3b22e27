"""Blur by standard deviation, against Pillow's GaussianBlur and the recorded images."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from multicrop.augment.blur import blur_, box_blur, box_radius

SIGMAS = (0.1, 0.25, 0.5, 1.0, 1.5, 2.0)


def pillow(image, sigma):
    """image (C,h,w) uint8"""
    blurred = Image.fromarray(image.permute(1, 2, 0).numpy()).filter(
        ImageFilter.GaussianBlur(sigma)
    )
    return torch.from_numpy(np.array(blurred)).permute(2, 0, 1)


@pytest.mark.parametrize("size", [32, 16])
def test_recorded_images(golden, size):
    """Three levels: half a one for each of Pillow's six roundings."""
    stored = np.load(golden / "augment_ops.npz")
    image = torch.from_numpy(stored[f"image{size}"]).permute(2, 0, 1)
    planes = image.unsqueeze(1).repeat(1, len(SIGMAS), 1, 1).float()
    blur_(planes, torch.tensor(SIGMAS), largest=2.0)
    for i, sigma in enumerate(SIGMAS):
        expected = torch.from_numpy(stored[f"blur{size}_r{sigma}"]).permute(2, 0, 1).float()
        assert (planes[:, i] - expected).abs().max() <= 3 and (
            planes[:, i] - expected
        ).abs().mean() < 1, sigma


@pytest.mark.parametrize("shape", [(32, 32), (16, 16), (20, 9), (5, 40)])
def test_random_deviations_against_pillow(shape):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 3, *shape), dtype=torch.uint8, generator=generator)
    sigma = torch.rand(40, generator=generator) * 4
    planes = blur_(images.transpose(0, 1).float().contiguous(), sigma, largest=4.0)
    for i in range(40):
        assert (planes[:, i] - pillow(images[i], sigma[i].item()).float()).abs().max() <= 3, sigma[
            i
        ]


def test_no_deviation_changes_nothing():
    planes = torch.rand(3, 4, 16, 16) * 255
    assert torch.equal(blur_(planes.clone(), torch.zeros(4), largest=2.0), planes)


def test_rows_sum_to_one_and_the_variance_is_the_one_asked_for():
    sigma = torch.tensor([0.3, 0.7, 1.3, 2.0])
    matrix = box_blur(sigma, 41, largest=2.0)
    torch.testing.assert_close(matrix.sum(-1), torch.ones(4, 41))
    distance = (torch.arange(41) - 20.0).square()
    middle = matrix[:, 20] @ distance
    torch.testing.assert_close(middle, sigma.square(), atol=1e-4, rtol=1e-4)


def test_bound_at_a_change_of_the_whole_radius():
    """Where the whole part of the radius jumps, nothing is lost to rounding."""
    edge = 2**0.5  # variance 3 / PASSES of a box of radius exactly 1 is 2/3 = (2 r (r + 1)) / 6
    sigma = torch.tensor([edge, edge - 1e-7, edge + 1e-7])
    assert box_radius(sigma).sub(1).abs().max() < 1e-5
    torch.testing.assert_close(box_blur(sigma, 16, largest=edge).sum(-1), torch.ones(3, 16))
