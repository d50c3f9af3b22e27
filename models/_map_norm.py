"""Layer norm of attention maps, with a weight and a bias for every pair of tokens, at any number of tokens.

The tables belong to the tokens of one grid. On another grid (crops of another size) they are resampled bilinearly, as
positions are: along the queries' grid and along the keys'. Tables of ones and zeros, the initial ones, stay what they
are, so that new networks start with a plain layer norm at every size; at the built size nothing is resampled.
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor


class MapNorm(nn.Module):
    """Maps (B, channels, N, N) normalised together, or with channels=None each row (N,) of them by itself.

    N = prefix + side^2 at the built size, prefix + h * w on a grid (h, w).
    """

    def __init__(self, channels: int | None, side: int, prefix: int) -> None:
        super().__init__()
        self.channels, self.side, self.prefix = channels, side, prefix
        tokens = prefix + side * side
        shape: tuple[int, ...] = (tokens,)
        if channels is not None:
            shape = (channels, tokens, tokens)
        self.weight = nn.Parameter(torch.ones(shape))
        self.bias = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        shape = x.shape[1:]
        if self.channels is None:
            shape = x.shape[-1:]
        if grid == (self.side, self.side):
            return F.layer_norm(x, shape, self.weight, self.bias)
        spread = spreading((self.side, self.side), grid, self.prefix, self.weight)
        weight = stretch(self.weight, spread)
        bias = stretch(self.bias, spread)
        return F.layer_norm(x, shape) * weight + bias


def stretch(table: Tensor, spread: Tensor) -> Tensor:
    """A table (N,) or (channels, N, N) on another grid, by the matrix that `spreading` gives."""
    stretched = table @ spread.T
    if table.ndim > 1:
        stretched = spread @ stretched
    return stretched


def spreading(old: tuple[int, int], new: tuple[int, int], prefix: int, like: Tensor) -> Tensor:
    """The matrix (prefix + h' w', prefix + h w) that takes values on grid `old` to grid `new`, prefix tokens as is."""
    rows = _spread_axis(old[0], new[0], like)
    columns = _spread_axis(old[1], new[1], like)
    unchanged = torch.eye(prefix, dtype=like.dtype, device=like.device)
    return torch.block_diag(unchanged, torch.kron(rows, columns))


def _spread_axis(old: int, new: int, like: Tensor) -> Tensor:
    """The matrix (new, old) of linear interpolation along one axis."""
    identity = torch.eye(old, dtype=like.dtype, device=like.device)[None]
    spread = F.interpolate(identity, size=new, mode="linear", align_corners=False)
    return spread[0].T


def fit_norm(table: Tensor, like: Tensor, prefix: int) -> Tensor:
    """A saved table of another square grid in the shape of `like`; untouched when they cannot correspond."""
    old = _side(table, prefix)
    new = _side(like, prefix)
    if table.shape == like.shape or not old or prefix + old * old != table.shape[-1]:
        return table
    if table.ndim != like.ndim or table.shape[:-2] != like.shape[:-2]:
        return table
    spread = spreading((old, old), (new, new), prefix, table)
    return stretch(table, spread)


def _side(table: Tensor, prefix: int) -> int:
    """The side of the grid of a table's last axis, prefix + side^2 tokens; rounded down."""
    patches = max(table.shape[-1] - prefix, 0)
    return math.isqrt(patches)
