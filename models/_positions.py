"""Learned position tables at sizes other than their own."""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ._maps import Grid


def resample(
    table: Tensor, grid: Grid, mode: str = "bicubic", *, own: Grid | None = None
) -> Tensor:
    """Bicubic or bilinear resampling of a table (1, G * G, D), or of a grid `own`, to (1, h * w, D) for grid = (h, w).

    Bicubic as in DINO's code (Caron et al. 2021, arXiv 2104.14294): the sampling grid follows from the scale
    (h + 0.1) / G (0.1 keeps a row from rounding away): source = (i + 0.5) / scale - 0.5; bilinear has the plain scale
    h / G. Products with small matrices, since the gradient of F.interpolate on the table itself is not deterministic
    on CUDA.
    """
    own = own or _square(table.shape[1])
    if grid == own:
        return table
    height, width = grid
    with torch.autocast(table.device.type, enabled=False):  # it is small: keep full precision
        rows = _weights(own[0], height, table, mode)
        columns = _weights(own[1], width, table, mode)
        positions = table.unflatten(1, own)
        resampled = torch.einsum("hr,wc,brcd->bhwd", rows, columns, positions)
        return resampled.flatten(1, 2)


def _weights(side: int, size: int, like: Tensor, mode: str) -> Tensor:
    """The (size, side) matrix of weights along one axis, in the table's type and on its device."""
    identity = torch.eye(side, device=like.device, dtype=like.dtype)[None, None]
    resize = partial(F.interpolate, identity, mode=mode, align_corners=False)
    if mode == "bilinear":
        return resize(size=(size, side))[0, 0]
    scale = (size + 0.1) / side
    return resize(scale_factor=(scale, 1.0))[0, 0]


def fit_table(
    table: Tensor,
    like: Tensor,
    prefix: int = 0,
    mode: str = "bicubic",
    *,
    grid: Grid | None = None,
    saved: Grid | None = None,
) -> Tensor:
    """A saved table (1, prefix + g * g, D) resampled to the length of `like`; untouched when they cannot correspond.

    grid, saved: the grids of `like` and of the saved table (None: square ones).
    """
    if table.ndim != 3 or table.shape[2] != like.shape[2]:
        return table
    old, new = table.shape[1] - prefix, like.shape[1] - prefix
    grid, saved = grid or _square(new), saved or _square(old)
    if saved == grid or math.prod(saved) != old or math.prod(grid) != new:
        return table
    first, patches = table[:, :prefix], table[:, prefix:]
    return torch.cat([first, resample(patches, grid, mode, own=saved)], dim=1)


def _square(count: int) -> Grid:
    """The square grid of so many places; of fewer where no square has so many."""
    side = math.isqrt(count)
    return side, side
