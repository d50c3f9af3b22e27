"""The random numbers of corruptions: a function of a seed and of the image's number in its set.

So they depend neither on the batch that an image is in nor on the device, and all networks are shown the same images.
B images.
"""

import math
import zlib

import torch
from torch import Tensor

from . import noise


def image_seeds(index: Tensor, *key: int | str) -> Tensor:
    """Seeds (B,) int64 below 2^32 for the images of these numbers (B,), and for a key such as (seed, "snow", 3)."""
    words = " ".join(map(str, key))
    return noise.hash32(index ^ zlib.crc32(words.encode()))


class ImageRandom:
    """Gives each image numbers of its own, others each time it is asked."""

    def __init__(self, seeds: Tensor):
        """seeds (B,) int64 below 2^32, on the device where the numbers are wanted."""
        self._seeds, self._times = seeds, 0

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers (B, *shape) float32."""
        return noise.normal(self._next(), shape)

    def uniform(self, *shape: int) -> Tensor:
        """Numbers of [0, 1), (B, *shape) float32, multiples of 2^-24."""
        place = torch.arange(math.prod(shape), device=self._seeds.device)
        bits = noise.hash32(self._next()[:, None] ^ noise.hash32(place))
        return ((bits >> 8) / 2**24).view(-1, *shape)

    def between(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform numbers of [low, high), (B, *shape) float32."""
        return low + (high - low) * self.uniform(*shape)

    def _next(self) -> Tensor:
        self._times += 1
        turn = int(noise.hash32(torch.tensor(self._times)))
        return noise.hash32(self._seeds ^ turn)
