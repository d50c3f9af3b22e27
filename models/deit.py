"""DeiT: Touvron et al. 2021, arXiv 2012.12877: the ViT of vit.py in the published size, or with a distillation token.

Blocks, names and initial values are timm's (see vit.py), also for the distillation token.
"""

import re
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from ._class_token import prepend
from ._maps import patch_grid, to_map
from ._positions import resample
from ._sizes import Size, default_patch, shorter_side, timm_sizes
from .vit import ViT, fit_positions

RECTANGLES = True  # it is built for images of any height and width
VARIANTS = {
    "deit_tiny": {"image_size": 224},
    "deit_tiny_distilled": {"image_size": 224, "distilled": True},
}


def build(
    image_size: Size,
    *,
    patch_size: int | None = None,
    in_channels: int = 3,
    embed_dim: int = 192,
    num_layers: int = 12,
    num_heads: int = 3,
    vit_mlp_ratio: float = 4.0,
    qkv_bias: bool = True,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.1,
    distilled: bool = False,
) -> ViT:
    """A DeiT for images of `image_size` px: DeiT-Tiny by default, patches of 16 px or an eighth of the shorter side.

    distilled: with a distillation token beside the class token. ValueError on sizes that clash.
    """
    if patch_size is None:
        patch_size = default_patch(image_size, min(16, shorter_side(image_size) // 8))
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
    if distilled:
        return DistilledDeiT(**sizes)
    return ViT(**sizes)


class DistilledDeiT(ViT):
    """Images (B, C, h, w) -> the mean of the normalised class and distillation tokens (B, dim).

    One classifier on the mean is the mean of two with the same weights; for two of their own see `forward_tokens`.
    """

    def __init__(self, **sizes: Any) -> None:
        super().__init__(**sizes)
        _, rows, width = self.pos_embed.shape
        self.num_prefix_tokens = 2
        self.dist_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, rows + 1, width))
        for table in (self.dist_token, self.pos_embed):
            nn.init.trunc_normal_(table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # no masks
        cls, distillation = self.forward_tokens(x)
        return (cls + distillation) / 2

    def forward_tokens(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, h, w) -> the normalised class and distillation tokens, twice (B, dim)."""
        *body, last = self.blocks
        x = self.tokens(x)
        for block in body:
            x = block(x)
        cls, distillation = self.norm(last(x, rows=2)).unbind(dim=1)
        return cls, distillation

    def forward_maps(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The features of `forward` and every block's output as a map (B, D, h, w); the last block in full."""
        (cls, distillation), maps = self.token_maps(x)
        return (cls + distillation) / 2, maps

    def token_maps(self, x: Tensor) -> tuple[tuple[Tensor, Tensor], dict[str, Tensor]]:
        """The two tokens of `forward_tokens` and the maps of `forward_maps`."""
        grid = patch_grid(x, self.patch_size)
        x = self.tokens(x)
        maps = {}
        for name, block in zip(self.maps, self.blocks, strict=True):
            x = block(x)
            maps[name] = to_map(x, grid, prefix=2)
        cls, distillation = self.norm(x[:, :2]).unbind(dim=1)
        return (cls, distillation), maps

    def _pos_embed(self, x: Tensor) -> Tensor:
        """timm's hook: patches (B, h, w, D) -> tokens (B, 2 + h * w, D)."""
        grid = (x.shape[1], x.shape[2])
        prefix = torch.cat([self.cls_token, self.dist_token], dim=1) + self.pos_embed[:, :2]
        x = x.flatten(1, 2) + resample(self.pos_embed[:, 2:], grid, own=self.grid)
        return self.pos_drop(prepend(prefix, x))


def adapt(
    state: dict[str, Tensor], model: ViT, image_size: tuple[int, int] | None = None
) -> dict[str, Tensor]:
    """The names of the locality-guidance code, timm's or ours, with a position table of this length; see vit.py."""
    state = {_rename(key): value for key, value in state.items()}
    return fit_positions(state, model, model.num_prefix_tokens, image_size)


def _rename(key: str) -> str:
    key = re.sub(r"^layers\.", "blocks.", key)
    key = key.replace(".qkv_transform.", ".qkv.").replace(".projection.", ".proj.")
    return key.replace("distill_token", "dist_token")
