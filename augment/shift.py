"""Horizontal flips, and crops of the zero-padded image: a shift by a few pixels."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .device import send
from .draws import Draws


@dataclass(frozen=True)
class Shifts(Draws):
    """Per image: row and column of the padded image where the crop starts, (B, 2) int64; whether flipped, (B,) bool."""

    start: torch.Tensor
    flipped: torch.Tensor


def draw(batch: int, padding: int, flip: float, generator: torch.Generator) -> Shifts:
    """Uniform positions within the padding on either side, flips with probability `flip`."""
    start = torch.randint(2 * padding + 1, (batch, 2), generator=generator)
    return Shifts(start, torch.rand(batch, generator=generator) < flip)


def apply(images: torch.Tensor, draws: Shifts, padding: int) -> torch.Tensor:
    """Flip, pad with zeros, crop to the original size: (B, C, H, W) of any dtype and device -> the same."""
    height, width = images.shape[2:]
    start, flipped = (send(field, images.device) for field in (draws.start, draws.flipped))
    images = torch.where(flipped[:, None, None, None], images.flip(3), images)
    windows = (
        F.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    )  # a view (B, C, rows, columns, H, W)
    return windows[torch.arange(len(images), device=images.device), :, start[:, 0], start[:, 1]]
