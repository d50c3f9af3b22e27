"""Noise as a function of a seed per image and the pixel's place, so that no device or rank makes a difference to it."""

import math

import torch
from torch import Tensor

_LOW_32_BITS = 0xFFFFFFFF


def normal(seeds: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Standard normal numbers (B, *shape) float32 on the seeds' device, for seeds (B,) int64 below 2^32.

    Two hashes of (seed, place) are the uniform numbers of Box and Muller's transform.
    """
    place = torch.arange(math.prod(shape), device=seeds.device)
    start = hash32(seeds)[:, None]
    first = hash32(start ^ hash32(2 * place))
    second = hash32(start ^ hash32(2 * place + 1))
    uniform = (first + 0.5) / 2**32
    angle = second * (2 * math.pi / 2**32)
    radius = (-2 * uniform.log()).sqrt()
    return (radius * angle.cos()).view(-1, *shape)


def hash32(numbers: Tensor) -> Tensor:
    """32 bits that look random from 32 bits, held in int64, one to one.

    Shifts and factors are those of lowbias32, which its author Christopher Wellons searched for (2018, public domain).
    """
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        numbers = (numbers ^ (numbers >> shift)) * factor
        numbers = numbers & _LOW_32_BITS
    return numbers ^ (numbers >> 16)
