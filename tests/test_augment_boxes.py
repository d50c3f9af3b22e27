"""Crop boxes: the law of RandomResizedCrop."""

import math

import pytest
import torch
from torchvision.transforms import RandomResizedCrop

from multicrop.augment.boxes import centred_box, random_boxes

SAMPLES = 20_000


def draw(low, high, height=64, width=64, seed=0):
    scale = torch.tensor([[low, high]], dtype=torch.float64).expand(SAMPLES, 2)
    return random_boxes(scale, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("height,width", [(32, 32), (48, 64), (64, 48)])
@pytest.mark.parametrize("low,high", [(0.7, 1.0), (0.2, 0.5)])
def test_boxes_lie_inside_the_image(height, width, low, high):
    top, left, h, w = draw(low, high, height, width).T
    assert min(top.min(), left.min()) >= 0 and min(h.min(), w.min()) >= 1
    assert ((top + h) <= height).all() and ((left + w) <= width).all()
    assert (top + h).max() == height and (left + w).max() == width  # the far border is reached


def test_area_and_aspect_have_the_stated_ranges_and_laws():
    size = 1000  # so that rounding to pixels does not matter
    _, _, h, w = draw(0.2, 0.5, size, size).double().T
    area, aspect = h * w / size**2, (w / h).log() / math.log(4 / 3)
    assert 0.198 < area.min() < 0.205 and 0.495 < area.max() < 0.502
    assert area.mean() == pytest.approx(0.35, abs=0.003)
    assert area.var() == pytest.approx(0.3**2 / 12, rel=0.03)  # uniform
    assert -1.01 < aspect.min() < -0.98 and 0.98 < aspect.max() < 1.01
    assert aspect.mean() == pytest.approx(0, abs=0.02)
    assert aspect.var() == pytest.approx(1 / 3, rel=0.03)  # uniform in the logarithm


@pytest.mark.parametrize(
    "low,high,height,width", [(0.7, 1.0, 32, 32), (0.2, 0.5, 32, 32), (0.5, 1.0, 24, 40)]
)
def test_same_law_as_torchvision(low, high, height, width):
    image = torch.empty(3, height, width)
    torch.manual_seed(0)
    theirs = torch.tensor(
        [RandomResizedCrop.get_params(image, (low, high), (3 / 4, 4 / 3)) for _ in range(6000)]
    )
    ours = draw(low, high, height, width)
    torch.testing.assert_close(ours.double().mean(0), theirs.double().mean(0), atol=0.25, rtol=0)
    torch.testing.assert_close(ours.double().std(0), theirs.double().std(0), atol=0.25, rtol=0)


@pytest.mark.parametrize("height,width", [(10, 100), (100, 10), (30, 32), (37, 41)])
def test_fallback_is_torchvisions(height, width):
    impossible = torch.full((4, 2), 9.0, dtype=torch.float64)  # nine times the image never fits
    boxes = random_boxes(impossible, height, width)
    theirs = RandomResizedCrop.get_params(torch.empty(3, height, width), (9.0, 9.0), (3 / 4, 4 / 3))
    assert boxes.tolist() == [list(theirs)] * 4
    assert centred_box(height, width, (3 / 4, 4 / 3)) == tuple(theirs)


@pytest.mark.parametrize("low,high", [(0.7, 1.0), (0.9, 1.3), (9.0, 9.0)])
def test_a_box_is_the_first_of_ten_tries_that_fits(low, high):
    """The first try of all boxes is drawn first, then the nine others of those that need them."""
    samples, height, width = 200, 24, 40
    scale = torch.tensor([[low, high]], dtype=torch.float64).expand(samples, 2)
    boxes = random_boxes(scale, height, width, generator=torch.Generator().manual_seed(0))

    def box(share, shape, down, right):
        area = height * width * (low + (high - low) * share)
        aspect = math.exp(math.log(3 / 4) + math.log((4 / 3) / (3 / 4)) * shape)
        h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        fits = 0 < h <= height and 0 < w <= width
        return [int(down * (height - h + 1)), int(right * (width - w + 1)), h, w] if fits else None

    generator = torch.Generator().manual_seed(0)
    first = torch.rand(4, samples, generator=generator).T.tolist()
    tries = [[box(*draws)] for draws in first]
    again = [number for number, (one,) in enumerate(tries) if one is None]
    others = torch.rand(4, 9, len(again), generator=generator).permute(2, 1, 0).tolist()
    for number, nine in zip(again, others, strict=True):
        tries[number] += [box(*draws) for draws in nine]
    centred = list(centred_box(height, width, (3 / 4, 4 / 3)))
    expected = [next((one for one in each if one), centred) for each in tries]
    assert boxes.tolist() == expected


def test_a_seed_fixes_the_boxes():
    assert torch.equal(draw(0.2, 0.5, seed=3), draw(0.2, 0.5, seed=3))
    assert not torch.equal(draw(0.2, 0.5, seed=3), draw(0.2, 0.5, seed=4))
