"""LocalViT-TNT: Li et al. 2021, arXiv 2104.05707: a transformer in transformer with the locality feed-forward.

TNT (Han et al. 2021, arXiv 2103.00112) has two streams: the few pixels within each patch, and the patches. Names and
numbers are those of github.com/ofsoundof/LocalViT (MIT), where the class token skips the feed-forward, so that the last
block's changes its map but not the features. Attention and inner MLP are timm's. The rest is written out, since timm's
TNT takes images of one size only.
"""

from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import DropPath, Mlp
from timm.models.tnt import Attention
from torch import Tensor

from ._depth import residual
from ._initialise import initialise_linear
from ._locality import LocalityFeedForward
from ._maps import Map, to_map
from ._positions import fit_table, resample
from ._sizes import check_heads, check_images, check_layers, check_patch

# Px per step of the inner stream; hidden channels per channel of the inner MLP
STRIDE, INNER_RATIO = (
    4,
    4,
)
TINY = {"image_size": 224, "patch_size": 16}
VARIANTS = {
    "localvit_tnt_t_patch16_224": TINY,
    "localvit_tnt_s_patch16_224": TINY
    | {"embed_dim": 384, "num_heads": 6, "inner_dim": 24, "inner_heads": 4},
}


def build(
    image_size: int,
    *,
    patch_size: int | None = None,
    in_channels: int = 3,
    embed_dim: int = 192,
    num_layers: int = 12,
    num_heads: int = 3,
    inner_dim: int = 12,
    inner_heads: int = 3,
    vit_mlp_ratio: float = 4.0,
    qkv_bias: bool = False,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.1,
    act: str = "hs+se",
    locality_drop_path: bool = False,
) -> "TNT":
    """A LocalViT-TNT for square images of `image_size` px; patches of 16 px, or of 8 or 4 where 16 leave no 4 a side.

    patch_size: a multiple of 4, the pixels' own stride. inner_dim, inner_heads: the pixel stream's. act: one of
    _locality.ACTS. ValueError on sizes that clash.
    """
    patch_size = default_patch(image_size) if patch_size is None else patch_size
    check_patch(image_size, patch_size)
    if patch_size % STRIDE:
        raise ValueError(
            f"patch size {patch_size}: TNT divides patches into steps of {STRIDE} px; take a multiple"
        )
    check_heads(embed_dim, num_heads)
    check_heads(inner_dim, inner_heads)
    check_layers(num_layers)
    sizes = {
        "inner_dim": inner_dim,
        "inner_heads": inner_heads,
        "pixels": (patch_size // STRIDE) ** 2,
    }
    locality: dict[str, Any] = {"ratio": vit_mlp_ratio, "act": act, "reduction": embed_dim}
    rates = torch.linspace(0, drop_path_rate, num_layers, device="cpu").tolist()
    blocks = [
        Block(
            embed_dim,
            num_heads,
            **sizes,
            qkv_bias=qkv_bias,
            drop=drop_rate,
            drop_path=rate,
            locality_drop_path=locality_drop_path,
            **locality,
        )
        for rate in rates
    ]
    return TNT(image_size, patch_size, in_channels, embed_dim, inner_dim, blocks, drop_rate)


def default_patch(image_size: int) -> int:
    """16 px, or 8 or 4 where the image is smaller than 4 patches a side or no multiple; ValueError if none fits."""
    sizes = [size for size in (16, 8, 4) if image_size % size == 0]
    if not sizes:
        raise ValueError(f"image size {image_size} must be a multiple of {STRIDE} px")
    return next((size for size in sizes if image_size >= 4 * size), sizes[-1])


class TNT(nn.Module):
    """Images (B, C, h, w) -> the normalised class token (B, dim); h and w any multiples of the patch size."""

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        in_channels: int,
        width: int,
        inner_dim: int,
        blocks: list["Block"],
        drop_rate: float,
    ) -> None:
        super().__init__()
        self.dim, self.patch_size, self.in_channels = width, patch_size, in_channels
        side, within = image_size // patch_size, patch_size // STRIDE
        self.pixel_embed = PixelEmbed(in_channels, inner_dim, within)
        self.norm1_proj = nn.LayerNorm(within**2 * inner_dim)
        self.proj = nn.Linear(within**2 * inner_dim, width)
        self.norm2_proj = nn.LayerNorm(width)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.patch_pos = nn.Parameter(torch.empty(1, 1 + side * side, width))
        self.pixel_pos = nn.Parameter(torch.empty(1, inner_dim, within, within))
        self.pos_drop = nn.Dropout(drop_rate)
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width)
        self.maps = {f"blocks.{index}": Map(width, patch_size) for index in range(len(blocks))}
        self.stages = tuple(self.maps)[-1:]
        for table in (self.cls_token, self.patch_pos, self.pixel_pos):
            nn.init.trunc_normal_(table, std=0.02)
        self.apply(initialise_linear)

    def forward(self, x: Tensor) -> Tensor:
        pixels, patches, grid = self.tokens(x)
        for block in self.blocks:
            pixels, patches = block(pixels, patches, grid)
        return self.norm(patches[:, 0])

    def forward_maps(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The features of `forward` and every block's patches as a map (B, D, h, w)."""
        (pixels, patches, grid), maps = self.tokens(x), {}
        for name, block in zip(self.maps, self.blocks, strict=True):
            pixels, patches = block(pixels, patches, grid)
            maps[name] = to_map(patches, grid, prefix=1)
        return self.norm(patches[:, 0]), maps

    def tokens(self, x: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """Images -> pixels (B * N, n, d), class and patch tokens (B, 1 + N, D), and the patches' rows and columns."""
        check_images(x, self.in_channels, self.patch_size)
        grid = (x.shape[-2] // self.patch_size, x.shape[-1] // self.patch_size)
        pixels = self.pixel_embed(x, self.pixel_pos)
        flat = pixels.flatten(1).unflatten(0, (x.shape[0], -1))
        patches = self.norm2_proj(self.proj(self.norm1_proj(flat))) + resample(
            self.patch_pos[:, 1:], grid
        )
        cls = (self.cls_token + self.patch_pos[:, :1]).expand(x.shape[0], -1, -1)
        return pixels, self.pos_drop(torch.cat([cls.to(patches.dtype), patches], dim=1)), grid


class PixelEmbed(nn.Module):
    """Images (B, C, h, w) and a table (1, d, n, n) -> n * n overlapping pixels of each patch (B * N, n * n, d)."""

    def __init__(self, in_channels: int, inner_dim: int, within: int) -> None:
        super().__init__()
        self.within = within
        self.proj = nn.Conv2d(in_channels, inner_dim, 7, stride=STRIDE, padding=3)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        # (B * N, d n n)
        patches = (
            F.unfold(self.proj(x), self.within, stride=self.within).transpose(1, 2).flatten(0, 1)
        )
        return patches.unflatten(1, (-1, self.within**2)).add(positions.flatten(2)).transpose(1, 2)


class Block(nn.Module):
    """Attention and MLP among a patch's pixels, which then add to its token; attention among patches; locality."""

    def __init__(
        self,
        width: int,
        heads: int,
        inner_dim: int,
        inner_heads: int,
        pixels: int,
        *,
        qkv_bias: bool,
        drop: float,
        drop_path: float,
        locality_drop_path: bool,
        **locality: Any,
    ) -> None:
        super().__init__()
        self.norm_in = nn.LayerNorm(inner_dim)
        self.attn_in = Attention(inner_dim, inner_dim, inner_heads, qkv_bias, proj_drop=drop)
        self.norm_mlp_in = nn.LayerNorm(inner_dim)
        self.mlp_in = Mlp(inner_dim, INNER_RATIO * inner_dim, drop=drop)
        self.norm1_proj = nn.LayerNorm(inner_dim)
        self.proj = nn.Linear(pixels * inner_dim, width)
        self.norm_out = nn.LayerNorm(width)
        self.attn_out = Attention(width, width, heads, qkv_bias, proj_drop=drop)
        self.drop_path = DropPath(drop_path)
        self.conv = LocalityFeedForward(
            width, drop_path=drop_path if locality_drop_path else 0.0, **locality
        )

    def forward(
        self, pixels: Tensor, patches: Tensor, grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Pixels (B * N, n, d) and tokens (B, 1 + N, D) for grid = (h, w), N = h * w -> the same shapes."""
        pixels = residual(pixels, lambda kept: self.attn_in(self.norm_in(kept)), self.drop_path)
        pixels = residual(pixels, lambda kept: self.mlp_in(self.norm_mlp_in(kept)), self.drop_path)
        inner = self.proj(self.norm1_proj(pixels).flatten(1)).unflatten(0, (patches.shape[0], -1))
        patches = torch.cat([patches[:, :1], patches[:, 1:] + inner], dim=1)
        patches = residual(patches, lambda kept: self.attn_out(self.norm_out(kept)), self.drop_path)
        return pixels, self.conv.mix_tokens(patches, grid, prefix=1)


def adapt(state: dict[str, Tensor], model: TNT) -> dict[str, Tensor]:
    """A backbone's state dict, the reference's or ours at another image size, with a position table of this length."""
    return {
        key: fit_table(value, model.patch_pos, 1) if key == "patch_pos" else value
        for key, value in state.items()
    }
