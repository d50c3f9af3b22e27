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
    on_cpu = x.device.type == "cpu" and not torch.compiler.is_compiling()
    if not on_cpu or not isinstance(drop, DropPath) or not drop.training or not drop.drop_prob:
        return x[:, :rows] + drop(branch(x))
    keep = 1 - drop.drop_prob
    # As DropPath draws, so that the random numbers are the same.
    mask = x.new_empty(x.shape[0], 1, 1).bernoulli_(keep)
    kept = mask.flatten().nonzero().squeeze(1)
    scale = 1.0
    if drop.scale_by_keep and keep:
        scale = 1 / keep
    added = branch(x.index_select(0, kept))
    return x[:, :rows].index_add(0, kept, added.to(x.dtype), alpha=scale)
