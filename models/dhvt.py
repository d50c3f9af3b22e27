"""DHVT, dynamic hybrid vision transformer: Lu et al. 2022, arXiv 2210.05958.

Written out, since timm has no such network; names and numbers are those of the published code (github.com/
ArieSeirack/DHVT, Apache-2.0). There are no position tables: the zero padding of the convolutions tells positions, so
images of any size, square or not, run on the same weights; (h, w) of the patches is carried along.

Every batch norm here is a plain one. The published stem has SyncBatchNorm and its DAFF plain ones; under torchrun on
CUDA engine/ranks.py turns all batch norms of a network into synchronised ones, DAFF's too.
"""

from functools import partial

import torch
import torch.nn as nn
from timm.layers import DropPath, trunc_normal_
from torch import Tensor

from ._class_token import ClassToken
from ._daff import DAFF
from ._head_tokens import HeadTokenAttention
from ._initialise import initialise_linear
from ._maps import Grid, block_maps, map_grid, to_tokens
from ._sizes import check_heads, check_images, check_layers
from ._sope import PATCHES, SOPE

LayerNorm = partial(nn.LayerNorm, eps=1e-6)

TINY, SMALL = {"embed_dim": 192}, {"embed_dim": 384}
CIFAR, LARGE = {"image_size": 32}, {"image_size": 224, "patch_size": 16}
VARIANTS = {
    "dhvt_tiny_cifar_patch4": CIFAR | TINY | {"patch_size": 4, "num_heads": 4},
    "dhvt_small_cifar_patch4": CIFAR | SMALL | {"patch_size": 4, "num_heads": 8},
    "dhvt_tiny_cifar_patch2": CIFAR | TINY | {"patch_size": 2, "num_heads": 4},
    "dhvt_small_cifar_patch2": CIFAR | SMALL | {"patch_size": 2, "num_heads": 8},
    "dhvt_tiny_domain_patch16": LARGE | TINY | {"num_heads": 4},
    "dhvt_small_domain_patch16": LARGE | SMALL | {"num_heads": 6},
    "dhvt_tiny_imagenet_patch16": LARGE | TINY | {"num_heads": 3},
    "dhvt_small_imagenet_patch16": LARGE | SMALL | {"num_heads": 6},
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
) -> "DHVT":
    """A DHVT; the image size matters only for the patch size, which is the largest that leaves 8 patches a side.

    drop_rate acts on the attention's output alone, as published. ValueError on sizes that clash.
    """
    if image_size < 1:
        raise ValueError(f"image size {image_size} must be at least 1 px")
    if patch_size is None:
        patch_size = default_patch(image_size)
    check_heads(embed_dim, num_heads)
    check_layers(num_layers)
    if embed_dim < 8:
        raise ValueError(
            f"embedding width {embed_dim} is too small for the stem's halvings; take at least 8"
        )
    hidden = int(embed_dim * vit_mlp_ratio)
    return DHVT(
        in_channels,
        patch_size,
        embed_dim,
        hidden,
        num_layers,
        num_heads,
        qkv_bias,
        drop_rate,
        drop_path_rate,
    )


def default_patch(image_size: int) -> int:
    """The largest of the stem's patches that leaves 8 of them a side, or the smallest one."""
    fitting = [size for size in PATCHES if 8 * size <= image_size]
    return max(fitting, default=PATCHES[0])


class DHVT(ClassToken):
    """Images (B, C, h, w) of any size -> the normalised class token (B, dim)."""

    def __init__(
        self,
        in_channels: int,
        patch_size: int,
        width: int,
        hidden: int,
        layers: int,
        heads: int,
        qkv_bias: bool,
        drop_rate: float,
        drop_path_rate: float,
    ) -> None:
        super().__init__()
        self.dim, self.patch_size, self.in_channels = width, patch_size, in_channels
        self.patch_embed = SOPE(in_channels, width, patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        rates = [drop_path_rate * index / max(1, layers - 1) for index in range(layers)]
        self.blocks = nn.ModuleList(
            Block(width, hidden, heads, qkv_bias, drop_rate, rate) for rate in rates
        )
        self.norm = LayerNorm(width)
        self.maps, self.stages = block_maps(layers, width, patch_size)
        trunc_normal_(self.cls_token, std=0.02)
        self.apply(initialise_linear)

    def tokens(self, x: Tensor) -> tuple[Tensor, Grid]:
        """Images (B, C, h, w) -> class and patch tokens (B, 1 + N, D), and the patches' rows and columns."""
        check_images(x, self.in_channels, 1)
        patches = self.patch_embed(x)
        cls = self.cls_token.expand(x.shape[0], -1, -1)
        return torch.cat([cls, to_tokens(patches)], dim=1), map_grid(patches)


class Block(nn.Module):
    """Head-token attention, then DAFF, each with a pre-norm, a residual and stochastic depth per image."""

    def __init__(
        self, width: int, hidden: int, heads: int, qkv_bias: bool, drop: float, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1 = LayerNorm(width)
        self.attn = HeadTokenAttention(width, heads, qkv_bias, drop)
        self.drop_path = DropPath(drop_path)
        self.norm2 = LayerNorm(width)
        self.mlp = DAFF(width, hidden)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Tokens (B, 1 + h * w, D) for grid = (h, w) -> the same shape."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x), grid))


def adapt(state: dict[str, Tensor], model: DHVT) -> dict[str, Tensor]:
    """A backbone's state dict as it is: names are the published ones and no tensor depends on the image size."""
    return dict(state)
