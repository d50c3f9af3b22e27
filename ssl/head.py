"""The projection head: features (n, D) -> logits over K prototypes (n, K). Caron et al. 2021, appendix C.

An MLP with a bottleneck, rows scaled to length 1, then one weight-normalised layer whose rows are the prototypes.
"""

from itertools import pairwise

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor


class Head(nn.Module):
    """`layers` linear layers of width `hidden` down to `bottleneck`, then the prototypes."""

    def __init__(
        self,
        dim: int,
        prototypes: int,
        *,
        hidden: int = 512,
        bottleneck: int = 256,
        layers: int = 3,
        batch_norm: bool = False,
        norm_last_layer: bool = True,
    ):
        super().__init__()
        self.mlp = _mlp(dim, hidden, bottleneck, layers, batch_norm)
        self.last_layer = Prototypes(bottleneck, prototypes, trainable_gain=not norm_last_layer)

    def forward(self, features: Tensor) -> Tensor:
        return self.last_layer(F.normalize(self.mlp(features), dim=-1))


class Prototypes(nn.Module):
    """Linear layer without bias, its weight g * v / |v| by row (Salimans & Kingma 2016); g stays 1 unless trainable.

    Parameters are named weight_g (K, 1) and weight_v (K, D), as torch's first weight_norm and published files do.
    """

    def __init__(self, dim: int, prototypes: int, trainable_gain: bool = False):
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(prototypes, 1), requires_grad=trainable_gain)
        self.weight_v = nn.Parameter(nn.Linear(dim, prototypes, bias=False).weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight_g * F.normalize(self.weight_v, dim=-1))


def _mlp(dim: int, hidden: int, bottleneck: int, layers: int, batch_norm: bool) -> nn.Module:
    if layers == 1:
        return _linear(dim, bottleneck)
    widths = [dim] + [hidden] * (layers - 1)
    parts: list[nn.Module] = []
    for before, after in pairwise(widths):
        parts += [
            _linear(before, after),
            *([nn.BatchNorm1d(after)] if batch_norm else []),
            nn.GELU(),
        ]
    return nn.Sequential(*parts, _linear(hidden, bottleneck))


def _linear(before: int, after: int) -> nn.Linear:
    linear = nn.Linear(before, after)
    nn.init.trunc_normal_(linear.weight, std=0.02)
    nn.init.zeros_(linear.bias)
    return linear
