"""Vision transformer: Dosovitskiy et al. 2021, arXiv 2010.11929, small as in Gani et al. 2022, arXiv 2210.07240.

Layers, names and initial values are timm's VisionTransformer, which gives the reference's numbers at the table's own
size. Ours are the position table at other sizes (timm resamples with antialiasing, the reference does not), the CLS
token's initial spread, and three exact savings: the last block computes the CLS row alone, the only one that the
features use; on a CPU attention over few tokens is plain products, and stochastic depth computes only what it keeps.
"""

from functools import partial
from typing import Any, Literal

import torch.nn as nn
import torch.nn.functional as F
from timm.layers import PatchEmbed
from timm.models import vision_transformer as timm_vit
from torch import Tensor

from ._attention import attend, attention_weights, merge_heads, split_heads, split_qkv
from ._class_token import prepend
from ._conv_stem import conv_stem
from ._depth import residual
from ._maps import Grid, block_maps, patch_grid, to_map
from ._mimetic import initialise
from ._positions import fit_table, resample
from ._sizes import Size, check_images, default_patch, height_width, shorter_side, timm_sizes

RECTANGLES = True  # it is built for images of any height and width


def build(
    image_size: Size,
    *,
    patch_size: int | None = None,
    in_channels: int = 3,
    embed_dim: int = 192,
    num_layers: int = 9,
    num_heads: int = 12,
    vit_mlp_ratio: float = 2.0,
    qkv_bias: bool = True,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.1,
    patch_drop_rate: float = 0.0,
    stem: Literal["patch", "conv"] = "patch",
    pool: Literal["class", "mean"] = "class",
    attention_init: Literal["random", "mimetic"] = "random",
) -> "ViT":
    """A ViT for images of `image_size` px; patches of an eighth of the shorter side. ValueError on sizes that clash.

    stem: patches by one linear layer, or by the convolutions of `_conv_stem`. pool: features are the class token or the
    mean of the patch tokens. attention_init: first values of attention and positions, "mimetic" those of `_mimetic`.
    patch_drop_rate: share of the patches of whole images that training leaves out (Liu et al. 2022, arXiv 2208.07220).
    """
    if patch_size is None:
        patch_size = default_patch(image_size, shorter_side(image_size) // 8)
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
    network = ViT(**sizes, pool=pool, patch_drop_rate=patch_drop_rate)
    if stem == "conv":
        layers: nn.Module = conv_stem(in_channels, embed_dim, patch_size)
        network.patch_embed.register_module("proj", layers)
    if attention_init == "mimetic":
        initialise(network)
    return network


class ViT(timm_vit.VisionTransformer):
    """Images (B, C, h, w) -> features (B, dim); h and w any multiples of the patch size.

    The features are the normalised CLS token, or with pool="mean" the mean of the normalised patch tokens.
    """

    cls_token: nn.Parameter
    pos_embed: nn.Parameter
    patch_embed: PatchEmbed

    def __init__(self, pool: str = "class", **sizes: Any) -> None:
        norm = partial(nn.LayerNorm, eps=1e-6)
        super().__init__(
            num_classes=0, dynamic_img_size=True, norm_layer=norm, block_fn=Block, **sizes
        )
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        self.pooling, self.in_channels = pool, sizes["in_chans"]
        self.dim, self.patch_size = self.embed_dim, sizes["patch_size"]
        self.maps, self.stages = block_maps(len(self.blocks), self.dim, self.patch_size)
        self.grid = grid_of(sizes["img_size"], self.patch_size)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # no masks
        *body, last = self.blocks
        x = self.drop_patches(self.tokens(x))
        for block in body:
            x = block(x)
        if self.pooling == "mean":
            return self.features(last(x))
        return self.norm(last(x, rows=1)[:, 0])

    def forward_maps(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The features of `forward` and every block's output as a map (B, D, h, w); the last block in full."""
        grid = patch_grid(x, self.patch_size)
        x = self.tokens(x)
        maps = {}
        for name, block in zip(self.maps, self.blocks, strict=True):
            x = block(x)
            maps[name] = to_map(x, grid, prefix=1)
        return self.features(x), maps

    def features(self, x: Tensor) -> Tensor:
        """All tokens of the last block (B, N, D) -> (B, D)."""
        if self.pooling == "mean":
            return self.norm(x[:, 1:]).mean(1)
        return self.norm(x[:, 0])

    def drop_patches(self, x: Tensor) -> Tensor:
        """All tokens (B, N, D) -> those that training computes; local crops keep theirs, they are parts already."""
        whole = x.shape[1] > self.patch_embed.num_patches
        return self.patch_drop(x) if whole else x

    def tokens(self, x: Tensor) -> Tensor:
        """Images (B, C, h, w) -> CLS and patch tokens with their positions (B, N, D)."""
        check_images(x, self.in_channels, self.patch_size)
        return self._pos_embed(self.patch_embed(x))

    def _pos_embed(self, x: Tensor) -> Tensor:
        """timm's hook: patches (B, h, w, D) -> tokens (B, 1 + h * w, D)."""
        grid = (x.shape[1], x.shape[2])
        cls = self.cls_token + self.pos_embed[:, :1]
        x = x.flatten(1, 2) + resample(self.pos_embed[:, 1:], grid, own=self.grid)
        return self.pos_drop(prepend(cls, x))

    def attention(self, x: Tensor) -> Tensor:
        """The last block's attention after the softmax: images -> (B, heads, N, N), token 0 is CLS."""
        *body, last = self.blocks
        x = self.tokens(x)
        for block in body:
            x = block(x)
        assert isinstance(last, Block)
        return last.attention(x)

    def intermediate(self, x: Tensor, n: int) -> list[Tensor]:
        """The outputs of the last n blocks, oldest first, each through the final norm: images -> n times (B, N, D)."""
        x = self.tokens(x)
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        return [self.norm(output) for output in outputs[-n:]]


class Block(timm_vit.Block):
    """timm's pre-norm block with our attention."""

    attn: timm_vit.Attention

    def forward(self, x: Tensor, *, rows: int | None = None) -> Tensor:  # type: ignore[override]  # no masks
        """Tokens (B, N, D) -> (B, N, D), or (B, rows, D) when only the first `rows` tokens are wanted."""
        x = residual(x, lambda kept: self.mix(self.norm1(kept), rows), self.drop_path1, rows)
        return residual(x, lambda kept: self.mlp(self.norm2(kept)), self.drop_path2)

    def mix(self, x: Tensor, rows: int | None) -> Tensor:
        """Attention of the first `rows` tokens over all: normalised tokens (B, N, D) -> (B, rows, D)."""
        mixed = merge_heads(attend(*self.queries_keys_values(x, rows)))
        return self.attn.proj_drop(self.attn.proj(mixed))

    def queries_keys_values(
        self, x: Tensor, rows: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised tokens (B, N, D) -> q (B, heads, rows, d), k and v (B, heads, N, d)."""
        heads = self.attn.num_heads
        if rows is None:
            return split_qkv(self.attn.qkv(x), heads)
        width = x.shape[-1]
        weight, bias = self.attn.qkv.weight, self.attn.qkv.bias
        query_bias = key_value_bias = None
        if bias is not None:
            query_bias, key_value_bias = bias[:width], bias[width:]
        k, v = F.linear(x, weight[width:], key_value_bias).chunk(2, dim=-1)
        q = F.linear(x[:, :rows], weight[:width], query_bias)
        return split_heads(q, heads), split_heads(k, heads), split_heads(v, heads)

    def attention(self, x: Tensor) -> Tensor:
        """Tokens (B, N, D) -> attention after the softmax (B, heads, N, N)."""
        q, k, _ = self.queries_keys_values(self.norm1(x))
        return attention_weights(q, k)


def grid_of(image_size: Size, patch_size: int) -> Grid:
    """Rows and columns of patches."""
    height, width = height_width(image_size)
    return height // patch_size, width // patch_size


def adapt(
    state: dict[str, Tensor], model: ViT, image_size: tuple[int, int] | None = None
) -> dict[str, Tensor]:
    """A backbone's state dict, the reference's or ours at another image size, with a position table of this length.

    image_size: height and width in px of the images that the state dict is for (None: they are square).
    """
    return fit_positions(dict(state), model, 1, image_size)


def fit_positions(
    state: dict[str, Tensor], model: ViT, prefix: int, image_size: tuple[int, int] | None
) -> dict[str, Tensor]:
    """The state with its position table, of `prefix` tokens and patches, made to fit the model; see `adapt`."""
    if "pos_embed" in state:
        saved = image_size and grid_of(image_size, model.patch_size)
        table = fit_table(state["pos_embed"], model.pos_embed, prefix, grid=model.grid, saved=saved)
        state["pos_embed"] = table
    return state
