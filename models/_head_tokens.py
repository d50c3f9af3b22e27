"""Head-interacted attention: Lu et al. 2022 (DHVT), arXiv 2210.05958, section 3.4.

Each head's part of the channels becomes one more token, through which the heads see each other. Where the paper's
equation 6 goes without it, the published code, followed here, has a LayerNorm before the GELU.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor

from ._attention import attend, merge_heads, split_qkv


class HeadTokenAttention(nn.Module):
    """Self-attention over N tokens and one head token per head; `heads` divides `width`."""

    def __init__(self, width: int, heads: int, qkv_bias: bool = True, drop: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        head_width = width // heads
        self.ht_proj = nn.Linear(head_width, width)
        self.ht_norm = nn.LayerNorm(head_width, eps=1e-5)  # DHVT's other norms have 1e-6
        self.pos_embed = nn.Parameter(torch.zeros(1, heads, width))
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)
        self.proj_drop = nn.Dropout(drop)
        trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, D), the class token first -> (B, N, D); the class token also gets the head tokens' mean."""
        tokens = torch.cat([x, self.head_tokens(x)], dim=1)
        q, k, v = split_qkv(self.qkv(tokens), self.heads)
        mixed = self.proj(merge_heads(attend(q, k, v)))
        cls, patches, heads = mixed.split([1, x.shape[1] - 1, self.heads], dim=1)
        cls = cls + heads.mean(1, keepdim=True)
        return self.proj_drop(torch.cat([cls, patches], dim=1))

    def head_tokens(self, x: Tensor) -> Tensor:
        """Tokens (B, N, D) -> head tokens (B, heads, D): the mean token's channels, head by head, widened to D."""
        groups = x.mean(1).unflatten(-1, (self.heads, -1))
        wide = self.ht_proj(groups).unflatten(-1, (self.heads, -1))
        tokens = F.gelu(self.ht_norm(wide)).flatten(2)
        return tokens + self.pos_embed
