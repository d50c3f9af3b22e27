"""LocalViT: Li et al. 2021, arXiv 2104.05707, a ViT whose feed-forward is a convolution over the patch tokens.

Written out: timm has no such network. Names and numbers are those of the published code (github.com/ofsoundof/LocalViT,
MIT), in which the class token skips the feed-forward. So the last block's feed-forward changes its map but not the
features, and gets gradients of zero.
"""

from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import DropPath, PatchEmbed
from torch import Tensor

from ._attention import attend, merge_heads, split_heads
from ._class_token import ClassToken
from ._depth import residual
from ._initialise import initialise_linear
from ._locality import LocalityFeedForward
from ._maps import Map, to_map, to_tokens
from ._positions import resample
from ._sizes import check_heads, check_images, check_layers, check_patch, default_patch

SIZE = {"image_size": 224, "patch_size": 16}
TINY, SMALL = SIZE | {"embed_dim": 192, "num_heads": 4}, SIZE | {"embed_dim": 384, "num_heads": 8}
VARIANTS = {
    "localvit_tiny_mlp6_act1": TINY | {"vit_mlp_ratio": 6.0, "act": "relu6"},
    "localvit_tiny_mlp4_act3_r192": TINY,
    "localvit_tiny_mlp4_act3_r4": TINY | {"reduction": 4},
    "localvit_small_mlp4_act3_r384": SMALL,
}


def build(
    image_size: int,
    *,
    patch_size: int | None = None,
    in_channels: int = 3,
    embed_dim: int = 192,
    num_layers: int = 12,
    num_heads: int = 4,
    vit_mlp_ratio: float = 4.0,
    qkv_bias: bool = True,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.1,
    act: str = "hs+se",
    reduction: int | None = None,
    locality_drop_path: bool = False,
) -> "LocalViT":
    """A LocalViT for square images of `image_size` px; patches of an eighth of it.

    act: one of _locality.ACTS; reduction: hidden channels per hidden unit of SE (None: embed_dim, so 4 units at ratio
    4); locality_drop_path: stochastic depth on the feed-forward too. ValueError on sizes that clash.
    """
    patch_size = default_patch(image_size, image_size // 8) if patch_size is None else patch_size
    check_patch(image_size, patch_size)
    check_heads(embed_dim, num_heads)
    check_layers(num_layers)
    rates = torch.linspace(0, drop_path_rate, num_layers, device="cpu").tolist()
    reduction = embed_dim if reduction is None else reduction
    locality: dict[str, Any] = {"ratio": vit_mlp_ratio, "act": act, "reduction": reduction}
    blocks = [
        Block(
            embed_dim,
            num_heads,
            qkv_bias,
            drop_rate,
            rate,
            locality_drop_path=locality_drop_path,
            **locality,
        )
        for rate in rates
    ]
    return LocalViT(image_size // patch_size, patch_size, in_channels, blocks, drop_rate)


class LocalViT(ClassToken):
    """Images (B, C, h, w) -> the normalised class token (B, dim); h and w any multiples of the patch size."""

    def __init__(
        self, side: int, patch_size: int, in_channels: int, blocks: list["Block"], drop_rate: float
    ) -> None:
        super().__init__()
        width = blocks[0].norm1.normalized_shape[0]
        self.dim, self.patch_size, self.in_channels = width, patch_size, in_channels
        self.patch_embed = PatchEmbed(
            None, patch_size, in_channels, width, flatten=False, strict_img_size=False
        )
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + side * side, width))
        self.pos_drop = nn.Dropout(drop_rate)
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.maps = {f"blocks.{index}": Map(width, patch_size) for index in range(len(blocks))}
        self.stages = tuple(self.maps)[-1:]
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.apply(initialise_linear)

    def tokens(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Images -> class and patch tokens with their positions (B, 1 + N, D), and the patches' rows and columns."""
        check_images(x, self.in_channels, self.patch_size)
        patches = self.patch_embed(x)
        grid = (patches.shape[2], patches.shape[3])
        patches = to_tokens(patches) + resample(self.pos_embed[:, 1:], grid)
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(x.shape[0], -1, -1)
        return self.pos_drop(torch.cat([cls.to(patches.dtype), patches], dim=1)), grid


class Block(nn.Module):
    """Attention with a pre-norm and stochastic depth, then the locality feed-forward, without norm, on the patches."""

    def __init__(
        self,
        width: int,
        heads: int,
        qkv_bias: bool,
        drop: float,
        drop_path: float,
        *,
        eps: float = 1e-6,
        locality_drop_path: bool = False,
        **locality: Any,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, heads, qkv_bias, drop)
        self.drop_path = DropPath(drop_path)
        self.conv = LocalityFeedForward(
            width, drop_path=drop_path if locality_drop_path else 0.0, **locality
        )

    def forward(self, x: Tensor, grid: tuple[int, int], prefix: int = 1) -> Tensor:
        """Tokens (B, prefix + h * w, D) for grid = (h, w) -> the same shape; prefix counts class and like tokens."""
        x = residual(x, lambda kept: self.attn(self.norm1(kept)), self.drop_path)
        return self.conv.mix_tokens(x, grid, prefix)


class Attention(nn.Module):
    """Self-attention; queries and keys may have 1 / qk_reduce of the width, scaled as if they had all of it.

    No published network reduces them.
    """

    def __init__(
        self, width: int, heads: int, qkv_bias: bool, drop: float, qk_reduce: int = 1
    ) -> None:
        super().__init__()
        self.heads, self.qk_reduce = heads, qk_reduce
        self.widths = [width // qk_reduce, width // qk_reduce, width]
        self.qkv = nn.Linear(width, sum(self.widths), bias=qkv_bias)
        self.proj = nn.Linear(width, width)
        self.proj_drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, D) -> the same shape."""
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).split(self.widths, dim=-1))
        q = q if self.qk_reduce == 1 else q * self.qk_reduce**-0.5
        return self.proj_drop(self.proj(merge_heads(attend(q, k, v))))


def adapt(state: dict[str, Tensor], model: LocalViT) -> dict[str, Tensor]:
    """A backbone's state dict, the reference's or ours at another image size, with a position table of this length."""
    return {
        key: _fit(value, model.pos_embed) if key == "pos_embed" else value
        for key, value in state.items()
    }


def _fit(table: Tensor, like: Tensor) -> Tensor:
    """Bicubic to the other side length, the class token's row kept, as the published --finetune does.

    Untouched where the tables cannot correspond.
    """
    old, new = (round((tensor.shape[1] - 1) ** 0.5) for tensor in (table, like))
    if (
        table.ndim != 3
        or old == new
        or old**2 != table.shape[1] - 1
        or table.shape[2] != like.shape[2]
    ):
        return table
    square = to_map(table, (old, old), prefix=1)
    square = F.interpolate(square, (new, new), mode="bicubic", align_corners=False)
    return torch.cat([table[:, :1], to_tokens(square)], dim=1)
