"""PVT v2: Wang et al. 2022, arXiv 2106.13797.

Patch embeddings and stages are timm's, which give the numbers of the locality-guidance code (Li et al. 2022,
arXiv 2207.10026) with its LayerNorm epsilon. timm's network around them is not used: its `stages` are modules, where
every backbone here names maps. A map smaller than a reduction is padded with zeros (see pvt.py).
"""

import math
import re
from typing import Any

import torch.nn as nn
from timm.models import pvt_v2 as timm_pvt
from torch import Tensor

from ._maps import to_map
from ._pyramid import StageSizes, pyramid_maps, stage_sizes
from ._sizes import check_images
from .pvt import Shrink

WINDOW = 7  # px of the first patch embedding: its patches overlap
VARIANTS = {"pvtv2_b0": {"image_size": 224}}


def build(
    image_size: int,
    *,
    patch_size: int | None = None,
    in_channels: int = 3,
    embed_dim: int = 32,
    widths: tuple[int, ...] | None = None,
    depths: tuple[int, ...] = (2, 2, 2, 2),
    num_heads: int = 1,
    vit_mlp_ratio: float = 4.0,
    qkv_bias: bool = True,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.1,
) -> "PVTv2":
    """A PVT v2 for images of about `image_size` px: PVTv2-B0 by default; a token per 2 px up to 32 px images, else 4.

    embed_dim and num_heads are the first stage's, vit_mlp_ratio the last's; `widths` gives all four widths instead of
    those that grow from embed_dim. ValueError on sizes that clash.
    """
    patch_size = (2 if image_size <= 32 else 4) if patch_size is None else patch_size
    if not 1 <= patch_size < WINDOW:
        raise ValueError(
            f"patch size {patch_size}: patches of {WINDOW} px overlap at steps of 1 to {WINDOW - 1} px"
        )
    sizes = stage_sizes(embed_dim, widths, depths, num_heads, vit_mlp_ratio, drop_path_rate)
    return PVTv2(patch_size, in_channels, sizes, qkv_bias, drop_rate)


class PVTv2(nn.Module):
    """Images (B, C, h, w) of any size -> the mean of the normalised tokens (B, dim)."""

    def __init__(
        self,
        patch_size: int,
        in_channels: int,
        sizes: list[StageSizes],
        qkv_bias: bool,
        drop_rate: float,
    ) -> None:
        super().__init__()
        self.patch_embed = timm_pvt.OverlapPatchEmbed(
            WINDOW, patch_size, in_channels, sizes[0].width
        )
        self.layers, before = nn.ModuleList(), sizes[0].width
        for index, size in enumerate(sizes):
            self.layers.append(
                _stage(before, size, index > 0, qkv_bias=qkv_bias, proj_drop=drop_rate)
            )
            before = size.width
        self.dim, self.patch_size, self.in_channels = before, patch_size, in_channels
        self.maps, self.stages = pyramid_maps(sizes, patch_size)
        self.apply(_initialise)
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = (
                    1e-6  # timm's patch embeddings and reductions take no other than PyTorch's
                )

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_maps(x)[0]

    def forward_maps(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The features of `forward` and every block's output as a map (B, width, h, w), before the stage's norm."""
        check_images(x, self.in_channels, 1)
        x = self.patch_embed(x)
        maps: list[Tensor] = []
        stages: Any = self.layers  # timm's, which name their parts without types
        for stage in stages:
            if stage.downsample is not None:
                x = stage.downsample(x)
            grid = (x.shape[1], x.shape[2])
            tokens = x.flatten(1, 2)
            for block in stage.blocks:
                tokens = block(tokens, grid)
                maps.append(to_map(tokens, grid))
            tokens = stage.norm(tokens)
            x = to_map(tokens, grid)
        return tokens.mean(dim=1), dict(zip(self.maps, maps, strict=True))


def _stage(before: int, size: StageSizes, downsample: bool, **parts: Any) -> nn.Module:
    """timm's stage; its keys' and values' reduction takes maps of any size."""
    stage: Any = timm_pvt.PyramidVisionTransformerStage(
        dim=before,
        dim_out=size.width,
        depth=len(size.rates),
        downsample=downsample,
        num_heads=size.heads,
        sr_ratio=size.reduction,
        mlp_ratio=size.mlp_ratio,
        drop_path=list(size.rates),
        **parts,
    )
    for block in stage.blocks if size.reduction > 1 else ():
        block.attn.sr = Shrink(size.width, size.width, size.reduction, size.reduction)
    return stage


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
        nn.init.zeros_(module.bias)


def adapt(state: dict[str, Tensor], model: PVTv2) -> dict[str, Tensor]:
    """The reference's names (`block1.0.`, `patch_embed1.`, `norm1`), timm's (`stages.0.`) or ours."""
    return {_rename(key): value for key, value in state.items()}


def _rename(key: str) -> str:
    key = re.sub(r"^stages\.", "layers.", key).replace(".dwconv.dwconv.", ".dwconv.")
    part = re.match(r"(block|patch_embed|norm)([1-4])\.", key)
    if part is None:
        return key
    if part[0] == "patch_embed1.":
        return "patch_embed." + key[part.end() :]
    name = {"block": "blocks", "patch_embed": "downsample", "norm": "norm"}[part[1]]
    return f"layers.{int(part[2]) - 1}.{name}.{key[part.end() :]}"
