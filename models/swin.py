"""Swin transformer: Liu et al. 2021, arXiv 2103.14030, in the small form of Gani et al. 2022, arXiv 2210.07240.

Written out because timm's class gives other numbers than the reference: where a map is no multiple of a shifted window,
timm rolls before it pads and the reference pads before it rolls (features of 20 px images differ by 0.1), and timm
counts patch merging to the next stage, so that names differ too. Maps are (B, H, W, C) throughout.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import DropPath, Mlp
from torch import Tensor

from ._attention import merge_heads, split_heads
from ._maps import Map, stage_maps
from ._sizes import check_heads, check_images, check_layers, check_patch, default_patch

WINDOW = 4
LayerNorm = partial(nn.LayerNorm, eps=1e-6)


def build(
    image_size: int,
    *,
    patch_size: int | None = None,
    in_channels: int = 3,
    embed_dim: int = 96,
    depths: tuple[int, ...] = (2, 6, 4),
    num_heads: int = 3,
    vit_mlp_ratio: float = 2.0,
    qkv_bias: bool = True,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.1,
) -> "Swin":
    """A Swin for square images of `image_size` px; patches of 2 px up to 32 px images, else 4, unless given.

    embed_dim and num_heads are the first stage's; both double with every further stage. ValueError on sizes that clash.
    """
    patch_size = (
        default_patch(image_size, 2 if image_size <= 32 else 4)
        if patch_size is None
        else patch_size
    )
    check_patch(image_size, patch_size)
    check_heads(embed_dim, num_heads)
    for depth in depths:
        check_layers(depth)
    parts = {"mlp_ratio": vit_mlp_ratio, "qkv_bias": qkv_bias, "drop": drop_rate}
    return Swin(
        image_size // patch_size,
        patch_size,
        in_channels,
        embed_dim,
        depths,
        num_heads,
        drop_path_rate,
        **parts,
    )


class Swin(nn.Module):
    """Images (B, C, h, w) -> the mean of the normalised last map (B, dim); h and w any multiples of the patch size."""

    def __init__(
        self,
        side: int,
        patch_size: int,
        in_channels: int,
        width: int,
        depths: tuple[int, ...],
        heads: int,
        drop_path_rate: float,
        **parts: Any,
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(in_channels, width, patch_size)
        self.pos_drop = nn.Dropout(parts["drop"])
        rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").split(depths)
        self.layers = nn.ModuleList()
        for stage, stage_rates in enumerate(rates):
            merge = stage < len(depths) - 1
            self.layers.append(
                Stage(side, width << stage, heads << stage, stage_rates.tolist(), merge, **parts)
            )
            side = (side + 1) // 2
        self.dim, self.patch_size = width << len(depths) - 1, patch_size
        sizes = [Map(width << stage, patch_size << stage) for stage in range(len(depths))]
        self.maps, self.stages = stage_maps(sizes, depths)
        self.norm = LayerNorm(self.dim)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_maps(x)[0]

    def forward_maps(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The features of `forward` and every block's output as a map (B, width, h, w), before patch merging."""
        check_images(x, self.patch_embed.proj.in_channels, self.patch_embed.proj.stride[0])
        x = self.pos_drop(self.patch_embed(x))
        maps: list[Tensor] = []
        for stage in self.layers:
            assert isinstance(stage, Stage)
            outputs = stage(x)
            x = stage.downsample(outputs[-1])
            maps += [output.permute(0, 3, 1, 2) for output in outputs]
        return self.norm(x).mean(dim=(1, 2)), dict(zip(self.maps, maps, strict=True))


class PatchEmbed(nn.Module):
    """Images (B, C, h, w) -> the first map (B, h / patch, w / patch, D), normalised."""

    def __init__(self, in_channels: int, width: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, width, patch_size, patch_size)
        self.norm = LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class Stage(nn.Module):
    """Blocks of one resolution, every second one with shifted windows, then patch merging except in the last stage.

    A stage built for maps no larger than the window takes the whole map as its window and never shifts. `block` builds
    a block, Block unless given.
    """

    def __init__(
        self,
        side: int,
        width: int,
        heads: int,
        rates: list[float],
        merge: bool,
        window: int = WINDOW,
        block: Callable[..., nn.Module] | None = None,
        **parts: Any,
    ) -> None:
        super().__init__()
        self.window = min(window, side)
        self.shift = 0 if side <= window else window // 2
        block = Block if block is None else block
        self.blocks = nn.ModuleList(
            block(width, heads, self.window, rate, **parts) for rate in rates
        )
        self.downsample = PatchMerging(width) if merge else nn.Identity()

    def forward(self, x: Tensor) -> list[Tensor]:
        """A map (B, H, W, C) -> every block's output (B, H, W, C), not yet merged."""
        mask = (
            shift_mask(x.shape[1], x.shape[2], self.window, self.shift, x.device)
            if self.shift
            else None
        )
        outputs = []
        for index, block in enumerate(self.blocks):
            x = block(x, self.shift, mask) if index % 2 else block(x)
            outputs.append(x)
        return outputs


