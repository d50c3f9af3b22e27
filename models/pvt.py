"""Pyramid vision transformer: Wang et al. 2021, arXiv 2102.12122.

Written out: timm has only the second version. A map that is smaller than a reduction or a patch is padded with zeros to
that size, so that images of 16 px pass the four stages; the published code fails there and otherwise agrees.
"""

import re
from collections.abc import Callable
from functools import partial

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import DropPath, Mlp
from torch import Tensor

from ._attention import attend, merge_heads, split_heads
from ._depth import residual
from ._maps import to_map, to_tokens
from ._positions import fit_table, resample
from ._pyramid import LATER_STRIDE, StageSizes, pyramid_maps, stage_sizes
from ._sizes import check_images, check_patch, default_patch

VARIANTS = {"pvt_tiny": {"image_size": 224}}


def build(
    image_size: int,
    *,
    patch_size: int | None = None,
    in_channels: int = 3,
    embed_dim: int = 64,
    widths: tuple[int, ...] | None = None,
    depths: tuple[int, ...] = (2, 2, 2, 2),
    num_heads: int = 1,
    vit_mlp_ratio: float = 4.0,
    qkv_bias: bool = True,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.1,
) -> "PVT":
    """A PVT for square images of `image_size` px: PVT-Tiny by default; patches of 2 px up to 32 px images, else 4.

    embed_dim and num_heads are the first stage's, vit_mlp_ratio the last's; `widths` gives all four widths instead of
    those that grow from embed_dim. ValueError on sizes that clash.
    """
    patch_size = (
        default_patch(image_size, 2 if image_size <= 32 else 4)
        if patch_size is None
        else patch_size
    )
    check_patch(image_size, patch_size)
    sizes = stage_sizes(embed_dim, widths, depths, num_heads, vit_mlp_ratio, drop_path_rate)
    block = partial(Block, qkv_bias=qkv_bias, drop=drop_rate)
    return PVT(image_size, patch_size, in_channels, sizes, block, drop_rate)


