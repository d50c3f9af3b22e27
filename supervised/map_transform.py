"""Stored maps of whole images, cut, shifted and flipped as the images of a batch are.

A random resized crop by the published rule of Li et al. 2022 (arXiv 2207.10026): top, left, height and width as shares
of the image, times the map's size, each cut to a whole number; that part of the map is resampled to the map's size,
bilinearly. A shift of the padded image likewise: the offset in map steps is cut to a whole number, and what comes from
outside is 0. Both are one linear map for each axis, whose row i is weights over the source about a position.
"""

import torch
from torch import Tensor

from ..augment.device import send
from ..augment.shift import Shifts
from .augmentation import TrainDraws


def follow(
    maps: Tensor, draws: TrainDraws, source: tuple[int, int], size: int, padding: int
) -> Tensor:
    """Maps (B, width, h, w) of whole images, and what was drawn for these, on the CPU -> float32 (B, width, h, w).

    source: height, width in px of the images that random resized crops were drawn for. size, padding: side in px of
    the images that shifts were drawn for, and their border.
    """
    shape = tuple(maps.shape[2:])
    if draws.crops is not None:
        rows, columns = (
            _crop(*draws.crops.box[:, axis::2].T, source[axis], shape[axis]) for axis in (0, 1)
        )
        columns = torch.where(draws.crops.flipped[:, None], columns.flip(1), columns)
    else:
        rows, columns = _shifts(draws.shifts, size, padding, shape)
    rows, columns = (_weights(send(position, maps.device)) for position in (rows, columns))
    narrow = torch.einsum("bcij,bkj->bcik", maps.float(), columns)
    return torch.einsum("bli,bcik->bclk", rows, narrow)


def _crop(start: Tensor, length: Tensor, side: int, size: int) -> Tensor:
    """Where each step of the resampled part comes from, one axis: (B, size), in steps of the whole map."""
    start, length = ((values.double() / side * size).long() for values in (start, length))
    length = length.clamp(
        min=1
    )  # of a small map nothing may be left, where the published code fails
    centres = (torch.arange(size) + 0.5) * (length[:, None] / size) - 0.5
    return start[:, None] + centres.clamp(min=0).minimum(length[:, None] - 1)


def _shifts(
    draws: Shifts, size: int, padding: int, shape: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Where each row and column of the shifted map comes from: (B, h), (B, w). The flip was before the shift."""
    offsets = (draws.start - padding).double() / size
    rows, columns = (
        torch.arange(steps) + (offset * steps).trunc()[:, None]
        for offset, steps in zip(offsets.T, shape, strict=True)
    )
    return rows, torch.where(draws.flipped[:, None], shape[1] - 1 - columns, columns)


def _weights(position: Tensor) -> Tensor:
    """Linear interpolation at positions (B, n) between n values: (B, n, n); nothing where they lie outside."""
    steps = torch.arange(position.shape[1], device=position.device)
    return (1 - (position[..., None] - steps).abs()).clamp(min=0).float()
