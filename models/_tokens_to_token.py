"""Tokens-to-token: Yuan et al. 2021, arXiv 2101.11986, section 3.1. Overlapping windows become tokens, three times."""

from collections.abc import Callable

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ._maps import to_map

WINDOWS = (7, 3, 3)  # px
LATER_STRIDE = 4  # of the second and the third split together


class TokensToToken(nn.Module):
    """Images (B, C, h, w) -> tokens (B, N, dim) and their grid, about one step of `patch_size` px each.

    `stage(in_width, token_width)` builds what stands between two splits: a module called with tokens (B, N, in_width)
    and their grid (h, w) that returns (B, N, token_width).
    """

    def __init__(
        self, in_channels: int, token_width: int, dim: int, patch_size: int, stage: Callable[[int, int], nn.Module]
    ) -> None:
        super().__init__()
        self.strides = (patch_size // LATER_STRIDE, 2, 2)
        first, second, third = WINDOWS
        self.stages = nn.ModuleList(
            [stage(in_channels * first**2, token_width), stage(token_width * second**2, token_width)]
        )
        self.project = nn.Linear(token_width * third**2, dim)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        for window, stride, stage in zip(WINDOWS, self.strides, self.stages, strict=False):
            tokens, grid = soft_split(x, window, stride)
            x = to_map(stage(tokens, grid), grid)
        tokens, grid = soft_split(x, WINDOWS[-1], self.strides[-1])
        return self.project(tokens), grid


def check_patch_size(patch_size: int) -> None:
    """ValueError unless the first split's stride is a whole number of px."""
    if patch_size < LATER_STRIDE or patch_size % LATER_STRIDE:
        raise ValueError(
            f"patch size {patch_size}: tokens-to-token steps 2 x 2 px after its first split, so it takes multiples of 4"
        )


def soft_split(x: Tensor, window: int, stride: int) -> tuple[Tensor, tuple[int, int]]:
    """Overlapping windows: a map (B, C, h, w) -> tokens (B, N, C * window * window) and the grid that they stand on.

    Zeros around the map give a grid of about size / stride.
    """
    padding = (window - stride + 1) // 2
    grid = tuple((size + 2 * padding - window) // stride + 1 for size in x.shape[-2:])
    return F.unfold(x, window, padding=padding, stride=stride).transpose(1, 2), grid
