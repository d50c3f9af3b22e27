"""ConViT: d'Ascoli et al. 2021, arXiv 2103.10697: attention that starts as a convolution and may learn to leave it.

Written out, since timm's ConVit takes the grid of patches to be a square of sqrt(N), stores the relative positions of
the last size on the module in `forward`, and is under CC-BY-NC. Ours follows section 3 of the paper and gives the
numbers of the locality-guidance code (Li et al. 2022, github.com/lkhl/tiny-transformers), whose names it has.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import DropPath, Mlp, PatchEmbed, trunc_normal_
from torch import Tensor

from ._attention import attention_weights, merge_heads, split_heads
from ._depth import residual
from ._maps import block_maps, to_map
from ._positions import fit_table, resample
from ._sizes import check_heads, check_images, check_layers, check_patch, default_patch
from .vit import Block

LayerNorm = partial(nn.LayerNorm, eps=1e-6)
VARIANTS = {"convit_tiny": {"image_size": 224}}


def build(
    image_size: int,
    *,
    patch_size: int | None = None,
    in_channels: int = 3,
    embed_dim: int = 192,
    num_layers: int = 12,
    num_heads: int = 4,
    vit_mlp_ratio: float = 4.0,
    qkv_bias: bool = False,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.1,
    local_layers: int | None = None,
    locality_strength: float = 1.0,
) -> "ConViT":
    """A ConViT for square images of `image_size` px: ConViT-Tiny, its patches 16 px or an eighth of small images.

    The first `local_layers` blocks (all but two unless given) have gated positional attention; the class token joins
    after them. locality_strength: how sharply each head starts on its own neighbour. ValueError on sizes that clash.
    """
    patch_size = (
        default_patch(image_size, min(16, image_size // 8)) if patch_size is None else patch_size
    )
    local_layers = max(num_layers - 2, 0) if local_layers is None else local_layers
    check_patch(image_size, patch_size)
    check_heads(embed_dim, num_heads)
    check_layers(num_layers)
    if not 0 <= local_layers < num_layers:
        raise ValueError(
            f"{local_layers} of {num_layers} blocks cannot be local; give 0 to {num_layers - 1}"
        )
    parts: dict[str, Any] = {
        "mlp_ratio": vit_mlp_ratio,
        "qkv_bias": qkv_bias,
        "proj_drop": drop_rate,
    }
    rates = torch.linspace(0, drop_path_rate, num_layers, device="cpu").tolist()
    local = [
        LocalBlock(embed_dim, num_heads, drop_path=rate, **parts) for rate in rates[:local_layers]
    ]
    parts["norm_layer"] = LayerNorm
    others = [Block(embed_dim, num_heads, drop_path=rate, **parts) for rate in rates[local_layers:]]
    model = ConViT(image_size, patch_size, in_channels, embed_dim, drop_rate, local, others)
    for block in local:
        block.attn.start_local(locality_strength)
    return model


class ConViT(nn.Module):
    """Images (B, C, h, w) -> the normalised class token (B, dim); h and w any multiples of the patch size."""

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        in_channels: int,
        width: int,
        drop_rate: float,
        local: Sequence[nn.Module],
        others: Sequence[nn.Module],
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(None, patch_size, in_channels, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, (image_size // patch_size) ** 2, width))
        self.pos_drop = nn.Dropout(drop_rate)
        self.blocks = nn.ModuleList([*local, *others])
        self.norm = LayerNorm(width)
        self.dim, self.patch_size, self.local_layers = width, patch_size, len(local)
        self.maps, self.stages = block_maps(len(self.blocks), width, patch_size)
        trunc_normal_(self.cls_token, std=0.02)
        trunc_normal_(self.pos_embed, std=0.02)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """The last block computes the class token's row alone, the only one that the features use."""
        x, relative = self.tokens(x)
        for block in self.blocks[: self.local_layers]:
            x = block(x, relative)
        x = self.with_class_token(x)
        for block in self.blocks[self.local_layers : -1]:
            x = block(x)
        return self.norm(self.blocks[-1](x, rows=1)[:, 0])

    def forward_maps(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The features of `forward` and every block's output as a map (B, D, h, w)."""
        grid, maps = (x.shape[-2] // self.patch_size, x.shape[-1] // self.patch_size), []
        x, relative = self.tokens(x)
        for block in self.blocks[: self.local_layers]:
            x = block(x, relative)
            maps.append(to_map(x, grid))
        x = self.with_class_token(x)
        for block in self.blocks[self.local_layers :]:
            x = block(x)
            maps.append(to_map(x, grid, prefix=1))
        return self.norm(x[:, 0]), dict(zip(self.maps, maps, strict=True))

    def tokens(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, h, w) -> patch tokens with their positions (B, N, D) and their relative places (N, N, 3)."""
        check_images(x, self.patch_embed.proj.in_channels, self.patch_size)
        grid = (x.shape[-2] // self.patch_size, x.shape[-1] // self.patch_size)
        x = self.patch_embed(x) + resample(self.pos_embed, grid)
        return self.pos_drop(x), relative_positions(grid, x.device)

    def with_class_token(self, x: Tensor) -> Tensor:
        """Patch tokens (B, N, D) -> class and patch tokens (B, 1 + N, D)."""
        return torch.cat([self.cls_token.expand(x.shape[0], -1, -1).to(x.dtype), x], dim=1)


class LocalBlock(nn.Module):
    """Gated positional attention, then an MLP, each with a pre-norm, a residual and stochastic depth."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        mlp_ratio: float,
        qkv_bias: bool,
        proj_drop: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.norm1 = LayerNorm(width)
        self.attn = GatedPositionalAttention(width, heads, qkv_bias, proj_drop)
        self.drop_path = DropPath(drop_path)
        self.norm2 = LayerNorm(width)
        self.mlp = Mlp(width, int(width * mlp_ratio), drop=proj_drop)

    def forward(self, x: Tensor, relative: Tensor) -> Tensor:
        """Patch tokens (B, N, D) and their relative places (N, N, 3) -> (B, N, D)."""
        x = residual(x, lambda kept: self.attn(self.norm1(kept), relative), self.drop_path)
        return residual(x, lambda kept: self.mlp(self.norm2(kept)), self.drop_path)


class GatedPositionalAttention(nn.Module):
    """Each head mixes attention by content with attention by relative place; its gate says how much of which."""

    def __init__(self, width: int, heads: int, qkv_bias: bool, drop_rate: float) -> None:
        super().__init__()
        self.heads = heads
        self.qk = nn.Linear(width, 2 * width, bias=qkv_bias)
        self.v = nn.Linear(width, width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)
        self.pos_proj = nn.Linear(3, heads)
        self.gating_param = nn.Parameter(torch.ones(heads))
        self.proj_drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor, relative: Tensor) -> Tensor:
        """Normalised patch tokens (B, N, D) and their relative places (N, N, 3) -> (B, N, D)."""
        q, k, v = (
            split_heads(part, self.heads) for part in (*self.qk(x).chunk(2, dim=-1), self.v(x))
        )
        gate = self.gating_param.sigmoid()[:, None, None]
        weights = (1 - gate) * attention_weights(q, k) + gate * self.by_position(relative)
        weights = weights / weights.sum(-1, keepdim=True)
        return self.proj_drop(self.proj(merge_heads(weights.to(v.dtype) @ v)))

    def by_position(self, relative: Tensor) -> Tensor:
        """Relative places (N, N, 3) -> weights (heads, N, N); squared distances need full precision."""
        with torch.autocast(relative.device.type, enabled=False):
            weight, bias = self.pos_proj.weight, self.pos_proj.bias
            return F.linear(relative.to(weight.dtype), weight, bias).permute(2, 0, 1).softmax(-1)

    @torch.no_grad()
    def start_local(self, strength: float) -> None:
        """Initial values of section 3: values pass unchanged, and the heads look at a square of neighbours, one each.

        Heads beyond the largest square keep random places.
        """
        side = math.isqrt(self.heads)
        centre = (side - 1) / 2 if side % 2 == 0 else side // 2
        nn.init.eye_(self.v.weight)
        for right in range(side):
            for down in range(side):
                place = [2 * (right - centre), 2 * (down - centre), -1]
                self.pos_proj.weight[down + side * right] = self.pos_proj.weight.new_tensor(place)
        self.pos_proj.weight *= strength


def relative_positions(grid: tuple[int, int], device: torch.device) -> Tensor:
    """From every patch n of an (h, w) grid to every m: columns, rows and squared distance (N, N, 3), N = h * w."""
    rows, columns = (torch.arange(size, device=device, dtype=torch.float32) for size in grid)
    rows, columns = (place.flatten() for place in torch.meshgrid(rows, columns, indexing="ij"))
    right, down = columns - columns[:, None], rows - rows[:, None]
    return torch.stack([right, down, right**2 + down**2], dim=-1)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def adapt(state: dict[str, Tensor], model: ConViT) -> dict[str, Tensor]:
    """A backbone's state dict, the reference's or ours at another image size, with a position table of this length.

    Names are the reference's own. Relative positions, which some other programs save, are computed.
    """
    state = {key: value for key, value in state.items() if not key.endswith(".rel_indices")}
    if "pos_embed" in state:
        state["pos_embed"] = fit_table(state["pos_embed"], model.pos_embed)
    return state
