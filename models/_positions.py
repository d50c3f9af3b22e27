"""Learned position tables at sizes other than their own."""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor


def resample(table: Tensor, grid: tuple[int, int], mode: str = "bicubic") -> Tensor:
    """Bicubic or bilinear resampling of a square table (1, G * G, D) to (1, h * w, D) for grid = (h, w).

    Bicubic as in DINO's code (Caron et al. 2021, arXiv 2104.14294): the sampling grid follows from the scale
    (h + 0.1) / G (0.1 keeps a row from rounding away): source = (i + 0.5) / scale - 0.5; bilinear has the plain scale
    h / G. Products with small matrices, since the gradient of F.interpolate on the table itself is not deterministic
    on CUDA.
    """
    side = math.isqrt(table.shape[1])
    if grid == (side, side):
        return table
    height, width = grid
    with torch.autocast(table.device.type, enabled=False):  # it is small: keep full precision
        rows = _weights(side, height, table, mode)
        columns = _weights(side, width, table, mode)
        square = table.unflatten(1, (side, side))
        resampled = torch.einsum("hr,wc,brcd->bhwd", rows, columns, square)
        return resampled.flatten(1, 2)


def _weights(side: int, size: int, like: Tensor, mode: str) -> Tensor:
    """The (size, side) matrix of weights along one axis, in the table's type and on its device."""
    identity = torch.eye(side, device=like.device, dtype=like.dtype)[None, None]
    resize = partial(F.interpolate, identity, mode=mode, align_corners=False)
    if mode == "bilinear":
        return resize(size=(size, side))[0, 0]
    scale = (size + 0.1) / side
    return resize(scale_factor=(scale, 1.0))[0, 0]


def fit_table(table: Tensor, like: Tensor, prefix: int = 0, mode: str = "bicubic") -> Tensor:
    """A saved table (1, prefix + g * g, D) resampled to the length of `like`; untouched when they cannot correspond."""
    old = table.shape[1] - prefix
    new = like.shape[1] - prefix
    if table.ndim != 3 or old == new or table.shape[2] != like.shape[2]:
        return table
    if math.isqrt(old) ** 2 != old:
        return table
    side = math.isqrt(new)
    first, patches = table[:, :prefix], table[:, prefix:]
    resampled = resample(patches, (side, side), mode)
    return torch.cat([first, resampled], dim=1)
