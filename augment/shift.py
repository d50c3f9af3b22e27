"""Horizontal flips, and crops of the padded image: a shift by a few pixels."""

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from .changes import Change, in_turn
from .draws import Draws


@dataclass(frozen=True)
class Shifts(Draws):
    """Per image: row and column of the padded image where the crop starts, (B, 2) int64; whether flipped, (B,) bool."""

    start: Tensor
    flipped: Tensor


def draw(batch: int, padding: int, flip: float, generator: torch.Generator) -> Shifts:
    """Uniform positions within the padding on either side, flips with probability `flip`."""
    start = torch.randint(2 * padding + 1, (batch, 2), generator=generator)
    flipped = torch.rand(batch, generator=generator) < flip
    return Shifts(start, flipped)


def apply(images: Tensor, draws: Shifts, padding: int, edge: bool = False) -> Tensor:
    """Flip, pad, crop to the original size: (B, C, H, W) of any dtype and device -> the same.

    Padded with zeros, or with edge=True by the pixels of the border, which keep an image's brightness and contrast.
    """
    return in_turn(images, [change(draws, padding, edge)])


def change(draws: Shifts, padding: int, edge: bool = False) -> Change:
    """The same, to be run later."""
    return Change((draws.start, draws.flipped), partial(_shift, padding=padding, edge=edge))


def _shift(images: Tensor, start: Tensor, flipped: Tensor, padding: int, edge: bool) -> Tensor:
    height, width = images.shape[2:]
    top, left = start.unbind(1)
    images = torch.where(flipped[:, None, None, None], images.flip(3), images)
    margins = (padding, padding, padding, padding)
    padded = _repeat_edges(images, margins) if edge else F.pad(images, margins)
    # A view (B, C, rows, columns, H, W) of every window that the padding allows.
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    image = torch.arange(len(images), device=images.device)
    return windows[image, :, top, left]


def _repeat_edges(images: Tensor, margins: tuple[int, ...]) -> Tensor:
    """torch repeats edges of floats alone."""
    return F.pad(images.float(), margins, mode="replicate").to(images.dtype)
