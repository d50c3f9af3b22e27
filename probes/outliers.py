"""Images that are unlike all others: far from their nearest neighbours. N images of C channels, D width of features."""

from typing import NamedTuple

import torch
from torch import Tensor

NEIGHBOURS = 5
THRESHOLD = 5.0
_ROWS = 1024  # images whose distances are held at once


class Outlier(NamedTuple):
    image: int
    score: float
    """Its distance to its neighbours, in deviations above the median of all images'."""


def outliers(
    features: Tensor, pixels: Tensor, threshold: float = THRESHOLD, neighbours: int = NEIGHBOURS
) -> list[Outlier]:
    """Features (N, D) and uint8 (N, C, H, W) -> the images that are far from all others, the farthest first.

    Distance: the mean of the distances to the nearest others, by features and by what `simple_statistics` says, both
    standardised and of equal weight. Deviation: the median absolute one times 1.4826, as of a normal distribution.
    ValueError where most images are equal.
    """
    if len(features) < 3:
        return []
    described = torch.cat([_standardised(features), _standardised(simple_statistics(pixels))], 1)
    distances = neighbour_distances(described, neighbours)
    middle = distances.median()
    deviation = 1.4826 * (distances - middle).abs().median()
    if deviation < 1e-4 * distances.max():
        raise ValueError("half of the images or more are equal to others: see the near-duplicates")
    scores = (distances - middle) / deviation
    chosen = (scores >= threshold).nonzero()[:, 0].tolist()
    found = [Outlier(image, float(scores[image])) for image in chosen]
    return sorted(found, key=lambda outlier: (-outlier.score, outlier.image))


def simple_statistics(pixels: Tensor) -> Tensor:
    """uint8 (N, C, H, W) -> of each channel mean, deviation and mean step from pixel to pixel in a row; spread of the
    channels: (N, 3 C + 1), in units of 0..1. What networks are made blind to, and foreign images differ in."""
    parts = []
    for part in pixels.split(_ROWS):
        levels = part.float() / 255
        steps = (levels[..., 1:] - levels[..., :-1]).abs().mean((2, 3))
        spread = (levels.amax(1) - levels.amin(1)).mean((1, 2))
        moments = [levels.mean((2, 3)), levels.std((2, 3)), steps, spread[:, None]]
        parts.append(torch.cat(moments, 1))
    return torch.cat(parts)


def neighbour_distances(values: Tensor, neighbours: int = NEIGHBOURS) -> Tensor:
    """(N, D) -> the mean Euclidean distance of each to its nearest others, (N,)."""
    count = min(neighbours, len(values) - 1)
    parts = []
    for start in range(0, len(values), _ROWS):
        distances = torch.cdist(values[start : start + _ROWS], values)
        rows = torch.arange(len(distances))
        distances[rows, start + rows] = torch.inf  # itself
        parts.append(distances.topk(count, largest=False).values.mean(1))
    return torch.cat(parts)


def _standardised(values: Tensor) -> Tensor:
    """Each column by its mean and deviation, all columns together of the weight of one."""
    values = values.detach().float().cpu()
    scale = values.std(0).clamp(min=1e-4) * values.shape[1] ** 0.5
    return (values - values.mean(0)) / scale
