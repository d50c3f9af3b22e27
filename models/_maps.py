"""Feature maps: what a backbone computed in each block, as images (B, D, h, w)."""

from typing import NamedTuple

from torch import Tensor


class Map(NamedTuple):
    """A feature map's channels and how many input pixels one of its steps spans."""

    width: int
    stride: int


def to_map(tokens: Tensor, grid: tuple[int, int], prefix: int = 0) -> Tensor:
    """Tokens (B, prefix + h * w, D), row by row, -> a map (B, D, h, w) for grid = (h, w), without the prefix tokens."""
    return tokens[:, prefix:].transpose(1, 2).unflatten(2, grid)


def to_tokens(maps: Tensor) -> Tensor:
    """A map (B, D, h, w) -> tokens (B, h * w, D), row by row."""
    return maps.flatten(2).transpose(1, 2)
