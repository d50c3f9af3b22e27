"""Batch norms that see the batch of all ranks.

One collective a norm and pass, which cannot be fewer: what a norm sees is made by the norm before it.
"""

from typing import Any, TypeVar, cast

import torch
import torch.nn as nn
from timm.layers.norm_act import SyncBatchNormAct, convert_sync_batchnorm
from torch import Tensor
from torch.nn.modules._functions import SyncBatchNorm as Function

from . import ranks

M = TypeVar("M", bound=nn.Module)


def synchronise(module: M, device: torch.device) -> M:
    """The module with synchronised norms; torch has them for CUDA only, elsewhere each rank keeps its own."""
    if not ranks.has_group() or device.type != "cuda":
        return module
    # torch's own conversion would drop the activation of timm's batch norms
    module = convert_sync_batchnorm(module)
    for norm in module.modules():
        if type(norm) in KINDS:
            norm.__class__ = KINDS[type(norm)]
    return module


class SyncBatchNorm(nn.SyncBatchNorm):
    """torch's, which never waits for the device: torch's own looks for ranks without images, and here all have some."""

    def forward(self, input: Tensor) -> Tensor:
        """input: (B, C, ...)."""
        alone = ranks.world_size() == 1
        if alone or not (self.training and self.track_running_stats) or self.momentum is None:
            return super().forward(input)
        self._check_input_dim(input)
        cast(Tensor, self.num_batches_tracked).add_(1)
        return _Normalise.apply(
            input,
            self.weight,
            self.bias,
            self.running_mean,
            self.running_var,
            self.eps,
            self.momentum,
            ranks.everyone(),
            ranks.world_size(),
        )


class SyncBatchNormWithActivation(SyncBatchNormAct, SyncBatchNorm):
    """timm's, with torch's arithmetic replaced in the same way."""


KINDS: dict[type, type] = {
    nn.SyncBatchNorm: SyncBatchNorm,
    SyncBatchNormAct: SyncBatchNormWithActivation,
}


class _Normalise(Function):
    """torch's function; its backward pass stays."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        eps: float,
        momentum: float,
        group: Any,
        ranks_count: int,
    ) -> Tensor:
        if not input.is_contiguous(memory_format=torch.channels_last):
            input = input.contiguous()
        mean, inverse_std = torch.batch_norm_stats(input, eps)
        count = torch.full_like(mean[:1], input.numel() // input.shape[1])
        own = torch.cat([mean, inverse_std, count])
        every = ranks.gather_equal(own)
        means, inverse_stds, counts = every.split(input.shape[1], dim=1)
        mean, inverse_std = torch.batch_norm_gather_stats_with_counts(
            input,
            means,
            inverse_stds,
            running_mean,
            running_var,
            momentum,
            eps,
            counts.flatten().to(running_mean.dtype),
        )
        ctx.save_for_backward(input, weight, mean, inverse_std, counts.to(torch.int32))
        ctx.process_group = group
        return torch.batch_norm_elemt(input, weight, bias, mean, inverse_std, eps)
