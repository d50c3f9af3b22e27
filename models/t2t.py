"""T2T-ViT: Yuan et al. 2021, arXiv 2101.11986, with Performer token stages as in Li et al. 2022, arXiv 2207.10026.

timm has no T2T-ViT. The blocks are our ViT's (timm's layers), without a bias on queries, keys and values.
"""

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn as nn
from timm.layers import Mlp
from torch import Tensor

from ._maps import block_maps, to_map
from ._performer import PerformerAttention
from ._sinusoid import sinusoid
from ._sizes import check_heads, check_layers
from ._tokens_to_token import TokensToToken
from .vit import Block

LayerNorm = partial(nn.LayerNorm, eps=1e-6)

VARIANTS = {
    "t2t_vit_7": {"image_size": 224},
    "t2t_vit_14": {
        "image_size": 224,
        "embed_dim": 384,
        "num_layers": 14,
        "num_heads": 6,
        "vit_mlp_ratio": 3.0,
    },
}


def build(
    image_size: int,
    *,
    patch_size: int | None = None,
    in_channels: int = 3,
    embed_dim: int = 256,
    num_layers: int = 7,
    num_heads: int = 4,
    vit_mlp_ratio: float = 2.0,
    qkv_bias: bool = False,
    token_dim: int = 64,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.1,
) -> "T2T":
    """A T2T-ViT for square images of `image_size` px: T2T-ViT-7 by default, a token per 16 px or an eighth of it.

    patch_size: px per token, a multiple of 4. token_dim: width of the token stages. ValueError on sizes that clash.
    """
    patch_size = default_patch(image_size) if patch_size is None else patch_size
    check_heads(embed_dim, num_heads)
    check_heads(token_dim, 2)  # half as many random features
    check_layers(num_layers)
    tokens = TokensToToken(in_channels, token_dim, embed_dim, patch_size, TokenStage)
    parts: dict[str, Any] = {
        "mlp_ratio": vit_mlp_ratio,
        "qkv_bias": qkv_bias,
        "proj_drop": drop_rate,
        "norm_layer": LayerNorm,
    }
    rates = torch.linspace(0, drop_path_rate, num_layers, device="cpu").tolist()
    blocks = [Block(embed_dim, num_heads, drop_path=rate, **parts) for rate in rates]
    return T2T(image_size, tokens, blocks, drop_rate)


class T2T(nn.Module):
    """Images (B, C, h, w) of at least 3 x 3 px -> the normalised class token (B, dim).

    `pos_embed`, a row for the class token and then one per token of the built size, is fixed. A row depends on its
    number alone, so that smaller grids take the first rows and larger ones compute theirs.
    """

    pos_embed: Tensor

    def __init__(
        self, image_size: int, tokens: TokensToToken, blocks: Sequence[nn.Module], drop_rate: float
    ) -> None:
        super().__init__()
        self.dim, self.patch_size = tokens.project.out_features, tokens.patch_size
        self.tokens_to_token, self.blocks = tokens, nn.ModuleList(blocks)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, self.dim))
        side = tokens.side(image_size)
        self.register_buffer("pos_embed", sinusoid(1 + side * side, self.dim))
        self.pos_drop = nn.Dropout(drop_rate)
        self.norm = LayerNorm(self.dim)
        self.maps, self.stages = block_maps(len(blocks), self.dim, self.patch_size)
        self.apply(_initialise)
        nn.init.trunc_normal_(self.cls_token, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        *body, last = self.blocks
        x, _ = self.tokens(x)
        for block in body:
            x = block(x)
        return self.norm(last(x, rows=1)[:, 0])

    def forward_maps(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The features of `forward` and every block's output as a map (B, D, h, w); the last block in full."""
        x, grid = self.tokens(x)
        maps = {}
        for name, block in zip(self.maps, self.blocks, strict=True):
            x = block(x)
            maps[name] = to_map(x, grid, prefix=1)
        return self.norm(x[:, 0]), maps

    def tokens(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Images (B, C, h, w) -> class token and tokens with their positions (B, 1 + N, D), and the tokens' grid."""
        x, grid = self.tokens_to_token(x)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1).to(x.dtype), x], dim=1)
        return self.pos_drop(x + self.positions(x.shape[1])), grid

    def positions(self, rows: int) -> Tensor:
        """The fixed table (1, rows, D)."""
        if rows <= self.pos_embed.shape[1]:
            return self.pos_embed[:, :rows]
        return sinusoid(rows, self.dim).to(self.pos_embed)


class TokenStage(nn.Module):
    """Performer attention and an MLP of ratio 1: tokens (B, N, in_width) and their grid -> (B, N, width)."""

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.norm1 = LayerNorm(in_width)
        self.attn = PerformerAttention(in_width, width)
        self.norm2 = LayerNorm(width)
        self.mlp = Mlp(width, width)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        x = self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def default_patch(image_size: int) -> int:
    """16 px, or 12, 8 or 4 where that is as much as an eighth of the image."""
    return max(4, min(16, image_size // 8 // 4 * 4))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def adapt(state: dict[str, Tensor], model: T2T) -> dict[str, Tensor]:
    """The reference's names or ours; a position table of another image size gives way to this model's own."""
    state = {_rename(key): value for key, value in state.items()}
    if "pos_embed" in state and state["pos_embed"].shape != model.pos_embed.shape:
        state["pos_embed"] = model.pos_embed
    return state


def _rename(key: str) -> str:
    key = key.replace(".qkv_transform.", ".kqv." if key.startswith("t2t_module.") else ".qkv.")
    key = key.replace(".projection.", ".proj.") if ".attn." in key else key
    key = re.sub(r"^t2t_module\.attention\.", "tokens_to_token.stages.", key)
    key = re.sub(r"^t2t_module\.projection\.", "tokens_to_token.project.", key)
    return re.sub(r"^layers\.", "blocks.", key)
