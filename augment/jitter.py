"""Colour jitter of uint8 images: brightness, contrast and saturation, each by its own factor and in random order."""

from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor

from . import colour
from .changes import Change, in_turn
from .draws import Draws

ORDERS = tuple(permutations(range(4)))


@dataclass(frozen=True)
class Jitter(Draws):
    """Per image: the operation at each turn, (B, 4) int64, and each operation's factor, (B, 4), as in colour.py."""

    order: Tensor
    factors: Tensor


def draw(batch: int, strength: float, generator: torch.Generator) -> Jitter:
    """Factors are uniform in 1 +- strength, which is at most 1; the hue stays."""
    chosen = torch.randint(len(ORDERS), (batch,), generator=generator)
    order = torch.tensor(ORDERS)[chosen]
    spread = torch.tensor([strength, strength, strength, 0.0])
    deviation = 2 * torch.rand(batch, 4, generator=generator) - 1
    factors = torch.tensor(colour.IDENTITY) + spread * deviation
    return Jitter(order, factors)


def apply(images: Tensor, draws: Jitter) -> Tensor:
    """uint8 images (B, C, H, W) on any device, draws on the CPU -> uint8."""
    return in_turn(images, [change(draws)])


def change(draws: Jitter) -> Change:
    """The same, to be run later."""
    return Change((draws.order, draws.factors), _jitter)


def _jitter(images: Tensor, order: Tensor, factors: Tensor) -> Tensor:
    planes = images.transpose(0, 1).float().contiguous()
    colour.jitter_(planes, order, factors)
    levels = planes.round_().to(torch.uint8)
    return levels.transpose(0, 1).contiguous()
