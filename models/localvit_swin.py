"""LocalViT-Swin: Li et al. 2021, arXiv 2104.05707: Swin-T with the locality feed-forward in place of norm and MLP.

Our Swin with other blocks, published layer-norm epsilons of 1e-5 throughout, and windows of any size. Names and numbers
are those of github.com/ofsoundof/LocalViT (MIT).
"""

from typing import Any

import torch.nn as nn
from timm.layers import DropPath
from torch import Tensor

from . import swin
from ._locality import LocalityFeedForward
from ._sizes import check_heads, check_layers, check_patch, default_patch

EPS = 1e-5
VARIANTS = {
    "localvit_swin_tiny_patch4_window7_224": {"image_size": 224, "patch_size": 4, "window_size": 7}
}


def build(
    image_size: int,
    *,
    patch_size: int | None = None,
    in_channels: int = 3,
    embed_dim: int = 96,
    depths: tuple[int, ...] = (2, 2, 6, 2),
    num_heads: int = 3,
    vit_mlp_ratio: float = 4.0,
    qkv_bias: bool = True,
    window_size: int | None = None,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.1,
    act: str = "hs+se",
    locality_drop_path: bool = False,
) -> "LocalSwin":
    """A LocalViT-Swin for square images of `image_size` px; patches of 2 px up to 32 px images, else 4, unless given.

    embed_dim and num_heads are the first stage's; both double with every further stage. window_size: patches a side (7
    where the first map is a multiple of that, else 4). act: one of _locality.ACTS. ValueError on sizes that clash.
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
    side = image_size // patch_size
    window = (7 if side % 7 == 0 else swin.WINDOW) if window_size is None else window_size
    if window < 1:
        raise ValueError(f"a window of {window} patches a side must be at least 1")
    return LocalSwin(
        side,
        patch_size,
        in_channels,
        embed_dim,
        depths,
        num_heads,
        drop_path_rate,
        window=window,
        block=Block,
        mlp_ratio=vit_mlp_ratio,
        qkv_bias=qkv_bias,
        drop=drop_rate,
        act=act,
        locality_drop_path=locality_drop_path,
    )


class LocalSwin(swin.Swin):
    """Images (B, C, h, w) -> the mean of the normalised last map (B, dim); h and w any multiples of the patch size."""

    def __init__(self, *sizes: Any, **parts: Any) -> None:
        super().__init__(*sizes, **parts)
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = EPS


class Block(swin.Block):
    """Attention within windows with a pre-norm, then the locality feed-forward on the whole map."""

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
        act: str,
        locality_drop_path: bool,
    ) -> None:
        nn.Module.__init__(self)  # not Swin's, which has another norm and an MLP
        self.window = window
        self.norm1 = nn.LayerNorm(width)
        self.attn = swin.WindowAttention(width, heads, window, qkv_bias, drop)
        self.drop_path = DropPath(drop_path)
        reduction = max(width // 4, 1)  # so 16 hidden units at ratio 4
        self.conv = LocalityFeedForward(
            width, mlp_ratio, act, reduction, drop_path=drop_path if locality_drop_path else 0.0
        )

    def forward(self, x: Tensor, shift: int = 0, mask: Tensor | None = None) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C); `shift` moves the windows and `mask` parts what they then wrongly join."""
        x = x + self.drop_path(self.mix(self.norm1(x), shift, mask))
        return self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def adapt(state: dict[str, Tensor], model: LocalSwin) -> dict[str, Tensor]:
    """A backbone's state dict, the reference's or ours at another image size, for this model's windows."""
    return swin.adapt(state, model)
