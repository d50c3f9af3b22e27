"""The part of an optimizer step that both stages share: the backward passes over its accumulation steps."""

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

import torch
import torch.nn as nn
from torch import Tensor

from . import ranks, seeds, sharding

Batch = TypeVar("Batch")
Shown = TypeVar("Shown")


class Trained(Protocol):
    """What a step changes, in either stage."""

    train_module: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler

    @property
    def device(self) -> torch.device: ...


def accumulate_step(
    train_state: Trained,
    batches: Iterable[Batch],
    forward: Callable[[Batch], tuple[Tensor, dict[str, Tensor], Shown]],
    *,
    count: int,
    key: tuple[int, int],
    dtype: torch.dtype | None,
) -> tuple[dict[str, Tensor], Shown]:
    """Sum the gradients of `count` batches, unscaled, into the parameters.

    forward: a batch -> its loss, numbers to average over the batches, and what to show of it. The result is the
    averages, the loss among them, and what there is to show of the last batch; all without gradients.
    train_state: its train_module is what forward calls and whose gradients the ranks average after the last batch.
    key: (seed, step), of which dropout and drop path are a function. dtype: of autocast, None for float32.
    """
    sums: dict[str, list[Tensor]] = {}
    module, optimizer, scaler = train_state.train_module, train_state.optimizer, train_state.scaler
    device, sharded = train_state.device.type, sharding.is_sharded(module)
    optimizer.zero_grad()
    for part, batch in enumerate(batches):
        seeds.reseed(*key, "drop", part * ranks.world_size() + ranks.rank())
        # Its cache would keep all weights of a network that is sharded because they are too many
        autocast = torch.autocast(device, dtype, dtype is not None, cache_enabled=not sharded)
        with ranks.reduce_gradients(module, last=part == count - 1), autocast:
            loss, numbers, shown = forward(batch)
            scaler.scale(loss / count).backward()
        for name, value in {"loss": loss, **numbers}.items():
            sums.setdefault(name, []).append(value.detach())
    scaler.unscale_(optimizer)
    means = {name: torch.stack(values).mean(0) for name, values in sums.items()}
    return means, shown
