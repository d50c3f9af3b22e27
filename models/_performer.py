"""Performer attention, linear in the number of tokens: Choromanski et al. 2021, arXiv 2009.14794, section 2.3.

One head, and frozen random features: the form of T2T-ViT's token stages (Yuan et al. 2021, arXiv 2101.11986).
"""

import math

import torch
import torch.nn as nn
from torch import Tensor

EPSILON = 1e-8  # keeps a row of features that underflowed from dividing by zero


class PerformerAttention(nn.Module):
    """Normalised tokens (B, N, in_width) -> (B, N, width): the values, plus what attention gathers of them.

    The skip starts at the values, since the widths differ. `w` (width / 2, width) is random, saved and never trained.
    """

    w: Tensor

    def __init__(self, in_width: int, width: int, drop: float = 0.0) -> None:
        super().__init__()
        self.kqv = nn.Linear(in_width, 3 * width)  # in this order
        self.proj = nn.Linear(width, width)
        self.drop = nn.Dropout(drop)
        self.register_buffer("w", orthogonal_features(width // 2, width))

    def forward(self, x: Tensor) -> Tensor:
        k, q, v = self.kqv(x).chunk(3, dim=-1)
        return v + self.drop(self.proj(linear_attention(q, k, v, self.w)))


def linear_attention(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    """phi(q) (phi(k)' v) / (phi(q) . sum of phi(k)): three times (B, N, d) -> (B, N, d), in float32."""
    with torch.autocast(q.device.type, enabled=False):
        w = w.float()
        q = positive_features(q.float(), w)
        k = positive_features(k.float(), w)
        gathered = q @ (k.transpose(1, 2) @ v.float())
        total = q @ k.sum(dim=1)[:, :, None]
        return gathered / (total + EPSILON)


def positive_features(z: Tensor, w: Tensor) -> Tensor:
    """phi(z) = exp(z w' - |z|^2 / 2) / sqrt(m): (B, N, d) and w (m, d) -> (B, N, m)."""
    half_norm = z.square().sum(-1, keepdim=True) / 2
    features = (z @ w.T - half_norm).exp()
    return features / math.sqrt(len(w))


def orthogonal_features(count: int, width: int) -> Tensor:
    """(count, width): random orthogonal rows of length sqrt(count), for count <= width."""
    rows = nn.init.orthogonal_(torch.empty(count, width))
    return rows * math.sqrt(count)