class PVT(nn.Module):
    """Images (B, C, h, w) -> the normalised class token (B, dim); h and w any multiples of the patch size.

    The class token joins in the last stage. `block(width, heads, mlp_ratio, reduction, drop_path=rate)` builds a block:
    a module called with tokens (B, prefix + h * w, D), the grid (h, w) and the number of prefix tokens, that returns
    tokens of the same shape.
    """

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        in_channels: int,
        sizes: list[StageSizes],
        block: Callable[..., nn.Module],
        drop_rate: float = 0.0,
        embed_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.layers, channels, side = nn.ModuleList(), in_channels, image_size
        for index, size in enumerate(sizes):
            patch = LATER_STRIDE if index else patch_size
            prefix = int(index == len(sizes) - 1)
            side = max(side // patch, 1)
            patches = PatchEmbed(channels, size.width, patch, embed_eps)
            blocks = [
                block(size.width, size.heads, size.mlp_ratio, size.reduction, drop_path=rate)
                for rate in size.rates
            ]
            self.layers.append(Stage(patches, side, blocks, prefix, drop_rate))
            channels = size.width
        self.dim, self.patch_size, self.in_channels = channels, patch_size, in_channels
        self.maps, self.stages = pyramid_maps(sizes, patch_size)
        self.norm = nn.LayerNorm(self.dim, eps=1e-6)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_maps(x)[0]

    def forward_maps(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The features of `forward` and every block's output as a map (B, width, h, w)."""
        check_images(x, self.in_channels, self.patch_size)
        maps = []
        for stage in self.layers:
            tokens, outputs = stage(x)
            x = outputs[-1]
            maps += outputs
        return self.norm(tokens[:, 0]), dict(zip(self.maps, maps, strict=True))


class Stage(nn.Module):
    """Patches of the map before, their positions, and the blocks of one resolution; prefix 1 adds a class token."""

    def __init__(
        self,
        patch_embed: "PatchEmbed",
        side: int,
        blocks: list[nn.Module],
        prefix: int,
        drop_rate: float,
    ) -> None:
        super().__init__()
        width = patch_embed.norm.normalized_shape[0]
        self.patch_embed, self.prefix = patch_embed, prefix
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width)) if prefix else None
        self.pos_embed = nn.Parameter(torch.zeros(1, prefix + side * side, width))
        self.pos_drop = nn.Dropout(drop_rate)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """A map (B, C, h, w) -> the last block's tokens (B, prefix + N, D) and the map after each block."""
        tokens, grid = self.patch_embed(x)
        tokens, maps = self.place(tokens, grid), []
        for block in self.blocks:
            tokens = block(tokens, grid, self.prefix)
            maps.append(to_map(tokens, grid, self.prefix))
        return tokens, maps

    def place(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Patch tokens (B, N, D) -> the class token, where there is one, and the patches, with their positions."""
        x = tokens + resample(self.pos_embed[:, self.prefix :], grid)
        if self.cls_token is not None:
            cls = self.cls_token + self.pos_embed[:, :1]
            x = torch.cat([cls.expand(x.shape[0], -1, -1).to(x.dtype), x], dim=1)
        return self.pos_drop(x)


class PatchEmbed(nn.Module):
    """A map (B, C, h, w) -> one normalised token per patch (B, N, width), and their grid."""

    def __init__(self, channels: int, width: int, patch: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.proj = Shrink(channels, width, patch, patch)
        self.norm = nn.LayerNorm(width, eps=eps)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        x = self.proj(x)
        return self.norm(to_tokens(x)), (x.shape[2], x.shape[3])


class Shrink(nn.Conv2d):
    """A convolution whose windows do not overlap; a map smaller than one window is padded to it with zeros."""

    def forward(self, x: Tensor) -> Tensor:
        height, width = (
            max(size - side, 0) for size, side in zip(self.kernel_size, x.shape[-2:], strict=True)
        )
        return super().forward(F.pad(x, (0, width, 0, height)) if height or width else x)


class Block(nn.Module):
    """Spatial-reduction attention, then an MLP, each with a pre-norm, a residual and stochastic depth."""

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float,
        reduction: int,
        *,
        qkv_bias: bool = True,
        drop: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = ReducedAttention(width, heads, reduction, qkv_bias, drop)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, int(width * mlp_ratio), drop=drop)

    def forward(self, x: Tensor, grid: tuple[int, int], prefix: int = 0) -> Tensor:
        """Tokens (B, prefix + h * w, D) on grid = (h, w) -> the same shape."""
        x = residual(x, lambda kept: self.attn(self.norm1(kept), grid, prefix), self.drop_path)
        return residual(x, lambda kept: self.mlp(self.norm2(kept)), self.drop_path)


class ReducedAttention(nn.Module):
    """Attention to keys and values of a map with sides `reduction` times smaller; prefix tokens stay as they are."""

    def __init__(
        self,
        width: int,
        heads: int,
        reduction: int,
        qkv_bias: bool = True,
        drop: float = 0.0,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width, bias=qkv_bias)
        self.kv = nn.Linear(width, 2 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)
        self.proj_drop = nn.Dropout(drop)
        self.sr = Shrink(width, width, reduction, reduction) if reduction > 1 else None
        self.norm = nn.LayerNorm(width, eps=eps) if reduction > 1 else None

    def forward(self, x: Tensor, grid: tuple[int, int], prefix: int = 0) -> Tensor:
        k, v = self.kv(self.reduce(x, grid, prefix)).chunk(2, dim=-1)
        q, k, v = (split_heads(part, self.heads) for part in (self.q(x), k, v))
        return self.proj_drop(self.proj(merge_heads(attend(q, k, v))))

    def reduce(self, x: Tensor, grid: tuple[int, int], prefix: int) -> Tensor:
        """The tokens (B, prefix + M, D) that give keys and values."""
        if self.sr is None or self.norm is None:
            return x
        reduced = self.norm(to_tokens(self.sr(to_map(x, grid, prefix))))
        return torch.cat([x[:, :prefix], reduced], dim=1) if prefix else reduced


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, Stage):
        for parameter in module.parameters(recurse=False):  # positions and class token
            nn.init.trunc_normal_(parameter, std=0.02)


def adapt(state: dict[str, Tensor], model: PVT) -> dict[str, Tensor]:
    """The reference's names (`block1.0.`, `patch_embed1.`, `pos_embed1`) or ours, with tables of this image size."""
    state = {_rename(key): value for key, value in state.items()}
    for index, stage in enumerate(model.layers):
        assert isinstance(stage, Stage)
        key = f"layers.{index}.pos_embed"
        if key in state:
            state[key] = fit_table(state[key], stage.pos_embed, stage.prefix)
    return state


def _rename(key: str) -> str:
    if key == "cls_token":
        return "layers.3.cls_token"
    stage = re.match(r"(block|patch_embed|pos_embed)([1-4])(?=\.|$)", key)
    if stage is None:
        return key
    name = "blocks" if stage[1] == "block" else stage[1]
    return f"layers.{int(stage[2]) - 1}.{name}{key[stage.end() :]}"
