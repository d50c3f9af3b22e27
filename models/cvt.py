"""CvT, convolutional vision transformer: Wu et al. 2021, arXiv 2103.15808.

Written out, since timm has no such network; names are those of the authors' code and of the locality-guidance code
(Li et al. 2022, github.com/lkhl/tiny-transformers), whose numbers it gives. There are no position tables: convolutions
tell positions. As in both, attention is scaled by the whole width, not a head's.
"""

from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn as nn
from timm.layers import DropPath, Mlp, QuickGELU, trunc_normal_
from torch import Tensor

from ._attention import attend, merge_heads, split_heads
from ._maps import Map, map_grid, stage_maps, to_map, to_tokens
from ._sizes import check_heads, check_images, check_layers, check_patch, default_patch

LayerNorm = partial(nn.LayerNorm, eps=1e-5)
GROWTH = (1, 3, 6)  # widths and heads of the three stages, in units of the first
VARIANTS = {"cvt_13": {"image_size": 224}}


def build(
    image_size: int,
    *,
    patch_size: int | None = None,
    in_channels: int = 3,
    embed_dim: int = 64,
    depths: tuple[int, int, int] = (1, 2, 10),
    num_heads: int = 1,
    vit_mlp_ratio: float = 4.0,
    qkv_bias: bool = True,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.1,
) -> "CvT":
    """A CvT for square images of `image_size` px: CvT-13 by default; patches of 2 px up to 32 px images, else 4.

    The patch size is the first convolution's stride. embed_dim and num_heads are the first stage's; the second has
    three times as many, the third six times. drop_path_rate is reached in the last stage, the only one with
    stochastic depth, as published. ValueError on sizes that clash.
    """
    patch_size = (
        default_patch(image_size, 2 if image_size <= 32 else 4)
        if patch_size is None
        else patch_size
    )
    check_patch(image_size, patch_size)
    check_heads(embed_dim, num_heads)
    if len(depths) != len(GROWTH):
        raise ValueError(f"a CvT has {len(GROWTH)} stages, not {len(depths)}")
    for depth in depths:
        check_layers(depth)
    parts = {"mlp_ratio": vit_mlp_ratio, "qkv_bias": qkv_bias, "drop": drop_rate}
    return CvT(patch_size, in_channels, embed_dim, depths, num_heads, drop_path_rate, **parts)


class CvT(nn.Module):
    """Images (B, C, h, w) -> the normalised class token (B, dim); h and w any multiples of the patch size."""

    def __init__(
        self,
        patch_size: int,
        in_channels: int,
        width: int,
        depths: tuple[int, int, int],
        heads: int,
        drop_path_rate: float,
        **parts: Any,
    ) -> None:
        super().__init__()
        widths = [width * factor for factor in GROWTH]
        last = torch.linspace(0, drop_path_rate, depths[-1], device="cpu").tolist()
        rates = [[0.0] * depth for depth in depths[:-1]] + [last]
        embeds = [ConvEmbed(in_channels, widths[0], patch_size)]
        embeds += [ConvEmbed(*pair, 2) for pair in pairwise(widths)]
        stages = zip(embeds, GROWTH, rates, (False, False, True), strict=True)
        self.stage0, self.stage1, self.stage2 = (
            Stage(embed, heads * factor, stage_rates, with_class_token, **parts)
            for embed, factor, stage_rates, with_class_token in stages
        )
        self.norm = LayerNorm(widths[-1])
        self.dim, self.patch_size = widths[-1], patch_size
        sizes = [Map(width, patch_size << stage) for stage, width in enumerate(widths)]
        self.maps, self.stages = stage_maps(sizes, depths)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_maps(x)[0]

    def forward_maps(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The features of `forward` and every block's output as a map (B, width, h, w)."""
        check_images(x, self.stage0.patch_embed.proj.in_channels, self.patch_size)
        maps = []
        for stage in (self.stage0, self.stage1, self.stage2):
            tokens, outputs = stage(x)
            x = outputs[-1]
            maps += outputs
        return self.norm(tokens[:, 0]), dict(zip(self.maps, maps, strict=True))


class Stage(nn.Module):
    """A convolution that makes tokens of one resolution, then blocks; with a class token in the last stage."""

    def __init__(
        self,
        embed: "ConvEmbed",
        heads: int,
        rates: list[float],
        with_class_token: bool,
        **parts: Any,
    ) -> None:
        super().__init__()
        width = embed.proj.out_channels
        self.patch_embed = embed
        self.cls_token: nn.Parameter | None = None
        self.prefix = int(with_class_token)
        self.pos_drop = nn.Dropout(parts["drop"])
        self.blocks = nn.ModuleList(
            Block(width, heads, rate, self.prefix, **parts) for rate in rates
        )
        if with_class_token:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
            trunc_normal_(self.cls_token, std=0.02)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """A map or images (B, C, H, W) -> the last block's tokens (B, N, D), every block's output (B, D, h, w)."""
        x = self.patch_embed(x)
        grid = map_grid(x)
        x = to_tokens(x)
        outputs = []
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1).to(x.dtype), x], dim=1)
        x = self.pos_drop(x)
        for block in self.blocks:
            x = block(x, grid)
            outputs.append(to_map(x, grid, self.prefix))
        return x, outputs


