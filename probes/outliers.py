"""Images that are unlike all others: far from their nearest neighbours. N images, D width."""

from typing import NamedTuple

import torch
from torch import Tensor

from .knn import search

NEIGHBOURS = 5
THRESHOLD = 5.0


class Outlier(NamedTuple):
    image: int
    score: float
    """Its distance to its neighbours, in deviations above the median of all images'."""


def outliers(
    features: Tensor, threshold: float = THRESHOLD, neighbours: int = NEIGHBOURS
) -> list[Outlier]:
    """Features (N, D) -> the images whose distance to their neighbours is far above the usual, the farthest first.

    Distance: one minus the mean cosine with the `neighbours` nearest others. Deviation: the median absolute one times
    1.4826, as of a normal distribution, above the median.
    """
    scores = distances(features, neighbours)
    if not len(scores):
        return []
    middle = scores.median()
    deviation = 1.4826 * (scores - middle).abs().median()
    scaled = (scores - middle) / deviation.clamp(min=1e-6)
    found = [
        Outlier(image, float(scaled[image]))
        for image in (scaled >= threshold).nonzero()[:, 0].tolist()
    ]
    return sorted(found, key=lambda outlier: (-outlier.score, outlier.image))


def distances(features: Tensor, neighbours: int = NEIGHBOURS) -> Tensor:
    """(N, D) -> one minus the mean cosine of each with its nearest others, (N,); of one image none: 0."""
    features = features.detach().float().cpu()
    count = min(neighbours, len(features) - 1)
    if count < 1:
        return torch.zeros(len(features))
    centred = features - features.mean(0)
    similarity, _ = search(centred, centred, count + 1)
    return 1 - similarity[:, 1:].mean(1)
