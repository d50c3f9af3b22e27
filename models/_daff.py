"""DAFF, dynamic aggregation feed-forward: Lu et al. 2022 (DHVT), arXiv 2210.05958, section 3.3."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ._maps import to_map, to_tokens


class DAFF(nn.Module):
    """A feed-forward of convolutions over the patch tokens, whose mean then scales the class token.

    The scale is a linear layer's output as it comes: there is no sigmoid.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, hidden, 1)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv3 = nn.Conv2d(hidden, width, 1)
        self.bn3 = nn.BatchNorm2d(width)
        self.compress = nn.Linear(width, width // 4)
        self.excitation = nn.Linear(width // 4, width)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Class token and h * w patch tokens (B, 1 + h * w, D), row by row for grid = (h, w) -> the same shape."""
        patches = self.mix(to_map(x, grid, prefix=1))
        squeezed = F.gelu(self.compress(patches.mean((2, 3))))
        scale = self.excitation(squeezed)
        cls = x[:, :1] * scale[:, None]
        return torch.cat([cls, to_tokens(patches)], dim=1)

    def mix(self, patches: Tensor) -> Tensor:
        """The convolutions alone: a map (B, D, h, w) -> the same shape."""
        hidden = F.gelu(self.bn1(self.conv1(patches)))
        hidden = hidden + F.gelu(self.bn2(self.conv2(hidden)))
        return self.bn3(self.conv3(hidden))