class Block(nn.Module):
    """Attention within windows, then an MLP, each with a pre-norm, a residual and stochastic depth."""

    def __init__(
        self,
        width: int,
        heads: int,
        window: int,
        drop_path: float,
        *,
        mlp_ratio: float,
        qkv_bias: bool,
        drop: float,
    ) -> None:
        super().__init__()
        self.window = window
        self.norm1 = LayerNorm(width)
        self.attn = WindowAttention(width, heads, window, qkv_bias, drop)
        self.drop_path = DropPath(drop_path)
        self.norm2 = LayerNorm(width)
        self.mlp = Mlp(width, int(width * mlp_ratio), drop=drop)

    def forward(self, x: Tensor, shift: int = 0, mask: Tensor | None = None) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C); `shift` moves the windows and `mask` parts what they then wrongly join."""
        x = x + self.drop_path(self.mix(self.norm1(x), shift, mask))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def mix(self, x: Tensor, shift: int, mask: Tensor | None) -> Tensor:
        """Window attention; zeros fill the last windows, and act as keys and values there, as in the reference."""
        height, width = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, -width % self.window, 0, -height % self.window))
        padded = x.shape
        x = torch.roll(x, (-shift, -shift), (1, 2)) if shift else x
        x = join_windows(self.attn(split_windows(x, self.window), mask), padded, self.window)
        x = torch.roll(x, (shift, shift), (1, 2)) if shift else x
        return x[:, :height, :width]


class WindowAttention(nn.Module):
    """Attention among the N = window * window tokens of a window, with a learned bias for each relative position."""

    relative_position_index: Tensor  # (N, N)

    def __init__(self, width: int, heads: int, window: int, qkv_bias: bool, drop: float) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        self.register_buffer(
            "relative_position_index", relative_positions(window), persistent=False
        )
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)
        self.proj_drop = nn.Dropout(drop)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Windows (B, windows, N, C) -> the same shape; mask (windows, 1, N, N) is added to the logits."""
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        bias = bias if mask is None else bias + mask
        q, k, v = (
            split_heads(part, self.heads) for part in self.qkv(x.flatten(0, 1)).chunk(3, dim=-1)
        )
        logits = q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)
        weights = (logits.unflatten(0, x.shape[:2]) + bias).softmax(-1).flatten(0, 1)
        return self.proj_drop(self.proj(merge_heads(weights @ v))).view_as(x)


class PatchMerging(nn.Module):
    """2 x 2 neighbours become one token: (B, H, W, C) -> (B, H / 2, W / 2, 2 C), sides rounded up."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        corners = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(corners, dim=-1)))


def split_windows(x: Tensor, window: int) -> Tensor:
    """A map (B, H, W, C) -> its windows in raster order (B, windows, window * window, C)."""
    # (B, rows, window, columns, window, C)
    x = x.unflatten(2, (-1, window)).unflatten(1, (-1, window))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def join_windows(x: Tensor, shape: torch.Size, window: int) -> Tensor:
    """The inverse of split_windows for a map of `shape`."""
    # (B, rows, columns, window, window, C)
    x = x.unflatten(2, (window, window)).unflatten(1, (-1, shape[2] // window))
    return x.transpose(2, 3).reshape(shape)


def relative_positions(window: int) -> Tensor:
    """For each pair of a window's N tokens the row of the bias table (N, N): row offset first, then column offset."""
    place = torch.arange(window)
    offset = place[:, None] - place + window - 1
    rows, columns = offset[:, None, :, None], offset[None, :, None, :]
    return (rows * (2 * window - 1) + columns).reshape(window**2, window**2)


def shift_mask(height: int, width: int, window: int, shift: int, device: torch.device) -> Tensor:
    """-100 between tokens that only the cyclic shift has joined in a window, else 0: (windows, 1, N, N)."""
    rows, columns = (_regions(size, window, shift, device) for size in (height, width))
    regions = split_windows((3 * rows[:, None] + columns)[None, :, :, None], window)[0, :, :, 0]
    return -100.0 * (regions[:, None, :, None] != regions[:, None, None, :])


def _regions(size: int, window: int, shift: int, device: torch.device) -> Tensor:
    """Along one padded axis: 0 in windows that hold only neighbours, then 1 and 2 for the two parts of the last one."""
    size += -size % window
    place = torch.arange(size, device=device)
    return (place >= size - window).long() + (place >= size - shift)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, WindowAttention):
        nn.init.trunc_normal_(module.relative_position_bias_table, std=0.02)


def adapt(state: dict[str, Tensor], model: Swin) -> dict[str, Tensor]:
    """A backbone's state dict, the reference's or ours at another image size, for this model's windows."""
    own = dict(model.named_parameters())
    kept = {
        key: value
        for key, value in state.items()
        if not key.endswith(("relative_position_index", "attn_mask"))
    }
    tables = {key for key in kept if key.endswith("relative_position_bias_table") and key in own}
    return {
        key: _fit_bias(value, own[key]) if key in tables else value for key, value in kept.items()
    }


def _fit_bias(table: Tensor, like: Tensor) -> Tensor:
    """A bias table of another window, resampled; untouched when the tables cannot correspond."""
    old, new = math.isqrt(len(table)), math.isqrt(len(like))
    if old == new or old**2 != len(table) or table.shape[1:] != like.shape[1:]:
        return table
    maps = table.T.unflatten(1, (old, old))[None]
    return (
        F.interpolate(maps, (new, new), mode="bicubic", align_corners=True)[0]
        .flatten(1)
        .T.contiguous()
    )
