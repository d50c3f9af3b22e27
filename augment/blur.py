"""Gaussian blur of a batch with one standard deviation per sample, as Pillow's GaussianBlur computes it.

Pillow approximates the Gaussian by three box filters of a fractional width (Gwosdek et al. 2011, "Theoretical
Foundations of Gaussian Convolution by Extended Box Filtering") and repeats the border pixel. Along one axis that is a
matrix, the same in every channel. Pillow rounds to whole levels after each of its six passes and this does not: they
differ by half a level in the mean and by up to 3 where the roundings add up, mostly below a deviation of 0.5 px.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .device import constant

PASSES = 3


def blur_(planes: Tensor, sigma: Tensor, largest: float) -> Tensor:
    """Blur in place: planes (C, ..., h, w) contiguous, sigma (...) standard deviations in px, 0 changes nothing.

    largest: a bound of sigma, known without asking the device.
    """
    h, w = planes.shape[-2:]
    sigma = sigma.flatten()
    rows = columns = box_blur(sigma, h, largest)
    if w != h:
        columns = box_blur(sigma, w, largest)
    columns = columns.transpose(1, 2)
    for plane in planes.view(len(planes), -1, h, w):
        torch.bmm(torch.bmm(rows, plane), columns, out=plane)
    return planes


def box_blur(sigma: Tensor, size: int, largest: float) -> Tensor:
    """The three passes along one axis: sigma (R,) px -> (R, size, size), rows sum to 1.

    Between two whole radii one pass is linear in the fraction, so three are a cubic polynomial in it.
    """
    radius = box_radius(sigma).unsqueeze(-1)
    whole = radius.floor()
    count = whole_radius(largest) + 2  # one more than fits, for rounding on the device
    exponent = torch.arange(PASSES + 1, device=sigma.device)
    width = 2 * radius + 1
    powers = (radius - whole) ** exponent / width**PASSES
    chosen = whole == torch.arange(count, device=sigma.device)
    terms = chosen.unsqueeze(-1) * powers.unsqueeze(1)
    matrices = terms.flatten(1) @ polynomials(size, count, sigma.device)
    return matrices.view(-1, size, size)


@constant
def polynomials(size: int, count: int, device: torch.device) -> Tensor:
    """Coefficients (count * (PASSES + 1), size * size): for each whole radius, of the powers 0..3 of the fraction.

    Not divided by the width of the box.
    """
    rows = []
    for whole in range(count):
        box = _box(whole, size)
        edge = _box(whole + 1, size) - box
        # The product of PASSES times (box + fraction * edge), by powers of the fraction.
        product = [torch.eye(size, dtype=torch.float64)]
        for _ in range(PASSES):
            longer = [torch.zeros_like(box) for _ in range(len(product) + 1)]
            for power, term in enumerate(product):
                longer[power] += term @ box
                longer[power + 1] += term @ edge
            product = longer
        rows += product
    return torch.stack(rows).flatten(1).float().to(device)


@constant
def whole_radius(sigma: float) -> int:
    """The whole part of a deviation's box_radius."""
    return int(box_radius(torch.tensor(float(sigma))))


def _box(radius: int, size: int) -> Tensor:
    """Sums over 2 radius + 1 neighbours, the border pixel standing for all beyond it: (size, size)."""
    pixel = torch.arange(size).unsqueeze(1)
    neighbours = pixel + torch.arange(-radius, radius + 1)
    neighbours = neighbours.clamp(0, size - 1)
    return F.one_hot(neighbours, size).sum(1).double()


def box_radius(sigma: Tensor) -> Tensor:
    """Radius of the box whose PASSES repetitions have the variance sigma^2: the whole part, then the fraction."""
    variance = sigma.square() / PASSES
    whole = (((12 * variance + 1).sqrt() - 1) / 2).floor()
    following = whole + 1
    numerator = (2 * whole + 1) * (whole * following - 3 * variance)
    denominator = 6 * (variance - following.square())
    return whole + numerator / denominator
