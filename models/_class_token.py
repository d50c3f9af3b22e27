"""A token in front of the patches, and the forward pass of a transformer whose features it is."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ._maps import Grid, Map, to_map


def prepend(token: Tensor, x: Tensor) -> Tensor:
    """Tokens (1, n, D) in front of every image's tokens (B, N, D), in their type: (B, n + N, D)."""
    first = token.expand(x.shape[0], -1, -1)
    return torch.cat([first.to(x.dtype), x], dim=1)


class ClassToken(nn.Module):
    """For networks with `tokens(x) -> (class and patch tokens (B, 1 + N, D), grid)`, `blocks`, called as
    block(tokens, grid), a final `norm` and the names of their `maps`."""

    blocks: nn.ModuleList
    norm: nn.LayerNorm
    maps: dict[str, Map]
    if TYPE_CHECKING:

        def tokens(self, x: Tensor) -> tuple[Tensor, Grid]: ...

    def forward(self, x: Tensor) -> Tensor:
        x, grid = self.tokens(x)
        for block in self.blocks:
            x = block(x, grid)
        return self.norm(x[:, 0])

    def forward_maps(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The features of `forward` and every block's output as a map (B, D, h, w) of the patches' grid."""
        x, grid = self.tokens(x)
        maps = {}
        for name, block in zip(self.maps, self.blocks, strict=True):
            x = block(x, grid)
            maps[name] = to_map(x, grid, prefix=1)
        return self.norm(x[:, 0]), maps