class ConvEmbed(nn.Module):
    """Overlapping patches, the next one after `stride` px: (B, C, H, W) -> (B, D, H / stride, W / stride), normalised.

    A last odd row or column counts as a whole one.
    """

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, width, 2 * stride - 1, stride, stride // 2)
        self.norm = LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Block(nn.Module):
    """Convolutional attention, then an MLP, each with a pre-norm, a residual and stochastic depth."""

    def __init__(
        self,
        width: int,
        heads: int,
        drop_path: float,
        prefix: int,
        *,
        mlp_ratio: float,
        qkv_bias: bool,
        drop: float,
    ) -> None:
        super().__init__()
        self.norm1 = LayerNorm(width)
        self.attn = ConvAttention(width, heads, prefix, qkv_bias, drop)
        self.drop_path = DropPath(drop_path)
        self.norm2 = LayerNorm(width)
        self.mlp = Mlp(width, int(width * mlp_ratio), act_layer=QuickGELU, drop=drop)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens (B, prefix + h * w, D) of an (h, w) grid -> the same shape."""
        x = x + self.drop_path(self.attn(self.norm1(x), grid))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class ConvAttention(nn.Module):
    """Attention whose queries, keys and values each see their neighbours; keys and values on every second place.

    The first `prefix` tokens, no part of the map, skip the convolutions.
    """

    def __init__(
        self, width: int, heads: int, prefix: int, qkv_bias: bool, drop_rate: float
    ) -> None:
        super().__init__()
        self.heads, self.prefix = heads, prefix
        self.conv_proj_q, self.conv_proj_k, self.conv_proj_v = (
            ConvProjection(width, stride) for stride in (1, 2, 2)
        )
        self.proj_q, self.proj_k, self.proj_v = (
            nn.Linear(width, width, bias=qkv_bias) for _ in range(3)
        )
        self.proj = nn.Linear(width, width)
        self.proj_drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Normalised tokens (B, prefix + h * w, D) of an (h, w) grid -> the same shape."""
        prefix, x = x[:, : self.prefix], to_map(x, grid, self.prefix)
        q = self.proj_q(torch.cat([prefix, self.conv_proj_q(x)], dim=1))
        k = self.proj_k(torch.cat([prefix, self.conv_proj_k(x)], dim=1))
        v = self.proj_v(torch.cat([prefix, self.conv_proj_v(x)], dim=1))
        q, k, v = (split_heads(part, self.heads) for part in (q, k, v))
        # With attend's own scale of a head's width: width ** -0.5
        mixed = attend(q * self.heads**-0.5, k, v)
        return self.proj_drop(self.proj(merge_heads(mixed)))


class ConvProjection(nn.Module):
    """Every channel's own 3 x 3 convolution and batch norm: a map (B, D, h, w) -> tokens (B, N, D)."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return to_tokens(self.bn(self.conv(x)))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def adapt(state: dict[str, Tensor], model: CvT) -> dict[str, Tensor]:
    """A backbone's state dict as it is: names are the published ones and no table depends on the image size."""
    return state
