"""PiT, pooling-based vision transformer: Heo et al. 2021, arXiv 2103.16302.

Layers are timm's PoolingVisionTransformer, which gives the numbers of the locality-guidance code (Li et al. 2022,
github.com/lkhl/tiny-transformers) under its names for them. Ours are the position map at other sizes, the rates of
stochastic depth (one step per block, as published; timm rises to the full rate at the last block), and the maps.
"""

from typing import Any

import torch
from timm.layers import DropPath
from timm.models import pit as timm_pit
from torch import Tensor

from ._maps import Map, map_grid, stage_maps, to_map, to_tokens
from ._positions import resample
from ._sizes import check_heads, check_images, check_layers, check_patch, default_patch

VARIANTS = {"pit_tiny": {"image_size": 224}}


def build(
    image_size: int,
    *,
    patch_size: int | None = None,
    stride: int | None = None,
    in_channels: int = 3,
    embed_dim: int = 64,
    depths: tuple[int, ...] = (2, 6, 4),
    num_heads: int = 2,
    vit_mlp_ratio: float = 4.0,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.1,
) -> "PiT":
    """A PiT for square images of `image_size` px: PiT-Tiny by default, its patches 16 px or an eighth of small images.

    Patches overlap: the next one starts after `stride` px, half a patch unless given. embed_dim and num_heads are the
    first stage's; both double with every further stage. ValueError on sizes that clash.
    """
    patch_size = (
        default_patch(image_size, min(16, image_size // 8)) if patch_size is None else patch_size
    )
    stride = max(1, patch_size // 2) if stride is None else stride
    check_patch(image_size, patch_size)
    check_heads(embed_dim, num_heads)
    for depth in depths:
        check_layers(depth)
    if stride < 1 or patch_size % stride:
        raise ValueError(
            f"stride {stride} does not divide patch size {patch_size}; leave it out for half a patch"
        )
    return PiT(
        drop_path_rate,
        img_size=image_size,
        patch_size=patch_size,
        stride=stride,
        in_chans=in_channels,
        base_dims=(embed_dim // num_heads,) * len(depths),
        depth=depths,
        heads=tuple(num_heads << stage for stage in range(len(depths))),
        mlp_ratio=vit_mlp_ratio,
        pos_drop_rate=drop_rate,
        proj_drop_rate=drop_rate,
    )


class PiT(timm_pit.PoolingVisionTransformer):
    """Images (B, C, h, w) -> the normalised class token (B, dim); h and w any multiples of the patch size."""

    transformers: Any  # timm's stages, which name their parts without types
    feature_info: Any

    def __init__(self, drop_path_rate: float, **sizes: Any) -> None:
        super().__init__(num_classes=0, **sizes)
        blocks = [block for stage in self.transformers for block in stage.blocks]
        for index, block in enumerate(blocks):
            rate = drop_path_rate * index / len(blocks)
            block.drop_path1, block.drop_path2 = DropPath(rate), DropPath(rate)
        self.dim, self.patch_size = self.embed_dim, sizes["patch_size"]
        maps = [Map(info["num_chs"], info["reduction"]) for info in self.feature_info]
        self.maps, self.stages = stage_maps(maps, sizes["depth"])

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_maps(x)[0]

    def forward_maps(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The features of `forward` and every block's output as a map (B, width, h, w), before pooling."""
        check_images(x, self.in_chans, self.patch_size)
        x = self.patch_embed(x)
        maps: list[Tensor] = []
        x = self.pos_drop(x + self.positions(map_grid(x)))
        cls = self.cls_token.expand(x.shape[0], -1, -1)
        for stage in self.transformers:
            if stage.pool is not None:
                x, cls = stage.pool(x, cls)
            grid = map_grid(x)
            tokens = torch.cat([cls, to_tokens(x)], dim=1)
            for block in stage.blocks:
                tokens = block(tokens)
                maps.append(to_map(tokens, grid, prefix=1))
            x, cls = maps[-1], tokens[:, :1]
        return self.norm(cls[:, 0]), dict(zip(self.maps, maps, strict=True))

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """The learned position map (1, D, h, w) for grid = (h, w)."""
        return resample_map(self.pos_embed, grid)


def resample_map(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """A square position map (1, D, G, G) resampled to (1, D, h, w)."""
    return to_map(resample(to_tokens(table), grid), grid)


def adapt(state: dict[str, Tensor], model: PiT) -> dict[str, Tensor]:
    """A backbone's state dict, the reference's or ours at another image size, with our names and position map."""
    state = {_rename(key): value for key, value in state.items()}
    if "pos_embed" in state:
        state["pos_embed"] = _fit(state["pos_embed"], model.pos_embed)
    return state


def _fit(table: Tensor, like: Tensor) -> Tensor:
    """A saved position map of another size, resampled; untouched when the maps cannot correspond."""
    if (
        table.shape == like.shape
        or table.shape[:2] != like.shape[:2]
        or len(set(table.shape[2:])) != 1
    ):
        return table
    return resample_map(table, map_grid(like)).contiguous()


def _rename(key: str) -> str:
    """The reference keeps the pooling before stage s + 1 in `pools.s` and spells attention out."""
    if key.startswith("pools."):
        _, stage, rest = key.split(".", 2)
        return f"transformers.{int(stage) + 1}.pool.{rest}"
    return key.replace(".attn.qkv_transform.", ".attn.qkv.").replace(
        ".attn.projection.", ".attn.proj."
    )
