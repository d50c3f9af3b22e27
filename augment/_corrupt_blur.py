"""Blurs: levels (B, C, H, W) float32 of 0..1 -> the same shape."""

import math

import numpy as np
import torch
from torch import Tensor

from ._corrupt_filter import gaussian, mirror, motion_blur, pick, zoom
from ._corrupt_random import ImageRandom
from ._corrupt_round import truncate_levels


def gaussian_blur(levels: Tensor, random: ImageRandom, sigma: float) -> Tensor:
    """A Gaussian of deviation sigma px."""
    return gaussian(levels, sigma)


def defocus_blur(levels: Tensor, random: ImageRandom, radius: float, alias: float) -> Tensor:
    """A disk of the radius, in px, whose border is smoothed by a Gaussian of 3 px and deviation `alias`."""
    height, width = levels.shape[-2:]
    row = torch.arange(height, device=levels.device)
    column = torch.arange(width, device=levels.device)
    kernel = disk(radius, alias)
    reach = len(kernel) // 2
    blurred = torch.zeros_like(levels)
    for down, right in kernel.nonzero().tolist():
        rows = mirror(row + down - reach, height)
        columns = mirror(column + right - reach, width)
        blurred += kernel[down, right].item() * levels[:, :, rows][:, :, :, columns]
    return blurred


def disk(radius: float, alias: float) -> Tensor:
    """The kernel of a defocused lens (k, k), of the sum 1."""
    reach = math.ceil(radius) + 1  # one more for the smoothed border
    place = torch.arange(-reach, reach + 1, dtype=torch.float64)
    inside = (place[:, None].square() + place.square() <= radius**2).double()
    step = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    smooth = torch.exp(-0.5 * (step / alias) ** 2)
    smooth /= smooth.sum()
    padded = torch.nn.functional.pad(inside / inside.sum(), (1, 1, 1, 1))
    smoothed = torch.zeros_like(inside)
    for down in range(3):
        for right in range(3):
            part = padded[down : down + len(inside), right : right + len(inside)]
            smoothed += smooth[down] * smooth[right] * part
    return smoothed


def glass_blur(
    levels: Tensor, random: ImageRandom, sigma: float, reach: float, times: int
) -> Tensor:
    """A Gaussian, then each pixel takes the place of one near it, `times` times, then the Gaussian again.

    From the last pixel to the first, a pixel becomes the one at a distance of -reach..reach-1 px along each axis. The
    paper speaks of exchanging the two; the published sets were made so that only one of them changes, and so are these.
    """
    reach = max(1, round(reach))
    levels = truncate_levels(gaussian(levels, sigma))
    for _ in range(times):
        levels = take_neighbours(levels, random, reach)
    return gaussian(levels, sigma)


def take_neighbours(levels: Tensor, random: ImageRandom, reach: int) -> Tensor:
    """One pass of glass_blur's replacements; `reach` px at the border, one more at the first, stay as they are."""
    height, width = levels.shape[-2:]
    shift = (random.uniform(2, height, width) * 2 * reach).long() - reach
    row = torch.arange(height, device=levels.device)[:, None]
    column = torch.arange(width, device=levels.device)
    moves = (row > reach) & (row <= height - reach) & (column > reach) & (column <= width - reach)
    target = torch.where(moves, (row + shift[:, 1]) * width + column + shift[:, 0], -1)
    own = (row * width + column).flatten()
    target = torch.where(target < 0, own.view(height, width), target).flatten(1)  # (B, H W)
    # A pixel behind this one has been replaced already: then what counts is what that one took, and so on.
    following = torch.maximum(target, own)
    for _ in range((height * width).bit_length()):
        following = following.gather(1, following)
    source = target.gather(1, following).view(-1, height, width)
    return pick(levels, source // width, source % width)


def motion(levels: Tensor, random: ImageRandom, radius: float, sigma: float) -> Tensor:
    """Motion blur along an angle within 45 degrees of the horizontal, rounded to whole levels."""
    blurred = motion_blur(levels, random.between(-45, 45, 1)[:, 0], radius, sigma)
    return (blurred * 255).round() / 255


def zoom_blur(levels: Tensor, random: ImageRandom, end: float) -> Tensor:
    """The mean of the image and of its enlargements by 1, 1.01, ... below `end`."""
    factors = np.arange(1, end, 0.01).tolist()
    total = levels.clone()
    for factor in factors:
        total += zoom(levels, factor)
    return total / (len(factors) + 1)
