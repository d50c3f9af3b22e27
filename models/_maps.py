"""Feature maps: what a backbone computed in each block, as images (B, D, h, w)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Grid = tuple[int, int]
"""Rows and columns of tokens."""


class Map(NamedTuple):
    """A feature map's channels and how many input pixels one of its steps spans."""

    width: int
    stride: int


def block_maps(count: int, width: int, stride: int) -> tuple[dict[str, Map], tuple[str, ...]]:
    """The maps of `count` blocks of one stage, "blocks.0" first, and the name of the last one."""
    return stage_maps([Map(width, stride)], [count])


def stage_maps(
    sizes: Sequence[Map], depths: Sequence[int]
) -> tuple[dict[str, Map], tuple[str, ...]]:
    """The map of every block, "blocks.0" first, and the names of those that end a stage.

    sizes, depths: the maps and the number of blocks of each stage.
    """
    maps: dict[str, Map] = {}
    ends = []
    for size, depth in zip(sizes, depths, strict=True):
        for _ in range(depth):
            name = f"blocks.{len(maps)}"
            maps[name] = size
        ends.append(name)
    return maps, tuple(ends)


def patch_grid(images: Tensor, patch_size: int) -> Grid:
    """How many patches of `patch_size` px lie below and beside each other in images (B, C, h, w)."""
    height, width = images.shape[-2:]
    return height // patch_size, width // patch_size


def channels_last_on_cpu(images: Tensor) -> Tensor:
    """The same images (B, C, h, w), on a CPU with a pixel's channels side by side in memory.

    There pooling takes a tenth of its time forward, and narrow convolutions less. Batch norm is less exact with it.
    """
    if images.device.type != "cpu":
        return images
    return images.to(memory_format=torch.channels_last)  # `contiguous` leaves one channel as it is


def map_grid(maps: Tensor) -> Grid:
    """(h, w) of a map (B, D, h, w)."""
    height, width = maps.shape[-2:]
    return height, width


def to_map(tokens: Tensor, grid: Grid, prefix: int = 0) -> Tensor:
    """Tokens (B, prefix + h * w, D), row by row, -> a map (B, D, h, w) for grid = (h, w), without the prefix tokens."""
    patches = tokens[:, prefix:]
    return patches.transpose(1, 2).unflatten(2, grid)


def to_tokens(maps: Tensor) -> Tensor:
    """A map (B, D, h, w) -> tokens (B, h * w, D), row by row."""
    return maps.flatten(2).transpose(1, 2)
