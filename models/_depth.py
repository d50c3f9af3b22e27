"""Stochastic depth: Huang et al. 2016, arXiv 1603.09382, for each image of a batch."""

from collections.abc import Callable

import torch
from timm.layers import DropPath
from torch import Tensor, nn


def residual(
    x: Tensor, branch: Callable[[Tensor], Tensor], drop: nn.Module, rows: int | None = None
) -> Tensor:
    """x[:, :rows] + drop(branch(x)) for tokens (B, N, D), drop being timm's DropPath or Identity; same draws, same sum.

    On a CPU the branch is computed for the images that keep it only: a rate of 0.1, linear over the blocks, saves a
    twentieth of the arithmetic. Elsewhere the number of them would have to come back from the device first.
    """
    drops = isinstance(drop, DropPath) and drop.training and drop.drop_prob > 0
    if not drops or x.device.type != "cpu" or torch.compiler.is_compiling():
        return x[:, :rows] + drop(branch(x))
    keep = 1 - drop.drop_prob
    kept = x.new_empty(len(x), 1, 1).bernoulli_(keep).flatten().nonzero().squeeze(1)
    scale = 1 / keep if drop.scale_by_keep and keep else 1
    added = branch(x.index_select(0, kept)).to(x.dtype)
    return x[:, :rows].index_add(0, kept, added, alpha=scale)
