"""The transformer behind a compact tokenizer: Hassani et al. 2021, arXiv 2104.05704, as in its released code.

In that code the second norm overwrites the residual stream: x = norm1(x + attention(pre_norm(x))), x = x + mlp(x).
The released weights depend on it; pre_norm=True gives the ordinary layout x = x + mlp(norm1(x)) for new training.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor

from ._attention import attend, merge_heads, split_heads
from ._depth import residual
from ._maps import Grid, Map, to_map, to_tokens
from ._pooling import SequencePool
from ._positions import resample
from ._sinusoid import sinusoid
from ._sizes import height_width
from ._tokenizer import Tokenizer


class SelfAttention(nn.Module):
    """Softmax attention, without biases on q, k and v unless asked: tokens (B, N, D) of any grid -> (B, N, D)."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        qkv_bias: bool = False,
        attn_drop_rate: float = 0.1,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_heads, self.attn_drop_rate = num_heads, attn_drop_rate
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        q, k, v = (split_heads(part, self.num_heads) for part in self.qkv(x).chunk(3, dim=-1))
        if self.training and self.attn_drop_rate:
            mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=self.attn_drop_rate)
        else:
            mixed = attend(q, k, v)
        return self.proj_drop(self.proj(merge_heads(mixed)))


class Layer(nn.Module):
    """Attention over tokens of a grid, then an MLP, in the published order or the ordinary one: (B, N, D) as before."""

    def __init__(
        self,
        dim: int,
        attention: nn.Module,
        *,
        mlp_ratio: float,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        pre_norm: bool = False,
    ) -> None:
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.normalise_stream = not pre_norm
        self.pre_norm, self.norm1 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.self_attn = attention
        self.linear1, self.linear2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.drop = nn.Dropout(drop_rate)
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate else nn.Identity()
        self.mixes_images = any(
            isinstance(module, nn.BatchNorm2d) for module in attention.modules()
        )

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        x = self.attend(x, grid)
        if self.normalise_stream:
            return residual(self.norm1(x), self.mlp, self.drop_path)
        return residual(x, lambda kept: self.mlp(self.norm1(kept)), self.drop_path)

    def attend(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """x + attention; with batch norm inside, the attention of all images, also of those that drop it."""
        if self.mixes_images:
            return x + self.drop_path(self.self_attn(self.pre_norm(x), grid))
        return residual(x, lambda kept: self.self_attn(self.pre_norm(kept), grid), self.drop_path)

    def mlp(self, x: Tensor) -> Tensor:
        return self.drop(self.linear2(self.drop(F.gelu(self.linear1(x)))))


class Transformer(nn.Module):
    """Tokens (B, h * w, D) of a grid (h, w) -> pooled features (B, D): positions, layers, a norm and a pooling.

    `side` is the side of the grid, or the grid, at the built size, `attention()` makes one layer's attention.
    `positional_embedding` is "learnable" (a table, resampled bilinearly to other grids), "sine" (fixed, over the
    flat index) or "none".
    """

    sine: Tensor  # (1, count, D), where positions are a sine

    def __init__(
        self,
        side: int | Grid,
        dim: int,
        *,
        num_layers: int,
        attention: Callable[[], nn.Module],
        mlp_ratio: float,
        class_token: bool = False,
        positional_embedding: str = "learnable",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        pre_norm: bool = False,
    ) -> None:
        super().__init__()
        self.dim, self.num_tokens = dim, int(class_token)
        self.grid = height_width(side)
        count = self.num_tokens + math.prod(self.grid)
        self._add_positions(positional_embedding, count)
        self.class_emb = nn.Parameter(torch.zeros(1, 1, dim)) if class_token else None
        self.attention_pool = None if class_token else SequencePool(dim)
        self.drop = nn.Dropout(drop_rate)
        rates = [drop_path_rate * index / max(num_layers - 1, 1) for index in range(num_layers)]
        layer: dict[str, Any] = {
            "mlp_ratio": mlp_ratio,
            "drop_rate": drop_rate,
            "pre_norm": pre_norm,
        }
        self.blocks = nn.ModuleList(
            Layer(dim, attention(), drop_path_rate=rate, **layer) for rate in rates
        )
        self.norm = nn.LayerNorm(dim)
        self.apply(initialise)

    def _add_positions(self, kind: str, count: int) -> None:
        if kind not in ("learnable", "sine", "none"):
            raise ValueError(
                f"positional_embedding is {kind!r}; it must be learnable, sine or none"
            )
        self.positional_embedding = kind
        self.positional_emb: nn.Parameter | None = None
        if kind == "learnable":
            table = torch.empty(1, count, self.dim)
            self.positional_emb = nn.Parameter(nn.init.trunc_normal_(table, std=0.2))
        elif kind == "sine":
            self.register_buffer("sine", sinusoid(count, self.dim), persistent=False)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        x = self.embed(x, grid)
        for block in self.blocks:
            x = block(x, grid)
        return self.pool(x)

    def forward_blocks(self, x: Tensor, grid: tuple[int, int]) -> tuple[Tensor, list[Tensor]]:
        """The features of `forward` and every block's output (B, num_tokens + h * w, D)."""
        x, outputs = self.embed(x, grid), []
        for block in self.blocks:
            x = block(x, grid)
            outputs.append(x)
        return self.pool(x), outputs

    def embed(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens (B, h * w, D) -> (B, num_tokens + h * w, D): the class token in front, positions added."""
        if self.class_emb is not None:
            x = torch.cat([self.class_emb.expand(x.shape[0], -1, -1).to(x.dtype), x], dim=1)
        positions = self.positions(grid)
        return self.drop(x if positions is None else x + positions)

    def positions(self, grid: tuple[int, int]) -> Tensor | None:
        """The position table (1, num_tokens + h * w, D) for grid = (h, w); None where there is none."""
        if self.positional_emb is not None:
            first = self.positional_emb[:, : self.num_tokens]
            table = self.positional_emb[:, self.num_tokens :]
            return torch.cat([first, resample(table, grid, "bilinear", own=self.grid)], dim=1)
        if self.positional_embedding == "none":
            return None
        count = self.num_tokens + grid[0] * grid[1]
        if count <= self.sine.shape[1]:
            return self.sine[:, :count]  # a shorter table is the first rows of a longer one
        return sinusoid(count, self.dim).to(self.sine)

    def pool(self, x: Tensor) -> Tensor:
        """The last block's tokens -> features (B, D): the normalised class token, or all of them pooled."""
        if self.attention_pool is None:
            return self.norm(x[:, 0])
        return self.attention_pool(self.norm(x))


class Compact(nn.Module):
    """A tokenizer and a transformer: images (B, C, h, w) -> features (B, dim)."""

    def __init__(self, tokenizer: Tokenizer, transformer: Transformer) -> None:
        super().__init__()
        self.tokenizer, self.transformer = tokenizer, transformer
        self.dim = transformer.dim
        self.maps = {
            f"blocks.{index}": Map(self.dim, tokenizer.stride)
            for index in range(len(transformer.blocks))
        }
        self.stages = tuple(self.maps)[-1:]

    def forward(self, x: Tensor) -> Tensor:
        return self.transformer(*self.tokens(x))

    def forward_maps(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The features of `forward` and every block's output as a map (B, D, h, w)."""
        tokens, grid = self.tokens(x)
        features, outputs = self.transformer.forward_blocks(tokens, grid)
        maps = (to_map(output, grid, self.transformer.num_tokens) for output in outputs)
        return features, dict(zip(self.maps, maps, strict=True))

    def tokens(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Images (B, C, h, w) -> tokens (B, N, D), row by row, and their grid."""
        x = self.tokenizer(x)
        return to_tokens(x), (x.shape[-2], x.shape[-1])


def initialise(module: nn.Module) -> None:
    """The released initial values of a linear layer; those of convolutions and norms are set where they are made."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
