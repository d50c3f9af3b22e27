"""Stored maps of whole images, cut, shifted and flipped as the images of a batch are.

A random resized crop by the published rule of Li et al. 2022 (arXiv 2207.10026): top, left, height and width as shares
of the image, times the map's size, each cut to a whole number; that part of the map is resampled to the map's size,
bilinearly. A shift of the padded image likewise: the offset in map steps is cut to a whole number, and what comes from
outside is 0. Both are one linear map for each axis, whose row i is weights over the source about a position.
B images, maps of `width` channels and h x w places.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.modules.utils import _pair

from ..augment.crop import CropBoxes
from ..augment.device import exact_products, send, send_together
from ..augment.shift import Shifts
from .augmentation import TrainDraws


@exact_products()
def transform_maps(
    maps: Tensor,
    draws: TrainDraws,
    source: tuple[int, int],
    size: int | tuple[int, int],
    padding: int,
) -> Tensor:
    """Maps (B, width, h, w) of whole images, and what was drawn for these, on the CPU -> float32 (B, width, h, w).

    source: height, width in px of the images that random resized crops were drawn for. size, padding: side in px of
    the images that shifts were drawn for, or height and width, and their border.
    """
    height, width = maps.shape[2:]
    if draws.crops is not None:
        rows, columns = _crop_positions(draws.crops, source, height, width)
    else:
        assert draws.shifts is not None
        rows, columns = _shift_positions(draws.shifts, size, padding, height, width)
    # Positions are float64, which stays on the CPU: MPS has none
    weights = _interpolation(rows), _interpolation(columns)
    row_weights, column_weights = send_together(weights, maps.device)
    narrowed = torch.einsum("bcij,bkj->bcik", maps.float(), column_weights)
    return torch.einsum("bli,bcik->bclk", row_weights, narrowed)


def stored_maps_of_batch(
    arrays: Mapping[str, Tensor],
    index: Tensor,
    draws: TrainDraws,
    *,
    names: Sequence[str],
    source: tuple[int, int],
    size: int | tuple[int, int],
    padding: int,
    device: torch.device | str = "cpu",
) -> list[Tensor]:
    """The maps of a batch, each float32 (B, width, h, w) on the device, cut and flipped as its images were.

    arrays: all images' maps (N, width, h, w) by name (weights/teacher_maps.py). index: (B,) of the images in the data
    set; draws: of the augmentation of these B; the rest as transform_maps'.
    """
    index = index.cpu()
    batch = []
    for name in names:
        maps = send(arrays[name][index], device)
        batch.append(transform_maps(maps, draws, source, size, padding))
    return batch


def _crop_positions(
    crops: CropBoxes, source: tuple[int, int], height: int, width: int
) -> tuple[Tensor, Tensor]:
    """Where each row and column of the resampled part comes from: (B, h), (B, w). The flip is after the crop."""
    top, left, crop_height, crop_width = crops.box.unbind(1)
    rows = _part_positions(top, crop_height, source[0], height)
    columns = _part_positions(left, crop_width, source[1], width)
    return rows, torch.where(crops.flipped[:, None], columns.flip(1), columns)


def _part_positions(start: Tensor, length: Tensor, side: int, steps: int) -> Tensor:
    """The same of one axis, (B, steps), in steps of the whole map. start, length (B,) and side in px."""
    start = (start.double() / side * steps).long()
    length = (length.double() / side * steps).long()
    length = length.clamp(min=1)  # a small map may have none left, where the published code fails
    start, length = start[:, None], length[:, None]
    centres = (torch.arange(steps) + 0.5) * (length / steps) - 0.5
    return start + centres.clamp(min=0).minimum(length - 1)


def _shift_positions(
    shifts: Shifts, size: int | tuple[int, int], padding: int, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """Where each row and column of the shifted map comes from: (B, h), (B, w). The flip was before the shift."""
    offsets = (shifts.start - padding).double() / torch.tensor(
        _pair(size)
    )  # as shares of the image
    row_offsets = (offsets[:, 0] * height).trunc()
    column_offsets = (offsets[:, 1] * width).trunc()
    rows = torch.arange(height) + row_offsets[:, None]
    columns = torch.arange(width) + column_offsets[:, None]
    return rows, torch.where(shifts.flipped[:, None], width - 1 - columns, columns)


def _interpolation(positions: Tensor) -> Tensor:
    """The weights of linear interpolation at positions (B, n) between n values: (B, n, n); 0 for positions outside."""
    steps = torch.arange(positions.shape[1])
    distances = (positions[..., None] - steps).abs()
    return (1 - distances).clamp(min=0).float()
