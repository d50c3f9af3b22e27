"""Weather: levels (B, C, H, W) float32 of 0..1 -> the same shape, not kept within 0..1 yet."""

import math

import torch
from torch import Tensor

from ._corrupt_filter import motion_blur, zoom
from ._corrupt_random import ImageRandom
from ._corrupt_round import truncate_levels
from .colour import luma


def snow(
    levels: Tensor,
    random: ImageRandom,
    mean: float,
    deviation: float,
    size: float,
    threshold: float,
    radius: float,
    sigma: float,
    share: float,
) -> Tensor:
    """Flakes that fall, and the same turned by half a turn, over an image that is whitened by 1 - share.

    Flakes are what of normal noise, enlarged `size` times, is above the threshold, blurred by their motion.
    """
    height, width = levels.shape[-2:]
    flakes = mean + deviation * random.normal(1, height, width)
    flakes = zoom(flakes, max(size, 1.0))
    flakes = truncate_levels(torch.where(flakes < threshold, 0.0, flakes))
    flakes = motion_blur(flakes, random.between(-135, -45, 1)[:, 0], radius, sigma)
    flakes = (flakes * 255).round() / 255
    white = gray(levels) * 1.5 + 0.5
    whitened = share * levels + (1 - share) * torch.maximum(levels, white)
    return whitened + flakes + flakes.flip(2, 3)


def gray(levels: Tensor) -> Tensor:
    """(B, 1, H, W): the luma of three channels, the mean of any other number."""
    if levels.shape[1] == 3:
        return luma(levels.transpose(0, 1))[:, None]
    return levels.mean(1, keepdim=True)


def fog(levels: Tensor, random: ImageRandom, amount: float, decay: float) -> Tensor:
    """A cloud is added, and the whole is darkened so that the image's highest level would stay the highest."""
    height, width = levels.shape[-2:]
    side = 2 ** math.ceil(math.log2(max(height, width)))
    cloud = plasma(random.between(-1, 1, side, side), decay)[:, None, :height, :width]
    highest = levels.amax((1, 2, 3), keepdim=True)
    return (levels + amount * cloud) * highest / (highest + amount)


def plasma(uniform: Tensor, decay: float) -> Tensor:
    """Clouds (B, S, S) within 0 and 1 by the diamond-square algorithm on a torus, S a power of two.

    uniform (B, S, S) within -1 and 1: each place is the mean of four places around it and so much of the amplitude,
    which is 100^2 at first and decay^2 times less after each halving of the distance.
    """
    side = uniform.shape[-1]
    cloud = torch.zeros_like(uniform)
    step, wibble = side, 100.0
    while step >= 2:
        half = step // 2
        added = uniform * wibble**2
        corners = cloud[:, ::step, ::step]
        # Middles of squares, from their corners
        square = corners + corners.roll(-1, 1)
        square = square + square.roll(-1, 2)
        middles = square / 4 + added[:, half::step, half::step]
        cloud[:, half::step, half::step] = middles
        # Middles of edges, from the ends of the edge and the middles of the squares on both sides
        above = middles + middles.roll(1, 1) + corners + corners.roll(-1, 2)
        cloud[:, ::step, half::step] = above / 4 + added[:, ::step, half::step]
        beside = middles + middles.roll(1, 2) + corners + corners.roll(-1, 1)
        cloud[:, half::step, ::step] = beside / 4 + added[:, half::step, ::step]
        step, wibble = half, wibble / decay
    cloud = cloud - cloud.amin((1, 2), keepdim=True)
    return cloud / cloud.amax((1, 2), keepdim=True)


def brightness(levels: Tensor, random: ImageRandom, added: float) -> Tensor:
    """The value of HSV, which is a pixel's highest level, is raised by so much, up to 1; hue and saturation stay."""
    value = levels.amax(1, keepdim=True)
    raised = (value + added).clamp(max=1)
    black = value == 0
    return torch.where(black, raised, levels * raised / torch.where(black, 1.0, value))
