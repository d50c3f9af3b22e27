"""LocalViT-T2T: Li et al. 2021, arXiv 2104.05707: T2T-ViT-7 with the locality feed-forward in place of norms and MLPs.

Our T2T-ViT with LocalViT's blocks, and convolutions in the token stages too. Numbers are those of
github.com/ofsoundof/LocalViT (MIT), where the class token skips the feed-forward, so that the last block's changes its
map but not the features. The published random features of the Performer are a parameter that is not trained, and
its token stages have a second norm that is not used; here they are a buffer and nothing.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from . import t2t
from ._attention import attend
from ._class_token import ClassToken
from ._locality import LocalityFeedForward
from ._performer import PerformerAttention
from ._sizes import check_heads, check_layers
from ._tokens_to_token import TokensToToken
from .localvit import Block

EPS = 1e-5
TOKEN_DROP = 0.1  # after the Performer's projection, whatever drop_rate is
VARIANTS = {"localvit_T2t_conv7": {"image_size": 224, "patch_size": 16}}


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
    tokens_type: str = "performer",
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.1,
    act: str = "hs+se",
    locality_drop_path: bool = False,
) -> "LocalT2T":
    """A LocalViT-T2T for square images of `image_size` px, a token per 16 px or an eighth of it.

    patch_size: px per token, a multiple of 4. token_dim, tokens_type: width of the token stages, and their attention,
    "performer" or "transformer" (softmax). act: one of _locality.ACTS. ValueError on sizes that clash.
    """
    patch_size = t2t.default_patch(image_size) if patch_size is None else patch_size
    check_heads(embed_dim, num_heads)
    check_heads(token_dim, 2)  # half as many random features
    check_layers(num_layers)
    if tokens_type not in ATTENTIONS:
        raise ValueError(
            f"no tokens_type is called {tokens_type!r}; known: {', '.join(ATTENTIONS)}"
        )
    stage = partial(TokenStage, ATTENTIONS[tokens_type])
    tokens = TokensToToken(in_channels, token_dim, embed_dim, patch_size, stage)
    locality: dict[str, Any] = {
        "ratio": vit_mlp_ratio,
        "act": act,
        "reduction": max(embed_dim // 2, 1),
    }
    rates = torch.linspace(0, drop_path_rate, num_layers, device="cpu").tolist()
    blocks = [
        Block(
            embed_dim,
            num_heads,
            qkv_bias,
            drop_rate,
            rate,
            eps=EPS,
            locality_drop_path=locality_drop_path,
            **locality,
        )
        for rate in rates
    ]
    return LocalT2T(image_size, tokens, blocks, drop_rate)


class LocalT2T(ClassToken, t2t.T2T):
    """Images (B, C, h, w) of at least 3 x 3 px -> the normalised class token (B, dim)."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.norm.eps = EPS


class TokenStage(nn.Module):
    """Attention to another width, then locality of ratio 1: tokens (B, N, in_width), their grid -> (B, N, width)."""

    def __init__(self, attention: Callable[..., nn.Module], in_width: int, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(in_width, eps=EPS)
        self.attn = attention(in_width, width)
        self.conv = LocalityFeedForward(width, ratio=1, act="hs")

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        return self.conv.mix_tokens(self.attn(self.norm1(x)), grid)


class SoftmaxAttention(nn.Module):
    """Tokens (B, N, in_width) -> (B, N, width): the values, plus what one head gathers of them.

    Logits are scaled by the root of the incoming width, as published, not by that of the queries.
    """

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.scale = (width / in_width) ** 0.5  # on top of attend's
        self.qkv = nn.Linear(in_width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x)[:, None].chunk(3, dim=-1)
        return (v + self.proj(attend(q * self.scale, k, v)))[:, 0]


ATTENTIONS: dict[str, Callable[..., nn.Module]] = {
    "performer": partial(PerformerAttention, drop=TOKEN_DROP),
    "transformer": SoftmaxAttention,
}


def adapt(state: dict[str, Tensor], model: LocalT2T) -> dict[str, Tensor]:
    """The reference's names or ours; a position table of another image size gives way to this model's own."""
    unused = re.compile(r"tokens_to_token\.attention[12]\.norm2\.")
    state = {_rename(key): value for key, value in state.items() if not unused.match(key)}
    return t2t.adapt(state, model)


def _rename(key: str) -> str:
    """The reference keeps the Performer's weights beside the norm of their stage."""
    stage = re.match(r"tokens_to_token\.attention([12])\.", key)
    if stage is None:
        return key
    rest = key[stage.end() :]
    inner = "attn." if rest.startswith(("w", "kqv.", "proj.")) else ""
    return f"tokens_to_token.stages.{int(stage[1]) - 1}.{inner}{rest}"
