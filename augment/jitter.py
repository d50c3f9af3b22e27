"""Colour jitter of uint8 images: brightness, contrast and saturation, each by its own factor and in random order."""

from dataclasses import dataclass
from itertools import permutations

import torch

from . import colour
from .device import send
from .draws import Draws

ORDERS = tuple(permutations(range(4)))


@dataclass(frozen=True)
class Jitter(Draws):
    """Per image: the operation at each turn, (B, 4) int64, and each operation's factor, (B, 4), as in colour.py."""

    order: torch.Tensor
    factors: torch.Tensor


def draw(batch: int, strength: float, generator: torch.Generator) -> Jitter:
    """Factors are uniform in 1 +- strength, which is at most 1; the hue stays."""
    order = torch.tensor(ORDERS)[torch.randint(len(ORDERS), (batch,), generator=generator)]
    spread = torch.tensor([strength, strength, strength, 0.0])
    factors = torch.tensor(colour.IDENTITY) + spread * (
        2 * torch.rand(batch, 4, generator=generator) - 1
    )
    return Jitter(order, factors)


def apply(images: torch.Tensor, draws: Jitter) -> torch.Tensor:
    """uint8 images (B, C, H, W) on any device, draws on the CPU -> uint8."""
    planes = images.transpose(0, 1).float().contiguous()
    colour.jitter_(planes, *(send(field, images.device) for field in (draws.order, draws.factors)))
    return planes.round_().to(torch.uint8).transpose(0, 1).contiguous()
