"""Colour operations, against torchvision's float operations (tight) and on Pillow images (its roundings)."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms.v2 import functional as tv

from multicrop.augment import colour

FACTORS = torch.tensor([0.6, 0.8, 1.0, 1.13, 1.4])
SHIFTS = torch.tensor([-0.5, -0.31, -0.1, -0.03, 0.0, 0.07, 0.1, 0.2, 0.45, 0.5])


def images(count, channels=3, size=16):
    """uint8 (count, channels, size, size): noise, with flat gray, black, white and saturated parts."""
    generator = torch.Generator().manual_seed(0)
    batch = torch.randint(
        0, 256, (count, channels, size, size), dtype=torch.uint8, generator=generator
    )
    batch[:, :, 0], batch[:, :, 1], batch[:, :, 2] = 90, 0, 255
    batch[:, 0, 3], batch[:, -1, 4] = 255, 0
    return batch


def planes_of(batch):
    return batch.transpose(0, 1).float().contiguous()


def to_pil(image):
    array = image.permute(1, 2, 0).numpy()
    return Image.fromarray(array.squeeze(-1) if array.shape[-1] == 1 else array)


def from_pil(image):
    array = torch.from_numpy(np.array(image))
    return array.view(*array.shape[:2], -1).permute(2, 0, 1).float()


def largest_difference(planes, expected):
    return max((planes[:, i] - image).abs().max().item() for i, image in enumerate(expected))


@pytest.mark.parametrize(
    "name,tolerance", [("brightness", 1.0), ("contrast", 1.0), ("saturation", 1.5)]
)
@pytest.mark.parametrize("channels", [3, 1])
def test_blends_against_pillow(name, tolerance, channels):
    """Pillow cuts off the fraction: up to 1 level, and half a level of the rounded luma."""
    batch = images(len(FACTORS), channels)
    theirs = getattr(tv, f"adjust_{name}")
    expected = [
        from_pil(theirs(to_pil(image), f.item())) for image, f in zip(batch, FACTORS, strict=True)
    ]
    ours = getattr(colour, f"{name}_")(planes_of(batch), FACTORS)
    assert largest_difference(ours, expected) <= tolerance


@pytest.mark.parametrize("name", ["brightness", "saturation"])
def test_blends_against_torchvision_floats(name):
    batch = images(len(FACTORS))
    theirs = getattr(tv, f"adjust_{name}")
    expected = [
        255 * theirs(image.float() / 255, f.item()) for image, f in zip(batch, FACTORS, strict=True)
    ]
    ours = getattr(colour, f"{name}_")(planes_of(batch), FACTORS)
    # torchvision's luma weights are rounded to four digits (0.2989)
    assert largest_difference(ours, expected) <= 0.05


def test_hue_against_torchvision_floats():
    batch = images(len(SHIFTS))
    expected = [
        255 * tv.adjust_hue(image.float() / 255, s.item())
        for image, s in zip(batch, SHIFTS, strict=True)
    ]
    assert largest_difference(colour.hue_(planes_of(batch), SHIFTS), expected) <= 0.01


def test_hue_against_pillow():
    """Pillow's HSV has 256 hues and cuts fractions off; a step of the hue is 6 levels of a channel."""
    batch = images(len(SHIFTS))
    ours = colour.hue_(planes_of(batch), SHIFTS)
    expected = [
        from_pil(tv.adjust_hue(to_pil(image), s.item()))
        for image, s in zip(batch, SHIFTS, strict=True)
    ]
    difference = (ours - torch.stack(expected, 1)).abs()
    assert difference.max() <= 15 and difference.mean() <= 2


def test_hue_by_thirds_permutes_the_channels():
    planes = planes_of(images(2))
    red, green, blue = planes.clone()
    turned = colour.hue_(planes, torch.tensor([1 / 3, 1 / 3]))
    torch.testing.assert_close(turned, torch.stack((blue, red, green)), atol=2e-3, rtol=0)


def test_grayscale_and_solarise_where_chosen(golden):
    stored = np.load(golden / "augment_ops.npz")
    batch = torch.from_numpy(stored["image32"]).permute(2, 0, 1).repeat(2, 1, 1, 1)
    chosen = torch.tensor([True, False])
    solarised = colour.solarise_(planes_of(batch), chosen)
    assert torch.equal(
        solarised[:, 0], torch.from_numpy(stored["solarize32"]).permute(2, 0, 1).float()
    )
    assert torch.equal(solarised[:, 1], batch[1].float())
    gray = colour.grayscale_(planes_of(batch), chosen)
    assert (gray[:, 0] - from_pil(ImageOps.grayscale(to_pil(batch[0])))).abs().max() <= 0.51
    assert torch.equal(gray[:, 1], batch[1].float())


def test_jitter_applies_each_samples_operations_in_its_order():
    """All 24 orders at once; the single operations, tested above, one after the other are the reference."""
    order = torch.tensor(list(itertools.permutations(range(4))))
    batch = images(len(order))
    factors = torch.rand(len(order), 4, generator=torch.Generator().manual_seed(1)) * 0.8 + 0.6
    factors[:, colour.HUE] = factors[:, colour.HUE] - 1
    single = (colour.brightness_, colour.contrast_, colour.saturation_, colour.hue_)
    expected = planes_of(batch)
    for i in range(len(order)):
        for operation in order[i].tolist():
            row = single[operation](expected[:, i : i + 1].clone(), factors[i : i + 1, operation])
            expected[:, i : i + 1] = row
    ours = colour.jitter_(planes_of(batch), order, factors)
    torch.testing.assert_close(ours, expected, atol=0.01, rtol=0)
    assert (ours[:, 0] - ours[:, -1]).abs().max() > 5


def test_jitter_by_identity_changes_nothing():
    planes = planes_of(images(6))
    order = torch.tensor(list(itertools.permutations(range(4))))[::4]
    ours = colour.jitter_(planes.clone(), order, torch.tensor(colour.IDENTITY).expand(6, 4))
    torch.testing.assert_close(ours, planes, atol=1e-3, rtol=0)


def test_one_channel_has_no_colour():
    planes = planes_of(images(3, channels=1))
    before = planes.clone()
    colour.hue_(planes, torch.full((3,), 0.1))
    colour.grayscale_(planes, torch.ones(3, dtype=torch.bool))
    colour.saturation_(planes, torch.full((3,), 1.4))
    torch.testing.assert_close(planes, before, atol=1e-3, rtol=0)
