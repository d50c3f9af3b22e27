"""Gaussian blur of a batch with one standard deviation per sample, as Pillow's GaussianBlur computes it.

Pillow approximates the Gaussian by three box filters of a fractional width (Gwosdek et al. 2011, "Theoretical
Foundations of Gaussian Convolution by Extended Box Filtering") and repeats the border pixel. Along one axis that is a
matrix, the same in every channel. Pillow rounds to whole levels after each of its six passes and this does not: they
differ by half a level in the mean and by up to 3 where the roundings add up, mostly below a deviation of 0.5 px.
"""

from functools import lru_cache

import torch
from torch import Tensor

PASSES = 3


def blur_(planes: Tensor, sigma: Tensor, largest: float) -> Tensor:
    """Blur in place: planes (C, ..., h, w) contiguous, sigma (...) standard deviations in px, 0 changes nothing.

    largest: a bound of sigma, known without asking the device.
    """
    h, w = planes.shape[-2:]
    rows = box_blur(sigma.flatten(), h, largest)
    columns = rows if w == h else box_blur(sigma.flatten(), w, largest)
    for plane in planes.view(len(planes), -1, h, w):
        torch.bmm(torch.bmm(rows, plane), columns.transpose(1, 2), out=plane)
    return planes


def box_blur(sigma: Tensor, size: int, largest: float) -> Tensor:
    """The three passes along one axis: sigma (R,) px -> (R, size, size), rows sum to 1.

    Between two whole radii one pass is linear in the fraction, so three are a cubic polynomial in it.
    """
    radius = box_radius(sigma).unsqueeze(-1)
    whole = radius.floor()
    count = (
        int(box_radius(torch.tensor(float(largest)))) + 2
    )  # one more than fits, for rounding on the device
    exponent = torch.arange(PASSES + 1, device=sigma.device)
    powers = (radius - whole) ** exponent / (2 * radius + 1) ** PASSES
    chosen = whole == torch.arange(count, device=sigma.device)
    terms = (chosen.unsqueeze(-1) * powers.unsqueeze(1)).flatten(1)
    return (terms @ polynomials(size, count, sigma.device)).view(-1, size, size)


@lru_cache(maxsize=16)
def polynomials(size: int, count: int, device: torch.device) -> Tensor:
    """Coefficients (count * (PASSES + 1), size * size): for each whole radius, of the powers 0..3 of the fraction.

    Not divided by the width of the box.
    """
    rows = []
    for whole in range(count):
        box, edge = _box(whole, size), _box(whole + 1, size) - _box(whole, size)
        power = [
            torch.eye(size, dtype=torch.float64)
        ]  # of (box + fraction * edge), by powers of the fraction
        for _ in range(PASSES):
            inner, outer = [p @ box for p in power], [p @ edge for p in power]
            zero = torch.zeros_like(box)
            power = [a + b for a, b in zip([*inner, zero], [zero, *outer], strict=True)]
        rows += power
    return torch.stack(rows).flatten(1).float().to(device)


def _box(radius: int, size: int) -> Tensor:
    """Sums over 2 radius + 1 neighbours, the border pixel standing for all beyond it: (size, size)."""
    pixel = torch.arange(size)
    neighbours = (pixel.unsqueeze(1) + torch.arange(-radius, radius + 1)).clamp(0, size - 1)
    return torch.nn.functional.one_hot(neighbours, size).sum(1).double()


def box_radius(sigma: Tensor) -> Tensor:
    """Radius of the box whose PASSES repetitions have the variance sigma^2: the whole part, then the fraction."""
    variance = sigma.square() / PASSES
    whole = (((12 * variance + 1).sqrt() - 1) / 2).floor()
    fraction = (
        (2 * whole + 1)
        * (whole * (whole + 1) - 3 * variance)
        / (6 * (variance - (whole + 1).square()))
    )
    return whole + fraction
