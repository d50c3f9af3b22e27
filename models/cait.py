"""CaiT: Touvron et al. 2021, arXiv 2103.17239, in the small form of Gani et al. 2022, arXiv 2210.07240.

Layers and names are timm's Cait, which gives the reference's numbers at the table's own size. Ours are the position
table at other sizes and the patch embedding's initial values (the reference unfolds pixels into a Linear layer; here
the same map is a convolution).
"""

from functools import partial
from typing import Any

import torch.nn as nn
from timm.layers import PatchEmbed
from timm.models import cait as timm_cait
from torch import Tensor

from ._maps import Grid, block_maps, patch_grid, to_map
from ._positions import fit_table, resample
from ._sizes import check_images, default_patch, small_or_large, timm_sizes


def build(
    image_size: int,
    *,
    patch_size: int | None = None,
    in_channels: int = 3,
    embed_dim: int = 192,
    num_layers: int = 24,
    num_heads: int = 4,
    vit_mlp_ratio: float = 2.0,
    qkv_bias: bool = True,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.1,
    truncate_positions: bool = False,
) -> "CaiT":
    """A CaiT of `num_layers` blocks, then two of class attention; patches of 4 px up to 32 px images, else of 8 px.

    truncate_positions: smaller images take the first rows of the position table, as the reference does, instead of a
    resampled table. ValueError on sizes that clash.
    """
    if patch_size is None:
        patch_size = default_patch(image_size, small_or_large(image_size, 4, 8))
    sizes = timm_sizes(
        image_size,
        patch_size,
        in_channels,
        embed_dim,
        num_layers,
        num_heads,
        vit_mlp_ratio,
        qkv_bias,
        drop_rate,
        drop_path_rate,
    )
    return CaiT(truncate_positions, **sizes)


class CaiT(timm_cait.Cait):
    """Images (B, C, h, w) -> the normalised CLS token (B, dim); h and w any multiples of the patch size."""

    patch_embed: PatchEmbed
    blocks: nn.Sequential
    blocks_token_only: nn.ModuleList

    def __init__(self, truncate_positions: bool, **sizes: Any) -> None:
        layers: dict[str, Any] = {
            "norm_layer": partial(nn.LayerNorm, eps=1e-6),
            "patch_layer": partial(PatchEmbed, strict_img_size=False),
        }
        super().__init__(num_classes=0, init_values=1e-5, **layers, **sizes)
        convolution = self.patch_embed.proj
        nn.init.trunc_normal_(convolution.weight, std=0.02)
        assert convolution.bias is not None
        nn.init.zeros_(convolution.bias)
        self.truncate_positions = truncate_positions
        self.dim, self.patch_size = self.embed_dim, sizes["patch_size"]
        self.maps, self.stages = block_maps(len(self.blocks), self.dim, self.patch_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.blocks(self.tokens(x)))

    def forward_maps(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The features of `forward` and the output of every block before class attention as a map (B, D, h, w)."""
        grid = patch_grid(x, self.patch_size)
        x = self.tokens(x)
        maps = {}
        for name, block in zip(self.maps, self.blocks, strict=True):
            x = block(x)
            maps[name] = to_map(x, grid)
        return self.pool(x), maps

    def tokens(self, x: Tensor) -> Tensor:
        """Images (B, C, h, w) -> patch tokens with their positions (B, N, D)."""
        check_images(x, self.patch_embed.proj.in_channels, self.patch_size)
        positions = self.positions(patch_grid(x, self.patch_size))
        return self.pos_drop(self.patch_embed(x) + positions)

    def pool(self, x: Tensor) -> Tensor:
        """Class attention: patch tokens (B, N, D) -> the normalised CLS token (B, D)."""
        cls = self.cls_token.expand(x.shape[0], -1, -1)
        for block in self.blocks_token_only:
            cls = block(x, cls)
        return self.norm(cls[:, 0])

    def positions(self, grid: Grid) -> Tensor:
        """The position table (1, h * w, D) for grid = (h, w)."""
        if not self.truncate_positions:
            return resample(self.pos_embed, grid)
        tokens = grid[0] * grid[1]
        rows = self.pos_embed.shape[1]
        if tokens > rows:
            raise ValueError(
                f"an image of {tokens} patches needs more than these {rows} positions; leave truncate_positions out"
            )
        return self.pos_embed[:, :tokens]


def adapt(state: dict[str, Tensor], model: CaiT) -> dict[str, Tensor]:
    """A backbone's state dict, the reference's or ours at another image size, with this model's names and table length.

    The reference's patch embedding `patch_embed.1` is a Linear layer over pixels in the order (row, column, channel).
    """
    state = {key.replace("patch_embed.1.", "patch_embed.proj."): state[key] for key in state}
    convolution = model.patch_embed.proj.weight
    linear = state.get("patch_embed.proj.weight")
    if linear is not None and linear.ndim == 2 and linear.numel() == convolution.numel():
        width, channels, patch, _ = convolution.shape
        pixels = linear.view(width, patch, patch, channels)
        state["patch_embed.proj.weight"] = pixels.permute(0, 3, 1, 2).contiguous()
    if "pos_embed" in state:
        state["pos_embed"] = fit_table(state["pos_embed"], model.pos_embed)
    return state
