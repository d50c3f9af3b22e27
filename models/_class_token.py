"""The forward pass of a transformer of one stage whose features are its class token."""

from torch import Tensor, nn

from ._maps import to_map


class ClassToken(nn.Module):
    """For networks with `tokens(x) -> (class and patch tokens (B, 1 + N, D), grid)`, `blocks`, called as
    block(tokens, grid), a final `norm` and the names of their `maps`."""

    def forward(self, x: Tensor) -> Tensor:
        x, grid = self.tokens(x)
        for block in self.blocks:
            x = block(x, grid)
        return self.norm(x[:, 0])

    def forward_maps(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The features of `forward` and every block's output as a map (B, D, h, w) of the patches' grid."""
        (x, grid), maps = self.tokens(x), {}
        for name, block in zip(self.maps, self.blocks, strict=True):
            x = block(x, grid)
            maps[name] = to_map(x, grid, prefix=1)
        return self.norm(x[:, 0]), maps
