"""Features of a set of images under a frozen network. C channels, H x W pixels, D width."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn


@torch.no_grad()
def features(
    network: nn.Module,
    images: Tensor | np.ndarray,
    transform: Callable[[Tensor], Tensor],
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    autocast: torch.dtype | None = None,
) -> Tensor:
    """uint8 images (N, C, H, W), a tensor or a memory map -> float32 features (N, D) on the device.

    `transform` turns a uint8 batch on the device into the network's input. The network, already on the device, runs in
    evaluation mode; every module gets its own mode back. N may be 0 if the network has `.dim`.
    """
    device = torch.device(device)
    parts = []
    with evaluating(network), torch.autocast(device.type, autocast, enabled=autocast is not None):
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            if not isinstance(batch, Tensor):
                batch = torch.from_numpy(np.array(batch))  # a copy: a memory map is read only
            parts.append(network(transform(batch.to(device, non_blocking=True))).float())
    return torch.cat(parts) if parts else torch.empty(0, network.dim, device=device)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, each module's own mode afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
