"""LocalViT-PVT: Li et al. 2021, arXiv 2104.05707: PVT-Tiny with the locality feed-forward in place of norm and MLP.

Our PVT with other blocks. Names and numbers are those of github.com/ofsoundof/LocalViT (MIT), where the class token
skips the feed-forward, so that the last block's changes its map but not the features.
"""

from functools import partial
from typing import Any

import torch.nn as nn
from timm.layers import DropPath
from torch import Tensor

from . import pvt
from ._depth import residual
from ._locality import LocalityFeedForward
from ._pyramid import StageSizes, stage_sizes
from ._sizes import check_patch, default_patch

EPS = 1e-5  # of the norms after a convolution; the others have 1e-6
VARIANTS = {"localvit_pvt_tiny": {"image_size": 224, "patch_size": 4}}


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
    act: str = "hs+se",
    locality_drop_path: bool = False,
) -> pvt.PVT:
    """A LocalViT-PVT for square images of `image_size` px; patches of 2 px up to 32 px images, else 4.

    embed_dim and num_heads are the first stage's, vit_mlp_ratio the last's; `widths` gives all four widths instead of
    those that grow from embed_dim. act: one of _locality.ACTS. ValueError on sizes that clash.
    """
    patch_size = (
        default_patch(image_size, 2 if image_size <= 32 else 4)
        if patch_size is None
        else patch_size
    )
    check_patch(image_size, patch_size)
    sizes = stage_sizes(embed_dim, widths, depths, num_heads, vit_mlp_ratio, drop_path_rate)
    block = {
        "qkv_bias": qkv_bias,
        "drop": drop_rate,
        "act": act,
        "locality_drop_path": locality_drop_path,
    }
    return network(image_size, patch_size, in_channels, sizes, **block)


def network(
    image_size: int, patch_size: int, in_channels: int, sizes: list[StageSizes], **block: Any
) -> pvt.PVT:
    """The network for stages of any sizes; `block` are options of Block."""
    return pvt.PVT(
        image_size, patch_size, in_channels, sizes, partial(Block, **block), block["drop"], EPS
    )


class Block(nn.Module):
    """Spatial-reduction attention with a pre-norm, then the locality feed-forward on the patches."""

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float,
        reduction: int,
        *,
        drop_path: float,
        qkv_bias: bool,
        drop: float,
        act: str,
        locality_drop_path: bool,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = pvt.ReducedAttention(width, heads, reduction, qkv_bias, drop, eps=EPS)
        self.drop_path = DropPath(drop_path)
        locality_rate = drop_path if locality_drop_path else 0.0
        self.conv = LocalityFeedForward(
            width, mlp_ratio, act, reduction=width, drop_path=locality_rate
        )

    def forward(self, x: Tensor, grid: tuple[int, int], prefix: int = 0) -> Tensor:
        """Tokens (B, prefix + h * w, D) on grid = (h, w) -> the same shape."""
        x = residual(x, lambda kept: self.attn(self.norm1(kept), grid, prefix), self.drop_path)
        return self.conv.mix_tokens(x, grid, prefix)


def adapt(state: dict[str, Tensor], model: pvt.PVT) -> dict[str, Tensor]:
    """The reference's names (`block1.0.`, `patch_embed1.`, `pos_embed1`) or ours, with tables of this image size."""
    return pvt.adapt(state, model)
