"""Noise: levels (B, C, H, W) float32 of 0..1, multiples of 1/255 -> the same shape, not kept within 0..1 yet."""

from functools import lru_cache

import torch
from torch import Tensor

from ._corrupt_random import ImageRandom


def gaussian_noise(levels: Tensor, random: ImageRandom, deviation: float) -> Tensor:
    """x + deviation * n."""
    return levels + deviation * random.normal(*levels.shape[1:])


def speckle_noise(levels: Tensor, random: ImageRandom, deviation: float) -> Tensor:
    """x + deviation * x * n."""
    return levels + deviation * levels * random.normal(*levels.shape[1:])


def impulse_noise(levels: Tensor, random: ImageRandom, share: float) -> Tensor:
    """Salt and pepper: of all numbers, those of a pixel's channels apart, half the share become 0 and half 1."""
    uniform = random.uniform(*levels.shape[1:])
    salted = torch.where(uniform < share, 1.0, levels)
    return torch.where(uniform < share / 2, 0.0, salted)


def shot_noise(levels: Tensor, random: ImageRandom, photons: float) -> Tensor:
    """Poisson numbers of mean x * photons, divided by photons."""
    uniform = random.uniform(*levels.shape[1:])
    return poisson(levels, photons, uniform) / photons


def poisson(levels: Tensor, photons: float, uniform: Tensor) -> Tensor:
    """The smallest count at which the distribution function of mean level * photons exceeds the uniform number.

    A level is one of 256, so there are as many distributions: rows of a table, of which row r lies within r and r + 1.
    """
    device = levels.device if levels.device.type != "mps" else "cpu"  # MPS has no float64
    table = poisson_table(photons).to(device)
    rows = (levels * 255).round().to(device).double()
    place = torch.searchsorted(table.flatten(), rows + uniform.to(device), right=True)
    counts = place - rows.long() * table.shape[1]
    return counts.clamp(max=table.shape[1] - 1).float().to(levels.device)


@lru_cache(maxsize=5)
def poisson_table(photons: float) -> Tensor:
    """(256, counts) float64: r + the probability of at most so many counts, for the mean of each level r."""
    level = torch.arange(256, dtype=torch.float64)[:, None]
    mean = level / 255 * photons
    most = int(photons + 8 * photons**0.5 + 16)  # counts beyond have a probability below 1e-12
    count = torch.arange(most + 1, dtype=torch.float64)
    log_probability = torch.special.xlogy(count, mean) - mean - torch.lgamma(count + 1)
    return level + log_probability.exp().cumsum(1).clamp(max=1)
