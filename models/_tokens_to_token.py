"""Tokens-to-token: Yuan et al. 2021, arXiv 2101.11986, section 3.1. Overlapping windows become tokens, three times."""

from collections.abc import Callable

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ._maps import Grid, to_map
from ._sizes import check_images

WINDOWS = (7, 3, 3)  # of the three splits; the last two step 2, the first one patch_size / 4
PATCHES = (4, 8, 12, 16)  # px per token, so that the first windows overlap
SMALLEST = 3  # px: what a first window needs beside its padding


class TokensToToken(nn.Module):
    """Images (B, C, h, w) -> tokens (B, N, dim) and their grid, about one step of `patch_size` px each.

    `stage(in_width, token_width)` builds what stands between two splits: a module called with tokens (B, N, in_width)
    and their grid (h, w) that returns (B, N, token_width). ValueError unless patch_size is a multiple of 4, and in
    `forward` for images that do not fill a window.
    """

    def __init__(
        self,
        in_channels: int,
        token_width: int,
        dim: int,
        patch_size: int,
        stage: Callable[[int, int], nn.Module],
    ) -> None:
        super().__init__()
        if patch_size not in PATCHES:
            patches = ", ".join(map(str, PATCHES))
            raise ValueError(f"patch size {patch_size}: tokens-to-token takes {patches} px")
        self.in_channels, self.patch_size = in_channels, patch_size
        self.strides = (patch_size // 4, 2, 2)
        first, second, third = WINDOWS
        stages = [
            stage(in_channels * first**2, token_width),
            stage(token_width * second**2, token_width),
        ]
        self.stages = nn.ModuleList(stages)
        self.project = nn.Linear(token_width * third**2, dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Grid]:
        check_images(x, self.in_channels, 1)
        height, width = x.shape[-2:]
        if min(height, width) < SMALLEST:
            raise ValueError(
                f"images of {height} x {width} px are too small; {SMALLEST} px is the least"
            )
        for window, stride, stage in zip(WINDOWS, self.strides, self.stages, strict=False):
            tokens, grid = soft_split(x, window, stride)
            x = to_map(stage(tokens, grid), grid)
        tokens, grid = soft_split(x, WINDOWS[-1], self.strides[-1])
        return self.project(tokens), grid

    def side(self, image_size: int) -> int:
        """The side of the grid of a square image."""
        for window, stride in zip(WINDOWS, self.strides, strict=True):
            image_size = steps(image_size, window, stride)
        return image_size


def soft_split(x: Tensor, window: int, stride: int) -> tuple[Tensor, Grid]:
    """Overlapping windows: a map (B, C, h, w) -> tokens (B, N, C * window * window) and the grid that they stand on."""
    height, width = x.shape[2:]
    grid = (steps(height, window, stride), steps(width, window, stride))
    windows = F.unfold(x, window, padding=padding(window, stride), stride=stride)
    return windows.transpose(1, 2), grid


def steps(size: int, window: int, stride: int) -> int:
    """How many windows fit along an axis of `size`: about size / stride."""
    padded = size + 2 * padding(window, stride)
    return (padded - window) // stride + 1


def padding(window: int, stride: int) -> int:
    """Zeros before and behind an axis; the published 2 px for 7 px at steps of 4, and 1 for 3 at steps of 2."""
    return (window - stride + 1) // 2
